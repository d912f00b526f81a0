// tests/opcase_main.c - the program around one op_suite: cases, devices, their implementations, the bench.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "opcase_impl.h"

static const OpSuite *const suite = &op_suite;
static int passed, failed, skipped;

// ---- what is asked for
enum { MAX_DEVICES = 16 };
static struct {
    bool        list, bench, check, grad;        // check: against ref
    bool        dtype[2];                        // [0] f32, [1] bf16
    const char *device[MAX_DEVICES];
    int         n_devices, schedules, seeds;
} ask = { .check = true, .grad = true, .dtype = { true, true }, .seeds = 1 };

// One verdict. Failures name the suite and the case; the rest is in *err. who: NULL if it is printed already.
static void verdict(const char *what, const char *who, bool ok, const Error *err) {
    if (ok) {
        passed++;
        if (who) printf(" %s", who);
    } else {
        failed++;
        printf("\nFAILED op_%s \"%s\": %s\n   ", suite->op, what, err->msg);
    }
    fflush(stdout);
}

// ---- implementations
enum { MAX_VARIANTS = 64 };

static bool is_emu(const char *device) { return strncmp(device, "emu", 3) == 0; }
static bool newer_than(const Impl *impl, int cc) { return impl->min_cc > cc || impl->exact_cc > cc; }

// What `device` would run the case with, on the reference's recording, whose layout is theirs as well. The name of a
// launcher that it has no implementation of, or NULL. *same: nothing here is for more than compute capability 8.0.
static const char *missing_launcher(const OpCase *c, const RunSpec *spec, bool *same) {
    RunSpec plain = { .device = "ref", .dtype = spec->dtype };
    Device *d = case_device(spec), *ref = case_device(&plain);
    OpRun *r = case_record(suite, c, ref, &plain, true);
    const char *missing = NULL;
    *same = true;
    for (int i = 0; i < graph_node_count(r->g); i++) {
        const Node *n = graph_node(r->g, i);
        const Launcher *l = n->op->launcher;
        const Impl *impl = l ? impl_find(l, device_kind(d), device_cc(d), n->shape, NULL) : NULL;
        if (l && !impl && !missing) missing = l->name;
        for (impl = l ? impl_next(l, NULL) : NULL; impl; impl = impl_next(l, impl))
            if (impl_find(l, device_kind(d), device_cc(d), n->shape, impl->name) == impl && newer_than(impl, 80))
                *same = false;
    }
    case_free(r);
    device_close(ref);
    device_close(d);
    return missing;
}

// What the default choice leaves untried: the implementations of the case's launchers that can do one of its nodes.
// On a newer emulated GPU only those that an older one has not: each is tried once.
static int find_variants(const OpCase *c, const RunSpec *plain, RunSpec *out) {
    Device *d = case_device(plain);
    OpRun *r = case_record(suite, c, d, plain, true);
    int n = 0;
    for (int i = 0; i < graph_node_count(r->g); i++) {
        const Node *node = graph_node(r->g, i);
        const Launcher *l = node->op->launcher;
        for (const Impl *impl = l ? impl_next(l, NULL) : NULL; impl; impl = impl_next(l, impl)) {
            bool known = impl == node->impl || (is_emu(plain->device) && device_cc(d) > 80 && !newer_than(impl, 80)) ||
                         impl_find(l, device_kind(d), device_cc(d), node->shape, impl->name) != impl;
            for (int j = 0; j < n; j++)
                known |= strcmp(out[j].launcher, impl->launcher) == 0 && strcmp(out[j].impl, impl->name) == 0;
            if (known) continue;
            CHECK(n < MAX_VARIANTS, "case %s has too many implementations", c->name);
            out[n] = *plain;
            out[n].launcher = impl->launcher;
            out[n++].impl = impl->name;
        }
    }
    case_free(r);
    device_close(d);
    return n;
}

static const char *spec_name(const RunSpec *spec, char *to, size_t bytes) {
    const char *layout = strcmp(spec->device, "cpu") ? "" : spec->layout == LAYOUT_C16 ? ":C16" : ":NHWC";
    const char *dtype = spec->dtype == DT_BF16 ? ":bf16" : "";
    if (spec->launcher) snprintf(to, bytes, "%s%s%s:%s=%s", spec->device, layout, dtype, spec->launcher, spec->impl);
    else snprintf(to, bytes, "%s%s%s", spec->device, layout, dtype);
    return to;
}

