// eval/svg_rows.c - figures with a row for each class: bars or dots beside training counts, and confusion matrices.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "eval/svg.h"

// ---- rows
enum { WIDTH = 560, TOP = 52, NAME_LIMIT = 18, COUNT_WIDTH = 84, RIGHT = 20, BAR = 7 };
typedef struct {
    double left, right, low, high, step;                         // of the values, in pixels and data
    double count_left, count_max;
    double row_height, bar, bottom;
    double tick[SVG_TICKS];
    int    n_ticks, label_every;
} Frame;

static double place(const Frame *l, double v) {
    return l->left + (v - l->low) / (l->high - l->low) * (l->right - l->left);
}

static void widen(double v, double *low, double *high) {
    if (!isfinite(v)) return;
    *low = fmin(*low, v);
    *high = fmax(*high, v);
}

// Ends of intervals are cut where no value can be: below 0 and, of shares, above 1.
static double value(const SvgRows *p, const double *list, int i) {
    double v = list ? list[i] : (double)NAN;
    if (!p->differences && v < 0) v = 0;
    return p->shares && v > 1 ? 1 : v;
}

static Frame lay_out(const SvgRows *p) {
    Frame l = { .right = WIDTH - RIGHT, .count_max = 1 };
    int longest = 0;
    double low = p->dots && !p->differences ? INFINITY : 0, high = -low;
    bool counts = false;
    for (int r = 0; r < p->n_rows; r++) {
        int length = name_length(p->row[r].name);
        longest = length > NAME_LIMIT ? NAME_LIMIT : length > longest ? length : longest;
        if (isfinite(p->row[r].count)) counts = true, l.count_max = fmax(l.count_max, p->row[r].count);
        for (int i = 0; i < p->n; i++) {
            widen(p->bars[i].v[r], &low, &high);
            widen(value(p, p->bars[i].low, r), &low, &high);
            widen(value(p, p->bars[i].high, r), &low, &high);
        }
    }
    l.count_left = 14 + 6.8 * longest;
    l.left = l.count_left + (counts ? COUNT_WIDTH + 16 : 8);
    l.bar = p->n_rows > 40 ? 3 : BAR;
    l.row_height = l.bar * p->n + (p->n_rows > 40 ? 3 : 9);
    if (p->n_rows <= 40 && l.row_height < 18) l.row_height = 18;
    l.label_every = (int)ceil(12 / l.row_height);
    if (!(low <= high)) low = 0, high = 1;
    l.n_ticks = svg_ticks(low, high, 5, l.tick);
    l.low = l.tick[0];
    l.high = l.tick[l.n_ticks - 1];
    l.step = l.n_ticks > 1 ? l.tick[1] - l.tick[0] : 1;
    l.bottom = TOP;
    for (int r = 0; r < p->n_rows; r++) l.bottom += l.row_height + (p->row[r].apart ? 10 : 0);
    return l;
}

static void draw_legend(Text *t, const SvgRows *p) {
    double x = 8;
    for (int i = 0; i < p->n; i++) {
        char *name = name_shorten(p->bars[i].name, 26);
        text_add(t, "<rect class=\"f%d\" x=\"%.1f\" y=\"25\" width=\"10\" height=\"10\"/>",
                 p->bars[i].colour % SVG_COLOURS, x);
        svg_label(t, x + 14, 34, SVG_LEFT, "name", name);
        x += 30 + 6.6 * name_length(name);
        free(name);
    }
}

static void draw_grid(Text *t, const SvgRows *p, const Frame *l) {
    char text[32];
    for (int i = 0; i < l->n_ticks; i++) {
        double x = place(l, l->tick[i]);
        text_add(t, "<line class=\"%s\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%.1f\"/>",
                 l->tick[i] == 0 ? "zero" : "grid", x, x, TOP - 4, l->bottom);
        svg_tick_text(l->tick[i], l->step, text);
        svg_label(t, x, l->bottom + 16, SVG_MIDDLE, "tick", text);
    }
    svg_label(t, 8, 15, SVG_LEFT, "title", p->title);
    svg_label(t, (l->left + l->right) / 2, l->bottom + 34, SVG_MIDDLE, "axis", p->x_label);
    if (p->count_label) svg_label(t, l->count_left, l->bottom + 34, SVG_LEFT, "axis", p->count_label);
}

// colour -1: the ink of the text.
static void draw_whisker(Text *t, const Frame *l, double low, double high, double y, int colour) {
    if (!isfinite(low) || !isfinite(high)) return;
    text_add(t, "<path class=\"whisker");
    if (colour >= 0) text_add(t, " s%d", colour % SVG_COLOURS);
    text_add(t, "\" d=\"M%.1f %.1fH%.1fM%.1f %.1fv4M%.1f %.1fv4\"/>", place(l, low), y,
             place(l, high), place(l, low), y - 2, place(l, high), y - 2);
}

