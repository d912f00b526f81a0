// tests/program.h - running the program under test in the tests' folder, and looking at the runs it leaves there.
#ifndef TESTS_PROGRAM_H
#define TESTS_PROGRAM_H
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include "core/file.h"
#include "models/model.h"
#include "tests/tempdir.h"

// Flags of a network so small that a step takes milliseconds; its data is what program_write_data leaves.
#define TINY "--data data --imb-type none --image-size 8 --ch 8 --ch-mult 1,2 --groups 4 --attn 1 --res-blocks 1 " \
             "--batch 4 --warmup 5 --preview-every 0 --probe-every 0 "
enum { TINY_IMAGES = 60, TINY_SIDE = 8, TINY_CLASSES = 3 };

static char program_stderr[1 << 16];          // what the last program that was waited for wrote to stderr
static void (*program_prepare)(void);         // called in the child before the program starts; NULL: nothing

static inline bool long_tests(void) {
    const char *s = getenv("CBDM_LONG");
    return s && *s && strcmp(s, "0") != 0;
}

static inline void write_bytes(const char *name, const void *bytes, size_t n) {
    FILE *f = fopen(temp_path(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

// The folder data: an IDX set of TINY_IMAGES grey images of noise, labels 0, 1, 2, 0, ...
static inline void program_write_data(void) {
    uint8_t images[16 + TINY_IMAGES * TINY_SIDE * TINY_SIDE] = { 0, 0, 8, 3, 0, 0, 0, TINY_IMAGES, 0, 0, 0, TINY_SIDE,
                                                                 0, 0, 0, TINY_SIDE };
    uint8_t labels[8 + TINY_IMAGES] = { 0, 0, 8, 1, 0, 0, 0, TINY_IMAGES };
    uint32_t x = 1;
    for (size_t i = 16; i < sizeof images; i++) images[i] = (uint8_t)((x = x * 1664525u + 1013904223u) >> 24);
    for (int i = 0; i < TINY_IMAGES; i++) labels[8 + i] = (uint8_t)(i % TINY_CLASSES);
    assert_true(dir_make(temp_path("data"), NULL));
    write_bytes("data/train-images-idx3-ubyte", images, sizeof images);
    write_bytes("data/train-labels-idx1-ubyte", labels, sizeof labels);
}

// For program_prepare: the program is loaded with this library before libc.
static inline void program_preload(const char *shim) {
    const char *asan = getenv("ASAN_OPTIONS");           // a sanitizer wants to be first; here it need not be
    char *options = xasprintf("%s%sverify_asan_link_order=0", asan ? asan : "", asan ? ":" : "");
    setenv("ASAN_OPTIONS", options, 1);
    setenv("LD_PRELOAD", shim, 1);
    free(options);
}

// Starts `cbdm LINE` in the tests' folder; words of line are separated by spaces. Its stderr goes to NAME.err.
static inline pid_t program_start(const char *name, const char *line) {
    char *argv[128] = { (char *)(uintptr_t)CBDM_PROGRAM }, *text = xstrdup(line), *save = NULL;
    int argc = 1;
    for (char *w = strtok_r(text, " ", &save); w && argc < 127; w = strtok_r(NULL, " ", &save)) argv[argc++] = w;
    char *err = xasprintf("%s.err", name);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);             // a test that fails leaves no trainer behind
        if (chdir(tempdir) != 0) _exit(127);
        int fd = open(err, O_WRONLY | O_CREAT | O_TRUNC, 0644), out = open("/dev/null", O_WRONLY);
        if (fd < 0 || out < 0 || dup2(fd, 2) < 0 || dup2(out, 1) < 0) _exit(127);
        setenv("OMP_NUM_THREADS", "1", 0);            // networks this small gain nothing from a second one
        setenv("OMP_WAIT_POLICY", "passive", 0);
        if (program_prepare) program_prepare();
        execv(CBDM_PROGRAM, argv);
        _exit(127);
    }
    free(err);
    free(text);
    return pid;
}

// Waits; returns the exit code, or minus the signal that ended it. program_stderr is what it wrote.
static inline int program_wait(const char *name, pid_t pid) {
    int status;
    while (waitpid(pid, &status, 0) < 0) assert_int_equal(errno, EINTR);
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.3900s/%.100s.err", tempdir, name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    program_stderr[fread(program_stderr, 1, sizeof program_stderr - 1, f)] = 0;
    fclose(f);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

__attribute__((format(printf, 1, 2)))
static inline int program_run(const char *fmt, ...) {
    char line[4096];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    assert_true(n > 0 && n < (int)sizeof line);
    return program_wait("run", program_start("run", line));
}

// Runs and fails the test unless it ends with this code.
#define program_expect(code, ...) do {                                                                    \
        int got_ = program_run(__VA_ARGS__);                                                              \
        if (got_ != (code))                                                                               \
            fail_msg("exit code %d, not %d, of cbdm %s:\n%s", got_, (code), #__VA_ARGS__, program_stderr); \
    } while (0)

static inline void expect_in_stderr(const char *part) {
    if (!strstr(program_stderr, part)) fail_msg("no \"%s\" in:\n%s", part, program_stderr);
}

static inline void sleep_seconds(double s) {
    struct timespec t = { (time_t)s, (long)((s - (double)(time_t)s) * 1e9) };
    while (nanosleep(&t, &t) != 0 && errno == EINTR) continue;
}

// ---- runs, named relative to the tests' folder

static inline uint8_t *read_bytes(const char *relative, size_t *n) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.2000s/%.2000s", tempdir, relative);
    uint8_t *bytes;
    Error err;
    if (!file_read(path, (size_t)1 << 30, &bytes, n, &err)) fail_msg("%s", err.msg);
    return bytes;
}

static inline int run_checkpoints(const char *run, int64_t **steps) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.2000s/%.2000s", tempdir, run);
    return checkpoint_list(path, steps);
}

