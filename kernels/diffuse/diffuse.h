// kernels/diffuse/diffuse.h - the forward process, also straight from the data set's bytes, and one reverse step.
#ifndef KERNELS_DIFFUSE_H
#define KERNELS_DIFFUSE_H
#include "kernels/common/kernel.h"
typedef struct { int n; int64_t e; int T; DType out; } AddNoiseShape;
typedef struct {
    const real    *x0, *eps;      // (n,e)
    const int32_t *t;             // (n), 0 <= t < T
    const real    *root;          // (T,2): sqrt(alpha_bar), sqrt(1 - alpha_bar), computed in double, rounded once
    void          *xt;            // (n,e): = root[t][0] x0 + root[t][1] eps
} AddNoiseArgs;
LAUNCHER(add_noise, AddNoiseShape, AddNoiseArgs);

// The same from the data set itself, resident on the device as bytes: gather, mirror, normalise, draw and add noise.
//   x0 = (byte / 255 - 0.5) / 0.5, each step rounded to float;  eps = randn's with PURPOSE_NOISE
// An image is mirrored left to right if flip is set and the first word of its draw, block 0 of PURPOSE_FLIP, has its
// top bit set: what train/batch.c does on the host, bit for bit.
typedef struct { int n, h, w, c, T; bool flip; DType out; } QSampleShape;
typedef struct {
    const uint8_t   *images;      // (count,h,w,c)
    const int32_t   *index;       // (n): which of them, 0 <= index < count
    const int32_t   *t;           // (n), 0 <= t < T
    const uint32_t  *sample;      // (n) and the step's state: the key of the draws
    const StepState *state;
    const real      *root;        // (T,2) as above
    real            *eps;         // (n,h,w,c): =
    void            *xt;          // (n,h,w,c): = root[t][0] x0 + root[t][1] eps, rounded once
} QSampleArgs;
LAUNCHER(q_sample, QSampleShape, QSampleArgs);

// One row per sampler step, computed in double on the host before the run; the device picks row state->sampler_index.
typedef struct { float x, eps, prev, sigma, guidance, x0_x, x0_eps, x0_clip; } SamplerCoef;   // x0_clip 0: no clipping
typedef struct { int n; int64_t e; uint32_t purpose; } SamplerStepShape;
typedef struct {
    const SamplerCoef *coef;
    const StepState   *state;
    const uint32_t    *sample;    // (n) for the noise z
    const real        *cond;      // (n,e) prediction under the label
    const real        *uncond;    // (n,e), or NULL: no guidance
    const real        *omega;     // (n) guidance per image in place of coef's, or NULL
    real              *prev;      // (n,e) multistep history, read unless coef.prev is 0, then = eps_hat; or NULL
    real              *x;         // (n,e) in place
} SamplerStepArgs;
// eps_hat = (1 + g) cond - g uncond;  x = coef.x x + coef.eps eps_hat + coef.prev prev + coef.sigma z
// With x0_clip c: x0 = clamp(x0_x x + x0_eps eps_hat, -c, c) first, and eps_hat is recomputed from it.
LAUNCHER(sampler_step, SamplerStepShape, SamplerStepArgs);
#endif
