// kernels/conv2d/conv2d_cpu.c - convolution on the host by oneDNN, and one pass over y for what it cannot fuse.
//
// Any shape. The fused prologues, the second source, the shortcut and the statistics are not here: on the host those
// parts are nodes of their own. conv2d_winograd_cpu.c takes most 3x3 convolutions before this.
#include "kernels/common/onednn.h"
#include "kernels/conv2d/conv2d.h"
#include "kernels/conv2d/conv2d_cpu.h"

enum { BLOCK = 16 };   // channels summed or added at once: one AVX-512 register, one block of C16

static OnednnConvShape shape_of(const Conv2dShape *z, OnednnPass pass) {
    return (OnednnConvShape){
        .pass = pass, .bias = pass == ONEDNN_FORWARD && (z->use & CONV_BIAS), .n = z->n, .h = z->h, .w = z->w,
        .p = z->p, .q = z->q, .c = z->c, .k = z->k, .r = z->r, .s = z->s, .stride = z->stride, .pad_h = z->pad_h,
        .pad_w = z->pad_w, .ldx = z->ldx, .ldy = z->ldy, .lx = z->lx, .ly = z->ly };
}

static bool can_pass(const Conv2dShape *z, OnednnPass pass) {
    unsigned fused = CONV_X2 | CONV_SHORTCUT | CONV_NORM | CONV_MASK | CONV_STATS | CONV_SUMS;
    if ((z->use & fused) || z->c2 || z->dtype != DT_F32 || z->out != DT_F32) return false;
    if (z->pad_h < 0 || z->pad_w < 0) return false;
    OnednnConvShape o = shape_of(z, pass);
    return onednn_conv_offers(&o, NULL);
}
size_t conv2d_sums_bytes(const Conv2dShape *z) {
    return ((size_t)z->n * (size_t)z->k * sizeof(float) + 255) & ~(size_t)255;
}
static size_t scratch_pass(const Conv2dShape *z, OnednnPass pass) {
    OnednnConvShape o = shape_of(z, pass);
    size_t bytes = 0;
    CHECK(onednn_conv_offers(&o, &bytes), "scratch of a convolution that oneDNN does not offer");
    return bytes + (pass == ONEDNN_BACKWARD_WEIGHT ? conv2d_sums_bytes(z) : 0);
}
static void *prepare_pass(const Conv2dShape *z, OnednnPass pass) {
    OnednnConvShape o = shape_of(z, pass);
    return onednn_conv_create(&o);
}
static void release(void *conv) { onednn_conv_free(conv); }

// name_can, name_scratch, name_prepare of one pass.
#define PASS(name, pass)                                                                                            \
    static bool   name##_can(const Conv2dShape *z)     { return can_pass(z, pass); }                                \
    static size_t name##_scratch(const Conv2dShape *z) { return scratch_pass(z, pass); }                            \
    static void  *name##_prepare(Stream *s, const Conv2dShape *z, const Conv2dArgs *a) { return prepare_pass(z, pass); }

// Reads two of x, w, y and writes the third, by the pass that conv was prepared for.
static void run_conv(Stream *s, void *conv, const void *x, const void *w, const float *bias, const void *y,
                     bool accumulate, void *scratch) {
    void *xm = (void *)(uintptr_t)x, *wm = (void *)(uintptr_t)w, *ym = (void *)(uintptr_t)y;
    if (!onednn_conv_run(conv, xm, wm, bias, ym, accumulate, scratch))
        stream_fail(s, 1, "oneDNN failed to run a convolution");
}

