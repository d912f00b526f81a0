// kernels/vendor/conv2d_cudnn.cu - convolutions by cuDNN: what ours are measured against.
//
// cuDNN computes the convolution alone, on dense NHWC tensors. What else a call asks for is one pass of a kernel of
// ours over the result: bias, time embedding and residual, or `add`, as a program without fused kernels does it (one
// more rounding of the result than ours). Views and the concat of two sources are first copied into a dense tensor,
// likewise. So the bench times the convolution alone where a row has none of these, and with what it replaces
// elsewhere.
// The gradient of a bf16 filter comes in bf16, since no engine gives it in f32, and is widened: checks of this twin
// allow for that rounding. Gradients of bias and time embedding are the kernels of ours that conv2d_weight.cu uses.
// Scratch: x as dense [x, x2], y or dy as dense, the filter's gradient, cuDNN's workspace.
#include "kernels/conv2d/conv2d_sums.cuh"
#include "kernels/common/vector.cuh"
#include "kernels/vendor/cudnn_plan.cuh"

static const size_t WORKSPACE = (size_t)256 << 20;       // an engine that wants more is not taken

static size_t aligned(size_t bytes) { return (bytes + 255) & ~(size_t)255; }
static int channels(const Conv2dShape *z) { return z->c + z->c2; }

// In bf16 the tensor-core engines take whole 16-byte groups of channels.
static bool can(const Conv2dShape *z) {
    const unsigned fused = CONV_SHORTCUT | CONV_NORM | CONV_MASK | CONV_STATS | CONV_SUMS;
    bool whole = z->dtype == DT_F32 || (channels(z) % 8 == 0 && z->k % 8 == 0);
    return !(z->use & fused) && !z->cs && !z->cs2 && is_stored(z->dtype) && z->out == z->dtype && whole &&
           conv_general_can(z) && z->pad_h >= 0 && z->pad_w >= 0;
}
static bool can_input(const Conv2dShape *z) { return can(z) && !(z->use & CONV_BIAS); }

// ---- where things lie in scratch
struct Places { size_t x, y, dw, sums, workspace, bytes; };
static Places places(const Conv2dShape *z) {
    Places p = {};
    size_t element = dtype_size(z->dtype);
    p.y = p.x + aligned((size_t)z->n * (size_t)z->h * (size_t)z->w * (size_t)channels(z) * element);
    p.dw = p.y + aligned((size_t)z->n * (size_t)z->p * (size_t)z->q * (size_t)z->k * element);
    p.sums = p.dw + aligned((size_t)z->k * (size_t)z->r * (size_t)z->s * (size_t)channels(z) * sizeof(float));
    p.workspace = p.sums + conv_bias_scratch(z);
    p.bytes = p.workspace + WORKSPACE;
    return p;
}
static size_t scratch(const Conv2dShape *z) { return places(z).bytes; }

// ---- plans
// What lies beyond the image at its end: as much as at its beginning where that leaves the output the same, since
// engines are rarer for unequal ends.
static int64_t pad_end(int size, int out, int taps, int stride, int pad) {
    if ((size + 2 * pad - taps) / stride + 1 == out) return pad;
    int over = (out - 1) * stride + taps - size - pad;
    return over > 0 ? over : 0;
}

