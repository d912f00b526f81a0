// kernels/conv2d/conv2d_cpu.h - what the host's weight gradients share: the gradients of bias and temb.
#ifndef KERNELS_CONV2D_CPU_H
#define KERNELS_CONV2D_CPU_H
#include "kernels/conv2d/conv2d.h"

// Bytes of the sums over pixels (n,k), a multiple of 256: the first part of backward_weight's scratch.
size_t conv2d_sums_bytes(const Conv2dShape *z);
// a->dtemb =, a->dbias = or += by a->accumulate, where not NULL. sums: conv2d_sums_bytes, undefined before and after.
void   conv2d_bias_gradients(const Conv2dShape *z, const Conv2dArgs *a, float *sums);
#endif
