// tests/test_linalg.c - products and factorizations against plain loops and against what they are defined by.
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "eval/linalg.h"

static double value(int i) { return (double)((i * 7919 + 104729) % 2003) / 2003.0 - 0.5; }

static double *filled(int n, int first) {
    double *a = malloc((size_t)n * sizeof *a);
    for (int i = 0; i < n; i++) a[i] = value(first + i);
    return a;
}

enum { M = 5, N = 7, K = 11, LDC = 9 };

// A sum of K products below 1/4 in any order: off by at most K^2 u / 4 from any other order.
static void products_in_every_orientation(void **state) {
    (void)state;
    double *a = filled(M * K, 1), *b = filled(N * K, 500);
    for (int form = 0; form < 4; form++) {
        bool ta = form & 1, tb = form & 2;
        double c[M * LDC];
        float fa[M * K], fb[N * K], fc[M * LDC];
        for (int i = 0; i < M * K; i++) fa[i] = (float)a[i];
        for (int i = 0; i < N * K; i++) fb[i] = (float)b[i];
        for (int i = 0; i < M * LDC; i++) fc[i] = 3, c[i] = 3;
        linalg_dgemm(ta, tb, M, N, K, 2, a, ta ? M : K, b, tb ? K : N, 0.5, c, LDC);
        linalg_sgemm(ta, tb, M, N, K, 2, fa, ta ? M : K, fb, tb ? K : N, 0.5f, fc, LDC);
        for (int i = 0; i < M; i++)
            for (int j = 0; j < LDC; j++) {
                double want = j < N ? 1.5 : 3;
                for (int k = 0; k < K && j < N; k++)
                    want += 2 * a[ta ? k * M + i : i * K + k] * b[tb ? j * K + k : k * N + j];
                assert_true(fabs(c[i * LDC + j] - want) <= K * K * 0x1p-53);
                assert_true(fabs((double)fc[i * LDC + j] - want) <= K * K * 0x1p-24);
            }
    }
    free(a);
    free(b);
}

// a = sum_i w_i v_i v_i^T with orthonormal v_i. The bound is LAPACK's, n u |a| with a modest constant.
static void eigenvectors_rebuild_the_matrix(void **state) {
    (void)state;
    enum { D = 40 };
    static double a[D * D], v[D * D], alone[D * D];
    double w[D], only[D], bound = D * 10 * 0x1p-53 * D * 0.5;
    for (int i = 0; i < D; i++)
        for (int j = 0; j < D; j++) {
            a[i * D + j] = value(i < j ? i * D + j : j * D + i);
            v[i * D + j] = alone[i * D + j] = j <= i ? a[i * D + j] : (double)NAN;  // the upper part is not read
        }
    linalg_eigen(D, v, w, true);
    linalg_eigen(D, alone, only, false);
    for (int i = 0; i < D; i++) {
        assert_true(fabs(w[i] - only[i]) <= bound);
        if (i) assert_true(w[i] >= w[i - 1]);
        for (int j = 0; j < D; j++) {
            double rebuilt = 0, dot = 0;
            for (int k = 0; k < D; k++) rebuilt += w[k] * v[k * D + i] * v[k * D + j];
            for (int k = 0; k < D; k++) dot += v[i * D + k] * v[j * D + k];
            assert_true(fabs(rebuilt - a[i * D + j]) <= bound);
            assert_true(fabs(dot - (i == j)) <= D * 10 * 0x1p-53);
        }
    }
}

// The squares of the singular values are the eigenvalues of a a^T.
static void singular_values_are_roots_of_the_gram_matrix(void **state) {
    (void)state;
    enum { R = 12, C = 30 };
    static double gram[R * R], eigen[R];
    for (int tall = 0; tall < 2; tall++) {
        double *a = filled(R * C, 77), s[R];
        linalg_dgemm(tall, !tall, R, R, C, 1, a, tall ? R : C, a, tall ? R : C, 0, gram, R);
        linalg_eigen(R, gram, eigen, false);
        linalg_singular(tall ? C : R, tall ? R : C, a, s);
        for (int i = 0; i < R; i++) assert_true(fabs(s[i] * s[i] - eigen[R - 1 - i]) <= R * C * 10 * 0x1p-53);
        free(a);
    }
}

