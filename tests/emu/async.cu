// tests/emu/async.cu - small kernels with asynchronous copies and tensor cores, each right, and wrong in planted ways.
//
// async.c runs them on the emulation only. A comment "at: NAME" marks the line that the report of fault NAME must name.
// FAULT is a template argument, so that the right kernel has none of the wrong ones' code.
#include <string.h>

#include "kernels/common/hopper.cuh"
#include "tests/emu/async.h"

// ---- cp.async: 64 threads; each stage is 64 rows of 16 bytes, and thread t sums the row that thread 63 - t copied
template <int FAULT> static __global__ void copy_kernel(const uint4 *in, uint32_t *out) {
    SHARED(uint4, stage, 3 * 64);
    int t = (int)threadIdx.x;
    uint32_t sum = 0;
    for (int i = 0; i < 2; i++) {
        CP_ASYNC16(&stage[i * 64 + t], &in[i * 64 + t], 16);
        CP_ASYNC_COMMIT();
    }
    for (int i = 0; i < ASYNC_STAGES; i++) {
        if (i + 2 < ASYNC_STAGES)
            CP_ASYNC16(&stage[(i + 2) % 3 * 64 + t], &in[(i + 2) * 64 + t], 16);   // at: copy_no_trailing_barrier
        CP_ASYNC_COMMIT();
        if (FAULT == COPY_WAIT_SHORT)    CP_ASYNC_WAIT(3);
        else if (FAULT != COPY_NO_WAIT)  CP_ASYNC_WAIT(2);
        if (FAULT != COPY_NO_BARRIER) __syncthreads();
        int row = FAULT == COPY_NO_WAIT || FAULT == COPY_WAIT_SHORT ? t : 63 - t;
        uint4 v = stage[i % 3 * 64 + row];       // at: copy_no_wait copy_wait_short copy_no_barrier
        sum += v.x ^ v.y ^ v.z ^ v.w;
        if (FAULT != COPY_NO_TRAILING_BARRIER) __syncthreads();
    }
    if (FAULT == COPY_UNWAITED) CP_ASYNC16(&stage[t], &in[t], 16);       // at: copy_unwaited
    out[t] = sum;
}

// ---- a TMA and wgmma pipeline: warpgroup 0 multiplies, thread 128 loads; out (64, 64) = a (64, 64 STEPS) b^T
enum { TILE = 64 * 64 * 2, RING = 2 };                       // bytes of a 64 x 64 bf16 tile, 128-byte rows swizzled
template <int FAULT>
static __global__ void __launch_bounds__(160) ring_kernel(const __grid_constant__ TensorMap a,
                                                          const __grid_constant__ TensorMap b, float *out) {
    DYNAMIC_SHARED(unsigned char, tiles);                    // RING x (a tile, b tile)
    SHARED(uint64_t, full, RING);
    SHARED(uint64_t, empty, RING);
    int t = (int)threadIdx.x;
    if (t == 0) {
        for (int i = 0; i < RING; i++) {
            MBARRIER_INIT(&full[i], 1);
            MBARRIER_INIT(&empty[i], 4);
        }
        MBARRIER_INIT_FENCE();
    }
    if (FAULT != RING_NO_INIT_BARRIER) __syncthreads();
    if (t >= 128) {
        for (int k = 0; t == 128 && k < ASYNC_STEPS; k++) {
            int i = k % RING;
            uint32_t phase = (uint32_t)(k / RING) & 1;
            if (FAULT != RING_NO_EMPTY_WAIT)
                MBARRIER_WAIT(&empty[i], phase ^ 1);         // at: ring_no_init_barrier
            if (FAULT == RING_BYTES_SHORT)     MBARRIER_ARRIVE_EXPECT(&full[i], TILE);
            else if (FAULT == RING_BYTES_LONG) MBARRIER_ARRIVE_EXPECT(&full[i], 2 * TILE + 16);   // at: ring_bytes_long
            else                               MBARRIER_ARRIVE_EXPECT(&full[i], 2 * TILE); // at: ring_no_empty_wait
            TMA_LOAD(tiles + i * 2 * TILE, &a, &full[i], k * 64, 0);            // at: ring_early_release
            TMA_LOAD(tiles + i * 2 * TILE + TILE, &b, &full[i], k * 64, 0);     // at: ring_bytes_short
        }
        return;
    }
    float d[32];
    enum { WIDTH = FAULT == RING_WRONG_SWIZZLE ? 64 : 128 };
    for (int k = 0; k < ASYNC_STEPS; k++) {
        int i = k % RING;
        uint32_t phase = (uint32_t)(k / RING) & 1;
        if (FAULT == RING_WRONG_PARITY)       MBARRIER_WAIT(&full[i], phase ^ 1);
        else if (FAULT != RING_NO_FULL_WAIT)  MBARRIER_WAIT(&full[i], phase);
        uint64_t da = WGMMA_DESCRIPTOR(tiles + i * 2 * TILE, 16, 1024, WIDTH);
        uint64_t db = WGMMA_DESCRIPTOR(tiles + i * 2 * TILE + TILE, 16, 1024, 128);
        if (FAULT != RING_NO_WGMMA_FENCE) WGMMA_FENCE();
        for (int j = 0; j < 4; j++) {            // of the next line: at: ring_no_full_wait ring_wrong_parity
            WGMMA_SS(0, 0, d, da + (uint64_t)(2 * j), db + (uint64_t)(2 * j), k + j > 0);   // at: ring_no_wgmma_fence
        }
        WGMMA_COMMIT();
        if (FAULT == RING_EARLY_RELEASE && t % 32 == 0) MBARRIER_ARRIVE(&empty[i]);
        WGMMA_WAIT(0);
        if (FAULT != RING_EARLY_RELEASE && t % 32 == 0) MBARRIER_ARRIVE(&empty[i]);
    }
    int row = t / 32 * 16 + t % 32 / 4, col = t % 4 * 2;
    for (int r = 0; r < 32; r++) out[(row + r / 2 % 2 * 8) * 64 + r / 4 * 8 + col + r % 2] = d[r];
}

