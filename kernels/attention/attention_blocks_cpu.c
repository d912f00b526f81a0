// kernels/attention/attention_blocks_cpu.c - softmax attention in blocks of 16 channels, without copies (AVX-512).
//   forward   s = scale q k^T,  lse = log(sum exp(s)),  p = exp(s) / sum,  o = p v
//   backward  p = exp(scale q k^T - lse),  ds = p (d_o v^T - rowsum(d_o o)),
//             dv = p^T d_o,  dq = scale ds k,  dk = scale ds^T q
// Every matrix lies in panels of 16 columns, (columns / 16, rows, 16): so does a head in C16, so are s and ds made, in
// bands of rows that stay in the second-level cache; columns beyond the last token are never read as tokens. A product
// takes eight rows of its left factor, number by number, and two panels of its right one, vector by vector. Where it
// runs over channels (s, d_o v^T), the right factor is transposed first. Sums have one order, whatever the number of
// threads.
// A task of the forward pass is a band of a head, of the backward pass a head. Scratch: one set per thread. The number
// of threads must not grow between planning and running.
#include "kernels/attention/attention.h"
#include "kernels/common/cpu_avx512.h"

#ifdef VEC_INLINE
enum {
    VEC = 16,
    ROWS = 8,                 // rows and
    PANELS = 2,               // panels of the result that a product keeps in registers
    BAND_FLOATS = 1 << 16,    // of s: 256 KiB
    MIN_HEADS = 8,            // of all images: fewer are better shared by the threads (attention_cpu.c)
};

static bool can(const AttentionShape *z) {
    return z->dtype == DT_F32 && z->layout == LAYOUT_C16 && z->c % VEC == 0 && z->n * z->heads >= MIN_HEADS;
}

// ---- products
// A left factor: x(r,k) at at + k / 16 * panel + r * 16 + k % 16, or, `turned`, the transpose of such a matrix.
typedef struct { const float *at; int64_t panel; bool turned; } Left;
// A right factor, and a result: panels (rows,16) that lie `panel` apart.
typedef struct { const float *at; int64_t panel; } Right;
typedef struct { float *at; int64_t panel; } Panels;

// One step of the sum: number k of each row of a block of x, row k of a block of w.
VEC_INLINE void product_step(Vec sum[ROWS][PANELS], const float *x, bool turned, const Right *w, int k, int rows,
                             int panels) {
    Vec row[PANELS];
    #pragma GCC unroll 2
    for (int v = 0; v < panels; v++) row[v] = vec_load(w->at + k * VEC + v * w->panel);
    #pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        Vec factor = vec_fill(turned ? x[k * VEC + r] : x[r * VEC + k]);
        #pragma GCC unroll 2
        for (int v = 0; v < panels; v++) sum[r][v] = vec_fma(factor, row[v], sum[r][v]);
    }
}

// y (rows, 16 panels) = or += scale x w, summed over n. Meanwhile as many rows that follow in x come into the
// first-level cache: in runs of 512 bytes, too short for the processor to foresee them.
VEC_INLINE void product_tile(Panels y, Left x, bool turned, Right w, int n, int rows, int panels, float scale,
                             bool accumulate) {
    Vec sum[ROWS][PANELS];
    #pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        #pragma GCC unroll 2
        for (int v = 0; v < panels; v++) sum[r][v] = vec_fill(0);
    }
    for (; n >= VEC; n -= VEC, x.at += turned ? VEC * VEC : x.panel, w.at += VEC * VEC) {
        for (int r = 0; !turned && r < rows; r++) _mm_prefetch((const char *)(x.at + (rows + r) * VEC), _MM_HINT_T0);
        #pragma GCC unroll 4
        for (int k = 0; k < VEC; k++) product_step(sum, x.at, turned, &w, k, rows, panels);
    }
    for (int k = 0; k < n; k++) product_step(sum, x.at, turned, &w, k, rows, panels);
    #pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        #pragma GCC unroll 2
        for (int v = 0; v < panels; v++) {
            float *to = y.at + r * VEC + v * y.panel;
            Vec scaled = vec_mul(vec_fill(scale), sum[r][v]);
            vec_store(to, accumulate ? vec_add(vec_load(to), scaled) : scaled);
        }
    }
}

