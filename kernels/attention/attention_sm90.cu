// kernels/attention/attention_sm90.cu - softmax attention in bf16 on wgmma.
//
// A pair is an image and a head. The row of a softmax is whole in registers. A block is a producer thread and two
// warpgroups, each with 64 rows of a tile of 128; blocks live for many tiles, so that the copies of the next overlap
// the end of this one. What lies past a head's channels or an image's tokens is read as zero.
//
// Forward, rows are queries; the tiles of a pair are neighbours in time and share k and v in L2:
//   s = q k^T          64 channels of q and k a step, from shared memory
//   p                  the softmax of the rows, rounded, as fragments of A: never in shared memory
//   o = p v            64 tokens a step, v turned by wgmma
// Backward, rows are keys, so that dk and dv need no other block:
//   p^T                exp(scale s^T - lse), s^T = k q^T
//   dv = p^T do
//   ds^T               p^T (dp^T - D), dp^T = v do^T, half the queries at a time. It must not be rounded: it is two
//                      bf16, the second what the first leaves over, to 2^-17 of its value
//   dk = scale ds^T q  half the channels at a time; ds^T goes to scratch too
// and a second kernel makes dq = scale ds k, rows being queries and ds turned by wgmma. 7 times t^2 c multiplications
// with both parts of ds. D = rowsum(do o) is summed by warps beside the producer's, while the first products go on.
//
// Estimates for 256 tokens of 256 channels, in clocks of an SM per pair, with warpgroup.cuh's rates: the least that
// memory allows is 26,000 forward (0.5 MiB) and 52,000 backward (1 MiB). Forward 30,000: 16,000 of products, 23,000 of
// copies from L2 beside them, 8,000 of softmax and stores. Backward 91,000: keys 65,000 (41,000 of products, 61,000 of
// copies from L2, 59,000 of memory) and queries 26,000 (16,000, 19,000, 26,000). 128 pairs keep 97% of the SMs busy, 96
// pairs 73%.
#include "kernels/attention/attention_sm90.cuh"

// ---- forward
struct AttentionItems { int tiles, count; };             // of a pair, of all: item = pair * tiles + tile

// Rows of scores -> p, as fragments of A; writes lse, `lse` being that of the warpgroup's first row, rows of them
// inside. Thread's columns are 8 j + 2 (lane % 4) + e; those beyond t are left out.
template <class T>
DEVICE void softmax_rows(float (&s)[T::TOKENS / 2], uint32_t (&p)[1][T::TOKENS / 4], const AttentionShape &z,
                         float *lse, int rows) {
    int lane = (int)threadIdx.x % 32, warp_row = (int)threadIdx.x / 32 % 4 * 16;
    float top[2] = { -3.402823466e38f, -3.402823466e38f }, sum[2] = { 0, 0 };
#pragma unroll
    for (int i = 0; i < T::TOKENS / 2; i++) s[i] *= z.scale;
    if (z.t < T::TOKENS) {
#pragma unroll
        for (int i = 0; i < T::TOKENS / 2; i++)
            if (i / 4 * 8 + lane % 4 * 2 + i % 2 >= z.t) s[i] = -3.402823466e38f;
    }
#pragma unroll
    for (int i = 0; i < T::TOKENS / 2; i++) top[i / 2 % 2] = fmaxf(top[i / 2 % 2], s[i]);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        top[h] = fmaxf(top[h], __shfl_xor_sync(0xFFFFFFFFu, top[h], 1));
        top[h] = fmaxf(top[h], __shfl_xor_sync(0xFFFFFFFFu, top[h], 2));
    }
#pragma unroll
    for (int i = 0; i < T::TOKENS / 2; i++) {
        s[i] = __expf(s[i] - top[i / 2 % 2]);
        sum[i / 2 % 2] += s[i];
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        sum[h] += __shfl_xor_sync(0xFFFFFFFFu, sum[h], 1);
        sum[h] += __shfl_xor_sync(0xFFFFFFFFu, sum[h], 2);
        int row = warp_row + 8 * h + lane / 4;
        if (lane % 4 == 0 && row < rows) lse[row] = top[h] + logf(sum[h]);
        sum[h] = 1 / sum[h];
    }
