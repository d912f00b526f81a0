// eval/inception.c - the Inception network of the FID: its layers as a table, its recorded pass.
//
// torchvision's inception_v3 without the auxiliary classifier, but: 1008 classes; averages in the mixed blocks divide
// by the pixels inside the image; the last block pools by maximum. A unit is convolution, batch normalisation (eps
// 0.001), ReLU; the normalisation is folded into filter and bias when weights are loaded.
#include "eval/inception.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "core/ops.h"

// ---- the layers
typedef enum {
    CONV,            // a unit; name, filters, size, stride, padding
    POOL,            // 3x3, stride 1, padding 1, of the block's kind
    SHRINK,          // maximum over 3x3, stride 2
    BRANCH,          // what there is stands as a result; go on from the block's input
    MARK,            // remember this place ...
    BACK,            // ... what there is stands as a result; go on from the marked place
} LayerKind;
enum { VALID, SAME };
enum { BLOCK_WIDTH = 0 };                        // filters: the block's
typedef struct { LayerKind kind; const char *name; int filters, rows, columns, stride, padding; } Layer;
#define UNIT(name, filters, rows, columns) { CONV, name, filters, rows, columns, 1, SAME }
#define DOWN(name, filters) { CONV, name, filters, 3, 3, 2, VALID }

static const Layer stem[] = {                                    // 299
    DOWN("Conv2d_1a_3x3", 32),                                   // 149
    { CONV, "Conv2d_2a_3x3", 32, 3, 3, 1, VALID },               // 147
    UNIT("Conv2d_2b_3x3", 64, 3, 3), { .kind = SHRINK },         // 73
    UNIT("Conv2d_3b_1x1", 80, 1, 1),
    { CONV, "Conv2d_4a_3x3", 192, 3, 3, 1, VALID },              // 71
    { .kind = SHRINK },                                          // 35
};
static const Layer block_a[] = {                                 // 35
    UNIT("branch1x1", 64, 1, 1), { .kind = BRANCH },
    UNIT("branch5x5_1", 48, 1, 1), UNIT("branch5x5_2", 64, 5, 5), { .kind = BRANCH },
    UNIT("branch3x3dbl_1", 64, 1, 1), UNIT("branch3x3dbl_2", 96, 3, 3), UNIT("branch3x3dbl_3", 96, 3, 3),
    { .kind = BRANCH }, { .kind = POOL }, UNIT("branch_pool", BLOCK_WIDTH, 1, 1),
};
static const Layer block_b[] = {                                 // 35 -> 17
    DOWN("branch3x3", 384), { .kind = BRANCH },
    UNIT("branch3x3dbl_1", 64, 1, 1), UNIT("branch3x3dbl_2", 96, 3, 3), DOWN("branch3x3dbl_3", 96),
    { .kind = BRANCH }, { .kind = SHRINK },
};
static const Layer block_c[] = {                                 // 17
    UNIT("branch1x1", 192, 1, 1), { .kind = BRANCH },
    UNIT("branch7x7_1", BLOCK_WIDTH, 1, 1), UNIT("branch7x7_2", BLOCK_WIDTH, 1, 7), UNIT("branch7x7_3", 192, 7, 1),
    { .kind = BRANCH },
    UNIT("branch7x7dbl_1", BLOCK_WIDTH, 1, 1), UNIT("branch7x7dbl_2", BLOCK_WIDTH, 7, 1),
    UNIT("branch7x7dbl_3", BLOCK_WIDTH, 1, 7), UNIT("branch7x7dbl_4", BLOCK_WIDTH, 7, 1),
    UNIT("branch7x7dbl_5", 192, 1, 7),
    { .kind = BRANCH }, { .kind = POOL }, UNIT("branch_pool", 192, 1, 1),
};
static const Layer block_d[] = {                                 // 17 -> 8
    UNIT("branch3x3_1", 192, 1, 1), DOWN("branch3x3_2", 320), { .kind = BRANCH },
    UNIT("branch7x7x3_1", 192, 1, 1), UNIT("branch7x7x3_2", 192, 1, 7), UNIT("branch7x7x3_3", 192, 7, 1),
    DOWN("branch7x7x3_4", 192),
    { .kind = BRANCH }, { .kind = SHRINK },
};
static const Layer block_e[] = {                                 // 8
    UNIT("branch1x1", 320, 1, 1), { .kind = BRANCH },
    UNIT("branch3x3_1", 384, 1, 1), { .kind = MARK },
    UNIT("branch3x3_2a", 384, 1, 3), { .kind = BACK }, UNIT("branch3x3_2b", 384, 3, 1), { .kind = BRANCH },
    UNIT("branch3x3dbl_1", 448, 1, 1), UNIT("branch3x3dbl_2", 384, 3, 3), { .kind = MARK },
    UNIT("branch3x3dbl_3a", 384, 1, 3), { .kind = BACK }, UNIT("branch3x3dbl_3b", 384, 3, 1),
    { .kind = BRANCH }, { .kind = POOL }, UNIT("branch_pool", 192, 1, 1),
};
#undef UNIT
#undef DOWN
#define LAYERS(table) table, sizeof table / sizeof table[0]
static const struct { const char *name; const Layer *layer; size_t n; int width; PoolKind pool; } blocks[] = {
    { "", LAYERS(stem), 0, POOL_MEAN },
    { "Mixed_5b.", LAYERS(block_a), 32, POOL_MEAN },             // -> 256 channels
    { "Mixed_5c.", LAYERS(block_a), 64, POOL_MEAN },             // -> 288
    { "Mixed_5d.", LAYERS(block_a), 64, POOL_MEAN },
    { "Mixed_6a.", LAYERS(block_b), 0, POOL_MEAN },              // -> 768
    { "Mixed_6b.", LAYERS(block_c), 128, POOL_MEAN },
    { "Mixed_6c.", LAYERS(block_c), 160, POOL_MEAN },
    { "Mixed_6d.", LAYERS(block_c), 160, POOL_MEAN },
    { "Mixed_6e.", LAYERS(block_c), 192, POOL_MEAN },
    { "Mixed_7a.", LAYERS(block_d), 0, POOL_MEAN },              // -> 1280
    { "Mixed_7b.", LAYERS(block_e), 0, POOL_MEAN },              // -> 2048
    { "Mixed_7c.", LAYERS(block_e), 0, POOL_MAX },
};
#undef LAYERS
enum { BLOCKS = sizeof blocks / sizeof blocks[0], UNITS = 94, RESULTS_MAX = 8 };

