// eval/frechet.c - Gaussian fits and the distance between them.
//
// All sums are in double and in a fixed order: work is cut into tiles of fixed size, each of which one thread computes
// from the first row to the last. So the result does not depend on the number of threads.
#include "eval/frechet.h"

#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "eval/linalg.h"

#ifndef FRECHET_PRODUCT_MAX
#define FRECHET_PRODUCT_MAX (1 << 24)   // elements of an (n1,n2) product that is kept whole: 128 MB. A test lowers it
#endif
enum {
    TILE = 256,                     // of a product
    BLOCK_ROWS = 512,               // rows centred at a time
    COLUMNS = 64,                   // of a sum of rows
};

static const float *row_of(const Features *f, const int64_t *rows, int64_t i) {
    return f->x + (rows ? rows[i] : i) * f->dim;
}

static void mean_of(const Features *f, const int64_t *rows, int64_t n, double *mu) {
    int dim = f->dim;
#pragma omp parallel for schedule(static)
    for (int from = 0; from < dim; from += COLUMNS) {
        int to = from + COLUMNS < dim ? from + COLUMNS : dim;
        for (int k = from; k < to; k++) mu[k] = 0;
        for (int64_t i = 0; i < n; i++) {
            const float *x = row_of(f, rows, i);
            for (int k = from; k < to; k++) mu[k] += (double)x[k];
        }
        for (int k = from; k < to; k++) mu[k] /= (double)n;
    }
}

// out (n,dim) = scale (x - mu) of rows begin to begin + n.
static void centred(const Features *f, const int64_t *rows, int64_t begin, int64_t n, const double *mu, double scale,
                    double *out) {
    int dim = f->dim;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const float *x = row_of(f, rows, begin + i);
        for (int k = 0; k < dim; k++) out[i * dim + k] = scale * ((double)x[k] - mu[k]);
    }
}

// c (m,n) = op(a) op(b) + beta c, tile by tile on all threads. symmetric: only tiles that touch the lower triangle.
typedef struct {
    bool ta, tb, symmetric;
    int m, n, k, lda, ldb, ldc;
    const double *a, *b;
    double beta, *c;
} Product;

static void product_run(const Product *p) {
    int rows = (p->m + TILE - 1) / TILE, columns = (p->n + TILE - 1) / TILE;
#pragma omp parallel for schedule(dynamic, 1)
    for (int t = 0; t < rows * columns; t++) {
        int i = t / columns * TILE, j = t % columns * TILE;
        if (p->symmetric && j > i) continue;
        int m = p->m - i < TILE ? p->m - i : TILE, n = p->n - j < TILE ? p->n - j : TILE;
        linalg_dgemm(p->ta, p->tb, m, n, p->k, 1, p->a + (p->ta ? i : (int64_t)i * p->lda), p->lda,
                     p->b + (p->tb ? (int64_t)j * p->ldb : j), p->ldb, p->beta, p->c + (int64_t)i * p->ldc + j, p->ldc);
    }
}

void gaussian_fit(const Features *f, const int64_t *rows, int64_t n_rows, Gaussian *out) {
    int64_t n = rows ? n_rows : f->n;
    int dim = f->dim;
    size_t square = (size_t)dim * (size_t)dim;
    CHECK(n >= 2, "a covariance of %" PRId64 " rows", n);
    *out = (Gaussian){ .n = n, .dim = dim, .mu = xmalloc((size_t)dim * sizeof(double)),
                       .sigma = xcalloc(square, sizeof(double)) };
    mean_of(f, rows, n, out->mu);
    double *block = xmalloc((size_t)(n < BLOCK_ROWS ? n : BLOCK_ROWS) * (size_t)dim * sizeof *block);
    for (int64_t begin = 0; begin < n; begin += BLOCK_ROWS) {
        int k = (int)(n - begin < BLOCK_ROWS ? n - begin : BLOCK_ROWS);
        centred(f, rows, begin, k, out->mu, 1, block);
        product_run(&(Product){ .ta = true, .symmetric = true, .m = dim, .n = dim, .k = k, .a = block, .b = block,
                                .lda = dim, .ldb = dim, .beta = 1, .c = out->sigma, .ldc = dim });
    }
    free(block);
    double scale = 1 / (double)(n - 1);
    for (int i = 0; i < dim; i++)
        for (int j = 0; j <= i; j++)
            out->sigma[(size_t)j * (size_t)dim + (size_t)i] = out->sigma[(size_t)i * (size_t)dim + (size_t)j] *= scale;
}

void gaussian_free(Gaussian *g) {
    free(g->mu);
    free(g->sigma);
    memset(g, 0, sizeof *g);
}

