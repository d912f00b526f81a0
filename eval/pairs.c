// eval/pairs.c - KID, precision, recall, density and coverage, nearest rows: passes over tiles of scalar products.
//
// A tile's product gives a lower bound of a squared distance (eval/pairs_impl.h). Pairs whose bound lies beyond every
// limit that they could matter for are passed over, sixteen and more at a time; the few others are measured in double.
// So what is decided is what plain double loops would decide, whichever way the products were formed, and no result
// depends on the order of tiles: counts, the k smallest of a set, and sums kept apart for each tile.
#include "eval/pairs.h"
#include <float.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include "eval/pairs_impl.h"

enum { CHUNK = 64, LANES = 8 };

typedef struct { int64_t row, column; int rows, columns; } TilePlace;     // first row and column, and how many

static TilePlace tile_place(const PairSpace *s, int64_t n, int64_t I, int64_t m, int64_t J) {
    TilePlace p = { I * s->block, J * s->block, s->block, s->block };
    if (n - p.row < p.rows) p.rows = (int)(n - p.row);
    if (m - p.column < p.columns) p.columns = (int)(m - p.column);
    return p;
}

// Tile t of the upper triangle of blocks x blocks, row by row.
static void triangle_place(int64_t t, int64_t blocks, int64_t *I, int64_t *J) {
    *I = 0;
    while (t >= blocks - *I) t -= blocks - (*I)++;
    *J = *I + t;
}

// ---- KID's kernel
// Sum over j of (x_i . x_j / dim + 1)^3, where x_i . x_j = g[j] + shift_i + shift_j + |c|^2.
static double kernel_row_sum(const double *g, const double *shift, int n, double row_shift, int dim) {
    double sum[LANES] = { 0 }, scale = 1.0 / dim, base = 1 + row_shift / dim;
    int at = 0;
    for (; at + LANES <= n; at += LANES) {
        for (int l = 0; l < LANES; l++) {
            double t = (g[at + l] + shift[at + l]) * scale + base;
            sum[l] += t * t * t;
        }
    }
    for (int l = 0; at < n; at++, l++) {
        double t = (g[at] + shift[at]) * scale + base;
        sum[l] += t * t * t;
    }
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) sum[l] += sum[l + half];
    return sum[0];
}

// Of a tile; upper: only pairs beyond the diagonal.
static double kernel_tile_sum(const PairSpace *s, const PairSide *a, const PairSide *b, TilePlace p, const double *tile,
                              bool upper) {
    double sum = 0;
    for (int i = 0; i < p.rows; i++) {
        int first = upper ? i + 1 : 0;
        sum += kernel_row_sum(tile + (int64_t)i * s->block + first, b->shift + p.column + first, p.columns - first,
                              a->shift[p.row + i] + s->centre_norm2, s->dim);
    }
    return sum;
}

static double sum_of(const double *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    return sum;
}

// ---- which pairs of a tile's row need a look
// Columns j from first on with low_i + low_j - 2 g_j not beyond max(limit_i, limit_j), into hits; returns how many.
// Not "beyond" rather than "within": a product that is not a number is looked at.
static int row_hits(const double *g, const double *low, const double *limit, double row_low, double row_limit,
                    int first, int n, int *hits) {
    int found = 0;
    for (int at = first; at < n; at += CHUNK) {
        int end = at + CHUNK < n ? at + CHUNK : n, any = 0;
        for (int j = at; j < end; j++) {
            double most = limit[j] > row_limit ? limit[j] : row_limit;
            any |= !(row_low + low[j] - 2 * g[j] > most);
        }
        for (int j = at; any && j < end; j++) {
            double most = limit[j] > row_limit ? limit[j] : row_limit;
            if (!(row_low + low[j] - 2 * g[j] > most)) hits[found++] = j;
        }
    }
    return found;
}

// Puts d2 among the `count` smallest, ascending. where (or NULL): their positions, which order equal distances.
static void list_insert(double *list, int64_t *where, int count, double d2, int64_t position) {
    int at = count;
    while (at > 0 && (d2 < list[at - 1] || (where && d2 == list[at - 1] && position < where[at - 1]))) at--;
    if (at == count) return;
    memmove(list + at + 1, list + at, (size_t)(count - 1 - at) * sizeof *list);
    list[at] = d2;
    if (!where) return;
    memmove(where + at + 1, where + at, (size_t)(count - 1 - at) * sizeof *where);
    where[at] = position;
}

