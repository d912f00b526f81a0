// eval/inception_extractor.c - the FID's network as an extractor: its weights' file, images scaled as a protocol says.
#include <stdlib.h>
#include <string.h>
#include "eval/extractor.h"
#include "eval/inception.h"
#include "eval/resize.h"

// ---- the file of weights
bool weight_file_open(WeightFile *w, const char *path, Error *err) {
    uint8_t head[16] = { 0 };
    FILE *f = fopen(path, "rb");
    *w = (WeightFile){ .path = path };
    if (!f) return error_set(err, ERR_FILE, "%s: cannot be opened; check the path and its permissions", path);
    size_t n = fread(head, 1, sizeof head, f);
    fclose(f);
    if (torch_file_recognise(head, n)) w->torch = torch_file_open(path, err);
    else if (n > 8 && head[8] == '{') w->safe = st_open(path, err);
    else return error_set(err, ERR_FILE, "%s: neither a file of torch.save nor safetensors; give "
                          "pt_inception-2015-12-05-6726825d.pth as it is downloaded", path);
    return w->torch || w->safe;
}

void weight_file_close(WeightFile *w) {
    torch_file_close(w->torch);
    st_close(w->safe);
    *w = (WeightFile){ .path = NULL };
}

int weight_file_count(const WeightFile *w) { return w->torch ? torch_file_count(w->torch) : st_count(w->safe); }
const StTensor *weight_file_get(const WeightFile *w, int i) {
    return w->torch ? torch_file_get(w->torch, i) : st_get(w->safe, i);
}
const StTensor *weight_file_find(const WeightFile *w, const char *name) {
    return w->torch ? torch_file_find(w->torch, name) : st_find(w->safe, name);
}

// torch.hub's folder of downloads: $TORCH_HOME/hub/checkpoints, $XDG_CACHE_HOME/torch/..., ~/.cache/torch/... Caller
// frees. NULL: no variable says.
static char *hub_folder(void) {
    const char *torch = getenv("TORCH_HOME"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (torch && *torch) return xasprintf("%s/hub/checkpoints", torch);
    if (cache && *cache) return xasprintf("%s/torch/hub/checkpoints", cache);
    return home && *home ? xasprintf("%s/.cache/torch/hub/checkpoints", home) : NULL;
}

char *inception_find_weights(const char *given, Error *err) {
    static const char *const names[] = { "pt_inception-2015-12-05-6726825d.pth",            // pytorch-fid
                                         "weights-inception-2015-12-05-6726825d.pth" };     // torch-fidelity: the same
    if (*given && file_exists(given)) return xstrdup(given);
    char *folder = *given ? NULL : hub_folder();
    for (size_t i = 0; folder && i < sizeof names / sizeof names[0]; i++) {
        char *path = xasprintf("%s/%s", folder, names[i]);
        if (file_exists(path)) {
            free(folder);
            return path;
        }
        free(path);
    }
    error_set(err, ERR_FILE, "%s%sthe weights of the FID's network are not there: get "
              "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/%s (96 MB, its SHA-256 begins "
              "with 6726825d) and give it with --weights%s%s", *given ? given : "", *given ? ": " : "", names[0],
              folder ? " or put it into " : "", folder ? folder : "");
    free(folder);
    return NULL;
}

// ---- the extractor
_Static_assert(EXTRACTOR_SPATIAL_DIM == INCEPTION_MAP * INCEPTION_MAP * INCEPTION_MAP_CHANNELS, "one and the same");
typedef struct { ResizeKind resize; float scale, shift; } Scaling;       // into the first layer goes v scale + shift
static const Scaling scalings[] = {
    [PROTOCOL_CBDM] = { RESIZE_HALF_PIXEL, 2.0f / 255, -1 },
    [PROTOCOL_PYTORCH_FID] = { RESIZE_HALF_PIXEL, 2.0f / 255, -1 },
    [PROTOCOL_TF] = { RESIZE_TF1, 1.0f / 128, -1 },
    [PROTOCOL_CLEAN] = { RESIZE_BICUBIC, 1.0f / 128, -1 },
};
typedef struct {
    Inception *net;
    Scaling    scaling;
    int        batch, height, width;             // of the images that `resizer` is for
    Resizer   *resizer;
    float     *images, *features, *logits;       // a whole batch
} Self;

// Images beyond n are what an earlier batch left: their rows are not read.
static void run(void *arg, int n, int h, int w, int c, const float *pixels, float *features, float *probs) {
    Self *s = arg;
    const int64_t image = (int64_t)INCEPTION_SIDE * INCEPTION_SIDE * 3;
    CHECK(n >= 1 && n <= s->batch, "%d images in batches of %d", n, s->batch);
    if (h != s->height || w != s->width) {
        resizer_free(s->resizer);
        s->resizer = resizer_new(s->scaling.resize, h, w, INCEPTION_SIDE, INCEPTION_SIDE);
        s->height = h;
        s->width = w;
    }
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < n; i++) {
        float *to = s->images + i * image;
        resizer_run(s->resizer, pixels + (int64_t)i * h * w * c, c, to, 3);
        for (int64_t k = 0; k < image; k++) to[k] = to[k] * s->scaling.scale + s->scaling.shift;
    }
    inception_run(s->net, s->images, s->features, s->logits);
    memcpy(features, s->features, (size_t)n * INCEPTION_DIM * sizeof *features);
    for (int i = 0; i < n && probs; i++)
        extractor_softmax(s->logits + (int64_t)i * INCEPTION_CLASSES, INCEPTION_CLASSES,
                          probs + (int64_t)i * INCEPTION_CLASSES);
}

