// kernels/attention/attention_mma.cu - softmax attention in bf16 on tensor cores (mma.sync, sm_80 and later).
//
// One kernel in four parts. A block keeps ROWS tokens of one (image, head), meets the others KEYS at a time, and makes
// ROWS x SLICE channels of the result (wider heads: several blocks, each with all of the scores):
//   O   rows are queries: s = q k^T, p = softmax(s),                                  o  = p v,   lse
//   DQ  rows are queries: s = q k^T, p = exp(s - lse), dp = do v^T, ds = p (dp - D),  dq = ds k
//   DK  rows are keys: the same transposed,                                           dk = ds^T q
//   DV  rows are keys: s^T, p^T,                                                      dv = p^T do
// Scores stay in registers as sums of mma.m16n8k16: 8 warps, 2 x 4, of 32 rows x 64 columns each (6 ldmatrix for 16
// products, so shared memory keeps up with the tensor cores). Rows of p are divided by their sum before they are
// rounded to bf16 into shared memory, from where the second product reads them: with up to KEYS tokens (one meeting)
// the whole row is in registers; beyond, a first walk over the keys finds each row's maximum and sum, and a second uses
// them. D is summed by DQ, which leaves it for DK. ds must not be rounded: it goes through the tensor cores as the sum
// of two bf16, the second what the first leaves over, to 2^-17 of its value.
//
// Backward with up to KEYS tokens, DQ keeps p and ds in scratch, and dv = p^T do, dk = ds^T q are batched matrix
// products (gemm_mma.cuh): with both parts of ds 7 times t^2 c multiplications. Beyond, DK and DV make them again: 10.
//
// All operands come through one queue of STAGES tiles, filled by cp.async across the borders of products: 32 channels
// of rows and columns for the first ones (20 KB), 32 tokens x SLICE channels for the last. 94 KB of shared memory a
// block. Up to 64 tokens a block is 16 rows x 64 columns of 4 warps instead, so that 16 tokens do not wait for 256.
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

