// kernels/conv2d/conv2d_mma.cu - convolution and its input gradient in bf16 as implicit matrix products on mma.sync.
//
// Both are one product. A row is a pixel of the result, a column one of its channels, and a term a tap of the filter
// and a channel of the source: x and x2 forward, dy backward.
//   forward   source row of tap j = stride * p - pad + j          filter w[column][tap][term]: TERMS_INNER
//   backward  source row of tap j = (h + pad - j) / stride        filter w[term][tap][column]: TERMS_OUTER, as stored
// Backward with a stride, only every stride-th tap meets a pixel: the pixels of one phase, (h mod stride, w mod stride),
// share their taps, and each phase is a product of its own, at stride 2 of 1, 2, 2 and 4 taps of a 3x3 filter. Within a
// phase tap j = first + stride * t meets row  i + base - t  of dy for pixel  h = phase + stride * i.
//
// Tiles, shared memory and the main loop: conv2d_mma.cuh. Rows of the image tile come by cp.async per tap, zeros where
// the tap leaves the image; the taps of a tile meet in L2. Products with few tiles (8x8 and 4x4 images) are split over
// their terms into f32 sums in scratch, which a second kernel adds in order and finishes.
#include "kernels/common/device.cuh"
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
    float *partial;                  // (splits, rows, partial_ld), or NULL: finish at once
    int partial_ld;
};

// One dimension of a phase: tap first + step * t meets source pixel  i * scale + base + direction * t  for its pixel i.
struct Axis { int first, step, taps, count, scale, base, direction; };
template <bool BACKWARD> DEVICE Axis axis_of(int phase, int stride, int pad, int filter, int size) {
    if (!BACKWARD) return { 0, 1, filter, size, stride, -pad, 1 };
    int first = (phase + pad) % stride;
    return { first, stride, first < filter ? (filter - first + stride - 1) / stride : 0,
             (size - phase + stride - 1) / stride, 1, (phase + pad) / stride, -1 };
}

// What a thread copies: rows of the image tile, and where the next step begins. A step is a tap and STEP channels of one
// source.
template <class T> struct Walk {
    static constexpr int ROWS = T::M * 4 / T::THREADS;
    int at[ROWS], corner[ROWS];      // source pixel under tap 0: its index; row * 65536 + column, INT32_MIN past the rows
    int tap_h, tap_w, channel;
    bool second;                     // of the two sources
};
template <class T> DEVICE int walk_row(int i) { return (int)threadIdx.x / 4 + i * (T::THREADS / 4); }

template <class T>
DEVICE void walk_begin(Walk<T> &walk, const ConvProduct &g, const Axis &v, const Axis &h, int m0, int rows, int step) {
    for (int i = 0; i < Walk<T>::ROWS; i++) {
        int m = m0 + walk_row<T>(i), image = m / (v.count * h.count), pixel = m % (v.count * h.count);
        int row = pixel / h.count * v.scale + v.base, column = pixel % h.count * h.scale + h.base;
        walk.at[i] = (image * g.height + row) * g.width + column;
        walk.corner[i] = m < rows ? (int)((uint32_t)row << 16 | (uint32_t)(column & 0xFFFF)) : INT32_MIN;
    }
    int steps1 = (g.x.channels + STEP - 1) / STEP, per_tap = steps1 + (g.x2.channels + STEP - 1) / STEP;
    int tap = step / per_tap, rest = step % per_tap;
    walk.tap_h = h.taps ? tap / h.taps : 0;
    walk.tap_w = h.taps ? tap % h.taps : 0;
    walk.second = rest >= steps1;
    walk.channel = (walk.second ? rest - steps1 : rest) * STEP;
}

