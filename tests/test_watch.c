// tests/test_watch.c - steps that are not finite are skipped, told and kept for replay; spikes are told.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <dirent.h>
#include <math.h>
#include "tests/program.h"
#include "train/run_dir.h"
#include "train/watch.h"

static int setup(void **state) {
    if (tempdir_make(state) != 0) return -1;
    program_write_data();
    return 0;
}

// ---- the policy by itself

static char why[WATCH_TEXT];
static WatchFinding fine_step(Watch *w, int64_t step, double loss, double norm) {
    return watch_step(w, step, loss, norm, false, why);
}

// Losses 1, and norms 0.9 and 1.1 in turn: their mean is 1, their standard deviation 0.1.
static int64_t quiet_steps(Watch *w, int64_t step, int64_t n) {
    for (int64_t end = step + n; step < end; step++)
        assert_int_equal(fine_step(w, step, 1, step % 2 ? 1.1 : 0.9), WATCH_FINE);
    return step;
}

static void norms_are_compared_with_the_last_128(void **state) {
    (void)state;
    Watch w = { 0 };
    int64_t at = quiet_steps(&w, 0, WATCH_NORMS - 1);
    Watch early = w;
    assert_int_equal(fine_step(&early, at, 1, 1000), WATCH_FINE);         // there are only 127 to compare with
    at = quiet_steps(&w, at, 1 + 400);
    Watch same = w;
    assert_int_equal(fine_step(&same, at, 1, 1.5999), WATCH_FINE);
    assert_int_equal(same.spikes, 0);
    same = w;
    assert_int_equal(fine_step(&same, at, 1, 1.6001), WATCH_SPIKE);
    assert_non_null(strstr(why, "gradient norm 1.6, 6 standard deviations above the mean 1 of the last 128"));
    assert_int_equal(same.spikes, 1);
    same = w;
    assert_int_equal(fine_step(&same, at, 1, 0), WATCH_FINE);             // a small gradient is no spike
}

static void losses_are_compared_with_the_first_100(void **state) {
    (void)state;
    Watch w = { 0 };
    for (int i = 0; i < WATCH_FIRST; i++) assert_int_equal(fine_step(&w, i, i == 50 ? 2 : 1e-3, 1), WATCH_FINE);
    static const struct { double loss; WatchFinding found; } cases[] = {
        { 3, WATCH_FINE }, { 20, WATCH_FINE }, { 20.001, WATCH_SPIKE }, { INFINITY, WATCH_SPIKE } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Watch same = w;
        assert_int_equal(fine_step(&same, WATCH_FIRST, cases[i].loss, 1), cases[i].found);
        assert_true(same.largest == 2);                                    // of the first only
    }
    Watch early = { .losses = WATCH_FIRST - 1, .largest = 2 };
    assert_int_equal(fine_step(&early, WATCH_FIRST - 1, 1e9, 1), WATCH_FINE);
}

static void one_warning_in_128_steps(void **state) {
    (void)state;
    Watch w = { 0 };
    quiet_steps(&w, 0, WATCH_NORMS);
    int warned = 0;
    for (int64_t step = 200; step < 200 + 2 * WATCH_QUIET; step++) warned += fine_step(&w, step, 100, 1) == WATCH_SPIKE;
    assert_int_equal(warned, 2);
    assert_int_equal(w.spikes, 2 * WATCH_QUIET);
}

static void refused_steps_end_the_run(void **state) {
    (void)state;
    Watch w = { 0 };
    for (int i = 0; i < 2; i++) assert_int_equal(watch_step(&w, i, NAN, NAN, true, why), WATCH_SKIPPED);
    assert_int_equal(watch_bad_left(&w), 1);
    assert_int_equal(fine_step(&w, 2, 1, 1), WATCH_FINE);
    for (int i = 3; i < 5; i++) assert_int_equal(watch_step(&w, i, NAN, NAN, true, why), WATCH_SKIPPED);
    assert_int_equal(watch_step(&w, 5, NAN, NAN, true, why), WATCH_DIVERGED);            // three in a row
    w = (Watch){ 0 };
    for (int i = 0; i < 10; i++) {
        int64_t step = 100 * i;
        assert_int_equal(watch_step(&w, step, NAN, NAN, true, why), i < 9 ? WATCH_SKIPPED : WATCH_DIVERGED);
        fine_step(&w, step + 1, 1, 1);
    }
    w = (Watch){ .bad_in_window = 9 };
    assert_int_equal(watch_step(&w, WATCH_WINDOW, NAN, NAN, true, why), WATCH_SKIPPED);  // the count begins again
}

