// tests/ops/batchnorm.c - cases of batch normalization: by the batch's statistics and by the running ones, with a
// residual and ReLU.
//   dim: n, h, w, c, ReLU, running (1: evaluation), form (FORM_*), channels of the base that x is a range of
#include <math.h>

#include "opcase.h"

enum { FORM_RESIDUAL = 1, FORM_SELF = 2, FORM_OFFSET = 4, FORM_CHANNEL_VIEW = 8, FORM_CONSTANT = 16,
       FORM_RESIDUAL_VIEW = 32, FORM_JOINED = 64 };   // SELF: x is its own residual; JOINED: dy is a range of channels
#define MOMENTUM 0.1
#define EPS 1e-5

// x plus 100 in every channel: a variance that is small beside the mean's square.
static Tensor *offset(OpRun *r, Tensor *x) {
    float hundred[64];
    for (int i = 0; i < 64; i++) hundred[i] = 100;
    Tensor *v = case_given(r, "offset", 2, (int64_t[]){ x->shape[0], x->shape[3] }, hundred);
    v->flags |= TENSOR_NEEDS_GRAD;
    return op_add_channel(case_graph(r), x, v);
}

static Tensor *source(OpRun *r, const OpCase *c, const char *name, bool view) {
    const int64_t *d = c->dim;
    if (!view) return case_image(r, name, d[0], d[1], d[2], d[3]);
    return op_view_channel(case_graph(r), case_image(r, name, d[0], d[1], d[2], d[7]), d[7] - d[3], d[7]);
}

static Tensor *statistic(OpRun *r, const char *name, int64_t c, bool positive) {
    float v[512];
    for (int64_t i = 0; i < c; i++) {
        v[i] = case_normal(case_hash("batchnorm", name), i);
        if (positive) v[i] = 0.5f + fabsf(v[i]);
    }
    return case_given(r, name, 1, &c, v);
}

static void build(OpRun *r, const OpCase *c) {
    Graph *g = case_graph(r);
    const int64_t *d = c->dim, form = d[6];
    bool training = !d[5];
    Tensor *x = form & FORM_CONSTANT
              ? op_relayout(g, case_input(r, "x", 4, d, IN_CONSTANT), device_layout(graph_device(g)))
              : source(r, c, "x", form & FORM_CHANNEL_VIEW);
    if (form & FORM_OFFSET) x = offset(r, x);
    Tensor *residual = form & FORM_SELF ? x
                     : form & FORM_RESIDUAL ? source(r, c, "residual", form & FORM_RESIDUAL_VIEW) : NULL;
    BatchNorm b = { .gamma = case_param(r, "gamma", 1, &d[3]), .beta = case_param(r, "beta", 1, &d[3]),
                    .mean = statistic(r, "running mean", d[3], false),
                    .var = statistic(r, "running var", d[3], true), .momentum = MOMENTUM, .eps = EPS };
    Tensor *y = op_batchnorm(g, x, &b, residual, d[4] ? ACT_RELU : ACT_NONE, training);
    if (form & FORM_JOINED) y = op_concat_channel(g, y, y);
    case_output(r, "y", y, training ? 0 : OUT_NO_GRAD);
    if (!training) return;
    case_output(r, "mean", b.mean, OUT_NO_GRAD | OUT_F32);
    case_output(r, "var", b.var, OUT_NO_GRAD | OUT_F32);
}

static double terms(const OpCase *c) { return (double)(c->dim[0] * c->dim[1] * c->dim[2]); }

