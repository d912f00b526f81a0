// core/checkpoint.c - parameters to and from safetensors under the published names and layouts.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/param_impl.h"

// Filters lie as (K,R,S,C) here and as (K,C,R,S) in PyTorch's files: out (k,b,a) = in (k,a,b).
static void transpose_last(const float *in, float *out, int64_t k, int64_t a, int64_t b) {
    for (int64_t i = 0; i < k; i++, in += a * b, out += a * b)
        for (int64_t j = 0; j < b; j++)
            for (int64_t l = 0; l < a; l++) out[j * a + l] = in[l * b + j];
}

void param_read_published(const Tensor *t, float *out) {
    if (t->ndim != 4 || t->shape[1] * t->shape[2] == 1) {
        tensor_read_f32(t, out);
        return;
    }
    float *host = xmalloc((size_t)tensor_numel(t) * sizeof *host);
    tensor_read_f32(t, host);
    transpose_last(host, out, t->shape[0], t->shape[1] * t->shape[2], t->shape[3]);
    free(host);
}

void param_write_published(Tensor *t, const float *in) {
    if (t->ndim != 4 || t->shape[1] * t->shape[2] == 1) {
        tensor_write_f32(t, in);
        return;
    }
    float *host = xmalloc((size_t)tensor_numel(t) * sizeof *host);
    transpose_last(in, host, t->shape[0], t->shape[3], t->shape[1] * t->shape[2]);
    tensor_write_f32(t, host);
    free(host);
}

// The part of parameter p in a buffer, as a tensor.
static Tensor window(const ParamSet *ps, const Param *p, int buffer) {
    Tensor t = p->value;
    char *data = ps->buffer[buffer] ? ps->buffer[buffer]->data : NULL;
    t.data = data ? data + (size_t)p->begin * dtype_size(t.dtype) : NULL;
    return t;
}

Tensor param_momentum(const Param *p) { return window(p->set, p, BUFFER_M); }

static const struct { const char *prefix; int buffer; } parts[] = {
    { "", BUFFER_VALUE }, { "ema.", BUFFER_EMA }, { "adam_m.", BUFFER_M }, { "adam_v.", BUFFER_V },
};
enum { N_PARTS = sizeof parts / sizeof parts[0] };

static void describe(const Param *p, const char *prefix, StTensor *out) {
    const Tensor *v = &p->value;
    *out = (StTensor){ .name = xasprintf("%s%s", prefix, v->name), .type = ST_F32, .ndim = v->ndim };
    for (int i = 0; i < v->ndim; i++) out->shape[i] = v->shape[i];
    if (v->ndim == 4) out->shape[1] = v->shape[3], out->shape[2] = v->shape[1], out->shape[3] = v->shape[2];
}

// Tensor i of the file is parameter i % n of part i / n, converted when it is asked for.
typedef struct { const ParamSet *ps; float *buffer; } SaveSource;
static const void *fetch_tensor(void *arg, int i) {
    const SaveSource *s = arg;
    Tensor w = window(s->ps, s->ps->param[i % s->ps->n], parts[i / s->ps->n].buffer);
    param_read_published(&w, s->buffer);
    return s->buffer;
}

static bool all_finite(const SaveSource *s, const char *path, const StTensor *t, int n, Error *err) {
    for (int i = 0; i < n; i++) {
        const float *data = fetch_tensor((void *)s, i);
        for (size_t j = 0; j < t[i].bytes / sizeof *data; j++)
            if (!isfinite(data[j]))
                return error_set(err, ERR_DIVERGED, "%s is not saved: %s holds a value that is not finite; the last "
                                 "good checkpoint is kept", path, t[i].name);
    }
    return true;
}

