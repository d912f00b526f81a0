// kernels/attention/attention_mma.cu - softmax attention in bf16 on tensor cores (mma.sync, sm_80 and later).
//
// One kernel in four parts. A block keeps ROWS tokens of one (image, head), meets the others KEYS at a time, and makes
// ROWS x SLICE channels of the result (wider heads: several blocks, each with all of the scores):
//   O   rows are queries: s = q k^T, p = softmax(s),                                  o  = p v,   lse
//   DQ  rows are queries: s = q k^T, p = exp(s - lse), dp = do v^T, ds = p (dp - D),  dq = ds k
//   DK  rows are keys: the same transposed,                                           dk = ds^T q
//   DV  rows are keys: s^T, p^T,                                                      dv = p^T do
// Scores stay in registers as sums of mma.m16n8k16: 8 warps, 2 x 4, of 32 rows x 64 columns each (6 ldmatrix for 16
// products, so shared memory keeps up with the tensor cores). Rows of p are divided by their sum before they are rounded
// to bf16 into shared memory, from where the second product reads them: with up to KEYS tokens (one meeting) the whole
// row is in registers; beyond, a first walk over the keys finds each row's maximum and sum, and a second uses them. D is
// summed by DQ, which leaves it for DK. ds must not be rounded: it goes through the tensor cores as the sum of two bf16,
// the second what the first leaves over, to 2^-17 of its value.
//
// Backward with up to KEYS tokens, DQ keeps p and ds in scratch, and dv = p^T do, dk = ds^T q are batched matrix products
// (gemm_mma.cuh): with both parts of ds 7 times t^2 c multiplications. Beyond, DK and DV make them again: 10.
//
// All operands come through one queue of STAGES tiles, filled by cp.async across the borders of products: 32 channels of
// rows and columns for the first ones (20 KB), 32 tokens x SLICE channels for the last. 94 KB of shared memory a block.
// Up to 64 tokens a block is 16 rows x 64 columns of 4 warps instead, so that 16 tokens do not wait for 256.
#include "kernels/attention/attention.h"
#include "kernels/gemm/gemm_mma.cuh"

typedef enum { PART_O, PART_DQ, PART_DK, PART_DV } Part;

typedef struct {
    AttentionShape z;
    const bf16 *rows, *columns;           // of the first product: q, k of O and DQ; k, q of DK and DV
    const bf16 *rows_too, *columns_too;   // of dp: do, v of DQ; v, do of DK
    const bf16 *mixed;                    // v of O, k of DQ, q of DK, do of DV
    int ld_rows, ld_columns, ld_rows_too, ld_columns_too, ld_mixed, ld_out;
    bf16  *out;
    float  alpha;                         // of out
    float *lse, *inner;                   // (n, heads, t): O writes lse; DQ of many meetings writes inner, D
    const bf16 *o;                        // DQ: for D; strides of do
    bf16  *keep_p, *keep_ds;              // DQ of one: (n, heads, t, keep_ld); low parts of ds keep_all on
    int    keep_ld;
    int64_t keep_all;                     // elements of p, or of either part of ds
} PartArgs;

template <int ROWS_, int KEYS_, int WARPS_M>
struct Meeting {
    static const int ROWS = ROWS_, KEYS = KEYS_, SLICE = 256, TERMS = 32, STAGES = 3, WARPS_N = 4;
    static const int THREADS = 32 * WARPS_M * WARPS_N, MI = ROWS / WARPS_M / 16;
    static const int NS = KEYS / WARPS_N / 8, NO = SLICE / WARPS_N / 8;             // column fragments of s, of out
    static const int PAIR = (ROWS + KEYS) * TERMS, MIX = TERMS * SLICE, STAGE = PAIR > MIX ? PAIR : MIX;
    static const int PITCH = SLICE + 8;                                             // of out in shared memory
    static const int SHARED_BYTES = (STAGES * STAGE + ROWS * KEYS) * 2 + ROWS * (2 * WARPS_N + 1) * 4;
    static_assert(ROWS * PITCH <= STAGES * STAGE, "out leaves through the stages");
    static_assert(SHARED_BYTES <= 99 * 1024, "sm_86");
};
typedef Meeting<64, 256, 2> LargeMeeting;
typedef Meeting<16, 64, 1>  SmallMeeting;

