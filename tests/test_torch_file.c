// tests/test_torch_file.c - files of torch.save: what torch 1.13 and 2.15 wrote (tests/peer/torch_golden.py), and lies.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "core/torch_file.h"

static const struct { const char *name; StType type; int ndim; int64_t shape[4]; int first; } expected[] = {
    { "bfloat", ST_BF16, 1, { 3 }, 2 },
    { "bn.num_batches_tracked", ST_I64, 0, { 0 }, 12 },
    { "bool", ST_U8, 1, { 3 }, 0 },
    { "byte", ST_U8, 1, { 3 }, 6 },
    { "conv.weight", ST_F32, 4, { 2, 1, 2, 1 }, 0 },
    { "double", ST_F64, 2, { 2, 2 }, 3 },
    { "half", ST_F16, 1, { 3 }, 1 },
    { "int", ST_I32, 1, { 2 }, 5 },
    { "long", ST_I64, 1, { 2 }, 4 },
    { "none", ST_F32, 2, { 0, 3 }, 10 },
    { "parameter", ST_F32, 1, { 2 }, 11 },
    { "rows", ST_F32, 2, { 2, 3 }, 8 },          // from element 3 of "shared" on
    { "scalar", ST_F32, 0, { 0 }, 9 },
    { "shared", ST_F32, 2, { 4, 3 }, 8 },
};
enum { EXPECTED = sizeof expected / sizeof expected[0] };

static uint8_t *golden(const char *name, size_t *n) {
    char *path = xasprintf("%s/golden/%s", TESTS_DIR, name);
    uint8_t *bytes;
    Error err;
    if (!file_read(path, 1 << 20, &bytes, n, &err)) fail_msg("%s", err.msg);
    free(path);
    return bytes;
}

static void check_values(const StTensor *t, int first) {
    float v[12];
    bool fractional = t->type != ST_I64 && t->type != ST_I32 && t->type != ST_U8;
    int shift = strcmp(t->name, "rows") == 0 ? 3 : 0;
    assert_true(st_read_f32(t, v));
    for (size_t e = 0; e < t->bytes / st_type_size(t->type); e++) {
        double at = (double)e + shift, want = first + (fractional ? at / 4 : at);
        if (strcmp(t->name, "bool") == 0) want = (double)(e % 2);
        double got = (double)v[e];
        if (got < want || got > want) fail_msg("%s[%zu] is %g, not %g", t->name, e, got, want);
    }
}

static void both_layouts_are_read(void **state) {
    (void)state;
    static const char *const files[] = { "torch-legacy.pth", "torch-zip.pth" };
    for (int i = 0; i < 2; i++) {
        char *path = xasprintf("%s/golden/%s", TESTS_DIR, files[i]);
        Error err;
        TorchFile *f = torch_file_open(path, &err);
        if (!f) fail_msg("%s", err.msg);
        assert_int_equal(torch_file_count(f), EXPECTED);
        for (int k = 0; k < EXPECTED; k++) {
            const StTensor *t = torch_file_get(f, k);
            assert_string_equal(t->name, expected[k].name);
            assert_ptr_equal(torch_file_find(f, expected[k].name), t);
            assert_int_equal(t->type, expected[k].type);
            assert_int_equal(t->ndim, expected[k].ndim);
            for (int d = 0; d < t->ndim; d++) assert_int_equal(t->shape[d], expected[k].shape[d]);
            check_values(t, expected[k].first);
        }
        assert_null(torch_file_find(f, "conv.bias"));
        torch_file_close(f);
        free(path);
    }
    torch_file_close(NULL);
}

// A file that must be refused, with a message that names it and contains the given words.
static void refuse(const uint8_t *bytes, size_t n, const char *words) {
    Error err = { 0 };
    uint8_t *exact = malloc(n ? n : 1);                        // so that a sanitizer sees reads past the end
    memcpy(exact, bytes, n);
    TorchFile *f = torch_file_parse(exact, n, "some.pth", &err);
    if (f) fail_msg("accepted what should be refused (%s)", words);
    free(exact);
    assert_int_equal(err.code, ERR_FILE);
    assert_non_null(strstr(err.msg, "some.pth"));
    if (!strstr(err.msg, words)) fail_msg("\"%s\" does not say \"%s\"", err.msg, words);
}

static void elements_out_of_order_are_refused_by_name(void **state) {
    (void)state;
    size_t n;
    uint8_t *bytes = golden("torch-strided.pth", &n);
    refuse(bytes, n, "w: its elements do not lie densely");
    free(bytes);
}

