// core/safetensors.c - reads and writes safetensors: u64 header length, JSON header, tensor bytes back to back.
//
// The reader is stricter than the format (see core/file.h) and trusts nothing: sizes come from the bytes at hand, every
// product is checked, and the tensors must cover the data exactly, without gaps or overlaps.
//
// Damage: files of ours carry two metadata keys, "writer": "cbdm" and "crc32c": 8 hexadecimal digits for length and
// header (these digits themselves taken as 0), then 8 for each tensor in the order of the data. A file that has either
// key, or whose first bytes are mostly those that ours begin with, must have both keys and match: else damage to the
// names of the keys would turn the check off.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "core/file.h"
#include "core/text.h"

enum {
    HEADER_MAX = 8 << 20,
    TENSORS_MAX = 65536,
    META_MAX = 256,
    META_BYTES = 64 << 10,      // of one metadata value
    NAME_MAX_BYTES = 255,
    RANK_MAX = 8,
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    CHECK_SUMS = 0,             // a fuzzer cannot guess sums
#else
    CHECK_SUMS = 1,
#endif
};
static const char writer_key[] = "writer", writer_name[] = "cbdm", crc_key[] = "crc32c";
static const char common_start[] = "{\"__metadata__\":{\"";             // of a header with metadata, whoever wrote it
static const char own_start[] = "writer\":\"cbdm\",\"crc32c\":\"";      // what ours go on with

static const struct { const char *name; size_t size; } types[] = {
    [ST_F32] = { "F32", 4 }, [ST_F64] = { "F64", 8 }, [ST_BF16] = { "BF16", 2 }, [ST_F16] = { "F16", 2 },
    [ST_I64] = { "I64", 8 }, [ST_I32] = { "I32", 4 }, [ST_U8] = { "U8", 1 },
};
enum { TYPES = sizeof types / sizeof types[0] };

struct SafeTensors {
    uint8_t    *owned;          // the file's bytes; NULL if the caller owns them
    StTensor   *tensors;        // in the order of the data
    int         n, room;
    const StTensor **by_name;   // n, sorted
    char       *keys[META_MAX], *values[META_MAX];
    int         n_meta;
    const char *crc;            // the value of crc32c; NULL: the file has none
    size_t      crc_at;         // offset of its first digit in the file
};

size_t st_type_size(StType t) {
    CHECK((unsigned)t < TYPES, "type %d", (int)t);
    return types[t].size;
}

// The bytes of a tensor; false if any product overflows, a 0 elsewhere in the shape notwithstanding.
static bool tensor_bytes(const StTensor *t, size_t *bytes) {
    size_t product = types[t->type].size;
    bool empty = false;
    for (int i = 0; i < t->ndim; i++) {
        if (t->shape[i] < 0) return false;
        if (t->shape[i] == 0) empty = true;
        else if (!mul_size(product, (size_t)t->shape[i], &product) || product > INT64_MAX) return false;
    }
    *bytes = empty ? 0 : product;
    return true;
}

static bool name_is_legal(const char *name) {
    size_t n = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._#-");
    return n > 0 && n <= NAME_MAX_BYTES && name[n] == 0;
}

// ---- reading the header

typedef struct { SafeTensors *st; JsonReader json; const char *where; size_t data_bytes; Error *err; } Parser;

static bool refuse(Parser *p, const char *name, const char *why) {
    return error_set(p->err, ERR_FILE, "%s: tensor \"%.255s\": %s (offset %zu): the file is damaged or no safetensors",
                     p->where, name, why, 8 + (size_t)(p->json.at - p->json.begin));
}

