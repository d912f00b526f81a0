// kernels/resample/resample.cu - upsampling, concatenation and repetition: copies and short sums at the speed of memory.
//
// A thread takes eight channels with 16-byte accesses (one element where channels or strides are odd), reads each byte
// once and writes each once. Rows of the grid are rows of pixels, so that only the column of a pixel takes a division.
#include "kernels/common/vector.cuh"
#include "kernels/resample/resample.h"

// ---- upsampling: x (n h, w c) and the large image (n h, 2, 2 w c)
template <typename T, int V>
static __global__ void __launch_bounds__(ROW_THREADS) upsample_kernel(UpsampleShape z, const T *x, T *y) {
    int64_t row = (int64_t)z.w * z.c;
    for (ROWS(r, (int64_t)z.n * z.h)) {
        for (COLUMNS(j, row, V)) {
            Vec<V> v = load_vec<V>(x + r * row + j);
            T *to = y + r * 4 * row + j + (int)j / z.c * z.c;    // of pixel j / c, twice as far from the start
            for (int half = 0; half < 2; half++) {
                store_vec<V>(to + half * 2 * row, v);
                store_vec<V>(to + half * 2 * row + z.c, v);
            }
        }
    }
}

template <typename T, int V>
static __global__ void __launch_bounds__(ROW_THREADS) upsample_grad_kernel(UpsampleShape z, const T *dy, T *dx) {
    int64_t row = (int64_t)z.w * z.c;
    for (ROWS(r, (int64_t)z.n * z.h)) {
        for (COLUMNS(j, row, V)) {
            const T *from = dy + r * 4 * row + j + (int)j / z.c * z.c;
            Vec<V> a = load_vec<V>(from), b = load_vec<V>(from + z.c);
            Vec<V> c = load_vec<V>(from + 2 * row), d = load_vec<V>(from + 2 * row + z.c);
            for (int e = 0; e < V; e++) a.v[e] = a.v[e] + b.v[e] + c.v[e] + d.v[e];
            store_vec<V>(dx + r * row + j, a);
        }
    }
}

static bool can_upsample(const UpsampleShape *z) { return is_stored(z->dtype); }

static void upsample(Stream *s, const UpsampleShape *z, const ResampleArgs *a, Work) {
    bool vector = z->c % 8 == 0 && is_vector(a->x, z->c, z->dtype) && is_vector(a->y, z->c, z->dtype);
    by_width(vector, [&](auto width) {
        constexpr int V = decltype(width)::value;
        RowGrid g = row_grid((int64_t)z->n * z->h, (int64_t)z->w * z->c, V);
        by_type(z->dtype, [&](auto one) {
            using T = decltype(one);
            LAUNCH(s, (upsample_kernel<T, V>), g.grid, g.block, 0, *z, static_cast<const T *>(a->x),
                   static_cast<T *>(a->y));
        });
    });
}
static void upsample_grad(Stream *s, const UpsampleShape *z, const ResampleArgs *a, Work) {
    bool vector = z->c % 8 == 0 && is_vector(a->x, z->c, z->dtype) && is_vector(a->y, z->c, z->dtype);
    by_width(vector, [&](auto width) {
        constexpr int V = decltype(width)::value;
        RowGrid g = row_grid((int64_t)z->n * z->h, (int64_t)z->w * z->c, V);
        by_type(z->dtype, [&](auto one) {
            using T = decltype(one);
            LAUNCH(s, (upsample_grad_kernel<T, V>), g.grid, g.block, 0, *z, static_cast<const T *>(a->x),
                   static_cast<T *>(a->y));
        });
    });
}

// ---- concatenation: y (rows,ca+cb) = [a (rows,ca), b (rows,cb)]
template <typename T, int V>
static __global__ void __launch_bounds__(ROW_THREADS) concat_kernel(ConcatShape z, ConcatArgs p) {
    const T *a = static_cast<const T *>(p.a), *b = static_cast<const T *>(p.b);
    T *y = static_cast<T *>(p.y);
    int64_t c = (int64_t)z.ca + z.cb;
    for (ROWS(r, z.rows)) {
        for (COLUMNS(j, c, V)) {
            const T *from = j < z.ca ? a + r * z.lda + j : b + r * z.ldb + (j - z.ca);
            store_vec<V>(y + r * c + j, load_vec<V>(from));
        }
    }
}

