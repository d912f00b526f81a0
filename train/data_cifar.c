// train/data_cifar.c - CIFAR-10 and CIFAR-100, binary and python versions, from a folder or straight from the archive.
//
// Binary record: label (CIFAR-100: coarse label, fine label), then the planes R, G, B of 32 x 32 bytes. Python: a
// pickled dict with "data", an array (n,3072) of the same planes, and "labels" or "fine_labels". Training order: batch
// 1 to 5.
// Nothing is extracted: archives are streamed, and only members with the known names are kept, in memory.
#ifndef CBDM_NO_ARCHIVE
#include <archive.h>
#include <archive_entry.h>
#endif
#include <stdlib.h>
#include <string.h>
#include "core/file.h"
#include "core/pickle.h"
#include "train/data_formats.h"

enum { SIDE = 32, PLANE = SIDE * SIDE, PIXELS = 3 * PLANE, MAX_PARTS = 5, MAX_MEMBERS = 10000 };
static const int64_t member_limit = (int64_t)1 << 29;      // bytes of one file
#ifndef CBDM_NO_ARCHIVE
static const int64_t total_limit = (int64_t)1 << 31;       // of an archive, expanded
#endif

typedef struct {
    const char *kind, *folder;                     // folder: the name of the published one
    int classes;
    bool python;
    const char *part[2][MAX_PARTS + 1];            // file names per split, NULL-terminated
    const char *archive, *md5;
} Variant;
static const Variant variants[] = {
    { "CIFAR-10 binary", "cifar-10-batches-bin", 10, false,
      { { "data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin" },
        { "test_batch.bin" } }, "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530" },
    { "CIFAR-10 python archive", "cifar-10-batches-py", 10, true,
      { { "data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5" }, { "test_batch" } },
      "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a" },
    { "CIFAR-100 binary", "cifar-100-binary", 100, false, { { "train.bin" }, { "test.bin" } },
      "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8" },
    { "CIFAR-100 python archive", "cifar-100-python", 100, true, { { "train" }, { "test" } },
      "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85" },
};
enum { VARIANTS = sizeof variants / sizeof *variants };

static const char *const cifar10_names[] = { "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse",
                                             "ship", "truck" };
