// kernels/gemm/gemm_cpu.c - matrix products on the host: one oneDNN product over all threads, or one per thread.
#include <math.h>
#include "kernels/common/onednn.h"
#include "kernels/gemm/gemm.h"

enum { BLOCK = 16 };   // columns of a bias gradient summed at once

// y (m,n) of one matrix: += bias, then the activation.
static void finish_rows(const GemmShape *z, const float *bias, float *y) {
    if (!bias && z->act == ACT_NONE) return;
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < z->m; i++) {
        float *row = y + (int64_t)i * z->ldy;
        for (int j = 0; bias && j < z->n; j++) row[j] += bias[j];
        for (int j = 0; z->act == ACT_SILU && j < z->n; j++) row[j] /= 1.0f + expf(-row[j]);
    }
}

static bool run_matrix(const GemmShape *z, const GemmArgs *a, int64_t i) {
    const float *pa = (const float *)a->a + i * z->batch_a, *pb = (const float *)a->b + i * z->batch_b;
    float *py = (float *)a->y + i * z->batch_y;
    bool ok = onednn_sgemm(z->ta, z->tb, z->m, z->n, z->k, z->alpha, pa, z->lda, pb, z->ldb,
                           a->accumulate ? 1.0f : 0.0f, py, z->ldy);
    finish_rows(z, a->bias, py);
    return ok;
}

// Matrices that follow one another row by row and share b are one tall matrix.
static GemmShape joined(const GemmShape *z) {
    GemmShape one = *z;
    bool tall = !z->ta && z->batch_b == 0 && z->batch_a == (int64_t)z->m * z->lda
        && z->batch_y == (int64_t)z->m * z->ldy && (int64_t)z->m * z->batch <= INT32_MAX;
    if (tall) {
        one.m = z->m * z->batch;
        one.batch = 1;
    }
    return one;
}

static void multiply(Stream *s, const GemmShape *z, const GemmArgs *a, Work w) {
    GemmShape one = joined(z);
    bool ok = true;
    if (one.batch == 1) {
        ok = run_matrix(&one, a, 0);
    } else {
        // a product called from a parallel region runs on the calling thread alone
        #pragma omp parallel for schedule(static) reduction(&& : ok)
        for (int i = 0; i < one.batch; i++) ok = run_matrix(&one, a, i) && ok;
    }
    if (!ok) stream_fail(s, 1, "oneDNN failed to run a matrix product");
}
static bool multiply_can(const GemmShape *z) { return z->in == DT_F32 && z->out == DT_F32; }

// Four chains of rows i mod 4, added in order.
static void bias_sum(Stream *s, const BiasGradShape *z, const BiasGradArgs *a, Work w) {
    #pragma omp parallel for schedule(static)
    for (int j0 = 0; j0 < z->n; j0 += BLOCK) {
        int width = z->n - j0 < BLOCK ? z->n - j0 : BLOCK;
        const float *from = (const float *)a->dy + j0;
        float chain[4][BLOCK] = { { 0 } };
        for (int64_t i = 0; i < z->m; i++)
            for (int j = 0; j < width; j++) chain[i % 4][j] += from[i * z->ldy + j];
        for (int j = 0; j < width; j++) {
            float sum = (chain[0][j] + chain[1][j]) + (chain[2][j] + chain[3][j]);
            a->db[j0 + j] = a->accumulate ? a->db[j0 + j] + sum : sum;
        }
    }
}
static bool bias_can(const BiasGradShape *z) { return z->in == DT_F32; }

IMPLS(gemm_cpu,
    IMPL_FULL(gemm, "onednn", 10, 0, 0, multiply_can, NULL, NULL, multiply, NULL),
    IMPL_FULL(bias_backward, "columns", 10, 0, 0, bias_can, NULL, NULL, bias_sum, NULL))
