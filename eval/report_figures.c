// eval/report_figures.c - the report's figures made of results: per class, confusion, guidance, differences of arms.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/report_page.h"

enum { GRAY = SVG_COLOURS - 1, FIGURE_NAME = 96 };

// A name for the file; families beside the first have their number in it.
static const char *file_name(char out[FIGURE_NAME], const char *what, const char *part, int family) {
    int n = snprintf(out, FIGURE_NAME, "%s%s%s", what, *part ? "-" : "", part);
    if (family) snprintf(out + n, FIGURE_NAME - (size_t)n, "-protocol%d", family + 1);
    return out;
}

static void begin_grid(Page *p, bool *open) {
    if (!*open) text_add(&p->body, "<div class=\"grid\">\n");
    *open = true;
}
static void end_grid(Page *p, bool open) {
    if (open) text_add(&p->body, "</div>\n");
}

// What fill draws of each family, the first that draws anything in the open, others folded away under what their
// numbers are measured by.
typedef bool FamilyFill(Page *p, int family);        // whether it drew anything
static void each_family(Page *p, FamilyFill *fill) {
    int drawn = 0;
    for (int f = 0; f < p->entries->families; f++) {
        size_t before = p->body.n;
        char *protocol = result_protocol(p->entries->family[f]);
        text_add(&p->body, drawn ? "<details><summary>" : "<p class=\"note\">");
        if (p->entries->families > 1) text_html(&p->body, protocol);
        text_add(&p->body, drawn ? "</summary>\n" : "</p>\n");
        free(protocol);
        if (fill(p, f)) {
            if (drawn++) text_add(&p->body, "</details>\n");
        } else {
            p->body.s[p->body.n = before] = 0;
        }
    }
}

// ---- rows: classes by training frequency, then groups, then all
typedef struct { int n, n_classes; SvgRow *row; Where *at; const char *count_label; } RowList;

static int compare_counts(const void *a, const void *b, void *counts) {
    int x = *(const int *)a, y = *(const int *)b;
    const double *c = counts;
    if (c && c[x] != c[y]) return c[x] > c[y] ? -1 : 1;
    return x - y;
}

static RowList rows_of(const Result *r) {
    int room = r->classes + GROUP_COUNT + 1, *order = xmalloc((size_t)(r->classes + 1) * sizeof *order);
    RowList list = { .row = xcalloc((size_t)room, sizeof *list.row), .at = xcalloc((size_t)room, sizeof *list.at),
                     .count_label = r->train_counts ? "training images" : NULL };
    for (int c = 0; c < r->classes; c++) order[c] = c;
    qsort_r(order, (size_t)r->classes, sizeof *order, compare_counts, r->train_counts);
    for (int i = 0; i < r->classes; i++) {
        int c = order[i];
        list.row[list.n] = (SvgRow){ r->class_names[c], r->train_counts ? r->train_counts[c] : (double)NAN, false };
        list.at[list.n++] = (Where){ OF_CLASS, c };
    }
    list.n_classes = list.n;
    for (int k = 0; r->group_of && k < GROUP_COUNT; k++) {
        list.row[list.n] = (SvgRow){ group_names[k], NAN, k == 0 };
        list.at[list.n++] = (Where){ OF_GROUP, k };
    }
    list.row[list.n] = (SvgRow){ "all", NAN, !r->group_of };
    list.at[list.n++] = (Where){ OF_ALL, 0 };
    free(order);
    return list;
}

static void rows_free(RowList *list) {
    free(list->row);
    free(list->at);
}

// ---- per class
// The same numbers of real images, where the results hold them: what a perfect generator would get.
static const double *real_values(const Metric *m, const Result *r) {
    return strcmp(m->name, "fidelity") == 0 ? r->fidelity_real : strcmp(m->name, "copy") == 0 ? r->copy_rate_real
         : strcmp(m->name, "diversity") == 0 ? r->diversity_real : NULL;
}

