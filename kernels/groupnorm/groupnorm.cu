// kernels/groupnorm/groupnorm.cu - group normalization, one slab of whole groups of one image per block.
//
// A slab is a range of channels, a multiple of the channels of a group and of the vector of eight that a thread loads,
// for all pixels. Where the slab fits into shared memory (64 KB by choice, so that three blocks share a multiprocessor
// of sm_90; 96 KB where the groups leave no smaller slab), it is read from memory once: each thread keeps there what it
// loaded itself, so that only sums need barriers. Larger slabs are read again, from the second-level cache if that
// holds them. 32x32 pixels of 32 channels in bf16 are 64 KB: rows of 64 bytes, whole sectors.
//
// Threads are (lanes of pixels, columns of vectors); columns are padded to a power of two of at most 32, so that a warp
// holds whole rows and adds them by shuffles. Wider slabs are walked in strips. A sum over pixels is a thread's own, then
// that of a warp's lanes, then of the warps in order, then of a group's channels in order: fixed by the shape alone.
//
// Traffic: forward x and y once; backward dy, x, add and dx once. Work per element in bf16: some 25 instructions
// forward with SiLU and dropout, 50 backward, where SiLU's slope is computed twice: at or below the time of the bytes.
#include "kernels/common/rng.h"
#include "kernels/common/vector.cuh"
#include "kernels/groupnorm/groupnorm.h"

// ---- slabs
enum {
    THREADS = 256,             // at most; warps are whole
    STRIP = 32,                // most vectors of a strip
    SLAB_BYTES = 64 << 10,     // wanted in shared memory
    MOST_BYTES = 96 << 10,     // possible there, beside the sums
    WIDE = 512,                // most channels of a slab of several groups
    ENOUGH_BLOCKS = 264,       // two per multiprocessor of the largest GPU known: narrower slabs below that
};
struct Slab {
    int  channels, slabs;      // of a slab; slabs of an image, the last of which may have fewer channels
    int  columns, vectors;     // threads along a row, a power of two, of which so many have a vector; STRIP or fewer
    int  threads, steps;       // threads of the block; most pixels of a thread
    bool kept;                 // what is read stays in shared memory
    int  kept_bytes, bytes;    // of it, and of all shared memory
};

static int gcd(int a, int b) { return b ? gcd(b, a % b) : a; }

// tensors: how many have to be kept; 0: none.
static Slab slab_of(const GroupNormShape *z, int v, int tensors) {
    int group = z->c / z->groups, unit = group / gcd(group, v) * v;
    int64_t size = z->dtype == DT_BF16 ? 2 : 4, column = (int64_t)z->hw * size * (tensors ? tensors : 1);
    int64_t fit = SLAB_BYTES / column / unit * unit, most = unit > WIDE ? unit : WIDE / unit * unit;
    Slab s = {};
    s.kept = tensors && unit * column <= MOST_BYTES;
    s.channels = (int)(s.kept ? (fit < unit ? unit : fit) : ceil_div(64, unit) * unit);
    if (s.channels > most) s.channels = (int)most;
    if (s.channels > z->c) s.channels = z->c;
    while (s.channels >= 2 * unit && s.channels * size > 128 && z->n * ceil_div(z->c, s.channels) < ENOUGH_BLOCKS)
        s.channels = s.channels / 2 / unit * unit;
    s.slabs = (int)ceil_div(z->c, s.channels);
    s.vectors = s.channels / v < STRIP ? s.channels / v : STRIP;
    for (s.columns = 1; s.columns < s.vectors;) s.columns *= 2;
    for (s.threads = 32; s.threads < THREADS && s.threads < (int64_t)z->hw * s.columns;) s.threads *= 2;
    int lanes = s.threads / s.columns, strips = (int)ceil_div(s.channels, STRIP * v), row = s.columns * v;
    s.steps = (int)ceil_div(z->hw, lanes);
    int64_t kept = (int64_t)strips * s.steps * lanes * s.vectors * v * size * tensors;
    if (kept > MOST_BYTES) s.kept = false;               // by the padding of the last step
    s.kept_bytes = s.kept ? (int)kept : 0;
    int sums = (s.threads / 32 + 2) * row + 2 * (s.channels / group);                 // floats: see Sums
    s.bytes = s.kept_bytes + sums * 4;
    return s;
}

