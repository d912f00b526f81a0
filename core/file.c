// core/file.c - whole reads with limits, and files that appear whole or not at all.
//
// The order of a write is: PATH.tmp written, fsync, close, rename to PATH, fsync of the folder. Until the rename PATH
// is what it was; after the last fsync the new file survives a power loss. A PATH.tmp left by a killed process is
// overwritten by the next writer.
#include "core/file.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum {
    EINTR_MAX = 100,                // retries of one call; a storm of signals must not hang the program
    BUFFER_BYTES = 1 << 18,
};

static int open_retried(const char *path, int flags, mode_t mode) {
    for (int tries = 0;; tries++) {
        int fd = open(path, flags | O_CLOEXEC, mode);
        if (fd >= 0 || errno != EINTR || tries == EINTR_MAX) return fd;
    }
}

// 0, or the errno of what went wrong.
static int sync_file(int fd) {
    for (int tries = 0; fsync(fd) != 0;)
        if (errno != EINTR || tries++ == EINTR_MAX) return errno;
    return 0;
}

// ---- reading

static ssize_t read_retried(int fd, void *bytes, size_t n) {
    for (int tries = 0;; tries++) {
        ssize_t got = read(fd, bytes, n);
        if (got >= 0 || errno != EINTR || tries == EINTR_MAX) return got;
    }
}

// Reads exactly n bytes; the file must not have changed its size since fstat.
static bool read_all(int fd, const char *path, uint8_t *bytes, size_t n, Error *err) {
    for (size_t done = 0; done < n;) {
        ssize_t got = read_retried(fd, bytes + done, n - done);
        if (got < 0) return error_set(err, ERR_IO, "%s: reading failed at offset %zu: %s", path, done, strerror(errno));
        if (got == 0)
            return error_set(err, ERR_IO, "%s: ended at offset %zu of %zu: something else writes to it", path, done,
                             n);
        done += (size_t)got;
    }
    return true;
}

static bool read_open(int fd, const char *path, size_t limit, uint8_t **bytes, size_t *n, Error *err) {
    struct stat s;
    if (fstat(fd, &s) != 0) return error_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    if (S_ISDIR(s.st_mode)) return error_set(err, ERR_FILE, "%s: a folder, where a file is needed", path);
    if (!S_ISREG(s.st_mode)) return error_set(err, ERR_FILE, "%s: not an ordinary file", path);
    if ((uintmax_t)s.st_size > limit)
        return error_set(err, ERR_FILE, "%s: %jd bytes, more than the %zu that such a file may have", path,
                         (intmax_t)s.st_size, limit);
    size_t size = (size_t)s.st_size;
    uint8_t *p = malloc(size + 1);
    if (!p) return error_set(err, ERR_MEMORY, "%s: its %zu bytes do not fit in memory", path, size);
    if (!read_all(fd, path, p, size, err)) {
        free(p);
        return false;
    }
    p[size] = 0;
    *bytes = p;
    *n = size;
    return true;
}

bool file_read(const char *path, size_t limit, uint8_t **bytes, size_t *n, Error *err) {
    CHECK(limit < SIZE_MAX, "room is needed for the 0 byte at the end");
    int fd = open_retried(path, O_RDONLY | O_NONBLOCK, 0);      // not blocking: a FIFO must not hang the program
    if (fd < 0) return error_set(err, ERR_FILE, "%s: cannot be opened: %s", path, strerror(errno));
    bool ok = read_open(fd, path, limit, bytes, n, err);
    close(fd);
    return ok;
}

bool file_exists(const char *path) {
    struct stat s;
    return stat(path, &s) == 0;
}

// ---- folders

// Makes durable that path has its name: it was made in its folder, or renamed to it. Where a file system cannot sync
// folders there is no more to do.
static bool dir_sync(const char *path) {
    const char *slash = strrchr(path, '/');
    char *dir = !slash ? xstrdup(".") : slash == path ? xstrdup("/") : xasprintf("%.*s", (int)(slash - path), path);
    int fd = open_retried(dir, O_RDONLY | O_DIRECTORY, 0);
    free(dir);
    if (fd < 0) return errno == EACCES;                         // a folder that may be written but not listed
    int why = sync_file(fd);
    close(fd);
    errno = why;
    return !why || why == EINVAL || why == ENOTSUP;
}

static bool dir_make_one(const char *path, Error *err) {
    struct stat s;
    if (mkdir(path, 0777) == 0)
        return dir_sync(path) || error_set(err, ERR_IO, "%s: made, but its folder cannot be synced: %s", path,
                                           strerror(errno));
    int why = errno;                // anything may be the errno for a folder that is there, EROFS included
    if (stat(path, &s) == 0) {
        if (S_ISDIR(s.st_mode)) return true;
        return error_set(err, ERR_IO, "%s: there is a file where a folder is needed", path);
    }
    return error_set(err, ERR_IO, "%s: the folder cannot be made: %s", path, strerror(why));
}

