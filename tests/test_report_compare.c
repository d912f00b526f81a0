// tests/test_report_compare.c - the paired bootstrap of two models: pairs that must be pairs, differences that are
// there.
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "eval/frechet.h"
#include "eval/linalg.h"
#include "eval/report_compare.h"
#include "kernels/common/rng.h"

enum { DIM = 4, CLASSES = 3, ROWS = 240, RESAMPLES = 100 };

// Normal rows, the same noise for the same key; class 2 moved by `shift`, spread by `spread`. right: of 4, how many are
// given their own label.
static void make_features(uint32_t key, float shift, float spread, int right, const char *name, Features *out) {
    static float x[ROWS * DIM], probs[ROWS * CLASSES];
    static int32_t label[ROWS];
    for (int i = 0; i < ROWS; i++) {
        label[i] = i % CLASSES;
        rng_normal4(philox((uint32_t[]){ key, 0 }, (uint32_t)i, 0, 0, 77).v, x + i * DIM);
        for (int k = 0; k < DIM; k++) x[i * DIM + k] = x[i * DIM + k] * spread + (label[i] == 2 ? shift : 0);
        int given = i / CLASSES % 4 < right ? label[i] : (label[i] + 1) % CLASSES;
        for (int c = 0; c < CLASSES; c++) probs[i * CLASSES + c] = c == given ? 0.5f : 0.25f;
    }
    features_copy(ROWS, DIM, x, label, CLASSES, probs, name, out);
}

static Features a, b, reference;

static int make_all(void **state) {
    (void)state;
    Error err;
    if (!linalg_there(&err)) return 0;
    make_features(1, 2, 1, 2, "A", &a);
    make_features(1, 1, 1, 3, "B", &b);
    make_features(2, 0, 1, 4, "R", &reference);
    return 0;
}

static int free_all(void **state) {
    (void)state;
    features_free(&a);
    features_free(&b);
    features_free(&reference);
    return 0;
}

static void need_linalg(void) {
    Error err;
    if (!linalg_there(&err)) skip();
}

static Comparison compare(const Features *x, const Features *y) {
    Comparison c;
    Error err;
    if (!compare_features(x, y, &reference, NULL, RESAMPLES, 5, &c, &err)) fail_msg("%s", err.msg);
    assert_int_equal(c.n, CLASSES + 1);
    return c;
}

static void a_model_does_not_differ_from_itself(void **state) {
    (void)state;
    need_linalg();
    Comparison c = compare(&a, &a);
    for (int i = 0; i < c.n; i++)
        for (int m = 0; m < PAIRED_COUNT; m++) {
            const PairedValue *v = &c.row[i].value[m];
            assert_true(v->difference == 0 && v->low == 0 && v->high == 0 && v->a == v->b);
        }
    comparison_free(&c);
}

static void a_nearer_class_is_found(void **state) {
    (void)state;
    need_linalg();
    Comparison c = compare(&a, &b);
    for (int i = 0; i < 2; i++)                        // classes 0 and 1 are the same rows in both
        assert_true(c.row[i].value[PAIRED_FID].difference == 0 && c.row[i].value[PAIRED_FID].high == 0);
    const PairedRow *moved = &c.row[2];
    assert_true(moved->where.kind == OF_CLASS && moved->where.index == 2 && moved->n_gen == ROWS / CLASSES);
    for (int m = 0; m <= PAIRED_KID; m++)
        assert_true(moved->value[m].low <= moved->value[m].difference &&
                    moved->value[m].difference <= moved->value[m].high && moved->value[m].high < 0);
    // The mean moves from 2 to 1 in 4 dimensions: |mu|^2 from 16 to 4; the covariances are the same.
    int64_t rows[ROWS], n = 0;
    for (int64_t i = 0; i < ROWS; i++)
        if (a.label[i] == 2) rows[n++] = i;
    Gaussian ga, gb, gr;
    gaussian_fit(&a, rows, n, &ga);
    gaussian_fit(&b, rows, n, &gb);
    gaussian_fit(&reference, rows, n, &gr);
    double difference = frechet_distance(&gb, &gr) - frechet_distance(&ga, &gr), expected = 0;
    for (int k = 0; k < DIM; k++)
        expected += (gb.mu[k] - gr.mu[k]) * (gb.mu[k] - gr.mu[k]) - (ga.mu[k] - gr.mu[k]) * (ga.mu[k] - gr.mu[k]);
    assert_true(fabs(moved->value[PAIRED_FID].difference - difference) < 1e-9 * fabs(difference));
    assert_true(fabs(difference - expected) < 1e-4 * fabs(expected));          // floats: 2 + x and 1 + x round apart
    gaussian_free(&ga);
    gaussian_free(&gb);
    gaussian_free(&gr);
    comparison_free(&c);
}

