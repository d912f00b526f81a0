// tests/emu/probe.c - the conformance program: do the emulation and this machine's GPU do what the PTX ISA says?
//
//   probe [WORD]     every word (or one) on random bits: the emulation against formulas written here from the ISA's
//                    pictures and tables, then the GPU against the emulation. One line per word: "ok", "differs" with
//                    the cases and their first elements, "not run" where there is no GPU that has the word. Of one
//                    word every case is named before the GPU runs it, which it may not survive.
//   probe --list     the words
// Exit status 1 if anything differs that is not marked as reported only.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/device.h"
#include "kernels/common/bf16.h"
#include "kernels/emu/host.h"
#include "tests/emu/probe.h"

#define DECLARE(name) ProbeRun PROBE_NAME(name, EMU), PROBE_NAME(name, CUDA)
DECLARE(ldmatrix); DECLARE(mma); DECLARE(copy);
DECLARE(stmatrix); DECLARE(wgmma); DECLARE(tma_load); DECLARE(tma_store); DECLARE(mbarrier); DECLARE(cluster);
DECLARE(registers);
#ifdef PROBE_CUDA
#define RUNS(name) { PROBE_NAME(name, EMU), PROBE_NAME(name, CUDA) }
#else
#define RUNS(name) { PROBE_NAME(name, EMU), NULL }
#endif
#ifdef PROBE_CUDA_SM90
#define RUNS90(name) RUNS(name)
#else
#define RUNS90(name) { PROBE_NAME(name, EMU), NULL }
#endif

typedef struct Case Case;
struct Case {
    const char *word, *what;
    ProbeRun   *run[2];                                      // on emu, on cuda
    int         cc;
    void      (*fill)(const Case *c, uint8_t *in);
    void      (*expect)(const Case *c, const uint8_t *in, uint8_t *out);
    size_t      in_bytes, out_bytes;
    int         arg[WG_ARGS];
    bool        rounds;                  // floats: equal to rounding, not bit for bit
    bool        undocumented;            // the ISA does not say: reported, no failure
};

// ---- random input
static uint64_t random_state = 0x9E3779B97F4A7C15ull;
static uint32_t random_word(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}
static void random_bytes(uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)random_word();
}
static uint16_t small_bf16(void) { return bf16_from_float((float)(int)(random_word() % 7) - 3); }   // sums are exact

// ---- ldmatrix, stmatrix: lane 8 i + j names row j of matrix i; lane l holds row l / 4, elements 2 (l % 4) and + 1
static const int *row_numbers(const uint8_t *in) { return (const int *)(in + PROBE_ROWS * 16); }
static void matrix_fill(const Case *c, uint8_t *in) {
    int *row = (int *)(in + PROBE_ROWS * 16), deck[PROBE_ROWS];
    random_bytes(in, c->in_bytes);
    for (int i = 0; i < PROBE_ROWS; i++) deck[i] = i;
    for (int i = 0; i < 32; i++) {                           // distinct rows, as stmatrix needs
        int j = i + (int)(random_word() % (uint32_t)(PROBE_ROWS - i)), t = deck[i];
        row[i] = deck[j];
        deck[j] = t;
    }
}
static void ldmatrix_expect(const Case *c, const uint8_t *in, uint8_t *out) {
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < c->arg[0]; i++) {
            for (int e = 0; e < 2; e++) {
                int r = lane / 4, k = 2 * (lane % 4) + e;
                if (c->arg[1]) { int t = r; r = k; k = t; }
                memcpy(out + lane * 16 + i * 4 + e * 2, in + row_numbers(in)[8 * i + r] * 16 + k * 2, 2);
            }
        }
    }
}
static void stmatrix_expect(const Case *c, const uint8_t *in, uint8_t *out) {
    const uint8_t *words = in + PROBE_ROWS * 16 + 128;
    memcpy(out, in, PROBE_ROWS * 16);
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 4; i++) {
            for (int e = 0; e < 2; e++) {
                int r = lane / 4, k = 2 * (lane % 4) + e;
                if (c->arg[1]) { int t = r; r = k; k = t; }
                memcpy(out + row_numbers(in)[8 * i + r] * 16 + k * 2, words + lane * 16 + i * 4 + e * 2, 2);
            }
        }
    }
}

