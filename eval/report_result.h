// eval/report_result.h - a result file (eval/README.md) in memory, every member checked.
#ifndef EVAL_REPORT_RESULT_H
#define EVAL_REPORT_RESULT_H
#include "eval/groups.h"
#include "eval/report_json.h"
EXTERN_C_BEGIN
// Whatever the file does not hold is NaN (numbers), NULL (texts, lists) or -1 (counts).
typedef struct { double value, low, high; } Estimate;            // low, high: a bootstrap interval
enum { PR_PRECISION, PR_RECALL, PR_DENSITY, PR_COVERAGE, PR_COUNT };
typedef struct {
    double   n_gen, n_ref;
    Estimate fid, kid;
    double   pr3[PR_COUNT], pr5[PR_COUNT], prd_f8, prd_f1_8, mind, is_mean;
} ResultRow;
// One number for each class, each group, and all together: label fidelity, classification accuracy score, downstream.
typedef struct { double *per_class, per_group[GROUP_COUNT], all; } ResultShares;     // per_class (classes) or NULL
typedef struct { const char *train, *loss; ResultShares top1; } ResultDownstream;
typedef struct { int label; int64_t sample, train; double distance; } ResultPair;
typedef struct {
    char        *path;
    Json        *json;                                           // all below that is text points into it
    const char  *protocol, *title, *extractor, *extractor_sha256, *source, *checkpoint, *sampler;
    const char  *reference, *split, *digest, *rule, *classifier;
    double       count, ref_count, step, omega, steps, seed;
    char        *options;                                        // as JSON text, "" where absent
    char        *measured;                                       // those of them that numbers depend on
    int          classes;                                        // 0: no table per class
    const char **class_names;                                    // (classes); "" where the file has none
    double      *train_counts;                                   // (classes) or NULL
    int         *group_of;                                       // (classes) or NULL: no groups; -1: in none
    ResultRow    all, *per_class, per_group[GROUP_COUNT];        // per_class (classes) or NULL
    ResultShares fidelity, cas;
    double      *fidelity_real, *borrowed, *copy_rate, *copy_rate_real, *diversity, *diversity_real;
                                                                 // each (classes) or NULL
    double      *confusion;                                      // (classes,classes) or NULL
    double       copy_all, copy_threshold;
    ResultPair  *pairs; int n_pairs;
    ResultDownstream *downstream; int n_downstream;
    const char **warnings; int n_warnings;
} Result;
Result *result_parse(const char *text, size_t n, const char *where, Error *err);     // NULL: *err
Result *result_read(const char *path, Error *err);
void    result_free(Result *r);                                  // NULL is fine
bool    same_number(double a, double b);                         // NaN is the same as NaN
// Why the numbers of two results may not stand in one table ("the protocol: tf and clean"), or NULL; caller frees.
char   *result_differs(const Result *a, const Result *b);
// What every number of the result is measured by, in a sentence; caller frees.
char   *result_protocol(const Result *r);
EXTERN_C_END
#endif
