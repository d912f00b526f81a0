// eval/report_run.c - finds and reads what belongs to runs, and sorts runs into arms.
#include "eval/report_run.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/file.h"
#include "core/path.h"

enum { STATS_BYTES = 1 << 30, NAMES_MAX = 4096 };

// ---- folders
static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

// Names in dir that begin and end so, sorted; caller frees each and the list. No folder: none.
static char **names_in(const char *dir, const char *begin, const char *end, int *count) {
    char **names = xcalloc(NAMES_MAX, sizeof *names);
    DIR *d = opendir(dir);
    *count = 0;
    for (struct dirent *e; d && *count < NAMES_MAX && (e = readdir(d));) {
        bool fits = e->d_name[0] != '.' && strncmp(e->d_name, begin, strlen(begin)) == 0
                 && text_ends_with(e->d_name, end);
        if (fits) names[(*count)++] = xstrdup(e->d_name);
    }
    if (d) closedir(d);
    qsort(names, (size_t)*count, sizeof *names, compare_names);
    return names;
}

static void names_free(char **names, int count) {
    for (int i = 0; i < count; i++) free(names[i]);
    free(names);
}

// ---- stats.jsonl
static const char *const series_names[SERIES_COUNT] = { "loss", "denoising", "balancing", "grad_norm" };
static const char *const probe_names[PROBE_COUNT] = { "train", "held_out" };

static void append(double **list, int n, double v) {
    if ((n & (n - 1)) == 0) *list = xrealloc(*list, (size_t)(n ? 2 * n : 1) * sizeof **list);
    (*list)[n] = v;
}

static double *copy_numbers(const Json *v, int *n) {
    *n = 0;
    if (!v || v->kind != JSON_ARRAY) return NULL;
    double *x = xmalloc((size_t)(v->count + 1) * sizeof *x);
    for (const Json *c = v->first; c; c = c->next) x[(*n)++] = c->kind == JSON_NUMBER ? c->number : (double)NAN;
    return x;
}

static void take_probe(Run *r, const Json *line, double step) {
    const char *kind = json_text(line, "probe");
    for (int k = 0; kind && k < PROBE_COUNT; k++) {
        if (strcmp(kind, probe_names[k]) != 0) continue;
        RunProbe *p = &r->probe[k];
        free(p->by_class);
        free(p->by_tenth);
        p->step = step;
        p->by_class = copy_numbers(json_get(line, "denoising_by_class"), &p->classes);
        p->by_tenth = copy_numbers(json_get(line, "denoising_by_tenth_of_t"), &p->tenths);
    }
}

// Mean of those that are numbers; NaN where none is.
static double mean_of(const double *x, int n) {
    double sum = 0;
    int count = 0;
    for (int i = 0; i < n; i++)
        if (isfinite(x[i])) sum += x[i], count++;
    return count ? sum / count : (double)NAN;
}

static void take_eval(Run *r, const Json *eval, double step) {
    RunEvals *e = &r->evals;
    int n;
    double *fidelity = copy_numbers(json_get(eval, "fidelity"), &n);
    const Json *groups = json_get(eval, "per_group"), *few = groups ? json_get(groups, "few") : NULL;
    append(&e->step, e->n, step);
    append(&e->value[EVAL_FID], e->n, json_double(eval, "fid"));
    append(&e->value[EVAL_FIDELITY], e->n, mean_of(fidelity, n));
    append(&e->value[EVAL_FIDELITY_FEW], e->n, few ? json_double(few, "fidelity") : (double)NAN);
    e->n++;
    free(fidelity);
}

static void take_line(Run *r, const Json *line) {
    double step = json_double(line, "step");
    if (!(step >= 0)) {
        r->bad_lines++;
        return;
    }
    if (json_get(line, "probe")) take_probe(r, line, step);
    else if (json_get(line, "eval")) take_eval(r, json_get(line, "eval"), step);
    for (int k = 0; k < SERIES_COUNT; k++) {
        RunSeries *s = &r->series[k];
        double v = json_double(line, series_names[k]);
        if (!isfinite(v) || (s->n && step <= s->step[s->n - 1])) continue;
        append(&s->step, s->n, step);
        append(&s->value, s->n, v);
        s->n++;
    }
}