// ---- checks
// The same bits in every order of blocks and threads.
static void check_schedules(const OpCase *c, const RunSpec *spec, const Results *natural) {
    char who[128], what[160];
    spec_name(spec, who, sizeof who);
    for (int k = 1; k <= ask.schedules + 1; k++) {
        RunSpec other = *spec;
        Error err = { 0 };
        other.schedule = k;
        Results *got = case_run(suite, c, &other);
        bool ok = true;
        for (int i = 0; i < got->n && ok; i++) {
            const Result *a = &natural->result[i], *b = &got->result[i];
            int64_t at = 0;
            while (at < a->n && memcmp(&a->value[at], &b->value[at], sizeof *a->value) == 0) at++;
            if (at < a->n)
                ok = error_set(&err, ERR_DIVERGED, "%s: %s[%lld] = %.9g, under schedule %d %.9g", who, a->name,
                               (long long)at, a->value[at], k, b->value[at]);
        }
        results_free(got);
        snprintf(what, sizeof what, "schedule %d", k);
        if (!ok || k == ask.schedules + 1) verdict(c->name, ok ? "in every order" : what, ok, &err);
        if (!ok) return;
    }
}

static void check_spec(const OpCase *c, const RunSpec *spec, const Yardstick *yard) {
    Error err = { 0 };
    char who[128];
    printf(" %s", spec_name(spec, who, sizeof who));     // before it runs: it may not come back
    fflush(stdout);
    Results *got = case_run(suite, c, spec);
    bool ok = case_compare(suite, c, who, got, yard, &err);
    verdict(c->name, NULL, ok, &err);
    if (is_emu(spec->device) && ask.schedules && ok) check_schedules(c, spec, got);
    results_free(got);
}

static void check_variants(const OpCase *c, const RunSpec *plain, const Yardstick *yard) {
    RunSpec variant[MAX_VARIANTS];
    int n = find_variants(c, plain, variant);
    for (int i = 0; i < n; i++) check_spec(c, &variant[i], yard);
}

static bool fits(const OpCase *c, const char *device, DType dtype) {
    if (is_emu(device) && c->use & CASE_LARGE) return false;
    return dtype != DT_BF16 || strcmp(device, "cpu") != 0;
}

static void check_device(const OpCase *c, const char *device, const Yardstick *yard) {
    bool bf16 = yard->dtype == DT_BF16, cpu = strcmp(device, "cpu") == 0, same = false;
    RunSpec plain = { .device = device, .dtype = yard->dtype, .rounded = bf16 };
    if (!fits(c, device, yard->dtype)) return;
    if (cpu) {
        for (int layout = LAYOUT_NHWC; layout <= LAYOUT_C16; layout++) {
            plain.layout = (Layout)layout;
            check_spec(c, &plain, yard);
            check_variants(c, &plain, yard);
        }
        return;
    }
    const char *missing = missing_launcher(c, &plain, &same);
    if (missing) {
        skipped++;
        printf(" [%s: no %s]", device, missing);
    } else if (strcmp(device, "emu:90") != 0 || !same) {
        check_spec(c, &plain, yard);
        if (!suite->whole) check_variants(c, &plain, yard);
    }
}

static void check_dtype(const OpCase *c, DType dtype) {
    bool any = false;
    for (int i = 0; i < ask.n_devices; i++) any |= fits(c, ask.device[i], dtype);
    if (!any && c->use & CASE_LARGE) printf(" [%s: too large for emu]", dtype_name(dtype));
    Yardstick *yard = any ? yardstick_new(suite, c, dtype) : NULL;
    if (!yard) return;
    Error err = { 0 };
    bool sound = case_compare(suite, c, "ref32", yard->ref32, yard, &err);
    verdict(c->name, dtype == DT_BF16 ? "ref32:bf16" : "ref32", sound, &err);
    for (int i = 0; i < ask.n_devices; i++) check_device(c, ask.device[i], yard);
    yardstick_free(yard);
}

static void check_case(const OpCase *c) {
    printf("%s:", c->name);
    fflush(stdout);
    if (ask.check && ask.dtype[0]) check_dtype(c, DT_F32);
    if (ask.check && ask.dtype[1] && !(c->use & CASE_F32)) check_dtype(c, DT_BF16);
    if (ask.grad && c->use & CASE_GRAD) {
        Error err = { 0 };
        bool ok = case_check_grad(suite, c, &err);
        verdict(c->name, "grad", ok, &err);
    }
    putchar('\n');
}

