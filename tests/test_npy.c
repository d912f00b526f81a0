// tests/test_npy.c - .npy and .npz: round trips, exact bytes, files of NumPy's where there is NumPy, hostile files.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <zlib.h>
#include "core/file.h"
#include "tests/tempdir.h"

static const uint8_t u8[6] = { 0, 1, 2, 128, 254, 255 };
static const float   f4[4] = { 0, -1.5f, 1e-40f, 3e38f };
static const double  f8[2] = { 0.1, -1e300 };
static const int32_t i4[3] = { -1, 0, INT32_MAX };
static const int64_t i8[2] = { INT64_MIN, 5 };
static const NpyArray all[] = {
    { "|u1", 4, { 1, 2, 1, 3 }, u8 }, { "<f4", 2, { 2, 2 }, f4 }, { "<f8", 1, { 2 }, f8 }, { "<i4", 1, { 3 }, i4 },
    { "<i8", 2, { 2, 1 }, i8 }, { "|b1", 1, { 2 }, u8 }, { "<f4", 0, { 0 }, f4 + 1 }, { "<f4", 3, { 2, 0, 5 }, f4 },
};
enum { ALL = sizeof all / sizeof all[0] };
static const char *const names[ALL] = { "arr_0", "arr_1", "mu", "ints", "longs", "bools", "scalar", "empty" };

static void same_array(const NpyArray *a, const NpyArray *b) {
    size_t bytes;
    assert_string_equal(a->descr, b->descr);
    assert_int_equal(a->ndim, b->ndim);
    for (int i = 0; i < a->ndim; i++) assert_int_equal(a->shape[i], b->shape[i]);
    assert_true(npy_data_bytes(a, &bytes));
    if (bytes) assert_memory_equal(a->data, b->data, bytes);
}

static void npy_round_trips(void **unused) {
    (void)unused;
    Error err;
    NpyArray back;
    uint8_t *bytes;
    const char *path = temp_path("one.npy");
    for (int i = 0; i < ALL; i++) {
        assert_true(npy_write(path, &all[i], &err));
        if (!npy_read(path, &bytes, &back, &err)) fail_msg("%s", err.msg);
        same_array(&back, &all[i]);
        assert_int_equal(((const uint8_t *)back.data - bytes) % 64, 0);
        free(bytes);
    }
    assert_false(npy_read(temp_path("absent"), &bytes, &back, &err));
    assert_int_equal(err.code, ERR_FILE);
}

static void exact_bytes(void **unused) {
    (void)unused;
    static const char text[] = "\x93NUMPY\x01\x00\x76\x00"
                               "{'descr': '|u1', 'fortran_order': False, 'shape': (50000, 32, 32, 3), }";
    uint8_t header[NPY_HEADER_MAX], want[128];
    NpyArray a = { "|u1", 4, { 50000, 32, 32, 3 }, NULL };
    memset(want, ' ', sizeof want);
    memcpy(want, text, sizeof text - 1);
    want[127] = '\n';
    assert_int_equal(npy_header(&a, header), 128);
    assert_memory_equal(header, want, 128);
    NpyArray one = { "<f8", 1, { 7 }, NULL }, none = { "<f8", 0, { 0 }, NULL };
    npy_header(&one, header);
    assert_non_null(memmem(header, 128, "'shape': (7,), }", 16));
    npy_header(&none, header);
    assert_non_null(memmem(header, 128, "'shape': (), }", 14));
    NpyArray widest = { "<f8", 8, { INT64_MAX / 8, 1, 1, 1, 1, 1, 1, 1 }, NULL };
    assert_int_equal(npy_header(&widest, header) % 64, 0);
}

