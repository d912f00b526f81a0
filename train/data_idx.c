// train/data_idx.c - IDX files (MNIST and its relatives), gzipped or not.
//
// An IDX file: two zero bytes, a type (8: bytes), the number of dimensions, each dimension as a big-endian u32, data.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/file.h"
#include "train/data_formats.h"
#ifndef CBDM_NO_ZLIB
#include <zlib.h>
#endif

static const size_t idx_limit = (size_t)1 << 31;      // bytes of one file, expanded

// ---- gzip
#ifdef CBDM_NO_ZLIB
bool gzip_expand(const uint8_t *bytes, size_t n, size_t limit, const char *where, uint8_t **out, size_t *out_n,
                 Error *err) {
    (void)bytes, (void)n, (void)limit;
    *out = NULL;
    *out_n = 0;
    return error_set(err, ERR_USAGE, "%s: this build has no zlib: install zlib1g-dev and run cmake again, or expand "
                     "the file", where);
}

// Compressed content cannot be looked into: taken for IDX, whose reader then says what is missing.
bool idx_recognise(const uint8_t *head, size_t n) {
    return n >= 2 && ((head[0] == 0 && head[1] == 0) || (head[0] == 0x1f && head[1] == 0x8b));
}
#else
bool idx_recognise(const uint8_t *head, size_t n) {
    uint8_t out[4] = { 1 };
    if (n < 2 || head[0] != 0x1f || head[1] != 0x8b) return n >= 2 && head[0] == 0 && head[1] == 0;
    z_stream z = { .next_in = (Bytef *)(uintptr_t)head, .avail_in = (uInt)n, .next_out = out, .avail_out = sizeof out };
    if (inflateInit2(&z, 15 + 16) != Z_OK) return false;
    inflate(&z, Z_SYNC_FLUSH);
    inflateEnd(&z);
    return z.total_out >= 2 && out[0] == 0 && out[1] == 0;
}

// Inflates one member from z into *out, growing it. False: *err.
static bool expand_member(z_stream *z, size_t limit, const char *where, uint8_t **out, size_t *used, size_t *cap,
                          Error *err) {
    for (;;) {
        if (*used == *cap) {
            if (*cap >= limit) {
                return error_set(err, ERR_FILE,
                                 "%s: expands to more than %zu bytes, the limit; this is no file "
                                 "of a data set",
                                 where, limit);
            }
            *cap = *cap * 2 < limit ? *cap * 2 : limit;
            *out = xrealloc(*out, *cap);
        }
        size_t room = *cap - *used < 1u << 30 ? *cap - *used : 1u << 30;
        z->next_out = *out + *used;
        z->avail_out = (uInt)room;
        int status = inflate(z, Z_NO_FLUSH);
        *used += room - z->avail_out;
        if (status == Z_STREAM_END) return true;
        if (status == Z_BUF_ERROR || (status == Z_OK && z->avail_in == 0 && z->avail_out > 0)) {
            return error_set(err, ERR_FILE, "%s: the gzip data ends too early; the file is truncated: get it again",
                             where);
        }
        if (status != Z_OK) {
            return error_set(err, ERR_FILE, "%s: damaged gzip data (%s); get the file again", where,
                             z->msg ? z->msg : "no gzip member");
        }
    }
}

bool gzip_expand(const uint8_t *bytes, size_t n, size_t limit, const char *where, uint8_t **out, size_t *out_n,
                 Error *err) {
    *out = NULL;
    *out_n = 0;
    if (n > UINT32_MAX)
        return error_set(err, ERR_FILE, "%s: gzip files over 4 GB are not read; expand it first", where);
    z_stream z = { .next_in = (Bytef *)(uintptr_t)bytes, .avail_in = (uInt)n };
    CHECK(inflateInit2(&z, 15 + 16) == Z_OK, "zlib does not start");
    size_t cap = limit < 65536 ? limit : 65536;
    uint8_t *buffer = xmalloc(cap + 1);
    bool ok = true;
    // A gzip file may be several members in a row.
    do {
        ok = expand_member(&z, limit, where, &buffer, out_n, &cap, err);
        if (ok && z.avail_in > 0 && inflateReset(&z) != Z_OK) ok = error_set(err, ERR_FILE, "%s: zlib failed", where);
    } while (ok && z.avail_in > 0);
    inflateEnd(&z);
    if (ok) *out = buffer;
    else free(buffer);
    return ok;
}
#endif

