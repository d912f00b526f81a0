// sample/sampler.h - from noise to images with a trained network.
#ifndef SAMPLE_SAMPLER_H
#define SAMPLE_SAMPLER_H
#include "models/diffusion.h"
EXTERN_C_BEGIN
typedef enum { SAMPLER_DDPM, SAMPLER_DDIM } SamplerKind;
extern const char *const sampler_names[];        // "ddpm", "ddim", NULL
typedef struct {
    SamplerKind kind;
    int         steps, batch;                    // ddpm: steps = T, every one of them; ddim: 1..T
    VarType     variance;                        // ddpm
    double      eta, omega, x0_clip;             // omega: guidance, eps = (1 + omega) cond - omega uncond; 0: none
    uint64_t    seed;                            // Philox key; an image is drawn from (seed, its own number)
    Weights     weights;
    DType       dtype;                           // of activations; x itself is f32
} SamplerConfig;
// One recorded batch, run as often as wanted. Image i depends on seed, sample[i] and labels[i] alone, not on how many
// are drawn together or in which order: every run uses the recorded batch size, the last one padded. It keeps a step
// state of its own: the parameter set's is neither read nor advanced.
typedef struct Sampler Sampler;
// Graphs are planned in `arena`, which the caller seals before the first run (and may share with other graphs).
// Guided is decided here, by omega != 0: whether both halves are computed. The configuration is the caller's to check.
Sampler *sampler_new(Device *d, UNet *m, const Schedule *s, const SamplerConfig *c, Arena *arena);
void     sampler_free(Sampler *p);
// Other guidance for the next runs of a graph that was recorded guided. 0 there equals a graph recorded without, but
// for rounding.
void     sampler_set_omega(Sampler *p, double omega);
// labels (n), -1: none; sample (n): number of each image; out (n,H,W,C) in [-1,1], clipped; what is not a number stays
// so. n: 1..batch. progress, if not NULL, is called after every step with (arg, steps done, steps) and stops the run
// by returning false. False: stopped, out is undefined.
bool     sampler_run(Sampler *p, int n, const int32_t *labels, const uint32_t *sample, float *out,
                     bool (*progress)(void *arg, int done, int steps), void *arg);
void     images_to_u8(const float *in, int64_t n, uint8_t *out);   // [-1,1] -> 0..255, round half up, clipped
EXTERN_C_END
#endif
