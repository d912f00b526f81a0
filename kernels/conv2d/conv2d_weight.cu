// kernels/conv2d/conv2d_weight.cu - the general gradient of a convolution's filter, bias and temb: any shape.
//
// dw (k, taps x channels) is one product, on CUDA cores in full f32, whose sum runs over the pixels of dy: both dy and
// the gathered x are contiguous in what become rows and columns, so quads go to shared memory as they are. Tiles are
// few (9 of 128x128 for 128 channels), so the pixels are split into ranges, as many as run at once;
// each block leaves its partial sum in scratch and a second kernel adds them in order. The number of ranges depends on
// the shape alone. dy is read once more for dbias and dtemb, which takes a hundredth of the time of the product.
#include "kernels/conv2d/conv2d_prologue.cuh"
#include "kernels/conv2d/conv2d_sums.cuh"
#include "kernels/conv2d/conv2d_tile.cuh"

// The dy pixel that a thread brings to a step, and how far the next step's lies: TILE_DEPTH pixels.
struct PixelStep { int image, y, x; };
DEVICE PixelStep pixel_at(const Conv2dShape &z, int pixel) {
    return { pixel / z.q / z.p, pixel / z.q % z.p, pixel % z.q };
}
DEVICE void pixel_advance(PixelStep &at, const PixelStep &by, const Conv2dShape &z) {
    at.x += by.x, at.y += by.y, at.image += by.image;
    if (at.x >= z.q) at.x -= z.q, at.y++;
    if (at.y >= z.p) at.y -= z.p, at.image++;
}

// A quad of columns: one tap, four channels of x or x2. count: channels there, 0 past the last column.
struct Column { const void *image; int ld, channel, count, y, x; };
DEVICE Column column_at(const Conv2dShape &z, const Conv2dArgs &a, int column) {
    int c = z.c + z.c2, tap = column / c, channel = column % c;
    bool second = channel >= z.c, there = column < z.r * z.s * c;
    return { second ? a.x2 : a.x, second ? z.ldx2 : z.ldx, second ? channel - z.c : channel,
             !there ? 0 : second ? c - channel : z.c - channel, tap / z.s - z.pad_h, tap % z.s - z.pad_w };
}

template <typename E>
DEVICE float4 load_column(const Conv2dShape &z, const Column &q, const PixelStep &at, int count) {
    int y = at.y * z.stride + q.y, x = at.x * z.stride + q.x;
    bool inside = (unsigned)y < (unsigned)z.h && (unsigned)x < (unsigned)z.w;
    return load_quad<E>(q.image, z.dtype, ((int64_t)(at.image * z.h + y) * z.w + x) * q.ld + q.channel,
                        inside ? count : 0);
}

// One step of both operands: a quad of dy's channels and a quad of columns, at each of the thread's pixels.
template <typename E, int TILE>
DEVICE void step_load(const Conv2dShape &z, const Conv2dArgs &a, int pixel, int end, int row, int column,
                      const Column &q, const PixelStep (&at)[TILE_LOADS], float4 (&qa)[TILE_LOADS],
                      float4 (&qb)[TILE_LOADS]) {
    constexpr int lines = Tiling<TILE>::threads / (TILE / 4);
#pragma unroll
    for (int j = 0; j < TILE_LOADS; j++) {
        int p = pixel + (int)threadIdx.x / (TILE / 4) + j * lines;
        qa[j] = load_quad<E>(a.dy, z.out, (int64_t)p * z.ldy + row, p < end ? z.k - row : 0);
        if constexpr (!IsAny<E>::value) {
            qb[j] = load_column<E>(z, q, at[j], p < end ? q.count : 0);
        } else {                                               // the four may belong to different taps
            float v[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                Column one = column_at(z, a, column + i);
                v[i] = load_column<E>(z, one, at[j], p < end && one.count > 0 ? 1 : 0).x;
            }
            qb[j] = make_float4(v[0], v[1], v[2], v[3]);
        }
    }
}
template <int TILE>
DEVICE void step_store(float *a, float *b, const float4 (&qa)[TILE_LOADS], const float4 (&qb)[TILE_LOADS]) {
#pragma unroll
    for (int j = 0; j < TILE_LOADS; j++) {
        int item = (int)threadIdx.x + j * Tiling<TILE>::threads;
        tile_store_columns<TILE>(a, item / (TILE / 4), item % (TILE / 4) * 4, qa[j]);
        tile_store_columns<TILE>(b, item / (TILE / 4), item % (TILE / 4) * 4, qb[j]);
    }
}

