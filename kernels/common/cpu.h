// kernels/common/cpu.h - what the CPU kernels share: a vectorizable exp, sums over columns, dropout's keep bits.
//
// The kernels are plain C; the compiler makes the vectors. Loops that it must vectorize are marked omp simd, reductions
// included: the order of additions is then fixed by the build. Build with -fno-math-errno, or loops with a square root
// (Adam, normal draws) stay scalar.
// Work is cut into pieces whose bounds depend on the shape alone, never on the number of threads.
#ifndef KERNELS_COMMON_CPU_H
#define KERNELS_COMMON_CPU_H
#include <omp.h>
#include "kernels/common/rng.h"
#include "kernels/common/types.h"

enum {
    CPU_WIDE = 256,        // most columns that a kernel keeps partial results of: 1 KiB of floats
    CPU_CHUNK = 1 << 14,   // elements of a piece of work in a long run: 64 KiB
};
static inline int64_t cpu_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t cpu_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// ---- functions
// e^x within 2 ulp for |x| <= 87.3; beyond that it stays at the end's value. NaN gives NaN.
// x = n ln 2 + f; n is rounded by adding 1.5 * 2^23, and its bits end up at the bottom of that sum, ready to be the
// exponent. The polynomial is that of the Cephes library (expf). The ends are set on the bits of |x|, as integers: of
// float comparisons gcc makes branches, and works the rest out for each.
static inline float cpu_exp(float given) {
    int32_t word, size;
    memcpy(&word, &given, 4);
    size = word & 0x7FFFFFFF;
    size = size < 0x42AEAC4F ? size : 0x42AEAC4F;            // 87.33654
    word = (word & INT32_MIN) | size;
    float x;
    memcpy(&x, &word, 4);
    float sum = x * 1.44269504f + 12582912.0f, n = sum - 12582912.0f;
    float f = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * (f * f) + f + 1.0f;
    uint32_t bits;
    memcpy(&bits, &sum, 4);
    bits = (bits + 127u) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return given != given ? given : p * power;
}
static inline float cpu_sigmoid(float x) { return 1.0f / (1.0f + cpu_exp(-x)); }
static inline float cpu_silu(float x) { return x / (1.0f + cpu_exp(-x)); }
static inline float cpu_silu_slope(float x) {
    float e = cpu_exp(-x), s = 1.0f / (1.0f + e);
    return s + (x * s) * (e * s);                  // 1 - sigmoid(x) = e s, without cancellation for large x
}

// ---- sums
// part (w) += the other columns of a row of `wide`, w apart: of the further pixels that were folded into it.
static inline void cpu_unfold(float *part, int w, int wide) {
    for (int j = w; j < wide; j += w) {
        for (int k = 0; k < w; k++) part[k] += part[j + k];
    }
}

// sum (w) = over rows of x (rows,w), ld elements from row to row; w <= CPU_WIDE. Dense rows are folded into longer
// ones, so that narrow panels (a block of 16 channels) keep many sums going at once.
static inline void cpu_column_sums(const float *x, int64_t rows, int64_t ld, int w, float *sum) {
    float part[CPU_WIDE] = { 0 };
    int fold = ld == w ? CPU_WIDE / w : 1, wide = fold * w;
    for (int64_t r = 0; r < rows; r += fold) {
        const float *row = x + r * ld;
        int cols = (int)cpu_min(wide, (rows - r) * w);
        #pragma omp simd
        for (int j = 0; j < cols; j++) part[j] += row[j];
    }
    cpu_unfold(part, w, wide);
    memcpy(sum, part, (size_t)w * sizeof *sum);
}

// The largest of n > 0 floats.
static inline float cpu_max(const float *x, int64_t n) {
    float part[16], top = x[0];
    for (int l = 0; l < 16; l++) part[l] = top;
    int64_t j = 0;
    for (; j + 16 <= n; j += 16) {
        for (int l = 0; l < 16; l++) part[l] = x[j + l] > part[l] ? x[j + l] : part[l];
    }
    for (; j < n; j++) top = x[j] > top ? x[j] : top;
    for (int l = 0; l < 16; l++) top = part[l] > top ? part[l] : top;
    return top;
}

