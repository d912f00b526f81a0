// eval/distribution.c - Inception Score, the curves of PRD, MIND.
#include "eval/distribution.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "eval/distribution_impl.h"
#include "eval/linalg.h"
#include "kernels/common/rng.h"

enum { SHUFFLE_SEED = 2020, DIRECTIONS_LEAST = 128, DIRECTIONS_MOST = 1024, PROJECT_ROWS = 512, PURPOSE = 0x4D49 };

// ---- Inception Score
// exp of the mean KL divergence of rows begin..end-1 to their mean, as the mean of sum p log p less sum m log m.
static double split_score(const Features *f, const int64_t *rows, int64_t begin, int64_t end) {
    double *mean = xcalloc((size_t)f->classes, sizeof *mean), within = 0, n = (double)(end - begin), total = 0;
    for (int64_t i = begin; i < end; i++) {
        const float *p = f->probs + rows[i] * f->classes;
        double sum = 0;
        for (int c = 0; c < f->classes; c++) {
            double v = (double)p[c];
            mean[c] += v;
            if (v > 0) sum += v * log(v);
        }
        within += sum;
    }
    for (int c = 0; c < f->classes; c++) {
        double m = mean[c] / n;
        if (m > 0) total += m * log(m);
    }
    free(mean);
    return exp(within / n - total);
}

