// eval/images.c - images on the scale 0..255, from bytes or from a sampler's floats.
#include "eval/images.h"

#include <stdlib.h>

#include "sample/sampler.h"

ImageSet images_of(const DatasetInfo *d) {
    return (ImageSet){ .n = d->count, .height = d->height, .width = d->width, .channels = d->channels, .u8 = d->images,
                       .label = d->labels, .name = d->source };
}

void image_rows(const ImageSet *s, int64_t begin, int64_t end, bool quantise, float *out) {
    CHECK(0 <= begin && begin <= end && end <= s->n, "images %lld to %lld of %lld", (long long)begin, (long long)end,
          (long long)s->n);
    CHECK(!s->u8 != !s->f32, "%s: bytes or floats, one of the two", s->name);
    int64_t e = (int64_t)image_size(s), n = (end - begin) * e;
    if (!s->u8 && !quantise) {
        const float *x = s->f32 + begin * e;
        for (int64_t i = 0; i < n; i++) out[i] = (x[i] + 1) * 127.5f;
        return;
    }
    const uint8_t *bytes = s->u8 ? s->u8 + begin * e : NULL;
    uint8_t *rounded = bytes ? NULL : xmalloc((size_t)n + 1);
    if (!bytes) images_to_u8(s->f32 + begin * e, n, rounded), bytes = rounded;
    for (int64_t i = 0; i < n; i++) out[i] = bytes[i];
    free(rounded);
}
