// train/config.c - the flags of a training run, presets, compatibility, and what a resumed run may change.
#include "train/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/device.h"

static const char *const objective_names[] = { "cbdm", "ddpm", NULL };
static const char *const target_names[] = { "train", "uniform", NULL };
static const char *const label_drop_names[] = { "batch", "sample", NULL };
static const char *const compat_names[] = { "fixed", "official", NULL };
static const char *const resident_names[] = { "auto", "on", "off", NULL };

#define FIELD(f) offsetof(RunConfig, f)
static const Flag own_flags[] = {
    { NULL, NULL, "data", FLAG_STR, 0, NULL, 0, 0 },
    { "data", "builtin", "IDX, CIFAR archive or folder, folder of class folders of PNGs, or builtin", FLAG_STR,
      FIELD(data), NULL, 0, 0 },
    { "imb-type", "exp", "long-tailed subset: exp, step, or none for all images", FLAG_ENUM, FIELD(imb_type),
      imb_type_names, 0, 0 },
    { "imb-factor", "0.01", "images of the rarest class by those of the most frequent", FLAG_F64, FIELD(imb_factor),
      NULL, 1e-6, 1 },
    { "lt-seed", "0", "seed of the subset; 0 is the published one", FLAG_I64, FIELD(lt_seed), NULL, 0, 4294967295.0 },
    { "lt-index", "", "file of lines `class ordinal` in place of the three above", FLAG_STR, FIELD(lt_index), NULL,
      0, 0 },
    { "flip", "true", "mirror images left to right with probability 1/2", FLAG_BOOL, FIELD(flip), NULL, 0, 0 },
    { "drop-last", "false", "skip the last, smaller batch of an epoch, as published", FLAG_BOOL, FIELD(drop_last), NULL,
      0, 0 },
    { NULL, NULL, "objective", FLAG_STR, 0, NULL, 0, 0 },
    { "objective", "cbdm", "cbdm, or ddpm without the balancing term", FLAG_ENUM, FIELD(objective), objective_names,
      0, 0 },
    { "target", "train", "y' is drawn from the training labels' distribution or uniformly", FLAG_ENUM, FIELD(target),
      target_names, 0, 0 },
    { "tau", "1", "weight of the balancing term, times t / T (the paper's tau times T)", FLAG_F64, FIELD(tau), NULL,
      0, 1e6 },
    { "gamma", "0.25", "weight of the commitment part", FLAG_F64, FIELD(gamma), NULL, 0, 1e6 },
    { "label-drop", "0.1", "probability that a label is dropped, for guidance", FLAG_F64, FIELD(label_drop), NULL,
      0, 1 },
    { "label-drop-by", "batch", "batch: a step drops all of its labels or none, as published; sample: each image by a "
      "draw of its own, and those without a label have no balancing term", FLAG_ENUM, FIELD(label_drop_by),
      label_drop_names, 0, 0 },
    { NULL, NULL, "optimisation", FLAG_STR, 0, NULL, 0, 0 },
    { "batch", "48", "images per step", FLAG_INT, FIELD(batch), NULL, 1, 65536 },
    { "micro-batch", "0", "images per pass, gradients are summed; 0: the whole batch", FLAG_INT, FIELD(micro_batch),
      NULL, 0, 65536 },
    { "steps", "300001", "steps in all", FLAG_I64, FIELD(steps), NULL, 1, 1e12 },
    { "lr", "2e-4", "Adam's learning rate", FLAG_F64, FIELD(lr), NULL, 0, 10 },
    { "beta1", "0.9", "decay of Adam's first moment", FLAG_F64, FIELD(beta1), NULL, 0, 0.999999 },
    { "beta2", "0.999", "decay of Adam's second moment", FLAG_F64, FIELD(beta2), NULL, 0, 0.9999999 },
    { "adam-eps", "1e-8", "Adam's epsilon", FLAG_F64, FIELD(adam_eps), NULL, 1e-16, 1 },
    { "grad-clip", "1", "largest norm of the gradient; 0: no limit", FLAG_F64, FIELD(grad_clip), NULL, 0, 1e9 },
    { "warmup", "5000", "steps of linear warm-up from 0", FLAG_I64, FIELD(warmup), NULL, 0, 1e12 },
    { "warmup-cap", "true", "warm up for at most a tenth of the steps; off where --warmup is given", FLAG_BOOL,
      FIELD(warmup_cap), NULL, 0, 0 },
    { "ema-decay", "0.9999", "decay of the weights' moving average", FLAG_F64, FIELD(ema_decay), NULL, 0, 0.9999999 },
    { "ema-ramp", "true", "decay at step s is at most (1 + s) / (10 + s)", FLAG_BOOL, FIELD(ema_ramp), NULL, 0, 0 },
    { "seed", "0", "of initial weights, order of images, noise, dropout", FLAG_I64, FIELD(seed), NULL, 0, 9e15 },
    { "compat", "fixed", "official: as published (drop-last, no warm-up cap, no ema-ramp, --attention separate)",
      FLAG_ENUM, FIELD(compat), compat_names, 0, 0 },
    { NULL, NULL, "run", FLAG_STR, 0, NULL, 0, 0 },
    { "preset", "", "full, demo or quick: other defaults; flags given count over it", FLAG_STR, FIELD(preset), NULL,
      0, 0 },
    { "out", "", "run folder to create", FLAG_STR, FIELD(out), NULL, 0, 0 },
    { "resume", "", "run folder to go on with, from its newest checkpoint", FLAG_STR, FIELD(resume), NULL, 0, 0 },
    { "init-from", "", "start from the averaged weights of RUN, RUN@STEP or a file", FLAG_STR, FIELD(init_from), NULL,
      0, 0 },
    { "device", "auto", "auto, cpu, ref, ref32; null: print parameters, FLOPs and memory, run nothing", FLAG_STR,
      FIELD(device), NULL, 0, 0 },
    { "dtype", "auto", "how activations are stored; auto: bf16 on cuda, f32 elsewhere. Weights are f32 in both",
      FLAG_ENUM, FIELD(dtype), dtype_choices, 0, 0 },
    { "resident", "auto", "keep the data set on the device as bytes and make batches there; auto: on a GPU, if it fits",
      FLAG_ENUM, FIELD(resident), resident_names, 0, 0 },
    { "kernels", "", DEVICE_KERNELS_HELP, FLAG_STR, FIELD(kernels), NULL, 0, 0 },
    { "kernel", "", DEVICE_KERNEL_HELP, FLAG_STR, FIELD(kernel), NULL, 0, 0 },
    { "log-every", "50", "steps between lines in stats.jsonl", FLAG_I64, FIELD(log_every), NULL, 1, 1e12 },
    { "save-every", "5000", "steps between checkpoints", FLAG_I64, FIELD(save_every), NULL, 1, 1e12 },
    { "keep", "3", "checkpoints to keep beside milestones; 0: all", FLAG_I64, FIELD(keep), NULL, 0, 1e6 },
    { "milestone-every", "100000", "checkpoints at multiples of this are never removed; 0: none", FLAG_I64,
      FIELD(milestone_every), NULL, 0, 1e12 },
    { "preview-every", "5000", "steps between sample grids; 0: none", FLAG_I64, FIELD(preview_every), NULL, 0, 1e12 },
    { "preview-steps", "20", "DDIM steps of a preview", FLAG_INT, FIELD(preview_steps), NULL, 1, 100000 },
    { "preview-omega", "0.5", "guidance of a preview", FLAG_F64, FIELD(preview_omega), NULL, 0, 100 },
    { "probe-every", "5000", "steps between losses per class and per tenth of t; 0: none", FLAG_I64, FIELD(probe_every),
      NULL, 0, 1e12 },
    { "probe-images", "200", "images of each such measurement", FLAG_INT, FIELD(probe_images), NULL, 1, 1e6 },
    { "eval-every", "0", "steps between measurements of samples per class, in stats.jsonl; 0: none. One costs "
      "--eval-samples x --eval-steps x 2 forward passes of an image, a step of training about 6 x --batch",
      FLAG_I64, FIELD(eval_every), NULL, 0, 1e12 },
    { "eval-samples", "200", "images of each such measurement, every class alike", FLAG_INT, FIELD(eval_samples), NULL,
      1, 1e6 },
    { "eval-steps", "10", "DDIM steps of such an image", FLAG_INT, FIELD(eval_steps), NULL, 1, 100000 },
    { "eval-omega", "1", "guidance of such an image", FLAG_F64, FIELD(eval_omega), NULL, 0, 100 },
    { "eval-classifier", "", "file of `cbdm eval train-classifier` that judges them and gives the features of FID and "
      "KID; without: the nearest class mean, no FID", FLAG_STR, FIELD(eval_classifier), NULL, 0, 0 },
    { "prepare", "false", "make the run's folder with its initial weights, as the checkpoint of step 0, and end",
      FLAG_BOOL, FIELD(prepare), NULL, 0, 0 },
    { "dump-graph", "false", "list the nodes of the step and end", FLAG_BOOL, FIELD(dump_graph), NULL, 0, 0 },
    { "profile", "false", "time a few steps node by node and end", FLAG_BOOL, FIELD(profile), NULL, 0, 0 },
    { "inject", "", "rehearse a fault, VALUE@STEP:PARAMETER, as in nan@7:head.weight: in that step alone the first "
      "element of the parameter is VALUE", FLAG_STR, FIELD(inject), NULL, 0, 0 },
    { "no-fuse", "false", "run the plain graph, without rewrites", FLAG_BOOL, FIELD(no_fuse), NULL, 0, 0 },
};
#undef FIELD
enum { N_OWN = sizeof own_flags / sizeof own_flags[0], MAX_FLAGS = 128 };