template <class T, bool ALIGNED>
DEVICE void copy_image(unsigned char *to, const Walk<T> &walk, const ConvProduct &g, const Axis &v, const Axis &h) {
    const bf16 *data = walk.second ? g.x2.data : g.x.data;
    int channels = walk.second ? g.x2.channels : g.x.channels, ld = walk.second ? g.x2.ld : g.x.ld;
    int chunk = (int)threadIdx.x % 4, term = walk.channel + chunk * 8;
    int down = v.direction * walk.tap_h, right = h.direction * walk.tap_w;
    for (int i = 0; i < Walk<T>::ROWS; i++) {
        int row = (walk.corner[i] >> 16) + down, column = (int16_t)(walk.corner[i] & 0xFFFF) + right;
        bool inside = term < channels && (unsigned)row < (unsigned)g.height && (unsigned)column < (unsigned)g.width;
        const bf16 *from = data + (inside ? (int64_t)(walk.at[i] + down * g.width + right) * ld + term : 0);
        copy_chunk<ALIGNED>(to + inner_chunk(walk_row<T>(i), chunk), from, inside);
    }
}

template <class T, bool BACKWARD, bool ALIGNED>
DEVICE void copy_filter(unsigned char *to, const Walk<T> &walk, const ConvProduct &g, const Axis &v, const Axis &h, int n0) {
    constexpr int CHUNKS = BACKWARD ? T::N / 8 : 4, ROWS = BACKWARD ? STEP : T::N;       // of the filter tile
    int tap = (v.first + v.step * walk.tap_h) * g.s + h.first + h.step * walk.tap_w;
    int filter_row = g.r * g.s * g.c, chunk = (int)threadIdx.x % CHUNKS;
    for (int i = 0; i < ROWS * CHUNKS / T::THREADS; i++) {
        int row = (int)threadIdx.x / CHUNKS + i * (T::THREADS / CHUNKS);
        if (BACKWARD) {
            int term = walk.channel + row, column = n0 + chunk * 8;
            bool inside = term < g.k && column < g.c;
            int from = term * filter_row + tap * g.c + column;
            copy_chunk<ALIGNED>(to + outer_chunk<T::N>(row, chunk), g.filter + (inside ? from : 0), inside);
        } else {
            int column = n0 + row, term = walk.channel + chunk * 8;
            bool inside = column < g.k && term < (walk.second ? g.x2.channels : g.x.channels);
            int from = column * filter_row + tap * g.c + (walk.second ? g.x.channels : 0) + term;
            copy_chunk<ALIGNED>(to + inner_chunk(row, chunk), g.filter + (inside ? from : 0), inside);
        }
    }
}

template <class T> DEVICE void walk_on(Walk<T> &walk, const ConvProduct &g, int taps_w) {
    walk.channel += STEP;
    if (walk.channel < (walk.second ? g.x2.channels : g.x.channels)) return;
    walk.channel = 0;
    walk.second = !walk.second && g.x2.channels;
    if (walk.second) return;
    walk.tap_w++;
    if (walk.tap_w < taps_w) return;
    walk.tap_w = 0;
    walk.tap_h++;
}

