// eval/svg.h - figures as SVG: curves, rows of bars, matrices. Colours that colour-blind readers can tell apart; light
// and dark on a page, self-contained as a file.
#ifndef EVAL_SVG_H
#define EVAL_SVG_H
#include "eval/report_text.h"
EXTERN_C_BEGIN
// On a page the figure takes its colours from svg_style; a file carries its own (light, on white).
typedef enum { SVG_PAGE, SVG_FILE } SvgUse;
enum { SVG_COLOURS = 8 };
void svg_style(Text *t);                                         // the rules for a page, dark ones included
// Ticks at 1, 2 or 5 times a power of ten that cover [low, high] with about `want` steps. ticks (room): written.
// Returns how many; the first is at most low, the last at least high.
enum { SVG_TICKS = 24 };
int  svg_ticks(double low, double high, int want, double ticks[SVG_TICKS]);
// A curve; NaN in y is a gap. low, high: a band around it, or NULL. Names are escaped and shortened.
typedef struct {
    const char   *name;               // NULL: no label
    int           colour, n;
    const double *x, *y, *low, *high; // (n)
    bool          faint, dashed, marked;
} SvgLine;
typedef struct { const char *title, *x_label, *y_label; bool log_y, from_zero; int n; const SvgLine *line; } SvgPlot;
void svg_plot(Text *t, const SvgPlot *p, SvgUse use);
// Rows of classes, most frequent first: a name, a count as a bar on a logarithmic scale, and a bar or dot for each
// series. v, low, high (rows); NaN: nothing; low, high may be NULL.
typedef struct {
    const char *name;
    double      count;                // NaN: none
    bool        apart, total;         // a gap before it; a row of several classes, always named
} SvgRow;
typedef struct { const char *name; int colour; const double *v, *low, *high; } SvgBars;
typedef struct {
    const char *title, *x_label, *count_label;
    int n_rows; const SvgRow *row;
    int n; const SvgBars *bars;
    bool dots;                        // dots instead of bars, on an axis that need not hold 0
    bool differences;                 // values on both sides of 0; else nothing lies below it
    bool shares;                      // nothing lies above 1
} SvgRows;
void svg_rows(Text *t, const SvgRows *p, SvgUse use);
// Shares from 0 to 1 in a square, rows first; NaN: an empty cell.
typedef struct { const char *title, *row_label, *column_label; int n; const char *const *names; const double *v; }
    SvgMatrix;
void svg_matrix(Text *t, const SvgMatrix *p, SvgUse use);
// Shared by the files that draw.
void svg_begin(Text *t, int width, int height, const char *title, SvgUse use);
void svg_end(Text *t);
typedef enum { SVG_LEFT, SVG_MIDDLE, SVG_RIGHT } SvgAnchor;
void svg_label(Text *t, double x, double y, SvgAnchor a, const char *class, const char *text);
void svg_tick_text(double v, double step, char out[32]);
EXTERN_C_END
#endif
