// eval/pairs_tile.c - tiles of scalar products between rows of two tables, in float or double (see eval/pairs_impl.h).
#include <float.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include "eval/linalg.h"
#include "eval/pairs_impl.h"

enum { LANES = 16, BLOCK_LEAST = 32, BLOCK_MOST = 512, BLOCKS_WANTED = 4, STRIP = 128, CENTRE_ROWS = 1000 };
#define WORK_BYTES (256.0 * 1048576)

double row_distance2(const float *x, const float *y, int dim) {
    double sum[LANES] = { 0 };
    int at = 0;
    for (; at + LANES <= dim; at += LANES) {
        for (int l = 0; l < LANES; l++) {
            double d = (double)x[at + l] - (double)y[at + l];
            sum[l] += d * d;
        }
    }
    for (int l = 0; at < dim; at++, l++) {
        double d = (double)x[at] - (double)y[at];
        sum[l] += d * d;
    }
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) sum[l] += sum[l + half];
    return sum[0];
}

// ---- the common frame
static int64_t add_rows(const Rows *r, double *sum) {
    int64_t step = r->n / CENTRE_ROWS > 1 ? r->n / CENTRE_ROWS : 1, taken = 0;
    for (int64_t i = 0; i < r->n; i += step, taken++) {
        const float *x = row_at(*r, i);
        for (int k = 0; k < r->f->dim; k++) sum[k] += (double)x[k];
    }
    return taken;
}

void rows_centre(const Rows *a, const Rows *b, float *out) {
    int dim = a->f->dim;
    double *sum = xcalloc((size_t)dim, sizeof *sum);
    int64_t taken = add_rows(a, sum);
    if (b) taken += add_rows(b, sum);
    for (int k = 0; k < dim; k++) out[k] = taken > 0 ? (float)(sum[k] / (double)taken) : 0.0f;
    free(sum);
}

void rows_centred(Rows r, const float *centre, int64_t begin, int64_t count, float *out) {
    int dim = r.f->dim;
    for (int64_t i = 0; i < count; i++) {
        const float *x = row_at(r, begin + i);
        float *y = out + i * dim;
        if (!centre) memcpy(y, x, (size_t)dim * sizeof *y);
        else for (int k = 0; k < dim; k++) y[k] = x[k] - centre[k];
    }
}

static void panel_in_double(Rows r, const float *centre, int64_t begin, int64_t count, double *out) {
    int dim = r.f->dim;
    for (int64_t i = 0; i < count; i++) {
        const float *x = row_at(r, begin + i);
        for (int k = 0; k < dim; k++) out[i * dim + k] = (double)x[k] - (double)centre[k];
    }
}

void pair_side_make(const PairSpace *s, Rows r, PairSide *out) {
    size_t bytes = (size_t)(r.n > 0 ? r.n : 1) * sizeof(double);
    *out = (PairSide){ r, xmalloc(bytes), xmalloc(bytes), xmalloc(bytes) };
    double *norm2 = out->norm2, *shift = out->shift, *low = out->low;
    #pragma omp parallel for
    for (int64_t i = 0; i < r.n; i++) {
        const float *x = row_at(r, i);
        double square[LANES] = { 0 }, along[LANES] = { 0 };
        for (int k = 0; k < s->dim; k++) {
            double c = (double)s->centre[k], y = (double)x[k] - c;
            square[k % LANES] += y * y;
            along[k % LANES] += c * y;
        }
        norm2[i] = shift[i] = 0;
        for (int l = 0; l < LANES; l++) {
            norm2[i] += square[l];
            shift[i] += along[l];
        }
        low[i] = (1 - s->slack) * norm2[i] - s->tiny / 2;
    }
}

void pair_side_free(PairSide *p) {
    free(p->norm2);
    free(p->shift);
    free(p->low);
}

static double most_norm2(const PairSide *p) {
    double most = 0;
    for (int64_t i = 0; p && i < p->rows.n; i++) most = p->norm2[i] > most ? p->norm2[i] : most;
    return most;
}

// Sets in_double and what follows from it.
static void space_choose(PairSpace *s, bool in_double) {
    double u = in_double ? DBL_EPSILON / 2 : (double)FLT_EPSILON / 2;
    s->in_double = in_double;
    s->slack = 1.01 * (s->dim + 8) * (u + 2 * DBL_EPSILON);
    s->tiny = in_double ? 0 : s->dim * 0x1p-120;
}

static double products_of(const Rows *a, const Rows *b) {
    double n = (double)a->n, m = b ? (double)b->n : 0;
    return (n * n / 2 + m * m / 2 + n * m) * a->f->dim;
}

