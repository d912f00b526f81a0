// core/ops/embed.c - the graph's view of embedding tables and of the sinusoids of time.
#include "core/ops.h"
#include "kernels/embed/embed.h"

// ---- embedding, backward: in = dy, index, table; out = dtable (the parameter's gradient)
typedef struct { bool accumulate; } Attr;
static EmbedShape shape_of(const Tensor *table, const Tensor *y) {
    return (EmbedShape){ .n = (int)y->shape[0], .c = (int)y->shape[1], .rows = (int)table->shape[0], .out = y->dtype };
}
static void grad_infer(Graph *g, Node *n) { (void)g; n->out[0] = n->in[2]->grad; n->n_out = 1; }
static void grad_bind(const Node *n, void *shape, void *args) {
    *(EmbedShape *)shape = shape_of(n->in[2], n->in[0]);
    *(EmbedBackwardArgs *)args = (EmbedBackwardArgs){ .dy = tensor_data(n->in[0]), .index = tensor_data(n->in[1]),
                                                      .dtable = tensor_data(n->out[0]),
                                                      .accumulate = NODE_ATTR(n, Attr)->accumulate };
}
static const OpDef embedding_grad = { .name = "embedding_grad", .launcher = &embed_backward, .infer = grad_infer,
                                      .bind = grad_bind };

// ---- forward: in = table (V,C), index (N) i32; out = y (N,C)
static void infer(Graph *g, Node *n) {
    const Tensor *table = n->in[0], *index = n->in[1];
    CHECK(table->ndim == 2 && index->ndim == 1 && index->dtype == DT_I32, "embedding: %s by %s", tensor_str(table),
          tensor_str(index));
    n->out[0] = graph_tensor(g, table->dtype, 2, (int64_t[]){ index->shape[0], table->shape[1] });
    n->n_out = 1;
}
static void bind(const Node *n, void *shape, void *args) {
    *(EmbedShape *)shape = shape_of(n->in[0], n->out[0]);
    *(EmbedForwardArgs *)args = (EmbedForwardArgs){ .table = tensor_data(n->in[0]), .index = tensor_data(n->in[1]),
                                                    .y = tensor_data(n->out[0]) };
}
static void backward(Graph *g, const Node *n) {
    Attr a = { graph_accumulates(g) };
    if (!tensor_needs_grad(n->in[0])) return;
    Tensor *in[] = { graph_grad_dense(g, n->out[0]), n->in[1], n->in[0] };
    graph_append(g, &embedding_grad, &a, sizeof a, 3, in);
}
static const OpDef embedding = { .name = "embedding", .launcher = &embed_forward, .infer = infer, .bind = bind,
                                 .backward = backward };

Tensor *op_embedding(Graph *g, Tensor *table, Tensor *index) {
    return graph_append(g, &embedding, NULL, 0, 2, (Tensor *[]){ table, index })->out[0];
}

// ---- sinusoid: in = t (N); out = y (N,dim). No gradient flows to time.
typedef struct { int dim; } SinusoidAttr;
static void sinusoid_infer(Graph *g, Node *n) {
    n->out[0] = graph_tensor(g, DT_F32, 2, (int64_t[]){ n->in[0]->shape[0], NODE_ATTR(n, SinusoidAttr)->dim });
    n->n_out = 1;
}
static void sinusoid_bind(const Node *n, void *shape, void *args) {
    *(SinusoidShape *)shape = (SinusoidShape){ .n = (int)n->in[0]->shape[0], .dim = NODE_ATTR(n, SinusoidAttr)->dim,
                                               .in = n->in[0]->dtype, .out = n->out[0]->dtype };
    *(SinusoidArgs *)args = (SinusoidArgs){ .t = tensor_data(n->in[0]), .y = tensor_data(n->out[0]) };
}
static const OpDef sinusoid_op = { .name = "sinusoid", .launcher = &sinusoid, .infer = sinusoid_infer,
                                   .bind = sinusoid_bind };

Tensor *op_sinusoid(Graph *g, Tensor *t, int dim) {
    SinusoidAttr a = { dim };
    return graph_append(g, &sinusoid_op, &a, sizeof a, 1, &t)->out[0];
}
