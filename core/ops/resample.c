// core/ops/resample.c - the graph's view of upsampling, concatenation, repetition and changes of layout.
#include "core/ops/resample.h"

#include "kernels/pointwise/pointwise.h"
#include "kernels/resample/resample.h"

static void args_of(const Node *n, void *args) {
    CHECK(tensor_is_dense(n->in[0]) && tensor_is_dense(n->out[0]), "%s: %s", n->op->name, tensor_str(n->in[0]));
    *(ResampleArgs *)args = (ResampleArgs){ .x = tensor_data(n->in[0]), .y = tensor_data(n->out[0]) };
}

// ---- upsample. A blocked image is a batch of n c/16 images of 16 channels.
static UpsampleShape upsample_shape(const Tensor *small) {
    int n = (int)small->shape[0], c = (int)small->shape[3];
    CHECK(tensor_is_dense(small), "upsample2x: %s", tensor_str(small));
    if (small->layout == LAYOUT_C16) n *= c / 16, c = 16;
    return (UpsampleShape){ .n = n, .h = (int)small->shape[1], .w = (int)small->shape[2], .c = c,
                            .dtype = small->dtype };
}
static void upsample_grad_infer(Graph *g, Node *n) { n->out[0] = graph_grad_out(g, n->in[1]); n->n_out = 1; }
static void upsample_grad_bind(const Node *n, void *shape, void *args) {
    *(UpsampleShape *)shape = upsample_shape(n->out[0]);
    args_of(n, args);
}
static const OpDef upsample_grad = { .name = "upsample2x_grad", .launcher = &upsample2x_backward,
                                     .infer = upsample_grad_infer, .bind = upsample_grad_bind };
static void upsample_infer(Graph *g, Node *n) {
    const int64_t *s = n->in[0]->shape;
    n->out[0] = graph_tensor(g, n->in[0]->dtype, 4, (int64_t[]){ s[0], 2 * s[1], 2 * s[2], s[3] });
    n->out[0]->layout = n->in[0]->layout;
    n->n_out = 1;
}
static void upsample_bind(const Node *n, void *shape, void *args) {
    *(UpsampleShape *)shape = upsample_shape(n->in[0]);
    args_of(n, args);
}
static void upsample_backward(Graph *g, const Node *n) {
    Tensor *in[] = { graph_grad_dense(g, n->out[0]), n->in[0] };
    graph_add_grad(g, n->in[0], graph_append(g, &upsample_grad, NULL, 0, 2, in)->out[0]);
}
const OpDef op_def_upsample2x = { .name = "upsample2x", .launcher = &upsample2x_forward, .infer = upsample_infer,
                                  .bind = upsample_bind, .backward = upsample_backward };
Tensor *op_upsample2x(Graph *g, Tensor *x) { return graph_append(g, &op_def_upsample2x, NULL, 0, 1, &x)->out[0]; }

// ---- concat: in = a, b; out = y. Its backward is two views of dy.
static void concat_infer(Graph *g, Node *n) {
    const Tensor *a = n->in[0], *b = n->in[1];
    CHECK(a->ndim == 4 && b->ndim == 4 && a->shape[0] == b->shape[0] && a->shape[1] == b->shape[1] &&
          a->shape[2] == b->shape[2], "concat: %s and %s", tensor_str(a), tensor_str(b));
    int64_t channels = a->shape[3] + b->shape[3];
    n->out[0] = graph_tensor(g, a->dtype, 4, (int64_t[]){ a->shape[0], a->shape[1], a->shape[2], channels });
    n->out[0]->layout = a->layout;
    CHECK(a->layout == b->layout && a->dtype == b->dtype, "concat: layouts or types of %s and %s", tensor_str(a),
          tensor_str(b));
    n->n_out = 1;
}
static void concat_bind(const Node *n, void *shape, void *args) {
    const Tensor *a = n->in[0], *b = n->in[1];
    int64_t hw = tensor_pixels(a);
    bool blocked = a->layout == LAYOUT_C16;
    int run = blocked ? (int)hw : 1;
    *(ConcatShape *)shape = (ConcatShape){ .rows = a->shape[0] * (blocked ? 1 : hw), .ca = (int)a->shape[3] * run,
                                           .cb = (int)b->shape[3] * run, .lda = tensor_ld(a) * run,
                                           .ldb = tensor_ld(b) * run, .dtype = a->dtype };
    *(ConcatArgs *)args = (ConcatArgs){ .a = tensor_data(a), .b = tensor_data(b), .y = tensor_data(n->out[0]) };
}
static void concat_backward(Graph *g, const Node *n) {
    Tensor *dy = n->out[0]->grad;
    int64_t ca = n->in[0]->shape[3], c = dy->shape[3];
    if (tensor_needs_grad(n->in[0])) graph_add_grad(g, n->in[0], graph_view(g, dy, 3, 0, ca));
    if (tensor_needs_grad(n->in[1])) graph_add_grad(g, n->in[1], graph_view(g, dy, 3, ca, c));
}
static const OpDef concat = { .name = "concat", .launcher = &concat_forward, .infer = concat_infer, .bind = concat_bind,
                              .backward = concat_backward };
