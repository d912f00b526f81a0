// tests/emu/planted.cu - what the emulation must find, in small kernels, and their right twins.
//
// planted.c runs them. "at: NAME" marks the line that the report of kernel NAME must name, "at: NAME_2" the other one
// of a race. WRONG is a template argument: the right kernel has none of the wrong one's code.
#include "tests/emu/planted.h"

#include "kernels/common/device.cuh"

enum { N = PLANTED_THREADS, BLOCKS = PLANTED_BLOCKS };
#define GLOBAL_THREAD ((int)(blockIdx.x * blockDim.x + threadIdx.x))

// ---- barriers
template <bool WRONG> __global__ void missing_barrier(const float *in, float *out) {
    SHARED(float, slot, N);
    int t = (int)threadIdx.x;
    slot[t] = 0.0f;
    __syncthreads();
    slot[t] = in[GLOBAL_THREAD];                                // at: missing_barrier
    if (!WRONG) __syncthreads();
    out[GLOBAL_THREAD] = slot[N - 1 - t];                       // at: missing_barrier_2
}
template <bool WRONG> __global__ void missing_trailing_barrier(const float *in, float *out) {
    SHARED(float, slot, 1);
    int t = (int)threadIdx.x;
    float sum = 0.0f;
    for (int i = 0; i < 3; i++) {
        if (t == 0) slot[0] = in[i];                            // at: missing_trailing_barrier
        __syncthreads();
        sum += slot[0];                                         // at: missing_trailing_barrier_2
        if (!WRONG) __syncthreads();
    }
    out[GLOBAL_THREAD] = sum;
}
template <bool WRONG> __global__ void global_exchange(const float *in, float *out) {
    out[GLOBAL_THREAD] = in[GLOBAL_THREAD];                     // at: global_exchange_2
    if (!WRONG) __syncthreads();
    float other = out[blockIdx.x * N + (N - 1 - threadIdx.x)];  // at: global_exchange
    __syncthreads();
    out[GLOBAL_THREAD] += other;
}
template <bool WRONG> __global__ void barrier_in_branch(const float *in, float *out) {
    out[GLOBAL_THREAD] = in[GLOBAL_THREAD];
    if (WRONG && threadIdx.x < 32) {
        __syncthreads();
        out[GLOBAL_THREAD] += 1.0f;
    } else {
        __syncthreads();                                        // at: barrier_in_branch
    }
}
template <bool WRONG> __global__ void barrier_not_by_all(const float *in, float *out) {
    SHARED(float, slot, N);
    int t = (int)threadIdx.x;
    slot[t] = in[GLOBAL_THREAD];
    __syncwarp();
    if (WRONG && t < 32) __shfl_sync(0xFFFFFFFFu, t, 0);
    if (WRONG && t == 5) __syncwarp();                          // at: barrier_not_by_all
    __syncthreads();
    out[GLOBAL_THREAD] = slot[N - 1 - t];
}
template <bool WRONG> __global__ void named_count(const float *in, float *out) {
    SHARED(float, slot, N);
    int t = (int)threadIdx.x;
    slot[t] = in[GLOBAL_THREAD];
    if (t < 32) BLOCK_BARRIER(1, N);
    else        BLOCK_BARRIER(1, WRONG ? 32 : N);               // at: named_count
    out[GLOBAL_THREAD] = slot[N - 1 - t];
}
// The first warp produces, the second consumes; then the first may use the slots again.
template <bool WRONG> __global__ void named_handover(const float *in, float *out) {
    SHARED(float, slot, 32);
    int t = (int)threadIdx.x;
    if (t < 32) {
        slot[t] = in[GLOBAL_THREAD];
        BLOCK_ARRIVE(1, N);
        if (!WRONG) BLOCK_BARRIER(2, N);
        slot[t] = 0.0f;                                         // at: named_handover
        out[GLOBAL_THREAD] = slot[t];
    } else {
        BLOCK_BARRIER(1, N);
        float v = slot[63 - t];                                 // at: named_handover_2
        if (!WRONG) BLOCK_ARRIVE(2, N);
        out[GLOBAL_THREAD] = v;
    }
}

