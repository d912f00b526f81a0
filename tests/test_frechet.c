// tests/test_frechet.c - the Frechet distance against scipy's, against closed forms, its two routes against each other.
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#define FRECHET_PRODUCT_MAX 2000        // so that sets of more than 44 rows go the way of large ones
#include "eval/frechet.c"
#include "kernels/common/rng.h"
#include "tests/tempdir.h"

static Features golden(const char *name) {
    Features f;
    Error err = { 0 };
    char *path = xasprintf("%s/golden/%s.npy", TESTS_DIR, name);
    if (!features_read(path, "", "", &f, &err)) fail_msg("%s", err.msg);
    free(path);
    return f;
}

static Features from(const float *x, int64_t n, int dim) {
    Features f;
    features_copy(n, dim, x, NULL, 0, NULL, "test", &f);
    return f;
}

// Correlated normals: a random walk along the dimensions, times scale.
static Features walk(int64_t n, int dim, uint32_t stream, float scale) {
    float *x = xmalloc((size_t)n * (size_t)dim * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        float sum = 0, w[4];
        for (int k = 0; k < dim; k++) {
            if (k % 4 == 0) rng_normal4(philox((uint32_t[]){ 7, stream }, (uint32_t)k / 4, (uint32_t)i, 0, 0).v, w);
            x[i * dim + k] = sum = 0.9f * sum + scale * w[k % 4];
        }
    }
    Features f = from(x, n, dim);
    free(x);
    return f;
}

static double fitted(const Features *a, const int64_t *ra, int64_t na, const Features *b) {
    Gaussian x, y;
    gaussian_fit(a, ra, na, &x);
    gaussian_fit(b, NULL, 0, &y);
    double d = frechet_distance(&x, &y);
    gaussian_free(&x);
    gaussian_free(&y);
    return d;
}

static void close_to(double got, double want, double relative) {
    if (!(fabs(got - want) <= relative * fabs(want))) fail_msg("%.17g, not %.17g", got, want);
}

static void equals_scipy(void **state) {
    (void)state;
    Features r = golden("normal64_ref"), g = golden("normal64_gen");
    close_to(fitted(&g, NULL, 0, &r), 0.46207388422811935, 1e-6);
    close_to(frechet_distance_rows(&g, NULL, 0, &r, NULL, 0), 0.46207388422811935, 1e-6);
    features_free(&r);
    features_free(&g);
}

// Rows mu + a_k e_k and mu - a_k e_k for each k: variances 2 a_k^2 / (2 dim - 1), nothing beside the diagonal. Then the
// distance is |mu1 - mu2|^2 + sum (a_k - b_k)^2 2 / (2 dim - 1). More dimensions than a tile, more rows than a block.
static void equals_the_closed_form(void **state) {
    (void)state;
    enum { DIM = 300, N = 2 * DIM };
    static float x[N * DIM], y[N * DIM];
    double want = 0;
    for (int i = 0; i < N; i++)
        for (int k = 0; k < DIM; k++) x[i * DIM + k] = (float)(k % 5), y[i * DIM + k] = (float)(k % 3);
    for (int k = 0; k < DIM; k++) {
        float a = 1 + (float)(k % 7), b = (float)(k % 11) / 2;            // some variances of b are 0
        x[2 * k * DIM + k] += a, x[(2 * k + 1) * DIM + k] -= a;
        y[2 * k * DIM + k] += b, y[(2 * k + 1) * DIM + k] -= b;
        want += (double)((a - b) * (a - b)) * 2 / (N - 1) + (double)((k % 5 - k % 3) * (k % 5 - k % 3));
    }
    Features f = from(x, N, DIM), g = from(y, N, DIM);
    Gaussian fit;
    gaussian_fit(&f, NULL, 0, &fit);
    for (int i = 0; i < DIM; i++)
        for (int j = 0; j < DIM; j++) {
            double a = 1 + i % 7, s = i == j ? 2 * a * a / (N - 1) : 0;
            assert_true(fabs(fit.sigma[i * DIM + j] - s) <= 1e-14 * 98);
        }
    gaussian_free(&fit);
    close_to(fitted(&f, NULL, 0, &g), want, 1e-6);
    close_to(frechet_distance_rows(&f, NULL, 0, &g, NULL, 0), want, 1e-6);
    features_free(&f);
    features_free(&g);
}

