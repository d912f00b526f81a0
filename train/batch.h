// train/batch.h - what a step trains on: images, labels, times and draws, as a pure function of (seed, step).
#ifndef TRAIN_BATCH_H
#define TRAIN_BATCH_H
#include "train/config.h"
EXTERN_C_BEGIN
typedef struct Batcher Batcher;
// The data must outlive it.
Batcher *batcher_new(const RunConfig *c, const DatasetInfo *data);
void     batcher_free(Batcher *b);
bool     batcher_drops_labels(const Batcher *b, int64_t step);
// Images begin..end-1 of the batch of `step`: x0 (m,H,W,C) in [-1,1], t (m), y (m) and y_balanced (m) (NULL: not
// wanted), sample (m): the image's number in the batch.
void     batcher_fill(Batcher *b, int64_t step, int begin, int end, float *x0, int32_t *t, int32_t *y,
                      int32_t *y_balanced, int32_t *sample);
// u8 -> [-1,1], mirrored if asked.
void     image_to_float(const DatasetInfo *data, int64_t index, bool mirror, float *out);
EXTERN_C_END
#endif
