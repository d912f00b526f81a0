// tests/opcase.c - recording, filling and running one case of an operation on one device.
//
// Gradients start from a cotangent per output, fixed normal values of its shape: the loss is sum(y * cotangent), whose
// node computes nothing and hands the cotangent on as y's gradient. Before a run all planned memory and the buffers of
// parameter gradients are set to NaN, so that what nobody writes and what is added to instead of written shows.
#include "opcase.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/graph_impl.h"
#include "kernels/common/bf16.h"
#include "kernels/common/rng.h"
#include "opcase_impl.h"
#include "schedule.h"

// ---- values
uint32_t case_hash(const char *a, const char *b) {
    uint32_t h = 2166136261u;
    for (const char *c = a; *c; c++) h = (h ^ (uint8_t)*c) * 16777619u;
    h = (h ^ '/') * 16777619u;
    for (const char *c = b; *c; c++) h = (h ^ (uint8_t)*c) * 16777619u;
    return h;
}

float case_normal(uint32_t hash, int64_t i) {
    float draw[4];
    rng_normal4(philox((uint32_t[]){ hash, 1 }, (uint32_t)(i / 4), 0, 0, 0).v, draw);
    return draw[i % 4];
}

static uint32_t random_word(uint32_t hash, int64_t i) {
    return philox((uint32_t[]){ hash, 2 }, (uint32_t)i, 0, 0, 0).v[0];
}

float case_value(const OpCase *c, uint32_t hash, int64_t i, Fill fill) {
    if (fill == FILL_ONES) return 1;
    float v = c->use & CASE_EXACT ? (float)rng_below(random_word(hash, i), 5) - 2
                                  : case_normal(hash, i) * (float)(c->scale != 0 ? c->scale : 1);
    return fill == FILL_SQUARES ? v * v : v;
}

double case_largest(const OpCase *c, const char *input, int64_t numel) {
    float top = 0;
    uint32_t hash = case_hash(c->name, input);
    for (int64_t i = 0; i < numel; i++) top = fmaxf(top, fabsf(case_value(c, hash, i, FILL_VALUES)));
    return (double)top;
}

// ---- what build() declares
const char *const case_kinds[] = { "ref",
#ifndef CBDM_NO_ONEDNN
                                   "cpu",
#endif
#ifdef CBDM_EMU
                                   "emu",
#endif
                                   NULL };

Graph    *case_graph(OpRun *r) { return r->g; }
ParamSet *case_params(OpRun *r) { return r->ps; }

static Input *add_input(OpRun *r, const char *name, Tensor *t) {
    CHECK(r->n_in < MAX_INPUTS, "case %s has too many inputs", r->c->name);
    Input *in = &r->in[r->n_in++];
    *in = (Input){ .t = t, .hash = case_hash(r->c->name, name), .spread = 1 };
    snprintf(in->name, sizeof in->name, "%s", name);
    return in;
}

Tensor *case_input(OpRun *r, const char *name, int ndim, const int64_t *shape, unsigned use) {
    DType dt = use & IN_F32 ? DT_F32 : graph_dtype(r->g);
    Input *in = add_input(r, name, graph_input(r->g, name, dt, ndim, shape));
    in->narrow = !(use & IN_F32);
    in->differentiate = !(use & IN_CONSTANT);
    if (in->differentiate) in->t->flags |= TENSOR_NEEDS_GRAD;
    return in->t;
}

Tensor *case_image(OpRun *r, const char *name, int64_t n, int64_t h, int64_t w, int64_t c) {
    Tensor *x = case_input(r, name, 4, (int64_t[]){ n, h, w, c }, 0);
    return op_relayout(r->g, x, c % 16 ? LAYOUT_NHWC : device_layout(graph_device(r->g)));
}

Tensor *case_index(OpRun *r, const char *name, int64_t n, int32_t begin, int32_t end) {
    Tensor *t = graph_input(r->g, name, DT_I32, 1, &n);
    case_adopt(r, name, t, begin, end);
    return t;
}

void case_adopt(OpRun *r, const char *name, Tensor *t, int32_t begin, int32_t end) {
    Input *in = add_input(r, name, t);
    if (t->dtype != DT_I32) return;
    int64_t n = tensor_numel(t);
    in->index = xmalloc((size_t)n * sizeof *in->index);
    uint32_t first = (uint32_t)begin, range = (uint32_t)end - first;
    for (int64_t i = 0; i < n; i++) in->index[i] = (int32_t)(first + rng_below(random_word(in->hash, i), range));
}

