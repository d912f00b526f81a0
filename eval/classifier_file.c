// eval/classifier_file.c - classifiers in safetensors: weights and statistics by their published names, the channels'
// mean and deviation as input.mean and input.std, the configuration and the data's digest in the metadata.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/classifier_impl.h"

static const char format_name[] = "cbdm-classifier-1";
enum { MAX_TENSORS = 5 * CLASSIFIER_MAX_CONVS + 4 };

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

static void list_tensors(const Classifier *c, TensorList *l) {
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

bool classifier_save(const Classifier *c, const char *path, const char *data_digest, Error *err) {
    TensorList *l = xcalloc(1, sizeof *l);
    list_tensors(c, l);
    char *config = classifier_config_json(&c->cfg);
    const char *const keys[] = { "format", "config", "data_sha256", "program" };
    const char *const values[] = { format_name, config, data_digest, "cbdm " CBDM_VERSION };
    bool ok = all_finite(l, path, err) && st_write(path, l->t, l->n, keys, values, 4, err);
    for (int i = 0; i < l->n; i++) {
        free((char *)l->t[i].name);
        free((void *)l->t[i].data);
    }
    free(config);
    free(l);
    return ok;
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

static bool check_vector(const SafeTensors *st, const char *where, const char *prefix, const char *name, int64_t n,
                         Error *err) {
    char full[80];
    snprintf(full, sizeof full, "%s.%s", prefix, name);
    return check(st, where, full, 1, &n, err);
}

bool classifier_check_tensors(const SafeTensors *st, const char *where, const ClassifierConfig *c, Error *err) {
    static const char *const vectors[] = { "weight", "bias", "running_mean", "running_var" };
    int n = classifier_convs(&c->recipe), expected = 5 * n + 4;
    for (int i = 0; i < n; i++) {
        ConvSpec s = classifier_conv_spec(c, i);
        char name[64];
        snprintf(name, sizeof name, "%s.weight", s.conv);
        if (!check(st, where, name, 4, (int64_t[]){ s.c_out, s.c_in, 3, 3 }, err)) return false;
        for (int v = 0; v < 4; v++)
            if (!check_vector(st, where, s.norm, vectors[v], s.c_out, err)) return false;
    }
    if (!check(st, where, "linear.weight", 2, (int64_t[]){ c->classes, 4 * c->recipe.width }, err) ||
        !check_vector(st, where, "linear", "bias", c->classes, err) ||
        !check_vector(st, where, "input", "mean", c->channels, err) ||
        !check_vector(st, where, "input", "std", c->channels, err))
        return false;
    return st_count(st) == expected ||
           error_set(err, ERR_FILE, "%s holds %d tensors, a classifier of its configuration %d", where, st_count(st),
                     expected);
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
