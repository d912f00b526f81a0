// eval/features.c - tables of features from .npy, .npz and .safetensors, and to .safetensors.
//
// Files are mapped: floats that lie aligned in a .npy, or uncompressed in a .safetensors, stay where they are, so that
// large sets cost address space and page cache but no memory of the process's own. All else is converted to a copy.
#include "eval/features.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct { void *bytes; size_t n; } Map;
typedef struct { Map maps[3]; int n_maps; void *blocks[16]; int n_blocks; } Owner;    // what features_free frees

static Owner *owner_new(void) { return xcalloc(1, sizeof(Owner)); }

static void *own(Owner *o, void *block) {
    CHECK(o->n_blocks < 16, "a table of %d blocks", o->n_blocks);
    return o->blocks[o->n_blocks++] = block;
}

static void owner_free(Owner *o) {
    if (!o) return;
    for (int i = 0; i < o->n_maps; i++) munmap(o->maps[i].bytes, o->maps[i].n);
    for (int i = 0; i < o->n_blocks; i++) free(o->blocks[i]);
    free(o);
}

static bool map_file(const char *path, Owner *o, Map *m, Error *err) {
    struct stat s;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);      // not blocking: a FIFO must not hang the program
    if (fd < 0) return error_set(err, ERR_FILE, "%s: cannot be opened: %s", path, strerror(errno));
    bool ok = fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && s.st_size > 0;
    void *p = ok ? mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    int why = errno;
    close(fd);
    if (!ok) return error_set(err, ERR_FILE, "%s: empty, or not an ordinary file", path);
    if (p == MAP_FAILED) return error_set(err, ERR_IO, "%s: cannot be mapped: %s", path, strerror(why));
    *m = o->maps[o->n_maps++] = (Map){ p, (size_t)s.st_size };
    return true;
}

// ---- arrays of any container
static const struct { StType type; char descr[4]; } descrs[] = {
    { ST_F32, "<f4" }, { ST_F64, "<f8" }, { ST_I64, "<i8" }, { ST_I32, "<i4" }, { ST_U8, "|u1" },
};

// A tensor as an array. Half floats are widened to floats of o's.
static void array_of_tensor(const StTensor *t, Owner *o, NpyArray *out) {
    *out = (NpyArray){ .ndim = t->ndim, .data = t->data };
    memcpy(out->shape, t->shape, sizeof out->shape);
    for (size_t i = 0; i < sizeof descrs / sizeof *descrs; i++)
        if (descrs[i].type == t->type) strcpy(out->descr, descrs[i].descr);
    if (*out->descr) return;
    float *x = own(o, xmalloc(t->bytes / st_type_size(t->type) * sizeof *x + 1));
    CHECK(st_read_f32(t, x), "%s: half floats fit floats", t->name);
    strcpy(out->descr, "<f4");
    out->data = x;
}

typedef struct { char *name; NpyArray a; void *block; } Member;         // block: what a lies in, or NULL: elsewhere
typedef struct { Member *m; int n; SafeTensors *st; } Members;          // of one container; st: NULL or open

// What f lies in becomes o's; the rest goes now: of doubles that were rounded there is no second copy.
static void members_free(Members *s, Owner *o, const Features *f) {
    for (int i = 0; i < s->n; i++) {
        const Member *m = &s->m[i];
        bool used = m->a.data == (const void *)f->x || m->a.data == (const void *)f->probs;
        if (m->block && used) own(o, m->block);
        else free(m->block);
        free(m->name);
    }
    free(s->m);
    st_close(s->st);
}

static const NpyArray *members_find(const Members *s, const char *name) {
    for (int i = 0; i < s->n; i++)
        if (strcmp(s->m[i].name, name) == 0) return &s->m[i].a;
    return NULL;
}