static void draw_row(Text *t, const SvgRows *p, const Frame *l, int r, double top) {
    const SvgRow *row = &p->row[r];
    double middle = top + l->row_height / 2;
    char *name = name_shorten(row->name, NAME_LIMIT);
    if (r % l->label_every == 0 || row->apart)
        svg_label(t, l->count_left - 6, middle + 4, SVG_RIGHT, l->row_height < 14 ? "small" : "name", name);
    free(name);
    if (isfinite(row->count) && row->count >= 0) {
        double share = log10(1 + row->count) / log10(1 + l->count_max), h = l->row_height - 4;
        text_add(t, "<rect class=\"count\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>", l->count_left,
                 top + 2, share * COUNT_WIDTH, h);
        char text[32];
        snprintf(text, sizeof text, "%.0f", row->count);
        if (l->row_height >= 14) svg_label(t, l->count_left + 4, middle + 4, SVG_LEFT, "tick", text);
    }
    double first = middle - l->bar * p->n / 2;
    for (int i = 0; i < p->n; i++) {
        const SvgBars *b = &p->bars[i];
        double v = b->v[r], y = first + i * l->bar, zero = place(l, 0);
        if (!isfinite(v)) continue;
        if (p->dots)
            text_add(t, "<circle class=\"f%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"/>\n", b->colour % SVG_COLOURS,
                     place(l, v), y + l->bar / 2, l->bar / 2);
        else
            text_add(t, "<rect class=\"f%d\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n",
                     b->colour % SVG_COLOURS, fmin(zero, place(l, v)), y + 0.5, fmax(1, fabs(place(l, v) - zero)),
                     l->bar - 1);
        draw_whisker(t, l, value(p, b->low, r), value(p, b->high, r), y + l->bar / 2, p->dots ? b->colour : -1);
    }
}

void svg_rows(Text *t, const SvgRows *p, SvgUse use) {
    Frame l = lay_out(p);
    svg_begin(t, WIDTH, (int)l.bottom + 44, p->title, use);
    draw_legend(t, p);
    draw_grid(t, p, &l);
    double top = TOP;
    for (int r = 0; r < p->n_rows; r++) {
        top += p->row[r].apart ? 10 : 0;
        draw_row(t, p, &l, r, top);
        top += l.row_height;
    }
    svg_end(t);
}

// ---- matrices
void svg_matrix(Text *t, const SvgMatrix *p, SvgUse use) {
    enum { MATRIX_TOP = 34, NAME = 14 };
    bool named = p->n <= 40;
    int longest = 0;
    for (int i = 0; named && i < p->n; i++) {
        int length = name_length(p->names[i]);
        longest = length > NAME ? NAME : length > longest ? length : longest;
    }
    double left = 34 + 6.6 * longest, cell = (WIDTH - left - 40) / p->n;
    if (cell > 38) cell = 38;
    double bottom = MATRIX_TOP + cell * p->n, names = named ? 5.2 * longest + 12 : 6;
    svg_begin(t, WIDTH, (int)(bottom + names + 22), p->title, use);
    svg_label(t, 8, 16, SVG_LEFT, "title", p->title);
    for (int r = 0; r < p->n; r++)
        for (int c = 0; c < p->n; c++) {
            double v = p->v[r * p->n + c], x = left + c * cell, y = MATRIX_TOP + r * cell;
            if (!isfinite(v)) continue;
            text_add(t, "<rect class=\"heat\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" "
                     "fill-opacity=\"%.3f\"/>", x, y, cell - (cell > 8), cell - (cell > 8), sqrt(fmin(fmax(v, 0), 1)));
            char text[16];
            snprintf(text, sizeof text, "%.0f", 100 * v);
            if (cell >= 20 && v > 0.005)
                text_add(t, "<text class=\"small\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\"%s>%s</text>\n",
                         x + cell / 2, y + cell / 2 + 4, v > 0.25 ? " style=\"fill:#fff\"" : "", text);
        }
    text_add(t, "<rect class=\"cell\" x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%.1f\"/>\n", left, MATRIX_TOP,
             cell * p->n, cell * p->n);
    for (int i = 0; named && i < p->n; i++) {
        char *name = name_shorten(p->names[i], NAME);
        double at = i * cell + cell / 2;
        svg_label(t, left - 6, MATRIX_TOP + at + 4, SVG_RIGHT, cell < 13 ? "small" : "tick", name);
        text_add(t, "<text transform=\"translate(%.1f %.1f) rotate(-45)\" text-anchor=\"end\" class=\"%s\">",
                 left + at + 4, bottom + 12, cell < 13 ? "small" : "tick");
        text_html(t, name);
        text_add(t, "</text>\n");
        free(name);
    }
    svg_label(t, left + cell * p->n / 2, bottom + names + 14, SVG_MIDDLE, "axis", p->column_label);
    text_add(t, "<text transform=\"translate(14 %.1f) rotate(-90)\" text-anchor=\"middle\" class=\"axis\">",
             (MATRIX_TOP + bottom) / 2);
    text_html(t, p->row_label);
    text_add(t, "</text>\n");
    svg_end(t);
}
