// kernels/conv2d/conv2d_mma_weight.cu - the gradients of filter, bias and time embedding in bf16 on mma.sync.
//
//   dw[k,r,s,c] = sum over pixels of dy[pixel,k] x[pixel under tap (r,s), c]
// is for each tap a product of dy and x, both with their terms, the pixels, outermost: TERMS_OUTER of
// conv2d_mma.cuh. A tile has M output channels and N input channels of one tap and one source. There are few
// tiles (36 for a 3x3 filter of 256 x 256 channels at 128 x 128) and many pixels, so the pixels are split over
// blocks: each split writes f32 sums into scratch, and a second kernel adds them in order, to what was there if
// asked. The split depends on the shape alone.
//
// The tiles of a split run at the same time and find their pixels in L2. Where rows of images are short, a tile takes
// the three taps of a row of the filter and copies its pixels of x once for them.
#include "kernels/common/device.cuh"
#include "kernels/conv2d/conv2d_mma_sums.cuh"

struct ConvWeightProduct {
    const bf16 *dy;
    int ldy, k;
    ConvSource x, x2;
    int h, w, p, q, r, s, stride, pad_h, pad_w;
    int pixels, steps, splits;       // of dy; STEPs of them
    int tiles_m, tiles_x;            // tiles along k and along x's channels
    int ahead_image, ahead_row, ahead_column;        // how far a thread's next pixel of x lies from its last
    float *sums;                     // (splits, k, r * s, c + c2): scratch, or dw itself
    bool accumulate;                 // onto dw
};

// Where the copies go on: the first pixel of the step, and the place of the next one whose x this thread copies.
struct PixelWalk { int first, image, row, column; };

// dy of one step: channels m0.. of STEP pixels, zeros past the last.
template <class T, bool ALIGNED>
DEVICE void copy_dy(unsigned char *to, const PixelWalk &at, const ConvWeightProduct &g, int m0) {
    constexpr int CHUNKS = T::M / 8, ROWS = T::THREADS / CHUNKS;
    int chunk = (int)threadIdx.x % CHUNKS, channel = m0 + chunk * 8;
    for (int i = 0; i < STEP / ROWS; i++) {
        int row = (int)threadIdx.x / CHUNKS + i * ROWS;
        bool inside = at.first + row < g.pixels && channel < g.k;
        const bf16 *from = g.dy + (inside ? (int64_t)(at.first + row) * g.ldy + channel : 0);
        copy_chunk<ALIGNED>(to + outer_chunk<T::M>(row, chunk), from, inside);
    }
}

// x of the same step under the tap that meets pixel (down, right) at pixel (0, 0) of dy; goes on to the next step.
template <class T, bool ALIGNED> DEVICE void copy_x(unsigned char *to, PixelWalk &at, const ConvWeightProduct &g,
                                                    const ConvSource &x, int channel, int down, int right) {
    constexpr int CHUNKS = T::N / 8, ROWS = T::THREADS / CHUNKS;
    int chunk = (int)threadIdx.x % CHUNKS;
    channel += chunk * 8;
    for (int i = 0; i < STEP / ROWS; i++) {
        int row = at.row * g.stride + down, column = at.column * g.stride + right;
        bool inside = at.first + (int)threadIdx.x / CHUNKS + i * ROWS < g.pixels && channel < x.channels &&
                      (unsigned)row < (unsigned)g.h && (unsigned)column < (unsigned)g.w;
        int pixel = (at.image * g.h + row) * g.w + column;
        copy_chunk<ALIGNED>(to + outer_chunk<T::N>((int)threadIdx.x / CHUNKS + i * ROWS, chunk),
                            x.data + (inside ? (int64_t)pixel * x.ld + channel : 0), inside);
        at.column += g.ahead_column;         // ROWS pixels on, without a division
        int wrap = at.column >= g.q;
        at.column -= wrap ? g.q : 0;
        at.row += g.ahead_row + wrap;
        wrap = at.row >= g.p;
        at.row -= wrap ? g.p : 0;
        at.image += g.ahead_image + wrap;
    }
    at.first += STEP;
}

template <class T> DEVICE PixelWalk walk_from(const ConvWeightProduct &g, int step) {
    int pixel = step * STEP + (int)threadIdx.x / (T::N / 8);
    return { step * STEP, pixel / (g.p * g.q), pixel % (g.p * g.q) / g.q, pixel % g.q };
}

