// kernels/gemm/gemm_sm90.cu - bf16 matrix products on wgmma: operands by TMA, as they are stored, 64 terms at a time.
//
// A tile is 128 rows, 64 to each of two warpgroups, by N columns, and a stage of the ring 64 terms of both operands,
// swizzled over 128 bytes. An operand whose terms are innermost (a, or b transposed) is one box of rows of 64 terms;
// one whose terms are outermost (a transposed, or b) is a box of 64 terms for every 64 of its rows or columns, which
// wgmma turns. What lies past an edge is read as zero. A block lives for many tiles; tiles along the rows are
// neighbours in time. Products of few tiles are split over their terms, as in gemm_plan.cuh, which also ends them.
// From L2 a stage of 128 x 128: 32 KiB for 2.1 MFLOP, 64 FLOP a byte.
#include <stdlib.h>
#include "kernels/common/warpgroup.cuh"
#include "kernels/gemm/gemm_plan.cuh"

template <int N_, bool TA_, bool TB_> struct WgGemm {
    static constexpr int M = 64 * CONSUMERS, N = N_, STAGES = N == 128 ? 6 : 8;
    static constexpr bool TA = TA_, TB = TB_;                    // a's terms are outermost; b's are innermost
    static constexpr int BOX_BYTES = BOX * ROW_BYTES;            // of 64 rows or columns
    static constexpr int A_BYTES = M * ROW_BYTES, B_BYTES = N * ROW_BYTES, STAGE_BYTES = A_BYTES + B_BYTES;
    static constexpr int SLABS = STAGES * STAGE_BYTES, SHARED_BYTES = SLABS + CONSUMERS * 4 * SLAB_BYTES;
    static_assert(SHARED_BYTES + 1024 <= SHARED_MOST, "a block has 227 KiB, some of them for its barriers");
};
struct GemmItems { int tiles_m, tiles_n, count; };               // count: with splits and the batch

// Tiles along the rows first, then along the columns, splits, matrices.
DEVICE GemmBlock gemm_item(const GemmPlan &p, const GemmItems &g, int item, int columns) {
    int rest = item / g.tiles_m;
    GemmBlock b;
    b.row = item % g.tiles_m * 64 * CONSUMERS;
    b.column = rest % g.tiles_n * columns;
    b.split = rest / g.tiles_n % p.splits;
    b.matrix = rest / g.tiles_n / p.splits;
    return b;
}
template <class T> struct GemmBarriers { uint64_t full[T::STAGES], empty[T::STAGES]; };

template <class T>
DEVICE void produce(unsigned char *shared, GemmBarriers<T> *bars, const TensorMap *a, const TensorMap *b,
                    const GemmPlan &p, const GemmItems &g) {
    Ring<T::STAGES> ring;
    for (int item = (int)blockIdx.x; item < g.count; item += (int)gridDim.x) {
        GemmBlock at = gemm_item(p, g, item, T::N);
        int end = min(p.z.k, (at.split + 1) * p.depth);
        int of_a = p.z.batch_a ? at.matrix : 0, of_b = p.z.batch_b ? at.matrix : 0;
        for (int k = at.split * p.depth; k < end; k += BOX) {
            unsigned char *to = shared + ring.stage * T::STAGE_BYTES;
            uint64_t *full = &bars->full[ring.stage];
            MBARRIER_WAIT(&bars->empty[ring.stage], ring.turn ^ 1);
            MBARRIER_ARRIVE_EXPECT(full, T::STAGE_BYTES);
            if (T::TA) {
                for (int j = 0; j < T::M / BOX; j++) {
                    TMA_LOAD(to + j * T::BOX_BYTES, a, full, at.row + j * BOX, k, of_a);
                }
            } else {
                TMA_LOAD(to, a, full, k, at.row, of_a);
            }
            to += T::A_BYTES;
            if (T::TB) {
                TMA_LOAD(to, b, full, k, at.column, of_b);
            } else {
                for (int j = 0; j < T::N / BOX; j++) {
                    TMA_LOAD(to + j * T::BOX_BYTES, b, full, at.column + j * BOX, k, of_b);
                }
            }
            ring.advance();
        }
    }
}

