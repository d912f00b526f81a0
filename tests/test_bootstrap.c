// tests/test_bootstrap.c - resampled intervals: the weighted KID against plain loops, what the draws are, percentiles,
// and that the intervals cover what they should.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "eval/bootstrap.c"

static Features normals(int64_t n, int dim, uint32_t stream, float mean) {
    float *x = xmalloc((size_t)n * (size_t)dim * sizeof *x), w[4] = { 0 };
    for (int64_t i = 0; i < n * dim; i++) {
        if (i % 4 == 0) rng_normal4(philox((uint32_t[]){ 11, stream }, (uint32_t)i / 4, 0, 0, 0).v, w);
        x[i] = w[i % 4] + mean;
    }
    Features f;
    features_copy(n, dim, x, NULL, 0, NULL, "test", &f);
    free(x);
    return f;
}

static double kernel(const Features *a, int64_t i, const Features *b, int64_t j) {
    double dot = 0;
    for (int k = 0; k < a->dim; k++) dot += (double)a->x[i * a->dim + k] * (double)b->x[j * b->dim + k];
    double t = dot / a->dim + 1;
    return t * t * t;
}

// More rows than a block, whole and in part. Products are in float: each kernel t^3 is off by at most
// 3 t^2 (dim + 2) u |x||y| / dim, below 1e-5 of the sum of magnitudes for these numbers; so are the weighted sums.
static void weighted_sums_equal_plain_loops(void **state) {
    (void)state;
    enum { COLUMNS_ = 4, DIM = 5, NA = BLOCK + 40, NB = 37 };
    Features a = normals(NA, DIM, 1, 0.2f), b = normals(NB, DIM, 2, 0);
    Weighted wa = weighted_of((Rows){ &a, NULL, NA }, COLUMNS_, 5, SIDE_REF);
    Weighted wb = weighted_of((Rows){ &b, NULL, NB }, COLUMNS_, 5, SIDE_GEN);
    const Weighted *pair[3][2] = { { &wa, &wa }, { &wb, &wb }, { &wa, &wb } };
    for (int p = 0; p < 3; p++) {
        const Weighted *x = pair[p][0], *y = pair[p][1];
        double got[COLUMNS_];
        weighted_sums(x, y, COLUMNS_, got);
        for (int c = 0; c < COLUMNS_; c++) {
            double want = 0, size = 0;
            for (int64_t i = 0; i < x->rows.n; i++)
                for (int64_t j = 0; j < y->rows.n; j++) {
                    if (x == y && i == j) continue;
                    double w = (double)x->weight[i * COLUMNS_ + c] * (double)y->weight[j * COLUMNS_ + c];
                    double k = kernel(x->rows.f, i, y->rows.f, j);
                    want += w * k;
                    size += w * fabs(k);
                }
            assert_true(fabs(got[c] - want) <= 1e-5 * size);
        }
    }
    weighted_free(&wa);
    weighted_free(&wb);
    features_free(&a);
    features_free(&b);
}

static void weights_count_the_draws(void **state) {
    (void)state;
    enum { N = 300, COLUMNS_ = 21 };
    Features a = normals(N, 2, 3, 0);
    Weighted w = weighted_of((Rows){ &a, NULL, N }, COLUMNS_, 9, SIDE_GEN);
    double chi = 0;
    for (int c = 0; c < COLUMNS_; c++) {
        double sum = 0, squares = 0;
        for (int i = 0; i < N; i++) {
            double v = (double)w.weight[i * COLUMNS_ + c];
            if (c == 0) assert_true(v == 1.0);
            sum += v;
            squares += v * v;
        }
        assert_true(sum == N);
        assert_true(w.pairs[c] == (double)N * N - squares);
    }
    // Over all resamples each row is drawn about as often as any other: chi squared with N - 1 degrees of freedom lies
    // within 6 standard deviations.
    for (int i = 0; i < N; i++) {
        double sum = 0, want = COLUMNS_ - 1;
        for (int c = 1; c < COLUMNS_; c++) sum += (double)w.weight[i * COLUMNS_ + c];
        chi += (sum - want) * (sum - want) / want;
    }
    assert_true(fabs(chi - (N - 1)) < 6 * sqrt(2.0 * (N - 1)));
    assert_true(drawn(9, SIDE_GEN, 1, 7, 1000000) != drawn(9, SIDE_REF, 1, 7, 1000000));
    assert_true(drawn(9, SIDE_GEN, 1, 7, 1000000) != drawn(10, SIDE_GEN, 1, 7, 1000000));
    weighted_free(&w);
    features_free(&a);
}