// y (n,hw,k) += row (n,k) + image (n,hw,k). row, image: NULL if absent. step_row: k, or 0 if one row is for all images.
static void add_terms(float *y, int ldy, const float *image, int ldi, const float *row, int step_row, Layout l, int n,
                      int hw, int k) {
    if (!row && !image) return;
    int blocks = (k + BLOCK - 1) / BLOCK;
    int step_y = l == LAYOUT_C16 ? BLOCK : ldy, step_i = l == LAYOUT_C16 ? BLOCK : ldi;
    #pragma omp parallel for collapse(2) schedule(static)
    for (int i = 0; i < n; i++) {
        for (int b = 0; b < blocks; b++) {
            int k0 = b * BLOCK, width = k - k0 < BLOCK ? k - k0 : BLOCK;
            float *to = y + layout_index(l, hw, ldy, i, 0, k0), add[BLOCK] = { 0 };
            const float *from = image ? image + layout_index(l, hw, ldi, i, 0, k0) : NULL;
            for (int j = 0; row && j < width; j++) add[j] = row[(int64_t)i * step_row + k0 + j];
            for (int64_t p = 0; p < hw; p++) {
                if (from)
                    for (int j = 0; j < width; j++) to[p * step_y + j] += add[j] + from[p * step_i + j];
                else
                    for (int j = 0; j < width; j++) to[p * step_y + j] += add[j];
            }
        }
    }
}

// sums (n,k) = sums of dy (n,hw,k) over pixels: four chains, of pixels p mod 4, added in order.
static void sum_pixels(const float *dy, int ld, Layout l, int n, int hw, int k, float *sums) {
    int blocks = (k + BLOCK - 1) / BLOCK, step = l == LAYOUT_C16 ? BLOCK : ld;
    #pragma omp parallel for collapse(2) schedule(static)
    for (int i = 0; i < n; i++) {
        for (int b = 0; b < blocks; b++) {
            int k0 = b * BLOCK, width = k - k0 < BLOCK ? k - k0 : BLOCK;
            const float *from = dy + layout_index(l, hw, ld, i, 0, k0);
            float chain[4][BLOCK] = { { 0 } };
            for (int64_t p = 0; p < hw; p++)
                for (int j = 0; j < width; j++) chain[p % 4][j] += from[p * step + j];
            for (int j = 0; j < width; j++)
                sums[(int64_t)i * k + k0 + j] = (chain[0][j] + chain[1][j]) + (chain[2][j] + chain[3][j]);
        }
    }
}

void conv2d_bias_gradients(const Conv2dShape *z, const Conv2dArgs *a, float *sums) {
    if (!a->dbias && !a->dtemb) return;
    if (a->dtemb) sums = a->dtemb;
    sum_pixels(a->dy, z->ldy, z->ly, z->n, z->p * z->q, z->k, sums);
    for (int k = 0; a->dbias && k < z->k; k++) {
        float sum = 0.0f;
        for (int i = 0; i < z->n; i++) sum += sums[(int64_t)i * z->k + k];
        a->dbias[k] = a->accumulate ? a->dbias[k] + sum : sum;
    }
}

// ---- forward
static void forward(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work w) {
    run_conv(s, w.state, a->x, a->w, a->bias, a->y, false, w.scratch);
    add_terms(a->y, z->ldy, a->residual, z->ldr, a->temb, z->k, z->ly, z->n, z->p * z->q, z->k);
}
PASS(forward, ONEDNN_FORWARD)

// ---- gradient of x
static void backward_input(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work w) {
    run_conv(s, w.state, a->dx, a->w, NULL, a->dy, false, w.scratch);
    add_terms(a->dx, z->ldx, a->add, z->c, a->bias, 0, z->lx, z->n, z->h * z->w, z->c);
}
PASS(input, ONEDNN_BACKWARD_INPUT)

// ---- gradients of w, bias, temb
static void backward_weight(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work w) {
    if (a->dw) run_conv(s, w.state, a->x, a->dw, NULL, a->dy, a->accumulate, (char *)w.scratch + conv2d_sums_bytes(z));
    conv2d_bias_gradients(z, a, w.scratch);
}
PASS(weight, ONEDNN_BACKWARD_WEIGHT)

IMPLS(conv2d_cpu,
    IMPL_FULL(conv2d_forward, "direct", 20, 0, 0, forward_can, forward_scratch, forward_prepare, forward, release),
    IMPL_FULL(conv2d_backward_input, "direct", 20, 0, 0, input_can, input_scratch, input_prepare, backward_input,
              release),
    IMPL_FULL(conv2d_backward_weight, "direct", 20, 0, 0, weight_can, weight_scratch, weight_prepare, backward_weight,
              release))
