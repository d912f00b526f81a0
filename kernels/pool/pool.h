// kernels/pool/pool.h - the largest or the mean of windows of pixels, and the mean of all pixels. Outputs: =.
#ifndef KERNELS_POOL_H
#define KERNELS_POOL_H
#include "kernels/common/kernel.h"
// p = (h + 2 pad - window) / stride + 1, q likewise; 2 pad <= window, so that every window meets the image. A tap is a
// place of a window, row-major; window^2 <= 256. Dense: a blocked image is a batch of n c/16 images of 16 channels.
typedef struct { int n, h, w, c, p, q, window, stride, pad; bool largest; DType dtype; } PoolShape;
typedef struct {
    const void *x;           // (n,h,w,c)
    void       *y;           // (n,p,q,c)
    uint8_t    *tap;         // (n,p,q,c): which tap is the largest, for the backward pass; NULL for means, or unwanted
} PoolForwardArgs;
// Largest: the first of equal taps; outside the image lies minus infinity; NaN is larger than all else.
// Mean: the sum of the taps inside the image, row by row, over how many they are.
LAUNCHER(pool_forward, PoolShape, PoolForwardArgs);
typedef struct {
    const void    *dy;       // (n,p,q,c)
    const uint8_t *tap;      // of the forward pass; NULL for means
    void          *dx;       // (n,h,w,c): sums over the windows that meet a pixel, in their row-major order
} PoolBackwardArgs;
LAUNCHER(pool_backward, PoolShape, PoolBackwardArgs);

// y (n,c) = the mean over hw pixels; dx (n,hw,c) = dy / hw
typedef struct { int n, hw, c, ldx; DType dtype; Layout layout; } PoolAllShape;      // dtype, layout: of x and dx
typedef struct { const void *x; real *y; } PoolAllForwardArgs;
LAUNCHER(pool_all_forward, PoolAllShape, PoolAllForwardArgs);
typedef struct { const real *dy; void *dx; } PoolAllBackwardArgs;
LAUNCHER(pool_all_backward, PoolAllShape, PoolAllBackwardArgs);
#endif
