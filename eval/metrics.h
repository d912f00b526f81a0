// eval/metrics.h - all metrics of two tables of features: overall, for each class, for many, medium and few.
#ifndef EVAL_METRICS_H
#define EVAL_METRICS_H
#include "eval/distribution.h"
#include "eval/frechet.h"
#include "eval/groups.h"
EXTERN_C_BEGIN
typedef struct {
    bool        strict;                          // of precision, recall, density, coverage
    bool        kid_subsets;                     // 100 subsets of min(1000, n) instead of all pairs
    int         splits; bool shuffle;            // of the Inception Score
    int         prd_clusters, prd_runs;          // 0 clusters: 20 for each class
    int         mind_directions;
    int         bootstrap;                       // resamples for intervals; 0: none
    uint64_t    seed;
    int         classes;                         // of labels; 0: no table per class
    const int  *group_of;                        // (classes), or NULL: no groups
    const Gaussian *ref_gaussian;                // instead of reference features: FID alone
} MetricOptions;
extern const MetricOptions metric_options;       // the published CBDM settings
typedef struct { double value, low, high; } Interval;             // low, high: 2.5% and 97.5% of resamples, or NaN
// What is not computed is NaN: written as null, printed as "-".
typedef struct {
    int64_t  n_gen, n_ref;
    bool     by_rows;                            // FID by the nuclear norm of few rows
    Interval fid, kid;
    Prdc     pr3, pr5;
    double   is_mean, is_std, mind;
    Prd      prd;
} MetricRow;
typedef struct { MetricRow all, *by_class, by_group[GROUP_COUNT]; int classes; bool grouped; } Metrics;
void  metrics_compute(const Features *gen, const Features *ref, const MetricOptions *o, Metrics *out);
void  metrics_free(Metrics *m);
// The members of a result's JSON (see eval/README.md) that are metrics: "fid": ..., "per_class": [...], without the
// braces around; caller frees. Table: to f, warnings about few samples below it.
char *metrics_json(const Metrics *m, const MetricOptions *o);
void  metrics_print(const Metrics *m, const char *const *class_names, FILE *f);
int   metrics_main(int argc, char **argv);       // cbdm eval metrics
EXTERN_C_END
#endif
