// tests/test_questions.c - the long-tail questions on tables small enough to answer by hand.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <cjson/cJSON.h>
#include "eval/questions.h"

enum { CLASSES = 3 };
static const int64_t counts[CLASSES] = { 100, 30, 4 };
static const int group_of[CLASSES] = { GROUP_MANY, GROUP_MEDIUM, GROUP_FEW };
static const char *const names[CLASSES] = { "cat", "dog", "owl" };
static const ClassTable table = { CLASSES, counts, group_of, names };

// Rows of one number each.
static Features line(int n, const float *x, const int32_t *label) {
    Features f;
    features_copy(n, 1, x, label, 0, NULL, "line", &f);
    return f;
}

static void expect_numbers(const double *got, const double *want, int n) {
    for (int i = 0; i < n; i++)
        if (isnan(want[i]) ? !isnan(got[i]) : got[i] != want[i]) fail_msg("%d: %.17g, not %.17g", i, got[i], want[i]);
}

static void shares_of_classes_groups_and_all(void **unused) {
    (void)unused;
    const int two[CLASSES] = { GROUP_MANY, GROUP_MANY, GROUP_FEW };
    ClassTable t = table;
    t.group_of = two;
    Shares s;
    shares_of(&t, (int64_t[]){ 1, 3, 0 }, (int64_t[]){ 4, 4, 0 }, &s);
    expect_numbers(s.by_class, (double[]){ 0.25, 0.75, (double)NAN }, CLASSES);
    expect_numbers(s.by_group, (double[]){ 0.5, (double)NAN, (double)NAN }, GROUP_COUNT);
    assert_true(s.all == 0.5);
    shares_free(&s);
}

static void labels_and_what_the_tail_borrows(void **unused) {
    (void)unused;
    const int32_t label[] = { 0, 0, 0, 0, 1, 1, 2, 2, 2, 2, -1 }, given[] = { 0, 0, 0, 1, 1, 0, 0, 1, 2, 2, 2 };
    const int32_t real_label[] = { 0, 1, 2, 2 }, real_given[] = { 0, 1, 2, 0 };
    Fidelity f;
    fidelity_of(&table, label, given, 11, real_label, real_given, 4, &f);
    expect_numbers(f.generated.by_class, (double[]){ 0.75, 0.5, 0.5 }, CLASSES);
    expect_numbers(f.generated.by_group, (double[]){ 0.75, 0.5, 0.5 }, GROUP_COUNT);
    assert_true(f.generated.all == 0.6);
    expect_numbers(f.real.by_class, (double[]){ 1, 1, 0.5 }, CLASSES);
    const int64_t confusion[] = { 3, 1, 0, 1, 1, 0, 1, 1, 2 };
    assert_memory_equal(f.confusion, confusion, sizeof confusion);
    expect_numbers(f.borrowed, (double[]){ 0, 0.5, 0.5 }, CLASSES);         // cat has no class above it
    fidelity_free(&f);
}

static void the_first_of_equal_probabilities(void **unused) {
    (void)unused;
    const float probs[] = { 0.2f, 0.5f, 0.3f, 0.4f, 0.2f, 0.4f }, x[2] = { 0 };
    Features f;
    features_copy(2, 1, x, NULL, 3, probs, "two", &f);
    int32_t *given = largest_probs(&f);
    assert_int_equal(given[0], 1);
    assert_int_equal(given[1], 0);
    free(given);
    features_free(&f);
}

