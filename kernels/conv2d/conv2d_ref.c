// kernels/conv2d/conv2d_ref.c - convolution by its definition, every optional part included.
//   a[i,h,w,c]  = drop(silu(x * scale + shift)), or x; zero outside the image; c runs over the concat [x, x2]
//   y[i,p,q,k]  = sum over r,s,c of a[i, p*stride + r - pad_h, q*stride + s - pad_w, c] w[k,r,s,c]
//                 + bias[k] + temb[i,k] + residual[i,p,q,k] + sum over c of xs[i,p,q,c] ws[k,c]
//   da[i,h,w,c] = sum over r,s,k of dy[i,p,q,k] w[k,r,s,c] where p*stride + r - pad_h = h, q*stride + s - pad_w = w
//   du          = da * mask * keep_scale * silu'(u);   dx = du + add + bias
//   dw[k,r,s,c] = sum over i,p,q of dy[i,p,q,k] a[i, p*stride + r - pad_h, q*stride + s - pad_w, c]
// One image at a time is unpacked into dense arrays of acc, which hides layouts, views and element types from the
// sums. `add` and `mask` are dense, dx and dx2 have the strides of x and x2.
#include "kernels/common/kernel.h"
#include "kernels/common/ref.h"
#include "kernels/conv2d/conv2d.h"

// Sums are carried LANES at a time, so that the next product need not wait for the last addition; each one still adds
// its terms one by one in the order of the formula.
enum { LANES = 8 };
static int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

// sum[j] += x[i] * y[i * ldy + j], i ascending.
static inline void multiply_add(acc *sum, const acc *x, const acc *y, int64_t ldy, int64_t n) {
    acc part[LANES];
    for (int j = 0; j < LANES; j++) part[j] = sum[j];
    for (int64_t i = 0; i < n; i++) {
#pragma GCC unroll 8
        for (int j = 0; j < LANES; j++) part[j] += x[i] * y[i * ldy + j];   // unrolled, part stays in registers
    }
    for (int j = 0; j < LANES; j++) sum[j] = part[j];
}

// w (lanes,taps,n), any strides -> (lanes / LANES, taps, n, LANES), zeros beyond the last lane.
static void pack(acc *to, const void *w, DType dt, int64_t lanes, int64_t lane_step, int64_t taps, int64_t tap_step,
                 int64_t n, int64_t step) {
    for (int64_t l = 0; l < padded(lanes); l++) {
        for (int64_t t = 0; t < taps; t++) {
            for (int64_t i = 0; i < n; i++) {
                to[((l / LANES * taps + t) * n + i) * LANES + l % LANES] =
                    l < lanes ? ref_load(w, dt, l * lane_step + t * tap_step + i * step) : 0;
            }
        }
    }
}

// [x, x2] of image i -> to (pixels, ld); columns beyond c + c2 are left alone.
static void unpack(acc *to, int64_t ld, const void *x, const void *x2, DType dt, Layout l, int64_t pixels, int c,
                   int c2, int ldx, int ldx2, int i) {
    for (int64_t p = 0; p < pixels; p++) {
        for (int k = 0; k < c; k++) to[p * ld + k] = ref_load(x, dt, layout_index(l, pixels, ldx, i, p, k));
        for (int k = 0; k < c2; k++) to[p * ld + c + k] = ref_load(x2, dt, layout_index(l, pixels, ldx2, i, p, k));
    }
}

static acc pre_activation(const Conv2dShape *z, const Conv2dArgs *a, int i, int k, acc x) {
    int64_t at = (int64_t)i * (z->c + z->c2) + k;
    return x * (acc)a->scale[at] + (acc)a->shift[at];
}
static acc drop(const Conv2dShape *z, const Conv2dArgs *a, int i, int64_t p, int k, acc v) {
    if (!a->mask) return v;
    int64_t hw = (int64_t)z->h * z->w, at = layout_index(z->lx, hw, z->c + z->c2, i, p, k);
    return ref_bit(a->mask, at) ? v * (acc)z->keep_scale : 0;
}

