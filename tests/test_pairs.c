// tests/test_pairs.c - KID, precision, recall, density, coverage and nearest rows against plain double loops, on data
// whose distances are hard to tell apart, for products in float and in double and any number of threads.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <float.h>
#include <omp.h>
#include <string.h>
#include "eval/linalg.h"
#include "eval/pairs_impl.h"
#include "tests/feature_sets.h"

static int setup(void **state) {
    (void)state;
    Error err;
    if (linalg_there(&err)) return 0;
    print_message("%s\n", err.msg);
    return -1;
}

// ---- plain double
static double plain_distance2(Rows a, int64_t i, Rows b, int64_t j) {
    const float *x = row_at(a, i), *y = row_at(b, j);
    double sum = 0;
    for (int k = 0; k < a.f->dim; k++) sum += ((double)x[k] - (double)y[k]) * ((double)x[k] - (double)y[k]);
    return sum;
}

static double plain_product(Rows a, int64_t i, Rows b, int64_t j) {
    const float *x = row_at(a, i), *y = row_at(b, j);
    double sum = 0;
    for (int k = 0; k < a.f->dim; k++) sum += (double)x[k] * (double)y[k];
    return sum;
}

static double kernel(double product, int dim) {
    double t = product / dim + 1;
    return t * t * t;
}