VEC_INLINE void product_panels(Panels y, int rows, int panels, Left x, bool turned, Right w, int n, float scale,
                               bool accumulate) {
    for (int r = 0; r < rows;) {
        Panels to = { y.at + r * VEC, y.panel };
        Left xr = { x.at + (turned ? r / VEC * x.panel + r % VEC : r * VEC), x.panel, turned };
        if (rows - r >= ROWS) {
            product_tile(to, xr, turned, w, n, ROWS, panels, scale, accumulate);
            r += ROWS;
        } else if (rows - r >= 4) {
            product_tile(to, xr, turned, w, n, 4, panels, scale, accumulate);
            r += 4;
        } else {
            product_tile(to, xr, turned, w, n, 1, panels, scale, accumulate);
            r++;
        }
    }
}
VEC_INLINE void product_any(Panels y, int rows, int panels, Left x, bool turned, Right w, int n, float scale,
                            bool accumulate) {
    for (int v = 0; v < panels; v += PANELS) {
        Panels to = { y.at + v * y.panel, y.panel };
        Right wv = { w.at + v * w.panel, w.panel };
        if (v + PANELS <= panels) product_panels(to, rows, PANELS, x, turned, wv, n, scale, accumulate);
        else                      product_panels(to, rows, 1, x, turned, wv, n, scale, accumulate);
    }
}
// y (rows, 16 panels) = or += scale x w, over n.
static void product(Panels y, int rows, int panels, Left x, Right w, int n, float scale, bool accumulate) {
    if (x.turned) product_any(y, rows, panels, x, true, w, n, scale, accumulate);
    else          product_any(y, rows, panels, x, false, w, n, scale, accumulate);
}

// ---- what both directions share
static int band_rows(const AttentionShape *z) {
    int64_t rows = BAND_FLOATS / z->t / VEC * VEC;
    return (int)cpu_min(z->t, rows < VEC ? VEC : rows);
}
// Floats from panel to panel of s, p, ds: a row's vectors must not all fall into the same set of a cache.
static int64_t band_panel(const AttentionShape *z) { return (int64_t)(band_rows(z) + 1) * VEC; }
static int     token_panels(const AttentionShape *z) { return (z->t + VEC - 1) / VEC; }
static int64_t band_floats(const AttentionShape *z) { return band_panel(z) * token_panels(z); }
static int64_t turned_floats(const AttentionShape *z) { return (int64_t)token_panels(z) * VEC * z->c; }

static int64_t head_at(const AttentionShape *z, int ld, int i, int head) {
    return layout_index(LAYOUT_C16, z->t, ld, i, 0, (int64_t)head * z->c);
}
// The head of a tensor, from row `row` on, as a left or a right factor.
static Left head_left(const AttentionShape *z, const void *x, int ld, int i, int head, int row) {
    return (Left){ (const float *)x + head_at(z, ld, i, head) + row * VEC, (int64_t)z->t * VEC, false };
}
static Right head_right(const AttentionShape *z, const void *x, int ld, int i, int head, int row) {
    return (Right){ (const float *)x + head_at(z, ld, i, head) + row * VEC, (int64_t)z->t * VEC };
}
static Panels head_panels(const AttentionShape *z, void *x, int ld, int i, int head, int row) {
    return (Panels){ (float *)x + head_at(z, ld, i, head) + row * VEC, (int64_t)z->t * VEC };
}

// to (t / 16, c, 16): the transpose of a head; beyond the last token 0.
static Right head_transpose(const AttentionShape *z, const void *x, int ld, int i, int head, float *to) {
    const float *from = (const float *)x + head_at(z, ld, i, head);
    for (int k = 0; k < z->c; k += VEC, from += z->t * VEC) {
        for (int t = 0; t < z->t; t += VEC) {
            Vec block[VEC];
            for (int j = 0; j < VEC; j++) block[j] = t + j < z->t ? vec_load(from + (t + j) * VEC) : vec_fill(0);
            vec_transpose(block);
            for (int j = 0; j < VEC; j++) vec_store(to + (int64_t)t * z->c + (k + j) * VEC, block[j]);
        }
    }
    return (Right){ to, (int64_t)z->c * VEC };
}

