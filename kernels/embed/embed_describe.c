// kernels/embed/embed_describe.c - what the structs of embeddings hold.
#include "kernels/common/describe.h"
#include "kernels/embed/embed.h"

static const Field embed_fields[] = { FIELD(EmbedShape, n, FIELD_INT), FIELD(EmbedShape, c, FIELD_INT),
                                      FIELD(EmbedShape, rows, FIELD_INT), FIELD(EmbedShape, out, FIELD_DTYPE),
                                      FIELD_END };
static void index_of(Arrays *l, size_t offset, const EmbedShape *z) {
    Array *a = array_add(l, "index", offset, ARRAY_IN, TYPE_I32, DIMS(z->n));
    a->fill = FILL_INDEX;
    a->range = z->rows;
}
static void forward_arrays(const void *shape, Arrays *l) {
    const EmbedShape *z = shape;
    array_add(l, "table", offsetof(EmbedForwardArgs, table), ARRAY_IN, TYPE_F32, DIMS(z->rows, z->c));
    index_of(l, offsetof(EmbedForwardArgs, index), z);
    array_add(l, "y", offsetof(EmbedForwardArgs, y), ARRAY_OUT, array_type(z->out), DIMS(z->n, z->c));
}
const Description describe_embed_forward = { .launcher = &embed_forward, .about = "rows of a table",
                                             .shape = embed_fields, .arrays = forward_arrays };

static const Field backward_args[] = { FIELD(EmbedBackwardArgs, accumulate, FIELD_BOOL), FIELD_END };
static void backward_arrays(const void *shape, Arrays *l) {
    const EmbedShape *z = shape;
    array_add(l, "dy", offsetof(EmbedBackwardArgs, dy), ARRAY_IN, array_type(z->out), DIMS(z->n, z->c));
    index_of(l, offsetof(EmbedBackwardArgs, index), z);
    array_add(l, "dtable", offsetof(EmbedBackwardArgs, dtable), ARRAY_INOUT, TYPE_F32, DIMS(z->rows, z->c));
}
const Description describe_embed_backward = { .launcher = &embed_backward, .about = "its gradient",
                                              .shape = embed_fields, .args = backward_args, .arrays = backward_arrays };

static const Field sinusoid_fields[] = { FIELD(SinusoidShape, n, FIELD_INT), FIELD(SinusoidShape, dim, FIELD_INT),
                                         FIELD(SinusoidShape, in, FIELD_DTYPE), FIELD(SinusoidShape, out, FIELD_DTYPE),
                                         FIELD_END };
static void sinusoid_arrays(const void *shape, Arrays *l) {
    const SinusoidShape *z = shape;
    Array *t = array_add(l, "t", offsetof(SinusoidArgs, t), ARRAY_IN, array_type(z->in), DIMS(z->n));
    t->fill = FILL_INDEX;
    t->range = 1000;
    array_add(l, "y", offsetof(SinusoidArgs, y), ARRAY_OUT, array_type(z->out), DIMS(z->n, z->dim));
}
const Description describe_sinusoid = { .launcher = &sinusoid, .about = "sinusoids of time", .shape = sinusoid_fields,
                                        .arrays = sinusoid_arrays };
