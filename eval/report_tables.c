// eval/report_tables.c - the report's sections that are tables: summary, recognition, protocol, configuration.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/report_page.h"
#include "eval/table.h"

// ---- summary
enum { SHOWN = 5, LISTED = 14 };
static const char *const listed[LISTED] = { "fid", "kid", "recall", "coverage", "fidelity", "precision", "density",
                                            "borrowed", "copy", "is", "prd_f8", "prd_f1_8", "mind", "cas" };

// The metrics listed from begin to end that any result has, a table each; caption only with the first.
static void summary_tables(Page *p, int family, int begin, int end, bool caption) {
    static const Where parts[] = { { OF_ALL, 0 }, { OF_GROUP, GROUP_MANY }, { OF_GROUP, GROUP_MEDIUM },
                                   { OF_GROUP, GROUP_FEW } };
    const Metric *metric[LISTED] = { NULL };
    int n = 0;
    for (int i = begin; i < end; i++) {
        const Metric *m = metric_find(listed[i]);
        if (metric_present(m, p->entries, family, parts[0])) metric[n++] = m;
    }
    Table table;
    Error none;
    table_make(p->runs, p->entries, family, metric, n, parts, p->entries->family[family]->group_of ? 4 : 1, false,
               &table, &none);
    if (n && !caption) text_add(&p->body, "<details><summary>More metrics</summary>\n");
    if (n) table_html(&p->body, &table, caption);
    if (n && !caption) text_add(&p->body, "</details>\n");
    table_free(&table);
}

static void put_warnings(Page *p) {
    bool open = false;
    for (int i = 0; i < p->entries->n; i++)
        for (int k = 0; k < p->entries->entry[i].n; k++) {
            const Result *r = p->entries->entry[i].result[k];
            for (int w = 0; w < r->n_warnings; w++) {
                if (!open) text_add(&p->body, "<details><summary>Warnings of the evaluation</summary><ul>\n");
                open = true;
                text_add(&p->body, "<li>");
                text_html(&p->body, p->entries->entry[i].run[k]->name);
                text_add(&p->body, ": ");
                text_html(&p->body, r->warnings[w]);
                text_add(&p->body, "</li>\n");
            }
        }
    if (open) text_add(&p->body, "</ul></details>\n");
}

void section_summary(Page *p) {
    if (p->entries->families > 1)
        page_note(p, "The results are of several protocols, references or numbers of samples, whose numbers cannot be "
                     "compared with each other: those of the most samples come first, the others are folded away.");
    for (int f = 0; f < p->entries->families; f++) {
        if (f == 1) text_add(&p->body, "<details><summary>Results measured in other ways</summary>\n");
        summary_tables(p, f, 0, SHOWN, true);
        summary_tables(p, f, SHOWN, LISTED, false);
    }
    if (p->entries->families > 1) text_add(&p->body, "</details>\n");
    put_warnings(p);
    if (!p->entries->n && p->runs->n)
        page_note(p, "No results yet: `cbdm eval run --samples DIR --json RUN/eval/NAME.json` writes one.");
}

// ---- recognition
static void share_cells(Page *p, const double *value, int n) {
    MeanInterval m = mean_interval(value, n);
    text_add(&p->body, "<td>");
    text_number(&p->body, 100 * m.mean, 1, "\xe2\x88\x92");
    if (n > 1) text_add(&p->body, " \xc2\xb1 %.1f", 50 * (m.high - m.low));
    text_add(&p->body, "</td>");
}

// The result's run of training data and loss that d is, or NULL.
static const ResultDownstream *same_downstream(const Result *r, const ResultDownstream *d) {
    for (int i = 0; i < r->n_downstream; i++) {
        const ResultDownstream *o = &r->downstream[i];
        if (o->train && o->loss && strcmp(o->train, d->train) == 0 && strcmp(o->loss, d->loss) == 0) return o;
    }
    return NULL;
}

static void downstream_line(Page *p, const Entry *e, const ResultDownstream *d) {
    double *v = xmalloc((size_t)(e->n + 1) * sizeof *v);
    text_add(&p->body, "<tr><th class=\"line\">");
    text_html(&p->body, e->label);
    text_add(&p->body, "</th><th class=\"line\">%s</th><th class=\"line\">",
             strcmp(d->train, "lt+gen") == 0 ? "long-tailed + generated" : "long-tailed");
    text_html(&p->body, d->loss);
    text_add(&p->body, "</th>");
    for (int w = -1; w < GROUP_COUNT; w++) {
        int n = 0;
        for (int k = 0; k < e->n; k++) {
            const ResultDownstream *o = same_downstream(e->result[k], d);
            double x = !o ? (double)NAN : w < 0 ? o->top1.all : o->top1.per_group[w];
            if (isfinite(x)) v[n++] = x;
        }
        share_cells(p, v, n);
    }
    text_add(&p->body, "</tr>\n");
    free(v);
}

