// tests/test_sampler.c - the samplers against the formulas of their papers, and what an image may depend on.
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "kernels/common/rng.h"
#include "kernels/pointwise/pointwise.h"
#include "sample/sampler.h"

enum { SIZE = 4, CHANNELS = 3, E = SIZE * SIZE * CHANNELS, CLASSES = 4, T = 6 };
static const double beta_1 = 0.02, beta_T = 0.3;

// ---- a network
typedef struct { Device *d; UNet *net; Schedule *schedule; } Net;

static Net net_open(const char *device, int classes) {
    Error err = { 0 };
    Net n = { .d = device_open(device, &err) };
    assert_non_null(n.d);
    UNetConfig u = { .image_size = SIZE, .in_channels = CHANNELS, .channels = 16, .levels = 2, .mult = { 1, 2 },
                     .attn_levels = 2, .res_blocks = 1, .groups = 4, .classes = classes };
    assert_true(unet_check(&u, &err));
    n.net = unet_new(&u, n.d);
    n.schedule = schedule_linear(n.d, T, beta_1, beta_T, BETA_DOUBLE);
    param_seal(unet_params(n.net), PARAM_EMA_ONLY, 1);
    return n;
}

static void net_close(Net *n) {
    unet_free(n->net);
    schedule_free(n->schedule);
    device_close(n->d);
}

// Every weight drawn anew: as initialised the last convolution is next to zero and no label would show.
static void randomise(Net *n) {
    ParamSet *ps = unet_params(n->net);
    for (int i = 0; i < param_count(ps); i++) {
        Tensor *t = param_ema(param_get(ps, i));
        int64_t count = tensor_numel(t);
        bool vector = t->ndim == 1, label = strcmp(param_name(param_get(ps, i)), "label_embedding.weight") == 0;
        double scale = vector ? 0.3 : label ? 2.0 : 1.0 / sqrt((double)(count / t->shape[0]));
        float *w = malloc((size_t)count * sizeof *w), four[4];
        for (int64_t j = 0; j < count; j++) {
            if (j % 4 == 0) rng_normal4(philox((uint32_t[2]){ 7, 7 }, (uint32_t)(j / 4), (uint32_t)i, 0, 99).v, four);
            w[j] = (float)scale * four[j % 4] + (vector ? 0.5f : 0.0f);
        }
        tensor_write_f32(t, w);
        free(w);
    }
}

static const float bias[CHANNELS] = { 0.25f, -0.5f, 0.125f };
// A network that answers `bias` whatever it sees.
static void make_constant(Net *n) {
    ParamSet *ps = unet_params(n->net);
    Tensor *w = param_ema(param_find(ps, "tail.2.weight"));
    float *zero = calloc((size_t)tensor_numel(w), sizeof *zero);
    tensor_write_f32(w, zero);
    free(zero);
    tensor_write_f32(param_ema(param_find(ps, "tail.2.bias")), bias);
}

typedef struct { Arena *arena; Sampler *p; } Drawer;
static Drawer drawer_open(Net *n, const SamplerConfig *c) {
    Drawer d = { .arena = arena_new(n->d) };
    d.p = sampler_new(n->d, n->net, n->schedule, c, d.arena);
    arena_seal(d.arena);
    return d;
}
static void drawer_close(Drawer *d) {
    sampler_free(d->p);
    arena_free(d->arena);
}

static const SamplerConfig plain = { .kind = SAMPLER_DDPM, .steps = T, .batch = 3, .seed = 0x123456789abcdefull,
                                     .weights = WEIGHTS_EMA };

// The k-th normal of an image's draws.
static double normal(uint64_t seed, uint32_t sample, int k, uint32_t step, uint32_t purpose) {
    float four[4];
    uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    rng_normal4(philox(key, (uint32_t)k / 4, sample, step, purpose).v, four);
    return (double)four[k % 4];
}
static double first(uint64_t seed, uint32_t sample, int k) {
    return normal(seed, sample, k, UINT32_MAX, PURPOSE_NOISE);
}

