// tests/test_features.c - tables of features from every kind of file, what is refused, and images as rows of floats.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "eval/features.h"
#include "eval/images.h"
#include "tests/tempdir.h"

enum { N = 5, DIM = 3, CLASSES = 2 };
static const float x[N * DIM] = { 1, 2, 3, -4, 5.5f, 6, 7, 8, 9, 0, 0, 1e30f, 13, 14, 15 };
static const double x8[N * DIM] = { 1, 2, 3, -4, 5.5, 6, 7, 8, 9, 0, 0, 1e30, 13, 14, 15 };
static const int32_t label[N] = { 0, 1, 1, 0, -1 };
static const int64_t label8[N] = { 0, 1, 1, 0, -1 };
static const float probs[N * CLASSES] = { 1, 0, 0.5f, 0.5f, 0.25f, 0.75f, 0, 1, 0.9995f, 0 };

static NpyArray matrix(const char *descr, const void *data) {
    NpyArray a = { .ndim = 2, .shape = { N, DIM }, .data = data };
    strcpy(a.descr, descr);
    return a;
}

static const NpyArray labels_i8 = { .descr = "<i8", .ndim = 1, .shape = { N }, .data = label8 };
static const NpyArray probs_f4 = { .descr = "<f4", .ndim = 2, .shape = { N, CLASSES }, .data = probs };

static const char *npy(const char *name, NpyArray a) {
    Error err = { 0 };
    if (!npy_write(temp_path(name), &a, &err)) fail_msg("%s", err.msg);
    return temp_path(name);
}

static void check(const char *path, const char *labels, const char *classes, bool labelled, bool with_probs) {
    Features f;
    Error err = { 0 };
    if (!features_read(path, labels, classes, &f, &err)) fail_msg("%s", err.msg);
    assert_int_equal(f.n, N);
    assert_int_equal(f.dim, DIM);
    assert_memory_equal(f.x, x, sizeof x);
    assert_int_equal(f.label != NULL, labelled);
    if (labelled) assert_memory_equal(f.label, label, sizeof label);
    assert_int_equal(f.classes, with_probs ? CLASSES : 0);
    if (with_probs) assert_memory_equal(f.probs, probs, sizeof probs);
    features_free(&f);
    assert_null(f.x);
}

static void every_container(void **state) {
    (void)state;
    Error err = { 0 };
    const char *labels = npy("labels.npy", labels_i8), *classes = npy("probs.npy", probs_f4);
    check(npy("f4.npy", matrix("<f4", x)), "", "", false, false);
    check(npy("f8.npy", matrix("<f8", x8)), labels, "", true, false);
    check(temp_path("f4.npy"), labels, classes, true, true);

    NpyArray all[3] = { matrix("<f8", x8), labels_i8, probs_f4 };
    assert_true(npz_write(temp_path("a.npz"), (const char *[]){ "features", "labels", "probs" }, all, 3, &err));
    check(temp_path("a.npz"), "", "", true, true);
    assert_true(npz_write(temp_path("b.npz"), (const char *[]){ "arr_0", "labels" }, all, 2, &err));
    check(temp_path("b.npz"), "", classes, true, true);
    assert_true(npz_write(temp_path("c.npz"), (const char *[]){ "anything", "labels" }, all, 2, &err));
    check(temp_path("c.npz"), "", "", true, false);

    Features f;
    features_copy(N, DIM, x, label, CLASSES, probs, "copy", &f);
    const char *key = "protocol", *value = "cbdm";
    if (!features_write(temp_path("d.safetensors"), &f, &key, &value, 1, &err))
        fail_msg("%s", err.msg);
    features_free(&f);
    check(temp_path("d.safetensors"), "", "", true, true);
}

// bfloat16 and half: values that both hold exactly.
static void half_floats(void **state) {
    (void)state;
    static const uint16_t bf16[4] = { 0x3f80, 0xc000, 0x0000, 0x4120 }, f16[4] = { 0x3c00, 0xc000, 0x0000, 0x4900 };
    static const float want[4] = { 1, -2, 0, 10 };
    for (int i = 0; i < 2; i++) {
        Error err = { 0 };
        Features f;
        StTensor t = { .name = "x", .type = i ? ST_F16 : ST_BF16, .ndim = 2, .shape = { 2, 2 }, .data = i ? f16 : bf16,
                       .bytes = sizeof f16 };
        assert_true(st_write(temp_path("half.safetensors"), &t, 1, NULL, NULL, 0, &err));
        if (!features_read(temp_path("half.safetensors"), "", "", &f, &err)) fail_msg("%s", err.msg);
        assert_memory_equal(f.x, want, sizeof want);
        features_free(&f);
    }
}

// A header whose length is no multiple of 4 leaves the floats unaligned.
static void data_may_lie_unaligned(void **state) {
    (void)state;
    static const char text[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (5, 3)}\n";
    uint8_t bytes[10 + sizeof text - 1 + sizeof x] = "\x93NUMPY\x01\x00";
    bytes[8] = sizeof text - 1;
    memcpy(bytes + 10, text, sizeof text - 1);
    memcpy(bytes + 10 + sizeof text - 1, x, sizeof x);
    for (int shift = 0; shift < 4; shift++) {
        char *moved = malloc(sizeof bytes + 3);
        memcpy(moved + shift, bytes, sizeof bytes);
        Features f;
        Error err = { 0 };
        if (!features_parse((uint8_t *)moved + shift, sizeof bytes, "test", &f, &err)) fail_msg("%s", err.msg);
        assert_memory_equal(f.x, x, sizeof x);
        features_free(&f);
        free(moved);
    }
}