static bool parse_metadata(Parser *p) {
    SafeTensors *st = p->st;
    json_enter(&p->json, '{');
    for (char *key; (key = json_key(&p->json));) {
        json_peek(&p->json);                                    // steps over white space: at is the opening quote
        size_t at = 8 + (size_t)(p->json.at - p->json.begin) + 1;
        char *value = json_string(&p->json);
        bool crc = strcmp(key, crc_key) == 0;
        size_t most = crc ? 8 * (TENSORS_MAX + 1) : META_BYTES;
        const char *why = !value ? "a metadata value that is no string"
                        : st->n_meta == META_MAX ? "more than 256 metadata keys"
                        : st_meta(st, key) ? "a metadata key that comes twice"
                        : strlen(value) > most ? "a metadata value over 64 KB" : NULL;
        if (why) {
            free(key);
            free(value);
            return refuse(p, "__metadata__", why);
        }
        st->keys[st->n_meta] = key;
        st->values[st->n_meta++] = value;
        if (crc) {
            st->crc = value;
            st->crc_at = at;
        }
    }
    return !p->json.why;
}

static bool parse_dtype(Parser *p, StTensor *t) {
    char *text = json_string(&p->json);
    if (!text) return false;
    int type = 0;
    while (type < TYPES && strcmp(types[type].name, text) != 0) type++;
    t->type = (StType)type;
    if (type == TYPES)
        error_set(p->err, ERR_FILE, "%s: tensor \"%s\" has the type \"%.20s\"; F32, F64, BF16, F16, I64, I32 and U8 "
                  "are read", p->where, t->name, text);
    free(text);
    return type < TYPES;
}

static bool parse_shape(Parser *p, StTensor *t) {
    uint64_t d;
    t->ndim = 0;
    json_enter(&p->json, '[');
    while (json_item(&p->json)) {
        if (t->ndim == RANK_MAX) return refuse(p, t->name, "more than 8 dimensions");
        if (!json_u64(&p->json, &d)) return false;
        if (d > INT64_MAX) return refuse(p, t->name, "a dimension out of range");
        t->shape[t->ndim++] = (int64_t)d;
    }
    return !p->json.why;
}

static bool parse_offsets(Parser *p, StTensor *t, uint64_t offsets[2]) {
    int n = 0;
    json_enter(&p->json, '[');
    while (json_item(&p->json)) {
        if (n == 2) return refuse(p, t->name, "more than two data_offsets");
        if (!json_u64(&p->json, &offsets[n++])) return false;
    }
    if (!p->json.why && n < 2) return refuse(p, t->name, "fewer than two data_offsets");
    return !p->json.why;
}

// One entry. On success t->data is set from its offsets, which lie within the data.
static bool parse_tensor(Parser *p, StTensor *t, const uint8_t *data) {
    static const char *const fields[3] = { "dtype", "shape", "data_offsets" };
    bool seen[3] = { false }, ok = true;
    uint64_t offsets[2] = { 0 };
    if (!name_is_legal(t->name)) return refuse(p, t->name, "a name that is not 1 to 255 of A-Z a-z 0-9 . _ # -");
    json_enter(&p->json, '{');
    for (char *key; ok && (key = json_key(&p->json));) {
        int f = 0;
        while (f < 3 && strcmp(key, fields[f]) != 0) f++;
        free(key);
        if (f == 3) return refuse(p, t->name, "a field of unknown name");
        if (seen[f]) return refuse(p, t->name, "a field that comes twice");
        seen[f] = true;
        ok = f == 0 ? parse_dtype(p, t) : f == 1 ? parse_shape(p, t) : parse_offsets(p, t, offsets);
    }
    if (!ok || p->json.why) return false;
    if (!seen[0] || !seen[1] || !seen[2]) return refuse(p, t->name, "dtype, shape or data_offsets is missing");
    if (!tensor_bytes(t, &t->bytes)) return refuse(p, t->name, "a shape whose size overflows");
    if (offsets[0] > offsets[1] || offsets[1] > p->data_bytes)
        return refuse(p, t->name, "data_offsets beyond the file's end");
    if (offsets[1] - offsets[0] != t->bytes) return refuse(p, t->name, "data_offsets that do not fit its shape");
    t->data = data + offsets[0];
    return true;
}

