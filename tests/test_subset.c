// tests/test_subset.c - numpy's generator and the published long-tailed subsets, index for index; index files.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "core/file.h"
#include "train/data_formats.h"

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/cbdm-subset-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char *file = path_join(folder, "indices.txt");
    unlink(file);
    free(file);
    return rmdir(folder);
}

// ---- the generator, against facts about numpy and the C++ standard's mt19937
static void generator_equals_numpy(void **state) {
    (void)state;
    Mt19937 m;
    mt19937_seed(&m, 5489);
    uint32_t v = 0;
    for (int i = 0; i < 10000; i++) v = mt19937_next(&m);
    assert_int_equal(v, 4123659995u);
    int64_t x[10];
    static const int64_t permutation[10] = { 2, 8, 4, 9, 1, 6, 7, 3, 0, 5 };
    for (int i = 0; i < 10; i++) x[i] = i;
    mt19937_seed(&m, 0);
    mt19937_shuffle(&m, x, 10);
    assert_memory_equal(x, permutation, sizeof x);
    mt19937_seed(&m, 0);
    static const double sample[3] = { 0.5488135, 0.7151894, 0.6027634 };       // to the 7 digits that numpy prints
    for (int i = 0; i < 3; i++) {
        double d = mt19937_double(&m) - sample[i];
        assert_true(d < 0.5e-7 && d > -0.5e-7);
    }
}

static void interval_of_zero_draws_nothing(void **state) {
    (void)state;
    Mt19937 a, b;
    mt19937_seed(&a, 3);
    mt19937_seed(&b, 3);
    assert_int_equal(mt19937_interval(&a, 0), 0);
    assert_int_equal(mt19937_interval(&a, UINT32_MAX), mt19937_next(&b));
    for (int i = 0; i < 1000; i++) assert_true(mt19937_interval(&a, 5) <= 5);
}

// ---- the published subsets
typedef struct {
    int classes;
    double factor;
    int64_t total, tail;
    const char *lines;         // first 16 digits of the SHA-256 of the lines "class ordinal"
    const char *ranks;         // SHA-256 of the ordinals as u16, little endian; NULL: not published
} Published;
static const Published published[] = {
    { 10, 0.01, 12406, 50, "38af35d02e6cc3a2", "056046e7c665b79957d111dddd5074cc1b98fc4f3a79976b096b0ff3208e4308" },
    { 10, 0.02, 13996, 100, "bcc2943394be85a1", "9faf5290af077a81f44d203fdcd4e0533f1f68e60475768c6e0a41119879dae1" },
    { 10, 0.1, 20431, 500, "fe783a191d534269", "a9bbf8a46c0ca9e6d9d5dfea44fe5c2d50291ea83a683ac468591549c3df2924" },
    { 10, 0.005, 11203, 25, "bf19264a12dbf8be", NULL },
    { 10, 0.001, 9324, 5, "776f059988b73bb2", "972f867b7bd1b0e0ff6b85434727632c7069d5c0fbf47683d5f76d8220609780" },
    { 100, 0.01, 10847, 5, "13b05738ff035b2c", "d3a4c77ebc496731477d14b08907a59b7efe500aadb5cc6591eab07fd9b20462" },
    { 100, 0.02, 12608, 10, "c43ac6f823cc7e0d", "955c2f2419afaefe04577fee55d25e944251ae96e362e5b984d852296166555c" },
    { 100, 0.1, 19573, 50, "5dbf9734ada0ea92", "70ce92ac8466dcaaf5b32a0d2af6333a0133fc4a0b2be2fb728bdee2697cfd22" },
    { 100, 0.005, 9502, 2, "84e5233001f27ef6", NULL },
    { 100, 0.001, 7361, 0, "9d3be723e1532047", NULL },
};

