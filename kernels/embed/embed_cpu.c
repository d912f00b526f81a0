// kernels/embed/embed_cpu.c - embedding rows and sinusoids. All of it is small: no threads, exact functions.
#include "kernels/common/cpu.h"
#include "kernels/embed/embed.h"

static bool can_embed(const EmbedShape *z) { return z->out == DT_F32; }
static bool can_sinusoid(const SinusoidShape *z) { return (z->in == DT_F32 || z->in == DT_I32) && z->out == DT_F32; }

// ---- rows of a table
static int64_t row_of(const EmbedShape *z, const int32_t *index, int i) {
    CHECK(index[i] >= -1 && index[i] < z->rows, "embed: index[%d] = %d of %d rows", i, (int)index[i], z->rows);
    return index[i];
}

static void embed_run(Stream *st, const EmbedShape *z, const EmbedForwardArgs *a, Work w) {
    size_t bytes = (size_t)z->c * sizeof(float);
    for (int i = 0; i < z->n; i++) {
        int64_t r = row_of(z, a->index, i);
        float *y = (float *)a->y + (int64_t)i * z->c;
        if (r < 0) memset(y, 0, bytes);
        else       memcpy(y, a->table + r * z->c, bytes);
    }
}

static void embed_backward_run(Stream *st, const EmbedShape *z, const EmbedBackwardArgs *a, Work w) {
    if (!a->accumulate) memset(a->dtable, 0, (size_t)z->rows * (size_t)z->c * sizeof(float));
    for (int i = 0; i < z->n; i++) {
        int64_t r = row_of(z, a->index, i);
        if (r < 0) continue;
        const float *dy = (const float *)a->dy + (int64_t)i * z->c;
        float *to = a->dtable + r * z->c;
        #pragma omp simd
        for (int k = 0; k < z->c; k++) to[k] += dy[k];
    }
}

// ---- sinusoids: float up to the phase, double for the functions of it
static void sinusoid_run(Stream *st, const SinusoidShape *z, const SinusoidArgs *a, Work w) {
    float *y = a->y, log_base = (float)log(10000.0);
    for (int j = 0; j < z->dim; j++) {
        float exponent = (float)(j / 2 * 2) / (float)z->dim * log_base, frequency = (float)exp(-(double)exponent);
        for (int i = 0; i < z->n; i++) {
            float t = z->in == DT_I32 ? (float)((const int32_t *)a->t)[i] : ((const float *)a->t)[i];
            double phase = (double)(t * frequency);
            y[(int64_t)i * z->dim + j] = (float)(j % 2 ? cos(phase) : sin(phase));
        }
    }
}

// ---- registration
IMPLS(embed_cpu,
    IMPL_FULL(embed_forward, "rows", 100, 0, 0, can_embed, NULL, NULL, embed_run, NULL),
    IMPL_FULL(embed_backward, "rows", 100, 0, 0, can_embed, NULL, NULL, embed_backward_run, NULL),
    IMPL_FULL(sinusoid, "loops", 100, 0, 0, can_sinusoid, NULL, NULL, sinusoid_run, NULL))
