// eval/report_json.c - a JSON text as a tree, on top of the strict reader.
#include "eval/report_json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/report_text.h"

typedef struct { JsonReader r; int values; const char *why; } Parse;

static void children_free(Json *j) {
    for (Json *c = j->first, *next; c; c = next) {
        next = c->next;
        json_free(c);
    }
}

// Recursion is bounded by JSON_DEPTH_MAX.
void json_free(Json *j) {
    if (!j) return;
    children_free(j);
    free(j->key);
    free(j->text);
    free(j);
}

const Json *json_get(const Json *j, const char *key) {
    if (!j || j->kind != JSON_OBJECT) return NULL;
    for (const Json *c = j->first; c; c = c->next)
        if (strcmp(c->key, key) == 0) return c->kind == JSON_NULL ? NULL : c;
    return NULL;
}

double json_double(const Json *j, const char *key) {
    const Json *v = json_get(j, key);
    return v && v->kind == JSON_NUMBER ? v->number : (double)NAN;
}

const char *json_text(const Json *j, const char *key) {
    const Json *v = json_get(j, key);
    return v && v->kind == JSON_STRING ? v->text : NULL;
}

static bool fail(Parse *p, const char *why) {
    if (!p->r.why && !p->why) p->why = why;
    return false;
}

static bool parse_value(Parse *p, Json *j);

static Json *append(Parse *p, Json *parent, Json **last, char *key) {
    Json *j = xcalloc(1, sizeof *j);
    j->key = key;
    if (*last) (*last)->next = j;
    else parent->first = j;
    *last = j;
    parent->count++;
    if (++p->values > JSON_VALUES_MAX) fail(p, "more than 2^22 values");
    return j;
}

// Objects of results have few members, so a search through them finds one that is there twice.
static bool has_member(const Json *j, const char *key) {
    for (const Json *c = j->first; c; c = c->next)
        if (strcmp(c->key, key) == 0) return true;
    return false;
}

enum { MEMBERS_MAX = 4096 };

static bool parse_object(Parse *p, Json *j) {
    Json *last = NULL;
    json_enter(&p->r, '{');
    for (char *key; !p->why && (key = json_key(&p->r));) {
        bool twice = has_member(j, key), many = j->count == MEMBERS_MAX;
        Json *member = append(p, j, &last, key);
        if (twice) return fail(p, "a member named twice");
        if (many) return fail(p, "more than 4096 members");
        if (!parse_value(p, member)) return false;
    }
    return !p->r.why && !p->why;
}

static bool parse_array(Parse *p, Json *j) {
    Json *last = NULL;
    json_enter(&p->r, '[');
    while (!p->why && json_item(&p->r))
        if (!parse_value(p, append(p, j, &last, NULL))) return false;
    return !p->r.why && !p->why;
}

static bool parse_number(Parse *p, Json *j) {
    char text[JSON_NUMBER_MAX];
    if (!json_number(&p->r, text)) return false;
    j->text = xstrdup(text);
    j->number = strtod(text, NULL);
    return isfinite(j->number) || fail(p, "a number out of range");
}

static bool parse_value(Parse *p, Json *j) {
    char c = json_peek(&p->r);
    j->offset = (size_t)(p->r.at - p->r.begin);
    j->kind = c == '{' ? JSON_OBJECT : c == '[' ? JSON_ARRAY : c == '"' ? JSON_STRING : JSON_NUMBER;
    if (c == '{') return parse_object(p, j);
    if (c == '[') return parse_array(p, j);
    if (c == '"') return (j->text = json_string(&p->r)) != NULL;
    if (json_word(&p->r, "null")) j->kind = JSON_NULL;
    else if (json_word(&p->r, "true")) j->kind = JSON_BOOL, j->text = xstrdup("true");
    else if (json_word(&p->r, "false")) j->kind = JSON_BOOL, j->text = xstrdup("false");
    else return parse_number(p, j);
    return true;
}

Json *json_parse(const char *text, size_t n, const char *where, Error *err) {
    Parse p = { 0 };
    Json *j = xcalloc(1, sizeof *j);
    json_start(&p.r, text, n);
    if (parse_value(&p, j) && json_end(&p.r)) return j;
    error_set(err, ERR_FILE, "%s: not read: at offset %td: %s", where, p.r.at - p.r.begin, p.why ? p.why : p.r.why);
    json_free(j);
    return NULL;
}

Json *json_read(const char *path, Error *err) {
    uint8_t *bytes;
    size_t n;
    if (!file_read(path, JSON_FILE_BYTES, &bytes, &n, err)) return NULL;
    Json *j = json_parse((const char *)bytes, n, path, err);
    free(bytes);
    return j;
}

static void print(Text *t, const Json *j) {
    char *quoted = j->kind == JSON_STRING ? json_quote(j->text) : NULL;
    bool object = j->kind == JSON_OBJECT;
    switch (j->kind) {
    case JSON_NULL: text_add(t, "null"); break;
    case JSON_STRING: text_add(t, "%s", quoted); break;
    case JSON_BOOL: case JSON_NUMBER: text_add(t, "%s", j->text); break;
    case JSON_ARRAY: case JSON_OBJECT:
        text_add(t, object ? "{" : "[");
        for (const Json *c = j->first; c; c = c->next) {
            char *key = object ? json_quote(c->key) : NULL;
            if (key) text_add(t, "%s: ", key);
            print(t, c);
            if (c->next) text_add(t, ", ");
            free(key);
        }
        text_add(t, object ? "}" : "]");
    }
    free(quoted);
}

char *json_print(const Json *j) {
    Text t = { 0 };
    print(&t, j);
    return t.s;
}
