// core/param.c - trainable tensors: their buffers, their initial values, and the optimiser nodes that update them.
#include "core/param.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/ops.h"
#include "core/param_impl.h"
#include "kernels/common/rng.h"
#include "kernels/optim/optim.h"
#include "kernels/pointwise/pointwise.h"

ParamSet *param_set_new(Device *d) {
    ParamSet *ps = xcalloc(1, sizeof *ps);
    ps->device = d;
    ps->state = tensor_new(d, "state", DT_U8, 1, (int64_t[]){ sizeof(StepState) });
    return ps;
}

void param_set_free(ParamSet *ps) {
    if (!ps) return;
    for (int i = 0; i < ps->n; i++) free((char *)ps->param[i]->value.name);
    for (int i = 0; i < ps->n; i++) free(ps->param[i]);
    for (int i = 0; i < BUFFER_COUNT; i++) tensor_free(ps->buffer[i]);
    for (int i = 0; i < 2; i++) {
        graph_free(ps->copy[i].cast);
        arena_free(ps->copy[i].arena);
        tensor_free(ps->copy[i].buffer);
    }
    tensor_free(ps->span);
    tensor_free(ps->has_grad[0]);
    tensor_free(ps->has_grad[1]);
    tensor_free(ps->count);
    tensor_free(ps->state);
    free(ps->param);
    free(ps);
}

Param *param_add(ParamSet *ps, const char *name, int ndim, const int64_t *shape, Init init, float gain) {
    CHECK(!ps->sealed && !param_find(ps, name), "parameter %s: set is sealed, or the name is taken", name);
    Param *p = xcalloc(1, sizeof *p);
    Tensor *v = &p->value;
    p->set = ps;
    v->name = xstrdup(name);
    v->dtype = device_real(ps->device);
    v->ndim = ndim;
    for (int i = 0; i < ndim; i++) v->shape[i] = shape[i];
    v->ld = shape[ndim - 1];
    v->device = ps->device;
    v->flags = TENSOR_PERSISTENT | TENSOR_NEEDS_GRAD;
    p->copy[WEIGHTS_TRAIN] = p->copy[WEIGHTS_EMA] = *v;
    p->copy[WEIGHTS_TRAIN].dtype = p->copy[WEIGHTS_EMA].dtype = DT_BF16;
    p->copy[WEIGHTS_EMA].flags = TENSOR_PERSISTENT;
    p->init = init;
    p->gain = gain;
    p->begin = ps->elements;
    ps->elements += (tensor_numel(v) + 15) / 16 * 16;       // 64-byte aligned; the gap stays zero
    ps->param = xrealloc(ps->param, (size_t)(ps->n + 1) * sizeof(Param *));
    ps->param[ps->n++] = p;
    return p;
}

// Philox draws keyed by the name: a parameter starts the same whatever else the network holds.
static void initialise(const Param *p, uint64_t seed, float *out) {
    const Tensor *v = &p->value;
    int64_t n = tensor_numel(v), last = v->shape[v->ndim - 1], area = v->ndim == 4 ? v->shape[1] * v->shape[2] : 1;
    double fan_in = (double)(last * area), fan_out = (double)(v->shape[0] * area), bound = 0;
    if (p->init == INIT_XAVIER_UNIFORM) bound = (double)p->gain * sqrt(6.0 / (fan_in + fan_out));
    if (p->init == INIT_KAIMING_UNIFORM) bound = (double)p->gain / sqrt(fan_in);
    uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    for (int64_t i = 0; i < n; i += 4) {
        Philox r = philox(key, (uint32_t)(i / 4), PURPOSE_INIT, 0, op_purpose(v->name));
        float normal[4];
        rng_normal4(r.v, normal);
        for (int64_t j = i; j < i + 4 && j < n; j++) {
            if (p->init == INIT_NORMAL) out[j] = p->gain * normal[j - i];
            else if (bound > 0) out[j] = (float)(bound * (2.0 * (r.v[j - i] + 0.5) / 4294967296.0 - 1.0));
            else out[j] = p->init == INIT_ONE ? 1.0f : 0.0f;
        }
    }
}

