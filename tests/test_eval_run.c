// tests/test_eval_run.c - cbdm eval run from end to end: real images posing as samples, whose every number is known,
// and a small random network; every way to ask for what cannot be.
//
// The data: three classes of 8 x 8 grey images, a bright left half, top half or frame in noise.
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <cmocka.h>
#include <cjson/cJSON.h>
#include "eval/features.h"
#include "models/model.h"
#include "tests/tempdir.h"
#include "tests/program.h"

enum { SIDE = 8, E = SIDE * SIDE, CLASSES = 3, TRAIN = 240, TEST = 90, T = 4 };
static uint8_t train_images[TRAIN * E], test_images[TEST * E];

static void draw_set(uint8_t *images, int n, uint32_t x) {
    for (int i = 0; i < n; i++)
        for (int p = 0; p < E; p++) {
            int r = p / SIDE, c = p % SIDE, edge = r == 0 || c == 0 || r == SIDE - 1 || c == SIDE - 1;
            int bright = i % CLASSES == 0 ? c < SIDE / 2 : i % CLASSES == 1 ? r < SIDE / 2 : edge;
            images[i * E + p] = (uint8_t)(((x = x * 1664525u + 1013904223u) >> 25) + (bright ? 120 : 0));
        }
}

static void write_idx(const char *stem, const uint8_t *images, int n) {
    uint8_t *file = xcalloc(1, 16 + (size_t)n * E), labels[8 + TRAIN] = { 0, 0, 8, 1, 0, 0, 0, (uint8_t)n };
    memcpy(file, (uint8_t[16]){ 0, 0, 8, 3, 0, 0, 0, (uint8_t)n, 0, 0, 0, SIDE, 0, 0, 0, SIDE }, 16);
    memcpy(file + 16, images, (size_t)n * E);
    for (int i = 0; i < n; i++) labels[8 + i] = (uint8_t)(i % CLASSES);
    char *name[2] = { xasprintf("fine/%s-images-idx3-ubyte", stem), xasprintf("fine/%s-labels-idx1-ubyte", stem) };
    write_bytes(name[0], file, 16 + (size_t)n * E);
    write_bytes(name[1], labels, 8 + (size_t)n);
    free(name[0]);
    free(name[1]);
    free(file);
}

// shift: added to the labels, modulo classes.
static void write_npz(const char *name, const uint8_t *images, int n, int shift, bool labels) {
    int64_t y[TRAIN];
    Error err;
    for (int i = 0; i < n; i++) y[i] = (i + shift) % CLASSES;
    const NpyArray a[] = { { "|u1", 4, { n, SIDE, SIDE, 1 }, images }, { "<i8", 1, { n }, y } };
    if (!npz_write(temp_path(name), (const char *const[]){ "arr_0", "arr_1" }, a, labels ? 2 : 1, &err))
        fail_msg("%s", err.msg);
}

static void write_floats(const char *name, const char *labels, const uint8_t *images, int n) {
    float *x = xmalloc((size_t)n * E * sizeof *x);
    int64_t y[TRAIN];
    Error err;
    for (int k = 0; k < n * E; k++) x[k] = (float)images[k] / 255;
    for (int i = 0; i < n; i++) y[i] = i % CLASSES;
    NpyArray a = { "<f4", 4, { n, 1, SIDE, SIDE }, x }, l = { "<i8", 1, { n }, y };
    if (!npy_write(temp_path(name), &a, &err) || !npy_write(temp_path(labels), &l, &err)) fail_msg("%s", err.msg);
    free(x);
}