static void row_by_row(void **unused) {
    (void)unused;
    Error err;
    NpyArray a = { "<i4", 2, { 100, 3 }, NULL }, back;
    const char *path = temp_path("rows.npy");
    FileWriter *w = npy_create(path, &a, &err);
    assert_non_null(w);
    for (int i = 0; i < 100; i++) assert_true(file_write(w, i4, sizeof i4));
    assert_true(file_commit(w, &err));
    uint8_t *bytes;
    assert_true(npy_read(path, &bytes, &back, &err));
    assert_int_equal(back.shape[0], 100);
    for (int i = 0; i < 100; i++) assert_memory_equal((const char *)back.data + i * 12, i4, 12);
    free(bytes);
    NpzWriter *z = npz_create(temp_path("rows.npz"), &err);
    assert_non_null(z);
    npz_begin(z, "arr_0", &a);
    for (int i = 0; i < 100; i++) assert_true(npz_rows(z, i4, sizeof i4));
    npz_begin(z, "arr_1", &all[1]);
    npz_rows(z, f4, sizeof f4);
    assert_true(npz_commit(z, &err));
    if (!npz_read(temp_path("rows.npz"), "arr_0", &bytes, &back, &err)) fail_msg("%s", err.msg);
    for (int i = 0; i < 100; i++) assert_memory_equal((const char *)back.data + i * 12, i4, 12);
    free(bytes);
    assert_true(npz_read(temp_path("rows.npz"), "arr_1", &bytes, &back, &err));
    same_array(&back, &all[1]);
    free(bytes);
    z = npz_create(temp_path("given_up.npz"), &err);
    npz_begin(z, "arr_0", &a);
    npz_abandon(z);
    npz_abandon(NULL);
    assert_false(file_exists(temp_path("given_up.npz")));
    assert_false(file_exists(temp_path("given_up.npz.tmp")));
}

static void npz_round_trip(void **unused) {
    (void)unused;
    Error err;
    NpyArray back;
    uint8_t *bytes;
    const char *path = temp_path("all.npz");
    assert_true(npz_write(path, names, all, ALL, &err));
    for (int i = 0; i < ALL; i++) {
        if (!npz_read(path, names[i], &bytes, &back, &err)) fail_msg("%s", err.msg);
        same_array(&back, &all[i]);
        free(bytes);
    }
    assert_false(npz_read(path, "sigma", &bytes, &back, &err));
    assert_non_null(strstr(err.msg, "holds no array named \"sigma\""));
    static const char *const same[] = { "mu", "mu" };
    assert_true(npz_write(path, same, all, 2, &err));
    assert_false(npz_read(path, "mu", &bytes, &back, &err));
    assert_non_null(strstr(err.msg, "comes twice"));
    assert_true(npz_write(path, names, all, 0, &err));              // an archive of nothing
    assert_false(npz_read(path, "mu", &bytes, &back, &err));
    assert_non_null(strstr(err.msg, "holds no array"));
}

// ---- NumPy, where it is

static const char *python(void) {
    static const char *const which[] = { "python3", "/usr/bin/python3" };
    for (int i = 0; i < 2; i++) {
        char *command = xasprintf("%s -c 'import numpy' 2>/dev/null", which[i]);
        int status = system(command);
        free(command);
        if (status == 0) return which[i];
    }
    return NULL;
}

