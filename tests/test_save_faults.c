// tests/test_save_faults.c - every system call of a save fails, or is the last that the process makes.
//
// Whatever fails: no crash, no damaged file under a checkpoint's name, the checkpoint before it stays, training goes on
// or ends with exit code 5, and the run resumed without faults is byte for byte the undisturbed one.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "tests/program.h"

// Saves at 2, 4, 6, ... and at the end. The first is left alone.
#define FAULTY "train " TINY "--steps 12 --save-every 2 --log-every 1 --keep 0 --out "
enum { STEPS = 12, MAX_CALLS = 64 };

static char order[64];                         // IO_SHIM of the next program; empty: without the shim
static char calls[MAX_CALLS][16];              // names of the calls of one save
static int n_calls;

static void preload(void) {
    if (!order[0]) return;
    program_preload(IO_SHIM);
    setenv("IO_SHIM", order, 1);
    setenv("IO_SHIM_LOG", "calls.log", 1);
}

static void remove_run(const char *run) {
    char *command = xasprintf("cd '%s' && rm -rf '%s' calls.log", tempdir, run);
    assert_int_equal(system(command), 0);
    free(command);
}

static int setup(void **state) {
    if (tempdir_make(state) != 0) return -1;
    program_prepare = preload;
    program_write_data();
    return 0;
}

// The calls of the second save, by running without faults.
static void calls_of_a_save_are_numbered(void **state) {
    (void)state;
    program_expect(0, FAULTY "whole");
    snprintf(order, sizeof order, "none 0 0 1");
    program_expect(0, "train " TINY "--steps 4 --save-every 2 --log-every 1 --keep 0 --out counted");
    order[0] = 0;
    size_t n;
    char *text = (char *)read_bytes("calls.log", &n), *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line && n_calls < MAX_CALLS; line = strtok_r(NULL, "\n", &save))
        snprintf(calls[n_calls++], sizeof calls[0], "%s", line);
    free(text);
    static const char *const needed[] = { "open", "write", "fsync", "close", "rename", "open folder", "fsync folder" };
    int found = 0;                             // in this order: the file is whole and on disk before it gets its name
    for (int i = 0; i < n_calls && found < 7; i++) found += strcmp(calls[i], needed[found]) == 0;
    if (found < 7) fail_msg("a save of %d calls has no \"%s\" where it should", n_calls, needed[found]);
    printf("a save is %d calls\n", n_calls);
}

static void expect_whole_files(const char *run, const char *when) {
    int64_t *steps;
    int n = run_checkpoints(run, &steps);
    if (n < 1 || steps[0] != 2) fail_msg("%s: the checkpoint before is gone", when);
    for (int i = 0; i < n; i++) {
        char *relative = run_checkpoint(run, steps[i]), *path = xasprintf("%s/%s", tempdir, relative);
        Error err;
        SafeTensors *st = st_open(path, &err);
        if (!st) fail_msg("%s: %s", when, err.msg);
        st_close(st);
        free(relative);
        free(path);
    }
    free(steps);
}

// A run with this fault; its exit code. What it leaves is checked, and finished without faults.
static int faulty_run(const char *mode, int index, bool sticky) {
    char when[96];
    snprintf(when, sizeof when, "%s%s at call %d (%s)", mode, sticky ? " from then on" : "", index, calls[index]);
    remove_run("faulty");
    snprintf(order, sizeof order, "%s %d %d 1", mode, index, sticky);
    int code = program_run(FAULTY "faulty");
    order[0] = 0;
    static char kept[sizeof program_stderr];
    memcpy(kept, program_stderr, sizeof kept);
    if (code != 0 && code != ERR_IO && code != 137) fail_msg("%s: exit code %d: %s", when, code, kept);
    expect_whole_files("faulty", when);
    int again = program_run("train --resume faulty");
    if (again != 0) fail_msg("%s: exit code %d of the resumed run: %s", when, again, program_stderr);
    expect_same_checkpoint("whole", "faulty", STEPS);
    expect_same_stats("whole", "faulty");
    memcpy(program_stderr, kept, sizeof kept);
    return code;
}

