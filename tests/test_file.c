// tests/test_file.c - files whole or absent under every fault of every call, limits of reading, digests.
//
// The system calls that core/file.c makes are defined here, in front of the C library's, so that the n-th one can be
// made to fail. The loops run n until nothing is left to break: faults are enumerated, not sampled.
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <cmocka.h>
#include "core/file.h"
#include "tests/tempdir.h"

// ---- faults

typedef enum { OP_OPEN, OP_READ, OP_WRITE, OP_PWRITE, OP_FSYNC, OP_CLOSE, OP_RENAME, OPS } Op;
enum { SHORT = -1, END = -2 };  // instead of an errno: half of what was asked for, an early end of the file
static struct {
    bool armed, sticky;         // sticky: the n-th call and every one after it
    int  n, calls, error;       // n counts from 1
    int  counts[OPS];           // calls up to the n-th, of each kind
    Op   hit;                   // which call it was
} fault;

// Counts a call; true if it is to fail, with errno set.
static bool fails(Op op) {
    if (!fault.armed) return false;
    if (fault.calls++ < fault.n) fault.counts[op]++;
    if (fault.calls != fault.n && !(fault.sticky && fault.calls > fault.n)) return false;
    if (fault.calls == fault.n) fault.hit = op;
    errno = fault.error;
    return true;
}

