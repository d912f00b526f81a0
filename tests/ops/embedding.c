// tests/ops/embedding.c - cases of rows of a table by index, -1 giving zeros.
//   dim: n, rows, c, first index (-1 or 0)
#include "opcase.h"

static void build(OpRun *r, const OpCase *c) {
    Tensor *table = case_param(r, "table", 2, (int64_t[]){ c->dim[1], c->dim[2] });
    Tensor *index = case_index(r, "index", c->dim[0], (int32_t)c->dim[3], (int32_t)c->dim[1]);
    case_output(r, "y", op_embedding(case_graph(r), table, index), OUT_BITS | OUT_F32);
}

enum { TEST = CASE_TEST, GRAD = CASE_TEST | CASE_GRAD, EXACT = CASE_TEST | CASE_EXACT, BENCH = CASE_BENCH };
static const OpCase cases[] = {
    { "1 of 1",                 {  1,   1,   1,  0 }, GRAD, 0 },
    { "rows repeat",            { 31,   3,  31,  0 }, GRAD, 0 },
    { "rows absent",            {  3,  31,  16,  0 }, GRAD, 0 },
    { "with none",              { 16,   3,  48, -1 }, GRAD, 0 },
    { "accumulate",             { 16,   5,  31, -1 }, TEST | CASE_ACCUMULATE, 0 },
    { "integers",               { 64,   3,  31, -1 }, EXACT, 0 },
    { "integers, accumulate",   { 64,  10,  16, -1 }, EXACT | CASE_ACCUMULATE, 0 },
    { "large values",           { 31,   3,  16,  0 }, TEST, 1e4 },
    { "100 classes",            { 256, 100, 512, 0 }, BENCH, 0 },
};

const OpSuite op_suite = { .op = "embedding", .cases = cases, .n_cases = sizeof cases / sizeof cases[0], .build = build,
                           .products = true };
