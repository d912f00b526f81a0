// kernels/conv2d/conv2d_sm90.cu - convolution and its input gradient in bf16 as implicit matrix products on wgmma.
//
// A tile is M pixels of the result, whole rows of one image or whole images, by N of its channels; a term is a tap of
// the filter and a channel of the source: x and x2 forward, dy backward. TMA copies, in terms of 64 channels,
//   pixels   the box (64 channels, width, rows, images) of the source under a tap: what lies beside the image is read
//            as zero, which is the padding, and elements of a strided convolution are skipped by the map's strides
//   filter   forward (64 channels, tap, N output channels), terms innermost; backward (64 channels, tap, 64 output
//            channels) N / 64 times, terms outermost as they lie in memory: wgmma turns them
// both swizzled over 128 bytes. A filter of three rows shares pixels between them (ROW_TAPS 3): the box has two rows
// more, and the taps of a column start a row apart, a multiple of the pattern's 1024 bytes where rows are of 8 pixels.
//
// A block has one producer thread and two warpgroups that multiply, each its half of the pixels. Pixels and filter have
// rings of their own in shared memory. Blocks live for many tiles, so that the copies of the next tile overlap the end
// of this one; tiles along the pixels are neighbours in time and share the filter in L2. Sums leave through shared
// memory, 16 bytes a thread. Products with few tiles are split over their terms into f32 sums in scratch, which a
// second kernel adds in order and finishes.
//
// From L2 at 256 x 128 and ROW_TAPS 3: 88 KiB for 12.6 MFLOP, 140 FLOP a byte.
#include "kernels/conv2d/conv2d_sm90.cuh"

// M_ x N_ sums a block; ROW_TAPS_: taps of a column of the filter that share their pixels, 3 or 1.
template <int M_, int N_, int ROW_TAPS_, int A_STAGES_, int B_STAGES_> struct WgTile {
    static constexpr int M = M_, N = N_, ROW_TAPS = ROW_TAPS_, A_STAGES = A_STAGES_, B_STAGES = B_STAGES_;
    static constexpr int PARTS = M / (64 * CONSUMERS);               // products of 64 rows of a warpgroup
    static constexpr int A_ROWS = ROW_TAPS == 3 ? M + 64 : M;        // most pixels of a box
    static constexpr int A_BYTES = A_ROWS * ROW_BYTES, B_BYTES = N * ROW_BYTES, B = A_STAGES * A_BYTES;
    static constexpr int SLABS = B + B_STAGES * B_BYTES;
    static constexpr int SHARED_BYTES = SLABS + CONSUMERS * 4 * SLAB_BYTES;
    static_assert(SHARED_BYTES + 1024 <= SHARED_MOST, "a block has 227 KiB, some of them for its barriers");
};
typedef WgTile<256, 128, 3, 2, 6> WideShared;
typedef WgTile<128, 128, 3, 3, 7> SquareShared;
typedef WgTile<256, 128, 1, 4, 4> Wide;
typedef WgTile<128, 128, 1, 6, 6> Square;
typedef WgTile<128, 64, 1, 8, 8>  Narrow;

struct ConvTiles {
    int images, height, width;               // of the result
    int pixels;                              // of an image whose time embedding is one: height * width, but where
                                             // images have been run together
    int rows, together;                      // of a tile: rows of an image, images
    int tiles_h, tiles_m, tiles_n, splits;   // tiles of an image, of all images, along the channels
    int s, taps, stride, pad_h, pad_w;       // filter columns, taps that boxes go through (columns if ROW_TAPS is 3)
    int chunks1, chunks;                     // BOX of the first source, of both
    int box_bytes;                           // of the pixels
    float *partial;                          // (splits, all pixels, partial_ld), or NULL: finish at once
    int partial_ld;
};

// Which tile an item of work is, and which steps: chunk * taps + tap.
struct ConvItem { int image, row, column, split, begin, end; };
DEVICE ConvItem conv_item(const ConvTiles &g, int item, int tile_columns) {
    int m = item % g.tiles_m, rest = item / g.tiles_m, steps = g.chunks * g.taps;
    ConvItem at;
    at.image = m / g.tiles_h * g.together;
    at.row = m % g.tiles_h * g.rows;
    at.column = rest % g.tiles_n * tile_columns;
    at.split = rest / g.tiles_n;
    at.begin = (int)((int64_t)steps * at.split / g.splits);
    at.end = (int)((int64_t)steps * (at.split + 1) / g.splits);
    return at;
}

