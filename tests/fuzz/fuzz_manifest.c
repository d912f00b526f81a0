// tests/fuzz/fuzz_manifest.c - any bytes as the manifest and as the settings of a folder of samples.
#include <stdlib.h>
#include "core/file.h"
#include "eval/samples.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    Error err;
    Manifest m;
    SampleOrigin o = { 0 };
    int omegas;
    if (manifest_parse((const char *)bytes, n, "fuzz", &m, &err)) {
        for (int64_t i = 0; i < m.n; i++)
            CHECK(m.number[i] >= 0 && m.label[i] >= -1 && m.file[i][0] != '/', "image %lld", (long long)i);
        manifest_free(&m);
    }
    if (sampling_parse((const char *)bytes, n, "fuzz", &o, &omegas, &err))
        for (int c = 0; c < o.n_counts; c++) CHECK(o.class_counts[c] >= 0, "class %d", c);
    free(o.class_counts);
    free(o.checkpoint);
    free(o.sha256);
    free(o.sampler);
    return 0;
}