void case_adopt_given(OpRun *r, const char *name, Tensor *t, const float *values) {
    size_t bytes = (size_t)tensor_numel(t) * sizeof *values;
    add_input(r, name, t)->given = memcpy(xmalloc(bytes), values, bytes);
}

Tensor *case_given(OpRun *r, const char *name, int ndim, const int64_t *shape, const float *values) {
    Tensor *t = graph_input(r->g, name, DT_F32, ndim, shape);
    case_adopt_given(r, name, t, values);
    return t;
}

static Param *add_param(OpRun *r, const char *name, int ndim, const int64_t *shape, bool narrow) {
    Param *p = param_add(r->ps, name, ndim, shape, INIT_ZERO, 0);
    Input *in = add_input(r, name, param_tensor(p, r->g));
    in->differentiate = true;
    in->narrow = narrow;
    return p;
}

Tensor *case_param(OpRun *r, const char *name, int ndim, const int64_t *shape) {
    return param_tensor(add_param(r, name, ndim, shape, false), r->g);
}

Tensor *case_operand(OpRun *r, const char *name, int ndim, const int64_t *shape) {
    return param_operand(add_param(r, name, ndim, shape, true), r->g);
}

void case_seal(OpRun *r) {
    param_seal(r->ps, PARAM_TRAIN, case_hash(r->c->name, "parameters"));
    r->sealed = true;
}

// Weights keep the variance of what they multiply; gains lie around 1, biases around 0.
void case_model(OpRun *r, ParamSet *ps, void *model, void (*release)(void *)) {
    param_set_free(r->ps);
    r->ps = ps;
    r->sealed = true;
    r->model = model;
    r->release = release;
    for (int i = 0; i < param_count(ps); i++) {
        Tensor *t = param_value(param_get(ps, i));
        Input *in = add_input(r, t->name, t);
        in->differentiate = true;
        in->spread = t->ndim == 1 ? 0.1f : 1 / sqrtf((float)tensor_numel(t) / (float)t->shape[0]);
        if (t->ndim == 1 && strstr(t->name, ".weight")) in->center = 1;
        in->narrow = t->ndim == 4;                               // filters, not the time embedding's matrices
    }
}

bool case_gradients(const OpRun *r) { return r->gradients; }
void case_recorded(OpRun *r) { r->recorded = true; }

void case_no_gradient(OpRun *r, const char *name) {
    for (int i = 0; i < r->n_in; i++)
        if (strcmp(r->in[i].name, name) == 0) r->in[i].differentiate = false;
}

void case_state(OpRun *r) { r->state = true; }

void case_output(OpRun *r, const char *name, Tensor *t, unsigned use) {
    CHECK(r->n_out < MAX_OUTPUTS, "case %s has too many outputs", r->c->name);
    Output *out = &r->out[r->n_out++];
    *out = (Output){ .t = t, .use = use };
    CHECK(graph_dtype(r->g) != DT_BF16 || (t->dtype == DT_BF16) == !(use & OUT_F32), "output %s", tensor_str(t));
    snprintf(out->name, sizeof out->name, "%s", name);
    graph_output(r->g, t);
}

void case_loss(OpRun *r, Tensor *loss) { r->loss = graph_output(r->g, loss); }

// ---- the end of the forward graph: in = y, cotangent, y, cotangent, ...; y's gradient is the cotangent itself
static void end_infer(Graph *g, Node *n) { n->out[0] = graph_tensor(g, DT_F32, 1, (int64_t[]){ 1 }); n->n_out = 1; }
static void end_backward(Graph *g, const Node *n) {
    for (int i = 0; i < n->n_in; i += 2) graph_add_grad(g, n->in[i], n->in[i + 1]);
}
static const OpDef end_op = { .name = "cotangents", .infer = end_infer, .backward = end_backward, .is_loss = true };

