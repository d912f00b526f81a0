// kernels/embed/embed.cu - rows of a table by index, and sinusoids of time.
//
// A hundred rows and a few hundred columns: small work, bound by the launch. An index outside the table cannot stop the
// program from here: its row is not read, and its output is NaN, which the loss then shows.
#include "kernels/common/vector.cuh"
#include "kernels/embed/embed.h"

static bool can_embed(const EmbedShape *z) { return is_stored(z->out); }

// ---- y[i,:] = table[index[i],:]
template <typename T>
static __global__ void __launch_bounds__(ROW_THREADS) embed_kernel(EmbedShape z, EmbedForwardArgs a) {
    T *y = static_cast<T *>(a.y);
    for (ROWS(i, z.n)) {
        int32_t row = a.index[i];
        for (COLUMNS(k, z.c, 1)) {
            float v = row < -1 || row >= z.rows ? __uint_as_float(0x7FC00000u) : 0.0f;
            if (row >= 0 && row < z.rows) v = a.table[(int64_t)row * z.c + k];
            store_real(y + i * z.c + k, v);
        }
    }
}
static void forward(Stream *s, const EmbedShape *z, const EmbedForwardArgs *a, Work) {
    RowGrid g = row_grid(z->n, z->c, 1);
    by_type(z->out, [&](auto one) { LAUNCH(s, (embed_kernel<decltype(one)>), g.grid, g.block, 0, *z, *a); });
}

// ---- dtable[r,:]: a thread looks through all of the batch for its row, in order. The indices are the same for a whole
// block and stay in the first-level cache.
template <typename T>
static __global__ void __launch_bounds__(ROW_THREADS) embed_grad_kernel(EmbedShape z, EmbedBackwardArgs a) {
    const T *dy = static_cast<const T *>(a.dy);
    for (ROWS(r, z.rows)) {
        for (COLUMNS(k, z.c, 1)) {
            float sum = 0, *to = a.dtable + r * z.c + k;
            for (int64_t i = 0; i < z.n; i++) {
                if (a.index[i] == r) sum += load_real(dy + i * z.c + k);
            }
            *to = a.accumulate ? *to + sum : sum;
        }
    }
}
static void backward(Stream *s, const EmbedShape *z, const EmbedBackwardArgs *a, Work) {
    RowGrid g = row_grid(z->rows, z->c, 1);
    by_type(z->out, [&](auto one) { LAUNCH(s, (embed_grad_kernel<decltype(one)>), g.grid, g.block, 0, *z, *a); });
}

// ---- sinusoids
// sin and cos of a float phase, |phase| < 2^30, to the last bit of a float: the multiple of pi/2 is taken off in double
// (Cody and Waite, pi/2 in two parts: 2^-53 of the phase are left of it), the rest is a Taylor series to x^17. The
// library's sine would keep a table in local memory for larger phases.
DEVICE void sincos_double(float phase, double *s, double *c) {
    double x = (double)phase, n = rint(x * 0.63661977236758134308);
    double r = fma(n, -1.57079632679489655800, x);
    r = fma(n, -6.12323399573676603587e-17, r);
    double z = r * r;
    double sine = 1.0 / 355687428096000.0, cosine = 1.0 / 20922789888000.0;          // 17!, 16!
    sine = fma(-sine, z, 1.0 / 1307674368000.0);                                     // 15!
    cosine = fma(-cosine, z, 1.0 / 87178291200.0);                                   // 14!
    const double odd[] = { 1.0 / 6227020800.0, 1.0 / 39916800.0, 1.0 / 362880.0, 1.0 / 5040.0, 1.0 / 120.0, 1.0 / 6.0,
                           1.0 };
    const double even[] = { 1.0 / 479001600.0, 1.0 / 3628800.0, 1.0 / 40320.0, 1.0 / 720.0, 1.0 / 24.0, 1.0 / 2.0, 1.0 };
    for (int i = 0; i < 7; i++) {
        sine = fma(-sine, z, odd[i]);
        cosine = fma(-cosine, z, even[i]);
    }
    sine *= r;
    int quadrant = (int)((int64_t)n & 3);
    double a = quadrant & 1 ? cosine : sine, b = quadrant & 1 ? sine : cosine;
    *s = quadrant & 2 ? -a : a;
    *c = (quadrant + 1) & 2 ? -b : b;
}

// Float up to the phase, rounded where the published table rounds: quotients, products, and no sum that could fuse.
template <typename T>
static __global__ void __launch_bounds__(ROW_THREADS) sinusoid_kernel(SinusoidShape z, SinusoidArgs a) {
    T *y = static_cast<T *>(a.y);
    for (ROWS(i, z.n)) {
        float t = z.in == DT_I32 ? (float)static_cast<const int32_t *>(a.t)[i] : static_cast<const float *>(a.t)[i];
        for (COLUMNS(j, z.dim, 1)) {
            float exponent = (float)(j / 2 * 2) / (float)z.dim * 9.210340371976184f;      // ln 10000
            float frequency = (float)exp(-(double)exponent);
            double s, c;
            sincos_double(t * frequency, &s, &c);
            store_real(y + i * z.dim + j, (float)(j % 2 ? c : s));
        }
    }
}

static bool can_sinusoid(const SinusoidShape *z) {
    return is_stored(z->out) && (z->in == DT_I32 || z->in == DT_F32);
}
static void sinusoids(Stream *s, const SinusoidShape *z, const SinusoidArgs *a, Work) {
    RowGrid g = row_grid(z->n, z->dim, 1);
    by_type(z->out, [&](auto one) { LAUNCH(s, (sinusoid_kernel<decltype(one)>), g.grid, g.block, 0, *z, *a); });
}

// ---- registration
IMPLS(embed,
    IMPL_FULL(embed_forward, "rows", 100, 0, 0, can_embed, NULL, NULL, forward, NULL),
    IMPL_FULL(embed_backward, "search", 100, 0, 0, can_embed, NULL, NULL, backward, NULL),
    IMPL_FULL(sinusoid, "double", 100, 0, 0, can_sinusoid, NULL, NULL, sinusoids, NULL))