static Tensor *buffer_new(ParamSet *ps, const char *name) {
    return tensor_new(ps->device, name, DT_F32, 1, &ps->elements);
}

// Places copy w and fills it.
static void make_copy(ParamSet *ps, Weights w) {
    Copy *c = &ps->copy[w];
    Tensor *from = ps->buffer[w == WEIGHTS_EMA ? BUFFER_EMA : BUFFER_VALUE];
    CHECK(from, "bf16 copies of weights that this set does not hold");
    c->buffer = tensor_new(ps->device, w == WEIGHTS_EMA ? "bf16 ema" : "bf16 weights", DT_BF16, 1, &ps->elements);
    for (int i = 0; i < ps->n && c->buffer->data; i++)
        ps->param[i]->copy[w].data = (uint16_t *)c->buffer->data + ps->param[i]->begin;
    c->cast = graph_new(ps->device, "bf16 weights", w);
    c->arena = arena_new(ps->device);
    op_copy_to(c->cast, from, c->buffer);
    graph_plan(c->cast, c->arena);
    arena_seal(c->arena);
    param_refresh(ps, w);
}

void param_refresh(ParamSet *ps, Weights w) {
    if (ps->copy[w].cast && !device_is_null(ps->device)) graph_run(ps->copy[w].cast);
}

void param_seal(ParamSet *ps, ParamUse use, uint64_t seed) {
    CHECK(!ps->sealed && ps->n > 0, "a parameter set is sealed once, after its parameters are known");
    static const char *const names[BUFFER_COUNT] = { "weights", "gradients", "adam_m", "adam_v", "ema" };
    ps->sealed = true;
    ps->use = use;
    for (int i = 0; i < BUFFER_COUNT; i++)
        if (use == PARAM_TRAIN || i == BUFFER_EMA) ps->buffer[i] = buffer_new(ps, names[i]);
    if (use == PARAM_EMA_ONLY)
        for (int i = 0; i < ps->n; i++) ps->param[i]->value.flags &= ~(unsigned)TENSOR_NEEDS_GRAD;
    size_t real_bytes = dtype_size(device_real(ps->device));
    ParamSpan *span = xcalloc((size_t)ps->n, sizeof *span);
    uint8_t *has[2] = { xcalloc((size_t)ps->n, 1), xcalloc((size_t)ps->n, 1) };
    for (int i = 0; i < ps->n; i++) {
        Param *p = ps->param[i];
        p->gradient = p->average = p->value;
        Tensor *view[] = { [BUFFER_VALUE] = &p->value, [BUFFER_GRAD] = &p->gradient, [BUFFER_EMA] = &p->average };
        for (int b = 0; b < BUFFER_COUNT; b++) {
            if (b == BUFFER_M || b == BUFFER_V) continue;
            char *data = ps->buffer[b] ? ps->buffer[b]->data : NULL;
            view[b]->data = data ? data + (size_t)p->begin * real_bytes : NULL;
        }
        p->gradient.flags = p->average.flags = TENSOR_PERSISTENT;
        p->value.grad = p->copy[WEIGHTS_TRAIN].grad = &p->gradient;
        span[i] = (ParamSpan){ p->begin, p->begin + tensor_numel(&p->value) };
        has[1][i] = !p->unread;
        has[0][i] = !p->unread && !p->label;
        if (device_is_null(ps->device)) continue;
        float *init = xmalloc((size_t)tensor_numel(&p->value) * sizeof *init);
        initialise(p, seed, init);
        if (use == PARAM_TRAIN) tensor_write_f32(&p->value, init);
        tensor_write_f32(&p->average, init);
        free(init);
    }
    ps->span = tensor_new(ps->device, "spans", DT_U8, 1, (int64_t[]){ (int64_t)(sizeof *span * (size_t)ps->n) });
    ps->count = tensor_new(ps->device, "adam_count", DT_U8, 1, (int64_t[]){ 8 * ps->n });
    tensor_write(ps->span, span);
    for (int i = 0; i < 2; i++) {
        ps->has_grad[i] = tensor_new(ps->device, "has_grad", DT_U8, 1, (int64_t[]){ ps->n });
        tensor_write(ps->has_grad[i], has[i]);
        free(has[i]);
    }
    free(span);
    StepState s = { .seed = { (uint32_t)seed, (uint32_t)(seed >> 32) } };
    param_state_write(ps, &s);
    for (int w = 0; w < 2; w++)
        if (ps->copy[w].wanted) make_copy(ps, (Weights)w);
}

