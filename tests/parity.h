// tests/parity.h - the judge of replays: what was computed again from a case of the published code, against the case,
// and runs in bf16 against the reference's in floats. Shared by tests/test_parity.c and the program `parity`.
//
// In floats: ||got - want|| / ||want|| at most 5e-5 for predictions, losses, gradients and reverse steps; for weights
// and averages after the updates ||got - want|| / ||want - initial|| at most 1e-3, so that an optimiser that does
// nothing fails. Two correct float32 implementations differ by a fifth and a tenth of that; Winograd convolutions are
// allowed four times as much. Left out: the frozen time table, and the bias of the attention's keys, whose gradient is
// zero but for rounding.
//
// In bf16: the same errors, against ref in floats, at most twice those of ref32 in bf16. Both are the largest over all
// results of a kind (predictions, gradients, ...), over all updates and steps, since the error of one number, such as a
// loss, may be small by chance.
#ifndef TESTS_PARITY_H
#define TESTS_PARITY_H
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/file.h"

// ---- results as doubles
typedef struct { char *name; double *x; size_t n; } Result;
typedef struct { Result *r; int n; } Results;

static inline double element(const StTensor *t, size_t i) {
    const char *at = (const char *)t->data + i * st_type_size(t->type);
    if (t->type == ST_F64) { double v; memcpy(&v, at, 8); return v; }
    if (t->type == ST_F32) { float v; memcpy(&v, at, 4); return (double)v; }
    if (t->type == ST_I64) { int64_t v; memcpy(&v, at, 8); return (double)v; }
    if (t->type == ST_I32) { int32_t v; memcpy(&v, at, 4); return (double)v; }
    return (double)NAN;                                   // a type that no case has
}

static inline bool results_read(const char *path, Results *out, Error *err) {
    SafeTensors *st = st_open(path, err);
    if (!st) return false;
    Results all = { xcalloc((size_t)st_count(st), sizeof(Result)), st_count(st) };
    for (int i = 0; i < all.n; i++) {
        const StTensor *t = st_get(st, i);
        size_t n = t->bytes / st_type_size(t->type);
        all.r[i] = (Result){ xstrdup(t->name), xmalloc(n * sizeof(double)), n };
        for (size_t j = 0; j < n; j++) all.r[i].x[j] = element(t, j);
    }
    st_close(st);
    *out = all;
    return true;
}

static inline void results_free(Results *all) {
    for (int i = 0; i < all->n; i++) {
        free(all->r[i].name);
        free(all->r[i].x);
    }
    free(all->r);
}

static inline Result *find(const Results *all, const char *name) {
    for (int i = 0; i < all->n; i++)
        if (strcmp(all->r[i].name, name) == 0) return &all->r[i];
    return NULL;
}

// ---- the judge
typedef struct { char name[64]; double worst; char where[256]; double limit; } Group;
typedef struct { Group group[64]; int n, missing; char first_missing[256]; } Verdict;

static inline double norm_of(const double *x, size_t n) {
    double s = 0;
    for (size_t i = 0; i < n; i++) s += x[i] * x[i];
    return sqrt(s);
}

static inline bool starts(const char *s, const char *with) { return strncmp(s, with, strlen(with)) == 0; }
static inline bool ends(const char *s, const char *with) {
    size_t n = strlen(s), m = strlen(with);
    return n >= m && strcmp(s + n - m, with) == 0;
}

static inline bool judged(const char *name) {
    bool final = starts(name, "final.");
    if (!final && !strstr(name, ".out.")) return false;
    return !strstr(name, "proj_k.bias") && !(final && (ends(name, "#l2") || strstr(name, "timembedding.0.weight")));
}

// The program's result for one of the case's: by the same name, or the head or norm of what it holds whole. *own: to be
// freed by the caller; *got NULL: missing, or of another size.
static inline const double *lookup(const Results *out, const Result *want, const char *base, double *norm) {
    const Result *r = find(out, want->name);
    if (r) return r->n == want->n ? r->x : NULL;
    r = find(out, base);
    if (!r) return NULL;
    if (ends(want->name, "#head")) return r->n >= want->n ? r->x : NULL;
    *norm = norm_of(r->x, r->n);
    return want->n == 1 ? norm : NULL;
}

