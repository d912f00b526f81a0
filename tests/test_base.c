// tests/test_base.c - errors, the log, memory, fatal(): what they print and the codes that a program ends with.
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "core/base.h"

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1          // clang has its own way of saying what gcc says by this
#endif
#endif

// Runs f in a child process that writes its stderr to ends[1]. Returns its wait status; what it wrote, read from
// ends[0], lands in text.
static int in_child_with(int ends[2], void (*f)(void), char *text, size_t size) {
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct rlimit no_core = { 0, 0 };
        setrlimit(RLIMIT_CORE, &no_core);
        signal(SIGABRT, SIG_DFL);       // cmocka catches it to fail the test
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        f();
        _exit(0);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t got; n < size - 1 && (got = read(ends[0], text + n, size - 1 - n)) > 0;) n += (size_t)got;
    text[n] = 0;
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static int in_child(void (*f)(void), char *text, size_t size) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    return in_child_with(ends, f, text, size);
}

static void errors_are_one_line(void **unused) {
    (void)unused;
    Error err = { 0 };
    assert_false(error_set(&err, ERR_FILE, "%s: %d", "a\nb\033[31m", 7));
    assert_int_equal(err.code, ERR_FILE);
    assert_string_equal(err.msg, "a?b?[31m: 7");
    assert_false(error_set(&err, ERR_IO, "in %s", err.msg));            // its own text as an argument
    assert_string_equal(err.msg, "in a?b?[31m: 7");
    assert_false(error_set(NULL, ERR_IO, "nobody asks"));
    char longer[2 * sizeof err.msg];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    error_set(&err, ERR_IO, "%s", longer);
    assert_int_equal(strlen(err.msg), sizeof err.msg - 1);
    assert_string_equal(err.msg + sizeof err.msg - 4, "...");
}

static void fail_check(void) {
    crumb_set("node 7 conv2d_forward");
    CHECK(1 + 1 == 3, "it is %d", 2);
}

static void fatal_tells_where_and_aborts(void **unused) {
    (void)unused;
    char text[1024];
    int status = in_child(fail_check, text, sizeof text);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_non_null(strstr(text, "test_base.c"));
    assert_non_null(strstr(text, "CHECK(1 + 1 == 3) failed: it is 2"));
    assert_non_null(strstr(text, "node 7 conv2d_forward"));
}

static void ask_too_much(void) {
    size_t count = SIZE_MAX / 4;
    free(xcalloc(count, 8));                            // overflows
}

static void ask_too_large(void) {
    free(xmalloc((size_t)PTRDIFF_MAX));                 // no machine has it
}

static void no_memory_is_exit_4(void **unused) {
    (void)unused;
    char text[1024];
    int status = in_child(ask_too_much, text, sizeof text);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == ERR_MEMORY);
    assert_non_null(strstr(text, "out of memory"));
#if !defined(__SANITIZE_ADDRESS__)                      // AddressSanitizer ends the program itself, with its own code
    status = in_child(ask_too_large, text, sizeof text);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == ERR_MEMORY);
#else
    (void)ask_too_large;
#endif
}

static void memory_and_text(void **unused) {
    (void)unused;
    unsigned char *p = xcalloc(3, 5);
    for (int i = 0; i < 15; i++) assert_int_equal(p[i], 0);
    memcpy(p, "0123456789", 10);
    p = xrealloc(p, 100000);
    assert_memory_equal(p, "0123456789", 10);
    free(p);
    free(xmalloc(0));
    char *a = xasprintf("%d-%s", 12, "long enough to need more than any small buffer would hold, to be sure of it");
    char *b = xstrdup(a);
    assert_string_equal(a, b);
    assert_int_equal(strlen(a), 3 + 75);
    free(a);
    free(b);
    size_t product;
    assert_true(mul_size(SIZE_MAX / 2, 2, &product));
    assert_int_equal(product, SIZE_MAX - 1);
    assert_false(mul_size(SIZE_MAX / 2 + 1, 2, &product));
}

