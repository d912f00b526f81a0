// tests/io_shim.c - loaded before libc: numbers the system calls that save a checkpoint, and makes chosen ones fail.
//
// Environment:  IO_SHIM        MODE INDEX STICKY SKIP: from the save after SKIP saves on, calls are numbered 0, 1, ...;
//                              number INDEX fails by MODE, and so do all later ones if STICKY is 1
//               IO_SHIM_LOG    file that gets a line per numbered call: its name
// MODE: none; ENOSPC, EIO, EINTR: the call is not made (close: made all the same) and returns the error;
//       short: a write takes half of its bytes; kill: the process ends in place of the call; torn: after half of it;
//       every2: the first call of every second save fails with EIO, whatever INDEX and STICKY.
// A save's calls are those on NAME.safetensors.tmp, its rename, and the sync of the folder `checkpoints`.
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static struct {
    bool ready, sticky;
    char mode[16];
    int index, skip;
    int saves, calls;            // begun saves, numbered calls so far
    int file, folder;            // descriptors of the save; -1: none
    int log;
} shim = { .file = -1, .folder = -1, .log = -1 };

static void start(void) {
    if (shim.ready) return;
    shim.ready = true;
    const char *text = getenv("IO_SHIM"), *path = getenv("IO_SHIM_LOG");
    int sticky = 0;
    int n = text ? sscanf(text, "%15s %d %d %d", shim.mode, &shim.index, &sticky, &shim.skip) : 0;
    if (n != 4) strcpy(shim.mode, "none");
    shim.sticky = sticky;
    if (path) shim.log = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

// Numbers a call. True: it is one of those that fail.
static bool chosen(const char *name) {
    if (shim.saves <= shim.skip) return false;
    char line[32];
    int n = snprintf(line, sizeof line, "%s\n", name);
    if (shim.log >= 0) syscall(SYS_write, shim.log, line, (size_t)n);
    int at = shim.calls++;
    if (strcmp(shim.mode, "every2") == 0) return strcmp(name, "open") == 0 && shim.saves % 2 == 0;
    return strcmp(shim.mode, "none") != 0 && (at == shim.index || (shim.sticky && at > shim.index));
}

// What a chosen call that is no write does instead. True: it returns -1 with errno set.
static bool refuse(void) {
    if (strcmp(shim.mode, "kill") == 0 || strcmp(shim.mode, "torn") == 0) _exit(137);
    errno = strcmp(shim.mode, "ENOSPC") == 0 ? ENOSPC : strcmp(shim.mode, "EINTR") == 0 ? EINTR : EIO;
    return strcmp(shim.mode, "short") != 0;
}

static bool ends(const char *path, const char *with) {
    size_t n = strlen(path), m = strlen(with);
    return n >= m && strcmp(path + n - m, with) == 0;
}

static int open_any(const char *path, int flags, mode_t mode) {
    start();
    bool file = ends(path, ".safetensors.tmp") && (flags & O_ACCMODE) == O_WRONLY;
    bool folder = ends(path, "/checkpoints") && (flags & O_DIRECTORY) && shim.saves;
    if (file && shim.file < 0) shim.saves++;
    if ((file || folder) && chosen(file ? "open" : "open folder") && refuse()) return -1;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (file) shim.file = fd;
    if (folder) shim.folder = fd;
    return fd;
}

int open(const char *path, int flags, ...) {
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & O_CREAT ? (mode_t)va_arg(ap, int) : 0;
    va_end(ap);
    return open_any(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & O_CREAT ? (mode_t)va_arg(ap, int) : 0;
    va_end(ap);
    return open_any(path, flags, mode);
}

// offset -1: at the file's own.
static ssize_t write_any(int fd, const void *bytes, size_t n, off_t offset) {
    bool half = false;
    if (fd >= 0 && fd == shim.file && chosen(offset < 0 ? "write" : "pwrite")) {
        half = strcmp(shim.mode, "short") == 0 || strcmp(shim.mode, "torn") == 0;
        if (!half && refuse()) return -1;
    }
    if (half && n > 1) n /= 2;
    ssize_t done = offset < 0 ? syscall(SYS_write, fd, bytes, n) : syscall(SYS_pwrite64, fd, bytes, n, offset);
    if (half && strcmp(shim.mode, "torn") == 0) _exit(137);
    return done;
}

ssize_t write(int fd, const void *bytes, size_t n) { return write_any(fd, bytes, n, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t offset) { return write_any(fd, bytes, n, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t offset) { return write_any(fd, bytes, n, offset); }

int fsync(int fd) {
    bool file = fd >= 0 && fd == shim.file, folder = fd >= 0 && fd == shim.folder;
    if ((file || folder) && chosen(file ? "fsync" : "fsync folder") && refuse()) return -1;
    return (int)syscall(SYS_fsync, fd);
}

int close(int fd) {
    bool fails = fd >= 0 && fd == shim.file && chosen("close") && refuse();
    if (fd >= 0 && fd == shim.file) shim.file = -1;
    if (fd >= 0 && fd == shim.folder) shim.folder = -1;
    int why = errno, status = (int)syscall(SYS_close, fd);
    if (!fails) return status;
    errno = why;
    return -1;
}

int rename(const char *from, const char *to) {
    start();
    if (ends(from, ".safetensors.tmp") && chosen("rename") && refuse()) return -1;
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
