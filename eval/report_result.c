// eval/report_result.c - reads result files: any order of members, unknown ones passed over, lists of the right length.
#include "eval/report_result.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/report_text.h"

enum { CLASSES_MAX = 10000, PAIRS_MAX = 10000, LIST_MAX = 1000 };
static const char format_name[] = "cbdm-eval-1";

typedef struct { Result *r; const char *where; Error *err; bool ok; } Reading;

static void refuse(Reading *g, size_t offset, const char *what, const char *wanted) {
    if (g->ok) error_set(g->err, ERR_FILE, "%s: not read: at offset %zu: %.100s: %s", g->where, offset, what, wanted);
    g->ok = false;
}

// The member if it is of the kind wanted; NULL where absent or null; another kind is refused.
static const Json *member(Reading *g, const Json *j, const char *key, JsonKind kind) {
    static const char *const kinds[] = { "null", "true or false", "a number", "a string", "a list", "an object" };
    const Json *v = json_get(j, key);
    if (!v || v->kind == kind) return v;
    char *wanted = xasprintf("%s is expected", kinds[kind]);
    refuse(g, v->offset, key, wanted);
    free(wanted);
    return NULL;
}
static const Json *object(Reading *g, const Json *j, const char *key) { return member(g, j, key, JSON_OBJECT); }
static const Json *list(Reading *g, const Json *j, const char *key) { return member(g, j, key, JSON_ARRAY); }
static double number(Reading *g, const Json *j, const char *key) {
    const Json *v = member(g, j, key, JSON_NUMBER);
    return v ? v->number : (double)NAN;
}
static const char *string(Reading *g, const Json *j, const char *key) {
    const Json *v = member(g, j, key, JSON_STRING);
    return v ? v->text : NULL;
}

// (n) numbers, NaN for null; NULL where the member is absent. Another length is refused.
static double *numbers(Reading *g, const Json *v, int n) {
    if (!v) return NULL;
    if (v->kind != JSON_ARRAY) return refuse(g, v->offset, v->key ? v->key : "element", "a list is expected"), NULL;
    if (v->count != n) {
        char *wanted = xasprintf("%d values, %d classes", v->count, n);
        refuse(g, v->offset, v->key ? v->key : "row", wanted);
        free(wanted);
        return NULL;
    }
    double *x = xmalloc((size_t)(n + 1) * sizeof *x);
    int i = 0;
    for (const Json *c = v->first; c; c = c->next, i++) {
        if (c->kind != JSON_NUMBER && c->kind != JSON_NULL) refuse(g, c->offset, "element", "a number is expected");
        x[i] = c->kind == JSON_NUMBER ? c->number : (double)NAN;
    }
    return x;
}

// ---- rows
static Estimate estimate(Reading *g, const Json *row, const char *key, const char *interval_key) {
    Estimate e = { number(g, row, key), NAN, NAN };
    const Json *v = interval_key ? list(g, row, interval_key) : NULL;
    double *x = v ? numbers(g, v, 2) : NULL;
    if (x) e.low = x[0], e.high = x[1];
    free(x);
    return e;
}

static void read_prdc(Reading *g, const Json *row, const char *key, double out[PR_COUNT]) {
    static const char *const names[PR_COUNT] = { "precision", "recall", "density", "coverage" };
    const Json *v = object(g, row, key);
    for (int i = 0; i < PR_COUNT; i++) out[i] = number(g, v, names[i]);
}

static ResultRow read_row(Reading *g, const Json *row) {
    ResultRow r = { .n_gen = number(g, row, "n_gen"), .n_ref = number(g, row, "n_ref"),
                    .fid = estimate(g, row, "fid", "fid_interval"), .kid = estimate(g, row, "kid", "kid_interval"),
                    .prd_f8 = number(g, row, "prd_f8"), .prd_f1_8 = number(g, row, "prd_f1_8"),
                    .mind = number(g, row, "mind"),
                    .is_mean = number(g, object(g, row, "inception_score"), "mean") };
    read_prdc(g, row, "pr3", r.pr3);
    read_prdc(g, row, "pr5", r.pr5);
    return r;
}

