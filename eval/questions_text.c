// eval/questions_text.c - the answers as tables for people and as members of the result file.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/questions.h"

// ---- tables: a column of text or numbers for each answer, a row for each class, group and all
enum { MAX_COLUMNS = 16, CELL = 24, NAME = 18 };
typedef struct { const char *head; const Shares *shares; const double *by_class; int digits; } Column;

static void print_cell(FILE *f, const Column *c, double v) {
    if (isnan(v)) fprintf(f, " %*s", (int)strlen(c->head) > 9 ? (int)strlen(c->head) : 9, "-");
    else fprintf(f, " %*.*f", (int)strlen(c->head) > 9 ? (int)strlen(c->head) : 9, c->digits, v);
}

static void print_columns(FILE *f, const ClassTable *t, const Column *c, int n) {
    fprintf(f, "%-*s %9s", NAME, "class", "training");
    for (int i = 0; i < n; i++) fprintf(f, " %9s", c[i].head);
    fprintf(f, "\n");
    for (int k = 0; k < t->classes; k++) {
        fprintf(f, "%-*.*s %9lld", NAME, NAME, t->names[k], (long long)t->train_counts[k]);
        for (int i = 0; i < n; i++)
            print_cell(f, &c[i], c[i].shares ? c[i].shares->by_class[k] : c[i].by_class[k]);
        fprintf(f, "\n");
    }
    for (int g = 0; g <= GROUP_COUNT; g++) {
        if (g < GROUP_COUNT && !t->group_of) continue;
        fprintf(f, "%-*s %9s", NAME, g < GROUP_COUNT ? group_names[g] : "all", "");
        for (int i = 0; i < n; i++)
            print_cell(f, &c[i], !c[i].shares ? (double)NAN : g < GROUP_COUNT ? c[i].shares->by_group[g]
                                                                             : c[i].shares->all);
        fprintf(f, "\n");
    }
}

static const char *arm_name(const Recognition *r) {
    static const char *const names[2][2] = { { "lt", "lt,adj" }, { "lt+gen", "lt+gen,adj" } };
    return names[r->generated][r->adjusted];
}

// Of samples that are not their class's: the class that they are taken for most.
static void print_confusion(FILE *f, const Fidelity *y, const ClassTable *t) {
    for (int c = 0; c < t->classes; c++) {
        const int64_t *row = y->confusion + (int64_t)c * t->classes;
        int most = -1;
        int64_t all = 0;
        for (int g = 0; g < t->classes; g++) {
            all += row[g];
            if (g != c && row[g] > 0 && (most < 0 || row[g] > row[most])) most = g;
        }
        if (most >= 0 && row[most] * 20 >= all)
            fprintf(f, "  %s: %lld of %lld samples are taken for %s\n", t->names[c], (long long)row[most],
                    (long long)all, t->names[most]);
    }
}

void answers_print(const Answers *a, const ClassTable *t, FILE *f) {
    Column c[MAX_COLUMNS];
    int n = 0;
    if (a->fidelity) {
        c[n++] = (Column){ "fidelity", &a->fidelity->generated, NULL, 3 };
        c[n++] = (Column){ "of real", &a->fidelity->real, NULL, 3 };
        c[n++] = (Column){ "borrowed", NULL, a->fidelity->borrowed, 3 };
    }
    if (a->nearest) {
        c[n++] = (Column){ "copies", &a->nearest->copies, NULL, 4 };
        c[n++] = (Column){ "authentic", &a->nearest->authentic, NULL, 3 };
    }
    if (a->diversity) {
        c[n++] = (Column){ "diversity", NULL, a->diversity, 3 };
        c[n++] = (Column){ "of real", NULL, a->real_diversity, 3 };
    }
    if (a->cas) c[n++] = (Column){ "cas", &a->cas->top1, NULL, 3 };
    for (int i = 0; a->downstream && i < DOWNSTREAM_ARMS; i++)
        c[n++] = (Column){ arm_name(&a->downstream[i]), &a->downstream[i].top1, NULL, 3 };
    if (n == 0) return;
    fprintf(f, "\n");
    print_columns(f, t, c, n);
    if (a->fidelity) print_confusion(f, a->fidelity, t);
    if (a->nearest)
        fprintf(f, "copies: nearer to a training image than all but %g%% of the real test images of their class; of "
                "all: %.4g\n", 100 * a->nearest->quantile, a->nearest->copies.all);
}

