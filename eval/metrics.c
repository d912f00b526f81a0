// eval/metrics.c - which rows are judged together, and every metric of them.
#include "eval/metrics.h"

#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/linalg.h"
#include "eval/metrics_impl.h"

enum {
    DIM_MAX = 16384,                                          // of eval/linalg.h
    KID_SUBSETS = 100, KID_SIZE = 1000, KID_SEED = 2020,      // as torch-fidelity has them
    PRD_ANGLES = 1001, CLUSTERS_PER_CLASS = 20,               // as the published CBDM code has them
};

const char *const metric_names[] = { "fid", "kid", "prdc", "is", "prd", "mind", NULL };
const MetricOptions metric_options = {
    .strict = true, .splits = 10, .prd_clusters = 20, .prd_runs = 10, .mind_directions = 1000,
    .bootstrap = 200, .bootstrap_cost = 2e11,
};

static const double none = (double)NAN;

static MetricRow empty_row(void) {
    Interval i = { none, none, none };
    Prdc p = { none, none, none, none };
    return (MetricRow){ .fid = i, .kid = i, .kid_std = none, .pr3 = p, .pr5 = p, .is_mean = none, .is_std = none,
                        .mind = none, .prd = { none, none, none, none } };
}

// ---- rows of a class, a group, all
typedef struct { Rows gen, ref; int classes; const char *name; MetricRow *row; } Part;   // classes: in it
typedef struct { Part *parts; int n; int64_t *idx[2]; char **names; } Parts;

// Rows of each class one after the other, in file order: start (classes + 1) are the limits, idx (n) the rows.
static void rows_by_class(const Features *f, int classes, int64_t *start, int64_t *idx) {
    int64_t *at = xcalloc((size_t)classes + 1, sizeof *at);
    memset(start, 0, ((size_t)classes + 1) * sizeof *start);
    for (int64_t i = 0; i < f->n; i++) start[f->label[i] + 1]++;
    for (int c = 0; c < classes; c++) at[c + 1] = start[c + 1] += start[c];
    for (int64_t i = 0; i < f->n; i++) idx[at[f->label[i]]++] = i;
    free(at);
}

// Indices, in file order, of all rows whose class is in group g.
static int64_t *rows_of_group(const Features *f, const int *of, int g, int64_t *n) {
    int64_t *idx = xmalloc((size_t)f->n * sizeof *idx);
    *n = 0;
    for (int64_t i = 0; i < f->n; i++)
        if (of[f->label[i]] == g) idx[(*n)++] = i;
    return idx;
}

static void parts_add(Parts *p, Rows gen, Rows ref, int classes, char *name, MetricRow *row) {
    p->parts = xrealloc(p->parts, (size_t)(p->n + 1) * sizeof *p->parts);
    p->names = xrealloc(p->names, (size_t)(p->n + 1) * sizeof *p->names);
    p->names[p->n] = name;
    p->parts[p->n++] = (Part){ gen, ref, classes, name, row };
    *row = empty_row();
    row->n_gen = gen.n;
    row->n_ref = ref.n;
}

// For each class, then each group, then all.
static void parts_make(const Features *gen, const Features *ref, const MetricOptions *o, Metrics *m, Parts *p) {
    const Features *f[2] = { gen, ref };
    int64_t *start[2];
    *p = (Parts){ 0 };
    if (m->classes) {
        for (int s = 0; s < 2; s++) {
            start[s] = xmalloc(((size_t)m->classes + 1) * sizeof *start[s]);
            p->idx[s] = xmalloc((size_t)f[s]->n * sizeof *p->idx[s]);
            rows_by_class(f[s], m->classes, start[s], p->idx[s]);
        }
        for (int c = 0; c < m->classes; c++) {
            Rows r[2];
            for (int s = 0; s < 2; s++) r[s] = (Rows){ f[s], p->idx[s] + start[s][c], start[s][c + 1] - start[s][c] };
            parts_add(p, r[0], r[1], 1, xasprintf("class %d", c), &m->by_class[c]);
        }
        free(start[0]);
        free(start[1]);
    }
    for (int g = 0; g < GROUP_COUNT && m->grouped; g++) {
        Rows r[2];
        int classes = 0;
        for (int s = 0; s < 2; s++) {
            int64_t n, *idx = rows_of_group(f[s], o->group_of, g, &n);
            r[s] = (Rows){ f[s], idx, n };
        }
        for (int c = 0; c < m->classes; c++) classes += o->group_of[c] == g;
        parts_add(p, r[0], r[1], classes, xstrdup(group_names[g]), &m->by_group[g]);
    }
    Rows all_ref = { ref, NULL, ref ? ref->n : o->ref_gaussian->n };
    parts_add(p, (Rows){ gen, NULL, gen->n }, all_ref, m->classes, xstrdup("all"), &m->all);
}