// "features", or "arr_0", or the only matrix.
static const NpyArray *members_matrix(const Members *s, const char *where, Error *err) {
    const NpyArray *found = members_find(s, "features");
    if (!found) found = members_find(s, "arr_0");
    if (!found && members_find(s, "mu") && members_find(s, "sigma")) {
        error_set(err, ERR_FILE, "%s: holds mu and sigma, which say nothing of single images: features are needed, "
                  "a row for each", where);
        return NULL;
    }
    int matrices = 0;
    for (int i = 0; i < s->n && !found; i++) matrices += s->m[i].a.ndim == 2;
    for (int i = 0; i < s->n && !found && matrices == 1; i++)
        if (s->m[i].a.ndim == 2) return &s->m[i].a;
    if (!found)
        error_set(err, ERR_FILE, "%s: holds no array \"features\" or \"arr_0\", and %d matrices of other names: which "
                  "one is meant?", where, matrices);
    return found;
}

static bool wanted(const char *name) {
    return strcmp(name, "features") == 0 || strcmp(name, "arr_0") == 0 || strcmp(name, "labels") == 0 ||
           strcmp(name, "probs") == 0;
}

// Of an archive that names its features, only what is needed; else all of it, to find the only matrix.
static bool members_of_npz(const uint8_t *bytes, size_t n, const char *where, Members *out, Error *err) {
    char **names;
    int count;
    if (!npz_names(bytes, n, where, &names, &count, err)) return false;
    bool named = false, ok = true;
    for (int i = 0; i < count; i++) named |= wanted(names[i]) && strcmp(names[i], "labels") != 0;
    if (!named && count > 4)
        ok = error_set(err, ERR_FILE, "%s: %d arrays and none of them is named \"features\" or \"arr_0\"", where,
                       count);
    out->m = xcalloc((size_t)count + 1, sizeof *out->m);
    for (int i = 0; ok && i < count; i++) {
        uint8_t *member;
        if ((named && !wanted(names[i])) || members_find(out, names[i])) continue;
        ok = npz_parse(bytes, n, where, names[i], &member, &out->m[out->n].a, err);
        if (!ok) break;
        out->m[out->n].block = member;
        out->m[out->n++].name = xstrdup(names[i]);
    }
    npz_names_free(names, count);
    return ok;
}

static bool members_of_safetensors(const uint8_t *bytes, size_t n, const char *where, Owner *o, Members *out,
                                   Error *err) {
    if (!(out->st = st_parse(bytes, n, where, err))) return false;
    int count = st_count(out->st);
    out->m = xcalloc((size_t)count + 1, sizeof *out->m);
    for (int i = 0; i < count; i++) {
        const StTensor *t = st_get(out->st, i);
        if (!wanted(t->name) && (t->ndim != 2 || count > 4)) continue;
        array_of_tensor(t, o, &out->m[out->n].a);
        out->m[out->n++].name = xstrdup(t->name);
    }
    return true;
}

// All that a file may give: a bare array becomes a member named "features".
static bool members_of(const uint8_t *bytes, size_t n, const char *where, Owner *o, Members *out, Error *err) {
    if (n >= 6 && memcmp(bytes, "\x93NUMPY", 6) == 0) {
        out->m = xcalloc(1, sizeof *out->m);
        if (!npy_parse(bytes, n, where, &out->m->a, err)) return false;
        out->m[out->n++].name = xstrdup("features");
        return true;
    }
    if (n >= 4 && memcmp(bytes, "PK\x03\x04", 4) == 0) return members_of_npz(bytes, n, where, out, err);
    if (n >= 9 && bytes[8] == '{') return members_of_safetensors(bytes, n, where, o, out, err);
    return error_set(err, ERR_FILE, "%s: neither .npy nor .npz nor .safetensors", where);
}

