// eval/questions.c - label fidelity, memorisation and diversity, from tables of features.
#include "eval/questions.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/pairs.h"

const double copy_quantile = 0.01;

// ---- shares
static double share(int64_t right, int64_t seen) { return seen ? (double)right / (double)seen : (double)NAN; }

void shares_of(const ClassTable *t, const int64_t *right, const int64_t *seen, Shares *out) {
    int64_t r[GROUP_COUNT + 1] = { 0 }, s[GROUP_COUNT + 1] = { 0 };
    out->by_class = xmalloc((size_t)t->classes * sizeof *out->by_class);
    for (int c = 0; c < t->classes; c++) {
        out->by_class[c] = share(right[c], seen[c]);
        r[GROUP_COUNT] += right[c];
        s[GROUP_COUNT] += seen[c];
        if (!t->group_of || t->group_of[c] < 0) continue;
        r[t->group_of[c]] += right[c];
        s[t->group_of[c]] += seen[c];
    }
    for (int g = 0; g < GROUP_COUNT; g++) out->by_group[g] = share(r[g], s[g]);
    out->all = share(r[GROUP_COUNT], s[GROUP_COUNT]);
}

void shares_free(Shares *s) {
    free(s->by_class);
    *s = (Shares){ 0 };
}

// Shares of the images with yes[i], by their labels; images without a label do not count.
static void shares_of_flags(const ClassTable *t, const int32_t *label, const bool *yes, int64_t n, Shares *out) {
    int64_t *right = xcalloc((size_t)t->classes, sizeof *right), *seen = xcalloc((size_t)t->classes, sizeof *seen);
    for (int64_t i = 0; i < n; i++) {
        if (label[i] < 0) continue;
        seen[label[i]]++;
        right[label[i]] += yes[i];
    }
    shares_of(t, right, seen, out);
    free(right);
    free(seen);
}

// ---- label fidelity
int32_t *largest_probs(const Features *f) {
    CHECK(f->probs && f->classes > 0, "features without probabilities");
    int32_t *given = xmalloc((size_t)f->n * sizeof *given);
    for (int64_t i = 0; i < f->n; i++) {
        const float *p = f->probs + i * f->classes;
        given[i] = 0;
        for (int c = 1; c < f->classes; c++)
            if (p[c] > p[given[i]]) given[i] = c;
    }
    return given;
}

static void right_ones(const ClassTable *t, const int32_t *label, const int32_t *given, int64_t n, Shares *out) {
    bool *right = xmalloc((size_t)n * sizeof *right);
    for (int64_t i = 0; i < n; i++) right[i] = label[i] == given[i];
    shares_of_flags(t, label, right, n, out);
    free(right);
}

void fidelity_of(const ClassTable *t, const int32_t *label, const int32_t *given, int64_t n,
                 const int32_t *real_label, const int32_t *real_given, int64_t real_n, Fidelity *out) {
    size_t k = (size_t)t->classes;
    right_ones(t, label, given, n, &out->generated);
    right_ones(t, real_label, real_given, real_n, &out->real);
    out->confusion = xcalloc(k * k, sizeof *out->confusion);
    out->borrowed = xmalloc(k * sizeof *out->borrowed);
    for (int64_t i = 0; i < n; i++)
        if (label[i] >= 0) out->confusion[(size_t)label[i] * k + (size_t)given[i]]++;
    for (size_t c = 0; c < k; c++) {
        int64_t all = 0, taken = 0;
        for (size_t g = 0; g < k; g++) {
            all += out->confusion[c * k + g];
            if (t->train_counts[g] > t->train_counts[c]) taken += out->confusion[c * k + g];
        }
        out->borrowed[c] = share(taken, all);
    }
}

void fidelity_free(Fidelity *f) {
    shares_free(&f->generated);
    shares_free(&f->real);
    free(f->confusion);
    free(f->borrowed);
    *f = (Fidelity){ 0 };
}

// ---- memorisation
static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Below it lie a share q of the distances, rounded down.
static double quantile_of(double *distance, int64_t n, double q) {
    qsort(distance, (size_t)n, sizeof *distance, by_value);
    return distance[(int64_t)(q * (double)n)];
}

static void find_thresholds(const ClassTable *t, const Features *held_out, const double *distance, Nearest *out) {
    double *some = xmalloc((size_t)held_out->n * sizeof *some);
    memcpy(some, distance, (size_t)held_out->n * sizeof *some);
    out->threshold = quantile_of(some, held_out->n, out->quantile);
    out->thresholds = xmalloc((size_t)t->classes * sizeof *out->thresholds);
    for (int c = 0; c < t->classes; c++) {
        int64_t n = 0;
        for (int64_t i = 0; i < held_out->n; i++)
            if (held_out->label[i] == c) some[n++] = distance[i];
        bool resolved = (double)n * out->quantile >= 1;
        out->thresholds[c] = resolved ? quantile_of(some, n, out->quantile) : out->threshold;
    }
    free(some);
}

static void count_copies(const ClassTable *t, const Features *f, const double *distance, const Nearest *by,
                         Shares *out) {
    bool *copy = xcalloc((size_t)f->n, sizeof *copy);
    for (int64_t i = 0; i < f->n; i++)
        if (f->label[i] >= 0) copy[i] = distance[i] <= 0 || distance[i] < by->thresholds[f->label[i]];
    shares_of_flags(t, f->label, copy, f->n, out);
    free(copy);
}

