// kernels/loss/loss_describe.c - what the structs of the CBDM loss hold.
#include "kernels/common/describe.h"
#include "kernels/loss/loss.h"

static const Field fields[] = {
    FIELD(CbdmLossShape, n, FIELD_INT), FIELD(CbdmLossShape, e, FIELD_I64), FIELD(CbdmLossShape, T, FIELD_INT),
    FIELD(CbdmLossShape, tau, FIELD_DOUBLE), FIELD(CbdmLossShape, gamma, FIELD_DOUBLE),
    FIELD(CbdmLossShape, share, FIELD_DOUBLE), FIELD_END,
};
static void complete(void *shape) {
    CbdmLossShape *z = shape;
    if (!z->T) z->T = 1000;
    if (z->share == 0) z->share = 1;
}
#define AT(member) #member, offsetof(CbdmLossArgs, member)
static void arrays(const void *shape, Arrays *l) {
    const CbdmLossShape *z = shape;
    array_add(l, AT(h), ARRAY_IN, TYPE_F32, DIMS(z->n, z->e));
    array_add(l, AT(hb), ARRAY_IN, TYPE_F32, DIMS(z->n, z->e))->optional = true;
    array_add(l, AT(eps), ARRAY_IN, TYPE_F32, DIMS(z->n, z->e));
    Array *t = array_add(l, AT(t), ARRAY_IN, TYPE_I32, DIMS(z->n));
    t->fill = FILL_INDEX;
    t->range = z->T;
    Array *weight = array_add(l, AT(weight), ARRAY_IN, TYPE_F32, DIMS(z->n));
    weight->fill = FILL_POSITIVE;
    weight->optional = true;
    array_add(l, AT(loss), ARRAY_OUT, TYPE_F32, DIMS(3));
    array_add(l, AT(per_image), ARRAY_OUT, TYPE_F32, DIMS(z->n))->optional = true;
    array_add(l, AT(dh), ARRAY_OUT, TYPE_F32, DIMS(z->n, z->e))->optional = true;
    array_add(l, AT(dhb), ARRAY_OUT, TYPE_F32, DIMS(z->n, z->e))->optional = true;
}
const Description describe_cbdm_loss = { .launcher = &cbdm_loss, .about = "the CBDM objective and its gradients",
                                         .shape = fields, .complete = complete, .arrays = arrays };
