// kernels/common/cpu_avx512.h - vectors of 16 floats for kernels that work on blocks of 16 channels: exp, SiLU, keep bits.
//
// For loops that compilers do not turn into good vectors from plain C (cpu.h). Empty without AVX-512.
#ifndef KERNELS_COMMON_CPU_AVX512_H
#define KERNELS_COMMON_CPU_AVX512_H
#include "kernels/common/cpu.h"
#if defined(__AVX512F__) && defined(__AVX512BW__)
#include <immintrin.h>
#define VEC_INLINE static inline __attribute__((always_inline))
typedef __m512 Vec;

VEC_INLINE Vec  vec_load(const float *p) { return _mm512_loadu_ps(p); }
VEC_INLINE void vec_store(float *p, Vec v) { _mm512_storeu_ps(p, v); }
VEC_INLINE Vec  vec_fill(float x) { return _mm512_set1_ps(x); }
VEC_INLINE Vec  vec_add(Vec x, Vec y) { return _mm512_add_ps(x, y); }
VEC_INLINE Vec  vec_sub(Vec x, Vec y) { return _mm512_sub_ps(x, y); }
VEC_INLINE Vec  vec_mul(Vec x, Vec y) { return _mm512_mul_ps(x, y); }
VEC_INLINE Vec  vec_fma(Vec x, Vec y, Vec z) { return _mm512_fmadd_ps(x, y, z); }      // x y + z
VEC_INLINE Vec  vec_fnma(Vec x, Vec y, Vec z) { return _mm512_fnmadd_ps(x, y, z); }    // z - x y

// e^-x: within 2 ulp for -88.3 <= x <= 87.3, beyond that it stays at the end's value; NaN gives NaN (the second operand
// of min and max). The method of cpu_exp, with its polynomial.
VEC_INLINE Vec vec_exp_neg(Vec x) {
    x = _mm512_min_ps(vec_fill(87.33654f), _mm512_max_ps(vec_fill(-88.37626f), x));
    Vec magic = vec_fill(12582912.0f), n = vec_sub(vec_fnma(x, vec_fill(1.44269504f), magic), magic);
    Vec f = _mm512_fnmsub_ps(n, vec_fill(0.693359375f), x);                            // -x - n ln 2
    f = vec_fma(n, vec_fill(2.12194440e-4f), f);
    Vec p = vec_fma(vec_fill(1.9875691500e-4f), f, vec_fill(1.3981999507e-3f));
    p = vec_fma(p, f, vec_fill(8.3334519073e-3f));
    p = vec_fma(p, f, vec_fill(4.1665795894e-2f));
    p = vec_fma(p, f, vec_fill(1.6666665459e-1f));
    p = vec_fma(p, f, vec_fill(5.0000001201e-1f));
    p = vec_add(vec_fma(p, vec_mul(f, f), f), vec_fill(1));
    return _mm512_scalef_ps(p, n);
}
VEC_INLINE Vec vec_silu(Vec x) { return _mm512_div_ps(x, vec_add(vec_fill(1), vec_exp_neg(x))); }
// s (1 + x (1 - s)) for s = 1 / (1 + e): 1 - s = e s, without cancellation for large x.
VEC_INLINE Vec vec_silu_slope(Vec x) {
    Vec e = vec_exp_neg(x), s = _mm512_div_ps(vec_fill(1), vec_add(vec_fill(1), e));
    return vec_fma(vec_mul(x, s), vec_mul(e, s), s);
}

// ---- dropout
// rng.h's philox on eight blocks, a word in the lower half of each 64-bit lane. The upper halves hold what is left of
// the products: a product reads lower halves only.
#define VEC_XOR3 0x96
VEC_INLINE void vec_philox(const CpuDraw *d, __m512i block, __m512i w[4]) {
    __m512i m0 = _mm512_set1_epi64(0xD2511F53), m1 = _mm512_set1_epi64(0xCD9E8D57);
    __m512i c0 = block, c1 = _mm512_set1_epi64(d->sample);
    __m512i c2 = _mm512_set1_epi64(d->step), c3 = _mm512_set1_epi64(d->purpose);
    uint32_t k0 = d->seed[0], k1 = d->seed[1];
    #pragma GCC unroll 10
    for (int round = 0; round < 10; round++) {
        __m512i p0 = _mm512_mul_epu32(m0, c0), p1 = _mm512_mul_epu32(m1, c2);
        c0 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), c1, _mm512_set1_epi64(k0), VEC_XOR3);
        c2 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), c3, _mm512_set1_epi64(k1), VEC_XOR3);
        c1 = p1;
        c3 = p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    w[0] = c0; w[1] = c1; w[2] = c2; w[3] = c3;
}

// Keep bits of a block of 16 channels at four pixels, 16 for each: the blocks of draws of the first are `first` and
// first + 1, those of the next lie `step` further. cpu_keep_bits' bits.
VEC_INLINE uint64_t vec_keep_bits(const CpuDraw *d, uint32_t first, uint32_t step) {
    // Blocks 0 to 3 in the even lanes, 4 to 7 in the odd ones: so the words come out in order.
    const __m512i pixel = _mm512_setr_epi64(0, 2, 0, 2, 1, 3, 1, 3), half = _mm512_setr_epi64(0, 0, 1, 1, 0, 0, 1, 1);
    __m512i block = _mm512_add_epi64(_mm512_mul_epu32(pixel, _mm512_set1_epi64(step)), half), w[4];
    vec_philox(d, _mm512_add_epi64(block, _mm512_set1_epi64(first)), w);
    __m512i low = _mm512_mask_blend_epi32(0xAAAA, w[0], _mm512_slli_epi64(w[1], 32));
    __m512i high = _mm512_mask_blend_epi32(0xAAAA, w[2], _mm512_slli_epi64(w[3], 32));
    __m512i p = _mm512_set1_epi16((short)d->p16);
    uint64_t a = _mm512_cmpge_epu16_mask(_mm512_unpacklo_epi64(low, high), p);
    uint64_t b = _mm512_cmpge_epu16_mask(_mm512_unpackhi_epi64(low, high), p);
    return a | b << 32;
}
#endif
#endif
