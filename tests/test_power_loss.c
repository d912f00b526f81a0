// tests/test_power_loss.c - the power goes at any moment of a run, and the disk keeps what the calls so far promise.
//
// The system calls of a run and of its resumption are recorded (trace_shim.c) and told, one by one, to a model of a
// disk (disk.h). After each call the model gives states that the disk may be in if the power goes now. In each of them every
// file under a checkpoint's name must be, byte for byte, one that the run had saved; the newest that the loader finds
// must not be older than the last save that the run had gone on from; what describes the run must be whole beside it;
// and statistics up to that step must be there. From a choice of the states the run is really resumed, and must become
// byte for byte the undisturbed one.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sys/stat.h>
#include "tests/disk.h"
#include "tests/program.h"
#include "train/run_dir.h"

#define FLAGS "train " TINY "--save-every 2 --log-every 1 --keep 2 "
#define RUN "world/runs/a"
enum { STEPS = 8, HALF = 4, MAX_STEPS = 16, FEW = 7 };

static Call *call;                             // the record
static int n_calls;

// Which syncs the model is not told of: the checker must then find damage.
typedef enum { SYNCS_ALL, SYNCS_NO_FILES, SYNCS_NO_FOLDERS } Syncs;

// What the run has done so far, as its calls tell.
typedef struct { uint8_t *bytes; size_t n; } Version;
typedef struct {
    Version checkpoint[MAX_STEPS + 1];         // by step, as it was renamed into place
    Version describing[2][8];                  // versions of config.json and manifest.json
    int     n_describing[2];
    int64_t renamed, promised;                 // newest step renamed; newest one that the run went on from; -1: none
} History;

typedef struct { int states, distinct, bad, outcomes, per_save[MAX_STEPS + 1]; char why[300]; } Tally;

static uint64_t chance = 88172645463325252u;   // xorshift
static uint64_t random_u64(void) {
    chance ^= chance << 13;
    chance ^= chance >> 7;
    return chance ^= chance << 17;
}

// ---- recording

static bool recording;
static void preload(void) {
    if (!recording) return;
    program_preload(TRACE_SHIM);
    setenv("TRACE_SHIM_LOG", "calls.trace", 1);
}

static int setup(void **state) {
    if (tempdir_make(state) != 0) return -1;
    program_prepare = preload;
    program_write_data();
    return 0;
}

static int teardown(void **state) {
    calls_free(call, n_calls);
    return tempdir_remove(state);
}

static void a_run_is_recorded(void **state) {
    (void)state;
    program_expect(0, FLAGS "--steps %d --out whole", STEPS);
    assert_true(dir_make(temp_path("world"), NULL));
    recording = true;
    program_expect(0, FLAGS "--steps %d --out " RUN, HALF);
    program_expect(0, "train --resume " RUN " --steps %d", STEPS);
    recording = false;
    size_t n;
    uint8_t *bytes = read_bytes("calls.trace", &n);
    call = calls_read(bytes, n, &n_calls);
    free(bytes);
    int renames = 0, syncs = 0;
    for (int i = 0; i < n_calls; i++) renames += call[i].kind == CALL_RENAME, syncs += call[i].kind == CALL_FSYNC;
    printf("%d calls, %d renames, %d syncs\n", n_calls, renames, syncs);
    assert_true(renames >= STEPS / 2 && syncs >= 2 * renames);
}

// ---- what is true of the run at a moment

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static int64_t checkpoint_step(const char *path) {
    const char *at = strstr(path, "/step-");
    return at && ends_with(path, ".safetensors") ? strtoll(at + 6, NULL, 10) : -1;
}

static Version version(const Disk *d, const char *path) {
    size_t n = 0;
    const uint8_t *bytes = disk_view(d, path, &n);
    assert_non_null(bytes);
    return (Version){ memcpy(xmalloc(n + 1), bytes, n), n };
}

static const char *const describing[] = { RUN "/config.json", RUN "/manifest.json" };

