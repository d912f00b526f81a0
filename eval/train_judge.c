// eval/train_judge.c - per-class numbers of samples drawn while training: the share recognised as their own class.
#include "eval/train_judge.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/centroid.h"
#include "sample/sampler.h"

// Without a classifier an image is of the class whose mean test image is nearest.
typedef struct {
    const DatasetInfo *held_out;
    double            *means;                             // (classes,H*W*C)
    int64_t           *right, *seen;                      // (classes), of the test images themselves
} Judge;

static void *judge_open(Device *device, const DatasetInfo *train, const DatasetInfo *held_out, const char *classifier,
                        Error *err) {
    (void)device;
    (void)train;
    if (*classifier) {
        error_set(err, ERR_USAGE, "--eval-classifier");
        return NULL;
    }
    Judge *j = xcalloc(1, sizeof *j);
    size_t classes = (size_t)held_out->classes;
    j->held_out = held_out;
    j->means = xmalloc(classes * (size_t)(held_out->height * held_out->width * held_out->channels) * sizeof *j->means);
    j->right = xcalloc(classes, sizeof *j->right);
    j->seen = xcalloc(classes, sizeof *j->seen);
    centroids_of(held_out, j->means);
    centroid_classify(held_out, j->means, j->right, j->seen);
    return j;
}

static void judge_close(void *self) {
    Judge *j = self;
    free(j->means);
    free(j->right);
    free(j->seen);
    free(j);
}

static char *json_shares(const int64_t *right, const int64_t *seen, int n) {
    char *out = xmalloc((size_t)n * 32 + 3), *at = out + sprintf(out, "[");
    for (int i = 0; i < n; i++) {
        if (seen[i]) at += sprintf(at, "%s%.6g", i ? ", " : "", (double)right[i] / (double)seen[i]);
        else at += sprintf(at, "%snull", i ? ", " : "");
    }
    strcpy(at, "]");
    return out;
}

static char *judge_samples(void *self, int64_t n, const float *images, const int32_t *label) {
    Judge *j = self;
    DatasetInfo d = *j->held_out;
    size_t classes = (size_t)d.classes, e = (size_t)(d.height * d.width * d.channels);
    uint8_t *pixels = xmalloc((size_t)n * e);
    int64_t *right = xcalloc(classes, sizeof *right), *seen = xcalloc(classes, sizeof *seen);
    images_to_u8(images, n * (int64_t)e, pixels);
    d.count = n;
    d.images = pixels;
    d.labels = label;
    centroid_classify(&d, j->means, right, seen);
    char *made = json_shares(right, seen, d.classes), *truth = json_shares(j->right, j->seen, d.classes);
    char *text = xasprintf("\"judge\": \"nearest class mean\", \"fidelity\": %s, \"real_fidelity\": %s", made, truth);
    free(pixels);
    free(right);
    free(seen);
    free(made);
    free(truth);
    return text;
}

const TrainJudge train_judge_of_eval = { judge_open, judge_samples, judge_close };
