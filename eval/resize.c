// eval/resize.c - resizing by tables: for each output row and column its taps and their weights, made once on the host.
//
// Rows of the input that a pass needs are few and the images small, so nothing here is blocked; callers run images in
// parallel.
#include "eval/resize.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// One axis. Bilinear: taps low[i] and high[i], high's weight is blend[i]. Bicubic: count[i] taps from low[i] on, with
// weights cubic + i * most.
typedef struct {
    int     in, out;
    int    *low, *high, *count;
    float  *blend;
    double *cubic;
    int     most;
} Axis;
struct Resizer { ResizeKind kind; Axis row, column; };

// All in float, as TensorFlow and PyTorch compute it.
static void fill_linear(Axis *a, bool half_pixel) {
    float scale = (float)a->in / (float)a->out;
    for (int i = 0; i < a->out; i++) {
        float x = half_pixel ? scale * ((float)i + 0.5f) - 0.5f : (float)i * scale;
        if (x < 0) x = 0;
        int low = (int)x;
        CHECK(low < a->in, "pixel %d of %d from %d", i, a->out, low);
        a->low[i] = low;
        a->high[i] = low < a->in - 1 ? low + 1 : low;
        a->blend[i] = x - (float)low;
    }
}

// Keys 1981 with a = -0.5.
static double cubic_kernel(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

static void fill_cubic(Axis *a) {
    double scale = (double)a->in / a->out, stretch = scale > 1 ? scale : 1, support = 2 * stretch;
    a->most = 2 * (int)ceil(support) + 1;
    a->cubic = xcalloc((size_t)a->out * (size_t)a->most, sizeof *a->cubic);
    for (int i = 0; i < a->out; i++) {
        double centre = (i + 0.5) * scale, sum = 0, *w = a->cubic + (int64_t)i * a->most;
        int begin = (int)(centre - support + 0.5), end = (int)(centre + support + 0.5);
        if (begin < 0) begin = 0;
        if (end > a->in) end = a->in;
        CHECK(end > begin && end - begin <= a->most, "%d taps at pixel %d", end - begin, i);
        a->low[i] = begin;
        a->count[i] = end - begin;
        for (int k = 0; k < end - begin; k++) sum += w[k] = cubic_kernel((k + begin - centre + 0.5) * (1 / stretch));
        for (int k = 0; k < end - begin; k++) w[k] /= sum;
    }
}

static Axis axis_new(ResizeKind kind, int in, int out) {
    CHECK(in >= 1 && out >= 1, "resize from %d to %d", in, out);
    size_t n = (size_t)out;
    Axis a = { .in = in, .out = out, .low = xcalloc(n, sizeof *a.low) };
    if (kind == RESIZE_BICUBIC) {
        a.count = xcalloc(n, sizeof *a.count);
        fill_cubic(&a);
    } else {
        a.high = xcalloc(n, sizeof *a.high);
        a.blend = xcalloc(n, sizeof *a.blend);
        fill_linear(&a, kind == RESIZE_HALF_PIXEL);
    }
    return a;
}

Resizer *resizer_new(ResizeKind kind, int in_height, int in_width, int out_height, int out_width) {
    Resizer *r = xcalloc(1, sizeof *r);
    *r = (Resizer){ kind, axis_new(kind, in_height, out_height), axis_new(kind, in_width, out_width) };
    return r;
}

static void axis_free(Axis *a) {
    free(a->low);
    free(a->high);
    free(a->count);
    free(a->blend);
    free(a->cubic);
}

void resizer_free(Resizer *r) {
    if (!r) return;
    axis_free(&r->row);
    axis_free(&r->column);
    free(r);
}

// PyTorch weighs both neighbours, TensorFlow adds a share of their difference: equal but for rounding.
static float blend(ResizeKind kind, float a, float b, float t) {
    return kind == RESIZE_TF1 ? a + (b - a) * t : (1 - t) * a + t * b;
}

static void resize_linear(const Resizer *r, const float *in, int channels, float *out, int out_channels) {
    const Axis *rows = &r->row, *columns = &r->column;
    int step = channels == out_channels ? 1 : 0;                 // grey repeated: the same source channel
    for (int i = 0; i < rows->out; i++) {
        const float *top = in + (int64_t)rows->low[i] * columns->in * channels;
        const float *bottom = in + (int64_t)rows->high[i] * columns->in * channels;
        for (int j = 0; j < columns->out; j++) {
            int left = columns->low[j] * channels, right = columns->high[j] * channels;
            for (int c = 0; c < out_channels; c++) {
                int s = c * step;
                float t = blend(r->kind, top[left + s], top[right + s], columns->blend[j]);
                float b = blend(r->kind, bottom[left + s], bottom[right + s], columns->blend[j]);
                *out++ = blend(r->kind, t, b, rows->blend[i]);
            }
        }
    }
}

// Along the rows first, then down the columns.
static void resize_cubic(const Resizer *r, const float *in, int channels, float *out, int out_channels) {
    const Axis *rows = &r->row, *columns = &r->column;
    int step = channels == out_channels ? 1 : 0;
    float *wide = xmalloc((size_t)rows->in * (size_t)columns->out * (size_t)channels * sizeof *wide);
    for (int i = 0; i < rows->in; i++)
        for (int j = 0; j < columns->out; j++)
            for (int c = 0; c < channels; c++) {
                const float *from = in + ((int64_t)i * columns->in + columns->low[j]) * channels + c;
                double sum = 0;
                for (int k = 0; k < columns->count[j]; k++)
                    sum += (double)from[k * channels] * columns->cubic[(int64_t)j * columns->most + k];
                wide[((int64_t)i * columns->out + j) * channels + c] = (float)sum;
            }
    int64_t row = (int64_t)columns->out * channels;
    for (int i = 0; i < rows->out; i++)
        for (int j = 0; j < columns->out; j++)
            for (int c = 0; c < out_channels; c++) {
                const float *from = wide + rows->low[i] * row + j * channels + c * step;
                double sum = 0;
                for (int k = 0; k < rows->count[i]; k++)
                    sum += (double)from[k * row] * rows->cubic[(int64_t)i * rows->most + k];
                *out++ = (float)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
            }
    free(wide);
}

void resizer_run(const Resizer *r, const float *in, int channels, float *out, int out_channels) {
    CHECK(out_channels == channels || channels == 1, "%d channels from %d", out_channels, channels);
    (r->kind == RESIZE_BICUBIC ? resize_cubic : resize_linear)(r, in, channels, out, out_channels);
}
