// kernels/gemm/gemm_plan.cuh - what the kernels of matrix products share: how a product ends, and splits of k.
//
// A product of few tiles and long k is split along k: each split writes its sums as f32 to scratch, and a second pass
// adds them in order and ends the product. Splits depend on the shape alone, so the bits do, too.
#ifndef KERNELS_GEMM_PLAN_CUH
#define KERNELS_GEMM_PLAN_CUH
#include "kernels/common/plan.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/gemm_tile.cuh"

// ---- how a product ends
typedef struct {
    GemmShape z;
    GemmArgs  a;
    int    heads;                     // matrices of the batch that lie side by side; 1 but in attention
    int    head_a, head_b, head_y;    // elements from one of these to the next; batch_* are from group to group
    bool   vector_a, vector_b, vector_y;
    int    splits, depth;             // of k; terms of one split
    float *partial;                   // (batch, splits, m, padded n) f32, if splits > 1
    int     turns;                    // 2: the sum of two products, the second with a from turn_a on; otherwise 1
    int64_t turn_a;
} GemmPlan;

enum { SPLIT_DEPTH = 32, SPLIT_BLOCKS = 128, SPLIT_MOST = 16 };
static inline int64_t gemm_tiles(const GemmShape *z, int tile) {
    return (int64_t)z->batch * ceil_div(z->m, tile) * ceil_div(z->n, tile);
}
// Large tiles where they fill the machine.
static inline int gemm_tile(const GemmShape *z) { return gemm_tiles(z, 128) >= SPLIT_BLOCKS ? 128 : 64; }
static inline ImplPlan gemm_tell(const GemmShape *z, int splits) {
    int tile = gemm_tile(z);
    double terms = (double)(ceil_div(ceil_div(z->k, splits), SPLIT_DEPTH) * SPLIT_DEPTH);
    ImplPlan told = {};
    told.tile = tile == 128 ? "128x128" : "64x64", told.m = told.n = tile;
    told.plain = z->in == DT_F32;
    told.blocks = gemm_tiles(z, tile) * splits, told.splits = splits;
    told.at_once = tile == 128 || told.plain ? 2 : 4, told.together = 1;
    told.flops = 2.0 * tile * tile * terms;
    told.l2_bytes = 2.0 * tile * terms * (double)dtype_size(z->in);
    told.beside = splits > 1;
    told.beside_bytes = splits > 1 ? 8.0 * splits * z->batch * z->m * z->n : 0;
    return told;
}
// The fastest on an A100, of at least SPLIT_DEPTH terms each.
static inline int gemm_splits(const GemmShape *z) {
    int best = 1, steps = (int)ceil_div(z->k, SPLIT_DEPTH);
    double fewest = 1e30;
    for (int wanted = 1; wanted <= SPLIT_MOST && wanted <= steps; wanted++) {
        int splits = (int)ceil_div(steps, ceil_div(steps, wanted));
        ImplPlan told = gemm_tell(z, splits);
        double seconds = plan_seconds(&told, &machine_a100);
        if (seconds >= fewest) continue;
        fewest = seconds;
        best = splits;
    }
    return best;
}
static inline int64_t partial_columns(int n) { return ceil_div(n, 4) * 4; }
static inline size_t gemm_scratch(const GemmShape *z) {
    int splits = gemm_splits(z);
    return splits < 2 ? 0 : sizeof(float) * (size_t)z->batch * (size_t)splits * (size_t)z->m
                            * (size_t)partial_columns(z->n);
}
static inline GemmPlan gemm_plan(const GemmShape *z, const GemmArgs *a, void *scratch, int group) {
    GemmPlan p = {};
    p.z = *z;
    p.a = *a;
    p.heads = p.turns = 1;
    p.splits = scratch ? gemm_splits(z) : 1;
    p.depth = (int)(ceil_div(ceil_div(z->k, p.splits), SPLIT_DEPTH) * SPLIT_DEPTH);
    p.partial = (float *)scratch;
    p.vector_a = rows_aligned(a->a, z->in, group, z->lda, z->batch_a, 0);
    p.vector_b = rows_aligned(a->b, z->in, group, z->ldb, z->batch_b, 0);
    p.vector_y = rows_aligned(a->y, z->out, 4, z->ldy, z->batch_y, 0);
    return p;
}

// One block's share of the grid, which counts tiles, then splits, then the batch.
typedef struct { int matrix, split, row, column; } GemmBlock;
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
DEVICE int64_t matrix_offset(const GemmPlan &p, int matrix, int64_t batch, int head) {
    return matrix / p.heads * batch + (int64_t)(matrix % p.heads) * head;
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
DEVICE void gemm_finish4(const GemmPlan &p, int matrix, int row, int column, float4 sum) {
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
        store4(p.partial + ((int64_t)(b.matrix * p.splits + b.split) * p.z.m + row) * columns + column, sum);
    }
}
// Second pass: a thread adds four columns of a row over all splits, in order.
enum { SPLIT_THREADS = 256 };
static __global__ void __launch_bounds__(SPLIT_THREADS, 4) gemm_add_splits_kernel(GemmPlan p) {
    int64_t groups = (p.z.n + 3) / 4, items = (int64_t)p.z.batch * p.z.m * groups;
    int64_t i = (int64_t)blockIdx.x * SPLIT_THREADS + threadIdx.x;
    if (i >= items) return;
    int matrix = (int)(i / groups / p.z.m);
    int row = (int)(i / groups % p.z.m), column = (int)(i % groups) * 4;
    const float *from = p.partial + ((int64_t)matrix * p.splits * p.z.m + row) * groups * 4 + column;
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
#endif
