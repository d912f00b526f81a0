// kernels/conv2d/conv2d_up.h - nearest upsampling by two and a 3x3 convolution (stride 1, padding 1) in one call.
//
// An output row p = 2 h + a sees rows p-1, p, p+1 of the upsampled image, but only two rows of x: taps that meet the
// same row are added before they are multiplied, and rows outside meet zeros either way. With the folded filter
//   g[v,u,k,c] = sum of w[k,r,s,c] over r in {2-v, 3-v}, s in {2-u, 3-u}, as far as the filter goes     v, u = 0..3
// y is the transposed convolution of x with g, stride 2 and padding 1, four taps to an output instead of nine:
//   y[i,p,q,k]  = bias[k] + sum over v,u,c of x[i,h,w,c] g[v,u,k,c]      where 2 h - 1 + v = p, 2 w - 1 + u = q
//   dx[i,h,w,c] = sum over v,u,k of dy[i, 2 h - 1 + v, 2 w - 1 + u, k] g[v,u,k,c]
//   dw[k,r,s,c] = sum over i,p,q of dy[i,p,q,k] x[i, (p + r - 1) / 2, (q + s - 1) / 2, c], rounded down, inside x
//               = sum of dg[v,u,k,c] over v in {2-r, 3-r}, u in {2-s, 3-s}
//   dg[v,u,k,c] = sum over i,h,w of dy[i, 2 h - 1 + v, 2 w - 1 + u, k] x[i,h,w,c]
#ifndef KERNELS_CONV2D_UP_H
#define KERNELS_CONV2D_UP_H
#include "kernels/conv2d/conv2d.h"

typedef struct {
    int n, h, w;                  // images and size of x; y is (2h,2w)
    int c, k;                     // channels of x, y
    int ldx, ldy;                 // elements from pixel to pixel; dense: channels
    unsigned use;                 // CONV_BIAS or 0
    DType dtype, out;             // of x, dx, w; of y and dy
    Layout lx, ly;                // of x and dx; of y and dy
} Conv2dUpShape;

typedef struct {
    const void *x;                // (n,h,w,c)
    const void *w;                // (k,3,3,c)
    const real *bias;             // (k); NULL without CONV_BIAS
    const void *dy;               // (n,2h,2w,k)
    void       *y;                // (n,2h,2w,k)
    void       *dx;               // (n,h,w,c)
    real       *dw, *dbias;       // (k,3,3,c), (k); NULL: not wanted
    bool        accumulate;       // dw and dbias: true +=, false =
} Conv2dUpArgs;

enum { CONV_UP_TAPS = 4 };        // rows and columns of g

// How much larger the rounding error of conv2d_up_winograd_cpu.c may be than that of a direct sum, derived as in
// conv2d.h: at most CONV_WINOGRAD_AMPLIFICATION. forward: in one dimension the squares grow by 33.4 where the direct
// sum has 3, so S/9 = 3.71; 21 roundings of the transforms beside those of c >= 32 channels: times 1.29: 4.8.
// backward_input: 40 where the direct sum has 6 terms; 4 k terms: 2 S/36 = 2.23; 22 roundings beside 4 k >= 64: times
// 1.16: 2.6. backward_weight: 49.3 where a tile of the direct sum has 8: S/64 = 0.77; 27 roundings beside those of at
// least 2 tiles: times 3.81: 3.0. Images that end inside a tile have fewer terms on both sides: forward and
// backward_input are no worse, backward_weight is at 2 rows, the worst from there on, 1.20 times 3.81: 4.6.

// Rounding points, defined by ref: g, a sum in float, once to dtype; the whole sum in the accumulator; y once to out.
LAUNCHER(conv2d_up_forward, Conv2dUpShape, Conv2dUpArgs);
// Reads dy, w. g once to dtype, dx once to dtype. dx: =.
LAUNCHER(conv2d_up_backward_input, Conv2dUpShape, Conv2dUpArgs);
// Reads dy, x. Nothing is rounded before dw. Sums in a fixed order. dw, dbias: = or +=.
LAUNCHER(conv2d_up_backward_weight, Conv2dUpShape, Conv2dUpArgs);

// The 4x4 convolution of stride 2 from (n,2h,2w,k) to (n,h,w,c) whose filter is g as (c,4,4,k): its input gradient is y
// without bias, its output from dy is dx, and the gradient of its filter is dg. Here x and dy change places.
static inline Conv2dShape conv2d_up_transposed(const Conv2dUpShape *z) {
    Conv2dShape t = {};
    t.n = z->n, t.h = 2 * z->h, t.w = 2 * z->w, t.p = z->h, t.q = z->w, t.c = z->k, t.k = z->c;
    t.r = t.s = CONV_UP_TAPS, t.stride = 2, t.pad_h = t.pad_w = 1;
    t.ldx = z->ldy, t.ldy = z->ldx, t.lx = z->ly, t.ly = z->lx;
    t.dtype = z->out, t.out = z->dtype;          // g is stored in the type of y
    return t;
}
#endif