// ---- mma.m16n8k16: which element of A, B, D each lane's i-th half word or float is ("Matrix Fragments")
static void a_element(int lane, int i, int *row, int *col) {             // i in 0..7
    *row = lane / 4 + (i == 2 || i == 3 || i == 6 || i == 7 ? 8 : 0);
    *col = lane % 4 * 2 + i % 2 + (i >= 4 ? 8 : 0);
}
static void b_element(int lane, int i, int *row, int *col) {             // i in 0..3
    *row = lane % 4 * 2 + i % 2 + (i >= 2 ? 8 : 0);
    *col = lane / 4;
}
static void d_element(int lane, int i, int *row, int *col) {             // i in 0..3
    *row = lane / 4 + (i >= 2 ? 8 : 0);
    *col = lane % 4 * 2 + i % 2;
}
static void mma_fill(const Case *c, uint8_t *in) {
    for (int lane = 0; lane < 32; lane++) {
        uint16_t *half = (uint16_t *)(in + lane * 40);
        float *d = (float *)(in + lane * 40 + 24);
        for (int i = 0; i < 12; i++)
            half[i] = c->rounds ? bf16_from_float((float)(int)random_word() * 0x1p-31f) : small_bf16();
        for (int i = 0; i < 4; i++)
            d[i] = c->rounds ? (float)(int)random_word() * 0x1p-29f : (float)(int)(random_word() % 201) - 100;
    }
}
static void mma_expect(const Case *c, const uint8_t *in, uint8_t *out) {
    double a[16][16], b[16][8], d[16][8];
    int row, col;
    (void)c;
    for (int lane = 0; lane < 32; lane++) {
        const uint16_t *half = (const uint16_t *)(in + lane * 40);
        for (int i = 0; i < 8; i++) {
            a_element(lane, i, &row, &col);
            a[row][col] = (double)bf16_to_float(half[i]);
        }
        for (int i = 0; i < 4; i++) {
            b_element(lane, i, &row, &col);
            b[row][col] = (double)bf16_to_float(half[8 + i]);
        }
        for (int i = 0; i < 4; i++) {
            d_element(lane, i, &row, &col);
            d[row][col] = (double)((const float *)(in + lane * 40 + 24))[i];
        }
    }
    for (row = 0; row < 16; row++) {
        for (col = 0; col < 8; col++) {
            for (int k = 0; k < 16; k++) d[row][col] += a[row][k] * b[k][col];
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 4; i++) {
            d_element(lane, i, &row, &col);
            ((float *)out)[4 * lane + i] = (float)d[row][col];
        }
    }
}

static void copy_fill(const Case *c, uint8_t *in) { random_bytes(in, c->in_bytes); }
static void copy_expect(const Case *c, const uint8_t *in, uint8_t *out) {
    memset(out, 0, c->out_bytes);
    for (int t = 0; t < 64; t++) {
        memcpy(out + 16 * t, in + 16 * t, (size_t)(t % 17));
        memcpy(out + 1024 + 4 * t, in + 1024 + 4 * t, (size_t)(t % 5));
    }
}

