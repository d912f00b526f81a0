// eval/report_text.c - names made harmless for HTML, LaTeX, Markdown and CSV; base64; numbers.
#include "eval/report_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- names
// The bytes of the character at s and its code; a byte that begins none is 1 byte of code U+FFFD.
static int character(const char *s, uint32_t *code) {
    const uint8_t *u = (const uint8_t *)s;
    static const uint32_t least[5] = { 0, 0, 0x80, 0x800, 0x10000 };
    int n = u[0] < 0x80 ? 1 : u[0] >= 0xc2 && u[0] < 0xe0 ? 2 : u[0] >= 0xe0 && u[0] < 0xf0 ? 3
          : u[0] >= 0xf0 && u[0] < 0xf5 ? 4 : 0;
    *code = n == 1 ? u[0] : n ? u[0] & (0xffu >> (n + 1)) : 0xfffd;
    for (int i = 1; i < n; i++) {
        if ((u[i] & 0xc0) != 0x80) return *code = 0xfffd, 1;           // a 0 byte at the end included
        *code = *code << 6 | (u[i] & 0x3fu);
    }
    bool surrogate = *code >= 0xd800 && *code < 0xe000;
    if (n == 0 || *code < least[n] || surrogate || *code > 0x10ffff) return *code = 0xfffd, 1;
    return n;
}

static bool is_harmful(uint32_t c) {
    return c < 32 || (c >= 0x7f && c < 0xa0) || (c >= 0x200b && c <= 0x200f) || (c >= 0x202a && c <= 0x202e)
        || (c >= 0x2028 && c <= 0x2029) || (c >= 0x2066 && c <= 0x2069) || c == 0xfeff || c == 0xfffe || c == 0xffff;
}

// Copies name; `instead` may give another text for an ASCII character.
static void put_name(Text *t, const char *name, const char *(*instead)(char c)) {
    for (const char *s = name; *s;) {
        uint32_t code;
        int n = character(s, &code);
        const char *other = is_harmful(code) || code == 0xfffd ? "\xef\xbf\xbd" : code < 128 ? instead(*s) : NULL;
        if (other) text_put(t, other, strlen(other));
        else text_put(t, s, (size_t)n);
        s += n;
    }
}

static const char *html_instead(char c) {
    switch (c) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '"': return "&quot;";
    case '\'': return "&#39;";
    }
    return NULL;
}
void text_html(Text *t, const char *name) { put_name(t, name, html_instead); }

static const char *latex_instead(char c) {
    switch (c) {
    case '\\': return "\\textbackslash{}";
    case '~': return "\\textasciitilde{}";
    case '^': return "\\textasciicircum{}";
    case '<': return "\\textless{}";
    case '>': return "\\textgreater{}";
    case '|': return "\\textbar{}";
    case '"': return "\\textquotedbl{}";
    case '{': return "\\{";
    case '}': return "\\}";
    case '$': return "\\$";
    case '&': return "\\&";
    case '#': return "\\#";
    case '%': return "\\%";
    case '_': return "\\_";
    }
    return NULL;
}
void text_latex(Text *t, const char *name) { put_name(t, name, latex_instead); }

static const char *markdown_instead(char c) {
    switch (c) {
    case '|': return "\\|";
    case '\\': return "\\\\";
    case '*': return "\\*";
    case '_': return "\\_";
    case '`': return "\\`";
    case '[': return "\\[";
    case ']': return "\\]";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '&': return "&amp;";
    }
    return NULL;
}
void text_markdown(Text *t, const char *name) { put_name(t, name, markdown_instead); }

// Spreadsheets take a field that begins with one of these for a formula; a space before it makes it text.
static const char *csv_instead(char c) { return c == '"' ? "\"\"" : NULL; }
void text_csv(Text *t, const char *name) {
    text_add(t, "\"%s", *name && strchr("=+-@", *name) ? " " : "");
    put_name(t, name, csv_instead);
    text_add(t, "\"");
}

int name_length(const char *name) {
    int length = 0;
    uint32_t code;
    for (const char *s = name; *s; length++) s += character(s, &code);
    return length;
}

char *name_shorten(const char *name, int max) {
    if (name_length(name) <= max) return xstrdup(name);
    const char *s = name;
    uint32_t code;
    for (int i = 0; i < max - 1; i++) s += character(s, &code);
    return xasprintf("%.*s\xe2\x80\xa6", (int)(s - name), name);
}

// ---- bytes and numbers
void text_base64(Text *t, const uint8_t *bytes, size_t n) {
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    text_put(t, "", 0);                                           // of nothing too, s is text
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)bytes[i] << 16 | (i + 1 < n ? (uint32_t)bytes[i + 1] << 8 : 0)
                   | (i + 2 < n ? bytes[i + 2] : 0u);
        char four[4] = { digit[v >> 18], digit[v >> 12 & 63], i + 1 < n ? digit[v >> 6 & 63] : '=',
                         i + 2 < n ? digit[v & 63] : '=' };
        text_put(t, four, 4);
    }
}

void text_number(Text *t, double v, int decimals, const char *minus) {
    if (!isfinite(v)) {
        text_add(t, "-");
        return;
    }
    char digits[400];
    snprintf(digits, sizeof digits, "%.*f", decimals, fabs(v));
    bool zero = strspn(digits, "0.") == strlen(digits);
    text_add(t, "%s%s", v < 0 && !zero ? minus : "", digits);
}

int decimals_for(const double *v, int n) {
    double least = INFINITY;
    for (int i = 0; i < n; i++)
        if (isfinite(v[i]) && v[i] != 0) least = fmin(least, fabs(v[i]));
    if (!isfinite(least)) return 2;
    int decimals = 2 - (int)floor(log10(least));
    return decimals < 0 ? 0 : decimals > 6 ? 6 : decimals;
}
