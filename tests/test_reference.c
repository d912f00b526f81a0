// tests/test_reference.c - features of real images: kept, found again, made anew where what is kept is damaged; and
// held in memory once.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <cmocka.h>
#include "eval/reference.h"
#include "tests/tempdir.h"

enum { N = 6000, DIM = 2048, CLASSES = 4, BATCH = 64 };
static int extracted;                            // images that passed the network
static uint8_t pixels[N];
static int32_t label[N];

// A network of which every feature is known: DIM multiples of the one pixel.
static void run(void *self, int n, int h, int w, int c, const float *x, float *features, float *probs) {
    const float *scale = self;
    CHECK(h * w * c == 1, "%d x %d x %d", h, w, c);
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < DIM; k++) features[i * DIM + k] = *scale * x[i] * (float)k;
        for (int k = 0; k < CLASSES; k++) probs[i * CLASSES + k] = 0.25f;
    }
    extracted += n;
}

static Extractor network(float *scale) {
    return (Extractor){ .dim = DIM, .classes = CLASSES, .batch = BATCH, .name = "known", .hash = "ab", .self = scale,
                        .run = run };
}

static ImageSet images(int n) {
    return (ImageSet){ .n = n, .height = 1, .width = 1, .channels = 1, .u8 = pixels, .label = label, .name = "dots" };
}

static Features features(float scale, int n, const char *digest, int want_extracted) {
    Extractor e = network(&scale);
    ImageSet s = images(n);
    Features f;
    Error err = { 0 };
    extracted = 0;
    if (!reference_features(&e, &s, digest, PROTOCOL_CBDM, &f, &err)) fail_msg("%s", err.msg);
    assert_int_equal(extracted, want_extracted);
    assert_true(f.n == n && f.dim == DIM && f.classes == CLASSES);
    return f;
}

static int make(void **state) {
    if (tempdir_make(state) != 0) return -1;
    setenv("XDG_CACHE_HOME", temp_path("cache"), 1);
    for (int i = 0; i < N; i++) pixels[i] = (uint8_t)(i % 251), label[i] = i % CLASSES;
    return 0;
}

static void they_are_kept_and_found(void **unused) {
    (void)unused;
    for (int turn = 0; turn < 2; turn++) {
        Features f = features(1, 10, "digest", turn ? 0 : 10);
        for (int i = 0; i < 10; i++) assert_true(f.x[i * DIM + 3] == 3 * (float)pixels[i] && f.label[i] == label[i]);
        assert_true(f.probs[0] == 0.25f);
        features_free(&f);
    }
    Features other = features(1, 10, "other", 10), unnamed = features(1, 10, "", 10);
    features_free(&other);
    features_free(&unnamed);
}

static void what_is_damaged_is_made_anew(void **unused) {
    (void)unused;
    char *path = xasprintf("%s/cbdm/features-1-torn-cbdm-ab.safetensors", temp_path("cache"));
    Error err;
    Features f = features(1, 10, "torn", 10);
    features_free(&f);
    assert_true(file_write_text(path, "torn", &err));
    f = features(1, 10, "torn", 10);
    features_free(&f);
    f = features(1, 9, "torn", 9);               // of fewer images than are kept
    features_free(&f);
    free(path);
}

// They are handed on as they are, so that the caller can say whose they are, and no file is left that none can read.
static void features_that_are_no_numbers_are_not_kept(void **unused) {
    (void)unused;
    for (int turn = 0; turn < 2; turn++) {
        Features f = features(INFINITY, 10, "infinite", 10);
        assert_int_equal(features_broken(&f), 0);              // 0 times infinity
        features_free(&f);
    }
}

// More than half of a second copy would show. Sanitizers keep what is freed for a while.
static void there_is_one_copy(void **unused) {
    (void)unused;
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    Features f = features(1, N, "large", N);
    getrusage(RUSAGE_SELF, &after);
    double table = (double)N * (DIM + CLASSES) * sizeof(float), grown = (double)(after.ru_maxrss - before.ru_maxrss);
    assert_true(f.x[(N - 1) * (int64_t)DIM + 1] == (float)pixels[N - 1]);
    features_free(&f);
#ifndef __SANITIZE_ADDRESS__
    if (1024 * grown > 1.5 * table) fail_msg("%.1f MB more for a table of %.1f MB", 1.024e-3 * grown, table / 1e6);
#else
    (void)grown, (void)table;
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(they_are_kept_and_found),
        cmocka_unit_test(what_is_damaged_is_made_anew),
        cmocka_unit_test(features_that_are_no_numbers_are_not_kept),
        cmocka_unit_test(there_is_one_copy),
    };
    return cmocka_run_group_tests(tests, make, tempdir_remove);
}
