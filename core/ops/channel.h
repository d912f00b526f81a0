// core/ops/channel.h - the definitions that core/fuse.c looks for: the small ops that a neighbour can do in passing.
#ifndef CORE_OPS_CHANNEL_H
#define CORE_OPS_CHANNEL_H
#include "core/ops.h"
extern const OpDef op_def_add_channel, op_def_add, op_def_dropout;
typedef struct { uint32_t purpose, p16; } RandomAttr;      // of op_def_dropout; inputs x, sample, state
#endif
