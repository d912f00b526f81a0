// tests/emu/probe_sm90.cu - kernels of the conformance program for the words of hopper.cuh.
#include "kernels/common/hopper.cuh"
#include "tests/emu/probe.h"

// One warp writes the words of `in` to the numbered rows, which are distinct; out: all rows.
template <bool TRANSPOSED> static __global__ void stmatrix_kernel(const uint4 *in, uint4 *out) {
    SHARED(uint4, rows, PROBE_ROWS);
    int lane = (int)threadIdx.x;
    for (int i = lane; i < PROBE_ROWS; i += 32) rows[i] = in[i];
    __syncwarp();
    uint4 *row = &rows[reinterpret_cast<const int *>(in + PROBE_ROWS)[lane]];
    const uint32_t *word = reinterpret_cast<const uint32_t *>(in + PROBE_ROWS + 8) + 4 * lane;
    uint32_t r[4] = { word[0], word[1], word[2], word[3] };
    if (TRANSPOSED) STMATRIX_X4_TRANS(row, r);
    else            STMATRIX_X4(row, r);
    __syncwarp();
    for (int i = lane; i < PROBE_ROWS; i += 32) out[i] = rows[i];
}
PROBE(stmatrix) {
    if (arg[1]) LAUNCH(s, (stmatrix_kernel<true>), 1, 32, 0, (const uint4 *)in, (uint4 *)out);
    else        LAUNCH(s, (stmatrix_kernel<false>), 1, 32, 0, (const uint4 *)in, (uint4 *)out);
}

// ---- wgmma: one warpgroup; the image of shared memory is copied as it is
struct WgmmaArgs { int v[WG_ARGS]; };
template <int N, int TA, int TB, bool REGISTERS>
static __global__ void __launch_bounds__(128) wgmma_kernel(const uint4 *in, float *out, WgmmaArgs z) {
    DYNAMIC_SHARED(uint4, image);
    int t = (int)threadIdx.x;
    for (int i = t; i < PROBE_SHARED / 16; i += 128) image[i] = in[i];
    FENCE_PROXY_ASYNC();
    __syncthreads();
    const uint32_t *words = reinterpret_cast<const uint32_t *>(in + PROBE_SHARED / 16) + 4 * t;
    uint32_t a_words[4] = { words[0], words[1], words[2], words[3] };
    uint64_t a = WGMMA_DESCRIPTOR(image + z.v[WG_START] / 16, z.v[WG_LEADING_A], z.v[WG_STRIDE_A], z.v[WG_SWIZZLE_A]);
    uint64_t b = WGMMA_DESCRIPTOR(image + PROBE_B / 16, z.v[WG_LEADING_B], z.v[WG_STRIDE_B], z.v[WG_SWIZZLE_B]);
    float d[N / 2];
    for (int i = 0; i < N / 2; i++) d[i] = (float)(i + t);
    for (int k = 0; k < z.v[WG_STEPS]; k++) {
        WGMMA_FENCE();                   // the count is unknown to ptxas: it would add fences between the turns
        if (REGISTERS) WGMMA_RS(TB, d, a_words, WGMMA_ADVANCE(b, k * z.v[WG_ADVANCE_B]), 1);
        else           WGMMA_SS(TA, TB, d, WGMMA_ADVANCE(a, k * z.v[WG_ADVANCE_A]),
                                WGMMA_ADVANCE(b, k * z.v[WG_ADVANCE_B]), k > 0);
    }
    WGMMA_COMMIT();
    WGMMA_WAIT(0);
    for (int i = 0; i < N / 2; i++) out[t * (N / 2) + i] = d[i];
}
template <int N, int TA, int TB, bool REGISTERS>
static void wgmma_run(Stream *s, const void *in, void *out, const int *arg) {
    WgmmaArgs z;
    for (int i = 0; i < WG_ARGS; i++) z.v[i] = arg[i];
    LAUNCH(s, (wgmma_kernel<N, TA, TB, REGISTERS>), 1, 128, PROBE_SHARED, (const uint4 *)in, (float *)out, z);
}
PROBE(wgmma) {
    int n = arg[WG_N], which = 2 * arg[WG_TA] + arg[WG_TB];
    if (arg[WG_REGISTERS] && arg[WG_TB]) { wgmma_run<64, 0, 1, true>(s, in, out, arg); return; }
    if (arg[WG_REGISTERS]) { wgmma_run<64, 0, 0, true>(s, in, out, arg); return; }
    if (n == 64 && which == 0) wgmma_run<64, 0, 0, false>(s, in, out, arg);
    if (n == 64 && which == 1) wgmma_run<64, 0, 1, false>(s, in, out, arg);
    if (n == 64 && which == 2) wgmma_run<64, 1, 0, false>(s, in, out, arg);
    if (n == 64 && which == 3) wgmma_run<64, 1, 1, false>(s, in, out, arg);
    if (n == 8)   wgmma_run<8, 0, 0, false>(s, in, out, arg);
    if (n == 16)  wgmma_run<16, 0, 0, false>(s, in, out, arg);
    if (n == 32)  wgmma_run<32, 0, 0, false>(s, in, out, arg);
    if (n == 96)  wgmma_run<96, 0, 0, false>(s, in, out, arg);
    if (n == 128) wgmma_run<128, 0, 0, false>(s, in, out, arg);
    if (n == 192) wgmma_run<192, 0, 0, false>(s, in, out, arg);
    if (n == 256) wgmma_run<256, 1, 1, false>(s, in, out, arg);
}

