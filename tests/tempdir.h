// tests/tempdir.h - a folder under $TMPDIR for what a test writes, removed with everything in it when the tests end.
#ifndef TESTS_TEMPDIR_H
#define TESTS_TEMPDIR_H
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char tempdir[PATH_MAX];

// Include it after cmocka.h. Group setup and teardown for cmocka_run_group_tests.
static int tempdir_make(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(tempdir, sizeof tempdir, "%s/cbdm_test_XXXXXX", base ? base : "/tmp");
    return mkdtemp(tempdir) ? 0 : -1;
}

static int tempdir_unlink(const char *path, const struct stat *s, int type, struct FTW *ftw) {
    (void)s, (void)type, (void)ftw;
    return remove(path);
}

static int tempdir_remove(void **state) {
    (void)state;
    return nftw(tempdir, tempdir_unlink, 16, FTW_DEPTH | FTW_PHYS);
}

// The path of name in the folder. The text stays: a name asked for again gets the same.
static const char *temp_path(const char *name) {
    static char *paths[64];
    size_t before = strlen(tempdir) + 1;
    for (int i = 0; i < 64; i++) {
        if (!paths[i] && asprintf(&paths[i], "%s/%s", tempdir, name) < 0) break;
        if (strcmp(paths[i] + before, name) == 0) return paths[i];
    }
    fail_msg("more than 64 names");
    return NULL;
}
#endif
