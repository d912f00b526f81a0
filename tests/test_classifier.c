// tests/test_classifier.c - the ResNet against a PyTorch twin in double (tests/peer/classifier_twin.py), its training,
// its files, and what a row may depend on.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "eval/classifier_impl.h"
#include "eval/extractor.h"
#include "tests/tempdir.h"
#include "train/dataset.h"

static Device *open_device(const char *spec) {
    Error err;
    Device *d = device_open(spec, &err);
    if (!d) fail_msg("%s", err.msg);
    return d;
}

// ---- images
enum { FEW = 64 };
static Dataset *builtin;
static ImageSet some_images(int64_t n) {
    Error err;
    if (!builtin) builtin = dataset_open("builtin", SPLIT_TRAIN, &err);
    assert_non_null(builtin);
    ImageSet s = images_of(dataset_info(builtin));
    s.n = n;
    return s;
}

static ClassifierRecipe small(double epochs) {
    ClassifierRecipe r = classifier_recipe;
    r.depth = 8;
    r.width = 8;
    r.batch = 16;
    r.epochs = epochs;
    r.crop_pad = 0;
    r.flip = false;
    r.seed = 5;
    return r;
}

static Classifier *trained(Device *d, const ClassifierRecipe *r, int64_t n) {
    ImageSet s = some_images(n);
    Error err;
    Classifier *c = classifier_new(d, 10, s.height, s.width, s.channels, r);
    if (!classifier_train(c, &s, 1, true, &err)) fail_msg("%s", err.msg);
    return c;
}

// ---- the twin
typedef struct { SafeTensors *net, *said; const char *path; ImageSet images; int32_t label[6]; } Golden;

static const StTensor *tensor(const SafeTensors *st, const char *name) {
    const StTensor *t = st_find(st, name);
    if (!t) fail_msg("no %s", name);
    return t;
}

static Golden golden_open(void) {
    Error err;
    Golden g = { .path = TESTS_DIR "/golden/classifier.safetensors" };
    g.net = st_open(g.path, &err);
    g.said = st_open(TESTS_DIR "/golden/classifier_said.safetensors", &err);
    if (!g.net || !g.said) fail_msg("%s", err.msg);
    memcpy(g.label, tensor(g.said, "labels")->data, sizeof g.label);
    g.images = (ImageSet){ .n = 6, .height = 12, .width = 9, .channels = 3, .u8 = tensor(g.said, "images")->data,
                           .name = "golden" };
    return g;
}

static void golden_close(Golden *g) {
    st_close(g->net);
    st_close(g->said);
}

// Rows come as floats: half a unit in the last place of the largest, and as much again for what double itself rounds.
static void assert_near(const float *got, const StTensor *want, double relative) {
    const double *w = want->data;
    double scale = 0;
    size_t n = want->bytes / sizeof *w;
    for (size_t i = 0; i < n; i++) scale = fmax(scale, fabs(w[i]));
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - w[i]) <= relative * scale))
            fail_msg("%s[%zu] is %.9g, not %.9g", want->name, i, (double)got[i], w[i]);
}

// Sums of at most 9 * 16 products, eight layers on end, each off by half a unit in the last place per term at worst.
static const double exact = 0x1p-23, rounded = 8 * 9 * 16 * 0x1p-24;

static void forward_agrees_with_the_twin(void **state) {
    (void)state;
    static const struct { const char *device; double relative; } kinds[] = { { "ref64", exact }, { "ref", rounded },
                                                                             { "cpu", rounded } };
    for (int k = 0; k < 3; k++) {
        Golden g = golden_open();
        Error err;
        Device *d = open_device(kinds[k].device);
        Classifier *c = classifier_open(d, g.path, 4, &err);
        if (!c) fail_msg("%s", err.msg);
        float features[6 * 16], logits[6 * 3];
        assert_int_equal(classifier_dim(c), 16);
        assert_int_equal(classifier_classes(c), 3);
        classifier_run(c, &g.images, features, logits);
        assert_near(features, tensor(g.said, "features"), kinds[k].relative);
        assert_near(logits, tensor(g.said, "logits"), kinds[k].relative);
        classifier_close(c);
        device_close(d);
        golden_close(&g);
    }
}