static double plain_kid(Rows a, Rows b) {
    int dim = a.f->dim;
    double aa = 0, bb = 0, ab = 0, n = (double)a.n, m = (double)b.n;
    for (int64_t i = 0; i < a.n; i++)
        for (int64_t j = 0; j < a.n; j++) aa += i == j ? 0 : kernel(plain_product(a, i, a, j), dim);
    for (int64_t i = 0; i < b.n; i++)
        for (int64_t j = 0; j < b.n; j++) bb += i == j ? 0 : kernel(plain_product(b, i, b, j), dim);
    for (int64_t i = 0; i < a.n; i++)
        for (int64_t j = 0; j < b.n; j++) ab += kernel(plain_product(a, i, b, j), dim);
    return aa / (n * (n - 1)) + bb / (m * (m - 1)) - 2 * ab / (n * m);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Squared distance of each row to its k-th nearest other.
static double *plain_radii(Rows a, int k) {
    double *r2 = malloc((size_t)a.n * sizeof *r2), *others = malloc((size_t)a.n * sizeof *others);
    for (int64_t i = 0; i < a.n; i++) {
        int64_t found = 0;
        for (int64_t j = 0; j < a.n; j++)
            if (j != i) others[found++] = plain_distance2(a, i, a, j);
        qsort(others, (size_t)found, sizeof *others, by_value);
        r2[i] = others[k - 1];
    }
    free(others);
    return r2;
}

static Prdc plain_prdc(Rows ref, Rows gen, int k, bool strict) {
    double *of_ref = plain_radii(ref, k), *of_gen = plain_radii(gen, k);
    int64_t precise = 0, recalled = 0, inside = 0, covered = 0;
    for (int64_t j = 0; j < gen.n; j++) {
        int64_t balls = 0;
        for (int64_t i = 0; i < ref.n; i++) {
            double d2 = plain_distance2(ref, i, gen, j);
            balls += strict ? d2 < of_ref[i] : d2 <= of_ref[i];
        }
        precise += balls > 0;
        inside += balls;
    }
    for (int64_t i = 0; i < ref.n; i++) {
        bool in_one = false, holds_one = false;
        for (int64_t j = 0; j < gen.n; j++) {
            double d2 = plain_distance2(ref, i, gen, j);
            in_one |= strict ? d2 < of_gen[j] : d2 <= of_gen[j];
            holds_one |= strict ? d2 < of_ref[i] : d2 <= of_ref[i];
        }
        recalled += in_one;
        covered += holds_one;
    }
    free(of_ref);
    free(of_gen);
    double n = (double)ref.n, m = (double)gen.n;
    return (Prdc){ (double)precise / m, (double)recalled / n, (double)inside / (k * m), (double)covered / n };
}

static void assert_prdc(Prdc a, Prdc b, const char *what) {
    if (a.precision != b.precision || a.recall != b.recall || a.density != b.density || a.coverage != b.coverage)
        fail_msg("%s: %.9g %.9g %.9g %.9g, but %.9g %.9g %.9g %.9g in plain double", what, a.precision, a.recall,
                 a.density, a.coverage, b.precision, b.recall, b.density, b.coverage);
}

// ---- golden numbers
static void golden_vectors(void **state) {
    (void)state;
    Features ref, gen;
    golden_rows(&ref, &gen);
    assert_true(fabsf(ref.x[0] - 0.47143516f) < 1e-7f && fabsf(gen.x[2] - 1.1842724f) < 1e-6f);
    static const int k[2] = { 3, 5 };
    static const Prdc want[2] = { { 0.796875, 1.0, 0.6875, 0.734375 }, { 0.921875, 1.0, 0.81875, 0.953125 } };
    Prdc out[2];
    double kid;
    pairs_all(all_rows(&ref), all_rows(&gen), k, 2, true, &kid, out);
    assert_true(fabs(kid - 0.16981518875888924) < 1e-10);
    assert_true(fabs(kid_full(all_rows(&ref), all_rows(&gen)) - 0.16981518875888924) < 1e-10);
    for (int q = 0; q < 2; q++) assert_prdc(out[q], want[q], "golden");
    prdc(all_rows(&ref), all_rows(&gen), k + 1, 1, true, out);
    assert_prdc(out[0], want[1], "golden, k = 5 alone");
    free((void *)ref.x);
    free((void *)gen.x);
}

// Mean and standard deviation by numpy 1.24.2: RandomState(2020).choice(n, size, replace=False), first of R, then of F.
static void subsets_are_drawn_as_numpy_draws_them(void **state) {
    (void)state;
    Features ref, gen;
    golden_rows(&ref, &gen);
    double stddev, mean = kid_subsets(all_rows(&ref), all_rows(&gen), 5, 16, 2020, &stddev);
    assert_true(fabs(mean - 0.25984676508922744) < 1e-10 && fabs(stddev - 0.30203509359974506) < 1e-10);
    int64_t last[50];                            // the first 50 rows, through an index of the reversed table
    Features reversed = blank_rows(64, 8);
    for (int i = 0; i < 64; i++) memcpy(at_row(reversed, 63 - i), at_row(ref, i), 8 * sizeof(float));
    for (int i = 0; i < 50; i++) last[i] = 63 - i;
    mean = kid_subsets((Rows){ &reversed, last, 50 }, all_rows(&gen), 7, 20, 2020, &stddev);
    assert_true(fabs(mean - 0.10374509733640178) < 1e-10 && fabs(stddev - 0.2489812881560871) < 1e-10);
    Mt19937 m;
    static const int64_t first[6] = { 24397, 39273, 6546, 13504, 49765, 31361 };
    int64_t *order = malloc(50000 * sizeof *order);
    for (int i = 0; i < 50000; i++) order[i] = i;
    mt19937_seed(&m, 2020);
    mt19937_shuffle(&m, order, 50000);
    assert_memory_equal(order, first, sizeof first);
    free(order);
    free((void *)reversed.x);
    free((void *)ref.x);
    free((void *)gen.x);
}

// ---- hard data
static void counts_equal_plain_double(void **state) {
    (void)state;
    static const struct { int n, m, dim; } sizes[] = {                // blocks of 32, 48, 64 rows: whole, +1, -1
        { 6, 7, 1 }, { 64, 32, 3 }, { 97, 33, 20 }, { 129, 170, 64 }, { 300, 267, 17 } };
    static const int k[3] = { 5, 1, 3 };
    for (int shape = 0; shape < SHAPES; shape++) {
        for (size_t z = 0; z < sizeof sizes / sizeof sizes[0]; z++) {
            Features ref = hard_rows(shape, 1, sizes[z].n, sizes[z].dim);
            Features gen = hard_rows(shape, 2, sizes[z].m, sizes[z].dim);
            for (int strict = 0; strict < 2; strict++) {
                Prdc in_float[3], in_double[3];
                pairs_compute(PAIRS_FLOAT, all_rows(&ref), all_rows(&gen), k, 3, strict, NULL, in_float);
                pairs_compute(PAIRS_DOUBLE, all_rows(&ref), all_rows(&gen), k, 3, strict, NULL, in_double);
                for (int q = 0; q < 3; q++) {
                    Prdc plain = plain_prdc(all_rows(&ref), all_rows(&gen), k[q], strict);
                    char what[120];
                    snprintf(what, sizeof what, "%s, %d and %d rows of %d, k = %d, %s", shape_names[shape], sizes[z].n,
                             sizes[z].m, sizes[z].dim, k[q], strict ? "<" : "<=");
                    assert_prdc(in_float[q], plain, what);
                    assert_prdc(in_double[q], plain, what);
                }
            }
            free((void *)ref.x);
            free((void *)gen.x);
        }
    }
}

// The promise of pairs_impl.h, for every pair: the bound holds, and is not so wide that it would hold for anything (a
// hundred times too wide, and half of all pairs of smooth data would have to be measured).
static void products_keep_their_bound(void **state) {
    (void)state;
    for (int shape = 0; shape < SHAPES; shape++) {
        for (int kind = PAIRS_FLOAT; kind <= PAIRS_DOUBLE; kind++) {
            Features ref = hard_rows(shape, 3, 130, 300), gen = hard_rows(shape, 4, 70, 300);
            Rows a = all_rows(&ref), b = all_rows(&gen);
            PairSpace s;
            PairSide of_a, of_b;
            PairWork w;
            pair_space_make(kind, &a, &b, &s, &of_a, &of_b);
            assert_true(s.slack < (s.in_double ? 1e-12 : 5e-5));
            bool extreme = shape == HUGE_VALUES || shape == SMALL_VALUES;
            assert_int_equal(s.in_double, kind == PAIRS_DOUBLE || extreme);
            pair_work_make(&s, &w);
            for (int64_t I = 0; I < pair_blocks(&s, a.n); I++) {
                for (int64_t J = 0; J < pair_blocks(&s, b.n); J++) {
                    pair_tile(&s, &of_a, I, &of_b, J, &w);
                    for (int64_t i = I * s.block; i < a.n && i < (I + 1) * s.block; i++) {
                        for (int64_t j = J * s.block; j < b.n && j < (J + 1) * s.block; j++) {
                            double g = w.tile[(i - I * s.block) * s.block + j - J * s.block];
                            double d2 = plain_distance2(a, i, b, j), off = of_a.norm2[i] + of_b.norm2[j] - 2 * g - d2;
                            assert_true(fabs(off) <= s.slack * (of_a.norm2[i] + of_b.norm2[j]) + s.tiny);
                            assert_true(of_a.low[i] + of_b.low[j] - 2 * g <= d2);
                        }
                    }
                }
            }
            pair_work_free(&w);
            pair_space_free(&s, &of_a, &of_b);
            free((void *)ref.x);
            free((void *)gen.x);
        }
    }
}

static void distance_is_the_sum_of_squares(void **state) {
    (void)state;
    for (int dim = 1; dim <= 70; dim++) {
        Features f = blank_rows(2, dim);
        for (int k = 0; k < dim; k++) at_row(f, 1)[k] = (float)(k + 1);
        assert_true(row_distance2(at_row(f, 0), at_row(f, 1), dim) == dim * (dim + 1) * (2 * dim + 1) / 6.0);
        free((void *)f.x);
    }
}

// ---- KID
// A product off by e moves the kernel by at most 3 (t + e/dim)^2 e/dim; e <= slack (N_i + N_j) / 2, of pairs_impl.h.
static void kid_equals_plain_double(void **state) {
    (void)state;
    static const struct { int n, m, dim; } sizes[] = { { 2, 2, 1 }, { 33, 90, 5 }, { 200, 161, 260 } };
    for (size_t z = 0; z < sizeof sizes / sizeof sizes[0]; z++) {
        Features ref = hard_rows(SMOOTH, 5, sizes[z].n, sizes[z].dim);
        Features gen = hard_rows(SMOOTH, 6, sizes[z].m, sizes[z].dim);
        Rows a = all_rows(&ref), b = all_rows(&gen);
        double plain = plain_kid(a, b);
        for (int kind = PAIRS_FLOAT; kind <= PAIRS_DOUBLE; kind++) {
            double most_n = 0, most_x = 0, kid;
            PairSpace s;
            PairSide of[2];
            pair_space_make(kind, &a, &b, &s, &of[0], &of[1]);
            for (int side = 0; side < 2; side++) {
                for (int64_t i = 0; i < of[side].rows.n; i++) {
                    most_n = fmax(most_n, of[side].norm2[i]);
                    most_x = fmax(most_x, plain_product(of[side].rows, i, of[side].rows, i));
                }
            }
            double off = s.slack * most_n / s.dim, t = most_x / s.dim + 1 + off;
            double limit = 4 * 3 * t * t * off + 1e-13 * t * t * t;            // 4: aa + bb + 2 ab
            pair_space_free(&s, &of[0], &of[1]);
            pairs_compute(kind, a, b, NULL, 0, true, &kid, NULL);
            if (!(fabs(kid - plain) <= limit)) fail_msg("kid %.17g, plain %.17g, limit %.3g", kid, plain, limit);
            assert_true(kind == PAIRS_FLOAT || limit < 1e-9);
        }
        free((void *)ref.x);
        free((void *)gen.x);
    }
}

static void too_few_rows_give_no_number(void **state) {
    (void)state;
    Features f = hard_rows(SMOOTH, 7, 9, 4);
    Rows all = all_rows(&f), none = { &f, NULL, 0 }, one = { &f, NULL, 1 }, three = { &f, NULL, 3 };
    Rows four = { &f, NULL, 4 };
    static const int k = 3;
    Prdc out;
    assert_true(isnan(kid_full(all, one)) && isnan(kid_full(one, all)) && isnan(kid_full(none, all)));
    prdc(three, all, &k, 1, true, &out);
    assert_true(isnan(out.precision) && isnan(out.density) && isnan(out.coverage) && !isnan(out.recall));
    prdc(all, three, &k, 1, true, &out);
    assert_true(!isnan(out.precision) && !isnan(out.density) && !isnan(out.coverage) && isnan(out.recall));
    prdc(four, all, &k, 1, true, &out);
    assert_prdc(out, plain_prdc(four, all, 3, true), "four rows, k = 3");
    prdc(all, none, &k, 1, true, &out);
    assert_true(isnan(out.precision) && isnan(out.coverage) && isnan(out.recall));
    free((void *)f.x);
}

// Copies of the reference: with < a copy of a row that has three copies lies in a ball of radius 0, that is in none.
static void duplicates_separate_strict_from_not(void **state) {
    (void)state;
    Features f = blank_rows(8, 2);
    for (int i = 0; i < 8; i++) at_row(f, i)[0] = (float)(i / 4 * 10);
    static const int k = 3;
    Prdc out;
    prdc(all_rows(&f), all_rows(&f), &k, 1, true, &out);
    assert_prdc(out, (Prdc){ 0, 0, 0, 0 }, "<");
    prdc(all_rows(&f), all_rows(&f), &k, 1, false, &out);
    assert_prdc(out, (Prdc){ 1, 1, 4.0 / 3, 1 }, "<=");
    free((void *)f.x);
}

// All rows are their own centre: norms, bounds, radii and distances are 0 without any slack.
static void rows_that_are_all_the_same(void **state) {
    (void)state;
    Features f = blank_rows(40, 3);
    static const int k = 5;
    for (int kind = PAIRS_FLOAT; kind <= PAIRS_DOUBLE; kind++) {
        Prdc out;
        double kid;
        pairs_compute(kind, all_rows(&f), all_rows(&f), &k, 1, false, &kid, &out);
        assert_prdc(out, (Prdc){ 1, 1, 8, 1 }, "<=");
        assert_true(kid == 0);
        pairs_compute(kind, all_rows(&f), all_rows(&f), &k, 1, true, &kid, &out);
        assert_prdc(out, (Prdc){ 0, 0, 0, 0 }, "<");
    }
    free((void *)f.x);
}

// ---- nearest rows
static void nearest_equal_plain_double(void **state) {
    (void)state;
    for (int shape = 0; shape < SHAPES; shape++) {
        Features base = hard_rows(shape, 8, 205, 6), query = hard_rows(shape, 9, 99, 6);
        enum { COUNT = 4 };
        int64_t where[99 * COUNT], odd[100];
        double distance[99 * COUNT];
        for (int i = 0; i < 100; i++) odd[i] = 2 * i + 1;
        Rows b = { &base, odd, 100 }, q = all_rows(&query);
        nearest_rows(q, b, COUNT, where, distance);
        for (int64_t i = 0; i < q.n; i++) {
            bool taken[100] = { false };
            for (int c = 0; c < COUNT; c++) {
                int64_t best = -1;
                for (int64_t j = 0; j < b.n; j++) {
                    if (taken[j]) continue;
                    if (best < 0 || plain_distance2(q, i, b, j) < plain_distance2(q, i, b, best)) best = j;
                }
                taken[best] = true;
                assert_int_equal(where[i * COUNT + c], best);
                double d = sqrt(plain_distance2(q, i, b, best));
                assert_true(fabs(distance[i * COUNT + c] - d) <= 1e-14 * d);
            }
        }
        free((void *)base.x);
        free((void *)query.x);
    }
}

static void nearest_of_a_row_is_itself(void **state) {
    (void)state;
    Features f = hard_rows(FAR_OFF, 10, 50, 40);
    int64_t where[50 * 60];
    double distance[50 * 60];
    nearest_rows(all_rows(&f), all_rows(&f), 60, where, distance);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(where[i * 60], i);
        assert_true(distance[i * 60] == 0 && distance[i * 60 + 49] > 0);
        assert_int_equal(where[i * 60 + 50], -1);
        assert_true(isinf(distance[i * 60 + 59]));
    }
    free((void *)f.x);
}

