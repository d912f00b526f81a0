// tests/ops/sgd.c - cases of SGD: STEPS updates in one graph, gradients and learning rates given.
//   dim: momentum in 1/1000, weight decay in 1/1000, step whose gradient holds an infinity (0: none)
#include <math.h>

#include "opcase.h"

enum { STEPS = 4, PARAMS = 3 };
static const int64_t shapes[PARAMS][4] = { { 5, 3 }, { 31 }, { 130, 300 } };
static const int dims[PARAMS] = { 2, 1, 2 };
static const char *const names[PARAMS] = { "w", "b", "wide" };
static const float rates[STEPS + 1] = { 0, 0.1f, 0.05f, 0.2f, 0.01f };

static void build(OpRun *r, const OpCase *c) {
    Graph *g = case_graph(r);
    Tensor *w[PARAMS];
    for (int i = 0; i < PARAMS; i++) w[i] = case_param(r, names[i], dims[i], shapes[i]);
    ParamSet *ps = case_params(r);
    case_seal(r);
    SgdConfig config = { .momentum = (double)c->dim[0] / 1000, .weight_decay = (double)c->dim[1] / 1000 };
    for (int step = 1; step <= STEPS; step++) {
        char name[32];
        for (int i = 0; i < PARAMS; i++) {
            snprintf(name, sizeof name, "g%d.%s", step, names[i]);
            Tensor *gradient = case_input(r, name, dims[i], shapes[i], IN_CONSTANT | IN_F32);
            if (step == c->dim[2] && i == 0) {                  // 1e30 squared is no float: the norm overflows
                Tensor *huge = op_axpby(g, 1e30f, gradient, 0, NULL);
                gradient = op_axpby(g, 1e30f, huge, 0, NULL);
            }
            op_copy_to(g, gradient, w[i]->grad);
        }
        snprintf(name, sizeof name, "lr%d", step);
        param_append_sgd(ps, g, case_given(r, name, 1, (int64_t[]){ 1 }, &rates[step]), &config);
    }
    for (int i = 0; i < PARAMS; i++) case_output(r, names[i], w[i], OUT_NO_GRAD | OUT_F32);
    case_state(r);
}

static double terms(const OpCase *c) { (void)c; return 130 * 300; }

static const OpCase cases[] = {
    //                        mom  decay inf
    { "plain",              {   0,  0, 0 }, CASE_TEST, 0 },
    { "momentum",           { 900,  0, 0 }, CASE_TEST, 0 },
    { "weight decay",       {   0, 20, 0 }, CASE_TEST, 0 },
    { "both",               { 900,  1, 0 }, CASE_TEST, 0 },
    { "infinite at once",   { 900,  1, 1 }, CASE_TEST, 0 },
    { "infinite in step 3", { 900,  1, 3 }, CASE_TEST, 0 },
    { "large gradients",    { 900,  1, 0 }, CASE_TEST, 1e4 },
    { "tiny gradients",     { 900,  1, 0 }, CASE_TEST, 1e-6 },
};

// ---- torch.optim.SGD without dampening and Nesterov, written again in double, against ref64, where
// rounding leaves 1e-12.
static bool check_tensor(const OpCase *c, const Results *all, int i, Error *err) {
    const Result *w = results_find(all, names[i]);
    double momentum = (double)c->dim[0] / 1000, decay = (double)c->dim[1] / 1000;
    for (int64_t j = 0; j < w->n; j++) {
        double x = (double)case_value(c, case_hash(c->name, names[i]), j, FILL_VALUES), m = 0;
        for (int step = 1; step <= STEPS; step++) {
            char name[32];
            if (step == c->dim[2]) continue;                                       // skipped as a whole
            snprintf(name, sizeof name, "g%d.%s", step, names[i]);
            double g = (double)case_value(c, case_hash(c->name, name), j, FILL_VALUES) + decay * x;
            m = momentum * m + g;
            x -= (double)rates[step] * m;
        }
        if (fabs(w->value[j] - x) > 1e-12 * (fabs(x) + (c->scale != 0 ? c->scale : 1)))
            return error_set(err, ERR_DIVERGED, "%s: %s[%lld] = %.15g, by the definition %.15g", c->name, names[i],
                             (long long)j, w->value[j], x);
    }
    return true;
}

static bool definition(Error *err) {
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        Results *all = case_run(&op_suite, &cases[k], &(RunSpec){ .device = "ref64" });
        bool ok = true, skips = cases[k].dim[2] != 0;
        for (int i = 0; ok && i < PARAMS; i++) ok = check_tensor(&cases[k], all, i, err);
        if (ok && (results_find(all, "state.skipped")->value[0] != skips ||
                   results_find(all, "state.updates")->value[0] != STEPS - skips))
            ok = error_set(err, ERR_DIVERGED, "%s: counters of updates and skips", cases[k].name);
        results_free(all);
        if (!ok) return false;
    }
    return true;
}
static const OpExtra extra[] = { { "equals the definition", definition } };

const OpSuite op_suite = { .op = "sgd", .cases = cases, .n_cases = sizeof cases / sizeof cases[0], .build = build,
                           .terms = terms, .extra = extra, .n_extra = 1 };
