// tests/ops/sinusoid.c - cases of the sinusoids of time; t up to 1,000 as integers, or as f32.
//   dim: n, dim, t is f32
#include "opcase.h"

static void build(OpRun *r, const OpCase *c) {
    int64_t n = c->dim[0];
    Tensor *t = c->dim[2] ? case_input(r, "t", 1, &n, IN_CONSTANT | IN_F32) : case_index(r, "t", n, 0, 1000);
    case_output(r, "y", op_sinusoid(case_graph(r), t, (int)c->dim[1]), OUT_F32);
}

static const OpCase cases[] = {
    { "one pair",      {   1,   2, 0 }, CASE_TEST, 0 },
    { "16 by 48",      {  16,  48, 0 }, CASE_TEST, 0 },
    { "33 by 128",     {  33, 128, 0 }, CASE_TEST, 0 },
    { "f32",           {   5,  64, 1 }, CASE_TEST, 0 },
    { "f32, large",    {   5,  64, 1 }, CASE_TEST, 1e3 },
    { "128 by 128",    { 128, 128, 0 }, CASE_BENCH, 0 },
};

const OpSuite op_suite = { .op = "sinusoid", .cases = cases, .n_cases = sizeof cases / sizeof cases[0],
                           .build = build };