static void class_figure(Page *p, int family, const Entry *const *pick, int n_pick, const Metric *m) {
    const Result *r = p->entries->family[family], *with_real = NULL;
    RowList list = rows_of(r);
    SvgBars *bars = xcalloc((size_t)n_pick + 2, sizeof *bars);
    double *room = xmalloc((size_t)(3 * (n_pick + 1) * list.n) * sizeof *room);
    char file[FIGURE_NAME], title[160];
    for (int i = 0; i < n_pick; i++) {
        double *v = room + 3 * i * list.n, *low = v + list.n, *high = low + list.n;
        for (int k = 0; k < list.n; k++) {
            Cell c = cell_of(pick[i], m, list.at[k]);
            v[k] = c.mean * m->scale;
            low[k] = c.low * m->scale;
            high[k] = c.high * m->scale;
        }
        bars[i] = (SvgBars){ pick[i]->label, pick[i]->arm, v, low, high };
        if (!with_real && real_values(m, pick[i]->result[0])) with_real = pick[i]->result[0];
    }
    if (with_real) {
        double *v = room + 3 * n_pick * list.n;
        for (int k = 0; k < list.n; k++)
            v[k] = list.at[k].kind == OF_CLASS ? real_values(m, with_real)[list.at[k].index] : (double)NAN;
        bars[n_pick] = (SvgBars){ "real images", GRAY, v, NULL, NULL };
    }
    snprintf(title, sizeof title, "%s per class", m->title);
    SvgRows rows = { title, m->title, list.count_label, list.n, list.row, n_pick + (with_real != NULL), bars,
                     false, false, m->share };
    page_rows(p, file_name(file, m->name, "per-class", family), "", &rows);
    free(room);
    free(bars);
    rows_free(&list);
}

static bool has_class_values(const Metric *m, const Entry *const *pick, int n_pick) {
    for (int i = 0; i < n_pick; i++)
        for (int c = 0; c < pick[i]->result[0]->classes; c++)
            if (isfinite(metric_value(m, pick[i]->result[0], (Where){ OF_CLASS, c }).value)) return true;
    return false;
}

static const char picks_note[] = "Each arm at its guidance strength of the lowest overall FID among those evaluated. ";

static bool classes_of_family(Page *p, int family) {
    static const char *const shown[] = { "fid", "recall", "fidelity", "coverage", "kid", "borrowed", "copy",
                                         "diversity", "cas" };
    const Entry **pick = xcalloc((size_t)p->runs->n_arms + 1, sizeof *pick);
    int n = page_picks(p, family, pick);
    bool open = false;
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        const Metric *m = metric_find(shown[i]);
        if (!has_class_values(m, pick, n)) continue;
        begin_grid(p, &open);
        class_figure(p, family, pick, n, m);
    }
    end_grid(p, open);
    free(pick);
    return open;
}

void section_classes(Page *p) {
    size_t before = p->body.n;
    each_family(p, classes_of_family);
    if (p->body.n == before) return;
    char *note = xasprintf("%sClasses from the most to the least frequent in training (grey bars: training images, "
                           "on a logarithmic scale). Whiskers: 95%% intervals, over seeds where there are several, "
                           "else by bootstrap.", picks_note);
    page_note(p, note);
    free(note);
}

// ---- confusion
static void confusion_figure(Page *p, int family, const Entry *e) {
    const Result *r = e->result[0];
    size_t n = (size_t)r->classes;
    RowList list = rows_of(r);
    const char **names = xcalloc(n + 1, sizeof *names);
    double *v = xcalloc(n * n + 1, sizeof *v);
    for (size_t i = 0; i < n; i++) {
        double total = 0;
        names[i] = r->class_names[list.at[i].index];
        for (size_t c = 0; c < n; c++) {
            size_t cell = (size_t)list.at[i].index * n + (size_t)list.at[c].index;
            for (int k = 0; k < e->n; k++)
                if (e->result[k]->confusion) v[i * n + c] += e->result[k]->confusion[cell];
            total += v[i * n + c];
        }
        for (size_t c = 0; c < n; c++) v[i * n + c] = total > 0 ? v[i * n + c] / total : (double)NAN;
    }
    char file[FIGURE_NAME], part[32];
    snprintf(part, sizeof part, "arm%d", e->arm + 1);
    SvgMatrix matrix = { e->label, "drawn as", "taken for", (int)n, names, v };
    page_matrix(p, file_name(file, "confusion", part, family), "", &matrix);
    free(names);
    free(v);
    rows_free(&list);
}

