// train/replay.c - recomputing a case of the published code: training updates, then guided reverse steps.
#include "train/replay.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/cli.h"
#include "core/file.h"
#include "models/diffusion.h"

typedef struct { const char *output, *device, *kernels, *kernel; int dtype, attention; } ReplayConfig;
static const Flag flags[] = {
    { "output", "", "safetensors file to write the results to", FLAG_STR, offsetof(ReplayConfig, output), NULL, 0, 0 },
    { "device", "auto", "auto, cpu, ref, ref32 or ref64", FLAG_STR, offsetof(ReplayConfig, device), NULL, 0, 0 },
    { "dtype", "f32", "how activations are stored; auto: bf16 on cuda, f32 elsewhere", FLAG_ENUM,
      offsetof(ReplayConfig, dtype), dtype_choices, 0, 0 },
    { "attention", "separate", "separate, as published, or merged: see `cbdm train --help`", FLAG_ENUM,
      offsetof(ReplayConfig, attention), attention_choices, 0, 0 },
    { "kernels", "", DEVICE_KERNELS_HELP, FLAG_STR, offsetof(ReplayConfig, kernels), NULL, 0, 0 },
    { "kernel", "", DEVICE_KERNEL_HELP, FLAG_STR, offsetof(ReplayConfig, kernel), NULL, 0, 0 },
};
enum { N_FLAGS = sizeof flags / sizeof flags[0], MAX_RESULTS = 4096 };

typedef struct {
    const char  *path;
    SafeTensors *st;
    Device      *device;
    DType        dtype;
    AttentionForm attention;
    UNet        *net;
    Schedule    *schedule;
    Arena       *arena;
    int          batch, steps;
    bool         balance;
    StTensor     result[MAX_RESULTS];
    int          n_results;
} Replay;

// ---- the case's metadata
static bool meta_number(const Replay *r, const char *key, double *out, Error *err) {
    const char *text = st_meta(r->st, key);
    char *end;
    if (text) *out = strtod(text, &end);
    if (!text || end == text || *end || !isfinite(*out))
        return error_set(err, ERR_FILE, "%s: metadata %s is %s, not a number", r->path, key, text ? text : "missing");
    return true;
}

static bool meta_int(const Replay *r, const char *key, int min, int max, int *out, Error *err) {
    double v = 0;
    if (!meta_number(r, key, &v, err)) return false;
    if (v != floor(v) || v < min || v > max)
        return error_set(err, ERR_FILE, "%s: metadata %s is %g, legal are whole numbers from %d to %d", r->path, key, v,
                         min, max);
    *out = (int)v;
    return true;
}

static bool meta_list(const Replay *r, const char *key, int largest, int *out, int max, int *n, Error *err) {
    const char *text = st_meta(r->st, key);
    *n = 0;
    while (text && *text) {
        char *end;
        long v = strtol(text, &end, 10);
        if (end == text || v < 0 || v > largest || *n == max)
            return error_set(err, ERR_FILE, "%s: metadata %s", r->path, key);
        out[(*n)++] = (int)v;
        text = *end == ',' ? end + 1 : end;
    }
    return text || error_set(err, ERR_FILE, "%s: metadata %s is missing", r->path, key);
}

static bool read_unet_config(const Replay *r, UNetConfig *u, Error *err) {
    int attn[UNET_MAX_LEVELS], n_attn, augment;
    *u = (UNetConfig){ .groups = 32, .attention = r->attention };
    if (!meta_int(r, "ch", 2, 4096, &u->channels, err) || !meta_int(r, "img_size", 1, 1024, &u->image_size, err) ||
        !meta_int(r, "in_channels", 1, 64, &u->in_channels, err) ||
        !meta_int(r, "num_class", 0, 100000, &u->classes, err) ||
        !meta_int(r, "num_res_blocks", 1, 16, &u->res_blocks, err) || !meta_int(r, "augm", 0, 1, &augment, err) ||
        !meta_list(r, "ch_mult", 64, u->mult, UNET_MAX_LEVELS, &u->levels, err) ||
        !meta_list(r, "attn", UNET_MAX_LEVELS - 1, attn, UNET_MAX_LEVELS, &n_attn, err))
        return false;
    for (int i = 0; i < n_attn; i++) u->attn_levels |= 1u << attn[i];
    u->augment = augment;
    return unet_check(u, err);
}