struct Inception {
    Device *device;
    Tensor *weight[2 * UNITS + 1];               // filters and biases, and the last matrix
    int     n_weights;
    Graph  *graph;
    Arena  *arena;
    Tensor *images, *features, *logits, *map;    // map (N,17,17,192): Mixed_6d.branch1x1
    int     batch;
};

// What the recording of the pass goes through: the file's tensors, each read once. Where ok is false none is.
typedef struct { Inception *p; const WeightFile *file; int used; bool ok; Error *err; } Loader;

// ---- weights
// The tensor NAME of this shape as floats, all finite; caller frees. NULL once anything failed.
static float *load(Loader *l, const char *name, int ndim, const int64_t *shape) {
    if (!l->ok) return NULL;
    const StTensor *t = weight_file_find(l->file, name);
    bool same = t && t->ndim == ndim && memcmp(t->shape, shape, (size_t)ndim * sizeof *shape) == 0;
    if (!same) {
        l->ok = error_set(l->err, ERR_FILE, "%s: tensor %s %s; give pt_inception-2015-12-05-6726825d.pth, the network "
                          "of the FID (torchvision's inception_v3 is another)", l->file->path, name,
                          t ? "has another shape than that of the FID's network" : "is missing");
        return NULL;
    }
    int64_t n = 1;
    for (int i = 0; i < ndim; i++) n *= shape[i];
    float *v = xmalloc((size_t)n * sizeof *v);
    bool finite = st_read_f32(t, v);
    for (int64_t i = 0; i < n && finite; i++) finite = isfinite(v[i]);
    l->used++;
    if (finite) return v;
    free(v);
    l->ok = error_set(l->err, ERR_FILE, "%s: tensor %s holds a value that is not finite: the file is damaged",
                      l->file->path, name);
    return NULL;
}

