// eval/classifier_train.c - the training loop. Epochs follow each other without a gap, so that every batch is full and
// every image is seen equally often. While the device takes a step the host prepares the images of the next.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "eval/classifier_impl.h"

// ---- batches
typedef struct {
    const Classifier *c;
    const ImageSet   *sets;
    int      n_sets;
    int64_t  n, steps;
    int64_t *order, epoch;                        // the permutation of one epoch; -1: none yet
    float   *image, *x;                           // (H,W,C) as it is; (batch,H,W,C) prepared
    int32_t *label, *next_label;                  // (batch) of the step under way; of the one prepared
} Feed;

static const ImageSet *set_of(const Feed *f, int64_t image, int64_t *row) {
    const ImageSet *s = f->sets;
    while (image >= s->n) image -= s++->n;
    *row = image;
    return s;
}

static void prepare_step(Feed *f, int64_t step) {
    const ClassifierConfig *cfg = &f->c->cfg;
    int64_t e = (int64_t)cfg->height * cfg->width * cfg->channels;
    for (int i = 0; i < cfg->recipe.batch; i++) {
        int64_t at = step * cfg->recipe.batch + i, epoch = at / f->n, row;
        if (epoch != f->epoch) classifier_shuffle(cfg->recipe.seed, f->epoch = epoch, f->n, f->order);
        int64_t image = f->order[at % f->n];
        const ImageSet *s = set_of(f, image, &row);
        image_rows(s, row, row + 1, false, f->image);
        classifier_prepare(f->image, cfg, f->c->mean, f->c->std, classifier_draw(&cfg->recipe, epoch, image),
                           f->x + i * e);
        f->next_label[i] = s->label[row];
    }
}

static Feed feed_new(const Classifier *c, const ImageSet *sets, int n_sets, int64_t n) {
    size_t batch = (size_t)c->cfg.recipe.batch, e = (size_t)(tensor_numel(c->train.x) / (int64_t)batch);
    return (Feed){ .c = c, .sets = sets, .n_sets = n_sets, .n = n, .steps = classifier_steps(&c->cfg.recipe, n),
                   .order = xmalloc((size_t)n * sizeof(int64_t)), .epoch = -1, .image = xmalloc(e * sizeof(float)),
                   .x = xmalloc(batch * e * sizeof(float)), .label = xmalloc(batch * sizeof(int32_t)),
                   .next_label = xmalloc(batch * sizeof(int32_t)) };
}

static void feed_free(Feed *f) {
    free(f->order);
    free(f->image);
    free(f->x);
    free(f->label);
    free(f->next_label);
}

// ---- what must be true before
// counts (classes): images of each class.
static bool check_sets(const Classifier *c, const ImageSet *sets, int n_sets, int64_t *counts, Error *err) {
    const ClassifierConfig *f = &c->cfg;
    int64_t n = 0;
    for (int k = 0; k < n_sets; k++) {
        const ImageSet *s = &sets[k];
        if (!classifier_takes(c, s, err)) return false;
        for (int64_t i = 0; i < s->n; i++) {
            int32_t label = s->label ? s->label[i] : -1;
            if (label < 0 || label >= f->classes)
                return error_set(err, ERR_FILE, "%s: image %lld has label %d; a classifier of %d classes is trained on "
                                 "labels from 0 to %d", s->name, (long long)i, label, f->classes, f->classes - 1);
            counts[label]++;
        }
        n += s->n;
    }
    return n > 0 || error_set(err, ERR_FILE, "there are no images to train a classifier on");
}

// Menon et al. 2021, equation 10. A class without images counts as if it had one.
static void write_offset(Classifier *c, const int64_t *counts, int64_t n) {
    if (!c->offset) return;
    float *offset = xmalloc((size_t)c->cfg.classes * sizeof *offset);
    for (int k = 0; k < c->cfg.classes; k++)
        offset[k] = (float)(c->cfg.recipe.logit_adjust * log((double)(counts[k] ? counts[k] : 1) / (double)n));
    tensor_write_f32(c->offset, offset);
    free(offset);
}

// ---- what the user sees
// loss, steps, right since the last line, at start; begun: when this process began, with step `first`.
typedef struct { double loss; int64_t steps, right; double start, begun; int64_t first; } Meter;

static void clock_text(double seconds, char out[32]) {
    unsigned s = seconds > 0 ? (unsigned)(seconds + 0.5) : 0;
    if (s >= 3600) snprintf(out, 32, "%uh%02um", s / 3600, s / 60 % 60);
    else snprintf(out, 32, "%um%02us", s / 60, s % 60);
}

static void report_epoch(const Feed *f, Meter *m, int64_t done) {
    char eta[32];
    double now = now_seconds(), batch = f->c->cfg.recipe.batch;
    clock_text((now - m->begun) / (double)(done - m->first) * (double)(f->steps - done), eta);
    log_info("epoch %.4g/%.4g  loss %.4f  train accuracy %.4f  lr %.3g  %.1f s  %.0f images/s  ETA %s",
             (double)done * batch / (double)f->n, f->c->cfg.recipe.epochs, m->loss / (double)m->steps,
             (double)m->right / (double)m->steps / batch, classifier_lr(&f->c->cfg.recipe, f->n, done - 1),
             now - m->start, (double)m->steps * batch / (now - m->start), eta);
    *m = (Meter){ .start = now, .begun = m->begun, .first = m->first };
}

