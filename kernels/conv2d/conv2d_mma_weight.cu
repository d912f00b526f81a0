// kernels/conv2d/conv2d_mma_weight.cu - the gradients of filter, bias and time embedding in bf16 on mma.sync.
//
//   dw[k,r,s,c] = sum over pixels of dy[pixel,k] x[pixel under tap (r,s), c]
// is for each tap a product of dy and x, both with their terms, the pixels, outermost: TERMS_OUTER of conv2d_mma.cuh. A
// tile has M output channels and N input channels of one tap and one source. There are few tiles (36 for a 3x3 filter of
// 256 x 256 channels at 128 x 128) and many pixels, so the pixels are split over blocks: each split writes f32 sums into
// scratch, and a second kernel adds them in order, to what was there if asked. The split depends on the shape alone.
//
// The nine taps of a split run at the same time and find their pixels in L2: 64 FLOP for each byte from there.
// dtemb and dbias: sums over the pixels of an image, then over images, each in one order.
#include "kernels/common/device.cuh"
#include "kernels/conv2d/conv2d_mma.cuh"

struct ConvWeightProduct {
    const bf16 *dy;
    int ldy, k;
    ConvSource x, x2;
    int h, w, p, q, r, s, stride, pad_h, pad_w;
    int pixels, steps, splits;       // of dy; STEPs of them
    int tiles_m, tiles_x, tiles_c;   // tiles along k, along x's channels, along those of both sources
    int ahead_image, ahead_row, ahead_column;        // how far a thread's next pixel of x lies from its last
    float *sums;                     // (splits, k, r * s, c + c2): scratch, or dw itself
    bool accumulate;                 // onto dw
};

// Where a thread's copies go on: a pixel of dy by number for the one operand, by place for the other.
struct PixelWalk { int dy_pixel, x_pixel, image, row, column; };

// dy of one step: channels m0.. of STEP pixels from the walk's on, zeros from `end` on.
template <class T, bool ALIGNED> DEVICE void copy_dy(unsigned char *to, PixelWalk &at, const ConvWeightProduct &g, int m0,
                                                     int end) {
    constexpr int CHUNKS = T::M / 8, ROWS = T::THREADS / CHUNKS;
    int chunk = (int)threadIdx.x % CHUNKS, channel = m0 + chunk * 8;
    for (int i = 0; i < STEP / ROWS; i++) {
        bool inside = at.dy_pixel < end && channel < g.k;
        const bf16 *from = g.dy + (inside ? (int64_t)at.dy_pixel * g.ldy + channel : 0);
        copy_chunk<ALIGNED>(to + outer_chunk<T::M>((int)threadIdx.x / CHUNKS + i * ROWS, chunk), from, inside);
        at.dy_pixel += ROWS;
    }
}

// x of one step under a tap, whose place relative to the window of pixel (0,0) of dy is (down, right).
template <class T, bool ALIGNED> DEVICE void copy_x(unsigned char *to, PixelWalk &at, const ConvWeightProduct &g,
                                                    const ConvSource &x, int channel, int down, int right, int end) {
    constexpr int CHUNKS = T::N / 8, ROWS = T::THREADS / CHUNKS;
    int chunk = (int)threadIdx.x % CHUNKS;
    channel += chunk * 8;
    for (int i = 0; i < STEP / ROWS; i++) {
        int row = at.row * g.stride + down, column = at.column * g.stride + right;
        bool inside = at.x_pixel < end && channel < x.channels && (unsigned)row < (unsigned)g.h &&
                      (unsigned)column < (unsigned)g.w;
        int pixel = (at.image * g.h + row) * g.w + column;
        copy_chunk<ALIGNED>(to + outer_chunk<T::N>((int)threadIdx.x / CHUNKS + i * ROWS, chunk),
                            x.data + (inside ? (int64_t)pixel * x.ld + channel : 0), inside);
        at.x_pixel += ROWS;                  // and the same by place, without a division
        at.column += g.ahead_column;
        int wrap = at.column >= g.q;
        at.column -= wrap ? g.q : 0;
        at.row += g.ahead_row + wrap;
        wrap = at.row >= g.p;
        at.row -= wrap ? g.p : 0;
        at.image += g.ahead_image + wrap;
    }
}