// ---- formulas. Coefficients are rounded to float once: each step may be off by u (|x| + |eps| + |z|) times its
// coefficients, and what it gets from the step before is multiplied by the coefficient of x. `off` carries that bound.
typedef struct { double x, off; } Bounded;
static const double u = 0x1p-24;

static Bounded advance(Bounded b, double of_x, double eps, double noise) {
    double x = of_x * b.x + eps + noise, off = of_x * b.off + 2 * u * (fabs(of_x * b.x) + fabs(eps) + fabs(noise));
    return (Bounded){ x, off };
}

static double beta(int t) { return beta_1 + (beta_T - beta_1) * t / (T - 1); }
static double alpha_bar(int t) { return t < 0 ? 1 : alpha_bar(t - 1) * (1 - beta(t)); }

static void assert_clipped(const Bounded *want, const float *got, int n) {
    int inside = 0;
    for (int k = 0; k < n; k++) {
        double x = want[k].x < -1 ? -1 : want[k].x > 1 ? 1 : want[k].x;
        inside += fabs(x) < 1;
        // the result is read as float: half a unit in the last place of at most 1
        if (!(fabs(x - (double)got[k]) <= want[k].off + u))
            fail_msg("element %d: %.9g, not %.9g", k, (double)got[k], x);
    }
    assert_in_range(inside, n / 4, n - 1);        // both the clip and what it leaves alone are seen
}

// DDPM, algorithm 2: x <- (x - beta / sqrt(1 - alpha_bar) eps) / sqrt(1 - beta) + sigma z; z = 0 at the last step.
static void ddpm_follows_algorithm_2(void **unused) {
    (void)unused;
    for (VarType v = VAR_FIXEDLARGE; v <= VAR_FIXEDSMALL; v++) {
        Net n = net_open("ref64", CLASSES);
        make_constant(&n);
        SamplerConfig c = plain;
        c.variance = v;
        Drawer d = drawer_open(&n, &c);
        float got[E];
        uint32_t number = 41;
        assert_true(sampler_run(d.p, 1, (int32_t[]){ 2 }, &number, got, NULL, NULL));
        Bounded want[E];
        for (int k = 0; k < E; k++) {
            Bounded b = { first(c.seed, number, k), 0 };
            for (int t = T - 1; t >= 0; t--) {
                double variance = v == VAR_FIXEDLARGE ? beta(t) : beta(t) * (1 - alpha_bar(t - 1)) / (1 - alpha_bar(t));
                double z = t ? normal(c.seed, number, k, (uint32_t)(T - 1 - t), PURPOSE_SAMPLER) : 0;
                double root = sqrt(1 - beta(t)), eps = (double)bias[k % CHANNELS];
                b = advance(b, 1 / root, -beta(t) / sqrt(1 - alpha_bar(t)) / root * eps, sqrt(variance) * z);
            }
            want[k] = b;
        }
        assert_clipped(want, got, E);
        drawer_close(&d);
        net_close(&n);
    }
}

// DDIM, equation 12: x <- sqrt(a') x0 + sqrt(1 - a' - sigma^2) eps + sigma z, x0 = (x - sqrt(1 - a) eps) / sqrt(a).
static void ddim_follows_equation_12(void **unused) {
    (void)unused;
    static const int times[] = { 5, 3, 0, -1 };             // round(i * 5 / 2), descending: 5, 2.5 -> 3, 0
    for (int noisy = 0; noisy < 2; noisy++) {
        Net n = net_open("ref64", CLASSES);
        make_constant(&n);
        SamplerConfig c = plain;
        c.kind = SAMPLER_DDIM;
        c.steps = 3;
        c.eta = 0.75 * noisy;
        Drawer d = drawer_open(&n, &c);
        float got[E];
        uint32_t number = 5;
        assert_true(sampler_run(d.p, 1, (int32_t[]){ 0 }, &number, got, NULL, NULL));
        Bounded want[E];
        for (int k = 0; k < E; k++) {
            Bounded b = { first(c.seed, number, k), 0 };
            for (int j = 0; j < 3; j++) {
                double a = alpha_bar(times[j]), next = alpha_bar(times[j + 1]), eps = (double)bias[k % CHANNELS];
                double sigma = c.eta * sqrt((1 - next) / (1 - a)) * sqrt(1 - a / next);
                double of_eps = sqrt(1 - next - sigma * sigma) - sqrt(next) * sqrt(1 - a) / sqrt(a);
                b = advance(b, sqrt(next / a), of_eps * eps,
                            sigma * normal(c.seed, number, k, (uint32_t)j, PURPOSE_SAMPLER));
            }
            want[k] = b;
        }
        assert_clipped(want, got, E);
        drawer_close(&d);
        net_close(&n);
    }
}

