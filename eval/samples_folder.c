// eval/samples_folder.c - a folder of samples: what `cbdm sample` writes, or one folder of PNGs per class.
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "core/path.h"
#include "eval/samples.h"

enum { TEXT_BYTES = 1 << 30, MAX_IMAGES = 10000000, MAX_CLASSES = 65536 };

// A number of the reader as double; false leaves the reader's error.
static bool json_double(JsonReader *r, double *v) {
    char text[JSON_NUMBER_MAX];
    if (!json_number(r, text)) return false;
    *v = strtod(text, NULL);
    return true;
}

static void keep_string(JsonReader *r, char **to) {
    free(*to);
    *to = json_string(r);
}

// ---- manifest.jsonl
// A file below the folder: no way out of it.
static bool is_below(const char *file) {
    return *file && *file != '/' && strcmp(file, "..") != 0 && strncmp(file, "../", 3) != 0 && !strstr(file, "/../") &&
           !text_ends_with(file, "/..");
}

static bool parse_line(JsonReader *r, Manifest *m) {
    double number = -1, label = -2;
    char *file = NULL;
    if (!json_enter(r, '{')) return false;
    for (char *key; (key = json_key(r)); free(key)) {
        if (strcmp(key, "number") == 0) json_double(r, &number);
        else if (strcmp(key, "label") == 0) json_double(r, &label);
        else if (strcmp(key, "omega") == 0) json_double(r, &m->omega);
        else if (strcmp(key, "file") == 0) keep_string(r, &file);
        else if (strcmp(key, "sampler") == 0) keep_string(r, &m->sampler);
        else if (strcmp(key, "checkpoint") == 0) keep_string(r, &m->sha256);
        else json_skip(r);
    }
    bool ok = json_end(r) && number >= 0 && number <= UINT32_MAX && floor(number) == number && label >= -1 &&
              label <= INT32_MAX && floor(label) == label && file && is_below(file);
    if (!ok) {
        free(file);
        return false;
    }
    m->number[m->n] = (int64_t)number;
    m->label[m->n] = (int32_t)label;
    m->file[m->n++] = file;
    return true;
}

bool manifest_parse(const char *text, size_t bytes, const char *where, Manifest *out, Error *err) {
    size_t cap = 0;
    *out = (Manifest){ .omega = NAN };
    bool ok = true;
    const char *at = text, *line;
    for (size_t n; ok && text_line(&at, text + bytes, &line, &n);) {
        if ((size_t)out->n == cap) {
            cap = cap ? 2 * cap : 256;
            out->number = xrealloc(out->number, cap * sizeof *out->number);
            out->label = xrealloc(out->label, cap * sizeof *out->label);
            out->file = xrealloc(out->file, cap * sizeof *out->file);
        }
        JsonReader r;
        json_start(&r, line, n);
        ok = (out->n < MAX_IMAGES && parse_line(&r, out)) ||
             error_set(err, ERR_FILE, "%s, line %lld: %s; sample the images again", where, (long long)out->n + 1,
                       r.why ? r.why : "no image's number, label and file below the folder");
    }
    if (ok && out->n == 0) ok = error_set(err, ERR_FILE, "%s lists no images; sample them again", where);
    if (!ok) manifest_free(out);
    return ok;
}

void manifest_free(Manifest *m) {
    for (int64_t i = 0; i < m->n; i++) free(m->file[i]);
    free(m->file);
    free(m->number);
    free(m->label);
    free(m->sampler);
    free(m->sha256);
    *m = (Manifest){ 0 };
}

// ---- sampling.json
static bool whole_in(double v, double max) { return v >= 0 && v <= max && floor(v) == v; }

static void parse_counts(JsonReader *r, SampleOrigin *o) {
    size_t cap = 0;
    o->n_counts = 0;
    if (!json_enter(r, '[')) return;
    for (uint64_t v; json_item(r) && json_u64(r, &v);) {
        if (o->n_counts == MAX_CLASSES) {
            r->why = "more classes than there can be";
            return;
        }
        if ((size_t)o->n_counts >= cap)
            o->class_counts = xrealloc(o->class_counts, (cap = cap ? 2 * cap : 64) * sizeof *o->class_counts);
        o->class_counts[o->n_counts++] = v < INT64_MAX ? (int64_t)v : INT64_MAX;
    }
}

