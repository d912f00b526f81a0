// core/ops/conv2d.c - the graph's view of convolution, with the optional time embedding and residual of its fused form.
#include "core/ops/conv2d.h"

#include "kernels/conv2d/conv2d.h"

enum { X, W, B, TEMB, RESIDUAL, N_IN };

static Conv2dShape shape_of(const Conv2dAttr *a, const Tensor *x, const Tensor *w, const Tensor *y) {
    return (Conv2dShape){ .n = (int)x->shape[0], .h = (int)x->shape[1], .w = (int)x->shape[2],
                          .p = (int)y->shape[1], .q = (int)y->shape[2], .c = (int)x->shape[3], .k = (int)w->shape[0],
                          .r = (int)w->shape[1], .s = (int)w->shape[2], .stride = a->stride, .pad_h = a->pad_h,
                          .pad_w = a->pad_w, .ldx = tensor_ld(x), .ldy = tensor_ld(y), .dtype = x->dtype,
                          .out = y->dtype, .lx = x->layout, .ly = y->layout };
}

static double flops_of(const Tensor *w, const Tensor *y) {
    return 2.0 * (double)tensor_numel(y) * (double)(w->shape[1] * w->shape[2] * w->shape[3]);
}

// ---- backward to the input: in = dy, w, x, add; out = dx
static void input_infer(Graph *g, Node *n) { n->out[0] = graph_grad_out(g, n->in[2]); n->n_out = 1; }
static void input_bind(const Node *n, void *shape, void *args) {
    *(Conv2dShape *)shape = shape_of(NODE_ATTR(n, Conv2dAttr), n->in[2], n->in[1], n->in[0]);
    *(Conv2dArgs *)args = (Conv2dArgs){ .dy = tensor_data(n->in[0]), .w = tensor_data(n->in[1]),
                                        .add = tensor_data(n->in[CONV2D_INPUT_GRAD_IN_ADD]),
                                        .dx = tensor_data(n->out[0]) };
}
static OpCost input_cost(const Node *n) {
    return (OpCost){ flops_of(n->in[1], n->in[0]),
                     (double)(tensor_bytes(n->in[0]) + tensor_bytes(n->in[1]) + tensor_bytes(n->out[0])) };
}
const OpDef op_def_conv2d_input_grad = { .name = "conv2d_input_grad", .launcher = &conv2d_backward_input,
                                         .infer = input_infer, .bind = input_bind, .cost = input_cost };

// ---- backward to the filter: in = dy, x, w, bias, temb; out = dw, dbias, dtemb
// Of a parameter, its gradient in place; of a filter that the graph computes, a tensor in f32, as that of a parameter.
static Tensor *weight_target(Graph *g, Tensor *w) {
    if (!w || w->flags & TENSOR_PERSISTENT) return w ? w->grad : NULL;
    return graph_tensor(g, DT_F32, w->ndim, w->shape);
}
static void weight_infer(Graph *g, Node *n) {
    n->out[0] = weight_target(g, n->in[2]);
    n->out[1] = weight_target(g, n->in[3]);
    n->out[2] = graph_grad_out(g, n->in[4]);
    n->n_out = 3;
}
static void weight_bind(const Node *n, void *shape, void *args) {
    Conv2dShape *z = shape;
    *z = shape_of(NODE_ATTR(n, Conv2dAttr), n->in[1], n->in[2], n->in[0]);
    z->use = (n->out[1] ? CONV_BIAS : 0) | (n->out[2] ? CONV_TEMB : 0);
    *(Conv2dArgs *)args = (Conv2dArgs){ .dy = tensor_data(n->in[0]), .x = tensor_data(n->in[1]),
                                        .dw = tensor_data(n->out[0]), .dbias = tensor_data(n->out[1]),
                                        .dtemb = tensor_data(n->out[2]),
                                        .accumulate = NODE_ATTR(n, Conv2dAttr)->accumulate };
}
static OpCost weight_cost(const Node *n) {
    return (OpCost){ flops_of(n->in[2], n->in[0]),
                     (double)(tensor_bytes(n->in[0]) + tensor_bytes(n->in[1]) + tensor_bytes(n->out[0])) };
}
static const OpDef conv2d_weight_grad = { .name = "conv2d_weight_grad", .launcher = &conv2d_backward_weight,
                                          .infer = weight_infer, .bind = weight_bind, .cost = weight_cost };