template <int ROWS_, int KEYS_, int WARPS_M_>
struct Meeting {
    static const int ROWS = ROWS_, KEYS = KEYS_, SLICE = 256, TERMS = 32, STAGES = 3, WARPS_M = WARPS_M_, WARPS_N = 4;
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

// ONE: there is one meeting. ALIGNED: all rows start on 16 bytes.
template <Part PART_, typename G_, bool ONE_, bool ALIGNED_>
struct Kind : G_ {
    static const Part PART = PART_;
    static const bool ONE = ONE_, ALIGNED = ALIGNED_, KEEP = PART == PART_DQ && ONE;
    static const bool GRADIENT = PART == PART_DQ || PART == PART_DK, BY_ROW = PART == PART_O || PART == PART_DQ;
};

// The place of a block and a thread, and its queue. Element e of fragment (i, j) of s is in row my_row + 16 i +
// 8 (e / 2), column my_column + 8 j + e % 2 of the meeting; `half` stands for e / 2.
typedef struct {
    int pair, row0, slice;                       // what the block makes
    int meetings, score_steps, mix_steps;        // a meeting takes steps for s, for dp, and from mix_from on mixes
    int mix_from;
    int across, n, n_out, my_row, my_column;     // the warp's columns of s and of out
    int offset_rows, offset_columns, offset_p, offset_mixed;
    bf16  *stages, *p;                           // p or ds (ROWS, KEYS), as a tile
    float *tops, *sums, *inner;                  // (ROWS, WARPS_N) twice, (ROWS): D
    int step;                                    // steps taken
} Spot;
#define EACH_FRAGMENT(i, ni, j, nj)                                                                                 \
    _Pragma("unroll") for (int i = 0; i < ni; i++) _Pragma("unroll") for (int j = 0; j < nj; j++)

DEVICE int64_t pair_offset(const AttentionShape &z, int pair, int ld) {
    return (int64_t)(pair / z.heads) * z.t * ld + pair % z.heads * z.c;
}
template <typename K>
DEVICE Spot part_spot(const PartArgs &a, bf16 *stages) {
    Spot b;
    int slices = (a.z.c + K::SLICE - 1) / K::SLICE, row_blocks = (a.z.t + K::ROWS - 1) / K::ROWS;
    int rest = (int)(blockIdx.x / (unsigned)slices), lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int m = warp / K::WARPS_N * K::MI * 16;
    b.slice = (int)(blockIdx.x % (unsigned)slices) * K::SLICE;
    b.row0 = rest % row_blocks * K::ROWS;
    b.pair = rest / row_blocks;
    b.meetings = K::ONE ? 1 : (a.z.t + K::KEYS - 1) / K::KEYS;
    b.score_steps = (a.z.c + K::TERMS - 1) / K::TERMS;
    b.mix_steps = (min(a.z.t, (int)K::KEYS) + K::TERMS - 1) / K::TERMS;
    b.mix_from = (K::GRADIENT ? 2 : 1) * b.score_steps;
    b.across = warp % K::WARPS_N;
    b.n = b.across * K::NS * 8;
    b.n_out = b.across * K::NO * 8;
    b.my_row = m + lane / 4;
    b.my_column = b.n + lane % 4 * 2;
    b.offset_rows = lane_offset_a<K::TERMS / 8, false>(m);
    b.offset_columns = lane_offset_b<K::TERMS / 8, false>(b.n);
    b.offset_p = lane_offset_a<K::KEYS / 8, false>(m);
    b.offset_mixed = lane_offset_b<K::SLICE / 8, true>(b.n_out);
    b.stages = stages;
    b.p = stages + K::STAGES * K::STAGE;
    b.tops = reinterpret_cast<float *>(b.p + K::ROWS * K::KEYS);
    b.sums = b.tops + K::ROWS * K::WARPS_N;
    b.inner = b.sums + K::ROWS * K::WARPS_N;
    b.step = 0;
    return b;
}
// Where the thread's columns of fragment (i, j), half, lie in the tile of p, of a warp whose columns start at n. All
// rows of a thread have the same row % 8, and n / 8 is a multiple of NS: moving to fragment j flips bits of the chunk.
template <typename K>
DEVICE uint32_t *part_place(const Spot &b, int n, int i, int j, int half) {
    int chunk = (chunk_at<K::KEYS / 8>(b.my_row, n / 8) ^ j) + (16 * i + 8 * half) * (K::KEYS / 8);
    return reinterpret_cast<uint32_t *>(b.p + chunk * 8 + (int)threadIdx.x % 4 * 2);
}

// ---- the queue. A step copies one group: of nothing past the last step. A meeting has `each` steps.
template <typename K>
DEVICE void queue_copy(const PartArgs &a, const Spot &b, int step, int each) {
    int meeting = K::ONE ? 0 : step / each, i = K::ONE ? step : step % each;
    bf16 *to = b.stages + step % K::STAGES * K::STAGE;
    if (step < b.meetings * each && i >= b.mix_from) {
        int token = meeting * K::KEYS + (i - b.mix_from) * K::TERMS;
        MmaSource x = { a.mixed + pair_offset(a.z, b.pair, a.ld_mixed), a.ld_mixed, a.z.t, a.z.c };
        tile_copy<K::TERMS, K::SLICE / 8, K::THREADS, K::ALIGNED>(to, x, token, b.slice);
    } else if (step < b.meetings * each) {
        bool too = K::GRADIENT && i >= b.score_steps;
        int k = (too ? i - b.score_steps : i) * K::TERMS;
        int ld_x = too ? a.ld_rows_too : a.ld_rows, ld_y = too ? a.ld_columns_too : a.ld_columns;
        MmaSource x = { (too ? a.rows_too : a.rows) + pair_offset(a.z, b.pair, ld_x), ld_x, a.z.t, a.z.c };
        MmaSource y = { (too ? a.columns_too : a.columns) + pair_offset(a.z, b.pair, ld_y), ld_y, a.z.t, a.z.c };
        tile_copy<K::ROWS, K::TERMS / 8, K::THREADS, K::ALIGNED>(to, x, b.row0, k);
        tile_copy<K::KEYS, K::TERMS / 8, K::THREADS, K::ALIGNED>(to + K::ROWS * K::TERMS, y, meeting * K::KEYS, k);
    }
    CP_ASYNC_COMMIT();
}
template <typename K>
DEVICE void queue_start(const PartArgs &a, Spot &b, int each) {
    b.step = 0;
#pragma unroll 1
    for (int i = 0; i < K::STAGES - 1; i++) queue_copy<K>(a, b, i, each);
}
template <typename K>
DEVICE const bf16 *queue_next(const PartArgs &a, Spot &b, int each) {
    static_assert(K::STAGES == 3, "STAGES - 2 groups may be on their way");
    CP_ASYNC_WAIT(1);                            // this step's group has landed
    __syncthreads();                             // everyone's has; and all have read the stage that is filled next
    queue_copy<K>(a, b, b.step + K::STAGES - 1, each);
    return b.stages + b.step++ % K::STAGES * K::STAGE;
}

// ---- products
template <typename K>
DEVICE void score_product(const PartArgs &a, Spot &b, float (&s)[K::MI][K::NS][4], int meeting, int each) {
    sums_clear(s);
#pragma unroll 1
    for (int i = 0; i < b.score_steps; i++) {
        const bf16 *x = queue_next<K>(a, b, each), *y = x + K::ROWS * K::TERMS;
        if (meeting * K::KEYS + b.n < a.z.t)
            warp_product<K::TERMS, K::TERMS / 8, false, K::TERMS / 8, false>(s, x, b.offset_rows, 0, y,
                                                                             b.offset_columns);
    }
}
template <typename K>
DEVICE void mix_product(const PartArgs &a, Spot &b, float (&out)[K::MI][K::NO][4], int each) {
#pragma unroll 1
    for (int i = 0; i < b.mix_steps; i++) {
        const bf16 *y = queue_next<K>(a, b, each);           // its barrier also shows everyone's part of p
        if (b.slice + b.n_out < a.z.c)
            warp_product<K::TERMS, K::KEYS / 8, false, K::SLICE / 8, true>(out, b.p, b.offset_p, i * K::TERMS, y,
                                                                           b.offset_mixed);
    }
}

// ---- softmax: a row's maximum and sum of exponentials, of the thread's columns, then over its quad and four warps
template <typename K>
DEVICE void row_tops(const PartArgs &a, const Spot &b, float (&s)[K::MI][K::NS][4], float (&top)[K::MI][2],
                     int meeting) {
    EACH_FRAGMENT(i, K::MI, j, K::NS) {          // scales s, and widens top
#pragma unroll
        for (int e = 0; e < 4; e++) {
            s[i][j][e] *= a.z.scale;
            bool inside = meeting * K::KEYS + b.my_column + 8 * j + e % 2 < a.z.t;
            if (inside) top[i][e / 2] = fmaxf(top[i][e / 2], s[i][j][e]);
        }
    }
}
template <typename K>
DEVICE void row_sums(const PartArgs &a, const Spot &b, float (&s)[K::MI][K::NS][4], const float (&top)[K::MI][2],
                     float (&sum)[K::MI][2], int meeting, bool count) {
    EACH_FRAGMENT(i, K::MI, j, K::NS) {          // s = exp(s - top), zero beyond t; adds to sum
#pragma unroll
        for (int e = 0; e < 4; e++) {
            bool inside = meeting * K::KEYS + b.my_column + 8 * j + e % 2 < a.z.t;
            s[i][j][e] = inside ? __expf(s[i][j][e] - top[i][e / 2]) : 0.0f;
            if (count) sum[i][e / 2] += s[i][j][e];
        }
    }
}
// top of the whole row, by all; if sum has been counted, against the thread's own top, it is made to match.
template <typename K>
DEVICE void share_tops(const Spot &b, float (&top)[K::MI][2], float (&sum)[K::MI][2], bool counted) {
    EACH_FRAGMENT(i, K::MI, h, 2) {
        float v = fmaxf(top[i][h], __shfl_xor_sync(0xFFFFFFFFu, top[i][h], 1));
        v = fmaxf(v, __shfl_xor_sync(0xFFFFFFFFu, v, 2));
        if (threadIdx.x % 4 == 0) b.tops[(b.my_row + 16 * i + 8 * h) * K::WARPS_N + b.across] = v;
    }
    __syncthreads();
    EACH_FRAGMENT(i, K::MI, h, 2) {
        float4 v = load4(b.tops + (b.my_row + 16 * i + 8 * h) * K::WARPS_N);
        float of_row = fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w));
        if (counted) sum[i][h] *= __expf(top[i][h] - of_row);
        top[i][h] = of_row;
    }
}
// sum of the whole row, by all; writes lse.
template <typename K>
DEVICE void share_sums(const PartArgs &a, const Spot &b, const float (&top)[K::MI][2], float (&sum)[K::MI][2]) {
    EACH_FRAGMENT(i, K::MI, h, 2) {
        float v = sum[i][h] + __shfl_xor_sync(0xFFFFFFFFu, sum[i][h], 1);
        v += __shfl_xor_sync(0xFFFFFFFFu, v, 2);
        if (threadIdx.x % 4 == 0) b.sums[(b.my_row + 16 * i + 8 * h) * K::WARPS_N + b.across] = v;
    }
    __syncthreads();
    EACH_FRAGMENT(i, K::MI, h, 2) {
        float4 v = load4(b.sums + (b.my_row + 16 * i + 8 * h) * K::WARPS_N);
        sum[i][h] = v.x + v.y + v.z + v.w;
        int row = b.row0 + b.my_row + 16 * i + 8 * h;
        if (b.across == 0 && threadIdx.x % 4 == 0 && b.slice == 0 && row < a.z.t)
            a.lse[(int64_t)b.pair * a.z.t + row] = top[i][h] + logf(sum[i][h]);
    }
}
// The first walk over many meetings.
template <typename K>
DEVICE void walk_rows(const PartArgs &a, Spot &b, float (&s)[K::MI][K::NS][4], float (&top)[K::MI][2],
                      float (&sum)[K::MI][2]) {
    queue_start<K>(a, b, b.score_steps);
#pragma unroll 1
    for (int meeting = 0; meeting < b.meetings; meeting++) {
        score_product<K>(a, b, s, meeting, b.score_steps);
        float before[K::MI][2];
        EACH_FRAGMENT(i, K::MI, h, 2) before[i][h] = top[i][h];
        row_tops<K>(a, b, s, top, meeting);
        EACH_FRAGMENT(i, K::MI, h, 2) sum[i][h] *= __expf(before[i][h] - top[i][h]);
        row_sums<K>(a, b, s, top, sum, meeting, true);
    }
    CP_ASYNC_WAIT(0);
    __syncthreads();
}

