// tests/ops/optim.c - cases of the optimiser: STEPS updates in one graph, their gradients given.
//   dim: clip norm in 1/1000, warm-up, EMA ramp, step whose gradient holds an infinity (0: none), steps without label
//        gradients from this one on (0: all have them), EMA decay in 1/1000
#include <math.h>

#include "opcase.h"

enum { STEPS = 4, PARAMS = 4 };
static const int64_t shapes[PARAMS][4] = { { 5, 3 }, { 31 }, { 4, 7 }, { 130, 300 } };
static const int dims[PARAMS] = { 2, 1, 2, 2 };
static const char *const names[PARAMS] = { "w", "b", "label", "wide" };

static void build(OpRun *r, const OpCase *c) {
    Graph *g = case_graph(r);
    const int64_t *d = c->dim;
    Tensor *w[PARAMS];
    for (int i = 0; i < PARAMS; i++) w[i] = case_param(r, names[i], dims[i], shapes[i]);
    ParamSet *ps = case_params(r);
    param_mark_label(param_find(ps, "label"));
    case_seal(r);
    AdamConfig config = { .lr = 0.01, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .clip_norm = (double)d[0] / 1000,
                          .ema_decay = (double)d[5] / 1000, .warmup = d[1], .ema_ramp = d[2] != 0 };
    for (int step = 1; step <= STEPS; step++) {
        bool labelled = !d[4] || step < d[4];
        for (int i = 0; i < PARAMS; i++) {
            char name[32];
            snprintf(name, sizeof name, "g%d.%s", step, names[i]);
            Tensor *gradient = case_input(r, name, dims[i], shapes[i], IN_CONSTANT | IN_F32);
            if (step == d[3] && i == 0) {                       // 1e30 squared is no float: the norm overflows
                Tensor *huge = op_axpby(g, 1e30f, gradient, 0, NULL);
                gradient = op_axpby(g, 1e30f, huge, 0, NULL);
            }
            op_copy_to(g, gradient, w[i]->grad);
        }
        param_append_adam(ps, g, &config, labelled);
        op_step_advance(g, param_state(ps));
    }
    for (int i = 0; i < PARAMS; i++) {
        char name[32];
        snprintf(name, sizeof name, "ema.%s", names[i]);
        case_output(r, names[i], w[i], OUT_NO_GRAD | OUT_F32);
        case_output(r, name, param_ema(param_find(ps, names[i])), OUT_NO_GRAD | OUT_F32);
    }
    case_state(r);
}

static double terms(const OpCase *c) { (void)c; return 130 * 300; }

static const OpCase cases[] = {
    //                            clip warm ramp inf label decay
    { "plain",                  {    0, 0, 0, 0, 0,  999 }, CASE_TEST, 0 },
    { "clipped",                { 1000, 0, 0, 0, 0,  999 }, CASE_TEST, 0 },
    { "clip beyond the norm",   { 1000000, 0, 0, 0, 0, 999 }, CASE_TEST, 0 },
    { "warm-up",                {    0, 3, 0, 0, 0,  900 }, CASE_TEST, 0 },
    { "EMA ramp",               {    0, 0, 1, 0, 0,  999 }, CASE_TEST, 0 },
    { "EMA ramp, at its end",   {    0, 0, 1, 0, 0,  150 }, CASE_TEST, 0 },
    { "infinite at once",       { 1000, 2, 1, 1, 0,  999 }, CASE_TEST, 0 },
    { "infinite in step 3",     { 1000, 2, 1, 3, 0,  999 }, CASE_TEST, 0 },
    { "no label gradients",     {    0, 0, 0, 0, 1,  999 }, CASE_TEST, 0 },
    { "none from step 3 on",    { 1000, 2, 1, 0, 3,  999 }, CASE_TEST, 0 },
    { "large gradients",        { 1000, 0, 0, 0, 0,  999 }, CASE_TEST, 1e4 },
    { "tiny gradients",         {    0, 0, 0, 0, 0,  999 }, CASE_TEST, 1e-6 },
};