static void parts_free(Parts *p, const Metrics *m) {
    for (int i = 0; i < p->n; i++) {
        const MetricRow *row = p->parts[i].row;
        if (row >= m->by_group && row < m->by_group + GROUP_COUNT) {
            free((void *)(uintptr_t)p->parts[i].gen.idx);
            free((void *)(uintptr_t)p->parts[i].ref.idx);
        }
        free(p->names[i]);
    }
    free(p->names);
    free(p->parts);
    free(p->idx[0]);
    free(p->idx[1]);
}

// ---- the metrics of one part
static bool fid_possible(const Part *p) { return p->gen.n >= 2 && p->ref.n >= 2; }

static void fit_rows(Rows r, Gaussian *out) { gaussian_fit(r.f, r.idx, r.n, out); }

static void fid_of(const Part *p) {
    MetricRow *row = p->row;
    if (row->by_rows) {
        row->fid.value = frechet_distance_rows(p->gen.f, p->gen.idx, p->gen.n, p->ref.f, p->ref.idx, p->ref.n);
        return;
    }
    Gaussian a, b;
    fit_rows(p->gen, &a);
    fit_rows(p->ref, &b);
    row->fid.value = frechet_distance(&a, &b);
    gaussian_free(&a);
    gaussian_free(&b);
}

// Distances of small parts side by side, as many as memory allows; the last part, all, on every thread.
static void fids_of(const Parts *p) {
    int threads = omp_get_max_threads(), last = p->n - 1;
    for (int i = 0; i < p->n; i++) {
        const Part *part = &p->parts[i];
        int64_t few = part->gen.n < part->ref.n ? part->gen.n : part->ref.n;
        int dim = part->gen.f->dim;
        part->row->by_rows = few <= dim;
        int fit = frechet_threads(part->gen.n, part->ref.n, dim, part->row->by_rows);
        if (i < last && fit < threads) threads = fit;
    }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int i = 0; i < last; i++)
        if (fid_possible(&p->parts[i])) fid_of(&p->parts[i]);
    if (fid_possible(&p->parts[last])) fid_of(&p->parts[last]);
}

static void pairs_of(const Part *p, const MetricOptions *o) {
    MetricRow *row = p->row;
    int k[2] = { 3, 5 }, n_k = 0;
    int64_t few = p->gen.n < p->ref.n ? p->gen.n : p->ref.n;
    if (!(o->skip & METRIC_PRDC)) n_k = few > k[1] ? 2 : few > k[0] ? 1 : 0;   // a row needs k others on its side
    bool kid = !(o->skip & METRIC_KID) && few >= 2;
    Prdc out[2] = { row->pr3, row->pr5 };
    double value = none;
    if (n_k) pairs_all(p->ref, p->gen, k, n_k, o->strict, kid && !o->kid_subsets ? &value : NULL, out);
    else if (kid && !o->kid_subsets) value = kid_full(p->ref, p->gen);
    if (kid && o->kid_subsets) {
        int64_t size = few < KID_SIZE ? few : KID_SIZE;
        value = kid_subsets(p->gen, p->ref, KID_SUBSETS, size, KID_SEED, &row->kid_std);
    }
    row->kid.value = value;
    row->pr3 = out[0];
    row->pr5 = out[1];
}

static int clusters_of(const Part *p, const MetricOptions *o) {
    return o->prd_clusters ? o->prd_clusters : CLUSTERS_PER_CLASS * (p->classes ? p->classes : 1);
}

static void distribution_of(const Part *p, const MetricOptions *o) {
    MetricRow *row = p->row;
    int64_t few = p->gen.n < p->ref.n ? p->gen.n : p->ref.n;
    if (!(o->skip & METRIC_IS) && p->gen.f->probs && p->gen.n >= o->splits)
        row->is_mean = inception_score(p->gen.f, p->gen.idx, p->gen.n, o->splits, o->shuffle, &row->is_std);
    if (!p->ref.f || few < 1) return;
    int clusters = clusters_of(p, o);
    if (!(o->skip & METRIC_PRD) && clusters <= p->gen.n + p->ref.n)
        row->prd = prd(p->ref, p->gen, clusters, o->prd_runs, PRD_ANGLES, o->seed);
    if (!(o->skip & METRIC_MIND)) row->mind = mind(p->ref, p->gen, o->mind_directions, o->seed);
}

