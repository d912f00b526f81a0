// kernels/conv2d/conv2d_up_ref.c - upsampling and convolution by conv2d_up.h's formulas.
//
// One image at a time is unpacked into dense arrays of acc, rows padded to whole LANES. Sums are carried LANES at a
// time; each one adds its terms one by one, rows v outermost, then columns u, then channels or pixels.
#include "kernels/common/kernel.h"
#include "kernels/common/ref.h"
#include "kernels/conv2d/conv2d_up.h"

enum { LANES = 8, TAPS = CONV_UP_TAPS };
static int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

// g[v,u,k,c], rounded once.
static acc folded(const Conv2dUpShape *z, const void *w, int v, int u, int k, int c) {
    acc sum = 0;
    for (int r = 2 - v; r <= 3 - v; r++)
        for (int s = 2 - u; s <= 3 - u; s++)
            if (r >= 0 && r < 3 && s >= 0 && s < 3)
                sum += ref_load(w, z->dtype, (((int64_t)k * 3 + r) * 3 + s) * z->c + c);
    return ref_round(z->dtype, sum);
}

// image i (pixels,channels) -> to (pixels,ld), zeros beyond the channels.
static void unpack(acc *to, int64_t ld, const void *from, DType dt, Layout l, int64_t pixels, int channels, int ld_from,
                   int i) {
#pragma omp parallel for
    for (int64_t p = 0; p < pixels; p++)
        for (int c = 0; c < ld; c++)
            to[p * ld + c] = c < channels ? ref_load(from, dt, layout_index(l, pixels, ld_from, i, p, c)) : 0;
}

// sum[j] += x[i] * y[i * ldy + j], i ascending.
static inline void multiply_add(acc sum[LANES], const acc *x, const acc *y, int64_t ldy, int64_t n) {
    acc part[LANES];
    for (int j = 0; j < LANES; j++) part[j] = sum[j];
    for (int64_t i = 0; i < n; i++) {
#pragma GCC unroll 8
        for (int j = 0; j < LANES; j++) part[j] += x[i] * y[i * ldy + j];
    }
    for (int j = 0; j < LANES; j++) sum[j] = part[j];
}

// ---- forward. Scratch: g (4,4,c,k padded), one image of x.
static size_t forward_scratch(const Conv2dUpShape *z) {
    return sizeof(acc) * (size_t)(TAPS * TAPS * z->c * padded(z->k) + (int64_t)z->h * z->w * z->c);
}
static void forward_pixel(const Conv2dUpShape *z, const Conv2dUpArgs *a, int i, int p, int q, const acc *x,
                          const acc *g) {
    int64_t pixels = 4 * (int64_t)z->h * z->w, ld = padded(z->k);
    for (int k0 = 0; k0 < z->k; k0 += LANES) {
        acc sum[LANES] = { 0 };
        for (int v = (p + 1) % 2; v < TAPS; v += 2) {
            int h = (p + 1 - v) / 2;                     // p + 1 - v is even
            if (p + 1 < v || h >= z->h) continue;
            for (int u = (q + 1) % 2; u < TAPS; u += 2) {
                int w = (q + 1 - u) / 2;
                if (q + 1 < u || w >= z->w) continue;
                multiply_add(sum, x + ((int64_t)h * z->w + w) * z->c, g + (v * TAPS + u) * z->c * ld + k0, ld, z->c);
            }
        }
        for (int k = k0; k < z->k && k < k0 + LANES; k++)
            ref_store(a->y, z->out, layout_index(z->ly, pixels, z->ldy, i, (int64_t)p * 2 * z->w + q, k),
                      sum[k - k0] + (a->bias ? (acc)a->bias[k] : 0));
    }
}
static void forward(Stream *stream, const Conv2dUpShape *z, const Conv2dUpArgs *a, Work work) {
    int64_t ld = padded(z->k);
    acc *g = work.scratch, *x = g + TAPS * TAPS * z->c * ld;
#pragma omp parallel for
    for (int64_t c = 0; c < TAPS * TAPS * z->c; c++)
        for (int k = 0; k < ld; k++) {
            int tap = (int)(c / z->c);
            g[c * ld + k] = k < z->k ? folded(z, a->w, tap / TAPS, tap % TAPS, k, (int)(c % z->c)) : 0;
        }
    for (int i = 0; i < z->n; i++) {
        unpack(x, z->c, a->x, z->dtype, z->lx, (int64_t)z->h * z->w, z->c, z->ldx, i);
#pragma omp parallel for collapse(2)
        for (int p = 0; p < 2 * z->h; p++)
            for (int q = 0; q < 2 * z->w; q++) forward_pixel(z, a, i, p, q, x, g);
    }
}

