// eval/distribution_impl.h - k-means of two sets together, for PRD.
#ifndef EVAL_DISTRIBUTION_IMPL_H
#define EVAL_DISTRIBUTION_IMPL_H
#include "eval/distribution.h"
#include "eval/pairs_impl.h"
EXTERN_C_BEGIN
// Points 0..n-1: the rows of the first set, then those of the second.
typedef struct { PairSpace s; PairSide side[2]; int64_t n; } Cloud;
void cloud_make(PairsKind kind, Rows a, Rows b, Cloud *c);
void cloud_free(Cloud *c);
// k-means++ (Arthur and Vassilvitskii 2007): centres->x (clusters,dim) and centres->n are written; fewer than clusters
// where there are fewer different points.
void kmeans_seed(const Cloud *c, int clusters, uint64_t seed, Features *centres);
// From kmeans_seed, Lloyd's iterations until one moves at most a hundredth of the points to another cluster (which
// moves no precision or recall of PRD by more than 0.01; going on to a thousandth moved F by a fifth of what another
// seed does), at most 100. of (n): each point's cluster. Returns how many clusters there are: fewer than asked for
// where there are fewer different points. iterations: of Lloyd, NULL if not wanted. An empty cluster keeps its centre.
// Cost: an iteration is at most n x clusters x dim multiplications in float, 4e10 for 100,000 x 200 x 2048 (a second of
// one core), 4e11 for 2,000 clusters; ten or so iterations; the seeds cost as much as one. Memory beside the rows: two
// tables of centres, 100 bytes a point, the buffers of pair_threads.
int  kmeans(const Cloud *c, int clusters, uint64_t seed, int32_t *of, int *iterations);
EXTERN_C_END
#endif