// ---- parsing
bool idx_parse(const uint8_t *bytes, size_t n, const char *where, IdxArray *out, Error *err) {
    *out = (IdxArray){ .ndim = 0 };
    if (n < 4) return error_set(err, ERR_FILE, "%s: %zu bytes are too few for an IDX file; get it again", where, n);
    if (bytes[0] != 0 || bytes[1] != 0) {
        return error_set(err, ERR_FILE, "%s: not an IDX file (it must start with two zero bytes); check the path",
                         where);
    }
    if (bytes[2] != 8) {
        return error_set(err, ERR_FILE, "%s: IDX data of type 0x%02x at byte 2; only bytes (0x08) are read: convert it",
                         where, bytes[2]);
    }
    int ndim = bytes[3];
    if (ndim < 1 || ndim > 4) {
        return error_set(err, ERR_FILE, "%s: %d dimensions at byte 3; an IDX file of labels has 1, of images 3 or 4",
                         where, ndim);
    }
    size_t header = 4 + 4 * (size_t)ndim, want = 1;
    if (n < header) {
        return error_set(err, ERR_FILE, "%s: ends inside its header of %zu bytes; get the file again", where, header);
    }
    for (int i = 0; i < ndim; i++) {
        const uint8_t *b = bytes + 4 + 4 * i;
        out->shape[i] = (int64_t)b[0] << 24 | (int64_t)b[1] << 16 | (int64_t)b[2] << 8 | (int64_t)b[3];
        if (!mul_size(want, (size_t)out->shape[i], &want)) {
            return error_set(err, ERR_FILE, "%s: impossible dimensions in the IDX header; get the file again", where);
        }
    }
    if (n - header != want) {
        return error_set(err, ERR_FILE,
                         "%s: its IDX header promises %zu bytes of data, but %zu follow; get the file again", where,
                         want, n - header);
    }
    out->ndim = ndim;
    out->data = bytes + header;
    return true;
}

// ---- files
typedef struct { char *path; uint8_t *bytes; IdxArray a; } IdxFile;

static void idx_release(IdxFile *f) {
    free(f->path);
    free(f->bytes);
}

static bool idx_load(IdxFile *f, Error *err) {
    size_t n;
    if (!file_read(f->path, idx_limit, &f->bytes, &n, err)) return false;
    if (n >= 2 && f->bytes[0] == 0x1f && f->bytes[1] == 0x8b) {
        uint8_t *plain;
        size_t plain_n;
        if (!gzip_expand(f->bytes, n, idx_limit, f->path, &plain, &plain_n, err)) return false;
        free(f->bytes);
        f->bytes = plain;
        n = plain_n;
    }
    return idx_parse(f->bytes, n, f->path, &f->a, err);
}

// The usual names: train-images-idx3-ubyte, also with a dot before idx, with or without .gz. NULL if there is none.
static char *find_in_folder(const char *folder, const char *stem, int ndim) {
    for (int i = 0; i < 4; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s%cidx%d-ubyte%s", stem, i < 2 ? '-' : '.', ndim, i % 2 ? ".gz" : "");
        char *path = path_join(folder, name);
        if (path_is_file(path)) return path;
        free(path);
    }
    return NULL;
}

bool idx_in_folder(const char *path) {
    char *train = find_in_folder(path, "train-images", 3), *test = find_in_folder(path, "t10k-images", 3);
    bool found = train || test;
    free(train);
    free(test);
    return found;
}

// The path with the last occurrence of `from` in its file name replaced; NULL if it has none. Caller frees.
static char *renamed(const char *path, const char *from, const char *to) {
    const char *slash = strrchr(path, '/'), *at = NULL;
    for (const char *p = strstr(slash ? slash : path, from); p; p = strstr(p + 1, from)) at = p;
    return at ? xasprintf("%.*s%s%s", (int)(at - path), path, to, at + strlen(from)) : NULL;
}

static bool locate_in_folder(const char *folder, Split split, IdxFile *images, IdxFile *labels, Error *err) {
    const char *set = split == SPLIT_TRAIN ? "train" : "t10k";
    char stem[32];
    snprintf(stem, sizeof stem, "%s-images", set);
    images->path = find_in_folder(folder, stem, 3);
    snprintf(stem, sizeof stem, "%s-labels", set);
    labels->path = find_in_folder(folder, stem, 1);
    if (images->path && labels->path) return true;
    return error_set(err, ERR_FILE, "%s: lacks %s-%s-ubyte (or .gz); put it beside the other IDX files", folder, set,
                     images->path ? "labels-idx1" : "images-idx3");
}