static void the_value_is_the_estimator_over_all_pairs(void **state) {
    (void)state;
    Features a = normals(90, 6, 4, 0), b = normals(70, 6, 5, 0.4f);
    Rows ref = { &a, NULL, 90 }, gen = { &b, NULL, 70 };
    double kid = kid_full(ref, gen);
    Interval i = bootstrap_kid(ref, gen, 100, 3);
    assert_true(fabs(i.value - kid) <= 1e-5 * 4);                // magnitudes of the kernel are a few
    assert_true(i.low < i.value && i.value < i.high);
    features_free(&a);
    features_free(&b);
}

// Of 60 pairs of samples, how many 95% intervals hold the value of two large samples? Binomial(60, 0.95) is below 48
// with a probability of 1e-5; resampling undercovers a little at this n, which 48 leaves room for.
static void intervals_cover_the_truth(void **state) {
    (void)state;
    enum { TRIALS = 60, N = 80, DIM = 4, LARGE = 8000 };
    Features x = normals(LARGE, DIM, 100, 0), y = normals(LARGE, DIM, 101, 0.5f);
    double kid = kid_full((Rows){ &x, NULL, LARGE }, (Rows){ &y, NULL, LARGE });
    int held = 0;
    for (int t = 0; t < TRIALS; t++) {
        Features a = normals(N, DIM, 200 + (uint32_t)t, 0), b = normals(N, DIM, 300 + (uint32_t)t, 0.5f);
        Interval i = bootstrap_kid((Rows){ &a, NULL, N }, (Rows){ &b, NULL, N }, 200, 1);
        held += i.low <= kid && kid <= i.high;
        features_free(&a);
        features_free(&b);
    }
    if (held < 48) fail_msg("%d of %d", held, TRIALS);
    features_free(&x);
    features_free(&y);
}

static void fid_intervals_hold_the_value(void **state) {
    (void)state;
    Features a = normals(120, 6, 6, 0), b = normals(100, 6, 7, 0.5f);
    for (int by_rows = 0; by_rows < 2; by_rows++) {
        Rows ref = { &a, NULL, 120 }, gen = { &b, NULL, 100 };
        double fid = frechet_distance_rows(&b, NULL, 0, &a, NULL, 0);
        Interval i = bootstrap_fid(ref, gen, fid, by_rows, 100, 3);
        Interval again = bootstrap_fid(ref, gen, fid, by_rows, 100, 3);
        assert_true(i.value == fid && i.low < fid && fid < i.high && i.low > 0);
        assert_memory_equal(&i, &again, sizeof i);
        i = bootstrap_fid(ref, ref, 0, by_rows, 50, 3);
        assert_true(i.low == 0 && i.high >= 0);
    }
    features_free(&a);
    features_free(&b);
}

static void rows_by_index(void **state) {
    (void)state;
    enum { N = 60, DIM = 3 };
    Features a = normals(N, DIM, 8, 0), b = normals(50, DIM, 9, 0.3f), odd;
    int64_t idx[N / 2];
    float x[N / 2 * DIM];
    for (int i = 0; i < N / 2; i++) {
        idx[i] = 2 * i + 1;
        memcpy(x + i * DIM, a.x + idx[i] * DIM, DIM * sizeof *x);
    }
    features_copy(N / 2, DIM, x, NULL, 0, NULL, "odd", &odd);
    Rows by = { &a, idx, N / 2 }, plain = { &odd, NULL, N / 2 }, gen = { &b, NULL, 50 };
    Interval p = bootstrap_kid(by, gen, 20, 1), q = bootstrap_kid(plain, gen, 20, 1);
    assert_memory_equal(&p, &q, sizeof p);
    p = bootstrap_fid(by, gen, 1, true, 20, 1), q = bootstrap_fid(plain, gen, 1, true, 20, 1);
    assert_memory_equal(&p, &q, sizeof p);
    features_free(&a);
    features_free(&b);
    features_free(&odd);
}

static void percentiles_as_numpy(void **state) {
    (void)state;
    const double x[5] = { 1, 2, 4, 8, 16 };
    assert_true(percentile(x, 5, 0) == 1 && percentile(x, 5, 1) == 16 && percentile(x, 5, 0.5) == 4);
    assert_true(fabs(percentile(x, 5, 0.1) - 1.4) < 1e-15);
    assert_true(percentile(x, 1, 0.3) == 1);
}

int main(void) {
    Error err = { 0 };
    if (!linalg_there(&err)) return print_message("skipped: %s\n", err.msg), 0;
    omp_set_num_threads(1);                                     // sets this small gain nothing from a second one
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weighted_sums_equal_plain_loops), cmocka_unit_test(weights_count_the_draws),
        cmocka_unit_test(the_value_is_the_estimator_over_all_pairs), cmocka_unit_test(intervals_cover_the_truth),
        cmocka_unit_test(fid_intervals_hold_the_value), cmocka_unit_test(rows_by_index),
        cmocka_unit_test(percentiles_as_numpy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
