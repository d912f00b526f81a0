// eval/run_ask.c - the long-tail questions of `cbdm eval run`, as far as they are asked.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/run_impl.h"

// ---- label fidelity
// What a classifier calls each image; caller frees.
static int32_t *classify(Classifier *c, const ImageSet *s) {
    int k = classifier_classes(c);
    float *logits = xmalloc((size_t)s->n * (size_t)k * sizeof *logits);
    classifier_run(c, s, NULL, logits);
    Features f = { .n = s->n, .classes = k, .probs = logits };         // the largest is the same of both
    int32_t *given = largest_probs(&f);
    free(logits);
    return given;
}

static void take_fidelity(Run *r, int32_t *given, int32_t *real_given) {
    const DatasetInfo *d = dataset_info(r->test);
    fidelity_of(&r->table, r->samples.images.label, given, r->samples.images.n, d->labels, real_given, d->count,
                &r->fidelity);
    r->answers.fidelity = &r->fidelity;
    r->answers.classifier = r->classifier;
    free(given);
    free(real_given);
}

// By the extractor where it is a classifier, else by the one that --classifier names or the cache holds.
static bool ask_fidelity(Run *r, Error *err) {
    if (strncmp(r->extractor->name, "classifier", strlen("classifier")) == 0) {
        r->classifier = xasprintf("%s %.12s", r->extractor->name, r->extractor->hash);
        take_fidelity(r, largest_probs(&r->gen), largest_probs(r->real));
        return true;
    }
    char *found = *r->c.classifier ? NULL : run_find_classifier(r, err), hash[65];
    const char *path = *r->c.classifier ? r->c.classifier : found;
    Classifier *c = path && sha256_file(path, hash, err) ? classifier_open(r->device, path, r->c.extract_batch, err)
                                                         : NULL;
    bool ok = c != NULL;
    if (ok && classifier_classes(c) != r->table.classes)
        ok = error_set(err, ERR_USAGE, "%s knows %d classes, %s has %d", path, classifier_classes(c), r->c.data,
                       r->table.classes);
    if (ok) {
        ImageSet test = run_images(r->test);
        r->classifier = xasprintf("classifier resnet%d %.12s", classifier_recipe_of(c)->depth, hash);
        int32_t *given = classify(c, &r->samples.images);
        take_fidelity(r, given, classify(c, &test));
    }
    classifier_close(c);
    free(found);
    return ok;
}

// ---- recognition
const char *const clf_preset_names[] = { "auto", "standard", "quick", NULL };

static bool choose_recipe(Run *r, Error *err) {
    const char *preset = clf_preset_names[r->c.clf_preset];
    if (r->c.clf_preset == 0) preset = device_kind(r->device) == DEV_CUDA ? "standard" : "quick";
    CHECK(classifier_preset(preset, &r->recipe), "no preset %s", preset);
    if (r->c.clf_depth) r->recipe.depth = r->c.clf_depth;
    if (r->c.clf_epochs > 0) r->recipe.epochs = r->c.clf_epochs;
    r->recipe.flip = r->recipe.flip && r->c.clf_flip;
    r->recipe.seed = (uint64_t)r->c.clf_seed;
    r->answers.recipe = &r->recipe;
    if (!classifier_recipe_check(&r->recipe, err)) return false;
    log_info("recognition by ResNet-%d, %g epochs", r->recipe.depth, r->recipe.epochs);
    return true;
}

static bool ask_recognition(Run *r, Error *err) {
    ImageSet test = run_images(r->test), lt = run_images(r->lt);
    const ImageSet *gen = &r->samples.images;
    if (!choose_recipe(r, err)) return false;
    if (r->ask[ASK_CAS]) {
        r->cas.generated = true;
        log_info("a classifier of the samples alone");
        if (!recognise(r->device, &r->table, &r->recipe, gen, 1, &test, &r->cas, err)) return false;
        r->answers.cas = &r->cas;
    }
    if (r->ask[ASK_DOWNSTREAM]) {
        if (!downstream(r->device, &r->table, &r->recipe, &lt, gen, &test, r->downstream, err)) return false;
        r->answers.downstream = r->downstream;
    }
    return true;
}

bool run_ask(Run *r, Error *err) {
    size_t classes = (size_t)r->table.classes;
    r->answers.gen = &r->gen;
    r->answers.train = &r->lt_features;
    r->answers.number = r->samples.number;
    if (r->ask[ASK_FIDELITY] && !ask_fidelity(r, err)) return false;
    if (r->ask[ASK_NEAREST]) {
        nearest_of(&r->table, &r->gen, r->real, &r->lt_features, &r->nearest);
        r->answers.nearest = &r->nearest;
    }
    if (r->ask[ASK_DIVERSITY]) {
        r->answers.diversity = xmalloc(classes * sizeof *r->answers.diversity);
        r->answers.real_diversity = xmalloc(classes * sizeof *r->answers.real_diversity);
        diversity_of(r->table.classes, &r->gen, r->answers.diversity);
        diversity_of(r->table.classes, r->real, r->answers.real_diversity);
    }
    return (!r->ask[ASK_CAS] && !r->ask[ASK_DOWNSTREAM]) || ask_recognition(r, err);
}
