// train/preview.c - a grid of samples while training: fixed seeds and labels, the averaged weights, few DDIM steps.
#include <stdio.h>
#include <stdlib.h>

#include "train/trainer_impl.h"

enum { MAX_ROWS = 10, COLUMNS = 8 };

static int rows_of(const Trainer *t) {
    int classes = t->c->model.classes;
    return classes < 1 ? 4 : classes < MAX_ROWS ? classes : MAX_ROWS;
}

void preview_record(Trainer *t) {
    SamplerConfig s = { .kind = SAMPLER_DDIM, .steps = t->c->preview_steps, .batch = COLUMNS,
                        .seed = (uint64_t)t->c->seed, .omega = t->c->model.classes ? t->c->preview_omega : 0,
                        .x0_clip = 1, .weights = WEIGHTS_EMA, .dtype = t->dtype };
    t->preview = sampler_new(t->device, t->net, t->schedule, &s, t->arena);
}

bool preview_run(Trainer *t, RunDir *dir, Error *err) {
    const DatasetInfo *d = dataset_info(t->data);
    int rows = rows_of(t), classes = t->c->model.classes;
    int64_t e = (int64_t)d->height * d->width * d->channels;
    float *x = xmalloc((size_t)(COLUMNS * e) * sizeof *x);
    uint8_t *pixels = xmalloc((size_t)(rows * COLUMNS * e));
    const uint8_t *image[MAX_ROWS * COLUMNS];
    for (int r = 0; r < rows; r++) {
        int32_t label[COLUMNS];
        uint32_t sample[COLUMNS];
        for (int i = 0; i < COLUMNS; i++) {
            label[i] = classes ? (rows > 1 ? r * (classes - 1) / (rows - 1) : 0) : -1;   // evenly from head to tail
            sample[i] = (uint32_t)(r * COLUMNS + i);
            image[r * COLUMNS + i] = pixels + (r * COLUMNS + i) * e;
        }
        sampler_run(t->preview, COLUMNS, label, sample, x, NULL, NULL);
        images_to_u8(x, COLUMNS * e, pixels + r * COLUMNS * e);
    }
    char *path = xasprintf("%s/previews/step-%09lld.png", run_dir_path(dir), (long long)trainer_steps_done(t));
    bool ok = d->channels == 1 || d->channels == 3
                  ? png_write_grid(path, image, rows, COLUMNS, d->width, d->height, d->channels, err) : true;
    free(path);
    free(x);
    free(pixels);
    return ok;
}
