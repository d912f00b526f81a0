// eval/report_entries.c - results sorted into lines of tables, and the numbers that stand in them.
#include "eval/report_entries.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/report_text.h"

// ---- metrics
enum { FID, KID, MIND, SCORE, F8, F1_8, FIDELITY, BORROWED, COPY, DIVERSITY, CAS, PRDC3, PRDC5 = PRDC3 + PR_COUNT };
const Metric metrics_known[] = {
    { "fid", "FID", "FID", BETTER_LOWER, 1, FID, false },
    { "kid", "KID \xc3\x97 10\xc2\xb3", "KID $\\times 10^3$", BETTER_LOWER, 1000, KID, false },
    { "precision", "Precision (k=5)", "Precision ($k{=}5$)", BETTER_HIGHER, 1, PRDC5 + PR_PRECISION, true },
    { "recall", "Recall (k=5)", "Recall ($k{=}5$)", BETTER_HIGHER, 1, PRDC5 + PR_RECALL, true },
    { "density", "Density (k=5)", "Density ($k{=}5$)", BETTER_HIGHER, 1, PRDC5 + PR_DENSITY, false },
    { "coverage", "Coverage (k=5)", "Coverage ($k{=}5$)", BETTER_HIGHER, 1, PRDC5 + PR_COVERAGE, true },
    { "precision3", "Precision (k=3)", "Precision ($k{=}3$)", BETTER_HIGHER, 1, PRDC3 + PR_PRECISION, true },
    { "recall3", "Recall (k=3)", "Recall ($k{=}3$)", BETTER_HIGHER, 1, PRDC3 + PR_RECALL, true },
    { "density3", "Density (k=3)", "Density ($k{=}3$)", BETTER_HIGHER, 1, PRDC3 + PR_DENSITY, false },
    { "coverage3", "Coverage (k=3)", "Coverage ($k{=}3$)", BETTER_HIGHER, 1, PRDC3 + PR_COVERAGE, true },
    { "is", "Inception Score", "IS", BETTER_HIGHER, 1, SCORE, false },
    { "prd_f8", "PRD F\xe2\x82\x88", "PRD $F_8$", BETTER_HIGHER, 1, F8, true },
    { "prd_f1_8", "PRD F\xe2\x82\x81\xe2\x82\x8f\xe2\x82\x88", "PRD $F_{1/8}$", BETTER_HIGHER, 1, F1_8, true },
    { "mind", "MIND", "MIND", BETTER_LOWER, 1, MIND, false },
    { "fidelity", "Label fidelity", "Label fidelity", BETTER_HIGHER, 1, FIDELITY, true },
    { "borrowed", "Given a more frequent label", "Borrowed", BETTER_LOWER, 1, BORROWED, true },
    { "copy", "Copy rate", "Copy rate", BETTER_LOWER, 1, COPY, true },
    { "diversity", "Diversity within a class", "Diversity", BETTER_NEITHER, 1, DIVERSITY, false },
    { "cas", "Classification accuracy score", "CAS", BETTER_HIGHER, 1, CAS, true },
};
const int n_metrics_known = sizeof metrics_known / sizeof *metrics_known;

const Metric *metric_find(const char *name) {
    for (int i = 0; i < n_metrics_known; i++)
        if (strcmp(metrics_known[i].name, name) == 0) return &metrics_known[i];
    return NULL;
}

const char *where_name(Where w, const Result *r) {
    return w.kind == OF_ALL ? "all" : w.kind == OF_GROUP ? group_names[w.index] : r->class_names[w.index];
}

static Estimate alone(double v) { return (Estimate){ v, NAN, NAN }; }

// Mean over the classes of a group, or all: each class counts once.
static double class_mean(const Result *r, const double *per_class, Where w) {
    double sum = 0;
    int n = 0;
    if (!per_class) return NAN;
    if (w.kind == OF_CLASS) return per_class[w.index];
    for (int c = 0; c < r->classes; c++) {
        bool in = w.kind == OF_ALL || (r->group_of && r->group_of[c] == w.index);
        if (in) sum += per_class[c], n++;
    }
    return n ? sum / n : (double)NAN;
}

