// core/run.c - binding a planned graph to memory, running it, and telling what it costs.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/graph_impl.h"

void arena_bind(Graph *g, void *memory) {
    for (int i = 0; i < g->n_tensors; i++)
        if (g->offset[i] != SIZE_MAX) g->tensors[i]->data = (char *)memory + g->offset[i];
    for (int i = 0; i < g->n_nodes; i++) {
        Node *n = g->nodes[i];
        const Launcher *l = n->op->launcher;
        if (!l) continue;
        memset(n->shape, 0, l->shape_bytes);
        memset(n->args, 0, l->args_bytes);
        n->op->bind(n, n->shape, n->args);
        n->work.state = l->prepare(n->impl, n->stream, n->shape, n->args);
        n->work.scratch = n->scratch_bytes ? (char *)memory + n->scratch_offset : NULL;
    }
}

// From t's first element to the end of its last row; what a view leaves out between its rows is not told apart.
static DeviceWindow window_of(const Tensor *t, bool write) {
    int64_t c = t->shape[t->ndim - 1], rows = tensor_numel(t) / c;
    return (DeviceWindow){ tensor_data(t), (size_t)((rows - 1) * t->ld + c) * dtype_size(t->dtype), write };
}

static bool works_in_place(const Node *n) {
    for (int i = 0; i < n->n_in; i++)
        for (int j = 0; j < n->n_out; j++)
            if (n->in[i] && n->in[i] == n->out[j]) return true;
    return false;
}

// What node n may touch: its inputs, and to write its outputs and scratch. A node that works in place, having an input
// among its outputs, names only one of those that it changes (Adam: weights, moments, averages, counts): it may write
// all of its inputs that are nobody's activations.
static void declare_scope(const Graph *g, const Node *n, const char *label) {
    DeviceWindow w[NODE_MAX_IN + NODE_MAX_OUT + 1];
    bool in_place = works_in_place(n);
    int count = 0;
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i]) w[count++] = window_of(n->in[i], in_place && n->in[i]->flags & TENSOR_PERSISTENT);
    for (int j = 0; j < n->n_out; j++)
        if (n->out[j]) w[count++] = window_of(n->out[j], true);
    if (n->work.scratch) w[count++] = (DeviceWindow){ n->work.scratch, n->scratch_bytes, true };
    device_scope(g->device, label, w, count);
}

static const char *node_str(const Graph *g, const Node *n, char text[GRAPH_NODE_TEXT]) {
    snprintf(text, GRAPH_NODE_TEXT, "graph %s, node %d (%s, %s -> %s)", g->name, n->id, n->op->name, n->impl->name,
             tensor_str(n->n_out ? n->out[0] : NULL));
    return text;
}

// `named`: reports of the emulated GPU bear the node's name, since they may come long after the launch.
static void launch_node(const Graph *g, Node *n, bool named) {
    char label[GRAPH_NODE_TEXT] = "";
    if (!n->op->launcher) return;
    crumb_set(n->n_out && n->out[0] && n->out[0]->name ? n->out[0]->name : n->op->name);
    if (device_has_scope(g->device)) declare_scope(g, n, named ? node_str(g, n, label) : label);
    n->op->launcher->run(n->impl, n->stream, n->shape, n->args, n->work);
}

static void check_node(const Graph *g, const Node *n, Status s) {
    char text[GRAPH_NODE_TEXT];
    CHECK(s.code == 0, "%s: %s", node_str(g, n, text), s.what);
}

// One node after the other, each waited for, so that a failure is known for the node's own.
static void run_nodes(Graph *g) {
    for (int i = 0; i < g->n_nodes; i++) {
        launch_node(g, g->nodes[i], false);
        if (g->nodes[i]->op->launcher) check_node(g, g->nodes[i], device_check(g->device));
    }
}

static void capture(Graph *g) {
    Status s;
    device_capture_begin(g->device);
    for (int i = 0; i < g->n_nodes; i++) {
        launch_node(g, g->nodes[i], true);
        if (g->nodes[i]->op->launcher) check_node(g, g->nodes[i], device_check(g->device));
    }
    g->captured = device_capture_end(g->device, &s);
    CHECK(s.code == 0, "graph %s cannot be captured: %s; CBDM_NO_CAPTURE=1 runs it node by node", g->name, s.what);
}

// A GPU runs a graph node by node the first time, which loads its kernels and finds what a launch can be refused for,
// and which names the node that fails. From the second time on the whole graph is one launch.
void graph_run(Graph *g) {
    CHECK(g->planned && g->arena->sealed && !device_is_null(g->device),
          "graph %s cannot run: not sealed, or a null device", g->name);
    const char *off = getenv("CBDM_NO_CAPTURE");
    if (!device_can_capture(g->device) || !g->has_run || (off && strcmp(off, "1") == 0)) {
        run_nodes(g);
        g->has_run = true;
    } else {
        if (!g->captured) capture(g);
        device_capture_launch(g->device, g->captured);
    }
    device_scope(g->device, "", NULL, 0);
    crumb_set(NULL);
}

static bool is_finite(const Tensor *t) {
    if (!tensor_data(t) || (t->dtype != DT_F32 && t->dtype != DT_BF16 && t->dtype != DT_F64)) return true;
    int64_t n = tensor_numel(t);
    double *host = xmalloc((size_t)n * sizeof *host);
    tensor_read_f64(t, host);
    bool finite = true;
    for (int64_t i = 0; i < n && finite; i++) finite = isfinite(host[i]);
    free(host);
    return finite;
}