// Block x: tiles, columns first, so that blocks of one time share their pixels; z: splits or phases.
template <class T, bool BACKWARD, bool ALIGNED>
__global__ void __launch_bounds__(T::THREADS, T::BLOCKS) conv_product_kernel(ConvProduct g, ConvFinish f) {
    DYNAMIC_SHARED(unsigned char, shared);
    // Phases last to first: with the usual padding of 1 the last has the most taps, and what is longest starts first.
    int phases = BACKWARD ? g.stride * g.stride : 1, phase = phases - 1 - (int)blockIdx.z % phases;
    int split = (int)blockIdx.z / phases;
    int phase_h = BACKWARD ? phase / g.stride : 0, phase_w = BACKWARD ? phase % g.stride : 0;
    Axis v = axis_of<BACKWARD>(phase_h, g.stride, g.pad_h, g.r, g.result_h);
    Axis h = axis_of<BACKWARD>(phase_w, g.stride, g.pad_w, g.s, g.result_w);
    int rows = g.images * v.count * h.count;
    int m0 = (int)blockIdx.x / g.tiles_n * T::M, n0 = (int)blockIdx.x % g.tiles_n * T::N;
    if (m0 >= rows) return;                                  // phases differ in size at odd images

    int steps = v.taps * h.taps * ((g.x.channels + STEP - 1) / STEP + (g.x2.channels + STEP - 1) / STEP);
    int begin = (int)((int64_t)steps * split / g.splits), end = (int)((int64_t)steps * (split + 1) / g.splits);
    Walk<T> walk;
    walk_begin(walk, g, v, h, m0, rows, begin);
    Sums<T> sums;
    multiply<T, TERMS_INNER, BACKWARD ? TERMS_OUTER : TERMS_INNER>(sums, shared, end - begin, [&](unsigned char *stage) {
        copy_image<T, ALIGNED>(stage, walk, g, v, h);
        copy_filter<T, BACKWARD, ALIGNED>(stage + T::A_BYTES, walk, g, v, h, n0);
        walk_on(walk, g, h.taps);
    });

    store_sums<T>(sums, shared, [&](int row, int column, float (&value)[8]) {
        int m = m0 + row;
        if (m >= rows || n0 + column >= f.columns) return;
        if (g.partial) {
            store_chunk(g.partial + ((int64_t)split * rows + m) * g.partial_ld + n0 + column, value);
            return;
        }
        int image = f.temb || phases > 1 ? m / (v.count * h.count) : 0;
        int64_t pixel = m;
        if (phases > 1) {
            int rest = m - image * (v.count * h.count);
            int result_row = phase_h + g.stride * (rest / h.count), result_column = phase_w + g.stride * (rest % h.count);
            pixel = ((int64_t)image * g.result_h + result_row) * g.result_w + result_column;
        }
        finish_chunk(f, pixel, image, n0 + column, value);
    });
}

// Adds the splits in order. A thread: eight columns of a row.
__global__ void __launch_bounds__(256) conv_finish_splits_kernel(ConvFinish f, const float *partial, int partial_ld, int splits,
                                                            int rows, int pixels) {
    int64_t item = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int chunks = partial_ld / 8, row = (int)(item / chunks), column = (int)(item % chunks) * 8;
    if (row >= rows) return;
    float v[8] = { 0, 0, 0, 0, 0, 0, 0, 0 };
    for (int s = 0; s < splits; s++) add_chunk(v, partial + ((int64_t)s * rows + row) * partial_ld + column);
    finish_chunk(f, row, row / pixels, column, v);
}

// ---- which tile, how many splits: by the shape alone
// A model in clocks of an SM, for the 108 SMs of an A100 and the 132 of an H100: blocks come to an SM one after another
// (that two share it hides latencies, and changes no throughput), a step is bound by 1024 multiply-adds or 128 bytes of
// shared memory a clock, filling the pipeline and storing the tile cost some 1500 clocks, a second kernel some 3000,
// and partial sums are written and read at 24 bytes a clock and SM.
struct ConvExtent { int64_t rows; int columns, steps, phases; };
enum TileName { LARGE, NARROW, SMALL, TILE_NAMES };
struct ConvPlan { int tile, splits; };
enum { MOST_SPLITS = 16, FEWEST_STEPS = 6 };         // of a split

