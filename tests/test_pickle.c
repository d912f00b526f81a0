// tests/test_pickle.c - the data-only pickle reader: what numpy and cPickle write, every opcode, hostile input.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "core/pickle.h"

// {'labels': [6, 9], 'data': array([[0, 1, 2], [3, 4, 5]], dtype=uint8)}, by Python 2.7's cPickle (protocol 2) and
// numpy 1.16; the second one in Fortran order and without labels.
static const char c_order[] =
    "\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x06K\teU\x04" "dataq\x04" "cnumpy.core.multiarray\n_reconstruct\nq\x05"
    "cnumpy\nndarray\nq\x06K\x00\x85U\x01" "b\x87Rq\x07(K\x01K\x02K\x03\x86" "cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87"
    "Rq\t(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06\x00\x01\x02\x03\x04\x05tbu.";
static const char fortran_order[] =
    "\x80\x02}q\x01U\x04" "dataq\x02" "cnumpy.core.multiarray\n_reconstruct\nq\x03" "cnumpy\nndarray\nq\x04K\x00\x85U"
    "\x01" "b\x87Rq\x05(K\x01K\x02K\x03\x86" "cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ"
    "\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x88U\x06\x00\x03\x01\x04\x02\x05tbs.";

static Pickle *parse(const char *bytes, size_t n, Error *err) {
    *err = (Error){ 0 };
    return pickle_parse((const uint8_t *)bytes, n, "some.pkl", pickle_numpy_globals, NULL, err);
}
#define PARSE(literal, err) parse(literal, sizeof(literal) - 1, err)

// A pickle that must be refused with a message that names the file and contains the given words.
static void refuse(const char *bytes, size_t n, const char *words) {
    Error err;
    Pickle *p = parse(bytes, n, &err);
    if (p) fail_msg("accepted what should be refused (%s)", words);
    assert_int_equal(err.code, ERR_FILE);
    assert_non_null(strstr(err.msg, "some.pkl"));
    if (!strstr(err.msg, words)) fail_msg("\"%s\" does not say \"%s\"", err.msg, words);
}
#define REFUSE(literal, words) refuse(literal, sizeof(literal) - 1, words)

static void numpy_array_is_read(void **state) {
    (void)state;
    Error err;
    for (int f = 0; f < 2; f++) {
        Pickle *p = f ? PARSE(fortran_order, &err) : PARSE(c_order, &err);
        if (!p) fail_msg("%s", err.msg);
        PickleArray a;
        assert_true(pickle_ndarray(pickle_get(pickle_root(p), "data"), "some.pkl", &a, &err));
        assert_string_equal(a.descr, "|u1");
        assert_int_equal(a.ndim, 2);
        assert_int_equal(a.shape[0], 2);
        assert_int_equal(a.shape[1], 3);
        assert_int_equal(a.fortran, f);
        for (int i = 0; i < 2; i++) {
            for (int j = 0; j < 3; j++) assert_int_equal(a.data[f ? j * 2 + i : i * 3 + j], i * 3 + j);
        }
        const PickleNode *labels = pickle_get(pickle_root(p), "labels");
        assert_true(f ? labels == NULL : labels->count == 2);
        if (labels) assert_true(labels->item[0]->number == 6 && labels->item[1]->number == 9);
        pickle_free(p);
    }
}

