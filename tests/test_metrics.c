// tests/test_metrics.c - all metrics together: the parity case through the verb, numpy's golden values, classes and
// groups as sets of their own, warnings, refusals, the same bits for any number of threads.
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "eval/linalg.h"
#include "eval/metrics.h"
#include "eval/metrics_impl.h"
#include "tests/program.h"

#define CASE TESTS_DIR "/golden/metrics-1/"
#define INPUTS "--gen " CASE "gen_features.npy --ref " CASE "ref_features.npy "
#define LABELS "--gen-labels " CASE "gen_labels.npy --ref-labels " CASE "ref_labels.npy "
#define PROBS "--probs " CASE "gen_probs.npy "

// ---- values in JSON files
typedef struct { char *text; size_t n; } Json;

static Json json_of(const char *path) {
    Json j;
    Error err;
    if (!file_read(path, 1 << 24, (uint8_t **)&j.text, &j.n, &err)) fail_msg("%s", err.msg);
    return j;
}

// Number at a path such as "pr3.recall" or "per_class.3.fid"; *there tells whether it is one.
static double json_at(Json j, const char *path, bool *there) {
    JsonReader r;
    char number[JSON_NUMBER_MAX], *copy = xstrdup(path), *save = NULL;
    json_start(&r, j.text, j.n);
    for (char *part = strtok_r(copy, ".", &save); part; part = strtok_r(NULL, ".", &save)) {
        bool found = false;
        if (json_peek(&r) == '[') {
            json_enter(&r, '[');
            for (int i = 0; !found && json_item(&r); i++) {
                found = i == atoi(part);
                if (!found) json_skip(&r);
            }
        } else if (json_enter(&r, '{')) {
            char *key;
            while (!found && (key = json_key(&r))) {
                found = strcmp(key, part) == 0;
                free(key);
                if (!found) json_skip(&r);
            }
        }
        if (!found) fail_msg("no %s (%s)", path, part);
    }
    free(copy);
    *there = json_peek(&r) != 'n';
    if (!*there) return (double)NAN;
    assert_true(json_number(&r, number));
    return strtod(number, NULL);
}

static double json_get(Json j, const char *path) {
    bool there;
    double v = json_at(j, path, &there);
    if (!there) fail_msg("%s is null", path);
    return v;
}

static bool json_null(Json j, const char *path) {
    bool there;
    json_at(j, path, &there);
    return !there;
}

// ---- through the verb
static void parity_case(void **state) {
    (void)state;
    static const char *const close[] = { "fid", "kid", "inception_score.mean", "inception_score.std" };
    static const char *const exact[] = { "precision", "recall", "density", "coverage" };
    program_expect(0, "eval metrics " INPUTS LABELS PROBS "--json out.json");
    Json want = json_of(CASE "expected.json"), got = json_of(temp_path("out.json"));
    for (size_t i = 0; i < sizeof close / sizeof *close; i++) {
        double w = json_get(want, close[i]), g = json_get(got, close[i]);
        if (!(fabs(g - w) <= 1e-6 * fabs(w))) fail_msg("%s: %.17g, not %.17g", close[i], g, w);
    }
    for (int c = 0; c < 10; c++) {
        char *path = xasprintf("per_class_fid.%d", c), *row = xasprintf("per_class.%d.fid", c);
        double w = json_get(want, path), g = json_get(got, path);
        if (!(fabs(g - w) <= 1e-6 * w)) fail_msg("%s: %.17g, not %.17g", path, g, w);
        assert_true(json_get(got, row) == g);
        free(path);
        free(row);
    }
    for (int k = 3; k <= 5; k += 2)                             // shares of counts: the same counts, the same shares
        for (int i = 0; i < 4; i++) {
            char *path = xasprintf("pr%d.%s", k, exact[i]);
            double w = json_get(want, path), g = json_get(got, path);
            if (!(fabs(g - w) <= 1e-12 * w)) fail_msg("%s: %.17g, not %.17g", path, g, w);
            free(path);
        }
    assert_true(fabs(json_get(got, "prd_f8") - json_get(want, "prd_f8")) <= 0.01);
    assert_true(fabs(json_get(got, "prd_f1_8") - json_get(want, "prd_f1_8")) <= 0.01);
    assert_true(json_get(got, "overall.n_gen") == 1500 && json_get(got, "overall.n_ref") == 2000);
    free(want.text);
    free(got.text);
}

