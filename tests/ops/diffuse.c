// tests/ops/diffuse.c - cases of the forward process and of one reverse step.
//   dim: kind, n, h, w, c, guided, clip in 1/1000, sigma in 1/1000
#include "opcase.h"

enum { ADD_NOISE, STEP, STEPS = 50 };

static void record_step(OpRun *r, const OpCase *c) {
    Graph *g = case_graph(r);
    const int64_t *d = c->dim;
    Tensor *x = case_input(r, "x", 4, d + 1, IN_CONSTANT | IN_F32);
    Tensor *hat = case_input(r, "eps_hat", 4, (int64_t[]){ d[1] * (d[5] ? 2 : 1), d[2], d[3], d[4] },
                             IN_CONSTANT | IN_F32);
    // x, eps, prev, sigma, guidance, x0_x, x0_eps, x0_clip of three steps; the case's state stands at row 1
    float sigma = (float)d[7] / 1000, clip = (float)d[6] / 1000;
    float rows[3][8] = { { 9, 9, 9, 9, 9, 9, 9, 9 },
                         { 1.05f, -0.21f, 0, sigma, 1.5f, 1.4f, -0.9f, clip },
                         { 9, 9, 9, 9, 9, 9, 9, 9 } };
    Tensor *coef = case_given(r, "coef", 2, (int64_t[]){ 3, 8 }, rows[0]);
    Tensor *sample = case_index(r, "sample", d[1], 0, 1 << 30);
    op_sampler_step(g, x, hat, d[5] != 0, coef, sample, param_state(case_params(r)));
    case_output(r, "x", x, OUT_F32);
}

static void build(OpRun *r, const OpCase *c) {
    const int64_t *d = c->dim;
    if (d[0] == STEP) {
        record_step(r, c);
        return;
    }
    float root[STEPS][2];
    for (int t = 0; t < STEPS; t++) root[t][0] = 1 - (float)t / STEPS, root[t][1] = (float)t / 64;
    Tensor *x0 = case_input(r, "x0", 4, d + 1, IN_CONSTANT | IN_F32);
    Tensor *eps = case_input(r, "eps", 4, d + 1, IN_CONSTANT | IN_F32);
    Tensor *t = case_index(r, "t", d[1], 0, STEPS), *table = case_given(r, "root", 2, (int64_t[]){ STEPS, 2 }, root[0]);
    case_output(r, "xt", op_add_noise(case_graph(r), x0, eps, t, table), 0);
}

static double terms(const OpCase *c) { (void)c; return 4; }

static const OpCase cases[] = {
    { "add noise, 1",          { ADD_NOISE, 1, 1, 1,  1 }, CASE_TEST, 0 },
    { "add noise",             { ADD_NOISE, 3, 5, 7,  3 }, CASE_TEST, 0 },
    { "add noise, 8x8",        { ADD_NOISE, 2, 8, 8,  3 }, CASE_TEST, 0 },
    { "add noise, large",      { ADD_NOISE, 3, 3, 3, 31 }, CASE_TEST, 1e4 },
    { "step",                  { STEP, 3, 5, 7, 3 }, CASE_TEST, 0 },
    { "step, 1",               { STEP, 1, 1, 1, 1 }, CASE_TEST, 0 },
    { "step with noise",       { STEP, 2, 8, 8, 3, 0, 0, 300 }, CASE_TEST, 0 },
    { "step with noise, odd",  { STEP, 3, 5, 7, 3, 0, 0, 300 }, CASE_TEST, 0 },
    { "guided",                { STEP, 3, 5, 7, 3, 1 }, CASE_TEST, 0 },
    { "guided with noise",     { STEP, 2, 8, 8, 3, 1, 0, 300 }, CASE_TEST, 0 },
    { "clipped",               { STEP, 3, 5, 7, 3, 0, 1000 }, CASE_TEST, 0 },
    { "clipped, guided, noise", { STEP, 2, 5, 7, 3, 1, 700, 300 }, CASE_TEST, 0 },
    { "add noise, long",       { ADD_NOISE, 2, 32, 32, 31 }, CASE_TEST, 0 },
    { "step, long",            { STEP, 2, 32, 32, 31, 1, 900, 300 }, CASE_TEST, 0 },
    { "step, large values",    { STEP, 2, 3, 3, 3, 1, 0, 300 }, CASE_TEST, 1e4 },
    { "add noise, 32",         { ADD_NOISE, 128, 32, 32, 3 }, CASE_BENCH, 0 },
    { "step, 32",              { STEP, 128, 32, 32, 3, 1, 0, 300 }, CASE_BENCH, 0 },
};

const OpSuite op_suite = { .op = "diffuse", .cases = cases, .n_cases = sizeof cases / sizeof cases[0], .build = build,
                           .terms = terms };
