// kernels/attention/attention.cu - softmax attention for any tokens, heads and channels, on CUDA cores in f32.
//
// Work goes by strips: STRIP_ROWS queries against all keys, of as many images and heads at once as STRIP_BYTES of
// scratch hold. For each strip the products of gemm_tile.cuh and, forward, one warp a row:
//   forward    s = scale q k^T -> p = softmax, lse -> o = p v
//   backward   p = exp(scale q k^T - lse) -> dv (+=) p^T do -> ds = p (do v^T - D), in place -> dq = scale ds k,
//              dk (+=) ds^T q,   with D = rowsum(do o) first
// Up to STRIP_ROWS tokens a strip is the whole matrix of its images; beyond, it is made anew for each strip of queries,
// and dk and dv add up over strips in f32 scratch, in the order of the queries. Scratch never grows with t^2.
// At 256 tokens of 256 channels: 4 t^2 c flops forward, 10 t^2 c backward, none twice, against 3 and 7 passes over the
// strip, which lies in L2 in part: the products take three quarters of the time.
#include "kernels/attention/attention.h"
#include "kernels/gemm/gemm_tile.cuh"

enum { STRIP_ROWS = 256, STRIP_BYTES = 64 << 20, FULL_BLOCKS = 128 };
enum { ROW_THREADS = 256, ROW_WARPS = ROW_THREADS / 32 };

// Queries row .. row + rows - 1 of `count` (image, head) pairs from `first` on. p: (count, rows, pitch) f32.
typedef struct {
    AttentionShape z;
    int first, count, row, rows, pitch;
    float *p;
} Strip;

static int64_t pairs(const AttentionShape *z) { return (int64_t)z->n * z->heads; }
static int strip_rows(const AttentionShape *z) { return z->t < STRIP_ROWS ? z->t : STRIP_ROWS; }
static int strip_pitch(const AttentionShape *z) { return (int)ceil_div(z->t, 4) * 4; }
static int64_t strip_floats(const AttentionShape *z) { return (int64_t)strip_rows(z) * strip_pitch(z); }
// dk and dv of one pair, where they are summed over strips.
static int64_t sum_floats(const AttentionShape *z) { return z->t > STRIP_ROWS ? 2 * (int64_t)z->t * z->c : 0; }
static int64_t strip_pairs(const AttentionShape *z, int64_t floats) {
    int64_t most = STRIP_BYTES / (int64_t)sizeof(float) / floats;
    return most < 1 ? 1 : most < pairs(z) ? most : pairs(z);
}

DEVICE int64_t pair_offset(const AttentionShape &z, int pair, int ld) {
    return (int64_t)(pair / z.heads) * z.t * ld + pair % z.heads * z.c;
}
// Tile of this block in a product of `rows` x `columns` per pair: pair by pair.
typedef struct { int pair, row, column; } StripBlock;
DEVICE StripBlock strip_block(int rows, int columns, int tile) {
    int across = (columns + tile - 1) / tile, tiles = across * ((rows + tile - 1) / tile);
    int at = (int)(blockIdx.x % (unsigned)tiles);
    StripBlock b = { (int)(blockIdx.x / (unsigned)tiles), at / across * tile, at % across * tile };
    return b;
}
DEVICE float stored_as(const float *, float v) { return v; }
DEVICE float stored_as(const bf16 *, float v) { return bf16_float(float_bf16(v)); }

// ---- strip = x y^T over channels, by `mode`; x: q or do (queries), y: k or v (keys); row: lse or D, (n, heads, t)
typedef enum { SCORES, PROBABILITIES, GRADIENTS } ScoreMode;
typedef struct {
    const void *x, *y;
    int ldx, ldy;
    bool vector_x, vector_y;
    ScoreMode mode;
    const float *row;
} ScoreArgs;

