// eval/report_compare.c - the paired bootstrap of the difference of two sets of samples.
#include "eval/report_compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/bootstrap.h"
#include "eval/frechet.h"
#include "eval/linalg.h"

const char *const paired_names[PAIRED_COUNT] = { "fid", "kid", "fidelity" };

typedef struct { const Features *a, *b, *reference; int resamples; uint64_t seed; int classes; } Job;

// ---- one part
static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Percentiles of the resamples' differences. shift: those of repeats are centred on the difference itself.
static PairedValue value_of(double a, double b, double *d, int n, bool centred) {
    PairedValue v = { a, b, b - a, NAN, NAN };
    double mean = 0;
    int kept = 0;
    for (int i = 0; i < n; i++)
        if (isfinite(d[i])) d[kept++] = d[i];
    for (int i = 0; i < kept; i++) mean += d[i] / kept;
    qsort(d, (size_t)kept, sizeof *d, ascending);
    double shift = centred ? v.difference - mean : 0;
    if (kept > 1) {
        v.low = percentile(d, kept, 0.025) + shift;
        v.high = percentile(d, kept, 0.975) + shift;
    }
    return v;
}

static double fid_of(const Rows *ref, const Rows *gen, bool by_rows) {
    if (by_rows) return frechet_distance_rows(gen->f, gen->idx, gen->n, ref->f, ref->idx, ref->n);
    Gaussian g, r;
    gaussian_fit(gen->f, gen->idx, gen->n, &g);
    gaussian_fit(ref->f, ref->idx, ref->n, &r);
    double fid = frechet_distance(&g, &r);
    gaussian_free(&g);
    gaussian_free(&r);
    return fid;
}

static void compare_distances(const Job *j, Rows a, Rows b, Rows ref, PairedRow *row) {
    double *x = xmalloc((size_t)(j->resamples + 1) * sizeof *x), *y = xmalloc((size_t)(j->resamples + 1) * sizeof *y);
    bool by_rows = a.n <= a.f->dim || ref.n <= a.f->dim;
    fid_of_resamples(ref, a, by_rows, j->resamples, j->seed, x);
    fid_of_resamples(ref, b, by_rows, j->resamples, j->seed, y);
    for (int i = 0; i < j->resamples; i++) y[i] -= x[i];
    row->value[PAIRED_FID] = value_of(fid_of(&ref, &a, by_rows), fid_of(&ref, &b, by_rows), y, j->resamples, true);
    double kid_a = kid_of_resamples(ref, a, j->resamples, j->seed, x);
    double kid_b = kid_of_resamples(ref, b, j->resamples, j->seed, y);
    for (int i = 0; i < j->resamples; i++) y[i] -= x[i];
    row->value[PAIRED_KID] = value_of(kid_a, kid_b, y, j->resamples, false);
    free(x);
    free(y);
}

static bool is_right(const Features *f, int64_t row) {
    const float *p = f->probs + row * f->classes;
    int best = 0;
    for (int c = 1; c < f->classes; c++)
        if (p[c] > p[best]) best = c;
    return best == f->label[row];
}

static void compare_fidelity(const Job *j, Rows a, Rows b, PairedRow *row) {
    double *d = xcalloc((size_t)j->resamples + 1, sizeof *d), right_a = 0, right_b = 0;
    int8_t *gain = xmalloc((size_t)a.n + 1);
    for (int64_t i = 0; i < a.n; i++) {
        bool x = is_right(a.f, a.idx[i]), y = is_right(b.f, b.idx[i]);
        right_a += x;
        right_b += y;
        gain[i] = (int8_t)(y - x);
    }
#pragma omp parallel for schedule(static)
    for (int k = 0; k < j->resamples; k++) {
        int64_t sum = 0;
        for (int64_t i = 0; i < a.n; i++) sum += gain[resampled_row(j->seed, k, i, a.n)];
        d[k] = (double)sum / (double)a.n;
    }
    double n = (double)a.n;
    row->value[PAIRED_FIDELITY] = value_of(right_a / n, right_b / n, d, j->resamples, false);
    free(d);
    free(gain);
}

// Rows of f whose label is wanted, in their order; caller frees idx.
static Rows rows_of(const Features *f, const bool *wanted) {
    int64_t *idx = xmalloc((size_t)(f->n + 1) * sizeof *idx), n = 0;
    for (int64_t i = 0; i < f->n; i++)
        if (wanted[f->label[i]]) idx[n++] = i;
    return (Rows){ f, idx, n };
}

static PairedRow compare_part(const Job *j, Where w, const bool *wanted) {
    const PairedValue none = { NAN, NAN, NAN, NAN, NAN };
    PairedRow row = { w, 0, 0, { none, none, none } };
    Rows a = rows_of(j->a, wanted), b = rows_of(j->b, wanted), ref = rows_of(j->reference, wanted);
    row.n_gen = a.n;
    row.n_ref = ref.n;
    if (a.n >= 2 && ref.n >= 2) compare_distances(j, a, b, ref, &row);
    if (a.n >= 2 && j->a->classes == j->classes && j->b->classes == j->classes) compare_fidelity(j, a, b, &row);
    free((void *)a.idx);
    free((void *)b.idx);
    free((void *)ref.idx);
    return row;
}

