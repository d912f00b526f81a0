// kernels/conv2d/conv2d.cuh - what the CUDA convolutions share: quads of channels in any storage, and the passes over
// pixels that stand beside the products (gradients of bias and temb, the sum of a weight gradient's partial sums).
//
// A quad is four neighbouring channels, one access of 16 bytes (f32) or 8 (bf16). E says how quads are stored: float or
// bf16, where pointers, strides and channel counts are multiples of a quad; AnyReal, where any of them is not, or where
// a kernel's operands differ in type: then elements are read one at a time, by their DType.
#ifndef KERNELS_CONV2D_CUH
#define KERNELS_CONV2D_CUH
#include "kernels/common/device.cuh"
#include "kernels/conv2d/conv2d.h"

struct AnyReal {};
template <typename E> struct IsAny          { static constexpr bool value = false; };
template <>           struct IsAny<AnyReal> { static constexpr bool value = true; };
template <typename E> struct RealQuads          { typedef float type; };      // how vectors in f32 are stored beside E
template <>           struct RealQuads<AnyReal> { typedef AnyReal type; };

// Tensors of a convolution at run time's alignment: may quads of them be accessed whole?
static inline bool quads_aligned(const void *p, DType dt, int64_t ld) {
    return !p || ((uintptr_t)p % (4 * dtype_size(dt)) == 0 && ld % 4 == 0);
}

DEVICE float load_any(const void *p, DType dt, int64_t at) {
    return dt == DT_BF16 ? load_real((const bf16 *)p + at) : load_real((const float *)p + at);
}
DEVICE void store_any(void *p, DType dt, int64_t at, float v) {
    if (dt == DT_BF16) store_real((bf16 *)p + at, v);
    else store_real((float *)p + at, v);
}
DEVICE float quad_part(float4 v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }
DEVICE float4 quad_add(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

// Elements at..at+3 of type dt, which E is if it is not AnyReal, zero from the count-th on. Where E is not AnyReal, count is at least 4 or at most 0.
template <typename E> DEVICE float4 load_quad(const void *p, DType dt, int64_t at, int count) {
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if constexpr (!IsAny<E>::value) {
        if (count > 0) v = load4((const E *)p + at);
    } else {
        if (count > 0) v.x = load_any(p, dt, at);
        if (count > 1) v.y = load_any(p, dt, at + 1);
        if (count > 2) v.z = load_any(p, dt, at + 2);
        if (count > 3) v.w = load_any(p, dt, at + 3);
    }
    return v;
}
template <typename E> DEVICE float4 load_reals(const float *p, int64_t at, int count) {
    return load_quad<typename RealQuads<E>::type>(p, DT_F32, at, count);
}
// The same to memory, in the type dt whatever E is, which only says that a quad may be stored whole.
template <typename E> DEVICE void store_quad(void *p, DType dt, int64_t at, int count, float4 v) {
    if constexpr (!IsAny<E>::value) {
        if (dt == DT_BF16) store4((bf16 *)p + at, v);
        else store4((float *)p + at, v);
    } else {
        for (int i = 0; i < 4 && i < count; i++) store_any(p, dt, at + i, quad_part(v, i));
    }
}

// ---- reductions over the pixels of an image: a block has 64 channels of one image, 16 quads x 16 pixels at a time
enum { REDUCE_QUADS = 16, REDUCE_LINES = 16, REDUCE_THREADS = REDUCE_QUADS * REDUCE_LINES };

// Sum over the block's lines of pixels, in a fixed order; slot: REDUCE_THREADS float4. All threads of a quad get it.
DEVICE float4 reduce_lines(float4 v, float4 *slot) {
    int quad = (int)threadIdx.x % REDUCE_QUADS, line = (int)threadIdx.x / REDUCE_QUADS;
    slot[threadIdx.x] = v;
    __syncthreads();
    for (int d = REDUCE_LINES / 2; d; d /= 2) {
        if (line < d) slot[threadIdx.x] = quad_add(slot[threadIdx.x], slot[threadIdx.x + d * REDUCE_QUADS]);
        __syncthreads();
    }
    float4 sum = slot[quad];
    __syncthreads();
    return sum;
}

// sums (n,k) = dy (n,pixels,k) summed over pixels. Grid: images x blocks of 64 channels. Reads dy once.
template <typename E> __global__ void __launch_bounds__(REDUCE_THREADS)
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
template <int LINES> __global__ void __launch_bounds__(32 * LINES)
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
template <typename E> __global__ void __launch_bounds__(256)
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
