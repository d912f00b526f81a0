// eval/report_images.c - images of samples and training sets for the page, and the names of the classes.
#include "eval/report_images.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/path.h"

enum { CLASSES_MAX = 10000, MANIFEST_BYTES = 1 << 28 };

// ---- classes
static int compare_classes(const void *a, const void *b, void *list) {
    int x = *(const int *)a, y = *(const int *)b;
    const double *count = ((ClassList *)list)->count;
    if (count[x] != count[y] && !isnan(count[x]) && !isnan(count[y])) return count[x] > count[y] ? -1 : 1;
    return x - y;
}

static void class_list_grow(ClassList *c, int n) {
    if (n <= c->n) return;
    c->name = xrealloc(c->name, (size_t)n * sizeof *c->name);
    c->count = xrealloc(c->count, (size_t)n * sizeof *c->count);
    c->order = xrealloc(c->order, (size_t)n * sizeof *c->order);
    for (; c->n < n; c->n++) {
        c->name[c->n] = xasprintf("%d", c->n);
        c->count[c->n] = NAN;
        c->order[c->n] = c->n;
    }
}

static void set_name(ClassList *c, int label, const char *name) {
    if (!*name) return;
    free((void *)c->name[label]);
    c->name[label] = xstrdup(name);
}

static void names_of_manifest(ClassList *c, const char *folder) {
    char *path = path_join(folder, "manifest.jsonl");
    uint8_t *bytes;
    size_t n;
    Error why;
    bool ok = file_read(path, MANIFEST_BYTES, &bytes, &n, &why);
    free(path);
    if (!ok) return;
    const char *at = (const char *)bytes, *text;
    for (size_t length; text_line(&at, (const char *)bytes + n, &text, &length);) {
        Json *line = json_parse(text, length, "line", &why);
        double label = json_double(line, "label");
        const char *name = json_text(line, "class");
        if (label >= 0 && label < CLASSES_MAX && label == floor(label)) {
            class_list_grow(c, (int)label + 1);
            if (name) set_name(c, (int)label, name);
        }
        json_free(line);
    }
    free(bytes);
}

ClassList class_list_of(const RunSet *s) {
    ClassList c = { 0 };
    for (int i = 0; i < s->n && !c.n; i++)
        for (int k = 0; k < s->run[i].n_results && !c.n; k++) {
            const Result *r = s->run[i].results[k];
            class_list_grow(&c, r->classes);
            for (int j = 0; j < r->classes; j++) {
                set_name(&c, j, r->class_names[j]);
                c.count[j] = r->train_counts ? r->train_counts[j] : (double)NAN;
            }
        }
    for (int i = 0; i < s->n && !c.n; i++)
        if (s->run[i].n_samples) names_of_manifest(&c, s->run[i].samples[0].path);
    for (int i = 0; i < s->n && !c.n; i++)
        for (int k = 0; k < PROBE_COUNT; k++)
            if (s->run[i].probe[k].classes <= CLASSES_MAX) class_list_grow(&c, s->run[i].probe[k].classes);
    qsort_r(c.order, (size_t)c.n, sizeof *c.order, compare_classes, &c);
    return c;
}

void class_list_free(ClassList *c) {
    for (int i = 0; i < c->n; i++) free((void *)c->name[i]);
    free(c->name);
    free(c->count);
    free(c->order);
    *c = (ClassList){ 0 };
}

// ---- rows of images
void image_row_add(ImageRow *r, uint8_t *rgb, int w, int h) {
    if (!rgb || (r->n && (w != r->w || h != r->h))) {
        free(rgb);
        return;
    }
    r->rgb = xrealloc(r->rgb, (size_t)(r->n + 1) * sizeof *r->rgb);
    r->rgb[r->n++] = rgb;
    r->w = w;
    r->h = h;
}

void image_row_free(ImageRow *r) {
    for (int i = 0; i < r->n; i++) free(r->rgb[i]);
    free(r->rgb);
    *r = (ImageRow){ 0 };
}

static bool is_grey(const uint8_t *rgb, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (rgb[3 * i] != rgb[3 * i + 1] || rgb[3 * i] != rgb[3 * i + 2]) return false;
    return true;
}

void image_row_put(Page *p, const ImageRow *r, int group, const char *alt) {
    enum { GAP = 1, WIDE = 6, TONE = 0x90, SMALL = 40 };
    if (!r->n) return;
    int width = r->n * (r->w + GAP) - GAP + (r->n - 1) / group * (WIDE - GAP);
    size_t stride = (size_t)width * 3, pixels = (size_t)width * (size_t)r->h;
    uint8_t *sheet = xmalloc(pixels * 3);
    memset(sheet, TONE, pixels * 3);
    for (int i = 0; i < r->n; i++) {
        size_t left = (size_t)(i * (r->w + GAP) + i / group * (WIDE - GAP));
        for (int y = 0; y < r->h; y++)
            memcpy(sheet + (size_t)y * stride + 3 * left, r->rgb[i] + (size_t)(y * r->w) * 3, (size_t)r->w * 3);
    }
    bool grey = is_grey(sheet, pixels);
    for (size_t i = 0; grey && i < pixels; i++) sheet[i] = sheet[3 * i];
    page_image(p, sheet, width, r->h, grey ? 1 : 3, r->w <= SMALL ? 2 : 1, alt);
    free(sheet);
}