// ---- operands by plain stores: out = a b^T of 64 x 16 core matrices
template <int FAULT> static __global__ void __launch_bounds__(128) stored_kernel(const uint4 *in, float *out) {
    DYNAMIC_SHARED(uint4, operands);                         // a, b: 128 chunks each, K-major, plain
    int t = (int)threadIdx.x;
    operands[t] = in[t];
    operands[128 + t] = in[128 + t];
    if (FAULT != STORED_NO_PROXY_FENCE) FENCE_PROXY_ASYNC();
    __syncthreads();
    float d[32];
    WGMMA_FENCE();
    uint64_t a = WGMMA_DESCRIPTOR(operands, 128, 256, 0), b = WGMMA_DESCRIPTOR(operands + 128, 128, 256, 0);
    WGMMA_SS(0, 0, d, a, b, 0);                              // at: stored_no_proxy_fence stored_unwaited
    WGMMA_COMMIT();
    if (FAULT == STORED_OVERWRITE) operands[t] = in[128 + t];            // at: stored_overwrite
    if (FAULT != STORED_READ_EARLY && FAULT != STORED_UNWAITED) WGMMA_WAIT(0);
    for (int r = 0; r < 32; r++) out[r * 128 + t] = d[r];
    if (FAULT == STORED_READ_EARLY) WGMMA_WAIT(0);
}

// ---- TMA stores: 64 threads write a tile of 64 rows of 16 bytes, twice
template <int FAULT>
static __global__ void __launch_bounds__(64) store_kernel(const __grid_constant__ TensorMap map, const uint4 *in) {
    DYNAMIC_SHARED(uint4, tile);
    int t = (int)threadIdx.x;
    for (int i = 0; i < 2; i++) {
        tile[t] = in[i * 64 + t];                            // at: store_not_read
        if (FAULT != STORE_NO_PROXY_FENCE) FENCE_PROXY_ASYNC();
        __syncthreads();
        if (t == 0) {
            TMA_STORE(&map, tile, 0, 64 * i);                // at: store_no_proxy_fence store_unwaited
            TMA_STORE_COMMIT();
            if (FAULT != STORE_NOT_READ && !(FAULT == STORE_UNWAITED && i == 1)) TMA_STORE_WAIT_READ(0);
        }
        __syncthreads();
    }
    if (FAULT == STORE_NOT_READ && t == 0) TMA_STORE_WAIT_READ(0);
}

// ---- clusters of two: each block reads what the other wrote in its own shared memory, and what it wrote here
template <int FAULT> static __global__ void __launch_bounds__(64) peer_kernel(const uint32_t *in, uint32_t *out) {
    SHARED(uint32_t, word, 64);
    SHARED(uint32_t, gift, 64);
    SHARED(uint64_t, bar, 1);
    int t = (int)threadIdx.x;
    uint32_t rank = CLUSTER_RANK();
    word[t] = in[rank * 64 + (uint32_t)t];
    if (t == 0) {
        MBARRIER_INIT(bar, 64);
        MBARRIER_INIT_FENCE();
    }
    if (FAULT == PEER_BLOCK_BARRIER) __syncthreads();
    else                             CLUSTER_SYNC();
    out[rank * 64 + (uint32_t)t] = CLUSTER_MAP(word, rank ^ 1)[63 - t];  // at: peer_block_barrier
    if (FAULT != PEER_BLOCK_BARRIER && FAULT != PEER_NO_LAST_SYNC) {     // it orders what these two leave unordered
        CLUSTER_MAP(gift, rank ^ 1)[t] = word[t];
        MBARRIER_ARRIVE_PEER(bar, rank ^ 1);
        if (FAULT == PEER_WAIT_SCOPE)     MBARRIER_WAIT(bar, 0);            // at: peer_wait_scope
        else if (FAULT != PEER_NO_WAIT)   MBARRIER_WAIT_CLUSTER(bar, 0);
        out[128 + rank * 64 + (uint32_t)t] = gift[63 - t];                  // at: peer_no_wait
    }
    if (FAULT != PEER_NO_LAST_SYNC) CLUSTER_SYNC();
    word[t] = 0;                                             // at: peer_no_last_sync
}