// ||got - want|| over the norm of what the result is measured against.
static inline double error_of(const Results *example, const Result *want, const double *got, const char *base,
                              bool final) {
    double difference = 0, against = 0;
    const Result *initial = NULL;
    if (final) {
        char name[300];
        snprintf(name, sizeof name, "param.%s", strchr(base + strlen("final."), '.') + 1);
        initial = find(example, name);
        CHECK(initial && initial->n >= want->n, "%s has no initial weights", want->name);
    }
    for (size_t i = 0; i < want->n; i++) {
        double d = got[i] - want->x[i], a = want->x[i] - (initial ? initial->x[i] : 0);
        difference += d * d;
        against += a * a;
    }
    difference = sqrt(difference);
    against = sqrt(against);
    if (against <= 0 && difference <= 0) return 0;       // NaN in got goes on, and fails
    return difference / fmax(against, 1e-12);
}

// "final.param", "step0.eps", "sample.mean": the digits at the end of the third part are a step's number.
static inline void group_name(const char *base, char *out, size_t size) {
    char copy[300], *part[3] = { "", "", "" }, *save = NULL;
    snprintf(copy, sizeof copy, "%s", base);
    part[0] = strtok_r(copy, ".", &save);
    for (int i = 1; i < 3; i++) part[i] = strtok_r(NULL, ".", &save);
    if (strcmp(part[0], "final") == 0) {
        snprintf(out, size, "final.%s", part[1]);
        return;
    }
    for (size_t n = strlen(part[2]); n && part[2][n - 1] >= '0' && part[2][n - 1] <= '9'; n--) part[2][n - 1] = 0;
    snprintf(out, size, "%s.%s", part[0], part[2]);
}

// "eps" of "step0.eps": results of one kind, whichever update or step they belong to.
static inline const char *kind_of(const char *group) {
    const char *dot = strchr(group, '.');
    if (!dot || starts(group, "final.")) return group;
    return starts(dot, ".eps") ? ".eps" : starts(group, "sample.") ? "sample" : dot;
}

static inline void judge_one(const Results *example, const Results *out, const Result *want, double scale, Verdict *v) {
    char base[300], name[64];
    snprintf(base, sizeof base, "%.*s", (int)strcspn(want->name, "#"), want->name);
    bool final = starts(base, "final.");
    double norm;
    const double *got = lookup(out, want, base, &norm);
    if (!got) {
        if (!v->missing++) snprintf(v->first_missing, sizeof v->first_missing, "%s", want->name);
        return;
    }
    double e = error_of(example, want, got, base, final);
    group_name(base, name, sizeof name);
    int k = 0;
    while (k < v->n && strcmp(v->group[k].name, name) != 0) k++;
    CHECK(k < 64, "too many kinds of results");
    Group *g = &v->group[k];
    if (k == v->n) {
        v->n++;
        *g = (Group){ .worst = -1, .limit = (final ? 1e-3 : 5e-5) * scale };
        snprintf(g->name, sizeof g->name, "%s", name);
    }
    if (e <= g->worst) return;
    g->worst = e;
    snprintf(g->where, sizeof g->where, "%s", want->name);
}

static inline Verdict judge(const Results *example, const Results *out, double scale) {
    Verdict v = { .n = 0 };
    for (int i = 0; i < example->n; i++)
        if (judged(example->r[i].name)) judge_one(example, out, &example->r[i], scale, &v);
    return v;
}

// Errors of `out` in bf16 where `floats` is ref in floats and `yard` is ref32 in bf16: limits: twice the yardstick's.
static inline Verdict judge_bf16(const Results *example, const Results *floats, const Results *yard,
                                 const Results *out) {
    Verdict v = { .n = 0 }, fair = { .n = 0 };
    for (int i = 0; i < floats->n; i++) {
        if (!judged(floats->r[i].name)) continue;
        judge_one(example, yard, &floats->r[i], 1, &fair);
        judge_one(example, out, &floats->r[i], 1, &v);
    }
    v.missing += fair.missing;
    for (int i = 0; i < v.n; i++) {
        const char *kind = kind_of(v.group[i].name);
        double of_yard = 0;
        for (int j = 0; j < fair.n; j++) {
            if (strcmp(kind_of(fair.group[j].name), kind) != 0) continue;
            of_yard = fmax(of_yard, fair.group[j].worst);
        }
        v.group[i].limit = 2 * of_yard;
    }
    return v;
}

static inline int failures(const Verdict *v) {
    int bad = v->missing > 0;
    for (int i = 0; i < v->n; i++) bad += !(v->group[i].worst <= v->group[i].limit);
    return bad;
}
#endif
