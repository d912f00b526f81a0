// tests/test_label_drop.c - labels dropped image by image (--label-drop-by sample): which, and what the step makes of
// an image without one.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include "tests/program.h"
#include "train/batch.h"

enum { BATCH = 4, STEPS = 400 };
#define RUN "train " TINY "--steps 4 --save-every 2 --log-every 1 --dropout 0.1 --flip "

static int setup(void **state) {
    if (tempdir_make(state) != 0) return -1;
    program_write_data();
    setenv("CBDM_EMU", "check=0", 1);
    return 0;
}

// ---- which
typedef struct { RunConfig config; Dataset *data; Batcher *batcher; } Feed;

static Feed feed_open(const char *by, const char *probability) {
    char word[4][32] = { "--label-drop-by", "", "--label-drop", "" }, *words[] = { word[0], word[1], word[2], word[3] };
    snprintf(word[1], sizeof word[1], "%s", by);
    snprintf(word[3], sizeof word[3], "%s", probability);
    Feed f;
    Error err;
    if (!run_config_parse(&f.config, 4, words, &err)) fail_msg("%s", err.msg);
    f.config.data = temp_path("data");
    f.config.imb_type = IMB_NONE;
    f.config.batch = BATCH;
    f.data = run_config_data(&f.config, SPLIT_TRAIN, &err);
    assert_true(f.data && run_config_resolve(&f.config, dataset_info(f.data), &err));
    f.batcher = batcher_new(&f.config, dataset_info(f.data));
    return f;
}

static void feed_close(Feed *f) {
    batcher_free(f->batcher);
    dataset_close(f->data);
}

typedef struct { int32_t index[BATCH], t[BATCH], y[BATCH], other[BATCH], sample[BATCH]; } Rows;
static Rows rows_of(const Feed *f, int64_t step) {
    Rows r;
    batcher_fill(f->batcher, step, 0, BATCH, &(BatchRows){ .index = r.index, .t = r.t, .y = r.y, .y_balanced = r.other,
                                                           .sample = r.sample });
    return r;
}

// 1600 draws of probability 0.3: 480, with a standard deviation of 18; no batch is left or taken as a whole more often
// than chance would have it: 0.7^4 and 0.3^4 of 400, 96 and 3, with 9 and 2. Six deviations each.
static void each_image_by_a_draw_of_its_own(void **state) {
    (void)state;
    Feed one = feed_open("sample", "0.3"), all = feed_open("batch", "0.3");
    int dropped = 0, none = 0, whole = 0, by_place[BATCH] = { 0 };
    for (int s = 0; s < STEPS; s++) {
        Rows a = rows_of(&one, s), b = rows_of(&all, s);
        int here = 0;
        for (int i = 0; i < BATCH; i++) {
            assert_true(a.y[i] == b.y[i] || a.y[i] == -1);
            assert_true(b.y[i] >= 0);
            here += a.y[i] == -1;
            by_place[i] += a.y[i] == -1;
        }
        memcpy(b.y, a.y, sizeof a.y);
        assert_memory_equal(&a, &b, sizeof a);           // all else is drawn as ever
        assert_false(batcher_drops_labels(one.batcher, s));
        dropped += here;
        none += here == 0;
        whole += here == BATCH;
    }
    assert_true(abs(dropped - 480) < 110);
    assert_true(abs(none - 96) < 52 && whole < 14);
    for (int i = 0; i < BATCH; i++) assert_true(abs(by_place[i] - 120) < 55);
    feed_close(&one);
    feed_close(&all);
}