// After call c. A save is taken for done as soon as the run does anything after it: the next line of statistics, the
// removal of an older checkpoint, its end.
static void history_add(History *h, const Disk *d, const Call *c, const char *written) {
    if (c->kind == CALL_RENAME) {
        int64_t step = checkpoint_step(c->to);
        assert_true(step <= MAX_STEPS);
        if (step >= 0) {
            free(h->checkpoint[step].bytes);
            h->checkpoint[step] = version(d, c->to);
            h->renamed = step;
        }
        for (int i = 0; i < 2; i++)
            if (strcmp(c->to, describing[i]) == 0) h->describing[i][h->n_describing[i]++] = version(d, c->to);
    }
    bool goes_on = (c->kind == CALL_WRITE && written && ends_with(written, "stats.jsonl")) || c->kind == CALL_START ||
                   (c->kind == CALL_UNLINK && checkpoint_step(c->path) >= 0);
    if (goes_on) h->promised = h->renamed;
}

static void history_free(History *h) {
    for (int i = 0; i <= MAX_STEPS; i++) free(h->checkpoint[i].bytes);
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < h->n_describing[i]; j++) free(h->describing[i][j].bytes);
}

// ---- a state

static const TreeEntry *tree_find(const Tree *t, const char *path) {
    for (int i = 0; i < t->n; i++)
        if (strcmp(t->entry[i].path, path) == 0) return &t->entry[i];
    return NULL;
}

static bool same(const TreeEntry *e, const Version *v) {
    return v->bytes && e->n == v->n && memcmp(e->bytes, v->bytes, v->n) == 0;
}

// The newest checkpoint of a state; -1: none. -2: a file under a checkpoint's name that none of the run's saves wrote.
static int64_t newest_whole(const History *h, const Tree *t) {
    int64_t newest = -1;
    for (int i = 0; i < t->n; i++) {
        int64_t step = checkpoint_step(t->entry[i].path);
        if (step < 0) continue;
        if (step > MAX_STEPS || !same(&t->entry[i], &h->checkpoint[step])) return -2;
        if (step > newest) newest = step;
    }
    return newest;
}

// The lines of the undisturbed run up to a step are there in order; torn and later ones do not count.
static bool stats_hold(const TreeEntry *stats, int64_t step) {
    int64_t next = 1;
    for (size_t at = 0; stats && at < stats->n;) {
        const char *line = (const char *)stats->bytes + at, *end = memchr(line, '\n', stats->n - at);
        if (!end) break;
        long long s;
        char start[32] = "";
        memcpy(start, line, (size_t)(end - line) < 31 ? (size_t)(end - line) : 31);
        if (sscanf(start, "{\"step\": %lld", &s) == 1 && s == next && end[-1] == '}') next++;
        at += (size_t)(end - line) + 1;
    }
    return next > step;
}

// NULL: as it should be.
static const char *what_is_wrong(const History *h, const Tree *t, int64_t *newest) {
    *newest = newest_whole(h, t);
    if (*newest == -2) return "a damaged file under a checkpoint's name";
    if (*newest < h->promised) return "a checkpoint that the run had gone on from is lost";
    for (int i = 0; i < 2; i++) {
        const TreeEntry *e = tree_find(t, describing[i]);
        bool whole = false;
        for (int j = 0; e && j < h->n_describing[i]; j++) whole |= same(e, &h->describing[i][j]);
        if (e && !whole) return "config.json or manifest.json is damaged";
        if (!e && *newest >= 0) return "a checkpoint without config.json or manifest.json";
    }
    if (*newest > 0 && !stats_hold(tree_find(t, RUN "/stats.jsonl"), *newest))
        return "statistics of steps before the checkpoint are lost";
    return NULL;
}

// ---- states on a real disk

static void run_command(const char *fmt, const char *argument) {
    char *inner = xasprintf(fmt, argument), *command = xasprintf("cd '%s' && %s", tempdir, inner);
    assert_int_equal(system(command), 0);
    free(command);
    free(inner);
}

