// kernels/classify/classify_cpu.c - cross entropy: a row's exponentials are computed once, in the gradient's place.
#include <math.h>

#include "kernels/classify/classify.h"
#include "kernels/common/cpu.h"

// Scratch: the losses of the rows, then exponentials of rows whose gradient is not wanted.
static size_t scratch(const CrossEntropyShape *z) {
    return (size_t)z->n * (sizeof(double) + (size_t)z->c * sizeof(float));
}

// Loss of a row. p (c): = its gradient.
static double row(const CrossEntropyShape *z, const float *logits, const float *offset, int label, float *p) {
    for (int k = 0; k < z->c; k++) p[k] = offset ? logits[k] + offset[k] : logits[k];
    float top = cpu_max(p, z->c);
    double own = (double)(p[label] - top), sum = 0;
    #pragma omp simd reduction(+ : sum)
    for (int k = 0; k < z->c; k++) {
        float e = cpu_exp(p[k] - top);
        p[k] = e;
        sum += (double)e;
    }
    double share = 1 / (sum * z->n);
    for (int k = 0; k < z->c; k++) p[k] = (float)((double)p[k] * share);
    // 1 - p of the label as the sum of the others, which do not cancel
    double others = 0;
    for (int k = 0; k < z->c; k++) others += k == label ? 0 : (double)p[k];
    p[label] = (float)-others;
    return log(sum) - own;
}

static void run(Stream *st, const CrossEntropyShape *z, const CrossEntropyArgs *a, Work w) {
    double *loss = w.scratch, total = 0;
    float *unwanted = (float *)(loss + z->n);
    #pragma omp parallel for schedule(static) if ((int64_t)z->n * z->c > CPU_CHUNK)
    for (int i = 0; i < z->n; i++) {
        int64_t at = (int64_t)i * z->c;
        CHECK(a->label[i] >= 0 && a->label[i] < z->c, "cross entropy: label %d of %d classes", a->label[i], z->c);
        loss[i] = row(z, a->logits + at, a->offset, a->label[i], (a->dlogits ? a->dlogits : unwanted) + at);
    }
    for (int i = 0; i < z->n; i++) total += loss[i];
    a->loss[0] = (float)(total / z->n);
}

// ---- registration
IMPLS(classify_cpu,
    IMPL_SCRATCH(cross_entropy, "rows", scratch, run))
