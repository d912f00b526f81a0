// eval/distribution_kmeans.c - k-means on both sets of a PRD, by tiles of scalar products (eval/pairs_impl.h).
//
// Seeding is k-means++ without a pass over the points for every centre: points are proposed by their distances as of
// the last pass and kept with probability (distance now / distance then)^2, which is the distribution that k-means++
// asks for (rejection sampling); a pass takes in all centres drawn since. Lloyd's iterations pass over points whose
// nearest centre cannot have changed, by Hamerly's two bounds (SIAM SDM 2010); where products cannot tell two centres
// apart, distances are measured in double. Sums of clusters are kept in double, each by one thread in the order of
// points.
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "eval/distribution_impl.h"
#include "kernels/common/rng.h"

enum { SEED_PASS = 64, REJECTIONS = 32, ITERATIONS = 100, SETTLED = 100, PURPOSE = 0x4B4D };

void cloud_make(PairsKind kind, Rows a, Rows b, Cloud *c) {
    pair_space_make(kind, &a, &b, &c->s, &c->side[0], &c->side[1]);
    c->n = a.n + b.n;
}

void cloud_free(Cloud *c) { pair_space_free(&c->s, &c->side[0], &c->side[1]); }

static const float *point_at(const Cloud *c, int64_t i) {
    int64_t first = c->side[0].rows.n;
    return i < first ? row_at(c->side[0].rows, i) : row_at(c->side[1].rows, i - first);
}

static double point_norm2(const Cloud *c, int64_t i) {
    int64_t first = c->side[0].rows.n;
    return i < first ? c->side[0].norm2[i] : c->side[1].norm2[i - first];
}

// ---- products of points with centres
// Some points of one set, and the centres: tile after tile is handed to `take`, all tiles of a point to one thread.
typedef struct { const Cloud *c; PairSide centres; void *of_take; } Pass;
typedef void TakeTile(const Pass *p, const int64_t *points, int count, int first, int columns, const double *tile);

// points: their numbers, ascending, all of one set, at most s->block.
static void pass_points(const Pass *p, const int64_t *points, int count, PairWork *w, TakeTile *take) {
    const PairSpace *s = &p->c->s;
    int64_t first = points[0] < p->c->side[0].rows.n ? 0 : p->c->side[0].rows.n;
    const PairSide *side = &p->c->side[first > 0 || p->c->side[0].rows.n == 0];
    int64_t *index = xmalloc((size_t)count * sizeof *index);
    for (int i = 0; i < count; i++) index[i] = side->rows.idx ? side->rows.idx[points[i] - first] : points[i] - first;
    PairSide some = { .rows = { side->rows.f, index, count } };
    w->a_at = -1;
    for (int64_t J = 0; J < pair_blocks(s, p->centres.rows.n); J++) {
        pair_tile(s, &some, 0, &p->centres, J, w);
        int64_t left = p->centres.rows.n - J * s->block;
        take(p, points, count, (int)(J * s->block), (int)(left < s->block ? left : s->block), w->tile);
    }
    free(index);
}

// points (n): ascending. Blocks do not cross from one set to the other.
static void pass_run(const Pass *p, const int64_t *points, int64_t n, TakeTile *take) {
    const PairSpace *s = &p->c->s;
    int64_t in_first = 0, first_blocks, blocks;
    while (in_first < n && points[in_first] < p->c->side[0].rows.n) in_first++;
    first_blocks = pair_blocks(s, in_first);
    blocks = first_blocks + pair_blocks(s, n - in_first);
    #pragma omp parallel num_threads(pair_threads(s))
    {
        PairWork w;
        pair_work_make(s, &w);
        #pragma omp for schedule(dynamic)
        for (int64_t b = 0; b < blocks; b++) {
            int64_t begin = b < first_blocks ? b * s->block : in_first + (b - first_blocks) * s->block;
            int64_t end = b < first_blocks ? in_first : n;
            pass_points(p, points + begin, (int)(end - begin < s->block ? end - begin : s->block), &w, take);
        }
        pair_work_free(&w);
    }
}

// ---- seeding
typedef struct {
    const Cloud *c;
    uint32_t     seed[2], draws;
    double      *d2;                             // (n) to the nearest centre as of the last pass
    int64_t     *all;                            // (n) 0, 1, 2, ...
    Features     fresh;                          // (SEED_PASS,dim) centres drawn since
} Seeding;

