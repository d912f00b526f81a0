// tests/fuzz/fuzz_safetensors.c - any bytes as a safetensors file: refused, or read to the last value.
#include <stdlib.h>
#include "core/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    Error err;
    SafeTensors *st = st_parse(bytes, n, "fuzz", &err);
    if (!st) return 0;
    size_t total = 0;
    for (int i = 0; i < st_count(st); i++) {
        const StTensor *t = st_get(st, i);
        size_t numel = t->bytes / st_type_size(t->type);
        CHECK(st_find(st, t->name) == t, "%s is not found", t->name);
        CHECK((const uint8_t *)t->data >= bytes && (const uint8_t *)t->data + t->bytes <= bytes + n, "%s", t->name);
        float *f = xmalloc(numel * sizeof *f);
        int64_t *k = xmalloc(numel * sizeof *k);
        (void)st_read_f32(t, f);
        (void)st_read_i64(t, k);
        free(f);
        free(k);
        total += t->bytes;
    }
    CHECK(total <= n, "%zu bytes of tensors in %zu", total, n);
    (void)st_meta(st, "config");
    st_close(st);
    return 0;
}
