// eval/result.c - JSON text, member after member.
#include "eval/result.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"

static void add(JsonText *j, const char *text) {
    size_t n = strlen(text);
    if (j->n + n + 1 > j->cap) {
        j->cap = 2 * (j->n + n) + 256;
        j->text = xrealloc(j->text, j->cap);
    }
    memcpy(j->text + j->n, text, n + 1);
    j->n += n;
}

// The comma and the name before a value.
static void begin(JsonText *j, const char *key) {
    if (j->filled) add(j, j->depth == 1 ? ",\n" : ", ");
    j->filled = true;
    if (!key) return;
    char *quoted = json_quote(key);
    add(j, quoted);
    add(j, ": ");
    free(quoted);
}

void jtext_open(JsonText *j, const char *key, char bracket) {
    begin(j, key);
    add(j, (char[]){ bracket, 0 });
    j->filled = false;
    j->depth++;
}

void jtext_close(JsonText *j, char bracket) {
    add(j, (char[]){ bracket, 0 });
    j->filled = true;
    j->depth--;
}

void jtext_value(JsonText *j, const char *key, const char *json) {
    begin(j, key);
    add(j, json);
}

void jtext_string(JsonText *j, const char *key, const char *value) {
    char *quoted = value ? json_quote(value) : xstrdup("null");
    jtext_value(j, key, quoted);
    free(quoted);
}

void jtext_number(JsonText *j, const char *key, double value) {
    char text[40];
    snprintf(text, sizeof text, "%.17g", value);
    jtext_value(j, key, isfinite(value) ? text : "null");
}

void jtext_whole(JsonText *j, const char *key, int64_t value) {
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)value);
    jtext_value(j, key, text);
}

void jtext_bool(JsonText *j, const char *key, bool value) { jtext_value(j, key, value ? "true" : "false"); }

void jtext_numbers(JsonText *j, const char *key, const double *value, int n) {
    if (!value) return;
    jtext_open(j, key, '[');
    for (int i = 0; i < n; i++) jtext_number(j, NULL, value[i]);
    jtext_close(j, ']');
}

void jtext_wholes(JsonText *j, const char *key, const int64_t *value, int n) {
    jtext_open(j, key, '[');
    for (int i = 0; i < n; i++) jtext_whole(j, NULL, value[i]);
    jtext_close(j, ']');
}

char *jtext_finish(JsonText *j) {
    add(j, "\n");
    char *text = j->text;
    *j = (JsonText){ 0 };
    return text;
}
