// tests/bench_verb.c - cbdm bench: every launcher at every shape that the network's training step uses, checked before
// timed, beside every other implementation of it.
//
// The shapes come from a step recorded on a null device: one row per launcher and shape, with the number of nodes that
// have it. Launchers that it has no use for come from the networks of the evaluation: a training step of the
// classifier, a pass of the FID's network, each at the largest of the batch sizes. Implementations of a row are timed
// in turns (ABAB...), so that a change of clock meets them all. Buffer sets rotate so that a set has left the caches
// when its turn comes again (--warm: one set).
// A result is compared with that of the most general implementation of the same device (the largest `order`), which the
// tables of cases hold to ref: |y - y_general| <= 2^-8 |y_general| in the Frobenius norm for bf16 outputs - one unit in
// the last place of every element - and 2^-14 for f32 ones: u sqrt(K) for sums of K = 10^6 terms. A vendor's twin may
// round f32 outputs of a row that stores bf16 to bf16, and so has its bound there; one that draws other numbers has
// none.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/call.h"
#include "core/cli.h"
#include "core/graph.h"
#include "eval/classifier_impl.h"
#include "eval/inception.h"
#include "kernels/common/launch_log.h"
#include "kernels/pointwise/pointwise.h"
#include "models/model.h"
#include "roofline.h"
#include "workbench.h"

enum { MAX_ROWS = 1024, MAX_LAUNCHERS = 256, MAX_IMPLS = 32, MAX_SETS = 8, MAX_ROUNDS = 64 };
static const double CACHE_BYTES = 128e6;         // twice the L2 of an H200, four times the L3 of a workstation

typedef struct {
    ModelConfig model;                                       // first: the offsets of model_flags hold here too
    const char *device, *batch, *filter, *kernels, *without, *save, *baseline;
    int         dtype, rounds;
    bool        warm, once, list, plans;
} Config;
#define AT(member) offsetof(Config, member), NULL, 0, 0
static const Flag bench_flags[] = {
    { "device", "auto", "where to run", FLAG_STR, AT(device) },
    { "dtype", "auto", "storage of activations: f32, bf16; auto: bf16 on a GPU", FLAG_ENUM, offsetof(Config, dtype),
      dtype_choices, 0, 0 },
    { "batch", "", "images of a step, before the doubling of CBDM; empty: 48,64,128 on a GPU, 8 on a CPU, 1 on emu",
      FLAG_LIST, AT(batch) },
    { "filter", "", "only rows whose launcher or shape contains one of these, separated by commas", FLAG_LIST,
      AT(filter) },
    { "kernels", "", "beside the default implementation only these, separated by commas; vendor: NVIDIA's libraries",
      FLAG_LIST, AT(kernels) },
    { "without", "", "leave these out, LAUNCHER=IMPLEMENTATION[,...]: what does not come back", FLAG_LIST,
      AT(without) },
    { "rounds", "7", "measurements of each implementation; the median counts", FLAG_INT, offsetof(Config, rounds), NULL,
      1, MAX_ROUNDS - 1 },
    { "warm", "false", "one set of buffers: caches stay warm", FLAG_BOOL, AT(warm) },
    { "once", "false", "launch each implementation exactly once, under a range of its name, for a profiler", FLAG_BOOL,
      AT(once) },
    { "list", "false", "name the rows and who can do them, run nothing", FLAG_BOOL, AT(list) },
    { "plans", "false", "with --list: what the default implementations plan, and their time by the machine's limits",
      FLAG_BOOL, AT(plans) },
    { "save", "", "JSON lines, one per implementation and shape, into this file", FLAG_STR, AT(save) },
    { "baseline", "", "a file of --save: print the ratio to it", FLAG_STR, AT(baseline) },
};
enum { N_BENCH_FLAGS = sizeof bench_flags / sizeof bench_flags[0], MAX_FLAGS = 64 };

static int all_flags(Flag *to) {
    int n = 0;
    for (int i = 0; i < n_model_flags; i++) to[n++] = model_flags[i];
    for (int i = 0; i < N_BENCH_FLAGS; i++) to[n++] = bench_flags[i];
    return n;
}

static bool in_list(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *at = list; *at; at += strcspn(at, ","), at += *at == ',')
        if (strcspn(at, ",") == n && strncmp(at, word, n) == 0) return true;
    return false;
}

