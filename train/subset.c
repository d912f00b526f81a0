// train/subset.c - long-tailed subsets equal to the published ones index for index; numpy's legacy generator.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/file.h"
#include "train/data_formats.h"

const char *const imb_type_names[] = { "none", "exp", "step", NULL };

// ---- MT19937 (Matsumoto and Nishimura), seeded and used as numpy.random.seed and shuffle do
enum { MT_N = 624, MT_M = 397 };

void mt19937_seed(Mt19937 *m, uint32_t seed) {
    m->key[0] = seed;
    for (int i = 0; i + 1 < MT_N; i++)
        m->key[i + 1] = UINT32_C(1812433253) * (m->key[i] ^ m->key[i] >> 30) + (uint32_t)i + 1;
    m->pos = MT_N;
}

static void mt19937_refill(Mt19937 *m) {
    for (int i = 0; i < MT_N; i++) {
        uint32_t y = (m->key[i] & UINT32_C(0x80000000)) | (m->key[(i + 1) % MT_N] & UINT32_C(0x7fffffff));
        m->key[i] = m->key[(i + MT_M) % MT_N] ^ y >> 1 ^ (y & 1 ? UINT32_C(0x9908b0df) : 0);
    }
    m->pos = 0;
}

uint32_t mt19937_next(Mt19937 *m) {
    if (m->pos == MT_N) mt19937_refill(m);
    uint32_t y = m->key[m->pos++];
    y ^= y >> 11;
    y ^= y << 7 & UINT32_C(0x9d2c5680);
    y ^= y << 15 & UINT32_C(0xefc60000);
    return y ^ y >> 18;
}

uint32_t mt19937_interval(Mt19937 *m, uint32_t max) {
    if (max == 0) return 0;
    uint32_t mask = max, v;
    for (int shift = 1; shift < 32; shift *= 2) mask |= mask >> shift;
    do v = mt19937_next(m) & mask; while (v > max);
    return v;
}

double mt19937_double(Mt19937 *m) {
    uint32_t a = mt19937_next(m) >> 5, b = mt19937_next(m) >> 6;
    return (a * 67108864.0 + b) / 9007199254740992.0;
}

void mt19937_shuffle(Mt19937 *m, int64_t *x, int64_t n) {
    CHECK(n <= INT64_C(1) << 32, "a shuffle of %lld items needs 64-bit draws", (long long)n);
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = mt19937_interval(m, (uint32_t)i), t = x[i];
        x[i] = x[j];
        x[j] = t;
    }
}

// ---- counts and ordinals
bool subset_counts(ImbType type, double factor, int classes, int64_t images, int64_t *counts, Error *err) {
    if (classes < 1 || images < classes) {
        return error_set(err, ERR_USAGE,
                         "%lld images in %d classes have no long-tailed subset; there must be at least "
                         "one image per class",
                         (long long)images, classes);
    }
    if (type != IMB_NONE && !(factor > 0 && factor <= 1)) {
        return error_set(err, ERR_USAGE,
                         "--imb-factor %g: give the ratio of the rarest to the most frequent class, "
                         "above 0 and up to 1, such as 0.01",
                         factor);
    }
    double most = (double)images / classes;
    for (int c = 0; c < classes; c++) {
        double share = 1;
        if (type == IMB_EXP && classes > 1) share = pow(factor, c / (classes - 1.0));
        if (type == IMB_STEP && c >= classes / 2) share = factor;
        counts[c] = (int64_t)(most * share);
    }
    return true;
}

int64_t subset_ordinals(const int64_t *have, const int64_t *want, int classes, uint32_t seed, int64_t *out) {
    Mt19937 m;
    mt19937_seed(&m, seed);
    int64_t total = 0, most = 0;
    for (int c = 0; c < classes; c++) most = have[c] > most ? have[c] : most;
    int64_t *order = xmalloc((size_t)(most > 0 ? most : 1) * sizeof *order);
    for (int c = 0; c < classes; c++) {
        // Every class is shuffled whole, whatever stays of it: a smaller factor's subset is a prefix, class by class.
        for (int64_t i = 0; i < have[c]; i++) order[i] = i;
        mt19937_shuffle(&m, order, have[c]);
        int64_t keep = want[c] < have[c] ? want[c] : have[c];
        memcpy(out + total, order, (size_t)keep * sizeof *out);
        total += keep;
    }
    free(order);
    return total;
}

// ---- subsets of a set
// Where each class's images stand: index[start[c] + i] is the i-th image of class c in file order. start (classes + 1).
static int64_t *index_by_class(const Dataset *d, int64_t *start) {
    int classes = d->info.classes;
    int64_t *index = xmalloc((size_t)d->info.count * sizeof *index), *at = xmalloc((size_t)classes * sizeof *at);
    start[0] = 0;
    for (int c = 0; c < classes; c++) {
        at[c] = start[c];
        start[c + 1] = start[c] + d->per_class[c];
    }
    for (int64_t i = 0; i < d->info.count; i++) index[at[d->labels[i]]++] = i;
    free(at);
    return index;
}

