// kernels/vendor/randn_curand.cu - normal draws by cuRAND: what ours are timed against.
//
// The same generator, Philox 4x32-10, and the same four normals of a draw, but cuRAND's counters and its Box-Muller: so
// these are other numbers, and checks that compare values pass this twin over. cuRAND's device interface is used, since
// a launch of its host interface, once captured, would draw the same numbers in every replay.
#include <curand_kernel.h>

#include "kernels/common/vector.cuh"
#include "kernels/pointwise/pointwise.h"

static bool can(const RandomShape *z) { return z->layout == LAYOUT_NHWC && is_stored(z->dtype); }

// A thread draws four consecutive elements of one image. Rows are images.
template <typename T>
static __global__ void __launch_bounds__(ROW_THREADS) randn_curand_kernel(RandomShape z, RandomArgs a) {
    T *y = static_cast<T *>(a.y);
    int64_t image = (int64_t)z.hw * z.c;
    uint64_t seed = ((uint64_t)a.state->seed[1] << 32 | a.state->seed[0]) ^ z.purpose;
    for (ROWS(i, z.n)) {
        for (COLUMNS(e, image, 4)) {
            curandStatePhilox4_32_10_t philox;
            curand_init(seed, (uint64_t)a.sample[i] << 32 | a.state->step, (uint64_t)e, &philox);
            store_block(y + i * image + e, curand_normal4(&philox), image - e, image % 4 == 0);
        }
    }
}

static void run(Stream *s, const RandomShape *z, const RandomArgs *a, Work) {
    RowGrid g = row_grid(z->n, (int64_t)z->hw * z->c, 4);
    by_type(z->dtype, [&](auto one) { LAUNCH(s, (randn_curand_kernel<decltype(one)>), g.grid, g.block, 0, *z, *a); });
}

IMPLS(randn_curand,
    IMPL_FULL(randn, "curand", -1, 0, 0, can, NULL, NULL, run, NULL))
