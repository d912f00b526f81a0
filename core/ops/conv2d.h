// core/ops/conv2d.h - what core/fuse.c needs to know of a convolution node: inputs x, w, bias, temb, residual.
#ifndef CORE_OPS_CONV2D_H
#define CORE_OPS_CONV2D_H
#include "core/ops.h"
typedef struct { int stride, pad_h, pad_w; DType out; bool accumulate; } Conv2dAttr;
enum { CONV2D_IN_X = 0, CONV2D_IN_TEMB = 3, CONV2D_IN_RESIDUAL = 4, CONV2D_INPUT_GRAD_IN_ADD = 3 };
extern const OpDef op_def_conv2d, op_def_conv2d_input_grad;
#endif