static bool diverged(const Feed *f, int64_t step, const char *what, double value, Error *err) {
    const ClassifierRecipe *r = &f->c->cfg.recipe;
    return error_set(err, ERR_DIVERGED, "training the classifier diverged: the %s is %g in epoch %.4g at learning rate "
                     "%g; start again with a lower --lr", what, value, (double)step * r->batch / (double)f->n,
                     classifier_lr(r, f->n, step));
}

// Waits for the step and adds it up. False: loss or gradient are not finite.
static bool take_step(const Feed *f, Meter *m, int64_t step, float *logits, Error *err) {
    const ClassifierConfig *cfg = &f->c->cfg;
    float loss;
    tensor_read_f32(f->c->train.loss, &loss);
    tensor_read_f32(f->c->train.logits, logits);
    StepState state = param_state_read(f->c->params);
    if (!isfinite(loss)) return diverged(f, step, "loss", (double)loss, err);
    if (!isfinite(state.grad_norm)) return diverged(f, step, "gradient's norm", (double)state.grad_norm, err);
    for (int i = 0; i < cfg->recipe.batch; i++)
        m->right += classifier_largest(logits + (int64_t)i * cfg->classes, cfg->classes) == f->label[i];
    m->loss += (double)loss;
    m->steps++;
    return true;
}

void classifier_step(Classifier *c, const float *x, const int32_t *label, double lr) {
    float rate = (float)lr;
    tensor_write_f32(c->train.x, x);
    tensor_write(c->train.label, label);
    tensor_write_f32(c->lr, &rate);
    graph_run(c->train.graph);
}

// ---- what is kept of a training that is stopped
enum { SECONDS_BETWEEN_SAVES = 300 };

// The step to begin with.
static int64_t go_on(Classifier *c, const Keep *keep, int64_t steps) {
    Error err;
    int64_t step;
    if (!keep || !file_exists(keep->path)) return 0;
    if (classifier_load_stopped(c, keep->path, keep->data_digest, steps, &step, &err)) {
        log_info("goes on with %s, after step %lld of %lld", keep->path, (long long)step, (long long)steps);
        return step;
    }
    log_warn("%s: training begins anew", err.msg);
    return 0;
}

// At a signal: saves and says how to go on. False, as the caller is to end.
static bool stop(const Classifier *c, const Keep *keep, int64_t step, int64_t steps, Error *err) {
    if (keep && !classifier_save_stopped(c, keep->path, keep->data_digest, step, err)) return false;
    return error_set(err, ERR_INTERRUPTED, "stopped after step %lld of %lld of the classifier's training; %s%s",
                     (long long)step, (long long)steps, keep ? "the same command goes on from " : "nothing is kept",
                     keep ? keep->path : "");
}

static void save_at_times(const Classifier *c, const Keep *keep, int64_t step, double *last) {
    Error err;
    if (!keep || now_seconds() - *last < SECONDS_BETWEEN_SAVES) return;
    if (!classifier_save_stopped(c, keep->path, keep->data_digest, step, &err)) log_warn("%s", err.msg);
    *last = now_seconds();
}

// ---- the loop
static bool run_steps(Classifier *c, Feed *f, bool quiet, const Keep *keep, Error *err) {
    const ClassifierRecipe *r = &c->cfg.recipe;
    float *logits = xmalloc((size_t)tensor_numel(c->train.logits) * sizeof *logits);
    int64_t first = go_on(c, keep, f->steps);
    Meter m = { .start = now_seconds(), .begun = now_seconds(), .first = first };
    double saved = now_seconds();
    bool ok = true;
    prepare_step(f, first);
    for (int64_t step = first; step < f->steps && ok; step++) {
        int32_t *label = f->next_label;
        bool last = step + 1 == f->steps;
        classifier_step(c, f->x, label, classifier_lr(r, f->n, step));
        f->next_label = f->label;
        f->label = label;
        if (!last) prepare_step(f, step + 1);
        ok = take_step(f, &m, step, logits, err);
        bool ends = last || (step + 1) * r->batch / f->n > step * r->batch / f->n;
        if (ok && ends && !quiet) report_epoch(f, &m, step + 1);
        if (ok && !last && stop_requested()) ok = stop(c, keep, step + 1, f->steps, err);
        if (ok && !last) save_at_times(c, keep, step + 1, &saved);
    }
    free(logits);
    return ok;
}

bool classifier_train_kept(Classifier *c, const ImageSet *sets, int n_sets, bool quiet, const Keep *keep, Error *err) {
    CHECK(c->train.graph, "a classifier from a file is not trained on");
    int64_t *counts = xcalloc((size_t)c->cfg.classes, sizeof *counts), n = 0;
    bool ok = check_sets(c, sets, n_sets, counts, err);
    for (int k = 0; k < n_sets; k++) n += sets[k].n;
    if (ok) {
        classifier_statistics(sets, n_sets, c->mean, c->std);
        write_offset(c, counts, n);
        Feed f = feed_new(c, sets, n_sets, n);
        ok = run_steps(c, &f, quiet, keep, err);
        feed_free(&f);
    }
    free(counts);
    return ok;
}

bool classifier_train(Classifier *c, const ImageSet *sets, int n_sets, bool quiet, Error *err) {
    return classifier_train_kept(c, sets, n_sets, quiet, NULL, err);
}