// What the convolution reads of image i: a (h,w,ld), rounded once; zeros beyond c + c2.
static void load_input(const Conv2dShape *z, const Conv2dArgs *a, int i, acc *to, int64_t ld) {
    int64_t hw = (int64_t)z->h * z->w;
    int c = z->c + z->c2;
    unpack(to, ld, a->x, a->x2, z->dtype, z->lx, hw, z->c, z->c2, z->ldx, z->ldx2, i);
#pragma omp parallel for
    for (int64_t p = 0; p < hw; p++) {
        for (int k = 0; k < c; k++) {
            acc v = to[p * ld + k];
            if (a->scale) v = ref_silu(pre_activation(z, a, i, k, v));
            to[p * ld + k] = ref_round(z->dtype, drop(z, a, i, p, k, v));
        }
        for (int64_t k = c; k < ld; k++) to[p * ld + k] = 0;
    }
}

// ---- forward. Scratch: one image of a and of the shortcut's sources, both filters packed.
static size_t forward_scratch(const Conv2dShape *z) {
    int64_t c = z->c + z->c2, cs = z->cs + z->cs2;
    int64_t sources = (int64_t)z->h * z->w * c + (int64_t)z->p * z->q * cs;
    return sizeof(acc) * (size_t)(sources + padded(z->k) * (z->r * z->s * c + cs));
}

static void write_stats(const Conv2dShape *z, const Conv2dArgs *a, int i) {
    int64_t pixels = (int64_t)z->p * z->q;
#pragma omp parallel for
    for (int k = 0; k < z->k; k++) {
        acc mean = 0, squares = 0;
        for (int64_t p = 0; p < pixels; p++) {
            mean += ref_load(a->y, z->out, layout_index(z->ly, pixels, z->ldy, i, p, k));
        }
        mean /= (acc)pixels;
        for (int64_t p = 0; p < pixels; p++) {
            acc d = ref_load(a->y, z->out, layout_index(z->ly, pixels, z->ldy, i, p, k)) - mean;
            squares += d * d;
        }
        real *to = a->stats + 2 * ((int64_t)i * z->k + k);
        to[0] = (real)mean;
        to[1] = (real)squares;
    }
}

// One row p of LANES output channels of image i, from channel k0 on.
static void forward_row(const Conv2dShape *z, const Conv2dArgs *a, int i, int p, int k0, const acc *x, const acc *w,
                        const acc *xs, const acc *ws) {
    int64_t c = z->c + z->c2, cs = z->cs + z->cs2, pixels = (int64_t)z->p * z->q;
    for (int q = 0; q < z->q; q++) {
        acc sum[LANES] = { 0 };
        int64_t pixel = (int64_t)p * z->q + q;
        for (int r = 0; r < z->r; r++) {
            int h = p * z->stride + r - z->pad_h;
            if (h < 0 || h >= z->h) continue;
            for (int s = 0; s < z->s; s++) {
                int v = q * z->stride + s - z->pad_w;
                if (v < 0 || v >= z->w) continue;
                multiply_add(sum, x + ((int64_t)h * z->w + v) * c,
                             w + ((int64_t)(k0 / LANES * z->r + r) * z->s + s) * c * LANES, LANES, c);
            }
        }
        if (cs) multiply_add(sum, xs + pixel * cs, ws + k0 * cs, LANES, cs);
        for (int k = k0; k < z->k && k < k0 + LANES; k++) {
            acc v = sum[k - k0];
            if (a->bias) v += (acc)a->bias[k];
            if (a->temb) v += (acc)a->temb[(int64_t)i * z->k + k];
            if (a->residual) v += ref_load(a->residual, z->dtype, layout_index(z->ly, pixels, z->ldr, i, pixel, k));
            ref_store(a->y, z->out, layout_index(z->ly, pixels, z->ldy, i, pixel, k), v);
        }
    }
}

