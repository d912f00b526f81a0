// core/cli.c - flags from a table: parsing, range checks, "did you mean", help, JSON both ways.
//
// Names match with - and _ taken as equal, so that the published configurations (--flagfile, --num_class) read as
// they are. A row without a name is a heading of the help and nothing else.
#include "core/cli.h"
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/file.h"

enum { FLAGFILE_DEPTH = 8, FLAGFILE_BYTES = 1 << 20, JSON_BYTES = 8 << 20 };
#define FIELD(T, f, config) ((T *)(void *)((char *)(config) + (f)->offset))
#define FIELD_CONST(T, f, config) ((const T *)(const void *)((const char *)(config) + (f)->offset))

// Text that configurations point into lives as long as the program: a list keeps it reachable.
static const char *keep(char *text) {
    static struct Kept { struct Kept *next; char *text; } *kept;
    struct Kept *k = xmalloc(sizeof *k);
    *k = (struct Kept){ kept, text };
    kept = k;
    return text;
}

// ---- names

static bool same_char(char a, char b) {
    return a == b || ((a == '-' || a == '_') && (b == '-' || b == '_'));
}

static bool same_name(const char *name, const char *word, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!name[i] || !same_char(name[i], word[i])) return false;
    return name[n] == 0;
}

static int flag_find(const Flag *flags, int n, const char *word, size_t length) {
    for (int i = 0; i < n; i++)
        if (flags[i].name && same_name(flags[i].name, word, length)) return i;
    return -1;
}

// Edits that turn a into b: insert, delete, replace, swap neighbours. Words of up to 63 characters.
static int edit_distance(const char *a, const char *b) {
    enum { MAX = 63 };
    int na = (int)strnlen(a, MAX + 1), nb = (int)strnlen(b, MAX + 1);
    if (na > MAX || nb > MAX) return MAX;
    int row[3][MAX + 1], *before = row[0], *above = row[1], *here = row[2];
    for (int j = 0; j <= nb; j++) above[j] = j;
    for (int i = 1; i <= na; i++) {
        here[0] = i;
        for (int j = 1; j <= nb; j++) {
            int d = above[j - 1] + !same_char(a[i - 1], b[j - 1]);
            if (above[j] + 1 < d) d = above[j] + 1;
            if (here[j - 1] + 1 < d) d = here[j - 1] + 1;
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && before[j - 2] + 1 < d) d = before[j - 2] + 1;
            here[j] = d;
        }
        int *free_row = before;
        before = above;
        above = here;
        here = free_row;
    }
    return above[nb];
}

const char *cli_nearest(const char *word, const char *const *known, int n) {
    size_t length = strlen(word);
    int best = (int)(length < 30 ? length : 30) / 3 + 1;        // more edits than a third: another word
    const char *nearest = NULL, *longer = NULL;
    for (int i = 0; i < n; i++) {
        int d = edit_distance(word, known[i]);
        if (d < best) {
            best = d;
            nearest = known[i];
        }
        if (length >= 3 && !longer && strncmp(word, known[i], length) == 0) longer = known[i];
    }
    return nearest ? nearest : longer;
}

static bool unknown_flag(const Flag *flags, int n, const char *word, size_t length, Error *err) {
    const char **known = xmalloc(sizeof *known * (2 * (size_t)n + 2));
    char **negated = xcalloc((size_t)n + 1, sizeof *negated);
    int count = 0;
    for (int i = 0; i < n; i++) {
        if (!flags[i].name) continue;
        known[count++] = flags[i].name;
        if (flags[i].kind == FLAG_BOOL) known[count++] = negated[i] = xasprintf("no-%s", flags[i].name);
    }
    known[count++] = "flagfile";
    known[count++] = "help";
    char *name = xasprintf("%.*s", (int)(length < 200 ? length : 200), word);
    const char *near = cli_nearest(name, known, count);
    if (near) error_set(err, ERR_USAGE, "unknown flag --%s: did you mean --%s?", name, near);
    else error_set(err, ERR_USAGE, "unknown flag --%s: see --help", name);
    for (int i = 0; i < n; i++) free(negated[i]);
    free(negated);
    free(known);
    free(name);
    return false;
}

