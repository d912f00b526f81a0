// kernels/vendor/gemm_cublaslt.cu - matrix products by cuBLASLt: what ours are measured against.
//
// cuBLASLt counts columns first. Read that way, a row-major y (m,n) is y' (n,m), and y' = op(b)' op(a)': so b is its
// first operand and a its second, each as stored, and no data moves. A bias along n is its epilogue where y is f32; for
// a bf16 y it takes a bf16 bias only, which the contract's is not. There, and for SiLU, one kernel of ours goes over y
// afterwards (one more rounding of y than ours); the bench so times the product alone where a row has neither.
// The first algorithm that its heuristic names is taken. Reductions across blocks through output storage, or in place,
// are excluded: the one is less precise than the contract, the other has no order. f32 is full f32.
#include <cublasLt.h>

#include "kernels/common/vector.cuh"
#include "kernels/gemm/gemm.h"
#include "kernels/vendor/library.cuh"

static void *opened() {
    static void *library = library_open(CUBLASLT_FILE, "libcublasLt.so." CUBLASLT_MAJOR);
    return library;
}
#define LT(f) LIBRARY_CALL(opened(), cublasLt##f)

enum { WORKSPACE = 32 << 20 };                           // what NVIDIA advises for Hopper; enough for earlier ones

namespace {
struct Plan {
    cublasLtMatmulDesc_t   product;
    cublasLtMatrixLayout_t first, second, result;        // b, a, y
    cublasLtMatmulAlgo_t   algorithm;
    bool                   bias_fused;
};
}

static cublasLtHandle_t library() {                      // made at the first product, kept until the process ends
    static cublasLtHandle_t handle = NULL;
    if (!handle && (!opened() || LT(Create)(&handle) != CUBLAS_STATUS_SUCCESS)) handle = NULL;
    return handle;
}

static bool can(const GemmShape *z) {
    bool types = z->in == DT_BF16 ? is_stored(z->out) : z->in == DT_F32 && z->out == DT_F32;
    return types && z->m > 0 && z->n > 0 && z->k > 0 && z->batch > 0 && (int64_t)z->m * z->batch < (int64_t)1 << 31;
}
static size_t scratch(const GemmShape *) { return WORKSPACE; }

static void release(void *state) {
    Plan *p = static_cast<Plan *>(state);
    if (!p) return;
    if (p->first) LT(MatrixLayoutDestroy)(p->first);
    if (p->second) LT(MatrixLayoutDestroy)(p->second);
    if (p->result) LT(MatrixLayoutDestroy)(p->result);
    if (p->product) LT(MatmulDescDestroy)(p->product);
    delete p;
}

// ---- preparing; every step answers whether it worked
static bool fine(cublasStatus_t s) { return s == CUBLAS_STATUS_SUCCESS; }

static bool layout(cublasLtMatrixLayout_t *to, DType dt, int64_t rows, int64_t columns, int64_t ld, int batch,
                   int64_t step) {
    return fine(LT(MatrixLayoutCreate)(to, dt == DT_BF16 ? CUDA_R_16BF : CUDA_R_32F, (uint64_t)rows,
                                           (uint64_t)columns, ld)) &&
           fine(LT(MatrixLayoutSetAttribute)(*to, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch)) &&
           fine(LT(MatrixLayoutSetAttribute)(*to, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step));
}

static bool describe(Plan *p, const GemmShape *z, const GemmArgs *a) {
    cublasOperation_t first = z->tb ? CUBLAS_OP_T : CUBLAS_OP_N, second = z->ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    bool ok = fine(LT(MatmulDescCreate)(&p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F)) &&
              fine(LT(MatmulDescSetAttribute)(p->product, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first)) &&
              fine(LT(MatmulDescSetAttribute)(p->product, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second)) &&
              layout(&p->first, z->in, z->tb ? z->k : z->n, z->tb ? z->n : z->k, z->ldb, z->batch, z->batch_b) &&
              layout(&p->second, z->in, z->ta ? z->m : z->k, z->ta ? z->k : z->m, z->lda, z->batch, z->batch_a) &&
              layout(&p->result, z->out, z->n, z->m, z->ldy, z->batch, z->batch_y);
    p->bias_fused = a->bias && z->out == DT_F32;
    if (!ok || !p->bias_fused) return ok;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    return fine(LT(MatmulDescSetAttribute)(p->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue)) &&
           fine(LT(MatmulDescSetAttribute)(p->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &a->bias, sizeof a->bias));
}