// ---- within one set: the k smallest distances of each row to the others, and the kernel's sum
typedef struct {
    const PairSpace *s;
    const PairSide  *side;
    int              kmax;                       // 0: no lists
    double          *list;                       // (n,kmax) squared distances, ascending
    double          *limit;                      // (n) the last of each list
    omp_lock_t      *lock;                       // of a block's lists and limits
} Within;

static void within_offer(Within *w, int64_t i, double d2) {
    double *list = w->list + i * w->kmax;
    if (!(d2 < list[w->kmax - 1])) return;
    list_insert(list, NULL, w->kmax, d2, 0);
    w->limit[i] = list[w->kmax - 1];
}

static void within_scan(Within *w, TilePlace p, const double *tile, bool diagonal, int *hits) {
    const PairSide *side = w->side;
    const double *low = side->low + p.column, *limit = w->limit + p.column;
    for (int i = 0; i < p.rows; i++) {
        const double *g = tile + (int64_t)i * w->s->block;
        int64_t row = p.row + i;
        int found = row_hits(g, low, limit, side->low[row], w->limit[row], diagonal ? i + 1 : 0, p.columns, hits);
        for (int h = 0; h < found; h++) {
            int j = hits[h];
            double most = limit[j] > w->limit[row] ? limit[j] : w->limit[row];       // of now
            if (side->low[row] + low[j] - 2 * g[j] > most) continue;
            double d2 = row_distance2(row_at(side->rows, row), row_at(side->rows, p.column + j), w->s->dim);
            within_offer(w, row, d2);
            within_offer(w, p.column + j, d2);
        }
    }
}

static void within_tile(Within *w, int64_t I, int64_t J, PairWork *work, int *hits, double *kernel_sum) {
    TilePlace p = tile_place(w->s, w->side->rows.n, I, w->side->rows.n, J);
    pair_tile(w->s, w->side, I, w->side, J, work);
    if (kernel_sum) *kernel_sum = kernel_tile_sum(w->s, w->side, w->side, p, work->tile, I == J);
    if (w->kmax == 0) return;
    omp_set_lock(&w->lock[I]);
    if (J != I) omp_set_lock(&w->lock[J]);       // I < J always: no two threads wait for each other
    within_scan(w, p, work->tile, I == J, hits);
    if (J != I) omp_unset_lock(&w->lock[J]);
    omp_unset_lock(&w->lock[I]);
}

// list (n,kmax): written, if kmax > 0; INFINITY where there are fewer other rows. kernel_sum: over all pairs of two
// different rows, each once; NULL if not wanted.
static void within_pass(const PairSpace *s, const PairSide *side, int kmax, double *list, double *kernel_sum) {
    int64_t n = side->rows.n, blocks = pair_blocks(s, n), tiles = blocks * (blocks + 1) / 2;
    Within w = { s, side, kmax, list, xmalloc((size_t)(n + 1) * sizeof(double)),
                 xmalloc((size_t)(blocks + 1) * sizeof(omp_lock_t)) };
    double *sums = xcalloc((size_t)tiles + 1, sizeof *sums);
    for (int64_t i = 0; i < n * kmax; i++) list[i] = (double)INFINITY;
    for (int64_t i = 0; i < n; i++) w.limit[i] = (double)INFINITY;
    for (int64_t i = 0; i < blocks; i++) omp_init_lock(&w.lock[i]);
    #pragma omp parallel num_threads(pair_threads(s))
    {
        PairWork work;
        pair_work_make(s, &work);
        int *hits = xmalloc((size_t)s->block * sizeof *hits);
        #pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < tiles; t++) {
            int64_t I, J;
            triangle_place(t, blocks, &I, &J);
            within_tile(&w, I, J, &work, hits, kernel_sum ? &sums[t] : NULL);
        }
        free(hits);
        pair_work_free(&work);
    }
    if (kernel_sum) *kernel_sum = sum_of(sums, tiles);
    for (int64_t i = 0; i < blocks; i++) omp_destroy_lock(&w.lock[i]);
    free(w.lock);
    free(w.limit);
    free(sums);
}

// ---- across two sets: who lies in whose ball, and the kernel's sum
typedef struct {
    const PairSpace *s;
    const PairSide  *ref, *gen;
    int              n_k;                        // 0: the kernel's sum alone
    bool             strict;
    double          *r2_ref, *r2_gen;          // (n,n_k) squared radii, -1: none
    double          *most_ref, *most_gen;      // (n) the largest of each row
    uint8_t         *covered, *recalled;         // (ref.n,n_k): a generated row lies in its ball; it in one of theirs
    uint8_t         *precise;                    // (gen.n,n_k): it lies in the ball of a reference row
    int64_t         *inside;                     // (n_k) pairs of a generated row in the ball of a reference row
} Across;