static bool matches(const char *filter, const char *text) {
    char copy[256], *rest = copy;
    snprintf(copy, sizeof copy, "%s", filter);
    for (char *part; (part = strsep(&rest, ","));)
        if (*part && strstr(text, part)) return true;
    return !*filter;
}

// ---- rows
typedef struct {
    const Description *what;
    char               text[512];                // the shape as description_print writes it
    void              *shape, *args;
    const char        *with;
    int                nodes, batch;
} Row;
typedef struct {
    Row             row[MAX_ROWS];
    int             n;
    const Launcher *of_step[MAX_LAUNCHERS];      // of the diffusion step, whether the filter wants them or not
    int             n_of_step;
} Rows;

static void name_row(const Row *r) {
    printf("%s %s (batch %d, %d node%s)\n", r->what->launcher->name, r->text, r->batch, r->nodes,
           r->nodes == 1 ? "" : "s");
}

// The optional arrays that a training step gives a launcher, as its ops bind them.
static const char *usual_arrays(const Launcher *l) {
    static const char *const usual[][2] = {
        { "groupnorm_backward", "dgamma+dbeta" }, { "cbdm_loss", "all" }, { "axpby", "b" }, { "gemm", "bias" },
        { "adam_ema", "shadow" }, { "sampler_step", "uncond" }, { "add_channel_backward", "dx" }, { "dropout", "" },
        { "batchnorm_forward", "residual" }, { "batchnorm_backward", "all" }, { "cross_entropy", "dlogits" },
    };
    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++)
        if (strcmp(l->name, usual[i][0]) == 0) return usual[i][1];
    return "";
}

static void add_row(Rows *rows, const Node *node, int batch, const char *filter) {
    const Launcher *l = node->op->launcher;
    const Description *what = l ? description_find(l->name) : NULL;
    if (!what) return;
    char text[512], key[600];
    void *shape = memcpy(xmalloc(l->shape_bytes), node->shape, l->shape_bytes);
    for (const Field *f = what->shape; f->name; f++)        // which draws they are makes no other work
        if (strcmp(f->name, "purpose") == 0) *(uint32_t *)((char *)shape + f->offset) = PURPOSE_NOISE;
    description_print(what, shape, NULL, text, sizeof text);
    snprintf(key, sizeof key, "%s %s", l->name, text);
    bool known = !matches(filter, key);
    for (int i = 0; i < rows->n && !known; i++) {
        known = rows->row[i].what == what && strcmp(rows->row[i].text, text) == 0;
        rows->row[i].nodes += known;
    }
    if (known) {
        free(shape);
        return;
    }
    CHECK(rows->n < MAX_ROWS, "more than %d rows", MAX_ROWS);
    Row *r = &rows->row[rows->n++];
    *r = (Row){ .what = what, .nodes = 1, .batch = batch, .with = usual_arrays(l), .shape = shape };
    snprintf(r->text, sizeof r->text, "%s", text);
    r->args = xcalloc(1, l->args_bytes);
}

static bool is_of_step(const Rows *rows, const Launcher *l) {
    for (int i = 0; i < rows->n_of_step; i++)
        if (rows->of_step[i] == l) return true;
    return false;
}

static Device *open_null(const char *device, Error *err) {
    char spec[64];
    snprintf(spec, sizeof spec, "%s%s", strncmp(device, "null", 4) == 0 ? "" : "null:", device);
    return device_open(spec, err);
}

