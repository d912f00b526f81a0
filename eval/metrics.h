// eval/metrics.h - all metrics of two tables of features: overall, for each class, for many, medium and few.
#ifndef EVAL_METRICS_H
#define EVAL_METRICS_H
#include "eval/bootstrap.h"
#include "eval/distribution.h"
#include "eval/frechet.h"
#include "eval/groups.h"
EXTERN_C_BEGIN
enum { METRIC_FID = 1, METRIC_KID = 2, METRIC_PRDC = 4, METRIC_IS = 8, METRIC_PRD = 16, METRIC_MIND = 32 };
extern const char *const metric_names[];         // "fid", "kid", "prdc", "is", "prd", "mind", NULL: bit i is name i
typedef struct {
    bool        strict;                          // of precision, recall, density, coverage
    bool        kid_subsets;                     // 100 subsets of min(1000, n) instead of all pairs
    int         splits; bool shuffle;            // of the Inception Score
    int         prd_clusters, prd_runs;          // 0 clusters: 20 for each class, as CBDM
    int         mind_directions;
    int         bootstrap;                       // resamples for intervals; 0: none
    double      bootstrap_cost;                  // intervals that cost more operations than this are left out
    uint64_t    seed;
    unsigned    skip;                            // METRIC_*
    int         classes;                         // of labels; 0: no table per class
    const int  *group_of;                        // (classes), or NULL: no groups
    const Gaussian *ref_gaussian;                // instead of reference features: FID alone
} MetricOptions;
extern const MetricOptions metric_options;       // as published; PRD with 20 clusters, 200 resamples
// What is not computed is NaN: written as null, printed as "-".
typedef struct {
    int64_t  n_gen, n_ref;
    bool     by_rows;                            // FID by the nuclear norm of few rows
    Interval fid, kid;
    double   kid_std;                            // over the subsets; NaN without
    Prdc     pr3, pr5;
    double   is_mean, is_std, mind;
    Prd      prd;
} MetricRow;
typedef struct {
    MetricRow all, *by_class, by_group[GROUP_COUNT];
    int       classes, dim;
    bool      grouped;
    double    per_class_fid_mean;                // over the classes that have one; NaN without
    char    **warnings;
    int       n_warnings;
} Metrics;
// Labels, where options ask for classes, lie in 0..classes-1 on both sides (metrics_check says so). ref: NULL with
// ref_gaussian.
void  metrics_compute(const Features *gen, const Features *ref, const MetricOptions *o, Metrics *out);
bool  metrics_check(const Features *gen, const Features *ref, const MetricOptions *o, Error *err);
// Bits of a list of metric_names, "kid,prd", set in *skip. False: *err names --skip and the word.
bool  metrics_skip(const char *text, unsigned *skip, Error *err);
// One more line for the list of warnings, which is printed and written to the JSON.
void  metrics_warn(Metrics *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void  metrics_free(Metrics *m);
// The members of a result's JSON (see eval/README.md) that are metrics, from "options" to "warnings". The table goes to
// f, the warnings below it; class_names: NULL for numbers.
void  metrics_json(const Metrics *m, const MetricOptions *o, JsonText *j);
void  metrics_print(const Metrics *m, const MetricOptions *o, const char *const *class_names, FILE *f);
int   metrics_main(int argc, char **argv);       // cbdm eval metrics
EXTERN_C_END
#endif
