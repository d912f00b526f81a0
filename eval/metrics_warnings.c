// eval/metrics_warnings.c - what a reader of the numbers should know about the samples behind them.
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/metrics_impl.h"

enum { FEW = 50 };              // images of a class below which its numbers say little

void metrics_warn(Metrics *m, const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    m->warnings = xrealloc(m->warnings, (size_t)(m->n_warnings + 1) * sizeof *m->warnings);
    m->warnings[m->n_warnings++] = xstrdup(text);
}

// ---- rows that both sides hold
typedef struct { uint64_t hash; int64_t row; } Hashed;

// FNV-1a over words; -0 counts as 0, as it does for distances.
static uint64_t row_hash(const float *x, int dim) {
    uint64_t h = 0xcbf29ce484222325u;
    for (int k = 0; k < dim; k++) {
        float v = x[k] == 0 ? 0 : x[k];
        uint32_t bits;
        memcpy(&bits, &v, sizeof bits);
        h = (h ^ bits) * 0x100000001b3u;
    }
    return h;
}

static int by_hash(const void *a, const void *b) {
    const Hashed *x = a, *y = b;
    return x->hash != y->hash ? (x->hash > y->hash) - (x->hash < y->hash) : (x->row > y->row) - (x->row < y->row);
}

static bool same_row(const float *a, const float *b, int dim) {
    for (int k = 0; k < dim; k++)
        if (a[k] != b[k]) return false;
    return true;
}

int64_t rows_in_common(const Features *gen, const Features *ref, int64_t *first) {
    Hashed *h = xmalloc((size_t)ref->n * sizeof *h);
    int64_t found = 0;
    int dim = gen->dim;
    *first = -1;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < ref->n; i++) h[i] = (Hashed){ row_hash(ref->x + i * dim, dim), i };
    qsort(h, (size_t)ref->n, sizeof *h, by_hash);
    for (int64_t i = 0; i < gen->n; i++) {
        uint64_t hash = row_hash(gen->x + i * dim, dim);
        int64_t low = 0, high = ref->n;
        while (low < high) {
            int64_t middle = low + (high - low) / 2;
            if (h[middle].hash < hash) low = middle + 1;
            else high = middle;
        }
        bool same = false;
        for (; low < ref->n && h[low].hash == hash && !same; low++)
            same = same_row(gen->x + i * dim, ref->x + h[low].row * dim, dim);
        if (same && found++ == 0) *first = i;
    }
    free(h);
    return found;
}

// ---- the list
// "0-2, 7" of those classes for which few(row) holds; NULL: of none. Caller frees.
static char *classes_where(const Metrics *m, bool (*is)(const MetricRow *row)) {
    char *text = NULL;
    for (int c = 0; c < m->classes; c++) {
        if (!is(&m->by_class[c])) continue;
        int last = c;
        while (last + 1 < m->classes && is(&m->by_class[last + 1])) last++;
        char range[32];
        if (last == c) snprintf(range, sizeof range, "%d", c);
        else snprintf(range, sizeof range, "%d-%d", c, last);
        char *longer = xasprintf("%s%s%s", text ? text : "", text ? ", " : "", range);
        free(text);
        text = longer;
        c = last;
    }
    return text;
}

static bool is_empty(const MetricRow *r) { return r->n_gen == 0 || r->n_ref == 0; }
static bool is_few(const MetricRow *r) { return !is_empty(r) && (r->n_gen < FEW || r->n_ref < FEW); }

static void warn_of_classes(Metrics *m) {
    char *empty = classes_where(m, is_empty), *few = classes_where(m, is_few);
    if (empty) metrics_warn(m, "no rows on one side: class %s", empty);
    if (few) metrics_warn(m, "fewer than %d rows on one side, numbers of little weight: class %s", FEW, few);
    free(empty);
    free(few);
    int64_t least = INT64_MAX, most = 0;
    for (int c = 0; c < m->classes; c++) {
        if (m->by_class[c].n_gen < least) least = m->by_class[c].n_gen;
        if (m->by_class[c].n_gen > most) most = m->by_class[c].n_gen;
    }
    if (m->classes && least != most)
        metrics_warn(m, "%" PRId64 " to %" PRId64 " generated rows a class: the FID depends on how many there are; "
                     "compare classes by KID, or draw the same number of each", least, most);
}

static void warn_of_dimensions(const MetricOptions *o, Metrics *m) {
    if (o->skip & METRIC_FID) return;
    int64_t n = m->all.n_gen, ref = m->all.n_ref ? m->all.n_ref : n;          // statistics may not say their n
    if (n <= m->dim || ref <= m->dim)
        metrics_warn(m, "%" PRId64 " generated and %" PRId64 " reference rows for %d dimensions: the FID is dominated "
                     "by the bias of few samples; compare it at equal n only", n, m->all.n_ref, m->dim);
    int small = 0;
    for (int c = 0; c < m->classes; c++) small += m->by_class[c].n_gen <= m->dim || m->by_class[c].n_ref <= m->dim;
    if (small && n > m->dim && ref > m->dim)
        metrics_warn(m, "%d of %d classes have no more rows than dimensions (%d): their FIDs are dominated by the bias "
                     "of few samples; compare them at equal n only", small, m->classes, m->dim);
}

// Class by class, in ascending order?
static bool is_sorted(const Features *f) {
    int32_t last = f->label[0];
    bool several = false;
    for (int64_t i = 1; i < f->n; last = f->label[i++]) {
        if (f->label[i] < last) return false;
        several |= f->label[i] > last;
    }
    return several;
}

// What was asked for and cannot be computed of so few rows.
static void warn_of_parts(const Features *gen, const Features *ref, const MetricOptions *o, Metrics *m) {
    if (!(o->skip & METRIC_IS) && gen->probs && gen->n < o->splits)
        metrics_warn(m, "no Inception Score: %" PRId64 " generated rows for %d parts; --is-splits sets their number",
                     gen->n, o->splits);
    if (!(o->skip & METRIC_PRD) && ref && !isfinite(m->all.prd.f8))
        metrics_warn(m, "no PRD: %" PRId64 " rows for its clusters; --prd-clusters sets their number", gen->n + ref->n);
}

void metrics_warnings(const Features *gen, const Features *ref, const MetricOptions *o, Metrics *m) {
    int64_t first, copies = ref ? rows_in_common(gen, ref, &first) : 0;
    if (copies)
        metrics_warn(m, "%" PRId64 " of %" PRId64 " generated rows are reference rows, bit for bit (the first: row "
                     "%" PRId64 "): copies?", copies, gen->n, first);
    warn_of_dimensions(o, m);
    warn_of_classes(m);
    warn_of_parts(gen, ref, o, m);
    if (!(o->skip & METRIC_IS) && gen->probs && gen->label && !o->shuffle && o->splits > 1 && is_sorted(gen))
        metrics_warn(m, "the generated rows are sorted by class: the contiguous parts of the Inception Score hold few "
                     "classes each; --is-shuffle mixes them");
}
