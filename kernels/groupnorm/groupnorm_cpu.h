// kernels/groupnorm/groupnorm_cpu.h - what the host's group normalizations share: the numbers of a group.
#ifndef KERNELS_GROUPNORM_CPU_H
#define KERNELS_GROUPNORM_CPU_H
#include "kernels/groupnorm/groupnorm.h"

// Channels that hold whole groups, and whole blocks of 16 where 16 divides c.
int  groupnorm_unit(const GroupNormShape *z);
// Means and sums of squared deviations of groups g0..g1-1 from those of every channel of an image, stats (c,2).
void groupnorm_sums_given(const GroupNormShape *z, const float *stats, int g0, int g1, double *mean, double *square);
// rstd, scale and shift of groups g0..g1-1 of image i, whose means are in a->mean; square: of each group from g0 on.
void groupnorm_finish_moments(const GroupNormShape *z, const GroupNormForwardArgs *a, int i, int g0, int g1,
                              const double *square);
// Means over the elements of groups g0..g1-1 of gamma g and of gamma g xhat, from ab (c,2): their sums over the pixels
// of an image, before gamma.
void groupnorm_gradient_means(const GroupNormShape *z, const float *gamma, const float *ab, int g0, int g1,
                              float *mean_a, float *mean_b);
// dgamma and dbeta where wanted, from ab (n,c,2).
void groupnorm_parameter_gradients(const GroupNormShape *z, const GroupNormBackwardArgs *a, const float *ab);
#endif
