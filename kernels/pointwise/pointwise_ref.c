// kernels/pointwise/pointwise_ref.c - element-wise work, relayout, means and random draws by their definition.
#include <string.h>
#include "kernels/common/kernel.h"
#include "kernels/common/ref.h"
#include "kernels/common/rng.h"
#include "kernels/pointwise/pointwise.h"

// ---- y[r,j] = f(a[r,j], b[r,j]). Element by element, so that y may be a or b.
static void axpby_run(Stream *stream, const PointwiseShape *z, const PointwiseArgs *a, Work work) {
#pragma omp parallel for
    for (int64_t r = 0; r < z->rows; r++) {
        for (int64_t j = 0; j < z->c; j++) {
            acc v = (acc)z->alpha * ref_load(a->a, z->dtype, r * z->lda + j);
            if (a->b) v += (acc)z->beta * ref_load(a->b, z->dtype, r * z->ldb + j);
            ref_store(a->y, z->out, r * z->ldy + j, v);
        }
    }
}

static void multiply_run(Stream *stream, const PointwiseShape *z, const PointwiseArgs *a, Work work) {
#pragma omp parallel for
    for (int64_t r = 0; r < z->rows; r++) {
        for (int64_t j = 0; j < z->c; j++) {
            acc v = ref_load(a->a, z->dtype, r * z->lda + j) * ref_load(a->b, z->dtype, r * z->ldb + j);
            ref_store(a->y, z->out, r * z->ldy + j, v);
        }
    }
}

static void silu_run(Stream *stream, const PointwiseShape *z, const PointwiseArgs *a, Work work) {
#pragma omp parallel for
    for (int64_t r = 0; r < z->rows; r++) {
        for (int64_t j = 0; j < z->c; j++) {
            ref_store(a->y, z->out, r * z->ldy + j, ref_silu(ref_load(a->a, z->dtype, r * z->lda + j)));
        }
    }
}

static void silu_backward_run(Stream *stream, const PointwiseShape *z, const PointwiseArgs *a, Work work) {
#pragma omp parallel for
    for (int64_t r = 0; r < z->rows; r++) {
        for (int64_t j = 0; j < z->c; j++) {
            acc dy = ref_load(a->a, z->dtype, r * z->lda + j), x = ref_load(a->b, z->dtype, r * z->ldb + j);
            ref_store(a->y, z->out, r * z->ldy + j, dy * ref_silu_slope(x));
        }
    }
}

static void relu_run(Stream *stream, const PointwiseShape *z, const PointwiseArgs *a, Work work) {
#pragma omp parallel for
    for (int64_t r = 0; r < z->rows; r++) {
        for (int64_t j = 0; j < z->c; j++) {
            acc v = ref_load(a->a, z->dtype, r * z->lda + j);
            ref_store(a->y, z->out, r * z->ldy + j, v <= 0 ? 0 : v);
        }
    }
}

static void relu_backward_run(Stream *stream, const PointwiseShape *z, const PointwiseArgs *a, Work work) {
#pragma omp parallel for
    for (int64_t r = 0; r < z->rows; r++) {
        for (int64_t j = 0; j < z->c; j++) {
            acc dy = ref_load(a->a, z->dtype, r * z->lda + j), x = ref_load(a->b, z->dtype, r * z->ldb + j);
            ref_store(a->y, z->out, r * z->ldy + j, x <= 0 ? 0 : dy);
        }
    }
}

static void fill_run(Stream *stream, const PointwiseShape *z, const PointwiseArgs *a, Work work) {
    for (int64_t r = 0; r < z->rows; r++) {
        for (int64_t j = 0; j < z->c; j++) ref_store(a->y, z->out, r * z->ldy + j, (acc)z->alpha);
    }
}

// ---- y[i,p,k] = x[i mod n,p,k] + v[i,k];  dx[i,p,k] = sum over copies of dy;  dv[i,k] = sum over p of dy
static void add_channel(Stream *stream, const AddChannelShape *z, const AddChannelArgs *a, Work work) {
#pragma omp parallel for
    for (int i = 0; i < z->n * z->copies; i++) {
        for (int64_t p = 0; p < z->hw; p++) {
            for (int k = 0; k < z->c; k++) {
                acc x = ref_load(a->x, z->dtype, layout_index(z->layout, z->hw, z->c, i % z->n, p, k));
                acc v = (acc)a->v[(int64_t)i * z->c + k];
                ref_store(a->y, z->dtype, layout_index(z->layout, z->hw, z->c, i, p, k), x + v);
            }
        }
    }
}

