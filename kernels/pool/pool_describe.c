// kernels/pool/pool_describe.c - what the structs of pooling hold.
#include "kernels/common/describe.h"
#include "kernels/pool/pool.h"

static const Field fields[] = {
    FIELD(PoolShape, n, FIELD_INT), FIELD(PoolShape, h, FIELD_INT), FIELD(PoolShape, w, FIELD_INT),
    FIELD(PoolShape, c, FIELD_INT), FIELD(PoolShape, p, FIELD_INT), FIELD(PoolShape, q, FIELD_INT),
    FIELD(PoolShape, window, FIELD_INT), FIELD(PoolShape, stride, FIELD_INT), FIELD(PoolShape, pad, FIELD_INT),
    FIELD(PoolShape, largest, FIELD_BOOL), FIELD(PoolShape, dtype, FIELD_DTYPE), FIELD_END,
};
static void complete(void *shape) {
    PoolShape *z = shape;
    if (!z->window) z->window = 2;
    if (!z->stride) z->stride = z->window;
    if (!z->p) z->p = (z->h + 2 * z->pad - z->window) / z->stride + 1;
    if (!z->q) z->q = (z->w + 2 * z->pad - z->window) / z->stride + 1;
}
static double flops(const void *shape) {
    const PoolShape *z = shape;
    return (double)z->n * z->p * z->q * z->c * z->window * z->window;
}
static void forward_arrays(const void *shape, Arrays *l) {
    const PoolShape *z = shape;
    ArrayType type = array_type(z->dtype);
    array_add(l, "x", offsetof(PoolForwardArgs, x), ARRAY_IN, type, DIMS(z->n, (int64_t)z->h * z->w, z->c));
    array_add(l, "y", offsetof(PoolForwardArgs, y), ARRAY_OUT, type, DIMS(z->n, (int64_t)z->p * z->q, z->c));
    if (z->largest)
        array_add(l, "tap", offsetof(PoolForwardArgs, tap), ARRAY_OUT, TYPE_U8,
                  DIMS(z->n, (int64_t)z->p * z->q, z->c))->optional = true;
}
static void backward_arrays(const void *shape, Arrays *l) {
    const PoolShape *z = shape;
    ArrayType type = array_type(z->dtype);
    array_add(l, "dy", offsetof(PoolBackwardArgs, dy), ARRAY_IN, type, DIMS(z->n, (int64_t)z->p * z->q, z->c));
    if (z->largest) {
        Array *tap = array_add(l, "tap", offsetof(PoolBackwardArgs, tap), ARRAY_IN, TYPE_U8,
                               DIMS(z->n, (int64_t)z->p * z->q, z->c));
        tap->fill = FILL_INDEX;
        tap->range = (int64_t)z->window * z->window;
    }
    array_add(l, "dx", offsetof(PoolBackwardArgs, dx), ARRAY_OUT, type, DIMS(z->n, (int64_t)z->h * z->w, z->c));
}
const Description describe_pool_forward = { .launcher = &pool_forward, .about = "maxima or means of windows",
                                            .shape = fields, .complete = complete, .arrays = forward_arrays,
                                            .flops = flops };
const Description describe_pool_backward = { .launcher = &pool_backward, .about = "its gradient", .shape = fields,
                                             .complete = complete, .arrays = backward_arrays, .flops = flops };

// ---- all pixels
static const Field all_fields[] = {
    FIELD(PoolAllShape, n, FIELD_INT), FIELD(PoolAllShape, hw, FIELD_INT), FIELD(PoolAllShape, c, FIELD_INT),
    FIELD(PoolAllShape, ldx, FIELD_INT), FIELD(PoolAllShape, dtype, FIELD_DTYPE),
    FIELD(PoolAllShape, layout, FIELD_LAYOUT), FIELD_END,
};
static void all_complete(void *shape) {
    PoolAllShape *z = shape;
    if (!z->ldx) z->ldx = z->c;
}
static void all_forward_arrays(const void *shape, Arrays *l) {
    const PoolAllShape *z = shape;
    array_add_image(l, "x", offsetof(PoolAllForwardArgs, x), ARRAY_IN, z->dtype, z->layout, z->ldx,
                    DIMS(z->n, z->hw, z->c));
    array_add(l, "y", offsetof(PoolAllForwardArgs, y), ARRAY_OUT, TYPE_F32, DIMS(z->n, z->c));
}
static void all_backward_arrays(const void *shape, Arrays *l) {
    const PoolAllShape *z = shape;
    array_add(l, "dy", offsetof(PoolAllBackwardArgs, dy), ARRAY_IN, TYPE_F32, DIMS(z->n, z->c));
    array_add_image(l, "dx", offsetof(PoolAllBackwardArgs, dx), ARRAY_OUT, z->dtype, z->layout, z->ldx,
                    DIMS(z->n, z->hw, z->c));
}
const Description describe_pool_all_forward = { .launcher = &pool_all_forward, .about = "mean over all pixels",
                                                .shape = all_fields, .complete = all_complete,
                                                .arrays = all_forward_arrays };
const Description describe_pool_all_backward = { .launcher = &pool_all_backward, .about = "its gradient",
                                                 .shape = all_fields, .complete = all_complete,
                                                 .arrays = all_backward_arrays };