// Ten steps with warm-up, momentum, weight decay, both falls of the learning rate and logit adjustment. The last
// forward pass shows the running statistics.
static void training_agrees_with_the_twin(void **state) {
    (void)state;
    Golden g = golden_open();
    Error err;
    ClassifierConfig cfg;
    Device *d = open_device("ref64");
    if (!classifier_read_config(g.net, g.path, &cfg, &err)) fail_msg("%s", err.msg);
    Classifier *c = classifier_new(d, cfg.classes, cfg.height, cfg.width, cfg.channels, &cfg.recipe);
    assert_true(classifier_check_tensors(g.net, g.path, &cfg, &err));
    classifier_load(c, g.net);
    g.images.label = g.label;
    if (!classifier_train(c, &g.images, 1, true, &err)) fail_msg("%s", err.msg);
    float logits[6 * 3], loss;
    tensor_read_f32(c->train.loss, &loss);
    double last = ((const double *)tensor(g.said, "losses")->data)[9];
    if (!(fabs((double)loss - last) <= exact * last)) fail_msg("the last loss is %.9g, not %.9g", (double)loss, last);
    g.images.label = NULL;
    classifier_run(c, &g.images, NULL, logits);
    assert_near(logits, tensor(g.said, "trained_logits"), exact);
    classifier_close(c);
    device_close(d);
    golden_close(&g);
}

// ---- training
static void learns_a_few_images_by_heart(void **state) {
    (void)state;
    Device *d = open_device("cpu");
    ClassifierRecipe r = small(40);
    r.width = 16;
    Classifier *c = trained(d, &r, FEW);
    ImageSet s = some_images(FEW);
    int64_t right[10], seen[10], all = 0;
    classifier_judge(c, &s, right, seen);
    for (int k = 0; k < 10; k++) {
        int64_t count = 0;
        for (int i = 0; i < FEW; i++) count += s.label[i] == k;
        assert_int_equal(seen[k], count);
        all += right[k];
    }
    if (all < FEW * 95 / 100 + 1) fail_msg("%d of %d", (int)all, FEW);
    classifier_close(c);
    device_close(d);
}

static void rows_of(Classifier *c, int64_t n, float *logits) {
    ImageSet s = some_images(n);
    classifier_run(c, &s, NULL, logits);
}

static void same_seed_same_bits(void **state) {
    (void)state;
    enum { N = 40 };
    float logits[4][N * 10];
    for (int i = 0; i < 4; i++) {
        Device *d = open_device("cpu");
        ClassifierRecipe r = small(2);
        r.crop_pad = 4;
        r.flip = true;
        if (i == 2) r.seed++;
        if (i == 3) r.flip = false;
        Classifier *c = trained(d, &r, N);
        rows_of(c, N, logits[i]);
        classifier_close(c);
        device_close(d);
    }
    assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
    assert_memory_not_equal(logits[0], logits[2], sizeof logits[0]);
    assert_memory_not_equal(logits[0], logits[3], sizeof logits[0]);
}

// Split in two, the images are the same ones, as bytes or as a sampler's floats: black and white, where both are exact.
static void sets_are_one(void **state) {
    (void)state;
    enum { N = 24, FIRST = 10 };
    ImageSet all = some_images(N), parts[2];
    int64_t e = (int64_t)all.height * all.width * all.channels;
    uint8_t *bytes = xmalloc((size_t)(N * e));
    float rows[3][N * 10], *floats = xmalloc((size_t)(FIRST * e) * sizeof *floats);
    for (int64_t i = 0; i < N * e; i++) bytes[i] = all.u8[i] < 128 ? 0 : 255;
    for (int64_t i = 0; i < FIRST * e; i++) floats[i] = bytes[i] ? 1.0f : -1.0f;
    all.u8 = bytes;
    parts[0] = parts[1] = all;
    parts[0].n = FIRST;
    parts[1].n = N - FIRST;
    parts[1].u8 += FIRST * e;
    parts[1].label += FIRST;
    Device *d = open_device("cpu");
    ClassifierRecipe r = small(2);
    for (int k = 0; k < 3; k++) {
        Error err;
        if (k == 2) parts[0].u8 = NULL, parts[0].f32 = floats;
        Classifier *c = classifier_new(d, 10, all.height, all.width, all.channels, &r);
        if (!classifier_train(c, k ? parts : &all, k ? 2 : 1, true, &err)) fail_msg("%s", err.msg);
        classifier_run(c, &all, NULL, rows[k]);
        classifier_close(c);
    }
    assert_memory_equal(rows[0], rows[1], sizeof rows[0]);
    assert_memory_equal(rows[0], rows[2], sizeof rows[0]);
    device_close(d);
    free(floats);
    free(bytes);
}

