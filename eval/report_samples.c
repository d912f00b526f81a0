// eval/report_samples.c - the report's pictures: samples of each class, and samples beside their nearest training
// images.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "eval/report_images.h"

enum { PICTURE_BYTES = 1 << 26 };

// One column of pictures: of an arm, one of its runs, at one guidance. They come from a folder of samples or from the
// picture that `cbdm eval run` left beside a result.
typedef struct {
    int                arm;
    const Run         *run;
    const Result      *result;        // of these samples, or NULL
    const char        *folder;        // NULL: there is a sheet
    char              *sheet;
    double             omega;
    const DatasetInfo *train;         // NULL: not at hand
} Column;
typedef enum { OF_SAMPLES, OF_PAIRS } Pictures;

static void columns_free(Column *column, int n) {
    for (int i = 0; i < n; i++) free(column[i].sheet);
    free(column);
}

static const RunSamples *samples_at(const Run *r, double omega) {
    for (int i = 0; i < r->n_samples; i++)
        if (r->samples[i].omega == omega) return &r->samples[i];
    return NULL;
}

static const Result *result_with_pairs(const Run *r, double omega) {
    for (int i = 0; i < r->n_results; i++)
        if (r->results[i]->omega == omega && r->results[i]->n_pairs) return r->results[i];
    return NULL;
}

// The picture that a result names, if it is there: a name in the result's own folder, never a path. Caller frees.
static char *sheet_of(const Result *r, Pictures what) {
    const char *name = json_text(json_get(r->json, what == OF_PAIRS ? "nearest" : "generated"), "sheet");
    const char *slash = strrchr(r->path, '/');
    if (!name || !*name || strchr(name, '/') || *name == '.') return NULL;
    char *path = xasprintf("%.*s%s", slash ? (int)(slash - r->path + 1) : 0, r->path, name);
    if (file_exists(path)) return path;
    free(path);
    return NULL;
}

static bool use_folder(const Run *r, const RunSamples *s, Pictures what, Column *out) {
    const Result *result = s ? result_with_pairs(r, s->omega) : NULL;
    if (!s || (what == OF_PAIRS && !result)) return false;
    *out = (Column){ r->arm, r, result, s->path, NULL, s->omega, NULL };
    return true;
}

// A folder at the picked guidance, a picture beside the picked results, any folder: the first that is there. Pairs from
// a folder need the training images too (data).
static bool column_of(const Page *p, const Entry *pick, int arm, Pictures what, Column *out) {
    const Arm *a = &p->runs->arm[arm];
    bool folders = what == OF_SAMPLES || *p->data;
    for (int i = 0; pick && folders && i < a->n; i++) {
        const Run *r = &p->runs->run[a->runs[i]];
        if (use_folder(r, samples_at(r, pick->omega), what, out)) return true;
    }
    for (int k = 0; pick && k < pick->n; k++) {
        char *sheet = sheet_of(pick->result[k], what);
        if (!sheet) continue;
        *out = (Column){ arm, pick->run[k], pick->result[k], NULL, sheet, pick->omega, NULL };
        return true;
    }
    for (int i = 0; folders && i < a->n; i++) {
        const Run *r = &p->runs->run[a->runs[i]];
        for (int k = 0; k < r->n_samples; k++)
            if (use_folder(r, &r->samples[k], what, out)) return true;
    }
    return false;
}

static Column *columns_of(const Page *p, Pictures what, int *n) {
    const Entry **pick = xcalloc((size_t)p->runs->n_arms + 1, sizeof *pick);
    Column *column = xcalloc((size_t)p->runs->n_arms + 1, sizeof *column);
    int n_pick = p->entries->families ? page_picks(p, 0, pick) : 0;
    *n = 0;
    for (int a = 0; a < p->runs->n_arms; a++) {
        const Entry *of_arm = NULL;
        for (int i = 0; i < n_pick; i++)
            if (pick[i]->arm == a) of_arm = pick[i];
        *n += column_of(p, of_arm, a, what, &column[*n]);
    }
    free(pick);
    return column;
}

// ---- a table of strips: a row for each class, a column for each arm
typedef void StripFill(const Page *p, const Column *c, int label, int room, ImageRow *out);

static void strip_head(Page *p, const Column *column, int n) {
    text_add(&p->body, "<table class=\"strips\"><thead><tr><th class=\"name\"></th>");
    for (int i = 0; i < n; i++) {
        text_add(&p->body, "<th class=\"arm\">");
        text_html(&p->body, column[i].run->name);
        if (isfinite(column[i].omega)) text_add(&p->body, ", \xcf\x89=%g", column[i].omega);
        text_add(&p->body, "</th>");
    }
    text_add(&p->body, "</tr></thead><tbody>\n");
}

static void strip_row(Page *p, const Column *column, int n, int label, int room, int group, StripFill *fill,
                      const char *what) {
    ImageRow *rows = xcalloc((size_t)n, sizeof *rows);
    bool any = false;
    for (int i = 0; i < n; i++) {
        fill(p, &column[i], label, room, &rows[i]);
        any |= rows[i].n > 0;
    }
    if (any) {
        text_add(&p->body, "<tr><th class=\"name\">");
        text_html(&p->body, label < 0 ? "" : p->classes.name[label]);
        if (label >= 0 && isfinite(p->classes.count[label]))
            text_add(&p->body, "<br><span class=\"note\">%.0f</span>", p->classes.count[label]);
        text_add(&p->body, "</th>");
        for (int i = 0; i < n; i++) {
            char *alt = xasprintf("%s of %s, class %s", what, column[i].run->name,
                                  label < 0 ? "none" : p->classes.name[label]);
            text_add(&p->body, "<td>");
            image_row_put(p, &rows[i], group, alt);
            text_add(&p->body, "</td>");
            free(alt);
        }
        text_add(&p->body, "</tr>\n");
    }
    for (int i = 0; i < n; i++) image_row_free(&rows[i]);
    free(rows);
}

