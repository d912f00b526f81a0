// train/step.c - taking steps: inputs on their way to the device, losses on their way back.
//
// A step is queued, not waited for: its inputs go through the device's staging memory, its graphs are one launch each,
// and its losses and StepState are copied to pinned memory behind them, in the order of the work. The host reads them
// when they have come, while the device is in the next step.
#include <stdlib.h>

#include "train/trainer_impl.h"

void trainer_feed(Trainer *t, const StepForm *f, int64_t step, int begin) {
    int m = t->micro;
    int32_t *time = t->ints, *y = time + m, *sample = y + 2 * m, *index = sample + 2 * m;
    bool labels = f->io.y != NULL, balanced = f->copies == 2;
    BatchRows rows = { .x0 = t->x0, .index = index, .t = time, .y = labels ? y : NULL,
                       .y_balanced = balanced ? y + m : NULL, .sample = sample };
    batcher_fill(t->batcher, step, begin, begin + m, &rows);
    for (int i = 0; balanced && i < m; i++) sample[m + i] = (int32_t)((uint32_t)sample[i] | 0x80000000u);
    if (f->io.x0) tensor_write_f32(f->io.x0, t->x0);
    else tensor_write(f->io.index, index);
    tensor_write(f->io.t, time);
    tensor_write(f->io.sample, sample);
    if (labels) tensor_write(f->io.y, y);
    if (f->io.weight) {
        float *weight = xmalloc((size_t)m * sizeof *weight);
        for (int i = 0; i < m; i++) weight[i] = y[i] < 0 ? 0 : 1;
        tensor_write_f32(f->io.weight, weight);
        free(weight);
    }
    if (f->io.augment) {
        float *zeros = xcalloc((size_t)(9 * m), sizeof *zeros);
        tensor_write_f32(f->io.augment, zeros);
        free(zeros);
    }
}

static PendingStep *pending(Trainer *t, int64_t step) { return &t->pending[step % TRAINER_PENDING]; }

// The oldest queued read: a pass's losses, or after the last of them the state that ends the step.
static void take_read(Trainer *t) {
    PendingStep *p = pending(t, t->reading);
    if (p->parts > 0) {
        const Tensor *loss = t->form[0].io.loss ? t->form[0].io.loss : t->form[1].io.loss;
        union { float f[3]; double d[3]; } v;
        device_read_take(t->device, &v, tensor_bytes(loss));
        for (int i = 0; i < 3; i++) p->result.loss[i] += loss->dtype == DT_F64 ? v.d[i] : (double)v.f[i];
        p->parts--;
    } else {
        device_read_take(t->device, &p->result.state, sizeof p->result.state);
        p->done = true;
        t->reading++;
    }
    t->reads--;
}

static void queue_read(Trainer *t, const Tensor *x) {
    while (t->reads >= DEVICE_READS) take_read(t);
    device_read_queue(t->device, tensor_data(x), tensor_bytes(x));
    t->reads++;
}

const StepForm *trainer_form(const Trainer *t, int64_t step) {
    return &t->form[!t->c->model.classes || batcher_drops_labels(t->batcher, step)];
}

void trainer_begin(Trainer *t) {
    CHECK(trainer_pending(t) < TRAINER_PENDING, "%d steps are begun and not taken", trainer_pending(t));
    int64_t step = t->begun++;
    const StepForm *f = trainer_form(t, step);
    if (trainer_pending(t) == 1) t->reading = step;
    *pending(t, step) = (PendingStep){ .result = { .step = step } };
    inject_begin(t, step);
    if (f->begin) graph_run(f->begin);
    for (int begin = 0; begin < t->c->batch; begin += t->micro) {
        trainer_feed(t, f, step, begin);
        graph_run(f->pass);
        pending(t, step)->parts++;
        queue_read(t, f->io.loss);
    }
    if (f->end) graph_run(f->end);
    queue_read(t, param_state(unet_params(t->net)));
    inject_end(t, step);
}

int trainer_pending(const Trainer *t) { return (int)(t->begun - t->taken); }

bool trainer_ready(Trainer *t) {
    while (t->reads && !pending(t, t->taken)->done && device_read_ready(t->device)) take_read(t);
    return trainer_pending(t) > 0 && pending(t, t->taken)->done;
}

StepResult trainer_take(Trainer *t) {
    CHECK(trainer_pending(t) > 0, "no step is begun");
    while (!pending(t, t->taken)->done) take_read(t);
    return pending(t, t->taken++)->result;
}

void trainer_step(Trainer *t, double loss[3]) {
    trainer_begin(t);
    StepResult r = trainer_take(t);
    for (int i = 0; i < 3; i++) loss[i] = r.loss[i];
}
