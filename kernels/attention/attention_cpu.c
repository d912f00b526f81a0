// kernels/attention/attention_cpu.c - softmax attention on matrix products, one image and head at a time.
//   forward   s = scale q k^T,  lse = log(sum exp(s)),  p = exp(s) / sum,  o = p v
//   backward  p = exp(scale q k^T - lse),  ds = p (d_o v^T - rowsum(d_o o)),
//             dv = p^T d_o,  dq = scale ds k,  dk = scale ds^T q
// Rows of s come in bands, so that a band stays in the cache and scratch grows with t, not with its square. Heads in
// NHWC are matrices as they lie; in C16 they are copied out and results back.
// Where there are as many heads (of all images) as threads, each thread takes whole heads; else one head at a time and
// the products share the threads. Scratch: one set per thread. The number of threads must not grow between planning and
// running.
#include "kernels/attention/attention.h"
#include "kernels/common/cpu.h"
#include "kernels/common/onednn.h"

enum { BAND_FLOATS = 1 << 16 };   // of s: 256 KiB

static bool can(const AttentionShape *z) { return z->dtype == DT_F32; }

// ---- what both directions share
static int band_rows(const AttentionShape *z) {
    int64_t rows = BAND_FLOATS / z->t;
    return (int)cpu_min(z->t, rows < 16 ? 16 : rows);
}
static int scratch_sets(const AttentionShape *z) {
    int64_t heads = (int64_t)z->n * z->heads, threads = omp_get_max_threads();
    return heads >= threads ? (int)threads : 1;
}
// Bytes of `matrices` copies of (t,c), where the layout asks for them, and `bands` of (band,t), for each set.
static size_t scratch_bytes(const AttentionShape *z, int matrices, int bands) {
    size_t copies = z->layout == LAYOUT_C16 ? (size_t)matrices * (size_t)z->t * (size_t)z->c : 0;
    return (copies + (size_t)bands * (size_t)band_rows(z) * (size_t)z->t) * sizeof(float);
}

typedef struct { float *p; int ld; } Matrix;   // (t,c)

static int64_t head_at(const AttentionShape *z, int ld, int i, int head) {
    return layout_index(LAYOUT_NHWC, z->t, ld, i, 0, (int64_t)head * z->c);
}

// The head's part of x for writing: where it lies, or in C16 the next piece of scratch.
static Matrix head_place(const AttentionShape *z, void *x, int ld, int i, int head, float **scratch) {
    if (z->layout == LAYOUT_NHWC) return (Matrix){ (float *)x + head_at(z, ld, i, head), ld };
    Matrix m = { *scratch, z->c };
    *scratch += (int64_t)z->t * z->c;
    return m;
}

// In C16: copies between a head of x and m. Heads of whole blocks go block by block.
static void head_copy(const AttentionShape *z, float *x, int ld, int i, int head, Matrix m, bool out) {
    if (z->layout == LAYOUT_NHWC) return;
    int k0 = head * z->c, run = z->c % 16 ? 1 : 16;
    #pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < z->t; t++) {
        for (int k = 0; k < z->c; k += run) {
            float *from = m.p + t * m.ld + k, *to = x + layout_index(LAYOUT_C16, z->t, ld, i, t, k0 + k);
            if (run == 1) *(out ? to : from) = *(out ? from : to);
            else          memcpy(out ? to : from, out ? from : to, 16 * sizeof *to);
        }
    }
}
static Matrix head_read(const AttentionShape *z, const void *x, int ld, int i, int head, float **scratch) {
    union { const void *read; void *any; } u = { x };            // a Matrix is for both; this one is only read
    Matrix m = head_place(z, u.any, ld, i, head, scratch);
    head_copy(z, u.any, ld, i, head, m, false);
    return m;
}

// y (m,n) = alpha op(a) op(b) + beta y
static void product(Matrix y, int m, int n, bool ta, Matrix a, bool tb, Matrix b, int k, float alpha, float beta) {
    bool ok = onednn_sgemm(ta, tb, m, n, k, alpha, a.p, a.ld, b.p, b.ld, beta, y.p, y.ld);
    CHECK(ok, "attention: oneDNN refused the product (%d,%d,%d)", m, n, k);
}
static Matrix rows_from(Matrix m, int64_t row) { return (Matrix){ m.p + row * m.ld, m.ld }; }

// ---- forward
static size_t forward_set(const AttentionShape *z) { return scratch_bytes(z, 4, 1); }
static size_t forward_scratch(const AttentionShape *z) { return (size_t)scratch_sets(z) * forward_set(z); }

// A row of s -> p; returns lse. The maximum is taken out first, so that no exponential overflows.
static float softmax_row(float *s, int t) {
    float top = cpu_max(s, t), sum = 0;
    #pragma omp simd reduction(+ : sum)
    for (int j = 0; j < t; j++) {
        s[j] = cpu_exp(s[j] - top);
        sum += s[j];
    }
    float scale = 1.0f / sum;
    #pragma omp simd
    for (int j = 0; j < t; j++) s[j] *= scale;
    return (float)((double)top + log((double)sum));
}

