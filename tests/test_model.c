// tests/test_model.c - the network and the noise schedule against what was published: sizes, names, shapes, initial
// values, coefficients. Numbers with a source are that source's; the others come from formulas written here anew.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "core/file.h"
#include "models/model.h"

#define CASE TESTS_DIR "/golden/tiny.safetensors"
static const double unit = 0x1p-24;                       // of float: half the distance from 1 to the next
static const UNetConfig published = {
    .image_size = 32, .in_channels = 3, .channels = 128, .levels = 4, .mult = { 1, 2, 2, 2 }, .attn_levels = 2,
    .res_blocks = 2, .groups = 32, .classes = 100, .dropout = 0.1,
};

static void expect_near(double got, double want, double tolerance, const char *what) {
    if (!(fabs(got - want) <= tolerance)) fail_msg("%s: %.17g, not %.17g within %g", what, got, want, tolerance);
}

static Device *device(const char *spec) {
    Error err;
    Device *d = device_open(spec, &err);
    if (!d) fail_msg("%s", err.msg);
    return d;
}

// ---- sizes

static int64_t size_of(int classes, bool augment) {
    UNetConfig c = published;
    c.classes = classes;
    c.augment = augment;
    assert_true(unet_check(&c, NULL));
    Device *d = device("null");
    UNet *m = unet_new(&c, d);
    int64_t n = param_numel(unet_params(m));
    unet_free(m);
    device_close(d);
    return n;
}

static void parameters_are_counted(void **state) {
    (void)state;
    assert_int_equal(size_of(100, false), 35797507);
    assert_int_equal(size_of(10, false), 35751427);
    assert_int_equal(size_of(100, true), 35797507 + 4608);
    assert_int_equal(size_of(10, true), 35756035);
    assert_int_equal(size_of(0, false), 35746307);
}

// ---- names and shapes, from the state dict in the parity case

static int number_of(const SafeTensors *st, const char *key) {
    const char *text = st_meta(st, key);
    assert_non_null(text);
    return atoi(text);
}

static UNetConfig case_config(const SafeTensors *st) {
    UNetConfig c = { .image_size = number_of(st, "img_size"), .in_channels = number_of(st, "in_channels"),
                     .channels = number_of(st, "ch"), .levels = 1, .mult = { number_of(st, "ch_mult") },
                     .attn_levels = 1u << number_of(st, "attn"), .res_blocks = number_of(st, "num_res_blocks"),
                     .groups = 32, .classes = number_of(st, "num_class"), .augment = number_of(st, "augm") };
    assert_null(strchr(st_meta(st, "ch_mult"), ','));    // one level: what is read above is all there is
    return c;
}

static void names_and_shapes_are_the_published_ones(void **state) {
    (void)state;
    SafeTensors *st = st_open(CASE, NULL);
    assert_non_null(st);
    UNetConfig c = case_config(st);
    Device *d = device("null");
    UNet *m = unet_new(&c, d);
    ParamSet *ps = unet_params(m);
    int in_file = 0;
    for (int i = 0; i < st_count(st); i++) {
        const StTensor *t = st_get(st, i);
        if (strncmp(t->name, "param.", 6) != 0) continue;
        if (strcmp(t->name, "param.time_embedding.timembedding.0.weight") == 0) continue;     // computed here, not kept
        Param *p = param_find(ps, t->name + 6);
        if (!p) fail_msg("the network has no %s", t->name + 6);
        const Tensor *v = param_value(p);
        assert_int_equal(v->ndim, t->ndim);
        static const int order[2][4] = { { 0, 1, 2, 3 }, { 0, 2, 3, 1 } };       // filters: OIHW there, (K,R,S,C) here
        for (int k = 0; k < t->ndim; k++) assert_int_equal(v->shape[k], t->shape[order[t->ndim == 4][k]]);
        in_file++;
    }
    assert_int_equal(in_file, param_count(ps));
    assert_true(in_file > 60);
    unet_free(m);
    device_close(d);
    st_close(st);
}

