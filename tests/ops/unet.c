// tests/ops/unet.c - the whole network and its training step, small, in the forms that a run records: the balanced
// step, also where the labels of some images are dropped, the plain one, and the one of a batch whose labels are
// dropped; the balanced one with its update of the weights; and a guided step of the sampler.
//   dim: form, batch, image size, channels, levels, groups, attention levels, dropout in 1/100, augmentation, attention
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/conv2d/conv2d.h"
#include "models/diffusion.h"
#include "opcase.h"

enum { BALANCED, PLAIN, UNLABELLED, UPDATE, SAMPLE, WEIGHTED, WEIGHTLESS };   // weights: 1, 0, 1, ...; all 0
typedef struct { UNet *unet; Schedule *schedule; } Model;

static void release(void *model) {
    Model *m = model;
    unet_free(m->unet);
    schedule_free(m->schedule);
    free(m);
}

// The optimiser behind the step. eps = 1 keeps the update smooth where it would be the sign of the gradient: there an
// element whose gradient is rounding alone would move by all of lr.
static void append_update(OpRun *r, ParamSet *ps) {
    static const char *const shown[] = { "head.weight", "tail.2.weight", "tail.2.bias", "label_embedding.weight",
                                         "middleblocks.0.attn.proj_v.weight" };
    Graph *g = case_graph(r);
    AdamConfig adam = { .lr = 0.01, .beta1 = 0.9, .beta2 = 0.999, .eps = 1, .clip_norm = 1, .ema_decay = 0.9 };
    param_append_adam(ps, g, &adam, true);
    op_step_advance(g, param_state(ps));
    for (size_t i = 0; i < sizeof shown / sizeof shown[0]; i++) {
        char name[64];
        Param *p = param_find(ps, shown[i]);
        snprintf(name, sizeof name, "w %.34s", shown[i]);
        case_output(r, name, param_value(p), OUT_NO_GRAD | OUT_F32);
        snprintf(name, sizeof name, "ema %.32s", shown[i]);
        case_output(r, name, param_ema(p), OUT_NO_GRAD | OUT_F32);
    }
    case_state(r);
}

static void build_sampler(OpRun *r, const OpCase *c, UNet *net) {
    const int64_t *d = c->dim;
    Graph *g = case_graph(r);
    ParamSet *ps = unet_params(net);
    float rows[2][8] = { { 0 }, { 1.05f, -0.21f, 0, 0.3f, 1.5f, 1.4f, -0.9f, 1 } };      // see tests/ops/diffuse.c
    Tensor *coef = case_given(r, "coef", 2, (int64_t[]){ 2, 8 }, rows[0]);
    Tensor *x = case_input(r, "x", 4, (int64_t[]){ d[1], d[2], d[2], 3 }, IN_CONSTANT | IN_F32);
    Tensor *t = case_index(r, "t", d[1], 0, 50), *sample = case_index(r, "sample", d[1], 0, 1 << 30);
    Tensor *y = case_index(r, "y", 2 * d[1], -1, unet_config(net)->classes);
    op_sampler_step(g, x, unet_forward(net, g, x, t, y, NULL, NULL), true, coef, sample, param_state(ps));
    case_output(r, "x", x, OUT_NO_GRAD | OUT_F32);
}

static void build(OpRun *r, const OpCase *c) {
    const int64_t *d = c->dim;
    Graph *g = case_graph(r);
    Device *device = graph_device(g);
    UNetConfig config = { .image_size = (int)d[2], .in_channels = 3, .channels = (int)d[3], .levels = (int)d[4],
                          .mult = { 1, 2, 2 }, .attn_levels = (unsigned)d[6], .res_blocks = 1, .groups = (int)d[5],
                          .classes = 5, .augment = d[8] != 0, .dropout = (double)d[7] / 100,
                          .attention = (AttentionForm)d[9] };
    Model *m = xcalloc(1, sizeof *m);
    m->unet = unet_new(&config, device);
    m->schedule = schedule_linear(device, 50, 1e-3, 0.2, BETA_DOUBLE);
    ParamSet *ps = unet_params(m->unet);
    param_seal(ps, PARAM_TRAIN, 1);
    StepState state = { .seed = { 1, 2 }, .step = 3 };
    param_state_write(ps, &state);
    case_model(r, ps, m, release);
    if (d[0] == SAMPLE) {
        build_sampler(r, c, m->unet);
        return;
    }
    DiffusionStepConfig step = { .batch = (int)d[1], .labelled = d[0] != UNLABELLED,
                                 .balance = d[0] != PLAIN && d[0] != UNLABELLED,
                                 .weighted = d[0] == WEIGHTED || d[0] == WEIGHTLESS,
                                 .tau = 0.3, .gamma = 0.25, .share = 1, .noise_input = true, .dropout = d[7] > 0,
                                 .gradients = case_gradients(r) };
    DiffusionStep s = diffusion_record_step(g, m->unet, m->schedule, &step);
    case_recorded(r);
    case_adopt(r, "x0", s.x0, 0, 0);
    case_adopt(r, "eps", s.eps, 0, 0);
    case_adopt(r, "t", s.t, 0, 50);
    case_adopt(r, "sample", s.sample, 0, 1 << 30);
    if (s.y) case_adopt(r, "y", s.y, -1, config.classes);
    float weight[] = { d[0] == WEIGHTED, 0, d[0] == WEIGHTED, 0 };
    if (s.weight) case_adopt_given(r, "weight", s.weight, weight);
    if (s.augment) case_adopt(r, "augment", s.augment, 0, 0);
    case_output(r, "eps_hat", s.eps_hat, OUT_NO_GRAD | OUT_F32);
    case_output(r, "loss", s.loss, OUT_NO_GRAD | OUT_F32);
    case_loss(r, s.loss);
    if (!s.y) case_no_gradient(r, "label_embedding.weight");
    for (int i = 0; i < param_count(ps) && config.attention == ATTENTION_MERGED; i++)
        if (strstr(param_name(param_get(ps, i)), "proj_k.bias")) case_no_gradient(r, param_name(param_get(ps, i)));
    if (d[0] == UPDATE) append_update(r, ps);
}

