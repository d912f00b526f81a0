// core/plan.c - choosing implementations and placing tensors: every byte of a step is known before it runs.
//
// A tensor lives from the first node that writes it (inputs: from the start) to the last that uses it (outputs: to the
// end); scratch lives for one node. Bases are placed largest first at the lowest offset where no tensor alive at the
// same time lies. plan_check then replays the node list and proves that no read meets overwritten bytes.
#include <stdlib.h>
#include <string.h>

#include "core/graph_impl.h"

enum { ALIGN = 256, ONEDNN_MB = 48 };
typedef struct { size_t bytes, offset; int first, last; int tensor; Node *node; } Item;   // tensor -1: node's scratch

static size_t aligned(size_t bytes) { return (bytes + ALIGN - 1) / ALIGN * ALIGN; }

static void choose_impl(Graph *g, Node *n) {
    const Launcher *l = n->op->launcher;
    n->shape = graph_alloc(g, l->shape_bytes);
    n->args = graph_alloc(g, l->args_bytes);
    n->op->bind(n, n->shape, n->args);
    Device *d = g->device;
    const char *wanted = device_preferred(d, l->name);
    if (wanted) n->impl = impl_find(l, device_kind(d), device_cc(d), n->shape, wanted);
    if (!n->impl) n->impl = impl_find(l, device_kind(d), device_cc(d), n->shape, NULL);
    if (!n->impl) {
        for (const Impl *i = impl_next(l, NULL); i; i = impl_next(l, i))
            if (i->kind == device_kind(d)) log_info("%s: implementation %s refuses this shape", l->name, i->name);
        fatal(__FILE__, __LINE__, "impl", "%s: device %s has no implementation for node %d, %s -> %s", l->name,
              device_name(d), n->id, tensor_str(n->in[0]), tensor_str(n->n_out ? n->out[0] : NULL));
    }
    n->scratch_bytes = l->scratch(n->impl, n->shape);
    n->stream = device_stream(d, 0);
}

static int by_size(const void *a, const void *b) {
    const Item *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return x->first != y->first ? x->first - y->first : x->last - y->last;
}

