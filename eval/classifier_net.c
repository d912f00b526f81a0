// eval/classifier_net.c - the network: names and shapes as published, initial weights, forward pass, loss.
//
//   stem:    conv 3x3, batch norm, ReLU
//   stage s: k blocks of [conv 3x3, norm, ReLU, conv 3x3, norm, + shortcut, ReLU], w << s channels; the first block of
//            stages 2 and 3 halves the image
//   tail:    mean over the pixels, linear
// Option A of He et al.: where a block halves the image, the shortcut takes every second pixel and sets channels of
// zeros before and after, half of the new ones each. It is recorded as a 1x1 convolution with stride 2 whose filter
// holds one 1 in rows that copy a channel: sums of one number and zeros, exact.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/classifier_impl.h"

int classifier_convs(const ClassifierRecipe *r) { return 1 + (r->depth - 2); }

ConvSpec classifier_conv_spec(const ClassifierConfig *c, int i) {
    int blocks = (c->recipe.depth - 2) / 6, w = c->recipe.width;
    ConvSpec s = { .conv = "conv1", .norm = "bn1", .c_in = c->channels, .c_out = w, .stride = 1 };
    if (i == 0) return s;
    int stage = (i - 1) / (2 * blocks), block = (i - 1) / 2 % blocks, which = (i - 1) % 2;
    bool halves = stage > 0 && block == 0 && which == 0;
    snprintf(s.conv, sizeof s.conv, "layer%d.%d.conv%d", stage + 1, block, which + 1);
    snprintf(s.norm, sizeof s.norm, "layer%d.%d.bn%d", stage + 1, block, which + 1);
    s.c_out = w << stage;
    s.c_in = halves ? s.c_out / 2 : s.c_out;
    s.stride = halves ? 2 : 1;
    return s;
}

// ---- parameters
static Tensor *constant(Classifier *c, const char *name, int64_t n, float value) {
    Tensor *t = tensor_new(c->device, name, DT_F32, 1, &n);
    float *host = xmalloc((size_t)n * sizeof *host);
    for (int64_t i = 0; i < n; i++) host[i] = value;
    tensor_write_f32(t, host);
    free(host);
    return t;
}

static void add_conv_norm(Classifier *c, int i) {
    ConvSpec s = classifier_conv_spec(&c->cfg, i);
    ConvNorm *l = &c->conv[i];
    char name[64];
    float deviation = (float)sqrt(2.0 / (9.0 * s.c_in));          // He et al. 2015, by the fan in
    snprintf(name, sizeof name, "%s.weight", s.conv);
    l->conv = param_add(c->params, name, 4, (int64_t[]){ s.c_out, 3, 3, s.c_in }, INIT_NORMAL, deviation);
    snprintf(name, sizeof name, "%s.weight", s.norm);
    l->gamma = param_add(c->params, name, 1, (int64_t[]){ s.c_out }, INIT_ONE, 0);
    snprintf(name, sizeof name, "%s.bias", s.norm);
    l->beta = param_add(c->params, name, 1, (int64_t[]){ s.c_out }, INIT_ZERO, 0);
    l->mean = constant(c, "running_mean", s.c_out, 0.0f);
    l->var = constant(c, "running_var", s.c_out, 1.0f);
}

static Tensor *shortcut_filter(Classifier *c, int c_in) {
    int64_t shape[] = { 2 * c_in, 1, 1, c_in }, before = c_in / 2;
    Tensor *t = tensor_new(c->device, "shortcut", DT_F32, 4, shape);
    float *host = xcalloc((size_t)(shape[0] * shape[3]), sizeof *host);
    for (int64_t k = 0; k < c_in; k++) host[(before + k) * c_in + k] = 1.0f;
    tensor_write_f32(t, host);
    free(host);
    return t;
}

void classifier_build(Classifier *c) {
    int width = c->cfg.recipe.width, classes = c->cfg.classes, dim = 4 * width;
    c->params = param_set_new(c->device);
    for (int i = 0; i < classifier_convs(&c->cfg.recipe); i++) add_conv_norm(c, i);
    for (int s = 0; s < 2; s++) c->shortcut[s] = shortcut_filter(c, width << s);
    c->weight = param_add(c->params, "linear.weight", 2, (int64_t[]){ classes, dim }, INIT_NORMAL,
                          (float)sqrt(2.0 / dim));
    c->bias = param_add(c->params, "linear.bias", 1, (int64_t[]){ classes }, INIT_ZERO, 0);
    param_seal(c->params, PARAM_TRAIN, c->cfg.recipe.seed);
}

// ---- forward
typedef struct { Classifier *c; Graph *g; bool training; } Pass;

static Tensor *conv_norm(const Pass *p, int i, Tensor *x, Tensor *residual) {
    const ConvNorm *l = &p->c->conv[i];
    Tensor *h = op_conv2d(p->g, x, param_operand(l->conv, p->g), NULL, classifier_conv_spec(&p->c->cfg, i).stride, 1);
    BatchNorm norm = { .gamma = param_tensor(l->gamma, p->g), .beta = param_tensor(l->beta, p->g), .mean = l->mean,
                       .var = l->var, .momentum = 0.1, .eps = 1e-5 };
    return op_batchnorm(p->g, h, &norm, residual, ACT_RELU, p->training);
}

ClassifierPass classifier_record(Classifier *c, int batch, bool training) {
    const ClassifierConfig *f = &c->cfg;
    Graph *g = graph_new(c->device, training ? "classifier step" : "classifier", WEIGHTS_TRAIN);
    ClassifierPass io = { .graph = g };
    Pass p = { .c = c, .g = g, .training = training };
    io.x = graph_input(g, "x", DT_F32, 4, (int64_t[]){ batch, f->height, f->width, f->channels });
    Tensor *h = conv_norm(&p, 0, io.x, NULL);                                      // (N,H,W,width)
    for (int i = 1, n = classifier_convs(&f->recipe); i < n; i += 2) {
        ConvSpec s = classifier_conv_spec(f, i);
        Tensor *filter = s.stride == 2 ? c->shortcut[s.c_in / f->recipe.width - 1] : NULL;
        Tensor *skip = filter ? op_conv2d(g, h, filter, NULL, 2, 0) : h;
        h = conv_norm(&p, i + 1, conv_norm(&p, i, h, NULL), skip);
    }
    io.features = op_pool_all(g, h);                                               // (N,4 width)
    io.logits = op_linear(g, io.features, param_operand(c->weight, g), param_tensor(c->bias, g));
    graph_output(g, io.features);
    graph_output(g, io.logits);
    if (training) {
        io.label = graph_input(g, "label", DT_I32, 1, (int64_t[]){ batch });
        io.loss = graph_output(g, op_cross_entropy(g, io.logits, io.label, c->offset));
    }
    graph_rewrite_forward(g);
    if (training) {
        graph_backward(g, io.loss);
        graph_rewrite_backward(g);
        SgdConfig sgd = { .momentum = f->recipe.momentum, .weight_decay = f->recipe.weight_decay };
        param_append_sgd(c->params, g, c->lr, &sgd);
    }
    graph_plan(g, c->arena);
    return io;
}