// ---- impossible networks

static void refused(UNetConfig c, const char *part) {
    Error err = { 0 };
    if (unet_check(&c, &err)) fail_msg("accepted, where \"%s\" should be refused", part);
    assert_int_equal(err.code, ERR_USAGE);
    if (!strstr(err.msg, part)) fail_msg("no \"%s\" in: %s", part, err.msg);
}

static void impossible_networks_are_refused(void **state) {
    (void)state;
    assert_true(unet_check(&published, NULL));
    UNetConfig c = published;
    c.image_size = 28;
    refused(c, "24 and 32");
    c.image_size = 33;
    refused(c, "32 and 40");
    c.image_size = 3;
    refused(c, "8 and 16");
    c.image_size = 28, c.levels = 3;
    assert_true(unet_check(&c, NULL));
    c = published, c.groups = 48;
    refused(c, "--groups 48");
    c = published, c.groups = 128;                       // one channel a group at level 0
    refused(c, "--groups 64");
    c = published, c.channels = 33;
    refused(c, "--ch 33");
    c = published, c.attn_levels = 1u << 4;
    refused(c, "--attn");
    c = published, c.levels = 0;
    refused(c, "--ch-mult");
    c = published, c.levels = UNET_MAX_LEVELS + 1;
    refused(c, "--ch-mult");
    c = published, c.mult[2] = 0;
    refused(c, "level 2");
    c = published, c.res_blocks = 16;
    refused(c, "--res-blocks");
}

// ---- the schedule

static Schedule *schedule(Device *d, BetaRounding rounding) { return schedule_linear(d, 1000, 1e-4, 0.02, rounding); }

// Printed to 16 or 11 digits; alpha_bar is a product of up to 1,000 rounded factors.
static void schedule_has_the_published_values(void **state) {
    (void)state;
    Device *d = device("ref");
    Schedule *s = schedule(d, BETA_FLOAT32);
    static const struct { int t; double value; } bars[] = {
        { 0, .9999000000025262 }, { 100, .8951415909472787 }, { 250, .5214230270464527 }, { 500, .07779665824663652 },
        { 750, .0033001588544856104 }, { 999, 4.035830882504454e-05 } };
    expect_near(s->beta[0], 9.999999747378752e-05, 1e-19, "beta 0");
    expect_near(s->beta[1], 1.1991991777904332e-04, 1e-19, "beta 1");
    expect_near(s->beta[999], 1.9999999552965164e-02, 1e-17, "beta 999");
    for (size_t i = 0; i < sizeof bars / sizeof bars[0]; i++)
        expect_near(s->alpha_bar[bars[i].t], bars[i].value, 1e3 * DBL_EPSILON * bars[i].value, "alpha_bar");
    expect_near(exp(schedule_log_variance(s, 1, VAR_FIXEDSMALL)), 5.4531875419e-05, 0.6e-14, "posterior variance 1");
    expect_near(schedule_log_variance(s, 1, VAR_FIXEDSMALL), -9.816725157, 0.6e-9, "its log");
    expect_near(schedule_log_variance(s, 0, VAR_FIXEDLARGE), -9.816725157, 0.6e-9, "log variance at 0");
    expect_near(schedule_log_variance(s, 1, VAR_FIXEDLARGE), -9.028686390, 0.6e-9, "log beta 1");
    Schedule *exact = schedule(d, BETA_DOUBLE);
    expect_near(exact->alpha_bar[999], 4.0358297654e-5, 0.6e-15, "alpha_bar 999 in double");
    schedule_free(exact);
    schedule_free(s);
    device_close(d);
}

