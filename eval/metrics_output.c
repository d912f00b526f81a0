// eval/metrics_output.c - metrics as the members of a result file (eval/README.md) and as a table for people.
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/metrics_impl.h"

// ---- JSON
static void interval(JsonText *j, const char *name, Interval i) {
    if (isfinite(i.low)) jtext_numbers(j, name, (double[]){ i.low, i.high }, 2);
    else jtext_number(j, name, i.low);
}

static void prdc_json(JsonText *j, const char *name, Prdc p) {
    jtext_open(j, name, '{');
    jtext_number(j, "precision", p.precision);
    jtext_number(j, "recall", p.recall);
    jtext_number(j, "density", p.density);
    jtext_number(j, "coverage", p.coverage);
    jtext_close(j, '}');
}

static void is_json(JsonText *j, const MetricRow *r) {
    jtext_open(j, "inception_score", '{');
    jtext_number(j, "mean", r->is_mean);
    jtext_number(j, "std", r->is_std);
    jtext_close(j, '}');
}

static const char *route(const MetricRow *r) {
    return !isfinite(r->fid.value) ? NULL : r->by_rows ? "nuclear" : "eigen";
}

static void row_json(JsonText *j, const char *name, const MetricRow *r) {
    jtext_open(j, name, '{');
    jtext_whole(j, "n_gen", r->n_gen);
    jtext_whole(j, "n_ref", r->n_ref);
    jtext_number(j, "fid", r->fid.value);
    interval(j, "fid_interval", r->fid);
    jtext_string(j, "fid_route", route(r));
    jtext_number(j, "kid", r->kid.value);
    jtext_number(j, "kid_std", r->kid_std);
    interval(j, "kid_interval", r->kid);
    prdc_json(j, "pr3", r->pr3);
    prdc_json(j, "pr5", r->pr5);
    is_json(j, r);
    jtext_number(j, "prd_f8", r->prd.f8);
    jtext_number(j, "prd_f1_8", r->prd.f1_8);
    jtext_number(j, "prd_f8_std", r->prd.f8_std);
    jtext_number(j, "prd_f1_8_std", r->prd.f1_8_std);
    jtext_number(j, "mind", r->mind);
    jtext_close(j, '}');
}

static void options_json(JsonText *j, const MetricOptions *o) {
    char seed[24];
    snprintf(seed, sizeof seed, "%" PRIu64, o->seed);
    jtext_open(j, "options", '{');
    jtext_bool(j, "loose", !o->strict);
    jtext_bool(j, "kid-subsets", o->kid_subsets);
    jtext_whole(j, "is-splits", o->splits);
    jtext_bool(j, "is-shuffle", o->shuffle);
    jtext_whole(j, "prd-clusters", o->prd_clusters);
    jtext_whole(j, "prd-runs", o->prd_runs);
    jtext_whole(j, "mind-directions", o->mind_directions);
    jtext_whole(j, "bootstrap", o->bootstrap);
    jtext_number(j, "bootstrap-cost", o->bootstrap_cost);
    jtext_value(j, "seed", seed);
    jtext_whole(j, "classes", o->classes);
    jtext_open(j, "skip", '[');
    for (int i = 0; metric_names[i]; i++)
        if (o->skip >> i & 1) jtext_string(j, NULL, metric_names[i]);
    jtext_close(j, ']');
    jtext_close(j, '}');
}

static void variant(JsonText *j, const char *key, char *text) {
    jtext_string(j, key, text);
    free(text);
}

