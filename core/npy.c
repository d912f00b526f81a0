// core/npy.c - NumPy's .npy: one array, its header a Python dictionary in text, its data after it.
//
// Format 1.0: "\x93NUMPY", 1, 0, u16 length of the text, the text padded with spaces and ended by a newline so that the
// data begin at a multiple of 64. 2.0 and 3.0 have a u32 length.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "core/file.h"

enum { TEXT_MAX = 4096 };       // of the dictionary; ours need at most 250

static const struct { char descr[4]; size_t size; } types[] = {
    { "|u1", 1 }, { "|b1", 1 }, { "<f4", 4 }, { "<f8", 8 }, { "<i4", 4 }, { "<i8", 8 },
};

size_t npy_item_size(const char *descr) {
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].descr, descr) == 0) return types[i].size;
    return 0;
}

bool npy_data_bytes(const NpyArray *a, size_t *bytes) {
    size_t product = npy_item_size(a->descr);
    bool empty = false;
    if (product == 0 || a->ndim < 0 || a->ndim > 8) return false;
    for (int i = 0; i < a->ndim; i++) {
        if (a->shape[i] < 0) return false;
        if (a->shape[i] == 0) empty = true;
        else if (!mul_size(product, (size_t)a->shape[i], &product) || product > INT64_MAX) return false;
    }
    *bytes = empty ? 0 : product;
    return true;
}

// ---- writing

