// eval/report_curves.c - the report's sections made of stats.jsonl: loss, denoising loss per class, samples judged
// while training.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/report_page.h"

// ---- loss
enum { SMOOTH_PARTS = 40, FAINT_RUNS = 4 };

// Mean over a window of n / 40 points to each side; caller frees.
static double *smooth(const double *y, int n) {
    int reach = n / SMOOTH_PARTS;
    double *out = xmalloc((size_t)(n + 1) * sizeof *out);
    for (int i = 0; i < n; i++) {
        int r = i < reach ? i : n - 1 - i < reach ? n - 1 - i : reach;
        double sum = 0;
        for (int k = i - r; k <= i + r; k++) sum += y[k];
        out[i] = sum / (2 * r + 1);
    }
    return out;
}

// The runs of an arm as one curve: the mean of their smoothed values, where all have logged, and the band between the
// lowest and the highest. y, low, high are freed by the caller.
typedef struct { int n; const double *x; double *y, *low, *high; } Bundle;
static Bundle bundle_of(const RunSet *s, const Arm *arm, int series) {
    Bundle b = { 0 };
    int used = 0;
    for (int i = 0; i < arm->n; i++) {
        const RunSeries *r = &s->run[arm->runs[i]].series[series];
        if (!r->n) continue;
        if (!used || r->n < b.n) b.n = r->n, b.x = r->step;
        used++;
    }
    b.y = xcalloc((size_t)b.n + 1, sizeof *b.y);
    b.low = xcalloc((size_t)b.n + 1, sizeof *b.low);
    b.high = xcalloc((size_t)b.n + 1, sizeof *b.high);
    for (int k = 0; k < b.n; k++) b.low[k] = INFINITY, b.high[k] = -INFINITY;
    for (int i = 0; i < arm->n; i++) {
        const RunSeries *r = &s->run[arm->runs[i]].series[series];
        double *smoothed = r->n ? smooth(r->value, r->n) : NULL;
        for (int k = 0; smoothed && k < b.n; k++) {
            b.y[k] += smoothed[k] / used;
            b.low[k] = fmin(b.low[k], smoothed[k]);
            b.high[k] = fmax(b.high[k], smoothed[k]);
        }
        free(smoothed);
    }
    return b;
}

// Whether all runs of an arm logged at the same steps, as far as the shortest goes.
static bool steps_agree(const RunSet *s, const Arm *arm, int series) {
    const RunSeries *first = NULL;
    for (int i = 0; i < arm->n; i++) {
        const RunSeries *r = &s->run[arm->runs[i]].series[series];
        if (!r->n) continue;
        if (!first) first = r;
        for (int k = 0; k < r->n && k < first->n; k++)
            if (r->step[k] != first->step[k]) return false;
    }
    return true;
}

typedef struct { SvgLine *line; Bundle *bundle; int n, n_bundles; double low, high; } Curves;

static void add_raw(Curves *c, const RunSeries *r, int arm) {
    if (r->n) c->line[c->n++] = (SvgLine){ NULL, arm, r->n, r->step, r->value, NULL, NULL, true, false, false };
}

// Arms whose runs logged at different steps are drawn run by run.
static Curves curves_of(const RunSet *s, int series) {
    Curves c = { .line = xcalloc((size_t)(3 * s->n) + 1, sizeof *c.line),
                 .bundle = xcalloc((size_t)s->n + 1, sizeof *c.bundle) };
    for (int i = 0; i < s->n && s->n <= FAINT_RUNS; i++) add_raw(&c, &s->run[i].series[series], s->run[i].arm);
    for (int a = 0; a < s->n_arms; a++) {
        const Arm *arm = &s->arm[a];
        bool whole = steps_agree(s, arm, series);
        for (int i = 0; i < (whole ? 1 : arm->n); i++) {
            Arm one = { s->run[arm->runs[i]].name, 1, &arm->runs[i] };
            const Arm *of = whole ? arm : &one;
            Bundle b = bundle_of(s, of, series);
            c.bundle[c.n_bundles++] = b;
            if (b.n) c.line[c.n++] = (SvgLine){ of->name, a, b.n, b.x, b.y, of->n > 1 ? b.low : NULL,
                                                of->n > 1 ? b.high : NULL, false, false, false };
        }
    }
    return c;
}

