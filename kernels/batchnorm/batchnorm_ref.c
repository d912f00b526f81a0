// kernels/batchnorm/batchnorm_ref.c - batch normalization by its definition (Ioffe and Szegedy 2015, algorithm 1), one
// channel after another, m = n hw:
//   forward:   mean = sum x / m,  var = sum (x - mean)^2 / m,  rstd = 1 / sqrt(var + eps),  xhat = (x - mean) rstd
//              running mean += momentum (mean - it),  running var += momentum (m / (m - 1) var - it)
//              u = xhat gamma + beta + residual,  y = u, or 0 where u <= 0
//   backward:  du = dy, or 0 where y <= 0;  dresidual = du;  dbeta = sum du,  dgamma = sum du xhat
//              dx = rstd gamma (du - dbeta / m - xhat dgamma / m), by this call's sums alone
#include "kernels/batchnorm/batchnorm.h"
#include "kernels/common/kernel.h"
#include "kernels/common/ref.h"

static acc load(const BatchNormShape *z, const void *x, int ld, int i, int64_t p, int k) {
    return ref_load(x, z->dtype, layout_index(z->layout, z->hw, ld, i, p, k));
}
static void store(const BatchNormShape *z, void *x, int ld, int i, int64_t p, int k, acc v) {
    ref_store(x, z->dtype, layout_index(z->layout, z->hw, ld, i, p, k), v);
}
static acc pixels(const BatchNormShape *z) { return (acc)z->n * (acc)z->hw; }

// ---- forward
static void moments(const BatchNormShape *z, const void *x, int k, acc *mean, acc *squares) {
    acc sum = 0, sum2 = 0;
    for (int i = 0; i < z->n; i++) {
        for (int64_t p = 0; p < z->hw; p++) sum += load(z, x, z->ldx, i, p, k);
    }
    *mean = sum / pixels(z);
    for (int i = 0; i < z->n; i++) {
        for (int64_t p = 0; p < z->hw; p++) {
            acc d = load(z, x, z->ldx, i, p, k) - *mean;
            sum2 += d * d;
        }
    }
    *squares = sum2;
}

static void update_running(const BatchNormShape *z, const BatchNormForwardArgs *a, int k, acc mean, acc squares) {
    acc momentum = (acc)z->momentum, old_mean = (acc)a->running_mean[k], old_var = (acc)a->running_var[k];
    a->running_mean[k] = (real)(old_mean + momentum * (mean - old_mean));
    a->running_var[k] = (real)(old_var + momentum * (squares / (pixels(z) - 1) - old_var));
}

static void forward(Stream *stream, const BatchNormShape *z, const BatchNormForwardArgs *a, Work work) {
#pragma omp parallel for
    for (int k = 0; k < z->c; k++) {
        acc mean = (acc)a->running_mean[k], var = (acc)a->running_var[k], squares;
        if (z->training) {
            moments(z, a->x, k, &mean, &squares);
            update_running(z, a, k, mean, squares);
            var = squares / pixels(z);
        }
        acc rstd = (acc)(1 / sqrt((double)(var + (acc)z->eps)));
        if (z->training) {
            a->mean[k] = (real)mean;
            a->rstd[k] = (real)rstd;
        }
        for (int i = 0; i < z->n; i++) {
            for (int64_t p = 0; p < z->hw; p++) {
                acc u = (load(z, a->x, z->ldx, i, p, k) - mean) * rstd * (acc)a->gamma[k] + (acc)a->beta[k];
                if (a->residual) u += load(z, a->residual, z->ldr, i, p, k);
                store(z, a->y, z->ldy, i, p, k, z->act == ACT_RELU && u <= 0 ? 0 : u);
            }
        }
    }
}

// ---- backward
static acc du_of(const BatchNormShape *z, const BatchNormBackwardArgs *a, int i, int64_t p, int k) {
    bool off = z->act == ACT_RELU && load(z, a->y, z->c, i, p, k) <= 0;
    return off ? 0 : load(z, a->dy, z->ldy, i, p, k);
}

static void backward(Stream *stream, const BatchNormShape *z, const BatchNormBackwardArgs *a, Work work) {
#pragma omp parallel for
    for (int k = 0; k < z->c; k++) {
        acc dbeta = 0, dgamma = 0, mean = (acc)a->mean[k], rstd = (acc)a->rstd[k];
        for (int i = 0; i < z->n; i++) {
            for (int64_t p = 0; p < z->hw; p++) {
                acc du = du_of(z, a, i, p, k);
                dbeta += du;
                dgamma += du * (load(z, a->x, z->ldx, i, p, k) - mean) * rstd;
                if (a->dresidual) store(z, a->dresidual, z->ldr, i, p, k, du);
            }
        }
        for (int i = 0; a->dx && i < z->n; i++) {
            for (int64_t p = 0; p < z->hw; p++) {
                acc xhat = (load(z, a->x, z->ldx, i, p, k) - mean) * rstd;
                acc du = du_of(z, a, i, p, k) - dbeta / pixels(z) - xhat * dgamma / pixels(z);
                store(z, a->dx, z->ldx, i, p, k, rstd * (acc)a->gamma[k] * du);
            }
        }
        if (a->dbeta) a->dbeta[k] = (real)((a->accumulate ? (acc)a->dbeta[k] : 0) + dbeta);
        if (a->dgamma) a->dgamma[k] = (real)((a->accumulate ? (acc)a->dgamma[k] : 0) + dgamma);
    }
}

IMPLS(batchnorm_ref,
    IMPL(batchnorm_forward, "loops", forward),
    IMPL(batchnorm_backward, "loops", backward))
