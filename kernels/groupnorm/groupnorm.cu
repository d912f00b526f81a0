// kernels/groupnorm/groupnorm.cu - group normalization, one slab of whole groups of one image per block.
//
// A slab is a range of channels, a multiple of the channels of a group and of the vector of eight that a thread loads,
// for all pixels. All vectors come through shared memory by asynchronous copies, each read there by the thread that
// asked for it, so that only sums need barriers. Where the slab fits (64 KB by choice, so that two or three blocks
// share a multiprocessor) it stays there and is read from memory once; a larger one passes through a ring of four
// vectors per thread and is read again, from the second-level cache if that holds it. 32x32 pixels of 32 channels in
// bf16 are 64 KB: rows of 64 bytes, whole sectors.
//
// Threads are (lanes of pixels, columns of vectors); columns are padded to a power of two of at most 32, so that a warp
// holds whole rows and adds them by shuffles. Wider slabs are walked in strips. A sum over pixels is a thread's own,
// then that of a warp's lanes, then of the warps in order, then of a group's channels in order: fixed by the shape.
//
// Template parameters: T storage; V elements of a vector, 8, or 1 where channels, strides or pointers are odd; G groups
// that a vector can meet, 2 where a group's channels are a multiple of four: a value per half of the vector.
//
// Traffic: forward x and y once; backward dy, x, add and dx once. Work per element in bf16: some 25 instructions
// forward with SiLU and dropout, 50 backward, where SiLU's slope is computed twice: at or below the time of the bytes.
#include "kernels/common/mma.cuh"
#include "kernels/common/rng.h"
#include "kernels/common/vector.cuh"
#include "kernels/groupnorm/groupnorm.h"

// ---- slabs
enum {
    THREADS = 256,             // at most; warps are whole
    DEPTH = 4,                 // vectors of a ring: three on their way while one is used. A power of two
    STRIP = 32,                // most vectors of a strip
    SLAB_BYTES = 64 << 10,     // wanted in shared memory
    MOST_BYTES = 99 << 10,     // possible there on every GPU from 8.0 on
    WIDE = 512,                // most channels of a slab of several groups
    ENOUGH_BLOCKS = 264,       // two per multiprocessor of the largest GPU known: narrower slabs below that
};
struct Slab {
    int  channels, slabs;      // of a slab; slabs of an image, the last of which may have fewer channels
    int  columns, vectors;     // threads along a row, a power of two, of which so many have a vector; STRIP or fewer
    int  threads, steps;       // threads of the block; most pixels of a thread
    bool kept;                 // tensors that are read twice stay in shared memory
    int  kept_bytes;           // of each of these, or of its ring
    // Bytes from the start of shared memory to the Sums, behind the rings of tensors that are read once; all of it.
    int  warp, first, second, mean, other, bytes;
};

static int gcd(int a, int b) { return b ? gcd(b, a % b) : a; }

