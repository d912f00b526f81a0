// kernels/common/vector.cuh - what the kernels that only move memory share: eight elements at a time, and grids over
// rows of elements.
//
// A thread takes V consecutive elements of a row: V = 8 with 16-byte accesses (one for bf16, two for float), where
// pointers and strides allow it, else V = 1. A grid covers (rows, columns); every kernel walks the rest in strides of
// the grid, so that no shape is too large for it and no index needs a division.
#ifndef KERNELS_VECTOR_CUH
#define KERNELS_VECTOR_CUH
#include "kernels/common/device.cuh"

template <int V> struct Vec { float v[V]; };             // V elements as the accumulator sees them

template <int V> DEVICE Vec<V> load_vec(const float *p) {
    if constexpr (V == 1) {
        return { { *p } };
    } else {
        static_assert(V == 8, "two times 16 bytes");
        float4 a = load4(p), b = load4(p + 4);
        return { { a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w } };
    }
}
template <int V> DEVICE Vec<V> load_vec(const bf16 *p) {
    if constexpr (V == 1) {
        return { { bf16_float(*p) } };
    } else {
        static_assert(V == 8, "16 bytes");
        uint4 w = *reinterpret_cast<const uint4 *>(p);
        return { { bf16_low(w.x), bf16_high(w.x), bf16_low(w.y), bf16_high(w.y),
                   bf16_low(w.z), bf16_high(w.z), bf16_low(w.w), bf16_high(w.w) } };
    }
}

// Four elements to global memory, p aligned to all of them.
DEVICE void store_four(float *p, float4 v) { STORE_GLOBAL(reinterpret_cast<float4 *>(p), v); }
DEVICE void store_four(bf16 *p, float4 v) {
    STORE_GLOBAL(reinterpret_cast<uint2 *>(p), make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w)));
}
template <int V> DEVICE void store_vec(float *p, const Vec<V> &r) {
    if constexpr (V == 1) {
        *p = r.v[0];
    } else {
        for (int i = 0; i < V; i += 4) store_four(p + i, make_float4(r.v[i], r.v[i + 1], r.v[i + 2], r.v[i + 3]));
    }
}
template <int V> DEVICE void store_vec(bf16 *p, const Vec<V> &r) {
    if constexpr (V == 1) {
        *p = float_bf16(r.v[0]);
    } else {
        STORE_GLOBAL(reinterpret_cast<uint4 *>(p), make_uint4(pack_bf16(r.v[0], r.v[1]), pack_bf16(r.v[2], r.v[3]),
                                                              pack_bf16(r.v[4], r.v[5]), pack_bf16(r.v[6], r.v[7])));
    }
}

// The same where only `count` elements are left of a row: the others are read as zero and not written.
template <int V, typename T> DEVICE Vec<V> load_some(const T *p, int64_t count) {
    if (count >= V) return load_vec<V>(p);
    Vec<V> r;
    for (int i = 0; i < V; i++) r.v[i] = i < count ? load_real(p + i) : 0.0f;
    return r;
}
template <int V, typename T> DEVICE void store_some(T *p, const Vec<V> &r, int64_t count) {
    if (count >= V) {
        store_vec<V>(p, r);
        return;
    }
    for (int i = 0; i < V; i++) {
        if (i < count) store_real(p + i, r.v[i]);
    }
}

// Four elements of a row of which `count` are left; aligned: rows are multiples of four, so that four are left always.
template <typename T> DEVICE float4 load_block(const T *p, int64_t count, bool aligned) {
    if (aligned) return load4(p);
    float v[4];
    for (int i = 0; i < 4; i++) v[i] = i < count ? load_real(p + i) : 0.0f;
    return make_float4(v[0], v[1], v[2], v[3]);
}
template <typename T> DEVICE void store_block(T *p, float4 v, int64_t count, bool aligned) {
    if (aligned) {
        store_four(p, v);
        return;
    }
    const float own[4] = { v.x, v.y, v.z, v.w };
    for (int i = 0; i < 4; i++) {
        if (i < count) store_real(p + i, own[i]);
    }
}

