// eval/classifier_verb.c - the verb train-classifier.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "eval/classifier_impl.h"
#include "train/dataset.h"

typedef struct {
    ClassifierRecipe recipe;                      // first: offsets of its flags hold here too
    const char *data, *preset, *out, *device;
    int         imb_type, pad;
    double      imb_factor;
    int64_t     lt_seed;
    bool        bench;
} VerbConfig;
static const char *const preset_names[] = { "standard", "quick", NULL };
#define FIELD(f) offsetof(VerbConfig, f)
static const Flag own_flags[] = {
    { "data", "builtin", "data set: IDX, CIFAR, a folder of class folders, builtin", FLAG_STR, FIELD(data), NULL, 0,
      0 },
    { "out", "", "file to write; without it a place in the cache, by data and recipe", FLAG_STR, FIELD(out), NULL, 0,
      0 },
    { "imb-type", "none", "train on a long-tailed subset", FLAG_ENUM, FIELD(imb_type), imb_type_names, 0, 0 },
    { "imb-factor", "0.01", "images of the rarest class by those of the most frequent", FLAG_F64, FIELD(imb_factor),
      NULL, 1e-6, 1 },
    { "lt-seed", "0", "seed of the subset; 0 is the published one", FLAG_I64, FIELD(lt_seed), NULL, 0, 4294967295.0 },
    { "pad", "0", "pad images with zeros to this size, as the network that is judged was trained; 0: as they are",
      FLAG_INT, FIELD(pad), NULL, 0, 512 },
    { "device", "auto", "auto, cpu, ref, cuda, cuda:1", FLAG_STR, FIELD(device), NULL, 0, 0 },
    { "preset", "standard", "standard, or quick: minutes on a CPU; flags given count over it", FLAG_STR, FIELD(preset),
      NULL, 0, 0 },
    { "bench", "false", "train nothing: answer lines `go K` on standard input with the seconds of one of K steps, "
      "`run K` with those of a pass without gradients", FLAG_BOOL, FIELD(bench), NULL, 0, 0 },
    { NULL, NULL, "recipe", FLAG_STR, 0, NULL, 0, 0 },
};
#undef FIELD
enum { N_OWN = sizeof own_flags / sizeof own_flags[0], MAX_FLAGS = 32 };
static const char usage[] = "cbdm eval train-classifier --data PATH [--preset quick] [--out FILE] [options]";
static const char about[] =
    "Trains a ResNet on real images: extractor of features and judge of labels for `cbdm eval run`. What is trained "
    "already on the same data by the same recipe is not trained again; what was stopped goes on by the same command. "
    "Prints the accuracy on the test images.";

static int all_flags(Flag out[MAX_FLAGS]) {
    CHECK(N_OWN + classifier_recipe_n_flags <= MAX_FLAGS, "too many flags");
    memcpy(out, own_flags, sizeof own_flags);
    memcpy(out + N_OWN, classifier_recipe_flags, sizeof *out * (size_t)classifier_recipe_n_flags);
    return N_OWN + classifier_recipe_n_flags;
}

static bool read_flags(VerbConfig *v, const Flag *flags, int n, int argc, char **argv, Error *err) {
    cli_defaults(flags, n, v);
    if (!cli_parse(flags, n, v, argc - 1, argv + 1, NULL, NULL, NULL, err)) return false;
    const char *preset = v->preset;
    cli_defaults(flags, n, v);
    if (!classifier_preset(preset, &v->recipe)) {
        const char *near = cli_nearest(preset, preset_names, 2);
        return error_set(err, ERR_USAGE, "--preset %s: there are standard and quick%s%s", preset,
                         near ? "; did you mean " : "", near ? near : "");
    }
    bool set[MAX_FLAGS];
    if (!cli_parse(flags, n, v, argc - 1, argv + 1, NULL, NULL, set, err)) return false;   // again, over the preset's
    for (int i = 0; i < n; i++)
        if (set[i] && v->imb_type == IMB_NONE && strcmp(flags[i].name ? flags[i].name : "", "imb-factor") == 0)
            return error_set(err, ERR_USAGE, "--imb-factor without --imb-type: all images are trained on unless that "
                             "says exp or step");
    return classifier_recipe_check(&v->recipe, err);
}

