// tests/test_parity.c - what the published code computed is computed again, and judged by the parity cases' own rules.
//
// The rules: ||got - want|| / ||want|| at most 5e-5 for predictions, losses, gradients and reverse steps; for weights
// and averages after the updates ||got - want|| / ||want - initial|| at most 1e-3, so that an optimiser that does
// nothing fails. Two correct float32 implementations differ by a fifth and a tenth of that; Winograd convolutions are
// allowed four times as much. Left out: the frozen time table, and the bias of the attention's keys, whose gradient is
// zero but for rounding.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include "tests/program.h"

#define CASE TESTS_DIR "/golden/tiny.safetensors"

// ---- results as doubles
typedef struct { char *name; double *x; size_t n; } Result;
typedef struct { Result *r; int n; } Results;

static double element(const StTensor *t, size_t i) {
    const char *at = (const char *)t->data + i * st_type_size(t->type);
    if (t->type == ST_F64) { double v; memcpy(&v, at, 8); return v; }
    if (t->type == ST_F32) { float v; memcpy(&v, at, 4); return (double)v; }
    if (t->type == ST_I64) { int64_t v; memcpy(&v, at, 8); return (double)v; }
    if (t->type == ST_I32) { int32_t v; memcpy(&v, at, 4); return (double)v; }
    fail_msg("%s has a type that no case has", t->name);
    return (double)NAN;
}

static Results results_read(const char *path) {
    Error err;
    SafeTensors *st = st_open(path, &err);
    if (!st) fail_msg("%s", err.msg);
    Results all = { xcalloc((size_t)st_count(st), sizeof(Result)), st_count(st) };
    for (int i = 0; i < all.n; i++) {
        const StTensor *t = st_get(st, i);
        size_t n = t->bytes / st_type_size(t->type);
        all.r[i] = (Result){ xstrdup(t->name), xmalloc(n * sizeof(double)), n };
        for (size_t j = 0; j < n; j++) all.r[i].x[j] = element(t, j);
    }
    st_close(st);
    return all;
}

static void results_free(Results *all) {
    for (int i = 0; i < all->n; i++) {
        free(all->r[i].name);
        free(all->r[i].x);
    }
    free(all->r);
}

static Result *find(const Results *all, const char *name) {
    for (int i = 0; i < all->n; i++)
        if (strcmp(all->r[i].name, name) == 0) return &all->r[i];
    return NULL;
}

// ---- the judge
typedef struct { char name[64]; double worst; char where[256]; double limit; } Group;
typedef struct { Group group[64]; int n, missing; char first_missing[256]; } Verdict;

static double norm_of(const double *x, size_t n) {
    double s = 0;
    for (size_t i = 0; i < n; i++) s += x[i] * x[i];
    return sqrt(s);
}

static bool starts(const char *s, const char *with) { return strncmp(s, with, strlen(with)) == 0; }
static bool ends(const char *s, const char *with) {
    size_t n = strlen(s), m = strlen(with);
    return n >= m && strcmp(s + n - m, with) == 0;
}

static bool judged(const char *name) {
    bool final = starts(name, "final.");
    if (!final && !strstr(name, ".out.")) return false;
    return !strstr(name, "proj_k.bias") && !(final && (ends(name, "#l2") || strstr(name, "timembedding.0.weight")));
}

// The program's result for one of the case's: by the same name, or the head or norm of what it holds whole. *own: to be
// freed by the caller; *got NULL: missing, or of another size.
static const double *lookup(const Results *out, const Result *want, const char *base, double *norm) {
    const Result *r = find(out, want->name);
    if (r) return r->n == want->n ? r->x : NULL;
    r = find(out, base);
    if (!r) return NULL;
    if (ends(want->name, "#head")) return r->n >= want->n ? r->x : NULL;
    *norm = norm_of(r->x, r->n);
    return want->n == 1 ? norm : NULL;
}