Device     *param_device(const ParamSet *ps) { return ps->device; }
int         param_count(const ParamSet *ps) { return ps->n; }
Param      *param_get(const ParamSet *ps, int i) { return ps->param[i]; }
const char *param_name(const Param *p) { return p->value.name; }
Tensor     *param_value(Param *p) { return &p->value; }
Tensor     *param_ema(Param *p) { return &p->average; }
Tensor     *param_state(ParamSet *ps) { return ps->state; }
void        param_mark_label(Param *p) { p->label = true; }
void        param_mark_unread(Param *p) { p->unread = true; }
size_t      param_buffer_bytes(const ParamSet *ps) {
    return (size_t)ps->elements * dtype_size(device_real(ps->device));
}

int64_t param_numel(const ParamSet *ps) {
    int64_t n = 0;
    for (int i = 0; i < ps->n; i++) n += tensor_numel(&ps->param[i]->value);
    return n;
}

Param *param_find(const ParamSet *ps, const char *name) {
    for (int i = 0; i < ps->n; i++)
        if (strcmp(param_name(ps->param[i]), name) == 0) return ps->param[i];
    return NULL;
}

Tensor *param_tensor(Param *p, const Graph *g) { return graph_weights(g) == WEIGHTS_EMA ? &p->average : &p->value; }

Tensor *param_operand(Param *p, const Graph *g) {
    Weights w = graph_weights(g);
    Copy *c = &p->set->copy[w];
    if (graph_dtype(g) != DT_BF16) return param_tensor(p, g);
    if (p->set->sealed && !c->wanted) make_copy(p->set, w);
    c->wanted = true;
    return &p->copy[w];
}

size_t param_copy_bytes(const ParamSet *ps) {
    size_t bytes = 0;
    for (int w = 0; w < 2; w++) bytes += ps->copy[w].buffer ? tensor_bytes(ps->copy[w].buffer) : 0;
    return bytes;
}

StepState param_state_read(const ParamSet *ps) {
    StepState s = { 0 };
    tensor_read(ps->state, &s);
    return s;
}

void param_state_write(ParamSet *ps, const StepState *s) { tensor_write(ps->state, s); }

// ---- optimiser nodes. All tensors are persistent and no business of the planner: out names one of those that change.
typedef struct { AdamConfig c; int64_t n; int tensors; } OptimAttr;

static void norm_infer(Graph *g, Node *n) { (void)g; n->out[0] = n->in[3]; n->n_out = 1; }
static void norm_bind(const Node *n, void *shape, void *args) {
    const OptimAttr *a = NODE_ATTR(n, OptimAttr);
    *(GradNormShape *)shape = (GradNormShape){ .n = a->n, .tensors = a->tensors };
    *(GradNormArgs *)args = (GradNormArgs){ .g = tensor_data(n->in[0]), .span = tensor_data(n->in[1]),
                                            .has_grad = tensor_data(n->in[2]), .state = tensor_data(n->in[3]) };
}
static const OpDef grad_norm_op = { .name = "grad_norm", .launcher = &grad_norm, .infer = norm_infer,
                                    .bind = norm_bind };