// The definitions in long double, and the table that kernels read.
static void schedule_keeps_its_definition(void **state) {
    (void)state;
    Device *d = device("ref");
    for (int rounding = 0; rounding < 2; rounding++) {
        Schedule *s = schedule(d, (BetaRounding)rounding);
        float *root = malloc(2000 * sizeof *root);
        tensor_read_f32(s->root, root);
        long double bar = 1;
        for (int t = 0; t < 1000; t++) {
            double beta = 1e-4 + (0.02 - 1e-4) * t / 999;
            expect_near(s->beta[t], beta, rounding == BETA_DOUBLE ? 4 * DBL_EPSILON * beta : 4 * unit * 0.02, "beta");
            bar *= 1 - (long double)s->beta[t];
            expect_near(s->alpha_bar[t], (double)bar, (t + 2) * DBL_EPSILON * (double)bar, "alpha_bar");
            expect_near((double)root[2 * t], (double)sqrtl(bar), 2 * unit * (double)sqrtl(bar), "root of alpha_bar");
            expect_near((double)root[2 * t + 1], (double)sqrtl(1 - bar), 2 * unit, "root of 1 - alpha_bar");
        }
        free(root);
        schedule_free(s);
    }
    device_close(d);
}

// One reverse step as mean = (x - beta / sqrt(1 - alpha_bar) eps) / sqrt(alpha) (DDPM eq. 11): another form of what
// the code computes by way of x0.
static void ddpm_steps_follow_equation_11(void **state) {
    (void)state;
    Device *d = device("ref");
    Schedule *s = schedule(d, BETA_FLOAT32);
    for (int t = 0; t < 1000; t++) {
        double beta = s->beta[t], bar = s->alpha_bar[t], before = t ? s->alpha_bar[t - 1] : 1, alpha = 1 - beta;
        for (int var = 0; var < 2; var++) {
            SamplerCoef c = schedule_ddpm_step(s, t, (VarType)var, 1.5, 0.25);
            double small = beta * (1 - before) / (1 - bar), sigma = t ? sqrt(var == VAR_FIXEDLARGE ? beta : small) : 0;
            expect_near((double)c.x, 1 / sqrt(alpha), 4 * unit / sqrt(alpha), "factor of x");
            double of_eps = beta / sqrt(1 - bar) / sqrt(alpha);
            expect_near((double)c.eps, -of_eps, 4 * unit * of_eps, "factor of eps");
            expect_near((double)c.sigma, sigma, 2 * unit * sigma, "sigma");
            expect_near((double)c.x0_x, 1 / sqrt(bar), 2 * unit / sqrt(bar), "x0 from x");
            expect_near((double)c.x0_eps, -sqrt((1 - bar) / bar), 2 * unit * sqrt((1 - bar) / bar), "x0 from eps");
            assert_true(c.guidance >= 1.5f && c.guidance <= 1.5f && c.x0_clip >= 0.25f && c.x0_clip <= 0.25f);
        }
    }
    schedule_free(s);
    device_close(d);
}

// DDIM with eta 0 keeps a point on its path: x of (x0, eps) at t goes to x of the same (x0, eps) at the next time. With
// eta 1 and neighbouring times it is DDPM with the small variance.
static void ddim_steps_keep_their_path(void **state) {
    (void)state;
    Device *d = device("ref");
    Schedule *s = schedule(d, BETA_FLOAT32);
    for (int t = 999; t >= 0; t -= 37) {
        for (int next = -1; next < t; next += 1 + (t - next) / 3) {
            SamplerCoef c = schedule_ddim_step(s, t, next, 0, 0, 1);
            double bar = s->alpha_bar[t], to = next < 0 ? 1 : s->alpha_bar[next], x0 = 0.3, eps = -1.7;
            double x = sqrt(bar) * x0 + sqrt(1 - bar) * eps;
            double of_x = (double)c.x * x, of_eps = (double)c.eps * eps;
            double rounding = 2 * unit * (fabs(of_x) + fabs(of_eps));
            expect_near(of_x + of_eps, sqrt(to) * x0 + sqrt(1 - to) * eps, rounding, "DDIM");
            assert_true(c.sigma >= 0 && c.sigma <= 0);
        }
        SamplerCoef a = schedule_ddim_step(s, t, t - 1, 1, 0, 0), b = schedule_ddpm_step(s, t, VAR_FIXEDSMALL, 0, 0);
        double size = 1 / sqrt(s->alpha_bar[t]);         // both terms of a.eps have it as a factor
        expect_near((double)a.x, (double)b.x, 4 * unit * (double)b.x, "eta 1, x");
        double rounding = 4 * unit * fabs((double)b.eps) + 64 * DBL_EPSILON * size;
        expect_near((double)a.eps, (double)b.eps, rounding, "eta 1, eps");
        expect_near((double)a.sigma, (double)b.sigma, 4 * unit * (double)b.sigma, "eta 1, sigma");
    }
    schedule_free(s);
    device_close(d);
}