static bool parse_header(Parser *p, const uint8_t *data) {
    SafeTensors *st = p->st;
    bool metadata = false, ok = true;
    json_enter(&p->json, '{');
    for (char *key; ok && (key = json_key(&p->json));) {
        if (strcmp(key, "__metadata__") == 0) {
            free(key);
            ok = metadata ? refuse(p, "__metadata__", "comes twice") : parse_metadata(p);
            metadata = true;
            continue;
        }
        if (st->n == st->room) {
            st->room = st->room ? 2 * st->room : 64;
            st->tensors = xrealloc(st->tensors, sizeof *st->tensors * (size_t)st->room);
        }
        st->tensors[st->n++] = (StTensor){ .name = key };       // owned by st from here on
        ok = st->n <= TENSORS_MAX ? parse_tensor(p, &st->tensors[st->n - 1], data)
                                  : refuse(p, key, "more than 65,536 tensors");
    }
    return ok && json_end(&p->json);
}

// ---- checks of the whole

static int compare_data(const void *a, const void *b) {
    const StTensor *s = a, *t = b;
    const uint8_t *x = s->data, *y = t->data;
    if (x != y) return x < y ? -1 : 1;
    if (s->bytes != t->bytes) return s->bytes < t->bytes ? -1 : 1;      // empty ones first: they end where they begin
    return strcmp(s->name, t->name);
}

static int compare_name(const void *a, const void *b) {
    return strcmp((*(const StTensor *const *)a)->name, (*(const StTensor *const *)b)->name);
}

// Sorts, and refuses duplicates, gaps, overlaps and bytes that belong to no tensor.
static bool check_layout(Parser *p, const uint8_t *data) {
    SafeTensors *st = p->st;
    if (st->n) qsort(st->tensors, (size_t)st->n, sizeof *st->tensors, compare_data);
    st->by_name = xmalloc(sizeof *st->by_name * ((size_t)st->n + 1));
    for (int i = 0; i < st->n; i++) st->by_name[i] = &st->tensors[i];
    if (st->n) qsort(st->by_name, (size_t)st->n, sizeof *st->by_name, compare_name);
    for (int i = 1; i < st->n; i++)
        if (compare_name(&st->by_name[i - 1], &st->by_name[i]) == 0)
            return refuse(p, st->by_name[i]->name, "comes twice");
    const uint8_t *end = data;
    for (int i = 0; i < st->n; i++) {
        const StTensor *t = &st->tensors[i];
        if ((const uint8_t *)t->data > end) return refuse(p, t->name, "a gap before its data");
        if ((const uint8_t *)t->data < end) return refuse(p, t->name, "data that overlaps another's");
        end += t->bytes;
    }
    if ((size_t)(end - data) != p->data_bytes)
        return error_set(p->err, ERR_FILE, "%s: %zu bytes of tensors, but %zu follow the header: the file is cut off "
                         "or something was appended", p->where, (size_t)(end - data), p->data_bytes);
    return true;
}

static bool hex8(const char *text, uint32_t *value) {
    *value = 0;
    for (int i = 0; i < 8; i++) {
        const char *digits = "0123456789abcdef", *hit = text[i] ? strchr(digits, text[i]) : NULL;
        if (!hit) return false;
        *value = *value << 4 | (uint32_t)(hit - digits);
    }
    return true;
}

// The CRC of length and header, the 8 digits at `at` taken as 0.
static uint32_t header_crc(const uint8_t *bytes, size_t n, size_t at) {
    uint32_t crc = crc32c(0, bytes, at);
    crc = crc32c(crc, "00000000", 8);
    return crc32c(crc, bytes + at + 8, n - at - 8);
}

