// core/graph.c - recording: nodes, tensors and views, and the memory they live in.
#include <stdlib.h>
#include <string.h>

#include "core/graph_impl.h"

enum { BLOCK_BYTES = 1 << 16 };
struct Block { Block *next; size_t used, size; };

void *graph_alloc(Graph *g, size_t bytes) {
    bytes = (bytes + 15) / 16 * 16;
    if (!g->blocks || g->blocks->used + bytes > g->blocks->size) {
        size_t size = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
        Block *b = xcalloc(1, sizeof(Block) + 16 + size);
        b->next = g->blocks;
        b->size = size;
        g->blocks = b;
    }
    void *p = (char *)(g->blocks + 1) + g->blocks->used;
    g->blocks->used += bytes;
    return p;
}

Graph *graph_new(Device *d, const char *name, Weights w) {
    Graph *g = xcalloc(1, sizeof *g);
    g->device = d;
    g->name = xstrdup(name);
    g->weights = w;
    g->dtype = DT_F32;
    return g;
}

void graph_free(Graph *g) {
    if (!g) return;
    device_capture_free(g->device, g->captured);
    for (int i = 0; i < g->n_nodes; i++) {
        Node *n = g->nodes[i];
        if (n->impl && n->impl->release && n->work.state) n->impl->release(n->work.state);
    }
    for (Block *b = g->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(g->nodes);
    free(g->tensors);
    free(g->assemblies);
    free(g->offset);
    free(g->name);
    free(g);
}

const char *graph_name(const Graph *g) { return g->name; }
Device     *graph_device(const Graph *g) { return g->device; }
Weights     graph_weights(const Graph *g) { return g->weights; }
DType       graph_dtype(const Graph *g) { return g->dtype; }
void        graph_accumulate(Graph *g) { g->accumulate = true; }
bool        graph_accumulates(const Graph *g) { return g->accumulate; }
int         graph_node_count(const Graph *g) { return g->n_nodes; }
const Node *graph_node(const Graph *g, int i) { return g->nodes[i]; }

void graph_set_dtype(Graph *g, DType dt) {
    CHECK((dt == DT_F32 || dt == DT_BF16) && !g->n_nodes, "graph %s: activations in %s", g->name, dtype_name(dt));
    g->dtype = dt;
}

const char *const dtype_choices[] = { "auto", "f32", "bf16", NULL };
enum { CHOICE_AUTO, CHOICE_F32, CHOICE_BF16 };

bool graph_choose_dtype(const Device *d, int choice, DType *out, Error *err) {
    DeviceKind kind = device_kind(d);
    bool bf16 = choice == CHOICE_BF16 || (choice == CHOICE_AUTO && kind == DEV_CUDA);
    *out = bf16 ? DT_BF16 : DT_F32;
    if (!bf16 || (kind != DEV_CPU && kind != DEV_REF64)) return true;
    return error_set(err, ERR_USAGE, "--dtype bf16: device %s computes in floats only; give --dtype f32, or --device "
                     "cuda, emu, ref or ref32", device_name(d));
}

static Tensor *tensor_in(Graph *g, DType dt, int ndim, const int64_t *shape) {
    CHECK(ndim >= 1 && ndim <= TENSOR_MAX_DIMS, "tensor of %d dimensions", ndim);
    Tensor *t = graph_alloc(g, sizeof *t);
    t->dtype = dt == DT_F32 ? device_real(g->device) : dt;
    t->ndim = ndim;
    for (int i = 0; i < ndim; i++) {
        CHECK(shape[i] > 0, "dimension %d of a tensor is %lld", i, (long long)shape[i]);
        t->shape[i] = shape[i];
    }
    t->ld = shape[ndim - 1];
    t->device = g->device;
    return t;
}

Tensor *graph_tensor(Graph *g, DType dt, int ndim, const int64_t *shape) {
    CHECK(!g->planned, "graph %s is planned: nothing can be added", g->name);
    Tensor *t = tensor_in(g, dt, ndim, shape);
    if (g->n_tensors == g->cap_tensors) {
        g->cap_tensors = g->cap_tensors ? 2 * g->cap_tensors : 256;
        g->tensors = xrealloc(g->tensors, (size_t)g->cap_tensors * sizeof *g->tensors);
    }
    g->tensors[g->n_tensors++] = t;
    return t;
}

Tensor *graph_image(Graph *g, DType dt, const int64_t shape[4]) {
    Tensor *t = graph_tensor(g, dt, 4, shape);
    if (shape[3] % 16 == 0 && t->dtype == DT_F32) t->layout = device_layout(g->device);
    return t;
}

Tensor *graph_input(Graph *g, const char *name, DType dt, int ndim, const int64_t *shape) {
    Tensor *t = graph_tensor(g, dt, ndim, shape);
    char *copy = graph_alloc(g, strlen(name) + 1);
    strcpy(copy, name);
    t->name = copy;
    t->flags |= TENSOR_INPUT;
    return t;
}

Tensor *graph_output(Graph *g, Tensor *t) {
    (void)g;
    tensor_base(t)->flags |= TENSOR_OUTPUT;
    return t;
}

Tensor *graph_view(Graph *g, Tensor *t, int dim, int64_t begin, int64_t end) {
    CHECK((dim == 0 || dim == t->ndim - 1) && 0 <= begin && begin < end && end <= t->shape[dim],
          "view %lld..%lld of dimension %d of %s", (long long)begin, (long long)end, dim, tensor_str(t));
    int64_t unit = dim == 0 && t->ndim > 1 ? tensor_pixels(t) * t->ld : 1;
    if (t->layout == LAYOUT_C16 && dim == t->ndim - 1) {
        CHECK(begin % 16 == 0 && end % 16 == 0, "channels %lld..%lld of %s cut a block of 16", (long long)begin,
              (long long)end, tensor_str(t));
        unit = tensor_pixels(t);
    }
    Tensor *v = tensor_in(g, t->dtype, t->ndim, t->shape);
    v->name = t->name;
    v->shape[dim] = end - begin;
    v->ld = t->ld;
    v->layout = t->layout;
    v->base = tensor_base(t);
    v->offset = t->offset + begin * unit;
    v->producer = v->base->producer;
    v->flags = t->flags & TENSOR_NEEDS_GRAD;
    return v;
}

Tensor *graph_alias(Graph *g, Tensor *t, int ndim, const int64_t *shape) {
    Tensor *v = tensor_in(g, t->dtype, ndim, shape);
    CHECK(tensor_is_dense(t) && tensor_numel(t) == tensor_numel(v) && (t->layout == LAYOUT_NHWC || ndim == 4),
          "alias of %s as %s", tensor_str(t), tensor_str(v));
    v->name = t->name;
    v->layout = t->layout;
    v->base = tensor_base(t);
    v->offset = t->offset;
    v->producer = v->base->producer;
    v->flags = t->flags & TENSOR_NEEDS_GRAD;
    return v;
}

Range graph_view_range(const Tensor *v) {
    const Tensor *b = v->base;
    int last = b->ndim - 1;
    int64_t image = tensor_pixels(b) * b->ld;
    if (v->ndim == b->ndim && v->shape[last] != b->shape[last]) {
        int64_t unit = b->layout == LAYOUT_C16 ? tensor_pixels(b) : 1, begin = v->offset % image / unit;
        CHECK(v->shape[0] == b->shape[0], "gradient of a range of both batch and channels of %s", tensor_str(b));
        return (Range){ last, begin, begin + v->shape[last] };
    }
    return (Range){ 0, v->offset, v->offset + tensor_numel(v) };   // whole images, or an alias: counted in elements
}

Node *graph_append(Graph *g, const OpDef *op, const void *attr, size_t attr_bytes, int n_in, Tensor *const *in) {
    CHECK(!g->planned, "graph %s is planned: nothing can be added", g->name);
    CHECK(n_in <= NODE_MAX_IN, "%s has %d inputs", op->name, n_in);
    Node *n = graph_alloc(g, sizeof *n);
    n->op = op;
    n->id = g->n_nodes;
    n->n_in = n_in;
    bool needs_grad = false;
    for (int i = 0; i < n_in; i++) {
        n->in[i] = in[i];
        needs_grad |= tensor_needs_grad(in[i]);
    }
    if (attr_bytes) n->attr = memcpy(graph_alloc(g, attr_bytes), attr, attr_bytes);
    if (g->n_nodes == g->cap_nodes) {
        g->cap_nodes = g->cap_nodes ? 2 * g->cap_nodes : 256;
        g->nodes = xrealloc(g->nodes, (size_t)g->cap_nodes * sizeof *g->nodes);
    }
    g->nodes[g->n_nodes++] = n;
    op->infer(g, n);
    for (int i = 0; i < n->n_out; i++) {
        Tensor *t = n->out[i];
        if (!t || t->base || (t->flags & TENSOR_PERSISTENT)) continue;
        if (!t->producer) t->producer = n;
        if (!t->name) {
            char name[64];
            snprintf(name, sizeof name, i ? "%s#%d.%d" : "%s#%d", op->name, n->id, i);
            t->name = strcpy(graph_alloc(g, strlen(name) + 1), name);
        }
    }
    if (needs_grad && op->backward && n->n_out > 0 && n->out[0]) n->out[0]->flags |= TENSOR_NEEDS_GRAD;
    return n;
}