// ---- wgmma operands: core matrices of 8 rows of 16 bytes, or atoms of 8 rows as wide as the swizzle whose 16-byte
// chunks are permuted within each row ("Shared Memory Matrix Layout"). All tiles here begin where the pattern does.
static int chunk_swizzled(int chunk, int row, int width) {
    return width == 128 ? chunk ^ row : width == 64 ? chunk ^ row / 2 : width == 32 ? chunk ^ row / 4 : chunk;
}
static int wg_operand_byte(int mn, int k, bool mn_major, int width, int leading, int stride) {
    int fast = mn_major ? mn : k, slow = mn_major ? k : mn;
    int in_chunk = fast % 8 * 2, row = slow % 8;
    if (!width) {                                            // apart by `leading` along k, by `stride` along mn
        return mn / 8 * stride + k / 8 * leading + row * 16 + in_chunk;
    }
    int chunk = chunk_swizzled(fast % (width / 2) / 8, row, width), at = row * width + chunk * 16 + in_chunk;
    return at + (mn_major ? fast / (width / 2) * leading + slow / 8 * stride : slow / 8 * stride);
}
static int wg_a(const Case *c, int m, int k) {
    const int *z = c->arg;
    return z[WG_START] + wg_operand_byte(m, k, z[WG_TA], z[WG_SWIZZLE_A], z[WG_LEADING_A], z[WG_STRIDE_A]);
}
static int wg_b(const Case *c, int n, int k) {
    const int *z = c->arg;
    return PROBE_B + wg_operand_byte(n, k, z[WG_TB], z[WG_SWIZZLE_B], z[WG_LEADING_B], z[WG_STRIDE_B]);
}
static void wgmma_fill(const Case *c, uint8_t *in) {
    for (size_t i = 0; i < c->in_bytes; i += 2) {
        uint16_t h = small_bf16();
        memcpy(in + i, &h, 2);
    }
}
static float half_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, 2);
    return bf16_to_float(h);
}
static float wg_a_value(const Case *c, const uint8_t *in, int m, int k) {
    if (!c->arg[WG_REGISTERS]) return half_at(in + wg_a(c, m, k));
    for (int lane = 0; lane < 32; lane++) {                  // the warp's fragment, the same for every step of k
        for (int i = 0; i < 8; i++) {
            int row, col;
            a_element(lane, i, &row, &col);
            if (row == m % 16 && col == k % 16) return half_at(in + PROBE_SHARED + (m / 16 * 32 + lane) * 16 + 2 * i);
        }
    }
    return NAN;
}
static void wgmma_expect(const Case *c, const uint8_t *in, uint8_t *out) {
    int n = c->arg[WG_N];
    static float d[64][256];
    for (int m = 0; m < 64; m++) {
        for (int j = 0; j < n; j++) {
            // RS adds to what the registers held
            int w = m / 16, g = m % 8, h = m % 16 / 8, lane = g * 4 + j % 8 / 2, i = j / 8 * 4 + h * 2 + j % 2;
            d[m][j] = c->arg[WG_REGISTERS] ? (float)(i + w * 32 + lane) : 0;
        }
    }
    for (int m = 0; m < 64; m++) {
        for (int k = 0; k < 16 * c->arg[WG_STEPS]; k++) {
            float a = wg_a_value(c, in, m, k);
            for (int j = 0; j < n; j++) d[m][j] += a * half_at(in + wg_b(c, j, k));
        }
    }
    for (int t = 0; t < 128; t++) {
        for (int i = 0; i < n / 2; i++) {
            int row, col;
            d_element(t % 32, i % 4, &row, &col);
            ((float *)out)[t * (n / 2) + i] = d[t / 32 * 16 + row][i / 4 * 8 + col];
        }
    }
}

// ---- TMA
const ProbeBox probe_box[PROBE_BOXES] = {
    { "rank 1, past the end", DT_F32, 1, 0, { 300 }, { 0 }, { 64 }, { 1 }, { 260 } },
    { "rank 2, 128-byte rows swizzled", DT_BF16, 2, 128, { 200, 40 }, { 416 }, { 64, 24 }, { 1, 1 }, { 24, 8 } },
    { "rank 2, outside on all sides", DT_BF16, 2, 128, { 40, 10 }, { 80 }, { 64, 32 }, { 1, 1 }, { -9, -7 } },
    { "rank 3, 64-byte rows swizzled", DT_BF16, 3, 64, { 64, 9, 7 }, { 128, 1152 }, { 32, 8, 5 }, { 1, 1, 1 },
      { 32, 4, -2 } },
    { "rank 4, an image with its padding", DT_BF16, 4, 128, { 64, 8, 8, 6 }, { 128, 1024, 8192 }, { 64, 8, 4, 3 },
      { 1, 1, 1, 1 }, { 0, -1, 5, 2 } },
    { "rank 4, every second pixel", DT_BF16, 4, 128, { 64, 8, 8, 4 }, { 128, 1024, 8192 }, { 64, 8, 7, 2 },
      { 1, 2, 2, 1 }, { 0, 1, -1, 3 } },
    { "rank 5, 32-byte rows swizzled", DT_BF16, 5, 32, { 32, 4, 3, 5, 4 }, { 64, 256, 768, 3840 }, { 16, 4, 2, 3, 2 },
      { 1, 1, 1, 3, 1 }, { 16, 1, -1, 1, 2 } },
    { "rank 2, bytes", DT_U8, 2, 0, { 100, 30 }, { 112 }, { 48, 11 }, { 1, 1 }, { 77, 22 } },
    { "rank 2, floats swizzled", DT_F32, 2, 128, { 70, 20 }, { 288 }, { 32, 16 }, { 1, 1 }, { 40, 7 } },
};
static int box_extent(const ProbeBox *b, int d) { return (int)((b->box[d] + b->step[d] - 1) / b->step[d]); }
static int box_element(const ProbeBox *b) { return b->dt == DT_F32 ? 4 : b->dt == DT_BF16 ? 2 : 1; }