// ---- one field

static bool out_of_range(const Flag *f, const char *text, Error *err) {
    return error_set(err, ERR_USAGE, "--%s: %s is out of range: give %.15g to %.15g", f->name, text, f->min, f->max);
}

static bool set_integer(const Flag *f, void *config, const char *text, Error *err) {
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end == text || *end || isspace((unsigned char)*text))
        return error_set(err, ERR_USAGE, "--%s: \"%s\" is not a whole number", f->name, text);
    bool any = f->min == 0 && f->max == 0;
    if (!any && (errno == ERANGE || (double)v < f->min || (double)v > f->max)) return out_of_range(f, text, err);
    if (errno == ERANGE || (f->kind == FLAG_INT && (v < INT32_MIN || v > INT32_MAX)))
        return error_set(err, ERR_USAGE, "--%s: %s does not fit in %s bits", f->name, text,
                         f->kind == FLAG_INT ? "32" : "64");
    if (f->kind == FLAG_INT) *FIELD(int, f, config) = (int)v;
    else *FIELD(int64_t, f, config) = v;
    return true;
}

static bool set_double(const Flag *f, void *config, const char *text, Error *err) {
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || strspn(text, "+-.0123456789eE") != strlen(text))     // no hexadecimal, no inf, no nan
        return error_set(err, ERR_USAGE, "--%s: \"%s\" is not a number", f->name, text);
    if (!isfinite(v)) return error_set(err, ERR_USAGE, "--%s: %s is too large for a number", f->name, text);
    if (!(f->min == 0 && f->max == 0) && (v < f->min || v > f->max)) return out_of_range(f, text, err);
    *FIELD(double, f, config) = v;
    return true;
}

static bool set_bool(const Flag *f, void *config, const char *text, Error *err) {
    static const char *const words[] = { "false", "true", "no", "yes", "off", "on", "0", "1" };
    for (int i = 0; i < 8; i++) {
        if (strcasecmp(text, words[i]) != 0) continue;
        *FIELD(bool, f, config) = i % 2;
        return true;
    }
    return error_set(err, ERR_USAGE, "--%s: \"%s\" is neither true nor false", f->name, text);
}

// "ddpm, ddim": the choices of an ENUM between separators; caller frees.
static char *join_choices(const Flag *f, const char *separator) {
    char *all = xstrdup("");
    for (int i = 0; f->choices[i]; i++) {
        char *longer = xasprintf("%s%s%s", all, i ? separator : "", f->choices[i]);
        free(all);
        all = longer;
    }
    return all;
}

static bool set_enum(const Flag *f, void *config, const char *text, Error *err) {
    int n = 0;
    for (; f->choices[n]; n++) {
        if (!same_name(f->choices[n], text, strlen(text))) continue;
        *FIELD(int, f, config) = n;
        return true;
    }
    const char *near = cli_nearest(text, f->choices, n);
    char *all = join_choices(f, ", ");
    if (near) error_set(err, ERR_USAGE, "--%s: \"%s\" is none of %s: did you mean %s?", f->name, text, all, near);
    else error_set(err, ERR_USAGE, "--%s: \"%s\" is none of %s", f->name, text, all);
    free(all);
    return false;
}

bool cli_set(const Flag *f, void *config, const char *text, Error *err) {
    CHECK(f->name, "a heading has no value");
    switch (f->kind) {
    case FLAG_INT:
    case FLAG_I64: return set_integer(f, config, text, err);
    case FLAG_F64: return set_double(f, config, text, err);
    case FLAG_BOOL: return set_bool(f, config, text, err);
    case FLAG_ENUM: return set_enum(f, config, text, err);
    case FLAG_STR:
    case FLAG_LIST: *FIELD(const char *, f, config) = text; return true;
    }
    fatal(__FILE__, __LINE__, "the kind is known", "flag %s has kind %d", f->name, (int)f->kind);
}

