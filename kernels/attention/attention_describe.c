// kernels/attention/attention_describe.c - what the structs of attention hold.
#include <math.h>

#include "kernels/attention/attention.h"
#include "kernels/common/describe.h"

static const Field fields[] = {
    FIELD(AttentionShape, n, FIELD_INT), FIELD(AttentionShape, t, FIELD_INT), FIELD(AttentionShape, heads, FIELD_INT),
    FIELD(AttentionShape, c, FIELD_INT), FIELD(AttentionShape, ldq, FIELD_INT), FIELD(AttentionShape, ldk, FIELD_INT),
    FIELD(AttentionShape, ldv, FIELD_INT), FIELD(AttentionShape, ldo, FIELD_INT),
    FIELD(AttentionShape, scale, FIELD_FLOAT), FIELD(AttentionShape, dtype, FIELD_DTYPE),
    FIELD(AttentionShape, layout, FIELD_LAYOUT), FIELD_END,
};
static void complete(void *shape) {
    AttentionShape *z = shape;
    if (!z->heads) z->heads = 1;
    int *ld[] = { &z->ldq, &z->ldk, &z->ldv, &z->ldo };
    for (int i = 0; i < 4; i++)
        if (!*ld[i]) *ld[i] = z->heads * z->c;
    if (z->scale == 0) z->scale = 1 / sqrtf((float)z->c);
}
static Array *tokens(Arrays *l, const char *name, size_t offset, ArrayUse use, const AttentionShape *z, int ld) {
    return array_add_image(l, name, offset, use, z->dtype, z->layout, ld, DIMS(z->n, z->t, (int64_t)z->heads * z->c));
}

#define FORWARD(member) #member, offsetof(AttentionForwardArgs, member)
static void forward_arrays(const void *shape, Arrays *l) {
    const AttentionShape *z = shape;
    tokens(l, FORWARD(q), ARRAY_IN, z, z->ldq);
    tokens(l, FORWARD(k), ARRAY_IN, z, z->ldk);
    tokens(l, FORWARD(v), ARRAY_IN, z, z->ldv);
    tokens(l, FORWARD(o), ARRAY_OUT, z, z->ldo);
    array_add(l, FORWARD(lse), ARRAY_OUT, TYPE_F32, DIMS(z->n, z->heads, z->t));
}
static double forward_flops(const void *shape) {
    const AttentionShape *z = shape;
    return 4.0 * z->n * z->heads * z->t * z->t * z->c;
}
const Description describe_attention_forward = { .launcher = &attention_forward, .about = "softmax attention",
                                                 .shape = fields, .complete = complete, .arrays = forward_arrays,
                                                 .flops = forward_flops };

// o and lse must belong to q, k, v: cbdm op takes them from the user; checks and benches run the forward pass first.
#define BACKWARD(member) #member, offsetof(AttentionBackwardArgs, member)
static void backward_arrays(const void *shape, Arrays *l) {
    const AttentionShape *z = shape;
    tokens(l, BACKWARD(d_o), ARRAY_IN, z, z->ldo);
    tokens(l, BACKWARD(q), ARRAY_IN, z, z->ldq);
    tokens(l, BACKWARD(k), ARRAY_IN, z, z->ldk);
    tokens(l, BACKWARD(v), ARRAY_IN, z, z->ldv);
    tokens(l, BACKWARD(o), ARRAY_IN, z, z->ldo);
    array_add(l, BACKWARD(lse), ARRAY_IN, TYPE_F32, DIMS(z->n, z->heads, z->t));
    tokens(l, BACKWARD(dq), ARRAY_OUT, z, z->ldq);
    tokens(l, BACKWARD(dk), ARRAY_OUT, z, z->ldk);
    tokens(l, BACKWARD(dv), ARRAY_OUT, z, z->ldv);
}
static double backward_flops(const void *shape) { return 2.5 * forward_flops(shape); }
const Description describe_attention_backward = { .launcher = &attention_backward, .about = "its gradients",
                                                  .shape = fields, .complete = complete, .arrays = backward_arrays,
                                                  .flops = backward_flops };