// The overall row stands in "overall"; files without it have its numbers at the top.
static void read_rows(Reading *g, const Json *j) {
    Result *r = g->r;
    const Json *overall = object(g, j, "overall"), *groups = object(g, j, "per_group");
    const Json *classes = list(g, j, "per_class"), *fids = list(g, j, "per_class_fid");
    r->all = read_row(g, overall ? overall : j);
    if (isnan(r->all.is_mean)) r->all.is_mean = number(g, object(g, j, "inception_score"), "mean");
    for (int k = 0; k < GROUP_COUNT; k++) r->per_group[k] = read_row(g, object(g, groups, group_names[k]));
    if (!classes && !fids) return;
    double *fid = numbers(g, fids, r->classes);
    r->per_class = xmalloc((size_t)(r->classes + 1) * sizeof *r->per_class);
    const Json *row = classes ? classes->first : NULL;
    if (classes && classes->count != r->classes) refuse(g, classes->offset, "per_class", "not one row for each class");
    for (int c = 0; c < r->classes; c++, row = row ? row->next : NULL) {
        r->per_class[c] = read_row(g, row);
        if (fid && !row) r->per_class[c].fid.value = fid[c];
    }
    free(fid);
}

// ---- classes and groups
static void count_classes(Reading *g, const Json *j) {
    static const char *const keys[] = { "class_names", "per_class", "per_class_fid", "train_counts", "confusion" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys && g->r->classes == 0; i++) {
        const Json *v = list(g, j, keys[i]);
        if (v) g->r->classes = v->count;
        if (v && v->count > CLASSES_MAX) refuse(g, v->offset, keys[i], "more than 10000 classes");
    }
}

static void read_classes(Reading *g, const Json *j) {
    Result *r = g->r;
    count_classes(g, j);
    if (!g->ok) return;
    r->class_names = xcalloc((size_t)r->classes + 1, sizeof *r->class_names);
    for (int c = 0; c < r->classes; c++) r->class_names[c] = "";
    const Json *names = list(g, j, "class_names");
    int c = 0;
    for (const Json *v = names ? names->first : NULL; v && c < r->classes; v = v->next, c++) {
        if (v->kind == JSON_STRING) r->class_names[c] = v->text;
        else refuse(g, v->offset, "class_names", "a string is expected");
    }
    r->train_counts = numbers(g, json_get(j, "train_counts"), r->classes);
    for (c = 0; r->train_counts && c < r->classes; c++)
        if (!(r->train_counts[c] >= 0)) refuse(g, json_get(j, "train_counts")->offset, "train_counts", "a count is "
                                               "not negative");
}

static void read_groups(Reading *g, const Json *j) {
    Result *r = g->r;
    const Json *groups = object(g, j, "groups");
    if (!groups) return;
    r->rule = string(g, groups, "rule");
    r->group_of = xmalloc((size_t)(r->classes + 1) * sizeof *r->group_of);
    for (int c = 0; c < r->classes; c++) r->group_of[c] = -1;
    for (int k = 0; k < GROUP_COUNT; k++) {
        const Json *of = list(g, groups, group_names[k]);
        for (const Json *v = of ? of->first : NULL; v; v = v->next) {
            bool whole = v->kind == JSON_NUMBER && v->number >= 0 && v->number < r->classes
                      && v->number == floor(v->number);
            if (!whole) refuse(g, v->offset, group_names[k], "no number of a class");
            else if (r->group_of[(int)v->number] >= 0) refuse(g, v->offset, group_names[k], "a class named twice");
            else r->group_of[(int)v->number] = k;
        }
    }
}

// ---- what is asked of labels
static ResultShares read_shares(Reading *g, const Json *j) {
    ResultShares s = { .per_class = numbers(g, json_get(j, "per_class"), g->r->classes), .all = number(g, j, "all") };
    const Json *groups = object(g, j, "per_group");
    for (int k = 0; k < GROUP_COUNT; k++) s.per_group[k] = number(g, groups, group_names[k]);
    return s;
}

static void read_confusion(Reading *g, const Json *j) {
    Result *r = g->r;
    const Json *rows = list(g, j, "confusion");
    if (!rows) return;
    if (rows->count != r->classes) return refuse(g, rows->offset, "confusion", "not one row for each class");
    r->confusion = xcalloc((size_t)r->classes * (size_t)r->classes + 1, sizeof *r->confusion);
    double *at = r->confusion;
    for (const Json *row = rows->first; row; row = row->next, at += r->classes) {
        double *x = numbers(g, row, r->classes);
        for (int c = 0; x && c < r->classes; c++) {
            if (!(x[c] >= 0)) refuse(g, row->offset, "confusion", "a count is not negative");
            at[c] = x[c];
        }
        free(x);
    }
}

// A whole number from 0 to 2^53, or -1 and a refusal.
static int64_t index_of(Reading *g, const Json *j, const char *key) {
    double v = number(g, j, key);
    if (v >= 0 && v <= 9007199254740992.0 && v == floor(v)) return (int64_t)v;
    refuse(g, j->offset, key, "a whole number is expected");
    return -1;
}

