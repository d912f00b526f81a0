// kernels/conv2d/conv2d_passes.cuh - the rare parts of a convolution as passes of their own, any shape: the norm
// prologue into scratch, the end of the gradient behind it, and statistics of what was written. Each reads its tensors
// once (statistics: twice), in quads of channels.
#ifndef KERNELS_CONV2D_PASSES_CUH
#define KERNELS_CONV2D_PASSES_CUH
#include "kernels/conv2d/conv2d.cuh"

// What the general kernels take: any shape whose pixels an int counts, with channels innermost.
static inline bool conv_general_can(const Conv2dShape *z) {
    int64_t most = (int64_t)1 << 30;
    return z->lx == LAYOUT_NHWC && z->ly == LAYOUT_NHWC && (int64_t)z->n * z->h * z->w < most &&
           (int64_t)z->n * z->p * z->q < most;
}
// Every tensor of the call in whole quads?
static inline bool conv_in_quads(const Conv2dShape *z, const Conv2dArgs *a) {
    return (z->c | z->c2 | z->k | z->cs | z->cs2) % 4 == 0 && quads_aligned(a->x, z->dtype, z->ldx) &&
           quads_aligned(a->x2, z->dtype, z->ldx2) && quads_aligned(a->w, z->dtype, 4) &&
           quads_aligned(a->bias, DT_F32, 4) && quads_aligned(a->temb, DT_F32, 4) &&
           quads_aligned(a->residual, z->dtype, z->ldr) && quads_aligned(a->xs, z->dtype, z->lds) &&
           quads_aligned(a->xs2, z->dtype, z->lds2) && quads_aligned(a->ws, z->dtype, 4) &&
           quads_aligned(a->scale, DT_F32, 4) && quads_aligned(a->shift, DT_F32, 4) &&
           quads_aligned(a->dy, z->out, z->ldy) && quads_aligned(a->y, z->out, z->ldy) &&
           quads_aligned(a->dx, z->dtype, z->ldx) && quads_aligned(a->dx2, z->dtype, z->ldx2) &&
           quads_aligned(a->add, z->dtype, 4);
}

// Channels c..c+3 of the concat [x, x2] at a pixel. Where E is not AnyReal, no quad has channels of both.
template <typename E>
DEVICE float4 load_concat(const Conv2dShape &z, const Conv2dArgs &a, int64_t pixel, int c, int count) {
    if (c >= z.c) return load_quad<E>(a.x2, z.dtype, pixel * z.ldx2 + c - z.c, count);
    if (c + (count < 4 ? count : 4) <= z.c) return load_quad<E>(a.x, z.dtype, pixel * z.ldx + c, count);
    float4 low = load_quad<AnyReal>(a.x, z.dtype, pixel * z.ldx + c, z.c - c);
    float4 high = load_quad<AnyReal>(a.x2, z.dtype, pixel * z.ldx2, count - (z.c - c));
    int k = z.c - c;                                     // 1, 2 or 3 of x
    return make_float4(low.x, k > 1 ? low.y : high.x, k > 2 ? low.z : k > 1 ? high.x : high.y,
                       k > 2 ? high.x : k > 1 ? high.y : high.z);
}

// dx, dx2 = v + add at a pixel, channels c..c+3 of which `count` exist.
template <typename E>
DEVICE void store_input_gradient(const Conv2dShape &z, const Conv2dArgs &a, int pixel, int c, int count, float4 v) {
    if (a.add) v = quad_add(v, load_quad<E>(a.add, z.dtype, (int64_t)pixel * (z.c + z.c2) + c, count));
    if constexpr (!IsAny<E>::value) {
        if (c < z.c) {
            if (a.dx) store_quad<E>(a.dx, z.dtype, (int64_t)pixel * z.ldx + c, count, v);
        } else if (a.dx2) {
            store_quad<E>(a.dx2, z.dtype, (int64_t)pixel * z.ldx2 + c - z.c, count, v);
        }
    } else {
        for (int i = 0; i < 4 && i < count; i++) {
            int k = c + i;
            if (k < z.c && a.dx) store_any(a.dx, z.dtype, (int64_t)pixel * z.ldx + k, quad_part(v, i));
            if (k >= z.c && a.dx2) store_any(a.dx2, z.dtype, (int64_t)pixel * z.ldx2 + k - z.c, quad_part(v, i));
        }
    }
}