static void curves_free(Curves *c) {
    for (int i = 0; i < c->n_bundles; i++) free(c->bundle[i].y), free(c->bundle[i].low), free(c->bundle[i].high);
    free(c->line);
    free(c->bundle);
}

// A logarithmic axis where the curve covers more than a factor of 5 and never touches 0.
static bool wants_log(const Curves *c) {
    double low = INFINITY, high = 0;
    for (int i = 0; i < c->n; i++)
        for (int k = 0; k < c->line[i].n; k++) {
            low = fmin(low, c->line[i].y[k]);
            high = fmax(high, c->line[i].y[k]);
        }
    return low > 0 && high > 5 * low;
}

static bool any_value(const RunSet *s, int series) {
    for (int i = 0; i < s->n; i++)
        for (int k = 0; k < s->run[i].series[series].n; k++)
            if (s->run[i].series[series].value[k] != 0) return true;
    return false;
}

void section_loss(Page *p) {
    static const struct { int series; const char *file, *title, *y; } plots[] = {
        { SERIES_DENOISING, "loss-denoising", "Denoising loss", "squared error of the noise" },
        { SERIES_BALANCING, "loss-balancing", "Class-balancing loss", "loss" },
        { SERIES_GRAD_NORM, "gradient-norm", "Norm of the gradient", "norm" },
    };
    int64_t bad = 0;
    bool drawn = false;
    for (int i = 0; i < p->runs->n; i++) bad += p->runs->run[i].bad_lines;
    for (size_t i = 0; i < sizeof plots / sizeof *plots; i++) {
        if (!any_value(p->runs, plots[i].series)) continue;
        if (!drawn) text_add(&p->body, "<div class=\"grid\">\n");
        Curves c = curves_of(p->runs, plots[i].series);
        SvgPlot plot = { plots[i].title, "step", plots[i].y, wants_log(&c), false, c.n, c.line };
        page_plot(p, plots[i].file, "", &plot);
        curves_free(&c);
        drawn = true;
    }
    if (!drawn) return;
    text_add(&p->body, "</div>\n");
    page_note(p, p->runs->n <= FAINT_RUNS
              ? "Faint: as logged, means over --log-every steps; bold: smoothed over a twentieth of the curve."
              : "Means over the seeds of an arm, as far as all of them have gone, smoothed over a twentieth of the "
                "curve; bands reach from the lowest to the highest seed.");
    if (bad) {
        char *text = xasprintf("%lld lines of stats.jsonl are no JSON objects with a step and were passed over.",
                               (long long)bad);
        page_note(p, text);
        free(text);
    }
}

// ---- denoising loss of the last probe
static double mean_probe(const RunSet *s, const Arm *arm, int kind, int i, bool tenth) {
    double sum = 0;
    int n = 0;
    for (int k = 0; k < arm->n; k++) {
        const RunProbe *r = &s->run[arm->runs[k]].probe[kind];
        if (i >= (tenth ? r->tenths : r->classes)) continue;
        double v = tenth ? r->by_tenth[i] : r->by_class[i];
        if (isfinite(v)) sum += v, n++;
    }
    return n ? sum / n : (double)NAN;
}

static void probe_per_class(Page *p, int kind, const char *name, const char *title) {
    const RunSet *s = p->runs;
    const ClassList *c = &p->classes;
    SvgRow *row = xcalloc((size_t)c->n + 1, sizeof *row);
    SvgBars *bars = xcalloc((size_t)s->n_arms + 1, sizeof *bars);
    double *v = xmalloc((size_t)(s->n_arms * c->n + 1) * sizeof *v);
    int n = 0;
    for (int i = 0; i < c->n; i++) row[i] = (SvgRow){ c->name[c->order[i]], c->count[c->order[i]], false };
    for (int a = 0; a < s->n_arms; a++) {
        double *of_arm = v + n * c->n;
        bool any = false;
        for (int i = 0; i < c->n; i++) {
            of_arm[i] = mean_probe(s, &s->arm[a], kind, c->order[i], false);
            any |= isfinite(of_arm[i]);
        }
        if (any) bars[n++] = (SvgBars){ s->arm[a].name, a, of_arm, NULL, NULL };
    }
    SvgRows rows = { title, "squared error of the noise", "training images", c->n, row, n, bars, true, false,
                     false };
    if (!isfinite(c->count[c->n ? c->order[0] : 0])) rows.count_label = NULL;
    if (n) page_rows(p, name, "", &rows);
    free(row);
    free(bars);
    free(v);
}