// The route over covariances cannot see less than an eigenvalue's rounding error, dim u |S1| |S2|, whose root enters
// dim times where eigenvalues are 0: with fewer rows than dimensions, and in the Gram product of more rows than that.
static double rounding(const Features *a, const Features *b) {
    double trace[2] = { 0 };
    for (int side = 0; side < 2; side++) {
        Gaussian g;
        gaussian_fit(side ? b : a, NULL, 0, &g);
        for (int k = 0; k < g.dim; k++) trace[side] += g.sigma[k * (g.dim + 1)];
        gaussian_free(&g);
    }
    return 2 * a->dim * sqrt(a->dim * 0x1p-53 * trace[0] * trace[1]);
}

static void routes_agree(void **state) {
    (void)state;
    static const struct { int64_t na, nb; int dim; } cases[] = {
        { 20, 30, 40 }, { 30, 20, 40 }, { 40, 600, 60 }, { 700, 35, 60 }, { 60, 60, 20 }, { 50, 40, 20 },
        { 90, 80, 300 }, { 2, 3, 5 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Features a = walk(cases[i].na, cases[i].dim, 1, 1.0f), b = walk(cases[i].nb, cases[i].dim, 2, 1.3f);
        double one = fitted(&a, NULL, 0, &b), bound = 1e-6 * one;
        bool singular = cases[i].na <= cases[i].dim || cases[i].nb <= cases[i].dim;
        if (singular || cases[i].na * cases[i].nb > FRECHET_PRODUCT_MAX) bound += rounding(&a, &b);
        assert_true(fabs(frechet_distance_rows(&a, NULL, 0, &b, NULL, 0) - one) <= bound);
        assert_true(fabs(fitted(&b, NULL, 0, &a) - one) <= bound);
        assert_true(bound < one / 100);
        features_free(&a);
        features_free(&b);
    }
}

// Closed form with fewer rows than dimensions: one pair of rows mu +- a e_0 against mu' +- b e_0.
static void few_rows_are_exact(void **state) {
    (void)state;
    enum { DIM = 100 };
    float x[2 * DIM] = { 0 }, y[2 * DIM] = { 0 };
    x[0] = 3, x[DIM] = -3, y[0] = 1, y[DIM] = -1, y[7] = y[DIM + 7] = 2;
    Features a = from(x, 2, DIM), b = from(y, 2, DIM);
    close_to(frechet_distance_rows(&a, NULL, 0, &b, NULL, 0), 4 + 2 * (3.0 - 1) * (3 - 1), 1e-14);
    features_free(&a);
    features_free(&b);
}

static void rows_choose(void **state) {
    (void)state;
    enum { DIM = 30, N = 50, PICKED = 33 };
    Features all = walk(N, DIM, 3, 1), ref = walk(40, DIM, 4, 1);
    int64_t rows[PICKED];
    float x[PICKED * DIM];
    for (int i = 0; i < PICKED; i++) {
        rows[i] = i * 7 % 25;                                   // some twice
        memcpy(x + i * DIM, all.x + rows[i] * DIM, DIM * sizeof *x);
    }
    Features part = from(x, PICKED, DIM);
    double want = fitted(&part, NULL, 0, &ref), by_rows = frechet_distance_rows(&part, NULL, 0, &ref, NULL, 0);
    assert_true(fitted(&all, rows, PICKED, &ref) == want);
    assert_true(frechet_distance_rows(&all, rows, PICKED, &ref, NULL, 0) == by_rows);
    features_free(&all);
    features_free(&part);
    features_free(&ref);
}

// Of a set and itself: 0 but for roots of rounding errors, each at most sqrt(dim u |S|) of dim.
static void a_set_is_no_distance_from_itself(void **state) {
    (void)state;
    enum { DIM = 50 };
    Features a = walk(30, DIM, 5, 1);
    double bound = DIM * sqrt(DIM * 0x1p-53) * 20;
    assert_true(fitted(&a, NULL, 0, &a) <= bound);
    assert_true(frechet_distance_rows(&a, NULL, 0, &a, NULL, 0) <= 1e-12 * 20 * DIM);
    features_free(&a);
}

static void the_same_bits_for_any_number_of_threads(void **state) {
    (void)state;
    Features a = walk(900, 290, 6, 1), b = walk(700, 290, 7, 1.1f);
    int before = omp_get_max_threads();
    double want[2] = { 0 };
    for (int threads = 1; threads <= 4; threads++) {
        omp_set_num_threads(threads);
        double got[2] = { fitted(&a, NULL, 0, &b), frechet_distance_rows(&a, NULL, 0, &b, NULL, 0) };
        if (threads == 1) memcpy(want, got, sizeof want);
        assert_memory_equal(got, want, sizeof want);
    }
    omp_set_num_threads(before);
    features_free(&a);
    features_free(&b);
}

static void files_round_trip(void **state) {
    (void)state;
    Error err = { 0 };
    Features a = walk(30, 6, 8, 1);
    Gaussian g, back;
    gaussian_fit(&a, NULL, 0, &g);
    const char *path = temp_path("stats.npz");
    if (!gaussian_write(path, &g, &err) || !gaussian_read(path, &back, &err)) fail_msg("%s", err.msg);
    assert_int_equal(back.dim, 6);
    assert_memory_equal(back.mu, g.mu, 6 * sizeof *g.mu);
    assert_memory_equal(back.sigma, g.sigma, 36 * sizeof *g.sigma);
    gaussian_free(&back);
    features_free(&a);
    gaussian_free(&g);
}

static void files_that_are_wrong_are_refused(void **state) {
    (void)state;
    double mu[3] = { 0, 1, 2 }, good[9] = { 1, 0, 0, 0, 1, 0, 0, 0, 1 }, skew[9] = { 1, 0.1, 0, 0, 1, 0, 0, 0, 1 };
    double negative[9] = { -1, 0, 0, 0, 1, 0, 0, 0, 1 }, broken[9] = { 1, 0, 0, 0, NAN, 0, 0, 0, 1 };
    struct { const char *mu_descr, *sigma_name; int64_t dim; const double *sigma; const char *words; } bad[] = {
        { "<f8", "sigma", 2, good, "square matrix" }, { "<f8", "sigma", 3, skew, "no covariance" },
        { "<f8", "sigma", 3, negative, "no covariance" }, { "<f8", "sigma", 3, broken, "sigma holds values" },
        { "<f8", "cov", 3, good, "no array named \"sigma\"" }, { "<i8", "sigma", 3, good, "mu of type" },
    };
    const char *path = temp_path("bad.npz");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Error err = { 0 };
        Gaussian g;
        NpyArray a[2] = { { .ndim = 1, .shape = { 3 }, .data = mu },
                          { .descr = "<f8", .ndim = 2, .shape = { bad[i].dim, bad[i].dim }, .data = bad[i].sigma } };
        strcpy(a[0].descr, bad[i].mu_descr);
        assert_true(npz_write(path, (const char *[]){ "mu", bad[i].sigma_name }, a, 2, &err));
        assert_false(gaussian_read(path, &g, &err));
        assert_int_equal(err.code, ERR_FILE);
        if (!strstr(err.msg, bad[i].words)) fail_msg("\"%s\" does not say \"%s\"", err.msg, bad[i].words);
        assert_non_null(strstr(err.msg, "bad.npz"));
    }
}

int main(void) {
    Error err = { 0 };
    if (!linalg_there(&err)) return print_message("skipped: %s\n", err.msg), 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_scipy), cmocka_unit_test(equals_the_closed_form), cmocka_unit_test(routes_agree),
        cmocka_unit_test(few_rows_are_exact), cmocka_unit_test(rows_choose),
        cmocka_unit_test(a_set_is_no_distance_from_itself),
        cmocka_unit_test(the_same_bits_for_any_number_of_threads), cmocka_unit_test(files_round_trip),
        cmocka_unit_test(files_that_are_wrong_are_refused),
    };
    return cmocka_run_group_tests(tests, tempdir_make, tempdir_remove);
}
