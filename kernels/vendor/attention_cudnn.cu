// kernels/vendor/attention_cudnn.cu - attention by cuDNN's fused operations (9.13 forward, 9.17 backward).
//
// bf16, heads of up to 128 channels, on compute capability 9.0 of up to 256: what its engines take. Each direction is one
// operation on (n,heads,t,c) with the strides of the views, so that nothing is copied. The statistics that forward
// leaves for backward are log(sum(exp(s))), as the contract has them. Unlike ours, cuDNN rounds p before the division
// and ds to bf16, and its gradient of q may add up in any order: the one twin whose bits may change from run to run.
#include "kernels/attention/attention.h"
#include "kernels/common/vector.cuh"
#include "kernels/vendor/cudnn_plan.cuh"

static bool can_any(const AttentionShape *z, int from, int to) {
    return z->dtype == DT_BF16 && z->layout == LAYOUT_NHWC && z->c >= from && z->c <= to && z->t > 0 &&
           (z->c | z->ldq | z->ldk | z->ldv | z->ldo) % 8 == 0;
}
static bool can(const AttentionShape *z) { return can_any(z, 8, 128); }
static bool can_wide(const AttentionShape *z) { return can_any(z, 129, 256); }

// Backward keeps gradients of q in f32, and a sum per row.
static size_t scratch(const AttentionShape *z) {
    return ((size_t)64 << 20) + 2 * sizeof(float) * (size_t)z->n * (size_t)z->t * (size_t)z->heads * (size_t)z->c;
}

namespace {
struct Attention { CudnnPlan plan; float scale; };       // scale: read from here whenever the plan runs
}
static void release(void *state) { delete static_cast<Attention *>(state); }

// (n,t,heads c) of ld elements from token to token.
static cudnnBackendDescriptor_t heads(CudnnPlan *p, const AttentionShape *z, int ld) {
    const int64_t dim[] = { z->n, z->heads, z->t, z->c }, stride[] = { (int64_t)z->t * ld, z->c, ld, 1 };
    return p->tensor(CUDNN_DATA_BFLOAT16, dim, stride);
}
static cudnnBackendDescriptor_t statistics(CudnnPlan *p, const AttentionShape *z) {
    const int64_t dim[] = { z->n, z->heads, z->t, 1 }, stride[] = { (int64_t)z->heads * z->t, z->t, 1, 1 };
    return p->tensor(CUDNN_DATA_FLOAT, dim, stride);
}
static cudnnBackendDescriptor_t number(CudnnPlan *p) {
    const int64_t one[] = { 1, 1, 1, 1 };
    return p->tensor(CUDNN_DATA_FLOAT, one, one, true);
}

// The plan of `operation`, finished, or NULL.
static Attention *finish(Attention *a, const AttentionShape *z, cudnnBackendDescriptor_t operation, bool ordered) {
    a->scale = z->scale;
    if (a->plan.choose(operation, false, ordered, (int64_t)scratch(z))) return a;
    release(a);
    return NULL;
}

static const Attention *prepared(Stream *s, const Work &w) {
    if (!w.state) stream_fail(s, 1, "cuDNN does not start, or has no engine for this attention");
    return static_cast<const Attention *>(w.state);
}

// ---- forward
static void *prepare_forward(Stream *, const AttentionShape *z, const AttentionForwardArgs *) {
    if (!cudnn_handle()) return NULL;
    Attention *a = new Attention();
    CudnnPlan *p = &a->plan;
    cudnnBackendDescriptor_t op = p->make(CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, heads(p, z, z->ldq));
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, heads(p, z, z->ldk));
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, heads(p, z, z->ldv));
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, heads(p, z, z->ldo));
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC, statistics(p, z));
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, number(p));
    return finish(a, z, op, true);
}

static void forward(Stream *s, const AttentionShape *, const AttentionForwardArgs *a, Work w) {
    const Attention *p = prepared(s, w);
    if (!p) return;
    const void *pointers[] = { a->q, a->k, a->v, a->o, a->lse, &p->scale };
    p->plan.run(s, pointers, w.scratch);
}

// ---- backward
static void *prepare_backward(Stream *, const AttentionShape *z, const AttentionBackwardArgs *) {
    if (!cudnn_handle()) return NULL;
    Attention *a = new Attention();
    CudnnPlan *p = &a->plan;
    cudnnBackendDescriptor_t op = p->make(CUDNN_BACKEND_OPERATION_SDPA_BWD_DESCRIPTOR);
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_BWD_QDESC, heads(p, z, z->ldq));
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_BWD_KDESC, heads(p, z, z->ldk));
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_BWD_VDESC, heads(p, z, z->ldv));
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_BWD_ODESC, heads(p, z, z->ldo));
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_BWD_DODDESC, heads(p, z, z->ldo));
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_BWD_STATSDESC, statistics(p, z));
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_BWD_DQDESC, heads(p, z, z->ldq));
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_BWD_DKDESC, heads(p, z, z->ldk));
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_BWD_DVDESC, heads(p, z, z->ldv));
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_BWD_SCALEDESC, number(p));
    return finish(a, z, op, false);
}

static void backward(Stream *s, const AttentionShape *, const AttentionBackwardArgs *a, Work w) {
    const Attention *p = prepared(s, w);
    if (!p) return;
    const void *pointers[] = { a->q, a->k, a->v, a->o, a->d_o, a->lse, a->dq, a->dk, a->dv, &p->scale };
    p->plan.run(s, pointers, w.scratch);
}

IMPLS(attention_cudnn,
    IMPL_FULL(attention_forward, "cudnn", -1, 80, 0, can, scratch, prepare_forward, forward, release),
    IMPL_FULL(attention_forward, "cudnn", -1, 90, 90, can_wide, scratch, prepare_forward, forward, release),
    IMPL_FULL(attention_backward, "cudnn", -1, 80, 0, can, scratch, prepare_backward, backward, release),
    IMPL_FULL(attention_backward, "cudnn", -1, 90, 90, can_wide, scratch, prepare_backward, backward, release))
