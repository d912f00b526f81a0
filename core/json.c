// core/json.c - a strict reader of JSON that pulls values one by one, and text quoted for writing it.
//
// Strict means RFC 8259 and no more: UTF-8 only, no trailing commas, no comments. Two limits of our own: JSON_DEPTH_MAX
// levels, and no NUL in strings (they are C strings here). The reader allocates nothing but the strings it returns.
// After the first error (r->why) every call fails, so a caller may check once at the end.
#include <stdlib.h>
#include <string.h>
#include "core/file.h"

static bool bad(JsonReader *r, const char *why) {
    if (!r->why) r->why = why;
    return false;
}

static void skip_space(JsonReader *r) {
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r')) r->at++;
}

// Steps over c if it comes next, after white space.
static bool take(JsonReader *r, char c) {
    skip_space(r);
    if (r->why || r->at == r->end || *r->at != c) return false;
    r->at++;
    return true;
}

void json_start(JsonReader *r, const char *text, size_t n) {
    *r = (JsonReader){ .begin = text, .at = text, .end = text + n };
}

char json_peek(JsonReader *r) {
    skip_space(r);
    return r->why || r->at == r->end ? 0 : *r->at;
}

bool json_enter(JsonReader *r, char open) {
    if (!take(r, open)) return bad(r, open == '{' ? "expected an object" : "expected an array");
    if (r->depth == JSON_DEPTH_MAX) return bad(r, "nested too deep");
    r->filled[r->depth++] = false;
    return true;
}

// Moves to the next element of the innermost object or array; false at its end, which is stepped over, or on error.
static bool next_element(JsonReader *r, char close) {
    if (r->why) return false;
    if (take(r, close)) {
        r->depth--;
        return false;
    }
    if (r->filled[r->depth - 1] && !take(r, ',')) return bad(r, "expected a comma or the end of the list");
    r->filled[r->depth - 1] = true;
    return true;
}

bool json_item(JsonReader *r) {
    return next_element(r, ']');
}

char *json_key(JsonReader *r) {
    if (!next_element(r, '}')) return NULL;
    char *key = json_string(r);
    if (key && !take(r, ':')) {
        bad(r, "expected a colon");
        free(key);
        return NULL;
    }
    return key;
}

// ---- strings

static bool read_hex4(JsonReader *r, uint32_t *code) {
    *code = 0;
    if (r->end - r->at < 4) return bad(r, "cut off in a \\u escape");
    for (int i = 0; i < 4; i++) {
        char c = *r->at++;
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
                  : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0) return bad(r, "a \\u escape needs four hexadecimal digits");
        *code = *code << 4 | (uint32_t)digit;
    }
    return true;
}

static char *put_utf8(char *out, uint32_t code) {
    if (code < 0x80) {
        *out++ = (char)code;
        return out;
    }
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const uint32_t lead[4] = { 0, 0xc0, 0xe0, 0xf0 };
    *out++ = (char)(lead[more] | code >> (6 * more));
    while (more--) *out++ = (char)(0x80 | (code >> (6 * more) & 0x3f));
    return out;
}

// After the u of \u: one escape or a surrogate pair, as UTF-8. NULL on error.
static char *read_unicode(JsonReader *r, char *out) {
    uint32_t code, low;
    if (!read_hex4(r, &code)) return NULL;
    if (code >= 0xd800 && code < 0xe000) {
        bool pair = code < 0xdc00 && r->end - r->at >= 2 && r->at[0] == '\\' && r->at[1] == 'u';
        if (pair) r->at += 2;
        if (!pair || !read_hex4(r, &low) || low < 0xdc00 || low >= 0xe000) {
            bad(r, "half a surrogate pair");
            return NULL;
        }
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    if (code == 0) {
        bad(r, "a NUL in a string");
        return NULL;
    }
    return put_utf8(out, code);
}

// The bytes of the UTF-8 sequence at s, 0 if it is none (overlong and surrogate forms included).
static int utf8_length(const char *s, const char *end) {
    const uint8_t *u = (const uint8_t *)s;
    int n = u[0] < 0x80 ? 1 : u[0] >= 0xc2 && u[0] < 0xe0 ? 2 : u[0] >= 0xe0 && u[0] < 0xf0 ? 3
          : u[0] >= 0xf0 && u[0] < 0xf5 ? 4 : 0;
    if (n == 0 || end - s < n) return 0;
    for (int i = 1; i < n; i++)
        if ((u[i] & 0xc0) != 0x80) return 0;
    if ((u[0] == 0xe0 && u[1] < 0xa0) || (u[0] == 0xed && u[1] > 0x9f) || (u[0] == 0xf0 && u[1] < 0x90)
        || (u[0] == 0xf4 && u[1] > 0x8f)) return 0;
    return n;
}

// After the backslash: one escape. NULL on error.
static char *read_escape(JsonReader *r, char *out) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = r->at < r->end ? *r->at++ : 0;
    if (c == 'u') return read_unicode(r, out);
    const char *hit = c ? strchr(from, c) : NULL;
    if (!hit) {
        bad(r, "an unknown escape");
        return NULL;
    }
    *out = to[hit - from];
    return out + 1;
}

