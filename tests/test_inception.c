// tests/test_inception.c - the FID's network with drawn weights against PyTorch, its weights' files, `cbdm eval ref`.
//
// tests/peer/inception_twin.py draws the same weights and printed the numbers below.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <glob.h>
#include <cmocka.h>
#include "core/ops.h"
#include "eval/extractor.h"
#include "eval/features.h"
#include "kernels/common/rng.h"
#include "tests/program.h"

// Features 0, 32, 64, ... and probabilities 0, 126, 252, ... of the two images of `picture` under the protocol tf.
static const float golden_features[2][64] = {
    { 1.176951e+00f, 2.286645e+00f, 0.000000e+00f, 1.794766e-01f, 8.445991e-03f, 1.308351e+00f, 4.842373e-01f,
      3.518001e-02f, 1.113724e+00f, 0.000000e+00f, 1.042837e-01f, 4.086724e-03f, 8.142019e-02f, 2.439276e+00f,
      4.638226e-02f, 1.361814e+00f, 3.333992e-03f, 0.000000e+00f, 1.906769e-01f, 6.830601e-01f, 1.955024e+00f,
      0.000000e+00f, 1.356679e-01f, 0.000000e+00f, 5.001178e-03f, 2.421710e-03f, 1.855946e+00f, 1.171588e-02f,
      3.574936e-01f, 2.694717e-02f, 2.585625e+00f, 1.408733e-01f, 1.856986e+00f, 1.667607e-01f, 6.812770e-02f,
      1.457668e+00f, 2.765181e-01f, 2.089597e+00f, 1.157614e+00f, 2.433284e-03f, 6.786065e-02f, 1.192422e-01f,
      0.000000e+00f, 6.435509e-01f, 5.059025e-01f, 1.961778e-01f, 2.024908e-02f, 8.174340e-01f, 2.832710e-01f,
      1.693139e+00f, 3.023472e-01f, 2.034227e-01f, 3.012713e-01f, 2.759342e+00f, 5.115863e-02f, 8.036439e-01f,
      5.244303e-01f, 1.779650e+00f, 0.000000e+00f, 4.787269e-01f, 1.629982e+00f, 0.000000e+00f, 1.114349e-01f,
      3.094970e+00f },
    { 1.492688e+00f, 3.525229e+00f, 0.000000e+00f, 2.170183e-01f, 5.074853e-03f, 1.630712e+00f, 3.754116e-01f,
      1.394945e-02f, 1.793939e+00f, 0.000000e+00f, 1.084604e-01f, 4.982688e-03f, 1.069526e-01f, 3.589432e+00f,
      9.368178e-02f, 2.242706e+00f, 5.322926e-02f, 0.000000e+00f, 2.198550e-01f, 1.067723e+00f, 2.946279e+00f,
      0.000000e+00f, 1.097201e-01f, 0.000000e+00f, 2.461880e-04f, 8.929286e-04f, 2.399832e+00f, 2.727072e-03f,
      7.068118e-01f, 2.228330e-02f, 3.832019e+00f, 2.117508e-01f, 2.745774e+00f, 3.071244e-01f, 8.592059e-02f,
      1.748541e+00f, 4.246223e-01f, 2.988667e+00f, 1.369544e+00f, 3.214065e-03f, 6.373940e-02f, 1.715538e-01f,
      0.000000e+00f, 9.240725e-01f, 8.391045e-01f, 2.914728e-01f, 2.159750e-02f, 9.859492e-01f, 6.212337e-01f,
      2.126404e+00f, 3.136665e-01f, 2.568382e-01f, 3.318940e-01f, 3.716432e+00f, 7.702455e-02f, 1.082276e+00f,
      8.603968e-01f, 2.606330e+00f, 0.000000e+00f, 8.031796e-01f, 2.112007e+00f, 0.000000e+00f, 1.775703e-01f,
      4.568649e+00f },
};
static const float golden_probs[2][8] = {
    { 2.354381e-03f, 3.239182e-04f, 3.245145e-04f, 3.090792e-03f, 1.928059e-03f, 1.685672e-03f, 2.238089e-04f,
      3.397335e-04f },
    { 2.498293e-03f, 1.379639e-04f, 1.217841e-04f, 3.888123e-03f, 1.837231e-03f, 1.487235e-03f, 6.583606e-05f,
      1.320476e-04f },
};

