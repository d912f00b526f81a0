// tests/test_samples.c - samples in every form that they come in, and every way in which they do not fit.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "core/file.h"
#include "eval/samples.h"
#include "tests/tempdir.h"

enum { N = 6, SIDE = 4, E = SIDE * SIDE, CLASSES = 3 };
static const char *const names[CLASSES] = { "cat", "dog", "owl" };
static const DatasetInfo data = { .classes = CLASSES, .channels = 1, .height = SIDE, .width = SIDE, .count = 9,
                                  .class_names = names, .source = "animals" };
static const int32_t label_of[N] = { 0, 1, 2, 0, 1, 2 };

static uint8_t pixel(int image, int p) { return (uint8_t)(40 * image + p); }

static void write_text(const char *name, const char *text) {
    Error err;
    if (!file_write_text(temp_path(name), text, &err)) fail_msg("%s", err.msg);
}

static void make_folder(const char *name) { assert_true(dir_make(temp_path(name), NULL)); }

static void write_png(const char *name, int image) {
    uint8_t p[E];
    Error err;
    for (int k = 0; k < E; k++) p[k] = pixel(image, k);
    char *path = xasprintf("%s/%s", tempdir, name);
    if (!png_write(path, p, SIDE, SIDE, 1, &err)) fail_msg("%s", err.msg);
    free(path);
}

// arr_0 and, if wanted, arr_1.
static void write_npz(const char *name, int n, int side, int channels, bool labels) {
    uint8_t *p = xmalloc((size_t)(n * side * side * channels));
    int64_t y[N];
    Error err;
    for (int k = 0; k < n * side * side * channels; k++) p[k] = pixel(k / E, k % E);
    for (int i = 0; i < n; i++) y[i] = label_of[i];
    const NpyArray a[] = { { "|u1", 4, { n, side, side, channels }, p }, { "<i8", 1, { n }, y } };
    if (!npz_write(temp_path(name), (const char *const[]){ "arr_0", "arr_1" }, a, labels ? 2 : 1, &err))
        fail_msg("%s", err.msg);
    free(p);
}

// The published code's: (N,1,H,W) in [0,1].
static float value(int image, int p) { return (float)(image * E + p) / (N * E); }
static void write_floats(const char *name, float add) {
    float p[N * E];
    Error err;
    for (int k = 0; k < N * E; k++) p[k] = value(k / E, k % E) + add;
    NpyArray a = { "<f4", 4, { N, 1, SIDE, SIDE }, p };
    if (!npy_write(temp_path(name), &a, &err)) fail_msg("%s", err.msg);
}

static void write_labels(const char *name, int n, int64_t last) {
    int64_t y[N];
    Error err;
    for (int i = 0; i < n; i++) y[i] = i == n - 1 ? last : label_of[i];
    NpyArray a = { "<i8", 1, { n }, y };
    if (!npy_write(temp_path(name), &a, &err)) fail_msg("%s", err.msg);
}

static void write_manifest(const char *name) {
    char text[4096] = "";
    for (int i = 0; i < N; i++) {
        size_t n = strlen(text);
        snprintf(text + n, sizeof text - n, "{\"index\": %d, \"number\": %d, \"label\": %d, \"class\": \"%s\", "
                 "\"file\": \"%03d/%06d.png\", \"omega\": 1.5, \"sampler\": \"ddim\", \"checkpoint\": \"abc\"}\n", i,
                 10 + i,
                 (int)label_of[i], names[label_of[i]], (int)label_of[i], 10 + i);
    }
    write_text(name, text);
}

static const char settings[] =
    "{\"path\": \"runs/a/checkpoints/step-000000400.safetensors\", \"checkpoint\": \"abc\", \"class_counts\": "
    "[80, 25, 8], \"weights\": \"ema\", \"seed\": 7, \"omega\": [1.5], \"sampler\": \"ddim\", \"steps\": 25, "
    "\"machine\": {\"threads\": 1}}";

static Samples read_well(const char *name, const char *labels) {
    Samples s;
    Error err;
    if (!samples_read(temp_path(name), *labels ? temp_path(labels) : "", &data, &s, &err)) fail_msg("%s", err.msg);
    return s;
}

static void expect_bytes(const Samples *s) {
    assert_int_equal(s->images.n, N);
    assert_non_null(s->images.u8);
    for (int i = 0; i < N; i++)
        for (int p = 0; p < E; p++) assert_int_equal(s->images.u8[i * E + p], pixel(i, p));
}

