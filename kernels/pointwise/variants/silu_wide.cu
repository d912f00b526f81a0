// kernels/pointwise/variants/silu_wide.cu - y = silu(a) with sixteen elements per thread: the example of a variant.
//
// Dense runs. Both vectors of eight are on their way before the first is used, so that a thread has twice the bytes in
// flight of the kernel in pointwise.cu and there are half as many threads: better where the multiprocessors cannot hold
// enough threads to cover the latency of memory, worse where a tensor is too small to give every one of them work.
#include "kernels/common/vector.cuh"
#include "kernels/pointwise/pointwise.h"

template <typename T, int V>
static __global__ void __launch_bounds__(ROW_THREADS) silu_wide_kernel(const T *a, T *y, int64_t n) {
    for (COLUMNS(j, n, 2 * V)) {
        Vec<V> v[2];
        for (int i = 0; i < 2; i++) v[i] = load_some<V>(a + j + i * V, n - j - i * V);
        for (int i = 0; i < 2; i++) {
            for (int l = 0; l < V; l++) v[i].v[l] = silu_of<T>(v[i].v[l]);
            store_some<V>(y + j + i * V, v[i], n - j - i * V);
        }
    }
}

static bool can(const PointwiseShape *z) {
    return is_stored(z->dtype) && z->out == z->dtype && z->lda == z->c && z->ldy == z->c;
}

static void run(Stream *s, const PointwiseShape *z, const PointwiseArgs *a, Work) {
    int64_t n = z->rows * z->c;
    by_width(is_vector(a->a, 0, z->dtype) && is_vector(a->y, 0, z->dtype), [&](auto width) {
        constexpr int V = decltype(width)::value;
        RowGrid g = run_grid(n, 2 * V);
        by_type(z->dtype, [&](auto one) {
            using T = decltype(one);
            LAUNCH(s, (silu_wide_kernel<T, V>), g.grid, g.block, 0, static_cast<const T *>(a->a),
                   static_cast<T *>(a->y), n);
        });
    });
}

IMPLS(silu_wide,
    IMPL_FULL(silu_forward, "wide", -1, 0, 0, can, NULL, NULL, run, NULL))