static void members_over_one_another_are_refused(void **state) {
    (void)state;
    size_t n;
    uint8_t *bytes = golden("torch-overlap.pth", &n);
    refuse(bytes, n, "members of the archive overlap");
    free(bytes);
}

// Bytes of the legacy file replaced by as many others. The first storage of the file is that of conv.weight.
static void lies_are_refused(void **state) {
    (void)state;
#define LIE(find, put, words) { find, put, sizeof(find) == sizeof(put) ? sizeof(find) - 1 : 0, words }
    static const struct { const char *find, *put; size_t n; const char *words; } lies[] = {
        LIE("torch\nFloatStorage", "torch\nQuantStorage", "torch.QuantStorage"),
        LIE("_utils\n_rebuild_tensor_v2", "_utils\n_rebuild_tensor_v9", "torch._utils._rebuild_tensor_v9"),
        LIE("ccollections\nOrderedDict", "cposix.path12\nsystem1234", "posix.path12.system1234"),
        LIE("storageq", "sterageq", "a storage: its description"),
        LIE("(K\x02K\x01K\x02K\x01tq", "(K\x02K\x01K\x03K\x01tq", "conv.weight: its elements do not lie densely"),
        LIE("M\xe9\x03.", "M\xea\x03.", "protocol 1001"),
        LIE("little_endianq\x02\x88", "little_endianq\x02\x89", "little-endian"),
        LIE("conv.weight", "conv weight", "a key that is no name"),
        LIE("\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\x80\x3e", "\x05\0\0\0\0\0\0\0\0\0\0\0\0\0\x80\x3e", "contradict"),
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        size_t n;
        uint8_t *bytes = golden("torch-legacy.pth", &n);
        uint8_t *at = memmem(bytes, n, lies[i].find, lies[i].n);
        if (!at || !lies[i].n) fail_msg("lie %zu finds nothing to replace", i);
        memcpy(at, lies[i].put, lies[i].n);
        refuse(bytes, n, lies[i].words);
        free(bytes);
    }
#undef LIE
}

// A legacy file whose dictionary is `body`, pickled, and whose one storage "0" holds `count` floats.
static size_t craft(uint8_t *out, const char *body, size_t body_n, unsigned count) {
    static const char head[] = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03."
                               "\x80\x02}X\x0d\0\0\0little_endian\x88s.\x80\x02";
    static const char keys[] = ".\x80\x02]X\x01\0\0\0" "0a.";
    size_t n = 0;
    memcpy(out, head, sizeof head - 1);
    n += sizeof head - 1;
    memcpy(out + n, body, body_n);
    n += body_n;
    memcpy(out + n, keys, sizeof keys - 1);
    n += sizeof keys - 1;
    memset(out + n, 0, 8 + 4 * count);
    out[n] = (uint8_t)count;
    return n + 8 + 4 * count;
}

#define STORAGE(count) "(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" "0X\x03\0\0\0cpuK" count "NtQ"
#define TENSOR(count, offset, sizes, strides) \
    "ctorch._utils\n_rebuild_tensor_v2\n(" STORAGE(count) offset sizes strides "\x89}tR"