static bool can_concat(const ConcatShape *z) { return is_stored(z->dtype); }

static void concat(Stream *s, const ConcatShape *z, const ConcatArgs *a, Work) {
    bool vector = z->ca % 8 == 0 && z->cb % 8 == 0 && is_vector(a->a, z->lda, z->dtype) &&
                  is_vector(a->b, z->ldb, z->dtype) && is_vector(a->y, z->ca + z->cb, z->dtype);
    by_width(vector, [&](auto width) {
        constexpr int V = decltype(width)::value;
        RowGrid g = row_grid(z->rows, (int64_t)z->ca + z->cb, V);
        by_type(z->dtype, [&](auto one) {
            LAUNCH(s, (concat_kernel<decltype(one), V>), g.grid, g.block, 0, *z, *a);
        });
    });
}

// ---- repetition: y (copies,e) = x (e); backward: the copies summed, in order
template <typename T, int V>
static __global__ void __launch_bounds__(ROW_THREADS) repeat_kernel(RepeatShape z, const T *x, T *y) {
    for (COLUMNS(j, z.e, V)) {
        Vec<V> v = load_some<V>(x + j, z.e - j);
        for (int copy = 0; copy < z.copies; copy++) store_some<V>(y + copy * z.e + j, v, z.e - j);
    }
}
template <typename T, int V>
static __global__ void __launch_bounds__(ROW_THREADS) repeat_grad_kernel(RepeatShape z, const T *dy, T *dx) {
    for (COLUMNS(j, z.e, V)) {
        Vec<V> sum = {};
        for (int copy = 0; copy < z.copies; copy++) {
            Vec<V> v = load_some<V>(dy + copy * z.e + j, z.e - j);
            for (int e = 0; e < V; e++) sum.v[e] += v.v[e];
        }
        store_some<V>(dx + j, sum, z.e - j);
    }
}

static bool can_repeat(const RepeatShape *z) { return is_stored(z->dtype); }

static void repeat(Stream *s, const RepeatShape *z, const ResampleArgs *a, Work) {
    by_width(is_vector(a->x, 0, z->dtype) && is_vector(a->y, z->e, z->dtype), [&](auto width) {
        constexpr int V = decltype(width)::value;
        RowGrid g = run_grid(z->e, V);
        by_type(z->dtype, [&](auto one) {
            using T = decltype(one);
            LAUNCH(s, (repeat_kernel<T, V>), g.grid, g.block, 0, *z, static_cast<const T *>(a->x),
                   static_cast<T *>(a->y));
        });
    });
}
static void repeat_grad(Stream *s, const RepeatShape *z, const ResampleArgs *a, Work) {
    by_width(is_vector(a->x, z->e, z->dtype) && is_vector(a->y, 0, z->dtype), [&](auto width) {
        constexpr int V = decltype(width)::value;
        RowGrid g = run_grid(z->e, V);
        by_type(z->dtype, [&](auto one) {
            using T = decltype(one);
            LAUNCH(s, (repeat_grad_kernel<T, V>), g.grid, g.block, 0, *z, static_cast<const T *>(a->x),
                   static_cast<T *>(a->y));
        });
    });
}

// ---- registration
#define GENERAL(launcher, can, run) IMPL_FULL(launcher, "rows", 100, 0, 0, can, NULL, NULL, run, NULL)
IMPLS(resample,
    GENERAL(upsample2x_forward, can_upsample, upsample),
    GENERAL(upsample2x_backward, can_upsample, upsample_grad),
    GENERAL(concat_forward, can_concat, concat),
    GENERAL(repeat_batch_forward, can_repeat, repeat),
    GENERAL(repeat_batch_backward, can_repeat, repeat_grad))
