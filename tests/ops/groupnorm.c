// tests/ops/groupnorm.c - cases of group normalization: alone, with SiLU, with the dropout that core/fuse.c adds.
//   dim: n, h, w, c, groups, SiLU, dropout in 1/1000, form (FORM_*), channels of the base that x is a range of
#include "opcase.h"

enum { FORM_OFFSET = 1, FORM_BATCH_VIEW = 2, FORM_CHANNEL_VIEW = 4, FORM_CONSTANT = 8, FORM_SELF = 16 };   // SELF: + x

// x plus 100 in every channel: a variance that is small beside the mean's square.
static Tensor *offset(OpRun *r, Tensor *x) {
    float hundred[64];
    for (int i = 0; i < 64; i++) hundred[i] = 100;
    Tensor *v = case_given(r, "offset", 2, (int64_t[]){ x->shape[0], x->shape[3] }, hundred);
    v->flags |= TENSOR_NEEDS_GRAD;
    return op_add_channel(case_graph(r), x, v);
}

// The last channels of an image that wants no gradient: what is written in its place has the view's stride.
static Tensor *constant_view(OpRun *r, const OpCase *c) {
    const int64_t *d = c->dim;
    Tensor *x = case_input(r, "x", 4, (int64_t[]){ d[0], d[1], d[2], d[8] }, IN_CONSTANT);
    x = op_relayout(case_graph(r), x, device_layout(graph_device(case_graph(r))));
    return op_view_channel(case_graph(r), x, d[8] - d[3], d[8]);
}

static void build(OpRun *r, const OpCase *c) {
    Graph *g = case_graph(r);
    const int64_t *d = c->dim;
    int64_t n = d[0], h = d[1], w = d[2], ch = d[3];
    Tensor *x = d[7] & FORM_CONSTANT ? constant_view(r, c)
              : d[7] & FORM_BATCH_VIEW ? op_view_batch(g, case_image(r, "x", n + 1, h, w, ch), 1, n + 1)
              : d[7] & FORM_CHANNEL_VIEW ? op_view_channel(g, case_image(r, "x", n, h, w, d[8]), d[8] - ch, d[8])
              : case_image(r, "x", n, h, w, ch);
    if (d[7] & FORM_OFFSET) x = offset(r, x);
    Tensor *gamma = case_param(r, "gamma", 1, &ch), *beta = case_param(r, "beta", 1, &ch);
    Tensor *y = op_groupnorm(g, x, gamma, beta, (int)d[4], 1e-5, d[5] ? ACT_SILU : ACT_NONE);
    if (d[6]) {
        Tensor *sample = case_index(r, "sample", n, 0, 1 << 30);
        y = op_dropout(g, y, (double)d[6] / 1000, op_purpose("layer"), sample, param_state(case_params(r)));
    }
    if (d[7] & FORM_SELF) y = op_add(g, y, x);
    case_output(r, "y", y, d[6] && !(d[7] & FORM_SELF) ? OUT_ZEROS : 0);
}

static double terms(const OpCase *c) {
    const int64_t *d = c->dim;
    double hw = (double)(d[1] * d[2]), group = hw * (double)(d[3] / d[4]), batch = hw * (double)d[0];
    return group > batch ? group : batch;
}