static void divergence_is_named(void **state) {
    (void)state;
    Device *d = open_device("cpu");
    ClassifierRecipe r = small(40);
    r.lr = 1e6;
    ImageSet s = some_images(FEW);
    Error err = { 0 };
    Classifier *c = classifier_new(d, 10, s.height, s.width, s.channels, &r);
    assert_false(classifier_train(c, &s, 1, true, &err));
    assert_int_equal(err.code, ERR_DIVERGED);
    assert_non_null(strstr(err.msg, "epoch"));
    assert_non_null(strstr(err.msg, "--lr"));
    classifier_close(c);
    device_close(d);
}

static void labels_that_do_not_fit_are_refused(void **state) {
    (void)state;
    Device *d = open_device("cpu");
    ClassifierRecipe r = small(1);
    ImageSet s = some_images(4), without = s, smaller = s;
    int32_t label[4] = { 0, 9, 10, 1 };
    s.label = label;
    without.label = NULL;
    smaller.height--;
    Classifier *c = classifier_new(d, 10, s.height, s.width, s.channels, &r);
    const struct { ImageSet set; int code; const char *words; } bad[] = {
        { s, ERR_FILE, "image 2 has label 10" }, { without, ERR_FILE, "image 0 has label -1" },
        { smaller, ERR_USAGE, "31x32x3" } };
    for (int i = 0; i < 3; i++) {
        Error err = { 0 };
        assert_false(classifier_train(c, &bad[i].set, 1, true, &err));
        assert_int_equal(err.code, bad[i].code);
        if (!strstr(err.msg, bad[i].words)) fail_msg("\"%s\" does not say \"%s\"", err.msg, bad[i].words);
    }
    classifier_close(c);
    device_close(d);
}

// The loss of one step against -log softmax(logits + a log pi) in double, from the logits it reports.
static void logit_adjustment_shifts_the_loss(void **state) {
    (void)state;
    enum { N = 16 };
    static const int64_t counts[10] = { 8, 4, 2, 1, 1, 0, 0, 0, 0, 0 };
    double loss_of[2];
    for (int k = 0; k < 2; k++) {
        Device *d = open_device("cpu");
        ClassifierRecipe r = small(1);
        r.logit_adjust = k ? 1.5 : 0;
        ImageSet s = some_images(N);
        int32_t label[N];
        for (int i = 0, class = 0, left = (int)counts[0]; i < N; i++, left--) {
            while (!left) left = (int)counts[++class];
            label[i] = class;
        }
        s.label = label;
        Error err;
        Classifier *c = classifier_new(d, 10, s.height, s.width, s.channels, &r);
        assert_true(classifier_train(c, &s, 1, true, &err));                       // one step, of all images
        float logits[N * 10], loss;
        int64_t order[N];
        double want = 0;
        tensor_read_f32(c->train.logits, logits);
        tensor_read_f32(c->train.loss, &loss);
        classifier_shuffle(r.seed, 0, N, order);
        for (int i = 0; i < N; i++) {
            double z[10], sum = 0;
            for (int j = 0; j < 10; j++) {
                z[j] = (double)logits[i * 10 + j] + r.logit_adjust * log((double)(counts[j] ? counts[j] : 1) / N);
                sum += exp(z[j]);
            }
            want += (log(sum) - z[label[order[i]]]) / N;
        }
        // logits of at most some ten: a few units in the last place each, of a mean
        if (!(fabs((double)loss - want) <= 16 * 0x1p-24 * 10)) fail_msg("%.9g, not %.9g", (double)loss, want);
        loss_of[k] = want;
        classifier_close(c);
        device_close(d);
    }
    assert_true(fabs(loss_of[0] - loss_of[1]) > 0.1);                              // it does shift
}

