// eval/extractor_classifier.c - the classifier of our own as an extractor of features.
#include <stdio.h>
#include <stdlib.h>

#include "core/file.h"
#include "eval/classifier.h"
#include "eval/extractor.h"

static void run(void *self, int n, int h, int w, int c, const float *pixels, float *features, float *probs) {
    int height, width, channels, classes = classifier_classes(self);
    classifier_image(self, &height, &width, &channels);
    CHECK(h == height && w == width && c == channels, "%dx%dx%d images for a classifier of %dx%dx%d", h, w, c, height,
          width, channels);
    classifier_run_pixels(self, n, pixels, features, probs);
    for (int i = 0; probs && i < n; i++)
        extractor_softmax(probs + (int64_t)i * classes, classes, probs + (int64_t)i * classes);
}

static void close_classifier(void *self) { classifier_close(self); }

Extractor *extractor_classifier(Device *d, const char *weights, int batch, Error *err) {
    char hash[65];
    Classifier *c = sha256_file(weights, hash, err) ? classifier_open(d, weights, batch, err) : NULL;
    if (!c) return NULL;
    Extractor *e = xcalloc(1, sizeof *e);
    *e = (Extractor){ .dim = classifier_dim(c), .classes = classifier_classes(c), .batch = batch, .self = c, .run = run,
                      .close = close_classifier };
    classifier_image(c, &e->height, &e->width, &e->channels);
    snprintf(e->name, sizeof e->name, "classifier resnet%d", classifier_recipe_of(c)->depth);
    snprintf(e->hash, sizeof e->hash, "%s", hash);
    return e;
}
