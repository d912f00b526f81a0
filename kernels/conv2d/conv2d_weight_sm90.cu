// kernels/conv2d/conv2d_weight_sm90.cu - the gradients of filter, bias and time embedding in bf16 on wgmma.
//
//   dw[k,r,s,c] = sum over pixels of dy[pixel,k] x[pixel under tap (r,s), c]
// is for each tap a product of dy and x, whose terms, the pixels, are outermost in both: wgmma turns them. A tile has
// 128 output channels, 64 to each of two warpgroups, and 128 input channels of one source under TAPS taps:
//   3   the taps of a column of the filter. A step is 128 pixels of dy in whole rows; of x it takes the rows of these
//       and one more above and below, and the taps start a row apart, a multiple of the swizzling pattern where a row
//       is 8 pixels, those of the step's images taken together. 80 KiB from L2 for 12.6 MFLOP at rows of 32 pixels:
//       154 FLOP a byte
//   2   two taps of a column whose rows are neighbours, as rows 0 and 2, and 1 and 3, of a 4x4 filter of stride 2 are:
//       under these x is one of its phases, conv2d_sm90.cuh. 68 KiB for 8.4 MFLOP at rows of 16 pixels: 120
//   1   any tap: 64 pixels a step, the box of x laid under the tap, zero beside the image
// Boxes are of 64 channels, swizzled over 128 bytes, two of dy and two of x a stage. Blocks form clusters of up to
// 2 x 3 tiles: two along dy's channels share x, two or three along taps and x's channels share dy, and each copies a
// box to all that share it: 64 FLOP a byte at 1 tap become 128. There are few tiles (12 for a 3x3 filter of 256 x 256
// channels), so the pixels are split over blocks into f32 sums in scratch, which a second kernel adds in order. The
// split depends on the shape alone; the tiles of a split run at the same time and share pixels in L2.
#include "kernels/common/plan.h"
#include "kernels/conv2d/conv2d_mma_sums.cuh"
#include "kernels/conv2d/conv2d_sm90.cuh"

enum { TILE = 128, BOXES = TILE / BOX };                     // channels of a tile, of either kind
template <int TAPS_, int PIXELS_, int STAGES_> struct WeightTile {
    static constexpr int TAPS = TAPS_, PIXELS = PIXELS_, STAGES = STAGES_;
    static constexpr int X_PIXELS = PIXELS + 32 * (TAPS - 1);                // most of a box of x
    static constexpr int DY_BYTES = PIXELS * ROW_BYTES, X_BYTES = X_PIXELS * ROW_BYTES;      // of a box
    static constexpr int X = BOXES * DY_BYTES, STAGE_BYTES = X + BOXES * X_BYTES, SLABS = STAGES * STAGE_BYTES;
    static constexpr int SHARED_BYTES = SLABS + CONSUMERS * 4 * SLAB_BYTES;
    static_assert(SHARED_BYTES + 1024 <= SHARED_MOST, "a block has 227 KiB, some of them for its barriers");
};
typedef WeightTile<3, 128, 2> TapsTile;
typedef WeightTile<2, 128, 2> PairTile;
typedef WeightTile<1, 64, 6>  TapTile;

struct WeightTiles {
    int k, c, c2;                            // channels of dy, x, x2
    int width, rows, together, across, tiles_h;      // of dy: pixels of a row; of a step: rows of an image, images,
                                             // pixels side by side; steps of an image
    int steps, splits;
    int tiles_k, tiles_x, tiles_c;           // tiles along dy's channels, x's, both sources'
    int cluster_k, cluster_x;                // tiles of a cluster: along dy's channels, which share x; along taps, then
                                             // channels of x, which share dy
    int r, s, stride, pad_h, pad_w;          // filter
    int groups;                              // of TAPS taps of a column, that tiles go through
    int x_bytes;                             // of a box of x
    float *sums;                             // (splits, k, r, s, c + c2): scratch, or dw itself
    bool accumulate;                         // onto dw
};
struct WeightItem { int k, c, r, s, split, begin, end; bool second; };      // r, s: the first of the taps
DEVICE int weight_items(const WeightTiles &g) {      // of clusters
    return g.tiles_k / g.cluster_k * (g.groups * g.tiles_c / g.cluster_x) * g.splits;
}
template <class T> DEVICE WeightItem weight_item(const WeightTiles &g, const ClusterPlace &place, int item) {
    WeightItem at;
    int down = g.tiles_k / g.cluster_k, across = g.groups * g.tiles_c / g.cluster_x, rest = item / down;
    int tile_x = rest % across * g.cluster_x + place.at_second, group = tile_x % g.groups, tile_c = tile_x / g.groups;
    at.k = (item % down * g.cluster_k + place.at_first) * TILE;
    at.r = group_row(group / g.s, g.stride, T::TAPS);
    at.s = group % g.s;
    at.second = tile_c >= g.tiles_x;
    at.c = (at.second ? tile_c - g.tiles_x : tile_c) * TILE;
    at.split = rest / across;
    at.begin = (int)((int64_t)g.steps * at.split / g.splits);
    at.end = (int)((int64_t)g.steps * (at.split + 1) / g.splits);
    return at;
}