static const char *const cifar100_names[] = {
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm" };
_Static_assert(sizeof cifar100_names / sizeof *cifar100_names == 100, "CIFAR-100 has 100 fine classes");

// ---- parsing
bool cifar_parse_binary(const uint8_t *bytes, size_t n, int classes, const char *where, CifarBatch *out, Error *err) {
    size_t head = classes > 10 ? 2 : 1, record = head + PIXELS;       // CIFAR-100 has the coarse label first
    *out = (CifarBatch){ .count = 0 };
    if (n == 0 || n % record) {
        return error_set(err, ERR_FILE,
                         "%s: %zu bytes are no whole number of CIFAR-%d records of %zu bytes; it is truncated "
                         "or of another kind: get it again",
                         where, n, classes, record);
    }
    out->count = (int64_t)(n / record);
    out->pixels = bytes + head;
    out->image_step = record;
    out->byte_step = 1;
    out->labels = xmalloc((size_t)out->count);
    for (size_t i = 0; i < (size_t)out->count; i++) {
        uint8_t label = bytes[i * record + head - 1];
        if (label >= classes) {
            free(out->labels);
            out->labels = NULL;
            return error_set(err, ERR_FILE,
                             "%s: label %d at byte %zu, but there are classes 0 to %d; the file is damaged or "
                             "of another kind: get it again",
                             where, label, i * record + head - 1, classes - 1);
        }
        out->labels[i] = label;
    }
    return true;
}

static bool read_labels(const PickleNode *list, int classes, const char *key, const char *where, CifarBatch *out,
                        Error *err) {
    if (!list || list->type != PICKLE_LIST || (int64_t)list->count != out->count) {
        return error_set(err, ERR_FILE,
                         "%s: the pickle needs a list \"%s\" of %lld labels and has %s; check that "
                         "this is a CIFAR-%d file",
                         where, key, (long long)out->count, list ? "something else" : "none", classes);
    }
    out->labels = xmalloc(list->count);
    for (size_t i = 0; i < list->count; i++) {
        const PickleNode *y = list->item[i];
        if (y->type != PICKLE_INT || y->number < 0 || y->number >= classes) {
            free(out->labels);
            out->labels = NULL;
            return error_set(err, ERR_FILE, "%s: label %zu of \"%s\" is no number from 0 to %d; get the file again",
                             where, i, key, classes - 1);
        }
        out->labels[i] = (uint8_t)y->number;
    }
    return true;
}

bool cifar_parse_python(const uint8_t *bytes, size_t n, int classes, const char *where, CifarBatch *out, Error *err) {
    *out = (CifarBatch){ .count = 0 };
    Pickle *p = pickle_parse(bytes, n, where, pickle_numpy_globals, NULL, err);
    if (!p) return false;
    const PickleNode *root = pickle_root(p), *data = pickle_get(root, "data");
    const char *key = classes > 10 ? "fine_labels" : "labels";
    PickleArray a;
    bool ok = data || error_set(err, ERR_FILE, "%s: the pickle holds no \"data\"; it is no CIFAR batch file", where);
    ok = ok && pickle_ndarray(data, where, &a, err);
    if (ok && (a.ndim != 2 || a.shape[0] < 1 || a.shape[1] != PIXELS || strcmp(a.descr, "|u1") != 0)) {
        ok = error_set(err, ERR_FILE, "%s: \"data\" is no array of bytes of shape (n, %d); it is no CIFAR batch file",
                       where, PIXELS);
    }
    if (ok) {
        out->count = a.shape[0];
        out->pixels = a.data;
        out->image_step = a.fortran ? 1 : PIXELS;
        out->byte_step = a.fortran ? (size_t)a.shape[0] : 1;
        ok = read_labels(pickle_get(root, key), classes, key, where, out, err);
    }
    pickle_free(p);
    return ok;
}

// ---- finding the files: parts[variant][i], for one split
typedef struct { uint8_t *bytes; size_t n; char *where; } Part;
typedef struct { Part part[VARIANTS][MAX_PARTS]; } Parts;

static void parts_release(Parts *p) {
    for (int l = 0; l < VARIANTS; l++) {
        for (int i = 0; i < MAX_PARTS; i++) {
            free(p->part[l][i].bytes);
            free(p->part[l][i].where);
        }
    }
}

#ifdef CBDM_NO_ARCHIVE
static bool read_archive(const char *path, Split split, Parts *p, Error *err) {
    (void)split, (void)p;
    return error_set(err, ERR_USAGE, "%s: this build has no libarchive: install libarchive-dev and run cmake again, or "
                     "unpack the archive", path);
}
#else
static Part *part_named(Parts *p, Split split, const char *name) {
    for (int l = 0; l < VARIANTS; l++) {
        for (int i = 0; variants[l].part[split][i]; i++) {
            if (strcmp(variants[l].part[split][i], name) == 0) return &p->part[l][i];
        }
    }
    return NULL;
}

static bool read_member(struct archive *a, int64_t size, const char *path, const char *name, Part *out, Error *err) {
    if (out->bytes) return error_set(err, ERR_FILE, "%s: holds %s twice; get the archive again", path, name);
    out->where = xasprintf("%s:%s", path, name);
    out->bytes = xmalloc((size_t)size + 1);
    while (out->n < (size_t)size) {
        la_ssize_t got = archive_read_data(a, out->bytes + out->n, (size_t)size - out->n);
        if (got < 0) {
            return error_set(err, ERR_FILE, "%s: %s inside it cannot be read (%s); get the archive again", path, name,
                             archive_error_string(a) ? archive_error_string(a) : "damaged");
        }
        if (got == 0) {
            return error_set(err, ERR_FILE, "%s: %s inside it ends after %zu of %lld bytes; get the archive again",
                             path, name, out->n, (long long)size);
        }
        out->n += (size_t)got;
    }
    return true;
}

// One member: kept if its file name is one of the split's. Only plain files of sane size pass.
static bool visit_member(struct archive *a, struct archive_entry *e, const char *path, Split split, Parts *p,
                         Error *err) {
    const char *full = archive_entry_pathname(e);
    if (!full) return error_set(err, ERR_FILE, "%s: a member without name; get the archive again", path);
    const char *slash = strrchr(full, '/'), *name = slash ? slash + 1 : full;
    int64_t size = archive_entry_size(e);
    if (size < 0 || size > member_limit || archive_filter_bytes(a, 0) > total_limit) {
        return error_set(err, ERR_FILE, "%s: %s inside it is larger than any file of CIFAR; this is not the archive",
                         path, full);
    }
    Part *part = archive_entry_filetype(e) == AE_IFDIR ? NULL : part_named(p, split, name);
    if (!part) return true;
    if (archive_entry_filetype(e) != AE_IFREG || archive_entry_hardlink(e)) {
        return error_set(err, ERR_FILE, "%s: %s inside it is a link, not a file; get the archive again", path, full);
    }
    return read_member(a, size, path, name, part, err);
}

static bool read_archive(const char *path, Split split, Parts *p, Error *err) {
    struct archive *a = archive_read_new();
    CHECK(a, "libarchive does not start");
    archive_read_support_format_tar(a);
    archive_read_support_filter_gzip(a);
    archive_read_support_filter_bzip2(a);
    archive_read_support_filter_xz(a);
    bool ok = archive_read_open_filename(a, path, 1 << 16) == ARCHIVE_OK;
    if (!ok) {
        error_set(err, ERR_FILE, "%s: cannot be read as a tar archive (%s); get it again", path,
                  archive_error_string(a) ? archive_error_string(a) : "damaged");
    }
    for (int members = 0; ok; members++) {
        struct archive_entry *e;
        int status = archive_read_next_header(a, &e);
        if (status == ARCHIVE_EOF) break;
        if (status != ARCHIVE_OK) {
            ok = error_set(err, ERR_FILE, "%s: damaged or truncated after %d members (%s); get the archive again", path,
                           members, archive_error_string(a) ? archive_error_string(a) : "no reason given");
        } else if (members >= MAX_MEMBERS) {
            ok = error_set(err, ERR_FILE, "%s: more than %d members; this is no CIFAR archive", path, MAX_MEMBERS);
        } else {
            ok = visit_member(a, e, path, split, p, err);
        }
    }
    archive_read_free(a);
    return ok;
}
#endif

static bool has_variant(const char *folder, const Variant *l) {
    bool found = false;
    for (int s = 0; s < 2; s++) {
        for (int i = 0; l->part[s][i] && !found; i++) {
            char *file = path_join(folder, l->part[s][i]);
            found = path_is_file(file);
            free(file);
        }
    }
    return found;
}

// The folder that holds the files: path, or the one published folder below it. NULL: none, or *several. Caller frees.
static char *cifar_folder(const char *path, bool *several) {
    char *found = NULL;
    *several = false;
    for (int l = 0; l < VARIANTS; l++) {
        if (has_variant(path, &variants[l])) {
            free(found);
            return xstrdup(path);
        }
        char *below = path_join(path, variants[l].folder);
        if (has_variant(below, &variants[l])) {
            *several = *several || found;
            free(found);
            found = below;
        } else {
            free(below);
        }
    }
    if (*several) {
        free(found);
        found = NULL;
    }
    return found;
}

bool cifar_in_folder(const char *path) {
    bool several;
    char *folder = cifar_folder(path, &several);
    free(folder);
    return folder || several;
}

static bool read_folder(const char *path, Split split, Parts *p, Error *err) {
    bool several, ok = true;
    char *folder = cifar_folder(path, &several);
    if (several) return error_set(err, ERR_FILE, "%s: holds several CIFAR folders; give the path of one of them", path);
    CHECK(folder, "%s was found to hold CIFAR files", path);
    for (int l = 0; l < VARIANTS && ok; l++) {
        for (int i = 0; variants[l].part[split][i] && ok; i++) {
            Part *part = &p->part[l][i];
            part->where = path_join(folder, variants[l].part[split][i]);
            if (path_is_file(part->where))
                ok = file_read(part->where, (size_t)member_limit, &part->bytes, &part->n, err);
        }
    }
    free(folder);
    return ok;
}

// ---- putting it together
// The one variant of which something is there, with all its parts. NULL and *err otherwise.
static const Variant *choose_variant(const char *path, Split split, const Parts *p, Error *err) {
    const Variant *chosen = NULL;
    for (int l = 0; l < VARIANTS; l++) {
        bool some = false;
        for (int i = 0; i < MAX_PARTS; i++) some = some || p->part[l][i].bytes;
        if (!some) continue;
        if (chosen) {
            error_set(err, ERR_FILE, "%s: holds both %s and %s files; keep them in folders of their own", path,
                      chosen->kind, variants[l].kind);
            return NULL;
        }
        chosen = &variants[l];
    }
    if (!chosen) {
        error_set(err, ERR_FILE,
                  "%s: holds no %s files of CIFAR-10 or CIFAR-100 (such as %s or %s); get the archive from "
                  "https://www.cs.toronto.edu/~kriz/cifar.html",
                  path, split == SPLIT_TRAIN ? "training" : "test", variants[0].part[split][0],
                  variants[2].part[split][0]);
        return NULL;
    }
    for (int i = 0; chosen->part[split][i]; i++) {
        if (p->part[chosen - variants][i].bytes) continue;
        error_set(err, ERR_FILE, "%s: lacks %s of the %s; get it again", path, chosen->part[split][i], chosen->kind);
        return NULL;
    }
    return chosen;
}

// Planes to NHWC, from image number `at` of d on.
static void copy_batch(Dataset *d, int64_t at, const CifarBatch *b) {
    for (int64_t i = 0; i < b->count; i++) {
        const uint8_t *from = b->pixels + (size_t)i * b->image_step;
        uint8_t *to = d->images + (size_t)(at + i) * PIXELS;
        for (size_t k = 0; k < PLANE; k++) {
            for (size_t c = 0; c < 3; c++) to[3 * k + c] = from[(c * PLANE + k) * b->byte_step];
        }
        d->labels[at + i] = b->labels[i];
    }
}

static Dataset *assemble(const char *path, const Variant *l, const Part *part, int parts, Error *err) {
    CifarBatch batch[MAX_PARTS] = { { 0 } };
    int64_t count = 0, at = 0;
    bool ok = true;
    for (int i = 0; i < parts && ok; i++) {
        ok = (l->python ? cifar_parse_python : cifar_parse_binary)(part[i].bytes, part[i].n, l->classes, part[i].where,
                                                                   &batch[i], err);
        count += batch[i].count;
    }
    Dataset *d = ok ? dataset_new(l->kind, path, l->classes, 3, SIDE, SIDE, count, err) : NULL;
    for (int i = 0; i < parts; i++) {
        if (d) copy_batch(d, at, &batch[i]);
        at += batch[i].count;
        free(batch[i].labels);
    }
    if (!d) return NULL;
    for (int c = 0; c < l->classes; c++)
        dataset_name_class(d, c, (l->classes > 10 ? cifar100_names : cifar10_names)[c]);
    return dataset_finish(d);
}

// What the archive's MD5 says: a note, or NULL with a warning if it bears a published name without being that file.
static bool identify(const char *path, const char **note, Error *err) {
    char md5[33];
    *note = NULL;
    if (!md5_file(path, md5, err)) return false;
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    for (int l = 0; l < VARIANTS; l++) {
        if (strcmp(md5, variants[l].md5) == 0) {
            *note = "the published archive, by its MD5";
        } else if (strcmp(name, variants[l].archive) == 0) {
            log_warn("%s: MD5 %s, but the published archive has %s; it may be damaged or changed", path, md5,
                     variants[l].md5);
        }
    }
    return true;
}

Dataset *cifar_open(const char *path, Split split, Error *err) {
    Parts *p = xcalloc(1, sizeof *p);
    const char *note = NULL;
    bool folder = path_is_folder(path);
    bool ok = folder ? read_folder(path, split, p, err)
                     : identify(path, &note, err) && read_archive(path, split, p, err);
    const Variant *l = ok ? choose_variant(path, split, p, err) : NULL;
    Dataset *d = NULL;
    if (l) {
        int parts = 0;
        while (l->part[split][parts]) parts++;
        d = assemble(path, l, p->part[l - variants], parts, err);
    }
    if (d) d->info.note = note;
    parts_release(p);
    free(p);
    return d;
}

bool cifar_explain_missing(const char *path, Error *err) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char squeezed[64];                               // lower case letters and digits only: cifar10, CIFAR-10, cifar_10
    size_t n = 0;
    for (const char *c = name; *c && n + 1 < sizeof squeezed; c++) {
        char lower = *c >= 'A' && *c <= 'Z' ? (char)(*c - 'A' + 'a') : *c;
        if ((lower >= 'a' && lower <= 'z') || (lower >= '0' && lower <= '9')) squeezed[n++] = lower;
    }
    squeezed[n] = 0;
    const char *cifar = strstr(squeezed, "cifar10");
    if (!cifar) return false;
    int first = cifar[7] == '0' ? 2 : 0;             // cifar100
    error_set(err, ERR_FILE,
              "%s: no such file or folder; from https://www.cs.toronto.edu/~kriz/cifar.html get %s (MD5 %s) or "
              "%s (MD5 %s) and give its path",
              path, variants[first].archive, variants[first].md5, variants[first + 1].archive, variants[first + 1].md5);
    return true;
}