// d2 < r2 (or <=). low, high: bounds of d2. *d2 is measured when they do not tell; NAN: not yet.
static bool in_ball(const Across *c, int64_t i, int64_t j, double low, double high, double r2, double *d2) {
    if (high < r2) return true;
    if (low > r2) return false;
    if (isnan(*d2)) *d2 = row_distance2(row_at(c->ref->rows, i), row_at(c->gen->rows, j), c->s->dim);
    return c->strict ? *d2 < r2 : *d2 <= r2;
}

static void mark(uint8_t *flag) {
    #pragma omp atomic write
    *flag = 1;
}

static void across_pair(const Across *c, int64_t i, int64_t j, double low, int64_t *inside) {
    double high = low + 2 * pair_bound(c->s, c->ref->norm2[i], c->gen->norm2[j]), d2 = (double)NAN;
    for (int q = 0; q < c->n_k; q++) {
        int64_t at_i = i * c->n_k + q, at_j = j * c->n_k + q;
        if (in_ball(c, i, j, low, high, c->r2_ref[at_i], &d2)) {
            inside[q]++;
            mark(&c->covered[at_i]);
            mark(&c->precise[at_j]);
        }
        if (in_ball(c, i, j, low, high, c->r2_gen[at_j], &d2)) mark(&c->recalled[at_i]);
    }
}

static void across_scan(const Across *c, TilePlace p, const double *tile, int *hits, int64_t *inside) {
    const double *low = c->gen->low + p.column;
    for (int i = 0; i < p.rows; i++) {
        const double *g = tile + (int64_t)i * c->s->block;
        int64_t row = p.row + i;
        int found = row_hits(g, low, c->most_gen + p.column, c->ref->low[row], c->most_ref[row], 0, p.columns, hits);
        for (int h = 0; h < found; h++) {
            int j = hits[h];
            across_pair(c, row, p.column + j, c->ref->low[row] + low[j] - 2 * g[j], inside);
        }
    }
}

static void across_pass(const Across *c, double *kernel_sum) {
    const PairSpace *s = c->s;
    int64_t n = c->ref->rows.n, m = c->gen->rows.n, blocks = pair_blocks(s, m), tiles = pair_blocks(s, n) * blocks;
    double *sums = xcalloc((size_t)tiles + 1, sizeof *sums);
    #pragma omp parallel num_threads(pair_threads(s))
    {
        PairWork work;
        pair_work_make(s, &work);
        int *hits = xmalloc((size_t)s->block * sizeof *hits);
        int64_t *inside = xcalloc((size_t)c->n_k + 1, sizeof *inside);
        #pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < tiles; t++) {
            TilePlace p = tile_place(s, n, t / blocks, m, t % blocks);
            pair_tile(s, c->ref, t / blocks, c->gen, t % blocks, &work);
            if (kernel_sum) sums[t] = kernel_tile_sum(s, c->ref, c->gen, p, work.tile, false);
            if (c->n_k > 0) across_scan(c, p, work.tile, hits, inside);
        }
        for (int q = 0; q < c->n_k; q++) {
            #pragma omp atomic
            c->inside[q] += inside[q];
        }
        free(inside);
        free(hits);
        pair_work_free(&work);
    }
    if (kernel_sum) *kernel_sum = sum_of(sums, tiles);
    free(sums);
}

// ---- the metrics
// Squared radii (n,n_k) of the lists (n,kmax), -1 where a row has fewer than k others; most (n): the largest.
static double *radii_make(const double *list, int64_t n, int kmax, const int *k, int n_k, double **most) {
    double *r2 = xmalloc((size_t)(n * n_k + 1) * sizeof *r2);
    *most = xmalloc((size_t)(n + 1) * sizeof **most);
    for (int64_t i = 0; i < n; i++) {
        (*most)[i] = -1;
        for (int q = 0; q < n_k; q++) {
            double d2 = n > k[q] ? list[i * kmax + k[q] - 1] : -1;
            r2[i * n_k + q] = d2;
            if (d2 > (*most)[i]) (*most)[i] = d2;
        }
    }
    return r2;
}

static double share(const uint8_t *flag, int64_t n, int n_k, int q) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) count += flag[i * n_k + q];
    return (double)count / (double)n;
}

