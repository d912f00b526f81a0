// core/fuse.c - rewrites of the recorded forward graph: small ops that a neighbour does in passing. Each leaves a graph
// that computes the same values (dropout and sums in another rounding order); CBDM_NO_FUSE=1 or --no-fuse turns it off.
//
//   conv2d, add_channel       -> conv2d with a time embedding
//   conv2d, add               -> conv2d with a residual
//   upsample2x, conv2d        -> conv2d_up, for filters of 3x3
//   groupnorm, dropout        -> groupnorm with dropout, which keeps a mask of bits instead of drawing twice
// and, once gradients are recorded,
//   conv2d_input_grad, add    -> conv2d_input_grad that adds another contribution to what it writes
//   groupnorm_grad, add       -> the same for groupnorm_grad
//
// All need that nobody else reads the value in between.
#include <stdlib.h>

#include "core/graph_impl.h"
#include "core/ops/channel.h"
#include "core/ops/conv2d.h"
#include "core/ops/conv2d_up.h"
#include "core/ops/groupnorm.h"
#include "core/ops/resample.h"

static int uses_of(const Graph *g, const Tensor *t) {
    int uses = t->flags & TENSOR_OUTPUT ? 1 : 0;
    for (int i = 0; i < g->n_nodes; i++)
        for (int j = 0; g->nodes[i] && j < g->nodes[i]->n_in; j++) {
            const Tensor *in = g->nodes[i]->in[j];
            uses += in && (in == t || in->base == t);
        }
    return uses;
}

// The node that makes x, if it is a `def` whose value only one node reads.
static Node *sole_producer(const Graph *g, const Tensor *x, const OpDef *def) {
    if (!x || x->base || !x->producer || x->producer->op != def || x->producer->out[0] != x) return NULL;
    return uses_of(g, x) == 1 ? x->producer : NULL;
}

// Producer p takes the place and the value of its consumer c.
static void absorb(Graph *g, Node *p, Node *c) {
    g->nodes[p->id] = NULL;
    g->nodes[c->id] = p;
    p->id = c->id;
    p->out[0] = c->out[0];
    p->out[0]->producer = p;
}

static void fuse_node(Graph *g, Node *c) {
    if (c->op == &op_def_add_channel && c->in[0]->shape[0] == c->in[1]->shape[0]) {
        Node *p = sole_producer(g, c->in[0], &op_def_conv2d);
        if (!p || p->in[CONV2D_IN_TEMB] || p->in[CONV2D_IN_RESIDUAL]) return;
        p->in[CONV2D_IN_TEMB] = c->in[1];
        absorb(g, p, c);
    } else if (c->op == &op_def_add) {
        for (int side = 0; side < 2; side++) {
            Node *p = sole_producer(g, c->in[side], &op_def_conv2d);
            if (!p || p->in[CONV2D_IN_RESIDUAL] || c->in[0] == c->in[1]) continue;
            if (p->in[0]->dtype != c->in[1 - side]->dtype) continue;      // a residual is stored as the sources are
            p->in[CONV2D_IN_RESIDUAL] = c->in[1 - side];
            absorb(g, p, c);
            return;
        }
    } else if (c->op == &op_def_conv2d) {
        Node *p = sole_producer(g, c->in[CONV2D_IN_X], &op_def_upsample2x);
        if (!p || !conv2d_up_can(c)) return;
        c->op = &op_def_conv2d_up;
        c->in[CONV2D_IN_X] = p->in[0];
        g->nodes[p->id] = NULL;
    } else if (c->op == &op_def_dropout) {
        Node *p = sole_producer(g, c->in[0], &op_def_groupnorm);
        if (!p) return;
        GroupNormAttr *a = (GroupNormAttr *)p->attr;      // the graph's own copy
        a->p16 = NODE_ATTR(c, RandomAttr)->p16;
        a->purpose = NODE_ATTR(c, RandomAttr)->purpose;
        p->in[GROUPNORM_IN_SAMPLE] = c->in[1];
        p->in[GROUPNORM_IN_STATE] = c->in[2];
        Tensor *mask = graph_tensor(g, DT_U8, 1, (int64_t[]){ (tensor_numel(c->in[0]) + 7) / 8 });
        mask->name = "mask";
        mask->producer = p;
        p->out[GROUPNORM_OUT_MASK] = mask;
        absorb(g, p, c);
    }
}

static void fuse_gradient(Graph *g, Node *c) {
    if (c->op != &op_def_add) return;
    for (int side = 0; side < 2; side++) {
        Tensor *other = c->in[1 - side];
        if (!tensor_is_dense(other) || other->layout != c->out[0]->layout || c->in[0] == c->in[1]) continue;
        Node *conv = sole_producer(g, c->in[side], &op_def_conv2d_input_grad);
        Node *norm = sole_producer(g, c->in[side], &op_def_groupnorm_grad), *p = conv ? conv : norm;
        int slot = conv ? CONV2D_INPUT_GRAD_IN_ADD : GROUPNORM_GRAD_IN_ADD;
        if (!p || p->in[slot]) continue;
        p->in[slot] = other;
        absorb(g, p, c);
        return;
    }
}

static void rewrite(Graph *g, void (*fuse)(Graph *g, Node *c)) {
    const char *off = getenv("CBDM_NO_FUSE");
    if (off && off[0] == '1') return;
    for (int i = 0; i < g->n_nodes; i++)
        if (g->nodes[i]) fuse(g, g->nodes[i]);
    int n = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        if (!g->nodes[i]) continue;
        g->nodes[n] = g->nodes[i];
        g->nodes[n]->id = n;
        n++;
    }
    g->n_nodes = n;
}

void graph_rewrite_forward(Graph *g) { rewrite(g, fuse_node); }
void graph_rewrite_backward(Graph *g) { rewrite(g, fuse_gradient); }