char *json_string(JsonReader *r) {
    if (!take(r, '"')) {
        bad(r, "expected a string");
        return NULL;
    }
    const char *close = r->at;      // escapes only ever shrink, so the raw length is room enough
    while (close < r->end && *close != '"') close += *close == '\\' ? 2 : 1;
    if (close >= r->end) {
        bad(r, "a string without its closing quote");
        return NULL;
    }
    char *text = xmalloc((size_t)(close - r->at) + 1), *out = text;
    while (out && r->at < close) {
        int n = utf8_length(r->at, close);
        if (*r->at == '\\') {
            r->at++;
            out = read_escape(r, out);
        } else if (n == 0 || (unsigned char)*r->at < 32) {
            bad(r, n ? "a control character in a string" : "a string that is not UTF-8");
            out = NULL;
        } else {
            memcpy(out, r->at, (size_t)n);
            out += n;
            r->at += n;
        }
    }
    if (!out) {
        free(text);
        return NULL;
    }
    *out = 0;
    r->at = close + 1;
    return text;
}

// ---- numbers, words, whole values

static size_t digits(JsonReader *r) {
    const char *s = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9') r->at++;
    return (size_t)(r->at - s);
}

bool json_number(JsonReader *r, char text[JSON_NUMBER_MAX]) {
    skip_space(r);
    if (r->why) return false;
    const char *s = r->at;
    if (r->at < r->end && *r->at == '-') r->at++;
    const char *first = r->at;
    size_t n = digits(r);
    bool ok = n > 0 && (n == 1 || *first != '0');
    if (ok && r->at < r->end && *r->at == '.') {
        r->at++;
        ok = digits(r) > 0;
    }
    if (ok && r->at < r->end && (*r->at == 'e' || *r->at == 'E')) {
        r->at++;
        if (r->at < r->end && (*r->at == '+' || *r->at == '-')) r->at++;
        ok = digits(r) > 0;
    }
    if (!ok) return bad(r, "expected a number");
    n = (size_t)(r->at - s);
    if (n >= JSON_NUMBER_MAX) return bad(r, "a number of too many digits");
    memcpy(text, s, n);
    text[n] = 0;
    return true;
}

bool json_u64(JsonReader *r, uint64_t *value) {
    char text[JSON_NUMBER_MAX];
    if (!json_number(r, text)) return false;
    *value = 0;
    for (const char *s = text; *s; s++) {
        if (*s < '0' || *s > '9') return bad(r, "expected a whole number that is not negative");
        if (__builtin_mul_overflow(*value, (uint64_t)10, value)
            || __builtin_add_overflow(*value, (uint64_t)(*s - '0'), value)) return bad(r, "a number out of range");
    }
    return true;
}

bool json_word(JsonReader *r, const char *word) {
    size_t n = strlen(word);
    skip_space(r);
    if (r->why || (size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0) return false;
    r->at += n;
    return true;
}

// Recursion is bounded by JSON_DEPTH_MAX through json_enter.
bool json_skip(JsonReader *r) {
    char text[JSON_NUMBER_MAX], *key;
    switch (json_peek(r)) {
    case '{':
        json_enter(r, '{');
        while ((key = json_key(r))) {
            free(key);
            json_skip(r);
        }
        break;
    case '[':
        json_enter(r, '[');
        while (json_item(r)) json_skip(r);
        break;
    case '"':
        free(json_string(r));
        break;
    case 't': case 'f': case 'n':
        if (!json_word(r, "true") && !json_word(r, "false") && !json_word(r, "null")) bad(r, "expected a value");
        break;
    default:
        json_number(r, text);
    }
    return !r->why;
}

bool json_end(JsonReader *r) {
    skip_space(r);
    if (!r->why && r->at != r->end) bad(r, "something follows the end of the JSON text");
    return !r->why;
}

// ---- writing

char *json_quote(const char *text) {
    size_t n = strlen(text);
    char *quoted = xmalloc(6 * n + 3), *out = quoted;       // \u0001 is the longest escape
    *out++ = '"';
    for (const char *s = text; *s;) {
        int length = utf8_length(s, text + n);
        unsigned char c = (unsigned char)*s;
        if (length == 0) {                  // file names may be any bytes: U+FFFD stands for the bad ones
            out = put_utf8(out, 0xfffd);
            s++;
        } else if (c == '"' || c == '\\') {
            *out++ = '\\';
            *out++ = *s++;
        } else if (c < 32 || c == 127) {
            out += snprintf(out, 7, "\\u%04x", (unsigned)c);
            s++;
        } else {
            memcpy(out, s, (size_t)length);
            out += length;
            s += length;
        }
    }
    *out++ = '"';
    *out = 0;
    return quoted;
}