// ---- backward
// D of the block's rows -> shared memory and, for DK, global memory: a warp a row.
template <typename K>
DEVICE void inner_products(const PartArgs &a, const Spot &b) {
    int lane = (int)threadIdx.x % 32;
    for (int r = (int)threadIdx.x / 32; r < K::ROWS && b.row0 + r < a.z.t; r += K::THREADS / 32) {
        int64_t at = pair_offset(a.z, b.pair, a.ld_rows_too) + (int64_t)(b.row0 + r) * a.ld_rows_too;
        float sum = 0;
        for (int k = lane * 8; k < a.z.c && K::ALIGNED; k += 256) {
            uint4 x = *reinterpret_cast<const uint4 *>(a.rows_too + at + k);
            uint4 y = *reinterpret_cast<const uint4 *>(a.o + at + k);
            sum += bf16_low(x.x) * bf16_low(y.x) + bf16_high(x.x) * bf16_high(y.x)
                   + bf16_low(x.y) * bf16_low(y.y) + bf16_high(x.y) * bf16_high(y.y)
                   + bf16_low(x.z) * bf16_low(y.z) + bf16_high(x.z) * bf16_high(y.z)
                   + bf16_low(x.w) * bf16_low(y.w) + bf16_high(x.w) * bf16_high(y.w);
        }
        for (int k = lane; k < a.z.c && !K::ALIGNED; k += 32)
            sum += bf16_float(a.rows_too[at + k]) * bf16_float(a.o[at + k]);
        sum = warp_sum(sum);
        if (lane == 0) b.inner[r] = sum;
        if (lane == 0 && !K::ONE && b.slice == 0) a.inner[(int64_t)b.pair * a.z.t + b.row0 + r] = sum;
    }
}
// s -> p = exp(scale s - lse) in shared memory, zero beyond t.
template <typename K>
DEVICE void put_probabilities(const PartArgs &a, const Spot &b, const float (&s)[K::MI][K::NS][4], int meeting) {
    const float *lse = a.lse + (int64_t)b.pair * a.z.t;
    EACH_FRAGMENT(i, K::MI, j, K::NS) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int row = b.row0 + b.my_row + 16 * i + 8 * h, column = meeting * K::KEYS + b.my_column + 8 * j;
            float v[2];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                bool inside = row < a.z.t && column + e < a.z.t;
                float of = inside ? lse[K::BY_ROW ? row : column + e] : 0.0f;
                v[e] = inside ? __expf(a.z.scale * s[i][j][2 * h + e] - of) : 0.0f;
            }
            *part_place<K>(b, b.n, i, j, h) = pack_bf16(v[0], v[1]);
        }
    }
}
// s = dp -> ds = p (dp - D), with p from shared memory.
template <typename K>
DEVICE void take_gradients(const PartArgs &a, const Spot &b, float (&s)[K::MI][K::NS][4], int meeting) {
    const float *inner = a.inner + (int64_t)b.pair * a.z.t;
    EACH_FRAGMENT(i, K::MI, j, K::NS) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int row = b.my_row + 16 * i + 8 * h, column = meeting * K::KEYS + b.my_column + 8 * j;
            uint32_t both = *part_place<K>(b, b.n, i, j, h);
#pragma unroll
            for (int e = 0; e < 2; e++) {
                bool inside = (K::BY_ROW ? b.row0 + row : column + e) < a.z.t;       // beyond, p is zero
                float of = !inside ? 0.0f : K::BY_ROW ? b.inner[row] : inner[column + e];
                s[i][j][2 * h + e] = (e ? bf16_high(both) : bf16_low(both)) * (s[i][j][2 * h + e] - of);
            }
        }
    }
}
// Columns from .. from + count - 1 of the tile -> columns `to` .. of kept rows (n, heads, t, keep_ld), 16 bytes a
// thread; beyond t, up to keep_ld, they are zeros.
template <typename K>
DEVICE void keep_rows(const PartArgs &a, const Spot &b, bf16 *kept, int from, int count, int to) {
    for (int i = (int)threadIdx.x; i < K::ROWS * count / 8; i += K::THREADS) {
        int r = i / (count / 8), c = i % (count / 8);
        if (b.row0 + r >= a.z.t || to + c * 8 >= a.keep_ld) continue;
        *reinterpret_cast<uint4 *>(kept + ((int64_t)b.pair * a.z.t + b.row0 + r) * a.keep_ld + to + c * 8) =
            *reinterpret_cast<const uint4 *>(b.p + chunk_at<K::KEYS / 8>(r, from / 8 + c) * 8);
    }
}
// out += s y with s as the sum of two bf16. The tile has room for both of half the columns, so the halves take turns:
// high parts on the left, what these leave over on the right.
template <typename K>
DEVICE void mix_parts(const PartArgs &a, Spot &b, const float (&s)[K::MI][K::NS][4], float (&out)[K::MI][K::NO][4],
                      int each) {
    const int HALF = K::KEYS / 2;
#pragma unroll 1
    for (int from = 0; from < b.mix_steps * K::TERMS; from += HALF) {
        __syncthreads();                         // what was in the tile has been read
        if (b.n / HALF == from / HALF) {
            EACH_FRAGMENT(i, K::MI, j, K::NS) {
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    float x = s[i][j][2 * h], y = s[i][j][2 * h + 1];
                    uint32_t high = pack_bf16(x, y);
                    *part_place<K>(b, b.n - from, i, j, h) = high;
                    *part_place<K>(b, b.n - from + HALF, i, j, h) =
                        pack_bf16(x - bf16_low(high), y - bf16_high(high));
                }
            }
        }
        if (K::KEEP && b.slice == 0) {
            __syncthreads();
            keep_rows<K>(a, b, a.keep_ds, 0, HALF, from);
            keep_rows<K>(a, b, a.keep_ds + a.keep_all, HALF, HALF, from);
        }
#pragma unroll 1
        for (int k = 0; k < HALF && from + k < b.mix_steps * K::TERMS; k += K::TERMS) {
            const bf16 *y = queue_next<K>(a, b, each);       // its barrier also shows everyone's parts
            if (b.slice + b.n_out >= a.z.c) continue;
            warp_product<K::TERMS, K::KEYS / 8, false, K::SLICE / 8, true>(out, b.p, b.offset_p, k, y, b.offset_mixed);
            warp_product<K::TERMS, K::KEYS / 8, false, K::SLICE / 8, true>(out, b.p, b.offset_p, HALF + k, y,
                                                                           b.offset_mixed);
        }
    }
}