static void forward_head(const AttentionShape *z, const AttentionForwardArgs *a, int i, int head, float *scratch) {
    int t = z->t, band = band_rows(z);
    Matrix q = head_read(z, a->q, z->ldq, i, head, &scratch), k = head_read(z, a->k, z->ldk, i, head, &scratch);
    Matrix v = head_read(z, a->v, z->ldv, i, head, &scratch), o = head_place(z, a->o, z->ldo, i, head, &scratch);
    Matrix s = { scratch, t };
    float *lse = a->lse + ((int64_t)i * z->heads + head) * t;
    for (int row = 0; row < t; row += band) {
        int rows = (int)cpu_min(band, t - row);
        product(s, rows, t, false, rows_from(q, row), true, k, z->c, z->scale, 0);
        #pragma omp parallel for schedule(static)
        for (int r = 0; r < rows; r++) lse[row + r] = softmax_row(s.p + (int64_t)r * t, t);
        product(rows_from(o, row), rows, z->c, false, s, false, v, t, 1, 0);
    }
    head_copy(z, a->o, z->ldo, i, head, o, true);
}

static void forward(Stream *st, const AttentionShape *z, const AttentionForwardArgs *a, Work w) {
    int sets = scratch_sets(z);
    #pragma omp parallel for schedule(static) num_threads(sets) if (sets > 1)
    for (int task = 0; task < z->n * z->heads; task++) {
        float *scratch = (float *)w.scratch + (size_t)omp_get_thread_num() * (forward_set(z) / sizeof(float));
        forward_head(z, a, task / z->heads, task % z->heads, scratch);
    }
}

// ---- backward
static size_t backward_set(const AttentionShape *z) { return scratch_bytes(z, 8, 2); }
static size_t backward_scratch(const AttentionShape *z) { return (size_t)scratch_sets(z) * backward_set(z); }

// A row: s -> p, dp -> ds.
static void softmax_backward_row(float *s, float *dp, const float *d_o, const float *o, float lse, int t, int c) {
    float inner = 0;
    #pragma omp simd reduction(+ : inner)
    for (int k = 0; k < c; k++) inner += d_o[k] * o[k];
    #pragma omp simd
    for (int j = 0; j < t; j++) {
        s[j] = cpu_exp(s[j] - lse);
        dp[j] = s[j] * (dp[j] - inner);
    }
}

static void backward_head(const AttentionShape *z, const AttentionBackwardArgs *a, int i, int head, float *scratch) {
    int t = z->t, c = z->c, band = band_rows(z);
    Matrix q = head_read(z, a->q, z->ldq, i, head, &scratch), k = head_read(z, a->k, z->ldk, i, head, &scratch);
    Matrix v = head_read(z, a->v, z->ldv, i, head, &scratch), o = head_read(z, a->o, z->ldo, i, head, &scratch);
    Matrix d_o = head_read(z, a->d_o, z->ldo, i, head, &scratch), dq = head_place(z, a->dq, z->ldq, i, head, &scratch);
    Matrix dk = head_place(z, a->dk, z->ldk, i, head, &scratch), dv = head_place(z, a->dv, z->ldv, i, head, &scratch);
    Matrix p = { scratch, t }, ds = { scratch + (int64_t)band * t, t };
    const float *lse = a->lse + ((int64_t)i * z->heads + head) * t;
    for (int row = 0; row < t; row += band) {
        int rows = (int)cpu_min(band, t - row);
        float beta = row ? 1 : 0;                      // dk and dv gather over the bands
        Matrix qb = rows_from(q, row), d_ob = rows_from(d_o, row), ob = rows_from(o, row);
        product(p, rows, t, false, qb, true, k, c, z->scale, 0);
        product(ds, rows, t, false, d_ob, true, v, c, 1, 0);
        #pragma omp parallel for schedule(static)
        for (int r = 0; r < rows; r++) {
            softmax_backward_row(p.p + (int64_t)r * t, ds.p + (int64_t)r * t, d_ob.p + (int64_t)r * d_ob.ld,
                                 ob.p + (int64_t)r * ob.ld, lse[row + r], t, c);
        }
        product(dv, t, c, true, p, false, d_ob, rows, 1, beta);
        product(rows_from(dq, row), rows, c, false, ds, false, k, t, z->scale, 0);
        product(dk, t, c, true, ds, false, qb, rows, z->scale, beta);
    }
    head_copy(z, a->dq, z->ldq, i, head, dq, true);
    head_copy(z, a->dk, z->ldk, i, head, dk, true);
    head_copy(z, a->dv, z->ldv, i, head, dv, true);
}

static void backward(Stream *st, const AttentionShape *z, const AttentionBackwardArgs *a, Work w) {
    int sets = scratch_sets(z);
    #pragma omp parallel for schedule(static) num_threads(sets) if (sets > 1)
    for (int task = 0; task < z->n * z->heads; task++) {
        float *scratch = (float *)w.scratch + (size_t)omp_get_thread_num() * (backward_set(z) / sizeof(float));
        backward_head(z, a, task / z->heads, task % z->heads, scratch);
    }
}

// ---- registration
IMPLS(attention_cpu,
    IMPL_FULL(attention_forward, "bands", 100, 0, 0, can, forward_scratch, NULL, forward, NULL),
    IMPL_FULL(attention_backward, "bands", 100, 0, 0, can, backward_scratch, NULL, backward, NULL))
