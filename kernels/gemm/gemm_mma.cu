// kernels/gemm/gemm_mma.cu - bf16 matrix products on tensor cores (mma.sync, sm_80 and later): see gemm_mma.cuh.
#include "kernels/gemm/gemm_mma.cuh"

// Rows must start on 16 bytes for cp.async. A view may still begin off them: such an operand is copied by hand. Within
// a matrix offsets are 32-bit.
static bool gemm_mma_can(const GemmShape *z) {
    int64_t rows_a = z->ta ? z->k : z->m, rows_b = z->tb ? z->n : z->k;
    return z->in == DT_BF16 && z->lda % 8 == 0 && z->ldb % 8 == 0 && z->batch_a % 8 == 0 && z->batch_b % 8 == 0
           && (rows_a + 128) * z->lda < INT32_MAX && (rows_b + 128) * z->ldb < INT32_MAX;
}
static void gemm_mma(Stream *s, const GemmShape *z, const GemmArgs *a, Work work) {
    GemmPlan p = gemm_plan(z, a, gemm_scratch(z) ? work.scratch : NULL, 8);
    if (z->ta && z->tb) gemm_mma_launch<true, true>(s, p);
    else if (z->ta) gemm_mma_launch<true, false>(s, p);
    else if (z->tb) gemm_mma_launch<false, true>(s, p);
    else gemm_mma_launch<false, false>(s, p);
}
static void gemm_mma_plan(const GemmShape *z, ImplPlan *told) {
    *told = gemm_tell(z, gemm_splits(z));
}

IMPLS(gemm_mma,
    IMPL_PLANNED(gemm, "mma", 50, 80, 0, gemm_mma_can, gemm_scratch, NULL, gemm_mma, NULL, gemm_mma_plan))