static void read_nearest(Reading *g, const Json *j) {
    Result *r = g->r;
    const Json *nearest = object(g, j, "nearest"), *pairs = list(g, nearest, "pairs");
    r->copy_rate = numbers(g, json_get(nearest, "per_class_copy_rate"), r->classes);
    r->copy_rate_real = numbers(g, json_get(nearest, "real_per_class_copy_rate"), r->classes);
    r->copy_all = number(g, nearest, "copy_rate");
    r->copy_threshold = number(g, nearest, "threshold");
    if (!pairs) return;
    if (pairs->count > PAIRS_MAX) return refuse(g, pairs->offset, "pairs", "more than 10000");
    r->pairs = xcalloc((size_t)pairs->count + 1, sizeof *r->pairs);
    for (const Json *p = pairs->first; p && g->ok; p = p->next) {
        int64_t label = index_of(g, p, "class");
        if (label >= r->classes) refuse(g, p->offset, "class", "no number of a class");
        r->pairs[r->n_pairs++] = (ResultPair){ (int)label, index_of(g, p, "sample"), index_of(g, p, "train"),
                                               number(g, p, "distance") };
    }
}

static void read_labels(Reading *g, const Json *j) {
    Result *r = g->r;
    const Json *fidelity = object(g, j, "label_fidelity"), *diversity = object(g, j, "diversity");
    const Json *runs = list(g, j, "downstream"), *warnings = list(g, j, "warnings");
    r->fidelity = read_shares(g, fidelity);
    r->fidelity_real = numbers(g, json_get(fidelity, "real_per_class"), r->classes);
    r->classifier = string(g, fidelity, "classifier");
    r->cas = read_shares(g, object(g, j, "cas"));
    r->borrowed = numbers(g, json_get(j, "borrowed"), r->classes);
    r->diversity = numbers(g, json_get(diversity, "generated"), r->classes);
    r->diversity_real = numbers(g, json_get(diversity, "real"), r->classes);
    read_confusion(g, j);
    read_nearest(g, j);
    if (runs && runs->count > LIST_MAX) return refuse(g, runs->offset, "downstream", "more than 1000");
    r->downstream = xcalloc(runs ? (size_t)runs->count + 1 : 1, sizeof *r->downstream);
    for (const Json *d = runs ? runs->first : NULL; d && g->ok; d = d->next)
        r->downstream[r->n_downstream++] = (ResultDownstream){ string(g, d, "train"), string(g, d, "loss"),
                                                               read_shares(g, d) };
    r->warnings = xcalloc(warnings ? (size_t)warnings->count + 1 : 1, sizeof *r->warnings);
    for (const Json *w = warnings ? warnings->first : NULL; w; w = w->next) {
        if (w->kind == JSON_STRING) r->warnings[r->n_warnings++] = w->text;
        else refuse(g, w->offset, "warnings", "a string is expected");
    }
}

// The options but for those of the intervals.
static char *measuring_options(const Json *options) {
    Text t = { 0 };
    for (const Json *m = options ? options->first : NULL; m; m = m->next) {
        char *value = json_print(m);
        if (strncmp(m->key, "bootstrap", strlen("bootstrap")) != 0) text_add(&t, "%s %s; ", m->key, value);
        free(value);
    }
    return t.s ? t.s : xstrdup("");
}

static void read_head(Reading *g, const Json *j) {
    Result *r = g->r;
    const Json *extractor = object(g, j, "extractor"), *generated = object(g, j, "generated");
    const Json *reference = object(g, j, "reference"), *options = object(g, j, "options");
    r->protocol = string(g, j, "protocol");
    r->title = string(g, j, "title");
    r->extractor = string(g, extractor, "name");
    r->extractor_sha256 = string(g, extractor, "sha256");
    r->source = string(g, generated, "source");
    r->checkpoint = string(g, generated, "checkpoint");
    r->sampler = string(g, generated, "sampler");
    r->count = number(g, generated, "count");
    r->step = number(g, generated, "step");
    r->omega = number(g, generated, "omega");
    r->steps = number(g, generated, "steps");
    r->seed = number(g, generated, "seed");
    r->reference = string(g, reference, "source");
    r->split = string(g, reference, "split");
    r->digest = string(g, reference, "digest");
    r->ref_count = number(g, reference, "count");
    r->options = options ? json_print(options) : xstrdup("");
    r->measured = measuring_options(options);
}

