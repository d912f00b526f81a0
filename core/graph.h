// core/graph.h - a step of work, recorded once, planned once, run many times. The calls, in their only legal order:
//   record (op_*) -> graph_rewrite_forward -> graph_backward -> graph_rewrite_backward -> record the optimiser
//   -> graph_plan -> arena_seal -> graph_run, graph_run, ...
#ifndef CORE_GRAPH_H
#define CORE_GRAPH_H
#include <stdio.h>
#include "core/tensor.h"
#include "kernels/common/kernel.h"
EXTERN_C_BEGIN
typedef struct Graph Graph;
typedef struct Arena Arena;                       // one block of memory; graphs that never run at once share it
typedef struct { double flops, bytes; } OpCost;   // useful work and compulsory traffic, for benches and MFU
typedef enum { WEIGHTS_TRAIN, WEIGHTS_EMA } Weights;

// An operation is one constant struct, not an enum value: no switch anywhere lists the operations.
typedef struct {
    const char     *name;
    const Launcher *launcher;                                // a node is one launcher call; NULL: nothing to run
    void   (*infer)(Graph *g, Node *n);                      // check inputs and attributes, create outputs
    void   (*bind)(const Node *n, void *shape, void *args);  // fill the launcher's structs, given zeroed. Called when
                                                             // planning (no addresses yet) and when sealing
    void   (*backward)(Graph *g, const Node *n);             // append gradient nodes; NULL: gradient stops here
    OpCost (*cost)(const Node *n);                           // NULL: bytes of inputs and outputs, no flops
    bool    is_loss;                                         // backward needs no incoming gradient: it is 1
} OpDef;

enum { NODE_MAX_IN = 16, NODE_MAX_OUT = 6 };
struct Node {
    const OpDef *op;
    int          id;                                // position in the graph's list of nodes
    Tensor      *in[NODE_MAX_IN];   int n_in;       // NULL: absent
    Tensor      *out[NODE_MAX_OUT]; int n_out;      // out[0] is the value, the rest saved for backward; NULL: unwanted
    const void  *attr;                              // the op's own attribute struct, the graph's copy
    // chosen and placed by graph_plan, bound by arena_seal, passed to impl on every run
    const Impl  *impl;
    void        *shape, *args;                      // launcher->shape_bytes, args_bytes
    size_t       scratch_bytes, scratch_offset;
    Work         work;                              // state from prepare(), planned scratch
    Stream      *stream;
    double       seconds;                           // summed by graph_profile
};
#define NODE_ATTR(n, T) ((const T *)(n)->attr)

// ---- record: tensors and nodes are the graph's and live as long as it does
Graph  *graph_new(Device *d, const char *name, Weights w);    // layers read TRAIN or EMA weights, for good
void    graph_free(Graph *g);
const char *graph_name(const Graph *g);
Device *graph_device(const Graph *g);
Weights graph_weights(const Graph *g);
// How activations are stored: DT_F32, or DT_BF16, set before the first op. Parameters' gradients, the time embedding,
// predictions, losses and a sampler's state are f32 in both.
void    graph_set_dtype(Graph *g, DType dt);
DType   graph_dtype(const Graph *g);
extern const char *const dtype_choices[];         // of a --dtype flag: "auto", "f32", "bf16", NULL
// dtype_choices[choice] on this device; auto: bf16 on cuda, f32 elsewhere. False: the device stores no bf16.
bool    graph_choose_dtype(const Device *d, int choice, DType *out, Error *err);
void    graph_accumulate(Graph *g);                           // gradients of parameters are added to, not written
bool    graph_accumulates(const Graph *g);
Tensor *graph_input(Graph *g, const char *name, DType dt, int ndim, const int64_t *shape);
Tensor *graph_output(Graph *g, Tensor *t);                    // keep t readable after graph_run; returns t
Node   *graph_append(Graph *g, const OpDef *op, const void *attr, size_t attr_bytes, int n_in, Tensor *const *in);
Tensor *graph_tensor(Graph *g, DType dt, int ndim, const int64_t *shape);    // for infer(): planned, dense, NHWC
Tensor *graph_image(Graph *g, DType dt, const int64_t shape[4]);             // in the device's layout, if C allows it
Tensor *graph_view(Graph *g, Tensor *t, int dim, int64_t begin, int64_t end);         // dim 0 or the last
Tensor *graph_alias(Graph *g, Tensor *t, int ndim, const int64_t *shape);    // other shape of a dense row-major t
int     graph_node_count(const Graph *g);
const Node *graph_node(const Graph *g, int i);
// ---- rewrite (core/fuse.c) and differentiate
void    graph_rewrite_forward(Graph *g);
void    graph_rewrite_backward(Graph *g);                     // after graph_backward
void    graph_backward(Graph *g, Tensor *loss);               // reverse sweep; loss is a scalar or of an is_loss op
void    graph_add_grad(Graph *g, Tensor *x, Tensor *dx);      // for backward(): x's gradient = dx, or a node adds
// For backward(): whether a node must add to x's gradient, not write it: x is a parameter, and the graph accumulates or
// an earlier node writes there. Where x is no parameter, graph_add_grad sums.
bool    graph_grad_adds(const Graph *g, const Tensor *x);
// For infer() of gradient nodes: the tensor to write x's gradient to, with x's shape, layout and ld: a new one, or for
// a view the same view of its base's gradient. NULL if x needs none.
Tensor *graph_grad_out(Graph *g, Tensor *x);
Tensor *graph_grad_sink(Graph *g, const Tensor *x);   // as large, for launchers that always write; nobody reads it
// x's gradient for ops that read it without strides: a copy where it is a range of channels.
Tensor *graph_grad_dense(Graph *g, const Tensor *x);
// ---- plan and run
Arena  *arena_new(Device *d);
void    arena_free(Arena *a);                                 // after its graphs
size_t  arena_bytes(const Arena *a);                          // exact, before a byte is allocated
void    graph_plan(Graph *g, Arena *a);                       // implementations, offsets; checked again
void    arena_seal(Arena *a);                                 // allocate, bind(), prepare(); or exit 4 with a report
void    graph_run(Graph *g);                                  // aborts at the first node whose stream failed
OpCost  graph_cost(const Graph *g);                           // sum over nodes
void    graph_dump(const Graph *g, FILE *f);                  // one line per node: op, impl, cost, tensors, scratch
void    graph_profile(Graph *g, int repeats, FILE *f);        // runs; time per op and implementation, sorted
EXTERN_C_END
#endif
