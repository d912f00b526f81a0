// kernels/conv2d/conv2d_tile.cuh - a TILE x TILE tile of a product on CUDA cores, in full f32: the inner loop of the
// general convolutions.
//
// Both operands of one step, TILE_DEPTH x TILE each, lie in shared memory with the summed index k outermost, so that a
// thread reads its rows and columns as float4. 128: 256 threads of 8x8 sums, 64 FMAs for four 16-byte reads, 32 KiB for
// two steps; 64: 128 threads of 8x4, for small grids. Within a warp, the lanes that read at once
// share or adjoin, so no read conflicts. Operands whose memory is contiguous in k are transposed on the way in: a lane
// stores its quad as four floats, to one column of four rows k. swizzled() moves quads of columns by k / 4, so that the
// four lanes with one pixel and different k write to different banks, too.
#ifndef KERNELS_CONV2D_TILE_CUH
#define KERNELS_CONV2D_TILE_CUH
#include "kernels/common/device.cuh"

enum { TILE_DEPTH = 16, TILE_LOADS = 2 };                // k per step; quads that a thread brings of each operand
template <int TILE> struct Tiling {
    static_assert(TILE == 128 || TILE == 64, "the tiles are 128 and 64");
    static constexpr int threads = TILE == 128 ? 256 : 128;
    static constexpr int lane_rows = TILE == 128 ? 8 : 4, lane_cols = 32 / lane_rows;   // lanes of a warp
    static constexpr int warp_cols = TILE == 128 ? 4 : 2;                               // and 2 rows of warps
    static constexpr int col_quads = TILE == 128 ? 2 : 1;                               // of a thread; 2 row quads
    static constexpr int cols = 4 * col_quads, quads = TILE_DEPTH * TILE / 4;           // quads: of one operand
    static constexpr int blocks = TILE == 128 ? 1 : 4;                                  // on an SM, by registers
};

// This thread's first row and column of the tile; its further quads are 4 * lane_rows and 4 * lane_cols further on.
template <int TILE> DEVICE int tile_row() {
    typedef Tiling<TILE> T;
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    return (warp / T::warp_cols) * 8 * T::lane_rows + lane / T::lane_cols * 4;
}
template <int TILE> DEVICE int tile_col() {
    typedef Tiling<TILE> T;
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    return (warp % T::warp_cols) * T::cols * T::lane_cols + lane % T::lane_cols * 4;
}

DEVICE int swizzled(int k, int column) { return column ^ (k / 4 % 4 * 8); }

// A quad of column `column`, k..k+3 with k a multiple of 4; and a quad of row k, columns column..column+3.
template <int TILE> DEVICE void tile_store_k(float *operand, int k, int column, float4 v) {
    float *to = operand + k * TILE + swizzled(k, column);
    to[0] = v.x;
    to[TILE] = v.y;
    to[2 * TILE] = v.z;
    to[3 * TILE] = v.w;
}
template <int TILE> DEVICE void tile_store_columns(float *operand, int k, int column, float4 v) {
    store4(operand + k * TILE + swizzled(k, column), v);
}

// sum (8 x cols) += the step's product: row, col from tile_row and tile_col.
template <int TILE> DEVICE void tile_multiply(const float *a, const float *b, int row, int col,
                                              float (&sum)[8][Tiling<TILE>::cols]) {
    typedef Tiling<TILE> T;
#pragma unroll
    for (int k4 = 0; k4 < TILE_DEPTH; k4 += 4) {               // rolled: its addresses would cost 16 registers
        const float *ak = a + k4 * TILE, *bk = b + k4 * TILE;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float x[8], y[T::cols];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float4 v = load4(ak + k * TILE + swizzled(k4, row + i * 4 * T::lane_rows));
                x[4 * i] = v.x, x[4 * i + 1] = v.y, x[4 * i + 2] = v.z, x[4 * i + 3] = v.w;
            }
#pragma unroll
            for (int j = 0; j < T::col_quads; j++) {
                float4 v = load4(bk + k * TILE + swizzled(k4, col + j * 4 * T::lane_cols));
                y[4 * j] = v.x, y[4 * j + 1] = v.y, y[4 * j + 2] = v.z, y[4 * j + 3] = v.w;
            }
#pragma unroll
            for (int i = 0; i < 8; i++)
#pragma unroll
                for (int j = 0; j < T::cols; j++) sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
        }
    }
}
template <int TILE> DEVICE void tile_clear(float (&sum)[8][Tiling<TILE>::cols]) {
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < Tiling<TILE>::cols; j++) sum[i][j] = 0.0f;
}
#endif