static void every_opcode_makes_its_value(void **state) {
    (void)state;
    static const char bytes[] =
        "\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00("       // FRAME, MARK
        "N\x88\x89K\xffM\x34\x12J\xfe\xff\xff\xff"             // 0 none, 1 true, 2 false, 3 255, 4 0x1234, 5 -2
        "\x8a\x02\x00\x80\x8a\x00"                             // 6 -32768, 7 0
        "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"     // 8 the magic number of torch.save, over 64 bits
        "G\xbf\xf8\x00\x00\x00\x00\x00\x00"                    // 9 -1.5
        "U\x02" "abT\x01\x00\x00\x00" "cC\x01" "dB\x01\x00\x00\x00" "e"    // 10 to 13 bytes
        "\x8e\x01\x00\x00\x00\x00\x00\x00\x00" "f"             // 14 bytes
        "X\x01\x00\x00\x00g\x8c\x01h"                          // 15, 16 text
        "]K\x01" "a"                                           // 17 [1]
        "}U\x01xK\x02s"                                        // 18 {x: 2}
        ")K\x01\x85K\x01K\x02\x86K\x01K\x02K\x03\x87"          // 19 (), 20 to 22 tuples of 1, 2, 3
        "K\x07Q"                                               // 23 persistent id 7
        "\x8c\x05numpy\x8c\x07ndarray\x93"                     // 24 a global
        "cnumpy\nndarray\n)R"                                  // 25 a call
        "K\x05q\x09r\x0a\x00\x00\x00\x30h\x09j\x0a\x00\x00\x00"  // memo 9, 10 = 5; POP; 26, 27 = 5
        "\x94t.";
    Error err;
    Pickle *p = PARSE(bytes, &err);
    if (!p) fail_msg("%s", err.msg);
    const PickleNode *r = pickle_root(p);
    assert_int_equal(r->type, PICKLE_TUPLE);
    assert_int_equal(r->count, 28);
    PickleNode **x = r->item;
    static const struct { PickleType type; int64_t number; } want[] = {
        { PICKLE_NONE, 0 }, { PICKLE_BOOL, 1 }, { PICKLE_BOOL, 0 }, { PICKLE_INT, 255 }, { PICKLE_INT, 0x1234 },
        { PICKLE_INT, -2 }, { PICKLE_INT, -32768 }, { PICKLE_INT, 0 } };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        assert_int_equal(x[i]->type, want[i].type);
        assert_int_equal(x[i]->number, want[i].number);
    }
    assert_int_equal(x[8]->type, PICKLE_LONG);
    assert_int_equal(x[8]->n, 10);
    assert_int_equal(x[9]->type, PICKLE_FLOAT);
    assert_true(x[9]->real <= -1.5 && x[9]->real >= -1.5);
    static const char *const text[] = { "ab", "c", "d", "e", "f", "g", "h" };
    for (int i = 0; i < 7; i++) {
        assert_int_equal(x[10 + i]->type, i < 5 ? PICKLE_BYTES : PICKLE_TEXT);
        assert_true(pickle_is(x[10 + i], text[i]));
    }
    assert_true(x[17]->type == PICKLE_LIST && x[17]->count == 1 && x[17]->item[0]->number == 1);
    assert_int_equal(pickle_get(x[18], "x")->number, 2);
    assert_null(pickle_get(x[18], "y"));
    for (size_t i = 0; i < 4; i++) assert_true(x[19 + i]->type == PICKLE_TUPLE && x[19 + i]->count == i);
    assert_int_equal(x[22]->item[0]->number, 1);
    assert_true(x[23]->type == PICKLE_PERSID && x[23]->item[0]->number == 7);
    assert_true(pickle_is_global(x[24], "numpy", "ndarray"));
    assert_true(x[25]->type == PICKLE_CALL && pickle_is_global(x[25]->callee, "numpy", "ndarray"));
    assert_true(x[26]->number == 5 && x[26] == x[27]);
    pickle_free(p);
}

static void consecutive_pickles_are_delimited(void **state) {
    (void)state;
    static const uint8_t bytes[] = "\x80\x02K\x01.\x80\x02K\x02.";
    size_t used;
    Error err;
    Pickle *p = pickle_parse(bytes, 10, "some.pkl", pickle_numpy_globals, &used, &err);
    assert_non_null(p);
    assert_int_equal(used, 5);
    assert_int_equal(pickle_root(p)->number, 1);
    pickle_free(p);
    REFUSE("\x80\x02K\x01.\x80", "1 bytes follow");
}