// 200 held-out images of class 0 at distances 1 .. 200 from the training image at 0: two lie below the threshold, 3.
// Class 1 has 50 at 201 .. 250, too few for a quantile of their own; of all 250 the third nearest is 3 as well.
static void thresholds_are_quantiles_of_held_out_images(void **unused) {
    (void)unused;
    float x[250];
    int32_t label[250];
    for (int i = 0; i < 250; i++) x[i] = (float)((i * 7) % 250 + 1);         // in no order
    for (int i = 0; i < 250; i++) label[i] = x[i] > 200;
    const float gen_x[] = { 0, 2.5f, 3, 60, 1, 100 }, train_x[] = { 0, -1000 };
    const int32_t gen_label[] = { 0, 0, 0, 0, 1, 2 }, train_label[] = { 2, 0 };
    Features held = line(250, x, label), gen = line(6, gen_x, gen_label), train = line(2, train_x, train_label);
    Nearest n;
    nearest_of(&table, &gen, &held, &train, &n);
    assert_true(n.quantile == 0.01);
    assert_true(n.threshold == 3);
    expect_numbers(n.thresholds, (double[]){ 3, 3, 3 }, CLASSES);
    expect_numbers(n.copies.by_class, (double[]){ 0.5, 1, 0 }, CLASSES);     // 0 and 2.5; 3 is not below 3
    assert_true(n.copies.all == 0.5);
    expect_numbers(n.real_copies.by_class, (double[]){ 0.01, 0, (double)NAN }, CLASSES);
    nearest_free(&n);
    features_free(&held);
    features_free(&gen);
    features_free(&train);
}

// A threshold of 0, as held-out duplicates make it, still leaves copies to be seen.
static void duplicates_are_copies(void **unused) {
    (void)unused;
    const float x[] = { 5, 5, 9 }, train_x[] = { 5, 7 };
    const int32_t label[] = { 0, 1, 2 }, train_label[] = { 0, 1 };
    Features f = line(3, x, label), train = line(2, train_x, train_label);
    Nearest n;
    nearest_of(&table, &f, &f, &train, &n);
    assert_true(n.threshold == 0);
    expect_numbers(n.copies.by_class, (double[]){ 1, 1, 0 }, CLASSES);
    nearest_free(&n);
    features_free(&f);
    features_free(&train);
}

// Training images at 0, 10, 10, 30: their nearest others lie at 10, 0, 0, 20.
static void authentic_samples_are_not_in_the_way_of_others(void **unused) {
    (void)unused;
    const float train_x[] = { 0, 10, 10, 30 }, gen_x[] = { 4, -11, 10, 11, 49, 51 };
    const int32_t train_label[] = { 0, 0, 0, 1 }, gen_label[] = { 0, 0, 1, 1, 2, 2 };
    Features train = line(4, train_x, train_label), gen = line(6, gen_x, gen_label);
    Nearest n;
    nearest_of(&table, &gen, &gen, &train, &n);
    // 4 is nearer to 0 than 10 is; -11 is farther; 10 is at 0 as its twin is; 11 is farther than that; 49, 51 about 30
    expect_numbers(n.authentic.by_class, (double[]){ 0.5, 0.5, 0.5 }, CLASSES);
    nearest_free(&n);
    features_free(&train);
    features_free(&gen);
}

static void the_nearest_pairs_of_each_class(void **unused) {
    (void)unused;
    enum { MANY = 12 };
    float x[MANY + 1];
    int32_t label[MANY + 1];
    for (int i = 0; i < MANY; i++) x[i] = (float)(2 * ((i * 5) % MANY) + 1), label[i] = 1;
    x[MANY] = 99, label[MANY] = 0;
    const float train_x[] = { 0, 100 };
    const int32_t train_label[] = { 2, 0 };
    Features gen = line(MANY + 1, x, label), train = line(2, train_x, train_label);
    Nearest n;
    nearest_of(&table, &gen, &gen, &train, &n);
    assert_int_equal(n.n_pairs, 1 + NEAR_PAIRS);
    assert_int_equal(n.pairs[0].label, 0);
    assert_int_equal(n.pairs[0].gen, MANY);
    assert_int_equal(n.pairs[0].train, 1);
    assert_int_equal(n.pairs[0].train_label, 0);
    for (int i = 0; i < NEAR_PAIRS; i++) {
        const NearPair *p = &n.pairs[1 + i];
        assert_int_equal(p->label, 1);
        assert_int_equal(p->train_label, 2);
        assert_true(p->distance == 2 * i + 1 && (double)x[p->gen] == p->distance);
    }
    nearest_free(&n);
    features_free(&gen);
    features_free(&train);
}