static void numpy_agrees(void **unused) {
    (void)unused;
    const char *py = python(), *script = temp_path("check.py");
    Error err;
    if (!py) skip();
    assert_true(npz_write(temp_path("ours.npz"), names, all, ALL, &err));
    assert_true(npy_write(temp_path("ours.npy"), &all[0], &err));
    assert_true(file_write_text(script,
        "import sys, zipfile, numpy as np\n"
        "d = sys.argv[1]\n"
        "assert zipfile.ZipFile(d + '/ours.npz').testzip() is None\n"
        "z = np.load(d + '/ours.npz')\n"
        "want = {'arr_0': ('|u1', (1, 2, 1, 3)), 'arr_1': ('<f4', (2, 2)), 'mu': ('<f8', (2,)), 'ints': ('<i4', (3,)),"
        " 'longs': ('<i8', (2, 1)), 'bools': ('|b1', (2,)), 'scalar': ('<f4', ()), 'empty': ('<f4', (2, 0, 5))}\n"
        "assert sorted(z.files) == sorted(want)\n"
        "for k, (t, s) in want.items(): assert z[k].dtype.str == t and z[k].shape == s, k\n"
        "assert z['mu'].tolist() == [0.1, -1e300] and z['longs'][0, 0] == -2**63\n"
        "assert z['ints'].tolist() == [-1, 0, 2**31 - 1]\n"
        "assert z['scalar'] == -1.5 and z['bools'].tolist() == [False, True]\n"
        "a = np.load(d + '/ours.npy')\n"
        "assert a.ravel().tolist() == [0, 1, 2, 128, 254, 255]\n"
        "np.save(d + '/same.npy', a)\n"
        "assert open(d + '/same.npy', 'rb').read() == open(d + '/ours.npy', 'rb').read()\n"
        "np.savez(d + '/stored.npz', **z)\n"
        "np.savez_compressed(d + '/deflated.npz', **z)\n"
        "np.save(d + '/fortran.npy', np.asfortranarray(np.ones((2, 3))))\n"
        "np.save(d + '/big_endian.npy', np.ones(3, '>f4'))\n"
        "np.save(d + '/object.npy', np.array([None]), allow_pickle=True)\n", &err));
    char *command = xasprintf("%s \"%s\" \"%s\"", py, script, tempdir);
    assert_int_equal(system(command), 0);
    free(command);
    NpyArray back;
    uint8_t *bytes;
    for (int i = 0; i < ALL; i++) {
        if (!npz_read(temp_path("stored.npz"), names[i], &bytes, &back, &err)) fail_msg("%s", err.msg);
        same_array(&back, &all[i]);
        free(bytes);
        if (!npz_read(temp_path("deflated.npz"), names[i], &bytes, &back, &err)) fail_msg("%s", err.msg);
        same_array(&back, &all[i]);
        free(bytes);
    }
    assert_false(npy_read(temp_path("fortran.npy"), &bytes, &back, &err));
    assert_non_null(strstr(err.msg, "ascontiguousarray"));
    assert_false(npy_read(temp_path("big_endian.npy"), &bytes, &back, &err));
    assert_non_null(strstr(err.msg, "elements of type \">f4\""));
    assert_false(npy_read(temp_path("object.npy"), &bytes, &back, &err));
    assert_non_null(strstr(err.msg, "elements of type \"|O\""));
}

// ---- hostile .npy

// A file of version 1.0 with this dictionary, as it is, and so many bytes of data.
static void npy_case(const char *dictionary, size_t data_bytes, const char *part) {
    size_t length = strlen(dictionary), n = 10 + length + data_bytes;
    uint8_t *bytes = xcalloc(n, 1);
    memcpy(bytes, "\x93NUMPY\x01\x00", 8);
    bytes[8] = (uint8_t)length;
    bytes[9] = (uint8_t)(length >> 8);
    memcpy(bytes + 10, dictionary, length);
    Error err = { 0 };
    NpyArray a;
    bool ok = npy_parse(bytes, n, "case", &a, &err);
    free(bytes);
    if (part && ok) fail_msg("%s was accepted", dictionary);
    if (!part && !ok) fail_msg("%s was refused: %s", dictionary, err.msg);
    if (part && !strstr(err.msg, part)) fail_msg("%s: %s; wanted %s", dictionary, err.msg, part);
}

#define D(descr, order, shape) "{'descr': '" descr "', 'fortran_order': " order ", 'shape': (" shape "), }"

