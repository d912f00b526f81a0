// tests/test_rng.c - the draws: Philox's published answers, our log and sincos against libm, the law of the normals.
//
// Statistical bounds are five standard deviations of the statistic under the law claimed (the draws are fixed, so each
// test either always passes or never does). Nothing here depends on the machine: a compiler that fuses or reorders the
// float arithmetic fails normals_are_these_bits.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include "kernels/common/rng.h"

enum { MILLION = 1000000 };

static void expect_words(Philox r, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    const uint32_t want[4] = { a, b, c, d };
    for (int i = 0; i < 4; i++) assert_int_equal(r.v[i], want[i]);
}
static void expect_within(const char *what, double value, double want, double bound) {
    if (!(fabs(value - want) <= bound)) fail_msg("%s is %.9g, not %.9g +- %.3g", what, value, want, bound);
}

// The known answers that Salmon et al. publish with their library.
static void philox_known_answers(void **unused) {
    (void)unused;
    const uint32_t ones = 0xFFFFFFFFu, zero[2] = { 0, 0 }, full[2] = { ones, ones };
    const uint32_t pi[2] = { 0xA4093822u, 0x299F31D0u };
    expect_words(philox(zero, 0, 0, 0, 0), 0x6627E8D5u, 0xE169C58Du, 0xBC57AC4Cu, 0x9B00DBD8u);
    expect_words(philox(full, ones, ones, ones, ones), 0x408F276Du, 0x41C83B0Eu, 0xA20BC7C6u, 0x6D5451FDu);
    expect_words(philox(pi, 0x243F6A88u, 0x85A308D3u, 0x13198A2Eu, 0x03707344u),
                 0xD16CFE09u, 0x94FDCCEBu, 0x5001E420u, 0x24126EA1u);
}

static int bit_count(uint32_t v) {
    int n = 0;
    for (; v; v &= v - 1) n++;
    return n;
}

// Each bit of seed, block, sample, step and purpose turns half of the 128 bits drawn.
static void every_counter_bit_matters(void **unused) {
    (void)unused;
    enum { TRIALS = 200 };
    for (int bit = 0; bit < 192; bit++) {
        int turned = 0;
        for (uint32_t trial = 0; trial < TRIALS; trial++) {
            uint32_t in[6] = { 11, 12, trial, 2 * trial, 3, 4 };
            Philox before = philox(in, in[2], in[3], in[4], in[5]);
            in[bit / 32] ^= 1u << (bit % 32);
            Philox after = philox(in, in[2], in[3], in[4], in[5]);
            for (int i = 0; i < 4; i++) turned += bit_count(before.v[i] ^ after.v[i]);
        }
        expect_within("bits turned", turned, 64.0 * TRIALS, 5 * sqrt(32.0 * TRIALS));
    }
}

// Spacing of the floats around v.
static double ulp_of(double v) {
    int e;
    frexp(v, &e);
    return ldexp(1, e - 24);
}

// All 2^24 arguments that normals use, and every 61st float of the whole domain: less than one ulp.
static void log_is_accurate(void **unused) {
    (void)unused;
    double worst = 0;
    for (int k = 1; k < 1 << 24; k++) {
        float x = (float)k * 0x1p-24f;
        double want = log((double)x), error = fabs((double)rng_log(x) - want) / ulp_of(want);
        if (error > worst) worst = error;
    }
    for (uint32_t bits = 0x00800000u; bits < 0x3F800000u; bits += 61) {
        float x;
        memcpy(&x, &bits, 4);
        double want = log((double)x), error = fabs((double)rng_log(x) - want) / ulp_of(want);
        if (error > worst) worst = error;
    }
    expect_within("worst error in ulp", worst, 0, 1);
    assert_true(rng_log(1.0f) == 0.0f);
}