// What the network says of x at t under label y, by a graph of its own. x and out (E).
static void predict(Net *n, const float *x, int32_t t, int32_t y, double *out) {
    Graph *g = graph_new(n->d, "predict", WEIGHTS_EMA);
    Arena *arena = arena_new(n->d);
    Tensor *in = graph_input(g, "x", DT_F32, 4, (int64_t[]){ 1, SIZE, SIZE, CHANNELS });
    Tensor *time = graph_input(g, "t", DT_I32, 1, (int64_t[]){ 1 }),
           *label = graph_input(g, "y", DT_I32, 1, (int64_t[]){ 1 });
    Tensor *hat = graph_output(g, unet_forward(n->net, g, in, time, label, NULL, NULL));
    graph_plan(g, arena);
    arena_seal(arena);
    tensor_write_f32(in, x);
    tensor_write(time, &t);
    tensor_write(label, &y);
    graph_run(g);
    tensor_read_f64(hat, out);
    graph_free(g);
    arena_free(arena);
}

// One DDIM step to the image: x0 = (x - sqrt(1 - a) eps) / sqrt(a), eps = (1 + omega) cond - omega uncond.
static void guidance_mixes_both_predictions(void **unused) {
    (void)unused;
    Net n = net_open("ref64", CLASSES);
    randomise(&n);
    SamplerConfig c = plain;
    c.kind = SAMPLER_DDIM;
    c.steps = 1;
    c.omega = 1.5;
    Drawer d = drawer_open(&n, &c);
    uint32_t numbers[] = { 3, 1 };
    int32_t labels[] = { 3, 0 };
    float got[2 * E], x[E];
    assert_true(sampler_run(d.p, 2, labels, numbers, got, NULL, NULL));
    double a = alpha_bar(T - 1), cond[E], uncond[E], apart = 0;
    for (int i = 0; i < 2; i++) {
        Bounded want[E];
        for (int k = 0; k < E; k++) x[k] = (float)first(c.seed, numbers[i], k);
        predict(&n, x, T - 1, labels[i], cond);
        predict(&n, x, T - 1, -1, uncond);
        for (int k = 0; k < E; k++) {
            double eps = (1 + c.omega) * cond[k] - c.omega * uncond[k];
            apart = fmax(apart, fabs(cond[k] - uncond[k]));
            want[k] = advance((Bounded){ (double)x[k], 0 }, 1 / sqrt(a), -sqrt(1 - a) / sqrt(a) * eps, 0);
        }
        assert_clipped(want, got + i * E, E);
    }
    assert_true(apart > 0.1);                               // or the test would see no guidance
    drawer_close(&d);
    net_close(&n);
}

// ---- what an image depends on
enum { IMAGES = 5 };
static const uint32_t numbers5[IMAGES] = { 0, 1, 7, 4000000000u, 12 };
static const int32_t labels5[IMAGES] = { 0, 3, 1, -1, 3 };

