// eval/report.c - the verb `cbdm report`: flags, and what is made of the runs that they name.
#include "eval/report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/cli.h"
#include "core/file.h"
#include "eval/report_images.h"
#include "eval/table.h"

typedef struct {
    const char *out, *names, *samples, *data, *title, *svg, *metric, *rows, *omega, *compare, *reference;
    int table, resamples;
    int64_t seed;
} ReportFlags;
static const char *const table_names[] = { "none", "latex", "csv", "md", NULL };
enum { TABLE_NONE, TABLE_LATEX, TABLE_CSV, TABLE_MARKDOWN, WORDS_MAX = 1024, LIST_MAX = 1024 };

#define FIELD(f) offsetof(ReportFlags, f)
static const Flag flags[] = {
    { "out", "", "file of the page, or of the table (default: to stdout)", FLAG_STR, FIELD(out), NULL, 0, 0 },
    { "names", "", "names of the runs, a,b,...; runs of the same name are seeds of one arm", FLAG_LIST, FIELD(names),
      NULL, 0, 0 },
    { "omega", "", "only results of these guidance strengths, such as 0,1.5", FLAG_LIST, FIELD(omega), NULL, 0, 0 },
    { NULL, NULL, "the page", FLAG_STR, 0, NULL, 0, 0 },
    { "samples", "", "folders of `cbdm sample`, one a run, beside RUN/samples*", FLAG_LIST, FIELD(samples), NULL, 0,
      0 },
    { "data", "", "the data set trained on, to show training images", FLAG_STR, FIELD(data), NULL, 0, 0 },
    { "title", "Long-tailed diffusion runs", "of the page", FLAG_STR, FIELD(title), NULL, 0, 0 },
    { "svg", "", "folder for every figure as a file", FLAG_STR, FIELD(svg), NULL, 0, 0 },
    { NULL, NULL, "a table instead", FLAG_STR, 0, NULL, 0, 0 },
    { "table", "none", "latex, csv or md: mean and interval over seeds", FLAG_ENUM, FIELD(table), table_names, 0, 0 },
    { "metric", "fid,kid,recall", "columns: fid, kid, precision, recall, density, coverage (k = 5; precision3 ...: k "
      "= 3), is, prd_f8, prd_f1_8, mind, fidelity, borrowed, copy, diversity, cas", FLAG_LIST, FIELD(metric), NULL, 0,
      0 },
    { "rows", "all,many,medium,few", "parts of the classes that each metric is given for; also classes by their names",
      FLAG_LIST, FIELD(rows), NULL, 0, 0 },
    { NULL, NULL, "paired bootstrap of two models", FLAG_STR, 0, NULL, 0, 0 },
    { "compare", "", "A,B: features of the same image numbers drawn from two models (cbdm eval run --save-features): "
      "the differences B - A per class and group, on the page or, with --table or alone, as a table", FLAG_LIST,
      FIELD(compare), NULL, 0, 0 },
    { "reference", "", "features of the reference images with labels (cbdm eval ref)", FLAG_STR, FIELD(reference), NULL,
      0, 0 },
    { "resamples", "500", "of both and of the reference, with repeats", FLAG_INT, FIELD(resamples), NULL, 20, 100000 },
    { "seed", "0", "of the resamples", FLAG_I64, FIELD(seed), NULL, 0, 9007199254740991.0 },
};
#undef FIELD
enum { N_FLAGS = sizeof flags / sizeof flags[0] };
static const char usage[] = "cbdm report RUN|RESULT.json ... --out report.html [options]";
static const char about[] =
    "A page about training runs and their results, with everything in it: curves, numbers per class, samples, "
    "guidance, protocol, configuration. RUN: a folder of `cbdm train`, with results in RUN/eval/*.json (cbdm eval "
    "run --json) and samples in RUN/samples*. Runs that differ by their seed alone are one arm. With --table, a "
    "table for a paper. With --compare, the difference of two models, image by image; a RUN or RESULT.json gives it "
    "class names and groups.";

// ---- lists
// The parts of "a,b,c" as copies; "" has none. Caller frees each and the list.
static char **split(const char *text, int *n) {
    char **list = xcalloc(LIST_MAX, sizeof *list);
    *n = 0;
    for (const char *at = text; *text && *n < LIST_MAX; at++) {
        size_t length = strcspn(at, ",");
        list[(*n)++] = xasprintf("%.*s", (int)length, at);
        at += length;
        if (!*at) break;
    }
    return list;
}

static void split_free(char **list, int n) {
    for (int i = 0; i < n; i++) free(list[i]);
    free(list);
}

