// kernels/conv2d/conv2d.cu - the general convolution forward and backward to the input: any shape, any optional part.
//
// Both are one implicit product, on CUDA cores in full f32: rows are output pixels (of y, or of dx), columns the
// channels there, and the sum runs over taps x channels of what is gathered (x, or dy). For dx with a stride, rows are
// split into stride x stride phases, pixels whose coordinates leave the same remainder, because each phase meets the
// same taps only; it then gathers with unit steps like any other. The sources of one sum follow each other: x and x2 of
// the concat, which is never stored, and the 1x1 shortcut's xs and xs2.
// A step takes 16 channels of one tap: the next one's quads are on their way from memory into registers while this one
// is multiplied out of shared memory (two buffers, one barrier a step). Tiles of 128x128 do 16 FMAs per byte
// that a block reads from L2 (2 TB/s at an H100's f32 rate), those of 64x64 do 8 and serve where the wide ones would
// leave multiprocessors idle. bf16 here is for shapes that the tensor-core kernels refuse.
// Rare parts are passes of their own: the norm prologue writes the activated input into scratch first; silu's slope,
// mask and sums follow on the f32 gradient in scratch; statistics are taken from y as stored.
#include "kernels/conv2d/conv2d_epilogue.cuh"
#include "kernels/conv2d/conv2d_prologue.cuh"
#include "kernels/conv2d/conv2d_tile.cuh"

// Taps along one axis: tap i of row pixel y reads pixel y * scale + first + i * step and filter row from + i * by.
struct Taps { int count, first, from; };

// One source of the sum: where its pixels and its part of the filter are.
struct Source {
    const void *image, *w;
    int64_t per_filter;                  // elements of w from one of its k filters to the next
    int channels, ld, height, width;     // of the image that is gathered
    int per_tap, across, scale;          // of w from tap to tap; taps in its rows; of the positions
    Taps y, x;
};
// What the kernel reads through the constant bank, where indexing costs no registers. by, step: of the taps.
struct Gather { Source source[4]; int sources, step, by; };

// Where a row of the product lies: image and pixel (y * stride + phase_y, x * stride + phase_x) of it in the tensor
// that is written, whose index is `pixel`; -1: past the last row.
struct Place { int image, y, x, pixel; };

// Places of the block's rows, one per thread. n images (height,width).
template <int TILE>
DEVICE void find_places(Place *places, int first_row, int n, int height, int width, int stride, int phase) {
    int phase_y = phase / stride, phase_x = phase % stride, row = first_row + (int)threadIdx.x;
    int count_y = (height - phase_y + stride - 1) / stride, count_x = (width - phase_x + stride - 1) / stride;
    if ((int)threadIdx.x >= TILE) return;
    int x = row % count_x, y = row / count_x % count_y, image = row / count_x / count_y;
    int pixel = (image * height + y * stride + phase_y) * width + x * stride + phase_x;
    places[threadIdx.x] = { image, y, x, image < n ? pixel : -1 };
}

// A block's walk over the steps of its sum.
struct Walk {
    int at, tap_y, tap_x, channel;       // of the step: source, tap, first channel
    Taps y, x;                           // BACKWARD: of this phase
};
DEVICE Taps phase_taps(int count, int padding, int stride, int phase) {
    int from = ((phase + padding) % stride + stride) % stride;
    return { count > from ? (count - from + stride - 1) / stride : 0, (phase + padding - from) / stride, from };
}

// To the next step; false: there is none.
template <bool BACKWARD> DEVICE bool walk_next(Walk &w, const Gather &g) {
    const Source &s = g.source[w.at];
    w.channel += TILE_DEPTH;
    if (w.channel < s.channels) return true;
    w.channel = 0;
    if (++w.tap_x < (BACKWARD ? w.x.count : s.x.count)) return true;
    w.tap_x = 0;
    if (++w.tap_y < (BACKWARD ? w.y.count : s.y.count)) return true;
    w.tap_y = 0;
    return ++w.at < g.sources;
}

