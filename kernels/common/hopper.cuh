// kernels/common/hopper.cuh - what sm_90a adds: mbarriers, tensor-map copies (TMA), warpgroup products, clusters.
//
// For files named *_sm90.cu, which nvcc builds for 90a only. Words in quotes are sections of the PTX ISA. `shared`,
// `bar`, `row` are pointers to the block's own shared memory; a bar is a uint64_t. nvcc's half is hopper_ptx.cuh; the
// emulation's is kernels/emu/hopper.h, where what it checks of each word is said.
//
// mbarriers ("mbarrier"): a phase completes when `count` arrivals and all expected bytes are in. Phases have parity
// 0, 1, 0, ...; waiting for parity p returns once the current phase has the other parity, so on a new barrier p = 1
// returns at once.
//   MBARRIER_INIT(bar, count)            one thread; then MBARRIER_INIT_FENCE() and __syncthreads() (clusters: sync)
//   MBARRIER_INIT_FENCE()                makes the initialisation visible to the cluster and to asynchronous copies
//   MBARRIER_ARRIVE(bar)                 one arrival of the calling thread; releases its earlier writes
//   MBARRIER_ARRIVE_EXPECT(bar, bytes)   the same, after adding to the bytes that this phase waits for
//   MBARRIER_ARRIVE_PEER(bar, rank)      arrive at the same barrier of block `rank` of the cluster
//   MBARRIER_WAIT(bar, parity)           spins; acquires what threads of this block and copies released at the barrier
//   MBARRIER_WAIT_CLUSTER(bar, parity)   also what threads of the cluster's other blocks released
//   MBARRIER_TEST(bar, parity)           bool: would the wait return at once? Acquires like it if so
// Proxies ("fence.proxy"): wgmma and TMA read shared memory through the asynchronous proxy.
//   FENCE_PROXY_ASYNC()                  every thread that wrote shared memory by plain stores, before the barrier
//                                        after which wgmma or TMA reads it
// TMA ("cp.async.bulk.tensor"): one thread issues. Coordinates are elements, innermost first, as many as the map has
// dimensions, and may lie outside the tensor: such elements are read as zero and are not written.
//   TMA_LOAD(shared, map, bar, c0, ...)  the box at c0, ... to shared (128-byte aligned), the full box's bytes counted
//                                        at bar, elements outside included. Visible after the wait on bar
//   TMA_LOAD_MULTICAST(shared, map, bar, mask, c0, ...)   to the same place of every block of the cluster in `mask`,
//                                        counted at each one's bar
//   TMA_STORE(map, shared, c0, ...)      the box from shared; written by plain stores: FENCE_PROXY_ASYNC and a barrier
//                                        first. Belongs to the thread's open group
//   TMA_STORE_COMMIT()                   closes the group
//   TMA_STORE_WAIT_READ(n)               until all but the newest n groups have been read from shared memory
//   TMA_STORE_WAIT(n)                    until all but the newest n groups are written. A block ends after a _READ at
//                                        least
//   TMA_PREFETCH_MAP(map)                a hint
// A map is a kernel parameter, `const __grid_constant__ TensorMap map`, used by its address.
// wgmma ("wgmma.mma_async"): 128 threads, a warpgroup whose first warp is a multiple of four. d is float[n / 2], the
// thread's part of a 64 x n tile, n in {8, 16, 32, 64, 96, 128, 192, 256}: with w the warp of the four, g = lane / 4,
// q = lane % 4, d[4 j + 2 h + i] is row 16 w + 8 h + g, column 8 j + 2 q + i. d += a (64 x 16) b (16 x n), bf16, or
// d = a b with scale 0. a, b are descriptors of shared memory; a transposed operand (ta, tb = 1) is MN-major, else
// K-major.
//   WGMMA_FENCE()                        before the first WGMMA and whenever registers of d or a were touched since
//   WGMMA_SS(ta, tb, d, a, b, scale)     a and b in shared memory
//   WGMMA_RS(tb, d, a, b, scale)         a: 4 words of bf16 pairs, per warp as mma.cuh's A, rows 16 w ...
//   WGMMA_COMMIT()                       closes the group of WGMMAs so far
//   WGMMA_WAIT(n)                        until all but the newest n groups are done: d may be read, operands reused
// Descriptors ("Shared Memory Matrix Layout", "Strides"): WGMMA_DESCRIPTOR(shared, leading, stride, swizzle), where
// swizzle is the width W of a swizzled row: 0, 32, 64 or 128 bytes. Byte offset of element (mn, k) before swizzling:
//   K-major,  swizzled: (mn % 8) W + (mn / 8) stride + 2 k                               (leading not used)
//   K-major,  plain:    (mn % 8) 16 + (mn / 8) stride + (k / 8) leading + 2 (k % 8)
//   MN-major, swizzled: 2 (mn % (W/2)) + (mn / (W/2)) leading + (k % 8) W + (k / 8) stride
//   MN-major, plain:    2 (mn % 8) + (mn / 8) stride + (k % 8) 16 + (k / 8) leading
// and swizzling exclusive-ors bits 4.. (1, 2 or 3 of them) with bits 7.. of the address. start, leading, stride are
// multiples of 16; the tile starts where the pattern does (1024, 512, 256 bytes), but for steps along a K-major row.
// WGMMA_ADVANCE(descriptor, bytes) moves the start.
// stmatrix: STMATRIX_X4(row, r), STMATRIX_X4_TRANS(row, r): the inverse of mma.cuh's LDMATRIX_X4.
// SETMAXNREG_INC(n), SETMAXNREG_DEC(n): registers per thread of the calling warpgroup, a multiple of 8 in 24..256. The
//   kernel says __launch_bounds__(threads, 1), or ptxas ignores them (C7508).
// Clusters: CLUSTER_RANK(); CLUSTER_ARRIVE() and CLUSTER_WAIT(), together CLUSTER_SYNC(), by all threads of all blocks;
//   CLUSTER_MAP(p, rank): p's counterpart in the shared memory of block `rank`, for plain loads and stores. A block
//   must not end while others may touch its shared memory: CLUSTER_SYNC() last.
// Dependent launches ("griddepcontrol"): GRID_WAIT(): until the kernels before are complete and visible; GRID_LAUNCH():
//   the kernels after may start.
#ifndef KERNELS_HOPPER_CUH
#define KERNELS_HOPPER_CUH
#include <stdio.h>
#include "kernels/common/mma.cuh"

