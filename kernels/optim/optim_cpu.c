// kernels/optim/optim_cpu.c - gradient norm, Adam and EMA: one pass over the parameters, at the speed of memory.
//
// The flat buffers are cut into chunks of fixed size whatever tensors lie there: large tensors are shared between
// threads, and sums do not depend on how many there are.
#include "kernels/common/bf16.h"
#include "kernels/common/cpu.h"
#include "kernels/optim/optim.h"

static void step_advance_run(Stream *st, const StepAdvanceShape *z, const StepAdvanceArgs *a, Work w) {
    a->state->step++;
    a->state->sampler_index++;
}

// The first span that ends beyond element `at`; count if there is none.
static int span_at(const ParamSpan *span, int count, int64_t at) {
    int low = 0, high = count;
    while (low < high) {
        int mid = low + (high - low) / 2;
        if (span[mid].end > at) high = mid;
        else                    low = mid + 1;
    }
    return low;
}
static int64_t later(int64_t a, int64_t b) { return a > b ? a : b; }

// ---- gradient norm. Scratch: a sum per chunk.
static size_t norm_scratch(const GradNormShape *z) { return (size_t)cpu_ceil_div(z->n, CPU_CHUNK) * sizeof(double); }

static double square_sum(const float *g, int64_t begin, int64_t end) {
    double s = 0;
    #pragma omp simd reduction(+ : s)
    for (int64_t j = begin; j < end; j++) s += (double)g[j] * (double)g[j];
    return s;
}

static void grad_norm_run(Stream *st, const GradNormShape *z, const GradNormArgs *a, Work w) {
    double *part = w.scratch, total = 0;
    int64_t chunks = cpu_ceil_div(z->n, CPU_CHUNK);
    #pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < chunks; k++) {
        int64_t begin = k * CPU_CHUNK, end = cpu_min(z->n, begin + CPU_CHUNK);
        double s = 0;
        for (int t = span_at(a->span, z->tensors, begin); t < z->tensors && a->span[t].begin < end; t++) {
            if (a->has_grad[t]) s += square_sum(a->g, later(begin, a->span[t].begin), cpu_min(end, a->span[t].end));
        }
        part[k] = s;
    }
    for (int64_t k = 0; k < chunks; k++) total += part[k];
    a->state->grad_norm = (float)sqrt(total);
}

// ---- Adam and EMA
typedef struct { float beta1, rest1, beta2, rest2, eps, rate, root, clip, rest_ema; } Factors;

// Elements begin..end-1 of one tensor. has_grad is a constant wherever this is inlined.
static inline void update(const AdamArgs *a, int64_t begin, int64_t end, bool has_grad, Factors f) {
    const float *restrict g = a->g;
    float *restrict w = a->w, *restrict m = a->m, *restrict v = a->v, *restrict ema = a->ema;
    for (int64_t j = begin; j < end; j++) {
        float gj = has_grad ? g[j] * f.clip : 0.0f;
        float mj = f.beta1 * m[j] + f.rest1 * gj, vj = f.beta2 * v[j] + f.rest2 * gj * gj;
        float wj = w[j] - f.rate * mj / (sqrtf(vj) / f.root + f.eps);
        m[j] = mj;
        v[j] = vj;
        w[j] = wj;
        ema[j] += f.rest_ema * (wj - ema[j]);
    }
}

// Elements begin..end-1 of tensor t.
static void update_tensor(const AdamShape *z, const AdamArgs *a, int t, int64_t begin, int64_t end, double lr,
                          Factors f) {
    double k = (double)a->count[t];
    f.rate = (float)(lr / (1 - pow(z->beta1, k)));
    f.root = (float)sqrt(1 - pow(z->beta2, k));
    if (a->has_grad[t]) {
        update(a, begin, end, true, f);
    } else if (a->count[t]) {
        update(a, begin, end, false, f);
    } else {                                  // no gradient yet: only its average moves
        #pragma omp simd
        for (int64_t j = begin; j < end; j++) a->ema[j] += f.rest_ema * (a->w[j] - a->ema[j]);
    }
    uint16_t *shadow = a->shadow;
    for (int64_t j = begin; shadow && j < end; j++) shadow[j] = bf16_from_float(a->w[j]);
}

static void adam_run(Stream *st, const AdamShape *z, const AdamArgs *a, Work w) {
    StepState *state = a->state;
    if (!isfinite(state->grad_norm)) {
        state->skipped++;
        return;
    }
    double s = (double)state->updates, norm = (double)state->grad_norm + 1e-6, ramp = (1 + s) / (10 + s), lr = z->lr;
    double decay = z->ema_ramp && ramp < z->ema_decay ? ramp : z->ema_decay;
    if (state->updates < z->warmup) lr *= s / (double)z->warmup;
    Factors f = { .beta1 = (float)z->beta1, .rest1 = (float)(1 - z->beta1), .beta2 = (float)z->beta2,
                  .rest2 = (float)(1 - z->beta2), .eps = (float)z->eps, .rest_ema = (float)(1 - decay),
                  .clip = (float)(z->clip_norm > 0 && z->clip_norm < norm ? z->clip_norm / norm : 1) };
    for (int t = 0; t < z->tensors; t++) a->count[t] += a->has_grad[t] || a->count[t] > 0;
    #pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < cpu_ceil_div(z->n, CPU_CHUNK); k++) {
        int64_t begin = k * CPU_CHUNK, end = cpu_min(z->n, begin + CPU_CHUNK);
        for (int t = span_at(a->span, z->tensors, begin); t < z->tensors && a->span[t].begin < end; t++) {
            update_tensor(z, a, t, later(begin, a->span[t].begin), cpu_min(end, a->span[t].end), lr, f);
        }
    }
    state->lr = (float)lr;
    state->updates++;
}

// ---- SGD
static void sgd_run(Stream *st, const SgdShape *z, const SgdArgs *a, Work w) {
    StepState *state = a->state;
    if (!isfinite(state->grad_norm)) {
        state->skipped++;
        return;
    }
    float momentum = (float)z->momentum, decay = (float)z->weight_decay, lr = a->lr[0];
    const float *restrict g = a->g;
    float *restrict weight = a->w, *restrict m = a->m;
    uint16_t *restrict shadow = a->shadow;
    #pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < cpu_ceil_div(z->n, CPU_CHUNK); k++) {
        int64_t begin = k * CPU_CHUNK, end = cpu_min(z->n, begin + CPU_CHUNK);
        #pragma omp simd
        for (int64_t j = begin; j < end; j++) {
            m[j] = momentum * m[j] + (g[j] + decay * weight[j]);
            weight[j] -= lr * m[j];
        }
        for (int64_t j = begin; shadow && j < end; j++) shadow[j] = bf16_from_float(weight[j]);
    }
    state->lr = lr;
    state->updates++;
}

// ---- registration
IMPLS(optim_cpu,
    IMPL(step_advance, "scalar", step_advance_run),
    IMPL_SCRATCH(grad_norm, "chunks", norm_scratch, grad_norm_run),
    IMPL(adam_ema, "chunks", adam_run),
    IMPL(sgd, "chunks", sgd_run))
