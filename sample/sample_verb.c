// sample/sample_verb.c - the verb `cbdm sample`: images from a checkpoint, resumable at any moment.
#include "sample/sample_verb.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "models/model.h"
#include "sample/labels.h"
#include "sample/write.h"

typedef struct {
    const char *checkpoint, *omega, *labels, *seeds, *out, *name, *device, *kernels, *kernel;
    int         sampler, steps, variance, batch, weights, dtype;
    double      eta, x0_clip;
    int64_t     seed;
    bool        floats;
} SampleFlags;
static const char *const weight_names[] = { "ema", "train", NULL };
enum { MAX_OMEGAS = 64 };
static const double max_seed = 9007199254740991.0;         // 2^53 - 1: a number in every JSON reader

#define FIELD(f) offsetof(SampleFlags, f)
static const Flag flags[] = {
    { "checkpoint", "", "RUN (its newest), RUN@STEP or a .safetensors file", FLAG_STR, FIELD(checkpoint), NULL, 0, 0 },
    { "out", "", "folder of the images; one begun with the same settings goes on", FLAG_STR, FIELD(out), NULL, 0, 0 },
    { "weights", "ema", "averaged weights or those of the last step", FLAG_ENUM, FIELD(weights), weight_names, 0, 0 },
    { "device", "auto", "auto, cpu, ref, ref32", FLAG_STR, FIELD(device), NULL, 0, 0 },
    { "dtype", "auto", "how activations are stored; auto: bf16 on cuda, f32 elsewhere", FLAG_ENUM, FIELD(dtype),
      dtype_choices, 0, 0 },
    { "kernels", "", DEVICE_KERNELS_HELP, FLAG_STR, FIELD(kernels), NULL, 0, 0 },
    { "kernel", "", DEVICE_KERNEL_HELP, FLAG_STR, FIELD(kernel), NULL, 0, 0 },
    { "batch", "64", "images drawn together; part of what fixes the last bits", FLAG_INT, FIELD(batch), NULL, 1,
      65536 },
    { NULL, NULL, "what is drawn", FLAG_STR, 0, NULL, 0, 0 },
    { "seeds", "0-63", "image numbers, such as 0-49999", FLAG_LIST, FIELD(seeds), NULL, 0, 0 },
    { "seed", "0", "key of all draws: image I is a function of (seed, I)", FLAG_I64, FIELD(seed), NULL, 0, max_seed },
    { "labels", "auto",
      "balanced: image number modulo classes; iid: uniform draws; none; a list that cycles over the image "
      "numbers; @FILE, one a line; auto: balanced, or none for a network without classes",
      FLAG_LIST, FIELD(labels), NULL, 0, 0 },
    { "omega", "0", "guidance strengths, 0: purely conditional; several share their noise", FLAG_LIST, FIELD(omega),
      NULL, 0, 0 },
    { NULL, NULL, "sampler", FLAG_STR, 0, NULL, 0, 0 },
    { "sampler", "ddpm", "ancestral sampling or DDIM", FLAG_ENUM, FIELD(sampler), sampler_names, 0, 0 },
    { "steps", "0", "network evaluations; 0: all T of ddpm, 50 of ddim", FLAG_INT, FIELD(steps), NULL, 0, 100000 },
    { "eta", "0", "ddim: share of the ancestral noise", FLAG_F64, FIELD(eta), NULL, 0, 1 },
    { "variance", "fixedlarge", "ddpm: variance of a step", FLAG_ENUM, FIELD(variance), var_type_names, 0, 0 },
    { "clip-x0", "0", "limit of the predicted image in each step; 0: none, as published", FLAG_F64, FIELD(x0_clip),
      NULL, 0, 1e6 },
    { NULL, NULL, "files", FLAG_STR, 0, NULL, 0, 0 },
    { "float", "false", "also float32 arrays under the published names", FLAG_BOOL, FIELD(floats), NULL, 0, 0 },
    { "name", "saved", "name in those", FLAG_STR, FIELD(name), NULL, 0, 0 },
};
#undef FIELD
enum { N_FLAGS = sizeof flags / sizeof flags[0] };
static const char usage[] = "cbdm sample --checkpoint RUN[@STEP]|FILE --out DIR [options]";
static const char about[] =
    "Draws images: PNGs in folders of their class, samples.npz (arr_0 uint8 NHWC, arr_1 labels), grid.png, "
    "manifest.jsonl; with several --omega in a folder each. A run that was stopped goes on by the same command.";