static void sampling_times_are_even(void **state) {
    (void)state;
    Device *d = device("ref");
    Schedule *s = schedule(d, BETA_FLOAT32);
    int32_t t[1000];
    for (int steps = 2; steps <= 1000; steps += steps < 60 ? 1 : 47) {
        schedule_times(s, steps, t);
        assert_int_equal(t[0], 999);
        assert_int_equal(t[steps - 1], 0);
        for (int i = 1; i < steps; i++) {
            expect_near(t[i - 1] - t[i], 999.0 / (steps - 1), 1, "distance of times");
            assert_true(t[i] < t[i - 1]);
        }
    }
    schedule_times(s, 1000, t);
    for (int i = 0; i < 1000; i++) assert_int_equal(t[i], 999 - i);
    schedule_free(s);
    device_close(d);
}

// ---- the sinusoids of time

// Row t of op_sinusoid for t = 0..n-1; caller frees.
static float *sinusoids(const char *spec, int n, int dim) {
    Device *d = device(spec);
    Graph *g = graph_new(d, "time", WEIGHTS_TRAIN);
    Arena *a = arena_new(d);
    Tensor *t = graph_input(g, "t", DT_I32, 1, (int64_t[]){ n }), *y = graph_output(g, op_sinusoid(g, t, dim));
    graph_plan(g, a);
    arena_seal(a);
    int32_t *times = malloc((size_t)n * sizeof *times);
    for (int i = 0; i < n; i++) times[i] = i;
    tensor_write(t, times);
    graph_run(g);
    float *out = malloc((size_t)(n * dim) * sizeof *out);
    tensor_read_f32(y, out);
    free(times);
    graph_free(g);
    arena_free(a);
    device_close(d);
    return out;
}

// What the published table may be off by: it rounds ln(freq), freq and t * freq to float, an error in the angle of its
// size times (|ln freq| + 2) units; then a sine or cosine, rounded. One unit more of each is for ours.
static double time_tolerance(double t, double log_freq) { return t * exp(log_freq) * (3 - log_freq) * unit + 2 * unit; }

static void time_table_is_the_published_one(void **state) {
    (void)state;
    SafeTensors *st = st_open(CASE, NULL);
    assert_non_null(st);
    const StTensor *table = st_find(st, "param.time_embedding.timembedding.0.weight");
    assert_non_null(table);
    int n = (int)table->shape[0], dim = (int)table->shape[1];
    assert_int_equal(n, 1000);
    float *want = malloc((size_t)(n * dim) * sizeof *want);
    assert_true(st_read_f32(table, want));
    static const char *const devices[] = { "ref", "cpu" };
    for (int k = 0; k < 2; k++) {
        float *got = sinusoids(devices[k], n, dim);
        for (int i = 0; i < n * dim; i++) {
            double log_freq = -log(10000.0) * (i % dim / 2 * 2) / dim;
            expect_near((double)got[i], (double)want[i], time_tolerance(i / dim, log_freq), "time table");
        }
        free(got);
    }
    free(want);
    st_close(st);
}

