// tests/test_resume.c - runs that are stopped, interrupted, killed or damaged go on as if nothing had happened.
//
// The oracle is always the same: a run that was never disturbed. Weights, averages, moments, counters and statistics of
// the disturbed one must be its equal, byte for byte.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <dirent.h>
#include "tests/program.h"

static int setup(void **state) {
    if (tempdir_make(state) != 0) return -1;
    program_write_data();
    return 0;
}

// ---- stop and go on

static void twenty_and_twenty(const char *flags, const char *whole, const char *halves) {
    program_expect(0, "train " TINY "%s --steps 40 --save-every 10 --log-every 7 --keep 0 --out %s", flags, whole);
    program_expect(0, "train " TINY "%s --steps 20 --save-every 10 --log-every 7 --keep 0 --out %s", flags, halves);
    program_expect(0, "train --resume %s --steps 40 %s", halves, flags);
    expect_same_checkpoint(whole, halves, 30);
    expect_same_checkpoint(whole, halves, 40);
    expect_same_stats(whole, halves);
}

static void two_halves_are_the_whole(void **state) {
    (void)state;
    twenty_and_twenty("", "whole", "halves");
}

static void also_in_micro_batches(void **state) {
    (void)state;
    twenty_and_twenty("--micro-batch 2", "whole-micro", "halves-micro");
}

static void also_on_the_reference_device(void **state) {
    (void)state;
    twenty_and_twenty("--device ref", "whole-ref", "halves-ref");
}

// Looking on, by previews and probes, changes nothing of the training, and is itself the same in both halves.
static void also_with_previews_and_probes(void **state) {
    (void)state;
#define LOOK "--preview-every 10 --preview-steps 2 --probe-every 10 --probe-images 6 "
    twenty_and_twenty(LOOK, "whole-look", "halves-look");
    size_t n, m;
    uint8_t *a = read_bytes("whole-look/previews/step-000000040.png", &n);
    uint8_t *b = read_bytes("halves-look/previews/step-000000040.png", &m);
    assert_int_equal(n, m);
    assert_memory_equal(a, b, n);
    free(a);
    free(b);
    char *text = run_stats("whole-look");
    assert_non_null(strstr(text, "{\"step\": 40, \"probe\": \"train\""));
    free(text);
    program_expect(0, "train --resume whole-look --steps 50");
    program_expect(0, "train --resume halves-look --steps 50 --preview-every 0 --probe-every 0");
    expect_same_weights("whole-look", "halves-look", 50);
}

static void seeds_make_different_runs(void **state) {      // else all the comparisons here would be empty
    (void)state;
    program_expect(0, "train " TINY "--seed 1 --steps 20 --save-every 10 --log-every 7 --keep 0 --out seed1");
    char *a = run_stats("halves"), *b = run_stats("seed1");
    assert_true(strncmp(a, b, 60) != 0);
    free(a);
    free(b);
}

// ---- interrupted and killed at random moments

enum { STEPS = 120, SAVE_EVERY = 15 };
#define LONGER "train " TINY "--steps 120 --save-every 15 --log-every 1 --keep 0 --out "
static double longer_seconds;                  // of one undisturbed run
static uint64_t chance;                        // xorshift

static double random_unit(void) {
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return (double)(chance >> 11) / 9007199254740992.0;
}

static void undisturbed(void) {
    if (longer_seconds > 0) return;
    chance = (uint64_t)time(NULL) * 2654435761u + 1;
    printf("seed of the random moments: %llu\n", (unsigned long long)chance);
    double start = now_seconds();
    program_expect(0, LONGER "longer");
    longer_seconds = now_seconds() - start;
}

// A run that was never so far as to save is started again; any other goes on.
static pid_t go_on(const char *run) {
    int64_t *steps;
    int n = run_checkpoints(run, &steps);
    free(steps);
    char line[1024];
    snprintf(line, sizeof line, n > 0 ? "train --resume %s" : LONGER "%s", run);
    return program_start("run", line);
}

static void finish_and_compare(const char *run) {
    int code = program_wait("run", go_on(run));
    if (code != 0) fail_msg("exit code %d: %s", code, program_stderr);
    int64_t *steps;
    int n = run_checkpoints(run, &steps), shared = 0;
    for (int i = 0; i < n; i++) {
        if (!steps[i] || steps[i] % SAVE_EVERY) continue;    // saved by a signal: the undisturbed run has none
        expect_same_checkpoint("longer", run, steps[i]);
        shared++;
    }
    free(steps);
    assert_int_equal(shared, STEPS / SAVE_EVERY);
    expect_same_stats("longer", run);
}

