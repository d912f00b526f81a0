// kernels/conv2d/conv2d_mma_sums.cuh - what tensor-core gradients of filters end with: splits, dbias, dtemb.
//
// dtemb and dbias: sums over the pixels of an image, then over images, each in one order.
#ifndef KERNELS_CONV2D_MMA_SUMS_CUH
#define KERNELS_CONV2D_MMA_SUMS_CUH
#include "kernels/conv2d/conv2d_mma.cuh"

// dw (+)= the splits in order; n: elements of dw, a multiple of 4. A thread: 4 of them.
static __global__ void __launch_bounds__(256)
conv_add_splits_kernel(float *dw, const float *sums, int64_t n, int splits, bool accumulate) {
    int64_t at = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (at >= n) return;
    float4 sum = make_float4(0, 0, 0, 0);
    for (int s = 0; s < splits; s++) {
        float4 v = load4(sums + s * n + at);
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    if (accumulate) {
        float4 v = load4(dw + at);
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    store4(dw + at, sum);
}

// ---- sums of dy
// sums[i,k] = sum over the pixels of image i. Block: 64 channels, eight to a thread, of image y; 32 pixels at a time.
template <bool ALIGNED>
static __global__ void __launch_bounds__(256)
conv_image_sums_kernel(const bf16 *dy, int ldy, int pixels, int k, float *sums) {
    SHARED(float, part, 32 * 65);
    int lane = (int)threadIdx.x / 8, chunk = (int)threadIdx.x % 8, channel = (int)blockIdx.x * 64 + chunk * 8;
    const bf16 *from = dy + (int64_t)blockIdx.y * pixels * ldy + channel;
    float sum[8] = { 0, 0, 0, 0, 0, 0, 0, 0 };
    for (int p = lane; p < pixels && channel < k; p += 32) {
        const bf16 *pixel = from + (int64_t)p * ldy;
        if (ALIGNED) {
            uint4 v = *reinterpret_cast<const uint4 *>(pixel);
            sum[0] += bf16_low(v.x), sum[1] += bf16_high(v.x), sum[2] += bf16_low(v.y), sum[3] += bf16_high(v.y);
            sum[4] += bf16_low(v.z), sum[5] += bf16_high(v.z), sum[6] += bf16_low(v.w), sum[7] += bf16_high(v.w);
        } else {
            for (int j = 0; j < 8; j++) sum[j] += bf16_float(pixel[j]);
        }
    }
    for (int j = 0; j < 8; j++) part[lane * 65 + chunk * 8 + j] = sum[j];
    __syncthreads();
    channel = (int)blockIdx.x * 64 + (int)threadIdx.x;
    if (threadIdx.x >= 64 || channel >= k) return;
    float all = 0;
    for (int l = 0; l < 32; l++) all += part[l * 65 + (int)threadIdx.x];
    sums[(int64_t)blockIdx.y * k + channel] = all;
}

// dbias[k] (+)= sum over images. Block: 32 channels, 8 images at a time.
static __global__ void __launch_bounds__(256)
conv_bias_sums_kernel(const float *sums, int images, int k, float *dbias, bool accumulate) {
    SHARED(float, part, 8 * 32);
    int lane = (int)threadIdx.x / 32, channel = (int)blockIdx.x * 32 + (int)threadIdx.x % 32;
    float sum = 0;
    for (int i = lane; i < images && channel < k; i += 8) sum += sums[(int64_t)i * k + channel];
    part[threadIdx.x] = sum;
    __syncthreads();
    if (lane || channel >= k) return;
    sum = accumulate ? dbias[channel] : 0.0f;
    for (int l = 0; l < 8; l++) sum += part[l * 32 + (int)threadIdx.x];
    dbias[channel] = sum;
}

// ---- on the host
static inline int64_t filter_elements(const Conv2dShape *z) {
    return (int64_t)z->k * z->r * z->s * (z->c + z->c2);
}
static inline void add_splits(Stream *stream, const Conv2dArgs *a, const float *sums, int64_t n, int splits) {
    LAUNCH(stream, (conv_add_splits_kernel), dim3((unsigned)ceil_div(n, 1024)), dim3(256), 0, a->dw, sums, n, splits,
           a->accumulate);
}

// Scratch of gradient_sums: (n,k) sums of images where dbias is wanted without dtemb.
static inline size_t image_sums_bytes(const Conv2dShape *z) {
    if (!(z->use & CONV_BIAS) || z->use & CONV_TEMB) return 0;
    return ((size_t)z->n * (size_t)z->k * sizeof(float) + 255) / 256 * 256;
}
// Its kernels, and the bytes they read and write.
static inline int sums_kernels(const Conv2dShape *z) {
    return !!(z->use & (CONV_BIAS | CONV_TEMB)) + !!(z->use & CONV_BIAS);
}
static inline double sums_bytes(const Conv2dShape *z) {
    double images = 4.0 * z->n * z->k;
    return sums_kernels(z) ? 2.0 * z->n * z->p * z->q * z->k + sums_kernels(z) * images : 0;
}
// dtemb and dbias, as far as they are wanted.
static inline void gradient_sums(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, void *scratch) {
    if (!a->dtemb && !a->dbias) return;
    float *sums = a->dtemb ? a->dtemb : static_cast<float *>(scratch);
    const bf16 *dy = static_cast<const bf16 *>(a->dy);
    dim3 grid((unsigned)ceil_div(z->k, 64), (unsigned)z->n);
    if (aligned16(dy)) {
        LAUNCH(stream, (conv_image_sums_kernel<true>), grid, dim3(256), 0, dy, z->ldy, z->p * z->q, z->k, sums);
    } else {
        LAUNCH(stream, (conv_image_sums_kernel<false>), grid, dim3(256), 0, dy, z->ldy, z->p * z->q, z->k, sums);
    }
    if (a->dbias) {
        LAUNCH(stream, (conv_bias_sums_kernel), dim3((unsigned)ceil_div(z->k, 32)), dim3(256), 0, sums, z->n, z->k,
               a->dbias, a->accumulate);
    }
}
#endif
