// train/inject.c - faults on order, --inject VALUE@STEP:PARAMETER: in that step alone the parameter's first element is
// VALUE. With nan the loss and every gradient of the step are not finite; a large number makes a spike. Afterwards the
// element is what it was before, in the weights and in their average.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/trainer_impl.h"

bool inject_open(Trainer *t, Error *err) {
    Injection *in = &t->injection;
    const char *text = t->c->inject;
    char *end, *after;
    if (!*text) return true;
    double value = strtod(text, &end);
    long long step = *end == '@' ? strtoll(end + 1, &after, 10) : -1;
    if (end == text || step < 0 || after == end + 1 || *after != ':')
        return error_set(err, ERR_USAGE, "--inject %s: give VALUE@STEP:PARAMETER, as in nan@7:head.weight", text);
    in->param = param_find(unet_params(t->net), after + 1);
    if (!in->param)
        return error_set(err, ERR_USAGE, "--inject %s: the network has no parameter %s; `cbdm info` lists those of a "
                         "checkpoint", text, after + 1);
    in->value = (float)value;
    in->step = step;
    return true;
}

// Returns what it was; value NULL: it stays so.
static float first_element(Tensor *t, const float *value) {
    float *host = xmalloc((size_t)tensor_numel(t) * sizeof *host);
    tensor_read_f32(t, host);
    float was = host[0];
    if (value) {
        host[0] = *value;
        tensor_write_f32(t, host);
    }
    free(host);
    return was;
}

static bool is_due(const Trainer *t, int64_t step) { return t->injection.param && step == t->injection.step; }

void inject_begin(Trainer *t, int64_t step) {
    Injection *in = &t->injection;
    if (!is_due(t, step)) return;
    in->weight = first_element(param_value(in->param), &in->value);
    in->average = first_element(param_ema(in->param), NULL);
    param_refresh(unet_params(t->net), WEIGHTS_TRAIN);
}

void inject_end(Trainer *t, int64_t step) {
    Injection *in = &t->injection;
    if (!is_due(t, step)) return;
    first_element(param_value(in->param), &in->weight);
    first_element(param_ema(in->param), &in->average);
    param_refresh(unet_params(t->net), WEIGHTS_TRAIN);
}