static void signals_lose_nothing(void **state) {
    (void)state;
    static const int signals[] = { SIGTERM, SIGINT, SIGUSR1 };
    undisturbed();
    int interrupted = 0, trials = long_tests() ? 60 : 6;
    for (int i = 0; i < trials; i++) {
        char run[32];
        snprintf(run, sizeof run, "signal%d", i % 60);
        pid_t pid = go_on(run);
        bool early = i % 6 > 2;                          // also while the program starts, but for the loader's part
        if (!early) run_wait_logged(run, 1);
        sleep_seconds(random_unit() * longer_seconds * (early ? 0.3 : 0.7));
        kill(pid, signals[i % 3]);
        int code = program_wait("run", pid);
        if (code != 0 && code != ERR_INTERRUPTED && !(early && code == -signals[i % 3] && !program_stderr[0]))
            fail_msg("exit code %d: %s", code, program_stderr);
        if (code == ERR_INTERRUPTED) {
            char hint[64];
            snprintf(hint, sizeof hint, "cbdm train --resume %s", run);
            expect_in_stderr(hint);
            int64_t *steps;
            int n = run_checkpoints(run, &steps);
            int64_t logged = run_last_stat(run);
            assert_true(n > 0 && steps[n - 1] == (logged < 0 ? 0 : logged));     // no step is lost
            free(steps);
            interrupted++;
        }
        finish_and_compare(run);
    }
    printf("%d signals, %d runs interrupted\n", trials, interrupted);
    assert_true(interrupted > 0);
}

static int count_tmp(const char *run) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.2000s/%.1000s/checkpoints", tempdir, run);
    DIR *d = opendir(path);
    int n = 0;
    for (struct dirent *e; d && (e = readdir(d));) n += strstr(e->d_name, ".tmp") != NULL;
    if (d) closedir(d);
    return n;
}

// After a kill: what stands there is whole, and not more than one interval of steps is lost.
static void look_at_killed(const char *run) {
    int64_t *steps, newest = 0;
    int n = run_checkpoints(run, &steps);
    for (int i = 0; i < n; i++) {
        char *relative = run_checkpoint(run, steps[i]), path[PATH_MAX];
        snprintf(path, sizeof path, "%.2000s/%.1000s", tempdir, relative);
        Error err;
        SafeTensors *st = st_open(path, &err);
        if (!st) fail_msg("after a kill: %s", err.msg);
        st_close(st);
        free(relative);
        newest = steps[i];
    }
    free(steps);
    int64_t logged = run_last_stat(run);
    if (logged - newest > SAVE_EVERY)
        fail_msg("killed after step %lld with step %lld saved", (long long)logged, (long long)newest);
}

static void kills_lose_one_interval_at_most(void **state) {
    (void)state;
    undisturbed();
    int wanted = long_tests() ? 60 : 8, killed = 0, torn = 0, finished = 0;
    for (int i = 0; killed < wanted; i++) {
        assert_true(i < 20 * wanted);
        char run[32];
        snprintf(run, sizeof run, "kill%d", finished % 50);
        pid_t pid = go_on(run);
        sleep_seconds(random_unit() * longer_seconds * 0.9);
        kill(pid, SIGKILL);
        int code = program_wait("run", pid);
        if (code != 0 && code != -SIGKILL) fail_msg("exit code %d: %s", code, program_stderr);
        killed += code == -SIGKILL;
        torn += count_tmp(run) > 0;
        look_at_killed(run);
        if (code == 0 || killed % 4 == 0 || killed == wanted) {
            finish_and_compare(run);
            assert_int_equal(count_tmp(run), 0);
            finished++;
        }
    }
    printf("%d killed, %d of them left a .tmp, %d runs finished\n", killed, torn, finished);
}

// ---- damage

// Copies the run `whole` to `to`: configuration, statistics, checkpoints.
static void copy_run(const char *to) {
    char command[2 * PATH_MAX];
    snprintf(command, sizeof command, "cd '%.2000s' && rm -rf '%.100s' && cp -r whole '%.100s'", tempdir, to, to);
    assert_int_equal(system(command), 0);
}

static void overwrite(const char *relative, const uint8_t *bytes, size_t n) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.2000s/%.1000s", tempdir, relative);
    FILE *f = fopen(path, "wb");
    assert_true(f && (!n || fwrite(bytes, 1, n, f) == n));
    assert_int_equal(fclose(f), 0);
}

static void damaged_newest_is_passed_over(void **state) {
    (void)state;
    size_t n;
    uint8_t *good = read_bytes("whole/checkpoints/step-000000040.safetensors", &n), *bad = xmalloc(n + 1);
    for (int kind = 0; kind < 3; kind++) {
        memcpy(bad, good, n);
        copy_run("damaged");
        if (kind == 1) bad[n / 2] ^= 0x10;
        if (kind == 2) bad[n] = 0;
        overwrite("damaged/checkpoints/step-000000040.safetensors", bad, kind == 0 ? n / 3 : kind == 1 ? n : n + 1);
        program_expect(0, "train --resume damaged --device cpu");
        expect_in_stderr("warning: ");
        expect_in_stderr("step-000000040.safetensors");
        expect_in_stderr("the checkpoint before it is used");
        expect_same_checkpoint("whole", "damaged", 40);
        expect_same_stats("whole", "damaged");
    }
    free(good);
    free(bad);
}

static int silent;                             // stderr while it is silenced
static void hush(bool on) {
    fflush(stderr);
    if (on) {
        silent = dup(2);
        int null = open("/dev/null", O_WRONLY);
        assert_true(silent >= 0 && null >= 0 && dup2(null, 2) == 2);
        close(null);
    } else {
        assert_true(dup2(silent, 2) == 2);
        close(silent);
    }
}