static float *load_vector(Loader *l, const char *unit, const char *part, int64_t n) {
    char *name = xasprintf("%s.bn.%s", unit, part);
    float *v = load(l, name, 1, &n);
    free(name);
    return v;
}

static Tensor *keep(Loader *l, const char *name, int ndim, const int64_t *shape) {
    Inception *p = l->p;
    CHECK(p->n_weights < 2 * UNITS + 1, "weight %d, %s", p->n_weights, name);
    return p->weight[p->n_weights++] = tensor_new(p->device, name, DT_F32, ndim, shape);
}

// w (K,C,R,S) and bias (K) of convolution and normalisation together: w s, beta - mean s with s = gamma / sqrt(var +
// eps), in double.
static bool fold(Loader *l, const char *unit, int64_t k, int64_t per_filter, float *w, float *bias) {
    float *gamma = load_vector(l, unit, "weight", k), *beta = load_vector(l, unit, "bias", k);
    float *mean = load_vector(l, unit, "running_mean", k), *var = load_vector(l, unit, "running_var", k);
    for (int64_t i = 0; i < k && l->ok; i++) {
        if (var[i] < 0) {
            l->ok = error_set(l->err, ERR_FILE, "%s: %s.bn.running_var holds a negative variance: the file is damaged",
                              l->file->path, unit);
            break;
        }
        double scale = (double)gamma[i] / sqrt((double)var[i] + 1e-3);
        for (int64_t j = 0; j < per_filter; j++)
            w[i * per_filter + j] = (float)((double)w[i * per_filter + j] * scale);
        bias[i] = (float)((double)beta[i] - (double)mean[i] * scale);
    }
    free(gamma);
    free(beta);
    free(mean);
    free(var);
    return l->ok;
}

// ---- recording
// x (N,H,W,C) -> (N,P,Q,K)
static Tensor *record_unit(Loader *l, Tensor *x, const char *block, const Layer *layer, int width) {
    int64_t k = layer->filters == BLOCK_WIDTH ? width : layer->filters, c = x->shape[3];
    int64_t published[] = { k, c, layer->rows, layer->columns }, shape[] = { k, layer->rows, layer->columns, c };
    char *unit = xasprintf("%s%s", block, layer->name), *name = xasprintf("%s.conv.weight", unit);
    Tensor *w = keep(l, name, 4, shape), *b = keep(l, unit, 1, &k);
    float *filters = load(l, name, 4, published), *bias = xcalloc((size_t)k, sizeof *bias);
    if (filters && fold(l, unit, k, tensor_numel(w) / k, filters, bias)) {
        param_write_published(w, filters);
        tensor_write_f32(b, bias);
    }
    free(filters);
    free(bias);
    free(name);
    free(unit);
    int pad_h = layer->padding == SAME ? (layer->rows - 1) / 2 : 0;
    int pad_w = layer->padding == SAME ? (layer->columns - 1) / 2 : 0;
    Graph *g = l->p->graph;
    return op_relu(g, op_conv2d_pads(g, x, w, b, layer->stride, pad_h, pad_w));
}

static const char map_block[] = "Mixed_6d.";     // its first result is kept for ADM's spatial features

static Tensor *record_block(Loader *l, Tensor *input, size_t number) {
    Graph *g = l->p->graph;
    Tensor *result[RESULTS_MAX] = { NULL }, *x = input, *mark = input;
    int n = 0;
    for (size_t i = 0; i < blocks[number].n; i++) {
        const Layer *layer = &blocks[number].layer[i];
        CHECK(n < RESULTS_MAX, "more than %d results in block %zu", n, number);
        switch (layer->kind) {
        case CONV: x = record_unit(l, x, blocks[number].name, layer, blocks[number].width); break;
        case POOL: x = op_pool(g, x, blocks[number].pool, 3, 1, 1); break;
        case SHRINK: x = op_pool(g, x, POOL_MAX, 3, 2, 0); break;
        case BRANCH: result[n++] = x; x = mark = input; break;
        case MARK: mark = x; break;
        case BACK: result[n++] = x; x = mark; break;
        }
    }
    if (strcmp(blocks[number].name, map_block) == 0) l->p->map = graph_output(g, result[0]);
    for (; n > 0; n--) x = op_concat_channel(g, result[n - 1], x);      // the last results are the narrow ones
    return x;
}