static void published_subsets_index_for_index(void **state) {
    (void)state;
    static const int64_t first[2][2][8] = {        // [10 or 100 classes][class 0 or 1]
        { { 398, 3833, 4836, 4572, 636, 2545, 1161, 2230 }, { 597, 332, 521, 3935, 4800, 1102, 4304, 1826 } },
        { { 90, 254, 283, 445, 461, 15, 316, 489 }, { 277, 307, 436, 88, 261, 57, 413, 459 } } };
    static const int64_t last[2][5] = { { 2204, 3816, 2206, 2507, 1926 }, { 348, 153, 363, 361, 299 } };
    for (size_t k = 0; k < sizeof published / sizeof *published; k++) {
        const Published *p = &published[k];
        int64_t want[100], have[100], total = 0;
        Error err;
        assert_true(subset_counts(IMB_EXP, p->factor, p->classes, 50000, want, &err));
        for (int c = 0; c < p->classes; c++) {
            have[c] = 50000 / p->classes;
            total += want[c];
        }
        assert_int_equal(total, p->total);
        assert_int_equal(want[0], have[0]);
        assert_int_equal(want[p->classes - 1], p->tail);
        int64_t *ordinal = malloc((size_t)total * sizeof *ordinal);
        assert_int_equal(subset_ordinals(have, want, p->classes, 0, ordinal), total);
        int large = p->classes == 100;
        assert_memory_equal(ordinal, first[large][0], sizeof first[0][0]);
        assert_memory_equal(ordinal + want[0], first[large][1], sizeof first[0][0]);
        if (p->tail >= 5) assert_memory_equal(ordinal + total - p->tail, last[large], sizeof last[0]);

        char *text = malloc((size_t)total * 16), hex[65];
        uint8_t *ranks = malloc((size_t)total * 2);
        size_t n = 0, at = 0;
        for (int c = 0; c < p->classes; c++) {
            for (int64_t i = 0; i < want[c]; i++, at++) {
                n += (size_t)sprintf(text + n, "%d %d\n", c, (int)ordinal[at]);
                ranks[2 * at] = (uint8_t)(ordinal[at] & 255);
                ranks[2 * at + 1] = (uint8_t)(ordinal[at] >> 8);
            }
        }
        sha256(text, n, hex);
        assert_memory_equal(hex, p->lines, 16);
        sha256(ranks, 2 * at, hex);
        if (p->ranks) assert_string_equal(hex, p->ranks);
        free(ranks);
        free(text);
        free(ordinal);
    }
}

static void published_counts(void **state) {
    (void)state;
    static const int64_t ten_01[10] = { 5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50 };
    static const int64_t ten_001[10] = { 5000, 2320, 1077, 500, 232, 107, 50, 23, 10, 5 };
    static const int64_t hundred_01[6] = { 500, 477, 455, 434, 415, 396 };
    int64_t n[200], total = 0;
    Error err;
    assert_true(subset_counts(IMB_EXP, 0.01, 10, 50000, n, &err));
    assert_memory_equal(n, ten_01, sizeof ten_01);
    assert_true(subset_counts(IMB_EXP, 0.001, 10, 50000, n, &err));
    assert_memory_equal(n, ten_001, sizeof ten_001);
    assert_true(subset_counts(IMB_EXP, 0.01, 100, 50000, n, &err));
    assert_memory_equal(n, hundred_01, sizeof hundred_01);
    assert_true(subset_counts(IMB_EXP, 0.01, 200, 100000, n, &err));           // TinyImageNet200-LT
    for (int c = 0; c < 200; c++) total += n[c];
    assert_int_equal(total, 21549);
    assert_true(subset_counts(IMB_STEP, 0.01, 10, 50000, n, &err));
    for (int c = 0; c < 10; c++) assert_int_equal(n[c], c < 5 ? 5000 : 50);
    assert_true(subset_counts(IMB_NONE, 0.01, 10, 50000, n, &err));
    for (int c = 0; c < 10; c++) assert_int_equal(n[c], 5000);
    assert_true(subset_counts(IMB_EXP, 0.01, 1, 7, n, &err));
    assert_int_equal(n[0], 7);
}

