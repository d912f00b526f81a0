// kernels/pointwise/pointwise.cu - element-wise work, a vector per image, copies and means.
//
// Everything here is bound by memory: a thread reads eight elements per operand with 16-byte loads and writes them with
// 16-byte stores, each byte once, 32 KB in flight per multiprocessor. Rows of odd length or odd stride go through the
// same kernels one element at a time. Sums go through two kernels, pieces first, then the pieces in their order.
#include "kernels/common/vector.cuh"
#include "kernels/pointwise/pointwise.h"

// ---- y[r,j] = f(a[r,j], b[r,j]). A thread reads all it needs before it writes: y may be a or b.
struct Sum      { static constexpr int operands = 2; };
struct Scale    { static constexpr int operands = 1; };
struct Multiply { static constexpr int operands = 2; };
struct Silu     { static constexpr int operands = 1; };
struct SiluGrad { static constexpr int operands = 2; };
struct Relu     { static constexpr int operands = 1; };
struct ReluGrad { static constexpr int operands = 2; };
struct Fill     { static constexpr int operands = 0; };

template <typename T> DEVICE float value(Sum, const PointwiseShape &z, float a, float b)
{ return z.alpha * a + z.beta * b; }
template <typename T> DEVICE float value(Scale, const PointwiseShape &z, float a, float)      { return z.alpha * a; }
template <typename T> DEVICE float value(Multiply, const PointwiseShape &, float a, float b)  { return a * b; }
template <typename T> DEVICE float value(Silu, const PointwiseShape &, float a, float)        { return silu_of<T>(a); }
template <typename T> DEVICE float value(SiluGrad, const PointwiseShape &, float a, float b)
{ return a * silu_slope_of<T>(b); }
template <typename T> DEVICE float value(Relu, const PointwiseShape &, float a, float)        { return a <= 0 ? 0 : a; }
template <typename T> DEVICE float value(ReluGrad, const PointwiseShape &, float a, float b)  { return b <= 0 ? 0 : a; }
template <typename T> DEVICE float value(Fill, const PointwiseShape &z, float, float)         { return z.alpha; }

template <typename Op, typename In, typename Out, int V>
static __global__ void __launch_bounds__(ROW_THREADS) pointwise_kernel(PointwiseShape z, PointwiseArgs p) {
    const In *a = static_cast<const In *>(p.a), *b = static_cast<const In *>(p.b);
    Out *y = static_cast<Out *>(p.y);
    for (ROWS(r, z.rows)) {
        for (COLUMNS(j, z.c, V)) {
            Vec<V> va = {}, vb = {}, vy;
            if constexpr (Op::operands > 0) va = load_some<V>(a + r * z.lda + j, z.c - j);
            if constexpr (Op::operands > 1) vb = load_some<V>(b + r * z.ldb + j, z.c - j);
            for (int i = 0; i < V; i++) vy.v[i] = value<In>(Op(), z, va.v[i], vb.v[i]);
            store_some<V>(y + r * z.ldy + j, vy, z.c - j);
        }
    }
}

static bool can_pointwise(const PointwiseShape *z) { return is_stored(z->dtype) && is_stored(z->out); }

template <typename Op> static void pointwise(Stream *s, const PointwiseShape *given, const PointwiseArgs *a) {
    PointwiseShape z = *given;
    bool dense = z.ldy == z.c && (Op::operands < 1 || z.lda == z.c) && (Op::operands < 2 || z.ldb == z.c);
    if (dense) {
        z.c *= z.rows;
        z.rows = 1;
    }
    int64_t many = dense ? 16 : 1;                       // strides matter from row to row only
    bool vector = is_vector(a->y, z.ldy * many, z.out);
    if (Op::operands > 0) vector = vector && is_vector(a->a, z.lda * many, z.dtype);
    if (Op::operands > 1) vector = vector && is_vector(a->b, z.ldb * many, z.dtype);
    by_width(vector, [&](auto width) {
        constexpr int V = decltype(width)::value;
        RowGrid g = row_grid(z.rows, z.c, V);
        by_type(z.dtype, [&](auto in) {
            by_type(z.out, [&](auto out) {
                LAUNCH(s, (pointwise_kernel<Op, decltype(in), decltype(out), V>), g.grid, g.block, 0, z, *a);
            });
        });
    });
}

