// kernels/conv2d/conv2d_sums.cuh - what stands beside the product of a weight gradient: gradients of bias and temb, and
// the sum of partial sums. Every sum has one order.
#ifndef KERNELS_CONV2D_SUMS_CUH
#define KERNELS_CONV2D_SUMS_CUH
#include "kernels/conv2d/conv2d.cuh"

// sums (n,k) = dy (n,pixels,k) summed over pixels. Grid: images x blocks of 64 channels. Reads dy once.
template <typename E> static __global__ void __launch_bounds__(REDUCE_THREADS)
conv_dy_sums_kernel(const void *dy, DType dt, int pixels, int k, int ld, float *sums) {
    SHARED(float4, slot, REDUCE_THREADS);
    int blocks = (k + 4 * REDUCE_QUADS - 1) / (4 * REDUCE_QUADS);
    int image = (int)blockIdx.x / blocks, line = (int)threadIdx.x / REDUCE_QUADS;
    int first = ((int)blockIdx.x % blocks * REDUCE_QUADS + (int)threadIdx.x % REDUCE_QUADS) * 4;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int p = line; p < pixels; p += REDUCE_LINES)
        sum = quad_add(sum, load_quad<E>(dy, dt, ((int64_t)image * pixels + p) * ld + first, k - first));
    sum = reduce_lines(sum, slot);
    for (int i = 0; line == 0 && i < 4 && first + i < k; i++)
        sums[(int64_t)image * k + first + i] = quad_part(sum, i);
}

// dbias (k) = or += sums (n,k) over n. A block: 32 channels x 8 images at a time.
template <int LINES> static __global__ void __launch_bounds__(32 * LINES)
conv_dbias_kernel(const float *sums, int n, int k, float *dbias, bool accumulate) {
    SHARED(float, slot, 32 * LINES);
    int channel = (int)(blockIdx.x * 32 + threadIdx.x % 32), line = (int)threadIdx.x / 32;
    float sum = 0.0f;
    for (int i = line; channel < k && i < n; i += LINES) sum += sums[(int64_t)i * k + channel];
    slot[threadIdx.x] = sum;
    __syncthreads();
    if (line > 0 || channel >= k) return;
    for (int i = 1; i < LINES; i++) sum += slot[i * 32 + threadIdx.x];
    dbias[channel] = accumulate ? dbias[channel] + sum : sum;
}

// Scratch of conv_bias_gradients, a multiple of 256 bytes.
static inline size_t conv_bias_scratch(const Conv2dShape *z) {
    bool sums = (z->use & CONV_BIAS) && !(z->use & CONV_TEMB);            // else dtemb holds them
    return sums ? ((size_t)z->n * (size_t)z->k * sizeof(float) + 255) & ~(size_t)255 : 0;
}
// a->dtemb =, a->dbias = or += by a->accumulate, where not NULL.
static inline void conv_bias_gradients(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, float *scratch) {
    if (!a->dtemb && !a->dbias) return;
    float *sums = a->dtemb ? a->dtemb : scratch;
    unsigned blocks = (unsigned)(z->n * ceil_div(z->k, 4 * REDUCE_QUADS));
    int pixels = z->p * z->q;
    if (z->k % 4 || !quads_aligned(a->dy, z->out, z->ldy))
        LAUNCH(s, (conv_dy_sums_kernel<AnyReal>), blocks, REDUCE_THREADS, 0, a->dy, z->out, pixels, z->k, z->ldy, sums);
    else if (z->out == DT_BF16)
        LAUNCH(s, (conv_dy_sums_kernel<bf16>), blocks, REDUCE_THREADS, 0, a->dy, z->out, pixels, z->k, z->ldy, sums);
    else
        LAUNCH(s, (conv_dy_sums_kernel<float>), blocks, REDUCE_THREADS, 0, a->dy, z->out, pixels, z->k, z->ldy, sums);
    if (a->dbias)
        LAUNCH(s, (conv_dbias_kernel<8>), (unsigned)ceil_div(z->k, 32), 256, 0, sums, z->n, z->k, a->dbias,
               a->accumulate);
}

// ---- the sum of partial sums: what a weight gradient does last
// dw (numel) = or += partial (splits,stride) summed over splits in order. stride: a multiple of 4.
template <typename E> static __global__ void __launch_bounds__(256)
conv_dw_sum_kernel(const float *partial, int splits, int64_t stride, int64_t numel, float *dw, bool accumulate) {
    int64_t at = ((int64_t)blockIdx.x * 256 + threadIdx.x) * 4;
    if (at >= numel) return;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    int count = numel - at < 4 ? (int)(numel - at) : 4;
    for (int i = 0; i < splits; i++) sum = quad_add(sum, load_reals<E>(partial, i * stride + at, count));
    if (accumulate) sum = quad_add(load_reals<E>(dw, at, count), sum);
    store_quad<E>(dw, DT_F32, at, count, sum);
}
static inline void conv_dw_sum(Stream *s, const float *partial, int splits, int64_t stride, int64_t numel, float *dw,
                               bool accumulate) {
    unsigned blocks = (unsigned)ceil_div(numel, 1024);
    if (numel % 4 || !quads_aligned(dw, DT_F32, 4))
        LAUNCH(s, (conv_dw_sum_kernel<AnyReal>), blocks, 256, 0, partial, splits, stride, numel, dw, accumulate);
    else
        LAUNCH(s, (conv_dw_sum_kernel<float>), blocks, 256, 0, partial, splits, stride, numel, dw, accumulate);
}
#endif
