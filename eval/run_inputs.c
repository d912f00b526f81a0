// eval/run_inputs.c - what `cbdm eval run` compares: data sets, samples, and the features of both.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/reference.h"
#include "eval/run_impl.h"

const char *const split_names[] = { "train", "test", NULL };

const Dataset *run_reference(const Run *r) { return r->c.split == SPLIT_TRAIN ? r->train : r->test; }

ImageSet run_images(const Dataset *d) {
    const DatasetInfo *i = dataset_info(d);
    return (ImageSet){ .n = i->count, .height = i->height, .width = i->width, .channels = i->channels, .u8 = i->images,
                       .label = i->labels, .name = i->source };
}

// ---- data and samples
static bool asks(const Run *r) {
    for (int i = 0; i < ASK_COUNT; i++)
        if (r->ask[i]) return true;
    return false;
}

static bool open_splits(Run *r, Error *err) {
    Error why = { 0 };
    r->train = dataset_open(r->c.data, SPLIT_TRAIN, err);
    if (!r->train) return false;
    r->test = dataset_open(r->c.data, SPLIT_TEST, &why);
    if (r->test || (r->c.split == SPLIT_TRAIN && !asks(r))) return true;
    return error_set(err, why.code, "%.400s; without one, --split train --questions none is left", why.msg);
}

// The guidance strength that --omega names for samples which do not name one themselves.
static bool take_omega(const Run *r, SampleOrigin *o, Error *err) {
    if (!isnan(o->omega) && o->omega != r->c.draw.omega)
        return error_set(err, ERR_USAGE, "%s was drawn at omega %g, not %g: leave out --omega", o->source, o->omega,
                         r->c.draw.omega);
    o->omega = r->c.draw.omega;
    return true;
}

static bool read_samples(Run *r, Error *err) {
    const DatasetInfo *d = dataset_info(r->train);
    bool ok = *r->c.samples ? samples_read(r->c.samples, r->c.gen_labels, d, &r->samples, err)
                            : (r->drawing = drawing_open(r->device, &r->c.draw, d, &r->samples, err)) != NULL;
    if (!ok || (r->omega_given && !take_omega(r, &r->samples.origin, err))) return false;
    const ImageSet *s = &r->samples.images;
    log_info("%lld samples of %d x %d x %d: %s", (long long)s->n, s->height, s->width, s->channels,
             r->samples.understood);
    if (s->label) return true;
    if (asks(r) || r->c.per_class)
        return error_set(err, ERR_USAGE, "%s: the samples have no labels: give them by --gen-labels FILE.npy, or "
                         "judge them together with --no-per-class --questions none", r->samples.origin.source);
    return true;
}

// To the size of the samples, as the training program pads.
static bool pad(Dataset **d, const ImageSet *s, Error *err) {
    if (!*d) return true;
    const DatasetInfo *i = dataset_info(*d);
    if (i->height != s->height || i->width != s->width) *d = dataset_pad(*d, s->height, err);
    return *d != NULL;
}

static bool open_subset(Run *r, Error *err) {
    r->lt = dataset_open(r->c.data, SPLIT_TRAIN, err);
    if (!r->lt || !pad(&r->lt, &r->samples.images, err)) return false;
    r->lt = *r->c.lt_index ? dataset_subset_file(r->lt, r->c.lt_index, err)
                           : dataset_subset(r->lt, (ImbType)r->c.imb_type, r->c.imb_factor, (uint32_t)r->c.lt_seed,
                                            err);
    return r->lt != NULL;
}

// A checkpoint knows how many images of each class it was trained on, and a folder of samples what its checkpoint knew.
static bool check_counts(const Run *r, Error *err) {
    const SampleOrigin *o = &r->samples.origin;
    const char *who = r->drawing ? "" : "the model of ";
    if (o->n_counts && o->n_counts != r->table.classes)
        return error_set(err, ERR_USAGE, "%s%s was trained on %d classes, %s has %d: name its data with --data", who,
                         o->source, o->n_counts, r->c.data, r->table.classes);
    for (int c = 0; c < o->n_counts; c++)
        if (o->class_counts[c] != r->table.train_counts[c])
            return error_set(err, ERR_USAGE, "%s%s was trained on %lld images of class %d, the subset named here has "
                             "%lld: repeat its --data, --imb-type, --imb-factor, --lt-seed or --lt-index", who,
                             o->source, (long long)o->class_counts[c], c, (long long)r->table.train_counts[c]);
    return true;
}

static bool check_classes(const Run *r, Error *err) {
    if (!r->c.per_class && !asks(r)) return true;
    int64_t *counts = xmalloc((size_t)r->table.classes * sizeof *counts);
    bool ok = samples_count(&r->samples, dataset_info(r->train), 2, counts, err);
    free(counts);
    return ok;
}

bool run_open_data(Run *r, Error *err) {
    if (!open_splits(r, err) || !read_samples(r, err)) return false;
    const ImageSet *s = &r->samples.images;
    const DatasetInfo *own = dataset_info(r->train);
    r->padded = own->height != s->height || own->width != s->width ? s->height : 0;
    if (!pad(&r->train, s, err) || !pad(&r->test, s, err) || !open_subset(r, err)) return false;
    const DatasetInfo *lt = dataset_info(r->lt);
    r->group_of = xcalloc((size_t)lt->classes, sizeof *r->group_of);
    r->table = (ClassTable){ .classes = lt->classes, .train_counts = lt->per_class, .group_of = r->group_of,
                             .names = lt->class_names };
    return groups_of(r->c.groups, lt->per_class, lt->classes, r->group_of, err) && check_counts(r, err) &&
           check_classes(r, err);
}

