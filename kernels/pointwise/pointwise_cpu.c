// kernels/pointwise/pointwise_cpu.c - element-wise work at the speed of memory, channel sums, random draws.
#include "kernels/common/cpu.h"
#include "kernels/pointwise/pointwise.h"

static bool can(const PointwiseShape *z) { return z->dtype == DT_F32 && z->out == DT_F32; }
static bool can_add_channel(const AddChannelShape *z) { return z->dtype == DT_F32; }
static bool can_relayout(const RelayoutShape *z) { return z->dtype == DT_F32; }
static bool can_mean(const MeanShape *z) { return z->dtype == DT_F32; }
static bool can_random(const RandomShape *z) { return z->dtype == DT_F32; }

// ---- runs of elements. y may be a or b, so nothing here is restrict: omp simd says that the loop may be vectorized.
typedef void RunFn(const float *a, const float *b, float *y, int64_t n, float alpha, float beta);

static void run_axpby(const float *a, const float *b, float *y, int64_t n, float alpha, float beta) {
    #pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = alpha * a[j] + beta * b[j];
}
static void run_add(const float *a, const float *b, float *y, int64_t n, float alpha, float beta) {
    #pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = a[j] + b[j];
}
static void run_scale(const float *a, const float *b, float *y, int64_t n, float alpha, float beta) {
    #pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = alpha * a[j];
}
static void run_multiply(const float *a, const float *b, float *y, int64_t n, float alpha, float beta) {
    #pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = a[j] * b[j];
}
static void run_silu(const float *a, const float *b, float *y, int64_t n, float alpha, float beta) {
    #pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = cpu_silu(a[j]);
}
static void run_silu_backward(const float *a, const float *b, float *y, int64_t n, float alpha, float beta) {
    #pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = a[j] * cpu_silu_slope(b[j]);
}
static void run_relu(const float *a, const float *b, float *y, int64_t n, float alpha, float beta) {
    #pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = a[j] <= 0 ? 0 : a[j];
}
static void run_relu_backward(const float *a, const float *b, float *y, int64_t n, float alpha, float beta) {
    #pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = b[j] <= 0 ? 0 : a[j];
}
static void run_fill(const float *a, const float *b, float *y, int64_t n, float alpha, float beta) {
    #pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = alpha;
}

// Calls f on every run, in pieces of at most CPU_CHUNK elements; dense rows are one run.
static void each_run(RunFn *f, const PointwiseShape *z, const PointwiseArgs *p) {
    const float *a = p->a, *b = p->b;
    float *y = p->y;
    int64_t rows = z->rows, c = z->c;
    if ((!a || z->lda == c) && (!b || z->ldb == c) && z->ldy == c) {
        c *= rows;
        rows = 1;
    }
    int64_t pieces = cpu_ceil_div(c, CPU_CHUNK);
    #pragma omp parallel for schedule(static) if (rows * c > CPU_CHUNK)
    for (int64_t task = 0; task < rows * pieces; task++) {
        int64_t r = task / pieces, j = task % pieces * CPU_CHUNK;
        f(a ? a + r * z->lda + j : NULL, b ? b + r * z->ldb + j : NULL, y + r * z->ldy + j, cpu_min(CPU_CHUNK, c - j),
          z->alpha, z->beta);
    }
}

static void axpby_run(Stream *st, const PointwiseShape *z, const PointwiseArgs *a, Work w) {
    each_run(!a->b ? run_scale : z->alpha == 1 && z->beta == 1 ? run_add : run_axpby, z, a);
}
static void multiply_run(Stream *st, const PointwiseShape *z, const PointwiseArgs *a, Work w) {
    each_run(run_multiply, z, a);
}
static void silu_run(Stream *st, const PointwiseShape *z, const PointwiseArgs *a, Work w) { each_run(run_silu, z, a); }
static void silu_backward_run(Stream *st, const PointwiseShape *z, const PointwiseArgs *a, Work w) {
    each_run(run_silu_backward, z, a);
}
static void relu_run(Stream *st, const PointwiseShape *z, const PointwiseArgs *a, Work w) { each_run(run_relu, z, a); }
static void relu_backward_run(Stream *st, const PointwiseShape *z, const PointwiseArgs *a, Work w) {
    each_run(run_relu_backward, z, a);
}
static void fill_run(Stream *st, const PointwiseShape *z, const PointwiseArgs *a, Work w) { each_run(run_fill, z, a); }

// ---- a vector per image added to its pixels, and its gradient. A task is one image and CPU_WIDE of its channels (one
// block of 16 in C16): a panel of hw rows.
typedef struct { int k, w; int64_t at, ld; } Panel;   // channels, first element within an image, from pixel to pixel

