// kernels/conv2d/conv2d_sm90.cu - convolution and its input gradient in bf16 as implicit matrix products on wgmma.
//
// A tile is M pixels of the result, whole rows of one image or whole images, by N of its channels; a term is a tap of
// the filter and a channel of the source: x and x2 forward, dy backward. TMA copies, in terms of 64 channels,
//   pixels   the box (64 channels, width, rows, images) of the source under a tap: what lies beside the image is read
//            as zero, which is the padding. A convolution of stride 2 reads under a tap only pixels of one phase, (row
//            mod 2, column mod 2), which is an image of its own with a map of its own
//   filter   forward (64 channels, tap, N output channels), terms innermost; backward (64 channels, tap, 64 output
//            channels) N / 64 times, terms outermost as they lie in memory: wgmma turns them
// both swizzled over 128 bytes. Rows of the filter that read one phase share its pixels (ROW_TAPS of them): the box has
// ROW_TAPS - 1 rows more, and the taps of a column start a row apart, a multiple of the pattern's 1024 bytes where a
// row is 8 pixels, of one image or of those of the tile together: 8 images of 4x4 are rows of 32. Three rows do at
// stride 1, rows 0 and 2, and 1 and 3, of a 4x4 filter at stride 2.
//
// Blocks form clusters of up to 2 x 2 tiles: each copies half of the filter that two along the pixels share, and half
// of the pixels that two along the channels share, to both.
//
// Backward with a stride of 2, every second tap meets a pixel of the result, by its phase: each phase is a product of
// its own, of stride 1, whose tap t of row first + 2 t meets row  i + base - t  of dy for pixel  h = phase + 2 i.
// Larger strides, and two sources with a stride, are left to conv2d_mma.cu.
//
// A block has one producer thread and two warpgroups that multiply, each its half of the pixels. Pixels and filter have
// rings of their own in shared memory. Blocks live for many tiles, so that the copies of the next tile overlap the end
// of this one; tiles along the pixels are neighbours in time and share the filter in L2. Sums leave through shared
// memory, 16 bytes a thread. Products with few tiles are split over their terms into f32 sums in scratch, which a
// second kernel adds in order and finishes.
//
// From L2 at 256 x 128 and ROW_TAPS 3: 88 KiB for 12.6 MFLOP, 140 FLOP a byte; at ROW_TAPS 2 66 KiB for 8.4: 124; at
// 4x4, 128 x 128, 72 KiB for 6.3: 85. In clusters up to twice as many. What comes of it: cbdm bench --list --plans.
#include <math.h>
#include "kernels/common/plan.h"
#include "kernels/conv2d/conv2d_sm90.cuh"

// M_ x N_ sums a block; ROW_TAPS_: taps of a column of the filter that share their pixels.
template <int M_, int N_, int ROW_TAPS_, int A_STAGES_, int B_STAGES_> struct WgTile {
    static constexpr int M = M_, N = N_, ROW_TAPS = ROW_TAPS_, A_STAGES = A_STAGES_, B_STAGES = B_STAGES_;
    static constexpr int PARTS = M / (64 * CONSUMERS);               // products of 64 rows of a warpgroup
    static constexpr int A_ROWS = M + 32 * (ROW_TAPS - 1);           // most pixels of a box
    static constexpr int A_BYTES = A_ROWS * ROW_BYTES, B_BYTES = N * ROW_BYTES, B = A_STAGES * A_BYTES;
    static constexpr int SLABS = B + B_STAGES * B_BYTES;
    static constexpr int SHARED_BYTES = SLABS + CONSUMERS * 4 * SLAB_BYTES;
    static_assert(SHARED_BYTES + 1024 <= SHARED_MOST, "a block has 227 KiB, some of them for its barriers");
};
typedef WgTile<256, 128, 3, 2, 6> WideShared;
typedef WgTile<128, 128, 3, 3, 7> SquareShared;
typedef WgTile<256, 128, 2, 3, 5> WidePaired;
typedef WgTile<128, 128, 2, 4, 6> SquarePaired;
typedef WgTile<256, 128, 1, 4, 4> Wide;
typedef WgTile<128, 128, 1, 6, 6> Square;
typedef WgTile<128, 64, 1, 8, 8>  Narrow;