static void record_backward(OpRun *r) {
    Tensor *in[NODE_MAX_IN];
    int n = 0;
    for (int i = 0; i < r->n_out && !r->loss; i++) {
        Output *o = &r->out[i];
        if (o->use & OUT_NO_GRAD || !tensor_needs_grad(o->t)) continue;
        CHECK(n + 2 <= NODE_MAX_IN, "case %s has too many outputs with a gradient", r->c->name);
        char name[64];
        snprintf(name, sizeof name, "cotangent.%s", o->name);
        o->cotangent = graph_input(r->g, name, o->t->dtype, o->t->ndim, o->t->shape);
        add_input(r, name, o->cotangent)->narrow = !(o->use & OUT_F32);
        in[n++] = o->t;
        in[n++] = op_relayout(r->g, o->cotangent, o->t->layout);
    }
    if (!n && !r->loss) return;
    if (!r->recorded) graph_backward(r->g, r->loss ? r->loss : graph_append(r->g, &end_op, NULL, 0, n, in)->out[0]);
    r->has_gradients = true;
    for (int i = 0; i < r->n_in; i++) {
        Input *input = &r->in[i];
        CHECK(!input->differentiate || input->t->grad, "case %s: no gradient flows to %s", r->c->name, input->name);
        if (input->differentiate && !(input->t->flags & TENSOR_PERSISTENT)) graph_output(r->g, input->t->grad);
    }
    if (!(r->c->use & CASE_PLAIN) && !r->recorded) graph_rewrite_backward(r->g);
}

OpRun *case_record(const OpSuite *s, const OpCase *c, Device *d, const RunSpec *spec, bool gradients) {
    OpRun *r = xcalloc(1, sizeof *r);
    r->c = c;
    r->gradients = gradients;
    r->rounded = spec->rounded;
    r->ps = param_set_new(d);
    r->g = graph_new(d, c->name, WEIGHTS_TRAIN);
    graph_set_dtype(r->g, spec->dtype);
    if (c->use & CASE_ACCUMULATE) graph_accumulate(r->g);
    s->build(r, c);
    if (param_count(r->ps) && !r->sealed) case_seal(r);
    if (!(c->use & CASE_PLAIN) && !r->recorded) graph_rewrite_forward(r->g);
    if (gradients) record_backward(r);
    r->arena = arena_new(d);
    graph_plan(r->g, r->arena);
    arena_seal(r->arena);
    return r;
}

void case_free(OpRun *r) {
    if (!r) return;
    for (int i = 0; i < r->n_in; i++) {
        free(r->in[i].index);
        free(r->in[i].given);
    }
    graph_free(r->g);
    arena_free(r->arena);
    if (r->release) r->release(r->model);
    else param_set_free(r->ps);
    free(r);
}

// ---- one run
static void fill_input(OpRun *r, const Input *in, Fill fill, int draw) {
    int64_t n = tensor_numel(in->t);
    uint32_t hash = in->hash;
    if (in->index) {
        tensor_write(in->t, in->index);
        return;
    }
    float *v = xmalloc((size_t)n * sizeof *v);
    for (int64_t i = 0; i < n; i++)
        v[i] = in->given ? in->given[i] : in->center + in->spread * case_value(r->c, hash, i, fill);
    float step = draw && !in->given ? 4 * (r->rounded ? 0x1p-8f : 0x1p-24f) : 0;
    for (int64_t i = 0; i < n && step > 0; i++) v[i] *= 1 + step * case_normal(hash + 0x9E3779B9u * (uint32_t)draw, i);
    for (int64_t i = 0; i < n && in->narrow && r->rounded; i++) v[i] = bf16_to_float(bf16_from_float(v[i]));
    tensor_write_f32(in->t, v);
    if (in->t->flags & TENSOR_PERSISTENT && in->t->grad) {           // a parameter: what its gradient starts from
        hash = case_hash(in->name, "before");
        for (int64_t i = 0; i < n; i++) v[i] = r->c->use & CASE_ACCUMULATE ? case_value(r->c, hash, i, fill) : NAN;
        tensor_write_f32(in->t->grad, v);
    }
    free(v);
}

void case_fill(OpRun *r, Fill fill, int draw) {
    device_poison(graph_device(r->g), r->arena->memory, r->arena->bytes);
    for (int i = 0; i < r->n_in; i++) fill_input(r, &r->in[i], fill, draw);
    param_refresh(r->ps, WEIGHTS_TRAIN);
    StepState state = { .seed = { case_hash(r->c->name, "seed"), 7 }, .step = 11, .sampler_index = 1 };
    param_state_write(r->ps, &state);
}

// The bases of all tensors computed, at any remove, by an implementation whose name starts with `prefix`, then NULL.
static Tensor **computed_by(Graph *g, const char *prefix) {
    Tensor **set = xcalloc((size_t)graph_node_count(g) * NODE_MAX_OUT + 1, sizeof(Tensor *));
    int n = 0;
    for (int i = 0; prefix && i < graph_node_count(g); i++) {
        const Node *node = graph_node(g, i);
        bool hit = node->impl && strncmp(node->impl->name, prefix, strlen(prefix)) == 0;
        for (int j = 0; j < node->n_in && !hit; j++)
            for (int k = 0; k < n && node->in[j] && !hit; k++) hit = set[k] == tensor_base(node->in[j]);
        for (int j = 0; j < node->n_out && hit; j++)
            if (node->out[j]) set[n++] = tensor_base(node->out[j]);
    }
    return set;
}