static void expect_labels(const Samples *s) {
    for (int i = 0; i < N; i++) assert_int_equal(s->images.label[i], label_of[i]);
}

// ---- forms
static void arrays_with_labels_of_their_own_or_beside(void **unused) {
    (void)unused;
    write_npz("a.npz", N, SIDE, 1, true);
    write_npz("bare.npz", N, SIDE, 1, false);
    write_labels("y.npy", N, 2);
    Samples s = read_well("a.npz", "");
    expect_bytes(&s);
    expect_labels(&s);
    for (int i = 0; i < N; i++) assert_int_equal(s.number[i], i);
    assert_true(isnan(s.origin.omega));
    samples_free(&s);
    s = read_well("bare.npz", "");
    expect_bytes(&s);
    assert_null(s.images.label);
    samples_free(&s);
    s = read_well("bare.npz", "y.npy");
    expect_labels(&s);
    samples_free(&s);
}

static void floats_of_the_published_code(void **unused) {
    (void)unused;
    write_floats("cfg_1.5_samples_ema_x.npy", 0);
    write_labels("cfg_1.5_labels_ema_x.npy", N, 2);
    Samples s = read_well("cfg_1.5_samples_ema_x.npy", "");
    assert_null(s.images.u8);
    expect_labels(&s);
    for (int i = 0; i < N; i++)
        for (int p = 0; p < E; p++) assert_true(s.images.f32[i * E + p] == 2 * value(i, p) - 1);
    samples_free(&s);
}

static void channels_come_last(void **unused) {
    (void)unused;
    DatasetInfo colour = data;
    colour.channels = 3;
    float p[2 * 3 * E];
    for (int k = 0; k < 2 * 3 * E; k++) p[k] = (float)k / (2 * 3 * E);
    NpyArray a = { "<f4", 4, { 2, 3, SIDE, SIDE }, p };
    Error err;
    assert_true(npy_write(temp_path("rgb.npy"), &a, &err));
    Samples s;
    assert_true(samples_read(temp_path("rgb.npy"), "", &colour, &s, &err));
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 3; k++)
            for (int q = 0; q < E; q++)
                assert_true(s.images.f32[(i * E + q) * 3 + k] == 2 * p[(i * 3 + k) * E + q] - 1);
    samples_free(&s);
}

static void write_pngs(const char *folder, const char *const *class_folders) {
    for (int c = 0; c < CLASSES; c++) {
        char *sub = xasprintf("%s/%s/%s", tempdir, folder, class_folders[c]);
        assert_true(dir_make(sub, NULL));
        free(sub);
    }
    for (int i = 0; i < N; i++) {
        char *file = xasprintf("%s/%s/%06d.png", folder, class_folders[label_of[i]], 10 + i);
        write_png(file, i);
        free(file);
    }
}

static void a_finished_folder(void **unused) {
    (void)unused;
    static const char *const numbered[] = { "000", "001", "002" };
    write_pngs("done", numbered);
    write_manifest("done/manifest.jsonl");
    write_text("done/sampling.json", settings);
    for (int form = 0; form < 3; form++) {                 // PNGs, then the array, then floats
        if (form == 1) write_npz("done/samples.npz", N, SIDE, 1, true);
        if (form == 2) write_floats("done/cfg_1.5_samples_ema_saved.npy", 0);
        Samples s = read_well("done", "");
        if (form < 2) expect_bytes(&s);
        else assert_non_null(s.images.f32);
        expect_labels(&s);
        for (int i = 0; i < N; i++) assert_int_equal(s.number[i], 10 + i);
        assert_string_equal(s.origin.checkpoint, "runs/a/checkpoints/step-000000400.safetensors");
        assert_string_equal(s.origin.sha256, "abc");
        assert_string_equal(s.origin.sampler, "ddim");
        assert_int_equal(s.origin.step, 400);
        assert_int_equal(s.origin.steps, 25);
        assert_int_equal(s.origin.seed, 7);
        assert_true(s.origin.omega == 1.5);
        assert_int_equal(s.origin.n_counts, 3);
        assert_memory_equal(s.origin.class_counts, ((int64_t[]){ 80, 25, 8 }), 3 * sizeof(int64_t));
        samples_free(&s);
    }
}

