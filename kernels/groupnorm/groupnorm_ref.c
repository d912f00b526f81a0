// kernels/groupnorm/groupnorm_ref.c - group normalization by its definition. README.md derives both directions.
//   forward:   mean, var over the m = hw * c / groups elements of a group;  rstd = 1 / sqrt(var + eps)
//              xhat = (x - mean) * rstd,  u = xhat * gamma + beta,  y = drop(act(u))
//   backward:  du = dy * keep / (1 - p) * act'(u)          (du = dy where sums are given)
//              dgamma = sum of du * xhat,  dbeta = sum of du, over images and pixels
//              dx = rstd * (du gamma - mean(du gamma) - xhat * mean(du gamma xhat)) + add, means over the group
// dx has the stride of x; add and mask are dense.
#include <string.h>
#include "kernels/common/kernel.h"
#include "kernels/common/ref.h"
#include "kernels/common/rng.h"
#include "kernels/groupnorm/groupnorm.h"

static acc load_x(const GroupNormShape *z, const void *x, int i, int64_t p, int k) {
    return ref_load(x, z->dtype, layout_index(z->layout, z->hw, z->ldx, i, p, k));
}
static acc keep_scale(const GroupNormShape *z) { return (acc)(65536.0 / (65536.0 - (double)z->p16)); }

// ---- forward
// Mean and sum of squared deviations of group g of image i, in two passes over x.
static void moments(const GroupNormShape *z, const GroupNormForwardArgs *a, int i, int g, acc *mean, acc *squares) {
    int cg = z->c / z->groups;
    acc sum = 0, sum2 = 0;
    for (int64_t p = 0; p < z->hw; p++) {
        for (int k = g * cg; k < (g + 1) * cg; k++) sum += load_x(z, a->x, i, p, k);
    }
    *mean = sum / ((acc)z->hw * (acc)cg);
    for (int64_t p = 0; p < z->hw; p++) {
        for (int k = g * cg; k < (g + 1) * cg; k++) {
            acc d = load_x(z, a->x, i, p, k) - *mean;
            sum2 += d * d;
        }
    }
    *squares = sum2;
}

// The same from the moments of each channel: deviations from the group's mean are those from the channel's plus the
// channel mean's own.
static void moments_of_stats(const GroupNormShape *z, const GroupNormForwardArgs *a, int i, int g, acc *mean,
                             acc *squares) {
    int cg = z->c / z->groups;
    const real *stats = a->stats + 2 * ((int64_t)i * z->c + g * cg);
    acc sum = 0, sum2 = 0;
    for (int k = 0; k < cg; k++) sum += (acc)stats[2 * k];
    *mean = sum / (acc)cg;
    for (int k = 0; k < cg; k++) {
        acc d = (acc)stats[2 * k] - *mean;
        sum2 += (acc)stats[2 * k + 1] + (acc)z->hw * d * d;
    }
    *squares = sum2;
}

// mean, rstd (groups,2) of image i in acc, and all that is kept for later.
static void prepare_image(const GroupNormShape *z, const GroupNormForwardArgs *a, int i, acc *norm) {
    int cg = z->c / z->groups;
    for (int g = 0; g < z->groups; g++) {
        acc mean, squares;
        (a->stats ? moments_of_stats : moments)(z, a, i, g, &mean, &squares);
        acc var = squares / ((acc)z->hw * (acc)cg), rstd = (acc)(1 / sqrt((double)(var + (acc)z->eps)));
        norm[2 * g] = mean;
        norm[2 * g + 1] = rstd;
        a->mean[(int64_t)i * z->groups + g] = (real)mean;
        a->rstd[(int64_t)i * z->groups + g] = (real)rstd;
        for (int k = g * cg; k < (g + 1) * cg; k++) {
            acc scale = rstd * (acc)a->gamma[k];
            if (a->scale) a->scale[(int64_t)i * z->c + k] = (real)scale;
            if (a->shift) a->shift[(int64_t)i * z->c + k] = (real)((acc)a->beta[k] - mean * scale);
        }
    }
}

// y and mask of image i. Eight decisions come from one block of draws; elements count in logical NHWC.
static void apply_image(const GroupNormShape *z, const GroupNormForwardArgs *a, int i, const acc *norm) {
    Philox draw = { { 0 } };
    int cg = z->c / z->groups;
    for (int64_t e = 0; e < (int64_t)z->hw * z->c; e++) {
        int64_t p = e / z->c;
        int k = (int)(e % z->c);
        if (z->p16 && e % 8 == 0) {
            draw = philox(a->state->seed, (uint32_t)(e / 8), a->sample[i], a->state->step, z->purpose);
        }
        bool keep = !z->p16 || rng_keep(draw.v, (int)(e % 8), z->p16);
        int64_t bit = layout_index(z->layout, z->hw, z->c, i, p, k);
        if (a->mask && keep) a->mask[bit / 8] |= (uint8_t)(1u << (bit % 8));
        if (!a->y) continue;
        acc xhat = (load_x(z, a->x, i, p, k) - norm[2 * (k / cg)]) * norm[2 * (k / cg) + 1];
        acc v = xhat * (acc)a->gamma[k] + (acc)a->beta[k];
        if (z->act == ACT_SILU) v = ref_silu(v);
        if (z->p16) v = keep ? v * keep_scale(z) : 0;
        ref_store(a->y, z->dtype, layout_index(z->layout, z->hw, z->ldy, i, p, k), v);
    }
}

