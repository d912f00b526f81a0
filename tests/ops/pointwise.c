// tests/ops/pointwise.c - cases of the element-wise operations, of the mean, and of a vector added to every pixel.
//   dim: kind, n, h, w, c, copies (ADD_CHANNEL); or first channel of the views, of as many channels of wider bases
#include <math.h>

#include "opcase.h"

enum { SILU, AXPBY, SCALE, ADD, TWICE, MUL, SQUARE, MEAN, ADD_CHANNEL, COPY, FILL, STOP, SILU_MATRIX, RELU };

// A range of channels of an image of two ranges more, or the image itself.
static Tensor *operand(OpRun *r, const OpCase *c, const char *name) {
    const int64_t *d = c->dim;
    if (!d[6]) return case_image(r, name, d[1], d[2], d[3], d[4]);
    return op_view_channel(case_graph(r), case_image(r, name, d[1], d[2], d[3], 3 * d[4]), d[4], 2 * d[4]);
}

// Two ranges of one image's channels: a copy of x, and another copy or a number.
static Tensor *copies(OpRun *r, const OpCase *c, bool fill) {
    Graph *g = case_graph(r);
    Tensor *x = operand(r, c, "x");
    x->flags &= ~(unsigned)TENSOR_NEEDS_GRAD;
    int64_t both[] = { c->dim[1], c->dim[2], c->dim[3], 2 * c->dim[4] };
    Tensor *y = c->dim[4] % 16 ? graph_tensor(g, graph_dtype(g), 4, both) : graph_image(g, graph_dtype(g), both);
    y->name = "copies";
    Tensor *half[] = { op_view_channel(g, y, 0, c->dim[4]), op_view_channel(g, y, c->dim[4], 2 * c->dim[4]) };
    op_copy_to(g, x, half[0]);
    if (fill) op_fill_to(g, half[1], 0.75f);
    else op_copy_to(g, x, half[1]);
    return y;
}

static Tensor *record(OpRun *r, const OpCase *c) {
    Graph *g = case_graph(r);
    const int64_t *d = c->dim;
    switch (d[0]) {
    case SILU: return op_silu(g, operand(r, c, "a"));
    case RELU: return op_relu(g, operand(r, c, "a"));
    case SILU_MATRIX: return op_silu(g, case_input(r, "a", 2, (int64_t[]){ d[1], d[4] }, 0));
    case AXPBY: return op_axpby(g, 0.75f, operand(r, c, "a"), -1.5f, operand(r, c, "b"));
    case SCALE: return op_axpby(g, -0.3f, operand(r, c, "a"), 0, NULL);
    case ADD: return op_add(g, operand(r, c, "a"), operand(r, c, "b"));
    case MUL: return op_mul(g, operand(r, c, "a"), operand(r, c, "b"));
    case MEAN: return op_mean(g, operand(r, c, "a"));
    case COPY: return copies(r, c, false);
    case FILL: return copies(r, c, true);
    default: break;
    }
    Tensor *a = operand(r, c, "a");
    if (d[0] == TWICE) return op_add(g, a, a);
    if (d[0] == SQUARE) return op_mul(g, a, a);
    if (d[0] == STOP) {                    // a * sg(b) + b: b's gradient comes from the sum alone
        Tensor *b = operand(r, c, "b"), *seven = op_axpby(g, 7, b, 0, NULL);
        return op_add(g, op_mul(g, a, op_stop_grad(g, seven)), b);
    }
    return op_add_channel(g, a, case_input(r, "v", 2, (int64_t[]){ d[5] * d[1], d[4] }, IN_F32));
}

// stop_grad makes the analytic gradient differ from the derivative on purpose: checked by equality with its definition.
static void build(OpRun *r, const OpCase *c) { case_output(r, "y", record(r, c), c->dim[0] == MEAN ? OUT_F32 : 0); }

static double terms(const OpCase *c) {
    const int64_t *d = c->dim;
    double hw = (double)(d[2] * d[3]);
    return d[0] == MEAN ? hw * (double)(d[1] * d[4]) : d[0] == ADD_CHANNEL ? hw * (double)d[5] : 2;
}

