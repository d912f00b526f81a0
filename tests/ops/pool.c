// tests/ops/pool.c - cases of pooling over windows and over all pixels, and of padding with channels of zeros.
//   dim: kind, n, h, w, c, window (channels of zeros before), stride (after), pad, form (FORM_*)
#include <math.h>

#include "opcase.h"

enum { LARGEST, MEAN, ALL, PAD, SHORTCUT };              // SHORTCUT: pixels of every second row and column, then PAD
enum { FORM_JOINED = 1, FORM_VIEW = 2 };         // dy is a range of channels; x is

static Tensor *record(OpRun *r, const OpCase *c) {
    Graph *g = case_graph(r);
    const int64_t *d = c->dim;
    Tensor *x = d[8] & FORM_VIEW ? op_view_channel(g, case_image(r, "x", d[1], d[2], d[3], 3 * d[4]), d[4], 2 * d[4])
                                 : case_image(r, "x", d[1], d[2], d[3], d[4]);
    switch (d[0]) {
    case ALL: return op_pool_all(g, x);
    case PAD: return op_pad_channel(g, x, d[5], d[6]);
    case SHORTCUT: return op_pad_channel(g, op_pool(g, x, POOL_MAX, 1, 2, 0), d[5], d[6]);
    default: break;
    }
    Tensor *y = op_pool(g, x, d[0] == LARGEST ? POOL_MAX : POOL_MEAN, (int)d[5], (int)d[6], (int)d[7]);
    return d[8] & FORM_JOINED ? op_concat_channel(g, y, y) : y;
}

static void build(OpRun *r, const OpCase *c) {
    unsigned copies = c->dim[0] == MEAN || c->dim[0] == ALL ? 0 : OUT_BITS;
    case_output(r, "y", record(r, c), c->dim[0] == ALL ? OUT_F32 : copies);
}

static double terms(const OpCase *c) {
    const int64_t *d = c->dim;
    return d[0] == ALL ? (double)(d[2] * d[3]) : d[0] == MEAN || d[0] == LARGEST ? (double)(d[5] * d[5]) : 1;
}

enum { TEST = CASE_TEST, GRAD = CASE_TEST | CASE_GRAD, EXACT = CASE_TEST | CASE_EXACT, BENCH = CASE_BENCH };
static const OpCase cases[] = {
    //                                      n  h  w   c  window stride pad
    { "largest of 2x2",          { LARGEST, 2, 6, 8, 16, 2, 2, 0 }, GRAD, 0 },
    { "largest of 3x3, halves",  { LARGEST, 2, 7, 9, 31, 3, 2, 0 }, GRAD, 0 },
    { "largest, rest left over", { LARGEST, 1, 8, 6, 48, 3, 2, 0 }, GRAD, 0 },
    { "largest, padded",         { LARGEST, 2, 5, 7, 16, 3, 1, 1 }, GRAD, 0 },
    { "largest, padded, odd",    { LARGEST, 2, 5, 4,  3, 3, 2, 1 }, GRAD, 0 },
    { "largest of 5x5, pad 2",   { LARGEST, 1, 3, 3,  7, 5, 2, 2 }, GRAD, 0 },
    { "largest of one pixel",    { LARGEST, 2, 5, 7, 16, 1, 2, 0 }, GRAD, 0 },
    { "largest, gaps between",   { LARGEST, 1, 9, 9,  5, 2, 3, 0 }, GRAD, 0 },
    { "largest, dy is a view",   { LARGEST, 2, 6, 6, 16, 3, 2, 1, FORM_JOINED }, GRAD, 0 },
    { "largest, dy odd",         { LARGEST, 2, 6, 6,  3, 3, 2, 1, FORM_JOINED }, GRAD, 0 },
    { "largest, ties",           { LARGEST, 2, 5, 5, 16, 3, 2, 1 }, EXACT, 0 },
    { "largest, ties, odd",      { LARGEST, 3, 6, 7, 5, 3, 1, 1 }, EXACT, 0 },
    { "largest of 320",          { LARGEST, 1, 4, 4, 320, 3, 1, 1 }, TEST, 0 },
    { "mean of 2x2",             { MEAN, 2, 6, 8, 16, 2, 2, 0 }, GRAD, 0 },
    { "mean of 3x3, padded",     { MEAN, 2, 5, 7, 31, 3, 1, 1 }, GRAD, 0 },
    { "mean, padded, 48",        { MEAN, 1, 5, 4, 48, 3, 2, 1 }, GRAD, 0 },
    { "mean of 8x8",             { MEAN, 2, 8, 8, 64, 8, 8, 0 }, GRAD, 0 },
    { "mean, dy is a view",      { MEAN, 2, 5, 5, 16, 3, 1, 1, FORM_JOINED }, GRAD, 0 },
    { "mean of 320",             { MEAN, 1, 4, 4, 320, 3, 1, 1 }, TEST, 0 },
    { "all of 1x1",              { ALL, 2, 1, 1,  3 }, GRAD, 0 },
    { "all of 5x7",              { ALL, 2, 5, 7, 31 }, GRAD, 0 },
    { "all of 8x8, 64",          { ALL, 3, 8, 8, 64 }, GRAD, 0 },
    { "all, a view",             { ALL, 2, 3, 3, 16, 0, 0, 0, FORM_VIEW }, GRAD, 0 },
    { "all, an odd view",        { ALL, 2, 3, 3,  5, 0, 0, 0, FORM_VIEW }, GRAD, 0 },
    { "all of 320",              { ALL, 2, 9, 9, 320 }, TEST, 0 },
    { "zeros after",             { PAD, 2, 3, 5,  3, 0, 4 }, GRAD, 0 },
    { "zeros before",            { PAD, 2, 3, 5,  3, 4, 0 }, GRAD, 0 },
    { "zeros around 16",         { PAD, 2, 3, 5, 16, 8, 8 }, GRAD, 0 },
    { "zeros around 32",         { PAD, 2, 3, 3, 32, 16, 16 }, GRAD, 0 },
    { "16 after 16",             { PAD, 2, 3, 3, 16, 0, 16 }, GRAD, 0 },
    { "shortcut 16 to 32",       { SHORTCUT, 2, 6, 6, 16, 8, 8 }, GRAD, 0 },
    { "shortcut 32 to 64",       { SHORTCUT, 2, 5, 5, 32, 16, 16 }, GRAD, 0 },
    { "largest of 192 at 71",    { LARGEST, 16, 71, 71, 192, 3, 2, 0 }, BENCH, 0 },
    { "mean of 288 at 35",       { MEAN, 16, 35, 35, 288, 3, 1, 1 }, BENCH, 0 },
    { "all of 64 at 8",          { ALL, 128, 8, 8, 64 }, BENCH, 0 },
};