// ---- files
// An array of doubles, all finite; NULL: *err.
static double *parse_doubles(const uint8_t *npz, size_t npz_n, const char *path, const char *name, NpyArray *a,
                             Error *err) {
    uint8_t *member;
    if (!npz_parse(npz, npz_n, path, name, &member, a, err)) return NULL;
    bool f4 = strcmp(a->descr, "<f4") == 0, finite = true;
    size_t bytes, n = 0;
    if ((!f4 && strcmp(a->descr, "<f8") != 0) || !npy_data_bytes(a, &bytes)) {
        error_set(err, ERR_FILE, "%s: %s of type \"%s\", where floats are needed", path, name, a->descr);
        free(member);
        return NULL;
    }
    n = bytes / npy_item_size(a->descr);
    double *out = xmalloc(n * sizeof *out + 1);
    for (size_t i = 0; i < n; i++) {
        float v4 = 0;
        if (f4) memcpy(&v4, (const char *)a->data + 4 * i, 4), out[i] = (double)v4;
        else memcpy(&out[i], (const char *)a->data + 8 * i, 8);
        finite &= isfinite(out[i]) != 0;
    }
    free(member);
    if (finite) return out;
    error_set(err, ERR_FILE, "%s: %s holds values that are not finite", path, name);
    free(out);
    return NULL;
}

// Symmetric as far as rounding to floats may leave it, and no negative variance.
static bool is_covariance(const double *s, int64_t dim) {
    for (int64_t i = 0; i < dim; i++) {
        if (s[i * dim + i] < 0) return false;
        for (int64_t j = 0; j < i; j++) {
            double bound = 1e-5 * sqrt(s[i * dim + i]) * sqrt(s[j * dim + j]) + 1e-12;
            if (fabs(s[i * dim + j] - s[j * dim + i]) > bound) return false;
        }
    }
    return true;
}

bool gaussian_parse(const uint8_t *bytes, size_t n, const char *where, Gaussian *out, Error *err) {
    NpyArray mu = { 0 }, sigma = { 0 };
    Gaussian g = { 0 };
    bool ok = (g.mu = parse_doubles(bytes, n, where, "mu", &mu, err)) &&
              (g.sigma = parse_doubles(bytes, n, where, "sigma", &sigma, err));
    if (ok && (mu.ndim != 1 || mu.shape[0] < 1 || mu.shape[0] > INT32_MAX || sigma.ndim != 2 ||
               sigma.shape[0] != mu.shape[0] || sigma.shape[1] != mu.shape[0]))
        ok = error_set(err, ERR_FILE, "%s: mu must be a vector and sigma the square matrix of the same size", where);
    if (ok && !is_covariance(g.sigma, mu.shape[0]))
        ok = error_set(err, ERR_FILE, "%s: sigma is no covariance: not symmetric, or with a negative variance", where);
    g.dim = ok ? (int)mu.shape[0] : 0;
    if (ok) *out = g;
    else gaussian_free(&g);
    return ok;
}

bool gaussian_read(const char *path, Gaussian *out, Error *err) {
    uint8_t *bytes;
    size_t n;
    if (!file_read(path, SIZE_MAX - 1, &bytes, &n, err)) return false;
    bool ok = gaussian_parse(bytes, n, path, out, err);
    free(bytes);
    return ok;
}

bool gaussian_write(const char *path, const Gaussian *g, Error *err) {
    static const char *const names[] = { "mu", "sigma", "n" };
    NpyArray a[3] = { { .descr = "<f8", .ndim = 1, .shape = { g->dim }, .data = g->mu },
                      { .descr = "<f8", .ndim = 2, .shape = { g->dim, g->dim }, .data = g->sigma },
                      { .descr = "<i8", .ndim = 0, .data = &g->n } };
    return npz_write(path, names, a, 3, err);
}

// ---- the distance
static double squared_distance(const double *a, const double *b, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}

// tr (S1 S2)^1/2 with S1 = V^T diag(w) V, V's rows the eigenvectors: the roots of the eigenvalues of
// M = W V S2 V^T W, W = diag(sqrt w). Rounding may leave an eigenvalue of 0 slightly negative: it counts as 0.
static double trace_of_root(const double *s1, const double *s2, int dim) {
    size_t square = (size_t)dim * (size_t)dim;
    double *v = xmalloc(square * sizeof *v), *half = xmalloc(square * sizeof *half), *m = xmalloc(square * sizeof *m);
    double *w = xmalloc((size_t)dim * sizeof *w), trace = 0;
    memcpy(v, s1, square * sizeof *v);
    linalg_eigen(dim, v, w, true);
    for (int i = 0; i < dim; i++) {
        double root = w[i] > 0 ? sqrt(w[i]) : 0;
        for (int k = 0; k < dim; k++) v[(size_t)i * (size_t)dim + (size_t)k] *= root;
    }
    Product first = { .m = dim, .n = dim, .k = dim, .a = v, .b = s2, .lda = dim, .ldb = dim, .c = half, .ldc = dim };
    Product second = { .tb = true, .symmetric = true, .m = dim, .n = dim, .k = dim, .a = half, .b = v, .lda = dim,
                       .ldb = dim, .c = m, .ldc = dim };
    product_run(&first);
    product_run(&second);
    linalg_eigen(dim, m, w, false);
    for (int i = 0; i < dim; i++) trace += w[i] > 0 ? sqrt(w[i]) : 0;
    free(v);
    free(half);
    free(m);
    free(w);
    return trace;
}