void cli_defaults(const Flag *flags, int n, void *config) {
    for (int i = 0; i < n; i++) {
        const Flag *f = &flags[i];
        Error err;
        if (!f->name) continue;
        bool text = f->kind == FLAG_STR || f->kind == FLAG_LIST;
        CHECK(f->value || text, "flag %s has no default", f->name);
        CHECK(cli_set(f, config, f->value, &err), "the default of its own table is refused: %s", err.msg);
    }
}

// ---- the command line

typedef struct {
    const Flag *flags;
    int n;
    void *config;
    const char **words;         // NULL: words are errors
    int words_max, words_count;
    bool *set;                  // NULL: not asked for
    int *from;                  // n: the file that set each flag last, 0 for the command line
    int depth, file, files;     // of flag files: nesting, the one being read (0: none), how many so far
    Error *err;
} Parser;

static bool parse_flagfile(Parser *p, const char *path);

static bool parse_word(Parser *p, const char *word) {
    if (!p->words) return error_set(p->err, ERR_USAGE, "\"%s\" is no flag: flags begin with --, see --help", word);
    if (p->words_count == p->words_max)
        return error_set(p->err, ERR_USAGE, "\"%s\" is one word too many: at most %d here", word, p->words_max);
    p->words[p->words_count++] = word;
    return true;
}

// Sets flag i. A LIST that one flag file names again grows by the value, as absl's lists do; else the last one counts.
static bool set_flag(Parser *p, int i, const char *value) {
    const Flag *f = &p->flags[i];
    if (f->kind == FLAG_LIST && p->file && p->from[i] == p->file)
        value = keep(xasprintf("%s,%s", *FIELD(const char *, f, p->config), value));
    p->from[i] = p->file;
    if (p->set) p->set[i] = true;
    return cli_set(f, p->config, value, p->err);
}

// Sets what one argument says; next is the one after it (NULL: none), and *used_next tells whether it was its value.
static bool parse_flag(Parser *p, const char *arg, const char *next, bool *used_next) {
    const char *name = arg + strspn(arg, "-"), *equals = strchr(name, '=');
    size_t length = equals ? (size_t)(equals - name) : strlen(name);
    const char *value = equals ? equals + 1 : NULL;
    bool flagfile = same_name("flagfile", name, length), negated = false;
    int i = name - arg == 2 ? flag_find(p->flags, p->n, name, length) : -1;
    if (i < 0 && name - arg == 2 && length > 3 && strncmp(name, "no", 2) == 0) {
        size_t skip = same_char(name[2], '-') ? 3 : 2;      // --no-flip, and --noflip as absl has it
        i = flag_find(p->flags, p->n, name + skip, length - skip);
        negated = i >= 0;
        if (negated && p->flags[i].kind != FLAG_BOOL)
            return error_set(p->err, ERR_USAGE, "--%.*s: only yes/no flags have a --no- form, --%s takes a value",
                             (int)length, name, p->flags[i].name);
        if (negated && value) return error_set(p->err, ERR_USAGE, "--%s takes no value", name);
    }
    if (i < 0 && (!flagfile || name - arg != 2)) return unknown_flag(p->flags, p->n, name, length, p->err);
    if (i >= 0 && p->flags[i].kind == FLAG_BOOL && !value) value = negated ? "false" : "true";
    if (!value) {
        if (!next || strncmp(next, "--", 2) == 0)
            return error_set(p->err, ERR_USAGE, "--%.*s needs a value", (int)length, name);
        value = next;
        *used_next = true;
    }
    if (i < 0) return parse_flagfile(p, value);
    return set_flag(p, i, value);
}

