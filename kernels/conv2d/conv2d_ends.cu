// kernels/conv2d/conv2d_ends.cu - the network's two ends: 3x3 convolutions between an image of at most 8 channels and
// one of many, where a tile of a product would stand empty. Stride 1, padding 1; f32 and bf16.
//
// The side with many channels is what costs: each kernel reads or writes it once, 16 bytes a lane, a warp on 128
// channels of one pixel; the side with few is a broadcast. Sums are f32 FMAs: 27 * 2 FLOP per element of the many side
// with 3 channels, about what the memory takes for f32; with bf16 the FMAs take longer than the memory.
//   expand    few -> many: stem forward, tail backward. A warp: runs of 8 pixels x 128 channels, 32 sums a lane; the
//             filter in shared memory as (tap, few, 128), 9 reads of 16 bytes for 96 FMAs per row of the filter.
//   contract  many -> few: tail forward, stem backward. A warp walks down a strip of 8 pixels for 8 rows; each input
//             row feeds three rows of sums, kept per lane; a finished row is summed over the lanes by 31 shuffles.
//   weight    both ends: a warp has one row of the filter, 128 channels, and runs of 32 pixels; blocks take every
//             264th row of the images and leave partial sums, which a second kernel adds in order.
// In `expand` and `contract` backward is forward with the taps flipped and the filter's strides exchanged.
#include "kernels/conv2d/conv2d.cuh"

enum { FEW_MOST = 8, CHUNK = 128, RUN = 8, WEIGHT_RUN = 32, WEIGHT_GROUPS = 4, WEIGHT_SPLITS = 264, SEGMENT = 8 };

// One end, whichever way it goes. The filter's element (few, many, tap) is at few * w_few + many * w_many + tap *
// w_tap; where flip, tap t stands for 8 - t.
struct EndConv {
    int n, height, width, few, many;             // images; channels of either side
    const void *from_few, *from_many, *w, *term; // what is read; term: an image added to the result, or NULL
    void *to;
    const float *bias, *temb;
    int ld_few, ld_many, ld_term;
    DType few_type, many_type, w_type, term_type;
    int w_few, w_many, w_tap;
    bool flip;
};
DEVICE int64_t filter_at(const EndConv &e, int few, int many, int tap) {
    return (int64_t)few * e.w_few + (int64_t)many * e.w_many + (e.flip ? 8 - tap : tap) * e.w_tap;
}

// Channels of the few side in groups of four, one 16-byte read each: F is 3 or 8, what is beyond e.few is zero.
template <int F> struct FewGroups { static constexpr int count = (F + 3) / 4, width = F < 4 ? F : 4; };

// patch (rows,cols,groups): pixels (y + r, x + s) of the few side of an image, zero outside it. One warp brings it.
template <int F>
DEVICE void patch_load(const EndConv &e, float4 *patch, int image, int y, int x, int rows, int cols) {
    constexpr int groups = FewGroups<F>::count;
    __syncwarp();                                              // all lanes are done with the last patch
    for (int i = (int)threadIdx.x % 32; i < rows * cols; i += 32) {
        int h = y + i / cols, w = x + i % cols;
        bool inside = (unsigned)h < (unsigned)e.height && (unsigned)w < (unsigned)e.width;
        int64_t at = ((int64_t)(image * e.height + h) * e.width + w) * e.ld_few;
#pragma unroll
        for (int g = 0; g < groups; g++)
            patch[i * groups + g] = load_quad<AnyReal>(e.from_few, e.few_type, at + 4 * g, inside ? e.few - 4 * g : 0);
    }
    __syncwarp();
}

