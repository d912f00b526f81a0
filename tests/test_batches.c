// tests/test_batches.c - a run prepared for another program (--prepare, `cbdm data batches`): the arrays are what our
// own trainer feeds its step, and the prepared run itself goes on as if it had never been stopped.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "core/ops.h"
#include "kernels/pointwise/pointwise.h"
#include "tests/program.h"
#include "train/batch.h"

enum { FROM = 3, COUNT = 40, BATCH = 4, IMAGE = TINY_SIDE * TINY_SIDE };
#define RUN "train " TINY "--seed 11 --steps 60 --save-every 20 --log-every 7 --keep 0 "

typedef struct { uint8_t *bytes; NpyArray a; } Array;
static Array array_of(const char *name, const char *descr, int ndim) {
    Array x;
    Error err;
    if (!npz_read(temp_path("b.npz"), name, &x.bytes, &x.a, &err)) fail_msg("%s", err.msg);
    assert_string_equal(x.a.descr, descr);
    assert_int_equal(x.a.ndim, ndim);
    assert_int_equal(x.a.shape[0], COUNT);
    if (ndim > 1) assert_int_equal(x.a.shape[1], BATCH);
    if (ndim == 5) assert_true(x.a.shape[2] == TINY_SIDE && x.a.shape[3] == TINY_SIDE && x.a.shape[4] == 1);
    return x;
}

static int setup(void **state) {
    if (tempdir_make(state) != 0) return -1;
    program_write_data();
    program_expect(0, RUN "--prepare --out prepared");
    program_expect(0, "data batches --run prepared --from 3 --count 40 --output b.npz");
    return 0;
}

static void prepared_run_goes_on(void **state) {
    (void)state;
    program_expect(0, RUN "--out plain");
    program_expect(0, "train --resume prepared");
    expect_same_checkpoint("plain", "prepared", 60);
    expect_same_stats("plain", "prepared");
}

// The device's own draws: one graph of op_randn, its state advanced as a training run advances it.
static void noise_is_the_device_s(void **state) {
    (void)state;
    Array noise = array_of("noise", "<f4", 5);
    Error err;
    static const char *const devices[] = { "ref", "cpu" };
    for (int k = 0; k < 2; k++) {
        Device *d = device_open(devices[k], &err);
        assert_non_null(d);
        int64_t n = BATCH, bytes = sizeof(StepState);
        Graph *g = graph_new(d, "noise", WEIGHTS_TRAIN);
        Arena *arena = arena_new(d);
        Tensor *clock = tensor_new(d, "state", DT_U8, 1, &bytes), *sample = graph_input(g, "sample", DT_I32, 1, &n);
        int64_t image[] = { n, TINY_SIDE, TINY_SIDE, 1 };
        Tensor *y = graph_output(g, op_randn(g, image, PURPOSE_NOISE, sample, clock));
        op_step_advance(g, clock);
        graph_plan(g, arena);
        arena_seal(arena);
        tensor_write(clock, &(StepState){ .seed = { 11 }, .step = FROM });
        tensor_write(sample, (int32_t[]){ 0, 1, 2, 3 });
        float drawn[BATCH * IMAGE];
        for (int s = 0; s < COUNT; s++) {
            graph_run(g);
            tensor_read_f32(y, drawn);
            assert_memory_equal(drawn, (const float *)noise.a.data + s * BATCH * IMAGE, sizeof drawn);
        }
        tensor_free(clock);
        graph_free(g);
        arena_free(arena);
        device_close(d);
    }
    free(noise.bytes);
}

static void inputs_are_the_trainer_s(void **state) {
    (void)state;
    Array x0 = array_of("x0", "<f4", 5), t = array_of("t", "<i4", 2), y = array_of("y", "<i4", 2);
    Array other = array_of("y_balanced", "<i4", 2), dropped = array_of("dropped", "|u1", 1);
    RunConfig c;
    Error err;
    char *run = xstrdup(temp_path("prepared")), resume[] = "--resume", *words[] = { resume, run };
    if (!run_config_parse(&c, 2, words, &err)) fail_msg("%s", err.msg);
    c.data = temp_path("data");
    Dataset *d = run_config_data(&c, SPLIT_TRAIN, &err);
    assert_true(d && run_config_resolve(&c, dataset_info(d), &err));
    Batcher *b = batcher_new(&c, dataset_info(d));
    int drops = 0;
    for (int s = 0; s < COUNT; s++) {
        float image[BATCH * IMAGE];
        int32_t time[BATCH], label[BATCH], second[BATCH], sample[BATCH];
        batcher_fill(b, FROM + s, 0, BATCH, &(BatchRows){ .x0 = image, .t = time, .y = label, .y_balanced = second,
                                                          .sample = sample });
        assert_memory_equal(image, (const float *)x0.a.data + s * BATCH * IMAGE, sizeof image);
        assert_memory_equal(time, (const int32_t *)t.a.data + s * BATCH, sizeof time);
        assert_memory_equal(label, (const int32_t *)y.a.data + s * BATCH, sizeof label);
        assert_memory_equal(second, (const int32_t *)other.a.data + s * BATCH, sizeof second);
        assert_int_equal(((const uint8_t *)dropped.a.data)[s], batcher_drops_labels(b, FROM + s));
        drops += ((const uint8_t *)dropped.a.data)[s];
    }
    assert_true(drops > 0 && drops < COUNT);             // of 40 steps at 1/10: both kinds are compared
    batcher_free(b);
    dataset_close(d);
    Array *all[] = { &x0, &t, &y, &other, &dropped };
    for (int i = 0; i < 5; i++) free(all[i]->bytes);
    free(run);
}

static void mistakes_are_refused(void **state) {
    (void)state;
    program_expect(ERR_USAGE, "data batches --run prepared");
    expect_in_stderr("--output");
    program_expect(ERR_FILE, "data batches --run nowhere --output c.npz");
    expect_in_stderr("nowhere");
    program_expect(ERR_USAGE, "data batches --run prepared --count 0 --output c.npz");
    assert_false(file_exists(temp_path("c.npz")));
    program_expect(ERR_USAGE, RUN "--prepare --out plain");                     // a run that is there already
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prepared_run_goes_on),
        cmocka_unit_test(noise_is_the_device_s),
        cmocka_unit_test(inputs_are_the_trainer_s),
        cmocka_unit_test(mistakes_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, tempdir_remove);
}