// Not of the step's passes, nor of what was asked before.
static void draws_are_functions_of_step_and_image(void **state) {
    (void)state;
    Feed f = feed_open("sample", "0.5"), again = feed_open("sample", "0.5");
    int differ = 0;
    for (int s = STEPS - 1; s >= 0; s--) {
        Rows whole = rows_of(&f, s), next = rows_of(&f, s + 1);
        int32_t t[2], y[2], sample[2];
        for (int begin = 0; begin < BATCH; begin += 2) {
            batcher_fill(again.batcher, s, begin, begin + 2, &(BatchRows){ .t = t, .y = y, .sample = sample });
            assert_memory_equal(y, whole.y + begin, sizeof y);
        }
        for (int i = 0; i < BATCH; i++) differ += (whole.y[i] < 0) != (next.y[i] < 0);
    }
    assert_true(abs(differ - STEPS * BATCH / 2) < 120);
    feed_close(&f);
    feed_close(&again);
}

// ---- what the step makes of them
static void expect_same_training(const char *a, const char *b) {
    expect_same_stats(a, b);
    expect_same_weights(a, b, 2);
    expect_same_weights(a, b, 4);
}

// None: the weight 1 changes no bit of the balancing term.
static void expect_none_is_none(const char *device) {
    static const char *const by[] = { "batch", "sample" };
    for (int i = 0; i < 2; i++)
        program_expect(0, RUN "--label-drop 0 --label-drop-by %s --device %s --out none-%s-%s", by[i], device, by[i],
                       device);
    char *a = xasprintf("none-batch-%s", device), *b = xasprintf("none-sample-%s", device);
    expect_same_training(a, b);
    free(a);
    free(b);
}

static void none_is_none(void **state) {
    (void)state;
    expect_none_is_none("ref");
    expect_none_is_none("cpu");
#ifdef CBDM_EMU
    expect_none_is_none("emu");
#endif
}

static double stat_of(const char *run, const char *key, int64_t step) {
    char *text = run_stats(run), *line = xasprintf("{\"step\": %lld, ", (long long)step);
    char *at = strstr(text, line);
    assert_non_null(at);
    at = strstr(at, key);
    assert_non_null(at);
    double v = strtod(at + strlen(key), NULL);
    free(text);
    free(line);
    return v;
}

// The first step's loss and its gradient are one function, put together from other sums: equal but for some roundings.
static void expect_same_first_step(const char *a, const char *b) {
    static const char *const keys[] = { "\"loss\": ", "\"grad_norm\": " };
    for (int i = 0; i < 2; i++) {
        double one = stat_of(a, keys[i], 1), other = stat_of(b, keys[i], 1);
        if (!(fabs(one - other) < 1e-5 * one)) fail_msg("%s and %s: %s%.9g and %.9g", a, b, keys[i], one, other);
    }
}

// All: there is no balancing term, and the denoising term and its gradient are those of a batch without labels. The
// second prediction adds images with a gradient of zero to every sum.
static void all_are_all(void **state) {
    (void)state;
    static const char *const devices[] = { "ref", "cpu", "emu" };
    for (int k = 0; k < 3; k++) {
#ifndef CBDM_EMU
        if (k == 2) break;
#endif
        char *a = xasprintf("all-batch-%s", devices[k]), *b = xasprintf("all-sample-%s", devices[k]);
        program_expect(0, RUN "--label-drop 1 --label-drop-by batch --device %s --dtype f32 --out %s", devices[k], a);
        program_expect(0, RUN "--label-drop 1 --label-drop-by sample --device %s --dtype f32 --out %s", devices[k], b);
        assert_true(stat_of(b, "\"balancing\": ", 1) == 0 && stat_of(b, "\"balancing\": ", 4) == 0);
        expect_same_first_step(a, b);
        free(a);
        free(b);
    }
}

static void also_without_a_balancing_term(void **state) {
    (void)state;
    static const char *const by[] = { "batch", "sample" };
    for (int i = 0; i < 2; i++) {
        program_expect(0, RUN "--objective ddpm --label-drop 1 --label-drop-by %s --device ref --out plain-%s", by[i],
                       by[i]);
        program_expect(0, RUN "--objective ddpm --classes 0 --label-drop-by %s --device ref --out blind-%s", by[i],
                       by[i]);
    }
    expect_same_first_step("plain-batch", "plain-sample");
    expect_same_training("blind-batch", "blind-sample");
}