static bool read_omegas(const char *text, double *omega, int *n, Error *err) {
    char **list = split(text, n);
    bool ok = true;
    for (int i = 0; i < *n && ok; i++) {
        char *end;
        omega[i] = strtod(list[i], &end);
        if (end == list[i] || *end || !isfinite(omega[i]))
            ok = error_set(err, ERR_USAGE, "--omega %s: numbers such as 0,1.5", text);
    }
    split_free(list, *n);
    return ok;
}

// ---- tables
static bool read_metrics(const char *text, const Metric **metric, int *n, Error *err) {
    char **list = split(text, n);
    const char *known[64];
    bool ok = true;
    for (int i = 0; i < n_metrics_known; i++) known[i] = metrics_known[i].name;
    for (int i = 0; i < *n && ok; i++) {
        metric[i] = metric_find(list[i]);
        const char *near = metric[i] ? NULL : cli_nearest(list[i], known, n_metrics_known);
        if (!metric[i])
            ok = error_set(err, ERR_USAGE, "--metric %.60s is not known%s%s: see cbdm report --help", list[i],
                           near ? "; did you mean " : "", near ? near : "");
    }
    if (ok && !*n) ok = error_set(err, ERR_USAGE, "--metric is empty: name metrics such as fid,recall");
    split_free(list, *n);
    return ok;
}

static bool find_part(const char *name, const Result *r, Where *out) {
    if (strcmp(name, "all") == 0) return *out = (Where){ OF_ALL, 0 }, true;
    for (int k = 0; k < GROUP_COUNT; k++)
        if (strcmp(name, group_names[k]) == 0) return *out = (Where){ OF_GROUP, k }, true;
    for (int c = 0; c < r->classes; c++)
        if (strcmp(name, r->class_names[c]) == 0) return *out = (Where){ OF_CLASS, c }, true;
    return false;
}

static bool read_parts(const char *text, const Result *r, Where *part, int *n, Error *err) {
    char **list = split(text, n);
    bool ok = true;
    for (int i = 0; i < *n && ok; i++)
        if (!find_part(list[i], r, &part[i]))
            ok = error_set(err, ERR_USAGE, "--rows %.60s: all, many, medium, few, or a class's name", list[i]);
    if (ok && !*n) ok = error_set(err, ERR_USAGE, "--rows is empty: name parts such as all,few");
    split_free(list, *n);
    return ok;
}

// Numbers of different protocols, references or counts never stand in one table.
static bool check_families(const EntrySet *e, Error *err) {
    if (e->n == 0)
        return error_set(err, ERR_USAGE, "no results to make a table of: `cbdm eval run --json RUN/eval/NAME.json` "
                         "writes one");
    if (e->families < 2) return true;
    char *why = result_differs(e->family[0], e->family[1]);
    error_set(err, ERR_USAGE, "%.120s and %.120s may not stand in one table: they differ in %.220s", e->family[0]->path,
              e->family[1]->path, why ? why : "what they are measured by");
    free(why);
    return false;
}

static bool write_text(const char *path, const Text *t, Error *err) {
    if (*path) return file_write_text(path, t->s, err);
    bool ok = fwrite(t->s, 1, t->n, stdout) == t->n && fflush(stdout) == 0;
    return ok || error_set(err, ERR_IO, "stdout: the table could not be written");
}

static bool make_table(const ReportFlags *c, const RunSet *runs, const EntrySet *e, Error *err) {
    const Metric *metric[LIST_MAX];
    Where *part = xcalloc(LIST_MAX, sizeof *part);
    int n_metrics, n_parts;
    Table table = { 0 };
    bool ok = check_families(e, err) && read_metrics(c->metric, metric, &n_metrics, err)
           && read_parts(c->rows, e->family[0], part, &n_parts, err)
           && table_make(runs, e, 0, metric, n_metrics, part, n_parts, true, &table, err);
    if (ok) {
        static void (*const write[])(Text *, const Table *) = { NULL, table_latex, table_csv, table_markdown };
        Text t = { 0 };
        write[c->table](&t, &table);
        ok = write_text(c->out, &t, err);
        text_free(&t);
    }
    table_free(&table);
    free(part);
    return ok;
}

// ---- comparisons
static bool read_comparison(const ReportFlags *c, const EntrySet *e, Comparison *out, Error *err) {
    int n;
    char **file = split(c->compare, &n);
    bool ok = (n == 2 || error_set(err, ERR_USAGE, "--compare %.200s: name two files of features, A,B", c->compare))
           && (*c->reference || error_set(err, ERR_USAGE, "--compare needs --reference: features of real images, as "
                                          "`cbdm eval ref` writes them"))
           && compare_files(file[0], file[1], c->reference, e->families ? e->family[0] : NULL, c->resamples,
                            (uint64_t)c->seed, out, err);
    split_free(file, n);
    return ok;
}

