// train/data_folder.c - a folder of one folder of PNGs per class, or train/ and test/ with such folders below.
//
// Class = rank of its folder's name in byte order; images of a class in byte order of their names. All images must have
// one size. The set is RGB if any image has colour, else grey. Headers are read first: sizes are checked and memory is
// known before anything is decoded.
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/file.h"
#include "train/data_formats.h"

enum { MAX_ENTRIES = 10000000, PNG_HEAD = 26, MAX_PNG_BYTES = 1 << 28 };

// ---- lists of names
typedef struct { char **name; size_t n, cap; } Names;

static void names_add(Names *l, char *name) {
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 64;
        l->name = xrealloc(l->name, l->cap * sizeof *l->name);
    }
    l->name[l->n++] = name;
}

static void names_free(Names *l) {
    for (size_t i = 0; i < l->n; i++) free(l->name[i]);
    free(l->name);
    *l = (Names){ 0 };
}

static int by_bytes(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_png(const char *name) {
    size_t n = strlen(name);
    return n > 4 && strcasecmp(name + n - 4, ".png") == 0;
}

// Sorted names of the folders (folders: true) or PNGs in a folder; dot files never count. *others, if not NULL, counts
// what else lies there and *other is the path of the first such entry of all (caller frees).
static bool list_folder(const char *path, bool folders, Names *out, size_t *others, char **other, Error *err) {
    DIR *dir = opendir(path);
    if (!dir) return error_set(err, ERR_FILE, "%s: %s; check the folder and its permissions", path, strerror(errno));
    bool ok = true;
    for (struct dirent *e; ok && (e = readdir(dir));) {
        if (e->d_name[0] == '.') continue;
        char *full = path_join(path, e->d_name);
        bool wanted = folders ? path_is_folder(full) : is_png(e->d_name) && path_is_file(full);
        if (wanted) names_add(out, xstrdup(e->d_name));
        else if (others && (*others)++ == 0) *other = xstrdup(full);
        free(full);
        if (out->n > MAX_ENTRIES) ok = error_set(err, ERR_FILE, "%s: more than %d entries", path, MAX_ENTRIES);
    }
    closedir(dir);
    if (out->n) qsort(out->name, out->n, sizeof *out->name, by_bytes);
    return ok;
}

// ---- the images of a split
typedef struct {
    Names  paths;
    int   *label;
    size_t cap, others;        // others: entries of class folders that are no PNGs
    char  *other;              // the first of them
    int    width, height;
    bool   colour;
} Images;

static void images_free(Images *x) {
    names_free(&x->paths);
    free(x->other);
    free(x->label);
}

// Size and colour from the first bytes of a PNG: signature, IHDR length and name, width, height, depth, colour type.
static bool read_head(Images *x, const char *path, Error *err) {
    static const uint8_t start[16] = { 0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n', 0, 0, 0, 13, 'I', 'H', 'D', 'R' };
    uint8_t b[PNG_HEAD];
    FILE *f = fopen(path, "rb");
    if (!f) return error_set(err, ERR_FILE, "%s: %s; check its permissions", path, strerror(errno));
    size_t n = fread(b, 1, sizeof b, f);
    fclose(f);
    if (n < sizeof b || memcmp(b, start, sizeof start) != 0) {
        return error_set(err, ERR_FILE, "%s: not a PNG or cut off; mend or remove it", path);
    }
    uint32_t side[2];
    for (int i = 0; i < 2; i++) {
        const uint8_t *s = b + 16 + 4 * i;
        side[i] = (uint32_t)s[0] << 24 | (uint32_t)s[1] << 16 | (uint32_t)s[2] << 8 | (uint32_t)s[3];
        if (side[i] < 1 || side[i] > DATA_MAX_SIDE) {
            return error_set(err, ERR_FILE, "%s: a side of %u pixels; images from 1 to %d are read: shrink it", path,
                             side[i], DATA_MAX_SIDE);
        }
    }
    if (x->width == 0) {
        x->width = (int)side[0];
        x->height = (int)side[1];
    } else if ((int)side[0] != x->width || (int)side[1] != x->height) {
        return error_set(err, ERR_FILE,
                         "%s: %u x %u pixels, but %s has %d x %d; all images must have one size: resize "
                         "or remove it",
                         path, side[0], side[1], x->paths.name[0], x->width, x->height);
    }
    x->colour = x->colour || (b[25] != 0 && b[25] != 4);         // 0: grey, 4: grey with alpha
    return true;
}

static bool collect_class(Images *x, const char *folder, int label, Error *err) {
    Names names = { 0 };
    bool ok = list_folder(folder, false, &names, &x->others, &x->other, err);
    for (size_t i = 0; ok && i < names.n; i++) {
        names_add(&x->paths, path_join(folder, names.name[i]));
        if (x->paths.n > x->cap) {
            x->cap = x->paths.cap;
            x->label = xrealloc(x->label, x->cap * sizeof *x->label);
        }
        x->label[x->paths.n - 1] = label;
        ok = read_head(x, x->paths.name[x->paths.n - 1], err);
    }
    names_free(&names);
    return ok;
}

static bool collect(Images *x, const char *root, const Names *classes, Error *err) {
    for (size_t c = 0; c < classes->n; c++) {
        char *folder = path_join(root, classes->name[c]);
        bool ok = !path_is_folder(folder) || collect_class(x, folder, (int)c, err);
        free(folder);
        if (!ok) return false;
    }
    return x->paths.n > 0 || error_set(err, ERR_FILE,
                                       "%s: no PNG in any of its %zu folders; each class needs a folder of "
                                       ".png files (convert others first)",
                                       root, classes->n);
}

static bool decode(Dataset *d, const Images *x, Error *err) {
    size_t bytes = (size_t)x->width * (size_t)x->height * (size_t)d->info.channels;
    for (size_t i = 0; i < x->paths.n; i++) {
        uint8_t *file, *pixels;
        size_t n;
        int w, h;
        if (!file_read(x->paths.name[i], MAX_PNG_BYTES, &file, &n, err)) return false;
        bool ok = png_parse(file, n, x->paths.name[i], d->info.channels, &pixels, &w, &h, err);
        free(file);
        if (!ok) return false;
        ok = w == x->width && h == x->height;
        if (ok) memcpy(d->images + i * bytes, pixels, bytes);
        free(pixels);
        if (!ok) return error_set(err, ERR_FILE, "%s: changed while it was read; start again", x->paths.name[i]);
        d->labels[i] = (int32_t)x->label[i];
    }
    return true;
}

// ---- the split's root and the classes, which a test set shares with its training set
static char *split_root(const char *path, Split split, const char **train_name, Error *err) {
    static const char *const names[2][3] = { { "train", NULL }, { "test", "val", NULL } };
    char *train = path_join(path, "train");
    bool has_train = path_is_folder(train);
    free(train);
    *train_name = has_train ? "train" : NULL;
    if (!has_train && split == SPLIT_TRAIN) return xstrdup(path);
    for (int i = 0; has_train && names[split][i]; i++) {
        char *root = path_join(path, names[split][i]);
        if (path_is_folder(root)) return root;
        free(root);
    }
    error_set(err, ERR_FILE, "%s: has no test split; put the class folders below train/ and test/ in it", path);
    return NULL;
}

static bool list_classes(const char *path, const char *train_name, const char *root, Names *classes, Error *err) {
    char *train = train_name ? path_join(path, train_name) : xstrdup(path);
    bool ok = list_folder(train, true, classes, NULL, NULL, err);
    if (ok && classes->n == 0) {
        ok = error_set(err, ERR_FILE,
                       "%s: no known kind of data; a data folder holds IDX files, CIFAR batches, or one folder "
                       "of PNGs per class",
                       train);
    }
    if (ok && classes->n > DATA_MAX_CLASSES) {
        ok = error_set(err, ERR_FILE, "%s: %zu class folders; up to %d are read", train, classes->n, DATA_MAX_CLASSES);
    }
    // A class that only the test set has would shift or lack its number.
    Names here = { 0 };
    ok = ok && list_folder(root, true, &here, NULL, NULL, err);
    for (size_t i = 0; ok && i < here.n; i++) {
        if (bsearch(&here.name[i], classes->name, classes->n, sizeof *classes->name, by_bytes)) continue;
        ok = error_set(err, ERR_FILE, "%s/%s: a class that %s does not have; make an empty folder there or remove it",
                       root, here.name[i], train);
    }
    names_free(&here);
    free(train);
    return ok;
}

Dataset *folder_open(const char *path, Split split, Error *err) {
    const char *train_name;
    char *root = split_root(path, split, &train_name, err);
    if (!root) return NULL;
    Names classes = { 0 };
    Images x = { .width = 0 };
    Dataset *d = NULL;
    if (list_classes(path, train_name, root, &classes, err) && collect(&x, root, &classes, err)) {
        d = dataset_new("folder", path, (int)classes.n, x.colour ? 3 : 1, x.height, x.width, (int64_t)x.paths.n, err);
        for (size_t c = 0; d && c < classes.n; c++) dataset_name_class(d, (int)c, classes.name[c]);
        if (d && x.others) {
            log_warn("%s: %zu entries that are no .png are left out, such as %s", root, x.others, x.other);
        }
        if (d && decode(d, &x, err)) {
            dataset_finish(d);
        } else {
            dataset_close(d);
            d = NULL;
        }
    }
    images_free(&x);
    names_free(&classes);
    free(root);
    return d;
}
