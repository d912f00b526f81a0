// sample/write.c - a folder of samples, written so that a run that was stopped at any moment goes on where it was.
//
// Order makes it safe: settings before the first image; an image's floats (synced) before its PNG; every file whole or
// absent; the manifest last. What is made of the images (arrays, grid) is made of the PNGs on disk, once all are there.
#include "sample/write.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sample/sampler.h"

enum { GRID_COLUMNS = 8, GRID_CLASS_COLUMNS = 16, GRID_IMAGES = 256, GRID_SIDE = 16384, GRID_GAP = 2 };
enum { SETTINGS_BYTES = 1 << 20, WRITERS = 16 };
static const char partial_name[] = "samples.f32.partial";

// ---- settings
static bool has_foreign_files(const char *dir) {
    DIR *d = opendir(dir);
    if (!d && errno == ENOMEM) out_of_memory(sizeof(struct dirent));       // not to be taken for an empty folder
    bool foreign = false;
    for (struct dirent *e; d && !foreign && (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        bool leftover = n > 4 && strcmp(e->d_name + n - 4, ".tmp") == 0;      // of a first try that was killed
        foreign = e->d_name[0] != '.' && !leftover;
    }
    if (d) closedir(d);
    return foreign;
}

static bool compare_settings(const char *dir, const cJSON *old, const cJSON *settings, Error *err) {
    for (const cJSON *s = settings->child; s; s = s->next) {
        const cJSON *was = cJSON_GetObjectItemCaseSensitive(old, s->string);
        bool implied = strcmp(s->string, "path") == 0 || strcmp(s->string, "class_counts") == 0;   // by the checkpoint
        if (implied || cJSON_Compare(was, s, true)) continue;
        if (strcmp(s->string, "machine") == 0) {
            for (const cJSON *m = s->child; m; m = m->next)
                if (!cJSON_Compare(cJSON_GetObjectItemCaseSensitive(was, m->string), m, true))
                    log_warn("%s was begun with another setting of %s: images may differ in their last bits", dir,
                             m->string);
            continue;
        }
        char *before = was ? cJSON_PrintUnformatted(was) : NULL, *now = cJSON_PrintUnformatted(s);
        error_set(err, ERR_USAGE,
                  "%s was drawn with %s %.120s, this run says %.120s: name another folder with --out, or "
                  "repeat the settings",
                  dir, s->string, before ? before : "missing", now ? now : "");
        cJSON_free(before);
        cJSON_free(now);
        return false;
    }
    return true;
}

static bool check_settings(const char *dir, const char *path, const cJSON *settings, Error *err) {
    if (!file_exists(path)) {
        if (has_foreign_files(dir))
            return error_set(err, ERR_USAGE, "%s is not empty and holds no sampling.json: name a new folder with --out",
                             dir);
        char *text = cJSON_Print(settings), *line = text ? xasprintf("%s\n", text) : NULL;
        CHECK(line, "settings that cannot be printed");
        bool ok = file_write_text(path, line, err);
        cJSON_free(text);
        free(line);
        return ok;
    }
    uint8_t *bytes;
    size_t n;
    if (!file_read(path, SETTINGS_BYTES, &bytes, &n, err)) return false;
    cJSON *old = cJSON_ParseWithLength((const char *)bytes, n);
    free(bytes);
    bool ok = cJSON_IsObject(old) ? compare_settings(dir, old, settings, err)
                                  : error_set(err, ERR_FILE, "%s is not JSON: name another folder with --out", path);
    cJSON_Delete(old);
    return ok;
}

int sample_claim(const char *dir, const cJSON *settings, Error *err) {
    if (!dir_make(dir, err)) return -1;
    int lock = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock < 0) {
        error_set(err, ERR_IO, "%s: %s", dir, strerror(errno));
        return -1;
    }
    char *path = xasprintf("%s/sampling.json", dir);
    // A file system without locks is no reason to refuse: only a lock that another process holds is.
    bool ok =
        flock(lock, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK ||
        error_set(err, ERR_USAGE, "%s: another process is sampling into it; wait for it or name another --out", dir);
    ok = ok && check_settings(dir, path, settings, err);
    free(path);
    if (ok) return lock;
    close(lock);
    return -1;
}

// ---- the folder
struct SampleDir {
    char            *dir;
    const SampleSet *set;
    bool            *done;              // (n)
    int64_t          left;
    bool             complete;
    int              floats;            // descriptor of the partial file; -1: none
    float           *planes;            // (channels,h,w)
};

static size_t image_size(const SampleSet *s) { return (size_t)s->h * (size_t)s->w * (size_t)s->channels; }

static char *class_dir(const SampleDir *d, int32_t label) {
    return label < 0 ? xasprintf("%s/none", d->dir) : xasprintf("%s/%03d", d->dir, (int)label);
}

static char *image_path(const SampleDir *d, int64_t i) {
    char *folder = class_dir(d, d->set->label[i]);
    char *path = xasprintf("%s/%06lld.png", folder, (long long)d->set->number[i]);
    free(folder);
    return path;
}

static bool there(const SampleDir *d, const char *name) {
    char *path = xasprintf("%s/%s", d->dir, name);
    bool is = file_exists(path);
    free(path);
    return is;
}

static bool all_made(const SampleDir *d) {
    const SampleSet *s = d->set;
    return there(d, "manifest.jsonl") && there(d, "samples.npz") && there(d, "grid.png") &&
           (!s->samples_npy || (there(d, s->samples_npy) && there(d, s->labels_npy)));
}

static bool make_class_dirs(const SampleDir *d, Error *err) {
    bool *made = xcalloc((size_t)d->set->classes + 1, sizeof *made), ok = true;
    for (int64_t i = 0; i < d->set->n && ok; i++) {
        bool *now = &made[d->set->label[i] + 1];
        if (*now) continue;
        char *folder = class_dir(d, d->set->label[i]);
        *now = ok = dir_make(folder, err);
        free(folder);
    }
    free(made);
    return ok;
}

// Which images are there: those whose PNG is and, where floats are wanted and not all is finished, whose floats are.
static bool find_done(SampleDir *d, Error *err) {
    const SampleSet *s = d->set;
    for (int64_t i = 0; i < s->n; i++) {
        char *path = image_path(d, i);
        d->done[i] = file_exists(path);
        d->left -= d->done[i];
        free(path);
    }
    if (!s->samples_npy || (d->left == 0 && all_made(d) && !there(d, partial_name))) return true;
    char *path = xasprintf("%s/%s", d->dir, partial_name);
    struct stat st;
    d->floats = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    bool ok = (d->floats >= 0 && fstat(d->floats, &st) == 0) || error_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    for (int64_t i = ok ? st.st_size / (int64_t)(image_size(s) * sizeof(float)) : s->n; i < s->n; i++) {
        d->left += d->done[i];
        d->done[i] = false;
    }
    free(path);
    return ok;
}

SampleDir *sample_dir_open(const char *dir, const SampleSet *set, Error *err) {
    CHECK(set->n > 0 && (set->channels == 1 || set->channels == 3), "%lld images of %d channels", (long long)set->n,
          set->channels);
    SampleDir *d = xcalloc(1, sizeof *d);
    d->dir = xstrdup(dir);
    d->set = set;
    d->floats = -1;
    d->left = set->n;
    d->done = xcalloc((size_t)set->n, sizeof *d->done);
    d->planes = xmalloc(image_size(set) * sizeof(float));
    if (!dir_make(dir, err) || !make_class_dirs(d, err) || !find_done(d, err)) {
        sample_dir_close(d);
        return NULL;
    }
    d->complete = d->left == 0 && d->floats < 0 && all_made(d);
    return d;
}

void sample_dir_close(SampleDir *d) {
    if (!d) return;
    if (d->floats >= 0) close(d->floats);
    free(d->dir);
    free(d->done);
    free(d->planes);
    free(d);
}

bool    sample_dir_done(const SampleDir *d, int64_t i) { return d->done[i]; }
int64_t sample_dir_left(const SampleDir *d) { return d->left; }
bool    sample_dir_complete(const SampleDir *d) { return d->complete; }

// ---- images
// (h,w,c) in [-1,1] to row i of the partial file, (c,h,w) in [0,1].
static bool put_floats(SampleDir *d, int64_t i, const float *in, Error *err) {
    const SampleSet *s = d->set;
    size_t hw = (size_t)s->h * (size_t)s->w, c = (size_t)s->channels, bytes = image_size(s) * sizeof(float);
    for (size_t p = 0; p < hw; p++)
        for (size_t k = 0; k < c; k++) d->planes[k * hw + p] = (in[p * c + k] + 1) / 2;
    for (size_t at = 0; at < bytes;) {
        ssize_t n = pwrite(d->floats, (char *)d->planes + at, bytes - at, (off_t)((size_t)i * bytes + at));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return error_set(err, ERR_IO, "%s/%s: %s", d->dir, partial_name, strerror(n < 0 ? errno : ENOSPC));
        at += (size_t)n;
    }
    return true;
}

bool sample_dir_put(SampleDir *d, int n, const int64_t *index, const float *pixels, Error *err) {
    const SampleSet *s = d->set;
    size_t e = image_size(s);
    for (int j = 0; j < n && d->floats >= 0; j++)
        if (!put_floats(d, index[j], pixels + (size_t)j * e, err)) return false;
    if (d->floats >= 0 && fdatasync(d->floats) != 0)
        return error_set(err, ERR_IO, "%s/%s: %s", d->dir, partial_name, strerror(errno));
    // Each PNG waits for the disk twice: many at once share the waiting.
    bool ok = true;
#pragma omp parallel for schedule(dynamic) num_threads(WRITERS)
    for (int j = 0; j < n; j++) {
        uint8_t *rgb = xmalloc(e);
        Error why = { 0 };
        images_to_u8(pixels + (size_t)j * e, (int64_t)e, rgb);
        char *path = image_path(d, index[j]);
        bool written = png_write(path, rgb, s->w, s->h, s->channels, &why);
#pragma omp critical(sample_dir_put)
        {
            d->left -= written && !d->done[index[j]];
            d->done[index[j]] |= written;
            if (!written && ok) *err = why;
            ok = ok && written;
        }
        free(path);
        free(rgb);
    }
    return ok;
}

// ---- what is made of them
static uint8_t *read_image(const SampleDir *d, int64_t i, Error *err) {
    const SampleSet *s = d->set;
    char *path = image_path(d, i);
    uint8_t *pixels = NULL;
    int w = 0, h = 0;
    Error why = { 0 };
    bool ok = png_read(path, s->channels, &pixels, &w, &h, &why);
    if (!ok || w != s->w || h != s->h) {
        if (why.code == ERR_MEMORY) *err = why;
        else error_set(err, ERR_FILE, "%s is damaged%s%.200s: remove it and repeat the command, which draws it again",
                       path, ok ? "" : ": ", why.msg);
        free(pixels);
        pixels = NULL;
    }
    free(path);
    return pixels;
}

static int64_t *wide_labels(const SampleSet *s) {
    int64_t *labels = xmalloc((size_t)s->n * sizeof *labels);
    for (int64_t i = 0; i < s->n; i++) labels[i] = s->label[i];
    return labels;
}

static bool write_npz(const SampleDir *d, Error *err) {
    const SampleSet *s = d->set;
    NpyArray images = { .descr = "|u1", .ndim = 4, .shape = { s->n, s->h, s->w, s->channels } };
    NpyArray labels = { .descr = "<i8", .ndim = 1, .shape = { s->n } };
    char *path = xasprintf("%s/samples.npz", d->dir);
    NpzWriter *z = npz_create(path, err);
    free(path);
    if (!z) return false;
    npz_begin(z, "arr_0", &images);                       // failures are kept for npz_commit
    for (int64_t i = 0; i < s->n; i++) {
        uint8_t *pixels = read_image(d, i, err);
        if (!pixels) {
            npz_abandon(z);
            return false;
        }
        npz_rows(z, pixels, image_size(s));
        free(pixels);
    }
    int64_t *wide = wide_labels(s);
    npz_begin(z, "arr_1", &labels);
    npz_rows(z, wide, (size_t)s->n * sizeof *wide);
    free(wide);
    return npz_commit(z, err);
}

static bool write_float_arrays(SampleDir *d, Error *err) {
    const SampleSet *s = d->set;
    size_t bytes = image_size(s) * sizeof(float);
    NpyArray samples = { .descr = "<f4", .ndim = 4, .shape = { s->n, s->channels, s->h, s->w } };
    char *path = xasprintf("%s/%s", d->dir, s->samples_npy);
    FileWriter *w = npy_create(path, &samples, err);
    bool ok = w != NULL;
    for (int64_t i = 0; i < s->n && ok; i++) {
        ok = pread(d->floats, d->planes, bytes, (off_t)((size_t)i * bytes)) == (ssize_t)bytes;
        if (!ok) error_set(err, ERR_IO, "%s/%s cannot be read: remove it and repeat the command", d->dir, partial_name);
        else file_write(w, d->planes, bytes);
    }
    if (ok) ok = file_commit(w, err);
    else if (w) file_abandon(w);
    free(path);
    if (!ok) return false;
    int64_t *wide = wide_labels(s);
    NpyArray labels = { .descr = "<i8", .ndim = 1, .shape = { s->n }, .data = wide };
    path = xasprintf("%s/%s", d->dir, s->labels_npy);
    ok = npy_write(path, &labels, err);
    free(path);
    free(wide);
    return ok;
}

// Which image stands in which cell: one row per class, or all in order. cell (rows * columns), -1: empty.
static int64_t *lay_out_grid(const SampleSet *s, int *rows, int *columns) {
    int fit = (GRID_SIDE - GRID_GAP) / (s->h + GRID_GAP), across = (GRID_SIDE - GRID_GAP) / (s->w + GRID_GAP);
    bool by_class = s->row_per_class;
    *columns = by_class ? GRID_CLASS_COLUMNS : GRID_COLUMNS;
    if (*columns > across) *columns = across;
    if (s->n < *columns) *columns = (int)s->n;
    int64_t shown = s->n < GRID_IMAGES ? s->n : GRID_IMAGES;
    *rows = by_class ? s->classes : (int)((shown + *columns - 1) / *columns);
    if (*rows > fit) *rows = fit;
    size_t cells = (size_t)*rows * (size_t)*columns;
    int64_t *cell = xmalloc(cells * sizeof *cell);
    int *used = xcalloc((size_t)*rows, sizeof *used), widest = 0;
    for (size_t i = 0; i < cells; i++) cell[i] = -1;
    for (int64_t i = 0; i < s->n && (by_class || i < (int64_t)cells); i++) {
        int64_t row = by_class ? s->label[i] : i / *columns;
        if (row >= *rows || used[row] == *columns) continue;
        cell[row * *columns + used[row]++] = i;
        if (used[row] > widest) widest = used[row];
    }
    for (int r = 0; r < *rows; r++)                       // close up: columns that no row fills are left out
        for (int k = 0; k < widest; k++) cell[r * widest + k] = cell[r * *columns + k];
    *columns = widest;
    free(used);
    return cell;
}

static bool write_grid(const SampleDir *d, Error *err) {
    const SampleSet *s = d->set;
    int rows, columns;
    int64_t *cell = lay_out_grid(s, &rows, &columns);
    size_t cells = (size_t)rows * (size_t)columns;
    uint8_t **images = xcalloc(cells, sizeof *images);
    bool ok = true;
    for (size_t i = 0; i < cells && ok; i++)
        if (cell[i] >= 0) ok = (images[i] = read_image(d, cell[i], err)) != NULL;
    char *path = xasprintf("%s/grid.png", d->dir);
    ok = ok && png_write_grid(path, (const uint8_t *const *)images, rows, columns, s->w, s->h, s->channels, err);
    free(path);
    for (size_t i = 0; i < cells; i++) free(images[i]);
    free(images);
    free(cell);
    return ok;
}

static bool write_manifest(const SampleDir *d, Error *err) {
    const SampleSet *s = d->set;
    char *path = xasprintf("%s/manifest.jsonl", d->dir);
    FileWriter *w = file_create(path, err);
    for (int64_t i = 0; i < s->n && w; i++) {
        char *file = image_path(d, i), *where = json_quote(file + strlen(d->dir) + 1);
        char *name = s->label[i] < 0 ? xstrdup("null") : json_quote(s->class_names[s->label[i]]);
        char *line = xasprintf(
            "{\"index\": %lld, \"number\": %lld, \"label\": %d, \"class\": %s, \"file\": %s, \"omega\": %.17g, "
            "\"sampler\": \"%s\", \"checkpoint\": \"%s\"}\n",
            (long long)i, (long long)s->number[i], (int)s->label[i], name, where, s->omega, s->sampler, s->checkpoint);
        file_write(w, line, strlen(line));
        free(file);
        free(where);
        free(name);
        free(line);
    }
    free(path);
    return w && file_commit(w, err);
}

bool sample_dir_finish(SampleDir *d, Error *err) {
    CHECK(d->left == 0, "%lld images are missing", (long long)d->left);
    bool ok = write_npz(d, err) && (d->floats < 0 || write_float_arrays(d, err)) && write_grid(d, err) &&
              write_manifest(d, err);
    if (ok && d->floats >= 0) {
        char *path = xasprintf("%s/%s", d->dir, partial_name);
        unlink(path);
        free(path);
        close(d->floats);
        d->floats = -1;
    }
    d->complete = ok;
    return ok;
}
