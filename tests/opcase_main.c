// tests/opcase_main.c - the program around one op_suite: cases, devices, their implementations, the bench.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "opcase_impl.h"

static const OpSuite *const suite = &op_suite;
static int passed, failed;

// One verdict. Failures name the suite and the case; the rest is in *err.
static void verdict(const char *what, const char *who, bool ok, const Error *err) {
    if (ok) {
        passed++;
        printf(" %s", who);
    } else {
        failed++;
        printf("\nFAILED op_%s \"%s\": %s\n   ", suite->op, what, err->msg);
    }
    fflush(stdout);
}

// ---- implementations
enum { MAX_VARIANTS = 64 };

// What the default choice leaves untried: the implementations of the case's launchers that can do one of its nodes.
static int find_variants(const OpCase *c, const char *device, Layout layout, RunSpec *out) {
    RunSpec spec = { .device = device, .layout = layout };
    Device *d = case_device(&spec);
    OpRun *r = case_record(suite, c, d, true);
    int n = 0;
    for (int i = 0; i < graph_node_count(r->g); i++) {
        const Node *node = graph_node(r->g, i);
        const Launcher *l = node->op->launcher;
        for (const Impl *impl = l ? impl_next(l, NULL) : NULL; impl; impl = impl_next(l, impl)) {
            bool known = impl->kind != device_kind(d) || impl == node->impl || !l->can(impl, node->shape);
            for (int j = 0; j < n; j++)
                known |= strcmp(out[j].launcher, impl->launcher) == 0 && strcmp(out[j].impl, impl->name) == 0;
            if (known) continue;
            CHECK(n < MAX_VARIANTS, "case %s has too many implementations", c->name);
            out[n++] = (RunSpec){ .device = device, .layout = layout, .launcher = impl->launcher, .impl = impl->name };
        }
    }
    case_free(r);
    device_close(d);
    return n;
}

static const char *spec_name(const RunSpec *spec, char *to, size_t bytes) {
    const char *layout = strcmp(spec->device, "cpu") ? "" : spec->layout == LAYOUT_C16 ? ":C16" : ":NHWC";
    if (spec->launcher) snprintf(to, bytes, "%s%s:%s=%s", spec->device, layout, spec->launcher, spec->impl);
    else snprintf(to, bytes, "%s%s", spec->device, layout);
    return to;
}

// ---- checks
static void check_spec(const OpCase *c, const RunSpec *spec, const Yardstick *yard) {
    Error err = { 0 };
    char who[128];
    Results *got = case_run(suite, c, spec);
    bool ok = case_compare(suite, c, spec_name(spec, who, sizeof who), got, yard, &err);
    verdict(c->name, who, ok, &err);
    results_free(got);
}

static void check_case(const OpCase *c) {
    printf("%s:", c->name);
    fflush(stdout);
    Yardstick *yard = yardstick_new(suite, c);
    Error err = { 0 };
    bool sound = case_compare(suite, c, "ref32", yard->ref32, yard, &err);
    verdict(c->name, "ref32", sound, &err);
    for (int layout = LAYOUT_NHWC; layout <= LAYOUT_C16; layout++) {
        RunSpec variant[MAX_VARIANTS], plain = { .device = "cpu", .layout = (Layout)layout };
        check_spec(c, &plain, yard);
        int n = find_variants(c, "cpu", (Layout)layout, variant);
        for (int i = 0; i < n; i++) check_spec(c, &variant[i], yard);
    }
    if (c->use & CASE_GRAD) {
        bool ok = case_check_grad(suite, c, &err);
        verdict(c->name, "grad", ok, &err);
    }
    putchar('\n');
    yardstick_free(yard);
}

// ---- bench: one JSON line per case, layout and implementation; the median of at least 5 runs and 0.2 s
static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void bench_spec(const OpCase *c, const RunSpec *spec) {
    enum { MAX_RUNS = 1000 };
    double seconds[MAX_RUNS], total = 0;
    int runs = 0;
    char who[128];
    Device *d = case_device(spec);
    OpRun *r = case_record(suite, c, d, true);
    case_fill(r, FILL_VALUES, 0);
    graph_run(r->g);
    while (runs < MAX_RUNS && (runs < 5 || total < 0.2)) {
        double start = now_seconds();
        graph_run(r->g);
        total += seconds[runs++] = now_seconds() - start;
    }
    qsort(seconds, (size_t)runs, sizeof *seconds, by_value);
    OpCost cost = graph_cost(r->g);
    double median = seconds[runs / 2];
    printf("{\"op\":\"%s\",\"case\":\"%s\",\"spec\":\"%s\",\"runs\":%d,\"median_ms\":%.6g,\"min_ms\":%.6g,"
           "\"gflops\":%.6g,\"gbytes_s\":%.6g,\"arena_bytes\":%zu}\n", suite->op, c->name,
           spec_name(spec, who, sizeof who), runs, median * 1e3, seconds[0] * 1e3, cost.flops / median / 1e9,
           cost.bytes / median / 1e9, arena_bytes(r->arena));
    fflush(stdout);
    case_free(r);
    device_close(d);
}

static void bench_case(const OpCase *c) {
    for (int layout = LAYOUT_NHWC; layout <= LAYOUT_C16; layout++) {
        RunSpec variant[MAX_VARIANTS], plain = { .device = "cpu", .layout = (Layout)layout };
        bench_spec(c, &plain);
        int n = find_variants(c, "cpu", (Layout)layout, variant);
        for (int i = 0; i < n; i++) bench_spec(c, &variant[i]);
    }
}

// ---- command line
static bool wanted(const char *name, int argc, char **argv) {
    bool any = false;
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] == '-') continue;
        any = true;
        if (strcmp(argv[i], name) == 0) return true;
    }
    return !any;
}

static bool known(const char *name) {
    for (int i = 0; i < suite->n_cases; i++)
        if (strcmp(suite->cases[i].name, name) == 0) return true;
    for (int i = 0; i < suite->n_extra; i++)
        if (strcmp(suite->extra[i].name, name) == 0) return true;
    return false;
}

int main(int argc, char **argv) {
    bool list = false, bench = false;
    for (int i = 1; i < argc; i++) {
        list |= strcmp(argv[i], "--list") == 0;
        bench |= strcmp(argv[i], "--bench") == 0;
        if (argv[i][0] == '-' ? strcmp(argv[i], "--list") && strcmp(argv[i], "--bench") : !known(argv[i])) {
            fprintf(stderr, "op_%s: no case or option \"%s\"; --list names the cases\n", suite->op, argv[i]);
            return ERR_USAGE;
        }
    }
    for (int i = 0; i < suite->n_cases; i++) {
        const OpCase *c = &suite->cases[i];
        if (!wanted(c->name, argc, argv)) continue;
        if (list) printf("%s%s\n", c->name, c->use & CASE_BENCH ? "  (bench)" : "");
        else if (bench && c->use & CASE_BENCH) bench_case(c);
        else if (!bench && c->use & CASE_TEST) check_case(c);
    }
    for (int i = 0; i < suite->n_extra; i++) {
        const OpExtra *e = &suite->extra[i];
        if (bench || !wanted(e->name, argc, argv)) continue;
        if (list) {
            printf("%s\n", e->name);
            continue;
        }
        Error err = { 0 };
        printf("%s:", e->name);
        bool ok = e->run(&err);
        verdict(e->name, "checked", ok, &err);
        putchar('\n');
    }
    if (list || bench) return 0;
    printf("%d passed, %d failed\n", passed, failed);
    return failed || !passed;
}