// ---- JSON
static void shares_json(const Shares *s, const ClassTable *t, JsonText *j) {
    jtext_numbers(j, "per_class", s->by_class, t->classes);
    if (t->group_of) {
        jtext_open(j, "per_group", '{');
        for (int g = 0; g < GROUP_COUNT; g++) jtext_number(j, group_names[g], s->by_group[g]);
        jtext_close(j, '}');
    }
    jtext_number(j, "all", s->all);
}

static void fidelity_json(const Answers *a, const ClassTable *t, JsonText *j) {
    const Fidelity *y = a->fidelity;
    jtext_open(j, "label_fidelity", '{');
    jtext_string(j, "classifier", a->classifier);
    shares_json(&y->generated, t, j);
    jtext_numbers(j, "real_per_class", y->real.by_class, t->classes);
    jtext_number(j, "real_all", y->real.all);
    jtext_close(j, '}');
    jtext_open(j, "confusion", '[');
    for (int c = 0; c < t->classes; c++) jtext_wholes(j, NULL, y->confusion + (int64_t)c * t->classes, t->classes);
    jtext_close(j, ']');
    jtext_numbers(j, "borrowed", y->borrowed, t->classes);
}

static void nearest_json(const Answers *a, const ClassTable *t, JsonText *j) {
    const Nearest *n = a->nearest;
    jtext_open(j, "nearest", '{');
    jtext_number(j, "quantile", n->quantile);
    jtext_number(j, "threshold", n->threshold);
    jtext_numbers(j, "thresholds", n->thresholds, t->classes);
    jtext_numbers(j, "per_class_copy_rate", n->copies.by_class, t->classes);
    jtext_number(j, "copy_rate", n->copies.all);
    jtext_numbers(j, "real_per_class_copy_rate", n->real_copies.by_class, t->classes);
    jtext_numbers(j, "per_class_authentic", n->authentic.by_class, t->classes);
    jtext_number(j, "authentic", n->authentic.all);
    if (a->nearest_sheet) jtext_string(j, "sheet", a->nearest_sheet);
    jtext_open(j, "pairs", '[');
    for (int i = 0; i < n->n_pairs; i++) {
        const NearPair *p = &n->pairs[i];
        jtext_open(j, NULL, '{');
        jtext_whole(j, "class", p->label);
        jtext_whole(j, "sample", a->number[p->gen]);
        jtext_whole(j, "train", p->train);
        jtext_whole(j, "train_class", p->train_label);
        jtext_number(j, "distance", p->distance);
        jtext_close(j, '}');
    }
    jtext_close(j, ']');
    jtext_close(j, '}');
}

static void recognition_json(const Recognition *r, const char *key, const Answers *a, const ClassTable *t,
                             JsonText *j) {
    jtext_open(j, key, '{');
    if (!key) jtext_string(j, "train", r->generated ? "lt+gen" : "lt");
    if (!key) jtext_string(j, "loss", r->adjusted ? "logit-adjusted" : "plain");
    jtext_whole(j, "count", r->n_train);
    jtext_whole(j, "depth", a->recipe->depth);
    jtext_number(j, "epochs", a->recipe->epochs);
    shares_json(&r->top1, t, j);
    jtext_close(j, '}');
}

void answers_json(const Answers *a, const ClassTable *t, JsonText *j) {
    if (a->fidelity) fidelity_json(a, t, j);
    if (a->nearest) nearest_json(a, t, j);
    if (a->diversity) {
        jtext_open(j, "diversity", '{');
        jtext_numbers(j, "generated", a->diversity, t->classes);
        jtext_numbers(j, "real", a->real_diversity, t->classes);
        jtext_close(j, '}');
    }
    if (a->cas) recognition_json(a->cas, "cas", a, t, j);
    if (!a->downstream) return;
    jtext_open(j, "downstream", '[');
    for (int i = 0; i < DOWNSTREAM_ARMS; i++) recognition_json(&a->downstream[i], NULL, a, t, j);
    jtext_close(j, ']');
}