// Where not both sides are in blocks (8 and 16 channels, 8 and 8), pixels are joined, then put into blocks if they fill
// some.
Tensor *op_concat_channel(Graph *g, Tensor *a, Tensor *b) {
    bool blocked = a->layout == LAYOUT_C16 && b->layout == LAYOUT_C16;
    Tensor *in[] = { blocked ? a : op_relayout(g, a, LAYOUT_NHWC), blocked ? b : op_relayout(g, b, LAYOUT_NHWC) };
    Tensor *y = graph_append(g, &concat, NULL, 0, 2, in)->out[0];
    return y->shape[3] % 16 ? y : op_relayout(g, y, device_layout(graph_device(g)));
}

// ---- repeat: in = x (N,...); out = y (kN,...)
typedef struct { int copies; } RepeatAttr;
static void repeat_bind_of(const Node *n, const Tensor *one, void *shape, void *args) {
    CHECK(tensor_is_dense(one), "repeat_batch: %s", tensor_str(one));
    *(RepeatShape *)shape = (RepeatShape){ .e = tensor_numel(one), .copies = NODE_ATTR(n, RepeatAttr)->copies,
                                           .dtype = one->dtype };
    args_of(n, args);
}
static void repeat_grad_infer(Graph *g, Node *n) { n->out[0] = graph_grad_out(g, n->in[1]); n->n_out = 1; }
static void repeat_grad_bind(const Node *n, void *shape, void *args) { repeat_bind_of(n, n->out[0], shape, args); }
static const OpDef repeat_grad = { .name = "repeat_batch_grad", .launcher = &repeat_batch_backward,
                                   .infer = repeat_grad_infer, .bind = repeat_grad_bind };
static void repeat_infer(Graph *g, Node *n) {
    const Tensor *x = n->in[0];
    int64_t s[TENSOR_MAX_DIMS];
    for (int i = 0; i < x->ndim; i++) s[i] = x->shape[i] * (i == 0 ? NODE_ATTR(n, RepeatAttr)->copies : 1);
    n->out[0] = graph_tensor(g, x->dtype, x->ndim, s);
    n->out[0]->layout = x->layout;
    n->n_out = 1;
}
static void repeat_bind(const Node *n, void *shape, void *args) { repeat_bind_of(n, n->in[0], shape, args); }
static void repeat_backward(Graph *g, const Node *n) {
    graph_add_grad(g, n->in[0], graph_append(g, &repeat_grad, n->attr, sizeof(RepeatAttr), 2,
                                             (Tensor *[]){ graph_grad_dense(g, n->out[0]), n->in[0] })->out[0]);
}
static const OpDef repeat = { .name = "repeat_batch", .launcher = &repeat_batch_forward, .infer = repeat_infer,
                              .bind = repeat_bind, .backward = repeat_backward };
Tensor *op_repeat_batch(Graph *g, Tensor *x, int copies) {
    RepeatAttr a = { copies };
    return copies == 1 ? x : graph_append(g, &repeat, &a, sizeof a, 1, &x)->out[0];
}

Tensor *op_view_batch(Graph *g, Tensor *x, int64_t begin, int64_t end) { return graph_view(g, x, 0, begin, end); }
Tensor *op_view_channel(Graph *g, Tensor *x, int64_t begin, int64_t end) {
    return graph_view(g, x, x->ndim - 1, begin, end);
}

// ---- relayout: in = x; out = y
typedef struct { Layout to; } RelayoutAttr;
static void relayout_infer(Graph *g, Node *n) {
    n->out[0] = graph_tensor(g, n->in[0]->dtype, 4, n->in[0]->shape);
    n->out[0]->layout = NODE_ATTR(n, RelayoutAttr)->to;
    n->n_out = 1;
}
static void relayout_bind(const Node *n, void *shape, void *args) {
    const Tensor *x = n->in[0];
    CHECK(tensor_is_dense(x), "relayout of %s", tensor_str(x));
    *(RelayoutShape *)shape = (RelayoutShape){ .n = (int)x->shape[0], .hw = (int)tensor_pixels(x),
                                               .c = (int)x->shape[3], .dtype = x->dtype, .from = x->layout,
                                               .to = n->out[0]->layout };
    *(RelayoutArgs *)args = (RelayoutArgs){ .x = tensor_data(x), .y = tensor_data(n->out[0]) };
}
static void relayout_backward(Graph *g, const Node *n) {
    graph_add_grad(g, n->in[0], op_relayout(g, graph_grad_dense(g, n->out[0]), n->in[0]->layout));
}
static const OpDef relayout_op = { .name = "relayout", .launcher = &relayout, .infer = relayout_infer,
                                   .bind = relayout_bind, .backward = relayout_backward };
Tensor *op_relayout(Graph *g, Tensor *x, Layout to) {
    RelayoutAttr a = { to };
    return x->layout == to ? x : graph_append(g, &relayout_op, &a, sizeof a, 1, &x)->out[0];
}