// Block x: tiles, y: splits. The tiles of a split are neighbours in time and share their pixels.
template <class T, bool ALIGNED>
__global__ void __launch_bounds__(T::THREADS, T::BLOCKS) conv_weight_product_kernel(ConvWeightProduct g) {
    DYNAMIC_SHARED(unsigned char, shared);
    int taps = g.r * g.s, tile = (int)blockIdx.x, m0 = tile % g.tiles_m * T::M;
    int tap = tile / g.tiles_m % taps, tile_c = tile / (g.tiles_m * taps);
    bool second = tile_c >= g.tiles_x;
    ConvSource x = { second ? g.x2.data : g.x.data, second ? g.x2.channels : g.x.channels, second ? g.x2.ld : g.x.ld };
    int channel = (second ? tile_c - g.tiles_x : tile_c) * T::N, channels = g.x.channels + g.x2.channels;
    int down = tap / g.s - g.pad_h, right = tap % g.s - g.pad_w;

    int split = (int)blockIdx.y;
    int begin = (int)((int64_t)g.steps * split / g.splits), steps = (int)((int64_t)g.steps * (split + 1) / g.splits) - begin;
    PixelWalk at;
    at.dy_pixel = begin * STEP + (int)threadIdx.x / (T::M / 8);
    at.x_pixel = begin * STEP + (int)threadIdx.x / (T::N / 8);
    at.image = at.x_pixel / (g.p * g.q);
    at.row = at.x_pixel % (g.p * g.q) / g.q;
    at.column = at.x_pixel % g.q;
    Sums<T> sums;
    multiply<T, TERMS_OUTER, TERMS_OUTER>(sums, shared, steps, [&](unsigned char *stage) {
        copy_dy<T, ALIGNED>(stage, at, g, m0, g.pixels);
        copy_x<T, ALIGNED>(stage + T::A_BYTES, at, g, x, channel, down, right, g.pixels);
    });

    store_sums<T>(sums, shared, [&](int row, int column, float (&v)[8]) {
        if (m0 + row >= g.k || channel + column >= x.channels) return;
        float *to = g.sums + (((int64_t)split * g.k + m0 + row) * taps + tap) * channels + (second ? g.x.channels : 0) +
                    channel + column;
        float4 low = make_float4(v[0], v[1], v[2], v[3]), high = make_float4(v[4], v[5], v[6], v[7]);
        if (g.accumulate) {
            float4 a = load4(to), b = load4(to + 4);
            low = make_float4(a.x + low.x, a.y + low.y, a.z + low.z, a.w + low.w);
            high = make_float4(b.x + high.x, b.y + high.y, b.z + high.z, b.w + high.w);
        }
        store4(to, low);
        store4(to + 4, high);
    });
}

