// eval/samples.c - arrays of images as samplers write them, and the choice of how a path is read.
#include "eval/samples.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/file.h"
#include "core/path.h"
#include "core/zip.h"

// ---- labels
// (n) whole numbers of any stored integer type; where names the array.
static bool take_labels(const NpyArray *a, int64_t n, const char *where, int32_t **out, Error *err) {
    bool wide = strcmp(a->descr, "<i8") == 0, narrow = strcmp(a->descr, "<i4") == 0;
    if (a->ndim != 1 || (!wide && !narrow && strcmp(a->descr, "|u1") != 0))
        return error_set(err, ERR_FILE, "%s: labels are one row of whole numbers, not %d dimensions of %s", where,
                         a->ndim, a->descr);
    if (a->shape[0] != n)
        return error_set(err, ERR_FILE, "%s: %lld labels for %lld images", where, (long long)a->shape[0], (long long)n);
    int32_t *label = xmalloc((size_t)n * sizeof *label);
    for (int64_t i = 0; i < n; i++) {
        int64_t v = 0;
        int32_t v4;
        if (wide) memcpy(&v, (const char *)a->data + 8 * i, 8);
        else if (narrow) memcpy(&v4, (const char *)a->data + 4 * i, 4), v = v4;
        else v = ((const uint8_t *)a->data)[i];
        if (v < -1 || v > INT32_MAX) {
            free(label);
            return error_set(err, ERR_FILE, "%s: label %lld of image %lld is no class", where, (long long)v,
                             (long long)i);
        }
        label[i] = (int32_t)v;
    }
    *out = label;
    return true;
}

static bool read_labels(const char *path, int64_t n, int32_t **out, Error *err) {
    uint8_t *bytes;
    NpyArray a;
    if (!npy_read(path, &bytes, &a, err)) return false;
    bool ok = take_labels(&a, n, path, out, err);
    free(bytes);
    return ok;
}

// The labels' file beside the published code's samples: the last "_samples_" of the name becomes "_labels_".
static char *published_labels(const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *at = strstr(name, "_samples_");
    char *labels = at ? xasprintf("%.*s_labels_%s", (int)(at - path), path, at + strlen("_samples_")) : NULL;
    if (labels && file_exists(labels)) return labels;
    free(labels);
    return NULL;
}

// ---- pixels
// bytes, in which a->data lies, are taken over where they can be used as they are.
static bool take_bytes(const NpyArray *a, uint8_t *bytes, const char *where, Samples *out, Error *err) {
    ImageSet *s = &out->images;
    *s = (ImageSet){ .n = a->shape[0], .height = (int)a->shape[1], .width = (int)a->shape[2],
                     .channels = (int)a->shape[3] };
    if (s->channels != 1 && s->channels != 3)
        return error_set(err, ERR_FILE, "%s: bytes of %lld x %lld x %lld x %lld; images are (number, height, width, 1 "
                         "or 3)", where, (long long)a->shape[0], (long long)a->shape[1], (long long)a->shape[2],
                         (long long)a->shape[3]);
    memmove(bytes, a->data, (size_t)s->n * image_size(s));
    out->pixels = bytes;
    s->u8 = bytes;
    return true;
}

// (N,C,H,W) in [0,1] to (N,H,W,C) in [-1,1], image by image in the same memory: the data begin behind a header, so that
// what is written never overtakes what is read.
static bool take_floats(const NpyArray *a, uint8_t *bytes, const char *where, Samples *out, Error *err) {
    ImageSet *s = &out->images;
    *s = (ImageSet){ .n = a->shape[0], .height = (int)a->shape[2], .width = (int)a->shape[3],
                     .channels = (int)a->shape[1] };
    if (s->channels != 1 && s->channels != 3)
        return error_set(err, ERR_FILE, "%s: floats of %lld x %lld x %lld x %lld; images are (number, 1 or 3, height, "
                         "width)", where, (long long)a->shape[0], (long long)a->shape[1], (long long)a->shape[2],
                         (long long)a->shape[3]);
    size_t e = image_size(s), hw = (size_t)s->height * (size_t)s->width, c = (size_t)s->channels;
    float *row = xmalloc(e * sizeof *row), *to = (float *)(void *)bytes;
    bool ok = true;
    for (int64_t i = 0; i < s->n && ok; i++) {
        memcpy(row, (const char *)a->data + (size_t)i * e * sizeof *row, e * sizeof *row);
        for (size_t k = 0; k < c && ok; k++)
            for (size_t p = 0; p < hw && ok; p++) {
                float v = row[k * hw + p];
                to[(size_t)i * e + p * c + k] = 2 * v - 1;
                if (!(v >= 0 && v <= 1))
                    ok = error_set(err, ERR_FILE, "%s: image %lld holds the value %g; floats are from 0 to 1, as the "
                                   "published code writes them", where, (long long)i, (double)v);
            }
    }
    free(row);
    out->pixels = bytes;
    s->f32 = to;
    return ok;
}

