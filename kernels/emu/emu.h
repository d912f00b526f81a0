// kernels/emu/emu.h - the words of kernels/common/device.cuh for the host: what a .cu file sees as kind EMU.
//
// Every CUDA thread is a fiber (fiber.cpp); a block's threads take turns on one OS thread (schedule.cpp) and hand over
// only inside the words below. Words at which threads meet are macros, so that reports name the line in the .cu file.
// Plain loads and stores reach the checker because kernel files are compiled with -fsanitize=thread, whose calls end in
// shadow.cpp and not in libtsan. No header of the CUDA toolkit is needed.
#ifndef KERNELS_EMU_EMU_H
#define KERNELS_EMU_EMU_H
#include "kernels/common/launch_log.h"
#include <cmath>
#include <tuple>
#include <type_traits>

#include "kernels/emu/host.h"

#define DEVICE inline __attribute__((always_inline))      // in a class, too; no copy that other files could clash with
#define __global__
#define __device__
#define __host__
#define __forceinline__      inline
#define __launch_bounds__(...)
#define __align__(n)         __attribute__((aligned(n)))

// ---- vector types: sizes and alignments as in CUDA
struct float2 { float x, y; } __align__(8);
struct float4 { float x, y, z, w; } __align__(16);
struct int2   { int x, y; } __align__(8);
struct int4   { int x, y, z, w; } __align__(16);
struct uint2  { unsigned x, y; } __align__(8);
struct uint3  { unsigned x, y, z; };
struct uint4  { unsigned x, y, z, w; } __align__(16);
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
static inline float2 make_float2(float x, float y) { return { x, y }; }
static inline float4 make_float4(float x, float y, float z, float w) { return { x, y, z, w }; }
static inline int2   make_int2(int x, int y) { return { x, y }; }
static inline int4   make_int4(int x, int y, int z, int w) { return { x, y, z, w }; }
static inline uint2  make_uint2(unsigned x, unsigned y) { return { x, y }; }
static inline uint3  make_uint3(unsigned x, unsigned y, unsigned z) { return { x, y, z }; }
static inline uint4  make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return { x, y, z, w }; }

namespace emu {
struct Site { const char *file; int line; };        // where in the .cu file a word stands
#define EMU_SITE (emu::Site{ __FILE__, __LINE__ })

// ---- who am I: constant while one CUDA thread runs its kernel
uint3 thread_index() __attribute__((const));
uint3 block_index() __attribute__((const));
uint3 block_extent() __attribute__((const));
uint3 grid_extent() __attribute__((const));

// ---- threads meeting
void     block_sync(Site site);
int      block_sync_or(int predicate, Site site);
int      block_sync_and(int predicate, Site site);
int      block_sync_count(int predicate, Site site);
void     named_barrier(int id, int threads, bool wait, Site site);
void     warp_sync(Site site, uint32_t mask = 0xFFFFFFFFu);
uint32_t warp_ballot(uint32_t mask, bool predicate, Site site);
enum ShuffleMode { SHUFFLE_INDEX, SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_XOR };
uint64_t warp_shuffle(ShuffleMode mode, uint32_t mask, uint64_t value, int lane, int width, Site site);

// ---- shared memory: slices of a window per block, with red zones between them and addresses of 32 bits
void    *shared_static(const void *tag, size_t bytes, size_t align, const char *name, Site site);
void    *shared_dynamic();
uint32_t shared_offset(const void *p);              // what __cvta_generic_to_shared gives

// Checks an atomic access, lets other threads run before it where the schedule wants that, and returns p.
void *atomic_access(void *p, size_t bytes, Site site);
void  memory_fence(Site site);                      // __threadfence

// ---- launches
struct Launch {
    const char *name, *file;                        // the kernel as LAUNCH spells it, and the file of the LAUNCH
    uint3       grid, block;
    unsigned    cluster;                            // blocks per cluster, along x
    size_t      shared;
    void      (*invoke)(const void *kernel_call);   // one CUDA thread: calls the kernel
    const void *kernel_call;                        // where its arguments lie
    size_t      kernel_call_bytes;
};
const char *launch_refused(const Launch &l);        // what CUDA would say of the configuration; NULL: nothing
void launch_run(const Launch &l);
void launch_failed(Stream *s, const Launch &l, const char *why);

template <typename... Params> struct KernelCall {
    Launch launch;
    void (*kernel)(Params...);
    std::tuple<Params...> parameters;
    // Not instrumented: reading the parameters is the hardware's work.
    __attribute__((noinline, no_sanitize("thread"))) static void invoke(const void *call) {
        const KernelCall *c = static_cast<const KernelCall *>(call);
        std::apply(c->kernel, c->parameters);
    }
    static void run(void *call) { launch_run(static_cast<KernelCall *>(call)->launch); }
    static void release(void *call) { delete static_cast<KernelCall *>(call); }
};

template <typename... Params, typename... Args>
static void launch(Stream *s, const char *name, const char *file, unsigned cluster, void (*kernel)(Params...),
                   dim3 grid, dim3 block, size_t shared, Args &&...args) {
    typedef KernelCall<Params...> Call;
    if (launch_log) launch_log_add(name, nullptr, (int)(block.x * block.y * block.z), shared);
    Call *c = new Call{ { name, file, { grid.x, grid.y, grid.z }, { block.x, block.y, block.z }, cluster, shared,
                          Call::invoke, nullptr, sizeof(Call) },
                        kernel, std::tuple<Params...>(Params(args)...) };
    c->launch.kernel_call = c;
    if (const char *why = launch_refused(c->launch)) {
        launch_failed(s, c->launch, why);
        Call::release(c);
        return;
    }
    emu_queue_launch(s, Call::run, c, Call::release);
}

// A bit copy that the compiler does inline; the caller's types have the same size.
template <typename To, typename From> static inline To bits_as(From v) {
    static_assert(sizeof(To) == sizeof(From), "bits_as keeps the size");
    To r;
    __builtin_memcpy(&r, &v, sizeof r);
    return r;
}

template <typename T>
static inline T shuffle(ShuffleMode mode, Site site, uint32_t mask, T v, int lane, int width = 32) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "shuffles move 4 or 8 bytes");
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &v, sizeof v);
    bits = warp_shuffle(mode, mask, bits, lane, width, site);
    __builtin_memcpy(&v, &bits, sizeof v);
    return v;
}