#pragma unroll
    for (int i = 0; i < T::TOKENS / 4; i++) p[0][i] = pack_bf16(s[2 * i] * sum[i % 2], s[2 * i + 1] * sum[i % 2]);
}

struct ForwardArgs { AttentionShape z; AttentionItems items; bf16 *o; float *lse; };
struct ForwardMaps { TensorMap q, k, v; };

template <class T>
DEVICE void forward_produce(unsigned char *shared, AttentionBarriers<T::STAGES> *bars, const ForwardMaps *maps,
                            const ForwardArgs &a) {
    Outlet<T> out = { shared, bars, {}, NULL };
    for (int item = (int)blockIdx.x; item < a.items.count; item += (int)gridDim.x) {
        PairPlace at = pair_place(a.z, item / a.items.tiles);
        feed_scores<T, T::TOKENS>(out, &maps->q, &maps->k, item % a.items.tiles * T::ROWS, 0, at, a.z.c);
        feed_mix<T, T::CHANNELS>(out, &maps->v, 0, at);
    }
}
template <class T>
DEVICE void forward_consume(unsigned char *shared, AttentionBarriers<T::STAGES> *bars, const ForwardArgs &a) {
    Inlet<T> in = { shared, bars, {} };
    for (int item = (int)blockIdx.x; item < a.items.count; item += (int)gridDim.x) {
        int pair = item / a.items.tiles, row = item % a.items.tiles * T::ROWS;
        RowsOut to = rows_out(a.z, a.o, a.z.ldo, pair_place(a.z, pair), row, 1);
        uint32_t p[1][T::TOKENS / 4];
        float s[T::TOKENS / 2], o[T::CHANNELS / 2];
        take_scores(in, s, a.z.c);
        softmax_rows<T>(s, p, a.z, a.lse + (int64_t)pair * a.z.t + to.row, a.z.t - to.row);
        take_mix<T, T::CHANNELS>(in, o, p);
        put_rows(o, shared + T::SLABS, a.z, to, 0);
    }
}

template <class T>
static __global__ void __launch_bounds__(THREADS, 1)
attention_wgmma_kernel(const __grid_constant__ ForwardMaps maps, ForwardArgs a) {
    DYNAMIC_SHARED(unsigned char, shared);
    SHARED(AttentionBarriers<T::STAGES>, bars, 1);
    if (threadIdx.x == 0) {
        init_barriers(bars);
        MBARRIER_INIT_FENCE();
        TMA_PREFETCH_MAP(&maps.q);
        TMA_PREFETCH_MAP(&maps.k);
        TMA_PREFETCH_MAP(&maps.v);
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        SETMAXNREG_DEC(24);
        if (threadIdx.x == 0) forward_produce<T>(shared, bars, &maps, a);
    } else {
        SETMAXNREG_INC(240);
        forward_consume<T>(shared, bars, a);
    }
}

// ---- backward: dk and dv of a tile's tokens, and ds of these keys
// lse and D of all queries of an item, which the other warps of the producer's warpgroup gather while products go on.
enum { AHEAD = 2, GATHERERS = GROUP - 32 };              // items in shared memory; threads
template <class T> struct QueryNumbers { float lse[AHEAD][T::TOKENS], inner[AHEAD][T::TOKENS]; };
// Sixteen bytes of do and of o of each thread, for some rows: a thread reads only what it has copied.
enum { ROWS_AHEAD = 4 };
struct Gathered { uint4 d_o[GATHERERS], o[GATHERERS]; };
template <class T> struct KeyShared {
    static constexpr int GATHERED = T::SHARED_BYTES, BYTES = GATHERED + ROWS_AHEAD * (int)sizeof(Gathered);
    static_assert(BYTES + sizeof(QueryNumbers<T>) + 1024 <= SHARED_MOST, "a block has 227 KiB, some for its barriers");
};
struct NumberBarriers { uint64_t lse[AHEAD], inner[AHEAD], empty[AHEAD]; };