// ---- what is there already
static bool same_training(const Classifier *c, const VerbConfig *v, const DatasetInfo *d) {
    char *was = cli_json(classifier_recipe_flags, classifier_recipe_n_flags, classifier_recipe_of(c));
    char *now = cli_json(classifier_recipe_flags, classifier_recipe_n_flags, &v->recipe);
    bool same = strcmp(was, now) == 0 && strcmp(classifier_data_digest(c), d->digest) == 0;
    free(was);
    free(now);
    return same;
}

// *found: path holds what would be trained. False: it holds something else, which is not overwritten.
static bool look_for(const VerbConfig *v, Device *device, const DatasetInfo *d, const char *path, bool *found,
                     Error *err) {
    Error why;
    *found = false;
    if (!file_exists(path)) return true;
    Classifier *c = classifier_open(device, path, v->recipe.batch, &why);
    *found = c && same_training(c, v, d);
    if (*found) log_info("%s is there already, trained by this recipe on these images", path);
    else if (!*v->out) log_warn("%s is trained anew: %s", path, c ? "it is of another recipe" : why.msg);
    classifier_close(c);
    return *found || !*v->out ||
           error_set(err, ERR_USAGE, "--out %s: there is a file of other data or another recipe; remove it, or give "
                     "another name", path);
}

// ---- training
static void print_accuracy(Classifier *c, const DatasetInfo *d) {
    int64_t *right = xcalloc((size_t)d->classes, sizeof *right), *seen = xcalloc((size_t)d->classes, sizeof *seen);
    int64_t all[2] = { 0 };
    ImageSet s = images_of(d);
    classifier_judge(c, &s, right, seen);
    printf("%-18s %9s %9s %9s\n", "class", "images", "right", "accuracy");
    for (int k = 0; k < d->classes; k++) {
        printf("%-18s %9lld %9lld %9.4f\n", d->class_names[k], (long long)seen[k], (long long)right[k],
               seen[k] ? (double)right[k] / (double)seen[k] : 0.0);
        all[0] += right[k];
        all[1] += seen[k];
    }
    printf("%-18s %9lld %9lld %9.4f\n", "all", (long long)all[1], (long long)all[0], (double)all[0] / (double)all[1]);
    free(right);
    free(seen);
}

static void announce(const VerbConfig *v, const Device *device, const Classifier *c, const DatasetInfo *d) {
    char machine[320];
    device_describe(device, machine, sizeof machine);
    log_info("%s", machine);
    log_info("resnet%d, width %d, %lld parameters; %lld images of %dx%dx%d in %d classes, %lld steps of %d",
             v->recipe.depth, v->recipe.width, (long long)param_numel(c->params), (long long)d->count, d->height,
             d->width, d->channels, d->classes, (long long)classifier_steps(&v->recipe, d->count), v->recipe.batch);
}

static bool same_kind(const DatasetInfo *a, const DatasetInfo *b) {
    return a->height == b->height && a->width == b->width && a->channels == b->channels && a->classes == b->classes;
}

static bool train_and_save(const VerbConfig *v, Device *device, const DatasetInfo *d, const char *path, Error *err) {
    if (!file_can_write(path, err)) return false;
    Classifier *c = classifier_new(device, d->classes, d->height, d->width, d->channels, &v->recipe);
    ImageSet s = images_of(d);
    char *stopped = xasprintf("%s.stopped", path);
    announce(v, device, c, d);
    bool ok = classifier_train_kept(c, &s, 1, false, &(Keep){ stopped, d->digest }, err) &&
              classifier_save(c, path, d->digest, err);
    if (ok) {
        log_info("%s is written", path);
        unlink(stopped);
    }
    free(stopped);
    Error none;
    Dataset *test = ok ? dataset_open(v->data, SPLIT_TEST, &none) : NULL;
    if (test) test = dataset_pad(test, v->pad, &none);
    const DatasetInfo *t = test ? dataset_info(test) : NULL;
    if (t && same_kind(t, d)) print_accuracy(c, t);
    else if (ok) log_info("%s has no test images of this kind: no accuracy is measured", v->data);
    dataset_close(test);
    classifier_close(c);
    return ok;
}