static void intervals_and_means_are_written(void **state) {
    (void)state;
    program_expect(0, "eval metrics " INPUTS LABELS "--bootstrap 50 --json out.json --skip prd,mind");
    Json got = json_of(temp_path("out.json"));
    double mean = 0, n_gen = 0, n_ref = 0;
    for (int c = 0; c < 10; c++) {
        char *fid = xasprintf("per_class.%d.fid", c), *at = xasprintf("per_class.%d.fid_interval.0", c);
        double v = json_get(got, fid), low = json_get(got, at);
        at[strlen(at) - 1] = '1';
        assert_true(low < v && v < json_get(got, at));
        mean += v / 10;
        free(fid);
        free(at);
        at = xasprintf("per_class.%d.n_gen", c);
        n_gen += json_get(got, at);
        strcpy(at + strlen(at) - 3, "ref");
        n_ref += json_get(got, at);
        free(at);
    }
    assert_true(fabs(json_get(got, "per_class_fid_mean") - mean) <= 1e-14 * mean * 10);
    assert_true(n_gen == 1500 && n_ref == 2000);
    assert_true(json_get(got, "overall.kid_interval.0") < json_get(got, "kid"));
    assert_true(json_get(got, "options.bootstrap") == 50);
    assert_true(json_null(got, "prd_f8") && json_null(got, "mind") && json_null(got, "inception_score.mean"));
    assert_true(json_get(got, "groups.many.2") == 2 && json_get(got, "groups.few.0") == 6);
    free(got.text);
}

static void statistics_in_place_of_features(void **state) {
    (void)state;
    Features ref;
    Gaussian g;
    Error err = { 0 };
    assert_true(features_read(CASE "ref_features.npy", "", "", &ref, &err));
    gaussian_fit(&ref, NULL, 0, &g);
    assert_true(gaussian_write(temp_path("stats.npz"), &g, &err));
    program_expect(0, "eval metrics --gen " CASE "gen_features.npy " PROBS "--ref stats.npz --json out.json");
    Json want = json_of(CASE "expected.json"), got = json_of(temp_path("out.json"));
    assert_true(fabs(json_get(got, "fid") - json_get(want, "fid")) <= 1e-6 * json_get(want, "fid"));
    assert_true(json_null(got, "kid") && json_null(got, "pr5.recall"));
    assert_true(fabs(json_get(got, "inception_score.mean") - json_get(want, "inception_score.mean")) <= 1e-6);
    free(want.text);
    free(got.text);
    gaussian_free(&g);
    features_free(&ref);
    program_expect(ERR_USAGE, "eval metrics --gen " CASE "gen_features.npy --ref stats.npz --ref-labels " CASE
                   "ref_labels.npy");
}

static void two_threads(void) { setenv("OMP_NUM_THREADS", "2", 1); }
static void three_threads(void) { setenv("OMP_NUM_THREADS", "3", 1); }

static void the_same_bytes_for_any_number_of_threads(void **state) {
    (void)state;
    static void (*const prepare[])(void) = { NULL, two_threads, three_threads };
    Json first = { 0 };
    for (int i = 0; i < 3; i++) {
        program_prepare = prepare[i];
        program_expect(0, "eval metrics " INPUTS LABELS PROBS "--bootstrap 20 --prd-runs 2 --json out.json");
        Json j = json_of(temp_path("out.json"));
        if (i == 0) {
            first = j;
            continue;
        }
        assert_int_equal(j.n, first.n);
        assert_memory_equal(j.text, first.text, j.n);
        free(j.text);
    }
    program_prepare = NULL;
    free(first.text);
}