// ---- expand. Blocks: any number x chunks of 128 channels of the many side. E: float if quads may be stored whole.
template <typename E, int F> static __global__ void __launch_bounds__(256, 2) end_expand_kernel(EndConv e) {
    constexpr int groups = FewGroups<F>::count, width = FewGroups<F>::width, window = RUN + 2;
    SHARED(float4, filter, 9 * groups * width * CHUNK / 4);    // (tap, few, 128)
    SHARED(float4, patches, 8 * 3 * window * groups);
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, first = (int)blockIdx.y * CHUNK;
    for (int i = (int)threadIdx.x; i < 9 * groups * width * CHUNK; i += 256) {
        int many = first + i % CHUNK, few = i / CHUNK % (groups * width), tap = i / CHUNK / (groups * width);
        bool there = many < e.many && few < e.few;
        ((float *)filter)[i] = there ? load_any(e.w, e.w_type, filter_at(e, few, many, tap)) : 0.0f;
    }
    __syncthreads();
    float4 *patch = patches + warp * 3 * window * groups;
    int m = first + lane * 4, count = e.many - m, across = (e.width + RUN - 1) / RUN;
    float4 bias = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (e.bias) bias = load_quad<E>(e.bias, DT_F32, m, count);
    for (int64_t run = (int64_t)blockIdx.x * 8 + warp; run < (int64_t)e.n * e.height * across; run += gridDim.x * 8) {
        int x = (int)(run % across) * RUN, y = (int)(run / across % e.height), image = (int)(run / across / e.height);
        patch_load<F>(e, patch, image, y - 1, x - 1, 3, window);
        float sum[RUN][4] = {};
#pragma unroll 1
        for (int rg = 0; rg < 3 * groups; rg++) {
            int r = rg / groups, g = rg % groups;
            float4 few[window];
#pragma unroll
            for (int i = 0; i < window; i++) few[i] = load_whole(&patch[(r * window + i) * groups + g]);
#pragma unroll
            for (int s = 0; s < 3; s++)
#pragma unroll
                for (int f = 0; f < width; f++) {
                    float4 w = load_whole(&filter[(((r * 3 + s) * groups + g) * width + f) * (CHUNK / 4) + lane]);
#pragma unroll
                    for (int i = 0; i < RUN; i++) {
                        float v = quad_part(few[i + s], f);
                        sum[i][0] = fmaf(v, w.x, sum[i][0]);
                        sum[i][1] = fmaf(v, w.y, sum[i][1]);
                        sum[i][2] = fmaf(v, w.z, sum[i][2]);
                        sum[i][3] = fmaf(v, w.w, sum[i][3]);
                    }
                }
        }
        float4 constant = bias;
        if (e.temb) constant = quad_add(bias, load_quad<E>(e.temb, DT_F32, (int64_t)image * e.many + m, count));
#pragma unroll
        for (int i = 0; i < RUN; i++) {
            if (count <= 0 || x + i >= e.width) continue;
            int64_t pixel = (int64_t)(image * e.height + y) * e.width + x + i;
            float4 v = quad_add(make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]), constant);
            if (e.term) v = quad_add(v, load_quad<AnyReal>(e.term, e.term_type, pixel * e.ld_term + m, count));
            store_quad<E>(e.to, e.many_type, pixel * e.ld_many + m, count, v);
        }
    }
}

// ---- contract
// Lane l gets the sum over all lanes of v[l] in v[0], in a fixed order: each exchange halves what a lane still carries.
template <int HALF> DEVICE void lane_transpose_sum(float (&v)[32]) {
    bool upper = threadIdx.x & HALF;
#pragma unroll
    for (int i = 0; i < HALF; i++) {
        float send = upper ? v[i] : v[i + HALF], keep = upper ? v[i + HALF] : v[i];
        v[i] = keep + __shfl_xor_sync(0xFFFFFFFFu, send, HALF);
    }
    if constexpr (HALF > 1) lane_transpose_sum<HALF / 2>(v);
}