static double uniform(Seeding *z) {
    Philox w = philox(z->seed, z->draws++, 0, 0, PURPOSE);
    return ((w.v[0] >> 5) * 67108864.0 + (w.v[1] >> 6)) / 9007199254740992.0;
}

static void take_nearest(const Pass *p, const int64_t *points, int count, int first, int columns, const double *tile) {
    double *d2 = p->of_take;
    for (int i = 0; i < count; i++) {
        const double *g = tile + (int64_t)i * p->c->s.block;
        double norm2 = point_norm2(p->c, points[i]), least = d2[points[i]];
        for (int j = 0; j < columns; j++) {
            double centre2 = p->centres.norm2[first + j], v = norm2 + centre2 - 2 * g[j];
            if (!(v > 16 * pair_bound(&p->c->s, norm2, centre2)))
                v = row_distance2(point_at(p->c, points[i]), row_at(p->centres.rows, first + j), p->c->s.dim);
            if (v < least) least = v;
        }
        d2[points[i]] = least;
    }
}

static void seeding_pass(Seeding *z) {
    Pass p = { .c = z->c, .of_take = z->d2 };
    pair_side_make(&z->c->s, (Rows){ &z->fresh, NULL, z->fresh.n }, &p.centres);
    pass_run(&p, z->all, z->c->n, take_nearest);
    pair_side_free(&p.centres);
    z->fresh.n = 0;
}

// A point drawn by d2, -1 if all of them are 0.
static int64_t propose(Seeding *z) {
    double total = 0;
    for (int64_t i = 0; i < z->c->n; i++) total += z->d2[i];
    double target = uniform(z) * total;
    int64_t last = -1;
    for (int64_t i = 0; i < z->c->n; i++) {
        if (!(z->d2[i] > 0)) continue;
        last = i;
        target -= z->d2[i];
        if (target < 0) break;
    }
    return last;
}

static bool accept(Seeding *z, int64_t point) {
    double now = z->d2[point];
    for (int64_t j = 0; j < z->fresh.n; j++) {
        double d2 = row_distance2(point_at(z->c, point), z->fresh.x + j * z->c->s.dim, z->c->s.dim);
        if (d2 < now) now = d2;
    }
    return uniform(z) * z->d2[point] < now;
}

void kmeans_seed(const Cloud *c, int clusters, uint64_t seed, Features *centres) {
    size_t row = (size_t)c->s.dim * sizeof(float);
    Seeding z = { .c = c, .seed = { (uint32_t)seed, (uint32_t)(seed >> 32) } };
    z.d2 = xmalloc((size_t)c->n * sizeof *z.d2);
    z.all = xmalloc((size_t)c->n * sizeof *z.all);
    float *fresh = xmalloc(SEED_PASS * row), *chosen = (float *)centres->x;
    z.fresh = (Features){ .dim = c->s.dim, .x = fresh };
    for (int64_t i = 0; i < c->n; i++) z.all[i] = i;
    int64_t point = (int64_t)(uniform(&z) * (double)c->n), rejected = 0;
    for (int64_t i = 0; i < c->n; i++) z.d2[i] = (double)INFINITY;
    for (centres->n = 0;;) {
        memcpy(chosen + centres->n++ * c->s.dim, point_at(c, point), row);
        memcpy(fresh + z.fresh.n++ * c->s.dim, point_at(c, point), row);
        if (centres->n == clusters) break;
        if (centres->n == 1 || z.fresh.n == SEED_PASS) seeding_pass(&z);
        for (rejected = 0; (point = propose(&z)) >= 0 && !accept(&z, point);)
            if (++rejected % REJECTIONS == 0 && z.fresh.n > 0) seeding_pass(&z);
        if (point < 0) break;
    }
    free(fresh);
    free(z.d2);
    free(z.all);
}

// ---- Lloyd's iterations
typedef struct {
    int     nearest;
    double  least, second;                       // N_centre - 2 g of the nearest and the next
    double  doubt;                               // the largest bound of a pair of this point
} Ranking;
typedef struct {
    const Cloud *c;
    int          clusters;
    Features     centres;
    int32_t     *of;                             // (n)
    double      *upper, *lower;                  // (n) bounds of the distances to the own and to any other centre
    double      *sum;                            // (clusters,dim)
    int64_t     *size;                           // (clusters)
    double      *moved;                          // (clusters) how far the last update moved each centre
    Ranking     *rank;                           // (n) of points in the current pass
    int64_t     *active;                         // (n)
} Lloyd;