struct ConvTiles {
    int images, height, width;               // of the result, or of one of its phases
    int pixels;                              // of an image whose time embedding is one: height * width, but where
                                             // images have been run together
    int phases;                              // of the result, across and down: stride backward, else 1
    int rows, together, across;              // of a tile: rows of an image, images, pixels side by side
    int cluster_m, cluster_n;                // tiles of a cluster: along the pixels, which share the filter; along the
                                             // channels, which share the pixels
    int tiles_h, tiles_m, tiles_n, splits;   // tiles of an image, of all images, along the channels
    int r, s, stride, pad_h, pad_w;          // filter
    int chunks1, chunks;                     // BOX of the first source, of both
    int box_bytes;                           // of the pixels
    float *partial;                          // (splits, all pixels, partial_ld), or NULL: finish at once
    int partial_ld;
};

DEVICE int conv_clusters(const ConvTiles &g) { return (g.tiles_m + g.cluster_m - 1) / g.cluster_m; }   // of the pixels
DEVICE int conv_items(const ConvTiles &g) {
    return conv_clusters(g) * (g.tiles_n / g.cluster_n) * g.phases * g.phases * g.splits;
}

// Which tile an item of work, a cluster's, is for this block, and which steps: chunk * boxes + box, a box for each
// column of groups of taps. The last cluster may have tiles past the last image: these read zeros, and write nothing.
struct ConvItem {
    int image, row, column, split, begin, end;
    int phase_h, phase_w;                    // of the result
    int boxes, columns;                      // of a chunk; columns of the filter among them
};
// Taps of a dimension of `filter` that meet a phase of the result.
DEVICE int taps_of_phase(const ConvTiles &g, int filter, int pad, int phase) {
    int first = (phase + pad) % g.phases;
    return first < filter ? (filter - first + g.phases - 1) / g.phases : 0;
}
template <class T> DEVICE ConvItem conv_item(const ConvTiles &g, const ClusterPlace &place, int item) {
    // Phases last to first: with the usual padding of 1 the last has the most taps, and what is longest starts first.
    int across = g.tiles_n / g.cluster_n, rest = item / conv_clusters(g), all = g.phases * g.phases;
    int m = item % conv_clusters(g) * g.cluster_m + place.at_first, n = rest % across * g.cluster_n + place.at_second;
    int phase = all - 1 - rest / across % all;
    ConvItem at;
    at.image = m / g.tiles_h * g.together;
    at.row = m % g.tiles_h * g.rows;
    at.column = n * T::N;
    at.split = rest / across / all;
    at.phase_h = phase / g.phases;
    at.phase_w = phase % g.phases;
    at.columns = taps_of_phase(g, g.s, g.pad_w, at.phase_w);
    at.boxes = taps_of_phase(g, g.r, g.pad_h, at.phase_h) / T::ROW_TAPS * at.columns;
    int steps = g.chunks * at.boxes;
    at.begin = (int)((int64_t)steps * at.split / g.splits);
    at.end = (int)((int64_t)steps * (at.split + 1) / g.splits);
    return at;
}

// What a box of a step reads: source, its first row and column there; the filter's tap above, and from tap to tap.
struct ConvBox { int source, row, column, tap, next; };
template <class T, bool BACKWARD> DEVICE ConvBox conv_box(const ConvTiles &g, const ConvItem &at, int box) {
    int group = box / at.columns, s = box % at.columns;
    if (BACKWARD) {
        int t = group * T::ROW_TAPS, base_h = (at.phase_h + g.pad_h) / g.stride;
        int base_w = (at.phase_w + g.pad_w) / g.stride;
        int first_h = (at.phase_h + g.pad_h) % g.stride, first_w = (at.phase_w + g.pad_w) % g.stride;
        return { 0, at.row + base_h - t - (T::ROW_TAPS - 1), base_w - s,
                 (first_h + g.stride * t) * g.s + first_w + g.stride * s, g.stride * g.s };
    }
    int r = group_row(group, g.stride, T::ROW_TAPS), down = r - g.pad_h, right = s - g.pad_w;
    return { phase_of(down, g.stride) * g.stride + phase_of(right, g.stride), at.row + shift_of(down, g.stride),
             shift_of(right, g.stride), r * g.s + s, g.stride * g.s };
}