// ---- forward
static int64_t forward_set(const AttentionShape *z) { return turned_floats(z) + band_floats(z); }
static size_t forward_scratch(const AttentionShape *z) {
    return (size_t)omp_get_max_threads() * (size_t)forward_set(z) * sizeof(float);
}

// A row of s (t), its vectors `panel` apart -> p; returns lse. The maximum is taken out first, so that no exponential
// overflows.
static float softmax_row(float *s, int64_t panel, int t) {
    int panels = (t + VEC - 1) / VEC;
    __mmask16 last = (__mmask16)(0xFFFFu >> (panels * VEC - t));          // lanes of the last vector
    Vec top = vec_fill(*s), sum = vec_fill(0);
    for (int v = 0; v < panels; v++) {
        top = _mm512_mask_max_ps(top, v + 1 < panels ? 0xFFFF : last, top, vec_load(s + v * panel));
    }
    float highest = _mm512_reduce_max_ps(top);
    for (int v = 0; v < panels; v++) {
        Vec e = vec_exp_neg(vec_sub(vec_fill(highest), vec_load(s + v * panel)));
        vec_store(s + v * panel, e);
        sum = _mm512_mask_add_ps(sum, v + 1 < panels ? 0xFFFF : last, sum, e);
    }
    float total = _mm512_reduce_add_ps(sum);
    Vec scale = vec_fill(1.0f / total);
    for (int v = 0; v < panels; v++) vec_store(s + v * panel, vec_mul(vec_load(s + v * panel), scale));
    return (float)((double)highest + log((double)total));
}

// Rows row..row+rows-1 of a head. kt: its keys, transposed.
static void forward_band(const AttentionShape *z, const AttentionForwardArgs *a, int i, int head, int row, int rows,
                         Right kt, float *scratch) {
    Panels s = { scratch, band_panel(z) };
    float *lse = a->lse + ((int64_t)i * z->heads + head) * z->t + row;
    product(s, rows, token_panels(z), head_left(z, a->q, z->ldq, i, head, row), kt, z->c, z->scale, false);
    for (int r = 0; r < rows; r++) lse[r] = softmax_row(s.at + r * VEC, s.panel, z->t);
    product(head_panels(z, a->o, z->ldo, i, head, row), rows, z->c / VEC, (Left){ s.at, s.panel, false },
            head_right(z, a->v, z->ldv, i, head, 0), z->t, 1, false);
}

static void forward(Stream *st, const AttentionShape *z, const AttentionForwardArgs *a, Work w) {
    int band = band_rows(z), bands = (z->t + band - 1) / band;
    #pragma omp parallel
    {
        float *scratch = (float *)w.scratch + omp_get_thread_num() * forward_set(z);
        Right kt = { 0 };
        int ready = -1;                                // the head whose keys this thread has transposed
        #pragma omp for schedule(static)
        for (int task = 0; task < z->n * z->heads * bands; task++) {
            int which = task / bands, i = which / z->heads, head = which % z->heads, row = task % bands * band;
            if (which != ready) kt = head_transpose(z, a->k, z->ldk, i, head, scratch);
            ready = which;
            forward_band(z, a, i, head, row, (int)cpu_min(band, z->t - row), kt, scratch + turned_floats(z));
        }
    }
}

// ---- backward
static int64_t backward_set(const AttentionShape *z) { return 2 * (turned_floats(z) + band_floats(z)); }
static size_t backward_scratch(const AttentionShape *z) {
    return (size_t)omp_get_max_threads() * (size_t)backward_set(z) * sizeof(float);
}