static void code_is_refused_by_name(void **state) {
    (void)state;
    REFUSE("\x80\x02" "cos\nsystem\nU\x02ls\x85R.", "os.system at byte 2");
    REFUSE("\x80\x04\x8c\x05posix\x8c\x06system\x93.", "posix.system");
    REFUSE("\x80\x02" "cnumpy\nndarrays\n.", "numpy.ndarrays");
    REFUSE("\x80\x02" "cnumpy.core\nndarray\n.", "numpy.core.ndarray");
    REFUSE("\x80\x02ios\nsystem\n.", "opcode 0x69 at byte 2");                 // INST
    REFUSE("\x80\x02(ios\nsystem\n.", "opcode 0x69 at byte 3");
    REFUSE("\x80\x02K\x01\x81.", "opcode 0x81");                               // NEWOBJ
    REFUSE("\x80\x02\x82\x01.", "opcode 0x82");                                // EXT1
    REFUSE("\x80\x02(o.", "opcode 0x6f");                                      // OBJ
    REFUSE("\x80\x02K\x01K\x02R.", "a call of what is no name");
    REFUSE("\x80\x02" "cnumpy\nndarray\nK\x02R.", "a call of what is no name");
    REFUSE("\x80\x02]K\x02" "b.", "a state for what has none");
}

static void damage_is_refused(void **state) {
    (void)state;
    REFUSE("", "not a pickle");
    REFUSE("\x80", "not a pickle");
    REFUSE("\x80\x01.", "not a pickle");
    REFUSE("\x80\x05.", "not a pickle");
    REFUSE("(dp0\n.", "not a pickle");
    REFUSE("\x80\x02.", "one value at the end");
    REFUSE("\x80\x02K\x01K\x01.", "one value at the end");
    REFUSE("\x80\x02K\x01(.", "one value at the end");
    REFUSE("\x80\x02U\x05" "abc.", "a string longer than the file");
    REFUSE("\x80\x02T\xff\xff\xff\xff" "abc.", "a string longer than the file");
    REFUSE("\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.", "a string longer than the file");
    REFUSE("\x80\x02" "cnumpy\nndarray", "a name without end");
    REFUSE("\x80\x02" "0.", "a value missing");
    REFUSE("\x80\x02(0t.", "a value missing");                                 // not through a mark
    REFUSE("\x80\x02K\x01(\x85t.", "a value missing");
    REFUSE("\x80\x02q\x01.", "a value missing");
    REFUSE("\x80\x02h\x01.", "a reference to nothing at byte 2");
    REFUSE("\x80\x02j\xff\xff\xff\xff.", "a reference to nothing");
    REFUSE("\x80\x02K\x01r\xff\xff\xff\xff.", "a memo number out of range");
    REFUSE("\x80\x02t.", "a mark missing");
    REFUSE("\x80\x02}(K\x01u.", "a key without value");
    REFUSE("\x80\x02(K\x01" "e.", "a container missing");
    REFUSE("\x80\x02K\x01K\x01" "a.", "no list");
    REFUSE("\x80\x02]K\x01K\x01s.", "no dict");
    REFUSE("\x80\x04K\x01K\x01\x93.", "a global without name");
    REFUSE("\x80\x02\xff.", "opcode 0xff at byte 2");
}

static void cycles_and_late_changes_are_refused(void **state) {
    (void)state;
    REFUSE("\x80\x02]q\x01h\x01" "a.", "holding itself");                      // l.append(l)
    REFUSE("\x80\x02]q\x01]q\x02" "ah\x02h\x01" "a.", "changed after it was stored");   // l = [m]; m.append(l)
    REFUSE("\x80\x02}q\x01K\x01h\x01s.", "holding itself");
    REFUSE("\x80\x02" "cnumpy\nndarray\n)Rq\x01h\x01" "b.", "holding itself");
}

