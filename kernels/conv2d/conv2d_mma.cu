// kernels/conv2d/conv2d_mma.cu - convolution and its input gradient in bf16 as implicit matrix products on mma.sync.
//
// Both are one product. A row is a pixel of the result, a column one of its channels, and a term a tap of the filter
// and a channel of the source: x and x2 forward, dy backward.
//   forward   source row of tap j = stride * p - pad + j          filter w[column][tap][term]: TERMS_INNER
//   backward  source row of tap j = (h + pad - j) / stride        filter w[term][tap][column]: TERMS_OUTER, as stored
// Backward with a stride, only every stride-th tap meets a pixel: the pixels of one phase, (h mod stride, w mod
// stride), share their taps, and each phase is a product of its own, at stride 2 of 1, 2, 2 and 4 taps of a 3x3
// filter. In a phase tap j = first + stride * t meets row  i + base - t  of dy for pixel  h = phase + stride * i.
//
// Tiles, shared memory and the main loop: conv2d_mma.cuh. Rows of the image tile come by cp.async per tap, zeros
// where the tap leaves the image; the taps of a tile meet in L2. Products with few tiles (8x8 and 4x4 images) are
// split over their terms into f32 sums in scratch, which a second kernel adds in order and finishes.
#include "kernels/common/device.cuh"
#include "kernels/conv2d/conv2d_mma_product.cuh"
#include "kernels/conv2d/conv2d_mma_rows.cuh"

// ---- gathered pixels
// One dimension of a phase: tap first + step * t meets source pixel  i * scale + base + direction * t  for its
// pixel i.
struct Axis { int first, step, taps, count, scale, base, direction; };
template <bool BACKWARD> DEVICE Axis axis_of(int phase, int stride, int pad, int filter, int size) {
    if (!BACKWARD) return { 0, 1, filter, size, stride, -pad, 1 };
    int first = (phase + pad) % stride;
    return { first, stride, first < filter ? (filter - first + stride - 1) / stride : 0,
             (size - phase + stride - 1) / stride, 1, (phase + pad) / stride, -1 };
}

// What a thread copies: rows of the image tile, and where the next step begins. A step is a tap and STEP channels
// of one source.
template <class T> struct TapWalk {
    static constexpr int ROWS = T::M * 4 / T::THREADS;
    int at[ROWS];                    // source pixel under tap 0: its index,
    int corner[ROWS];                // its row * 65536 + column, or INT32_MIN past the last row
    int tap_h, tap_w, channel;
    bool second;                     // of the two sources
};
template <class T> DEVICE int walk_row(int i) { return (int)threadIdx.x / 4 + i * (T::THREADS / 4); }

