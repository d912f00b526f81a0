// kernels/resample/resample_ref.c - upsampling, concatenation and repetition by their definition.
//   upsampling: y[i,h,w,k] = x[i,h/2,w/2,k];  dx[i,h,w,k] = sum of dy over the 2x2 pixels that copied it
//   repetition: y[j,:] = x[:] for each copy j;  dx[:] = sum over j, ascending, of dy[j,:]
#include "kernels/common/kernel.h"
#include "kernels/common/ref.h"
#include "kernels/resample/resample.h"

// Element (i,h,w,0) of the large image (n,2h,2w,c).
static int64_t large(const UpsampleShape *z, int64_t i, int64_t h, int64_t w) {
    return ((i * 2 * z->h + h) * 2 * z->w + w) * z->c;
}

static void upsample(Stream *stream, const UpsampleShape *z, const ResampleArgs *a, Work work) {
#pragma omp parallel for
    for (int i = 0; i < z->n; i++) {
        for (int h = 0; h < 2 * z->h; h++) {
            for (int w = 0; w < 2 * z->w; w++) {
                int64_t from = (((int64_t)i * z->h + h / 2) * z->w + w / 2) * z->c;
                for (int k = 0; k < z->c; k++) {
                    ref_store(a->y, z->dtype, large(z, i, h, w) + k, ref_load(a->x, z->dtype, from + k));
                }
            }
        }
    }
}

static void upsample_grad(Stream *stream, const UpsampleShape *z, const ResampleArgs *a, Work work) {
#pragma omp parallel for
    for (int i = 0; i < z->n; i++) {
        for (int h = 0; h < z->h; h++) {
            for (int w = 0; w < z->w; w++) {
                for (int k = 0; k < z->c; k++) {
                    acc sum = 0;
                    for (int j = 0; j < 4; j++) {
                        sum += ref_load(a->x, z->dtype, large(z, i, 2 * h + j / 2, 2 * w + j % 2) + k);
                    }
                    ref_store(a->y, z->dtype, (((int64_t)i * z->h + h) * z->w + w) * z->c + k, sum);
                }
            }
        }
    }
}

static void concat(Stream *stream, const ConcatShape *z, const ConcatArgs *a, Work work) {
    int64_t c = z->ca + z->cb;
#pragma omp parallel for
    for (int64_t r = 0; r < z->rows; r++) {
        for (int k = 0; k < z->ca; k++) ref_store(a->y, z->dtype, r * c + k, ref_load(a->a, z->dtype, r * z->lda + k));
        for (int k = 0; k < z->cb; k++) {
            ref_store(a->y, z->dtype, r * c + z->ca + k, ref_load(a->b, z->dtype, r * z->ldb + k));
        }
    }
}

static void repeat(Stream *stream, const RepeatShape *z, const ResampleArgs *a, Work work) {
    for (int j = 0; j < z->copies; j++) {
        for (int64_t e = 0; e < z->e; e++) ref_store(a->y, z->dtype, j * z->e + e, ref_load(a->x, z->dtype, e));
    }
}

static void repeat_grad(Stream *stream, const RepeatShape *z, const ResampleArgs *a, Work work) {
    for (int64_t e = 0; e < z->e; e++) {
        acc sum = 0;
        for (int j = 0; j < z->copies; j++) sum += ref_load(a->x, z->dtype, j * z->e + e);
        ref_store(a->y, z->dtype, e, sum);
    }
}

IMPLS(resample_ref,
    IMPL(upsample2x_forward, "loops", upsample),
    IMPL(upsample2x_backward, "loops", upsample_grad),
    IMPL(concat_forward, "loops", concat),
    IMPL(repeat_batch_forward, "loops", repeat),
    IMPL(repeat_batch_backward, "loops", repeat_grad))