static bool confusion_of_family(Page *p, int family) {
    const Entry **pick = xcalloc((size_t)p->runs->n_arms + 1, sizeof *pick);
    int n = page_picks(p, family, pick);
    bool open = false;
    for (int i = 0; i < n; i++) {
        if (!pick[i]->result[0]->confusion) continue;
        begin_grid(p, &open);
        confusion_figure(p, family, pick[i]);
    }
    end_grid(p, open);
    free(pick);
    return open;
}

void section_confusion(Page *p) {
    size_t before = p->body.n;
    each_family(p, confusion_of_family);
    if (p->body.n > before)
        page_note(p, "Per cent of the samples of a row that a classifier, trained on balanced real images, gives the "
                     "label of a column; most frequent class first, all seeds together. What stands left of the "
                     "diagonal in the lower rows was borrowed from more frequent classes.");
}

// ---- guidance
// The entries of an arm that differ by omega, as a curve. Buffers are the caller's; returns how many points.
static int sweep_of(const Page *p, int family, int arm, const Metric *m, Where w, double *x, double *y, double *low,
                    double *high) {
    int n = 0;
    for (int i = 0; i < p->entries->n; i++) {
        const Entry *e = &p->entries->entry[i];
        Cell c = cell_of(e, m, w);
        if (e->arm != arm || e->family != family || !isfinite(e->omega) || !isfinite(c.mean)) continue;
        if (n && x[n - 1] == e->omega) continue;
        x[n] = e->omega;
        y[n] = c.mean * m->scale;
        low[n] = c.low * m->scale;
        high[n++] = c.high * m->scale;
    }
    return n;
}

static void sweep_figure(Page *p, int family, const Metric *m, Where w, bool *open) {
    int arms = p->runs->n_arms, points = p->entries->n, n = 0;
    SvgLine *line = xcalloc((size_t)arms + 1, sizeof *line);
    double *room = xmalloc((size_t)(4 * arms * points + 1) * sizeof *room);
    bool swept = false;
    for (int a = 0; a < arms; a++) {
        double *x = room + 4 * a * points, *y = x + points, *low = y + points, *high = low + points;
        int k = sweep_of(p, family, a, m, w, x, y, low, high);
        if (k) line[n++] = (SvgLine){ p->runs->arm[a].name, a, k, x, y, low, high, false, false, true };
        swept |= k > 1;
    }
    char file[FIGURE_NAME], title[160];
    const char *part = where_name(w, p->entries->family[family]);
    snprintf(title, sizeof title, "%s, %s", m->title, part);
    SvgPlot plot = { title, "guidance strength \xcf\x89", m->title, false, false, n, line };
    if (swept) {
        begin_grid(p, open);
        char what[FIGURE_NAME];
        snprintf(what, sizeof what, "guidance-%.40s", m->name);
        page_plot(p, file_name(file, what, part, family), "", &plot);
    }
    free(line);
    free(room);
}

static bool guidance_of_family(Page *p, int family) {
    static const char *const shown[] = { "fid", "recall", "fidelity" };
    bool open = false;
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        const Metric *m = metric_find(shown[i]);
        sweep_figure(p, family, m, (Where){ OF_ALL, 0 }, &open);
        for (int k = i == 0 ? 0 : GROUP_FEW; k < GROUP_COUNT; k++)         // of FID every group, of others the few
            sweep_figure(p, family, m, (Where){ OF_GROUP, k }, &open);
    }
    end_grid(p, open);
    return open;
}

void section_guidance(Page *p) {
    size_t before = p->body.n;
    each_family(p, guidance_of_family);
    if (p->body.n > before)
        page_note(p, "Bands: 95% intervals, over seeds where there are several, else by bootstrap.");
}