// item: `each` tiles of a pair, which has `tiles`.
struct KeyItems { int tiles, each, count; };
struct KeyArgs {
    AttentionShape z;
    KeyItems items;
    const bf16 *d_o, *o;
    const float *lse;
    bf16 *dk, *dv, *ds;                      // ds (pairs, 2, t keys, ld_ds queries): what bf16 holds, what it leaves
    int ld_ds;
};
struct KeyMaps { TensorMap q, k, v, d_o; };
DEVICE int item_pair(const KeyItems &g, int item) { return item * g.each / g.tiles; }
DEVICE int item_tile(const KeyItems &g, int item) { return item * g.each % g.tiles; }

template <class T>
DEVICE void keys_produce(unsigned char *shared, AttentionBarriers<T::STAGES> *bars, const KeyMaps *maps,
                         const KeyArgs &a) {
    Outlet<T> out = { shared, bars, {}, NULL };
    for (int item = (int)blockIdx.x; item < a.items.count; item += (int)gridDim.x) {
        PairPlace at = pair_place(a.z, item_pair(a.items, item));
        for (int i = 0; i < a.items.each; i++) {
            int row = (item_tile(a.items, item) + i) * T::ROWS;
            feed_scores<T, T::TOKENS>(out, &maps->k, &maps->q, row, 0, at, a.z.c);
            feed_mix<T, T::CHANNELS>(out, &maps->d_o, 0, at);
            for (int token = 0; token < T::TOKENS; token += T::TOKENS / 2)
                feed_scores<T, T::TOKENS / 2>(out, &maps->v, &maps->d_o, row, token, at, a.z.c);
            feed_mix<T, T::CHANNELS / 2>(out, &maps->q, 0, at);
            feed_mix<T, T::CHANNELS / 2>(out, &maps->q, T::CHANNELS / 2, at);
        }
    }
}

DEVICE float inner_product(uint4 x, uint4 y) {
    return bf16_low(x.x) * bf16_low(y.x) + bf16_high(x.x) * bf16_high(y.x)
           + bf16_low(x.y) * bf16_low(y.y) + bf16_high(x.y) * bf16_high(y.y)
           + bf16_low(x.z) * bf16_low(y.z) + bf16_high(x.z) * bf16_high(y.z)
           + bf16_low(x.w) * bf16_low(y.w) + bf16_high(x.w) * bf16_high(y.w);
}
// D = rowsum(do o) of all queries: a warp a row, eight channels a lane.
template <class T> DEVICE void gather_inner(const KeyArgs &a, int pair, Gathered *rows, float *inner) {
    int thread = (int)threadIdx.x - 32, lane = thread % 32;
    PairPlace at = pair_place(a.z, pair);
    int64_t first = (int64_t)at.image * a.z.t * a.z.ldo + at.head * a.z.c + lane * 8;
    const int STEP = GATHERERS / 32;
    auto copy = [&](int row) {
        int64_t place = row < a.z.t && lane * 8 < a.z.c ? first + (int64_t)row * a.z.ldo : -1;
        Gathered *to = rows + row / STEP % ROWS_AHEAD;
        CP_ASYNC16(&to->d_o[thread], a.d_o + max(place, (int64_t)0), place < 0 ? 0 : 16);
        CP_ASYNC16(&to->o[thread], a.o + max(place, (int64_t)0), place < 0 ? 0 : 16);
        CP_ASYNC_COMMIT();
    };
    for (int i = 0; i < ROWS_AHEAD; i++) copy(thread / 32 + i * STEP);
#pragma unroll 1
    for (int row = thread / 32; row < T::TOKENS; row += STEP) {
        const Gathered *from = rows + row / STEP % ROWS_AHEAD;
        CP_ASYNC_WAIT(ROWS_AHEAD - 1);
        float sum = warp_sum(inner_product(from->d_o[thread], from->o[thread]));
        if (lane == 0) inner[row] = sum;
        copy(row + ROWS_AHEAD * STEP);
    }
    CP_ASYNC_WAIT(0);
}
template <class T>
DEVICE void gather_numbers(const KeyArgs &a, Gathered *rows, QueryNumbers<T> *numbers, NumberBarriers *bars) {
    Ring<AHEAD> ring;
    for (int item = (int)blockIdx.x; item < a.items.count; item += (int)gridDim.x) {
        int pair = item_pair(a.items, item);
        MBARRIER_WAIT(&bars->empty[ring.stage], ring.turn ^ 1);
        for (int i = (int)threadIdx.x - 32; i < T::TOKENS; i += GATHERERS)           // p = 0 beyond t
            numbers->lse[ring.stage][i] = i < a.z.t ? a.lse[(int64_t)pair * a.z.t + i] : 1e30f;
        MBARRIER_ARRIVE(&bars->lse[ring.stage]);
        gather_inner<T>(a, pair, rows, numbers->inner[ring.stage]);
        MBARRIER_ARRIVE(&bars->inner[ring.stage]);
        ring.advance();
    }
}

