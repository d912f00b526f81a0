// core/ops/attention.c - the graph's view of softmax attention over the pixels of an image.
#include "core/ops.h"
#include "kernels/attention/attention.h"

typedef struct { int heads; float scale; } Attr;

static AttentionShape shape_of(const Node *n, const Tensor *q, const Tensor *k, const Tensor *v, const Tensor *o) {
    const Attr *a = NODE_ATTR(n, Attr);
    return (AttentionShape){ .n = (int)q->shape[0], .t = (int)tensor_pixels(q), .heads = a->heads,
                             .c = (int)(q->shape[3] / a->heads), .ldq = tensor_ld(q), .ldk = tensor_ld(k),
                             .ldv = tensor_ld(v), .ldo = tensor_ld(o), .scale = a->scale, .dtype = q->dtype,
                             .layout = q->layout };
}

// ---- backward: in = do, q, k, v, o, lse; out = dq, dk, dv
static void grad_infer(Graph *g, Node *n) {
    for (int i = 0; i < 3; i++) {
        n->out[i] = graph_grad_out(g, n->in[1 + i]);
        if (!n->out[i]) n->out[i] = graph_grad_sink(g, n->in[1 + i]);
    }
    n->n_out = 3;
}
static void grad_bind(const Node *n, void *shape, void *args) {
    *(AttentionShape *)shape = shape_of(n, n->in[1], n->in[2], n->in[3], n->in[4]);
    *(AttentionBackwardArgs *)args = (AttentionBackwardArgs){
        .d_o = tensor_data(n->in[0]), .q = tensor_data(n->in[1]), .k = tensor_data(n->in[2]),
        .v = tensor_data(n->in[3]), .o = tensor_data(n->in[4]), .lse = tensor_data(n->in[5]),
        .dq = tensor_data(n->out[0]), .dk = tensor_data(n->out[1]), .dv = tensor_data(n->out[2]) };
}
static OpCost grad_cost(const Node *n) {
    double t = (double)tensor_pixels(n->in[1]);
    return (OpCost){ 10.0 * t * (double)tensor_numel(n->in[1]), 8.0 * (double)tensor_bytes(n->in[1]) };
}
static const OpDef attention_grad = { .name = "attention_grad", .launcher = &attention_backward, .infer = grad_infer,
                                      .bind = grad_bind, .cost = grad_cost };

// ---- forward: in = q, k, v; out = o, lse
static void infer(Graph *g, Node *n) {
    const Tensor *q = n->in[0];
    int heads = NODE_ATTR(n, Attr)->heads;
    CHECK(q->ndim == 4 && q->shape[3] % heads == 0 && tensor_same_shape(q, n->in[1]) &&
          tensor_same_shape(q, n->in[2]) && n->in[1]->dtype == q->dtype && n->in[2]->dtype == q->dtype,
          "attention: %s, %s, %s in %d heads", tensor_str(q), tensor_str(n->in[1]), tensor_str(n->in[2]), heads);
    n->out[0] = graph_tensor(g, q->dtype, 4, q->shape);
    n->out[0]->layout = q->layout;
    n->out[1] = graph_tensor(g, DT_F32, 3, (int64_t[]){ q->shape[0], heads, tensor_pixels(q) });
    n->n_out = 2;
}
static void bind(const Node *n, void *shape, void *args) {
    *(AttentionShape *)shape = shape_of(n, n->in[0], n->in[1], n->in[2], n->out[0]);
    *(AttentionForwardArgs *)args = (AttentionForwardArgs){ .q = tensor_data(n->in[0]), .k = tensor_data(n->in[1]),
                                                            .v = tensor_data(n->in[2]), .o = tensor_data(n->out[0]),
                                                            .lse = tensor_data(n->out[1]) };
}
static void backward(Graph *g, const Node *n) {
    Tensor *in[] = { graph_grad_dense(g, n->out[0]), n->in[0], n->in[1], n->in[2], n->out[0], n->out[1] };
    Node *grad = graph_append(g, &attention_grad, n->attr, sizeof(Attr), 6, in);
    for (int i = 0; i < 3; i++) graph_add_grad(g, n->in[i], grad->out[i]);
}
static OpCost cost(const Node *n) {
    double t = (double)tensor_pixels(n->in[0]);
    return (OpCost){ 4.0 * t * (double)tensor_numel(n->in[0]), 4.0 * (double)tensor_bytes(n->in[0]) };
}
static const OpDef attention = { .name = "attention", .launcher = &attention_forward, .infer = infer, .bind = bind,
                                 .backward = backward, .cost = cost };

Tensor *op_attention(Graph *g, Tensor *q, Tensor *k, Tensor *v, int heads, float scale) {
    Attr a = { heads, scale };
    return graph_append(g, &attention, &a, sizeof a, 3, (Tensor *[]){ q, k, v })->out[0];
}