void section_recognition(Page *p) {
    bool open = false;
    for (int i = 0; i < p->entries->n; i++) {
        const Entry *e = &p->entries->entry[i];
        for (int d = 0; d < e->result[0]->n_downstream; d++) {
            const ResultDownstream *down = &e->result[0]->downstream[d];
            if (!down->train || !down->loss) continue;
            if (!open)
                text_add(&p->body, "<p class=\"note\">Top-1 accuracy in per cent on real test images of a classifier "
                         "trained on the long-tailed images, without and with generated ones; mean and half of the "
                         "95%% t-interval over seeds where there are several.</p><div class=\"wide\"><table><thead><tr>"
                         "<th class=\"line\">run</th><th class=\"line\">trained on</th><th class=\"line\">loss</th>"
                         "<th>all</th><th>many</th><th>medium</th><th>few</th></tr></thead><tbody>\n");
            open = true;
            downstream_line(p, e, down);
        }
    }
    if (open) text_add(&p->body, "</tbody></table></div>\n");
}

// ---- protocol
void section_protocol(Page *p) {
    for (int f = 0; f < p->entries->families; f++) {
        const Result *r = p->entries->family[f];
        char *protocol = result_protocol(r);
        text_add(&p->body, "<p>");
        text_html(&p->body, protocol);
        text_add(&p->body, ".</p>");
        if (*r->options) {
            text_add(&p->body, "<p class=\"note\">Settings: <code>");
            text_html(&p->body, r->options);
            text_add(&p->body, "</code></p>\n");
        }
        free(protocol);
    }
    if (!p->entries->families) return;
    text_add(&p->body, "<details><summary>Result files</summary><table><tbody>\n");
    for (int i = 0; i < p->entries->n; i++)
        for (int k = 0; k < p->entries->entry[i].n; k++) {
            const Result *r = p->entries->entry[i].result[k];
            text_add(&p->body, "<tr><td class=\"key\">");
            text_html(&p->body, p->entries->entry[i].label);
            text_add(&p->body, "</td><td class=\"value\">");
            text_html(&p->body, r->title ? r->title : "");
            text_add(&p->body, "<br><span class=\"note\">");
            text_html(&p->body, r->path);
            text_add(&p->body, "</span></td></tr>\n");
        }
    text_add(&p->body, "</tbody></table></details>\n");
}

// ---- configuration
static void put_members(Page *p, const Json *j, const char *what) {
    if (!j || j->kind != JSON_OBJECT || !j->first) return;
    text_add(&p->body, "<h3>%s</h3><div class=\"wide\"><table><tbody>\n", what);
    for (const Json *m = j->first; m; m = m->next) {
        char *value = m->kind == JSON_STRING ? xstrdup(m->text) : json_print(m);
        text_add(&p->body, "<tr><td class=\"key\">");
        text_html(&p->body, m->key);
        text_add(&p->body, "</td><td class=\"value\">");
        text_html(&p->body, value);
        text_add(&p->body, "</td></tr>\n");
        free(value);
    }
    text_add(&p->body, "</tbody></table></div>\n");
}

// Settings that are not the same in all runs, side by side.
static void put_differences(Page *p) {
    const RunSet *s = p->runs;
    const Json *first = NULL;
    int with = 0, shown = 0;
    for (int i = 0; i < s->n; i++)
        if (s->run[i].config) first = first ? first : s->run[i].config, with++;
    for (const Json *m = with > 1 ? first->first : NULL; m; m = m->next) {
        char *want = json_print(m);
        bool differs = false;
        for (int i = 0; i < s->n; i++) {
            const Json *v = json_get(s->run[i].config, m->key);
            char *text = v ? json_print(v) : xstrdup("");
            differs |= s->run[i].config && strcmp(text, want) != 0;
            free(text);
        }
        free(want);
        if (!differs) continue;
        if (!shown++) {
            text_add(&p->body, "<p class=\"note\">Settings in which the runs differ:</p><div class=\"wide\"><table>"
                     "<thead><tr><th class=\"line\"></th>");
            for (int i = 0; i < s->n; i++) {
                text_add(&p->body, "<th>");
                text_html(&p->body, s->run[i].name);
                text_add(&p->body, "</th>");
            }
            text_add(&p->body, "</tr></thead><tbody>\n");
        }
        text_add(&p->body, "<tr><th class=\"line\">");
        text_html(&p->body, m->key);
        text_add(&p->body, "</th>");
        for (int i = 0; i < s->n; i++) {
            const Json *v = json_get(s->run[i].config, m->key);
            char *text = !v ? xstrdup("-") : v->kind == JSON_STRING ? xstrdup(v->text) : json_print(v);
            text_add(&p->body, "<td>");
            text_html(&p->body, text);
            text_add(&p->body, "</td>");
            free(text);
        }
        text_add(&p->body, "</tr>\n");
    }
    if (shown) text_add(&p->body, "</tbody></table></div>\n");
}

void section_configuration(Page *p) {
    put_differences(p);
    for (int i = 0; i < p->runs->n; i++) {
        const Run *r = &p->runs->run[i];
        if (!r->config && !r->manifest) continue;
        text_add(&p->body, "<details><summary>");
        text_html(&p->body, r->name);
        text_add(&p->body, "</summary><p class=\"note\">");
        text_html(&p->body, r->path);
        text_add(&p->body, "</p>\n");
        put_members(p, r->config, "Configuration");
        put_members(p, r->manifest, "Manifest");
        text_add(&p->body, "</details>\n");
    }
}
