// core/ops/groupnorm.c - the graph's view of group normalization, with SiLU and, in its fused form, dropout.
#include "core/ops/groupnorm.h"

#include "kernels/groupnorm/groupnorm.h"

static GroupNormShape shape_of(const Node *n, const Tensor *x, const Tensor *y) {
    const GroupNormAttr *a = NODE_ATTR(n, GroupNormAttr);
    return (GroupNormShape){ .n = (int)x->shape[0], .hw = (int)tensor_pixels(x), .c = (int)x->shape[3],
                             .groups = a->groups, .ldx = tensor_ld(x), .ldy = tensor_ld(y), .eps = a->eps,
                             .act = a->act, .p16 = a->p16, .purpose = a->purpose, .dtype = x->dtype,
                             .layout = x->layout };
}

// ---- backward: in = dy, x, gamma, beta, mean, rstd, mask, add; out = dx, dgamma, dbeta (the parameters' gradients)
static void grad_infer(Graph *g, Node *n) {
    n->out[0] = graph_grad_out(g, n->in[1]);
    if (!n->out[0]) n->out[0] = graph_grad_sink(g, n->in[1]);
    n->out[1] = n->in[2]->grad;
    n->out[2] = n->in[3]->grad;
    n->n_out = 3;
}
static void grad_bind(const Node *n, void *shape, void *args) {
    *(GroupNormShape *)shape = shape_of(n, n->in[1], n->in[0]);
    *(GroupNormBackwardArgs *)args = (GroupNormBackwardArgs){
        .dy = tensor_data(n->in[0]), .x = tensor_data(n->in[1]), .gamma = tensor_data(n->in[2]),
        .beta = tensor_data(n->in[3]), .mean = tensor_data(n->in[4]), .rstd = tensor_data(n->in[5]),
        .mask = tensor_data(n->in[6]), .add = tensor_data(n->in[GROUPNORM_GRAD_IN_ADD]), .dx = tensor_data(n->out[0]),
        .dgamma = tensor_data(n->out[1]), .dbeta = tensor_data(n->out[2]),
        .accumulate = NODE_ATTR(n, GroupNormAttr)->accumulate };
}
static OpCost grad_cost(const Node *n) {
    return (OpCost){ .flops = 16.0 * (double)tensor_numel(n->in[1]), .bytes = 3.0 * (double)tensor_bytes(n->in[1]) };
}
const OpDef op_def_groupnorm_grad = { .name = "groupnorm_grad", .launcher = &groupnorm_backward, .infer = grad_infer,
                                      .bind = grad_bind, .cost = grad_cost };

// ---- forward: in = x, gamma, beta, sample, state; out = y, mean, rstd, mask
static void infer(Graph *g, Node *n) {
    Tensor *x = n->in[0];
    const GroupNormAttr *a = NODE_ATTR(n, GroupNormAttr);
    CHECK(x->ndim == 4 && x->shape[3] % a->groups == 0, "groupnorm: %s in %d groups", tensor_str(x), a->groups);
    n->out[0] = graph_tensor(g, x->dtype, 4, x->shape);
    n->out[0]->layout = x->layout;
    n->out[1] = graph_tensor(g, DT_F32, 2, (int64_t[]){ x->shape[0], a->groups });
    n->out[2] = graph_tensor(g, DT_F32, 2, (int64_t[]){ x->shape[0], a->groups });
    if (a->p16) n->out[GROUPNORM_OUT_MASK] = graph_tensor(g, DT_U8, 1, (int64_t[]){ (tensor_numel(x) + 7) / 8 });
    n->n_out = 4;
}
static void bind(const Node *n, void *shape, void *args) {
    *(GroupNormShape *)shape = shape_of(n, n->in[0], n->out[0]);
    *(GroupNormForwardArgs *)args = (GroupNormForwardArgs){
        .x = tensor_data(n->in[0]), .gamma = tensor_data(n->in[1]), .beta = tensor_data(n->in[2]),
        .sample = tensor_data(n->in[GROUPNORM_IN_SAMPLE]), .state = tensor_data(n->in[GROUPNORM_IN_STATE]),
        .y = tensor_data(n->out[0]), .mean = tensor_data(n->out[1]), .rstd = tensor_data(n->out[2]),
        .mask = tensor_data(n->out[GROUPNORM_OUT_MASK]) };
}
static void backward(Graph *g, const Node *n) {
    GroupNormAttr a = *NODE_ATTR(n, GroupNormAttr);
    a.accumulate = graph_accumulates(g);
    Tensor *in[] = { n->out[0]->grad, n->in[0], n->in[1], n->in[2], n->out[1], n->out[2], n->out[GROUPNORM_OUT_MASK],
                     NULL };
    graph_add_grad(g, n->in[0], graph_append(g, &op_def_groupnorm_grad, &a, sizeof a, 8, in)->out[0]);
}
static OpCost cost(const Node *n) {
    return (OpCost){ .flops = 8.0 * (double)tensor_numel(n->in[0]), .bytes = 2.0 * (double)tensor_bytes(n->in[0]) };
}
const OpDef op_def_groupnorm = { .name = "groupnorm", .launcher = &groupnorm_forward, .infer = infer, .bind = bind,
                                 .backward = backward, .cost = cost };

Tensor *op_groupnorm(Graph *g, Tensor *x, Tensor *gamma, Tensor *beta, int groups, double eps, Act act) {
    GroupNormAttr a = { .groups = groups, .eps = eps, .act = act };
    return graph_append(g, &op_def_groupnorm, &a, sizeof a, 5, (Tensor *[]){ x, gamma, beta, NULL, NULL })->out[0];
}