static double share(const ResultShares *s, Where w) {
    if (w.kind == OF_CLASS) return s->per_class ? s->per_class[w.index] : (double)NAN;
    return w.kind == OF_ALL ? s->all : s->per_group[w.index];
}

static Estimate of_row(const ResultRow *row, int id) {
    switch (id) {
    case FID: return row->fid;
    case KID: return row->kid;
    case MIND: return alone(row->mind);
    case SCORE: return alone(row->is_mean);
    case F8: return alone(row->prd_f8);
    case F1_8: return alone(row->prd_f1_8);
    }
    return alone(id >= PRDC5 ? row->pr5[id - PRDC5] : row->pr3[id - PRDC3]);
}

Estimate metric_value(const Metric *m, const Result *r, Where w) {
    if (w.kind == OF_CLASS && w.index >= r->classes) return alone(NAN);
    switch (m->id) {
    case FIDELITY: return alone(share(&r->fidelity, w));
    case CAS: return alone(share(&r->cas, w));
    case BORROWED: return alone(class_mean(r, r->borrowed, w));
    case COPY: return alone(w.kind == OF_ALL && isfinite(r->copy_all) ? r->copy_all : class_mean(r, r->copy_rate, w));
    case DIVERSITY: return alone(class_mean(r, r->diversity, w));
    }
    if (w.kind == OF_CLASS) return r->per_class ? of_row(&r->per_class[w.index], m->id) : alone(NAN);
    return of_row(w.kind == OF_ALL ? &r->all : &r->per_group[w.index], m->id);
}

bool metric_present(const Metric *m, const EntrySet *e, int family, Where w) {
    for (int i = 0; i < e->n; i++)
        for (int k = 0; k < e->entry[i].n && e->entry[i].family == family; k++)
            if (isfinite(metric_value(m, e->entry[i].result[k], w).value)) return true;
    return false;
}

// ---- entries
static int family_of(EntrySet *e, const Result *r) {
    for (int f = 0; f < e->families; f++) {
        char *why = result_differs(e->family[f], r);
        free(why);
        if (!why) return f;
    }
    e->family = xrealloc(e->family, (size_t)(e->families + 1) * sizeof *e->family);
    e->family[e->families] = r;
    return e->families++;
}

static bool same_number(double a, double b) { return a == b || (isnan(a) && isnan(b)); }
static bool same_setting(const Entry *e, const Result *r) {
    bool same_sampler = e->sampler == r->sampler || (e->sampler && r->sampler && strcmp(e->sampler, r->sampler) == 0);
    return same_number(e->omega, r->omega) && same_number(e->steps, r->steps) && same_number(e->step, r->step)
        && same_sampler;
}

// Its place among those of its arm: family, then omega, then as read.
static bool add_result(EntrySet *s, const Run *run, const Result *r, Error *err) {
    int family = family_of(s, r);
    Entry *e = NULL;
    for (int i = 0; i < s->n && !e; i++)
        if (s->entry[i].arm == run->arm && s->entry[i].family == family && same_setting(&s->entry[i], r))
            e = &s->entry[i];
    if (!e) {
        s->entry = xrealloc(s->entry, (size_t)(s->n + 1) * sizeof *s->entry);
        e = &s->entry[s->n++];
        *e = (Entry){ .arm = run->arm, .family = family, .omega = r->omega, .steps = r->steps, .step = r->step,
                      .sampler = r->sampler };
    }
    for (int i = 0; i < e->n; i++)
        if (e->run[i] == run)
            return error_set(err, ERR_USAGE, "%.180s and %.180s are results of the same run at the same setting: keep "
                             "one of them", e->result[i]->path, r->path);
    e->run = xrealloc(e->run, (size_t)(e->n + 1) * sizeof *e->run);
    e->result = xrealloc(e->result, (size_t)(e->n + 1) * sizeof *e->result);
    int at = e->n++;
    for (; at > 0 && e->run[at - 1]->seed > run->seed; at--) {
        e->run[at] = e->run[at - 1];
        e->result[at] = e->result[at - 1];
    }
    e->run[at] = run;
    e->result[at] = r;
    return true;
}