enum { TEST = CASE_TEST, GRAD = CASE_TEST | CASE_GRAD, BENCH = CASE_BENCH };
static const OpCase cases[] = {
    { "silu",                      { SILU,  2, 5, 7, 31 }, GRAD, 0 },
    { "silu, 1",                   { SILU,  1, 1, 1,  1 }, GRAD, 0 },
    { "silu, 64",                  { SILU,  3, 8, 8, 64 }, GRAD, 0 },
    { "silu, view",                { SILU,  2, 3, 3, 16, 0, 1 }, GRAD, 0 },
    { "silu, matrix",              { SILU_MATRIX, 3, 1, 1, 33 }, GRAD, 0 },
    { "silu, saturated",           { SILU,  2, 5, 7, 16 }, TEST, 30 },
    { "silu, large values",        { SILU,  2, 5, 7, 16 }, TEST, 1e4 },
    { "silu, tiny values",         { SILU,  2, 5, 7, 16 }, TEST, 1e-6 },
    { "relu",                      { RELU,  2, 5, 7, 31 }, GRAD, 0 },
    { "relu, 48",                  { RELU,  2, 5, 7, 48 }, GRAD, 0 },
    { "relu, view",                { RELU,  2, 3, 3, 16, 0, 1 }, GRAD, 0 },
    { "relu, odd view",            { RELU,  2, 3, 3,  3, 0, 1 }, GRAD, 0 },
    { "relu, zeros",               { RELU,  2, 5, 7, 16 }, TEST | CASE_EXACT, 0 },
    { "relu, long",                { RELU,  2, 32, 32, 48 }, TEST, 0 },
    { "axpby",                     { AXPBY, 2, 5, 7, 31 }, GRAD, 0 },
    { "axpby, 48",                 { AXPBY, 2, 8, 8, 48 }, GRAD, 0 },
    { "axpby, views",              { AXPBY, 2, 5, 7, 16, 0, 1 }, GRAD, 0 },
    { "axpby, odd views",          { AXPBY, 2, 3, 3,  3, 0, 1 }, GRAD, 0 },
    { "axpby, large values",       { AXPBY, 2, 3, 3,  3 }, TEST, 1e4 },
    { "scale",                     { SCALE, 3, 3, 3, 16 }, GRAD, 0 },
    { "scale, view",               { SCALE, 3, 3, 3,  3, 0, 1 }, GRAD, 0 },
    { "add",                       { ADD,   1, 5, 7, 48 }, GRAD, 0 },
    { "add, views",                { ADD,   2, 3, 3, 16, 0, 1 }, GRAD, 0 },
    { "x + x",                     { TWICE, 2, 3, 3, 16 }, GRAD, 0 },
    { "x + x, view",               { TWICE, 2, 3, 3,  3, 0, 1 }, GRAD, 0 },
    { "mul",                       { MUL,   2, 5, 7, 31 }, GRAD, 0 },
    { "mul, views",                { MUL,   2, 5, 7, 16, 0, 1 }, GRAD, 0 },
    { "x x",                       { SQUARE, 2, 5, 7, 16 }, GRAD, 0 },
    { "x x, view",                 { SQUARE, 1, 5, 7,  3, 0, 1 }, GRAD, 0 },
    { "mean of 1",                 { MEAN,  1, 1, 1,  1 }, GRAD, 0 },
    { "mean",                      { MEAN,  3, 5, 7, 31 }, GRAD, 0 },
    { "mean, 64",                  { MEAN,  3, 8, 8, 64 }, GRAD, 0 },
    { "mean, large values",        { MEAN,  3, 5, 7, 16 }, TEST, 1e4 },
    { "add channel",               { ADD_CHANNEL, 2, 5, 7, 31, 1 }, GRAD, 0 },
    { "add channel, 48",           { ADD_CHANNEL, 3, 3, 3, 48, 1 }, GRAD, 0 },
    { "add channel, 2 copies",     { ADD_CHANNEL, 2, 5, 7, 16, 2 }, GRAD, 0 },
    { "add channel, 3 copies",     { ADD_CHANNEL, 2, 3, 3,  3, 3 }, GRAD, 0 },
    { "add channel, 1x1",          { ADD_CHANNEL, 1, 1, 1,  1, 2 }, GRAD, 0 },
    { "silu, long",                { SILU,  2, 32, 32, 48 }, TEST, 0 },
    { "axpby, long",               { AXPBY, 1, 33, 65, 31 }, TEST, 0 },
    { "mean, long",                { MEAN,  3, 32, 32, 31 }, TEST, 0 },
    { "add channel, long",         { ADD_CHANNEL, 2, 32, 32, 64, 2 }, TEST, 0 },
    { "add channel, many channels", { ADD_CHANNEL, 2, 3, 3, 288, 2 }, TEST, 0 },
    { "stop grad",                 { STOP,  2, 3, 3, 16 }, TEST, 0 },
    { "copy",                      { COPY,  2, 5, 7, 16 }, TEST, 0 },
    { "copy, 3 channels",          { COPY,  2, 3, 3,  3 }, TEST, 0 },
    { "copy, view",                { COPY,  2, 3, 3, 16, 0, 1 }, TEST, 0 },
    { "fill",                      { FILL,  2, 5, 7, 16 }, TEST, 0 },
    { "fill, 3 channels",          { FILL,  2, 3, 3,  3 }, TEST, 0 },
    { "silu of 128 by 512",        { SILU_MATRIX, 128, 1, 1, 512 }, BENCH, 0 },
    { "add of 16 x 32 x 32 x 128", { ADD,  16, 32, 32, 128 }, BENCH, 0 },
    { "add channel of 16 x 32 x 32 x 128", { ADD_CHANNEL, 8, 32, 32, 128, 2 }, BENCH, 0 },
};