static double clocks_of(const ConvExtent *e, int tile, int splits, int sms) {
    static const double m[] = { LargeTile::M, NarrowTile::M, SmallTile::M };
    static const double n[] = { LargeTile::N, NarrowTile::N, SmallTile::N };
    static const double step[] = { 512, 288, 192 };          // Narrow and Small are bound by shared memory
    int64_t tiles = ceil_div(e->rows, (int64_t)m[tile]) * ceil_div(e->columns, (int64_t)n[tile]);
    int64_t turns = ceil_div(tiles * e->phases * splits, sms);
    double clocks = (double)turns * ((double)ceil_div(e->steps, splits) * step[tile] + 1500);
    if (splits > 1) clocks += 3000 + (double)e->rows * e->columns * 8 * splits / (24.0 * sms);
    return clocks;
}
static ConvPlan plan_of(const ConvExtent *e) {
    ConvPlan best = { LARGE, 1 };
    double fewest = 1e30;
    for (int tile = 0; tile < TILE_NAMES; tile++) {
        for (int splits = 1; splits <= (e->phases == 1 ? MOST_SPLITS : 1); splits++) {
            if (splits > 1 && e->steps / splits < FEWEST_STEPS) break;
            double clocks = clocks_of(e, tile, splits, 108) + clocks_of(e, tile, splits, 132);
            if (clocks < fewest) {
                fewest = clocks;
                best.tile = tile;
                best.splits = splits;
            }
        }
    }
    return best;
}
static ConvExtent forward_extent(const Conv2dShape *z) {
    int64_t per_tap = ceil_div(z->c, STEP) + ceil_div(z->c2, STEP);
    return { (int64_t)z->n * z->p * z->q, z->k, (int)(z->r * z->s * per_tap), 1 };
}
static ConvExtent backward_extent(const Conv2dShape *z) {        // of the largest phase
    int64_t taps = ceil_div(z->r, z->stride) * ceil_div(z->s, z->stride);
    return { z->n * ceil_div(z->h, z->stride) * ceil_div(z->w, z->stride), z->c + z->c2,
             (int)(taps * ceil_div(z->k, STEP)), z->stride * z->stride };
}
static size_t partial_bytes(const ConvExtent *e) {
    int splits = plan_of(e).splits;
    return splits > 1 ? (size_t)(e->rows * ceil_div(e->columns, 8) * 32 * splits) : 0;
}

template <class T, bool BACKWARD, bool ALIGNED>
static void launch_product(Stream *stream, const ConvExtent *e, ConvProduct g, ConvFinish f) {
    g.tiles_n = (int)ceil_div(e->columns, T::N);
    dim3 grid((unsigned)(ceil_div(e->rows, T::M) * g.tiles_n), 1, (unsigned)(e->phases * g.splits));
    LAUNCH(stream, (conv_product_kernel<T, BACKWARD, ALIGNED>), grid, dim3(T::THREADS), T::SHARED_BYTES, g, f);
}
template <bool BACKWARD> static void run_product(Stream *stream, const ConvExtent *e, ConvProduct g, ConvFinish f, Work work) {
    ConvPlan plan = plan_of(e);
    g.splits = plan.splits;
    g.partial_ld = (int)ceil_div(e->columns, 8) * 8;
    g.partial = plan.splits > 1 ? static_cast<float *>(work.scratch) : NULL;
    bool aligned = aligned16(g.x.data) && aligned16(g.x2.data) && aligned16(g.filter);
    if (!aligned) launch_product<SmallTile, BACKWARD, false>(stream, e, g, f);
    else if (plan.tile == LARGE) launch_product<LargeTile, BACKWARD, true>(stream, e, g, f);
    else if (plan.tile == NARROW) launch_product<NarrowTile, BACKWARD, true>(stream, e, g, f);
    else launch_product<SmallTile, BACKWARD, true>(stream, e, g, f);
    if (plan.splits == 1) return;
    int64_t items = e->rows * (g.partial_ld / 8);
    LAUNCH(stream, (conv_finish_splits_kernel), dim3((unsigned)ceil_div(items, 256)), dim3(256), 0, f, g.partial, g.partial_ld,
           plan.splits, (int)e->rows, g.result_h * g.result_w);
}

static bool is_wide(const ConvFinish *f) {
    return f->columns % 8 == 0 && f->second % 8 == 0 && f->ldy % 8 == 0 && f->ldy2 % 8 == 0 && f->ldr % 8 == 0 &&
           aligned16(f->y) && aligned16(f->y2) && aligned16(f->bias) && aligned16(f->temb) && aligned16(f->residual);
}

