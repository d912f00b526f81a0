// tests/test_distribution.c - Inception Score, PRD and its k-means, MIND, against plain loops and published numbers.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <omp.h>
#include <string.h>
#include "eval/distribution_impl.h"
#include "eval/linalg.h"
#include "tests/feature_sets.h"

static int setup(void **state) {
    (void)state;
    Error err;
    if (linalg_there(&err)) return 0;
    print_message("%s\n", err.msg);
    return -1;
}

// ---- Inception Score
// By numpy 1.24.2 from the golden sets: p = exp(R - F reversed row by row), normalized, as float32.
static void inception_score_equals_numpy(void **state) {
    (void)state;
    Features ref, gen;
    golden_rows(&ref, &gen);
    float p[64][8];
    for (int i = 0; i < 64; i++) {
        float sum = 0;
        for (int k = 0; k < 8; k++) sum += p[i][k] = expf(ref.x[i * 8 + k] - gen.x[(63 - i) * 8 + k]);
        for (int k = 0; k < 8; k++) p[i][k] /= sum;
    }
    Features f = { .n = 64, .dim = 8, .x = ref.x, .classes = 8, .probs = p[0] };
    double stddev, mean = inception_score(&f, NULL, 64, 10, false, &stddev);
    // The probabilities are off by a few roundings of float, which numpy sums in another order: 8 x 2^-24, times log p.
    assert_true(fabs(mean - 1.3154146981441994) < 1e-5 && fabs(stddev - 0.08717803890297862) < 1e-5);
    mean = inception_score(&f, NULL, 64, 3, false, &stddev);
    assert_true(fabs(mean - 1.3803079937139937) < 1e-5 && fabs(stddev - 0.01651435486628345) < 1e-5);
    mean = inception_score(&f, NULL, 64, 10, true, &stddev);
    assert_true(fabs(mean - 1.315992956836586) < 1e-5 && fabs(stddev - 0.10056634902164319) < 1e-5);
    int64_t backwards[64];
    for (int i = 0; i < 64; i++) backwards[i] = 63 - i;
    double forwards = inception_score(&f, NULL, 64, 4, false, NULL);
    assert_true(fabs(inception_score(&f, backwards, 64, 4, false, NULL) - forwards) < 1e-14);
    assert_true(fabs(inception_score(&f, backwards, 16, 1, false, NULL) - forwards) > 1e-3);
    free((void *)ref.x);
    free((void *)gen.x);
}

static void inception_score_of_certainty(void **state) {
    (void)state;
    float p[6][3] = { { 1, 0, 0 }, { 0, 1, 0 }, { 0, 0, 1 }, { 1, 0, 0 }, { 1, 0, 0 }, { 1, 0, 0 } };
    Features f = { .n = 6, .classes = 3, .probs = p[0] };
    double stddev;
    assert_true(fabs(inception_score(&f, NULL, 3, 1, false, &stddev) - 3) < 1e-15 && stddev == 0);
    assert_true(fabs(inception_score(&f, NULL, 6, 2, false, &stddev) - 2) < 1e-15);      // 3 and 1
    assert_true(fabs(stddev - 1) < 1e-15);
    assert_true(isnan(inception_score(&f, NULL, 1, 2, false, NULL)));                    // an empty part
}

// ---- PRD
static void prd_curve_is_the_published_one(void **state) {
    (void)state;
    static const double ref[4] = { .5, .3, .2, 0 }, gen[4] = { .1, .3, .3, .3 }, apart[4] = { 0, 0, 0, 1 };
    Prd p = prd_of_histograms(ref, gen, 4, 1001);
    assert_true(fabs(p.f8 - 0.9416558783755085) < 1e-12 && fabs(p.f1_8 - 0.6946383867642254) < 1e-12);
    Prd back = prd_of_histograms(gen, ref, 4, 1001);                     // the two change places with the sets
    assert_true(fabs(back.f8 - p.f1_8) < 1e-9 && fabs(back.f1_8 - p.f8) < 1e-9);
    p = prd_of_histograms(ref, ref, 4, 1001);
    assert_true(fabs(p.f8 - 1) < 1e-9 && fabs(p.f1_8 - 1) < 1e-9);
    p = prd_of_histograms(ref, apart, 4, 1001);
    assert_true(p.f8 < 1e-9 && p.f1_8 < 1e-9);
}