// Every damaged form of the newest checkpoint must lead to the one before it.
static void no_damage_is_accepted(void **state) {
    (void)state;
    size_t n;
    uint8_t *good = read_bytes("whole/checkpoints/step-000000040.safetensors", &n), *bad = xmalloc(n + 64);
    copy_run("damaged");
    char run[PATH_MAX];
    snprintf(run, sizeof run, "%.2000s/damaged", tempdir);
    int trials = long_tests() ? 2000 : 300;
    hush(true);
    for (int i = 0; i < trials; i++) {
        size_t length = n, at = (size_t)(random_unit() * (double)n), header = 12000 < n ? 12000 : n;
        memcpy(bad, good, n);
        if (i % 4 == 0) length = i < 80 ? (size_t)i / 4 : at;                   // truncated, also to almost nothing
        else if (i % 4 == 1) bad[at] ^= (uint8_t)(1 << (i / 4 % 8));            // a bit of anything
        else if (i % 4 == 2) bad[(size_t)(random_unit() * (double)header)] ^= (uint8_t)(1 << (i / 4 % 8));
        else for (length = n + 1 + (size_t)(i % 63), at = n; at < length; at++) bad[at] = (uint8_t)i;
        overwrite("damaged/checkpoints/step-000000040.safetensors", bad, length);
        Error err;
        char *found = checkpoint_find(run, &err);
        bool right = found && strstr(found, "step-000000030.safetensors");
        free(found);
        if (!right) {
            hush(false);
            fail_msg("damage %d (%zu of %zu bytes) was accepted", i, length, n);
        }
    }
    hush(false);
    overwrite("damaged/checkpoints/step-000000040.safetensors", good, n);       // the judge can say yes too
    char *found = checkpoint_find(run, NULL);
    assert_non_null(strstr(found, "step-000000040.safetensors"));
    free(found);
    free(good);
    free(bad);
    printf("%d damaged files, none accepted\n", trials);
}

static void all_damaged_is_an_error(void **state) {
    (void)state;
    copy_run("damaged");
    for (int step = 10; step <= 40; step += 10) {
        char *path = run_checkpoint("damaged", step);
        overwrite(path, (const uint8_t *)"no", 2);
        free(path);
    }
    program_expect(ERR_FILE, "train --resume damaged");
    expect_in_stderr("damaged/checkpoints/step-");
}

// A damaged file of a later step must not push the good ones out of --keep.
static void damaged_file_does_not_count_as_kept(void **state) {
    (void)state;
    copy_run("damaged");
    overwrite("damaged/checkpoints/step-000000040.safetensors", (const uint8_t *)"no", 2);
    program_expect(0, "train --resume damaged --steps 34 --save-every 2 --keep 1 --milestone-every 0");
    program_expect(0, "train --resume damaged --steps 40");
    expect_in_stderr("step 34 of 40");
    char *a = run_stats("whole"), *b = run_stats("damaged");
    assert_string_equal(a, b);
    free(a);
    free(b);
}

static void torn_statistics_are_mended(void **state) {
    (void)state;
    copy_run("torn");
    char *path = run_checkpoint("torn", 40), full[PATH_MAX];
    snprintf(full, sizeof full, "%.2000s/%.1000s", tempdir, path);
    assert_int_equal(unlink(full), 0);
    free(path);
    snprintf(full, sizeof full, "%.2000s/torn/stats.jsonl", tempdir);
    FILE *f = fopen(full, "a");                          // as two lives of a killed run would leave it
    assert_non_null(f);
    fputs("not even JSON\n{\"step\": 35, \"loss\": 1}\n{\"step\": 36, \"lo", f);
    fclose(f);
    program_expect(0, "train --resume torn");
    expect_same_stats("whole", "torn");
    expect_same_checkpoint("whole", "torn", 40);
    snprintf(full, sizeof full, "%.2000s/torn/stats.jsonl", tempdir);
    assert_int_equal(unlink(full), 0);                   // and gone altogether: the run goes on
    program_expect(0, "train --resume torn --steps 45 --log-every 1");
    assert_int_equal(run_last_stat("torn"), 45);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_halves_are_the_whole),
        cmocka_unit_test(also_in_micro_batches),
        cmocka_unit_test(also_on_the_reference_device),
        cmocka_unit_test(also_with_previews_and_probes),
        cmocka_unit_test(seeds_make_different_runs),
        cmocka_unit_test(signals_lose_nothing),
        cmocka_unit_test(kills_lose_one_interval_at_most),
        cmocka_unit_test(damaged_newest_is_passed_over),
        cmocka_unit_test(no_damage_is_accepted),
        cmocka_unit_test(all_damaged_is_an_error),
        cmocka_unit_test(damaged_file_does_not_count_as_kept),
        cmocka_unit_test(torn_statistics_are_mended),
    };
    return cmocka_run_group_tests(tests, setup, tempdir_remove);
}