static cudnnBackendDescriptor_t window(CudnnPlan *p, const Conv2dShape *z) {
    cudnnBackendDescriptor_t d = p->make(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    cudnnDataType_t sums = CUDNN_DATA_FLOAT;
    cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    int64_t dims = 2, dilation[] = { 1, 1 }, stride[] = { z->stride, z->stride }, before[] = { z->pad_h, z->pad_w };
    int64_t after[] = { pad_end(z->h, z->p, z->r, z->stride, z->pad_h),
                        pad_end(z->w, z->q, z->s, z->stride, z->pad_w) };
    p->set(d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &sums);
    p->set(d, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    p->set(d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &dims);
    p->set(d, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, dilation);
    p->set(d, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, stride);
    p->set(d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, before);
    p->set(d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, after);
    p->finalize(d);
    return d;
}

// Dense, channels innermost: (n,c,h,w) to cuDNN.
static cudnnBackendDescriptor_t image(CudnnPlan *p, cudnnDataType_t type, int64_t n, int64_t c, int64_t h, int64_t w) {
    const int64_t dim[] = { n, c, h, w }, stride[] = { h * w * c, 1, w * c, c };
    return p->tensor(type, dim, stride);
}

// The names that cuDNN gives the parts of each pass.
struct Pass {
    cudnnBackendDescriptorType_t operation;
    cudnnBackendAttributeName_t  window, x, w, y, alpha, beta;
};
static const Pass FORWARD = {
    CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA };
static const Pass INPUT = {
    CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA };
static const Pass WEIGHT = {
    CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA };

static void release(void *plan) { delete static_cast<CudnnPlan *>(plan); }

// NULL: there is no engine.
static void *prepare(const Pass &pass, const Conv2dShape *z) {
    if (!cudnn_ready()) return NULL;
    CudnnPlan *p = new CudnnPlan();
    float one = 1.0f, zero = 0.0f;
    cudnnDataType_t type = cudnn_type(z->dtype);
    cudnnBackendDescriptor_t x = image(p, type, z->n, channels(z), z->h, z->w);
    cudnnBackendDescriptor_t w = image(p, type, z->k, channels(z), z->r, z->s);
    cudnnBackendDescriptor_t y = image(p, type, z->n, z->k, z->p, z->q);
    cudnnBackendDescriptor_t view = window(p, z), op = p->make(pass.operation);
    p->set_descriptor(op, pass.window, view);
    p->set_descriptor(op, pass.x, x);
    p->set_descriptor(op, pass.w, w);
    p->set_descriptor(op, pass.y, y);
    p->set(op, pass.alpha, CUDNN_TYPE_FLOAT, 1, &one);
    p->set(op, pass.beta, CUDNN_TYPE_FLOAT, 1, &zero);
    if (p->choose(op, z->dtype == DT_F32, (int64_t)WORKSPACE)) return p;
    release(p);
    return NULL;
}
static void *prepare_forward(Stream *, const Conv2dShape *z, const Conv2dArgs *) { return prepare(FORWARD, z); }
static void *prepare_input(Stream *, const Conv2dShape *z, const Conv2dArgs *) { return prepare(INPUT, z); }
static void *prepare_weight(Stream *, const Conv2dShape *z, const Conv2dArgs *) { return prepare(WEIGHT, z); }

static const CudnnPlan *prepared(Stream *s, const Work &w) {
    if (!w.state) stream_fail(s, 1, "cuDNN does not start, or has no deterministic engine for this convolution");
    return static_cast<const CudnnPlan *>(w.state);
}

// ---- to (pixels,k) = from + bias (k) + row (n,k) + image (pixels,k), or NULL; also a copy from view to dense
struct Pixels {
    const void *from, *image;
    const float *bias, *row;
    void *to;
    int64_t rows;                                        // pixels of all images
    int k, per_image, ld_from, ld_image, ld_to;
    DType dtype;
};
template <typename E> static __global__ void __launch_bounds__(ROW_THREADS) conv_pixels_kernel(Pixels a) {
    for (ROWS(r, a.rows)) {
        for (COLUMNS(j, a.k, 4)) {
            int count = a.k - (int)j;
            float4 v = load_quad<E>(a.from, a.dtype, r * a.ld_from + j, count);
            if (a.bias) v = quad_add(v, load_reals<E>(a.bias, j, count));
            int64_t image = (unsigned)r / (unsigned)a.per_image;
            if (a.row) v = quad_add(v, load_reals<E>(a.row, image * a.k + j, count));
            if (a.image) v = quad_add(v, load_quad<E>(a.image, a.dtype, r * a.ld_image + j, count));
            store_quad<E>(a.to, a.dtype, r * a.ld_to + j, count, v);
        }
    }
}

static void run_pixels(Stream *s, const Pixels &a) {
    RowGrid g = row_grid(a.rows, a.k, 4);
    bool quads = a.k % 4 == 0 && quads_aligned(a.from, a.dtype, a.ld_from) && quads_aligned(a.to, a.dtype, a.ld_to) &&
                 quads_aligned(a.image, a.dtype, a.ld_image) && quads_aligned(a.bias, DT_F32, 4) &&
                 quads_aligned(a.row, DT_F32, 4);
    if (!quads) LAUNCH(s, (conv_pixels_kernel<AnyReal>), g.grid, g.block, 0, a);
    else if (a.dtype == DT_BF16) LAUNCH(s, (conv_pixels_kernel<bf16>), g.grid, g.block, 0, a);
    else LAUNCH(s, (conv_pixels_kernel<float>), g.grid, g.block, 0, a);
}

static void *element(void *p, DType dt, int64_t at) { return static_cast<char *>(p) + at * (int64_t)dtype_size(dt); }
static const void *element(const void *p, DType dt, int64_t at) {
    return static_cast<const char *>(p) + at * (int64_t)dtype_size(dt);
}
static Pixels copy(const Conv2dShape *z, const void *from, int ld_from, void *to, int ld_to, int k) {
    Pixels p = {};
    p.from = from;
    p.to = to;
    p.ld_from = ld_from;
    p.ld_to = ld_to;
    p.k = k;
    p.dtype = z->dtype;
    return p;
}

// [x, x2] as cuDNN reads it: x itself where that is dense and alone.
static const void *dense_x(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, void *to) {
    if (!z->c2 && z->ldx == z->c) return a->x;
    for (int part = 0; part < (z->c2 ? 2 : 1); part++) {
        Pixels p = copy(z, part ? a->x2 : a->x, part ? z->ldx2 : z->ldx, element(to, z->dtype, part ? z->c : 0),
                        channels(z), part ? z->c2 : z->c);
        p.rows = (int64_t)z->n * z->h * z->w;
        p.per_image = z->h * z->w;
        run_pixels(s, p);
    }
    return to;
}
static const void *dense_dy(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, void *to) {
    if (z->ldy == z->k) return a->dy;
    Pixels p = copy(z, a->dy, z->ldy, to, z->k, z->k);
    p.rows = (int64_t)z->n * z->p * z->q;
    p.per_image = z->p * z->q;
    run_pixels(s, p);
    return to;
}

// ---- the three passes
static void forward(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work w) {
    const CudnnPlan *conv = prepared(s, w);
    if (!conv) return;
    char *base = static_cast<char *>(w.scratch);
    Places at = places(z);
    const void *x = dense_x(s, z, a, base + at.x);
    void *y = z->ldy == z->k && a->residual != a->y ? a->y : base + at.y;
    const void *pointers[] = { x, a->w, y };
    conv->run(s, pointers, base + at.workspace);
    if (y == a->y && !a->bias && !a->temb && !a->residual) return;
    Pixels p = copy(z, y, z->k, a->y, z->ldy, z->k);
    p.rows = (int64_t)z->n * z->p * z->q;
    p.per_image = z->p * z->q;
    p.bias = a->bias;
    p.row = a->temb;
    p.image = a->residual;
    p.ld_image = z->ldr;
    run_pixels(s, p);
}

static void backward_input(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work w) {
    const CudnnPlan *conv = prepared(s, w);
    if (!conv) return;
    char *base = static_cast<char *>(w.scratch);
    Places at = places(z);
    bool direct = !z->c2 && z->ldx == z->c && a->dx && a->add != a->dx;
    void *dx = direct ? a->dx : base + at.x;
    const void *pointers[] = { dx, a->w, dense_dy(s, z, a, base + at.y) };
    conv->run(s, pointers, base + at.workspace);
    if (direct && !a->add) return;
    for (int part = 0; part < (z->c2 ? 2 : 1); part++) {
        void *to = part ? a->dx2 : a->dx;
        int first = part ? z->c : 0;
        if (!to) continue;
        Pixels p = copy(z, element(dx, z->dtype, first), channels(z), to, part ? z->ldx2 : z->ldx, part ? z->c2 : z->c);
        p.rows = (int64_t)z->n * z->h * z->w;
        p.per_image = z->h * z->w;
        p.image = a->add ? element(a->add, z->dtype, first) : NULL;
        p.ld_image = channels(z);
        run_pixels(s, p);
    }
}

// dw (numel, f32) = or += what cuDNN left in its type.
template <typename E> static __global__ void __launch_bounds__(ROW_THREADS)
conv_filter_kernel(const void *from, DType dt, int64_t numel, float *dw, bool accumulate) {
    for (COLUMNS(at, numel, 4)) {
        int count = numel - at < 4 ? (int)(numel - at) : 4;
        float4 v = load_quad<E>(from, dt, at, count);
        if (accumulate) v = quad_add(v, load_reals<E>(dw, at, count));
        store_quad<E>(dw, DT_F32, at, count, v);
    }
}

static void backward_weight(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work w) {
    const CudnnPlan *conv = prepared(s, w);
    if (!conv) return;
    char *base = static_cast<char *>(w.scratch);
    Places at = places(z);
    conv_bias_gradients(s, z, a, reinterpret_cast<float *>(base + at.sums));
    if (!a->dw) return;
    bool direct = z->dtype == DT_F32 && !a->accumulate;
    void *dw = direct ? static_cast<void *>(a->dw) : base + at.dw;
    const void *x = dense_x(s, z, a, base + at.x), *dy = dense_dy(s, z, a, base + at.y);
    const void *pointers[] = { x, dw, dy };
    conv->run(s, pointers, base + at.workspace);
    if (direct) return;
    int64_t numel = (int64_t)z->k * z->r * z->s * channels(z);
    RowGrid g = run_grid(numel, 4);
    if (numel % 4 || !quads_aligned(a->dw, DT_F32, 4))
        LAUNCH(s, (conv_filter_kernel<AnyReal>), g.grid, g.block, 0, dw, z->dtype, numel, a->dw, a->accumulate);
    else if (z->dtype == DT_BF16)
        LAUNCH(s, (conv_filter_kernel<bf16>), g.grid, g.block, 0, dw, z->dtype, numel, a->dw, a->accumulate);
    else
        LAUNCH(s, (conv_filter_kernel<float>), g.grid, g.block, 0, dw, z->dtype, numel, a->dw, a->accumulate);
}

// For tests/vendor_plans.c: from here on, plans are for the GPU that `json` describes. False: cuDNN does not take it.
EXTERN_C bool vendor_describe_gpu(const char *json);
bool vendor_describe_gpu(const char *json) { return cudnn_describe(json); }

IMPLS(conv2d_cudnn,
    IMPL_FULL(conv2d_forward, "cudnn", -1, 0, 0, can, scratch, prepare_forward, forward, release),
    IMPL_FULL(conv2d_backward_input, "cudnn", -1, 0, 0, can_input, scratch, prepare_input, backward_input, release),
    IMPL_FULL(conv2d_backward_weight, "cudnn", -1, 0, 0, can, scratch, prepare_weight, backward_weight, release))
