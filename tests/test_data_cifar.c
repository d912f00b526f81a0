// tests/test_data_cifar.c - CIFAR-10 and CIFAR-100, binary and python, folder and archive; hostile files and archives.
#include <archive.h>
#include <archive_entry.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include "core/file.h"
#include "train/data_formats.h"

enum { PIXELS = 3072, PER_FILE = 3, RECORD_MAX = 2 + PIXELS, FILE_MAX = PER_FILE * RECORD_MAX + 1024 };

// ---- a folder of its own for each test
static char folder[64];

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/cbdm-cifar-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *at) {
    (void)st;
    (void)flag;
    (void)at;
    return remove(path);
}

static int remove_folder(void **state) {
    (void)state;
    return nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static const char *in_folder(const char *name) {
    static char paths[4][256];
    static int next;
    char *p = paths[next++ % 4];
    snprintf(p, sizeof paths[0], "%s/%s", folder, name);
    return p;
}

// ---- synthetic files: image i of the whole split has label(i) and pixel byte j equal to pixel(i, j)
static int label(int classes, int i) { return (7 * i + 3) % classes; }
static uint8_t pixel(int i, int j) { return (uint8_t)(i * 31 + j * 7 + j / 1024 * 50); }

static size_t binary_file(uint8_t *out, int classes, int first) {
    size_t n = 0;
    for (int i = first; i < first + PER_FILE; i++) {
        if (classes > 10) out[n++] = 19;                       // the coarse label, not used
        out[n++] = (uint8_t)label(classes, i);
        for (int j = 0; j < PIXELS; j++) out[n++] = pixel(i, j);
    }
    return n;
}

static size_t append(uint8_t *out, size_t n, const void *bytes, size_t m) {
    memcpy(out + n, bytes, m);
    return n + m;
}
#define APPEND(literal) n = append(out, n, literal, sizeof(literal) - 1)

// As Python 2's cPickle writes {labels: [...], filenames: [...], data: array (PER_FILE,3072)}, memo left out.
static size_t python_file(uint8_t *out, int classes, int first, bool fortran) {
    size_t n = 0;
    APPEND("\x80\x02}(");
    if (classes > 10) APPEND("U\x0d" "coarse_labels](K\x01K\x02K\x03" "eU\x0b" "fine_labels](");
    else APPEND("U\x06labels](");
    for (int i = first; i < first + PER_FILE; i++) n = append(out, n, (char[]){ 'K', (char)label(classes, i) }, 2);
    APPEND("eU\x09" "filenames](U\x05" "a.pngU\x05" "b.pngU\x05" "c.pngeU\x04" "data");
    APPEND("cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01" "b\x87R(K\x01K\x03M\x00\x0c\x86");
    APPEND("cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb");
    out[n++] = fortran ? 0x88 : 0x89;
    APPEND("T\x00\x24\x00\x00");                               // 9216 bytes
    for (int k = 0; k < PER_FILE * PIXELS; k++) {
        out[n++] = fortran ? pixel(first + k % PER_FILE, k / PER_FILE) : pixel(first + k / PIXELS, k % PIXELS);
    }
    APPEND("tbu.");
    return n;
}

typedef struct { const char *folder, *kind, *train[6], *test; int classes; bool python; } Kind;
static const Kind kinds[] = {
    { "cifar-10-batches-bin", "CIFAR-10 binary",
      { "data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin" },
      "test_batch.bin", 10, false },
    { "cifar-10-batches-py", "CIFAR-10 python archive",
      { "data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5" }, "test_batch", 10, true },
    { "cifar-100-binary", "CIFAR-100 binary", { "train.bin" }, "test.bin", 100, false },
    { "cifar-100-python", "CIFAR-100 python archive", { "train" }, "test", 100, true },
};

static uint8_t file_bytes[FILE_MAX];
static size_t make_file(const Kind *k, int first) {
    if (k->python) return python_file(file_bytes, k->classes, first, first % 2);       // odd ones in Fortran order
    return binary_file(file_bytes, k->classes, first);
}

static void put(const char *name, const void *bytes, size_t n) {
    Error err = { 0 };
    FileWriter *w = file_create(in_folder(name), &err);
    if (!w) fail_msg("%s", err.msg);
    file_write(w, bytes, n);
    if (!file_commit(w, &err)) fail_msg("%s", err.msg);
}

// The kind's files in folder/<its published name>.
static void put_kind(const Kind *k) {
    char name[128];
    Error err;
    assert_true(dir_make(in_folder(k->folder), &err));
    for (int i = 0; k->train[i]; i++) {
        snprintf(name, sizeof name, "%s/%s", k->folder, k->train[i]);
        put(name, file_bytes, make_file(k, i * PER_FILE));
    }
    snprintf(name, sizeof name, "%s/%s", k->folder, k->test);
    put(name, file_bytes, make_file(k, 100));
}

// ---- archives
static struct archive *tar_start(const char *name) {
    struct archive *a = archive_write_new();
    assert_int_equal(archive_write_set_format_ustar(a), ARCHIVE_OK);
    assert_int_equal(archive_write_add_filter_gzip(a), ARCHIVE_OK);
    assert_int_equal(archive_write_open_filename(a, in_folder(name)), ARCHIVE_OK);
    return a;
}

static void tar_add(struct archive *a, const char *path, unsigned type, const void *bytes, size_t n) {
    struct archive_entry *e = archive_entry_new();
    archive_entry_set_pathname(e, path);
    archive_entry_set_filetype(e, type);
    archive_entry_set_perm(e, 0644);
    archive_entry_set_size(e, type == AE_IFREG ? (int64_t)n : 0);
    if (type == AE_IFLNK) archive_entry_set_symlink(e, "/etc/passwd");
    assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
    if (type == AE_IFREG) assert_int_equal(archive_write_data(a, bytes, n), n);
    archive_entry_free(e);
}

static void tar_end(struct archive *a) {
    assert_int_equal(archive_write_close(a), ARCHIVE_OK);
    archive_write_free(a);
}

static void put_archive(const Kind *k, const char *name) {
    char path[128];
    struct archive *a = tar_start(name);
    snprintf(path, sizeof path, "%s/", k->folder);
    tar_add(a, path, AE_IFDIR, NULL, 0);
    snprintf(path, sizeof path, "%s/readme.html", k->folder);
    tar_add(a, path, AE_IFREG, "<html>", 6);
    // Test first and training files backwards: the order in the archive must not matter.
    snprintf(path, sizeof path, "%s/%s", k->folder, k->test);
    tar_add(a, path, AE_IFREG, file_bytes, make_file(k, 100));
    int parts = 0;
    while (k->train[parts]) parts++;
    for (int i = parts - 1; i >= 0; i--) {
        snprintf(path, sizeof path, "%s/%s", k->folder, k->train[i]);
        tar_add(a, path, AE_IFREG, file_bytes, make_file(k, i * PER_FILE));
    }
    tar_end(a);
}

// ---- checks
static void check_set(const char *path, const Kind *k) {
    for (Split split = SPLIT_TRAIN; split <= SPLIT_TEST; split++) {
        Error err = { 0 };
        Dataset *d = dataset_open(path, split, &err);
        if (!d) fail_msg("%s", err.msg);
        const DatasetInfo *z = dataset_info(d);
        int first = split == SPLIT_TEST ? 100 : 0;
        assert_string_equal(z->kind, k->kind);
        assert_int_equal(z->count, split == SPLIT_TEST || k->classes == 100 ? PER_FILE : 5 * PER_FILE);
        assert_int_equal(z->classes, k->classes);
        assert_true(z->height == 32 && z->width == 32 && z->channels == 3);
        assert_string_equal(z->class_names[0], k->classes == 100 ? "apple" : "airplane");
        assert_string_equal(z->class_names[k->classes - 1], k->classes == 100 ? "worm" : "truck");
        for (int i = 0; i < z->count; i++) {
            assert_int_equal(z->labels[i], label(k->classes, first + i));
            for (int j = 0; j < PIXELS; j++) {                 // planes R, G, B to pixels of RGB
                assert_int_equal(z->images[i * PIXELS + j % 1024 * 3 + j / 1024], pixel(first + i, j));
            }
        }
        dataset_close(d);
    }
}

static void refused(const char *path, const char *names, const char *says) {
    Error err = { 0 };
    Dataset *d = dataset_open(path, SPLIT_TRAIN, &err);
    if (d) fail_msg("%s was opened; a refusal (%s) was due", path, says);
    assert_int_equal(err.code, ERR_FILE);
    if (!strstr(err.msg, names)) fail_msg("\"%s\" does not name \"%s\"", err.msg, names);
    if (!strstr(err.msg, says)) fail_msg("\"%s\" does not say \"%s\"", err.msg, says);
}

static void every_kind_from_folder_and_archive(void **state) {
    (void)state;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        put_kind(&kinds[k]);
        check_set(in_folder(kinds[k].folder), &kinds[k]);
        if (k == 0) check_set(folder, &kinds[k]);              // the folder above, while it holds just one
        put_archive(&kinds[k], "some.tar.gz");
        check_set(in_folder("some.tar.gz"), &kinds[k]);
    }
    refused(folder, folder, "several CIFAR folders");
}

