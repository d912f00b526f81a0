// kernels/batchnorm/batchnorm.cu - batch normalization: statistics of chunks of pixels, their joining, then one pass.
//
// Blocks are (columns of channels, lanes of pixels) over a chunk of consecutive pixels. Forward: a thread follows mean
// and squared deviations of its pixels by Welford's recurrence, with one division for all of its channels; lanes are
// joined as a tree by Chan's formula, chunks by a block per channel in double. Backward: the sums of du and of du xhat
// go the same way. All orders are fixed by the shape.
//
// Traffic: forward x twice, residual and y once (by running statistics: x once); backward dy, x, y twice, dx and
// dresidual once. What fits the second-level cache is read from memory once.
#include "kernels/batchnorm/batchnorm.h"
#include "kernels/common/lanes.cuh"

// ---- chunks of pixels
enum { LANE_PIXELS = 4, MOST_CHUNKS = 512 };             // wanted per lane; chunks per channel that a block joins
struct Chunks { int64_t rows, size; int count; };        // pixels of the batch, of a chunk; chunks

// By eight channels to a thread, as scratch is asked for before pointers are known: narrower threads take as many.
static Chunks chunks_of(const BatchNormShape *z) {
    Chunks s = { (int64_t)z->n * z->hw, 0, 0 };
    int64_t wanted = ceil_div(s.rows, (int64_t)lane_block(z->c, 8).y * LANE_PIXELS);
    s.size = ceil_div(s.rows, wanted < MOST_CHUNKS ? wanted : (int64_t)MOST_CHUNKS);
    s.count = (int)ceil_div(s.rows, s.size);
    return s;
}
DEVICE int64_t chunk_end(const Chunks &s, int64_t chunk) { return min(s.rows, (chunk + 1) * s.size); }

static bool can(const BatchNormShape *z) { return z->layout == LAYOUT_NHWC && is_stored(z->dtype); }
static dim3 lane_grid(const BatchNormShape *z, const Chunks &s, int v) {
    return dim3((unsigned)ceil_div(z->c, (int64_t)lane_block(z->c, v).x * v), (unsigned)s.count);
}

// Rows of c channels: threads as wide as those, several rows to each, so that parameters are read once for them.
static RowGrid pixel_grid(const BatchNormShape *z, int v) {
    RowGrid g = row_grid((int64_t)z->n * z->hw, z->c, v);
    g.grid.y = grid_of((int64_t)z->n * z->hw, (int64_t)g.block.y * LANE_PIXELS, 32768);
    return g;
}

// ---- forward
struct Moments { float mean, squares; };                 // squares: sum of squared deviations from the mean

static size_t forward_scratch(const BatchNormShape *z) {
    return z->training ? (size_t)chunks_of(z).count * (size_t)z->c * sizeof(Moments) : 0;
}

// a = moments of the values of a and of b together.
DEVICE void join(Moments &a, int count_a, const Moments &b, int count_b) {
    float share = (float)count_b / (float)(count_a + count_b), d = b.mean - a.mean;
    a.mean += d * share;
    a.squares += b.squares + d * d * share * (float)count_a;
}

template <typename T, int V>
static __global__ void __launch_bounds__(LANE_THREADS) moments_kernel(BatchNormShape z, Chunks s, const T *x,
                                                                      Moments *part) {
    SHARED(Moments, slot, LANE_THREADS * V);
    SHARED(int, slot_count, LANE_THREADS);
    int t = lane_thread(), columns = (int)blockDim.x, count = 0;
    int64_t k = ((int64_t)blockIdx.x * columns + threadIdx.x) * V, chunk = blockIdx.y, end = chunk_end(s, chunk);
    Moments own[V] = {};
    for (int64_t r = chunk * s.size + threadIdx.y; k < z.c && r < end; r += blockDim.y) {
        Vec<V> v = load_vec<V>(x + r * z.ldx + k);
        float part_of_one = 1.0f / (float)++count;
        for (int e = 0; e < V; e++) {
            float d = v.v[e] - own[e].mean;
            own[e].mean += d * part_of_one;
            own[e].squares += d * (v.v[e] - own[e].mean);
        }
    }
    for (int e = 0; e < V; e++) slot[e * LANE_THREADS + t] = own[e];
    slot_count[t] = count;
    __syncthreads();
    for (int half = (int)blockDim.y / 2; half; half /= 2) {
        int other = t + half * columns;
        if (t < half * columns && slot_count[other]) {   // lanes without pixels come last
            for (int e = 0; e < V; e++)
                join(slot[e * LANE_THREADS + t], slot_count[t], slot[e * LANE_THREADS + other], slot_count[other]);
            slot_count[t] += slot_count[other];
        }
        __syncthreads();
    }
    if (threadIdx.y == 0 && k < z.c) {
        for (int e = 0; e < V; e++) part[chunk * z.c + k + e] = slot[e * LANE_THREADS + t];
    }
}