// ---- the kernel
// alpha out -> bf16, through shared memory, so that rows are written 16 bytes a thread.
template <typename K>
DEVICE void store_out(const PartArgs &a, const Spot &b, const float (&out)[K::MI][K::NO][4]) {
    CP_ASYNC_WAIT(0);
    __syncthreads();
    EACH_FRAGMENT(i, K::MI, j, K::NO) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int at = (b.my_row + 16 * i + 8 * h) * K::PITCH + b.n_out + 8 * j + (int)threadIdx.x % 4 * 2;
            *reinterpret_cast<uint32_t *>(b.stages + at) =
                pack_bf16(a.alpha * out[i][j][2 * h], a.alpha * out[i][j][2 * h + 1]);
        }
    }
    __syncthreads();
    bf16 *to = a.out + pair_offset(a.z, b.pair, a.ld_out) + (int64_t)b.row0 * a.ld_out + b.slice;
#pragma unroll 1
    for (int i = (int)threadIdx.x; i < K::ROWS * K::SLICE / 8; i += K::THREADS) {
        int r = i / (K::SLICE / 8), k = i % (K::SLICE / 8) * 8;
        if (b.row0 + r >= a.z.t || b.slice + k >= a.z.c) continue;
        const bf16 *from = b.stages + r * K::PITCH + k;
        bf16 *at = to + (int64_t)r * a.ld_out + k;
        if (K::ALIGNED) *reinterpret_cast<uint4 *>(at) = *reinterpret_cast<const uint4 *>(from);
        for (int e = 0; e < 8 && !K::ALIGNED; e++) at[e] = from[e];
    }
}

