// kernels/vendor/attention_cublaslt.cu - attention by cuBLASLt's batched products and a pass of ours over rows: the
// gradient, for which cuDNN has no engine here, and the forward pass of shapes that cuDNN refuses, f32 among them.
//
// Rounding: at the contract's points, and in bf16 at one more: ds, the gradient of the scores, is rounded once, where
// the contract keeps it in the accumulator. Order -2: where cuDNN has the shape too, the set of all twins takes that.
#include "kernels/attention/attention_chain.cuh"

namespace {
struct Cublaslt {
    static const Impl *find(const GemmShape *z) { return impl_find(&gemm, DEV_CUDA, 80, z, "cublaslt"); }
};
}

IMPLS(attention_cublaslt,
    ATTENTION_CHAIN("cublaslt", -2, Cublaslt))