// The node, and the parameters that it reads.
bool graph_find_nonfinite(Graph *g, char text[GRAPH_NODE_TEXT]) {
    for (int i = 0; i < g->n_nodes; i++) {
        Node *n = g->nodes[i];
        if (!n->op->launcher) continue;
        if (works_in_place(n)) break;
        launch_node(g, n, false);
        check_node(g, n, device_check(g->device));
        for (int j = 0; j < n->n_out; j++) {
            if (!n->out[j] || is_finite(n->out[j])) continue;
            node_str(g, n, text);
            for (int k = 0, at; k < n->n_in; k++) {
                if (!n->in[k] || !n->in[k]->name || !(n->in[k]->flags & TENSOR_PERSISTENT)) continue;
                at = (int)strlen(text);
                snprintf(text + at, (size_t)(GRAPH_NODE_TEXT - at), ", %s", n->in[k]->name);
            }
            return true;
        }
    }
    return false;
}

static OpCost node_cost(const Node *n) {
    if (n->op->cost) return n->op->cost(n);
    OpCost c = { 0, 0 };
    if (!n->op->launcher) return c;
    for (int i = 0; i < n->n_in; i++) c.bytes += n->in[i] ? (double)tensor_bytes(n->in[i]) : 0;
    for (int i = 0; i < n->n_out; i++) c.bytes += n->out[i] ? (double)tensor_bytes(n->out[i]) : 0;
    return c;
}

OpCost graph_cost(const Graph *g) {
    OpCost sum = { 0, 0 };
    for (int i = 0; i < g->n_nodes; i++) {
        OpCost c = node_cost(g->nodes[i]);
        sum.flops += c.flops;
        sum.bytes += c.bytes;
    }
    return sum;
}

void graph_dump(const Graph *g, FILE *f) {
    fprintf(f, "graph %s: %d nodes, %.2f GFLOP, %.1f MB of arena\n", g->name, g->n_nodes, graph_cost(g).flops / 1e9,
            g->arena ? (double)g->arena->bytes / 1e6 : 0.0);
    for (int i = 0; i < g->n_nodes; i++) {
        const Node *n = g->nodes[i];
        OpCost c = node_cost(n);
        fprintf(f, "%4d %-22s %-10s %9.3f MFLOP %9.3f MB ", i, n->op->name, n->impl ? n->impl->name : "-",
                c.flops / 1e6, c.bytes / 1e6);
        for (int j = 0; j < n->n_in; j++)
            if (n->in[j]) fprintf(f, " %s", tensor_str(n->in[j]));
        fprintf(f, " ->");
        for (int j = 0; j < n->n_out; j++)
            if (n->out[j]) fprintf(f, " %s", tensor_str(n->out[j]));
        if (n->scratch_bytes) fprintf(f, "  scratch %.3f MB", (double)n->scratch_bytes / 1e6);
        fputc('\n', f);
    }
}

typedef struct { const char *op, *impl; int nodes; double seconds, flops, bytes; } ProfileRow;

static int by_seconds(const void *a, const void *b) {
    double x = ((const ProfileRow *)a)->seconds, y = ((const ProfileRow *)b)->seconds;
    return (x < y) - (x > y);
}

void graph_profile(Graph *g, int repeats, FILE *f) {
    for (int r = 0; r < repeats + 1; r++) {            // the first round warms up
        for (int i = 0; i < g->n_nodes; i++) {
            device_mark(g->device, i);
            launch_node(g, g->nodes[i], true);
        }
        device_mark(g->device, g->n_nodes);
        device_sync(g->device);
        for (int i = 0; i < g->n_nodes; i++)
            g->nodes[i]->seconds = (r > 1 ? g->nodes[i]->seconds : 0) + device_elapsed(g->device, i, i + 1);
    }
    device_scope(g->device, "", NULL, 0);
    crumb_set(NULL);
    ProfileRow *rows = xcalloc((size_t)g->n_nodes + 1, sizeof *rows);
    int n_rows = 0;
    double total = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        const Node *n = g->nodes[i];
        const char *impl = n->impl ? n->impl->name : "-";
        int r = 0;
        while (r < n_rows && (rows[r].op != n->op->name || strcmp(rows[r].impl, impl) != 0)) r++;
        if (r == n_rows) rows[n_rows++] = (ProfileRow){ .op = n->op->name, .impl = impl };
        OpCost c = node_cost(n);
        rows[r].nodes++;
        rows[r].seconds += n->seconds / repeats;
        rows[r].flops += c.flops;
        rows[r].bytes += c.bytes;
        total += n->seconds / repeats;
    }
    qsort(rows, (size_t)n_rows, sizeof *rows, by_seconds);
    fprintf(f, "graph %s: %.2f ms, %.1f GFLOP/s\n%-24s %-10s %6s %10s %7s %10s %8s\n", g->name, total * 1e3,
            graph_cost(g).flops / total / 1e9, "op", "impl", "nodes", "ms", "share", "GFLOP/s", "GB/s");
    for (int r = 0; r < n_rows; r++)
        fprintf(f, "%-24s %-10s %6d %10.3f %6.1f%% %10.1f %8.1f\n", rows[r].op, rows[r].impl, rows[r].nodes,
                rows[r].seconds * 1e3, 100 * rows[r].seconds / total, rows[r].flops / rows[r].seconds / 1e9,
                rows[r].bytes / rows[r].seconds / 1e9);
    free(rows);
}