static void take_rank(const Pass *p, const int64_t *points, int count, int first, int columns, const double *tile) {
    Lloyd *l = p->of_take;
    for (int i = 0; i < count; i++) {
        const double *g = tile + (int64_t)i * p->c->s.block, norm2 = point_norm2(p->c, points[i]);
        Ranking *r = &l->rank[points[i]];
        if (first == 0) *r = (Ranking){ 0, (double)INFINITY, (double)INFINITY, 0 };
        for (int j = 0; j < columns; j++) {
            double centre2 = p->centres.norm2[first + j], v = centre2 - 2 * g[j];
            double doubt = pair_bound(&p->c->s, norm2, centre2);
            if (doubt > r->doubt) r->doubt = doubt;
            if (!(v >= r->least)) {
                r->second = r->least;
                r->least = v;
                r->nearest = first + j;
            } else if (v < r->second) {
                r->second = v;
            }
        }
    }
}

// The nearest centre of a point in double, ties to the first; *second: squared distance of the next.
static int nearest_measured(const Lloyd *l, int64_t point, double *least, double *second) {
    int nearest = 0;
    *least = *second = (double)INFINITY;
    for (int j = 0; j < l->clusters; j++) {
        double d2 = row_distance2(point_at(l->c, point), l->centres.x + (int64_t)j * l->c->s.dim, l->c->s.dim);
        if (d2 < *least) {
            *second = *least;
            *least = d2;
            nearest = j;
        } else if (d2 < *second) {
            *second = d2;
        }
    }
    return nearest;
}

static void decide(Lloyd *l, int64_t point) {
    const Ranking *r = &l->rank[point];
    double norm2 = point_norm2(l->c, point), least = norm2 + r->least, second = norm2 + r->second;
    if (second - least > 2 * r->doubt) {
        l->of[point] = r->nearest;
        l->upper[point] = sqrt(fmax(least + r->doubt, 0));
        l->lower[point] = sqrt(fmax(second - r->doubt, 0));
        return;
    }
    l->of[point] = nearest_measured(l, point, &least, &second);
    l->upper[point] = sqrt(least);
    l->lower[point] = sqrt(second);
}

// Those of all points whose nearest centre may have changed since their bounds were set.
static int64_t find_active(Lloyd *l) {
    int64_t n = l->c->n, found = 0;
    double first = 0, next = 0;                  // the two longest moves
    int fastest = 0;
    for (int j = 0; j < l->clusters; j++) {
        if (l->moved[j] > first) {
            next = first;
            first = l->moved[j];
            fastest = j;
        } else if (l->moved[j] > next) {
            next = l->moved[j];
        }
    }
    #pragma omp parallel for schedule(dynamic, 64)
    for (int64_t i = 0; i < n; i++) {
        int own = l->of[i];
        l->upper[i] = (l->upper[i] + l->moved[own]) * (1 + 4 * DBL_EPSILON);
        l->lower[i] = (l->lower[i] - (own == fastest ? next : first)) * (1 - 4 * DBL_EPSILON);
        if (l->upper[i] < l->lower[i]) continue;
        const float *centre = l->centres.x + (int64_t)own * l->c->s.dim;
        l->upper[i] = sqrt(row_distance2(point_at(l->c, i), centre, l->c->s.dim)) * (1 + l->c->s.dim * DBL_EPSILON);
    }
    for (int64_t i = 0; i < n; i++)
        if (!(l->upper[i] < l->lower[i])) l->active[found++] = i;
    return found;
}

// A point that came to a cluster (sign +1) or left it.
typedef struct { int64_t point; int cluster; double sign; } Move;

static int by_cluster(const void *a, const void *b) {
    const Move *x = a, *y = b;
    if (x->cluster != y->cluster) return (x->cluster > y->cluster) - (x->cluster < y->cluster);
    return (x->point > y->point) - (x->point < y->point);
}

