// tests/test_train_errors.c - what a user can get wrong, and what a machine can run out of: the exit code says which
// kind it is, and one line on stderr says what, where and how to mend it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include "tests/program.h"

static int setup(void **state) {
    if (tempdir_make(state) != 0) return -1;
    program_write_data();
    return 0;
}

static int lines_with(const char *part) {
    int n = 0;
    for (const char *at = program_stderr; (at = strstr(at, part)); at += strlen(part)) n++;
    return n;
}

// Ends with this code and one line in all, but for the one on what --device auto is; it holds the parts (up to a NULL).
static void refused(int code, const char *flags, const char *const *parts) {
    int got = program_run("train %s", flags);
    if (got != code) fail_msg("exit code %d, not %d, of cbdm train %s:\n%s", got, code, flags, program_stderr);
    if (lines_with("\n") - lines_with("device auto is ") != 1 || lines_with("error: ") != 1)
        fail_msg("not one line for cbdm train %s:\n%s", flags, program_stderr);
    for (; *parts; parts++) expect_in_stderr(*parts);
}
#define REFUSED(code, flags, ...) refused(code, flags, (const char *const[]){ __VA_ARGS__, NULL })

// ---- flags and configurations

static void wrong_flags(void **state) {
    (void)state;
    REFUSED(ERR_USAGE, "--stepz 4", "--stepz", "did you mean --steps");
    REFUSED(ERR_USAGE, "--bacth=4", "--bacth", "did you mean --batch");
    REFUSED(ERR_USAGE, "--lr abc", "--lr", "abc");
    REFUSED(ERR_USAGE, "--steps 0", "--steps", "1 to");
    REFUSED(ERR_USAGE, "--batch -1", "--batch", "1 to 65536");
    REFUSED(ERR_USAGE, "--dropout nan", "--dropout");
    REFUSED(ERR_USAGE, "--objective cbd", "--objective", "cbdm", "ddpm");
    REFUSED(ERR_USAGE, "--preset fast", "--preset", "quick");
    REFUSED(ERR_USAGE, "--flip=maybe", "--flip", "maybe");
    REFUSED(ERR_USAGE, "steps 4", "steps");
    REFUSED(ERR_USAGE, "--lr", "--lr");
    REFUSED(ERR_USAGE, TINY "--steps 2", "--out");
    assert_int_equal(program_run("trian"), ERR_USAGE);
    expect_in_stderr("did you mean train");
}

static void impossible_configurations(void **state) {
    (void)state;
#define ON TINY "--out never --steps 2 "
    REFUSED(ERR_USAGE, ON "--image-size 9", "--image-size 9", "8 and 10");
    REFUSED(ERR_USAGE, ON "--image-size 18 --ch-mult 1,2,2,2", "--image-size 18", "16 and 24");
    REFUSED(ERR_USAGE, ON "--image-size 4", "8 x 8");
    REFUSED(ERR_USAGE, ON "--groups 3", "--groups 3", "8 channels");
    REFUSED(ERR_USAGE, ON "--groups 8", "one channel per norm group", "--groups 4");
    REFUSED(ERR_USAGE, ON "--ch 7 --groups 1", "--ch 7");
    REFUSED(ERR_USAGE, ON "--attn 2", "--attn");
    REFUSED(ERR_USAGE, ON "--ch-mult 1,x", "--ch-mult 1,x");
    REFUSED(ERR_USAGE, ON "--micro-batch 3", "--micro-batch 3", "--batch 4");
    REFUSED(ERR_USAGE, ON "--classes 0", "--objective cbdm", "--objective ddpm");
    REFUSED(ERR_USAGE, ON "--classes 5", "--classes 5", "3 classes");
    REFUSED(ERR_USAGE, ON "--beta-1 0.5", "--beta-1 0.5", "--beta-T");
    REFUSED(ERR_USAGE, ON "--T 10 --preview-every 1", "--preview-steps", "--T 10");
    REFUSED(ERR_USAGE, ON "--batch 64 --drop-last", "--batch 64", "60 images");
    REFUSED(ERR_USAGE, ON "--device tpu", "tpu", "cpu");
    REFUSED(ERR_USAGE, ON "--kernel conv2d_forward", "--kernel", "LAUNCHER=IMPLEMENTATION");
    REFUSED(ERR_USAGE, ON "--kernel conv2d_forward=none", "conv2d_forward=none");
    REFUSED(ERR_USAGE, ON "--kernel conv=loops --device ref", "conv=loops");
    REFUSED(ERR_USAGE, ON "--imb-type exp --imb-factor 2", "--imb-factor");
    REFUSED(ERR_IO, TINY "--steps 2 --out data/train-labels-idx1-ubyte/run", "train-labels-idx1-ubyte");
#undef ON
    assert_false(file_exists(temp_path("never")));       // a refused run leaves no folder
    program_expect(0, "train " TINY "--steps 2 --classes 0 --objective ddpm --out plain");
    program_expect(0, "train " TINY "--steps 2 --kernel conv2d_forward=loops --device ref --out known");
}

