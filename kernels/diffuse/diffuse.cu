// kernels/diffuse/diffuse.cu - the forward process, also straight from the data set's bytes, and one reverse step.
//
// Rows of the grid are images. Where noise is drawn a thread owns four elements, one block of draws; rows whose length
// is a multiple of four are read and written 16 bytes at a time. All is read once and written once; the draws, some 55
// instructions an element, take about as long as the bytes do. A time outside the table gives NaN.
#include "kernels/common/rng.h"
#include "kernels/common/vector.cuh"
#include "kernels/diffuse/diffuse.h"
#include "kernels/pointwise/pointwise.h"

struct Roots { float signal, spread; };
DEVICE Roots roots_of(const float *root, int32_t t, int T) {
    if (t < 0 || t >= T) return { __uint_as_float(0x7FC00000u), __uint_as_float(0x7FC00000u) };
    return { root[2 * t], root[2 * t + 1] };
}

// ---- xt = root[t][0] x0 + root[t][1] eps
template <typename T, int V> static __global__ void __launch_bounds__(ROW_THREADS) add_noise_kernel(AddNoiseShape z,
                                                                                             AddNoiseArgs a) {
    T *xt = static_cast<T *>(a.xt);
    for (ROWS(i, z.n)) {
        Roots root = roots_of(a.root, a.t[i], z.T);
        for (COLUMNS(e, z.e, V)) {
            Vec<V> x0 = load_vec<V>(a.x0 + i * z.e + e), eps = load_vec<V>(a.eps + i * z.e + e);
            for (int l = 0; l < V; l++) x0.v[l] = root.signal * x0.v[l] + root.spread * eps.v[l];
            store_vec<V>(xt + i * z.e + e, x0);
        }
    }
}

static bool can_add_noise(const AddNoiseShape *z) { return is_stored(z->out); }

static void add_noise_run(Stream *s, const AddNoiseShape *z, const AddNoiseArgs *a, Work) {
    bool vector = z->e % 8 == 0 && is_vector(a->x0, 0, DT_F32) && is_vector(a->eps, 0, DT_F32) &&
                  is_vector(a->xt, 0, z->out);
    by_width(vector, [&](auto width) {
        constexpr int V = decltype(width)::value;
        RowGrid g = row_grid(z->n, z->e, V);
        by_type(z->out, [&](auto one) {
            LAUNCH(s, (add_noise_kernel<decltype(one), V>), g.grid, g.block, 0, *z, *a);
        });
    });
}

// ---- the same from bytes
// The four bytes from e on of a row-major image, first one low. Those of a mirrored image are found by counting on from
// the first one's column and channel; they come from the first-level cache.
DEVICE uint32_t image_block(const QSampleShape &z, const uint8_t *image, int e, int count, bool mirrored,
                            bool aligned) {
    if (!mirrored && aligned) return *reinterpret_cast<const uint32_t *>(image + e);
    uint32_t bytes = 0;
    int pixel = e / z.c, k = e - pixel * z.c, x = pixel % z.w, row = pixel - x;
    for (int i = 0; i < 4; i++) {
        if (i < count) bytes |= (uint32_t)image[(row + (mirrored ? z.w - 1 - x : x)) * z.c + k] << (8 * i);
        if (++k == z.c) {
            k = 0;
            x++;
        }
        if (x == z.w) {
            x = 0;
            row += z.w;
        }
    }
    return bytes;
}

// Normalised as the host does it: a division, then a difference, then a division by a power of two, which no compiler
// fuses.
DEVICE float normal_byte(uint32_t byte) { return ((float)byte / 255.0f - 0.5f) / 0.5f; }

template <typename T>
static __global__ void __launch_bounds__(ROW_THREADS) q_sample_kernel(QSampleShape z, QSampleArgs a) {
    T *xt = static_cast<T *>(a.xt);
    int64_t image = (int64_t)z.h * z.w * z.c;
    bool aligned = image % 4 == 0;
    const uint32_t seed[2] = { a.state->seed[0], a.state->seed[1] };
    for (ROWS(i, z.n)) {
        uint32_t sample = a.sample[i], step = a.state->step;
        bool mirrored = z.flip && philox(seed, 0, sample, step, PURPOSE_FLIP).v[0] >> 31;
        Roots root = roots_of(a.root, a.t[i], z.T);
        const uint8_t *bytes = a.images + a.index[i] * image;
        for (COLUMNS(e, image, 4)) {
            int64_t count = image - e, at = i * image + e;
            uint32_t x0 = image_block(z, bytes, (int)e, (int)min(count, (int64_t)4), mirrored, aligned);
            Philox r = philox(seed, (uint32_t)(e / 4), sample, step, PURPOSE_NOISE);
            float v[4];
            rng_normal4(r.v, v);
            store_block(a.eps + at, make_float4(v[0], v[1], v[2], v[3]), count, aligned);
            for (int l = 0; l < 4; l++) v[l] = root.signal * normal_byte(x0 >> (8 * l) & 255u) + root.spread * v[l];
            store_block(xt + at, make_float4(v[0], v[1], v[2], v[3]), count, aligned);
        }
    }
}

