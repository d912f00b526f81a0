// train/skipped.c - the record of a step whose update was refused: what it trained on, and where the first value that
// is not finite came from. Everything random is a function of seed and step, so the step can be run again, here and later.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "train/trainer_impl.h"

// Runs the step again, node by node, until one gives a value that is not finite. Only where no later step has been
// begun are the weights still those of the step: the refused update has not changed them.
static bool find_origin(Trainer *t, int64_t step, char origin[GRAPH_NODE_TEXT]) {
    ParamSet *ps = unet_params(t->net);
    if (trainer_pending(t)) return false;
    const StepForm *f = trainer_form(t, step);
    StepState now = param_state_read(ps), then = now;
    then.step = (uint32_t)step;
    param_state_write(ps, &then);
    inject_begin(t, step);
    bool found = false;
    if (f->begin) graph_run(f->begin);
    for (int begin = 0; begin < t->c->batch && !found; begin += t->micro) {
        trainer_feed(t, f, step, begin);
        found = graph_find_nonfinite(f->pass, origin);
    }
    inject_end(t, step);
    param_state_write(ps, &now);
    return found;
}

static void add_number(Text *out, const char *key, double v) {
    if (isfinite(v)) text_add(out, ", \"%s\": %.9g", key, v);
    else text_add(out, ", \"%s\": null", key);
}

static void add_list(Text *out, const char *key, const int32_t *v, int n) {
    text_add(out, ",\n \"%s\": [", key);
    for (int i = 0; i < n; i++) text_add(out, "%s%d", i ? ", " : "", (int)v[i]);
    text_add(out, "]");
}

static void add_batch(Trainer *t, Text *out, int64_t step) {
    int n = t->c->batch;
    int32_t *own = xmalloc((size_t)n * 5 * sizeof *own);
    bool labels = t->c->model.classes > 0;
    BatchRows rows = { .index = own, .t = own + n, .y = own + 2 * n, .y_balanced = own + 3 * n, .sample = own + 4 * n };
    batcher_fill(t->batcher, step, 0, n, &rows);
    add_list(out, "index", rows.index, n);
    add_list(out, "t", rows.t, n);
    if (labels) add_list(out, "y", rows.y, n);
    if (labels && t->c->objective == OBJECTIVE_CBDM) add_list(out, "y_balanced", rows.y_balanced, n);
    free(own);
}

char *skipped_json(Trainer *t, const StepResult *r) {
    char origin[GRAPH_NODE_TEXT];
    Text text = { 0 };
    char *quoted = find_origin(t, r->step, origin) ? json_quote(origin) : xstrdup("null");
    text_add(&text, "{\"step\": %lld, \"seed\": %lld", (long long)r->step, (long long)t->c->seed);
    add_number(&text, "loss", r->loss[0]);
    add_number(&text, "denoising", r->loss[1]);
    add_number(&text, "balancing", r->loss[2]);
    add_number(&text, "grad_norm", (double)r->state.grad_norm);
    text_add(&text, ",\n \"first_not_finite\": %s,\n \"labels_dropped\": %s", quoted,
            batcher_drops_labels(t->batcher, r->step) ? "true" : "false");
    add_batch(t, &text, r->step);
    text_add(&text, "}\n");
    free(quoted);
    return text.s;
}