// A quad of channels of two rows; of B a quad of channels of two columns or, BACKWARD, where the filter is contiguous
// in the columns, a quad of columns of two channels.
template <typename E, int TILE, bool BACKWARD>
DEVICE void walk_load(const Walk &w, const Gather &g, const Conv2dShape &z, const Place *places, int columns,
                      int first_column, float4 (&qa)[TILE_LOADS], float4 (&qb)[TILE_LOADS]) {
    const Source &s = g.source[w.at];
    const Taps &ty = BACKWARD ? w.y : s.y, &tx = BACKWARD ? w.x : s.x;
    int thread = (int)threadIdx.x, c = w.channel + thread % (TILE_DEPTH / 4) * 4;
    int top = ty.first + w.tap_y * g.step, left = tx.first + w.tap_x * g.step;
#pragma unroll
    for (int j = 0; j < TILE_LOADS; j++) {
        Place row = places[(thread + j * Tiling<TILE>::threads) / (TILE_DEPTH / 4)];
        int y = row.y * s.scale + top, x = row.x * s.scale + left;
        bool inside = row.pixel >= 0 && (unsigned)y < (unsigned)s.height && (unsigned)x < (unsigned)s.width;
        int64_t at = ((int64_t)(row.image * s.height + y) * s.width + x) * s.ld + c;
        qa[j] = load_quad<E>(s.image, BACKWARD ? z.out : z.dtype, at, inside ? s.channels - c : 0);
    }
    int64_t tap = ((int64_t)(ty.from + w.tap_y * g.by) * s.across + tx.from + w.tap_x * g.by) * s.per_tap;
#pragma unroll
    for (int j = 0; j < TILE_LOADS; j++) {
        int item = thread + j * Tiling<TILE>::threads;
        if (BACKWARD) {
            int k = w.channel + item / (TILE / 4), column = first_column + item % (TILE / 4) * 4;
            qb[j] = load_quad<E>(s.w, z.dtype, k * s.per_filter + tap + column, k < s.channels ? columns - column : 0);
        } else {
            int column = first_column + item / (TILE_DEPTH / 4);
            qb[j] = load_quad<E>(s.w, z.dtype, column * s.per_filter + tap + c, column < columns ? s.channels - c : 0);
        }
    }
}

template <int TILE, bool BACKWARD>
DEVICE void walk_store(float *a, float *b, const float4 (&qa)[TILE_LOADS], const float4 (&qb)[TILE_LOADS]) {
#pragma unroll
    for (int j = 0; j < TILE_LOADS; j++) {
        int item = (int)threadIdx.x + j * Tiling<TILE>::threads;
        int k = item % (TILE_DEPTH / 4) * 4, column = item / (TILE_DEPTH / 4);
        tile_store_k<TILE>(a, k, column, qa[j]);
        if (BACKWARD) tile_store_columns<TILE>(b, item / (TILE / 4), item % (TILE / 4) * 4, qb[j]);
        else tile_store_k<TILE>(b, k, column, qb[j]);
    }
}

// y at one pixel, channels o..o+3 of which `count` exist.
template <typename E>
DEVICE void store_output(const Conv2dShape &z, const Conv2dArgs &a, int pixel, int o, int count, float4 v) {
    if (a.bias) v = quad_add(v, load_reals<E>(a.bias, o, count));
    if (a.temb) v = quad_add(v, load_reals<E>(a.temb, (int64_t)(pixel / (z.p * z.q)) * z.k + o, count));
    if (a.residual) v = quad_add(v, load_quad<E>(a.residual, z.dtype, (int64_t)pixel * z.ldr + o, count));
    store_quad<E>(a.y, z.out, (int64_t)pixel * z.ldy + o, count, v);
}