// Relative; caller frees.
static inline char *run_checkpoint(const char *run, int64_t step) { return checkpoint_path(run, step); }

// The checkpoint of step in both runs must be the same bytes.
static inline void expect_same_checkpoint(const char *a, const char *b, int64_t step) {
    char *path_a = run_checkpoint(a, step), *path_b = run_checkpoint(b, step);
    size_t n_a, n_b;
    uint8_t *bytes_a = read_bytes(path_a, &n_a), *bytes_b = read_bytes(path_b, &n_b);
    if (n_a != n_b || memcmp(bytes_a, bytes_b, n_a) != 0) fail_msg("%s and %s differ", path_a, path_b);
    free(bytes_a);
    free(bytes_b);
    free(path_a);
    free(path_b);
}

// All tensors of the checkpoint of step in both runs are the same bytes; the configuration may differ.
static inline void expect_same_weights(const char *a, const char *b, int64_t step) {
    const char *runs[] = { a, b };
    SafeTensors *st[2];
    for (int i = 0; i < 2; i++) {
        char *relative = run_checkpoint(runs[i], step), *path = xasprintf("%s/%s", tempdir, relative);
        Error err;
        st[i] = st_open(path, &err);
        if (!st[i]) fail_msg("%s", err.msg);
        free(relative);
        free(path);
    }
    assert_int_equal(st_count(st[0]), st_count(st[1]));
    for (int i = 0; i < st_count(st[0]); i++) {
        const StTensor *x = st_get(st[0], i), *y = st_find(st[1], x->name);
        assert_true(y && x->bytes == y->bytes);
        if (memcmp(x->data, y->data, x->bytes) != 0) fail_msg("%s of step %lld differs", x->name, (long long)step);
    }
    st_close(st[0]);
    st_close(st[1]);
}