// Draws the images order[0..n-1] of the five, `together` at a time, each to its own place in out.
static void draw_in_order(Drawer *d, const int *order, int n, int together, float *out) {
    float got[IMAGES * E];
    for (int i = 0; i < n; i += together) {
        int32_t labels[IMAGES];
        uint32_t numbers[IMAGES];
        int m = n - i < together ? n - i : together;
        for (int j = 0; j < m; j++) labels[j] = labels5[order[i + j]], numbers[j] = numbers5[order[i + j]];
        assert_true(sampler_run(d->p, m, labels, numbers, got, NULL, NULL));
        for (int j = 0; j < m; j++) memcpy(out + order[i + j] * E, got + j * E, E * sizeof *got);
    }
}

static void check_independence(const char *device, const SamplerConfig *c) {
    Net n = net_open(device, CLASSES);
    randomise(&n);
    Drawer d = drawer_open(&n, c);
    float at_once[IMAGES * E], again[IMAGES * E];
    draw_in_order(&d, (int[]){ 0, 1, 2, 3, 4 }, 5, c->batch, at_once);
    static const struct { int order[IMAGES], together; } ways[] = {
        { { 0, 1, 2, 3, 4 }, 1 }, { { 4, 2, 0, 3, 1 }, 3 }, { { 1, 0, 3, 2, 4 }, 2 },
    };
    for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++) {
        memset(again, 0, sizeof again);
        draw_in_order(&d, ways[w].order, 5, ways[w].together < c->batch ? ways[w].together : c->batch, again);
        assert_memory_equal(again, at_once, sizeof again);
    }
    for (int i = 1; i < IMAGES; i++)                        // and they do differ
        for (int j = 0; j < i; j++) assert_memory_not_equal(at_once + i * E, at_once + j * E, E * sizeof(float));
    drawer_close(&d);
    net_close(&n);
}

static void images_depend_on_their_number_alone(void **unused) {
    (void)unused;
    static const char *const devices[] = { "ref", "ref32", "cpu" };
    for (size_t i = 0; i < sizeof devices / sizeof devices[0]; i++)
        for (int guided = 0; guided < 2; guided++)
            for (int kind = SAMPLER_DDPM; kind <= SAMPLER_DDIM; kind++) {
                SamplerConfig c = plain;
                c.omega = guided ? 1.5 : 0;
                c.kind = (SamplerKind)kind;
                c.eta = 0.5;
                c.batch = guided ? 5 : 3;
                check_independence(devices[i], &c);
            }
    omp_set_num_threads(2);
    SamplerConfig c = plain;
    c.omega = 1.5;
    c.kind = SAMPLER_DDIM;
    c.steps = 2;
    check_independence("cpu", &c);
    omp_set_num_threads(1);
}

static void draw_one(Net *n, const SamplerConfig *c, int32_t label, uint32_t number, float *out) {
    Drawer d = drawer_open(n, c);
    assert_true(sampler_run(d.p, 1, &label, &number, out, NULL, NULL));
    drawer_close(&d);
}

static void every_setting_shows(void **unused) {
    (void)unused;
    Net n = net_open("ref", CLASSES);
    randomise(&n);
    float base[E], other[E];
    draw_one(&n, &plain, 1, 9, base);
    draw_one(&n, &plain, 1, 9, other);
    assert_memory_equal(base, other, sizeof base);
    SamplerConfig c = plain;
    c.batch = 1;                                            // loops over images: not even rounding changes
    draw_one(&n, &c, 1, 9, other);
    assert_memory_equal(base, other, sizeof base);
    SamplerConfig changed[7];
    for (int i = 0; i < 7; i++) changed[i] = plain;
    changed[0].seed ^= 1;
    changed[1].seed ^= 1ull << 32;
    changed[2].omega = 0.5;
    changed[3].variance = VAR_FIXEDSMALL;
    changed[4].x0_clip = 0.5;
    changed[5].kind = SAMPLER_DDIM;
    changed[6].kind = SAMPLER_DDIM, changed[6].eta = 1;
    for (int i = 0; i < 7; i++) {
        draw_one(&n, &changed[i], 1, 9, other);
        assert_memory_not_equal(base, other, sizeof base);
    }
    draw_one(&n, &plain, 2, 9, other);
    assert_memory_not_equal(base, other, sizeof base);
    draw_one(&n, &plain, -1, 9, other);
    assert_memory_not_equal(base, other, sizeof base);
    net_close(&n);
}