static void refused(const char *path, const char *labels, const char *classes, const char *words) {
    Features f;
    Error err = { 0 };
    assert_false(features_read(path, labels, classes, &f, &err));
    assert_int_equal(err.code, ERR_FILE);
    if (!strstr(err.msg, words)) fail_msg("\"%s\" does not say \"%s\"", err.msg, words);
}

static void what_is_wrong_is_refused_by_row(void **state) {
    (void)state;
    float broken[N * DIM];
    double large[N * DIM];
    memcpy(broken, x, sizeof x);
    memcpy(large, x8, sizeof x8);
    broken[3 * DIM + 1] = NAN;
    broken[4 * DIM] = INFINITY;
    large[2 * DIM] = 1e300;
    refused(npy("nan.npy", matrix("<f4", broken)), "", "", "row 3 ");
    refused(npy("large.npy", matrix("<f8", large)), "", "", "row 2 ");
    refused(npy("ints.npy", matrix("<i4", x)), "", "", "floats are needed");
    NpyArray line = { .descr = "<f4", .ndim = 1, .shape = { N }, .data = x }, none = matrix("<f4", x);
    none.shape[0] = 0;
    refused(npy("line.npy", line), "", "", "a matrix is needed");
    refused(npy("none.npy", none), "", "", "features without a row");
    refused(temp_path("absent.npy"), "", "", "absent.npy: cannot be opened");
    refused(tempdir, "", "", "not an ordinary file");

    const char *good = npy("good.npy", matrix("<f4", x));
    NpyArray few = labels_i8, floats = probs_f4, rows = probs_f4;
    few.shape[0] = N - 1;
    int64_t far[N] = { 0, 1, (int64_t)1 << 40, 0, 0 };
    NpyArray wide = labels_i8;
    wide.data = far;
    refused(good, npy("few.npy", few), "", "for 5 rows of features");
    refused(good, npy("wide.npy", wide), "", "row 2 ");
    refused(good, npy("floats.npy", floats), "", "whole numbers");
    rows.shape[0] = N - 1;
    refused(good, "", npy("rows.npy", rows), "4 rows of probs for 5");
    float logits[N * CLASSES], below[N * CLASSES];
    memcpy(logits, probs, sizeof probs);
    memcpy(below, probs, sizeof probs);
    logits[2 * CLASSES] = 3;
    below[CLASSES] = -0.5f, below[CLASSES + 1] = 1.5f;
    NpyArray p = probs_f4;
    p.data = logits;
    refused(good, "", npy("logits.npy", p), "row 2 (the first is 0) does not sum to 1");
    p.data = below;
    refused(good, "", npy("below.npy", p), "row 1 (the first is 0) holds a negative value");
    refused(good, "", temp_path("nothing.npy"), "nothing.npy: cannot be opened");

    Error err = { 0 };
    NpyArray two[2] = { matrix("<f4", x), matrix("<f4", x) };
    assert_true(npz_write(temp_path("two.npz"), (const char *[]){ "a", "b" }, two, 2, &err));
    refused(temp_path("two.npz"), "", "", "2 matrices of other names");
    two[0] = line;
    assert_true(npz_write(temp_path("stats.npz"), (const char *[]){ "mu", "sigma" }, two, 2, &err));
    refused(temp_path("stats.npz"), "", "", "holds mu and sigma");
    assert_true(file_write_text(temp_path("text.npy"), "no numbers here", &err));
    refused(temp_path("text.npy"), "", "", "neither .npy nor .npz nor .safetensors");
    assert_true(file_write_text(temp_path("empty.npy"), "", &err));
    refused(temp_path("empty.npy"), "", "", "empty");
}

static void images_as_rows(void **state) {
    (void)state;
    static const uint8_t bytes[4] = { 0, 1, 128, 255 };
    static const float floats[6] = { -1, 0, 1, 1.5f, -1.01f, 0.001f };
    static const float plain[6] = { 0, 127.5f, 255, 318.75f, (-1.01f + 1) * 127.5f, (0.001f + 1) * 127.5f };
    static const float rounded[6] = { 0, 128, 255, 255, 0, 128 };
    float out[6];
    ImageSet s = { .n = 2, .height = 1, .width = 2, .channels = 1, .u8 = bytes, .name = "bytes" };
    image_rows(&s, 0, 2, false, out);
    for (int i = 0; i < 4; i++) assert_true(out[i] == (float)bytes[i]);
    image_rows(&s, 1, 2, true, out);
    assert_true(out[0] == 128.0f && out[1] == 255.0f);
    s = (ImageSet){ .n = 1, .height = 1, .width = 2, .channels = 3, .f32 = floats, .name = "floats" };
    image_rows(&s, 0, 1, false, out);
    assert_memory_equal(out, plain, sizeof plain);
    image_rows(&s, 0, 1, true, out);
    assert_memory_equal(out, rounded, sizeof rounded);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_container), cmocka_unit_test(half_floats), cmocka_unit_test(data_may_lie_unaligned),
        cmocka_unit_test(what_is_wrong_is_refused_by_row), cmocka_unit_test(images_as_rows),
    };
    return cmocka_run_group_tests(tests, tempdir_make, tempdir_remove);
}