// ---- all parts
static int largest_label(const Features *f) {
    int most = 0;
    for (int64_t i = 0; i < f->n; i++) most = f->label[i] > most ? f->label[i] : most;
    return most;
}

static bool check_labels(const Features *f, int classes, Error *err) {
    enum { CLASSES_MAX = 10000 };
    for (int64_t i = 0; i < f->n; i++)
        if (f->label[i] < 0 || f->label[i] >= (classes ? classes : CLASSES_MAX))
            return error_set(err, ERR_FILE, "%.300s: row %lld has label %d: there are %d classes", f->name,
                             (long long)i, f->label[i], classes ? classes : CLASSES_MAX);
    return true;
}

static bool check_pairs(const Features *a, const Features *b, const Features *reference, Error *err) {
    const Features *all[] = { a, b, reference };
    for (int i = 0; i < 3; i++)
        if (!all[i]->label || all[i]->n < 2)
            return error_set(err, ERR_FILE, "%.300s: at least two rows with labels are needed to compare by class",
                             all[i]->name);
    if (a->dim != b->dim || a->dim != reference->dim)
        return error_set(err, ERR_USAGE, "features of %d, %d and %d (reference) dimensions: take all three with the "
                         "same network", a->dim, b->dim, reference->dim);
    if (a->n != b->n)
        return error_set(err, ERR_USAGE, "%.150s has %lld rows, %.150s %lld: a paired comparison needs the same "
                         "images of both (--seeds)", a->name, (long long)a->n, b->name, (long long)b->n);
    for (int64_t i = 0; i < a->n; i++)
        if (a->label[i] != b->label[i])
            return error_set(err, ERR_USAGE, "row %lld was drawn as class %d in %.150s and as %d in %.150s: a paired "
                             "comparison needs the same images of both (--seeds, --labels)", (long long)i, a->label[i],
                             a->name, b->label[i], b->name);
    return true;
}

static int compare_counts(const void *a, const void *b, void *counts) {
    int x = *(const int *)a, y = *(const int *)b;
    const double *c = counts;
    if (c && c[x] != c[y]) return c[x] > c[y] ? -1 : 1;
    return x - y;
}

static void compare_parts(const Job *j, const Result *like, Comparison *out) {
    int n = j->classes, *order = xmalloc((size_t)n * sizeof *order);
    bool *wanted = xcalloc((size_t)n, sizeof *wanted);
    for (int c = 0; c < n; c++) order[c] = c;
    qsort_r(order, (size_t)n, sizeof *order, compare_counts, like ? like->train_counts : NULL);
    out->row = xcalloc((size_t)n + GROUP_COUNT + 1, sizeof *out->row);
    for (int i = 0; i < n; i++) {
        char *line = xasprintf("comparing class %d of %d", i + 1, n);
        log_progress(line);
        free(line);
        for (int c = 0; c < n; c++) wanted[c] = c == order[i];
        out->row[out->n++] = compare_part(j, (Where){ OF_CLASS, order[i] }, wanted);
    }
    for (int k = 0; like && like->group_of && k < GROUP_COUNT; k++) {
        for (int c = 0; c < n; c++) wanted[c] = like->group_of[c] == k;
        out->row[out->n++] = compare_part(j, (Where){ OF_GROUP, k }, wanted);
    }
    for (int c = 0; c < n; c++) wanted[c] = true;
    out->row[out->n++] = compare_part(j, (Where){ OF_ALL, 0 }, wanted);
    log_progress(NULL);
    free(order);
    free(wanted);
}

bool compare_features(const Features *a, const Features *b, const Features *reference, const Result *like,
                      int resamples, uint64_t seed, Comparison *out, Error *err) {
    *out = (Comparison){ .resamples = resamples };
    if (!linalg_there(err) || !check_pairs(a, b, reference, err)) return false;
    int classes = like && like->classes ? like->classes : 0;
    if (!check_labels(a, classes, err) || !check_labels(b, classes, err) || !check_labels(reference, classes, err))
        return false;
    int of_a = largest_label(a) + 1, of_reference = largest_label(reference) + 1;
    out->classes = classes ? classes : of_a > of_reference ? of_a : of_reference;
    if (classes) out->class_names = like->class_names, out->train_counts = like->train_counts;
    out->name[0] = xstrdup(a->name);
    out->name[1] = xstrdup(b->name);
    out->reference = xstrdup(reference->name);
    Job j = { a, b, reference, resamples, seed, out->classes };
    compare_parts(&j, classes ? like : NULL, out);
    return true;
}

bool compare_files(const char *a, const char *b, const char *reference, const Result *like, int resamples,
                   uint64_t seed, Comparison *out, Error *err) {
    Features x = { 0 }, y = { 0 }, r = { 0 };
    *out = (Comparison){ 0 };
    bool ok = features_read(a, "", "", &x, err) && features_read(b, "", "", &y, err)
           && features_read(reference, "", "", &r, err)
           && compare_features(&x, &y, &r, like, resamples, seed, out, err);
    features_free(&x);
    features_free(&y);
    features_free(&r);
    return ok;
}

void comparison_free(Comparison *c) {
    free(c->name[0]);
    free(c->name[1]);
    free(c->reference);
    free(c->row);
    *c = (Comparison){ 0 };
}