// twice, once: how many tensors are read so.
static Slab slab_of(const GroupNormShape *z, int v, int twice, int once) {
    int group = z->c / z->groups, unit = group / gcd(group, v) * v, most = unit > WIDE ? unit : WIDE / unit * unit;
    int64_t size = z->dtype == DT_BF16 ? 2 : 4, column = z->hw * size * twice, wide = ceil_div(64, unit) * unit;
    if (twice && unit * column <= MOST_BYTES)
        wide = column * unit > SLAB_BYTES ? unit : SLAB_BYTES / column / unit * unit;
    if (wide > most) wide = most;
    if (wide > z->c) wide = z->c;
    while (wide >= 2 * unit && wide * size > 128 && z->n * ceil_div(z->c, wide) < ENOUGH_BLOCKS)
        wide = wide / 2 / unit * unit;
    Slab s = {};
    s.channels = (int)wide;
    s.slabs = (int)ceil_div(z->c, wide);
    s.vectors = wide / v < STRIP ? (int)wide / v : (int)STRIP;
    for (s.columns = 1; s.columns < s.vectors;) s.columns *= 2;
    for (s.threads = 32; s.threads < THREADS && s.threads < (int64_t)z->hw * s.columns;) s.threads *= 2;
    int lanes = s.threads / s.columns;
    s.steps = (int)ceil_div(z->hw, lanes);
    int64_t strips = ceil_div(wide, STRIP * v), kept = strips * s.steps * lanes * s.vectors * v * size;
    int64_t ring = v == 1 ? 0 : DEPTH * s.threads * v * size;
    int64_t row = 4 * s.columns * v, groups = 4 * (wide / group), warps = s.threads / 32;
    int64_t sums = (warps + 2) * row + 2 * groups;
    s.kept = twice && twice * kept + once * ring + sums <= MOST_BYTES;
    s.kept_bytes = (int)(s.kept ? kept : ring);
    s.warp = (int)(twice * s.kept_bytes + once * ring);
    s.first = s.warp + (int)(warps * row);
    s.second = s.first + (int)row;
    s.mean = s.second + (int)row;
    s.other = s.mean + (int)groups;
    s.bytes = s.other + (int)groups;
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

// ---- vectors on their way
// A tensor as a thread reads it: from memory into its own places in shared memory. The slots of what is kept lie `slot`
// vectors from `place`; a ring's lie a block's vectors apart, this thread's own being the first. V = 1 copies nothing:
// what is not kept is read from memory at its use.
template <typename T> struct Feed {
    const T *from;             // first channel of the image, NULL: absent
    int      ld, place;        // elements from pixel to pixel; elements from the start of shared memory
    bool     kept;
};
template <int V, typename T> DEVICE Feed<T> feed_of(const T *from, int ld, int bytes, bool kept) {
    int place = bytes / (int)sizeof(T);
    return { from, ld, kept ? place : place + (int)threadIdx.x * V, kept };
}
template <typename T> DEVICE void copy_vector(T *to, const T *from) {
    for (int e = 0; e < 8; e += (int)(16 / sizeof(T))) CP_ASYNC16(to + e, from + e, 16);
}

// Number of the first vector of the strip from k0 on among what this thread keeps; has_vectors: it has any.
template <int V> DEVICE int first_slot(const Slab &s, const Place &p, int k0) {
    return (k0 - p.k0) / (s.columns * V) * s.steps * p.stride + p.slot;
}
template <int V> DEVICE bool has_vectors(const Slab &s, const Place &p, int k0) {
    return p.column < s.vectors && k0 + p.column * V < p.k1;
}

// Everything of this thread's into shared memory, if the tensor is kept.
template <int V, typename T>
DEVICE void keep_all(const GroupNormShape &z, const Slab &s, const Place &p, const Feed<T> &f, T *shared) {
    if (!f.kept) return;
    for (int k0 = p.k0; k0 < p.k1 && has_vectors<V>(s, p, k0); k0 += s.columns * V) {
        const T *from = f.from + k0 + p.column * V;
        int slot = first_slot<V>(s, p, k0);
        for (int pixel = p.lane; pixel < z.hw; pixel += p.lanes, slot += p.stride) {
            if constexpr (V == 8) copy_vector(shared + f.place + slot * V, from + (int64_t)pixel * f.ld);
            else shared[f.place + slot] = from[(int64_t)pixel * f.ld];
        }
    }
    if constexpr (V == 8) {
        CP_ASYNC_COMMIT();
        CP_ASYNC_WAIT(0);
    }
}

// use(pixel, vector) for every vector of this thread in the strip of channels from k0 on; vector(n): that of feed n,
// read when it is asked for, which an absent feed's must not be.
template <int V, typename T, int N, typename Use>
DEVICE void each_vector(const GroupNormShape &z, const Slab &s, const Place &p, int k0, const Feed<T> (&f)[N],
                        T *shared, Use use) {
    if (!has_vectors<V>(s, p, k0)) return;
    int slot = first_slot<V>(s, p, k0), k = k0 + p.column * V;
    auto fetch = [&](int step) {                         // of a thread's pixels, into the rings
        int pixel = p.lane + step * p.lanes;
        for (int n = 0; n < N; n++) {
            if (f[n].from && !f[n].kept && pixel < z.hw)
                copy_vector(shared + f[n].place + step % DEPTH * s.threads * V,
                            f[n].from + (int64_t)pixel * f[n].ld + k);
        }
        CP_ASYNC_COMMIT();
    };
    if constexpr (V == 8) {
        for (int step = 0; step < DEPTH - 1; step++) fetch(step);
    }
    for (int step = 0, pixel = p.lane; pixel < z.hw; step++, pixel += p.lanes, slot += p.stride) {
        if constexpr (V == 8) {
            fetch(step + DEPTH - 1);
            CP_ASYNC_WAIT(DEPTH - 1);
        }
        use(pixel, [&](int n) {
            const T *at = shared + f[n].place + (f[n].kept ? slot : step % DEPTH * s.threads) * V;
            return load_vec<V>(V == 1 && !f[n].kept ? f[n].from + (int64_t)pixel * f[n].ld + k : at);
        });
    }
}

// ---- sums over the block
struct Sums {
    float *warp;               // (warps, columns V)
    float *first, *second;     // (columns V): of a strip's channels
    float *mean, *other;       // (groups of the slab): a mean, and rstd or the mean of another quantity
};
DEVICE float *floats_at(unsigned char *shared, int bytes) { return reinterpret_cast<float *>(shared + bytes); }
DEVICE Sums sums_of(const Slab &s, unsigned char *shared) {
    return { floats_at(shared, s.warp), floats_at(shared, s.first), floats_at(shared, s.second),
             floats_at(shared, s.mean), floats_at(shared, s.other) };
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

// group (groups of the slab) += the sums of its channels in the strip from k0 on, each times factor (c) if there is
// one; = in the first strip. A thread always has the same groups. No barrier at the end.
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

// group (groups of the slab) of the channels k..k+V-1: one value for each V / G of them.
template <int V, int G> DEVICE Vec<G> of_groups(const GroupNormShape &z, const Place &p, int k, const float *group) {
    Vec<G> r;
    int width = group_width(z);
    for (int j = 0; j < G; j++) r.v[j] = k < p.k1 ? group[(k + j * (V / G) - p.k0) / width] : 0.0f;
    return r;
}
template <int V> DEVICE Vec<V> of_channels(const Place &p, int k, const float *channel) {
    Vec<V> r;
    for (int e = 0; e < V; e++) r.v[e] = k < p.k1 ? channel[k + e] : 0.0f;
    return r;
}

// ---- forward
// Mean and rstd of the slab's groups into r.mean and r.other, in two passes over x.
template <typename T, int V, int G>
DEVICE void moments(const GroupNormShape &z, const Slab &s, const Place &p, const Sums &r, const Feed<T> (&x)[1],
                    T *shared) {
    int row = s.columns * V;
    float count = (float)z.hw * (float)group_width(z);
    keep_all<V>(z, s, p, x[0], shared);
    for (int pass = 0; pass < 2; pass++) {               // sums, then squared deviations
        for (int k0 = p.k0; k0 < p.k1; k0 += row) {
            Vec<G> mean = {};
            Vec<V> sum = {};
            if (pass) mean = of_groups<V, G>(z, p, k0 + p.column * V, r.mean);
            each_vector<V>(z, s, p, k0, x, shared, [&](int, auto vector) {
                Vec<V> v = vector(0);
                for (int e = 0; e < V; e++) {
                    float d = v.v[e] - mean.v[e * G / V];
                    sum.v[e] += pass ? d * d : d;
                }
            });
            sum_lanes<V>(s, r, sum, r.first);
            sum_groups(z, s, p, k0, row, r.first, NULL, pass ? r.other : r.mean);
        }
        for (int g = (int)threadIdx.x; g < (p.k1 - p.k0) / group_width(z); g += s.threads) {
            if (pass) r.other[g] = 1.0f / sqrtf(r.other[g] / count + (float)z.eps);
            else r.mean[g] /= count;
        }
        __syncthreads();
    }
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

// keep_scale: 1 / (1 - p). With V = 8 a thread's keep bits are a byte of the mask; otherwise mask_kernel writes it.
template <typename T, int V, int G>
DEVICE void apply(const GroupNormShape &z, const GroupNormForwardArgs &a, const Slab &s, const Place &p, const Sums &r,
                  const Feed<T> (&x)[1], T *shared, float keep_scale) {
    uint32_t seed[2] = { 0, 0 }, sample = 0, step = 0;
    if (z.p16) {
        seed[0] = a.state->seed[0];
        seed[1] = a.state->seed[1];
        step = a.state->step;
        sample = a.sample[p.i];
    }
    for (int k0 = p.k0; k0 < p.k1; k0 += s.columns * V) {
        int k = k0 + p.column * V;
        T *to = static_cast<T *>(a.y) + (int64_t)p.i * z.hw * z.ldy + k;
        Vec<G> mean = of_groups<V, G>(z, p, k, r.mean), rstd = of_groups<V, G>(z, p, k, r.other);
        Vec<V> scale = of_channels<V>(p, k, a.gamma), beta = of_channels<V>(p, k, a.beta);
        for (int e = 0; e < V; e++) scale.v[e] *= rstd.v[e * G / V];
        each_vector<V>(z, s, p, k0, x, shared, [&](int pixel, auto vector) {
            Vec<V> v = vector(0);
            for (int e = 0; e < V; e++) {
                v.v[e] = (v.v[e] - mean.v[e * G / V]) * scale.v[e] + beta.v[e];
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

template <typename T, int V, int G>
static __global__ void __launch_bounds__(THREADS, 2) forward_kernel(GroupNormShape z, GroupNormForwardArgs a, Slab s,
                                                                    float keep_scale) {
    DYNAMIC_SHARED(unsigned char, shared);
    Place p = place_of(z, s);
    Sums r = sums_of(s, shared);
    const T *image = static_cast<const T *>(a.x) + (int64_t)p.i * z.hw * z.ldx;
    T *places = reinterpret_cast<T *>(shared);
    const Feed<T> x[1] = { feed_of<V>(image, z.ldx, 0, s.kept) };
    if (z.stats) moments_given(z, s, p, r, a.stats + 2 * (int64_t)p.i * z.c);
    else moments<T, V, G>(z, s, p, r, x, places);
    write_moments(z, a, s, p, r);
    if (a.y) apply<T, V, G>(z, a, s, p, r, x, places, keep_scale);
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

// launch(T, V, G) for a shape, as values that carry them in their types.
template <int N> struct Number { static constexpr int value = N; };
template <typename F> static void by_kind(const GroupNormShape *z, bool vector, F launch) {
    by_type(z->dtype, [&](auto one) {
        if (!vector) launch(one, Number<1>(), Number<1>());
        else if (z->c / z->groups % 4 == 0) launch(one, Number<8>(), Number<2>());
        else launch(one, Number<8>(), Number<8>());
    });
}

static void forward(Stream *st, const GroupNormShape *z, const GroupNormForwardArgs *a, Work) {
    bool vector = z->c % 8 == 0 && is_vector(a->x, z->ldx, z->dtype) && is_vector(a->y, z->ldy, z->dtype);
    Slab s = slab_of(z, vector ? 8 : 1, !z->stats, z->stats);
    dim3 grid((unsigned)(z->n * s.slabs)), block((unsigned)s.threads);
    by_kind(z, vector, [&](auto one, auto v, auto g) {
        LAUNCH(st, (forward_kernel<decltype(one), decltype(v)::value, decltype(g)::value>), grid, block, s.bytes,
               *z, *a, s, keep_scale_of(z));
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

template <int V, int G> struct Columns {                 // of a thread's channels
    Vec<G> mean, rstd;
    Vec<V> gamma, beta;
};
template <int V, int G>
DEVICE Columns<V, G> columns_of(const GroupNormShape &z, const GroupNormBackwardArgs &a, const Place &p, int k) {
    int64_t first = (int64_t)p.i * z.groups + p.k0 / group_width(z);
    return { of_groups<V, G>(z, p, k, a.mean + first), of_groups<V, G>(z, p, k, a.rstd + first),
             of_channels<V>(p, k, a.gamma), of_channels<V>(p, k, a.beta) };
}

// Keep bits of the vector at `element` of the dense tensor; all are set without a mask, and where dy is du already.
template <int V> DEVICE uint32_t mask_bits(const GroupNormBackwardArgs &a, int64_t element) {
    if (!a.mask || a.sums) return 0xFFu;
    return V == 8 ? a.mask[element / 8] : (uint32_t)a.mask[element / 8] >> (element % 8) & 1;
}

// Element e of a vector. keep: a bit per element; given: dy is du.
struct Gradient { float du, xhat; };
template <typename T, int V, int G>
DEVICE Gradient gradient_of(const GroupNormShape &z, const Columns<V, G> &o, int e, float x, float dy, uint32_t keep,
                            float keep_scale, bool given) {
    Gradient r = { dy, (x - o.mean.v[e * G / V]) * o.rstd.v[e * G / V] };
    if (given) return r;
    r.du = keep >> e & 1 ? dy * keep_scale : 0.0f;
    if (z.act == ACT_SILU) r.du *= silu_slope_of<T>(r.xhat * o.gamma.v[e] + o.beta.v[e]);
    return r;
}

// A and B of the strip from k0 on into r.first and r.second, and out to `sums` unless they were given.
template <typename T, int V, int G>
DEVICE void channel_sums(const GroupNormShape &z, const GroupNormBackwardArgs &a, const Slab &s, const Place &p,
                         const Sums &r, const Feed<T> (&f)[2], T *shared, int k0, float keep_scale, float *sums) {
    int k = k0 + p.column * V, channels = min(s.columns * V, p.k1 - k0);
    int64_t own = 2 * ((int64_t)p.i * z.c + k0), first = (int64_t)p.i * z.hw * z.c + k;
    if (a.sums) {
        for (int j = (int)threadIdx.x; j < channels; j += s.threads) {
            r.first[j] = a.sums[own + 2 * j];
            r.second[j] = a.sums[own + 2 * j + 1];
        }
        __syncthreads();
        return;
    }
    Columns<V, G> o = columns_of<V, G>(z, a, p, k);
    Vec<V> sum = {}, sum_xhat = {};
    each_vector<V>(z, s, p, k0, f, shared, [&](int pixel, auto vector) {
        Vec<V> x = vector(0), dy = vector(1);
        uint32_t keep = mask_bits<V>(a, first + (int64_t)pixel * z.c);
        for (int e = 0; e < V; e++) {
            Gradient g = gradient_of<T>(z, o, e, x.v[e], dy.v[e], keep, keep_scale, false);
            sum.v[e] += g.du;
            sum_xhat.v[e] += g.du * g.xhat;
        }
    });
    sum_lanes<V>(s, r, sum, r.first);
    sum_lanes<V>(s, r, sum_xhat, r.second);
    for (int j = (int)threadIdx.x; j < channels; j += s.threads) {
        sums[own + 2 * j] = r.first[j];
        sums[own + 2 * j + 1] = r.second[j];
    }
}

// dx from the groups' means of gamma A and gamma B in r. gamma du is rounded before the difference, as the mean's terms
// are: a group of one element gets exactly 0.
template <typename T, int V, int G>
DEVICE void input_gradient(const GroupNormShape &z, const GroupNormBackwardArgs &a, const Slab &s, const Place &p,
                           const Sums &r, const Feed<T> (&f)[3], T *shared, float keep_scale) {
    for (int k0 = p.k0; k0 < p.k1; k0 += s.columns * V) {
        int k = k0 + p.column * V;
        int64_t first = (int64_t)p.i * z.hw * z.c + k;
        T *dx = static_cast<T *>(a.dx) + (int64_t)p.i * z.hw * z.ldx + k;
        Vec<G> mean_a = of_groups<V, G>(z, p, k, r.mean), mean_b = of_groups<V, G>(z, p, k, r.other);
        Columns<V, G> o = columns_of<V, G>(z, a, p, k);
        each_vector<V>(z, s, p, k0, f, shared, [&](int pixel, auto vector) {
            Vec<V> x = vector(0), dy = vector(1), residual = {};
            uint32_t keep = mask_bits<V>(a, first + (int64_t)pixel * z.c);
            for (int e = 0; e < V; e++) {
                Gradient g = gradient_of<T>(z, o, e, x.v[e], dy.v[e], keep, keep_scale, a.sums != NULL);
                float d = fmaf(o.gamma.v[e], g.du, 0.0f) - mean_a.v[e * G / V];
                x.v[e] = o.rstd.v[e * G / V] * (d - g.xhat * mean_b.v[e * G / V]);
            }
            if (a.add) residual = vector(2);
            for (int e = 0; e < V; e++) x.v[e] += residual.v[e];
            store_vec<V>(dx + (int64_t)pixel * z.ldx, x);
        });
    }
}

template <typename T, int V, int G>
static __global__ void __launch_bounds__(THREADS, 2) backward_kernel(GroupNormShape z, GroupNormBackwardArgs a, Slab s,
                                                                     float keep_scale, float *sums) {
    DYNAMIC_SHARED(unsigned char, shared);
    Place p = place_of(z, s);
    Sums r = sums_of(s, shared);
    int64_t image = (int64_t)p.i * z.hw;
    T *places = reinterpret_cast<T *>(shared);
    Feed<T> x = feed_of<V>(static_cast<const T *>(a.x) + image * z.ldx, z.ldx, 0, s.kept);
    Feed<T> dy = feed_of<V>(static_cast<const T *>(a.dy) + image * z.ldy, z.ldy, s.kept_bytes, s.kept);
    Feed<T> add = feed_of<V>(a.add ? static_cast<const T *>(a.add) + image * z.c : NULL, z.c, 2 * s.kept_bytes, false);
    const Feed<T> both[2] = { x, dy }, all[3] = { x, dy, add };
    keep_all<V>(z, s, p, x, places);
    keep_all<V>(z, s, p, dy, places);
    for (int k0 = p.k0; k0 < p.k1; k0 += s.columns * V) {
        channel_sums<T, V, G>(z, a, s, p, r, both, places, k0, keep_scale, sums);
        sum_groups(z, s, p, k0, s.columns * V, r.first, a.gamma, r.mean);
        sum_groups(z, s, p, k0, s.columns * V, r.second, a.gamma, r.other);
        __syncthreads();                                 // first and second are free again
    }
    if (!a.dx) return;
    float count = (float)z.hw * (float)group_width(z);
    for (int g = (int)threadIdx.x; g < (p.k1 - p.k0) / group_width(z); g += s.threads) {
        r.mean[g] /= count;
        r.other[g] /= count;
    }
    __syncthreads();
    input_gradient<T, V, G>(z, a, s, p, r, all, places, keep_scale);
}

// dgamma, dbeta from A and B: threads (channels, lanes of images); a lane adds its images in order, then the lanes.
enum { IMAGE_LANES = 8 };
static __global__ void __launch_bounds__(32 * IMAGE_LANES) parameter_kernel(int n, int c, const float *sums,
                                                                            float *dgamma, float *dbeta,
                                                                            bool accumulate) {
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
        int twice = a->dx && !a->sums ? 2 : 0;
        Slab s = slab_of(z, vector ? 8 : 1, twice, 2 - twice + (a->dx && a->add ? 1 : 0));
        dim3 grid((unsigned)(z->n * s.slabs)), block((unsigned)s.threads);
        float scale = a->mask ? keep_scale_of(z) : 1.0f;
        by_kind(z, vector, [&](auto one, auto v, auto g) {
            LAUNCH(st, (backward_kernel<decltype(one), decltype(v)::value, decltype(g)::value>), grid, block, s.bytes,
                   *z, *a, s, scale, own);
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