// ---- forward: in = x, w, bias, temb, residual; out = y
static void infer(Graph *g, Node *n) {
    const Conv2dAttr *a = NODE_ATTR(n, Conv2dAttr);
    const Tensor *x = n->in[X], *w = n->in[W];
    CHECK(x->ndim == 4 && w->ndim == 4 && x->shape[3] == w->shape[3] && x->dtype == w->dtype, "conv2d: %s with %s",
          tensor_str(x), tensor_str(w));
    int64_t p = (x->shape[1] + 2 * a->pad_h - w->shape[1]) / a->stride + 1;
    int64_t q = (x->shape[2] + 2 * a->pad_w - w->shape[2]) / a->stride + 1;
    n->out[0] = graph_image(g, a->out, (int64_t[]){ x->shape[0], p, q, w->shape[0] });
    n->n_out = 1;
}
static void bind(const Node *n, void *shape, void *args) {
    Conv2dShape *z = shape;
    *z = shape_of(NODE_ATTR(n, Conv2dAttr), n->in[X], n->in[W], n->out[0]);
    z->ldr = tensor_ld(n->in[RESIDUAL]);
    z->use = (n->in[B] ? CONV_BIAS : 0) | (n->in[TEMB] ? CONV_TEMB : 0) | (n->in[RESIDUAL] ? CONV_RESIDUAL : 0);
    *(Conv2dArgs *)args = (Conv2dArgs){ .x = tensor_data(n->in[X]), .w = tensor_data(n->in[W]),
                                        .bias = tensor_data(n->in[B]), .temb = tensor_data(n->in[TEMB]),
                                        .residual = tensor_data(n->in[RESIDUAL]), .y = tensor_data(n->out[0]) };
}
static void backward(Graph *g, const Node *n) {
    Conv2dAttr a = *NODE_ATTR(n, Conv2dAttr);
    Tensor *dy = n->out[0]->grad, *w = n->in[W], *b = n->in[B];
    graph_add_grad(g, n->in[RESIDUAL], dy);
    if (tensor_needs_grad(w)) {
        CHECK(!b || !((w->flags ^ b->flags) & TENSOR_PERSISTENT), "conv2d: one of %s and %s is a parameter",
              tensor_str(w), tensor_str(b));
        a.accumulate = graph_accumulates(g) && w->flags & TENSOR_PERSISTENT;
        Tensor *in[] = { dy, n->in[X], w, b, n->in[TEMB] };
        Node *grad = graph_append(g, &conv2d_weight_grad, &a, sizeof a, 5, in);
        graph_add_grad(g, w, grad->out[0]);
        if (b) graph_add_grad(g, b, grad->out[1]);
        graph_add_grad(g, n->in[TEMB], grad->out[2]);
    }
    if (tensor_needs_grad(n->in[X])) {
        Tensor *in[] = { dy, w, n->in[X], NULL };
        graph_add_grad(g, n->in[X], graph_append(g, &op_def_conv2d_input_grad, &a, sizeof a, 4, in)->out[0]);
    }
}
static OpCost cost(const Node *n) {
    return (OpCost){ flops_of(n->in[W], n->out[0]),
                     (double)(tensor_bytes(n->in[X]) + tensor_bytes(n->in[W]) + tensor_bytes(n->out[0])) };
}
const OpDef op_def_conv2d = { .name = "conv2d", .launcher = &conv2d_forward, .infer = infer, .bind = bind,
                              .backward = backward, .cost = cost };

Tensor *op_conv2d(Graph *g, Tensor *x, Tensor *w, Tensor *b, int stride, int pad) {
    return op_conv2d_to(g, x, w, b, stride, pad, x->dtype);
}
Tensor *op_conv2d_to(Graph *g, Tensor *x, Tensor *w, Tensor *b, int stride, int pad, DType out) {
    Conv2dAttr a = { .stride = stride, .pad_h = pad, .pad_w = pad, .out = out };
    return graph_append(g, &op_def_conv2d, &a, sizeof a, N_IN, (Tensor *[]){ x, w, b, NULL, NULL })->out[0];
}
Tensor *op_conv2d_pads(Graph *g, Tensor *x, Tensor *w, Tensor *b, int stride, int pad_h, int pad_w) {
    Conv2dAttr a = { .stride = stride, .pad_h = pad_h, .pad_w = pad_w, .out = x->dtype };
    return graph_append(g, &op_def_conv2d, &a, sizeof a, N_IN, (Tensor *[]){ x, w, b, NULL, NULL })->out[0];
}
