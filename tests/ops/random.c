// tests/ops/random.c - cases of the draws: dropout, alone and under a product, and normal noise.
//   dim: kind, n, h, w, c, p in 1/1000 (DROPOUT), images of the batch that the noise belongs to (0: all)
#include <math.h>
#include <stdlib.h>

#include "kernels/pointwise/pointwise.h"
#include "opcase.h"

enum { DROPOUT, RANDN };

static void build(OpRun *r, const OpCase *c) {
    Graph *g = case_graph(r);
    const int64_t *d = c->dim;
    Tensor *state = param_state(case_params(r));
    Tensor *sample = case_index(r, "sample", d[6] ? d[6] : d[1], -(1 << 30), 1 << 30);   // 32 bits of pattern, no order
    if (d[6]) sample = op_view_batch(g, sample, 0, d[1]);
    if (d[0] == RANDN) {
        case_output(r, "y", op_randn(g, d + 1, PURPOSE_NOISE, sample, state), OUT_BITS | OUT_F32);
        return;
    }
    Tensor *x = case_image(r, "x", d[1], d[2], d[3], d[4]);
    case_output(r, "y", op_dropout(g, x, (double)d[5] / 1000, op_purpose("layer"), sample, state), OUT_ZEROS);
}

enum { TEST = CASE_TEST, GRAD = CASE_TEST | CASE_GRAD, BENCH = CASE_BENCH };
static const OpCase cases[] = {
    { "dropout 1",              { DROPOUT, 1, 1, 1,  1, 100 }, GRAD, 0 },
    { "dropout 31",             { DROPOUT, 3, 5, 7, 31, 100 }, GRAD, 0 },
    { "dropout 16",             { DROPOUT, 2, 5, 7, 16, 500 }, GRAD, 0 },
    { "dropout 48",             { DROPOUT, 3, 3, 3, 48, 100 }, GRAD, 0 },
    { "dropout 64, nearly all", { DROPOUT, 2, 8, 8, 64, 990 }, GRAD, 0 },
    { "dropout, none",          { DROPOUT, 2, 3, 3,  3,   0 }, GRAD, 0 },
    { "dropout, large values",  { DROPOUT, 2, 3, 3, 16, 300 }, TEST, 1e4 },
    { "dropout, half the batch", { DROPOUT, 2, 3, 3, 16, 300, 4 }, GRAD, 0 },
    { "randn 1",                { RANDN,   1, 1, 1,  1 }, TEST, 0 },
    { "randn 3",                { RANDN,   3, 5, 7,  3 }, TEST, 0 },
    { "randn 31",               { RANDN,   2, 5, 7, 31 }, TEST, 0 },
    { "randn 64",               { RANDN,   2, 8, 8, 64 }, TEST, 0 },
    { "dropout, long runs",     { DROPOUT, 2, 32, 32, 48, 100 }, TEST, 0 },
    { "randn, long runs",       { RANDN,   2, 32, 32, 3 }, TEST, 0 },
    { "randn, long runs, 64",   { RANDN,   2, 16, 16, 64 }, TEST, 0 },
    { "randn, half the batch",  { RANDN,   2, 8, 8,  3, 0, 4 }, TEST, 0 },
    { "dropout 128 at 32",      { DROPOUT, 16, 32, 32, 128, 100 }, BENCH, 0 },
    { "randn 3 at 32",          { RANDN,   128, 32, 32, 3 }, BENCH, 0 },
};

// With p = 1/2 and 30,000 elements the kept share lies within 5 standard deviations, sqrt(p (1 - p) / n), of 1/2, each
// kept element is doubled, and mean and variance of as many normals are within 5 of theirs, sqrt(1 / n), sqrt(2 / n).
static bool moments(Error *err) {
    static const OpCase drop = { "moments of dropout", { DROPOUT, 3, 25, 25, 16, 500 }, TEST, 0 };
    static const OpCase noise = { "moments of randn", { RANDN, 3, 25, 25, 16 }, TEST, 0 };
    Results *dropped = case_run(&op_suite, &drop, &(RunSpec){ .device = "ref" });
    Results *drawn = case_run(&op_suite, &noise, &(RunSpec){ .device = "ref" });
    const Result *y = results_find(dropped, "y"), *z = results_find(drawn, "y");
    double n = (double)y->n, kept = 0, sum = 0, squares = 0;
    bool doubled = true;
    for (int64_t i = 0; i < y->n; i++) {
        double x = (double)case_value(&drop, case_hash(drop.name, "x"), i, FILL_VALUES);
        kept += y->value[i] != 0;
        doubled &= y->value[i] == 0 || y->value[i] == 2 * x;
        sum += z->value[i];
        squares += z->value[i] * z->value[i];
    }
    double mean = sum / n, variance = squares / n - mean * mean;
    bool ok = doubled && fabs(kept / n - 0.5) < 5 * 0.5 / sqrt(n) && fabs(mean) < 5 / sqrt(n) &&
              fabs(variance - 1) < 5 * sqrt(2 / n);
    if (!ok)
        error_set(err, ERR_DIVERGED, "kept %.4f, doubled %d; mean %.4f, variance %.4f", kept / n, doubled, mean,
                  variance);
    results_free(dropped);
    results_free(drawn);
    return ok;
}

// An image's draws depend on its own sample number alone: the first of a batch of 3 draws what it draws alone.
static bool own_sample(Error *err) {
    static const OpCase three = { "own sample", { RANDN, 3, 5, 7, 3 }, TEST, 0 };
    static const OpCase one = { "own sample", { RANDN, 1, 5, 7, 3 }, TEST, 0 };
    bool ok = true;
    for (int k = 0; case_kinds[k]; k++) {
        Results *a = case_run(&op_suite, &three, &(RunSpec){ .device = case_kinds[k] });
        Results *b = case_run(&op_suite, &one, &(RunSpec){ .device = case_kinds[k] });
        for (int64_t i = 0; ok && i < b->result[0].n; i++)
            if (a->result[0].value[i] != b->result[0].value[i])
                ok = error_set(err, ERR_DIVERGED, "%s: element %lld is %.9g in a batch of 3, %.9g alone", case_kinds[k],
                               (long long)i, a->result[0].value[i], b->result[0].value[i]);
        results_free(a);
        results_free(b);
    }
    return ok;
}
static const OpExtra extra[] = { { "moments", moments }, { "an image draws alike in any batch", own_sample } };

const OpSuite op_suite = { .op = "random", .cases = cases, .n_cases = sizeof cases / sizeof cases[0], .build = build,
                           .extra = extra, .n_extra = 2 };
