// sample/labels.c - image numbers, their labels, and the number of steps, from what a user types.
#include "sample/labels.h"

#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "kernels/common/rng.h"
#include "kernels/pointwise/pointwise.h"
#include "models/model.h"

enum { MAX_IMAGES = 10000000, DDIM_STEPS = 50, LABEL_BYTES = 1 << 28 };

static int compare_numbers(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

int64_t *sample_numbers(const char *text, int64_t *n, Error *err) {
    int64_t *number = list_parse("--seeds", text, 0, UINT32_MAX, MAX_IMAGES, n, err);
    if (!number) return NULL;
    int64_t *sorted = xmalloc((size_t)(*n + 1) * sizeof *sorted);
    memcpy(sorted, number, (size_t)*n * sizeof *sorted);
    qsort(sorted, (size_t)*n, sizeof *sorted, compare_numbers);
    bool ok = *n > 0 || error_set(err, ERR_USAGE, "--seeds is empty: name image numbers such as 0-63");
    for (int64_t i = 1; i < *n && ok; i++)
        if (sorted[i] == sorted[i - 1])
            ok = error_set(err, ERR_USAGE, "--seeds %s names image %lld twice", text, (long long)sorted[i]);
    free(sorted);
    if (ok) return number;
    free(number);
    return NULL;
}

// The list of --labels 3,1,2 or @FILE; caller frees.
static int64_t *read_label_list(const char *text, int classes, int64_t *n, Error *err) {
    if (*text != '@') return list_parse("--labels", text, 0, classes - 1, MAX_IMAGES, n, err);
    uint8_t *bytes;
    size_t size;
    if (!file_read(text + 1, LABEL_BYTES, &bytes, &size, err)) return NULL;
    int64_t *list = xmalloc((size / 2 + 1) * sizeof *list);
    int line = 1;
    bool ok = strlen((char *)bytes) == size;
    *n = 0;
    for (char *at = (char *)bytes; ok && *at; line++) {
        char *end = at + strcspn(at, "\n"), *stop;
        bool last = *end == 0;
        *end = 0;
        long long v = strtoll(at, &stop, 10);
        ok = stop != at && stop[strspn(stop, " \t\r")] == 0 && v >= 0 && v < classes;
        if (ok) list[(*n)++] = v;
        at = last ? end : end + 1;
        if (!ok) break;
    }
    if (!ok || *n == 0) {
        error_set(err, ERR_FILE, "%s, line %d: one class from 0 to %d is wanted on each line", text + 1, line,
                  classes - 1);
        free(list);
        list = NULL;
    }
    free(bytes);
    return list;
}

int32_t *sample_labels(const char **rule, const int64_t *number, int64_t n, int classes, uint64_t seed,
                       const char *where, Error *err) {
    if (strcmp(*rule, "auto") == 0) *rule = classes ? "balanced" : "none";
    bool none = strcmp(*rule, "none") == 0, iid = strcmp(*rule, "iid") == 0, balanced = strcmp(*rule, "balanced") == 0;
    if (!classes && !none) {
        error_set(err, ERR_USAGE, "%s has no label classes: sample from it with --labels none", where);
        return NULL;
    }
    int64_t length = 0, *list = NULL;
    if (!none && !iid && !balanced) {
        if (!(list = read_label_list(*rule, classes, &length, err))) return NULL;
        if (length == 0) {
            free(list);
            error_set(err, ERR_USAGE, "--labels is empty: balanced, iid, none, a list or @FILE");
            return NULL;
        }
    }
    uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    int32_t *label = xmalloc((size_t)n * sizeof *label);
    for (int64_t i = 0; i < n; i++) {
        uint32_t at = (uint32_t)number[i];
        if (none) label[i] = -1;
        else if (balanced) label[i] = (int32_t)(at % (uint32_t)classes);
        else if (list) label[i] = (int32_t)list[at % (uint64_t)length];
        else label[i] = (int32_t)rng_below(philox(key, 0, at, UINT32_MAX, PURPOSE_LABEL).v[0], (uint32_t)classes);
    }
    free(list);
    return label;
}

int sample_steps(SamplerKind kind, int asked, int T, const char *where, Error *err) {
    int steps = asked ? asked : kind == SAMPLER_DDPM ? T : DDIM_STEPS < T ? DDIM_STEPS : T;
    if (steps > T) {
        error_set(err, ERR_USAGE, "--steps %d: the schedule of %s has %d", asked, where, T);
        return -1;
    }
    if (kind == SAMPLER_DDPM && steps != T) {
        error_set(err, ERR_USAGE, "--sampler ddpm visits all %d steps; for %d steps use --sampler ddim", T, asked);
        return -1;
    }
    return steps;
}