// Scratch: (n,groups,2) mean and rstd.
static size_t forward_scratch(const GroupNormShape *z) { return sizeof(acc) * 2 * (size_t)z->n * (size_t)z->groups; }

static void forward(Stream *stream, const GroupNormShape *z, const GroupNormForwardArgs *a, Work work) {
    size_t bits = (size_t)z->n * (size_t)z->hw * (size_t)z->c;
    CHECK(!z->p16 || (a->sample && a->state), "groupnorm: dropout %u/65536 without its key", z->p16);
    if (a->mask) memset(a->mask, 0, (bits + 7) / 8);
#pragma omp parallel for if ((int64_t)z->hw * z->c % 8 == 0)   // or else two images would share a byte of the mask
    for (int i = 0; i < z->n; i++) {
        acc *norm = (acc *)work.scratch + 2 * (int64_t)i * z->groups;
        prepare_image(z, a, i, norm);
        if (a->y || a->mask) apply_image(z, a, i, norm);
    }
}

// ---- backward
typedef struct { acc xhat, du; } Element;
static Element element(const GroupNormShape *z, const GroupNormBackwardArgs *a, int i, int64_t p, int k) {
    int64_t group = (int64_t)i * z->groups + k / (z->c / z->groups);
    Element e = { .xhat = (load_x(z, a->x, i, p, k) - (acc)a->mean[group]) * (acc)a->rstd[group],
                  .du = ref_load(a->dy, z->dtype, layout_index(z->layout, z->hw, z->ldy, i, p, k)) };
    if (a->sums) return e;
    if (a->mask) e.du = ref_bit(a->mask, layout_index(z->layout, z->hw, z->c, i, p, k)) ? e.du * keep_scale(z) : 0;
    if (z->act == ACT_SILU) e.du *= ref_silu_slope(e.xhat * (acc)a->gamma[k] + (acc)a->beta[k]);
    return e;
}

static void backward_group(const GroupNormShape *z, const GroupNormBackwardArgs *a, int i, int g, const acc *sums) {
    int cg = z->c / z->groups;
    acc mean_du = 0, mean_du_xhat = 0, rstd = (acc)a->rstd[(int64_t)i * z->groups + g];
    for (int k = g * cg; k < (g + 1) * cg; k++) {
        mean_du += (acc)a->gamma[k] * sums[2 * k];
        mean_du_xhat += (acc)a->gamma[k] * sums[2 * k + 1];
    }
    mean_du /= (acc)z->hw * (acc)cg;
    mean_du_xhat /= (acc)z->hw * (acc)cg;
    for (int64_t p = 0; p < z->hw; p++) {
        for (int k = g * cg; k < (g + 1) * cg; k++) {
            Element e = element(z, a, i, p, k);
            acc dx = rstd * (e.du * (acc)a->gamma[k] - mean_du - e.xhat * mean_du_xhat);
            if (a->add) dx += ref_load(a->add, z->dtype, layout_index(z->layout, z->hw, z->c, i, p, k));
            ref_store(a->dx, z->dtype, layout_index(z->layout, z->hw, z->ldx, i, p, k), dx);
        }
    }
}

// Scratch: (n,c,2) sums over the pixels of du and du * xhat.
static size_t backward_scratch(const GroupNormShape *z) { return sizeof(acc) * 2 * (size_t)z->n * (size_t)z->c; }

static void backward(Stream *stream, const GroupNormShape *z, const GroupNormBackwardArgs *a, Work work) {
    acc *sums = work.scratch;
#pragma omp parallel for
    for (int i = 0; i < z->n; i++) {
        acc *own = sums + 2 * (int64_t)i * z->c;
        for (int k = 0; k < 2 * z->c; k++) own[k] = a->sums ? (acc)a->sums[2 * (int64_t)i * z->c + k] : 0;
        for (int64_t p = 0; !a->sums && p < z->hw; p++) {
            for (int k = 0; k < z->c; k++) {
                Element e = element(z, a, i, p, k);
                own[2 * k] += e.du;
                own[2 * k + 1] += e.du * e.xhat;
            }
        }
        for (int g = 0; a->dx && g < z->groups; g++) backward_group(z, a, i, g, own);
    }
    for (int k = 0; k < z->c; k++) {
        acc dbeta = 0, dgamma = 0;
        for (int64_t i = 0; i < z->n; i++) {
            dbeta += sums[2 * (i * z->c + k)];
            dgamma += sums[2 * (i * z->c + k) + 1];
        }
        if (a->dbeta) a->dbeta[k] = (real)((a->accumulate ? (acc)a->dbeta[k] : 0) + dbeta);
        if (a->dgamma) a->dgamma[k] = (real)((a->accumulate ? (acc)a->dgamma[k] : 0) + dgamma);
    }
}

IMPLS(groupnorm_ref,
    IMPL_SCRATCH(groupnorm_forward, "loops", forward_scratch, forward),
    IMPL_SCRATCH(groupnorm_backward, "loops", backward_scratch, backward))