static void known_name_with_another_md5_is_read_with_a_warning(void **state) {
    (void)state;
    put_archive(&kinds[2], "cifar-100-binary.tar.gz");
    fflush(stderr);
    int keep = dup(2);
    assert_non_null(freopen(in_folder("stderr.txt"), "w", stderr));
    Error err = { 0 };
    Dataset *d = dataset_open(in_folder("cifar-100-binary.tar.gz"), SPLIT_TRAIN, &err);
    fflush(stderr);
    dup2(keep, 2);
    close(keep);
    uint8_t *text;
    size_t n;
    assert_true(file_read(in_folder("stderr.txt"), 10000, &text, &n, &err));
    assert_non_null(d);
    assert_null(dataset_info(d)->note);
    assert_non_null(strstr((char *)text, "03b5dce01913d631647c71ecec9e9cb8"));
    free(text);
    dataset_close(d);
}

static void binary_files_that_are_wrong(void **state) {
    (void)state;
    for (int large = 0; large < 2; large++) {
        int classes = large ? 100 : 10;
        size_t n = binary_file(file_bytes, classes, 0), record = large ? 3074 : 3073;
        CifarBatch b;
        Error err;
        // Every length that is no whole number of records is refused; whole ones are read.
        for (size_t m = 0; m <= n; m++) {
            bool ok = cifar_parse_binary(file_bytes, m, classes, "batch.bin", &b, &err);
            assert_int_equal(ok, m > 0 && m % record == 0);
            if (ok) assert_int_equal(b.count, m / record);
            else assert_non_null(strstr(err.msg, "batch.bin"));
            free(b.labels);
        }
        file_bytes[record + record - PIXELS - 1] = (uint8_t)classes;
        assert_false(cifar_parse_binary(file_bytes, n, classes, "batch.bin", &b, &err));
        assert_null(b.labels);
        char at[32];
        snprintf(at, sizeof at, "at byte %zu", record + record - PIXELS - 1);
        assert_non_null(strstr(err.msg, at));
    }
}

