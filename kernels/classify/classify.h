// kernels/classify/classify.h - cross entropy of classes: value and gradient in one pass.
#ifndef KERNELS_CLASSIFY_H
#define KERNELS_CLASSIFY_H
#include "kernels/common/kernel.h"
typedef struct { int n, c; } CrossEntropyShape;
typedef struct {
    const real    *logits;       // (n,c)
    const int32_t *label;        // (n), 0..c-1
    const real    *offset;       // (c), added to every row of logits, or NULL. No gradient
    real          *loss;         // (1): = in a fixed order
    real          *dlogits;      // (n,c): =, not logits. NULL: value only
} CrossEntropyArgs;
// v = logits + offset - the row's largest;  loss = mean over n of log(sum exp v) - v[label]
// dlogits = (exp v / sum exp v - [label]) / n
LAUNCHER(cross_entropy, CrossEntropyShape, CrossEntropyArgs);
#endif