// The end of a tile of one tap, whose first element is that of output channel m0 and channel `channel` of x.
template <class T>
DEVICE void store_tap(const Sums<T> &sums, unsigned char *shared, const ConvWeightProduct &g, int m0, int tap,
                      int channel, bool second) {
    int taps = g.r * g.s, channels = g.x.channels + g.x2.channels, own = second ? g.x2.channels : g.x.channels;
    float *dw = g.sums + (int64_t)blockIdx.y * g.k * taps * channels;
    store_sums<T>(sums, shared, [&](int row, int column, float (&v)[8]) {
        if (m0 + row >= g.k || channel + column >= own) return;
        int at = (second ? g.x.channels : 0) + channel + column;
        float *to = dw + ((int64_t)(m0 + row) * taps + tap) * channels + at;
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

// Block x: tiles of one tap, y: splits. The tiles of a split are neighbours in time and share their pixels.
template <class T, bool ALIGNED>
static __global__ void __launch_bounds__(T::THREADS, T::BLOCKS) conv_weight_tap_kernel(ConvWeightProduct g) {
    DYNAMIC_SHARED(unsigned char, shared);
    int tile = (int)blockIdx.x, m0 = tile % g.tiles_m * T::M, tap = tile / g.tiles_m % (g.r * g.s);
    int tile_c = tile / (g.tiles_m * g.r * g.s);
    bool second = tile_c >= g.tiles_x;
    ConvSource x = { second ? g.x2.data : g.x.data, second ? g.x2.channels : g.x.channels, second ? g.x2.ld : g.x.ld };
    int channel = (second ? tile_c - g.tiles_x : tile_c) * T::N;
    int down = tap / g.s - g.pad_h, right = tap % g.s - g.pad_w;
    int split = (int)blockIdx.y, begin = (int)((int64_t)g.steps * split / g.splits);
    int end = (int)((int64_t)g.steps * (split + 1) / g.splits);

    PixelWalk at = walk_from<T>(g, begin);
    Sums<T> sums;
    multiply<T, TERMS_OUTER, TERMS_OUTER>(sums, shared, end - begin, [&](unsigned char *stage) {
        copy_dy<T, ALIGNED>(stage, at, g, m0);
        copy_x<T, ALIGNED>(stage + T::A_BYTES, at, g, x, channel, down, right);
    });
    store_tap<T>(sums, shared, g, m0, tap, channel, second);
}

// The three taps of a row of the filter at once, where the 32 pixels of a step are whole rows of images: 64
// output channels by 3 x 64 input channels, each of four warps with 16 of these under every tap. x is copied
// once, for the middle tap; the others read shared memory one pixel to the left or right, and zeros beside the
// image. 8 KiB from L2 a step of 0.79 MFLOP: 96 FLOP a byte.
typedef Tile<64, 64, 64, 16, 3> TapsTile;
enum { ROW_TAPS = 3, ZEROS_BYTES = 16 };
static __global__ void __launch_bounds__(TapsTile::THREADS, TapsTile::BLOCKS)
conv_weight_row_kernel(ConvWeightProduct g) {
    typedef TapsTile T;
    DYNAMIC_SHARED(unsigned char, shared);
    unsigned char *zeros = shared + T::SHARED_BYTES;
    int tile = (int)blockIdx.x, m0 = tile % g.tiles_m * T::M, filter_row = tile / g.tiles_m % g.r;
    int tile_c = tile / (g.tiles_m * g.r);
    bool second = tile_c >= g.tiles_x;
    ConvSource x = { second ? g.x2.data : g.x.data, second ? g.x2.channels : g.x.channels, second ? g.x2.ld : g.x.ld };
    int channel = (second ? tile_c - g.tiles_x : tile_c) * T::N;
    int split = (int)blockIdx.y, begin = (int)((int64_t)g.steps * split / g.splits);
    int end = (int)((int64_t)g.steps * (split + 1) / g.splits);

    if (threadIdx.x == 0) *reinterpret_cast<uint4 *>(zeros) = make_uint4(0, 0, 0, 0);
    PixelWalk at = walk_from<T>(g, begin);
    Sums<T> sums[ROW_TAPS];
    for (int t = 0; t < ROW_TAPS; t++) clear_sums(sums[t]);
    run_steps<T::STAGE_BYTES>(shared, end - begin, [&](unsigned char *stage) {
        copy_dy<T, true>(stage, at, g, m0);
        copy_x<T, true>(stage + T::A_BYTES, at, g, x, channel, filter_row - g.pad_h, 0);
    }, [&](const unsigned char *stage) {
        int lane = (int)threadIdx.x % 32, chunk = warp_column<T>() / 8 + lane / 16;
#pragma unroll 1                       // no registers for both halves' fragments where three blocks share an SM
        for (int half = 0; half < STEP / 16; half++) {
            uint32_t a[T::ROWS][4], b[4];
            for (int i = 0; i < T::ROWS; i++) load_a<T, TERMS_OUTER>(a[i], stage, i * 16, half);
            int pixel = half * 16 + lane % 16, column = pixel % g.q;
            for (int t = 0; t < ROW_TAPS; t++) {
                bool beside = t == 0 ? column == 0 : t == 2 && column == g.q - 1;
                const unsigned char *from = stage + T::A_BYTES + outer_chunk<T::N>(pixel + t - 1, chunk);
                LDMATRIX_X4_TRANS(b, beside ? zeros : from);
                for (int i = 0; i < T::ROWS; i++)
                    for (int j = 0; j < T::COLUMNS; j++) MMA_BF16(sums[t].at[i][j], a[i], b + j * 2);
            }
        }
    });
#pragma unroll                         // the sums stay in registers
    for (int t = 0; t < ROW_TAPS; t++) store_tap<T>(sums[t], shared, g, m0, filter_row * g.s + t, channel, second);
}

// ---- which kernel and tile, how many splits: by the shape alone
enum WeightPlanName { ROW_OF_TAPS, LARGE, NARROW, SMALL, PLANS, ANY = PLANS };
struct WeightPlan { int name, splits; };
enum { MOST_SPLITS = 64, FEWEST_STEPS = 6 };                 // FEWEST_STEPS: of a split
static const struct { const char *name; int m, n, taps, at_once; } plan_tiles[PLANS] = {
    { "row_of_taps", TapsTile::M, TapsTile::N, ROW_TAPS, TapsTile::BLOCKS },
    { "128x128", 128, 128, 1, LargeTile::BLOCKS },
    { "128x64", 128, 64, 1, NarrowTile::BLOCKS },
    { "64x64", 64, 64, 1, SmallTile::BLOCKS },
};
static bool row_of_taps_can(const Conv2dShape *z) {
    return z->s == ROW_TAPS && z->stride == 1 && z->pad_w == 1 && z->q == z->w && STEP % z->q == 0;
}
static int64_t steps_of(const Conv2dShape *z) { return ceil_div((int64_t)z->n * z->p * z->q, STEP); }

static int64_t tiles_of(const Conv2dShape *z, int name) {
    int n = plan_tiles[name].n;
    return ceil_div(z->k, plan_tiles[name].m) * (ceil_div(z->c, n) + ceil_div(z->c2, n)) * z->r *
           (z->s / plan_tiles[name].taps);
}
static ImplPlan tell_plan(const Conv2dShape *z, int name, int splits) {
    int taps = plan_tiles[name].taps, m = plan_tiles[name].m, n = plan_tiles[name].n;
    ImplPlan told = {};
    told.tile = plan_tiles[name].name, told.m = m, told.n = n * taps;
    double steps = (double)ceil_div(steps_of(z), splits);
    told.blocks = tiles_of(z, name) * splits;
    told.splits = splits, told.at_once = plan_tiles[name].at_once, told.together = 1;
    told.flops = steps * 2.0 * m * n * taps * STEP;
    told.l2_bytes = steps * (m + n) * STEP * 2;
    tell_ends(z, &told);
    return told;
}
static WeightPlan plan_of(const Conv2dShape *z, int wanted) {
    WeightPlan best = { wanted, 1 };
    double fewest = 1e30;
    for (int name = 0; name < PLANS; name++) {
        if (wanted != ANY ? name != wanted : name == ROW_OF_TAPS && !row_of_taps_can(z)) continue;
        int64_t most = steps_of(z) / FEWEST_STEPS;
        if (most > MOST_SPLITS) most = MOST_SPLITS;
        for (int splits = 1; splits == 1 || splits <= most; splits++) {
            ImplPlan told = tell_plan(z, name, splits);
            double seconds = plan_seconds(&told, &machine_a100);
            if (seconds >= fewest) continue;
            fewest = seconds;
            best.name = name;
            best.splits = splits;
        }
    }
    return best;
}

// Scratch: image_sums_bytes, then the splits.
template <int PLAN> static size_t backward_weight_scratch(const Conv2dShape *z) {
    int splits = plan_of(z, PLAN).splits;
    return image_sums_bytes(z) + (splits > 1 ? (size_t)splits * (size_t)filter_elements(z) * sizeof(float) : 0);
}

template <int PLAN> static bool backward_weight_can(const Conv2dShape *z) {
    return z->dtype == DT_BF16 && z->out == DT_BF16 && z->lx == LAYOUT_NHWC && z->ly == LAYOUT_NHWC &&
           !(z->use & ~(CONV_X2 | CONV_BIAS | CONV_TEMB | CONV_RESIDUAL)) && whole_chunks(z->c, z->ldx) &&
           whole_chunks(z->c2, z->ldx2) && whole_chunks(z->k, z->ldy) && sizes_fit(z) && z->n <= 65535 &&
           (PLAN != ROW_OF_TAPS || row_of_taps_can(z));
}

// What depends on the tile, and the grid.
template <class T> static dim3 prepare_tiles(ConvWeightProduct *g, int tiles_of_filter) {
    constexpr int ROWS = T::THREADS / (T::N / 8);        // pixels from one of a thread's copies of x to the next
    g->ahead_image = ROWS / (g->p * g->q);
    g->ahead_row = ROWS % (g->p * g->q) / g->q;
    g->ahead_column = ROWS % g->q;
    g->tiles_m = (int)ceil_div(g->k, T::M);
    g->tiles_x = (int)ceil_div(g->x.channels, T::N);
    int tiles_c = g->tiles_x + (int)ceil_div(g->x2.channels, T::N);
    return dim3((unsigned)(g->tiles_m * tiles_c * tiles_of_filter), (unsigned)g->splits);
}
template <class T, bool ALIGNED> static void launch_taps(Stream *stream, ConvWeightProduct g) {
    dim3 grid = prepare_tiles<T>(&g, g.r * g.s);
    LAUNCH(stream, (conv_weight_tap_kernel<T, ALIGNED>), grid, dim3(T::THREADS), T::SHARED_BYTES, g);
}
static void launch_rows(Stream *stream, ConvWeightProduct g) {
    dim3 grid = prepare_tiles<TapsTile>(&g, g.r);
    LAUNCH(stream, (conv_weight_row_kernel), grid, dim3(TapsTile::THREADS), TapsTile::SHARED_BYTES + ZEROS_BYTES, g);
}

static void filter_gradient(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, WeightPlan plan,
                            float *scratch) {
    ConvWeightProduct g = {};
    g.dy = static_cast<const bf16 *>(a->dy), g.ldy = z->ldy, g.k = z->k;
    g.x = { static_cast<const bf16 *>(a->x), z->c, z->ldx };
    g.x2 = { static_cast<const bf16 *>(a->x2), z->c2, z->ldx2 };
    g.h = z->h, g.w = z->w, g.p = z->p, g.q = z->q, g.r = z->r, g.s = z->s;
    g.stride = z->stride, g.pad_h = z->pad_h, g.pad_w = z->pad_w;
    g.pixels = z->n * z->p * z->q, g.steps = (int)steps_of(z), g.splits = plan.splits;
    g.sums = plan.splits > 1 ? scratch : a->dw;
    g.accumulate = plan.splits == 1 && a->accumulate;
    bool aligned = aligned16(a->dy) && aligned16(a->x) && aligned16(a->x2);
    if (!aligned) launch_taps<SmallTile, false>(stream, g);
    else if (plan.name == ROW_OF_TAPS) launch_rows(stream, g);
    else if (plan.name == LARGE) launch_taps<LargeTile, true>(stream, g);
    else if (plan.name == NARROW) launch_taps<NarrowTile, true>(stream, g);
    else launch_taps<SmallTile, true>(stream, g);
}

template <int PLAN> static void backward_weight(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, Work work) {
    unsigned char *scratch = static_cast<unsigned char *>(work.scratch);
    float *partial = reinterpret_cast<float *>(scratch + image_sums_bytes(z));
    WeightPlan plan = plan_of(z, PLAN);
    gradient_sums(stream, z, a, scratch);
    if (a->dw) filter_gradient(stream, z, a, plan, partial);
    end_gradients(stream, z, a, scratch, partial, plan.splits);
}

template <int PLAN> static void backward_weight_plan(const Conv2dShape *z, ImplPlan *told) {
    WeightPlan plan = plan_of(z, PLAN);
    *told = tell_plan(z, plan.name, plan.splits);
}

// By default the model chooses; each choice has a name of its own, for tests and for the bench.
#define BACKWARD_WEIGHT(name, order, n)                                                                             \
    IMPL_PLANNED(conv2d_backward_weight, name, order, 80, 0, backward_weight_can<n>, backward_weight_scratch<n>,    \
                 NULL, backward_weight<n>, NULL, backward_weight_plan<n>)
IMPLS(conv2d_mma_weight,
    BACKWARD_WEIGHT("mma", 50, ANY),
    BACKWARD_WEIGHT("mma_row_of_taps", -1, ROW_OF_TAPS),
    BACKWARD_WEIGHT("mma_128x128", -1, LARGE),
    BACKWARD_WEIGHT("mma_128x64", -1, NARROW),
    BACKWARD_WEIGHT("mma_64x64", -1, SMALL))