static void as_text_nothing_is_lost(void **state) {
    (void)state;
    static const int64_t steps[] = { 0, 1, 57, 127, 128, 129, 1000 };
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        Watch w = { 0 }, copy;
        for (int64_t step = 0; step < steps[i]; step++)
            watch_step(&w, step, 1.0 / (double)(step + 3), sqrt((double)step), step % 40 == 0, why);
        char *text = watch_text(&w), *again;
        assert_true(watch_parse(&copy, text));
        again = watch_text(&copy);
        assert_string_equal(text, again);
        assert_memory_equal(&w, &copy, sizeof w);
        free(text);
        free(again);
    }
    Watch w;
    assert_true(watch_parse(&w, " 2 4"));                       // version 0.1.0
    assert_true(w.bad_in_a_row == 2 && w.bad_in_window == 4 && w.spikes == 0 && w.norms == 0);
    static const char *const wrong[] = { "", "1", "x 1", "-1 0", "1 2 3", "1 2 3 4 5 6 1", "1 2 3 4 101 6 0",
                                         "1 2 3 4 5 nan 0", "1 2 3 4 5 6 1e30", "1 2 3 4 5 6 0.5", "1 2 3 4 5 6 1 7 8",
                                         "0 0 0 0 0 0 0 x" };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (watch_parse(&w, wrong[i])) fail_msg("\"%s\" was accepted", wrong[i]);
}

// ---- runs

#define WATCHED "train " TINY "--log-every 1 --keep 0 "

// The numbers of a list in a record; returns how many, at most 64.
static int record_list(const char *json, const char *key, int64_t list[64]) {
    char *quoted = xasprintf("\"%s\": [", key);
    const char *at = strstr(json, quoted);
    assert_non_null(at);
    at += strlen(quoted);
    int n = 0;
    for (char *end; n < 64 && *at != ']'; at = end + strspn(end, ", ")) {
        list[n++] = strtoll(at, &end, 10);
        assert_true(end != at);
    }
    free(quoted);
    return n;
}

// What `cbdm data batches` says of the same step.
static void expect_batch(const char *json, const char *run, int64_t step) {
    program_expect(0, "data batches --run %s --from %lld --count 1 --output batch.npz", run, (long long)step);
    static const char *const keys[] = { "t", "y", "y_balanced" };
    for (int k = 0; k < 3; k++) {
        uint8_t *bytes;
        NpyArray a;
        Error err;
        if (!npz_read(temp_path("batch.npz"), keys[k], &bytes, &a, &err)) fail_msg("%s", err.msg);
        int64_t list[64];
        assert_int_equal(record_list(json, keys[k], list), 4);
        for (int i = 0; i < 4; i++) {
            int32_t v;
            memcpy(&v, (const uint8_t *)a.data + 4 * i, 4);
            assert_int_equal(list[i], v);
        }
        free(bytes);
    }
    int64_t index[64], y[64];
    assert_int_equal(record_list(json, "index", index), 4);
    record_list(json, "y", y);
    for (int i = 0; i < 4; i++) {
        assert_in_range(index[i], 0, TINY_IMAGES - 1);
        assert_int_equal(y[i], index[i] % TINY_CLASSES);         // as program_write_data labels them
    }
}

static void bad_step_is_skipped_and_kept(void **state) {
    (void)state;
    static const char *const layers[] = { "head.weight", "tail.2.weight" };
    for (int i = 0; i < 2; i++) {
        char run[16], *record = xasprintf("bad%d/skipped/step-000000007.json", i);
        snprintf(run, sizeof run, "bad%d", i);
        program_expect(0, WATCHED "--steps 12 --save-every 1 --inject nan@7:%s --out %s", layers[i], run);
        expect_in_stderr("warning: step 7 is skipped: loss not finite, gradient norm not finite");
        expect_in_stderr(record);
        size_t n;
        char *json = (char *)read_bytes(record, &n), *stats = run_stats(run);
        assert_non_null(strstr(json, "{\"step\": 7, \"seed\": 0, \"loss\": null"));
        char *origin = strstr(json, "\"first_not_finite\": \"graph step");
        assert_non_null(origin);
        *strchr(origin, '\n') = ' ';
        char *line_end = strchr(origin, '\n'), *layer = strstr(origin, layers[i]);
        assert_true(layer && line_end && layer < line_end);      // where the fault was put
        expect_batch(json, run, 7);
        assert_non_null(strstr(stats, "{\"step\": 8, \"loss\": null, \"denoising\": null, \"balancing\": null, "
                                      "\"grad_norm\": null"));
        assert_non_null(strstr(stats, "\"skipped\": 1, \"spikes\": 0}\n{\"step\": 9, \"loss\": 0"));
        assert_null(strstr(stats, "nan"));
        free(json);
        free(stats);
        free(record);
    }
    // The step has changed nothing: not weights, nor averages, nor moments.
    SafeTensors *a = st_open(temp_path("bad0/checkpoints/step-000000007.safetensors"), NULL);
    SafeTensors *b = st_open(temp_path("bad0/checkpoints/step-000000008.safetensors"), NULL);
    assert_true(a && b);
    for (int i = 0; i < st_count(a); i++) {
        const StTensor *x = st_get(a, i), *y = st_find(b, x->name);
        if (strcmp(x->name, "state") != 0) assert_memory_equal(x->data, y->data, x->bytes);
    }
    st_close(a);
    st_close(b);
}

