// kernels/gemm/gemm_tile.cuh - a tile of a matrix product on CUDA cores, in f32.
//
// TILE x TILE elements by (TILE / MICRO)^2 threads of MICRO x MICRO sums each. Both operands go through registers into
// shared memory, DEPTH terms at a time, k-major and in f32, in two buffers: the next DEPTH terms are on their way while
// these are multiplied. Per term a warp reads 6 rows of 128 bytes and multiplies 64 times a thread (MICRO 8): bound by
// the multiplications, with two blocks to a multiprocessor.
#ifndef KERNELS_GEMM_TILE_CUH
#define KERNELS_GEMM_TILE_CUH
#include "kernels/common/device.cuh"

// Whether each group of `group` elements from p on, from row to row and matrix to matrix, starts aligned.
static inline bool rows_aligned(const void *p, DType dt, int group, int64_t ld, int64_t batch, int64_t head) {
    return (uintptr_t)p % ((size_t)group * dtype_size(dt)) == 0 && ld % group == 0 && batch % group == 0
           && head % group == 0;
}
// op(x) (rows, terms) at p: element (r, l) at r * ld + l, or if turned at l * ld + r. vector: groups of four aligned.
template <typename T> struct Operand { const T *p; int64_t ld; int rows, terms; bool turned, vector; };

template <int TILE, int MICRO>
struct Tile {
    static const int SIDE = TILE / MICRO, THREADS = SIDE * SIDE, DEPTH = 16, PITCH = TILE + 4;
    static const int LOADS = DEPTH * TILE / 4 / THREADS;             // groups of four per thread and operand
    static const int SHARED_VECTORS = 2 * 2 * DEPTH * PITCH / 4;     // float4, both buffers of both operands
};
// Row of a thread's sum i, or column of its sum j: fours, so that a warp reads 16 bytes a thread side by side.
template <int TILE, int MICRO>
DEVICE int sum_place(int thread, int i) { return i / 4 * (TILE / (MICRO / 4)) + thread * 4 + i % 4; }

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
// sum[i][j] = products of rows row0 + sum_place(i) of a with rows column0 + sum_place(j) of b, over terms from begin.
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
                float4 v = load4(buffer + d * G::PITCH + sum_place<TILE, MICRO>(down, i));
                x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
                float4 w = load4(buffer + size + d * G::PITCH + sum_place<TILE, MICRO>(across, i));
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
// put(row, column, four sums) for each group of four columns of the tile, a row by TILE / 4 threads side by side,
// through the shared memory of tile_product, which holds ROWS rows at a time.
template <int TILE, int MICRO, typename Put>
DEVICE void tile_drain(const float (&sum)[MICRO][MICRO], float *shared, const Put &put) {
    typedef Tile<TILE, MICRO> G;
    const int ROWS = 4 * G::DEPTH, across = (int)threadIdx.x % G::SIDE, down = (int)threadIdx.x / G::SIDE;
#pragma unroll
    for (int first = 0; first < TILE; first += ROWS) {
#pragma unroll
        for (int i = 0; i < MICRO; i++) {
            int row = sum_place<TILE, MICRO>(down, i) - first;
            if (row < 0 || row >= ROWS) continue;
#pragma unroll
            for (int j = 0; j < MICRO; j += 4) {
                store4(shared + row * G::PITCH + sum_place<TILE, MICRO>(across, j),
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