// Whether a file was ours before whatever happened to it: half of the bytes where ours go on are right.
static bool begins_as_ours(const uint8_t *bytes, size_t header_end) {
    size_t at = 8 + sizeof common_start - 1, length = sizeof own_start - 1, right = 0;
    for (size_t i = 0; i < length && at + i < header_end; i++) right += bytes[at + i] == (uint8_t)own_start[i];
    return 2 * right >= length;
}

static bool check_crc(Parser *p, const uint8_t *bytes, size_t header_end) {
    if (!CHECK_SUMS) return true;
    const SafeTensors *st = p->st;
    const char *writer = st_meta(st, writer_key);
    bool ours = writer && strcmp(writer, writer_name) == 0;
    if (!st->crc && !ours && !begins_as_ours(bytes, header_end)) return true;       // another program's file
    uint32_t crc = 0;
    bool ok = st->crc && ours && strlen(st->crc) == 8 * ((size_t)st->n + 1) && hex8(st->crc, &crc)
           && crc == header_crc(bytes, header_end, st->crc_at);
    if (!ok)
        return error_set(p->err, ERR_FILE, "%s: the header does not match its CRC-32C: the file is damaged; take the "
                         "one before it (or, if another program rewrote it, have it drop the metadata keys writer and "
                         "crc32c)", p->where);
    for (int i = 0; i < st->n; i++) {
        const StTensor *t = &st->tensors[i];
        if (!hex8(st->crc + 8 * (i + 1), &crc) || crc != crc32c(0, t->data, t->bytes))
            return error_set(p->err, ERR_FILE, "%s: tensor \"%s\" (offset %zu, %zu bytes) does not match its CRC-32C: "
                             "the file is damaged; take the one before it", p->where, t->name,
                             (size_t)((const uint8_t *)t->data - bytes), t->bytes);
    }
    return true;
}

// ---- opening

static bool parse(Parser *p, const uint8_t *bytes, size_t n) {
    uint64_t length = 0;
    if (n < 8) return error_set(p->err, ERR_FILE, "%s: %zu bytes are no safetensors file", p->where, n);
    for (int i = 0; i < 8; i++) length |= (uint64_t)bytes[i] << 8 * i;
    if (length > HEADER_MAX || length < 2 || bytes[n > 8 ? 8 : 0] != '{')
        return error_set(p->err, ERR_FILE, "%s: no safetensors file: it does not begin with a header of at most 8 MB",
                         p->where);
    if (length > n - 8)
        return error_set(p->err, ERR_FILE, "%s: the header has %llu bytes, the file only %zu: it is cut off", p->where,
                         (unsigned long long)length, n);
    size_t header_end = 8 + (size_t)length;
    p->data_bytes = n - header_end;
    json_start(&p->json, (const char *)bytes + 8, (size_t)length);
    bool ok = parse_header(p, bytes + header_end);
    if (p->json.why)
        return error_set(p->err, ERR_FILE, "%s: bad header at offset %zu: %s: the file is damaged or no safetensors",
                         p->where, 8 + (size_t)(p->json.at - p->json.begin), p->json.why);
    return ok && check_layout(p, bytes + header_end) && check_crc(p, bytes, header_end);
}

SafeTensors *st_parse(const uint8_t *bytes, size_t n, const char *where, Error *err) {
    Parser p = { .st = xcalloc(1, sizeof(SafeTensors)), .where = where, .err = err };
    if (parse(&p, bytes, n)) return p.st;
    st_close(p.st);
    return NULL;
}

SafeTensors *st_open(const char *path, Error *err) {
    uint8_t *bytes;
    size_t n;
    // Read, not mapped: what the checks have seen is what will be used, whatever happens to the file.
    if (!file_read(path, SIZE_MAX - 1, &bytes, &n, err)) return NULL;
    SafeTensors *st = st_parse(bytes, n, path, err);
    if (st) st->owned = bytes;
    else free(bytes);
    return st;
}