// Rows are keys, columns queries. Scores -> p = exp(scale s - lse), as fragments of A.
template <class T>
DEVICE void key_probabilities(const float (&s)[T::TOKENS / 2], uint32_t (&p)[1][T::TOKENS / 4], float scale,
                              const float *lse) {
    lse += threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < T::TOKENS / 8; j++) {
        float2 of = *reinterpret_cast<const float2 *>(lse + 8 * j);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float *x = &s[4 * j + 2 * h];
            p[0][2 * j + h] = pack_bf16(__expf(scale * x[0] - of.x), __expf(scale * x[1] - of.y));
        }
    }
}
// dp of half the queries, from `token` on -> ds = p (dp - D), as two fragments: what bf16 holds, and what that leaves.
template <class T>
DEVICE void key_gradients(const float (&dp)[T::TOKENS / 4], const uint32_t (&p)[1][T::TOKENS / 4],
                          uint32_t (&ds)[2][T::TOKENS / 4], int token, const float *inner) {
    inner += token + threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < T::TOKENS / 16; j++) {
        float2 of = *reinterpret_cast<const float2 *>(inner + 8 * j);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int i = token / 4 + 2 * j + h;
            float x = bf16_low(p[0][i]) * (dp[4 * j + 2 * h] - of.x);
            float y = bf16_high(p[0][i]) * (dp[4 * j + 2 * h + 1] - of.y);
            ds[0][i] = pack_bf16(x, y);
            ds[1][i] = pack_bf16(x - bf16_low(ds[0][i]), y - bf16_high(ds[0][i]));
        }
    }
}
// ds -> scratch; `first` is the tile's first key.
template <class T>
DEVICE void keep_gradients(const uint32_t (&ds)[2][T::TOKENS / 4], unsigned char *slabs, const KeyArgs &a, int pair,
                           int first) {
    first += ((int)threadIdx.x / GROUP - 1) * 64;
#pragma unroll
    for (int part = 0; part < 2; part++) {
        bf16 *to = a.ds + (int64_t)(2 * pair + part) * a.z.t * a.ld_ds;
        hand_on_words<T::TOKENS / 4>([&](int i) { return ds[part][i]; }, slabs, [&](int row, int column, uint4 v) {
            row += first;
            if (row < a.z.t && column < a.ld_ds)
                STORE_GLOBAL(reinterpret_cast<uint4 *>(to + (int64_t)row * a.ld_ds + column), v);
        });
    }
}