static Cloud cloud_of(PairsKind kind, const Features *a, const Features *b) {
    Cloud c;
    cloud_make(kind, all_rows(a), all_rows(b), &c);
    return c;
}

// Probability that k-means++ draws a, then b, then c from points 0, 1, 2, 3 at x[].
static double chance(const double *x, int a, int b, int c) {
    double after_a = 0, after_b = 0, p = 0.25;
    for (int i = 0; i < 4; i++) {
        double d = fabs(x[i] - x[a]), e = fmin(d, fabs(x[i] - x[b]));
        after_a += d * d;
        after_b += e * e;
    }
    double d = fabs(x[b] - x[a]), e = fmin(fabs(x[c] - x[a]), fabs(x[c] - x[b]));
    return p * d * d / after_a * e * e / after_b;
}

// 24 orders; the sum of (seen - expected)^2 / expected has mean 23 and standard deviation sqrt(46): six of them.
static void seeds_are_drawn_by_distance(void **state) {
    (void)state;
    static const double x[4] = { 0, 1, 3, 4.5 };
    enum { DRAWS = 4000 };
    Features a = blank_rows(2, 3), b = blank_rows(2, 3);
    for (int i = 0; i < 4; i++) at_row(i < 2 ? a : b, i % 2)[2] = (float)x[i];
    Cloud c = cloud_of(PAIRS_FLOAT, &a, &b);
    int seen[4][4][4] = { 0 };
    for (uint64_t seed = 0; seed < DRAWS; seed++) {
        float chosen[9];
        int which[3] = { 0 };
        Features centres = { .dim = 3, .x = chosen };
        kmeans_seed(&c, 3, seed, &centres);
        assert_int_equal(centres.n, 3);
        for (int i = 0; i < 3; i++)
            while (x[which[i]] != (double)chosen[3 * i + 2]) which[i]++;
        seen[which[0]][which[1]][which[2]]++;
    }
    double square = 0, total = 0;
    for (int i = 0; i < 64; i++) {
        int p = i / 16, q = i / 4 % 4, r = i % 4;
        double expected = p == q || q == r || p == r ? 0 : DRAWS * chance(x, p, q, r), off = seen[p][q][r] - expected;
        total += expected;
        if (expected == 0) assert_int_equal(seen[p][q][r], 0);
        else square += off * off / expected;
    }
    assert_true(fabs(total - DRAWS) < 1e-6);
    if (square > 23 + 6 * sqrt(46)) fail_msg("chi-square %g of 23 degrees of freedom", square);
    cloud_free(&c);
    free((void *)a.x);
    free((void *)b.x);
}

// Lloyd's iterations as written in a textbook, from the same centres, to the same end. A cluster that lost all of its
// points keeps its centre; *emptied counts how often an update met one.
static int plain_lloyd(Features all, Features centres, int32_t *of, int *emptied) {
    int dim = all.dim, clusters = (int)centres.n, done = 0;
    double *sum = malloc((size_t)clusters * (size_t)dim * sizeof *sum);
    int64_t *size = malloc((size_t)clusters * sizeof *size), changed = all.n;
    for (; changed * 100 > all.n && done < 100; done++) {
        for (int j = 0; done > 0 && j < clusters; j++) {
            *emptied += size[j] == 0;
            for (int k = 0; size[j] > 0 && k < dim; k++)
                at_row(centres, j)[k] = (float)(sum[j * dim + k] / (double)size[j]);
        }
        memset(sum, 0, (size_t)clusters * (size_t)dim * sizeof *sum);
        memset(size, 0, (size_t)clusters * sizeof *size);
        changed = 0;
        for (int64_t i = 0; i < all.n; i++) {
            int32_t nearest = 0;
            double least = (double)INFINITY;
            for (int j = 0; j < clusters; j++) {
                double d2 = row_distance2(at_row(all, i), at_row(centres, j), dim);
                if (d2 < least) {
                    least = d2;
                    nearest = j;
                }
            }
            changed += done == 0 || of[i] != nearest;
            of[i] = nearest;
            size[nearest]++;
            for (int k = 0; k < dim; k++) sum[nearest * dim + k] += (double)at_row(all, i)[k];
        }
    }
    free(sum);
    free(size);
    return done;
}

