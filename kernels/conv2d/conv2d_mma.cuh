// kernels/conv2d/conv2d_mma.cuh - what bf16 convolutions on mma.sync share: tiles, shared memory, the loop, the sums.
//
// A block computes a tile of M x N sums in STEPs of 32 terms, its warps WARP_M x WARP_N each in registers. The
// operands of a step are copied by cp.async into one of STAGES buffers, two steps ahead of their use: 48 KiB for
// 128 x 128, so that two blocks of four warps share an SM of every GPU since sm_80 (registers allow no third),
// and one fills its pipeline or stores its sums while the other multiplies.
//
// An operand lies in shared memory in one of two ways, as global memory has it; ldmatrix turns either into fragments:
//   TERMS_INNER   a row per line or column of the tile: 32 terms, 64 bytes, 4 chunks of 16 bytes
//   TERMS_OUTER   a row per term: all M or N of the tile
// Chunks are permuted within rows so that the 8 rows of an 8x8 matrix, and the rows a warp copies, meet all 32 banks.
//
// Arithmetic of a 128 x 128 step on an SM of 1024 bf16 multiply-adds a clock (A100): 512 clocks of mma, 256 of
// ldmatrix and 128 of copies into shared memory at 128 bytes a clock; 16 KiB from L2, 64 FLOP a byte.
#ifndef KERNELS_CONV2D_MMA_CUH
#define KERNELS_CONV2D_MMA_CUH
#include "kernels/common/mma.cuh"
#include "kernels/common/plan.h"
#include "kernels/conv2d/conv2d.h"

enum { STEP = 32, STAGES = 3 };
struct ConvSource { const bf16 *data; int channels, ld; };     // of pixels; no channels: absent
enum Order { TERMS_INNER, TERMS_OUTER };

// BLOCKS: blocks an SM is to hold, which bounds the registers of a thread.
template <int M_, int N_, int WARP_M_, int WARP_N_, int BLOCKS_> struct Tile {
    static constexpr int M = M_, N = N_, WARP_M = WARP_M_, WARP_N = WARP_N_, BLOCKS = BLOCKS_;
    static constexpr int THREADS = (M / WARP_M) * (N / WARP_N) * 32;
    static constexpr int ROWS = WARP_M / 16, COLUMNS = WARP_N / 8;       // fragments of a warp
    static constexpr int A_BYTES = M * STEP * 2, STAGE_BYTES = (M + N) * STEP * 2;
    static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
    static constexpr int SUMS_LD = WARP_N + 8;                           // floats: rows of fragments meet all banks
    static_assert(SHARED_BYTES <= 48 * 1024, "two blocks do not fit an SM of 100 KiB");
    static_assert(THREADS / 32 * 16 * SUMS_LD * 4 <= SHARED_BYTES, "the sums are handed on through the stages");
};
typedef Tile<128, 128, 64, 64, 2> LargeTile;
typedef Tile<128, 64, 64, 32, 3>  NarrowTile;
typedef Tile<64, 64, 32, 32, 4>   SmallTile;

template <class T> struct Sums { float at[T::ROWS][T::COLUMNS][4]; };

// ---- shared memory of a stage
// Byte of a chunk. Two rows of TERMS_INNER fill 128 bytes.
DEVICE int inner_chunk(int row, int chunk) { return row * STEP * 2 + (chunk ^ (row >> 1 & 3)) * 16; }
template <int WIDTH> DEVICE int outer_chunk(int row, int chunk) { return row * WIDTH * 2 + (chunk ^ (row & 7)) * 16; }

// 8 elements into shared memory, zeros where not `inside`. Unaligned ones one by one.
template <bool ALIGNED> DEVICE void copy_chunk(unsigned char *to, const bf16 *from, bool inside) {
    if (ALIGNED) {
        CP_ASYNC16(to, from, inside ? 16 : 0);
    } else {
        uint32_t pair[4] = { 0, 0, 0, 0 };
        for (int i = 0; i < 4 && inside; i++) pair[i] = from[2 * i].bits | (uint32_t)from[2 * i + 1].bits << 16;
        *reinterpret_cast<uint4 *>(to) = make_uint4(pair[0], pair[1], pair[2], pair[3]);
    }
}

// ---- one step: the warp's sums += A (M x 32) B (32 x N)
// Fragments of rows row..row+15, terms 16 * half .. +15 of A.
template <class T, Order ORDER> DEVICE void load_a(uint32_t (&r)[4], const unsigned char *a, int row, int half) {
    int lane = (int)threadIdx.x % 32;
    if (ORDER == TERMS_INNER) {
        LDMATRIX_X4(r, a + inner_chunk(row + lane % 16, half * 2 + lane / 16));
    } else {
        LDMATRIX_X4_TRANS(r, a + outer_chunk<T::M>(half * 16 + lane / 16 * 8 + lane % 8, row / 8 + lane / 8 % 2));
    }
}
// Fragments of two times eight columns: r[0], r[1] of the first, r[2], r[3] of the second.
template <class T, Order ORDER> DEVICE void load_b(uint32_t (&r)[4], const unsigned char *b, int column, int half) {
    int lane = (int)threadIdx.x % 32;
    if (ORDER == TERMS_INNER) {
        LDMATRIX_X4(r, b + inner_chunk(column + lane / 16 * 8 + lane % 8, half * 2 + lane / 8 % 2));
    } else {
        LDMATRIX_X4_TRANS(r, b + outer_chunk<T::N>(half * 16 + lane % 16, column / 8 + lane / 16));
    }
}