// ---- warps
template <bool WRONG> __global__ void warp_exchange(const float *in, float *out) {
    SHARED(float, slot, N);
    int t = (int)threadIdx.x;
    slot[t] = in[GLOBAL_THREAD];                                // at: warp_exchange_2
    if (!WRONG) __syncwarp();
    else        __shfl_sync(0xFFFFFFFFu, t, 0);                 // lanes meet, but nothing is ordered
    out[GLOBAL_THREAD] = slot[t ^ 1];                           // at: warp_exchange
}
template <bool WRONG> __global__ void shuffle_mask(const float *in, float *out) {
    float v = in[GLOBAL_THREAD];
    out[GLOBAL_THREAD] = __shfl_xor_sync(WRONG ? 0xFFFFu : 0xFFFFFFFFu, v, 1);      // at: shuffle_mask
}
template <bool WRONG> __global__ void shuffle_in_branch(const float *in, float *out) {
    float v = in[GLOBAL_THREAD];
    if (!WRONG || threadIdx.x % 32 < 8) v += __shfl_down_sync(0xFFFFFFFFu, v, 1);   // at: shuffle_in_branch
    __syncthreads();
    out[GLOBAL_THREAD] = v;
}
template <bool WRONG> __global__ void shuffle_from_absent(const float *in, float *out) {
    float v = in[GLOBAL_THREAD];
    if (threadIdx.x % 32 >= 16) return;
    out[GLOBAL_THREAD] = __shfl_sync(0xFFFFu, v, WRONG ? 20 : 10);                  // at: shuffle_from_absent
}

// ---- bounds, alignment, foreign memory
template <bool WRONG> __global__ void global_past_end(const float *in, float *out) {
    int i = GLOBAL_THREAD + (WRONG ? 1 : 0);
    out[i] = in[GLOBAL_THREAD];                                 // at: global_past_end
}
template <bool WRONG> __global__ void shared_past_end(const float *in, float *out) {
    SHARED(float, slot, N);
    SHARED(float, behind, N);
    int t = (int)threadIdx.x;
    slot[t] = behind[t] = in[GLOBAL_THREAD];
    __syncthreads();
    out[GLOBAL_THREAD] = slot[WRONG ? t + 1 : t] + behind[N - 1 - t];               // at: shared_past_end
}
template <bool WRONG> __global__ void dynamic_past_end(const float *in, float *out) {
    DYNAMIC_SHARED(float, slot);
    int t = (int)threadIdx.x;
    slot[WRONG ? t + 1 : t] = in[GLOBAL_THREAD];                // at: dynamic_past_end
    __syncthreads();
    out[GLOBAL_THREAD] = t > 0 ? slot[t] : 0.0f;
}
template <bool WRONG> __global__ void misaligned(const float *in, float *out) {
    int t = GLOBAL_THREAD;
    if (t % 4) return;
    float4 v = *(const float4 *)(in + (WRONG && t == 8 ? t + 1 : t));               // at: misaligned
    store4(out + t, v);
}
template <bool WRONG> __global__ void pointer(const float *in, float *out) {
    out[GLOBAL_THREAD] = in[GLOBAL_THREAD];                     // at: host_pointer null_pointer freed
}
template <bool WRONG> __global__ void window(const float *in, float *out) {
    out[GLOBAL_THREAD] = in[GLOBAL_THREAD];                     // at: outside_window read_only
}

// ---- initialisation
template <bool WRONG> __global__ void uninitialised_shared(const float *in, float *out) {
    SHARED(float, slot, N);
    int t = (int)threadIdx.x;
    if (!WRONG || t != 63) slot[t] = in[GLOBAL_THREAD];
    __syncthreads();
    out[GLOBAL_THREAD] = slot[N - 1 - t];                       // at: uninitialised_shared
}
template <bool WRONG> __global__ void last_column(const float *in, float *out) {
    if (!WRONG || threadIdx.x != 63) out[GLOBAL_THREAD] = in[GLOBAL_THREAD];
}

// ---- atomics, blocks
template <bool WRONG> __global__ void shared_count(const float *in, float *out) {
    SHARED(int, count, 1);
    if (threadIdx.x == 0) count[0] = 0;
    __syncthreads();
    if (in[GLOBAL_THREAD] > 0.5f) {
        if (WRONG) count[0]++;                                  // at: shared_count
        else       atomicAdd(&count[0], 1);
    }
    __syncthreads();
    out[GLOBAL_THREAD] = (float)count[0];
}
template <bool WRONG> __global__ void sum_of_blocks(const float *in, float *out) {
    int mine = (int)(in[GLOBAL_THREAD] * 1000.0f);
    if (threadIdx.x != 0) return;
    if (WRONG) ((int *)out)[0] += mine;                         // at: sum_of_blocks
    else       atomicAdd((int *)out, mine);
}
// Blocks leave partial sums; the last one to come adds them up.
template <bool WRONG> __global__ void last_block(const float *in, float *out) {
    SHARED(unsigned, ticket, 1);
    unsigned *count = (unsigned *)(out + 1);
    float sum = warp_sum(in[GLOBAL_THREAD]);
    if (threadIdx.x == 0) {
        out[8 + blockIdx.x] = sum;                              // at: last_block_2
        if (!WRONG) __threadfence();
        ticket[0] = atomicAdd(count, 1u);
    }
    __syncthreads();
    if (ticket[0] == gridDim.x - 1 && threadIdx.x == 0) {
        float all = 0.0f;
        for (unsigned b = 0; b < gridDim.x; b++) all += out[8 + b];                 // at: last_block
        out[0] = all;
        *count = 0;
    }
}