template <class T> struct Barriers {
    uint64_t a_full[T::A_STAGES], a_empty[T::A_STAGES], b_full[T::B_STAGES], b_empty[T::B_STAGES];
};

template <class T, bool BACKWARD>
DEVICE void produce(unsigned char *shared, Barriers<T> *bars, const TensorMap *x, const TensorMap *x2,
                    const TensorMap *filter, const ConvTiles &g) {
    Ring<T::A_STAGES> a;
    Ring<T::B_STAGES> b;
    int items = g.tiles_m * g.tiles_n * g.splits;
    for (int item = (int)blockIdx.x; item < items; item += (int)gridDim.x) {
        ConvItem at = conv_item(g, item, T::N);
        for (int step = at.begin; step < at.end; step++) {
            int chunk = step / g.taps, tap = step % g.taps, r = tap / g.s, s = tap % g.s;
            int column = BACKWARD ? g.pad_w - s : s - g.pad_w;
            int row = BACKWARD ? at.row + g.pad_h - (T::ROW_TAPS - 1) - r : at.row * g.stride - g.pad_h + r;
            MBARRIER_WAIT(&bars->a_empty[a.stage], a.turn ^ 1);
            MBARRIER_ARRIVE_EXPECT(&bars->a_full[a.stage], g.box_bytes);
            unsigned char *to = shared + a.stage * T::A_BYTES;
            if (chunk < g.chunks1) {
                TMA_LOAD(to, x, &bars->a_full[a.stage], chunk * BOX, column, row, at.image);
            } else {
                TMA_LOAD(to, x2, &bars->a_full[a.stage], (chunk - g.chunks1) * BOX, column, row, at.image);
            }
            a.advance();
            for (int t = 0; t < T::ROW_TAPS; t++) {
                uint64_t *full = &bars->b_full[b.stage];
                to = shared + T::B + b.stage * T::B_BYTES;
                MBARRIER_WAIT(&bars->b_empty[b.stage], b.turn ^ 1);
                MBARRIER_ARRIVE_EXPECT(full, T::B_BYTES);
                if (BACKWARD) {
                    for (int j = 0; j < T::N / 64; j++) {
                        TMA_LOAD(to + j * 64 * ROW_BYTES, filter, full, at.column + j * 64, tap + t * g.s,
                                 chunk * BOX);
                    }
                } else {
                    TMA_LOAD(to, filter, full, chunk * BOX, tap + t * g.s, at.column);
                }
                b.advance();
            }
        }
    }
}

// The end of a tile.
template <class T>
DEVICE void finish_item(const float (&d)[T::PARTS][T::N / 2], float *slab, const ConvTiles &g, const ConvFinish &f,
                        const ConvItem &at) {
    int group = (int)threadIdx.x / GROUP - 1, part_pixels = g.rows * g.width, image_pixels = g.height * g.width;
    int64_t all_pixels = (int64_t)g.images * image_pixels;
#pragma unroll
    for (int part = 0; part < T::PARTS; part++) {
        hand_on(d[part], slab, [&](int row, int column, float (&v)[8]) {
            row += (group * T::PARTS + part) * 64;
            column += at.column;
            int image = at.image + row / part_pixels, pixel = at.row * g.width + row % part_pixels;
            if (image >= g.images || pixel >= image_pixels || column >= f.columns) return;
            int64_t of_all = (int64_t)image * image_pixels + pixel;
            if (g.partial) {
                store_chunk(g.partial + (at.split * all_pixels + of_all) * g.partial_ld + column, v);
            } else {
                finish_chunk(f, of_all, f.temb ? (int)of_all / g.pixels : 0, column, v);
            }
        });
    }
}

