// kernels/resample/resample_cpu.c - copies of pixels, channels and batches at the speed of memory.
#include "kernels/common/cpu.h"
#include "kernels/resample/resample.h"

static bool can_upsample(const UpsampleShape *z) { return z->dtype == DT_F32; }
static bool can_concat(const ConcatShape *z) { return z->dtype == DT_F32; }
static bool can_repeat(const RepeatShape *z) { return z->dtype == DT_F32; }

// ---- upsampling. A row of pixels is written twice: doubled, then copied while it is still in the cache.
static inline void double_pixels(const float *x, float *y, int64_t pixels, int c) {
    for (int64_t p = 0; p < pixels; p++) {
        #pragma omp simd
        for (int k = 0; k < c; k++) y[2 * p * c + k] = y[(2 * p + 1) * c + k] = x[p * c + k];
    }
}
static void upsample_run(Stream *st, const UpsampleShape *z, const ResampleArgs *a, Work w) {
    int64_t row = (int64_t)z->w * z->c;
    #pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < (int64_t)z->n * z->h; r++) {
        const float *x = (const float *)a->x + r * row;
        float *y = (float *)a->y + r * 4 * row;
        if (z->c == 16) double_pixels(x, y, z->w, 16);      // a block of C16: n counts blocks
        else            double_pixels(x, y, z->w, z->c);
        memcpy(y + 2 * row, y, (size_t)(2 * row) * sizeof *y);
    }
}

static inline void sum_pixels(const float *upper, const float *lower, float *dx, int64_t pixels, int c) {
    for (int64_t p = 0; p < pixels; p++) {
        const float *u = upper + 2 * p * c, *l = lower + 2 * p * c;
        #pragma omp simd
        for (int k = 0; k < c; k++) dx[p * c + k] = (u[k] + u[c + k]) + (l[k] + l[c + k]);
    }
}
static void upsample_backward_run(Stream *st, const UpsampleShape *z, const ResampleArgs *a, Work w) {
    int64_t row = (int64_t)z->w * z->c;
    #pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < (int64_t)z->n * z->h; r++) {
        const float *dy = (const float *)a->x + r * 4 * row;
        float *dx = (float *)a->y + r * row;
        if (z->c == 16) sum_pixels(dy, dy + 2 * row, dx, z->w, 16);
        else            sum_pixels(dy, dy + 2 * row, dx, z->w, z->c);
    }
}

// ---- concatenation. Runs are long in C16 (all pixels of an image) and short in NHWC (a pixel): pieces of either.
static void concat_run(Stream *st, const ConcatShape *z, const ConcatArgs *p, Work w) {
    int64_t c = (int64_t)z->ca + z->cb, pieces = cpu_ceil_div(c, CPU_CHUNK);
    #pragma omp parallel for schedule(static)
    for (int64_t task = 0; task < z->rows * pieces; task++) {
        int64_t r = task / pieces, j = task % pieces * CPU_CHUNK, end = cpu_min(c, j + CPU_CHUNK);
        const float *a = (const float *)p->a + r * z->lda, *b = (const float *)p->b + r * z->ldb;
        float *y = (float *)p->y + r * c;
        if (j < z->ca) memcpy(y + j, a + j, (size_t)(cpu_min(end, z->ca) - j) * sizeof *y);
        int64_t from = j > z->ca ? j : z->ca;
        if (from < end) memcpy(y + from, b + (from - z->ca), (size_t)(end - from) * sizeof *y);
    }
}

// ---- repetition
static void repeat_run(Stream *st, const RepeatShape *z, const ResampleArgs *a, Work w) {
    const float *x = a->x;
    float *y = a->y;
    #pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < z->e; j += CPU_CHUNK) {
        size_t bytes = (size_t)cpu_min(CPU_CHUNK, z->e - j) * sizeof *y;
        for (int k = 0; k < z->copies; k++) memcpy(y + k * z->e + j, x + j, bytes);
    }
}
static void repeat_backward_run(Stream *st, const RepeatShape *z, const ResampleArgs *a, Work w) {
    const float *dy = a->x;
    float *dx = a->y;
    #pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < z->e; j += CPU_CHUNK) {
        int64_t end = cpu_min(z->e, j + CPU_CHUNK);
        memcpy(dx + j, dy + j, (size_t)(end - j) * sizeof *dx);
        for (int k = 1; k < z->copies; k++) {
            #pragma omp simd
            for (int64_t l = j; l < end; l++) dx[l] += dy[k * z->e + l];
        }
    }
}

// ---- registration
IMPLS(resample_cpu,
    IMPL_FULL(upsample2x_forward, "rows", 100, 0, 0, can_upsample, NULL, NULL, upsample_run, NULL),
    IMPL_FULL(upsample2x_backward, "rows", 100, 0, 0, can_upsample, NULL, NULL, upsample_backward_run, NULL),
    IMPL_FULL(concat_forward, "pieces", 100, 0, 0, can_concat, NULL, NULL, concat_run, NULL),
    IMPL_FULL(repeat_batch_forward, "pieces", 100, 0, 0, can_repeat, NULL, NULL, repeat_run, NULL),
    IMPL_FULL(repeat_batch_backward, "pieces", 100, 0, 0, can_repeat, NULL, NULL, repeat_backward_run, NULL))