// Where a thread stands.
struct Place {
    int i, k0, k1;             // image; channels of the slab
    int column, lane, lanes;
    int slot, stride;          // of its vectors in what is kept, from one pixel to its next
};
DEVICE Place place_of(const GroupNormShape &z, const Slab &s) {
    Place p;
    p.i = (int)(blockIdx.x / (unsigned)s.slabs);
    p.k0 = (int)(blockIdx.x % (unsigned)s.slabs) * s.channels;
    p.k1 = min(z.c, p.k0 + s.channels);
    p.column = (int)threadIdx.x % s.columns;
    p.lane = (int)threadIdx.x / s.columns;
    p.lanes = s.threads / s.columns;
    p.slot = p.lane * s.vectors + p.column;
    p.stride = p.lanes * s.vectors;
    return p;
}

DEVICE int group_width(const GroupNormShape &z) { return z.c / z.groups; }

// f(pixel, slot) for every vector of this thread in the strip of channels from k0 on; slot: where it is kept.
template <int V, typename F> DEVICE void each_vector(const GroupNormShape &z, const Slab &s, const Place &p, int k0, F f) {
    if (p.column >= s.vectors || k0 + p.column * V >= p.k1) return;
    int slot = (k0 - p.k0) / (s.columns * V) * s.steps * p.stride + p.slot;
    for (int pixel = p.lane; pixel < z.hw; pixel += p.lanes, slot += p.stride) f(pixel, slot);
}

// ---- sums over the block
struct Sums {
    float *warp;               // (warps, columns V)
    float *first, *second;     // (columns V): of a strip's channels
    float *mean, *other;       // (groups of the slab): a mean, and rstd or the mean of another quantity
};
template <int V> DEVICE Sums sums_of(const GroupNormShape &z, const Slab &s, unsigned char *shared) {
    int row = s.columns * V;
    float *warp = reinterpret_cast<float *>(shared + s.kept_bytes), *first = warp + s.threads / 32 * row;
    return { warp, first, first + row, first + 2 * row, first + 2 * row + s.channels / group_width(z) };
}

// to (columns V) = sums of `own` over all lanes. Ends with a barrier: everyone may read `to`, and warp is free again.
template <int V> DEVICE void sum_lanes(const Slab &s, const Sums &r, Vec<V> own, float *to) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, row = s.columns * V;
    for (int d = s.columns; d < 32; d *= 2) {
        for (int e = 0; e < V; e++) own.v[e] += __shfl_xor_sync(0xFFFFFFFFu, own.v[e], d);
    }
    if (lane < s.columns) {
        for (int e = 0; e < V; e++) r.warp[warp * row + lane * V + e] = own.v[e];
    }
    __syncthreads();
    for (int j = (int)threadIdx.x; j < row; j += s.threads) {
        float sum = 0;
        for (int w = 0; w < s.threads / 32; w++) sum += r.warp[w * row + j];
        to[j] = sum;
    }
    __syncthreads();
}

// group (groups of the slab) += the sums of its channels in the strip from k0 on, each times factor (c) if there is one;
// = in the first strip. A thread always has the same groups. No barrier at the end.
DEVICE void sum_groups(const GroupNormShape &z, const Slab &s, const Place &p, int k0, int row, const float *channel,
                       const float *factor, float *group) {
    int width = group_width(z);
    for (int g = (int)threadIdx.x; g < (p.k1 - p.k0) / width; g += s.threads) {
        int begin = p.k0 + g * width, end = min(min(begin + width, k0 + row), p.k1);
        float sum = k0 == p.k0 ? 0.0f : group[g];
        for (int k = max(begin, k0); k < end; k++) sum += factor ? factor[k] * channel[k - k0] : channel[k - k0];
        group[g] = sum;
    }
}

// group (groups of the slab) of each of the channels k..k+V-1.
template <int V> DEVICE Vec<V> of_groups(const GroupNormShape &z, const Place &p, int k, const float *group) {
    Vec<V> r;
    int width = group_width(z);
    for (int e = 0; e < V; e++) r.v[e] = k + e < p.k1 ? group[(k + e - p.k0) / width] : 0.0f;
    return r;
}
template <int V> DEVICE Vec<V> of_channels(const Place &p, int k, const float *channel) {
    Vec<V> r;
    for (int e = 0; e < V; e++) r.v[e] = k + e < p.k1 ? channel[k + e] : 0.0f;
    return r;
}