static void python_files_that_are_wrong(void **state) {
    (void)state;
    CifarBatch b;
    Error err;
    size_t n = python_file(file_bytes, 10, 0, false);
    assert_true(cifar_parse_python(file_bytes, n, 10, "batch", &b, &err));
    free(b.labels);
    for (size_t m = 0; m < n; m += m < 300 || m + 300 > n ? 1 : 97) {
        uint8_t *exact = malloc(m ? m : 1);                    // so that a sanitizer sees reads past the end
        memcpy(exact, file_bytes, m);
        assert_false(cifar_parse_python(exact, m, 10, "batch", &b, &err));
        assert_non_null(strstr(err.msg, "batch"));
        assert_null(b.labels);
        free(exact);
    }
    assert_false(cifar_parse_python(file_bytes, n, 100, "batch", &b, &err));
    assert_non_null(strstr(err.msg, "fine_labels"));
    static const struct { const char *find, *put; size_t n; const char *says; } lies[] = {
        { "labels]", "lobels]", 7, "\"labels\"" }, { "](K\x03", "](K\x0a", 4, "label 0 of" },
        { "](K\x03", "](U\x00", 4, "label 0 of" }, { "M\x00\x0c", "M\x00\x0b", 3, "shape says" },
        { "datac", "dbtac", 5, "no \"data\"" }, { "K\x03M\x00\x0c\x86", "M\x00\x0cK\x03\x86", 6, "(n, 3072)" },
        { "u1", "i1", 2, "(n, 3072)" } };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        python_file(file_bytes, 10, 0, false);
        uint8_t *at = memmem(file_bytes, n, lies[i].find, lies[i].n);
        assert_non_null(at);
        memcpy(at, lies[i].put, lies[i].n);
        assert_false(cifar_parse_python(file_bytes, n, 10, "batch", &b, &err));
        if (!strstr(err.msg, lies[i].says)) fail_msg("\"%s\" does not say \"%s\"", err.msg, lies[i].says);
    }
}