// The longest sums: over the pixels of a batch (weight gradients), or over nine taps of the widest concat.
static double terms(const OpCase *c) {
    double pixels = (double)(c->dim[1] * c->dim[2] * c->dim[2]), taps = 9.0 * 4 * (double)c->dim[3];
    return pixels > taps ? pixels : taps;
}

enum { TEST = CASE_TEST, GRAD = CASE_TEST | CASE_GRAD };
static const OpCase cases[] = {
    //                            form      n  size ch lv gr at dr au form of attention
    { "balanced",               { BALANCED, 2, 8, 16, 2, 4, 2, 10, 0 }, TEST | CASE_LARGE, 0 },
    { "plain",                  { PLAIN,    2, 8, 16, 2, 4, 2, 10, 0 }, TEST | CASE_LARGE, 0 },
    { "unlabelled",             { UNLABELLED, 2, 8, 16, 2, 4, 2, 10, 0 }, TEST | CASE_LARGE, 0 },
    { "balanced, 32 channels",  { BALANCED, 3, 4, 32, 2, 16, 1, 10, 1 }, TEST | CASE_LARGE, 0 },
    { "update",                 { UPDATE,   2, 8, 16, 2, 4, 2, 10, 0 }, TEST, 0 },
    { "sampler step",           { SAMPLE,   2, 8, 16, 2, 4, 2, 0, 0 }, TEST, 0 },
    { "odd channels",           { BALANCED, 1, 4,  6, 2, 3, 1, 0, 0 }, TEST, 0 },
    { "three levels",           { PLAIN,    1, 8, 16, 3, 8, 2, 0, 0 }, TEST, 0 },
    { "merged",                 { BALANCED, 2, 8, 16, 2, 4, 2, 10, 0, ATTENTION_MERGED }, TEST | CASE_LARGE, 0 },
    { "merged, update",         { UPDATE,   2, 8, 16, 2, 4, 2, 10, 0, ATTENTION_MERGED }, TEST, 0 },
    { "merged, sampler step",   { SAMPLE,   2, 8, 16, 2, 4, 2, 0, 0, ATTENTION_MERGED }, TEST, 0 },
    { "merged, odd channels",   { BALANCED, 2, 8,  6, 2, 3, 1, 0, 0, ATTENTION_MERGED }, TEST, 0 },
    { "labels dropped one by one", { WEIGHTED, 3, 4, 6, 2, 3, 1, 10, 0, ATTENTION_MERGED }, TEST, 0 },
    { "merged, gradients",      { PLAIN,    2, 4,  4, 2, 2, 2, 10, 1, ATTENTION_MERGED }, GRAD, 0 },
    { "plain, gradients",       { PLAIN,    2, 4,  4, 2, 2, 2, 10, 1 }, GRAD, 0 },
    { "unlabelled, gradients",  { UNLABELLED, 1, 4, 4, 2, 2, 1, 10, 0 }, GRAD, 0 },
    // Without the balancing term there is no stop-gradient, and differences see what the gradient is of.
    { "weightless, gradients",  { WEIGHTLESS, 2, 4, 4, 2, 2, 1, 10, 0 }, GRAD, 0 },
};

const OpSuite op_suite = { .op = "unet", .cases = cases, .n_cases = sizeof cases / sizeof cases[0], .build = build,
                           .terms = terms, .whole = true,
                           .amplified = "winograd",
                           .amplification = CONV_WINOGRAD_AMPLIFICATION };
