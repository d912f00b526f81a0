// tests/opcase_check.c - the two verdicts on an operation: against the reference, and against numeric derivatives.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "opcase_impl.h"

// ---- against ref
static const double unit = 0x1p-24;              // u: relative error of one rounding to f32

static const double unit_bf16 = 0x1p-8;          // v: of one rounding to bf16

// A network: the draws that ref32's error is estimated from, and what |t| of as many degrees of freedom exceeds once in
// 10^8 (Student's distribution).
enum { DRAWS = 32 };
static const double student = 7.66;

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

// v of a result; 0 for one stored in f32.
static double storage_unit(const Result *r) { return r->dtype == DT_BF16 ? unit_bf16 : 0; }

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

// ---- the error of ref32 over the draws of a case: by result, for each element, the sum of squares
typedef struct { double *square[MAX_RESULTS]; } Errors;

static void add_draw(Errors *e, const Results *ref32, const Results *ref) {
    for (int i = 0; i < ref->n; i++) {
        const Result *a = &ref32->result[i], *b = &ref->result[i];
        if (!e->square[i]) e->square[i] = xcalloc((size_t)b->n, sizeof(double));
        for (int64_t j = 0; j < b->n; j++) {
            double d = a->value[j] - b->value[j];
            if (isfinite(d)) e->square[i][j] += d * d;
        }
    }
}

// The largest root mean square of an element, and that of the Frobenius norm; both times `factor`.
static void summarize(Errors *e, const Results *ref, int draws, double factor, double *error, double *frobenius) {
    for (int i = 0; i < ref->n; i++) {
        double top = 0, sum = 0;
        for (int64_t j = 0; j < ref->result[i].n; j++) {
            top = fmax(top, e->square[i][j]);
            sum += e->square[i][j];
        }
        error[i] = factor * sqrt(top / draws);
        if (frobenius) frobenius[i] = factor * sqrt(sum / draws);
        free(e->square[i]);
    }
}

static void measure_ref32(const OpSuite *s, const OpCase *c, Yardstick *y) {
    bool bf16 = y->dtype == DT_BF16;
    int draws = s->whole ? DRAWS : 1;
    double factor = s->whole ? student / 2 : 1;
    Errors errors = { 0 }, in_floats = { 0 };
    for (int draw = 0; draw < draws; draw++) {
        RunSpec spec = { .device = "ref", .rounded = bf16, .draw = draw };
        Results *ref = draw ? case_run(s, c, &spec) : y->ref;
        spec.device = "ref32";
        if (s->whole && bf16) {
            Results *floats = case_run(s, c, &spec);
            add_draw(&in_floats, floats, ref);
            results_free(floats);
        }
        spec.dtype = y->dtype;
        Results *ref32 = case_run(s, c, &spec);
        add_draw(&errors, ref32, ref);
        if (draw) results_free(ref);
        if (draw) results_free(ref32);
        else y->ref32 = ref32;
    }
    summarize(&errors, y->ref, draws, factor, y->error, y->frobenius);
    if (s->whole && bf16) summarize(&in_floats, y->ref, draws, factor, y->floats, NULL);
}

Yardstick *yardstick_new(const OpSuite *s, const OpCase *c, DType dtype) {
    Yardstick *y = xcalloc(1, sizeof *y);
    bool bf16 = dtype == DT_BF16;
    y->dtype = dtype;
    y->ref = case_run(s, c, &(RunSpec){ .device = "ref", .rounded = bf16 });
    y->stored = bf16 ? case_run(s, c, &(RunSpec){ .device = "ref", .dtype = dtype, .rounded = true }) : y->ref;
    CHECK(y->ref->n > 0, "case %s has no results", c->name);
    if (bf16 && !y->stored->bf16) {
        yardstick_free(y);
        return NULL;
    }
    measure_ref32(s, c, y);
    Results *squares = NULL, *ones = NULL;
    if (s->products) {
        squares = case_run(s, c, &(RunSpec){ .device = "ref64", .fill = FILL_SQUARES, .rounded = bf16 });
        ones = case_run(s, c, &(RunSpec){ .device = "ref64", .fill = FILL_ONES });
    }
    for (int i = 0; i < y->ref->n; i++) {
        y->terms[i] = ones ? largest(&ones->result[i], NULL) : s->terms ? s->terms(c) : 1;
        if (squares) y->rounding[i] = unit * sqrt(y->terms[i]) * sqrt(largest(&squares->result[i], NULL));
        else if (s->rounding) y->rounding[i] = s->rounding(c, y->ref->result[i].name);
    }
    results_free(squares);
    results_free(ones);
    return y;
}

