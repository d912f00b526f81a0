// tests/ops/linear.c - cases of the linear layer y = x w^T + bias.
//   dim: m, c, k, bias
#include "opcase.h"

static void build(OpRun *r, const OpCase *c) {
    int64_t m = c->dim[0], ch = c->dim[1], k = c->dim[2];
    Tensor *x = case_input(r, "x", 2, (int64_t[]){ m, ch }, 0);
    Tensor *w = case_operand(r, "w", 2, (int64_t[]){ k, ch });
    Tensor *bias = c->dim[3] ? case_param(r, "bias", 1, &k) : NULL;
    case_output(r, "y", op_linear(case_graph(r), x, w, bias), 0);
}

enum { TEST = CASE_TEST, GRAD = CASE_TEST | CASE_GRAD, EXACT = CASE_TEST | CASE_EXACT, BENCH = CASE_BENCH };
static const OpCase cases[] = {
    { "1 by 1",                  { 1,   1,    1, 1 }, GRAD, 0 },
    { "one row",                 { 1,  48,   31, 1 }, GRAD, 0 },
    { "one column",              { 3,  31,    1, 1 }, GRAD, 0 },
    { "one term",                { 3,   1,   16, 1 }, GRAD, 0 },
    { "31 by 3 by 31",           { 31,  3,   31, 1 }, GRAD, 0 },
    { "33 by 65 by 17",          { 33, 65,   17, 1 }, GRAD, 0 },
    { "64 by 64 by 64",          { 64, 64,   64, 1 }, GRAD, 0 },
    { "past every tile",         { 130, 300, 150, 1 }, TEST, 0 },
    { "large tiles",             { 2,   8, 16640, 1 }, TEST, 0 },
    { "no bias",                 { 5,   9,   48, 0 }, GRAD, 0 },
    { "long sum",                { 2, 2048,   3, 1 }, TEST, 0 },
    { "accumulate",              { 3,  16,   31, 1 }, TEST | CASE_ACCUMULATE, 0 },
    { "large values",            { 3,  31,   31, 1 }, TEST, 1e4 },
    { "tiny values",             { 3,  31,   31, 1 }, TEST, 1e-6 },
    { "integers",                { 33, 65,   17, 1 }, EXACT, 0 },
    { "integers, one row",       { 1,  512,  64, 1 }, EXACT, 0 },
    { "integers, accumulate",    { 31, 64,   48, 1 }, EXACT | CASE_ACCUMULATE, 0 },
    { "time embedding",          { 128, 512, 512, 1 }, BENCH, 0 },
    { "temb projection",         { 128, 512, 256, 1 }, BENCH, 0 },
};

const OpSuite op_suite = { .op = "linear", .cases = cases, .n_cases = sizeof cases / sizeof cases[0], .build = build,
                           .products = true };
