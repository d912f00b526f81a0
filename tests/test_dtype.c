// tests/test_dtype.c - runs whose activations are bf16: resumed bit for bit, opened in either type, refused where no
// kernel stores bf16.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "tests/program.h"

#define RUN "train " TINY "--device ref32 --keep 0 --save-every 10 --log-every 7 "

static int setup(void **state) {
    if (tempdir_make(state) != 0) return -1;
    program_write_data();
    return 0;
}

// The optimiser's bf16 copy of the weights equals one made from the weights that a checkpoint holds.
static void halves_are_the_whole(void **state) {
    (void)state;
    program_expect(0, RUN "--dtype bf16 --steps 20 --out whole --preview-every 10 --preview-steps 2 --probe-every 10");
    program_expect(0, RUN "--dtype bf16 --steps 10 --out halves --preview-every 10 --preview-steps 2 --probe-every 10");
    program_expect(0, "train --resume halves --steps 20 --device ref32");
    expect_same_checkpoint("whole", "halves", 20);
    expect_same_stats("whole", "halves");
    expect_in_stderr("activations in bf16");
    size_t n, m;
    uint8_t *a = read_bytes("whole/previews/step-000000020.png", &n);
    uint8_t *b = read_bytes("halves/previews/step-000000020.png", &m);
    assert_int_equal(n, m);
    assert_memory_equal(a, b, n);
    free(a);
    free(b);
}

static void bf16_rounds(void **state) {                    // else the comparison above would be of f32 runs
    (void)state;
    program_expect(0, RUN "--dtype f32 --steps 20 --out floats --probe-every 10");
    char *a = run_stats("whole"), *b = run_stats("floats");
    assert_true(strcmp(a, b) != 0);
    free(a);
    free(b);
}

static void micro_batches(void **state) {
    (void)state;
    program_expect(0, RUN "--dtype bf16 --micro-batch 2 --steps 20 --out whole-micro");
    program_expect(0, RUN "--dtype bf16 --micro-batch 2 --steps 10 --out halves-micro");
    program_expect(0, "train --resume halves-micro --steps 20 --device ref32");
    expect_same_checkpoint("whole-micro", "halves-micro", 20);
}

static void recorded_with_the_run(void **state) {
    (void)state;
    size_t n;
    char *config = (char *)read_bytes("whole/config.json", &n);
    if (!strstr(config, "\"dtype\": \"bf16\"")) fail_msg("config.json: %s", config);
    free(config);
    program_expect(0, RUN "--steps 1 --out automatic");
    config = (char *)read_bytes("automatic/config.json", &n);
    if (!strstr(config, "\"dtype\": \"f32\"")) fail_msg("config.json: %s", config);
    free(config);
}

static void checkpoints_serve_both(void **state) {
    (void)state;
    program_expect(0, "train --resume halves --steps 21 --dtype f32 --device cpu");
    program_expect(0, "train --resume floats --steps 21 --dtype bf16 --device ref32");
    program_expect(0, "sample --checkpoint whole --out bf16 --dtype bf16 --device ref32 --sampler ddim --steps 2 "
                      "--seeds 0-3");
    program_expect(0, "sample --checkpoint whole --out f32 --device cpu --sampler ddim --steps 2 --seeds 0-3");
}

static void refused_where_nothing_stores_it(void **state) {
    (void)state;
    program_expect(ERR_USAGE, "train --resume whole --steps 30 --device cpu");
    expect_in_stderr("--dtype bf16: device cpu computes in floats only");
    program_expect(ERR_USAGE, "sample --checkpoint whole --out no --dtype bf16 --device cpu");
    expect_in_stderr("--dtype bf16: device cpu computes in floats only");
    program_expect(ERR_USAGE, "train " TINY "--dtype half --out no");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(halves_are_the_whole),
        cmocka_unit_test(bf16_rounds),
        cmocka_unit_test(micro_batches),
        cmocka_unit_test(recorded_with_the_run),
        cmocka_unit_test(checkpoints_serve_both),
        cmocka_unit_test(refused_where_nothing_stores_it),
    };
    return cmocka_run_group_tests(tests, setup, tempdir_remove);
}
