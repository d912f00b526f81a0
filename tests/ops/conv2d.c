// tests/ops/conv2d.c - cases of convolution, plain and in the fused forms that core/fuse.c makes.
//   dim: n, h, w, c, k, filter size, stride, pad, form (FORM_*), channels of the base that x is a range of (0: dense)
#include "kernels/conv2d/conv2d.h"
#include "opcase.h"

enum { FORM_BIAS = 1, FORM_TEMB = 2, FORM_RESIDUAL = 4, FORM_BATCH_VIEW = 8, FORM_CHANNEL_VIEW = 16, FORM_ALL = 7,
       FORM_SELF = 32,                           // x is its own residual: two contributions to its gradient
       FORM_WIDE = 64, FORM_TALL = 128 };        // the filter is one row, or one column, of `size`; so is its padding

static void build(OpRun *r, const OpCase *c) {
    Graph *g = case_graph(r);
    const int64_t *d = c->dim;
    int64_t n = d[0], h = d[1], w = d[2], ch = d[3], k = d[4], size = d[5];
    unsigned form = (unsigned)d[8];
    Tensor *x = form & FORM_BATCH_VIEW ? op_view_batch(g, case_image(r, "x", n + 2, h, w, ch), 1, n + 1)
              : form & FORM_CHANNEL_VIEW ? op_view_channel(g, case_image(r, "x", n, h, w, d[9]), d[10], d[10] + ch)
              : case_image(r, "x", n, h, w, ch);
    Tensor *weight = case_operand(r, "w", 4, (int64_t[]){ k, form & FORM_WIDE ? 1 : size,
                                                      form & FORM_TALL ? 1 : size, ch });
    Tensor *bias = form & FORM_BIAS ? case_param(r, "bias", 1, &k) : NULL;
    Tensor *y = form & (FORM_WIDE | FORM_TALL)
              ? op_conv2d_pads(g, x, weight, bias, (int)d[6], form & FORM_TALL ? (int)d[7] : 0,
                               form & FORM_WIDE ? (int)d[7] : 0)
              : op_conv2d(g, x, weight, bias, (int)d[6], (int)d[7]);
    int64_t p = y->shape[1], q = y->shape[2];
    if (form & FORM_TEMB) y = op_add_channel(g, y, case_input(r, "temb", 2, (int64_t[]){ n, k }, IN_F32));
    if (form & FORM_RESIDUAL) y = op_add(g, y, case_image(r, "residual", n, p, q, k));
    if (form & FORM_SELF) y = op_add(g, y, x);
    case_output(r, "y", y, 0);
}

