// tests/test_q_sample.c - x_t straight from the data set's bytes, on every device at hand, against what the host puts
// together: train/batch.c's normalised and mirrored batch, randn's noise, and the forward process between the two.
//
// With root (1, 0) x_t is the batch itself and with (0, 1) the noise: both to the bit, since every product and sum is
// then exact. In between, a result has two products and a sum rounded (or one product fused): with u = 2^-24 and
// p, q the products, it lies within u |p| + u |q| + u |p + q| <= 2 u (|p| + |q|) of the exact one, plus u^2 terms.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "core/call.h"
#include "kernels/common/rng.h"
#include "kernels/diffuse/diffuse.h"
#include "kernels/pointwise/pointwise.h"
#include "train/batch.h"
#include "train/dataset.h"

enum { IMAGES = 5, BATCH = 16, T = 7 };                     // IMAGES: what the launcher's description makes
typedef struct { int h, w, c; } Size;
static int elements(Size s) { return s.h * s.w * s.c; }

// ---- the host's way
typedef struct {
    Size     size;
    uint8_t  bytes[IMAGES * 300];
    float    x0[BATCH * 300], eps[BATCH * 300];
    int32_t  index[BATCH], t[BATCH], sample[BATCH];
    int      mirrored;                                      // images of the batch that are
    uint32_t step;
    uint64_t seed;
} Batch;

static DatasetInfo info_of(const Batch *b) {
    static const int32_t labels[IMAGES] = { 0 };
    static const int64_t per_class[1] = { IMAGES };
    return (DatasetInfo){ .classes = 1, .channels = b->size.c, .height = b->size.h, .width = b->size.w, .count = IMAGES,
                          .images = b->bytes, .labels = labels, .per_class = per_class };
}

// x0 is the image that index names; which way round, the batcher does not tell.
static void recognise(Batch *b, int i) {
    DatasetInfo info = info_of(b);
    float own[300];
    size_t bytes = (size_t)elements(b->size) * sizeof *own;
    for (int mirrored = 0; mirrored < 2; mirrored++) {
        image_to_float(&info, b->index[i], mirrored, own);
        if (memcmp(own, b->x0 + i * elements(b->size), bytes)) continue;
        b->mirrored += mirrored;
        return;
    }
    fail_msg("image %d of the batch is not image %d of the data set", i, (int)b->index[i]);
}

static void batch_make(Batch *b, Size size, bool flip) {
    memset(b, 0, sizeof *b);
    b->size = size;
    b->seed = 0x123456789ABCDEFull;
    b->step = 41;
    int e = elements(size);
    for (int j = 0; j < IMAGES * e; j++)
        b->bytes[j] = (uint8_t)philox((uint32_t[2]){ 1, 2 }, (uint32_t)j, 0, 0, 0).v[0];
    DatasetInfo info = info_of(b);
    RunConfig config = { .seed = (int64_t)b->seed, .batch = BATCH, .model = { .T = T, .classes = 1 }, .flip = flip };
    Batcher *batcher = batcher_new(&config, &info);
    BatchRows rows = { .x0 = b->x0, .index = b->index, .t = b->t, .sample = b->sample };
    batcher_fill(batcher, b->step, 0, BATCH, &rows);
    batcher_free(batcher);
    uint32_t key[2] = { (uint32_t)b->seed, (uint32_t)(b->seed >> 32) };
    for (int i = 0; i < BATCH; i++) {
        recognise(b, i);
        for (int j = 0; j < e; j += 4) {
            float four[4];
            rng_normal4(philox(key, (uint32_t)(j / 4), (uint32_t)b->sample[i], b->step, PURPOSE_NOISE).v, four);
            memcpy(b->eps + i * e + j, four, (size_t)(e - j < 4 ? e - j : 4) * sizeof *four);
        }
    }
}

// ---- the launcher
static void put_bytes(Call *c, const char *name, const void *from, int64_t n) {
    double *v = xmalloc((size_t)n * sizeof *v);
    for (int64_t j = 0; j < n; j++) v[j] = ((const uint8_t *)from)[j];
    call_write(c, call_find(c, name), v);
    free(v);
}
static void put_ints(Call *c, const char *name, const int32_t *from) {
    double v[BATCH];
    for (int i = 0; i < BATCH; i++) v[i] = from[i];
    call_write(c, call_find(c, name), v);
}

