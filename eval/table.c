// eval/table.c - the cells of a table, what is best and what cannot be told from it, and the caption that says so.
#include "eval/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int place(const Table *t, int line, int metric, int part) {
    return (line * t->n_metrics + metric) * t->n_parts + part;
}

const Cell *table_cell(const Table *t, int line, int metric, int part) {
    return &t->cell[place(t, line, metric, part)];
}

// ---- what is missing
static bool has_seeds_of_arm(const RunSet *runs, const Entry *e, Error *err) {
    const Arm *arm = &runs->arm[e->arm];
    for (int i = 0; i < arm->n; i++) {
        const Run *r = &runs->run[arm->runs[i]];
        bool there = false;
        for (int k = 0; k < e->n; k++) there |= e->run[k] == r;
        if (!there)
            return error_set(err, ERR_USAGE, "run %.150s has no result for the line \"%.150s\": evaluate it with the "
                             "same settings, or leave the line out with --omega", r->name, e->label);
    }
    return true;
}

static bool is_complete(const Entry *e, const Metric *m, Where w, const Result *family, Error *err) {
    for (int i = 0; i < e->n; i++)
        if (!isfinite(metric_value(m, e->result[i], w).value))
            return error_set(err, ERR_USAGE, "run %.120s has no %s of %.80s in %.150s: evaluate it with that metric, "
                             "or name others with --metric and --rows", e->run[i]->name, m->name, where_name(w, family),
                             e->result[i]->path);
    return true;
}

// ---- marks
static bool is_better(const Metric *m, double a, double b) { return m->better == BETTER_LOWER ? a < b : a > b; }

static int best_line(const Table *t, int metric, int part) {
    int best = -1;
    for (int i = 0; i < t->n_lines; i++) {
        double v = table_cell(t, i, metric, part)->mean;
        bool wins = isfinite(v) && (best < 0 || is_better(t->metric[metric], v,
                                                          table_cell(t, best, metric, part)->mean));
        if (wins) best = i;
    }
    return best;
}

// Whether the test at hand lets line i pass for as good as the best: the 95% interval of the difference holds 0, or
// the bootstrap intervals of two single runs overlap.
static bool is_tied(Table *t, int i, int best, int metric, int part) {
    const Cell *a = table_cell(t, i, metric, part), *b = table_cell(t, best, metric, part);
    TestKind kind;
    MeanInterval d = entry_difference(t->line[i], t->line[best], t->metric[metric], t->part[part], &kind);
    if (kind == TEST_NONE && a->interval == INTERVAL_BOOTSTRAP && b->interval == INTERVAL_BOOTSTRAP) {
        t->tests[TEST_BOOTSTRAP] = true;
        return a->low <= b->high && b->low <= a->high;
    }
    t->tests[kind] = true;
    return kind != TEST_NONE && d.low <= 0 && d.high >= 0;
}

static void mark_column(Table *t, int metric, int part) {
    int best = t->metric[metric]->better == BETTER_NEITHER || t->n_lines < 2 ? -1 : best_line(t, metric, part);
    for (int i = 0; i < t->n_lines && best >= 0; i++) {
        if (!isfinite(table_cell(t, i, metric, part)->mean)) continue;
        bool same = i == best || table_cell(t, i, metric, part)->mean == table_cell(t, best, metric, part)->mean;
        t->mark[place(t, i, metric, part)] = same ? MARK_BEST : is_tied(t, i, best, metric, part) ? MARK_TIED
                                                                                                   : MARK_NONE;
    }
}

// Three digits for the smallest number, but no more than shows of the widest interval.
static int decimals_of(const Table *t, int metric) {
    int n = 0, parts = t->n_lines * t->n_parts;
    double *v = xmalloc((size_t)(parts + 1) * sizeof *v);
    for (int i = 0; i < t->n_lines; i++)
        for (int p = 0; p < t->n_parts; p++) {
            double mean = table_cell(t, i, metric, p)->mean;
            if (isfinite(mean)) v[n++] = mean * t->metric[metric]->scale;
        }
    double largest = 0;
    for (int i = 0; i < n; i++) largest = fmax(largest, fabs(v[i]));
    for (int i = 0; i < n; i++) v[i] = fmax(fabs(v[i]), largest / 10);       // a number near 0 needs no more digits
    int decimals = decimals_for(v, n);
    free(v);
    return t->metric[metric]->share && decimals > 3 ? 3 : decimals;
}