static void write_log(void) {
    log_info("step %d", 3);
    log_progress("10 of 30");           // the first line is shown at once
    log_progress("20 of 30");           // too soon
    log_progress("30 of 30");           // too soon, but the last before the end
    log_warn("careful");
    log_progress(NULL);
    log_progress(NULL);                 // nothing more to end
    log_info("done");
}

static void log_without_terminal(void **unused) {
    (void)unused;
    char text[1024], *line = text;
    static const char *const want[] = { "step 3", "10 of 30", "warning: careful", "30 of 30", "done" };
    assert_int_equal(in_child(write_log, text, sizeof text), 0);
    for (int i = 0; i < 5; i++) {
        char *end = strchr(line, '\n');
        assert_non_null(end);
        *end = 0;
        double seconds;
        int at = 0;
        assert_int_equal(sscanf(line, "[%lf] %n", &seconds, &at), 1);
        assert_true(seconds >= 0 && seconds < 60);
        assert_string_equal(line + at, want[i]);
        line = end + 1;
    }
    assert_string_equal(line, "");
}

static void write_log_to_terminal(void) {
    log_progress("step 1");
    log_progress("step 2 and a text that is too long for the line");
    log_info("saved");
    log_progress(NULL);
    log_info("done");
}

// A line too long for the terminal is cut; a message clears the line, and it is shown again below.
static void log_with_terminal(void **unused) {
    (void)unused;
    struct winsize size = { .ws_row = 5, .ws_col = 20 };
    char text[1024];
    int ends[2] = { posix_openpt(O_RDWR | O_NOCTTY), -1 };
    if (ends[0] < 0 || grantpt(ends[0]) != 0 || unlockpt(ends[0]) != 0) skip();     // no pseudo-terminals here
    ends[1] = open(ptsname(ends[0]), O_RDWR | O_NOCTTY);
    assert_true(ends[1] >= 0);
    assert_int_equal(ioctl(ends[1], TIOCSWINSZ, &size), 0);
    assert_int_equal(in_child_with(ends, write_log_to_terminal, text, sizeof text), 0);
    for (char *s = text; (s = strchr(s, '[')); s++)     // the times; other brackets belong to escape sequences
        if (s == text || s[-1] != 27) memcpy(s, "[  TIME  ]", 10);
    assert_string_equal(text, "\rstep 1\x1b[K\rstep 2 and a text t\x1b[K\r\x1b[K[  TIME  ] saved\r\n"
                        "\rstep 2 and a text t\x1b[K\r\n[  TIME  ] done\r\n");
}

static void types_and_clock(void **unused) {
    (void)unused;
    static const struct { DType dt; size_t size; const char *name; } want[] = {
        { DT_F32, 4, "f32" }, { DT_BF16, 2, "bf16" }, { DT_F64, 8, "f64" }, { DT_I32, 4, "i32" }, { DT_U8, 1, "u8" } };
    for (int i = 0; i < 5; i++) {
        assert_int_equal(dtype_size(want[i].dt), want[i].size);
        assert_string_equal(dtype_name(want[i].dt), want[i].name);
    }
    double before = now_seconds();
    usleep(2000);
    double passed = now_seconds() - before;
    assert_true(passed >= 0.002 && passed < 60);
}

static void streams_keep_the_first_failure(void **unused) {
    (void)unused;
    Stream *s = stream_host();
    assert_int_equal(stream_status(s).code, 0);
    stream_fail(s, 0, "this is none");
    assert_int_equal(stream_status(s).code, 0);
    stream_fail(s, 5, "first");
    stream_fail(s, 6, "second");
    assert_int_equal(stream_status(s).code, 5);
    assert_string_equal(stream_status(stream_host()).what, "first");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_are_one_line),
        cmocka_unit_test(fatal_tells_where_and_aborts),
        cmocka_unit_test(no_memory_is_exit_4),
        cmocka_unit_test(memory_and_text),
        cmocka_unit_test(log_without_terminal),
        cmocka_unit_test(log_with_terminal),
        cmocka_unit_test(types_and_clock),
        cmocka_unit_test(streams_keep_the_first_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