// False: left out for its cost.
static bool intervals_of(const Part *p, const MetricOptions *o) {
    MetricRow *row = p->row;
    int dim = p->gen.f->dim;
    bool dear = false;
    if (!isnan(row->kid.value)) {
        double cost = bootstrap_kid_cost(p->ref.n, p->gen.n, dim, o->bootstrap), value = row->kid.value;
        if (cost > o->bootstrap_cost) dear = true;
        else row->kid = bootstrap_kid(p->ref, p->gen, o->bootstrap, o->seed);
        row->kid.value = value;
    }
    if (!isnan(row->fid.value)) {
        double cost = bootstrap_fid_cost(p->ref.n, p->gen.n, dim, row->by_rows, o->bootstrap);
        if (cost > o->bootstrap_cost) dear = true;
        else row->fid = bootstrap_fid(p->ref, p->gen, row->fid.value, row->by_rows, o->bootstrap, o->seed);
    }
    return !dear;
}

static void progress(const char *what, const Part *p) {
    char *line = xasprintf("metrics: %s of %s (%" PRId64 " generated, %" PRId64 " reference)", what, p->name, p->gen.n,
                           p->ref.n);
    log_progress(line);
    free(line);
}

static void fid_of_statistics(const Features *gen, const MetricOptions *o, MetricRow *row) {
    Gaussian g;
    if (gen->n < 2 || (o->skip & METRIC_FID)) return;
    gaussian_fit(gen, NULL, 0, &g);
    row->fid.value = frechet_distance(&g, o->ref_gaussian);
    gaussian_free(&g);
}

void metrics_compute(const Features *gen, const Features *ref, const MetricOptions *o, Metrics *out) {
    Parts p;
    int classes = ref && gen->label && ref->label ? o->classes : 0;
    *out = (Metrics){ .classes = classes, .dim = gen->dim, .grouped = classes && o->group_of };
    out->by_class = xcalloc((size_t)classes + 1, sizeof *out->by_class);
    for (int g = 0; g < GROUP_COUNT; g++) out->by_group[g] = empty_row();
    parts_make(gen, ref, o, out, &p);
    if (!ref) fid_of_statistics(gen, o, &out->all);
    else if (!(o->skip & METRIC_FID)) log_progress("metrics: Frechet distances"), fids_of(&p);
    for (int i = 0; i < p.n; i++) {
        const Part *part = &p.parts[i];
        progress("neighbours and distributions", part);
        if (ref) pairs_of(part, o);
        distribution_of(part, o);
        if (!ref || o->bootstrap == 0) continue;
        progress("intervals", part);
        if (!intervals_of(part, o))
            metrics_warn(out, "%s: no interval, or not of every metric: %d resamples would cost more than "
                         "--bootstrap-cost allows", part->name, o->bootstrap);
    }
    log_progress(NULL);
    double sum = 0;
    int counted = 0;
    for (int c = 0; c < classes; c++)
        if (!isnan(out->by_class[c].fid.value)) sum += out->by_class[c].fid.value, counted++;
    out->per_class_fid_mean = counted ? sum / counted : none;
    metrics_warnings(gen, ref, o, out);
    parts_free(&p, out);
}

// ---- checks
static bool check_labels(const Features *f, int classes, Error *err) {
    for (int64_t i = 0; i < f->n; i++)
        if (f->label[i] < 0 || f->label[i] >= classes)
            return error_set(err, ERR_FILE, "%s: row %" PRId64 " (the first is 0) has label %d, where 0 to %d are "
                             "legal", f->name, i, f->label[i], classes - 1);
    return true;
}

bool metrics_check(const Features *gen, const Features *ref, const MetricOptions *o, Error *err) {
    int dim = ref ? ref->dim : o->ref_gaussian->dim;
    const char *name = ref ? ref->name : "the reference";
    if (!linalg_there(err)) return false;
    if (gen->dim != dim)
        return error_set(err, ERR_FILE, "%s has features of %d dimensions, %s of %d: both must come from the same "
                         "extractor", gen->name, gen->dim, name, dim);
    if (dim > DIM_MAX && !(o->skip & METRIC_FID))
        return error_set(err, ERR_USAGE, "features of %d dimensions: the FID is computed up to %d; --skip fid leaves "
                         "it out", dim, DIM_MAX);
    if (!o->classes || !ref || !gen->label || !ref->label) return true;
    return check_labels(gen, o->classes, err) && check_labels(ref, o->classes, err);
}

void metrics_free(Metrics *m) {
    for (int i = 0; i < m->n_warnings; i++) free(m->warnings[i]);
    free(m->warnings);
    free(m->by_class);
    memset(m, 0, sizeof *m);
}
