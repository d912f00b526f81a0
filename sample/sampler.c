// sample/sampler.c - the reverse process as one recorded step, and the loop that runs it.
//
// A step is: eps_hat = unet(x, t, y); x <- one row of the coefficient table applied to (x, eps_hat, z); the clock of
// the step state moves on. The host writes t before each step, everything else lies on the device from the start.
// Draws: x_T at step 0xFFFFFFFF under PURPOSE_NOISE, z of step j under PURPOSE_SAMPLER, both keyed by the image's
// number.
#include "sample/sampler.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/common/rng.h"
#include "kernels/pointwise/pointwise.h"

const char *const sampler_names[] = { "ddpm", "ddim", NULL };
enum { FIRST_NOISE_STEP = -1 };          // as u32 the largest step: no step of a sampler or of a training run

struct Sampler {
    SamplerConfig   c;
    ParamSet       *params;
    const Schedule *schedule;
    Graph          *graph;
    int64_t         per_image;           // H W C
    bool            guided;
    int             classes;
    int32_t        *times;               // (steps), descending
    Tensor         *x, *t, *y, *sample, *coef, *state;   // y (N), guided (2N), NULL: the network takes no labels
    float          *host;                // (N,H,W,C)
    int32_t        *ints;                // (2N)
};

// The rows are bytes to the tensor: they stay float where a device stores reals as double.
static void write_coefficients(Sampler *p) {
    const SamplerConfig *c = &p->c;
    SamplerCoef *row = xmalloc((size_t)c->steps * sizeof *row);
    for (int j = 0; j < c->steps; j++) {
        int next = j + 1 < c->steps ? p->times[j + 1] : -1;
        row[j] = c->kind == SAMPLER_DDPM
                     ? schedule_ddpm_step(p->schedule, p->times[j], c->variance, c->omega, c->x0_clip)
                     : schedule_ddim_step(p->schedule, p->times[j], next, c->eta, c->omega, c->x0_clip);
    }
    tensor_write(p->coef, row);
    free(row);
}

Sampler *sampler_new(Device *d, UNet *m, const Schedule *s, const SamplerConfig *c, Arena *arena) {
    const UNetConfig *u = unet_config(m);
    CHECK(c->batch >= 1 && c->steps >= 1 && c->steps <= s->T, "%d steps of %d in batches of %d", c->steps, s->T,
          c->batch);
    CHECK(c->kind != SAMPLER_DDPM || c->steps == s->T, "ddpm visits all %d steps, not %d", s->T, c->steps);
    CHECK(c->omega == 0 || u->classes > 0, "an unconditional network cannot be guided");
    int64_t n = c->batch, image[] = { n, u->image_size, u->image_size, u->in_channels };
    Sampler *p = xcalloc(1, sizeof *p);
    p->c = *c;
    p->schedule = s;
    p->guided = c->omega != 0;
    p->classes = u->classes;
    p->per_image = image[1] * image[2] * image[3];
    p->times = xmalloc((size_t)c->steps * sizeof *p->times);
    schedule_times(s, c->steps, p->times);
    p->host = xmalloc((size_t)(n * p->per_image) * sizeof *p->host);
    p->ints = xmalloc((size_t)(2 * n) * sizeof *p->ints);
    p->x = tensor_new(d, "x", DT_F32, 4, image);
    p->t = tensor_new(d, "t", DT_I32, 1, &n);
    p->sample = tensor_new(d, "sample", DT_I32, 1, &n);
    p->coef = tensor_new(d, "coef", DT_U8, 2, (int64_t[]){ c->steps, (int64_t)sizeof(SamplerCoef) });
    p->state = tensor_new(d, "sampler state", DT_U8, 1, (int64_t[]){ sizeof(StepState) });
    if (u->classes) p->y = tensor_new(d, "y", DT_I32, 1, (int64_t[]){ p->guided ? 2 * n : n });
    write_coefficients(p);
    p->params = unet_params(m);
    p->graph = graph_new(d, "sampling step", c->weights);
    graph_set_dtype(p->graph, c->dtype);
    Tensor *eps_hat = unet_forward(m, p->graph, p->x, p->t, p->y, NULL, NULL);     // (N,H,W,C), or guided (2N,H,W,C)
    op_sampler_step(p->graph, p->x, eps_hat, p->guided, p->coef, p->sample, p->state);
    op_step_advance(p->graph, p->state);
    graph_rewrite_forward(p->graph);
    graph_plan(p->graph, arena);
    return p;
}