// One line of a flag file, changed in place: "--name=value", "--name value", nothing, or a # or // comment.
static bool parse_line(Parser *p, char *line) {
    line += strspn(line, " \t");
    size_t n = strlen(line);
    while (n && isspace((unsigned char)line[n - 1])) line[--n] = 0;
    if (!*line || *line == '#' || strncmp(line, "//", 2) == 0) return true;
    if (*line != '-') return error_set(p->err, ERR_USAGE, "\"%s\" is no flag: one --name=value a line", line);
    char *name_end = line + strcspn(line, "= \t"), *value = NULL;
    if (*name_end && *name_end != '=') {
        value = name_end + strspn(name_end, " \t");
        *name_end = 0;
    }
    bool used = false;
    if (!parse_flag(p, line, value, &used)) return false;
    return !value || used || error_set(p->err, ERR_USAGE, "%s takes no value after a space", line);
}

static bool parse_flagfile(Parser *p, const char *path) {
    uint8_t *bytes;
    size_t n;
    if (p->depth == FLAGFILE_DEPTH)
        return error_set(p->err, ERR_USAGE, "%s: flag files nest deeper than %d: one may name itself", path, p->depth);
    if (!file_read(path, FLAGFILE_BYTES, &bytes, &n, p->err)) return false;
    char *line = (char *)bytes;
    keep(line);
    if (strlen(line) != n) return error_set(p->err, ERR_FILE, "%s: a flag file is text, this one holds a NUL", path);
    int outer = p->file;
    p->file = ++p->files;
    p->depth++;
    for (int number = 1; line; number++) {
        char *end = strchr(line, '\n');
        if (end) *end = 0;
        if (!parse_line(p, line)) {
            if (p->err) error_set(p->err, p->err->code, "%s:%d: %s", path, number, p->err->msg);
            return false;
        }
        line = end ? end + 1 : NULL;
    }
    p->depth--;
    p->file = outer;
    return true;
}

static bool parse_all(Parser *p, int argc, char **argv) {
    bool flags_end = false;
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i], *next = i + 1 < argc ? argv[i + 1] : NULL;
        bool used_next = false, ok = true;
        if (!flags_end && strcmp(arg, "--") == 0) flags_end = true;
        else if (flags_end || arg[0] != '-' || !arg[1]) ok = parse_word(p, arg);
        else ok = parse_flag(p, arg, next, &used_next);
        if (!ok) return false;
        i += used_next;
    }
    return true;
}

bool cli_parse(const Flag *flags, int n, void *config, int argc, char **argv, const char **words, int *n_words,
               bool *set, Error *err) {
    Parser p = { .flags = flags, .n = n, .config = config, .words = words, .words_max = words ? *n_words : 0,
                 .set = set, .err = err };
    if (set) memset(set, 0, sizeof *set * (size_t)n);
    p.from = xcalloc((size_t)n, sizeof *p.from);
    bool ok = parse_all(&p, argc, argv);
    free(p.from);
    if (ok && words) *n_words = p.words_count;
    return ok;
}

bool cli_wants_help(int argc, char **argv) {
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
    return false;
}

// ---- help

enum { HELP_COLUMNS = 100, HELP_LEFT_MAX = 34 };

// Columns that UTF-8 text takes, each character counted as one.
static int columns_of(const char *s, size_t n) {
    int columns = 0;
    for (size_t i = 0; i < n; i++) columns += ((unsigned char)s[i] & 0xc0) != 0x80;
    return columns;
}

