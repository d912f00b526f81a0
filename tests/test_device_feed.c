// tests/test_device_feed.c - training from images that lie on the device as bytes (--resident on) is training from
// batches that the host makes (off).
//
// Images and noise are the same bits in both: see test_q_sample.c. x_t = p + q of two products of floats, so that two
// programs differ by what they fuse; but where p and q are exact, their sum is rounded once by any, and whole runs must
// agree to the last bit. So it is on the reference, which multiplies floats in double. Elsewhere it is with betas 2^-38
// and 3 2^-38: alpha_bar is 1 - 2^-38 and 1 - 2^-36, the roots are 1 with 2^-19 and 1 with 2^-18.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/program.h"

#define RUN TINY "--steps 5 --save-every 3 --log-every 1 --label-drop 0.4 --dropout 0.1 "
#define EXACT "--T 2 --beta-1 3.637978807091713e-12 --beta-T 1.0913936421275139e-11 --preview-steps 1 "

static void expect_same_training(const char *a, const char *b) {
    expect_same_stats(a, b);
    expect_same_weights(a, b, 3);
    expect_same_weights(a, b, 5);
}

// Both ways, the whole batch and half of it at a time; then the same in two lives, the second of either way.
static void both_ways(const char *device, const char *flags) {
    char on[32], off[32], micro_on[32], micro_off[32], again[32], other[32];
    const struct { char *name; const char *prefix; } names[] = { { on, "on" }, { off, "off" }, { micro_on, "micro-on" },
        { micro_off, "micro-off" }, { again, "again" }, { other, "other" } };
    for (int i = 0; i < 6; i++) snprintf(names[i].name, 32, "%s-%s", names[i].prefix, device);
    program_expect(0, "train " RUN "%s --device %s --resident on --out %s", flags, device, on);
    expect_in_stderr("data set on the device");
    program_expect(0, "train " RUN "%s --device %s --resident off --out %s", flags, device, off);
    assert_null(strstr(program_stderr, "data set on the device"));
    expect_same_training(on, off);
    program_expect(0, "train " RUN "%s --device %s --resident on --micro-batch 2 --out %s", flags, device, micro_on);
    program_expect(0, "train " RUN "%s --device %s --resident off --micro-batch 2 --out %s", flags, device, micro_off);
    expect_same_training(micro_on, micro_off);
    program_expect(0, "train " RUN "%s --device %s --resident on --steps 3 --out %s", flags, device, again);
    program_expect(0, "train " RUN "%s --device %s --resident on --steps 3 --out %s", flags, device, other);
    program_expect(0, "train --resume %s --steps 5 --device %s", again, device);
    expect_in_stderr("data set on the device");
    expect_same_stats(on, again);
    expect_same_checkpoint(on, again, 5);
    program_expect(0, "train --resume %s --steps 5 --device %s --resident off", other, device);
    expect_same_training(on, other);
}

static void on_the_reference_device(void **state) {
    (void)state;
    both_ways("ref", "");
    program_expect(0, "train " RUN "--device ref --resident on --no-flip --out straight");
    char *mirrored = run_stats("on-ref"), *straight = run_stats("straight");
    assert_string_not_equal(mirrored, straight);           // so that the equal runs above did mirror
    free(mirrored);
    free(straight);
}

static void on_the_cpu(void **state) {
    (void)state;
    both_ways("cpu", EXACT);
}

static void expect_recorded(const char *run, const char *value) {
    char *path = xasprintf("%s/config.json", run), *pair = xasprintf("\"resident\": \"%s\"", value);
    size_t n;
    char *json = (char *)read_bytes(path, &n);
    if (!strstr(json, pair)) fail_msg("no %s in %s: %s", pair, path, json);
    free(json);
    free(pair);
    free(path);
}

static void auto_keeps_it_on_the_host(void **state) {
    (void)state;
    program_expect(0, "train " RUN "--device cpu --out auto-cpu");
    assert_null(strstr(program_stderr, "data set on the device"));
    expect_recorded("auto-cpu", "off");
    expect_recorded("on-cpu", "on");
}

#ifdef CBDM_EMU
static void on_the_emulated_gpu(void **state) {
    (void)state;
    setenv("CBDM_EMU", "check=0", 1);
    both_ways("emu", EXACT "--dtype f32");
    program_expect(0, "train " RUN EXACT "--device emu --dtype bf16 --resident on --out on-bf16");
    program_expect(0, "train " RUN EXACT "--device emu --dtype bf16 --resident off --out off-bf16");
    expect_same_training("on-bf16", "off-bf16");
}

// With the checker of races, bounds and initialisation.
static void the_checker_finds_nothing(void **state) {
    (void)state;
    unsetenv("CBDM_EMU");
    program_expect(0, "train " TINY "--device emu --resident on --steps 1 --out checked");
}

// The built-in data has 2478 images of 32x32x3 bytes, 7.3 MiB: a quarter of 40, and more than that of 20.
static void auto_leaves_room_on_a_gpu(void **state) {
    (void)state;
#define BUILTIN TINY "--data builtin --imb-type exp --image-size 0 --batch 1 --device emu --steps 1 "
    setenv("CBDM_EMU", "check=0", 1);
    setenv("CBDM_EMU_CUDA", "limit=40", 1);
    program_expect(0, "train " BUILTIN "--out roomy");
    expect_in_stderr("data set on the device");
    expect_recorded("roomy", "on");
    setenv("CBDM_EMU_CUDA", "limit=20", 1);
    program_expect(0, "train " BUILTIN "--out narrow");
    assert_null(strstr(program_stderr, "data set on the device"));
    expect_recorded("narrow", "off");
    unsetenv("CBDM_EMU_CUDA");
}
#endif

static int setup(void **state) {
    if (tempdir_make(state) != 0) return -1;
    program_write_data();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(on_the_reference_device),
        cmocka_unit_test(on_the_cpu),
        cmocka_unit_test(auto_keeps_it_on_the_host),
#ifdef CBDM_EMU
        cmocka_unit_test(on_the_emulated_gpu),
        cmocka_unit_test(the_checker_finds_nothing),
        cmocka_unit_test(auto_leaves_room_on_a_gpu),
#endif
    };
    return cmocka_run_group_tests(tests, setup, tempdir_remove);
}
