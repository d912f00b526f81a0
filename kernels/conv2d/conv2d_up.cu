// kernels/conv2d/conv2d_up.cu - upsampling and convolution as the transposed convolution with folded taps.
//
// conv2d_up.h's g is made in scratch as (c,4,4,k), the filter of a 4x4 convolution of stride 2, and that convolution's
// own kernels do the products: y is its input gradient (four phases of pixels, each with four taps), dx its output, dg
// the gradient of its filter. So each engine of conv2d is one here, under its own name; what remains is folding w and
// unfolding dg, two passes over a filter.
#include <stdlib.h>
#include "kernels/conv2d/conv2d_sums.cuh"
#include "kernels/conv2d/conv2d_up.h"

// ---- folding. A block has 16 channels c and 32 of k; filters lie across: w has c innermost, g has k.
enum { FOLD_C = 16, FOLD_K = 32, FOLD_LD = FOLD_K + 4, FOLD_THREADS = 128, TAPS = CONV_UP_TAPS };
struct FoldPlace { int c, k; };              // a quad's first channel of one kind, its channel of the other
DEVICE FoldPlace quad_of_c() { return { (int)threadIdx.x % (FOLD_C / 4) * 4, (int)threadIdx.x / (FOLD_C / 4) }; }
DEVICE FoldPlace quad_of_k() { return { (int)threadIdx.x / (FOLD_K / 4), (int)threadIdx.x % (FOLD_K / 4) * 4 }; }

DEVICE float rounded_to(DType dt, float v) {
    if (dt != DT_BF16) return v;
    bf16 stored;
    store_real(&stored, v);
    return load_real(&stored);
}

// w (k,3,3,c) of type dt -> g (c,4,4,k), rounded to dt, stored as g_type.
template <typename E> static __global__ void __launch_bounds__(FOLD_THREADS)
conv_fold_kernel(const void *w, DType dt, void *g, DType g_type, int c, int k) {
    SHARED(float, filter, 9 * FOLD_C * FOLD_LD);             // (9,c,k)
    int c0 = (int)blockIdx.x * FOLD_C, k0 = (int)blockIdx.y * FOLD_K;
    FoldPlace from = quad_of_c(), to = quad_of_k();
    for (int tap = 0; tap < 9; tap++) {
        int64_t at = ((int64_t)(k0 + from.k) * 9 + tap) * c + c0 + from.c;
        float4 v = load_quad<E>(w, dt, at, k0 + from.k < k ? c - c0 - from.c : 0);
#pragma unroll
        for (int i = 0; i < 4; i++) filter[(tap * FOLD_C + from.c + i) * FOLD_LD + from.k] = quad_part(v, i);
    }
    __syncthreads();
    if (c0 + to.c >= c) return;
    float4 tap[3][3];
#pragma unroll
    for (int r = 0; r < 3; r++)
#pragma unroll
        for (int s = 0; s < 3; s++) tap[r][s] = load4(filter + ((r * 3 + s) * FOLD_C + to.c) * FOLD_LD + to.k);
#pragma unroll
    for (int v = 0; v < TAPS; v++)
#pragma unroll
        for (int u = 0; u < TAPS; u++) {
            float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
            for (int r = 2 - v < 0 ? 0 : 2 - v; r <= 3 - v && r < 3; r++)
#pragma unroll
                for (int s = 2 - u < 0 ? 0 : 2 - u; s <= 3 - u && s < 3; s++) sum = quad_add(sum, tap[r][s]);
            sum = make_float4(rounded_to(dt, sum.x), rounded_to(dt, sum.y), rounded_to(dt, sum.z),
                              rounded_to(dt, sum.w));
            int64_t at = ((int64_t)(c0 + to.c) * TAPS * TAPS + v * TAPS + u) * k + k0 + to.k;
            if (k0 + to.k < k) store_quad<E>(g, g_type, at, k - k0 - to.k, sum);
        }
}

