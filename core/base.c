// core/base.c - errors, the log, memory that is there or ends the program, fatal(), and the stream of the host kinds.
#include "core/base.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

// ---- element types

size_t dtype_size(DType dt) {
    switch (dt) {
    case DT_F32: return 4;
    case DT_BF16: return 2;
    case DT_F64: return 8;
    case DT_I32: return 4;
    case DT_U8: return 1;
    }
    fatal(__FILE__, __LINE__, "dt is a DType", "it is %d", (int)dt);
}

const char *dtype_name(DType dt) {
    switch (dt) {
    case DT_F32: return "f32";
    case DT_BF16: return "bf16";
    case DT_F64: return "f64";
    case DT_I32: return "i32";
    case DT_U8: return "u8";
    }
    return "?";
}

// ---- errors

// Text from files and file names ends up in messages: a line break or an escape sequence must not reach a terminal.
static void one_line(char *s) {
    for (; *s; s++)
        if ((unsigned char)*s < 32 || *s == 127) *s = '?';
}

bool error_set(Error *err, int code, const char *fmt, ...) {
    if (!err) return false;
    char msg[sizeof err->msg];      // apart: an argument may well be err->msg itself
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    if (n < 0) snprintf(msg, sizeof msg, "(a message that cannot be formatted)");
    if (n >= (int)sizeof msg) memcpy(msg + sizeof msg - 4, "...", 4);
    one_line(msg);
    err->code = code;
    memcpy(err->msg, msg, sizeof msg);
    return false;
}

// ---- the log. The lock of stderr guards the statics.

static char live[512];              // the progress line: shown on a terminal, waiting to be shown elsewhere
static bool live_on;

double now_seconds(void) {
    struct timespec t;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0, "%s", strerror(errno));
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Seconds since the first line of the log, which stands near enough to the program's start.
static double log_seconds(void) {
    static double start = -1;
    if (start < 0) start = now_seconds();
    return now_seconds() - start;
}

// Shows the progress line, cut to the terminal's width: a wrapped line could not be rewritten in place.
static void show_live(void) {
    struct winsize size;
    int columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1 : 79;
    fprintf(stderr, "\r%.*s\033[K", columns, live);
    fflush(stderr);
}

__attribute__((format(printf, 2, 0)))
static void log_line(const char *prefix, const char *fmt, va_list ap) {
    int saved = errno;
    flockfile(stderr);
    bool redraw = live_on && isatty(STDERR_FILENO);
    if (redraw) fputs("\r\033[K", stderr);
    fprintf(stderr, "[%8.1f] %s", log_seconds(), prefix);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    if (redraw) show_live();
    fflush(stderr);
    funlockfile(stderr);
    errno = saved;
}

void log_info(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    log_line("", fmt, ap);
    va_end(ap);
}

void log_warn(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    log_line("warning: ", fmt, ap);
    va_end(ap);
}

void log_progress(const char *line) {
    static double last = -1e9;      // when a plain line was last written
    flockfile(stderr);
    bool tty = isatty(STDERR_FILENO);
    if (line) {
        snprintf(live, sizeof live, "%s", line);
        one_line(live);
        live_on = true;
        if (tty) show_live();
    }
    // Where nothing can be rewritten, ten seconds lie between lines; the last one is shown whatever the time.
    if (live_on && !tty && (!line || now_seconds() - last >= 10)) {
        fprintf(stderr, "[%8.1f] %s\n", log_seconds(), live);
        last = line ? now_seconds() : -1e9;
        live_on = false;
    }
    if (!line) {
        if (live_on) fputc('\n', stderr);
        live_on = false;
    }
    fflush(stderr);
    funlockfile(stderr);
}

// ---- memory

void out_of_memory(size_t bytes) {
    fflush(stdout);
    fprintf(stderr, "cbdm: out of memory: %.1f MiB more are not to be had; close other programs or ask for less "
            "(a smaller --batch)\n", (double)bytes / 1048576);
    _Exit(ERR_MEMORY);              // not exit(): handlers may need memory, and other threads may still run
}

bool mul_size(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

void *xmalloc(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    if (!p) out_of_memory(bytes);
    return p;
}

void *xcalloc(size_t count, size_t size) {
    size_t bytes;
    if (!mul_size(count, size, &bytes)) out_of_memory(SIZE_MAX);
    void *p = calloc(bytes ? bytes : 1, 1);
    if (!p) out_of_memory(bytes);
    return p;
}

void *xrealloc(void *p, size_t bytes) {
    void *q = realloc(p, bytes ? bytes : 1);
    if (!q) out_of_memory(bytes);
    return q;
}

char *xstrdup(const char *s) {
    size_t n = strlen(s) + 1;
    return memcpy(xmalloc(n), s, n);
}

char *xasprintf(const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    CHECK(n >= 0, "the format \"%s\" cannot be printed", fmt);
    char *s = xmalloc((size_t)n + 1);
    vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    return s;
}

// ---- broken invariants

static _Thread_local char crumb[256];

void crumb_set(const char *where) {
    snprintf(crumb, sizeof crumb, "%s", where ? where : "");
}

void fatal(const char *file, int line, const char *cond, const char *fmt, ...) {
    fflush(stdout);
    flockfile(stderr);
    if (live_on && isatty(STDERR_FILENO)) fputc('\n', stderr);
    fprintf(stderr, "%s:%d: CHECK(%s) failed: ", file, line, cond);
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    if (crumb[0]) fprintf(stderr, "  in %s\n", crumb);
    fflush(stderr);
    funlockfile(stderr);
    abort();
}

// ---- streams. Every kind's Stream begins with its Status, so that these two functions serve all of them; the host
// kinds run at once and need nothing else.

struct Stream { Status status; };

Stream *stream_host(void) {
    static Stream host;
    return &host;
}

Status stream_status(const Stream *s) {
    return s->status;
}

void stream_fail(Stream *s, int code, const char *what) {
    if (s->status.code == 0 && code != 0) s->status = (Status){ code, what };
}
