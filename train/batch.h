// train/batch.h - what a step trains on: images, labels, times and draws, as a pure function of (seed, step).
#ifndef TRAIN_BATCH_H
#define TRAIN_BATCH_H
#include "train/config.h"
EXTERN_C_BEGIN
typedef struct Batcher Batcher;
// The data must outlive it.
Batcher *batcher_new(const RunConfig *c, const DatasetInfo *data);
void     batcher_free(Batcher *b);
bool     batcher_drops_labels(const Batcher *b, int64_t step);   // all of them: never with --label-drop-by sample
// Where the m images of a pass go: x0 (m,H,W,C) in [-1,1], mirrored by chance; index (m), their places in the data set;
// t (m); y (m), -1 where --label-drop-by sample drops it, and y_balanced (m); sample (m), their numbers in the batch.
// All but t and sample: NULL if not wanted.
typedef struct { float *x0; int32_t *index, *t, *y, *y_balanced, *sample; } BatchRows;
void     batcher_fill(Batcher *b, int64_t step, int begin, int end, const BatchRows *rows);   // images begin..end-1
// The noise of images begin..end-1 (end - begin,H,W,C): what op_randn draws on the device under PURPOSE_NOISE.
void     batcher_noise(const Batcher *b, int64_t step, int begin, int end, float *out);
// u8 -> [-1,1], mirrored if asked.
void     image_to_float(const DatasetInfo *data, int64_t index, bool mirror, float *out);

int batches_main(int argc, char **argv);         // cbdm data batches: what a run trains on, for other programs
EXTERN_C_END
#endif
