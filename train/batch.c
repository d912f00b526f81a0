// train/batch.c - assembling batches.
#include "train/batch.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/common/rng.h"
#include "kernels/pointwise/pointwise.h"

struct Batcher {
    const DatasetInfo *data;
    uint32_t  key[2];
    int       batch, T;
    bool      flip, drop_last;
    TargetDist target;
    double    label_drop;
    bool      drop_by_sample;
    double   *cdf;                    // of the training labels
    int64_t  *order, epoch;           // the permutation of one epoch; -1: none yet
};

Batcher *batcher_new(const RunConfig *c, const DatasetInfo *data) {
    Batcher *b = xcalloc(1, sizeof *b);
    *b = (Batcher){ .data = data, .key = { (uint32_t)c->seed, (uint32_t)((uint64_t)c->seed >> 32) }, .batch = c->batch,
                    .T = c->model.T, .flip = c->flip, .drop_last = c->drop_last, .target = (TargetDist)c->target,
                    .label_drop = c->model.classes ? c->label_drop : 1.0,
                    .drop_by_sample = c->model.classes && c->label_drop_by == DROP_SAMPLE, .epoch = -1 };
    b->order = xmalloc((size_t)data->count * sizeof *b->order);
    b->cdf = xmalloc((size_t)data->classes * sizeof *b->cdf);
    int64_t sum = 0;
    for (int i = 0; i < data->classes; i++) b->cdf[i] = (double)(sum += data->per_class[i]) / (double)data->count;
    return b;
}

void batcher_free(Batcher *b) {
    if (!b) return;
    free(b->order);
    free(b->cdf);
    free(b);
}

static bool is_dropped(const Batcher *b, int64_t step, int i) {
    Philox r = philox(b->key, 0, (uint32_t)i, (uint32_t)step, PURPOSE_LABEL_DROP);
    return (double)rng_uniform(r.v[0]) < b->label_drop;
}

// The coin of a whole batch is that of its first image.
bool batcher_drops_labels(const Batcher *b, int64_t step) { return !b->drop_by_sample && is_dropped(b, step, 0); }

// Fisher-Yates with draws keyed by (seed, epoch, position).
static void shuffle(Batcher *b, int64_t epoch) {
    if (b->epoch == epoch) return;
    b->epoch = epoch;
    int64_t n = b->data->count;
    for (int64_t i = 0; i < n; i++) b->order[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        Philox r = philox(b->key, (uint32_t)i, 0, (uint32_t)epoch, PURPOSE_SHUFFLE);
        int64_t j = rng_below(r.v[0], (uint32_t)(i + 1)), t = b->order[i];
        b->order[i] = b->order[j];
        b->order[j] = t;
    }
}

// Without drop_last the epochs follow each other without a gap, so that every image is seen equally often.
static int64_t image_at(Batcher *b, int64_t step, int i) {
    int64_t per_epoch = b->drop_last ? b->data->count / b->batch * b->batch : b->data->count;
    int64_t position = step * b->batch + i;
    shuffle(b, position / per_epoch);
    return b->order[position % per_epoch];
}

void image_to_float(const DatasetInfo *d, int64_t index, bool mirror, float *out) {
    const uint8_t *in = d->images + index * d->height * d->width * d->channels;
    for (int y = 0; y < d->height; y++)
        for (int x = 0; x < d->width; x++) {
            const uint8_t *pixel = in + (y * d->width + (mirror ? d->width - 1 - x : x)) * d->channels;
            for (int k = 0; k < d->channels; k++) *out++ = ((float)pixel[k] / 255.0f - 0.5f) / 0.5f;
        }
}

static int32_t other_label(const Batcher *b, uint32_t word) {
    if (b->target == TARGET_UNIFORM) return (int32_t)rng_below(word, (uint32_t)b->data->classes);
    double u = (double)word / 4294967296.0;
    int c = 0;
    while (c < b->data->classes - 1 && u >= b->cdf[c]) c++;
    return c;
}

void batcher_fill(Batcher *b, int64_t step, int begin, int end, const BatchRows *rows) {
    int64_t e = (int64_t)b->data->height * b->data->width * b->data->channels;
    for (int i = begin; i < end; i++) {
        int64_t index = image_at(b, step, i);
        int j = i - begin;
        Philox flip = philox(b->key, 0, (uint32_t)i, (uint32_t)step, PURPOSE_FLIP);
        if (rows->x0) image_to_float(b->data, index, b->flip && flip.v[0] >> 31, rows->x0 + j * e);
        if (rows->index) rows->index[j] = (int32_t)index;
        Philox time = philox(b->key, 0, (uint32_t)i, (uint32_t)step, PURPOSE_TIME);
        rows->t[j] = (int32_t)rng_below(time.v[0], (uint32_t)b->T);
        if (rows->y) rows->y[j] = b->drop_by_sample && is_dropped(b, step, i) ? -1 : b->data->labels[index];
        if (rows->y_balanced)
            rows->y_balanced[j] = other_label(b, philox(b->key, 0, (uint32_t)i, (uint32_t)step, PURPOSE_LABEL).v[0]);
        rows->sample[j] = i;
    }
}

void batcher_noise(const Batcher *b, int64_t step, int begin, int end, float *out) {
    int64_t n = (int64_t)b->data->height * b->data->width * b->data->channels;
    for (int i = begin; i < end; i++, out += n)
        for (int64_t e = 0; e < n; e += 4) {
            float normal[4];
            rng_normal4(philox(b->key, (uint32_t)(e / 4), (uint32_t)i, (uint32_t)step, PURPOSE_NOISE).v, normal);
            memcpy(out + e, normal, (size_t)(n - e < 4 ? n - e : 4) * sizeof *out);
        }
}