static Result *new_result(Results *all, const char *prefix, const char *name, int64_t n, unsigned use) {
    CHECK(all->n < MAX_RESULTS, "too many results at %s%s", prefix, name);
    Result *to = &all->result[all->n++];
    *to = (Result){ .n = n, .use = use };
    snprintf(to->name, sizeof to->name, "%s%s", prefix, name);
    to->value = xmalloc((size_t)n * sizeof *to->value);
    return to;
}

static void add_result(Results *all, const char *prefix, const char *name, Tensor *t, unsigned use,
                       Tensor *const *amplified) {
    Result *to = new_result(all, prefix, name, tensor_numel(t), use);
    to->dtype = t->dtype;
    tensor_read_f64(t, to->value);
    for (int i = 0; amplified[i]; i++) to->amplified |= amplified[i] == tensor_base(t);
}

Results *case_results(const OpSuite *s, const OpRun *r) {
    Results *all = xcalloc(1, sizeof *all);
    all->nodes = graph_node_count(r->g);
    for (int i = 0; i < all->nodes; i++) {
        const Node *n = graph_node(r->g, i);
        for (int j = 0; j < n->n_in; j++) all->bf16 |= n->in[j] && n->in[j]->dtype == DT_BF16;
        for (int j = 0; j < n->n_out; j++) all->bf16 |= n->out[j] && n->out[j]->dtype == DT_BF16;
    }
    Tensor **amplified = computed_by(r->g, s->amplified);
    for (int i = 0; i < r->n_out; i++) add_result(all, "", r->out[i].name, r->out[i].t, r->out[i].use, amplified);
    for (int i = 0; i < r->n_in && r->has_gradients; i++)
        if (r->in[i].differentiate) add_result(all, "d ", r->in[i].name, r->in[i].t->grad, 0, amplified);
    free(amplified);
    StepState state = param_state_read(r->ps);
    if (r->state) {
        new_result(all, "state.", "updates", 1, OUT_BITS)->value[0] = (double)state.updates;
        new_result(all, "state.", "skipped", 1, OUT_BITS)->value[0] = (double)state.skipped;
        new_result(all, "state.", "lr", 1, 0)->value[0] = (double)state.lr;
        new_result(all, "state.", "grad_norm", 1, 0)->value[0] = (double)state.grad_norm;
    }
    return all;
}

// The launcher of the other direction, or "".
static void other_direction(const char *launcher, char *to, size_t bytes) {
    static const char *const ends[] = { "_forward", "_backward" };
    *to = 0;
    for (int i = 0; i < 2; i++) {
        size_t n = strlen(launcher), end = strlen(ends[i]);
        if (n > end && strcmp(launcher + n - end, ends[i]) == 0)
            snprintf(to, bytes, "%.*s%s", (int)(n - end), launcher, ends[1 - i]);
    }
}

// An implementation of one direction runs with its own of the other, if it has one: the backward pass may read what the
// forward pass has rounded (lse), and ref32, the yardstick, is one implementation too.
Device *case_device(const RunSpec *spec) {
    Error err = { 0 };
    Device *d = device_open(spec->device, &err);
    CHECK(d, "%s", err.msg);
    if (device_kind(d) == DEV_CPU) device_set_layout(d, spec->layout);
    char other[64] = "";
    if (spec->launcher) other_direction(spec->launcher, other, sizeof other);
    if (spec->launcher) device_prefer(d, spec->launcher, spec->impl);
    if (*other) device_prefer(d, other, spec->impl);
    choose_schedule(spec->schedule);
    return d;
}

Results *case_run(const OpSuite *s, const OpCase *c, const RunSpec *spec) {
    Device *d = case_device(spec);
    OpRun *r = case_record(s, c, d, spec, true);
    case_fill(r, spec->fill, spec->draw);
    graph_run(r->g);
    Results *all = case_results(s, r);
    case_free(r);
    device_close(d);
    return all;
}

void results_free(Results *r) {
    if (!r) return;
    for (int i = 0; i < r->n; i++) free(r->result[i].value);
    free(r);
}

const Result *results_find(const Results *r, const char *name) {
    for (int i = 0; i < r->n; i++)
        if (strcmp(r->result[i].name, name) == 0) return &r->result[i];
    fatal(__FILE__, __LINE__, "result", "there is no result %s", name);
}