static bool can_q_sample(const QSampleShape *z) { return is_stored(z->out); }

static void q_sample_run(Stream *s, const QSampleShape *z, const QSampleArgs *a, Work) {
    RowGrid g = row_grid(z->n, (int64_t)z->h * z->w * z->c, 4);
    by_type(z->out, [&](auto one) { LAUNCH(s, (q_sample_kernel<decltype(one)>), g.grid, g.block, 0, *z, *a); });
}

// ---- one reverse step. What does not change within a step - guidance or not, clipping, history, noise - is the same
// for every thread: branches cost nothing.
DEVICE float clipped(const SamplerCoef &c, float x, float eps_hat) {
    float x0 = c.x0_x * x + c.x0_eps * eps_hat;
    x0 = x0 < -c.x0_clip ? -c.x0_clip : x0 > c.x0_clip ? c.x0_clip : x0;         // NaN stays NaN
    return (x0 - c.x0_x * x) / c.x0_eps;
}

static __global__ void __launch_bounds__(ROW_THREADS) sampler_step_kernel(SamplerStepShape z, SamplerStepArgs a) {
    const SamplerCoef c = a.coef[a.state->sampler_index];
    const uint32_t seed[2] = { a.state->seed[0], a.state->seed[1] };
    bool aligned = z.e % 4 == 0;
    for (ROWS(i, z.n)) {
        float g = a.omega ? a.omega[i] : c.guidance;
        for (COLUMNS(e, z.e, 4)) {
            int64_t at = i * z.e + e, count = z.e - e;
            float4 in = load_block(a.x + at, count, aligned), hat = load_block(a.cond + at, count, aligned);
            float x[4] = { in.x, in.y, in.z, in.w }, eps_hat[4] = { hat.x, hat.y, hat.z, hat.w };
            float draw[4] = { 0 }, old[4] = { 0 };
            if (a.uncond) {
                float4 plain = load_block(a.uncond + at, count, aligned);
                float u[4] = { plain.x, plain.y, plain.z, plain.w };
                for (int l = 0; l < 4; l++) eps_hat[l] = (1.0f + g) * eps_hat[l] - g * u[l];
            }
            if (a.prev && c.prev != 0) {                 // where its factor is 0, prev may hold anything
                float4 history = load_block(a.prev + at, count, aligned);
                old[0] = history.x;
                old[1] = history.y;
                old[2] = history.z;
                old[3] = history.w;
            }
            if (c.sigma != 0) rng_normal4(philox(seed, (uint32_t)(e / 4), a.sample[i], a.state->step, z.purpose).v, draw);
            for (int l = 0; l < 4; l++) {
                if (c.x0_clip > 0) eps_hat[l] = clipped(c, x[l], eps_hat[l]);
                x[l] = c.x * x[l] + c.eps * eps_hat[l] + c.prev * old[l] + c.sigma * draw[l];
            }
            if (a.prev)
                store_block(a.prev + at, make_float4(eps_hat[0], eps_hat[1], eps_hat[2], eps_hat[3]), count, aligned);
            store_block(a.x + at, make_float4(x[0], x[1], x[2], x[3]), count, aligned);
        }
    }
}

static void sampler_step_run(Stream *s, const SamplerStepShape *z, const SamplerStepArgs *a, Work) {
    RowGrid g = row_grid(z->n, z->e, 4);
    LAUNCH(s, (sampler_step_kernel), g.grid, g.block, 0, *z, *a);
}

// ---- registration
IMPLS(diffuse,
    IMPL_FULL(add_noise, "rows", 100, 0, 0, can_add_noise, NULL, NULL, add_noise_run, NULL),
    IMPL_FULL(q_sample, "blocks", 100, 0, 0, can_q_sample, NULL, NULL, q_sample_run, NULL),
    IMPL(sampler_step, "blocks", sampler_step_run))
