// kernels/optim/optim.cu - gradient norm, Adam and EMA, SGD: one pass over all parameters, at the speed of memory.
//
// The flat buffers are cut into chunks of fixed size whatever tensors lie there, a block per chunk, so that the order
// of every sum is fixed and large tensors are shared. A thread finds its tensor by search once per chunk and then walks
// on from there. Adam reads g, w, m, v, ema and writes w, m, v, ema and the bf16 shadow: 38 bytes an element with five
// 16-byte loads in flight per thread, 1.36 GB for the 36 M parameters of the full network.
//
// What one launch changes no other block of it reads: factors_kernel, a single block, reads the state before a barrier
// and writes it after; it leaves the factors of every tensor in scratch for adam_kernel.
#include "kernels/common/vector.cuh"
#include "kernels/optim/optim.h"

static __global__ void step_advance_kernel(StepAdvanceArgs a) {
    a.state->step++;
    a.state->sampler_index++;
}
static void step_advance_run(Stream *s, const StepAdvanceShape *, const StepAdvanceArgs *a, Work) {
    LAUNCH(s, (step_advance_kernel), dim3(1), dim3(1), 0, *a);
}

// ---- chunks and spans
enum { CHUNK = ROW_THREADS * 4 * 4 };                    // elements of a block: four vectors of four per thread

// The first span that ends beyond element `at`; count if there is none.
DEVICE int span_at(const ParamSpan *span, int count, int64_t at) {
    int low = 0, high = count;
    while (low < high) {
        int mid = low + (high - low) / 2;
        if (span[mid].end > at) high = mid;
        else                    low = mid + 1;
    }
    return low;
}

// ---- gradient norm. Scratch: a sum per chunk, in double, since squares of large gradients leave float's range.
static size_t norm_scratch(const GradNormShape *z) { return (size_t)ceil_div(z->n, CHUNK) * sizeof(double); }

// The sum of the squares of elements at..at+3 that lie in tensors with a gradient; t: no later than the first of them.
DEVICE double square_sum(const GradNormShape &z, const GradNormArgs &a, int64_t at, int &t) {
    while (t < z.tensors && a.span[t].end <= at) t++;
    if (t == z.tensors) return 0;
    ParamSpan span = a.span[t];
    if (span.begin <= at && span.end >= at + 4) {        // one tensor, as nearly always
        if (!a.has_grad[t]) return 0;
        float4 g = load4(a.g + at);
        return (double)g.x * (double)g.x + (double)g.y * (double)g.y + (double)g.z * (double)g.z +
               (double)g.w * (double)g.w;
    }
    double sum = 0;
    for (int u = t; u < z.tensors && a.span[u].begin < at + 4; u++) {
        for (int64_t j = max(at, a.span[u].begin); a.has_grad[u] && j < min(at + 4, a.span[u].end); j++)
            sum += (double)a.g[j] * (double)a.g[j];
    }
    return sum;
}

static __global__ void __launch_bounds__(ROW_THREADS) norm_chunks_kernel(GradNormShape z, GradNormArgs a,
                                                                         double *part) {
    SHARED(double, slot, ROW_THREADS);
    int64_t begin = (int64_t)blockIdx.x * CHUNK, end = min(z.n, begin + CHUNK);
    int t = span_at(a.span, z.tensors, begin);
    double sum = 0;
    for (int64_t at = begin + threadIdx.x * 4; at < end; at += ROW_THREADS * 4) sum += square_sum(z, a, at, t);
    sum = block_tree_sum(sum, slot);
    if (threadIdx.x == 0) part[blockIdx.x] = sum;
}

enum { TOTAL_THREADS = 1024 };
static __global__ void __launch_bounds__(TOTAL_THREADS) norm_total_kernel(int64_t chunks, const double *part,
                                                                   StepState *state) {
    SHARED(double, slot, TOTAL_THREADS);
    double sum = 0;
    for (int64_t k = threadIdx.x; k < chunks; k += TOTAL_THREADS) sum += part[k];
    sum = block_tree_sum(sum, slot);
    if (threadIdx.x == 0) state->grad_norm = (float)sqrt(sum);
}

static void grad_norm_run(Stream *s, const GradNormShape *z, const GradNormArgs *a, Work w) {
    int64_t chunks = ceil_div(z->n, CHUNK);
    double *part = static_cast<double *>(w.scratch);
    LAUNCH(s, (norm_chunks_kernel), dim3((unsigned)chunks), dim3(ROW_THREADS), 0, *z, *a, part);
    LAUNCH(s, (norm_total_kernel), dim3(1), dim3(TOTAL_THREADS), 0, chunks, part, a->state);
}