static void class_folders_by_number_and_by_name(void **unused) {
    (void)unused;
    static const char *const numbered[] = { "000", "001", "002" };
    write_pngs("plain", numbered);
    write_pngs("named", names);
    static const int order[N] = { 0, 3, 1, 4, 2, 5 };      // class by class
    for (int form = 0; form < 3; form++) {
        if (form == 2) write_text("plain/sampling.json", settings);      // begun, not finished
        Samples s = read_well(form == 1 ? "named" : "plain", "");
        for (int i = 0; i < N; i++) {
            assert_int_equal(s.images.label[i], label_of[order[i]]);
            assert_int_equal(s.images.u8[i * E + 3], pixel(order[i], 3));
        }
        assert_int_equal(s.origin.step, form == 2 ? 400 : -1);
        samples_free(&s);
    }
}

static void a_folder_of_images_alone_has_no_labels(void **unused) {
    (void)unused;
    make_folder("flat");
    write_png("flat/b.png", 1);
    write_png("flat/a.png", 0);
    Samples s = read_well("flat", "");
    assert_int_equal(s.images.n, 2);
    assert_null(s.images.label);
    for (int i = 0; i < 2; i++) assert_int_equal(s.images.u8[i * E + 3], pixel(i, 3));        // by name
    samples_free(&s);
}

static void colour_without_colours_is_grey(void **unused) {
    (void)unused;
    Error err;
    uint8_t p[2 * E * 3];
    for (int k = 0; k < 2 * E * 3; k++) p[k] = pixel(k / (3 * E), k / 3 % E);
    NpyArray a = { "|u1", 4, { 2, SIDE, SIDE, 3 }, p };
    assert_true(npy_write(temp_path("grey.npy"), &a, &err));
    Samples s = read_well("grey.npy", "");
    assert_int_equal(s.images.channels, 1);
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < E; k++) assert_int_equal(s.images.u8[i * E + k], pixel(i, k));
    samples_free(&s);
}

// Several guidance strengths: settings lie in the folder above.
static void a_folder_of_one_omega(void **unused) {
    (void)unused;
    make_folder("sweep/omega-1.5");
    write_manifest("sweep/omega-1.5/manifest.jsonl");
    write_npz("sweep/omega-1.5/samples.npz", N, SIDE, 1, true);
    write_text("sweep/sampling.json", "{\"steps\": 25, \"omega\": [0, 1.5]}");
    Samples s = read_well("sweep/omega-1.5/", "");
    assert_int_equal(s.origin.steps, 25);
    assert_true(s.origin.omega == 1.5);
    samples_free(&s);
}

// ---- what does not fit
static void expect_refusal(const char *name, const char *labels, int code, const char *part) {
    Samples s;
    Error err = { 0 };
    if (samples_read(temp_path(name), *labels ? temp_path(labels) : "", &data, &s, &err)) fail_msg("%s was read", name);
    if (err.code != code || !strstr(err.msg, part))
        fail_msg("%s: %d, \"%s\", not \"%s\"", name, err.code, err.msg, part);
}

static void refusals_name_thing_and_mend(void **unused) {
    (void)unused;
    write_npz("small.npz", N, 2, 1, true);
    write_npz("rgb.npz", 2, SIDE, 3, true);
    write_npz("wide.npz", 1, SIDE, 2, true);
    write_npz("y.npz", N, SIDE, 1, false);
    write_labels("few.npy", N - 1, 2);
    write_labels("beyond.npy", N, 3);
    write_labels("below.npy", N, -2);
    write_floats("bright.npy", 0.5f);
    write_text("torn.npz", "no archive");
    make_folder("empty");
    make_folder("stray/fish");
    make_folder("many");
    write_text("many/sampling.json", "{\"omega\": [0, 1.5]}");
    make_folder("odd");
    write_text("odd/sampling.json", "{\"class_counts\": [80, 2.5]}");
    expect_refusal("absent", "", ERR_FILE, "name a folder");
    expect_refusal("small.npz", "", ERR_USAGE, "images of 2 x 2 x 1, animals of 4 x 4 x 1");
    expect_refusal("rgb.npz", "", ERR_USAGE, "4 x 4 x 3");
    expect_refusal("wide.npz", "", ERR_FILE, "1 or 3");
    expect_refusal("y.npz", "few.npy", ERR_FILE, "5 labels for 6 images");
    expect_refusal("y.npz", "beyond.npy", ERR_FILE, "image 5 is of class 3, and animals has the classes 0 to 2");
    expect_refusal("y.npz", "below.npy", ERR_FILE, "label -2");
    expect_refusal("bright.npy", "", ERR_FILE, "from 0 to 1");
    expect_refusal("torn.npz", "", ERR_FILE, "torn.npz");
    expect_refusal("few.npy", "", ERR_FILE, "images are bytes (N,H,W,C) or floats");
    expect_refusal("empty", "", ERR_FILE, "holds no samples");
    expect_refusal("empty", "few.npy", ERR_USAGE, "leave out --gen-labels");
    expect_refusal("stray", "", ERR_USAGE, "stray/fish is no class of animals");
    expect_refusal("many", "", ERR_USAGE, "2 guidance strengths");
    expect_refusal("odd", "", ERR_FILE, "odd/sampling.json, byte");
}