static bool write_comparison(const ReportFlags *c, const Comparison *comparison, Error *err) {
    static void (*const write[])(Text *, const Comparison *) = { comparison_markdown, comparison_latex, comparison_csv,
                                                                 comparison_markdown };
    Text t = { 0 };
    write[c->table](&t, comparison);
    bool ok = write_text(c->out, &t, err);
    text_free(&t);
    return ok;
}

// ---- the page
static bool make_page(const ReportFlags *c, const RunSet *runs, const EntrySet *e, const Comparison *comparison,
                      Error *err) {
    static const struct { const char *id, *title; SectionFill *fill; } sections[] = {
        { "summary", "Summary", section_summary }, { "differences", "Differences", section_differences },
        { "paired", "Paired bootstrap", section_comparison }, { "classes", "Per class", section_classes },
        { "guidance", "Guidance", section_guidance }, { "confusion", "Confusion", section_confusion },
        { "samples", "Samples", section_samples }, { "nearest", "Nearest training images", section_nearest },
        { "recognition", "Recognition", section_recognition }, { "training", "Training", section_loss },
        { "denoising", "Denoising per class", section_probe },
        { "while-training", "Samples while training", section_evals }, { "protocol", "Protocol", section_protocol },
        { "configuration", "Configuration", section_configuration },
    };
    Page p = { .runs = runs, .entries = e, .comparison = comparison, .classes = class_list_of(runs), .data = c->data,
               .svg_dir = c->svg, .err = err, .ok = true };
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++)
        page_section(&p, sections[i].id, sections[i].title, sections[i].fill);
    char *html = page_finish(&p, c->title);
    bool ok = p.ok && file_write_text(c->out, html, err);
    if (ok) log_info("%s: %d runs, %d arms, %d figures, %.1f MB", c->out, runs->n, runs->n_arms, p.figures,
                     (double)strlen(html) / 1e6);
    class_list_free(&p.classes);
    free(html);
    return ok;
}

static bool make_all(const ReportFlags *c, const RunSet *runs, const EntrySet *e, Error *err) {
    Comparison comparison = { 0 };
    bool compares = *c->compare, ok = !compares || read_comparison(c, e, &comparison, err);
    if (ok && compares && (c->table || !*c->out)) ok = write_comparison(c, &comparison, err);
    else if (ok) ok = c->table ? make_table(c, runs, e, err)
                               : make_page(c, runs, e, compares ? &comparison : NULL, err);
    comparison_free(&comparison);
    return ok;
}

static bool report(const ReportFlags *c, const char *const *paths, int n_paths, Error *err) {
    int n_names, n_samples, n_omegas;
    char **names = split(c->names, &n_names), **samples = split(c->samples, &n_samples);
    double *omega = xcalloc(LIST_MAX, sizeof *omega);
    RunSet runs = { 0 };
    EntrySet entries = { 0 };
    bool ok = read_omegas(c->omega, omega, &n_omegas, err)
           && run_set_read(paths, n_paths, (const char *const *)names, n_names, (const char *const *)samples, n_samples,
                           &runs, err)
           && entries_of(&runs, omega, n_omegas, &entries, err) && make_all(c, &runs, &entries, err);
    entries_free(&entries);
    run_set_free(&runs);
    free(omega);
    split_free(names, n_names);
    split_free(samples, n_samples);
    return ok;
}

int report_main(int argc, char **argv) {
    ReportFlags c;
    Error err = { 0 };
    const char *word[WORDS_MAX];
    int words = WORDS_MAX;
    cli_defaults(flags, N_FLAGS, &c);
    if (cli_wants_help(argc, argv)) {
        cli_help(flags, N_FLAGS, usage, about);
        return 0;
    }
    bool ok = cli_parse(flags, N_FLAGS, &c, argc - 1, argv + 1, word, &words, NULL, &err);
    if (ok && words == 0 && !*c.compare) ok = error_set(&err, ERR_USAGE, "no run is named: %s", usage);
    if (ok && !c.table && !*c.out && !*c.compare)
        ok = error_set(&err, ERR_USAGE, "--out names no file for the page: %s", usage);
    ok = ok && report(&c, word, words, &err);
    if (!ok) log_info("error: %s", err.msg);
    return ok ? 0 : err.code;
}
