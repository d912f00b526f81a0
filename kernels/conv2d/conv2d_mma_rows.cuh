// kernels/conv2d/conv2d_mma_rows.cuh - 3x3 convolutions, stride and padding 1, that copy pixels once for nine taps.
//
// A tile is 128 pixels in whole rows of images, and what its taps meet is these rows, one more above and one
// below each image's: at most 192 pixels of 32 channels, 12 KiB of shared memory, for nine steps. A fragment of A
// is 16 neighbouring pixels, whose rows of shared memory, shifted by a tap, are neighbours again, and ldmatrix
// takes the address of each row: the one beside the image is a row of zeros. Two buffers of pixels and three
// stages of filter fill 48 KiB, so that two blocks share an SM of 100 KiB. From L2 come 9.4 instead of 16 KiB a
// step of 128 x 128: 109 FLOP a byte.
#ifndef KERNELS_CONV2D_MMA_ROWS_CUH
#define KERNELS_CONV2D_MMA_ROWS_CUH
#include "kernels/conv2d/conv2d_mma_product.cuh"

enum { SLAB_PIXELS = 192, SLAB_BYTES = SLAB_PIXELS * STEP * 2, ZEROS_BYTES = 64, TAPS = 9 };
template <class T> struct RowsLayout {           // of shared memory: slabs, stages of filter, zeros
    static constexpr int FILTER = 2 * SLAB_BYTES, FILTER_BYTES = T::N * STEP * 2;
    static constexpr int ZEROS = FILTER + STAGES * FILTER_BYTES, BYTES = ZEROS + ZEROS_BYTES;
    static_assert(T::M == 128 && 2 * (BYTES + 1024) <= 100 * 1024, "two blocks share an SM of 100 KiB");
    static_assert(T::THREADS / 32 * 16 * T::SUMS_LD * 4 <= ZEROS, "the sums are handed on before the zeros");
};

// A tile's part of each of its images: `rows` rows; 0: tiles of 128 pixels do not consist of whole rows.
static inline int rows_of_tile(const Conv2dShape *z) {
    int pixels = z->h * z->w, rows = pixels >= 128 ? 128 / z->w : z->h;
    bool whole = pixels >= 128 ? 128 % z->w == 0 && rows > 0 && z->h % rows == 0 : 128 % pixels == 0;
    int images = pixels >= 128 ? 1 : 128 / pixels;
    return whole && images * (rows + 2) * z->w <= SLAB_PIXELS ? rows : 0;
}
static inline bool rows_can(const Conv2dShape *z) {
    return z->r == 3 && z->s == 3 && z->stride == 1 && z->pad_h == 1 && z->pad_w == 1 && z->h == z->p &&
           z->w == z->q && rows_of_tile(z) > 0;
}

// Copies of a slab by a thread: pixel threadIdx.x / 4 + 32 i, chunk threadIdx.x % 4.
template <class T> struct Slab {
    static constexpr int COPIES = SLAB_PIXELS * 4 / T::THREADS;
    int at[COPIES];                              // source pixel, or -1: zeros
};
template <class T> DEVICE int slab_pixel(int i) { return (int)threadIdx.x / 4 + i * (T::THREADS / 4); }

template <class T> DEVICE void copy_slab(unsigned char *to, const Slab<T> &slab, const ConvProduct &g, bool second,
                                         int channel) {
    const bf16 *data = second ? g.x2.data : g.x.data;
    int channels = second ? g.x2.channels : g.x.channels, ld = second ? g.x2.ld : g.x.ld;
    int chunk = (int)threadIdx.x % 4, term = channel + chunk * 8;
    for (int i = 0; i < Slab<T>::COPIES; i++) {
        bool inside = slab.at[i] >= 0 && term < channels;
        const bf16 *from = data + (inside ? (int64_t)slab.at[i] * ld + term : 0);
        copy_chunk<true>(to + inner_chunk(slab_pixel<T>(i), chunk), from, inside);
    }
}

