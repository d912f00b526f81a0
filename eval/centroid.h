// eval/centroid.h - the simplest question to generated images: which class is each nearest to?
#ifndef EVAL_CENTROID_H
#define EVAL_CENTROID_H
#include "train/dataset.h"
EXTERN_C_BEGIN
// Mean image of each class, in [0,1]. out (classes, height * width * channels).
void centroids_of(const DatasetInfo *d, double *out);
// right[c] of seen[c] images of class c lie nearest (L2) to their own class's mean.
void centroid_classify(const DatasetInfo *d, const double *centroids, int64_t *right, int64_t *seen);

int centroid_main(int argc, char **argv);        // the verb: cbdm eval centroid
EXTERN_C_END
#endif
