// kernels/conv2d/conv2d_sm90.cuh - what convolutions on wgmma share: rings of stages, sums on their way out, maps.
#ifndef KERNELS_CONV2D_SM90_CUH
#define KERNELS_CONV2D_SM90_CUH
#include <stdlib.h>
#include "kernels/common/hopper.cuh"
#include "kernels/conv2d/conv2d_mma_product.cuh"

enum { BOX = 64, ROW_BYTES = 2 * BOX, PATTERN = 1024 };      // channels of a box; bytes after which swizzling repeats
enum { GROUP = 128, CONSUMERS = 2, THREADS = (1 + CONSUMERS) * GROUP };
// Of an H100 or H200: multiprocessors; bytes to one in a clock from L2 and from memory. These are 5.5 and 3.9 TB/s at
// 1.5 GHz, which await measurement.
enum { SMS = 132, L2_BYTES = 28, MEMORY_BYTES = 20 };
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

// ---- on the host
// images x height x width x channels, ld from pixel to pixel; the box takes 64 channels of every step-th pixel of
// box_images x box_rows x box_width.
struct PixelMap {
    const void *data;
    int images, height, width, channels, ld;
    int box_images, box_rows, box_width, step;
};
static inline bool map_pixels(TensorMap *map, const PixelMap &p) {
    const char *why;
    uint64_t dim[4] = { (uint64_t)p.channels, (uint64_t)p.width, (uint64_t)p.height, (uint64_t)p.images };
    uint64_t pixel = 2 * (uint64_t)p.ld, row = pixel * dim[1], stride[3] = { pixel, row, row * dim[2] };
    uint32_t step = (uint32_t)p.step, element_stride[4] = { 1, step, step, 1 };
    uint32_t box[4] = { BOX, (uint32_t)p.box_width * step, (uint32_t)p.box_rows * step, (uint32_t)p.box_images };
    return tensor_map_tiled(map, DT_BF16, 4, p.data, dim, stride, box, element_stride, 128, &why);
}

// 1x1 filters see pixels only: all images are one, one pixel wide, and any number of them is whole rows.
static inline bool pixels_only(const Conv2dShape *z) {
    return z->r == 1 && z->s == 1 && z->stride == 1 && !z->pad_h && !z->pad_w && z->h == z->p && z->w == z->q;
}

// Who takes operands that TMA cannot read, off 16 bytes.
static inline const Impl *general_of(const Launcher *l, const Conv2dShape *z) {
    return impl_find(l, KERNEL_PASTE(DEV_, KERNEL_KIND, ), 90, z, "implicit_gemm");
}

// Whole rows of one image, or whole images: tiles of m pixels. False if there are none, or they would be empty for the
// most part.
struct RowTiles { int rows, together, tiles_h, tiles; };     // of a tile: rows of an image, images; of an image, of all
static inline bool lay_rows(RowTiles *t, int m, int images, int height, int width) {
    int64_t pixels = (int64_t)height * width;
    bool whole_images = pixels < m && m % pixels == 0;
    if (m % width || (!whole_images && 2 * pixels < m && images > 1)) return false;
    t->rows = whole_images ? height : m / width;
    t->together = whole_images ? (int)(m / pixels) : 1;
    t->tiles_h = (int)ceil_div(height, t->rows);
    t->tiles = (int)ceil_div(images, t->together) * t->tiles_h;
    return true;
}
#endif