// ---- the table
bool table_make(const RunSet *runs, const EntrySet *e, int family, const Metric *const *metric, int n_metrics,
                const Where *part, int n_parts, bool strict, Table *out, Error *err) {
    const Entry **line = xcalloc((size_t)e->n + 1, sizeof *line);
    *out = (Table){ .n_metrics = n_metrics, .n_parts = n_parts, .line = line, .metric = metric, .part = part,
                    .family = e->family[family] };
    for (int i = 0; i < e->n; i++)
        if (e->entry[i].family == family) line[out->n_lines++] = &e->entry[i];
    int cells = out->n_lines * n_metrics * n_parts;
    out->cell = xcalloc((size_t)cells + 1, sizeof *out->cell);
    out->mark = xcalloc((size_t)cells + 1, sizeof *out->mark);
    out->decimals = xcalloc((size_t)n_metrics + 1, sizeof *out->decimals);
    for (int i = 0; i < out->n_lines && strict; i++)
        if (!has_seeds_of_arm(runs, line[i], err)) return false;
    for (int i = 0; i < out->n_lines; i++)
        for (int m = 0; m < n_metrics; m++)
            for (int p = 0; p < n_parts; p++) {
                if (strict && !is_complete(line[i], metric[m], part[p], out->family, err)) return false;
                out->cell[place(out, i, m, p)] = cell_of(line[i], metric[m], part[p]);
            }
    for (int m = 0; m < n_metrics; m++) {
        for (int p = 0; p < n_parts; p++) mark_column(out, m, p);
        out->decimals[m] = decimals_of(out, m);
    }
    return true;
}

void table_free(Table *t) {
    free((void *)t->line);
    free(t->cell);
    free(t->mark);
    free(t->decimals);
    *t = (Table){ 0 };
}

// ---- the caption
static void describe_numbers(Text *t, const Table *table) {
    int least = table->n_lines ? table->line[0]->n : 0, most = least;
    bool bootstrap = false;
    for (int i = 0; i < table->n_lines; i++) {
        int n = table->line[i]->n;
        least = n < least ? n : least;
        most = n > most ? n : most;
    }
    for (int i = 0; i < table->n_lines * table->n_metrics * table->n_parts; i++)
        bootstrap |= table->cell[i].interval == INTERVAL_BOOTSTRAP;
    if (most > 1 && least == most) text_add(t, " Mean \xc2\xb1 half of the 95%% t-interval over %d seeds.", most);
    if (most > 1 && least < most)
        text_add(t, " Mean \xc2\xb1 half of the 95%% t-interval over up to %d seeds; a number without \xc2\xb1 is of "
                 "one seed.", most);
    if (most == 1) text_add(t, " One seed each.");
    if (bootstrap) text_add(t, " Bootstrap intervals of single runs are in the CSV table.");
}

char *table_caption(const Table *table, const char *best, const char *tied) {
    Text t = { 0 };
    char *protocol = result_protocol(table->family);
    bool marked = false, tested = table->tests[TEST_PAIRED] || table->tests[TEST_WELCH] || table->tests[TEST_BOOTSTRAP];
    for (int i = 0; i < table->n_lines * table->n_metrics * table->n_parts; i++) marked |= table->mark[i] != MARK_NONE;
    text_add(&t, "%s.", protocol);
    free(protocol);
    describe_numbers(&t, table);
    if (marked) text_add(&t, " %c%s: best of a column", best[0] - 'a' + 'A', best + 1);
    if (marked && !tested) text_add(&t, " (single runs without intervals: nothing tested).");
    if (!tested) return t.s;
    text_add(&t, "; %s: not significantly worse at 5%%, by", tied);
    if (table->tests[TEST_PAIRED]) text_add(&t, " a paired t-test over the seeds that two lines share;");
    if (table->tests[TEST_WELCH]) text_add(&t, " Welch's t-test where they share fewer than two;");
    if (table->tests[TEST_BOOTSTRAP]) text_add(&t, " the overlap of bootstrap intervals where there is one run each;");
    text_add(&t, " not corrected for the number of comparisons.");
    if (table->tests[TEST_NONE]) text_add(&t, " Numbers of one seed without an interval are not tested.");
    return t.s;
}
