// kernels/pool/pool.cu - pooling: a thread takes eight channels of a result and walks its taps, or its windows.
//
// Rows of the grid are rows of results, so that only the column of a result takes a division. Taps that windows share
// are read from memory once and then from the caches.
#include "kernels/common/lanes.cuh"
#include "kernels/pool/pool.h"

struct Span { int begin, end; };
// Taps of a window along one axis that lie inside the image.
DEVICE Span taps_of(const PoolShape &z, int window, int size) {
    int first = window * z.stride - z.pad;
    return { first < 0 ? -first : 0, min(z.window, size - first) };
}
// Windows along one axis, of `count`, that a pixel is a tap of.
DEVICE Span windows_of(const PoolShape &z, int pixel, int count) {
    int over = pixel + z.pad - z.window;
    return { over < 0 ? 0 : over / z.stride + 1, min(count, (pixel + z.pad) / z.stride + 1) };
}

// Eight taps' numbers in eight bytes, or one in one.
template <int V> struct Taps { int v[V]; };
template <int V> DEVICE void store_taps(uint8_t *p, const Taps<V> &t) {
    if constexpr (V == 1) {
        *p = (uint8_t)t.v[0];
    } else {
        uint32_t low = 0, high = 0;
        for (int e = 0; e < 4; e++) {
            low |= (uint32_t)t.v[e] << (8 * e);
            high |= (uint32_t)t.v[e + 4] << (8 * e);
        }
        STORE_GLOBAL(reinterpret_cast<uint2 *>(p), make_uint2(low, high));
    }
}
template <int V> DEVICE Taps<V> load_taps(const uint8_t *p) {
    if constexpr (V == 1) {
        return { { (int)*p } };
    } else {
        uint2 w = *reinterpret_cast<const uint2 *>(p);
        Taps<V> t;
        for (int e = 0; e < 4; e++) {
            t.v[e] = (int)(w.x >> (8 * e) & 255u);
            t.v[e + 4] = (int)(w.y >> (8 * e) & 255u);
        }
        return t;
    }
}

// ---- forward. best: of the first taps so far; a mean's is their sum.
template <bool LARGEST, int V> DEVICE void meet_tap(Vec<V> &best, Taps<V> &tap, const Vec<V> &v, int here, bool first) {
    for (int e = 0; e < V; e++) {
        if constexpr (LARGEST) {
            bool more = first || v.v[e] > best.v[e] || (v.v[e] != v.v[e] && best.v[e] == best.v[e]);
            best.v[e] = more ? v.v[e] : best.v[e];
            tap.v[e] = more ? here : tap.v[e];
        } else {
            best.v[e] += v.v[e];
        }
    }
}

template <bool LARGEST, typename T, int V>
static __global__ void __launch_bounds__(ROW_THREADS, 4) pool_kernel(PoolShape z, PoolForwardArgs a) {
    const T *x = static_cast<const T *>(a.x);
    T *y = static_cast<T *>(a.y);
    int64_t row = (int64_t)z.q * z.c;
    for (ROWS(o, (int64_t)z.n * z.p)) {
        int64_t i = o / z.p;
        int p = (int)(o - i * z.p);
        Span rows = taps_of(z, p, z.h);
        for (COLUMNS(j, row, V)) {
            int q = (int)j / z.c, k = (int)j - q * z.c;
            Span columns = taps_of(z, q, z.w);
            int64_t corner = (i * z.h + p * z.stride - z.pad) * z.w + q * z.stride - z.pad;
            Vec<V> best = {};
            Taps<V> tap = {};
            for (int r = rows.begin; r < rows.end; r++) {
                for (int s = columns.begin; s < columns.end; s++) {
                    Vec<V> v = load_vec<V>(x + (corner + (int64_t)r * z.w + s) * z.c + k);
                    meet_tap<LARGEST, V>(best, tap, v, r * z.window + s, r == rows.begin && s == columns.begin);
                }
            }
            float count = (float)((rows.end - rows.begin) * (columns.end - columns.begin));
            for (int e = 0; e < V && !LARGEST; e++) best.v[e] /= count;
            store_vec<V>(y + o * row + j, best);
            if (LARGEST && a.tap) store_taps<V>(a.tap + o * row + j, tap);
        }
    }
}

// Places in a row of pixels are ints.
static bool can(const PoolShape *z) {
    return is_stored(z->dtype) && (int64_t)z->c * (z->w > z->q ? z->w : z->q) < 1 << 30;
}

static void forward(Stream *s, const PoolShape *z, const PoolForwardArgs *a, Work) {
    bool vector = z->c % 8 == 0 && is_vector(a->x, z->c, z->dtype) && is_vector(a->y, z->c, z->dtype) &&
                  (uintptr_t)a->tap % 8 == 0;
    by_width(vector, [&](auto width) {
        constexpr int V = decltype(width)::value;
        RowGrid g = row_grid((int64_t)z->n * z->p, (int64_t)z->q * z->c, V);
        by_type(z->dtype, [&](auto one) {
            using T = decltype(one);
            if (z->largest) LAUNCH(s, (pool_kernel<true, T, V>), g.grid, g.block, 0, *z, *a);
            else            LAUNCH(s, (pool_kernel<false, T, V>), g.grid, g.block, 0, *z, *a);
        });
    });
}