static void axpby_run(Stream *s, const PointwiseShape *z, const PointwiseArgs *a, Work) {
    if (a->b) pointwise<Sum>(s, z, a);
    else pointwise<Scale>(s, z, a);
}
static void multiply_run(Stream *s, const PointwiseShape *z, const PointwiseArgs *a, Work) {
    pointwise<Multiply>(s, z, a);
}
static void silu_run(Stream *s, const PointwiseShape *z, const PointwiseArgs *a, Work) { pointwise<Silu>(s, z, a); }
static void silu_backward_run(Stream *s, const PointwiseShape *z, const PointwiseArgs *a, Work) {
    pointwise<SiluGrad>(s, z, a);
}
static void relu_run(Stream *s, const PointwiseShape *z, const PointwiseArgs *a, Work) { pointwise<Relu>(s, z, a); }
static void relu_backward_run(Stream *s, const PointwiseShape *z, const PointwiseArgs *a, Work) {
    pointwise<ReluGrad>(s, z, a);
}
static void fill_run(Stream *s, const PointwiseShape *z, const PointwiseArgs *a, Work) {
    PointwiseShape own = *z;
    own.dtype = z->out;                                  // reads nothing: one kernel per output type is enough
    pointwise<Fill>(s, &own, a);
}

// ---- a vector per image: y[i,p,k] = x[i mod n,p,k] + v[i,k]. A thread keeps its channels of v for all its pixels.
template <typename T, int V>
static __global__ void __launch_bounds__(ROW_THREADS) add_channel_kernel(AddChannelShape z, AddChannelArgs a) {
    const T *x = static_cast<const T *>(a.x);
    T *y = static_cast<T *>(a.y);
    int64_t image = (int64_t)z.hw * z.c, pixels = (int64_t)gridDim.z * blockDim.y;
    for (int64_t i = blockIdx.y; i < (int64_t)z.n * z.copies; i += gridDim.y) {
        int64_t from = i % z.n * image;
        for (COLUMNS(k, z.c, V)) {
            Vec<V> v = load_vec<V>(a.v + i * z.c + k);
            for (int64_t p = (int64_t)blockIdx.z * blockDim.y + threadIdx.y; p < z.hw; p += pixels) {
                Vec<V> r = load_vec<V>(x + from + p * z.c + k);
                for (int e = 0; e < V; e++) r.v[e] += v.v[e];
                store_vec<V>(y + i * image + p * z.c + k, r);
            }
        }
    }
}

static bool can_add_channel(const AddChannelShape *z) { return z->layout == LAYOUT_NHWC && is_stored(z->dtype); }

static void add_channel(Stream *s, const AddChannelShape *z, const AddChannelArgs *a, Work) {
    bool vector = z->c % 8 == 0 && is_vector(a->x, z->c, z->dtype) && is_vector(a->y, z->c, z->dtype) &&
                  is_vector(a->v, z->c, DT_F32);
    by_width(vector, [&](auto width) {
        constexpr int V = decltype(width)::value;
        RowGrid g = row_grid(z->hw, z->c, V);
        dim3 grid(g.grid.x, grid_of((int64_t)z->n * z->copies, 1, 32768), grid_of(z->hw, g.block.y * 4, 256));
        by_type(z->dtype, [&](auto one) {
            LAUNCH(s, (add_channel_kernel<decltype(one), V>), grid, g.block, 0, *z, *a);
        });
    });
}

// ---- its backward. A block owns some channels of one image of x and of all its copies: threads (vectors of channels,
// lanes of pixels). dy is read once: dv sums each copy over the pixels, in registers and then over the lanes in shared
// memory, and dx sums the copies. That is for COPIES 1 and 2; more take a block each for dv, and dx is a kernel of its
// own.
enum { SUM_VECTORS = 8 };                                // columns of a block / V: 64 channels, one line of bf16