// A block: four neighbouring strips, of P pixels and SEGMENT rows. Dynamic shared memory: the filter (tap, F, padded
// many). E: how the many side is stored.
template <typename E, int F>
static __global__ void __launch_bounds__(128, F == 3 ? 3 : 2) end_contract_kernel(EndConv e) {
    constexpr int P = F == 3 ? 8 : 4, window = P + 2;
    DYNAMIC_SHARED(float4, filter);
    int lane = (int)threadIdx.x % 32, padded = (e.many + CHUNK - 1) / CHUNK * CHUNK;
    for (int i = (int)threadIdx.x; i < 9 * F * padded; i += 128) {
        int many = i % padded, few = i / padded % F, tap = i / padded / F;
        bool there = many < e.many && few < e.few;
        ((float *)filter)[i] = there ? load_any(e.w, e.w_type, filter_at(e, few, many, tap)) : 0.0f;
    }
    __syncthreads();
    int across = (e.width + P - 1) / P, down = (e.height + SEGMENT - 1) / SEGMENT;
    int64_t strip = (int64_t)blockIdx.x * 4 + threadIdx.x / 32;
    if (strip >= (int64_t)e.n * down * across) return;
    int x = (int)(strip % across) * P, first = (int)(strip / across % down) * SEGMENT;
    int image = (int)(strip / across / down), last = min(first + SEGMENT, e.height);
    float sum[3][P][F] = {};                                   // of output rows y - 1, y, y + 1
#pragma unroll 1
    for (int y = first - 1; y <= last; y++) {
#pragma unroll 1
        for (int m = lane * 4; m < padded; m += CHUNK) {
            float4 v[window];
#pragma unroll
            for (int i = 0; i < window; i++) {
                bool inside = (unsigned)y < (unsigned)e.height && (unsigned)(x + i - 1) < (unsigned)e.width;
                int64_t at = ((int64_t)(image * e.height + y) * e.width + x + i - 1) * e.ld_many + m;
                v[i] = load_quad<E>(e.from_many, e.many_type, at, inside ? e.many - m : 0);
            }
#pragma unroll
            for (int t = 0; t < 9 * F; t++) {                  // tap (r,s) of row y belongs to output row y + 1 - r
                float4 w = load_whole(&filter[(t * padded + m) / 4]);
                int r = t / F / 3, s = t / F % 3, f = t % F;
#pragma unroll
                for (int i = 0; i < P; i++) {
                    float4 u = v[i + s];
                    sum[2 - r][i][f] = fmaf(u.x, w.x, fmaf(u.y, w.y, fmaf(u.z, w.z, fmaf(u.w, w.w, sum[2 - r][i][f]))));
                }
            }
        }
        float row[32] = {};
#pragma unroll
        for (int i = 0; i < P; i++)
#pragma unroll
            for (int f = 0; f < F; f++) {
                row[i * F + f] = sum[0][i][f];
                sum[0][i][f] = sum[1][i][f];
                sum[1][i][f] = sum[2][i][f];
                sum[2][i][f] = 0.0f;
            }
        if (y <= first) continue;
        lane_transpose_sum<16>(row);
        float v = row[0];                                      // of pixel lane / F, channel lane % F
        int f = lane % F;
        if (lane >= P * F || f >= e.few || x + lane / F >= e.width) continue;
        int64_t pixel = (int64_t)(image * e.height + y - 1) * e.width + x + lane / F;
        if (e.bias) v += e.bias[f];
        if (e.temb) v += e.temb[(int64_t)image * e.few + f];
        if (e.term) v += load_any(e.term, e.term_type, pixel * e.ld_term + f);
        store_any(e.to, e.few_type, pixel * e.ld_few + f, v);
    }
}