template <class T>
DEVICE void consume(unsigned char *shared, GemmBarriers<T> *bars, const GemmPlan &p, const GemmItems &g) {
    constexpr int A_STEP = T::TA ? 16 * ROW_BYTES : 32, B_STEP = T::TB ? 32 : 16 * ROW_BYTES;    // bytes of 16 terms
    int warp = (int)threadIdx.x / 32 - 4, group = warp / 4;
    bool speaker = threadIdx.x % 32 == 0;                            // arrives for its warp
    float *slab = reinterpret_cast<float *>(shared + T::SLABS + warp * SLAB_BYTES);
    Ring<T::STAGES> ring;
    for (int item = (int)blockIdx.x; item < g.count; item += (int)gridDim.x) {
        GemmBlock at = gemm_item(p, g, item, T::N);
        int end = min(p.z.k, (at.split + 1) * p.depth);
        float d[T::N / 2];
#pragma unroll
        for (int i = 0; i < T::N / 2; i++) d[i] = 0;
        uint64_t *done = NULL;                       // the stage read by products that may still be on their way
        for (int k = at.split * p.depth; k < end; k += BOX) {
            unsigned char *stage = shared + ring.stage * T::STAGE_BYTES;
            uint64_t a = WGMMA_DESCRIPTOR(stage + group * T::BOX_BYTES, T::BOX_BYTES, PATTERN, 128);
            uint64_t b = WGMMA_DESCRIPTOR(stage + T::A_BYTES, T::BOX_BYTES, PATTERN, 128);
            MBARRIER_WAIT(&bars->full[ring.stage], ring.turn);
            WGMMA_FENCE();
#pragma unroll
            for (int i = 0; i < BOX / 16; i++) {
                WGMMA_SS(T::TA, !T::TB, d, WGMMA_ADVANCE(a, i * A_STEP), WGMMA_ADVANCE(b, i * B_STEP), 1);
            }
            WGMMA_COMMIT();
            WGMMA_WAIT(1);                           // the products before these have read their stage
            if (speaker && done) MBARRIER_ARRIVE(done);
            done = &bars->empty[ring.stage];
            ring.advance();
        }
        WGMMA_WAIT(0);
        if (speaker && done) MBARRIER_ARRIVE(done);
        hand_on(d, slab, [&](int row, int column, float (&v)[8]) {
            row += at.row + group * 64;
            column += at.column;
            gemm_put4(p, at, row, column, make_float4(v[0], v[1], v[2], v[3]));
            gemm_put4(p, at, row, column + 4, make_float4(v[4], v[5], v[6], v[7]));
        });
    }
}

template <class T>
static __global__ void __launch_bounds__(THREADS, 1)
gemm_wgmma_kernel(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, GemmPlan p, GemmItems g) {
    DYNAMIC_SHARED(unsigned char, shared);
    SHARED(GemmBarriers<T>, bars, 1);
    if (threadIdx.x == 0) {
        for (int i = 0; i < T::STAGES; i++) {
            MBARRIER_INIT(&bars->full[i], 1);
            MBARRIER_INIT(&bars->empty[i], CONSUMERS * 4);
        }
        MBARRIER_INIT_FENCE();
        TMA_PREFETCH_MAP(&a);
        TMA_PREFETCH_MAP(&b);
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        SETMAXNREG_DEC(40);
        if (threadIdx.x == 0) produce<T>(shared, bars, &a, &b, p, g);
    } else {
        SETMAXNREG_INC(232);
        consume<T>(shared, bars, p, g);
    }
}

// ---- which tile, how many splits: by the shape alone
struct WgGemmPlan { int columns, splits; };
enum { WG_SPLITS = 16, WG_STEPS = 2 };               // at most, and at least so many steps of 64 terms of a split

static ImplPlan tell_plan(const GemmShape *z, int columns, int splits) {
    ImplPlan told = {};
    told.tile = columns == 128 ? "128x128" : "128x64", told.m = 128, told.n = columns;
    double steps = (double)ceil_div(ceil_div(z->k, BOX), splits);
    told.blocks = (int64_t)z->batch * ceil_div(z->m, 128) * ceil_div(z->n, columns) * splits;
    told.splits = splits, told.at_once = told.together = 1;
    told.flops = steps * 2.0 * 128 * columns * BOX;
    told.l2_bytes = steps * (128 + columns) * ROW_BYTES;
    told.beside = splits > 1;
    told.beside_bytes = splits > 1 ? 8.0 * splits * z->batch * z->m * z->n : 0;
    return told;
}
static WgGemmPlan wg_gemm_plan(const GemmShape *z) {
    WgGemmPlan best = { 128, 1 };
    double fewest = 1e30;
    int steps = (int)ceil_div(z->k, BOX);
    for (int columns = 64; columns <= 128; columns += 64) {
        for (int wanted = 1; wanted <= WG_SPLITS && (wanted == 1 || steps / wanted >= WG_STEPS); wanted++) {
            int depth = (int)ceil_div(steps, wanted), splits = (int)ceil_div(steps, depth);
            ImplPlan told = tell_plan(z, columns, splits);
            double seconds = plan_seconds(&told, &machine_h200);
            if (seconds >= fewest) continue;
            fewest = seconds;
            best.columns = columns;
            best.splits = splits;
        }
    }
    return best;
}
static void gemm_wgmma_plan(const GemmShape *z, ImplPlan *told) {
    WgGemmPlan plan = wg_gemm_plan(z);
    *told = tell_plan(z, plan.columns, plan.splits);
}

// ---- the launcher
struct WgGemmState {
    TensorMap a, b;
    const Impl *instead;                     // takes operands that TMA cannot read; NULL: the maps are good
};
static const Impl *gemm_general(const GemmShape *z) {
    return impl_find(&gemm, KERNEL_PASTE(DEV_, KERNEL_KIND, ), 90, z, "tiled");
}

