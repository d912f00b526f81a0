// kernels/conv2d/conv2d_up_cpu.c - upsampling and convolution on the host: a convolution of the upsampled image.
//
// What conv2d_up_winograd_cpu.c refuses. The image is doubled into scratch, a pass over memory, and the direct
// convolution does the rest. Gradients to x are summed four by four out of scratch.
#include <stdlib.h>
#include <string.h>
#include "kernels/common/cpu.h"
#include "kernels/conv2d/conv2d_up.h"

// The convolution of the upsampled image, which is dense.
static Conv2dShape doubled(const Conv2dUpShape *z) {
    return (Conv2dShape){ .n = z->n, .h = 2 * z->h, .w = 2 * z->w, .p = 2 * z->h, .q = 2 * z->w, .c = z->c, .k = z->k,
                          .r = 3, .s = 3, .stride = 1, .pad_h = 1, .pad_w = 1, .ldx = z->c, .ldy = z->ldy,
                          .use = z->use, .dtype = z->dtype, .out = z->out, .lx = z->lx, .ly = z->ly };
}
static const Impl *inner(const Launcher *l, const Conv2dUpShape *z) {
    Conv2dShape d = doubled(z);
    return z->dtype == DT_F32 && z->out == DT_F32 ? impl_find(l, DEV_CPU, 0, &d, "direct") : NULL;
}
static size_t image_bytes(const Conv2dUpShape *z) {
    return ((size_t)z->n * 4 * (size_t)z->h * (size_t)z->w * (size_t)z->c * sizeof(float) + 255) & ~(size_t)255;
}
static size_t scratch_of(const Launcher *l, const Conv2dUpShape *z) {
    Conv2dShape d = doubled(z);
    return image_bytes(z) + l->scratch(inner(l, z), &d);
}

// ---- the implementation of the convolution, ready to run
typedef struct { const Impl *impl; void *state; } Inner;
static void *inner_new(Stream *s, const Launcher *l, const Conv2dUpShape *z) {
    Conv2dShape d = doubled(z);
    Inner *i = malloc(sizeof *i);
    if (!i) out_of_memory(sizeof *i);
    *i = (Inner){ .impl = inner(l, z) };
    i->state = l->prepare(i->impl, s, &d, &(Conv2dArgs){ .x = NULL });       // on the host no state holds addresses
    return i;
}
static void inner_free(void *state) {
    Inner *i = state;
    if (i->impl->release) i->impl->release(i->state);
    free(i);
}
static void inner_run(Stream *s, const Launcher *l, const Conv2dUpShape *z, const Conv2dArgs *a, Work w) {
    const Inner *i = w.state;
    Conv2dShape d = doubled(z);
    l->run(i->impl, s, &d, a, (Work){ i->state, (char *)w.scratch + image_bytes(z) });
}

// ---- images. A run of `step` floats is what a pixel has side by side: all channels, or a block of C16.
typedef struct { int runs, run, ld_run; int64_t step; } Runs;
static Runs runs_of(const Conv2dUpShape *z) {
    return z->lx == LAYOUT_C16 ? (Runs){ z->c / 16, 16, 16, 16 } : (Runs){ 1, z->c, z->c, z->ldx };
}
// x, strided as the shape says -> y (n,2h,2w,c), dense, in the same layout.
static void upsample(const Conv2dUpShape *z, const float *x, float *y) {
    Runs r = runs_of(z);
    int64_t hw = (int64_t)z->h * z->w, row = 2 * (int64_t)z->w * r.ld_run;
    #pragma omp parallel for collapse(3) schedule(static)
    for (int i = 0; i < z->n; i++)
        for (int b = 0; b < r.runs; b++)
            for (int h = 0; h < z->h; h++) {
                const float *from = x + layout_index(z->lx, hw, z->ldx, i, (int64_t)h * z->w, 16 * b);
                float *to = y + layout_index(z->lx, 4 * hw, z->c, i, 4 * (int64_t)h * z->w, 16 * b);
                for (int w = 0; w < z->w; w++) {
                    float *pair = to + 2 * w * r.ld_run;
                    #pragma omp simd
                    for (int k = 0; k < r.run; k++) pair[k] = pair[r.ld_run + k] = from[w * r.step + k];
                }
                memcpy(to + row, to, (size_t)row * sizeof *to);
            }
}
// Each pixel of dx the sum of four of `du` (n,2h,2w,c).
static void sum_fours(const Conv2dUpShape *z, const float *du, float *dx) {
    Runs r = runs_of(z);
    int64_t hw = (int64_t)z->h * z->w, row = 2 * (int64_t)z->w * r.ld_run;
    #pragma omp parallel for collapse(3) schedule(static)
    for (int i = 0; i < z->n; i++)
        for (int b = 0; b < r.runs; b++)
            for (int h = 0; h < z->h; h++) {
                const float *from = du + layout_index(z->lx, 4 * hw, z->c, i, 4 * (int64_t)h * z->w, 16 * b);
                float *to = dx + layout_index(z->lx, hw, z->ldx, i, (int64_t)h * z->w, 16 * b);
                for (int w = 0; w < z->w; w++) {
                    const float *up = from + 2 * w * r.ld_run, *low = up + row;
                    #pragma omp simd
                    for (int k = 0; k < r.run; k++)
                        to[w * r.step + k] = (up[k] + up[r.ld_run + k]) + (low[k] + low[r.ld_run + k]);
                }
            }
}

// ---- the three passes
static void forward(Stream *s, const Conv2dUpShape *z, const Conv2dUpArgs *a, Work w) {
    upsample(z, a->x, w.scratch);
    inner_run(s, &conv2d_forward, z, &(Conv2dArgs){ .x = w.scratch, .w = a->w, .bias = a->bias, .y = a->y }, w);
}
static void backward_input(Stream *s, const Conv2dUpShape *z, const Conv2dUpArgs *a, Work w) {
    inner_run(s, &conv2d_backward_input, z, &(Conv2dArgs){ .dy = a->dy, .w = a->w, .dx = w.scratch }, w);
    sum_fours(z, w.scratch, a->dx);
}
static void backward_weight(Stream *s, const Conv2dUpShape *z, const Conv2dUpArgs *a, Work w) {
    if (a->dw) upsample(z, a->x, w.scratch);
    inner_run(s, &conv2d_backward_weight, z, &(Conv2dArgs){ .dy = a->dy, .x = w.scratch, .dw = a->dw,
              .dbias = a->dbias, .accumulate = a->accumulate }, w);
}

// can, scratch, prepare of one pass.
#define PASS(pass)                                                                                                  \
    static bool   pass##_can(const Conv2dUpShape *z) { return inner(&conv2d_##pass, z) != NULL; }                   \
    static size_t pass##_scratch(const Conv2dUpShape *z) { return scratch_of(&conv2d_##pass, z); }                  \
    static void  *pass##_prepare(Stream *s, const Conv2dUpShape *z, const Conv2dUpArgs *a)                          \
    { return inner_new(s, &conv2d_##pass, z); }
#define ENTRY(pass)                                                                                                 \
    IMPL_FULL(conv2d_up_##pass, "direct", 20, 0, 0, pass##_can, pass##_scratch, pass##_prepare, pass, inner_free)
PASS(forward)
PASS(backward_input)
PASS(backward_weight)
IMPLS(conv2d_up_cpu, ENTRY(forward), ENTRY(backward_input), ENTRY(backward_weight))