// All 2^24 arguments: those within an eighth of a turn of zero against libm, the others are their exact quarter turns.
static void sincos_is_accurate(void **unused) {
    (void)unused;
    double worst = 0, unit = 3.14159265358979323846 / (1 << 23);
    for (int j = -(1 << 21); j < 1 << 21; j++) {
        float s, c;
        rng_sincos((uint32_t)j & 0xFFFFFFu, &s, &c);
        double angle = j * unit, want_s = sin(angle), want_c = cos(angle);
        double error_s = j ? fabs((double)s - want_s) / ulp_of(want_s) : fabs((double)s);
        double error_c = fabs((double)c - want_c) / ulp_of(want_c);
        if (error_s > worst) worst = error_s;
        if (error_c > worst) worst = error_c;
        for (uint32_t quarter = 1; quarter < 4; quarter++) {
            float turned_s, turned_c, before = s;
            s = c;                                             // sin(a + 1/4) = cos a, cos(a + 1/4) = -sin a
            c = -before;
            rng_sincos(((uint32_t)j + (quarter << 22)) & 0xFFFFFFu, &turned_s, &turned_c);
            if (turned_s != s || turned_c != c) fail_msg("k = %d, turned by %u quarters", j, quarter);
        }
    }
    expect_within("worst error in ulp", worst, 0, 2);
}

static float *draw_normals(int n, uint32_t sample, uint32_t step, uint32_t purpose) {
    const uint32_t seed[2] = { 0x243F6A88u, 0x85A308D3u };
    float *z = malloc((size_t)n * sizeof(float));
    assert_non_null(z);
    for (int i = 0; i < n; i += 4) rng_normal4(philox(seed, (uint32_t)i / 4, sample, step, purpose).v, z + i);
    return z;
}

// FNV-1a over the bits of 65536 normals. The value was computed apart from this code, with rational arithmetic rounded
// to float by hand, so it is what the formulas of rng.h define and not what some compiler made of them.
static void normals_are_these_bits(void **unused) {
    (void)unused;
    float *z = draw_normals(65536, 3, 5, 7);
    uint64_t hash = 0xCBF29CE484222325u;
    for (int i = 0; i < 65536; i++) {
        uint32_t bits;
        memcpy(&bits, z + i, 4);
        for (int byte = 0; byte < 4; byte++) hash = (hash ^ (bits >> (8 * byte) & 0xFF)) * 0x100000001B3u;
    }
    if (hash != 0xED295115C1AAF460u) {
        fail_msg("hash %016llx; first draws %a %a %a %a", (unsigned long long)hash, (double)z[0], (double)z[1],
                 (double)z[2], (double)z[3]);
    }
    free(z);
}

static double share_beyond(double z) { return erfc(z / sqrt(2.0)); }      // of |N(0,1)|

static void normals_have_the_moments(void **unused) {
    (void)unused;
    float *z = draw_normals(MILLION, 0, 0, 1);
    double n = MILLION, power[5] = { 0 }, lag = 0, pair = 0, largest = 0;
    const double tail[] = { 1, 2, 3, 4 };
    int beyond[4] = { 0 };
    for (int i = 0; i < MILLION; i++) {
        double v = (double)z[i], p = 1;
        for (int k = 1; k <= 4; k++) power[k] += p *= v;
        if (i) lag += v * (double)z[i - 1];
        if (i % 2) pair += v * v * (double)z[i - 1] * (double)z[i - 1];     // two normals that share a radius
        for (int k = 0; k < 4; k++) beyond[k] += fabs(v) > tail[k];
        if (fabs(v) > largest) largest = fabs(v);
    }
    expect_within("mean", power[1] / n, 0, 5 / sqrt(n));
    expect_within("second moment", power[2] / n, 1, 5 * sqrt(2 / n));
    expect_within("third moment", power[3] / n, 0, 5 * sqrt(15 / n));
    expect_within("fourth moment", power[4] / n, 3, 5 * sqrt(96 / n));
    expect_within("product of neighbours", lag / n, 0, 5 / sqrt(n));
    expect_within("product of squares of a pair", pair / (n / 2), 1, 5 * sqrt(8 / (n / 2)));
    for (int k = 0; k < 4; k++) {
        double p = share_beyond(tail[k]);
        expect_within("tail", beyond[k] / n, p, 5 * sqrt(p * (1 - p) / n));
    }
    expect_within("largest", largest, 0, sqrt(2 * 24 * log(2.0)) + 1e-6);    // of u = 2^-24
    free(z);
}

// A hundred ranges that N(0,1) hits equally often: chi squared with 99 degrees of freedom, mean 99, variance 198.
static void normals_fill_all_percentiles(void **unused) {
    (void)unused;
    float *z = draw_normals(MILLION, 9, 9, 9);
    int hits[100] = { 0 };
    double chi = 0, expected = MILLION / 100.0;
    for (int i = 0; i < MILLION; i++) {
        int bin = (int)(50 * erfc(-(double)z[i] / sqrt(2.0)));
        hits[bin < 99 ? bin : 99]++;
    }
    for (int i = 0; i < 100; i++) chi += (hits[i] - expected) * (hits[i] - expected) / expected;
    expect_within("chi squared", chi, 99, 5 * sqrt(198.0));
    free(z);
}

