// kernels/attention/attention_sm90.cuh - what attention on wgmma is made of: the ring, and products with whole rows.
#ifndef KERNELS_ATTENTION_SM90_CUH
#define KERNELS_ATTENTION_SM90_CUH
#include <stdlib.h>
#include "kernels/attention/attention.h"
#include "kernels/common/warpgroup.cuh"

// Bytes of a row, an odd number of 16, so that eight rows of a column are in different banks; of a warp's slab.
enum { WORD_SLAB_LD = 2 * 64 + 16, WORD_SLAB_BYTES = 16 * WORD_SLAB_LD };

// A tile is ROWS tokens of a pair, 64 to each of two warpgroups, beside all TOKENS of it. A stage holds one step of a
// product: scores, 64 channels of the tile's tokens and of all; or mixing, 64 tokens of all channels.
template <int TOKENS_, int CHANNELS_> struct WgAttention {
    static constexpr int TOKENS = TOKENS_, CHANNELS = CHANNELS_, ROWS = 64 * CONSUMERS, STAGES = 4;
    static constexpr int BOX_BYTES = BOX * ROW_BYTES;                // of 64 tokens
    static constexpr int ROWS_BYTES = ROWS * ROW_BYTES, SCORE_BYTES = ROWS_BYTES + TOKENS * ROW_BYTES;
    static constexpr int MIX_BYTES = CHANNELS * ROW_BYTES;
    static constexpr int STAGE_BYTES = SCORE_BYTES > MIX_BYTES ? SCORE_BYTES : MIX_BYTES;
    static constexpr int SLABS = STAGES * STAGE_BYTES, SHARED_BYTES = SLABS + CONSUMERS * 4 * WORD_SLAB_BYTES;
    static_assert(SHARED_BYTES + 1024 <= SHARED_MOST, "a block has 227 KiB, some of them for its barriers");
};

template <int STAGES> struct AttentionBarriers { uint64_t full[STAGES], empty[STAGES]; };
template <int STAGES> DEVICE void init_barriers(AttentionBarriers<STAGES> *bars) {
    for (int i = 0; i < STAGES; i++) {
        MBARRIER_INIT(&bars->full[i], 1);
        MBARRIER_INIT(&bars->empty[i], CONSUMERS * 4);
    }
}

// ---- the producer's end of the ring
template <class T> struct Outlet {
    unsigned char *shared;
    AttentionBarriers<T::STAGES> *bars;
    Ring<T::STAGES> ring;
    uint64_t *full;                          // of the stage that is being filled

    DEVICE unsigned char *next(int bytes) {
        unsigned char *to = shared + ring.stage * T::STAGE_BYTES;
        full = &bars->full[ring.stage];
        MBARRIER_WAIT(&bars->empty[ring.stage], ring.turn ^ 1);
        MBARRIER_ARRIVE_EXPECT(full, bytes);
        ring.advance();
        return to;
    }
};
// Of a pair: which image, which head.
struct PairPlace { int image, head; };
DEVICE PairPlace pair_place(const AttentionShape &z, int pair) { return { pair / z.heads, pair % z.heads }; }

// COUNT boxes of 64 tokens of x, 64 channels from `channel`, one below the other.
template <int COUNT>
DEVICE void load_tokens(unsigned char *to, const TensorMap *x, uint64_t *full, int channel, int token, PairPlace at) {
    for (int i = 0; i < COUNT; i++) {
        TMA_LOAD(to + i * BOX * ROW_BYTES, x, full, channel, at.head, token + i * BOX, at.image);
    }
}
// The steps of rows of x, from `row`, times COUNT tokens of y, from `token`.
template <class T, int COUNT>
DEVICE void feed_scores(Outlet<T> &out, const TensorMap *x, const TensorMap *y, int row, int token, PairPlace at,
                        int channels) {
    for (int k = 0; k < channels; k += BOX) {
        unsigned char *to = out.next(T::ROWS_BYTES + COUNT * ROW_BYTES);
        load_tokens<T::ROWS / BOX>(to, x, out.full, k, row, at);
        load_tokens<COUNT / BOX>(to + T::ROWS_BYTES, y, out.full, k, token, at);
    }
}
// The steps of something times all of y, WIDTH channels from `channel`.
template <class T, int WIDTH> DEVICE void feed_mix(Outlet<T> &out, const TensorMap *y, int channel, PairPlace at) {
    for (int token = 0; token < T::TOKENS; token += BOX) {
        unsigned char *to = out.next(WIDTH * ROW_BYTES);
        for (int j = 0; j < WIDTH / BOX; j++)
            load_tokens<1>(to + j * T::BOX_BYTES, y, out.full, channel + j * BOX, token, at);
    }
}