static void crafted_tensors(void **state) {
    (void)state;
#define BODY(text) text, sizeof(text) - 1
    static const struct { const char *body; size_t n; const char *words; } cases[] = {
        { BODY("}X\x01\0\0\0a" TENSOR("\x06", "K\x02", "K\x02K\x02\x86", "K\x02K\x01\x86") "s"), "" },
        { BODY("}X\x01\0\0\0actorch._utils\n_rebuild_tensor\n(" STORAGE("\x06") "K\x02K\x02K\x02\x86K\x02K\x01\x86"
               "tRs"), "" },
        { BODY("}X\x01\0\0\0a" TENSOR("\x06", "K\x03", "K\x02K\x02\x86", "K\x02K\x01\x86") "s"), "a: it reaches" },
        { BODY("}X\x01\0\0\0a" TENSOR("\x06", "J\xff\xff\xff\xff", "K\x02K\x02\x86", "K\x02K\x01\x86") "s"),
          "a: a tensor of an unknown form" },
        { BODY("}X\x01\0\0\0a" TENSOR("\x06", "K\x00", "K\x02\x85", "K\x02K\x01\x86") "s"), "a shape of an" },
        { BODY("}X\x01\0\0\0a" TENSOR("\x06", "K\x00", "K\x02\x85", "K\x00\x85") "s"), "do not lie densely" },
        { BODY("}X\x01\0\0\0a" TENSOR("\x06", "K\x00", "J\xff\xff\xff\xff\x85", "K\x01\x85") "s"), "a bad shape" },
        { BODY("}X\x01\0\0\0a"
               TENSOR("\x06", "K\x00", "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85", "K\x01\x85") "s"),
          "overflows" },
        { BODY("}X\x01\0\0\0a" TENSOR("\x07", "K\x00", "K\x02\x85", "K\x01\x85") "s"), "contradict" },
        { BODY("]" TENSOR("\x06", "K\x00", "K\x02\x85", "K\x01\x85") "a"), "no dictionary" },
        { BODY("}(X\x03\0\0\0a.b" TENSOR("\x06", "K\x00", "K\x02\x85", "K\x01\x85")
               "X\x01\0\0\0a}X\x01\0\0\0b" TENSOR("\x06", "K\x00", "K\x02\x85", "K\x01\x85") "su"), "this name" },
        { BODY("}X\0\0\0\0" TENSOR("\x06", "K\x00", "K\x02\x85", "K\x01\x85") "s"), "a key that is no name" },
    };
#undef BODY
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t bytes[1024];
        size_t n = craft(bytes, cases[i].body, cases[i].n, 6);
        if (*cases[i].words) {
            refuse(bytes, n, cases[i].words);
            continue;
        }
        Error err;
        TorchFile *f = torch_file_parse(bytes, n, "some.pth", &err);
        if (!f) fail_msg("case %zu: %s", i, err.msg);
        assert_true((const uint8_t *)torch_file_find(f, "a")->data == bytes + n - 4 * 4);
        torch_file_close(f);
        refuse(bytes, n - 1, "cut off");
        bytes[n] = 0;
        refuse(bytes, n + 1, "bytes follow");
    }
}

// Dictionaries that share each other: 2^40 paths in a file of some hundred bytes.
static void endless_walks_are_refused(void **state) {
    (void)state;
    char body[1024] = "}q";
    size_t n = 2;
    body[n++] = 0;
    for (int i = 0; i < 40; i++) {                             // dictionary i + 1 = { a: dictionary i, b: the same }
        const char part[] = { '}', '(', 'X', 1, 0, 0, 0, 'a', 'h', (char)i, 'X', 1, 0, 0, 0, 'b', 'h', (char)i,
                              'u', 'q', (char)(i + 1) };
        memcpy(body + n, part, sizeof part);
        n += sizeof part;
    }
    // The stack holds all of them: the last is kept as memo 100, all are dropped, and it comes back.
    static const char kept[] = "q\x64" STORAGE("\0") "0";
    memcpy(body + n, kept, sizeof kept - 1);
    n += sizeof kept - 1;
    for (int i = 0; i <= 40; i++) body[n++] = '0';
    memcpy(body + n, "h\x64", 2);
    n += 2;
    uint8_t bytes[2048];
    refuse(bytes, craft(bytes, body, n, 0), "1,048,576");
}

static void every_truncation_and_byte(void **state) {
    (void)state;
    static const char *const files[] = { "torch-legacy.pth", "torch-zip.pth" };
    for (int i = 0; i < 2; i++) {
        size_t n;
        uint8_t *bytes = golden(files[i], &n);
        for (size_t cut = 0; cut < n; cut++) refuse(bytes, cut, "some.pth");
        for (size_t k = 0; k < n; k++) {                       // accepted or refused, but never a wrong weight
            uint8_t was = bytes[k];
            bytes[k] = (uint8_t)(was ^ 1 << k % 8);
            Error err;
            TorchFile *f = torch_file_parse(bytes, n, "some.pth", &err);
            const StTensor *t = f && i == 1 ? torch_file_find(f, "shared") : NULL;
            if (t) check_values(t, 8);                         // the zip layout carries sums, the legacy one does not
            torch_file_close(f);
            bytes[k] = was;
        }
        free(bytes);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_layouts_are_read), cmocka_unit_test(elements_out_of_order_are_refused_by_name),
        cmocka_unit_test(lies_are_refused), cmocka_unit_test(crafted_tensors),
        cmocka_unit_test(members_over_one_another_are_refused),
        cmocka_unit_test(endless_walks_are_refused), cmocka_unit_test(every_truncation_and_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
