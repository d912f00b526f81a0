// eval/metrics_impl.h - what metrics.c and metrics_warnings.c share.
#ifndef EVAL_METRICS_IMPL_H
#define EVAL_METRICS_IMPL_H
#include "eval/metrics.h"
// Adds what a reader of the numbers should know: few samples, unequal counts, copied rows, sorted labels.
void metrics_warnings(const Features *gen, const Features *ref, const MetricOptions *o, Metrics *m);
// How many rows of gen are, bit for bit, rows of ref. first: the first of them, or -1.
int64_t rows_in_common(const Features *gen, const Features *ref, int64_t *first);
#endif
