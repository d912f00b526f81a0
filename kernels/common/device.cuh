// kernels/common/device.cuh - the words that kernels are written in; what nvcc and the emulation spell differently.
//
// A .cu file is compiled by nvcc as kind CUDA, and by the host's C++ compiler as kind EMU. It includes this header, and
// mma.cuh or hopper.cuh where it needs tensor cores, and holds plain CUDA C++ but for these: no asm, no <<<>>>, no raw
// __shared__, no memcpy, no __activemask, no __CUDA_ARCH__ (tests/check_words.sh looks for them). Loads and stores that
// the emulation must see are plain ones, through pointers and vector types.
//
//   static __global__ void __launch_bounds__(N) name_kernel(Shape z, Args a)
//                                  kernels; templates are fine. static, since nvcc's stub of a kernel and the kernel
//                                  for the host come into one program
//   DEVICE                         in front of a device function
//   SHARED(T, name, n)             a static shared array of n elements T, contents undefined
//   DYNAMIC_SHARED(T, name)        T *name: the dynamic shared memory of the launch, 1024-byte aligned
//   LAUNCH(s, (kernel<a, b>), grid, block, shared_bytes, arguments...)
//                                  queue on a Stream *; a failure is left in its status. Above 48 KiB it opts in
//   LAUNCH_CLUSTER(s, cluster_x, (kernel), grid, block, shared_bytes, arguments...)   thread-block clusters along x
//   BLOCK_BARRIER(id, n)           named barrier 1..15 over n threads, a multiple of 32: arrive and wait
//   BLOCK_ARRIVE(id, n)            arrive only
//   STORE_GLOBAL(p, v)             *p = v for a vector type in global memory, as one store: of a plain one, nvcc makes
//                                  a store per component where it has unrolled or reordered a loop around it
// and CUDA's own threadIdx, blockIdx, blockDim, gridDim, dim3, float2/4, int2/4, uint2/4 with make_*, __syncthreads,
// __syncthreads_or, __syncwarp, __shfl_sync, _up_, _down_, _xor_, __ballot_sync, __any_sync, __all_sync, __ldg, __popc,
// __clz, __ffs, __float_as_uint, __uint_as_float, __umulhi, min, max, expf, __expf, exp2f, logf, sqrtf, rsqrtf,
// fmaf, fmaxf, fminf, sinf, cosf, __fdividef, integer atomicAdd/Max/CAS, __threadfence. Float atomics are not allowed:
// every sum has a fixed order.
#ifndef KERNELS_DEVICE_CUH
#define KERNELS_DEVICE_CUH
#include "kernels/common/kernel.h"
#include "kernels/common/launch_log.h"

