// kernels/conv2d/conv2d_epilogue.cuh - what follows the general kernels' sums: the input's gradient through mask and
// silu with its sums, and the statistics of y. Passes of their own, in quads; gradients are read once, y twice.
#ifndef KERNELS_CONV2D_EPILOGUE_CUH
#define KERNELS_CONV2D_EPILOGUE_CUH
#include "kernels/conv2d/conv2d.cuh"

// dx, dx2 = v + add + bias at a pixel, channels c..c+3 of which `count` exist.
template <typename E>
DEVICE void store_input_gradient(const Conv2dShape &z, const Conv2dArgs &a, int pixel, int c, int count, float4 v) {
    if (a.add) v = quad_add(v, load_quad<E>(a.add, z.dtype, (int64_t)pixel * (z.c + z.c2) + c, count));
    if (a.bias) v = quad_add(v, load_reals<E>(a.bias, c, count));
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

// ---- du = da * mask * silu'(u) with its sums, dx = du + add. A block: 64 channels of one image.
template <typename E> static __global__ void __launch_bounds__(REDUCE_THREADS, 2)
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
            d[i] = i < count ? drop(z, a, at + i, quad_part(da, i)) : 0.0f;
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
template <typename E> static __global__ void __launch_bounds__(REDUCE_THREADS)
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
        LAUNCH(s, (conv_stats_kernel<AnyReal>), blocks, REDUCE_THREADS, 0, a->y, z->out, pixels, z->k, z->ldy,
               a->stats);
    else if (z->out == DT_BF16)
        LAUNCH(s, (conv_stats_kernel<bf16>), blocks, REDUCE_THREADS, 0, a->y, z->out, pixels, z->k, z->ldy, a->stats);
    else
        LAUNCH(s, (conv_stats_kernel<float>), blocks, REDUCE_THREADS, 0, a->y, z->out, pixels, z->k, z->ldy, a->stats);
}
#endif