static double mean_and_deviation(const double *x, int n, double *stddev) {
    double sum = 0, square = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    double mean = sum / n;
    for (int i = 0; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
    if (stddev) *stddev = sqrt(square / n);
    return mean;
}

double inception_score(const Features *f, const int64_t *idx, int64_t n, int splits, bool shuffle, double *stddev) {
    CHECK(f->probs && splits >= 1, "%d splits", splits);
    int64_t *rows = xmalloc((size_t)(n + 1) * sizeof *rows);
    double *score = xmalloc((size_t)splits * sizeof *score);
    for (int64_t i = 0; i < n; i++) rows[i] = i;
    if (shuffle) {
        Mt19937 m;
        mt19937_seed(&m, SHUFFLE_SEED);
        mt19937_shuffle(&m, rows, n);
    }
    for (int64_t i = 0; idx && i < n; i++) rows[i] = idx[rows[i]];
    #pragma omp parallel for schedule(dynamic)
    for (int s = 0; s < splits; s++) score[s] = split_score(f, rows, s * n / splits, (s + 1) * n / splits);
    double mean = mean_and_deviation(score, splits, stddev);
    free(rows);
    free(score);
    return mean;
}

// ---- PRD
// (angles) precision and recall of two histograms at slopes tan(theta), theta evenly from 1e-10 to pi/2 - 1e-10.
static void prd_curves(const double *ref, const double *gen, int bins, int angles, double *precision, double *recall) {
    double least = 1e-10, step = (2 * atan(1.0) - 2 * least) / (angles - 1);
    for (int a = 0; a < angles; a++) {
        double slope = tan(least + a * step), sum = 0;
        for (int c = 0; c < bins; c++) sum += fmin(slope * ref[c], gen[c]);
        precision[a] = fmin(sum, 1);             // both are at most 1 but for rounding
        recall[a] = fmin(sum / slope, 1);
    }
}

static double best_f(const double *precision, const double *recall, int angles, double beta) {
    double best = 0, b2 = beta * beta;
    for (int a = 0; a < angles; a++)
        best = fmax(best, (1 + b2) * precision[a] * recall[a] / (b2 * precision[a] + recall[a] + 1e-10));
    return best;
}

Prd prd_of_histograms(const double *ref, const double *gen, int bins, int angles) {
    CHECK(angles >= 2, "%d angles", angles);
    double *precision = xmalloc((size_t)angles * sizeof *precision), *recall = xmalloc((size_t)angles * sizeof *recall);
    prd_curves(ref, gen, bins, angles, precision, recall);
    Prd out = { .f8 = best_f(precision, recall, angles, 8), .f1_8 = best_f(precision, recall, angles, 1.0 / 8) };
    free(precision);
    free(recall);
    return out;
}

static void histogram(const int32_t *of, int64_t n, int bins, double *share) {
    for (int c = 0; c < bins; c++) share[c] = 0;
    for (int64_t i = 0; i < n; i++) share[of[i]]++;
    for (int c = 0; c < bins; c++) share[c] /= (double)n;
}

Prd prd(Rows ref, Rows gen, int clusters, int runs, int angles, uint64_t seed) {
    if (ref.n < 1 || gen.n < 1) return (Prd){ (double)NAN, (double)NAN, (double)NAN, (double)NAN };
    CHECK(runs >= 1 && angles >= 2, "%d runs, %d angles", runs, angles);
    Cloud c;
    cloud_make(PAIRS_AUTO, ref, gen, &c);
    size_t length = (size_t)angles;
    int32_t *of = xmalloc((size_t)c.n * sizeof *of);
    double *share = xmalloc(2 * (size_t)clusters * sizeof *share), *scores = xmalloc(2 * (size_t)runs * sizeof *scores);
    double *curve = xmalloc(2 * length * sizeof *curve), *sums = xcalloc(2 * length, sizeof *sums);
    for (int r = 0; r < runs; r++) {
        int bins = kmeans(&c, clusters, seed + (uint64_t)r, of, NULL);
        histogram(of, ref.n, bins, share);
        histogram(of + ref.n, gen.n, bins, share + clusters);
        prd_curves(share, share + clusters, bins, angles, curve, curve + angles);
        scores[r] = best_f(curve, curve + angles, angles, 8);
        scores[runs + r] = best_f(curve, curve + angles, angles, 1.0 / 8);
        for (size_t a = 0; a < 2 * length; a++) sums[a] += curve[a];
    }
    for (size_t a = 0; a < 2 * length; a++) sums[a] /= runs;
    Prd out = { .f8 = best_f(sums, sums + angles, angles, 8), .f1_8 = best_f(sums, sums + angles, angles, 1.0 / 8) };
    mean_and_deviation(scores, runs, &out.f8_std);
    mean_and_deviation(scores + runs, runs, &out.f1_8_std);
    free(of);
    free(share);
    free(scores);
    free(curve);
    free(sums);
    cloud_free(&c);
    return out;
}

// ---- MIND
// Unit vector number `which` of dim normals.
static void direction(const uint32_t seed[2], int which, int dim, float *out) {
    double square = 0;
    for (int k = 0; k < dim; k += 4) {
        float four[4];
        rng_normal4(philox(seed, (uint32_t)k / 4, (uint32_t)which, 0, PURPOSE).v, four);
        for (int i = 0; i < 4 && k + i < dim; i++) {
            out[k + i] = four[i];
            square += (double)four[i] * (double)four[i];
        }
    }
    double length = sqrt(square);
    for (int k = 0; k < dim; k++) out[k] = (float)((double)out[k] / length);
}

// Floats ascending: three passes of eleven bits over keys whose order as integers is that of the floats. spare (n).
static void sort_floats(float *x, uint32_t *key, uint32_t *spare, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t b;
        memcpy(&b, &x[i], 4);
        key[i] = b >> 31 ? ~b : b | 0x80000000u;
    }
    for (int shift = 0; shift < 33; shift += 11) {
        int64_t start[2049] = { 0 };
        for (int64_t i = 0; i < n; i++) start[(key[i] >> shift & 2047) + 1]++;
        for (int d = 0; d < 2047; d++) start[d + 1] += start[d];
        for (int64_t i = 0; i < n; i++) spare[start[key[i] >> shift & 2047]++] = key[i];
        uint32_t *t = key;
        key = spare;
        spare = t;
    }
    for (int64_t i = 0; i < n; i++) {
        uint32_t b = key[i] >> 31 ? key[i] & 0x7FFFFFFFu : ~key[i];
        memcpy(&x[i], &b, 4);
    }
}