// A preset is a list of flags as a user would type them.
static const struct { const char *preset, *flag, *value; } presets[] = {
    { "full", "ch", "128" },
    { "demo", "image-size", "0" }, { "demo", "ch", "32" }, { "demo", "ch-mult", "1,2,2" }, { "demo", "attn", "2" },
    { "demo", "res-blocks", "1" }, { "demo", "groups", "8" }, { "demo", "dropout", "0" }, { "demo", "flip", "false" },
    { "demo", "batch", "16" }, { "demo", "steps", "3000" }, { "demo", "lr", "1e-3" }, { "demo", "warmup", "100" },
    { "demo", "ema-decay", "0.995" }, { "demo", "tau", "0.1" }, { "demo", "imb-factor", "0.01" },
    { "demo", "save-every", "1000" }, { "demo", "preview-every", "1000" }, { "demo", "probe-every", "1000" },
    { "quick", "steps", "350" }, { "quick", "warmup", "40" }, { "quick", "ema-decay", "0.98" },       // over demo
    { "quick", "save-every", "350" }, { "quick", "preview-every", "0" }, { "quick", "probe-every", "0" },
};
const char *const preset_names[] = { "", "full", "demo", "quick", NULL };

// What a resumed run may change. The rest defines it.
static const char *const changeable[] = {
    "steps", "save-every", "log-every", "preview-every", "probe-every", "eval-every", "eval-samples", "eval-steps",
    "eval-omega", "eval-classifier", "keep", "milestone-every", "device", "dtype", "resident", "resume", NULL
};
// What is not part of a run's definition, and so not of its checkpoints.
static const char *const local[] = { "preset", "out", "resume", "init-from", "device", "kernels", "kernel",
                                     "prepare", "dump-graph", "profile", "inject", NULL };

