// eval/adm.c - reference batches for ADM's evaluator: the images, and statistics of their features if wanted.
#include "eval/adm.h"
#include <stdlib.h>
#include "eval/frechet.h"

static void write_images(NpzWriter *w, const ImageSet *s) {
    NpyArray a = { "|u1", 4, { s->n, s->height, s->width, 3 }, NULL };
    npz_begin(w, "arr_0", &a);
    size_t pixels = (size_t)s->height * (size_t)s->width;
    uint8_t *row = xmalloc(3 * pixels);
    for (int64_t i = 0; i < s->n; i++) {
        const uint8_t *from = s->u8 + (size_t)i * pixels * (size_t)s->channels;
        for (size_t k = 0; k < pixels; k++)
            for (size_t c = 0; c < 3; c++) row[3 * k + c] = s->channels == 3 ? from[3 * k + c] : from[k];
        npz_rows(w, row, 3 * pixels);
    }
    free(row);
}

// Mean and covariance of x (n,dim) under two names.
static void write_gaussian(NpzWriter *w, const float *x, int64_t n, int dim, const char *mu, const char *sigma) {
    Features f = { .n = n, .dim = dim, .x = x };
    Gaussian g;
    gaussian_fit(&f, NULL, 0, &g);
    NpyArray mean = { "<f8", 1, { dim }, NULL }, covariance = { "<f8", 2, { dim, dim }, NULL };
    size_t row = (size_t)dim * sizeof *g.mu;
    npz_begin(w, mu, &mean);
    npz_rows(w, g.mu, row);
    npz_begin(w, sigma, &covariance);
    npz_rows(w, g.sigma, row * (size_t)dim);
    gaussian_free(&g);
}

static void write_statistics(NpzWriter *w, const ImageSet *s, Extractor *e) {
    size_t n = (size_t)s->n, pixels = (size_t)s->height * (size_t)s->width * (size_t)s->channels;
    float *batch = xmalloc((size_t)e->batch * pixels * sizeof *batch);
    float *features = xmalloc(n * (size_t)e->dim * sizeof *features);
    float *spatial = xmalloc(n * EXTRACTOR_SPATIAL_DIM * sizeof *spatial);
    for (int64_t i = 0; i < s->n; i += e->batch) {
        int64_t end = i + e->batch < s->n ? i + e->batch : s->n;
        image_rows(s, i, end, true, batch);
        e->run(e->self, (int)(end - i), s->height, s->width, s->channels, batch, features + i * e->dim, NULL);
        CHECK(extractor_spatial(e, (int)(end - i), spatial + i * EXTRACTOR_SPATIAL_DIM), "%s has none", e->name);
        char line[100];
        snprintf(line, sizeof line, "spatial features of %lld of %lld images", (long long)end, (long long)s->n);
        log_progress(line);
    }
    log_progress(NULL);
    free(batch);
    write_gaussian(w, features, s->n, e->dim, "mu", "sigma");
    free(features);
    write_gaussian(w, spatial, s->n, EXTRACTOR_SPATIAL_DIM, "mu_s", "sigma_s");
    free(spatial);
}

bool adm_write(const char *path, const ImageSet *s, Extractor *e, Error *err) {
    CHECK(s->u8, "%s: bytes are needed", s->name);
    if (e && s->n < 2) return error_set(err, ERR_USAGE, "%s: a covariance needs 2 images", path);
    NpzWriter *w = npz_create(path, err);
    if (!w) return false;
    write_images(w, s);
    if (e) write_statistics(w, s, e);
    return npz_commit(w, err);
}
