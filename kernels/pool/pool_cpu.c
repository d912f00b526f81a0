// kernels/pool/pool_cpu.c - pooling, a row of results at a time: taps in the outer loops, channels in the vectors. The
// inner functions are inlined where their width is the constant 16, a block of C16, and where it is not.
#include <math.h>

#include "kernels/common/cpu.h"
#include "kernels/pool/pool.h"

static bool can(const PoolShape *z) { return z->dtype == DT_F32; }
static bool can_all(const PoolAllShape *z) { return z->dtype == DT_F32; }

typedef struct { int begin, end; } Span;
// Taps of a window along one axis that lie inside the image.
static Span taps_of(const PoolShape *z, int window, int size) {
    int first = window * z->stride - z->pad;
    return (Span){ first < 0 ? -first : 0, (int)cpu_min(z->window, size - first) };
}
// Windows along one axis, of `count`, that a pixel is a tap of.
static Span windows_of(const PoolShape *z, int pixel, int count) {
    int last = (pixel + z->pad) / z->stride, over = pixel + z->pad - z->window;
    return (Span){ over < 0 ? 0 : over / z->stride + 1, (int)cpu_min(count, last + 1) };
}

// ---- forward. A window's taps: x is the image's first element of some channels; the window starts at row h, column v.
typedef struct { const float *x; int64_t row, step; Span rows, columns; int h, v, window; } Window;

static const float *tap_at(const Window *t, int r, int s) { return t->x + (t->h + r) * t->row + (t->v + s) * t->step; }

static inline void largest_of(const Window *t, int width, float *best, int32_t *tap) {
    const float *first = tap_at(t, t->rows.begin, t->columns.begin);
    for (int j = 0; j < width; j++) {
        best[j] = first[j];
        tap[j] = t->rows.begin * t->window + t->columns.begin;
    }
    for (int r = t->rows.begin; r < t->rows.end; r++) {
        for (int s = t->columns.begin; s < t->columns.end; s++) {
            const float *x = tap_at(t, r, s);
            int32_t here = r * t->window + s;
            #pragma omp simd
            for (int j = 0; j < width; j++) {
                bool more = (x[j] > best[j]) | ((x[j] != x[j]) & (best[j] == best[j]));
                best[j] = more ? x[j] : best[j];
                tap[j] = more ? here : tap[j];
            }
        }
    }
}

static inline void mean_of(const Window *t, int width, float *y) {
    float count = (float)((t->rows.end - t->rows.begin) * (t->columns.end - t->columns.begin));
    for (int j = 0; j < width; j++) y[j] = 0;
    for (int r = t->rows.begin; r < t->rows.end; r++) {
        for (int s = t->columns.begin; s < t->columns.end; s++) {
            const float *x = tap_at(t, r, s);
            #pragma omp simd
            for (int j = 0; j < width; j++) y[j] += x[j];
        }
    }
    #pragma omp simd
    for (int j = 0; j < width; j++) y[j] /= count;
}

// A window's results from element `at` on.
static inline void write_window(const PoolShape *z, const PoolForwardArgs *a, const Window *t, int64_t at, int width) {
    if (!z->largest) {
        mean_of(t, width, (float *)a->y + at);
        return;
    }
    int32_t tap[CPU_WIDE];
    largest_of(t, width, (float *)a->y + at, tap);
    if (!a->tap) return;
    #pragma omp simd
    for (int j = 0; j < width; j++) a->tap[at + j] = (uint8_t)tap[j];
}

static void forward(Stream *st, const PoolShape *z, const PoolForwardArgs *a, Work w) {
    int64_t c = z->c, image = (int64_t)z->h * z->w * c;
    #pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < (int64_t)z->n * z->p; o++) {
        int p = (int)(o % z->p);
        Window t = { .row = z->w * c, .step = c, .rows = taps_of(z, p, z->h), .h = p * z->stride - z->pad,
                     .window = z->window };
        for (int q = 0; q < z->q; q++) {
            t.columns = taps_of(z, q, z->w);
            t.v = q * z->stride - z->pad;
            for (int64_t k = 0; k < c; k += CPU_WIDE) {
                int64_t at = (o * z->q + q) * c + k;
                t.x = (const float *)a->x + o / z->p * image + k;
                if (c == 16) write_window(z, a, &t, at, 16);
                else         write_window(z, a, &t, at, (int)cpu_min(CPU_WIDE, c - k));
            }
        }
    }
}

