// kernels/resample/resample_describe.c - what the structs of resampling hold.
#include "kernels/common/describe.h"
#include "kernels/resample/resample.h"

#define X "x", offsetof(ResampleArgs, x), ARRAY_IN
#define Y "y", offsetof(ResampleArgs, y), ARRAY_OUT

// ---- nearest upsampling
static const Field upsample_fields[] = { FIELD(UpsampleShape, n, FIELD_INT), FIELD(UpsampleShape, h, FIELD_INT),
                                         FIELD(UpsampleShape, w, FIELD_INT), FIELD(UpsampleShape, c, FIELD_INT),
                                         FIELD(UpsampleShape, dtype, FIELD_DTYPE), FIELD_END };
static void upsample_arrays(const void *shape, Arrays *l) {
    const UpsampleShape *z = shape;
    array_add(l, X, array_type(z->dtype), DIMS(z->n, z->h, z->w, z->c));
    array_add(l, Y, array_type(z->dtype), DIMS(z->n, 2 * z->h, 2 * z->w, z->c));
}
static void upsample_grad_arrays(const void *shape, Arrays *l) {
    const UpsampleShape *z = shape;
    array_add(l, X, array_type(z->dtype), DIMS(z->n, 2 * z->h, 2 * z->w, z->c));
    array_add(l, Y, array_type(z->dtype), DIMS(z->n, z->h, z->w, z->c));
}
const Description describe_upsample2x_forward = { .launcher = &upsample2x_forward, .about = "nearest upsampling by two",
                                                  .shape = upsample_fields, .arrays = upsample_arrays };
const Description describe_upsample2x_backward = { .launcher = &upsample2x_backward, .about = "its gradient",
                                                   .shape = upsample_fields, .arrays = upsample_grad_arrays };

// ---- concatenation
static const Field concat_fields[] = { FIELD(ConcatShape, rows, FIELD_I64), FIELD(ConcatShape, ca, FIELD_INT),
                                       FIELD(ConcatShape, cb, FIELD_INT), FIELD(ConcatShape, lda, FIELD_INT),
                                       FIELD(ConcatShape, ldb, FIELD_INT), FIELD(ConcatShape, dtype, FIELD_DTYPE),
                                       FIELD_END };
static void concat_complete(void *shape) {
    ConcatShape *z = shape;
    if (!z->lda) z->lda = z->ca;
    if (!z->ldb) z->ldb = z->cb;
}
static void concat_arrays(const void *shape, Arrays *l) {
    const ConcatShape *z = shape;
    ArrayType type = array_type(z->dtype);
    array_add(l, "a", offsetof(ConcatArgs, a), ARRAY_IN, type, DIMS(z->rows, z->ca))->ld = z->lda;
    array_add(l, "b", offsetof(ConcatArgs, b), ARRAY_IN, type, DIMS(z->rows, z->cb))->ld = z->ldb;
    array_add(l, "y", offsetof(ConcatArgs, y), ARRAY_OUT, type, DIMS(z->rows, z->ca + z->cb));
}
const Description describe_concat_forward = { .launcher = &concat_forward, .about = "channels side by side",
                                              .shape = concat_fields, .complete = concat_complete,
                                              .arrays = concat_arrays };

// ---- repetition
static const Field repeat_fields[] = { FIELD(RepeatShape, e, FIELD_I64), FIELD(RepeatShape, copies, FIELD_INT),
                                       FIELD(RepeatShape, dtype, FIELD_DTYPE), FIELD_END };
static void repeat_arrays(const void *shape, Arrays *l) {
    const RepeatShape *z = shape;
    array_add(l, X, array_type(z->dtype), DIMS(z->e));
    array_add(l, Y, array_type(z->dtype), DIMS(z->copies, z->e));
}
static void repeat_grad_arrays(const void *shape, Arrays *l) {
    const RepeatShape *z = shape;
    array_add(l, X, array_type(z->dtype), DIMS(z->copies, z->e));
    array_add(l, Y, array_type(z->dtype), DIMS(z->e));
}
const Description describe_repeat_batch_forward = { .launcher = &repeat_batch_forward, .about = "copies of a batch",
                                                    .shape = repeat_fields, .arrays = repeat_arrays };
const Description describe_repeat_batch_backward = { .launcher = &repeat_batch_backward, .about = "its gradient",
                                                     .shape = repeat_fields, .arrays = repeat_grad_arrays };
