// kernels/optim/optim_ref.c - gradient norm, Adam and EMA, and SGD by their definition. With k the tensor's own count
// of steps, s the updates so far:
//   g    = grad * min(1, clip_norm / (grad_norm + 1e-6))
//   m    = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
//   w   -= lr / (1 - beta1^k) * m / (sqrt(v) / sqrt(1 - beta2^k) + eps)
//   ema += (1 - decay) (w - ema)
// and SGD: m = momentum m + (grad + weight_decay w),  w -= lr m
// Factors are computed in double and rounded once to real, as every kind receives them.
#include "kernels/common/kernel.h"
#include "kernels/common/ref.h"
#include "kernels/optim/optim.h"

static void advance(Stream *stream, const StepAdvanceShape *z, const StepAdvanceArgs *a, Work work) {
    a->state->step++;
    a->state->sampler_index++;
}

// Each tensor's sum of squares first, then theirs in the order of the tensors.
static void norm(Stream *stream, const GradNormShape *z, const GradNormArgs *a, Work work) {
    acc total = 0;
    for (int t = 0; t < z->tensors; t++) {
        acc sum = 0;
        if (!a->has_grad[t]) continue;
        for (int64_t j = a->span[t].begin; j < a->span[t].end; j++) sum += (acc)a->g[j] * (acc)a->g[j];
        total += sum;
    }
    a->state->grad_norm = (float)sqrt((double)total);
}

typedef struct { acc beta1, rest1, beta2, rest2, eps, rate, root, clip, rest_ema; } Factors;
static acc factor(double v) { return (acc)(real)v; }

static double ema_decay(const AdamShape *z, double updates) {
    double ramp = (1 + updates) / (10 + updates);
    return z->ema_ramp && ramp < z->ema_decay ? ramp : z->ema_decay;
}

// One tensor. count: its steps, this one included; 0: it has had no gradient yet and keeps w, m, v.
static void update(const AdamArgs *a, ParamSpan span, bool has_grad, int64_t count, const Factors *f) {
#pragma omp parallel for
    for (int64_t j = span.begin; j < span.end; j++) {
        if (count) {
            acc g = has_grad ? (acc)a->g[j] * f->clip : 0;
            acc m = f->beta1 * (acc)a->m[j] + f->rest1 * g, v = f->beta2 * (acc)a->v[j] + f->rest2 * g * g;
            acc step = f->rate * m / ((acc)sqrt((double)v) / f->root + f->eps);
            a->m[j] = (real)m;
            a->v[j] = (real)v;
            a->w[j] = (real)((acc)a->w[j] - step);
        }
        acc w = (acc)a->w[j], ema = (acc)a->ema[j];
        a->ema[j] = (real)(ema + f->rest_ema * (w - ema));
        if (a->shadow) ref_store(a->shadow, DT_BF16, j, w);
    }
}

static void adam(Stream *stream, const AdamShape *z, const AdamArgs *a, Work work) {
    StepState *state = a->state;
    if (!isfinite(state->grad_norm)) {
        state->skipped++;
        return;
    }
    double norm_now = (double)state->grad_norm, lr = z->lr, clip = 1;
    if (state->updates < z->warmup) lr *= (double)state->updates / (double)z->warmup;
    if (z->clip_norm > 0 && z->clip_norm < norm_now + 1e-6) clip = z->clip_norm / (norm_now + 1e-6);
    Factors f = { .beta1 = factor(z->beta1), .rest1 = factor(1 - z->beta1), .beta2 = factor(z->beta2),
                  .rest2 = factor(1 - z->beta2), .eps = factor(z->eps), .clip = factor(clip),
                  .rest_ema = factor(1 - ema_decay(z, (double)state->updates)) };
    for (int t = 0; t < z->tensors; t++) {
        if (a->has_grad[t] || a->count[t] > 0) a->count[t]++;
        double k = (double)a->count[t];
        f.rate = factor(lr / (1 - pow(z->beta1, k)));          // infinite for k = 0, where it is not used
        f.root = factor(sqrt(1 - pow(z->beta2, k)));
        update(a, a->span[t], a->has_grad[t], a->count[t], &f);
    }
    state->lr = (float)lr;
    state->updates++;
}

static void sgd_run(Stream *stream, const SgdShape *z, const SgdArgs *a, Work work) {
    StepState *state = a->state;
    if (!isfinite(state->grad_norm)) {
        state->skipped++;
        return;
    }
    acc momentum = factor(z->momentum), decay = factor(z->weight_decay), lr = (acc)a->lr[0];
#pragma omp parallel for
    for (int64_t j = 0; j < z->n; j++) {
        acc w = (acc)a->w[j], m = momentum * (acc)a->m[j] + ((acc)a->g[j] + decay * w);
        a->m[j] = (real)m;
        a->w[j] = (real)(w - lr * m);
        if (a->shadow) ref_store(a->shadow, DT_BF16, j, (acc)a->w[j]);
    }
    state->lr = (float)a->lr[0];
    state->updates++;
}

IMPLS(optim_ref,
    IMPL(step_advance, "loops", advance),
    IMPL(grad_norm, "loops", norm),
    IMPL(adam_ema, "loops", adam),
    IMPL(sgd, "loops", sgd_run))
