// kernels/conv2d/conv2d_mma_product.cuh - the product that is a convolution or its input gradient: operands, end.
#ifndef KERNELS_CONV2D_MMA_PRODUCT_CUH
#define KERNELS_CONV2D_MMA_PRODUCT_CUH
#include "kernels/conv2d/conv2d_mma.cuh"

// ---- the end of a sum: bias, time embedding, what is added, rounding
struct ConvFinish {
    void *y, *y2;                    // columns from `second` on are y2's
    int second, ldy, ldy2, columns;
    const float *bias, *temb;        // (columns), (images, columns), or NULL
    const bf16 *residual;            // (pixels, ldr), or NULL
    int ldr;
    bool f32, wide;                  // y is float; all of it may be read and written 16 bytes at a time
};

template <typename R> DEVICE void add_chunk(float (&v)[8], const R *p) {
    float4 low = load4(p), high = load4(p + 4);
    v[0] += low.x, v[1] += low.y, v[2] += low.z, v[3] += low.w;
    v[4] += high.x, v[5] += high.y, v[6] += high.z, v[7] += high.w;
}
DEVICE void store_chunk(float *p, const float (&v)[8]) {
    store4(p, make_float4(v[0], v[1], v[2], v[3]));
    store4(p + 4, make_float4(v[4], v[5], v[6], v[7]));
}
DEVICE void store_chunk(bf16 *p, const float (&v)[8]) {
    *reinterpret_cast<uint4 *>(p) = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]),
                                               pack_bf16(v[6], v[7]));
}

// Element by element: channel counts that are no multiple of 8, views at odd places.
DEVICE void finish_elements(const ConvFinish &f, int64_t pixel, int image, int column, const float (&v)[8]) {
    for (int i = 0; i < 8; i++) {
        int at = column + i;
        if (at >= f.columns) continue;
        float sum = v[i];
        if (f.bias) sum += f.bias[at];
        if (f.temb) sum += f.temb[(int64_t)image * f.columns + at];
        if (f.residual) sum += bf16_float(f.residual[pixel * f.ldr + at]);
        void *y = at < f.second ? f.y : f.y2;
        int64_t to = at < f.second ? pixel * f.ldy + at : pixel * f.ldy2 + at - f.second;
        if (y && f.f32) static_cast<float *>(y)[to] = sum;
        if (y && !f.f32) store_real(static_cast<bf16 *>(y) + to, sum);
    }
}

// Sums v of columns column..column+7 at a pixel of the result.
DEVICE void finish_chunk(const ConvFinish &f, int64_t pixel, int image, int column, float (&v)[8]) {
    if (!f.wide) {
        finish_elements(f, pixel, image, column, v);
        return;
    }
    if (f.bias) add_chunk(v, f.bias + column);
    if (f.temb) add_chunk(v, f.temb + (int64_t)image * f.columns + column);
    if (f.residual) add_chunk(v, f.residual + pixel * f.ldr + column);
    void *y = column < f.second ? f.y : f.y2;
    int64_t to = column < f.second ? pixel * f.ldy + column : pixel * f.ldy2 + column - f.second;
    if (!y) return;
    if (f.f32) store_chunk(static_cast<float *>(y) + to, v);
    else store_chunk(static_cast<bf16 *>(y) + to, v);
}

// ---- the product
struct ConvProduct {
    ConvSource x, x2;                    // (images, height, width, channels); x2.channels 0: one source
    int images, height, width;
    int result_h, result_w;
    int stride, pad_h, pad_w, r, s;
    const bf16 *filter;              // (k,r,s,c)
    int k, c;
    int tiles_n, splits;
    float *partial;                  // (splits, pixels of the result, partial_ld), or NULL: finish at once
    int partial_ld;
};

// The filter tile of a step: columns n0.. of the product, a tap, STEP terms from a channel of x or x2 (or dy) on.
template <class T, bool BACKWARD, bool ALIGNED>
DEVICE void copy_filter(unsigned char *to, const ConvProduct &g, int n0, int tap, bool second, int channel) {
    constexpr int CHUNKS = BACKWARD ? T::N / 8 : STEP / 8, ROWS = BACKWARD ? STEP : T::N;    // of the tile
    int filter_row = g.r * g.s * g.c, chunk = (int)threadIdx.x % CHUNKS;
    for (int i = 0; i < ROWS * CHUNKS / T::THREADS; i++) {
        int row = (int)threadIdx.x / CHUNKS + i * (T::THREADS / CHUNKS);
        if (BACKWARD) {
            int term = channel + row, column = n0 + chunk * 8, from = term * filter_row + tap * g.c + column;
            bool inside = term < g.k && column < g.c;
            copy_chunk<ALIGNED>(to + outer_chunk<T::N>(row, chunk), g.filter + (inside ? from : 0), inside);
        } else {
            int term = channel + chunk * 8, column = n0 + row;
            bool inside = column < g.k && term < (second ? g.x2.channels : g.x.channels);
            int from = column * filter_row + tap * g.c + (second ? g.x.channels : 0) + term;
            copy_chunk<ALIGNED>(to + inner_chunk(row, chunk), g.filter + (inside ? from : 0), inside);
        }
    }
}

// The end of a tile: partial sums, or the result. pixel_of(row, &image): where a row's pixel lies in the result.
template <class T, class PixelOf>
DEVICE void finish_tile(const Sums<T> &sums, unsigned char *shared, const ConvProduct &g, const ConvFinish &f, int m0,
                        int n0, int rows, int split, const PixelOf &pixel_of) {
    store_sums<T>(sums, shared, [&](int row, int column, float (&v)[8]) {
        row += m0;
        column += n0;
        if (row >= rows || column >= f.columns) return;
        int image = 0;
        int64_t pixel = pixel_of(row, &image), pixels = (int64_t)g.images * g.result_h * g.result_w;
        if (g.partial) store_chunk(g.partial + (split * pixels + pixel) * g.partial_ld + column, v);
        else finish_chunk(f, pixel, image, column, v);
    });
}
#endif
