// train/run_dir.c - the folder of a run.
#include "train/run_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

struct RunDir { char *path; int lock; FileLog *stats; };

const char *run_dir_path(const RunDir *r) { return r->path; }

// What a killed writer left behind.
static void remove_leftovers(const char *dir) {
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        if (n < 5 || strcmp(e->d_name + n - 4, ".tmp") != 0) continue;
        char *path = xasprintf("%s/%s", dir, e->d_name);
        unlink(path);
        free(path);
    }
    if (d) closedir(d);
}

static bool open_lock(RunDir *r, Error *err) {
    char *path = xasprintf("%s/lock", r->path);
    r->lock = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
    bool ok = true;
    if (r->lock < 0) ok = error_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    else if (flock(r->lock, LOCK_EX | LOCK_NB) != 0)
        ok = error_set(err, ERR_USAGE, "run %s is being trained by another process: stop it first, or use another "
                       "--out", r->path);
    free(path);
    return ok;
}

RunDir *run_dir_open(const char *dir, bool resume, Error *err) {
    RunDir *r = xcalloc(1, sizeof *r);
    r->path = xstrdup(dir);
    r->lock = -1;
    char *checkpoints = xasprintf("%s/checkpoints", dir), *previews = xasprintf("%s/previews", dir);
    char *stats = xasprintf("%s/stats.jsonl", dir);
    int64_t *steps;
    bool ok = true;
    if (!resume && checkpoint_list(dir, &steps) > 0)
        ok = error_set(err, ERR_USAGE, "--out %s holds a run already: go on with --resume %s, or name another folder",
                       dir, dir);
    ok = ok && dir_make(checkpoints, err) && dir_make(previews, err) && open_lock(r, err);
    if (ok) {
        remove_leftovers(dir);
        remove_leftovers(checkpoints);
        remove_leftovers(previews);
        r->stats = file_log_open(stats, !resume, err);
        ok = r->stats != NULL;
    }
    if (!resume) free(steps);
    free(checkpoints);
    free(previews);
    free(stats);
    if (ok) return r;
    run_dir_close(r);
    return NULL;
}

void run_dir_close(RunDir *r) {
    if (!r) return;
    file_log_close(r->stats);
    if (r->lock >= 0) close(r->lock);
    free(r->path);
    free(r);
}

bool run_dir_describe(RunDir *r, const RunConfig *c, const DatasetInfo *data, const Device *d, Error *err) {
    char *json = run_config_json(c), *path = xasprintf("%s/config.json", r->path), machine[320];
    bool ok = file_write_text(path, json, err);
    free(path);
    free(json);
    device_describe(d, machine, sizeof machine);
    char *source = json_quote(data->source), *info = json_quote(machine);
    path = xasprintf("%s/manifest.json", r->path);
    json = xasprintf("{\"program\": \"cbdm %s\", \"machine\": %s, \"data\": %s, \"images\": %lld, "
                     "\"data_sha256\": \"%s\"}\n", CBDM_VERSION, info, source, (long long)data->count, data->digest);
    ok = ok && file_write_text(path, json, err);
    free(path);
    free(json);
    free(source);
    free(info);
    return ok;
}

bool run_dir_rewind(RunDir *r, int64_t step, Error *err) {
    char *path = xasprintf("%s/stats.jsonl", r->path);
    uint8_t *bytes = NULL;
    size_t n = 0;
    bool ok = file_read(path, (size_t)1 << 33, &bytes, &n, err);
    FileWriter *w = ok ? file_create(path, err) : NULL;
    for (size_t at = 0; w && at < n;) {
        const char *line = (const char *)bytes + at, *end = memchr(line, '\n', n - at);
        if (!end) break;                                  // torn by a kill
        long long s;
        if (sscanf(line, "{\"step\": %lld", &s) == 1 && s <= step) file_write(w, line, (size_t)(end - line) + 1);
        at += (size_t)(end - line) + 1;
    }
    ok = w && file_commit(w, err);
    free(bytes);
    if (ok) {
        file_log_close(r->stats);
        r->stats = file_log_open(path, false, err);
        ok = r->stats != NULL;
    }
    free(path);
    return ok;
}

void run_dir_stat(RunDir *r, const char *json_line) {
    Error err;
    if (!file_log_line(r->stats, json_line, &err)) log_warn("%s", err.msg);
}

static char *json_names(const DatasetInfo *d) {
    char *out = xstrdup("[");
    for (int i = 0; i < d->classes; i++) {
        char *quoted = json_quote(d->class_names[i]), *next = xasprintf("%s%s%s", out, i ? ", " : "", quoted);
        free(quoted);
        free(out);
        out = next;
    }
    char *closed = xasprintf("%s]", out);
    free(out);
    return closed;
}

static char *json_counts(const DatasetInfo *d) {
    char *out = xmalloc((size_t)d->classes * 24 + 3), *at = out;
    for (int i = 0; i < d->classes; i++) at += sprintf(at, "%s%lld", i ? ", " : "[", (long long)d->per_class[i]);
    strcpy(at, "]");
    return out;
}

// Files of later steps are damaged ones that the run was not resumed from: they neither count nor are touched, until
// training comes to their steps again.
static void prune(const RunDir *r, const RunConfig *c, int64_t step) {
    int64_t *steps;
    int n = checkpoint_list(r->path, &steps);
    while (n > 0 && steps[n - 1] > step) n--;
    for (int i = 0; c->keep > 0 && i < n - c->keep; i++) {
        if (c->milestone_every && steps[i] && steps[i] % c->milestone_every == 0) continue;
        char *path = checkpoint_path(r->path, steps[i]);
        if (unlink(path) != 0) log_warn("%s could not be removed: %s", path, strerror(errno));
        free(path);
    }
    free(steps);
}

bool run_dir_save(RunDir *r, const RunConfig *c, const DatasetInfo *data, const ParamSet *ps, int64_t step,
                  const char *loop, Error *err) {
    char machine[320], *path = checkpoint_path(r->path, step);
    device_describe(param_device(ps), machine, sizeof machine);
    const char *keys[] = { "format", "step", "config", "model", "ema_decay", "ema_ramp", "class_names", "class_counts",
                           "data_sha256", "machine", "program", "loop" };
    char *made[] = { xasprintf("%lld", (long long)step), run_config_json(c), run_config_model_json(c),
                     xasprintf("%.17g", c->ema_decay), json_names(data), json_counts(data) };
    const char *values[] = { "cbdm-checkpoint-1", made[0], made[1], made[2], made[3], c->ema_ramp ? "true" : "false",
                             made[4], made[5], data->digest, machine, "cbdm " CBDM_VERSION, loop };
    Error torn;                                         // lines of steps before it must not be lost if it is not
    if (!file_log_sync(r->stats, &torn)) log_warn("%s", torn.msg);
    bool ok = ckpt_save(ps, path, keys, values, sizeof keys / sizeof keys[0], err);
    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++) free(made[i]);
    free(path);
    if (ok) prune(r, c, step);
    return ok;
}