// dw (+)= the splits in order; n: elements of dw, a multiple of 4. A thread: 4 of them.
__global__ void __launch_bounds__(256) conv_add_splits_kernel(float *dw, const float *sums, int64_t n, int splits,
                                                         bool accumulate) {
    int64_t at = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (at >= n) return;
    float4 sum = make_float4(0, 0, 0, 0);
    for (int s = 0; s < splits; s++) {
        float4 v = load4(sums + s * n + at);
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    if (accumulate) {
        float4 v = load4(dw + at);
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    store4(dw + at, sum);
}

// ---- sums of dy
// sums[i,k] = sum over the pixels of image i. Block: 64 channels, eight to a thread, of image y; 32 pixels at a time.
template <bool ALIGNED>
__global__ void __launch_bounds__(256) conv_image_sums_kernel(const bf16 *dy, int ldy, int pixels, int k, float *sums) {
    SHARED(float, part, 32 * 65);
    int lane = (int)threadIdx.x / 8, chunk = (int)threadIdx.x % 8, channel = (int)blockIdx.x * 64 + chunk * 8;
    const bf16 *from = dy + (int64_t)blockIdx.y * pixels * ldy + channel;
    float sum[8] = { 0, 0, 0, 0, 0, 0, 0, 0 };
    for (int p = lane; p < pixels && channel < k; p += 32) {
        const bf16 *pixel = from + (int64_t)p * ldy;
        if (ALIGNED) {
            uint4 v = *reinterpret_cast<const uint4 *>(pixel);
            sum[0] += bf16_low(v.x), sum[1] += bf16_high(v.x), sum[2] += bf16_low(v.y), sum[3] += bf16_high(v.y);
            sum[4] += bf16_low(v.z), sum[5] += bf16_high(v.z), sum[6] += bf16_low(v.w), sum[7] += bf16_high(v.w);
        } else {
            for (int j = 0; j < 8; j++) sum[j] += bf16_float(pixel[j]);
        }
    }
    for (int j = 0; j < 8; j++) part[lane * 65 + chunk * 8 + j] = sum[j];
    __syncthreads();
    channel = (int)blockIdx.x * 64 + (int)threadIdx.x;
    if (threadIdx.x >= 64 || channel >= k) return;
    float all = 0;
    for (int l = 0; l < 32; l++) all += part[l * 65 + (int)threadIdx.x];
    sums[(int64_t)blockIdx.y * k + channel] = all;
}

// dbias[k] (+)= sum over images. Block: 32 channels, 8 images at a time.
__global__ void __launch_bounds__(256) conv_bias_sums_kernel(const float *sums, int images, int k, float *dbias,
                                                        bool accumulate) {
    SHARED(float, part, 8 * 32);
    int lane = (int)threadIdx.x / 32, channel = (int)blockIdx.x * 32 + (int)threadIdx.x % 32;
    float sum = 0;
    for (int i = lane; i < images && channel < k; i += 8) sum += sums[(int64_t)i * k + channel];
    part[threadIdx.x] = sum;
    __syncthreads();
    if (lane || channel >= k) return;
    sum = accumulate ? dbias[channel] : 0.0f;
    for (int l = 0; l < 8; l++) sum += part[l * 32 + (int)threadIdx.x];
    dbias[channel] = sum;
}

// ---- tiles and splits, by the shape alone
// Splits fill 216 places, two blocks on each of the 108 SMs of an A100: the tiles of 3x3 filters between multiples of
// 128 channels divide it (9, 18, 27, 36, 54, 72). A split has at least MIN_STEPS, so that filling its pipeline and
// writing its sums do not outweigh its products.
enum { PLACES = 216, MIN_STEPS = 8 };
enum TileName { LARGE, NARROW, SMALL };
static int tile_of(const Conv2dShape *z) {
    int widest = z->c > z->c2 ? z->c : z->c2;
    return widest <= 64 ? (z->k <= 64 ? SMALL : NARROW) : z->k <= 64 ? SMALL : LARGE;
}
static int64_t steps_of(const Conv2dShape *z) { return ceil_div((int64_t)z->n * z->p * z->q, STEP); }
static int splits_of(const Conv2dShape *z) {
    int tile = tile_of(z);
    int64_t m = tile == SMALL ? 64 : 128, n = tile == LARGE ? 128 : 64;
    int64_t tiles = ceil_div(z->k, m) * z->r * z->s * (ceil_div(z->c, n) + ceil_div(z->c2, n));
    int64_t splits = PLACES / tiles, most = steps_of(z) / MIN_STEPS;
    splits = splits < most ? splits : most;
    return (int)(splits > 1 ? splits : 1);
}

// Scratch: (n,k) sums of images where dbias is wanted without dtemb, then the splits.
static size_t image_sums_bytes(const Conv2dShape *z) {
    if (!(z->use & CONV_BIAS) || z->use & CONV_TEMB) return 0;
    return ((size_t)z->n * (size_t)z->k * sizeof(float) + 255) / 256 * 256;
}
static int64_t filter_elements(const Conv2dShape *z) { return (int64_t)z->k * z->r * z->s * (z->c + z->c2); }
static size_t backward_weight_scratch(const Conv2dShape *z) {
    int splits = splits_of(z);
    return image_sums_bytes(z) + (splits > 1 ? (size_t)splits * (size_t)filter_elements(z) * sizeof(float) : 0);
}

static bool backward_weight_can(const Conv2dShape *z) {
    return z->dtype == DT_BF16 && z->out == DT_BF16 && z->lx == LAYOUT_NHWC && z->ly == LAYOUT_NHWC &&
           !(z->use & ~(CONV_X2 | CONV_BIAS | CONV_TEMB | CONV_RESIDUAL)) && whole_chunks(z->c, z->ldx) &&
           whole_chunks(z->c2, z->ldx2) && whole_chunks(z->k, z->ldy) && sizes_fit(z) && z->n <= 65535;
}

template <class T, bool ALIGNED> static void launch_weight_product(Stream *stream, ConvWeightProduct g) {
    constexpr int ROWS = T::THREADS / (T::N / 8);        // pixels from one of a thread's copies of x to the next
    g.ahead_image = ROWS / (g.p * g.q);
    g.ahead_row = ROWS % (g.p * g.q) / g.q;
    g.ahead_column = ROWS % g.q;
    g.tiles_m = (int)ceil_div(g.k, T::M);
    g.tiles_x = (int)ceil_div(g.x.channels, T::N);
    g.tiles_c = g.tiles_x + (int)ceil_div(g.x2.channels, T::N);
    dim3 grid((unsigned)(g.tiles_m * g.tiles_c * g.r * g.s), (unsigned)g.splits);
    LAUNCH(stream, (conv_weight_product_kernel<T, ALIGNED>), grid, dim3(T::THREADS), T::SHARED_BYTES, g);
}

static void filter_gradient(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, float *scratch) {
    int splits = splits_of(z), tile = tile_of(z);
    ConvWeightProduct g = {};
    g.dy = static_cast<const bf16 *>(a->dy), g.ldy = z->ldy, g.k = z->k;
    g.x = { static_cast<const bf16 *>(a->x), z->c, z->ldx };
    g.x2 = { static_cast<const bf16 *>(a->x2), z->c2, z->ldx2 };
    g.h = z->h, g.w = z->w, g.p = z->p, g.q = z->q, g.r = z->r, g.s = z->s;
    g.stride = z->stride, g.pad_h = z->pad_h, g.pad_w = z->pad_w;
    g.pixels = z->n * z->p * z->q, g.steps = (int)steps_of(z), g.splits = splits;
    g.sums = splits > 1 ? scratch : a->dw;
    g.accumulate = splits == 1 && a->accumulate;
    bool aligned = aligned16(a->dy) && aligned16(a->x) && aligned16(a->x2);
    if (!aligned) launch_weight_product<SmallTile, false>(stream, g);
    else if (tile == LARGE) launch_weight_product<LargeTile, true>(stream, g);
    else if (tile == NARROW) launch_weight_product<NarrowTile, true>(stream, g);
    else launch_weight_product<SmallTile, true>(stream, g);
    if (splits == 1) return;
    int64_t n = filter_elements(z);
    LAUNCH(stream, (conv_add_splits_kernel), dim3((unsigned)ceil_div(n, 1024)), dim3(256), 0, a->dw, scratch, n, splits,
           a->accumulate);
}

static void backward_weight(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, Work work) {
    unsigned char *scratch = static_cast<unsigned char *>(work.scratch);
    if (a->dtemb || a->dbias) {
        float *sums = a->dtemb ? a->dtemb : reinterpret_cast<float *>(scratch);
        const bf16 *dy = static_cast<const bf16 *>(a->dy);
        dim3 grid((unsigned)ceil_div(z->k, 64), (unsigned)z->n);
        if (aligned16(dy)) {
            LAUNCH(stream, (conv_image_sums_kernel<true>), grid, dim3(256), 0, dy, z->ldy, z->p * z->q, z->k, sums);
        } else {
            LAUNCH(stream, (conv_image_sums_kernel<false>), grid, dim3(256), 0, dy, z->ldy, z->p * z->q, z->k, sums);
        }
        if (a->dbias) {
            LAUNCH(stream, (conv_bias_sums_kernel), dim3((unsigned)ceil_div(z->k, 32)), dim3(256), 0, sums, z->n, z->k,
                   a->dbias, a->accumulate);
        }
    }
    if (a->dw) filter_gradient(stream, z, a, reinterpret_cast<float *>(scratch + image_sums_bytes(z)));
}

IMPLS(conv2d_mma_weight,
    IMPL_FULL(conv2d_backward_weight, "mma", 50, 80, 0, backward_weight_can, backward_weight_scratch, NULL,
              backward_weight, NULL))