// dg (c,4,4,k) -> dw (k,3,3,c), = or +=.
template <typename E> static __global__ void __launch_bounds__(FOLD_THREADS)
conv_unfold_kernel(const float *dg, float *dw, int c, int k, bool accumulate) {
    SHARED(float, filter, 9 * FOLD_C * FOLD_LD);             // (9,c,k)
    int c0 = (int)blockIdx.x * FOLD_C, k0 = (int)blockIdx.y * FOLD_K;
    FoldPlace from = quad_of_k(), to = quad_of_c();
    float4 tap[TAPS][TAPS];
#pragma unroll
    for (int v = 0; v < TAPS; v++)
#pragma unroll
        for (int u = 0; u < TAPS; u++) {
            int64_t at = ((int64_t)(c0 + from.c) * TAPS * TAPS + v * TAPS + u) * k + k0 + from.k;
            tap[v][u] = load_quad<E>(dg, DT_F32, at, c0 + from.c < c ? k - k0 - from.k : 0);
        }
#pragma unroll
    for (int r = 0; r < 3; r++)
#pragma unroll
        for (int s = 0; s < 3; s++) {
            float4 upper = quad_add(tap[2 - r][2 - s], tap[2 - r][3 - s]);
            float4 lower = quad_add(tap[3 - r][2 - s], tap[3 - r][3 - s]);
            store4(filter + ((r * 3 + s) * FOLD_C + from.c) * FOLD_LD + from.k, quad_add(upper, lower));
        }
    __syncthreads();
    int count = c - c0 - to.c;
    if (k0 + to.k >= k || count <= 0) return;
    for (int t = 0; t < 9; t++) {
        const float *column = filter + (t * FOLD_C + to.c) * FOLD_LD + to.k;
        float4 sum = make_float4(column[0], column[FOLD_LD], column[2 * FOLD_LD], column[3 * FOLD_LD]);
        int64_t at = ((int64_t)(k0 + to.k) * 9 + t) * c + c0 + to.c;
        if (accumulate) sum = quad_add(load_quad<E>(dw, DT_F32, at, count), sum);
        store_quad<E>(dw, DT_F32, at, count, sum);
    }
}

static dim3 fold_grid(const Conv2dUpShape *z) {
    return dim3((unsigned)ceil_div(z->c, FOLD_C), (unsigned)ceil_div(z->k, FOLD_K));
}
static void fold(Stream *s, const Conv2dUpShape *z, const void *w, void *g) {
    bool quads = (z->c | z->k) % 4 == 0 && z->dtype == z->out && quads_aligned(w, z->dtype, 4);
    if (!quads)
        LAUNCH(s, (conv_fold_kernel<AnyReal>), fold_grid(z), FOLD_THREADS, 0, w, z->dtype, g, z->out, z->c, z->k);
    else if (z->dtype == DT_BF16)
        LAUNCH(s, (conv_fold_kernel<bf16>), fold_grid(z), FOLD_THREADS, 0, w, z->dtype, g, z->out, z->c, z->k);
    else
        LAUNCH(s, (conv_fold_kernel<float>), fold_grid(z), FOLD_THREADS, 0, w, z->dtype, g, z->out, z->c, z->k);
}
static void unfold(Stream *s, const Conv2dUpShape *z, const float *dg, float *dw, bool accumulate) {
    if ((z->c | z->k) % 4 == 0 && quads_aligned(dw, DT_F32, 4))
        LAUNCH(s, (conv_unfold_kernel<float>), fold_grid(z), FOLD_THREADS, 0, dg, dw, z->c, z->k, accumulate);
    else
        LAUNCH(s, (conv_unfold_kernel<AnyReal>), fold_grid(z), FOLD_THREADS, 0, dg, dw, z->c, z->k, accumulate);
}

