// kernels/conv2d/variants/conv2d_up_chain.cu - upsampling, then our own plain convolution: what the folded kernels
// replace, and how conv2d_up_chain.cuh is run without NVIDIA's libraries.
#include "kernels/conv2d/conv2d_up_chain.cuh"

namespace {
struct Ours {                                            // of 8.0: those of 9.0 keep addresses in their tensor maps
    static const Impl *find(const Launcher *l, const Conv2dShape *z) {
        return impl_find(l, KERNEL_PASTE(DEV_, KERNEL_KIND, ), 80, z, NULL);
    }
};
}

IMPLS(conv2d_up_chain,
    CONV_UP_CHAIN("chain", Ours))