static void depth_and_number_are_bounded(void **state) {
    (void)state;
    // 64 and 65 lists in one another.
    for (size_t depth = PICKLE_MAX_DEPTH; depth <= PICKLE_MAX_DEPTH + 1; depth++) {
        char bytes[300] = "\x80\x02";
        size_t n = 2;
        for (size_t i = 0; i <= depth; i++) bytes[n++] = ']';
        for (size_t i = 0; i < depth; i++) bytes[n++] = 'a';
        bytes[n++] = '.';
        Error err;
        Pickle *p = parse(bytes, n, &err);
        assert_true(depth == PICKLE_MAX_DEPTH ? p != NULL : p == NULL);
        pickle_free(p);
        if (depth > PICKLE_MAX_DEPTH) refuse(bytes, n, "nested more than 64 deep");
    }
    // One value too many; then references to one value, many times.
    size_t n = 9 * (size_t)PICKLE_MAX_NODES;
    char *bytes = malloc(n);
    memset(bytes, 'N', n);
    memcpy(bytes, "\x80\x02", 2);
    refuse(bytes, n, "more than 1048576 values");
    memcpy(bytes, "\x80\x02Nq\x01", 5);
    for (size_t i = 5; i + 1 < n; i += 2) memcpy(bytes + i, "h\x01", 2);
    refuse(bytes, n, "too many values on the stack");
    memset(bytes + 2, '(', n - 2);
    refuse(bytes, n, "too many marks");
    free(bytes);
}

static void arrays_that_lie_are_refused(void **state) {
    (void)state;
    // Each: bytes at an offset of c_order replaced, and what the refusal must say.
    static const struct { const char *find, *put; size_t n; const char *words; } lies[] = {
        { "K\x02K\x03\x86", "K\x02K\x04\x86", 5, "shape says 8" },
        { "K\x02K\x03\x86", "K\x02N\x89\x86", 5, "a form that is not read" },  // a state of six values
        { "U\x02u1", "U\x02u2", 4, "shape says 12" },
        { "U\x02u1", "U\x02O8", 4, "a form that is not read" },
        { "U\x01|N", "U\x01>N", 4, "a form that is not read" },
        { "tb\x89U", "tbNU\x06", 4, "a form that is not read" },
        { "U\x06\x00", "X\x06\x00", 3, "string longer" },
    };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        char bytes[sizeof c_order - 1];
        memcpy(bytes, c_order, sizeof bytes);
        char *at = memmem(bytes, sizeof bytes, lies[i].find, lies[i].n);
        assert_non_null(at);
        memcpy(at, lies[i].put, lies[i].n);
        Error err;
        PickleArray a;
        Pickle *p = parse(bytes, sizeof bytes, &err);
        bool read = p && pickle_ndarray(pickle_get(pickle_root(p), "data"), "some.pkl", &a, &err);
        pickle_free(p);
        assert_false(read);
        assert_int_equal(err.code, ERR_FILE);
        if (!strstr(err.msg, lies[i].words)) fail_msg("\"%s\" does not say \"%s\"", err.msg, lies[i].words);
    }
    Error err;
    PickleArray a;
    assert_false(pickle_ndarray(NULL, "some.pkl", &a, &err));
    assert_non_null(strstr(err.msg, "some.pkl"));
}

// Every proper prefix is refused; a changed byte may be accepted, but either way the answer is clean.
static void every_truncation_and_byte(void **state) {
    (void)state;
    for (size_t n = 0; n + 1 < sizeof c_order; n++) {
        char *exact = malloc(n ? n : 1);                       // so that a sanitizer sees reads past the end
        memcpy(exact, c_order, n);
        refuse(exact, n, "some.pkl");
        free(exact);
    }
    size_t refused = 0;
    for (size_t i = 0; i + 1 < sizeof c_order; i++) {
        for (int v = 0; v < 256; v++) {
            char bytes[sizeof c_order - 1];
            memcpy(bytes, c_order, sizeof bytes);
            bytes[i] = (char)v;
            Error err;
            Pickle *p = parse(bytes, sizeof bytes, &err);
            if (!p) {
                assert_int_equal(err.code, ERR_FILE);
                assert_non_null(strstr(err.msg, "some.pkl"));
                refused++;
            }
            pickle_free(p);
        }
    }
    assert_true(refused > 10000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numpy_array_is_read), cmocka_unit_test(every_opcode_makes_its_value),
        cmocka_unit_test(consecutive_pickles_are_delimited), cmocka_unit_test(code_is_refused_by_name),
        cmocka_unit_test(damage_is_refused), cmocka_unit_test(cycles_and_late_changes_are_refused),
        cmocka_unit_test(depth_and_number_are_bounded), cmocka_unit_test(arrays_that_lie_are_refused),
        cmocka_unit_test(every_truncation_and_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