// First row and column of the warp's sums in the tile.
template <class T> DEVICE int warp_row() { return (int)threadIdx.x / 32 % (T::M / T::WARP_M) * T::WARP_M; }
template <class T> DEVICE int warp_column() { return (int)threadIdx.x / 32 / (T::M / T::WARP_M) * T::WARP_N; }

// fragments(r, i, half): load_a of the warp's i-th 16 rows.
template <class T, Order B, class Fragments>
DEVICE void multiply_step(Sums<T> &sums, const Fragments &fragments, const unsigned char *b_tile) {
    for (int half = 0; half < STEP / 16; half++) {
        uint32_t a[T::ROWS][4], b[T::COLUMNS / 2][4];
        for (int i = 0; i < T::ROWS; i++) fragments(a[i], i, half);
        for (int j = 0; j < T::COLUMNS / 2; j++) load_b<T, B>(b[j], b_tile, warp_column<T>() + j * 16, half);
        for (int i = 0; i < T::ROWS; i++)
            for (int j = 0; j < T::COLUMNS; j++) MMA_BF16(sums.at[i][j], a[i], b[j / 2] + j % 2 * 2);
    }
}

template <class T> DEVICE void clear_sums(Sums<T> &sums) {
    for (int i = 0; i < T::ROWS; i++)
        for (int j = 0; j < T::COLUMNS; j++)
            for (int e = 0; e < 4; e++) sums.at[i][j][e] = 0;
}

// The loop over `steps`: load(stage) copies the operands of the next step into a stage, A before B, and
// compute(stage) multiplies those of the current one.
template <int STAGE_BYTES, class Load, class Compute>
DEVICE void run_steps(unsigned char *shared, int steps, const Load &load, const Compute &compute) {
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) load(shared + s * STAGE_BYTES);
        CP_ASYNC_COMMIT();
    }
    int stage = 0, free_stage = STAGES - 1;
    for (int step = 0; step < steps; step++) {
        CP_ASYNC_WAIT(STAGES - 2);
        __syncthreads();               // this step's copies are there, and the stage of the step before is read
        if (step + STAGES - 1 < steps) load(shared + free_stage * STAGE_BYTES);
        CP_ASYNC_COMMIT();
        compute(shared + stage * STAGE_BYTES);
        stage = stage == STAGES - 1 ? 0 : stage + 1;
        free_stage = free_stage == STAGES - 1 ? 0 : free_stage + 1;
    }
    CP_ASYNC_WAIT(0);
    __syncthreads();                   // the stages are free for whatever comes next
}
template <class T, Order A, Order B, class Load>
DEVICE void multiply(Sums<T> &sums, unsigned char *shared, int steps, const Load &load) {
    clear_sums(sums);
    run_steps<T::STAGE_BYTES>(shared, steps, load, [&](const unsigned char *stage) {
        multiply_step<T, B>(sums, [&](uint32_t (&r)[4], int i, int half) {
            load_a<T, A>(r, stage, warp_row<T>() + i * 16, half);
        }, stage + T::A_BYTES);
    });
}

// Hands the sums on as store(row, column, v): v[8] are the sums at that row and column of the tile and the next
// seven. Through shared memory, 16 rows of a warp at a time, so that a warp stores whole lines of 128 bytes.
template <class T, class Store>
DEVICE void store_sums(const Sums<T> &sums, unsigned char *shared, const Store &store) {
    int lane = (int)threadIdx.x % 32;
    float *slab = reinterpret_cast<float *>(shared) + (int)threadIdx.x / 32 * 16 * T::SUMS_LD;
#pragma unroll                         // the sums stay in registers
    for (int i = 0; i < T::ROWS; i++) {
        for (int j = 0; j < T::COLUMNS; j++) {
            float *to = slab + lane / 4 * T::SUMS_LD + j * 8 + lane % 4 * 2;
            *reinterpret_cast<float2 *>(to) = make_float2(sums.at[i][j][0], sums.at[i][j][1]);
            *reinterpret_cast<float2 *>(to + 8 * T::SUMS_LD) = make_float2(sums.at[i][j][2], sums.at[i][j][3]);
        }
        __syncwarp();
#pragma unroll 1
        for (int item = lane; item < 16 * T::WARP_N / 8; item += 32) {
            int row = item / (T::WARP_N / 8), column = item % (T::WARP_N / 8) * 8;
            const float *from = slab + row * T::SUMS_LD + column;
            float4 low = load4(from), high = load4(from + 4);
            float v[8] = { low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w };
            store(warp_row<T>() + i * 16 + row, warp_column<T>() + column, v);
        }
        __syncwarp();
    }
}

// ---- on the host
// What can() asks, and run() of pointers.
static inline bool aligned16(const void *p) { return (uintptr_t)p % 16 == 0; }
// An image tensor of bf16 whose pixels are whole chunks.
static inline bool whole_chunks(int channels, int ld) { return channels % 8 == 0 && (!channels || ld % 8 == 0); }
// Sizes that the kernels count in 32 bits (pixels, elements of the filter) or pack in 16 (rows and columns of
// images).
static inline bool sizes_fit(const Conv2dShape *z) {
    int64_t in = (int64_t)z->n * z->h * z->w, out = (int64_t)z->n * z->p * z->q;
    int64_t filter = (int64_t)(z->k + 128) * z->r * z->s * (z->c + z->c2);       // to the end of its last tile
    return in < 1 << 30 && out < 1 << 30 && filter < 1 << 30 && z->h <= 8192 && z->w <= 8192 && z->p <= 8192 &&
           z->q <= 8192 && z->p * z->stride <= 16384 && z->q * z->stride <= 16384 && z->r <= 64 && z->s <= 64 &&
           z->stride <= 16 && z->pad_h <= 64 && z->pad_w <= 64;
}
#endif