DEVICE int64_t pair_offset(const AttentionShape &z, int pair, int ld) {
    return (int64_t)(pair / z.heads) * z.t * ld + pair % z.heads * z.c;
}

// Over the four lanes that hold a row.
DEVICE float quad_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(0xFFFFFFFFu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xFFFFFFFFu, v, 2));
}
DEVICE float quad_sum(float v) {
    v += __shfl_xor_sync(0xFFFFFFFFu, v, 1);
    return v + __shfl_xor_sync(0xFFFFFFFFu, v, 2);
}

// D of the block's rows -> shared memory and, for DK, global memory: a warp a row.
template <typename G, bool ALIGNED>
DEVICE void inner_products(const PartArgs &a, int pair, int row0, float *to, bool leave) {
    int lane = (int)threadIdx.x % 32;
    for (int r = (int)threadIdx.x / 32; r < G::ROWS; r += G::THREADS / 32) {
        float sum = 0;
        if (row0 + r < a.z.t) {
            int64_t at = pair_offset(a.z, pair, a.ld_rows_too) + (int64_t)(row0 + r) * a.ld_rows_too;
            if (ALIGNED) {
                for (int k = lane * 8; k < a.z.c; k += 256) {
                    uint4 x = *reinterpret_cast<const uint4 *>(a.rows_too + at + k);
                    uint4 y = *reinterpret_cast<const uint4 *>(a.o + at + k);
                    sum += bf16_low(x.x) * bf16_low(y.x) + bf16_high(x.x) * bf16_high(y.x)
                           + bf16_low(x.y) * bf16_low(y.y) + bf16_high(x.y) * bf16_high(y.y)
                           + bf16_low(x.z) * bf16_low(y.z) + bf16_high(x.z) * bf16_high(y.z)
                           + bf16_low(x.w) * bf16_low(y.w) + bf16_high(x.w) * bf16_high(y.w);
                }
            } else {
                for (int k = lane; k < a.z.c; k += 32) sum += bf16_float(a.rows_too[at + k]) * bf16_float(a.o[at + k]);
            }
        }
        sum = warp_sum(sum);
        if (lane == 0) {
            to[r] = sum;
            if (leave && row0 + r < a.z.t) a.inner[(int64_t)pair * a.z.t + row0 + r] = sum;
        }
    }
}

// The block's rows of p or ds -> (n, heads, t, keep_ld), 16 bytes a thread; columns beyond t up to keep_ld are zeros.
template <typename G>
DEVICE void keep_rows(const PartArgs &a, int pair, int row0, bf16 *to, const bf16 *p) {
    for (int i = (int)threadIdx.x; i < G::ROWS * G::KEYS / 8; i += G::THREADS) {
        int r = i / (G::KEYS / 8), c = i % (G::KEYS / 8);
        if (row0 + r >= a.z.t || c * 8 >= a.keep_ld) continue;
        *reinterpret_cast<uint4 *>(to + ((int64_t)pair * a.z.t + row0 + r) * a.keep_ld + c * 8) =
            *reinterpret_cast<const uint4 *>(p + chunk_at<G::KEYS / 8>(r, c) * 8);
    }
}