// Those of more generated images first, else as read.
static void sort_families(EntrySet *s) {
    int *rank = xcalloc((size_t)s->families + 1, sizeof *rank);
    const Result **sorted = xcalloc((size_t)s->families + 1, sizeof *sorted);
    for (int f = 0; f < s->families; f++) {
        for (int g = 0; g < s->families; g++) {
            double mine = isfinite(s->family[f]->count) ? s->family[f]->count : 0;
            double other = isfinite(s->family[g]->count) ? s->family[g]->count : 0;
            rank[f] += other > mine || (other == mine && g < f);
        }
        sorted[rank[f]] = s->family[f];
    }
    for (int i = 0; i < s->n; i++) s->entry[i].family = rank[s->entry[i].family];
    free(s->family);
    free(rank);
    s->family = sorted;
}

static int compare_entries(const void *a, const void *b) {
    const Entry *x = a, *y = b;
    if (x->family != y->family) return x->family - y->family;
    if (x->arm != y->arm) return x->arm - y->arm;
    if (!same_number(x->omega, y->omega)) return isnan(x->omega) || x->omega < y->omega ? -1 : 1;
    if (!same_number(x->step, y->step)) return isnan(x->step) || x->step < y->step ? -1 : 1;
    return isnan(x->steps) || x->steps < y->steps ? -1 : x->steps > y->steps;
}

// The arm, and of the setting what is not the same everywhere (omega always, where it is known).
static void name_entries(const RunSet *runs, EntrySet *s) {
    bool steps = false, step = false, sampler = false;
    for (int i = 1; i < s->n; i++) {
        steps |= !same_number(s->entry[i].steps, s->entry[0].steps);
        step |= !same_number(s->entry[i].step, s->entry[0].step);
        sampler |= strcmp(s->entry[i].sampler ? s->entry[i].sampler : "",
                          s->entry[0].sampler ? s->entry[0].sampler : "") != 0;
    }
    for (int i = 0; i < s->n; i++) {
        Entry *e = &s->entry[i];
        Text t = { 0 };
        text_add(&t, "%s", runs->arm[e->arm].name);
        if (isfinite(e->omega)) text_add(&t, ", \xcf\x89=%g", e->omega);
        if (sampler && e->sampler) text_add(&t, ", %s", e->sampler);
        if (steps && isfinite(e->steps)) text_add(&t, ", %.0f steps", e->steps);
        if (step && isfinite(e->step)) text_add(&t, ", after %.0f", e->step);
        e->label = t.s;
    }
}

