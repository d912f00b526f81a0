// kernels/diffuse/diffuse_cpu.c - the forward process and one reverse step, an image's elements in pieces.
#include "kernels/common/cpu.h"
#include "kernels/diffuse/diffuse.h"
#include "kernels/pointwise/pointwise.h"

enum { PIECE = 1024 };   // elements of a task: a multiple of a block of draws

// ---- forward process
static bool can_add_noise(const AddNoiseShape *z) { return z->out == DT_F32; }

static void add_noise_run(Stream *st, const AddNoiseShape *z, const AddNoiseArgs *a, Work w) {
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < z->n; i++) {
        int32_t t = a->t[i];
        CHECK(t >= 0 && t < z->T, "add_noise: t[%d] = %d, not in 0..%d", i, (int)t, z->T - 1);
        float signal = a->root[2 * t], spread = a->root[2 * t + 1];
        const float *x0 = a->x0 + i * z->e, *eps = a->eps + i * z->e;
        float *xt = (float *)a->xt + i * z->e;
        #pragma omp simd
        for (int64_t j = 0; j < z->e; j++) xt[j] = signal * x0[j] + spread * eps[j];
    }
}

// ---- forward process from the data set's bytes
static bool can_q_sample(const QSampleShape *z) { return z->out == DT_F32; }

// Elements e..e+count-1 of an image as floats. Rows of a mirrored one are read pixel by pixel from their end.
static void normalise(const QSampleShape *z, const uint8_t *bytes, bool mirrored, int64_t e, int64_t count, float *x0) {
    if (!mirrored) {
        #pragma omp simd
        for (int64_t j = 0; j < count; j++) x0[j] = ((float)bytes[e + j] / 255.0f - 0.5f) / 0.5f;
        return;
    }
    for (int64_t j = e; j < e + count; j++) {
        int64_t pixel = j / z->c, x = pixel % z->w;
        uint8_t byte = bytes[(pixel - x + z->w - 1 - x) * z->c + j % z->c];
        *x0++ = ((float)byte / 255.0f - 0.5f) / 0.5f;
    }
}

static void q_sample_run(Stream *st, const QSampleShape *z, const QSampleArgs *a, Work w) {
    int64_t image = (int64_t)z->h * z->w * z->c, pieces = cpu_ceil_div(image, PIECE);
    #pragma omp parallel for schedule(static)
    for (int64_t task = 0; task < z->n * pieces; task++) {
        int64_t i = task / pieces, e = task % pieces * PIECE, at = i * image + e, count = cpu_min(PIECE, image - e);
        int32_t t = a->t[i];
        CHECK(t >= 0 && t < z->T, "q_sample: t[%d] = %d, not in 0..%d", (int)i, (int)t, z->T - 1);
        Philox flip = philox(a->state->seed, 0, a->sample[i], a->state->step, PURPOSE_FLIP);
        CpuDraw draw = cpu_draw(a->state, a->sample[i], PURPOSE_NOISE, 0);
        float x0[PIECE], signal = a->root[2 * t], spread = a->root[2 * t + 1];
        float *eps = a->eps + at, *xt = (float *)a->xt + at;
        normalise(z, a->images + a->index[i] * image, z->flip && flip.v[0] >> 31, e, count, x0);
        cpu_normals(&draw, (uint32_t)(e / 4), count, eps);
        #pragma omp simd
        for (int64_t j = 0; j < count; j++) xt[j] = signal * x0[j] + spread * eps[j];
    }
}

// ---- reverse step
// eps_hat (count) from the predictions. uncond: NULL, no guidance.
static void predict(float *eps_hat, const float *cond, const float *uncond, float g, int64_t count) {
    if (!uncond) {
        memcpy(eps_hat, cond, (size_t)count * sizeof *eps_hat);
        return;
    }
    #pragma omp simd
    for (int64_t j = 0; j < count; j++) eps_hat[j] = (1.0f + g) * cond[j] - g * uncond[j];
}

// The image that x and eps_hat tell of, clamped, and eps_hat again from it.
static void clip(float *eps_hat, const float *x, const SamplerCoef *c, int64_t count) {
    float most = c->x0_clip;
    #pragma omp simd
    for (int64_t j = 0; j < count; j++) {
        float x0 = c->x0_x * x[j] + c->x0_eps * eps_hat[j];
        x0 = x0 < -most ? -most : x0;
        x0 = x0 > most ? most : x0;
        eps_hat[j] = (x0 - c->x0_x * x[j]) / c->x0_eps;
    }
}

static void sampler_step_run(Stream *st, const SamplerStepShape *z, const SamplerStepArgs *a, Work w) {
    const SamplerCoef *c = a->coef + a->state->sampler_index;
    int64_t pieces = cpu_ceil_div(z->e, PIECE);
    #pragma omp parallel for schedule(static)
    for (int64_t task = 0; task < z->n * pieces; task++) {
        int64_t i = task / pieces, e = task % pieces * PIECE, at = i * z->e + e, count = cpu_min(PIECE, z->e - e);
        float eps_hat[PIECE], normal[PIECE], *x = a->x + at, *prev = a->prev ? a->prev + at : NULL;
        predict(eps_hat, a->cond + at, a->uncond ? a->uncond + at : NULL, a->omega ? a->omega[i] : c->guidance, count);
        if (c->x0_clip > 0) clip(eps_hat, x, c, count);
        #pragma omp simd
        for (int64_t j = 0; j < count; j++) x[j] = c->x * x[j] + c->eps * eps_hat[j];
        if (prev && c->prev != 0) {      // where its factor is 0, prev may hold anything
            #pragma omp simd
            for (int64_t j = 0; j < count; j++) x[j] += c->prev * prev[j];
        }
        if (c->sigma != 0) {
            CpuDraw draw = cpu_draw(a->state, a->sample[i], z->purpose, 0);
            cpu_normals(&draw, (uint32_t)(e / 4), count, normal);
            #pragma omp simd
            for (int64_t j = 0; j < count; j++) x[j] += c->sigma * normal[j];
        }
        if (prev) memcpy(prev, eps_hat, (size_t)count * sizeof *prev);
    }
}

// ---- registration
IMPLS(diffuse_cpu,
    IMPL_FULL(add_noise, "images", 100, 0, 0, can_add_noise, NULL, NULL, add_noise_run, NULL),
    IMPL_FULL(q_sample, "pieces", 100, 0, 0, can_q_sample, NULL, NULL, q_sample_run, NULL),
    IMPL(sampler_step, "pieces", sampler_step_run))