// ---- launches
template <int FAULT> static bool launch_if(int fault, const void *in, void *out) {
    if (fault != FAULT) return false;
    Stream *s = stream_host();
    const char *why;
    const uint64_t dim[2] = { 64 * ASYNC_STEPS, 64 }, stride[1] = { 128 * ASYNC_STEPS };
    const uint32_t box[2] = { 64, 64 }, step[2] = { 1, 1 };
    const uint64_t rows[2] = { 8, 128 }, row[1] = { 16 };
    const uint32_t tile[2] = { 8, 64 };
    TensorMap a, b, m;
    if constexpr (FAULT < RING_RIGHT) {
        LAUNCH(s, (copy_kernel<FAULT>), 1, 64, 0, (const uint4 *)in, (uint32_t *)out);
    } else if constexpr (FAULT < STORED_RIGHT) {
        const char *base = (const char *)in;
        bool good = tensor_map_tiled(&a, DT_BF16, 2, base, dim, stride, box, step, 128, &why) &&
                    tensor_map_tiled(&b, DT_BF16, 2, base + TILE * ASYNC_STEPS, dim, stride, box, step, 128, &why);
        if (good) LAUNCH(s, (ring_kernel<FAULT>), 1, 160, RING * 2 * TILE, a, b, (float *)out);
    } else if constexpr (FAULT < STORE_RIGHT) {
        LAUNCH(s, (stored_kernel<FAULT>), 1, 128, 4096, (const uint4 *)in, (float *)out);
    } else if constexpr (FAULT < PEER_RIGHT) {
        bool good = tensor_map_tiled(&m, DT_BF16, 2, out, rows, row, tile, step, 0, &why);
        if (good) LAUNCH(s, (store_kernel<FAULT>), 1, 64, 1024, m, (const uint4 *)in);
    } else {
        LAUNCH_CLUSTER(s, 2, (peer_kernel<FAULT>), 2, 64, 0, (const uint32_t *)in, (uint32_t *)out);
    }
    return true;
}
template <int... FAULTS> static void launch_one_of(int fault, const void *in, void *out, Faults<FAULTS...>) {
    bool found = (launch_if<FAULTS>(fault, in, out) || ...);
    CHECK(found, "no fault %d", fault);
}
EXTERN_C void async_run(int fault, const void *in, void *out) {
    launch_one_of(fault, in, out, typename FaultsUpTo<ASYNC_FAULTS>::type());
}

// Arguments that no tensor map can be made of: each refused with a message that holds `says`. NULL, or what went wrong.
EXTERN_C const char *async_map_refusals(void) {
    struct Arguments { int rank; size_t base; uint64_t dim, stride; uint32_t box, inner, step; int swizzle; };
    static const struct { const char *says; Arguments a; } refused[] = {
        { NULL,                  { 2, 0, 64, 128, 64, 64, 1, 128 } },       // taken
        { "rank",                { 0, 0, 64, 128, 64, 64, 1, 128 } },
        { "rank",                { 6, 0, 64, 128, 64, 64, 1, 128 } },
        { "16-byte aligned",     { 2, 8, 64, 128, 64, 64, 1, 128 } },
        { "size",                { 2, 0, 0, 128, 64, 64, 1, 128 } },
        { "size",                { 2, 0, (1ull << 32) + 1, 128, 64, 64, 1, 128 } },
        { "stride is not",       { 2, 0, 64, 136, 64, 64, 1, 128 } },
        { "stride is not",       { 2, 0, 64, 1ull << 40, 64, 64, 1, 128 } },
        { "box is not",          { 2, 0, 64, 128, 0, 64, 1, 128 } },
        { "box is not",          { 2, 0, 64, 128, 257, 64, 1, 128 } },
        { "element stride",      { 2, 0, 64, 128, 64, 64, 0, 128 } },
        { "element stride",      { 2, 0, 64, 128, 64, 64, 9, 128 } },
        { "multiple of 16",      { 2, 0, 64, 128, 64, 60, 1, 0 } },
        { "swizzle of",          { 2, 0, 64, 128, 64, 64, 1, 48 } },
        { "as wide as",          { 2, 0, 64, 128, 64, 32, 1, 128 } },
    };
    for (const auto &r : refused) {
        uint64_t dim[5] = { 64, r.a.dim, 1, 1, 1 }, stride[4] = { r.a.stride, 1 << 20, 1 << 20, 1 << 20 };
        uint32_t box[5] = { r.a.inner, r.a.box, 1, 1, 1 }, step[5] = { 1, r.a.step, 1, 1, 1 };
        const char *why;
        TensorMap map;
        bool made = tensor_map_tiled(&map, DT_BF16, r.a.rank, (const void *)(4096 + r.a.base), dim, stride, box, step,
                                     r.a.swizzle, &why);
        if (made != !r.says) return r.says ? r.says : why;
        if (r.says && !strstr(why, r.says)) return why;
    }
    return NULL;
}
