// tests/ops/resample.c - cases of upsampling, concatenation, repetition, changes of layout, and of views.
//   dim: kind, n, h, w, c, second number: channels of b (CONCAT), copies (REPEAT)
#include "opcase.h"

enum { UPSAMPLE, CONCAT, REPEAT, REPEAT_MATRIX, RELAYOUT, BATCH_HALVES, BATCH_PART, BATCH_OVERLAP, CHANNEL_PARTS,
       CHANNEL_PART, CHANNEL_OVERLAP, VIEW_AND_WHOLE, CONCAT_VIEWS };

static Tensor *views(OpRun *r, const int64_t *d) {
    Graph *g = case_graph(r);
    int64_t n = d[1], c = d[4];
    bool batch = d[0] == BATCH_HALVES || d[0] == BATCH_PART || d[0] == BATCH_OVERLAP;
    Tensor *x = batch ? case_image(r, "x", 3 * n, d[2], d[3], c) : case_image(r, "x", n, d[2], d[3], 3 * c);
    Tensor *part[3];
    for (int i = 0; i < 3; i++)
        part[i] = batch ? op_view_batch(g, x, i * n, (i + 1) * n) : op_view_channel(g, x, i * c, (i + 1) * c);
    switch (d[0]) {
    case BATCH_HALVES:                                                             // disjoint, all of x
    case CHANNEL_PARTS: return op_add(g, op_mul(g, part[0], part[2]), part[1]);
    case BATCH_PART:                                                               // leaves a hole
    case CHANNEL_PART: return op_mul(g, part[0], part[2]);
    case BATCH_OVERLAP: return op_mul(g, op_view_batch(g, x, 0, 2 * n), op_view_batch(g, x, n, 3 * n));
    case CHANNEL_OVERLAP: return op_mul(g, op_view_channel(g, x, 0, 2 * c), op_view_channel(g, x, c, 3 * c));
    case CONCAT_VIEWS: return op_concat_channel(g, part[2], part[0]);
    default: {                                                                     // a part and the whole
        Tensor *whole = op_silu(g, x), *squared = op_mul(g, part[1], part[1]);
        return op_concat_channel(g, whole, squared);
    }
    }
}

static void build(OpRun *r, const OpCase *c) {
    Graph *g = case_graph(r);
    const int64_t *d = c->dim;
    Tensor *y;
    switch (d[0]) {
    case UPSAMPLE: y = op_upsample2x(g, case_image(r, "x", d[1], d[2], d[3], d[4])); break;
    case CONCAT:
        y = op_concat_channel(g, case_image(r, "a", d[1], d[2], d[3], d[4]),
                              case_image(r, "b", d[1], d[2], d[3], d[5]));
        break;
    case REPEAT: y = op_repeat_batch(g, case_image(r, "x", d[1], d[2], d[3], d[4]), (int)d[5]); break;
    case REPEAT_MATRIX: y = op_repeat_batch(g, case_input(r, "x", 2, (int64_t[]){ d[1], d[4] }, 0), (int)d[5]); break;
    case RELAYOUT:                                                                 // there, and back as a second output
        y = op_relayout(g, case_input(r, "x", 4, d + 1, 0), LAYOUT_C16);
        case_output(r, "back", op_relayout(g, y, LAYOUT_NHWC), OUT_BITS);
        break;
    default: y = views(r, d);
    }
    case_output(r, "y", y, d[0] <= RELAYOUT || d[0] == CONCAT_VIEWS ? OUT_BITS : 0);
}

static double terms(const OpCase *c) {
    bool repeat = c->dim[0] == REPEAT || c->dim[0] == REPEAT_MATRIX;
    return c->dim[0] == UPSAMPLE ? 4 : repeat ? (double)c->dim[5] : 2;
}

