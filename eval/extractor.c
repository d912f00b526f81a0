// eval/extractor.c - what all extractors share: protocols, checks, the loop over a set of images.
#include "eval/extractor.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const protocol_names[] = { "cbdm", "pytorch-fid", "tf", "clean", NULL };
bool protocol_quantises(Protocol p) { return p != PROTOCOL_CBDM; }

void extractor_close(Extractor *e) {
    if (!e) return;
    e->close(e->self);
    free(e);
}

void extractor_softmax(const float *logits, int n, float *probs) {
    double top = (double)logits[0], sum = 0;
    for (int i = 1; i < n; i++) top = (double)logits[i] > top ? (double)logits[i] : top;
    for (int i = 0; i < n; i++) sum += exp((double)logits[i] - top);
    for (int i = 0; i < n; i++) probs[i] = (float)(exp((double)logits[i] - top) / sum);
}

bool extractor_check(const Extractor *e, const ImageSet *s, Error *err) {
    if (s->n < 1) return error_set(err, ERR_USAGE, "%s holds no images", s->name);
    if (s->channels != 1 && s->channels != 3)
        return error_set(err, ERR_USAGE, "%s: images of %d channels; 1 or 3 are needed", s->name, s->channels);
    bool fits = (!e->height || (s->height == e->height && s->width == e->width)) &&
                (!e->channels || s->channels == e->channels);
    return fits || error_set(err, ERR_USAGE, "%s: images of %dx%dx%d, but the %s takes %dx%dx%d: give weights that "
                             "were trained on images of this kind", s->name, s->height, s->width, s->channels, e->name,
                             e->height, e->width, e->channels);
}

static void report(int64_t done, int64_t n, double since) {
    double seconds = now_seconds() - since, rate = seconds > 0 ? (double)done / seconds : 0;
    char line[160];
    snprintf(line, sizeof line, "features of %lld of %lld images, %.3g images/s, %.0f s left", (long long)done,
             (long long)n, rate, rate > 0 ? ceil((double)(n - done) / rate) : 0.0);
    log_progress(line);
}

void extractor_run(Extractor *e, const ImageSet *s, bool quantise, float *features, float *probs) {
    size_t pixels = (size_t)s->height * (size_t)s->width * (size_t)s->channels;
    float *batch = xmalloc((size_t)e->batch * pixels * sizeof *batch);
    double start = now_seconds();
    for (int64_t i = 0; i < s->n; i += e->batch) {
        int64_t end = i + e->batch < s->n ? i + e->batch : s->n;
        image_rows(s, i, end, quantise, batch);
        e->run(e->self, (int)(end - i), s->height, s->width, s->channels, batch, features + i * e->dim,
               probs ? probs + i * e->classes : NULL);
        report(end, s->n, start);
    }
    log_progress(NULL);
    free(batch);
}

void extractor_table(Extractor *e, const ImageSet *s, bool quantise, Features *out) {
    float *x, *probs;
    features_make(s->n, e->dim, s->label, e->classes, s->name, out, &x, &probs);
    extractor_run(e, s, quantise, x, probs);
}