static void time_table_has_the_noted_values(void **state) {
    (void)state;
    static const double ten[] = { -.5440211, -.8390715, .6926342, -.7212890, .9376327, .3476274 };
    static const double freq[] = { 1, .8659643234, .7498942093 };
    float *got = sinusoids("ref", 11, 128);
    for (int i = 0; i < 6; i++)
        expect_near((double)got[10 * 128 + i], ten[i], 0.6e-7 + time_tolerance(10, log(freq[i / 2])), "t = 10");
    for (int i = 0; i < 3; i++) {
        expect_near((double)got[128 + 2 * i], sin(freq[i]), 0.6e-10 + time_tolerance(1, log(freq[i])), "sin freq");
        expect_near((double)got[128 + 2 * i + 1], cos(freq[i]), 0.6e-10 + time_tolerance(1, log(freq[i])), "cos freq");
    }
    double last = 1.1547819847e-4;
    expect_near((double)got[128 + 126], sin(last), 0.6e-14 + last * (3 - log(last)) * unit, "sin of the last freq");
    free(got);
}

// ---- initial values

static UNet *initialised(Device *d, UNetConfig c, uint64_t seed) {
    Error err;
    if (!unet_check(&c, &err)) fail_msg("%s", err.msg);
    UNet *m = unet_new(&c, d);
    param_seal(unet_params(m), PARAM_TRAIN, seed);
    return m;
}

static UNetConfig small(void) {
    return (UNetConfig){ .image_size = 8, .in_channels = 3, .channels = 32, .levels = 2, .mult = { 1, 2 },
                         .attn_levels = 2, .res_blocks = 1, .groups = 8, .classes = 50, .augment = true };
}

static float *values(const Tensor *t) {
    float *x = malloc((size_t)tensor_numel(t) * sizeof *x);
    tensor_read_f32(t, x);
    return x;
}

static bool has(const char *name, const char *part) { return strstr(name, part) != NULL; }

// n draws of mean 0, variance v and fourth moment k v^2: mean and mean square within six standard deviations.
static void expect_moments(const char *name, const float *x, int64_t n, double v, double k) {
    double sum = 0, square = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i], square += (double)x[i] * (double)x[i];
    expect_near(sum / (double)n, 0, 6 * sqrt(v / (double)n), name);
    expect_near(square / (double)n, v, 6 * v * sqrt((k - 1) / (double)n), name);
}

// Uniform in [-bound, bound]: all inside, and the largest of n no lower than it is but once in e^20 cases.
static void expect_uniform(const char *name, const float *x, int64_t n, double bound) {
    double largest = 0;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)x[i]));
    if (largest > bound * (1 + 2 * unit)) fail_msg("%s: %g is beyond the bound %g", name, largest, bound);
    if (largest < bound * (1 - fmin(1, 20 / (double)n))) fail_msg("%s: no value near the bound %g", name, bound);
    expect_moments(name, x, n, bound * bound / 3, 1.8);
}

static void expect_all(const char *name, const float *x, int64_t n, float value) {
    for (int64_t i = 0; i < n; i++)
        if (x[i] < value || x[i] > value)
            fail_msg("%s[%lld] is %g, not %g", name, (long long)i, (double)x[i], (double)value);
}