// y, or dx and dx2; gradient: where BACKWARD leaves da (n,h,w,c+c2) for conv_finish_kernel instead, NULL: nowhere.
template <typename E, int TILE, bool BACKWARD>
static __global__ void __launch_bounds__(Tiling<TILE>::threads, Tiling<TILE>::blocks)
conv_gather_kernel(Conv2dShape z, Conv2dArgs a, Gather g, float *gradient) {
    typedef Tiling<TILE> T;
    SHARED(float4, steps, 4 * T::quads);
    SHARED(Place, places, TILE);
    float *shared = (float *)steps;                            // A, B of one step, A, B of the next
    constexpr int floats = 4 * T::quads;                       // of an operand
    int columns = BACKWARD ? z.c + z.c2 : z.k, across = (columns + TILE - 1) / TILE;
    int stride = BACKWARD ? z.stride : 1, tiles = (int)gridDim.x / (stride * stride), phase = (int)blockIdx.x / tiles;
    int tile = (int)blockIdx.x % tiles, first_column = tile % across * TILE;
    find_places<TILE>(places, tile / across * TILE, z.n, BACKWARD ? z.h : z.p, BACKWARD ? z.w : z.q, stride, phase);
    __syncthreads();
    if (places[0].pixel < 0) return;                           // this phase has fewer rows than the largest

    int row = tile_row<TILE>(), col = tile_col<TILE>(), now = 0;
    float sum[8][T::cols];
    tile_clear<TILE>(sum);
    Walk w = {};
    float4 qa[TILE_LOADS], qb[TILE_LOADS];
    if (BACKWARD) {
        w.y = phase_taps(z.r, z.pad_h, stride, phase / stride);
        w.x = phase_taps(z.s, z.pad_w, stride, phase % stride);
    }
    bool more = !BACKWARD || (w.y.count > 0 && w.x.count > 0);
    if (more) {
        walk_load<E, TILE, BACKWARD>(w, g, z, places, columns, first_column, qa, qb);
        walk_store<TILE, BACKWARD>(shared, shared + floats, qa, qb);
    }
    __syncthreads();
    while (more) {
        more = walk_next<BACKWARD>(w, g);
        if (more) walk_load<E, TILE, BACKWARD>(w, g, z, places, columns, first_column, qa, qb);
        tile_multiply<TILE>(shared + now * 2 * floats, shared + (now * 2 + 1) * floats, row, col, sum);
        now ^= 1;                                              // read last before the previous barrier
        if (more)
            walk_store<TILE, BACKWARD>(shared + now * 2 * floats, shared + (now * 2 + 1) * floats, qa, qb);
        __syncthreads();
    }

#pragma unroll
    for (int i = 0; i < 8; i++) {
        int pixel = places[row + i / 4 * 4 * T::lane_rows + i % 4].pixel;
        if (pixel < 0) continue;
#pragma unroll
        for (int j = 0; j < T::col_quads; j++) {
            int column = first_column + col + j * 4 * T::lane_cols, count = columns - column;
            float4 v = make_float4(sum[i][4 * j], sum[i][4 * j + 1], sum[i][4 * j + 2], sum[i][4 * j + 3]);
            if (count <= 0) continue;
            if (!BACKWARD) store_output<E>(z, a, pixel, column, count, v);
            else if (gradient) store_quad<E>(gradient, DT_F32, (int64_t)pixel * columns + column, count, v);
            else store_input_gradient<E>(z, a, pixel, column, count, v);
        }
    }
}

// ---- launches. How wide a tile: 128 where enough of them keep 132 multiprocessors busy, and no column idles much.
static int gather_tile(int64_t rows, int columns) {
    return columns > 64 && ceil_div(rows, 128) * ceil_div(columns, 128) >= 132 ? 128 : 64;
}

// x, x2, and the shortcut's xs, xs2, as far as they are there.
static Gather forward_sources(const Conv2dShape *z, const Conv2dArgs *a) {
    int c = z->c + z->c2, cs = z->cs + z->cs2, n = 0;
    int64_t filter = (int64_t)z->r * z->s * c, size = (int64_t)dtype_size(z->dtype);
    Taps y = { z->r, -z->pad_h, 0 }, x = { z->s, -z->pad_w, 0 }, one = { 1, 0, 0 };
    const char *w = (const char *)a->w, *ws = (const char *)a->ws;
    Gather g = {};
    g.step = g.by = 1;
    g.source[n++] = { a->x, w, filter, z->c, z->ldx, z->h, z->w, c, z->s, z->stride, y, x };
    if (z->c2 > 0)
        g.source[n++] = { a->x2, w + z->c * size, filter, z->c2, z->ldx2, z->h, z->w, c, z->s, z->stride, y, x };
    if (z->cs > 0) g.source[n++] = { a->xs, ws, cs, z->cs, z->lds, z->p, z->q, cs, 1, 1, one, one };
    if (z->cs2 > 0) g.source[n++] = { a->xs2, ws + z->cs * size, cs, z->cs2, z->lds2, z->p, z->q, cs, 1, 1, one, one };
    g.sources = n;
    return g;
}
// dy, its taps walked backwards; the phase says which.
static Gather backward_sources(const Conv2dShape *z, const Conv2dArgs *a) {
    int c = z->c + z->c2;
    Taps none = {};
    Gather g = {};
    g.sources = 1;
    g.step = -1;
    g.by = z->stride;
    g.source[0] = { a->dy, a->w, (int64_t)z->r * z->s * c, z->k, z->ldy, z->p, z->q, c, z->s, 1, none, none };
    return g;
}