// ---- backward: what a pixel gets from its windows, in their order
static inline void add_window(const PoolShape *z, const PoolBackwardArgs *a, int64_t at, int width, int tap,
                              float count, float *dx) {
    const float *dy = (const float *)a->dy + at;
    if (z->largest) {
        const uint8_t *of = a->tap + at;
        #pragma omp simd
        for (int j = 0; j < width; j++) dx[j] += of[j] == tap ? dy[j] : 0;
    } else {
        #pragma omp simd
        for (int j = 0; j < width; j++) dx[j] += dy[j] / count;
    }
}

static void backward(Stream *st, const PoolShape *z, const PoolBackwardArgs *a, Work work) {
    #pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < (int64_t)z->n * z->h; o++) {
        int h = (int)(o % z->h);
        Span rows = windows_of(z, h, z->p);
        memset((float *)a->dx + o * z->w * z->c, 0, (size_t)z->w * (size_t)z->c * sizeof(float));
        for (int w = 0; w < z->w; w++) {
            Span columns = windows_of(z, w, z->q);
            float *dx = (float *)a->dx + (o * z->w + w) * z->c;
            for (int p = rows.begin; p < rows.end; p++) {
                Span r = taps_of(z, p, z->h);
                for (int q = columns.begin; q < columns.end; q++) {
                    Span s = taps_of(z, q, z->w);
                    int tap = (h + z->pad - p * z->stride) * z->window + w + z->pad - q * z->stride;
                    int64_t at = ((o / z->h * z->p + p) * z->q + q) * z->c;
                    float count = (float)((r.end - r.begin) * (s.end - s.begin));
                    if (z->c == 16) add_window(z, a, at, 16, tap, count, dx);
                    else            add_window(z, a, at, z->c, tap, count, dx);
                }
            }
        }
    }
}

// ---- all pixels. A task is an image and a panel of its channels.
typedef struct { int k, w; int64_t at, ld; } Panel;   // channels, first element, from pixel to pixel

static int panels_of(const PoolAllShape *z) {
    return (int)cpu_ceil_div(z->c, z->layout == LAYOUT_C16 ? 16 : CPU_WIDE);
}
static Panel panel_at(const PoolAllShape *z, int i, int j) {
    int wide = z->layout == LAYOUT_C16 ? 16 : CPU_WIDE, k = j * wide;
    return (Panel){ k, (int)cpu_min(wide, z->c - k), layout_index(z->layout, z->hw, z->ldx, i, 0, k),
                    z->layout == LAYOUT_C16 ? 16 : z->ldx };
}

static void all_forward(Stream *st, const PoolAllShape *z, const PoolAllForwardArgs *a, Work w) {
    int panels = panels_of(z);
    #pragma omp parallel for schedule(static)
    for (int task = 0; task < z->n * panels; task++) {
        int i = task / panels;
        Panel p = panel_at(z, i, task % panels);
        float *y = a->y + (int64_t)i * z->c + p.k;
        cpu_column_sums((const float *)a->x + p.at, z->hw, p.ld, p.w, y);
        for (int j = 0; j < p.w; j++) y[j] /= (float)z->hw;
    }
}

static void all_backward(Stream *st, const PoolAllShape *z, const PoolAllBackwardArgs *a, Work w) {
    int panels = panels_of(z);
    #pragma omp parallel for schedule(static)
    for (int task = 0; task < z->n * panels; task++) {
        int i = task / panels;
        Panel p = panel_at(z, i, task % panels);
        float part[CPU_WIDE];
        for (int j = 0; j < p.w; j++) part[j] = a->dy[(int64_t)i * z->c + p.k + j] / (float)z->hw;
        for (int64_t pixel = 0; pixel < z->hw; pixel++) {
            memcpy((float *)a->dx + p.at + pixel * p.ld, part, (size_t)p.w * sizeof *part);
        }
    }
}

// ---- registration
IMPLS(pool_cpu,
    IMPL_FULL(pool_forward, "rows", 100, 0, 0, can, NULL, NULL, forward, NULL),
    IMPL_FULL(pool_backward, "rows", 100, 0, 0, can, NULL, NULL, backward, NULL),
    IMPL_FULL(pool_all_forward, "panels", 100, 0, 0, can_all, NULL, NULL, all_forward, NULL),
    IMPL_FULL(pool_all_backward, "panels", 100, 0, 0, can_all, NULL, NULL, all_backward, NULL))
