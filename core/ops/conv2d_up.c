// core/ops/conv2d_up.c - the graph's view of upsampling and convolution in one: core/fuse.c makes it of two nodes.
#include "core/ops/conv2d_up.h"

#include "core/ops/conv2d.h"
#include "kernels/conv2d/conv2d_up.h"

enum { X, W, B };

bool conv2d_up_can(const Node *n) {
    const Conv2dAttr *a = NODE_ATTR(n, Conv2dAttr);
    const Tensor *w = n->in[W];
    return w->shape[1] == 3 && w->shape[2] == 3 && a->stride == 1 && a->pad_h == 1 && a->pad_w == 1 &&
           !n->in[CONV2D_IN_TEMB] && !n->in[CONV2D_IN_RESIDUAL];
}

static Conv2dUpShape shape_of(const Tensor *x, const Tensor *w, const Tensor *y, bool bias) {
    return (Conv2dUpShape){ .n = (int)x->shape[0], .h = (int)x->shape[1], .w = (int)x->shape[2],
                            .c = (int)x->shape[3], .k = (int)w->shape[0], .ldx = tensor_ld(x), .ldy = tensor_ld(y),
                            .use = bias ? CONV_BIAS : 0, .dtype = x->dtype, .out = y->dtype, .lx = x->layout,
                            .ly = y->layout };
}
// Four taps to an output.
static OpCost cost_of(const Tensor *x, const Tensor *w, const Tensor *y) {
    return (OpCost){ 2.0 * (double)tensor_numel(y) * 4 * (double)w->shape[3],
                     (double)(tensor_bytes(x) + tensor_bytes(w) + tensor_bytes(y)) };
}

// ---- backward to the input: in = dy, w, x; out = dx
static void input_infer(Graph *g, Node *n) { n->out[0] = graph_grad_out(g, n->in[2]); n->n_out = 1; }
static void input_bind(const Node *n, void *shape, void *args) {
    *(Conv2dUpShape *)shape = shape_of(n->in[2], n->in[1], n->in[0], false);
    *(Conv2dUpArgs *)args = (Conv2dUpArgs){ .dy = tensor_data(n->in[0]), .w = tensor_data(n->in[1]),
                                            .dx = tensor_data(n->out[0]) };
}
static OpCost input_cost(const Node *n) { return cost_of(n->out[0], n->in[1], n->in[0]); }
static const OpDef conv2d_up_input_grad = { .name = "conv2d_up_input_grad", .launcher = &conv2d_up_backward_input,
                                            .infer = input_infer, .bind = input_bind, .cost = input_cost };

// ---- backward to the filter: in = dy, x, w, bias; out = dw, dbias
static void weight_infer(Graph *g, Node *n) {
    (void)g;
    n->out[0] = n->in[2]->grad;
    n->out[1] = n->in[3] ? n->in[3]->grad : NULL;
    n->n_out = 2;
}
static void weight_bind(const Node *n, void *shape, void *args) {
    *(Conv2dUpShape *)shape = shape_of(n->in[1], n->in[2], n->in[0], n->out[1] != NULL);
    *(Conv2dUpArgs *)args = (Conv2dUpArgs){ .dy = tensor_data(n->in[0]), .x = tensor_data(n->in[1]),
                                            .dw = tensor_data(n->out[0]), .dbias = tensor_data(n->out[1]),
                                            .accumulate = NODE_ATTR(n, Conv2dAttr)->accumulate };
}
static OpCost weight_cost(const Node *n) { return cost_of(n->in[1], n->in[2], n->in[0]); }
static const OpDef conv2d_up_weight_grad = { .name = "conv2d_up_weight_grad", .launcher = &conv2d_up_backward_weight,
                                             .infer = weight_infer, .bind = weight_bind, .cost = weight_cost };

// ---- forward: in = x, w, bias; out = y, which the convolution's infer() has made
static void bind(const Node *n, void *shape, void *args) {
    *(Conv2dUpShape *)shape = shape_of(n->in[X], n->in[W], n->out[0], n->in[B] != NULL);
    *(Conv2dUpArgs *)args = (Conv2dUpArgs){ .x = tensor_data(n->in[X]), .w = tensor_data(n->in[W]),
                                            .bias = tensor_data(n->in[B]), .y = tensor_data(n->out[0]) };
}
static void backward(Graph *g, const Node *n) {
    Conv2dAttr a = *NODE_ATTR(n, Conv2dAttr);
    a.accumulate = graph_accumulates(g);
    Tensor *dy = n->out[0]->grad, *x = n->in[X], *w = n->in[W];
    if (tensor_needs_grad(w))
        graph_append(g, &conv2d_up_weight_grad, &a, sizeof a, 4, (Tensor *[]){ dy, x, w, n->in[B] });
    if (tensor_needs_grad(x))
        graph_add_grad(g, x, graph_append(g, &conv2d_up_input_grad, NULL, 0, 3, (Tensor *[]){ dy, w, x })->out[0]);
}
static OpCost cost(const Node *n) { return cost_of(n->in[X], n->in[W], n->out[0]); }
const OpDef op_def_conv2d_up = { .name = "conv2d_up", .launcher = &conv2d_up_forward, .bind = bind,
                                 .backward = backward, .cost = cost };
