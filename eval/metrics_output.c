// eval/metrics_output.c - metrics as the members of a result file (eval/README.md) and as a table for people.
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/metrics_impl.h"

// ---- JSON
// Every digit of v, so that it reads back as the same number; null where there is none.
static void number(FILE *f, const char *name, double v) {
    if (isfinite(v)) fprintf(f, "\"%s\": %.17g", name, v);
    else fprintf(f, "\"%s\": null", name);
}

static void numbers(FILE *f, const char *const *names, const double *v, int n) {
    for (int i = 0; i < n; i++) {
        if (i) fputs(", ", f);
        number(f, names[i], v[i]);
    }
}

static void interval(FILE *f, const char *name, Interval i) {
    if (isfinite(i.low)) fprintf(f, "\"%s\": [%.17g, %.17g]", name, i.low, i.high);
    else fprintf(f, "\"%s\": null", name);
}

static void prdc_json(FILE *f, const char *name, Prdc p) {
    static const char *const names[] = { "precision", "recall", "density", "coverage" };
    fprintf(f, "\"%s\": {", name);
    numbers(f, names, (double[]){ p.precision, p.recall, p.density, p.coverage }, 4);
    fputs("}", f);
}

static void is_json(FILE *f, const MetricRow *r) {
    fputs("\"inception_score\": {", f);
    numbers(f, (const char *const[]){ "mean", "std" }, (double[]){ r->is_mean, r->is_std }, 2);
    fputs("}", f);
}

static const char *route(const MetricRow *r) {
    return !isfinite(r->fid.value) ? "null" : r->by_rows ? "\"nuclear\"" : "\"eigen\"";
}

static void row_json(FILE *f, const MetricRow *r) {
    fprintf(f, "{\"n_gen\": %" PRId64 ", \"n_ref\": %" PRId64 ", ", r->n_gen, r->n_ref);
    number(f, "fid", r->fid.value);
    fputs(", ", f);
    interval(f, "fid_interval", r->fid);
    fprintf(f, ", \"fid_route\": %s, ", route(r));
    numbers(f, (const char *const[]){ "kid", "kid_std" }, (double[]){ r->kid.value, r->kid_std }, 2);
    fputs(", ", f);
    interval(f, "kid_interval", r->kid);
    fputs(", ", f);
    prdc_json(f, "pr3", r->pr3);
    fputs(", ", f);
    prdc_json(f, "pr5", r->pr5);
    fputs(", ", f);
    is_json(f, r);
    fputs(", ", f);
    numbers(f, (const char *const[]){ "prd_f8", "prd_f1_8", "prd_f8_std", "prd_f1_8_std", "mind" },
            (double[]){ r->prd.f8, r->prd.f1_8, r->prd.f8_std, r->prd.f1_8_std, r->mind }, 5);
    fputs("}", f);
}

static void options_json(FILE *f, const MetricOptions *o) {
    static const char *const truth[] = { "false", "true" };
    fprintf(f, "\"options\": {\"loose\": %s, \"kid-subsets\": %s, \"is-splits\": %d, \"is-shuffle\": %s, "
            "\"prd-clusters\": %d, \"prd-runs\": %d, \"mind-directions\": %d, ", truth[!o->strict],
            truth[o->kid_subsets], o->splits, truth[o->shuffle], o->prd_clusters, o->prd_runs, o->mind_directions);
    fprintf(f, "\"bootstrap\": %d, \"bootstrap-cost\": %.17g, \"seed\": %" PRIu64 ", \"classes\": %d, \"skip\": [",
            o->bootstrap, o->bootstrap_cost, o->seed, o->classes);
    for (int i = 0, n = 0; metric_names[i]; i++)
        if (o->skip >> i & 1) fprintf(f, "%s\"%s\"", n++ ? ", " : "", metric_names[i]);
    fputs("]}", f);
}

// By which of the published definitions each number was computed.
static void variants_json(FILE *f, const Metrics *m, const MetricOptions *o) {
    const char *inside = o->strict ? "d < r" : "d <= r";
    fprintf(f, "\"variants\": {\"fid\": %s, \"kid\": \"%s\", \"pr3\": \"k = 3, %s\", \"pr5\": \"k = 5, %s\", "
            "\"inception_score\": \"%d %s parts\", ", route(&m->all), o->kid_subsets ? "100 subsets of 1000, unbiased" :
            "all pairs, unbiased", inside, inside, o->splits, o->shuffle ? "shuffled" : "contiguous");
    if (o->prd_clusters) fprintf(f, "\"prd\": \"Lloyd, %d clusters, %d runs\", ", o->prd_clusters, o->prd_runs);
    else fprintf(f, "\"prd\": \"Lloyd, 20 clusters a class, %d runs\", ", o->prd_runs);
    fprintf(f, "\"mind\": \"%d directions\", \"interval\": \"%d resamples, 95%%\"}", o->mind_directions, o->bootstrap);
}

static void classes_json(FILE *f, const Metrics *m) {
    fputs(",\n\"per_class_fid\": [", f);
    for (int c = 0; c < m->classes; c++) {
        double v = m->by_class[c].fid.value;
        if (c) fputs(", ", f);
        if (isfinite(v)) fprintf(f, "%.17g", v);
        else fputs("null", f);
    }
    fputs("], ", f);
    number(f, "per_class_fid_mean", m->per_class_fid_mean);
    fputs(",\n\"per_class\": [", f);
    for (int c = 0; c < m->classes; c++) {
        fputs(c ? ",\n  " : "\n  ", f);
        row_json(f, &m->by_class[c]);
    }
    fputs("]", f);
}

char *metrics_json(const Metrics *m, const MetricOptions *o) {
    char *text;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    CHECK(f, "no memory for text");
    const MetricRow *a = &m->all;
    options_json(f, o);
    fputs(",\n", f);
    variants_json(f, m, o);
    fputs(",\n", f);
    numbers(f, (const char *const[]){ "fid", "kid", "mind", "prd_f8", "prd_f1_8" },
            (double[]){ a->fid.value, a->kid.value, a->mind, a->prd.f8, a->prd.f1_8 }, 5);
    fputs(",\n", f);
    is_json(f, a);
    fputs(",\n", f);
    prdc_json(f, "pr3", a->pr3);
    fputs(",\n", f);
    prdc_json(f, "pr5", a->pr5);
    if (m->classes) classes_json(f, m);
    if (m->grouped) {
        fputs(",\n\"per_group\": {", f);
        for (int g = 0; g < GROUP_COUNT; g++) {
            fprintf(f, "%s\"%s\": ", g ? ",\n  " : "\n  ", group_names[g]);
            row_json(f, &m->by_group[g]);
        }
        fputs("}", f);
    }
    fputs(",\n\"overall\": ", f);
    row_json(f, a);
    fputs(",\n\"warnings\": [", f);
    for (int i = 0; i < m->n_warnings; i++) {
        char *quoted = json_quote(m->warnings[i]);
        fprintf(f, "%s%s", i ? ",\n  " : "\n  ", quoted);
        free(quoted);
    }
    fputs("]", f);
    CHECK(fclose(f) == 0, "no memory for text");
    return text;
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
