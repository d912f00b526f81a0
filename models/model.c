// models/model.c - model configuration, checkpoints in run folders, and opening a network for sampling.
#include "models/model.h"

#include <errno.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *const rounding_names[] = { "float32", "double", NULL };
#define FIELD(f) offsetof(ModelConfig, f)
const Flag model_flags[] = {
    { NULL, NULL, "network", FLAG_STR, 0, NULL, 0, 0 },
    { "image-size", "32", "pixels a side; smaller images are padded; 0: the data's own size", FLAG_INT,
      FIELD(image_size), NULL, 0, 4096 },
    { "in-channels", "3", "image channels; set from the data", FLAG_INT, FIELD(in_channels), NULL, 1, 64 },
    { "ch", "128", "channels of the first level", FLAG_INT, FIELD(ch), NULL, 2, 4096 },
    { "ch-mult", "1,2,2,2", "channel factor of each level", FLAG_LIST, FIELD(ch_mult), NULL, 0, 0 },
    { "attn", "1", "levels with attention, from 0; empty: the middle only", FLAG_LIST, FIELD(attn), NULL, 0, 0 },
    { "res-blocks", "2", "residual blocks per level", FLAG_INT, FIELD(res_blocks), NULL, 1, 16 },
    { "groups", "32", "groups of the group normalization", FLAG_INT, FIELD(groups), NULL, 1, 4096 },
    { "classes", "-1", "label classes; 0: unconditional; -1: from the data", FLAG_INT, FIELD(classes), NULL, -1, 1e6 },
    { "augment-input", "false", "the 9-number augmentation input", FLAG_BOOL, FIELD(augment), NULL, 0, 0 },
    { "dropout", "0.1", "dropout probability in residual blocks", FLAG_F64, FIELD(dropout), NULL, 0, 0.9 },
    { "attention", "merged", "merged: the attention's four 1x1 convolutions as two, by products of their weights; the "
      "same function", FLAG_ENUM, FIELD(attention), attention_choices, 0, 0 },
    { NULL, NULL, "diffusion", FLAG_STR, 0, NULL, 0, 0 },
    { "T", "1000", "steps of the forward process", FLAG_INT, FIELD(T), NULL, 2, 100000 },
    { "beta-1", "1e-4", "first beta of the linear schedule", FLAG_F64, FIELD(beta_1), NULL, 1e-12, 0.999 },
    { "beta-T", "0.02", "last beta of the linear schedule", FLAG_F64, FIELD(beta_T), NULL, 1e-12, 0.999 },
    { "beta-rounding", "float32", "betas as published, or in double throughout", FLAG_ENUM, FIELD(beta_rounding),
      rounding_names, 0, 0 },
};
#undef FIELD
const int n_model_flags = sizeof model_flags / sizeof model_flags[0];

// ---- lists
static bool list_add(int64_t **out, int64_t *n, int64_t max_count, int64_t from, int64_t to) {
    if (to < from || to - from >= max_count - *n) return false;
    *out = xrealloc(*out, (size_t)(*n + to - from + 1) * sizeof **out);
    for (int64_t v = from; v <= to; v++) (*out)[(*n)++] = v;
    return true;
}

int64_t *list_parse(const char *flag, const char *text, int64_t min, int64_t max, int64_t max_count, int64_t *n,
                    Error *err) {
    int64_t *out = xmalloc(sizeof *out);
    *n = 0;
    for (const char *at = text; *at;) {
        char *end;
        long long from = strtoll(at, &end, 10), to = from;
        bool ok = end != at;
        if (ok && *end == '-') {
            at = end + 1;
            to = strtoll(at, &end, 10);
            ok = end != at;
        }
        ok = ok && from >= min && to <= max && (*end == 0 || (*end == ',' && end[1])) &&
             list_add(&out, n, max_count, from, to);
        if (!ok) {
            free(out);
            error_set(err, ERR_USAGE, "%s %s: a list of numbers from %lld to %lld such as 1,2,2 or 0-63, at most %lld "
                      "of them", flag, text, (long long)min, (long long)max, (long long)max_count);
            return NULL;
        }
        at = *end ? end + 1 : end;
    }
    return out;
}