// The published code sets the output of each residual block and of the network to a gain of 1e-5, but the projection of
// the attention, meant to have it too, ends with gain 1. The augmentation input keeps PyTorch's default.
static void initial_values_are_the_published_kinds(void **state) {
    (void)state;
    Device *d = device("ref");
    UNet *m = initialised(d, small(), 3);
    ParamSet *ps = unet_params(m);
    int tiny = 0, projections = 0;
    for (int i = 0; i < param_count(ps); i++) {
        Param *p = param_get(ps, i);
        const Tensor *t = param_value(p);
        const char *name = param_name(p);
        int64_t n = tensor_numel(t), area = t->ndim == 4 ? t->shape[1] * t->shape[2] : 1;
        float *x = values(t), *average = values(param_ema(p));
        assert_memory_equal(x, average, (size_t)n * sizeof *x);
        if (has(name, ".bias")) expect_all(name, x, n, 0);
        else if (t->ndim == 1) expect_all(name, x, n, 1);
        else if (has(name, "label_embedding")) expect_moments(name, x, n, 1, 3);
        else if (has(name, "augm_embedding")) expect_uniform(name, x, n, 1.0 / 3);
        else {
            bool last = has(name, "block2.3.") || has(name, "tail.2.");
            double fans = (double)(area * (t->shape[0] + t->shape[t->ndim - 1]));
            expect_uniform(name, x, n, (last ? 1e-5 : 1) * sqrt(6 / fans));
            tiny += last;
            projections += has(name, "attn.proj.");
        }
        free(x);
        free(average);
    }
    assert_int_equal(tiny, 2 + 2 + 4 + 1);               // down, middle, up, tail
    assert_int_equal(projections, 1 + 1 + 2);
    unet_free(m);
    device_close(d);
}

// A parameter's start depends on the seed, its name and its shape, and on nothing else of the network.
static void initial_values_depend_on_name_and_seed_only(void **state) {
    (void)state;
    Device *d = device("ref");
    UNetConfig other = small();
    other.augment = false;
    other.classes = 20;
    other.attn_levels = 0;
    UNet *a = initialised(d, small(), 3), *b = initialised(d, other, 3), *c = initialised(d, small(), 4);
    int shared = 0;
    for (int i = 0; i < param_count(unet_params(b)); i++) {
        Param *p = param_get(unet_params(b), i), *q = param_find(unet_params(a), param_name(p));
        Param *r = param_find(unet_params(c), param_name(p));
        assert_true(q && r);
        const Tensor *t = param_value(p);
        float *x = values(t), *y = values(param_value(q)), *z = values(param_value(r));
        bool rows = has(param_name(p), "label_embedding");               // 20 classes: the first 20 of 50 rows
        assert_true(rows || tensor_same_shape(t, param_value(q)));
        assert_memory_equal(x, y, (size_t)tensor_numel(t) * sizeof *x);
        if (t->ndim > 1) assert_true(memcmp(y, z, (size_t)tensor_numel(t) * sizeof *x) != 0);
        shared++;
        free(x);
        free(y);
        free(z);
    }
    assert_true(shared > 50 && shared < param_count(unet_params(a)));
    unet_free(a);
    unet_free(b);
    unet_free(c);
    device_close(d);
}

// No two tensors of one network start with the same draws.
static void initial_values_differ_between_layers(void **state) {
    (void)state;
    Device *d = device("ref");
    UNet *m = initialised(d, small(), 3);
    ParamSet *ps = unet_params(m);
    for (int i = 0; i < param_count(ps); i++)
        for (int j = i + 1; j < param_count(ps); j++) {
            const Tensor *a = param_value(param_get(ps, i)), *b = param_value(param_get(ps, j));
            if (a->ndim < 2 || !tensor_same_shape(a, b)) continue;
            float *x = values(a), *y = values(b);
            assert_true(memcmp(x, y, (size_t)tensor_numel(a) * sizeof *x) != 0);
            free(x);
            free(y);
        }
    unet_free(m);
    device_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_are_counted),
        cmocka_unit_test(names_and_shapes_are_the_published_ones),
        cmocka_unit_test(impossible_networks_are_refused),
        cmocka_unit_test(schedule_has_the_published_values),
        cmocka_unit_test(schedule_keeps_its_definition),
        cmocka_unit_test(ddpm_steps_follow_equation_11),
        cmocka_unit_test(ddim_steps_keep_their_path),
        cmocka_unit_test(sampling_times_are_even),
        cmocka_unit_test(time_table_is_the_published_one),
        cmocka_unit_test(time_table_has_the_noted_values),
        cmocka_unit_test(initial_values_are_the_published_kinds),
        cmocka_unit_test(initial_values_depend_on_name_and_seed_only),
        cmocka_unit_test(initial_values_differ_between_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