template <typename T, int V, int COPIES>
static __global__ void __launch_bounds__(ROW_THREADS, 4) add_channel_grad_kernel(AddChannelShape z,
                                                                                 AddChannelGradArgs a) {
    constexpr int lanes = ROW_THREADS / SUM_VECTORS, wide = SUM_VECTORS * V;
    SHARED(float, part, lanes * wide);
    const T *dy = static_cast<const T *>(a.dy);
    T *dx = static_cast<T *>(a.dx);
    int64_t image = (int64_t)z.hw * z.c, size = z.n * image;
    int column = (int)threadIdx.x * V, tid = (int)(threadIdx.y * SUM_VECTORS + threadIdx.x);
    int64_t k0 = (int64_t)blockIdx.x * wide, k = k0 + column;
    for (int64_t i = blockIdx.y; i < z.n; i += gridDim.y) {
        Vec<V> sum[COPIES] = {};
        for (int64_t p = threadIdx.y; k < z.c && p < z.hw; p += lanes) {
            int64_t at = i * image + p * z.c + k;
            Vec<V> total = {};
            for (int copy = 0; copy < COPIES; copy++) {
                Vec<V> d = load_vec<V>(dy + copy * size + at);
                for (int e = 0; e < V; e++) {
                    sum[copy].v[e] += d.v[e];
                    total.v[e] += d.v[e];
                }
            }
            if (dx) store_vec<V>(dx + at, total);
        }
        for (int copy = 0; copy < COPIES; copy++) {
            for (int e = 0; e < V; e++) part[threadIdx.y * wide + column + e] = sum[copy].v[e];
            __syncthreads();
            if (tid < wide && k0 + tid < z.c) {
                float own = 0;
                for (int l = 0; l < lanes; l++) own += part[l * wide + tid];
                a.dv[(copy * (int64_t)z.n + i) * z.c + k0 + tid] = own;
            }
            __syncthreads();
        }
    }
}

template <typename T, int V>
static __global__ void __launch_bounds__(ROW_THREADS) sum_copies_kernel(int64_t size, int copies, const T *dy, T *dx) {
    for (COLUMNS(j, size, V)) {
        Vec<V> sum = {};
        for (int copy = 0; copy < copies; copy++) {
            Vec<V> d = load_vec<V>(dy + copy * size + j);
            for (int e = 0; e < V; e++) sum.v[e] += d.v[e];
        }
        store_vec<V>(dx + j, sum);
    }
}

static void add_channel_grad(Stream *s, const AddChannelShape *z, const AddChannelGradArgs *a, Work) {
    bool vector = z->c % 8 == 0 && is_vector(a->dy, z->c, z->dtype) && is_vector(a->dx, z->c, z->dtype);
    by_width(vector, [&](auto width) {
        constexpr int V = decltype(width)::value;
        dim3 block(SUM_VECTORS, ROW_THREADS / SUM_VECTORS);
        unsigned x = (unsigned)ceil_div(z->c, SUM_VECTORS * V);
        by_type(z->dtype, [&](auto one) {
            using T = decltype(one);
            AddChannelShape own = *z;
            AddChannelGradArgs args = *a;
            if (z->copies > 2) {                         // every copy an image of its own
                own.n = z->n * z->copies;
                args.dx = NULL;
            }
            dim3 grid(x, grid_of(own.n, 1, 32768));
            if (z->copies == 2) LAUNCH(s, (add_channel_grad_kernel<T, V, 2>), grid, block, 0, own, args);
            else                LAUNCH(s, (add_channel_grad_kernel<T, V, 1>), grid, block, 0, own, args);
            if (z->copies > 2 && a->dx) {
                int64_t size = (int64_t)z->n * z->hw * z->c;
                RowGrid g = run_grid(size, V);
                LAUNCH(s, (sum_copies_kernel<T, V>), g.grid, g.block, 0, size, z->copies,
                       static_cast<const T *>(a->dy), static_cast<T *>(a->dx));
            }
        });
    });
}

// ---- relayout: between row-major tensors a copy, 16 bytes at a time
static __global__ void __launch_bounds__(ROW_THREADS) copy_kernel(int64_t bytes, const uint8_t *x, uint8_t *y) {
    for (COLUMNS(j, bytes, 16)) {
        if (j + 16 <= bytes) {
            STORE_GLOBAL(reinterpret_cast<uint4 *>(y + j), *reinterpret_cast<const uint4 *>(x + j));
        } else {
            for (int64_t e = j; e < bytes; e++) y[e] = x[e];
        }
    }
}

static bool can_relayout(const RelayoutShape *z) { return z->from == LAYOUT_NHWC && z->to == LAYOUT_NHWC; }

static void relayout_run(Stream *s, const RelayoutShape *z, const RelayoutArgs *a, Work) {
    int64_t bytes = (int64_t)z->n * z->hw * z->c * (int64_t)dtype_size(z->dtype);
    RowGrid g = run_grid(bytes, 16);
    LAUNCH(s, (copy_kernel), g.grid, g.block, 0, bytes, static_cast<const uint8_t *>(a->x),
           static_cast<uint8_t *>(a->y));
}

