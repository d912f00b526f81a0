// eval/run_result.c - what `cbdm eval run` leaves behind: the result file and the pictures beside it.
#include <stdlib.h>
#include <string.h>

#include "eval/run_impl.h"
#include "sample/sampler.h"

const char *run_protocol(const Run *r) {
    bool bytes = r->samples.images.u8 && !protocol_quantises((Protocol)r->c.protocol);
    return bytes ? "cbdm,uint8" : protocol_names[r->c.protocol];
}

// The last part of a path, without slashes at its end. *n: its length.
static const char *base_name(const char *path, int *n) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/') begin--;
    *n = (int)(end - begin);
    return path + begin;
}

// The classifier takes images as large as they are: of a protocol it keeps the rounding, and the title says so.
char *run_title(const Run *r) {
    bool inception = strncmp(r->extractor->name, "inception", strlen("inception")) == 0;
    int n;
    const char *data = base_name(r->c.data, &n);
    return xasprintf("fid[%s%s%s,n=%lld,ref=%.*s.%s]", run_protocol(r), inception ? "" : ",not resized,features=",
                     inception ? "" : r->extractor->name, (long long)r->samples.images.n, n, data,
                     split_names[r->c.split]);
}

// ---- pictures
enum { SHEET_COLUMNS = 16, SHEET_ROWS = 128, SHEET_SIDE = 16384, SHEET_GAP = 2 };

static size_t image_size(const ImageSet *s) { return (size_t)s->height * (size_t)s->width * (size_t)s->channels; }

static uint8_t *image_bytes(const ImageSet *s, int64_t i) {
    size_t e = image_size(s);
    uint8_t *out = xmalloc(e);
    if (s->u8) memcpy(out, s->u8 + (size_t)i * e, e);
    else images_to_u8(s->f32 + (size_t)i * e, (int64_t)e, out);
    return out;
}

static int sheet_rows(const Run *r) {
    int fit = (SHEET_SIDE - SHEET_GAP) / (r->samples.images.height + SHEET_GAP);
    int most = fit < SHEET_ROWS ? fit : SHEET_ROWS;
    return r->table.classes < most ? r->table.classes : most;
}

static int sheet_columns(const Run *r) {
    int fit = (SHEET_SIDE - SHEET_GAP) / (r->samples.images.width + SHEET_GAP);
    return fit < SHEET_COLUMNS ? fit : SHEET_COLUMNS;
}

// STEM-WHAT.png beside the result file STEM.json: its name alone, which the result holds; caller frees.
static bool write_sheet(const Run *r, const char *what, uint8_t **images, char **name, Error *err) {
    const ImageSet *s = &r->samples.images;
    size_t n = strlen(r->c.json);
    int stem = (int)(n > 5 && strcmp(r->c.json + n - 5, ".json") == 0 ? n - 5 : n);
    char *path = xasprintf("%.*s-%s.png", stem, r->c.json, what);
    bool ok = png_write_grid(path, (const uint8_t *const *)images, sheet_rows(r), sheet_columns(r), s->width, s->height,
                             s->channels, err);
    int length;
    const char *base = base_name(path, &length);
    if (ok) *name = xasprintf("%.*s", length, base);
    free(path);
    return ok;
}

static void free_images(uint8_t **images, int n) {
    for (int i = 0; i < n; i++) free(images[i]);
    free(images);
}

// A row for each class: its first samples.
static bool write_samples(Run *r, Error *err) {
    int rows = sheet_rows(r), columns = sheet_columns(r);
    uint8_t **images = xcalloc((size_t)(rows * columns), sizeof *images);
    int *used = xcalloc((size_t)rows, sizeof *used);
    const ImageSet *s = &r->samples.images;
    for (int64_t i = 0; i < s->n; i++) {
        int32_t c = s->label ? s->label[i] : (int32_t)(i % rows);
        if (c >= 0 && c < rows && used[c] < columns) images[c * columns + used[c]++] = image_bytes(s, i);
    }
    bool ok = write_sheet(r, "samples", images, &r->gen_sheet, err);
    free_images(images, rows * columns);
    free(used);
    return ok;
}