static bool listed(const char *const *list, const char *name) {
    for (int i = 0; list[i]; i++)
        if (strcmp(list[i], name) == 0) return true;
    return false;
}

const Flag *run_flags(int *n) {
    static Flag all[MAX_FLAGS];
    static int count;
    if (!count) {
        CHECK(n_model_flags + N_OWN <= MAX_FLAGS, "too many flags");
        memcpy(all, own_flags, sizeof own_flags);
        memcpy(all + N_OWN, model_flags, (size_t)n_model_flags * sizeof *all);
        count = N_OWN + n_model_flags;
    }
    *n = count;
    return all;
}

static const Flag *flag_named(const char *name) {
    int n;
    const Flag *flags = run_flags(&n);
    for (int i = 0; i < n; i++)
        if (flags[i].name && strcmp(flags[i].name, name) == 0) return &flags[i];
    return NULL;
}

static bool apply_rows(RunConfig *c, const char *preset, Error *err) {
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++)
        if (strcmp(presets[i].preset, preset) == 0 && !cli_set(flag_named(presets[i].flag), c, presets[i].value, err))
            return false;
    return true;
}

static bool apply_preset(RunConfig *c, Error *err) {
    if (!listed(preset_names, c->preset))
        return error_set(err, ERR_USAGE, "--preset %s: there are full, demo and quick", c->preset);
    bool quick = strcmp(c->preset, "quick") == 0;
    return (!quick || apply_rows(c, "demo", err)) && apply_rows(c, c->preset, err);
}