bool sampling_parse(const char *text, size_t bytes, const char *where, SampleOrigin *o, int *omegas, Error *err) {
    double steps = 0, seed = -1, omega = 0;
    JsonReader r;
    json_start(&r, text, bytes);
    *omegas = 0;
    if (json_enter(&r, '{'))
        for (char *key; (key = json_key(&r)); free(key)) {
            if (strcmp(key, "path") == 0) keep_string(&r, &o->checkpoint);
            else if (strcmp(key, "checkpoint") == 0) keep_string(&r, &o->sha256);
            else if (strcmp(key, "sampler") == 0) keep_string(&r, &o->sampler);
            else if (strcmp(key, "class_counts") == 0) parse_counts(&r, o);
            else if (strcmp(key, "steps") == 0) json_double(&r, &steps);
            else if (strcmp(key, "seed") == 0) json_double(&r, &seed);
            else if (strcmp(key, "omega") == 0) {
                if (json_enter(&r, '['))
                    while (json_item(&r)) *omegas += json_double(&r, &omega);
            } else json_skip(&r);
        }
    if (!json_end(&r)) return error_set(err, ERR_FILE, "%s, byte %zu: %s", where, (size_t)(r.at - r.begin), r.why);
    o->steps = whole_in(steps, INT32_MAX) ? (int)steps : 0;
    o->seed = whole_in(seed, 0x1p53) ? (int64_t)seed : -1;
    if (*omegas == 1) o->omega = omega;
    const char *at = o->checkpoint ? strrchr(o->checkpoint, '/') : NULL;
    long long step;
    char end;
    at = at ? at + 1 : o->checkpoint;
    o->step = at && sscanf(at, "step-%18lld.safetensor%c", &step, &end) == 2 ? step : -1;
    return true;
}

static bool read_text(const char *folder, const char *name, char **text, size_t *n, char **path, Error *err) {
    *path = path_join(folder, name);
    bool ok = file_read(*path, TEXT_BYTES, (uint8_t **)text, n, err);
    if (!ok) free(*path);
    return ok;
}

static bool read_sampling(const char *folder, SampleOrigin *o, int *omegas, Error *err) {
    char *text, *path;
    size_t n;
    if (!read_text(folder, "sampling.json", &text, &n, &path, err)) return false;
    bool ok = sampling_parse(text, n, path, o, omegas, err);
    free(text);
    free(path);
    return ok;
}

// ---- names in a folder, sorted
typedef struct { char **name; int64_t n; } Names;

