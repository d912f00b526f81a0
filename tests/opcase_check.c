// tests/opcase_check.c - the two verdicts on an operation: against the reference, and against numeric derivatives.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "opcase_impl.h"

// ---- against ref
static const double unit = 0x1p-24;              // u: relative error of one rounding to f32

static double ulp_f32(double x) {
    int e;
    frexp(x, &e);
    return x > 0 ? fmax(ldexp(1.0, e - 24), 0x1p-149) : 0;
}

static double largest(const Result *r, const Result *minus) {
    double top = 0;
    for (int64_t i = 0; r && i < r->n; i++) {
        double v = minus ? r->value[i] - minus->value[i] : r->value[i];
        if (isfinite(v)) top = fmax(top, fabs(v));
    }
    return top;
}

static double norm_of(const Result *r, const Result *minus) {
    double sum = 0;
    for (int64_t i = 0; r && i < r->n; i++) {
        double v = minus ? r->value[i] - minus->value[i] : r->value[i];
        if (isfinite(v)) sum += v * v;
    }
    return sqrt(sum);
}

static bool same(double a, double b) { return a == b || (isnan(a) && isnan(b)); }

// What the reference makes infinite or NaN must be so; where bits or zeros are promised, each element is held to it.
static bool compare_elements(const char *who, const OpCase *c, const Result *y, const Result *ref, Error *err) {
    bool exact = ref->use & OUT_BITS || (c->use & CASE_EXACT && !y->amplified);
    for (int64_t i = 0; i < ref->n; i++) {
        bool ok = exact || !isfinite(ref->value[i]) ? same(y->value[i], ref->value[i]) : isfinite(y->value[i]);
        if (ref->use & OUT_ZEROS) ok &= (y->value[i] == 0) == (ref->value[i] == 0);
        if (!ok)
            return error_set(err, ERR_DIVERGED, "%s: %s[%lld] = %.9g, ref has %.9g%s", who, y->name, (long long)i,
                             y->value[i], ref->value[i], exact ? ", and both must be equal" : "");
    }
    return true;
}

// ref32 NULL: y is the yardstick itself, which only the term with squares can bound.
static bool compare_result(const OpSuite *s, const OpCase *c, const char *who, const Result *y, const Result *ref,
                           const Result *ref32, const Result *squares, const Result *ones, Error *err) {
    CHECK(y->n == ref->n && strcmp(y->name, ref->name) == 0, "results %s and %s", y->name, ref->name);
    if (!compare_elements(who, c, y, ref, err)) return false;
    if (!ref32 && !squares) return true;
    double terms = ones ? largest(ones, NULL) : s->terms ? s->terms(c) : 1;
    double amplification = y->amplified ? s->amplification : 1;
    double yardstick = ref32 ? largest(ref32, ref) : 0, floor_error = squares ? unit * sqrt(terms) * sqrt(largest(squares, NULL)) : 0;
    double bound = 2 * amplification * fmax(yardstick, floor_error) + 2 * ulp_f32(largest(ref, NULL));
    double top = largest(y, ref), frobenius = norm_of(y, ref);
    if (!(top <= bound)) {
        int64_t at = 0;
        while (fabs(y->value[at] - ref->value[at]) < top || isnan(y->value[at])) at++;
        return error_set(err, ERR_DIVERGED, "%s: %s[%lld] = %.9g, ref has %.9g: error %.3g over the bound of %.3g (ref32 %.3g, "
                         "sum of squares %.3g, K %g, amplification %g)", who, y->name, (long long)at, y->value[at],
                         ref->value[at], top, bound, yardstick, floor_error, terms, amplification);
    }
    if (!ref32) return true;
    bound = 2 * amplification * norm_of(ref32, ref) + unit * sqrt(terms) * norm_of(ref, NULL);
    if (frobenius <= bound) return true;
    return error_set(err, ERR_DIVERGED, "%s: %s: |y - ref| = %.3g in the Frobenius norm, over the bound of %.3g (ref32 %.3g, "
                     "|ref| %.3g, K %g)", who, y->name, frobenius, bound, norm_of(ref32, ref), norm_of(ref, NULL), terms);
}

bool case_compare(const OpSuite *s, const OpCase *c, const char *who, const Results *got, const Results *ref,
                  const Results *ref32, const Results *squares, const Results *ones, Error *err) {
    CHECK(got->n == ref->n && ref->n > 0, "case %s has %d results, ref has %d", c->name, got->n, ref->n);
    for (int i = 0; i < ref->n; i++)
        if (!compare_result(s, c, who, &got->result[i], &ref->result[i], ref32 ? &ref32->result[i] : NULL,
                            squares ? &squares->result[i] : NULL, ones ? &ones->result[i] : NULL, err))
            return false;
    return true;
}

