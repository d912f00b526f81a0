// train/probe.c - the denoising loss per class and per tenth of t, with fixed images, times and noise.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/common/rng.h"
#include "kernels/pointwise/pointwise.h"
#include "train/trainer_impl.h"

enum { TENTHS = 10, MAX_BATCH = 16 };

void probe_record(Trainer *t) {
    Probe *p = &t->probe;
    p->batch = t->c->probe_images < MAX_BATCH ? t->c->probe_images : MAX_BATCH;
    p->graph = graph_new(t->device, "probe", WEIGHTS_EMA);
    graph_set_dtype(p->graph, t->dtype);
    DiffusionStepConfig c = { .batch = p->batch, .labelled = true, .share = 1, .noise_input = true };
    p->io = diffusion_record_step(p->graph, t->net, t->schedule, &c);
    graph_plan(p->graph, t->arena);
}

// The (j / classes)-th image of class j mod classes, going round where a class has fewer; -1: it has none.
static int64_t probe_image(const DatasetInfo *d, const int64_t *first, const int64_t *of_class, int j) {
    int c = j % d->classes;
    return d->per_class[c] ? of_class[first[c] + j / d->classes % d->per_class[c]] : -1;
}

typedef struct { double *class_sum, tenth_sum[TENTHS]; int64_t *class_n, tenth_n[TENTHS]; } Tally;

static void measure(Trainer *t, const DatasetInfo *d, Tally *tally) {
    Probe *p = &t->probe;
    int64_t e = (int64_t)d->height * d->width * d->channels, *first = xcalloc((size_t)d->classes + 1, sizeof *first);
    int64_t *of_class = xmalloc((size_t)d->count * sizeof *of_class), *next = xcalloc((size_t)d->classes, sizeof *next);
    for (int c = 0; c < d->classes; c++) first[c + 1] = first[c] + d->per_class[c];
    for (int64_t i = 0; i < d->count; i++) of_class[first[d->labels[i]] + next[d->labels[i]]++] = i;
    float *x0 = xcalloc((size_t)(p->batch * e), sizeof *x0), *noise = xmalloc((size_t)(p->batch * e) * sizeof *noise);
    int32_t time[MAX_BATCH], y[MAX_BATCH], sample[MAX_BATCH] = { 0 };
    uint32_t key[2] = { (uint32_t)t->c->seed, (uint32_t)((uint64_t)t->c->seed >> 32) };
    double each[MAX_BATCH];
    param_refresh(unet_params(t->net), WEIGHTS_EMA);
    for (int begin = 0; begin < t->c->probe_images; begin += p->batch) {
        for (int i = 0; i < p->batch; i++) {
            int j = begin + i, tenth = (j / d->classes + 7 * j) % TENTHS;
            int64_t index = probe_image(d, first, of_class, j);
            if (index >= 0) image_to_float(d, index, false, x0 + i * e);
            Philox r = philox(key, 0, (uint32_t)j, 0, PURPOSE_PROBE);
            int low = tenth * t->c->model.T / TENTHS, high = (tenth + 1) * t->c->model.T / TENTHS;
            time[i] = low + (int32_t)rng_below(r.v[0], (uint32_t)(high > low ? high - low : 1));
            y[i] = t->c->model.classes ? j % d->classes : -1;
            for (int64_t k = 0; k < e; k += 4) {
                float normal[4];
                rng_normal4(philox(key, (uint32_t)(k / 4) + 1, (uint32_t)j, 0, PURPOSE_PROBE).v, normal);
                memcpy(noise + i * e + k, normal, (size_t)(e - k < 4 ? e - k : 4) * sizeof *noise);
            }
        }
        tensor_write_f32(p->io.x0, x0);
        tensor_write_f32(p->io.eps, noise);
        tensor_write(p->io.t, time);
        tensor_write(p->io.sample, sample);
        if (p->io.y) tensor_write(p->io.y, y);
        graph_run(p->graph);
        tensor_read_f64(p->io.per_image, each);
        for (int i = 0; i < p->batch && begin + i < t->c->probe_images; i++) {
            int j = begin + i, c = j % d->classes, tenth = (j / d->classes + 7 * j) % TENTHS;
            if (!d->per_class[c]) continue;
            tally->class_sum[c] += each[i];
            tally->class_n[c]++;
            tally->tenth_sum[tenth] += each[i];
            tally->tenth_n[tenth]++;
        }
    }
    free(first);
    free(of_class);
    free(next);
    free(x0);
    free(noise);
}

static char *json_means(const double *sum, const int64_t *n, int count) {
    char *out = xmalloc((size_t)count * 32 + 3), *at = out + sprintf(out, "[");
    for (int i = 0; i < count; i++) {
        if (n[i]) at += sprintf(at, "%s%.6g", i ? ", " : "", sum[i] / (double)n[i]);
        else at += sprintf(at, "%snull", i ? ", " : "");
    }
    strcpy(at, "]");
    return out;
}

void probe_run(Trainer *t, RunDir *dir) {
    const Dataset *sets[] = { t->data, t->held_out };
    static const char *const names[] = { "train", "held_out" };
    for (int s = 0; s < 2; s++) {
        if (!sets[s]) continue;
        const DatasetInfo *d = dataset_info(sets[s]);
        Tally tally = { .class_sum = xcalloc((size_t)d->classes, sizeof(double)),
                        .class_n = xcalloc((size_t)d->classes, sizeof(int64_t)) };
        measure(t, d, &tally);
        char *classes = json_means(tally.class_sum, tally.class_n, d->classes);
        char *tenths = json_means(tally.tenth_sum, tally.tenth_n, TENTHS);
        char *text = xasprintf("{\"step\": %lld, \"probe\": \"%s\", \"denoising_by_class\": %s, "
                               "\"denoising_by_tenth_of_t\": %s}", (long long)trainer_steps_done(t), names[s], classes,
                               tenths);
        run_dir_stat(dir, text);
        free(text);
        free(classes);
        free(tenths);
        free(tally.class_sum);
        free(tally.class_n);
    }
}