// Read, modify, write as one. Not instrumented: atomic_access() has told the checker.
template <typename T, typename F>
__attribute__((noinline, no_sanitize("thread"))) static T atomic_update(T *p, F f, Site site) {
    static_assert(std::is_integral<T>::value, "float atomics have no fixed order: not allowed in kernels");
    p = static_cast<T *>(atomic_access(p, sizeof(T), site));
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p, &old, f(old), true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return old;
}
template <typename T> struct Same { typedef T type; };      // keeps a parameter out of template deduction
template <typename T> static inline T atomic_add(T *p, typename Same<T>::type v, Site site) {
    return atomic_update(p, [=](T old) { return (T)(old + v); }, site);
}
template <typename T> static inline T atomic_max(T *p, typename Same<T>::type v, Site site) {
    return atomic_update(p, [=](T old) { return old > v ? old : v; }, site);
}
template <typename T> static inline T atomic_min(T *p, typename Same<T>::type v, Site site) {
    return atomic_update(p, [=](T old) { return old < v ? old : v; }, site);
}
template <typename T> static inline T atomic_exchange(T *p, typename Same<T>::type v, Site site) {
    return atomic_update(p, [=](T) { return (T)v; }, site);
}
template <typename T>
static inline T atomic_cas(T *p, typename Same<T>::type is, typename Same<T>::type v, Site site) {
    return atomic_update(p, [=](T old) { return old == is ? (T)v : old; }, site);
}
}  // namespace emu

#define threadIdx (emu::thread_index())
#define blockIdx  (emu::block_index())
#define blockDim  (emu::block_extent())
#define gridDim   (emu::grid_extent())
#define warpSize  32

