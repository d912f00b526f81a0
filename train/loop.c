// train/loop.c - the training loop: progress, statistics, checkpoints, signals, and the policy on values not finite.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "train/trainer_impl.h"

enum { SAVES_FAILED = 3 };

// ---- what goes on in a resumed run
char *loop_state_text(const LoopState *s) {
    char *watch = watch_text(&s->watch);
    char *text = xasprintf("%a %a %a %lld %s", s->sum[0], s->sum[1], s->sum[2], (long long)s->n, watch);
    free(watch);
    return text;
}

bool loop_state_parse(LoopState *s, const char *text) {
    long long n;
    int length = 0;
    if (sscanf(text, "%la %la %la %lld%n", &s->sum[0], &s->sum[1], &s->sum[2], &n, &length) != 4) return false;
    s->n = n;
    return watch_parse(&s->watch, text + length);
}

static bool save(const Trainer *t, RunDir *dir, int64_t step, Error *err) {
    char *loop = loop_state_text(&t->loop);
    bool ok = run_dir_save(dir, t->c, dataset_info(t->data), unet_params(t->net), step, loop, err);
    free(loop);
    return ok;
}

// ---- what the user sees
typedef struct { double start, last_log; int64_t first_step, last_step; } Meter;

static void clock_text(double seconds, char out[32]) {
    unsigned s = seconds < 0 ? 0 : seconds > 3.5e9 ? 3500000000u : (unsigned)seconds;
    if (s >= 3600) snprintf(out, 32, "%uh%02um", s / 3600, s / 60 % 60);
    else snprintf(out, 32, "%um%02us", s / 60, s % 60);
}

static void show_progress(const Trainer *t, const Meter *m, int64_t step, const double loss[3]) {
    double elapsed = now_seconds() - m->start, rate = (double)(step - m->first_step) / elapsed;
    char eta[32], text[200];
    clock_text((double)(t->c->steps - step) / rate, eta);
    snprintf(text, sizeof text, "step %lld/%lld  loss %.4f = denoising %.4f + balancing %.5f  %.1f images/s  ETA %s",
             (long long)step, (long long)t->c->steps, loss[0], loss[1], loss[2], rate * t->c->batch, eta);
    log_progress(text);
}

// JSON has no numbers that are not finite.
static const char *json_real(double v, char text[32]) {
    snprintf(text, 32, isfinite(v) ? "%.9g" : "null", v);
    return text;
}

static void write_stats(Trainer *t, RunDir *dir, Meter *m, int64_t step, const StepState *s) {
    LoopState *l = &t->loop;
    double now = now_seconds(), n = (double)l->n;
    char part[4][32];
    char *text = xasprintf("{\"step\": %lld, \"loss\": %s, \"denoising\": %s, \"balancing\": %s, \"grad_norm\": %s, "
                           "\"lr\": %.9g, \"skipped\": %lld, \"spikes\": %lld, \"images_per_second\": %.4g}",
                           (long long)step, json_real(l->sum[0] / n, part[0]), json_real(l->sum[1] / n, part[1]),
                           json_real(l->sum[2] / n, part[2]), json_real((double)s->grad_norm, part[3]), (double)s->lr,
                           (long long)s->skipped, (long long)l->watch.spikes,
                           (double)(step - m->last_step) * t->c->batch / (now - m->last_log));
    run_dir_stat(dir, text);
    free(text);
    l->sum[0] = l->sum[1] = l->sum[2] = 0;
    l->n = 0;
    m->last_log = now;
    m->last_step = step;
}

// A step that is not finite does not spoil the means of those beside it.
static void add_losses(LoopState *l, const double loss[3]) {
    if (!isfinite(loss[0]) || !isfinite(loss[1]) || !isfinite(loss[2])) return;
    for (int i = 0; i < 3; i++) l->sum[i] += loss[i];
    l->n++;
}

