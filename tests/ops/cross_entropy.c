// tests/ops/cross_entropy.c - cases of cross entropy, plain and with an offset of the classes.
//   dim: n, classes, offset
#include "opcase.h"

static void build(OpRun *r, const OpCase *c) {
    const int64_t *d = c->dim;
    Tensor *logits = case_input(r, "logits", 2, d, IN_F32);
    Tensor *label = case_index(r, "label", d[0], 0, (int32_t)d[1]);
    Tensor *offset = d[2] ? case_input(r, "offset", 1, &d[1], IN_CONSTANT | IN_F32) : NULL;
    Tensor *loss = op_cross_entropy(case_graph(r), logits, label, offset);
    case_output(r, "loss", loss, OUT_NO_GRAD | OUT_F32);
    case_loss(r, loss);
}

static double terms(const OpCase *c) { return (double)(c->dim[0] > c->dim[1] ? c->dim[0] : c->dim[1]); }

enum { TEST = CASE_TEST, GRAD = CASE_TEST | CASE_GRAD, BENCH = CASE_BENCH };
static const OpCase cases[] = {
    { "one row, two classes",  { 1, 2, 0 }, GRAD, 0 },
    { "one class",             { 3, 1, 0 }, GRAD, 0 },
    { "10 classes",            { 7, 10, 0 }, GRAD, 0 },
    { "10 classes, offset",    { 7, 10, 1 }, GRAD, 0 },
    { "100 classes, offset",   { 33, 100, 1 }, GRAD, 0 },
    { "many rows",             { 300, 10, 1 }, TEST, 0 },
    { "many classes",          { 5, 1000, 1 }, TEST, 0 },
    { "confident",             { 33, 10, 0 }, TEST, 30 },
    { "large values",          { 7, 10, 1 }, TEST, 1e4 },
    { "tiny values",           { 7, 10, 1 }, TEST, 1e-6 },
    { "128 of 100",            { 128, 100, 1 }, BENCH, 0 },
};

const OpSuite op_suite = { .op = "cross_entropy", .cases = cases, .n_cases = sizeof cases / sizeof cases[0],
                           .build = build, .terms = terms };
