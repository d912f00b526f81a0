// tests/test_unet_attention.c - attention with merged weights against attention with separate ones: the same function
// with the same gradients, at the cost that the algebra promises, and which of the two a run and a checkpoint mean.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <float.h>
#include <math.h>
#include "kernels/common/rng.h"
#include "tests/program.h"

static Device *open_device(const char *spec) {
    Error err;
    Device *d = device_open(spec, &err);
    if (!d) fail_msg("%s", err.msg);
    return d;
}

// ---- one function

// Levels of 8 and 16 channels, attention in both and in the middle.
static const UNetConfig small = { .image_size = 4, .in_channels = 3, .channels = 8, .levels = 2, .mult = { 1, 2 },
                                  .attn_levels = 3, .res_blocks = 1, .groups = 4, .classes = 3 };
enum { BATCH = 4 };
typedef struct { UNet *net; Graph *graph; Arena *arena; Schedule *schedule; DiffusionStep step; } Step;

static double normal(const char *name, int64_t i) {
    float four[4];
    rng_normal4(philox((uint32_t[2]){ 3, 4 }, (uint32_t)(i / 4), 0, 0, op_purpose(name)).v, four);
    return (double)four[i % 4];
}

// Weights that keep the variance of what they multiply, and biases that matter (initial ones are zero).
static void fill(Tensor *t) {
    int64_t n = tensor_numel(t);
    bool gain = t->ndim == 1 && strstr(t->name, ".weight");
    double spread = t->ndim == 1 ? 0.3 : 1 / sqrt((double)(n / t->shape[0]));
    float *x = xmalloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = (float)((gain ? 1 : 0) + spread * normal(t->name, i));
    tensor_write_f32(t, x);
    free(x);
}

static Step step_new(Device *d, UNetConfig c, AttentionForm form, int batch, int micro_batch) {
    c.attention = form;
    Step s = { .net = unet_new(&c, d), .graph = graph_new(d, "step", WEIGHTS_TRAIN), .arena = arena_new(d),
               .schedule = schedule_linear(d, 50, 1e-3, 0.2, BETA_DOUBLE) };
    param_seal(unet_params(s.net), PARAM_TRAIN, 1);
    if (micro_batch < batch) graph_accumulate(s.graph);
    DiffusionStepConfig step = { .batch = micro_batch, .labelled = true, .balance = true, .tau = 0.3, .gamma = 0.25,
                                 .share = (double)micro_batch / batch, .noise_input = true, .gradients = true };
    s.step = diffusion_record_step(s.graph, s.net, s.schedule, &step);
    graph_plan(s.graph, s.arena);
    arena_seal(s.arena);
    return s;
}

static void step_free(Step *s) {
    graph_free(s->graph);
    arena_free(s->arena);
    schedule_free(s->schedule);
    unet_free(s->net);
}

// Images begin..begin+n-1 of a batch of BATCH.
static void feed(Tensor *t, int begin) {
    int64_t n = tensor_numel(t), image = n / t->shape[0];
    float *x = xmalloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = (float)normal(t->name, i + begin * image);
    tensor_write_f32(t, x);
    free(x);
}

static void run_part(const Step *s, int begin, int n) {
    static const int32_t times[BATCH] = { 3, 17, 44, 8 }, labels[2 * BATCH] = { 0, 1, 2, 2, 1, 0, 0, 2 };
    int32_t y[2 * BATCH];
    for (int i = 0; i < n; i++) y[i] = labels[begin + i], y[n + i] = labels[BATCH + begin + i];
    feed(s->step.x0, begin);
    feed(s->step.eps, begin);
    tensor_write(s->step.t, times + begin);
    tensor_write(s->step.y, y);
    graph_run(s->graph);
}

static double *values(const Tensor *t) {
    double *x = xmalloc((size_t)tensor_numel(t) * sizeof *x);
    tensor_read_f64(t, x);
    return x;
}

// ||a - b|| / ||b||
static double distance(const Tensor *a, const Tensor *b) {
    double *x = values(a), *y = values(b), difference = 0, norm = 0;
    for (int64_t i = 0; i < tensor_numel(a); i++) {
        difference += (x[i] - y[i]) * (x[i] - y[i]);
        norm += y[i] * y[i];
    }
    free(x);
    free(y);
    assert_true(norm > 0);
    return sqrt(difference / norm);
}

static double largest(const Tensor *t) {
    double *x = values(t), top = 0;
    for (int64_t i = 0; i < tensor_numel(t); i++) top = fmax(top, fabs(x[i]));
    free(x);
    return top;
}

// Numbers are doubles, of eps = 2^-52. Norms and softmax magnify a rounding, sums of up to 9 * 32 terms gather them and
// 50 layers pass them on; another function would differ in the first digits. 1e-9 leaves six digits to the former.
static const double same = 1e-9;

static void expect_same_gradients(const Step *merged, const Step *separate) {
    ParamSet *m = unet_params(merged->net), *s = unet_params(separate->net);
    int keys = 0, others = 0;
    assert_int_equal(param_count(m), param_count(s));
    for (int i = 0; i < param_count(m); i++) {
        const char *name = param_name(param_get(m, i));
        const Tensor *got = param_value(param_get(m, i))->grad, *want = param_value(param_get(s, i))->grad;
        assert_string_equal(name, param_name(param_get(s, i)));
        if (strstr(name, "proj_k.bias")) {                   // zero, and where it is computed, zero but for rounding
            char query[128];
            snprintf(query, sizeof query, "%.*sproj_q.bias", (int)(strstr(name, "proj_k") - name), name);
            double scale = largest(param_value(param_find(s, query))->grad);
            assert_true(largest(got) <= 0);
            if (!(largest(want) <= same * scale)) fail_msg("%s: %g beside %g", name, largest(want), scale);
            keys++;
            continue;
        }
        double d = distance(got, want);
        if (!(d <= same)) fail_msg("gradient of %s: relative difference %g", name, d);
        others++;
    }
    assert_int_equal(keys, 7);                               // two in down, one in the middle, four in up
    assert_true(others > 150);
}

