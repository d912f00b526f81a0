// eval/classifier.c - classifiers as a whole: making, opening, and what they say of images.
#include "eval/classifier_impl.h"

#include <stdlib.h>
#include <string.h>

// training: with a training graph, for images in the recipe's batches.
static Classifier *make(Device *d, const ClassifierConfig *cfg, int batch, bool training) {
    Classifier *c = xcalloc(1, sizeof *c);
    c->cfg = *cfg;
    c->device = d;
    c->batch = batch;
    for (int k = 0; k < 3; k++) c->std[k] = 1;
    classifier_build(c);
    c->arena = arena_new(d);
    if (training) {
        c->lr = tensor_new(d, "learning rate", DT_F32, 1, (int64_t[]){ 1 });
        if (cfg->recipe.logit_adjust != 0)
            c->offset = tensor_new(d, "logit offset", DT_F32, 1, (int64_t[]){ cfg->classes });
        c->train = classifier_record(c, cfg->recipe.batch, true);
    }
    c->infer = classifier_record(c, batch, false);
    arena_seal(c->arena);
    c->staging = xmalloc((size_t)tensor_numel(c->infer.x) * sizeof *c->staging);
    return c;
}

Classifier *classifier_new(Device *d, int classes, int height, int width, int channels, const ClassifierRecipe *r) {
    Error err;
    CHECK(classifier_recipe_check(r, &err), "%s", err.msg);
    CHECK(classes >= 1 && height >= 8 && width >= 8 && (channels == 1 || channels == 3), "%d classes of %dx%dx%d",
          classes, height, width, channels);
    ClassifierConfig cfg = { *r, classes, height, width, channels };
    return make(d, &cfg, r->batch, true);
}

Classifier *classifier_open(Device *d, const char *path, int batch, Error *err) {
    CHECK(batch >= 1, "batch %d", batch);
    SafeTensors *st = st_open(path, err);
    if (!st) return NULL;
    ClassifierConfig cfg;
    Classifier *c = NULL;
    if (classifier_read_config(st, path, &cfg, err) && classifier_check_tensors(st, path, &cfg, err)) {
        c = make(d, &cfg, batch, false);
        classifier_load(c, st);
        const char *digest = st_meta(st, "data_sha256");
        if (digest && strlen(digest) < sizeof c->digest) memcpy(c->digest, digest, strlen(digest));
    }
    st_close(st);
    return c;
}

void classifier_close(Classifier *c) {
    if (!c) return;
    graph_free(c->train.graph);
    graph_free(c->infer.graph);
    arena_free(c->arena);
    for (int i = 0; i < classifier_convs(&c->cfg.recipe); i++) {
        tensor_free(c->conv[i].mean);
        tensor_free(c->conv[i].var);
    }
    for (int s = 0; s < 2; s++) tensor_free(c->shortcut[s]);
    tensor_free(c->lr);
    tensor_free(c->offset);
    param_set_free(c->params);
    free(c->staging);
    free(c);
}

int classifier_dim(const Classifier *c) { return 4 * c->cfg.recipe.width; }
int classifier_classes(const Classifier *c) { return c->cfg.classes; }
const ClassifierRecipe *classifier_recipe_of(const Classifier *c) { return &c->cfg.recipe; }
const char *classifier_data_digest(const Classifier *c) { return c->digest; }
void classifier_image(const Classifier *c, int *height, int *width, int *channels) {
    *height = c->cfg.height;
    *width = c->cfg.width;
    *channels = c->cfg.channels;
}

bool classifier_takes(const Classifier *c, const ImageSet *s, Error *err) {
    const ClassifierConfig *f = &c->cfg;
    return (s->height == f->height && s->width == f->width && s->channels == f->channels) ||
           error_set(err, ERR_USAGE, "%s holds images of %dx%dx%d, the classifier is for %dx%dx%d", s->name, s->height,
                     s->width, s->channels, f->height, f->width, f->channels);
}

// ---- inference
// Rows at..at + n - 1 of a pass: normalises in place, fills up with black, runs, reads.
static void run_batch(Classifier *c, int64_t n, const float *pixels, float *features, float *logits) {
    int64_t e = tensor_numel(c->infer.x) / c->batch, dim = classifier_dim(c), classes = c->cfg.classes;
    memset(c->staging, 0, (size_t)(c->batch * e) * sizeof *c->staging);
    for (int64_t i = 0; i < n; i++)
        classifier_prepare(pixels + i * e, &c->cfg, c->mean, c->std, (Augment){ 0 }, c->staging + i * e);
    tensor_write_f32(c->infer.x, c->staging);
    graph_run(c->infer.graph);
    struct { const Tensor *from; float *to; int64_t row; } read[] = { { c->infer.features, features, dim },
                                                                      { c->infer.logits, logits, classes } };
    for (int k = 0; k < 2; k++) {
        if (!read[k].to) continue;
        float *all = xmalloc((size_t)(c->batch * read[k].row) * sizeof *all);
        tensor_read_f32(read[k].from, all);
        memcpy(read[k].to, all, (size_t)(n * read[k].row) * sizeof *all);
        free(all);
    }
}

static float *rows_from(float *base, int64_t row, int64_t width) { return base ? base + row * width : NULL; }

void classifier_run_pixels(Classifier *c, int64_t n, const float *pixels, float *features, float *logits) {
    int64_t e = tensor_numel(c->infer.x) / c->batch;
    for (int64_t at = 0; at < n; at += c->batch)
        run_batch(c, n - at < c->batch ? n - at : c->batch, pixels + at * e,
                  rows_from(features, at, classifier_dim(c)), rows_from(logits, at, c->cfg.classes));
}

void classifier_run(Classifier *c, const ImageSet *s, float *features, float *logits) {
    Error err;
    CHECK(classifier_takes(c, s, &err), "%s", err.msg);
    float *pixels = xmalloc((size_t)tensor_numel(c->infer.x) * sizeof *pixels);
    for (int64_t at = 0; at < s->n; at += c->batch) {
        int64_t end = s->n - at < c->batch ? s->n : at + c->batch;
        image_rows(s, at, end, false, pixels);
        run_batch(c, end - at, pixels, rows_from(features, at, classifier_dim(c)),
                  rows_from(logits, at, c->cfg.classes));
    }
    free(pixels);
}

int classifier_largest(const float *x, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

void classifier_judge(Classifier *c, const ImageSet *s, int64_t *right, int64_t *seen) {
    int classes = c->cfg.classes;
    float *logits = xmalloc((size_t)(s->n * classes) * sizeof *logits);
    memset(right, 0, (size_t)classes * sizeof *right);
    memset(seen, 0, (size_t)classes * sizeof *seen);
    classifier_run(c, s, NULL, logits);
    for (int64_t i = 0; i < s->n; i++) {
        int label = s->label[i];
        CHECK(label >= 0 && label < classes, "image %lld of %s has label %d of %d classes", (long long)i, s->name,
              label, classes);
        seen[label]++;
        right[label] += classifier_largest(logits + i * classes, classes) == label;
    }
    free(logits);
}
