// kernels/classify/classify.cu - cross entropy: a warp per row, whose lanes hold its classes in strides of 32; then one
// block adds the rows' losses in double.
//
// Rows are short (10 to 1000 classes) and few: launches, not bytes, are what this costs. Logits are read three times,
// from the first-level cache but for the first.
#include "kernels/classify/classify.h"
#include "kernels/common/vector.cuh"

enum { WARPS = 8 };
static size_t scratch(const CrossEntropyShape *z) { return (size_t)z->n * sizeof(float); }

DEVICE float logit(const CrossEntropyArgs &a, const float *row, int k) {
    return a.offset ? row[k] + a.offset[k] : row[k];
}

static __global__ void __launch_bounds__(WARPS * 32) rows_kernel(CrossEntropyShape z, CrossEntropyArgs a, float *loss) {
    int lane = (int)threadIdx.x % 32;
    for (int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32; i < z.n; i += (int64_t)gridDim.x * WARPS) {
        const float *row = a.logits + i * z.c;
        int label = a.label[i];
        float top = logit(a, row, 0), sum = 0, others = 0;
        for (int k = lane; k < z.c; k += 32) top = fmaxf(top, logit(a, row, k));
        top = warp_max(top);
        for (int k = lane; k < z.c; k += 32) {
            float e = expf(logit(a, row, k) - top);
            sum += e;
            others += k == label ? 0.0f : e;
        }
        sum = warp_sum(sum);
        others = warp_sum(others);                       // 1 - p of the label without cancellation
        if (lane == 0) loss[i] = logf(sum) - (logit(a, row, label) - top);
        for (int k = lane; a.dlogits && k < z.c; k += 32) {
            float e = k == label ? -others : expf(logit(a, row, k) - top);
            a.dlogits[i * z.c + k] = e / (sum * (float)z.n);
        }
    }
}

static __global__ void __launch_bounds__(ROW_THREADS) total_kernel(CrossEntropyShape z, const float *loss,
                                                                   float *mean) {
    SHARED(double, slot, ROW_THREADS);
    double sum = 0;
    for (int i = (int)threadIdx.x; i < z.n; i += ROW_THREADS) sum += (double)loss[i];
    sum = block_tree_sum(sum, slot);
    if (threadIdx.x == 0) mean[0] = (float)(sum / (double)z.n);
}

static void run(Stream *s, const CrossEntropyShape *z, const CrossEntropyArgs *a, Work w) {
    float *loss = static_cast<float *>(w.scratch);
    LAUNCH(s, (rows_kernel), dim3(grid_of(z->n, WARPS, 16384)), dim3(WARPS * 32), 0, *z, *a, loss);
    LAUNCH(s, (total_kernel), dim3(1), dim3(ROW_THREADS), 0, *z, loss, a->loss);
}

// ---- registration
IMPLS(classify,
    IMPL_SCRATCH(cross_entropy, "warps", scratch, run))
