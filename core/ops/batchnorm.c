// core/ops/batchnorm.c - the graph's view of batch normalization, with a residual and ReLU.
#include "core/ops.h"
#include "kernels/batchnorm/batchnorm.h"

typedef struct { double momentum, eps; Act act; bool training, accumulate; } Attr;
enum { X, GAMMA, BETA, MEAN, VAR, RESIDUAL, N_IN };

// y and residual: or their gradients.
static BatchNormShape shape_of(const Node *n, const Tensor *x, const Tensor *y, const Tensor *residual) {
    const Attr *a = NODE_ATTR(n, Attr);
    return (BatchNormShape){ .n = (int)x->shape[0], .hw = (int)tensor_pixels(x), .c = (int)x->shape[3],
                             .ldx = tensor_ld(x), .ldy = tensor_ld(y),
                             .ldr = residual ? tensor_ld(residual) : (int)x->shape[3], .momentum = a->momentum,
                             .eps = a->eps, .act = a->act, .training = a->training, .dtype = x->dtype,
                             .layout = x->layout };
}

// ---- backward: in = dy, x, gamma, beta, mean, rstd, y or NULL, residual or NULL;
// out = dx, dgamma, dbeta (the parameters' gradients), dresidual
static void grad_infer(Graph *g, Node *n) {
    n->out[0] = graph_grad_out(g, n->in[1]);
    n->out[1] = n->in[2]->grad;
    n->out[2] = n->in[3]->grad;
    n->out[3] = graph_grad_out(g, n->in[7]);
    n->n_out = 4;
}
static void grad_bind(const Node *n, void *shape, void *args) {
    *(BatchNormShape *)shape = shape_of(n, n->in[1], n->in[0], n->out[3]);
    *(BatchNormBackwardArgs *)args = (BatchNormBackwardArgs){
        .dy = tensor_data(n->in[0]), .x = tensor_data(n->in[1]), .y = tensor_data(n->in[6]),
        .gamma = tensor_data(n->in[2]), .mean = tensor_data(n->in[4]), .rstd = tensor_data(n->in[5]),
        .dx = tensor_data(n->out[0]), .dresidual = tensor_data(n->out[3]), .dgamma = tensor_data(n->out[1]),
        .dbeta = tensor_data(n->out[2]), .accumulate = NODE_ATTR(n, Attr)->accumulate };
}
static OpCost grad_cost(const Node *n) {
    return (OpCost){ .flops = 12.0 * (double)tensor_numel(n->in[1]), .bytes = 5.0 * (double)tensor_bytes(n->in[1]) };
}
static const OpDef batchnorm_grad = { .name = "batchnorm_grad", .launcher = &batchnorm_backward, .infer = grad_infer,
                                      .bind = grad_bind, .cost = grad_cost };

// ---- forward: in = x, gamma, beta, running mean, running variance, residual; out = y and, in training, the batch's
// mean and rstd, running mean and variance
static void infer(Graph *g, Node *n) {
    Tensor *x = n->in[X], *residual = n->in[RESIDUAL];
    const Attr *a = NODE_ATTR(n, Attr);
    CHECK(x->ndim == 4 && tensor_numel(n->in[MEAN]) == x->shape[3] && tensor_numel(n->in[GAMMA]) == x->shape[3] &&
          (!residual || (tensor_same_shape(x, residual) && residual->dtype == x->dtype)), "batchnorm: %s with %s",
          tensor_str(x), tensor_str(residual ? residual : n->in[GAMMA]));
    CHECK(!a->training || x->shape[0] * tensor_pixels(x) > 1, "batchnorm: no variance of one pixel, %s", tensor_str(x));
    n->out[0] = graph_tensor(g, x->dtype, 4, x->shape);
    n->out[0]->layout = x->layout;
    n->n_out = 1;
    if (!a->training) return;
    n->out[1] = graph_tensor(g, DT_F32, 1, &x->shape[3]);
    n->out[2] = graph_tensor(g, DT_F32, 1, &x->shape[3]);
    n->out[3] = n->in[MEAN];
    n->out[4] = n->in[VAR];
    n->n_out = 5;
}
static void bind(const Node *n, void *shape, void *args) {
    *(BatchNormShape *)shape = shape_of(n, n->in[X], n->out[0], n->in[RESIDUAL]);
    *(BatchNormForwardArgs *)args = (BatchNormForwardArgs){
        .x = tensor_data(n->in[X]), .residual = tensor_data(n->in[RESIDUAL]), .gamma = tensor_data(n->in[GAMMA]),
        .beta = tensor_data(n->in[BETA]), .running_mean = tensor_data(n->in[MEAN]),
        .running_var = tensor_data(n->in[VAR]), .y = tensor_data(n->out[0]), .mean = tensor_data(n->out[1]),
        .rstd = tensor_data(n->out[2]) };
}
static void backward(Graph *g, const Node *n) {
    Attr a = *NODE_ATTR(n, Attr);
    bool relu = a.act == ACT_RELU;
    if (!a.training) return;
    a.accumulate = graph_accumulates(g);
    Tensor *dy = n->out[0]->grad, *residual = n->in[RESIDUAL];
    Tensor *in[] = { dy, n->in[X], n->in[GAMMA], n->in[BETA], n->out[1], n->out[2], relu ? n->out[0] : NULL,
                     relu ? residual : NULL };
    Node *grad = graph_append(g, &batchnorm_grad, &a, sizeof a, 8, in);
    graph_add_grad(g, n->in[X], grad->out[0]);
    graph_add_grad(g, residual, relu ? grad->out[3] : dy);
}
static OpCost cost(const Node *n) {
    double passes = 2 + (n->in[RESIDUAL] != NULL) + NODE_ATTR(n, Attr)->training;
    return (OpCost){ .flops = 8.0 * (double)tensor_numel(n->in[X]), .bytes = passes * (double)tensor_bytes(n->in[X]) };
}
static const OpDef batchnorm = { .name = "batchnorm", .launcher = &batchnorm_forward, .infer = infer, .bind = bind,
                                 .backward = backward, .cost = cost };

Tensor *op_batchnorm(Graph *g, Tensor *x, const BatchNorm *b, Tensor *residual, Act act, bool training) {
    Attr a = { .momentum = b->momentum, .eps = b->eps, .act = act, .training = training };
    CHECK(act == ACT_NONE || act == ACT_RELU, "batchnorm: activation %d", (int)act);
    if (residual) residual = op_relayout(g, residual, x->layout);
    Tensor *in[N_IN] = { x, b->gamma, b->beta, b->mean, b->var, residual };
    return graph_append(g, &batchnorm, &a, sizeof a, N_IN, in)->out[0];
}