// ---- tensors in and out
static bool need(const Replay *r, const char *name, int64_t numel, float *out, Error *err) {
    const StTensor *t = st_find(r->st, name);
    int64_t n = 1;
    for (int i = 0; t && i < t->ndim; i++) n *= t->shape[i];
    if (!t || n != numel || !st_read_f32(t, out))
        return error_set(err, ERR_FILE, "%s: tensor %s with %lld numbers is missing", r->path, name, (long long)numel);
    return true;
}

static bool need_ints(const Replay *r, const char *name, int64_t numel, int64_t below, int32_t *out, Error *err) {
    const StTensor *t = st_find(r->st, name);
    int64_t n = 1, *wide = xmalloc((size_t)numel * sizeof *wide);
    for (int i = 0; t && i < t->ndim; i++) n *= t->shape[i];
    bool ok = t && n == numel && st_read_i64(t, wide);
    for (int64_t i = 0; ok && i < numel; i++) {
        ok = wide[i] >= 0 && wide[i] < below;
        out[i] = (int32_t)wide[i];
    }
    free(wide);
    return ok || error_set(err, ERR_FILE, "%s: tensor %s with %lld whole numbers below %lld is missing", r->path, name,
                           (long long)numel, (long long)below);
}

static void keep(Replay *r, char *name, StType type, int64_t numel, void *data) {
    CHECK(r->n_results < MAX_RESULTS, "too many results");
    r->result[r->n_results++] = (StTensor){ .name = name, .type = type, .ndim = 1, .shape = { numel }, .data = data,
                                            .bytes = (size_t)numel * st_type_size(type) };
}

static void keep_number(Replay *r, char *name, double value) {
    double *data = xmalloc(sizeof *data);
    *data = value;
    keep(r, name, ST_F64, 1, data);
}

static void swap_axes(const float *in, float *out, int64_t n, int64_t a, int64_t b) {    // (n,a,b) -> (n,b,a)
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < a; j++)
            for (int64_t k = 0; k < b; k++) out[(i * b + k) * a + j] = in[(i * a + j) * b + k];
}

// Images first..first+batch-1 of an (N,H,W,C) tensor, as NCHW.
static void keep_images(Replay *r, char *name, const Tensor *t, int first) {
    int64_t hw = tensor_pixels(t), c = t->shape[3], n = (int64_t)r->batch * hw * c;
    float *all = xmalloc((size_t)tensor_numel(t) * sizeof *all), *out = xmalloc((size_t)n * sizeof *out);
    tensor_read_f32(t, all);
    swap_axes(all + first * hw * c, out, r->batch, hw, c);
    free(all);
    keep(r, name, ST_F32, n, out);
}

static bool feed_images(Replay *r, const char *name, Tensor *t, Error *err) {
    int64_t n = tensor_numel(t);
    float *in = xmalloc((size_t)n * sizeof *in), *out = xmalloc((size_t)n * sizeof *out);
    bool ok = need(r, name, n, in, err);
    if (ok) {
        swap_axes(in, out, t->shape[0], t->shape[3], tensor_pixels(t));
        tensor_write_f32(t, out);
    }
    free(in);
    free(out);
    return ok;
}

