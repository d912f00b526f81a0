// kernels/conv2d/conv2d_prologue.cuh - the norm prologue as a pass of its own: the activated input goes to scratch.
#ifndef KERNELS_CONV2D_PROLOGUE_CUH
#define KERNELS_CONV2D_PROLOGUE_CUH
#include "kernels/conv2d/conv2d.cuh"

// a (n,h,w,c+c2) = drop(silu(x * scale + shift)), rounded to dtype. A thread per quad.
template <typename E> static __global__ void __launch_bounds__(256)
conv_activate_kernel(Conv2dShape z, Conv2dArgs a, void *to, int64_t quads) {
    int c = z.c + z.c2, per_pixel = (c + 3) / 4;
    int64_t item = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (item >= quads) return;
    int64_t pixel = item / per_pixel;
    int first = (int)(item % per_pixel) * 4, count = c - first;
    int64_t row = pixel / (z.h * z.w) * c + first;
    float4 v = load_concat<E>(z, a, pixel, first, count);
    if (a.scale) {
        float4 scale = load_reals<E>(a.scale, row, count), shift = load_reals<E>(a.shift, row, count);
        v = make_float4(silu(fmaf(v.x, scale.x, shift.x)), silu(fmaf(v.y, scale.y, shift.y)),
                        silu(fmaf(v.z, scale.z, shift.z)), silu(fmaf(v.w, scale.w, shift.w)));
    }
    int64_t at = pixel * c + first;
    v.x = drop(z, a, at, v.x);
    if (count > 1) v.y = drop(z, a, at + 1, v.y);
    if (count > 2) v.z = drop(z, a, at + 2, v.z);
    if (count > 3) v.w = drop(z, a, at + 3, v.w);
    store_quad<E>(to, z.dtype, at, count, v);
}

static inline size_t conv_activate_scratch(const Conv2dShape *z) {
    size_t elements = (size_t)z->n * (size_t)z->h * (size_t)z->w * (size_t)(z->c + z->c2);
    return z->use & (CONV_NORM | CONV_MASK) ? (elements * dtype_size(z->dtype) + 255) & ~(size_t)255 : 0;
}
// Where the shape has a prologue: puts the activated input into scratch, and *z and *a read it as a plain one.
static inline void conv_activate(Stream *s, Conv2dShape *z, Conv2dArgs *a, void *scratch) {
    if (!conv_activate_scratch(z)) return;
    int64_t quads = (int64_t)z->n * z->h * z->w * ceil_div(z->c + z->c2, 4);
    unsigned blocks = (unsigned)ceil_div(quads, 256);
    if (!conv_in_quads(z, a)) LAUNCH(s, (conv_activate_kernel<AnyReal>), blocks, 256, 0, *z, *a, scratch, quads);
    else if (z->dtype == DT_BF16) LAUNCH(s, (conv_activate_kernel<bf16>), blocks, 256, 0, *z, *a, scratch, quads);
    else LAUNCH(s, (conv_activate_kernel<float>), blocks, 256, 0, *z, *a, scratch, quads);
    z->c = z->ldx = z->c + z->c2;
    z->c2 = 0;
    z->use &= ~(unsigned)(CONV_X2 | CONV_NORM | CONV_MASK);
    a->x = scratch;
    a->x2 = NULL;
    a->scale = a->shift = NULL;
    a->mask = NULL;
}
#endif