// Calls for every element of the box: where it lies in the tensor (-1: nowhere) and in shared memory.
static void box_walk(const ProbeBox *b, void (*each)(int tensor, int shared, int bytes, void *ctx), void *ctx) {
    int at[5] = { 0 }, bytes = box_element(b), packed = 0, total = 1;
    for (int d = 0; d < b->rank; d++) total *= box_extent(b, d);
    for (int i = 0; i < total; i++, packed += bytes) {
        int64_t tensor = 0;
        bool inside = true;
        for (int d = 0; d < b->rank; d++) {
            int64_t c = b->start[d] + (int64_t)at[d] * (int64_t)b->step[d];
            inside = inside && c >= 0 && c < (int64_t)b->dim[d];
            tensor += c * (d ? (int64_t)b->stride[d - 1] : bytes);
        }
        // the pattern repeats every 8 lines of 128 bytes; rows narrower than a line share one
        int line = packed / 128 % 8, chunk = packed / 16;
        int swizzled = b->swizzle == 128 ? chunk ^ line : b->swizzle == 64 ? chunk ^ line % 4
                       : b->swizzle == 32 ? chunk ^ line % 2 : chunk;
        each(inside ? (int)tensor : -1, swizzled * 16 + packed % 16, bytes, ctx);
        for (int d = 0; d < b->rank && ++at[d] == box_extent(b, d); d++) at[d] = 0;
    }
}
typedef struct { const uint8_t *from; uint8_t *to; } Move;
static void load_element(int tensor, int shared, int bytes, void *ctx) {
    Move *m = ctx;
    if (tensor < 0) memset(m->to + shared, 0, (size_t)bytes);
    else memcpy(m->to + shared, m->from + tensor, (size_t)bytes);
}
static void store_element(int tensor, int shared, int bytes, void *ctx) {
    Move *m = ctx;
    if (tensor >= 0) memcpy(m->to + tensor, m->from + shared, (size_t)bytes);
}
static void tma_load_expect(const Case *c, const uint8_t *in, uint8_t *out) {
    Move m = { in, out };
    box_walk(&probe_box[c->arg[0]], load_element, &m);
}
static void tma_store_expect(const Case *c, const uint8_t *in, uint8_t *out) {
    Move m = { in + PROBE_TENSOR, out };
    box_walk(&probe_box[c->arg[0]], store_element, &m);
}

static void mbarrier_expect(const Case *c, const uint8_t *in, uint8_t *out) {
    uint32_t *o = (uint32_t *)out;
    (void)c;
    (void)in;
    for (uint32_t phase = 0; phase < 4; phase++) {
        o[4 * phase] = 0;
        o[4 * phase + 1] = 1;
        o[4 * phase + 2] = 1;
        o[4 * phase + 3] = 64 * 63 / 2 + 64 * phase;
    }
}
static void cluster_expect(const Case *c, const uint8_t *in, uint8_t *out) {
    (void)c;
    for (uint32_t rank = 0; rank < 2; rank++) {
        uint8_t *o = out + rank * 1024;
        memcpy(o, in + (rank ^ 1) * 128, 128);
        memcpy(o + 128, in, 512);
        for (uint32_t t = 0; t < 32; t++) ((uint32_t *)(o + 640))[t] = (rank ^ 1) * 100 + 31 - t;
    }
}
static void registers_expect(const Case *c, const uint8_t *in, uint8_t *out) {
    (void)c;
    for (int t = 0; t < 256; t++) memcpy(out + 4 * t, in + 4 * (255 - t), 4);
}

// ---- the table
#define LDMATRIX(what, ...)                                                                                         \
    { "ldmatrix", what, RUNS(ldmatrix), 80, matrix_fill, ldmatrix_expect, PROBE_ROWS * 16 + 128 + 512, 512,         \
      { __VA_ARGS__ }, false, false }