// Prints text wrapped at HELP_COLUMNS; the cursor stands at column `at`, further lines start at column `indent`.
static void print_wrapped(const char *text, int at, int indent) {
    bool line_empty = true;
    while (*(text += strspn(text, " "))) {
        if (*text == '\n') {
            printf("\n%*s", indent, "");
            at = indent;
            line_empty = true;
            text++;
            continue;
        }
        size_t n = strcspn(text, " \n");
        int width = columns_of(text, n);
        if (!line_empty && at + 1 + width > HELP_COLUMNS) {
            printf("\n%*s", indent, "");
            at = indent;
            line_empty = true;
        }
        printf("%s%.*s", line_empty ? "" : " ", (int)n, text);
        at += width + !line_empty;
        line_empty = false;
        text += n;
    }
    putchar('\n');
}

// "--batch N", "--sampler ddpm|ddim", "--[no-]flip"; caller frees.
static char *help_left(const Flag *f) {
    static const char *const placeholder[] = { [FLAG_INT] = "N", [FLAG_I64] = "N", [FLAG_F64] = "X",
                                               [FLAG_STR] = "TEXT", [FLAG_LIST] = "LIST" };
    if (f->kind == FLAG_BOOL) return xasprintf("--[no-]%s", f->name);
    if (f->kind != FLAG_ENUM) return xasprintf("--%s %s", f->name, placeholder[f->kind]);
    char *all = join_choices(f, "|"), *left = xasprintf("--%s %s", f->name, all);
    free(all);
    return left;
}

// The help of a flag with its range and default; caller frees.
static char *help_right(const Flag *f) {
    const char *value = f->kind != FLAG_BOOL ? f->value : strcmp(f->value, "true") == 0 ? "on" : "off";
    bool ranged = f->kind <= FLAG_F64 && !(f->min == 0 && f->max == 0), has_default = value && *value;
    char *range = ranged ? xasprintf("%.15g to %.15g", f->min, f->max) : xstrdup("");
    char *text = !ranged && !has_default ? xstrdup(f->help)
               : xasprintf("%s (%s%s%s%s)", f->help, range, ranged && has_default ? ", " : "",
                           has_default ? "default " : "", has_default ? value : "");
    free(range);
    return text;
}

static void help_row(const char *left, const char *right, int width) {
    int n = columns_of(left, strlen(left));
    if (n > width) printf("  %s\n%*s", left, width + 4, "");
    else printf("  %s%*s", left, width + 2 - n, "");
    print_wrapped(right, width + 4, width + 4);
}

void cli_help(const Flag *flags, int n, const char *usage, const char *about) {
    static const char *const flagfile = "--flagfile FILE";
    int width = (int)strlen(flagfile);
    for (int i = 0; i < n; i++) {
        if (!flags[i].name) continue;
        char *left = help_left(&flags[i]);
        int w = columns_of(left, strlen(left));
        if (w > width && w <= HELP_LEFT_MAX) width = w;
        free(left);
    }
    printf("usage: %s\n\n", usage);
    print_wrapped(about, 0, 0);
    if (n && flags[0].name) putchar('\n');
    for (int i = 0; i < n; i++) {
        if (!flags[i].name) {
            printf("\n%s\n", flags[i].help);
            continue;
        }
        char *left = help_left(&flags[i]), *right = help_right(&flags[i]);
        help_row(left, right, width);
        free(left);
        free(right);
    }
    putchar('\n');
    help_row(flagfile, "more flags from a file, one a line, # begins a comment", width);
    help_row("--help", "this text", width);
}

// ---- text and JSON

char *cli_text(const Flag *f, const void *config) {
    CHECK(f->name, "a heading has no value");
    switch (f->kind) {
    case FLAG_INT: return xasprintf("%d", *FIELD_CONST(int, f, config));
    case FLAG_I64: return xasprintf("%lld", (long long)*FIELD_CONST(int64_t, f, config));
    case FLAG_BOOL: return xstrdup(*FIELD_CONST(bool, f, config) ? "true" : "false");
    case FLAG_ENUM: return xstrdup(f->choices[*FIELD_CONST(int, f, config)]);
    case FLAG_STR:
    case FLAG_LIST: {
        const char *s = *FIELD_CONST(char *, f, config);
        return xstrdup(s ? s : "");
    }
    case FLAG_F64: break;
    }
    double v = *FIELD_CONST(double, f, config);
    CHECK(isfinite(v), "flag %s holds %f", f->name, v);
    for (int digits = 6;; digits++) {           // the shortest text that reads back as the same number
        char *text = xasprintf("%.*g", digits, v);
        double back = strtod(text, NULL);
        if (digits == 17 || !(back < v || back > v)) return text;
        free(text);
    }
}