static void forms_are_one_function(void **state) {
    (void)state;
    Device *d = open_device("ref64");
    Step merged = step_new(d, small, ATTENTION_MERGED, BATCH, BATCH);
    Step separate = step_new(d, small, ATTENTION_SEPARATE, BATCH, BATCH);
    Step parts = step_new(d, small, ATTENTION_MERGED, BATCH, BATCH / 2);
    const Step *all[] = { &merged, &separate, &parts };
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < param_count(unet_params(all[k]->net)); i++)
            fill(param_value(param_get(unet_params(all[k]->net), i)));
    run_part(&merged, 0, BATCH);
    run_part(&separate, 0, BATCH);
    double eps_hat = distance(merged.step.eps_hat, separate.step.eps_hat);
    if (!(eps_hat <= same)) fail_msg("predictions: relative difference %g", eps_hat);
    assert_true(distance(merged.step.loss, separate.step.loss) <= same);
    expect_same_gradients(&merged, &separate);
    run_part(&parts, 0, BATCH / 2);                          // in micro-batches, onto gradients that are zero at first
    run_part(&parts, BATCH / 2, BATCH / 2);
    expect_same_gradients(&parts, &separate);
    for (int k = 0; k < 3; k++) step_free((Step *)(uintptr_t)all[k]);
    device_close(d);
}

// ---- at what cost

// In the published network, of 128 images a step: for each pixel 2 convolutions of C by C channels fewer, three times
// (forward and both gradients), for 2 products of C by C matrices, three times, and one sum of two gradients.
static void work_is_saved(void **state) {
    (void)state;
    static const UNetConfig published = { .image_size = 32, .in_channels = 3, .channels = 128, .levels = 4,
                                          .mult = { 1, 2, 2, 2 }, .attn_levels = 2, .res_blocks = 2, .groups = 32,
                                          .classes = 100 };
    Device *d = open_device("null");
    Step merged = step_new(d, published, ATTENTION_MERGED, 64, 64);
    Step separate = step_new(d, published, ATTENTION_SEPARATE, 64, 64);
    double saved = 0, c = 256;
    for (int block = 0; block < 6; block++) {
        double pixels = 128 * (block < 5 ? 256 : 16);
        saved += 3 * 2 * 2 * pixels * c * c - 3 * 2 * 2 * c * c * c - 2 * pixels * c;
        saved -= 3 * 2 * 2 * c * c;                          // the biases: a vector and a matrix, twice
    }
    double less = graph_cost(separate.graph).flops - graph_cost(merged.graph).flops;
    if (!(fabs(less - saved) <= 1e-6 * saved)) fail_msg("%.9g FLOPs fewer, not %.9g", less, saved);
    assert_true(arena_bytes(merged.arena) < arena_bytes(separate.arena));
    step_free(&merged);
    step_free(&separate);
    device_close(d);
}

// ---- which of them

static AttentionForm form_of(const char *run) {
    Error err;
    Device *d = open_device("ref");
    Model *m = model_open(d, temp_path(run), CKPT_EMA, &err);
    if (!m) fail_msg("%s", err.msg);
    AttentionForm form = (AttentionForm)m->config.attention;
    assert_int_equal(unet_config(m->net)->attention, form);
    model_close(m);
    device_close(d);
    return form;
}

static void runs_say_which(void **state) {
    (void)state;
    program_expect(0, "train " TINY "--steps 2 --out default");
    assert_int_equal(form_of("default"), ATTENTION_MERGED);
    program_expect(0, "train " TINY "--steps 2 --compat official --out official");
    assert_int_equal(form_of("official"), ATTENTION_SEPARATE);
    program_expect(0, "train " TINY "--steps 2 --compat official --attention merged --out both");
    assert_int_equal(form_of("both"), ATTENTION_MERGED);
    program_expect(ERR_USAGE, "train --resume default --steps 4 --attention separate");
    expect_in_stderr("--attention separate: the run in default was started with merged");
    program_expect(0, "train --resume default --steps 4 --attention merged");
}

// Checkpoints from before there was a choice are of networks with separate weights.
static void older_runs_stay_separate(void **state) {
    (void)state;
    static const char *const runs[] = { "known", "older" };
    for (int i = 0; i < 2; i++) program_expect(0, "train " TINY "--attention separate --steps 2 --out %s", runs[i]);
    forget_flag("older", 2, "attention", "separate", 2);
    assert_int_equal(form_of("older"), ATTENTION_SEPARATE);
    for (int i = 0; i < 2; i++) program_expect(0, "train --resume %s --steps 4", runs[i]);
    expect_same_checkpoint("known", "older", 4);
}

static int setup(void **state) {
    if (tempdir_make(state) != 0) return -1;
    program_write_data();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forms_are_one_function), cmocka_unit_test(work_is_saved), cmocka_unit_test(runs_say_which),
        cmocka_unit_test(older_runs_stay_separate),
    };
    return cmocka_run_group_tests(tests, setup, tempdir_remove);
}
