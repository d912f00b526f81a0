// eval/svg.c - what all figures share (style, ticks, labels), and curves on two axes.
#include "eval/svg.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Okabe and Ito's palette without its yellow; the second set is lighter, for dark pages.
static const char *const light[SVG_COLOURS] = { "#0072b2", "#d55e00", "#009e73", "#b8588f", "#a87400", "#3a9bd0",
                                                "#6b4fa0", "#555555" };
static const char *const dark[SVG_COLOURS] = { "#4da9e6", "#f58442", "#2cc79a", "#e79cc6", "#e0b040", "#8fd0f7",
                                               "#b49ce8", "#bbbbbb" };

static void add_rules(Text *t, const char *ink, const char *muted, const char *grid, const char *count,
                      const char *heat, const char *const *colours) {
    text_add(t, ".fig text{font:12px system-ui,'Segoe UI',Helvetica,Arial,sans-serif;fill:%s}"
             ".fig .title{font-weight:600;font-size:13px}.fig .tick,.fig .axis{fill:%s}.fig .tick{font-size:11px}"
             ".fig .grid{stroke:%s;stroke-width:1}.fig .zero{stroke:%s;stroke-width:1}.fig .count{fill:%s}"
             ".fig .heat{fill:%s}.fig .cell{stroke:%s;fill:none}.fig .whisker{stroke:%s;stroke-width:1.2;fill:none}"
             ".fig .small{font-size:10px}\n", ink, muted, grid, muted, count, heat, grid, ink);
    for (int i = 0; i < SVG_COLOURS; i++)
        text_add(t, ".fig .s%d{stroke:%s;fill:none}.fig .f%d{fill:%s}", i, colours[i], i, colours[i]);
    text_add(t, "\n");
}
static void add_light(Text *t) { add_rules(t, "#1c1c1c", "#5a5a5a", "#e2e2e2", "#cfcfcf", "#0072b2", light); }
static void add_shapes(Text *t) {
    text_add(t, ".fig .line{stroke-width:1.8;stroke-linejoin:round}.fig .faint{stroke-width:1;opacity:.3}"
             ".fig .band{opacity:.16}.fig .dashed{stroke-dasharray:5 3}\n");
}

void svg_style(Text *t) {
    add_shapes(t);
    add_light(t);
    text_add(t, "@media screen and (prefers-color-scheme:dark){\n");
    add_rules(t, "#e8e8e8", "#a8a8a8", "#3a3a3a", "#4a4a4a", "#4da9e6", dark);
    text_add(t, "}\n");
}

void svg_begin(Text *t, int width, int height, const char *title, SvgUse use) {
    text_add(t, "<svg class=\"fig\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
             "height=\"%d\" role=\"img\"><title>", width, height, width, height);
    text_html(t, title);
    text_add(t, "</title>");
    if (use == SVG_FILE) {
        text_add(t, "<style>");
        add_shapes(t);
        add_light(t);
        text_add(t, "</style><rect width=\"%d\" height=\"%d\" fill=\"#ffffff\"/>", width, height);
    }
    text_add(t, "\n");
}

void svg_end(Text *t) { text_add(t, "</svg>\n"); }

void svg_label(Text *t, double x, double y, SvgAnchor a, const char *class, const char *text) {
    static const char *const anchors[] = { "start", "middle", "end" };
    text_add(t, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" class=\"%s\">", x, y, anchors[a], class);
    text_html(t, text);
    text_add(t, "</text>\n");
}

// ---- ticks
int svg_ticks(double low, double high, int want, double ticks[SVG_TICKS]) {
    if (!(high > low)) {                                         // one value, or none
        double pad = low != 0 ? fabs(low) / 10 : 1;
        low -= pad;
        high = low + 2 * pad;
    }
    double raw = (high - low) / (want > 1 ? want : 1), power = pow(10, floor(log10(raw))), f = raw / power;
    double step = power * (f <= 1 ? 1 : f <= 2 ? 2 : f <= 5 ? 5 : 10);
    double first = floor(low / step + 1e-9), last = ceil(high / step - 1e-9);
    int n = 0;
    for (double k = first; k <= last && n < SVG_TICKS; k++) ticks[n++] = k * step + 0.0;
    return n;
}

void svg_tick_text(double v, double step, char out[32]) {
    if (v != 0 && fabs(v) < 1e-4) snprintf(out, 32, "%.3g", v);
    else if (step >= 1e6 || fabs(v) >= 1e7) snprintf(out, 32, "%gM", v / 1e6);
    else if (step >= 1000) snprintf(out, 32, v == 0 ? "0" : "%gk", v / 1000);
    else {
        int decimals = step > 0 && step < 1 ? (int)ceil(-log10(step) - 1e-9) : 0;
        snprintf(out, 32, "%.*f", decimals < 8 ? decimals : 8, v);
    }
    if (*out == '-') {                                           // a minus sign is wider than a hyphen
        char digits[32];
        snprintf(digits, sizeof digits, "%s", out + 1);
        snprintf(out, 32, "\xe2\x88\x92%.28s", digits);
    }
}