// A network as it was initialised, with the counts of the training subset at imbalance 0.1: 80, 25, 8.
static void write_network(const char *name) {
    Error err = { 0 };
    ModelConfig c;
    UNetConfig u;
    cli_defaults(model_flags, n_model_flags, &c);
    c.image_size = SIDE, c.in_channels = 1, c.ch = 16, c.ch_mult = "1,2", c.attn = "1", c.res_blocks = 1;
    c.groups = 4, c.classes = CLASSES, c.T = T, c.beta_1 = 0.02, c.beta_T = 0.3;
    assert_true(model_unet_config(&c, &u, &err));
    Device *d = device_open("ref", &err);
    UNet *net = unet_new(&u, d);
    param_seal(unet_params(net), PARAM_TRAIN, 3);
    char *model = cli_json(model_flags, n_model_flags, &c);
    const char *keys[] = { "format", "model", "config", "step", "class_names", "class_counts" };
    const char *values[] = { "cbdm-checkpoint-1", model, "{}", "7", "[\"0\",\"1\",\"2\"]", "[80,25,8]" };
    if (!ckpt_save(unet_params(net), temp_path(name), keys, values, 6, &err)) fail_msg("%s", err.msg);
    free(model);
    unet_free(net);
    device_close(d);
}

static int make(void **state) {
    if (tempdir_make(state) != 0) return -1;
    setenv("XDG_CACHE_HOME", temp_path("cache"), 1);
    if (!dir_make(temp_path("fine"), NULL)) return -1;
    draw_set(train_images, TRAIN, 1);
    draw_set(test_images, TEST, 2);
    write_idx("train", train_images, TRAIN);
    write_idx("t10k", test_images, TEST);
    write_npz("train.npz", train_images, TRAIN, 0, true);
    write_npz("test.npz", test_images, TEST, 0, true);
    write_npz("moved.npz", test_images, TEST, 1, true);
    write_npz("bare.npz", test_images, TEST, 0, false);
    write_npz("two.npz", test_images, 2, 0, true);
    write_floats("cond_0.0_samples_ema_x.npy", "cond_0.0_labels_ema_x.npy", test_images, TEST);
    write_network("net.safetensors");
    return 0;
}

// The first test, so that the others find it in the cache.
static void a_classifier_is_asked_for_by_its_command(void **unused) {
    (void)unused;
    program_expect(ERR_FILE, "eval run --samples test.npz --data fine");
    expect_in_stderr("cbdm eval train-classifier --data fine");
    program_expect(0, "eval train-classifier --data fine --preset quick --no-flip --epochs 12 --batch 32 --out "
                   "judge.safetensors");
}

#define RUN "eval run --data fine --weights judge.safetensors --imb-factor 0.1 --bootstrap 0 --prd-runs 2 "

static cJSON *read_result(const char *name) {
    size_t n;
    char *text = (char *)read_bytes(name, &n);
    cJSON *j = cJSON_ParseWithLength(text, n);
    if (!j) fail_msg("%s is no JSON: %s", name, text);
    free(text);
    return j;
}

// A number by its path, "nearest.copy_rate" or "per_class.2.fid".
static double number_at(const cJSON *j, const char *path) {
    char *text = xstrdup(path), *save = NULL;
    for (char *w = strtok_r(text, ".", &save); w && j; w = strtok_r(NULL, ".", &save))
        j = cJSON_IsArray(j) ? cJSON_GetArrayItem(j, atoi(w)) : cJSON_GetObjectItem(j, w);
    free(text);
    if (!cJSON_IsNumber(j)) fail_msg("no number at %s", path);
    return j->valuedouble;
}

static const char *text_at(const cJSON *j, const char *key) {
    const char *s = cJSON_GetStringValue(cJSON_GetObjectItem(j, key));
    if (!s) fail_msg("no text at %s", key);
    return s;
}

// Sum of the variances of all features: the scale of a Frechet distance.
static double trace_of(const char *name) {
    Features f;
    Error err;
    if (!features_read(temp_path(name), "", "", &f, &err)) fail_msg("%s", err.msg);
    double trace = 0;
    for (int k = 0; k < f.dim; k++) {
        double sum = 0, square = 0;
        for (int64_t i = 0; i < f.n; i++) {
            double v = (double)f.x[i * f.dim + k];
            sum += v;
            square += v * v;
        }
        trace += (square - sum * sum / (double)f.n) / (double)(f.n - 1);
    }
    features_free(&f);
    return trace;
}