// ---- training updates
static bool run_update(Replay *r, Graph *g, const DiffusionStep *d, int k, bool dropped, Error *err) {
    char name[64];
    int n = r->batch, classes = unet_config(r->net)->classes;
    int32_t *ints = xcalloc((size_t)(2 * n), sizeof *ints);
    bool ok = true;
#define IN(what) (snprintf(name, sizeof name, "step%d.in." what, k), name)
    ok = ok && feed_images(r, IN("x0"), d->x0, err) && feed_images(r, IN("noise"), d->eps, err);
    ok = ok && need_ints(r, IN("t"), n, r->schedule->T, ints, err);
    if (ok) tensor_write(d->t, ints);
    if (d->y) {
        ok = ok && need_ints(r, IN("label"), n, classes, ints, err);
        if (r->balance) ok = ok && need_ints(r, IN("label_balanced"), n, classes, ints + n, err);
        if (ok) tensor_write(d->y, ints);
    }
    if (d->augment) {
        float *augment = xcalloc((size_t)(9 * n), sizeof *augment);
        ok = ok && need(r, IN("augment"), 9 * n, augment, err);
        if (ok) tensor_write_f32(d->augment, augment);
        free(augment);
    }
#undef IN
    free(ints);
    if (!ok) return false;
    graph_run(g);
    double loss[3];
    tensor_read_f64(d->loss, loss);
    keep_images(r, xasprintf("step%d.out.eps", k), d->eps_hat, 0);
    if (r->balance && !dropped) keep_images(r, xasprintf("step%d.out.eps_balanced", k), d->eps_hat, n);
    keep_number(r, xasprintf("step%d.out.loss_ddpm", k), loss[1]);
    keep_number(r, xasprintf("step%d.out.loss_reg", k), loss[2]);
    keep_number(r, xasprintf("step%d.out.grad_norm", k), (double)param_state_read(unet_params(r->net)).grad_norm);
    return true;
}

static void keep_params(Replay *r, const char *prefix, Tensor *(*which)(Param *)) {
    ParamSet *ps = unet_params(r->net);
    for (int i = 0; i < param_count(ps); i++) {
        const Tensor *t = which(param_get(ps, i));
        float *data = xmalloc((size_t)tensor_numel(t) * sizeof *data);
        param_read_published(t, data);
        keep(r, xasprintf("%s%s", prefix, param_name(param_get(ps, i))), ST_F32, tensor_numel(t), data);
    }
}

static Tensor *gradient_of(Param *p) { return param_value(p)->grad; }

static bool run_training(Replay *r, Graph *graph[2], const DiffusionStep step[2], Error *err) {
    for (int k = 0; k < r->steps; k++) {
        char name[64];
        int32_t dropped;
        snprintf(name, sizeof name, "step%d.in.drop_label", k);
        if (!need_ints(r, name, 1, 2, &dropped, err)) return false;
        if (!run_update(r, graph[dropped], &step[dropped], k, dropped, err)) return false;
        if (k > 0) continue;
        keep_params(r, "step0.out.grad.", gradient_of);
        int64_t table = (int64_t)r->schedule->T * unet_config(r->net)->channels;      // frozen: no gradient
        keep(r, xstrdup("step0.out.grad.time_embedding.timembedding.0.weight"), ST_F32, table,
             xcalloc((size_t)table, sizeof(float)));
    }
    keep_params(r, "final.param.", param_value);
    keep_params(r, "final.ema.", param_ema);
    return true;
}

// ---- reverse steps
typedef struct { Graph *graph; Tensor *x, *t, *y, *coef, *sample; } ReverseGraph;

static ReverseGraph record_reverse(Replay *r, bool guided) {
    const UNetConfig *u = unet_config(r->net);
    int64_t n = r->batch, image[] = { n, u->image_size, u->image_size, u->in_channels };
    Graph *g = graph_new(r->device, "reverse step", WEIGHTS_EMA);
    graph_set_dtype(g, r->dtype);
    ReverseGraph v = { .graph = g };
    v.x = tensor_new(r->device, "x", DT_F32, 4, image);
    v.coef = tensor_new(r->device, "coef", DT_U8, 1, (int64_t[]){ sizeof(SamplerCoef) });
    v.t = graph_input(g, "t", DT_I32, 1, (int64_t[]){ n });
    v.sample = graph_input(g, "sample", DT_I32, 1, (int64_t[]){ n });
    if (u->classes) v.y = graph_input(g, "y", DT_I32, 1, (int64_t[]){ guided ? 2 * n : n });
    Tensor *hat = unet_forward(r->net, g, v.x, v.t, v.y, NULL, NULL);
    op_sampler_step(g, v.x, hat, guided, v.coef, v.sample, param_state(unet_params(r->net)));
    graph_rewrite_forward(g);
    graph_plan(g, r->arena);
    return v;
}