enum { TEST = CASE_TEST, GRAD = CASE_TEST | CASE_GRAD, BENCH = CASE_BENCH };
static const OpCase cases[] = {
    //                             n  h  w   c  relu run form
    { "two pixels",              { 2, 1, 1, 16, 0, 0, 0 }, GRAD, 0 },
    { "one image",               { 1, 5, 7,  3, 0, 0, 0 }, GRAD, 0 },
    { "one channel",             { 3, 3, 3,  1, 0, 0, 0 }, GRAD, 0 },
    { "31 channels",             { 2, 5, 7, 31, 0, 0, 0 }, GRAD, 0 },
    { "48 channels, ReLU",       { 2, 5, 7, 48, 1, 0, 0 }, GRAD, 0 },
    { "31 channels, ReLU",       { 3, 3, 3, 31, 1, 0, 0 }, GRAD, 0 },
    { "residual",                { 2, 5, 7, 16, 0, 0, FORM_RESIDUAL }, GRAD, 0 },
    { "residual, ReLU",          { 2, 5, 7, 16, 1, 0, FORM_RESIDUAL }, GRAD, 0 },
    { "residual, ReLU, odd",     { 3, 3, 3,  7, 1, 0, FORM_RESIDUAL }, GRAD, 0 },
    { "x is the residual",       { 2, 5, 7, 16, 1, 0, FORM_SELF }, GRAD, 0 },
    { "x is a view",             { 2, 3, 3, 16, 1, 0, FORM_CHANNEL_VIEW, 48 }, GRAD, 0 },
    { "x is an odd view",        { 2, 3, 3,  3, 1, 0, FORM_CHANNEL_VIEW, 7 }, GRAD, 0 },
    { "the residual is a view",  { 2, 3, 3, 16, 1, 0, FORM_RESIDUAL | FORM_RESIDUAL_VIEW, 48 }, GRAD, 0 },
    { "dy is a view",            { 2, 3, 3, 16, 1, 0, FORM_RESIDUAL | FORM_JOINED }, GRAD, 0 },
    { "dy is an odd view",       { 2, 3, 3,  5, 1, 0, FORM_JOINED }, GRAD, 0 },
    { "x is a constant",         { 2, 3, 3, 16, 1, 0, FORM_CONSTANT }, GRAD, 0 },
    { "constant with residual",  { 2, 3, 3, 16, 1, 0, FORM_CONSTANT | FORM_RESIDUAL }, GRAD, 0 },
    { "offset 100",              { 2, 5, 7, 16, 0, 0, FORM_OFFSET }, GRAD | CASE_F32, 0 },       // lost in bf16
    { "several pieces",          { 3, 40, 40, 16, 1, 0, FORM_RESIDUAL }, TEST, 0 },
    { "several pieces, odd",     { 2, 33, 31, 70, 1, 0, FORM_RESIDUAL }, TEST, 0 },
    { "many channels",           { 9, 2, 2, 288, 1, 0, 0 }, TEST, 0 },
    { "accumulate",              { 2, 5, 7, 16, 1, 0, FORM_RESIDUAL }, TEST | CASE_ACCUMULATE, 0 },
    { "large values",            { 2, 5, 7, 16, 0, 0, 0 }, TEST, 1e4 },
    { "tiny values",             { 2, 5, 7, 16, 1, 0, 0 }, TEST, 1e-6 },
    { "running",                 { 2, 5, 7, 16, 0, 1, 0 }, TEST, 0 },
    { "running, residual, ReLU", { 2, 5, 7, 31, 1, 1, FORM_RESIDUAL }, TEST, 0 },
    { "running, one pixel",      { 1, 1, 1, 48, 1, 1, 0 }, TEST, 0 },
    { "running, view",           { 2, 3, 3, 16, 1, 1, FORM_CHANNEL_VIEW, 48 }, TEST, 0 },
    { "16 at 32",                { 128, 32, 32, 16, 1, 0, FORM_RESIDUAL }, BENCH, 0 },
    { "64 at 8",                 { 128,  8,  8, 64, 1, 0, FORM_RESIDUAL }, BENCH, 0 },
};

// ---- PyTorch's running statistics: momentum 0.1, the variance over m - 1
static bool running_statistics(Error *err) {
    const OpCase *c = &cases[3];
    Results *all = case_run(&op_suite, c, &(RunSpec){ .device = "ref64" });
    const Result *mean = results_find(all, "mean"), *var = results_find(all, "var");
    int64_t channels = c->dim[3], m = c->dim[0] * c->dim[1] * c->dim[2];
    bool ok = true;
    for (int64_t k = 0; ok && k < channels; k++) {
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < m; i++)
            sum += (double)case_value(c, case_hash(c->name, "x"), i * channels + k, FILL_VALUES);
        for (int64_t i = 0; i < m; i++)
            squares += pow((double)case_value(c, case_hash(c->name, "x"), i * channels + k, FILL_VALUES) -
                           sum / (double)m, 2);
        double mean0 = (double)case_normal(case_hash("batchnorm", "running mean"), k);
        double var0 = (double)(0.5f + fabsf(case_normal(case_hash("batchnorm", "running var"), k)));
        double want[] = { 0.9 * mean0 + 0.1 * sum / (double)m, 0.9 * var0 + 0.1 * squares / (double)(m - 1) };
        ok = fabs(mean->value[k] - want[0]) <= 1e-12 && fabs(var->value[k] - want[1]) <= 1e-12 * want[1];
        if (!ok)
            error_set(err, ERR_DIVERGED, "channel %lld: running mean %.15g, variance %.15g; by the definition %.15g, "
                      "%.15g", (long long)k, mean->value[k], var->value[k], want[0], want[1]);
    }
    results_free(all);
    return ok;
}
static const OpExtra extra[] = { { "running statistics", running_statistics } };

const OpSuite op_suite = { .op = "batchnorm", .cases = cases, .n_cases = sizeof cases / sizeof cases[0],
                           .build = build, .terms = terms, .extra = extra, .n_extra = 1 };