// ---- draws
typedef struct { uint32_t seed[2], sample, step, purpose, p16; } CpuDraw;   // whose; p16: dropout's p * 65536
static inline CpuDraw cpu_draw(const StepState *st, uint32_t sample, uint32_t purpose, uint32_t p16) {
    return (CpuDraw){ { st->seed[0], st->seed[1] }, sample, st->step, purpose, p16 };
}
typedef struct { uint32_t v[4][16]; } CpuWords;                             // word w of sixteen blocks: v[w]

// rng.h's philox on sixteen blocks side by side, a word in the lower half of each 64-bit lane: vectors have a product
// for that. The rounds are written out, since compilers vectorize a loop over lanes only if no loop is left inside.
#define CPU_PHILOX_ROUND(i)                                                                                         \
    p0 = (uint64_t)0xD2511F53u * c0;                                                                                \
    p1 = (uint64_t)0xCD9E8D57u * c2;                                                                                \
    c0 = (p1 >> 32) ^ c1 ^ (k0 + (i) * 0x9E3779B9u);                                                                \
    c2 = (p0 >> 32) ^ c3 ^ (k1 + (i) * 0xBB67AE85u);                                                                \
    c1 = p1 & 0xFFFFFFFFu;                                                                                          \
    c3 = p0 & 0xFFFFFFFFu
static inline void cpu_philox(const CpuDraw *d, const uint32_t block[16], CpuWords *w) {
    uint32_t k0 = d->seed[0], k1 = d->seed[1], sample = d->sample, step = d->step, purpose = d->purpose;
    #pragma omp simd
    for (int l = 0; l < 16; l++) {
        uint64_t c0 = block[l], c1 = sample, c2 = step, c3 = purpose, p0, p1;
        CPU_PHILOX_ROUND(0u);
        CPU_PHILOX_ROUND(1u);
        CPU_PHILOX_ROUND(2u);
        CPU_PHILOX_ROUND(3u);
        CPU_PHILOX_ROUND(4u);
        CPU_PHILOX_ROUND(5u);
        CPU_PHILOX_ROUND(6u);
        CPU_PHILOX_ROUND(7u);
        CPU_PHILOX_ROUND(8u);
        CPU_PHILOX_ROUND(9u);
        w->v[0][l] = (uint32_t)c0;
        w->v[1][l] = (uint32_t)c1;
        w->v[2][l] = (uint32_t)c2;
        w->v[3][l] = (uint32_t)c3;
    }
}
#undef CPU_PHILOX_ROUND

// rng_normal4's pair of normals from two words, for sixteen blocks. No omp simd: clang warns where it cannot follow,
// as it cannot with errno to set.
static inline void cpu_normal_pairs(const uint32_t *restrict w0, const uint32_t *restrict w1, float *restrict first,
                                    float *restrict second) {
    for (int l = 0; l < 16; l++) {
        float u = (float)((w0[l] >> 8) + 1) * 5.9604645e-8f, s, c, r = sqrtf(-2.0f * rng_log(u));
        rng_sincos(w1[l] >> 8, &s, &c);
        first[l] = r * c;
        second[l] = r * s;
    }
}

// out (n): normals of elements 4 block, 4 block + 1, ...: the bits of rng_normal4.
static inline void cpu_normals(const CpuDraw *d, uint32_t block, int64_t n, float *out) {
    for (int64_t j = 0; j < n; j += 64) {
        uint32_t blocks[16];
        float pair[4][16], normal[64];
        CpuWords w;
        for (int l = 0; l < 16; l++) blocks[l] = block + (uint32_t)(j / 4) + (uint32_t)l;
        cpu_philox(d, blocks, &w);
        cpu_normal_pairs(w.v[0], w.v[1], pair[0], pair[1]);
        cpu_normal_pairs(w.v[2], w.v[3], pair[2], pair[3]);
        for (int e = 0; e < 64; e++) normal[e] = pair[e % 4][e / 4];
        memcpy(out + j, normal, (size_t)cpu_min(64, n - j) * sizeof *out);
    }
}

// ---- dropout
// block (pixels,per): of pixels that lie `step` blocks apart, each in `per` blocks from the first one's `first` on.
static inline void cpu_pixel_blocks(uint32_t *block, uint32_t first, uint32_t step, int pixels, int per) {
    if (per == 2) {                                          // C16: written out for the compiler
        for (int p = 0; p < pixels; p++) {
            block[2 * p] = first + (uint32_t)p * step;
            block[2 * p + 1] = first + (uint32_t)p * step + 1;
        }
    } else {
        for (int p = 0; p < pixels; p++) {
            for (int b = 0; b < per; b++) block[p * per + b] = first + (uint32_t)p * step + (uint32_t)b;
        }
    }
}

