// kernels/common/lanes.cuh - sums over pixels: blocks of threads that are columns of channels and lanes of pixels.
//
// A thread takes V channels of every pixel of its lane and keeps their sums in registers; the lanes are then joined in
// shared memory as a tree, whose shape depends on the block alone. Arrays there are (V, threads), so that the threads
// of a warp meet no bank twice.
#ifndef KERNELS_LANES_CUH
#define KERNELS_LANES_CUH
#include "kernels/common/vector.cuh"

enum { LANE_THREADS = 256, LANE_COLUMNS = 8 };           // columns: 64 channels in vectors of 8, one line of bf16

// As few columns as the channels need, a power of two, and as many lanes as that leaves.
static inline dim3 lane_block(int64_t channels, int v) {
    unsigned columns = 1;
    while (columns < LANE_COLUMNS && (int64_t)columns * v < channels) columns *= 2;
    return dim3(columns, LANE_THREADS / columns);
}
DEVICE int lane_thread() { return (int)(threadIdx.y * blockDim.x + threadIdx.x); }

// The sum over the lanes, in every thread of lane 0; the others' is undefined. slot: LANE_THREADS V floats, free before
// and after.
template <int V> DEVICE Vec<V> lane_sum(Vec<V> own, float *slot) {
    int t = lane_thread(), columns = (int)blockDim.x;
    for (int e = 0; e < V; e++) slot[e * LANE_THREADS + t] = own.v[e];
    __syncthreads();
    for (int half = (int)blockDim.y / 2; half; half /= 2) {
        if (t < half * columns) {
            for (int e = 0; e < V; e++) slot[e * LANE_THREADS + t] += slot[e * LANE_THREADS + t + half * columns];
        }
        __syncthreads();
    }
    for (int e = 0; e < V; e++) own.v[e] = slot[e * LANE_THREADS + (int)threadIdx.x];
    __syncthreads();
    return own;
}
#endif