template <class T> struct Barriers {
    uint64_t a_full[T::A_STAGES], a_empty[T::A_STAGES], b_full[T::B_STAGES], b_empty[T::B_STAGES];
};

// Each block of a cluster copies its part of what it shares to all that share it.
template <class T, bool BACKWARD>
DEVICE void produce(unsigned char *shared, Barriers<T> *bars, const SourceMaps *sources, const TensorMap *filter,
                    const ConvTiles &g, const ClusterPlace &place) {
    uint32_t share_filter = mask_of(place.of_first), share_pixels = mask_of(place.of_second);
    int part_rows = (g.rows + T::ROW_TAPS - 1) / g.cluster_n, first_row = place.at_second * part_rows;
    int part = (BACKWARD ? BOX : T::N) / g.cluster_m, first = place.at_first * part;         // rows of a filter's box
    int pixels_at = first_row * g.across * ROW_BYTES, filter_at = first * ROW_BYTES;
    Ring<T::A_STAGES> a;
    Ring<T::B_STAGES> b;
    int items = conv_items(g), blocks = g.cluster_m * g.cluster_n;
    for (int item = (int)blockIdx.x / blocks; item < items; item += (int)gridDim.x / blocks) {
        ConvItem at = conv_item<T>(g, place, item);
        for (int step = at.begin; step < at.end; step++) {
            int chunk = step / at.boxes;
            bool second = chunk >= g.chunks1;                        // of two sources, whose stride is 1
            ConvBox box = conv_box<T, BACKWARD>(g, at, step % at.boxes);
            const TensorMap *map = &sources->at[second ? 1 : box.source];
            int channel = (second ? chunk - g.chunks1 : chunk) * BOX;
            uint64_t *full = &bars->a_full[a.stage];
            unsigned char *to = shared + a.stage * T::A_BYTES + pixels_at;
            MBARRIER_WAIT_CLUSTER(&bars->a_empty[a.stage], a.turn ^ 1);
            MBARRIER_ARRIVE_EXPECT(full, g.box_bytes);
            if (g.cluster_n == 1) TMA_LOAD(to, map, full, channel, box.column, at.image, box.row);
            else TMA_LOAD_MULTICAST(to, map, full, share_pixels, channel, box.column, at.image, box.row + first_row);
            a.advance();
            for (int t = 0; t < T::ROW_TAPS; t++) {
                int tap = box.tap + t * box.next;
                full = &bars->b_full[b.stage];
                to = shared + T::B + b.stage * T::B_BYTES + filter_at;
                MBARRIER_WAIT_CLUSTER(&bars->b_empty[b.stage], b.turn ^ 1);
                MBARRIER_ARRIVE_EXPECT(full, T::B_BYTES);
                for (int j = 0; j < (BACKWARD ? T::N / BOX : 1); j++) {
                    int inner = BACKWARD ? at.column + j * BOX : chunk * BOX;
                    int outer = (BACKWARD ? chunk * BOX : at.column) + first;
                    unsigned char *box_to = to + j * BOX * ROW_BYTES;
                    if (g.cluster_m == 1) TMA_LOAD(box_to, filter, full, inner, tap, outer);
                    else TMA_LOAD_MULTICAST(box_to, filter, full, share_filter, inner, tap, outer);
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
    int group = (int)threadIdx.x / GROUP - 1, image_pixels = g.height * g.width;
    int64_t all_pixels = (int64_t)g.images * image_pixels * g.phases * g.phases;
#pragma unroll
    for (int part = 0; part < T::PARTS; part++) {
        hand_on(d[part], slab, [&](int row, int column, float (&v)[8]) {
            row += (group * T::PARTS + part) * 64;
            column += at.column;
            int image = at.image + row % g.across / g.width;
            int pixel = (at.row + row / g.across) * g.width + row % g.width;
            if (image >= g.images || pixel >= image_pixels || column >= f.columns) return;
            int64_t of_all = (int64_t)image * image_pixels + pixel;
            if (g.phases > 1) {
                int result_row = at.phase_h + g.phases * (pixel / g.width);
                int result_column = at.phase_w + g.phases * (pixel % g.width);
                of_all = ((int64_t)image * g.phases * g.height + result_row) * g.phases * g.width + result_column;
            }
            if (g.partial) {
                store_chunk(g.partial + (at.split * all_pixels + of_all) * g.partial_ld + column, v);
            } else {
                finish_chunk(f, of_all, f.temb ? (int)of_all / g.pixels : 0, column, v);
            }
        });
    }
}

template <class T, bool BACKWARD>
DEVICE void consume(unsigned char *shared, Barriers<T> *bars, const ConvTiles &g, const ClusterPlace &place,
                    const ConvFinish &f) {
    constexpr int B_STEP = BACKWARD ? 16 * ROW_BYTES : 32;           // bytes from 16 terms to the next
    int warp = (int)threadIdx.x / 32 - 4, group = warp / 4;
    bool speaker = threadIdx.x % 32 == 0;                            // arrives for its warp
    float *slab = reinterpret_cast<float *>(shared + T::SLABS + warp * SLAB_BYTES);
    Ring<T::A_STAGES> a;
    Ring<T::B_STAGES> b;
    int items = conv_items(g), blocks = g.cluster_m * g.cluster_n;
    for (int item = (int)blockIdx.x / blocks; item < items; item += (int)gridDim.x / blocks) {
        ConvItem at = conv_item<T>(g, place, item);
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
                int down = (BACKWARD ? T::ROW_TAPS - 1 - t : t) * g.across + group * T::PARTS * 64;   // in pixels
                uint64_t b_at = WGMMA_DESCRIPTOR(shared + T::B + b.stage * T::B_BYTES, 64 * ROW_BYTES, PATTERN, 128);
                MBARRIER_WAIT(&bars->b_full[b.stage], b.turn);
                WGMMA_FENCE();
#pragma unroll
                for (int k = 0; k < BOX / 16; k++) {
#pragma unroll
                    for (int part = 0; part < T::PARTS; part++) {
                        unsigned char *pixels = shared + a.stage * T::A_BYTES + (down + part * 64) * ROW_BYTES;
                        uint64_t a_at = WGMMA_DESCRIPTOR(pixels, 16, PATTERN, 128);
                        WGMMA_SS(0, BACKWARD, d[part], WGMMA_ADVANCE(a_at, k * 32), WGMMA_ADVANCE(b_at, k * B_STEP),
                                 1);
                    }
                }
                WGMMA_COMMIT();
                WGMMA_WAIT(1);               // the products before these have read their stages
                if (speaker && b_done) release(b_done, place.of_first);
                if (speaker && t == 0 && a_done) release(a_done, place.of_second);
                b_done = &bars->b_empty[b.stage];
                b.advance();
            }
            a_done = &bars->a_empty[a.stage];
            a.advance();
        }
        WGMMA_WAIT(0);
        if (speaker && b_done) release(b_done, place.of_first);
        if (speaker && a_done) release(a_done, place.of_second);
        finish_item<T>(d, slab, g, f, at);
    }
}

template <class T, bool BACKWARD>
static __global__ void __launch_bounds__(THREADS, 1)
conv_wgmma_kernel(const __grid_constant__ SourceMaps sources, const __grid_constant__ TensorMap filter, ConvTiles g,
                  ConvFinish f) {
    DYNAMIC_SHARED(unsigned char, shared);
    SHARED(Barriers<T>, bars, 1);
    if (threadIdx.x == 0) {
        for (int i = 0; i < T::A_STAGES; i++) {
            MBARRIER_INIT(&bars->a_full[i], 1);
            MBARRIER_INIT(&bars->a_empty[i], CONSUMERS * 4 * g.cluster_n);
        }
        for (int i = 0; i < T::B_STAGES; i++) {
            MBARRIER_INIT(&bars->b_full[i], 1);
            MBARRIER_INIT(&bars->b_empty[i], CONSUMERS * 4 * g.cluster_m);
        }
        MBARRIER_INIT_FENCE();
        TMA_PREFETCH_MAP(&sources.at[0]);
        TMA_PREFETCH_MAP(&filter);
    }
    CLUSTER_SYNC();
    ClusterPlace place = cluster_place(g.cluster_m, g.cluster_n);
    if (threadIdx.x < GROUP) {
        SETMAXNREG_DEC(56);
        if (threadIdx.x == 0) produce<T, BACKWARD>(shared, bars, &sources, &filter, g, place);
        __syncwarp();
        CLUSTER_SYNC();                      // others copy into this block, and arrive at its barriers, no more
    } else {
        SETMAXNREG_INC(224);
        consume<T, BACKWARD>(shared, bars, g, place, f);
        CLUSTER_SYNC();
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
// The product: its result, or a phase of it, and its source (height, width), filter, channels of the sources and the
// result. pixels: of an image of the result.
struct WgProduct {
    int images, height, width, source_h, source_w, c, c2, columns, r, s, stride, pad_h, pad_w, pixels, phases;
};
enum WgPlanName { WIDE_SHARED, SQUARE_SHARED, WIDE_PAIRED, SQUARE_PAIRED, WIDE, SQUARE, NARROW, PLANS, ANY = PLANS };
struct WgPlan { int name, splits, cluster_m, cluster_n; };
enum { WG_SPLITS = 8, WG_STEPS = 4 };        // at most, and at least so many taps of 64 channels of a split
static const struct { const char *name; int m, n, row_taps, a_rows; } plan_tiles[PLANS] = {
    { "shared_256x128", WideShared::M, WideShared::N, 3, WideShared::A_ROWS },
    { "shared_128x128", SquareShared::M, SquareShared::N, 3, SquareShared::A_ROWS },
    { "paired_256x128", WidePaired::M, WidePaired::N, 2, WidePaired::A_ROWS },
    { "paired_128x128", SquarePaired::M, SquarePaired::N, 2, SquarePaired::A_ROWS },
    { "256x128", Wide::M, Wide::N, 1, Wide::A_ROWS }, { "128x128", Square::M, Square::N, 1, Square::A_ROWS },
    { "128x64", Narrow::M, Narrow::N, 1, Narrow::A_ROWS },
};

static WgProduct runs_together(WgProduct p, const Conv2dShape *z) {
    if (!pixels_only(z)) return p;
    p.height = p.source_h = p.images * p.height * p.width;
    p.images = p.width = p.source_w = 1;
    return p;
}
static WgProduct forward_product(const Conv2dShape *z) {
    WgProduct p = { z->n, z->p, z->q, z->h, z->w, z->c, z->c2, z->k, z->r, z->s, z->stride, z->pad_h, z->pad_w,
                    z->p * z->q, 1 };
    return runs_together(p, z);
}
static WgProduct backward_product(const Conv2dShape *z) {
    WgProduct p = { z->n, z->h / z->stride, z->w / z->stride, z->p, z->q, z->k, 0, z->c + z->c2, z->r, z->s, z->stride,
                    z->pad_h, z->pad_w, z->h * z->w, z->stride };
    return runs_together(p, z);
}

// The tiles of a plan. False if it has none, or they are too large for a box.
static bool lay_tiles(const WgProduct *p, const WgPlan &plan, ConvTiles *g) {
    int m = plan_tiles[plan.name].m, shared_taps = plan_tiles[plan.name].row_taps;
    RowTiles t;
    if (!lay_rows(&t, m, p->images, p->height, p->width)) return false;
    if (!groups_of(shared_taps, p->r, p->stride)) return false;
    if (shared_taps > 1 && t.across % 8) return false;                                       // taps start at patterns
    *g = {};
    g->images = p->images, g->height = p->height, g->width = p->width, g->pixels = p->pixels, g->phases = p->phases;
    g->rows = t.rows, g->together = t.together, g->across = t.across, g->tiles_h = t.tiles_h, g->tiles_m = t.tiles;
    g->tiles_n = (int)ceil_div(p->columns, plan_tiles[plan.name].n);
    g->cluster_m = plan.cluster_m, g->cluster_n = plan.cluster_n, g->splits = plan.splits;
    g->r = p->r, g->s = p->s, g->stride = p->stride, g->pad_h = p->pad_h, g->pad_w = p->pad_w;
    g->chunks1 = (int)ceil_div(p->c, BOX);
    g->chunks = g->chunks1 + (int)ceil_div(p->c2, BOX);
    int box_rows = g->rows + shared_taps - 1;
    g->box_bytes = g->across * box_rows * ROW_BYTES;
    if (g->cluster_m > g->tiles_m || g->tiles_n % g->cluster_n) return false;
    if (g->cluster_n > 1 && (box_rows % 2 || box_rows / 2 * g->across % 8)) return false;    // halves are patterns
    return g->across * box_rows <= plan_tiles[plan.name].a_rows && p->width <= 256 && box_rows <= 256 &&
           g->together <= 256;
}

static size_t all_pixels(const WgProduct *p) {
    return (size_t)p->images * (size_t)p->height * (size_t)p->width * (size_t)(p->phases * p->phases);
}
static ImplPlan tell_plan(const WgProduct *p, const ConvTiles *g, int name) {
    ImplPlan told = {};
    told.tile = plan_tiles[name].name, told.m = plan_tiles[name].m, told.n = plan_tiles[name].n;
    int phases = g->phases * g->phases, taps = plan_tiles[name].row_taps, splits = g->splits;
    double steps = ceil((double)g->chunks * p->r * p->s / taps / phases / splits);               // of an average phase
    told.blocks = ceil_div(g->tiles_m, g->cluster_m) * g->cluster_m * g->tiles_n * phases * splits;
    told.splits = splits, told.at_once = 1, told.together = g->cluster_m * g->cluster_n;
    told.flops = steps * 2.0 * told.m * told.n * BOX * taps;
    told.l2_bytes = steps * ((double)g->box_bytes / g->cluster_n + told.n * ROW_BYTES * taps / g->cluster_m);
    told.beside = splits > 1;
    told.beside_bytes = splits > 1 ? 8.0 * splits * (double)all_pixels(p) * p->columns : 0;
    return told;
}
// Of plans that take as long, the one with the fewest splits and the smallest cluster.
static WgPlan wg_plan(const WgProduct *p, int wanted) {
    WgPlan best = { PLANS, 1, 1, 1 };
    double fewest = 1e30;
    for (int name = 0; name < PLANS; name++) {
        ConvTiles g;
        if ((wanted != ANY && name != wanted) || !lay_tiles(p, { name, 1, 1, 1 }, &g)) continue;
        int least = (p->r / p->phases) * (p->s / p->phases);                                 // taps of a phase
        for (int splits = 1; splits <= WG_SPLITS; splits++) {
            if (splits > 1 && g.chunks * least / splits < WG_STEPS) break;
            for (int cluster = 0; cluster < 4; cluster++) {
                WgPlan plan = { name, splits, 1 + cluster % 2, 1 + cluster / 2 };
                if (!lay_tiles(p, plan, &g)) continue;
                ImplPlan told = tell_plan(p, &g, name);
                double seconds = plan_seconds(&told, &machine_h200);
                if (seconds >= fewest) continue;
                fewest = seconds;
                best = plan;
            }
        }
    }
    return best;
}
static int partial_columns(const WgProduct *p) { return (int)ceil_div(p->columns, 8) * 8; }
static size_t partial_bytes(const WgProduct *p, int wanted) {
    WgPlan plan = wg_plan(p, wanted);
    if (plan.splits == 1) return 0;
    return (size_t)plan.splits * all_pixels(p) * (size_t)partial_columns(p) * sizeof(float);
}

// ---- what is made once, when addresses are known
struct WgState {
    SourceMaps sources;
    TensorMap filter;
    WgPlan plan;
    const Impl *instead;                     // NULL: the maps are good
};
static PixelMap source_of(const void *data, const WgProduct *p, const ConvTiles *g, int name, int channels, int ld) {
    return { data, p->images, p->source_h, p->source_w, channels, ld, g->together,
             (g->rows + plan_tiles[name].row_taps - 1) / g->cluster_n, g->width };
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
    unsigned blocks = (unsigned)(g.cluster_m * g.cluster_n);
    int64_t items = ceil_div(g.tiles_m, g.cluster_m) * (g.tiles_n / g.cluster_n) * g.phases * g.phases * g.splits;
    unsigned clusters = grid_of(items, 1, plan_clusters((int)blocks, &machine_h200));
    LAUNCH_CLUSTER(stream, blocks, (conv_wgmma_kernel<T, BACKWARD>), dim3(clusters * blocks), dim3(THREADS),
                   T::SHARED_BYTES, state->sources, state->filter, g, f);
}
template <bool BACKWARD>
static void launch_product(Stream *stream, const WgState *state, const WgProduct *p, ConvFinish f, void *scratch) {
    WgPlan plan = state->plan;
    ConvTiles g;
    CHECK(lay_tiles(p, plan, &g), "can() has seen the tiles");
    g.partial_ld = partial_columns(p);
    g.partial = plan.splits > 1 ? static_cast<float *>(scratch) : NULL;
    f.wide = f.columns % 8 == 0 && f.second % 8 == 0 && f.ldy % 8 == 0 && f.ldy2 % 8 == 0 && f.ldr % 8 == 0 &&
             aligned16(f.y) && aligned16(f.y2) && aligned16(f.bias) && aligned16(f.temb) && aligned16(f.residual);
    if (plan.name == WIDE_SHARED) launch_tile<WideShared, BACKWARD>(stream, state, g, f);
    else if (plan.name == SQUARE_SHARED) launch_tile<SquareShared, BACKWARD>(stream, state, g, f);
    else if (plan.name == WIDE_PAIRED) launch_tile<WidePaired, BACKWARD>(stream, state, g, f);
    else if (plan.name == SQUARE_PAIRED) launch_tile<SquarePaired, BACKWARD>(stream, state, g, f);
    else if (plan.name == WIDE) launch_tile<Wide, BACKWARD>(stream, state, g, f);
    else if (plan.name == SQUARE) launch_tile<Square, BACKWARD>(stream, state, g, f);
    else launch_tile<Narrow, BACKWARD>(stream, state, g, f);
    if (plan.splits == 1) return;
    int64_t pixels = (int64_t)all_pixels(p);
    LAUNCH(stream, (conv_wgmma_finish_kernel), dim3((unsigned)ceil_div(pixels * (g.partial_ld / 8), 256)), dim3(256), 0,
           f, g, pixels);
}

// ---- the launchers. Each function for a plan: ANY, or one by name.
// What both directions leave to others. Fewer channels than half a box are mostly copies of zeros.
static bool is_plain(const Conv2dShape *z, unsigned use) {
    return z->dtype == DT_BF16 && z->lx == LAYOUT_NHWC && z->ly == LAYOUT_NHWC && sizes_fit(z) && !z->cs && !z->cs2 &&
           !(z->use & ~use) && z->c % 8 == 0 && z->c2 % 8 == 0 && z->k % 8 == 0 && z->c + z->c2 >= 32 && z->k >= 32 &&
           z->stride <= STRIDE_MOST;
}
template <int PLAN> static bool forward_can(const Conv2dShape *z) {
    WgProduct p = forward_product(z);
    return is_plain(z, CONV_X2 | CONV_BIAS | CONV_TEMB | CONV_RESIDUAL) && (z->out == DT_BF16 || z->out == DT_F32) &&
           z->ldx % 8 == 0 && z->ldx2 % 8 == 0 && (!z->c2 || (z->c % BOX == 0 && z->stride == 1)) &&
           z->h >= z->stride && z->w >= z->stride && wg_plan(&p, PLAN).name != PLANS;
}
template <int PLAN> static size_t forward_scratch(const Conv2dShape *z) {
    WgProduct p = forward_product(z);
    size_t own = partial_bytes(&p, PLAN), other = conv2d_forward.scratch(general_of(&conv2d_forward, z), z);
    return own > other ? own : other;
}
template <int PLAN> static void *forward_prepare(Stream *, const Conv2dShape *z, const Conv2dArgs *a) {
    WgState *state = static_cast<WgState *>(aligned_alloc(alignof(WgState), sizeof(WgState)));
    WgProduct p = forward_product(z);
    WgPlan plan = wg_plan(&p, PLAN);
    ConvTiles g;
    CHECK(state && lay_tiles(&p, plan, &g), "no memory for tensor maps");
    PixelMap x = source_of(a->x, &p, &g, plan.name, z->c, z->ldx), x2 = x;
    x2.data = a->x2, x2.channels = z->c2, x2.ld = z->ldx2;
    bool good = map_phases(&state->sources, x, z->stride) &&
                (!z->c2 || map_phase(&state->sources.at[1], x2, 1, 0, 0)) &&
                map_filter(&state->filter, a->w, z->c + z->c2, z->r * z->s, z->k,
                           plan_tiles[plan.name].n / plan.cluster_m);
    state->plan = plan;
    state->instead = good ? NULL : general_of(&conv2d_forward, z);
    return state;
}
static void forward(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, Work work) {
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
    launch_product<false>(stream, state, &p, f, work.scratch);
}

// All phases of the result are of one size.
template <int PLAN> static bool backward_input_can(const Conv2dShape *z) {
    WgProduct p = backward_product(z);
    return is_plain(z, CONV_X2 | CONV_BIAS | CONV_TEMB | CONV_RESIDUAL) && z->out == DT_BF16 &&
           z->h % z->stride == 0 && z->w % z->stride == 0 && z->ldy % 8 == 0 && z->pad_h >= 0 && z->pad_w >= 0 &&
           wg_plan(&p, PLAN).name != PLANS;
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
    WgPlan plan = wg_plan(&p, PLAN);
    ConvTiles g;
    CHECK(state && lay_tiles(&p, plan, &g), "no memory for tensor maps");
    bool good = map_phases(&state->sources, source_of(a->dy, &p, &g, plan.name, z->k, z->ldy), 1) &&
                map_filter(&state->filter, a->w, z->c + z->c2, z->r * z->s, z->k, BOX / plan.cluster_m);
    state->plan = plan;
    state->instead = good ? NULL : general_of(&conv2d_backward_input, z);
    return state;
}
static void backward_input(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, Work work) {
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
    launch_product<true>(stream, state, &p, f, work.scratch);
}

static void tell(WgProduct p, int wanted, ImplPlan *told) {
    WgPlan plan = wg_plan(&p, wanted);
    ConvTiles g;
    CHECK(lay_tiles(&p, plan, &g), "can() has seen the tiles");
    *told = tell_plan(&p, &g, plan.name);
}
template <int PLAN> static void forward_plan(const Conv2dShape *z, ImplPlan *told) {
    tell(forward_product(z), PLAN, told);
}
template <int PLAN> static void backward_input_plan(const Conv2dShape *z, ImplPlan *told) {
    tell(backward_product(z), PLAN, told);
}

// By default the model chooses; each choice has a name of its own, for tests and for the bench.
#define FORWARD(name, order, n)                                                                                     \
    IMPL_PLANNED(conv2d_forward, name, order, 90, 90, forward_can<n>, forward_scratch<n>, forward_prepare<n>,       \
                 forward, free, forward_plan<n>)
#define BACKWARD_INPUT(name, order, n)                                                                              \
    IMPL_PLANNED(conv2d_backward_input, name, order, 90, 90, backward_input_can<n>, backward_input_scratch<n>,      \
                 backward_input_prepare<n>, backward_input, free, backward_input_plan<n>)
IMPLS(conv2d_sm90,
    FORWARD("wgmma", 40, ANY),
    FORWARD("wgmma_shared_256x128", -1, WIDE_SHARED),
    FORWARD("wgmma_shared_128x128", -1, SQUARE_SHARED),
    FORWARD("wgmma_paired_256x128", -1, WIDE_PAIRED),
    FORWARD("wgmma_paired_128x128", -1, SQUARE_PAIRED),
    FORWARD("wgmma_256x128", -1, WIDE),
    FORWARD("wgmma_128x128", -1, SQUARE),
    FORWARD("wgmma_128x64", -1, NARROW),
    BACKWARD_INPUT("wgmma", 40, ANY),
    BACKWARD_INPUT("wgmma_shared_256x128", -1, WIDE_SHARED),
    BACKWARD_INPUT("wgmma_shared_128x128", -1, SQUARE_SHARED),
    BACKWARD_INPUT("wgmma_paired_256x128", -1, WIDE_PAIRED),
    BACKWARD_INPUT("wgmma_paired_128x128", -1, SQUARE_PAIRED),
    BACKWARD_INPUT("wgmma_256x128", -1, WIDE),
    BACKWARD_INPUT("wgmma_128x128", -1, SQUARE),
    BACKWARD_INPUT("wgmma_128x64", -1, NARROW))