enum { UNITS = 94, TENSORS = 5 * UNITS + 2, PARTS = 5, EXTRA = 2, DIM = 2048, CLASSES = 1008, H = 24, W = 28 };
static const char *const parts[PARTS] = { "conv.weight", "bn.weight", "bn.bias", "bn.running_mean",
                                          "bn.running_var" };

// ---- weights
// Element e of a tensor is a + b u with u = 2 (word >> 8) / 2^24 - 1, the word Philox's under the tensor's name.
static float *drawn(const char *name, size_t n, float a, float b) {
    static const uint32_t key[2] = { 0, 0 };
    float *v = xmalloc(n * sizeof *v);
    for (size_t e = 0; e < n; e += 4) {
        Philox r = philox(key, (uint32_t)(e / 4), 0, 0, op_purpose(name));
        for (size_t k = e; k < e + 4 && k < n; k++) v[k] = a + b * ((float)(r.v[k - e] >> 8) * 0x1p-23f - 1);
    }
    return v;
}

static void draw_tensor(StTensor *t, const char *name, int ndim, const int64_t *shape, float a, float b) {
    size_t n = 1;
    *t = (StTensor){ .name = xstrdup(name), .type = ST_F32, .ndim = ndim };
    for (int i = 0; i < ndim; i++) n *= (size_t)(t->shape[i] = shape[i]);
    t->data = drawn(name, n, a, b);
    t->bytes = n * sizeof(float);
}

// All tensors of the network, of the units that tests/golden/inception-units.txt lists.
static StTensor *draw_tensors(void) {
    FILE *f = fopen(TESTS_DIR "/golden/inception-units.txt", "r");
    assert_non_null(f);
    StTensor *t = xcalloc(TENSORS + EXTRA, sizeof *t);
    for (int u = 0; u < UNITS; u++) {
        char unit[100], name[200];
        long long c, k, rows, columns;
        assert_int_equal(fscanf(f, "%99s %lld %lld %lld %lld", unit, &c, &k, &rows, &columns), 5);
        for (int p = 0; p < PARTS; p++) {
            int64_t shape[] = { k, c, rows, columns };
            snprintf(name, sizeof name, "%s.%s", unit, parts[p]);
            float a = p == 1 || p == 4 ? 1 : 0, b = p == 1 || p == 4 ? 0.25f : 0.1f;
            if (p == 0) b = (float)sqrt(6.0 / (double)(c * rows * columns));
            draw_tensor(&t[PARTS * u + p], name, p == 0 ? 4 : 1, shape, a, b);
        }
    }
    fclose(f);
    int64_t shape[] = { CLASSES, DIM };
    draw_tensor(&t[TENSORS - 2], "fc.weight", 2, shape, 0, (float)sqrt(6.0 / DIM));
    draw_tensor(&t[TENSORS - 1], "fc.bias", 1, shape, 0, 1);
    return t;
}

static void free_tensors(StTensor *t, int n) {
    for (int i = 0; i < n; i++) free((void *)(uintptr_t)t[i].name), free((void *)(uintptr_t)t[i].data);
    free(t);
}

static void write_tensors(const char *path, const StTensor *t, int n) {
    Error err;
    if (!st_write(path, t, n, NULL, NULL, 0, &err)) fail_msg("%s", err.msg);
}

static const char *weights_path;                 // whole weights, where torch.hub would keep them
static Device *device;

static int setup(void **state) {
    if (tempdir_make(state) != 0) return -1;
    Error err;
    device = device_open("cpu", &err);
    if (!device) return -1;
    setenv("TORCH_HOME", temp_path("torch"), 1);
    setenv("XDG_CACHE_HOME", temp_path("cache"), 1);
    if (!dir_make(temp_path("torch/hub/checkpoints"), &err)) return -1;
    weights_path = temp_path("torch/hub/checkpoints/weights-inception-2015-12-05-6726825d.pth");
    StTensor *t = draw_tensors();
    int64_t zero = 0;
    t[TENSORS] = (StTensor){ .name = "Mixed_5b.branch1x1.bn.num_batches_tracked", .type = ST_I64, .data = &zero,
                             .bytes = sizeof zero };
    write_tensors(weights_path, t, TENSORS + 1);
    free_tensors(t, TENSORS);
    return 0;
}