// ---- TMA
struct BoxStart { int at[5]; };
static bool box_map(Stream *s, TensorMap *map, const ProbeBox *b, const void *base) {
    const char *why;
    bool good = tensor_map_tiled(map, b->dt, b->rank, base, b->dim, b->stride, b->box, b->step, b->swizzle, &why);
    if (!good) stream_fail(s, 1, why);
    return good;
}
static uint32_t box_bytes(const ProbeBox *b) {               // as copied: every step-th element of the box
    uint32_t n = b->dt == DT_F32 ? 4 : b->dt == DT_BF16 ? 2 : 1;
    for (int d = 0; d < b->rank; d++) n *= (b->box[d] + b->step[d] - 1) / b->step[d];
    return n;
}

template <int RANK>
static __global__ void tma_load_kernel(const __grid_constant__ TensorMap map, uint4 *out, BoxStart c, uint32_t bytes) {
    DYNAMIC_SHARED(uint4, box);
    SHARED(uint64_t, bar, 1);
    int t = (int)threadIdx.x;
    if (t == 0) {
        MBARRIER_INIT(bar, 1);
        MBARRIER_INIT_FENCE();
        TMA_PREFETCH_MAP(&map);
    }
    __syncthreads();
    if (t == 0) {
        MBARRIER_ARRIVE_EXPECT(bar, bytes);
        if constexpr (RANK == 1) TMA_LOAD(box, &map, bar, c.at[0]);
        if constexpr (RANK == 2) TMA_LOAD(box, &map, bar, c.at[0], c.at[1]);
        if constexpr (RANK == 3) TMA_LOAD(box, &map, bar, c.at[0], c.at[1], c.at[2]);
        if constexpr (RANK == 4) TMA_LOAD(box, &map, bar, c.at[0], c.at[1], c.at[2], c.at[3]);
        if constexpr (RANK == 5) TMA_LOAD(box, &map, bar, c.at[0], c.at[1], c.at[2], c.at[3], c.at[4]);
    }
    MBARRIER_WAIT(bar, 0);
    for (int i = t; i < (int)bytes / 16; i += 64) out[i] = box[i];
}
PROBE(tma_load) {
    const ProbeBox *b = &probe_box[arg[0]];
    TensorMap map;
    BoxStart c;
    uint4 *o = (uint4 *)out;
    uint32_t bytes = box_bytes(b);
    if (!box_map(s, &map, b, in)) return;
    for (int d = 0; d < 5; d++) c.at[d] = b->start[d];
    if (b->rank == 1) LAUNCH(s, (tma_load_kernel<1>), 1, 64, PROBE_BOX, map, o, c, bytes);
    if (b->rank == 2) LAUNCH(s, (tma_load_kernel<2>), 1, 64, PROBE_BOX, map, o, c, bytes);
    if (b->rank == 3) LAUNCH(s, (tma_load_kernel<3>), 1, 64, PROBE_BOX, map, o, c, bytes);
    if (b->rank == 4) LAUNCH(s, (tma_load_kernel<4>), 1, 64, PROBE_BOX, map, o, c, bytes);
    if (b->rank == 5) LAUNCH(s, (tma_load_kernel<5>), 1, 64, PROBE_BOX, map, o, c, bytes);
}

template <int RANK>
static __global__ void tma_store_kernel(const __grid_constant__ TensorMap map, const uint4 *in, BoxStart c) {
    DYNAMIC_SHARED(uint4, box);
    int t = (int)threadIdx.x;
    for (int i = t; i < PROBE_BOX / 16; i += 64) box[i] = in[i];
    FENCE_PROXY_ASYNC();
    __syncthreads();
    if (t) return;
    if constexpr (RANK == 1) TMA_STORE(&map, box, c.at[0]);
    if constexpr (RANK == 2) TMA_STORE(&map, box, c.at[0], c.at[1]);
    if constexpr (RANK == 3) TMA_STORE(&map, box, c.at[0], c.at[1], c.at[2]);
    if constexpr (RANK == 4) TMA_STORE(&map, box, c.at[0], c.at[1], c.at[2], c.at[3]);
    if constexpr (RANK == 5) TMA_STORE(&map, box, c.at[0], c.at[1], c.at[2], c.at[3], c.at[4]);
    TMA_STORE_COMMIT();
    TMA_STORE_WAIT_READ(0);
    TMA_STORE_WAIT(0);
}
PROBE(tma_store) {
    const ProbeBox *b = &probe_box[arg[0]];
    const uint4 *box = (const uint4 *)((const char *)in + PROBE_TENSOR);
    TensorMap map;
    BoxStart c;
    if (!box_map(s, &map, b, out)) return;
    for (int d = 0; d < 5; d++) c.at[d] = b->start[d];
    if (b->rank == 1) LAUNCH(s, (tma_store_kernel<1>), 1, 64, PROBE_BOX, map, box, c);
    if (b->rank == 2) LAUNCH(s, (tma_store_kernel<2>), 1, 64, PROBE_BOX, map, box, c);
    if (b->rank == 3) LAUNCH(s, (tma_store_kernel<3>), 1, 64, PROBE_BOX, map, box, c);
    if (b->rank == 4) LAUNCH(s, (tma_store_kernel<4>), 1, 64, PROBE_BOX, map, box, c);
    if (b->rank == 5) LAUNCH(s, (tma_store_kernel<5>), 1, 64, PROBE_BOX, map, box, c);
}

