// core/ops/diffuse.c - the graph's view of the forward process, one reverse step, and the CBDM loss.
#include "core/ops.h"
#include "kernels/diffuse/diffuse.h"
#include "kernels/loss/loss.h"
#include "kernels/optim/optim.h"
#include "kernels/pointwise/pointwise.h"

static int64_t per_image(const Tensor *x) { return tensor_numel(x) / x->shape[0]; }

// ---- x_t: in = x0, eps, t, root; out = xt
static void add_noise_infer(Graph *g, Node *n) {
    CHECK(tensor_same_shape(n->in[0], n->in[1]) && n->in[0]->layout == LAYOUT_NHWC, "add_noise: %s and %s",
          tensor_str(n->in[0]), tensor_str(n->in[1]));
    n->out[0] = graph_tensor(g, graph_dtype(g), 4, n->in[0]->shape);
    n->n_out = 1;
}
static void add_noise_bind(const Node *n, void *shape, void *args) {
    const Tensor *x = n->in[0];
    *(AddNoiseShape *)shape = (AddNoiseShape){ .n = (int)x->shape[0], .e = per_image(x), .T = (int)n->in[3]->shape[0],
                                               .out = n->out[0]->dtype };
    *(AddNoiseArgs *)args = (AddNoiseArgs){ .x0 = tensor_data(x), .eps = tensor_data(n->in[1]),
                                            .t = tensor_data(n->in[2]), .root = tensor_data(n->in[3]),
                                            .xt = tensor_data(n->out[0]) };
}
static const OpDef add_noise_op = { .name = "add_noise", .launcher = &add_noise, .infer = add_noise_infer,
                                    .bind = add_noise_bind };
Tensor *op_add_noise(Graph *g, Tensor *x0, Tensor *eps, Tensor *t, Tensor *root) {
    return graph_append(g, &add_noise_op, NULL, 0, 4, (Tensor *[]){ x0, eps, t, root })->out[0];
}

// ---- x_t from bytes: in = images, index, t, sample, state, root; out = xt, eps
typedef struct { bool flip; } QSampleAttr;
static void q_sample_infer(Graph *g, Node *n) {
    const Tensor *images = n->in[0], *index = n->in[1], *t = n->in[2], *sample = n->in[3];
    CHECK(images->dtype == DT_U8 && images->ndim == 4 && index->dtype == DT_I32 && tensor_same_shape(index, t) &&
          tensor_same_shape(index, sample), "q_sample: %s, %s, %s and %s", tensor_str(images), tensor_str(index),
          tensor_str(t), tensor_str(sample));
    int64_t shape[] = { index->shape[0], images->shape[1], images->shape[2], images->shape[3] };
    n->out[0] = graph_tensor(g, graph_dtype(g), 4, shape);
    n->out[1] = graph_tensor(g, DT_F32, 4, shape);
    n->n_out = 2;
}
static void q_sample_bind(const Node *n, void *shape, void *args) {
    const Tensor *xt = n->out[0];
    *(QSampleShape *)shape = (QSampleShape){ .n = (int)xt->shape[0], .h = (int)xt->shape[1], .w = (int)xt->shape[2],
                                             .c = (int)xt->shape[3], .T = (int)n->in[5]->shape[0],
                                             .flip = NODE_ATTR(n, QSampleAttr)->flip, .out = xt->dtype };
    *(QSampleArgs *)args = (QSampleArgs){ .images = tensor_data(n->in[0]), .index = tensor_data(n->in[1]),
                                          .t = tensor_data(n->in[2]), .sample = tensor_data(n->in[3]),
                                          .state = tensor_data(n->in[4]), .root = tensor_data(n->in[5]),
                                          .eps = tensor_data(n->out[1]), .xt = tensor_data(xt) };
}
static OpCost q_sample_cost(const Node *n) {               // of the data set only the images of the batch are read
    const Tensor *xt = n->out[0];
    return (OpCost){ .bytes = (double)tensor_numel(xt) + (double)tensor_bytes(xt) + (double)tensor_bytes(n->out[1]) };
}
static const OpDef q_sample_op = { .name = "q_sample", .launcher = &q_sample, .infer = q_sample_infer,
                                   .bind = q_sample_bind, .cost = q_sample_cost };
NoisyImages op_q_sample(Graph *g, Tensor *images, bool flip, Tensor *index, Tensor *t, Tensor *sample, Tensor *state,
                        Tensor *root) {
    QSampleAttr a = { flip };
    Node *n = graph_append(g, &q_sample_op, &a, sizeof a, 6, (Tensor *[]){ images, index, t, sample, state, root });
    return (NoisyImages){ n->out[0], n->out[1] };
}