void model_config_stored(ModelConfig *c) { c->attention = ATTENTION_SEPARATE; }

bool model_unet_config(const ModelConfig *c, UNetConfig *u, Error *err) {
    *u = (UNetConfig){ .image_size = c->image_size, .in_channels = c->in_channels, .channels = c->ch,
                       .res_blocks = c->res_blocks, .groups = c->groups, .classes = c->classes < 0 ? 0 : c->classes,
                       .augment = c->augment, .dropout = c->dropout, .attention = (AttentionForm)c->attention };
    int64_t n;
    int64_t *list = list_parse("--ch-mult", c->ch_mult, 1, 64, UNET_MAX_LEVELS, &n, err);
    if (!list) return false;
    u->levels = (int)n;
    for (int i = 0; i < n; i++) u->mult[i] = (int)list[i];
    free(list);
    list = list_parse("--attn", c->attn, 0, UNET_MAX_LEVELS - 1, UNET_MAX_LEVELS, &n, err);
    if (!list) return false;
    for (int i = 0; i < n; i++) u->attn_levels |= 1u << list[i];
    free(list);
    if (c->beta_1 > c->beta_T)
        return error_set(err, ERR_USAGE, "--beta-1 %g is above --beta-T %g", c->beta_1, c->beta_T);
    return unet_check(u, err);
}

Schedule *model_schedule(const ModelConfig *c, Device *d) {
    return schedule_linear(d, c->T, c->beta_1, c->beta_T, (BetaRounding)c->beta_rounding);
}

// ---- run folders
char *checkpoint_path(const char *run, int64_t step) {
    return xasprintf("%s/checkpoints/step-%09lld.safetensors", run, (long long)step);
}

static int ascending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

int checkpoint_list(const char *run, int64_t **steps) {
    char *dir = xasprintf("%s/checkpoints", run);
    DIR *d = opendir(dir);
    if (!d && errno == ENOMEM) out_of_memory(sizeof(struct dirent));       // not to be taken for an empty run
    free(dir);
    *steps = NULL;
    if (!d) return -1;
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) {
        long long step;
        int used = 0;
        if (sscanf(e->d_name, "step-%lld.safetensors%n", &step, &used) != 1 || !used || e->d_name[used]) continue;
        *steps = xrealloc(*steps, (size_t)(n + 1) * sizeof **steps);
        (*steps)[n++] = step;
    }
    closedir(d);
    if (n) qsort(*steps, (size_t)n, sizeof **steps, ascending);
    return n;
}

// The newest checkpoint of a run that opens; damaged ones are passed over with a warning.
static char *newest(const char *run, Error *err) {
    int64_t *steps;
    int n = checkpoint_list(run, &steps);
    if (n <= 0) {
        error_set(err, ERR_FILE, "%s holds no checkpoint: name a run folder, RUN@STEP or a .safetensors file", run);
        free(steps);
        return NULL;
    }
    char *path = NULL;
    for (int i = n - 1; i >= 0 && !path; i--) {
        path = checkpoint_path(run, steps[i]);
        SafeTensors *st = st_open(path, err);
        if (st) {
            st_close(st);
            break;
        }
        log_warn("%s%s", err->msg, i ? "; the checkpoint before it is used" : "");
        free(path);
        path = NULL;
    }
    free(steps);
    return path;
}

char *checkpoint_find(const char *spec, Error *err) {
    struct stat s;
    const char *at = strrchr(spec, '@');
    if (stat(spec, &s) == 0) return S_ISDIR(s.st_mode) ? newest(spec, err) : xstrdup(spec);
    if (!at) {
        error_set(err, ERR_FILE, "checkpoint %s is not there: name a run folder, RUN@STEP or a .safetensors file",
                  spec);
        return NULL;
    }
    char *run = xstrdup(spec), *end;
    run[at - spec] = 0;
    long long step = strtoll(at + 1, &end, 10);
    char *path = *end || end == at + 1 ? NULL : checkpoint_path(run, step);
    if (!path || stat(path, &s) != 0) {
        int64_t *steps;
        int n = checkpoint_list(run, &steps);
        error_set(err, ERR_FILE, "run %s holds no checkpoint of step %s; the newest of its %d is of step %lld", run,
                  at + 1, n < 0 ? 0 : n, n > 0 ? (long long)steps[n - 1] : -1LL);
        free(steps);
        free(path);
        path = NULL;
    }
    free(run);
    return path;
}