// ---- forward
// Mean and rstd of the slab's groups into r.mean and r.other, in two passes over x. KEPT: the first leaves x in `kept`.
template <typename T, int V, bool KEPT>
DEVICE void moments(const GroupNormShape &z, const Slab &s, const Place &p, const Sums &r, const T *x, T *kept) {
    int row = s.columns * V;
    float count = (float)z.hw * (float)group_width(z);
    for (int k0 = p.k0; k0 < p.k1; k0 += row) {
        const T *from = x + k0 + p.column * V;
        Vec<V> sum = {};
        each_vector<V>(z, s, p, k0, [&](int pixel, int slot) {
            Vec<V> v = load_vec<V>(from + (int64_t)pixel * z.ldx);
            for (int e = 0; e < V; e++) sum.v[e] += v.v[e];
            if (KEPT) store_vec<V>(kept + slot * V, v);
        });
        sum_lanes<V>(s, r, sum, r.first);
        sum_groups(z, s, p, k0, row, r.first, NULL, r.mean);
    }
    for (int g = (int)threadIdx.x; g < (p.k1 - p.k0) / group_width(z); g += s.threads) r.mean[g] /= count;
    __syncthreads();
    for (int k0 = p.k0; k0 < p.k1; k0 += row) {
        const T *from = x + k0 + p.column * V;
        Vec<V> mean = of_groups<V>(z, p, k0 + p.column * V, r.mean), sum = {};
        each_vector<V>(z, s, p, k0, [&](int pixel, int slot) {
            Vec<V> v = load_vec<V>(KEPT ? kept + slot * V : from + (int64_t)pixel * z.ldx);
            for (int e = 0; e < V; e++) sum.v[e] += (v.v[e] - mean.v[e]) * (v.v[e] - mean.v[e]);
        });
        sum_lanes<V>(s, r, sum, r.first);
        sum_groups(z, s, p, k0, row, r.first, NULL, r.other);
    }
    for (int g = (int)threadIdx.x; g < (p.k1 - p.k0) / group_width(z); g += s.threads)
        r.other[g] = 1.0f / sqrtf(r.other[g] / count + (float)z.eps);
    __syncthreads();
}

// The same from each channel's mean and squared deviations, stats (c,2): a group's deviations are those from its
// channels' means plus those of these means (Chan, Golub and LeVeque 1979). A warp per group.
DEVICE void moments_given(const GroupNormShape &z, const Slab &s, const Place &p, const Sums &r, const float *stats) {
    int lane = (int)threadIdx.x % 32, width = group_width(z);
    for (int g = (int)threadIdx.x / 32; g < (p.k1 - p.k0) / width; g += s.threads / 32) {
        const float *own = stats + 2 * (p.k0 + g * width);
        float sum = 0, squares = 0;
        for (int k = lane; k < width; k += 32) sum += own[2 * k];
        float mean = warp_sum(sum) / (float)width;
        for (int k = lane; k < width; k += 32) {
            float d = own[2 * k] - mean;
            squares += own[2 * k + 1] + (float)z.hw * d * d;
        }
        squares = warp_sum(squares);
        if (lane == 0) {
            r.mean[g] = mean;
            r.other[g] = 1.0f / sqrtf(squares / ((float)z.hw * (float)width) + (float)z.eps);
        }
    }
    __syncthreads();
}

// What the backward pass and a convolution's prologue read.
DEVICE void write_moments(const GroupNormShape &z, const GroupNormForwardArgs &a, const Slab &s, const Place &p,
                          const Sums &r) {
    int width = group_width(z);
    for (int g = (int)threadIdx.x; g < (p.k1 - p.k0) / width; g += s.threads) {
        a.mean[(int64_t)p.i * z.groups + p.k0 / width + g] = r.mean[g];
        a.rstd[(int64_t)p.i * z.groups + p.k0 / width + g] = r.other[g];
    }
    for (int k = p.k0 + (int)threadIdx.x; (a.scale || a.shift) && k < p.k1; k += s.threads) {
        float mean = r.mean[(k - p.k0) / width], scale = r.other[(k - p.k0) / width] * a.gamma[k];
        if (a.scale) a.scale[(int64_t)p.i * z.c + k] = scale;
        if (a.shift) a.shift[(int64_t)p.i * z.c + k] = a.beta[k] - mean * scale;
    }
}

