// kernels/common/cpu_avx512.h - vectors of 16 floats, for kernels on blocks of 16 channels: exp, SiLU, keep bits.
//
// For loops that compilers do not turn into good vectors from plain C (cpu.h). Empty without AVX-512.
#ifndef KERNELS_COMMON_CPU_AVX512_H
#define KERNELS_COMMON_CPU_AVX512_H
#include "kernels/common/cpu.h"
#if defined(__AVX512F__) && defined(__AVX512BW__)
#include <immintrin.h>
#include <string.h>
#define VEC_INLINE static inline __attribute__((always_inline))
typedef __m512 Vec;

VEC_INLINE Vec  vec_load(const float *p) { return _mm512_loadu_ps(p); }
VEC_INLINE void vec_store(float *p, Vec v) { _mm512_storeu_ps(p, v); }
VEC_INLINE Vec  vec_fill(float x) { return _mm512_set1_ps(x); }
VEC_INLINE Vec  vec_add(Vec x, Vec y) { return _mm512_add_ps(x, y); }
VEC_INLINE Vec  vec_sub(Vec x, Vec y) { return _mm512_sub_ps(x, y); }
VEC_INLINE Vec  vec_mul(Vec x, Vec y) { return _mm512_mul_ps(x, y); }
VEC_INLINE Vec  vec_fma(Vec x, Vec y, Vec z) { return _mm512_fmadd_ps(x, y, z); }      // x y + z
VEC_INLINE Vec  vec_scale(float x, Vec y) { return _mm512_mul_ps(vec_fill(x), y); }
VEC_INLINE Vec  vec_axpy(float x, Vec y, Vec z) { return _mm512_fmadd_ps(vec_fill(x), y, z); }
VEC_INLINE void vec_fetch(const float *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }
VEC_INLINE void vec_fetch_far(const float *p) { _mm_prefetch((const char *)p, _MM_HINT_T1); }
VEC_INLINE Vec  vec_fnma(Vec x, Vec y, Vec z) { return _mm512_fnmadd_ps(x, y, z); }    // z - x y

// e^-x: within 2 ulp for -88.3 <= x <= 87.3, beyond that it stays at the end's value; NaN gives NaN (the second operand
// of min and max). e^-x = 2^(n / 16) e^f with |f| <= ln 2 / 32, where Taylor's polynomial of degree 3 is off by about
// f^4 / 24 <= 2^-26; 2^(n / 16) is 2^(j / 16), from a table, times a whole power of 2. As in cpu_exp n is rounded by
// adding 1.5 * 2^23, its bits at the bottom of the sum: j the lowest four, the power's exponent the rest.
VEC_INLINE Vec vec_exp_neg(Vec x) {
    const Vec table = _mm512_setr_ps(1.0f, 1.04427378f, 1.09050773f, 1.13878863f, 1.18920712f, 1.24185781f, 1.29683955f,
                                     1.35425555f, 1.41421356f, 1.47682615f, 1.54221083f, 1.61049033f, 1.68179283f,
                                     1.75625216f, 1.83400809f, 1.91520656f);
    x = _mm512_min_ps(vec_fill(87.3f), _mm512_max_ps(vec_fill(-88.37626f), x));
    Vec magic = vec_fill(12582912.0f), sum = vec_fnma(x, vec_fill(23.0831207f), magic), n = vec_sub(sum, magic);
    Vec f = vec_fnma(n, vec_fill(-1.19040893e-10f), _mm512_fnmsub_ps(n, vec_fill(0.0433216989f), x));
    Vec p = vec_fma(vec_fma(f, vec_fill(1.0f / 6), vec_fill(0.5f)), f, vec_fill(1));           // (e^f - 1) / f
    __m512i bits = _mm512_castps_si512(sum);
    Vec t = _mm512_permutexvar_ps(bits, table);
    t = vec_fma(vec_mul(t, f), p, t);
    __m512i power = _mm512_and_si512(_mm512_slli_epi32(bits, 19), _mm512_set1_epi32((int)0xFF800000u));
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(t), power));
}
VEC_INLINE Vec vec_silu(Vec x) { return _mm512_div_ps(x, vec_add(vec_fill(1), vec_exp_neg(x))); }
// s (1 + x (1 - s)) for s = 1 / (1 + e): 1 - s = e s, without cancellation for large x.
VEC_INLINE Vec vec_silu_slope(Vec x) {
    Vec e = vec_exp_neg(x), s = _mm512_div_ps(vec_fill(1), vec_add(vec_fill(1), e));
    return vec_fma(vec_mul(x, s), vec_mul(e, s), s);
}

