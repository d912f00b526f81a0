// eval/report_samples.c - the report's pictures: samples of each class, and samples beside their nearest training images.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "eval/report_images.h"

enum { PICTURE_BYTES = 1 << 26 };

// One column of pictures: the first run of an arm that has samples, at the guidance of the arm's picked entry.
typedef struct { int arm; const Run *run; const Result *result; const char *folder; double omega;
                 const DatasetInfo *train; } Column;

static const RunSamples *samples_at(const Run *r, double omega) {
    for (int i = 0; i < r->n_samples; i++)
        if (r->samples[i].omega == omega) return &r->samples[i];
    return NULL;
}

static const Result *result_at(const Run *r, double omega) {
    for (int i = 0; i < r->n_results; i++)
        if (r->results[i]->omega == omega && r->results[i]->n_pairs) return r->results[i];
    return NULL;
}

// The arm's run whose samples at the picked guidance are at hand, else its first that has samples at all. pairs: only
// samples whose nearest training images are known.
static bool column_of(const Page *p, const Entry *pick, int arm, bool pairs, Column *out) {
    const Arm *a = &p->runs->arm[arm];
    for (int pass = pick ? 0 : 1; pass < 2; pass++)
        for (int i = 0; i < a->n; i++) {
            const Run *r = &p->runs->run[a->runs[i]];
            for (int k = 0; k < (pass ? r->n_samples : 1); k++) {
                const RunSamples *s = pass ? &r->samples[k] : samples_at(r, pick->omega);
                const Result *result = s ? result_at(r, s->omega) : NULL;
                if (!s || (pairs && !result)) continue;
                *out = (Column){ arm, r, result, s->path, s->omega, NULL };
                return true;
            }
        }
    return false;
}

static int columns_of(const Page *p, bool pairs, Column *column) {
    const Entry **pick = xcalloc((size_t)p->runs->n_arms + 1, sizeof *pick);
    int n_pick = p->entries->families ? page_picks(p, 0, pick) : 0, n = 0;
    for (int a = 0; a < p->runs->n_arms; a++) {
        const Entry *of_arm = NULL;
        for (int i = 0; i < n_pick; i++)
            if (pick[i]->arm == a) of_arm = pick[i];
        n += column_of(p, of_arm, a, pairs, &column[n]);
    }
    free(pick);
    return n;
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
    (void)p;
    samples_of_class(c->folder, label, room, out);
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
    Column *column = xcalloc((size_t)p->runs->n_arms + 1, sizeof *column);
    int n = columns_of(p, false, column);
    if (n) {
        page_note(p, "The first samples of each class by their numbers, not chosen; most frequent class first, with its "
                     "training images. The same place in two columns has the same noise.");
        strip_table(p, column, n, room[n < 4 ? n : 4], 1 << 20, fill_samples, "Samples");
    }
    put_previews(p);
    free(column);
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
    (void)p;
    const Result *r = c->result;
    for (int i = 0; r && c->train && i < r->n_pairs && out->n + 1 < room; i++) {
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

// Opens each training set once, however many columns were trained on it. Returns how many columns have theirs.
static int open_training_sets(Page *p, Column *column, int n, Dataset **set) {
    int found = 0;
    for (int i = 0; i < n; i++) {
        const char *digest = json_text(column[i].run->manifest, "data_sha256");
        for (int k = 0; k < i && digest && !column[i].train; k++)
            if (column[k].train && strcmp(column[k].train->digest, digest) == 0) column[i].train = column[k].train;
        char why[512];
        if (!column[i].train && !(set[i] = training_images(column[i].run, p->data, why))) {
            page_note(p, why);
            continue;
        }
        if (set[i]) column[i].train = dataset_info(set[i]);
        found++;
    }
    return found;
}

// The picture that `cbdm eval run` left beside the result, for readers without the data.
static bool put_sheets(Page *p) {
    bool any = false;
    for (int i = 0; i < p->entries->n; i++) {
        const Result *r = p->entries->entry[i].result[0];
        const char *sheet = json_text(json_get(r->json, "nearest"), "sheet"), *slash = strrchr(r->path, '/');
        if (!sheet || !*sheet || strchr(sheet, '/') || *sheet == '.') continue;          // a name, not a path
        char *path = xasprintf("%.*s%s", slash ? (int)(slash - r->path + 1) : 0, r->path, sheet);
        if (file_exists(path)) {
            text_add(&p->body, "%s<figure>", any ? "" : "<div class=\"grid\">\n");
            any = true;
            put_file(p, path, "Samples beside their nearest training images");
            text_add(&p->body, "<figcaption>");
            text_html(&p->body, p->entries->entry[i].label);
            text_add(&p->body, "</figcaption></figure>\n");
        }
        free(path);
    }
    if (any) text_add(&p->body, "</div>\n");
    return any;
}

void section_nearest(Page *p) {
    static const int room[] = { 0, 16, 8, 6, 4 };
    bool pairs = false;
    for (int i = 0; i < p->entries->n; i++) pairs |= p->entries->entry[i].result[0]->n_pairs > 0;
    if (!pairs) return;
    page_note(p, "Pairs: a sample, and right of it the training image nearest to it in the space of the features; per "
                 "class the samples that lie nearest. Copies show as pairs that are the same.");
    Column *column = xcalloc((size_t)p->runs->n_arms + 1, sizeof *column);
    int n = columns_of(p, true, column);
    Dataset **set = xcalloc((size_t)n + 1, sizeof *set);
    if (*p->data && n && open_training_sets(p, column, n, set))
        strip_table(p, column, n, room[n < 4 ? n : 4], 2, fill_pairs, "Samples and nearest training images");
    else if (!put_sheets(p))
        page_note(p, n ? "The training images are not at hand: name their data set with --data to see the pairs."
                       : "The samples are not at hand: name their folders with --samples to see the pairs.");
    for (int i = 0; i < n; i++) dataset_close(set[i]);
    free(set);
    free(column);
}
