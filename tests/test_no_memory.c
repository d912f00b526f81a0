// tests/test_no_memory.c - the n-th request for memory finds none: of training, sampling and the metrics; of a GPU's
// too, where there is the emulator.
//
// Each run is loaded with alloc_shim.c, counted once, and then repeated with request n failing, alone or with all later
// ones: every n under CBDM_LONG=1; under CBDM_LONG=K/N, a part of that, every N-th from the K-th on; else a choice of
// them. A run ends with code 4 and one line that says so, or, where it copes, with code 0 and the results of an
// undisturbed run. What is left can be gone on from by repeating the command, and then gives these results as well.
//
// Left out are the requests of libraries that end the process or throw through C by themselves, which no caller can
// mend: the loader, libgomp ("libgomp: Out of memory", exit 1), libstdc++ and oneDNN (std::bad_alloc), OpenBLAS.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "tests/program.h"

#define CASE TESTS_DIR "/golden/metrics-1/"
enum { STEPS = 2, SHORT_RUNS = 40, HANG_SECONDS = 120 };

static char order[64];                         // ALLOC_SHIM of the next program; empty: without the shim

static void preload(void) {
    alarm(HANG_SECONDS);
    if (!order[0]) return;
    program_preload(ALLOC_SHIM_FILE);
    setenv("ALLOC_SHIM", order, 1);
    setenv("ALLOC_SHIM_LOG", "requests.log", 1);
}

static int setup(void **state) {
    if (tempdir_make(state) != 0) return -1;
    program_prepare = preload;
    program_write_data();
    return 0;
}

static void remove_all(const char *name) {
    char *command = xasprintf("cd '%s' && rm -rf '%s' requests.log", tempdir, name);
    assert_int_equal(system(command), 0);
    free(command);
}

static bool is_there(const char *name) {
    char *path = xasprintf("%s/%s", tempdir, name);
    bool there = file_exists(path);
    free(path);
    return there;
}

static void expect_same_file(const char *a, const char *b, const char *name) {
    char *path[] = { xasprintf("%s%s", a, name), xasprintf("%s%s", b, name) };
    size_t n[2];
    uint8_t *bytes[] = { read_bytes(path[0], &n[0]), read_bytes(path[1], &n[1]) };
    if (n[0] != n[1] || memcmp(bytes[0], bytes[1], n[0]) != 0) fail_msg("%s and %s differ", path[0], path[1]);
    for (int i = 0; i < 2; i++) {
        free(path[i]);
        free(bytes[i]);
    }
}

// ---- what is run, and what it must leave
typedef struct {
    const char *command;                       // with %s for what it writes
    const char *whole;                         // what an undisturbed run wrote
    void (*expect_results)(void);              // in "out", as in whole
    const char *resume;                        // goes on from what a failed run left; NULL: the command itself
} Job;

static void expect_run(void) {
    expect_same_checkpoint("run", "out", STEPS - 1);
    expect_same_checkpoint("run", "out", STEPS);
    expect_same_stats("run", "out");
}

static void expect_samples(void) {
    static const char *const files[] = { "samples.npz", "grid.png", "manifest.jsonl", "000/000000.png",
                                         "001/000001.png" };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) expect_same_file("samples/", "out/", files[i]);
}

static void expect_values(void) { expect_same_file("values", "out", ""); }

static const Job training = { "train " TINY "--T 20 --steps 2 --save-every 1 --log-every 1 --out %s", "run", expect_run,
                              "train --resume out" };
static const Job sampling = { "sample --checkpoint run --sampler ddim --steps 2 --seeds 0-1 --batch 2 --out %s",
                              "samples", expect_samples, NULL };
static const Job metrics = { "eval metrics --gen " CASE "gen_features.npy --ref " CASE "ref_features.npy --gen-labels "
                             CASE "gen_labels.npy --ref-labels " CASE "ref_labels.npy --bootstrap 0 --prd-runs 1 "
                             "--skip mind --json %s", "values", expect_values, NULL };

static int run_job(const Job *job, const char *out) {
    char *line = xasprintf(job->command, out);
    int code = program_run("%s", line);
    free(line);
    return code;
}

// The last line tells, and no other.
static void expect_one_line(const char *when) {
    size_t n = strlen(program_stderr);
    if (!n || program_stderr[n - 1] != '\n') fail_msg("%s: no whole line at the end of:\n%s", when, program_stderr);
    program_stderr[n - 1] = 0;
    char *last = strrchr(program_stderr, '\n');
    last = last ? last + 1 : program_stderr;
    bool told = strncmp(last, "cbdm: out of memory: ", 21) == 0 || (strstr(last, "error: ") && strstr(last, "memory"));
    if (!told) fail_msg("%s: no last line that tells: %s", when, last);
    *last = 0;
    if (strstr(program_stderr, "error: ")) fail_msg("%s: more than one line that tells:\n%s", when, program_stderr);
}