static int compare_numbers(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Each of the strengths that are asked for must be one of some result; else *err lists those that there are.
static bool check_omegas(const RunSet *s, const double *omegas, int n_omegas, Error *err) {
    int n = 0, missing = -1;
    for (int i = 0; i < s->n; i++) n += s->run[i].n_results;
    double *there = xcalloc((size_t)n + 1, sizeof *there);
    n = 0;
    for (int i = 0; i < s->n; i++)
        for (int k = 0; k < s->run[i].n_results; k++)
            if (isfinite(s->run[i].results[k]->omega)) there[n++] = s->run[i].results[k]->omega;
    qsort(there, (size_t)n, sizeof *there, compare_numbers);
    for (int o = n_omegas - 1; o >= 0; o--)
        if (!bsearch(&omegas[o], there, (size_t)n, sizeof *there, compare_numbers)) missing = o;
    Text t = { 0 };
    for (int i = 0; i < n && missing >= 0; i++)
        if (i == 0 || there[i] != there[i - 1]) text_add(&t, "%s%g", i ? ", " : "", there[i]);
    if (missing >= 0)
        error_set(err, ERR_USAGE, "--omega %g: no result is of this guidance strength; there are %.400s",
                  omegas[missing], t.s ? t.s : "none at all");
    text_free(&t);
    free(there);
    return missing < 0;
}

bool entries_of(const RunSet *s, const double *omegas, int n_omegas, EntrySet *out, Error *err) {
    *out = (EntrySet){ 0 };
    if (!check_omegas(s, omegas, n_omegas, err)) return false;
    for (int i = 0; i < s->n; i++)
        for (int k = 0; k < s->run[i].n_results; k++) {
            const Result *r = s->run[i].results[k];
            bool wanted = n_omegas == 0;
            for (int o = 0; o < n_omegas; o++) wanted |= r->omega == omegas[o];
            if (wanted && !add_result(out, &s->run[i], r, err)) return false;
        }
    sort_families(out);
    if (out->n) qsort(out->entry, (size_t)out->n, sizeof *out->entry, compare_entries);
    name_entries(s, out);
    return true;
}

void entries_free(EntrySet *e) {
    for (int i = 0; i < e->n; i++) {
        free(e->entry[i].label);
        free(e->entry[i].run);
        free(e->entry[i].result);
    }
    free(e->entry);
    free(e->family);
    *e = (EntrySet){ 0 };
}

// ---- cells
static double *values_of(const Entry *e, const Metric *m, Where w, int *n) {
    double *x = xmalloc((size_t)(e->n + 1) * sizeof *x);
    *n = 0;
    for (int i = 0; i < e->n; i++) {
        double v = metric_value(m, e->result[i], w).value;
        if (isfinite(v)) x[(*n)++] = v;
    }
    return x;
}

Cell cell_of(const Entry *e, const Metric *m, Where w) {
    int n;
    double *x = values_of(e, m, w, &n);
    MeanInterval over = mean_interval(x, n);
    Cell c = { n, over.mean, over.low, over.high, n > 1 ? INTERVAL_SEEDS : INTERVAL_NONE, n == e->n };
    free(x);
    for (int i = 0; i < e->n && n == 1; i++) {
        Estimate v = metric_value(m, e->result[i], w);
        if (!isfinite(v.value) || !isfinite(v.low) || !isfinite(v.high)) continue;
        c.low = v.low;
        c.high = v.high;
        c.interval = INTERVAL_BOOTSTRAP;
    }
    return c;
}

MeanInterval entry_difference(const Entry *a, const Entry *b, const Metric *m, Where w, TestKind *test) {
    double *x = xmalloc((size_t)(a->n + 1) * sizeof *x), *y = xmalloc((size_t)(a->n + 1) * sizeof *y);
    int n = 0, na, nb;
    for (int i = 0; i < a->n; i++)
        for (int k = 0; k < b->n; k++) {
            double va = metric_value(m, a->result[i], w).value, vb = metric_value(m, b->result[k], w).value;
            if (a->run[i]->seed != b->run[k]->seed || !isfinite(va) || !isfinite(vb)) continue;
            x[n] = va;
            y[n++] = vb;
            break;
        }
    MeanInterval d = paired_interval(x, y, n);
    *test = n >= 2 ? TEST_PAIRED : TEST_NONE;
    free(x);
    free(y);
    if (n >= 2) return d;
    x = values_of(a, m, w, &na);
    y = values_of(b, m, w, &nb);
    d = (MeanInterval){ 0, NAN, NAN, NAN };
    if (na >= 2 && nb >= 2) d = welch_interval(x, na, y, nb), *test = TEST_WELCH;
    else if (na && nb) d.mean = mean_interval(x, na).mean - mean_interval(y, nb).mean;
    free(x);
    free(y);
    return d;
}