static bool run_reverse(Replay *r, const ReverseGraph *v, double omega, VarType var, Error *err) {
    int n = r->batch, classes = unet_config(r->net)->classes, steps = 0;
    const StTensor *times = st_find(r->st, "sample.in.t");
    if (times && times->ndim == 1 && times->shape[0] < 1000) steps = (int)times->shape[0];
    int32_t *t = xcalloc((size_t)steps + 1, sizeof *t), *y = xcalloc((size_t)(2 * n), sizeof *y);
    int64_t e = tensor_numel(v->x);
    float *x = xmalloc((size_t)e * sizeof *x), *noise = xmalloc((size_t)e * sizeof *noise);
    float *z = xmalloc((size_t)e * sizeof *z);
    bool ok = need_ints(r, "sample.in.t", steps, r->schedule->T, t, err) &&
              feed_images(r, "sample.in.x", v->x, err) &&
              (!v->y || need_ints(r, "sample.in.label", n, classes, y, err));
    for (int i = 0; i < n; i++) y[n + i] = -1;
    param_refresh(unet_params(r->net), WEIGHTS_EMA);
    for (int j = 0; ok && j < steps; j++) {
        SamplerCoef c = schedule_ddpm_step(r->schedule, t[j], var, omega, 0);
        float sigma = c.sigma;
        c.sigma = 0;                                       // the mean first; the case brings its own noise
        tensor_write(v->coef, &c);
        int32_t *now = xmalloc((size_t)n * sizeof *now);
        for (int i = 0; i < n; i++) now[i] = t[j];
        tensor_write(v->t, now);
        free(now);
        if (v->y) tensor_write(v->y, y);
        graph_run(v->graph);
        keep_images(r, xasprintf("sample.out.mean%d", j), v->x, 0);
        char name[64];
        snprintf(name, sizeof name, "sample.in.noise%d", j);
        ok = need(r, name, e, noise, err);
        swap_axes(noise, z, n, v->x->shape[3], tensor_pixels(v->x));
        tensor_read_f32(v->x, x);
        for (int64_t i = 0; ok && i < e; i++) x[i] += sigma * z[i];
        tensor_write_f32(v->x, x);
        keep_images(r, xasprintf("sample.out.x%d", j), v->x, 0);
    }
    free(t);
    free(y);
    free(x);
    free(noise);
    free(z);
    return ok;
}

static bool load_weights(Replay *r, Error *err) {
    ParamSet *ps = unet_params(r->net);
    for (int i = 0; i < param_count(ps); i++) {
        Param *p = param_get(ps, i);
        char name[256];
        snprintf(name, sizeof name, "param.%s", param_name(p));
        int64_t n = tensor_numel(param_value(p));
        float *data = xmalloc((size_t)n * sizeof *data);
        bool ok = need(r, name, n, data, err);
        if (ok) {
            param_write_published(param_value(p), data);
            param_write_published(param_ema(p), data);
        }
        free(data);
        if (!ok) return false;
    }
    return true;
}

