// kernels/optim/optim_describe.c - what the structs of the optimiser hold.
#include "kernels/common/describe.h"
#include "kernels/optim/optim.h"

static void state_of(Arrays *l, size_t offset) {
    array_add(l, "state", offset, ARRAY_INOUT, TYPE_U8, DIMS((int64_t)sizeof(StepState)))->fill = FILL_STATE;
}
static void spans_of(Arrays *l, size_t offset, int tensors, int64_t n) {
    Array *a = array_add(l, "span", offset, ARRAY_IN, TYPE_I64, DIMS(tensors, 2));
    a->fill = FILL_SPANS;
    a->range = n;
}

static const Field advance_fields[] = { FIELD(StepAdvanceShape, unused, FIELD_INT), FIELD_END };
static void advance_arrays(const void *shape, Arrays *l) {
    (void)shape;
    state_of(l, offsetof(StepAdvanceArgs, state));
}
const Description describe_step_advance = { .launcher = &step_advance, .about = "the clock of a step",
                                            .shape = advance_fields, .arrays = advance_arrays };

static const Field norm_fields[] = { FIELD(GradNormShape, n, FIELD_I64), FIELD(GradNormShape, tensors, FIELD_INT),
                                     FIELD_END };
static void norm_complete(void *shape) {
    GradNormShape *z = shape;
    if (!z->tensors) z->tensors = 1;
}
static void norm_arrays(const void *shape, Arrays *l) {
    const GradNormShape *z = shape;
    array_add(l, "g", offsetof(GradNormArgs, g), ARRAY_IN, TYPE_F32, DIMS(z->n));
    spans_of(l, offsetof(GradNormArgs, span), z->tensors, z->n);
    array_add(l, "has_grad", offsetof(GradNormArgs, has_grad), ARRAY_IN, TYPE_U8, DIMS(z->tensors))->fill = FILL_ONES;
    state_of(l, offsetof(GradNormArgs, state));
}
const Description describe_grad_norm = { .launcher = &grad_norm, .about = "norm of all gradients",
                                         .shape = norm_fields, .complete = norm_complete, .arrays = norm_arrays };

static const Field adam_fields[] = {
    FIELD(AdamShape, n, FIELD_I64), FIELD(AdamShape, tensors, FIELD_INT), FIELD(AdamShape, lr, FIELD_DOUBLE),
    FIELD(AdamShape, warmup, FIELD_I64), FIELD(AdamShape, beta1, FIELD_DOUBLE), FIELD(AdamShape, beta2, FIELD_DOUBLE),
    FIELD(AdamShape, eps, FIELD_DOUBLE), FIELD(AdamShape, clip_norm, FIELD_DOUBLE),
    FIELD(AdamShape, ema_decay, FIELD_DOUBLE), FIELD(AdamShape, ema_ramp, FIELD_BOOL), FIELD_END,
};
static void adam_complete(void *shape) {
    AdamShape *z = shape;
    if (!z->tensors) z->tensors = 1;
    if (z->lr == 0) z->lr = 2e-4;
    if (z->beta1 == 0) z->beta1 = 0.9;
    if (z->beta2 == 0) z->beta2 = 0.999;
    if (z->eps == 0) z->eps = 1e-8;
    if (z->ema_decay == 0) z->ema_decay = 0.9999;
}
#define ADAM(member) #member, offsetof(AdamArgs, member)
static void adam_arrays(const void *shape, Arrays *l) {
    const AdamShape *z = shape;
    spans_of(l, offsetof(AdamArgs, span), z->tensors, z->n);
    array_add(l, ADAM(has_grad), ARRAY_IN, TYPE_U8, DIMS(z->tensors))->fill = FILL_ONES;
    array_add(l, ADAM(g), ARRAY_IN, TYPE_F32, DIMS(z->n));
    state_of(l, offsetof(AdamArgs, state));
    array_add(l, ADAM(count), ARRAY_INOUT, TYPE_I64, DIMS(z->tensors))->fill = FILL_ONES;
    array_add(l, ADAM(w), ARRAY_INOUT, TYPE_F32, DIMS(z->n));
    array_add(l, ADAM(m), ARRAY_INOUT, TYPE_F32, DIMS(z->n))->scale = 0.1;
    array_add(l, ADAM(v), ARRAY_INOUT, TYPE_F32, DIMS(z->n))->fill = FILL_POSITIVE;
    array_add(l, ADAM(ema), ARRAY_INOUT, TYPE_F32, DIMS(z->n));
    array_add(l, ADAM(shadow), ARRAY_OUT, TYPE_BF16, DIMS(z->n))->optional = true;
}
const Description describe_adam_ema = { .launcher = &adam_ema, .about = "clip, Adam, average, bf16 shadow",
                                        .shape = adam_fields, .complete = adam_complete, .arrays = adam_arrays };

static const Field sgd_fields[] = { FIELD(SgdShape, n, FIELD_I64), FIELD(SgdShape, momentum, FIELD_DOUBLE),
                                    FIELD(SgdShape, weight_decay, FIELD_DOUBLE), FIELD_END };
#define SGD(member) #member, offsetof(SgdArgs, member)
static void sgd_arrays(const void *shape, Arrays *l) {
    const SgdShape *z = shape;
    array_add(l, SGD(g), ARRAY_IN, TYPE_F32, DIMS(z->n));
    array_add(l, SGD(lr), ARRAY_IN, TYPE_F32, DIMS(1))->scale = 0.1;
    state_of(l, offsetof(SgdArgs, state));
    array_add(l, SGD(w), ARRAY_INOUT, TYPE_F32, DIMS(z->n));
    array_add(l, SGD(m), ARRAY_INOUT, TYPE_F32, DIMS(z->n));
    array_add(l, SGD(shadow), ARRAY_OUT, TYPE_BF16, DIMS(z->n))->optional = true;
}
const Description describe_sgd = { .launcher = &sgd, .about = "momentum, weight decay, bf16 shadow",
                                   .shape = sgd_fields, .arrays = sgd_arrays };
