// eval/report_stats.h - means over seeds with their intervals, and tests of differences.
#ifndef EVAL_REPORT_STATS_H
#define EVAL_REPORT_STATS_H
#include "core/base.h"
EXTERN_C_BEGIN
// The point that Student's t with df degrees of freedom (not necessarily whole) stays below with probability p in
// (0,1).
double student_quantile(double p, double df);
// Mean and 95% t-interval; low and high are NaN for n < 2.
typedef struct { int n; double mean, low, high; } MeanInterval;
MeanInterval mean_interval(const double *x, int n);
// Mean of a[i] - b[i] with the 95% interval of a paired t-test.
MeanInterval paired_interval(const double *a, const double *b, int n);
// Difference of the means of two independent samples with Welch's 95% interval; both n >= 2.
MeanInterval welch_interval(const double *a, int na, const double *b, int nb);
EXTERN_C_END
#endif