// ---- the three parts of a table
// A matrix of finite floats, in place where it can be.
static bool take_matrix(const NpyArray *a, const char *what, const char *where, Owner *o, const float **out,
                        int64_t *rows, int *columns, Error *err) {
    bool f4 = strcmp(a->descr, "<f4") == 0;
    if (!f4 && strcmp(a->descr, "<f8") != 0)
        return error_set(err, ERR_FILE, "%s: %s of type \"%s\", where floats are needed (<f4 or <f8)", where, what,
                         a->descr);
    if (a->ndim == 2 && a->shape[0] == 0) return error_set(err, ERR_FILE, "%s: %s without a row", where, what);
    if (a->ndim != 2 || a->shape[0] < 1 || a->shape[1] < 1 || a->shape[1] > INT32_MAX)
        return error_set(err, ERR_FILE, "%s: %s with %d dimensions (%" PRId64 "%s), where a matrix is needed: a row "
                         "for each image", where, what, a->ndim, a->ndim ? a->shape[0] : 0, a->ndim > 1 ? ", ..." : "");
    int64_t n = a->shape[0], dim = a->shape[1], bad = n;
    float *copy = NULL;
    if (!f4 || (uintptr_t)a->data % sizeof(float) != 0) copy = own(o, xmalloc((size_t)(n * dim) * sizeof *copy));
    const float *x = copy ? copy : a->data;
#pragma omp parallel for reduction(min : bad)
    for (int64_t i = 0; i < n; i++) {
        bool finite = true;
        if (copy && f4) memcpy(copy + i * dim, (const char *)a->data + (size_t)(i * dim) * 4, (size_t)dim * 4);
        for (int64_t k = 0; k < dim; k++) {
            if (!f4) {
                double v;
                memcpy(&v, (const char *)a->data + (size_t)(i * dim + k) * sizeof v, sizeof v);
                copy[i * dim + k] = (float)v;
            }
            finite &= isfinite(x[i * dim + k]) != 0;
        }
        if (!finite && i < bad) bad = i;
    }
    if (bad < n)
        return error_set(err, ERR_FILE, "%s: %s: row %" PRId64 " (the first is 0) holds a value that is not finite",
                         where, what, bad);
    *out = x;
    *rows = n;
    *columns = (int)dim;
    return true;
}

static bool take_labels(const NpyArray *a, const char *where, Owner *o, Features *f, Error *err) {
    bool i8 = strcmp(a->descr, "<i8") == 0, i4 = strcmp(a->descr, "<i4") == 0, u1 = strcmp(a->descr, "|u1") == 0;
    if (!i8 && !i4 && !u1)
        return error_set(err, ERR_FILE, "%s: labels of type \"%s\", where whole numbers are needed (<i8, <i4, |u1)",
                         where, a->descr);
    if ((a->ndim != 1 && !(a->ndim == 2 && a->shape[1] == 1)) || a->shape[0] != f->n)
        return error_set(err, ERR_FILE, "%s: labels of shape (%" PRId64 "%s) for %" PRId64 " rows of features", where,
                         a->ndim ? a->shape[0] : 0, a->ndim > 1 ? ", ..." : "", f->n);
    int32_t *label = own(o, xmalloc((size_t)f->n * sizeof *label));
    for (int64_t i = 0; i < f->n; i++) {
        int64_t v8 = 0;
        if (i8) memcpy(&v8, (const char *)a->data + 8 * i, 8);
        if (i4) memcpy(&label[i], (const char *)a->data + 4 * i, 4), v8 = label[i];
        if (u1) v8 = ((const uint8_t *)a->data)[i];
        if (v8 < INT32_MIN || v8 > INT32_MAX)
            return error_set(err, ERR_FILE, "%s: labels: row %" PRId64 " (the first is 0) holds %" PRId64, where, i,
                             v8);
        label[i] = (int32_t)v8;
    }
    f->label = label;
    return true;
}

// Each row sums to 1 within what half floats leave of it; logits do not.
static bool take_probs(const NpyArray *a, const char *where, Owner *o, Features *f, Error *err) {
    int64_t rows;
    if (!take_matrix(a, "probs", where, o, &f->probs, &rows, &f->classes, err)) return false;
    if (rows != f->n)
        return error_set(err, ERR_FILE, "%s: %" PRId64 " rows of probs for %" PRId64 " rows of features", where, rows,
                         f->n);
    for (int64_t i = 0; i < rows; i++) {
        double sum = 0;
        bool negative = false;
        for (int64_t c = 0; c < f->classes; c++) {
            sum += (double)f->probs[i * f->classes + c];
            negative |= f->probs[i * f->classes + c] < 0;
        }
        if (negative || fabs(sum - 1) > 0.01)
            return error_set(err, ERR_FILE, "%s: probs: row %" PRId64 " (the first is 0) %s: class probabilities are "
                             "needed, after the softmax", where, i, negative ? "holds a negative value" :
                             "does not sum to 1");
    }
    return true;
}