void pair_space_make(PairsKind kind, const Rows *a, const Rows *b, PairSpace *s, PairSide *of_a, PairSide *of_b) {
    int dim = a->f->dim;
    CHECK(dim >= 1 && dim <= 100000, "%d dimensions", dim);
    CHECK(!b || b->f->dim == dim, "%d and %d dimensions", dim, b->f->dim);
    int64_t n = b && b->n > a->n ? b->n : a->n, block = (n / BLOCKS_WANTED + 15) / 16 * 16;
    *s = (PairSpace){ .dim = dim };
    s->block = (int)(block < BLOCK_LEAST ? BLOCK_LEAST : block > BLOCK_MOST ? BLOCK_MOST : block);
    s->centre = xmalloc((size_t)dim * sizeof *s->centre);
    rows_centre(a, b, s->centre);
    for (int k = 0; k < dim; k++) s->centre_norm2 += (double)s->centre[k] * (double)s->centre[k];
    space_choose(s, kind == PAIRS_DOUBLE || (kind == PAIRS_AUTO && products_of(a, b) <= PAIRS_DOUBLE_PRODUCTS));
    for (;;) {
        pair_side_make(s, *a, of_a);
        if (b) pair_side_make(s, *b, of_b);
        double most = fmax(most_norm2(of_a), most_norm2(b ? of_b : NULL));
        if (s->in_double || most == 0 || (most > 1e-20 && most < 1e30)) return;
        space_choose(s, true);                   // squares of floats would leave their range
        pair_side_free(of_a);
        if (b) pair_side_free(of_b);
    }
}

void pair_space_free(PairSpace *s, PairSide *of_a, PairSide *of_b) {
    free(s->centre);
    pair_side_free(of_a);
    if (of_b) pair_side_free(of_b);
}

// ---- tiles
static size_t panel_bytes(const PairSpace *s) {
    return (size_t)s->block * (size_t)s->dim * (s->in_double ? sizeof(double) : sizeof(float));
}

int pair_threads(const PairSpace *s) {
    double each = 2.0 * (double)panel_bytes(s) + 12.0 * s->block * s->block;
    int most = (int)(WORK_BYTES / each), threads = omp_get_max_threads();
    return most < 1 ? 1 : most < threads ? most : threads;
}

void pair_work_make(const PairSpace *s, PairWork *w) {
    size_t square = (size_t)s->block * (size_t)s->block;
    *w = (PairWork){ .a = xmalloc(panel_bytes(s)), .b = xmalloc(panel_bytes(s)), .a_at = -1, .b_at = -1 };
    w->tile = xmalloc(square * sizeof *w->tile);
    if (!s->in_double) w->products = xmalloc(square * sizeof *w->products);
}

void pair_work_free(PairWork *w) {
    free(w->a);
    free(w->b);
    free(w->products);
    free(w->tile);
}

int64_t pair_blocks(const PairSpace *s, int64_t n) { return (n + s->block - 1) / s->block; }

static int block_rows(const PairSpace *s, int64_t n, int64_t block) {
    int64_t left = n - block * s->block;
    return (int)(left < s->block ? left : s->block);
}

static void panel_load(const PairSpace *s, Rows r, int64_t block, void *panel, int64_t *at) {
    if (*at == block) return;
    *at = block;
    int count = block_rows(s, r.n, block);
    if (s->in_double) panel_in_double(r, s->centre, block * s->block, count, panel);
    else rows_centred(r, s->centre, block * s->block, count, panel);
}

// Rows first .. first + rows - 1 of the tile, from column `from` on.
static void multiply(const PairSpace *s, const void *a, const void *b, int first, int rows, int from, int columns,
                     PairWork *w) {
    int64_t dim = s->dim, ld = s->block, at = first * ld + from;
    if (s->in_double) {
        linalg_dgemm(false, true, rows, columns - from, s->dim, 1, (const double *)a + first * dim, s->dim,
                     (const double *)b + from * dim, s->dim, 0, w->tile + at, s->block);
        return;
    }
    linalg_sgemm(false, true, rows, columns - from, s->dim, 1, (const float *)a + first * dim, s->dim,
                 (const float *)b + from * dim, s->dim, 0, w->products + at, s->block);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns - from; j++) w->tile[at + i * ld + j] = (double)w->products[at + i * ld + j];
}

void pair_tile(const PairSpace *s, const PairSide *a, int64_t I, const PairSide *b, int64_t J, PairWork *w) {
    int rows = block_rows(s, a->rows.n, I), columns = block_rows(s, b->rows.n, J);
    panel_load(s, a->rows, I, w->a, &w->a_at);
    if (a != b || I != J) {
        panel_load(s, b->rows, J, w->b, &w->b_at);
        multiply(s, w->a, w->b, 0, rows, 0, columns, w);
        return;
    }
    for (int i = 0; i < rows; i += STRIP)        // of a symmetric tile, little more than the upper half
        multiply(s, w->a, w->a, i, rows - i < STRIP ? rows - i : STRIP, i, columns, w);
}
