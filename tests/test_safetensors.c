// tests/test_safetensors.c - round trips, the exact bytes, damage of every kind, and headers that lie.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "core/file.h"
#include "tests/tempdir.h"

static uint64_t random_state = 88172645463325252u;

static uint64_t random_u64(void) {          // xorshift64: the same numbers in every run
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static const float  f32[6] = { 0, -1.5f, 3.25f, 1e-40f, 1e30f, -0.0f };
static const double f64[2] = { 0.1, -1e100 };
static const uint16_t bf16[4] = { 0x3f80, 0xc000, 0x0001, 0x7f80 };             // 1, -2, 2^-133, inf
static const uint16_t f16[6] = { 0x3c00, 0xc000, 0x0001, 0x7c00, 0x83ff, 0x7bff };
static const int64_t i64[2] = { INT64_MIN, 7 };
static const int32_t i32[3] = { -5, 0, INT32_MAX };
static const uint8_t u8[5] = { 0, 1, 127, 128, 255 };
static const StTensor all[] = {
    { "time_embedding.0.weight", ST_F32, 2, { 2, 3 }, f32, sizeof f32 },
    { "u8", ST_U8, 3, { 1, 5, 1 }, u8, sizeof u8 },                             // leaves what follows unaligned
    { "f64", ST_F64, 1, { 2 }, f64, sizeof f64 },
    { "empty", ST_F32, 2, { 0, 9 }, NULL, 0 },
    { "bf16", ST_BF16, 8, { 1, 1, 2, 1, 1, 2, 1, 1 }, bf16, sizeof bf16 },
    { "f16", ST_F16, 1, { 6 }, f16, sizeof f16 },
    { "i64#0-1_x", ST_I64, 1, { 2 }, i64, sizeof i64 },
    { "i32", ST_I32, 1, { 3 }, i32, sizeof i32 },
    { "scalar", ST_F32, 0, { 0 }, f32 + 1, 4 },
};
enum { ALL = sizeof all / sizeof all[0] };
static const char *const keys[] = { "config", "format" };
static const char *const values[] = { "{\"batch\": 128}\n\xc3\xa9", "pt" };

// Writes `all`; returns the file's bytes, which the caller frees.
static uint8_t *written(size_t *n) {
    Error err;
    uint8_t *bytes;
    const char *path = temp_path("all.safetensors");
    if (!st_write(path, all, ALL, keys, values, 2, &err)) fail_msg("%s", err.msg);
    assert_true(file_read(path, 1 << 20, &bytes, n, &err));
    return bytes;
}

// Parses a copy in a block of its own, so that AddressSanitizer sees a step beyond its end.
static bool accepted(const uint8_t *bytes, size_t n, Error *err) {
    uint8_t *copy = memcpy(xmalloc(n), bytes, n);
    SafeTensors *st = st_parse(copy, n, "copy", err);
    st_close(st);
    free(copy);
    return st != NULL;
}

static void round_trip(void **unused) {
    (void)unused;
    Error err;
    size_t n;
    uint8_t *bytes = written(&n);
    free(bytes);
    SafeTensors *st = st_open(temp_path("all.safetensors"), &err);
    if (!st) fail_msg("%s", err.msg);
    assert_int_equal(st_count(st), ALL);
    for (int i = 0; i < ALL; i++) {
        const StTensor *t = st_find(st, all[i].name);
        assert_non_null(t);
        assert_string_equal(t->name, all[i].name);
        assert_int_equal(t->type, all[i].type);
        assert_int_equal(t->ndim, all[i].ndim);
        for (int d = 0; d < t->ndim; d++) assert_int_equal(t->shape[d], all[i].shape[d]);
        assert_int_equal(t->bytes, all[i].bytes);
        if (t->bytes) assert_memory_equal(t->data, all[i].data, t->bytes);
    }
    for (int i = 1; i < ALL; i++)           // in the order of the data
        assert_true((const char *)st_get(st, i)->data >= (const char *)st_get(st, i - 1)->data);
    assert_null(st_find(st, "absent"));
    assert_string_equal(st_meta(st, "config"), values[0]);
    assert_string_equal(st_meta(st, "format"), "pt");
    assert_null(st_meta(st, "absent"));
    st_close(st);
    st_close(NULL);
}

static const void *fetch(void *arg, int i) {
    ++*(int *)arg;
    return all[i].data;
}

// Tensors handed over one by one make the same file.
static void fetched_tensors(void **unused) {
    (void)unused;
    Error err;
    size_t n, n2;
    int calls = 0;
    uint8_t *bytes = written(&n), *bytes2;
    StTensor some[ALL];
    memcpy(some, all, sizeof all);
    some[1].data = some[4].data = NULL;
    const char *path = temp_path("fetched.safetensors");
    assert_true(st_write_fetched(path, some, ALL, keys, values, 2, fetch, &calls, &err));
    assert_int_equal(calls, 4);         // two tensors, twice each; the empty one has nothing to fetch
    assert_true(file_read(path, 1 << 20, &bytes2, &n2, &err));
    assert_int_equal(n2, n);
    assert_memory_equal(bytes2, bytes, n);
    free(bytes);
    free(bytes2);
}

static void nothing_at_all(void **unused) {
    (void)unused;
    Error err;
    const char *path = temp_path("none.safetensors");
    assert_true(st_write(path, NULL, 0, NULL, NULL, 0, &err));
    SafeTensors *st = st_open(path, &err);
    if (!st) fail_msg("%s", err.msg);
    assert_int_equal(st_count(st), 0);
    assert_null(st_find(st, "x"));
    st_close(st);
    assert_null(st_open(temp_path("absent"), &err));
    assert_int_equal(err.code, ERR_FILE);
}

static void values_as_numbers(void **unused) {
    (void)unused;
    static const float want_bf16[4] = { 1, -2, 0x1p-133f, INFINITY };
    static const float want_f16[6] = { 1, -2, 0x1p-24f, INFINITY, -0x3ffp-24f, 65504 };
    float out[6];
    int64_t whole[5];
    assert_true(st_read_f32(&all[4], out));
    assert_memory_equal(out, want_bf16, sizeof want_bf16);
    assert_true(st_read_f32(&all[5], out));
    assert_memory_equal(out, want_f16, sizeof want_f16);
    assert_true(st_read_f32(&all[0], out));
    assert_memory_equal(out, f32, sizeof f32);
    assert_false(st_read_f32(&all[2], out));                    // 1e100 is no float
    StTensor first = { "f64", ST_F64, 1, { 1 }, f64, 8 };
    assert_true(st_read_f32(&first, out));
    assert_true(fabsf(out[0] - 0.1f) <= 0);
    assert_true(st_read_f32(&all[1], out));
    for (int i = 0; i < 5; i++) assert_true(fabsf(out[i] - (float)u8[i]) <= 0);
    assert_true(st_read_f32(&all[7], out));
    assert_true(fabsf(out[0] + 5) <= 0 && fabsf(out[2] - 0x1p31f) <= 0);
    assert_true(st_read_f32(&all[6], out));
    assert_true(fabsf(out[0] + 0x1p63f) <= 0 && fabsf(out[1] - 7) <= 0);
    assert_true(st_read_i64(&all[1], whole));
    for (int i = 0; i < 5; i++) assert_int_equal(whole[i], u8[i]);
    assert_true(st_read_i64(&all[6], whole));
    assert_true(whole[0] == INT64_MIN && whole[1] == 7);
    assert_true(st_read_i64(&all[7], whole));
    assert_true(whole[0] == -5 && whole[2] == INT32_MAX);
    assert_false(st_read_i64(&all[0], whole));
}

// What other programs see: the layout byte by byte, the CRC by a second way of computing it.
static void exact_bytes(void **unused) {
    (void)unused;
    Error err;
    const char *path = temp_path("exact.safetensors");
    static const char *const key[] = { "a" }, *const value[] = { "b" };
    const StTensor two[] = { { "x", ST_I32, 1, { 3 }, i32, 12 }, { "y", ST_U8, 1, { 2 }, u8, 2 } };
    assert_true(st_write(path, two, 2, key, value, 1, &err));
    uint8_t *bytes;
    size_t n;
    assert_true(file_read(path, 4096, &bytes, &n, &err));
    char *header = xasprintf("{\"__metadata__\":{\"writer\":\"cbdm\",\"crc32c\":\"00000000%08x%08x\",\"a\":\"b\"},"
                             "\"x\":{\"dtype\":\"I32\",\"shape\":[3],\"data_offsets\":[0,12]},"
                             "\"y\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[12,14]}}",
                             crc32c(0, i32, 12), crc32c(0, u8, 2));
    size_t length = strlen(header), padded = (length + 7) / 8 * 8;
    assert_int_equal(n, 8 + padded + 14);
    uint8_t *want = xmalloc(8 + padded);
    for (int i = 0; i < 8; i++) want[i] = (uint8_t)((uint64_t)padded >> 8 * i);
    memset(want + 8, ' ', padded);
    memcpy(want + 8, header, length);
    char digits[9];
    snprintf(digits, sizeof digits, "%08x", crc32c(0, want, 8 + padded));
    memcpy(memmem(want + 8, padded, "00000000", 8), digits, 8);
    assert_memory_equal(bytes, want, 8 + padded);
    assert_memory_equal(bytes + 8 + padded, i32, 12);
    assert_memory_equal(bytes + 8 + padded + 12, u8, 2);
    free(want);
    free(header);
    free(bytes);
}

static void truncations_and_additions(void **unused) {
    (void)unused;
    Error err;
    size_t n;
    uint8_t *bytes = written(&n);
    assert_true(accepted(bytes, n, &err));
    size_t header_end = 8 + bytes[0] + 256u * bytes[1];
    for (size_t cut = 0; cut < header_end; cut++)
        if (accepted(bytes, cut, &err)) fail_msg("%zu bytes of %zu were accepted", cut, n);
    for (int i = 0; i < 1000; i++) {
        size_t cut = random_u64() % n;
        if (accepted(bytes, cut, &err)) fail_msg("%zu bytes of %zu were accepted", cut, n);
        assert_int_equal(err.code, ERR_FILE);
    }
    uint8_t *longer = xcalloc(n + 64, 1);
    memcpy(longer, bytes, n);
    for (size_t more = 1; more <= 64; more++) assert_false(accepted(longer, n + more, &err));
    free(longer);
    free(bytes);
}

static void bit_flips(void **unused) {
    (void)unused;
    Error err;
    size_t n;
    uint8_t *bytes = written(&n);
    for (size_t bit = 0; bit < 8 * n; bit++) {              // every single bit
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (accepted(bytes, n, &err)) fail_msg("bit %zu flipped was accepted", bit);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (int i = 0; i < 20000; i++) {                       // and 2 to 5 at once, half of the time near the keys
        uint8_t *copy = memcpy(xmalloc(n), bytes, n);
        int flips = 2 + (int)(random_u64() % 4);
        for (int k = 0; k < flips; k++) {
            uint64_t bit = random_u64() % (8 * (i % 2 ? n : 60));
            copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        if (memcmp(copy, bytes, n) != 0 && accepted(copy, n, &err)) fail_msg("round %d was accepted", i);
        free(copy);
    }
    assert_true(accepted(bytes, n, &err));
    free(bytes);
}

static void damage_is_named(void **unused) {
    (void)unused;
    Error err;
    size_t n;
    uint8_t *bytes = written(&n);
    bytes[n - 1] ^= 1;                                      // the last byte belongs to "scalar"
    assert_false(accepted(bytes, n, &err));
    assert_non_null(strstr(err.msg, "copy: tensor \"scalar\""));
    assert_non_null(strstr(err.msg, "CRC-32C"));
    free(bytes);
}

// ---- headers that lie, in files without CRC, so that nothing but the check meant can refuse them

static uint8_t *file_of(const char *header, size_t data_bytes, size_t *n) {
    size_t length = strlen(header);
    uint8_t *bytes = xcalloc(8 + length + data_bytes, 1);
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)((uint64_t)length >> 8 * i);
    memcpy(bytes + 8, header, length);
    *n = 8 + length + data_bytes;
    return bytes;
}

static void lie(const char *header, size_t data_bytes, const char *part) {
    Error err = { 0 };
    size_t n;
    uint8_t *bytes = file_of(header, data_bytes, &n);
    bool ok = accepted(bytes, n, &err);
    free(bytes);
    if (part && ok) fail_msg("%.200s was accepted", header);
    if (!part && !ok) fail_msg("%.200s was refused: %s", header, err.msg);
    if (part && !strstr(err.msg, part)) fail_msg("%.200s: %s; wanted %s", header, err.msg, part);
    if (part) assert_int_equal(err.code, ERR_FILE);
}

#define T(shape, from, to) "{\"dtype\":\"F32\",\"shape\":[" shape "],\"data_offsets\":[" from "," to "]}"

static void foreign_files(void **unused) {
    (void)unused;
    lie("{}", 0, NULL);
    lie("{\"a\":" T("2", "0", "8") "}", 8, NULL);
    lie("{\"a\":" T("2", "0", "8") "}   \n ", 8, NULL);
    lie("{ \"b\" : " T("1", "4", "8") ", \"a\":" T("1", "0", "4") "}", 8, NULL);         // any order
    lie("{\"a\":" T("", "0", "4") ",\"e\":" T("0", "4", "4") ",\"b\":" T("1", "4", "8") "}", 8, NULL);
    lie("{\"__metadata__\":{},\"a\":" T("1", "0", "4") "}", 4, NULL);
    lie("{\"a\":{\"data_offsets\":[0,1],\"shape\":[1],\"dtype\":\"U8\"}}", 1, NULL);
}

static void lies_about_shape(void **unused) {
    (void)unused;
    lie("{\"a\":" T("2", "0", "8") "}", 9, "something was appended");
    lie("{\"a\":" T("2", "0", "8") "}", 7, "beyond the file's end");
    lie("{\"a\":" T("1", "0", "8") "}", 8, "do not fit its shape");
    lie("{\"a\":" T("2", "8", "0") "}", 8, "beyond the file's end");
    lie("{\"a\":" T("1", "0", "4") ",\"b\":" T("1", "5", "9") "}", 9, "a gap before its data");
    lie("{\"a\":" T("1", "1", "5") "}", 5, "a gap before its data");
    lie("{\"a\":" T("2", "0", "8") ",\"b\":" T("1", "4", "8") "}", 8, "overlaps");
    lie("{\"a\":" T("2", "0", "8") ",\"b\":" T("2", "0", "8") "}", 8, "overlaps");
    lie("{\"a\":" T("0", "4", "4") ",\"b\":" T("2", "0", "8") "}", 8, "overlaps");         // empty, within another's
    lie("{\"a\":" T("4611686018427387904,4", "0", "0") "}", 0, "overflows");
    lie("{\"a\":" T("4294967296,4294967296", "0", "0") "}", 0, "overflows");
    lie("{\"a\":" T("0,4294967296,4294967296", "0", "0") "}", 0, "overflows");
    lie("{\"a\":" T("4611686018427387905", "0", "4") "}", 4, "overflows");               // 4 modulo 2^64
    lie("{\"a\":" T("2305843009213693952", "0", "0") "}", 0, "overflows");               // 2^63 bytes
    lie("{\"a\":" T("18446744073709551615", "0", "0") "}", 0, "out of range");
    lie("{\"a\":" T("18446744073709551617", "0", "4") "}", 4, "out of range");           // 1 modulo 2^64
    lie("{\"a\":" T("-1", "0", "4") "}", 4, "not negative");
    lie("{\"a\":" T("1.0", "0", "4") "}", 4, "whole number");
    lie("{\"a\":" T("1e0", "0", "4") "}", 4, "whole number");
    lie("{\"a\":" T("01", "0", "4") "}", 4, "expected a number");
    lie("{\"a\":" T("1,1,1,1,1,1,1,1,1", "0", "4") "}", 4, "more than 8 dimensions");
    lie("{\"a\":" T("1", "0", "18446744073709551612") "}", 4, "beyond the file's end");
    lie("{\"a\":" T("1", "18446744073709551612", "0") "}", 4, "beyond the file's end");
}

static void lies_about_fields(void **unused) {
    (void)unused;
    lie("{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "is missing");
    lie("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "is missing");
    lie("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "is missing");
    lie("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "comes twice");
    lie("{\"a\":{\"dtype\":\"F32\",\"x\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "unknown name");
    lie("{\"a\":{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "has the type \"F31\"");
    lie("{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "expected a string");
    lie("{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, "expected an array");
    lie("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "fewer than two");
    lie("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,2,4]}}", 4, "more than two");
    lie("{\"a\":7}", 0, "expected an object");
    lie("{\"a\":" T("1", "0", "4") ",\"a\":" T("1", "4", "8") "}", 8, "comes twice");
    lie("{\"a b\":" T("1", "0", "4") "}", 4, "a name that is not");
    lie("{\"../a\":" T("1", "0", "4") "}", 4, "a name that is not");
    lie("{\"\":" T("1", "0", "4") "}", 4, "a name that is not");
    lie("{\"\\u0061\\u0000\":" T("1", "0", "4") "}", 4, "NUL");
    lie("{\"\xff\":" T("1", "0", "4") "}", 4, "not UTF-8");
    lie("{\"__metadata__\":{\"a\":1}}", 0, "expected a string");
    lie("{\"__metadata__\":{\"a\":{}}}", 0, "expected a string");
    lie("{\"__metadata__\":[]}", 0, "expected an object");
    lie("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, "comes twice");
    lie("{\"__metadata__\":{},\"__metadata__\":{}}", 0, "comes twice");
    lie("{\"__metadata__\":{\"writer\":\"cbdm\"}}", 0, "does not match its CRC-32C");
    lie("{\"__metadata__\":{\"crc32c\":\"00000000\"}}", 0, "does not match its CRC-32C");
    lie("{\"__metadata__\":{\"writer\":\"cbdm\",\"crc32c\":\"\"}}", 0, "does not match its CRC-32C");
    lie("{\"__metadata__\":{\"writer\":\"cbdm\",\"crc32c\":\"0000000\"}}", 0, "does not match its CRC-32C");
    lie("[]", 0, "does not begin with a header");
    lie(" {}", 0, "does not begin with a header");
    lie("{} x", 0, "something follows");
    lie("{}{}", 0, "something follows");
    lie("{\"a\":" T("1", "0", "4") ",}", 4, "expected a string");
}

static void lies_about_size(void **unused) {
    (void)unused;
    Error err;
    static const uint64_t lengths[] = { 0, 1, 3, (8 << 20) + 1, 1ull << 32, 1ull << 63, UINT64_MAX, UINT64_MAX - 7 };
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        uint8_t bytes[10] = { [8] = '{', [9] = '}' };
        for (int k = 0; k < 8; k++) bytes[k] = (uint8_t)(lengths[i] >> 8 * k);
        assert_false(accepted(bytes, sizeof bytes, &err));
        assert_int_equal(err.code, ERR_FILE);
    }
    // A name of 255 characters is legal, one of 256 is not; a nest is refused before it costs anything.
    char name[300], *header;
    for (size_t length = 255; length <= 256; length++) {
        memset(name, 'n', length);
        name[length] = 0;
        header = xasprintf("{\"%s\":" T("1", "0", "4") "}", name);
        lie(header, 4, length == 255 ? NULL : "a name that is not");
        free(header);
    }
    size_t deep = 1 << 20;
    header = xcalloc(deep + 8, 1);
    memcpy(header, "{\"a\":", 5);
    memset(header + 5, '[', deep);
    lie(header, 0, "expected an object");
    free(header);
    for (int more = 0; more <= 1; more++) {                 // 8 MB of header are legal, a byte more is not
        header = xasprintf("{}%*s", (8 << 20) - 2 + more, "");
        lie(header, 0, more ? "does not begin with a header" : NULL);
        free(header);
    }
    // 64 KB of metadata value are legal, a byte more is not.
    for (size_t length = 64 << 10; length <= (64 << 10) + 1; length++) {
        char *value = xcalloc(length + 1, 1);
        memset(value, 'v', length);
        header = xasprintf("{\"__metadata__\":{\"k\":\"%s\"}}", value);
        lie(header, 0, length == 64 << 10 ? NULL : "over 64 KB");
        free(header);
        free(value);
    }
}

static void too_many_tensors(void **unused) {
    (void)unused;
    for (int n = 65536; n <= 65537; n++) {
        char *header = NULL;
        size_t length;
        FILE *f = open_memstream(&header, &length);
        for (int i = 0; i < n; i++) fprintf(f, "%c\"t%d\":" T("0", "0", "0"), i ? ',' : '{', i);
        fputc('}', f);
        assert_int_equal(fclose(f), 0);
        lie(header, 0, n == 65536 ? NULL : "more than 65,536 tensors");
        free(header);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(fetched_tensors),
        cmocka_unit_test(nothing_at_all),
        cmocka_unit_test(values_as_numbers),
        cmocka_unit_test(exact_bytes),
        cmocka_unit_test(truncations_and_additions),
        cmocka_unit_test(bit_flips),
        cmocka_unit_test(damage_is_named),
        cmocka_unit_test(foreign_files),
        cmocka_unit_test(lies_about_shape),
        cmocka_unit_test(lies_about_fields),
        cmocka_unit_test(lies_about_size),
        cmocka_unit_test(too_many_tensors),
    };
    return cmocka_run_group_tests(tests, tempdir_make, tempdir_remove);
}
