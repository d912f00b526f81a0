// kernels/gemm/gemm.cu - matrix products and column sums for every shape, on CUDA cores in f32.
//
// Products: tiles of 128 x 128 with 8 x 8 sums a thread, or where these would leave multiprocessors idle 64 x 64 with
// 4 x 4, and splits of k where even those are few (gemm_plan.cuh). Operands are f32 or bf16, sums f32, and any
// alignment goes: rows that allow it are read and written four elements at a time.
//
// Column sums: a block adds 32 columns, 32 rows at a time by four columns a thread, in a fixed order over its warps.
// With many rows these go round several blocks, whose sums a second kernel adds in order. dy is read once, 64 or 128
// bytes of a row together.
#include "kernels/gemm/gemm_plan.cuh"

template <int TILE, int MICRO, typename In>
static __global__ void __launch_bounds__(Tile<TILE, MICRO>::THREADS, 2) gemm_tiled_kernel(GemmPlan p) {
    typedef Tile<TILE, MICRO> G;
    SHARED(float4, shared, G::SHARED_VECTORS);
    GemmBlock block = gemm_block(p, TILE);
    int begin = block.split * p.depth, end = min(p.z.k, begin + p.depth);
    Operand<In> a = { (const In *)p.a.a + matrix_offset(p, block.matrix, p.z.batch_a, p.head_a), p.z.lda, p.z.m, end,
                      p.z.ta, p.vector_a };
    Operand<In> b = { (const In *)p.a.b + matrix_offset(p, block.matrix, p.z.batch_b, p.head_b), p.z.ldb, p.z.n, end,
                      !p.z.tb, p.vector_b };
    float sum[MICRO][MICRO];
    tile_product<TILE, MICRO>(sum, a, b, block.row, block.column, begin, (float *)shared);
    tile_drain<TILE, MICRO>(sum, (float *)shared, [&](int row, int column, float4 v) {
        gemm_put4(p, block, block.row + row, block.column + column, v);
    });
}

template <int TILE, int MICRO>
static void launch_tiled(Stream *s, const GemmPlan &p) {
    dim3 grid((unsigned)(gemm_tiles(&p.z, TILE) * p.splits)), block(Tile<TILE, MICRO>::THREADS);
    if (p.z.in == DT_F32) LAUNCH(s, (gemm_tiled_kernel<TILE, MICRO, float>), grid, block, 0, p);
    else LAUNCH(s, (gemm_tiled_kernel<TILE, MICRO, bf16>), grid, block, 0, p);
}

static void gemm_tiled(Stream *s, const GemmShape *z, const GemmArgs *a, Work work) {
    GemmPlan p = gemm_plan(z, a, gemm_scratch(z) ? work.scratch : NULL, 4);
    if (gemm_tile(z) == 128) launch_tiled<128, 8>(s, p);
    else launch_tiled<64, 4>(s, p);
    gemm_add_splits(s, p);
}
static void tiled_plan(const GemmShape *z, ImplPlan *told) {
    *told = gemm_tell(z, gemm_splits(z));
    told->plain = true;
}

// ---- column sums
enum { SUM_THREADS = 256, SUM_WARPS = SUM_THREADS / 32, SUM_COLUMNS = 32 };
enum { SUM_AT_ONCE = 32, SUM_ROWS = 512, SUM_RANGES = 128 };         // rows of a block at once, at least; most blocks
static int sum_ranges(const BiasGradShape *z) { return (int)grid_of(z->m, SUM_ROWS, SUM_RANGES); }
static size_t sum_scratch(const BiasGradShape *z) {
    return sum_ranges(z) < 2 ? 0 : sizeof(float) * (size_t)sum_ranges(z) * (size_t)partial_columns(z->n);
}

