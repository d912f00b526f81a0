// tests/test_dataset.c - opening IDX files, folders of PNGs and the built-in set; padding; what is refused, and how.
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
#include <zlib.h>
#include <cmocka.h>
#include "core/file.h"
#include "train/data_formats.h"

// ---- a folder of its own for each test
static char folder[64];

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/cbdm-dataset-XXXXXX");
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

static const char *in_folder(const char *name) {           // valid until the fourth call after
    static char paths[4][256];
    static int next;
    char *p = paths[next++ % 4];
    snprintf(p, sizeof paths[0], "%s/%s", folder, name);
    return p;
}

static void put(const char *name, const void *bytes, size_t n) {
    FILE *f = fopen(in_folder(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static Dataset *open_fine(const char *path, Split split) {
    Error err = { 0 };
    Dataset *d = dataset_open(path, split, &err);
    if (!d) fail_msg("%s", err.msg);
    return d;
}

static void open_refused(const char *path, Split split, const char *names, const char *says) {
    Error err = { 0 };
    Dataset *d = dataset_open(path, split, &err);
    if (d) fail_msg("%s was opened; a refusal (%s) was due", path, says);
    assert_int_equal(err.code, ERR_FILE);
    if (!strstr(err.msg, names)) fail_msg("\"%s\" does not name \"%s\"", err.msg, names);
    if (!strstr(err.msg, says)) fail_msg("\"%s\" does not say \"%s\"", err.msg, says);
    assert_null(strchr(err.msg, '\n'));
}

// ---- IDX
enum { N = 5, H = 3, W = 2 };
// An IDX file of the given dimensions whose data bytes are start, start + step, ... Returns its length.
static size_t idx_bytes(uint8_t *out, int ndim, const int *dim, int start, int step) {
    size_t n = 4, count = 1;
    memcpy(out, (const uint8_t[]){ 0, 0, 8, (uint8_t)ndim }, 4);
    for (int i = 0; i < ndim; i++, n += 4) {
        memcpy(out + n, (const uint8_t[]){ 0, 0, (uint8_t)(dim[i] >> 8), (uint8_t)dim[i] }, 4);
        count *= (size_t)dim[i];
    }
    for (size_t i = 0; i < count; i++) out[n++] = (uint8_t)(start + step * (int)i);
    return n;
}

static void put_gzip(const char *name, const uint8_t *bytes, size_t n, const char *mode) {
    gzFile f = gzopen(in_folder(name), mode);
    assert_non_null(f);
    assert_int_equal(gzwrite(f, bytes, (unsigned)n), n);
    gzclose(f);
}

static size_t images_file(uint8_t *out) { return idx_bytes(out, 3, (const int[]){ N, H, W }, 10, 7); }
static size_t labels_file(uint8_t *out) { return idx_bytes(out, 1, (const int[]){ N }, 0, 1); }

static void check_idx(const Dataset *d) {
    const DatasetInfo *z = dataset_info(d);
    assert_string_equal(z->kind, "IDX");
    assert_int_equal(z->count, N);
    assert_int_equal(z->classes, N);
    assert_true(z->height == H && z->width == W && z->channels == 1);
    for (int i = 0; i < N * H * W; i++) assert_int_equal(z->images[i], (uint8_t)(10 + 7 * i));
    for (int i = 0; i < N; i++) {
        assert_int_equal(z->labels[i], i);
        assert_int_equal(z->per_class[i], 1);
    }
    assert_string_equal(z->class_names[3], "3");
    assert_null(z->note);
}

static void idx_under_every_name(void **state) {
    (void)state;
    static const char *const names[][2] = {
        { "train-images-idx3-ubyte", "train-labels-idx1-ubyte" },
        { "train-images.idx3-ubyte", "train-labels.idx1-ubyte" },
        { "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz" },
        { "train-images.idx3-ubyte", "train-labels-idx1-ubyte.gz" } };
    uint8_t x[256], y[64];
    size_t nx = images_file(x), ny = labels_file(y);
    char digest[65] = "";
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        for (int i = 0; i < 2; i++) {
            if (strstr(names[k][i], ".gz")) put_gzip(names[k][i], i ? y : x, i ? ny : nx, "wb9");
            else put(names[k][i], i ? y : x, i ? ny : nx);
        }
        Dataset *d = open_fine(folder, SPLIT_TRAIN);
        check_idx(d);
        if (k) assert_string_equal(dataset_info(d)->digest, digest);       // of the content, not of the packing
        strcpy(digest, dataset_info(d)->digest);
        dataset_close(d);
        open_refused(folder, SPLIT_TEST, folder, "t10k-images-idx3-ubyte");
        for (int i = 0; i < 2; i++) unlink(in_folder(names[k][i]));
    }
}

static void idx_single_file_with_neighbours(void **state) {
    (void)state;
    uint8_t x[256], y[64];
    size_t nx = images_file(x), ny = labels_file(y);
    put("my-train-images.idx", x, nx);
    open_refused(in_folder("my-train-images.idx"), SPLIT_TRAIN, "my-train-images.idx", "my-train-labels.idx");
    put("my-train-labels.idx", y, ny);
    Dataset *d = open_fine(in_folder("my-train-images.idx"), SPLIT_TRAIN);
    check_idx(d);
    dataset_close(d);
    open_refused(in_folder("my-train-images.idx"), SPLIT_TEST, "my-train-images.idx", "no test images");
    open_refused(in_folder("my-train-labels.idx"), SPLIT_TRAIN, "my-train-labels.idx", "these are labels");
    x[4 + 12] = 99;
    put("my-test-images.idx", x, nx);
    put("my-test-labels.idx", y, ny);
    d = open_fine(in_folder("my-train-images.idx"), SPLIT_TEST);
    assert_int_equal(dataset_info(d)->images[0], 99);
    dataset_close(d);
}

static void idx_with_colour(void **state) {
    (void)state;
    uint8_t x[256], y[64];
    put("images", x, idx_bytes(x, 4, (const int[]){ 4, 2, 2, 3 }, 0, 1));
    put("labels", y, idx_bytes(y, 1, (const int[]){ 4 }, 0, 0));
    Dataset *d = open_fine(in_folder("images"), SPLIT_TRAIN);
    assert_int_equal(dataset_info(d)->channels, 3);
    assert_int_equal(dataset_info(d)->classes, 1);
    assert_int_equal(dataset_info(d)->images[47], 47);
    dataset_close(d);
    put("images", x, idx_bytes(x, 4, (const int[]){ 4, 2, 2, 2 }, 0, 1));
    open_refused(in_folder("images"), SPLIT_TRAIN, "images", "1 or 3 channels");
}

static void idx_truncated_at_every_byte(void **state) {
    (void)state;
    uint8_t x[256], y[64], gz[512];
    size_t nx = images_file(x), ny = labels_file(y);
    put("labels", y, ny);
    for (size_t n = 0; n < nx; n++) {
        put("images", x, n);
        open_refused(in_folder("images"), SPLIT_TRAIN, "images", n < 2 ? "no known kind" : "get");
    }
    put("images", x, nx);
    for (size_t n = 0; n < ny; n++) {
        put("labels", y, n);
        open_refused(in_folder("images"), SPLIT_TRAIN, "labels", "get");
    }
    // The same, gzipped; of the images, since their header decides what a file is.
    put("labels", y, ny);
    put_gzip("packed", x, nx, "wb9");
    FILE *f = fopen(in_folder("packed"), "rb");
    size_t n_gz = fread(gz, 1, sizeof gz, f);
    fclose(f);
    for (size_t n = 0; n < n_gz; n++) {
        put("images", gz, n);
        open_refused(in_folder("images"), SPLIT_TRAIN, "images", n < 3 ? "" : "get it again");
    }
}

static void idx_headers_that_lie(void **state) {
    (void)state;
    // A byte of the images file replaced, and what the refusal says.
    static const struct { int at, value; const char *says; } lies[] = {
        { 2, 0x0d, "type 0x0d" }, { 3, 0, "0 dimensions" }, { 3, 5, "5 dimensions" }, { 3, 255, "255 dimensions" },
        { 3, 1, "promises" }, { 4, 255, "promises" }, { 7, N + 1, "promises" }, { 8, 255, "promises" },
        { 11, 0, "promises" }, { 3, 2, "promises" } };
    uint8_t x[256], y[64];
    put("labels", y, labels_file(y));
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        size_t n = images_file(x);
        x[lies[i].at] = (uint8_t)lies[i].value;
        put("images", x, n);
        open_refused(in_folder("images"), SPLIT_TRAIN, "images", lies[i].says);
    }
    // Products that overflow, zero sides, sides beyond the limit, no image at all, labels of another length.
    uint8_t huge[20] = { 0, 0, 8, 4 };
    memset(huge + 4, 255, 16);
    put("images", huge, sizeof huge);
    open_refused(in_folder("images"), SPLIT_TRAIN, "images", "impossible");
    put("images", x, idx_bytes(x, 3, (const int[]){ N, 0, 2 }, 0, 0));
    open_refused(in_folder("images"), SPLIT_TRAIN, "images", "a side of 0");
    put("images", x, idx_bytes(x, 3, (const int[]){ 0, 5000, 1 }, 0, 0));
    put("labels", y, idx_bytes(y, 1, (const int[]){ 0 }, 0, 0));
    open_refused(in_folder("images"), SPLIT_TRAIN, "images", "a side of 5000");
    put("images", x, idx_bytes(x, 3, (const int[]){ 0, 2, 2 }, 0, 0));
    open_refused(in_folder("images"), SPLIT_TRAIN, "images", "0 images");
    put("images", x, images_file(x));
    open_refused(in_folder("images"), SPLIT_TRAIN, "images", "do not belong together");
    put("labels", x, images_file(x));
    open_refused(in_folder("images"), SPLIT_TRAIN, "labels", "labels need 1");
}

static void gzip_is_expanded_within_bounds(void **state) {
    (void)state;
    static uint8_t zeros[1 << 20], packed[1 << 16];
    uint8_t *out;
    size_t n, out_n;
    Error err = { 0 };
    put_gzip("a.gz", zeros, sizeof zeros, "wb9");
    FILE *f = fopen(in_folder("a.gz"), "rb");
    n = fread(packed, 1, sizeof packed, f);
    fclose(f);
    assert_true(n < 4096);
    assert_false(gzip_expand(packed, n, 100000, "a.gz", &out, &out_n, &err));
    assert_non_null(strstr(err.msg, "more than 100000"));
    // Two members in a row are one file; anything else after a member is damage.
    memcpy(packed + n, packed, n);
    assert_true(gzip_expand(packed, 2 * n, 4 << 20, "a.gz", &out, &out_n, &err));
    assert_int_equal(out_n, 2 * sizeof zeros);
    free(out);
    packed[n] = 0;
    assert_false(gzip_expand(packed, 2 * n, 4 << 20, "a.gz", &out, &out_n, &err));
    assert_non_null(strstr(err.msg, "damaged gzip"));
    packed[n - 8] ^= 1;                                         // the checksum
    assert_false(gzip_expand(packed, n, 4 << 20, "a.gz", &out, &out_n, &err));
    assert_non_null(strstr(err.msg, "a.gz"));
}

// Where Debian's package dataset-fashion-mnist is installed; skipped elsewhere.
static void fashion_mnist_is_recognised(void **state) {
    (void)state;
    static const char path[] = "/usr/share/datasets/fashion-mnist";
    if (!path_is_folder(path)) skip();
    for (Split split = SPLIT_TRAIN; split <= SPLIT_TEST; split++) {
        Dataset *d = open_fine(path, split);
        const DatasetInfo *z = dataset_info(d);
        assert_true(z->count == (split == SPLIT_TRAIN ? 60000 : 10000) && z->classes == 10 && z->height == 28);
        for (int c = 0; c < 10; c++) assert_int_equal(z->per_class[c], z->count / 10);
        assert_string_equal(z->class_names[0], "T-shirt/top");
        assert_string_equal(z->class_names[9], "Ankle boot");
        assert_non_null(z->note);
        dataset_close(d);
    }
}

// ---- folders of PNGs
static void put_png(const char *name, int w, int h, int channels, int value) {
    uint8_t pixels[16 * 16 * 3];
    memset(pixels, value, sizeof pixels);
    Error err = { 0 };
    char *path = xstrdup(in_folder(name)), *slash = strrchr(path, '/');
    *slash = 0;
    assert_true(dir_make(path, &err));
    *slash = '/';
    if (!png_write(path, pixels, w, h, channels, &err)) fail_msg("%s", err.msg);
    free(path);
}

static void folder_classes_are_sorted_names(void **state) {
    (void)state;
    put_png("dog/2.png", 4, 3, 1, 20);
    put_png("dog/10.png", 4, 3, 1, 10);
    put_png("cat/a.PNG", 4, 3, 1, 30);
    put_png("eel/x.png", 4, 3, 1, 40);
    unlink(in_folder("eel/x.png"));                             // an empty class
    put_png(".hidden/x.png", 5, 5, 1, 50);
    put("cat/notes.txt", "x", 1);
    Dataset *d = open_fine(folder, SPLIT_TRAIN);
    const DatasetInfo *z = dataset_info(d);
    assert_string_equal(z->kind, "folder");
    assert_int_equal(z->classes, 3);
    assert_string_equal(z->class_names[0], "cat");
    assert_string_equal(z->class_names[2], "eel");
    assert_true(z->channels == 1 && z->width == 4 && z->height == 3 && z->count == 3);
    static const int value[3] = { 30, 10, 20 }, label[3] = { 0, 1, 1 };
    for (int i = 0; i < 3; i++) {
        assert_int_equal(z->images[i * 12 + 11], value[i]);
        assert_int_equal(z->labels[i], label[i]);
    }
    assert_int_equal(z->per_class[2], 0);
    dataset_close(d);
    open_refused(folder, SPLIT_TEST, folder, "no test split");
    // One image with colour makes the set RGB.
    put_png("eel/x.png", 4, 3, 3, 77);
    d = open_fine(folder, SPLIT_TRAIN);
    assert_int_equal(dataset_info(d)->channels, 3);
    assert_int_equal(dataset_info(d)->images[2], 30);
    assert_int_equal(dataset_info(d)->images[3 * 36], 77);
    dataset_close(d);
}

static void folder_with_train_and_test(void **state) {
    (void)state;
    put_png("train/a/0.png", 2, 2, 3, 1);
    put_png("train/b/0.png", 2, 2, 3, 2);
    open_refused(folder, SPLIT_TEST, folder, "no test split");
    put_png("test/b/0.png", 2, 2, 3, 3);
    Dataset *d = open_fine(folder, SPLIT_TRAIN);
    assert_int_equal(dataset_info(d)->count, 2);
    dataset_close(d);
    d = open_fine(folder, SPLIT_TEST);                          // class numbers are those of the training set
    assert_int_equal(dataset_info(d)->classes, 2);
    assert_int_equal(dataset_info(d)->labels[0], 1);
    dataset_close(d);
    put_png("test/c/0.png", 2, 2, 3, 3);
    open_refused(folder, SPLIT_TEST, "test/c", "a class that");
}

static void folder_refusals_name_the_file(void **state) {
    (void)state;
    open_refused(folder, SPLIT_TRAIN, folder, "no known kind of data");
    put_png("a/0.png", 4, 4, 1, 0);
    unlink(in_folder("a/0.png"));
    open_refused(folder, SPLIT_TRAIN, folder, "no PNG");
    put_png("a/0.png", 4, 4, 1, 0);
    put_png("b/odd.png", 4, 5, 1, 0);
    open_refused(folder, SPLIT_TRAIN, "b/odd.png", "4 x 5");
    put("b/odd.png", "not a PNG at all, but long enough", 33);
    open_refused(folder, SPLIT_TRAIN, "b/odd.png", "not a PNG");
    // Cut anywhere, an image stops the reading.
    put_png("b/odd.png", 4, 4, 1, 9);
    uint8_t png[512];
    FILE *f = fopen(in_folder("b/odd.png"), "rb");
    size_t n = fread(png, 1, sizeof png, f);
    fclose(f);
    for (size_t k = 0; k < n; k++) {
        put("b/odd.png", png, k);
        open_refused(folder, SPLIT_TRAIN, "b/odd.png", "");
    }
    memset(png + 16, 0x7f, 8);                                  // 2139062143 x 2139062143
    put("b/odd.png", png, n);
    open_refused(folder, SPLIT_TRAIN, "b/odd.png", "a side of 2139062143");
}

// ---- the built-in set
static void builtin_is_the_same_everywhere(void **state) {
    (void)state;
    // The digest pins every byte: other compilers, flags and machines must draw the same.
    Dataset *d = open_fine("builtin", SPLIT_TRAIN);
    const DatasetInfo *z = dataset_info(d);
    assert_true(z->classes == 10 && z->channels == 3 && z->height == 32 && z->width == 32 && z->count == 10000);
    for (int c = 0; c < 10; c++) assert_int_equal(z->per_class[c], 1000);
    assert_string_equal(z->class_names[0], "disc");
    assert_string_equal(z->digest, "bbd1c5b3489039fb04c5c7f5608404300527d79c3d75fdb14b9e2c448aa4cd0f");
    Dataset *test = open_fine("builtin", SPLIT_TEST);
    assert_int_equal(dataset_info(test)->count, 2000);
    // No test image is a training image.
    for (int i = 0; i < 2000; i += 37) {
        for (int j = 0; j < 10000; j++) {
            assert_memory_not_equal(dataset_info(test)->images + (size_t)i * 3072, z->images + (size_t)j * 3072, 3072);
        }
    }
    dataset_close(test);
    dataset_close(d);
}

// ---- padding, and paths that lead nowhere
static void padding_is_centred(void **state) {
    (void)state;
    uint8_t x[256], y[64];
    put("images", x, images_file(x));
    put("labels", y, labels_file(y));
    Error err = { 0 };
    Dataset *d = open_fine(in_folder("images"), SPLIT_TRAIN);
    assert_ptr_equal(dataset_pad(d, 0, &err), d);
    char digest[65];
    strcpy(digest, dataset_info(d)->digest);
    d = dataset_pad(d, 6, &err);
    assert_non_null(d);
    const DatasetInfo *z = dataset_info(d);
    assert_true(z->height == 6 && z->width == 6 && z->count == N);
    assert_string_not_equal(z->digest, digest);
    for (int i = 0; i < N; i++) {
        for (int r = 0; r < 6; r++) {
            for (int c = 0; c < 6; c++) {
                bool in = r >= 1 && r < 4 && c >= 2 && c < 4;      // (6 - 3) / 2 above, (6 - 2) / 2 to the left
                int want = in ? (uint8_t)(10 + 7 * (i * H * W + (r - 1) * W + c - 2)) : 0;
                assert_int_equal(z->images[(i * 6 + r) * 6 + c], want);
            }
        }
    }
    assert_null(dataset_pad(d, 5, &err));
    assert_int_equal(err.code, ERR_USAGE);
    assert_non_null(strstr(err.msg, "from 6 to 4096"));
}

static void missing_paths_are_answered_with_help(void **state) {
    (void)state;
    open_refused(in_folder("nothing"), SPLIT_TRAIN, "nothing", "builtin");
    open_refused("cifar10", SPLIT_TRAIN, "https://www.cs.toronto.edu/~kriz/cifar.html",
                 "c58f30108f718f92721af3b95e74349a");
    open_refused("CIFAR-100", SPLIT_TRAIN, "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8");
    open_refused(in_folder("cifar-10-binary.tar.gz"), SPLIT_TEST, "cifar-10-binary.tar.gz", "kriz");
    open_refused(in_folder("fashion-mnist"), SPLIT_TRAIN, "fashion-mnist", "Debian package dataset-fashion-mnist");
    put("text", "hello, this is text\n", 20);
    open_refused(in_folder("text"), SPLIT_TRAIN, "text", "no known kind");
    put("empty", "", 0);
    open_refused(in_folder("empty"), SPLIT_TRAIN, "empty", "no known kind");
    open_refused("/dev/zero", SPLIT_TRAIN, "/dev/zero", "neither a file nor a folder");
    Error err = { 0 };
    assert_null(dataset_open("", SPLIT_TRAIN, &err));
    assert_int_equal(err.code, ERR_USAGE);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
int main(void) {
    const struct CMUnitTest tests[] = {
        IN_FOLDER(idx_under_every_name), IN_FOLDER(idx_single_file_with_neighbours), IN_FOLDER(idx_with_colour),
        IN_FOLDER(idx_truncated_at_every_byte), IN_FOLDER(idx_headers_that_lie),
        IN_FOLDER(gzip_is_expanded_within_bounds), cmocka_unit_test(fashion_mnist_is_recognised),
        IN_FOLDER(folder_classes_are_sorted_names),
        IN_FOLDER(folder_with_train_and_test),
        IN_FOLDER(folder_refusals_name_the_file), cmocka_unit_test(builtin_is_the_same_everywhere),
        IN_FOLDER(padding_is_centred), IN_FOLDER(missing_paths_are_answered_with_help),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