static inline float cpu_keep_scale(uint32_t p16) { return (float)(65536.0 / (65536.0 - (double)p16)); }

// keep[j], bit i: element 8 block[j] + i is kept; n of them.
static inline void cpu_keep_bits(const CpuDraw *d, const uint32_t *block, int n, uint8_t *keep) {
    for (int j = 0; j < n; j += 16) {
        bool full = n - j >= 16;
        uint32_t own[16] = { 0 }, p = d->p16;
        uint8_t byte[16];
        CpuWords w;
        if (!full) memcpy(own, block + j, (size_t)(n - j) * sizeof *own);
        cpu_philox(d, full ? block + j : own, &w);
        #pragma omp simd
        for (int l = 0; l < 16; l++) {
            uint32_t a = w.v[0][l], b = w.v[1][l], c = w.v[2][l], e = w.v[3][l];
            byte[l] = (uint8_t)((uint32_t)((a & 0xFFFFu) >= p) | (uint32_t)((a >> 16) >= p) << 1 |
                                (uint32_t)((b & 0xFFFFu) >= p) << 2 | (uint32_t)((b >> 16) >= p) << 3 |
                                (uint32_t)((c & 0xFFFFu) >= p) << 4 | (uint32_t)((c >> 16) >= p) << 5 |
                                (uint32_t)((e & 0xFFFFu) >= p) << 6 | (uint32_t)((e >> 16) >= p) << 7);
        }
        if (full) memcpy(keep + j, byte, 16);
        else      memcpy(keep + j, byte, (size_t)(n - j));
    }
}

// factor[j] = scale if bit `first + j` of mask is set, else 0; n of them. Fast for n and first divisible by 16 and 8.
static inline void cpu_mask_factors(const uint8_t *mask, int64_t first, int n, float scale, float *factor) {
    int j = 0;
    if (first % 8 == 0) {
        for (; j + 16 <= n; j += 16) {
            uint32_t bits = mask[(first + j) / 8] | (uint32_t)mask[(first + j) / 8 + 1] << 8;
            #pragma omp simd
            for (int l = 0; l < 16; l++) factor[j + l] = scale * (float)(int32_t)((bits >> l) & 1u);
        }
    }
    for (; j < n; j++) factor[j] = (mask[(first + j) / 8] >> ((first + j) % 8)) & 1 ? scale : 0.0f;
}

// Every one of n elements is kept. Bits beyond them are 0, as everywhere.
static inline void cpu_mask_fill(uint8_t *mask, int64_t n) {
    memset(mask, 0xFF, (size_t)(n / 8));
    if (n % 8) mask[n / 8] = (uint8_t)((1u << (n % 8)) - 1);
}

// Drops elements of an image tensor stored densely, whatever its channel count: y = x keep / (1 - p), and the mask
// (NULL: not wanted, as y). One task per eight elements as stored, so that no two write the same byte. x may be y.
static inline void cpu_dropout_any(const StepState *st, const uint32_t *sample, uint32_t purpose, uint32_t p16,
                                   Layout l, int n, int64_t hw, int c, int ldx, int ldy, const float *x, float *y,
                                   uint8_t *mask) {
    int64_t total = n * hw * c;
    float scale = cpu_keep_scale(p16);
    #pragma omp parallel for schedule(static)
    for (int64_t byte = 0; byte < (total + 7) / 8; byte++) {
        uint32_t bits = 0;
        for (int64_t e = byte * 8; e < cpu_min(total, byte * 8 + 8); e++) {
            int64_t i = e / (hw * c), rest = e % (hw * c), p = rest / c, k = rest % c;
            if (l == LAYOUT_C16) {
                p = rest / 16 % hw;
                k = rest / (16 * hw) * 16 + rest % 16;
            }
            uint32_t logical = (uint32_t)(p * c + k);
            Philox w = philox(st->seed, logical / 8, sample[i], st->step, purpose);
            bool keep = rng_keep(w.v, (int)(logical % 8), p16);
            bits |= (uint32_t)keep << (e - byte * 8);
            if (y) y[layout_index(l, hw, ldy, i, p, k)] = keep ? x[layout_index(l, hw, ldx, i, p, k)] * scale : 0.0f;
        }
        if (mask) mask[byte] = (uint8_t)bits;
    }
}
#endif