// By which of the published definitions each number was computed.
static void variants_json(JsonText *j, const Metrics *m, const MetricOptions *o) {
    const char *inside = o->strict ? "d < r" : "d <= r";
    jtext_open(j, "variants", '{');
    jtext_string(j, "fid", route(&m->all));
    jtext_string(j, "kid", o->kid_subsets ? "100 subsets of 1000, unbiased" : "all pairs, unbiased");
    variant(j, "pr3", xasprintf("k = 3, %s", inside));
    variant(j, "pr5", xasprintf("k = 5, %s", inside));
    variant(j, "inception_score", xasprintf("%d %s parts", o->splits, o->shuffle ? "shuffled" : "contiguous"));
    variant(j, "prd", xasprintf("Lloyd, %d clusters%s, %d runs", o->prd_clusters ? o->prd_clusters : 20,
                                o->prd_clusters ? "" : " a class", o->prd_runs));
    variant(j, "mind", xasprintf("%d directions", o->mind_directions));
    variant(j, "interval", xasprintf("%d resamples, 95%%", o->bootstrap));
    jtext_close(j, '}');
}

static void classes_json(JsonText *j, const Metrics *m) {
    jtext_open(j, "per_class_fid", '[');
    for (int c = 0; c < m->classes; c++) jtext_number(j, NULL, m->by_class[c].fid.value);
    jtext_close(j, ']');
    jtext_number(j, "per_class_fid_mean", m->per_class_fid_mean);
    jtext_open(j, "per_class", '[');
    for (int c = 0; c < m->classes; c++) row_json(j, NULL, &m->by_class[c]);
    jtext_close(j, ']');
}

void metrics_json(const Metrics *m, const MetricOptions *o, JsonText *j) {
    const MetricRow *a = &m->all;
    options_json(j, o);
    variants_json(j, m, o);
    jtext_number(j, "fid", a->fid.value);
    jtext_number(j, "kid", a->kid.value);
    jtext_number(j, "mind", a->mind);
    jtext_number(j, "prd_f8", a->prd.f8);
    jtext_number(j, "prd_f1_8", a->prd.f1_8);
    is_json(j, a);
    prdc_json(j, "pr3", a->pr3);
    prdc_json(j, "pr5", a->pr5);
    if (m->classes) classes_json(j, m);
    if (m->grouped) {
        jtext_open(j, "per_group", '{');
        for (int g = 0; g < GROUP_COUNT; g++) row_json(j, group_names[g], &m->by_group[g]);
        jtext_close(j, '}');
    }
    row_json(j, "overall", a);
    jtext_open(j, "warnings", '[');
    for (int i = 0; i < m->n_warnings; i++) jtext_string(j, NULL, m->warnings[i]);
    jtext_close(j, ']');
}

// ---- the table
static void cell(FILE *f, int width, const char *fmt, double v) {
    char text[64];
    if (!isfinite(v)) {
        fprintf(f, " %*s", width, "-");
        return;
    }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(text, sizeof text, fmt, v);
#pragma GCC diagnostic pop
    fprintf(f, " %*s", width, text);
}

static void span(FILE *f, int digits, Interval i) {
    char text[64] = "";
    if (isfinite(i.low)) snprintf(text, sizeof text, "[%.*f, %.*f]", digits, i.low, digits, i.high);
    fprintf(f, " %-20s", text);
}

static void print_row(FILE *f, int width, const char *name, const MetricRow *r, bool ranges) {
    fprintf(f, "%-*s %7" PRId64 " %7" PRId64, width, name, r->n_gen, r->n_ref);
    cell(f, 9, r->fid.value < 10 ? "%.4f" : "%.3f", r->fid.value);
    if (isfinite(r->fid.value) && r->by_rows) fputc('*', f);
    else fputc(' ', f);
    if (ranges) span(f, r->fid.value < 10 ? 4 : 3, r->fid);
    cell(f, 9, "%.5f", r->kid.value);
    if (ranges) span(f, 5, r->kid);
    cell(f, 6, "%.3f", r->pr5.precision);
    cell(f, 6, "%.3f", r->pr5.recall);
    cell(f, 7, "%.3f", r->pr5.density);
    cell(f, 8, "%.3f", r->pr5.coverage);
    fputc('\n', f);
}

