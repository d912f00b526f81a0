// kernels/pointwise/random.cu - normal draws and dropout.
//
// A thread draws one block of Philox words: four normals or eight keep decisions, of consecutive elements of one image,
// and writes them with 16-byte stores where images start on such a boundary; a mask byte is one thread's. About 55
// instructions per normal and 15 per decision leave these kernels at the speed of memory or near it.
#include "kernels/common/rng.h"
#include "kernels/common/vector.cuh"
#include "kernels/pointwise/pointwise.h"

static bool can(const RandomShape *z) { return z->layout == LAYOUT_NHWC && is_stored(z->dtype); }

// ---- y ~ N(0,1). Rows are images.
template <typename T> DEVICE void store_normals(T *y, const float *draw, int64_t count, bool vector) {
    if (vector) {
        store_four(y, make_float4(draw[0], draw[1], draw[2], draw[3]));
    } else {
        for (int i = 0; i < 4; i++) {
            if (i < count) store_real(y + i, draw[i]);
        }
    }
}

template <typename T> static __global__ void __launch_bounds__(ROW_THREADS) randn_kernel(RandomShape z, RandomArgs a) {
    T *y = static_cast<T *>(a.y);
    int64_t image = (int64_t)z.hw * z.c;
    const uint32_t seed[2] = { a.state->seed[0], a.state->seed[1] };
    for (ROWS(i, z.n)) {
        for (COLUMNS(e, image, 4)) {
            Philox r = philox(seed, (uint32_t)(e / 4), a.sample[i], a.state->step, z.purpose);
            float draw[4];
            rng_normal4(r.v, draw);
            store_normals(y + i * image + e, draw, image - e, image % 4 == 0);
        }
    }
}

static void randn_run(Stream *s, const RandomShape *z, const RandomArgs *a, Work) {
    RowGrid g = row_grid(z->n, (int64_t)z->hw * z->c, 4);
    by_type(z->dtype, [&](auto one) { LAUNCH(s, (randn_kernel<decltype(one)>), g.grid, g.block, 0, *z, *a); });
}

// ---- dropout. Images of a multiple of eight elements: a thread's draws are one byte of the mask.
DEVICE uint32_t keep_byte(const Philox &r, uint32_t p16) {
    uint32_t bits = 0;
    for (int i = 0; i < 8; i++) bits |= (uint32_t)rng_keep(r.v, i, p16) << i;
    return bits;
}

template <typename T> static __global__ void __launch_bounds__(ROW_THREADS)
dropout_kernel(RandomShape z, RandomArgs a, float scale) {
    const T *x = static_cast<const T *>(a.x);
    T *y = static_cast<T *>(a.y);
    int64_t image = (int64_t)z.hw * z.c;
    const uint32_t seed[2] = { a.state->seed[0], a.state->seed[1] };
    for (ROWS(i, z.n)) {
        for (COLUMNS(e, image, 8)) {
            int64_t at = i * image + e;
            Vec<8> v = load_vec<8>(x + at);
            Philox r = philox(seed, (uint32_t)(e / 8), a.sample[i], a.state->step, z.purpose);
            uint32_t keep = keep_byte(r, z.p16);
            for (int l = 0; l < 8; l++) v.v[l] = keep >> l & 1 ? v.v[l] * scale : 0.0f;
            if (a.mask) a.mask[at / 8] = (uint8_t)keep;
            store_vec<8>(y + at, v);
        }
    }
}

// Any image: a thread owns a byte of the mask, whose eight elements may belong to several blocks and images.
template <typename T> static __global__ void __launch_bounds__(ROW_THREADS)
dropout_any_kernel(RandomShape z, RandomArgs a, float scale) {
    const T *x = static_cast<const T *>(a.x);
    T *y = static_cast<T *>(a.y);
    int64_t image = (int64_t)z.hw * z.c, total = z.n * image;
    const uint32_t seed[2] = { a.state->seed[0], a.state->seed[1] };
    for (COLUMNS(at, total, 8)) {
        uint32_t bits = 0, block = 0;                    // block: the decisions of the draw that j belongs to
        for (int j = 0; j < 8 && at + j < total; j++) {
            int64_t i = (at + j) / image, e = (at + j) % image;
            if (j == 0 || e % 8 == 0)
                block = keep_byte(philox(seed, (uint32_t)(e / 8), a.sample[i], a.state->step, z.purpose), z.p16);
            uint32_t keep = block >> (e % 8) & 1;
            bits |= keep << j;
            store_real(y + at + j, keep ? load_real(x + at + j) * scale : 0.0f);
        }
        if (a.mask) a.mask[at / 8] = (uint8_t)bits;
    }
}

static void dropout_run(Stream *s, const RandomShape *z, const RandomArgs *a, Work) {
    float scale = (float)(65536.0 / (65536.0 - (double)z->p16));
    int64_t image = (int64_t)z->hw * z->c;
    bool vector = image % 8 == 0 && is_vector(a->x, 0, z->dtype) && is_vector(a->y, 0, z->dtype);
    RowGrid g = vector ? row_grid(z->n, image, 8) : run_grid(z->n * image, 8);
    by_type(z->dtype, [&](auto one) {
        using T = decltype(one);
        if (vector) LAUNCH(s, (dropout_kernel<T>), g.grid, g.block, 0, *z, *a, scale);
        else        LAUNCH(s, (dropout_any_kernel<T>), g.grid, g.block, 0, *z, *a, scale);
    });
}

// ---- registration
IMPLS(random,
    IMPL_FULL(randn, "blocks", 100, 0, 0, can, NULL, NULL, randn_run, NULL),
    IMPL_FULL(dropout, "blocks", 100, 0, 0, can, NULL, NULL, dropout_run, NULL))