static void record(Loader *l) {
    Inception *p = l->p;
    int64_t shape[] = { p->batch, INCEPTION_SIDE, INCEPTION_SIDE, 3 };
    p->graph = graph_new(p->device, "inception", WEIGHTS_TRAIN);
    p->images = graph_input(p->graph, "images", DT_F32, 4, shape);
    Tensor *x = p->images;
    for (size_t i = 0; i < BLOCKS; i++) x = record_block(l, x, i);
    CHECK(p->n_weights == 2 * UNITS && x->shape[1] == 8 && x->shape[3] == INCEPTION_DIM, "%d units, then %s",
          p->n_weights / 2, tensor_str(x));
    int64_t matrix[] = { INCEPTION_CLASSES, INCEPTION_DIM };
    Tensor *last = keep(l, "fc.weight", 2, matrix);
    float *w = load(l, "fc.weight", 2, matrix), *bias = load(l, "fc.bias", 1, matrix);    // checked, not used
    if (l->ok) tensor_write_f32(last, w);
    free(w);
    free(bias);
    p->features = graph_output(p->graph, op_pool_all(p->graph, x));
    p->logits = graph_output(p->graph, op_linear(p->graph, p->features, last, NULL));
}

// All tensors of the file have been read, but for the counters that PyTorch keeps beside the normalisation.
static bool check_rest(Loader *l) {
    static const char counter[] = "num_batches_tracked";
    const char *other = "";
    int n = weight_file_count(l->file), left = n - l->used;
    for (int i = 0; i < n; i++) {
        const char *name = weight_file_get(l->file, i)->name;
        size_t length = strlen(name), tail = sizeof counter - 1;
        if (length >= tail && strcmp(name + length - tail, counter) == 0) left--;
        else if (strncmp(name, "AuxLogits", 9) == 0) other = " (it has an auxiliary classifier)";
    }
    return left == 0 || error_set(l->err, ERR_FILE, "%s: holds %d tensors that the FID's network does not have%s; give "
                                  "pt_inception-2015-12-05-6726825d.pth", l->file->path, left, other);
}

static Inception *start(Device *d, int batch) {
    Inception *p = xcalloc(1, sizeof *p);
    p->device = d;
    p->batch = batch;
    return p;
}

static Inception *finish(Inception *p) {
    p->arena = arena_new(p->device);
    graph_rewrite_forward(p->graph);
    graph_plan(p->graph, p->arena);
    arena_seal(p->arena);
    return p;
}

Inception *inception_new(Device *d, const WeightFile *file, int batch, Error *err) {
    Inception *p = start(d, batch);
    Loader l = { p, file, 0, true, err };
    record(&l);
    if (l.ok && check_rest(&l)) return finish(p);
    inception_free(p);
    return NULL;
}

Inception *inception_bare(Device *d, int batch) {
    Loader l = { .p = start(d, batch), .ok = false };
    record(&l);
    return finish(l.p);
}

const Graph *inception_graph(const Inception *p) { return p->graph; }

void inception_free(Inception *p) {
    if (!p) return;
    graph_free(p->graph);
    arena_free(p->arena);
    for (int i = 0; i < p->n_weights; i++) tensor_free(p->weight[i]);
    free(p);
}

void inception_run(Inception *p, const float *images, float *features, float *logits) {
    tensor_write_f32(p->images, images);
    graph_run(p->graph);
    tensor_read_f32(p->features, features);
    tensor_read_f32(p->logits, logits);
}

void inception_spatial(const Inception *p, float *out) {
    int64_t pixels = (int64_t)p->batch * INCEPTION_MAP * INCEPTION_MAP, channels = p->map->shape[3];
    float *map = xmalloc((size_t)(pixels * channels) * sizeof *map);
    tensor_read_f32(p->map, map);
    for (int64_t i = 0; i < pixels; i++)
        memcpy(out + i * INCEPTION_MAP_CHANNELS, map + i * channels, INCEPTION_MAP_CHANNELS * sizeof *out);
    free(map);
}