// ---- threads
static void threads_change_nothing(void **state) {
    (void)state;
    Features ref = hard_rows(SMOOTH, 11, 500, 33), gen = hard_rows(SMOOTH, 12, 401, 33);
    static const int k[2] = { 3, 5 };
    int64_t where[1203];
    double distance[1203], kid;
    Prdc out[2];
    int before = omp_get_max_threads();
    omp_set_num_threads(1);
    pairs_compute(PAIRS_FLOAT, all_rows(&ref), all_rows(&gen), k, 2, true, &kid, out);
    nearest_rows(all_rows(&gen), all_rows(&ref), 3, where, distance);
    for (int threads = 2; threads <= 7; threads++) {
        omp_set_num_threads(threads);
        int64_t where_too[1203];
        double distance_too[1203], kid_too;
        Prdc out_too[2];
        pairs_compute(PAIRS_FLOAT, all_rows(&ref), all_rows(&gen), k, 2, true, &kid_too, out_too);
        nearest_rows(all_rows(&gen), all_rows(&ref), 3, where_too, distance_too);
        assert_memory_equal(&kid, &kid_too, sizeof kid);
        assert_memory_equal(out, out_too, sizeof out);
        assert_memory_equal(where, where_too, sizeof where);
        assert_memory_equal(distance, distance_too, sizeof distance);
    }
    omp_set_num_threads(before);
    free((void *)ref.x);
    free((void *)gen.x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_vectors), cmocka_unit_test(subsets_are_drawn_as_numpy_draws_them),
        cmocka_unit_test(counts_equal_plain_double), cmocka_unit_test(products_keep_their_bound),
        cmocka_unit_test(distance_is_the_sum_of_squares), cmocka_unit_test(kid_equals_plain_double),
        cmocka_unit_test(too_few_rows_give_no_number), cmocka_unit_test(duplicates_separate_strict_from_not),
        cmocka_unit_test(rows_that_are_all_the_same),
        cmocka_unit_test(nearest_equal_plain_double), cmocka_unit_test(nearest_of_a_row_is_itself),
        cmocka_unit_test(threads_change_nothing),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
