// kernels/conv2d/conv2d_sm90.cuh - what convolutions on wgmma share: maps, tiles of whole rows, clusters.
#ifndef KERNELS_CONV2D_SM90_CUH
#define KERNELS_CONV2D_SM90_CUH
#include <stdlib.h>
#include "kernels/common/warpgroup.cuh"
#include "kernels/conv2d/conv2d_mma_product.cuh"

// images x height x width x channels, ld from pixel to pixel; the box takes 64 channels of box_rows x box_images x
// box_width pixels: of several images rows lie beside each other, so that where images are of 4 pixels a row, two of
// them are a whole pattern, and a row further on, for all images of the box, is so many bytes further on.
struct PixelMap {
    const void *data;
    int images, height, width, channels, ld;
    int box_images, box_rows, box_width;
};
// Of an image that is read in strides of `stride` only pixels whose rows and columns leave the remainders phase_h and
// phase_w meet: they are an image of their own, with longer steps in memory. stride 1: all of it.
static inline bool map_phase(TensorMap *map, const PixelMap &p, int stride, int phase_h, int phase_w) {
    const char *why;
    uint64_t pixel = 2 * (uint64_t)p.ld, row = pixel * (uint64_t)p.width, n = (uint64_t)stride;
    uint64_t dim[4] = { (uint64_t)p.channels, (uint64_t)ceil_div(p.width - phase_w, stride),
                        (uint64_t)p.images, (uint64_t)ceil_div(p.height - phase_h, stride) };
    uint64_t steps[3] = { n * pixel, row * (uint64_t)p.height, n * row };
    uint32_t box[4] = { BOX, (uint32_t)p.box_width, (uint32_t)p.box_images, (uint32_t)p.box_rows };
    uint32_t element_stride[4] = { 1, 1, 1, 1 };
    const char *data = static_cast<const char *>(p.data) + (uint64_t)phase_h * row + (uint64_t)phase_w * pixel;
    return tensor_map_tiled(map, DT_BF16, 4, data, dim, steps, box, element_stride, 128, &why);
}

// What the taps of a convolution read: an image's phases, stride x stride of them, row by row; or two images, x and x2.
enum { STRIDE_MOST = 2, SOURCES = STRIDE_MOST * STRIDE_MOST };
struct SourceMaps { TensorMap at[SOURCES]; };
static inline bool map_phases(SourceMaps *maps, const PixelMap &p, int stride) {
    bool good = true;
    for (int i = 0; i < SOURCES; i++)
        good = good && map_phase(&maps->at[i], p, stride, i / stride % stride, i % stride);
    return good;
}
// The filter's rows r, r + stride, ... read rows of one phase, one row apart: TAPS of them share a box. The g-th such
// group begins at row group_row.
DEVICE int group_row(int g, int stride, int taps) { return g % stride + stride * taps * (g / stride); }
static inline bool groups_of(int taps, int r, int stride) { return taps == 1 || r % (taps * stride) == 0; }
// Where a tap `offset` = r - pad below an output's own row reads: the phase, and the row of it beside the output's.
DEVICE int phase_of(int offset, int stride) { return offset & (stride - 1); }
DEVICE int shift_of(int offset, int stride) { return offset >> (stride - 1); }
static_assert(STRIDE_MOST == 2, "phase_of and shift_of are for strides of 1 and 2");

// 1x1 filters see pixels only: all images are one, one pixel wide, and any number of them is whole rows.
static inline bool pixels_only(const Conv2dShape *z) {
    return z->r == 1 && z->s == 1 && z->stride == 1 && !z->pad_h && !z->pad_w && z->h == z->p && z->w == z->q;
}

// Who takes operands that TMA cannot read, off 16 bytes.
static inline const Impl *general_of(const Launcher *l, const Conv2dShape *z) {
    return impl_find(l, KERNEL_PASTE(DEV_, KERNEL_KIND, ), 90, z, "implicit_gemm");
}

// Blocks of a cluster that share what each copies a part of: ranks first, first + step, ... of it, `count` of them.
struct Mates { int first, step, count; };
DEVICE uint32_t mask_of(const Mates &m) {
    uint32_t mask = 0;
    for (int i = 0; i < m.count; i++) mask |= 1u << (m.first + i * m.step);
    return mask;
}
// The stage behind `bar` has been read: to all that copy into it.
DEVICE void release(uint64_t *bar, const Mates &m) {
    if (m.count == 1) MBARRIER_ARRIVE(bar);
    else for (int i = 0; i < m.count; i++) MBARRIER_ARRIVE_PEER(bar, m.first + i * m.step);
}
// A cluster is `first` x `second` tiles. Those that differ in the first place alone share one operand, of_first; those
// that differ in the second the other.
struct ClusterPlace { Mates of_first, of_second; int at_first, at_second; };
DEVICE ClusterPlace cluster_place(int first, int second) {
    int rank = first * second > 1 ? (int)CLUSTER_RANK() : 0, at_first = rank % first, at_second = rank / first;
    return { { at_second * first, 1, first }, { at_first, first, second }, at_first, at_second };
}

// Whole rows of one image, or whole images: tiles of m pixels. False if there are none, or they would be empty for the
// most part.
// Of a tile: rows of an image, images, pixels side by side; of an image, of all: tiles.
struct RowTiles { int rows, together, across, tiles_h, tiles; };
static inline bool lay_rows(RowTiles *t, int m, int images, int height, int width) {
    int64_t pixels = (int64_t)height * width;
    bool whole_images = pixels < m && m % pixels == 0;
    if (m % width || (!whole_images && 2 * pixels < m && images > 1)) return false;
    t->rows = whole_images ? height : m / width;
    t->together = whole_images ? (int)(m / pixels) : 1;
    t->across = width * t->together;
    t->tiles_h = (int)ceil_div(height, t->rows);
    t->tiles = (int)ceil_div(images, t->together) * t->tiles_h;
    return true;
}
#endif