static int teardown(void **state) {
    device_close(device);
    return tempdir_remove(state);
}

static Extractor *open_extractor(const char *weights, Protocol p, int batch) {
    Error err;
    Extractor *e = extractor_inception(device, weights, p, batch, &err);
    if (!e) fail_msg("%s", err.msg);
    return e;
}

// ---- the network
static uint8_t picture(int image, int e) { return (uint8_t)((image ? e / 6 : e) * 37 % 251); }

// Largest difference over the largest value, as tests/peer/inception_twin.py measures it.
static void expect_near(const float *got, int ld, int step, const float *want, int n, const char *what) {
    double most = 0, worst = 0;
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < n; k++) {
            most = fmax(most, fabs((double)want[i * n + k]));
            worst = fmax(worst, fabs((double)got[i * ld + k * step] - (double)want[i * n + k]));
        }
    if (!(worst <= 1e-4 * most)) fail_msg("%s: %g of %g", what, worst, most);
}

static void equals_pytorch(void **state) {
    (void)state;
    static uint8_t pixels[3 * H * W * 3];
    static float features[3 * DIM], probs[3 * CLASSES];
    // Three images in batches of two: the third is the first again, in the place of the first.
    for (int i = 0; i < 3; i++)
        for (int e = 0; e < H * W * 3; e++) pixels[i * H * W * 3 + e] = picture(i % 2, e);
    ImageSet s = { .n = 3, .height = H, .width = W, .channels = 3, .u8 = pixels, .name = "pictures" };
    Extractor *e = open_extractor("", PROTOCOL_TF, 2);           // found where torch.hub would keep it
    Error err;
    assert_true(extractor_check(e, &s, &err));
    assert_int_equal(e->dim, DIM);
    assert_int_equal(e->classes, CLASSES);
    assert_int_equal(strlen(e->hash), 64);
    extractor_run(e, &s, true, features, probs);
    expect_near(features, DIM, 32, golden_features[0], 64, "features");
    expect_near(probs, CLASSES, 126, golden_probs[0], 8, "probabilities");
    assert_memory_equal(features, features + 2 * DIM, DIM * sizeof *features);
    assert_memory_equal(probs, probs + 2 * CLASSES, CLASSES * sizeof *probs);
    for (int i = 0; i < 2; i++) {
        double sum = 0;
        for (int k = 0; k < CLASSES; k++) sum += (double)probs[i * CLASSES + k];
        assert_true(fabs(sum - 1) < CLASSES * 0x1p-24);
    }
    // A row does not depend on its neighbour or its place.
    float *swapped = xmalloc(2 * DIM * sizeof *swapped);
    for (int k = 0; k < 2; k++)
        for (int j = 0; j < H * W * 3; j++) pixels[k * H * W * 3 + j] = picture(1 - k, j);
    s.n = 2;
    extractor_run(e, &s, true, swapped, NULL);
    assert_memory_equal(swapped, features + DIM, DIM * sizeof *features);
    assert_memory_equal(swapped + DIM, features, DIM * sizeof *features);
    free(swapped);
    extractor_close(e);
}

// How many images go together changes no feature by more than 1e-5 of the largest.
static void batches_of_any_size_agree(void **state) {
    (void)state;
    static uint8_t pixels[3 * H * W * 3];
    float *x[2];
    for (int i = 0; i < 3; i++)
        for (int e = 0; e < H * W * 3; e++) pixels[i * H * W * 3 + e] = (uint8_t)(picture(i % 2, e) / (i + 1));
    ImageSet s = { .n = 3, .height = H, .width = W, .channels = 3, .u8 = pixels, .name = "pictures" };
    for (int i = 0; i < 2; i++) {
        Extractor *e = open_extractor("", PROTOCOL_CLEAN, i ? 3 : 1);
        x[i] = xmalloc(3 * DIM * sizeof *x[i]);
        extractor_run(e, &s, true, x[i], NULL);
        extractor_close(e);
    }
    double most = 0, worst = 0;
    for (int k = 0; k < 3 * DIM; k++) {
        most = fmax(most, fabs((double)x[0][k]));
        worst = fmax(worst, fabs((double)x[0][k] - (double)x[1][k]));
    }
    if (!(worst <= 1e-5 * most)) fail_msg("%g of %g", worst, most);
    free(x[0]);
    free(x[1]);
}