bool features_parse(const uint8_t *bytes, size_t n, const char *where, Features *out, Error *err) {
    Features f = { .name = xstrdup(where) };
    Members s = { 0 };
    Owner *o = f.owner = owner_new();
    const NpyArray *x = NULL;
    bool ok = members_of(bytes, n, where, o, &s, err) && (x = members_matrix(&s, where, err)) != NULL &&
              take_matrix(x, "features", where, o, &f.x, &f.n, &f.dim, err);
    if (ok && (x = members_find(&s, "labels"))) ok = take_labels(x, where, o, &f, err);
    if (ok && (x = members_find(&s, "probs"))) ok = take_probs(x, where, o, &f, err);
    members_free(&s, o, &f);
    if (ok) *out = f;
    else features_free(&f);
    return ok;
}

// A file of one array, which replaces labels or probs.
static bool read_part(const char *path, bool labels, Features *f, Error *err) {
    Owner *o = f->owner;
    Map m;
    NpyArray a;
    if (!map_file(path, o, &m, err) || !npy_parse(m.bytes, m.n, path, &a, err)) return false;
    return labels ? take_labels(&a, path, o, f, err) : take_probs(&a, path, o, f, err);
}

bool features_read(const char *path, const char *labels, const char *probs, Features *out, Error *err) {
    Owner *file = owner_new();
    Map m;
    Features f = { 0 };
    if (!map_file(path, file, &m, err) || !features_parse(m.bytes, m.n, path, &f, err)) {
        owner_free(file);
        return false;
    }
    ((Owner *)f.owner)->maps[((Owner *)f.owner)->n_maps++] = m;
    free(file);
    if ((*labels && !read_part(labels, true, &f, err)) || (*probs && !read_part(probs, false, &f, err))) {
        features_free(&f);
        return false;
    }
    *out = f;
    return true;
}

void features_make(int64_t n, int dim, const int32_t *label, int classes, const char *name, Features *out, float **x,
                   float **probs) {
    Owner *o = owner_new();
    size_t rows = (size_t)n;
    *out = (Features){ .n = n, .dim = dim, .classes = classes, .name = xstrdup(name), .owner = o };
    out->x = *x = own(o, xmalloc(rows * (size_t)dim * sizeof **x));
    if (label) out->label = memcpy(own(o, xmalloc(rows * sizeof *label)), label, rows * sizeof *label);
    out->probs = *probs = classes ? own(o, xmalloc(rows * (size_t)classes * sizeof **probs)) : NULL;
}

void features_copy(int64_t n, int dim, const float *x, const int32_t *label, int classes, const float *probs,
                   const char *name, Features *out) {
    float *own_x, *own_probs;
    features_make(n, dim, label, probs ? classes : 0, name, out, &own_x, &own_probs);
    memcpy(own_x, x, (size_t)n * (size_t)dim * sizeof *x);
    if (probs) memcpy(own_probs, probs, (size_t)n * (size_t)classes * sizeof *probs);
}

int64_t features_broken(const Features *f) {
    for (int64_t i = 0; i < f->n * f->dim; i++)
        if (!isfinite(f->x[i])) return i / f->dim;
    return -1;
}

bool features_write(const char *path, const Features *f, const char *const *keys, const char *const *values, int n_meta,
                    Error *err) {
    size_t rows = (size_t)f->n;
    StTensor t[3] = { { .name = "features", .type = ST_F32, .ndim = 2, .shape = { f->n, f->dim }, .data = f->x,
                        .bytes = rows * (size_t)f->dim * sizeof *f->x } };
    int n = 1;
    if (f->label)
        t[n++] = (StTensor){ .name = "labels", .type = ST_I32, .ndim = 1, .shape = { f->n }, .data = f->label,
                             .bytes = rows * sizeof *f->label };
    if (f->probs)
        t[n++] = (StTensor){ .name = "probs", .type = ST_F32, .ndim = 2, .shape = { f->n, f->classes },
                             .data = f->probs, .bytes = rows * (size_t)f->classes * sizeof *f->probs };
    return st_write(path, t, n, keys, values, n_meta, err);
}

void features_free(Features *f) {
    owner_free(f->owner);
    free(f->name);
    memset(f, 0, sizeof *f);
}