enum { TEST = CASE_TEST, GRAD = CASE_TEST | CASE_GRAD, BENCH = CASE_BENCH };
static const OpCase cases[] = {
    //                              n  h  w   c   g  silu drop form
    { "1x1 image",                { 2, 1, 1, 16,  4, 0, 0 }, GRAD, 0 },
    { "3x3, pairs",               { 3, 3, 3, 16,  8, 0, 0 }, GRAD, 0 },
    { "one group",                { 2, 5, 7, 31,  1, 0, 0 }, GRAD, 0 },
    { "one channel",              { 1, 5, 7,  1,  1, 0, 0 }, GRAD, 0 },
    { "3 groups of 1",            { 2, 3, 3,  3,  3, 1, 0 }, GRAD, 0 },
    { "48 in 16, SiLU",           { 2, 5, 7, 48, 16, 1, 0 }, GRAD, 0 },
    { "48 in 4, groups of 12",    { 2, 8, 8, 48,  4, 1, 0 }, GRAD, 0 },
    { "64 in 32, SiLU",           { 3, 8, 8, 64, 32, 1, 0 }, GRAD, 0 },
    { "64 in 2, blocks in a group", { 1, 5, 7, 64,  2, 1, 0 }, GRAD, 0 },
    { "dropout",                  { 2, 5, 7, 16,  8, 1, 100 }, GRAD, 0 },
    { "dropout, 31 channels",     { 3, 3, 3, 31,  1, 1, 500 }, GRAD, 0 },
    { "dropout, 64 channels",     { 2, 8, 8, 64, 32, 1, 100 }, GRAD, 0 },
    { "dropout, no SiLU",         { 1, 5, 7, 48, 16, 0, 250 }, GRAD, 0 },
    { "dropout, odd mask",        { 3, 1, 1,  3,  1, 1, 300 }, GRAD, 0 },
    { "dropout, unfused",         { 2, 5, 7, 16,  8, 1, 100 }, GRAD | CASE_PLAIN, 0 },
    { "long, dropout",            { 2, 32, 32, 64, 32, 1, 100 }, TEST, 0 },
    { "many channels",            { 2, 3, 3, 288, 32, 1, 100 }, TEST, 0 },
    { "offset 100",               { 2, 5, 7, 16,  8, 1, 0, FORM_OFFSET }, GRAD | CASE_F32, 0 },   // lost in bf16
    { "plus x",                   { 2, 5, 7, 16,  8, 1, 0, FORM_SELF }, GRAD, 0 },
    { "plus x, odd, dropout",     { 3, 3, 3, 31,  1, 1, 100, FORM_SELF }, GRAD, 0 },
    { "plus x, 64, dropout",      { 2, 8, 8, 64, 32, 1, 100, FORM_SELF }, GRAD, 0 },
    { "plus x, unfused",          { 2, 5, 7, 16,  8, 1, 0, FORM_SELF }, GRAD | CASE_PLAIN, 0 },
    { "plus x, view",             { 2, 3, 3, 16,  8, 1, 0, FORM_CHANNEL_VIEW | FORM_SELF, 48 }, GRAD, 0 },
    { "batch view",               { 2, 3, 3, 16,  8, 1, 0, FORM_BATCH_VIEW }, GRAD, 0 },
    { "channel view",             { 2, 3, 3, 16,  8, 1, 0, FORM_CHANNEL_VIEW, 48 }, GRAD, 0 },
    { "channel view, 16 of 24",   { 2, 3, 3, 16,  8, 1, 0, FORM_CHANNEL_VIEW, 24 }, GRAD, 0 },
    { "constant view",            { 2, 3, 3, 16,  8, 1, 0, FORM_CONSTANT, 48 }, GRAD, 0 },
    { "channel view, odd",        { 2, 3, 3,  3,  1, 1, 0, FORM_CHANNEL_VIEW, 7 }, GRAD, 0 },
    { "accumulate",               { 2, 5, 7, 16,  8, 1, 100 }, TEST | CASE_ACCUMULATE, 0 },
    { "large values",             { 2, 5, 7, 16,  8, 0, 0 }, TEST, 1e4 },
    { "tiny values",              { 2, 5, 7, 16,  8, 1, 0 }, TEST, 1e-6 },
    { "128 at 32",                { 16, 32, 32, 128, 32, 1, 100 }, BENCH, 0 },
    { "256 at 16",                { 16, 16, 16, 256, 32, 1, 100 }, BENCH, 0 },
    { "512 at 8",                 { 16,  8,  8, 512, 32, 1, 0 }, BENCH, 0 },
};

const OpSuite op_suite = { .op = "groupnorm", .cases = cases, .n_cases = sizeof cases / sizeof cases[0], .build = build,
                           .terms = terms };