static void counts_name_what_is_missing(void **unused) {
    (void)unused;
    write_npz("c.npz", N - 1, SIDE, 1, true);
    int64_t counts[CLASSES];
    Error err = { 0 };
    Samples s = read_well("c.npz", "");
    assert_true(samples_count(&s, &data, 1, counts, &err));
    assert_int_equal(counts[0], 2);
    assert_int_equal(counts[2], 1);
    assert_false(samples_count(&s, &data, 2, counts, &err));
    assert_non_null(strstr(err.msg, "1 images of class 2 (owl)"));
    s.images.label = NULL;
    assert_false(samples_count(&s, &data, 1, counts, &err));
    assert_non_null(strstr(err.msg, "--gen-labels"));
    samples_free(&s);
}

static void manifests_are_not_trusted(void **unused) {
    (void)unused;
    static const char *const bad[] = {
        "", "{", "[]", "{}", "{\"number\": 1, \"label\": 0}", "{\"number\": -1, \"label\": 0, \"file\": \"a\"}",
        "{\"number\": 1.5, \"label\": 0, \"file\": \"a\"}", "{\"number\": 1, \"label\": -2, \"file\": \"a\"}",
        "{\"number\": 1, \"label\": 1e30, \"file\": \"a\"}", "{\"number\": 1, \"label\": 0, \"file\": \"/etc/passwd\"}",
        "{\"number\": 1, \"label\": 0, \"file\": \"../a\"}", "{\"number\": 1, \"label\": 0, \"file\": \"a/../../b\"}",
        "{\"number\": 1, \"label\": 0, \"file\": \"..\"}", "{\"number\": 1, \"label\": 0, \"file\": 3}",
        "{\"number\": 1, \"label\": 0, \"file\": \"a\"} x", "{\"number\": 1, \"label\": 0, \"file\": \"a\"}\n\n",
    };
    Manifest m;
    Error err;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (manifest_parse(bad[i], strlen(bad[i]), "m", &m, &err)) fail_msg("accepted: %s", bad[i]);
    const char good[] = "{\"number\": 4294967295, \"label\": -1, \"file\": \"none/1.png\", \"else\": [1, {}]}";
    assert_true(manifest_parse(good, strlen(good), "m", &m, &err));
    assert_int_equal(m.n, 1);
    assert_int_equal(m.number[0], 4294967295);
    assert_int_equal(m.label[0], -1);
    manifest_free(&m);
    SampleOrigin o = { 0 };
    int omegas;
    assert_false(sampling_parse("{\"steps\": }", 11, "s", &o, &omegas, &err));
    const char odd[] = "{\"steps\": 1e99, \"seed\": -3, \"path\": \"step-99999999999999999999.safetensors\"}";
    assert_true(sampling_parse(odd, strlen(odd), "s", &o, &omegas, &err));
    assert_int_equal(o.steps, 0);
    assert_int_equal(o.seed, -1);
    assert_int_equal(o.step, -1);
    free(o.checkpoint);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arrays_with_labels_of_their_own_or_beside),
        cmocka_unit_test(floats_of_the_published_code),
        cmocka_unit_test(channels_come_last),
        cmocka_unit_test(a_finished_folder),
        cmocka_unit_test(class_folders_by_number_and_by_name),
        cmocka_unit_test(a_folder_of_one_omega),
        cmocka_unit_test(a_folder_of_images_alone_has_no_labels), cmocka_unit_test(colour_without_colours_is_grey),
        cmocka_unit_test(refusals_name_thing_and_mend),
        cmocka_unit_test(counts_name_what_is_missing),
        cmocka_unit_test(manifests_are_not_trusted),
    };
    return cmocka_run_group_tests(tests, tempdir_make, tempdir_remove);
}