// ---- a network for sampling
// Two JSON arrays of a checkpoint's metadata, texts and numbers; what is absent or of another type becomes the class's
// number, and no image.
static void read_classes(const char *names, const char *counts, int classes, char **name, int64_t *count) {
    JsonReader r;
    json_start(&r, names ? names : "[]", names ? strlen(names) : 2);
    bool more = json_enter(&r, '[');
    for (int i = 0; i < classes; i++) {
        more = more && json_item(&r);
        name[i] = more && json_peek(&r) == '"' ? json_string(&r) : NULL;
        if (!name[i]) name[i] = xasprintf("%d", i);
    }
    json_start(&r, counts ? counts : "[]", counts ? strlen(counts) : 2);
    more = json_enter(&r, '[');
    for (int i = 0; i < classes; i++) {
        uint64_t images = 0;
        more = more && json_item(&r) && json_u64(&r, &images) && images < (uint64_t)1 << 50;
        count[i] = more ? (int64_t)images : 0;
    }
}

static bool read_config(Model *m, const SafeTensors *st, Error *err) {
    const char *format = st_meta(st, "format"), *model = st_meta(st, "model"), *step = st_meta(st, "step");
    if (!format || strcmp(format, "cbdm-checkpoint-1") != 0 || !model)
        return error_set(err, ERR_FILE, "%s is not a checkpoint of this program: metadata format is %s, not "
                         "cbdm-checkpoint-1", m->path, format ? format : "missing");
    cli_defaults(model_flags, n_model_flags, &m->config);
    model_config_stored(&m->config);
    if (!cli_from_json(model_flags, n_model_flags, &m->config, model, m->path, err)) return false;
    m->step = step ? strtoll(step, NULL, 10) : 0;
    const char *decay = st_meta(st, "ema_decay"), *ramp = st_meta(st, "ema_ramp");
    m->ema_decay = decay ? strtod(decay, NULL) : 0;
    m->ema_ramp = ramp && strcmp(ramp, "true") == 0;
    int classes = m->config.classes < 1 ? 1 : m->config.classes;
    m->class_names = xcalloc((size_t)classes, sizeof *m->class_names);
    m->class_counts = xcalloc((size_t)classes, sizeof *m->class_counts);
    read_classes(st_meta(st, "class_names"), st_meta(st, "class_counts"), classes, m->class_names, m->class_counts);
    return true;
}

Model *model_open(Device *d, const char *spec, CkptPart part, Error *err) {
    Model *m = xcalloc(1, sizeof *m);
    m->device = d;
    m->path = checkpoint_find(spec, err);
    SafeTensors *st = m->path ? st_open(m->path, err) : NULL;
    UNetConfig u;
    bool ok = st && read_config(m, st, err) && model_unet_config(&m->config, &u, err);
    if (ok) {
        m->net = unet_new(&u, d);
        m->schedule = model_schedule(&m->config, d);
        param_seal(unet_params(m->net), PARAM_EMA_ONLY, 0);
        ok = ckpt_load(unet_params(m->net), st, m->path, part, err) && (m->hash = xmalloc(65));
        uint8_t *bytes = NULL;
        size_t n;
        if (ok) ok = file_read(m->path, (size_t)1 << 40, &bytes, &n, err);
        if (ok) sha256(bytes, n, m->hash);
        free(bytes);
    }
    if (st) st_close(st);
    if (ok) return m;
    model_close(m);
    return NULL;
}

void model_close(Model *m) {
    if (!m) return;
    for (int i = 0; m->class_names && i < (m->config.classes < 1 ? 1 : m->config.classes); i++) free(m->class_names[i]);
    free(m->class_names);
    free(m->class_counts);
    free(m->path);
    free(m->hash);
    unet_free(m->net);
    schedule_free(m->schedule);
    free(m);
}