static void mean_distances_within_classes(void **unused) {
    (void)unused;
    const float x[] = { 0, 0, 3, 4, 6, 8, 1, 1, 1, 1, 5, 5 };               // (6,2)
    const int32_t label[] = { 0, 0, 0, 1, 1, 2 };
    Features f;
    features_copy(6, 2, x, label, 0, NULL, "plane", &f);
    double d[CLASSES];
    diversity_of(CLASSES, &f, d);
    expect_numbers(d, (double[]){ (5 + 10 + 5) / 3.0, 0, (double)NAN }, CLASSES);
    features_free(&f);
}

// Only the first DIVERSITY_MAX images count: those beyond, far away, leave no trace.
static void diversity_has_a_limit(void **unused) {
    (void)unused;
    enum { N = DIVERSITY_MAX + 10 };
    float *x = xcalloc(N, sizeof *x);
    int32_t *label = xcalloc(N, sizeof *label);
    for (int i = DIVERSITY_MAX; i < N; i++) x[i] = 1000;
    Features f = line(N, x, label);
    double d[CLASSES];
    diversity_of(CLASSES, &f, d);
    assert_true(d[0] == 0);
    features_free(&f);
    free(x);
    free(label);
}

// ---- JSON
static void answers_are_members(void **unused) {
    (void)unused;
    const int32_t label[] = { 0, 1, 2 }, given[] = { 0, 0, 2 };
    Fidelity f;
    fidelity_of(&table, label, given, 3, label, label, 3, &f);
    double diversity[] = { 1, (double)NAN, 3 };
    ClassifierRecipe recipe = { .depth = 8, .epochs = 3 };
    Recognition cas = { .n_train = 7 };
    shares_of(&table, (int64_t[]){ 1, 1, 0 }, (int64_t[]){ 2, 2, 2 }, &cas.top1);
    Answers a = { .fidelity = &f, .diversity = diversity, .real_diversity = diversity, .classifier = "a \"name\"",
                  .recipe = &recipe, .cas = &cas };
    JsonText j = { 0 };
    jtext_open(&j, NULL, '{');
    jtext_whole(&j, "fid", 1);
    answers_json(&a, &table, &j);
    jtext_close(&j, '}');
    char *text = jtext_finish(&j);
    cJSON *o = cJSON_Parse(text);
    if (!o) fail_msg("no JSON: %s", text);
    const cJSON *y = cJSON_GetObjectItem(o, "label_fidelity"), *d = cJSON_GetObjectItem(o, "diversity");
    assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(y, "classifier")), "a \"name\"");
    assert_true(cJSON_GetArrayItem(cJSON_GetObjectItem(y, "per_class"), 1)->valuedouble == 0);
    assert_true(cJSON_GetObjectItem(cJSON_GetObjectItem(y, "per_group"), "few")->valuedouble == 1);
    assert_true(cJSON_IsNull(cJSON_GetArrayItem(cJSON_GetObjectItem(d, "generated"), 1)));
    assert_int_equal(cJSON_GetArrayItem(cJSON_GetArrayItem(cJSON_GetObjectItem(o, "confusion"), 1), 0)->valueint, 1);
    assert_true(cJSON_GetObjectItem(cJSON_GetObjectItem(o, "cas"), "all")->valuedouble == 2 / 6.0);
    assert_null(cJSON_GetObjectItem(o, "nearest"));
    assert_null(cJSON_GetObjectItem(o, "downstream"));
    cJSON_Delete(o);
    free(text);
    shares_free(&cas.top1);
    fidelity_free(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_of_classes_groups_and_all),
        cmocka_unit_test(labels_and_what_the_tail_borrows),
        cmocka_unit_test(the_first_of_equal_probabilities),
        cmocka_unit_test(thresholds_are_quantiles_of_held_out_images),
        cmocka_unit_test(duplicates_are_copies),
        cmocka_unit_test(authentic_samples_are_not_in_the_way_of_others),
        cmocka_unit_test(the_nearest_pairs_of_each_class),
        cmocka_unit_test(mean_distances_within_classes),
        cmocka_unit_test(diversity_has_a_limit),
        cmocka_unit_test(answers_are_members),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
