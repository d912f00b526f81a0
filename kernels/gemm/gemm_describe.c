// kernels/gemm/gemm_describe.c - what the structs of the matrix product hold.
#include "kernels/common/describe.h"
#include "kernels/gemm/gemm.h"

// ---- gemm
static const Field gemm_fields[] = {
    FIELD(GemmShape, m, FIELD_INT), FIELD(GemmShape, n, FIELD_INT), FIELD(GemmShape, k, FIELD_INT),
    FIELD(GemmShape, batch, FIELD_INT), FIELD(GemmShape, ta, FIELD_BOOL), FIELD(GemmShape, tb, FIELD_BOOL),
    FIELD(GemmShape, lda, FIELD_INT), FIELD(GemmShape, ldb, FIELD_INT), FIELD(GemmShape, ldy, FIELD_INT),
    FIELD(GemmShape, batch_a, FIELD_I64), FIELD(GemmShape, batch_b, FIELD_I64), FIELD(GemmShape, batch_y, FIELD_I64),
    FIELD(GemmShape, alpha, FIELD_FLOAT), FIELD(GemmShape, act, FIELD_ACT), FIELD(GemmShape, in, FIELD_DTYPE),
    FIELD(GemmShape, out, FIELD_DTYPE), FIELD_END,
};
static const Field gemm_args[] = { FIELD(GemmArgs, accumulate, FIELD_BOOL), FIELD_END };

static void gemm_complete(void *shape) {
    GemmShape *z = shape;
    if (!z->batch) z->batch = 1;
    if (!z->lda) z->lda = z->ta ? z->m : z->k;
    if (!z->ldb) z->ldb = z->tb ? z->k : z->n;
    if (!z->ldy) z->ldy = z->n;
    if (!z->batch_y) z->batch_y = (int64_t)z->m * z->ldy;
    if (z->alpha == 0) z->alpha = 1;
}
// A batch stride of 0 means that all products share the matrix.
static void gemm_arrays(const void *shape, Arrays *l) {
    const GemmShape *z = shape;
    ArrayType in = array_type(z->in);
    Array *a = array_add(l, "a", offsetof(GemmArgs, a), ARRAY_IN, in,
                         DIMS(z->batch_a ? z->batch : 1, z->ta ? z->k : z->m, z->ta ? z->m : z->k));
    a->ld = z->lda;
    a->batch_pitch = z->batch_a;
    Array *b = array_add(l, "b", offsetof(GemmArgs, b), ARRAY_IN, in,
                         DIMS(z->batch_b ? z->batch : 1, z->tb ? z->n : z->k, z->tb ? z->k : z->n));
    b->ld = z->ldb;
    b->batch_pitch = z->batch_b;
    array_add(l, "bias", offsetof(GemmArgs, bias), ARRAY_IN, TYPE_F32, DIMS(z->n))->optional = true;
    Array *y = array_add(l, "y", offsetof(GemmArgs, y), ARRAY_INOUT, array_type(z->out), DIMS(z->batch, z->m, z->n));
    y->ld = z->ldy;
    y->batch_pitch = z->batch_y;
}
static double gemm_flops(const void *shape) {
    const GemmShape *z = shape;
    return 2.0 * z->batch * z->m * z->n * z->k;
}
const Description describe_gemm = { .launcher = &gemm, .about = "matrix product", .shape = gemm_fields,
                                    .args = gemm_args, .complete = gemm_complete, .arrays = gemm_arrays,
                                    .flops = gemm_flops };

// ---- bias gradient
static const Field bias_fields[] = { FIELD(BiasGradShape, m, FIELD_INT), FIELD(BiasGradShape, n, FIELD_INT),
                                     FIELD(BiasGradShape, ldy, FIELD_INT), FIELD(BiasGradShape, in, FIELD_DTYPE),
                                     FIELD_END };
static const Field bias_args[] = { FIELD(BiasGradArgs, accumulate, FIELD_BOOL), FIELD_END };
static void bias_complete(void *shape) {
    BiasGradShape *z = shape;
    if (!z->ldy) z->ldy = z->n;
}
static void bias_arrays(const void *shape, Arrays *l) {
    const BiasGradShape *z = shape;
    array_add(l, "dy", offsetof(BiasGradArgs, dy), ARRAY_IN, array_type(z->in), DIMS(z->m, z->n))->ld = z->ldy;
    array_add(l, "db", offsetof(BiasGradArgs, db), ARRAY_INOUT, TYPE_F32, DIMS(z->n));
}
const Description describe_bias_backward = { .launcher = &bias_backward, .about = "sum over rows",
                                             .shape = bias_fields, .args = bias_args, .complete = bias_complete,
                                             .arrays = bias_arrays };