template <Part PART, typename G, bool ONE, bool ALIGNED>
static __global__ void __launch_bounds__(G::THREADS, ONE && PART == PART_O ? 2 : 1) attention_part_kernel(PartArgs a) {
    const bool GRADIENT = PART == PART_DQ || PART == PART_DK, BY_ROW = PART == PART_O || PART == PART_DQ;
    const bool KEEP = PART == PART_DQ && ONE;
    const int MI = G::MI, NS = G::NS, NO = G::NO, KEY_CHUNKS = G::KEYS / 8;
    DYNAMIC_SHARED(bf16, stages);
    bf16 *p = stages + G::STAGES * G::STAGE;                             // (ROWS, KEYS), as a tile
    float *tops = reinterpret_cast<float *>(p + G::ROWS * G::KEYS);      // (ROWS, WARPS_N), then sums likewise, then D
    float *sums = tops + G::ROWS * G::WARPS_N, *inner = sums + G::ROWS * G::WARPS_N;

    const int t = a.z.t, c = a.z.c, slices = (c + G::SLICE - 1) / G::SLICE, row_blocks = (t + G::ROWS - 1) / G::ROWS;
    const int slice = (int)(blockIdx.x % (unsigned)slices) * G::SLICE, rest = (int)(blockIdx.x / (unsigned)slices);
    const int row0 = rest % row_blocks * G::ROWS, pair = rest / row_blocks;
    const int meetings = ONE ? 1 : (t + G::KEYS - 1) / G::KEYS;
    // Steps of a meeting: products of scores, then of gradients, over channels; then the mix, over tokens.
    const int score_steps = (c + G::TERMS - 1) / G::TERMS, mix_steps = (min(t, G::KEYS) + G::TERMS - 1) / G::TERMS;
    const int mix_from = GRADIENT ? 2 * score_steps : score_steps;

    // One group each, of nothing past the last step. A meeting has `each` steps: all, or the scores alone.
    auto copy = [&](int step, int each) {
        int meeting = ONE ? 0 : step / each, i = ONE ? step : step % each;
        bf16 *to = stages + step % G::STAGES * G::STAGE;
        if (step < meetings * each) {
            if (i >= mix_from) {
                MmaSource x = { a.mixed + pair_offset(a.z, pair, a.ld_mixed), a.ld_mixed, t, c };
                int mix = i - mix_from, token = meeting * G::KEYS + (mix < mix_steps ? mix : mix - mix_steps) * G::TERMS;
                tile_copy<G::TERMS, G::SLICE / 8, G::THREADS, ALIGNED>(to, x, token, slice);
            } else {
                bool too = GRADIENT && i >= score_steps;
                int k = (too ? i - score_steps : i) * G::TERMS;
                int ld_x = too ? a.ld_rows_too : a.ld_rows, ld_y = too ? a.ld_columns_too : a.ld_columns;
                MmaSource x = { (too ? a.rows_too : a.rows) + pair_offset(a.z, pair, ld_x), ld_x, t, c };
                MmaSource y = { (too ? a.columns_too : a.columns) + pair_offset(a.z, pair, ld_y), ld_y, t, c };
                tile_copy<G::ROWS, G::TERMS / 8, G::THREADS, ALIGNED>(to, x, row0, k);
                tile_copy<G::KEYS, G::TERMS / 8, G::THREADS, ALIGNED>(to + G::ROWS * G::TERMS, y, meeting * G::KEYS, k);
            }
        }
        CP_ASYNC_COMMIT();
    };
    int step = 0;
    auto next = [&](int each) -> const bf16 * {
        CP_ASYNC_WAIT(1);                        // STAGES - 2: this step's group has landed
        __syncthreads();                         // everyone's has; and all have read the stage that is filled next
        copy(step + G::STAGES - 1, each);
        return stages + step++ % G::STAGES * G::STAGE;
    };
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, across = warp % G::WARPS_N;
    const int m = warp / G::WARPS_N * MI * 16, n = across * NS * 8, n_out = across * NO * 8;
    const int offset_rows = lane_offset_a<G::TERMS / 8, false>(m), offset_p = lane_offset_a<KEY_CHUNKS, false>(m);
    const int offset_columns = lane_offset_b<G::TERMS / 8, false>(n);
    const int offset_mixed = lane_offset_b<G::SLICE / 8, true>(n_out);
    // Element e of a fragment (i, j) of s: row m + 16 i + 8 (e / 2) + lane / 4, column n + 8 j + 2 (lane % 4) + e % 2.
    const int my_row = m + lane / 4, my_column = n + lane % 4 * 2;

    float s[MI][NS][4];
    auto product = [&](int meeting, int each) {
        sums_clear(s);
#pragma unroll 1
        for (int i = 0; i < score_steps; i++) {
            const bf16 *at = next(each);
            if (meeting * G::KEYS + n < t)
                warp_product<G::TERMS, G::TERMS / 8, false, G::TERMS / 8, false>(s, at, offset_rows, 0,
                                                                                 at + G::ROWS * G::TERMS, offset_columns);
        }
    };
    // A row's maximum and sum of exponentials: of this thread's columns, then over the quad and the four warps.
    const float LOWEST = -3.402823466e38f;
    float top[MI][2], sum[MI][2];
    auto row_tops = [&](int meeting) {           // scales s, and widens top
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int j = 0; j < NS; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    s[i][j][e] *= a.z.scale;
                    if (meeting * G::KEYS + my_column + 8 * j + e % 2 < t)
                        top[i][e / 2] = fmaxf(top[i][e / 2], s[i][j][e]);
                }
    };
    auto row_sums = [&](int meeting, bool count) {           // s = exp(s - top), zero beyond t; adds to sum
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int j = 0; j < NS; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    bool inside = meeting * G::KEYS + my_column + 8 * j + e % 2 < t;
                    s[i][j][e] = inside ? __expf(s[i][j][e] - top[i][e / 2]) : 0.0f;
                    if (count) sum[i][e / 2] += s[i][j][e];
                }
    };
    if (PART == PART_O) {
#pragma unroll
        for (int i = 0; i < MI; i++) top[i][0] = top[i][1] = LOWEST, sum[i][0] = sum[i][1] = 0;
    }
    if (PART == PART_O && !ONE) {                // the first walk
#pragma unroll 1
        for (int i = 0; i < G::STAGES - 1; i++) copy(i, score_steps);
#pragma unroll 1
        for (int meeting = 0; meeting < meetings; meeting++) {
            product(meeting, score_steps);
            float before[MI][2];
#pragma unroll
            for (int i = 0; i < MI; i++) before[i][0] = top[i][0], before[i][1] = top[i][1];
            row_tops(meeting);
#pragma unroll
            for (int i = 0; i < MI; i++)
#pragma unroll
                for (int h = 0; h < 2; h++) sum[i][h] *= __expf(before[i][h] - top[i][h]);
            row_sums(meeting, true);
        }
        CP_ASYNC_WAIT(0);
        __syncthreads();
        step = 0;
    }
    // top of the whole row, by all; sum, if it has been counted against this thread's own top, to match.
    auto share_tops = [&](bool counted) {
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float of_quad = quad_max(top[i][h]);
                if (lane % 4 == 0) tops[(my_row + 16 * i + 8 * h) * G::WARPS_N + across] = of_quad;
            }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float4 v = load4(tops + (my_row + 16 * i + 8 * h) * G::WARPS_N);
                float of_row = fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w));
                if (counted) sum[i][h] *= __expf(top[i][h] - of_row);
                top[i][h] = of_row;
            }
    };
    auto share_sums = [&]() {                    // the whole row's; and lse
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float of_quad = quad_sum(sum[i][h]);
                if (lane % 4 == 0) sums[(my_row + 16 * i + 8 * h) * G::WARPS_N + across] = of_quad;
            }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float4 v = load4(sums + (my_row + 16 * i + 8 * h) * G::WARPS_N);
                sum[i][h] = v.x + v.y + v.z + v.w;
                int row = row0 + my_row + 16 * i + 8 * h;
                if (warp % G::WARPS_N == 0 && lane % 4 == 0 && slice == 0 && row < t)
                    a.lse[(int64_t)pair * t + row] = top[i][h] + logf(sum[i][h]);
            }
    };
    const int each = mix_from + (GRADIENT ? 2 : 1) * mix_steps;
