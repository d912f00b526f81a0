// eval/table.h - tables of results: a line for each entry, a column for each metric of each part of the classes.
#ifndef EVAL_TABLE_H
#define EVAL_TABLE_H
#include "eval/report_entries.h"
#include "eval/report_text.h"
EXTERN_C_BEGIN
// Best: of the column's means. Tied: not significantly worse than the best.
typedef enum { MARK_NONE, MARK_BEST, MARK_TIED } Mark;
typedef struct {
    int           n_lines, n_metrics, n_parts;
    const Entry  *const *line;        // (n_lines)
    const Metric *const *metric;      // (n_metrics)
    const Where  *part;               // (n_parts)
    const Result *family;             // for the caption and names
    Cell         *cell;               // (n_lines,n_metrics,n_parts)
    Mark         *mark;               // likewise
    int          *decimals;           // (n_metrics)
    bool          tests[4];           // which TestKinds decided a mark
} Table;
// Cells of one family of e. strict: every line must have every seed of its arm (runs), and a number in every cell;
// a line or cell that is not complete is an error that names the run and the metric. Otherwise such cells stay empty.
bool  table_make(const RunSet *runs, const EntrySet *e, int family, const Metric *const *metric, int n_metrics,
                 const Where *part, int n_parts, bool strict, Table *out, Error *err);
void  table_free(Table *t);
const Cell *table_cell(const Table *t, int line, int metric, int part);
// What the numbers are measured by, what the interval is, what the marks mean (best, tied: how the format shows them,
// as in "bold"): plain text; caller frees.
char *table_caption(const Table *t, const char *best, const char *tied);
void  table_latex(Text *out, const Table *t);         // booktabs; best in bold, tied underlined
void  table_markdown(Text *out, const Table *t);      // best in bold, tied in italics
void  table_csv(Text *out, const Table *t);           // one line a cell, not scaled, every digit
void  table_html(Text *out, const Table *t, bool with_caption);   // a table a metric; best in bold, tied underlined
EXTERN_C_END
#endif