// own: the distance of a training image from its nearest other one, of those only that are nearest to some sample.
static void count_authentic(const ClassTable *t, const Features *gen, const Features *train, const int64_t *where,
                            const double *distance, Shares *out) {
    int64_t *asked = xmalloc((size_t)gen->n * sizeof *asked), n = 0;
    double *own = xmalloc((size_t)train->n * sizeof *own);
    bool *seen = xcalloc((size_t)train->n, sizeof *seen), *yes = xmalloc((size_t)gen->n * sizeof *yes);
    for (int64_t i = 0; i < gen->n; i++)
        if (!seen[where[i]]) seen[where[i]] = true, asked[n++] = where[i];
    int64_t *two = xmalloc(2 * (size_t)n * sizeof *two);
    double *far = xmalloc(2 * (size_t)n * sizeof *far);
    nearest_rows((Rows){ train, asked, n }, (Rows){ train, NULL, train->n }, 2, two, far);
    // The row itself is one of the two, unless at least two others lie at distance 0: then that is the answer.
    for (int64_t i = 0; i < n; i++) own[asked[i]] = two[2 * i] == asked[i] ? far[2 * i + 1] : far[2 * i];
    for (int64_t i = 0; i < gen->n; i++) yes[i] = distance[i] > own[where[i]];
    shares_of_flags(t, gen->label, yes, gen->n, out);
    free(asked);
    free(own);
    free(seen);
    free(yes);
    free(two);
    free(far);
}

static int by_distance(const void *a, const void *b) {
    const NearPair *x = a, *y = b;
    if (x->distance != y->distance) return x->distance < y->distance ? -1 : 1;
    return (x->gen > y->gen) - (x->gen < y->gen);
}

static void find_pairs(const ClassTable *t, const Features *gen, const Features *train, const int64_t *where,
                       const double *distance, Nearest *out) {
    NearPair *all = xmalloc((size_t)gen->n * sizeof *all);
    out->pairs = xmalloc((size_t)t->classes * NEAR_PAIRS * sizeof *out->pairs);
    out->n_pairs = 0;
    for (int c = 0; c < t->classes; c++) {
        int64_t n = 0;
        for (int64_t i = 0; i < gen->n; i++)
            if (gen->label[i] == c) all[n++] = (NearPair){ c, train->label[where[i]], i, where[i], distance[i] };
        qsort(all, (size_t)n, sizeof *all, by_distance);
        for (int64_t i = 0; i < n && i < NEAR_PAIRS; i++) out->pairs[out->n_pairs++] = all[i];
    }
    free(all);
}

void nearest_of(const ClassTable *t, const Features *gen, const Features *held_out, const Features *train,
                Nearest *out) {
    int64_t most = gen->n > held_out->n ? gen->n : held_out->n;
    int64_t *where = xmalloc((size_t)most * sizeof *where);
    double *distance = xmalloc((size_t)most * sizeof *distance);
    Rows base = { train, NULL, train->n };
    out->quantile = copy_quantile;
    nearest_rows((Rows){ held_out, NULL, held_out->n }, base, 1, where, distance);
    find_thresholds(t, held_out, distance, out);
    count_copies(t, held_out, distance, out, &out->real_copies);
    nearest_rows((Rows){ gen, NULL, gen->n }, base, 1, where, distance);
    count_copies(t, gen, distance, out, &out->copies);
    count_authentic(t, gen, train, where, distance, &out->authentic);
    find_pairs(t, gen, train, where, distance, out);
    free(where);
    free(distance);
}

void nearest_free(Nearest *n) {
    free(n->thresholds);
    free(n->pairs);
    shares_free(&n->copies);
    shares_free(&n->real_copies);
    shares_free(&n->authentic);
    *n = (Nearest){ 0 };
}

// ---- diversity
static double distance_of(const float *a, const float *b, int dim) {
    double sum = 0;
    for (int k = 0; k < dim; k++) {
        double d = (double)a[k] - (double)b[k];
        sum += d * d;
    }
    return sqrt(sum);
}

static double mean_distance(const Features *f, const int64_t *row, int64_t n) {
    if (n < 2) return (double)NAN;
    double *of_row = xmalloc((size_t)n * sizeof *of_row), sum = 0;
#pragma omp parallel for schedule(dynamic, 8)
    for (int64_t i = 0; i < n; i++) {
        of_row[i] = 0;
        for (int64_t j = 0; j < i; j++)
            of_row[i] += distance_of(f->x + row[i] * f->dim, f->x + row[j] * f->dim, f->dim);
    }
    for (int64_t i = 0; i < n; i++) sum += of_row[i];         // in order, whatever the number of threads
    free(of_row);
    return sum / ((double)n * (double)(n - 1) / 2);
}

void diversity_of(int classes, const Features *f, double *out) {
    int64_t row[DIVERSITY_MAX];
    for (int c = 0; c < classes; c++) {
        int64_t n = 0;
        for (int64_t i = 0; i < f->n && n < DIVERSITY_MAX; i++)
            if (f->label[i] == c) row[n++] = i;
        out[c] = mean_distance(f, row, n);
    }
}