bool dir_make(const char *path, Error *err) {
    char *part = xstrdup(path);
    for (size_t n = strlen(part); n > 1 && part[n - 1] == '/';) part[--n] = 0;
    bool ok = *path || error_set(err, ERR_IO, "the name of a folder is empty");
    for (char *s = part + (*part == '/'); ok && *s; s++) {
        if (*s != '/' || s[-1] == '/') continue;
        *s = 0;
        ok = dir_make_one(part, err);
        *s = '/';
    }
    if (ok) ok = dir_make_one(part, err);
    free(part);
    return ok;
}

// ---- writing

struct FileWriter {
    char *path, *tmp;
    int fd;
    int why;                        // errno of the first failure, 0: none so far
    uint64_t offset;                // bytes handed to file_write, written or not
    uint64_t expected;              // promised to file_expect; UINT64_MAX: nothing was
    size_t filled;                  // bytes waiting in buffer
    uint8_t buffer[BUFFER_BYTES];
};

// Writes all of it and returns 0, or the errno of what went wrong. Short writes go on where they stopped.
static int write_all(int fd, const uint8_t *bytes, size_t n) {
    for (int tries = 0; n;) {
        ssize_t done = write(fd, bytes, n);
        if (done > 0) {
            bytes += done;
            n -= (size_t)done;
            tries = 0;
        } else if (done == 0 || errno != EINTR || tries++ == EINTR_MAX) {
            return done == 0 ? EIO : errno;
        }
    }
    return 0;
}

FileWriter *file_create(const char *path, Error *err) {
    struct stat s;
    if (lstat(path, &s) == 0 && !S_ISREG(s.st_mode) && !S_ISLNK(s.st_mode)) {
        error_set(err, ERR_IO, "%s: cannot be written: %s, which a file must not replace", path,
                  S_ISDIR(s.st_mode) ? "it is a folder" : "it is a device or the like");
        return NULL;
    }
    char *tmp = xasprintf("%s.tmp", path);
    int fd = open_retried(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK, 0644);
    if (fd < 0 || fstat(fd, &s) != 0 || !S_ISREG(s.st_mode)) {
        const char *mend = errno == ENOENT ? ": make the folder first"
                         : errno == ELOOP ? ": it is a link, remove it"
                         : errno == EACCES || errno == EROFS ? ": choose a folder that may be written" : "";
        if (fd >= 0) error_set(err, ERR_IO, "%s: cannot be written: not an ordinary file, remove it", tmp);
        else error_set(err, ERR_IO, "%s: cannot be written: %s%s", tmp, strerror(errno), mend);
        if (fd >= 0) close(fd);
        free(tmp);
        return NULL;
    }
    FileWriter *w = xmalloc(sizeof *w);
    w->path = xstrdup(path);
    w->tmp = tmp;
    w->fd = fd;
    w->why = 0;
    w->offset = 0;
    w->expected = UINT64_MAX;
    w->filled = 0;
    return w;
}

void file_expect(FileWriter *w, uint64_t bytes) {
    w->expected = bytes;
}

uint64_t file_offset(const FileWriter *w) {
    return w->offset;
}

static void flush_buffer(FileWriter *w) {
    if (!w->why) w->why = write_all(w->fd, w->buffer, w->filled);
    w->filled = 0;
}

bool file_write(FileWriter *w, const void *bytes, size_t n) {
    w->offset += n;                 // counted after a failure too: the message then tells the whole need
    if (n > BUFFER_BYTES - w->filled) flush_buffer(w);
    if (n >= BUFFER_BYTES) {
        if (!w->why) w->why = write_all(w->fd, bytes, n);
    } else if (n) {
        memcpy(w->buffer + w->filled, bytes, n);
        w->filled += n;
    }
    return w->why == 0;
}

bool file_patch(FileWriter *w, uint64_t offset, const void *bytes, size_t n) {
    CHECK(n <= w->offset && offset <= w->offset - n, "%zu bytes at %" PRIu64 " of %" PRIu64, n, offset, w->offset);
    flush_buffer(w);
    const uint8_t *p = bytes;
    for (int tries = 0; n && !w->why;) {
        ssize_t done = pwrite(w->fd, p, n, (off_t)offset);
        if (done > 0) {
            p += done;
            offset += (uint64_t)done;
            n -= (size_t)done;
        } else if (done == 0 || errno != EINTR || tries++ == EINTR_MAX) {
            w->why = done == 0 ? EIO : errno;
        }
    }
    return w->why == 0;
}

