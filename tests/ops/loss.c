// tests/ops/loss.c - cases of the CBDM objective, plain and balanced.
//   dim: n, h, w, c, balanced, share in 1/4, tau in 1/4, gamma in 1/4, weighted: the balancing term by image
#include <math.h>
#include <stdlib.h>

#include "opcase_impl.h"

enum { T = 1024 };
typedef struct { Tensor *hat, *eps; CbdmLossConfig config; int64_t n, shape[4]; bool balanced; } Parts;

// The balancing term's weight of image i: images without a label have none.
static float weight_of(const OpCase *c, int64_t i) { return c->dim[8] ? (float)(i % 3) / 2 : 1; }

static Parts parts(OpRun *r, const OpCase *c) {
    const int64_t *d = c->dim;
    Parts p = { .n = d[0], .shape = { d[0], d[1], d[2], d[3] }, .balanced = d[4] != 0 };
    p.hat = case_input(r, "eps_hat", 4, (int64_t[]){ d[0] * (p.balanced ? 2 : 1), d[1], d[2], d[3] },
                       IN_F32);
    p.eps = case_input(r, "eps", 4, p.shape, IN_CONSTANT | IN_F32);
    p.config = (CbdmLossConfig){ .T = T, .tau = (double)d[6] / 4, .gamma = (double)d[7] / 4,
                                 .share = (double)d[5] / 4 };
    return p;
}

static void build(OpRun *r, const OpCase *c) {
    Parts p = parts(r, c);
    Tensor *t = case_index(r, "t", p.n, 0, T);
    Tensor *weight = NULL;
    if (c->dim[8]) {
        float values[8];
        for (int64_t i = 0; i < p.n; i++) values[i] = weight_of(c, i);
        weight = case_given(r, "weight", 1, &p.n, values);
    }
    CbdmLoss loss = op_cbdm_loss(case_graph(r), p.hat, p.eps, t, weight, &p.config);
    case_output(r, "per_image", loss.per_image, OUT_NO_GRAD | OUT_F32);
    case_output(r, "loss", loss.loss, OUT_NO_GRAD | OUT_F32);
    case_loss(r, loss.loss);
}

// The same from the paper's formula in plain operations, stop-gradients included; the total is its only output.
static void build_composed(OpRun *r, const OpCase *c) {
    Graph *g = case_graph(r);
    Parts p = parts(r, c);
    case_index(r, "t", p.n, 0, T);
    Tensor *h = p.balanced ? op_view_batch(g, p.hat, 0, p.n) : p.hat, *error = op_axpby(g, 1, h, -1, p.eps);
    Tensor *total = op_axpby(g, (float)p.config.share, op_mean(g, op_mul(g, error, error)), 0, NULL);
    if (p.balanced) {
        Tensor *hb = op_view_batch(g, p.hat, p.n, 2 * p.n);
        Tensor *pull = op_axpby(g, 1, h, -1, op_stop_grad(g, hb)), *push = op_axpby(g, 1, op_stop_grad(g, h), -1, hb);
        Tensor *w = case_input(r, "w", 4, p.shape, IN_CONSTANT | IN_F32);      // overwritten below
        Tensor *first = op_mean(g, op_mul(g, w, op_mul(g, pull, pull)));
        Tensor *second = op_mean(g, op_mul(g, w, op_mul(g, push, push)));
        Tensor *balancing = op_axpby(g, 1, first, (float)p.config.gamma, second);
        total = op_axpby(g, 1, total, (float)p.config.share, balancing);
    }
    case_output(r, "total", total, OUT_NO_GRAD | OUT_F32);
    case_loss(r, total);
}

static double terms(const OpCase *c) { return (double)(c->dim[0] * c->dim[1] * c->dim[2] * c->dim[3]); }