// ---- data

#define FROM "--imb-type none --image-size 8 --ch 8 --ch-mult 1,2 --groups 4 --res-blocks 1 --steps 2 --out never " \
             "--data "

// The folder `bad` with the images and labels of `data`, these many bytes of each, one byte of the labels changed.
static void bad_idx(size_t image_bytes, size_t label_bytes, size_t at, uint8_t value) {
    size_t n, m;
    uint8_t *images = read_bytes("data/train-images-idx3-ubyte", &n);
    uint8_t *labels = read_bytes("data/train-labels-idx1-ubyte", &m);
    assert_true(dir_make(temp_path("bad"), NULL) && image_bytes <= n && label_bytes <= m && at < m);
    labels[at] = value;
    write_bytes("bad/train-images-idx3-ubyte", images, image_bytes);
    write_bytes("bad/train-labels-idx1-ubyte", labels, label_bytes);
    free(images);
    free(labels);
}

static void missing_and_damaged_data(void **state) {
    (void)state;
    size_t images = 16 + TINY_IMAGES * TINY_SIDE * TINY_SIDE, labels = 8 + TINY_IMAGES;
    REFUSED(ERR_FILE, FROM "nowhere", "nowhere", "no such file");
    bad_idx(images, labels, 8, 0);                       // a copy, to see that the rest fails for its own reason
    program_expect(0, "train " TINY "--steps 1 --out fine --data bad");
    bad_idx(images - 1, labels, 8, 0);
    REFUSED(ERR_FILE, FROM "bad", "train-images-idx3-ubyte");
    bad_idx(10, labels, 8, 0);
    REFUSED(ERR_FILE, FROM "bad", "train-images-idx3-ubyte");
    bad_idx(0, labels, 8, 0);
    REFUSED(ERR_FILE, FROM "bad", "bad");
    bad_idx(images, labels - 1, 8, 0);
    REFUSED(ERR_FILE, FROM "bad", "train-labels-idx1-ubyte");
    bad_idx(images, labels, 7, TINY_IMAGES - 1);         // says one label less than there are
    REFUSED(ERR_FILE, FROM "bad", "bad");
    assert_int_equal(unlink(temp_path("bad/train-labels-idx1-ubyte")), 0);
    REFUSED(ERR_FILE, FROM "bad", "label");
    write_bytes("text", "hello\n", 6);
    REFUSED(ERR_FILE, FROM "text", "text");
    assert_true(dir_make(temp_path("photos/cat"), NULL) && dir_make(temp_path("photos/dog"), NULL));
    REFUSED(ERR_FILE, FROM "photos", "photos");          // classes without images
    write_bytes("photos/cat/a.png", "\x89PNG\r\n\x1a\nnothing more", 20);
    write_bytes("photos/dog/b.png", "\x89PNG\r\n\x1a\nnothing more", 20);
    REFUSED(ERR_FILE, FROM "photos", "photos/cat/a.png");
    write_bytes("few.bin", "\0\0\0", 3);
    REFUSED(ERR_FILE, FROM "few.bin", "few.bin");
    write_bytes("cut.tar.gz", "\x1f\x8b\x08\0\0\0\0\0\0\3", 10);
    REFUSED(ERR_FILE, FROM "cut.tar.gz", "cut.tar.gz");
    write_bytes("list", "0 0\n1 999\n", 10);
    REFUSED(ERR_FILE, TINY "--steps 1 --out never --lt-index list", "list", "line 2");
    REFUSED(ERR_FILE, TINY "--steps 1 --out never --init-from data/train-labels-idx1-ubyte", "train-labels-idx1-ubyte");
    assert_false(file_exists(temp_path("never")));
}

