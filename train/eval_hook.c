// train/eval_hook.c - samples for whoever judges them while training: the averaged weights, few DDIM steps, every class
// alike, the same draws each time, so that lines differ by the weights alone.
#include "train/eval_hook.h"

#include <stdio.h>
#include <stdlib.h>

#include "train/trainer_impl.h"

static const TrainJudge *registered;
void train_judge_register(const TrainJudge *judge) { registered = judge; }
const TrainJudge *train_judge(void) { return registered; }

bool eval_open(Trainer *t, Error *err) {
    const RunConfig *c = t->c;
    if (!registered) return error_set(err, ERR_USAGE, "--eval-every: this program has nothing to judge samples with");
    if (!c->model.classes)
        return error_set(err, ERR_USAGE, "--eval-every measures class by class: an unconditional network has none");
    if (!t->held_out)
        return error_set(err, ERR_USAGE, "--eval-every compares with test images, and %s has none: leave it out",
                         c->data);
    if (c->eval_steps > c->model.T)
        return error_set(err, ERR_USAGE, "--eval-steps %d: there are only --T %d", c->eval_steps, c->model.T);
    if (device_is_null(t->device)) return true;
    t->judge = registered->open(t->device, dataset_info(t->data), dataset_info(t->held_out), c->eval_classifier, err);
    return t->judge != NULL;
}

// As many images at once as a training pass has: the arena holds at least as much already.
void eval_record(Trainer *t) {
    const RunConfig *c = t->c;
    SamplerConfig s = { .kind = SAMPLER_DDIM, .steps = c->eval_steps, .seed = (uint64_t)c->seed, .omega = c->eval_omega,
                        .batch = t->micro < c->eval_samples ? t->micro : c->eval_samples, .x0_clip = 1,
                        .weights = WEIGHTS_EMA, .dtype = t->dtype };
    t->eval_batch = s.batch;
    t->eval = sampler_new(t->device, t->net, t->schedule, &s, t->arena);
}

void eval_run(Trainer *t, RunDir *dir) {
    const RunConfig *c = t->c;
    const DatasetInfo *d = dataset_info(t->data);
    int64_t e = (int64_t)d->height * d->width * d->channels;
    int n = c->eval_samples;
    float *x = xmalloc((size_t)(n * e) * sizeof *x);
    int32_t *label = xmalloc((size_t)n * sizeof *label);
    uint32_t *sample = xmalloc((size_t)n * sizeof *sample);
    for (int i = 0; i < n; i++) label[i] = i % d->classes, sample[i] = (uint32_t)i;
    for (int i = 0; i < n; i += t->eval_batch) {
        int m = n - i < t->eval_batch ? n - i : t->eval_batch;
        sampler_run(t->eval, m, label + i, sample + i, x + i * e, NULL, NULL);
    }
    char *found = registered->judge(t->judge, n, x, label);
    char *text = xasprintf("{\"step\": %lld, \"eval\": {\"samples\": %d, \"sampler_steps\": %d, \"omega\": %g, %s}}",
                           (long long)trainer_steps_done(t), n, c->eval_steps, c->eval_omega, found);
    run_dir_stat(dir, text);
    free(text);
    free(found);
    free(x);
    free(label);
    free(sample);
}

void eval_free(Trainer *t) {
    if (t->judge) registered->close(t->judge);
    sampler_free(t->eval);
}