static void adam_infer(Graph *g, Node *n) { (void)g; n->out[0] = n->in[5]; n->n_out = 1; }
static void adam_bind(const Node *n, void *shape, void *args) {
    const OptimAttr *a = NODE_ATTR(n, OptimAttr);
    *(AdamShape *)shape = (AdamShape){ .n = a->n, .tensors = a->tensors, .lr = a->c.lr, .warmup = a->c.warmup,
                                       .beta1 = a->c.beta1, .beta2 = a->c.beta2, .eps = a->c.eps,
                                       .clip_norm = a->c.clip_norm, .ema_decay = a->c.ema_decay,
                                       .ema_ramp = a->c.ema_ramp };
    *(AdamArgs *)args = (AdamArgs){ .g = tensor_data(n->in[0]), .span = tensor_data(n->in[1]),
                                    .has_grad = tensor_data(n->in[2]), .state = tensor_data(n->in[3]),
                                    .count = tensor_data(n->in[4]), .w = tensor_data(n->in[5]),
                                    .m = tensor_data(n->in[6]), .v = tensor_data(n->in[7]),
                                    .ema = tensor_data(n->in[8]), .shadow = tensor_data(n->in[9]) };
}
static OpCost adam_cost(const Node *n) {
    return (OpCost){ 16.0 * (double)tensor_numel(n->in[0]), 9.0 * (double)tensor_bytes(n->in[0]) };
}
static const OpDef adam_op = { .name = "adam_ema", .launcher = &adam_ema, .infer = adam_infer, .bind = adam_bind,
                               .cost = adam_cost };

void param_append_adam(ParamSet *ps, Graph *g, const AdamConfig *c, bool has_label_grad) {
    OptimAttr a = { *c, ps->elements, ps->n };
    Tensor *has = ps->has_grad[has_label_grad], **b = ps->buffer;
    graph_append(g, &grad_norm_op, &a, sizeof a, 4, (Tensor *[]){ b[BUFFER_GRAD], ps->span, has, ps->state });
    Tensor *in[] = { b[BUFFER_GRAD], ps->span, has, ps->state, ps->count, b[BUFFER_VALUE], b[BUFFER_M], b[BUFFER_V],
                     b[BUFFER_EMA], ps->copy[WEIGHTS_TRAIN].buffer };
    graph_append(g, &adam_op, &a, sizeof a, 10, in);
}

typedef struct { SgdConfig c; int64_t n; } SgdAttr;
static void sgd_infer(Graph *g, Node *n) { (void)g; n->out[0] = n->in[3]; n->n_out = 1; }
static void sgd_bind(const Node *n, void *shape, void *args) {
    const SgdAttr *a = NODE_ATTR(n, SgdAttr);
    *(SgdShape *)shape = (SgdShape){ .n = a->n, .momentum = a->c.momentum, .weight_decay = a->c.weight_decay };
    *(SgdArgs *)args = (SgdArgs){ .g = tensor_data(n->in[0]), .lr = tensor_data(n->in[1]),
                                  .state = tensor_data(n->in[2]), .w = tensor_data(n->in[3]),
                                  .m = tensor_data(n->in[4]), .shadow = tensor_data(n->in[5]) };
}
static OpCost sgd_cost(const Node *n) {
    return (OpCost){ 6.0 * (double)tensor_numel(n->in[0]), 5.0 * (double)tensor_bytes(n->in[0]) };
}
static const OpDef sgd_op = { .name = "sgd", .launcher = &sgd, .infer = sgd_infer, .bind = sgd_bind,
                              .cost = sgd_cost };

// Momentum lives where Adam's first moment does.
void param_append_sgd(ParamSet *ps, Graph *g, Tensor *lr, const SgdConfig *c) {
    OptimAttr norm = { .n = ps->elements, .tensors = ps->n };
    SgdAttr a = { *c, ps->elements };
    Tensor **b = ps->buffer;
    Tensor *of_norm[] = { b[BUFFER_GRAD], ps->span, ps->has_grad[1], ps->state };
    graph_append(g, &grad_norm_op, &norm, sizeof norm, 4, of_norm);
    Tensor *in[] = { b[BUFFER_GRAD], lr, ps->state, b[BUFFER_VALUE], b[BUFFER_M], ps->copy[WEIGHTS_TRAIN].buffer };
    graph_append(g, &sgd_op, &a, sizeof a, 6, in);
}

void param_append_zero_grad(ParamSet *ps, Graph *g) { op_fill_to(g, ps->buffer[BUFFER_GRAD], 0.0f); }