// ---- differences of arms
static void difference_figure(Page *p, int family, const Entry *const *pick, int n_pick, const Metric *m, bool *open) {
    RowList list = rows_of(p->entries->family[family]);
    SvgBars *bars = xcalloc((size_t)n_pick + 1, sizeof *bars);
    double *room = xmalloc((size_t)(3 * n_pick * list.n + 1) * sizeof *room);
    int n = 0;
    for (int i = 1; i < n_pick; i++) {
        double *v = room + 3 * (i - 1) * list.n, *low = v + list.n, *high = low + list.n;
        bool any = false;
        for (int k = 0; k < list.n; k++) {
            TestKind kind;
            MeanInterval d = entry_difference(pick[i], pick[0], m, list.at[k], &kind);
            v[k] = kind == TEST_NONE ? (double)NAN : d.mean * m->scale;
            low[k] = d.low * m->scale;
            high[k] = d.high * m->scale;
            any |= kind != TEST_NONE;
        }
        if (any) bars[n++] = (SvgBars){ pick[i]->label, pick[i]->arm, v, low, high };
    }
    char file[FIGURE_NAME], title[200], axis[200];
    char *base = name_shorten(pick[0]->label, 40);
    snprintf(title, sizeof title, "%s: difference from %s", m->title, base);
    snprintf(axis, sizeof axis, "difference of %s (%s is better)", m->title,
             m->better == BETTER_LOWER ? "negative" : "positive");
    free(base);
    SvgRows rows = { title, axis, list.count_label, list.n, list.row, n, bars, true, true, false };
    if (n) {
        begin_grid(p, open);
        page_rows(p, file_name(file, "difference", m->name, family), "", &rows);
    }
    free(room);
    free(bars);
    rows_free(&list);
}

static bool differences_of_family(Page *p, int family) {
    static const char *const shown[] = { "fid", "recall", "fidelity" };
    const Entry **pick = xcalloc((size_t)p->runs->n_arms + 1, sizeof *pick);
    int n = page_picks(p, family, pick);
    bool open = false;
    for (size_t i = 0; n > 1 && i < sizeof shown / sizeof *shown; i++)
        difference_figure(p, family, pick, n, metric_find(shown[i]), &open);
    end_grid(p, open);
    free(pick);
    return open;
}

void section_differences(Page *p) {
    size_t before = p->body.n;
    each_family(p, differences_of_family);
    if (p->body.n == before) return;
    char *note = xasprintf("%sMean difference and its 95%% t-interval, paired over seeds where arms share at least two "
                           "(Welch's where they do not); not corrected for the number of comparisons.", picks_note);
    page_note(p, note);
    free(note);
}

// ---- the paired bootstrap
static void comparison_figure(Page *p, int metric, const char *title, const char *better) {
    const Comparison *c = p->comparison;
    size_t n = (size_t)c->n;
    SvgRow *row = xcalloc(n + 1, sizeof *row);
    double *v = xmalloc((3 * n + 1) * sizeof *v), *low = v + n, *high = low + n;
    char (*buffer)[32] = xmalloc((n + 1) * sizeof *buffer), file[FIGURE_NAME], axis[120];
    for (int i = 0; i < c->n; i++) {
        const PairedRow *r = &c->row[i];
        bool class = r->where.kind == OF_CLASS;
        row[i] = (SvgRow){ comparison_part(c, i, buffer[i]),
                           class && c->train_counts ? c->train_counts[r->where.index] : (double)NAN,
                           !class && i && c->row[i - 1].where.kind == OF_CLASS };
        v[i] = r->value[metric].difference;
        low[i] = r->value[metric].low;
        high[i] = r->value[metric].high;
    }
    snprintf(axis, sizeof axis, "difference of %s (%s is better)", title, better);
    SvgBars bars = { "difference", 0, v, low, high };
    SvgRows rows = { title, axis, c->train_counts ? "training images" : NULL, c->n, row, 1, &bars, true, true, false };
    page_rows(p, file_name(file, "paired-bootstrap", paired_names[metric], 0), "", &rows);
    free(row);
    free(v);
    free(buffer);
}

void section_comparison(Page *p) {
    static const char *const titles[PAIRED_COUNT] = { "FID", "KID", "label fidelity" };
    if (!p->comparison) return;
    char *caption = comparison_caption(p->comparison);
    page_note(p, caption);
    free(caption);
    text_add(&p->body, "<div class=\"grid\">\n");
    for (int m = 0; m < PAIRED_COUNT; m++)
        if (comparison_has(p->comparison, m))
            comparison_figure(p, m, titles[m], m == PAIRED_FIDELITY ? "positive" : "negative");
    text_add(&p->body, "</div>\n");
}
