// eval/table_formats.c - tables as LaTeX, Markdown, CSV and HTML.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/table.h"

static const char plus_minus[] = " \xc2\xb1 ", minus_sign[] = "\xe2\x88\x92";

// "12.3 +- 0.4" in the units shown; sign: what stands between, minus: before a negative number.
static void put_cell(Text *out, const Table *t, int metric, const Cell *c, const char *sign, const char *minus) {
    double scale = t->metric[metric]->scale;
    text_number(out, c->mean * scale, t->decimals[metric], minus);
    if (c->interval != INTERVAL_SEEDS) return;
    text_add(out, "%s", sign);
    text_number(out, (c->high - c->low) / 2 * scale, t->decimals[metric], minus);
}

static Mark mark_of(const Table *t, int i, int m, int p) {
    return t->mark[(i * t->n_metrics + m) * t->n_parts + p];
}

static const char *arrow(const Metric *m, const char *up, const char *down) {
    return m->better == BETTER_LOWER ? down : m->better == BETTER_HIGHER ? up : "";
}

// ---- LaTeX
static void latex_caption(Text *out, const Table *t) {
    char *caption = table_caption(t, "bold", "underlined");
    Text escaped = { 0 };
    text_latex(&escaped, caption);
    text_add(out, "\\caption{");
    for (const char *s = escaped.s; *s; s++) {                   // two characters that fonts may lack
        if (strncmp(s, "\xc2\xb1", 2) == 0) text_add(out, "$\\pm$"), s++;
        else text_put(out, s, 1);
    }
    text_add(out, "}\n");
    text_free(&escaped);
    free(caption);
}

static void latex_head(Text *out, const Table *t) {
    text_add(out, "\\begin{tabular}{l*{%d}{r}}\n\\toprule\n", t->n_metrics * t->n_parts);
    for (int m = 0; m < t->n_metrics; m++)
        text_add(out, " & \\multicolumn{%d}{c}{%s%s}", t->n_parts, t->metric[m]->latex,
                 arrow(t->metric[m], " $\\uparrow$", " $\\downarrow$"));
    text_add(out, " \\\\\n");
    for (int m = 0; m < t->n_metrics && t->n_parts > 1; m++)
        text_add(out, "\\cmidrule(lr){%d-%d}", 2 + m * t->n_parts, 1 + (m + 1) * t->n_parts);
    text_add(out, t->n_parts > 1 ? "\n" : "");
    for (int m = 0; m < t->n_metrics; m++)
        for (int p = 0; p < t->n_parts; p++) {
            text_add(out, " & ");
            text_latex(out, where_name(t->part[p], t->family));
        }
    text_add(out, " \\\\\n\\midrule\n");
}

// omega as a letter of mathematics: the label holds it in UTF-8.
static void latex_label(Text *out, const char *label) {
    Text escaped = { 0 };
    text_latex(&escaped, label);
    for (const char *s = escaped.s ? escaped.s : ""; *s; s++) {
        if (strncmp(s, "\xcf\x89", 2) == 0) text_add(out, "$\\omega$"), s++;
        else text_put(out, s, 1);
    }
    text_free(&escaped);
}

void table_latex(Text *out, const Table *t) {
    text_add(out, "%% \\usepackage{booktabs}\n\\begin{table}\n\\centering\n");
    latex_caption(out, t);
    latex_head(out, t);
    for (int i = 0; i < t->n_lines; i++) {
        latex_label(out, t->line[i]->label);
        for (int m = 0; m < t->n_metrics; m++)
            for (int p = 0; p < t->n_parts; p++) {
                Mark mark = mark_of(t, i, m, p);
                text_add(out, " & %s$", mark == MARK_TIED ? "\\underline{" : mark == MARK_BEST ? "{\\boldmath " : "");
                put_cell(out, t, m, table_cell(t, i, m, p), " \\pm ", "-");
                text_add(out, "$%s", mark == MARK_NONE ? "" : "}");
            }
        text_add(out, " \\\\\n");
    }
    text_add(out, "\\bottomrule\n\\end{tabular}\n\\end{table}\n");
}