template <Part PART, typename G, bool ONE, bool ALIGNED>
static __global__ void __launch_bounds__(G::THREADS, ONE && PART == PART_O ? 2 : 1) attention_part_kernel(PartArgs a) {
    typedef Kind<PART, G, ONE, ALIGNED> K;
    DYNAMIC_SHARED(bf16, stages);
    Spot b = part_spot<K>(a, stages);
    const int each = b.mix_from + b.mix_steps;
    float s[K::MI][K::NS][4], out[K::MI][K::NO][4], top[K::MI][2], sum[K::MI][2];
    EACH_FRAGMENT(i, K::MI, h, 2) top[i][h] = -3.402823466e38f, sum[i][h] = 0;
    if (PART == PART_O && !ONE) walk_rows<K>(a, b, s, top, sum);
    queue_start<K>(a, b, each);
    if (PART == PART_O && !ONE) {
        share_tops<K>(b, top, sum, true);
        share_sums<K>(a, b, top, sum);
    }
    if (PART == PART_DQ) inner_products<K>(a, b);
    if (!ONE) sums_clear(out);
#pragma unroll 1
    for (int meeting = 0; meeting < b.meetings; meeting++) {
        score_product<K>(a, b, s, meeting, each);
        if (PART == PART_O) {
            row_tops<K>(a, b, s, top, meeting);
            if (ONE) share_tops<K>(b, top, sum, false);
            row_sums<K>(a, b, s, top, sum, meeting, ONE);
            if (ONE) share_sums<K>(a, b, top, sum);
            EACH_FRAGMENT(i, K::MI, j, K::NS) {
#pragma unroll
                for (int h = 0; h < 2; h++)
                    *part_place<K>(b, b.n, i, j, h) =
                        pack_bf16(s[i][j][2 * h] / sum[i][h], s[i][j][2 * h + 1] / sum[i][h]);
            }
        } else {
            put_probabilities<K>(a, b, s, meeting);
            if (K::KEEP && b.slice == 0) {
                __syncthreads();
                keep_rows<K>(a, b, a.keep_p, 0, K::KEYS, 0);
            }
        }
        if (K::GRADIENT) {
            score_product<K>(a, b, s, meeting, each);        // dp
            take_gradients<K>(a, b, s, meeting);
            if (ONE) sums_clear(out);
            mix_parts<K>(a, b, s, out, each);
        } else {
            if (ONE) sums_clear(out);
            mix_product<K>(a, b, out, each);
        }
    }
    store_out<K>(a, b, out);
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
    dim3 grid((unsigned)(a.z.n * a.z.heads * ceil_div(a.z.t, G::ROWS) * ceil_div(a.z.c, G::SLICE)));
    LAUNCH(s, (attention_part_kernel<PART, G, ONE, ALIGNED>), grid, dim3(G::THREADS), G::SHARED_BYTES, a);
}
// Odd views go the long way, which is right for any number of tokens.
template <Part PART>
static void launch_part(Stream *s, const PartArgs &a) {
    const bool BY_ROW = PART == PART_O || PART == PART_DQ;     // the others are matrix products where one meeting does
    const Part FIRST = BY_ROW ? PART : PART_DQ;
    if (!part_aligned(a)) launch_meeting<PART, LargeMeeting, false, false>(s, a);
    else if (!BY_ROW || a.z.t > LargeMeeting::KEYS) launch_meeting<PART, LargeMeeting, false, true>(s, a);
    else if (a.z.t > SmallMeeting::KEYS) launch_meeting<FIRST, LargeMeeting, true, true>(s, a);
    else launch_meeting<FIRST, SmallMeeting, true, true>(s, a);
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