// out (count,n): rows of r, less the centre, along `count` directions.
static void project(Rows r, const float *centre, const float *directions, int count, float *out) {
    int dim = r.f->dim, n = (int)r.n;
    #pragma omp parallel
    {
        float *panel = xmalloc((size_t)PROJECT_ROWS * (size_t)dim * sizeof *panel);
        #pragma omp for schedule(dynamic)
        for (int begin = 0; begin < n; begin += PROJECT_ROWS) {
            int rows = n - begin < PROJECT_ROWS ? n - begin : PROJECT_ROWS;
            rows_centred(r, centre, begin, rows, panel);
            linalg_sgemm(false, true, count, rows, dim, 1, directions, dim, panel, dim, 0, out + begin, n);
        }
        free(panel);
    }
}

// Mean squared difference of the sorted columns.
static double sorted_difference(float *a, float *b, int64_t n) {
    uint32_t *key = xmalloc((size_t)n * sizeof *key), *spare = xmalloc((size_t)n * sizeof *spare);
    double sum = 0;
    sort_floats(a, key, spare, n);
    sort_floats(b, key, spare, n);
    for (int64_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        sum += d * d;
    }
    free(key);
    free(spare);
    return sum / (double)n;
}

// rows: r, or if it has more, n of them drawn into order.
static Rows as_many(Rows r, int64_t n, Mt19937 *m, int64_t *order) {
    if (r.n == n) return r;
    rows_draw(m, r, order, n);
    return (Rows){ r.f, order, n };
}

// How many directions are taken together: the rows are read and centred once for all of them, and their projections of
// one side take 32 MiB, as long as that leaves enough for a product.
static int directions_at_once(int directions, int64_t n) {
    int64_t fit = (1 << 23) / n;
    int most = fit < DIRECTIONS_LEAST ? DIRECTIONS_LEAST : fit > DIRECTIONS_MOST ? DIRECTIONS_MOST : (int)fit;
    return directions < most ? directions : most;
}

double mind(Rows a, Rows b, int directions, uint64_t seed) {
    CHECK(directions >= 1, "%d directions", directions);
    CHECK(a.f->dim == b.f->dim, "%d and %d dimensions", a.f->dim, b.f->dim);
    int64_t n = a.n < b.n ? a.n : b.n, more = a.n < b.n ? b.n : a.n;
    if (n < 1) return (double)NAN;
    CHECK(more <= INT32_MAX, "%lld rows", (long long)more);
    int dim = a.f->dim, at_once = directions_at_once(directions, n);
    size_t chunk = (size_t)at_once;
    uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    int64_t *order = xmalloc((size_t)more * sizeof *order);
    Mt19937 m;
    mt19937_seed(&m, key[0] ^ key[1]);
    a = as_many(a, n, &m, order);
    b = as_many(b, n, &m, order);
    float *centre = xmalloc((size_t)dim * sizeof *centre), *unit = xmalloc(chunk * (size_t)dim * sizeof *unit);
    float *of_a = xmalloc(chunk * (size_t)n * sizeof *of_a), *of_b = xmalloc(chunk * (size_t)n * sizeof *of_b);
    double *each = xmalloc((size_t)directions * sizeof *each);
    rows_centre(&a, &b, centre);
    for (int begin = 0; begin < directions; begin += at_once) {
        int count = directions - begin < at_once ? directions - begin : at_once;
        #pragma omp parallel for
        for (int i = 0; i < count; i++) direction(key, begin + i, dim, unit + (int64_t)i * dim);
        project(a, centre, unit, count, of_a);
        project(b, centre, unit, count, of_b);
        #pragma omp parallel for schedule(dynamic)
        for (int i = 0; i < count; i++) each[begin + i] = sorted_difference(of_a + i * n, of_b + i * n, n);
    }
    double mean = mean_and_deviation(each, directions, NULL);
    free(order);
    free(centre);
    free(unit);
    free(of_a);
    free(of_b);
    free(each);
    return 3.0 * dim * mean;
}
