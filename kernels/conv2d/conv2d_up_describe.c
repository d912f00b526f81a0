// kernels/conv2d/conv2d_up_describe.c - what the structs of upsampling with a convolution hold.
#include "kernels/common/describe.h"
#include "kernels/conv2d/conv2d_up.h"

static const Field shape_fields[] = {
    FIELD(Conv2dUpShape, n, FIELD_INT), FIELD(Conv2dUpShape, h, FIELD_INT), FIELD(Conv2dUpShape, w, FIELD_INT),
    FIELD(Conv2dUpShape, c, FIELD_INT), FIELD(Conv2dUpShape, k, FIELD_INT), FIELD(Conv2dUpShape, ldx, FIELD_INT),
    FIELD(Conv2dUpShape, ldy, FIELD_INT), FIELD(Conv2dUpShape, use, FIELD_USE),
    FIELD(Conv2dUpShape, dtype, FIELD_DTYPE), FIELD(Conv2dUpShape, out, FIELD_DTYPE),
    FIELD(Conv2dUpShape, lx, FIELD_LAYOUT), FIELD(Conv2dUpShape, ly, FIELD_LAYOUT), FIELD_END,
};
static const Field weight_args[] = { FIELD(Conv2dUpArgs, accumulate, FIELD_BOOL), FIELD_END };

static void complete(void *shape) {
    Conv2dUpShape *z = shape;
    if (!z->ldx) z->ldx = z->c;
    if (!z->ldy) z->ldy = z->k;
}

// With the taps folded: 4 to an output.
static double flops(const void *shape) {
    const Conv2dUpShape *z = shape;
    return 2.0 * z->n * (4.0 * z->h * z->w) * z->k * (4.0 * z->c);
}

#define AT(member) #member, offsetof(Conv2dUpArgs, member)
static void low(Arrays *l, const char *name, size_t offset, ArrayUse use, const Conv2dUpShape *z) {
    array_add_image(l, name, offset, use, z->dtype, z->lx, z->ldx, DIMS(z->n, z->h, z->w, z->c));
}
static void high(Arrays *l, const char *name, size_t offset, ArrayUse use, const Conv2dUpShape *z) {
    array_add_image(l, name, offset, use, z->out, z->ly, z->ldy, DIMS(z->n, 2 * z->h, 2 * z->w, z->k));
}
static void add_filter(Arrays *l, const Conv2dUpShape *z) {
    array_add(l, AT(w), ARRAY_IN, array_type(z->dtype), DIMS(z->k, 3, 3, z->c))->scale = 0.1;
}

static void forward_arrays(const void *shape, Arrays *l) {
    const Conv2dUpShape *z = shape;
    low(l, AT(x), ARRAY_IN, z);
    add_filter(l, z);
    if (z->use & CONV_BIAS) array_add(l, AT(bias), ARRAY_IN, TYPE_F32, DIMS(z->k));
    high(l, AT(y), ARRAY_OUT, z);
}
static void input_arrays(const void *shape, Arrays *l) {
    const Conv2dUpShape *z = shape;
    high(l, AT(dy), ARRAY_IN, z);
    add_filter(l, z);
    low(l, AT(dx), ARRAY_OUT, z);
}
static void weight_arrays(const void *shape, Arrays *l) {
    const Conv2dUpShape *z = shape;
    high(l, AT(dy), ARRAY_IN, z);
    low(l, AT(x), ARRAY_IN, z);
    array_add(l, AT(dw), ARRAY_INOUT, TYPE_F32, DIMS(z->k, 3, 3, z->c));
    if (z->use & CONV_BIAS) array_add(l, AT(dbias), ARRAY_INOUT, TYPE_F32, DIMS(z->k));
}

const Description describe_conv2d_up_forward = {
    .launcher = &conv2d_up_forward, .about = "nearest upsampling by two and a 3x3 convolution", .shape = shape_fields,
    .complete = complete, .arrays = forward_arrays, .flops = flops };
const Description describe_conv2d_up_backward_input = {
    .launcher = &conv2d_up_backward_input, .about = "its gradient to the input", .shape = shape_fields,
    .complete = complete, .arrays = input_arrays, .flops = flops };
const Description describe_conv2d_up_backward_weight = {
    .launcher = &conv2d_up_backward_weight, .about = "its gradients to filter and bias", .shape = shape_fields,
    .args = weight_args, .complete = complete, .arrays = weight_arrays, .flops = flops };