size_t npy_header(const NpyArray *a, uint8_t header[NPY_HEADER_MAX]) {
    char text[NPY_HEADER_MAX];
    size_t bytes, n;
    CHECK(npy_data_bytes(a, &bytes), "descr \"%.7s\", %d dimensions", a->descr, a->ndim);
    n = (size_t)snprintf(text, sizeof text, "{'descr': '%s', 'fortran_order': False, 'shape': (", a->descr);
    for (int i = 0; i < a->ndim; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%" PRId64, i ? ", " : "", a->shape[i]);
    n += (size_t)snprintf(text + n, sizeof text - n, a->ndim == 1 ? ",), }" : "), }");
    size_t total = (10 + n + 1 + 63) / 64 * 64;
    CHECK(total <= NPY_HEADER_MAX, "a header of %zu bytes", total);
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    header[8] = (uint8_t)((total - 10) & 255);
    header[9] = (uint8_t)((total - 10) >> 8);
    memcpy(header + 10, text, n);
    memset(header + 10 + n, ' ', total - 10 - n - 1);
    header[total - 1] = '\n';
    return total;
}

FileWriter *npy_create(const char *path, const NpyArray *a, Error *err) {
    uint8_t header[NPY_HEADER_MAX];
    size_t n = npy_header(a, header), bytes;
    CHECK(npy_data_bytes(a, &bytes), "%s: the shape overflows", path);
    FileWriter *w = file_create(path, err);
    if (!w) return NULL;
    file_expect(w, (uint64_t)n + bytes);
    file_write(w, header, n);
    return w;
}

bool npy_write(const char *path, const NpyArray *a, Error *err) {
    size_t bytes;
    CHECK(npy_data_bytes(a, &bytes), "%s: descr \"%.7s\", %d dimensions", path, a->descr, a->ndim);
    FileWriter *w = npy_create(path, a, err);
    if (!w) return false;
    file_write(w, a->data, bytes);
    return file_commit(w, err);
}

// ---- reading: just enough of Python's syntax for the three keys, in any order

typedef struct { const char *at, *end, *why; } Text;

static bool bad(Text *t, const char *why) {
    if (!t->why) t->why = why;
    return false;
}

static bool take(Text *t, char c) {
    while (t->at < t->end && (*t->at == ' ' || *t->at == '\n')) t->at++;
    if (t->why || t->at == t->end || *t->at != c) return false;
    t->at++;
    return true;
}

static bool take_word(Text *t, const char *word) {
    size_t n = strlen(word);
    if (n == 0 || !take(t, word[0])) return false;
    if ((size_t)(t->end - t->at) < n - 1 || memcmp(t->at, word + 1, n - 1) != 0) return bad(t, "an unknown word");
    t->at += n - 1;
    return true;
}

// A string in either kind of quotes, without escapes, shorter than max.
static bool take_string(Text *t, char *out, size_t max) {
    char quote = take(t, '\'') ? '\'' : take(t, '"') ? '"' : 0;
    if (!quote) return bad(t, "expected a string");
    size_t n = 0;
    for (; t->at < t->end && *t->at != quote; t->at++) {
        if (n + 1 == max || *t->at == '\\') return bad(t, "a string that does not belong here");
        out[n++] = *t->at;
    }
    out[n] = 0;
    return take(t, quote) || bad(t, "a string without its closing quote");
}

static bool take_size(Text *t, int64_t *value) {
    while (t->at < t->end && *t->at == ' ') t->at++;
    const char *first = t->at;
    for (*value = 0; t->at < t->end && *t->at >= '0' && *t->at <= '9'; t->at++)
        if (__builtin_mul_overflow(*value, (int64_t)10, value)
            || __builtin_add_overflow(*value, (int64_t)(*t->at - '0'), value))
            return bad(t, "a dimension out of range");
    return t->at > first || bad(t, "expected a dimension");
}

static bool take_shape(Text *t, NpyArray *a) {
    a->ndim = 0;
    if (!take(t, '(')) return bad(t, "expected a shape");
    while (!take(t, ')')) {
        if (a->ndim == 8) return bad(t, "more than 8 dimensions");
        if (!take_size(t, &a->shape[a->ndim++])) return false;
        if (take(t, ',')) continue;
        if (a->ndim == 1 || !take(t, ')')) return bad(t, "expected a comma or the end of the shape");
        break;
    }
    return true;
}

static bool parse_text(Text *t, NpyArray *a, bool *fortran) {
    static const char *const keys[3] = { "descr", "fortran_order", "shape" };
    bool seen[3] = { false };
    if (!take(t, '{')) return bad(t, "expected a dictionary");
    while (!take(t, '}')) {
        char key[16];
        int k = 0;
        if (!take_string(t, key, sizeof key)) return false;
        while (k < 3 && strcmp(key, keys[k]) != 0) k++;
        if (k == 3 || seen[k]) return bad(t, k == 3 ? "an unknown key" : "a key that comes twice");
        seen[k] = true;
        if (!take(t, ':')) return bad(t, "expected a colon");
        if (k == 0 && !take_string(t, a->descr, sizeof a->descr)) return false;
        if (k == 1 && !(*fortran = take_word(t, "True")) && !take_word(t, "False"))
            return bad(t, "expected True or False");
        if (k == 2 && !take_shape(t, a)) return false;
        if (!take(t, ',') && (t->at == t->end || *t->at != '}')) return bad(t, "expected a comma");
    }
    if (!seen[0] || !seen[1] || !seen[2]) return bad(t, "descr, fortran_order or shape is missing");
    (void)take(t, ' ');                                         // steps over the padding
    return t->at == t->end || bad(t, "something follows the dictionary");
}

bool npy_parse(const uint8_t *bytes, size_t n, const char *where, NpyArray *out, Error *err) {
    if (n < 12 || memcmp(bytes, "\x93NUMPY", 6) != 0)
        return error_set(err, ERR_FILE, "%s: no .npy file: it does not begin as one", where);
    int version = bytes[6];
    if (version < 1 || version > 3 || bytes[7] != 0)
        return error_set(err, ERR_FILE, "%s: .npy version %d.%d is unknown; 1.0 to 3.0 are read", where, version,
                         bytes[7]);
    size_t before = version == 1 ? 10 : 12, length = 0, need;
    for (size_t i = before; i-- > 8;) length = length << 8 | bytes[i];
    if (length > TEXT_MAX || length > n - before)
        return error_set(err, ERR_FILE, "%s: a header of %zu bytes in a file of %zu: it is cut off or damaged", where,
                         length, n);
    NpyArray a = { .ndim = 0 };
    bool fortran = false;
    Text t = { (const char *)bytes + before, (const char *)bytes + before + length, NULL };
    if (!parse_text(&t, &a, &fortran))
        return error_set(err, ERR_FILE, "%s: bad header at offset %zu: %s", where, (size_t)(t.at - (const char *)bytes),
                         t.why);
    if (npy_item_size(a.descr) == 0)
        return error_set(err, ERR_FILE, "%s: elements of type \"%s\"; |u1, |b1, <i4, <i8, <f4 and <f8 are read: "
                         "convert it with .astype()", where, a.descr);
    if (fortran) return error_set(err, ERR_FILE, "%s: in Fortran order: save np.ascontiguousarray() of it", where);
    if (!npy_data_bytes(&a, &need)) return error_set(err, ERR_FILE, "%s: the size of its shape overflows", where);
    if (need != n - before - length)
        return error_set(err, ERR_FILE, "%s: its shape needs %zu bytes, %zu are there: it is cut off or damaged", where,
                         need, n - before - length);
    a.data = bytes + before + length;
    *out = a;
    return true;
}

bool npy_read(const char *path, uint8_t **bytes, NpyArray *out, Error *err) {
    size_t n;
    if (!file_read(path, SIZE_MAX - 1, bytes, &n, err)) return false;
    if (npy_parse(*bytes, n, path, out, err)) return true;
    free(*bytes);
    *bytes = NULL;
    return false;
}
