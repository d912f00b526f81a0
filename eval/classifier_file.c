// eval/classifier_file.c - classifiers in safetensors: weights and statistics by their published names, the channels'
// mean and deviation as input.mean and input.std, the configuration and the data's digest in the metadata. A training
// that was stopped is the same file with another format name, momentum.NAME of each parameter and the steps taken.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/classifier_impl.h"

static const char format_name[] = "cbdm-classifier-1", stopped_name[] = "cbdm-classifier-stopped-1";
enum { MAX_TENSORS = (5 + 3) * CLASSIFIER_MAX_CONVS + 4 + 2 };

// ---- saving
typedef struct { StTensor t[MAX_TENSORS]; int n; } TensorList;

// A row of the file: the tensor's values, filters as (K,C,R,S). The list owns name and data.
static StTensor *push(TensorList *l, char *name, int ndim, const int64_t *shape) {
    StTensor *t = &l->t[l->n++];
    *t = (StTensor){ .name = name, .type = ST_F32, .ndim = ndim, .bytes = sizeof(float) };
    for (int i = 0; i < ndim; i++) {
        t->shape[i] = shape[i];
        t->bytes *= (size_t)shape[i];
    }
    t->data = xmalloc(t->bytes);
    return t;
}

static void push_tensor(TensorList *l, char *name, const Tensor *v) {
    const int64_t *s = v->shape;
    int64_t published[] = { s[0], s[3], s[1], s[2] };
    StTensor *t = push(l, name, v->ndim, v->ndim == 4 ? published : s);
    param_read_published(v, (float *)t->data);
}

static void push_param(TensorList *l, Param *p) { push_tensor(l, xstrdup(param_name(p)), param_value(p)); }

static void list_tensors(const Classifier *c, bool momentum, TensorList *l) {
    for (int i = 0; i < classifier_convs(&c->cfg.recipe); i++) {
        ConvSpec s = classifier_conv_spec(&c->cfg, i);
        push_param(l, c->conv[i].conv);
        push_param(l, c->conv[i].gamma);
        push_param(l, c->conv[i].beta);
        push_tensor(l, xasprintf("%s.running_mean", s.norm), c->conv[i].mean);
        push_tensor(l, xasprintf("%s.running_var", s.norm), c->conv[i].var);
    }
    push_param(l, c->weight);
    push_param(l, c->bias);
    int64_t channels = c->cfg.channels;
    size_t bytes = (size_t)channels * sizeof(float);
    memcpy((void *)push(l, xstrdup("input.mean"), 1, &channels)->data, c->mean, bytes);
    memcpy((void *)push(l, xstrdup("input.std"), 1, &channels)->data, c->std, bytes);
    for (int i = 0; momentum && i < param_count(c->params); i++) {
        const Param *p = param_get(c->params, i);
        Tensor m = param_momentum(p);
        push_tensor(l, xasprintf("momentum.%s", param_name(p)), &m);
    }
}

static bool all_finite(const TensorList *l, const char *path, Error *err) {
    for (int i = 0; i < l->n; i++) {
        const float *x = l->t[i].data;
        for (size_t j = 0; j < l->t[i].bytes / sizeof *x; j++)
            if (!isfinite(x[j]))
                return error_set(err, ERR_DIVERGED, "%s is not written: %s holds a value that is not finite", path,
                                 l->t[i].name);
    }
    return true;
}

// step: of a training that was stopped; -1: it is done.
static bool save(const Classifier *c, const char *path, const char *data_digest, int64_t step, Error *err) {
    TensorList *l = xcalloc(1, sizeof *l);
    list_tensors(c, step >= 0, l);
    char *config = classifier_config_json(&c->cfg), *steps = xasprintf("%lld", (long long)step);
    const char *const keys[] = { "format", "config", "data_sha256", "program", "step" };
    const char *const values[] = { step < 0 ? format_name : stopped_name, config, data_digest, "cbdm " CBDM_VERSION,
                                   steps };
    bool ok = all_finite(l, path, err) && st_write(path, l->t, l->n, keys, values, step < 0 ? 4 : 5, err);
    for (int i = 0; i < l->n; i++) {
        free((char *)l->t[i].name);
        free((void *)l->t[i].data);
    }
    free(config);
    free(steps);
    free(l);
    return ok;
}

bool classifier_save(const Classifier *c, const char *path, const char *data_digest, Error *err) {
    return save(c, path, data_digest, -1, err);
}

bool classifier_save_stopped(const Classifier *c, const char *path, const char *data_digest, int64_t step, Error *err) {
    return save(c, path, data_digest, step, err);
}

// ---- reading
static bool check(const SafeTensors *st, const char *where, const char *name, int ndim, const int64_t *shape,
                  Error *err) {
    const StTensor *t = st_find(st, name);
    if (!t)
        return error_set(err, ERR_FILE, "%s holds no tensor %s: it is not a classifier of its configuration; train it "
                         "again with cbdm eval train-classifier", where, name);
    if (t->ndim != ndim || memcmp(t->shape, shape, sizeof *shape * (size_t)ndim) != 0)
        return error_set(err, ERR_FILE, "%s: tensor %s has another shape than its configuration says", where, name);
    int64_t n = 1;
    for (int i = 0; i < ndim; i++) n *= shape[i];
    float *x = xmalloc((size_t)n * sizeof *x);
    size_t length = strlen(name);
    bool positive = strcmp(name, "input.std") == 0, finite = st_read_f32(t, x), above = true;
    bool variance = length > 11 && strcmp(name + length - 11, "running_var") == 0;
    for (int64_t i = 0; i < n && finite; i++) {
        finite = isfinite(x[i]);
        above = above && !(positive && x[i] <= 0) && !(variance && x[i] < 0);
    }
    free(x);
    if (!finite) return error_set(err, ERR_FILE, "%s: tensor %s holds a value that is not finite", where, name);
    return above || error_set(err, ERR_FILE, "%s: tensor %s holds a value that is not positive", where, name);
}

