// core/ops/cross_entropy.c - the graph's view of cross entropy, which is a loss: its forward pass writes the gradient.
#include "core/ops.h"
#include "kernels/classify/classify.h"

// in = logits, label, offset or NULL; out = loss, dlogits where it is wanted
static void infer(Graph *g, Node *n) {
    Tensor *logits = n->in[0];
    const Tensor *label = n->in[1], *offset = n->in[2];
    CHECK(logits->ndim == 2 && logits->dtype == device_real(graph_device(g)) && tensor_is_dense(logits) &&
          label->dtype == DT_I32 && tensor_numel(label) == logits->shape[0] &&
          (!offset || tensor_numel(offset) == logits->shape[1]), "cross_entropy: %s with %s", tensor_str(logits),
          tensor_str(label));
    n->out[0] = graph_tensor(g, DT_F32, 1, (int64_t[]){ 1 });
    n->out[1] = graph_grad_out(g, logits);
    n->n_out = 2;
}
static void bind(const Node *n, void *shape, void *args) {
    *(CrossEntropyShape *)shape = (CrossEntropyShape){ .n = (int)n->in[0]->shape[0], .c = (int)n->in[0]->shape[1] };
    *(CrossEntropyArgs *)args = (CrossEntropyArgs){ .logits = tensor_data(n->in[0]), .label = tensor_data(n->in[1]),
                                                    .offset = tensor_data(n->in[2]), .loss = tensor_data(n->out[0]),
                                                    .dlogits = tensor_data(n->out[1]) };
}
static void backward(Graph *g, const Node *n) { graph_add_grad(g, n->in[0], n->out[1]); }
static const OpDef cross_entropy_op = { .name = "cross_entropy", .launcher = &cross_entropy, .infer = infer,
                                        .bind = bind, .backward = backward, .is_loss = true };
Tensor *op_cross_entropy(Graph *g, Tensor *logits, Tensor *label, Tensor *offset) {
    return graph_append(g, &cross_entropy_op, NULL, 0, 3, (Tensor *[]){ logits, label, offset })->out[0];
}