// A set against itself. The roots of 64 eigenvalues, each off by rounding of the largest, at most the trace, are off by
// sqrt(64 eps) of its root each.
static void training_images_are_copies_of_themselves(void **unused) {
    (void)unused;
    program_expect(0, RUN "--samples train.npz --imb-type none --split train --json self.json --save-features "
                   "self.safetensors");
    cJSON *j = read_result("self.json");
    double off = 64 * sqrt(64 * DBL_EPSILON) * trace_of("self.safetensors");
    assert_true(number_at(j, "fid") >= 0 && number_at(j, "fid") <= off);
    assert_true(number_at(j, "pr5.precision") == 1 && number_at(j, "pr5.recall") == 1);
    assert_true(number_at(j, "pr5.coverage") == 1);
    assert_true(number_at(j, "nearest.copy_rate") == 1 && number_at(j, "nearest.authentic") == 0);
    assert_true(number_at(j, "reference.count") == TRAIN && number_at(j, "generated.count") == TRAIN);
    const cJSON *pair;
    cJSON_ArrayForEach(pair, cJSON_GetObjectItem(cJSON_GetObjectItem(j, "nearest"), "pairs")) {
        assert_true(number_at(pair, "distance") == 0);
        assert_true(number_at(pair, "sample") == number_at(pair, "train"));
        assert_true(number_at(pair, "class") == number_at(pair, "train_class"));
    }
    cJSON_Delete(j);
}

// Samples of a network that was trained on images padded to 12 x 12: the command that is named makes what is missing.
static void padded_samples_have_a_padded_classifier(void **unused) {
    (void)unused;
    enum { PADDED = 12, EDGE = (PADDED - SIDE) / 2 };
    static uint8_t images[TEST * PADDED * PADDED];
    int64_t y[TEST];
    Error err;
    for (int i = 0; i < TEST; i++) {
        y[i] = i % CLASSES;
        for (int r = 0; r < SIDE; r++)
            memcpy(images + (i * PADDED + r + EDGE) * PADDED + EDGE, test_images + i * E + r * SIDE, SIDE);
    }
    const NpyArray a[] = { { "|u1", 4, { TEST, PADDED, PADDED, 1 }, images }, { "<i8", 1, { TEST }, y } };
    assert_true(npz_write(temp_path("padded.npz"), (const char *const[]){ "arr_0", "arr_1" }, a, 2, &err));
    static const char line[] = "eval run --data fine --samples padded.npz --imb-factor 0.1 --bootstrap 0 --skip "
                               "prd,mind --json padded.json";
    program_expect(ERR_FILE, "%s", line);
    expect_in_stderr("cbdm eval train-classifier --data fine --pad 12");
    program_expect(0, "eval train-classifier --data fine --pad 12 --preset quick");
    assert_null(strstr(program_stderr, "has no test images"));                     // they are padded too
    program_expect(0, "%s", line);
    cJSON *j = read_result("padded.json");
    assert_true(number_at(j, "nearest.real_per_class_copy_rate.0") == number_at(j, "nearest.per_class_copy_rate.0"));
    cJSON_Delete(j);
}

static void held_out_images_are_as_good_as_real_ones(void **unused) {
    (void)unused;
    program_expect(0, RUN "--samples test.npz --json held.json");
    cJSON *j = read_result("held.json");
    assert_string_equal(text_at(j, "format"), "cbdm-eval-1");
    assert_string_equal(text_at(j, "protocol"), "cbdm,uint8");
    assert_string_equal(text_at(j, "title"),
                        "fid[cbdm,uint8,not resized,features=classifier resnet8,n=90,ref=fine.test]");
    static const char *const numbers[] = {
        "fid", "kid", "mind", "prd_f8", "prd_f1_8", "inception_score.mean", "pr3.density", "pr5.coverage",
        "per_class_fid.2", "per_class.1.fid", "per_group.few.kid", "overall.fid", "label_fidelity.per_group.medium",
        "confusion.2.2", "borrowed.2", "nearest.per_class_copy_rate.0", "nearest.threshold", "diversity.generated.1",
        "train_counts.2", "groups.few.0", "options.bootstrap", "settings.imb-factor",
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) number_at(j, numbers[i]);
    assert_true(number_at(j, "train_counts.0") == 80 && number_at(j, "train_counts.2") == 8);
    for (int c = 0; c < CLASSES; c++) {
        char made[64], real_one[64];
        snprintf(made, sizeof made, "label_fidelity.per_class.%d", c);
        snprintf(real_one, sizeof real_one, "label_fidelity.real_per_class.%d", c);
        assert_true(number_at(j, made) == number_at(j, real_one));
        snprintf(made, sizeof made, "diversity.generated.%d", c);
        snprintf(real_one, sizeof real_one, "diversity.real.%d", c);
        assert_true(number_at(j, made) == number_at(j, real_one));
    }
    assert_true(number_at(j, "label_fidelity.all") > 0.9);         // or the judge has learnt nothing
    assert_true(number_at(j, "nearest.copy_rate") == 0);           // 1% of 90 is less than one image
    assert_true(file_exists(temp_path("held-samples.png")) && file_exists(temp_path("held-nearest.png")));
    assert_string_equal(text_at(cJSON_GetObjectItem(j, "nearest"), "sheet"), "held-nearest.png");
    cJSON_Delete(j);
}