// ---- the convolution that does the products: by an implementation's name and the compute capability it asks for
struct Engine { const char *name; int cc; };
static const Engine engines[] = { { "implicit_gemm", 0 }, { "mma", 80 }, { "wgmma", 90 } };
enum { IMPLICIT_GEMM, MMA, WGMMA };

static const Impl *engine_of(const Launcher *l, int engine, const Conv2dShape *t) {
    return impl_find(l, KERNEL_PASTE(DEV_, KERNEL_KIND, ), engines[engine].cc, t, engines[engine].name);
}
static size_t aligned(size_t bytes) { return (bytes + 255) & ~(size_t)255; }
static size_t filter_bytes(const Conv2dUpShape *z, DType dt) {
    return aligned((size_t)(TAPS * TAPS) * (size_t)z->c * (size_t)z->k * dtype_size(dt));
}
// Tensor maps hold the address of g, which is known here only; they are passed by value, so they need not outlive this.
static void run_engine(Stream *s, const Launcher *l, int engine, const Conv2dShape *t, const Conv2dArgs *a,
                       void *scratch) {
    const Impl *i = engine_of(l, engine, t);
    void *state = l->prepare(i, s, t, a);
    l->run(i, s, t, a, { state, scratch });
    if (i->release) i->release(state);
}

// ---- forward: scratch is g, the engine's
static Conv2dShape forward_shape(const Conv2dUpShape *z) {
    Conv2dShape t = conv2d_up_transposed(z);
    t.use = z->use;
    return t;
}
template <int ENGINE> static bool forward_can(const Conv2dUpShape *z) {
    Conv2dShape t = forward_shape(z);
    return engine_of(&conv2d_backward_input, ENGINE, &t) != NULL;
}
template <int ENGINE> static size_t forward_scratch(const Conv2dUpShape *z) {
    Conv2dShape t = forward_shape(z);
    return filter_bytes(z, z->out) + conv2d_backward_input.scratch(engine_of(&conv2d_backward_input, ENGINE, &t), &t);
}
template <int ENGINE> static void forward(Stream *s, const Conv2dUpShape *z, const Conv2dUpArgs *a, Work w) {
    Conv2dShape t = forward_shape(z);
    Conv2dArgs args = {};
    args.dy = a->x, args.w = w.scratch, args.bias = a->bias, args.dx = a->y;
    fold(s, z, a->w, w.scratch);
    run_engine(s, &conv2d_backward_input, ENGINE, &t, &args, (char *)w.scratch + filter_bytes(z, z->out));
}

// ---- backward to the input: scratch is g, the engine's
template <int ENGINE> static bool input_can(const Conv2dUpShape *z) {
    Conv2dShape t = conv2d_up_transposed(z);
    return engine_of(&conv2d_forward, ENGINE, &t) != NULL;
}
template <int ENGINE> static size_t input_scratch(const Conv2dUpShape *z) {
    Conv2dShape t = conv2d_up_transposed(z);
    return filter_bytes(z, z->out) + conv2d_forward.scratch(engine_of(&conv2d_forward, ENGINE, &t), &t);
}
template <int ENGINE> static void backward_input(Stream *s, const Conv2dUpShape *z, const Conv2dUpArgs *a, Work w) {
    Conv2dShape t = conv2d_up_transposed(z);
    Conv2dArgs args = {};
    args.x = a->dy, args.w = w.scratch, args.y = a->dx;
    fold(s, z, a->w, w.scratch);
    run_engine(s, &conv2d_forward, ENGINE, &t, &args, (char *)w.scratch + filter_bytes(z, z->out));
}

