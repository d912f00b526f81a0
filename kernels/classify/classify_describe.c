// kernels/classify/classify_describe.c - what the structs of cross entropy hold.
#include "kernels/classify/classify.h"
#include "kernels/common/describe.h"

static const Field fields[] = { FIELD(CrossEntropyShape, n, FIELD_INT), FIELD(CrossEntropyShape, c, FIELD_INT),
                                FIELD_END };
#define AT(member) #member, offsetof(CrossEntropyArgs, member)
static void arrays(const void *shape, Arrays *l) {
    const CrossEntropyShape *z = shape;
    array_add(l, AT(logits), ARRAY_IN, TYPE_F32, DIMS(z->n, z->c))->scale = 3;
    Array *label = array_add(l, AT(label), ARRAY_IN, TYPE_I32, DIMS(z->n));
    label->fill = FILL_INDEX;
    label->range = z->c;
    array_add(l, AT(offset), ARRAY_IN, TYPE_F32, DIMS(z->c))->optional = true;
    array_add(l, AT(loss), ARRAY_OUT, TYPE_F32, DIMS(1));
    array_add(l, AT(dlogits), ARRAY_OUT, TYPE_F32, DIMS(z->n, z->c))->optional = true;
}
const Description describe_cross_entropy = { .launcher = &cross_entropy, .about = "cross entropy and its gradient",
                                             .shape = fields, .arrays = arrays };
