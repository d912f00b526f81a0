// eval/classifier_recipe.c - the recipe of a classifier: defaults, presets, flags, learning rates, place in the cache.
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "eval/classifier_impl.h"
#include "eval/reference.h"

const ClassifierRecipe classifier_recipe = { .depth = 32, .width = 16, .epochs = 200, .lr = 0.1, .momentum = 0.9,
                                             .weight_decay = 2e-4, .batch = 128, .crop_pad = 4, .flip = true };

bool classifier_preset(const char *name, ClassifierRecipe *r) {
    *r = classifier_recipe;
    if (strcmp(name, "standard") == 0) return true;
    if (strcmp(name, "quick") != 0) return false;
    r->depth = 8;
    r->epochs = 6;
    r->crop_pad = 2;                  // a small network after a few epochs has not learnt its data by heart
    return true;
}

#define FIELD(f) offsetof(ClassifierRecipe, f)
const Flag classifier_recipe_flags[] = {
    { "depth", "32", "layers: 6 k + 2 for k blocks in each of 3 stages", FLAG_INT, FIELD(depth), NULL, 8,
      6 * CLASSIFIER_MAX_BLOCKS + 2 },
    { "width", "16", "channels of the first stage; a multiple of 4", FLAG_INT, FIELD(width), NULL, 4,
      CLASSIFIER_MAX_WIDTH },
    { "epochs", "200", "passes over the data; parts of one are fine", FLAG_F64, FIELD(epochs), NULL, 1e-3, 1e5 },
    { "lr", "0.1", "learning rate between warm-up and the falls at 80% and 90%", FLAG_F64, FIELD(lr), NULL, 1e-12,
      1e6 },
    { "momentum", "0.9", "of SGD", FLAG_F64, FIELD(momentum), NULL, 0, 0.9999 },
    { "weight-decay", "2e-4", "of all parameters", FLAG_F64, FIELD(weight_decay), NULL, 0, 1 },
    { "batch", "128", "images per step", FLAG_INT, FIELD(batch), NULL, 1, 65536 },
    { "crop-pad", "4", "pixels by which crops move; 0: none", FLAG_INT, FIELD(crop_pad), NULL, 0, 64 },
    { "flip", "true", "mirror images by chance", FLAG_BOOL, FIELD(flip), NULL, 0, 0 },
    { "logit-adjust", "0", "this times log class frequency is added to the logits in the loss; 1 for long tails",
      FLAG_F64, FIELD(logit_adjust), NULL, 0, 100 },
    { "seed", "0", "of initial weights, order, crops and flips", FLAG_I64, FIELD(seed), NULL, 0, 9e15 },
};
#undef FIELD
const int classifier_recipe_n_flags = sizeof classifier_recipe_flags / sizeof classifier_recipe_flags[0];

bool classifier_recipe_check(const ClassifierRecipe *r, Error *err) {
    if ((r->depth - 2) % 6)
        return error_set(err, ERR_USAGE, "--depth %d: 6 k + 2 layers are possible, such as 8, 20, 32, 44, 56",
                         r->depth);
    if (r->width % 4) return error_set(err, ERR_USAGE, "--width %d is not a multiple of 4", r->width);
    return true;
}

// ---- configurations as JSON
#define FIELD(f) offsetof(ClassifierConfig, f)
static const Flag image_flags[] = {
    { "classes", "0", "", FLAG_INT, FIELD(classes), NULL, 0, 100000 },
    { "height", "0", "", FLAG_INT, FIELD(height), NULL, 0, 512 },
    { "image-width", "0", "", FLAG_INT, FIELD(width), NULL, 0, 512 },
    { "channels", "0", "", FLAG_INT, FIELD(channels), NULL, 0, 3 },
};
#undef FIELD
enum { N_IMAGE_FLAGS = sizeof image_flags / sizeof image_flags[0], MAX_FLAGS = 32 };

static int all_flags(Flag out[MAX_FLAGS]) {
    memcpy(out, classifier_recipe_flags, sizeof *out * (size_t)classifier_recipe_n_flags);
    memcpy(out + classifier_recipe_n_flags, image_flags, sizeof image_flags);
    return classifier_recipe_n_flags + N_IMAGE_FLAGS;
}

char *classifier_config_json(const ClassifierConfig *c) {
    Flag flags[MAX_FLAGS];
    return cli_json(flags, all_flags(flags), c);
}

bool classifier_config_parse(const char *json, const char *where, ClassifierConfig *out, Error *err) {
    Flag flags[MAX_FLAGS];
    int n = all_flags(flags);
    cli_defaults(flags, n, out);
    if (!cli_from_json(flags, n, out, json, where, err)) return false;
    Error why;
    if (!classifier_recipe_check(&out->recipe, &why))
        return error_set(err, ERR_FILE, "%s: its configuration is wrong: %s", where, why.msg);
    if (out->classes < 1 || out->height < 8 || out->width < 8 || (out->channels != 1 && out->channels != 3))
        return error_set(err, ERR_FILE, "%s: a classifier of %d classes of %dx%dx%d images cannot be: the file is "
                         "damaged", where, out->classes, out->height, out->width, out->channels);
    return true;
}

// ---- steps
int64_t classifier_steps(const ClassifierRecipe *r, int64_t images) {
    double steps = r->epochs * (double)images / r->batch + 0.5;
    return steps < 1 ? 1 : (int64_t)steps;
}

double classifier_lr(const ClassifierRecipe *r, int64_t images, int64_t step) {
    int64_t steps = classifier_steps(r, images), warmup = 5 * images / r->batch;
    if (warmup > steps / 10) warmup = steps / 10;
    double lr = step < warmup ? r->lr * (double)(step + 1) / (double)warmup : r->lr;
    if (10 * step >= 8 * steps) lr *= 0.01;
    if (10 * step >= 9 * steps) lr *= 0.01;
    return lr;
}

// ---- the cache
char *classifier_cache_path(const char *data_digest, const ClassifierRecipe *r, Error *err) {
    char *folder = reference_cache_folder(), *path = NULL;
    if (!folder) {
        error_set(err, ERR_USAGE, "neither XDG_CACHE_HOME nor HOME is set: name the classifier's file with --out");
        return NULL;
    }
    if (dir_make(folder, err)) {
        char *json = cli_json(classifier_recipe_flags, classifier_recipe_n_flags, r);
        char *key = xasprintf("%s %s", data_digest, json), hex[65];
        sha256(key, strlen(key), hex);
        path = xasprintf("%s/resnet%d-%.16s.safetensors", folder, r->depth, hex);
        free(key);
        free(json);
    }
    free(folder);
    return path;
}