// ---- reverse step: in = eps_hat, coef, sample, state, x; out = x, in place
typedef struct { bool guided; } StepAttr;
static void step_infer(Graph *g, Node *n) { (void)g; n->out[0] = n->in[4]; n->n_out = 1; }
static void step_bind(const Node *n, void *shape, void *args) {
    const Tensor *x = n->in[4], *hat = n->in[0];
    bool guided = NODE_ATTR(n, StepAttr)->guided;
    CHECK(hat->layout == LAYOUT_NHWC && tensor_is_dense(hat) && hat->shape[0] == x->shape[0] * (guided ? 2 : 1) &&
          hat->dtype != DT_BF16 && x->dtype != DT_BF16, "sampler_step: %s for %s", tensor_str(hat), tensor_str(x));
    *(SamplerStepShape *)shape = (SamplerStepShape){ .n = (int)x->shape[0], .e = per_image(x),
                                                     .purpose = PURPOSE_SAMPLER };
    char *cond = tensor_data(hat);
    *(SamplerStepArgs *)args = (SamplerStepArgs){
        .coef = tensor_data(n->in[1]), .sample = tensor_data(n->in[2]), .state = tensor_data(n->in[3]),
        .cond = (real *)cond, .uncond = guided && cond ? (real *)(cond + tensor_bytes(x)) : NULL,
        .x = tensor_data(x) };
}
static const OpDef sampler_step_op = { .name = "sampler_step", .launcher = &sampler_step, .infer = step_infer,
                                       .bind = step_bind };
void op_sampler_step(Graph *g, Tensor *x, Tensor *eps_hat, bool guided, Tensor *coef, Tensor *sample, Tensor *state) {
    StepAttr a = { guided };
    graph_append(g, &sampler_step_op, &a, sizeof a, 5, (Tensor *[]){ eps_hat, coef, sample, state, x });
}

// ---- loss: in = eps_hat, eps, t, weight or NULL; out = loss (3), d eps_hat (if wanted), per_image (N)
static void loss_infer(Graph *g, Node *n) {
    const Tensor *h = n->in[0], *eps = n->in[1], *weight = n->in[3];
    bool balanced = h->shape[0] == 2 * eps->shape[0];
    CHECK(!weight || tensor_numel(weight) == eps->shape[0], "cbdm_loss: weights %s for %s", tensor_str(weight),
          tensor_str(eps));
    CHECK(h->layout == LAYOUT_NHWC && tensor_is_dense(h) && (h->shape[0] == eps->shape[0] || balanced) &&
          h->dtype != DT_BF16 && eps->dtype != DT_BF16,
          "cbdm_loss: %s for %s", tensor_str(h), tensor_str(eps));
    n->out[0] = graph_tensor(g, DT_F32, 1, (int64_t[]){ 3 });
    n->out[1] = graph_grad_out(g, n->in[0]);
    n->out[2] = graph_tensor(g, DT_F32, 1, (int64_t[]){ eps->shape[0] });
    n->n_out = 3;
}
static void loss_bind(const Node *n, void *shape, void *args) {
    const CbdmLossConfig *c = NODE_ATTR(n, CbdmLossConfig);
    const Tensor *h = n->in[0], *eps = n->in[1];
    *(CbdmLossShape *)shape = (CbdmLossShape){ .n = (int)eps->shape[0], .e = per_image(eps), .T = c->T, .tau = c->tau,
                                               .gamma = c->gamma, .share = c->share };
    bool balanced = h->shape[0] == 2 * eps->shape[0];
    char *first = tensor_data(h), *grad = tensor_data(n->out[1]);
    size_t half = tensor_bytes(eps);
    *(CbdmLossArgs *)args = (CbdmLossArgs){
        .h = (real *)first, .hb = balanced && first ? (real *)(first + half) : NULL, .eps = tensor_data(eps),
        .t = tensor_data(n->in[2]), .loss = tensor_data(n->out[0]), .dh = (real *)grad,
        .dhb = balanced && grad ? (real *)(grad + half) : NULL,
        .weight = tensor_data(n->in[3]), .per_image = tensor_data(n->out[2]) };
}
static void loss_backward(Graph *g, const Node *n) { graph_add_grad(g, n->in[0], n->out[1]); }
static const OpDef cbdm_loss_op = { .name = "cbdm_loss", .launcher = &cbdm_loss, .infer = loss_infer, .bind = loss_bind,
                                    .backward = loss_backward, .is_loss = true };
CbdmLoss op_cbdm_loss(Graph *g, Tensor *eps_hat, Tensor *eps, Tensor *t, Tensor *weight, const CbdmLossConfig *c) {
    Node *n = graph_append(g, &cbdm_loss_op, c, sizeof *c, 4, (Tensor *[]){ eps_hat, eps, t, weight });
    return (CbdmLoss){ n->out[0], n->out[2] };
}

// ---- the clock: in = state, in place
static void advance_infer(Graph *g, Node *n) { (void)g; n->out[0] = n->in[0]; n->n_out = 1; }
static void advance_bind(const Node *n, void *shape, void *args) {
    (void)shape;
    *(StepAdvanceArgs *)args = (StepAdvanceArgs){ .state = tensor_data(n->in[0]) };
}
static const OpDef step_advance_op = { .name = "step_advance", .launcher = &step_advance, .infer = advance_infer,
                                       .bind = advance_bind };
void op_step_advance(Graph *g, Tensor *state) { graph_append(g, &step_advance_op, NULL, 0, 1, &state); }
