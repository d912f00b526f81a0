// tests/trace_shim.c - loaded before libc: records the system calls that change files and folders under world/.
//
// TRACE_SHIM_LOG names the file that gets a record per call that succeeded, a line each:
//   start                          a process begins: it has no descriptors
//   open FD FLAGS PATH             for writing, or of a folder; FLAGS as a decimal number
//   write FD OFFSET N              and behind the line the N bytes
//   truncate FD N  |  fsync FD  |  close FD
//   rename PATH TO  |  link PATH TO  |  unlink PATH  |  mkdir PATH
// Paths hold no spaces. stdio writes by calls that cannot be replaced; what is to be durable must not go through it,
// and a stream opened for writing under world/ ends the process.
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { FDS = 4096 };
static bool traced[FDS];
static int record_to = -2;                       // -2: not opened yet, -1: nothing is recorded

static void record(const void *bytes, size_t n) {
    for (const char *p = bytes; n;) {
        long done = syscall(SYS_write, record_to, p, n);
        if (done <= 0) _exit(125);
        p += done;
        n -= (size_t)done;
    }
}

__attribute__((format(printf, 1, 2)))
static void say(const char *fmt, ...) {
    char line[8192];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (n <= 0 || n >= (int)sizeof line) _exit(125);
    record(line, (size_t)n);
}

static bool in_world(const char *path) {
    if (record_to == -2) {
        const char *log = getenv("TRACE_SHIM_LOG");
        record_to = log ? (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
        if (record_to >= 0) say("start\n");
    }
    return record_to >= 0 && strncmp(path, "world", 5) == 0 && (path[5] == '/' || !path[5]);
}

static bool is_traced(int fd) { return fd >= 0 && fd < FDS && traced[fd]; }

static int open_any(const char *path, int flags, mode_t mode) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (fd < 0 || !in_world(path) || ((flags & O_ACCMODE) == O_RDONLY && !(flags & O_DIRECTORY))) return fd;
    if (fd >= FDS) _exit(125);
    traced[fd] = true;
    say("open %d %d %s\n", fd, flags, path);
    return fd;
}

#define OPEN(name)                                                                \
    int name(const char *path, int flags, ...) {                                  \
        va_list ap;                                                               \
        va_start(ap, flags);                                                      \
        mode_t mode = flags & O_CREAT ? (mode_t)va_arg(ap, int) : 0;              \
        va_end(ap);                                                               \
        return open_any(path, flags, mode);                                       \
    }
OPEN(open)
OPEN(open64)

// offset -1: at the file's own.
static ssize_t write_any(int fd, const void *bytes, size_t n, off_t offset) {
    ssize_t done = offset < 0 ? syscall(SYS_write, fd, bytes, n) : syscall(SYS_pwrite64, fd, bytes, n, offset);
    if (done <= 0 || !is_traced(fd)) return done;
    if (offset < 0) offset = syscall(SYS_lseek, fd, 0, SEEK_CUR) - done;
    say("write %d %lld %zd\n", fd, (long long)offset, done);
    record(bytes, (size_t)done);
    return done;
}

ssize_t write(int fd, const void *bytes, size_t n) { return write_any(fd, bytes, n, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t offset) { return write_any(fd, bytes, n, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t offset) { return write_any(fd, bytes, n, offset); }

static int truncate_any(int fd, off_t n) {
    int status = (int)syscall(SYS_ftruncate, fd, n);
    if (status == 0 && is_traced(fd)) say("truncate %d %lld\n", fd, (long long)n);
    return status;
}

int ftruncate(int fd, off_t n) { return truncate_any(fd, n); }
int ftruncate64(int fd, off64_t n) { return truncate_any(fd, n); }

static int sync_any(int fd, long call) {
    int status = (int)syscall(call, fd);
    if (status == 0 && is_traced(fd)) say("fsync %d\n", fd);
    return status;
}

int fsync(int fd) { return sync_any(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_any(fd, SYS_fdatasync); }

int close(int fd) {
    if (is_traced(fd)) {
        traced[fd] = false;
        say("close %d\n", fd);
    }
    return (int)syscall(SYS_close, fd);
}

int rename(const char *from, const char *to) {
    int status = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (status == 0 && in_world(to)) say("rename %s %s\n", from, to);
    return status;
}

int link(const char *from, const char *to) {
    int status = (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (status == 0 && in_world(to)) say("link %s %s\n", from, to);
    return status;
}

int unlink(const char *path) {
    int status = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (status == 0 && in_world(path)) say("unlink %s\n", path);
    return status;
}

int mkdir(const char *path, mode_t mode) {
    int status = (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    if (status == 0 && in_world(path)) say("mkdir %s\n", path);
    return status;
}

// Reading through stdio is fine.
static FILE *fopen_any(const char *path, const char *mode) {
    if (in_world(path) && strcmp(mode, "r") != 0 && strcmp(mode, "rb") != 0) {
        fprintf(stderr, "trace_shim: %s is opened as a stream (\"%s\")\n", path, mode);
        _exit(125);
    }
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, mode[0] == 'r' ? (strchr(mode, '+') ? O_RDWR : O_RDONLY)
                          : O_WRONLY | O_CREAT | (mode[0] == 'a' ? O_APPEND : O_TRUNC), 0666);
    return fd < 0 ? NULL : fdopen(fd, mode);
}

FILE *fopen(const char *path, const char *mode) { return fopen_any(path, mode); }
FILE *fopen64(const char *path, const char *mode) { return fopen_any(path, mode); }