// Sums and sizes after `count` moves; sorts them.
static void move_points(Lloyd *l, Move *moves, int64_t count) {
    int dim = l->c->s.dim;
    qsort(moves, (size_t)count, sizeof *moves, by_cluster);
    #pragma omp parallel for schedule(dynamic)
    for (int j = 0; j < l->clusters; j++) {
        int64_t low = 0, high = count;           // the first move of cluster j
        while (low < high) {
            int64_t middle = (low + high) / 2;
            if (moves[middle].cluster < j) low = middle + 1;
            else high = middle;
        }
        double *sum = l->sum + (int64_t)j * dim;
        for (; low < count && moves[low].cluster == j; low++) {
            const float *x = point_at(l->c, moves[low].point);
            double sign = moves[low].sign;
            for (int k = 0; k < dim; k++) sum[k] += sign * (double)x[k];
            l->size[j] += sign > 0 ? 1 : -1;
        }
    }
}

static void move_centres(Lloyd *l) {
    int dim = l->c->s.dim;
    #pragma omp parallel
    {
        float *old = xmalloc((size_t)dim * sizeof *old);
        #pragma omp for
        for (int j = 0; j < l->clusters; j++) {
            float *x = (float *)l->centres.x + (int64_t)j * dim;
            memcpy(old, x, (size_t)dim * sizeof *old);
            for (int k = 0; l->size[j] > 0 && k < dim; k++)
                x[k] = (float)(l->sum[(int64_t)j * dim + k] / (double)l->size[j]);
            l->moved[j] = sqrt(row_distance2(old, x, dim)) * (1 + dim * DBL_EPSILON);
        }
        free(old);
    }
}

// Assigns the active points anew; moves (2 n) is filled. Returns how many changed cluster; first: from none.
static int64_t reassign(Lloyd *l, int64_t active, Move *moves, bool first) {
    Pass p = { .c = l->c, .of_take = l };
    int64_t changed = 0, count = 0;
    int32_t *before = xmalloc((size_t)(active + 1) * sizeof *before);
    for (int64_t i = 0; i < active; i++) before[i] = l->of[l->active[i]];
    pair_side_make(&l->c->s, (Rows){ &l->centres, NULL, l->clusters }, &p.centres);
    pass_run(&p, l->active, active, take_rank);
    pair_side_free(&p.centres);
    #pragma omp parallel for schedule(dynamic, 64)
    for (int64_t i = 0; i < active; i++) decide(l, l->active[i]);
    for (int64_t i = 0; i < active; i++) {
        int64_t point = l->active[i];
        if (!first && l->of[point] == before[i]) continue;
        changed++;
        moves[count++] = (Move){ point, l->of[point], 1 };
        if (!first) moves[count++] = (Move){ point, before[i], -1 };
    }
    move_points(l, moves, count);
    free(before);
    return changed;
}

int kmeans(const Cloud *c, int clusters, uint64_t seed, int32_t *of, int *iterations) {
    CHECK(c->n >= 1 && clusters >= 1, "%d clusters of %lld points", clusters, (long long)c->n);
    size_t n = (size_t)c->n, table = (size_t)clusters * (size_t)c->s.dim;
    float *centres = xmalloc(table * sizeof *centres);
    Lloyd l = { .c = c, .centres = { .dim = c->s.dim, .x = centres }, .of = of };
    kmeans_seed(c, clusters, seed, &l.centres);
    l.clusters = (int)l.centres.n;
    l.upper = xmalloc(n * sizeof *l.upper);
    l.lower = xmalloc(n * sizeof *l.lower);
    l.sum = xcalloc(table, sizeof *l.sum);
    l.size = xcalloc((size_t)clusters, sizeof *l.size);
    l.moved = xmalloc((size_t)clusters * sizeof *l.moved);
    l.rank = xmalloc(n * sizeof *l.rank);
    l.active = xmalloc(n * sizeof *l.active);
    Move *moves = xmalloc(2 * n * sizeof *moves);
    for (int64_t i = 0; i < c->n; i++) {
        l.active[i] = i;
        of[i] = 0;
    }
    reassign(&l, c->n, moves, true);
    int done = 1;
    for (int64_t changed = c->n; changed * SETTLED > c->n && done < ITERATIONS; done++) {
        move_centres(&l);
        changed = reassign(&l, find_active(&l), moves, false);
    }
    if (iterations) *iterations = done;
    void *mine[] = { centres, l.upper, l.lower, l.sum, l.size, l.moved, l.rank, l.active, moves };
    for (size_t i = 0; i < sizeof mine / sizeof mine[0]; i++) free(mine[i]);
    return l.clusters;
}
