// tests/ops/matmul.c - cases of the matrix product y = op(a) op(b) + bias of activations and of parameters.
//   dim: m, n, k, a transposed, b transposed, bias, form (FORM_*)
#include "opcase.h"

// PARAMS: a and b are parameters in place of inputs; FILTERS: and 1x1 filters; ROW: a is a vector.
// TWICE: the parameters enter a second product each, as those of attention do: v a and v b, with a parameter v.
// CHAIN: y, which is no parameter, is the right side of a product in turn.
enum { FORM_PARAMS = 1, FORM_FILTERS = 2, FORM_ROW = 4, FORM_TWICE = 8, FORM_CHAIN = 16 };

static Tensor *matrix(OpRun *r, const char *name, int64_t rows, int64_t cols, int64_t form) {
    if (form & FORM_FILTERS) return case_param(r, name, 4, (int64_t[]){ rows, 1, 1, cols });
    if (form & FORM_PARAMS) return case_param(r, name, 2, (int64_t[]){ rows, cols });
    return case_input(r, name, 2, (int64_t[]){ rows, cols }, 0);
}

static void build(OpRun *r, const OpCase *c) {
    Graph *g = case_graph(r);
    int64_t m = c->dim[0], n = c->dim[1], k = c->dim[2], form = c->dim[6];
    bool ta = c->dim[3], tb = c->dim[4];
    Tensor *a = form & FORM_ROW ? case_param(r, "a", 1, &k) : matrix(r, "a", ta ? k : m, ta ? m : k, form);
    Tensor *b = matrix(r, "b", tb ? n : k, tb ? k : n, form);
    Tensor *bias = c->dim[5] ? case_param(r, "bias", 1, &n) : NULL;
    Tensor *y = op_matmul(g, a, ta, b, tb, bias);
    unsigned stored = form ? OUT_F32 : 0;                        // as a and b are
    case_output(r, "y", y, stored);
    if (form & FORM_TWICE) {
        Tensor *va = case_param(r, "va", 1, &a->shape[0]), *vb = case_param(r, "vb", 1, &b->shape[b->ndim - 1]);
        case_output(r, "va a", op_matmul(g, va, false, a, false, NULL), stored);
        case_output(r, "vb b", op_matmul(g, vb, false, b, true, NULL), stored);
    }
    if (form & FORM_CHAIN) case_output(r, "z", op_matmul(g, case_param(r, "v", 1, &m), false, y, false, NULL), stored);
}

enum { TEST = CASE_TEST, GRAD = CASE_TEST | CASE_GRAD, EXACT = CASE_TEST | CASE_EXACT, BENCH = CASE_BENCH };
enum { P = FORM_PARAMS, F = FORM_FILTERS, ROW = FORM_PARAMS | FORM_ROW };
static const OpCase cases[] = {
    //                           m   n   k ta tb bias form
    { "1 by 1",               {  1,  1,  1, 0, 0, 1, 0 }, GRAD, 0 },
    { "inputs",               {  5, 17,  9, 0, 0, 0, 0 }, GRAD, 0 },
    { "inputs, a turned",     {  5, 17,  9, 1, 0, 1, 0 }, GRAD, 0 },
    { "inputs, b turned",     {  5, 17,  9, 0, 1, 1, 0 }, GRAD, 0 },
    { "inputs, both turned",  {  5, 17,  9, 1, 1, 0, 0 }, GRAD, 0 },
    { "parameters",           { 16, 33,  7, 0, 0, 0, P }, GRAD, 0 },
    { "parameters, both turned", { 16, 33, 7, 1, 1, 1, P }, GRAD, 0 },
    { "filters",              { 16, 31, 48, 0, 0, 0, F }, GRAD, 0 },
    { "filters, a turned",    { 31, 16, 48, 1, 0, 1, F }, GRAD, 0 },
    { "row",                  {  1, 31, 16, 0, 0, 0, ROW }, GRAD, 0 },
    { "row, b turned",        {  1, 31, 16, 0, 1, 1, ROW }, GRAD, 0 },
    { "used twice",           {  6,  6,  6, 0, 0, 0, P | FORM_TWICE }, GRAD, 0 },
    { "used twice, a turned", { 16, 24, 31, 1, 0, 1, F | FORM_TWICE }, GRAD, 0 },
    { "chain",                {  9, 16,  5, 0, 1, 1, P | FORM_CHAIN }, GRAD, 0 },
    { "accumulate",           { 16, 31,  9, 1, 0, 1, F | FORM_TWICE }, TEST | CASE_ACCUMULATE, 0 },
    { "accumulate, chain",    { 16, 31,  9, 0, 0, 1, P | FORM_CHAIN }, TEST | CASE_ACCUMULATE, 0 },
    { "past every tile",      { 130, 150, 300, 1, 0, 0, P }, TEST, 0 },
    { "large values",         { 31, 31,  3, 0, 0, 1, P }, TEST, 1e4 },
    { "tiny values",          { 31, 31,  3, 0, 0, 1, P }, TEST, 1e-6 },
    { "integers",             { 33, 17, 65, 0, 0, 0, P }, EXACT, 0 },
    { "integers, used twice", { 33, 17, 65, 0, 1, 1, P | FORM_TWICE }, EXACT, 0 },
    { "query by key",         { 256, 256, 256, 1, 0, 0, F }, BENCH, 0 },
    { "output by value",      { 256, 256, 256, 0, 0, 0, F }, BENCH, 0 },
};

const OpSuite op_suite = { .op = "matmul", .cases = cases, .n_cases = sizeof cases / sizeof cases[0], .build = build,
                           .products = true };