// root (T,2). xt, eps (BATCH,h,w,c): written.
static void sample_on(Device *d, const Batch *b, bool flip, const double *root, double *xt, double *eps) {
    QSampleShape z = { .n = BATCH, .h = b->size.h, .w = b->size.w, .c = b->size.c, .T = T, .flip = flip };
    QSampleArgs args = { 0 };
    Error err = { 0 };
    Call *c = call_new(d, description_find("q_sample"), &z, &args, "", NULL, &err);
    if (!c) fail_msg("%s: %s", device_name(d), err.msg);
    StepState state = { .seed = { (uint32_t)b->seed, (uint32_t)(b->seed >> 32) }, .step = b->step };
    call_fill(c, CALL_VALUES, 1);
    put_bytes(c, "images", b->bytes, (int64_t)IMAGES * elements(b->size));
    put_bytes(c, "state", &state, sizeof state);
    put_ints(c, "index", b->index);
    put_ints(c, "t", b->t);
    put_ints(c, "sample", b->sample);
    call_write(c, call_find(c, "root"), root);
    call_run(c);
    device_sync(d);
    Status status = stream_status(device_stream(d, 0));
    if (status.code) fail_msg("%s: %s", device_name(d), status.what);
    call_read(c, call_find(c, "xt"), xt);
    call_read(c, call_find(c, "eps"), eps);
    call_free(c);
}

static void expect_floats(const char *device, const char *what, const double *got, const float *want, int n) {
    for (int j = 0; j < n; j++) {
        double w = (double)want[j];
        if (got[j] != w) fail_msg("%s: %s[%d] is %.9g, not %.9g", device, what, j, got[j], w);
    }
}

static void check(Device *d, Size size, bool flip) {
    static Batch b;
    static double xt[BATCH * 300], eps[BATCH * 300];
    int n = BATCH * elements(size);
    batch_make(&b, size, flip);
    assert_true(flip ? b.mirrored > 0 && b.mirrored < BATCH : b.mirrored == 0);
    double image[2 * T], noise[2 * T], between[2 * T];
    for (int t = 0; t < T; t++) {
        double angle = (t + 1) * 0.2;
        image[2 * t] = noise[2 * t + 1] = 1;
        image[2 * t + 1] = noise[2 * t] = 0;
        between[2 * t] = (double)(float)cos(angle);
        between[2 * t + 1] = (double)(float)sin(angle);
    }
    sample_on(d, &b, flip, image, xt, eps);
    expect_floats(device_name(d), "x0", xt, b.x0, n);
    expect_floats(device_name(d), "eps", eps, b.eps, n);
    sample_on(d, &b, flip, noise, xt, eps);
    expect_floats(device_name(d), "xt", xt, b.eps, n);
    sample_on(d, &b, flip, between, xt, eps);
    for (int j = 0; j < n; j++) {
        const double *root = between + 2 * b.t[j / elements(size)];
        double p = root[0] * (double)b.x0[j], q = root[1] * (double)b.eps[j];
        double bound = 0x1.0001p-23 * (fabs(p) + fabs(q));
        if (!(fabs(xt[j] - (p + q)) <= bound))
            fail_msg("%s: xt[%d] is %.9g, not %.9g +- %.2g", device_name(d), j, xt[j], p + q, bound);
    }
}

// Sizes: rows of four bytes, and not; one channel, and the flip of an odd width.
static void every_device(void **unused) {
    (void)unused;
    static const char *const names[] = { "ref", "ref32", "cpu", "emu", "cuda" };
    static const Size sizes[] = { { 8, 8, 3 }, { 5, 5, 3 }, { 7, 4, 1 }, { 3, 5, 4 } };
    int found = 0;
    for (int i = 0; i < 5; i++) {
        Error err = { 0 };
        Device *d = device_open(names[i], &err);
        if (!d) {
            print_message("%s is not here: %s\n", names[i], err.msg);
            continue;
        }
        found++;
        for (int k = 0; k < 8; k++) check(d, sizes[k / 2], k % 2);
        device_close(d);
    }
    assert_true(found >= 3);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(every_device) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
