// train/loop.c - the training loop: progress, statistics, checkpoints, signals, and the policy on values not finite.
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "train/trainer_impl.h"

enum { BAD_IN_A_ROW = 3, BAD_IN_ALL = 10, SAVES_FAILED = 3 };

// ---- signals: the first asks to stop after the step, the second ends at once
static volatile sig_atomic_t stop_signal;
static void on_signal(int s) {
    if (stop_signal) _exit(128 + s);
    stop_signal = s;
}
static void catch_signals(void) {
    struct sigaction a = { .sa_handler = on_signal };
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGUSR1, &a, NULL);
}

// ---- what the user sees
typedef struct { double sum[3], start, last_log; int64_t n, first_step, last_step; } Meter;

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

static void write_stats(const Trainer *t, RunDir *dir, Meter *m, int64_t step) {
    double now = now_seconds(), n = (double)m->n;
    StepState s = param_state_read(unet_params(t->net));
    char *text = xasprintf("{\"step\": %lld, \"loss\": %.9g, \"denoising\": %.9g, \"balancing\": %.9g, \"grad_norm\": %.9g, "
                           "\"lr\": %.9g, \"skipped\": %lld, \"images_per_second\": %.4g}", (long long)step, m->sum[0] / n,
                           m->sum[1] / n, m->sum[2] / n, (double)s.grad_norm, (double)s.lr, (long long)s.skipped,
                           (double)(step - m->last_step) * t->c->batch / (now - m->last_log));
    run_dir_stat(dir, text);
    free(text);
    m->sum[0] = m->sum[1] = m->sum[2] = 0;
    m->n = 0;
    m->last_log = now;
    m->last_step = step;
}

// An update whose gradient is not finite was refused on the device; too many end the run.
static bool check_finite(Trainer *t, int64_t step, const double loss[3], int64_t skipped_before, Error *err) {
    StepState s = param_state_read(unet_params(t->net));
    if (s.skipped == skipped_before) {
        t->bad_in_a_row = 0;
        return true;
    }
    t->bad_in_a_row++;
    t->bad_in_all++;
    log_warn("step %lld is skipped: loss %g, gradient norm %g", (long long)step, loss[0], (double)s.grad_norm);
    if (t->bad_in_a_row < BAD_IN_A_ROW && t->bad_in_all < BAD_IN_ALL) return true;
    return error_set(err, ERR_DIVERGED, "training diverged: the loss or its gradient is not finite at step %lld (%lld in a row); "
                     "the weights before it are saved; lower --lr, or resume from an earlier checkpoint", (long long)step,
                     (long long)t->bad_in_a_row);
}

bool trainer_run(Trainer *t, RunDir *dir, Error *err) {
    const RunConfig *c = t->c;
    const DatasetInfo *data = dataset_info(t->data);
    int64_t step = trainer_steps_done(t), saved = *c->resume ? step : -1;
    int failed_saves = 0;
    Meter m = { .start = now_seconds(), .last_log = now_seconds(), .first_step = step, .last_step = step };
    bool ok = true;
    catch_signals();
    while (ok && step < c->steps && !stop_signal) {
        double loss[3];
        int64_t skipped = param_state_read(unet_params(t->net)).skipped;
        trainer_step(t, loss);
        ok = check_finite(t, step, loss, skipped, err);
        step++;
        for (int i = 0; i < 3; i++) m.sum[i] += loss[i];
        m.n++;
        show_progress(t, &m, step, loss);
        if (!ok) break;
        if (step % c->log_every == 0) write_stats(t, dir, &m, step);
        if (c->probe_every && step % c->probe_every == 0) probe_run(t, dir);
        Error warn;
        if (c->preview_every && step % c->preview_every == 0 && !preview_run(t, dir, &warn)) log_warn("%s", warn.msg);
        if (step % c->save_every == 0 && step < c->steps) {
            if (run_dir_save(dir, c, data, unet_params(t->net), step, &warn)) {
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
    if (saved != step && !run_dir_save(dir, c, data, unet_params(t->net), step, &last)) {
        if (ok) *err = last;
        else log_warn("%s", last.msg);
        ok = false;
    }
    if (ok && stop_signal)
        return error_set(err, ERR_INTERRUPTED, "stopped after step %lld of %lld; go on with: cbdm train --resume %s",
                         (long long)step, (long long)c->steps, run_dir_path(dir));
    return ok;
}
