// tests/test_device_train.c - training on the emulated GPU: the host runs ahead of it, and nothing of that shows.
//
// Runs whose steps are begun before the results of earlier ones are known, with each graph one captured launch and the
// GPU's work done as late as possible or at chance moments, must leave the same files, bit for bit, as a run whose
// every node is waited for.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/program.h"

#ifdef CBDM_EMU
#define EMU TINY "--device emu --dtype f32 --log-every 1 "

static void machine(const char *cuda, const char *no_capture) {
    setenv("CBDM_EMU", "check=0", 1);
    setenv("CBDM_EMU_CUDA", cuda, 1);
    setenv("CBDM_NO_CAPTURE", no_capture, 1);
}

static void expect_same_run(const char *a, const char *b, const int64_t *steps, int n) {
    expect_same_stats(a, b);
    for (int i = 0; i < n; i++) expect_same_checkpoint(a, b, steps[i]);
}

static void running_ahead_changes_nothing(void **state) {
    (void)state;
    machine("seed=0", "1");
    program_expect(0, "train " EMU "--steps 5 --save-every 3 --out plain");
    static const char *const seeds[] = { "seed=0", "seed=1" };
    for (int i = 0; i < 2; i++) {
        char run[16];
        snprintf(run, sizeof run, "ahead%d", i);
        machine(seeds[i], "0");
        program_expect(0, "train " EMU "--steps 5 --save-every 3 --out %s", run);
        expect_same_run("plain", run, (int64_t[]){ 3, 5 }, 2);
    }
    machine("seed=3", "0");
    program_expect(0, "train " EMU "--steps 3 --save-every 3 --out resumed");
    program_expect(0, "train --resume resumed --steps 5 --device emu");
    expect_same_run("plain", "resumed", (int64_t[]){ 5 }, 1);
    program_expect(0, "train " EMU "--steps 3 --micro-batch 2 --out micro");
    machine("seed=0", "1");
    program_expect(0, "train " EMU "--steps 3 --micro-batch 2 --out micro-plain");
    expect_same_run("micro-plain", "micro", (int64_t[]){ 3 }, 1);
}

// Three bad steps in a row end a run. None is begun after the third, though its result comes later.
static void divergence_ends_at_the_same_step(void **state) {
    (void)state;
    write_poisoned(temp_path("plain/checkpoints/step-000000003.safetensors"), temp_path("poisoned.safetensors"));
    machine("seed=0", "1");
    program_expect(ERR_DIVERGED, "train " EMU "--steps 9 --init-from poisoned.safetensors --out bad-plain");
    machine("seed=0", "0");
    program_expect(ERR_DIVERGED, "train " EMU "--steps 9 --init-from poisoned.safetensors --out bad");
    expect_in_stderr("at step 2 (3 in a row)");
    expect_same_checkpoint("bad-plain", "bad", 3);
}

static void too_little_memory_tells_the_plan(void **state) {
    (void)state;
    machine("limit=4", "0");
    program_expect(ERR_MEMORY, "train " TINY "--device emu --batch 512 --steps 1 --out big");
    expect_in_stderr("error: no memory for ");
    expect_in_stderr("on device emu (");
    expect_in_stderr("activations and scratch");
    expect_in_stderr("there is room for about ");
}

static void failures_of_the_gpu(void **state) {
    (void)state;
    machine("fail=execution:600:719", "0");
    program_expect(-SIGABRT, "train " EMU "--steps 9 --save-every 1 --out broken");
    expect_in_stderr("graph step");
    expect_in_stderr("an injected failure");
    machine("fail=execution:600:214", "0");
    program_expect(ERR_IO, "train " EMU "--steps 9 --save-every 1 --out lost");
    expect_in_stderr("is lost: uncorrectable ECC error");
    machine("seed=0", "0");
    int64_t *steps;
    int n = run_checkpoints("lost", &steps);
    assert_true(n > 0);
    free(steps);
    program_expect(0, "train --resume lost --steps %d --device emu", (int)n + 1);
}
#endif

static void cuda_is_there_or_says_why_not(void **state) {
    (void)state;
    Error err = { 0 };
    Device *d = device_open("cuda", &err);
    if (d) {
        device_close(d);
        skip();
    }
    program_expect(ERR_USAGE, "train " TINY "--device cuda --steps 1 --out never");
    expect_in_stderr(err.msg);
    program_expect(ERR_USAGE, "train " TINY "--device cuda:7 --steps 1 --out never");
    expect_in_stderr("error: device cuda:7: ");
}

static int setup(void **state) {
    if (tempdir_make(state) != 0) return -1;
    program_write_data();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuda_is_there_or_says_why_not),
#ifdef CBDM_EMU
        cmocka_unit_test(running_ahead_changes_nothing),
        cmocka_unit_test(divergence_ends_at_the_same_step),
        cmocka_unit_test(too_little_memory_tells_the_plan),
        cmocka_unit_test(failures_of_the_gpu),
#endif
    };
    return cmocka_run_group_tests(tests, setup, tempdir_remove);
}