// ---- Markdown
void table_markdown(Text *out, const Table *t) {
    text_add(out, "| |");
    for (int m = 0; m < t->n_metrics; m++)
        for (int p = 0; p < t->n_parts; p++) {
            text_add(out, " %s%s, ", t->metric[m]->title, arrow(t->metric[m], " \xe2\x86\x91", " \xe2\x86\x93"));
            text_markdown(out, where_name(t->part[p], t->family));
            text_add(out, " |");
        }
    text_add(out, "\n|---|");
    for (int i = 0; i < t->n_metrics * t->n_parts; i++) text_add(out, "---:|");
    for (int i = 0; i < t->n_lines; i++) {
        text_add(out, "\n| ");
        text_markdown(out, t->line[i]->label);
        text_add(out, " |");
        for (int m = 0; m < t->n_metrics; m++)
            for (int p = 0; p < t->n_parts; p++) {
                Mark mark = mark_of(t, i, m, p);
                const char *around = mark == MARK_BEST ? "**" : mark == MARK_TIED ? "*" : "";
                text_add(out, " %s", around);
                put_cell(out, t, m, table_cell(t, i, m, p), plus_minus, "-");
                text_add(out, "%s |", around);
            }
    }
    char *caption = table_caption(t, "bold", "in italics");
    text_add(out, "\n\n");
    text_markdown(out, caption);
    text_add(out, "\n");
    free(caption);
}

// ---- CSV
static void csv_number(Text *out, double v) {
    if (isfinite(v)) text_add(out, ",%.17g", v);
    else text_add(out, ",");
}

void table_csv(Text *out, const Table *t) {
    static const char *const intervals[] = { "", "t over seeds", "bootstrap" }, *const marks[] = { "", "best", "tied" };
    char *caption = table_caption(t, "best", "tied");
    text_add(out, "line,metric,part,mean,low,high,interval,seeds,mark,protocol\n");
    for (int i = 0; i < t->n_lines; i++)
        for (int m = 0; m < t->n_metrics; m++)
            for (int p = 0; p < t->n_parts; p++) {
                const Cell *c = table_cell(t, i, m, p);
                text_csv(out, t->line[i]->label);
                text_add(out, ",%s,", t->metric[m]->name);
                text_csv(out, where_name(t->part[p], t->family));
                csv_number(out, c->mean);
                csv_number(out, c->low);
                csv_number(out, c->high);
                text_add(out, ",%s,%d,%s,", intervals[c->interval], c->n, marks[mark_of(t, i, m, p)]);
                text_csv(out, caption);
                text_add(out, "\n");
            }
    free(caption);
}

// ---- HTML
static void html_metric(Text *out, const Table *t, int m) {
    static const char *const open[] = { "", "<b>", "<u>" }, *const close[] = { "", "</b>", "</u>" };
    text_add(out, "<div class=\"wide\"><table class=\"numbers\"><thead><tr><th class=\"line\"><b>%s%s</b></th>",
             t->metric[m]->title, arrow(t->metric[m], " \xe2\x86\x91", " \xe2\x86\x93"));
    for (int p = 0; p < t->n_parts; p++) {
        text_add(out, "<th>");
        text_html(out, where_name(t->part[p], t->family));
        text_add(out, "</th>");
    }
    text_add(out, "</tr></thead><tbody>\n");
    for (int i = 0; i < t->n_lines; i++) {
        text_add(out, "<tr><th class=\"line\">");
        text_html(out, t->line[i]->label);
        text_add(out, "</th>");
        for (int p = 0; p < t->n_parts; p++) {
            Mark mark = mark_of(t, i, m, p);
            text_add(out, "<td>%s", open[mark]);
            put_cell(out, t, m, table_cell(t, i, m, p), plus_minus, minus_sign);
            text_add(out, "%s</td>", close[mark]);
        }
        text_add(out, "</tr>\n");
    }
    text_add(out, "</tbody></table></div>\n");
}

void table_html(Text *out, const Table *t, bool with_caption) {
    char *caption = table_caption(t, "bold", "underlined");
    text_add(out, "<p class=\"note\">");
    if (with_caption) text_html(out, caption);
    text_add(out, "</p><div class=\"grid\">\n");
    for (int m = 0; m < t->n_metrics; m++) html_metric(out, t, m);
    text_add(out, "</div>\n");
    free(caption);
}