// All indices under CBDM_LONG=1; else every third, another third for each kind of fault.
static bool sampled(int index, int kind) { return long_tests() || (index + kind) % 3 == 0; }

static void expect_code(int code, int want, const char *mode, int index, bool sticky) {
    if (code != want)
        fail_msg("%s%s at call %d (%s): exit code %d, not %d:\n%s", mode, sticky ? " from then on" : "", index,
                 calls[index], code, want, program_stderr);
}

// An error once: a warning that names the file, and the next save is the next try. For good: three tries, then exit 5.
static void errors_are_survived(void **state) {
    (void)state;
    static const char *const modes[] = { "ENOSPC", "EIO" };
    for (int kind = 0; kind < 4; kind++)
        for (int i = 0; i < n_calls; i++) {
            if (!sampled(i, kind)) continue;
            const char *mode = modes[kind / 2];
            bool sticky = kind % 2;
            expect_code(faulty_run(mode, i, sticky), sticky ? ERR_IO : 0, mode, i, sticky);
            expect_in_stderr("warning: ");
            expect_in_stderr("training goes on");
            expect_in_stderr("faulty/checkpoints/step-000000004.safetensors");
            if (sticky) expect_in_stderr("error: ");
            if (sticky) expect_in_stderr("step-000000008.safetensors");          // the third in a row
            if (strcmp(mode, "ENOSPC") == 0 && strcmp(calls[i], "write") == 0) expect_in_stderr("bytes needed");
        }
}

// Only failures in a row count: five of ten saves fail, every other one, and the run ends well.
static void failures_apart_do_not_add_up(void **state) {
    (void)state;
    remove_run("faulty");
    snprintf(order, sizeof order, "every2 0 0 0");
    int code = program_run("train " TINY "--steps 21 --save-every 2 --log-every 1 --keep 0 --out faulty");
    order[0] = 0;
    if (code != 0) fail_msg("exit code %d: %s", code, program_stderr);
    for (int step = 4; step <= 20; step += 4) {
        char part[64];
        snprintf(part, sizeof part, "step-%09d.safetensors", step);
        expect_in_stderr(part);
    }
    expect_whole_files("faulty", "every second save failed");
}

// Interrupted calls and short writes are no errors at all, but for a call that is interrupted for ever.
static void interruptions_go_unnoticed(void **state) {
    (void)state;
    static const char *const modes[] = { "EINTR", "short" };
    for (int kind = 0; kind < 4; kind++)
        for (int i = 0; i < n_calls; i++) {
            if (!sampled(i, kind)) continue;
            const char *mode = modes[kind / 2];
            bool sticky = kind % 2, endless = kind == 1;
            expect_code(faulty_run(mode, i, sticky), endless ? ERR_IO : 0, mode, i, sticky);
            if (!endless && strstr(program_stderr, "warning")) fail_msg("%s at call %d: %s", mode, i, program_stderr);
        }
}

static void killed_at_every_call(void **state) {
    (void)state;
    static const char *const modes[] = { "kill", "torn" };
    int killed = 0;
    for (int kind = 0; kind < 2; kind++)
        for (int i = 0; i < n_calls; i++) {
            bool write = strstr(calls[i], "write") != NULL;
            if (kind == 1 && !write) continue;           // torn differs from kill in writes only
            expect_code(faulty_run(modes[kind], i, false), 137, modes[kind], i, false);
            killed++;
        }
    printf("%d kills\n", killed);
    assert_true(killed > n_calls);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_of_a_save_are_numbered),
        cmocka_unit_test(errors_are_survived),
        cmocka_unit_test(failures_apart_do_not_add_up),
        cmocka_unit_test(interruptions_go_unnoticed),
        cmocka_unit_test(killed_at_every_call),
    };
    return cmocka_run_group_tests(tests, setup, tempdir_remove);
}
