// eval/classifier_data.c - what a classifier is trained on: the order of an epoch, crops, mirrors, normalised pixels.
#include <math.h>
#include <stdlib.h>

#include "eval/classifier_impl.h"
#include "kernels/common/rng.h"
#include "kernels/pointwise/pointwise.h"

Augment classifier_draw(const ClassifierRecipe *r, int64_t epoch, int64_t image) {
    uint32_t key[2] = { (uint32_t)r->seed, (uint32_t)(r->seed >> 32) }, span = (uint32_t)(2 * r->crop_pad + 1);
    Philox p = philox(key, (uint32_t)(image >> 32), (uint32_t)image, (uint32_t)epoch, PURPOSE_FLIP);
    return (Augment){ .dy = (int)rng_below(p.v[1], span) - r->crop_pad,
                      .dx = (int)rng_below(p.v[2], span) - r->crop_pad, .mirror = r->flip && p.v[0] >> 31 };
}

void classifier_prepare(const float *image, const ClassifierConfig *c, const float *mean, const float *std, Augment a,
                        float *out) {
    for (int y = 0; y < c->height; y++)
        for (int x = 0; x < c->width; x++) {
            int from_y = y + a.dy, from_x = (a.mirror ? c->width - 1 - x : x) + a.dx;
            bool inside = from_y >= 0 && from_y < c->height && from_x >= 0 && from_x < c->width;
            const float *pixel = image + ((int64_t)from_y * c->width + from_x) * c->channels;
            for (int k = 0; k < c->channels; k++) *out++ = ((inside ? pixel[k] : 0.0f) / 255.0f - mean[k]) / std[k];
        }
}

// Fisher-Yates with draws keyed by (seed, epoch, position).
void classifier_shuffle(uint64_t seed, int64_t epoch, int64_t n, int64_t *order) {
    uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    for (int64_t i = 0; i < n; i++) order[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        Philox p = philox(key, (uint32_t)i, 0, (uint32_t)epoch, PURPOSE_SHUFFLE);
        int64_t j = rng_below(p.v[0], (uint32_t)(i + 1)), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
}

void classifier_statistics(const ImageSet *sets, int n_sets, float *mean, float *std) {
    double sum[3] = { 0 }, square[3] = { 0 }, pixels = 0;
    int channels = sets[0].channels;
    for (int s = 0; s < n_sets; s++) {
        int64_t e = (int64_t)sets[s].height * sets[s].width * channels;
        float *image = xmalloc((size_t)e * sizeof *image);
        for (int64_t i = 0; i < sets[s].n; i++) {
            image_rows(&sets[s], i, i + 1, false, image);
            for (int64_t j = 0; j < e; j++) {
                double v = (double)image[j] / 255.0;
                sum[j % channels] += v;
                square[j % channels] += v * v;
            }
        }
        pixels += (double)(sets[s].n * e / channels);
        free(image);
    }
    for (int k = 0; k < channels; k++) {
        double m = sum[k] / pixels, variance = square[k] / pixels - m * m, least = 1.0 / 255.0;
        mean[k] = (float)m;
        std[k] = (float)(variance > least * least ? sqrt(variance) : least);    // of images that are all one colour
    }
}
