// core/ops/pointwise.c - the graph's view of element-wise work.
#include "core/ops.h"
#include "kernels/pointwise/pointwise.h"

typedef struct { float alpha, beta; } Attr;

// Runs of elements of a tensor or view: see PointwiseShape. Batch ranges and row-major tensors are dense.
static void runs_of(const Tensor *t, int64_t *rows, int64_t *c, int64_t *ld) {
    int64_t hw = tensor_pixels(t), channels = t->shape[t->ndim - 1], n = tensor_numel(t) / (hw * channels);
    bool blocked = t->layout == LAYOUT_C16;
    *rows = blocked ? n : n * hw;
    *c = blocked ? channels * hw : channels;
    *ld = blocked ? t->ld * hw : t->ld;
}
static void bind(const Node *n, void *shape, void *args) {
    PointwiseShape *z = shape;
    const Tensor *a = n->in[0], *b = n->n_in > 1 ? n->in[1] : NULL, *y = n->out[0];
    CHECK((!a || a->layout == y->layout) && (!b || b->layout == y->layout), "%s: %s, %s -> %s", n->op->name,
          tensor_str(a), tensor_str(b), tensor_str(y));
    int64_t rows, c;
    if (a) runs_of(a, &rows, &c, &z->lda);
    if (b) runs_of(b, &rows, &c, &z->ldb);
    runs_of(y, &z->rows, &z->c, &z->ldy);
    if (z->ldy == z->c && (!a || z->lda == z->c) && (!b || z->ldb == z->c)) {     // all dense: one run
        z->c = z->lda = z->ldb = z->ldy = z->rows * z->c;
        z->rows = 1;
    }
    const Attr *attr = n->attr;
    z->alpha = attr ? attr->alpha : 1;
    z->beta = attr ? attr->beta : 1;
    z->dtype = a ? a->dtype : y->dtype;
    z->out = y->dtype;
    *(PointwiseArgs *)args = (PointwiseArgs){ .a = tensor_data(a), .b = tensor_data(b), .y = tensor_data(y) };
}
static Tensor *like(Graph *g, const Tensor *x) {
    Tensor *t = graph_tensor(g, x->dtype, x->ndim, x->shape);
    t->layout = x->layout;
    return t;
}
static void infer(Graph *g, Node *n) {
    const Tensor *b = n->n_in > 1 ? n->in[1] : NULL;
    CHECK(!b || (tensor_same_shape(n->in[0], b) && n->in[0]->dtype == b->dtype), "%s: %s and %s", n->op->name,
          tensor_str(n->in[0]), tensor_str(b));
    n->out[0] = like(g, n->in[0]);
    n->n_out = 1;
}
static OpCost cost(const Node *n) {
    double e = (double)tensor_numel(n->out[0]);
    return (OpCost){ 2.0 * e, e * (double)dtype_size(n->out[0]->dtype) * (n->n_in > 1 && n->in[1] ? 3.0 : 2.0) };
}

// ---- y = alpha a + beta b
static const OpDef axpby_op;
static Tensor *scaled(Graph *g, float alpha, Tensor *x) { return alpha == 1.0f ? x : op_axpby(g, alpha, x, 0, NULL); }
static void axpby_backward(Graph *g, const Node *n) {
    const Attr *a = NODE_ATTR(n, Attr);
    Tensor *dy = n->out[0]->grad;
    if (tensor_needs_grad(n->in[0])) graph_add_grad(g, n->in[0], scaled(g, a->alpha, dy));
    if (tensor_needs_grad(n->in[1])) graph_add_grad(g, n->in[1], scaled(g, a->beta, dy));
}
static const OpDef axpby_op = { .name = "axpby", .launcher = &axpby, .infer = infer, .bind = bind,
                                .backward = axpby_backward, .cost = cost };
Tensor *op_axpby(Graph *g, float alpha, Tensor *a, float beta, Tensor *b) {
    Attr attr = { alpha, beta };
    return graph_append(g, &axpby_op, &attr, sizeof attr, 2, (Tensor *[]){ a, b })->out[0];
}
const OpDef op_def_add = { .name = "add", .launcher = &axpby, .infer = infer, .bind = bind, .backward = axpby_backward,
                           .cost = cost };
Tensor *op_add(Graph *g, Tensor *a, Tensor *b) {
    Attr attr = { 1, 1 };
    return graph_append(g, &op_def_add, &attr, sizeof attr, 2, (Tensor *[]){ a, b })->out[0];
}

// ---- y = a b
static void mul_backward(Graph *g, const Node *n) {
    Tensor *dy = n->out[0]->grad, *a = n->in[0], *b = n->in[1];
    if (tensor_needs_grad(a)) graph_add_grad(g, a, op_mul(g, dy, b));
    if (tensor_needs_grad(b)) graph_add_grad(g, b, op_mul(g, dy, a));
}
static const OpDef mul_op = { .name = "mul", .launcher = &multiply, .infer = infer, .bind = bind,
                              .backward = mul_backward, .cost = cost };
Tensor *op_mul(Graph *g, Tensor *a, Tensor *b) {
    return graph_append(g, &mul_op, NULL, 0, 2, (Tensor *[]){ a, b })->out[0];
}

// ---- y = silu(x)
static const OpDef silu_grad = { .name = "silu_grad", .launcher = &silu_backward, .infer = infer, .bind = bind,
                                 .cost = cost };