// Bytes that p and every row, ld elements apart, and every matrix are multiples of: at most 256.
static uint32_t alignment(const void *p, int64_t ld, int64_t step, DType dt) {
    uint64_t bits = (uint64_t)(uintptr_t)p | (uint64_t)(ld * (int64_t)dtype_size(dt)) |
                    (uint64_t)(step * (int64_t)dtype_size(dt)) | 256;
    return (uint32_t)(bits & (0 - bits));
}

static bool choose(Plan *p, const GemmShape *z, const GemmArgs *a) {
    cublasLtMatmulPreference_t want;
    cublasLtMatmulHeuristicResult_t found = {};
    size_t workspace = WORKSPACE;
    uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    uint32_t first = alignment(a->b, z->ldb, z->batch_b, z->in), second = alignment(a->a, z->lda, z->batch_a, z->in);
    uint32_t result = alignment(a->y, z->ldy, z->batch_y, z->out);
    int count = 0;
    if (!fine(LT(MatmulPreferenceCreate)(&want))) return false;
    auto set = [&](cublasLtMatmulPreferenceAttributes_t name, const void *value, size_t bytes) {
        return fine(LT(MatmulPreferenceSetAttribute)(want, name, value, bytes));
    };
    bool ok = set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace) &&
              set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes) &&
              set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &first, sizeof first) &&
              set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &second, sizeof second) &&
              set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &result, sizeof result) &&
              set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &result, sizeof result) &&
              fine(LT(MatmulAlgoGetHeuristic)(library(), p->product, p->first, p->second, p->result, p->result,
                                                  want, 1, &found, &count)) && count == 1 && fine(found.state);
    LT(MatmulPreferenceDestroy)(want);
    p->algorithm = found.algo;
    return ok;
}

static void *prepare(Stream *, const GemmShape *z, const GemmArgs *a) {
    if (!library()) return NULL;
    Plan *p = new Plan();
    if (describe(p, z, a) && choose(p, z, a)) return p;
    release(p);
    return NULL;
}

// ---- y = act(y + bias): what was not fused
template <typename T, int V> static __global__ void __launch_bounds__(ROW_THREADS)
product_finish_kernel(GemmShape z, T *y, const float *bias) {
    unsigned m = (unsigned)z.m;
    for (ROWS(r, (int64_t)z.m * z.batch)) {
        T *row = y + (int64_t)((unsigned)r / m) * z.batch_y + (int64_t)((unsigned)r % m) * z.ldy;
        for (COLUMNS(j, z.n, V)) {
            Vec<V> v = load_vec<V>(row + j);
            if (bias) {
                Vec<V> terms = load_vec<V>(bias + j);
                for (int l = 0; l < V; l++) v.v[l] += terms.v[l];
            }
            if (z.act == ACT_SILU) {
                for (int l = 0; l < V; l++) v.v[l] = silu_of<T>(v.v[l]);
            }
            store_vec<V>(row + j, v);
        }
    }
}

static void run(Stream *s, const GemmShape *z, const GemmArgs *a, Work w) {
    const Plan *p = static_cast<const Plan *>(w.state);
    if (!p) {
        stream_fail(s, 1, "cuBLASLt does not start, or has no algorithm for this matrix product");
        return;
    }
    float alpha = z->alpha, beta = a->accumulate ? 1.0f : 0.0f;
    cublasStatus_t e = LT(Matmul)(library(), p->product, &alpha, a->b, p->first, a->a, p->second, &beta, a->y,
                                      p->result, a->y, p->result, &p->algorithm, w.scratch, WORKSPACE, stream_cuda(s));
    if (!fine(e)) stream_fail(s, (int)e, LT(GetStatusString)(e));
    const float *bias = p->bias_fused ? NULL : a->bias;
    if (!bias && z->act == ACT_NONE) return;
    bool vector = z->n % 8 == 0 && is_vector(a->y, z->ldy, z->out) && is_vector(a->y, z->batch_y, z->out) &&
                  is_vector(bias, 0, DT_F32);
    by_type(z->out, [&](auto one) {
        using T = decltype(one);
        RowGrid g = row_grid((int64_t)z->m * z->batch, z->n, vector ? 8 : 1);
        if (vector) LAUNCH(s, (product_finish_kernel<T, 8>), g.grid, g.block, 0, *z, static_cast<T *>(a->y), bias);
        else        LAUNCH(s, (product_finish_kernel<T, 1>), g.grid, g.block, 0, *z, static_cast<T *>(a->y), bias);
    });
}

IMPLS(gemm_cublaslt,
    IMPL_FULL(gemm, "cublaslt", -1, 0, 0, can, scratch, prepare, run, release))
