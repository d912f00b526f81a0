// eval/bootstrap.c - resampled KID and FID.
#include "eval/bootstrap.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "eval/frechet.h"
#include "eval/linalg.h"
#include "kernels/common/rng.h"

enum { BLOCK = 512, SIDE_REF = 0, SIDE_GEN = 1, PURPOSE = 0x626f6f74 };       // "boot": no other draw's purpose

// Row drawn as the i-th of a resample.
static int64_t drawn(uint64_t seed, int side, int resample, int64_t i, int64_t n) {
    uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    Philox p = philox(key, (uint32_t)(i / 2), (uint32_t)resample, (uint32_t)(i / 2 >> 32), PURPOSE + (uint32_t)side);
    uint64_t word = (uint64_t)p.v[i % 2 * 2] << 32 | p.v[i % 2 * 2 + 1];
    return (int64_t)(((unsigned __int128)word * (uint64_t)n) >> 64);
}

int64_t resampled_row(uint64_t seed, int resample, int64_t i, int64_t n) {
    return drawn(seed, SIDE_GEN, resample, i, n);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double percentile(const double *x, int n, double p) {
    double at = p * (n - 1);
    int below = (int)at;
    return below + 1 < n ? x[below] + (at - below) * (x[below + 1] - x[below]) : x[n - 1];
}

static Interval interval_of(double value, double *x, int n, double shift) {
    qsort(x, (size_t)n, sizeof *x, ascending);
    return (Interval){ value, percentile(x, n, 0.025) + shift, percentile(x, n, 0.975) + shift };
}

// ---- KID
typedef struct { Rows rows; float *weight; double *pairs; } Weighted;      // weight (n,columns); pairs (columns)

// Column 0 is the sample itself, column b how often resample b - 1 drew each row.
static Weighted weighted_of(Rows r, int columns, uint64_t seed, int side) {
    Weighted w = { r, xcalloc((size_t)(r.n * columns), sizeof(float)), xmalloc((size_t)columns * sizeof(double)) };
#pragma omp parallel for schedule(static)
    for (int b = 0; b < columns; b++) {
        double squares = 0;
        for (int64_t i = 0; i < r.n; i++) w.weight[(b ? drawn(seed, side, b - 1, i, r.n) : i) * columns + b]++;
        for (int64_t i = 0; i < r.n; i++) {
            double v = (double)w.weight[i * columns + b];
            squares += v * v;
        }
        w.pairs[b] = (double)r.n * (double)r.n - squares;
    }
    return w;
}

static void weighted_free(Weighted *w) {
    free(w->weight);
    free(w->pairs);
}

static void gather(Rows r, int64_t begin, int count, float *out) {
    int dim = r.f->dim;
    for (int i = 0; i < count; i++) {
        int64_t row = r.idx ? r.idx[begin + i] : begin + i;
        memcpy(out + (int64_t)i * dim, r.f->x + row * dim, (size_t)dim * sizeof *out);
    }
}

typedef struct { float *a, *b, *dot; double *k, *weight, *sum; } Buffers;

static Buffers buffers_new(int dim, int columns) {
    return (Buffers){ xmalloc((size_t)BLOCK * (size_t)dim * sizeof(float)),
                      xmalloc((size_t)BLOCK * (size_t)dim * sizeof(float)), xmalloc(BLOCK * BLOCK * sizeof(float)),
                      xmalloc(BLOCK * BLOCK * sizeof(double)),
                      xmalloc((size_t)BLOCK * (size_t)columns * sizeof(double)),
                      xmalloc((size_t)BLOCK * (size_t)columns * sizeof(double)) };
}

static void buffers_free(Buffers *w) {
    free(w->a);
    free(w->b);
    free(w->dot);
    free(w->k);
    free(w->weight);
    free(w->sum);
}

// out (columns) += factor sum_ij w_i w_j k(a_i, b_j) over one block of b; same: row i of a is row i of b, no pair.
static void add_block(const Weighted *b, int m, int64_t at, int columns, const float *wa, bool same, double factor,
                      Buffers *s, double *out) {
    int dim = b->rows.f->dim, n = (int)(b->rows.n - at < BLOCK ? b->rows.n - at : BLOCK);
    gather(b->rows, at, n, s->b);
    linalg_sgemm(false, true, m, n, dim, 1.0f / (float)dim, s->a, dim, s->b, dim, 0, s->dot, BLOCK);
    for (int i = 0; i < m; i++) {
        for (int j = 0; j < n; j++) {
            double t = (double)s->dot[i * BLOCK + j] + 1;
            s->k[i * BLOCK + j] = t * t * t;
        }
        if (same) s->k[i * BLOCK + i] = 0;
    }
    for (int64_t i = 0; i < (int64_t)n * columns; i++) s->weight[i] = (double)b->weight[at * columns + i];
    linalg_dgemm(false, false, m, columns, n, 1, s->k, BLOCK, s->weight, columns, 0, s->sum, columns);
    for (int64_t i = 0; i < m; i++)
        for (int c = 0; c < columns; c++)
            out[c] += factor * (double)wa[i * columns + c] * s->sum[i * columns + c];
}

// out (columns) = sum over all pairs of w_i w_j k(a_i, b_j), for each column of weights. a == b: i != j.
static void weighted_sums(const Weighted *a, const Weighted *b, int columns, double *out) {
    int64_t blocks = (a->rows.n + BLOCK - 1) / BLOCK;
    double *part = xcalloc((size_t)(blocks * columns), sizeof *part);
#pragma omp parallel
    {
        Buffers s = buffers_new(a->rows.f->dim, columns);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < blocks; i++) {
            int m = (int)(a->rows.n - i * BLOCK < BLOCK ? a->rows.n - i * BLOCK : BLOCK);
            const float *wa = a->weight + i * BLOCK * columns;
            gather(a->rows, i * BLOCK, m, s.a);
            for (int64_t at = a == b ? i * BLOCK : 0; at < b->rows.n; at += BLOCK) {
                bool same = a == b && at == i * BLOCK;
                add_block(b, m, at, columns, wa, same, a == b && !same ? 2 : 1, &s, part + i * columns);
            }
        }
        buffers_free(&s);
    }
    memset(out, 0, (size_t)columns * sizeof *out);
    for (int64_t i = 0; i < blocks; i++)
        for (int c = 0; c < columns; c++) out[c] += part[i * columns + c];
    free(part);
}

