// kernels/common/rng.h - random draws as a pure function of (seed, step, sample, element, purpose).
//
// Philox4x32-10 (Salmon et al., SC 2011): key = seed, counter = (block, sample, step, purpose). A block of four 32-bit
// words serves four normals (element / 4) or eight dropout decisions of 16 bits (element / 8). Elements count in
// logical NHWC. Normals come from Box-Muller with a log and a sincos that leave a compiler nothing to fuse or reorder:
// where a product meets a sum, it stands in an fmaf. So every backend draws the same bits, unless it is compiled with
// -ffast-math or nvcc's -use_fast_math, which replace the square root.
#ifndef KERNELS_RNG_H
#define KERNELS_RNG_H
#include <math.h>
#include <string.h>
#include "kernels/common/types.h"
#if defined(__CUDACC__)
#define RNG_FN static __host__ __device__ __forceinline__
#else
#define RNG_FN static inline
#endif
typedef struct { uint32_t v[4]; } Philox;

RNG_FN Philox philox(const uint32_t seed[2], uint32_t block, uint32_t sample, uint32_t step, uint32_t purpose) {
    uint32_t c0 = block, c1 = sample, c2 = step, c3 = purpose, k0 = seed[0], k1 = seed[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    Philox r = { { c0, c1, c2, c3 } };
    return r;
}

// ln(x) for 0 < x <= 1, normal floats; error below 1 ulp (measured on all of them), ln(1) = 0.
RNG_FN float rng_log(float x) {
    uint32_t b;
    memcpy(&b, &x, 4);
    int e = (int)(b >> 23) - 127;
    b = (b & 0x7FFFFFu) | 0x3F800000u;                        // m in [1, 2)
    if (b > 0x3FB504F3u) { b -= 0x800000u; e++; }             // m in (sqrt(1/2), sqrt(2)]
    float m;
    memcpy(&m, &b, 4);
    float f = m - 1.0f, fe = (float)e;                        // both exact
    // ln(1+f) = f - f^2/2 + f^3 P(f); P is the minimax polynomial of degree 8 of the Cephes library (logf)
    float p = 7.0376836292e-2f;
    p = fmaf(p, f, -1.1514610310e-1f);
    p = fmaf(p, f, 1.1676998740e-1f);
    p = fmaf(p, f, -1.2420140846e-1f);
    p = fmaf(p, f, 1.4249322787e-1f);
    p = fmaf(p, f, -1.6668057665e-1f);
    p = fmaf(p, f, 2.0000714765e-1f);
    p = fmaf(p, f, -2.4999993993e-1f);
    p = fmaf(p, f, 3.3333331174e-1f);
    float f2 = f * f, r = f2 * f;
    r = fmaf(p, r, fe * -2.12194440e-4f);                     // ln 2 = 0.693359375 - 2.12194440e-4
    r = fmaf(-0.5f, f2, r);
    return fmaf(fe, 0.693359375f, f + r);
}

// sine and cosine of 2 pi u for u = k / 2^24, 0 <= k < 2^24: the quadrant is read off the integer k. Error below 2 ulp
// (measured on all k), most of it from the argument; exact at whole quarter turns.
RNG_FN void rng_sincos(uint32_t k, float *s, float *c) {
    uint32_t q = (k + (1u << 21)) >> 22;                      // nearest multiple of a quarter turn
    float x = (float)((int32_t)k - (int32_t)(q << 22)) * 3.7450703e-7f;   // 2 pi / 2^24; |x| <= pi / 4
    float z = x * x;
    float sp = fmaf(fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f), z, -1.6666654611e-1f);
    float cp = fmaf(fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f), z, 4.166664568298827e-2f);
    float sn = fmaf(sp * z, x, x), cs = fmaf(cp * z, z, fmaf(-0.5f, z, 1.0f));
    float a = q & 1 ? cs : sn, b = q & 1 ? sn : cs;
    *s = q & 2 ? -a : a;
    *c = (q + 1) & 2 ? -b : b;
}

// Four standard normals from one block: words 0, 1 give the first two, 2, 3 the others (Box and Muller 1958).
RNG_FN void rng_normal4(const uint32_t w[4], float out[4]) {
    for (int i = 0; i < 2; i++) {
        float u = (float)((w[2 * i] >> 8) + 1) * 0x1p-24f, s, c;               // (0, 1], exact
        float r = sqrtf(-2.0f * rng_log(u));
        rng_sincos(w[2 * i + 1] >> 8, &s, &c);
        out[2 * i] = fmaf(r, c, 0.0f);                        // a plain product could melt into a caller's addition
        out[2 * i + 1] = fmaf(r, s, 0.0f);
    }
}

// [0, 1) with 24 bits.
RNG_FN float rng_uniform(uint32_t w) { return (float)(w >> 8) * 0x1p-24f; }
// 0..n-1 with a bias below n / 2^32.
RNG_FN uint32_t rng_below(uint32_t w, uint32_t n) { return (uint32_t)(((uint64_t)w * n) >> 32); }
// Lane i of the eight 16-bit lanes of a block, low half first: kept unless below p16.
RNG_FN bool rng_keep(const uint32_t w[4], int i, uint32_t p16) {
    return ((w[i / 2] >> (16 * (i % 2))) & 0xFFFFu) >= p16;
}
#endif