static void grey_is_repeated(void **state) {
    (void)state;
    uint8_t grey[H * W], colour[H * W * 3];
    for (int k = 0; k < H * W; k++) grey[k] = colour[3 * k] = colour[3 * k + 1] = colour[3 * k + 2] = picture(1, k);
    ImageSet a = { .n = 1, .height = H, .width = W, .channels = 1, .u8 = grey, .name = "grey" };
    ImageSet b = { .n = 1, .height = H, .width = W, .channels = 3, .u8 = colour, .name = "colour" };
    float *x = xmalloc(2 * DIM * sizeof *x);
    Extractor *e = open_extractor(weights_path, PROTOCOL_CBDM, 1);
    extractor_run(e, &a, false, x, NULL);
    extractor_run(e, &b, false, x + DIM, NULL);
    assert_memory_equal(x, x + DIM, DIM * sizeof *x);
    extractor_close(e);
    free(x);
    ImageSet four = { .n = 1, .height = H, .width = W, .channels = 4, .u8 = colour, .name = "four" };
    Error err;
    Extractor none = { .name = "any" }, small = { .name = "small", .height = H, .width = W, .channels = 1 };
    assert_false(extractor_check(&none, &four, &err));
    assert_true(extractor_check(&none, &a, &err) && extractor_check(&none, &b, &err));
    assert_true(extractor_check(&small, &a, &err));
    assert_false(extractor_check(&small, &b, &err));
    assert_non_null(strstr(err.msg, "24x28x3"));
}

// ---- files of weights
static void refuse(const char *path, const char *words) {
    Error err = { 0 };
    Extractor *e = extractor_inception(device, path, PROTOCOL_TF, 1, &err);
    if (e) fail_msg("%s was accepted", path);
    assert_int_equal(err.code, ERR_FILE);
    if (!strstr(err.msg, words)) fail_msg("\"%s\" does not say \"%s\"", err.msg, words);
}

static void wrong_weights_are_refused(void **state) {
    (void)state;
    StTensor *t = draw_tensors();
    const char *path = temp_path("wrong.safetensors");
    refuse(temp_path("absent.pth"), "6726825d");
    refuse(temp_path("absent.pth"), "https://github.com/mseitzer/pytorch-fid/releases/");
    write_tensors(path, t, 1);                                   // the first filters alone
    refuse(path, "Conv2d_1a_3x3.bn.weight is missing");
    t[0].shape[0] *= 9;
    t[0].shape[2] = t[0].shape[3] = 1;
    write_tensors(path, t, 1);
    refuse(path, "Conv2d_1a_3x3.conv.weight has another shape");
    t[0].shape[0] /= 9;
    t[0].shape[2] = t[0].shape[3] = 3;
    ((float *)(uintptr_t)t[4].data)[7] = -0.5f;                  // Conv2d_1a_3x3.bn.running_var
    write_tensors(path, t, 5);
    refuse(path, "negative variance");
    ((float *)(uintptr_t)t[4].data)[7] = NAN;
    write_tensors(path, t, 5);
    refuse(path, "Conv2d_1a_3x3.bn.running_var holds a value that is not finite");
    ((float *)(uintptr_t)t[4].data)[7] = 1;
    t[TENSORS] = t[TENSORS - 1];
    t[TENSORS].name = "AuxLogits.fc.bias";
    write_tensors(path, t, TENSORS + 1);
    refuse(path, "auxiliary classifier");
    write_bytes("wrong.safetensors", "\x80\x02}.", 4);
    refuse(path, "neither a file of torch.save nor safetensors");
    unsetenv("TORCH_HOME");
    refuse("", "/cache/torch/hub/checkpoints");                  // beside XDG_CACHE_HOME, nothing there
    setenv("TORCH_HOME", temp_path("torch"), 1);
    free_tensors(t, TENSORS);
}