static void prdc_of(const Across *c, const int *k, Prdc *out) {
    int64_t n = c->ref->rows.n, m = c->gen->rows.n;
    for (int q = 0; q < c->n_k; q++) {
        out[q] = (Prdc){ (double)NAN, (double)NAN, (double)NAN, (double)NAN };
        if (n > k[q] && m > 0) {
            out[q].precision = share(c->precise, m, c->n_k, q);
            out[q].density = (double)c->inside[q] / ((double)k[q] * (double)m);
            out[q].coverage = share(c->covered, n, c->n_k, q);
        }
        if (m > k[q] && n > 0) out[q].recall = share(c->recalled, n, c->n_k, q);
    }
}

static double kid_of(double aa, double bb, double ab, int64_t n, int64_t m) {
    if (n < 2 || m < 2) return (double)NAN;
    double a = (double)n, b = (double)m;
    return 2 * aa / (a * (a - 1)) + 2 * bb / (b * (b - 1)) - 2 * ab / (a * b);
}

void pairs_compute(PairsKind kind, Rows ref, Rows gen, const int *k, int n_k, bool strict, double *kid, Prdc *out) {
    int kmax = 0;
    for (int q = 0; q < n_k; q++) {
        CHECK(k[q] >= 1, "neighbour %d", k[q]);
        kmax = k[q] > kmax ? k[q] : kmax;
    }
    PairSpace s;
    PairSide a, b;
    pair_space_make(kind, &ref, &gen, &s, &a, &b);
    double rr, ff, rf, *near_ref = xmalloc((size_t)(ref.n * kmax + 1) * sizeof *near_ref);
    double *near_gen = xmalloc((size_t)(gen.n * kmax + 1) * sizeof *near_gen);
    within_pass(&s, &a, kmax, near_ref, kid ? &rr : NULL);
    within_pass(&s, &b, kmax, near_gen, kid ? &ff : NULL);
    Across c = { .s = &s, .ref = &a, .gen = &b, .n_k = n_k, .strict = strict };
    c.r2_ref = radii_make(near_ref, ref.n, kmax, k, n_k, &c.most_ref);
    c.r2_gen = radii_make(near_gen, gen.n, kmax, k, n_k, &c.most_gen);
    c.covered = xcalloc((size_t)(ref.n * n_k) + 1, 1);
    c.recalled = xcalloc((size_t)(ref.n * n_k) + 1, 1);
    c.precise = xcalloc((size_t)(gen.n * n_k) + 1, 1);
    c.inside = xcalloc((size_t)n_k + 1, sizeof *c.inside);
    across_pass(&c, kid ? &rf : NULL);
    if (kid) *kid = kid_of(rr, ff, rf, ref.n, gen.n);
    if (out) prdc_of(&c, k, out);
    void *mine[] = { near_ref, near_gen, c.r2_ref, c.r2_gen, c.most_ref, c.most_gen, c.covered, c.recalled,
                     c.precise, c.inside };
    for (size_t i = 0; i < sizeof mine / sizeof mine[0]; i++) free(mine[i]);
    pair_space_free(&s, &a, &b);
}

void pairs_all(Rows ref, Rows gen, const int *k, int n_k, bool strict, double *kid, Prdc *out) {
    pairs_compute(PAIRS_AUTO, ref, gen, k, out ? n_k : 0, strict, kid, out);
}

void prdc(Rows ref, Rows gen, const int *k, int n_k, bool strict, Prdc *out) {
    pairs_all(ref, gen, k, n_k, strict, NULL, out);
}

double kid_full(Rows a, Rows b) {
    double kid;
    pairs_all(a, b, NULL, 0, true, &kid, NULL);
    return kid;
}

void rows_draw(Mt19937 *m, Rows r, int64_t *order, int64_t size) {
    for (int64_t i = 0; i < r.n; i++) order[i] = i;
    mt19937_shuffle(m, order, r.n);
    for (int64_t i = 0; r.idx && i < size; i++) order[i] = r.idx[order[i]];
}