// Keep bits of elements e..e+V-1 of an image, counted in rows of all channels; e is a multiple of V.
template <int V> DEVICE uint32_t keep_bits(const GroupNormShape &z, const uint32_t seed[2], uint32_t sample,
                                           uint32_t step, uint32_t e) {
    Philox w = philox(seed, e / 8, sample, step, z.purpose);
    uint32_t bits = 0;
    for (int i = 0; i < 8; i++) bits |= (uint32_t)rng_keep(w.v, i, z.p16) << i;
    return V == 8 ? bits : bits >> (e % 8) & 1;
}

// keep_scale: 1 / (1 - p). With V = 8 a thread's keep bits are a byte of the mask; otherwise mask_kernel has written it.
template <typename T, int V, bool KEPT>
DEVICE void apply(const GroupNormShape &z, const GroupNormForwardArgs &a, const Slab &s, const Place &p, const Sums &r,
                  const T *kept, float keep_scale) {
    int row = s.columns * V;
    uint32_t seed[2] = { 0, 0 }, sample = 0, step = 0;
    if (z.p16) {
        seed[0] = a.state->seed[0];
        seed[1] = a.state->seed[1];
        step = a.state->step;
        sample = a.sample[p.i];
    }
    for (int k0 = p.k0; k0 < p.k1; k0 += row) {
        int k = k0 + p.column * V;
        const T *from = static_cast<const T *>(a.x) + (int64_t)p.i * z.hw * z.ldx + k;
        T *to = static_cast<T *>(a.y) + (int64_t)p.i * z.hw * z.ldy + k;
        Vec<V> mean = of_groups<V>(z, p, k, r.mean), scale = of_groups<V>(z, p, k, r.other);
        Vec<V> gamma = of_channels<V>(p, k, a.gamma), beta = of_channels<V>(p, k, a.beta);
        for (int e = 0; e < V; e++) scale.v[e] *= gamma.v[e];
        each_vector<V>(z, s, p, k0, [&](int pixel, int slot) {
            Vec<V> v = load_vec<V>(KEPT ? kept + slot * V : from + (int64_t)pixel * z.ldx);
            for (int e = 0; e < V; e++) {
                v.v[e] = (v.v[e] - mean.v[e]) * scale.v[e] + beta.v[e];
                if (z.act == ACT_SILU) v.v[e] = silu_of<T>(v.v[e]);
            }
            if (z.p16) {
                int64_t element = (int64_t)pixel * z.c + k;
                uint32_t keep = keep_bits<V>(z, seed, sample, step, (uint32_t)element);
                for (int e = 0; e < V; e++) v.v[e] = keep >> e & 1 ? v.v[e] * keep_scale : 0.0f;
                if (V == 8 && a.mask) a.mask[((int64_t)p.i * z.hw * z.c + element) / 8] = (uint8_t)keep;
            }
            store_vec<V>(to + (int64_t)pixel * z.ldy, v);
        });
    }
}

template <typename T, int V, bool KEPT>
static __global__ void __launch_bounds__(THREADS, 2) forward_kernel(GroupNormShape z, GroupNormForwardArgs a, Slab s,
                                                          float keep_scale) {
    DYNAMIC_SHARED(unsigned char, shared);
    T *kept = reinterpret_cast<T *>(shared);
    Place p = place_of(z, s);
    Sums r = sums_of<V>(z, s, shared);
    if (z.stats) moments_given(z, s, p, r, a.stats + 2 * (int64_t)p.i * z.c);
    else moments<T, V, KEPT>(z, s, p, r, static_cast<const T *>(a.x) + (int64_t)p.i * z.hw * z.ldx, kept);
    write_moments(z, a, s, p, r);
    if (a.y) apply<T, V, KEPT>(z, a, s, p, r, kept, keep_scale);
}