static void forward(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, Work work) {
    int64_t c = z->c + z->c2, cs = z->cs + z->cs2, taps = z->r * z->s, pixels = (int64_t)z->p * z->q;
    acc *x = work.scratch, *xs = x + (int64_t)z->h * z->w * c, *w = xs + pixels * cs, *ws = w + padded(z->k) * taps * c;
    pack(w, a->w, z->dtype, z->k, taps * c, taps, c, c, 1);
    if (cs) pack(ws, a->ws, z->dtype, z->k, cs, 1, 0, cs, 1);
    for (int i = 0; i < z->n; i++) {
        load_input(z, a, i, x, c);
        if (cs) unpack(xs, cs, a->xs, a->xs2, z->dtype, z->ly, pixels, z->cs, z->cs2, z->lds, z->lds2, i);
#pragma omp parallel for collapse(2)
        for (int k = 0; k < z->k; k += LANES) {
            for (int p = 0; p < z->p; p++) forward_row(z, a, i, p, k, x, w, xs, ws);
        }
        if (a->stats) write_stats(z, a, i);
    }
}

// ---- backward to the input. Scratch: one image of dy and of da, the filter packed.
static size_t backward_input_scratch(const Conv2dShape *z) {
    int64_t c = z->c + z->c2;
    return sizeof(acc) * (size_t)((int64_t)z->p * z->q * z->k + (int64_t)z->h * z->w * c +
                                  padded(c) * z->r * z->s * z->k);
}

// da of one row h, LANES channels from c0 on.
static void backward_input_row(const Conv2dShape *z, int h, int c0, const acc *dy, const acc *w, acc *da) {
    int c = z->c + z->c2;
    for (int v = 0; v < z->w; v++) {
        acc sum[LANES] = { 0 };
        for (int r = 0; r < z->r; r++) {
            int p = h + z->pad_h - r;                          // times stride
            if (p < 0 || p % z->stride || p / z->stride >= z->p) continue;
            for (int s = 0; s < z->s; s++) {
                int q = v + z->pad_w - s;
                if (q < 0 || q % z->stride || q / z->stride >= z->q) continue;
                multiply_add(sum, dy + ((int64_t)p / z->stride * z->q + q / z->stride) * z->k,
                             w + ((int64_t)(c0 / LANES * z->r + r) * z->s + s) * z->k * LANES, LANES, z->k);
            }
        }
        for (int k = c0; k < c && k < c0 + LANES; k++) da[((int64_t)h * z->w + v) * c + k] = sum[k - c0];
    }
}

// da -> du, its sums, dx or dx2: channel k of image i.
static void backward_input_finish(const Conv2dShape *z, const Conv2dArgs *a, int i, int k, const acc *da) {
    int64_t hw = (int64_t)z->h * z->w, c = z->c + z->c2;
    bool second = k >= z->c;
    const void *x = second ? a->x2 : a->x;
    void *dx = second ? a->dx2 : a->dx;
    int ld = second ? z->ldx2 : z->ldx, kx = second ? k - z->c : k;
    acc sum = 0, sum_xhat = 0;
    for (int64_t p = 0; p < hw; p++) {
        acc d = drop(z, a, i, p, k, da[p * c + k]);
        int64_t at = layout_index(z->lx, hw, ld, i, p, kx);
        if (a->scale) d *= ref_silu_slope(pre_activation(z, a, i, k, ref_load(x, z->dtype, at)));
        if (a->sums) {
            int64_t group = (int64_t)i * z->groups + k / (c / z->groups);
            sum += d;
            sum_xhat += d * (ref_load(x, z->dtype, at) - (acc)a->mean[group]) * (acc)a->rstd[group];
        }
        if (a->add) d += ref_load(a->add, z->dtype, layout_index(z->lx, hw, c, i, p, k));
        if (a->bias) d += (acc)a->bias[k];
        if (dx) ref_store(dx, z->dtype, at, d);
    }
    if (a->sums) {
        a->sums[2 * (i * c + k)] = (real)sum;
        a->sums[2 * (i * c + k) + 1] = (real)sum_xhat;
    }
}