// Exchanges rows and columns: pairs, then fours within 128-bit lanes, then the lanes.
VEC_INLINE void vec_transpose(Vec r[16]) {
    Vec t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        __m512d x0 = _mm512_castps_pd(t[i]), x1 = _mm512_castps_pd(t[i + 1]);
        __m512d x2 = _mm512_castps_pd(t[i + 2]), x3 = _mm512_castps_pd(t[i + 3]);
        r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(x0, x2));
        r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x0, x2));
        r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(x1, x3));
        r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(x1, x3));
    }
    for (int i = 0; i < 4; i++) {
        Vec even_a = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88), odd_a = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        Vec even_b = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        Vec odd_b = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
        t[i] = _mm512_shuffle_f32x4(even_a, even_b, 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(odd_a, odd_b, 0x88);
        t[i + 8] = _mm512_shuffle_f32x4(even_a, even_b, 0xdd);
        t[i + 12] = _mm512_shuffle_f32x4(odd_a, odd_b, 0xdd);
    }
    memcpy(r, t, sizeof t);
}

// ---- dropout
// rng.h's philox on eight blocks, a word in the lower half of each 64-bit lane, and on eight more beside them, for
// while the first wait for their products. The upper halves hold what is left of products, which read lower halves.
VEC_INLINE void vec_philox(const CpuDraw *d, const __m512i block[2], __m512i w[4][2]) {
    enum { XOR3 = 0x96 };
    const __m512i m0 = _mm512_set1_epi64(0xD2511F53), m1 = _mm512_set1_epi64(0xCD9E8D57);
    uint32_t k0 = d->seed[0], k1 = d->seed[1];
    for (int h = 0; h < 2; h++) {
        w[0][h] = block[h];
        w[1][h] = _mm512_set1_epi64(d->sample);
        w[2][h] = _mm512_set1_epi64(d->step);
        w[3][h] = _mm512_set1_epi64(d->purpose);
    }
    #pragma GCC unroll 10
    for (uint32_t round = 0; round < 10; round++) {
        __m512i key0 = _mm512_set1_epi64(k0 + round * 0x9E3779B9u), key1 = _mm512_set1_epi64(k1 + round * 0xBB67AE85u);
        #pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            __m512i p0 = _mm512_mul_epu32(m0, w[0][h]), p1 = _mm512_mul_epu32(m1, w[2][h]);
            w[0][h] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), w[1][h], key0, XOR3);
            w[2][h] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), w[3][h], key1, XOR3);
            w[1][h] = p1;
            w[3][h] = p0;
        }
    }
}

// keep: the bits of a block of 16 channels at eight pixels, 16 for each, as cpu_keep_bits draws them. The draws' blocks
// of the first pixel are `first` and first + 1, those of the next lie `step` further.
VEC_INLINE void vec_keep_bits(const CpuDraw *d, uint32_t first, uint32_t step, uint64_t keep[2]) {
    // Of four pixels, blocks 0 to 3 in the even lanes, 4 to 7 in the odd ones: so the words come out in order.
    const __m512i pixel = _mm512_setr_epi64(0, 2, 0, 2, 1, 3, 1, 3), half = _mm512_setr_epi64(0, 0, 1, 1, 0, 0, 1, 1);
    __m512i block = _mm512_add_epi64(_mm512_mul_epu32(pixel, _mm512_set1_epi64(step)), half), w[4][2];
    vec_philox(d, (__m512i[]){ _mm512_add_epi64(block, _mm512_set1_epi64(first)),
                               _mm512_add_epi64(block, _mm512_set1_epi64(first + 4 * step)) }, w);
    const __m512i p = _mm512_set1_epi16((short)d->p16);
    for (int h = 0; h < 2; h++) {
        __m512i low = _mm512_mask_blend_epi32(0xAAAA, w[0][h], _mm512_slli_epi64(w[1][h], 32));
        __m512i high = _mm512_mask_blend_epi32(0xAAAA, w[2][h], _mm512_slli_epi64(w[3][h], 32));
        uint64_t even = _mm512_cmpge_epu16_mask(_mm512_unpacklo_epi64(low, high), p);
        uint64_t odd = _mm512_cmpge_epu16_mask(_mm512_unpackhi_epi64(low, high), p);
        keep[h] = even | odd << 32;
    }
}
#endif
#endif