#define SHARED(T, name, n)                                                                                          \
    static char name##_tag;                                                                                         \
    T(&name)[n] = *reinterpret_cast<T(*)[n]>(emu::shared_static(&name##_tag, sizeof(T[n]), alignof(T), #name, EMU_SITE))
#define DYNAMIC_SHARED(T, name) T *name = reinterpret_cast<T *>(emu::shared_dynamic())
#define EMU_KERNEL_NAME_(...) __VA_ARGS__
#define LAUNCH(s, kernel, grid, block, shared, ...)                                                                 \
    emu::launch(s, #kernel, __FILE__, 1, EMU_KERNEL_NAME_ kernel, grid, block, shared, __VA_ARGS__)
#define LAUNCH_CLUSTER(s, cluster, kernel, grid, block, shared, ...)                                                \
    emu::launch(s, #kernel, __FILE__, cluster, EMU_KERNEL_NAME_ kernel, grid, block, shared, __VA_ARGS__)

#define __syncthreads()          emu::block_sync(EMU_SITE)
#define __syncthreads_or(p)      emu::block_sync_or(p, EMU_SITE)
#define __syncthreads_and(p)     emu::block_sync_and(p, EMU_SITE)
#define __syncthreads_count(p)   emu::block_sync_count(p, EMU_SITE)
#define BLOCK_BARRIER(id, n)     emu::named_barrier(id, n, true, EMU_SITE)
#define BLOCK_ARRIVE(id, n)      emu::named_barrier(id, n, false, EMU_SITE)
#define STORE_GLOBAL(p, v)       (*(p) = (v))
#define __syncwarp(...)          emu::warp_sync(EMU_SITE __VA_OPT__(,) __VA_ARGS__)
#define __shfl_sync(mask, ...)      emu::shuffle(emu::SHUFFLE_INDEX, EMU_SITE, mask, __VA_ARGS__)
#define __shfl_up_sync(mask, ...)   emu::shuffle(emu::SHUFFLE_UP, EMU_SITE, mask, __VA_ARGS__)
#define __shfl_down_sync(mask, ...) emu::shuffle(emu::SHUFFLE_DOWN, EMU_SITE, mask, __VA_ARGS__)
#define __shfl_xor_sync(mask, ...)  emu::shuffle(emu::SHUFFLE_XOR, EMU_SITE, mask, __VA_ARGS__)
#define __ballot_sync(mask, p)   emu::warp_ballot(mask, (p) != 0, EMU_SITE)
#define __any_sync(mask, p)      (emu::warp_ballot(mask, (p) != 0, EMU_SITE) != 0)
#define __all_sync(mask, p)      (emu::warp_ballot(mask, (p) == 0, EMU_SITE) == 0)
#define atomicAdd(p, v)          emu::atomic_add(p, v, EMU_SITE)
#define atomicMax(p, v)          emu::atomic_max(p, v, EMU_SITE)
#define atomicMin(p, v)          emu::atomic_min(p, v, EMU_SITE)
#define atomicExch(p, v)         emu::atomic_exchange(p, v, EMU_SITE)
#define atomicCAS(p, is, v)      emu::atomic_cas(p, is, v, EMU_SITE)
#define __threadfence()          emu::memory_fence(EMU_SITE)

// ---- arithmetic. The approximate intrinsics are the exact functions here.
static inline int      __popc(unsigned v) { return __builtin_popcount(v); }
static inline int      __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
static inline int      __ffs(int v) { return __builtin_ffs(v); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline unsigned __float_as_uint(float v) { return emu::bits_as<unsigned>(v); }
static inline float    __uint_as_float(unsigned v) { return emu::bits_as<float>(v); }
static inline int      __float_as_int(float v) { return emu::bits_as<int>(v); }
static inline float    __int_as_float(int v) { return emu::bits_as<float>(v); }
static inline float    __fdividef(float a, float b) { return a / b; }
template <typename T> static inline T __ldg(const T *p) { return *p; }
template <typename A, typename B> static inline typename std::common_type<A, B>::type min(A a, B b) {
    typedef typename std::common_type<A, B>::type T;
    return (T)b < (T)a ? (T)b : (T)a;
}
template <typename A, typename B> static inline typename std::common_type<A, B>::type max(A a, B b) {
    typedef typename std::common_type<A, B>::type T;
    return (T)a < (T)b ? (T)b : (T)a;
}
// glibc declares functions of these names; the words must not be those.
static inline float emu_expf_approx(float v) { return expf(v); }
static inline float emu_rsqrtf(float v) { return 1.0f / sqrtf(v); }
#define __expf emu_expf_approx
#define rsqrtf emu_rsqrtf

DEVICE float bf16_float(bf16 v) { return __uint_as_float((uint32_t)v.bits << 16); }
DEVICE bf16  float_bf16(float f) {          // to nearest, ties to even; a NaN becomes 0x7FFF, as cvt.rn.bf16.f32 has it
    uint32_t b = __float_as_uint(f);
    if ((b & 0x7FFFFFFFu) > 0x7F800000u) return { 0x7FFF };
    return { (uint16_t)((b + 0x7FFFu + (b >> 16 & 1u)) >> 16) };
}
DEVICE uint32_t pack_bf16(float low, float high) {
    return (uint32_t)float_bf16(low).bits | (uint32_t)float_bf16(high).bits << 16;
}
DEVICE uint32_t shared_address(const void *p) { return emu::shared_offset(p); }
#if __has_include("kernels/emu/mma.h")
#include "kernels/emu/mma.h"
#endif
#endif