// After the split the published code goes on with the same stream: its first balancing labels pin the stream's place.
static void stream_goes_on_after_the_split(void **state) {
    (void)state;
    static const int by_share[16] = { 2, 1, 0, 0, 2, 1, 1, 0, 1, 2, 0, 1, 1, 1, 1, 1 };
    static const int uniform[16] = { 6, 0, 0, 2, 0, 6, 1, 4, 3, 8, 8, 1, 2, 4, 0, 8 };
    int64_t count[10], total = 0, order[5000];
    Error err;
    assert_true(subset_counts(IMB_EXP, 0.01, 10, 50000, count, &err));
    for (int c = 0; c < 10; c++) total += count[c];
    Mt19937 m, copy;
    mt19937_seed(&m, 0);
    for (int c = 0; c < 10; c++) {
        for (int i = 0; i < 5000; i++) order[i] = i;
        mt19937_shuffle(&m, order, 5000);
    }
    copy = m;
    double cdf[10], sum = 0;
    for (int c = 0; c < 10; c++) cdf[c] = sum += (double)((float)count[c] / (float)total);
    for (int i = 0; i < 16; i++) {
        double u = mt19937_double(&m);
        int c = 0;
        while (c < 9 && cdf[c] / sum <= u) c++;
        assert_int_equal(c, by_share[i]);
    }
    for (int i = 0; i < 16; i++) assert_int_equal(mt19937_interval(&copy, 9), uniform[i]);
}

static void senseless_requests_are_refused(void **state) {
    (void)state;
    static const double factors[] = { 0, -1, 1.5, (double)NAN };
    int64_t n[10];
    for (size_t i = 0; i < sizeof factors / sizeof *factors; i++) {
        Error err = { 0 };
        assert_false(subset_counts(IMB_EXP, factors[i], 10, 50000, n, &err));
        assert_int_equal(err.code, ERR_USAGE);
        assert_non_null(strstr(err.msg, "--imb-factor"));
    }
    Error err = { 0 };
    assert_false(subset_counts(IMB_EXP, 0.1, 0, 50000, n, &err));
    assert_false(subset_counts(IMB_EXP, 0.1, 10, 9, n, &err));
    assert_int_equal(err.code, ERR_USAGE);
}

// ---- subsets of a set
// 600 images of 1 x 2 grey pixels in 3 classes, labels in no order; the pixels hold the number of the image.
static Dataset *numbered(void) {
    Error err;
    Dataset *d = dataset_new("test", "numbers", 3, 1, 1, 2, 600, &err);
    assert_non_null(d);
    for (int i = 0; i < 600; i++) {
        d->labels[i] = i * i % 7 % 3;
        d->images[2 * i] = (uint8_t)(i & 255);
        d->images[2 * i + 1] = (uint8_t)(i >> 8);
    }
    return dataset_finish(d);
}

static int number_of(const DatasetInfo *z, int64_t i) { return z->images[2 * i] | z->images[2 * i + 1] << 8; }

static void subset_takes_the_right_images(void **state) {
    (void)state;
    Error err;
    Dataset *all = numbered();
    const DatasetInfo *a = dataset_info(all);
    int64_t want[3], *out = malloc(600 * sizeof *out);
    assert_true(subset_counts(IMB_EXP, 0.1, 3, 600, want, &err));
    int64_t n = subset_ordinals(a->per_class, want, 3, 9, out);
    Dataset *part = dataset_subset(numbered(), IMB_EXP, 0.1, 9, &err);
    assert_non_null(part);
    const DatasetInfo *z = dataset_info(part);
    assert_int_equal(z->count, n);
    assert_true(n < 600);
    int64_t at = 0;
    for (int c = 0; c < 3; c++) {
        assert_int_equal(z->per_class[c], want[c] < a->per_class[c] ? want[c] : a->per_class[c]);
        for (int64_t i = 0; i < z->per_class[c]; i++, at++) {
            assert_int_equal(z->labels[at], c);
            // The ordinal-th image of the class, counted in file order.
            int number = 0;
            for (int64_t seen = 0; number < 600; number++) {
                if (a->labels[number] == c && seen++ == out[at]) break;
            }
            assert_int_equal(number_of(z, at), number);
        }
    }
    assert_int_equal(at, n);
    assert_string_not_equal(z->digest, a->digest);
    dataset_close(part);
    dataset_close(all);
    free(out);
}