static void mistakes_are_named(void **state) {
    (void)state;
    static const struct { const char *flags, *words; int code; } bad[] = {
        { "--gen " CASE "gen_features.npy", "usage: cbdm eval metrics", ERR_USAGE },
        { INPUTS "--skip fid,kie", "\"kie\"", ERR_USAGE },
        { INPUTS LABELS "--groups 3,3,3", "--groups 3,3,3", ERR_USAGE },
        { INPUTS LABELS "--groups 100,20", "--train-counts", ERR_USAGE },
        { INPUTS LABELS "--train-counts 5,4,3", "3 numbers for 10 classes", ERR_USAGE },
        { INPUTS LABELS "--train-counts 1,2,3,4,5,6,7,8,9,10,11", "more numbers than classes", ERR_USAGE },
        { INPUTS LABELS "--train-counts counts.txt", "no whole number at \"x", ERR_USAGE },
        { INPUTS LABELS "--train-counts nothing.txt", "nothing.txt", ERR_FILE },
        { INPUTS LABELS "--classes 9", "has label 9, where 0 to 8", ERR_FILE },
        { INPUTS "--gen-labels negative.npy --ref-labels " CASE "ref_labels.npy", "row 7 (the first is 0) has label -1",
          ERR_FILE },
        { "--gen " CASE "gen_features.npy --ref " CASE "gen_probs.npy", "must come from the same extractor", ERR_FILE },
        { "--gen nothing.npy --ref " CASE "ref_features.npy", "nothing.npy: cannot be opened", ERR_FILE },
        { INPUTS "--json no/such/folder.json --skip kid,prdc,prd,mind", "no/such/folder.json", ERR_IO },
    };
    Error err = { 0 };
    int64_t labels[1500] = { 0 };
    labels[7] = -1;
    NpyArray a = { .descr = "<i8", .ndim = 1, .shape = { 1500 }, .data = labels };
    assert_true(npy_write(temp_path("negative.npy"), &a, &err));
    assert_true(file_write_text(temp_path("counts.txt"), "10 9 8\n7 x 6", &err));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int code = program_run("eval metrics %s", bad[i].flags);
        if (code != bad[i].code) fail_msg("exit code %d of %s:\n%s", code, bad[i].flags, program_stderr);
        expect_in_stderr(bad[i].words);
    }
}

static void counts_from_a_list_or_a_file(void **state) {
    (void)state;
    static const char *const counts[] = { "50,60,70,80,90,100,110,120,130,140", "counts.txt" };
    Error err = { 0 };
    assert_true(file_write_text(temp_path("counts.txt"), "50 60\n70,80, 90\t100 110 120\r\n130 140\n", &err));
    for (int i = 0; i < 2; i++) {
        program_expect(0, "eval metrics " INPUTS LABELS "--bootstrap 0 --skip kid,prdc,prd,mind --groups 100,60 "
                       "--train-counts %s --json out.json", counts[i]);
        Json j = json_of(temp_path("out.json"));
        assert_true(json_get(j, "groups.many.0") == 6 && json_get(j, "groups.many.3") == 9);
        assert_true(json_get(j, "groups.medium.0") == 1 && json_get(j, "groups.medium.4") == 5);
        assert_true(json_get(j, "groups.few.0") == 0);
        assert_true(json_get(j, "train_counts.9") == 140);
        free(j.text);
    }
}

// ---- in the library
static Features golden(const char *name) {
    Features f;
    Error err = { 0 };
    char *path = xasprintf("%s/golden/%s.npy", TESTS_DIR, name);
    if (!features_read(path, "", "", &f, &err)) fail_msg("%s", err.msg);
    free(path);
    return f;
}

// numpy and scipy on |normals|: ../metrics-and-formats 1.12 of the project's notes. Shares of 64 rows are exact.
static void golden_values(void **state) {
    (void)state;
    Features ref = golden("normal64_ref"), gen = golden("normal64_gen");
    MetricOptions o = metric_options;
    Metrics m;
    o.bootstrap = 0;
    metrics_compute(&gen, &ref, &o, &m);
    assert_true(fabs(m.all.fid.value - 0.46207388422811935) <= 1e-6 * 0.46);
    assert_true(fabs(m.all.kid.value - 0.16981518875888924) <= 1e-10);
    const Prdc want3 = { 0.796875, 1, 0.6875, 0.734375 }, want5 = { 0.921875, 1, 0.81875, 0.953125 };
    assert_true(m.all.pr3.precision == want3.precision && m.all.pr3.recall == want3.recall);
    assert_true(fabs(m.all.pr3.density - want3.density) < 1e-15 && m.all.pr3.coverage == want3.coverage);
    assert_true(m.all.pr5.precision == want5.precision && m.all.pr5.recall == want5.recall);
    assert_true(fabs(m.all.pr5.density - want5.density) < 1e-15 && m.all.pr5.coverage == want5.coverage);
    metrics_free(&m);
    features_free(&ref);
    features_free(&gen);
}

