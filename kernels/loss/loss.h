// kernels/loss/loss.h - the CBDM objective: value and both gradients in one pass.
#ifndef KERNELS_LOSS_H
#define KERNELS_LOSS_H
#include "kernels/common/kernel.h"
// e elements per image. share: this call's part of the batch's mean, n / (images of the whole batch); 1 without
// micro-batches. Value and gradients are multiplied by it.
typedef struct { int n; int64_t e; int T; double tau, gamma, share; } CbdmLossShape;
typedef struct {
    const real    *h, *hb, *eps;  // (n,e): prediction under y, under y' (NULL: plain DDPM loss), noise
    const int32_t *t;             // (n)
    const real    *weight;        // (n) factor of the balancing term per image, or NULL: 1
    real          *loss;          // (3): total, denoising, balancing. = in a fixed order
    real          *per_image;     // (n): mean over e of (h - eps)^2, not times share; or NULL
    real          *dh, *dhb;      // (n,e): =. May be h and hb. NULL: value only
} CbdmLossArgs;
// CBDM (arXiv 2305.00562), in the published code's scale:
//   denoising = mean((h - eps)^2);  balancing = mean(w ((h - sg hb)^2 + gamma (sg h - hb)^2)),  w = tau t / T
//   total = denoising + max(0, balancing), means over n e; a balancing term that is not finite makes total so.
//   dh = 2/(n e) ((h - eps) + w (h - hb)),  dhb = 2/(n e) gamma w (hb - h)
LAUNCHER(cbdm_loss, CbdmLossShape, CbdmLossArgs);
#endif
