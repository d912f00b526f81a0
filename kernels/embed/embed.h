// kernels/embed/embed.h - rows of a table by index, and sinusoids of time.
#ifndef KERNELS_EMBED_H
#define KERNELS_EMBED_H
#include "kernels/common/kernel.h"
typedef struct { int n, c, rows; DType out; } EmbedShape;
typedef struct { const real *table; const int32_t *index; void *y; } EmbedForwardArgs;    // (rows,c), (n) -> (n,c)
LAUNCHER(embed_forward, EmbedShape, EmbedForwardArgs);                                     // index -1: zeros
typedef struct { const void *dy; const int32_t *index; real *dtable; bool accumulate; } EmbedBackwardArgs;
LAUNCHER(embed_backward, EmbedShape, EmbedBackwardArgs);   // = (absent rows: zero) or +=; rows summed in order of n

// y (n,dim) = sin, cos interleaved of t f_i, f_i = exp(-(2i / dim) ln 10000), as the published table: the exponent, f_i
// and the product t f_i are each rounded to float, sine and cosine are then exact to rounding. t (n) i32 or f32.
typedef struct { int n, dim; DType in, out; } SinusoidShape;
typedef struct { const void *t; void *y; } SinusoidArgs;
LAUNCHER(sinusoid, SinusoidShape, SinusoidArgs);
#endif