// ---- forward
static bool forward_can(const Conv2dShape *z) {
    return z->dtype == DT_BF16 && (z->out == DT_BF16 || z->out == DT_F32) && z->lx == LAYOUT_NHWC &&
           z->ly == LAYOUT_NHWC && !(z->use & ~(CONV_X2 | CONV_BIAS | CONV_TEMB | CONV_RESIDUAL)) && !z->cs && !z->cs2 &&
           whole_chunks(z->c, z->ldx) && whole_chunks(z->c2, z->ldx2) && z->k > 8 && sizes_fit(z);
}
static size_t forward_scratch(const Conv2dShape *z) {
    ConvExtent e = forward_extent(z);
    return partial_bytes(&e);
}
static void forward(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, Work work) {
    ConvExtent e = forward_extent(z);
    ConvProduct g = {};
    g.x = { static_cast<const bf16 *>(a->x), z->c, z->ldx };
    g.x2 = { static_cast<const bf16 *>(a->x2), z->c2, z->ldx2 };
    g.images = z->n, g.height = z->h, g.width = z->w, g.result_h = z->p, g.result_w = z->q;
    g.stride = z->stride, g.pad_h = z->pad_h, g.pad_w = z->pad_w, g.r = z->r, g.s = z->s;
    g.filter = static_cast<const bf16 *>(a->w), g.k = z->k, g.c = z->c + z->c2;
    ConvFinish f = {};
    f.y = a->y, f.second = (z->k + 7) / 8 * 8, f.ldy = z->ldy, f.columns = z->k;
    f.bias = a->bias, f.temb = a->temb;
    f.residual = static_cast<const bf16 *>(a->residual), f.ldr = a->residual ? z->ldr : 0;
    f.f32 = z->out == DT_F32;
    f.wide = is_wide(&f);
    run_product<false>(stream, &e, g, f, work);
}

// ---- backward to the input
static bool backward_input_can(const Conv2dShape *z) {
    return z->dtype == DT_BF16 && z->out == DT_BF16 && z->lx == LAYOUT_NHWC && z->ly == LAYOUT_NHWC &&
           !(z->use & ~(CONV_X2 | CONV_BIAS | CONV_TEMB | CONV_RESIDUAL)) && whole_chunks(z->k, z->ldy) && z->c % 8 == 0 &&
           z->c2 % 8 == 0 && sizes_fit(z);
}
static size_t backward_input_scratch(const Conv2dShape *z) {
    ConvExtent e = backward_extent(z);
    return partial_bytes(&e);
}
static void backward_input(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, Work work) {
    ConvExtent e = backward_extent(z);
    ConvProduct g = {};
    g.x = { static_cast<const bf16 *>(a->dy), z->k, z->ldy };
    g.images = z->n, g.height = z->p, g.width = z->q, g.result_h = z->h, g.result_w = z->w;
    g.stride = z->stride, g.pad_h = z->pad_h, g.pad_w = z->pad_w, g.r = z->r, g.s = z->s;
    g.filter = static_cast<const bf16 *>(a->w), g.k = z->k, g.c = z->c + z->c2;
    ConvFinish f = {};
    f.y = a->dx, f.y2 = a->dx2, f.second = z->c, f.ldy = z->ldx, f.ldy2 = z->c2 ? z->ldx2 : 0, f.columns = z->c + z->c2;
    f.residual = static_cast<const bf16 *>(a->add), f.ldr = z->c + z->c2;
    f.wide = is_wide(&f);
    run_product<true>(stream, &e, g, f, work);
}

IMPLS(conv2d_mma,
    IMPL_FULL(conv2d_forward, "mma", 50, 80, 0, forward_can, forward_scratch, NULL, forward, NULL),
    IMPL_FULL(conv2d_backward_input, "mma", 50, 80, 0, backward_input_can, backward_input_scratch, NULL,
              backward_input, NULL))