static void kmeans_equals_the_textbook(void **state) {
    (void)state;
    static const struct { int n, m, dim, clusters; } sizes[] = {
        { 70, 1, 2, 3 }, { 300, 333, 5, 40 }, { 1, 90, 30, 90 }, { 500, 700, 12, 7 }, { 900, 100, 1, 9 },
        { 600, 700, 2, 15 } };
    int longest = 0, emptied = 0;
    for (int shape = 0; shape < TINY_AMONG_LARGE; shape++) {       // of the last, sums depend on the order
        for (size_t z = 0; z < sizeof sizes / sizeof sizes[0]; z++) {
            int n = sizes[z].n, m = sizes[z].m, dim = sizes[z].dim, iterations;
            Features a = hard_rows(shape, 1, n, dim), b = hard_rows(shape, 2, m, dim), all = blank_rows(n + m, dim);
            memcpy(at_row(all, 0), a.x, (size_t)n * (size_t)dim * sizeof(float));
            memcpy(at_row(all, n), b.x, (size_t)m * (size_t)dim * sizeof(float));
            int32_t *of = malloc((size_t)(n + m) * sizeof *of), *plain = malloc((size_t)(n + m) * sizeof *plain);
            for (uint64_t seed = 0; seed < 8; seed++) {
                PairsKind kind = seed % 2 ? PAIRS_DOUBLE : PAIRS_FLOAT;
                Cloud c = cloud_of(kind, &a, &b);
                Features centres = blank_rows(sizes[z].clusters, dim);
                kmeans_seed(&c, sizes[z].clusters, seed, &centres);
                assert_int_equal(kmeans(&c, sizes[z].clusters, seed, of, &iterations), centres.n);
                int plain_iterations = plain_lloyd(all, centres, plain, &emptied);
                if (plain_iterations != iterations)
                    fail_msg("%s: %d iterations, plainly %d", shape_names[shape], iterations, plain_iterations);
                assert_memory_equal(of, plain, (size_t)(n + m) * sizeof *of);
                if (iterations > longest) longest = iterations;
                free((void *)centres.x);
                cloud_free(&c);
            }
            free(of);
            free(plain);
            free((void *)a.x);
            free((void *)b.x);
            free((void *)all.x);
        }
    }
    assert_true(longest >= 10);                  // else the bounds that pass over points were not tried
}

// On a line, from centres at -4, 0, 20.5 and 30. The second cluster is {0, 10}, its mean 5, and the means of its
// neighbours, -2.7 and 13.7, lie nearer to both: it is empty. Then the third, whose neighbour's mean has moved to 38.7,
// takes in 26 and moves to 15.4: 10 comes back to 5, where the centre was kept.
static void an_emptied_cluster_keeps_its_centre(void **state) {
    (void)state;
    enum { POINTS = 11, CLUSTERS = 4, SEED = 3439 };                // a seed that draws these centres
    static const float x[POINTS] = { -4, -2.1f, -2.1f, 0, 10, 10.3f, 10.3f, 20.5f, 26, 30, 60 };
    Features a = { .n = POINTS, .dim = 1, .x = x }, none = { .dim = 1, .x = x };
    for (int kind = PAIRS_FLOAT; kind <= PAIRS_DOUBLE; kind++) {
        int32_t of[POINTS], plain[POINTS];
        int emptied = 0, iterations;
        Cloud c = cloud_of((PairsKind)kind, &a, &none);
        Features centres = blank_rows(CLUSTERS, 1);
        kmeans_seed(&c, CLUSTERS, SEED, &centres);
        assert_int_equal(kmeans(&c, CLUSTERS, SEED, of, &iterations), CLUSTERS);
        assert_int_equal(plain_lloyd(a, centres, plain, &emptied), iterations);
        assert_memory_equal(of, plain, sizeof of);
        assert_int_equal(emptied, 1);
        assert_true(of[4] != of[3] && of[4] != of[7]);              // 10 lies with neither neighbour in the end
        cloud_free(&c);
        free((void *)centres.x);
    }
}