static int panels_of(const AddChannelShape *z) {
    return z->layout == LAYOUT_C16 ? z->c / 16 : (z->c + CPU_WIDE - 1) / CPU_WIDE;
}
static Panel panel_at(const AddChannelShape *z, int j) {
    if (z->layout == LAYOUT_C16) return (Panel){ 16 * j, 16, (int64_t)j * z->hw * 16, 16 };
    return (Panel){ CPU_WIDE * j, (int)cpu_min(CPU_WIDE, z->c - CPU_WIDE * j), CPU_WIDE * j, z->c };
}

static void add_channel_run(Stream *st, const AddChannelShape *z, const AddChannelArgs *a, Work w) {
    int panels = panels_of(z), images = z->n * z->copies;
    int64_t size = (int64_t)z->hw * z->c;
    #pragma omp parallel for schedule(static)
    for (int task = 0; task < images * panels; task++) {
        int i = task / panels;
        Panel p = panel_at(z, task % panels);
        const float *x = (const float *)a->x + i % z->n * size + p.at;
        float *y = (float *)a->y + i * size + p.at, wide[CPU_WIDE];
        int fold = p.ld == p.w ? CPU_WIDE / p.w : 1;
        for (int f = 0; f < fold; f++) {
            memcpy(wide + f * p.w, a->v + (int64_t)i * z->c + p.k, (size_t)p.w * sizeof *wide);
        }
        for (int64_t r = 0; r < z->hw; r += fold) {
            int cols = (int)cpu_min(fold, z->hw - r) * p.w;
            #pragma omp simd
            for (int j = 0; j < cols; j++) y[r * p.ld + j] = x[r * p.ld + j] + wide[j];
        }
    }
}

static void sum_copies(const float *x, float *y, int64_t e, int copies) {
    #pragma omp parallel for schedule(static) if (e > CPU_CHUNK)
    for (int64_t j = 0; j < e; j += CPU_CHUNK) {
        int64_t end = cpu_min(e, j + CPU_CHUNK);
        memcpy(y + j, x + j, (size_t)(end - j) * sizeof *y);
        for (int k = 1; k < copies; k++) {
            #pragma omp simd
            for (int64_t l = j; l < end; l++) y[l] += x[k * e + l];
        }
    }
}

static void add_channel_backward_run(Stream *st, const AddChannelShape *z, const AddChannelGradArgs *a, Work w) {
    int panels = panels_of(z), images = z->n * z->copies;
    int64_t size = (int64_t)z->hw * z->c;
    #pragma omp parallel for schedule(static)
    for (int task = 0; task < images * panels; task++) {
        int i = task / panels;
        Panel p = panel_at(z, task % panels);
        cpu_column_sums((const float *)a->dy + i * size + p.at, z->hw, p.ld, p.w, a->dv + (int64_t)i * z->c + p.k);
    }
    if (a->dx) sum_copies(a->dy, a->dx, z->n * size, z->copies);
}

// ---- NHWC <-> C16
static void relayout_run(Stream *st, const RelayoutShape *z, const RelayoutArgs *a, Work w) {
    int64_t size = (int64_t)z->hw * z->c;
    const float *x = a->x;
    float *y = a->y;
    if (z->from == z->to) {
        sum_copies(x, y, z->n * size, 1);
        return;
    }
    #pragma omp parallel for schedule(static)
    for (int64_t task = 0; task < (int64_t)z->n * z->hw; task++) {
        int64_t i = task / z->hw, p = task % z->hw;
        for (int64_t b = 0; b < z->c / 16; b++) {
            int64_t wide = i * size + p * z->c + b * 16, block = i * size + (b * z->hw + p) * 16;
            if (z->to == LAYOUT_C16) memcpy(y + block, x + wide, 16 * sizeof *y);
            else                     memcpy(y + wide, x + block, 16 * sizeof *y);
        }
    }
}

// ---- mean. Scratch: one sum per CPU_CHUNK elements.
static size_t mean_scratch(const MeanShape *z) { return (size_t)cpu_ceil_div(z->e, CPU_CHUNK) * sizeof(double); }
static void mean_run(Stream *st, const MeanShape *z, const MeanArgs *a, Work w) {
    const float *x = a->x;
    double *part = w.scratch, total = 0;
    int64_t chunks = cpu_ceil_div(z->e, CPU_CHUNK);
    #pragma omp parallel for schedule(static) if (chunks > 1)
    for (int64_t k = 0; k < chunks; k++) {
        double s = 0;
        int64_t end = cpu_min(z->e, (k + 1) * CPU_CHUNK);
        #pragma omp simd reduction(+ : s)
        for (int64_t j = k * CPU_CHUNK; j < end; j++) s += (double)x[j];
        part[k] = s;
    }
    for (int64_t k = 0; k < chunks; k++) total += part[k];
    a->y[0] = (float)(total / (double)z->e);
}
static void mean_backward_run(Stream *st, const MeanShape *z, const MeanGradArgs *a, Work w) {
    PointwiseShape all = { .rows = 1, .c = z->e, .ldy = z->e, .alpha = (float)((double)a->dy[0] / (double)z->e) };
    each_run(run_fill, &all, &(PointwiseArgs){ .y = a->dx });
}

