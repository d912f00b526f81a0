// kernels/loss/loss_cpu.c - the CBDM objective: one pass over an image writes its gradients and leaves its two sums.
#include "kernels/common/cpu.h"
#include "kernels/loss/loss.h"

// Per image: the sums of (h - eps)^2 and of (h - hb)^2.
typedef struct { double error, gap; } Sums;
static size_t scratch(const CbdmLossShape *z) { return (size_t)z->n * sizeof(Sums); }

// 2 unit; times w; times gamma w
typedef struct { float both, h, hb; } Factors;

// One image. hb, dh, dhb: NULL where absent. dh may be h, dhb may be hb.
static Sums image(const float *h, const float *hb, const float *eps, float *dh, float *dhb, int64_t count, Factors f) {
    double error = 0, gap = 0;
    if (!hb) {
        #pragma omp simd reduction(+ : error)
        for (int64_t j = 0; j < count; j++) {
            float d = h[j] - eps[j];
            error += (double)d * (double)d;
            if (dh) dh[j] = f.both * d;
        }
        return (Sums){ error, 0 };
    }
    #pragma omp simd reduction(+ : error, gap)
    for (int64_t j = 0; j < count; j++) {
        float d = h[j] - eps[j], b = h[j] - hb[j];
        error += (double)d * (double)d;
        gap += (double)b * (double)b;
        if (dh) dh[j] = f.both * d + f.h * b;
        if (dhb) dhb[j] = -f.hb * b;
    }
    return (Sums){ error, gap };
}

static double weight_of(const CbdmLossShape *z, const CbdmLossArgs *a, int i) {
    return z->tau * a->t[i] / z->T * (a->weight ? (double)a->weight[i] : 1.0);
}

static void run(Stream *st, const CbdmLossShape *z, const CbdmLossArgs *a, Work w) {
    Sums *sums = w.scratch;
    double unit = z->share / ((double)z->n * (double)z->e), error = 0, gap = 0;
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < z->n; i++) {
        int64_t at = i * z->e;
        double wi = weight_of(z, a, i);
        Factors f = { (float)(2 * unit), (float)(2 * unit * wi), (float)(2 * unit * z->gamma * wi) };
        sums[i] = image(a->h + at, a->hb ? a->hb + at : NULL, a->eps + at, a->dh ? a->dh + at : NULL,
                        a->dhb ? a->dhb + at : NULL, z->e, f);
        if (a->per_image) a->per_image[i] = (float)(sums[i].error / (double)z->e);
    }
    for (int i = 0; i < z->n; i++) {
        error += sums[i].error;
        gap += weight_of(z, a, i) * (1 + z->gamma) * sums[i].gap;
    }
    error *= unit;
    gap *= unit;
    a->loss[0] = (float)(error + (isfinite(gap) && gap < 0 ? 0 : gap));
    a->loss[1] = (float)error;
    a->loss[2] = (float)gap;
}

// ---- registration
IMPLS(loss_cpu,
    IMPL_SCRATCH(cbdm_loss, "images", scratch, run))
