// kernels/gemm/gemm_mma.cuh - the bf16 matrix product on tensor cores: kernel and launch; used by attention, too.
//
// A block of 8 warps (2 x 4, 64 x 32 elements each) makes 128 x 128 elements, or one of 4 warps (2 x 2, 32 x 32 each)
// 64 x 64 where the large tiles would leave multiprocessors idle. STAGES tiles of 32 terms of both operands lie in
// shared memory (16 KB each at 128, 64 flops per byte copied), filled by cp.async while older ones are multiplied. With
// 6 ldmatrix for 16 products, shared memory is busy 24 cycles for 32 of the tensor cores (sm_80). Operands are copied
// as they are stored and turned by ldmatrix. Sums leave through shared memory, so that rows are written whole.
#ifndef KERNELS_GEMM_MMA_CUH
#define KERNELS_GEMM_MMA_CUH
#include "kernels/gemm/gemm_plan.cuh"
#include "kernels/gemm/mma_tile.cuh"

template <int TILE, bool TA, bool TB>
struct MmaGemm {
    static const int STAGES = 4, TERMS = 32, WARPS_M = 2, WARPS_N = TILE / 32, THREADS = 32 * WARPS_M * WARPS_N;
    static const int MI = TILE / WARPS_M / 16, NI = TILE / WARPS_N / 8, PITCH = TILE + 4;
    static const int ROWS_A = TA ? TERMS : TILE, CHUNKS_A = (TA ? TILE : TERMS) / 8;
    static const int ROWS_B = TB ? TILE : TERMS, CHUNKS_B = (TB ? TERMS : TILE) / 8;
    static const int SIZE = TILE * TERMS;                            // elements of a tile of either operand
    static const int STAGE_BYTES = STAGES * 2 * SIZE * 2, SUM_BYTES = TILE * PITCH * 4;
    static const int SHARED_BYTES = STAGE_BYTES > SUM_BYTES ? STAGE_BYTES : SUM_BYTES;
};

template <int TILE, bool TA, bool TB, bool ALIGNED>
static __global__ void __launch_bounds__((MmaGemm<TILE, TA, TB>::THREADS), TILE == 128 ? 2 : 4)
gemm_mma_kernel(GemmPlan p) {
    typedef MmaGemm<TILE, TA, TB> G;
    DYNAMIC_SHARED(unsigned char, shared);
    bf16 *stages = reinterpret_cast<bf16 *>(shared);
    float *sums = reinterpret_cast<float *>(shared);
    GemmBlock block = gemm_block(p, TILE);
    int begin = block.split * p.depth, end = min(p.z.k, begin + p.depth);
    int once = (end - begin + G::TERMS - 1) / G::TERMS, steps = once * p.turns;
    MmaSource a = { (const bf16 *)p.a.a + matrix_offset(p, block.matrix, p.z.batch_a, p.head_a), p.z.lda,
                    TA ? end : p.z.m, TA ? p.z.m : end };
    MmaSource b = { (const bf16 *)p.a.b + matrix_offset(p, block.matrix, p.z.batch_b, p.head_b), p.z.ldb,
                    TB ? p.z.n : end, TB ? end : p.z.n };
    auto copy = [&](int step) {                  // one group each, of nothing past the last step
        if (step < steps) {
            bf16 *to = stages + step % G::STAGES * 2 * G::SIZE;
            bool again = step >= once;
            int k = begin + (again ? step - once : step) * G::TERMS, m0 = block.row, n0 = block.column;
            MmaSource x = { a.p + (again ? p.turn_a : 0), a.ld, a.rows, a.columns };
            tile_copy<G::ROWS_A, G::CHUNKS_A, G::THREADS, ALIGNED>(to, x, TA ? k : m0, TA ? m0 : k);
            tile_copy<G::ROWS_B, G::CHUNKS_B, G::THREADS, ALIGNED>(to + G::SIZE, b, TB ? n0 : k, TB ? k : n0);
        }
        CP_ASYNC_COMMIT();
    };
    int warp = (int)threadIdx.x / 32, m = warp / G::WARPS_N * G::MI * 16, n = warp % G::WARPS_N * G::NI * 8;
    int offset_a = lane_offset_a<G::CHUNKS_A, TA>(m), offset_b = lane_offset_b<G::CHUNKS_B, !TB>(n);
    float sum[G::MI][G::NI][4];
    sums_clear(sum);
#pragma unroll 1
    for (int step = 0; step < G::STAGES - 1; step++) copy(step);
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        CP_ASYNC_WAIT(2);                        // STAGES - 2: this step's group has landed
        __syncthreads();                         // everyone's has; and all have read the stage that is filled next
        copy(step + G::STAGES - 1);
        const bf16 *at = stages + step % G::STAGES * 2 * G::SIZE;
        warp_product<G::TERMS, G::CHUNKS_A, TA, G::CHUNKS_B, !TB>(sum, at, offset_a, 0, at + G::SIZE, offset_b);
    }
    CP_ASYNC_WAIT(0);
    __syncthreads();
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < G::MI; i++) {
#pragma unroll
        for (int j = 0; j < G::NI; j++) {
            float *to = sums + (m + 16 * i + lane / 4) * G::PITCH + n + 8 * j + lane % 4 * 2;
            *reinterpret_cast<float2 *>(to) = make_float2(sum[i][j][0], sum[i][j][1]);
            *reinterpret_cast<float2 *>(to + 8 * G::PITCH) = make_float2(sum[i][j][2], sum[i][j][3]);
        }
    }
    __syncthreads();
#pragma unroll 1
    for (int v = (int)threadIdx.x; v < TILE * TILE / 4; v += G::THREADS) {
        int row = v / (TILE / 4), column = v % (TILE / 4) * 4;
        gemm_put4(p, block, block.row + row, block.column + column, load4(sums + row * G::PITCH + column));
    }
}

template <int TILE, bool TA, bool TB, bool ALIGNED>
static void gemm_mma_tile(Stream *s, const GemmPlan &p) {
    typedef MmaGemm<TILE, TA, TB> G;
    dim3 grid((unsigned)(gemm_tiles(&p.z, TILE) * p.splits));
    LAUNCH(s, (gemm_mma_kernel<TILE, TA, TB, ALIGNED>), grid, dim3(G::THREADS), G::SHARED_BYTES, p);
}
// One product with these transposes; large tiles where they fill the machine.
template <bool TA, bool TB>
static void gemm_mma_launch(Stream *s, const GemmPlan &p) {
    if (!p.vector_a || !p.vector_b) gemm_mma_tile<64, TA, TB, false>(s, p);
    else if (gemm_tile(&p.z) == 128) gemm_mma_tile<128, TA, TB, true>(s, p);
    else gemm_mma_tile<64, TA, TB, true>(s, p);
    gemm_add_splits(s, p);
}
#endif