// ---- what a run is made of
typedef struct {
    SampleFlags  c;
    Model       *model;
    int          steps;
    DType        dtype;
    double       omega[MAX_OMEGAS];
    int          n_omega;
    int64_t     *number;                 // (n)
    int32_t     *label;                  // (n)
    int64_t      n;
    const char  *label_rule;             // "balanced", "iid", "none", or the list as typed
    char        *name[2];                // of the float arrays of the omega at hand: samples, labels
    // progress of one omega
    char         title[32];
    int64_t      finished, to_do;        // images that this process has drawn, of those it found missing
    int          drawing;
    double       began, shown;
} SampleRun;

static bool read_omegas(SampleRun *r, Error *err) {
    for (const char *at = r->c.omega; ; ) {
        char *end;
        double w = strtod(at, &end);
        if (end == at || (*end && *end != ',') || !(w >= -1 && w <= 100))
            return error_set(err, ERR_USAGE, "--omega %s: numbers from -1 to 100, such as 0 or 0,0.8,1.5", r->c.omega);
        for (int i = 0; i < r->n_omega; i++)
            if (r->omega[i] == w) return error_set(err, ERR_USAGE, "--omega %s names %g twice", r->c.omega, w);
        if (r->n_omega == MAX_OMEGAS) return error_set(err, ERR_USAGE, "--omega: more than %d numbers", MAX_OMEGAS);
        r->omega[r->n_omega++] = w + 0.0;                  // -0 is 0
        if (!*end) return true;
        at = end + 1;
    }
}

static bool choose_labels(SampleRun *r, Error *err) {
    int classes = r->model->config.classes > 0 ? r->model->config.classes : 0;
    r->label_rule = r->c.labels;
    r->label = sample_labels(&r->label_rule, r->number, r->n, classes, (uint64_t)r->c.seed, r->model->path, err);
    if (!r->label) return false;
    for (int i = 0; i < r->n_omega; i++)
        if (strcmp(r->label_rule, "none") == 0 && r->omega[i] != 0)
            return error_set(err, ERR_USAGE, "--omega %g guides towards labels, and there are none%s: use --omega 0",
                             r->omega[i], classes ? " (--labels none)" : " in this network");
    return true;
}

static bool check_sampler(SampleRun *r, Error *err) {
    r->steps = sample_steps((SamplerKind)r->c.sampler, r->c.steps, r->model->config.T, r->model->path, err);
    if (r->steps < 0) return false;
    if (r->c.sampler == SAMPLER_DDPM && r->c.eta != 0)
        return error_set(err, ERR_USAGE, "--eta %g belongs to --sampler ddim", r->c.eta);
    if (r->model->config.in_channels != 1 && r->model->config.in_channels != 3)
        return error_set(err, ERR_USAGE, "%s draws images of %d channels; PNGs have 1 or 3", r->model->path,
                         r->model->config.in_channels);
    if (strpbrk(r->c.name, "/ ")) return error_set(err, ERR_USAGE, "--name %s is part of a file name", r->c.name);
    return true;
}

// An average that still remembers the random start draws worse than the weights it averages.
static void warn_of_short_average(const SampleRun *r) {
    const Model *m = r->model;
    if (r->c.weights != 0 || m->ema_decay <= 0 || m->ema_decay >= 1) return;
    double s = (double)m->step, decay = m->ema_ramp ? fmin(m->ema_decay, (1 + s) / (10 + s)) : m->ema_decay;
    if (1 / (1 - decay) > s)
        log_warn("the averaged weights reach back %.0f steps and only %lld are done: they still hold the random start; "
                 "--weights train samples from the weights of the last step", 1 / (1 - decay), (long long)m->step);
}

