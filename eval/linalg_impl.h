// eval/linalg_impl.h - what linalg.c asks of linalg_device.c.
#ifndef EVAL_LINALG_IMPL_H
#define EVAL_LINALG_IMPL_H
#include "eval/linalg.h"
// c = alpha op(a) op(b) on the device of linalg_use; false: not its business, nothing was written.
bool linalg_device_sgemm(bool ta, bool tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b,
                         int ldb, float *c, int ldc);
#endif