// As the log has it: "FAILED MODULE+OFFSET"; caller frees.
static char *who_failed(void) {
    size_t n = 0;
    char *text = is_there("requests.log") ? (char *)read_bytes("requests.log", &n) : xstrdup("nothing failed");
    text[strcspn(text, "\n")] = 0;
    return text;
}

static int64_t requests_of(const Job *job) {
    remove_all("out");
    snprintf(order, sizeof order, "0 0 program");
    assert_int_equal(run_job(job, "out"), 0);
    job->expect_results();
    order[0] = 0;
    size_t n;
    char *text = (char *)read_bytes("requests.log", &n);
    int64_t count = strtoll(text, NULL, 10);
    free(text);
    return count;
}

// Begins again where nothing can be gone on from.
static void finish(const Job *job) {
    int64_t *steps = NULL;
    bool resumes = job->resume && run_checkpoints("out", &steps) > 0;
    free(steps);
    int code = resumes ? program_run("%s", job->resume) : run_job(job, "out");
    if (code != 0) fail_msg("exit code %d when repeated:\n%s", code, program_stderr);
    job->expect_results();
}

// Its exit code.
static int run_without(const Job *job, int64_t n, bool sticky, bool finishes) {
    remove_all("out");
    snprintf(order, sizeof order, "%lld %d program", (long long)n, sticky);
    int code = run_job(job, "out");
    order[0] = 0;
    char *who = who_failed(), *when = xasprintf("%.20s, request %lld%s (%s)", job->command, (long long)n,
                                                sticky ? " and all later ones" : "", who);
    if (code != 0 && code != ERR_MEMORY) fail_msg("%s: exit code %d:\n%s", when, code, program_stderr);
    if (code == 0) job->expect_results();
    else expect_one_line(when);
    if (code != 0 && finishes) finish(job);
    free(who);
    free(when);
    return code;
}

// CBDM_LONG=K/N; 1/1 where it names no part.
static void read_part(int *k, int *n) {
    const char *part = getenv("CBDM_LONG");
    if (part && sscanf(part, "%d/%d", k, n) == 2 && *k >= 1 && *k <= *n) return;
    *k = *n = 1;
}

// In the short form every job has SHORT_RUNS, spread evenly, every second sticky and every fourth finished.
static void every_request_fails(void **state) {
    const Job *job = *state;
    assert_int_equal(run_job(job, job->whole), 0);
    int64_t n = requests_of(job);
    assert_true(n > 10 * SHORT_RUNS);
    int runs = 0, coped = 0, part, parts;
    read_part(&part, &parts);
    for (int64_t i = part; i <= n; i += long_tests() ? parts : n / SHORT_RUNS) {
        bool sticky = runs++ % 2;
        coped += run_without(job, i, sticky, long_tests() || runs % 4 < 2) == 0;
        if (long_tests()) coped += run_without(job, i, !sticky, true) == 0;
    }
    printf("%lld requests, %d runs, %d coped\n", (long long)n, runs, coped);
    assert_true(coped < runs / 2);
}

// ---- memory of a GPU
#ifdef CBDM_EMU
// Every cudaMalloc of the command fails once; the last run has fewer.
static void expect_told_of_every_cuda_malloc(const char *command) {
    setenv("CBDM_EMU", "check=0", 1);
    int n = 0, code = ERR_MEMORY;
    while (code == ERR_MEMORY) {
        char *failure = xasprintf("fail=cudaMalloc:%d:2", ++n);       // 2: cudaErrorMemoryAllocation
        setenv("CBDM_EMU_CUDA", failure, 1);
        free(failure);
        remove_all("out");
        code = program_run("%s", command);
        if (code != 0 && code != ERR_MEMORY) fail_msg("cudaMalloc %d: exit code %d:\n%s", n, code, program_stderr);
        if (code == ERR_MEMORY) expect_in_stderr("error: no memory for ");
    }
    unsetenv("CBDM_EMU");
    unsetenv("CBDM_EMU_CUDA");
    printf("%d calls of cudaMalloc\n", n - 1);
    assert_true(n > 4);
}

static void every_cuda_malloc_fails(void **state) {
    (void)state;
    expect_told_of_every_cuda_malloc("train " TINY "--T 20 --steps 1 --device emu --out out");
    expect_told_of_every_cuda_malloc("sample --checkpoint run --sampler ddim --steps 1 --seeds 0 --device emu "
                                     "--batch 1 --out out");
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        { "training", every_request_fails, NULL, NULL, (void *)(uintptr_t)&training },
        { "sampling", every_request_fails, NULL, NULL, (void *)(uintptr_t)&sampling },
        { "metrics", every_request_fails, NULL, NULL, (void *)(uintptr_t)&metrics },
#ifdef CBDM_EMU
        cmocka_unit_test(every_cuda_malloc_fails),
#endif
    };
    return cmocka_run_group_tests(tests, setup, tempdir_remove);
}
