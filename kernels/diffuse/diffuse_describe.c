// kernels/diffuse/diffuse_describe.c - what the structs of the forward process and of a reverse step hold.
#include "kernels/common/describe.h"
#include "kernels/diffuse/diffuse.h"

static const Field noise_fields[] = { FIELD(AddNoiseShape, n, FIELD_INT), FIELD(AddNoiseShape, e, FIELD_I64),
                                      FIELD(AddNoiseShape, T, FIELD_INT), FIELD(AddNoiseShape, out, FIELD_DTYPE),
                                      FIELD_END };
static void noise_complete(void *shape) {
    AddNoiseShape *z = shape;
    if (!z->T) z->T = 1000;
}
static void noise_arrays(const void *shape, Arrays *l) {
    const AddNoiseShape *z = shape;
    array_add(l, "x0", offsetof(AddNoiseArgs, x0), ARRAY_IN, TYPE_F32, DIMS(z->n, z->e));
    array_add(l, "eps", offsetof(AddNoiseArgs, eps), ARRAY_IN, TYPE_F32, DIMS(z->n, z->e));
    Array *t = array_add(l, "t", offsetof(AddNoiseArgs, t), ARRAY_IN, TYPE_I32, DIMS(z->n));
    t->fill = FILL_INDEX;
    t->range = z->T;
    array_add(l, "root", offsetof(AddNoiseArgs, root), ARRAY_IN, TYPE_F32, DIMS(z->T, 2))->fill = FILL_ROOT;
    array_add(l, "xt", offsetof(AddNoiseArgs, xt), ARRAY_OUT, array_type(z->out), DIMS(z->n, z->e));
}
const Description describe_add_noise = { .launcher = &add_noise, .about = "x_t from x_0 and noise",
                                         .shape = noise_fields, .complete = noise_complete, .arrays = noise_arrays };

// A data set of five images.
static const Field q_sample_fields[] = { FIELD(QSampleShape, n, FIELD_INT), FIELD(QSampleShape, h, FIELD_INT),
                                         FIELD(QSampleShape, w, FIELD_INT), FIELD(QSampleShape, c, FIELD_INT),
                                         FIELD(QSampleShape, T, FIELD_INT), FIELD(QSampleShape, flip, FIELD_BOOL),
                                         FIELD(QSampleShape, out, FIELD_DTYPE), FIELD_END };
static void q_sample_complete(void *shape) {
    QSampleShape *z = shape;
    if (!z->T) z->T = 1000;
}
#define SAMPLE(member) #member, offsetof(QSampleArgs, member)
static void q_sample_arrays(const void *shape, Arrays *l) {
    enum { IMAGES = 5 };
    const QSampleShape *z = shape;
    array_add(l, SAMPLE(images), ARRAY_IN, TYPE_U8, DIMS(IMAGES, z->h, z->w, z->c))->fill = FILL_BITS;
    Array *index = array_add(l, SAMPLE(index), ARRAY_IN, TYPE_I32, DIMS(z->n));
    index->fill = FILL_INDEX;
    index->range = IMAGES;
    Array *t = array_add(l, SAMPLE(t), ARRAY_IN, TYPE_I32, DIMS(z->n));
    t->fill = FILL_INDEX;
    t->range = z->T;
    array_add(l, SAMPLE(sample), ARRAY_IN, TYPE_U32, DIMS(z->n))->fill = FILL_SAMPLE;
    array_add(l, SAMPLE(state), ARRAY_IN, TYPE_U8, DIMS((int64_t)sizeof(StepState)))->fill = FILL_STATE;
    array_add(l, SAMPLE(root), ARRAY_IN, TYPE_F32, DIMS(z->T, 2))->fill = FILL_ROOT;
    array_add(l, SAMPLE(eps), ARRAY_OUT, TYPE_F32, DIMS(z->n, z->h, z->w, z->c));
    array_add(l, SAMPLE(xt), ARRAY_OUT, array_type(z->out), DIMS(z->n, z->h, z->w, z->c));
}
const Description describe_q_sample = { .launcher = &q_sample, .about = "x_t and its noise from the data set's bytes",
                                        .shape = q_sample_fields, .complete = q_sample_complete,
                                        .arrays = q_sample_arrays };

// The table has eight rows: enough for the sampler_index of a made-up state.
static const Field step_fields[] = { FIELD(SamplerStepShape, n, FIELD_INT), FIELD(SamplerStepShape, e, FIELD_I64),
                                     FIELD(SamplerStepShape, purpose, FIELD_U32), FIELD_END };
#define STEP(member) #member, offsetof(SamplerStepArgs, member)
static void step_arrays(const void *shape, Arrays *l) {
    const SamplerStepShape *z = shape;
    array_add(l, STEP(coef), ARRAY_IN, TYPE_F32, DIMS(8, 8))->fill = FILL_COEF;
    array_add(l, STEP(state), ARRAY_IN, TYPE_U8, DIMS((int64_t)sizeof(StepState)))->fill = FILL_STATE;
    array_add(l, STEP(sample), ARRAY_IN, TYPE_U32, DIMS(z->n))->fill = FILL_SAMPLE;
    array_add(l, STEP(cond), ARRAY_IN, TYPE_F32, DIMS(z->n, z->e));
    array_add(l, STEP(uncond), ARRAY_IN, TYPE_F32, DIMS(z->n, z->e))->optional = true;
    array_add(l, STEP(omega), ARRAY_IN, TYPE_F32, DIMS(z->n))->optional = true;
    array_add(l, STEP(prev), ARRAY_INOUT, TYPE_F32, DIMS(z->n, z->e))->optional = true;
    array_add(l, STEP(x), ARRAY_INOUT, TYPE_F32, DIMS(z->n, z->e));
}
const Description describe_sampler_step = { .launcher = &sampler_step, .about = "a guided reverse step",
                                            .shape = step_fields, .arrays = step_arrays };
