// eval/bootstrap.h - how far a metric would move with other samples: percentile intervals over resampled rows.
#ifndef EVAL_BOOTSTRAP_H
#define EVAL_BOOTSTRAP_H
#include "eval/pairs.h"
EXTERN_C_BEGIN
typedef struct { double value, low, high; } Interval;             // low, high: 2.5% and 97.5% of resamples, or NaN
// Both sides are drawn anew with repeats, `resamples` times. Same seed, same draws.
//
// KID: each resample's estimate is over pairs of different rows, the copies of one row not being pairs:
//   sum_{i != j} w_i w_j k(x_i, x_j) / (n^2 - sum_i w_i^2),  w_i: how often row i was drawn,
// so that repeats do not bias it. Exact, from blocks of the kernel matrix, each computed once for all resamples.
Interval bootstrap_kid(Rows ref, Rows gen, int resamples, uint64_t seed);
double   bootstrap_kid_cost(int64_t n_ref, int64_t n_gen, int dim, int resamples);    // operations
// FID: repeats make a resample's covariance poorer and its FID higher, by about as much as n samples bias the FID
// itself. The percentiles are moved down by that: low = value - (mean of resamples) + 2.5% of resamples. by_rows: the
// route. Not below 0.
Interval bootstrap_fid(Rows ref, Rows gen, double value, bool by_rows, int resamples, uint64_t seed);
double   bootstrap_fid_cost(int64_t n_ref, int64_t n_gen, int dim, bool by_rows, int resamples);
// The numbers of the resamples one by one, x (resamples): NaN where a resample has none. The draws are a function of
// seed and numbers of rows alone, so that two sets of as many samples can be compared resample by resample.
// kid_of_resamples returns the estimate itself.
double   kid_of_resamples(Rows ref, Rows gen, int resamples, uint64_t seed, double *x);
void     fid_of_resamples(Rows ref, Rows gen, bool by_rows, int resamples, uint64_t seed, double *x);
// Position of the row that is drawn as the i-th of n of a resample's generated side.
int64_t  resampled_row(uint64_t seed, int resample, int64_t i, int64_t n);
// Value at share p of x (n) sorted ascending, linear between neighbours.
double   percentile(const double *x, int n, double p);
EXTERN_C_END
#endif