double frechet_distance(const Gaussian *a, const Gaussian *b) {
    CHECK(a->dim == b->dim, "%d and %d dimensions", a->dim, b->dim);
    double traces = 0;
    for (int i = 0; i < a->dim; i++) traces += a->sigma[(size_t)i * (size_t)(a->dim + 1)];
    for (int i = 0; i < a->dim; i++) traces += b->sigma[(size_t)i * (size_t)(a->dim + 1)];
    double d = squared_distance(a->mu, b->mu, a->dim) + traces - 2 * trace_of_root(a->sigma, b->sigma, a->dim);
    return d > 0 ? d : 0;
}

// ---- from the rows
typedef struct { const Features *f; const int64_t *rows; int64_t n; double *mu, scale, trace; } Side;

static Side side_of(const Features *f, const int64_t *rows, int64_t n) {
    Side s = { .f = f, .rows = rows, .n = rows ? n : f->n, .mu = xmalloc((size_t)f->dim * sizeof(double)) };
    CHECK(s.n >= 2, "a covariance of %" PRId64 " rows", s.n);
    mean_of(f, rows, s.n, s.mu);
    s.scale = 1 / sqrt((double)(s.n - 1));
    for (int64_t i = 0; i < s.n; i++) {
        const float *x = row_of(f, rows, i);
        double sum = 0;
        for (int k = 0; k < f->dim; k++) sum += ((double)x[k] - s.mu[k]) * ((double)x[k] - s.mu[k]);
        s.trace += sum / (double)(s.n - 1);
    }
    return s;
}

// The sum of the singular values of A B^T, A (few.n,dim) and B (many.n,dim) centred and scaled. Where the product is
// small it is kept and factored; else the eigenvalues of (A B^T)(A B^T)^T are summed up over blocks of B.
static double nuclear_norm(const Side *few, const Side *many) {
    int n = (int)few->n, dim = few->f->dim;
    bool whole = few->n * many->n <= FRECHET_PRODUCT_MAX;
    int64_t step = whole ? many->n : BLOCK_ROWS;
    double *a = xmalloc((size_t)n * (size_t)dim * sizeof *a), *s = xmalloc((size_t)n * sizeof *s), sum = 0;
    double *b = xmalloc((size_t)BLOCK_ROWS * (size_t)dim * sizeof *b), *p = xmalloc((size_t)(n * step) * sizeof *p);
    double *gram = whole ? NULL : xcalloc((size_t)n * (size_t)n, sizeof *gram);
    centred(few->f, few->rows, 0, n, few->mu, few->scale, a);
    for (int64_t begin = 0; begin < many->n; begin += BLOCK_ROWS) {
        int k = (int)(many->n - begin < BLOCK_ROWS ? many->n - begin : BLOCK_ROWS);
        centred(many->f, many->rows, begin, k, many->mu, many->scale, b);
        product_run(&(Product){ .tb = true, .m = n, .n = k, .k = dim, .a = a, .b = b, .lda = dim, .ldb = dim,
                                .c = p + (whole ? begin : 0), .ldc = (int)step });
        if (!whole)
            product_run(&(Product){ .tb = true, .symmetric = true, .m = n, .n = n, .k = k, .a = p, .b = p,
                                    .lda = (int)step, .ldb = (int)step, .beta = 1, .c = gram, .ldc = n });
    }
    if (whole) linalg_singular(n, (int)many->n, p, s);
    else linalg_eigen(n, gram, s, false);
    for (int i = 0; i < n; i++) sum += whole ? s[i] : s[i] > 0 ? sqrt(s[i]) : 0;
    free(a);
    free(b);
    free(p);
    free(s);
    free(gram);
    return sum;
}

double frechet_distance_rows(const Features *a, const int64_t *ra, int64_t na, const Features *b, const int64_t *rb,
                             int64_t nb) {
    CHECK(a->dim == b->dim, "%d and %d dimensions", a->dim, b->dim);
    Side x = side_of(a, ra, na), y = side_of(b, rb, nb);
    CHECK((x.n < y.n ? x.n : y.n) <= 16384, "%" PRId64 " and %" PRId64 " rows: few are needed on one side", x.n, y.n);
    double d = squared_distance(x.mu, y.mu, a->dim) + x.trace + y.trace -
               2 * (x.n < y.n ? nuclear_norm(&x, &y) : nuclear_norm(&y, &x));
    free(x.mu);
    free(y.mu);
    return d > 0 ? d : 0;
}

int frechet_threads(int64_t na, int64_t nb, int dim, bool by_rows) {
    double few = (double)(na < nb ? na : nb), product = (double)na * (double)nb, d = dim;
    if (product > FRECHET_PRODUCT_MAX) product = few * (few + BLOCK_ROWS);
    double rows = (few + BLOCK_ROWS) * d + product;
    double fits = 9 * d * d + BLOCK_ROWS * d;      // two covariances, three matrices, the workspace of dsyevd
    double fit = 512e6 / (8 * (by_rows ? rows : fits));
    int threads = omp_get_max_threads();
    return fit < 1 ? 1 : fit < threads ? (int)fit : threads;
}
