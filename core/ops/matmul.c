// core/ops/matmul.c - the graph's view of the matrix product y = op(a) op(b) + bias: of two parameters, of activations
// and weights (a linear layer), and of what comes back through either.
#include "core/ops.h"
#include "kernels/gemm/gemm.h"

typedef struct { bool ta, tb, accumulate; } Attr;
enum { A, B, BIAS };

// How a tensor is read as a matrix: (M,N) as it is, (K,1,1,C) as (K,C), a vector as one row.
static int rows_of(const Tensor *t) { return t->ndim == 1 ? 1 : (int)t->shape[0]; }
static int cols_of(const Tensor *t) { return (int)t->shape[t->ndim - 1]; }
static bool is_matrix(const Tensor *t) { return t->ndim < 3 || (t->ndim == 4 && t->shape[1] * t->shape[2] == 1); }

// in = a, b, bias or what the result is the gradient of; out = y
static void bind(const Node *n, void *shape, void *args) {
    const Attr *attr = NODE_ATTR(n, Attr);
    const Tensor *a = n->in[A], *b = n->in[B], *y = n->out[0];
    *(GemmShape *)shape = (GemmShape){ .m = rows_of(y), .n = cols_of(y), .k = attr->ta ? rows_of(a) : cols_of(a),
                                       .batch = 1, .ta = attr->ta, .tb = attr->tb, .lda = tensor_ld(a),
                                       .ldb = tensor_ld(b), .ldy = tensor_ld(y), .alpha = 1, .in = a->dtype,
                                       .out = y->dtype };
    *(GemmArgs *)args = (GemmArgs){ .a = tensor_data(a), .b = tensor_data(b), .y = tensor_data(n->out[0]),
                                    .accumulate = attr->accumulate };
}
static OpCost cost(const Node *n) {
    const Tensor *a = n->in[A], *y = n->out[0];
    double k = NODE_ATTR(n, Attr)->ta ? rows_of(a) : cols_of(a);
    return (OpCost){ 2.0 * k * (double)tensor_numel(y),
                     (double)(tensor_bytes(a) + tensor_bytes(n->in[B]) + tensor_bytes(y)) };
}

// ---- backward to a and b: in = two of dy, a, b and the one that out is the gradient of
static Tensor *grad_target(Graph *g, Tensor *x) {
    return x->flags & TENSOR_PERSISTENT ? x->grad : graph_grad_out(g, x);
}
static void grad_infer(Graph *g, Node *n) { n->out[0] = grad_target(g, n->in[2]); n->n_out = 1; }
static const OpDef matmul_grad = { .name = "matmul_grad", .launcher = &gemm, .infer = grad_infer, .bind = bind,
                                   .cost = cost };
// x's gradient is op(a) op(b).
static void append_grad(Graph *g, Tensor *x, Tensor *a, bool ta, Tensor *b, bool tb) {
    Attr attr = { ta, tb, graph_grad_adds(g, x) };
    graph_add_grad(g, x, graph_append(g, &matmul_grad, &attr, sizeof attr, 3, (Tensor *[]){ a, b, x })->out[0]);
}

// ---- backward to bias: in = dy (M,N), bias; out = dbias (N)
static void bias_infer(Graph *g, Node *n) { n->out[0] = grad_target(g, n->in[1]); n->n_out = 1; }
static void bias_bind(const Node *n, void *shape, void *args) {
    const Tensor *dy = n->in[0];
    *(BiasGradShape *)shape = (BiasGradShape){ .m = rows_of(dy), .n = cols_of(dy), .ldy = tensor_ld(dy),
                                               .in = dy->dtype };
    *(BiasGradArgs *)args = (BiasGradArgs){ .dy = tensor_data(dy), .db = tensor_data(n->out[0]),
                                            .accumulate = NODE_ATTR(n, Attr)->accumulate };
}
static const OpDef bias_grad = { .name = "bias_grad", .launcher = &bias_backward, .infer = bias_infer,
                                 .bind = bias_bind };

// ---- forward
static void infer(Graph *g, Node *n) {
    const Attr *attr = NODE_ATTR(n, Attr);
    const Tensor *a = n->in[A], *b = n->in[B], *bias = n->in[BIAS];
    int64_t m = attr->ta ? cols_of(a) : rows_of(a), k = attr->ta ? rows_of(a) : cols_of(a);
    int64_t columns = attr->tb ? rows_of(b) : cols_of(b);
    CHECK(is_matrix(a) && is_matrix(b) && k == (attr->tb ? cols_of(b) : rows_of(b)) && a->dtype == b->dtype &&
          !(attr->ta && a->ndim == 1) && (!bias || tensor_numel(bias) == columns), "matmul: %s%s by %s%s + %s",
          tensor_str(a), attr->ta ? "^T" : "", tensor_str(b), attr->tb ? "^T" : "", tensor_str(bias));
    int64_t shape[TENSOR_MAX_DIMS] = { m, 1, 1, 1 };
    shape[a->ndim - 1] = columns;
    n->out[0] = graph_tensor(g, a->dtype, a->ndim, shape);
    n->n_out = 1;
}
static void forward_bind(const Node *n, void *shape, void *args) {
    bind(n, shape, args);
    ((GemmArgs *)args)->bias = tensor_data(n->in[BIAS]);
}
// With A = op(a), B = op(b): dA = dy B^T, dB = A^T dy; where a or b lies transposed, the transpose of that.
static void backward(Graph *g, const Node *n) {
    const Attr *attr = NODE_ATTR(n, Attr);
    Tensor *dy = n->out[0]->grad, *a = n->in[A], *b = n->in[B], *bias = n->in[BIAS];
    if (tensor_needs_grad(b) && attr->tb) append_grad(g, b, dy, true, a, attr->ta);
    else if (tensor_needs_grad(b)) append_grad(g, b, a, !attr->ta, dy, false);
    if (tensor_needs_grad(bias)) {
        Attr sum = { .accumulate = graph_grad_adds(g, bias) };
        graph_add_grad(g, bias, graph_append(g, &bias_grad, &sum, sizeof sum, 2, (Tensor *[]){ dy, bias })->out[0]);
    }
    if (tensor_needs_grad(a) && attr->ta) append_grad(g, a, b, attr->tb, dy, true);
    else if (tensor_needs_grad(a)) append_grad(g, a, dy, false, b, !attr->tb);
}
static const OpDef matmul = { .name = "matmul", .launcher = &gemm, .infer = infer, .bind = forward_bind,
                              .backward = backward, .cost = cost };
static const OpDef linear = { .name = "linear", .launcher = &gemm, .infer = infer, .bind = forward_bind,
                              .backward = backward, .cost = cost };

Tensor *op_matmul(Graph *g, Tensor *a, bool ta, Tensor *b, bool tb, Tensor *bias) {
    Attr attr = { ta, tb, false };
    return graph_append(g, &matmul, &attr, sizeof attr, 3, (Tensor *[]){ a, b, bias })->out[0];
}
Tensor *op_linear(Graph *g, Tensor *x, Tensor *w, Tensor *b) {
    Attr attr = { false, true, false };
    return graph_append(g, &linear, &attr, sizeof attr, 3, (Tensor *[]){ x, w, b })->out[0];
}
