// tests/ops/conv2d_up.c - cases of upsampling and a 3x3 convolution, which core/fuse.c makes one node.
//   dim: n, h, w, c, k, form (FORM_*), channels of the base that x is a range of (0: dense)
#include "kernels/conv2d/conv2d.h"
#include "opcase.h"

enum { FORM_BIAS = 1, FORM_BATCH_VIEW = 2,
       FORM_SHARED = 4,                      // the upsampled image has another reader: two nodes remain
       FORM_TEMB = 8,                        // something else is added: a node of its own
       FORM_SMALL = 16 };                    // a filter of 1x1: two nodes remain

static void build(OpRun *r, const OpCase *c) {
    Graph *g = case_graph(r);
    const int64_t *d = c->dim;
    int64_t n = d[0], k = d[4], size = d[5] & FORM_SMALL ? 1 : 3;
    unsigned form = (unsigned)d[5];
    Tensor *x = form & FORM_BATCH_VIEW ? op_view_batch(g, case_image(r, "x", n + 2, d[1], d[2], d[3]), 1, n + 1)
                                       : case_image(r, "x", n, d[1], d[2], d[3]);
    Tensor *w = case_operand(r, "w", 4, (int64_t[]){ k, size, size, d[3] });
    Tensor *bias = form & FORM_BIAS ? case_param(r, "bias", 1, &k) : NULL;
    Tensor *up = op_upsample2x(g, x), *y = op_conv2d(g, up, w, bias, 1, (int)size / 2);
    if (form & FORM_TEMB) y = op_add_channel(g, y, case_input(r, "temb", 2, (int64_t[]){ n, k }, IN_F32));
    if (form & FORM_SHARED) y = op_add(g, y, up);
    case_output(r, "y", y, 0);
}

enum { TEST = CASE_TEST, GRAD = CASE_TEST | CASE_GRAD, EXACT = CASE_TEST | CASE_EXACT, BENCH = CASE_BENCH };
static const OpCase cases[] = {
    //                               n   h   w    c    k  form
    { "1x1 image, 1 channel",      { 1,  1,  1,   1,   1, FORM_BIAS }, GRAD, 0 },
    { "1x1 image, 16 channels",    { 3,  1,  1,  16,  16, FORM_BIAS }, GRAD, 0 },
    { "2x1 image, 3 to 5",         { 2,  2,  1,   3,   5, FORM_BIAS }, GRAD, 0 },
    { "odd image, 31 channels",    { 2,  5,  3,  31,  31, FORM_BIAS }, GRAD, 0 },
    { "3x3 image, no bias",        { 3,  3,  3,  16,  48, 0 }, GRAD, 0 },
    { "4x4 image",                 { 2,  4,  4,  32,  16, FORM_BIAS }, GRAD, 0 },
    { "8x8 image, 24 to 40",       { 2,  8,  8,  24,  40, FORM_BIAS }, TEST, 0 },
    { "past a tile",               { 1,  7,  9,  72, 136, FORM_BIAS }, TEST, 0 },
    { "past every tile",           { 3,  9, 11, 144,  80, FORM_BIAS }, TEST | CASE_LARGE, 0 },
    { "batch view",                { 2,  3,  5,  16,  16, FORM_BIAS | FORM_BATCH_VIEW }, GRAD, 0 },
    { "unfused",                   { 2,  5,  3,  16,  16, FORM_BIAS }, GRAD | CASE_PLAIN, 0 },
    { "two readers",               { 2,  3,  3,  16,  16, FORM_BIAS | FORM_SHARED }, GRAD, 0 },
    { "1x1 filter",                { 2,  3,  3,  16,  16, FORM_BIAS | FORM_SMALL }, GRAD, 0 },
    { "and a time embedding",      { 2,  3,  3,  16,  16, FORM_BIAS | FORM_TEMB }, GRAD, 0 },
    { "accumulate",                { 2,  5,  3,  16,  24, FORM_BIAS }, TEST | CASE_ACCUMULATE, 0 },
    { "accumulate, odd",           { 2,  3,  3,   5,   7, FORM_BIAS }, TEST | CASE_ACCUMULATE, 0 },
    { "large values",              { 2,  5,  3,  16,  16, FORM_BIAS }, TEST, 1e4 },
    { "tiny values",               { 2,  5,  3,  16,  16, FORM_BIAS }, TEST, 1e-6 },
    { "integers",                  { 2,  5,  3,  16,  16, FORM_BIAS }, EXACT, 0 },
    { "integers, 31 channels",     { 1,  3,  5,  31,   7, FORM_BIAS }, EXACT, 0 },
    { "integers, 64 channels",     { 2,  8,  8,  64,  64, FORM_BIAS }, EXACT, 0 },
    { "integers, accumulate",      { 2,  4,  4,  32,  48, FORM_BIAS }, EXACT | CASE_ACCUMULATE, 0 },
    { "256 at 16 to 32",           { 8, 16, 16, 256, 256, FORM_BIAS }, BENCH, 0 },
    { "256 at 8 to 16",            { 8,  8,  8, 256, 256, FORM_BIAS }, BENCH, 0 },
    { "256 at 4 to 8",             { 8,  4,  4, 256, 256, FORM_BIAS }, BENCH, 0 },
};

const OpSuite op_suite = { .op = "conv2d_up", .cases = cases, .n_cases = sizeof cases / sizeof cases[0],
                           .build = build, .products = true, .amplified = "winograd",
                           .amplification = CONV_WINOGRAD_AMPLIFICATION };