// In a step of both kinds the term is there, and less than where all images have it; whole or in micro-batches.
static void some_have_a_balancing_term(void **state) {
    (void)state;
    int dropped = 0, seed = -1;
    while (dropped == 0 || dropped == BATCH) {
        Feed f = feed_open("sample", "0.5");
        f.config.seed = ++seed;
        batcher_free(f.batcher);
        f.batcher = batcher_new(&f.config, dataset_info(f.data));
        Rows first = rows_of(&f, 0);
        dropped = 0;
        for (int i = 0; i < BATCH; i++) dropped += first.y[i] < 0;
        feed_close(&f);
    }
    program_expect(0, RUN "--seed %d --device ref --label-drop 0.5 --label-drop-by sample --out some", seed);
    program_expect(0, RUN "--seed %d --device ref --label-drop 0.5 --label-drop-by sample --micro-batch 2 --out parts",
                   seed);
    program_expect(0, RUN "--seed %d --device ref --label-drop 0 --out kept", seed);
    double some = stat_of("some", "\"balancing\": ", 1), kept = stat_of("kept", "\"balancing\": ", 1);
    assert_true(some > 0 && some < kept);
    for (int s = 1; s <= 4; s++) {
        some = stat_of("some", "\"balancing\": ", s);
        assert_true(fabs(some - stat_of("parts", "\"balancing\": ", s)) <= 1e-3 * some);
    }
}

// ---- runs
static void resumed_runs_drop_the_same(void **state) {
    (void)state;
    static const char *const devices[] = { "cpu", "emu" };
    for (int k = 0; k < 2; k++) {
#ifndef CBDM_EMU
        if (k == 1) break;
#endif
        program_expect(0, RUN "--label-drop 0.5 --label-drop-by sample --device %s --out whole%d", devices[k], k);
        program_expect(0, RUN "--label-drop 0.5 --label-drop-by sample --device %s --steps 2 --out halves%d",
                       devices[k], k);
        program_expect(0, "train --resume halves%d --steps 4 --device %s", k, devices[k]);
        char *a = xasprintf("whole%d", k), *b = xasprintf("halves%d", k);
        expect_same_checkpoint(a, b, 4);
        expect_same_stats(a, b);
        free(a);
        free(b);
    }
    program_expect(ERR_USAGE, "train --resume halves0 --steps 6 --label-drop-by batch");
    expect_in_stderr("--label-drop-by batch: the run in halves0 was started with sample");
}

// Whatever else is as published or not; and what knows of no choice was by batch.
static void by_batch_unless_asked(void **state) {
    (void)state;
    static const char *const compat[] = { "fixed", "official" };
    for (int i = 0; i < 2; i++) {
        RunConfig c;
        Error err;
        char flag[] = "--compat", value[16], *words[] = { flag, value };
        snprintf(value, sizeof value, "%s", compat[i]);
        assert_true(run_config_parse(&c, 2, words, &err));
        assert_int_equal(c.label_drop_by, DROP_BATCH);
    }
    static const char *const runs[] = { "known", "older" };
    for (int i = 0; i < 2; i++) program_expect(0, RUN "--label-drop 0.5 --steps 2 --out %s", runs[i]);
    forget_flag("older", 2, "label-drop-by", "batch", 1);
    for (int i = 0; i < 2; i++) program_expect(0, "train --resume %s --steps 4", runs[i]);
    expect_same_checkpoint("known", "older", 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_image_by_a_draw_of_its_own), cmocka_unit_test(draws_are_functions_of_step_and_image),
        cmocka_unit_test(none_is_none), cmocka_unit_test(all_are_all), cmocka_unit_test(also_without_a_balancing_term),
        cmocka_unit_test(some_have_a_balancing_term),
        cmocka_unit_test(resumed_runs_drop_the_same), cmocka_unit_test(by_batch_unless_asked),
    };
    return cmocka_run_group_tests(tests, setup, tempdir_remove);
}
