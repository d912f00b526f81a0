// eval/images.h - sets of images to be judged, with the numbers and labels they were drawn with.
#ifndef EVAL_IMAGES_H
#define EVAL_IMAGES_H
#include "train/dataset.h"
EXTERN_C_BEGIN
// One of u8 and f32 is given. Borrowed: whoever made the arrays frees them.
typedef struct {
    int64_t        n;
    int            height, width, channels;      // channels 1 or 3
    const uint8_t *u8;                            // (n,height,width,channels), 0..255
    const float   *f32;                           // (n,height,width,channels), [-1,1], as a sampler gives them
    const int32_t *label;                         // (n), -1: none; or NULL
    const char    *name;                          // where they come from, for messages
} ImageSet;
ImageSet images_of(const DatasetInfo *d);        // all of a data set, with their labels
static inline size_t image_size(const ImageSet *s) {             // numbers of one image
    return (size_t)s->height * (size_t)s->width * (size_t)s->channels;
}
// Images begin..end-1 as floats on the scale 0..255: u8 exactly, f32 as (x + 1) 127.5, not rounded. quantise: f32 is
// first rounded to whole numbers and clipped, as images_to_u8 does. out (end - begin,height,width,channels).
void image_rows(const ImageSet *s, int64_t begin, int64_t end, bool quantise, float *out);
EXTERN_C_END
#endif
