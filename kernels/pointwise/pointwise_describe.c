// kernels/pointwise/pointwise_describe.c - what the structs of element-wise work and of the draws hold.
#include "kernels/common/describe.h"
#include "kernels/pointwise/pointwise.h"

// ---- runs of elements
static const Field run_fields[] = {
    FIELD(PointwiseShape, rows, FIELD_I64), FIELD(PointwiseShape, c, FIELD_I64), FIELD(PointwiseShape, lda, FIELD_I64),
    FIELD(PointwiseShape, ldb, FIELD_I64), FIELD(PointwiseShape, ldy, FIELD_I64),
    FIELD(PointwiseShape, alpha, FIELD_FLOAT), FIELD(PointwiseShape, beta, FIELD_FLOAT),
    FIELD(PointwiseShape, dtype, FIELD_DTYPE), FIELD(PointwiseShape, out, FIELD_DTYPE), FIELD_END,
};
static void run_complete(void *shape) {
    PointwiseShape *z = shape;
    if (!z->rows) z->rows = 1;
    if (!z->lda) z->lda = z->c;
    if (!z->ldb) z->ldb = z->c;
    if (!z->ldy) z->ldy = z->c;
}
static Array *run(Arrays *l, const char *name, size_t offset, ArrayUse use, DType dt, const PointwiseShape *z,
                  int64_t ld) {
    Array *a = array_add(l, name, offset, use, array_type(dt), DIMS(z->rows, z->c));
    a->ld = ld;
    return a;
}
static void unary(const void *shape, Arrays *l) {
    const PointwiseShape *z = shape;
    run(l, "a", offsetof(PointwiseArgs, a), ARRAY_IN, z->dtype, z, z->lda);
    run(l, "y", offsetof(PointwiseArgs, y), ARRAY_OUT, z->out, z, z->ldy);
}
static void binary(const void *shape, Arrays *l) {
    const PointwiseShape *z = shape;
    unary(shape, l);
    run(l, "b", offsetof(PointwiseArgs, b), ARRAY_IN, z->dtype, z, z->ldb);
}
static void either(const void *shape, Arrays *l) {
    binary(shape, l);
    l->array[l->n - 1].optional = true;
}
static void only_output(const void *shape, Arrays *l) {
    const PointwiseShape *z = shape;
    run(l, "y", offsetof(PointwiseArgs, y), ARRAY_OUT, z->out, z, z->ldy);
}
#define RUN(f, text, list)                                                                                          \
    const Description describe_##f = { .launcher = &f, .about = text, .shape = run_fields,                          \
                                       .complete = run_complete, .arrays = list };
RUN(axpby, "alpha a + beta b", either)
RUN(multiply, "a b", binary)
RUN(silu_forward, "silu(a)", unary)
RUN(silu_backward, "a silu'(b)", binary)
RUN(relu_forward, "max(a, 0)", unary)
RUN(relu_backward, "a where b is above 0", binary)
RUN(fill, "alpha everywhere", only_output)

// ---- a row per image
static const Field channel_fields[] = {
    FIELD(AddChannelShape, n, FIELD_INT), FIELD(AddChannelShape, copies, FIELD_INT),
    FIELD(AddChannelShape, hw, FIELD_INT), FIELD(AddChannelShape, c, FIELD_INT),
    FIELD(AddChannelShape, dtype, FIELD_DTYPE), FIELD(AddChannelShape, layout, FIELD_LAYOUT), FIELD_END,
};
static void channel_complete(void *shape) {
    AddChannelShape *z = shape;
    if (!z->copies) z->copies = 1;
}
static Array *image(Arrays *l, const char *name, size_t offset, ArrayUse use, const AddChannelShape *z, int copies) {
    return array_add_image(l, name, offset, use, z->dtype, z->layout, z->c, DIMS((int64_t)copies * z->n, z->hw, z->c));
}
static void channel_forward(const void *shape, Arrays *l) {
    const AddChannelShape *z = shape;
    image(l, "x", offsetof(AddChannelArgs, x), ARRAY_IN, z, 1);
    array_add(l, "v", offsetof(AddChannelArgs, v), ARRAY_IN, TYPE_F32, DIMS((int64_t)z->copies * z->n, z->c));
    image(l, "y", offsetof(AddChannelArgs, y), ARRAY_OUT, z, z->copies);
}
static void channel_backward(const void *shape, Arrays *l) {
    const AddChannelShape *z = shape;
    image(l, "dy", offsetof(AddChannelGradArgs, dy), ARRAY_IN, z, z->copies);
    image(l, "dx", offsetof(AddChannelGradArgs, dx), ARRAY_OUT, z, 1)->optional = true;
    array_add(l, "dv", offsetof(AddChannelGradArgs, dv), ARRAY_OUT, TYPE_F32, DIMS((int64_t)z->copies * z->n, z->c));
}
const Description describe_add_channel_forward = {
    .launcher = &add_channel_forward, .about = "x + v, a row of v per image", .shape = channel_fields,
    .complete = channel_complete, .arrays = channel_forward };