Dataset *dataset_subset(Dataset *d, ImbType type, double factor, uint32_t seed, Error *err) {
    if (type == IMB_NONE) return d;
    int classes = d->info.classes;
    int64_t *want = xmalloc((size_t)classes * sizeof *want);
    if (!subset_counts(type, factor, classes, d->info.count, want, err)) {
        free(want);
        dataset_close(d);
        return NULL;
    }
    int64_t *start = xmalloc(((size_t)classes + 1) * sizeof *start), *index = index_by_class(d, start);
    int64_t *pick = xmalloc((size_t)d->info.count * sizeof *pick);
    int64_t n = subset_ordinals(d->per_class, want, classes, seed, pick), at = 0;
    for (int c = 0; c < classes; c++) {
        if (want[c] > d->per_class[c]) {
            log_warn("%s: class %d (%s) has %lld images where the subset asks for %lld; all are kept", d->info.source,
                     c, d->names[c], (long long)d->per_class[c], (long long)want[c]);
            want[c] = d->per_class[c];
        }
        for (int64_t i = 0; i < want[c]; i++, at++) pick[at] = index[start[c] + pick[at]];
    }
    CHECK(at == n, "%lld picked, %lld wanted", (long long)at, (long long)n);
    d = dataset_pick(d, pick, n, err);
    free(want);
    free(start);
    free(index);
    free(pick);
    return d;
}

// ---- index files
enum { INDEX_FILE_LIMIT = 1 << 30 };

typedef struct {
    const Dataset *d;
    const int64_t *start, *index;      // from index_by_class
    bool          *taken;              // (count)
    int64_t       *pick, n;
} IndexList;

static bool index_error(const char *path, int line, const char *what, Error *err) {
    return error_set(err, ERR_FILE, "%s, line %d: %s; each line is \"class ordinal\", as cbdm data subset writes them",
                     path, line, what);
}

// One line without its end; blank ones and comments are skipped.
static bool read_index_line(IndexList *list, const char *path, int line, char *text, Error *err) {
    char *end, *comment = strchr(text, '#');
    if (comment) *comment = 0;
    size_t blank = strspn(text, " \t\r");
    if (!text[blank]) return true;
    if (!strchr("0123456789", text[blank])) return index_error(path, line, "no class number", err);
    long long c = strtoll(text + blank, &end, 10);
    blank = strspn(end, " \t");
    if (blank == 0 || !end[blank] || !strchr("0123456789", end[blank]))
        return index_error(path, line, "no ordinal", err);
    long long ordinal = strtoll(end + blank, &end, 10);
    if (end[strspn(end, " \t\r")]) return index_error(path, line, "more than two numbers", err);
    if (c >= list->d->info.classes) return index_error(path, line, "a class that the data does not have", err);
    if (ordinal >= list->d->per_class[c]) {
        return index_error(path, line, "an ordinal beyond the images of its class", err);
    }
    int64_t i = list->index[list->start[c] + ordinal];
    if (list->taken[i]) return index_error(path, line, "an image that was named before", err);
    list->taken[i] = true;
    list->pick[list->n++] = i;
    return true;
}

static bool read_index_file(IndexList *list, const char *path, Error *err) {
    uint8_t *bytes;
    size_t n;
    if (!file_read(path, INDEX_FILE_LIMIT, &bytes, &n, err)) return false;
    bool ok = memchr(bytes, 0, n) == NULL || index_error(path, 1, "a file with zero bytes", err);
    int line = 1;
    for (char *text = (char *)bytes, *next; ok && text; text = next, line++) {
        next = strchr(text, '\n');
        if (next) *next++ = 0;
        ok = read_index_line(list, path, line, text, err);
    }
    free(bytes);
    return ok && (list->n > 0 || error_set(err, ERR_FILE, "%s: names no image; each line is \"class ordinal\"", path));
}

Dataset *dataset_subset_file(Dataset *d, const char *path, Error *err) {
    int64_t *start = xmalloc(((size_t)d->info.classes + 1) * sizeof *start), *index = index_by_class(d, start);
    IndexList list = { .d = d, .start = start, .index = index, .taken = xcalloc((size_t)d->info.count, sizeof(bool)),
                       .pick = xmalloc((size_t)d->info.count * sizeof(int64_t)) };
    if (read_index_file(&list, path, err)) {
        d = dataset_pick(d, list.pick, list.n, err);
    } else {
        dataset_close(d);
        d = NULL;
    }
    free(start);
    free(index);
    free(list.taken);
    free(list.pick);
    return d;
}

bool dataset_write_indices(const Dataset *d, const char *path, Error *err) {
    if (!path || strcmp(path, "-") == 0) {
        for (int64_t i = 0; i < d->info.count; i++) printf("%d %lld\n", (int)d->labels[i], (long long)d->ordinal[i]);
        return fflush(stdout) == 0 ||
               error_set(err, ERR_IO, "standard output: cannot write the indices; is the disk full?");
    }
    FileWriter *w = file_create(path, err);
    if (!w) return false;
    for (int64_t i = 0; i < d->info.count; i++) {
        char line[48];
        int n = snprintf(line, sizeof line, "%d %lld\n", (int)d->labels[i], (long long)d->ordinal[i]);
        file_write(w, line, (size_t)n);
    }
    return file_commit(w, err);
}
