// tests/fuzz/fuzz_npy.c - any bytes as a .npy file and as a .npz archive: refused, or the data lie within.
#include <stdlib.h>
#include "core/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void touch(const NpyArray *a) {
    size_t size;
    CHECK(npy_data_bytes(a, &size), "an array of unknown size was accepted");
    (void)crc32c(0, a->data, size);     // reads every byte under the eyes of AddressSanitizer
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    Error err;
    NpyArray a;
    uint8_t *member;
    if (npy_parse(bytes, n, "fuzz", &a, &err)) touch(&a);
    if (npz_parse(bytes, n, "fuzz", "mu", &member, &a, &err)) {
        touch(&a);
        free(member);
    }
    return 0;
}
