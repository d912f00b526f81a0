// kernels/gemm/gemm_ref.c - matrix products by their definition.
//   y[i,j] = act(alpha * sum over l of op(a)[i,l] op(b)[l,j] + bias[j] (+ y[i,j]))
//   db[j]  = sum over i of dy[i,j] (+ db[j])
// The sum runs in acc, act sees the whole of it, y rounds once.
#include "kernels/common/kernel.h"
#include "kernels/common/ref.h"
#include "kernels/gemm/gemm.h"

enum { LANES = 8 };   // columns summed side by side, so that no addition waits for the one before it
static int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

// Scratch: op(a) (m,k), then op(b) as (n / LANES, k, LANES), of one matrix of the batch.
static size_t gemm_scratch(const GemmShape *z) { return sizeof(acc) * (size_t)((z->m + padded(z->n)) * z->k); }

static void load_operands(const GemmShape *z, const GemmArgs *a, int batch, acc *x, acc *w) {
    for (int64_t i = 0; i < z->m; i++) {
        for (int64_t l = 0; l < z->k; l++) {
            int64_t at = z->ta ? l * z->lda + i : i * z->lda + l;
            x[i * z->k + l] = ref_load(a->a, z->in, batch * z->batch_a + at);
        }
    }
    for (int64_t j = 0; j < padded(z->n); j++) {
        for (int64_t l = 0; l < z->k; l++) {
            int64_t at = z->tb ? j * z->ldb + l : l * z->ldb + j;
            w[(j / LANES * z->k + l) * LANES + j % LANES] =
                j < z->n ? ref_load(a->b, z->in, batch * z->batch_b + at) : 0;
        }
    }
}

static void run(Stream *stream, const GemmShape *z, const GemmArgs *a, Work work) {
    acc *x = work.scratch, *w = x + (int64_t)z->m * z->k;
    for (int batch = 0; batch < z->batch; batch++) {
        load_operands(z, a, batch, x, w);
#pragma omp parallel for collapse(2)
        for (int j0 = 0; j0 < z->n; j0 += LANES) {
            for (int i = 0; i < z->m; i++) {
                acc sum[LANES] = { 0 };
                for (int64_t l = 0; l < z->k; l++) {
                    acc v = x[i * (int64_t)z->k + l];
#pragma GCC unroll 8
                    for (int j = 0; j < LANES; j++) sum[j] += v * w[(j0 / LANES * (int64_t)z->k + l) * LANES + j];
                }
                for (int j = j0; j < z->n && j < j0 + LANES; j++) {
                    int64_t at = batch * z->batch_y + (int64_t)i * z->ldy + j;
                    acc v = (acc)z->alpha * sum[j - j0];
                    if (a->bias) v += (acc)a->bias[j];
                    if (a->accumulate) v += ref_load(a->y, z->out, at);
                    ref_store(a->y, z->out, at, z->act == ACT_SILU ? ref_silu(v) : v);
                }
            }
        }
    }
}

static void bias(Stream *stream, const BiasGradShape *z, const BiasGradArgs *a, Work work) {
#pragma omp parallel for
    for (int j = 0; j < z->n; j++) {
        acc sum = 0;
        for (int64_t i = 0; i < z->m; i++) sum += ref_load(a->dy, z->in, i * z->ldy + j);
        a->db[j] = (real)((a->accumulate ? (acc)a->db[j] : 0) + sum);
    }
}

IMPLS(gemm_ref,
    IMPL_SCRATCH(gemm, "loops", gemm_scratch, run),
    IMPL(bias_backward, "loops", bias))
