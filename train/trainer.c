// train/trainer.c - building a run's graphs and taking its steps.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "train/trainer_impl.h"

// ---- data
static bool open_data(Trainer *t, Error *err) {
    t->data = run_config_data(t->c, SPLIT_TRAIN, err);
    if (!t->data) return false;
    Error none;
    t->held_out = run_config_data(t->c, SPLIT_TEST, &none);     // optional: probes and evaluations read it
    return run_config_resolve(t->c, dataset_info(t->data), err);
}

static double data_mb(const Trainer *t) {
    double bytes = 0;
    const Dataset *sets[] = { t->data, t->held_out };
    for (int i = 0; i < 2; i++) {
        const DatasetInfo *d = sets[i] ? dataset_info(sets[i]) : NULL;
        if (d) bytes += (double)d->count * (d->height * d->width * d->channels + (int)sizeof *d->labels);
    }
    return bytes / 1e6;
}

static double resident_mb(void) {
    FILE *f = fopen("/proc/self/statm", "r");
    long pages = 0;
    if (!f || fscanf(f, "%*d %ld", &pages) != 1) pages = 0;
    if (f) fclose(f);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1e6;
}

// ---- graphs
static void record_form(Trainer *t, bool dropped) {
    const RunConfig *c = t->c;
    StepForm *f = &t->form[dropped];
    bool micro = t->micro < c->batch, labelled = !dropped && c->model.classes;
    DiffusionStepConfig d = { .batch = t->micro, .labelled = labelled, .balance = c->objective == OBJECTIVE_CBDM,
                              .weighted = c->label_drop_by == DROP_SAMPLE, .tau = c->tau, .gamma = c->gamma,
                              .share = (double)t->micro / c->batch, .dropout = c->model.dropout > 0,
                              .gradients = true, .images = t->images, .flip = c->flip };
    ParamSet *ps = unet_params(t->net);
    AdamConfig adam = run_config_adam(c);
    f->copies = labelled && d.balance ? 2 : 1;
    f->pass = graph_new(t->device, labelled ? "step" : "step without labels", WEIGHTS_TRAIN);
    graph_set_dtype(f->pass, t->dtype);
    if (micro) graph_accumulate(f->pass);
    f->io = diffusion_record_step(f->pass, t->net, t->schedule, &d);
    Tensor *inputs[] = { f->io.x0, f->io.index, f->io.t, f->io.y, f->io.weight, f->io.sample, f->io.augment };
    for (int i = 0; c->profile && i < 7; i++)              // a profile runs the graph again on the same inputs
        if (inputs[i]) graph_output(f->pass, inputs[i]);
    Graph *last = f->pass;
    if (micro) {
        f->begin = graph_new(t->device, "zero gradients", WEIGHTS_TRAIN);
        param_append_zero_grad(ps, f->begin);
        graph_plan(f->begin, t->arena);
        f->end = last = graph_new(t->device, "update", WEIGHTS_TRAIN);
    }
    param_append_adam(ps, last, &adam, labelled);
    op_step_advance(last, param_state(ps));
    graph_plan(f->pass, t->arena);
    if (micro) graph_plan(f->end, t->arena);
}

// What auto stands for becomes part of the run, so that it is resumed with the same.
static bool choose_dtype(Trainer *t, Error *err) {
    if (!graph_choose_dtype(t->device, t->c->dtype, &t->dtype, err)) return false;
    const char *name = dtype_name(t->dtype);
    for (t->c->dtype = 0; strcmp(dtype_choices[t->c->dtype], name) != 0;) t->c->dtype++;
    return true;
}