template <int TILE, int MICRO, typename T>
static __global__ void __launch_bounds__(Tile<TILE, MICRO>::THREADS, 2) attention_score_kernel(Strip s, ScoreArgs a) {
    SHARED(float4, shared, (Tile<TILE, MICRO>::SHARED_VECTORS));
    StripBlock block = strip_block(s.rows, s.z.t, TILE);
    int pair = s.first + block.pair;
    Operand<T> x = { (const T *)a.x + pair_offset(s.z, pair, a.ldx) + (int64_t)s.row * a.ldx, a.ldx, s.rows, s.z.c,
                     false, a.vector_x };
    Operand<T> y = { (const T *)a.y + pair_offset(s.z, pair, a.ldy), a.ldy, s.z.t, s.z.c, false, a.vector_y };
    float sum[MICRO][MICRO];
    tile_product<TILE, MICRO>(sum, x, y, block.row, block.column, 0, (float *)shared);
    const float *of_row = a.mode == SCORES ? NULL : a.row + (int64_t)pair * s.z.t + s.row;
    tile_drain<TILE, MICRO>(sum, (float *)shared, [&](int i, int j, float4 sums) {
        int row = block.row + i, column = block.column + j;
        if (row >= s.rows || column >= s.z.t) return;
        float *to = s.p + ((int64_t)block.pair * s.rows + row) * s.pitch + column;
        float v[4] = { sums.x, sums.y, sums.z, sums.w }, p[4] = { 0, 0, 0, 0 };
        if (a.mode == GRADIENTS) {
            float4 old = load4(to);
            p[0] = old.x, p[1] = old.y, p[2] = old.z, p[3] = old.w;
        }
        for (int l = 0; l < 4; l++) {
            if (a.mode == SCORES) v[l] = s.z.scale * v[l];
            else if (a.mode == PROBABILITIES) v[l] = stored_as((const T *)NULL, expf(s.z.scale * v[l] - of_row[row]));
            else v[l] = p[l] * (v[l] - of_row[row]);
            if (column + l >= s.z.t) v[l] = 0;               // the strip's padding
        }
        store4(to, make_float4(v[0], v[1], v[2], v[3]));
    });
}

// ---- a row of scores -> probabilities, in place, and lse: a warp a row
template <typename T>
static __global__ void __launch_bounds__(ROW_THREADS) attention_softmax_kernel(Strip s, float *lse) {
    int64_t row = (int64_t)blockIdx.x * ROW_WARPS + threadIdx.x / 32;
    if (row >= (int64_t)s.count * s.rows) return;
    float *p = s.p + row * s.pitch;
    int lane = (int)threadIdx.x % 32;
    float top = -3.402823466e38f, sum = 0;
    for (int j = lane * 4; j < s.z.t; j += 128) {
        float4 v = load4(p + j);
        top = fmaxf(top, v.x);
        if (j + 1 < s.z.t) top = fmaxf(top, v.y);
        if (j + 2 < s.z.t) top = fmaxf(top, v.z);
        if (j + 3 < s.z.t) top = fmaxf(top, v.w);
    }
    top = warp_max(top);
    for (int j = lane * 4; j < s.z.t; j += 128) {
        float4 v = load4(p + j);
        v.x = expf(v.x - top);
        v.y = j + 1 < s.z.t ? expf(v.y - top) : 0.0f;
        v.z = j + 2 < s.z.t ? expf(v.z - top) : 0.0f;
        v.w = j + 3 < s.z.t ? expf(v.w - top) : 0.0f;
        sum += v.x + v.y + v.z + v.w;
        store4(p + j, v);
    }
    sum = warp_sum(sum);
    for (int j = lane * 4; j < s.z.t; j += 128) {
        float4 v = load4(p + j);
        const T *as = NULL;
        store4(p + j, make_float4(stored_as(as, v.x / sum), stored_as(as, v.y / sum), stored_as(as, v.z / sum),
                                  stored_as(as, v.w / sum)));
    }
    int64_t pair = s.first + row / s.rows;
    if (lane == 0) lse[pair * s.z.t + s.row + row % s.rows] = top + logf(sum);
}

// ---- y = alpha (strip x) over keys, or turned alpha (strip^T x) over queries; x, y (tokens, c)
typedef struct {
    const void *x;
    void *y;
    int ldx, ldy;
    bool vector_x, vector_y, turned;
    float alpha;
    float *sums;               // (count, t, c): what earlier strips gave and where this one adds; NULL: only one strip
} MixArgs;

