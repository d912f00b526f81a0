// kernels/diffuse/diffuse_ref.c - the forward process and one reverse step by their definition.
//   xt      = root[t][0] x0 + root[t][1] eps;  in q_sample x0[y,x] = (byte[y, mirrored ? w-1-x : x] / 255 - 0.5) / 0.5
//   eps_hat = (1 + g) cond - g uncond, or cond;  with x0_clip c: x0 = clamp(x0_x x + x0_eps eps_hat, -c, c) and then
//             eps_hat = (x0 - x0_x x) / x0_eps, so that both tell of the same x
//   x'      = coef.x x + coef.eps eps_hat + coef.prev prev + coef.sigma z;  prev' = eps_hat
#include "kernels/common/kernel.h"
#include "kernels/common/ref.h"
#include "kernels/common/rng.h"
#include "kernels/diffuse/diffuse.h"
#include "kernels/pointwise/pointwise.h"

static void noise(Stream *stream, const AddNoiseShape *z, const AddNoiseArgs *a, Work work) {
#pragma omp parallel for
    for (int i = 0; i < z->n; i++) {
        int32_t t = a->t[i];
        CHECK(t >= 0 && t < z->T, "add_noise: t[%d] = %d, not in 0..%d", i, (int)t, z->T - 1);
        acc signal = (acc)a->root[2 * t], spread = (acc)a->root[2 * t + 1];
        for (int64_t e = i * z->e; e < (i + 1) * z->e; e++) {
            ref_store(a->xt, z->out, e, signal * (acc)a->x0[e] + spread * (acc)a->eps[e]);
        }
    }
}

// x0 and eps are floats in every kind, as the batches and draws of the host are.
static void sample_pixels(const QSampleShape *z, const QSampleArgs *a, int i, bool mirrored) {
    int64_t image = (int64_t)z->h * z->w * z->c;
    const uint8_t *bytes = a->images + a->index[i] * image;
    acc signal = (acc)a->root[2 * a->t[i]], spread = (acc)a->root[2 * a->t[i] + 1];
    float draw[4] = { 0 };
    for (int64_t e = 0; e < image; e++) {
        int64_t y = e / (z->w * z->c), x = e / z->c % z->w, k = e % z->c;
        float x0 = ((float)bytes[(y * z->w + (mirrored ? z->w - 1 - x : x)) * z->c + k] / 255.0f - 0.5f) / 0.5f;
        if (e % 4 == 0) {
            Philox r = philox(a->state->seed, (uint32_t)(e / 4), a->sample[i], a->state->step, PURPOSE_NOISE);
            rng_normal4(r.v, draw);
        }
        a->eps[i * image + e] = (real)draw[e % 4];
        ref_store(a->xt, z->out, i * image + e, signal * (acc)x0 + spread * (acc)draw[e % 4]);
    }
}

static void sample_images(Stream *stream, const QSampleShape *z, const QSampleArgs *a, Work work) {
#pragma omp parallel for
    for (int i = 0; i < z->n; i++) {
        CHECK(a->t[i] >= 0 && a->t[i] < z->T, "q_sample: t[%d] = %d, not in 0..%d", i, (int)a->t[i], z->T - 1);
        Philox flip = philox(a->state->seed, 0, a->sample[i], a->state->step, PURPOSE_FLIP);
        sample_pixels(z, a, i, z->flip && flip.v[0] >> 31);
    }
}

static void step(Stream *stream, const SamplerStepShape *z, const SamplerStepArgs *a, Work work) {
    const SamplerCoef *c = a->coef + a->state->sampler_index;
#pragma omp parallel for
    for (int i = 0; i < z->n; i++) {
        acc g = a->omega ? (acc)a->omega[i] : (acc)c->guidance, clip = (acc)c->x0_clip;
        float draw[4] = { 0 };
        for (int64_t e = 0; e < z->e; e++) {
            int64_t at = i * z->e + e;
            acc x = (acc)a->x[at], eps_hat = (acc)a->cond[at];
            if (a->uncond) eps_hat = (1 + g) * eps_hat - g * (acc)a->uncond[at];
            if (clip > 0) {
                acc x0 = (acc)c->x0_x * x + (acc)c->x0_eps * eps_hat;
                x0 = x0 < -clip ? -clip : x0 > clip ? clip : x0;
                eps_hat = (x0 - (acc)c->x0_x * x) / (acc)c->x0_eps;
            }
            acc v = (acc)c->x * x + (acc)c->eps * eps_hat;
            if (a->prev && c->prev != 0) v += (acc)c->prev * (acc)a->prev[at];   // else prev may hold anything
            if (c->sigma != 0) {
                if (e % 4 == 0) {
                    Philox r = philox(a->state->seed, (uint32_t)(e / 4), a->sample[i], a->state->step, z->purpose);
                    rng_normal4(r.v, draw);
                }
                v += (acc)c->sigma * (acc)draw[e % 4];
            }
            if (a->prev) a->prev[at] = (real)eps_hat;
            a->x[at] = (real)v;
        }
    }
}

IMPLS(diffuse_ref,
    IMPL(add_noise, "loops", noise),
    IMPL(q_sample, "loops", sample_images),
    IMPL(sampler_step, "loops", step))
