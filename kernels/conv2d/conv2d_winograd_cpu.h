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

// Reads the rows of pixels under `tiles` tiles of size x size pixels from t0 on, channels k0 to k0 + 15, for the sake
// of reading: in this order the processor foresees what comes next, in the order of the tiles it does not.
static inline void read_rows(const Image *m, int size, int t0, int tiles, int k0) {
    int tiles_w = (m->w + size - 1) / size, tiles_image = (m->h + size - 1) / size * tiles_w;
    Vec sum = vec_fill(0.0f);
    for (int t = t0, next; t < t0 + tiles; t = next) {
        int i = t / tiles_image, first = i * tiles_image;
        next = cpu_min(first + tiles_image, t0 + tiles);
        int begin = (t - first) / tiles_w * size, end = cpu_min(m->h, ((next - 1 - first) / tiles_w + 1) * size);
        for (int y = begin; y < end; y++) {
            const float *from = image_at(m, i, y, 0, k0);
            for (int x = 0; x < m->w; x++) sum = vec_add(sum, vec_load(from + x * m->step));
        }
    }
    __asm__ volatile("" : : "m"(sum));           // or the compiler sees that it is for nothing
}

// ---- scratch and parts
static inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
static inline int least(int a, int b) { return a < b ? a : b; }
static inline int divide_up(int n, int by) { return (n + by - 1) / by; }
static inline int equal_parts(int n, int most) { return divide_up(n, divide_up(n, most)); }

// Two cache lines beyond a multiple: vectors a power of two apart would all fall into the same cache sets.
static inline int64_t stagger(int64_t floats) { return round_up(floats, 1024) + PANEL / 2; }

// ---- one convolution: sizes and where things lie in scratch
typedef struct {
    int n, h, w, c, k;              // sums over c, writes k, both multiples of 16 (backward_weight: x has c, dy has k)
    int tiles_w, tiles_image, tiles;
    int parts, parts_k;             // the threads are parts x parts_k: parts of the tiles (backward_weight: of c), of k
    int size, size_k;               // of a part
    int block, depth;               // tiles transformed at once; channels summed at once
    int64_t v_step, u_step, m_step; // floats from element to element of V and D, U, M
    int64_t v_floats, u_floats;     // of one thread's V; of its U or D
    int64_t thread_floats;          // of one thread's scratch
} Plan;

static inline Plan plan_tiles(int n, int h, int w, int c, int k) {
    int tiles_w = divide_up(w, 4), tiles_image = divide_up(h, 4) * tiles_w;
    return (Plan){ .n = n, .h = h, .w = w, .c = c, .k = k, .tiles_w = tiles_w, .tiles_image = tiles_image,
                   .tiles = tiles_image * n };
}
// Divides the work, `n` in units of `unit` by k in units of 16, among the threads. Each transforms both of its operands
// for itself: what one core has written reaches another no faster than memory, and slower than it is made anew. To
// transform a tile or a filter takes as long as to multiply it with about 8 others.
static inline void divide(Plan *p, int n, int unit) {
    enum { TRANSFORM = 8 };
    int64_t best = INT64_MAX;
    int threads = omp_get_max_threads();
    for (int parts = threads; parts >= 1; parts--) {
        int size = unit * divide_up(n / unit, parts), size_k = VEC * divide_up(p->k / VEC, threads / parts);
        int64_t cost = (int64_t)(size + TRANSFORM) * (size_k + TRANSFORM);
        if (cost >= best) continue;
        best = cost, p->size = size, p->size_k = size_k;
    }
    p->parts = divide_up(n, p->size), p->parts_k = divide_up(p->k, p->size_k);
}
static inline size_t plan_bytes(Plan p) { return sizeof(float) * (size_t)(p.parts * p.parts_k * p.thread_floats); }
#endif
#endif