// Rows of s -> p, of dp -> ds. d_o, o: of the same rows; inner products over channels.
static void softmax_backward(const AttentionShape *z, Panels s, Panels dp, Left d_o, Left o, const float *lse,
                             int rows) {
    for (int r = 0; r < rows; r++) {
        Vec sum = vec_fill(0), minus = vec_fill(lse[r]);
        for (int k = 0; k < z->c / VEC; k++) {
            Vec of_o = vec_load(o.at + k * o.panel + r * VEC);
            sum = vec_fma(vec_load(d_o.at + k * d_o.panel + r * VEC), of_o, sum);
        }
        Vec inner = vec_fill(_mm512_reduce_add_ps(sum));
        for (int v = 0; v < token_panels(z); v++) {
            float *s_row = s.at + v * s.panel + r * VEC, *dp_row = dp.at + v * dp.panel + r * VEC;
            Vec p = vec_exp_neg(vec_sub(minus, vec_load(s_row)));
            vec_store(s_row, p);
            vec_store(dp_row, vec_mul(p, vec_sub(vec_load(dp_row), inner)));
        }
    }
}

static void backward_head(const AttentionShape *z, const AttentionBackwardArgs *a, int i, int head, float *scratch) {
    int t = z->t, c = z->c, band = band_rows(z), panels = c / VEC;
    Right kt = head_transpose(z, a->k, z->ldk, i, head, scratch);
    Right vt = head_transpose(z, a->v, z->ldv, i, head, scratch + turned_floats(z));
    Panels p = { scratch + 2 * turned_floats(z), band_panel(z) }, ds = { p.at + band_floats(z), p.panel };
    const float *lse = a->lse + ((int64_t)i * z->heads + head) * t;
    for (int row = 0; row < t; row += band) {
        int rows = (int)cpu_min(band, t - row);
        bool gather = row > 0;                         // dk and dv gather over the bands
        Left d_o = head_left(z, a->d_o, z->ldo, i, head, row);
        product(p, rows, token_panels(z), head_left(z, a->q, z->ldq, i, head, row), kt, c, z->scale, false);
        product(ds, rows, token_panels(z), d_o, vt, c, 1, false);
        softmax_backward(z, p, ds, d_o, head_left(z, a->o, z->ldo, i, head, row), lse + row, rows);
        product(head_panels(z, a->dv, z->ldv, i, head, 0), t, panels, (Left){ p.at, p.panel, true },
                head_right(z, a->d_o, z->ldo, i, head, row), rows, 1, gather);
        product(head_panels(z, a->dq, z->ldq, i, head, row), rows, panels, (Left){ ds.at, ds.panel, false },
                head_right(z, a->k, z->ldk, i, head, 0), t, z->scale, false);
        product(head_panels(z, a->dk, z->ldk, i, head, 0), t, panels, (Left){ ds.at, ds.panel, true },
                head_right(z, a->q, z->ldq, i, head, row), rows, z->scale, gather);
    }
}

static void backward(Stream *st, const AttentionShape *z, const AttentionBackwardArgs *a, Work w) {
    #pragma omp parallel for schedule(static)
    for (int task = 0; task < z->n * z->heads; task++) {
        float *scratch = (float *)w.scratch + omp_get_thread_num() * backward_set(z);
        backward_head(z, a, task / z->heads, task % z->heads, scratch);
    }
}
#else
static bool   can(const AttentionShape *z) { return false; }
static size_t forward_scratch(const AttentionShape *z) { return 0; }
static size_t backward_scratch(const AttentionShape *z) { return 0; }
static void   forward(Stream *st, const AttentionShape *z, const AttentionForwardArgs *a, Work w) {}
static void   backward(Stream *st, const AttentionShape *z, const AttentionBackwardArgs *a, Work w) {}
#endif

// ---- registration
IMPLS(attention_blocks_cpu,
    IMPL_FULL(attention_forward, "blocks", 50, 0, 0, can, forward_scratch, NULL, forward, NULL),
    IMPL_FULL(attention_backward, "blocks", 50, 0, 0, can, backward_scratch, NULL, backward, NULL))
