// tests/test_npz64.c - zip64: core/npz.c compiled with a threshold of 700 bytes in place of 4 GiB.
#define NPZ_ZIP64_FROM 700u
#include "core/npz.c"       // stands in for the library's object, which the linker then leaves out
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include "tests/tempdir.h"

static uint8_t data[4096];

// Small and large members, before and behind the threshold: all four forms of a directory entry.
static const NpyArray arrays[] = {
    { "|u1", 1, { 10 }, data }, { "|u1", 1, { 3000 }, data + 5 }, { "|u1", 1, { 11 }, data + 7 },
    { "<f4", 2, { 30, 10 }, data + 8 },
};
static const char *const names[] = { "small", "large", "behind", "both" };

static void reads_its_own(void **unused) {
    (void)unused;
    Error err;
    NpyArray back;
    uint8_t *member, *file;
    size_t n, bytes;
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 37 + i / 256);
    const char *path = temp_path("zip64.npz");
    assert_true(npz_write(path, names, arrays, 4, &err));
    assert_true(file_read(path, 1 << 20, &file, &n, &err));
    assert_int_equal(zip_field(file + n - 42, 4), ZIP_LOCATOR64);
    assert_int_equal(zip_field(file + n - 6, 4), 0xffffffff);
    for (int i = 0; i < 4; i++) {
        if (!npz_parse(file, n, path, names[i], &member, &back, &err)) fail_msg("%s: %s", names[i], err.msg);
        assert_true(npy_data_bytes(&arrays[i], &bytes));
        assert_memory_equal(back.data, arrays[i].data, bytes);
        free(member);
    }
    for (size_t cut = 0; cut < n; cut++)
        assert_false(npz_parse(file, cut, path, "large", &member, &back, &err));
    for (size_t bit = 0; bit < 8 * n; bit++) {              // a flip may go unnoticed, but never changes the array
        file[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (npz_parse(file, n, path, "both", &member, &back, &err)) {
            assert_memory_equal(back.data, arrays[3].data, 1200);
            free(member);
        }
        file[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    free(file);
}

static void python_reads_it(void **unused) {
    (void)unused;
    if (system("python3 -c 'import zipfile' 2>/dev/null") != 0) skip();
    Error err;
    const char *path = temp_path("python.npz");
    assert_true(npz_write(path, names, arrays, 4, &err));
    char *command = xasprintf("python3 -c 'import sys, zipfile\nz = zipfile.ZipFile(sys.argv[1])\n"
                              "assert z.testzip() is None\n"
                              "assert [(i.filename, i.file_size) for i in z.infolist()] == [(\"small.npy\", 138), "
                              "(\"large.npy\", 3128), (\"behind.npy\", 139), (\"both.npy\", 1328)]\n' \"%s\"", path);
    assert_int_equal(system(command), 0);
    free(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_its_own),
        cmocka_unit_test(python_reads_it),
    };
    return cmocka_run_group_tests(tests, tempdir_make, tempdir_remove);
}