// ---- mean: a sum per piece, then the pieces. Scratch: the pieces' sums.
enum { MEAN_PIECE = 1 << 14 };

template <typename T, int V>
static __global__ void __launch_bounds__(ROW_THREADS) mean_pieces_kernel(int64_t e, const T *x, double *part) {
    SHARED(double, slot, ROW_THREADS);
    int64_t begin = (int64_t)blockIdx.x * MEAN_PIECE, end = min(e, begin + MEAN_PIECE);
    double sum = 0;
    for (int64_t j = begin + threadIdx.x * V; j < end; j += ROW_THREADS * V) {
        Vec<V> v = load_some<V>(x + j, end - j);
        for (int i = 0; i < V; i++) sum += (double)v.v[i];
    }
    sum = block_tree_sum(sum, slot);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}
static __global__ void __launch_bounds__(ROW_THREADS) mean_total_kernel(int64_t e, int64_t pieces, const double *part,
                                                                 float *y) {
    SHARED(double, slot, ROW_THREADS);
    double sum = 0;
    for (int64_t j = threadIdx.x; j < pieces; j += ROW_THREADS) sum += part[j];
    sum = block_tree_sum(sum, slot);
    if (threadIdx.x == 0) y[0] = (float)(sum / (double)e);
}
template <typename T, int V>
static __global__ void __launch_bounds__(ROW_THREADS) mean_grad_kernel(int64_t e, const float *dy, T *dx) {
    Vec<V> v;
    for (int i = 0; i < V; i++) v.v[i] = dy[0] / (float)e;
    for (COLUMNS(j, e, V)) store_some<V>(dx + j, v, e - j);
}

static bool can_mean(const MeanShape *z) { return is_stored(z->dtype); }
static size_t mean_scratch(const MeanShape *z) { return (size_t)ceil_div(z->e, MEAN_PIECE) * sizeof(double); }

static void mean(Stream *s, const MeanShape *z, const MeanArgs *a, Work w) {
    int64_t pieces = ceil_div(z->e, MEAN_PIECE);
    double *part = static_cast<double *>(w.scratch);
    by_width(is_vector(a->x, 0, z->dtype), [&](auto width) {
        by_type(z->dtype, [&](auto one) {
            using T = decltype(one);
            LAUNCH(s, (mean_pieces_kernel<T, decltype(width)::value>), dim3((unsigned)pieces), dim3(ROW_THREADS), 0,
                   z->e, static_cast<const T *>(a->x), part);
        });
    });
    LAUNCH(s, (mean_total_kernel), dim3(1), dim3(ROW_THREADS), 0, z->e, pieces, part, a->y);
}

static void mean_grad(Stream *s, const MeanShape *z, const MeanGradArgs *a, Work) {
    by_width(is_vector(a->dx, 0, z->dtype), [&](auto width) {
        constexpr int V = decltype(width)::value;
        RowGrid g = run_grid(z->e, V);
        by_type(z->dtype, [&](auto one) {
            using T = decltype(one);
            LAUNCH(s, (mean_grad_kernel<T, V>), g.grid, g.block, 0, z->e, a->dy, static_cast<T *>(a->dx));
        });
    });
}

// ---- registration
#define GENERAL(launcher, can, run) IMPL_FULL(launcher, "rows", 100, 0, 0, can, NULL, NULL, run, NULL)
IMPLS(pointwise,
    GENERAL(axpby, can_pointwise, axpby_run),
    GENERAL(multiply, can_pointwise, multiply_run),
    GENERAL(silu_forward, can_pointwise, silu_run),
    GENERAL(silu_backward, can_pointwise, silu_backward_run),
    GENERAL(relu_forward, can_pointwise, relu_run),
    GENERAL(relu_backward, can_pointwise, relu_backward_run),
    GENERAL(fill, can_pointwise, fill_run),
    GENERAL(add_channel_forward, can_add_channel, add_channel),
    GENERAL(add_channel_backward, can_add_channel, add_channel_grad),
    IMPL_FULL(relayout, "copy", 100, 0, 0, can_relayout, NULL, NULL, relayout_run, NULL),
    IMPL_FULL(mean_forward, "pieces", 100, 0, 0, can_mean, mean_scratch, NULL, mean, NULL),
    GENERAL(mean_backward, can_mean, mean_grad))
