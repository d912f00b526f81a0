// tests/test_train_eval.c - measuring samples while training (--eval-every): lines of per-class numbers in stats.jsonl,
// and a run that is otherwise the same, byte for byte.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "tests/program.h"

#define EVAL "--eval-every 10 --eval-samples 7 --eval-steps 2 "
#define RUN  "train " TINY "--save-every 10 --log-every 7 --keep 0 "

static void copy_bytes(const char *from, const char *to) {
    size_t n;
    uint8_t *bytes = read_bytes(from, &n);
    write_bytes(to, bytes, n);
    free(bytes);
}

static int setup(void **state) {
    if (tempdir_make(state) != 0) return -1;
    program_write_data();
    copy_bytes("data/train-images-idx3-ubyte", "data/t10k-images-idx3-ubyte");
    copy_bytes("data/train-labels-idx1-ubyte", "data/t10k-labels-idx1-ubyte");
    setenv("XDG_CACHE_HOME", tempdir, 1);                // features of the test images are kept there
    program_expect(0, "eval train-classifier --data data --depth 8 --width 4 --epochs 1 --device cpu --out judge");
    return 0;
}

// Numbers of the list that follows "key": in text, from its place on; -1 where the list holds anything but [0,1].
static int shares(const char *text, const char *key, double *out) {
    char *quoted = xasprintf("\"%s\": [", key);
    const char *at = strstr(text, quoted);
    assert_non_null(at);
    at += strlen(quoted);
    free(quoted);
    int n = 0;
    for (char *end; n < TINY_CLASSES + 1; n++, at = end + 2) {
        out[n] = strtod(at, &end);
        if (end == at || !(out[n] >= 0 && out[n] <= 1)) return -1;
        if (*end == ']') return n + 1;
    }
    return -1;
}

static void lines_hold_every_class(void **state) {
    (void)state;
    program_expect(0, RUN EVAL "--steps 25 --out seen");
    char *text = run_stats("seen");
    const char *first = strstr(text, "{\"step\": 10, \"eval\": {\"samples\": 7, \"sampler_steps\": 2, \"omega\": 1, ");
    const char *second = strstr(text, "{\"step\": 20, \"eval\": {");
    assert_true(first && second && first < second);
    assert_null(strstr(text, "{\"step\": 25, \"eval\""));
    double made[TINY_CLASSES + 1], truth[TINY_CLASSES + 1];
    assert_int_equal(shares(first, "fidelity", made), TINY_CLASSES);
    assert_int_equal(shares(first, "real_fidelity", truth), TINY_CLASSES);
    // 7 images of 3 classes are 3, 2 and 2: each share is a whole number of them
    static const int drawn[TINY_CLASSES] = { 3, 2, 2 };
    for (int c = 0; c < TINY_CLASSES; c++) {
        double right = made[c] * drawn[c];
        assert_true(right - (int)(right + 0.5) < 1e-4 && right - (int)(right + 0.5) > -1e-4);
        assert_true(truth[c] > 0.5);                     // means of 20 images of noise are nearest to these
    }
    free(text);
}

// Of the three classes each is one group of its own.
static void a_classifier_measures_distances(void **state) {
    (void)state;
    program_expect(0, RUN EVAL "--eval-classifier judge --steps 10 --out judged");
    char *text = run_stats("judged"), *at = strstr(text, "\"eval\": {");
    assert_non_null(at);
    assert_non_null(strstr(at, "\"judge\": \"classifier resnet8"));
    double fid[4], kid, fidelity;
    assert_int_equal(sscanf(strstr(at, "\"fid\": "), "\"fid\": %lf, \"kid\": %lf", &fid[0], &kid), 2);
    static const char *const groups[] = { "many", "medium", "few" };
    for (int g = 0; g < 3; g++) {
        char *key = xasprintf("\"%s\": {\"fidelity\": ", groups[g]), *part = strstr(at, key);
        assert_non_null(part);
        part += strlen(key);
        assert_int_equal(sscanf(part, "%lf, \"fid\": %lf, \"kid\": %lf", &fidelity, &fid[g + 1], &kid), 3);
        assert_true(fidelity >= 0 && fidelity <= 1);
        free(key);
    }
    for (int g = 0; g < 4; g++) assert_true(fid[g] > 0);  // 10 steps of training do not match the real images
    free(text);
    program_expect(0, RUN EVAL "--steps 10 --out unjudged");
    expect_same_weights("judged", "unjudged", 10);
}

static void looking_on_changes_nothing(void **state) {
    (void)state;
    static const char *const forms[] = { "", "--device ref", "--micro-batch 2", "--objective ddpm --label-drop 1" };
    for (int i = 0; i < 4; i++) {
        program_expect(0, RUN EVAL "--steps 20 %s --out with%d", forms[i], i);
        program_expect(0, RUN "--steps 20 %s --out without%d", forms[i], i);
        char *with = xasprintf("with%d", i), *without = xasprintf("without%d", i);
        expect_same_weights(with, without, 10);
        expect_same_weights(with, without, 20);
        free(with);
        free(without);
    }
}

static void two_halves_are_the_whole(void **state) {
    (void)state;
    program_expect(0, RUN EVAL "--steps 40 --out whole");
    program_expect(0, RUN EVAL "--steps 25 --out halves");
    program_expect(0, "train --resume halves --steps 40");
    expect_same_checkpoint("whole", "halves", 40);
    expect_same_stats("whole", "halves");
    program_expect(0, "train --resume halves --steps 50 --eval-every 0");        // it may be left off
    assert_int_equal(run_last_stat("halves"), 49);
}

static void refused(const char *flags, const char *data, const char *part) {
    program_expect(ERR_USAGE, RUN EVAL "--steps 20 %s --data %s --out refused", flags, data);
    expect_in_stderr(part);
    assert_false(file_exists(temp_path("refused")));
}

static void what_cannot_be_measured_is_refused(void **state) {
    (void)state;
    assert_true(dir_make(temp_path("train-only"), NULL));
    copy_bytes("data/train-images-idx3-ubyte", "train-only/train-images-idx3-ubyte");
    copy_bytes("data/train-labels-idx1-ubyte", "train-only/train-labels-idx1-ubyte");
    refused("", "train-only", "test images");
    refused("--classes 0 --objective ddpm", "data", "unconditional");
    program_expect(ERR_FILE, RUN EVAL "--steps 20 --eval-classifier nowhere --out refused");
    expect_in_stderr("nowhere");
    refused("--T 10 --preview-steps 2 --eval-steps 11", "data", "--eval-steps 11");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_hold_every_class),
        cmocka_unit_test(a_classifier_measures_distances),
        cmocka_unit_test(looking_on_changes_nothing),
        cmocka_unit_test(two_halves_are_the_whole),
        cmocka_unit_test(what_cannot_be_measured_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, tempdir_remove);
}