#pragma unroll 1
    for (int i = 0; i < G::STAGES - 1; i++) copy(i, each);
    if (PART == PART_O && !ONE) {
        share_tops(true);
        share_sums();
    }
    if (PART == PART_DQ) inner_products<G, ALIGNED>(a, pair, row0, inner, !ONE && slice == 0);

    float out[MI][NO][4];
    if (!ONE) sums_clear(out);
#pragma unroll 1
    for (int meeting = 0; meeting < meetings; meeting++) {
        product(meeting, each);
        // Where fragment (i, j)'s columns of half h go in the tile of p.
        auto place = [&](int i, int j, int h) -> uint32_t * {
            int at = chunk_at<KEY_CHUNKS>(my_row + 16 * i + 8 * h, n / 8 + j) * 8 + lane % 4 * 2;
            return reinterpret_cast<uint32_t *>(p + at);
        };
        if (PART == PART_O) {
            row_tops(meeting);
            if (ONE) share_tops(false);
            row_sums(meeting, ONE);
            if (ONE) share_sums();
#pragma unroll
            for (int i = 0; i < MI; i++)
#pragma unroll
                for (int j = 0; j < NS; j++)
#pragma unroll
                    for (int h = 0; h < 2; h++)
                        *place(i, j, h) = pack_bf16(s[i][j][2 * h] / sum[i][h], s[i][j][2 * h + 1] / sum[i][h]);
        } else {
            const float *lse = a.lse + (int64_t)pair * t;
#pragma unroll
            for (int i = 0; i < MI; i++)
#pragma unroll
                for (int j = 0; j < NS; j++)
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        int row = row0 + my_row + 16 * i + 8 * h, column = meeting * G::KEYS + my_column + 8 * j;
                        float v[2];
#pragma unroll
                        for (int e = 0; e < 2; e++) {
                            bool inside = row < t && column + e < t;
                            float of = inside ? lse[BY_ROW ? row : column + e] : 0.0f;
                            v[e] = inside ? __expf(a.z.scale * s[i][j][2 * h + e] - of) : 0.0f;
                        }
                        *place(i, j, h) = pack_bf16(v[0], v[1]);
                    }
        }
        if (KEEP && slice == 0) {
            __syncthreads();
            keep_rows<G>(a, pair, row0, a.keep_p, p);
        }
        auto mix = [&]() {
#pragma unroll 1
            for (int i = 0; i < mix_steps; i++) {
                const bf16 *at = next(each);     // its barrier also shows everyone's part of p
                if (slice + n_out < c)
                    warp_product<G::TERMS, KEY_CHUNKS, false, G::SLICE / 8, true>(out, p, offset_p, i * G::TERMS, at,
                                                                                  offset_mixed);
            }
        };
        if (GRADIENT) {
            product(meeting, each);              // dp; its barriers also end the reading of p
            uint32_t high[MI][NS][2];
#pragma unroll
            for (int i = 0; i < MI; i++)
#pragma unroll
                for (int j = 0; j < NS; j++)
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        int row = my_row + 16 * i + 8 * h, column = meeting * G::KEYS + my_column + 8 * j;
                        uint32_t *at = place(i, j, h), both = *at;
                        float d[2] = { bf16_low(both), bf16_high(both) };
#pragma unroll
                        for (int e = 0; e < 2; e++) {
                            float of = BY_ROW ? inner[row]
                                              : column + e < t ? a.inner[(int64_t)pair * t + column + e] : 0.0f;
                            d[e] *= s[i][j][2 * h + e] - of;
                        }
                        high[i][j][h] = pack_bf16(d[0], d[1]);
                        *at = pack_bf16(d[0] - bf16_low(high[i][j][h]), d[1] - bf16_high(high[i][j][h]));
                    }
            if (KEEP && slice == 0) {
                __syncthreads();
                keep_rows<G>(a, pair, row0, a.keep_ds + a.keep_all, p);
            }
            if (ONE) sums_clear(out);
            mix();
            __syncthreads();                     // the low parts have been read