// A row for each class: pairs of a sample and the training image nearest to it, the nearest pair first.
static bool write_nearest(Run *r, Error *err) {
    int rows = sheet_rows(r), columns = sheet_columns(r) / 2 * 2;
    uint8_t **images = xcalloc((size_t)(rows * sheet_columns(r)), sizeof *images);
    int *used = xcalloc((size_t)rows, sizeof *used);
    ImageSet lt = run_images(r->lt);
    for (int i = 0; i < r->nearest.n_pairs; i++) {
        const NearPair *p = &r->nearest.pairs[i];
        if (p->label >= rows || used[p->label] >= columns) continue;
        uint8_t **at = images + p->label * sheet_columns(r) + used[p->label];
        at[0] = image_bytes(&r->samples.images, p->gen);
        at[1] = image_bytes(&lt, p->train);
        used[p->label] += 2;
    }
    bool ok = write_sheet(r, "nearest", images, &r->nearest_sheet, err);
    r->answers.nearest_sheet = r->nearest_sheet;
    free_images(images, rows * sheet_columns(r));
    free(used);
    return ok;
}

// ---- the result file
static void add_generated(const Run *r, JsonText *j) {
    const SampleOrigin *o = &r->samples.origin;
    jtext_open(j, "generated", '{');
    jtext_string(j, "source", o->source);
    jtext_whole(j, "count", r->samples.images.n);
    jtext_string(j, "checkpoint", o->checkpoint);
    jtext_string(j, "checkpoint_sha256", o->sha256);
    if (o->step >= 0) jtext_whole(j, "step", o->step);
    jtext_number(j, "omega", o->omega);
    jtext_string(j, "sampler", o->sampler);
    if (o->steps > 0) jtext_whole(j, "steps", o->steps);
    if (o->seed >= 0) jtext_whole(j, "seed", o->seed);
    jtext_string(j, "sheet", r->gen_sheet);
    jtext_close(j, '}');
}

static void add_reference(const Run *r, JsonText *j) {
    const DatasetInfo *d = dataset_info(run_reference(r));
    jtext_open(j, "reference", '{');
    jtext_string(j, "source", d->source);
    jtext_string(j, "split", split_names[r->c.split]);
    jtext_whole(j, "count", d->count);
    jtext_string(j, "digest", d->digest);
    jtext_close(j, '}');
}

static char *result_text(const Run *r, const char *settings) {
    JsonText j = { 0 };
    char *title = run_title(r), *metrics = metrics_json(&r->metrics, &r->c.metrics);
    char *groups = groups_json(r->c.groups, r->group_of, r->table.classes);
    jtext_open(&j, NULL, '{');
    jtext_string(&j, "format", "cbdm-eval-1");
    jtext_string(&j, "protocol", run_protocol(r));
    jtext_string(&j, "title", title);
    jtext_open(&j, "extractor", '{');
    jtext_string(&j, "name", r->extractor->name);
    jtext_string(&j, "sha256", r->extractor->hash);
    jtext_close(&j, '}');
    add_generated(r, &j);
    add_reference(r, &j);
    jtext_open(&j, "class_names", '[');
    for (int c = 0; c < r->table.classes; c++) jtext_string(&j, NULL, r->table.names[c]);
    jtext_close(&j, ']');
    jtext_wholes(&j, "train_counts", r->table.train_counts, r->table.classes);
    jtext_value(&j, "groups", groups);
    jtext_value(&j, "settings", settings);
    jtext_members(&j, metrics);
    answers_json(&r->answers, &r->table, &j);
    jtext_close(&j, '}');
    free(title);
    free(metrics);
    free(groups);
    return jtext_finish(&j);
}

bool run_save_features(const Run *r, Error *err) {
    if (!*r->c.save_features) return true;
    const char *const keys[] = { "protocol", "extractor", "weights_sha256", "source" };
    const char *const values[] = { run_protocol(r), r->extractor->name, r->extractor->hash, r->samples.origin.source };
    if (!features_write(r->c.save_features, &r->gen, keys, values, 4, err)) return false;
    log_info("%s: features of %lld samples", r->c.save_features, (long long)r->gen.n);
    return true;
}

bool run_write(Run *r, const char *settings, Error *err) {
    if (!*r->c.json) return true;
    if (!r->gen_sheet && !write_samples(r, err)) return false;
    if (r->answers.nearest && !r->nearest_sheet && !write_nearest(r, err)) return false;
    char *text = result_text(r, settings);
    bool ok = file_write_text(r->c.json, text, err);
    free(text);
    return ok;
}
