// core/ops/pool.c - the graph's view of pooling, and of channels of zeros beside those of an image.
#include "core/ops.h"
#include "kernels/pool/pool.h"

// ---- windows. A blocked image is a batch of n c/16 images of 16 channels.
typedef struct { PoolKind kind; int window, stride, pad; } PoolAttr;

static PoolShape shape_of(const Node *n, const Tensor *x, const Tensor *y) {
    const PoolAttr *a = NODE_ATTR(n, PoolAttr);
    int images = (int)x->shape[0], c = (int)x->shape[3];
    CHECK(tensor_is_dense(x) && tensor_is_dense(y) && x->layout == y->layout, "pool: %s -> %s", tensor_str(x),
          tensor_str(y));
    if (x->layout == LAYOUT_C16) images *= c / 16, c = 16;
    return (PoolShape){ .n = images, .h = (int)x->shape[1], .w = (int)x->shape[2], .c = c, .p = (int)y->shape[1],
                        .q = (int)y->shape[2], .window = a->window, .stride = a->stride, .pad = a->pad,
                        .largest = a->kind == POOL_MAX, .dtype = x->dtype };
}

// backward: in = dy, x, tap; out = dx
static void pool_grad_infer(Graph *g, Node *n) { n->out[0] = graph_grad_out(g, n->in[1]); n->n_out = 1; }
static void pool_grad_bind(const Node *n, void *shape, void *args) {
    *(PoolShape *)shape = shape_of(n, n->out[0], n->in[0]);
    *(PoolBackwardArgs *)args = (PoolBackwardArgs){ .dy = tensor_data(n->in[0]), .tap = tensor_data(n->in[2]),
                                                    .dx = tensor_data(n->out[0]) };
}
static const OpDef pool_grad = { .name = "pool_grad", .launcher = &pool_backward, .infer = pool_grad_infer,
                                 .bind = pool_grad_bind };

// forward: in = x; out = y, tap
static void pool_infer(Graph *g, Node *n) {
    const PoolAttr *a = NODE_ATTR(n, PoolAttr);
    const Tensor *x = n->in[0];
    CHECK(x->ndim == 4 && a->window >= 1 && a->window <= 16 && a->stride >= 1 && a->pad >= 0 &&
          2 * a->pad <= a->window && x->shape[1] + 2 * a->pad >= a->window && x->shape[2] + 2 * a->pad >= a->window,
          "pool: %s in windows of %d, %d of padding", tensor_str(x), a->window, a->pad);
    int64_t shape[] = { x->shape[0], (x->shape[1] + 2 * a->pad - a->window) / a->stride + 1,
                        (x->shape[2] + 2 * a->pad - a->window) / a->stride + 1, x->shape[3] };
    n->out[0] = graph_tensor(g, x->dtype, 4, shape);
    n->out[0]->layout = x->layout;
    if (a->kind == POOL_MAX && tensor_needs_grad(x)) n->out[1] = graph_tensor(g, DT_U8, 4, shape);
    n->n_out = 2;
}
static void pool_bind(const Node *n, void *shape, void *args) {
    *(PoolShape *)shape = shape_of(n, n->in[0], n->out[0]);
    *(PoolForwardArgs *)args = (PoolForwardArgs){ .x = tensor_data(n->in[0]), .y = tensor_data(n->out[0]),
                                                  .tap = tensor_data(n->out[1]) };
}
static void pool_op_backward(Graph *g, const Node *n) {
    Tensor *in[] = { graph_grad_dense(g, n->out[0]), n->in[0], n->out[1] };
    graph_add_grad(g, n->in[0], graph_append(g, &pool_grad, n->attr, sizeof(PoolAttr), 3, in)->out[0]);
}
static const OpDef pool = { .name = "pool", .launcher = &pool_forward, .infer = pool_infer, .bind = pool_bind,
                            .backward = pool_op_backward };
Tensor *op_pool(Graph *g, Tensor *x, PoolKind kind, int window, int stride, int pad) {
    PoolAttr a = { kind, window, stride, pad };
    return graph_append(g, &pool, &a, sizeof a, 1, &x)->out[0];
}

// ---- all pixels: in = x; out = y. Backward: in = dy, x; out = dx
static PoolAllShape all_shape(const Tensor *x) {
    return (PoolAllShape){ .n = (int)x->shape[0], .hw = (int)tensor_pixels(x), .c = (int)x->shape[3],
                           .ldx = tensor_ld(x), .dtype = x->dtype, .layout = x->layout };
}
static void all_grad_infer(Graph *g, Node *n) { n->out[0] = graph_grad_out(g, n->in[1]); n->n_out = 1; }
static void all_grad_bind(const Node *n, void *shape, void *args) {
    *(PoolAllShape *)shape = all_shape(n->out[0]);
    *(PoolAllBackwardArgs *)args = (PoolAllBackwardArgs){ .dy = tensor_data(n->in[0]), .dx = tensor_data(n->out[0]) };
}
static const OpDef pool_all_grad = { .name = "pool_all_grad", .launcher = &pool_all_backward, .infer = all_grad_infer,
                                     .bind = all_grad_bind };
static void all_infer(Graph *g, Node *n) {
    const Tensor *x = n->in[0];
    CHECK(x->ndim == 4, "pool_all: %s", tensor_str(x));
    n->out[0] = graph_tensor(g, DT_F32, 2, (int64_t[]){ x->shape[0], x->shape[3] });
    n->n_out = 1;
}
static void all_bind(const Node *n, void *shape, void *args) {
    *(PoolAllShape *)shape = all_shape(n->in[0]);
    *(PoolAllForwardArgs *)args = (PoolAllForwardArgs){ .x = tensor_data(n->in[0]), .y = tensor_data(n->out[0]) };
}
static void all_backward(Graph *g, const Node *n) {
    Tensor *in[] = { graph_grad_dense(g, n->out[0]), n->in[0] };
    graph_add_grad(g, n->in[0], graph_append(g, &pool_all_grad, NULL, 0, 2, in)->out[0]);
}
static const OpDef pool_all = { .name = "pool_all", .launcher = &pool_all_forward, .infer = all_infer,
                                .bind = all_bind, .backward = all_backward };
Tensor *op_pool_all(Graph *g, Tensor *x) { return graph_append(g, &pool_all, NULL, 0, 1, &x)->out[0]; }

// ---- zeros
static Tensor *zeros(Graph *g, const Tensor *x, int64_t channels) {
    Tensor *t = graph_image(g, x->dtype, (int64_t[]){ x->shape[0], x->shape[1], x->shape[2], channels });
    op_fill_to(g, t, 0);
    return t;
}
Tensor *op_pad_channel(Graph *g, Tensor *x, int64_t before, int64_t after) {
    if (before) x = op_concat_channel(g, zeros(g, x, before), x);
    return after ? op_concat_channel(g, x, zeros(g, x, after)) : x;
}