// ---- the verb
static void read_array(const char *file, const char *name, int ndim, const int64_t *shape) {
    uint8_t *member;
    NpyArray a;
    Error err;
    if (!npz_read(temp_path(file), name, &member, &a, &err)) fail_msg("%s", err.msg);
    assert_int_equal(a.ndim, ndim);
    for (int i = 0; i < ndim; i++) assert_int_equal(a.shape[i], shape[i]);
    free(member);
}

static void verb_writes_what_others_read(void **state) {
    (void)state;
    static const char line[] = "eval ref --data data --lt-index three.txt --features inception --batch 3 --device cpu "
                               "--out out.safetensors --stats stats.npz --adm adm.npz";
    program_write_data();
    write_bytes("three.txt", "0 1\n1 0\n2 4\n", 12);
    program_expect(0, "%s", line);
    expect_in_stderr("features of 3 of 3 images");
    expect_in_stderr("not the published file's");
    Features f;
    Error err;
    if (!features_read(temp_path("out.safetensors"), "", "", &f, &err)) fail_msg("%s", err.msg);
    assert_true(f.n == 3 && f.dim == DIM && f.classes == CLASSES);
    for (int i = 0; i < 3; i++) assert_int_equal(f.label[i], i);
    read_array("stats.npz", "mu", 1, (int64_t[]){ DIM });
    read_array("stats.npz", "sigma", 2, (int64_t[]){ DIM, DIM });
    read_array("adm.npz", "arr_0", 4, (int64_t[]){ 3, TINY_SIDE, TINY_SIDE, 3 });
    // ADM's evaluator takes the statistics all four or none: they are its protocol's.
    NpyArray a;
    uint8_t *member;
    assert_false(npz_read(temp_path("adm.npz"), "mu", &member, &a, &err));
    program_expect(0, "eval ref --data data --lt-index three.txt --protocol tf --batch 2 --device cpu --adm adm.npz");
    read_array("adm.npz", "arr_0", 4, (int64_t[]){ 3, TINY_SIDE, TINY_SIDE, 3 });
    read_array("adm.npz", "mu", 1, (int64_t[]){ DIM });
    read_array("adm.npz", "sigma", 2, (int64_t[]){ DIM, DIM });
    read_array("adm.npz", "mu_s", 1, (int64_t[]){ 2023 });
    read_array("adm.npz", "sigma_s", 2, (int64_t[]){ 2023, 2023 });
    // Again: from the cache, the same.
    size_t bytes = (size_t)f.n * DIM * sizeof *f.x;
    float *x = xmalloc(bytes);
    memcpy(x, f.x, bytes);
    features_free(&f);
    program_expect(0, "%s", line);
    assert_null(strstr(program_stderr, "of 3 images"));
    assert_true(features_read(temp_path("out.safetensors"), "", "", &f, &err));
    assert_memory_equal(f.x, x, bytes);
    features_free(&f);
    free(x);
    // What the cache holds is damaged: made anew.
    glob_t found;
    char *pattern = xasprintf("%s/cbdm/features-1-*-cbdm-*.safetensors", temp_path("cache"));
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    assert_int_equal(found.gl_pathc, 1);
    assert_int_equal(truncate(found.gl_pathv[0], 1000), 0);
    globfree(&found);
    free(pattern);
    program_expect(0, "%s", line);
    expect_in_stderr("extracted anew");
    expect_in_stderr("features of 3 of 3 images");
    program_expect(ERR_USAGE, "eval ref --data data --no-cache");
    program_expect(ERR_USAGE, "eval ref --stats s.npz");
    program_expect(ERR_USAGE, "eval ref --data builtin --stats s.npy");
    program_expect(0, "eval ref --data data --weights none.pth --adm adm.npz");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_pytorch), cmocka_unit_test(batches_of_any_size_agree),
        cmocka_unit_test(grey_is_repeated),
        cmocka_unit_test(wrong_weights_are_refused), cmocka_unit_test(verb_writes_what_others_read),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