static void hostile_npy(void **unused) {
    (void)unused;
    npy_case(D("<f4", "False", "2, 3"), 24, NULL);
    npy_case(D("<f4", "False", "2, 3") "      \n", 24, NULL);
    npy_case("{\"shape\":(2,3),\"fortran_order\":False,\"descr\":\"<f4\"}", 24, NULL);
    npy_case(D("<f4", "False", "2, 3"), 23, "its shape needs 24 bytes, 23 are there");
    npy_case(D("<f4", "False", "2, 3"), 25, "its shape needs 24 bytes, 25 are there");
    npy_case(D("<f4", "True", "2, 3"), 24, "Fortran order");
    npy_case(D("<f2", "False", "2,"), 4, "elements of type \"<f2\"");
    npy_case(D("|V9999", "False", "2,"), 4, "elements of type");
    npy_case(D("<f4<f4<f4", "False", "2,"), 8, "does not belong here");
    npy_case(D("<f4", "Maybe", "2,"), 8, "expected True or False");
    npy_case(D("<f4", "Truly", "2,"), 8, "unknown word");
    npy_case(D("<f4", "False", "4611686018427387904, 4"), 0, "overflows");
    npy_case(D("<f4", "False", "4611686018427387905,"), 4, "overflows");
    npy_case(D("<f4", "False", "2305843009213693952,"), 0, "overflows");        // 2^63 bytes
    npy_case(D("<f4", "False", "0, 4294967296, 4294967296"), 0, "overflows");
    npy_case(D("<f4", "False", "9223372036854775808"), 0, "out of range");
    npy_case(D("<f4", "False", "-1"), 4, "expected a dimension");
    npy_case(D("<f4", "False", "1.0"), 4, "expected a comma");
    npy_case(D("<f4", "False", "1 1"), 4, "expected a comma");
    npy_case(D("<f4", "False", ","), 4, "expected a dimension");
    npy_case(D("<f4", "False", "1,1,1,1,1,1,1,1,1"), 4, "more than 8 dimensions");
    npy_case("{'descr': '<f4', 'fortran_order': False, 'shape': 4}", 16, "expected a shape");
    npy_case("{'descr': '<f4', 'fortran_order': False, 'shape': (4)}", 16, "expected a comma");
    npy_case("{'descr': '<f4', 'fortran_order': False}", 4, "is missing");
    npy_case("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': ()}", 4, "comes twice");
    npy_case("{'descr': '<f4', 'x': 1, 'fortran_order': False, 'shape': ()}", 4, "unknown key");
    npy_case("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': ()}", 4, "expected a string");
    npy_case("{'descr': '<f4\\', 'fortran_order': False, 'shape': ()}", 4, "does not belong here");
    npy_case(D("<f4", "False", "1,") " x", 4, "something follows");
    npy_case("{'descr': '<f4', 'fortran_order': False, 'shape': (1", 4, "bad header");
    npy_case("{'descr': '<f4", 4, "bad header");
    npy_case("{", 4, "bad header");
    npy_case("", 4, "expected a dictionary");
}

static void npy_versions_and_cuts(void **unused) {
    (void)unused;
    Error err;
    NpyArray a;
    uint8_t *bytes, *file;
    size_t n;
    const char *path = temp_path("cut.npy");
    assert_true(npy_write(path, &all[2], &err));
    assert_true(file_read(path, 4096, &file, &n, &err));
    for (size_t cut = 0; cut < n; cut++) {
        bytes = memcpy(xmalloc(cut), file, cut);
        if (npy_parse(bytes, cut, "cut", &a, &err)) fail_msg("%zu bytes of %zu were accepted", cut, n);
        free(bytes);
    }
    for (int version = 0; version < 256; version++) {       // 2 and 3 have a longer length, which this file lacks
        file[6] = (uint8_t)version;
        assert_int_equal(npy_parse(file, n, "version", &a, &err), version == 1);
    }
    file[6] = 1;
    file[7] = 1;
    assert_false(npy_parse(file, n, "version", &a, &err));
    file[7] = 0;
    bytes = xcalloc(n + 2, 1);                              // the same as version 2.0
    memcpy(bytes, file, 10);
    memcpy(bytes + 12, file + 10, n - 10);
    bytes[6] = 2;
    assert_true(npy_parse(bytes, n + 2, "version 2", &a, &err));
    assert_memory_equal(a.data, f8, sizeof f8);
    bytes[11] = 0xff;
    assert_false(npy_parse(bytes, n + 2, "version 2", &a, &err));
    free(bytes);
    free(file);
}

// ---- hostile .npz

