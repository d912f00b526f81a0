// tests/ops/attention.c - cases of softmax attention over the pixels of an image.
//   dim: n, h, w, c (all heads), heads, form (FORM_*)
// FORM_PRODUCT: q, k, v are views of one product. FORM_CONSTANT: they want no gradients; for scores so large that their
// rounding shows: lse must then come from the implementation that reads it.
#include <math.h>
#include <string.h>

#include "opcase.h"

enum { FORM_PRODUCT = 1, FORM_CONSTANT = 2 };

static Tensor *constant(OpRun *r, const char *name, const int64_t shape[4]) {
    Tensor *x = case_input(r, name, 4, shape, IN_CONSTANT);
    return op_relayout(case_graph(r), x, device_layout(graph_device(case_graph(r))));
}

static void build(OpRun *r, const OpCase *c) {
    Graph *g = case_graph(r);
    const int64_t *d = c->dim;
    int64_t n = d[0], h = d[1], w = d[2], ch = d[3];
    Tensor *part[3];
    static const char *const names[] = { "q", "k", "v" };
    Tensor *all = d[5] & FORM_PRODUCT ? case_image(r, "qkv", n, h, w, 3 * ch) : NULL;
    for (int i = 0; i < 3; i++)
        part[i] = all ? op_view_channel(g, all, i * ch, (i + 1) * ch)
                : d[5] & FORM_CONSTANT ? constant(r, names[i], d) : case_image(r, names[i], n, h, w, ch);
    float scale = (float)(1 / sqrt((double)ch / (double)d[4]));
    case_output(r, "o", op_attention(g, part[0], part[1], part[2], (int)d[4], scale), 0);
}

static double terms(const OpCase *c) {
    double tokens = (double)(c->dim[1] * c->dim[2]), channels = (double)(c->dim[3] / c->dim[4]);
    return tokens > channels ? tokens : channels;
}

// dq and dk are sums of scale p (dp - D) times k or q, where dp = do v^T and D = rowsum(do o) cancel: wholly so for one
// token, or where a softmax row has a single one. Both carry u sqrt(C) sqrt(sum do^2 v^2) <= u C max|do| max|v|; the
// sum over tokens adds squares with sum p^2 <= 1 along a row (dq) and at most the tokens down a column (dk).
static double rounding(const OpCase *c, const char *result) {
    if (strcmp(result, "d q") && strcmp(result, "d k") && strcmp(result, "d qkv")) return 0;
    const int64_t *d = c->dim;
    int64_t numel = d[0] * d[1] * d[2] * d[3];
    double channels = (double)(d[3] / d[4]), scale = 1 / sqrt(channels);
    double cot = case_largest(c, "cotangent.o", numel), v, other;
    if (d[5] & FORM_PRODUCT) {
        v = other = case_largest(c, "qkv", 3 * numel);
    } else {
        v = case_largest(c, "v", numel);
        other = case_largest(c, strcmp(result, "d q") ? "q" : "k", numel);
    }
    double tokens = strcmp(result, "d q") ? sqrt((double)(d[1] * d[2])) : 1;
    return 0x1p-24 * channels * cot * v * scale * other * tokens;
}

enum { TEST = CASE_TEST, GRAD = CASE_TEST | CASE_GRAD, BENCH = CASE_BENCH };
static const OpCase cases[] = {
    { "one token",             { 2, 1, 1, 16, 1, 0 }, GRAD, 0 },
    { "one channel",           { 1, 3, 3,  1, 1, 0 }, GRAD, 0 },
    { "3x3, 3 channels",       { 3, 3, 3,  3, 1, 0 }, GRAD, 0 },
    { "5x7, 31 channels",      { 2, 5, 7, 31, 1, 0 }, GRAD, 0 },
    { "5x7, 16 channels",      { 2, 5, 7, 16, 1, 0 }, GRAD, 0 },
    { "8x8, 64 channels",      { 2, 8, 8, 64, 1, 0 }, GRAD, 0 },
    { "3 heads of 16",         { 2, 3, 3, 48, 3, 0 }, GRAD, 0 },
    { "2 heads of 24",         { 2, 5, 7, 48, 2, 0 }, GRAD, 0 },
    { "3 heads of 1",          { 1, 3, 3,  3, 3, 0 }, GRAD, 0 },
    { "4x4, 8 heads of 16",    { 1, 4, 4, 128, 8, 0 }, GRAD, 0 },
    { "8 heads of 48, 47 tokens", { 4, 1, 47, 96, 2, 0 }, GRAD, 0 },
    { "8 heads, 13 tokens",    { 4, 1, 13, 32, 2, 0 }, GRAD, 0 },
    { "8 images of a token",   { 8, 1, 1, 16, 1, 0 }, GRAD, 0 },
    { "one product",           { 2, 5, 7, 16, 1, 1 }, GRAD, 0 },
    { "one product, 9 images", { 9, 4, 4, 32, 1, 1 }, GRAD, 0 },
    { "one product, 2 heads",  { 2, 3, 3, 32, 2, 1 }, GRAD, 0 },
    { "one product, odd",      { 1, 3, 3,  3, 1, 1 }, GRAD, 0 },
    { "16x16",                 { 1, 16, 16, 48, 1, 0 }, TEST, 0 },
    { "16x16, 64 channels",    { 1, 16, 16, 64, 1, 0 }, TEST, 0 },
    { "9x9, 2 heads of 72",    { 2, 9, 9, 144, 2, 1 }, TEST, 0 },
    { "10x13, 136 channels",   { 1, 10, 13, 136, 1, 1 }, TEST, 0 },
    { "16x16, sharp rows",     { 1, 16, 16, 64, 1, 0 }, TEST, 8 },
    { "9x9, overflow unless shifted", { 1, 9, 9, 64, 1, FORM_CONSTANT }, TEST, 100 },
    { "more than 256 tokens",  { 1, 17, 16, 16, 2, 1 }, TEST, 0 },
    { "273 tokens, 8 heads",   { 1, 21, 13, 128, 8, 1 }, TEST, 0 },
    { "wide head",             { 1, 3, 3, 264, 1, 0 }, TEST, 0 },
    { "many images",           { 130, 1, 2, 16, 1, 0 }, TEST, 0 },
    { "sharp rows",            { 2, 5, 7, 16, 1, 0 }, TEST, 8 },
    { "overflow unless shifted", { 1, 3, 3, 16, 1, 0 }, TEST, 100 },
    { "overflow unless shifted, 8 heads", { 2, 3, 5, 64, 4, FORM_CONSTANT }, TEST, 100 },
    { "tiny values",           { 2, 5, 7, 16, 1, 0 }, TEST, 1e-4 },
    { "256 at 16",             { 8, 16, 16, 256, 1, 0 }, BENCH, 0 },
    { "256 at 4",              { 8, 4, 4, 256, 1, 0 }, BENCH, 0 },
};

const OpSuite op_suite = { .op = "attention", .cases = cases, .n_cases = sizeof cases / sizeof cases[0], .build = build,
                           .terms = terms, .rounding = rounding };