// ---- features
char *run_find_classifier(const Run *r, Error *err) {
    static const char *const presets[] = { "standard", "quick" };
    const DatasetInfo *d = dataset_info(r->train);
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++) {
        ClassifierRecipe recipe;
        CHECK(classifier_preset(presets[i], &recipe), "no preset %s", presets[i]);
        char *path = classifier_cache_path(d->digest, &recipe, err);
        if (!path) return NULL;
        if (file_exists(path)) return path;
        free(path);
    }
    char *padding = r->padded ? xasprintf(" --pad %d", r->padded) : xstrdup("");
    error_set(err, ERR_FILE, "no classifier of %s is kept yet; train it once by: cbdm eval train-classifier --data "
              "%s%s", d->source, r->c.data, padding);
    free(padding);
    return NULL;
}

// What a file of --features holds: a classifier of our own says so, anything else must be the Inception network. digest
// (65): of the images that a classifier was trained on, "" where that is not known.
static bool is_classifier(const char *path, char *digest) {
    Error ignored;
    SafeTensors *st = st_open(path, &ignored);
    const char *format = st ? st_meta(st, "format") : NULL, *data = st ? st_meta(st, "data_sha256") : NULL;
    bool is = format && strncmp(format, "cbdm-classifier", strlen("cbdm-classifier")) == 0;
    snprintf(digest, 65, "%.64s", data ? data : "");
    if (st) st_close(st);
    return is;
}

// For features of another network: the classifier that --classifier names, or the one that is kept for the data.
static bool open_judge(Run *r, Error *err) {
    char *found = NULL, hash[65];
    const char *path = *r->c.classifier ? r->c.classifier : (found = run_find_classifier(r, err));
    if (!path) return error_set(err, err->code, "%.400s, or leave out --questions fidelity", err->msg);
    r->judge = sha256_file(path, hash, err) ? classifier_open(r->device, path, r->c.extract_batch, err) : NULL;
    bool ok = r->judge != NULL;
    int h = 0, w = 0, c = 0;
    if (ok) classifier_image(r->judge, &h, &w, &c);
    const ImageSet *s = &r->samples.images;
    if (ok && (classifier_classes(r->judge) != r->table.classes || h != s->height || w != s->width || c != s->channels))
        ok = error_set(err, ERR_USAGE, "%s knows %d classes of %d x %d x %d, the samples are %d of %d x %d x %d", path,
                       classifier_classes(r->judge), h, w, c, r->table.classes, s->height, s->width, s->channels);
    if (ok) r->classifier = xasprintf("classifier resnet%d %.12s", classifier_recipe_of(r->judge)->depth, hash);
    free(found);
    return ok;
}

bool run_open_extractor(Run *r, Error *err) {
    bool classifier = strcmp(r->c.features, "classifier") == 0, inception = strcmp(r->c.features, "inception") == 0;
    const char *weights = r->c.weights;
    char *found = NULL, digest[65] = "";
    if (!classifier && !inception) {
        if (*weights)
            return error_set(err, ERR_USAGE, "--features %s names a file, and so does --weights: one of them is enough",
                             r->c.features);
        if (!file_exists(r->c.features))
            return error_set(err, ERR_USAGE, "--features %s: classifier, inception or a file of weights",
                             r->c.features);
        weights = r->c.features;
        classifier = is_classifier(weights, digest);
    }
    if (classifier && !*weights && !(weights = found = run_find_classifier(r, err))) return false;
    r->extractor = classifier ? extractor_classifier(r->device, weights, r->c.extract_batch, err)
                              : extractor_inception(r->device, weights, (Protocol)r->c.protocol, r->c.extract_batch,
                                                    err);
    if (classifier && r->extractor && is_classifier(weights, digest))
        r->other_classifier = strcmp(digest, dataset_info(r->train)->digest) != 0;
    free(found);
    if (!r->extractor || !extractor_check(r->extractor, &r->samples.images, err)) return false;
    if (classifier && r->extractor->classes != r->table.classes)
        return error_set(err, ERR_USAGE, "the classifier knows %d classes, %s has %d", r->extractor->classes, r->c.data,
                         r->table.classes);
    return classifier || !r->ask[ASK_FIDELITY] || open_judge(r, err);
}

// Diverged networks and broken weights show here first; no metric is defined on them.
static bool check_finite(const Features *f, Error *err) {
    int64_t row = features_broken(f);
    return row < 0 || error_set(err, ERR_DIVERGED, "%s: the features of image %lld are not finite", f->name,
                                (long long)row);
}

static bool extract_real(Run *r, const Dataset *d, Features *out, Error *err) {
    ImageSet s = run_images(d);
    return reference_features(r->extractor, &s, dataset_info(d)->digest, (Protocol)r->c.protocol, out, err) &&
           check_finite(out, err);
}

bool run_extract(Run *r, Error *err) {
    extractor_table(r->extractor, &r->samples.images, protocol_quantises((Protocol)r->c.protocol), &r->gen);
    bool wanted = r->ask[ASK_FIDELITY] || r->ask[ASK_NEAREST] || r->ask[ASK_DIVERSITY];
    if (!check_finite(&r->gen, err) || !extract_real(r, run_reference(r), &r->ref, err)) return false;
    r->real = &r->ref;
    if (wanted && r->c.split != SPLIT_TEST) {
        if (!extract_real(r, r->test, &r->held_out, err)) return false;
        r->real = &r->held_out;
    }
    return !r->ask[ASK_NEAREST] || extract_real(r, r->lt, &r->lt_features, err);
}