// Block x: tiles, columns first; z: splits, of chunks of STEP channels. tile_rows: rows_of_tile.
template <class T, bool BACKWARD>
static __global__ void __launch_bounds__(T::THREADS, T::BLOCKS)
conv_rows_kernel(ConvProduct g, ConvFinish f, int tile_rows) {
    typedef RowsLayout<T> Map;
    DYNAMIC_SHARED(unsigned char, shared);
    int thread = (int)threadIdx.x, lane = thread % 32, pixels = g.height * g.width, rows = g.images * pixels;
    int m0 = (int)blockIdx.x / g.tiles_n * T::M, n0 = (int)blockIdx.x % g.tiles_n * T::N;
    int part = tile_rows * g.width, margin = 2 * g.width;    // pixels of an image in the tile, and beside them
    int image0 = m0 / pixels, row0 = m0 % pixels / g.width;

    Slab<T> slab;
    for (int i = 0; i < Slab<T>::COPIES; i++) {
        int pixel = slab_pixel<T>(i), image = image0 + pixel / (part + margin), rest = pixel % (part + margin);
        int row = row0 + rest / g.width - 1;
        bool inside = pixel < T::M / part * (part + margin) && image < g.images && row >= 0 && row < g.height;
        slab.at[i] = inside ? image * pixels + row * g.width + rest % g.width : -1;
    }
    int base[T::ROWS];                           // slab pixel under the top middle tap of this lane's fragment row
    uint32_t edges = 0;                          // bit 2i: it is the first of its image row, bit 2i+1: the last
    for (int i = 0; i < T::ROWS; i++) {
        int pixel = warp_row<T>() + i * 16 + lane % 16, column = pixel % g.width;
        base[i] = pixel + pixel / part * margin;
        edges |= (column == 0 ? 1u : 0u) << 2 * i | (column == g.width - 1 ? 2u : 0u) << 2 * i;
    }

    int chunks1 = (g.x.channels + STEP - 1) / STEP, chunks = chunks1 + (g.x2.channels + STEP - 1) / STEP;
    int split = (int)blockIdx.z, begin = chunks * split / g.splits, end = chunks * (split + 1) / g.splits;
    auto load_slab = [&](int chunk) {
        bool second = chunk >= chunks1;
        copy_slab<T>(shared + (chunk - begin) % 2 * SLAB_BYTES, slab, g, second,
                     (second ? chunk - chunks1 : chunk) * STEP);
    };
    auto load_filter = [&](int stage, int chunk, int tap) {          // backward: the filter turned by half a turn
        bool second = chunk >= chunks1;
        copy_filter<T, BACKWARD, true>(shared + Map::FILTER + stage * Map::FILTER_BYTES, g, n0,
                                       BACKWARD ? TAPS - 1 - tap : tap, second,
                                       (second ? chunk - chunks1 : chunk) * STEP);
    };
    if (thread < ZEROS_BYTES / 16) {
        *reinterpret_cast<uint4 *>(shared + Map::ZEROS + thread * 16) = make_uint4(0, 0, 0, 0);
    }
    Sums<T> sums;
    clear_sums(sums);
    load_slab(begin);
    load_filter(0, begin, 0);
    CP_ASYNC_COMMIT();
    load_filter(1, begin, 1);
    CP_ASYNC_COMMIT();
    int stage = 0, free_stage = 2;
    for (int chunk = begin; chunk < end; chunk++) {
        const unsigned char *pixel_rows = shared + (chunk - begin) % 2 * SLAB_BYTES;
#pragma unroll 1                       // nine copies of a step would only fill the instruction cache
        for (int tap = 0; tap < TAPS; tap++) {
            CP_ASYNC_WAIT(STAGES - 2);
            __syncthreads();           // this step's copies are there, and what the step before read is free
            if (tap + 2 < TAPS) load_filter(free_stage, chunk, tap + 2);
            else if (chunk + 1 < end) load_filter(free_stage, chunk + 1, tap + 2 - TAPS);
            if (tap == 0 && chunk + 1 < end) load_slab(chunk + 1);
            CP_ASYNC_COMMIT();

            int down = tap / 3, right = tap % 3 - 1, shift = down * g.width + right;
            uint32_t beside = right < 0 ? edges : right > 0 ? edges >> 1 : 0;        // bit 2i: outside the image
            multiply_step<T, BACKWARD ? TERMS_OUTER : TERMS_INNER>(sums, [&](uint32_t (&r)[4], int i, int half) {
                int at = inner_chunk(base[i] + shift, half * 2 + lane / 16);
                const unsigned char *from = beside >> 2 * i & 1 ? shared + Map::ZEROS : pixel_rows + at;
                LDMATRIX_X4(r, from);
            }, shared + Map::FILTER + stage * Map::FILTER_BYTES);
            stage = stage == STAGES - 1 ? 0 : stage + 1;
            free_stage = free_stage == STAGES - 1 ? 0 : free_stage + 1;
        }
    }
    CP_ASYNC_WAIT(0);
    __syncthreads();
    finish_tile<T>(sums, shared, g, f, m0, n0, rows, split, [&](int row, int *image) {
        if (f.temb) *image = row / pixels;
        return (int64_t)row;
    });
}
#endif
