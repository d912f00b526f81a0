// kernels/conv2d/conv2d.cuh - what the CUDA convolutions share: quads of channels in any storage, and sums over pixels.
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

// Elements at..at+3 of type dt, zero from the count-th on. Where E is not AnyReal, it is dt, and count is at least 4 or
// at most 0.
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
// The same of a vector in f32 beside tensors of E.
template <typename E> DEVICE float4 load_reals(const float *p, int64_t at, int count) {
    return load_quad<typename RealQuads<E>::type>(p, DT_F32, at, count);
}
// Stores the first `count`, in the type dt whatever E is, which only says that a quad may be stored whole.
template <typename E> DEVICE void store_quad(void *p, DType dt, int64_t at, int count, float4 v) {
    if constexpr (!IsAny<E>::value) {
        if (dt == DT_BF16) store4((bf16 *)p + at, v);
        else store4((float *)p + at, v);
    } else {
        for (int i = 0; i < 4 && i < count; i++) store_any(p, dt, at + i, quad_part(v, i));
    }
}

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

// v, element `at` of the dense concat, as dropout leaves it.
DEVICE float drop(const Conv2dShape &z, const Conv2dArgs &a, int64_t at, float v) {
    return !a.mask ? v : a.mask[at / 8] >> (at % 8) & 1 ? v * z.keep_scale : 0.0f;
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
#endif