// d a = cotangent * sg(7 b), d b = cotangent.
static bool stop_grad(Error *err) {
    static const OpCase c = { "stop grad", { STOP, 2, 3, 3, 16 }, TEST, 0 };
    Results *all = case_run(&op_suite, &c, &(RunSpec){ .device = "ref" });
    const Result *da = results_find(all, "d a"), *db = results_find(all, "d b");
    bool ok = true;
    for (int64_t i = 0; ok && i < da->n; i++) {
        float cot = case_value(&c, case_hash(c.name, "cotangent.y"), i, FILL_VALUES);
        float b = case_value(&c, case_hash(c.name, "b"), i, FILL_VALUES), seven = 7 * b, product = cot * seven;
        if (da->value[i] != (double)product || db->value[i] != (double)cot)
            ok = error_set(err, ERR_DIVERGED, "element %lld: d a = %.9g for %.9g, d b = %.9g for %.9g", (long long)i,
                           da->value[i], (double)product, db->value[i], (double)cot);
    }
    results_free(all);
    return ok;
}

// A number that is none stays one, in all kinds: a training that diverged must not look like one with zeros.
static bool relu_keeps_nan(Error *err) {
    bool ok = true;
    for (int i = 0; case_kinds[i]; i++) {
        Device *d = device_open(case_kinds[i], err);
        if (!d) return false;
        Graph *g = graph_new(d, "nan", WEIGHTS_TRAIN);
        Tensor *x = graph_input(g, "x", DT_F32, 1, (int64_t[]){ 3 }), *y = graph_output(g, op_relu(g, x));
        Arena *a = arena_new(d);
        graph_plan(g, a);
        arena_seal(a);
        float v[] = { NAN, -1, 2 };
        tensor_write_f32(x, v);
        graph_run(g);
        tensor_read_f32(y, v);
        if (!(isnan(v[0]) && v[1] == 0 && v[2] == 2))
            ok = error_set(err, ERR_DIVERGED, "%s: relu of NaN, -1, 2 is %g, %g, %g", case_kinds[i], (double)v[0],
                           (double)v[1], (double)v[2]);
        graph_free(g);
        arena_free(a);
        device_close(d);
    }
    return ok;
}
static const OpExtra extra[] = { { "relu keeps NaN", relu_keeps_nan }, { "stop grad passes nothing", stop_grad } };

const OpSuite op_suite = { .op = "pointwise", .cases = cases, .n_cases = sizeof cases / sizeof cases[0], .build = build,
                           .terms = terms, .extra = extra, .n_extra = 2 };