template <class T> struct WeightBarriers { uint64_t full[T::STAGES], empty[T::STAGES]; };

template <class T>
DEVICE void produce(unsigned char *shared, WeightBarriers<T> *bars, const TensorMap *dy, const SourceMaps *sources,
                    const WeightTiles &g, const ClusterPlace &place) {
    uint32_t share_x = mask_of(place.of_first), share_dy = mask_of(place.of_second);
    Ring<T::STAGES> ring;
    int items = weight_items(g), blocks = g.cluster_k * g.cluster_x;
    for (int item = (int)blockIdx.x / blocks; item < items; item += (int)gridDim.x / blocks) {
        WeightItem at = weight_item<T>(g, place, item);
        int right = at.s - g.pad_w, down = at.r - g.pad_h;
        int phase = phase_of(down, g.stride) * g.stride + phase_of(right, g.stride);
        const TensorMap *x = &sources->at[at.second ? 1 : phase];    // a second source goes with a stride of 1
        right = shift_of(right, g.stride), down = shift_of(down, g.stride);
        for (int step = at.begin; step < at.end; step++) {
            int image = step / g.tiles_h * g.together, row = step % g.tiles_h * g.rows;
            uint64_t *full = &bars->full[ring.stage];
            unsigned char *to = shared + ring.stage * T::STAGE_BYTES;
            MBARRIER_WAIT_CLUSTER(&bars->empty[ring.stage], ring.turn ^ 1);
            MBARRIER_ARRIVE_EXPECT(full, BOXES * (T::DY_BYTES + g.x_bytes));
            for (int j = 0; j < BOXES; j++) {        // of what two share each copies one
                unsigned char *dy_to = to + j * T::DY_BYTES, *x_to = to + T::X + j * T::X_BYTES;
                if (g.cluster_x == 1) TMA_LOAD(dy_to, dy, full, at.k + j * BOX, 0, image, row);
                else if (j == place.at_second)
                    TMA_LOAD_MULTICAST(dy_to, dy, full, share_dy, at.k + j * BOX, 0, image, row);
                if (g.cluster_k == 1) TMA_LOAD(x_to, x, full, at.c + j * BOX, right, image, row + down);
                else if (j == place.at_first)
                    TMA_LOAD_MULTICAST(x_to, x, full, share_x, at.c + j * BOX, right, image, row + down);
            }
            ring.advance();
        }
    }
}