// Flush, sync, close, rename, sync the folder. Sets w->why on failure; *renamed: the new file is in place.
static void finish(FileWriter *w, bool *renamed) {
    flush_buffer(w);
    if (!w->why) w->why = sync_file(w->fd);
    if (close(w->fd) != 0 && errno != EINTR && !w->why) w->why = errno;
    w->fd = -1;
    for (int tries = 0; !w->why && rename(w->tmp, w->path) != 0;)
        if (errno != EINTR || tries++ == EINTR_MAX) w->why = errno;
    *renamed = !w->why;
    if (!w->why && !dir_sync(w->path)) w->why = errno;
}

static void full_disk(const FileWriter *w, Error *err) {
    const char *slash = strrchr(w->path, '/');
    char *dir = slash ? xasprintf("%.*s/", (int)(slash - w->path), w->path) : xstrdup(".");
    struct statvfs v;
    bool known = statvfs(dir, &v) == 0;
    free(dir);
    uint64_t needed = w->expected != UINT64_MAX ? w->expected : w->offset;
    uint64_t available = known ? (uint64_t)v.f_bavail * v.f_frsize : 0;
    char space[64] = "an unknown number of";
    if (known) snprintf(space, sizeof space, "%" PRIu64, available);
    error_set(err, ERR_IO, "%s: not written: %s: %" PRIu64 " bytes needed, %s bytes free: make room or write elsewhere "
              "(nothing was changed)", w->path, strerror(w->why), needed, space);
}

bool file_commit(FileWriter *w, Error *err) {
    CHECK(w->why || w->expected == UINT64_MAX || w->expected == w->offset, "%s: %" PRIu64 " bytes promised, %" PRIu64
          " written", w->path, w->expected, w->offset);
    bool renamed, ok;
    finish(w, &renamed);
    ok = w->why == 0;
    if (!ok && !renamed) {
        unlink(w->tmp);             // first, so that the free bytes told are those that the user has
        if (w->why == ENOSPC || w->why == EDQUOT || w->why == EFBIG) full_disk(w, err);
        else error_set(err, ERR_IO, "%s: not written: %s (nothing was changed)", w->path, strerror(w->why));
    } else if (!ok) {
        error_set(err, ERR_IO, "%s: written, but its folder cannot be synced: %s: it may be lost with the power",
                  w->path, strerror(w->why));
    }
    free(w->path);
    free(w->tmp);
    free(w);
    return ok;
}

void file_abandon(FileWriter *w) {
    if (!w) return;
    close(w->fd);
    unlink(w->tmp);
    free(w->path);
    free(w->tmp);
    free(w);
}

bool file_can_write(const char *path, Error *err) {
    FileWriter *w = file_create(path, err);
    file_abandon(w);
    return w != NULL;
}

bool file_write_text(const char *path, const char *text, Error *err) {
    FileWriter *w = file_create(path, err);
    if (!w) return false;
    file_write(w, text, strlen(text));
    return file_commit(w, err);
}

// ---- logs

struct FileLog { char *path; int fd; };

FileLog *file_log_open(const char *path, bool anew, Error *err) {
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | (anew ? O_TRUNC : 0);
    int fd = open_retried(path, flags, 0644);
    struct stat s;
    bool ok = fd >= 0 && fstat(fd, &s) == 0;
    if (!ok) error_set(err, ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
    else if (!S_ISREG(s.st_mode)) ok = error_set(err, ERR_IO, "%s: cannot be written: not an ordinary file", path);
    if (!ok && fd >= 0) close(fd);
    if (!ok) return NULL;
    FileLog *l = xmalloc(sizeof *l);
    *l = (FileLog){ xstrdup(path), fd };
    return l;
}

bool file_log_line(FileLog *l, const char *text, Error *err) {
    struct stat s;
    size_t n = strlen(text);
    uint8_t *line = xmalloc(n + 1);
    memcpy(line, text, n);
    line[n] = '\n';
    bool known = fstat(l->fd, &s) == 0;
    int why = known ? write_all(l->fd, line, n + 1) : errno;
    free(line);
    if (!why) return true;
    bool whole = !known || ftruncate(l->fd, s.st_size) == 0;       // a torn line would spoil the next one
    return error_set(err, ERR_IO, "%s: a line is not written%s: %s", l->path, whole ? "" : " whole", strerror(why));
}

bool file_log_sync(FileLog *l, Error *err) {
    int why = sync_file(l->fd);
    if (!why || why == EINVAL || why == ENOTSUP) return true;
    return error_set(err, ERR_IO, "%s: cannot be synced: %s: its last lines may be lost with the power", l->path,
                     strerror(why));
}

void file_log_close(FileLog *l) {
    if (!l) return;
    close(l->fd);
    free(l->path);
    free(l);
}