// ---- divergence

static void divergence_ends_the_run(void **state) {
    (void)state;
    program_expect(0, "train " TINY "--steps 4 --out healthy");
    write_poisoned(temp_path("healthy/checkpoints/step-000000004.safetensors"), temp_path("poisoned.safetensors"));
    program_expect(ERR_DIVERGED, "train " TINY "--steps 50 --init-from poisoned.safetensors --out diverged");
    assert_int_equal(lines_with("is skipped"), 3);
    assert_int_equal(lines_with("error: "), 1);
    expect_in_stderr("error: training diverged");
    expect_in_stderr("at step 2 (3 in a row)");
    expect_in_stderr("--lr");
    // What is saved are the weights before, which no update has touched, and they load.
    SafeTensors *before = st_open(temp_path("poisoned.safetensors"), NULL);
    SafeTensors *after = st_open(temp_path("diverged/checkpoints/step-000000003.safetensors"), NULL);
    assert_true(before && after);
    int compared = 0;
    for (int i = 0; i < st_count(before); i++) {
        const StTensor *a = st_get(before, i);
        if (strncmp(a->name, "ema.", 4) != 0) continue;
        const StTensor *b = st_find(after, a->name + 4), *average = st_find(after, a->name);
        assert_true(b && average && b->bytes == a->bytes);
        assert_memory_equal(a->data, b->data, a->bytes);
        assert_memory_equal(a->data, average->data, a->bytes);
        compared++;
    }
    assert_true(compared > 20);
    st_close(before);
    st_close(after);
    program_expect(ERR_DIVERGED, "train --resume diverged");
    expect_in_stderr("4 in a row");                      // the count goes on
    program_expect(0, "train " TINY "--steps 8 --init-from healthy --out again");
}

// ---- a full disk

static rlim_t file_limit;
static void limit_files(void) {
    struct rlimit r = { file_limit, file_limit };
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &r);
}

#define SAVES "train " TINY "--steps 40 --save-every 5 --log-every 1 --keep 0 --out "

static void expect_full(const char *run, int64_t newest, int64_t stopped) {
    char part[200];
    for (int64_t step = newest + 5; step <= stopped; step += 5) {
        snprintf(part, sizeof part, "%s/checkpoints/step-%09lld.safetensors: not written", run, (long long)step);
        expect_in_stderr(part);
    }
    assert_int_equal(lines_with("training goes on"), 2);
    assert_true(lines_with("bytes needed") >= 3 && lines_with("bytes free") >= 3);
    assert_int_equal(lines_with("error: "), 1);
    assert_int_equal(run_last_stat(run), stopped);
    int64_t *steps;
    int n = run_checkpoints(run, &steps);
    assert_true(n > 0 && steps[n - 1] == newest);
    free(steps);
}