template <class T>
DEVICE void keys_consume(unsigned char *shared, AttentionBarriers<T::STAGES> *bars, const QueryNumbers<T> *numbers,
                         NumberBarriers *number_bars, const KeyArgs &a) {
    Inlet<T> in = { shared, bars, {} };
    Ring<AHEAD> ring;
    for (int item = (int)blockIdx.x; item < a.items.count; item += (int)gridDim.x) {
        int pair = item_pair(a.items, item);
        PairPlace at = pair_place(a.z, pair);
#pragma unroll 1
        for (int i = 0; i < a.items.each; i++) {
            int row = (item_tile(a.items, item) + i) * T::ROWS;
            uint32_t p[1][T::TOKENS / 4], ds[2][T::TOKENS / 4];
            {
                float s[T::TOKENS / 2], d[T::CHANNELS / 2];
                take_scores(in, s, a.z.c);
                MBARRIER_WAIT(&number_bars->lse[ring.stage], ring.turn);
                key_probabilities<T>(s, p, a.z.scale, numbers->lse[ring.stage]);
                take_mix<T, T::CHANNELS>(in, d, p);
                put_rows(d, shared + T::SLABS, a.z, rows_out(a.z, a.dv, a.z.ldv, at, row, 1), 0);
            }
#pragma unroll
            for (int token = 0; token < T::TOKENS; token += T::TOKENS / 2) {
                float dp[T::TOKENS / 4];
                take_scores(in, dp, a.z.c);
                MBARRIER_WAIT(&number_bars->inner[ring.stage], ring.turn);
                key_gradients<T>(dp, p, ds, token, numbers->inner[ring.stage]);
            }
            if (i == a.items.each - 1) MBARRIER_ARRIVE(&number_bars->empty[ring.stage]);
            keep_gradients<T>(ds, shared + T::SLABS, a, pair, row);
#pragma unroll 1
            for (int channel = 0; channel < T::CHANNELS; channel += T::CHANNELS / 2) {
                float d[T::CHANNELS / 4];
                take_mix<T, T::CHANNELS / 2>(in, d, ds);
                put_rows(d, shared + T::SLABS, a.z, rows_out(a.z, a.dk, a.z.ldk, at, row, a.z.scale), channel);
            }
        }
        ring.advance();
    }
}

template <class T>
static __global__ void __launch_bounds__(THREADS, 1)
attention_keys_wgmma_kernel(const __grid_constant__ KeyMaps maps, KeyArgs a) {
    DYNAMIC_SHARED(unsigned char, shared);
    SHARED(AttentionBarriers<T::STAGES>, bars, 1);
    SHARED(NumberBarriers, number_bars, 1);
    SHARED(QueryNumbers<T>, numbers, 1);
    if (threadIdx.x == 0) {
        init_barriers(bars);
        for (int i = 0; i < AHEAD; i++) {
            MBARRIER_INIT(&number_bars->lse[i], GATHERERS);
            MBARRIER_INIT(&number_bars->inner[i], GATHERERS);
            MBARRIER_INIT(&number_bars->empty[i], CONSUMERS * GROUP);
        }
        MBARRIER_INIT_FENCE();
        TMA_PREFETCH_MAP(&maps.q);
        TMA_PREFETCH_MAP(&maps.k);
        TMA_PREFETCH_MAP(&maps.v);
        TMA_PREFETCH_MAP(&maps.d_o);
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        SETMAXNREG_DEC(40);
        if (threadIdx.x == 0) keys_produce<T>(shared, bars, &maps, a);
        Gathered *rows = reinterpret_cast<Gathered *>(shared + KeyShared<T>::GATHERED);
        if (threadIdx.x >= 32) gather_numbers<T>(a, rows, numbers, number_bars);
    } else {
        SETMAXNREG_INC(232);
        keys_consume<T>(shared, bars, numbers, number_bars, a);
    }
}

// ---- backward: dq = scale ds k
// A tile is 128 queries, 64 to each warpgroup, by all channels; a stage 64 keys of either part of ds and of k.
template <int CHANNELS_> struct WgQueries {
    static constexpr int CHANNELS = CHANNELS_, ROWS = 64 * CONSUMERS, STAGES = 3, BOX_BYTES = BOX * ROW_BYTES;
    static constexpr int PART_BYTES = ROWS * ROW_BYTES, K = 2 * PART_BYTES, STAGE_BYTES = K + CHANNELS * ROW_BYTES;
    static constexpr int SLABS = STAGES * STAGE_BYTES, SHARED_BYTES = SLABS + CONSUMERS * 4 * WORD_SLAB_BYTES;
    static_assert(SHARED_BYTES + 1024 <= SHARED_MOST, "a block has 227 KiB, some of them for its barriers");
};
struct QueryArgs { AttentionShape z; AttentionItems items; bf16 *dq; };