int open(const char *path, int flags, ...) {
    va_list ap;
    va_start(ap, flags);
    int mode = flags & O_CREAT ? va_arg(ap, int) : 0;
    va_end(ap);
    if (fails(OP_OPEN) && fault.error >= 0) return -1;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

ssize_t read(int fd, void *bytes, size_t n) {
    bool now = fails(OP_READ);
    if (now && fault.error != SHORT) return fault.error == END ? 0 : -1;
    return syscall(SYS_read, fd, bytes, now ? (n + 1) / 2 : n);
}

ssize_t write(int fd, const void *bytes, size_t n) {
    bool now = fails(OP_WRITE);
    if (now && fault.error != SHORT) return -1;
    return syscall(SYS_write, fd, bytes, now ? (n + 1) / 2 : n);
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t offset) {
    bool now = fails(OP_PWRITE);
    if (now && fault.error != SHORT) return -1;
    return syscall(SYS_pwrite64, fd, bytes, now ? (n + 1) / 2 : n, offset);
}

int fsync(int fd) {
    if (fails(OP_FSYNC) && fault.error != SHORT) return -1;
    return (int)syscall(SYS_fsync, fd);
}

int close(int fd) {
    int status = (int)syscall(SYS_close, fd);           // the kernel closes it whatever it answers
    return fails(OP_CLOSE) && fault.error >= 0 ? -1 : status;
}

int rename(const char *from, const char *to) {
    if (fails(OP_RENAME) && fault.error != SHORT) return -1;
    return (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
}

static void arm(int n, int error, bool sticky) {
    fault.armed = true;
    fault.sticky = sticky;
    fault.n = n;
    fault.calls = 0;
    memset(fault.counts, 0, sizeof fault.counts);
    fault.error = error;
}

// ---- helpers

enum { NEW_BYTES = 700001 };    // more than two buffers of the writer

static uint8_t pattern(size_t i) {
    return (uint8_t)(i * 131 + i / 251);
}

static bool write_new(const char *path, Error *err) {
    static uint8_t bytes[NEW_BYTES];
    for (size_t i = 0; i < NEW_BYTES; i++) bytes[i] = pattern(i);
    FileWriter *w = file_create(path, err);
    if (!w) return false;
    file_expect(w, NEW_BYTES);
    size_t at = 0;
    for (size_t piece = 1; at < NEW_BYTES; piece *= 7) {         // pieces smaller and larger than the buffer
        size_t n = piece < NEW_BYTES - at ? piece : NEW_BYTES - at;
        file_write(w, bytes + at, n);
        at += n;
    }
    file_patch(w, 5, bytes + 5, 300);                           // with what is there already
    return file_commit(w, err);
}

// What lies at path: 'o' "old", 'n' the bytes of write_new, '-' nothing, '?' anything else.
static char content(const char *path) {
    Error err;
    uint8_t *bytes;
    size_t n, same = 0;
    if (!file_exists(path)) return '-';
    if (!file_read(path, 1 << 24, &bytes, &n, &err)) return '?';
    while (same < n && bytes[same] == pattern(same)) same++;
    char what = n == NEW_BYTES && same == n ? 'n' : n == 3 && memcmp(bytes, "old", 4) == 0 ? 'o' : '?';
    free(bytes);
    return what;
}

static void put_old(const char *path) {
    Error err;
    assert_true(file_write_text(path, "old", &err));
}

static void expect_error(bool ok, const Error *err, int code, const char *part) {
    assert_false(ok);
    if (err->code != code || !strstr(err->msg, part)) fail_msg("code %d, \"%s\"; wanted %s", err->code, err->msg, part);
}

// ---- writing

static void writes_and_reads_back(void **unused) {
    (void)unused;
    const char *path = temp_path("plain");
    Error err;
    put_old(path);
    assert_int_equal(content(path), 'o');
    if (!write_new(path, &err)) fail_msg("%s", err.msg);
    assert_int_equal(content(path), 'n');
    assert_false(file_exists(temp_path("plain.tmp")));
    struct stat s;
    assert_int_equal(stat(path, &s), 0);
    mode_t mask = umask(0);
    umask(mask);
    assert_int_equal(s.st_mode & 0777, 0644 & ~mask);
}

static void abandoned_and_stale_tmp(void **unused) {
    (void)unused;
    const char *path = temp_path("stale"), *tmp = temp_path("stale.tmp");
    Error err;
    put_old(path);
    FileWriter *w = file_create(path, &err);
    assert_non_null(w);
    file_write(w, "half", 4);
    assert_true(file_exists(tmp));
    file_abandon(w);
    file_abandon(NULL);
    assert_false(file_exists(tmp));
    assert_int_equal(content(path), 'o');
    FILE *f = fopen(tmp, "w");                          // what a killed process leaves, longer than the new file
    for (int i = 0; i < NEW_BYTES; i++) fputs("stale", f);
    assert_int_equal(fclose(f), 0);
    assert_true(write_new(path, &err));
    assert_int_equal(content(path), 'n');
    assert_false(file_exists(tmp));
}

// One fault of every kind at every call, once and for good. Whatever happens, the file is the old or the new one.
static void every_call_fails_once(void **unused) {
    (void)unused;
    static const int errors[] = { ENOSPC, EIO, EINTR, SHORT };
    const char *path = temp_path("faults"), *tmp = temp_path("faults.tmp");
    int hits[OPS] = { 0 };
    for (int e = 0; e < 4; e++) {
        for (int sticky = 0; sticky < 2; sticky++) {
            for (int n = 1;; n++) {
                Error err = { 0 };
                put_old(path);
                arm(n, errors[e], sticky);
                bool ok = write_new(path, &err);
                fault.armed = false;
                if (fault.calls < n) break;             // nothing was left to fail
                hits[fault.hit]++;
                char now = content(path);
                bool must_work = errors[e] == SHORT || (errors[e] == EINTR && !sticky);
                if (must_work && !ok) fail_msg("fault %d at call %d, sticky %d: %s", errors[e], n, sticky, err.msg);
                // The second close is that of the folder, when all is done: nothing can be lost by it.
                bool harmless = fault.hit == OP_CLOSE && fault.counts[OP_CLOSE] == 2;
                if (!must_work && !harmless && errors[e] != EINTR && ok) fail_msg("call %d: %d untold", n, errors[e]);
                if (!ok) assert_int_equal(err.code, ERR_IO);
                if (!ok) assert_non_null(strstr(err.msg, path));
                bool synced_late = !ok && strstr(err.msg, "cannot be synced");
                if (now != (ok || synced_late ? 'n' : 'o')) fail_msg("fault %d at call %d: left %c", errors[e], n, now);
                assert_false(file_exists(tmp));
                if (n > 10000) fail_msg("the calls never end");
            }
        }
    }
    for (int op = 0; op < OPS; op++)
        if (op != OP_READ) assert_true(hits[op] > 0);   // each kind of call was really broken
}

// What makes it durable, seen from outside: the file synced before the rename, the folder after it.
static void syncs_file_and_folder(void **unused) {
    (void)unused;
    Error err;
    const char *path = temp_path("synced");
    for (int n = 1, renamed = 0; !renamed; n++) {
        arm(n, SHORT, false);                           // harmless: only to see what the n-th call is
        assert_true(write_new(path, &err));
        fault.armed = false;
        assert_true(fault.calls >= n);
        renamed = fault.counts[OP_RENAME];
        assert_true(!renamed || fault.counts[OP_FSYNC] == 1);
    }
    arm(INT_MAX, SHORT, false);
    assert_true(write_new(path, &err));
    fault.armed = false;
    assert_int_equal(fault.counts[OP_FSYNC], 2);
    assert_int_equal(fault.counts[OP_OPEN], 2);
    assert_int_equal(fault.counts[OP_CLOSE], 2);
}

static void full_disk_tells_bytes(void **unused) {
    (void)unused;
    const char *path = temp_path("full");
    Error err;
    put_old(path);
    arm(2, ENOSPC, true);                               // the first is the open
    bool ok = write_new(path, &err);
    fault.armed = false;
    expect_error(ok, &err, ERR_IO, "No space left on device: 700001 bytes needed, ");
    const char *bytes = strstr(err.msg, "needed, ") + 8;
    assert_true(atoll(bytes) > 0);
    assert_non_null(strstr(err.msg, "bytes free"));
    assert_int_equal(content(path), 'o');
}

// The kernel's own refusals: a limit on file sizes, and for root a real file system that is too small.
static void real_limits(void **unused) {
    (void)unused;
    const char *path = temp_path("limit");
    Error err;
    put_old(path);
    struct rlimit before, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 100000;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    bool ok = write_new(path, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    expect_error(ok, &err, ERR_IO, "File too large");
    assert_int_equal(content(path), 'o');
    assert_false(file_exists(temp_path("limit.tmp")));
}

static void real_full_disk(void **unused) {
    (void)unused;
    const char *mounted = temp_path("small");
    Error err;
    assert_true(dir_make(mounted, &err));
    if (mount("tmpfs", mounted, "tmpfs", 0, "size=256k") != 0) skip();      // needs root
    const char *path = temp_path("small/full");
    bool old = file_write_text(path, "old", &err), ok = write_new(path, &err);
    char now = content(path);
    bool left = file_exists(temp_path("small/full.tmp"));
    assert_int_equal(umount(mounted), 0);
    assert_true(old);
    expect_error(ok, &err, ERR_IO, "700001 bytes needed, ");
    assert_true(atoll(strstr(err.msg, "needed, ") + 8) <= 256 << 10);
    assert_int_equal(now, 'o');
    assert_false(left);
}

static void names_that_cannot_be_written(void **unused) {
    (void)unused;
    Error err;
    expect_error(file_create(temp_path("no/such/folder/x"), &err) != NULL, &err, ERR_IO, "make the folder first");
    expect_error(file_create(tempdir, &err) != NULL, &err, ERR_IO, "it is a folder");
    expect_error(file_create("/dev/null", &err) != NULL, &err, ERR_IO, "device");
    assert_int_equal(symlink("/etc/passwd", temp_path("link.tmp")), 0);
    expect_error(file_create(temp_path("link"), &err) != NULL, &err, ERR_IO, "link");
    assert_int_equal(mkfifo(temp_path("fifo.tmp"), 0600), 0);
    expect_error(file_create(temp_path("fifo"), &err) != NULL, &err, ERR_IO, "fifo.tmp");
    // The folder goes away between the beginning and the end.
    assert_true(dir_make(temp_path("gone"), &err));
    FileWriter *w = file_create(temp_path("gone/x"), &err);
    assert_non_null(w);
    file_write(w, "new", 3);
    assert_int_equal(rename(temp_path("gone"), temp_path("elsewhere")), 0);
    expect_error(file_commit(w, &err), &err, ERR_IO, "No such file");
}

// A child rewrites a file for ever and is killed at any moment: the file is whole, every time.
static void killed_writers(void **unused) {
    (void)unused;
    const char *path = temp_path("killed");
    put_old(path);
    int new_ones = 0, stale = 0;
    for (int round = 0; round < 40; round++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            Error err;
            while (write_new(path, &err)) put_old(path);
            _exit(1);
        }
        usleep(500 + (useconds_t)(round * 7919) % 20000);
        kill(pid, SIGKILL);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        char now = content(path);
        if (now != 'o' && now != 'n') fail_msg("round %d left %c", round, now);
        new_ones += now == 'n';
        stale += file_exists(temp_path("killed.tmp"));
    }
    print_message("40 kills: %d new, %d old, %d stale .tmp\n", new_ones, 40 - new_ones, stale);
}

// ---- reading

static void reading_has_limits(void **unused) {
    (void)unused;
    const char *path = temp_path("read");
    uint8_t *bytes;
    size_t n;
    Error err;
    assert_true(file_write_text(path, "12345", &err));
    assert_true(file_read(path, 5, &bytes, &n, &err));
    assert_int_equal(n, 5);
    assert_memory_equal(bytes, "12345", 6);
    free(bytes);
    expect_error(file_read(path, 4, &bytes, &n, &err), &err, ERR_FILE, "5 bytes, more than the 4");
    expect_error(file_read(temp_path("absent"), 4, &bytes, &n, &err), &err, ERR_FILE, "No such file");
    expect_error(file_read(tempdir, 4, &bytes, &n, &err), &err, ERR_FILE, "a folder");
    expect_error(file_read("/dev/zero", 1 << 20, &bytes, &n, &err), &err, ERR_FILE, "not an ordinary file");
    assert_int_equal(mkfifo(temp_path("pipe"), 0600), 0);
    expect_error(file_read(temp_path("pipe"), 4, &bytes, &n, &err), &err, ERR_FILE, "not an ordinary file");
    assert_true(file_write_text(path, "", &err));
    assert_true(file_read(path, 0, &bytes, &n, &err));
    assert_int_equal(n, 0);
    assert_int_equal(bytes[0], 0);
    free(bytes);
}

static void reading_survives_faults(void **unused) {
    (void)unused;
    const char *path = temp_path("readfaults");
    Error err;
    uint8_t *bytes;
    size_t n;
    assert_true(write_new(path, &err));
    static const int errors[] = { EIO, EINTR, SHORT, END };
    for (int e = 0; e < 4; e++) {
        for (int sticky = 0; sticky < 2; sticky++) {
            for (int call = 1;; call++) {
                arm(call, errors[e], sticky);
                bool ok = file_read(path, 1 << 24, &bytes, &n, &err);
                fault.armed = false;
                if (ok) {
                    for (size_t i = 0; i < NEW_BYTES; i++)
                        if (bytes[i] != pattern(i)) fail_msg("byte %zu is wrong", i);
                    assert_int_equal(n, NEW_BYTES);
                    free(bytes);
                }
                if (fault.calls < call) break;
                bool must_fail = errors[e] == EIO || errors[e] == END || (errors[e] == EINTR && sticky);
                if (fault.hit == OP_READ) assert_int_equal(ok, !must_fail);
                if (fault.hit == OP_READ && !ok) assert_int_equal(err.code, ERR_IO);
            }
        }
    }
}

static void folders(void **unused) {
    (void)unused;
    Error err;
    assert_true(dir_make(temp_path("a/b//c/"), &err));
    assert_true(dir_make(temp_path("a/b/c"), &err));
    struct stat s;
    assert_int_equal(stat(temp_path("a/b/c"), &s), 0);
    assert_true(S_ISDIR(s.st_mode));
    put_old(temp_path("a/file"));
    expect_error(dir_make(temp_path("a/file/x"), &err), &err, ERR_IO, "there is a file where a folder is needed");
    expect_error(dir_make("", &err), &err, ERR_IO, "empty");
    expect_error(dir_make("/proc/nothing/here", &err), &err, ERR_IO, "/proc/nothing");
    assert_true(dir_make("/", &err));
}

// ---- digests: FIPS 180-4, RFC 1321, RFC 3720; the lengths around a block are from sha256sum and md5sum

static void digests(void **unused) {
    (void)unused;
    static char a[1000001];
    memset(a, 'a', 1000000);
    static const struct { int n; const char *sha, *md5; } runs[] = {
        { 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "d41d8cd98f00b204e9800998ecf8427e" },
        { 55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318", "ef1772b6dff9a122358552954ad0df65" },
        { 56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a", "3b0c8ac703f828b04c6c197006d17218" },
        { 63, "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34", "b06521f39153d618550606be297466d5" },
        { 64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb", "014842d480b571495a4a0363793f7367" },
        { 65, "635361c48bb9eab14198e76ea8ab7f1a41685d6ad62aa9146d301d4f17eb0ae0", "c743a45e0d2e6a95cb859adae0248435" },
        { 119, "31eba51c313a5c08226adf18d4a359cfdfd8d2e816b13f4af952f7ea6584dcfb", "8a7bd0732ed6a28ce75f6dabc90e1613" },
        { 120, "2f3d335432c70b580af0e8e1b3674a7c020d683aa5f73aaaedfdc55af904c21c", "5f61c0ccad4cac44c75ff505e1f1e537" },
        { 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
          "7707d6ae4e027c70eea2a935c2296f21" },
    };
    char hex[65];
    const char *path = temp_path("digest");
    Error err;
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        sha256(a, (size_t)runs[i].n, hex);
        assert_string_equal(hex, runs[i].sha);
        md5(a, (size_t)runs[i].n, hex);
        assert_string_equal(hex, runs[i].md5);
        char *text = xasprintf("%.*s", runs[i].n, a);
        assert_true(file_write_text(path, text, &err));
        assert_true(md5_file(path, hex, &err));
        assert_string_equal(hex, runs[i].md5);
        assert_true(sha256_file(path, hex, &err));
        assert_string_equal(hex, runs[i].sha);
        free(text);
    }
    sha256("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    md5("message digest", 14, hex);
    assert_string_equal(hex, "f96b697d7cb7938d525a2f31aaf161d0");
    expect_error(md5_file(temp_path("absent"), hex, &err), &err, ERR_FILE, "No such file");
    expect_error(sha256_file(temp_path("absent"), hex, &err), &err, ERR_FILE, "No such file");
    expect_error(md5_file(tempdir, hex, &err), &err, ERR_FILE, "directory");
}

static void crc32c_vectors(void **unused) {
    (void)unused;
    uint8_t up[32], down[32], ones[32], zeros[32] = { 0 };
    memset(ones, 0xff, 32);
    for (int i = 0; i < 32; i++) {
        up[i] = (uint8_t)i;
        down[i] = (uint8_t)(31 - i);
    }
    assert_int_equal(crc32c(0, zeros, 32), 0x8a9136aa);
    assert_int_equal(crc32c(0, ones, 32), 0x62a8ab43);
    assert_int_equal(crc32c(0, up, 32), 0x46dd794e);
    assert_int_equal(crc32c(0, down, 32), 0x113fdb5c);
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(crc32c(7, "", 0), 7);
    uint8_t long_one[100];
    for (int i = 0; i < 100; i++) long_one[i] = pattern((size_t)i);
    for (size_t cut = 0; cut <= 100; cut++)             // any cut, any alignment
        assert_int_equal(crc32c(crc32c(0, long_one, cut), long_one + cut, 100 - cut), crc32c(0, long_one, 100));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_and_reads_back),
        cmocka_unit_test(abandoned_and_stale_tmp),
        cmocka_unit_test(every_call_fails_once),
        cmocka_unit_test(syncs_file_and_folder),
        cmocka_unit_test(full_disk_tells_bytes),
        cmocka_unit_test(real_limits),
        cmocka_unit_test(real_full_disk),
        cmocka_unit_test(names_that_cannot_be_written),
        cmocka_unit_test(killed_writers),
        cmocka_unit_test(reading_has_limits),
        cmocka_unit_test(reading_survives_faults),
        cmocka_unit_test(folders),
        cmocka_unit_test(digests),
        cmocka_unit_test(crc32c_vectors),
    };
    return cmocka_run_group_tests(tests, tempdir_make, tempdir_remove);
}