static bool has_ranges(const Metrics *m) {
    bool any = isfinite(m->all.fid.low) || isfinite(m->all.kid.low);
    for (int c = 0; c < m->classes; c++) any |= isfinite(m->by_class[c].fid.low) || isfinite(m->by_class[c].kid.low);
    return any;
}

static bool any_by_rows(const Metrics *m) {
    bool any = m->all.by_rows && isfinite(m->all.fid.value);
    for (int c = 0; c < m->classes; c++) any |= m->by_class[c].by_rows && isfinite(m->by_class[c].fid.value);
    return any;
}

static int name_width(const Metrics *m, const char *const *names) {
    int width = 15;                                             // "mean of classes"
    for (int c = 0; names && c < m->classes; c++)
        if ((int)strlen(names[c]) + 4 > width) width = (int)strlen(names[c]) + 4;
    return width;
}

static void print_below(FILE *f, const Metrics *m, const MetricOptions *o) {
    const MetricRow *a = &m->all;
    const char *inside = o->strict ? "d < r" : "d <= r";
    if (isfinite(a->pr5.precision)) fprintf(f, "k = 5, %s: prec, recall, density, coverage above\n", inside);
    if (isfinite(a->pr3.precision))
        fprintf(f, "k = 3, %s: precision %.4f  recall %.4f  density %.4f  coverage %.4f\n", inside, a->pr3.precision,
                a->pr3.recall, a->pr3.density, a->pr3.coverage);
    if (isfinite(a->kid_std)) fprintf(f, "KID over subsets: standard deviation %.6f\n", a->kid_std);
    if (isfinite(a->is_mean))
        fprintf(f, "Inception Score %.4f, standard deviation %.4f over %d %s parts\n", a->is_mean, a->is_std, o->splits,
                o->shuffle ? "shuffled" : "contiguous");
    if (isfinite(a->prd.f8))
        fprintf(f, "PRD F_8 %.4f (%.4f)  F_1/8 %.4f (%.4f): mean and standard deviation over %d clusterings\n",
                a->prd.f8, a->prd.f8_std, a->prd.f1_8, a->prd.f1_8_std, o->prd_runs);
    if (isfinite(a->mind)) fprintf(f, "MIND %.4f over %d directions\n", a->mind, o->mind_directions);
    if (any_by_rows(m)) fprintf(f, "* from the rows, by a nuclear norm: no more rows than dimensions\n");
}

void metrics_print(const Metrics *m, const MetricOptions *o, const char *const *class_names, FILE *f) {
    int width = name_width(m, class_names);
    bool ranges = has_ranges(m);
    fprintf(f, "%-*s %7s %7s %9s ", width, "", "n_gen", "n_ref", "fid");
    if (ranges) fprintf(f, " %-20s", "95%");
    fprintf(f, " %9s", "kid");
    if (ranges) fprintf(f, " %-20s", "95%");
    fprintf(f, " %6s %6s %7s %8s\n", "prec", "recall", "density", "coverage");
    for (int c = 0; c < m->classes; c++) {
        char *name = xasprintf("%-3d %s", c, class_names ? class_names[c] : "");
        print_row(f, width, name, &m->by_class[c], ranges);
        free(name);
    }
    for (int g = 0; g < GROUP_COUNT && m->grouped; g++) print_row(f, width, group_names[g], &m->by_group[g], ranges);
    print_row(f, width, "all", &m->all, ranges);
    if (isfinite(m->per_class_fid_mean)) {
        fprintf(f, "%-*s %7s %7s", width, "mean of classes", "", "");
        cell(f, 9, m->per_class_fid_mean < 10 ? "%.4f" : "%.3f", m->per_class_fid_mean);
        fputc('\n', f);
    }
    print_below(f, m, o);
    for (int i = 0; i < m->n_warnings; i++) fprintf(f, "warning: %s\n", m->warnings[i]);
}