// sums (ranges, padded n), or if there is one range db itself.
template <typename In, bool VECTOR>
static __global__ void __launch_bounds__(SUM_THREADS) column_sum_kernel(BiasGradShape z, BiasGradArgs a, float *sums) {
    SHARED(float4, slot, SUM_WARPS * 8);
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int column = (int)blockIdx.x * SUM_COLUMNS + lane % 8 * 4, range = (int)blockIdx.y, ranges = (int)gridDim.y;
    float4 sum = make_float4(0, 0, 0, 0);
    if (column < z.n) {
#pragma unroll 4
        for (int64_t row = range * SUM_AT_ONCE + threadIdx.x / 8; row < z.m; row += ranges * SUM_AT_ONCE) {
            const In *from = (const In *)a.dy + row * z.ldy + column;
            float4 v = VECTOR ? load4(from) : load_guarded(from, z.n - column);
            sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
        }
    }
    for (int d = 8; d < 32; d *= 2) {            // the four rows of the warp
        sum.x += __shfl_xor_sync(0xFFFFFFFFu, sum.x, d);
        sum.y += __shfl_xor_sync(0xFFFFFFFFu, sum.y, d);
        sum.z += __shfl_xor_sync(0xFFFFFFFFu, sum.z, d);
        sum.w += __shfl_xor_sync(0xFFFFFFFFu, sum.w, d);
    }
    if (lane < 8) slot[warp * 8 + lane] = sum;
    __syncthreads();
    if (warp > 0 || lane >= 8 || column >= z.n) return;
    for (int w = 1; w < SUM_WARPS; w++) {
        float4 v = slot[w * 8 + lane];
        sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    if (ranges > 1) {
        store4(sums + (int64_t)range * ((z.n + 3) / 4 * 4) + column, sum);
        return;
    }
    float v[4] = { sum.x, sum.y, sum.z, sum.w };
    for (int j = 0; j < 4; j++)
        if (column + j < z.n) a.db[column + j] = (a.accumulate ? a.db[column + j] : 0.0f) + v[j];
}
static __global__ void __launch_bounds__(SUM_THREADS) column_sum_ranges_kernel(BiasGradShape z, BiasGradArgs a,
                                                                               const float *sums, int ranges) {
    int column = (int)(blockIdx.x * SUM_THREADS + threadIdx.x);
    if (column >= z.n) return;
    float sum = 0;
    for (int r = 0; r < ranges; r++) sum += sums[(int64_t)r * ((z.n + 3) / 4 * 4) + column];
    a.db[column] = (a.accumulate ? a.db[column] : 0.0f) + sum;
}

template <typename In>
static void launch_sum(Stream *s, const BiasGradShape *z, const BiasGradArgs *a, float *sums) {
    dim3 grid((unsigned)ceil_div(z->n, SUM_COLUMNS), (unsigned)sum_ranges(z)), block(SUM_THREADS);
    if (z->n % 4 == 0 && rows_aligned(a->dy, z->in, 4, z->ldy, 0, 0))
        LAUNCH(s, (column_sum_kernel<In, true>), grid, block, 0, *z, *a, sums);
    else
        LAUNCH(s, (column_sum_kernel<In, false>), grid, block, 0, *z, *a, sums);
}
static void column_sum(Stream *s, const BiasGradShape *z, const BiasGradArgs *a, Work work) {
    float *sums = (float *)work.scratch;
    if (z->in == DT_F32) launch_sum<float>(s, z, a, sums);
    else launch_sum<bf16>(s, z, a, sums);
    if (sum_ranges(z) > 1)
        LAUNCH(s, (column_sum_ranges_kernel), dim3((unsigned)ceil_div(z->n, SUM_THREADS)), dim3(SUM_THREADS), 0, *z, *a,
               (const float *)sums, sum_ranges(z));
}

IMPLS(gemm,
    IMPL_PLANNED(gemm, "tiled", 100, 0, 0, NULL, gemm_scratch, NULL, gemm_tiled, NULL, tiled_plan),
    IMPL_SCRATCH(bias_backward, "columns", sum_scratch, column_sum))