// Whether the data set is to lie on the device: auto keeps three quarters of what a GPU has free for the step, and on
// the host saves nothing. As with dtype, what auto stands for becomes part of the run: x_t is rounded in another order.
static bool choose_resident(Trainer *t, Error *err) {
    const DatasetInfo *d = dataset_info(t->data);
    DeviceKind kind = device_kind(t->device);
    bool fits = d->count <= INT32_MAX;                     // indices are 32-bit
    if (t->c->resident == RESIDENT_ON && !fits)
        return error_set(err, ERR_USAGE, "--resident on: %lld images are more than a device can index; give --resident "
                         "off", (long long)d->count);
    if (t->c->resident != RESIDENT_AUTO) return true;
    size_t left, total;
    device_memory(t->device, &left, &total);
    fits = fits && (!total || 4.0 * (double)d->count * (d->height * d->width * d->channels) <= (double)left);
    t->c->resident = fits && (kind == DEV_CUDA || kind == DEV_EMU) ? RESIDENT_ON : RESIDENT_OFF;
    return true;
}

static Tensor *upload_images(Device *device, const DatasetInfo *d) {
    Tensor *images = tensor_new(device, "data set", DT_U8, 4,
                                (int64_t[]){ d->count, d->height, d->width, d->channels });
    if (!device_is_null(device)) tensor_write(images, d->images);
    return images;
}

static bool load_start(Trainer *t, Error *err) {
    const char *spec = *t->c->resume ? t->c->resume : t->c->init_from;
    if (!*spec || device_is_null(t->device)) return true;
    char *path = checkpoint_find(spec, err);
    SafeTensors *st = path ? st_open(path, err) : NULL;
    bool ok = st && ckpt_load(unet_params(t->net), st, path, *t->c->resume ? CKPT_ALL : CKPT_EMA, err);
    const char *digest = st ? st_meta(st, "data_sha256") : NULL;
    if (ok && *t->c->resume && digest && strcmp(digest, dataset_info(t->data)->digest) != 0)
        ok = error_set(err, ERR_FILE, "the data in %s is not what %s was trained on: put it back, or start a new run "
                       "with --init-from %s", t->c->data, path, spec);
    char machine[320];
    device_describe(t->device, machine, sizeof machine);
    const char *was = ok && *t->c->resume ? st_meta(st, "machine") : NULL;
    if (was && strcmp(was, machine) != 0)
        log_warn("the run was on [%s] and goes on on [%s]: the same draws, but not the same last bits", was, machine);
    const char *loop = ok && *t->c->resume ? st_meta(st, "loop") : NULL;
    if (loop && !loop_state_parse(&t->loop, loop))
        ok = error_set(err, ERR_FILE, "%s: metadata loop is \"%s\"", path, loop);
    if (st) st_close(st);
    free(path);
    return ok;
}

// For a device that has no memory left: what the run needs, and the batch for which a GPU would have had enough.
static void print_plan(void *arg, FILE *f) {
    const Trainer *t = arg;
    if (!t->net || !t->arena || !arena_bytes(t->arena)) return;
    trainer_report(t, f);
    size_t left, total;
    device_memory(t->device, &left, &total);
    double fits = (double)left / (double)arena_bytes(t->arena) * t->micro;
    if (total && fits >= 1)
        fprintf(f, "there is room for about %d images at once: --batch %d, or --micro-batch %d\n", (int)fits, (int)fits,
                (int)fits);
}

Trainer *trainer_new(RunConfig *c, Error *err) {
    Trainer *t = xcalloc(1, sizeof *t);
    UNetConfig u;
    t->c = c;
    if (c->no_fuse) setenv("CBDM_NO_FUSE", "1", 1);
    if (!open_data(t, err) || !model_unet_config(&c->model, &u, err) || !(t->device = device_open(c->device, err)) ||
        !device_prefer_list(t->device, c->kernels, c->kernel, err) || !choose_dtype(t, err) ||
        (c->eval_every && !eval_open(t, err)) || !choose_resident(t, err)) {
        trainer_free(t);
        return NULL;
    }
    device_set_plan(t->device, print_plan, t);
    t->program_mb = fmax(0, resident_mb() - data_mb(t));
    const DatasetInfo *info = dataset_info(t->data);
    t->micro = c->micro_batch ? c->micro_batch : c->batch;
    t->net = unet_new(&u, t->device);
    t->schedule = model_schedule(&c->model, t->device);
    t->arena = arena_new(t->device);
    t->batcher = batcher_new(c, info);
    if (c->resident == RESIDENT_ON) t->images = upload_images(t->device, info);
    else t->x0 = xmalloc((size_t)t->micro * (size_t)(info->height * info->width * info->channels) * sizeof *t->x0);
    t->ints = xmalloc((size_t)t->micro * 6 * sizeof *t->ints);
    param_seal(unet_params(t->net), PARAM_TRAIN, (uint64_t)c->seed);
    if (c->model.classes) record_form(t, false);
    if (!c->model.classes || c->label_drop_by == DROP_BATCH) record_form(t, true);
    if (c->probe_every) probe_record(t);
    if (c->preview_every) preview_record(t);
    if (c->eval_every) eval_record(t);
    arena_seal(t->arena);
    if (inject_open(t, err) && load_start(t, err)) {
        if (!device_is_null(t->device)) t->begun = t->taken = (int64_t)param_state_read(unet_params(t->net)).step;
        return t;
    }
    trainer_free(t);
    return NULL;
}