// ---- for tests/peer/classifier_ratio.py and by hand
static void bench(const VerbConfig *v, Device *device, const DatasetInfo *d) {
    Classifier *c = classifier_new(device, d->classes, d->height, d->width, d->channels, &v->recipe);
    int64_t n = (int64_t)v->recipe.batch * d->height * d->width * d->channels;
    float *pixels = xcalloc((size_t)n, sizeof *pixels), *logits = xmalloc((size_t)(v->recipe.batch * d->classes) * 4);
    int32_t *label = xmalloc((size_t)v->recipe.batch * sizeof *label);
    for (int i = 0; i < v->recipe.batch; i++) label[i] = d->labels[i % d->count];
    ImageSet s = images_of(d);
    for (int64_t i = 0, e = n / v->recipe.batch; i < v->recipe.batch; i++)
        image_rows(&s, i % d->count, i % d->count + 1, false, pixels + i * e);
    for (int64_t i = 0; i < n; i++) pixels[i] = pixels[i] / 127.5f - 1;
    char what[4];
    int k;
    printf("ready\n");
    fflush(stdout);
    while (scanf(" %3s %d", what, &k) == 2 && k > 0) {
        double start = now_seconds();
        for (int i = 0; i < k; i++) {
            if (strcmp(what, "go") == 0) classifier_step(c, pixels, label, v->recipe.lr);
            else classifier_run_pixels(c, v->recipe.batch, pixels, NULL, logits);
        }
        float loss;
        tensor_read_f32(c->train.loss, &loss);             // waits for a GPU
        printf("%.6f\n", (now_seconds() - start) / k);
        fflush(stdout);
    }
    free(pixels);
    free(logits);
    free(label);
    classifier_close(c);
}

static bool work(const VerbConfig *v, Device *device, Error *err) {
    Dataset *train = dataset_open(v->data, SPLIT_TRAIN, err);
    if (train) train = dataset_subset(train, (ImbType)v->imb_type, v->imb_factor, (uint32_t)v->lt_seed, err);
    if (train) train = dataset_pad(train, v->pad, err);
    if (!train) return false;
    const DatasetInfo *d = dataset_info(train);
    char *path = NULL;
    bool ok = true, found = false;
    if (d->height < 8 || d->width < 8 || d->height > 512 || d->width > 512)
        ok = error_set(err, ERR_USAGE, "--data %s: images of %dx%d; a classifier takes 8 to 512 pixels a side", v->data,
                       d->height, d->width);
    if (ok && v->bench) {
        bench(v, device, d);
    } else if (ok) {
        path = *v->out ? xstrdup(v->out) : classifier_cache_path(d->digest, &v->recipe, err);
        ok = path && look_for(v, device, d, path, &found, err) &&
             (found || train_and_save(v, device, d, path, err));
    }
    free(path);
    dataset_close(train);
    return ok;
}

int train_classifier_main(int argc, char **argv) {
    VerbConfig v;
    Flag flags[MAX_FLAGS];
    Error err = { 0 };
    int n = all_flags(flags);
    if (cli_wants_help(argc, argv)) {
        cli_help(flags, n, usage, about);
        return 0;
    }
    bool ok = read_flags(&v, flags, n, argc, argv, &err);
    Device *device = ok ? device_open(v.device, &err) : NULL;
    ok = device != NULL;
    if (ok && device_is_null(device))
        ok = error_set(&err, ERR_USAGE, "--device %s plans and computes nothing: a classifier needs another", v.device);
    if (ok && !v.bench) stop_catch();
    ok = ok && work(&v, device, &err);
    if (device) device_close(device);
    if (!ok) log_info("%s%s", err.code == ERR_INTERRUPTED ? "" : "error: ", err.msg);
    return ok ? 0 : err.code;
}