void yardstick_free(Yardstick *y) {
    if (!y) return;
    if (y->stored != y->ref) results_free(y->stored);
    results_free(y->ref);
    results_free(y->ref32);
    free(y);
}

static bool compare_result(const OpSuite *s, const OpCase *c, const char *who, const Result *y, const Yardstick *yard,
                           int i, Error *err) {
    const Result *ref = &yard->ref->result[i];
    CHECK(y->n == ref->n && strcmp(y->name, ref->name) == 0, "results %s and %s", y->name, ref->name);
    const Result *stored = &yard->stored->result[i];
    if (!compare_elements(who, c, y, stored, err)) return false;
    bool is_ref32 = strcmp(who, "ref32") == 0, bf16 = yard->dtype == DT_BF16;
    if (is_ref32 && !s->products && !bf16) return true;
    double amplification = y->amplified ? s->amplification : 1, rounding = yard->rounding[i];
    double once = storage_unit(stored) * largest(ref, NULL);
    double bound = 2 * amplification * fmax(fmax(yard->error[i], once), rounding);
    if (is_ref32) bound = yard->terms[i] * rounding;     // Higham's bound, u K sum|a b|, with Cauchy and Schwarz
    if (is_ref32 && bf16) bound += yard->stored->nodes * unit_bf16 * largest(ref, NULL);
    if (is_ref32 && bf16 && s->rounding) bound += rounding * (unit_bf16 / unit);   // what cancels is rounded to bf16
    if (is_ref32 && bf16) bound += 2 * yard->floats[i] * (unit_bf16 / unit);
    bound += 2 * ulp_f32(largest(ref, NULL));
    double top = largest(y, ref), frobenius = norm_of(y, ref);
    if (!(top <= bound)) {
        int64_t at = 0;
        while (fabs(y->value[at] - ref->value[at]) < top || isnan(y->value[at])) at++;
        int64_t wrong = 0, first = -1, last = -1;
        for (int64_t j = 0; j < ref->n; j++) {
            if (fabs(y->value[j] - ref->value[j]) <= bound || !isfinite(ref->value[j])) continue;
            if (!wrong++) first = j;
            last = j;
        }
        return error_set(err, ERR_DIVERGED, "%s: %s[%lld] = %.9g, ref has %.9g: error %.3g over the bound of %.3g "
                         "(ref32 %.3g, term with squares %.3g, amplification %g); %lld of %lld are, from [%lld] to "
                         "[%lld]", who, y->name, (long long)at, y->value[at], ref->value[at], top, bound,
                         yard->error[i], rounding, amplification, (long long)wrong, (long long)ref->n,
                         (long long)first, (long long)last);
    }
    if (is_ref32) return true;
    bound = unit * sqrt(yard->terms[i]) * norm_of(ref, NULL);
    if (s->rounding) bound = fmax(bound, sqrt((double)ref->n) * rounding);
    bound += fmax(2 * amplification * yard->frobenius[i], storage_unit(stored) * norm_of(ref, NULL));
    if (frobenius <= bound) return true;
    return error_set(err, ERR_DIVERGED, "%s: %s: |y - ref| = %.3g in the Frobenius norm, over the bound of %.3g (ref32 "
                     "%.3g, |ref| %.3g, K %g)", who, y->name, frobenius, bound, yard->frobenius[i], norm_of(ref, NULL),
                     yard->terms[i]);
}

bool case_compare(const OpSuite *s, const OpCase *c, const char *who, const Results *got, const Yardstick *yard,
                  Error *err) {
    CHECK(got->n == yard->ref->n, "case %s has %d results, ref has %d", c->name, got->n, yard->ref->n);
    for (int i = 0; i < got->n; i++)
        if (!compare_result(s, c, who, &got->result[i], yard, i, err)) return false;
    return true;
}

// ---- against central differences
enum { MAX_FULL = 1000, DIRECTIONS = 3 };
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
    case_fill(r, FILL_VALUES, 0);
    tensor_write(r->in[k].t, v);
    free(v);
    return objective(r);
}

static bool check_input(OpRun *r, int k, const Result *gradient, bool full, Error *err) {
    int64_t n = gradient->n;
    double *x = xmalloc((size_t)n * sizeof *x), *direction = xmalloc((size_t)n * sizeof *x);
    bool ok = true;
    case_fill(r, FILL_VALUES, 0);
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
        double numeric = (up - down) / (2 * step_size);
        double scale = full ? largest(gradient, NULL) : norm_of(gradient, NULL);
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
    OpRun *r = case_record(s, c, d, &spec, true), *forward = case_record(s, c, d, &spec, false);
    CHECK(r->has_gradients && !(c->use & (CASE_EXACT | CASE_ACCUMULATE)), "case %s has no gradient to check", c->name);
    case_fill(r, FILL_VALUES, 0);
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