// Streams that differ in sample, step or purpose alone are uncorrelated, at equal positions and shifted by one.
static void streams_are_independent(void **unused) {
    (void)unused;
    enum { N = 1 << 18 };
    const uint32_t key[][3] = { { 5, 6, 7 }, { 6, 6, 7 }, { 5, 7, 7 }, { 5, 6, 8 }, { 5u + (1u << 31), 6, 7 } };
    float *base = draw_normals(N, key[0][0], key[0][1], key[0][2]);
    for (size_t s = 1; s < sizeof key / sizeof key[0]; s++) {
        float *other = draw_normals(N, key[s][0], key[s][1], key[s][2]);
        double same = 0, shifted = 0;
        for (int i = 0; i + 1 < N; i++) {
            same += (double)base[i] * (double)other[i];
            shifted += (double)base[i] * (double)other[i + 1];
        }
        expect_within("correlation", same / N, 0, 5 / sqrt((double)N));
        expect_within("shifted correlation", shifted / N, 0, 5 / sqrt((double)N));
        free(other);
    }
    free(base);
}

static void dropout_lanes(void **unused) {
    (void)unused;
    const uint32_t words[4] = { 0x00020001u, 0x00040003u, 0x00060005u, 0xFFFF0007u }, seed[2] = { 1, 2 };
    for (int lane = 0; lane < 7; lane++) {                     // lane i holds i + 1
        assert_true(rng_keep(words, lane, (uint32_t)lane + 1));
        assert_false(rng_keep(words, lane, (uint32_t)lane + 2));
    }
    assert_true(rng_keep(words, 7, 65535));
    assert_true(rng_keep(words, 0, 0));
    enum { BLOCKS = 1 << 17 };
    double p = 6554 / 65536.0;
    int kept[8] = { 0 }, neighbours = 0;
    for (uint32_t b = 0; b < BLOCKS; b++) {
        Philox r = philox(seed, b, 3, 4, 300);
        for (int lane = 0; lane < 8; lane++) kept[lane] += rng_keep(r.v, lane, 6554);
        neighbours += !rng_keep(r.v, 0, 6554) && !rng_keep(r.v, 1, 6554);    // the two halves of one word
    }
    for (int lane = 0; lane < 8; lane++) {
        expect_within("kept", kept[lane], (1 - p) * BLOCKS, 5 * sqrt(p * (1 - p) * BLOCKS));
    }
    expect_within("both halves dropped", neighbours, p * p * BLOCKS, 5 * sqrt(p * p * (1 - p * p) * BLOCKS));
}

static void uniforms_and_integers(void **unused) {
    (void)unused;
    const uint32_t seed[2] = { 7, 8 };
    int hits[7] = { 0 };
    double sum = 0, n = 4 * 50000.0;
    assert_true(rng_uniform(0) == 0.0f && rng_uniform(0xFFFFFFFFu) == 1.0f - 0x1p-24f);
    assert_int_equal(rng_below(0xFFFFFFFFu, 7), 6);
    assert_int_equal(rng_below(0, 7), 0);
    assert_int_equal(rng_below(0xFFFFFFFFu, 0xFFFFFFFFu), 0xFFFFFFFEu);
    for (uint32_t b = 0; b < 50000; b++) {
        Philox r = philox(seed, b, 0, 0, 2);
        for (int i = 0; i < 4; i++) {
            hits[rng_below(r.v[i], 7)]++;
            sum += (double)rng_uniform(r.v[i]);
        }
    }
    expect_within("mean of uniforms", sum / n, 0.5, 5 * sqrt(1 / 12.0 / n));
    for (int i = 0; i < 7; i++) expect_within("hits", hits[i], n / 7, 5 * sqrt(n * 6 / 49));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known_answers),         cmocka_unit_test(every_counter_bit_matters),
        cmocka_unit_test(log_is_accurate),              cmocka_unit_test(sincos_is_accurate),
        cmocka_unit_test(normals_are_these_bits),       cmocka_unit_test(normals_have_the_moments),
        cmocka_unit_test(normals_fill_all_percentiles), cmocka_unit_test(streams_are_independent),
        cmocka_unit_test(dropout_lanes),                cmocka_unit_test(uniforms_and_integers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