// A piece of work gives the same bits wherever it is called from, and the caller's number of threads comes back.
static void the_same_bits_in_a_parallel_loop(void **state) {
    (void)state;
    enum { D = 200, TIMES = 6 };
    int before = omp_get_max_threads();
    double *a = filled(D * D, 3), *want = malloc(D * D * sizeof *want), *got[TIMES];
    linalg_dgemm(false, true, D, D, D, 1, a, D, a, D, 0, want, D);
    assert_int_equal(omp_get_max_threads(), before);
    for (int i = 0; i < TIMES; i++) got[i] = malloc(D * D * sizeof **got);
    omp_set_num_threads(3);
#pragma omp parallel for schedule(dynamic, 1)
    for (int i = 0; i < TIMES; i++) linalg_dgemm(false, true, D, D, D, 1, a, D, a, D, 0, got[i], D);
    assert_int_equal(omp_get_max_threads(), 3);
    linalg_dgemm(false, true, D, D, D, 1, a, D, a, D, 0, got[0], D);
    omp_set_num_threads(before);
    for (int i = 0; i < TIMES; i++) {
        assert_memory_equal(got[i], want, D * D * sizeof *want);
        free(got[i]);
    }
    free(a);
    free(want);
}

// Products on a device, from a parallel loop, of two shapes that alternate: as near to the exact ones as f32 is, and
// nothing else of c is touched.
static void products_on_a_device(void **state) {
    (void)state;
    static const char *const specs[] = { "ref", "cpu", "emu" };
    enum { TIMES = 8, ROWS = 33, COLUMNS = 20, DEPTH = 50, LD = 24 };
    double *a = filled(ROWS * DEPTH, 3), *b = filled(ROWS * DEPTH, 900);
    float fa[ROWS * DEPTH], fb[ROWS * DEPTH];
    for (int i = 0; i < ROWS * DEPTH; i++) fa[i] = (float)a[i], fb[i] = (float)b[i];
    for (size_t d = 0; d < sizeof specs / sizeof *specs; d++) {
        Error err = { 0 };
        Device *device = device_open(specs[d], &err);
        if (!device) continue;                                  // a build without it
        static float c[TIMES][ROWS * LD];            // on the stack gcc 11 and 13 take it for better aligned
        for (int t = 0; t < TIMES; t++)
            for (int i = 0; i < ROWS * LD; i++) c[t][i] = 3;
        linalg_use(device, 1);
#pragma omp parallel for schedule(dynamic, 1)
        for (int t = 0; t < TIMES; t++)
            linalg_sgemm(false, true, t % 2 ? ROWS : 7, COLUMNS, DEPTH, 2, fa, DEPTH, t < 4 ? fb : fa, DEPTH, 0, c[t],
                         LD);
        linalg_use(NULL, 0);
        device_close(device);
        for (int t = 0; t < TIMES; t++)
            for (int i = 0; i < ROWS; i++)
                for (int j = 0; j < LD; j++) {
                    double want = 0;
                    const float *other = t < 4 ? fb : fa;
                    for (int k = 0; k < DEPTH; k++)
                        want += 2 * (double)fa[i * DEPTH + k] * (double)other[(j < COLUMNS ? j : 0) * DEPTH + k];
                    if (i >= (t % 2 ? ROWS : 7) || j >= COLUMNS) want = 3;
                    assert_true(fabs((double)c[t][i * LD + j] - want) <= DEPTH * DEPTH * 0x1p-24);
                }
    }
    free(a);
    free(b);
}

int main(void) {
    Error err = { 0 };
    if (!linalg_there(&err)) return print_message("skipped: %s\n", err.msg), 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_in_every_orientation),
        cmocka_unit_test(eigenvectors_rebuild_the_matrix),
        cmocka_unit_test(singular_values_are_roots_of_the_gram_matrix),
        cmocka_unit_test(the_same_bits_in_a_parallel_loop), cmocka_unit_test(products_on_a_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