// The mask where no thread of forward_kernel has eight elements of it: a thread per byte, zeros beyond the last bit.
static __global__ void __launch_bounds__(ROW_THREADS) mask_kernel(GroupNormShape z, GroupNormForwardArgs a) {
    int64_t image = (int64_t)z.hw * z.c, total = z.n * image;
    uint32_t seed[2] = { 0, 0 }, step = 0;
    if (z.p16) {
        seed[0] = a.state->seed[0];
        seed[1] = a.state->seed[1];
        step = a.state->step;
    }
    for (COLUMNS(at, total, 8)) {
        uint32_t bits = 0, block = 0xFFu;                // block: the decisions of the draw that j belongs to
        for (int j = 0; j < 8 && at + j < total; j++) {
            uint32_t i = (uint32_t)((at + j) / image), e = (uint32_t)((at + j) % image);
            if (z.p16 && (j == 0 || e % 8 == 0)) block = keep_bits<8>(z, seed, a.sample[i], step, e);
            bits |= (block >> (e % 8) & 1) << j;
        }
        a.mask[at / 8] = (uint8_t)bits;
    }
}

static bool can(const GroupNormShape *z) { return z->layout == LAYOUT_NHWC && is_stored(z->dtype); }
static float keep_scale_of(const GroupNormShape *z) { return (float)(65536.0 / (65536.0 - (double)z->p16)); }

static void forward(Stream *st, const GroupNormShape *z, const GroupNormForwardArgs *a, Work) {
    bool vector = z->c % 8 == 0 && is_vector(a->x, z->ldx, z->dtype) && is_vector(a->y, z->ldy, z->dtype);
    by_width(vector, [&](auto width) {
        constexpr int V = decltype(width)::value;
        Slab s = slab_of(z, V, z->stats ? 0 : 1);
        dim3 grid((unsigned)(z->n * s.slabs)), block((unsigned)s.threads);
        by_type(z->dtype, [&](auto one) {
            using T = decltype(one);
            if (s.kept) LAUNCH(st, (forward_kernel<T, V, true>), grid, block, s.bytes, *z, *a, s, keep_scale_of(z));
            else        LAUNCH(st, (forward_kernel<T, V, false>), grid, block, s.bytes, *z, *a, s, keep_scale_of(z));
        });
    });
    if (a->mask && !(vector && a->y && z->p16)) {
        RowGrid g = run_grid((int64_t)z->n * z->hw * z->c, 8);
        LAUNCH(st, (mask_kernel), g.grid, g.block, 0, *z, *a);
    }
}

// ---- backward
//   du = dy keep / (1 - p) act'(u);  A, B = sums over pixels of du and du xhat, per channel;  with means over a group
//   dx = rstd (gamma du - mean(gamma A) - xhat mean(gamma B)) + add;  dgamma = sum over images of B, dbeta of A
// Scratch: A and B, (n,c,2).
static size_t backward_scratch(const GroupNormShape *z) { return (size_t)z->n * (size_t)z->c * 2 * sizeof(float); }

template <int V> struct Columns { Vec<V> mean, rstd, gamma, beta; };                 // of a thread's channels

// A vector of du and xhat. plain: dy is du already.
template <typename T, int V> DEVICE void gradient(const GroupNormShape &z, const Columns<V> &o, Vec<V> dy, Vec<V> x,
                                                  uint32_t keep, float keep_scale, bool plain, Vec<V> &du,
                                                  Vec<V> &xhat) {
    for (int e = 0; e < V; e++) {
        xhat.v[e] = (x.v[e] - o.mean.v[e]) * o.rstd.v[e];
        du.v[e] = dy.v[e];
        if (plain) continue;
        du.v[e] = keep >> e & 1 ? du.v[e] * keep_scale : 0.0f;
        if (z.act == ACT_SILU) du.v[e] *= silu_slope_of<T>(xhat.v[e] * o.gamma.v[e] + o.beta.v[e]);
    }
}

// Keep bits of V elements from `element` of the dense tensor on; all of them where there is no mask.
template <int V> DEVICE uint32_t mask_bits(const uint8_t *mask, int64_t element) {
    if (!mask) return 0xFFu;
    return V == 8 ? mask[element / 8] : (uint32_t)mask[element / 8] >> (element % 8) & 1;
}

