// kernels/pointwise/pointwise.h - element-wise work on runs of elements, and random draws. Outputs are written (=).
#ifndef KERNELS_POINTWISE_H
#define KERNELS_POINTWISE_H
#include "kernels/common/kernel.h"
// rows runs of c elements, ld elements from run to run. Dense tensors of one layout, and channel ranges of images: NHWC
// rows = n hw, runs of c channels; C16 rows = n, runs of c hw elements.
typedef struct { int64_t rows, c, lda, ldb, ldy; float alpha, beta; DType dtype, out; } PointwiseShape;
typedef struct { const void *a, *b; void *y; } PointwiseArgs;   // (rows,c) each
LAUNCHER(axpby, PointwiseShape, PointwiseArgs);           // y = alpha a + beta b; b NULL: scale, cast; y may be a or b
LAUNCHER(multiply, PointwiseShape, PointwiseArgs);        // y = a b
LAUNCHER(silu_forward, PointwiseShape, PointwiseArgs);    // y = silu(a)
LAUNCHER(silu_backward, PointwiseShape, PointwiseArgs);   // y = a silu'(b): a = dy, b = x
LAUNCHER(relu_forward, PointwiseShape, PointwiseArgs);    // y = a, or 0 where a <= 0; NaN stays
LAUNCHER(relu_backward, PointwiseShape, PointwiseArgs);   // y = a, or 0 where b <= 0: a = dy, b = x or relu(x)
LAUNCHER(fill, PointwiseShape, PointwiseArgs);            // y = alpha; reads nothing

// copies k of x meet kn rows of v: y image i = x image (i mod n) + v row i. dx: sum over the copies, in order.
typedef struct { int n, copies, hw, c; DType dtype; Layout layout; } AddChannelShape;
typedef struct { const void *x; const real *v; void *y; } AddChannelArgs;         // y (kn,hw,c) = x (n,hw,c) + v (kn,c)
LAUNCHER(add_channel_forward, AddChannelShape, AddChannelArgs);
typedef struct { const void *dy; void *dx; real *dv; } AddChannelGradArgs;        // dx (n,hw,c) or NULL; dv (kn,c)
LAUNCHER(add_channel_backward, AddChannelShape, AddChannelGradArgs);

typedef struct { int n, hw, c; DType dtype; Layout from, to; } RelayoutShape;        // dense (n,hw,c)
typedef struct { const void *x; void *y; } RelayoutArgs;
LAUNCHER(relayout, RelayoutShape, RelayoutArgs);

typedef struct { int64_t e; DType dtype; } MeanShape;
typedef struct { const void *x; real *y; } MeanArgs;
LAUNCHER(mean_forward, MeanShape, MeanArgs);              // y (1) = mean of x (e), in a fixed order
typedef struct { const real *dy; void *dx; } MeanGradArgs;
LAUNCHER(mean_backward, MeanShape, MeanGradArgs);         // dx (e) = dy / e

// Draws (kernels/common/rng.h): element counts in logical NHWC within the image, e = hw c of them.
// purpose: hash of the layer's parameter name, or one of these.
enum { PURPOSE_NOISE = 1, PURPOSE_TIME = 2, PURPOSE_LABEL = 3, PURPOSE_LABEL_DROP = 4, PURPOSE_SAMPLER = 5,
       PURPOSE_FLIP = 6, PURPOSE_INIT = 7, PURPOSE_SHUFFLE = 8, PURPOSE_PROBE = 9, PURPOSE_NAMED = 256 };
typedef struct { int n, hw, c; uint32_t purpose, p16; DType dtype; Layout layout; } RandomShape;  // p16: round(65536 p)
typedef struct {
    const uint32_t  *sample;      // (n): index in the global batch, or the image's own seed; second CBDM half: + 2^31
    const StepState *state;
    const void      *x;           // (n,hw,c)
    void            *y;           // (n,hw,c)
    uint8_t         *mask;        // bit i, low first: element i, as stored, is kept; or NULL
} RandomArgs;
LAUNCHER(randn, RandomShape, RandomArgs);      // y ~ N(0,1), the same bits on every backend but ref64; reads no x
LAUNCHER(dropout, RandomShape, RandomArgs);    // y = x keep / (1 - p), p = p16 / 65536; its backward is the same on dy
#endif
