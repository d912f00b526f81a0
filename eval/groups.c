// eval/groups.c - rules that split classes into many, medium and few.
#include "eval/groups.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const group_names[] = { "many", "medium", "few", NULL };

// Whole numbers between commas; the number of them, or 0.
static int parse_numbers(const char *text, int64_t out[GROUP_COUNT]) {
    int n = 0;
    for (const char *at = text;; at++) {
        char *end;
        if (n == GROUP_COUNT || *at < '0' || *at > '9') return 0;
        long long v = strtoll(at, &end, 10);
        if (v > INT32_MAX || (*end && *end != ',')) return 0;
        out[n++] = v;
        if (!*end) return n;
        at = end;
    }
}

typedef struct { int64_t count; int at; } Ranked;

static int most_first(const void *a, const void *b) {
    const Ranked *x = a, *y = b;
    return x->count != y->count ? (x->count < y->count ? 1 : -1) : x->at - y->at;
}

// The first sizes[0] classes by count are many, the next sizes[1] medium; equal counts in the order of the labels.
static void by_rank(const int64_t *counts, int classes, const int64_t sizes[GROUP_COUNT], int *of) {
    Ranked *r = xmalloc((size_t)classes * sizeof *r);
    for (int c = 0; c < classes; c++) r[c] = (Ranked){ counts[c], c };
    qsort(r, (size_t)classes, sizeof *r, most_first);
    for (int i = 0; i < classes; i++)
        of[r[i].at] = i < sizes[0] ? GROUP_MANY : i < sizes[0] + sizes[1] ? GROUP_MEDIUM : GROUP_FEW;
    free(r);
}

bool groups_of(const char *rule, const int64_t *counts, int classes, int *of, Error *err) {
    int64_t v[GROUP_COUNT], third = classes / 3;
    CHECK(classes >= 1, "%d classes", classes);
    if (strcmp(rule, "thirds") == 0) {
        by_rank(counts, classes, (int64_t[]){ third, third, classes - 2 * third }, of);
        return true;
    }
    int n = parse_numbers(rule, v);
    if (n == 2 && v[0] >= v[1]) {
        for (int c = 0; c < classes; c++)
            of[c] = counts[c] > v[0] ? GROUP_MANY : counts[c] < v[1] ? GROUP_FEW : GROUP_MEDIUM;
        return true;
    }
    if (n == 3 && v[0] + v[1] + v[2] == classes) {
        by_rank(counts, classes, v, of);
        return true;
    }
    return error_set(err, ERR_USAGE, "--groups %s: \"100,20\" (many above 100 training images, few below 20), "
                     "\"thirds\", or how many of the %d classes are many, medium and few, as in \"3,3,4\"", rule,
                     classes);
}

char *groups_text(const int *of, int classes) {
    char *text = xstrdup("");
    for (int g = 0; g < GROUP_COUNT; g++) {
        char *longer = xasprintf("%s%s%s:", text, g ? "; " : "", group_names[g]);
        bool any = false;
        for (int c = 0; c < classes; c++) {
            if (of[c] != g) continue;
            int last = c;
            while (last + 1 < classes && of[last + 1] == g) last++;
            char *more = last == c ? xasprintf("%s%s %d", longer, any ? "," : "", c)
                                   : xasprintf("%s%s %d-%d", longer, any ? "," : "", c, last);
            free(longer);
            longer = more;
            any = true;
            c = last;
        }
        free(text);
        text = any ? longer : xasprintf("%s none", longer);
        if (!any) free(longer);
    }
    return text;
}

void groups_json(const char *rule, const int *of, int classes, JsonText *j) {
    jtext_open(j, "groups", '{');
    jtext_string(j, "rule", rule);
    for (int g = 0; g < GROUP_COUNT; g++) {
        jtext_open(j, group_names[g], '[');
        for (int c = 0; c < classes; c++)
            if (of[c] == g) jtext_whole(j, NULL, c);
        jtext_close(j, ']');
    }
    jtext_close(j, '}');
}