template <typename T, int V, bool KEPT>
static __global__ void __launch_bounds__(THREADS, 2) backward_kernel(GroupNormShape z, GroupNormBackwardArgs a, Slab s,
                                                           float keep_scale, float *sums) {
    DYNAMIC_SHARED(unsigned char, shared);
    Place p = place_of(z, s);
    Sums r = sums_of<V>(z, s, shared);
    T *kept_x = reinterpret_cast<T *>(shared), *kept_dy = reinterpret_cast<T *>(shared + s.kept_bytes / 2);
    const T *x = static_cast<const T *>(a.x) + (int64_t)p.i * z.hw * z.ldx;
    const T *dy = static_cast<const T *>(a.dy) + (int64_t)p.i * z.hw * z.ldy;
    const T *add = static_cast<const T *>(a.add) + (int64_t)p.i * z.hw * z.c;        // not read where absent
    T *dx = static_cast<T *>(a.dx) + (int64_t)p.i * z.hw * z.ldx;
    int row = s.columns * V, width = group_width(z), groups = (p.k1 - p.k0) / width;
    int64_t image = (int64_t)p.i * z.hw * z.c;
    float count = (float)z.hw * (float)width;
    const float *mean = a.mean + (int64_t)p.i * z.groups + p.k0 / width;
    const float *rstd = a.rstd + (int64_t)p.i * z.groups + p.k0 / width;
    const float *given = a.sums ? a.sums + 2 * (int64_t)p.i * z.c : NULL;
    Columns<V> o;

    // A and B, of channels and of groups
    for (int k0 = p.k0; k0 < p.k1; k0 += row) {
        int k = k0 + p.column * V;
        if (given) {
            for (int j = (int)threadIdx.x; j < min(row, p.k1 - k0); j += s.threads) {
                r.first[j] = given[2 * (k0 + j)];
                r.second[j] = given[2 * (k0 + j) + 1];
            }
            __syncthreads();
        } else {
            Vec<V> sum = {}, sum_xhat = {};
            o = { of_groups<V>(z, p, k, mean), of_groups<V>(z, p, k, rstd), of_channels<V>(p, k, a.gamma),
                  of_channels<V>(p, k, a.beta) };
            each_vector<V>(z, s, p, k0, [&](int pixel, int slot) {
                Vec<V> vx = load_vec<V>(x + (int64_t)pixel * z.ldx + k), du, xhat;
                Vec<V> vy = load_vec<V>(dy + (int64_t)pixel * z.ldy + k);
                if (KEPT) {
                    store_vec<V>(kept_x + slot * V, vx);
                    store_vec<V>(kept_dy + slot * V, vy);
                }
                uint32_t keep = mask_bits<V>(a.mask, image + (int64_t)pixel * z.c + k);
                gradient<T, V>(z, o, vy, vx, keep, a.mask ? keep_scale : 1.0f, false, du, xhat);
                for (int e = 0; e < V; e++) {
                    sum.v[e] += du.v[e];
                    sum_xhat.v[e] += du.v[e] * xhat.v[e];
                }
            });
            sum_lanes<V>(s, r, sum, r.first);
            sum_lanes<V>(s, r, sum_xhat, r.second);
            for (int j = (int)threadIdx.x; j < min(row, p.k1 - k0); j += s.threads) {
                sums[2 * ((int64_t)p.i * z.c + k0 + j)] = r.first[j];
                sums[2 * ((int64_t)p.i * z.c + k0 + j) + 1] = r.second[j];
            }
        }
        sum_groups(z, s, p, k0, row, r.first, a.gamma, r.mean);
        sum_groups(z, s, p, k0, row, r.second, a.gamma, r.other);
        if (given) __syncthreads();                      // first and second are free again
    }
    if (!a.dx) return;
    for (int g = (int)threadIdx.x; g < groups; g += s.threads) {
        r.mean[g] /= count;
        r.other[g] /= count;
    }
    __syncthreads();

    // dx. gamma du is rounded before the difference, as the mean's terms are: a group of one element gets exactly 0.
    for (int k0 = p.k0; k0 < p.k1; k0 += row) {
        int k = k0 + p.column * V;
        Vec<V> mean_a = of_groups<V>(z, p, k, r.mean), mean_b = of_groups<V>(z, p, k, r.other);
        o = { of_groups<V>(z, p, k, mean), of_groups<V>(z, p, k, rstd), of_channels<V>(p, k, a.gamma),
              of_channels<V>(p, k, a.beta) };
        each_vector<V>(z, s, p, k0, [&](int pixel, int slot) {
            Vec<V> vx = load_vec<V>(KEPT ? kept_x + slot * V : x + (int64_t)pixel * z.ldx + k), du, xhat, residual = {};
            Vec<V> vy = load_vec<V>(KEPT ? kept_dy + slot * V : dy + (int64_t)pixel * z.ldy + k);
            if (a.add) residual = load_vec<V>(add + (int64_t)pixel * z.c + k);
            uint32_t keep = given ? 0xFFu : mask_bits<V>(a.mask, image + (int64_t)pixel * z.c + k);
            gradient<T, V>(z, o, vy, vx, keep, a.mask ? keep_scale : 1.0f, given != NULL, du, xhat);
            for (int e = 0; e < V; e++) {
                float wide = fmaf(o.gamma.v[e], du.v[e], 0.0f) - mean_a.v[e];
                vx.v[e] = o.rstd.v[e] * (wide - xhat.v[e] * mean_b.v[e]) + residual.v[e];
            }
            store_vec<V>(dx + (int64_t)pixel * z.ldx + k, vx);
        });
    }
}

