// kernels/batchnorm/batchnorm.h - batch normalization of activations, then a residual and ReLU if asked for.
//   mean, var over (N, H, W) per channel;  y = act((x - mean) * rstd * gamma + beta + residual)
#ifndef KERNELS_BATCHNORM_H
#define KERNELS_BATCHNORM_H
#include "kernels/common/kernel.h"
typedef struct {
    int n, hw, c, ldx, ldy, ldr;      // from pixel to pixel: of x and dx; of y, or dy; of residual
    double momentum, eps;
    Act act;                          // ACT_NONE or ACT_RELU
    bool training;                    // by the batch's statistics; otherwise the running ones. Then n hw > 1
    DType dtype;                      // of all that has n hw c elements
    Layout layout;                    // of the same
} BatchNormShape;

typedef struct {
    const void *x, *residual;         // (n,hw,c); residual: NULL if there is none
    const real *gamma, *beta;         // (c)
    real       *running_mean, *running_var;   // (c). training: += momentum (batch's - it), the variance over n hw - 1
    void       *y;                    // (n,hw,c): =
    real       *mean, *rstd;          // (c): =, kept for the backward pass. training only
} BatchNormForwardArgs;
// The variance is that of the deviations from the mean, not a difference of two large sums; y rounds once. NaN stays.
LAUNCHER(batchnorm_forward, BatchNormShape, BatchNormForwardArgs);

typedef struct {
    const void *dy, *x, *y;           // (n,hw,c). y: dense, for ACT_RELU, whose gradient is 0 where y <= 0; else NULL
    const real *gamma, *mean, *rstd;  // (c)
    void       *dx;                   // (n,hw,c): =, or NULL: only the parameters' gradients are wanted
    void       *dresidual;            // (n,hw,c): = dy act', or NULL
    real       *dgamma, *dbeta;       // (c), or NULL
    bool        accumulate;           // dgamma, dbeta: true +=, false =; fixed order
} BatchNormBackwardArgs;
// Of training: dx takes into account what x does to the statistics.
LAUNCHER(batchnorm_backward, BatchNormShape, BatchNormBackwardArgs);
#endif
