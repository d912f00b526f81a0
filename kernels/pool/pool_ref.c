// kernels/pool/pool_ref.c - pooling by its definition: of window (p, q), tap (r, s) is pixel (p stride - pad + r,
// q stride - pad + s), if that lies in the image.
//   largest:   y = max of the taps;          dx[pixel] = sum of dy over the windows whose first largest tap it is
//   mean:      y = sum of the taps / count;  dx[pixel] = sum of dy / count over the windows that it is a tap of
#include "kernels/common/kernel.h"
#include "kernels/common/ref.h"
#include "kernels/pool/pool.h"

typedef struct { int begin, end; } Taps;                 // of a window along one axis, those inside the image
static Taps taps_of(const PoolShape *z, int window, int size) {
    int first = window * z->stride - z->pad;
    return (Taps){ first < 0 ? -first : 0, first + z->window > size ? size - first : z->window };
}
static int64_t pixel(const PoolShape *z, int64_t i, int p, int q, int r, int s) {
    return (i * z->h + p * z->stride - z->pad + r) * z->w + q * z->stride - z->pad + s;
}

// ---- forward
static acc largest_tap(const PoolShape *z, const void *x, int64_t i, int p, int q, int k, int *tap) {
    Taps rows = taps_of(z, p, z->h), columns = taps_of(z, q, z->w);
    acc best = 0;
    *tap = -1;
    for (int r = rows.begin; r < rows.end; r++) {
        for (int s = columns.begin; s < columns.end; s++) {
            acc v = ref_load(x, z->dtype, pixel(z, i, p, q, r, s) * z->c + k);
            if (*tap >= 0 && !(v > best || (isnan(v) && !isnan(best)))) continue;
            best = v;
            *tap = r * z->window + s;
        }
    }
    return best;
}

static acc mean_of_taps(const PoolShape *z, const void *x, int64_t i, int p, int q, int k) {
    Taps rows = taps_of(z, p, z->h), columns = taps_of(z, q, z->w);
    acc sum = 0;
    for (int r = rows.begin; r < rows.end; r++) {
        for (int s = columns.begin; s < columns.end; s++)
            sum += ref_load(x, z->dtype, pixel(z, i, p, q, r, s) * z->c + k);
    }
    return sum / (acc)((rows.end - rows.begin) * (columns.end - columns.begin));
}

static void forward(Stream *stream, const PoolShape *z, const PoolForwardArgs *a, Work work) {
#pragma omp parallel for
    for (int64_t o = 0; o < (int64_t)z->n * z->p * z->q; o++) {
        int64_t i = o / z->q / z->p;
        int p = (int)(o / z->q % z->p), q = (int)(o % z->q), tap = 0;
        for (int k = 0; k < z->c; k++) {
            acc v = z->largest ? largest_tap(z, a->x, i, p, q, k, &tap) : mean_of_taps(z, a->x, i, p, q, k);
            ref_store(a->y, z->dtype, o * z->c + k, v);
            if (a->tap) a->tap[o * z->c + k] = (uint8_t)tap;
        }
    }
}

// ---- backward
static acc gradient_of(const PoolShape *z, const PoolBackwardArgs *a, int64_t i, int h, int w, int k) {
    acc sum = 0;
    for (int p = 0; p < z->p; p++) {
        int r = h + z->pad - p * z->stride;
        if (r < 0 || r >= z->window) continue;
        Taps rows = taps_of(z, p, z->h);
        for (int q = 0; q < z->q; q++) {
            int s = w + z->pad - q * z->stride;
            if (s < 0 || s >= z->window) continue;
            Taps columns = taps_of(z, q, z->w);
            int64_t at = ((i * z->p + p) * z->q + q) * z->c + k;
            acc dy = ref_load(a->dy, z->dtype, at);
            if (!z->largest) sum += dy / (acc)((rows.end - rows.begin) * (columns.end - columns.begin));
            else if (a->tap[at] == r * z->window + s) sum += dy;
        }
    }
    return sum;
}

static void backward(Stream *stream, const PoolShape *z, const PoolBackwardArgs *a, Work work) {
#pragma omp parallel for
    for (int64_t o = 0; o < (int64_t)z->n * z->h * z->w; o++) {
        for (int k = 0; k < z->c; k++) {
            acc v = gradient_of(z, a, o / z->w / z->h, (int)(o / z->w % z->h), (int)(o % z->w), k);
            ref_store(a->dx, z->dtype, o * z->c + k, v);
        }
    }
}

// ---- all pixels
static void all_forward(Stream *stream, const PoolAllShape *z, const PoolAllForwardArgs *a, Work work) {
#pragma omp parallel for
    for (int i = 0; i < z->n; i++) {
        for (int k = 0; k < z->c; k++) {
            acc sum = 0;
            for (int64_t p = 0; p < z->hw; p++)
                sum += ref_load(a->x, z->dtype, layout_index(z->layout, z->hw, z->ldx, i, p, k));
            a->y[(int64_t)i * z->c + k] = (real)(sum / (acc)z->hw);
        }
    }
}

static void all_backward(Stream *stream, const PoolAllShape *z, const PoolAllBackwardArgs *a, Work work) {
#pragma omp parallel for
    for (int i = 0; i < z->n; i++) {
        for (int64_t p = 0; p < z->hw; p++) {
            for (int k = 0; k < z->c; k++) {
                acc v = (acc)a->dy[(int64_t)i * z->c + k] / (acc)z->hw;
                ref_store(a->dx, z->dtype, layout_index(z->layout, z->hw, z->ldx, i, p, k), v);
            }
        }
    }
}

IMPLS(pool_ref,
    IMPL(pool_forward, "loops", forward),
    IMPL(pool_backward, "loops", backward),
    IMPL(pool_all_forward, "loops", all_forward),
    IMPL(pool_all_backward, "loops", all_backward))
