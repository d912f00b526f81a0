// kernels/conv2d/conv2d_up_chain.cuh - upsampling and convolution as a program without the folded kernel computes it:
// the large image is written, and some implementation of the plain 3x3 convolution reads it.
//
//   forward    x' = upsample2x(x), y = conv(x') + bias        input   dx' = conv^T(dy), dx = sums of four of dx'
//   weight     x' = upsample2x(x), dw, dbias from x' and dy
// Nine taps to an output where conv2d_up.cu has four. Rounding: w is used as it is, where the contract rounds the
// folded filter (so y is of that type too: in f32 the difference would be seen); dx' is rounded to dtype, where the
// contract has a part of a sum; y and dx once, as there.
// Scratch: x' or dx', then the convolution's.
#ifndef KERNELS_CONV2D_UP_CHAIN_CUH
#define KERNELS_CONV2D_UP_CHAIN_CUH
#include "kernels/common/device.cuh"
#include "kernels/conv2d/conv2d_up.h"
#include "kernels/resample/resample.h"

// Engine::find(launcher, Conv2dShape): the implementation of the plain convolution, or NULL. Its prepare() keeps no
// address, since scratch has one in run() only.
template <typename Engine> struct ConvUpChain {
    struct State { const Impl *impl; void *own; };

    // The convolution of the large image, dense in scratch.
    static Conv2dShape plain(const Conv2dUpShape *z, unsigned use) {
        Conv2dShape s = {};
        s.n = z->n, s.h = s.p = 2 * z->h, s.w = s.q = 2 * z->w;
        s.c = s.ldx = z->c, s.k = z->k, s.ldy = z->ldy;
        s.r = s.s = 3, s.stride = s.pad_h = s.pad_w = 1;
        s.use = use, s.dtype = z->dtype, s.out = z->out, s.lx = z->lx, s.ly = z->ly;
        return s;
    }
    static UpsampleShape resampled(const Conv2dUpShape *z) { return { z->n, z->h, z->w, z->c, z->dtype }; }
    static const Impl *resampler(const Launcher *l, const Conv2dUpShape *z) {
        UpsampleShape u = resampled(z);
        return impl_find(l, KERNEL_PASTE(DEV_, KERNEL_KIND, ), 80, &u, NULL);
    }
    static size_t large_bytes(const Conv2dUpShape *z) {
        size_t pixels = (size_t)z->n * 4 * (size_t)z->h * (size_t)z->w;
        return (pixels * (size_t)z->c * dtype_size(z->dtype) + 255) & ~(size_t)255;
    }

    static bool can(const Launcher *conv, const Launcher *resample, const Conv2dUpShape *z, unsigned use) {
        Conv2dShape s = plain(z, use);
        bool dense = z->ldx == z->c && z->lx == LAYOUT_NHWC;         // as the upsampling has it
        return dense && z->out == z->dtype && resampler(resample, z) && Engine::find(conv, &s);
    }
    static bool forward_can(const Conv2dUpShape *z) { return can(&conv2d_forward, &upsample2x_forward, z, z->use); }
    static bool input_can(const Conv2dUpShape *z) { return can(&conv2d_backward_input, &upsample2x_backward, z, 0); }
    static bool weight_can(const Conv2dUpShape *z) {
        return can(&conv2d_backward_weight, &upsample2x_forward, z, z->use);
    }

    static size_t scratch(const Launcher *conv, const Conv2dUpShape *z, unsigned use) {
        Conv2dShape s = plain(z, use);
        return large_bytes(z) + conv->scratch(Engine::find(conv, &s), &s);
    }
    static size_t forward_scratch(const Conv2dUpShape *z) { return scratch(&conv2d_forward, z, z->use); }
    static size_t input_scratch(const Conv2dUpShape *z) { return scratch(&conv2d_backward_input, z, 0); }
    static size_t weight_scratch(const Conv2dUpShape *z) { return scratch(&conv2d_backward_weight, z, z->use); }

    static void release(void *state) {
        State *a = static_cast<State *>(state);
        if (a && a->impl->release) a->impl->release(a->own);
        delete a;
    }
    // NULL: there is no engine.
    static void *prepare(const Launcher *conv, Stream *s, const Conv2dUpShape *z, unsigned use) {
        Conv2dShape shape = plain(z, use);
        Conv2dArgs none = {};
        const Impl *i = Engine::find(conv, &shape);
        void *own = conv->prepare(i, s, &shape, &none);
        return i->prepare && !own ? NULL : new State{ i, own };
    }
    static void *forward_prepare(Stream *s, const Conv2dUpShape *z, const Conv2dUpArgs *) {
        return prepare(&conv2d_forward, s, z, z->use);
    }
    static void *input_prepare(Stream *s, const Conv2dUpShape *z, const Conv2dUpArgs *) {
        return prepare(&conv2d_backward_input, s, z, 0);
    }
    static void *weight_prepare(Stream *s, const Conv2dUpShape *z, const Conv2dUpArgs *) {
        return prepare(&conv2d_backward_weight, s, z, z->use);
    }

    static void run_conv(const Launcher *conv, Stream *s, const Conv2dUpShape *z, unsigned use, const Conv2dArgs *a,
                         const Work &w) {
        const State *state = static_cast<const State *>(w.state);
        if (!state) {
            stream_fail(s, 1, "cuDNN does not start, or has no deterministic engine for this convolution");
            return;
        }
        Conv2dShape shape = plain(z, use);
        Work own = { state->own, static_cast<char *>(w.scratch) + large_bytes(z) };
        conv->run(state->impl, s, &shape, a, own);
    }
    static void run_resample(const Launcher *l, Stream *s, const Conv2dUpShape *z, const void *from, void *to) {
        UpsampleShape u = resampled(z);
        ResampleArgs a = { from, to };
        const Impl *i = resampler(l, z);
        l->run(i, s, &u, &a, {});
    }

    static void forward(Stream *s, const Conv2dUpShape *z, const Conv2dUpArgs *a, Work w) {
        Conv2dArgs args = {};
        args.x = w.scratch, args.w = a->w, args.bias = a->bias, args.y = a->y;
        run_resample(&upsample2x_forward, s, z, a->x, w.scratch);
        run_conv(&conv2d_forward, s, z, z->use, &args, w);
    }
    static void backward_input(Stream *s, const Conv2dUpShape *z, const Conv2dUpArgs *a, Work w) {
        Conv2dArgs args = {};
        args.dy = a->dy, args.w = a->w, args.dx = w.scratch;
        run_conv(&conv2d_backward_input, s, z, 0, &args, w);
        run_resample(&upsample2x_backward, s, z, w.scratch, a->dx);
    }
    static void backward_weight(Stream *s, const Conv2dUpShape *z, const Conv2dUpArgs *a, Work w) {
        Conv2dArgs args = {};
        args.x = w.scratch, args.dy = a->dy, args.dw = a->dw, args.dbias = a->dbias, args.accumulate = a->accumulate;
        if (a->dw) run_resample(&upsample2x_forward, s, z, a->x, w.scratch);
        run_conv(&conv2d_backward_weight, s, z, z->use, &args, w);
    }
};

#define CONV_UP_CHAIN(name, Engine)                                                                                 \
    IMPL_FULL(conv2d_up_forward, name, -1, 0, 0, ConvUpChain<Engine>::forward_can,                                  \
              ConvUpChain<Engine>::forward_scratch, ConvUpChain<Engine>::forward_prepare,                           \
              ConvUpChain<Engine>::forward, ConvUpChain<Engine>::release),                                          \
    IMPL_FULL(conv2d_up_backward_input, name, -1, 0, 0, ConvUpChain<Engine>::input_can,                             \
              ConvUpChain<Engine>::input_scratch, ConvUpChain<Engine>::input_prepare,                               \
              ConvUpChain<Engine>::backward_input, ConvUpChain<Engine>::release),                                   \
    IMPL_FULL(conv2d_up_backward_weight, name, -1, 0, 0, ConvUpChain<Engine>::weight_can,                           \
              ConvUpChain<Engine>::weight_scratch, ConvUpChain<Engine>::weight_prepare,                             \
              ConvUpChain<Engine>::backward_weight, ConvUpChain<Engine>::release)
#endif