template <class T, bool BACKWARD>
DEVICE void consume(unsigned char *shared, Barriers<T> *bars, const ConvTiles &g, const ConvFinish &f) {
    constexpr int B_STEP = BACKWARD ? 16 * ROW_BYTES : 32;           // bytes from 16 terms to the next
    int warp = (int)threadIdx.x / 32 - 4, group = warp / 4;
    bool speaker = threadIdx.x % 32 == 0;                            // arrives for its warp
    float *slab = reinterpret_cast<float *>(shared + T::SLABS + warp * SLAB_BYTES);
    Ring<T::A_STAGES> a;
    Ring<T::B_STAGES> b;
    int part_at[T::PARTS];                   // where the warpgroup's pixels begin in a box; images have two rows more
    for (int part = 0; part < T::PARTS; part++) {
        int first = (group * T::PARTS + part) * 64, image = first / (g.rows * g.width);
        part_at[part] = (first + (T::ROW_TAPS - 1) * g.width * image) * ROW_BYTES;
    }
    int items = g.tiles_m * g.tiles_n * g.splits;
    for (int item = (int)blockIdx.x; item < items; item += (int)gridDim.x) {
        ConvItem at = conv_item(g, item, T::N);
        float d[T::PARTS][T::N / 2];
#pragma unroll
        for (int part = 0; part < T::PARTS; part++)
#pragma unroll
            for (int i = 0; i < T::N / 2; i++) d[part][i] = 0;
        uint64_t *a_done = NULL, *b_done = NULL;                     // read by products that may still be on their way
        for (int step = at.begin; step < at.end; step++) {
            MBARRIER_WAIT(&bars->a_full[a.stage], a.turn);
#pragma unroll 1
            for (int t = 0; t < T::ROW_TAPS; t++) {
                int down = (BACKWARD ? T::ROW_TAPS - 1 - t : t) * g.width * ROW_BYTES;
                uint64_t b_at = WGMMA_DESCRIPTOR(shared + T::B + b.stage * T::B_BYTES, 64 * ROW_BYTES, PATTERN, 128);
                MBARRIER_WAIT(&bars->b_full[b.stage], b.turn);
                WGMMA_FENCE();
#pragma unroll
                for (int k = 0; k < BOX / 16; k++) {
#pragma unroll
                    for (int part = 0; part < T::PARTS; part++) {
                        uint64_t a_at = WGMMA_DESCRIPTOR(shared + a.stage * T::A_BYTES + part_at[part] + down, 16,
                                                         PATTERN, 128);
                        WGMMA_SS(0, BACKWARD, d[part], WGMMA_ADVANCE(a_at, k * 32), WGMMA_ADVANCE(b_at, k * B_STEP),
                                 1);
                    }
                }
                WGMMA_COMMIT();
                WGMMA_WAIT(1);               // the products before these have read their stages
                if (speaker && b_done) MBARRIER_ARRIVE(b_done);
                if (speaker && t == 0 && a_done) MBARRIER_ARRIVE(a_done);
                b_done = &bars->b_empty[b.stage];
                b.advance();
            }
            a_done = &bars->a_empty[a.stage];
            a.advance();
        }
        WGMMA_WAIT(0);
        if (speaker && b_done) MBARRIER_ARRIVE(b_done);
        if (speaker && a_done) MBARRIER_ARRIVE(a_done);
        finish_item<T>(d, slab, g, f, at);
    }
}

template <class T, bool BACKWARD>
static __global__ void __launch_bounds__(THREADS, 1)
conv_wgmma_kernel(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap x2,
                  const __grid_constant__ TensorMap filter, ConvTiles g, ConvFinish f) {
    DYNAMIC_SHARED(unsigned char, shared);
    SHARED(Barriers<T>, bars, 1);
    if (threadIdx.x == 0) {
        for (int i = 0; i < T::A_STAGES; i++) {
            MBARRIER_INIT(&bars->a_full[i], 1);
            MBARRIER_INIT(&bars->a_empty[i], CONSUMERS * 4);
        }
        for (int i = 0; i < T::B_STAGES; i++) {
            MBARRIER_INIT(&bars->b_full[i], 1);
            MBARRIER_INIT(&bars->b_empty[i], CONSUMERS * 4);
        }
        MBARRIER_INIT_FENCE();
        TMA_PREFETCH_MAP(&x);
        TMA_PREFETCH_MAP(&filter);
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        SETMAXNREG_DEC(40);
        if (threadIdx.x == 0) produce<T, BACKWARD>(shared, bars, &x, &x2, &filter, g);
    } else {
        SETMAXNREG_INC(232);
        consume<T, BACKWARD>(shared, bars, g, f);
    }
}