enum { TEST = CASE_TEST, GRAD = CASE_TEST | CASE_GRAD, BENCH = CASE_BENCH };
static const OpCase cases[] = {
    { "upsample 1x1",             { UPSAMPLE, 2, 1, 1,  3 }, GRAD, 0 },
    { "upsample 5x7, 31",         { UPSAMPLE, 1, 5, 7, 31 }, GRAD, 0 },
    { "upsample 3x3, 16",         { UPSAMPLE, 3, 3, 3, 16 }, GRAD, 0 },
    { "upsample 8x8, 48",         { UPSAMPLE, 2, 8, 8, 48 }, GRAD, 0 },
    { "concat 1 and 1",           { CONCAT, 1, 1, 1,  1,  1 }, GRAD, 0 },
    { "concat 3 and 31",          { CONCAT, 2, 5, 7,  3, 31 }, GRAD, 0 },
    { "concat 16 and 48",         { CONCAT, 3, 3, 3, 16, 48 }, GRAD, 0 },
    { "concat 64 and 32",         { CONCAT, 2, 8, 8, 64, 32 }, GRAD, 0 },
    { "concat 8 and 8",           { CONCAT, 2, 3, 3,  8,  8 }, GRAD, 0 },
    { "concat 16 and 8",          { CONCAT, 2, 3, 3, 16,  8 }, GRAD, 0 },
    { "concat of views",          { CONCAT_VIEWS, 2, 5, 7, 16 }, GRAD, 0 },
    { "concat of odd views",      { CONCAT_VIEWS, 2, 3, 3,  3 }, GRAD, 0 },
    { "repeat twice",             { REPEAT, 2, 5, 7, 16, 2 }, GRAD, 0 },
    { "repeat 3 times",           { REPEAT, 1, 3, 3, 31, 3 }, GRAD, 0 },
    { "repeat a matrix",          { REPEAT_MATRIX, 3, 0, 0, 33, 2 }, GRAD, 0 },
    { "repeat, large values",     { REPEAT, 2, 3, 3,  3, 2 }, TEST, 1e4 },
    { "relayout",                 { RELAYOUT, 2, 5, 7, 16 }, GRAD, 0 },
    { "relayout, 3 blocks",       { RELAYOUT, 3, 3, 3, 48 }, GRAD, 0 },
    { "relayout, 1x1",            { RELAYOUT, 1, 1, 1, 64 }, GRAD, 0 },
    { "batch in three",           { BATCH_HALVES,    1, 3, 3, 16 }, GRAD, 0 },
    { "batch in part",            { BATCH_PART,      2, 3, 3,  3 }, GRAD, 0 },
    { "batch, overlap",           { BATCH_OVERLAP,   1, 3, 3, 16 }, GRAD, 0 },
    { "channels in three",        { CHANNEL_PARTS,   2, 3, 3, 16 }, GRAD, 0 },
    { "channels in part",         { CHANNEL_PART,    2, 3, 3,  3 }, GRAD, 0 },
    { "channels in part, 16",     { CHANNEL_PART,    2, 3, 3, 16 }, GRAD, 0 },
    { "channels, overlap",        { CHANNEL_OVERLAP, 2, 3, 3, 16 }, GRAD, 0 },
    { "channels, overlap, odd",   { CHANNEL_OVERLAP, 2, 3, 3,  1 }, GRAD, 0 },
    { "a range and the whole",    { VIEW_AND_WHOLE,  2, 3, 3, 16 }, GRAD, 0 },
    { "a range and the whole, odd", { VIEW_AND_WHOLE, 1, 5, 7, 3 }, GRAD, 0 },
    { "upsample 16 to 32, 256",   { UPSAMPLE, 16, 16, 16, 256 }, BENCH, 0 },
    { "concat 128 and 128 at 32", { CONCAT, 16, 32, 32, 128, 128 }, BENCH, 0 },
};

const OpSuite op_suite = { .op = "resample", .cases = cases, .n_cases = sizeof cases / sizeof cases[0], .build = build,
                           .terms = terms };
