// eval/report_entries.h - what a table has lines for: an arm at one setting of the sampler, measured in one way, with a
// result for each seed; and the metrics that it has columns for.
#ifndef EVAL_REPORT_ENTRIES_H
#define EVAL_REPORT_ENTRIES_H
#include "eval/report_run.h"
#include "eval/report_stats.h"
EXTERN_C_BEGIN
typedef struct {
    int            arm, family;       // family: results whose numbers may stand side by side (result_differs)
    char          *label;             // "cbdm-tau1, omega=1.5", with the Greek letter
    double         omega, steps, step;
    const char    *sampler;
    int            n;
    const Run    **run;               // (n), by seed
    const Result **result;            // (n)
} Entry;
typedef struct { int n, families; Entry *entry; const Result **family; } EntrySet;  // family (families): one of each
// omegas (n_omegas): only results of these; 0: all. False: no result is of one of them, or two results of one run
// cannot be told apart.
bool entries_of(const RunSet *s, const double *omegas, int n_omegas, EntrySet *out, Error *err);
void entries_free(EntrySet *e);

// Where a number stands: for all images, a group, a class.
typedef enum { OF_ALL, OF_GROUP, OF_CLASS } WhereKind;
typedef struct { WhereKind kind; int index; } Where;
const char *where_name(Where w, const Result *r);                // "all", "many", the class's name
typedef enum { BETTER_LOWER = -1, BETTER_NEITHER, BETTER_HIGHER } Better;
typedef struct {
    const char *name;                 // of --metric, of a column of CSV: "recall"
    const char *title, *latex;        // of a column
    Better      better;
    double      scale;                // what the number is shown as: times this
    int         id;
    bool        share;                // from 0 to 1
} Metric;
extern const Metric metrics_known[];
extern const int    n_metrics_known;
const Metric *metric_find(const char *name);                     // NULL: none
Estimate metric_value(const Metric *m, const Result *r, Where w);       // not scaled; NaN: the result has none
bool     metric_present(const Metric *m, const EntrySet *e, int family, Where w);   // in any result of the family
// One number of an entry. interval: where low and high come from.
typedef enum { INTERVAL_NONE, INTERVAL_SEEDS, INTERVAL_BOOTSTRAP } IntervalKind;
typedef struct { int n; double mean, low, high; IntervalKind interval; bool complete; } Cell;
Cell cell_of(const Entry *e, const Metric *m, Where w);
// a - b: paired over the seeds that both have (at least 2), else Welch's, else n 0.
typedef enum { TEST_NONE, TEST_PAIRED, TEST_WELCH, TEST_BOOTSTRAP } TestKind;
MeanInterval entry_difference(const Entry *a, const Entry *b, const Metric *m, Where w, TestKind *test);
EXTERN_C_END
#endif