// ---- Adam and EMA
enum { KEEPS, DECAYS, LEARNS };   // no gradient so far: w, m, v stay; none in this step: as one of zero; has one
struct CommonFactors { float beta1, rest1, beta2, rest2, eps, clip, rest_ema; int skip; };
struct TensorFactors { float rate, root; int mode, unused; };   // lr / (1 - beta1^k), sqrt(1 - beta2^k)
struct AdamScratch { CommonFactors common; TensorFactors tensor[1]; };              // one per tensor

static size_t adam_scratch(const AdamShape *z) {
    return sizeof(CommonFactors) + (size_t)z->tensors * sizeof(TensorFactors);
}

// b^k by squaring, for k >= 0: its error, about k 2^-53, is far below a float's.
DEVICE double power(double b, int64_t k) {
    double r = 1;
    for (; k; k /= 2, b *= b) {
        if (k & 1) r *= b;
    }
    return r;
}

static __global__ void __launch_bounds__(ROW_THREADS) factors_kernel(AdamShape z, AdamArgs a, AdamScratch *out) {
    StepState *state = a.state;
    float norm = state->grad_norm;
    double updates = (double)state->updates, lr = z.lr, clip = 1, ramp = (1 + updates) / (10 + updates);
    bool skip = !(norm - norm == 0);                     // infinite or NaN
    __syncthreads();                                     // everyone has read what one thread now changes
    if (updates < (double)z.warmup) lr *= updates / (double)z.warmup;
    if (threadIdx.x == 0) {
        if (z.clip_norm > 0 && z.clip_norm < (double)norm + 1e-6) clip = z.clip_norm / ((double)norm + 1e-6);
        double decay = z.ema_ramp && ramp < z.ema_decay ? ramp : z.ema_decay;
        out->common = { (float)z.beta1, (float)(1 - z.beta1), (float)z.beta2, (float)(1 - z.beta2), (float)z.eps,
                        (float)clip, (float)(1 - decay), skip };
        if (skip) {
            state->skipped++;
        } else {
            state->lr = (float)lr;
            state->updates++;
        }
    }
    for (int t = (int)threadIdx.x; !skip && t < z.tensors; t += ROW_THREADS) {
        int64_t k = a.count[t];
        bool learns = a.has_grad[t];
        if (learns || k > 0) a.count[t] = ++k;
        out->tensor[t] = { (float)(lr / (1 - power(z.beta1, k))), (float)sqrt(1 - power(z.beta2, k)),
                           learns ? LEARNS : k > 0 ? DECAYS : KEEPS, 0 };
    }
}

struct Element { float g, w, m, v, ema; };
DEVICE void update(Element &e, const CommonFactors &f, const TensorFactors &t) {
    if (t.mode != KEEPS) {
        float g = t.mode == LEARNS ? e.g * f.clip : 0.0f;
        e.m = f.beta1 * e.m + f.rest1 * g;
        e.v = f.beta2 * e.v + f.rest2 * g * g;
        e.w -= t.rate * e.m / (sqrtf(e.v) / t.root + f.eps);
    }
    e.ema += f.rest_ema * (e.w - e.ema);
}

// Elements at..at+3, all of tensor factors t.
DEVICE void update_four(const AdamArgs &a, int64_t at, const CommonFactors &f, const TensorFactors &t) {
    float4 g = t.mode == LEARNS ? load4(a.g + at) : make_float4(0, 0, 0, 0);
    float4 w = load4(a.w + at), m = load4(a.m + at), v = load4(a.v + at), ema = load4(a.ema + at);
    Element e[4] = { { g.x, w.x, m.x, v.x, ema.x }, { g.y, w.y, m.y, v.y, ema.y },
                     { g.z, w.z, m.z, v.z, ema.z }, { g.w, w.w, m.w, v.w, ema.w } };
    for (int l = 0; l < 4; l++) update(e[l], f, t);
    w = make_float4(e[0].w, e[1].w, e[2].w, e[3].w);
    if (t.mode != KEEPS) {
        store_four(a.w + at, w);
        store_four(a.m + at, make_float4(e[0].m, e[1].m, e[2].m, e[3].m));
        store_four(a.v + at, make_float4(e[0].v, e[1].v, e[2].v, e[3].v));
    }
    store_four(a.ema + at, make_float4(e[0].ema, e[1].ema, e[2].ema, e[3].ema));
    if (a.shadow) store_four(static_cast<bf16 *>(a.shadow) + at, w);
}

