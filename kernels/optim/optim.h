// kernels/optim/optim.h - gradient norm; Adam and EMA, or SGD, in one pass over all parameters; the step state's clock.
#ifndef KERNELS_OPTIM_H
#define KERNELS_OPTIM_H
#include "kernels/common/kernel.h"
// state->step += 1, sampler_index += 1: the last node of a step.
typedef struct { int unused; } StepAdvanceShape;
typedef struct { StepState *state; } StepAdvanceArgs;
LAUNCHER(step_advance, StepAdvanceShape, StepAdvanceArgs);

typedef struct { int64_t begin, end; } ParamSpan;   // one tensor's elements in the buffers below

// state->grad_norm = |g| over the spans that have a gradient, in a fixed order.
typedef struct { int64_t n; int tensors; } GradNormShape;
typedef struct {
    const real      *g;           // (n)
    const ParamSpan *span;        // (tensors), ascending
    const uint8_t   *has_grad;    // (tensors)
    StepState       *state;
} GradNormArgs;
LAUNCHER(grad_norm, GradNormShape, GradNormArgs);

typedef struct {
    int64_t n;
    int     tensors;
    double  lr;                   // at most; times min(state->updates, warmup) / warmup, so the first update has lr 0
    int64_t warmup;               // updates; 0: none
    double  beta1, beta2, eps;
    double  clip_norm;            // 0: no clipping
    double  ema_decay;
    bool    ema_ramp;             // decay = min(ema_decay, (1 + s) / (10 + s)), s = state->updates
} AdamShape;
typedef struct {
    const ParamSpan *span;        // (tensors), ascending
    const uint8_t   *has_grad;    // (tensors): this graph writes its gradient; if not it is read as zero
    const real      *g;           // (n), scaled on the fly by min(1, clip_norm / (grad_norm + 1e-6))
    StepState       *state;       // reads grad_norm, updates; writes lr; += updates or skipped
    int64_t         *count;       // (tensors) Adam steps of each, += 1; its bias corrections come from it, in double
    real            *w, *m, *v;   // (n), in place
    real            *ema;         // (n), in place: += (1 - decay) (w - ema), 1 - decay in double, rounded once
    void            *shadow;      // (n) bf16 of w: =, or NULL
} AdamArgs;
// Adam as PyTorch computes it: m, v, then w -= lr / (1 - beta1^k) * m / (sqrt(v) / sqrt(1 - beta2^k) + eps).
// A grad_norm that is not finite: only state->skipped changes. A tensor with count 0 and no gradient keeps w, m, v.
LAUNCHER(adam_ema, AdamShape, AdamArgs);

typedef struct { int64_t n; double momentum, weight_decay; } SgdShape;
typedef struct {
    const real *g;                // (n)
    const real *lr;               // (1)
    StepState  *state;            // reads grad_norm; writes lr; += updates or skipped
    real       *w, *m;            // (n), in place
    void       *shadow;           // (n) bf16 of w: =, or NULL
} SgdArgs;
// SGD with momentum as PyTorch computes it: m = momentum m + (g + weight_decay w), w -= lr m. Elements of the buffers
// that belong to no tensor hold zeros and keep them. A grad_norm that is not finite: only state->skipped changes.
LAUNCHER(sgd, SgdShape, SgdArgs);
#endif
