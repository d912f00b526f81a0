// core/ops/channel.c - the graph's view of a vector per image added to every pixel, which is also where a batch repeats
#include "core/ops/channel.h"

#include "kernels/pointwise/pointwise.h"

static AddChannelShape shape_of(const Tensor *x, const Tensor *v) {
    return (AddChannelShape){ .n = (int)x->shape[0], .copies = (int)(v->shape[0] / x->shape[0]),
                              .hw = (int)tensor_pixels(x), .c = (int)x->shape[3], .dtype = x->dtype,
                              .layout = x->layout };
}

// ---- backward: in = dy, x, v; out = dx (unless dy itself is it), dv
static bool repeats(const Node *n) { return n->in[1]->shape[0] != n->in[2]->shape[0]; }
static void grad_infer(Graph *g, Node *n) {
    if (repeats(n)) n->out[0] = graph_grad_out(g, n->in[1]);
    n->out[1] = graph_grad_out(g, n->in[2]);
    n->n_out = 2;
}
static void grad_bind(const Node *n, void *shape, void *args) {
    *(AddChannelShape *)shape = shape_of(n->in[1], n->in[2]);
    *(AddChannelGradArgs *)args = (AddChannelGradArgs){ .dy = tensor_data(n->in[0]), .dx = tensor_data(n->out[0]),
                                                        .dv = tensor_data(n->out[1]) };
}
static const OpDef add_channel_grad = { .name = "add_channel_grad", .launcher = &add_channel_backward,
                                        .infer = grad_infer, .bind = grad_bind };

// ---- forward: in = x (N,H,W,C), v (kN,C); out = y (kN,H,W,C)
static void infer(Graph *g, Node *n) {
    const Tensor *x = n->in[0], *v = n->in[1];
    CHECK(x->ndim == 4 && v->ndim == 2 && x->shape[3] == v->shape[1] && v->shape[0] % x->shape[0] == 0 && !x->base &&
          v->dtype != DT_BF16, "add_channel: %s + %s", tensor_str(x), tensor_str(v));
    n->out[0] = graph_tensor(g, x->dtype, 4, (int64_t[]){ v->shape[0], x->shape[1], x->shape[2], x->shape[3] });
    n->out[0]->layout = x->layout;
    n->n_out = 1;
}
static void bind(const Node *n, void *shape, void *args) {
    *(AddChannelShape *)shape = shape_of(n->in[0], n->in[1]);
    *(AddChannelArgs *)args = (AddChannelArgs){ .x = tensor_data(n->in[0]), .v = tensor_data(n->in[1]),
                                                .y = tensor_data(n->out[0]) };
}
static void backward(Graph *g, const Node *n) {
    Tensor *dy = graph_grad_dense(g, n->out[0]);
    CHECK(tensor_needs_grad(n->in[1]), "add_channel: %s is a constant", tensor_str(n->in[1]));
    Node *grad = graph_append(g, &add_channel_grad, NULL, 0, 3, (Tensor *[]){ dy, n->in[0], n->in[1] });
    graph_add_grad(g, n->in[1], grad->out[1]);
    graph_add_grad(g, n->in[0], repeats(grad) ? grad->out[0] : dy);
}
const OpDef op_def_add_channel = { .name = "add_channel", .launcher = &add_channel_forward, .infer = infer,
                                   .bind = bind, .backward = backward };

Tensor *op_add_channel(Graph *g, Tensor *x, Tensor *v) {
    return graph_append(g, &op_def_add_channel, NULL, 0, 2, (Tensor *[]){ x, v })->out[0];
}