// Adds the splits in order. A thread: eight columns of a pixel.
static __global__ void __launch_bounds__(256) conv_wgmma_finish_kernel(ConvFinish f, ConvTiles g, int64_t pixels) {
    int64_t item = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, pixel = item / (g.partial_ld / 8);
    int column = (int)(item % (g.partial_ld / 8)) * 8;
    if (pixel >= pixels) return;
    float v[8] = { 0, 0, 0, 0, 0, 0, 0, 0 };
    for (int s = 0; s < g.splits; s++) add_chunk(v, g.partial + (s * pixels + pixel) * g.partial_ld + column);
    finish_chunk(f, pixel, (int)pixel / g.pixels, column, v);
}

// ---- which tile, how many splits: by the shape alone
// The product: its result and source (height, width), filter, channels of the sources and the result.
struct WgProduct { int images, height, width, source_h, source_w, c, c2, columns, r, s, stride, pad_h, pad_w, pixels; };
enum WgPlanName { WIDE_SHARED, SQUARE_SHARED, WIDE, SQUARE, NARROW, PLANS, ANY = PLANS };
struct WgPlan { int name, splits; };
enum { WG_SPLITS = 8, WG_STEPS = 4 };        // at most, and at least so many steps of a split
static const struct { int m, n, row_taps, a_rows; } plan_tiles[PLANS] = {
    { WideShared::M, WideShared::N, 3, WideShared::A_ROWS },
    { SquareShared::M, SquareShared::N, 3, SquareShared::A_ROWS },
    { Wide::M, Wide::N, 1, Wide::A_ROWS }, { Square::M, Square::N, 1, Square::A_ROWS },
    { Narrow::M, Narrow::N, 1, Narrow::A_ROWS },
};

static WgProduct runs_together(WgProduct p, const Conv2dShape *z) {
    if (!pixels_only(z)) return p;
    p.height = p.source_h = p.images * p.height * p.width;
    p.images = p.width = p.source_w = 1;
    return p;
}
static WgProduct forward_product(const Conv2dShape *z) {
    WgProduct p = { z->n, z->p, z->q, z->h, z->w, z->c, z->c2, z->k, z->r, z->s, z->stride, z->pad_h, z->pad_w,
                    z->p * z->q };
    return runs_together(p, z);
}
static WgProduct backward_product(const Conv2dShape *z) {
    WgProduct p = { z->n, z->h, z->w, z->p, z->q, z->k, 0, z->c + z->c2, z->r, z->s, z->stride, z->pad_h, z->pad_w,
                    z->h * z->w };
    return runs_together(p, z);
}

// The tiles of a plan. False if it has none, or they are too large for a box.
static bool lay_tiles(const WgProduct *p, int name, ConvTiles *g) {
    int m = plan_tiles[name].m, shared_taps = plan_tiles[name].row_taps;
    RowTiles t;
    if (!lay_rows(&t, m, p->images, p->height, p->width)) return false;
    if (shared_taps == 3 && (p->r != 3 || p->stride != 1 || p->width % 8)) return false;
    *g = {};
    g->images = p->images, g->height = p->height, g->width = p->width, g->pixels = p->pixels;
    g->rows = t.rows, g->together = t.together, g->tiles_h = t.tiles_h, g->tiles_m = t.tiles;
    g->tiles_n = (int)ceil_div(p->columns, plan_tiles[name].n);
    g->s = p->s, g->taps = p->s * p->r / shared_taps, g->stride = p->stride, g->pad_h = p->pad_h, g->pad_w = p->pad_w;
    g->chunks1 = (int)ceil_div(p->c, BOX);
    g->chunks = g->chunks1 + (int)ceil_div(p->c2, BOX);
    int box_rows = g->rows + shared_taps - 1;
    g->box_bytes = p->width * box_rows * g->together * ROW_BYTES;
    return p->width * box_rows * g->together <= plan_tiles[name].a_rows && p->width * p->stride <= 256 &&
           box_rows * p->stride <= 256 && g->together <= 256;
}