#pragma unroll
            for (int i = 0; i < MI; i++)
#pragma unroll
                for (int j = 0; j < NS; j++)
#pragma unroll
                    for (int h = 0; h < 2; h++) *place(i, j, h) = high[i][j][h];
            if (KEEP && slice == 0) {
                __syncthreads();
                keep_rows<G>(a, pair, row0, a.keep_ds, p);
            }
        } else if (ONE) {
            sums_clear(out);
        }
        mix();
    }
    CP_ASYNC_WAIT(0);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NO; j++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int at = (my_row + 16 * i + 8 * h) * G::PITCH + n_out + 8 * j + lane % 4 * 2;
                *reinterpret_cast<uint32_t *>(stages + at) =
                    pack_bf16(a.alpha * out[i][j][2 * h], a.alpha * out[i][j][2 * h + 1]);
            }
    __syncthreads();
    bf16 *to = a.out + pair_offset(a.z, pair, a.ld_out) + (int64_t)row0 * a.ld_out + slice;
#pragma unroll 1
    for (int i = (int)threadIdx.x; i < G::ROWS * G::SLICE / 8; i += G::THREADS) {
        int r = i / (G::SLICE / 8), k = i % (G::SLICE / 8) * 8;
        if (row0 + r >= t || slice + k >= c) continue;
        const bf16 *from = stages + r * G::PITCH + k;
        if (ALIGNED) {
            *reinterpret_cast<uint4 *>(to + (int64_t)r * a.ld_out + k) = *reinterpret_cast<const uint4 *>(from);
        } else {
            for (int e = 0; e < 8; e++) to[(int64_t)r * a.ld_out + k + e] = from[e];
        }
    }
}

