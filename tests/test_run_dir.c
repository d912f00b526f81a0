// tests/test_run_dir.c - the folder of a run: who may write there, what is kept in it, what a resumed run may change.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "tests/program.h"

#define WHOLE "train " TINY "--steps 40 --save-every 10 --log-every 7 --keep 0 --out "

static int setup(void **state) {
    if (tempdir_make(state) != 0) return -1;
    program_write_data();
    program_expect(0, WHOLE "whole");
    return 0;
}

// ---- who may write where

static void second_trainer_is_refused(void **state) {
    (void)state;
    pid_t first = program_start("first", "train " TINY "--steps 100000 --save-every 50 --log-every 1 --out busy");
    run_wait_logged("busy", 51);
    program_expect(ERR_USAGE, "train --resume busy --steps 52");
    expect_in_stderr("busy");
    expect_in_stderr("another process");
    program_expect(ERR_USAGE, "train " TINY "--steps 10 --out busy");
    assert_int_equal(kill(first, SIGTERM), 0);
    assert_int_equal(program_wait("first", first), ERR_INTERRUPTED);
    int64_t at = run_last_stat("busy");
    program_expect(0, "train --resume busy --steps %lld", (long long)at + 2);      // the lock went with its owner
}

static void new_run_needs_a_new_folder(void **state) {
    (void)state;
    program_expect(ERR_USAGE, "train " TINY "--steps 3 --out whole");
    expect_in_stderr("--resume whole");
    program_expect(ERR_USAGE, "train " TINY "--steps 3");
    expect_in_stderr("--out");
}

// A run that ended before its first checkpoint holds nothing to lose: the same command starts it again.
static void run_without_checkpoint_starts_again(void **state) {
    (void)state;
    pid_t pid = program_start("first", "train " TINY "--steps 40 --save-every 1000 --log-every 1 --out early");
    run_wait_logged("early", 3);
    kill(pid, SIGKILL);
    program_wait("first", pid);
    program_expect(ERR_FILE, "train --resume early");
    expect_in_stderr("no checkpoint");
    program_expect(0, WHOLE "early");
    expect_same_checkpoint("whole", "early", 40);
    expect_same_stats("whole", "early");
}

// --resume means a run, not one of its files or steps: there would be no folder to go on in.
static void only_a_run_is_resumed(void **state) {
    (void)state;
    program_expect(ERR_USAGE, "train --resume whole@20");
    expect_in_stderr("--init-from");
    program_expect(ERR_USAGE, "train --resume whole/checkpoints/step-000000020.safetensors");
    program_expect(ERR_FILE, "train --resume nothing-here");
    expect_in_stderr("nothing-here");
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.2000s/whole@20", tempdir);
    assert_false(file_exists(path));
}

// ---- what is kept, what may change

static void expect_steps(const char *run, int n, const int64_t *want) {
    int64_t *steps;
    assert_int_equal(run_checkpoints(run, &steps), n);
    for (int i = 0; i < n; i++) assert_int_equal(steps[i], want[i]);
    free(steps);
}

static void keep_and_milestones(void **state) {
    (void)state;
    program_expect(0, "train " TINY "--steps 60 --save-every 10 --keep 2 --milestone-every 20 --out kept");
    expect_steps("kept", 4, (int64_t[]){ 20, 40, 50, 60 });
    program_expect(0, "train " TINY "--steps 30 --save-every 10 --keep 1 --milestone-every 0 --out kept1");
    expect_steps("kept1", 1, (int64_t[]){ 30 });
    program_expect(0, "train --resume kept1 --steps 50 --keep 0 --save-every 5");
    expect_steps("kept1", 5, (int64_t[]){ 30, 35, 40, 45, 50 });
}