// ---- mbarrier: 64 threads, a barrier of 64 arrivals; thread 0 notes what it sees of four phases
static __global__ void mbarrier_kernel(uint32_t *out) {
    SHARED(uint64_t, bar, 1);
    SHARED(uint32_t, slot, 64);
    int t = (int)threadIdx.x;
    if (t == 0) {
        MBARRIER_INIT(bar, 64);
        MBARRIER_INIT_FENCE();
    }
    __syncthreads();
    for (uint32_t phase = 0; phase < 4; phase++) {
        if (t == 0) {
            out[4 * phase] = MBARRIER_TEST(bar, phase & 1);              // not complete
            out[4 * phase + 1] = MBARRIER_TEST(bar, (phase & 1) ^ 1);    // the one before it is
        }
        __syncthreads();
        slot[t] = (uint32_t)t + phase;
        MBARRIER_ARRIVE(bar);
        MBARRIER_WAIT(bar, phase & 1);
        if (t == 0) {
            out[4 * phase + 2] = MBARRIER_TEST(bar, phase & 1);
            uint32_t sum = 0;
            for (int i = 0; i < 64; i++) sum += slot[i];
            out[4 * phase + 3] = sum;
        }
        __syncthreads();
    }
}
PROBE(mbarrier) {
    (void)in;
    (void)arg;
    LAUNCH(s, (mbarrier_kernel), 1, 64, 0, (uint32_t *)out);
}

// ---- clusters of two: each block reads the other's memory, is arrived at by it, and gets half a box by multicast
static __global__ void cluster_kernel(const __grid_constant__ TensorMap map, const uint32_t *in, uint32_t *out) {
    DYNAMIC_SHARED(uint32_t, box);                           // 512 bytes: two halves, one loaded by each block
    SHARED(uint64_t, bar, 2);
    SHARED(uint32_t, word, 32);
    int t = (int)threadIdx.x;
    uint32_t rank = CLUSTER_RANK(), peer = rank ^ 1;
    if (t == 0) {
        MBARRIER_INIT(&bar[0], 1);
        MBARRIER_INIT(&bar[1], 32);
        MBARRIER_INIT_FENCE();
    }
    word[t] = in[rank * 32 + (uint32_t)t];
    CLUSTER_SYNC();
    if (t == 0) {
        MBARRIER_ARRIVE_EXPECT(&bar[0], 512);
        TMA_LOAD_MULTICAST(box + rank * 64, &map, &bar[0], 3, 0, (int)rank);
    }
    uint32_t *out_rank = out + rank * 256;
    out_rank[t] = CLUSTER_MAP(word, peer)[t];
    MBARRIER_ARRIVE_PEER(&bar[1], peer);
    MBARRIER_WAIT_CLUSTER(&bar[1], 0);
    MBARRIER_WAIT(&bar[0], 0);
    for (int i = t; i < 128; i += 32) out_rank[32 + i] = box[i];
    CLUSTER_SYNC();
    CLUSTER_MAP(word, peer)[31 - t] = rank * 100 + (uint32_t)t;
    CLUSTER_ARRIVE();
    CLUSTER_WAIT();
    out_rank[160 + t] = word[t];
}
PROBE(cluster) {
    TensorMap map;
    const char *why;
    const uint64_t dim[2] = { 64, 2 }, stride[1] = { 256 };
    const uint32_t box[2] = { 64, 1 }, step[2] = { 1, 1 };
    (void)arg;
    if (!tensor_map_tiled(&map, DT_I32, 2, in, dim, stride, box, step, 0, &why)) {
        stream_fail(s, 1, why);
        return;
    }
    LAUNCH_CLUSTER(s, 2, (cluster_kernel), 2, 32, 512, map, (const uint32_t *)in, (uint32_t *)out);
}

// ---- registers moved from one warpgroup to another, and the order of dependent launches: no effect on values
static __global__ void __launch_bounds__(256, 1) registers_kernel(const uint32_t *in, uint32_t *out) {
    int t = (int)threadIdx.x;
    GRID_WAIT();
    if (t < 128) SETMAXNREG_DEC(40);
    else         SETMAXNREG_INC(232);
    out[t] = in[255 - t];
    GRID_LAUNCH();
}
PROBE(registers) {
    (void)arg;
    LAUNCH(s, (registers_kernel), 1, 256, 0, (const uint32_t *)in, (uint32_t *)out);
}