static void full_disk_stops_after_three_tries(void **state) {
    (void)state;
    program_expect(0, SAVES "roomy");
    program_expect(0, "train " TINY "--steps 10 --save-every 5 --log-every 1 --keep 0 --out full");
    size_t n;
    free(read_bytes("full/checkpoints/step-000000010.safetensors", &n));
    file_limit = (rlim_t)n - 1000;
    program_prepare = limit_files;
    int code = program_run("train --resume full --steps 40");
    program_prepare = NULL;
    assert_int_equal(code, ERR_IO);
    expect_full("full", 10, 25);
    program_expect(0, "train --resume full --steps 40");
    expect_same_checkpoint("roomy", "full", 40);
    expect_same_stats("roomy", "full");
}

// A file system with room for two checkpoints; needs root.
static void full_file_system(void **state) {
    (void)state;
    const char *small = temp_path("small");
    size_t n;
    free(read_bytes("roomy/checkpoints/step-000000040.safetensors", &n));
    char *size = xasprintf("size=%zu", 2 * n + n / 2);
    assert_true(dir_make(small, NULL));
    int mounted = mount("tmpfs", small, "tmpfs", 0, size);
    free(size);
    if (mounted != 0) {
        printf("no file system can be mounted here: skipped\n");
        skip();
    }
    int code = program_run(SAVES "small/run");
    char errors[sizeof program_stderr];
    memcpy(errors, program_stderr, sizeof errors);
    int64_t *steps, newest = 0, last = run_last_stat("small/run");
    int found = run_checkpoints("small/run", &steps);
    bool opens = true;
    for (int i = 0; i < found; i++) {
        char *relative = run_checkpoint("small/run", steps[i]), *path = xasprintf("%s/%s", tempdir, relative);
        SafeTensors *st = st_open(path, NULL);
        opens = opens && st;
        st_close(st);
        free(path);
        free(relative);
        newest = steps[i];
    }
    free(steps);
    assert_int_equal(umount2(small, MNT_DETACH), 0);     // before anything can fail
    memcpy(program_stderr, errors, sizeof errors);
    assert_int_equal(code, ERR_IO);
    assert_true(found == 2 && newest == 10 && opens);
    assert_int_equal(last, 25);
    assert_true(lines_with("No space left on device") >= 3 && lines_with("bytes free") >= 3);
}

// ---- not enough memory

#if defined(__SANITIZE_ADDRESS__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif
static rlim_t memory_limit;
static void limit_memory(void) {
    struct rlimit r = { memory_limit, memory_limit };
    setenv("OMP_NUM_THREADS", "1", 1);
    setrlimit(RLIMIT_AS, &r);
}

// A network of some 60 MB, in any address space from what the program alone takes upwards: it trains, or ends with exit
// code 4 and says what it lacked; nothing in between.
static void too_little_memory(void **state) {
    (void)state;
    if (SANITIZED) skip();                               // its shadow takes more than any limit allows
    int refusals = 0, trained = 0;
    for (int mb = 100; mb <= 360; mb += 10) {
        memory_limit = (rlim_t)mb << 20;
        program_prepare = limit_memory;
        char *run = xasprintf("memory%d", mb);
        int code = program_run("train " TINY "--ch 32 --batch 60 --steps 1 --out %s", run);
        program_prepare = NULL;
        free(run);
        if (code == 127 && strstr(program_stderr, "shared librar")) continue;    // not even the program fits
        if (code != 0 && code != ERR_MEMORY) fail_msg("%d MB: exit code %d: %s", mb, code, program_stderr);
        if (code == 0) trained++;
        else expect_in_stderr("memory"), refusals++;
        if (code == ERR_MEMORY) expect_in_stderr("--batch");
    }
    printf("%d refused, %d trained\n", refusals, trained);
    assert_true(refusals > 0 && trained > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_flags),
        cmocka_unit_test(impossible_configurations),
        cmocka_unit_test(missing_and_damaged_data),
        cmocka_unit_test(divergence_ends_the_run),
        cmocka_unit_test(full_disk_stops_after_three_tries),
        cmocka_unit_test(full_file_system),
        cmocka_unit_test(too_little_memory),
    };
    return cmocka_run_group_tests(tests, setup, tempdir_remove);
}