static void npz_damage(void **unused) {
    (void)unused;
    Error err;
    NpyArray a;
    uint8_t *file, *member;
    size_t n;
    const char *path = temp_path("damage.npz");
    assert_true(npz_write(path, names + 2, all + 2, 1, &err));
    assert_true(file_read(path, 4096, &file, &n, &err));
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *bytes = memcpy(xmalloc(cut), file, cut);
        if (npz_parse(bytes, cut, "cut", "mu", &member, &a, &err)) fail_msg("%zu bytes of %zu were accepted", cut, n);
        free(bytes);
    }
    for (size_t bit = 0; bit < 8 * n; bit++) {              // not all bits matter, but none may change the array
        file[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (npz_parse(file, n, "flip", "mu", &member, &a, &err)) {
            same_array(&a, &all[2]);
            free(member);
        }
        file[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    size_t end = n - 22, central = file[end + 16] + 256u * file[end + 17];
    static const struct { size_t at; uint8_t value; const char *part; } bad[] = {
        { 8, 1, "encrypted" }, { 10, 99, "neither stored nor deflated" }, { 10, 8, "deflated data are damaged" },
        { 16, 0, "does not match its CRC-32" }, { 24, 1, "false size" }, { 27, 0xff, "cut off" },
        { 43, 0xff, "bad member" }, { 29, 0xff, "cut off" }, { 0, 0, "bad directory entry" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint8_t *field = file + central + bad[i].at, before = *field;
        *field = bad[i].value == before ? (uint8_t)(before + 1) : bad[i].value;
        if (npz_parse(file, n, "bad", "mu", &member, &a, &err)) fail_msg("%s was accepted", bad[i].part);
        if (!strstr(err.msg, bad[i].part) && bad[i].at != 27) fail_msg("%s; wanted %s", err.msg, bad[i].part);
        *field = before;
    }
    free(file);
}

// An archive of one deflated member "x.npy", whose directory claims `claimed` bytes.
static uint8_t *deflated(const uint8_t *data, size_t data_n, uint32_t claimed, size_t *n) {
    uint8_t *packed = xmalloc(compressBound(data_n) + 64);
    z_stream s = { 0 };
    assert_int_equal(deflateInit2(&s, 9, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
    s.next_in = (Bytef *)(uintptr_t)data;
    s.avail_in = (uInt)data_n;
    s.next_out = packed;
    s.avail_out = (uInt)(compressBound(data_n) + 64);
    assert_int_equal(deflate(&s, Z_FINISH), Z_STREAM_END);
    uint32_t packed_n = (uint32_t)s.total_out, crc = (uint32_t)crc32(0, data, (uInt)data_n);
    deflateEnd(&s);
    uint8_t *bytes = xcalloc(30 + 5 + packed_n + 46 + 5 + 22, 1), *p = bytes;
    memcpy(p, "PK\3\4", 4);
    p[26] = 5;
    memcpy(p + 30, "x.npy", 5);
    memcpy(p + 35, packed, packed_n);
    p += 35 + packed_n;
    uint32_t central = (uint32_t)(p - bytes);
    memcpy(p, "PK\1\2", 4);
    p[10] = 8;
    memcpy(p + 16, &crc, 4);
    memcpy(p + 20, &packed_n, 4);
    memcpy(p + 24, &claimed, 4);
    p[28] = 5;
    memcpy(p + 46, "x.npy", 5);
    p += 51;
    memcpy(p, "PK\5\6", 4);
    p[8] = p[10] = 1;
    p[12] = 51;
    memcpy(p + 16, &central, 4);
    *n = (size_t)(p + 22 - bytes);
    free(packed);
    return bytes;
}

static void npz_bombs(void **unused) {
    (void)unused;
    enum { ZEROS = 1 << 20 };
    Error err;
    NpyArray a = { "|u1", 1, { ZEROS }, NULL }, back;
    uint8_t *data = xcalloc(NPY_HEADER_MAX + ZEROS, 1), *member;
    size_t header = npy_header(&a, data), total = header + ZEROS, n;
    static const struct { int64_t more; const char *part; } claims[] = {
        { 0, NULL }, { 1, "deflated data are damaged" }, { -1, "deflated data are damaged" },
        { 0x7f000000, "false size" },                       // 2 GB in a file of a thousand bytes: refused before malloc
    };
    for (int i = 0; i < 4; i++) {
        uint8_t *file = deflated(data, total, (uint32_t)((int64_t)total + claims[i].more), &n);
        bool ok = npz_parse(file, n, "bomb", "x", &member, &back, &err);
        if (ok != !claims[i].part) fail_msg("claim %d", i);
        if (!ok && !strstr(err.msg, claims[i].part)) fail_msg("%s; wanted %s", err.msg, claims[i].part);
        if (ok) assert_int_equal(back.shape[0], ZEROS);
        if (ok) free(member);
        free(file);
    }
    free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(npy_round_trips),
        cmocka_unit_test(exact_bytes),
        cmocka_unit_test(row_by_row),
        cmocka_unit_test(npz_round_trip),
        cmocka_unit_test(numpy_agrees),
        cmocka_unit_test(hostile_npy),
        cmocka_unit_test(npy_versions_and_cuts),
        cmocka_unit_test(npz_damage),
        cmocka_unit_test(npz_bombs),
    };
    return cmocka_run_group_tests(tests, tempdir_make, tempdir_remove);
}
