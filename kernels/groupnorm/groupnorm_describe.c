// kernels/groupnorm/groupnorm_describe.c - what the structs of group normalization hold.
#include "kernels/common/describe.h"
#include "kernels/groupnorm/groupnorm.h"

static const Field fields[] = {
    FIELD(GroupNormShape, n, FIELD_INT), FIELD(GroupNormShape, hw, FIELD_INT), FIELD(GroupNormShape, c, FIELD_INT),
    FIELD(GroupNormShape, groups, FIELD_INT), FIELD(GroupNormShape, ldx, FIELD_INT),
    FIELD(GroupNormShape, ldy, FIELD_INT), FIELD(GroupNormShape, eps, FIELD_DOUBLE),
    FIELD(GroupNormShape, act, FIELD_ACT), FIELD(GroupNormShape, stats, FIELD_BOOL),
    FIELD(GroupNormShape, p16, FIELD_U32), FIELD(GroupNormShape, purpose, FIELD_U32),
    FIELD(GroupNormShape, dtype, FIELD_DTYPE), FIELD(GroupNormShape, layout, FIELD_LAYOUT), FIELD_END,
};
static void complete(void *shape) {
    GroupNormShape *z = shape;
    if (!z->groups) z->groups = 1;
    if (!z->ldx) z->ldx = z->c;
    if (!z->ldy) z->ldy = z->c;
    if (z->eps == 0) z->eps = 1e-5;
}
static double flops(const void *shape) {
    const GroupNormShape *z = shape;
    return 8.0 * z->n * z->hw * z->c;
}

static Array *image(Arrays *l, const char *name, size_t offset, ArrayUse use, const GroupNormShape *z, int ld) {
    return array_add_image(l, name, offset, use, z->dtype, z->layout, ld, DIMS(z->n, z->hw, z->c));
}

#define FORWARD(member) #member, offsetof(GroupNormForwardArgs, member)
static void forward_arrays(const void *shape, Arrays *l) {
    const GroupNormShape *z = shape;
    image(l, FORWARD(x), ARRAY_IN, z, z->ldx);
    array_add(l, FORWARD(gamma), ARRAY_IN, TYPE_F32, DIMS(z->c));
    array_add(l, FORWARD(beta), ARRAY_IN, TYPE_F32, DIMS(z->c));
    if (z->stats) array_add(l, FORWARD(stats), ARRAY_IN, TYPE_F32, DIMS(z->n, z->c, 2))->fill = FILL_POSITIVE;
    if (z->p16) {
        array_add(l, FORWARD(sample), ARRAY_IN, TYPE_U32, DIMS(z->n))->fill = FILL_SAMPLE;
        array_add(l, FORWARD(state), ARRAY_IN, TYPE_U8, DIMS((int64_t)sizeof(StepState)))->fill = FILL_STATE;
    }
    image(l, FORWARD(y), ARRAY_OUT, z, z->ldy);
    array_add(l, FORWARD(mean), ARRAY_OUT, TYPE_F32, DIMS(z->n, z->groups));
    array_add(l, FORWARD(rstd), ARRAY_OUT, TYPE_F32, DIMS(z->n, z->groups));
    array_add(l, FORWARD(scale), ARRAY_OUT, TYPE_F32, DIMS(z->n, z->c))->optional = true;
    array_add(l, FORWARD(shift), ARRAY_OUT, TYPE_F32, DIMS(z->n, z->c))->optional = true;
    if (z->p16) array_add(l, FORWARD(mask), ARRAY_OUT, TYPE_U8, DIMS(((int64_t)z->n * z->hw * z->c + 7) / 8));
}
const Description describe_groupnorm_forward = { .launcher = &groupnorm_forward, .about = "group norm, SiLU, dropout",
                                                 .shape = fields, .complete = complete, .arrays = forward_arrays,
                                                 .flops = flops };

#define BACKWARD(member) #member, offsetof(GroupNormBackwardArgs, member)
static const Field backward_args[] = { FIELD(GroupNormBackwardArgs, accumulate, FIELD_BOOL), FIELD_END };
static void backward_arrays(const void *shape, Arrays *l) {
    const GroupNormShape *z = shape;
    image(l, BACKWARD(dy), ARRAY_IN, z, z->ldy);
    image(l, BACKWARD(x), ARRAY_IN, z, z->ldx);
    array_add(l, BACKWARD(gamma), ARRAY_IN, TYPE_F32, DIMS(z->c));
    array_add(l, BACKWARD(beta), ARRAY_IN, TYPE_F32, DIMS(z->c));
    array_add(l, BACKWARD(mean), ARRAY_IN, TYPE_F32, DIMS(z->n, z->groups));
    array_add(l, BACKWARD(rstd), ARRAY_IN, TYPE_F32, DIMS(z->n, z->groups))->fill = FILL_POSITIVE;
    array_add(l, BACKWARD(sums), ARRAY_IN, TYPE_F32, DIMS(z->n, z->c, 2))->optional = true;
    if (z->p16)
        array_add(l, BACKWARD(mask), ARRAY_IN, TYPE_U8, DIMS(((int64_t)z->n * z->hw * z->c + 7) / 8))->fill = FILL_BITS;
    image(l, BACKWARD(add), ARRAY_IN, z, z->c)->optional = true;
    image(l, BACKWARD(dx), ARRAY_OUT, z, z->ldx);
    array_add(l, BACKWARD(dgamma), ARRAY_INOUT, TYPE_F32, DIMS(z->c))->optional = true;
    array_add(l, BACKWARD(dbeta), ARRAY_INOUT, TYPE_F32, DIMS(z->c))->optional = true;
}
const Description describe_groupnorm_backward = { .launcher = &groupnorm_backward, .about = "its gradients",
                                                  .shape = fields, .args = backward_args, .complete = complete,
                                                  .arrays = backward_arrays, .flops = flops };
