// core/grad.c - reverse-mode differentiation: gradients are ordinary nodes, appended by each op's backward.
//
// A tensor's gradient has exactly one writer. Where a tensor is used twice, a node adds the second contribution to the
// first into a new tensor; a parameter's gradient has its place, and products that use it twice add there. Where views
// of a tensor are used, each use writes its own part of one gradient tensor (an assembly); parts that nobody writes are
// filled with zeros when the sweep reaches the tensor's producer.
#include <string.h>

#include "core/graph_impl.h"
#include "core/ops.h"

static Assembly *assembly_of(Graph *g, const Tensor *base) {
    for (int i = 0; i < g->n_assemblies; i++)
        if (g->assemblies[i].of == base) return &g->assemblies[i];
    return NULL;
}

// A tensor like x without producer or gradient.
static Tensor *tensor_like(Graph *g, const Tensor *x) {
    Tensor *t = graph_tensor(g, x->dtype, x->ndim, x->shape);
    t->layout = x->layout;
    return t;
}

static Tensor *view_like(Graph *g, const Tensor *view, Tensor *base) {
    Tensor *v = graph_alloc(g, sizeof *v);
    *v = *view;
    v->base = base;
    v->name = base->name;
    v->grad = NULL;
    v->producer = NULL;
    v->flags = 0;
    return v;
}

Tensor *graph_grad_out(Graph *g, Tensor *x) {
    if (!tensor_needs_grad(x)) return NULL;
    if (!x->base) return tensor_like(g, x);
    Assembly *a = assembly_of(g, x->base);
    Range r = graph_view_range(x);
    bool fits = !a || (a->n < (int)(sizeof a->range / sizeof a->range[0]) && a->range[0].dim == r.dim);
    for (int i = 0; fits && a && i < a->n; i++) fits = r.end <= a->range[i].begin || a->range[i].end <= r.begin;
    if (!fits) return view_like(g, x, tensor_like(g, x->base));        // an overlapping use: added later
    if (!a) {
        g->assemblies = xrealloc(g->assemblies, (size_t)(g->n_assemblies + 1) * sizeof *g->assemblies);
        a = &g->assemblies[g->n_assemblies++];
        *a = (Assembly){ .of = x->base, .grad = tensor_like(g, x->base) };
    }
    a->range[a->n++] = r;
    return view_like(g, x, a->grad);
}

Tensor *graph_grad_sink(Graph *g, const Tensor *x) {
    int64_t shape[TENSOR_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = x->ld;                                        // written with x's stride
    Tensor *t = graph_tensor(g, x->dtype, x->ndim, shape);
    t->layout = x->layout;
    return graph_view(g, t, x->ndim - 1, 0, x->shape[x->ndim - 1]);
}

Tensor *graph_grad_dense(Graph *g, const Tensor *x) {
    if (!x->grad || tensor_is_dense(x->grad)) return x->grad;
    Tensor *dense = tensor_like(g, x->grad);
    op_copy_to(g, x->grad, dense);
    return dense;
}

void graph_add_grad(Graph *g, Tensor *x, Tensor *dx) {
    if (!tensor_needs_grad(x) || !dx) return;
    CHECK(tensor_same_shape(x, dx), "gradient %s of %s", tensor_str(dx), tensor_str(x));
    if (x->flags & TENSOR_PERSISTENT) {
        CHECK(dx == x->grad, "gradient of parameter %s must be written in place", tensor_str(x));
        return;
    }
    if (!x->base) {
        x->grad = x->grad ? op_add(g, x->grad, dx) : dx;
        return;
    }
    Assembly *a = assembly_of(g, x->base);
    if (a && dx->base == a->grad) return;                              // written where it belongs
    Tensor *part = graph_grad_out(g, x);
    a = assembly_of(g, x->base);
    if (part->base == a->grad) {
        op_copy_to(g, dx, part);
    } else {                                                           // overlap: zeros around dx, then an ordinary sum
        op_fill_to(g, part->base, 0.0f);
        op_copy_to(g, dx, part);
        x->base->grad = x->base->grad ? op_add(g, x->base->grad, part->base) : part->base;
    }
}

bool graph_grad_adds(const Graph *g, const Tensor *x) {
    if (!(x->flags & TENSOR_PERSISTENT)) return false;
    if (g->accumulate) return true;
    for (int i = 0; i < g->n_nodes; i++)
        for (int j = 0; j < g->nodes[i]->n_out; j++)
            if (g->nodes[i]->out[j] == x->grad) return true;
    return false;
}

// Fills what no view's gradient covers and joins the assembly with the gradient that came through whole uses.
static void assembly_finish(Graph *g, Tensor *base) {
    Assembly *a = assembly_of(g, base);
    if (!a) return;
    int dim = a->range[0].dim;
    int64_t end = dim ? base->shape[dim] : tensor_numel(base), at = 0;
    while (at < end) {
        const Range *here = NULL;
        int64_t next = end;
        for (int i = 0; i < a->n; i++) {
            if (a->range[i].begin == at) here = &a->range[i];
            else if (a->range[i].begin > at && a->range[i].begin < next) next = a->range[i].begin;
        }
        if (here) {
            at = here->end;
            continue;
        }
        if (dim) {
            op_fill_to(g, graph_view(g, a->grad, dim, at, next), 0.0f);
        } else {
            int64_t image = end / base->shape[0];
            CHECK(at % image == 0 && next % image == 0, "gradients of views of %s leave part of an image",
                  tensor_str(base));
            op_fill_to(g, graph_view(g, a->grad, 0, at / image, next / image), 0.0f);
        }
        at = next;
    }
    base->grad = base->grad ? op_add(g, base->grad, a->grad) : a->grad;
    a->of = NULL;
}

void graph_backward(Graph *g, Tensor *loss) {
    CHECK(!loss->base && loss->producer, "loss %s is not the output of a node", tensor_str(loss));
    if (!loss->producer->op->is_loss) {
        CHECK(tensor_numel(loss) == 1, "loss %s is no scalar", tensor_str(loss));
        loss->grad = tensor_like(g, loss);
        op_fill_to(g, loss->grad, 1.0f);
    }
    for (int i = loss->producer->id; i >= 0; i--) {
        const Node *n = g->nodes[i];
        if (n->n_out == 0 || !tensor_needs_grad(n->out[0]) || !n->op->backward) continue;
        assembly_finish(g, n->out[0]);
        if (n->out[0]->grad || (n->op->is_loss && n->out[0] == loss)) n->op->backward(g, n);
    }
    for (int i = 0; i < g->n_tensors; i++)                             // inputs that want a gradient
        if (g->tensors[i]->flags & TENSOR_INPUT) assembly_finish(g, g->tensors[i]);
}