// An update whose gradient is not finite was refused on the device; too many end the run.
static bool look_at(Trainer *t, RunDir *dir, const StepResult *r, int64_t skipped_before, Error *err) {
    Watch *w = &t->loop.watch;
    char why[WATCH_TEXT];
    double norm = (double)r->state.grad_norm;
    WatchFinding found = watch_step(w, r->step, r->loss[0], norm, r->state.skipped != skipped_before, why);
    if (found == WATCH_FINE) return true;
    if (found == WATCH_SPIKE) {
        log_warn("spike at step %lld: %s", (long long)r->step, why);
        return true;
    }
    char *json = skipped_json(t, r), *path = run_dir_skipped(dir, r->step, json);
    log_warn("step %lld is skipped: loss %s, gradient norm %s%s%s", (long long)r->step,
             isfinite(r->loss[0]) ? "finite" : "not finite", isfinite(norm) ? "finite" : "not finite",
             path ? "; its batch: " : "", path ? path : "");
    if (found == WATCH_DIVERGED)
        error_set(err, ERR_DIVERGED, "training diverged: the loss or its gradient is not finite at step %lld (%lld in "
                  "a row); the weights before it are saved%s%s; start again from an earlier checkpoint with "
                  "--init-from and a lower --lr", (long long)r->step, (long long)w->bad_in_a_row,
                  path ? ", its batch is in " : "", path ? path : "");
    free(json);
    free(path);
    return found == WATCH_SKIPPED;
}

// How many steps may be begun whose results are not known. On the host each is known as soon as it is begun. On a GPU
// the host runs ahead, and still all is as if it waited for every step: no more are begun than must be bad, all of
// them, to end the run, so that a run that ends has made no step after the one that ended it; and where something
// looks at the device's memory (a checkpoint, a preview, a probe, an evaluation) nothing is begun before all is known
// and done.
static bool may_begin(const Trainer *t, int64_t known) {
    const RunConfig *c = t->c;
    int64_t ahead = trainer_steps_done(t) - known, at = known + ahead;
    bool looks = at % c->save_every == 0 || (c->probe_every && at % c->probe_every == 0) ||
                 (c->preview_every && at % c->preview_every == 0) || (c->eval_every && at % c->eval_every == 0);
    if (at >= c->steps || stop_requested() || c->prepare) return false;
    return ahead == 0 || (!looks && ahead < watch_bad_left(&t->loop.watch));
}

bool trainer_run(Trainer *t, RunDir *dir, Error *err) {
    const RunConfig *c = t->c;
    int64_t step = trainer_steps_done(t), saved = *c->resume ? step : -1;
    int64_t skipped = param_state_read(unet_params(t->net)).skipped;
    int failed_saves = 0;
    Meter m = { .start = now_seconds(), .last_log = now_seconds(), .first_step = step, .last_step = step };
    bool ok = true;
    stop_catch();
    while (ok && (trainer_pending(t) || may_begin(t, step))) {
        if (may_begin(t, step)) trainer_begin(t);
        if (!trainer_ready(t) && may_begin(t, step)) continue;
        StepResult r = trainer_take(t);
        ok = look_at(t, dir, &r, skipped, err);
        skipped = r.state.skipped;
        step++;
        add_losses(&t->loop, r.loss);
        show_progress(t, &m, step, r.loss);
        if (!ok) break;
        if (step % c->log_every == 0) write_stats(t, dir, &m, step, &r.state);
        if (c->probe_every && step % c->probe_every == 0) probe_run(t, dir);
        if (c->eval_every && step % c->eval_every == 0) eval_run(t, dir);
        Error warn;
        if (c->preview_every && step % c->preview_every == 0 && !preview_run(t, dir, &warn)) log_warn("%s", warn.msg);
        if (step % c->save_every == 0 && step < c->steps) {
            if (save(t, dir, step, &warn)) {
                saved = step;
                failed_saves = 0;
            } else if (++failed_saves < SAVES_FAILED) {
                log_warn("%s; training goes on", warn.msg);
            } else {
                *err = warn;
                ok = false;
            }
        }
    }
    log_progress(NULL);
    Error last;
    if (saved != step && !save(t, dir, step, &last)) {
        if (ok) *err = last;
        else log_warn("%s", last.msg);
        ok = false;
    }
    if (ok && stop_requested())
        return error_set(err, ERR_INTERRUPTED, "stopped after step %lld of %lld; go on with: cbdm train --resume %s",
                         (long long)step, (long long)c->steps, run_dir_path(dir));
    return ok;
}