// dgamma, dbeta from A and B: threads (channels, lanes of images); a lane adds its images in order, then the lanes.
enum { IMAGE_LANES = 8 };
static __global__ void __launch_bounds__(32 * IMAGE_LANES) parameter_kernel(int n, int c, const float *sums,
                                                                            float *dgamma,
                                                                     float *dbeta, bool accumulate) {
    SHARED(float, part, 2 * IMAGE_LANES * 32);
    int k = (int)(blockIdx.x * 32 + threadIdx.x), lane = (int)threadIdx.y, column = (int)threadIdx.x;
    float a = 0, b = 0;
    for (int64_t i = lane; k < c && i < n; i += IMAGE_LANES) {
        float2 v = *reinterpret_cast<const float2 *>(sums + 2 * (i * c + k));
        a += v.x;
        b += v.y;
    }
    part[lane * 32 + column] = a;
    part[(IMAGE_LANES + lane) * 32 + column] = b;
    __syncthreads();
    if (lane > 1 || k >= c) return;
    float *to = lane ? dgamma : dbeta, sum = 0;
    for (int l = 0; l < IMAGE_LANES; l++) sum += part[(lane * IMAGE_LANES + l) * 32 + column];
    if (to) to[k] = accumulate ? to[k] + sum : sum;
}

static void backward(Stream *st, const GroupNormShape *z, const GroupNormBackwardArgs *a, Work w) {
    float *own = static_cast<float *>(w.scratch);
    bool vector = z->c % 8 == 0 && is_vector(a->x, z->ldx, z->dtype) && is_vector(a->dy, z->ldy, z->dtype) &&
                  is_vector(a->add, z->c, z->dtype) && is_vector(a->dx, z->ldx, z->dtype);
    if (a->dx || !a->sums) {
        by_width(vector, [&](auto width) {
            constexpr int V = decltype(width)::value;
            Slab s = slab_of(z, V, a->sums || !a->dx ? 0 : 2);
            dim3 grid((unsigned)(z->n * s.slabs)), block((unsigned)s.threads);
            float scale = keep_scale_of(z);
            by_type(z->dtype, [&](auto one) {
                using T = decltype(one);
                if (s.kept) LAUNCH(st, (backward_kernel<T, V, true>), grid, block, s.bytes, *z, *a, s, scale, own);
                else        LAUNCH(st, (backward_kernel<T, V, false>), grid, block, s.bytes, *z, *a, s, scale, own);
            });
        });
    }
    if (a->dgamma || a->dbeta) {
        LAUNCH(st, (parameter_kernel), dim3((unsigned)ceil_div(z->c, 32)), dim3(32, IMAGE_LANES), 0, z->n, z->c,
               a->sums ? a->sums : own, a->dgamma, a->dbeta, a->accumulate);
    }
}

// ---- registration
IMPLS(groupnorm,
    IMPL_FULL(groupnorm_forward, "slabs", 100, 0, 0, can, NULL, NULL, forward, NULL),
    IMPL_FULL(groupnorm_backward, "slabs", 100, 0, 0, can, backward_scratch, NULL, backward, NULL))