// Clocks of an SM: a step is bound by 4096 FLOP or L2_BYTES a clock, the end of a tile by MEMORY_BYTES; splits cost a
// second kernel.
static double plan_clocks(const WgProduct *p, const ConvTiles *g, int name, int splits) {
    double m = plan_tiles[name].m, n = plan_tiles[name].n, taps = plan_tiles[name].row_taps;
    double multiply = m * n * BOX * taps / 2048, copy = (g->box_bytes + n * ROW_BYTES * taps) / L2_BYTES;
    double steps = (double)ceil_div((int64_t)g->chunks * g->taps, splits);
    double tile = m * n * (splits > 1 ? 4 : 3) / MEMORY_BYTES;
    double waves = (double)ceil_div((int64_t)g->tiles_m * g->tiles_n * splits, SMS);
    double clocks = 1500 + waves * (steps * (multiply > copy ? multiply : copy) + tile);
    double elements = (double)p->images * p->height * p->width * p->columns;
    return splits > 1 ? clocks + 3000 + elements * 4 * splits / (L2_BYTES * SMS) : clocks;
}
static WgPlan wg_plan(const WgProduct *p, int wanted) {
    WgPlan best = { PLANS, 1 };
    double fewest = 1e30;
    for (int name = 0; name < PLANS; name++) {
        ConvTiles g;
        if ((wanted != ANY && name != wanted) || !lay_tiles(p, name, &g)) continue;
        for (int splits = 1; splits <= WG_SPLITS; splits++) {
            if (splits > 1 && g.chunks * g.taps / splits < WG_STEPS) break;
            double clocks = plan_clocks(p, &g, name, splits);
            if (clocks >= fewest) continue;
            fewest = clocks;
            best.name = name;
            best.splits = splits;
        }
    }
    return best;
}
static int partial_columns(const WgProduct *p) { return (int)ceil_div(p->columns, 8) * 8; }
static size_t partial_bytes(const WgProduct *p, int wanted) {
    WgPlan plan = wg_plan(p, wanted);
    if (plan.splits == 1) return 0;
    size_t pixels = (size_t)p->images * (size_t)p->height * (size_t)p->width;
    return (size_t)plan.splits * pixels * (size_t)partial_columns(p) * sizeof(float);
}

// ---- what is made once, when addresses are known
struct WgState {
    TensorMap x, x2, filter;
    const Impl *instead;                     // NULL: the maps are good
};
static bool map_source(TensorMap *map, const void *data, const WgProduct *p, const ConvTiles *g, int name, int channels,
                       int ld) {
    return map_pixels(map, { data, p->images, p->source_h, p->source_w, channels, ld, g->together,
                             g->rows + plan_tiles[name].row_taps - 1, g->width, p->stride });
}
static bool map_filter(TensorMap *map, const void *data, int c, int taps, int k, int box_k) {
    const char *why;
    uint64_t dim[3] = { (uint64_t)c, (uint64_t)taps, (uint64_t)k };
    uint64_t stride[2] = { 2 * dim[0], 2 * dim[0] * dim[1] };
    uint32_t box[3] = { BOX, 1, (uint32_t)box_k }, element_stride[3] = { 1, 1, 1 };
    return tensor_map_tiled(map, DT_BF16, 3, data, dim, stride, box, element_stride, 128, &why);
}

