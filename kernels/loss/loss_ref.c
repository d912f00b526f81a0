// kernels/loss/loss_ref.c - the CBDM objective by its definition, over m = n e elements, w = weight tau t / T:
//   denoising = share/m sum of (h - eps)^2,  balancing = share/m sum of w (1 + gamma) (h - hb)^2
//   (the two stop-gradients see the same value, so both squares are (h - hb)^2)
//   dh = 2 share/m ((h - eps) + w (h - hb)),  dhb = 2 share/m gamma w (hb - h)
// Each image's sums are added in the order of the images. dh may be h, dhb may be hb.
#include "kernels/common/kernel.h"
#include "kernels/common/ref.h"
#include "kernels/loss/loss.h"

static void loss(Stream *stream, const CbdmLossShape *z, const CbdmLossArgs *a, Work work) {
    acc denoising = 0, balancing = 0, gamma = (acc)z->gamma, unit = (acc)(z->share / ((double)z->n * (double)z->e));
    for (int i = 0; i < z->n; i++) {
        acc w = (acc)(z->tau * a->t[i] / z->T), errors = 0, gaps = 0;
        if (a->weight) w *= (acc)a->weight[i];
        for (int64_t e = i * z->e; e < (i + 1) * z->e; e++) {
            acc h = (acc)a->h[e], error = h - (acc)a->eps[e], gap = a->hb ? h - (acc)a->hb[e] : 0;
            errors += error * error;
            gaps += gap * gap;
            if (a->dh) a->dh[e] = (real)(2 * unit * (error + w * gap));
            if (a->dhb) a->dhb[e] = (real)(-2 * unit * gamma * w * gap);
        }
        denoising += errors;
        balancing += w * (1 + gamma) * gaps;
        if (a->per_image) a->per_image[i] = (real)(errors / (acc)z->e);
    }
    denoising *= unit;
    balancing *= unit;
    a->loss[0] = (real)(denoising + (isfinite(balancing) && balancing < 0 ? 0 : balancing));
    a->loss[1] = (real)denoising;
    a->loss[2] = (real)balancing;
}

IMPLS(loss_ref,
    IMPL(cbdm_loss, "loops", loss))