template <int TILE, int MICRO, typename T>
static __global__ void __launch_bounds__(Tile<TILE, MICRO>::THREADS, 2) attention_mix_kernel(Strip s, MixArgs a) {
    SHARED(float4, shared, (Tile<TILE, MICRO>::SHARED_VECTORS));
    int rows = a.turned ? s.z.t : s.rows, terms = a.turned ? s.rows : s.z.t;
    StripBlock block = strip_block(rows, s.z.c, TILE);
    int64_t skip_x = a.turned ? s.row : 0, skip_y = a.turned ? 0 : s.row;
    Operand<float> p = { s.p + (int64_t)block.pair * s.rows * s.pitch, s.pitch, rows, terms, a.turned, true };
    Operand<T> x = { (const T *)a.x + pair_offset(s.z, s.first + block.pair, a.ldx) + skip_x * a.ldx, a.ldx, s.z.c,
                     terms, true, a.vector_x };
    T *y = (T *)a.y + pair_offset(s.z, s.first + block.pair, a.ldy) + skip_y * a.ldy;
    float sum[MICRO][MICRO];
    tile_product<TILE, MICRO>(sum, p, x, block.row, block.column, 0, (float *)shared);
    bool last = s.row + s.rows == s.z.t;
    tile_drain<TILE, MICRO>(sum, (float *)shared, [&](int i, int j, float4 sums) {
        int row = block.row + i, column = block.column + j, columns = min(4, s.z.c - column);
        if (row >= rows || columns <= 0) return;
        float v[4] = { sums.x, sums.y, sums.z, sums.w };
        float *all = a.sums ? a.sums + ((int64_t)block.pair * s.z.t + row) * s.z.c + column : NULL;
        T *to = y + (int64_t)row * a.ldy + column;
        bool whole = s.z.c % 4 == 0;                         // then every four of `sums` are aligned
        if (all && s.row > 0) {
            float4 w = whole ? load4(all) : load_guarded(all, columns);
            v[0] += w.x, v[1] += w.y, v[2] += w.z, v[3] += w.w;
        }
        if (all && !last) {
            if (whole) store4(all, make_float4(v[0], v[1], v[2], v[3]));
            for (int l = 0; l < 4; l++)
                if (!whole && l < columns) all[l] = v[l];
            return;
        }
        for (int l = 0; l < 4; l++) v[l] *= a.alpha;
        if (a.vector_y && columns == 4) {
            store4(to, make_float4(v[0], v[1], v[2], v[3]));
        } else {
            for (int l = 0; l < 4; l++)
                if (l < columns) store_real(to + l, v[l]);
        }
    });
}

// ---- D (n, heads, t) = sum over channels of do o: a warp a token and head
template <typename T>
static __global__ void __launch_bounds__(ROW_THREADS) attention_inner_kernel(AttentionShape z, const T *d_o, const T *o,
                                                                             bool vector, float *inner) {
    int64_t row = (int64_t)blockIdx.x * ROW_WARPS + threadIdx.x / 32;
    if (row >= (int64_t)z.n * z.heads * z.t) return;
    int64_t at = pair_offset(z, (int)(row / z.t), z.ldo) + row % z.t * z.ldo;
    int lane = (int)threadIdx.x % 32;
    float sum = 0;
    for (int k = lane * 4; k < z.c; k += 128) {
        bool whole = vector && k + 4 <= z.c;
        float4 x = whole ? load4(d_o + at + k) : load_guarded(d_o + at + k, z.c - k);
        float4 y = whole ? load4(o + at + k) : load_guarded(o + at + k, z.c - k);
        sum += x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
    }
    sum = warp_sum(sum);
    if (lane == 0) inner[row] = sum;
}

// ---- launches
template <typename T>
static void score(Stream *stream, const Strip &s, const void *x, int ldx, const void *y, int ldy, ScoreMode mode,
                  const float *row) {
    DType dt = s.z.dtype;
    ScoreArgs a = { x, y, ldx, ldy, rows_aligned(x, dt, 4, ldx, 0, s.z.c), rows_aligned(y, dt, 4, ldy, 0, s.z.c), mode,
                    row };
    int64_t large = s.count * ceil_div(s.rows, 128) * ceil_div(s.z.t, 128);
    int64_t small = s.count * ceil_div(s.rows, 64) * ceil_div(s.z.t, 64);
    if (large >= FULL_BLOCKS)
        LAUNCH(stream, (attention_score_kernel<128, 8, T>), dim3((unsigned)large), dim3(256), 0, s, a);
    else
        LAUNCH(stream, (attention_score_kernel<64, 4, T>), dim3((unsigned)small), dim3(256), 0, s, a);
}
template <typename T>
static void mix(Stream *stream, const Strip &s, const void *x, int ldx, void *y, int ldy, bool turned, float alpha,
                float *sums) {
    DType dt = s.z.dtype;
    MixArgs a = { x, y, ldx, ldy, rows_aligned(x, dt, 4, ldx, 0, s.z.c), rows_aligned(y, dt, 4, ldy, 0, s.z.c), turned,
                  alpha, sums };
    int rows = turned ? s.z.t : s.rows;
    int64_t large = s.count * ceil_div(rows, 128) * ceil_div(s.z.c, 128);
    int64_t small = s.count * ceil_div(rows, 64) * ceil_div(s.z.c, 64);
    if (large >= FULL_BLOCKS)
        LAUNCH(stream, (attention_mix_kernel<128, 8, T>), dim3((unsigned)large), dim3(256), 0, s, a);
    else
        LAUNCH(stream, (attention_mix_kernel<64, 4, T>), dim3((unsigned)small), dim3(256), 0, s, a);
}
static unsigned row_blocks(int64_t rows) { return (unsigned)ceil_div(rows, ROW_WARPS); }