// ---- 3x3 images in windows of 3x3, stride 2, padding 1: y (4), and the gradient of y's mean
typedef struct { double y[4], dx[9]; } Pooled;
static bool pool_on(const char *device, const float in[9], Pooled *out, Error *err) {
    Device *d = device_open(device, err);
    if (!d) return false;
    Graph *g = graph_new(d, "3x3", WEIGHTS_TRAIN);
    Tensor *x = graph_input(g, "x", DT_F32, 4, (int64_t[]){ 1, 3, 3, 1 });
    x->flags |= TENSOR_NEEDS_GRAD;
    Tensor *y = graph_output(g, op_pool(g, x, POOL_MAX, 3, 2, 1));
    graph_backward(g, op_mean(g, y));
    graph_output(g, x->grad);
    Arena *a = arena_new(d);
    graph_plan(g, a);
    arena_seal(a);
    tensor_write_f32(x, in);
    graph_run(g);
    tensor_read_f64(y, out->y);
    tensor_read_f64(x->grad, out->dx);
    graph_free(g);
    arena_free(a);
    device_close(d);
    return true;
}

// Every window holds the 5 in the middle, and it is the first of them.
static bool first_of_equals(Error *err) {
    static const float in[] = { 0, 0, 0, 0, 5, 5, 0, 5, 5 };
    for (int i = 0; case_kinds[i]; i++) {
        Pooled p;
        if (!pool_on(case_kinds[i], in, &p, err)) return false;
        for (int j = 0; j < 9; j++)
            if (p.dx[j] != (j == 4 ? 1 : 0))
                return error_set(err, ERR_DIVERGED, "%s: the gradient of pixel %d is %g", case_kinds[i], j, p.dx[j]);
    }
    return true;
}

// Minus infinity is a value like others, though it is also what lies around an image; a NaN is seen by its window.
static bool numbers_at_the_end(Error *err) {
    static const float in[] = { -INFINITY, -INFINITY, NAN, -INFINITY, -INFINITY, 1, 2, 3, 4 };
    for (int i = 0; case_kinds[i]; i++) {
        Pooled p;
        if (!pool_on(case_kinds[i], in, &p, err)) return false;
        if (!(p.y[0] == -(double)INFINITY && isnan(p.y[1]) && p.y[2] == 3 && p.y[3] == 4 && p.dx[0] == 0.25 &&
              p.dx[2] == 0.25))
            return error_set(err, ERR_DIVERGED, "%s: maxima %g %g %g %g, gradients %g and %g", case_kinds[i], p.y[0],
                             p.y[1], p.y[2], p.y[3], p.dx[0], p.dx[2]);
    }
    return true;
}
static const OpExtra extra[] = { { "the first of equal maxima", first_of_equals },
                                { "infinities and NaN", numbers_at_the_end } };

const OpSuite op_suite = { .op = "pool", .cases = cases, .n_cases = sizeof cases / sizeof cases[0], .build = build,
                           .terms = terms, .extra = extra, .n_extra = 2 };
