// eval/centroid.c - nearest-centroid recognition of generated images, per class, beside that of real test images.
#include "eval/centroid.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/cli.h"

static int64_t image_elements(const DatasetInfo *d) { return (int64_t)d->height * d->width * d->channels; }

void centroids_of(const DatasetInfo *d, double *out) {
    int64_t e = image_elements(d);
    memset(out, 0, (size_t)(d->classes * e) * sizeof *out);
    for (int64_t i = 0; i < d->count; i++) {
        double *mean = out + d->labels[i] * e;
        for (int64_t k = 0; k < e; k++) mean[k] += d->images[i * e + k] / 255.0 / (double)d->per_class[d->labels[i]];
    }
}

static int nearest(const uint8_t *image, const double *centroids, int classes, int64_t e) {
    int best = 0;
    double best_distance = 0;
    for (int c = 0; c < classes; c++) {
        double distance = 0;
        for (int64_t k = 0; k < e; k++) {
            double d = image[k] / 255.0 - centroids[c * e + k];
            distance += d * d;
        }
        if (c == 0 || distance < best_distance) best = c, best_distance = distance;
    }
    return best;
}

void centroid_classify(const DatasetInfo *d, const double *centroids, int64_t *right, int64_t *seen) {
    int64_t e = image_elements(d);
    memset(right, 0, (size_t)d->classes * sizeof *right);
    memset(seen, 0, (size_t)d->classes * sizeof *seen);
    for (int64_t i = 0; i < d->count; i++) {
        seen[d->labels[i]]++;
        right[d->labels[i]] += nearest(d->images + i * e, centroids, d->classes, e) == d->labels[i];
    }
}

// ---- the verb
typedef struct { const char *data, *samples; int imb_type; double imb_factor; int64_t lt_seed; } EvalConfig;
#define FIELD(f) offsetof(EvalConfig, f)
static const Flag flags[] = {
    { "data", "builtin", "the data set that was trained on", FLAG_STR, FIELD(data), NULL, 0, 0 },
    { "samples", "", "folder of class folders, as `cbdm sample --out` makes it", FLAG_STR, FIELD(samples), NULL, 0, 0 },
    { "imb-type", "exp", "of the training subset, for the counts shown", FLAG_ENUM, FIELD(imb_type), imb_type_names,
      0, 0 },
    { "imb-factor", "0.01", "of the training subset", FLAG_F64, FIELD(imb_factor), NULL, 1e-6, 1 },
    { "lt-seed", "0", "of the training subset", FLAG_I64, FIELD(lt_seed), NULL, 0, 4294967295.0 },
};
#undef FIELD
enum { N_FLAGS = sizeof flags / sizeof flags[0] };

typedef struct { const char *name; int from, to; } Group;

static double accuracy(const int64_t *right, const int64_t *seen, int from, int to) {
    int64_t r = 0, s = 0;
    for (int c = from; c < to; c++) r += right[c], s += seen[c];
    return s ? (double)r / (double)s : 0.0;
}

static void print_table(const DatasetInfo *d, const int64_t *train, int64_t *const truth[2], int64_t *const made[2]) {
    int n = d->classes, third = n * 3 / 10 > 0 ? n * 3 / 10 : 1;       // 0-2, 3-5, 6-9 of ten
    Group groups[] = { { "head", 0, third }, { "medium", third, 2 * third }, { "tail", 2 * third, n },
                       { "head and medium", 0, 2 * third }, { "all", 0, n } };
    printf("%-18s %9s %12s %12s\n", "class", "training", "real test", "samples");
    for (int c = 0; c < n; c++)
        printf("%-18s %9lld %12.3f %12.3f\n", d->class_names[c], (long long)train[c],
               accuracy(truth[0], truth[1], c, c + 1), accuracy(made[0], made[1], c, c + 1));
    for (size_t g = 0; g < sizeof groups / sizeof groups[0]; g++) {
        double r = accuracy(truth[0], truth[1], groups[g].from, groups[g].to);
        double m = accuracy(made[0], made[1], groups[g].from, groups[g].to);
        printf("%-18s %9s %12.3f %12.3f  ratio %.3f\n", groups[g].name, "", r, m, r > 0 ? m / r : 0.0);
    }
}

static bool evaluate(const EvalConfig *c, Error *err) {
    Dataset *train = dataset_open(c->data, SPLIT_TRAIN, err);
    Dataset *test = train ? dataset_open(c->data, SPLIT_TEST, err) : NULL;
    Dataset *samples = test ? dataset_open(c->samples, SPLIT_TRAIN, err) : NULL;
    bool ok = samples != NULL;
    if (ok) {
        const DatasetInfo *s = dataset_info(samples);
        int size = s->height;
        if (dataset_info(train)->height < size) {
            train = dataset_pad(train, size, err);
            test = train ? dataset_pad(test, size, err) : test;
        }
        const DatasetInfo *d = train ? dataset_info(train) : NULL;
        ok = d && d->classes == s->classes && d->height == s->height && d->width == s->width &&
             d->channels == s->channels;
        if (d && !ok)
            error_set(err, ERR_USAGE, "%s holds %d classes of %dx%dx%d, the data %d of %dx%dx%d: sample every class of "
                      "the same data", c->samples, s->classes, s->height, s->width, s->channels, d->classes, d->height,
                      d->width, d->channels);
    }
    if (ok) {
        const DatasetInfo *d = dataset_info(train);
        size_t n = (size_t)d->classes;
        double *centroids = xmalloc(n * (size_t)image_elements(d) * sizeof *centroids);
        int64_t *truth[2], *made[2], *counts = xcalloc(n, sizeof *counts);
        for (int i = 0; i < 2; i++) truth[i] = xcalloc(n, sizeof **truth), made[i] = xcalloc(n, sizeof **made);
        centroids_of(d, centroids);
        centroid_classify(dataset_info(test), centroids, truth[0], truth[1]);
        centroid_classify(dataset_info(samples), centroids, made[0], made[1]);
        ok = subset_counts((ImbType)c->imb_type, c->imb_factor, d->classes, d->count, counts, err);
        if (ok) print_table(d, counts, truth, made);
        free(centroids);
        free(counts);
        for (int i = 0; i < 2; i++) free(truth[i]), free(made[i]);
    }
    dataset_close(train);
    dataset_close(test);
    dataset_close(samples);
    return ok;
}

int centroid_main(int argc, char **argv) {
    EvalConfig c;
    Error err = { 0 };
    cli_defaults(flags, N_FLAGS, &c);
    if (cli_wants_help(argc, argv)) {
        cli_help(flags, N_FLAGS, "cbdm eval centroid --samples DIR --data PATH",
                 "How many samples lie nearest to their own class's mean training image, beside real test images.");
        return 0;
    }
    bool ok = cli_parse(flags, N_FLAGS, &c, argc - 1, argv + 1, NULL, NULL, NULL, &err);
    if (ok && !*c.samples) ok = error_set(&err, ERR_USAGE, "usage: cbdm eval centroid --samples DIR --data PATH");
    if (ok) ok = evaluate(&c, &err);
    if (!ok) log_info("error: %s", err.msg);
    return ok ? 0 : err.code;
}
