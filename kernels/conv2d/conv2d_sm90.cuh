// kernels/conv2d/conv2d_sm90.cuh - what convolutions on wgmma share: maps, tiles of whole rows.
#ifndef KERNELS_CONV2D_SM90_CUH
#define KERNELS_CONV2D_SM90_CUH
#include <stdlib.h>
#include "kernels/common/warpgroup.cuh"
#include "kernels/conv2d/conv2d_mma_product.cuh"

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