// A checkpoint or RUN@STEP can be opened, but has no folder to go on in.
static bool resumable(const char *run, Error *err) {
    int64_t *steps;
    int n = checkpoint_list(run, &steps);
    free(steps);
    if (n > 0) return true;
    if (n == 0)
        return error_set(err, ERR_FILE, "--resume %s: the run holds no checkpoint, it ended before its first: start it "
                         "again with --out %s", run, run);
    char *path = checkpoint_find(run, err);
    if (!path) return false;
    free(path);
    return error_set(err, ERR_USAGE, "--resume %s: name the folder of a run; to start a new run from one of its "
                     "checkpoints give --init-from %s", run, run);
}

// The stored configuration becomes the run's; flags that were given must be changeable or say the same.
static bool apply_resume(RunConfig *c, const bool *set, Error *err) {
    RunConfig given = *c;
    int n;
    const Flag *flags = run_flags(&n);
    if (!resumable(c->resume, err)) return false;
    char *path = checkpoint_find(c->resume, err);
    SafeTensors *st = path ? st_open(path, err) : NULL;
    const char *config = st ? st_meta(st, "config") : NULL;
    bool ok = st && (config || error_set(err, ERR_FILE, "%s holds no run configuration: it cannot be resumed; start "
                                         "from it with --init-from", path));
    cli_defaults(flags, n, c);
    model_config_stored(&c->model);
    ok = ok && cli_from_json(flags, n, c, config, path, err);
    for (int i = 0; ok && i < n; i++) {
        if (!flags[i].name || !set[i]) continue;
        char *was = cli_text(&flags[i], c), *now = cli_text(&flags[i], &given);
        bool text = flags[i].kind == FLAG_STR || flags[i].kind == FLAG_LIST;     // the field must point to what stays
        const char *kept = text ? *(const char *const *)((const char *)&given + flags[i].offset) : now;
        if (listed(changeable, flags[i].name) || listed(local, flags[i].name)) ok = cli_set(&flags[i], c, kept, err);
        else if (strcmp(was, now) != 0)
            ok = error_set(err, ERR_USAGE, "--%s %s: the run in %s was started with %s; a resumed run cannot change "
                           "it, but --init-from %s starts a new one from its weights", flags[i].name, now,
                           given.resume, was, given.resume);
        free(was);
        free(now);
    }
    c->resume = given.resume;
    c->out = given.resume;
    if (st) st_close(st);
    free(path);
    return ok;
}