// ---- normal draws
static void randn_run(Stream *st, const RandomShape *z, const RandomArgs *a, Work w) {
    enum { PIECE = 1024 };
    int64_t size = (int64_t)z->hw * z->c, pieces = cpu_ceil_div(size, PIECE);
    #pragma omp parallel for schedule(static)
    for (int64_t task = 0; task < z->n * pieces; task++) {
        int64_t i = task / pieces, e0 = task % pieces * PIECE, count = cpu_min(PIECE, size - e0);
        float out[PIECE], *y = (float *)a->y + i * size;
        CpuDraw draw = cpu_draw(a->state, a->sample[i], z->purpose, 0);
        cpu_normals(&draw, (uint32_t)(e0 / 4), count, out);
        if (z->layout == LAYOUT_NHWC) {
            memcpy(y + e0, out, (size_t)count * sizeof *y);
        } else {
            for (int64_t e = e0; e < e0 + count; e += 16) {        // c is a multiple of 16, so all of a run is there
                memcpy(y + layout_index(z->layout, z->hw, z->c, 0, e / z->c, e % z->c), out + (e - e0), 16 * sizeof *y);
            }
        }
    }
}

// ---- dropout. A run is what lies dense in memory and fills whole bytes of the mask: in NHWC an image's pixels, in C16
// a block's; elsewhere the slow way.
static void dropout_run(Stream *st, const RandomShape *z, const RandomArgs *a, Work w) {
    int64_t size = (int64_t)z->hw * z->c, run = z->layout == LAYOUT_C16 ? (int64_t)z->hw * 16 : size;
    if (size % 8 != 0) {
        cpu_dropout_any(a->state, a->sample, z->purpose, z->p16, z->layout, z->n, z->hw, z->c, z->c, z->c, a->x, a->y,
                        a->mask);
        return;
    }
    float scale = cpu_keep_scale(z->p16);
    int64_t runs = size / run, pieces = cpu_ceil_div(run, CPU_CHUNK);
    #pragma omp parallel for schedule(static)
    for (int64_t task = 0; task < z->n * runs * pieces; task++) {
        int64_t i = task / (runs * pieces), b = task / pieces % runs, e0 = task % pieces * CPU_CHUNK;
        CpuDraw draw = cpu_draw(a->state, a->sample[i], z->purpose, z->p16);
        for (int64_t e = e0; e < cpu_min(run, e0 + CPU_CHUNK); e += CPU_WIDE) {
            int cols = (int)cpu_min(CPU_WIDE, run - e);
            int64_t at = i * size + b * run + e;
            uint32_t block[CPU_WIDE / 8];
            uint8_t own[CPU_WIDE / 8], *keep = a->mask ? a->mask + at / 8 : own;
            if (z->layout == LAYOUT_NHWC) {
                cpu_pixel_blocks(block, (uint32_t)(e / 8), 0, 1, cols / 8);
            } else {
                cpu_pixel_blocks(block, (uint32_t)(e / 16 * (z->c / 8) + 2 * b), (uint32_t)z->c / 8, cols / 16, 2);
            }
            float factor[CPU_WIDE], *y = (float *)a->y + at;
            const float *x = (const float *)a->x + at;
            cpu_keep_bits(&draw, block, cols / 8, keep);
            cpu_mask_factors(keep, 0, cols, scale, factor);
            #pragma omp simd
            for (int j = 0; j < cols; j++) y[j] = x[j] * factor[j];
        }
    }
}

// ---- registration
#define ELEMENTS(f, run) IMPL_FULL(f, "runs", 100, 0, 0, can, NULL, NULL, run, NULL)
IMPLS(pointwise_cpu,
    ELEMENTS(axpby, axpby_run),
    ELEMENTS(multiply, multiply_run),
    ELEMENTS(silu_forward, silu_run),
    ELEMENTS(silu_backward, silu_backward_run),
    ELEMENTS(relu_forward, relu_run),
    ELEMENTS(relu_backward, relu_backward_run),
    ELEMENTS(fill, fill_run),
    IMPL_FULL(add_channel_forward, "panels", 100, 0, 0, can_add_channel, NULL, NULL, add_channel_run, NULL),
    IMPL_FULL(add_channel_backward, "panels", 100, 0, 0, can_add_channel, NULL, NULL, add_channel_backward_run, NULL),
    IMPL_FULL(relayout, "pixels", 100, 0, 0, can_relayout, NULL, NULL, relayout_run, NULL),
    IMPL_FULL(mean_forward, "chunks", 100, 0, 0, can_mean, mean_scratch, NULL, mean_run, NULL),
    IMPL_FULL(mean_backward, "runs", 100, 0, 0, can_mean, NULL, NULL, mean_backward_run, NULL),
    IMPL_FULL(randn, "blocks", 100, 0, 0, can_random, NULL, NULL, randn_run, NULL),
    IMPL_FULL(dropout, "blocks", 100, 0, 0, can_random, NULL, NULL, dropout_run, NULL))
