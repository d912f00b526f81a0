// kernels/conv2d/conv2d_describe.c - what the structs of convolution hold.
#include "kernels/common/describe.h"
#include "kernels/conv2d/conv2d.h"

static const Field shape_fields[] = {
    FIELD(Conv2dShape, n, FIELD_INT), FIELD(Conv2dShape, h, FIELD_INT), FIELD(Conv2dShape, w, FIELD_INT),
    FIELD(Conv2dShape, p, FIELD_INT), FIELD(Conv2dShape, q, FIELD_INT), FIELD(Conv2dShape, c, FIELD_INT),
    FIELD(Conv2dShape, c2, FIELD_INT), FIELD(Conv2dShape, k, FIELD_INT), FIELD(Conv2dShape, r, FIELD_INT),
    FIELD(Conv2dShape, s, FIELD_INT), FIELD(Conv2dShape, stride, FIELD_INT), FIELD(Conv2dShape, pad_h, FIELD_INT),
    FIELD(Conv2dShape, pad_w, FIELD_INT), FIELD(Conv2dShape, cs, FIELD_INT), FIELD(Conv2dShape, cs2, FIELD_INT),
    FIELD(Conv2dShape, ldx, FIELD_INT), FIELD(Conv2dShape, ldx2, FIELD_INT), FIELD(Conv2dShape, ldy, FIELD_INT),
    FIELD(Conv2dShape, ldr, FIELD_INT), FIELD(Conv2dShape, lds, FIELD_INT), FIELD(Conv2dShape, lds2, FIELD_INT),
    FIELD(Conv2dShape, groups, FIELD_INT), FIELD(Conv2dShape, use, FIELD_USE),
    FIELD(Conv2dShape, keep_scale, FIELD_FLOAT), FIELD(Conv2dShape, dtype, FIELD_DTYPE),
    FIELD(Conv2dShape, out, FIELD_DTYPE), FIELD(Conv2dShape, lx, FIELD_LAYOUT), FIELD(Conv2dShape, ly, FIELD_LAYOUT),
    FIELD_END,
};
static const Field weight_args[] = { FIELD(Conv2dArgs, accumulate, FIELD_BOOL), FIELD_END };

// Left out: stride 1, a filter of 3x3, its "same" padding, the output size that follows, dense strides.
static void complete(void *shape) {
    Conv2dShape *z = shape;
    if (!z->r) z->r = 3;
    if (!z->s) z->s = z->r;
    if (!z->stride) z->stride = 1;
    if (!z->p) {
        if (!z->pad_h && !z->pad_w) z->pad_h = z->r / 2, z->pad_w = z->s / 2;
        z->p = (z->h + 2 * z->pad_h - z->r) / z->stride + 1;
        z->q = (z->w + 2 * z->pad_w - z->s) / z->stride + 1;
    }
    if (!z->ldx) z->ldx = z->c;
    if (!z->ldx2) z->ldx2 = z->c2;
    if (!z->ldy) z->ldy = z->k;
    if (!z->ldr) z->ldr = z->k;
    if (!z->lds) z->lds = z->cs;
    if (!z->lds2) z->lds2 = z->cs2;
    if (z->c2) z->use |= CONV_X2;
    if (z->cs) z->use |= CONV_SHORTCUT;
    if (z->groups) z->use |= CONV_SUMS;
    if (z->use & CONV_MASK && z->keep_scale == 0) z->keep_scale = 1;
}

static double flops(const void *shape) {
    const Conv2dShape *z = shape;
    double shortcut = z->use & CONV_SHORTCUT ? z->cs + z->cs2 : 0;
    return 2.0 * z->n * z->p * z->q * z->k * ((double)z->r * z->s * (z->c + z->c2) + shortcut);
}

#define AT(member) #member, offsetof(Conv2dArgs, member)
// At x's resolution and layout, and at y's.
static Array *source(Arrays *l, const char *name, size_t offset, ArrayUse use, const Conv2dShape *z, int64_t c,
                     int64_t ld) {
    return array_add_image(l, name, offset, use, z->dtype, z->lx, ld, DIMS(z->n, z->h, z->w, c));
}
static Array *result(Arrays *l, const char *name, size_t offset, ArrayUse use, const Conv2dShape *z, DType dt,
                     int64_t c, int64_t ld) {
    return array_add_image(l, name, offset, use, dt, z->ly, ld, DIMS(z->n, z->p, z->q, c));
}

