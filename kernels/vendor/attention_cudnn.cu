// kernels/vendor/attention_cudnn.cu - attention by cuDNN's fused operation of 9.13 and later; forward only.
//
// bf16, heads of up to 128 channels, on compute capability 9.0 of up to 256: what its engines take. One operation on
// (n,heads,t,c) with the strides of the views, so that nothing is copied. The statistics that it leaves are
// log(sum(exp(s))), as the contract has them. Unlike ours, cuDNN rounds p before the division. Its operation for the
// gradient is refused by 9.19 in every form tried, when the graph is built: see attention_cublaslt.cu.
#include "kernels/attention/attention.h"
#include "kernels/common/vector.cuh"
#include "kernels/vendor/cudnn_plan.cuh"

static bool can_any(const AttentionShape *z, int from, int to) {
    return z->dtype == DT_BF16 && z->layout == LAYOUT_NHWC && z->c >= from && z->c <= to && z->t > 0 &&
           (z->c | z->ldq | z->ldk | z->ldv | z->ldo) % 8 == 0;
}
static bool can(const AttentionShape *z) { return can_any(z, 8, 128); }
static bool can_wide(const AttentionShape *z) { return can_any(z, 129, 256); }

static size_t scratch(const AttentionShape *) { return (size_t)64 << 20; }

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

static void *prepare(Stream *, const AttentionShape *z, const AttentionForwardArgs *) {
    if (!cudnn_ready()) return NULL;
    Attention *a = new Attention();
    CudnnPlan *p = &a->plan;
    cudnnBackendDescriptor_t op = p->make(CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, heads(p, z, z->ldq));
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, heads(p, z, z->ldk));
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, heads(p, z, z->ldv));
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, heads(p, z, z->ldo));
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC, statistics(p, z));
    p->set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, number(p));
    a->scale = z->scale;
    if (p->choose(op, false, (int64_t)scratch(z))) return a;
    release(a);
    return NULL;
}

static void run(Stream *s, const AttentionShape *, const AttentionForwardArgs *a, Work w) {
    const Attention *p = static_cast<const Attention *>(w.state);
    if (!p) {
        stream_fail(s, 1, "cuDNN does not start, or has no engine for this attention: see attention_forward=cublaslt");
        return;
    }
    const void *pointers[] = { a->q, a->k, a->v, a->o, a->lse, &p->scale };
    p->plan.run(s, pointers, w.scratch);
}

IMPLS(attention_cudnn,
    IMPL_FULL(attention_forward, "cudnn", -1, 80, 0, can, scratch, prepare, run, release),
    IMPL_FULL(attention_forward, "cudnn", -1, 90, 90, can_wide, scratch, prepare, run, release))