static void no_imbalance_leaves_the_set_alone(void **state) {
    (void)state;
    Error err;
    Dataset *d = numbered();
    assert_ptr_equal(dataset_subset(d, IMB_NONE, 0.1, 0, &err), d);
    dataset_close(d);
    assert_null(dataset_subset(numbered(), IMB_EXP, 2, 0, &err));
    assert_int_equal(err.code, ERR_USAGE);
}

static void index_files_round_trip(void **state) {
    (void)state;
    Error err = { 0 };
    char *path = path_join(folder, "indices.txt"), digest[65];
    Dataset *d = dataset_subset(numbered(), IMB_STEP, 0.05, 4, &err);
    assert_non_null(d);
    strcpy(digest, dataset_info(d)->digest);
    assert_true(dataset_write_indices(d, path, &err));
    dataset_close(d);
    d = dataset_subset_file(numbered(), path, &err);
    if (!d) fail_msg("%s", err.msg);
    assert_string_equal(dataset_info(d)->digest, digest);
    dataset_close(d);
    free(path);
}

static void index_files_that_are_wrong_are_refused_by_line(void **state) {
    (void)state;
    static const struct { const char *text, *words; } bad[] = {
        { "", "names no image" }, { "# nothing\n\n", "names no image" },
        { "0 1\n0\n", "line 2: no ordinal" }, { "x 1\n", "line 1: no class" }, { "0 1\n0 1\n", "line 2: an image" },
        { "0 1 2\n", "line 1: more than two" }, { "3 0\n", "line 1: a class" }, { "0 600\n", "line 1: an ordinal" },
        { "-1 0\n", "line 1: no class" }, { "0 -1\n", "line 1: no ordinal" }, { "0 99999999999999999999\n", "ordinal" },
        { "99999999999999999999 0\n", "line 1: a class" }, { "0 1x\n", "line 1: more than" }, { "0\t\n", "no ordinal" },
    };
    char *path = path_join(folder, "indices.txt");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Error err = { 0 };
        assert_true(file_write_text(path, bad[i].text, &err));
        assert_null(dataset_subset_file(numbered(), path, &err));
        assert_int_equal(err.code, ERR_FILE);
        if (!strstr(err.msg, bad[i].words)) fail_msg("\"%s\" does not say \"%s\"", err.msg, bad[i].words);
        assert_non_null(strstr(err.msg, "indices.txt"));
    }
    Error err = { 0 };
    assert_true(file_write_text(path, "# two images\n\t2 0\r\n\n 0 3 # the fourth", &err));
    Dataset *d = dataset_subset_file(numbered(), path, &err);
    if (!d) fail_msg("%s", err.msg);
    assert_int_equal(dataset_info(d)->count, 2);
    assert_int_equal(dataset_info(d)->labels[0], 2);
    dataset_close(d);
    unlink(path);
    assert_null(dataset_subset_file(numbered(), path, &err));
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(generator_equals_numpy), cmocka_unit_test(interval_of_zero_draws_nothing),
        cmocka_unit_test(published_subsets_index_for_index), cmocka_unit_test(published_counts),
        cmocka_unit_test(stream_goes_on_after_the_split), cmocka_unit_test(senseless_requests_are_refused),
        cmocka_unit_test(subset_takes_the_right_images), cmocka_unit_test(no_imbalance_leaves_the_set_alone),
        cmocka_unit_test(index_files_round_trip), cmocka_unit_test(index_files_that_are_wrong_are_refused_by_line),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