enum { TEST = CASE_TEST, GRAD = CASE_TEST | CASE_GRAD, EXACT = CASE_TEST | CASE_EXACT, BENCH = CASE_BENCH };
static const OpCase cases[] = {
    //                               n   h   w    c    k  f  s  p  form
    { "1x1 image, 1 channel",      { 1,  1,  1,   1,   1, 3, 1, 1, FORM_BIAS }, GRAD, 0 },
    { "stem",                      { 2,  8,  8,   3,  48, 3, 1, 1, FORM_BIAS }, GRAD, 0 },
    { "tail",                      { 2,  8,  8,  48,   3, 3, 1, 1, FORM_BIAS }, GRAD, 0 },
    { "odd image, 31 channels",    { 2,  5,  7,  31,  31, 3, 1, 1, FORM_BIAS }, GRAD, 0 },
    { "3x3 image",                 { 3,  3,  3,  16,  16, 3, 1, 1, FORM_BIAS }, GRAD, 0 },
    { "no bias",                   { 1,  5,  7,  16,  48, 3, 1, 1, 0 }, GRAD, 0 },
    { "stride 2",                  { 2,  8,  8,  16,  16, 3, 2, 1, FORM_BIAS }, GRAD, 0 },
    { "stride 2, odd image",       { 2,  5,  7,   3,  16, 3, 2, 1, FORM_BIAS }, GRAD, 0 },
    { "stride 2, even, no pad",    { 1,  8,  8,  16,   3, 3, 2, 0, FORM_BIAS }, GRAD, 0 },
    { "1x1",                       { 2,  5,  7,  48,  64, 1, 1, 0, FORM_BIAS }, GRAD, 0 },
    { "1x1, 1 channel to 31",      { 3,  3,  3,   1,  31, 1, 1, 0, FORM_BIAS }, GRAD, 0 },
    { "1x1, stride 2",             { 1,  8,  8,  16,  16, 1, 2, 0, FORM_BIAS }, GRAD, 0 },
    { "5x5, pad 2",                { 1,  5,  7,   3,   3, 5, 1, 2, FORM_BIAS }, GRAD, 0 },
    { "1x7, pads 0 and 3",         { 2,  5,  7,  16,  16, 7, 1, 3, FORM_BIAS | FORM_WIDE }, GRAD, 0 },
    { "7x1, pads 3 and 0",         { 2,  5,  7,  16,  16, 7, 1, 3, FORM_BIAS | FORM_TALL }, GRAD, 0 },
    { "1x3, 31 channels",          { 2,  5,  7,  31,   3, 3, 1, 1, FORM_WIDE }, GRAD, 0 },
    { "3x1, stride 2",             { 1,  8,  6,   3,  48, 3, 2, 1, FORM_TALL }, GRAD, 0 },
    { "7x1, integers",             { 2,  9,  9,  48,  64, 7, 1, 3, FORM_BIAS | FORM_TALL }, EXACT, 0 },
    { "64 channels",               { 2,  8,  8,  64,  64, 3, 1, 1, FORM_BIAS }, GRAD, 0 },
    { "past every tile",           { 5, 13, 15, 144, 80, 3, 1, 1, FORM_ALL }, TEST | CASE_LARGE, 0 },
    { "past a tile",               { 1, 11, 13,  40, 136, 3, 1, 1, FORM_ALL }, TEST, 0 },
    { "past a tile, integers",     { 1, 11, 13, 136,  40, 3, 1, 1, FORM_ALL }, EXACT, 0 },
    { "past every tile, 1x1",      { 3, 13, 15, 144, 80, 1, 1, 0, FORM_BIAS }, TEST, 0 },
    { "past every tile, integers", { 5, 13, 15, 144, 80, 3, 1, 1, FORM_ALL }, EXACT | CASE_LARGE, 0 },
    { "temb",                      { 2,  5,  7,  16,  16, 3, 1, 1, FORM_BIAS | FORM_TEMB }, GRAD, 0 },
    { "residual",                  { 2,  5,  7,  16,  48, 3, 1, 1, FORM_BIAS | FORM_RESIDUAL }, GRAD, 0 },
    { "temb and residual",         { 3,  3,  3,   3,  31, 3, 1, 1, FORM_ALL }, GRAD, 0 },
    { "temb and residual, s2",     { 2,  8,  8,  16,  16, 3, 2, 1, FORM_ALL }, GRAD, 0 },
    { "all forms, 64 channels",    { 2,  8,  8,  64,  64, 3, 1, 1, FORM_ALL }, TEST, 0 },
    { "all forms, unfused",        { 2,  5,  7,  16,  16, 3, 1, 1, FORM_ALL }, GRAD | CASE_PLAIN, 0 },
    { "own residual",              { 2,  5,  7,  16,  16, 3, 1, 1, FORM_BIAS | FORM_SELF }, GRAD, 0 },
    { "own residual, 3 channels",  { 3,  3,  3,   3,   3, 3, 1, 1, FORM_BIAS | FORM_SELF }, GRAD, 0 },
    { "own residual, 1x1",         { 2,  8,  8,  48,  48, 1, 1, 0, FORM_BIAS | FORM_SELF }, GRAD, 0 },
    { "own residual, unfused",     { 2,  5,  7,  16,  16, 3, 1, 1, FORM_BIAS | FORM_SELF }, GRAD | CASE_PLAIN, 0 },
    { "own residual, view",        { 2,  5,  7,  16,  16, 3, 1, 1, FORM_SELF | FORM_CHANNEL_VIEW, 48, 16 }, GRAD, 0 },
    { "own residual, integers",    { 2,  8,  8,  48,  48, 3, 1, 1, FORM_BIAS | FORM_SELF }, EXACT, 0 },
    { "batch view",                { 2,  5,  7,  16,  16, 3, 1, 1, FORM_BIAS | FORM_BATCH_VIEW }, GRAD, 0 },
    { "channel view",              { 2,  5,  7,  16,  31, 3, 1, 1, FORM_BIAS | FORM_CHANNEL_VIEW, 48, 16 }, GRAD, 0 },
    { "channel view, 1x1",         { 2,  3,  3,  32,  16, 1, 1, 0, FORM_BIAS | FORM_CHANNEL_VIEW, 48, 16 }, GRAD, 0 },
    { "channel view, odd, 32",     { 1,  8,  8,  32,  32, 3, 1, 1, FORM_BIAS | FORM_CHANNEL_VIEW, 40, 4 }, TEST, 0 },
    { "channel view, s2, odd",     { 1,  8,  8,   3,  16, 3, 2, 1, FORM_BIAS | FORM_CHANNEL_VIEW, 7, 4 }, GRAD, 0 },
    { "accumulate",                { 2,  8,  8,  16,  16, 3, 1, 1, FORM_ALL }, TEST | CASE_ACCUMULATE, 0 },
    { "accumulate, stem",          { 2,  5,  7,   3,  16, 3, 1, 1, FORM_BIAS }, TEST | CASE_ACCUMULATE, 0 },
    { "accumulate, 1x1",           { 2,  5,  7,  48,  16, 1, 1, 0, FORM_BIAS }, TEST | CASE_ACCUMULATE, 0 },
    { "large values",              { 2,  5,  7,  16,  16, 3, 1, 1, FORM_BIAS }, TEST, 1e4 },
    { "tiny values",               { 2,  5,  7,  16,  16, 3, 1, 1, FORM_BIAS }, TEST, 1e-6 },
    { "integers",                  { 2,  5,  7,  16,  16, 3, 1, 1, FORM_ALL }, EXACT, 0 },
    { "integers, 64 channels",     { 2,  8,  8,  64,  64, 3, 1, 1, FORM_ALL }, EXACT, 0 },
    { "integers, stem",            { 2,  8,  8,   3,  48, 3, 1, 1, FORM_BIAS }, EXACT, 0 },
    { "integers, tail",            { 2,  5,  7,  48,   3, 3, 1, 1, FORM_BIAS }, EXACT, 0 },
    { "integers, stride 2",        { 3,  5,  7,  16,  31, 3, 2, 1, FORM_ALL }, EXACT, 0 },
    { "integers, 1x1",             { 2,  5,  7,  31,  64, 1, 1, 0, FORM_BIAS }, EXACT, 0 },
    { "integers, accumulate",      { 2,  8,  8,  16,  48, 3, 1, 1, FORM_BIAS }, EXACT | CASE_ACCUMULATE, 0 },
    { "128 at 32",                 { 8, 32, 32, 128, 128, 3, 1, 1, FORM_BIAS }, BENCH, 0 },
    { "256 at 16",                 { 8, 16, 16, 256, 256, 3, 1, 1, FORM_BIAS }, BENCH, 0 },
    { "256 at 8",                  { 8,  8,  8, 256, 256, 3, 1, 1, FORM_BIAS }, BENCH, 0 },
    { "512 to 256 at 4",           { 8,  4,  4, 512, 256, 3, 1, 1, FORM_BIAS }, BENCH, 0 },
    { "256 at 16, 1x1",            { 8, 16, 16, 256, 256, 1, 1, 0, FORM_BIAS }, BENCH, 0 },
    { "128 at 32, stride 2",       { 8, 32, 32, 128, 128, 3, 2, 1, FORM_BIAS }, BENCH, 0 },
    { "stem at 32",                { 8, 32, 32,   3, 128, 3, 1, 1, FORM_BIAS }, BENCH, 0 },
    { "tail at 32",                { 8, 32, 32, 128,   3, 3, 1, 1, FORM_BIAS }, BENCH, 0 },
};

const OpSuite op_suite = { .op = "conv2d", .cases = cases, .n_cases = sizeof cases / sizeof cases[0], .build = build,
                           .products = true, .amplified = "winograd", .amplification = CONV_WINOGRAD_AMPLIFICATION };
