// kernels/groupnorm/groupnorm.h - group normalization of activations, then SiLU and dropout if asked for.
//   mean, var over (H, W, channels of a group);  u = (x - mean) * rstd * gamma + beta;  y = drop(act(u))
#ifndef KERNELS_GROUPNORM_H
#define KERNELS_GROUPNORM_H
#include "kernels/common/kernel.h"
typedef struct {
    int n, hw, c, groups, ldx, ldy;   // ld: elements from pixel to pixel
    double eps;
    Act act;
    bool stats;                       // mean and variance come from the producer's epilogue instead of a pass over x
    uint32_t p16, purpose;            // dropout: p * 65536 rounded, 0: none; purpose of the draw as in pointwise.h
    DType dtype;                      // x, y, dy, dx
    Layout layout;                    // of x, y, dy, dx, add, mask
} GroupNormShape;

typedef struct {
    const void  *x;                   // (n,hw,c)
    const real *gamma, *beta;        // (c)
    const real *stats;               // (n,c,2) as conv2d writes them, or NULL
    const uint32_t *sample;           // (n), and the step's state: the dropout key; or NULL
    const StepState *state;
    void        *y;                   // (n,hw,c), or NULL: only scale and shift are wanted
    real        *mean, *rstd;         // (n,groups), kept for the backward pass
    real        *scale, *shift;       // (n,c) for a convolution's prologue: rstd * gamma, beta - mean * scale; or NULL
    uint8_t     *mask;                // bit i, low first: element i of (n,hw,c), as stored, is kept; or NULL
} GroupNormForwardArgs;
// Two-pass variance in the accumulator; y rounds once. All outputs: =.
LAUNCHER(groupnorm_forward, GroupNormShape, GroupNormForwardArgs);

typedef struct {
    const void  *dy, *x;              // dy: gradient of y, or of u if sums is given
    const real *gamma, *beta, *mean, *rstd;
    const real *sums;                // (n,c,2) from conv2d_backward_input, or NULL
    const uint8_t *mask;              // of the forward pass, or NULL: no dropout, or dy has it already (sums)
    const void  *add;                 // (n,hw,c), dense: added to dx before rounding (a residual's gradient), or NULL
    void        *dx;                  // (n,hw,c) with x's ld: =. NULL: only dgamma and dbeta are wanted
    real        *dgamma, *dbeta;      // (c), or NULL
    bool         accumulate;          // dgamma, dbeta: true +=, false =; fixed order
} GroupNormBackwardArgs;
LAUNCHER(groupnorm_backward, GroupNormShape, GroupNormBackwardArgs);
#endif