// The arguments of tensor_map_tiled() as cuTensorMapEncodeTiled documents them; NULL if it will take them.
static inline const char *tensor_map_fault(DType dt, int rank, const void *base, const uint64_t *dim,
                                           const uint64_t *stride_bytes, const uint32_t *box,
                                           const uint32_t *element_stride, int swizzle_bytes) {
    static thread_local char text[160];
    uint64_t size = dt == DT_F64 ? 8 : dt == DT_BF16 ? 2 : dt == DT_U8 ? 1 : 4, inner;
    if (rank < 1 || rank > 5) return "tensor map: a rank of 1 to 5";
    if ((uintptr_t)base % 16) return "tensor map: the base is not 16-byte aligned";
    for (int d = 0; d < rank; d++) {
        const char *what = NULL;
        if (dim[d] == 0 || dim[d] > (1ull << 32)) what = "the size is not 1 to 2^32";
        else if (d && (stride_bytes[d - 1] % 16 || stride_bytes[d - 1] >= (1ull << 40)))
            what = "the stride is not a multiple of 16 bytes below 2^40";
        else if (box[d] == 0 || box[d] > 256) what = "the box is not 1 to 256 elements";
        else if (element_stride[d] == 0 || element_stride[d] > 8) what = "the element stride is not 1 to 8";
        else if (d == 0 && element_stride[d] != 1) what = "the innermost element stride is not 1";
        if (what) {
            snprintf(text, sizeof text, "tensor map: dimension %d: %s", d, what);
            return text;
        }
    }
    inner = box[0] * size;
    if (inner % 16) return "tensor map: the box's innermost side is not a multiple of 16 bytes";
    if (swizzle_bytes != 0 && swizzle_bytes != 32 && swizzle_bytes != 64 && swizzle_bytes != 128)
        return "tensor map: a swizzle of 0, 32, 64 or 128 bytes";
    // The driver takes narrower boxes too; how they are spaced in shared memory is not documented: kernels do without
    if (swizzle_bytes && inner != (uint64_t)swizzle_bytes)
        return "tensor map: the box's innermost side is not as wide as the swizzle";
    return NULL;
}

// bool tensor_map_tiled(m, dt, rank, base, dim, stride_bytes, box, element_stride, swizzle_bytes, why): on the host,
// describes the tensor at device address base (rank dimensions, innermost first; stride_bytes: rank - 1 of them, from
// dimension 1 on) and the box that a copy moves. A copy along dimension d visits ceil(box / element_stride) elements,
// element_stride apart, and packs them. False, with the reason in *why (static text), if it cannot be.

#define WGMMA_LAYOUT(swizzle) ((swizzle) == 128 ? 1 : (swizzle) == 64 ? 2 : (swizzle) == 32 ? 3 : 0)
#define WGMMA_ADVANCE(descriptor, bytes) ((descriptor) + (uint64_t)((bytes) >> 4))
DEVICE uint64_t wgmma_descriptor(uint32_t start, int leading, int stride, int swizzle) {
    return (uint64_t)((start & 0x3FFFFu) >> 4) | (uint64_t)(((uint32_t)leading & 0x3FFFFu) >> 4) << 16 |
           (uint64_t)(((uint32_t)stride & 0x3FFFFu) >> 4) << 32 | (uint64_t)WGMMA_LAYOUT(swizzle) << 62;
}
#define WGMMA_DESCRIPTOR(shared, leading, stride, swizzle)                                                          \
    wgmma_descriptor(shared_address(shared), leading, stride, swizzle)

#define CLUSTER_SYNC()       \
    do {                     \
        CLUSTER_ARRIVE();    \
        CLUSTER_WAIT();      \
    } while (0)
#ifdef __CUDACC__
#include "kernels/common/hopper_ptx.cuh"
#else
#include "kernels/emu/hopper.h"
#endif
#endif