// ---- launches
static bool part_aligned(const PartArgs &a) {
    const void *const operands[] = { a.rows, a.columns, a.rows_too, a.columns_too, a.mixed, a.o, a.out };
    bool aligned = true;
    for (const void *x : operands) aligned &= (uintptr_t)x % 16 == 0;
    return aligned;
}
template <Part PART, typename G, bool ONE, bool ALIGNED>
static void launch_meeting(Stream *s, const PartArgs &a) {
    int64_t blocks = (int64_t)a.z.n * a.z.heads * ceil_div(a.z.t, G::ROWS) * ceil_div(a.z.c, G::SLICE);
    LAUNCH(s, (attention_part_kernel<PART, G, ONE, ALIGNED>), dim3((unsigned)blocks), dim3(G::THREADS), G::SHARED_BYTES, a);
}
// Odd views go the long way, which is right for any number of tokens.
template <Part PART>
static void launch_part(Stream *s, const PartArgs &a) {
    const bool KEPT = PART == PART_DK || PART == PART_DV;      // with few tokens these are matrix products
    if (!part_aligned(a)) launch_meeting<PART, LargeMeeting, false, false>(s, a);
    else if (KEPT || a.z.t > LargeMeeting::KEYS) launch_meeting<PART, LargeMeeting, false, true>(s, a);
    else if (a.z.t > SmallMeeting::KEYS) launch_meeting<PART == PART_O ? PART_O : PART_DQ, LargeMeeting, true, true>(s, a);
    else launch_meeting<PART == PART_O ? PART_O : PART_DQ, SmallMeeting, true, true>(s, a);
}

// Rows must start on 16 bytes; offsets within an image are 32-bit.
static bool attention_mma_can(const AttentionShape *z) {
    int ld = z->ldq > z->ldk ? z->ldq : z->ldk, other = z->ldv > z->ldo ? z->ldv : z->ldo;
    return z->dtype == DT_BF16 && z->layout == LAYOUT_NHWC && z->c % 8 == 0 && z->ldq % 8 == 0 && z->ldk % 8 == 0
           && z->ldv % 8 == 0 && z->ldo % 8 == 0
           && ((int64_t)z->t + LargeMeeting::KEYS) * (ld > other ? ld : other) < INT32_MAX;
}

static void attention_mma_forward(Stream *s, const AttentionShape *z, const AttentionForwardArgs *a, Work work) {
    PartArgs p = {};
    p.z = *z;
    p.rows = (const bf16 *)a->q, p.ld_rows = z->ldq;
    p.columns = (const bf16 *)a->k, p.ld_columns = z->ldk;
    p.mixed = (const bf16 *)a->v, p.ld_mixed = z->ldv;
    p.out = (bf16 *)a->o, p.ld_out = z->ldo;
    p.alpha = 1;
    p.lse = a->lse;
    launch_part<PART_O>(s, p);
}