// A case's inputs and draws come from its name: with --seeds, also from its name with a number behind.
static void check_seeds(const OpCase *c) {
    check_case(c);
    for (int k = 2; k <= ask.seeds; k++) {
        char name[96];
        OpCase other = *c;
        snprintf(name, sizeof name, "%s #%d", c->name, k);
        other.name = name;
        check_case(&other);
    }
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
    OpRun *r = case_record(suite, c, d, spec, true);
    case_fill(r, FILL_VALUES, 0);
    graph_run(r->g);
    device_sync(d);
    while (runs < MAX_RUNS && (runs < 5 || total < 0.2)) {
        double start = now_seconds();
        graph_run(r->g);
        device_sync(d);
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

static void bench_device(const OpCase *c, const char *device, DType dtype) {
    bool cpu = strcmp(device, "cpu") == 0, same;
    if (cpu && dtype == DT_BF16) return;
    for (int layout = LAYOUT_NHWC; layout <= (cpu ? LAYOUT_C16 : LAYOUT_NHWC); layout++) {
        RunSpec variant[MAX_VARIANTS], plain = { .device = device, .layout = (Layout)layout, .dtype = dtype };
        if (!cpu && missing_launcher(c, &plain, &same)) continue;
        bench_spec(c, &plain);
        int n = find_variants(c, &plain, variant);
        for (int i = 0; i < n; i++) bench_spec(c, &variant[i]);
    }
}

static void bench_case(const OpCase *c) {
    for (int i = 0; i < ask.n_devices; i++)
        for (int bf16 = 0; bf16 < 2; bf16++)
            if (!is_emu(ask.device[i]) && ask.dtype[bf16]) bench_device(c, ask.device[i], bf16 ? DT_BF16 : DT_F32);
}

// ---- command line
static const char *const options[] = { "--list", "--bench", "--grad", "--device", "--dtype", "--schedules", "--seeds" };
enum { LIST, BENCH, GRAD, DEVICE, DTYPE, SCHEDULES, SEEDS, N_OPTIONS };

static int option_of(const char *word) {
    int i = 0;
    while (i < N_OPTIONS && strcmp(word, options[i]) != 0) i++;
    return i;
}

static bool takes_value(const char *word) {
    int o = option_of(word);
    return o == DEVICE || o == DTYPE || o == SCHEDULES || o == SEEDS;
}

static bool wanted(const char *name, int argc, char **argv) {
    bool any = false;
    for (int i = 1; i < argc; i++) {
        if (takes_value(argv[i])) i++;
        if (argv[i][0] == '-' || takes_value(argv[i - 1])) continue;
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

static bool can_open(const char *device) {
    Error err;
    Device *d = device_open(device, &err);
    if (d) device_close(d);
    return d != NULL;
}

static bool read_devices(char *list) {
    char *save = NULL;
    for (char *word = strtok_r(list, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
        Error err;
        Device *d = device_open(word, &err);
        if (!d) fprintf(stderr, "op_%s: %s\n", suite->op, err.msg);
        if (!d || ask.n_devices == MAX_DEVICES) return false;
        device_close(d);
        ask.device[ask.n_devices++] = word;
    }
    return true;
}

static bool read_options(int argc, char **argv) {
    bool devices = false, grad = false;
    for (int i = 1; i < argc; i++) {
        int o = option_of(argv[i]);
        char *value = takes_value(argv[i]) ? argv[++i] : NULL;
        bool good = o < N_OPTIONS ? value || !takes_value(options[o]) : known(argv[i]);
        if (good && o == DTYPE) {
            ask.dtype[0] = strcmp(value, "f32") == 0;
            ask.dtype[1] = strcmp(value, "bf16") == 0;
            good = ask.dtype[0] || ask.dtype[1];
        }
        if (good && o == DEVICE && !read_devices(value)) return false;
        if (good && o == SCHEDULES) ask.schedules = atoi(value);
        if (good && o == SEEDS) ask.seeds = atoi(value);
        ask.list |= o == LIST;
        ask.bench |= o == BENCH;
        grad |= o == GRAD;
        devices |= o == DEVICE;
        if (good) continue;
        fprintf(stderr, "op_%s: no case or option \"%s\"; --list names the cases; options: [--list | --bench] "
                "[--device LIST] [--dtype f32|bf16] [--schedules N] [--seeds N] [--grad]\n", suite->op,
                value ? value : argv[i]);
        return false;
    }
    ask.grad = grad || !devices;
    ask.check = devices || !grad;
    static const char *const all[] = { "cpu", "emu", "emu:90", "cuda" };
    for (int i = 0; i < 4 && !devices; i++)
        if (can_open(all[i])) ask.device[ask.n_devices++] = all[i];
    return true;
}

int main(int argc, char **argv) {
    if (!read_options(argc, argv)) return ERR_USAGE;
    for (int i = 0; i < suite->n_cases; i++) {
        const OpCase *c = &suite->cases[i];
        if (!wanted(c->name, argc, argv)) continue;
        if (ask.list) printf("%s%s\n", c->name, c->use & CASE_BENCH ? "  (bench)" : "");
        else if (ask.bench && c->use & CASE_BENCH) bench_case(c);
        else if (!ask.bench && c->use & CASE_TEST && (ask.check || c->use & CASE_GRAD)) check_seeds(c);
    }
    for (int i = 0; i < suite->n_extra; i++) {
        const OpExtra *e = &suite->extra[i];
        if (ask.bench || !ask.check || !wanted(e->name, argc, argv)) continue;
        if (ask.list) {
            printf("%s\n", e->name);
            continue;
        }
        Error err = { 0 };
        printf("%s:", e->name);
        bool ok = e->run(&err);
        verdict(e->name, "checked", ok, &err);
        putchar('\n');
    }
    if (ask.list || ask.bench) return 0;
    printf("%d passed, %d failed", passed, failed);
    if (skipped) printf(", %d not run for want of an implementation", skipped);
    putchar('\n');
    return failed || !(passed || skipped);
}