// ---- against central differences
enum { MAX_FULL = 1000, DIRECTIONS = 6 };
static const double step_size = 1e-6;

// The scalar that the analytic gradients belong to, with inputs as written.
static double objective(OpRun *r) {
    graph_run(r->g);
    double sum = 0;
    if (r->loss) {
        double *v = xmalloc((size_t)tensor_numel(r->loss) * sizeof *v);
        tensor_read_f64(r->loss, v);
        sum = v[0];
        free(v);
    }
    for (int i = 0; i < r->n_out && !r->loss; i++) {
        const Output *o = &r->out[i];
        if (!tensor_needs_grad(o->t) || o->use & OUT_NO_GRAD) continue;
        double *y = xmalloc((size_t)tensor_numel(o->t) * sizeof *y);
        char name[64];
        snprintf(name, sizeof name, "cotangent.%s", o->name);
        tensor_read_f64(o->t, y);
        uint32_t hash = case_hash(r->c->name, name);
        for (int64_t j = 0; j < tensor_numel(o->t); j++) sum += y[j] * (double)case_value(r->c, hash, j, FILL_VALUES);
        free(y);
    }
    return sum;
}

// objective at x + step * direction, x the values of input k; direction NULL: the unit vector of element `element`.
static double moved(OpRun *r, int k, const double *x, const double *direction, int64_t element, double step) {
    int64_t n = tensor_numel(r->in[k].t);
    double *v = xmalloc((size_t)n * sizeof *v);
    for (int64_t i = 0; i < n; i++) v[i] = x[i] + step * (direction ? direction[i] : i == element);
    case_fill(r, FILL_VALUES);
    tensor_write(r->in[k].t, v);
    free(v);
    return objective(r);
}

static bool check_input(OpRun *r, int k, const Result *gradient, bool full, Error *err) {
    int64_t n = gradient->n;
    double *x = xmalloc((size_t)n * sizeof *x), *direction = xmalloc((size_t)n * sizeof *x);
    bool ok = true;
    case_fill(r, FILL_VALUES);
    tensor_read_f64(r->in[k].t, x);
    for (int64_t j = 0; ok && j < (full ? n : DIRECTIONS); j++) {
        double analytic = full ? gradient->value[j] : 0;
        uint32_t hash = case_hash(r->in[k].name, "direction") + (uint32_t)j;
        for (int64_t i = 0; i < n && !full; i++) {
            direction[i] = (double)case_normal(hash, i);
            analytic += direction[i] * gradient->value[i];
        }
        const double *along = full ? NULL : direction;
        double up = moved(r, k, x, along, j, step_size), down = moved(r, k, x, along, j, -step_size);
        double numeric = (up - down) / (2 * step_size), scale = full ? largest(gradient, NULL) : norm_of(gradient, NULL);
        if (!(fabs(analytic - numeric) <= 1e-5 + 1e-3 * scale))
            ok = error_set(err, ERR_DIVERGED, "%s, %s %lld: %.9g, by differences %.9g", gradient->name,
                           full ? "element" : "direction", (long long)j, analytic, numeric);
    }
    free(x);
    free(direction);
    return ok;
}

bool case_check_grad(const OpSuite *s, const OpCase *c, Error *err) {
    RunSpec spec = { .device = "ref64" };
    Device *d = case_device(&spec);
    OpRun *r = case_record(s, c, d, true), *forward = case_record(s, c, d, false);
    CHECK(r->has_gradients && !(c->use & (CASE_EXACT | CASE_ACCUMULATE)), "case %s has no gradient to check", c->name);
    case_fill(r, FILL_VALUES);
    graph_run(r->g);
    Results *all = case_results(s, r);
    int64_t numel = 0;
    for (int i = 0; i < r->n_in; i++) numel += r->in[i].differentiate ? tensor_numel(r->in[i].t) : 0;
    bool ok = true;
    for (int i = 0; ok && i < forward->n_in; i++) {
        if (!forward->in[i].differentiate) continue;
        char name[64];
        snprintf(name, sizeof name, "d %s", forward->in[i].name);
        ok = check_input(forward, i, results_find(all, name), numel <= MAX_FULL, err);
    }
    results_free(all);
    case_free(forward);
    case_free(r);
    device_close(d);
    return ok;
}