// ---- weight. partial (splits, 9 F + 1, padded): the sums of one block's rows as (tap, few, many), then a row of plain
// sums over pixels: of the many side where sum_many, else of the few. Blocks: splits x chunks of 128 channels.
template <typename E, int F> static __global__ void __launch_bounds__(96 * WEIGHT_GROUPS, 1)
end_weight_kernel(EndConv e, bool sum_many, float *partial) {
    constexpr int groups = FewGroups<F>::count, width = FewGroups<F>::width, pixels = WEIGHT_RUN + 2, rows = 9 * F + 1;
    constexpr int quads = 9 * F * CHUNK / 4;
    SHARED(float4, shared, quads);                             // a patch per warp; then a group's sums (tap, few, 128)
    SHARED(float4, sums, WEIGHT_GROUPS * 32);
    static_assert(3 * WEIGHT_GROUPS * pixels * groups <= quads, "the patches must fit");
    int lane = (int)threadIdx.x % 32, r = (int)threadIdx.x / 32 % 3, group = (int)threadIdx.x / 96;
    int m = (int)blockIdx.y * CHUNK + lane * 4, across = (e.width + WEIGHT_RUN - 1) / WEIGHT_RUN;
    float4 *patch = shared + (int)threadIdx.x / 32 * pixels * groups;
    float sum[3][F][4] = {}, few_sum[F] = {};
    float4 many_sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int64_t run = (int64_t)blockIdx.x * WEIGHT_GROUPS + group; run < (int64_t)e.n * e.height * across;
         run += gridDim.x * WEIGHT_GROUPS) {
        int x = (int)(run % across) * WEIGHT_RUN, y = (int)(run / across % e.height);
        int image = (int)(run / across / e.height), count = min(WEIGHT_RUN, e.width - x);
        if ((unsigned)(y + r - 1) >= (unsigned)e.height) continue;
        patch_load<F>(e, patch, image, y + r - 1, x - 1, 1, pixels);
        int64_t first = ((int64_t)(image * e.height + y) * e.width + x) * e.ld_many + m;
#pragma unroll 4
        for (int i = 0; i < count; i++) {
            float4 v = load_quad<E>(e.from_many, e.many_type, first + (int64_t)i * e.ld_many, e.many - m);
            float4 few[3][groups];
#pragma unroll
            for (int j = 0; j < 3 * groups; j++) few[j / groups][j % groups] = load_whole(&patch[i * groups + j]);
            if (r == 1) many_sum = quad_add(many_sum, v);
#pragma unroll
            for (int s = 0; s < 3; s++)
#pragma unroll
                for (int f = 0; f < F; f++) {
                    float u = quad_part(few[s][f / width], f % width);
                    sum[s][f][0] = fmaf(u, v.x, sum[s][f][0]);
                    sum[s][f][1] = fmaf(u, v.y, sum[s][f][1]);
                    sum[s][f][2] = fmaf(u, v.z, sum[s][f][2]);
                    sum[s][f][3] = fmaf(u, v.w, sum[s][f][3]);
                }
        }
        if (r == 1 && lane < count)
#pragma unroll
            for (int f = 0; f < F; f++) few_sum[f] += quad_part(patch[(lane + 1) * groups + f / width], f % width);
    }

    float few_total[8] = {};
#pragma unroll
    for (int f = 0; f < F; f++) few_total[f] = warp_sum(few_sum[f]);
    float4 plain = many_sum;
    if (!sum_many) {                                           // laid out like channels of the many side: lanes 0 and 1
        plain = make_float4(few_total[0], few_total[1], few_total[2], few_total[3]);
        if (lane == 1) plain = make_float4(few_total[4], few_total[5], few_total[6], few_total[7]);
    }
    if (r == 1) sums[group * 32 + lane] = plain;
    for (int g = 1; g < WEIGHT_GROUPS; g++) {                  // group 0 adds the others' sums in order
        __syncthreads();
#pragma unroll
        for (int t = 0; t < 3 * F; t++) {
            float *v = sum[t / F][t % F];
            if (group == g) shared[(r * 3 * F + t) * 32 + lane] = make_float4(v[0], v[1], v[2], v[3]);
        }
        __syncthreads();
#pragma unroll
        for (int t = 0; t < 3 * F; t++) {
            float *v = sum[t / F][t % F];
            if (group > 0) continue;
            float4 more = shared[(r * 3 * F + t) * 32 + lane];
            v[0] += more.x, v[1] += more.y, v[2] += more.z, v[3] += more.w;
        }
    }
    if (group > 0) return;
    float *to = partial + (int64_t)blockIdx.x * rows * gridDim.y * CHUNK + m;
#pragma unroll
    for (int t = 0; t < 3 * F; t++) {
        float *v = sum[t / F][t % F];
        store4(to + (int64_t)(r * 3 * F + t) * gridDim.y * CHUNK, make_float4(v[0], v[1], v[2], v[3]));
    }
    if (r != 1) return;
    for (int g = 1; g < WEIGHT_GROUPS; g++) plain = quad_add(plain, sums[g * 32 + lane]);
    store4(to + (int64_t)9 * F * gridDim.y * CHUNK, plain);
}