template <class T, bool BACKWARD>
static void launch_tile(Stream *stream, const WgState *state, const ConvTiles &g, const ConvFinish &f) {
    int64_t items = (int64_t)g.tiles_m * g.tiles_n * g.splits;
    LAUNCH(stream, (conv_wgmma_kernel<T, BACKWARD>), dim3(grid_of(items, 1, SMS)), dim3(THREADS), T::SHARED_BYTES,
           state->x, state->x2, state->filter, g, f);
}
template <bool BACKWARD>
static void launch_product(Stream *stream, const WgState *state, const WgProduct *p, int wanted, ConvFinish f,
                           void *scratch) {
    WgPlan plan = wg_plan(p, wanted);
    ConvTiles g;
    CHECK(lay_tiles(p, plan.name, &g), "can() has seen the tiles");
    g.splits = plan.splits;
    g.partial_ld = partial_columns(p);
    g.partial = plan.splits > 1 ? static_cast<float *>(scratch) : NULL;
    f.wide = f.columns % 8 == 0 && f.second % 8 == 0 && f.ldy % 8 == 0 && f.ldy2 % 8 == 0 && f.ldr % 8 == 0 &&
             aligned16(f.y) && aligned16(f.y2) && aligned16(f.bias) && aligned16(f.temb) && aligned16(f.residual);
    if (plan.name == WIDE_SHARED) launch_tile<WideShared, BACKWARD>(stream, state, g, f);
    else if (plan.name == SQUARE_SHARED) launch_tile<SquareShared, BACKWARD>(stream, state, g, f);
    else if (plan.name == WIDE) launch_tile<Wide, BACKWARD>(stream, state, g, f);
    else if (plan.name == SQUARE) launch_tile<Square, BACKWARD>(stream, state, g, f);
    else launch_tile<Narrow, BACKWARD>(stream, state, g, f);
    if (plan.splits == 1) return;
    int64_t pixels = (int64_t)p->images * p->height * p->width;
    LAUNCH(stream, (conv_wgmma_finish_kernel), dim3((unsigned)ceil_div(pixels * (g.partial_ld / 8), 256)), dim3(256), 0,
           f, g, pixels);
}

// ---- the launchers. Each function for a plan: ANY, or one by name.
// What both directions leave to others. Fewer channels than half a box are mostly copies of zeros.
static bool is_plain(const Conv2dShape *z, unsigned use) {
    return z->dtype == DT_BF16 && z->lx == LAYOUT_NHWC && z->ly == LAYOUT_NHWC && sizes_fit(z) && !z->cs && !z->cs2 &&
           !(z->use & ~use) && z->c % 8 == 0 && z->c2 % 8 == 0 && z->k % 8 == 0 && z->c + z->c2 >= 32 && z->k >= 32;
}
template <int PLAN> static bool forward_can(const Conv2dShape *z) {
    WgProduct p = forward_product(z);
    return is_plain(z, CONV_X2 | CONV_BIAS | CONV_TEMB | CONV_RESIDUAL) && (z->out == DT_BF16 || z->out == DT_F32) &&
           z->ldx % 8 == 0 && z->ldx2 % 8 == 0 && (!z->c2 || z->c % BOX == 0) && z->stride <= 8 &&
           wg_plan(&p, PLAN).name != PLANS;
}
template <int PLAN> static size_t forward_scratch(const Conv2dShape *z) {
    WgProduct p = forward_product(z);
    size_t own = partial_bytes(&p, PLAN), other = conv2d_forward.scratch(general_of(&conv2d_forward, z), z);
    return own > other ? own : other;
}
template <int PLAN> static void *forward_prepare(Stream *, const Conv2dShape *z, const Conv2dArgs *a) {
    WgState *state = static_cast<WgState *>(aligned_alloc(alignof(WgState), sizeof(WgState)));
    WgProduct p = forward_product(z);
    int name = wg_plan(&p, PLAN).name;
    ConvTiles g;
    CHECK(state && lay_tiles(&p, name, &g), "no memory for tensor maps");
    bool good = map_source(&state->x, a->x, &p, &g, name, z->c, z->ldx) &&
                map_source(&state->x2, z->c2 ? a->x2 : a->x, &p, &g, name, z->c2 ? z->c2 : z->c,
                           z->c2 ? z->ldx2 : z->ldx) &&
                map_filter(&state->filter, a->w, z->c + z->c2, z->r * z->s, z->k, plan_tiles[name].n);
    state->instead = good ? NULL : general_of(&conv2d_forward, z);
    return state;
}
template <int PLAN> static void forward(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, Work work) {
    const WgState *state = static_cast<const WgState *>(work.state);
    if (state->instead) {
        conv2d_forward.run(state->instead, stream, z, a, { NULL, work.scratch });
        return;
    }
    WgProduct p = forward_product(z);
    ConvFinish f = {};
    f.y = a->y, f.ldy = z->ldy, f.columns = f.second = z->k, f.f32 = z->out == DT_F32;
    f.bias = a->bias, f.temb = a->temb;
    f.residual = static_cast<const bf16 *>(a->residual), f.ldr = a->residual ? z->ldr : 0;
    launch_product<false>(stream, state, &p, PLAN, f, work.scratch);
}