static void changed_flags_are_refused_by_name(void **state) {
    (void)state;
    static const char *const changes[][2] = {
        { "--lr", "1e-3" }, { "--batch", "8" }, { "--seed", "7" }, { "--tau", "0.5" }, { "--gamma", "0.5" },
        { "--ch", "16" }, { "--groups", "2" }, { "--objective", "ddpm" }, { "--warmup", "6" }, { "--dropout", "0.2" },
        { "--ema-decay", "0.5" }, { "--label-drop", "0.5" }, { "--T", "500" }, { "--micro-batch", "2" },
        { "--grad-clip", "2" }, { "--imb-factor", "0.5" }, { "--beta1", "0.8" }, { "--target", "uniform" },
    };
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        program_expect(ERR_USAGE, "train --resume whole %s %s", changes[i][0], changes[i][1]);
        char part[64];
        const char *value = strcmp(changes[i][1], "1e-3") == 0 ? "0.001" : changes[i][1];
        snprintf(part, sizeof part, "%s %s", changes[i][0], value);
        expect_in_stderr(part);
        expect_in_stderr("was started with");
    }
    program_expect(0, "train --resume whole --lr 2e-4 --batch 4 --ch-mult 1,2");     // said again: no change
}

static void other_data_is_refused(void **state) {
    (void)state;
    program_expect(0, WHOLE "moved");
    char command[PATH_MAX + 200];
    snprintf(command, sizeof command, "cd '%.2000s' && cp -r data kept-data && printf x | "
             "dd of=data/train-images-idx3-ubyte bs=1 seek=100 conv=notrunc 2>/dev/null", tempdir);
    assert_int_equal(system(command), 0);
    int code = program_run("train --resume moved --steps 50");
    snprintf(command, sizeof command, "cd '%.2000s' && rm -r data && mv kept-data data", tempdir);
    assert_int_equal(system(command), 0);
    assert_int_equal(code, ERR_FILE);
    expect_in_stderr("the data in ");
}

static const StTensor *tensor_of(SafeTensors *st, const char *prefix, const char *name) {
    char full[300];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return st_find(st, full);
}

// With a learning rate of 0 the new run's weights are still what it began with.
static void init_from_takes_the_averages(void **state) {
    (void)state;
    program_expect(0, "train " TINY "--init-from whole@20 --lr 0 --seed 5 --steps 1 --out from20");
    char from[PATH_MAX], to[PATH_MAX];
    snprintf(from, sizeof from, "%.2000s/whole/checkpoints/step-000000020.safetensors", tempdir);
    snprintf(to, sizeof to, "%.2000s/from20/checkpoints/step-000000001.safetensors", tempdir);
    SafeTensors *a = st_open(from, NULL), *b = st_open(to, NULL);
    assert_true(a && b);
    int weights = 0, apart = 0;
    for (int i = 0; i < st_count(b); i++) {
        const StTensor *t = st_get(b, i), *ema = tensor_of(a, "ema.", t->name), *trained = tensor_of(a, "", t->name);
        if (!ema) continue;
        assert_int_equal(t->bytes, ema->bytes);
        assert_memory_equal(t->data, ema->data, t->bytes);
        apart += memcmp(ema->data, trained->data, t->bytes) != 0;
        weights++;
    }
    assert_true(weights > 20 && apart > 20);             // and the averages were not simply the weights
    st_close(a);
    st_close(b);
    program_expect(ERR_FILE, "train " TINY "--init-from whole@21 --steps 1 --out from21");
    expect_in_stderr("21");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(second_trainer_is_refused),
        cmocka_unit_test(new_run_needs_a_new_folder),
        cmocka_unit_test(run_without_checkpoint_starts_again),
        cmocka_unit_test(only_a_run_is_resumed),
        cmocka_unit_test(keep_and_milestones),
        cmocka_unit_test(changed_flags_are_refused_by_name),
        cmocka_unit_test(other_data_is_refused),
        cmocka_unit_test(init_from_takes_the_averages),
    };
    return cmocka_run_group_tests(tests, setup, tempdir_remove);
}
