// tests/fuzz/fuzz_torch_file.c - any bytes as a file of torch.save: refused, or all tensors lie within.
#include <string.h>
#include "core/torch_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    Error err;
    TorchFile *f = torch_file_parse(bytes, n, "fuzz", &err);
    size_t left = 1 << 20;                       // tensors may share a storage: their sum has no bound of its own
    for (int i = 0; f && i < torch_file_count(f); i++) {
        const StTensor *t = torch_file_get(f, i);
        size_t bytes_of = t->bytes;
        CHECK(bytes_of == 0 || ((const uint8_t *)t->data >= bytes && bytes_of <= n &&
              (size_t)((const uint8_t *)t->data - bytes) <= n - bytes_of), "%s lies outside", t->name);
        CHECK(strlen(t->name) < 256 && torch_file_find(f, t->name) == t, "%s is not found", t->name);
        if (bytes_of > left) break;
        left -= bytes_of;
        (void)crc32c(0, t->data, bytes_of);      // reads every byte under the eyes of AddressSanitizer
    }
    torch_file_close(f);
    return 0;
}