static void close_self(void *arg) {
    Self *s = arg;
    inception_free(s->net);
    resizer_free(s->resizer);
    free(s->images);
    free(s->features);
    free(s->logits);
    free(s);
}

static Extractor *build(Device *d, const char *path, Protocol p, int batch, Error *err) {
    WeightFile file;
    char hash[65];
    if (!sha256_file(path, hash, err) || !weight_file_open(&file, path, err)) return NULL;
    if (strncmp(hash, "6726825d", 8) != 0)
        log_warn("%s: its SHA-256 is %s, not the published file's, which begins with 6726825d: the numbers cannot be "
                 "compared with others'", path, hash);
    Inception *net = inception_new(d, &file, batch, err);
    weight_file_close(&file);
    if (!net) return NULL;
    Self *s = xcalloc(1, sizeof *s);
    size_t n = (size_t)batch;
    *s = (Self){ .net = net, .scaling = scalings[p], .batch = batch };
    s->images = xcalloc(n * INCEPTION_SIDE * INCEPTION_SIDE * 3, sizeof *s->images);
    s->features = xmalloc(n * INCEPTION_DIM * sizeof *s->features);
    s->logits = xmalloc(n * INCEPTION_CLASSES * sizeof *s->logits);
    Extractor *e = xcalloc(1, sizeof *e);
    *e = (Extractor){ .dim = INCEPTION_DIM, .classes = INCEPTION_CLASSES, .batch = batch, .self = s, .run = run,
                      .close = close_self };
    snprintf(e->name, sizeof e->name, "inception 2015-12-05");
    snprintf(e->hash, sizeof e->hash, "%s", hash);
    return e;
}

bool extractor_spatial(const Extractor *e, int n, float *out) {
    if (e->run != run) return false;
    const Self *s = e->self;
    float *all = xmalloc((size_t)s->batch * EXTRACTOR_SPATIAL_DIM * sizeof *all);
    inception_spatial(s->net, all);
    memcpy(out, all, (size_t)n * EXTRACTOR_SPATIAL_DIM * sizeof *all);
    free(all);
    return true;
}

Extractor *extractor_inception(Device *d, const char *weights, Protocol p, int batch, Error *err) {
    char *path = inception_find_weights(weights, err);
    Extractor *e = path ? build(d, path, p, batch, err) : NULL;
    free(path);
    return e;
}