// Records the step of one batch size on a null device of the same kind and collects its nodes.
static bool add_rows(const Config *c, const char *device, DType dtype, int batch, Rows *rows, Error *err) {
    UNetConfig u;
    if (!model_unet_config(&c->model, &u, err)) return false;
    Device *d = open_null(device, err);
    if (!d) return false;
    UNet *net = unet_new(&u, d);
    ParamSet *ps = unet_params(net);
    param_seal(ps, PARAM_TRAIN, 0);
    Schedule *schedule = model_schedule(&c->model, d);
    Arena *arena = arena_new(d);
    Graph *g = graph_new(d, "step", WEIGHTS_TRAIN);
    graph_set_dtype(g, dtype);
    DiffusionStepConfig step = { .batch = batch, .labelled = c->model.classes > 0, .balance = true, .tau = 0.001,
                                 .gamma = 0.25, .share = 1, .dropout = c->model.dropout > 0, .gradients = true };
    diffusion_record_step(g, net, schedule, &step);
    param_append_adam(ps, g, &(AdamConfig){ .lr = 2e-4, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .clip_norm = 1,
                                            .ema_decay = 0.9999, .warmup = 5000 }, true);
    graph_plan(g, arena);
    for (int i = 0; i < graph_node_count(g); i++) {
        const Launcher *l = graph_node(g, i)->op->launcher;
        add_row(rows, graph_node(g, i), batch, c->filter);
        if (!l || is_of_step(rows, l)) continue;
        CHECK(rows->n_of_step < MAX_LAUNCHERS, "more than %d launchers", MAX_LAUNCHERS);
        rows->of_step[rows->n_of_step++] = l;
    }
    graph_free(g);
    arena_free(arena);
    schedule_free(schedule);
    unet_free(net);
    device_close(d);
    return true;
}

static void add_others(Rows *rows, const Graph *g, int batch, const char *filter) {
    for (int i = 0; i < graph_node_count(g); i++) {
        const Node *node = graph_node(g, i);
        if (node->op->launcher && !is_of_step(rows, node->op->launcher)) add_row(rows, node, batch, filter);
    }
}

// What only the networks of the evaluation launch. The classifier takes the images of the model, or CIFAR's where it
// cannot.
static bool add_evaluation_rows(const Config *c, const char *device, int batch, Rows *rows, Error *err) {
    Device *d = open_null(device, err);
    if (!d) return false;
    ClassifierRecipe recipe = classifier_recipe;
    recipe.batch = batch;
    int classes = c->model.classes > 0 ? c->model.classes : 10, side = c->model.image_size;
    int channels = c->model.in_channels == 1 ? 1 : 3;
    if (side < 8 || side > 512) side = 32;
    Classifier *classifier = classifier_new(d, classes, side, side, channels, &recipe);
    Inception *inception = inception_bare(d, batch);
    add_others(rows, classifier->train.graph, batch, c->filter);
    add_others(rows, inception_graph(inception), batch, c->filter);
    inception_free(inception);
    classifier_close(classifier);
    device_close(d);
    return true;
}

// ---- one implementation of one row
typedef struct {
    const Impl *impl;
    Call       *set[MAX_SETS];
    int         n_sets, at, launches;
    double      seconds[MAX_ROUNDS], median, error;      // seconds sorted once measured; error over its bound
    LaunchLog   log;                                     // the kernels that it launches
    bool        right;
} Timed;

static void launch_some(Timed *t) {
    for (int i = 0; i < t->launches; i++) {
        call_run(t->set[t->at]);
        t->at = (t->at + 1) % t->n_sets;
    }
}