// ---- launches
#define PLAIN(kernel)                                                                                               \
    template <bool WRONG> static void kernel##_run(const float *in, float *out, float *) {                          \
        LAUNCH(stream_host(), (kernel<WRONG>), BLOCKS, N, N * 4, in, out);                                          \
    }
PLAIN(missing_barrier)
PLAIN(missing_trailing_barrier)
PLAIN(global_exchange)
PLAIN(barrier_in_branch)
PLAIN(barrier_not_by_all)
PLAIN(named_count)
PLAIN(named_handover)
PLAIN(warp_exchange)
PLAIN(shuffle_mask)
PLAIN(shuffle_in_branch)
PLAIN(shuffle_from_absent)
PLAIN(global_past_end)
PLAIN(shared_past_end)
PLAIN(dynamic_past_end)
PLAIN(misaligned)
PLAIN(uninitialised_shared)
PLAIN(shared_count)
PLAIN(sum_of_blocks)
PLAIN(last_block)

template <bool WRONG> static void host_pointer_run(const float *in, float *out, float *host) {
    LAUNCH(stream_host(), (pointer<WRONG>), BLOCKS, N, 0, WRONG ? host : in, out);
}
template <bool WRONG> static void null_pointer_run(const float *in, float *out, float *) {
    LAUNCH(stream_host(), (pointer<WRONG>), BLOCKS, N, 0, in, WRONG ? nullptr : out);
}
template <bool WRONG> static void freed_run(const float *in, float *out, float *) {
    float *gone = (float *)emu_malloc(PLANTED_FLOATS * 4);
    emu_device_set(gone, 0, PLANTED_FLOATS * 4);
    emu_free(gone);
    LAUNCH(stream_host(), (pointer<WRONG>), BLOCKS, N, 0, WRONG ? gone : in, out);
}
template <bool WRONG> static void outside_window_run(const float *in, float *out, float *) {
    const EmuWindow w[2] = { { in, PLANTED_FLOATS * 4, EMU_READ },
                             { out, (PLANTED_FLOATS - (WRONG ? 1 : 0)) * 4, EMU_READ | EMU_WRITE } };
    emu_windows(w, 2);
    LAUNCH(stream_host(), (window<WRONG>), BLOCKS, N, 0, in, out);
}
template <bool WRONG> static void read_only_run(const float *in, float *out, float *) {
    const EmuWindow w[2] = { { in, PLANTED_FLOATS * 4, EMU_READ },
                             { out, PLANTED_FLOATS * 4, WRONG ? EMU_READ : EMU_READ | EMU_WRITE } };
    emu_windows(w, 2);
    LAUNCH(stream_host(), (window<WRONG>), BLOCKS, N, 0, in, out);
}
template <bool WRONG> static void last_column_run(const float *in, float *out, float *) {
    emu_poison(out, PLANTED_FLOATS * 4);
    LAUNCH(stream_host(), (last_column<WRONG>), BLOCKS, N, 0, in, out);
}
template <bool WRONG> static void host_access_run(const float *in, float *out, float *host) {
    emu_host_write(out, host, PLANTED_FLOATS * 4);
    if (WRONG) host[0] = in[3];                                 // at: host_access
}

#define ENTRY(name, kind, two) { #name, kind, two, { name##_run<false>, name##_run<true> } }
EXTERN_C const Planted planted[] = {
    ENTRY(missing_barrier, "race", true),
    ENTRY(missing_trailing_barrier, "race", true),
    ENTRY(global_exchange, "race", true),
    ENTRY(barrier_in_branch, "barrier-divergence", false),
    ENTRY(barrier_not_by_all, "deadlock", false),
    ENTRY(named_count, "barrier-count", false),
    ENTRY(named_handover, "race", true),
    ENTRY(warp_exchange, "race", true),
    ENTRY(shuffle_mask, "warp-mask", false),
    ENTRY(shuffle_in_branch, "deadlock", false),
    ENTRY(shuffle_from_absent, "shuffle-absent", false),
    ENTRY(global_past_end, "out-of-bounds", false),
    ENTRY(shared_past_end, "out-of-bounds", false),
    ENTRY(dynamic_past_end, "out-of-bounds", false),
    ENTRY(misaligned, "misaligned", false),
    ENTRY(host_pointer, "host-pointer", false),
    ENTRY(null_pointer, "null-pointer", false),
    ENTRY(freed, "out-of-bounds", false),
    ENTRY(outside_window, "outside-window", false),
    ENTRY(read_only, "read-only", false),
    ENTRY(uninitialised_shared, "uninitialised", false),
    ENTRY(last_column, "unwritten-output", false),
    ENTRY(shared_count, "race", false),
    ENTRY(sum_of_blocks, "race-blocks", false),
    ENTRY(last_block, "race-blocks", true),
    ENTRY(host_access, "host-access", false),
};
EXTERN_C const int planted_count = sizeof planted / sizeof *planted;
