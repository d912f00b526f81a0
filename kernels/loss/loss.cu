// kernels/loss/loss.cu - the CBDM objective: one pass over the predictions writes both gradients and leaves two sums
// per piece of an image; a second kernel of one block adds them, pieces in order, then images in order.
//
// Traffic: h, hb and eps read once, dh and dhb written once, 16 bytes at a time. 64 images of 3x32x32 are 4 MB: the
// two launches cost as much as the bytes. Factors are computed in double and rounded once.
#include "kernels/common/vector.cuh"
#include "kernels/loss/loss.h"

enum { PIECE = ROW_THREADS * 4 };                        // elements of a block: a vector of four per thread
struct PieceSums { double error, gap; };                 // of (h - eps)^2 and (h - hb)^2

static int64_t pieces_of(const CbdmLossShape *z) { return ceil_div(z->e, PIECE); }
static size_t scratch(const CbdmLossShape *z) { return (size_t)(z->n * pieces_of(z)) * sizeof(PieceSums); }

DEVICE double weight_of(const CbdmLossShape &z, const CbdmLossArgs &a, int64_t i) {
    double w = z.tau * (double)a.t[i] / (double)z.T;
    return a.weight ? w * (double)a.weight[i] : w;
}

// Grid: (pieces, images). hb, dh and dhb may be absent, and dh may be h, dhb may be hb.
static __global__ void __launch_bounds__(ROW_THREADS) loss_kernel(CbdmLossShape z, CbdmLossArgs a, double unit,
                                                                  bool aligned,
                                                           PieceSums *sums) {
    SHARED(double, slot, ROW_THREADS);
    int64_t e = (int64_t)blockIdx.x * PIECE + threadIdx.x * 4, count = z.e - e;
    for (int64_t i = blockIdx.y; i < z.n; i += gridDim.y) {
        double w = weight_of(z, a, i);
        float both = (float)(2 * unit), to_h = (float)(2 * unit * w), to_hb = (float)(-2 * unit * z.gamma * w);
        double error = 0, gap = 0;
        if (count > 0) {
            int64_t at = i * z.e + e;
            float4 h = load_block(a.h + at, count, aligned), eps = load_block(a.eps + at, count, aligned);
            float4 hb = a.hb ? load_block(a.hb + at, count, aligned) : h;
            float d[4] = { h.x - eps.x, h.y - eps.y, h.z - eps.z, h.w - eps.w };
            float b[4] = { h.x - hb.x, h.y - hb.y, h.z - hb.z, h.w - hb.w };
            if (!a.hb) b[0] = b[1] = b[2] = b[3] = 0.0f; // h - h is NaN where h is infinite
            for (int l = 0; l < 4; l++) {
                error += (double)d[l] * (double)d[l];
                gap += (double)b[l] * (double)b[l];
                d[l] = both * d[l] + to_h * b[l];
                b[l] = to_hb * b[l];
            }
            if (a.dh) store_block(a.dh + at, make_float4(d[0], d[1], d[2], d[3]), count, aligned);
            if (a.dhb) store_block(a.dhb + at, make_float4(b[0], b[1], b[2], b[3]), count, aligned);
        }
        error = block_tree_sum(error, slot);
        gap = block_tree_sum(gap, slot);
        if (threadIdx.x == 0) sums[i * gridDim.x + blockIdx.x] = { error, gap };
    }
}

// One block. A thread adds the pieces of its images one after another, then the tree adds the threads.
static __global__ void __launch_bounds__(ROW_THREADS) loss_total_kernel(CbdmLossShape z, CbdmLossArgs a, double unit,
                                                                 int64_t pieces, const PieceSums *sums) {
    SHARED(double, slot, ROW_THREADS);
    double denoising = 0, balancing = 0;
    for (int64_t i = threadIdx.x; i < z.n; i += ROW_THREADS) {
        double error = 0, gap = 0;
        for (int64_t p = 0; p < pieces; p++) {
            error += sums[i * pieces + p].error;
            gap += sums[i * pieces + p].gap;
        }
        denoising += error;
        balancing += weight_of(z, a, i) * (1 + z.gamma) * gap;
        if (a.per_image) a.per_image[i] = (float)(error / (double)z.e);
    }
    denoising = block_tree_sum(denoising, slot) * unit;
    balancing = block_tree_sum(balancing, slot) * unit;
    if (threadIdx.x == 0) {
        bool finite = balancing - balancing == 0;        // neither infinite nor NaN
        a.loss[0] = (float)(denoising + (finite && balancing < 0 ? 0.0 : balancing));
        a.loss[1] = (float)denoising;
        a.loss[2] = (float)balancing;
    }
}

static void run(Stream *s, const CbdmLossShape *z, const CbdmLossArgs *a, Work w) {
    PieceSums *sums = static_cast<PieceSums *>(w.scratch);
    double unit = z->share / ((double)z->n * (double)z->e);
    dim3 grid((unsigned)pieces_of(z), grid_of(z->n, 1, 32768));
    bool aligned = z->e % 4 == 0 && is_vector(a->h, 0, DT_F32) && is_vector(a->hb, 0, DT_F32) &&
                   is_vector(a->eps, 0, DT_F32) && is_vector(a->dh, 0, DT_F32) && is_vector(a->dhb, 0, DT_F32);
    LAUNCH(s, (loss_kernel), grid, dim3(ROW_THREADS), 0, *z, *a, unit, aligned, sums);
    LAUNCH(s, (loss_total_kernel), dim3(1), dim3(ROW_THREADS), 0, *z, *a, unit, pieces_of(z), sums);
}

// ---- registration
IMPLS(loss,
    IMPL_SCRATCH(cbdm_loss, "pieces", scratch, run))
