// kernels/gemm/gemm_tile.cuh - what the matrix products share: how a product ends, splits of k, a tile on CUDA cores.
//
// A product of few tiles and long k is split along k: each split writes its sums as f32 to scratch, and a second pass
// adds them in order and ends the product. Splits depend on the shape alone, so the bits do, too.
//
// The tile on CUDA cores: TILE x TILE elements by (TILE / MICRO)^2 threads of MICRO x MICRO sums each. Both operands go
// through registers into shared memory, DEPTH terms at a time, k-major and in f32, in two buffers: the next DEPTH terms
// are on their way while these are multiplied. A warp reads 6 rows of 128 bytes for 64 products a thread (MICRO 8).
#ifndef KERNELS_GEMM_TILE_CUH
#define KERNELS_GEMM_TILE_CUH
#include "kernels/common/device.cuh"
#include "kernels/gemm/gemm.h"

// ---- how a product ends
typedef struct {
    GemmShape z;
    GemmArgs  a;
    int    heads;                     // matrices of the batch that lie side by side; 1 but in attention
    int    head_a, head_b, head_y;    // elements from one of these to the next; batch_* are from group to group
    bool   vector_a, vector_b, vector_y;
    int    splits, depth;             // of k; terms of one split
    float *partial;                   // (batch, splits, m, padded n) f32, if splits > 1
} GemmPlan;

enum { SPLIT_TILE = 64, SPLIT_DEPTH = 32, SPLIT_BLOCKS = 128, SPLIT_MOST = 16 };
static inline int64_t gemm_tiles(const GemmShape *z, int tile) {
    return (int64_t)z->batch * ceil_div(z->m, tile) * ceil_div(z->n, tile);
}
// Enough splits for about a block per multiprocessor, of at least 64 terms each.
static inline int gemm_splits(const GemmShape *z) {
    int64_t wanted = SPLIT_BLOCKS / gemm_tiles(z, SPLIT_TILE), most = z->k / (2 * SPLIT_DEPTH);
    if (wanted > most) wanted = most;
    if (wanted > SPLIT_MOST) wanted = SPLIT_MOST;
    if (wanted < 2) return 1;
    return (int)ceil_div(z->k, ceil_div(ceil_div(z->k, wanted), SPLIT_DEPTH) * SPLIT_DEPTH);
}
static inline int64_t partial_columns(int n) { return ceil_div(n, 4) * 4; }
static inline size_t gemm_scratch(const GemmShape *z) {
    int splits = gemm_splits(z);
    return splits < 2 ? 0 : sizeof(float) * (size_t)z->batch * (size_t)splits * (size_t)z->m
                            * (size_t)partial_columns(z->n);
}
// Whether each group of `group` elements from p on, from row to row and matrix to matrix, starts aligned.
static inline bool rows_aligned(const void *p, DType dt, int group, int64_t ld, int64_t batch, int64_t head) {
    return (uintptr_t)p % ((size_t)group * dtype_size(dt)) == 0 && ld % group == 0 && batch % group == 0
           && head % group == 0;
}
static inline GemmPlan gemm_plan(const GemmShape *z, const GemmArgs *a, void *scratch, int group) {
    GemmPlan p = {};
    p.z = *z;
    p.a = *a;
    p.heads = 1;
    p.splits = scratch ? gemm_splits(z) : 1;
    p.depth = (int)(ceil_div(ceil_div(z->k, p.splits), SPLIT_DEPTH) * SPLIT_DEPTH);
    p.partial = (float *)scratch;
    p.vector_a = rows_aligned(a->a, z->in, group, z->lda, z->batch_a, 0);
    p.vector_b = rows_aligned(a->b, z->in, group, z->ldb, z->batch_b, 0);
    p.vector_y = rows_aligned(a->y, z->out, 4, z->ldy, z->batch_y, 0);
    return p;
}

// One block's share of the grid, which counts tiles, then splits, then the batch.
typedef struct { int64_t matrix; int split, row, column; } GemmBlock;
DEVICE GemmBlock gemm_block(const GemmPlan &p, int tile) {
    int across = (p.z.n + tile - 1) / tile, tiles = across * ((p.z.m + tile - 1) / tile);
    int at = (int)(blockIdx.x % (unsigned)tiles), rest = (int)(blockIdx.x / (unsigned)tiles);
    GemmBlock b;
    b.matrix = rest / p.splits;
    b.split = rest % p.splits;
    b.row = at / across * tile;
    b.column = at % across * tile;
    return b;
}
DEVICE int64_t matrix_offset(const GemmPlan &p, int64_t matrix, int64_t batch, int head) {
    return matrix / p.heads * batch + matrix % p.heads * head;
}