// ---- what a row depends on
static void rows_do_not_depend_on_their_neighbours(void **state) {
    (void)state;
    enum { N = 21 };
    Device *d = open_device("cpu");
    ClassifierRecipe r = small(2);
    Classifier *c = trained(d, &r, N);
    Error err;
    const char *path = temp_path("rows.safetensors");
    assert_true(classifier_save(c, path, "", &err));
    float want[N * 10], got[N * 10];
    rows_of(c, N, want);
    classifier_close(c);
    ImageSet s = some_images(N);
    size_t e = (size_t)s.height * (size_t)s.width * (size_t)s.channels;
    uint8_t *reversed = xmalloc(N * e);
    for (size_t i = 0; i < N; i++) memcpy(reversed + i * e, s.u8 + (N - 1 - i) * e, e);
    static const int batches[] = { 1, 5, 16, 64 };
    for (size_t k = 0; k < sizeof batches / sizeof *batches; k++) {
        c = classifier_open(d, path, batches[k], &err);
        if (!c) fail_msg("%s", err.msg);
        s.u8 = reversed;
        classifier_run(c, &s, NULL, got);
        for (int i = 0; i < N; i++)
            for (int j = 0; j < 10; j++) {
                float a = want[i * 10 + j], b = got[(N - 1 - i) * 10 + j];
                // another batch may be computed by another algorithm, the same one not by another order
                bool same = batches[k] == r.batch ? memcmp(&a, &b, sizeof a) == 0 : fabsf(a - b) <= 1e-5f * 10;
                if (!same) fail_msg("batch %d: %.9g, not %.9g", batches[k], (double)b, (double)a);
            }
        classifier_close(c);
    }
    free(reversed);
    device_close(d);
}

// ---- files
static void saved_and_opened_is_the_same(void **state) {
    (void)state;
    enum { N = 20 };
    Device *d = open_device("cpu");
    ClassifierRecipe r = small(3);
    r.logit_adjust = 0.5;
    Classifier *c = trained(d, &r, N), *back;
    float want[N * 10], got[N * 10], features[2][N * 32];
    Error err;
    const char *path = temp_path("saved.safetensors");
    ImageSet s = some_images(N);
    classifier_run(c, &s, features[0], want);
    if (!classifier_save(c, path, "0123456789abcdef", &err)) fail_msg("%s", err.msg);
    back = classifier_open(d, path, r.batch, &err);
    if (!back) fail_msg("%s", err.msg);
    classifier_run(back, &s, features[1], got);
    assert_memory_equal(want, got, sizeof want);
    assert_memory_equal(features[0], features[1], sizeof features[0]);
    assert_string_equal(classifier_data_digest(back), "0123456789abcdef");
    char *text[2] = { classifier_config_json(&c->cfg), classifier_config_json(&back->cfg) };
    assert_string_equal(text[0], text[1]);
    free(text[0]);
    free(text[1]);
    classifier_close(back);
    classifier_close(c);
    device_close(d);
}

// The golden file with one thing changed; name NULL: the metadata. Refused in one line that names the file.
typedef enum { LEAVE_OUT, OTHER_SHAPE, NOT_A_NUMBER, NEGATIVE, ONE_MORE } Damage;
static void refuse_tensor(const char *name, Damage how, const char *words) {
    Golden g = golden_open();
    Error err = { 0 };
    const char *path = temp_path("damaged.safetensors");
    int n = st_count(g.net), kept = 0;
    StTensor *t = xcalloc((size_t)n + 1, sizeof *t);
    float *changed = NULL;
    for (int i = 0; i < n; i++) {
        t[kept] = *st_get(g.net, i);
        if (strcmp(t[kept].name, name) == 0) {
            changed = xmalloc(t[kept].bytes);
            memcpy(changed, t[kept].data, t[kept].bytes);
            if (how == NOT_A_NUMBER) changed[0] = NAN;
            if (how == NEGATIVE) changed[0] = -1;
            if (how == OTHER_SHAPE) t[kept].shape[t[kept].ndim++] = 1;
            if (how == ONE_MORE) t[n] = t[kept], t[n].name = "one.more";
            t[kept].data = changed;
            if (how == LEAVE_OUT) continue;
        }
        kept++;
    }
    assert_non_null(changed);
    const char *keys[] = { "format", "config" }, *values[] = { st_meta(g.net, keys[0]), st_meta(g.net, keys[1]) };
    assert_true(st_write(path, t, kept + (how == ONE_MORE), keys, values, 2, &err));
    Device *d = open_device("cpu");
    assert_null(classifier_open(d, path, 4, &err));
    assert_int_equal(err.code, ERR_FILE);
    assert_non_null(strstr(err.msg, path));
    if (!strstr(err.msg, words)) fail_msg("\"%s\" does not say \"%s\"", err.msg, words);
    device_close(d);
    free(changed);
    free(t);
    golden_close(&g);
}