// Into the folder `lost` of the tests' folder.
static void tree_write(const Tree *t) {
    run_command("rm -rf %s && mkdir -p lost/world", "lost");
    for (int i = 0; i < t->n; i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%.2000s/lost/%.1000s", tempdir, t->entry[i].path);
        if (!t->entry[i].bytes) {
            assert_int_equal(mkdir(path, 0755), 0);
            continue;
        }
        FILE *f = fopen(path, "wb");
        assert_true(f && fwrite(t->entry[i].bytes, 1, t->entry[i].n, f) == t->entry[i].n);
        assert_int_equal(fclose(f), 0);
    }
}

static int64_t loaded_step(void) {
    char *run = xasprintf("%s/lost/" RUN, tempdir);
    Error err;
    char *path = file_exists(run) ? checkpoint_find(run, &err) : NULL;
    SafeTensors *st = path ? st_open(path, &err) : NULL;
    const char *step = st ? st_meta(st, "step") : NULL;
    int64_t found = step ? strtoll(step, NULL, 10) : -1;
    st_close(st);
    free(path);
    free(run);
    return found;
}

// A run without a checkpoint is begun again, any other goes on; both end like the undisturbed one.
static void finish(int64_t newest) {
    if (newest < 0) program_expect(0, FLAGS "--steps %d --out lost/" RUN, STEPS);
    else program_expect(0, "train --resume lost/" RUN " --steps %d", STEPS);
    expect_same_checkpoint("whole", "lost/" RUN, STEPS);
    expect_same_stats("whole", "lost/" RUN);
}

// ---- all moments, all states

// Two states are one if every name that matters holds the same.
static uint64_t tree_key(const Tree *t) {
    uint64_t key = 0;
    for (int i = 0; i < t->n; i++) {
        uint32_t a = crc32c(1, t->entry[i].path, strlen(t->entry[i].path));
        uint32_t b = t->entry[i].bytes ? crc32c(a, t->entry[i].bytes, t->entry[i].n) : 0;
        key += (uint64_t)a * 0x9E3779B97F4A7C15u ^ (uint64_t)b * 0xD1B54A32D192ED03u;     // in any order of the entries
    }
    return key;
}

typedef struct { uint64_t *key; int n; } KeySet;

static bool key_add(KeySet *s, uint64_t key) {
    for (int i = 0; i < s->n; i++)
        if (s->key[i] == key) return false;
    s->key = xrealloc(s->key, (size_t)(s->n + 1) * sizeof *s->key);
    s->key[s->n++] = key;
    return true;
}

typedef struct {
    const Disk    *disk;
    const History *history;
    Tally         *tally;
    KeySet         seen, resumed;              // states; outcomes from which the run has been finished
    bool           resumes;
} Explorer;

// What the run's future depends on: checkpoints and statistics, not leftovers.
static uint64_t outcome_key(const Tree *t, int64_t newest) {
    const TreeEntry *stats = tree_find(t, RUN "/stats.jsonl"), *folder = tree_find(t, RUN "/checkpoints");
    uint64_t key = stats ? crc32c(0, stats->bytes, stats->n) : 1;
    return (key << 8) + (uint64_t)(newest + 1) * 2 + (folder != NULL);
}

static void look_at_state(Explorer *x, const bool *kept) {
    Tree t = disk_crash(x->disk, kept, x->tally->states % 2 ? 0 : 0xA5);
    const History *h = x->history;
    int64_t newest, during = h->promised < 0 ? 2 : h->promised + 2;       // the save that comes next or is under way
    x->tally->states++;
    if (key_add(&x->seen, tree_key(&t) + (uint64_t)h->promised)) {
        x->tally->distinct++;
        x->tally->per_save[during]++;
        const char *why = what_is_wrong(h, &t, &newest);
        x->tally->bad += why != NULL;
        if (why && !x->tally->why[0]) snprintf(x->tally->why, sizeof x->tally->why, "%s", why);
        bool go = x->resumes && !why && key_add(&x->resumed, outcome_key(&t, newest));
        if (go) {
            tree_write(&t);
            assert_int_equal(loaded_step(), newest);
            if (long_tests() || x->resumed.n % 8 == 1) finish(newest);
        }
    }
    tree_free(&t);
}