// ---- samples
static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static char *class_folder(const char *folder, int label) {
    return label < 0 ? xasprintf("%s/none", folder) : xasprintf("%s/%03d", folder, label);
}

void samples_of_class(const char *folder, int label, int count, ImageRow *out) {
    enum { NAMES_MAX = 100000 };
    char *dir = class_folder(folder, label), **names = NULL;
    DIR *d = opendir(dir);
    int n = 0;
    for (struct dirent *e; d && n < NAMES_MAX && (e = readdir(d));) {
        size_t length = strlen(e->d_name);
        if (length < 5 || strcmp(e->d_name + length - 4, ".png") != 0) continue;
        if ((n & (n - 1)) == 0) names = xrealloc(names, (size_t)(n ? 2 * n : 1) * sizeof *names);
        names[n++] = xstrdup(e->d_name);
    }
    if (d) closedir(d);
    if (n) qsort(names, (size_t)n, sizeof *names, compare_names);
    for (int i = 0; i < n; i++) {
        char *path = xasprintf("%s/%s", dir, names[i]);
        uint8_t *rgb = NULL;
        int w, h;
        Error why;
        if (i < count && png_read(path, 3, &rgb, &w, &h, &why)) image_row_add(out, rgb, w, h);
        free(path);
        free(names[i]);
    }
    free(names);
    free(dir);
}

// Sides follow from the number of rows and columns; a cell that is black all over is empty.
void sheet_of_class(const char *path, int classes, int label, int count, ImageRow *out) {
    enum { COLUMNS = 16, GAP = 2, ROWS = 128 };
    int rows = classes < ROWS ? classes : ROWS, w, h;
    uint8_t *sheet;
    Error why;
    if (label >= rows || !png_read(path, 3, &sheet, &w, &h, &why)) return;
    int cell_h = (h - GAP) / rows, cell_w = (w - GAP) / COLUMNS, side_h = cell_h - GAP, side_w = cell_w - GAP;
    bool fits = side_h > 0 && side_w > 0 && h == rows * cell_h + GAP && w == COLUMNS * cell_w + GAP;
    for (int i = 0; fits && i < COLUMNS && out->n < count; i++) {
        uint8_t *rgb = xmalloc((size_t)side_h * (size_t)side_w * 3), any = 0;
        for (int y = 0; y < side_h; y++) {
            size_t at = (size_t)(label * cell_h + GAP + y) * (size_t)w + (size_t)(i * cell_w + GAP);
            memcpy(rgb + (size_t)(y * side_w) * 3, sheet + 3 * at, (size_t)side_w * 3);
        }
        for (int k = 0; k < side_h * side_w * 3; k++) any |= rgb[k];
        if (any) image_row_add(out, rgb, side_w, side_h);
        else free(rgb);
    }
    free(sheet);
}

uint8_t *sample_image(const char *folder, int label, int64_t number, int *w, int *h) {
    char *dir = class_folder(folder, label), *path = xasprintf("%s/%06lld.png", dir, (long long)number);
    uint8_t *rgb = NULL;
    Error why;
    if (!file_exists(path) || !png_read(path, 3, &rgb, w, h, &why)) rgb = NULL;
    free(dir);
    free(path);
    return rgb;
}

// ---- training images
static Dataset *cut_subset(Dataset *d, const Json *config, Error *err) {
    double factor = json_double(config, "imb-factor"), seed = json_double(config, "lt-seed");
    const char *type = json_text(config, "imb-type");
    int kind = 0;
    for (int i = 0; type && imb_type_names[i]; i++)
        if (strcmp(type, imb_type_names[i]) == 0) kind = i;
    bool known = type && isfinite(factor) && seed >= 0 && seed < 4294967296.0;
    return known ? dataset_subset(d, (ImbType)kind, factor, (uint32_t)seed, err) : d;
}

Dataset *training_images(const Run *r, const char *data, char *why) {
    Error err = { 0 };
    const char *index = json_text(r->config, "lt-index"), *digest = json_text(r->manifest, "data_sha256");
    double size = json_double(r->config, "image-size");
    snprintf(why, 512, "%.200s does not say what it was trained on", r->name);
    if (!r->config || !digest) return NULL;
    snprintf(why, 512, "%.200s was trained on a subset of an index file, which is not looked for", r->name);
    if (index && *index) return NULL;
    Dataset *d = dataset_open(data, SPLIT_TRAIN, &err);
    if (d) d = cut_subset(d, r->config, &err);
    if (d && size >= 1 && size <= 4096) d = dataset_pad(d, (int)size, &err);
    if (!d) {
        snprintf(why, 512, "%s", err.msg);
        return NULL;
    }
    if (strcmp(dataset_info(d)->digest, digest) == 0) return d;
    snprintf(why, 512, "%.200s does not hold the images that %.100s was trained on (their digests differ)", data,
             r->name);
    dataset_close(d);
    return NULL;
}
