// kernels/attention/attention_sm90.cu - softmax attention in bf16 on wgmma.
//
// The row of a softmax is whole in registers. A block is a producer thread and two warpgroups of 64 queries each:
//   s = q k^T   64 channels of q and k a step, q and k from shared memory, s (64 x tokens) in registers
//   p           the softmax of the rows, rounded, as fragments of A: never in shared memory
//   o = p v     64 tokens a step, v turned by wgmma
// Blocks live for many tiles of 128 queries, so that the copies of the next overlap the end of this one; the tiles of an
// image are neighbours in time and share k and v in L2. What lies past a head's channels or an image's tokens is read as
// zero.
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
        feed_scores(out, &maps->q, &maps->k, item % a.items.tiles * T::ROWS, at, a.z.c);
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
        take_mix<T, 1, T::CHANNELS>(in, o, p);
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

IMPLS(attention_sm90,
    IMPL_FULL(attention_forward, "wgmma", 40, 90, 90, attention_wgmma_can, forward_scratch, forward_prepare, forward,
              free))