static Features with_labels(const Features *f, const int32_t *label) {
    Features out;
    features_copy(f->n, f->dim, f->x, label, 0, NULL, "labelled", &out);
    return out;
}

// A table of those rows of f whose label is one of those asked for.
static Features chosen(const Features *f, bool (*is)(int label)) {
    float *x = xmalloc((size_t)(f->n * f->dim) * sizeof *x);
    int64_t n = 0;
    for (int64_t i = 0; i < f->n; i++)
        if (is(f->label[i])) memcpy(x + n++ * f->dim, f->x + i * f->dim, (size_t)f->dim * sizeof *x);
    Features out;
    features_copy(n, f->dim, x, NULL, 0, NULL, "chosen", &out);
    free(x);
    return out;
}

static bool is_two(int label) { return label == 2; }
static bool is_many(int label) { return label == 1 || label == 2; }

static void expect_same_row(const MetricRow *a, const MetricRow *b) {
    assert_int_equal(a->n_gen, b->n_gen);
    assert_int_equal(a->n_ref, b->n_ref);
    assert_int_equal(a->by_rows, b->by_rows);
    assert_memory_equal(&a->fid, &b->fid, sizeof a->fid);
    assert_memory_equal(&a->kid, &b->kid, sizeof a->kid);
    assert_memory_equal(&a->pr3, &b->pr3, sizeof a->pr3);
    assert_memory_equal(&a->pr5, &b->pr5, sizeof a->pr5);
    assert_memory_equal(&a->prd, &b->prd, sizeof a->prd);
    assert_true(a->mind == b->mind);
}

// What a class or a group is given is what its rows alone would be given, bit for bit, the intervals too.
static void a_class_is_a_set_of_its_own(void **state) {
    (void)state;
    Features r = golden("normal64_ref"), g = golden("normal64_gen");
    int32_t label[64];
    int of[4] = { GROUP_FEW, GROUP_MANY, GROUP_MANY, GROUP_MEDIUM };
    for (int i = 0; i < 64; i++) label[i] = i * i % 7 % 4;
    Features ref = with_labels(&r, label), gen = with_labels(&g, label);
    MetricOptions o = metric_options;
    Metrics m, part;
    o.classes = 4, o.group_of = of, o.bootstrap = 20, o.prd_clusters = 5;
    metrics_compute(&gen, &ref, &o, &m);
    assert_int_equal(m.classes, 4);
    o.classes = 0, o.group_of = NULL;
    for (int i = 0; i < 2; i++) {
        Features a = chosen(&gen, i ? is_many : is_two), b = chosen(&ref, i ? is_many : is_two);
        metrics_compute(&a, &b, &o, &part);
        assert_true(part.all.n_gen > 6);
        expect_same_row(&part.all, i ? &m.by_group[GROUP_MANY] : &m.by_class[2]);
        metrics_free(&part);
        features_free(&a);
        features_free(&b);
    }
    metrics_free(&m);
    features_free(&ref);
    features_free(&gen);
    features_free(&r);
    features_free(&g);
}

static bool warned(const Metrics *m, const char *words) {
    for (int i = 0; i < m->n_warnings; i++)
        if (strstr(m->warnings[i], words)) return true;
    return false;
}