static void add_channel_grad(Stream *stream, const AddChannelShape *z, const AddChannelGradArgs *a, Work work) {
#pragma omp parallel for
    for (int i = 0; i < z->n * z->copies; i++) {
        for (int k = 0; k < z->c; k++) {
            acc sum = 0;
            for (int64_t p = 0; p < z->hw; p++) {
                sum += ref_load(a->dy, z->dtype, layout_index(z->layout, z->hw, z->c, i, p, k));
            }
            a->dv[(int64_t)i * z->c + k] = (real)sum;
        }
    }
    int64_t size = (int64_t)z->n * z->hw * z->c;               // of x; dy holds `copies` of it one after another
    for (int64_t j = 0; a->dx && j < size; j++) {
        acc sum = 0;
        for (int copy = 0; copy < z->copies; copy++) sum += ref_load(a->dy, z->dtype, copy * size + j);
        ref_store(a->dx, z->dtype, j, sum);
    }
}

static void relayout_run(Stream *stream, const RelayoutShape *z, const RelayoutArgs *a, Work work) {
#pragma omp parallel for
    for (int i = 0; i < z->n; i++) {
        for (int64_t p = 0; p < z->hw; p++) {
            for (int k = 0; k < z->c; k++) {
                acc v = ref_load(a->x, z->dtype, layout_index(z->from, z->hw, z->c, i, p, k));
                ref_store(a->y, z->dtype, layout_index(z->to, z->hw, z->c, i, p, k), v);
            }
        }
    }
}

// ---- y = sum of x / e;  dx = dy / e
static void mean(Stream *stream, const MeanShape *z, const MeanArgs *a, Work work) {
    acc sum = 0;
    for (int64_t j = 0; j < z->e; j++) sum += ref_load(a->x, z->dtype, j);
    a->y[0] = (real)(sum / (acc)z->e);
}
static void mean_grad(Stream *stream, const MeanShape *z, const MeanGradArgs *a, Work work) {
    for (int64_t j = 0; j < z->e; j++) ref_store(a->dx, z->dtype, j, (acc)a->dy[0] / (acc)z->e);
}

// ---- draws: element e = p * c + k of an image is lane e mod 4 of block e / 4 (normals), e mod 8 of e / 8 (dropout)
static void normals(Stream *stream, const RandomShape *z, const RandomArgs *a, Work work) {
#pragma omp parallel for
    for (int i = 0; i < z->n; i++) {
        float draw[4] = { 0 };
        for (int64_t e = 0; e < (int64_t)z->hw * z->c; e++) {
            if (e % 4 == 0) {
                Philox r = philox(a->state->seed, (uint32_t)(e / 4), a->sample[i], a->state->step, z->purpose);
                rng_normal4(r.v, draw);
            }
            ref_store(a->y, z->dtype, layout_index(z->layout, z->hw, z->c, i, e / z->c, e % z->c), (acc)draw[e % 4]);
        }
    }
}

static void dropout_run(Stream *stream, const RandomShape *z, const RandomArgs *a, Work work) {
    acc scale = (acc)(65536.0 / (65536.0 - (double)z->p16));
    size_t bits = (size_t)z->n * (size_t)z->hw * (size_t)z->c;
    if (a->mask) memset(a->mask, 0, (bits + 7) / 8);
#pragma omp parallel for if ((int64_t)z->hw * z->c % 8 == 0)   // or else two images would share a byte of the mask
    for (int i = 0; i < z->n; i++) {
        Philox draw = { { 0 } };
        for (int64_t e = 0; e < (int64_t)z->hw * z->c; e++) {
            if (e % 8 == 0) draw = philox(a->state->seed, (uint32_t)(e / 8), a->sample[i], a->state->step, z->purpose);
            bool keep = rng_keep(draw.v, (int)(e % 8), z->p16);
            int64_t at = layout_index(z->layout, z->hw, z->c, i, e / z->c, e % z->c);
            if (a->mask && keep) a->mask[at / 8] |= (uint8_t)(1u << (at % 8));
            ref_store(a->y, z->dtype, at, keep ? ref_load(a->x, z->dtype, at) * scale : 0);
        }
    }
}

IMPLS(pointwise_ref,
    IMPL(axpby, "loops", axpby_run),
    IMPL(multiply, "loops", multiply_run),
    IMPL(silu_forward, "loops", silu_run),
    IMPL(silu_backward, "loops", silu_backward_run),
    IMPL(relu_forward, "loops", relu_run),
    IMPL(relu_backward, "loops", relu_backward_run),
    IMPL(fill, "loops", fill_run),
    IMPL(add_channel_forward, "loops", add_channel),
    IMPL(add_channel_backward, "loops", add_channel_grad),
    IMPL(relayout, "loops", relayout_run),
    IMPL(mean_forward, "loops", mean),
    IMPL(mean_backward, "loops", mean_grad),
    IMPL(randn, "loops", normals),
    IMPL(dropout, "loops", dropout_run))
