// kernels/gemm/gemm.h - y = alpha * op(a) op(b) + bias, batched, with the transposes the backwards need.
#ifndef KERNELS_GEMM_H
#define KERNELS_GEMM_H
#include "kernels/common/kernel.h"
typedef struct {
    int m, n, k, batch;
    bool ta, tb;                             // a is stored (k,m), b is stored (n,k)
    int lda, ldb, ldy;                       // elements from row to row, as stored
    int64_t batch_a, batch_b, batch_y;       // elements from matrix to matrix; 0 in a or b: the same one for all
    float alpha;
    Act act;                                 // applied to y last, after what accumulate adds
    DType in, out;
} GemmShape;
typedef struct {
    const void *a, *b;                       // (batch,m,k), (batch,k,n)
    const real *bias;                       // (n), or NULL
    void *y;                                 // (batch,m,n)
    bool accumulate;                         // true +=, false =
} GemmArgs;
LAUNCHER(gemm, GemmShape, GemmArgs);

// db (n) = or += sum over rows of dy (m,n): the bias gradient of a linear layer, in a fixed order.
typedef struct { int m, n, ldy; DType in; } BiasGradShape;
typedef struct { const void *dy; real *db; bool accumulate; } BiasGradArgs;
LAUNCHER(bias_backward, BiasGradShape, BiasGradArgs);
#endif