// A block per channel: its chunks, then what is kept of the batch and what runs on.
static __global__ void __launch_bounds__(LANE_THREADS) join_moments_kernel(BatchNormShape z, Chunks s,
                                                                           BatchNormForwardArgs a,
                                                                           const Moments *part) {
    SHARED(double, slot, LANE_THREADS);
    double mean = 0, squares = 0, rows = (double)s.rows;
    int k = (int)blockIdx.x;
    for (int64_t j = threadIdx.x; j < s.count; j += LANE_THREADS)
        mean += (double)(chunk_end(s, j) - j * s.size) * (double)part[j * z.c + k].mean;
    mean = block_tree_sum(mean, slot) / rows;
    for (int64_t j = threadIdx.x; j < s.count; j += LANE_THREADS) {
        double d = (double)part[j * z.c + k].mean - mean;
        squares += (double)part[j * z.c + k].squares + (double)(chunk_end(s, j) - j * s.size) * d * d;
    }
    squares = block_tree_sum(squares, slot);
    if (threadIdx.x) return;
    double old_mean = (double)a.running_mean[k], old_var = (double)a.running_var[k];
    a.mean[k] = (float)mean;
    a.rstd[k] = (float)(1 / sqrt(squares / rows + z.eps));
    a.running_mean[k] = (float)(old_mean + z.momentum * (mean - old_mean));
    a.running_var[k] = (float)(old_var + z.momentum * (squares / (rows - 1) - old_var));
}

template <typename T, int V>
static __global__ void __launch_bounds__(ROW_THREADS) write_kernel(BatchNormShape z, BatchNormForwardArgs a) {
    const T *x = static_cast<const T *>(a.x), *residual = static_cast<const T *>(a.residual);
    T *y = static_cast<T *>(a.y);
    for (COLUMNS(k, z.c, V)) {
        Vec<V> mean = load_vec<V>((z.training ? a.mean : a.running_mean) + k), beta = load_vec<V>(a.beta + k);
        Vec<V> scale = load_vec<V>((z.training ? a.rstd : a.running_var) + k), gamma = load_vec<V>(a.gamma + k);
        for (int e = 0; e < V; e++) {
            if (!z.training) scale.v[e] = 1.0f / sqrtf(scale.v[e] + (float)z.eps);
            scale.v[e] *= gamma.v[e];
        }
        for (ROWS(r, (int64_t)z.n * z.hw)) {
            Vec<V> u = load_vec<V>(x + r * z.ldx + k), add = {};
            if (residual) add = load_vec<V>(residual + r * z.ldr + k);
            for (int e = 0; e < V; e++) {
                u.v[e] = (u.v[e] - mean.v[e]) * scale.v[e] + beta.v[e];
                if (residual) u.v[e] += add.v[e];
                if (z.act == ACT_RELU && u.v[e] <= 0) u.v[e] = 0;
            }
            store_vec<V>(y + r * z.ldy + k, u);
        }
    }
}