// ---- the consumers' end
template <class T> struct Inlet {
    unsigned char *shared;
    AttentionBarriers<T::STAGES> *bars;
    Ring<T::STAGES> ring;

    DEVICE unsigned char *next() {
        MBARRIER_WAIT(&bars->full[ring.stage], ring.turn);
        return shared + ring.stage * T::STAGE_BYTES;
    }
    // The stage before the ring's is read no more. A lane arrives for its warp.
    DEVICE void release() {
        int last = ring.stage ? ring.stage - 1 : T::STAGES - 1;
        if (threadIdx.x % 32 == 0) MBARRIER_ARRIVE(&bars->empty[last]);
    }
    // The stage's products are issued: those before them, if not the first, have read theirs.
    DEVICE void issued(bool first) {
        WGMMA_COMMIT();
        WGMMA_WAIT(1);
        if (!first) release();
        ring.advance();
    }
    DEVICE void finish() {
        WGMMA_WAIT(0);
        release();
    }
};

template <int R> DEVICE void clear(float (&d)[R]) {
#pragma unroll
    for (int i = 0; i < R; i++) d[i] = 0;
}
// d = the warpgroup's 64 rows of x times 2 R tokens of y.
template <class T, int R> DEVICE void take_scores(Inlet<T> &in, float (&d)[R], int channels) {
    int group = (int)threadIdx.x / GROUP - 1;
    clear(d);
    for (int k = 0; k < channels; k += BOX) {
        unsigned char *stage = in.next();
        uint64_t a = WGMMA_DESCRIPTOR(stage + group * T::BOX_BYTES, T::BOX_BYTES, PATTERN, 128);
        uint64_t b = WGMMA_DESCRIPTOR(stage + T::ROWS_BYTES, T::BOX_BYTES, PATTERN, 128);
        WGMMA_FENCE();
#pragma unroll
        for (int i = 0; i < BOX / 16; i++) WGMMA_SS(0, 0, d, WGMMA_ADVANCE(a, i * 32), WGMMA_ADVANCE(b, i * 32), 1);
        in.issued(k == 0);
    }
    in.finish();
}
// d = p y, where p (64 x TOKENS) is the sum of PARTS fragments of A.
template <class T, int WIDTH, int PARTS>
DEVICE void take_mix(Inlet<T> &in, float (&d)[WIDTH / 2], const uint32_t (&p)[PARTS][T::TOKENS / 4]) {
    clear(d);
#pragma unroll
    for (int token = 0; token < T::TOKENS; token += BOX) {
        uint64_t y = WGMMA_DESCRIPTOR(in.next(), T::BOX_BYTES, PATTERN, 128);
        WGMMA_FENCE();
#pragma unroll
        for (int k = 0; k < BOX; k += 16) {
#pragma unroll
            for (int part = 0; part < PARTS; part++)
                WGMMA_RS(1, d, &p[part][(token + k) / 4], WGMMA_ADVANCE(y, k * ROW_BYTES), 1);
        }
        in.issued(token == 0);
    }
    in.finish();
}

// x of the pair, `row` its first: columns below c of rows below t, as bf16, times alpha.
struct RowsOut { bf16 *x; int ld, row; float alpha; };
DEVICE RowsOut rows_out(const AttentionShape &z, bf16 *x, int ld, PairPlace at, int row, float alpha) {
    int group = (int)threadIdx.x / GROUP - 1;
    return { x + (int64_t)at.image * z.t * ld + at.head * z.c, ld, row + group * 64, alpha };
}
// Hands a warpgroup's 64 x 4 WORDS of bf16 on as store(row, column, v): v are the eight at that row and column and
// after. word(i) is the i-th word of the thread's fragments of A. Every warp turns its 16 rows, 64 columns at a time,
// in a slab.
template <int WORDS, class Word, class Store>
DEVICE void hand_on_words(const Word &word, unsigned char *slabs, const Store &store) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32 - 4;
    unsigned char *slab = slabs + warp * WORD_SLAB_BYTES;
    unsigned char *of_lane = slab + lane % 16 * WORD_SLAB_LD + lane / 16 * 16;
#pragma unroll
    for (int first = 0; first < WORDS; first += 16) {
#pragma unroll
        for (int i = 0; i < 16; i += 4) {
            uint32_t r[4] = { word(first + i), word(first + i + 1), word(first + i + 2), word(first + i + 3) };
            STMATRIX_X4(of_lane + i * 8, r);
        }
        __syncwarp();
#pragma unroll 1
        for (int i = lane; i < 16 * 8; i += 32) {
            store(warp % 4 * 16 + i / 8, 4 * first + i % 8 * 8,
                  *reinterpret_cast<const uint4 *>(slab + i / 8 * WORD_SLAB_LD + i % 8 * 16));
        }
        __syncwarp();
    }
}
template <int R>
DEVICE void put_rows(const float (&d)[R], unsigned char *slabs, const AttentionShape &z, const RowsOut &to, int first) {
    hand_on_words<R / 2>([&](int i) { return pack_bf16(to.alpha * d[2 * i], to.alpha * d[2 * i + 1]); }, slabs,
                         [&](int row, int column, uint4 v) {
        row += to.row;
        column += first;
        if (row < z.t && column < z.c)
            STORE_GLOBAL(reinterpret_cast<uint4 *>(to.x + (int64_t)row * to.ld + column), v);
    });
}
#endif