template <class T>
DEVICE void consume(unsigned char *shared, WeightBarriers<T> *bars, const WeightTiles &g, const ClusterPlace &place) {
    int warp = (int)threadIdx.x / 32 - 4, group = warp / 4;
    bool speaker = threadIdx.x % 32 == 0;                            // arrives for its warp
    float *slab = reinterpret_cast<float *>(shared + T::SLABS + warp * SLAB_BYTES);
    Ring<T::STAGES> ring;
    int items = weight_items(g), blocks = g.cluster_k * g.cluster_x;
    Mates all = { 0, 1, blocks };
    for (int item = (int)blockIdx.x / blocks; item < items; item += (int)gridDim.x / blocks) {
        WeightItem at = weight_item<T>(g, place, item);
        float d[T::TAPS][TILE / 2];
#pragma unroll
        for (int t = 0; t < T::TAPS; t++)
#pragma unroll
            for (int i = 0; i < TILE / 2; i++) d[t][i] = 0;
        uint64_t *done = NULL;                       // the stage read by products that may still be on their way
        for (int step = at.begin; step < at.end; step++) {
            unsigned char *stage = shared + ring.stage * T::STAGE_BYTES;
            MBARRIER_WAIT(&bars->full[ring.stage], ring.turn);
            WGMMA_FENCE();
#pragma unroll
            for (int pixel = 0; pixel < T::PIXELS; pixel += 16) {
                unsigned char *of_dy = stage + group * T::DY_BYTES + pixel * ROW_BYTES;
                uint64_t a = WGMMA_DESCRIPTOR(of_dy, T::DY_BYTES, PATTERN, 128);
#pragma unroll
                for (int t = 0; t < T::TAPS; t++) {
                    unsigned char *under = stage + T::X + (pixel + t * g.across) * ROW_BYTES;
                    WGMMA_SS(1, 1, d[t], a, WGMMA_DESCRIPTOR(under, T::X_BYTES, PATTERN, 128), 1);
                }
            }
            WGMMA_COMMIT();
            WGMMA_WAIT(1);                           // the products before these have read their stage
            if (speaker && done) release(done, all);
            done = &bars->empty[ring.stage];
            ring.advance();
        }
        WGMMA_WAIT(0);
        if (speaker && done) release(done, all);

        int channels = g.c + g.c2, own = at.second ? g.c2 : g.c, taps = g.r * g.s;
        float *dw = g.sums + (int64_t)at.split * g.k * taps * channels + (at.second ? g.c : 0);
#pragma unroll
        for (int t = 0; t < T::TAPS; t++) {
            hand_on(d[t], slab, [&](int row, int column, float (&v)[8]) {
                row += at.k + group * 64;
                column += at.c;
                if (row >= g.k || column >= own) return;
                float *to = dw + ((int64_t)row * taps + (at.r + t * g.stride) * g.s + at.s) * channels + column;
                if (g.accumulate) add_chunk(v, to);
                store_chunk(to, v);
            });
        }
    }
}

template <class T>
static __global__ void __launch_bounds__(THREADS, 1)
conv_weight_wgmma_kernel(const __grid_constant__ TensorMap dy, const __grid_constant__ SourceMaps sources,
                         WeightTiles g) {
    DYNAMIC_SHARED(unsigned char, shared);
    SHARED(WeightBarriers<T>, bars, 1);
    if (threadIdx.x == 0) {
        for (int i = 0; i < T::STAGES; i++) {
            MBARRIER_INIT(&bars->full[i], 1);
            MBARRIER_INIT(&bars->empty[i], CONSUMERS * 4 * g.cluster_k * g.cluster_x);
        }
        MBARRIER_INIT_FENCE();
        TMA_PREFETCH_MAP(&dy);
        TMA_PREFETCH_MAP(&sources.at[0]);
    }
    CLUSTER_SYNC();
    ClusterPlace place = cluster_place(g.cluster_k, g.cluster_x);
    if (threadIdx.x < GROUP) {
        SETMAXNREG_DEC(40);
        if (threadIdx.x == 0) produce<T>(shared, bars, &dy, &sources, g, place);
        __syncwarp();
        CLUSTER_SYNC();                      // others copy into this block, and arrive at its barriers, no more
    } else {
        SETMAXNREG_INC(232);
        consume<T>(shared, bars, g, place);
        CLUSTER_SYNC();
    }
}

// ---- which tile, how many splits: by the shape alone
enum WeightPlanName { TAPS_SHARED, TAPS_PAIRED, TAP, PLANS, ANY = PLANS };
struct WeightPlan { int name, splits, cluster_k, cluster_x; };
enum { MOST_SPLITS = 64, FEWEST_PIXELS = 128 };              // FEWEST_PIXELS: of a split
static const struct { const char *name; int taps, pixels, x_pixels; } plan_tiles[PLANS] = {
    { "shared_taps", TapsTile::TAPS, TapsTile::PIXELS, TapsTile::X_PIXELS },
    { "paired_taps", PairTile::TAPS, PairTile::PIXELS, PairTile::X_PIXELS },
    { "tap", TapTile::TAPS, TapTile::PIXELS, TapTile::X_PIXELS },
};