// ---- curves
enum { WIDTH = 560, HEIGHT = 300, LEFT = 62, TOP = 34, BOTTOM = 46, NAME_LIMIT = 22, LABEL_GAP = 14 };
typedef struct {
    double low, high, from, to;                                  // data range to pixels
    bool   log;
    int    n; double tick[SVG_TICKS], step;
} Scale;

static double place(const Scale *s, double v) {
    double a = s->log ? log10(s->low) : s->low, b = s->log ? log10(s->high) : s->high, x = s->log ? log10(v) : v;
    return s->from + (x - a) / (b - a) * (s->to - s->from);
}

static void widen(double v, bool log, double *low, double *high) {
    if (!isfinite(v) || (log && v <= 0)) return;
    *low = fmin(*low, v);
    *high = fmax(*high, v);
}

// 1, 2, 5 of each decade, or the decades alone where there are many.
static void log_ticks(Scale *s) {
    double decades = log10(s->high / s->low);
    static const double fine[] = { 1, 2, 5 };
    for (double p = floor(log10(s->low)); p <= log10(s->high) && s->n < SVG_TICKS - 3; p++)
        for (int i = 0; i < (decades < 3 ? 3 : 1); i++) {
            double v = fine[i] * pow(10, p);
            if (v >= s->low * 0.999 && v <= s->high * 1.001) s->tick[s->n++] = v;
        }
}

static Scale scale_for(double low, double high, bool log, int want, double from, double to) {
    Scale s = { .from = from, .to = to, .log = log };
    if (!(low <= high)) low = log ? 0.1 : 0, high = 1;
    if (log) {
        double pad = pow(high / low, 0.06);
        if (high / low < 1.05) pad = 1.05;
        s.low = low / pad;
        s.high = high * pad;
        log_ticks(&s);
    } else {
        s.n = svg_ticks(low, high, want, s.tick);
        s.low = s.tick[0];
        s.high = s.tick[s.n - 1];
        s.step = s.n > 1 ? s.tick[1] - s.tick[0] : 1;
    }
    return s;
}

static void tick_label(const Scale *s, int i, char out[32]) {
    double step = s->log ? pow(10, floor(log10(s->tick[i]) + 1e-9)) : s->step;
    svg_tick_text(s->tick[i], step, out);
}

static Scale y_scale(const SvgPlot *p) {
    double low = INFINITY, high = -INFINITY;
    for (int i = 0; i < p->n; i++)
        for (int k = 0; k < p->line[i].n; k++) {
            widen(p->line[i].y[k], p->log_y, &low, &high);
            if (p->line[i].low) widen(p->line[i].low[k], p->log_y, &low, &high);
            if (p->line[i].high) widen(p->line[i].high[k], p->log_y, &low, &high);
        }
    if (p->from_zero && !p->log_y && low > 0) low = 0;
    return scale_for(low, high, p->log_y, 5, HEIGHT - BOTTOM, TOP);
}

static Scale x_scale(const SvgPlot *p, double right) {
    double low = INFINITY, high = -INFINITY;
    for (int i = 0; i < p->n; i++)
        for (int k = 0; k < p->line[i].n; k++) widen(p->line[i].x[k], false, &low, &high);
    Scale s = scale_for(low, high, false, 6, LEFT, right);
    if (low < high) {                                            // no empty stretch beyond the data
        s.low = low;
        s.high = high;
    }
    return s;
}

static void draw_axes(Text *t, const SvgPlot *p, const Scale *x, const Scale *y) {
    char text[32];
    for (int i = 0; i < y->n; i++) {
        double at = place(y, y->tick[i]);
        text_add(t, "<line class=\"grid\" x1=\"%d\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", LEFT, x->to, at, at);
        tick_label(y, i, text);
        svg_label(t, LEFT - 7, at + 4, SVG_RIGHT, "tick", text);
    }
    for (int i = 0; i < x->n; i++) {
        if (x->tick[i] < x->low - 1e-9 * x->step || x->tick[i] > x->high + 1e-9 * x->step) continue;
        double at = place(x, x->tick[i]);
        text_add(t, "<line class=\"zero\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>", at, at, HEIGHT - BOTTOM,
                 HEIGHT - BOTTOM + 4);
        tick_label(x, i, text);
        svg_label(t, at, HEIGHT - BOTTOM + 17, SVG_MIDDLE, "tick", text);
    }
    svg_label(t, 8, 17, SVG_LEFT, "title", p->title);
    svg_label(t, (LEFT + x->to) / 2, HEIGHT - 8, SVG_MIDDLE, "axis", p->x_label);
    text_add(t, "<text transform=\"translate(14 %d) rotate(-90)\" text-anchor=\"middle\" class=\"axis\">",
             (TOP + HEIGHT - BOTTOM) / 2);
    text_html(t, p->y_label);
    text_add(t, "</text>\n");
}