// All subsets of few pending items; of many: none, all, each alone, all but each, each beginning, and a few by chance.
static void look_at_moment(Explorer *x) {
    int n = disk_pending(x->disk);
    bool *kept = xcalloc((size_t)n + 1, sizeof *kept);
    for (int s = 0; n <= FEW && s < 1 << n; s++) {
        for (int i = 0; i < n; i++) kept[i] = s >> i & 1;
        look_at_state(x, kept);
    }
    for (int j = 0; n > FEW && j <= n; j++)
        for (int form = 0; form < 3; form++) {
            for (int i = 0; i < n; i++) kept[i] = form == 0 ? i == j : form == 1 ? i != j : i < j;
            look_at_state(x, kept);
        }
    for (int r = 0; n > FEW && r < (long_tests() ? 1000 : 40); r++) {
        uint64_t odds = random_u64() % 255 + 1;
        for (int i = 0; i < n; i++) kept[i] = random_u64() % 256 < odds;
        look_at_state(x, kept);
    }
    free(kept);
}

static bool told(const Call *c, Syncs syncs, const bool *is_folder) {
    if (c->kind != CALL_FSYNC || syncs == SYNCS_ALL) return true;
    return is_folder[c->fd] == (syncs == SYNCS_NO_FILES);
}

// Up to the run's end, or where a fault is what is looked for, to the first.
static Tally explore(Syncs syncs, bool resumes) {
    Disk *d = disk_new();
    History h = { .renamed = -1, .promised = -1 };
    Tally tally = { 0 };
    Explorer x = { .disk = d, .history = &h, .tally = &tally, .resumes = resumes };
    static const char *path_of[4096];
    static bool is_folder[4096];
    for (int i = 0; i <= n_calls && (syncs == SYNCS_ALL || !tally.bad); i++) {
        Call end = { .kind = CALL_START };                       // the run's end is the last moment
        const Call *c = i < n_calls ? &call[i] : &end;
        if (c->kind == CALL_OPEN) path_of[c->fd] = c->path, is_folder[c->fd] = c->flags & O_DIRECTORY;
        if (told(c, syncs, is_folder)) disk_apply(d, c);
        history_add(&h, d, c, c->kind == CALL_WRITE ? path_of[c->fd] : NULL);
        if (c->kind != CALL_CLOSE) look_at_moment(&x);
    }
    tally.outcomes = x.resumed.n;
    history_free(&h);
    disk_free(d);
    free(x.seen.key);
    free(x.resumed.key);
    return tally;
}

static void every_state_loads_old_or_new(void **state) {
    (void)state;
    Tally t = explore(SYNCS_ALL, true);
    printf("%d states, %d distinct, of the saves of step 2, 4, ...:", t.states, t.distinct);
    for (int s = 2; s <= STEPS; s += 2) printf(" %d", t.per_save[s]);
    printf("; %d outcomes on a real disk\n", t.outcomes);
    if (t.bad) fail_msg("%d of %d states are bad; the first: %s", t.bad, t.distinct, t.why);
    for (int s = 2; s <= STEPS; s += 2) assert_true(t.per_save[s] >= 500);
}

// The checker itself: without the syncs of files, or of folders, it must find fault.
static void missing_syncs_are_seen(void **state) {
    (void)state;
    static const Syncs without[] = { SYNCS_NO_FILES, SYNCS_NO_FOLDERS };
    for (int i = 0; i < 2; i++) {
        Tally t = explore(without[i], false);
        printf("without syncs of %s: %d bad of %d; the first: %s\n", i ? "folders" : "files", t.bad, t.distinct, t.why);
        assert_true(t.bad > 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_is_recorded),
        cmocka_unit_test(every_state_loads_old_or_new),
        cmocka_unit_test(missing_syncs_are_seen),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
