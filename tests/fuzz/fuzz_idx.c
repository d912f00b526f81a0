// tests/fuzz/fuzz_idx.c - fuzz target: IDX bytes, and what gzip expands to them.
#include <stdlib.h>
#include "train/data_formats.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void parse(const uint8_t *bytes, size_t n) {
    IdxArray a;
    Error err;
    if (!idx_parse(bytes, n, "input", &a, &err)) return;
    size_t count = 1;
    for (int i = 0; i < a.ndim; i++) count *= (size_t)a.shape[i];
    CHECK(a.data + count == bytes + n, "an accepted array of %zu bytes does not end with the input", count);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    uint8_t *plain;
    size_t plain_n;
    Error err;
    parse(bytes, n);
    if (gzip_expand(bytes, n, 1 << 20, "input", &plain, &plain_n, &err)) {
        CHECK(plain_n <= 1 << 20, "%zu bytes are beyond the limit", plain_n);
        parse(plain, plain_n);
        free(plain);
    }
    return 0;
}
