// kernels/batchnorm/batchnorm_describe.c - what the structs of batch normalization hold.
#include "kernels/batchnorm/batchnorm.h"
#include "kernels/common/describe.h"

static const Field fields[] = {
    FIELD(BatchNormShape, n, FIELD_INT), FIELD(BatchNormShape, hw, FIELD_INT), FIELD(BatchNormShape, c, FIELD_INT),
    FIELD(BatchNormShape, ldx, FIELD_INT), FIELD(BatchNormShape, ldy, FIELD_INT), FIELD(BatchNormShape, ldr, FIELD_INT),
    FIELD(BatchNormShape, momentum, FIELD_DOUBLE), FIELD(BatchNormShape, eps, FIELD_DOUBLE),
    FIELD(BatchNormShape, act, FIELD_ACT), FIELD(BatchNormShape, training, FIELD_BOOL),
    FIELD(BatchNormShape, dtype, FIELD_DTYPE), FIELD(BatchNormShape, layout, FIELD_LAYOUT), FIELD_END,
};
static void complete(void *shape) {
    BatchNormShape *z = shape;
    if (!z->ldx) z->ldx = z->c;
    if (!z->ldy) z->ldy = z->c;
    if (!z->ldr) z->ldr = z->c;
    if (z->momentum == 0) z->momentum = 0.1;
    if (z->eps == 0) z->eps = 1e-5;
}
static double flops(const void *shape) {
    const BatchNormShape *z = shape;
    return 8.0 * z->n * z->hw * z->c;
}
static Array *image(Arrays *l, const char *name, size_t offset, ArrayUse use, const BatchNormShape *z, int ld) {
    return array_add_image(l, name, offset, use, z->dtype, z->layout, ld, DIMS(z->n, z->hw, z->c));
}

#define FORWARD(member) #member, offsetof(BatchNormForwardArgs, member)
static void forward_arrays(const void *shape, Arrays *l) {
    const BatchNormShape *z = shape;
    ArrayUse running = z->training ? ARRAY_INOUT : ARRAY_IN;
    image(l, FORWARD(x), ARRAY_IN, z, z->ldx);
    image(l, FORWARD(residual), ARRAY_IN, z, z->ldr)->optional = true;
    array_add(l, FORWARD(gamma), ARRAY_IN, TYPE_F32, DIMS(z->c));
    array_add(l, FORWARD(beta), ARRAY_IN, TYPE_F32, DIMS(z->c));
    array_add(l, FORWARD(running_mean), running, TYPE_F32, DIMS(z->c));
    array_add(l, FORWARD(running_var), running, TYPE_F32, DIMS(z->c))->fill = FILL_POSITIVE;
    image(l, FORWARD(y), ARRAY_OUT, z, z->ldy);
    if (!z->training) return;
    array_add(l, FORWARD(mean), ARRAY_OUT, TYPE_F32, DIMS(z->c));
    array_add(l, FORWARD(rstd), ARRAY_OUT, TYPE_F32, DIMS(z->c));
}
const Description describe_batchnorm_forward = { .launcher = &batchnorm_forward, .about = "batch norm, residual, ReLU",
                                                 .shape = fields, .complete = complete, .arrays = forward_arrays,
                                                 .flops = flops };

#define BACKWARD(member) #member, offsetof(BatchNormBackwardArgs, member)
static const Field backward_args[] = { FIELD(BatchNormBackwardArgs, accumulate, FIELD_BOOL), FIELD_END };
static void backward_arrays(const void *shape, Arrays *l) {
    const BatchNormShape *z = shape;
    image(l, BACKWARD(dy), ARRAY_IN, z, z->ldy);
    image(l, BACKWARD(x), ARRAY_IN, z, z->ldx);
    if (z->act == ACT_RELU) image(l, BACKWARD(y), ARRAY_IN, z, z->c);
    array_add(l, BACKWARD(gamma), ARRAY_IN, TYPE_F32, DIMS(z->c));
    array_add(l, BACKWARD(mean), ARRAY_IN, TYPE_F32, DIMS(z->c));
    array_add(l, BACKWARD(rstd), ARRAY_IN, TYPE_F32, DIMS(z->c))->fill = FILL_POSITIVE;
    image(l, BACKWARD(dx), ARRAY_OUT, z, z->ldx)->optional = true;
    image(l, BACKWARD(dresidual), ARRAY_OUT, z, z->ldr)->optional = true;
    array_add(l, BACKWARD(dgamma), ARRAY_INOUT, TYPE_F32, DIMS(z->c))->optional = true;
    array_add(l, BACKWARD(dbeta), ARRAY_INOUT, TYPE_F32, DIMS(z->c))->optional = true;
}
const Description describe_batchnorm_backward = { .launcher = &batchnorm_backward, .about = "its gradients",
                                                  .shape = fields, .args = backward_args, .complete = complete,
                                                  .arrays = backward_arrays, .flops = flops };