static void silu_op_backward(Graph *g, const Node *n) {
    Tensor *in[] = { n->out[0]->grad, n->in[0] };
    graph_add_grad(g, n->in[0], graph_append(g, &silu_grad, NULL, 0, 2, in)->out[0]);
}
static const OpDef silu_op = { .name = "silu", .launcher = &silu_forward, .infer = infer, .bind = bind,
                               .backward = silu_op_backward, .cost = cost };
Tensor *op_silu(Graph *g, Tensor *x) { return graph_append(g, &silu_op, NULL, 0, 1, &x)->out[0]; }

// ---- y = relu(x). Its gradient reads y, which the next op keeps anyway, so that x need not stay.
static const OpDef relu_grad = { .name = "relu_grad", .launcher = &relu_backward, .infer = infer, .bind = bind,
                                 .cost = cost };
static void relu_op_backward(Graph *g, const Node *n) {
    Tensor *in[] = { n->out[0]->grad, n->out[0] };
    graph_add_grad(g, n->in[0], graph_append(g, &relu_grad, NULL, 0, 2, in)->out[0]);
}
static const OpDef relu_op = { .name = "relu", .launcher = &relu_forward, .infer = infer, .bind = bind,
                               .backward = relu_op_backward, .cost = cost };
Tensor *op_relu(Graph *g, Tensor *x) { return graph_append(g, &relu_op, NULL, 0, 1, &x)->out[0]; }

// ---- y = x in another storage type
typedef struct { Attr scale; DType to; } CastAttr;         // Attr first: bind() reads it
static void cast_infer(Graph *g, Node *n) {
    n->out[0] = graph_tensor(g, NODE_ATTR(n, CastAttr)->to, n->in[0]->ndim, n->in[0]->shape);
    n->out[0]->layout = n->in[0]->layout;
    n->n_out = 1;
}
static void cast_backward(Graph *g, const Node *n) {
    graph_add_grad(g, n->in[0], op_cast(g, n->out[0]->grad, n->in[0]->dtype));
}
static const OpDef cast_op = { .name = "cast", .launcher = &axpby, .infer = cast_infer, .bind = bind,
                               .backward = cast_backward, .cost = cost };
Tensor *op_cast(Graph *g, Tensor *x, DType to) {
    CastAttr a = { { 1, 0 }, to == DT_F32 ? device_real(graph_device(g)) : to };
    return x->dtype == a.to ? x : graph_append(g, &cast_op, &a, sizeof a, 1, &x)->out[0];
}

// ---- into a given tensor or view
static void copy_infer(Graph *g, Node *n) { (void)g; n->out[0] = n->in[2]; n->in[2] = NULL; n->n_in = 2; n->n_out = 1; }
static const OpDef copy_op = { .name = "copy", .launcher = &axpby, .infer = copy_infer, .bind = bind, .cost = cost };
void op_copy_to(Graph *g, Tensor *x, Tensor *y) {
    Attr attr = { 1, 0 };
    CHECK(tensor_same_shape(x, y), "copy of %s to %s", tensor_str(x), tensor_str(y));
    graph_append(g, &copy_op, &attr, sizeof attr, 3, (Tensor *[]){ x, NULL, y });
}
static const OpDef fill_op = { .name = "fill", .launcher = &fill, .infer = copy_infer, .bind = bind, .cost = cost };
void op_fill_to(Graph *g, Tensor *y, float value) {
    Attr attr = { value, 0 };
    graph_append(g, &fill_op, &attr, sizeof attr, 3, (Tensor *[]){ NULL, NULL, y });
}

Tensor *op_stop_grad(Graph *g, Tensor *x) {
    Tensor *v = graph_view(g, x, 0, 0, x->shape[0]);
    v->flags &= ~(unsigned)TENSOR_NEEDS_GRAD;
    return v;
}

// ---- mean: in = x; out = y (1). Backward: in = dy, x; out = dx
static void mean_infer(Graph *g, Node *n) { n->out[0] = graph_tensor(g, DT_F32, 1, (int64_t[]){ 1 }); n->n_out = 1; }
static void mean_bind(const Node *n, void *shape, void *args) {
    CHECK(tensor_is_dense(n->in[0]), "mean of %s", tensor_str(n->in[0]));
    *(MeanShape *)shape = (MeanShape){ .e = tensor_numel(n->in[0]), .dtype = n->in[0]->dtype };
    *(MeanArgs *)args = (MeanArgs){ .x = tensor_data(n->in[0]), .y = tensor_data(n->out[0]) };
}
static void mean_grad_infer(Graph *g, Node *n) { n->out[0] = graph_grad_out(g, n->in[1]); n->n_out = 1; }
static void mean_grad_bind(const Node *n, void *shape, void *args) {
    *(MeanShape *)shape = (MeanShape){ .e = tensor_numel(n->out[0]), .dtype = n->out[0]->dtype };
    *(MeanGradArgs *)args = (MeanGradArgs){ .dy = tensor_data(n->in[0]), .dx = tensor_data(n->out[0]) };
}
static const OpDef mean_grad = { .name = "mean_grad", .launcher = &mean_backward, .infer = mean_grad_infer,
                                 .bind = mean_grad_bind };
static void mean_op_backward(Graph *g, const Node *n) {
    Tensor *in[] = { n->out[0]->grad, n->in[0] };
    graph_add_grad(g, n->in[0], graph_append(g, &mean_grad, NULL, 0, 2, in)->out[0]);
}
static const OpDef mean_op = { .name = "mean", .launcher = &mean_forward, .infer = mean_infer, .bind = mean_bind,
                               .backward = mean_op_backward };
Tensor *op_mean(Graph *g, Tensor *x) { return graph_append(g, &mean_op, NULL, 0, 1, &x)->out[0]; }
