// train/batches.c - `cbdm data batches`: the inputs of a run's steps as arrays, so that another program can train on
// the same images, labels, times and noise (tests/peer/train_twin.py does).
#include <stdlib.h>
#include <string.h>

#include "core/cli.h"
#include "core/file.h"
#include "train/batch.h"

typedef struct { const char *run, *output; int64_t from; int count; } BatchesConfig;
static const Flag flags[] = {
    { "run", "", "folder of the run, as `cbdm train` or `cbdm train --prepare` made it", FLAG_STR,
      offsetof(BatchesConfig, run), NULL, 0, 0 },
    { "from", "0", "first step; the run's first is 0", FLAG_I64, offsetof(BatchesConfig, from), NULL, 0, 4294967294.0 },
    { "count", "100", "steps", FLAG_INT, offsetof(BatchesConfig, count), NULL, 1, 100000 },
    { "output", "", "npz file to write", FLAG_STR, offsetof(BatchesConfig, output), NULL, 0, 0 },
};
enum { FLAGS = sizeof flags / sizeof *flags };
static const char usage[] = "cbdm data batches --run RUN --from STEP --count K --output FILE.npz";
static const char about[] =
    "What the steps of a run train on, K steps of N images of HxWxC, a function of its seed alone:\n"
    "  x0 (K,N,H,W,C) f4 in [-1,1], mirrored where the step mirrors; noise (K,N,H,W,C) f4;\n"
    "  t (K,N) i4; y (K,N) i4, -1: that label is dropped; y_balanced (K,N) i4, the second labels of cbdm;\n"
    "  dropped (K) u1: the step has no labels.";

// The small arrays of K steps, filled while the images are written.
typedef struct { int32_t *t, *y, *y_balanced, *sample; uint8_t *dropped; } Labels;

static void write_images(NpzWriter *z, Batcher *b, const BatchesConfig *c, int n, int64_t e, const NpyArray *a,
                         Labels *l) {
    float *x = xmalloc((size_t)(n * e) * sizeof *x);
    npz_begin(z, "x0", a);
    for (int k = 0; k < c->count; k++) {
        BatchRows rows = { .x0 = x, .t = l->t + (int64_t)k * n, .y = l->y + (int64_t)k * n,
                           .y_balanced = l->y_balanced + (int64_t)k * n, .sample = l->sample };
        batcher_fill(b, c->from + k, 0, n, &rows);
        l->dropped[k] = batcher_drops_labels(b, c->from + k);
        npz_rows(z, x, (size_t)(n * e) * sizeof *x);
    }
    npz_begin(z, "noise", a);
    for (int k = 0; k < c->count; k++) {
        batcher_noise(b, c->from + k, 0, n, x);
        npz_rows(z, x, (size_t)(n * e) * sizeof *x);
    }
    free(x);
}

static void write_labels(NpzWriter *z, const BatchesConfig *c, int n, const Labels *l) {
    const struct { const char *name; const int32_t *data; } part[] = {
        { "t", l->t }, { "y", l->y }, { "y_balanced", l->y_balanced } };
    NpyArray a = { .descr = "<i4", .ndim = 2, .shape = { c->count, n } };
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) {
        npz_begin(z, part[i].name, &a);
        npz_rows(z, part[i].data, (size_t)c->count * (size_t)n * sizeof *part[i].data);
    }
    a = (NpyArray){ .descr = "|u1", .ndim = 1, .shape = { c->count } };
    npz_begin(z, "dropped", &a);
    npz_rows(z, l->dropped, (size_t)c->count);
}

static bool write_batches(const BatchesConfig *c, const RunConfig *run, const DatasetInfo *d, Error *err) {
    int n = run->batch;
    size_t all = (size_t)c->count * (size_t)n;
    NpyArray a = { .descr = "<f4", .ndim = 5, .shape = { c->count, n, d->height, d->width, d->channels } };
    NpzWriter *z = npz_create(c->output, err);
    if (!z) return false;
    Labels l = { xmalloc(all * 4), xmalloc(all * 4), xmalloc(all * 4), xmalloc((size_t)n * 4),
                 xmalloc((size_t)c->count) };
    Batcher *b = batcher_new(run, d);
    write_images(z, b, c, n, (int64_t)d->height * d->width * d->channels, &a, &l);
    write_labels(z, c, n, &l);
    batcher_free(b);
    void *own[] = { l.t, l.y, l.y_balanced, l.sample, l.dropped };
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) free(own[i]);
    return npz_commit(z, err);
}

int batches_main(int argc, char **argv) {
    BatchesConfig c;
    RunConfig run;
    Error err = { 0 };
    cli_defaults(flags, FLAGS, &c);
    if (cli_wants_help(argc, argv)) {
        cli_help(flags, FLAGS, usage, about);
        return 0;
    }
    bool ok = cli_parse(flags, FLAGS, &c, argc - 1, argv + 1, NULL, NULL, NULL, &err);
    if (ok && (!*c.run || !*c.output)) ok = error_set(&err, ERR_USAGE, "usage: %s", usage);
    char resume[] = "--resume", *words[] = { resume, (char *)c.run };
    ok = ok && run_config_parse(&run, 2, words, &err);
    Dataset *d = ok ? run_config_data(&run, SPLIT_TRAIN, &err) : NULL;
    ok = d && run_config_resolve(&run, dataset_info(d), &err) && write_batches(&c, &run, dataset_info(d), &err);
    dataset_close(d);
    if (!ok) log_info("error: %s", err.msg);
    return ok ? 0 : err.code;
}
