// eval/report_compare_text.c - comparisons as Markdown, CSV and LaTeX.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/path.h"
#include "eval/report_compare.h"

static const char *const titles[PAIRED_COUNT] = { "FID", "KID", "label fidelity" };

const char *comparison_part(const Comparison *c, int row, char buffer[32]) {
    Where w = c->row[row].where;
    if (w.kind != OF_CLASS) return w.kind == OF_ALL ? "all" : group_names[w.index];
    if (c->class_names && *c->class_names[w.index]) return c->class_names[w.index];
    snprintf(buffer, 32, "class %d", w.index);
    return buffer;
}

bool comparison_has(const Comparison *c, int metric) {
    for (int i = 0; i < c->n; i++)
        if (isfinite(c->row[i].value[metric].difference)) return true;
    return false;
}

char *comparison_caption(const Comparison *c) {
    char *a = path_base(c->name[0]), *b = path_base(c->name[1]), *reference = path_base(c->reference);
    char *text = xasprintf("Difference of %s from %s, reference %s. 95%% intervals by a paired bootstrap: %d "
                           "resamples, the same images of both and the same reference images in each; not corrected for "
                           "the number of comparisons.", b, a, reference, c->resamples);
    free(a);
    free(b);
    free(reference);
    return text;
}

static int decimals_of(const Comparison *c, int metric) {
    double most = 0;
    for (int i = 0; i < c->n; i++) {
        const PairedValue *v = &c->row[i].value[metric];
        if (isfinite(v->difference)) most = fmax(most, fmax(fabs(v->a), fabs(v->b)));
    }
    double least = most / 10;
    int decimals = decimals_for(&least, 1);
    return metric == PAIRED_FIDELITY && decimals > 3 ? 3 : decimals;
}

// "1.2 [0.9, 1.5]"; bold where the interval leaves 0 out.
static void put_difference(Text *out, const PairedValue *v, int decimals, const char *open, const char *close,
                           const char *minus) {
    bool sure = v->low > 0 || v->high < 0;
    text_add(out, "%s", sure ? open : "");
    text_number(out, v->difference, decimals, minus);
    if (isfinite(v->low)) {
        text_add(out, " [");
        text_number(out, v->low, decimals, minus);
        text_add(out, ", ");
        text_number(out, v->high, decimals, minus);
        text_add(out, "]");
    }
    text_add(out, "%s", sure ? close : "");
}

void comparison_markdown(Text *out, const Comparison *c) {
    char buffer[32], *caption = comparison_caption(c);
    text_add(out, "| | images |");
    for (int m = 0; m < PAIRED_COUNT; m++)
        if (comparison_has(c, m)) text_add(out, " %s A | %s B | B - A |", titles[m], titles[m]);
    text_add(out, "\n|---|---:|");
    for (int m = 0; m < PAIRED_COUNT; m++)
        if (comparison_has(c, m)) text_add(out, "---:|---:|---:|");
    for (int i = 0; i < c->n; i++) {
        text_add(out, "\n| ");
        text_markdown(out, comparison_part(c, i, buffer));
        text_add(out, " | %lld |", (long long)c->row[i].n_gen);
        for (int m = 0; m < PAIRED_COUNT; m++) {
            const PairedValue *v = &c->row[i].value[m];
            if (!comparison_has(c, m)) continue;
            int decimals = decimals_of(c, m);
            text_add(out, " ");
            text_number(out, v->a, decimals, "-");
            text_add(out, " | ");
            text_number(out, v->b, decimals, "-");
            text_add(out, " | ");
            put_difference(out, v, decimals, "**", "**", "-");
            text_add(out, " |");
        }
    }
    text_add(out, "\n\n");
    text_markdown(out, caption);
    text_add(out, " Bold: the interval leaves 0 out.\n");
    free(caption);
}

static void csv_number(Text *out, double v) {
    if (isfinite(v)) text_add(out, ",%.17g", v);
    else text_add(out, ",");
}

void comparison_csv(Text *out, const Comparison *c) {
    char buffer[32];
    text_add(out, "part,images,reference_images,metric,a,b,difference,low,high\n");
    for (int i = 0; i < c->n; i++)
        for (int m = 0; m < PAIRED_COUNT; m++) {
            const PairedRow *r = &c->row[i];
            if (!isfinite(r->value[m].difference)) continue;
            text_csv(out, comparison_part(c, i, buffer));
            text_add(out, ",%lld,%lld,%s", (long long)r->n_gen, (long long)r->n_ref, paired_names[m]);
            csv_number(out, r->value[m].a);
            csv_number(out, r->value[m].b);
            csv_number(out, r->value[m].difference);
            csv_number(out, r->value[m].low);
            csv_number(out, r->value[m].high);
            text_add(out, "\n");
        }
}

void comparison_latex(Text *out, const Comparison *c) {
    int metrics = 0;
    char buffer[32], *caption = comparison_caption(c);
    for (int m = 0; m < PAIRED_COUNT; m++) metrics += comparison_has(c, m);
    text_add(out, "%% \\usepackage{booktabs}\n\\begin{table}\n\\centering\n\\caption{");
    text_latex(out, caption);
    text_add(out, " Bold: the interval leaves 0 out.}\n\\begin{tabular}{l*{%d}{r}}\n\\toprule\n", metrics);
    for (int m = 0; m < PAIRED_COUNT; m++)
        if (comparison_has(c, m)) text_add(out, " & %s", titles[m]);
    text_add(out, " \\\\\n\\midrule\n");
    for (int i = 0; i < c->n; i++) {
        text_latex(out, comparison_part(c, i, buffer));
        for (int m = 0; m < PAIRED_COUNT; m++) {
            if (!comparison_has(c, m)) continue;
            text_add(out, " & ");
            put_difference(out, &c->row[i].value[m], decimals_of(c, m), "\\textbf{", "}", "$-$");
        }
        text_add(out, " \\\\\n");
    }
    text_add(out, "\\bottomrule\n\\end{tabular}\n\\end{table}\n");
    free(caption);
}