static void small_and_missing_classes(void **state) {
    (void)state;
    Features r = golden("normal64_ref"), g = golden("normal64_gen");
    int32_t ref_label[64], gen_label[64];
    for (int i = 0; i < 64; i++) ref_label[i] = i % 2, gen_label[i] = i < 60 ? 0 : i < 63 ? 1 : 3;
    Features ref = with_labels(&r, ref_label), gen = with_labels(&g, gen_label);
    MetricOptions o = metric_options;
    Metrics m;
    o.classes = 4;
    metrics_compute(&gen, &ref, &o, &m);
    assert_true(isfinite(m.by_class[0].pr5.recall) && isfinite(m.by_class[0].kid.value));
    assert_true(isfinite(m.by_class[1].fid.value) && m.by_class[1].by_rows);     // 3 rows have no 3rd neighbour
    assert_true(isnan(m.by_class[1].pr3.recall) && isfinite(m.by_class[1].kid.value));
    assert_true(isnan(m.by_class[2].fid.value) && isnan(m.by_class[2].mind) && isnan(m.by_class[3].kid.value));
    assert_true(fabs(m.per_class_fid_mean - (m.by_class[0].fid.value + m.by_class[1].fid.value) / 2) < 1e-12);
    assert_true(warned(&m, "no rows on one side: class 2-3"));
    assert_true(warned(&m, "numbers of little weight: class 0-1"));
    assert_true(warned(&m, "0 to 60 generated rows a class"));
    assert_true(warned(&m, "3 of 4 classes have no more rows than dimensions (8)"));
    assert_false(warned(&m, "copies?"));
    assert_false(warned(&m, "no interval"));
    metrics_free(&m);

    o.bootstrap_cost = 1000;
    metrics_compute(&gen, &ref, &o, &m);
    assert_true(warned(&m, "all: no interval"));
    assert_true(isnan(m.all.kid.low) && isnan(m.all.fid.high) && isfinite(m.all.fid.value));
    JsonText text = { 0 };                                      // finite or null, so that it reads as JSON
    jtext_open(&text, NULL, '{');
    metrics_json(&m, &o, &text);
    jtext_close(&text, '}');
    char *whole = jtext_finish(&text);
    JsonReader reader;
    json_start(&reader, whole, strlen(whole));
    assert_true(json_skip(&reader) && json_end(&reader));
    assert_null(strstr(whole, "nan"));
    free(whole);
    metrics_free(&m);
    features_free(&ref);
    features_free(&gen);
    features_free(&r);
    features_free(&g);
}

static void copies_are_found(void **state) {
    (void)state;
    enum { N = 500, DIM = 3 };
    static float a[N * DIM], b[N * DIM];
    for (int i = 0; i < N * DIM; i++) a[i] = (float)(i * 31 % 977), b[i] = (float)(i * 17 % 953) + 0.5f;
    Features gen, ref;
    int64_t first = 0;
    features_copy(N, DIM, b, NULL, 0, NULL, "b", &ref);
    features_copy(N, DIM, a, NULL, 0, NULL, "a", &gen);
    assert_int_equal(rows_in_common(&gen, &ref, &first), 0);
    assert_int_equal(first, -1);
    features_free(&gen);
    memcpy(a + 40 * DIM, b + 499 * DIM, DIM * sizeof *a);
    memcpy(a + 7 * DIM, b, DIM * sizeof *a);
    memcpy(a + 8 * DIM, b, DIM * sizeof *a);
    memset(a + 9 * DIM, 0, DIM * sizeof *a);
    for (int k = 0; k < DIM; k++) b[3 * DIM + k] = -0.0f;
    features_copy(N, DIM, a, NULL, 0, NULL, "a", &gen);
    features_free(&ref);
    features_copy(N, DIM, b, NULL, 0, NULL, "b", &ref);
    assert_int_equal(rows_in_common(&gen, &ref, &first), 4);
    assert_int_equal(first, 7);
    features_free(&gen);
    features_free(&ref);
}