// path names the images of the training split; the test split and the labels lie beside it.
static bool locate_file(const char *path, Split split, IdxFile *images, IdxFile *labels, Error *err) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash : path;
    if (!strstr(name, "images") && strstr(name, "labels")) {
        return error_set(err, ERR_FILE, "%s: these are labels; give the images file beside it", path);
    }
    images->path = xstrdup(path);
    if (split == SPLIT_TEST) {
        char *t10k = renamed(path, "train", "t10k"), *test = renamed(path, "train", "test");
        free(images->path);
        bool has_t10k = t10k && path_is_file(t10k);
        images->path = has_t10k ? t10k : test;
        free(has_t10k ? test : t10k);
        if (!images->path || !path_is_file(images->path)) {
            return error_set(err, ERR_FILE,
                             "%s: no test images lie beside it; give a folder with the four IDX files (the "
                             "test set is t10k-images-idx3-ubyte)",
                             path);
        }
    }
    char *beside = renamed(images->path, "images", "labels");
    char *idx1 = beside ? renamed(beside, "idx3", "idx1") : NULL;
    labels->path = idx1 && path_is_file(idx1) ? idx1 : beside;
    if (labels->path == beside) free(idx1);
    else free(beside);
    if (labels->path && path_is_file(labels->path)) return true;
    return error_set(err, ERR_FILE,
                     "%s: its labels are not beside it%s%s; an images file named ...images... needs one named "
                     "...labels...",
                     images->path, labels->path ? ", looked for " : "", labels->path ? labels->path : "");
}

// ---- sets that are recognised by their digest
typedef struct { const char *digest[2], *note, *names[10]; } Known;
static const Known known[] = {
    { { "86e32e2c627549f8aadad75429cb6cc1605a108ddfb29d3d480eb3d5209b3360",
        "16b9b7062e51519b8a432c593f214b2a2720980d7584e21b4211b50953d5142f" }, "Fashion-MNIST, by its digest",
      { "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot" } },
};

static void recognise(Dataset *d) {
    for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
        bool same = strcmp(d->info.digest, known[k].digest[0]) == 0 || strcmp(d->info.digest, known[k].digest[1]) == 0;
        if (!same) continue;
        for (int c = 0; c < 10; c++) dataset_name_class(d, c, known[k].names[c]);
        d->info.note = known[k].note;
    }
}

static Dataset *combine(const char *source, const IdxFile *images, const IdxFile *labels, Error *err) {
    const IdxArray *x = &images->a, *y = &labels->a;
    if (x->ndim < 3 || y->ndim != 1) {
        error_set(err, ERR_FILE, "%s: has %d dimensions; %s", x->ndim < 3 ? images->path : labels->path,
                  x->ndim < 3 ? x->ndim : y->ndim, x->ndim < 3 ? "images need 3 (n, height, width) or 4 (and channels)"
                  : "labels need 1");
        return NULL;
    }
    if (x->shape[0] != y->shape[0]) {
        error_set(err, ERR_FILE, "%s: %lld images, but %s has %lld labels; they do not belong together", images->path,
                  (long long)x->shape[0], labels->path, (long long)y->shape[0]);
        return NULL;
    }
    for (int i = 1; i < x->ndim; i++) {
        if (x->shape[i] < 1 || x->shape[i] > DATA_MAX_SIDE) {
            error_set(err, ERR_FILE, "%s: images with a side of %lld; sides from 1 to %d are read", images->path,
                      (long long)x->shape[i], DATA_MAX_SIDE);
            return NULL;
        }
    }
    int classes = 0;
    for (int64_t i = 0; i < y->shape[0]; i++) classes = y->data[i] >= classes ? y->data[i] + 1 : classes;
    Dataset *d = dataset_new("IDX", source, classes > 0 ? classes : 1, x->ndim == 4 ? (int)x->shape[3] : 1,
                             (int)x->shape[1], (int)x->shape[2], x->shape[0], err);
    if (!d) return NULL;
    memcpy(d->images, x->data, (size_t)(x->shape[0] * x->shape[1] * x->shape[2]) * (size_t)d->info.channels);
    for (int64_t i = 0; i < y->shape[0]; i++) d->labels[i] = y->data[i];
    dataset_finish(d);
    recognise(d);
    return d;
}

Dataset *idx_open(const char *path, Split split, Error *err) {
    IdxFile images = { 0 }, labels = { 0 };
    bool ok = path_is_folder(path) ? locate_in_folder(path, split, &images, &labels, err)
                                   : locate_file(path, split, &images, &labels, err);
    Dataset *d = NULL;
    if (ok && idx_load(&images, err) && idx_load(&labels, err)) d = combine(path, &images, &labels, err);
    idx_release(&images);
    idx_release(&labels);
    return d;
}
