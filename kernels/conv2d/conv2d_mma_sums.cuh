// kernels/conv2d/conv2d_mma_sums.cuh - what tensor-core gradients of filters end with: splits, dbias, dtemb.
//
// dtemb and dbias: sums over the pixels of an image, before the product, then over images, each in one order. One
// kernel after the product adds both the splits and the images.
#ifndef KERNELS_CONV2D_MMA_SUMS_CUH
#define KERNELS_CONV2D_MMA_SUMS_CUH
#include "kernels/conv2d/conv2d_mma.cuh"

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

// ---- the end of the gradients, blocks of 256 threads
// dw (n elements, a multiple of 4) is the sum of the splits, in order: a thread has 4 of them. `blocks` do this, those
// after them dbias (k), the sum of `sums` (images,k) over images: 32 channels each, 8 images at a time.
struct GradientEnds {
    float *dw;
    const float *partial;
    int64_t n;
    int splits, blocks;
    float *dbias;
    const float *sums;
    int images, k;
    bool accumulate;                 // onto what is there
};
DEVICE void add_splits(const GradientEnds &e, int64_t at) {
    if (at >= e.n) return;
    float4 sum = make_float4(0, 0, 0, 0);
    for (int s = 0; s < e.splits; s++) {
        float4 v = load4(e.partial + s * e.n + at);
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    if (e.accumulate) {
        float4 v = load4(e.dw + at);
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    store4(e.dw + at, sum);
}
static __global__ void __launch_bounds__(256) conv_end_gradients_kernel(GradientEnds e) {
    SHARED(float, part, 8 * 32);
    int thread = (int)threadIdx.x, lane = thread / 32, channel = ((int)blockIdx.x - e.blocks) * 32 + thread % 32;
    if ((int)blockIdx.x < e.blocks) {
        add_splits(e, ((int64_t)blockIdx.x * 256 + thread) * 4);
        return;
    }
    float sum = 0;
    for (int i = lane; i < e.images && channel < e.k; i += 8) sum += e.sums[(int64_t)i * e.k + channel];
    part[thread] = sum;
    __syncthreads();
    if (lane || channel >= e.k) return;
    sum = e.accumulate ? e.dbias[channel] : 0.0f;
    for (int l = 0; l < 8; l++) sum += part[l * 32 + thread];
    e.dbias[channel] = sum;
}

// ---- on the host
static inline int64_t filter_elements(const Conv2dShape *z) {
    return (int64_t)z->k * z->r * z->s * (z->c + z->c2);
}
// Scratch of gradient_sums: (n,k) sums of images where dbias is wanted without dtemb.
static inline size_t image_sums_bytes(const Conv2dShape *z) {
    if (!(z->use & CONV_BIAS) || z->use & CONV_TEMB) return 0;
    return ((size_t)z->n * (size_t)z->k * sizeof(float) + 255) / 256 * 256;
}
static inline float *image_sums(const Conv2dArgs *a, void *scratch) {
    return a->dtemb ? a->dtemb : static_cast<float *>(scratch);
}
// dtemb, and what dbias is the sum of, as far as they are wanted.
static inline void gradient_sums(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, void *scratch) {
    if (!a->dtemb && !a->dbias) return;
    float *sums = image_sums(a, scratch);
    const bf16 *dy = static_cast<const bf16 *>(a->dy);
    dim3 grid((unsigned)ceil_div(z->k, 64), (unsigned)z->n);
    if (aligned16(dy)) {
        LAUNCH(stream, (conv_image_sums_kernel<true>), grid, dim3(256), 0, dy, z->ldy, z->p * z->q, z->k, sums);
    } else {
        LAUNCH(stream, (conv_image_sums_kernel<false>), grid, dim3(256), 0, dy, z->ldy, z->p * z->q, z->k, sums);
    }
}
// After gradient_sums and the product: dw of its splits, if these are more than one, and dbias.
static inline void end_gradients(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, void *scratch,
                                 const float *partial, int splits) {
    GradientEnds e = { a->dw, partial, filter_elements(z), splits, 0, a->dbias, image_sums(a, scratch), z->n, z->k,
                       a->accumulate };
    if (a->dw && splits > 1) e.blocks = (int)ceil_div(e.n, 1024);
    int64_t blocks = e.blocks + (a->dbias ? ceil_div(z->k, 32) : 0);
    if (blocks) LAUNCH(stream, (conv_end_gradients_kernel), dim3((unsigned)blocks), dim3(256), 0, e);
}

// What stands beside the product in a plan: the sums of dy, which read it once more, and the end. Where dbias needs the
// end anyway, splits cost no kernel.
static inline void tell_ends(const Conv2dShape *z, ImplPlan *told) {
    bool bias = z->use & CONV_BIAS, sums = z->use & (CONV_BIAS | CONV_TEMB);
    told->beside = told->splits > 1 && !bias;
    told->beside_bytes = told->splits > 1 ? 8.0 * told->splits * (double)filter_elements(z) : 0;
    told->others = sums + bias;
    told->others_bytes = sums ? 2.0 * z->n * z->p * z->q * z->k + 4.0 * (1 + bias) * z->n * z->k : 0;
}
#endif
