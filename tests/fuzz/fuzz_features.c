// tests/fuzz/fuzz_features.c - any bytes as a table of features and as statistics: refused, or finite and in bounds.
#include <math.h>
#include <stdlib.h>
#include "eval/features.h"
#include "eval/frechet.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    Error err;
    Features f;
    Gaussian g;
    double sum = 0;
    if (features_parse(bytes, n, "fuzz", &f, &err)) {
        for (int64_t i = 0; i < f.n * f.dim; i++) CHECK(isfinite(f.x[i]), "a value that is not finite");
        for (int64_t i = 0; i < f.n && f.label; i++) sum += f.label[i];
        for (int64_t i = 0; i < f.n * f.classes; i++) CHECK(f.probs[i] >= 0, "a negative probability");
        features_free(&f);
    }
    if (gaussian_parse(bytes, n, "fuzz", &g, &err)) {
        for (int64_t i = 0; i < (int64_t)g.dim * g.dim; i++) sum += g.sigma[i];
        CHECK(isfinite(sum), "statistics that are not finite");
        gaussian_free(&g);
    }
    return 0;
}
