// kernels/vendor/conv2d_up_cudnn.cu - upsampling by our kernel, then cuDNN's convolution by conv2d_cudnn.cu: the chain
// that the folded kernels replace. Its rounding: conv2d_up_chain.cuh, and one of y more where there is a bias.
#include "kernels/conv2d/conv2d_up_chain.cuh"

namespace {
struct Cudnn {
    static const Impl *find(const Launcher *l, const Conv2dShape *z) { return impl_find(l, DEV_CUDA, 80, z, "cudnn"); }
};
}

IMPLS(conv2d_up_cudnn,
    CONV_UP_CHAIN("cudnn", Cudnn))