// keep_scale where the mask keeps element `at` of the dense concat, else 0.
DEVICE float mask_scale(const Conv2dShape &z, const Conv2dArgs &a, int64_t at) {
    return !a.mask ? 1.0f : a.mask[at / 8] >> (at % 8) & 1 ? z.keep_scale : 0.0f;
}

// ---- a (n,h,w,c+c2) = drop(silu(x * scale + shift)), rounded to dtype. A thread per quad.
template <typename E> __global__ void __launch_bounds__(256)
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
    v.x *= mask_scale(z, a, at);
    if (count > 1) v.y *= mask_scale(z, a, at + 1);
    if (count > 2) v.z *= mask_scale(z, a, at + 2);
    if (count > 3) v.w *= mask_scale(z, a, at + 3);
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

// ---- du = da * mask * silu'(u) with its sums, dx = du + add. A block: 64 channels of one image.
template <typename E> __global__ void __launch_bounds__(REDUCE_THREADS)
conv_finish_kernel(Conv2dShape z, Conv2dArgs a, const float *gradient) {
    SHARED(float4, slot, REDUCE_THREADS);
    int channels = z.c + z.c2, blocks = (channels + 4 * REDUCE_QUADS - 1) / (4 * REDUCE_QUADS), pixels = z.h * z.w;
    int image = (int)blockIdx.x / blocks, line = (int)threadIdx.x / REDUCE_QUADS;
    int c = ((int)blockIdx.x % blocks * REDUCE_QUADS + (int)threadIdx.x % REDUCE_QUADS) * 4, count = channels - c;
    float sum[4] = {}, sum_xhat[4] = {}, scale[4] = {}, shift[4] = {}, mean[4] = {}, rstd[4] = {};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int64_t row = (int64_t)image * channels + c + i;
        if (i < count && a.scale) scale[i] = a.scale[row], shift[i] = a.shift[row];
        if (i < count && a.sums) {
            int64_t group = (int64_t)image * z.groups + (c + i) / (channels / z.groups);
            mean[i] = a.mean[group], rstd[i] = a.rstd[group];
        }
    }
    for (int p = line; count > 0 && p < pixels; p += REDUCE_LINES) {
        int pixel = image * pixels + p;
        int64_t at = (int64_t)pixel * channels + c;
        float4 da = load_reals<E>(gradient, at, count), x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (a.scale || a.sums) x = load_concat<E>(z, a, pixel, c, count);
        float d[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            d[i] = i < count ? quad_part(da, i) * mask_scale(z, a, at + i) : 0.0f;
            if (a.scale) d[i] *= silu_slope(fmaf(quad_part(x, i), scale[i], shift[i]));
            sum[i] += d[i];
            sum_xhat[i] += d[i] * (quad_part(x, i) - mean[i]) * rstd[i];
        }
        store_input_gradient<E>(z, a, pixel, c, count, make_float4(d[0], d[1], d[2], d[3]));
    }
    if (!a.sums) return;
    float4 total = reduce_lines(make_float4(sum[0], sum[1], sum[2], sum[3]), slot);
    float4 xhat = reduce_lines(make_float4(sum_xhat[0], sum_xhat[1], sum_xhat[2], sum_xhat[3]), slot);
    for (int i = 0; line == 0 && i < 4 && i < count; i++) {
        float *to = a.sums + 2 * ((int64_t)image * channels + c + i);
        to[0] = quad_part(total, i);
        to[1] = quad_part(xhat, i);
    }
}