static void refuse_meta(const char *format, const char *config, const char *words) {
    Golden g = golden_open();
    Error err = { 0 };
    const char *path = temp_path("metadata.safetensors");
    int n = st_count(g.net);
    StTensor *t = xcalloc((size_t)n, sizeof *t);
    for (int i = 0; i < n; i++) t[i] = *st_get(g.net, i);
    const char *keys[] = { "format", "config" }, *values[] = { format, config };
    assert_true(st_write(path, t, n, keys, values, 2, &err));
    Device *d = open_device("cpu");
    assert_null(classifier_open(d, path, 4, &err));
    assert_int_equal(err.code, ERR_FILE);
    assert_non_null(strstr(err.msg, path));
    if (!strstr(err.msg, words)) fail_msg("\"%s\" does not say \"%s\"", err.msg, words);
    device_close(d);
    free(t);
    golden_close(&g);
}

#define IMAGES_9x9 "\"classes\": 3, \"height\": 9, \"image-width\": 9, \"channels\": 3"
static void wrong_files_are_refused(void **state) {
    (void)state;
    refuse_tensor("layer2.0.conv1.weight", LEAVE_OUT, "layer2.0.conv1.weight");
    refuse_tensor("layer3.0.bn2.running_var", LEAVE_OUT, "layer3.0.bn2.running_var");
    refuse_tensor("linear.weight", OTHER_SHAPE, "another shape");
    refuse_tensor("bn1.bias", NOT_A_NUMBER, "bn1.bias holds a value that is not finite");
    refuse_tensor("bn1.running_var", NEGATIVE, "bn1.running_var holds a value that is not positive");
    refuse_tensor("input.std", NEGATIVE, "input.std holds a value that is not positive");
    refuse_tensor("bn1.bias", ONE_MORE, "40 tensors");
    static const char name[] = "cbdm-classifier-1";
    refuse_meta("cbdm-classifier-2", "{}", "is no classifier");
    refuse_meta(name, "{\"depth\": 8", "");
    refuse_meta(name, "{\"depth\": 8, \"width\": 4, \"unknown\": 1, " IMAGES_9x9 "}", "unknown");
    refuse_meta(name, "{\"depth\": 9, \"width\": 4, " IMAGES_9x9 "}", "6 k + 2");
    refuse_meta(name, "{\"depth\": 8, \"width\": 8, " IMAGES_9x9 "}", "another shape");
    refuse_meta(name, "{\"depth\": 14, \"width\": 4, " IMAGES_9x9 "}", "layer1.1.conv1.weight");
    refuse_meta(name, "{\"depth\": 8, \"width\": 4}", "0x0");
}

// Every cut and a flipped bit in every 97th byte of a file that we wrote.
static void damage_is_found(void **state) {
    (void)state;
    Device *d = open_device("ref");
    ClassifierRecipe r = small(0.01);
    r.width = 4;
    Classifier *c = trained(d, &r, 2);
    Error err;
    const char *whole = temp_path("whole.safetensors"), *path = temp_path("part.safetensors");
    assert_true(classifier_save(c, whole, "d", &err));
    uint8_t *bytes;
    size_t n;
    assert_true(file_read(whole, 1 << 20, &bytes, &n, &err));
    for (size_t i = 0; i < n; i += 97) {
        for (int cut = 0; cut < 2; cut++) {
            FILE *f = fopen(path, "wb");
            assert_non_null(f);
            bytes[i] ^= (uint8_t)(cut ? 0 : 1 << i % 8);
            assert_int_equal(fwrite(bytes, 1, cut ? i : n, f), cut ? i : n);
            bytes[i] ^= (uint8_t)(cut ? 0 : 1 << i % 8);
            fclose(f);
            err.code = 0;
            if (classifier_open(d, path, 1, &err)) fail_msg("%s at %zu is accepted", cut ? "a cut" : "a flip", i);
            assert_int_equal(err.code, ERR_FILE);
        }
    }
    free(bytes);
    classifier_close(c);
    device_close(d);
}