// ---- backward
template <bool LARGEST, typename T, int V>
static __global__ void __launch_bounds__(ROW_THREADS, 4) pool_grad_kernel(PoolShape z, PoolBackwardArgs a) {
    const T *dy = static_cast<const T *>(a.dy);
    T *dx = static_cast<T *>(a.dx);
    int64_t row = (int64_t)z.w * z.c;
    for (ROWS(o, (int64_t)z.n * z.h)) {
        int64_t i = o / z.h;
        int h = (int)(o - i * z.h);
        Span rows = windows_of(z, h, z.p);
        for (COLUMNS(j, row, V)) {
            int w = (int)j / z.c, k = (int)j - w * z.c;
            Span columns = windows_of(z, w, z.q);
            Vec<V> sum = {};
            for (int p = rows.begin; p < rows.end; p++) {
                Span r = taps_of(z, p, z.h);
                for (int q = columns.begin; q < columns.end; q++) {
                    Span s = taps_of(z, q, z.w);
                    int here = (h + z.pad - p * z.stride) * z.window + w + z.pad - q * z.stride;
                    int64_t at = ((i * z.p + p) * z.q + q) * z.c + k;
                    Vec<V> d = load_vec<V>(dy + at);
                    if constexpr (LARGEST) {
                        Taps<V> tap = load_taps<V>(a.tap + at);
                        for (int e = 0; e < V; e++) sum.v[e] += tap.v[e] == here ? d.v[e] : 0.0f;
                    } else {
                        float count = (float)((r.end - r.begin) * (s.end - s.begin));
                        for (int e = 0; e < V; e++) sum.v[e] += d.v[e] / count;
                    }
                }
            }
            store_vec<V>(dx + o * row + j, sum);
        }
    }
}

static void backward(Stream *s, const PoolShape *z, const PoolBackwardArgs *a, Work) {
    bool vector = z->c % 8 == 0 && is_vector(a->dy, z->c, z->dtype) && is_vector(a->dx, z->c, z->dtype) &&
                  (uintptr_t)a->tap % 8 == 0;
    by_width(vector, [&](auto width) {
        constexpr int V = decltype(width)::value;
        RowGrid g = row_grid((int64_t)z->n * z->h, (int64_t)z->w * z->c, V);
        by_type(z->dtype, [&](auto one) {
            using T = decltype(one);
            if (z->largest) LAUNCH(s, (pool_grad_kernel<true, T, V>), g.grid, g.block, 0, *z, *a);
            else            LAUNCH(s, (pool_grad_kernel<false, T, V>), g.grid, g.block, 0, *z, *a);
        });
    });
}

// ---- all pixels. A block owns some channels of an image.
template <typename T, int V>
static __global__ void __launch_bounds__(LANE_THREADS) all_kernel(PoolAllShape z, const T *x, float *y) {
    SHARED(float, slot, LANE_THREADS * V);
    int64_t k = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    for (int64_t i = blockIdx.y; i < z.n; i += gridDim.y) {
        Vec<V> sum = {};
        for (int64_t p = threadIdx.y; k < z.c && p < z.hw; p += blockDim.y) {
            Vec<V> v = load_vec<V>(x + (i * z.hw + p) * z.ldx + k);
            for (int e = 0; e < V; e++) sum.v[e] += v.v[e];
        }
        sum = lane_sum<V>(sum, slot);
        for (int e = 0; e < V; e++) sum.v[e] /= (float)z.hw;
        if (threadIdx.y == 0 && k < z.c) store_vec<V>(y + i * z.c + k, sum);
    }
}

template <typename T, int V>
static __global__ void __launch_bounds__(LANE_THREADS) all_grad_kernel(PoolAllShape z, const float *dy, T *dx) {
    int64_t k = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    for (int64_t i = blockIdx.y; k < z.c && i < z.n; i += gridDim.y) {
        Vec<V> part = load_vec<V>(dy + i * z.c + k);
        for (int e = 0; e < V; e++) part.v[e] /= (float)z.hw;
        for (int64_t p = threadIdx.y; p < z.hw; p += blockDim.y) store_vec<V>(dx + (i * z.hw + p) * z.ldx + k, part);
    }
}

static bool can_all(const PoolAllShape *z) { return z->layout == LAYOUT_NHWC && is_stored(z->dtype); }

template <typename F> static void by_block(const PoolAllShape *z, const void *image, const void *row, F launch) {
    by_width(z->c % 8 == 0 && is_vector(image, z->ldx, z->dtype) && is_vector(row, z->c, DT_F32), [&](auto width) {
        constexpr int V = decltype(width)::value;
        dim3 block = lane_block(z->c, V);
        dim3 grid((unsigned)ceil_div(z->c, (int64_t)block.x * V), grid_of(z->n, 1, 32768));
        by_type(z->dtype, [&](auto one) { launch(one, width, grid, block); });
    });
}

static void all_forward(Stream *s, const PoolAllShape *z, const PoolAllForwardArgs *a, Work) {
    by_block(z, a->x, a->y, [&](auto one, auto width, dim3 grid, dim3 block) {
        using T = decltype(one);
        LAUNCH(s, (all_kernel<T, decltype(width)::value>), grid, block, 0, *z, static_cast<const T *>(a->x), a->y);
    });
}
static void all_backward(Stream *s, const PoolAllShape *z, const PoolAllBackwardArgs *a, Work) {
    by_block(z, a->dx, a->dy, [&](auto one, auto width, dim3 grid, dim3 block) {
        using T = decltype(one);
        LAUNCH(s, (all_grad_kernel<T, decltype(width)::value>), grid, block, 0, *z, a->dy, static_cast<T *>(a->dx));
    });
}

// ---- registration
IMPLS(pool,
    IMPL_FULL(pool_forward, "rows", 100, 0, 0, can, NULL, NULL, forward, NULL),
    IMPL_FULL(pool_backward, "rows", 100, 0, 0, can, NULL, NULL, backward, NULL),
    IMPL_FULL(pool_all_forward, "lanes", 100, 0, 0, can_all, NULL, NULL, all_forward, NULL),
    IMPL_FULL(pool_all_backward, "lanes", 100, 0, 0, can_all, NULL, NULL, all_backward, NULL))