// Also the part of the policy that looks back is the same in a resumed run.
static void resumed_runs_watch_alike(void **state) {
    (void)state;
#define FAULTS "--steps %d --save-every 70 "
    program_expect(0, WATCHED FAULTS "--inject 300@150:tail.2.weight --out spike", 160);
    expect_in_stderr("warning: spike at step 150: loss ");
    program_expect(0, WATCHED FAULTS "--out spike-halves", 140);
    program_expect(0, "train --resume spike-halves --steps 160 --inject 300@150:tail.2.weight");
    expect_in_stderr("warning: spike at step 150: loss ");
    expect_same_stats("spike", "spike-halves");
    expect_same_checkpoint("spike", "spike-halves", 160);
    char *stats = run_stats("spike");
    assert_non_null(strstr(stats, "\"skipped\": 0, \"spikes\": 1}\n"));
    free(stats);
    program_expect(0, WATCHED FAULTS "--inject nan@7:head.weight --out bad-whole", 20);
    program_expect(0, WATCHED FAULTS "--inject nan@7:head.weight --out bad-halves", 10);
    program_expect(0, "train --resume bad-halves --steps 20");
    expect_same_stats("bad-whole", "bad-halves");
    expect_same_checkpoint("bad-whole", "bad-halves", 20);
}

static void healthy_runs_keep_no_records(void **state) {
    (void)state;
    program_expect(0, WATCHED "--steps 5 --out healthy");
    assert_null(strstr(program_stderr, "warning"));
    assert_false(file_exists(temp_path("healthy/skipped")));
}

static void wrong_faults_are_refused(void **state) {
    (void)state;
    static const char *const wrong[] = { "nan", "nan@3", "nan@x:head.weight", "@3:head.weight", "nan@3:",
                                         "1@2:nowhere" };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        program_expect(ERR_USAGE, WATCHED "--steps 2 --out never --inject %s", wrong[i]);
        expect_in_stderr(wrong[i]);
    }
    assert_false(file_exists(temp_path("never")));
}

static void newest_records_are_kept(void **state) {
    (void)state;
    Error err;
    RunDir *dir = run_dir_open(temp_path("many"), false, &err);
    assert_non_null(dir);
    for (int64_t step = 1; step <= 30; step++) {
        char *path = run_dir_skipped(dir, 10 * step, "{}\n");
        assert_non_null(path);
        free(path);
    }
    run_dir_close(dir);
    int n = 0;
    DIR *d = opendir(temp_path("many/skipped"));
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    assert_int_equal(n, RUN_SKIPPED_MAX);
    assert_false(file_exists(temp_path("many/skipped/step-000000100.json")));
    assert_true(file_exists(temp_path("many/skipped/step-000000110.json")));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_are_compared_with_the_last_128),
        cmocka_unit_test(losses_are_compared_with_the_first_100),
        cmocka_unit_test(one_warning_in_128_steps),
        cmocka_unit_test(refused_steps_end_the_run),
        cmocka_unit_test(as_text_nothing_is_lost),
        cmocka_unit_test(bad_step_is_skipped_and_kept),
        cmocka_unit_test(resumed_runs_watch_alike),
        cmocka_unit_test(healthy_runs_keep_no_records),
        cmocka_unit_test(wrong_faults_are_refused),
        cmocka_unit_test(newest_records_are_kept),
    };
    return cmocka_run_group_tests(tests, setup, tempdir_remove);
}