// ---- settings
// Training images of each class, which whoever judges the samples needs to know; NULL: the checkpoint does not say.
static cJSON *class_counts_of(const Model *m) {
    cJSON *counts = cJSON_CreateArray();
    bool known = false;
    for (int c = 0; c < m->config.classes; c++) {
        known |= m->class_counts[c] > 0;
        cJSON_AddItemToArray(counts, cJSON_CreateNumber((double)m->class_counts[c]));
    }
    if (known) return counts;
    cJSON_Delete(counts);
    return NULL;
}

// Everything that the bits of the images, or the set of files, depend on.
static cJSON *settings_of(const SampleRun *r) {
    const SampleFlags *c = &r->c;
    char digest[65];
    cJSON *s = cJSON_CreateObject(), *machine = cJSON_CreateObject(), *counts = class_counts_of(r->model),
          *omegas = cJSON_CreateDoubleArray(r->omega, r->n_omega);
    const char *isa = getenv("ONEDNN_MAX_CPU_ISA");
    cJSON_AddStringToObject(s, "path", r->model->path);
    cJSON_AddStringToObject(s, "checkpoint", r->model->hash);
    if (counts) cJSON_AddItemToObject(s, "class_counts", counts);
    cJSON_AddStringToObject(s, "weights", weight_names[c->weights]);
    cJSON_AddStringToObject(s, "device", device_name(r->model->device));
    cJSON_AddStringToObject(s, "dtype", dtype_name(r->dtype));
    cJSON_AddNumberToObject(s, "batch", c->batch);
    cJSON_AddStringToObject(s, "seeds", c->seeds);
    cJSON_AddNumberToObject(s, "seed", (double)c->seed);
    cJSON_AddStringToObject(s, "labels", r->label_rule);
    sha256(r->label, (size_t)r->n * sizeof *r->label, digest);
    cJSON_AddStringToObject(s, "label_digest", digest);
    cJSON_AddItemToObject(s, "omega", omegas);
    cJSON_AddStringToObject(s, "sampler", sampler_names[c->sampler]);
    cJSON_AddNumberToObject(s, "steps", r->steps);
    cJSON_AddNumberToObject(s, "eta", c->eta);
    cJSON_AddStringToObject(s, "variance", var_type_names[c->variance]);
    cJSON_AddNumberToObject(s, "clip-x0", c->x0_clip);
    cJSON_AddBoolToObject(s, "float", c->floats);
    cJSON_AddStringToObject(s, "name", c->name);
    cJSON_AddStringToObject(machine, "version", CBDM_VERSION);
    cJSON_AddNumberToObject(machine, "threads", omp_get_max_threads());
    cJSON_AddStringToObject(machine, "ONEDNN_MAX_CPU_ISA", isa ? isa : "");
    cJSON_AddItemToObject(s, "machine", machine);
    return s;
}

// ---- drawing
static void show_progress(SampleRun *r, int step) {
    double now = now_seconds(), part = r->drawing * (double)step / r->steps;
    if (now - r->shown < 0.2) return;
    r->shown = now;
    double done = (double)r->finished + part, rate = done / (now - r->began);
    long long eta = rate > 0 ? (long long)(((double)r->to_do - done) / rate) : 0;
    char line[160];
    snprintf(line, sizeof line, "%s%lld of %lld images, step %d of %d, %.3g images/s, ETA %lld:%02lld:%02lld", r->title,
             (long long)r->finished, (long long)r->to_do, step, r->steps, rate, eta / 3600, eta / 60 % 60, eta % 60);
    log_progress(line);
}

static bool after_step(void *arg, int done, int steps) {
    (void)steps;
    show_progress(arg, done);
    return !stop_requested();
}