void sampler_free(Sampler *p) {
    if (!p) return;
    graph_free(p->graph);
    Tensor *own[] = { p->x, p->t, p->y, p->sample, p->coef, p->state };
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) tensor_free(own[i]);
    free(p->times);
    free(p->host);
    free(p->ints);
    free(p);
}

void sampler_set_omega(Sampler *p, double omega) {
    CHECK(p->guided || omega == 0, "guidance %g on a graph that was recorded without", omega);
    p->c.omega = omega;
    write_coefficients(p);
}

// Elements count in logical NHWC, as everywhere: the same numbers on every device.
static void draw_first_noise(const uint32_t key[2], uint32_t sample, int64_t n, float *x) {
    for (int64_t e = 0; e < n; e += 4) {
        float normal[4];
        Philox r = philox(key, (uint32_t)(e / 4), sample, (uint32_t)FIRST_NOISE_STEP, PURPOSE_NOISE);
        rng_normal4(r.v, normal);
        memcpy(x + e, normal, (size_t)(n - e < 4 ? n - e : 4) * sizeof *x);
    }
}

// Writes a batch to the device: images n.. repeat the last one and are thrown away.
static void start(Sampler *p, int n, const int32_t *labels, const uint32_t *sample) {
    int batch = p->c.batch;
    StepState state = { .seed = { (uint32_t)p->c.seed, (uint32_t)(p->c.seed >> 32) } };
    tensor_write(p->state, &state);
    uint32_t *numbers = (uint32_t *)p->ints;                     // bit patterns
    for (int i = 0; i < batch; i++) {
        numbers[i] = sample[i < n ? i : n - 1];
        if (i < n) draw_first_noise(state.seed, numbers[i], p->per_image, p->host + i * p->per_image);
        else
            memcpy(p->host + i * p->per_image, p->host + (n - 1) * p->per_image,
                   (size_t)p->per_image * sizeof *p->host);
    }
    tensor_write(p->sample, numbers);
    tensor_write_f32(p->x, p->host);
    for (int i = 0; i < batch; i++) {
        p->ints[i] = labels[i < n ? i : n - 1];
        p->ints[batch + i] = -1;
        CHECK(p->ints[i] >= -1 && p->ints[i] < p->classes, "label %d of %d classes", (int)p->ints[i], p->classes);
    }
    if (p->y) tensor_write(p->y, p->ints);
}

bool sampler_run(Sampler *p, int n, const int32_t *labels, const uint32_t *sample, float *out,
                 bool (*progress)(void *arg, int done, int steps), void *arg) {
    CHECK(n >= 1 && n <= p->c.batch, "%d images in batches of %d", n, p->c.batch);
    param_refresh(p->params, p->c.weights);
    start(p, n, labels, sample);
    for (int j = 0; j < p->c.steps; j++) {
        for (int i = 0; i < p->c.batch; i++) p->ints[i] = p->times[j];
        tensor_write(p->t, p->ints);
        graph_run(p->graph);
        if (progress && !progress(arg, j + 1, p->c.steps)) return false;
    }
    tensor_read_f32(p->x, p->host);
    for (int64_t i = 0; i < n * p->per_image; i++) {
        float v = p->host[i];
        out[i] = v < -1 ? -1 : v > 1 ? 1 : v;
    }
    return true;
}

void images_to_u8(const float *in, int64_t n, uint8_t *out) {
    for (int64_t i = 0; i < n; i++) {
        float v = (in[i] + 1) / 2 * 255 + 0.5f;
        out[i] = v >= 255 ? 255 : v > 0 ? (uint8_t)v : 0;        // not a number: 0
    }
}
