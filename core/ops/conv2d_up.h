// core/ops/conv2d_up.h - what core/fuse.c needs to make a conv2d node one that upsamples first: inputs x, w, bias.
#ifndef CORE_OPS_CONV2D_UP_H
#define CORE_OPS_CONV2D_UP_H
#include "core/ops.h"
extern const OpDef op_def_conv2d_up;               // of op_def_conv2d's inputs and attributes; x before upsampling
bool conv2d_up_can(const Node *conv2d);            // 3x3, stride 1, padding 1, nothing added but a bias
#endif