// ---- the cache, the extractor
static void cache_knows_data_and_recipe(void **state) {
    (void)state;
    Error err;
    ClassifierRecipe r = classifier_recipe, other = r;
    other.lr = 0.05;
    setenv("XDG_CACHE_HOME", tempdir, 1);
    char *a = classifier_cache_path("aa", &r, &err), *b = classifier_cache_path("aa", &r, &err);
    char *c = classifier_cache_path("ab", &r, &err), *d = classifier_cache_path("aa", &other, &err);
    if (!a || !b || !c || !d) fail_msg("%s", err.msg);
    assert_string_equal(a, b);
    assert_string_not_equal(a, c);
    assert_string_not_equal(a, d);
    assert_int_equal(strncmp(a, temp_path("cbdm/resnet32-"), strlen(temp_path("cbdm/resnet32-"))), 0);
    unsetenv("XDG_CACHE_HOME");
    char *home = xstrdup(getenv("HOME") ? getenv("HOME") : "");
    unsetenv("HOME");
    assert_null(classifier_cache_path("aa", &r, &err));
    assert_int_equal(err.code, ERR_USAGE);
    setenv("HOME", home, 1);
    free(home);
    free(a);
    free(b);
    free(c);
    free(d);
}

static void extractor_says_what_the_classifier_says(void **state) {
    (void)state;
    Golden g = golden_open();
    Error err;
    Device *d = open_device("cpu");
    Extractor *e = extractor_classifier(d, g.path, 6, &err);
    Classifier *c = classifier_open(d, g.path, 6, &err);
    if (!e || !c) fail_msg("%s", err.msg);
    assert_true(e->dim == 16 && e->classes == 3 && e->height == 12 && e->width == 9 && e->channels == 3);
    assert_string_equal(e->name, "classifier resnet8");
    assert_int_equal(strlen(e->hash), 64);
    float pixels[6 * 12 * 9 * 3], features[2][6 * 16], logits[6 * 3], probs[6 * 3];
    image_rows(&g.images, 0, 6, false, pixels);
    e->run(e->self, 6, 12, 9, 3, pixels, features[0], probs);
    classifier_run(c, &g.images, features[1], logits);
    assert_memory_equal(features[0], features[1], sizeof features[0]);
    for (int i = 0; i < 6; i++) {
        double sum = 0;
        for (int k = 0; k < 3; k++) sum += exp((double)logits[3 * i + k]);
        for (int k = 0; k < 3; k++)
            assert_true(fabs((double)probs[3 * i + k] - exp((double)logits[3 * i + k]) / sum) <= 0x1p-24);
    }
    extractor_close(e);
    classifier_close(c);
    device_close(d);
    golden_close(&g);
}

static int tidy(void **state) {
    dataset_close(builtin);
    return tempdir_remove(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_the_twin), cmocka_unit_test(training_agrees_with_the_twin),
        cmocka_unit_test(learns_a_few_images_by_heart), cmocka_unit_test(same_seed_same_bits),
        cmocka_unit_test(sets_are_one), cmocka_unit_test(divergence_is_named),
        cmocka_unit_test(labels_that_do_not_fit_are_refused), cmocka_unit_test(logit_adjustment_shifts_the_loss),
        cmocka_unit_test(rows_do_not_depend_on_their_neighbours), cmocka_unit_test(saved_and_opened_is_the_same),
        cmocka_unit_test(wrong_files_are_refused), cmocka_unit_test(damage_is_found),
        cmocka_unit_test(cache_knows_data_and_recipe), cmocka_unit_test(extractor_says_what_the_classifier_says),
    };
    return cmocka_run_group_tests(tests, tempdir_make, tidy);
}
