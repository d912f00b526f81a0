// core/ops/random.c - the graph's view of random draws: normal noise and dropout.
#include "core/ops/channel.h"
#include "kernels/pointwise/pointwise.h"

// FNV-1a over the name, kept clear of the fixed purposes.
uint32_t op_purpose(const char *param_name) {
    uint32_t h = 2166136261u;
    for (const char *c = param_name; *c; c++) h = (h ^ (uint8_t)*c) * 16777619u;
    return h < PURPOSE_NAMED ? h + PURPOSE_NAMED : h;
}

static void bind(const Node *n, void *shape, void *args) {
    const Tensor *y = n->out[0], *x = n->in[0];
    CHECK(tensor_is_dense(y) && (!x || (tensor_is_dense(x) && x->layout == y->layout)), "%s of %s", n->op->name,
          tensor_str(x));
    *(RandomShape *)shape = (RandomShape){ .n = (int)y->shape[0], .hw = (int)tensor_pixels(y), .c = (int)y->shape[3],
                                           .purpose = NODE_ATTR(n, RandomAttr)->purpose,
                                           .p16 = NODE_ATTR(n, RandomAttr)->p16, .dtype = y->dtype,
                                           .layout = y->layout };
    *(RandomArgs *)args = (RandomArgs){ .sample = tensor_data(n->in[1]), .state = tensor_data(n->in[2]),
                                        .x = tensor_data(x), .y = tensor_data(y) };
}

// ---- dropout: in = x, sample, state; out = y. Its backward is the same draw on dy.
static void dropout_infer(Graph *g, Node *n) {
    CHECK(n->in[1]->shape[0] == n->in[0]->shape[0], "dropout: %s with samples %s", tensor_str(n->in[0]),
          tensor_str(n->in[1]));
    n->out[0] = graph_tensor(g, n->in[0]->dtype, 4, n->in[0]->shape);
    n->out[0]->layout = n->in[0]->layout;
    n->n_out = 1;
}
static void dropout_backward(Graph *g, const Node *n) {
    Tensor *in[] = { graph_grad_dense(g, n->out[0]), n->in[1], n->in[2] };
    graph_add_grad(g, n->in[0], graph_append(g, &op_def_dropout, n->attr, sizeof(RandomAttr), 3, in)->out[0]);
}
const OpDef op_def_dropout = { .name = "dropout", .launcher = &dropout, .infer = dropout_infer, .bind = bind,
                               .backward = dropout_backward };
Tensor *op_dropout(Graph *g, Tensor *x, double p, uint32_t purpose, Tensor *sample, Tensor *state) {
    RandomAttr a = { purpose, (uint32_t)(p * 65536.0 + 0.5) };
    return a.p16 ? graph_append(g, &op_def_dropout, &a, sizeof a, 3, (Tensor *[]){ x, sample, state })->out[0] : x;
}

// ---- noise: in = (none), sample, state; out = y
typedef struct { RandomAttr random; int64_t shape[4]; } NoiseAttr;      // RandomAttr first: bind() reads it
static void randn_infer(Graph *g, Node *n) {
    n->out[0] = graph_tensor(g, DT_F32, 4, NODE_ATTR(n, NoiseAttr)->shape);
    n->n_out = 1;
}
static const OpDef randn_op = { .name = "randn", .launcher = &randn, .infer = randn_infer, .bind = bind };
Tensor *op_randn(Graph *g, const int64_t shape[4], uint32_t purpose, Tensor *sample, Tensor *state) {
    NoiseAttr a = { { purpose, 0 }, { shape[0], shape[1], shape[2], shape[3] } };
    return graph_append(g, &randn_op, &a, sizeof a, 3, (Tensor *[]){ NULL, sample, state })->out[0];
}
