// eval/report_stats.c - Student's t: quantiles by bisection of the incomplete beta function, and the intervals made of
// it.
#include "eval/report_stats.h"

#include <math.h>
#include <stdlib.h>

// The continued fraction of the regularised incomplete beta function I_x(a,b) (Abramowitz and Stegun 26.5.8), summed
// from the front by Lentz's method.
static double beta_fraction(double x, double a, double b) {
    enum { TERMS = 500 };
    const double tiny = 1e-300;
    double c = 1, d = 1 - (a + b) * x / (a + 1);
    d = 1 / (fabs(d) < tiny ? tiny : d);
    double f = d;
    for (int m = 1; m <= TERMS; m++) {
        double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        double step = 1;
        for (int half = 0; half < 2; half++) {
            double coefficient = half ? odd : even;
            d = 1 + coefficient * d;
            c = 1 + coefficient / c;
            d = 1 / (fabs(d) < tiny ? tiny : d);
            c = fabs(c) < tiny ? tiny : c;
            f *= step = c * d;
        }
        if (fabs(step - 1) < 1e-15) break;
    }
    return f;
}

static double incomplete_beta(double x, double a, double b) {
    if (x <= 0 || x >= 1) return x <= 0 ? 0 : 1;
    if (x > (a + 1) / (a + b + 2)) return 1 - incomplete_beta(1 - x, b, a);
    double front = exp(a * log(x) + b * log1p(-x) + lgamma(a + b) - lgamma(a) - lgamma(b));
    return front * beta_fraction(x, a, b) / a;
}

// P(T <= t) for t >= 0 (Abramowitz and Stegun 26.7.1).
static double student_below(double t, double df) { return 1 - incomplete_beta(df / (df + t * t), df / 2, 0.5) / 2; }

double student_quantile(double p, double df) {
    CHECK(p > 0 && p < 1 && df > 0, "p %g, %g degrees of freedom", p, df);
    if (p < 0.5) return -student_quantile(1 - p, df);
    double low = 0, high = 1;
    while (student_below(high, df) < p && high < 1e300) high *= 2;
    for (int i = 0; i < 200; i++) {
        double middle = (low + high) / 2;
        if (student_below(middle, df) < p) low = middle;
        else high = middle;
    }
    return (low + high) / 2;
}

// ---- means
static double mean(const double *x, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    return sum / n;
}

static double variance(const double *x, int n) {
    double m = mean(x, n), sum = 0;
    for (int i = 0; i < n; i++) sum += (x[i] - m) * (x[i] - m);
    return sum / (n - 1);
}

static MeanInterval around(double middle, double error, double df, int n) {
    double half = student_quantile(0.975, df) * error;
    return (MeanInterval){ n, middle, middle - half, middle + half };
}

MeanInterval mean_interval(const double *x, int n) {
    if (n < 2) return (MeanInterval){ n, n ? x[0] : (double)NAN, NAN, NAN };
    return around(mean(x, n), sqrt(variance(x, n) / n), n - 1, n);
}

MeanInterval paired_interval(const double *a, const double *b, int n) {
    double *d = xmalloc((size_t)(n + 1) * sizeof *d);
    for (int i = 0; i < n; i++) d[i] = a[i] - b[i];
    MeanInterval m = mean_interval(d, n);
    free(d);
    return m;
}

MeanInterval welch_interval(const double *a, int na, const double *b, int nb) {
    CHECK(na >= 2 && nb >= 2, "%d and %d values", na, nb);
    double va = variance(a, na) / na, vb = variance(b, nb) / nb, d = mean(a, na) - mean(b, nb), v = va + vb;
    if (v == 0) return (MeanInterval){ na + nb, d, d, d };
    return around(d, sqrt(v), v * v / (va * va / (na - 1) + vb * vb / (nb - 1)), na + nb);
}