static Result *from_tree(Json *j, const char *where, Error *err) {
    Result *r = xcalloc(1, sizeof *r);
    Reading g = { r, where, err, true };
    const char *format = json_text(j, "format");
    r->path = xstrdup(where);
    r->json = j;
    if (!format || strcmp(format, format_name) != 0)
        refuse(&g, 0, "format", "a result file of `cbdm eval` has \"format\": \"cbdm-eval-1\"");
    if (g.ok) read_head(&g, j);
    if (g.ok) read_classes(&g, j);
    if (g.ok) read_groups(&g, j);
    if (g.ok) read_rows(&g, j);
    if (g.ok) read_labels(&g, j);
    if (g.ok) return r;
    result_free(r);
    return NULL;
}

Result *result_parse(const char *text, size_t n, const char *where, Error *err) {
    Json *j = json_parse(text, n, where, err);
    return j ? from_tree(j, where, err) : NULL;
}

Result *result_read(const char *path, Error *err) {
    Json *j = json_read(path, err);
    return j ? from_tree(j, path, err) : NULL;
}

void result_free(Result *r) {
    if (!r) return;
    double *lists[] = { r->train_counts, r->fidelity.per_class, r->cas.per_class, r->fidelity_real, r->borrowed,
                        r->copy_rate, r->copy_rate_real, r->diversity, r->diversity_real, r->confusion };
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) free(lists[i]);
    for (int i = 0; i < r->n_downstream; i++) free(r->downstream[i].top1.per_class);
    free(r->path);
    free(r->options);
    free(r->measured);
    free(r->class_names);
    free(r->group_of);
    free(r->per_class);
    free(r->pairs);
    free(r->downstream);
    free(r->warnings);
    json_free(r->json);
    free(r);
}

// ---- what may be compared
static bool same_text(const char *a, const char *b) { return a == b || (a && b && strcmp(a, b) == 0); }
static bool same_number(double a, double b) { return a == b || (isnan(a) && isnan(b)); }

char *result_differs(const Result *a, const Result *b) {
    const struct { const char *what, *a, *b; } texts[] = {
        { "protocol", a->protocol, b->protocol }, { "extractor", a->extractor, b->extractor },
        { "weights of the extractor", a->extractor_sha256, b->extractor_sha256 },
        { "split of the reference", a->split, b->split }, { "reference's digest", a->digest, b->digest },
        { "rule of the groups", a->rule, b->rule }, { "classifier of the label fidelity", a->classifier,
                                                      b->classifier },
        { "options", a->measured, b->measured } };
    const struct { const char *what; double a, b; } counts[] = {
        { "number of generated images", a->count, b->count }, { "number of reference images", a->ref_count,
                                                                b->ref_count },
        { "number of classes", a->classes, b->classes } };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!same_text(texts[i].a, texts[i].b))
            return xasprintf("the %s: %.150s and %.150s", texts[i].what, texts[i].a ? texts[i].a : "none",
                             texts[i].b ? texts[i].b : "none");
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (!same_number(counts[i].a, counts[i].b))
            return xasprintf("the %s: %.0f and %.0f", counts[i].what, counts[i].a, counts[i].b);
    for (int c = 0; c < a->classes; c++)
        if (strcmp(a->class_names[c], b->class_names[c]) != 0)
            return xasprintf("the name of class %d: %.100s and %.100s", c, a->class_names[c], b->class_names[c]);
    return NULL;
}

static void add_hash(Text *t, const char *what, const char *hash) {
    if (hash) text_add(t, " (%s %.12s)", what, hash);
}

char *result_protocol(const Result *r) {
    Text t = { 0 };
    bool classifier = r->extractor && strncmp(r->extractor, "classifier", strlen("classifier")) == 0;
    text_add(&t, "Protocol %s%s; features of %s", r->protocol ? r->protocol : "none (feature files)",
             classifier ? " (images not resized)" : "", r->extractor ? r->extractor : "an unnamed extractor");
    add_hash(&t, "SHA-256", r->extractor_sha256);
    if (isfinite(r->count)) text_add(&t, "; %.0f generated images", r->count);
    text_add(&t, "; reference: ");
    if (isfinite(r->ref_count)) text_add(&t, "%.0f images of ", r->ref_count);
    text_add(&t, "%s%s%s", r->reference ? r->reference : "unnamed", r->split ? ", " : "", r->split ? r->split : "");
    add_hash(&t, "digest", r->digest);
    if (r->rule) text_add(&t, "; groups by the rule %s", r->rule);
    if (r->classifier) text_add(&t, "; labels judged by %s", r->classifier);
    return t.s;
}