template <typename E, int TILE, bool BACKWARD>
static void gather_launch(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, float *gradient) {
    int64_t columns = BACKWARD ? z->c + z->c2 : z->k, phases = BACKWARD ? (int64_t)z->stride * z->stride : 1;
    int64_t height = BACKWARD ? ceil_div(z->h, z->stride) : z->p, width = BACKWARD ? ceil_div(z->w, z->stride) : z->q;
    int64_t tiles = ceil_div(z->n * height * width, TILE) * ceil_div(columns, TILE);
    Gather g = BACKWARD ? backward_sources(z, a) : forward_sources(z, a);
    LAUNCH(s, (conv_gather_kernel<E, TILE, BACKWARD>), (unsigned)(phases * tiles), Tiling<TILE>::threads, 0, *z, *a, g,
           gradient);
}
template <bool BACKWARD>
static void gather(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, float *gradient, int tile) {
    bool same_type = !BACKWARD || z->dtype == z->out;
    if (!same_type || !conv_in_quads(z, a)) gather_launch<AnyReal, 64, BACKWARD>(s, z, a, gradient);
    else if (z->dtype == DT_BF16) gather_launch<bf16, 64, BACKWARD>(s, z, a, gradient);
    else if (tile == 128) gather_launch<float, 128, BACKWARD>(s, z, a, gradient);
    else gather_launch<float, 64, BACKWARD>(s, z, a, gradient);
}

static void forward_tiled(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work w, int tile) {
    Conv2dShape zs = *z;
    Conv2dArgs as = *a;
    conv_activate(s, &zs, &as, w.scratch);
    gather<false>(s, &zs, &as, NULL, tile);
    conv_stats(s, z, a);
}
static void backward_input_tiled(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work w, int tile) {
    float *gradient = conv_finish_scratch(z) ? (float *)w.scratch : NULL;
    gather<true>(s, z, a, gradient, tile);
    if (gradient) conv_finish(s, z, a, gradient);
}

static void forward(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work w) {
    forward_tiled(s, z, a, w, gather_tile((int64_t)z->n * z->p * z->q, z->k));
}
static void forward_128(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work w) {
    forward_tiled(s, z, a, w, 128);
}
static void backward_input(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work w) {
    backward_input_tiled(s, z, a, w, gather_tile((int64_t)z->n * z->h * z->w, z->c + z->c2));
}
static void backward_input_128(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work w) {
    backward_input_tiled(s, z, a, w, 128);
}
static bool can_128(const Conv2dShape *z) {
    return conv_general_can(z) && z->dtype == DT_F32 && z->out == DT_F32 && (z->c | z->c2 | z->k) % 4 == 0;
}

// The wide tile is also there by name, since small cases would never meet it.
IMPLS(conv2d,
    IMPL_FULL(conv2d_forward, "implicit_gemm", 100, 0, 0, conv_general_can, conv_activate_scratch, NULL, forward, NULL),
    IMPL_FULL(conv2d_forward, "implicit_gemm_128", -1, 0, 0, can_128, conv_activate_scratch, NULL, forward_128, NULL),
    IMPL_FULL(conv2d_backward_input, "implicit_gemm", 100, 0, 0, conv_general_can, conv_finish_scratch, NULL,
              backward_input, NULL),
    IMPL_FULL(conv2d_backward_input, "implicit_gemm_128", -1, 0, 0, can_128, conv_finish_scratch, NULL,
              backward_input_128, NULL))