bool run_config_parse(RunConfig *c, int argc, char **argv, Error *err) {
    int n;
    const Flag *flags = run_flags(&n);
    bool set[MAX_FLAGS] = { false };
    cli_defaults(flags, n, c);
    if (!cli_parse(flags, n, c, argc, argv, NULL, NULL, set, err)) return false;
    if (*c->preset) {                                    // once more, over the preset's defaults
        const char *preset = c->preset;
        cli_defaults(flags, n, c);
        c->preset = preset;
        if (!apply_preset(c, err) || !cli_parse(flags, n, c, argc, argv, NULL, NULL, set, err)) return false;
    }
    if (*c->resume) return apply_resume(c, set, err);
    const Flag *warmup = flag_named("warmup"), *cap = flag_named("warmup-cap");
    if (set[warmup - flags] && !set[cap - flags]) c->warmup_cap = false;
    if (c->compat != COMPAT_OFFICIAL) return true;
    static const struct { const char *flag, *value; } official[] = {
        { "drop-last", "true" }, { "warmup-cap", "false" }, { "ema-ramp", "false" }, { "beta-rounding", "float32" },
        { "attention", "separate" } };
    for (size_t i = 0; i < sizeof official / sizeof official[0]; i++) {
        const Flag *f = flag_named(official[i].flag);
        if (!set[f - flags] && !cli_set(f, c, official[i].value, err)) return false;
    }
    return true;
}

Dataset *run_config_data(const RunConfig *c, Split split, Error *err) {
    Dataset *d = dataset_open(c->data, split, err);
    if (d && split == SPLIT_TRAIN) {
        if (*c->lt_index) d = dataset_subset_file(d, c->lt_index, err);
        else d = dataset_subset(d, (ImbType)c->imb_type, c->imb_factor, (uint32_t)c->lt_seed, err);
    }
    if (!d) return NULL;
    const DatasetInfo *i = dataset_info(d);
    int own = i->height > i->width ? i->height : i->width;
    return dataset_pad(d, c->model.image_size ? c->model.image_size : own, err);
}

bool run_config_resolve(RunConfig *c, const DatasetInfo *data, Error *err) {
    UNetConfig u;
    c->model.in_channels = data->channels;
    c->model.image_size = data->height;
    if (c->model.classes > 0 && c->model.classes != data->classes)
        return error_set(err, ERR_USAGE, "--classes %d: the data in %s has %d classes", c->model.classes, data->source,
                         data->classes);
    if (c->model.classes < 0) c->model.classes = data->classes;
    if (c->model.classes == 0 && c->objective == OBJECTIVE_CBDM)
        return error_set(err, ERR_USAGE, "--objective cbdm balances classes: an unconditional network (--classes 0) "
                         "needs --objective ddpm");
    if (data->count < 1) return error_set(err, ERR_FILE, "%s holds no images", data->source);
    if (c->drop_last && data->count < c->batch)
        return error_set(err, ERR_USAGE, "--batch %d with --drop-last: the data has only %lld images", c->batch,
                         (long long)data->count);
    if (c->micro_batch > 0 && c->batch % c->micro_batch)
        return error_set(err, ERR_USAGE, "--micro-batch %d does not divide --batch %d", c->micro_batch, c->batch);
    if (c->preview_steps > c->model.T)
        return error_set(err, ERR_USAGE, "--preview-steps %d: there are only --T %d", c->preview_steps, c->model.T);
    if (c->warmup_cap && c->warmup > c->steps / 10) c->warmup = c->steps / 10;
    c->warmup_cap = false;                               // resolved: a longer resumed run keeps this warm-up
    return model_unet_config(&c->model, &u, err);
}

// no-fuse stays in: it changes the order of sums.
char *run_config_json(const RunConfig *c) {
    int n, m = 0;
    const Flag *flags = run_flags(&n);
    Flag some[MAX_FLAGS];
    for (int i = 0; i < n; i++)
        if (flags[i].name && !listed(local, flags[i].name)) some[m++] = flags[i];
    return cli_json(some, m, c);
}

char *run_config_model_json(const RunConfig *c) { return cli_json(model_flags, n_model_flags, &c->model); }

AdamConfig run_config_adam(const RunConfig *c) {
    return (AdamConfig){ .lr = c->lr, .beta1 = c->beta1, .beta2 = c->beta2, .eps = c->adam_eps,
                         .clip_norm = c->grad_clip, .ema_decay = c->ema_decay, .warmup = c->warmup,
                         .ema_ramp = c->ema_ramp };
}
