// eval/samples_draw.c - samples straight from a checkpoint: nothing is written, nothing is rounded to 8 bits.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/samples.h"
#include "models/model.h"
#include "sample/labels.h"

typedef struct { int64_t done, n; int drawing, steps; double began, shown; } Progress;

static bool show_progress(void *arg, int step, int steps) {
    Progress *p = arg;
    double now = now_seconds();
    if (stop_requested()) return false;
    if (now - p->shown < 0.2) return true;
    p->shown = now;
    double done = (double)p->done + p->drawing * (double)step / steps, rate = done / (now - p->began);
    long long eta = rate > 0 ? (long long)(((double)p->n - done) / rate) : 0;
    char line[160];
    snprintf(line, sizeof line, "%lld of %lld images drawn, %.3g images/s, ETA %lld:%02lld:%02lld", (long long)p->done,
             (long long)p->n, rate, eta / 3600, eta / 60 % 60, eta % 60);
    log_progress(line);
    return true;
}

// Batch after batch to pixels (n,H,W,C).
static bool draw_all(Sampler *sampler, const Model *m, int batch, const Samples *s, float *pixels, Error *err) {
    int64_t n = s->images.n, e = (int64_t)s->images.height * s->images.width * s->images.channels;
    uint32_t *number = xmalloc((size_t)batch * sizeof *number);
    Progress p = { .n = n, .began = now_seconds() };
    p.shown = p.began;
    bool ok = true;
    for (int64_t i = 0; i < n && ok; i += batch) {
        p.drawing = (int)(n - i < batch ? n - i : batch);
        for (int j = 0; j < p.drawing; j++) number[j] = (uint32_t)s->number[i + j];
        if (!sampler_run(sampler, p.drawing, s->label + i, number, pixels + i * e, show_progress, &p))
            ok = error_set(err, ERR_INTERRUPTED, "stopped with %lld of %lld images drawn, which are not kept; cbdm "
                           "sample keeps them, and goes on from where it is stopped", (long long)p.done, (long long)n);
        for (int64_t k = 0; k < p.drawing * e && ok; k++)
            if (!isfinite(pixels[i * e + k]))
                ok = error_set(err, ERR_DIVERGED, "image %u is not finite: %s diverged in training, or --omega or the "
                               "sampler is too far from what it knows", (unsigned)number[k / e], m->path);
        p.done += p.drawing;
    }
    log_progress(NULL);
    if (ok) log_info("%lld images drawn in %.1f s", (long long)n, now_seconds() - p.began);
    free(number);
    return ok;
}

static bool check(const DrawConfig *c, const Model *m, const DatasetInfo *d, const char *rule, Error *err) {
    int classes = m->config.classes > 0 ? m->config.classes : 0;
    if (strcmp(rule, "none") == 0 && c->omega != 0)
        return error_set(err, ERR_USAGE, "--omega %g guides towards labels, and there are none: use --omega 0",
                         c->omega);
    if (c->sampler == SAMPLER_DDPM && c->eta != 0)
        return error_set(err, ERR_USAGE, "--eta %g belongs to --sampler ddim", c->eta);
    if ((classes && classes != d->classes) || m->config.in_channels != d->channels ||
        m->config.image_size < d->height || m->config.image_size < d->width)
        return error_set(err, ERR_USAGE, "%s draws %d classes of %d x %d x %d, %s holds %d of %d x %d x %d: name the "
                         "data that it was trained on with --data", m->path, classes, m->config.image_size,
                         m->config.image_size, m->config.in_channels, d->source, d->classes, d->height, d->width,
                         d->channels);
    return true;
}

struct Drawing { Model *model; SamplerConfig config; };

// Everything but the pixels.
static bool prepare(Drawing *g, const DrawConfig *c, const DatasetInfo *d, Samples *out, Error *err) {
    Model *m = g->model;
    const char *rule = c->labels;
    int classes = m->config.classes > 0 ? m->config.classes : 0;
    int steps = sample_steps((SamplerKind)c->sampler, c->steps, m->config.T, m->path, err);
    if (steps < 0) return false;
    out->images = (ImageSet){ .height = m->config.image_size, .width = m->config.image_size,
                              .channels = m->config.in_channels, .name = out->origin.source };
    out->number = sample_numbers(c->seeds, &out->images.n, err);
    if (!out->number) return false;
    out->label = sample_labels(&rule, out->number, out->images.n, classes, (uint64_t)c->seed, m->path, err);
    if (!out->label || !check(c, m, d, rule, err)) return false;
    out->images.label = strcmp(rule, "none") == 0 ? NULL : out->label;
    out->understood = xasprintf("to be drawn from %s, labels %s", m->path, rule);
    g->config = (SamplerConfig){ .kind = (SamplerKind)c->sampler, .steps = steps, .batch = c->batch, .eta = c->eta,
                                 .omega = c->omega, .variance = (VarType)c->variance, .x0_clip = c->x0_clip,
                                 .seed = (uint64_t)c->seed, .weights = WEIGHTS_EMA, .dtype = g->config.dtype };
    SampleOrigin *o = &out->origin;
    o->sampler = xstrdup(sampler_names[c->sampler]);
    o->steps = steps;
    o->omega = c->omega;
    o->seed = c->seed;
    o->step = m->step;
    o->checkpoint = xstrdup(m->path);
    o->sha256 = xstrdup(m->hash);
    bool known = false;
    for (int k = 0; k < classes; k++) known = known || m->class_counts[k] > 0;
    if (known) o->class_counts = xmalloc((size_t)classes * sizeof *o->class_counts);
    if (known) memcpy(o->class_counts, m->class_counts, (size_t)classes * sizeof *o->class_counts);
    o->n_counts = known ? classes : 0;
    return true;
}

Drawing *drawing_open(Device *device, const DrawConfig *c, const DatasetInfo *d, Samples *out, Error *err) {
    Drawing *g = xcalloc(1, sizeof *g);
    *out = (Samples){ .origin = { .source = xstrdup(c->checkpoint), .step = -1, .seed = -1, .omega = NAN } };
    bool ok = graph_choose_dtype(device, c->dtype, &g->config.dtype, err) &&
              (g->model = model_open(device, c->checkpoint, c->weights ? CKPT_WEIGHTS : CKPT_EMA, err)) &&
              prepare(g, c, d, out, err);
    if (ok) return g;
    drawing_close(g);
    samples_free(out);
    return NULL;
}

void drawing_close(Drawing *g) {
    if (!g) return;
    model_close(g->model);
    free(g);
}

bool drawing_run(Drawing *g, Samples *out, Error *err) {
    Model *m = g->model;
    size_t bytes = (size_t)m->config.image_size * (size_t)m->config.image_size * (size_t)m->config.in_channels;
    if (!mul_size(bytes, sizeof(float) * (size_t)out->images.n, &bytes))
        return error_set(err, ERR_MEMORY, "%lld images do not fit in memory", (long long)out->images.n);
    out->pixels = xmalloc(bytes);
    out->images.f32 = out->pixels;
    Arena *arena = arena_new(m->device);
    Sampler *sampler = sampler_new(m->device, m->net, m->schedule, &g->config, arena);
    arena_seal(arena);
    stop_catch();
    bool ok = draw_all(sampler, m, g->config.batch, out, out->pixels, err);
    stop_release();
    sampler_free(sampler);
    arena_free(arena);
    return ok;
}
