// tests/test_json.c - the strict JSON reader and json_quote: what RFC 8259 allows, and nothing else.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "core/file.h"

// Whether a whole text is legal. A copy without the 0 at its end lets AddressSanitizer see a step too far.
static bool legal(const char *text, const char **why) {
    size_t n = strlen(text);
    char *copy = memcpy(xmalloc(n), text, n);
    JsonReader r;
    json_start(&r, copy, n);
    bool ok = json_skip(&r) && json_end(&r);
    *why = r.why;
    free(copy);
    return ok;
}

static void legal_and_illegal_texts(void **unused) {
    (void)unused;
    static const char *const good[] = {
        "0", "-0", "10", "-1.5e+10", "1E9", "0.0", " \t\r\n1 ", "true", "false", "null", "\"\"", "[]", "[1]",
        "[1,[2],{}]", "{}", "{\"a\":1,\"b\":[true,false,null]}", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\"",
        "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"",
        "\"\\ud83d\\ude00\"", "\"\x7f\"", "[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]",
    };
    static const char *const bad[] = {
        "", " ", "01", "-", "+1", ".5", "1.", "1e", "1e+", "0x1", "NaN", "Infinity", "nul", "truely", "'a'", "\"",
        "\"a",
        "\"\\", "\"\\\"", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "\"\\ud800\"", "\"\\ud800x\"", "\"\\ud800\\n\"",
        "\"\\ud800\\ud800\"", "\"\\udc00\"", "\"\\u0000\"", "\"\n\"", "\"\x01\"", "\"\x80\"", "\"\xc0\xaf\"",
        "\"\xc3\"",
        "\"\xe0\x80\x80\"", "\"\xed\xa0\x80\"", "\"\xf0\x80\x80\x80\"", "\"\xf4\x90\x80\x80\"", "\"\xf5\x80\x80\x80\"",
        "\"\xff\"", "[", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "[1}", "{", "{\"a\"", "{\"a\":", "{\"a\":1",
        "{\"a\":1,}",
        "{a:1}", "{\"a\" 1}", "{\"a\":1 \"b\":2}", "{1:2}", "1 2", "[] x", "[]]", "// no\n1", "[1,/**/2]",
        "[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]",
        "11111111111111111111111111111111111111111111111111111111111111111",
    };
    const char *why;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        if (!legal(good[i], &why)) fail_msg("%s was refused: %s", good[i], why);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (legal(bad[i], &why)) fail_msg("%s was accepted", bad[i]);
        assert_non_null(why);
    }
}

static void values(void **unused) {
    (void)unused;
    static const char text[] = " {\"n\": 18446744073709551615, \"s\": \"\\u00e9\\u20ac\\ud83d\\ude00\\n\", "
                               "\"x\": -1.25e3, \"skip\": [{\"deep\": []}], \"list\": [true, null], \"empty\": {}} ";
    JsonReader r;
    uint64_t n;
    char number[JSON_NUMBER_MAX], *key, *s;
    json_start(&r, text, sizeof text - 1);
    assert_int_equal(json_peek(&r), '{');
    assert_true(json_enter(&r, '{'));
    int seen = 0;
    while ((key = json_key(&r))) {
        switch (seen++) {
        case 0:
            assert_true(json_u64(&r, &n) && n == UINT64_MAX);
            break;
        case 1:
            s = json_string(&r);
            assert_string_equal(s, "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\n");
            free(s);
            break;
        case 2:
            assert_true(json_number(&r, number));
            assert_string_equal(number, "-1.25e3");
            break;
        case 3:
            assert_true(json_skip(&r));
            break;
        case 4:
            assert_true(json_enter(&r, '['));
            assert_true(json_item(&r) && !json_word(&r, "false") && json_word(&r, "true"));
            assert_true(json_item(&r) && json_word(&r, "null"));
            assert_false(json_item(&r));
            break;
        case 5:
            assert_true(json_enter(&r, '{'));
            assert_null(json_key(&r));
        }
        free(key);
    }
    assert_int_equal(seen, 6);
    assert_true(json_end(&r));
}

static void numbers_out_of_range(void **unused) {
    (void)unused;
    static const char *const bad[] = { "18446744073709551616", "99999999999999999999", "-1", "1.0", "1e3" };
    JsonReader r;
    uint64_t n;
    for (int i = 0; i < 5; i++) {
        json_start(&r, bad[i], strlen(bad[i]));
        assert_false(json_u64(&r, &n));
        assert_false(json_skip(&r));        // after an error nothing works
        assert_null(json_key(&r));
        assert_false(json_item(&r));
        assert_false(json_end(&r));
    }
}

static void quoting(void **unused) {
    (void)unused;
    char every[256], *quoted, *back;
    JsonReader r;
    for (int i = 1; i < 128; i++) every[i - 1] = (char)i;
    strcpy(every + 127, "\xc3\xa9\xf0\x9f\x98\x80");
    quoted = json_quote(every);
    json_start(&r, quoted, strlen(quoted));
    back = json_string(&r);
    assert_non_null(back);
    assert_true(json_end(&r));
    assert_string_equal(back, every);
    free(back);
    free(quoted);
    quoted = json_quote("a\"b\\\n\xff" "c\xc3");
    assert_string_equal(quoted, "\"a\\\"b\\\\\\u000a\xef\xbf\xbd" "c\xef\xbf\xbd\"");
    free(quoted);
    quoted = json_quote("");
    assert_string_equal(quoted, "\"\"");
    free(quoted);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(legal_and_illegal_texts),
        cmocka_unit_test(values),
        cmocka_unit_test(numbers_out_of_range),
        cmocka_unit_test(quoting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
