// kernels/embed/embed_ref.c - embedding rows and sinusoids by their definition.
//   y[i,:]      = table[index[i],:], or zeros for index -1
//   dtable[r,:] = sum over i with index[i] = r, ascending, of dy[i,:] (+ dtable[r,:])
//   y[i,2j], y[i,2j+1] = sin, cos of t[i] f_j,  f_j = exp(-(2j / dim) ln(10000))
#include "kernels/common/kernel.h"
#include "kernels/common/ref.h"
#include "kernels/embed/embed.h"

static void check_index(const EmbedShape *z, const int32_t *index) {
    for (int i = 0; i < z->n; i++) {
        CHECK(index[i] >= -1 && index[i] < z->rows, "embed: index[%d] = %d of %d rows", i, (int)index[i], z->rows);
    }
}

static void forward(Stream *stream, const EmbedShape *z, const EmbedForwardArgs *a, Work work) {
    check_index(z, a->index);
    for (int64_t i = 0; i < z->n; i++) {
        for (int64_t k = 0; k < z->c; k++) {
            ref_store(a->y, z->out, i * z->c + k, a->index[i] < 0 ? 0 : (acc)a->table[a->index[i] * (int64_t)z->c + k]);
        }
    }
}

static void backward(Stream *stream, const EmbedShape *z, const EmbedBackwardArgs *a, Work work) {
    check_index(z, a->index);
#pragma omp parallel for
    for (int64_t r = 0; r < z->rows; r++) {
        for (int64_t k = 0; k < z->c; k++) {
            acc sum = 0;
            for (int64_t i = 0; i < z->n; i++) {
                if (a->index[i] == r) sum += ref_load(a->dy, z->out, i * z->c + k);
            }
            real *to = a->dtable + r * z->c + k;
            *to = (real)((a->accumulate ? (acc)*to : 0) + sum);
        }
    }
}

// Float arithmetic up to the phase in every kind, as in the published table, constants included: an exponent rounded
// only once moves the phase of t = 1000 by 3e-5. Sine and cosine are then taken in double.
static void sinusoids(Stream *stream, const SinusoidShape *z, const SinusoidArgs *a, Work work) {
    for (int i = 0; i < z->n; i++) {
        float t = z->in == DT_I32 ? (float)((const int32_t *)a->t)[i] : (float)ref_load(a->t, z->in, i);
        for (int j = 0; j < z->dim; j++) {
            float exponent = (float)(j / 2 * 2) / (float)z->dim * (float)log(10000.0);
            float frequency = (float)exp(-(double)exponent);
            float phase = t * frequency;
            double v = j % 2 ? cos((double)phase) : sin((double)phase);
            ref_store(a->y, z->out, (int64_t)i * z->dim + j, (acc)v);
        }
    }
}

IMPLS(embed_ref,
    IMPL(embed_forward, "loops", forward),
    IMPL(embed_backward, "loops", backward),
    IMPL(sinusoid, "loops", sinusoids))