static void draw_path(Text *t, const SvgLine *l, const Scale *x, const Scale *y) {
    bool pen = false;
    text_add(t, "<path class=\"line s%d%s%s\" d=\"", l->colour % SVG_COLOURS, l->faint ? " faint" : "",
             l->dashed ? " dashed" : "");
    for (int k = 0; k < l->n; k++) {
        bool drawn = isfinite(l->y[k]) && (!y->log || l->y[k] > 0);
        if (drawn) text_add(t, "%s%.1f %.1f", pen ? "L" : "M", place(x, l->x[k]), place(y, l->y[k]));
        pen = drawn;
    }
    text_add(t, "\"/>\n");
    for (int k = 0; l->marked && k < l->n; k++)
        if (isfinite(l->y[k]) && (!y->log || l->y[k] > 0))
            text_add(t, "<circle class=\"f%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>\n", l->colour % SVG_COLOURS,
                     place(x, l->x[k]), place(y, l->y[k]));
}

// The part of the curve where both edges are known, as one shape.
static void draw_band(Text *t, const SvgLine *l, const Scale *x, const Scale *y) {
    if (!l->low || !l->high) return;
    text_add(t, "<path class=\"band f%d\" d=\"", l->colour % SVG_COLOURS);
    bool pen = false;
    for (int side = 0; side < 2; side++)
        for (int i = 0; i < l->n; i++) {
            int k = side ? l->n - 1 - i : i;
            double v = side ? l->low[k] : l->high[k];
            bool known = isfinite(l->low[k]) && isfinite(l->high[k]) && (!y->log || l->low[k] > 0);
            if (known) text_add(t, "%s%.1f %.1f", pen ? "L" : "M", place(x, l->x[k]), place(y, v));
            pen |= known;
        }
    text_add(t, "%s\"/>\n", pen ? "Z" : "");
}

typedef struct { int line; double y; } EndLabel;
static int compare_labels(const void *a, const void *b) {
    const EndLabel *x = a, *y = b;
    return x->y != y->y ? (x->y > y->y) - (x->y < y->y) : x->line - y->line;
}

// Each name beside the last point of its curve, pushed apart where they would overlap.
static void draw_names(Text *t, const SvgPlot *p, const Scale *x, const Scale *y) {
    EndLabel *label = xcalloc((size_t)p->n + 1, sizeof *label);
    int n = 0;
    for (int i = 0; i < p->n; i++) {
        const SvgLine *l = &p->line[i];
        int k = l->n - 1;
        while (k >= 0 && !(isfinite(l->y[k]) && (!y->log || l->y[k] > 0))) k--;
        if (l->name && k >= 0) label[n++] = (EndLabel){ i, place(y, l->y[k]) };
    }
    qsort(label, (size_t)n, sizeof *label, compare_labels);
    for (int i = 1; i < n; i++) label[i].y = fmax(label[i].y, label[i - 1].y + LABEL_GAP);
    double over = n ? label[n - 1].y - (HEIGHT - BOTTOM) : 0;
    for (int i = n - 1; i >= 0 && over > 0; i--) {               // back up where the lowest left the figure
        label[i].y = fmin(label[i].y, HEIGHT - BOTTOM - (n - 1 - i) * (double)LABEL_GAP);
    }
    for (int i = 0; i < n; i++) {
        const SvgLine *l = &p->line[label[i].line];
        char *name = name_shorten(l->name, NAME_LIMIT), class[16];
        snprintf(class, sizeof class, "f%d", l->colour % SVG_COLOURS);
        text_add(t, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"8\" height=\"3\"/>", class, x->to + 6,
                 label[i].y - 1.5);
        svg_label(t, x->to + 18, label[i].y + 4, SVG_LEFT, "name", name);
        free(name);
    }
    free(label);
}

void svg_plot(Text *t, const SvgPlot *p, SvgUse use) {
    int longest = 0;
    for (int i = 0; i < p->n; i++) {
        int length = p->line[i].name ? name_length(p->line[i].name) : 0;
        longest = length > NAME_LIMIT ? NAME_LIMIT : length > longest ? length : longest;
    }
    Scale x = x_scale(p, WIDTH - (longest ? 24 + 6.8 * longest : 16)), y = y_scale(p);
    svg_begin(t, WIDTH, HEIGHT, p->title, use);
    draw_axes(t, p, &x, &y);
    for (int i = 0; i < p->n; i++) draw_band(t, &p->line[i], &x, &y);
    for (int i = 0; i < p->n; i++) draw_path(t, &p->line[i], &x, &y);
    draw_names(t, p, &x, &y);
    svg_end(t);
}