struct WeightExtent { int images, p, q, h, w; };             // of dy and x, where a 1x1 filter has made all images one
static WeightExtent extent_of(const Conv2dShape *z) {
    if (pixels_only(z)) return { 1, z->n * z->h * z->w, 1, z->n * z->h * z->w, 1 };
    return { z->n, z->p, z->q, z->h, z->w };
}
// False if the plan has no tiles of whole rows, or they are too large for a box.
static bool lay_tiles(const Conv2dShape *z, const WeightPlan &plan, WeightTiles *g) {
    WeightExtent e = extent_of(z);
    RowTiles t;
    int taps = plan_tiles[plan.name].taps, pixels = plan_tiles[plan.name].pixels;
    if (!lay_rows(&t, pixels, e.images, e.p, e.q)) return false;
    if (!groups_of(taps, z->r, z->stride)) return false;
    if (taps > 1 && t.across % 8) return false;                                              // taps start at patterns
    *g = {};
    g->k = z->k, g->c = z->c, g->c2 = z->c2;
    g->width = e.q, g->rows = t.rows, g->together = t.together, g->across = t.across, g->tiles_h = t.tiles_h;
    g->steps = t.tiles, g->splits = plan.splits, g->cluster_k = plan.cluster_k, g->cluster_x = plan.cluster_x;
    g->tiles_k = (int)ceil_div(z->k, TILE);
    g->tiles_x = (int)ceil_div(z->c, TILE);
    g->tiles_c = g->tiles_x + (int)ceil_div(z->c2, TILE);
    g->r = z->r, g->s = z->s, g->stride = z->stride, g->pad_h = z->pad_h, g->pad_w = z->pad_w;
    g->groups = z->r / taps * z->s;
    int x_rows = t.rows + taps - 1;
    g->x_bytes = t.across * x_rows * ROW_BYTES;
    if (g->tiles_k % g->cluster_k || g->groups * g->tiles_c % g->cluster_x) return false;
    return t.across * x_rows <= plan_tiles[plan.name].x_pixels && e.q <= 256 && x_rows <= 256 && t.together <= 256;
}

static ImplPlan tell_plan(const Conv2dShape *z, const WeightTiles *g, int name) {
    int taps = plan_tiles[name].taps, pixels = plan_tiles[name].pixels, splits = g->splits;
    ImplPlan told = {};
    told.tile = plan_tiles[name].name, told.m = TILE, told.n = TILE * taps;
    double steps = (double)ceil_div(g->steps, splits);
    told.blocks = (int64_t)g->tiles_k * g->tiles_c * g->groups * splits;
    told.splits = splits, told.at_once = 1, told.together = g->cluster_k * g->cluster_x;
    told.flops = steps * 2.0 * told.m * told.n * pixels;
    told.l2_bytes = steps * BOXES * ((double)pixels * ROW_BYTES / g->cluster_x + (double)g->x_bytes / g->cluster_k);
    tell_ends(z, &told);
    return told;
}
// Of plans that take as long, the one with the fewest splits and the smallest cluster.
static WeightPlan plan_of(const Conv2dShape *z, int wanted) {
    WeightPlan best = { PLANS, 1, 1, 1 };
    double fewest = 1e30;
    for (int name = 0; name < PLANS; name++) {
        WeightTiles g;
        if ((wanted != ANY && name != wanted) || !lay_tiles(z, { name, 1, 1, 1 }, &g)) continue;
        for (int splits = 1; splits <= MOST_SPLITS; splits++) {
            if (splits > 1 && g.steps / splits * plan_tiles[name].pixels < FEWEST_PIXELS) break;
            for (int cluster = 0; cluster < 6; cluster++) {
                WeightPlan plan = { name, splits, 1 + cluster % 2, 1 + cluster / 2 };
                if (!lay_tiles(z, plan, &g)) continue;
                ImplPlan told = tell_plan(z, &g, name);
                double seconds = plan_seconds(&told, &machine_h200);
                if (seconds >= fewest) continue;
                fewest = seconds;
                best = plan;
            }
        }
    }
    return best;
}

// ---- the launcher. Each function for a plan: ANY, or one by name.
struct WeightState {
    TensorMap dy;
    SourceMaps sources;
    WeightPlan plan;
    const Impl *instead;                     // NULL: the maps are good
};