#define STMATRIX(what, t)                                                                                           \
    { "stmatrix", what, RUNS90(stmatrix), 90, matrix_fill, stmatrix_expect, PROBE_ROWS * 16 + 128 + 512,            \
      PROBE_ROWS * 16, { 4, t }, false, false }
// K-major: a row of `width` bytes holds steps of 16; plain: core matrices k next to k, then mn. MN-major: likewise.
#define WGMMA_CASE(what, n, ta, la, sa, wa, tb, lb, sb, wb, steps, da, db, start, registers, undocumented)          \
    { registers ? "wgmma, a in registers" : undocumented ? "wgmma, start inside the pattern" : "wgmma", what,       \
      RUNS90(wgmma), 90, wgmma_fill, wgmma_expect, PROBE_SHARED + 2048, (n) * 256,                                  \
      { n, ta, tb, la, sa, wa, lb, sb, wb, steps, da, db, start, registers }, false, undocumented }
#define KMAJOR_128 0, 16, 1024, 128
#define KMAJOR_64  0, 16, 512, 64
#define KMAJOR_32  0, 16, 256, 32
#define KMAJOR_0(steps)   0, 128, 256 * (steps), 0
#define MNMAJOR_128(steps) 1, 2048 * (steps), 1024, 128
#define MNMAJOR_64(steps)  1, 1024 * (steps), 512, 64
#define MNMAJOR_32(steps)  1, 512 * (steps), 256, 32
#define MNMAJOR_0(steps)   1, 128, 256 * (steps), 0
#define WGMMA_(...) WGMMA_CASE(__VA_ARGS__)
#define BOX(word, i, expected, in_bytes, out_bytes)                                                                 \
    { #word, NULL, RUNS90(word), 90, copy_fill, expected, in_bytes, out_bytes, { i }, false, false }
#define LOAD(i)  BOX(tma_load, i, tma_load_expect, PROBE_TENSOR, PROBE_BOX)
#define STORE(i) BOX(tma_store, i, tma_store_expect, PROBE_TENSOR + PROBE_BOX, PROBE_TENSOR)
static const Case cases[] = {
    LDMATRIX("x4", 4, 0), LDMATRIX("x4 transposed", 4, 1), LDMATRIX("x2", 2, 0), LDMATRIX("x2 transposed", 2, 1),
    { "mma", "small integers", RUNS(mma), 80, mma_fill, mma_expect, 32 * 40, 512, { 0 }, false, false },
    { "mma", "random reals", RUNS(mma), 80, mma_fill, mma_expect, 32 * 40, 512, { 0 }, true, false },
    { "cp.async", "zero fill", RUNS(copy), 80, copy_fill, copy_expect, 1024 + 256, 1024 + 256, { 0 }, false, false },
    STMATRIX("x4", 0), STMATRIX("x4 transposed", 1),
    WGMMA_("K-major 128", 64, KMAJOR_128, KMAJOR_128, 4, 32, 32, 0, 0, false),
    WGMMA_("K-major 64", 64, KMAJOR_64, KMAJOR_64, 2, 32, 32, 0, 0, false),
    WGMMA_("K-major 32", 64, KMAJOR_32, KMAJOR_32, 1, 32, 32, 0, 0, false),
    WGMMA_("K-major plain", 64, KMAJOR_0(2), KMAJOR_0(2), 2, 256, 256, 0, 0, false),
    WGMMA_("b MN-major 128", 64, KMAJOR_128, MNMAJOR_128(4), 4, 32, 2048, 0, 0, false),
    WGMMA_("b MN-major 64", 64, KMAJOR_128, MNMAJOR_64(4), 4, 32, 1024, 0, 0, false),
    WGMMA_("b MN-major 32", 64, KMAJOR_128, MNMAJOR_32(4), 4, 32, 512, 0, 0, false),
    WGMMA_("b MN-major plain", 64, KMAJOR_128, MNMAJOR_0(4), 4, 32, 256, 0, 0, false),
    WGMMA_("a MN-major 128", 64, MNMAJOR_128(4), KMAJOR_128, 4, 2048, 32, 0, 0, false),
    WGMMA_("a MN-major 64", 64, MNMAJOR_64(4), KMAJOR_128, 4, 1024, 32, 0, 0, false),
    WGMMA_("a MN-major 32", 64, MNMAJOR_32(4), KMAJOR_128, 4, 512, 32, 0, 0, false),
    WGMMA_("a MN-major plain", 64, MNMAJOR_0(4), KMAJOR_128, 4, 256, 32, 0, 0, false),
    WGMMA_("both MN-major 128", 64, MNMAJOR_128(2), MNMAJOR_128(2), 2, 2048, 2048, 0, 0, false),
    WGMMA_("n = 8", 8, KMAJOR_128, KMAJOR_128, 4, 32, 32, 0, 0, false),
    WGMMA_("n = 16", 16, KMAJOR_128, KMAJOR_128, 4, 32, 32, 0, 0, false),
    WGMMA_("n = 32", 32, KMAJOR_128, KMAJOR_128, 4, 32, 32, 0, 0, false),
    WGMMA_("n = 96", 96, KMAJOR_128, KMAJOR_128, 4, 32, 32, 0, 0, false),
    WGMMA_("n = 128", 128, KMAJOR_128, KMAJOR_128, 4, 32, 32, 0, 0, false),
    WGMMA_("n = 192", 192, KMAJOR_128, KMAJOR_128, 4, 32, 32, 0, 0, false),
    WGMMA_("n = 256, both MN-major", 256, MNMAJOR_128(2), MNMAJOR_128(2), 2, 2048, 2048, 0, 0, false),
    WGMMA_("b K-major", 64, KMAJOR_128, KMAJOR_128, 2, 0, 32, 0, 1, false),
    WGMMA_("b MN-major", 64, KMAJOR_128, MNMAJOR_128(2), 2, 0, 2048, 0, 1, false),
    WGMMA_("128 bytes after 1024", 64, KMAJOR_128, KMAJOR_128, 4, 32, 32, 128, 0, true),
    WGMMA_("512 bytes after 1024", 64, KMAJOR_128, KMAJOR_128, 4, 32, 32, 512, 0, true),
    LOAD(0), LOAD(1), LOAD(2), LOAD(3), LOAD(4), LOAD(5), LOAD(6), LOAD(7), LOAD(8),
    STORE(0), STORE(1), STORE(2), STORE(3), STORE(4), STORE(5), STORE(6), STORE(7), STORE(8),
    { "mbarrier", "parities", RUNS90(mbarrier), 90, copy_fill, mbarrier_expect, 16, 64, { 0 }, false, false },
    { "cluster", "peer memory, arrivals, multicast", RUNS90(cluster), 90, copy_fill, cluster_expect, 512, 2048, { 0 },
      false, false },
    { "setmaxnreg, griddepcontrol", "values", RUNS90(registers), 90, copy_fill, registers_expect, 1024, 1024, { 0 },
      false, false },
};
enum { CASES = sizeof cases / sizeof *cases };

// ---- running
static void emu_run(const Case *c, const uint8_t *in, uint8_t *out) {
    void *device_in = emu_malloc(c->in_bytes), *device_out = emu_malloc(c->out_bytes);
    emu_host_write(device_in, in, c->in_bytes);
    emu_device_set(device_out, 0xCD, c->out_bytes);
    c->run[0](stream_host(), device_in, device_out, c->arg);
    emu_host_read(out, device_out, c->out_bytes);
    emu_free(device_in);
    emu_free(device_out);
}
static void cuda_run(Device *d, const Case *c, const uint8_t *in, uint8_t *out) {
    void *device_in = device_alloc(d, c->in_bytes), *device_out = device_alloc(d, c->out_bytes);
    memset(out, 0xCD, c->out_bytes);
    device_write(d, device_in, in, c->in_bytes);
    device_write(d, device_out, out, c->out_bytes);
    c->run[1](device_stream(d, 0), device_in, device_out, c->arg);
    device_sync(d);
    device_read(d, out, device_out, c->out_bytes);
    device_free(d, device_in);
    device_free(d, device_out);
}

// Do the words of four bytes at i differ? Sums of 17 terms below 1 (k = 16, and d below 8): each of the at most 17
// additions errs by less than an ulp of the largest partial sum, 2^-23 of 24, on either side.
static bool differ(const Case *c, const uint8_t *x, const uint8_t *y, size_t i) {
    if (!c->rounds) return memcmp(x + i, y + i, 4) != 0;
    float a, b;
    memcpy(&a, x + i, 4);
    memcpy(&b, y + i, 4);
    return !(fabsf(a - b) <= 2 * 17 * 24 * 0x1p-23f);
}

static const char *case_name(const Case *c) { return c->what ? c->what : probe_box[c->arg[0]].what; }
typedef enum { NOT_RUN, OK, DIFFERS } Verdict;
static Verdict compare(const char *pair, const Case *c, const uint8_t *x, const uint8_t *y) {
    enum { SHOWN = 6 };
    int wrong = 0;
    for (size_t i = 0; i < c->out_bytes; i += 4) wrong += differ(c, x, y, i);
    if (!wrong) return OK;
    printf("  %s: %s: %s: %d of %zu words differ%s:", c->word, case_name(c), pair, wrong, c->out_bytes / 4,
           c->undocumented ? " (undocumented: reported only)" : "");
    for (size_t i = 0, shown = 0; i < c->out_bytes && shown < SHOWN; i += 4) {
        uint32_t a, b;
        if (!differ(c, x, y, i)) continue;
        memcpy(&a, x + i, 4);
        memcpy(&b, y + i, 4);
        printf(" byte %zu is %08x not %08x;", i, a, b);
        shown++;
    }
    putchar('\n');
    return DIFFERS;
}

static void *zeroed(size_t n) {
    void *p = calloc(1, n);
    CHECK(p, "%zu bytes", n);
    return p;
}

static int list_words(void) {
    for (int i = 0; i < CASES; i++)
        if (i == 0 || strcmp(cases[i].word, cases[i - 1].word)) puts(cases[i].word);
    return 0;
}

int main(int argc, char **argv) {
    Error err = { 0, "built without nvcc" };
    if (argc > 1 && !strcmp(argv[1], "--list")) return list_words();
    Device *cuda = NULL;
#ifdef PROBE_CUDA
    cuda = device_open("cuda", &err);
#endif
    printf("probe: emu against the PTX ISA's tables; %s\n", cuda ? "cuda against emu" : err.msg);
    bool failed = false;
    for (int i = 0; i < CASES;) {
        const char *word = cases[i].word;
        Verdict verdict[2] = { NOT_RUN, NOT_RUN };
        bool undocumented = cases[i].undocumented;
        for (; i < CASES && !strcmp(cases[i].word, word); i++) {
            const Case *c = &cases[i];
            if (argc > 1 && strcmp(argv[1], word)) continue;
            uint8_t *in = zeroed(c->in_bytes), *expected = zeroed(c->out_bytes), *out[2];
            for (int k = 0; k < 2; k++) out[k] = zeroed(c->out_bytes);
            c->fill(c, in);
            memset(expected, 0xCD, c->out_bytes);
            c->expect(c, in, expected);
            emu_options()->quiet = c->undocumented;          // such a start is a fault anywhere else
            emu_clear();
            emu_run(c, in, out[0]);
            if (!c->undocumented) {
                if (emu_faults()) verdict[0] = DIFFERS;
                Verdict v = compare("emu, the ISA", c, out[0], expected);
                verdict[0] = v > verdict[0] ? v : verdict[0];
            }
            if (cuda && c->run[1] && device_cc(cuda) >= c->cc && (c->cc < 90 || device_cc(cuda) == 90)) {
                if (argc > 1) printf("  %s: %s\n", word, case_name(c));
                fflush(stdout);
                cuda_run(cuda, c, in, out[1]);
                Verdict v = compare("cuda, emu", c, out[1], out[0]);
                verdict[1] = v > verdict[1] ? v : verdict[1];
            }
            emu_clear();
            free(in);
            free(expected);
            free(out[0]);
            free(out[1]);
        }
        static const char *const text[] = { "not run", "ok", "differs" };
        if (argc > 1 && strcmp(argv[1], word)) continue;
        printf("%-32s emu %-8s cuda %s%s\n", word, undocumented ? "unknown" : text[verdict[0]], text[verdict[1]],
               verdict[1] == NOT_RUN ? cuda ? " (not this GPU's)" : " (no GPU)" : "");
        failed = failed || (!undocumented && (verdict[0] == DIFFERS || verdict[1] == DIFFERS));
    }
    device_close(cuda);
    return failed;
}