char *cli_json(const Flag *flags, int n, const void *config) {
    char *all = xstrdup("{");
    const char *separator = "";
    for (int i = 0; i < n; i++) {
        const Flag *f = &flags[i];
        if (!f->name) continue;
        bool text = f->kind == FLAG_STR || f->kind == FLAG_LIST, null = text && !*FIELD_CONST(char *, f, config);
        char *value = null ? xstrdup("null") : cli_text(f, config);
        if (!null && (text || f->kind == FLAG_ENUM)) {
            char *quoted = json_quote(value);
            free(value);
            value = quoted;
        }
        char *longer = xasprintf("%s%s\"%s\": %s", all, separator, f->name, value);
        free(all);
        free(value);
        all = longer;
        separator = ", ";
    }
    char *closed = xasprintf("%s}", all);
    free(all);
    return closed;
}

// Reads one value as the text that a user would type; caller frees. *null: it was null. NULL on error.
static char *json_value_text(JsonReader *r, bool *null) {
    char number[JSON_NUMBER_MAX], first = json_peek(r);
    *null = first == 'n' && json_word(r, "null");
    if (*null) return xstrdup("");
    if (first == '"') return json_string(r);
    if (first == 't' && json_word(r, "true")) return xstrdup("true");
    if (first == 'f' && json_word(r, "false")) return xstrdup("false");
    return json_number(r, number) ? xstrdup(number) : NULL;
}

static bool set_from_json(const Flag *f, void *config, JsonReader *r, const char *where, Error *err) {
    bool text = f->kind == FLAG_STR || f->kind == FLAG_LIST, null, quoted = json_peek(r) == '"';
    char *value = json_value_text(r, &null);
    bool ok = value != NULL;
    if (ok && null != (text && null))
        ok = error_set(err, ERR_FILE, "%s: \"%s\" may not be null", where, f->name);
    else if (ok && !null && quoted != (text || f->kind == FLAG_ENUM))
        ok = error_set(err, ERR_FILE, "%s: \"%s\" must be %s, not %s", where, f->name,
                       quoted ? "a number or true or false" : "a string", value);
    else if (ok && null)
        *FIELD(const char *, f, config) = NULL;
    else if (ok && !cli_set(f, config, value, err))
        ok = err ? error_set(err, ERR_FILE, "%s: %s", where, err->msg) : false;
    if (ok && text && !null) keep(value);
    else free(value);
    return ok;
}

bool cli_from_json(const Flag *flags, int n, void *config, const char *json, const char *where, Error *err) {
    size_t length = strlen(json);
    if (length > JSON_BYTES)
        return error_set(err, ERR_FILE, "%s: %zu bytes of JSON are more than a configuration", where, length);
    JsonReader r;
    json_start(&r, json, length);
    json_enter(&r, '{');
    for (char *key; (key = json_key(&r));) {
        int i = flag_find(flags, n, key, strlen(key));
        bool ok;
        if (i < 0) {
            unknown_flag(flags, n, key, strlen(key), err);
            ok = err ? error_set(err, ERR_FILE, "%s: %s", where, err->msg) : false;
        } else {
            ok = set_from_json(&flags[i], config, &r, where, err);
        }
        free(key);
        if (!ok && !r.why) return false;
    }
    return json_end(&r) || error_set(err, ERR_FILE, "%s: not the JSON of a configuration: %s at offset %zu", where,
                                     r.why, (size_t)(r.at - r.begin));
}