template <class T> DEVICE void walk_begin(TapWalk<T> &walk, const ConvProduct &g, const Axis &v, const Axis &h,
                                          int m0, int rows, int step) {
    for (int i = 0; i < TapWalk<T>::ROWS; i++) {
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
DEVICE void copy_image(unsigned char *to, const TapWalk<T> &walk, const ConvProduct &g, const Axis &v, const Axis &h) {
    const bf16 *data = walk.second ? g.x2.data : g.x.data;
    int channels = walk.second ? g.x2.channels : g.x.channels, ld = walk.second ? g.x2.ld : g.x.ld;
    int chunk = (int)threadIdx.x % 4, term = walk.channel + chunk * 8;
    int down = v.direction * walk.tap_h, right = h.direction * walk.tap_w;
    for (int i = 0; i < TapWalk<T>::ROWS; i++) {
        int row = (walk.corner[i] >> 16) + down, column = (int16_t)(walk.corner[i] & 0xFFFF) + right;
        bool inside = term < channels && (unsigned)row < (unsigned)g.height && (unsigned)column < (unsigned)g.width;
        const bf16 *from = data + (inside ? (int64_t)(walk.at[i] + down * g.width + right) * ld + term : 0);
        copy_chunk<ALIGNED>(to + inner_chunk(walk_row<T>(i), chunk), from, inside);
    }
}

template <class T> DEVICE void walk_on(TapWalk<T> &walk, const ConvProduct &g, int taps_w) {
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
static __global__ void __launch_bounds__(T::THREADS, T::BLOCKS) conv_gather_kernel(ConvProduct g, ConvFinish f) {
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
    TapWalk<T> walk;
    walk_begin(walk, g, v, h, m0, rows, begin);
    Sums<T> sums;
    constexpr Order FILTER = BACKWARD ? TERMS_OUTER : TERMS_INNER;
    multiply<T, TERMS_INNER, FILTER>(sums, shared, end - begin, [&](unsigned char *stage) {
        copy_image<T, ALIGNED>(stage, walk, g, v, h);
        int tap = (v.first + v.step * walk.tap_h) * g.s + h.first + h.step * walk.tap_w;
        copy_filter<T, BACKWARD, ALIGNED>(stage + T::A_BYTES, g, n0, tap, walk.second, walk.channel);
        walk_on(walk, g, h.taps);
    });

    finish_tile<T>(sums, shared, g, f, m0, n0, rows, split, [&](int row, int *image) {
        if (f.temb || phases > 1) *image = row / (v.count * h.count);
        if (phases == 1) return (int64_t)row;
        int rest = row - *image * (v.count * h.count);
        int result_row = phase_h + g.stride * (rest / h.count), result_column = phase_w + g.stride * (rest % h.count);
        return ((int64_t)*image * g.result_h + result_row) * g.result_w + result_column;
    });
}

// Adds the splits in order. A thread: eight columns of a row.
static __global__ void __launch_bounds__(256)
conv_finish_splits_kernel(ConvFinish f, const float *partial, int partial_ld, int splits, int rows, int pixels) {
    int64_t item = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int chunks = partial_ld / 8, row = (int)(item / chunks), column = (int)(item % chunks) * 8;
    if (row >= rows) return;
    float v[8] = { 0, 0, 0, 0, 0, 0, 0, 0 };
    for (int s = 0; s < splits; s++) add_chunk(v, partial + ((int64_t)s * rows + row) * partial_ld + column);
    finish_chunk(f, row, row / pixels, column, v);
}

// ---- which kernel and tile, how many splits: by the shape alone
enum PlanName { ROWS_LARGE, ROWS_NARROW, LARGE, NARROW, SMALL, PLANS, ANY = PLANS };
// Of the product, or of its largest phase: rows; of all of it: pixels of the result.
struct ConvExtent { int64_t rows, pixels; int columns, taps, chunks, phases; bool rows_can; };
struct ConvPlan { int name, splits; };
enum { MOST_SPLITS = 16, FEWEST_STEPS = 6 };                                             // FEWEST_STEPS: of a split
static const struct { const char *name; int m, n, at_once; } plan_tiles[PLANS] = {
    { "rows_128x128", 128, 128, LargeTile::BLOCKS },
    { "rows_128x64", 128, 64, NarrowTile::BLOCKS },
    { "128x128", 128, 128, LargeTile::BLOCKS },
    { "128x64", 128, 64, NarrowTile::BLOCKS },
    { "64x64", 64, 64, SmallTile::BLOCKS },
};

static ImplPlan tell_plan(const ConvExtent *e, int name, int splits) {
    ImplPlan told = {};
    told.tile = plan_tiles[name].name, told.m = plan_tiles[name].m, told.n = plan_tiles[name].n;
    bool rows = name <= ROWS_NARROW;
    double steps = (double)(rows ? ceil_div(e->chunks, splits) * e->taps : ceil_div(e->taps * e->chunks, splits));
    told.blocks = ceil_div(e->rows, told.m) * ceil_div(e->columns, told.n) * e->phases * splits;
    told.splits = splits, told.at_once = plan_tiles[name].at_once, told.together = 1;
    told.flops = steps * 2.0 * told.m * told.n * STEP;
    told.l2_bytes = steps * ((rows ? (double)SLAB_PIXELS / e->taps : told.m) + told.n) * STEP * 2;
    told.beside = splits > 1;
    told.beside_bytes = splits > 1 ? 8.0 * splits * (double)e->pixels * e->columns : 0;
    return told;
}
static ConvPlan plan_of(const ConvExtent *e, int wanted) {
    ConvPlan best = { wanted, 1 };
    double fewest = 1e30;
    for (int name = 0; name < PLANS; name++) {
        if (wanted != ANY ? name != wanted : name <= ROWS_NARROW && !e->rows_can) continue;
        int parts = name <= ROWS_NARROW ? e->chunks : e->taps * e->chunks / FEWEST_STEPS;
        for (int splits = 1; splits == 1 || (splits <= parts && splits <= MOST_SPLITS); splits++) {
            ImplPlan told = tell_plan(e, name, splits);
            double seconds = plan_seconds(&told, &machine_a100);
            if (seconds >= fewest) continue;
            fewest = seconds;
            best.name = name;
            best.splits = splits;
        }
    }
    return best;
}
static ConvExtent forward_extent(const Conv2dShape *z) {
    int64_t pixels = (int64_t)z->n * z->p * z->q;
    return { pixels, pixels, z->k, z->r * z->s, (int)(ceil_div(z->c, STEP) + ceil_div(z->c2, STEP)), 1,
             rows_can(z) };
}
// The rows of the largest phase, the taps of an average one.
static ConvExtent backward_extent(const Conv2dShape *z) {
    return { z->n * ceil_div(z->h, z->stride) * ceil_div(z->w, z->stride), (int64_t)z->n * z->h * z->w, z->c + z->c2,
             (int)ceil_div(z->r * z->s, z->stride * z->stride), (int)ceil_div(z->k, STEP), z->stride * z->stride,
             rows_can(z) };
}
static size_t partial_bytes(const ConvExtent *e, int wanted) {
    int splits = plan_of(e, wanted).splits;
    return splits > 1 ? (size_t)(e->pixels * ceil_div(e->columns, 8) * 32 * splits) : 0;
}

template <class T> static dim3 grid_for(const ConvExtent *e, ConvProduct *g) {
    g->tiles_n = (int)ceil_div(e->columns, T::N);
    return dim3((unsigned)(ceil_div(e->rows, T::M) * g->tiles_n), 1, (unsigned)(e->phases * g->splits));
}
template <class T, bool BACKWARD, bool ALIGNED>
static void launch_gather(Stream *stream, const ConvExtent *e, ConvProduct g, ConvFinish f) {
    dim3 grid = grid_for<T>(e, &g);
    LAUNCH(stream, (conv_gather_kernel<T, BACKWARD, ALIGNED>), grid, dim3(T::THREADS), T::SHARED_BYTES, g, f);
}
template <class T, bool BACKWARD>
static void launch_rows(Stream *stream, const ConvExtent *e, ConvProduct g, ConvFinish f, int tile_rows) {
    dim3 grid = grid_for<T>(e, &g);
    LAUNCH(stream, (conv_rows_kernel<T, BACKWARD>), grid, dim3(T::THREADS), RowsLayout<T>::BYTES, g, f, tile_rows);
}
template <bool BACKWARD> static void run_product(Stream *stream, const Conv2dShape *z, const ConvExtent *e, int wanted,
                                                 ConvProduct g, ConvFinish f, Work work) {
    ConvPlan plan = plan_of(e, wanted);
    g.r = z->r, g.s = z->s, g.stride = z->stride, g.pad_h = z->pad_h, g.pad_w = z->pad_w, g.images = z->n;
    g.k = z->k, g.c = z->c + z->c2;
    g.splits = plan.splits;
    g.partial_ld = (int)ceil_div(e->columns, 8) * 8;
    g.partial = plan.splits > 1 ? static_cast<float *>(work.scratch) : NULL;
    f.wide = f.columns % 8 == 0 && f.second % 8 == 0 && f.ldy % 8 == 0 && f.ldy2 % 8 == 0 && f.ldr % 8 == 0 &&
             aligned16(f.y) && aligned16(f.y2) && aligned16(f.bias) && aligned16(f.temb) && aligned16(f.residual);
    bool aligned = aligned16(g.x.data) && aligned16(g.x2.data) && aligned16(g.filter);
    if (!aligned) launch_gather<SmallTile, BACKWARD, false>(stream, e, g, f);
    else if (plan.name == ROWS_LARGE) launch_rows<LargeTile, BACKWARD>(stream, e, g, f, rows_of_tile(z));
    else if (plan.name == ROWS_NARROW) launch_rows<NarrowTile, BACKWARD>(stream, e, g, f, rows_of_tile(z));
    else if (plan.name == LARGE) launch_gather<LargeTile, BACKWARD, true>(stream, e, g, f);
    else if (plan.name == NARROW) launch_gather<NarrowTile, BACKWARD, true>(stream, e, g, f);
    else launch_gather<SmallTile, BACKWARD, true>(stream, e, g, f);
    if (plan.splits == 1) return;
    int64_t items = e->pixels * (g.partial_ld / 8);
    LAUNCH(stream, (conv_finish_splits_kernel), dim3((unsigned)ceil_div(items, 256)), dim3(256), 0, f, g.partial,
           g.partial_ld, plan.splits, (int)e->pixels, g.result_h * g.result_w);
}

// The optional parts that all three directions leave to other implementations.
static bool is_plain(const Conv2dShape *z) {
    return z->dtype == DT_BF16 && z->lx == LAYOUT_NHWC && z->ly == LAYOUT_NHWC && sizes_fit(z) && !z->cs && !z->cs2 &&
           !(z->use & ~(CONV_X2 | CONV_BIAS | CONV_TEMB | CONV_RESIDUAL));
}

// ---- forward. Each function for a plan: ANY, or one by name.
template <int PLAN> static bool forward_can(const Conv2dShape *z) {
    return is_plain(z) && (z->out == DT_BF16 || z->out == DT_F32) && whole_chunks(z->c, z->ldx) &&
           whole_chunks(z->c2, z->ldx2) && z->k > 8 && (PLAN > ROWS_NARROW || rows_can(z));
}
template <int PLAN> static size_t forward_scratch(const Conv2dShape *z) {
    ConvExtent e = forward_extent(z);
    return partial_bytes(&e, PLAN);
}
template <int PLAN> static void forward(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, Work work) {
    ConvExtent e = forward_extent(z);
    ConvProduct g = {};
    g.x = { static_cast<const bf16 *>(a->x), z->c, z->ldx };
    g.x2 = { static_cast<const bf16 *>(a->x2), z->c2, z->ldx2 };
    g.height = z->h, g.width = z->w, g.result_h = z->p, g.result_w = z->q;
    g.filter = static_cast<const bf16 *>(a->w);
    ConvFinish f = {};
    f.y = a->y, f.ldy = z->ldy, f.columns = z->k, f.second = (z->k + 7) / 8 * 8, f.f32 = z->out == DT_F32;
    f.bias = a->bias, f.temb = a->temb;
    f.residual = static_cast<const bf16 *>(a->residual), f.ldr = a->residual ? z->ldr : 0;
    run_product<false>(stream, z, &e, PLAN, g, f, work);
}

// ---- backward to the input
template <int PLAN> static bool backward_input_can(const Conv2dShape *z) {
    return is_plain(z) && z->out == DT_BF16 && whole_chunks(z->k, z->ldy) && z->c % 8 == 0 && z->c2 % 8 == 0 &&
           (PLAN > ROWS_NARROW || rows_can(z));
}
template <int PLAN> static size_t backward_input_scratch(const Conv2dShape *z) {
    ConvExtent e = backward_extent(z);
    return partial_bytes(&e, PLAN);
}
template <int PLAN> static void backward_input(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, Work work) {
    ConvExtent e = backward_extent(z);
    ConvProduct g = {};
    g.x = { static_cast<const bf16 *>(a->dy), z->k, z->ldy };
    g.height = z->p, g.width = z->q, g.result_h = z->h, g.result_w = z->w;
    g.filter = static_cast<const bf16 *>(a->w);
    ConvFinish f = {};
    f.y = a->dx, f.ldy = z->ldx, f.columns = z->c + z->c2, f.second = z->c;
    f.y2 = a->dx2, f.ldy2 = z->c2 ? z->ldx2 : 0;
    f.residual = static_cast<const bf16 *>(a->add), f.ldr = z->c + z->c2;
    f.bias = a->bias;
    run_product<true>(stream, z, &e, PLAN, g, f, work);
}

static void tell(ConvExtent e, int wanted, ImplPlan *told) {
    ConvPlan plan = plan_of(&e, wanted);
    *told = tell_plan(&e, plan.name, plan.splits);
}
template <int PLAN> static void forward_plan(const Conv2dShape *z, ImplPlan *told) {
    tell(forward_extent(z), PLAN, told);
}
template <int PLAN> static void backward_input_plan(const Conv2dShape *z, ImplPlan *told) {
    tell(backward_extent(z), PLAN, told);
}

// By default the model chooses; each choice has a name of its own, for tests and for the bench.
#define FORWARD(name, order, n)                                                                                     \
    IMPL_PLANNED(conv2d_forward, name, order, 80, 0, forward_can<n>, forward_scratch<n>, NULL, forward<n>, NULL,    \
                 forward_plan<n>)
#define BACKWARD_INPUT(name, order, n)                                                                              \
    IMPL_PLANNED(conv2d_backward_input, name, order, 80, 0, backward_input_can<n>, backward_input_scratch<n>, NULL, \
                 backward_input<n>, NULL, backward_input_plan<n>)
IMPLS(conv2d_mma,
    FORWARD("mma", 50, ANY),
    FORWARD("mma_rows_128x128", -1, ROWS_LARGE),
    FORWARD("mma_rows_128x64", -1, ROWS_NARROW),
    FORWARD("mma_128x128", -1, LARGE),
    FORWARD("mma_128x64", -1, NARROW),
    FORWARD("mma_64x64", -1, SMALL),
    BACKWARD_INPUT("mma", 50, ANY),
    BACKWARD_INPUT("mma_rows_128x128", -1, ROWS_LARGE),
    BACKWARD_INPUT("mma_rows_128x64", -1, ROWS_NARROW),
    BACKWARD_INPUT("mma_128x128", -1, LARGE),
    BACKWARD_INPUT("mma_128x64", -1, NARROW),
    BACKWARD_INPUT("mma_64x64", -1, SMALL))
