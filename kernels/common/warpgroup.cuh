// kernels/common/warpgroup.cuh - what products on wgmma share. A block is a producer thread and two warpgroups that
// multiply; rings of stages lie between them; sums leave through slabs of shared memory.
#ifndef KERNELS_WARPGROUP_CUH
#define KERNELS_WARPGROUP_CUH
#include "kernels/common/hopper.cuh"

enum { BOX = 64, ROW_BYTES = 2 * BOX, PATTERN = 1024 };      // elements of a row; bytes after which swizzling repeats
enum { GROUP = 128, CONSUMERS = 2, THREADS = (1 + CONSUMERS) * GROUP };
enum { SMS = 132 };                                          // multiprocessors of an H100 or H200
enum { SHARED_MOST = 227 * 1024 };

// A ring of stages and the parity of its turn.
template <int STAGES> struct Ring {
    int stage = 0;
    uint32_t turn = 0;
    DEVICE void advance() {
        stage++;
        if (stage < STAGES) return;
        stage = 0;
        turn ^= 1;
    }
};

// Hands a warpgroup's product of 64 x 2 R on as store(row, column, v): v[8] are the sums at that row and column and the
// next seven. Every warp turns its 16 rows, 32 columns at a time, in a slab of shared memory.
enum { SLAB_COLUMNS = 32, SLAB_LD = SLAB_COLUMNS + 8, SLAB_BYTES = 16 * SLAB_LD * 4 };
template <int R, class Store> DEVICE void hand_on(const float (&d)[R], float *slab, const Store &store) {
    int lane = (int)threadIdx.x % 32, warp_row = (int)threadIdx.x / 32 % 4 * 16;
#pragma unroll
    for (int column = 0; column < 2 * R; column += SLAB_COLUMNS) {
#pragma unroll
        for (int j = 0; j < SLAB_COLUMNS / 8; j++) {
            const float *sums = &d[(column / 8 + j) * 4];
            float *to = slab + lane / 4 * SLAB_LD + j * 8 + lane % 4 * 2;
            *reinterpret_cast<float2 *>(to) = make_float2(sums[0], sums[1]);
            *reinterpret_cast<float2 *>(to + 8 * SLAB_LD) = make_float2(sums[2], sums[3]);
        }
        __syncwarp();
#pragma unroll 1
        for (int i = lane; i < 16 * SLAB_COLUMNS / 8; i += 32) {
            int row = i / (SLAB_COLUMNS / 8), of_row = i % (SLAB_COLUMNS / 8) * 8;
            const float *from = slab + row * SLAB_LD + of_row;
            float4 low = load4(from), high = load4(from + 4);
            float v[8] = { low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w };
            store(warp_row + row, column + of_row, v);
        }
        __syncwarp();
    }
}
#endif