// dw and dbias = or += partial (splits, 9 F + 1, padded) summed over splits. A block: 32 columns of one row, 8 lines of
// splits. sum_many: dbias has the channels of the many side.
static __global__ void __launch_bounds__(256)
end_weight_sum_kernel(EndConv e, const float *partial, int splits, int f_padded, int padded, bool sum_many, float *dw,
                      float *dbias, bool accumulate) {
    SHARED(float, slot, 256);
    int column = (int)blockIdx.x * 32 + (int)threadIdx.x % 32, line = (int)threadIdx.x / 32;
    int rows = 9 * f_padded + 1, row = column / padded, many = column % padded;
    float sum = 0.0f;
    for (int i = line; i < splits; i += 8) sum += partial[(int64_t)i * rows * padded + column];
    slot[threadIdx.x] = sum;
    __syncthreads();
    if (line > 0) return;
    for (int i = 1; i < 8; i++) sum += slot[i * 32 + threadIdx.x];
    float *to = NULL;
    if (row == 9 * f_padded) {
        if (dbias && many < (sum_many ? e.many : e.few)) to = dbias + many;
    } else if (dw && many < e.many && row % f_padded < e.few) {
        to = dw + filter_at(e, row % f_padded, many, row / f_padded);
    }
    if (to) *to = accumulate ? *to + sum : sum;
}

// ---- launches
static bool end_can(const Conv2dShape *z) {
    unsigned plain = CONV_BIAS | CONV_TEMB | CONV_RESIDUAL;
    return conv_general_can(z) && !(z->use & ~plain) && !z->c2 && !z->cs && z->r == 3 && z->s == 3 && z->stride == 1 &&
           z->pad_h == 1 && z->pad_w == 1 && z->p == z->h && z->q == z->w;
}
static int padded_few(int few) { return few <= 3 ? 3 : FEW_MOST; }
static int padded_many(int many) { return (int)ceil_div(many, CHUNK) * CHUNK; }
static size_t contract_shared(int few, int many) {
    return (size_t)9 * (size_t)padded_few(few) * (size_t)padded_many(many) * sizeof(float);
}
static bool contract_can(int few, int many) { return few <= FEW_MOST && contract_shared(few, many) <= 96 * 1024; }

static bool forward_can(const Conv2dShape *z) {
    return end_can(z) && (z->c <= FEW_MOST || contract_can(z->k, z->c));
}
static bool backward_input_can(const Conv2dShape *z) {
    return end_can(z) && !(z->use & CONV_BIAS) && (z->k <= FEW_MOST || contract_can(z->c, z->k));
}
static bool backward_weight_can(const Conv2dShape *z) {
    return end_can(z) && !(z->use & CONV_TEMB) && (z->c <= FEW_MOST || z->k <= FEW_MOST);
}

// x and y by their numbers of channels; few_in: x is the side with few.
static EndConv end_of(const Conv2dShape *z, bool few_in) {
    EndConv e = {};
    e.n = z->n, e.height = z->h, e.width = z->w;
    e.few = few_in ? z->c : z->k, e.many = few_in ? z->k : z->c;
    e.ld_few = few_in ? z->ldx : z->ldy, e.ld_many = few_in ? z->ldy : z->ldx;
    e.few_type = few_in ? z->dtype : z->out, e.many_type = few_in ? z->out : z->dtype;
    e.w_type = e.term_type = z->dtype;
    e.w_tap = z->c;
    e.w_few = few_in ? 1 : 9 * z->c, e.w_many = few_in ? 9 * z->c : 1;
    return e;
}

static void expand(Stream *s, const EndConv *e) {
    int64_t runs = (int64_t)e->n * e->height * ceil_div(e->width, RUN);
    dim3 grid(grid_of(runs, 8, 528), (unsigned)ceil_div(e->many, CHUNK));       // 4 blocks to each of 132 processors
    bool quads = e->many % 4 == 0 && quads_aligned(e->to, e->many_type, e->ld_many) &&
                 quads_aligned(e->bias, DT_F32, 4) && quads_aligned(e->temb, DT_F32, 4);
    if (padded_few(e->few) == 3) {
        if (quads) LAUNCH(s, (end_expand_kernel<float, 3>), grid, 256, 0, *e);
        else LAUNCH(s, (end_expand_kernel<AnyReal, 3>), grid, 256, 0, *e);
    } else {
        if (quads) LAUNCH(s, (end_expand_kernel<float, 8>), grid, 256, 0, *e);
        else LAUNCH(s, (end_expand_kernel<AnyReal, 8>), grid, 256, 0, *e);
    }
}