// ---- backward to the weights: scratch is dg, sums of dy, the engine's
// A 1x1 convolution whose output is y: what the sums of dy need to know.
static Conv2dShape output_shape(const Conv2dUpShape *z) {
    Conv2dShape y = {};
    y.n = z->n, y.p = 2 * z->h, y.q = 2 * z->w, y.k = z->k, y.ldy = z->ldy, y.use = z->use, y.out = z->out;
    return y;
}
template <int ENGINE> static bool weight_can(const Conv2dUpShape *z) {
    Conv2dShape t = conv2d_up_transposed(z);
    return engine_of(&conv2d_backward_weight, ENGINE, &t) != NULL;
}
static size_t before_engine(const Conv2dUpShape *z) {
    Conv2dShape y = output_shape(z);
    return filter_bytes(z, DT_F32) + conv_bias_scratch(&y);
}
template <int ENGINE> static size_t weight_scratch(const Conv2dUpShape *z) {
    Conv2dShape t = conv2d_up_transposed(z);
    return before_engine(z) + conv2d_backward_weight.scratch(engine_of(&conv2d_backward_weight, ENGINE, &t), &t);
}
template <int ENGINE> static void backward_weight(Stream *s, const Conv2dUpShape *z, const Conv2dUpArgs *a, Work w) {
    Conv2dShape t = conv2d_up_transposed(z), y = output_shape(z);
    char *scratch = (char *)w.scratch;
    Conv2dArgs sums = {}, args = {};
    sums.dy = a->dy, sums.dbias = a->dbias, sums.accumulate = a->accumulate;
    conv_bias_gradients(s, &y, &sums, (float *)(scratch + filter_bytes(z, DT_F32)));
    if (!a->dw) return;
    args.x = a->dy, args.dy = a->x, args.dw = (float *)w.scratch;
    run_engine(s, &conv2d_backward_weight, ENGINE, &t, &args, scratch + before_engine(z));
    unfold(s, z, args.dw, a->dw, a->accumulate);
}

// ---- what the engine tells, with folding w or unfolding dg beside it
static void tell(const Conv2dUpShape *z, const Launcher *l, int engine, const Conv2dShape *t, double element_bytes,
                 ImplPlan *told) {
    if (!l->plan(engine_of(l, engine, t), t, told)) *told = {};
    told->others++;
    told->others_bytes += element_bytes * (9 + TAPS * TAPS) * z->c * z->k;
}
template <int ENGINE> static void forward_plan(const Conv2dUpShape *z, ImplPlan *told) {
    Conv2dShape t = forward_shape(z);
    tell(z, &conv2d_backward_input, ENGINE, &t, 2, told);
}
template <int ENGINE> static void input_plan(const Conv2dUpShape *z, ImplPlan *told) {
    Conv2dShape t = conv2d_up_transposed(z);
    tell(z, &conv2d_forward, ENGINE, &t, 2, told);
}
template <int ENGINE> static void weight_plan(const Conv2dUpShape *z, ImplPlan *told) {
    Conv2dShape t = conv2d_up_transposed(z);
    tell(z, &conv2d_backward_weight, ENGINE, &t, 4, told);
    if (!(z->use & CONV_BIAS)) return;
    told->others += 2;
    told->others_bytes += 2.0 * z->n * (4.0 * z->h * z->w) * z->k;
}

#define ENGINE(name, order, cc, exact_cc, engine)                                                                   \
    IMPL_PLANNED(conv2d_up_forward, name, order, cc, exact_cc, forward_can<engine>, forward_scratch<engine>, NULL,  \
                 forward<engine>, NULL, forward_plan<engine>),                                                      \
    IMPL_PLANNED(conv2d_up_backward_input, name, order, cc, exact_cc, input_can<engine>, input_scratch<engine>,     \
                 NULL, backward_input<engine>, NULL, input_plan<engine>),                                           \
    IMPL_PLANNED(conv2d_up_backward_weight, name, order, cc, exact_cc, weight_can<engine>, weight_scratch<engine>,  \
                 NULL, backward_weight<engine>, NULL, weight_plan<engine>)
IMPLS(conv2d_up,
    ENGINE("wgmma", 40, 90, 90, WGMMA),
    ENGINE("mma", 50, 80, 0, MMA),
    ENGINE("implicit_gemm", 100, 0, 0, IMPLICIT_GEMM))