// x and what stands between it and the sum: the prologue that forward and backward_weight read through, and that
// backward_input differentiates.
static void add_source(Arrays *l, const Conv2dShape *z) {
    source(l, AT(x), ARRAY_IN, z, z->c, z->ldx);
    if (z->use & CONV_X2) source(l, AT(x2), ARRAY_IN, z, z->c2, z->ldx2);
}
static void add_prologue(Arrays *l, const Conv2dShape *z) {
    int64_t c = z->c + z->c2;
    if (z->use & CONV_NORM) {
        array_add(l, AT(scale), ARRAY_IN, TYPE_F32, DIMS(z->n, c));
        array_add(l, AT(shift), ARRAY_IN, TYPE_F32, DIMS(z->n, c));
    }
    if (z->use & CONV_MASK)
        array_add(l, AT(mask), ARRAY_IN, TYPE_U8, DIMS(((int64_t)z->n * z->h * z->w * c + 7) / 8))->fill = FILL_BITS;
}
static void add_filter(Arrays *l, const Conv2dShape *z) {
    int64_t c = z->c + z->c2;
    array_add(l, AT(w), ARRAY_IN, array_type(z->dtype), DIMS(z->k, z->r, z->s, c))->scale = 0.1;
}

static void forward_arrays(const void *shape, Arrays *l) {
    const Conv2dShape *z = shape;
    add_source(l, z);
    add_prologue(l, z);
    add_filter(l, z);
    if (z->use & CONV_BIAS) array_add(l, AT(bias), ARRAY_IN, TYPE_F32, DIMS(z->k));
    if (z->use & CONV_TEMB) array_add(l, AT(temb), ARRAY_IN, TYPE_F32, DIMS(z->n, z->k));
    if (z->use & CONV_RESIDUAL) result(l, AT(residual), ARRAY_IN, z, z->dtype, z->k, z->ldr);
    if (z->use & CONV_SHORTCUT) {
        result(l, AT(xs), ARRAY_IN, z, z->dtype, z->cs, z->lds);
        if (z->cs2) result(l, AT(xs2), ARRAY_IN, z, z->dtype, z->cs2, z->lds2);
        array_add(l, AT(ws), ARRAY_IN, array_type(z->dtype), DIMS(z->k, z->cs + z->cs2))->scale = 0.1;
    }
    result(l, AT(y), ARRAY_OUT, z, z->out, z->k, z->ldy);
    if (z->use & CONV_STATS) array_add(l, AT(stats), ARRAY_OUT, TYPE_F32, DIMS(z->n, z->k, 2));
}

static void input_arrays(const void *shape, Arrays *l) {
    const Conv2dShape *z = shape;
    int64_t c = z->c + z->c2;
    result(l, AT(dy), ARRAY_IN, z, z->out, z->k, z->ldy);
    add_filter(l, z);
    if (z->use & (CONV_NORM | CONV_SUMS)) add_source(l, z);
    add_prologue(l, z);
    if (z->use & CONV_SUMS) {
        array_add(l, AT(mean), ARRAY_IN, TYPE_F32, DIMS(z->n, z->groups));
        array_add(l, AT(rstd), ARRAY_IN, TYPE_F32, DIMS(z->n, z->groups))->fill = FILL_POSITIVE;
    }
    source(l, AT(add), ARRAY_IN, z, c, c)->optional = true;
    if (z->use & CONV_BIAS) array_add(l, AT(bias), ARRAY_IN, TYPE_F32, DIMS(c));
    source(l, AT(dx), ARRAY_OUT, z, z->c, z->ldx);
    if (z->use & CONV_X2) source(l, AT(dx2), ARRAY_OUT, z, z->c2, z->ldx2);
    if (z->use & CONV_SUMS) array_add(l, AT(sums), ARRAY_OUT, TYPE_F32, DIMS(z->n, c, 2));
}

static void weight_arrays(const void *shape, Arrays *l) {
    const Conv2dShape *z = shape;
    result(l, AT(dy), ARRAY_IN, z, z->out, z->k, z->ldy);
    add_source(l, z);
    add_prologue(l, z);
    array_add(l, AT(dw), ARRAY_INOUT, TYPE_F32, DIMS(z->k, z->r, z->s, z->c + z->c2));
    if (z->use & CONV_BIAS) array_add(l, AT(dbias), ARRAY_INOUT, TYPE_F32, DIMS(z->k));
    if (z->use & CONV_TEMB) array_add(l, AT(dtemb), ARRAY_OUT, TYPE_F32, DIMS(z->n, z->k));
}

const Description describe_conv2d_forward = {
    .launcher = &conv2d_forward, .about = "convolution", .shape = shape_fields, .complete = complete,
    .arrays = forward_arrays, .flops = flops };
const Description describe_conv2d_backward_input = {
    .launcher = &conv2d_backward_input, .about = "its gradient to the input", .shape = shape_fields,
    .complete = complete, .arrays = input_arrays, .flops = flops };
const Description describe_conv2d_backward_weight = {
    .launcher = &conv2d_backward_weight, .about = "its gradients to filter, bias and time embedding",
    .shape = shape_fields, .args = weight_args, .complete = complete, .arrays = weight_arrays, .flops = flops };