enum { TEST = CASE_TEST, GRAD = CASE_TEST | CASE_GRAD, BENCH = CASE_BENCH };
static const OpCase cases[] = {
    { "plain",                   { 3, 5, 7, 3, 0, 4, 1, 1 }, GRAD, 0 },
    { "plain, 1",                { 1, 1, 1, 1, 0, 4, 1, 1 }, GRAD, 0 },
    { "plain, share 3/4",        { 2, 8, 8, 3, 0, 3, 1, 1 }, GRAD, 0 },
    { "balanced",                { 3, 5, 7, 3, 1, 4, 1, 1 }, TEST, 0 },
    { "balanced, 1",             { 1, 1, 1, 1, 1, 4, 4, 1 }, TEST, 0 },
    { "balanced, share 1/4",     { 2, 8, 8, 3, 1, 1, 4, 1 }, TEST, 0 },
    { "balanced, gamma 0",       { 2, 3, 3, 3, 1, 4, 4, 0 }, TEST, 0 },
    { "balanced, gamma 2",       { 2, 3, 3, 31, 1, 4, 4, 8 }, TEST, 0 },
    { "balanced, tau 0",         { 2, 3, 3, 3, 1, 4, 0, 1 }, TEST, 0 },
    { "balanced, weights",       { 5, 5, 7, 3, 1, 4, 4, 1, 1 }, TEST, 0 },
    { "balanced, weight 0",      { 1, 3, 3, 3, 1, 4, 4, 1, 1 }, TEST, 0 },
    { "balanced, long",          { 2, 32, 32, 31, 1, 4, 1, 1 }, TEST, 0 },
    { "balanced, large values",  { 3, 5, 7, 3, 1, 4, 1, 1 }, TEST, 1e4 },
    { "balanced, tiny values",   { 3, 5, 7, 3, 1, 4, 1, 1 }, TEST, 1e-6 },
    { "128 at 32",               { 128, 32, 32, 3, 1, 4, 1, 1 }, BENCH, 0 },
};

// ---- the composed form, run with w set to weight tau t / T, on ref64
static Results *run_composed(const OpCase *c) {
    static const OpSuite composed = { .op = "loss", .build = build_composed };
    RunSpec spec = { .device = "ref64" };
    Device *d = case_device(&spec);
    OpRun *r = case_record(&composed, c, d, &spec, true);
    case_fill(r, FILL_VALUES, 0);
    const int32_t *t = NULL;
    for (int i = 0; i < r->n_in; i++)
        if (r->in[i].index) t = r->in[i].index;
    for (int i = 0; i < r->n_in; i++) {
        if (r->in[i].name[0] != 'w') continue;
        int64_t numel = tensor_numel(r->in[i].t), image = numel / r->in[i].t->shape[0];
        double *w = xmalloc((size_t)numel * sizeof *w);
        for (int64_t j = 0; j < numel; j++) {
            double weight = (double)weight_of(c, j / image);
            w[j] = weight * (double)c->dim[6] / 4 * t[j / image] / T;
        }
        tensor_write(r->in[i].t, w);
        free(w);
    }
    graph_run(r->g);
    Results *all = case_results(&composed, r);
    case_free(r);
    device_close(d);
    return all;
}

// Both sum at most K terms of one sign in double: they differ by at most 2 K u_64 of the largest.
static bool composed_agrees(Error *err) {
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const OpCase *c = &cases[i];
        if (!(c->use & CASE_TEST)) continue;
        Results *a = case_run(&op_suite, c, &(RunSpec){ .device = "ref64" }), *b = run_composed(c);
        const Result *loss = results_find(a, "loss"), *total = results_find(b, "total");
        const Result *da = results_find(a, "d eps_hat"), *db = results_find(b, "d eps_hat");
        double bound = 2 * terms(c) * 0x1p-53, top = 0;
        bool ok = fabs(loss->value[0] - total->value[0]) <= bound * fabs(total->value[0]);
        if (!ok)
            error_set(err, ERR_DIVERGED, "%s: total %.17g, composed %.17g", c->name, loss->value[0], total->value[0]);
        for (int64_t j = 0; j < db->n; j++) top = fmax(top, fabs(db->value[j]));
        for (int64_t j = 0; ok && j < db->n; j++)
            if (!(fabs(da->value[j] - db->value[j]) <= bound * top))
                ok = error_set(err, ERR_DIVERGED, "%s: d eps_hat[%lld] = %.17g, composed %.17g", c->name, (long long)j,
                               da->value[j], db->value[j]);
        results_free(a);
        results_free(b);
        if (!ok) return false;
    }
    return true;
}
static const OpExtra extra[] = { { "equals the formula in plain operations", composed_agrees } };

const OpSuite op_suite = { .op = "loss", .cases = cases, .n_cases = sizeof cases / sizeof cases[0], .build = build,
                           .terms = terms, .extra = extra, .n_extra = 1 };
