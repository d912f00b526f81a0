// models/diffusion.h - the class-balancing training step (CBDM, arXiv 2305.00562), recorded on a graph.
#ifndef MODELS_DIFFUSION_H
#define MODELS_DIFFUSION_H
#include "models/schedule.h"
#include "models/unet.h"
EXTERN_C_BEGIN
// What a step is made of. labelled: kept labels; false records the plain loss without labels (a dropped batch).
typedef struct {
    int    batch;                // images of this graph: the micro-batch
    bool   labelled, balance;    // balance: a second prediction under y' and the balancing term
    bool   weighted;             // the balancing term has a weight per image, as where single labels are dropped
    double tau, gamma, share;    // share: batch of the graph / batch of the step
    bool   noise_input;          // eps is an input (replay, probes) instead of a draw
    bool   dropout, gradients;
    Tensor *images;              // the data set (count,H,W,C) as bytes on the device: index in place of x0; or NULL
    bool   flip;                 // these images are mirrored by chance
} DiffusionStepConfig;
// Inputs to write before each run, and what comes out: x0 (N,H,W,C) or index (N), t (N), y (N) or [y; y'] (2N),
// weight (N) f32, sample (N) or (2N), augment (N,9); eps_hat (kN,H,W,C), loss (3), per_image (N). NULL: the
// configuration has none.
typedef struct {
    Tensor *x0, *index, *t, *y, *weight, *sample, *augment, *eps, *eps_hat, *loss, *per_image;
} DiffusionStep;
// x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps; eps_hat = unet(x_t, t, y); the loss of kernels/loss/loss.h; and,
// with gradients, its backward pass; both rewritten (core/fuse.c). The optimiser is the caller's to append.
DiffusionStep diffusion_record_step(Graph *g, UNet *m, const Schedule *s, const DiffusionStepConfig *c);
EXTERN_C_END
#endif
