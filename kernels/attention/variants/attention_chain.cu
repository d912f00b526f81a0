// kernels/attention/variants/attention_chain.cu - attention by our own matrix products and a pass over rows in between:
// what the fused kernels replace, and how attention_chain.cuh is run without NVIDIA's libraries.
#include "kernels/attention/attention_chain.cuh"

namespace {
struct Ours {                                            // of 8.0: those of 9.0 keep addresses in their tensor maps
    static const Impl *find(const GemmShape *z) {
        return impl_find(&gemm, KERNEL_PASTE(DEV_, KERNEL_KIND, ), 80, z, NULL);
    }
};
}

IMPLS(attention_chain,
    ATTENTION_CHAIN("chain", -1, Ours))