// ---- the definition (Kingma and Ba, algorithm 1, in PyTorch's order; EMA as in the published code), written again in
// double for one tensor of the case, against ref64, where rounding leaves 1e-12.
static double norm_of_step(const OpCase *c, int step, bool labelled) {
    double sum = 0;
    for (int i = 0; i < PARAMS; i++) {
        char name[32];
        snprintf(name, sizeof name, "g%d.%s", step, names[i]);
        int64_t n = shapes[i][0] * (dims[i] == 2 ? shapes[i][1] : 1);
        for (int64_t j = 0; j < n && (labelled || i != 2); j++) {
            double v = (double)case_value(c, case_hash(c->name, name), j, FILL_VALUES);
            sum += v * v;
        }
    }
    return sqrt(sum);
}

static bool check_tensor(const OpCase *c, const Results *all, const double *norm, int i, Error *err) {
    const int64_t *d = c->dim;
    const Result *w = results_find(all, names[i]);
    char name[32];
    snprintf(name, sizeof name, "ema.%s", names[i]);
    const Result *average = results_find(all, name);
    for (int64_t j = 0; j < w->n; j++) {
        double x = (double)case_value(c, case_hash(c->name, names[i]), j, FILL_VALUES), m = 0, v = 0, ema = 0;
        int count = 0, updates = 0;
        for (int step = 1; step <= STEPS; step++) {
            bool labelled = !d[4] || step < d[4], has = labelled || i != 2;
            if (step == d[3]) continue;                                            // skipped as a whole
            double clip = (double)d[0] / 1000, lr = 0.01;
            snprintf(name, sizeof name, "g%d.%s", step, names[i]);
            double g = has ? (double)case_value(c, case_hash(c->name, name), j, FILL_VALUES) : 0;
            if (clip > 0) g *= fmin(1, clip / (norm[step] + 1e-6));
            if (d[1] > 0) lr *= fmin(1, (double)updates / (double)d[1]);
            if (has || count) {
                count++;
                m = 0.9 * m + (1 - 0.9) * g;
                v = 0.999 * v + (1 - 0.999) * g * g;
                x -= lr * (m / (1 - pow(0.9, count))) / (sqrt(v / (1 - pow(0.999, count))) + 1e-8);
            }
            double decay = (double)d[5] / 1000;
            if (d[2]) decay = fmin(decay, (1.0 + updates) / (10.0 + updates));
            ema = decay * ema + (1 - decay) * x;
            updates++;
        }
        // grad_norm is stored as f32: clipping carries its rounding, 2^-24, into m / sqrt(v), lr of it a step
        double bound = 1e-12 * (1 + fabs(x)) + (d[0] ? STEPS * 0.01 * 0x1p-24 : 0);
        if (fabs(w->value[j] - x) > bound || fabs(average->value[j] - ema) > bound)
            return error_set(err, ERR_DIVERGED, "%s: %s[%lld] = %.15g, EMA %.15g; by the definition %.15g, %.15g",
                             c->name, names[i], (long long)j, w->value[j], average->value[j], x, ema);
    }
    return true;
}

static bool definition(Error *err) {
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        Results *all = case_run(&op_suite, &cases[k], &(RunSpec){ .device = "ref64" });
        bool ok = true;
        double norm[STEPS + 1];
        for (int step = 1; step <= STEPS; step++)
            norm[step] = norm_of_step(&cases[k], step, !cases[k].dim[4] || step < cases[k].dim[4]);
        for (int i = 0; ok && i < 3; i++) ok = check_tensor(&cases[k], all, norm, i, err);
        bool skipped = results_find(all, "state.skipped")->value[0] == (cases[k].dim[3] ? 1 : 0);
        bool updates = results_find(all, "state.updates")->value[0] == (cases[k].dim[3] ? STEPS - 1 : STEPS);
        if (ok && !(skipped && updates))
            ok = error_set(err, ERR_DIVERGED, "%s: counters of updates and skips", cases[k].name);
        results_free(all);
        if (!ok) return false;
    }
    return true;
}
static const OpExtra extra[] = { { "equals the definition", definition } };

const OpSuite op_suite = { .op = "optim", .cases = cases, .n_cases = sizeof cases / sizeof cases[0], .build = build,
                           .terms = terms, .extra = extra, .n_extra = 1 };
