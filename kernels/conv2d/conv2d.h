// kernels/conv2d/conv2d.h - two-dimensional convolution (cross-correlation), NHWC or C16 x KRSC, and its fused forms.
#ifndef KERNELS_CONV2D_H
#define KERNELS_CONV2D_H
#include "kernels/common/kernel.h"

// The optional parts in use, known before memory is placed: can() and scratch() decide by them.
enum {
    CONV_X2 = 1, CONV_BIAS = 2, CONV_TEMB = 4, CONV_RESIDUAL = 8, CONV_SHORTCUT = 16, CONV_NORM = 32, CONV_MASK = 64,
    CONV_STATS = 128, CONV_SUMS = 256,
};
typedef struct {
    int n, h, w, p, q;            // images; input and output size. What p and q reach past the input is zero
    int c, c2, k;                 // channels of x, x2 (0: one source), y. The filter has c + c2
    int r, s, stride, pad_h, pad_w;
    int cs, cs2;                  // channels of the 1x1 shortcut's sources xs, xs2 (0: none), at y's resolution
    int ldx, ldx2, ldy, ldr, lds, lds2;   // elements from pixel to pixel: x, x2, y, residual, xs, xs2; dense: channels
    int groups;                   // CONV_SUMS: groups of mean and rstd
    unsigned use;                 // CONV_*; bit set <=> argument not NULL
    float keep_scale;             // CONV_MASK: 1 / (1 - p), p rounded to 1/65536
    DType dtype, out;             // of x, x2, xs, residual, weights; of y and dy
    Layout lx, ly;                // of x, x2, dx, dx2, add, mask; of y, dy, residual, xs, xs2
} Conv2dShape;

// NULL: absent. Gradients have the shape and stride of what they are gradients of.
typedef struct {
    const void  *x, *x2;          // (n,h,w,c), (n,h,w,c2): the concat [x, x2], which is never stored
    const void  *w;               // (k,r,s,c+c2)
    const real *bias;            // (k); backward_input: (c+c2)
    const real *temb;            // (n,k)
    const void  *residual;        // (n,p,q,k)
    const void  *xs, *xs2, *ws;   // (n,p,q,cs), (n,p,q,cs2), (k,cs+cs2): the shortcut, extra terms of the same sum
    const real *scale, *shift;   // (n,c+c2): the convolution reads  a = drop(silu(u)),  u = x * scale + shift
    const uint8_t *mask;          // bit i, low first: element i of dense (n,h,w,c+c2), as stored, is kept, * keep_scale
    const real *mean, *rstd;     // (n,groups): backward_input with sums, xhat = (x - mean) * rstd
    const void  *dy;              // (n,p,q,k)
    const void  *add;             // (n,h,w,c+c2), dense: backward_input adds it to the finished gradient
    void        *y;               // (n,p,q,k)
    real        *stats;           // (n,k,2): mean over p*q and sum of squared deviations, of y as stored
    void        *dx, *dx2;        // gradient of u if scale is given, else of x: times mask, keep_scale, silu'(u);
                                  // then plus add and bias
    real        *sums;            // (n,c+c2,2): sums over h*w of du and of du * xhat, du before rounding
    real        *dw, *dbias;      // (k,r,s,c+c2), (k)
    real        *dtemb;           // (n,k): sum of dy over p*q
    bool         accumulate;      // dw and dbias: true +=, false =
} Conv2dArgs;

// How much larger the rounding error of F(4x4,3x3) may be than that of a direct sum: tests multiply their bound by it.
// One output is A'[sum over channels of (G g G') * (B d B')]A at the points 0, +-5/8, +-3/2, infinity. Take filter and
// image entries as independent with variance 1, and an error of u sqrt(terms) sqrt(sum of squares) for each sum, as in
// the direct bound. In one dimension the squares grow by S = max_i sum_t A[t,i]^2 |G[t]|^2 |B[t]|^2 = 24.5 where the
// direct sum has 3, so that c channels give u c S in two dimensions and u 9 c directly: S/9 = 2.7. The three transforms
// add 25 roundings to the c of the sum: times sqrt(1 + 25/c), at most 1.6 from 16 channels on: 4.4. The weight gradient
// has S = max_j sum_t G[t,j]^2 |A[t]|^2 |B[t]|^2 = 26.2 where a tile of the direct sum has 4: S/16 = 1.7, and 27
// roundings beside those of at least 4 tiles: times 2.8: 4.6. Both are below
#define CONV_WINOGRAD_AMPLIFICATION 5.0

// y = conv(a, w) + bias + temb + residual + shortcut. Rounding points, defined by ref: a once to dtype; the whole sum
// in the accumulator; y once to out. Written: y, stats.
LAUNCHER(conv2d_forward, Conv2dShape, Conv2dArgs);
// Reads dy, w; for the epilogue x, x2, scale, shift, mask, mean, rstd, add, bias. Rounds once, to dtype. dx, dx2,
// sums: =. With a bias it is the forward pass of a transposed convolution.
LAUNCHER(conv2d_backward_input, Conv2dShape, Conv2dArgs);
// Reads dy, and x, x2 through the same prologue; a once to dtype. Sums in a fixed order. dw, dbias: = or +=; dtemb: =.
// The shortcut's gradient is a call of its own with r = s = 1.
LAUNCHER(conv2d_backward_weight, Conv2dShape, Conv2dArgs);
#endif