// ||got - want|| over the norm of what the result is measured against.
static double error_of(const Results *example, const Result *want, const double *got, const char *base, bool final) {
    double difference = 0, against = 0;
    const Result *initial = NULL;
    if (final) {
        char name[300];
        snprintf(name, sizeof name, "param.%s", strchr(base + strlen("final."), '.') + 1);
        initial = find(example, name);
        assert_true(initial && initial->n >= want->n);
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
static void group_name(const char *base, char *out, size_t size) {
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

static void judge_one(const Results *example, const Results *out, const Result *want, double scale, Verdict *v) {
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
    assert_true(k < 64);
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

static Verdict judge(const Results *example, const Results *out, double scale) {
    Verdict v = { .n = 0 };
    for (int i = 0; i < example->n; i++)
        if (judged(example->r[i].name)) judge_one(example, out, &example->r[i], scale, &v);
    return v;
}

static int failures(const Verdict *v) {
    int bad = v->missing > 0;
    for (int i = 0; i < v->n; i++) bad += !(v->group[i].worst <= v->group[i].limit);
    return bad;
}

// ---- the program against the case
static Results example, of_ref;

static int setup(void **state) {
    if (tempdir_make(state) != 0) return -1;
    example = results_read(CASE);
    return 0;
}

static int teardown(void **state) {
    results_free(&example);
    results_free(&of_ref);
    return tempdir_remove(state);
}

static Results replayed(const char *device) {
    program_expect(0, "replay %s --output %s.safetensors --device %s", CASE, device, device);
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.2000s/%.100s.safetensors", tempdir, device);
    return results_read(path);
}

static void expect_parity(const Results *out, const char *device, double scale) {
    Verdict v = judge(&example, out, scale);
    for (int i = 0; i < v.n; i++)
        printf("%-5s %-22s %.2e  (limit %.0e)  %s\n", device, v.group[i].name, v.group[i].worst, v.group[i].limit,
               v.group[i].where);
    if (failures(&v))
        fail_msg("%s: %d groups fail or are incomplete; missing: %s", device, failures(&v), v.first_missing);
    static const char *const needed[] = { "step0.eps", "step0.eps_balanced", "step0.loss_ddpm", "step0.loss_reg",
                                          "step0.grad", "step0.grad_norm", "final.param", "final.ema", "sample.mean",
                                          "sample.x" };
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        int k = 0;
        while (k < v.n && strcmp(v.group[k].name, needed[i]) != 0) k++;
        if (k == v.n) fail_msg("nothing of the group %s was judged", needed[i]);
    }
}

static void reference_computes_what_was_published(void **state) {
    (void)state;
    of_ref = replayed("ref");
    expect_parity(&of_ref, "ref", 1);
}

static void cpu_computes_what_was_published(void **state) {
    (void)state;
    Results out = replayed("cpu");
    expect_parity(&out, "cpu", 4);                       // Winograd convolutions
    results_free(&out);
}

// ---- the judge itself

// One result wrong by a thousandth, whichever it is.
static void judge_sees_a_thousandth(void **state) {
    (void)state;
    int seen = 0;
    for (int i = 0; i < example.n; i++) {
        if (!judged(example.r[i].name) || norm_of(example.r[i].x, example.r[i].n) <= 0) continue;
        char base[300];
        snprintf(base, sizeof base, "%.*s", (int)strcspn(example.r[i].name, "#"), example.r[i].name);
        Result *r = find(&of_ref, example.r[i].name);
        if (!r) r = find(&of_ref, base);
        assert_non_null(r);
        Verdict only = { .n = 0 };
        double *right = r->x, *wrong = xmalloc(r->n * sizeof *wrong);
        for (size_t j = 0; j < r->n; j++) wrong[j] = 1.001 * right[j];
        r->x = wrong;
        judge_one(&example, &of_ref, &example.r[i], 1, &only);
        r->x = right;
        free(wrong);
        if (failures(&only) != 1) fail_msg("%s may be wrong by a thousandth: %g", r->name, only.group[0].worst);
        seen++;
    }
    assert_true(seen > 100);
}

static void judge_sees_what_is_missing(void **state) {
    (void)state;
    for (int i = 0; i < of_ref.n; i++) {
        char kept = of_ref.r[i].name[0];
        of_ref.r[i].name[0] = '!';
        Verdict v = judge(&example, &of_ref, 1);
        of_ref.r[i].name[0] = kept;
        if (!judged(of_ref.r[i].name)) continue;
        if (v.missing < 1 || failures(&v) < 1) fail_msg("without %s the judge is content", of_ref.r[i].name);
    }
    Result *r = find(&of_ref, "step0.out.eps");          // and what is there in another size, or is not a number
    assert_non_null(r);
    r->n--;
    Verdict v = judge(&example, &of_ref, 1);
    r->n++;
    assert_true(failures(&v) > 0);
    double kept = r->x[0];
    r->x[0] = (double)NAN;
    v = judge(&example, &of_ref, 1);
    r->x[0] = kept;
    assert_true(failures(&v) > 0);
    v = judge(&example, &of_ref, 1);
    assert_int_equal(failures(&v), 0);
}

// Weights, then averages, that no update has touched.
static void judge_sees_an_idle_optimiser(void **state) {
    (void)state;
    static const char *const parts[] = { "final.param.", "final.ema." };
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < of_ref.n; i++) {
            Result *r = &of_ref.r[i];
            if (!starts(r->name, parts[k])) continue;
            char name[300];
            snprintf(name, sizeof name, "param.%s", r->name + strlen(parts[k]));
            const Result *initial = find(&example, name);
            assert_true(initial && initial->n == r->n);
            memcpy(r->x, initial->x, r->n * sizeof *r->x);
        }
        Verdict v = judge(&example, &of_ref, 4);
        assert_int_equal(failures(&v), k + 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_computes_what_was_published),
        cmocka_unit_test(cpu_computes_what_was_published),
        cmocka_unit_test(judge_sees_a_thousandth),
        cmocka_unit_test(judge_sees_what_is_missing),
        cmocka_unit_test(judge_sees_an_idle_optimiser),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