// Fewer rows, columns or terms than half a box are mostly copies of zeros.
static bool gemm_wgmma_can(const GemmShape *z) {
    return z->in == DT_BF16 && z->lda % 8 == 0 && z->ldb % 8 == 0 && z->batch_a % 8 == 0 && z->batch_b % 8 == 0 &&
           z->batch_a >= 0 && z->batch_b >= 0 && z->m >= 32 && z->n >= 32 && z->k >= 32 &&
           (int64_t)z->batch * ceil_div(z->m, 128) * ceil_div(z->n, 64) * WG_SPLITS < INT32_MAX;
}
static size_t gemm_wgmma_scratch(const GemmShape *z) {
    int splits = wg_gemm_plan(z).splits;
    size_t sums = (size_t)z->batch * (size_t)splits * (size_t)z->m * (size_t)partial_columns(z->n) * sizeof(float);
    size_t own = splits > 1 ? sums : 0, other = gemm.scratch(gemm_general(z), z);
    return own > other ? own : other;
}

// batch matrices of outer x inner elements, ld from row to row. Boxes of 64 inner by `rows` outer elements.
static bool map_matrix(TensorMap *map, const void *data, int inner, int outer, int ld, int batch, int64_t between,
                       int rows) {
    const char *why;
    uint64_t dim[3] = { (uint64_t)inner, (uint64_t)outer, between ? (uint64_t)batch : 1 };
    uint64_t row = 2 * (uint64_t)ld, stride[2] = { row, between ? 2 * (uint64_t)between : row * dim[1] };
    uint32_t box[3] = { BOX, (uint32_t)rows, 1 }, step[3] = { 1, 1, 1 };
    return tensor_map_tiled(map, DT_BF16, 3, data, dim, stride, box, step, 128, &why);
}
static void *gemm_wgmma_prepare(Stream *, const GemmShape *z, const GemmArgs *a) {
    WgGemmState *state = static_cast<WgGemmState *>(aligned_alloc(alignof(WgGemmState), sizeof(WgGemmState)));
    CHECK(state, "no memory for tensor maps");
    int columns = wg_gemm_plan(z).columns;
    bool good = map_matrix(&state->a, a->a, z->ta ? z->m : z->k, z->ta ? z->k : z->m, z->lda, z->batch, z->batch_a,
                           z->ta ? BOX : 128) &&
                map_matrix(&state->b, a->b, z->tb ? z->k : z->n, z->tb ? z->n : z->k, z->ldb, z->batch, z->batch_b,
                           z->tb ? columns : BOX);
    state->instead = good ? NULL : gemm_general(z);
    return state;
}

template <int N, bool TA, bool TB> static void launch_tiles(Stream *s, const WgGemmState *state, const GemmPlan &p) {
    typedef WgGemm<N, TA, TB> T;
    GemmItems g = { (int)ceil_div(p.z.m, T::M), (int)ceil_div(p.z.n, N), 0 };
    g.count = g.tiles_m * g.tiles_n * p.splits * p.z.batch;
    LAUNCH(s, (gemm_wgmma_kernel<T>), dim3(grid_of(g.count, 1, SMS)), dim3(THREADS), T::SHARED_BYTES, state->a,
           state->b, p, g);
}
template <bool TA, bool TB>
static void launch_columns(Stream *s, const WgGemmState *state, const GemmPlan &p, int columns) {
    if (columns == 128) launch_tiles<128, TA, TB>(s, state, p);
    else launch_tiles<64, TA, TB>(s, state, p);
}
static void gemm_wgmma(Stream *s, const GemmShape *z, const GemmArgs *a, Work work) {
    const WgGemmState *state = static_cast<const WgGemmState *>(work.state);
    if (state->instead) {
        gemm.run(state->instead, s, z, a, { NULL, work.scratch });
        return;
    }
    WgGemmPlan plan = wg_gemm_plan(z);
    GemmPlan p = gemm_plan(z, a, NULL, 8);
    p.splits = plan.splits;
    p.depth = (int)ceil_div(ceil_div(z->k, BOX), plan.splits) * BOX;
    p.partial = plan.splits > 1 ? static_cast<float *>(work.scratch) : NULL;
    if (z->ta && z->tb) launch_columns<true, true>(s, state, p, plan.columns);
    else if (z->ta) launch_columns<true, false>(s, state, p, plan.columns);
    else if (z->tb) launch_columns<false, true>(s, state, p, plan.columns);
    else launch_columns<false, false>(s, state, p, plan.columns);
    gemm_add_splits(s, p);
}

IMPLS(gemm_sm90,
    IMPL_PLANNED(gemm, "wgmma", 40, 90, 90, gemm_wgmma_can, gemm_wgmma_scratch, gemm_wgmma_prepare, gemm_wgmma, free,
                 gemm_wgmma_plan))