template <int F> static void contract_launch(Stream *s, const EndConv *e) {
    int64_t strips = e->n * ceil_div(e->height, SEGMENT) * ceil_div(e->width, F == 3 ? 8 : 4);
    unsigned grid = (unsigned)ceil_div(strips, 4);
    size_t shared = contract_shared(e->few, e->many);
    if (e->many % 4 || !quads_aligned(e->from_many, e->many_type, e->ld_many))
        LAUNCH(s, (end_contract_kernel<AnyReal, F>), grid, 128, shared, *e);
    else if (e->many_type == DT_BF16) LAUNCH(s, (end_contract_kernel<bf16, F>), grid, 128, shared, *e);
    else LAUNCH(s, (end_contract_kernel<float, F>), grid, 128, shared, *e);
}
static void contract(Stream *s, const EndConv *e) {
    if (padded_few(e->few) == 3) contract_launch<3>(s, e);
    else contract_launch<FEW_MOST>(s, e);
}

static void forward(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work work) {
    bool few_in = z->c <= FEW_MOST;
    EndConv e = end_of(z, few_in);
    e.from_few = e.from_many = a->x;
    e.w = a->w, e.bias = a->bias, e.temb = a->temb;
    e.term = a->residual, e.ld_term = z->ldr;
    e.to = a->y;
    if (few_in) expand(s, &e);
    else contract(s, &e);
}
static void backward_input(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work work) {
    bool few_in = z->k > FEW_MOST;                             // dy has many: x few
    EndConv e = end_of(z, few_in);
    e.from_few = e.from_many = a->dy;
    e.w = a->w;
    e.flip = true;
    e.term = a->add, e.ld_term = z->c;
    e.to = a->dx;
    if (few_in) contract(s, &e);
    else expand(s, &e);
}

static int weight_splits(const Conv2dShape *z) {
    int64_t runs = (int64_t)z->n * z->h * ceil_div(z->w, WEIGHT_RUN);
    return (int)grid_of(runs, WEIGHT_GROUPS, WEIGHT_SPLITS);
}
static size_t weight_scratch(const Conv2dShape *z) {
    EndConv e = end_of(z, z->c <= FEW_MOST);
    return (size_t)weight_splits(z) * (9 * (size_t)padded_few(e.few) + 1) * (size_t)padded_many(e.many) * sizeof(float);
}
template <int F>
static void weight_launch(Stream *s, const EndConv *e, unsigned splits, bool sum_many, float *partial) {
    dim3 grid(splits, (unsigned)padded_many(e->many) / CHUNK);
    constexpr int threads = 96 * WEIGHT_GROUPS;
    if (e->many % 4 || !quads_aligned(e->from_many, e->many_type, e->ld_many))
        LAUNCH(s, (end_weight_kernel<AnyReal, F>), grid, threads, 0, *e, sum_many, partial);
    else if (e->many_type == DT_BF16)
        LAUNCH(s, (end_weight_kernel<bf16, F>), grid, threads, 0, *e, sum_many, partial);
    else
        LAUNCH(s, (end_weight_kernel<float, F>), grid, threads, 0, *e, sum_many, partial);
}
static void backward_weight(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work work) {
    bool few_in = z->c <= FEW_MOST;
    EndConv e = end_of(z, few_in);
    float *partial = (float *)work.scratch;
    int splits = weight_splits(z), few = padded_few(e.few), many = padded_many(e.many);
    e.from_few = few_in ? a->x : a->dy;
    e.from_many = few_in ? a->dy : a->x;
    e.flip = !few_in;                                          // dy at p sees x at p + tap - 1: seen from x, backwards
    if (few == 3) weight_launch<3>(s, &e, (unsigned)splits, few_in, partial);
    else weight_launch<FEW_MOST>(s, &e, (unsigned)splits, few_in, partial);
    LAUNCH(s, (end_weight_sum_kernel), (unsigned)((9 * few + 1) * many / 32), 256, 0, e, partial, splits, few, many,
           few_in, a->dw, a->dbias, a->accumulate);
}

IMPLS(conv2d_ends,
    IMPL_FULL(conv2d_forward, "ends", 30, 0, 0, forward_can, NULL, NULL, forward, NULL),
    IMPL_FULL(conv2d_backward_input, "ends", 30, 0, 0, backward_input_can, NULL, NULL, backward_input, NULL),
    IMPL_FULL(conv2d_backward_weight, "ends", 30, 0, 0, backward_weight_can, weight_scratch, NULL, backward_weight,
              NULL))