static int by_offset(const void *a, const void *b) {
    const Item *x = *(Item *const *)a, *y = *(Item *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static size_t place(Item *items, int n) {
    qsort(items, (size_t)n, sizeof *items, by_size);
    Item **alive = xmalloc((size_t)(n + 1) * sizeof *alive);
    size_t total = 0;
    for (int i = 0; i < n; i++) {
        int m = 0;
        for (int j = 0; j < i; j++)
            if (items[j].first <= items[i].last && items[i].first <= items[j].last) alive[m++] = &items[j];
        qsort(alive, (size_t)m, sizeof *alive, by_offset);
        size_t at = 0;
        for (int j = 0; j < m; j++) {
            if (at + items[i].bytes <= alive[j]->offset) break;
            size_t end = alive[j]->offset + alive[j]->bytes;
            if (end > at) at = end;
        }
        items[i].offset = at;
        if (at + items[i].bytes > total) total = at + items[i].bytes;
    }
    free(alive);
    return total;
}

// The number of t among the graph's tensors; -1: not the planner's (a parameter, or another graph's).
static int tensor_number(const Graph *g, Tensor *t, const int *number_of_address, int n_slots) {
    if (!t) return -1;
    t = tensor_base(t);
    size_t h = (size_t)t / 16 % (size_t)n_slots;
    while (number_of_address[h] >= 0) {
        if (g->tensors[number_of_address[h]] == t) return number_of_address[h];
        h = (h + 1) % (size_t)n_slots;
    }
    return -1;
}

static int *index_tensors(const Graph *g, int *n_slots) {
    *n_slots = 2 * g->n_tensors + 1;
    int *slot = xmalloc((size_t)*n_slots * sizeof *slot);
    for (int i = 0; i < *n_slots; i++) slot[i] = -1;
    for (int i = 0; i < g->n_tensors; i++) {
        size_t h = (size_t)g->tensors[i] / 16 % (size_t)*n_slots;
        while (slot[h] >= 0) h = (h + 1) % (size_t)*n_slots;
        slot[h] = i;
    }
    return slot;
}

void graph_plan(Graph *g, Arena *a) {
    CHECK(!g->planned && !a->sealed, "graph %s is planned twice, or its arena is sealed", g->name);
    int n_slots, *slot = index_tensors(g, &n_slots);
    Item *items = xcalloc((size_t)(g->n_tensors + g->n_nodes + 1), sizeof *items);
    for (int i = 0; i < g->n_tensors; i++)
        items[i] = (Item){ .bytes = aligned(tensor_bytes(g->tensors[i])), .first = -1, .last = -2, .tensor = i };
    for (int i = 0; i < g->n_nodes; i++) {
        Node *n = g->nodes[i];
        n->id = i;
        for (int j = 0; j < n->n_in + n->n_out; j++) {
            int t = tensor_number(g, j < n->n_in ? n->in[j] : n->out[j - n->n_in], slot, n_slots);
            if (t < 0) continue;
            bool input = g->tensors[t]->flags & TENSOR_INPUT;
            CHECK(j >= n->n_in || items[t].last > -2 || input, "%s reads %s before it is written", n->op->name,
                  tensor_str(g->tensors[t]));
            if (items[t].last == -2) items[t].first = input ? -1 : i;
            items[t].last = i;
        }
        if (n->op->launcher) choose_impl(g, n);
    }
    int n_items = 0;
    for (int i = 0; i < g->n_tensors; i++) {
        if (items[i].last == -2) {
            if (!(g->tensors[i]->flags & (TENSOR_INPUT | TENSOR_OUTPUT))) continue;   // recorded, then never used
            items[i].first = items[i].last = -1;
        }
        if (g->tensors[i]->flags & TENSOR_OUTPUT) items[i].last = g->n_nodes;
        items[n_items++] = items[i];
    }
    for (int i = 0; i < g->n_nodes; i++)
        if (g->nodes[i]->scratch_bytes)
            items[n_items++] = (Item){ .bytes = aligned(g->nodes[i]->scratch_bytes), .first = i, .last = i,
                                       .tensor = -1, .node = g->nodes[i] };
    size_t bytes = place(items, n_items);
    g->offset = xmalloc((size_t)(g->n_tensors + 1) * sizeof *g->offset);
    for (int i = 0; i < g->n_tensors; i++) g->offset[i] = SIZE_MAX;
    for (int i = 0; i < n_items; i++) {
        if (items[i].tensor >= 0) g->offset[items[i].tensor] = items[i].offset;
        else items[i].node->scratch_offset = items[i].offset;
    }
    free(items);
    free(slot);
    g->planned = true;
    g->arena = a;
    if (bytes > a->bytes) a->bytes = bytes;
    a->graphs = xrealloc(a->graphs, (size_t)(a->n_graphs + 1) * sizeof *a->graphs);
    a->graphs[a->n_graphs++] = g;
    plan_check(g);
}

static bool overlap(size_t a, size_t a_bytes, size_t b, size_t b_bytes) { return a < b + b_bytes && b < a + a_bytes; }

// Bytes [begin, begin + bytes) are about to be written by node n for tensor `mine` (-1: scratch): all else there dies.
static void overwrite(const Graph *g, bool *valid, size_t begin, size_t bytes, int mine) {
    for (int i = 0; i < g->n_tensors; i++)
        if (i != mine && valid[i] && overlap(begin, bytes, g->offset[i], tensor_bytes(g->tensors[i]))) valid[i] = false;
}

void plan_check(const Graph *g) {
    int n_slots, *slot = index_tensors(g, &n_slots);
    bool *valid = xcalloc((size_t)(g->n_tensors + 1), 1);
    for (int i = 0; i < g->n_tensors; i++) {
        if (!(g->tensors[i]->flags & TENSOR_INPUT)) continue;
        overwrite(g, valid, g->offset[i], tensor_bytes(g->tensors[i]), i);
        valid[i] = true;
    }
    for (int i = 0; i < g->n_nodes; i++) {
        const Node *n = g->nodes[i];
        if (n->scratch_bytes) overwrite(g, valid, n->scratch_offset, n->scratch_bytes, -1);
        for (int j = 0; j < n->n_out; j++) {
            int t = tensor_number(g, n->out[j], slot, n_slots);
            if (t < 0) continue;
            overwrite(g, valid, g->offset[t], tensor_bytes(g->tensors[t]), t);
            valid[t] = true;
        }
        for (int j = 0; j < n->n_in; j++) {      // after the outputs: one that lies over an input of the node is caught
            int t = tensor_number(g, n->in[j], slot, n_slots);
            CHECK(t < 0 || valid[t], "plan of %s: node %d (%s) reads %s, whose bytes are overwritten", g->name, i,
                  n->op->name, tensor_str(g->tensors[t]));
        }
        if (n->scratch_bytes)
            for (int j = 0; j < n->n_in + n->n_out; j++) {
                int t = tensor_number(g, j < n->n_in ? n->in[j] : n->out[j - n->n_in], slot, n_slots);
                CHECK(t < 0 || !overlap(n->scratch_offset, n->scratch_bytes, g->offset[t], tensor_bytes(g->tensors[t])),
                      "plan of %s: scratch of node %d lies on %s", g->name, i, tensor_str(g->tensors[t]));
            }
    }
    for (int i = 0; i < g->n_tensors; i++)
        CHECK(!(g->tensors[i]->flags & TENSOR_OUTPUT) || valid[i], "plan of %s: output %s is overwritten", g->name,
              tensor_str(g->tensors[i]));
    free(valid);
    free(slot);
}

Arena *arena_new(Device *d) {
    Arena *a = xcalloc(1, sizeof *a);
    a->device = d;
    return a;
}

void arena_free(Arena *a) {
    if (!a) return;
    if (a->sealed) device_free(a->device, a->memory);
    free(a->graphs);
    free(a);
}

size_t arena_bytes(const Arena *a) { return a->bytes; }

void arena_seal(Arena *a) {
    CHECK(!a->sealed, "arena sealed twice");
    a->sealed = true;
    a->memory = device_alloc(a->device, a->bytes);
    if (device_is_null(a->device)) return;
    // So that no node reads what none has written.
    if (device_kind(a->device) == DEV_EMU) device_poison(a->device, a->memory, a->bytes);
    // oneDNN's code generator does not survive a lack of memory: what it may take is asked for here, and given back.
    if (device_kind(a->device) == DEV_CPU) free(xmalloc((size_t)ONEDNN_MB << 20));
    for (int i = 0; i < a->n_graphs; i++) arena_bind(a->graphs[i], a->memory);
}