static bool nhwc(const AttentionShape *z) { return z->layout == LAYOUT_NHWC; }

static size_t forward_scratch(const AttentionShape *z) {
    return sizeof(float) * (size_t)(strip_pairs(z, strip_floats(z)) * strip_floats(z));
}
template <typename T>
static void forward_strips(Stream *stream, const AttentionShape *z, const AttentionForwardArgs *a, float *scratch) {
    int64_t group = strip_pairs(z, strip_floats(z));
    for (int64_t first = 0; first < pairs(z); first += group) {
        for (int row = 0; row < z->t; row += STRIP_ROWS) {
            Strip s = { *z, (int)first, (int)min(group, pairs(z) - first), row, min(STRIP_ROWS, z->t - row),
                        strip_pitch(z), scratch };
            score<T>(stream, s, a->q, z->ldq, a->k, z->ldk, SCORES, NULL);
            dim3 grid(row_blocks((int64_t)s.count * s.rows));
            LAUNCH(stream, (attention_softmax_kernel<T>), grid, dim3(ROW_THREADS), 0, s, a->lse);
            mix<T>(stream, s, a->v, z->ldv, a->o, z->ldo, false, 1, NULL);
        }
    }
}
static void forward(Stream *stream, const AttentionShape *z, const AttentionForwardArgs *a, Work work) {
    if (z->dtype == DT_F32) forward_strips<float>(stream, z, a, (float *)work.scratch);
    else forward_strips<bf16>(stream, z, a, (float *)work.scratch);
}

// Scratch: D, padded to whole float4; the strip; sums of dv, then dk.
static int64_t inner_floats(const AttentionShape *z) { return ceil_div(pairs(z) * z->t, 4) * 4; }
static size_t backward_scratch(const AttentionShape *z) {
    int64_t each = strip_floats(z) + sum_floats(z);
    return sizeof(float) * (size_t)(inner_floats(z) + strip_pairs(z, each) * each);
}
template <typename T>
static void backward_strips(Stream *stream, const AttentionShape *z, const AttentionBackwardArgs *a, float *scratch) {
    int64_t group = strip_pairs(z, strip_floats(z) + sum_floats(z));
    float *inner = scratch, *p = inner + inner_floats(z), *sums = p + group * strip_floats(z);
    float *sum_v = sum_floats(z) ? sums : NULL, *sum_k = sum_v ? sums + group * z->t * z->c : NULL;
    bool vector = rows_aligned(a->d_o, z->dtype, 4, z->ldo, 0, z->c)
                  && rows_aligned(a->o, z->dtype, 4, z->ldo, 0, z->c);
    LAUNCH(stream, (attention_inner_kernel<T>), dim3(row_blocks(pairs(z) * z->t)), dim3(ROW_THREADS), 0, *z,
           (const T *)a->d_o, (const T *)a->o, vector, inner);
    for (int64_t first = 0; first < pairs(z); first += group) {
        for (int row = 0; row < z->t; row += STRIP_ROWS) {
            Strip s = { *z, (int)first, (int)min(group, pairs(z) - first), row, min(STRIP_ROWS, z->t - row),
                        strip_pitch(z), p };
            score<T>(stream, s, a->q, z->ldq, a->k, z->ldk, PROBABILITIES, a->lse);
            mix<T>(stream, s, a->d_o, z->ldo, a->dv, z->ldv, true, 1, sum_v);
            score<T>(stream, s, a->d_o, z->ldo, a->v, z->ldv, GRADIENTS, inner);
            mix<T>(stream, s, a->k, z->ldk, a->dq, z->ldq, false, z->scale, NULL);
            mix<T>(stream, s, a->q, z->ldq, a->dk, z->ldk, true, z->scale, sum_k);
        }
    }
}
static void backward(Stream *stream, const AttentionShape *z, const AttentionBackwardArgs *a, Work work) {
    if (z->dtype == DT_F32) backward_strips<float>(stream, z, a, (float *)work.scratch);
    else backward_strips<bf16>(stream, z, a, (float *)work.scratch);
}

IMPLS(attention,
    IMPL_FULL(attention_forward, "strips", 100, 0, 0, nhwc, forward_scratch, NULL, forward, NULL),
    IMPL_FULL(attention_backward, "strips", 100, 0, 0, nhwc, backward_scratch, NULL, backward, NULL))