// partial (splits,stride): the sums of blockIdx.y's range of pixels, as dw (k,r,s,c+c2), every `stride` elements.
template <typename E, int TILE> static __global__ void __launch_bounds__(Tiling<TILE>::threads, Tiling<TILE>::blocks)
conv_weight_kernel(Conv2dShape z, Conv2dArgs a, int range, int64_t stride, float *partial) {
    typedef Tiling<TILE> T;
    SHARED(float4, steps, 4 * T::quads);
    float *shared = (float *)steps;                            // A, B of one step, A, B of the next
    constexpr int floats = 4 * T::quads;                       // of an operand
    int columns = z.r * z.s * (z.c + z.c2), across = (columns + TILE - 1) / TILE;
    int first_row = (int)blockIdx.x / across * TILE, first_column = (int)blockIdx.x % across * TILE;
    int quad = (int)threadIdx.x % (TILE / 4) * 4;
    int pixel = (int)blockIdx.y * range, end = min(pixel + range, z.n * z.p * z.q);
    PixelStep at[TILE_LOADS], by = pixel_at(z, TILE_DEPTH);
#pragma unroll
    for (int j = 0; j < TILE_LOADS; j++)
        at[j] = pixel_at(z, pixel + ((int)threadIdx.x + j * T::threads) / (TILE / 4));
    Column q = column_at(z, a, first_column + quad);

    int row = tile_row<TILE>(), col = tile_col<TILE>(), now = 0;
    float sum[8][T::cols];
    tile_clear<TILE>(sum);
    float4 qa[TILE_LOADS], qb[TILE_LOADS];
    step_load<E, TILE>(z, a, pixel, end, first_row + quad, first_column + quad, q, at, qa, qb);
    step_store<TILE>(shared, shared + floats, qa, qb);
    __syncthreads();
    for (; pixel < end; pixel += TILE_DEPTH) {
        bool more = pixel + TILE_DEPTH < end;
        if (more) {
#pragma unroll
            for (int j = 0; j < TILE_LOADS; j++) pixel_advance(at[j], by, z);
            step_load<E, TILE>(z, a, pixel + TILE_DEPTH, end, first_row + quad, first_column + quad, q, at, qa, qb);
        }
        tile_multiply<TILE>(shared + now * 2 * floats, shared + (now * 2 + 1) * floats, row, col, sum);
        now ^= 1;                                              // read last before the previous barrier
        if (more) step_store<TILE>(shared + now * 2 * floats, shared + (now * 2 + 1) * floats, qa, qb);
        __syncthreads();
    }

    float *to = partial + (int64_t)blockIdx.y * stride;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int k = first_row + row + i / 4 * 4 * T::lane_rows + i % 4;
#pragma unroll
        for (int j = 0; j < T::col_quads; j++) {
            int column = first_column + col + j * 4 * T::lane_cols, count = columns - column;
            float4 v = make_float4(sum[i][4 * j], sum[i][4 * j + 1], sum[i][4 * j + 2], sum[i][4 * j + 3]);
            if (k < z.k && count > 0) store_quad<E>(to, DT_F32, (int64_t)k * columns + column, count, v);
        }
    }
}

// ---- launches. splits: ranges of pixels, each of `range`, a multiple of TILE_DEPTH; stride: of the partial sums.
typedef struct { int tile, splits, range; int64_t numel, stride; } WeightPlan;
static WeightPlan weight_plan(const Conv2dShape *z) {
    WeightPlan p = {};
    int64_t columns = (int64_t)z->r * z->s * (z->c + z->c2), pixels = (int64_t)z->n * z->p * z->q;
    p.tile = z->k > 64 && columns > 64 ? 128 : 64;
    p.numel = z->k * columns;
    p.stride = (p.numel + 3) / 4 * 4;
    int64_t tiles = ceil_div(z->k, p.tile) * ceil_div(columns, p.tile), most = ceil_div(pixels, 128);
    int64_t splits = (p.tile == 128 ? 132 : 528) / tiles;              // as many blocks as run at once, no more
    splits = splits < 1 ? 1 : splits < most ? splits : most;
    p.range = (int)(ceil_div(ceil_div(pixels, splits), TILE_DEPTH) * TILE_DEPTH);
    p.splits = (int)ceil_div(pixels, p.range);
    return p;
}
static size_t partial_bytes(const WeightPlan *p) {
    return ((size_t)p->splits * (size_t)p->stride * sizeof(float) + 255) & ~(size_t)255;
}
// The activated input, where there is a prologue; partial sums; sums of dy.
static size_t backward_weight_scratch(const Conv2dShape *z) {
    WeightPlan p = weight_plan(z);
    return conv_activate_scratch(z) + partial_bytes(&p) + conv_bias_scratch(z);
}

template <typename E, int TILE>
static void weight_launch(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, const WeightPlan *p, float *partial) {
    int64_t tiles = ceil_div(z->k, TILE) * ceil_div((int64_t)z->r * z->s * (z->c + z->c2), TILE);
    dim3 grid((unsigned)tiles, (unsigned)p->splits);
    LAUNCH(s, (conv_weight_kernel<E, TILE>), grid, Tiling<TILE>::threads, 0, *z, *a, p->range, p->stride, partial);
}

static void backward_weight(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work w) {
    WeightPlan p = weight_plan(z);
    char *scratch = (char *)w.scratch;
    float *partial = (float *)(scratch + conv_activate_scratch(z)), *sums = partial + partial_bytes(&p) / sizeof(float);
    conv_bias_gradients(s, z, a, sums);
    if (!a->dw) return;
    Conv2dShape zs = *z;
    Conv2dArgs as = *a;
    conv_activate(s, &zs, &as, scratch);
    if (z->dtype != z->out || !conv_in_quads(&zs, &as)) weight_launch<AnyReal, 64>(s, &zs, &as, &p, partial);
    else if (z->dtype == DT_BF16) weight_launch<bf16, 64>(s, &zs, &as, &p, partial);
    else if (p.tile == 128) weight_launch<float, 128>(s, &zs, &as, &p, partial);
    else weight_launch<float, 64>(s, &zs, &as, &p, partial);
    conv_dw_sum(s, partial, p.splits, p.stride, p.numel, a->dw, a->accumulate);
}

IMPLS(conv2d_weight,
    IMPL_FULL(conv2d_backward_weight, "implicit_gemm", 100, 0, 0, conv_general_can, backward_weight_scratch, NULL,
              backward_weight, NULL))
