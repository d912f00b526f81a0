// core/param_impl.h - the parameter set's own fields, for param.c and checkpoint.c only.
#ifndef CORE_PARAM_IMPL_H
#define CORE_PARAM_IMPL_H
#include "core/param.h"
enum { BUFFER_VALUE, BUFFER_GRAD, BUFFER_M, BUFFER_V, BUFFER_EMA, BUFFER_COUNT };
struct Param {
    Tensor  value, gradient, average;             // windows into the buffers
    Init    init;
    float   gain;
    int64_t begin;                                // first element in each buffer
    bool    label;
};
struct ParamSet {
    Device  *device;
    Param  **param;
    int      n;
    int64_t  elements;                            // of a buffer, alignment included
    Tensor  *buffer[BUFFER_COUNT];                // NULL where the set's use needs none
    Tensor  *span, *has_grad[2], *count, *state;  // has_grad: [0] of an unlabelled batch, [1] of a labelled one
    ParamUse use;
    bool     sealed;
};
#endif