static void options_change_what_they_name(void **state) {
    (void)state;
    Features ref = golden("normal64_ref"), gen = golden("normal64_gen");
    MetricOptions o = metric_options;
    Metrics m;
    o.bootstrap = 0;
    o.skip = METRIC_FID | METRIC_PRDC | METRIC_PRD | METRIC_MIND;
    o.kid_subsets = true;
    metrics_compute(&gen, &ref, &o, &m);
    // 64 of 64 rows: every subset is all of them.
    assert_true(fabs(m.all.kid.value - 0.16981518875888924) <= 1e-10 && m.all.kid_std <= 1e-10);
    assert_true(isnan(m.all.fid.value) && isnan(m.all.pr3.recall) && isnan(m.all.prd.f8) && isnan(m.all.mind));
    metrics_free(&m);
    o = metric_options;
    o.bootstrap = 0;
    o.strict = false;
    o.skip = METRIC_KID;
    Features copy = golden("normal64_ref");
    metrics_compute(&copy, &ref, &o, &m);
    assert_true(warned(&m, "64 of 64 generated rows are reference rows"));
    assert_true(m.all.pr3.precision == 1 && m.all.pr3.coverage == 1 && isnan(m.all.kid.value));
    metrics_free(&m);
    features_free(&copy);
    features_free(&ref);
    features_free(&gen);
}

static void what_few_rows_leave_out_is_told(void **state) {
    (void)state;
    enum { N = 8 };
    float x[N] = { 0, 1, 4, 9, 5, 3, 3, 5 }, probs[N * 2];
    for (int i = 0; i < N; i++) probs[2 * i] = 0.25f, probs[2 * i + 1] = 0.75f;
    Features gen, ref;
    features_copy(N, 1, x, NULL, 2, probs, "gen", &gen);
    features_copy(N, 1, x, NULL, 0, NULL, "ref", &ref);
    for (int more = 0; more < 2; more++) {                      // as many parts and clusters as rows; one more of each
        Metrics m;
        MetricOptions o = metric_options;
        o.bootstrap = 0, o.splits = N + more, o.prd_clusters = 2 * N + more;
        metrics_compute(&gen, &ref, &o, &m);
        assert_true(warned(&m, "no Inception Score: 8 generated rows for 9 parts") == more);
        assert_true(warned(&m, "no PRD: 16 rows") == more);
        metrics_free(&m);
    }
    features_free(&gen);
    features_free(&ref);
}

static void sorted_labels_are_told(void **state) {
    (void)state;
    enum { N = 40 };
    float x[N * 2], probs[N * 2];
    int32_t sorted[N], mixed[N];
    for (int i = 0; i < N; i++) {
        x[2 * i] = (float)i, x[2 * i + 1] = (float)(i * i % 11);
        probs[2 * i] = 0.25f, probs[2 * i + 1] = 0.75f;
        sorted[i] = i / 20, mixed[i] = i % 2;
    }
    for (int i = 0; i < 3; i++) {
        Features gen, ref;
        Metrics m;
        MetricOptions o = metric_options;
        o.bootstrap = 0, o.classes = 2, o.shuffle = i == 2;
        features_copy(N, 2, x, i == 1 ? mixed : sorted, 2, probs, "gen", &gen);
        features_copy(N, 2, x, mixed, 0, NULL, "ref", &ref);
        metrics_compute(&gen, &ref, &o, &m);
        assert_true(warned(&m, "--is-shuffle mixes them") == (i == 0));
        assert_true(fabs(m.all.is_mean - 1) < 1e-12);           // all rows alike
        metrics_free(&m);
        features_free(&gen);
        features_free(&ref);
    }
}

int main(void) {
    Error err = { 0 };
    if (!linalg_there(&err)) return print_message("skipped: %s\n", err.msg), 0;
    omp_set_num_threads(1);                                     // sets this small gain nothing from a second one
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parity_case), cmocka_unit_test(intervals_and_means_are_written),
        cmocka_unit_test(statistics_in_place_of_features), cmocka_unit_test(the_same_bytes_for_any_number_of_threads),
        cmocka_unit_test(mistakes_are_named), cmocka_unit_test(counts_from_a_list_or_a_file),
        cmocka_unit_test(golden_values), cmocka_unit_test(a_class_is_a_set_of_its_own),
        cmocka_unit_test(small_and_missing_classes), cmocka_unit_test(copies_are_found),
        cmocka_unit_test(options_change_what_they_name), cmocka_unit_test(sorted_labels_are_told),
        cmocka_unit_test(what_few_rows_leave_out_is_told),
    };
    return cmocka_run_group_tests(tests, tempdir_make, tempdir_remove);
}