static void probe_per_tenth(Page *p) {
    static const double x[10] = { 5, 15, 25, 35, 45, 55, 65, 75, 85, 95 };
    const RunSet *s = p->runs;
    SvgLine *line = xcalloc((size_t)(2 * s->n_arms) + 1, sizeof *line);
    double (*y)[10] = xmalloc((size_t)(2 * s->n_arms + 1) * sizeof *y);
    int n = 0;
    for (int kind = 0; kind < PROBE_COUNT; kind++)
        for (int a = 0; a < s->n_arms; a++) {
            for (int i = 0; i < 10; i++) y[n][i] = mean_probe(s, &s->arm[a], kind, i, true);
            if (isfinite(y[n][0]))
                line[n] = (SvgLine){ kind == PROBE_HELD_OUT ? s->arm[a].name : NULL, a, 10, x, y[n], NULL, NULL, false,
                                     kind == PROBE_TRAIN, kind == PROBE_HELD_OUT }, n++;
        }
    SvgPlot plot = { "Denoising loss by noise level", "per cent of T", "squared error of the noise", true, false, n,
                     line };
    if (n) page_plot(p, "probe-noise", "Solid: held-out images; dashed: training images.", &plot);
    free(line);
    free(y);
}

void section_probe(Page *p) {
    double step = -1;
    for (int i = 0; i < p->runs->n; i++)
        for (int k = 0; k < PROBE_COUNT; k++)
            if (p->runs->run[i].probe[k].classes) step = fmax(step, p->runs->run[i].probe[k].step);
    if (step < 0) return;
    char *text = xasprintf("The last probe of each run (step %.0f at the latest): averaged weights, the same images, "
                           "times and noise for all runs of a data set; means over the seeds of an arm. A class whose "
                           "held-out loss stands far above its training loss is being memorised.", step);
    page_note(p, text);
    free(text);
    text_add(&p->body, "<div class=\"grid\">\n");
    probe_per_class(p, PROBE_HELD_OUT, "probe-held-out", "Denoising loss per class, held-out images");
    probe_per_class(p, PROBE_TRAIN, "probe-train", "Denoising loss per class, training images");
    probe_per_tenth(p);
    text_add(&p->body, "</div>\n");
}

// ---- --eval-every
static void evals_plot(Page *p, int which, const char *name, const char *title, const char *y_label) {
    const RunSet *s = p->runs;
    SvgLine *line = xcalloc((size_t)s->n + 1, sizeof *line);
    int n = 0;
    bool labelled[SVG_COLOURS] = { false };
    for (int i = 0; i < s->n; i++) {
        const RunEvals *e = &s->run[i].evals;
        bool any = false;
        for (int k = 0; k < e->n; k++) any |= isfinite(e->value[which][k]);
        if (!any) continue;
        int arm = s->run[i].arm, colour = arm % SVG_COLOURS;
        line[n++] = (SvgLine){ labelled[colour] ? NULL : s->arm[arm].name, arm, e->n, e->step, e->value[which], NULL,
                               NULL, false, false, true };
        labelled[colour] = true;
    }
    SvgPlot plot = { title, "step", y_label, false, false, n, line };
    if (n) page_plot(p, name, "", &plot);
    free(line);
}

void section_evals(Page *p) {
    bool any = false;
    for (int i = 0; i < p->runs->n; i++) any |= p->runs->run[i].evals.n > 0;
    if (!any) return;
    page_note(p, "Few samples of few steps, drawn while training (--eval-every): they show the course, not the "
                 "result.");
    text_add(&p->body, "<div class=\"grid\">\n");
    evals_plot(p, EVAL_FID, "training-fid", "FID while training", "FID");
    evals_plot(p, EVAL_FIDELITY, "training-fidelity", "Label fidelity while training, all classes", "share");
    evals_plot(p, EVAL_FIDELITY_TAIL, "training-fidelity-tail", "Label fidelity, last third of the classes", "share");
    text_add(&p->body, "</div>\n");
}