static void moved_labels_show(void **unused) {
    (void)unused;
    program_expect(0, RUN "--samples moved.npz --questions fidelity --json moved.json");
    cJSON *a = read_result("held.json"), *b = read_result("moved.json");
    for (int c = 0; c < CLASSES; c++)
        for (int g = 0; g < CLASSES; g++) {
            char was[32], is[32];
            snprintf(was, sizeof was, "confusion.%d.%d", c, g);
            snprintf(is, sizeof is, "confusion.%d.%d", (c + 1) % CLASSES, g);
            assert_true(number_at(a, was) == number_at(b, is));
        }
    assert_true(number_at(b, "label_fidelity.all") < 0.1);
    assert_true(number_at(b, "borrowed.0") == 0 && number_at(b, "borrowed.1") > 0.9);
    assert_true(number_at(a, "fid") == number_at(b, "fid"));
    assert_true(number_at(b, "per_class_fid.0") > 10 * number_at(a, "per_class_fid.0"));
    assert_null(cJSON_GetObjectItem(b, "nearest"));
    cJSON_Delete(a);
    cJSON_Delete(b);
}

static void floats_and_bytes_have_names_of_their_own(void **unused) {
    (void)unused;
    static const char *const want[][3] = {
        { "cond_0.0_samples_ema_x.npy", "cbdm", "cbdm" }, { "cond_0.0_samples_ema_x.npy", "tf", "tf" },
        { "test.npz", "tf", "tf" },
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        program_expect(0, RUN "--samples %s --protocol %s --questions none --no-per-class --skip prd,mind,kid,prdc,is "
                       "--json name.json", want[i][0], want[i][1]);
        cJSON *j = read_result("name.json");
        assert_string_equal(text_at(j, "protocol"), want[i][2]);
        cJSON_Delete(j);
    }
}

static void classifiers_learn_from_samples(void **unused) {
    (void)unused;
    program_expect(0, RUN "--samples test.npz --questions cas,downstream --clf-epochs 0.5 --skip prd,mind --json "
                   "learnt.json");
    cJSON *j = read_result("learnt.json");
    static const char *const arms[4][2] = { { "lt", "plain" }, { "lt", "logit-adjusted" }, { "lt+gen", "plain" },
                                            { "lt+gen", "logit-adjusted" } };
    const cJSON *list = cJSON_GetObjectItem(j, "downstream");
    assert_int_equal(cJSON_GetArraySize(list), 4);
    for (int i = 0; i < 4; i++) {
        const cJSON *arm = cJSON_GetArrayItem(list, i);
        assert_string_equal(text_at(arm, "train"), arms[i][0]);
        assert_string_equal(text_at(arm, "loss"), arms[i][1]);
        assert_true(number_at(arm, "count") == (i < 2 ? 113 : 113 + TEST));
        assert_true(number_at(arm, "per_group.few") >= 0 && number_at(arm, "all") <= 1);
    }
    assert_true(number_at(j, "cas.count") == TEST && number_at(j, "cas.epochs") == 0.5);
    cJSON_Delete(j);
}