DEVICE void update_one(const AdamArgs &a, int64_t at, const CommonFactors &f, const TensorFactors &t) {
    Element e = { t.mode == LEARNS ? a.g[at] : 0.0f, a.w[at], a.m[at], a.v[at], a.ema[at] };
    update(e, f, t);
    a.w[at] = e.w;
    a.m[at] = e.m;
    a.v[at] = e.v;
    a.ema[at] = e.ema;
    if (a.shadow) store_real(static_cast<bf16 *>(a.shadow) + at, e.w);
}

static __global__ void __launch_bounds__(ROW_THREADS) adam_kernel(AdamShape z, AdamArgs a, const AdamScratch *factors) {
    const CommonFactors f = factors->common;
    if (f.skip) return;
    int64_t begin = (int64_t)blockIdx.x * CHUNK, end = min(z.n, begin + CHUNK);
    int t = span_at(a.span, z.tensors, begin);
    for (int64_t at = begin + threadIdx.x * 4; at < end; at += ROW_THREADS * 4) {
        while (t < z.tensors && a.span[t].end <= at) t++;
        if (t == z.tensors) return;
        if (a.span[t].begin <= at && a.span[t].end >= at + 4) {              // one tensor, as nearly always
            update_four(a, at, f, factors->tensor[t]);
        } else {
            for (int u = t; u < z.tensors && a.span[u].begin < at + 4; u++) {
                for (int64_t j = max(at, a.span[u].begin); j < min(at + 4, a.span[u].end); j++)
                    update_one(a, j, f, factors->tensor[u]);
            }
        }
    }
}

static void adam_run(Stream *s, const AdamShape *z, const AdamArgs *a, Work w) {
    AdamScratch *factors = static_cast<AdamScratch *>(w.scratch);
    LAUNCH(s, (factors_kernel), dim3(1), dim3(ROW_THREADS), 0, *z, *a, factors);
    LAUNCH(s, (adam_kernel), dim3((unsigned)ceil_div(z->n, CHUNK)), dim3(ROW_THREADS), 0, *z, *a, factors);
}

// ---- SGD: 20 bytes an element. The state changes in a kernel of its own, after all blocks have read it.
static __global__ void __launch_bounds__(ROW_THREADS) sgd_kernel(SgdShape z, SgdArgs a) {
    float norm = a.state->grad_norm, momentum = (float)z.momentum, decay = (float)z.weight_decay, lr = a.lr[0];
    if (!(norm - norm == 0)) return;                     // infinite or NaN
    for (COLUMNS(at, z.n, 4)) {
        bool whole = at + 4 <= z.n;
        float4 g = load_block(a.g + at, z.n - at, whole), w = load_block(a.w + at, z.n - at, whole);
        float4 m = load_block(a.m + at, z.n - at, whole);
        m = make_float4(momentum * m.x + (g.x + decay * w.x), momentum * m.y + (g.y + decay * w.y),
                        momentum * m.z + (g.z + decay * w.z), momentum * m.w + (g.w + decay * w.w));
        w = make_float4(w.x - lr * m.x, w.y - lr * m.y, w.z - lr * m.z, w.w - lr * m.w);
        store_block(a.m + at, m, z.n - at, whole);
        store_block(a.w + at, w, z.n - at, whole);
        if (a.shadow) store_block(static_cast<bf16 *>(a.shadow) + at, w, z.n - at, whole);
    }
}
static __global__ void sgd_state_kernel(SgdArgs a) {
    float norm = a.state->grad_norm;
    if (norm - norm == 0) {
        a.state->lr = a.lr[0];
        a.state->updates++;
    } else {
        a.state->skipped++;
    }
}
static void sgd_run(Stream *s, const SgdShape *z, const SgdArgs *a, Work) {
    RowGrid g = run_grid(z->n, 4);
    LAUNCH(s, (sgd_kernel), g.grid, g.block, 0, *z, *a);
    LAUNCH(s, (sgd_state_kernel), dim3(1), dim3(1), 0, *a);
}

// ---- registration
IMPLS(optim,
    IMPL(step_advance, "one_thread", step_advance_run),
    IMPL_SCRATCH(grad_norm, "chunks", norm_scratch, grad_norm_run),
    IMPL_SCRATCH(adam_ema, "chunks", adam_scratch, adam_run),
    IMPL(sgd, "runs", sgd_run))
