// tests/fuzz/fuzz_png.c - any bytes as a PNG image, as grey and as RGB: refused, or every pixel is there.
#include <stdlib.h>
#include "core/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    for (int channels = 1; channels <= 3; channels += 2) {
        Error err;
        uint8_t *pixels;
        int w, h;
        if (!png_parse(bytes, n, "fuzz", channels, &pixels, &w, &h, &err)) continue;
        CHECK(w > 0 && h > 0 && w <= 16384 && h <= 16384, "%d x %d", w, h);
        size_t count = (size_t)w * (size_t)h * (size_t)channels;
        CHECK(count / 8 / 1032 <= 3 * n, "%zu samples from %zu bytes", count, n);   // 1 bit a sample, deflated
        (void)crc32c(0, pixels, count);     // reads every byte under the eyes of AddressSanitizer
        free(pixels);
    }
    return 0;
}