// What is drawn in memory is what cbdm sample writes.
static void checkpoints_need_no_samples_on_disk(void **unused) {
    (void)unused;
    static const char draw[] = "--seeds 5-16 --sampler ddim --steps 3 --omega 0.7 --clip-x0 1 --seed 9 --batch 5 "
                               "--device cpu";
    program_expect(0, "sample --checkpoint net.safetensors --out drawn --labels balanced %s", draw);
    program_expect(0, RUN "--checkpoint net.safetensors %s --skip prd,mind --json a.json", draw);
    program_expect(0, RUN "--samples drawn --skip prd,mind --json b.json");
    size_t n_a, n_b;
    uint8_t *a = read_bytes("a-samples.png", &n_a), *b = read_bytes("b-samples.png", &n_b);
    assert_int_equal(n_a, n_b);
    assert_memory_equal(a, b, n_a);
    free(a);
    free(b);
    cJSON *of[2] = { read_result("a.json"), read_result("b.json") };
    assert_string_equal(text_at(of[0], "protocol"), "cbdm");
    assert_string_equal(text_at(of[1], "protocol"), "cbdm,uint8");
    for (int i = 0; i < 2; i++) {
        const cJSON *g = cJSON_GetObjectItem(of[i], "generated");
        assert_true(number_at(g, "omega") == 0.7 && number_at(g, "steps") == 3 && number_at(g, "seed") == 9);
        assert_string_equal(text_at(g, "sampler"), "ddim");
        assert_int_equal(strlen(text_at(g, "checkpoint_sha256")), 64);
        double least = number_at(of[i], "nearest.pairs.0.sample");
        assert_true(least >= 5 && least <= 16);                    // image numbers, not positions
        cJSON_Delete(of[i]);
    }
    program_expect(ERR_USAGE, RUN "--samples drawn --imb-type none");
    expect_in_stderr("the model of drawn was trained on 25 images of class 1, the subset named here has 80");
    program_expect(ERR_USAGE, RUN "--samples drawn --omega 1");
    expect_in_stderr("drawn was drawn at omega 0.7, not 1");
}

static void a_guidance_strength_is_recorded(void **unused) {
    (void)unused;
    program_expect(0, RUN "--samples test.npz --omega 1.25 --questions none --no-per-class --skip prd,mind,kid,prdc,is "
                   "--json named.json");
    cJSON *j = read_result("named.json");
    assert_true(number_at(j, "generated.omega") == 1.25);
    cJSON_Delete(j);
}

static void the_classifier_of_the_cache_is_found(void **unused) {
    (void)unused;
    program_expect(0, "eval train-classifier --data fine --preset quick");
    program_expect(0, "eval run --data fine --samples test.npz --imb-factor 0.1 --bootstrap 0 --skip prd,mind "
                   "--questions fidelity");
}

static bool warns_of_classifier(const char *name) {
    cJSON *j = read_result(name);
    const cJSON *line;
    bool warns = false;
    cJSON_ArrayForEach(line, cJSON_GetObjectItem(j, "warnings"))
        warns = warns || strstr(cJSON_GetStringValue(line), "the classifier was not trained on");
    cJSON_Delete(j);
    return warns;
}

static void a_classifier_of_other_images_is_warned_of(void **unused) {
    (void)unused;
    program_expect(0, "eval train-classifier --data fine --preset quick --epochs 0.5 --imb-type exp --imb-factor 0.1 "
                   "--out tail.safetensors");
    program_expect(0, "eval run --data fine --samples test.npz --features tail.safetensors --imb-factor 0.1 "
                   "--bootstrap 0 --skip prd,mind,kid,prdc --questions none --json other.json");
    assert_true(warns_of_classifier("other.json"));
    assert_false(warns_of_classifier("held.json"));
}