double kid_subsets(Rows a, Rows b, int subsets, int64_t size, uint32_t seed, double *stddev) {
    CHECK(subsets >= 1 && size <= a.n && size <= b.n, "%d subsets of %lld rows out of %lld and %lld", subsets,
          (long long)size, (long long)a.n, (long long)b.n);
    Mt19937 m;
    mt19937_seed(&m, seed);
    int64_t most = a.n > b.n ? a.n : b.n, *order = xmalloc((size_t)(most + 1) * sizeof *order);
    int64_t *drawn = xmalloc((size_t)(2 * subsets * size + 1) * sizeof *drawn);
    double *kid = xmalloc((size_t)subsets * sizeof *kid), square = 0;
    for (int i = 0; i < 2 * subsets; i++) {
        rows_draw(&m, i % 2 ? b : a, order, size);
        memcpy(drawn + i * size, order, (size_t)size * sizeof *order);
    }
    #pragma omp parallel for schedule(dynamic)   // loops within run on one thread each
    for (int i = 0; i < subsets; i++) {
        const int64_t *of_a = drawn + 2 * i * size, *of_b = of_a + size;
        kid[i] = kid_full((Rows){ a.f, of_a, size }, (Rows){ b.f, of_b, size });
    }
    double mean = sum_of(kid, subsets) / subsets;
    for (int i = 0; i < subsets; i++) square += (kid[i] - mean) * (kid[i] - mean);
    if (stddev) *stddev = sqrt(square / subsets);
    free(kid);
    free(drawn);
    free(order);
    return mean;
}

// ---- nearest rows
typedef struct {
    const PairSpace *s;
    const PairSide  *query, *base;
    int              count;
    int64_t         *where;                      // (query.n,count)
    double          *list, *limit;               // (query.n,count) squared distances; (query.n) the last of each
    const double    *none;                       // (block) -1: the base has no limits of its own
    omp_lock_t      *lock;                       // of a block of queries
} Nearest;

static void nearest_scan(Nearest *z, TilePlace p, const double *tile, int *hits) {
    const double *low = z->base->low + p.column;
    for (int i = 0; i < p.rows; i++) {
        const double *g = tile + (int64_t)i * z->s->block;
        int64_t row = p.row + i;
        int found = row_hits(g, low, z->none, z->query->low[row], z->limit[row], 0, p.columns, hits);
        for (int h = 0; h < found; h++) {
            int j = hits[h];
            if (z->query->low[row] + low[j] - 2 * g[j] > z->limit[row]) continue;
            double d2 = row_distance2(row_at(z->query->rows, row), row_at(z->base->rows, p.column + j), z->s->dim);
            list_insert(z->list + row * z->count, z->where + row * z->count, z->count, d2, p.column + j);
            z->limit[row] = z->list[(row + 1) * z->count - 1];
        }
    }
}

static void nearest_pass(Nearest *z) {
    const PairSpace *s = z->s;
    int64_t n = z->query->rows.n, m = z->base->rows.n, blocks = pair_blocks(s, m);
    #pragma omp parallel num_threads(pair_threads(s))
    {
        PairWork work;
        pair_work_make(s, &work);
        int *hits = xmalloc((size_t)s->block * sizeof *hits);
        #pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < pair_blocks(s, n) * blocks; t++) {
            int64_t I = t / blocks, J = t % blocks;
            pair_tile(s, z->query, I, z->base, J, &work);
            omp_set_lock(&z->lock[I]);
            nearest_scan(z, tile_place(s, n, I, m, J), work.tile, hits);
            omp_unset_lock(&z->lock[I]);
        }
        free(hits);
        pair_work_free(&work);
    }
}

void nearest_rows(Rows query, Rows base, int count, int64_t *where, double *distance) {
    CHECK(count >= 1, "%d nearest rows", count);
    PairSpace s;
    PairSide a, b;
    pair_space_make(PAIRS_AUTO, &query, &base, &s, &a, &b);
    int64_t blocks = pair_blocks(&s, query.n);
    double *limit = xmalloc((size_t)(query.n + 1) * sizeof *limit), *none = xmalloc((size_t)s.block * sizeof *none);
    Nearest z = { &s, &a, &b, count, where, distance, limit, none, xmalloc((size_t)(blocks + 1) * sizeof *z.lock) };
    for (int i = 0; i < s.block; i++) none[i] = -1;
    for (int64_t i = 0; i < query.n; i++) limit[i] = (double)INFINITY;
    for (int64_t i = 0; i < query.n * count; i++) {
        distance[i] = (double)INFINITY;
        where[i] = INT64_MAX;
    }
    for (int64_t i = 0; i < blocks; i++) omp_init_lock(&z.lock[i]);
    nearest_pass(&z);
    for (int64_t i = 0; i < query.n * count; i++) {
        distance[i] = sqrt(distance[i]);
        if (where[i] == INT64_MAX) where[i] = -1;
    }
    for (int64_t i = 0; i < blocks; i++) omp_destroy_lock(&z.lock[i]);
    free(z.lock);
    free(limit);
    free(none);
    pair_space_free(&s, &a, &b);
}