static void incomplete_and_mixed_folders(void **state) {
    (void)state;
    put_kind(&kinds[0]);
    unlink(in_folder("cifar-10-batches-bin/data_batch_4.bin"));
    refused(in_folder("cifar-10-batches-bin"), "cifar-10-batches-bin", "lacks data_batch_4.bin");
    put("cifar-10-batches-bin/data_batch_4.bin", "x", 1);
    refused(in_folder("cifar-10-batches-bin"), "data_batch_4.bin", "1 bytes are no whole number");
    put_kind(&kinds[0]);
    put("cifar-10-batches-bin/train.bin", "x", 1);
    refused(in_folder("cifar-10-batches-bin"), "cifar-10-batches-bin", "holds both");
    assert_int_equal(rename(in_folder("cifar-10-batches-bin"), in_folder("other")), 0);
    for (int i = 0; kinds[0].train[i]; i++) {
        char name[128];
        snprintf(name, sizeof name, "other/%s", kinds[0].train[i]);
        unlink(in_folder(name));
    }
    unlink(in_folder("other/train.bin"));
    refused(in_folder("other"), "other", "holds no training files");
}

static void archives_that_are_wrong(void **state) {
    (void)state;
    const Kind *k = &kinds[2];
    size_t n = make_file(k, 0);
    struct archive *a = tar_start("link.tar.gz");
    tar_add(a, "cifar-100-binary/train.bin", AE_IFLNK, NULL, 0);
    tar_end(a);
    refused(in_folder("link.tar.gz"), "cifar-100-binary/train.bin", "a link");
    a = tar_start("twice.tar.gz");
    tar_add(a, "cifar-100-binary/train.bin", AE_IFREG, file_bytes, n);
    tar_add(a, "other/train.bin", AE_IFREG, file_bytes, n);
    tar_end(a);
    refused(in_folder("twice.tar.gz"), "twice.tar.gz", "train.bin twice");
    a = tar_start("foreign.tar.gz");
    tar_add(a, "thesis.txt", AE_IFREG, "text", 4);
    tar_end(a);
    refused(in_folder("foreign.tar.gz"), "foreign.tar.gz", "holds no training files");
    a = tar_start("wrong.tar.gz");
    tar_add(a, "x/train.bin", AE_IFREG, file_bytes, n - 1);
    tar_end(a);
    refused(in_folder("wrong.tar.gz"), "wrong.tar.gz:train.bin", "no whole number");
}

static void archives_cut_or_changed_anywhere(void **state) {
    (void)state;
    put_archive(&kinds[2], "whole.tar.gz");
    Error err = { 0 };
    uint8_t *bytes;
    size_t n;
    assert_true(file_read(in_folder("whole.tar.gz"), 1 << 20, &bytes, &n, &err));
    // A cut before the end of the training file's data is refused; one in the padding after it may pass.
    size_t step = n / 100 + 1;
    for (size_t m = 0; m < n - n / 4; m += m < 40 ? 1 : step) {
        put("cut.tar.gz", bytes, m);
        refused(in_folder("cut.tar.gz"), "cut.tar.gz", "");
    }
    for (size_t i = 0; i < n; i += step) {
        bytes[i] ^= 0x10;
        put("cut.tar.gz", bytes, n);
        Dataset *d = dataset_open(in_folder("cut.tar.gz"), SPLIT_TRAIN, &err);
        if (!d) assert_non_null(strstr(err.msg, "cut.tar.gz"));
        dataset_close(d);
        bytes[i] ^= 0x10;
    }
    free(bytes);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
int main(void) {
    const struct CMUnitTest tests[] = {
        IN_FOLDER(every_kind_from_folder_and_archive), IN_FOLDER(known_name_with_another_md5_is_read_with_a_warning),
        cmocka_unit_test(binary_files_that_are_wrong), cmocka_unit_test(python_files_that_are_wrong),
        IN_FOLDER(incomplete_and_mixed_folders), IN_FOLDER(archives_that_are_wrong),
        IN_FOLDER(archives_cut_or_changed_anywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