static bool replay(Replay *r, const char *output, Error *err) {
    UNetConfig u;
    double beta_1 = 0, beta_T = 0, tau = 0, gamma = 0, omega = 0, lr = 0, decay = 0, clip = 0;
    int T = 0, warmup = 0;
    const char *format = st_meta(r->st, "format"), *var = st_meta(r->st, "var_type");
    const char *objective = st_meta(r->st, "objective");
    if (!format || strcmp(format, "cbdm-replay-1") != 0)
        return error_set(err, ERR_FILE, "%s is no replay case: its metadata says format %s, not cbdm-replay-1", r->path,
                         format ? format : "(none)");
    if (!read_unet_config(r, &u, err) || !meta_int(r, "T", 2, 100000, &T, err) ||
        !meta_int(r, "warmup", 0, 1 << 30, &warmup, err) || !meta_int(r, "batch", 1, 4096, &r->batch, err) ||
        !meta_int(r, "steps", 1, 1000, &r->steps, err) || !meta_number(r, "beta_1", &beta_1, err) ||
        !meta_number(r, "beta_T", &beta_T, err) || !meta_number(r, "tau", &tau, err) ||
        !meta_number(r, "gamma", &gamma, err) || !meta_number(r, "omega", &omega, err) ||
        !meta_number(r, "lr", &lr, err) || !meta_number(r, "ema_decay", &decay, err) ||
        !meta_number(r, "grad_clip", &clip, err))
        return false;
    r->balance = objective && strcmp(objective, "cbdm") == 0;
    r->schedule = schedule_linear(r->device, T, beta_1, beta_T, BETA_FLOAT32);
    r->net = unet_new(&u, r->device);
    r->arena = arena_new(r->device);
    param_seal(unet_params(r->net), PARAM_TRAIN, 0);
    if (!load_weights(r, err)) return false;
    AdamConfig adam = { .lr = lr, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .clip_norm = clip, .ema_decay = decay,
                        .warmup = warmup };
    Graph *graph[2];
    DiffusionStep step[2];
    for (int dropped = 0; dropped < 2; dropped++) {
        graph[dropped] = graph_new(r->device, dropped ? "plain step" : "step", WEIGHTS_TRAIN);
        graph_set_dtype(graph[dropped], r->dtype);
        DiffusionStepConfig c = { .batch = r->batch, .labelled = !dropped, .balance = r->balance, .tau = tau,
                                  .gamma = gamma, .share = 1, .noise_input = true, .gradients = true };
        step[dropped] = diffusion_record_step(graph[dropped], r->net, r->schedule, &c);
        param_append_adam(unet_params(r->net), graph[dropped], &adam, !dropped);
        graph_plan(graph[dropped], r->arena);
    }
    ReverseGraph v = record_reverse(r, omega > 0 && u.classes);
    arena_seal(r->arena);
    bool ok = run_training(r, graph, step, err) &&
              run_reverse(r, &v, omega, var && strcmp(var, "fixedsmall") == 0 ? VAR_FIXEDSMALL : VAR_FIXEDLARGE, err) &&
              st_write(output, r->result, r->n_results, NULL, NULL, 0, err);
    graph_free(graph[0]);
    graph_free(graph[1]);
    graph_free(v.graph);
    tensor_free(v.x);
    tensor_free(v.coef);
    return ok;
}

int replay_main(int argc, char **argv) {
    ReplayConfig c;
    Error err = { 0 };
    const char *words[2];
    int n_words = 2;
    cli_defaults(flags, N_FLAGS, &c);
    if (cli_wants_help(argc, argv)) {
        cli_help(flags, N_FLAGS, "cbdm replay CASE --output OUT", "Recompute a case of the published code.");
        return 0;
    }
    bool ok = cli_parse(flags, N_FLAGS, &c, argc - 1, argv + 1, words, &n_words, NULL, &err);
    if (ok && (n_words != 1 || !*c.output))
        ok = error_set(&err, ERR_USAGE, "usage: cbdm replay CASE --output OUT [--device D]");
    if (ok && strncmp(c.device, "null", 4) == 0)
        ok = error_set(&err, ERR_USAGE, "--device %s computes nothing: a replay needs cpu or a reference device",
                       c.device);
    Replay *r = xcalloc(1, sizeof *r);
    r->attention = (AttentionForm)c.attention;
    if (ok) ok = (r->path = words[0], r->st = st_open(r->path, &err)) && (r->device = device_open(c.device, &err)) &&
                 device_prefer_list(r->device, c.kernels, c.kernel, &err) &&
                 graph_choose_dtype(r->device, c.dtype, &r->dtype, &err) && replay(r, c.output, &err);
    unet_free(r->net);
    schedule_free(r->schedule);
    arena_free(r->arena);
    for (int i = 0; i < r->n_results; i++) {
        free((char *)r->result[i].name);
        free((void *)r->result[i].data);
    }
    if (r->device) device_close(r->device);
    if (r->st) st_close(r->st);
    free(r);
    if (!ok) log_info("error: %s", err.msg);
    return ok ? 0 : err.code;
}
