// core/base.h - what every file of the engine may assume: the shared types and checks, logging, a user's errors.
#ifndef CORE_BASE_H
#define CORE_BASE_H
#include "kernels/common/types.h"
EXTERN_C_BEGIN
// Exit codes of the program; an Error carries the one that its cause calls for.
enum {
    ERR_USAGE = 2,          // flag, configuration
    ERR_DIVERGED = 3,       // non-finite loss or gradients, by policy
    ERR_MEMORY = 4,
    ERR_IO = 5,             // reading or writing failed: disk full, permissions, no such file for writing
    ERR_FILE = 6,           // missing, truncated, corrupt or foreign input file
    ERR_INTERRUPTED = 75,   // stopped by a signal; everything is saved and can be resumed
};
// A user's mistake (bad flag, missing file) is reported, not aborted: functions return false and fill *err.
// The message is one line: the thing, the place, the mend. No newline at its end.
typedef struct { int code; char msg[512]; } Error;
#ifdef __GNUC__
__attribute__((format(printf, 3, 4)))
#endif
bool error_set(Error *err, int code, const char *fmt, ...);   // always false: return error_set(err, ERR_FILE, "...");

// One line on stderr, prefixed with seconds since start. A live progress line on a terminal is cleared first.
#ifdef __GNUC__
__attribute__((format(printf, 1, 2)))
#endif
void log_info(const char *fmt, ...);
#ifdef __GNUC__
__attribute__((format(printf, 1, 2)))
#endif
void log_warn(const char *fmt, ...);          // the same with "warning: "
// A line rewritten in place on a terminal; elsewhere an ordinary line at most every 10 s. NULL ends it.
void log_progress(const char *line);

void  *xmalloc(size_t bytes);                 // aborts (exit 4) with a message where there is no memory; never NULL
void  *xcalloc(size_t count, size_t size);    // zeroed; overflow of count * size is no memory
void  *xrealloc(void *p, size_t bytes);
char  *xstrdup(const char *s);
char  *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));   // caller frees
bool   mul_size(size_t a, size_t b, size_t *out);    // *out = a * b; false on overflow
// Work that can be stopped: from stop_catch on, the first SIGINT, SIGTERM or SIGUSR1 is only noted, for the loop to ask
// for, and a second one ends the program at once. stop_release: they end it again, as they do without.
void   stop_catch(void);
void   stop_release(void);
bool   stop_requested(void);
double now_seconds(void);                     // monotonic clock
EXTERN_C_END
#endif
