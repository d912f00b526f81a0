// tests/emu/async.h - the planted faults of async.cu, and how they are run.
#ifndef TESTS_EMU_ASYNC_H
#define TESTS_EMU_ASYNC_H
#include "kernels/common/types.h"

enum {
    COPY_RIGHT, COPY_NO_WAIT, COPY_WAIT_SHORT, COPY_NO_BARRIER, COPY_NO_TRAILING_BARRIER, COPY_UNWAITED,
    RING_RIGHT, RING_NO_INIT_BARRIER, RING_NO_EMPTY_WAIT, RING_NO_FULL_WAIT, RING_WRONG_PARITY, RING_EARLY_RELEASE,
    RING_BYTES_SHORT, RING_BYTES_LONG, RING_WRONG_SWIZZLE, RING_NO_WGMMA_FENCE,
    STORED_RIGHT, STORED_NO_PROXY_FENCE, STORED_OVERWRITE, STORED_READ_EARLY, STORED_UNWAITED,
    STORE_RIGHT, STORE_NO_PROXY_FENCE, STORE_NOT_READ, STORE_UNWAITED,
    PEER_RIGHT, PEER_BLOCK_BARRIER, PEER_NO_LAST_SYNC, PEER_NO_WAIT, PEER_WAIT_SCOPE,
    ASYNC_FAULTS,
    ASYNC_STAGES = 6,                        // of copy_kernel
    ASYNC_STEPS = 5,                         // of ring_kernel, 64 deep
};
// Runs the kernel with that fault. in: random bits or small bf16 integers; out: as the kernel writes it.
EXTERN_C void async_run(int fault, const void *in, void *out);
EXTERN_C const char *async_map_refusals(void);

#ifdef __cplusplus
template <int... N> struct Faults {};
template <int N, int... Rest> struct FaultsUpTo : FaultsUpTo<N - 1, N - 1, Rest...> {};
template <int... Rest> struct FaultsUpTo<0, Rest...> { typedef Faults<Rest...> type; };
#endif
#endif