// A stride would leave holes between the taps of a pixel: conv2d_mma.cu.
template <int PLAN> static bool backward_input_can(const Conv2dShape *z) {
    WgProduct p = backward_product(z);
    return is_plain(z, CONV_X2 | CONV_BIAS | CONV_TEMB | CONV_RESIDUAL) && z->out == DT_BF16 && z->stride == 1 &&
           z->ldy % 8 == 0 && wg_plan(&p, PLAN).name != PLANS;
}
template <int PLAN> static size_t backward_input_scratch(const Conv2dShape *z) {
    WgProduct p = backward_product(z);
    size_t own = partial_bytes(&p, PLAN);
    size_t other = conv2d_backward_input.scratch(general_of(&conv2d_backward_input, z), z);
    return own > other ? own : other;
}
template <int PLAN> static void *backward_input_prepare(Stream *, const Conv2dShape *z, const Conv2dArgs *a) {
    WgState *state = static_cast<WgState *>(aligned_alloc(alignof(WgState), sizeof(WgState)));
    WgProduct p = backward_product(z);
    int name = wg_plan(&p, PLAN).name;
    ConvTiles g;
    CHECK(state && lay_tiles(&p, name, &g), "no memory for tensor maps");
    bool good = map_source(&state->x, a->dy, &p, &g, name, z->k, z->ldy) &&
                map_filter(&state->filter, a->w, z->c + z->c2, z->r * z->s, z->k, BOX);
    state->x2 = state->x;
    state->instead = good ? NULL : general_of(&conv2d_backward_input, z);
    return state;
}
template <int PLAN> static void backward_input(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, Work work) {
    const WgState *state = static_cast<const WgState *>(work.state);
    if (state->instead) {
        conv2d_backward_input.run(state->instead, stream, z, a, { NULL, work.scratch });
        return;
    }
    WgProduct p = backward_product(z);
    ConvFinish f = {};
    f.y = a->dx, f.ldy = z->ldx, f.columns = z->c + z->c2, f.second = z->c;
    f.y2 = a->dx2, f.ldy2 = z->c2 ? z->ldx2 : 0;
    f.residual = static_cast<const bf16 *>(a->add), f.ldr = z->c + z->c2;
    f.bias = a->bias;
    launch_product<true>(stream, state, &p, PLAN, f, work.scratch);
}

// By default the model chooses; each choice has a name of its own, for tests and for the bench.
#define FORWARD(name, order, plan)                                                                                  \
    IMPL_FULL(conv2d_forward, name, order, 90, 90, forward_can<plan>, forward_scratch<plan>, forward_prepare<plan>, \
              forward<plan>, free)
#define BACKWARD_INPUT(name, order, plan)                                                                           \
    IMPL_FULL(conv2d_backward_input, name, order, 90, 90, backward_input_can<plan>, backward_input_scratch<plan>,   \
              backward_input_prepare<plan>, backward_input<plan>, free)
IMPLS(conv2d_sm90,
    FORWARD("wgmma", 40, ANY),
    FORWARD("wgmma_shared_256x128", -1, WIDE_SHARED),
    FORWARD("wgmma_shared_128x128", -1, SQUARE_SHARED),
    FORWARD("wgmma_256x128", -1, WIDE),
    FORWARD("wgmma_128x128", -1, SQUARE),
    FORWARD("wgmma_128x64", -1, NARROW),
    BACKWARD_INPUT("wgmma", 40, ANY),
    BACKWARD_INPUT("wgmma_shared_256x128", -1, WIDE_SHARED),
    BACKWARD_INPUT("wgmma_shared_128x128", -1, SQUARE_SHARED),
    BACKWARD_INPUT("wgmma_256x128", -1, WIDE),
    BACKWARD_INPUT("wgmma_128x128", -1, SQUARE),
    BACKWARD_INPUT("wgmma_128x64", -1, NARROW))
