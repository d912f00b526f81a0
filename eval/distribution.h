// eval/distribution.h - Inception Score, PRD and MIND.
#ifndef EVAL_DISTRIBUTION_H
#define EVAL_DISTRIBUTION_H
#include "eval/pairs.h"
EXTERN_C_BEGIN
// exp(mean_i KL(p_i | mean p)) over `splits` parts (Salimans et al. 2016), in double, 0 log 0 = 0; mean and standard
// deviation (ddof 0); NaN where a part has no row. Contiguous parts i n / splits, as the published CBDM code takes
// them; shuffle: rows are permuted first by numpy's RandomState(2020), as torch-fidelity does. idx: rows of probs, or
// NULL.
double inception_score(const Features *f, const int64_t *idx, int64_t n, int splits, bool shuffle, double *stddev);
// Sajjadi et al. 2018: k-means (k-means++ start, full Lloyd iterations) of both sets together, `runs` times with seeds
// seed, seed + 1, ...; precision and recall at `angles` slopes averaged over the runs; the largest F_8 and F_1/8, and
// the standard deviation of each over the runs.
typedef struct { double f8, f1_8, f8_std, f1_8_std; } Prd;
Prd    prd(Rows ref, Rows gen, int clusters, int runs, int angles, uint64_t seed);
// The second half alone, from two histograms over the same bins, each of sum 1.
Prd    prd_of_histograms(const double *ref, const double *gen, int bins, int angles);
// 3 dim times the mean squared difference of sorted projections on `directions` random unit vectors (arXiv 2605.06797).
// Sets of different size: a seeded subset of the larger one.
double mind(Rows a, Rows b, int directions, uint64_t seed);
EXTERN_C_END
#endif