// ref64: the two kinds of graph round at different points, far below the float that is compared here.
static void guidance_changes_on_the_same_graph(void **unused) {
    (void)unused;
    Net n = net_open("ref64", CLASSES);
    randomise(&n);
    SamplerConfig c = plain;
    float none[E], strong[E], got[E];
    int32_t label = 2;
    uint32_t number = 77;
    draw_one(&n, &c, label, number, none);
    c.omega = 2;
    draw_one(&n, &c, label, number, strong);
    c.omega = 1;
    Drawer d = drawer_open(&n, &c);
    sampler_set_omega(d.p, 2);
    assert_true(sampler_run(d.p, 1, &label, &number, got, NULL, NULL));
    assert_memory_equal(got, strong, sizeof got);
    assert_memory_not_equal(got, none, sizeof got);
    sampler_set_omega(d.p, 0);
    assert_true(sampler_run(d.p, 1, &label, &number, got, NULL, NULL));
    for (int k = 0; k < E; k++) assert_true(fabs((double)got[k] - (double)none[k]) <= u);      // one rounding to float
    drawer_close(&d);
    net_close(&n);
}

typedef struct { int calls, stop_at; } Watch;
static bool watch(void *arg, int done, int steps) {
    Watch *w = arg;
    assert_int_equal(steps, T);
    assert_int_equal(done, ++w->calls);
    return done != w->stop_at;
}

static void a_stopped_run_leaves_no_trace(void **unused) {
    (void)unused;
    Net n = net_open("ref", 0);                             // an unconditional network: no labels at all
    randomise(&n);
    StepState before = param_state_read(unet_params(n.net));
    Drawer d = drawer_open(&n, &plain);
    float whole[2 * E], again[2 * E];
    int32_t labels[] = { -1, -1 };
    uint32_t numbers[] = { 1, 2 };
    Watch all = { 0 }, early = { .stop_at = 2 };
    assert_true(sampler_run(d.p, 2, labels, numbers, whole, watch, &all));
    assert_int_equal(all.calls, T);
    assert_false(sampler_run(d.p, 2, labels, numbers, again, watch, &early));
    assert_int_equal(early.calls, 2);
    assert_true(sampler_run(d.p, 2, labels, numbers, again, NULL, NULL));
    assert_memory_equal(whole, again, sizeof whole);
    StepState after = param_state_read(unet_params(n.net));
    assert_memory_equal(&before, &after, sizeof before);    // a training run's state is not the sampler's
    drawer_close(&d);
    net_close(&n);
}

static void pixels_round_half_up(void **unused) {
    (void)unused;
    float in[256 + 8];
    uint8_t out[256 + 8];
    for (int i = 0; i < 256; i++) in[i] = (float)(i / 127.5 - 1);
    float odd[] = { -1.5f, -INFINITY, 2, INFINITY, NAN, 0.0f, nextafterf(0.0f, -1.0f) - 1e-6f, 1 };
    memcpy(in + 256, odd, sizeof odd);
    images_to_u8(in, 256 + 8, out);
    for (int i = 0; i < 256; i++) assert_int_equal(out[i], i);
    static const uint8_t want[] = { 0, 0, 255, 255, 0, 128, 127, 255 };     // 0 is 127.5: up
    assert_memory_equal(out + 256, want, sizeof want);
}

// One thread, but where it is said otherwise: on a busy machine threads that wait for each other cost seconds.
int main(void) {
    omp_set_num_threads(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pixels_round_half_up),
        cmocka_unit_test(ddpm_follows_algorithm_2),
        cmocka_unit_test(ddim_follows_equation_12),
        cmocka_unit_test(guidance_mixes_both_predictions),
        cmocka_unit_test(images_depend_on_their_number_alone),
        cmocka_unit_test(every_setting_shows),
        cmocka_unit_test(guidance_changes_on_the_same_graph),
        cmocka_unit_test(a_stopped_run_leaves_no_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