template <class T>
DEVICE void queries_produce(unsigned char *shared, AttentionBarriers<T::STAGES> *bars, const TensorMap *ds,
                            const TensorMap *k, const QueryArgs &a) {
    Outlet<T> out = { shared, bars, {}, NULL };
    for (int item = (int)blockIdx.x; item < a.items.count; item += (int)gridDim.x) {
        int pair = item / a.items.tiles, row = item % a.items.tiles * T::ROWS;
        PairPlace at = pair_place(a.z, pair);
        for (int key = 0; key < a.z.t; key += BOX) {
            unsigned char *to = out.next(T::STAGE_BYTES);
            for (int i = 0; i < 2 * T::ROWS / BOX; i++) {
                int part = i / (T::ROWS / BOX), query = row + i % (T::ROWS / BOX) * BOX;
                TMA_LOAD(to + i * T::BOX_BYTES, ds, out.full, query, key, part, pair);
            }
            for (int j = 0; j < T::CHANNELS / BOX; j++)
                load_tokens<1>(to + T::K + j * T::BOX_BYTES, k, out.full, j * BOX, key, at);
        }
    }
}
template <class T>
DEVICE void queries_consume(unsigned char *shared, AttentionBarriers<T::STAGES> *bars, const QueryArgs &a) {
    int group = (int)threadIdx.x / GROUP - 1;
    Inlet<T> in = { shared, bars, {} };
    for (int item = (int)blockIdx.x; item < a.items.count; item += (int)gridDim.x) {
        PairPlace at = pair_place(a.z, item / a.items.tiles);
        RowsOut to = rows_out(a.z, a.dq, a.z.ldq, at, item % a.items.tiles * T::ROWS, a.z.scale);
        float d[T::CHANNELS / 2];
        clear(d);
        for (int key = 0; key < a.z.t; key += BOX) {
            unsigned char *stage = in.next(), *ds = stage + group * T::BOX_BYTES;
            uint64_t high = WGMMA_DESCRIPTOR(ds, T::BOX_BYTES, PATTERN, 128);
            uint64_t low = WGMMA_DESCRIPTOR(ds + T::PART_BYTES, T::BOX_BYTES, PATTERN, 128);
            uint64_t k = WGMMA_DESCRIPTOR(stage + T::K, T::BOX_BYTES, PATTERN, 128);
            WGMMA_FENCE();
#pragma unroll
            for (int i = 0; i < BOX * ROW_BYTES; i += 16 * ROW_BYTES) {
                WGMMA_SS(1, 1, d, WGMMA_ADVANCE(high, i), WGMMA_ADVANCE(k, i), 1);
                WGMMA_SS(1, 1, d, WGMMA_ADVANCE(low, i), WGMMA_ADVANCE(k, i), 1);
            }
            in.issued(key == 0);
        }
        in.finish();
        put_rows(d, shared + T::SLABS, a.z, to, 0);
    }
}

template <class T>
static __global__ void __launch_bounds__(THREADS, 1)
attention_queries_wgmma_kernel(const __grid_constant__ TensorMap ds, const __grid_constant__ TensorMap k, QueryArgs a) {
    DYNAMIC_SHARED(unsigned char, shared);
    SHARED(AttentionBarriers<T::STAGES>, bars, 1);
    if (threadIdx.x == 0) {
        init_barriers(bars);
        MBARRIER_INIT_FENCE();
        TMA_PREFETCH_MAP(&ds);
        TMA_PREFETCH_MAP(&k);
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        SETMAXNREG_DEC(40);
        if (threadIdx.x == 0) queries_produce<T>(shared, bars, &ds, &k, a);
    } else {
        SETMAXNREG_INC(232);
        queries_consume<T>(shared, bars, a);
    }
}