// ---- backward to the input. Scratch: g (4,4,k,c padded), one image of dy.
static size_t backward_input_scratch(const Conv2dUpShape *z) {
    return sizeof(acc) * (size_t)(TAPS * TAPS * z->k * padded(z->c) + 4 * (int64_t)z->h * z->w * z->k);
}
static void backward_input_pixel(const Conv2dUpShape *z, const Conv2dUpArgs *a, int i, int h, int w, const acc *dy,
                                 const acc *g) {
    int64_t ld = padded(z->c);
    for (int c0 = 0; c0 < z->c; c0 += LANES) {
        acc sum[LANES] = { 0 };
        for (int v = 0; v < TAPS; v++) {
            int p = 2 * h - 1 + v;
            if (p < 0 || p >= 2 * z->h) continue;
            for (int u = 0; u < TAPS; u++) {
                int q = 2 * w - 1 + u;
                if (q < 0 || q >= 2 * z->w) continue;
                multiply_add(sum, dy + ((int64_t)p * 2 * z->w + q) * z->k, g + (v * TAPS + u) * z->k * ld + c0, ld,
                             z->k);
            }
        }
        for (int c = c0; c < z->c && c < c0 + LANES; c++)
            ref_store(a->dx, z->dtype, layout_index(z->lx, (int64_t)z->h * z->w, z->ldx, i, (int64_t)h * z->w + w, c),
                      sum[c - c0]);
    }
}
static void backward_input(Stream *stream, const Conv2dUpShape *z, const Conv2dUpArgs *a, Work work) {
    int64_t ld = padded(z->c);
    acc *g = work.scratch, *dy = g + TAPS * TAPS * z->k * ld;
#pragma omp parallel for
    for (int64_t k = 0; k < TAPS * TAPS * z->k; k++)
        for (int c = 0; c < ld; c++) {
            int tap = (int)(k / z->k);
            g[k * ld + c] = c < z->c ? folded(z, a->w, tap / TAPS, tap % TAPS, (int)(k % z->k), c) : 0;
        }
    for (int i = 0; i < z->n; i++) {
        unpack(dy, z->k, a->dy, z->out, z->ly, 4 * (int64_t)z->h * z->w, z->k, z->ldy, i);
#pragma omp parallel for collapse(2)
        for (int h = 0; h < z->h; h++)
            for (int w = 0; w < z->w; w++) backward_input_pixel(z, a, i, h, w, dy, g);
    }
}

// ---- backward to the weights, without folding. Scratch: one image of x (h,w,c padded) and of dy, the sums over the
// images so far.
static size_t backward_weight_scratch(const Conv2dUpShape *z) {
    int64_t c = padded(z->c), hw = (int64_t)z->h * z->w;
    return sizeof(acc) * (size_t)(hw * c + 4 * hw * z->k + z->k * (9 * c + 1));
}
// dw[k,r,s,:] += one image.
static void backward_weight_tap(const Conv2dUpShape *z, int k, int r, int s, const acc *dy, const acc *x, acc *dw) {
    int64_t ld = padded(z->c);
    for (int p = 0; p < 2 * z->h; p++) {
        int up_h = p + r - 1;                            // of the upsampled image
        if (up_h < 0 || up_h >= 2 * z->h) continue;
        for (int q = 0; q < 2 * z->w; q++) {
            int up_w = q + s - 1;
            if (up_w < 0 || up_w >= 2 * z->w) continue;
            acc d = dy[((int64_t)p * 2 * z->w + q) * z->k + k];
            const acc *pixel = x + ((int64_t)(up_h / 2) * z->w + up_w / 2) * ld;
            for (int64_t c = 0; c < ld; c++) dw[c] += d * pixel[c];
        }
    }
}
static void backward_weight(Stream *stream, const Conv2dUpShape *z, const Conv2dUpArgs *a, Work work) {
    int64_t ld = padded(z->c), hw = (int64_t)z->h * z->w;
    acc *x = work.scratch, *dy = x + hw * ld, *dw = dy + 4 * hw * z->k, *db = dw + z->k * 9 * ld;
    for (int64_t j = 0; j < z->k * (9 * ld + 1); j++) dw[j] = 0;
    for (int i = 0; i < z->n; i++) {
        unpack(x, ld, a->x, z->dtype, z->lx, hw, z->c, z->ldx, i);
        unpack(dy, z->k, a->dy, z->out, z->ly, 4 * hw, z->k, z->ldy, i);
#pragma omp parallel for
        for (int k = 0; k < z->k; k++) {
            for (int64_t p = 0; p < 4 * hw; p++) db[k] += dy[p * z->k + k];
            for (int t = 0; a->dw && t < 9; t++)
                backward_weight_tap(z, k, t / 3, t % 3, dy, x, dw + (k * 9 + t) * ld);
        }
    }
    for (int64_t j = 0; a->dw && j < (int64_t)z->k * 9 * z->c; j++)
        a->dw[j] = (real)((a->accumulate ? (acc)a->dw[j] : 0) + dw[j / z->c * ld + j % z->c]);
    for (int k = 0; a->dbias && k < z->k; k++)
        a->dbias[k] = (real)((a->accumulate ? (acc)a->dbias[k] : 0) + db[k]);
}

IMPLS(conv2d_up_ref,
    IMPL_SCRATCH(conv2d_up_forward, "loops", forward_scratch, forward),
    IMPL_SCRATCH(conv2d_up_backward_input, "loops", backward_input_scratch, backward_input),
    IMPL_SCRATCH(conv2d_up_backward_weight, "loops", backward_weight_scratch, backward_weight))
