// tests/ops/unet.c - the whole network and its training step, small, in the three forms that a run records: the
// balanced step, the plain one, and the one of a batch whose labels are dropped.
//   dim: form, batch, image size, channels, levels, groups, attention levels, dropout in 1/100, augmentation
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/conv2d/conv2d.h"
#include "models/diffusion.h"
#include "opcase.h"

enum { BALANCED, PLAIN, UNLABELLED };
typedef struct { UNet *unet; Schedule *schedule; } Model;

static void release(void *model) {
    Model *m = model;
    unet_free(m->unet);
    schedule_free(m->schedule);
    free(m);
}

static void build(OpRun *r, const OpCase *c) {
    const int64_t *d = c->dim;
    Graph *g = case_graph(r);
    Device *device = graph_device(g);
    UNetConfig config = { .image_size = (int)d[2], .in_channels = 3, .channels = (int)d[3], .levels = (int)d[4],
                          .mult = { 1, 2, 2 }, .attn_levels = (unsigned)d[6], .res_blocks = 1, .groups = (int)d[5],
                          .classes = 5, .augment = d[8] != 0, .dropout = (double)d[7] / 100 };
    Model *m = xcalloc(1, sizeof *m);
    m->unet = unet_new(&config, device);
    m->schedule = schedule_linear(device, 50, 1e-3, 0.2, BETA_DOUBLE);
    ParamSet *ps = unet_params(m->unet);
    param_seal(ps, PARAM_TRAIN, 1);
    StepState state = { .seed = { 1, 2 }, .step = 3 };
    param_state_write(ps, &state);
    case_model(r, ps, m, release);
    DiffusionStepConfig step = { .batch = (int)d[1], .labelled = d[0] != UNLABELLED, .balance = d[0] == BALANCED,
                                 .tau = 0.3, .gamma = 0.25, .share = 1, .noise_input = true, .dropout = d[7] > 0,
                                 .gradients = case_gradients(r) };
    DiffusionStep s = diffusion_record_step(g, m->unet, m->schedule, &step);
    case_recorded(r);
    case_adopt(r, "x0", s.x0, 0, 0);
    case_adopt(r, "eps", s.eps, 0, 0);
    case_adopt(r, "t", s.t, 0, 50);
    case_adopt(r, "sample", s.sample, 0, 1 << 30);
    if (s.y) case_adopt(r, "y", s.y, -1, config.classes);
    if (s.augment) case_adopt(r, "augment", s.augment, 0, 0);
    case_output(r, "eps_hat", s.eps_hat, OUT_NO_GRAD | OUT_F32);
    case_output(r, "loss", s.loss, OUT_NO_GRAD | OUT_F32);
    case_loss(r, s.loss);
    if (!s.y) case_no_gradient(r, "label_embedding.weight");
}

// The longest sums: over the pixels of a batch (weight gradients), or over nine taps of the widest concat.
static double terms(const OpCase *c) {
    double pixels = (double)(c->dim[1] * c->dim[2] * c->dim[2]), taps = 9.0 * 4 * (double)c->dim[3];
    return pixels > taps ? pixels : taps;
}

// A bias of all keys adds the same number to each logit of a row, which softmax does not see: its gradient is zero but
// for rounding. Its terms are as large as those of the queries' bias, a sum that does not cancel: u sqrt(K) of that.
static double rounding(const OpCase *c, const Results *ref, const char *result) {
    char query[64];
    const char *key = strstr(result, "proj_k.bias");
    if (!key) return 0;
    snprintf(query, sizeof query, "%.*sproj_q.bias", (int)(key - result), result);
    const Result *q = results_find(ref, query);
    double top = 0;
    for (int64_t i = 0; i < q->n; i++) top = fmax(top, fabs(q->value[i]));
    return 0x1p-24 * sqrt(terms(c)) * top;
}

enum { TEST = CASE_TEST, GRAD = CASE_TEST | CASE_GRAD };
static const OpCase cases[] = {
    //                            form      n  size ch lv gr at dr au
    { "balanced",               { BALANCED, 2, 8, 16, 2, 4, 2, 10, 0 }, TEST, 0 },
    { "plain",                  { PLAIN,    2, 8, 16, 2, 4, 2, 10, 0 }, TEST, 0 },
    { "unlabelled",             { UNLABELLED, 2, 8, 16, 2, 4, 2, 10, 0 }, TEST, 0 },
    { "balanced, 32 channels",  { BALANCED, 3, 4, 32, 2, 16, 1, 10, 1 }, TEST, 0 },
    { "odd channels",           { BALANCED, 1, 4,  6, 2, 3, 1, 0, 0 }, TEST, 0 },
    { "three levels",           { PLAIN,    1, 8, 16, 3, 8, 2, 0, 0 }, TEST, 0 },
    { "plain, gradients",       { PLAIN,    2, 4,  4, 2, 2, 2, 10, 1 }, GRAD, 0 },
    { "unlabelled, gradients",  { UNLABELLED, 1, 4, 4, 2, 2, 1, 10, 0 }, GRAD, 0 },
};

const OpSuite op_suite = { .op = "unet", .cases = cases, .n_cases = sizeof cases / sizeof cases[0], .build = build,
                           .terms = terms, .rounding = rounding, .draws = 16, .amplified = "winograd",
                           .amplification = CONV_WINOGRAD_AMPLIFICATION };
