// eval/pairs.h - what is computed from all pairs of feature vectors, in blocks: never an N x N matrix.
#ifndef EVAL_PAIRS_H
#define EVAL_PAIRS_H
#include "eval/features.h"
EXTERN_C_BEGIN
// Rows of a table: idx (n) or NULL for the first n.
typedef struct { const Features *f; const int64_t *idx; int64_t n; } Rows;
// KID's kernel (x.y / dim + 1)^3 (Binkowski et al. 2018), sums in double; products in double too up to 2e9 of numbers,
// beyond that in float (KID of two sets of 5,000 x 2048 then differs by 2e-9 of itself). NaN for fewer than 2 rows.
double kid_full(Rows a, Rows b);                     // unbiased, over all pairs
// mean and standard deviation (ddof 0) over `subsets` pairs of subsets of `size` rows without repeats, numpy's
// RandomState(seed).choice as torch-fidelity draws them.
double kid_subsets(Rows a, Rows b, int subsets, int64_t size, uint32_t seed, double *stddev);
// Kynkaanniemi et al. 2019; Naeem et al. 2020. Radius: distance to the k-th nearest other row (a row's distance to
// itself is exactly 0). strict: inside means d < r, else d <= r. Decided as in double, also where the bulk of the work
// is done in float. Several k in one pass; NaN where a set has no k-th other row.
typedef struct { double precision, recall, density, coverage; } Prdc;
void   prdc(Rows ref, Rows gen, const int *k, int n_k, bool strict, Prdc *out);
// KID and PRDC together, each product of two rows computed once where both need it. kid, out: NULL if not wanted.
void   pairs_all(Rows ref, Rows gen, const int *k, int n_k, bool strict, double *kid, Prdc *out);
// For each row of `query` the nearest rows of `base`: where (query.n,count) positions in base, distance (query.n,count)
// L2, ascending; ties by position. Rows that are one and the same (query and base share f and index) count too. Where
// base has fewer rows: -1 and INFINITY.
void   nearest_rows(Rows query, Rows base, int count, int64_t *where, double *distance);
EXTERN_C_END
#endif