const Description describe_add_channel_backward = {
    .launcher = &add_channel_backward, .about = "its gradients", .shape = channel_fields, .complete = channel_complete,
    .arrays = channel_backward };

// ---- layout
static const Field relayout_fields[] = {
    FIELD(RelayoutShape, n, FIELD_INT), FIELD(RelayoutShape, hw, FIELD_INT), FIELD(RelayoutShape, c, FIELD_INT),
    FIELD(RelayoutShape, dtype, FIELD_DTYPE), FIELD(RelayoutShape, from, FIELD_LAYOUT),
    FIELD(RelayoutShape, to, FIELD_LAYOUT), FIELD_END,
};
static void relayout_arrays(const void *shape, Arrays *l) {
    const RelayoutShape *z = shape;
    array_add_image(l, "x", offsetof(RelayoutArgs, x), ARRAY_IN, z->dtype, z->from, z->c, DIMS(z->n, z->hw, z->c));
    array_add_image(l, "y", offsetof(RelayoutArgs, y), ARRAY_OUT, z->dtype, z->to, z->c, DIMS(z->n, z->hw, z->c));
}
const Description describe_relayout = { .launcher = &relayout, .about = "one memory layout into another",
                                        .shape = relayout_fields, .arrays = relayout_arrays };

// ---- mean
static const Field mean_fields[] = { FIELD(MeanShape, e, FIELD_I64), FIELD(MeanShape, dtype, FIELD_DTYPE), FIELD_END };
static void mean_arrays(const void *shape, Arrays *l) {
    const MeanShape *z = shape;
    array_add(l, "x", offsetof(MeanArgs, x), ARRAY_IN, array_type(z->dtype), DIMS(z->e));
    array_add(l, "y", offsetof(MeanArgs, y), ARRAY_OUT, TYPE_F32, DIMS(1));
}
static void mean_grad_arrays(const void *shape, Arrays *l) {
    const MeanShape *z = shape;
    array_add(l, "dy", offsetof(MeanGradArgs, dy), ARRAY_IN, TYPE_F32, DIMS(1));
    array_add(l, "dx", offsetof(MeanGradArgs, dx), ARRAY_OUT, array_type(z->dtype), DIMS(z->e));
}
const Description describe_mean_forward = { .launcher = &mean_forward, .about = "mean", .shape = mean_fields,
                                            .arrays = mean_arrays };
const Description describe_mean_backward = { .launcher = &mean_backward, .about = "its gradient", .shape = mean_fields,
                                             .arrays = mean_grad_arrays };

// ---- draws
static const Field random_fields[] = {
    FIELD(RandomShape, n, FIELD_INT), FIELD(RandomShape, hw, FIELD_INT), FIELD(RandomShape, c, FIELD_INT),
    FIELD(RandomShape, purpose, FIELD_U32), FIELD(RandomShape, p16, FIELD_U32), FIELD(RandomShape, dtype, FIELD_DTYPE),
    FIELD(RandomShape, layout, FIELD_LAYOUT), FIELD_END,
};
static void draw_arrays(const RandomShape *z, Arrays *l) {
    array_add(l, "sample", offsetof(RandomArgs, sample), ARRAY_IN, TYPE_U32, DIMS(z->n))->fill = FILL_SAMPLE;
    array_add(l, "state", offsetof(RandomArgs, state), ARRAY_IN, TYPE_U8, DIMS((int64_t)sizeof(StepState)))->fill =
        FILL_STATE;
    array_add_image(l, "y", offsetof(RandomArgs, y), ARRAY_OUT, z->dtype, z->layout, z->c, DIMS(z->n, z->hw, z->c));
}
static void randn_arrays(const void *shape, Arrays *l) { draw_arrays(shape, l); }
static void dropout_arrays(const void *shape, Arrays *l) {
    const RandomShape *z = shape;
    draw_arrays(z, l);
    array_add_image(l, "x", offsetof(RandomArgs, x), ARRAY_IN, z->dtype, z->layout, z->c, DIMS(z->n, z->hw, z->c));
    array_add(l, "mask", offsetof(RandomArgs, mask), ARRAY_OUT, TYPE_U8,
              DIMS(((int64_t)z->n * z->hw * z->c + 7) / 8))->optional = true;
}
const Description describe_randn = { .launcher = &randn, .about = "standard normals by Philox", .shape = random_fields,
                                     .arrays = randn_arrays };
const Description describe_dropout = { .launcher = &dropout, .about = "dropout by Philox", .shape = random_fields,
                                       .arrays = dropout_arrays };