// ---- the launchers
enum { MOST_TOKENS = 256, MOST_CHANNELS = 256, FEWEST = 64 };

// Fewer than 64 tokens or channels are left to kernels with smaller tiles.
static bool attention_wgmma_can(const AttentionShape *z) {
    return z->dtype == DT_BF16 && z->layout == LAYOUT_NHWC && z->c % 8 == 0 && z->ldq % 8 == 0 && z->ldk % 8 == 0 &&
           z->ldv % 8 == 0 && z->ldo % 8 == 0 && z->c >= FEWEST && z->c <= MOST_CHANNELS && z->t > FEWEST &&
           z->t <= MOST_TOKENS && (int64_t)z->n * z->heads * 4 < INT32_MAX;
}
static const Impl *attention_general(const Launcher *l, const AttentionShape *z) {
    return impl_find(l, KERNEL_PASTE(DEV_, KERNEL_KIND, ), 90, z, "mma");
}
static bool aligned(const void *p) { return (uintptr_t)p % 16 == 0; }

// Boxes of 64 channels x 64 tokens of (channels, heads, tokens, images). What lies beyond a head's channels or an
// image's tokens is read as zero.
static bool map_tokens(TensorMap *map, const void *x, const AttentionShape *z, int ld) {
    const char *why;
    uint64_t dim[4] = { (uint64_t)z->c, (uint64_t)z->heads, (uint64_t)z->t, (uint64_t)z->n };
    uint64_t token = 2 * (uint64_t)ld, stride[3] = { 2 * dim[0], token, token * dim[2] };
    uint32_t box[4] = { BOX, 1, BOX, 1 }, step[4] = { 1, 1, 1, 1 };
    return tensor_map_tiled(map, DT_BF16, 4, x, dim, stride, box, step, 128, &why);
}

// f(a value of the tiles' type for the shape): by_tile(z, [&](auto tile) { using T = decltype(tile); ... }).
template <typename F> static void by_tile(const AttentionShape *z, F f) {
    if (z->t <= 128 && z->c <= 128) f(WgAttention<128, 128>());
    else if (z->t <= 128) f(WgAttention<128, 256>());
    else if (z->c <= 128) f(WgAttention<256, 128>());
    else f(WgAttention<256, 256>());
}

struct ForwardState {
    ForwardMaps maps;
    const Impl *instead;                     // takes operands that TMA cannot read; NULL: the maps are good
};
static size_t forward_scratch(const AttentionShape *z) {
    return attention_forward.scratch(attention_general(&attention_forward, z), z);
}
static void *forward_prepare(Stream *, const AttentionShape *z, const AttentionForwardArgs *a) {
    ForwardState *state = static_cast<ForwardState *>(aligned_alloc(alignof(ForwardState), sizeof(ForwardState)));
    CHECK(state, "no memory for tensor maps");
    bool good = aligned(a->o) && map_tokens(&state->maps.q, a->q, z, z->ldq) &&
                map_tokens(&state->maps.k, a->k, z, z->ldk) && map_tokens(&state->maps.v, a->v, z, z->ldv);
    state->instead = good ? NULL : attention_general(&attention_forward, z);
    return state;
}
static void forward(Stream *s, const AttentionShape *z, const AttentionForwardArgs *a, Work work) {
    const ForwardState *state = static_cast<const ForwardState *>(work.state);
    if (state->instead) {
        attention_forward.run(state->instead, s, z, a, { NULL, work.scratch });
        return;
    }
    by_tile(z, [&](auto tile) {
        using T = decltype(tile);
        int tiles = (int)ceil_div(z->t, T::ROWS);
        ForwardArgs args = { *z, { tiles, z->n * z->heads * tiles }, static_cast<bf16 *>(a->o), a->lse };
        LAUNCH(s, (attention_wgmma_kernel<T>), dim3(grid_of(args.items.count, 1, SMS)), dim3(THREADS), T::SHARED_BYTES,
               state->maps, args);
    });
}

