// tests/test_groups.c - classes as many, medium and few.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "eval/groups.h"

static const int64_t cifar10_lt[10] = { 5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50 };

static void splits(const char *rule, const int64_t *counts, int classes, const char *want) {
    int of[100];
    Error err = { 0 };
    if (!groups_of(rule, counts, classes, of, &err)) fail_msg("%s", err.msg);
    char *text = groups_text(of, classes);
    assert_string_equal(text, want);
    free(text);
}

static void rules(void **state) {
    (void)state;
    splits("thirds", cifar10_lt, 10, "many: 0-2; medium: 3-5; few: 6-9");
    splits("3,3,4", cifar10_lt, 10, "many: 0-2; medium: 3-5; few: 6-9");
    splits("1,0,9", cifar10_lt, 10, "many: 0; medium: none; few: 1-9");
    splits("100,20", cifar10_lt, 10, "many: 0-7; medium: 8-9; few: none");
    splits("thirds", cifar10_lt, 2, "many: none; medium: none; few: 0-1");
}

// Above the first number is many and below the second few: the numbers themselves are medium.
static void limits_belong_to_the_middle(void **state) {
    (void)state;
    const int64_t counts[5] = { 19, 20, 100, 101, 50 };
    splits("100,20", counts, 5, "many: 3; medium: 1-2, 4; few: 0");
}

static void the_most_frequent_come_first_wherever_they_stand(void **state) {
    (void)state;
    const int64_t counts[6] = { 5, 9, 5, 7, 5, 9 };
    splits("2,2,2", counts, 6, "many: 1, 5; medium: 0, 3; few: 2, 4");
    splits("thirds", counts, 6, "many: 1, 5; medium: 0, 3; few: 2, 4");
}

static void senseless_rules_are_refused(void **state) {
    (void)state;
    static const char *const bad[] = { "", "3", "20,100", "3,3,3", "3,3,4,0", "3,,7", "3,3,4,", "a", "-1,11,0",
                                       "third", "3,3,99999999999999999999", " 3,3,4" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int of[10];
        Error err = { 0 };
        assert_false(groups_of(bad[i], cifar10_lt, 10, of, &err));
        assert_int_equal(err.code, ERR_USAGE);
        assert_non_null(strstr(err.msg, "--groups"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rules), cmocka_unit_test(limits_belong_to_the_middle),
        cmocka_unit_test(the_most_frequent_come_first_wherever_they_stand),
        cmocka_unit_test(senseless_rules_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
