// core/text.c - text that grows.
#include "core/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void make_room(Text *t, size_t n) {
    if (t->n + n < t->room) return;
    t->room = 2 * (t->n + n) + 64;
    t->s = xrealloc(t->s, t->room);
    t->s[t->n] = 0;
}

void text_put(Text *t, const char *bytes, size_t n) {
    make_room(t, n + 1);
    memcpy(t->s + t->n, bytes, n);
    t->n += n;
    t->s[t->n] = 0;
}

void text_add(Text *t, const char *fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    CHECK(n >= 0, "format %s", fmt);
    make_room(t, (size_t)n + 1);
    vsnprintf(t->s + t->n, (size_t)n + 1, fmt, again);
    va_end(again);
    t->n += (size_t)n;
}

void text_free(Text *t) {
    free(t->s);
    *t = (Text){ 0 };
}