// ---- SiLU as accurate as its storage needs: bf16 rounds at 2^-9, where the hardware's exponential, wrong by less than
// 2^-19 for |x| < 88, cannot be seen. Beyond that 1 + e^-x is infinite and the quotient 0, as it should be.
template <typename T> DEVICE float sigmoid_of(float x) {
    if constexpr (sizeof(T) == sizeof(float)) return sigmoid(x);
    else return __fdividef(1.0f, 1.0f + __expf(-x));
}
template <typename T> DEVICE float silu_of(float x) { return x * sigmoid_of<T>(x); }
template <typename T> DEVICE float silu_slope_of(float x) {
    if constexpr (sizeof(T) == sizeof(float)) {
        return silu_slope(x);
    } else {
        float e = __expf(fminf(-x, 87.0f)), s = __fdividef(1.0f, 1.0f + e);
        return s + (x * s) * (e * s);
    }
}

// Over the whole block, a power of two of threads, in a fixed order; slot: one element per thread, free before and
// after. Every thread gets the sum.
template <typename T> DEVICE T block_tree_sum(T v, T *slot) {
    int t = (int)threadIdx.x;
    slot[t] = v;
    __syncthreads();
    for (int half = (int)blockDim.x / 2; half; half /= 2) {
        if (t < half) slot[t] += slot[t + half];
        __syncthreads();
    }
    T sum = slot[0];
    __syncthreads();
    return sum;
}

// ---- grids: columns of a row along x, V to a thread; rows along y. A block is as wide as the row, up to 256 threads,
// and takes several rows where that is less; kernels of one run launched with run_grid() know no rows.
struct RowGrid { dim3 grid, block; };
enum { ROW_THREADS = 256 };

static inline RowGrid row_grid(int64_t rows, int64_t columns, int v) {
    int64_t items = ceil_div(columns, v);
    unsigned x = 1;
    while (x < ROW_THREADS && x < items) x *= 2;
    unsigned y = ROW_THREADS / x;
    return { dim3(grid_of(items, x, 16384), grid_of(rows, y, 32768)), dim3(x, y) };
}
// Of one run of n elements.
static inline RowGrid run_grid(int64_t n, int v) {
    return { dim3(grid_of(n, ROW_THREADS * v, 16384)), dim3(ROW_THREADS) };
}
// for (ROWS(r, rows)) for (COLUMNS(j, columns, V)) ...
#define ROWS(r, rows)                                                                                               \
    int64_t r = (int64_t)blockIdx.y * blockDim.y + threadIdx.y; r < (rows); r += (int64_t)gridDim.y * blockDim.y
#define COLUMNS(j, columns, v)                                                                                      \
    int64_t j = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * (v); j < (columns);                              \
    j += (int64_t)gridDim.x * blockDim.x * (v)

// ---- host: which kernel
// Rows of `ld` elements from p can be read 16 bytes at a time. Absent operands can.
static inline bool is_vector(const void *p, int64_t ld, DType dt) {
    return !p || ((uintptr_t)p % 16 == 0 && ld * (dt == DT_BF16 ? 2 : 4) % 16 == 0);
}
static inline bool is_stored(DType dt) { return dt == DT_F32 || dt == DT_BF16; }

// f(a value of the type that dt stores): by_type(z->dtype, [&](auto one) { using T = decltype(one); ... }).
template <typename F> static void by_type(DType dt, F f) {
    if (dt == DT_BF16) f(bf16());
    else f(0.0f);
}
// The same for the width of a vector: f(std::integral_constant-like V).
template <int N> struct Width { static constexpr int value = N; };
template <typename F> static void by_width(bool vector, F f) {
    if (vector) f(Width<8>());
    else f(Width<1>());
}
#endif