static bool take_pixels(const NpyArray *a, uint8_t *bytes, const char *where, Samples *out, Error *err) {
    bool u8 = strcmp(a->descr, "|u1") == 0, f4 = strcmp(a->descr, "<f4") == 0, ok = a->ndim == 4 && (u8 || f4);
    for (int k = 1; k < a->ndim && ok; k++) ok = a->shape[k] <= 4096;
    if (!ok)
        error_set(err, ERR_FILE, "%s: %d dimensions of %s; images are bytes (N,H,W,C) or floats (N,C,H,W) of at most "
                  "4096 x 4096", where, a->ndim, a->descr);
    else if (a->shape[0] < 1 || a->shape[1] < 1 || a->shape[2] < 1 || a->shape[3] < 1)
        ok = error_set(err, ERR_FILE, "%s holds no images", where);
    else ok = u8 ? take_bytes(a, bytes, where, out, err) : take_floats(a, bytes, where, out, err);
    if (!out->pixels) free(bytes);
    return ok;
}

static bool has_labels(const uint8_t *bytes, size_t n, const char *path) {
    Zip z;
    Error ignored;
    if (!zip_open(&z, bytes, n, path, &ignored)) return false;
    bool has = zip_find(&z, "arr_1.npy") != NULL;
    zip_close(&z);
    return has;
}

static bool read_npz(const char *path, Samples *out, Error *err) {
    uint8_t *bytes, *member;
    size_t n;
    NpyArray a;
    if (!file_read(path, SIZE_MAX - 1, &bytes, &n, err)) return false;
    bool ok = npz_parse(bytes, n, path, "arr_0", &member, &a, err) && take_pixels(&a, member, path, out, err);
    if (ok && has_labels(bytes, n, path)) {
        ok = npz_parse(bytes, n, path, "arr_1", &member, &a, err);
        if (ok) {
            ok = take_labels(&a, out->images.n, path, &out->label, err);
            free(member);
        }
    }
    free(bytes);
    return ok;
}

bool samples_read_array(const char *path, const char *labels, Samples *out, Error *err) {
    bool ok;
    char *beside = NULL;
    if (text_ends_with(path, ".npz")) {
        ok = read_npz(path, out, err);
    } else {
        uint8_t *bytes;
        NpyArray a;
        ok = npy_read(path, &bytes, &a, err) && take_pixels(&a, bytes, path, out, err);
        if (ok && !*labels && (beside = published_labels(path))) labels = beside;
    }
    if (ok && *labels) {
        free(out->label);
        out->label = NULL;
        ok = read_labels(labels, out->images.n, &out->label, err);
    }
    if (ok)
        out->understood = xasprintf("%s, %s%s%s%s%s", path, out->images.u8 ? "8 bits" : "floats",
                                    out->label ? ", labels " : ", no labels", out->label ? "of " : "",
                                    !out->label ? "" : *labels ? labels : "arr_1", beside ? " beside it" : "");
    free(beside);
    return ok;
}

// ---- any of them
// Labels of classes that there are; a set of which no image has one has none.
static bool check_labels(Samples *s, const DatasetInfo *d, Error *err) {
    int64_t labelled = 0;
    for (int64_t i = 0; s->label && i < s->images.n; i++) {
        labelled += s->label[i] >= 0;
        if (s->label[i] >= d->classes)
            return error_set(err, ERR_FILE, "%s: image %lld is of class %d, and %s has the classes 0 to %d: name the "
                             "data that the samples were trained on with --data", s->origin.source,
                             (long long)s->number[i],
                             (int)s->label[i], d->source, d->classes - 1);
    }
    s->images.label = labelled ? s->label : NULL;
    return true;
}

