// kernels/conv2d/conv2d_winograd_cpu.h - what Winograd's convolutions on the host share: images read tile by tile, a
// vector of 16 channels at a time, and how their scratch is laid out and the work divided.
#ifndef KERNELS_CONV2D_WINOGRAD_CPU_H
#define KERNELS_CONV2D_WINOGRAD_CPU_H
#include "kernels/common/cpu_product.h"
#include "kernels/conv2d/conv2d.h"
#ifdef VEC_INLINE

// Pixel (y,x) of image i, channels k0 to k0 + 15, k0 a multiple of 16: 16 floats at
//   p + i image + k0 / 16 block + y row + x step
typedef struct { float *p; int h, w; int64_t image, block, row, step; } Image;

static inline Image image_of(const void *p, Layout l, int h, int w, int ld) {
    bool blocks = l == LAYOUT_C16;
    int64_t hw = (int64_t)h * w, step = blocks ? VEC : ld;
    return (Image){ (float *)(uintptr_t)p, h, w, hw * ld, blocks ? hw * VEC : VEC, w * step, step };
}
static inline float *image_at(const Image *m, int i, int y, int x, int k0) {
    return m->p + i * m->image + k0 / VEC * m->block + y * m->row + x * m->step;
}

// size x size pixels from row y0, column x0 of image i, channels k0 to k0 + 15; zero outside the image.
VEC_INLINE void load_tile(const Image *m, int i, int y0, int x0, int k0, int size, Vec *d) {
    const float *from = image_at(m, i, y0, x0, k0);
    bool inside = y0 >= 0 && x0 >= 0 && y0 + size <= m->h && x0 + size <= m->w;
    for (int y = 0; y < size; y++) {
        for (int x = 0; x < size; x++) {
            bool in = inside || (y0 + y >= 0 && y0 + y < m->h && x0 + x >= 0 && x0 + x < m->w);
            d[y * size + x] = in ? vec_load(from + y * m->row + x * m->step) : vec_fill(0.0f);
        }
    }
}

// Up to 6x6 pixels from a corner that may lie outside the image: what lies outside is zero.
typedef struct { const float *p; int64_t row, step; unsigned rows; __mmask16 columns[6]; } Window;   // rows: bits

VEC_INLINE Window window_of(const Image *m, int i, int y0, int x0, int k0) {
    Window d = { image_at(m, i, y0, x0, k0), m->row, m->step, 0, { 0 } };
    #pragma GCC unroll 6
    for (int j = 0; j < 6; j++) {
        d.rows |= (unsigned)(y0 + j >= 0 && y0 + j < m->h) << j;
        d.columns[j] = (__mmask16)-(int)(x0 + j >= 0 && x0 + j < m->w);
    }
    return d;
}
// A pixel of a row that is inside.
VEC_INLINE Vec window_at(const Window *d, int y, int x) {
    return _mm512_maskz_loadu_ps(d->columns[x], d->p + y * d->row + x * d->step);
}
// Reads the rows of pixels under `tiles` tiles of 4x4 pixels from t0 on, channels k0 to k0 + 15, for the sake of
// reading: in this order the processor foresees what comes next, in the order of the tiles it does not.
static inline void read_rows(const Image *m, int t0, int tiles, int k0) {
    int tiles_w = (m->w + 3) / 4, tiles_image = (m->h + 3) / 4 * tiles_w;
    Vec sum = vec_fill(0.0f);
    for (int t = t0, next; t < t0 + tiles; t = next) {
        int i = t / tiles_image, first = i * tiles_image;
        next = cpu_min(first + tiles_image, t0 + tiles);
        int begin = (t - first) / tiles_w * 4, end = cpu_min(m->h, ((next - 1 - first) / tiles_w + 1) * 4);
        for (int y = begin; y < end; y++) {
            const float *from = image_at(m, i, y, 0, k0);
            for (int x = 0; x < m->w; x++) sum = vec_add(sum, vec_load(from + x * m->step));
        }
    }
    __asm__ volatile("" : : "m"(sum));           // or the compiler sees that it is for nothing
}

// ---- scratch and parts
static inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
static inline int divide_up(int n, int by) { return (n + by - 1) / by; }
static inline int equal_parts(int n, int most) { return divide_up(n, divide_up(n, most)); }

// Two cache lines beyond a multiple: vectors a power of two apart would all fall into the same cache sets.
static inline int64_t stagger(int64_t floats) { return round_up(floats, 1024) + PANEL / 2; }
#endif
#endif