static bool all_finite(const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

// Draws what is missing in d, batch after batch.
static bool draw(SampleRun *r, Sampler *sampler, SampleDir *d, Error *err) {
    const ModelConfig *m = &r->model->config;
    int64_t per_image = (int64_t)m->image_size * m->image_size * m->in_channels;
    size_t batch = (size_t)r->c.batch;
    int64_t *index = xmalloc(batch * sizeof *index);
    int32_t *label = xmalloc(batch * sizeof *label);
    uint32_t *number = xmalloc(batch * sizeof *number);
    float *pixels = xmalloc(batch * (size_t)per_image * sizeof *pixels);
    bool ok = true;
    r->finished = 0;
    r->to_do = sample_dir_left(d);
    r->began = r->shown = now_seconds();
    for (int64_t i = 0; i < r->n && ok;) {
        int n = 0;
        for (; i < r->n && n < r->c.batch; i++) {
            if (sample_dir_done(d, i)) continue;
            index[n] = i;
            label[n] = r->label[i];
            number[n++] = (uint32_t)r->number[i];
        }
        if (n == 0) break;
        r->drawing = n;
        ok = !stop_requested() && sampler_run(sampler, n, label, number, pixels, after_step, r);
        if (!ok) {
            error_set(err, ERR_INTERRUPTED,
                      "stopped with %lld of %lld images still to draw%s; the same command goes on from here",
                      (long long)sample_dir_left(d), (long long)r->n, r->n_omega > 1 ? " for this omega" : "");
            break;
        }
        for (int j = 0; j < n && ok; j++)
            if (!all_finite(pixels + j * per_image, per_image))
                ok = error_set(err, ERR_DIVERGED,
                               "image %u (label %d) is not finite: %s diverged in training, or --omega or "
                               "the sampler is too far from what it knows",
                               (unsigned)number[j], (int)label[j], r->model->path);
        ok = ok && sample_dir_put(d, n, index, pixels, err);
        r->finished += n;
    }
    log_progress(NULL);
    double seconds = now_seconds() - r->began;
    if (r->finished)
        log_info("%lld images in %.1f s, %.3g images/s", (long long)r->finished, seconds,
                 (double)r->finished / seconds);
    free(index);
    free(label);
    free(number);
    free(pixels);
    return ok;
}

// ---- folders
static char *omega_dir(const SampleRun *r, int k) {
    return r->n_omega == 1 ? xstrdup(r->c.out) : xasprintf("%s/omega-%g", r->c.out, r->omega[k]);
}

// {method}_{omega}_samples_ema_{name}.npy, omega as Python prints it.
static char *array_name(const SampleRun *r, int k, const char *what) {
    char omega[40];
    snprintf(omega, sizeof omega, "%g", r->omega[k]);
    if (!strpbrk(omega, ".e")) strcat(omega, ".0");
    const char *method = r->omega[k] != 0 ? "cfg" : strcmp(r->label_rule, "none") == 0 ? "uncond" : "cond";
    return xasprintf("%s_%s_%s_%s_%s.npy", method, omega, what, weight_names[r->c.weights], r->c.name);
}

typedef struct { Arena *arena; Sampler *plain, *guided; } Samplers;

// Both kinds of graph that the omegas need, in one arena.
static Samplers record(const SampleRun *r) {
    Model *m = r->model;
    SamplerConfig c = { .kind = (SamplerKind)r->c.sampler, .steps = r->steps, .batch = r->c.batch, .eta = r->c.eta,
                        .variance = (VarType)r->c.variance, .x0_clip = r->c.x0_clip, .seed = (uint64_t)r->c.seed,
                        .weights = WEIGHTS_EMA,                // the one set of weights that a Model holds
                        .dtype = r->dtype };
    Samplers s = { .arena = arena_new(m->device) };
    for (int k = 0; k < r->n_omega; k++) {
        Sampler **kind = r->omega[k] != 0 ? &s.guided : &s.plain;
        c.omega = r->omega[k];
        if (!*kind) *kind = sampler_new(m->device, m->net, m->schedule, &c, s.arena);
    }
    arena_seal(s.arena);
    return s;
}

static bool draw_omega(SampleRun *r, int k, Samplers *s, Error *err) {
    const Model *m = r->model;
    char *dir = omega_dir(r, k), *samples = array_name(r, k, "samples"), *labels = array_name(r, k, "labels");
    SampleSet set = { .n = r->n, .number = r->number, .label = r->label, .h = m->config.image_size,
                      .w = m->config.image_size, .channels = m->config.in_channels,
                      .classes = m->config.classes > 0 ? m->config.classes : 0, .class_names = m->class_names,
                      .row_per_class = strcmp(r->label_rule, "balanced") == 0, .omega = r->omega[k],
                      .sampler = sampler_names[r->c.sampler], .checkpoint = m->hash,
                      .samples_npy = r->c.floats ? samples : NULL, .labels_npy = r->c.floats ? labels : NULL };
    SampleDir *d = sample_dir_open(dir, &set, err);
    bool ok = d != NULL;
    if (ok && sample_dir_complete(d)) {
        log_info("%s: all %lld images are there", dir, (long long)r->n);
    } else if (ok) {
        int64_t left = sample_dir_left(d);
        if (left < r->n) log_info("%s: %lld of %lld images are there", dir, (long long)(r->n - left), (long long)r->n);
        if (left && !s->arena) {
            *s = record(r);
            log_info("%d steps of %s, batch %d, %.1f MB for activations", r->steps, sampler_names[r->c.sampler],
                     r->c.batch, (double)arena_bytes(s->arena) / 1e6);
        }
        Sampler *sampler = r->omega[k] != 0 ? s->guided : s->plain;
        if (left && r->omega[k] != 0) sampler_set_omega(sampler, r->omega[k]);
        if (r->n_omega > 1) snprintf(r->title, sizeof r->title, "omega %g: ", r->omega[k]);
        ok = (!left || draw(r, sampler, d, err)) && sample_dir_finish(d, err);
        if (ok) log_info("%s: %lld images", dir, (long long)r->n);
    }
    sample_dir_close(d);
    free(dir);
    free(samples);
    free(labels);
    return ok;
}

static bool sample_all(SampleRun *r, Error *err) {
    const Model *m = r->model;
    if (!check_sampler(r, err) || !choose_labels(r, err)) return false;
    log_info("%s: step %lld, %s weights, %d classes, %d x %d x %d", m->path, (long long)m->step,
             weight_names[r->c.weights], m->config.classes < 0 ? 0 : m->config.classes, m->config.image_size,
             m->config.image_size, m->config.in_channels);
    warn_of_short_average(r);
    cJSON *settings = settings_of(r);
    int lock = sample_claim(r->c.out, settings, err);
    cJSON_Delete(settings);
    if (lock < 0) return false;
    Samplers s = { 0 };
    bool ok = true;
    for (int k = 0; k < r->n_omega && ok; k++) ok = draw_omega(r, k, &s, err);
    sampler_free(s.plain);
    sampler_free(s.guided);
    arena_free(s.arena);
    close(lock);
    return ok;
}

int sample_main(int argc, char **argv) {
    SampleRun r = { 0 };
    Error err = { 0 };
    cli_defaults(flags, N_FLAGS, &r.c);
    if (cli_wants_help(argc, argv)) {
        cli_help(flags, N_FLAGS, usage, about);
        return 0;
    }
    bool ok = cli_parse(flags, N_FLAGS, &r.c, argc - 1, argv + 1, NULL, NULL, NULL, &err);
    if (ok && (!*r.c.checkpoint || !*r.c.out))
        ok = error_set(&err, ERR_USAGE, "usage: %s (--help lists the options)", usage);
    ok = ok && read_omegas(&r, &err) && (r.number = sample_numbers(r.c.seeds, &r.n, &err));
    Device *device = ok ? device_open(r.c.device, &err) : NULL;
    ok = device != NULL;
    if (ok && device_is_null(device))
        ok = error_set(&err, ERR_USAGE, "--device %s plans and computes nothing: images need another", r.c.device);
    ok = ok && device_prefer_list(device, r.c.kernels, r.c.kernel, &err) &&
         graph_choose_dtype(device, r.c.dtype, &r.dtype, &err);
    stop_catch();
    ok = ok && (r.model = model_open(device, r.c.checkpoint, r.c.weights ? CKPT_WEIGHTS : CKPT_EMA, &err)) &&
         sample_all(&r, &err);
    model_close(r.model);
    if (device) device_close(device);
    free(r.number);
    free(r.label);
    if (!ok) log_info("%s%s", err.code == ERR_INTERRUPTED ? "" : "error: ", err.msg);
    return ok ? 0 : err.code;
}
