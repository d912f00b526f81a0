// tests/fuzz/fuzz_cifar.c - fuzz target: CIFAR batch files; the first byte picks the kind, the rest is the file.
#include <stdlib.h>
#include "train/data_formats.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    if (n == 0) return 0;
    int classes = bytes[0] & 1 ? 100 : 10;
    CifarBatch b;
    Error err;
    bool ok = (bytes[0] & 2 ? cifar_parse_python : cifar_parse_binary)(bytes + 1, n - 1, classes, "input", &b, &err);
    if (!ok) return 0;
    // Every byte that an accepted batch points to must be there, and every label in range.
    volatile uint8_t sink;
    for (int64_t i = 0; i < b.count; i++) {
        CHECK(b.labels[i] < classes, "label %d of %d classes", b.labels[i], classes);
        for (size_t j = 0; j < 3072; j++) sink = b.pixels[(size_t)i * b.image_step + j * b.byte_step];
    }
    free(b.labels);
    (void)sink;
    return 0;
}