void trainer_free(Trainer *t) {
    if (!t) return;
    for (int i = 0; i < 2; i++) {
        graph_free(t->form[i].pass);
        graph_free(t->form[i].begin);
        graph_free(t->form[i].end);
    }
    graph_free(t->probe.graph);
    sampler_free(t->preview);
    eval_free(t);
    arena_free(t->arena);
    unet_free(t->net);
    schedule_free(t->schedule);
    tensor_free(t->images);
    batcher_free(t->batcher);
    dataset_close(t->data);
    dataset_close(t->held_out);
    device_close(t->device);
    free(t->x0);
    free(t->ints);
    free(t);
}

int64_t trainer_steps_done(const Trainer *t) { return t->begun; }
const DatasetInfo *trainer_data(const Trainer *t) { return dataset_info(t->data); }
const Device *trainer_device(const Trainer *t) { return t->device; }

// ---- what it costs
static void line(FILE *f, const char *what, double mb) { fprintf(f, "  %-34s %10.1f MB\n", what, mb); }

void trainer_report(const Trainer *t, FILE *f) {
    const RunConfig *c = t->c;
    const DatasetInfo *d = dataset_info(t->data);
    const ParamSet *ps = unet_params(t->net);
    double buffer = (double)param_buffer_bytes(ps) / 1e6, arena = (double)arena_bytes(t->arena) / 1e6;
    double copies = (double)param_copy_bytes(ps) / 1e6, data = data_mb(t);
    double resident = t->images ? (double)tensor_bytes(t->images) / 1e6 : 0;
    const StepForm *form = &t->form[c->model.classes ? 0 : 1];
    double flops = graph_cost(form->pass).flops * c->batch / t->micro;
    fprintf(f, "device %s, activations in %s, %lld images of %dx%dx%d in %d classes\n", device_name(t->device),
            dtype_name(t->dtype), (long long)d->count, d->height, d->width, d->channels, c->model.classes);
    fprintf(f, "parameters: %lld\n", (long long)param_numel(ps));
    fprintf(f, "FLOPs: %.3f GFLOP a step, %.3f GFLOP an image pass\n", flops / 1e9,
            flops / 1e9 / c->batch / form->copies);
    fprintf(f, "memory:\n");
    line(f, "weights", buffer);
    line(f, "gradients", buffer);
    line(f, "Adam moments", 2 * buffer);
    line(f, "moving average", buffer);
    if (copies > 0) line(f, "bf16 copies of weights", copies);
    line(f, "activations and scratch", arena);
    line(f, "data set", data);
    if (resident > 0) line(f, "data set on the device", resident);
    line(f, "program and libraries", t->program_mb);
    line(f, "all", 5 * buffer + copies + arena + data + resident + t->program_mb);
}

void trainer_dump(const Trainer *t, FILE *f) {
    for (int i = 0; i < 2; i++)
        if (t->form[i].pass) graph_dump(t->form[i].pass, f);
}

void trainer_profile(Trainer *t, FILE *f) {
    double loss[3];
    trainer_step(t, loss);
    const StepForm *form = &t->form[t->c->model.classes ? 0 : 1];
    trainer_feed(t, form, trainer_steps_done(t), 0);
    graph_profile(form->pass, 3, f);
}