struct BackwardState {
    KeyMaps maps;
    const Impl *instead;                     // as forward
};
// Of ds in scratch.
static int ld_ds(const AttentionShape *z) { return (int)ceil_div(z->t, 8) * 8; }
static size_t backward_scratch(const AttentionShape *z) {
    size_t own = 2 * sizeof(bf16) * (size_t)z->n * (size_t)z->heads * (size_t)z->t * (size_t)ld_ds(z);
    size_t other = attention_backward.scratch(attention_general(&attention_backward, z), z);
    return own > other ? own : other;
}
static bool map_ds(TensorMap *map, const void *ds, const AttentionShape *z, const char **why) {
    uint64_t dim[4] = { (uint64_t)ld_ds(z), (uint64_t)z->t, 2, (uint64_t)z->n * (uint64_t)z->heads };
    uint64_t stride[3] = { 2 * dim[0], 2 * dim[0] * dim[1], 4 * dim[0] * dim[1] };
    uint32_t box[4] = { BOX, BOX, 1, 1 }, step[4] = { 1, 1, 1, 1 };
    return tensor_map_tiled(map, DT_BF16, 4, ds, dim, stride, box, step, 128, why);
}
static void *backward_prepare(Stream *, const AttentionShape *z, const AttentionBackwardArgs *a) {
    BackwardState *state = static_cast<BackwardState *>(aligned_alloc(alignof(BackwardState), sizeof(BackwardState)));
    CHECK(state, "no memory for tensor maps");
    bool good = aligned(a->o) && aligned(a->dq) && aligned(a->dk) && aligned(a->dv) &&
                map_tokens(&state->maps.q, a->q, z, z->ldq) && map_tokens(&state->maps.k, a->k, z, z->ldk) &&
                map_tokens(&state->maps.v, a->v, z, z->ldv) && map_tokens(&state->maps.d_o, a->d_o, z, z->ldo);
    state->instead = good ? NULL : attention_general(&attention_backward, z);
    return state;
}
static void backward(Stream *s, const AttentionShape *z, const AttentionBackwardArgs *a, Work work) {
    const BackwardState *state = static_cast<const BackwardState *>(work.state);
    if (state->instead) {
        attention_backward.run(state->instead, s, z, a, { NULL, work.scratch });
        return;
    }
    TensorMap ds;
    const char *why;
    if (!map_ds(&ds, work.scratch, z, &why)) {
        stream_fail(s, 1, why);
        return;
    }
    by_tile(z, [&](auto tile) {
        using T = decltype(tile);
        int pairs = z->n * z->heads, tiles = (int)ceil_div(z->t, T::ROWS);
        int each = 2 * pairs > SMS ? tiles : 1;              // D once a pair, unless that leaves blocks without work
        KeyArgs keys = { *z, { tiles, each, pairs * tiles / each }, static_cast<const bf16 *>(a->d_o),
                         static_cast<const bf16 *>(a->o), a->lse, static_cast<bf16 *>(a->dk),
                         static_cast<bf16 *>(a->dv), static_cast<bf16 *>(work.scratch), ld_ds(z) };
        LAUNCH(s, (attention_keys_wgmma_kernel<T>), dim3(grid_of(keys.items.count, 1, SMS)), dim3(THREADS),
               KeyShared<T>::BYTES, state->maps, keys);
        typedef WgQueries<T::CHANNELS> Q;
        QueryArgs queries = { *z, { tiles, pairs * tiles }, static_cast<bf16 *>(a->dq) };
        LAUNCH(s, (attention_queries_wgmma_kernel<Q>), dim3(grid_of(queries.items.count, 1, SMS)), dim3(THREADS),
               Q::SHARED_BYTES, ds, state->maps.k, queries);
    });
}

IMPLS(attention_sm90,
    IMPL_FULL(attention_forward, "wgmma", 40, 90, 90, attention_wgmma_can, forward_scratch, forward_prepare, forward,
              free),
    IMPL_FULL(attention_backward, "wgmma", 40, 90, 90, attention_wgmma_can, backward_scratch, backward_prepare,
              backward, free))