static void strip_table(Page *p, const Column *column, int n, int room, int group, StripFill *fill, const char *what) {
    strip_head(p, column, n);
    for (int i = 0; i < p->classes.n; i++)
        strip_row(p, column, n, p->classes.order[i], room, group, fill, what);
    if (!p->classes.n) strip_row(p, column, n, -1, room, group, fill, what);
    text_add(&p->body, "</tbody></table>\n");
}

// ---- samples
static void fill_samples(const Page *p, const Column *c, int label, int room, ImageRow *out) {
    if (c->folder) samples_of_class(c->folder, label, room, out);
    else sheet_of_class(c->sheet, p->classes.n, label, room, out);
}

static void put_file(Page *p, const char *path, const char *alt) {
    uint8_t *bytes, *pixels;
    size_t n;
    int w, h;
    Error why;
    if (!file_read(path, PICTURE_BYTES, &bytes, &n, &why)) return;
    if (png_parse(bytes, n, path, 3, &pixels, &w, &h, &why)) {
        page_image(p, pixels, w, h, 3, w <= 320 ? 2 : 1, alt);
        free(pixels);
    }
    free(bytes);
}

// Runs without samples of their own: the last preview of training.
static void put_previews(Page *p) {
    bool open = false;
    for (int i = 0; i < p->runs->n; i++) {
        const Run *r = &p->runs->run[i];
        if (r->n_samples || !r->preview) continue;
        if (!open) text_add(&p->body, "<h3>Previews of training</h3><div class=\"grid\">\n");
        open = true;
        text_add(&p->body, "<figure>");
        put_file(p, r->preview, r->name);
        text_add(&p->body, "<figcaption>");
        text_html(&p->body, r->name);
        text_add(&p->body, "</figcaption></figure>\n");
    }
    if (open) text_add(&p->body, "</div>\n");
}

void section_samples(Page *p) {
    static const int room[] = { 0, 16, 8, 6, 4 };
    int n;
    Column *column = columns_of(p, OF_SAMPLES, &n);
    if (n) {
        page_note(p, "The first samples of each class by their numbers, not chosen; most frequent class first, with "
                     "its training images. The same place in two columns has the same noise.");
        strip_table(p, column, n, room[n < 4 ? n : 4], 1 << 20, fill_samples, "Samples");
    }
    put_previews(p);
    columns_free(column, n);
}

// ---- nearest training images
static uint8_t *training_image(const DatasetInfo *d, int64_t i) {
    if (i >= d->count || (d->channels != 1 && d->channels != 3)) return NULL;
    size_t n = (size_t)d->height * (size_t)d->width;
    uint8_t *rgb = xmalloc(3 * n);
    const uint8_t *from = d->images + (size_t)i * n * (size_t)d->channels;
    for (size_t k = 0; k < 3 * n; k++) rgb[k] = d->channels == 3 ? from[k] : from[k / 3];
    return rgb;
}

static void fill_pairs(const Page *p, const Column *c, int label, int room, ImageRow *out) {
    const Result *r = c->result;
    if (c->sheet) sheet_of_class(c->sheet, p->classes.n, label, room, out);
    for (int i = 0; r && c->folder && c->train && i < r->n_pairs && out->n + 1 < room; i++) {
        if (r->pairs[i].label != label) continue;
        int w, h;
        uint8_t *sample = sample_image(c->folder, label, r->pairs[i].sample, &w, &h);
        bool same = sample && w == c->train->width && h == c->train->height;
        uint8_t *near = same ? training_image(c->train, r->pairs[i].train) : NULL;
        if (near) {
            image_row_add(out, sample, w, h);
            image_row_add(out, near, w, h);
        } else {
            free(sample);
        }
    }
}

// Opens each training set once, however many columns were trained on it.
static void open_training_sets(Page *p, Column *column, int n, Dataset **set) {
    for (int i = 0; i < n; i++) {
        const char *digest = json_text(column[i].run->manifest, "data_sha256");
        for (int k = 0; k < i && digest && !column[i].train; k++)
            if (column[k].train && strcmp(column[k].train->digest, digest) == 0) column[i].train = column[k].train;
        char why[512];
        if (column[i].sheet || column[i].train) continue;
        set[i] = training_images(column[i].run, p->data, why);
        if (set[i]) column[i].train = dataset_info(set[i]);
        else page_note(p, why);
    }
}

void section_nearest(Page *p) {
    static const int room[] = { 0, 16, 8, 6, 4 };
    bool pairs = false, shown = false;
    for (int i = 0; i < p->entries->n; i++) pairs |= p->entries->entry[i].result[0]->n_pairs > 0;
    if (!pairs) return;
    page_note(p, "Pairs: a sample, and right of it the training image nearest to it in the space of the features; per "
                 "class the samples that lie nearest. Copies show as pairs that are the same.");
    int n;
    Column *column = columns_of(p, OF_PAIRS, &n);
    Dataset **set = xcalloc((size_t)n + 1, sizeof *set);
    open_training_sets(p, column, n, set);
    for (int i = 0; i < n; i++) shown |= column[i].sheet || column[i].train;
    if (shown) strip_table(p, column, n, room[n < 4 ? n : 4], 2, fill_pairs, "Samples and nearest training images");
    else if (!*p->data) page_note(p, "The training images are not at hand: name their data set with --data.");
    else if (!n) page_note(p, "The samples are not at hand: name their folders with --samples.");
    for (int i = 0; i < n; i++) dataset_close(set[i]);
    free(set);
    columns_free(column, n);
}