double kid_of_resamples(Rows ref, Rows gen, int resamples, uint64_t seed, double *x) {
    int columns = resamples + 1;
    Weighted r = weighted_of(ref, columns, seed, SIDE_REF), g = weighted_of(gen, columns, seed, SIDE_GEN);
    double *sums = xmalloc(3 * (size_t)columns * sizeof *sums), value = 0;
    weighted_sums(&r, &r, columns, sums);
    weighted_sums(&g, &g, columns, sums + columns);
    weighted_sums(&r, &g, columns, sums + 2 * columns);
    for (int c = 0; c < columns; c++) {
        double kid = sums[c] / r.pairs[c] + sums[columns + c] / g.pairs[c] -
                     2 * sums[2 * columns + c] / ((double)ref.n * (double)gen.n);
        bool paired = r.pairs[c] > 0 && g.pairs[c] > 0;           // of two rows, one may be drawn twice: no pair
        if (c == 0) value = kid;
        else x[c - 1] = paired ? kid : (double)NAN;
    }
    weighted_free(&r);
    weighted_free(&g);
    free(sums);
    return value;
}

Interval bootstrap_kid(Rows ref, Rows gen, int resamples, uint64_t seed) {
    double *x = xmalloc((size_t)(resamples + 1) * sizeof *x), value = kid_of_resamples(ref, gen, resamples, seed, x);
    int kept = 0;
    for (int b = 0; b < resamples; b++)
        if (isfinite(x[b])) x[kept++] = x[b];
    Interval out = { value, (double)NAN, (double)NAN };
    if (kept) out = interval_of(value, x, kept, 0);
    free(x);
    return out;
}

double bootstrap_kid_cost(int64_t n_ref, int64_t n_gen, int dim, int resamples) {
    double r = (double)n_ref, g = (double)n_gen;
    return (r * r / 2 + g * g / 2 + r * g) * (2.0 * dim + 2.0 * (resamples + 1));
}

// ---- FID
static double fid_of_resample(Rows ref, Rows gen, bool by_rows, uint64_t seed, int resample, int64_t *r, int64_t *g) {
    for (int64_t i = 0; i < ref.n; i++) {
        r[i] = drawn(seed, SIDE_REF, resample, i, ref.n);
        if (ref.idx) r[i] = ref.idx[r[i]];
    }
    for (int64_t i = 0; i < gen.n; i++) {
        g[i] = drawn(seed, SIDE_GEN, resample, i, gen.n);
        if (gen.idx) g[i] = gen.idx[g[i]];
    }
    if (by_rows) return frechet_distance_rows(gen.f, g, gen.n, ref.f, r, ref.n);
    Gaussian a, b;
    gaussian_fit(gen.f, g, gen.n, &a);
    gaussian_fit(ref.f, r, ref.n, &b);
    double fid = frechet_distance(&a, &b);
    gaussian_free(&a);
    gaussian_free(&b);
    return fid;
}

void fid_of_resamples(Rows ref, Rows gen, bool by_rows, int resamples, uint64_t seed, double *x) {
    int threads = frechet_threads(ref.n, gen.n, ref.f->dim, by_rows);
#pragma omp parallel num_threads(threads)
    {
        int64_t *r = xmalloc((size_t)ref.n * sizeof *r), *g = xmalloc((size_t)gen.n * sizeof *g);
#pragma omp for schedule(dynamic, 1)
        for (int b = 0; b < resamples; b++) x[b] = fid_of_resample(ref, gen, by_rows, seed, b, r, g);
        free(r);
        free(g);
    }
}

Interval bootstrap_fid(Rows ref, Rows gen, double value, bool by_rows, int resamples, uint64_t seed) {
    double *x = xmalloc((size_t)resamples * sizeof *x), mean = 0;
    fid_of_resamples(ref, gen, by_rows, resamples, seed, x);
    for (int b = 0; b < resamples; b++) mean += x[b] / resamples;
    Interval out = interval_of(value, x, resamples, value - mean);
    if (out.low < 0) out.low = 0;
    free(x);
    return out;
}

// Eigenvalues and singular values run at about a tenth of the speed of products: their operations count tenfold.
double bootstrap_fid_cost(int64_t n_ref, int64_t n_gen, int dim, bool by_rows, int resamples) {
    double r = (double)n_ref, g = (double)n_gen, d = dim, few = r < g ? r : g, many = r < g ? g : r;
    double one = by_rows ? 2 * r * g * d + 10 * (2 * few * few * many + few * few * few)
                         : 1.2 * (r + g) * d * d + 10 * 10 * d * d * d;
    return one * resamples;
}
