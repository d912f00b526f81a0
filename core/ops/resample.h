// core/ops/resample.h - what core/fuse.c needs to know of upsampling: input x.
#ifndef CORE_OPS_RESAMPLE_H
#define CORE_OPS_RESAMPLE_H
#include "core/ops.h"
extern const OpDef op_def_upsample2x;
#endif