static inline size_t conv_finish_scratch(const Conv2dShape *z) {
    size_t elements = (size_t)z->n * (size_t)z->h * (size_t)z->w * (size_t)(z->c + z->c2);
    return z->use & (CONV_NORM | CONV_MASK | CONV_SUMS) ? (elements * sizeof(float) + 255) & ~(size_t)255 : 0;
}
static inline void conv_finish(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, const float *gradient) {
    unsigned blocks = (unsigned)(z->n * ceil_div(z->c + z->c2, 4 * REDUCE_QUADS));
    if (!conv_in_quads(z, a)) LAUNCH(s, (conv_finish_kernel<AnyReal>), blocks, REDUCE_THREADS, 0, *z, *a, gradient);
    else if (z->dtype == DT_BF16) LAUNCH(s, (conv_finish_kernel<bf16>), blocks, REDUCE_THREADS, 0, *z, *a, gradient);
    else LAUNCH(s, (conv_finish_kernel<float>), blocks, REDUCE_THREADS, 0, *z, *a, gradient);
}

// ---- stats (n,k,2): mean and squared deviations of y as stored. A block: 64 channels of one image, read twice.
template <typename E> __global__ void __launch_bounds__(REDUCE_THREADS)
conv_stats_kernel(const void *y, DType dt, int pixels, int k, int ld, float *stats) {
    SHARED(float4, slot, REDUCE_THREADS);
    int blocks = (k + 4 * REDUCE_QUADS - 1) / (4 * REDUCE_QUADS);
    int image = (int)blockIdx.x / blocks, line = (int)threadIdx.x / REDUCE_QUADS;
    int c = ((int)blockIdx.x % blocks * REDUCE_QUADS + (int)threadIdx.x % REDUCE_QUADS) * 4, count = k - c;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f), squares = sum;
    for (int p = line; p < pixels; p += REDUCE_LINES)
        sum = quad_add(sum, load_quad<E>(y, dt, ((int64_t)image * pixels + p) * ld + c, count));
    sum = reduce_lines(sum, slot);
    float4 mean = make_float4(sum.x / (float)pixels, sum.y / (float)pixels, sum.z / (float)pixels,
                              sum.w / (float)pixels);
    for (int p = line; p < pixels; p += REDUCE_LINES) {
        float4 v = load_quad<E>(y, dt, ((int64_t)image * pixels + p) * ld + c, count);
        squares = quad_add(squares, make_float4((v.x - mean.x) * (v.x - mean.x), (v.y - mean.y) * (v.y - mean.y),
                                                (v.z - mean.z) * (v.z - mean.z), (v.w - mean.w) * (v.w - mean.w)));
    }
    squares = reduce_lines(squares, slot);
    for (int i = 0; line == 0 && i < 4 && i < count; i++) {
        float *to = stats + 2 * ((int64_t)image * k + c + i);
        to[0] = quad_part(mean, i);
        to[1] = quad_part(squares, i);
    }
}
static inline void conv_stats(Stream *s, const Conv2dShape *z, const Conv2dArgs *a) {
    if (!a->stats) return;
    unsigned blocks = (unsigned)(z->n * ceil_div(z->k, 4 * REDUCE_QUADS));
    int pixels = z->p * z->q;
    if (z->k % 4 || !quads_aligned(a->y, z->out, z->ldy))
        LAUNCH(s, (conv_stats_kernel<AnyReal>), blocks, REDUCE_THREADS, 0, a->y, z->out, pixels, z->k, z->ldy, a->stats);
    else if (z->out == DT_BF16)
        LAUNCH(s, (conv_stats_kernel<bf16>), blocks, REDUCE_THREADS, 0, a->y, z->out, pixels, z->k, z->ldy, a->stats);
    else
        LAUNCH(s, (conv_stats_kernel<float>), blocks, REDUCE_THREADS, 0, a->y, z->out, pixels, z->k, z->ldy, a->stats);
}
#endif
