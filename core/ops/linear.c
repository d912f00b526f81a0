// core/ops/linear.c - the graph's view of a linear layer: y = x w^T + bias, through the matrix product.
#include <math.h>

#include "core/ops.h"
#include "kernels/gemm/gemm.h"

typedef struct { bool accumulate; } Attr;

static OpCost gemm_cost(const Node *n) {
    const Tensor *y = n->out[0];
    double k = (double)tensor_numel(n->in[0]) * (double)tensor_numel(n->in[1]) / (double)tensor_numel(y);
    return (OpCost){ 2.0 * sqrt(k) * (double)tensor_numel(y),        // m k * k n / (m n) = k^2
                     (double)(tensor_bytes(n->in[0]) + tensor_bytes(n->in[1]) + tensor_bytes(y)) };
}

// ---- backward to x: in = dy (M,K), w (K,C), x; out = dx (M,C) = dy w
static void input_infer(Graph *g, Node *n) { n->out[0] = graph_grad_out(g, n->in[2]); n->n_out = 1; }
static void input_bind(const Node *n, void *shape, void *args) {
    const Tensor *dy = n->in[0], *w = n->in[1], *dx = n->out[0];
    *(GemmShape *)shape = (GemmShape){ .m = (int)dy->shape[0], .n = (int)w->shape[1], .k = (int)w->shape[0], .batch = 1,
                                       .lda = tensor_ld(dy), .ldb = tensor_ld(w), .ldy = tensor_ld(dx), .alpha = 1,
                                       .in = dy->dtype, .out = dx->dtype };
    *(GemmArgs *)args = (GemmArgs){ .a = tensor_data(dy), .b = tensor_data(w), .y = tensor_data(dx) };
}
static const OpDef linear_input_grad = { .name = "linear_input_grad", .launcher = &gemm, .infer = input_infer,
                                         .bind = input_bind, .cost = gemm_cost };

// ---- backward to w: in = dy (M,K), x (M,C), w; out = dw (K,C) = dy^T x
static void weight_infer(Graph *g, Node *n) { (void)g; n->out[0] = n->in[2]->grad; n->n_out = 1; }
static void weight_bind(const Node *n, void *shape, void *args) {
    const Tensor *dy = n->in[0], *x = n->in[1], *dw = n->out[0];
    *(GemmShape *)shape = (GemmShape){ .m = (int)dy->shape[1], .n = (int)x->shape[1], .k = (int)x->shape[0], .batch = 1,
                                       .ta = true, .lda = tensor_ld(dy), .ldb = tensor_ld(x), .ldy = tensor_ld(dw),
                                       .alpha = 1, .in = dy->dtype, .out = dw->dtype };
    *(GemmArgs *)args = (GemmArgs){ .a = tensor_data(dy), .b = tensor_data(x), .y = tensor_data(dw),
                                    .accumulate = NODE_ATTR(n, Attr)->accumulate };
}
static const OpDef linear_weight_grad = { .name = "linear_weight_grad", .launcher = &gemm, .infer = weight_infer,
                                          .bind = weight_bind, .cost = gemm_cost };

// ---- backward to bias: in = dy (M,K), bias; out = dbias (K)
static void bias_infer(Graph *g, Node *n) { (void)g; n->out[0] = n->in[1]->grad; n->n_out = 1; }
static void bias_bind(const Node *n, void *shape, void *args) {
    const Tensor *dy = n->in[0];
    *(BiasGradShape *)shape = (BiasGradShape){ .m = (int)dy->shape[0], .n = (int)dy->shape[1], .ldy = tensor_ld(dy),
                                               .in = dy->dtype };
    *(BiasGradArgs *)args = (BiasGradArgs){ .dy = tensor_data(dy), .db = tensor_data(n->out[0]),
                                            .accumulate = NODE_ATTR(n, Attr)->accumulate };
}
static const OpDef linear_bias_grad = { .name = "linear_bias_grad", .launcher = &bias_backward, .infer = bias_infer,
                                        .bind = bias_bind };

// ---- forward: in = x (M,C), w (K,C), bias; out = y (M,K)
static void infer(Graph *g, Node *n) {
    const Tensor *x = n->in[0], *w = n->in[1];
    CHECK(x->ndim == 2 && w->ndim == 2 && x->shape[1] == w->shape[1] && x->dtype == w->dtype, "linear: %s with %s",
          tensor_str(x), tensor_str(w));
    n->out[0] = graph_tensor(g, x->dtype, 2, (int64_t[]){ x->shape[0], w->shape[0] });
    n->n_out = 1;
}
static void bind(const Node *n, void *shape, void *args) {
    const Tensor *x = n->in[0], *w = n->in[1], *y = n->out[0];
    *(GemmShape *)shape = (GemmShape){ .m = (int)x->shape[0], .n = (int)w->shape[0], .k = (int)x->shape[1], .batch = 1,
                                       .tb = true, .lda = tensor_ld(x), .ldb = tensor_ld(w), .ldy = tensor_ld(y),
                                       .alpha = 1, .in = x->dtype, .out = y->dtype };
    *(GemmArgs *)args = (GemmArgs){ .a = tensor_data(x), .b = tensor_data(w), .bias = tensor_data(n->in[2]),
                                    .y = tensor_data(y) };
}
static void backward(Graph *g, const Node *n) {
    Attr a = { graph_accumulates(g) };
    Tensor *dy = n->out[0]->grad, *x = n->in[0], *w = n->in[1], *b = n->in[2];
    if (tensor_needs_grad(w)) graph_append(g, &linear_weight_grad, &a, sizeof a, 3, (Tensor *[]){ dy, x, w });
    if (tensor_needs_grad(b)) graph_append(g, &linear_bias_grad, &a, sizeof a, 2, (Tensor *[]){ dy, b });
    if (tensor_needs_grad(x))
        graph_add_grad(g, x, graph_append(g, &linear_input_grad, NULL, 0, 3, (Tensor *[]){ dy, w, x })->out[0]);
}
static const OpDef linear = { .name = "linear", .launcher = &gemm, .infer = infer, .bind = bind, .backward = backward,
                              .cost = gemm_cost };

Tensor *op_linear(Graph *g, Tensor *x, Tensor *w, Tensor *b) {
    return graph_append(g, &linear, NULL, 0, 3, (Tensor *[]){ x, w, b })->out[0];
}