template <int PLAN> static bool backward_weight_can(const Conv2dShape *z) {
    return z->dtype == DT_BF16 && z->out == DT_BF16 && z->lx == LAYOUT_NHWC && z->ly == LAYOUT_NHWC &&
           !(z->use & ~(CONV_X2 | CONV_BIAS | CONV_TEMB | CONV_RESIDUAL)) && whole_chunks(z->c, z->ldx) &&
           whole_chunks(z->c2, z->ldx2) && whole_chunks(z->k, z->ldy) && sizes_fit(z) && z->n <= 65535 &&
           z->stride <= STRIDE_MOST && (!z->c2 || z->stride == 1) && z->h >= z->stride && z->w >= z->stride &&
           z->c >= 32 && z->k >= 32 && plan_of(z, PLAN).name != PLANS;
}
// gradient_sums', then the splits; or the other implementation's.
template <int PLAN> static size_t backward_weight_scratch(const Conv2dShape *z) {
    int splits = plan_of(z, PLAN).splits;
    size_t own = image_sums_bytes(z) + (splits > 1 ? (size_t)splits * (size_t)filter_elements(z) * sizeof(float) : 0);
    size_t other = conv2d_backward_weight.scratch(general_of(&conv2d_backward_weight, z), z);
    return own > other ? own : other;
}
template <int PLAN> static void *backward_weight_prepare(Stream *, const Conv2dShape *z, const Conv2dArgs *a) {
    WeightState *state = static_cast<WeightState *>(aligned_alloc(alignof(WeightState), sizeof(WeightState)));
    WeightExtent e = extent_of(z);
    WeightPlan plan = plan_of(z, PLAN);
    WeightTiles g;
    CHECK(state && lay_tiles(z, plan, &g), "no memory for tensor maps");
    int x_rows = g.rows + plan_tiles[plan.name].taps - 1;
    PixelMap dy = { a->dy, e.images, e.p, e.q, z->k, z->ldy, g.together, g.rows, g.width };
    PixelMap x = { a->x, e.images, e.h, e.w, z->c, z->ldx, g.together, x_rows, g.width }, x2 = x;
    x2.data = a->x2, x2.channels = z->c2, x2.ld = z->ldx2;
    bool good = map_phase(&state->dy, dy, 1, 0, 0) && map_phases(&state->sources, x, z->stride) &&
                (!z->c2 || map_phase(&state->sources.at[1], x2, 1, 0, 0));
    state->plan = plan;
    state->instead = good ? NULL : general_of(&conv2d_backward_weight, z);
    return state;
}

template <class T>
static void launch_tile(Stream *stream, const WeightState *state, const WeightTiles &g) {
    unsigned blocks = (unsigned)(g.cluster_k * g.cluster_x);
    int64_t items = (int64_t)g.tiles_k * g.groups * g.tiles_c * g.splits / blocks;
    unsigned clusters = grid_of(items, 1, plan_clusters((int)blocks, &machine_h200));
    LAUNCH_CLUSTER(stream, blocks, (conv_weight_wgmma_kernel<T>), dim3(clusters * blocks), dim3(THREADS),
                   T::SHARED_BYTES, state->dy, state->sources, g);
}
static void filter_gradient(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, const WeightState *state,
                            float *partial) {
    WeightPlan plan = state->plan;
    WeightTiles g;
    CHECK(lay_tiles(z, plan, &g), "can() has seen the tiles");
    g.sums = plan.splits > 1 ? partial : a->dw;
    g.accumulate = plan.splits == 1 && a->accumulate;
    if (plan.name == TAPS_SHARED) launch_tile<TapsTile>(stream, state, g);
    else if (plan.name == TAPS_PAIRED) launch_tile<PairTile>(stream, state, g);
    else launch_tile<TapTile>(stream, state, g);
}
static void backward_weight(Stream *stream, const Conv2dShape *z, const Conv2dArgs *a, Work work) {
    const WeightState *state = static_cast<const WeightState *>(work.state);
    if (state->instead) {
        conv2d_backward_weight.run(state->instead, stream, z, a, { NULL, work.scratch });
        return;
    }
    float *partial = reinterpret_cast<float *>(static_cast<unsigned char *>(work.scratch) + image_sums_bytes(z));
    gradient_sums(stream, z, a, work.scratch);
    if (a->dw) filter_gradient(stream, z, a, state, partial);
    end_gradients(stream, z, a, work.scratch, partial, state->plan.splits);
}

template <int PLAN> static void backward_weight_plan(const Conv2dShape *z, ImplPlan *told) {
    WeightPlan plan = plan_of(z, PLAN);
    WeightTiles g;
    CHECK(lay_tiles(z, plan, &g), "can() has seen the tiles");
    *told = tell_plan(z, &g, plan.name);
}

// By default the model chooses; each choice has a name of its own, for tests and for the bench.
#define BACKWARD_WEIGHT(name, order, n)                                                                             \
    IMPL_PLANNED(conv2d_backward_weight, name, order, 90, 90, backward_weight_can<n>, backward_weight_scratch<n>,   \
                 backward_weight_prepare<n>, backward_weight, free, backward_weight_plan<n>)
IMPLS(conv2d_weight_sm90,
    BACKWARD_WEIGHT("wgmma", 40, ANY),
    BACKWARD_WEIGHT("wgmma_shared_taps", -1, TAPS_SHARED),
    BACKWARD_WEIGHT("wgmma_paired_taps", -1, TAPS_PAIRED),
    BACKWARD_WEIGHT("wgmma_tap", -1, TAP))