static void copies_make_fewer_clusters(void **state) {
    (void)state;
    Normals z;
    normals_seed(&z, 6);
    Features three_rows = normal_rows(&z, 3, 40, 1, 3), a = blank_rows(30, 40), b = blank_rows(20, 40);
    for (int i = 0; i < 30; i++) memcpy(at_row(a, i), at_row(three_rows, i % 3), 40 * sizeof(float));
    for (int i = 0; i < 20; i++) memcpy(at_row(b, i), at_row(three_rows, 0), 40 * sizeof(float));
    for (int kind = PAIRS_FLOAT; kind <= PAIRS_DOUBLE; kind++) {
        Cloud c = cloud_of(kind, &a, &b);
        int32_t of[50];
        assert_int_equal(kmeans(&c, 8, 0, of, NULL), 3);
        for (int i = 0; i < 30; i++) assert_int_equal(of[i], of[i % 3]);
        for (int i = 30; i < 50; i++) assert_int_equal(of[i], of[0]);
        cloud_free(&c);
    }
    Prd p = prd(all_rows(&a), all_rows(&b), 8, 2, 1001, 0);                    // histograms (1,1,1)/3 and (1,0,0)
    static const double three[3] = { 1.0 / 3, 1.0 / 3, 1.0 / 3 }, one[3] = { 1, 0, 0 };
    Prd want = prd_of_histograms(three, one, 3, 1001);
    assert_true(fabs(p.f8 - want.f8) < 1e-12 && fabs(p.f1_8 - want.f1_8) < 1e-12 && p.f8_std < 1e-12);
    free((void *)three_rows.x);
    free((void *)a.x);
    free((void *)b.x);
}

// Precision and recall of the published picture: generated rows that miss a mode cost recall, those that add one cost
// precision; F_8 weighs recall.
static void prd_tells_a_missing_mode_from_an_added_one(void **state) {
    (void)state;
    Normals z;
    normals_seed(&z, 3);
    Features ref = blank_rows(800, 10), one = blank_rows(700, 10);             // modes 0 and 1; 0 alone
    for (int64_t i = 0; i < 800 * 10; i++) at_row(ref, 0)[i] = (float)normal(&z) + (i / 10 % 2 ? 20 : 0);
    for (int64_t i = 0; i < 700 * 10; i++) at_row(one, 0)[i] = (float)normal(&z);
    Prd missing = prd(all_rows(&ref), all_rows(&one), 2, 5, 1001, 0);
    static const double half[2] = { .5, .5 }, first[2] = { 1, 0 };
    Prd want = prd_of_histograms(half, first, 2, 1001);
    assert_true(fabs(missing.f8 - want.f8) < 1e-12 && fabs(missing.f1_8 - want.f1_8) < 1e-12);
    assert_true(missing.f8 < 0.6 && missing.f1_8 > 0.95);
    Prd added = prd(all_rows(&one), all_rows(&ref), 2, 5, 1001, 0);
    assert_true(added.f8 > 0.95 && added.f1_8 < 0.6);
    Prd many = prd(all_rows(&ref), all_rows(&ref), 20, 3, 1001, 9);
    assert_true(many.f8 > 1 - 1e-9 && many.f1_8 > 1 - 1e-9);
    Prd varied = prd(all_rows(&ref), all_rows(&one), 20, 3, 1001, 9);
    assert_true(varied.f8_std > 0 && isnan(prd((Rows){ &ref, NULL, 0 }, all_rows(&one), 2, 1, 11, 0).f8));
    free((void *)ref.x);
    free((void *)one.x);
}