void st_close(SafeTensors *st) {
    if (!st) return;
    for (int i = 0; i < st->n; i++) free((char *)(uintptr_t)st->tensors[i].name);
    for (int i = 0; i < st->n_meta; i++) {
        free(st->keys[i]);
        free(st->values[i]);
    }
    free(st->tensors);
    free(st->by_name);
    free(st->owned);
    free(st);
}

int st_count(const SafeTensors *st) {
    return st->n;
}

const StTensor *st_get(const SafeTensors *st, int i) {
    CHECK(i >= 0 && i < st->n, "tensor %d of %d", i, st->n);
    return &st->tensors[i];
}

const StTensor *st_find(const SafeTensors *st, const char *name) {
    StTensor key = { .name = name };
    const StTensor *wanted = &key;
    const StTensor **hit = bsearch(&wanted, st->by_name, (size_t)st->n, sizeof *st->by_name, compare_name);
    return hit ? *hit : NULL;
}

const char *st_meta(const SafeTensors *st, const char *key) {
    for (int i = 0; i < st->n_meta; i++)
        if (strcmp(st->keys[i], key) == 0) return st->values[i];
    return NULL;
}

// ---- values

static float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff, bits;
    if (exponent == 0) {                                        // zero and subnormals: fraction * 2^-24
        float v = (float)fraction * 0x1p-24f;
        return sign ? -v : v;
    }
    bits = exponent == 31 ? 0x7f800000 | fraction << 13 : (exponent + 112) << 23 | fraction << 13;
    bits |= sign;
    float v;
    memcpy(&v, &bits, 4);
    return v;
}

// Loads element i of T from bytes that need not be aligned.
#define LOAD(T, v, data, i) T v; memcpy(&v, (const char *)(data) + sizeof(T) * (i), sizeof(T))

bool st_read_f32(const StTensor *t, float *out) {
    size_t n = t->bytes / st_type_size(t->type);
    for (size_t i = 0; i < n; i++) {
        switch (t->type) {
        case ST_F32: { LOAD(float, v, t->data, i); out[i] = v; break; }
        case ST_F64: {
            LOAD(double, v, t->data, i);
            out[i] = (float)v;
            if (__builtin_isfinite(v) && !__builtin_isfinite(out[i])) return false;
            break;
        }
        case ST_BF16: {
            LOAD(uint16_t, v, t->data, i);
            uint32_t bits = (uint32_t)v << 16;
            memcpy(&out[i], &bits, 4);
            break;
        }
        case ST_F16: { LOAD(uint16_t, v, t->data, i); out[i] = half_to_float(v); break; }
        case ST_I64: { LOAD(int64_t, v, t->data, i); out[i] = (float)v; break; }
        case ST_I32: { LOAD(int32_t, v, t->data, i); out[i] = (float)v; break; }
        case ST_U8: { LOAD(uint8_t, v, t->data, i); out[i] = (float)v; break; }
        }
    }
    return true;
}

bool st_read_i64(const StTensor *t, int64_t *out) {
    if (t->type != ST_I64 && t->type != ST_I32 && t->type != ST_U8) return false;
    size_t n = t->bytes / st_type_size(t->type);
    for (size_t i = 0; i < n; i++) {
        if (t->type == ST_I64) { LOAD(int64_t, v, t->data, i); out[i] = v; }
        if (t->type == ST_I32) { LOAD(int32_t, v, t->data, i); out[i] = v; }
        if (t->type == ST_U8) { LOAD(uint8_t, v, t->data, i); out[i] = v; }
    }
    return true;
}

// ---- writing

// The bytes of tensor i: its own, or what fetch has. An empty tensor may have none.
static const void *tensor_data(const StTensor *t, int i, StFetch *fetch, void *arg) {
    if (t->data || t->bytes == 0) return t->data;
    CHECK(fetch, "tensor %s has %zu bytes and no data", t->name, t->bytes);
    return fetch(arg, i);
}

