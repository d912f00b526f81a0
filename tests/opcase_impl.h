// tests/opcase_impl.h - a recording's own fields, for tests/opcase*.c only.
#ifndef TESTS_OPCASE_IMPL_H
#define TESTS_OPCASE_IMPL_H
#include "opcase.h"
enum { MAX_INPUTS = 256, MAX_OUTPUTS = 16 };
typedef struct {
    char     name[56];
    Tensor  *t;                  // an input of the graph, or a parameter
    int32_t *index;              // values of an i32 input, or NULL
    float   *given;              // values of a given input, or NULL: drawn
    uint32_t hash;
    float    center, spread;     // of drawn values
    bool     differentiate;
    bool     narrow;             // stored in bf16 where activations are
} Input;
typedef struct { char name[40]; Tensor *t, *cotangent; unsigned use; } Output;
struct OpRun {
    const OpCase *c;
    ParamSet     *ps;
    Graph        *g;
    Arena        *arena;
    Tensor       *loss;
    Input         in[MAX_INPUTS];
    int           n_in;
    Output        out[MAX_OUTPUTS];
    int           n_out;
    bool          has_gradients; // differentiated
    bool          gradients;     // to be differentiated
    bool          sealed, recorded, state, rounded;
    void         *model;         // owner of ps, or NULL
    void        (*release)(void *model);
};
Device  *case_device(const RunSpec *spec);
Results *case_results(const OpSuite *s, const OpRun *r);   // after a run; caller frees
#endif