static void backward_input(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, Work work) {
    int c = z->c + z->c2;
    int64_t taps = z->r * z->s, pixels = (int64_t)z->p * z->q;
    acc *dy = work.scratch, *da = dy + pixels * z->k, *w = da + (int64_t)z->h * z->w * c;
    pack(w, a->w, z->dtype, c, 1, taps, c, z->k, taps * c);
    for (int i = 0; i < z->n; i++) {
        unpack(dy, z->k, a->dy, NULL, z->out, z->ly, pixels, z->k, 0, z->ldy, 0, i);
#pragma omp parallel for collapse(2)
        for (int k = 0; k < c; k += LANES) {
            for (int h = 0; h < z->h; h++) backward_input_row(z, h, k, dy, w, da);
        }
#pragma omp parallel for
        for (int k = 0; k < c; k++) backward_input_finish(z, a, i, k, da);
    }
}

// ---- backward to the weights. Scratch: one image of a and of dy, the sums over the images so far.
static size_t backward_weight_scratch(const Conv2dShape *z) {
    int64_t c = padded(z->c + z->c2);
    return sizeof(acc) * (size_t)((int64_t)z->h * z->w * c + (int64_t)z->p * z->q * z->k +
                                  (z->r * z->s * c + 1) * z->k);
}

// dw[k,r,s,:] (ld) += one image. dy (p,q) of channel k, x (h,w,ld).
static void backward_weight_tap(const Conv2dShape *z, int r, int s, const acc *dy, const acc *x, int64_t ld, acc *dw) {
    int q0 = 0, q1 = z->q;                                     // columns whose input lies inside the image
    while (q0 < q1 && q0 * z->stride + s - z->pad_w < 0) q0++;
    while (q1 > q0 && (q1 - 1) * z->stride + s - z->pad_w >= z->w) q1--;
    if (q0 == q1) return;
    for (int64_t c = 0; c < ld; c += LANES) {
        for (int p = 0; p < z->p; p++) {
            int h = p * z->stride + r - z->pad_h;
            if (h < 0 || h >= z->h) continue;
            int v = q0 * z->stride + s - z->pad_w;
            multiply_add(dw + c, dy + (int64_t)p * z->q + q0, x + ((int64_t)h * z->w + v) * ld + c, z->stride * ld,
                         q1 - q0);
        }
    }
}

static void backward_weight(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, Work work) {
    int64_t c = z->c + z->c2, ld = padded(c), taps = z->r * z->s, pixels = (int64_t)z->p * z->q;
    acc *x = work.scratch, *dy = x + (int64_t)z->h * z->w * ld, *dw = dy + pixels * z->k, *db = dw + z->k * taps * ld;
    for (int64_t j = 0; j < z->k * (taps * ld + 1); j++) dw[j] = 0;
    for (int i = 0; i < z->n; i++) {
        if (a->dw) load_input(z, a, i, x, ld);
#pragma omp parallel for
        for (int k = 0; k < z->k; k++) {
            acc sum = 0;
            for (int64_t p = 0; p < pixels; p++) {
                acc d = ref_load(a->dy, z->out, layout_index(z->ly, pixels, z->ldy, i, p, k));
                dy[k * pixels + p] = d;                        // (k,p,q): a channel's pixels side by side
                sum += d;
            }
            db[k] += sum;
            if (a->dtemb) a->dtemb[(int64_t)i * z->k + k] = (real)sum;
            for (int t = 0; a->dw && t < taps; t++) {
                backward_weight_tap(z, t / z->s, t % z->s, dy + k * pixels, x, ld, dw + (k * taps + t) * ld);
            }
        }
    }
    for (int64_t j = 0; a->dw && j < z->k * taps * c; j++) {
        acc before = a->accumulate ? (acc)a->dw[j] : 0;
        a->dw[j] = (real)(before + dw[j / c * ld + j % c]);
    }
    for (int k = 0; a->dbias && k < z->k; k++) {
        a->dbias[k] = (real)((a->accumulate ? (acc)a->dbias[k] : 0) + db[k]);
    }
}

IMPLS(conv2d_ref,
    IMPL_SCRATCH(conv2d_forward, "loops", forward_scratch, forward),
    IMPL_SCRATCH(conv2d_backward_input, "loops", backward_input_scratch, backward_input),
    IMPL_SCRATCH(conv2d_backward_weight, "loops", backward_weight_scratch, backward_weight))