// The header's JSON, its length padded with spaces to a multiple of 8; freed by text_free. *crc_at: offset in the file
// of the digits of crc32c, those of the header still 0.
static Text header_text(const StTensor *t, int n, const char *const *keys, const char *const *values, int n_meta,
                        StFetch *fetch, void *arg, size_t *crc_at) {
    Text text = { 0 };
    text_add(&text, "%s%s", common_start, own_start);
    *crc_at = 8 + text.n;
    text_add(&text, "00000000");
    for (int i = 0; i < n; i++)
        text_add(&text, "%08x", (unsigned)crc32c(0, tensor_data(&t[i], i, fetch, arg), t[i].bytes));
    text_add(&text, "\"");
    for (int i = 0; i < n_meta; i++) {
        CHECK(strcmp(keys[i], crc_key) != 0 && strcmp(keys[i], writer_key) != 0, "%s is the writer's own key", keys[i]);
        CHECK(strlen(values[i]) <= META_BYTES, "the metadata value of %s is longer than 64 KB", keys[i]);
        char *key = json_quote(keys[i]), *value = json_quote(values[i]);
        text_add(&text, ",%s:%s", key, value);
        free(key);
        free(value);
    }
    text_add(&text, "}");
    uint64_t offset = 0;
    for (int i = 0; i < n; i++) {
        text_add(&text, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t[i].name, types[t[i].type].name);
        for (int d = 0; d < t[i].ndim; d++) text_add(&text, "%s%lld", d ? "," : "", (long long)t[i].shape[d]);
        text_add(&text, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", offset, offset + t[i].bytes);
        offset += t[i].bytes;
    }
    text_add(&text, "}");
    while (text.n % 8) text_add(&text, " ");
    return text;
}

bool st_write(const char *path, const StTensor *t, int n, const char *const *keys, const char *const *values,
              int n_meta, Error *err) {
    return st_write_fetched(path, t, n, keys, values, n_meta, NULL, NULL, err);
}

bool st_write_fetched(const char *path, const StTensor *t, int n, const char *const *keys, const char *const *values,
                      int n_meta, StFetch *fetch, void *arg, Error *err) {
    CHECK(n <= TENSORS_MAX && n_meta <= META_MAX - 2, "%d tensors, %d keys", n, n_meta);
    uint64_t data_bytes = 0;
    for (int i = 0; i < n; i++) {
        size_t bytes;
        CHECK(name_is_legal(t[i].name), "a tensor cannot be named \"%s\"", t[i].name);
        CHECK(t[i].ndim >= 0 && t[i].ndim <= RANK_MAX && tensor_bytes(&t[i], &bytes) && bytes == t[i].bytes,
              "tensor %s: %d dimensions, %zu bytes", t[i].name, t[i].ndim, t[i].bytes);
        data_bytes += t[i].bytes;
    }
    FileWriter *w = file_create(path, err);
    if (!w) return false;
    size_t crc_at;
    Text text = header_text(t, n, keys, values, n_meta, fetch, arg, &crc_at);
    size_t length = text.n;
    char digits[9];
    CHECK(length <= HEADER_MAX, "a header of %zu bytes", length);
    uint8_t *header = xmalloc(8 + length);
    for (int i = 0; i < 8; i++) header[i] = (uint8_t)((uint64_t)length >> 8 * i);
    memcpy(header + 8, text.s, length);
    snprintf(digits, sizeof digits, "%08x", (unsigned)header_crc(header, 8 + length, crc_at));
    memcpy(header + crc_at, digits, 8);
    file_expect(w, 8 + length + data_bytes);
    file_write(w, header, 8 + length);
    text_free(&text);
    free(header);
    bool ok = true;
    for (int i = 0; i < n && ok; i++) ok = file_write(w, tensor_data(&t[i], i, fetch, arg), t[i].bytes);
    return file_commit(w, err);
}