// A line that a killed trainer left torn, or that is no object, is passed over and counted.
static bool read_stats(Run *r, Error *err) {
    char *path = path_join(r->path, "stats.jsonl");
    uint8_t *bytes;
    size_t n;
    bool there = file_exists(path), ok = !there || file_read(path, STATS_BYTES, &bytes, &n, err);
    free(path);
    if (!there || !ok) return ok;
    const char *at = (const char *)bytes, *text;
    for (size_t length; text_line(&at, (const char *)bytes + n, &text, &length);) {
        Error why;
        Json *line = length ? json_parse(text, length, "line", &why) : NULL;
        if (line) take_line(r, line);
        else if (length) r->bad_lines++;
        json_free(line);
    }
    free(bytes);
    return true;
}

// ---- results and samples
static bool same_file(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static bool add_result(Run *r, const char *path, Error *err) {
    for (int i = 0; i < r->n_results; i++)
        if (same_file(r->results[i]->path, path)) return true;
    Result *result = result_read(path, err);
    if (!result) return false;
    r->results = xrealloc(r->results, (size_t)(r->n_results + 1) * sizeof *r->results);
    r->results[r->n_results++] = result;
    return true;
}

// JSON that says no format is something else and left alone; what is no JSON is refused.
static bool add_if_result(Run *r, const char *path, Error *err) {
    Json *j = json_read(path, err);
    if (!j) return false;
    bool is = json_text(j, "format") != NULL;
    json_free(j);
    return !is || add_result(r, path, err);
}

// RUN/eval/*.json and RUN/*.json.
static bool find_results(Run *r, Error *err) {
    bool ok = true;
    for (int sub = 0; sub < 2 && ok; sub++) {
        char *dir = sub ? xstrdup(r->path) : path_join(r->path, "eval");
        int n;
        char **names = names_in(dir, "", ".json", &n);
        for (int i = 0; i < n && ok; i++) {
            char *path = path_join(dir, names[i]);
            bool own = sub && (strcmp(names[i], "config.json") == 0 || strcmp(names[i], "manifest.json") == 0);
            ok = own || add_if_result(r, path, err);
            free(path);
        }
        names_free(names, n);
        free(dir);
    }
    return ok;
}

// omega of the first line of the folder's manifest.
static double omega_of(const char *manifest) {
    enum { BYTES = 1 << 28 };
    uint8_t *bytes;
    size_t n;
    Error why;
    if (!file_read(manifest, BYTES, &bytes, &n, &why)) return NAN;
    const char *at = (const char *)bytes, *text;
    size_t length;
    Json *line = text_line(&at, at + n, &text, &length) ? json_parse(text, length, manifest, &why) : NULL;
    double omega = json_double(line, "omega");
    json_free(line);
    free(bytes);
    return omega;
}

// dir itself, if it is complete, and the folders of several omegas in it. False: none of them.
static bool add_samples(Run *r, const char *dir) {
    int n, before = r->n_samples;
    char **names = names_in(dir, "omega-", "", &n);
    for (int i = -1; i < n; i++) {
        char *path = i < 0 ? xstrdup(dir) : path_join(dir, names[i]), *manifest = path_join(path, "manifest.jsonl");
        if (file_exists(manifest)) {
            r->samples = xrealloc(r->samples, (size_t)(r->n_samples + 1) * sizeof *r->samples);
            r->samples[r->n_samples++] = (RunSamples){ xstrdup(path), omega_of(manifest) };
        }
        free(path);
        free(manifest);
    }
    names_free(names, n);
    return r->n_samples > before;
}

static void find_samples(Run *r) {
    int n;
    char **names = names_in(r->path, "samples", "", &n);
    for (int i = 0; i < n; i++) {
        char *dir = path_join(r->path, names[i]);
        add_samples(r, dir);
        free(dir);
    }
    names_free(names, n);
    char *dir = path_join(r->path, "previews");
    names = names_in(dir, "step-", ".png", &n);
    if (n) r->preview = path_join(dir, names[n - 1]);
    names_free(names, n);
    free(dir);
}

// ---- a run
// The last part of the path, without the ending of a file; caller frees.
static char *name_of(const char *path, bool file) {
    char *name = path_base(path), *dot = file ? strrchr(name, '.') : NULL;
    if (dot && dot > name) *dot = 0;
    return name;
}

// "cbdm-tau1-s0", "ddpm_seed3" -> the part before the seed, which is put into *seed; else a copy of the name.
static char *stem_of(const char *name, double *seed) {
    size_t n = strlen(name), digits = 0;
    while (digits < n && name[n - digits - 1] >= '0' && name[n - digits - 1] <= '9') digits++;
    static const char *const marks[] = { "-seed", "_seed", "-s", "_s" };
    for (size_t i = 0; digits && i < sizeof marks / sizeof *marks; i++) {
        size_t mark = strlen(marks[i]);
        if (n <= digits + mark || strncmp(name + n - digits - mark, marks[i], mark) != 0) continue;
        *seed = strtod(name + n - digits, NULL);
        return xasprintf("%.*s", (int)(n - digits - mark), name);
    }
    return xstrdup(name);
}

static bool read_json_in(const char *dir, const char *name, Json **out, Error *err) {
    char *path = path_join(dir, name);
    bool there = file_exists(path);
    if (there) *out = json_read(path, err);
    free(path);
    return !there || *out;
}

// The folder RUN of a result RUN/FILE or RUN/eval/FILE, known by its config.json; NULL: none. Caller frees.
static char *run_of_result(const char *path) {
    char *dir = realpath(path, NULL);
    for (int up = 0; dir && up < 2; up++) {
        char *slash = strrchr(dir, '/');
        if (!slash || slash == dir) break;
        *slash = 0;
        char *config = path_join(dir, "config.json");
        bool is = file_exists(config);
        free(config);
        if (is) return dir;
    }
    free(dir);
    return NULL;
}

static bool read_folder(Run *r, Error *err) {
    if (!read_json_in(r->path, "config.json", &r->config, err)
        || !read_json_in(r->path, "manifest.json", &r->manifest, err) || !read_stats(r, err)) return false;
    find_samples(r);
    if (isfinite(json_double(r->config, "seed"))) r->seed = json_double(r->config, "seed");
    return true;
}

// A folder with all that is in it; a result file with its run, if it lies in one, but without that run's other results.
static bool read_run(const char *path, Run *r, Error *err) {
    bool folder = path_is_folder(path);
    if (!folder && !file_exists(path))
        return error_set(err, ERR_FILE, "%s: no such run folder or result file", path);
    r->path = folder ? xstrdup(path) : run_of_result(path);
    r->name = name_of(r->path ? r->path : path, !r->path);
    r->seed = NAN;
    r->stem = stem_of(r->name, &r->seed);
    if (r->path && !read_folder(r, err)) return false;
    if (!(folder ? find_results(r, err) : add_result(r, path, err))) return false;
    if (!r->path) r->path = xstrdup(path);
    if (!r->config && !r->series[SERIES_LOSS].n && !r->n_results && !r->n_samples)
        return error_set(err, ERR_FILE, "%s: no run: it holds no config.json, stats.jsonl, results or samples", path);
    return true;
}

static void run_free(Run *r) {
    for (int k = 0; k < SERIES_COUNT; k++) free(r->series[k].step), free(r->series[k].value);
    for (int k = 0; k < PROBE_COUNT; k++) free(r->probe[k].by_class), free(r->probe[k].by_tenth);
    for (int k = 0; k < EVAL_COUNT; k++) free(r->evals.value[k]);
    for (int i = 0; i < r->n_results; i++) result_free(r->results[i]);
    for (int i = 0; i < r->n_samples; i++) free(r->samples[i].path);
    free(r->evals.step);
    free(r->results);
    free(r->samples);
    free(r->preview);
    free(r->path);
    free(r->name);
    free(r->stem);
    json_free(r->config);
    json_free(r->manifest);
}

// ---- arms
// What a configuration says of how a run is watched and kept, not of what it learns.
static bool is_bookkeeping(const char *key) {
    static const char *const keys[] = { "seed", "log-every", "save-every", "keep", "milestone-every", "preview-every",
                                        "preview-steps", "preview-omega", "probe-every", "probe-images", "resident",
                                        "data" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(key, keys[i]) == 0) return true;
    return strncmp(key, "eval-", 5) == 0;
}

static bool config_includes(const Json *a, const Json *b) {
    for (const Json *m = a->first; m; m = m->next) {
        const Json *other = json_get(b, m->key);
        if (is_bookkeeping(m->key) || m->kind == JSON_NULL) continue;
        char *x = json_print(m), *y = other ? json_print(other) : NULL;
        bool same = y && strcmp(x, y) == 0;
        free(x);
        free(y);
        if (!same) return false;
    }
    return true;
}

// By --names the name decides. Else seeds must differ, configurations be equal beside them, and stems too where both
// names end in a seed.
static bool same_arm(const Run *a, const Run *b) {
    bool same_stem = strcmp(a->stem, b->stem) == 0;
    bool seeded = strcmp(a->stem, a->name) != 0 && strcmp(b->stem, b->name) != 0;
    if (a->named) return strcmp(a->name, b->name) == 0;
    if (!(isfinite(a->seed) && isfinite(b->seed) && a->seed != b->seed)) return false;
    if (a->config && b->config) {
        if (!config_includes(a->config, b->config) || !config_includes(b->config, a->config)) return false;
        return same_stem || !seeded;
    }
    return same_stem && seeded;
}

static void sort_into_arms(RunSet *s) {
    s->arm = xcalloc((size_t)s->n + 1, sizeof *s->arm);
    for (int i = 0; i < s->n; i++) {
        Run *r = &s->run[i];
        r->arm = -1;
        for (int a = 0; a < s->n_arms && r->arm < 0; a++) {
            bool fits = true;                                // to every run of the arm: no seed stands in it twice
            for (int k = 0; k < s->arm[a].n && fits; k++) fits = same_arm(&s->run[s->arm[a].runs[k]], r);
            if (fits) r->arm = a;
        }
        if (r->arm < 0) {
            r->arm = s->n_arms++;
            s->arm[r->arm] = (Arm){ r->name, 0, xcalloc((size_t)s->n, sizeof(int)) };
        }
        Arm *arm = &s->arm[r->arm];
        arm->runs[arm->n++] = i;
        if (arm->n > 1) arm->name = s->run[arm->runs[0]].stem;
    }
}

// What is named again, or lies in the folder of a run that is there, is that run's.
static bool belongs_to_earlier(RunSet *s, const char *path, bool *taken, Error *err) {
    bool folder = path_is_folder(path);
    char *dir = folder ? xstrdup(path) : run_of_result(path);
    bool ok = true;
    *taken = false;
    for (int i = 0; dir && i < s->n && !*taken; i++) {
        *taken = same_file(dir, s->run[i].path);
        if (*taken) ok = folder ? find_results(&s->run[i], err) : add_result(&s->run[i], path, err);
    }
    free(dir);
    return ok;
}

bool run_set_read(const char *const *paths, int n, const char *const *names, int n_names, const char *const *samples,
                  int n_samples, RunSet *out, Error *err) {
    *out = (RunSet){ .run = xcalloc((size_t)n + 1, sizeof *out->run) };
    bool ok = true;
    for (int i = 0; i < n && ok; i++) {
        bool taken;
        ok = belongs_to_earlier(out, paths[i], &taken, err);
        if (ok && !taken) ok = read_run(paths[i], &out->run[out->n++], err);
    }
    if (ok && n_names && n_names != out->n)
        ok = error_set(err, ERR_USAGE, "--names has %d names, there are %d runs", n_names, out->n);
    for (int i = 0; ok && i < n_names; i++) {
        Run *r = &out->run[i];
        free(r->name);
        free(r->stem);
        r->name = xstrdup(names[i]);
        r->stem = xstrdup(names[i]);
        r->named = true;
    }
    if (ok && n_samples > out->n) ok = error_set(err, ERR_USAGE, "--samples has %d folders, there are %d runs",
                                                 n_samples, out->n);
    for (int i = 0; ok && i < n_samples; i++)
        if (*samples[i] && !add_samples(&out->run[i], samples[i]))
            ok = error_set(err, ERR_FILE, "%s: no samples: a folder of `cbdm sample` holds manifest.jsonl", samples[i]);
    if (ok) sort_into_arms(out);
    return ok;
}

void run_set_free(RunSet *s) {
    for (int i = 0; i < s->n; i++) run_free(&s->run[i]);
    for (int a = 0; a < s->n_arms; a++) free(s->arm[a].runs);
    free(s->run);
    free(s->arm);
    *s = (RunSet){ 0 };
}
