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

// By the extractor where that is a classifier, else by the judge.
static void ask_fidelity(Run *r) {
    if (r->judge) {
        ImageSet test = run_images(r->test);
        int32_t *given = classify(r->judge, &r->samples.images);
        take_fidelity(r, given, classify(r->judge, &test));
    } else {
        r->classifier = xasprintf("%s %.12s", r->extractor->name, r->extractor->hash);
        take_fidelity(r, largest_probs(&r->gen), largest_probs(r->real));
    }
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

bool run_recognise(Run *r, Error *err) {
    ImageSet test = run_images(r->test), lt = run_images(r->lt);
    const ImageSet *gen = &r->samples.images;
    if (!choose_recipe(r, err)) return false;
    stop_catch();
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

void run_ask(Run *r) {
    size_t classes = (size_t)r->table.classes;
    r->answers.gen = &r->gen;
    r->answers.train = &r->lt_features;
    r->answers.number = r->samples.number;
    if (r->ask[ASK_FIDELITY]) ask_fidelity(r);
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
}