struct bf16 { uint16_t bits; };                          // as stored; 2-byte aligned. Arithmetic is in float

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <math_constants.h>
#define DEVICE __device__ __forceinline__
#define SHARED(T, name, n) __shared__ T name[n]
#define DYNAMIC_SHARED(T, name)                                                                                     \
    extern __shared__ __align__(1024) unsigned char name##_dynamic[];                                               \
    T *name = reinterpret_cast<T *>(name##_dynamic)

// Every kind's Stream begins with its Status (core/device.c).
EXTERN_C cudaStream_t stream_cuda(const Stream *s);

template <typename... Params, typename... Args>
static void launch_kernel(Stream *s, const char *name, int cluster, void (*kernel)(Params...), dim3 grid, dim3 block,
                          size_t shared, Args &&...args) {
    cudaError_t e = cudaSuccess;
    if (launch_log) launch_log_add(name, (const void *)kernel, (int)(block.x * block.y * block.z), shared);
    if (shared > 48 * 1024)
        e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = (unsigned)cluster;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream_cuda(s);
    config.attrs = &attribute;
    config.numAttrs = cluster > 1 ? 1 : 0;
    if (e == cudaSuccess) e = cudaLaunchKernelEx(&config, kernel, Params(args)...);
    if (e != cudaSuccess) stream_fail(s, (int)e, cudaGetErrorString(e));
}
#define KERNEL_NAME_(...) __VA_ARGS__
#define LAUNCH(s, kernel, grid, block, shared, ...)                                                                 \
    launch_kernel(s, #kernel, 1, KERNEL_NAME_ kernel, grid, block, shared, __VA_ARGS__)
#define LAUNCH_CLUSTER(s, cluster, kernel, grid, block, shared, ...)                                                \
    launch_kernel(s, #kernel, cluster, KERNEL_NAME_ kernel, grid, block, shared, __VA_ARGS__)
#define BLOCK_BARRIER(id, n) asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory")
#define BLOCK_ARRIVE(id, n)  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(n) : "memory")
#define STORE_GLOBAL(p, v)   __stwb(p, v)
DEVICE uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

DEVICE float    bf16_float(bf16 v) { return __uint_as_float((uint32_t)v.bits << 16); }
DEVICE bf16     float_bf16(float f) { bf16 r = { __bfloat16_as_ushort(__float2bfloat16_rn(f)) }; return r; }
DEVICE uint32_t pack_bf16(float low, float high) {       // two bf16 in a word, low half first
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
template <typename V> DEVICE V load_whole(const V *p) { return *p; }
template <typename V> DEVICE void store_whole(V *p, V v) { *p = v; }
#else
#include "kernels/emu/emu.h"                             // the same words on fibers
// A vector in one access, as on the GPU. The host's compiler copies structs member by member; so the checker sees the
// true width and alignment, and is called once.
template <typename V> DEVICE V load_whole(const V *p) {
    typedef uint32_t Words __attribute__((vector_size(sizeof(V)), may_alias));
    return emu::bits_as<V>(*reinterpret_cast<const Words *>(p));
}
template <typename V> DEVICE void store_whole(V *p, V v) {
    typedef uint32_t Words __attribute__((vector_size(sizeof(V)), may_alias));
    *reinterpret_cast<Words *>(p) = emu::bits_as<Words>(v);
}
#endif

// ---- the same for both
DEVICE float bf16_low(uint32_t w) { return __uint_as_float(w << 16); }             // of a packed word
DEVICE float bf16_high(uint32_t w) { return __uint_as_float(w & 0xFFFF0000u); }

// One element as the accumulator sees it, by storage type.
DEVICE float load_real(const float *p) { return *p; }
DEVICE float load_real(const bf16 *p) { return bf16_float(*p); }
DEVICE void  store_real(float *p, float v) { *p = v; }
DEVICE void  store_real(bf16 *p, float v) { *p = float_bf16(v); }

// Four elements, 16 or 8 bytes: p aligned accordingly.
DEVICE float4 load4(const float *p) { return load_whole(reinterpret_cast<const float4 *>(p)); }
DEVICE float4 load4(const bf16 *p) {
    uint2 w = load_whole(reinterpret_cast<const uint2 *>(p));
    return make_float4(bf16_low(w.x), bf16_high(w.x), bf16_low(w.y), bf16_high(w.y));
}
DEVICE void store4(float *p, float4 v) { store_whole(reinterpret_cast<float4 *>(p), v); }
DEVICE void store4(bf16 *p, float4 v) {
    store_whole(reinterpret_cast<uint2 *>(p), make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w)));
}

DEVICE float warp_sum(float v) {                         // over all 32 lanes, in a fixed order; every lane gets it
    for (int d = 16; d; d /= 2) v += __shfl_xor_sync(0xFFFFFFFFu, v, d);
    return v;
}
DEVICE float warp_max(float v) {
    for (int d = 16; d; d /= 2) v = fmaxf(v, __shfl_xor_sync(0xFFFFFFFFu, v, d));
    return v;
}
// Over the whole block of a multiple of 32 threads; slot: 33 floats of shared memory, free before and after every call.
// Every thread gets the sum. Two barriers at the end of which slot may be used again.
DEVICE float block_sum(float v, float *slot) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32;
    v = warp_sum(v);
    if (lane == 0) slot[warp] = v;
    __syncthreads();
    if (warp == 0) {
        v = warp_sum(lane < warps ? slot[lane] : 0.0f);
        if (lane == 0) slot[32] = v;
    }
    __syncthreads();
    return slot[32];
}

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
DEVICE float silu(float x) { return x * sigmoid(x); }
DEVICE float silu_slope(float x) {
    float e = expf(fminf(-x, 87.0f)), s = 1.0f / (1.0f + e);   // finite, so that e s is not infinity times 0
    return s + (x * s) * (e * s);                  // 1 - sigmoid(x) = e s, without cancellation for large x
}
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
// Blocks for `items` of work, `each` per block: at most `most`, so that kernels walk the rest in strides of the grid.
static inline unsigned grid_of(int64_t items, int64_t each, int64_t most) {
    int64_t blocks = ceil_div(items, each);
    return (unsigned)(blocks < 1 ? 1 : blocks < most ? blocks : most);
}
#endif
