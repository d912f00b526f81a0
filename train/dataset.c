// train/dataset.c - the set itself: opening by what a path holds, padding, picking, the digest.
#include "train/dataset.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "core/file.h"
#include "train/data_formats.h"

// ---- building
Dataset *dataset_new(const char *kind, const char *source, int classes, int channels, int height, int width,
                     int64_t count, Error *err) {
    size_t bytes = 0;
    bool sides = height >= 1 && height <= DATA_MAX_SIDE && width >= 1 && width <= DATA_MAX_SIDE;
    if (!sides || classes < 1 || classes > DATA_MAX_CLASSES || (channels != 1 && channels != 3)) {
        error_set(err, ERR_FILE,
                  "%s: images of %d x %d with %d channels in %d classes cannot be used (sides 1 to %d, 1 or 3 "
                  "channels, 1 to %d classes)",
                  source, height, width, channels, classes, DATA_MAX_SIDE, DATA_MAX_CLASSES);
        return NULL;
    }
    if (count < 1 || !mul_size((size_t)count, (size_t)height * (size_t)width * (size_t)channels, &bytes) ||
        count > INT64_MAX / 16) {
        error_set(err, ERR_FILE, "%s: holds %lld images; at least one is needed and they must fit in memory", source,
                  (long long)count);
        return NULL;
    }
    Dataset *d = xcalloc(1, sizeof *d);
    d->images = xcalloc(1, bytes);
    d->labels = xcalloc((size_t)count, sizeof *d->labels);
    d->per_class = xcalloc((size_t)classes, sizeof *d->per_class);
    d->ordinal = xcalloc((size_t)count, sizeof *d->ordinal);
    d->names = xcalloc((size_t)classes, sizeof *d->names);
    for (int c = 0; c < classes; c++) d->names[c] = xasprintf("%d", c);
    d->source = xstrdup(source);
    d->info = (DatasetInfo){ .classes = classes, .channels = channels, .height = height, .width = width, .count = count,
                             .images = d->images, .labels = d->labels, .per_class = d->per_class,
                             .class_names = (const char *const *)d->names, .kind = kind, .source = d->source };
    return d;
}

void dataset_name_class(Dataset *d, int c, const char *name) {
    free(d->names[c]);
    d->names[c] = xstrdup(name);
}

static size_t image_bytes(const Dataset *d) {
    return (size_t)d->info.height * (size_t)d->info.width * (size_t)d->info.channels;
}

// SHA-256 of a line of the dimensions and the digests of labels (int32, little endian) and pixels, each on its line.
static void compute_digest(Dataset *d) {
    DatasetInfo *z = &d->info;
    char labels[65], pixels[65], text[256];
    sha256(d->labels, (size_t)z->count * sizeof *d->labels, labels);
    sha256(d->images, (size_t)z->count * image_bytes(d), pixels);
    int n = snprintf(text, sizeof text, "%d classes, %lld images of %d x %d x %d\n%s\n%s\n", z->classes,
                     (long long)z->count, z->height, z->width, z->channels, labels, pixels);
    CHECK(n > 0 && (size_t)n < sizeof text, "digest text of %d bytes", n);
    sha256(text, (size_t)n, z->digest);
}

static void count_classes(Dataset *d) {
    memset(d->per_class, 0, (size_t)d->info.classes * sizeof *d->per_class);
    for (int64_t i = 0; i < d->info.count; i++) {
        int32_t y = d->labels[i];
        CHECK(y >= 0 && y < d->info.classes, "label %d of image %lld in %d classes", (int)y, (long long)i,
              d->info.classes);
        d->per_class[y]++;
    }
}

Dataset *dataset_finish(Dataset *d) {
    int64_t *seen = xcalloc((size_t)d->info.classes, sizeof *seen);
    count_classes(d);
    for (int64_t i = 0; i < d->info.count; i++) d->ordinal[i] = seen[d->labels[i]]++;
    free(seen);
    compute_digest(d);
    return d;
}

// A set like d (kind, note, names) of other dimensions, without images.
static Dataset *sibling(const Dataset *d, int height, int width, int64_t count, Error *err) {
    const DatasetInfo *z = &d->info;
    Dataset *to = dataset_new(z->kind, z->source, z->classes, z->channels, height, width, count, err);
    if (!to) return NULL;
    to->info.note = z->note;
    for (int c = 0; c < z->classes; c++) dataset_name_class(to, c, d->names[c]);
    return to;
}

Dataset *dataset_pick(Dataset *d, const int64_t *pick, int64_t n, Error *err) {
    Dataset *to = sibling(d, d->info.height, d->info.width, n, err);
    if (to) {
        size_t bytes = image_bytes(d);
        for (int64_t i = 0; i < n; i++) {
            CHECK(pick[i] >= 0 && pick[i] < d->info.count, "image %lld of %lld", (long long)pick[i],
                  (long long)d->info.count);
            memcpy(to->images + (size_t)i * bytes, d->images + (size_t)pick[i] * bytes, bytes);
            to->labels[i] = d->labels[pick[i]];
            to->ordinal[i] = d->ordinal[pick[i]];
        }
        count_classes(to);
        compute_digest(to);
    }
    dataset_close(d);
    return to;
}