// ---- MIND
// Shifting a set by a vector v moves every projection by v.u: the mean over directions of 3 dim (v.u)^2 is 3 |v|^2,
// with a variance of 9 |v|^4 (3 dim / (dim + 2) - 1) < 18 |v|^4 for each direction; five standard deviations of it.
static void mind_of_a_shift(void **state) {
    (void)state;
    Normals z;
    normals_seed(&z, 8);
    Features a = blank_rows(90, 24), b = blank_rows(90, 24);
    double square = 0;
    for (int i = 0; i < 90 * 24; i++) at_row(a, 0)[i] = 512 + (float)mt19937_interval(&z.m, 64);
    for (int i = 0; i < 90 * 24; i++) at_row(b, 0)[i] = a.x[i] + (float)(i % 24 % 4);
    for (int k = 0; k < 24; k++) square += k % 4 * (k % 4);
    enum { DIRECTIONS = 1000 };
    double m = mind(all_rows(&a), all_rows(&b), DIRECTIONS, 1);
    assert_true(fabs(m - 3 * square) < 5 * square * sqrt(18.0 / DIRECTIONS));
    assert_true(m != mind(all_rows(&a), all_rows(&b), DIRECTIONS, 2));
    assert_true(mind(all_rows(&a), all_rows(&a), 200, 1) == 0);
    // The order of rows does not count, but that OpenBLAS may round a row by its place: two sums of 24 terms of at most
    // 64 times a coordinate, those of a direction at most sqrt(24) together.
    int64_t mixed[90];
    for (int i = 0; i < 90; i++) mixed[i] = (i * 7 + 5) % 90;
    double off = 2 * 24 * 0x1p-24 * 64 * sqrt(24);
    assert_true(mind(all_rows(&a), (Rows){ &a, mixed, 90 }, 200, 1) <= 3 * 24 * off * off);
    free((void *)a.x);
    free((void *)b.x);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// In one dimension every direction is +1 or -1: 3 times the mean squared difference of the sorted sets, for any seed.
static void mind_of_one_dimension(void **state) {
    (void)state;
    Normals z;
    normals_seed(&z, 4);
    enum { N = 1111 };
    Features a = blank_rows(N, 1), b = blank_rows(N, 1);
    double of_a[N], of_b[N], sum = 0;
    for (int i = 0; i < N; i++) {
        of_a[i] = (double)(at_row(a, i)[0] = (float)mt19937_interval(&z.m, 4000) / 16 - 60);
        of_b[i] = (double)(at_row(b, i)[0] = (float)(int)(normal(&z) * 500));
    }
    qsort(of_a, N, sizeof *of_a, by_value);
    qsort(of_b, N, sizeof *of_b, by_value);
    for (int i = 0; i < N; i++) sum += (of_a[i] - of_b[i]) * (of_a[i] - of_b[i]);
    double want = 3 * sum / N, m = mind(all_rows(&a), all_rows(&b), 3, 77);
    // Rows less their centre are rounded to float: each difference is off by 2^-23 of values below 4096.
    assert_true(fabs(m - want) < 1e-5 * want && want > 1);
    free((void *)a.x);
    free((void *)b.x);
}

static void mind_takes_as_many_of_the_larger_set(void **state) {
    (void)state;
    Normals z;
    normals_seed(&z, 5);
    Features a = normal_rows(&z, 400, 3, 1, 0), b = normal_rows(&z, 100, 3, 1, 1);
    double m = mind(all_rows(&a), all_rows(&b), 50, 9), turned = mind(all_rows(&b), all_rows(&a), 50, 9);
    assert_true(m == turned && m > 0);
    int64_t order[400];
    Mt19937 draw;
    mt19937_seed(&draw, 9);
    rows_draw(&draw, all_rows(&a), order, 100);
    assert_true(fabs(m - mind((Rows){ &a, order, 100 }, all_rows(&b), 50, 9)) < 1e-9 * m);
    assert_true(fabs(m - mind((Rows){ &a, NULL, 100 }, all_rows(&b), 50, 9)) > 1e-3 * m);
    assert_true(isnan(mind((Rows){ &a, NULL, 0 }, all_rows(&b), 50, 9)));
    free((void *)a.x);
    free((void *)b.x);
}

// ---- threads
static void threads_change_nothing(void **state) {
    (void)state;
    Features a = hard_rows(SMOOTH, 11, 700, 20), b = hard_rows(SMOOTH, 12, 600, 20);
    int before = omp_get_max_threads();
    omp_set_num_threads(1);
    Prd p = prd(all_rows(&a), all_rows(&b), 100, 2, 101, 3);
    double m = mind(all_rows(&a), all_rows(&b), 300, 3);
    for (int threads = 2; threads < 6; threads++) {
        omp_set_num_threads(threads);
        Prd q = prd(all_rows(&a), all_rows(&b), 100, 2, 101, 3);
        assert_memory_equal(&p, &q, sizeof p);
        assert_true(m == mind(all_rows(&a), all_rows(&b), 300, 3));
    }
    omp_set_num_threads(before);
    free((void *)a.x);
    free((void *)b.x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inception_score_equals_numpy), cmocka_unit_test(inception_score_of_certainty),
        cmocka_unit_test(prd_curve_is_the_published_one), cmocka_unit_test(seeds_are_drawn_by_distance),
        cmocka_unit_test(kmeans_equals_the_textbook),
        cmocka_unit_test(an_emptied_cluster_keeps_its_centre), cmocka_unit_test(copies_make_fewer_clusters),
        cmocka_unit_test(prd_tells_a_missing_mode_from_an_added_one), cmocka_unit_test(mind_of_a_shift),
        cmocka_unit_test(mind_of_one_dimension), cmocka_unit_test(mind_takes_as_many_of_the_larger_set),
        cmocka_unit_test(threads_change_nothing),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
