// core/param_impl.h - the parameter set's own fields, for param.c and checkpoint.c only.
#ifndef CORE_PARAM_IMPL_H
#define CORE_PARAM_IMPL_H
#include "core/param.h"
enum { BUFFER_VALUE, BUFFER_GRAD, BUFFER_M, BUFFER_V, BUFFER_EMA, BUFFER_COUNT };
struct Param {
    ParamSet *set;
    Tensor  value, gradient, average;             // windows into the buffers
    Tensor  copy[2];                              // by Weights: windows into the bf16 copies
    Init    init;
    float   gain;
    int64_t begin;                                // first element in each buffer
    bool    label, unread;
};
// A bf16 copy of the weights or of the averages: made if a graph wants it. `cast` is a graph of one node.
typedef struct { bool wanted; Tensor *buffer; Graph *cast; Arena *arena; } Copy;
struct ParamSet {
    Device  *device;
    Param  **param;
    int      n;
    int64_t  elements;                            // of a buffer, alignment included
    Tensor  *buffer[BUFFER_COUNT];                // NULL where the set's use needs none
    Tensor  *span, *has_grad[2], *count, *state;  // has_grad: [0] of an unlabelled batch, [1] of a labelled one
    Copy     copy[2];                             // by Weights
    ParamUse use;
    bool     sealed;
};
#endif
