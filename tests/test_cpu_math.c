// tests/test_cpu_math.c - the CPU kernels' own functions: e^x in both forms, SiLU, keep bits, against libm and rng.h.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include "kernels/common/cpu_avx512.h"

// Error in units of the spacing of floats around what is wanted.
static double ulps(double value, double want) {
    int e;
    frexp(want, &e);
    return fabs(value - want) / ldexp(1, e < -125 ? -149 : e - 24);
}

enum { WIDTH = 16 };
// y = f(x) for WIDTH arguments; `wanted` takes one.
typedef void   Floats(const float *x, float *y);
typedef double Wanted(double x);

// Worst error over every `step`th float between low and high, of either sign.
static double worst_error(Floats *f, Wanted *wanted, float low, float high, uint32_t step) {
    double worst = 0;
    float x[WIDTH], y[WIDTH];
    int n = 0;
    for (uint64_t bits = 0; bits <= UINT32_MAX; bits += step) {
        uint32_t word = (uint32_t)bits;
        memcpy(&x[n], &word, sizeof word);
        if (!(x[n] >= low && x[n] <= high) || ++n < WIDTH) continue;
        f(x, y);
        for (n = WIDTH; n > 0; n--) worst = fmax(worst, ulps((double)y[n - 1], wanted((double)x[n - 1])));
    }
    return worst;
}
static void expect_within(const char *what, double error, double bound) {
    if (!(error <= bound)) fail_msg("%s: off by %.3f ulp, over %.3f", what, error, bound);
}

static void plain_exp(const float *x, float *y) {
    for (int l = 0; l < WIDTH; l++) y[l] = cpu_exp(x[l]);
}
static void exp_is_accurate(void **unused) {
    (void)unused;
    expect_within("cpu_exp", worst_error(plain_exp, exp, -87.3f, 87.3f, 97), 2);
    float nan = cpu_exp(NAN), top = cpu_exp(INFINITY), bottom = cpu_exp(-INFINITY);
    assert_true(isnan(nan) && isfinite(top) && top > 8e37f && bottom >= 0 && bottom < 2e-38f);
}

#ifdef VEC_INLINE
static void vector_exp(const float *x, float *y) { vec_store(y, vec_exp_neg(vec_load(x))); }
static void vector_silu(const float *x, float *y) { vec_store(y, vec_silu(vec_load(x))); }
static double exp_neg(double x) { return exp(-x); }
static double silu(double x) { return x / (1 + exp(-x)); }

// SiLU, with u = 2^-24: 2 ulp of e^-x are at most 4 u of it and so of 1 + e^-x; that sum and the quotient round by u
// each. 6 u of a float are at most 6 ulp.
static void vector_exp_is_accurate(void **unused) {
    (void)unused;
    expect_within("vec_exp_neg", worst_error(vector_exp, exp_neg, -88.3f, 87.3f, 97), 2);
    expect_within("vec_silu", worst_error(vector_silu, silu, -87, 88, 97), 6);
    const float x[WIDTH] = { NAN, INFINITY, -INFINITY, 1e30f, -1e30f, 0 };
    float e[WIDTH], s[WIDTH], slope[WIDTH];
    vec_store(e, vec_exp_neg(vec_load(x)));
    vec_store(s, vec_silu(vec_load(x)));
    vec_store(slope, vec_silu_slope(vec_load(x)));
    assert_true(isnan(e[0]) && isnan(s[0]) && isnan(slope[0]));
    assert_true(e[1] < 2e-38f && e[2] > 1e38f && isfinite(e[2]) && e[3] < 2e-38f && e[4] == e[2] && e[5] == 1);
    assert_true(isinf(s[1]) && s[3] == 1e30f && fabsf(s[4]) < 1e-7f && s[5] == 0);
    assert_true(slope[3] == 1 && fabsf(slope[4]) < 1e-7f && slope[5] == 0.5f);
}

// With u as above: s is off by s ((1 - s) 4 + 2) u <= 3 u. The product x s (1 - s), at most 0.224, gathers 6 u from
// each s, 4 u from e and 2 u of its own: 4 u. The sum rounds by u: in all 8 u, 4 spacings of the floats from 1 to 2.
static void vector_slope_is_accurate(void **unused) {
    (void)unused;
    double worst = 0;
    for (int j = -8000; j < 8000; j += WIDTH) {
        float x[WIDTH], y[WIDTH];
        for (int l = 0; l < WIDTH; l++) x[l] = (float)(j + l) / 256;
        vec_store(y, vec_silu_slope(vec_load(x)));
        for (int l = 0; l < WIDTH; l++) {
            double s = 1 / (1 + exp(-(double)x[l]));
            worst = fmax(worst, fabs((double)y[l] - s * (1 + (double)x[l] * (1 - s))) / 0x1p-23);
        }
    }
    expect_within("vec_silu_slope, of 1", worst, 4);
}

static void vector_keep_bits_are_the_contracts(void **unused) {
    (void)unused;
    const StepState state = { .seed = { 0xDEADBEEFu, 0x12345678u }, .step = 0x80000001u };
    const uint32_t p16[] = { 1, 6554, 32768, 58982 }, step = 3, firsts[] = { 0, 77, UINT32_MAX - 5 };
    for (size_t k = 0; k < sizeof p16 / sizeof *p16; k++) {
        for (size_t f = 0; f < sizeof firsts / sizeof *firsts; f++) {
            CpuDraw d = cpu_draw(&state, 0xFFFFFFF0u + (uint32_t)k, 9, p16[k]);
            uint64_t keep[2];
            vec_keep_bits(&d, firsts[f], step, keep);
            for (uint32_t bit = 0; bit < 128; bit++) {
                Philox w = philox(state.seed, firsts[f] + bit / 16 * step + bit / 8 % 2, d.sample, d.step, d.purpose);
                assert_int_equal(keep[bit / 64] >> (bit % 64) & 1, rng_keep(w.v, (int)(bit % 8), p16[k]));
            }
        }
    }
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_accurate),
#ifdef VEC_INLINE
        cmocka_unit_test(vector_exp_is_accurate),
        cmocka_unit_test(vector_slope_is_accurate),
        cmocka_unit_test(vector_keep_bits_are_the_contracts),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