static void forward(Stream *s, const BatchNormShape *z, const BatchNormForwardArgs *a, Work w) {
    Chunks c = chunks_of(z);
    Moments *part = static_cast<Moments *>(w.scratch);
    bool vector = z->c % 8 == 0 && is_vector(a->x, z->ldx, z->dtype) && is_vector(a->y, z->ldy, z->dtype) &&
                  is_vector(a->residual, z->ldr, z->dtype) && is_vector(a->gamma, 0, DT_F32) &&
                  is_vector(a->beta, 0, DT_F32) && is_vector(a->running_mean, 0, DT_F32) &&
                  is_vector(a->running_var, 0, DT_F32) && is_vector(a->mean, 0, DT_F32) &&
                  is_vector(a->rstd, 0, DT_F32);
    by_width(vector, [&](auto width) {
        constexpr int V = decltype(width)::value;
        by_type(z->dtype, [&](auto one) {
            using T = decltype(one);
            if (z->training) {
                LAUNCH(s, (moments_kernel<T, V>), lane_grid(z, c, V), lane_block(z->c, V), 0, *z, c,
                       static_cast<const T *>(a->x), part);
                LAUNCH(s, (join_moments_kernel), dim3((unsigned)z->c), dim3(LANE_THREADS), 0, *z, c, *a, part);
            }
            RowGrid g = pixel_grid(z, V);
            LAUNCH(s, (write_kernel<T, V>), g.grid, g.block, 0, *z, *a);
        });
    });
}

// ---- backward. Scratch: of each chunk and channel the sums of du and of du xhat; then their means over all pixels.
struct Sums { float du, du_xhat; };
static size_t backward_scratch(const BatchNormShape *z) {
    return (size_t)(chunks_of(z).count + 1) * (size_t)z->c * sizeof(Sums);
}

// dy, or 0 where ReLU let nothing through.
template <int V, typename T>
DEVICE Vec<V> gradient_at(const BatchNormShape &z, const BatchNormBackwardArgs &a, int64_t r, int64_t k) {
    Vec<V> du = load_vec<V>(static_cast<const T *>(a.dy) + r * z.ldy + k);
    if (!a.y) return du;
    Vec<V> y = load_vec<V>(static_cast<const T *>(a.y) + r * z.c + k);
    for (int e = 0; e < V; e++) {
        if (y.v[e] <= 0) du.v[e] = 0;
    }
    return du;
}

template <typename T, int V>
static __global__ void __launch_bounds__(LANE_THREADS, 4) sums_kernel(BatchNormShape z, Chunks s,
                                                                      BatchNormBackwardArgs a, Sums *part) {
    SHARED(float, slot, LANE_THREADS * V);
    const T *x = static_cast<const T *>(a.x);
    T *dresidual = static_cast<T *>(a.dresidual);
    int64_t k = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V, chunk = blockIdx.y, end = chunk_end(s, chunk);
    Vec<V> sum = {}, sum_xhat = {}, mean = {}, rstd = {};
    if (k < z.c) {
        mean = load_vec<V>(a.mean + k);
        rstd = load_vec<V>(a.rstd + k);
    }
    for (int64_t r = chunk * s.size + threadIdx.y; k < z.c && r < end; r += blockDim.y) {
        Vec<V> du = gradient_at<V, T>(z, a, r, k), v = load_vec<V>(x + r * z.ldx + k);
        if (dresidual) store_vec<V>(dresidual + r * z.ldr + k, du);
        for (int e = 0; e < V; e++) {
            sum.v[e] += du.v[e];
            sum_xhat.v[e] += du.v[e] * ((v.v[e] - mean.v[e]) * rstd.v[e]);
        }
    }
    sum = lane_sum<V>(sum, slot);
    sum_xhat = lane_sum<V>(sum_xhat, slot);
    if (threadIdx.y == 0 && k < z.c) {
        for (int e = 0; e < V; e++) part[chunk * z.c + k + e] = { sum.v[e], sum_xhat.v[e] };
    }
}