static void every_mistake_has_its_line(void **unused) {
    (void)unused;
    static const struct { int code; const char *flags, *says; } wrong[] = {
        { ERR_USAGE, "", "usage: cbdm eval run" },
        { ERR_USAGE, "--samples test.npz --checkpoint net.safetensors", "usage: cbdm eval run" },
        { ERR_USAGE, "--samples test.npz --steps 5", "--steps says how to draw from a --checkpoint" },
        { ERR_USAGE, "--samples test.npz --seed 0", "--seed says how to draw" },
        { ERR_USAGE, "--samples test.npz --questions fidelty", "--questions fidelty" },
        { ERR_USAGE, "--samples test.npz --questions fidelity,", "--questions" },
        { ERR_USAGE, "--samples test.npz --skip fud", "--skip" },
        { ERR_USAGE, "--samples test.npz --groups 1,1,2", "groups" },
        { ERR_USAGE, "--samples test.npz --features resnet", "--features resnet" },
        { ERR_USAGE, "--samples test.npz --features judge.safetensors --weights judge.safetensors", "--weights" },
        { ERR_USAGE, "--samples test.npz --device null", "computes nothing" },
        { ERR_USAGE, "--samples bare.npz", "--gen-labels" },
        { ERR_USAGE, "--samples two.npz", "of class 0" },
        { ERR_USAGE, "--samples test.npz --data builtin", "name the data" },
        { ERR_USAGE, "--checkpoint net.safetensors --imb-factor 0.5 --seeds 0-9",
          "was trained on 25 images of class 1" },
        { ERR_USAGE, "--checkpoint net.safetensors --imb-factor 0.1 --seeds 0-9 --labels none --omega 1", "--omega 1" },
        { ERR_USAGE, "--checkpoint net.safetensors --gen-labels a.npy", "--gen-labels belongs" },
        { ERR_USAGE, "--checkpoint net.safetensors --data builtin", "draws 3 classes of 8 x 8 x 1" },
        { ERR_FILE, "--samples absent", "absent" },
        { ERR_FILE, "--samples test.npz --weights absent.safetensors", "absent.safetensors" },
        { ERR_FILE, "--samples test.npz --data absent", "absent" },
        { ERR_IO, "--samples absent --json nowhere/x.json", "nowhere" },                 // before anything is done
        { ERR_IO, "--samples absent --save-features nowhere/x.safetensors", "nowhere" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        const char *data = strstr(wrong[i].flags, "--data") ? "" : "--data fine";
        const char *weights = strstr(wrong[i].flags, "--weights") ? "" : "--weights judge.safetensors";
        int code = program_run("eval run %s %s --skip prd,mind %s", data, weights, wrong[i].flags);
        if (code != wrong[i].code || !strstr(program_stderr, wrong[i].says))
            fail_msg("%s: exit %d, not %d with \"%s\":\n%s", wrong[i].flags, code, wrong[i].code, wrong[i].says,
                     program_stderr);
        const char *line = strstr(program_stderr, "error: ");
        assert_true(line && strchr(line, '\n') == line + strlen(line) - 1);          // one line, the last
    }
}

static void eval_names_its_verbs(void **unused) {
    (void)unused;
    program_expect(0, "eval --help");
    program_expect(ERR_USAGE, "eval");
    program_expect(ERR_USAGE, "eval rin");
    expect_in_stderr("did you mean run");
    static const char *const verbs[] = { "run", "metrics", "ref", "train-classifier", "centroid" };
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) program_expect(0, "eval %s --help", verbs[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_classifier_is_asked_for_by_its_command),
        cmocka_unit_test(training_images_are_copies_of_themselves),
        cmocka_unit_test(padded_samples_have_a_padded_classifier),
        cmocka_unit_test(held_out_images_are_as_good_as_real_ones),
        cmocka_unit_test(moved_labels_show),
        cmocka_unit_test(floats_and_bytes_have_names_of_their_own),
        cmocka_unit_test(classifiers_learn_from_samples),
        cmocka_unit_test(checkpoints_need_no_samples_on_disk),
        cmocka_unit_test(a_guidance_strength_is_recorded),
        cmocka_unit_test(the_classifier_of_the_cache_is_found),
        cmocka_unit_test(a_classifier_of_other_images_is_warned_of),
        cmocka_unit_test(every_mistake_has_its_line),
        cmocka_unit_test(eval_names_its_verbs),
    };
    return cmocka_run_group_tests(tests, make, tempdir_remove);
}