Dataset *dataset_pad(Dataset *d, int size, Error *err) {
    const DatasetInfo *z = &d->info;
    if (size == 0 || (size == z->height && size == z->width)) return d;
    int least = z->height > z->width ? z->height : z->width;
    if (size < least || size > DATA_MAX_SIDE) {
        error_set(err, ERR_USAGE,
                  "%s: images are %d x %d and cannot be padded to %d; give a size from %d to %d, or 0 to "
                  "keep them as they are",
                  z->source, z->height, z->width, size, least, DATA_MAX_SIDE);
        dataset_close(d);
        return NULL;
    }
    Dataset *to = sibling(d, size, size, z->count, err);
    if (to) {
        int top = (size - z->height) / 2, left = (size - z->width) / 2;
        size_t row = (size_t)z->width * (size_t)z->channels, to_row = (size_t)size * (size_t)z->channels;
        for (int64_t i = 0; i < z->count; i++) {
            const uint8_t *from = d->images + (size_t)i * image_bytes(d);
            uint8_t *at = to->images + (size_t)i * image_bytes(to) + (size_t)top * to_row +
                          (size_t)left * (size_t)z->channels;
            for (int y = 0; y < z->height; y++) memcpy(at + (size_t)y * to_row, from + (size_t)y * row, row);
        }
        memcpy(to->labels, d->labels, (size_t)z->count * sizeof *d->labels);
        memcpy(to->ordinal, d->ordinal, (size_t)z->count * sizeof *d->ordinal);
        count_classes(to);
        compute_digest(to);
    }
    dataset_close(d);
    return to;
}

void dataset_close(Dataset *d) {
    if (!d) return;
    for (int c = 0; c < d->info.classes; c++) free(d->names[c]);
    free(d->names);
    free(d->images);
    free(d->labels);
    free(d->per_class);
    free(d->ordinal);
    free(d->source);
    free(d);
}

const DatasetInfo *dataset_info(const Dataset *d) { return &d->info; }

// ---- opening
static Dataset *open_folder(const char *path, Split split, Error *err) {
    if (idx_in_folder(path)) return idx_open(path, split, err);
    if (cifar_in_folder(path)) return cifar_open(path, split, err);
    return folder_open(path, split, err);
}

static Dataset *open_file(const char *path, Split split, Error *err) {
    uint8_t head[4096];
    FILE *f = fopen(path, "rb");
    if (!f) {
        error_set(err, ERR_FILE, "%s: %s; check the path and its permissions", path, strerror(errno));
        return NULL;
    }
    size_t n = fread(head, 1, sizeof head, f);
    fclose(f);
    if (idx_recognise(head, n)) return idx_open(path, split, err);
    bool packed = (n > 2 && head[0] == 0x1f && head[1] == 0x8b) || (n > 3 && memcmp(head, "BZh", 3) == 0) ||
                  (n > 6 && memcmp(head, "\xfd" "7zXZ", 6) == 0);
    if (packed || (n > 262 && memcmp(head + 257, "ustar", 5) == 0)) return cifar_open(path, split, err);
    error_set(err, ERR_FILE,
              "%s: no known kind of data; give an IDX images file (MNIST), a CIFAR .tar.gz, or a folder of "
              "IDX files, of CIFAR files or of one folder of PNGs per class",
              path);
    return NULL;
}

Dataset *dataset_open(const char *path, Split split, Error *err) {
    if (!path || !*path) {
        error_set(err, ERR_USAGE, "no data named; give --data PATH, or --data builtin for procedural shapes");
        return NULL;
    }
    if (strcmp(path, "builtin") == 0) return builtin_open(split, err);
    if (path_is_folder(path)) return open_folder(path, split, err);
    if (path_is_file(path)) return open_file(path, split, err);
    struct stat st;
    if (stat(path, &st) == 0) {
        error_set(err, ERR_FILE, "%s: neither a file nor a folder; give the path of a data set", path);
    } else if (errno != ENOENT && errno != ENOTDIR) {
        error_set(err, ERR_FILE, "%s: %s; check the path and its permissions", path, strerror(errno));
    } else if (!cifar_explain_missing(path, err)) {
        error_set(err, ERR_FILE,
                  "%s: no such file or folder; check the path, or use --data builtin, which needs no file%s", path,
                  strcasestr(path, "mnist") ? " (Fashion-MNIST: Debian package dataset-fashion-mnist, then --data "
                                              "/usr/share/datasets/fashion-mnist)"
                                            : "");
    }
    return NULL;
}
