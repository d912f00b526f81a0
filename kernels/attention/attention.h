// kernels/attention/attention.h - softmax attention over tokens, heads side by side in the channels.
#ifndef KERNELS_ATTENTION_H
#define KERNELS_ATTENTION_H
#include "kernels/common/kernel.h"
// t tokens (pixels) of an image, heads of c channels. ld as in layout_index, so q, k, v may be views of one product.
typedef struct { int n, t, heads, c, ldq, ldk, ldv, ldo; float scale; DType dtype; Layout layout; } AttentionShape;

// q,k,v,o (n,t,heads*c); lse (n,heads,t) f32. Rounding: softmax rows once to dtype, o once. Outputs: =.
typedef struct { const void *q, *k, *v; void *o; real *lse; } AttentionForwardArgs;
LAUNCHER(attention_forward, AttentionShape, AttentionForwardArgs);

// Rounding: p once to dtype, as forward; its gradient stays in the accumulator; dq, dk, dv once.
// Gradients have the strides of what they are gradients of; dq, dk, dv: = (disjoint views of one tensor are fine).
typedef struct { const void *d_o, *q, *k, *v, *o; const real *lse; void *dq, *dk, *dv; } AttentionBackwardArgs;
LAUNCHER(attention_backward, AttentionShape, AttentionBackwardArgs);
#endif