// Seconds of one launch: on a GPU of t->launches captured as one graph, so that the host's gaps stay out of it.
static double time_launches(Device *d, Timed *t) {
    void *captured = NULL;
    if (device_can_capture(d)) {
        Status s;
        device_capture_begin(d);
        launch_some(t);
        captured = device_capture_end(d, &s);
        CHECK(captured && s.code == 0, "%s: %s", t->impl->name, s.what);
        device_capture_launch(d, captured);
    }
    device_mark(d, 0);
    if (captured) device_capture_launch(d, captured);
    else launch_some(t);
    device_mark(d, 1);
    double seconds = device_elapsed(d, 0, 1) / t->launches;
    device_capture_free(d, captured);
    return seconds;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// The outputs in floating point; the others stay NULL.
typedef struct { double *value[ARRAYS_MAX]; } Outputs;
static Outputs outputs_read(const Call *c) {
    Outputs out = { { NULL } };
    for (int i = 0; i < call_count(c); i++) {
        const Array *a = call_array(c, i);
        if (a->use == ARRAY_IN || (a->type != TYPE_F32 && a->type != TYPE_BF16)) continue;
        out.value[i] = xmalloc((size_t)array_numel(a) * sizeof(double));
        call_read(c, i, out.value[i]);
    }
    return out;
}
static void outputs_free(Outputs *out) {
    for (int i = 0; i < ARRAYS_MAX; i++) free(out->value[i]);
}

// |y - reference| / |reference| over the outputs, the worst array; NaN where something is not a number.
static double difference(const Call *y, const Outputs *reference, bool coarse) {
    double worst = 0;
    Outputs out = outputs_read(y);
    for (int i = 0; i < call_count(y); i++) {
        const Array *a = call_array(y, i);
        const double *v = out.value[i], *r = reference->value[i];
        if (!v) continue;
        double sum = 0, norm = 0;
        for (int64_t j = 0; j < array_numel(a); j++) {
            sum += (v[j] - r[j]) * (v[j] - r[j]);
            norm += r[j] * r[j];
        }
        double bound = a->type == TYPE_BF16 || coarse ? 0x1p-8 : 0x1p-14, e = norm > 0 ? sqrt(sum / norm) : sqrt(sum);
        worst = e / bound > worst || isnan(e) ? e / bound : worst;
    }
    outputs_free(&out);
    return worst;
}

static bool is_left_out(const Config *c, const Impl *i) {
    char name[128];
    snprintf(name, sizeof name, "%s=%s", i->launcher, i->name);
    return in_list(c->without, name);
}
static bool fits(const Config *c, const Impl *i, const Device *d, const void *shape, const Launcher *l) {
    int cc = device_cc(d);
    return i->kind == device_kind(d) && cc >= i->min_cc && (!i->exact_cc || i->exact_cc == cc) && l->can(i, shape) &&
           !is_left_out(c, i);
}

// Of those that need not be named the first choice, or the last; NULL: none is left.
static const Impl *choose(const Config *c, const Row *r, const Device *d, bool general) {
    const Impl *best = NULL;
    const Launcher *l = r->what->launcher;
    for (const Impl *i = impl_next(l, NULL); i; i = impl_next(l, i)) {
        if (!fits(c, i, d, r->shape, l) || i->order < 0) continue;
        if (!best || (general ? i->order >= best->order : i->order < best->order)) best = i;
    }
    return best;
}

static bool is_wanted(const Config *c, const Impl *i) {
    return !*c->kernels || in_list(c->kernels, i->name) || (in_list(c->kernels, "vendor") && impl_is_vendor(i));
}

// All that can do the row, the default first. Returns how many.
static int open_row(const Config *c, const Device *d, const Row *r, Timed *timed) {
    const Launcher *l = r->what->launcher;
    const Impl *first = choose(c, r, d, false);
    CHECK(first || *c->without, "%s: no implementation does %s", l->name, r->text);
    if (!first) return 0;
    int n = 0;
    timed[n++] = (Timed){ .impl = first };
    for (const Impl *i = impl_next(l, NULL); i && n < MAX_IMPLS; i = impl_next(l, i))
        if (i != first && fits(c, i, d, r->shape, l) && is_wanted(c, i)) timed[n++] = (Timed){ .impl = i };
    return n;
}

static void list_row(const Config *c, const Device *d, const Row *r) {
    Timed timed[MAX_IMPLS];
    int n = open_row(c, d, r, timed);
    name_row(r);
    for (int i = 0; i < n; i++) printf(" %s", timed[i].impl->name);
    putchar('\n');
}

// ---- results
typedef struct { double copy_gbs, product_tflops; } Ceiling;

static double roofline_share(const Ceiling *k, double flops, double bytes, double seconds, bool matrix) {
    double floor = bytes / (k->copy_gbs * 1e9);
    if (matrix && k->product_tflops > 0) floor = fmax(floor, flops / (k->product_tflops * 1e12));
    return floor / seconds;
}

static bool is_matrix(const Row *r) {
    const char *name = r->what->launcher->name;
    return strncmp(name, "conv2d", 6) == 0 || strcmp(name, "gemm") == 0 || strncmp(name, "attention", 9) == 0;
}

// Milliseconds of the same launcher, shape and implementation in a file of --save; 0: not there.
static double baseline_ms(const char *text, const char *launcher, const char *shape, const char *impl) {
    char key[900];
    snprintf(key, sizeof key, "\"launcher\":\"%s\",\"impl\":\"%s\",\"shape\":\"%s\",", launcher, impl, shape);
    const char *line = text ? strstr(text, key) : NULL, *ms = line ? strstr(line, "\"ms\":") : NULL;
    return ms ? strtod(ms + 5, NULL) : 0;
}

static void report(const Device *d, const Row *r, const Timed *t, const Timed *all, int n, const Ceiling *k,
                   const char *baseline, FILE *save) {
    double flops = call_flops(t->set[0]), bytes = call_bytes(t->set[0]), vendor = 0;
    for (int i = 0; i < n; i++)
        if (impl_is_vendor(all[i].impl) && (vendor == 0 || all[i].median < vendor)) vendor = all[i].median;
    double share = roofline_share(k, flops, bytes, t->median, is_matrix(r));
    double was = baseline_ms(baseline, r->what->launcher->name, r->text, t->impl->name);
    printf("  %-16s %9.4f ms %9.1f GFLOP/s %8.1f GB/s %5.1f%%", t->impl->name, t->median * 1e3,
           flops / t->median / 1e9, bytes / t->median / 1e9, 100 * share);
    if (vendor > 0) printf("  x%.2f of vendor", vendor / t->median);
    if (was > 0) printf("  x%.3f of baseline", was / (t->median * 1e3));
    if (!t->right) printf("  WRONG: %.3g of the bound", t->error);
    putchar('\n');
    const LaunchLog *log = &t->log;
    KernelNeeds needs[LAUNCH_LOG_MAX];
    for (int i = 0; i < log->n; i++) {
        const LaunchRecord *l = &log->record[i];
        needs[i] = (KernelNeeds){ 0 };
        if (device_kernel_needs(d, l->kernel, l->threads, l->shared, &needs[i]))
            printf("    %s: %d threads, %d registers, %zu B shared, %zu B local, %d blocks a multiprocessor\n", l->name,
                   l->threads, needs[i].registers, needs[i].shared, needs[i].local, needs[i].blocks_per_sm);
    }
    if (!save) return;
    fprintf(save, "{\"launcher\":\"%s\",\"impl\":\"%s\",\"shape\":\"%s\",\"device\":\"%s\",\"batch\":%d,\"nodes\":%d,"
            "\"ms\":%.6g,\"min_ms\":%.6g,\"max_ms\":%.6g,\"tflops\":%.6g,\"gbs\":%.6g,\"roofline\":%.4g,"
            "\"vendor_ratio\":%.4g,\"error_over_bound\":%.3g,\"right\":%s,\"kernels\":[", r->what->launcher->name,
            t->impl->name, r->text, device_name(d), r->batch, r->nodes, t->median * 1e3, t->seconds[0] * 1e3,
            t->seconds[MAX_ROUNDS - 1] * 1e3, flops / t->median / 1e12, bytes / t->median / 1e9, share,
            vendor / t->median, isnan(t->error) ? 1e30 : t->error, t->right ? "true" : "false");
    for (int i = 0; i < log->n; i++)
        fprintf(save, "%s{\"name\":\"%s\",\"threads\":%d,\"registers\":%d,\"shared\":%zu,\"local\":%zu,"
                "\"blocks_per_sm\":%d}", i ? "," : "", log->record[i].name, log->record[i].threads,
                needs[i].registers, needs[i].shared, needs[i].local, needs[i].blocks_per_sm);
    fprintf(save, "]}\n");
    fflush(save);
}

// ---- the work
// Two ceilings of this machine, measured in this run: a copy, and the best matrix product that there is.
static Ceiling measure_ceilings(const Config *c, Device *d, bool bf16) {
    Ceiling k = { 0, 0 };
    DeviceKind kind = device_kind(d);
    const char *shapes[2] = { "rows=1 c=33554432 alpha=1", "m=2048 n=2048 k=2048 tb=1" };
    if (kind == DEV_CUDA) shapes[0] = "rows=1 c=268435456 alpha=1";
    if (kind == DEV_CUDA) shapes[1] = bf16 ? "m=8192 n=8192 k=8192 tb=1 in=bf16 out=bf16" : "m=8192 n=8192 k=8192 tb=1";
    if (kind == DEV_EMU) shapes[0] = "rows=1 c=65536 alpha=1", shapes[1] = "m=64 n=64 k=64 tb=1";
    const Description *what[2] = { description_find("axpby"), description_find("gemm") };
    for (int i = 0; i < 2; i++) {
        const Launcher *l = what[i]->launcher;
        void *shape = xcalloc(1, l->shape_bytes), *args = xcalloc(1, l->args_bytes);
        char with[WITH_MAX];
        const char *wrong = description_parse(what[i], shapes[i], shape, args, with);
        CHECK(!wrong, "%s", wrong);
        for (const Impl *m = impl_next(l, NULL); m; m = impl_next(l, m)) {
            if (!fits(c, m, d, shape, l)) continue;
            Error err = { 0 };
            Timed t = { .impl = m, .n_sets = 1, .launches = 1 };
            t.set[0] = call_new(d, what[i], shape, args, with, m->name, &err);
            if (!t.set[0]) continue;
            call_fill(t.set[0], CALL_VALUES, 1);
            double best = INFINITY;
            for (int round = 0; round < 4; round++) best = fmin(best, time_launches(d, &t));
            if (i == 0) k.copy_gbs = fmax(k.copy_gbs, call_bytes(t.set[0]) / best / 1e9);
            else k.product_tflops = fmax(k.product_tflops, call_flops(t.set[0]) / best / 1e12);
            call_free(t.set[0]);
        }
        free(shape);
        free(args);
    }
    return k;
}

static bool check_row(const Config *c, Device *d, const Row *r, Timed *timed, int n) {
    Error err = { 0 };
    const Impl *general = choose(c, r, d, true);
    Call *reference = call_new(d, r->what, r->shape, r->args, r->with, general->name, &err);
    CHECK(reference, "%s", err.msg);
    call_fill_like(reference, timed[0].set[0]);
    call_run(reference);
    device_sync(d);
    Outputs expected = outputs_read(reference);
    bool ok = true;
    for (int i = 0; i < n; i++) {
        Call *y = timed[i].set[0];
        launch_log = &timed[i].log;
        call_run(y);
        launch_log = NULL;
        device_sync(d);
        const Impl *own = timed[i].impl;
        bool coarse = impl_is_vendor(own) && strstr(r->text, "=bf16");
        timed[i].error = own == general || impl_draws_others(own) ? 0 : difference(y, &expected, coarse);
        timed[i].right = timed[i].error <= 1;
        ok &= timed[i].right;
    }
    outputs_free(&expected);
    call_free(reference);
    return ok;
}

static bool bench_row(const Config *c, Device *d, const Row *r, const Ceiling *k, const char *baseline, FILE *save) {
    Timed timed[MAX_IMPLS];
    Error err = { 0 };
    int n = open_row(c, d, r, timed);
    name_row(r);
    fflush(stdout);                               // before it runs: it may not come back
    if (!n) return true;
    for (int i = 0; i < n;) {
        Timed *t = &timed[i];
        t->n_sets = 0;
        double bytes = 1;
        do {
            t->set[t->n_sets] = call_new(d, r->what, r->shape, r->args, r->with, t->impl->name, &err);
            if (!t->set[t->n_sets]) break;
            const Call *first = i ? timed[0].set[0] : t->n_sets ? t->set[0] : NULL;
            if (first) call_fill_like(t->set[t->n_sets], first);
            else call_fill(t->set[t->n_sets], CALL_VALUES, 7);
            t->n_sets++;
            bytes = call_bytes(t->set[0]);
        } while (!c->warm && !c->once && t->n_sets < MAX_SETS && t->n_sets * bytes < CACHE_BYTES);
        t->launches = 1;
        if (t->n_sets) {
            i++;
            continue;
        }
        CHECK(impl_is_vendor(t->impl), "%s", err.msg);
        printf("  %s\n", err.msg);
        memmove(t, t + 1, (size_t)(--n - i) * sizeof *t);
    }
    bool ok = true;
    if (c->once) {
        for (int i = 0; i < n; i++) {
            device_range_begin(d, timed[i].impl->name);
            call_run(timed[i].set[0]);
            device_sync(d);
            device_range_end(d);
        }
    } else {
        ok = check_row(c, d, r, timed, n);
        for (int i = 0; i < n; i++) {             // about 10 ms a measurement: more than the clock's noise
            double one = time_launches(d, &timed[i]);
            timed[i].launches = (int)fmin(200, fmax(1, ceil(0.01 / one)));
        }
        for (int round = 0; round < c->rounds; round++)
            for (int i = 0; i < n; i++) timed[i].seconds[round] = time_launches(d, &timed[i]);
        for (int i = 0; i < n; i++) {
            Timed *t = &timed[i];
            qsort(t->seconds, (size_t)c->rounds, sizeof(double), by_value);
            t->median = t->seconds[c->rounds / 2];
            t->seconds[MAX_ROUNDS - 1] = t->seconds[c->rounds - 1];
        }
        for (int i = 0; i < n; i++) report(d, r, &timed[i], timed, n, k, baseline, save);
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < timed[i].n_sets; j++) call_free(timed[i].set[j]);
    fflush(stdout);
    return ok;
}

static bool bench_rows(const Config *c, Device *d, const Row *rows, int n, DType dtype, Error *err) {
    char *baseline = NULL, machine[320];
    size_t bytes;
    if (*c->baseline && !file_read(c->baseline, 64u << 20, (uint8_t **)&baseline, &bytes, err)) return false;
    FILE *save = *c->save ? fopen(c->save, "w") : NULL;
    if (*c->save && !save) {
        free(baseline);
        return error_set(err, ERR_IO, "%s cannot be written: check the folder", c->save);
    }
    device_describe(d, machine, sizeof machine);
    Ceiling k = { 0, 0 };
    if (!c->once) k = measure_ceilings(c, d, dtype == DT_BF16);
    printf("%s; copy %.1f GB/s, matrix product %.2f TFLOP/s\n", machine, k.copy_gbs, k.product_tflops);
    if (save)
        fprintf(save, "{\"machine\":\"%s\",\"copy_gbs\":%.6g,\"product_tflops\":%.6g}\n", machine, k.copy_gbs,
                k.product_tflops);
    bool right = true;
    for (int i = 0; i < n; i++) right &= bench_row(c, d, &rows[i], &k, baseline, save);
    if (save) fclose(save);
    free(baseline);
    return right || error_set(err, ERR_DIVERGED, "an implementation differs from the general one: see WRONG above");
}

static bool run(const Config *c, Error *err) {
    static Rows rows;
    int largest = 1;
    DType dtype = DT_F32;
    Device *d = device_open(c->device, err);
    bool ok = d && graph_choose_dtype(d, c->dtype, &dtype, err);
    if (ok && device_is_null(d) && !c->list)
        ok = error_set(err, ERR_USAGE, "device %s computes nothing: add --list, or choose another", device_name(d));
    const char *usual = ok && device_kind(d) == DEV_CUDA ? "48,64,128" : ok && device_kind(d) == DEV_EMU ? "1" : "8";
    int64_t n_batches = 0, *batches = NULL;
    if (ok) ok = (batches = list_parse("batch", *c->batch ? c->batch : usual, 1, 4096, 16, &n_batches, err)) != NULL;
    for (int64_t i = 0; ok && i < n_batches; i++) {
        ok = add_rows(c, device_name(d), dtype, (int)batches[i], &rows, err);
        if (batches[i] > largest) largest = (int)batches[i];
    }
    ok = ok && add_evaluation_rows(c, device_name(d), largest, &rows, err);
    if (ok && rows.n == 0)
        ok = error_set(err, ERR_USAGE, "no launcher or shape contains \"%s\"; --list names the rows", c->filter);
    for (int i = 0; ok && c->list && i < rows.n; i++) {
        const Row *r = &rows.row[i];
        list_row(c, d, r);
        if (c->plans) roofline_print(d, r->what, r->shape, r->with);
    }
    if (ok && !c->list) ok = bench_rows(c, d, rows.row, rows.n, dtype, err);
    for (int i = 0; i < rows.n; i++) free(rows.row[i].shape), free(rows.row[i].args);
    free(batches);
    device_close(d);
    return ok;
}

int bench_main(int argc, char **argv) {
    Flag flags[MAX_FLAGS];
    int n = all_flags(flags);
    Config c;
    Error err = { 0 };
    cli_defaults(flags, n, &c);
    if (cli_wants_help(argc, argv)) {
        cli_help(flags, n, "cbdm bench [--filter conv2d] [--device cuda] [flags]",
                 "Time every launcher at the shapes of a training step: own kernels, variants, vendor libraries.");
        return 0;
    }
    bool ok = cli_parse(flags, n, &c, argc - 1, argv + 1, NULL, NULL, NULL, &err);
    if (c.model.classes < 0) c.model.classes = 100;      // there is no data to ask: the published network
    ok = ok && run(&c, &err);
    if (!ok) log_info("error: %s", err.msg);
    return ok ? 0 : err.code;
}