typedef struct { const SafeTensors *st; const char *where; bool momentum; } Source;

// A parameter, and its momentum where the file is of a stopped training.
static bool check_param(const Source *f, const char *layer, const char *part, int ndim, const int64_t *shape,
                        Error *err) {
    char name[80];
    snprintf(name, sizeof name, "momentum.%s.%s", layer, part);
    return check(f->st, f->where, name + strlen("momentum."), ndim, shape, err) &&
           (!f->momentum || check(f->st, f->where, name, ndim, shape, err));
}

static bool check_vector(const Source *f, const char *layer, const char *part, int64_t n, Error *err) {
    char name[80];
    snprintf(name, sizeof name, "%s.%s", layer, part);
    return check(f->st, f->where, name, 1, &n, err);
}

static bool check_conv_norm(const Source *f, const ConvSpec *s, Error *err) {
    int64_t filter[] = { s->c_out, s->c_in, 3, 3 }, *n = filter;
    return check_param(f, s->conv, "weight", 4, filter, err) && check_param(f, s->norm, "weight", 1, n, err) &&
           check_param(f, s->norm, "bias", 1, n, err) && check_vector(f, s->norm, "running_mean", *n, err) &&
           check_vector(f, s->norm, "running_var", *n, err);
}

static bool check_tensors(const Source *f, const ClassifierConfig *c, Error *err) {
    int n = classifier_convs(&c->recipe), expected = 5 * n + 4 + (f->momentum ? 3 * n + 2 : 0);
    int64_t linear[] = { c->classes, 4 * c->recipe.width };
    for (int i = 0; i < n; i++) {
        ConvSpec s = classifier_conv_spec(c, i);
        if (!check_conv_norm(f, &s, err)) return false;
    }
    if (!check_param(f, "linear", "weight", 2, linear, err) || !check_param(f, "linear", "bias", 1, linear, err) ||
        !check_vector(f, "input", "mean", c->channels, err) || !check_vector(f, "input", "std", c->channels, err))
        return false;
    return st_count(f->st) == expected ||
           error_set(err, ERR_FILE, "%s holds %d tensors, a classifier of its configuration %d", f->where,
                     st_count(f->st), expected);
}

bool classifier_check_tensors(const SafeTensors *st, const char *where, const ClassifierConfig *c, Error *err) {
    return check_tensors(&(Source){ st, where, false }, c, err);
}

// The tensor is there and right: classifier_check_tensors has seen it.
static void read_into(const SafeTensors *st, const char *name, Tensor *into) {
    float *x = xmalloc((size_t)tensor_numel(into) * sizeof *x);
    const StTensor *t = st_find(st, name);
    CHECK(t && st_read_f32(t, x), "%s is gone", name);
    param_write_published(into, x);
    free(x);
}

void classifier_load(Classifier *c, const SafeTensors *st) {
    for (int i = 0; i < param_count(c->params); i++) {
        Param *p = param_get(c->params, i);
        read_into(st, param_name(p), param_value(p));
    }
    for (int i = 0; i < classifier_convs(&c->cfg.recipe); i++) {
        ConvSpec s = classifier_conv_spec(&c->cfg, i);
        char name[64];
        snprintf(name, sizeof name, "%s.running_mean", s.norm);
        read_into(st, name, c->conv[i].mean);
        snprintf(name, sizeof name, "%s.running_var", s.norm);
        read_into(st, name, c->conv[i].var);
    }
    param_refresh(c->params, WEIGHTS_TRAIN);
    st_read_f32(st_find(st, "input.mean"), c->mean);
    st_read_f32(st_find(st, "input.std"), c->std);
}

bool classifier_read_config(const SafeTensors *st, const char *where, ClassifierConfig *out, Error *err) {
    const char *format = st_meta(st, "format"), *config = st_meta(st, "config");
    if (!format || strcmp(format, format_name) != 0 || !config)
        return error_set(err, ERR_FILE, "%s is no classifier: cbdm eval train-classifier makes one", where);
    return classifier_config_parse(config, where, out, err);
}

bool classifier_load_stopped(Classifier *c, const char *path, const char *data_digest, int64_t steps, int64_t *step,
                             Error *err) {
    SafeTensors *st = st_open(path, err);
    if (!st) return false;
    const char *format = st_meta(st, "format"), *config = st_meta(st, "config"), *digest = st_meta(st, "data_sha256");
    const char *text = st_meta(st, "step");
    char *own = classifier_config_json(&c->cfg), *end = NULL;
    long long taken = text ? strtoll(text, &end, 10) : -1;
    bool ok = format && strcmp(format, stopped_name) == 0 && config && strcmp(config, own) == 0 && digest &&
              strcmp(digest, data_digest) == 0 && taken > 0 && taken < steps && !*end;
    if (!ok) error_set(err, ERR_FILE, "%s is of another training", path);
    ok = ok && check_tensors(&(Source){ st, path, true }, &c->cfg, err);
    if (ok) {
        classifier_load(c, st);
        *step = taken;
    }
    for (int i = 0; ok && i < param_count(c->params); i++) {
        Tensor m = param_momentum(param_get(c->params, i));
        char name[80];
        snprintf(name, sizeof name, "momentum.%s", param_name(param_get(c->params, i)));
        read_into(st, name, &m);
    }
    free(own);
    st_close(st);
    return ok;
}
