// tests/test_classifier_verb.c - cbdm eval train-classifier: what it finds, refuses, and leaves when it is stopped.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/program.h"

#define NET "eval train-classifier --data data --device cpu --depth 8 --width 4 --batch 4 "

static void expect_same_file(const char *a, const char *b) {
    size_t n_a, n_b;
    uint8_t *bytes_a = read_bytes(a, &n_a), *bytes_b = read_bytes(b, &n_b);
    if (n_a != n_b || memcmp(bytes_a, bytes_b, n_a) != 0) fail_msg("%s and %s differ", a, b);
    free(bytes_a);
    free(bytes_b);
}

static void a_second_time_nothing_is_done(void **state) {
    (void)state;
    program_expect(0, NET "--epochs 1 --out twice.safetensors");
    expect_in_stderr("twice.safetensors is written");
    expect_in_stderr("epoch 1/1");
    program_expect(0, NET "--epochs 1 --out twice.safetensors");
    expect_in_stderr("is there already");
    assert_null(strstr(program_stderr, "epoch"));
    program_expect(ERR_USAGE, NET "--epochs 2 --out twice.safetensors");
    expect_in_stderr("another recipe");
    program_expect(ERR_USAGE, NET "--epochs 1 --imb-type exp --imb-factor 0.5 --out twice.safetensors");
    expect_in_stderr("other data");
}

static void the_cache_is_found_and_mended(void **state) {
    (void)state;
    setenv("XDG_CACHE_HOME", tempdir, 1);
    program_expect(0, NET "--epochs 1 --seed 3");
    char *at = strstr(program_stderr, "cbdm/resnet8-"), name[64];
    assert_non_null(at);
    snprintf(name, sizeof name, "%.*s", (int)strcspn(at, " "), at);
    program_expect(0, NET "--epochs 1 --seed 3");
    expect_in_stderr("is there already");
    assert_int_equal(truncate(temp_path(name), 1000), 0);
    program_expect(0, NET "--epochs 1 --seed 3");
    expect_in_stderr("is trained anew");
    expect_in_stderr("is written");
    program_expect(0, NET "--epochs 1 --seed 3");
    expect_in_stderr("is there already");
}

static void what_cannot_be_is_refused(void **state) {
    (void)state;
    static const struct { int code; const char *flags, *words; } bad[] = {
        { ERR_USAGE, "--depth 9", "6 k + 2" }, { ERR_USAGE, "--width 6", "multiple of 4" },
        { ERR_USAGE, "--preset quik", "did you mean quick" }, { ERR_USAGE, "--device null", "plans" },
        { ERR_USAGE, "--epochs 0", "epochs" }, { ERR_FILE, "--data nowhere", "nowhere" },
        { ERR_DIVERGED, "--lr 1e6 --epochs 20", "diverged" }, { ERR_IO, "--epochs 1e5", "no-folder" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        program_expect(bad[i].code, NET "--out %s.safetensors %s", bad[i].code == ERR_IO ? "no-folder/x" : "x",
                       bad[i].flags);
        expect_in_stderr(bad[i].words);
        assert_false(file_exists(temp_path("x.safetensors")));
    }
}

// Until the file holds the words; fails the test if that takes over a minute.
static void wait_for(const char *relative, const char *words) {
    bool seen = false;
    for (int i = 0; i < 60000 && !seen; i++) {
        size_t n;
        char *text = file_exists(temp_path(relative)) ? (char *)read_bytes(relative, &n) : NULL;
        seen = text && strstr(text, words);
        free(text);
        if (!seen) sleep_seconds(1e-3);
    }
    assert_true(seen);
}

// Stopped after its first epoch, and again somewhere, a training ends with the bytes of one that was not.
static void stopped_and_gone_on_is_the_same(void **state) {
    (void)state;
    static const char line[] = NET "--epochs 100 --out stopped.safetensors";
    program_expect(0, NET "--epochs 100 --out whole.safetensors");
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "stop again" : "stop";
        pid_t pid = program_start(name, line);
        wait_for(i ? "stop again.err" : "stop.err", i ? "goes on with" : "epoch ");
        assert_int_equal(kill(pid, SIGINT), 0);
        int code = program_wait(name, pid);
        if (code != ERR_INTERRUPTED) fail_msg("exit code %d:\n%s", code, program_stderr);
        expect_in_stderr("the same command goes on from stopped.safetensors.stopped");
        assert_true(file_exists(temp_path("stopped.safetensors.stopped")));
        assert_false(file_exists(temp_path("stopped.safetensors")));
    }
    program_expect(0, "%s", line);
    expect_in_stderr("goes on with");
    assert_false(file_exists(temp_path("stopped.safetensors.stopped")));
    expect_same_file("whole.safetensors", "stopped.safetensors");
}

// What is left of another training is not gone on with.
static void what_is_left_must_fit(void **state) {
    (void)state;
    write_bytes("other.safetensors.stopped", "nothing", 7);
    program_expect(0, NET "--epochs 1 --out other.safetensors");
    expect_in_stderr("training begins anew");
    assert_false(file_exists(temp_path("other.safetensors.stopped")));
}

static int make(void **state) {
    if (tempdir_make(state)) return -1;
    program_write_data();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_second_time_nothing_is_done), cmocka_unit_test(the_cache_is_found_and_mended),
        cmocka_unit_test(what_cannot_be_is_refused), cmocka_unit_test(stopped_and_gone_on_is_the_same),
        cmocka_unit_test(what_is_left_must_fit),
    };
    return cmocka_run_group_tests(tests, make, tempdir_remove);
}