static bool check_size(const Samples *s, const DatasetInfo *d, Error *err) {
    const ImageSet *i = &s->images;
    bool padded = i->height == i->width && i->height >= d->height && i->width >= d->width;
    if (i->channels == d->channels && ((i->height == d->height && i->width == d->width) || padded)) return true;
    return error_set(err, ERR_USAGE, "%s holds images of %d x %d x %d, %s of %d x %d x %d: name the data that the "
                     "samples were trained on with --data", s->origin.source, i->height, i->width, i->channels,
                     d->source,
                     d->height, d->width, d->channels);
}

// Colour images without a colour, as ADM's format has grey ones, of data without colours.
static void drop_colour(Samples *s, const DatasetInfo *d) {
    ImageSet *i = &s->images;
    size_t pixels = (size_t)i->n * (size_t)i->height * (size_t)i->width;
    uint8_t *rgb = s->pixels;
    if (!i->u8 || i->channels != 3 || d->channels != 1) return;
    for (size_t p = 0; p < pixels; p++)
        if (rgb[3 * p] != rgb[3 * p + 1] || rgb[3 * p] != rgb[3 * p + 2]) return;
    for (size_t p = 0; p < pixels; p++) rgb[p] = rgb[3 * p];
    i->channels = 1;
}

bool samples_read(const char *path, const char *labels, const DatasetInfo *d, Samples *out, Error *err) {
    struct stat st;
    *out = (Samples){ .origin = { .source = xstrdup(path), .step = -1, .seed = -1, .omega = NAN } };
    bool ok;
    if (stat(path, &st) != 0)
        ok = error_set(err, ERR_FILE, "%s: %s; name a folder of `cbdm sample`, an .npz or an .npy", path,
                       strerror(errno));
    else if (S_ISDIR(st.st_mode) && *labels)
        ok = error_set(err, ERR_USAGE, "%s is a folder and says itself which labels its images have: leave out "
                       "--gen-labels", path);
    else if (S_ISDIR(st.st_mode)) ok = samples_read_folder(path, d, out, err);
    else if (text_ends_with(path, ".npz") || text_ends_with(path, ".npy"))
        ok = samples_read_array(path, labels, out, err);
    else ok = error_set(err, ERR_USAGE, "%s: samples are a folder, an .npz or an .npy", path);
    if (ok && !out->number) {
        out->number = xmalloc((size_t)out->images.n * sizeof *out->number);
        for (int64_t i = 0; i < out->images.n; i++) out->number[i] = i;
    }
    if (ok) drop_colour(out, d);
    ok = ok && check_size(out, d, err) && check_labels(out, d, err);
    if (!ok) samples_free(out);
    else out->images.name = out->origin.source;
    return ok;
}

void samples_free(Samples *s) {
    free(s->number);
    free(s->understood);
    free(s->pixels);
    free(s->label);
    free(s->origin.source);
    free(s->origin.checkpoint);
    free(s->origin.sha256);
    free(s->origin.sampler);
    free(s->origin.class_counts);
    *s = (Samples){ 0 };
}

bool samples_count(const Samples *s, const DatasetInfo *d, int64_t least, int64_t *counts, Error *err) {
    memset(counts, 0, (size_t)d->classes * sizeof *counts);
    for (int64_t i = 0; i < s->images.n; i++) {
        if (!s->images.label || s->images.label[i] < 0)
            return error_set(err, ERR_USAGE, "%s: image %lld has no label, and what is asked per class needs them: "
                             "give --gen-labels FILE.npy", s->origin.source, (long long)s->number[i]);
        counts[s->images.label[i]]++;
    }
    for (int c = 0; c < d->classes; c++)
        if (counts[c] < least)
            return error_set(err, ERR_USAGE, "%s holds %lld images of class %d (%s); at least %lld of each are "
                             "needed: draw more, or judge all together with --no-per-class --questions none",
                             s->origin.source, (long long)counts[c], c, d->class_names[c], (long long)least);
    return true;
}