template <typename Out>
DEVICE void gemm_store4(const GemmPlan &p, Out *y, int column, float4 sum) {
    int columns = min(4, p.z.n - column);
    bool whole = p.vector_y && columns == 4;
    float v[4] = { sum.x, sum.y, sum.z, sum.w }, old[4] = { 0, 0, 0, 0 };
    if (p.a.accumulate && whole) {
        float4 w = load4(y);
        old[0] = w.x, old[1] = w.y, old[2] = w.z, old[3] = w.w;
    } else if (p.a.accumulate) {
        for (int j = 0; j < 4; j++)
            if (j < columns) old[j] = load_real(y + j);
    }
    for (int j = 0; j < 4; j++) {
        if (j >= columns) continue;
        v[j] = p.z.alpha * v[j] + (p.a.bias ? p.a.bias[column + j] : 0.0f) + old[j];
        if (p.z.act == ACT_SILU) v[j] = silu(v[j]);
        if (!whole) store_real(y + j, v[j]);
    }
    if (whole) store4(y, make_float4(v[0], v[1], v[2], v[3]));
}
// Ends columns .. column+3 of a row, of which at least the first is there: column % 4 == 0.
DEVICE void gemm_finish4(const GemmPlan &p, int64_t matrix, int row, int column, float4 sum) {
    int64_t at = matrix_offset(p, matrix, p.z.batch_y, p.head_y) + (int64_t)row * p.z.ldy + column;
    if (p.z.out == DT_F32) gemm_store4(p, (float *)p.a.y + at, column, sum);
    else gemm_store4(p, (bf16 *)p.a.y + at, column, sum);
}
// What a block does with four sums: ends them, or leaves them for the second pass.
DEVICE void gemm_put4(const GemmPlan &p, GemmBlock b, int row, int column, float4 sum) {
    if (row >= p.z.m || column >= p.z.n) return;
    if (p.splits == 1) {
        gemm_finish4(p, b.matrix, row, column, sum);
    } else {
        int64_t columns = (p.z.n + 3) / 4 * 4;
        store4(p.partial + ((b.matrix * p.splits + b.split) * p.z.m + row) * columns + column, sum);
    }
}
// Second pass: a thread adds four columns of a row over all splits, in order.
enum { SPLIT_THREADS = 256 };
static __global__ void __launch_bounds__(SPLIT_THREADS) gemm_add_splits_kernel(GemmPlan p) {
    int64_t groups = (p.z.n + 3) / 4, items = (int64_t)p.z.batch * p.z.m * groups;
    int64_t i = (int64_t)blockIdx.x * SPLIT_THREADS + threadIdx.x;
    if (i >= items) return;
    int64_t matrix = i / groups / p.z.m;
    int row = (int)(i / groups % p.z.m), column = (int)(i % groups) * 4;
    const float *from = p.partial + (matrix * p.splits * p.z.m + row) * groups * 4 + column;
    float4 sum = load4(from);
    for (int split = 1; split < p.splits; split++) {
        float4 v = load4(from + (int64_t)split * p.z.m * groups * 4);
        sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    gemm_finish4(p, matrix, row, column, sum);
}
static inline void gemm_add_splits(Stream *s, const GemmPlan &p) {
    if (p.splits == 1) return;
    int64_t items = (int64_t)p.z.batch * p.z.m * ceil_div(p.z.n, 4);
    LAUNCH(s, (gemm_add_splits_kernel), dim3((unsigned)ceil_div(items, SPLIT_THREADS)), dim3(SPLIT_THREADS), 0, p);
}

// ---- a tile on CUDA cores
// op(x) (rows, terms) at p: element (r, l) at r * ld + l, or if turned at l * ld + r. vector: groups of four aligned.
template <typename T> struct Operand { const T *p; int64_t ld; int rows, terms; bool turned, vector; };

template <int TILE, int MICRO>
struct Tile {
    static const int SIDE = TILE / MICRO, THREADS = SIDE * SIDE, DEPTH = 16, PITCH = TILE + 4;
    static const int LOADS = DEPTH * TILE / 4 / THREADS;             // groups of four per thread and operand
    static const int SHARED_VECTORS = 2 * 2 * DEPTH * PITCH / 4;     // float4, both buffers of both operands
    // Row of a thread's sum i, or column of its sum j: fours, so that a warp reads 16 bytes a thread side by side.
    DEVICE static int place(int thread, int i) { return i / 4 * (TILE / (MICRO / 4)) + thread * 4 + i % 4; }
};

template <typename T>
DEVICE float4 load_guarded(const T *p, int count) {                  // the first `count` of four, zeros after
    float4 v = make_float4(0, 0, 0, 0);
    if (count > 0) v.x = load_real(p);
    if (count > 1) v.y = load_real(p + 1);
    if (count > 2) v.z = load_real(p + 2);
    if (count > 3) v.w = load_real(p + 3);
    return v;
}
template <typename G, typename T, int LOADS>
DEVICE void tile_fetch(float4 (&hold)[LOADS], const Operand<T> &x, int row0, int l0, int tile) {
    for (int v = 0; v < LOADS; v++) {
        int i = (int)threadIdx.x + v * G::THREADS;
        int r = row0 + (x.turned ? i % (tile / 4) * 4 : i / (G::DEPTH / 4));
        int l = l0 + (x.turned ? i / (tile / 4) : i % (G::DEPTH / 4) * 4);
        int count = x.turned ? (l < x.terms ? x.rows - r : 0) : (r < x.rows ? x.terms - l : 0);
        const T *from = x.p + (x.turned ? l * x.ld + r : r * x.ld + l);
        hold[v] = x.vector && count >= 4 ? load4(from) : load_guarded(from, count);
    }
}
template <typename G, int LOADS>
DEVICE void tile_place(float *to, const float4 (&hold)[LOADS], bool turned, int tile) {
    for (int v = 0; v < LOADS; v++) {
        int i = (int)threadIdx.x + v * G::THREADS;
        if (turned) {
            store4(to + i / (tile / 4) * G::PITCH + i % (tile / 4) * 4, hold[v]);
        } else {
            float *at = to + i % (G::DEPTH / 4) * 4 * G::PITCH + i / (G::DEPTH / 4);
            at[0] = hold[v].x;
            at[G::PITCH] = hold[v].y;
            at[2 * G::PITCH] = hold[v].z;
            at[3 * G::PITCH] = hold[v].w;
        }
    }
}
// sum[i][j] = products of rows row0 + place(i) of a with rows column0 + place(j) of b, over terms begin .. (theirs) - 1.
template <int TILE, int MICRO, typename A, typename B>
DEVICE void tile_product(float (&sum)[MICRO][MICRO], const Operand<A> &a, const Operand<B> &b, int row0, int column0,
                         int begin, float *shared) {
    typedef Tile<TILE, MICRO> G;
    const int across = (int)threadIdx.x % G::SIDE, down = (int)threadIdx.x / G::SIDE, size = G::DEPTH * G::PITCH;
    float4 hold_a[G::LOADS], hold_b[G::LOADS];
    for (int i = 0; i < MICRO; i++)
        for (int j = 0; j < MICRO; j++) sum[i][j] = 0;
    tile_fetch<G>(hold_a, a, row0, begin, TILE);
    tile_fetch<G>(hold_b, b, column0, begin, TILE);
    float *buffer = shared, *other = shared + 2 * size;
    for (int l = begin; l < a.terms; l += G::DEPTH) {
        tile_place<G>(buffer, hold_a, a.turned, TILE);
        tile_place<G>(buffer + size, hold_b, b.turned, TILE);
        __syncthreads();             // also: all have read `other`, which the next turn writes
        if (l + G::DEPTH < a.terms) {
            tile_fetch<G>(hold_a, a, row0, l + G::DEPTH, TILE);
            tile_fetch<G>(hold_b, b, column0, l + G::DEPTH, TILE);
        }
#pragma unroll (MICRO == 8 ? 1 : 4)
        for (int d = 0; d < G::DEPTH; d++) {
            float x[MICRO], y[MICRO];
            for (int i = 0; i < MICRO; i += 4) {
                float4 v = load4(buffer + d * G::PITCH + G::place(down, i));
                x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
                float4 w = load4(buffer + size + d * G::PITCH + G::place(across, i));
                y[i] = w.x, y[i + 1] = w.y, y[i + 2] = w.z, y[i + 3] = w.w;
            }
            for (int i = 0; i < MICRO; i++)
                for (int j = 0; j < MICRO; j++) sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
        }
        float *swap = buffer;
        buffer = other;
        other = swap;
    }
    __syncthreads();
}
// put(row, column, four sums) for each group of four columns of the tile, a row by TILE / 4 threads side by side, through
// the shared memory of tile_product, which holds ROWS rows at a time.
template <int TILE, int MICRO, typename Put>
DEVICE void tile_drain(const float (&sum)[MICRO][MICRO], float *shared, const Put &put) {
    typedef Tile<TILE, MICRO> G;
    const int ROWS = 4 * G::DEPTH, across = (int)threadIdx.x % G::SIDE, down = (int)threadIdx.x / G::SIDE;
#pragma unroll
    for (int first = 0; first < TILE; first += ROWS) {
#pragma unroll
        for (int i = 0; i < MICRO; i++) {
            int row = G::place(down, i) - first;
            if (row < 0 || row >= ROWS) continue;
#pragma unroll
            for (int j = 0; j < MICRO; j += 4) {
                store4(shared + row * G::PITCH + G::place(across, j),
                       make_float4(sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]));
            }
        }
        __syncthreads();
#pragma unroll 1
        for (int v = (int)threadIdx.x; v < ROWS * TILE / 4; v += G::THREADS) {
            int row = v / (TILE / 4), column = v % (TILE / 4) * 4;
            put(first + row, column, load4(shared + row * G::PITCH + column));
        }
        __syncthreads();
    }
}
#endif
