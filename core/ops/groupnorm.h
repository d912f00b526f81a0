// core/ops/groupnorm.h - what core/fuse.c needs to know of a normalization node: inputs x, gamma, beta, sample, state.
#ifndef CORE_OPS_GROUPNORM_H
#define CORE_OPS_GROUPNORM_H
#include "core/ops.h"
typedef struct { int groups; double eps; Act act; uint32_t p16, purpose; bool accumulate; } GroupNormAttr;
enum { GROUPNORM_IN_SAMPLE = 3, GROUPNORM_IN_STATE = 4, GROUPNORM_OUT_MASK = 3, GROUPNORM_GRAD_IN_ADD = 7 };
extern const OpDef op_def_groupnorm, op_def_groupnorm_grad;
#endif