static void fidelity_counts_twins(void **state) {
    (void)state;
    need_linalg();
    Comparison c = compare(&a, &b);
    const PairedValue *v = &c.row[CLASSES].value[PAIRED_FIDELITY];
    assert_true(v->a == 0.5 && v->b == 0.75 && v->difference == 0.25 && v->low > 0 && v->high < 0.5);
    comparison_free(&c);
    Features bare = b;
    bare.probs = NULL;
    bare.classes = 0;
    c = compare(&a, &bare);
    assert_false(comparison_has(&c, PAIRED_FIDELITY));
    assert_true(comparison_has(&c, PAIRED_FID));
    comparison_free(&c);
}

static void threads_do_not_matter(void **state) {
    (void)state;
    need_linalg();
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    Comparison one = compare(&a, &b);
    omp_set_num_threads(3);
    Comparison three = compare(&a, &b);
    omp_set_num_threads(threads);
    for (int i = 0; i < one.n; i++)
        assert_memory_equal(one.row[i].value, three.row[i].value, sizeof one.row[i].value);
    comparison_free(&one);
    comparison_free(&three);
}

static void what_is_no_pair_is_refused(void **state) {
    (void)state;
    need_linalg();
    static int32_t other[ROWS];
    memcpy(other, b.label, sizeof other);
    other[7] = (other[7] + 1) % CLASSES;
    Features labels = b, fewer = b, wide = b, bare = b;
    labels.label = other;
    fewer.n--;
    wide.dim = 2;
    bare.label = NULL;
    const struct { const Features *f; const char *why; } bad[] = {
        { &labels, "row 7 was drawn as class" }, { &fewer, "240 rows" }, { &wide, "dimensions" }, { &bare, "labels" } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Comparison c;
        Error err = { 0 };
        assert_false(compare_features(&a, bad[i].f, &reference, NULL, RESAMPLES, 0, &c, &err));
        if (!strstr(err.msg, bad[i].why)) fail_msg("%s", err.msg);
        comparison_free(&c);
    }
}

static void texts_hold_the_numbers(void **state) {
    (void)state;
    need_linalg();
    Comparison c = compare(&a, &b);
    Text t = { 0 };
    comparison_csv(&t, &c);
    assert_non_null(strstr(t.s, "\n\"all\",240,240,fidelity,0.5,0.75,0.25,"));
    text_free(&t);
    comparison_markdown(&t, &c);
    assert_non_null(strstr(t.s, "| 0.500 | 0.750 | **0.250 ["));
    assert_non_null(strstr(t.s, "100 resamples"));
    text_free(&t);
    comparison_latex(&t, &c);
    assert_non_null(strstr(t.s, "\\textbf{0.250 ["));
    text_free(&t);
    comparison_free(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_does_not_differ_from_itself), cmocka_unit_test(a_nearer_class_is_found),
        cmocka_unit_test(fidelity_counts_twins), cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(what_is_no_pair_is_refused), cmocka_unit_test(texts_hold_the_numbers),
    };
    return cmocka_run_group_tests(tests, make_all, free_all);
}