bool ckpt_save(const ParamSet *ps, const char *path, const char *const *keys, const char *const *values, int n_meta,
               Error *err) {
    CHECK(ps->use == PARAM_TRAIN && device_real(ps->device) == DT_F32, "only a float training set is saved");
    int n = N_PARTS * ps->n;
    StTensor *t = xcalloc((size_t)n + 2, sizeof *t);
    size_t largest = 0;
    for (int i = 0; i < n; i++) {
        const Param *p = ps->param[i % ps->n];
        describe(p, parts[i / ps->n].prefix, &t[i]);
        t[i].bytes = (size_t)tensor_numel(&p->value) * sizeof(float);
        if (t[i].bytes > largest) largest = t[i].bytes;
    }
    StepState state = param_state_read(ps);
    uint8_t *count = xmalloc((size_t)(8 * ps->n));
    tensor_read(ps->count, count);
    t[n] = (StTensor){ .name = "adam_count", .type = ST_I64, .ndim = 1, .shape = { ps->n }, .data = count,
                       .bytes = (size_t)(8 * ps->n) };
    t[n + 1] = (StTensor){ .name = "state", .type = ST_U8, .ndim = 1, .shape = { sizeof state }, .data = &state,
                           .bytes = sizeof state };
    SaveSource source = { ps, xmalloc(largest) };
    bool ok = all_finite(&source, path, t, n, err) &&
              st_write_fetched(path, t, n + 2, keys, values, n_meta, fetch_tensor, &source, err);
    for (int i = 0; i < n; i++) free((char *)t[i].name);
    free(source.buffer);
    free(count);
    free(t);
    return ok;
}

static bool load_tensor(const SafeTensors *st, const char *where, const Param *p, const char *prefix, Tensor *into,
                        Error *err) {
    StTensor want;
    describe(p, prefix, &want);
    const StTensor *t = st_find(st, want.name);
    size_t bytes = (size_t)want.ndim * sizeof want.shape[0];
    bool same = t && t->ndim == want.ndim && memcmp(t->shape, want.shape, bytes) == 0;
    bool ok = true;
    if (!t)
        ok = error_set(err, ERR_FILE, "%s holds no tensor %s: it is not a checkpoint of this network", where,
                       want.name);
    else if (!same)
        ok = error_set(err, ERR_FILE, "%s: tensor %s has another shape than this configuration's; give the "
                       "configuration it was trained with", where, want.name);
    if (ok) {
        int64_t e = tensor_numel(&p->value);
        float *data = xmalloc((size_t)e * sizeof *data);
        ok = st_read_f32(t, data) ||
             error_set(err, ERR_FILE, "%s: tensor %s holds a number beyond a float's range", where, want.name);
        for (int64_t i = 0; i < e && ok; i++)
            if (!isfinite(data[i]))
                ok = error_set(err, ERR_FILE, "%s: tensor %s holds a value that is not finite", where, want.name);
        if (ok) param_write_published(into, data);
        free(data);
    }
    free((char *)want.name);
    return ok;
}

bool ckpt_load(ParamSet *ps, const SafeTensors *st, const char *where, CkptPart part, Error *err) {
    char first[300];
    snprintf(first, sizeof first, "ema.%s", param_name(ps->param[0]));
    bool has_ema = st_find(st, first) != NULL;
    for (int i = 0; i < ps->n; i++) {
        const Param *p = ps->param[i];
        for (int k = 0; k < N_PARTS; k++) {
            if (!ps->buffer[parts[k].buffer]) continue;
            bool average = parts[k].buffer == BUFFER_EMA;
            if (part != CKPT_ALL && !average && k > 0) continue;       // moments belong to a resumed run only
            const char *prefix = parts[k].prefix;
            if (average && (part == CKPT_WEIGHTS || !has_ema)) prefix = "";
            else if (k == 0 && part == CKPT_EMA && has_ema) prefix = "ema.";
            Tensor w = window(ps, p, parts[k].buffer);
            if (!load_tensor(st, where, p, prefix, &w, err)) return false;
        }
    }
    param_refresh(ps, WEIGHTS_TRAIN);
    param_refresh(ps, WEIGHTS_EMA);
    if (part != CKPT_ALL) return true;
    const StTensor *count = st_find(st, "adam_count"), *state = st_find(st, "state");
    if (!count || count->type != ST_I64 || count->bytes != (size_t)(8 * ps->n) || !state || state->type != ST_U8 ||
        state->bytes != sizeof(StepState))
        return error_set(err, ERR_FILE, "%s holds no optimiser state: it can be sampled from or started from "
                         "(--init-from), not resumed", where);
    tensor_write(ps->count, count->data);
    tensor_write(ps->state, state->data);
    return true;
}
