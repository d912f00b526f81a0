// kernels/gemm/mma_tile.cuh - bf16 tiles in shared memory, and a warp's products of them on tensor cores.
//
// A tile is rows of CHUNKS chunks of 8 elements (16 bytes) without padding. Chunk c of row r lies at chunk
// c ^ (r % 8), or with 4 chunks to a row c ^ (r / 2 % 4): the 8 rows that one ldmatrix phase reads at the same c, and
// the 8 chunks that one phase of copies writes, fall on 8 different groups of banks.
#ifndef KERNELS_MMA_TILE_CUH
#define KERNELS_MMA_TILE_CUH
#include "kernels/common/mma.cuh"

template <int CHUNKS>
DEVICE int chunk_at(int row, int chunk) {       // place of a chunk in a tile, in chunks
    return row * CHUNKS + (CHUNKS == 4 ? chunk ^ (row / 2 % 4) : chunk ^ (row % 8));
}

// A matrix in global memory of which tiles are copied: element (r, k) at r * ld + k < 2^31.
typedef struct { const bf16 *p; int ld, rows, columns; } MmaSource;

// Rows row .. row + ROWS - 1, chunks from column on, zeros outside the matrix. The caller commits and waits. ALIGNED:
// chunks start on 16 bytes in global memory; otherwise elements are copied one by one, for the odd view.
template <int ROWS, int CHUNKS, int THREADS, bool ALIGNED>
DEVICE void tile_copy(bf16 *to, const MmaSource &from, int row, int column) {
    const int STEP = THREADS / CHUNKS;                       // rows from one of a thread's chunks to its next
    static_assert(THREADS % CHUNKS == 0 && (ROWS % STEP == 0 || ROWS < STEP), "whole rows at a time");
    int c = (int)threadIdx.x % CHUNKS, r = (int)threadIdx.x / CHUNKS, count = min(8, from.columns - column - c * 8);
    int x = (row + r) * from.ld + column + c * 8;
    if (ROWS < STEP && r >= ROWS) return;
#pragma unroll
    for (int v = 0; v < ROWS; v += STEP) {
        bool inside = count > 0 && row + r + v < from.rows;
        bf16 *at = to + (STEP % 8 ? chunk_at<CHUNKS>(r + v, c) : chunk_at<CHUNKS>(r, c) + v * CHUNKS) * 8;
        if (ALIGNED) {
            CP_ASYNC16(at, from.p + (inside ? x + v * from.ld : 0), inside ? count * 2 : 0);
        } else {
#pragma unroll 1
            for (int e = 0; e < 8; e++) at[e].bits = inside && e < count ? from.p[x + v * from.ld + e].bits : 0;
        }
    }
}

// Fragments of 16 terms. A: 16 rows of op(tile), stored (m, k), or if TURNED (k, m). B: 16 columns, b[0..1] of the
// first 8 and b[2..3] of the rest; stored (n, k), or if TURNED (k, n). What a lane reads lies at an offset that is
// computed once, for rows from m or columns from n on and term 0; moving by whole fragments adds rows and flips bits of
// the chunk, since m and n are multiples of all they are moved by together.
template <int CHUNKS, bool TURNED>
DEVICE int lane_offset_a(int m) {
    int lane = (int)threadIdx.x % 32;
    return TURNED ? chunk_at<CHUNKS>(lane % 8 + lane / 16 * 8, m / 8 + lane / 8 % 2)
                  : chunk_at<CHUNKS>(m + lane % 16, lane / 16);
}
template <int CHUNKS, bool TURNED>
DEVICE int lane_offset_b(int n) {
    int lane = (int)threadIdx.x % 32;
    return TURNED ? chunk_at<CHUNKS>(lane % 16, n / 8 + lane / 16)
                  : chunk_at<CHUNKS>(n + lane % 8 + lane / 16 * 8, lane / 8 % 2);
}
template <int CHUNKS, bool TURNED>
DEVICE void fragment_a(uint32_t (&a)[4], const bf16 *tile, int offset, int rows, int k) {      // m + rows
    if (TURNED) LDMATRIX_X4_TRANS(a, tile + ((offset ^ rows / 8) + k * CHUNKS) * 8);
    else LDMATRIX_X4(a, tile + ((offset ^ k / 8) + rows * CHUNKS) * 8);
}
template <int CHUNKS, bool TURNED>
DEVICE void fragment_b(uint32_t (&b)[4], const bf16 *tile, int offset, int columns, int k) {   // n + columns
    if (TURNED) LDMATRIX_X4_TRANS(b, tile + ((offset ^ columns / 8) + k * CHUNKS) * 8);
    else LDMATRIX_X4(b, tile + ((offset ^ k / 8) + columns * CHUNKS) * 8);
}
// sum (16 MI x 8 NI, by fragments) += a (terms from k_a on) b (from 0 on) over TERMS terms; offsets as above.
template <int TERMS, int CHUNKS_A, bool TURNED_A, int CHUNKS_B, bool TURNED_B, int MI, int NI>
DEVICE void warp_product(float (&sum)[MI][NI][4], const bf16 *a, int offset_a, int k_a, const bf16 *b, int offset_b) {
#pragma unroll
    for (int k = 0; k < TERMS; k += 16) {
        uint32_t x[4], y[NI / 2][4];
#pragma unroll
        for (int j = 0; j < NI; j += 2) fragment_b<CHUNKS_B, TURNED_B>(y[j / 2], b, offset_b, 8 * j, k);
#pragma unroll
        for (int i = 0; i < MI; i++) {
            fragment_a<CHUNKS_A, TURNED_A>(x, a, offset_a, 16 * i, k_a + k);
#pragma unroll
            for (int j = 0; j < NI; j++) MMA_BF16(sum[i][j], x, y[j / 2] + j % 2 * 2);
        }
    }
}
template <int MI, int NI>
DEVICE void sums_clear(float (&sum)[MI][NI][4]) {
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) sum[i][j][e] = 0;
}
#endif