// A block per channel: its chunks, into the parameters' gradients and the means that dx needs.
static __global__ void __launch_bounds__(LANE_THREADS) join_sums_kernel(BatchNormShape z, Chunks s,
                                                                        BatchNormBackwardArgs a, const Sums *part,
                                                                        Sums *means) {
    SHARED(double, slot, LANE_THREADS);
    double du = 0, du_xhat = 0;
    int k = (int)blockIdx.x;
    for (int64_t j = threadIdx.x; j < s.count; j += LANE_THREADS) {
        du += (double)part[j * z.c + k].du;
        du_xhat += (double)part[j * z.c + k].du_xhat;
    }
    du = block_tree_sum(du, slot);
    du_xhat = block_tree_sum(du_xhat, slot);
    if (threadIdx.x) return;
    means[k] = { (float)(du / (double)s.rows), (float)(du_xhat / (double)s.rows) };
    if (a.dbeta) a.dbeta[k] = (float)((a.accumulate ? (double)a.dbeta[k] : 0.0) + du);
    if (a.dgamma) a.dgamma[k] = (float)((a.accumulate ? (double)a.dgamma[k] : 0.0) + du_xhat);
}

template <typename T, int V>
static __global__ void __launch_bounds__(ROW_THREADS) gradient_kernel(BatchNormShape z, BatchNormBackwardArgs a,
                                                                      const Sums *means) {
    const T *x = static_cast<const T *>(a.x);
    T *dx = static_cast<T *>(a.dx);
    for (COLUMNS(k, z.c, V)) {
        Vec<V> mean = load_vec<V>(a.mean + k), rstd = load_vec<V>(a.rstd + k), scale = load_vec<V>(a.gamma + k);
        Vec<V> mean_du, mean_du_xhat;
        for (int e = 0; e < V; e++) {
            mean_du.v[e] = means[k + e].du;
            mean_du_xhat.v[e] = means[k + e].du_xhat;
            scale.v[e] *= rstd.v[e];
        }
        for (ROWS(r, (int64_t)z.n * z.hw)) {
            Vec<V> du = gradient_at<V, T>(z, a, r, k), v = load_vec<V>(x + r * z.ldx + k);
            for (int e = 0; e < V; e++) {
                float xhat = (v.v[e] - mean.v[e]) * rstd.v[e];
                du.v[e] = scale.v[e] * (du.v[e] - mean_du.v[e] - xhat * mean_du_xhat.v[e]);
            }
            store_vec<V>(dx + r * z.ldx + k, du);
        }
    }
}

static void backward(Stream *s, const BatchNormShape *z, const BatchNormBackwardArgs *a, Work w) {
    Chunks c = chunks_of(z);
    Sums *part = static_cast<Sums *>(w.scratch), *means = part + (int64_t)c.count * z->c;
    bool vector = z->c % 8 == 0 && is_vector(a->x, z->ldx, z->dtype) && is_vector(a->dy, z->ldy, z->dtype) &&
                  is_vector(a->y, z->c, z->dtype) && is_vector(a->dx, z->ldx, z->dtype) &&
                  is_vector(a->dresidual, z->ldr, z->dtype) && is_vector(a->gamma, 0, DT_F32) &&
                  is_vector(a->mean, 0, DT_F32) && is_vector(a->rstd, 0, DT_F32);
    by_width(vector, [&](auto width) {
        constexpr int V = decltype(width)::value;
        by_type(z->dtype, [&](auto one) {
            using T = decltype(one);
            LAUNCH(s, (sums_kernel<T, V>), lane_grid(z, c, V), lane_block(z->c, V), 0, *z, c, *a, part);
            LAUNCH(s, (join_sums_kernel), dim3((unsigned)z->c), dim3(LANE_THREADS), 0, *z, c, *a, part, means);
            RowGrid g = pixel_grid(z, V);
            if (a->dx) LAUNCH(s, (gradient_kernel<T, V>), g.grid, g.block, 0, *z, *a, means);
        });
    });
}

// ---- registration
IMPLS(batchnorm,
    IMPL_FULL(batchnorm_forward, "chunks", 100, 0, 0, can, forward_scratch, NULL, forward, NULL),
    IMPL_FULL(batchnorm_backward, "chunks", 100, 0, 0, can, backward_scratch, NULL, backward, NULL))