// Scratch: p and both parts of ds of every pair; with more than KEYS tokens, or for odd views, D.
static bool keeps(const AttentionShape *z) { return z->t <= LargeMeeting::KEYS; }
static int keep_ld(const AttentionShape *z) { return (int)ceil_div(z->t, 8) * 8; }
static int64_t keep_elements(const AttentionShape *z) { return (int64_t)z->n * z->heads * z->t * keep_ld(z); }
static size_t attention_mma_scratch(const AttentionShape *z) {
    return keeps(z) ? 3 * 2 * (size_t)keep_elements(z) : sizeof(float) * (size_t)z->n * (size_t)z->heads * (size_t)z->t;
}

// y (t, c) = alpha x^T w of every pair, where x is kept p, or ds in two parts, and w (t, c).
static void kept_product(Stream *s, const AttentionShape *z, const bf16 *x, const void *w, int ldw, void *y, int ldy,
                         float alpha, int parts) {
    int64_t image = (int64_t)z->heads * z->t * keep_ld(z);
    GemmShape g = { z->t, z->c, z->t, z->n * z->heads, true, false, keep_ld(z), ldw, ldy, image,
                    (int64_t)z->t * ldw, (int64_t)z->t * ldy, alpha, ACT_NONE, DT_BF16, DT_BF16 };
    GemmArgs args = { x, w, NULL, y, false };
    GemmPlan p = gemm_plan(&g, &args, NULL, 8);
    p.heads = z->heads;
    p.head_a = z->t * keep_ld(z);
    p.head_b = p.head_y = z->c;
    p.turns = parts;
    p.turn_a = keep_elements(z);
    gemm_mma_launch<true, false>(s, p);
}

static void attention_mma_backward(Stream *s, const AttentionShape *z, const AttentionBackwardArgs *a, Work work) {
    bf16 *keep = (bf16 *)work.scratch;
    PartArgs q = {};
    q.z = *z;
    q.rows = (const bf16 *)a->q, q.ld_rows = z->ldq;
    q.columns = (const bf16 *)a->k, q.ld_columns = z->ldk;
    q.rows_too = (const bf16 *)a->d_o, q.ld_rows_too = z->ldo;
    q.columns_too = (const bf16 *)a->v, q.ld_columns_too = z->ldv;
    q.mixed = (const bf16 *)a->k, q.ld_mixed = z->ldk;
    q.out = (bf16 *)a->dq, q.ld_out = z->ldq;
    q.alpha = z->scale;
    q.lse = (float *)a->lse;
    q.o = (const bf16 *)a->o;
    if (keeps(z) && part_aligned(q)) {
        q.keep_p = keep, q.keep_ds = keep + keep_elements(z), q.keep_ld = keep_ld(z);
        q.keep_all = keep_elements(z);
        launch_part<PART_DQ>(s, q);
        kept_product(s, z, q.keep_p, a->d_o, z->ldo, a->dv, z->ldv, 1, 1);
        kept_product(s, z, q.keep_ds, a->q, z->ldq, a->dk, z->ldk, z->scale, 2);
        return;
    }
    q.inner = (float *)work.scratch;
    launch_part<PART_DQ>(s, q);
    PartArgs k = q;
    k.rows = q.columns, k.ld_rows = q.ld_columns;
    k.columns = q.rows, k.ld_columns = q.ld_rows;
    k.rows_too = q.columns_too, k.ld_rows_too = q.ld_columns_too;
    k.columns_too = q.rows_too, k.ld_columns_too = q.ld_rows_too;
    k.mixed = q.rows, k.ld_mixed = q.ld_rows;
    k.out = (bf16 *)a->dk, k.ld_out = z->ldk;
    launch_part<PART_DK>(s, k);
    k.mixed = (const bf16 *)a->d_o, k.ld_mixed = z->ldo;
    k.out = (bf16 *)a->dv, k.ld_out = z->ldv;
    k.alpha = 1;
    launch_part<PART_DV>(s, k);
}

IMPLS(attention_mma,
    IMPL_FULL(attention_forward, "mma", 50, 80, 0, attention_mma_can, NULL, NULL, attention_mma_forward, NULL),
    IMPL_FULL(attention_backward, "mma", 50, 80, 0, attention_mma_can, attention_mma_scratch, NULL,
              attention_mma_backward, NULL))