static int by_bytes(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void names_free(Names *l) {
    for (int64_t i = 0; i < l->n; i++) free(l->name[i]);
    free(l->name);
}

// Folders, or files that end so; dot files never count.
static bool names_list(const char *folder, const char *end, Names *out, Error *err) {
    DIR *d = opendir(folder);
    if (!d) return error_set(err, ERR_FILE, "%s: %s; check the folder and its permissions", folder, strerror(errno));
    *out = (Names){ 0 };
    size_t cap = 0;
    for (struct dirent *e; (e = readdir(d)) && out->n <= MAX_IMAGES;) {
        char *path = path_join(folder, e->d_name);
        bool wanted = e->d_name[0] != '.' && (end ? text_ends_with(e->d_name, end) : path_is_folder(path));
        free(path);
        if (!wanted) continue;
        if ((size_t)out->n == cap) out->name = xrealloc(out->name, (cap = cap ? 2 * cap : 64) * sizeof *out->name);
        out->name[out->n++] = xstrdup(e->d_name);
    }
    closedir(d);
    if (out->n) qsort(out->name, (size_t)out->n, sizeof *out->name, by_bytes);
    return out->n <= MAX_IMAGES || error_set(err, ERR_FILE, "%s: more than %d entries", folder, MAX_IMAGES);
}

// ---- PNGs
typedef struct { const char *folder; char **file; const int32_t *label; int64_t n; int channels; } PngList;

// All of one size, as 8-bit images. Colour is kept where the data have colour, and refused where they have none.
static bool read_pngs(const PngList *l, Samples *out, Error *err) {
    uint8_t *all = NULL;
    size_t e = 0;
    bool ok = true;
    for (int64_t i = 0; i < l->n && ok; i++) {
        char *path = path_join(l->folder, l->file[i]);
        uint8_t *pixels = NULL;
        int w, h;
        ok = png_read(path, 3, &pixels, &w, &h, err);
        ImageSet *s = &out->images;
        if (ok && i == 0) {
            *s = (ImageSet){ .n = l->n, .height = h, .width = w, .channels = l->channels };
            size_t bytes;
            e = (size_t)h * (size_t)w * (size_t)l->channels;
            if (!mul_size(e, (size_t)l->n, &bytes) || !(all = malloc(bytes)))
                ok = error_set(err, ERR_MEMORY, "%s: %lld images of %d x %d do not fit in memory", l->folder,
                               (long long)l->n, w, h);
        } else if (ok && (w != s->width || h != s->height)) {
            ok = error_set(err, ERR_FILE, "%s is %d x %d, the first image %d x %d: all must have one size", path, w, h,
                           s->width, s->height);
        }
        for (size_t p = 0; ok && p < (size_t)w * (size_t)h; p++) {
            const uint8_t *rgb = pixels + 3 * p;
            if (l->channels == 3) memcpy(all + (size_t)i * e + 3 * p, rgb, 3);
            else if (rgb[0] == rgb[1] && rgb[1] == rgb[2]) all[(size_t)i * e + p] = rgb[0];
            else ok = error_set(err, ERR_USAGE, "%s has colours, and the data have none: name the data that the "
                                "samples were trained on with --data", path);
        }
        free(pixels);
        free(path);
    }
    out->pixels = all;
    out->images.u8 = all;
    return ok;
}

// ---- what `cbdm sample` finished
// The float array of the folder, or NULL; caller frees.
static char *find_floats(const char *folder) {
    Names l = { 0 };
    Error ignored;
    char *found = NULL;
    if (names_list(folder, ".npy", &l, &ignored))
        for (int64_t i = 0; i < l.n && !found; i++)
            if (strstr(l.name[i], "_samples_")) found = path_join(folder, l.name[i]);
    names_free(&l);
    return found;
}

// Arrays hold the images in the order of the manifest.
static bool read_listed_array(const char *path, const Manifest *m, Samples *out, Error *err) {
    if (!samples_read_array(path, "", out, err)) return false;
    bool same = out->images.n == m->n;
    for (int64_t i = 0; same && out->label && i < m->n; i++) same = out->label[i] == m->label[i];
    return same || error_set(err, ERR_FILE, "%s does not hold the images that the manifest beside it lists: sample "
                             "them again, or name the array alone", path);
}

static bool read_manifest(const char *folder, const DatasetInfo *d, Samples *out, Error *err) {
    char *text, *path;
    size_t n;
    Manifest m;
    if (!read_text(folder, "manifest.jsonl", &text, &n, &path, err)) return false;
    bool ok = manifest_parse(text, n, path, &m, err);
    free(text);
    free(path);
    if (!ok) return false;
    char *floats = find_floats(folder), *npz = path_join(folder, "samples.npz");
    if (floats) ok = read_listed_array(floats, &m, out, err);
    else if (file_exists(npz)) ok = read_listed_array(npz, &m, out, err);
    else ok = read_pngs(&(PngList){ folder, m.file, m.label, m.n, d->channels }, out, err);
    if (ok) {
        free(out->label);
        free(out->understood);
        out->understood = xasprintf("%s and its manifest", floats ? floats : file_exists(npz) ? npz : folder);
        out->label = m.label;
        out->number = m.number;
        m.label = NULL, m.number = NULL;
        out->origin.omega = m.omega;
        if (!out->origin.sampler) out->origin.sampler = m.sampler, m.sampler = NULL;
        if (!out->origin.sha256) out->origin.sha256 = m.sha256, m.sha256 = NULL;
    }
    free(floats);
    free(npz);
    manifest_free(&m);
    return ok;
}

// ---- class folders
// The class that a folder stands for: by name, or by number; numbers alone where `cbdm sample` wrote it. -2: none.
static int32_t class_of(const char *name, const DatasetInfo *d, bool ours) {
    if (ours && strcmp(name, "none") == 0) return -1;
    for (int c = 0; c < d->classes && !ours; c++)
        if (strcmp(name, d->class_names[c]) == 0) return c;
    size_t n = strlen(name);
    if (n < 1 || n > 6 || strspn(name, "0123456789") != n) return -2;
    int32_t c = (int32_t)strtol(name, NULL, 10);
    return c < d->classes ? c : -2;
}

typedef struct { char **file; int32_t *label; int64_t n; size_t cap; } Found;

static bool add_class(const char *folder, const char *name, int32_t label, Found *f, Error *err) {
    Names l;
    char *path = path_join(folder, name);
    bool ok = names_list(path, ".png", &l, err);
    free(path);
    for (int64_t i = 0; ok && i < l.n; i++) {
        if ((size_t)f->n == f->cap) {
            f->cap = f->cap ? 2 * f->cap : 256;
            f->file = xrealloc(f->file, f->cap * sizeof *f->file);
            f->label = xrealloc(f->label, f->cap * sizeof *f->label);
        }
        f->file[f->n] = path_join(name, l.name[i]);
        f->label[f->n++] = label;
    }
    if (ok) names_free(&l);
    return ok;
}

static bool read_class_folders(const char *folder, const DatasetInfo *d, bool ours, Samples *out, Error *err) {
    Names l = { 0 };
    Found f = { 0 };
    bool ok = names_list(folder, NULL, &l, err);
    for (int64_t i = 0; ok && i < l.n; i++) {
        int32_t c = class_of(l.name[i], d, ours);
        ok = c == -2 ? error_set(err, ERR_USAGE, "%s/%s is no class of %s: folders are named by class or by its "
                                 "number from 0 to %d", folder, l.name[i], d->source, d->classes - 1)
                     : add_class(folder, l.name[i], c, &f, err);
    }
    if (ok && l.n == 0) ok = add_class(folder, ".", -1, &f, err);              // as pytorch-fid takes them: no labels
    if (ok && f.n == 0)
        ok = error_set(err, ERR_FILE, "%s holds no samples: neither a manifest of `cbdm sample` nor PNGs, alone or in "
                       "folders", folder);
    if (ok && ours)
        log_warn("%s was not finished: %lld images are there; the command that began it goes on", folder,
                 (long long)f.n);
    ok = ok && read_pngs(&(PngList){ folder, f.file, f.label, f.n, d->channels }, out, err);
    out->label = f.label;
    if (ok && l.n) out->understood = xasprintf("PNGs of %lld class folders in %s", (long long)l.n, folder);
    else if (ok) out->understood = xasprintf("PNGs in %s, no labels", folder);
    for (int64_t i = 0; i < f.n; i++) free(f.file[i]);
    free(f.file);
    names_free(&l);
    return ok;
}

// Samples of several guidance strengths lie in omega-* folders, their settings in the folder above.
static bool settings_above(const char *path) {
    char *above = path_join(path, "../sampling.json"), *name = path_base(path);
    bool is = strncmp(name, "omega-", 6) == 0 && file_exists(above);
    free(above);
    free(name);
    return is;
}

bool samples_read_folder(const char *path, const DatasetInfo *d, Samples *out, Error *err) {
    char *settings = path_join(path, "sampling.json"), *manifest = path_join(path, "manifest.jsonl");
    char *above = path_join(path, "..");
    bool here = file_exists(settings), ours = here || settings_above(path), listed = file_exists(manifest);
    int omegas = 0;
    bool ok = !ours || read_sampling(here ? path : above, &out->origin, &omegas, err);
    if (ok && here && omegas > 1)
        ok = error_set(err, ERR_USAGE,
                       "%s holds samples of %d guidance strengths: name one of the omega-... folders in it",
                       path, omegas);
    ok = ok && (listed ? read_manifest(path, d, out, err) : read_class_folders(path, d, ours, out, err));
    free(settings);
    free(manifest);
    free(above);
    return ok;
}
