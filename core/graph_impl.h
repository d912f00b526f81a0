// core/graph_impl.h - the graph's own fields, for graph.c, grad.c, fuse.c, plan.c, run.c and the tests of the engine.
#ifndef CORE_GRAPH_IMPL_H
#define CORE_GRAPH_IMPL_H
#include "core/graph.h"
typedef struct Block Block;                       // memory that lives as long as the graph
typedef struct { int dim; int64_t begin, end; } Range;
// A gradient that is put together from the gradients of views.
typedef struct { Tensor *of, *grad; Range range[8]; int n; } Assembly;
struct Graph {
    Device   *device;
    char     *name;
    Weights   weights;
    DType     dtype;                              // of activations
    bool      accumulate, planned;
    Block    *blocks;
    Node    **nodes;
    int       n_nodes, cap_nodes;
    Tensor  **tensors;                            // bases only
    int       n_tensors, cap_tensors;
    Assembly *assemblies;
    int       n_assemblies;
    size_t   *offset;                             // by tensor, set by graph_plan
    Arena    *arena;
    bool      has_run;
    void     *captured;                           // the run as one launch, on a GPU; NULL: not yet
};
struct Arena {
    Device *device;
    size_t  bytes;
    void   *memory;
    bool    sealed;
    Graph **graphs;
    int     n_graphs;
};
void *graph_alloc(Graph *g, size_t bytes);        // zeroed, owned by the graph
Range graph_view_range(const Tensor *view);       // which part of its base a view is
void  plan_check(const Graph *g);                 // no node reads bytes that another tensor has overwritten; or aborts
void  arena_bind(Graph *g, void *memory);         // addresses into tensors, bind(), prepare()
#endif