// Blanks a flag's pair, written `times` times, out of a checkpoint's head and signs the head anew: a file of before
// there was the flag.
static inline void forget_flag(const char *run, int64_t step, const char *flag, const char *value, int times) {
    static const char sum[] = "\"crc32c\":\"";
    char *path = run_checkpoint(run, step), *pair = xasprintf("\\\"%s\\\": \\\"%s\\\", ", flag, value), digits[9];
    size_t n;
    uint8_t *bytes = read_bytes(path, &n), *at = bytes;
    size_t head = 8 + bytes[0] + 256u * bytes[1] + 65536u * bytes[2];
    for (int i = 0; i < times; i++) {
        at = memmem(at, head - (size_t)(at - bytes), pair, strlen(pair));
        assert_non_null(at);
        memset(at, ' ', strlen(pair));
    }
    at = memmem(bytes, head, sum, sizeof sum - 1);
    assert_non_null(at);
    memset(at + sizeof sum - 1, '0', 8);
    snprintf(digits, sizeof digits, "%08x", crc32c(0, bytes, head));
    memcpy(at + sizeof sum - 1, digits, 8);
    write_bytes(path, bytes, n);
    free(bytes);
    free(pair);
    free(path);
}

// A copy of the checkpoint whose averaged last layer is near the end of the floats: the first prediction is infinite.
static inline void write_poisoned(const char *from, const char *to) {
    Error err;
    SafeTensors *st = st_open(from, &err);
    if (!st) fail_msg("%s", err.msg);
    int n = st_count(st), poisoned = 0;
    StTensor *t = xcalloc((size_t)n, sizeof *t);
    for (int i = 0; i < n; i++) {
        t[i] = *st_get(st, i);
        if (strcmp(t[i].name, "ema.tail.2.weight") != 0) continue;
        float *huge = xmalloc(t[i].bytes);
        for (size_t j = 0; j < t[i].bytes / 4; j++) huge[j] = 3e38f;
        t[i].data = huge;
        poisoned = i;
    }
    assert_true(poisoned > 0);
    if (!st_write(to, t, n, NULL, NULL, 0, &err)) fail_msg("%s", err.msg);
    free((void *)(uintptr_t)t[poisoned].data);
    free(t);
    st_close(st);
}

// stats.jsonl without what depends on the clock; caller frees.
static inline char *run_stats(const char *run) {
    char *path = xasprintf("%s/stats.jsonl", run);
    size_t n;
    char *text = (char *)read_bytes(path, &n);
    static const char key[] = ", \"images_per_second\": ";
    for (char *at = text; (at = strstr(at, key));) {
        char *end = at + sizeof key - 1 + strspn(at + sizeof key - 1, "0123456789.e+-");
        memmove(at, end, strlen(end) + 1);
    }
    free(path);
    return text;
}

static inline void expect_same_stats(const char *a, const char *b) {
    char *text_a = run_stats(a), *text_b = run_stats(b);
    assert_true(strlen(text_a) > 0);
    if (strcmp(text_a, text_b) != 0) {
        size_t i = 0;
        while (text_a[i] && text_a[i] == text_b[i]) i++;
        while (i && text_a[i - 1] != '\n') i--;
        fail_msg("stats.jsonl of %s and %s differ from byte %zu on: %.200s\nand: %.200s", a, b, i, text_a + i,
                 text_b + i);
    }
    free(text_a);
    free(text_b);
}

// The step of the last whole line of stats.jsonl; -1: there is none.
static inline int64_t run_last_stat(const char *run) {
    char path[PATH_MAX], line[1024];
    snprintf(path, sizeof path, "%.2000s/%.2000s/stats.jsonl", tempdir, run);
    FILE *f = fopen(path, "r");
    long long last = -1, step;
    while (f && fgets(line, sizeof line, f))
        if (strchr(line, '\n') && sscanf(line, "{\"step\": %lld", &step) == 1) last = step;
    if (f) fclose(f);
    return last;
}

// Waits until the run has logged a step; fails the test if that takes over a minute.
static inline void run_wait_logged(const char *run, int64_t step) {
    for (int i = 0; i < 60000 && run_last_stat(run) < step; i++) sleep_seconds(1e-3);
    assert_true(run_last_stat(run) >= step);
}
#endif
