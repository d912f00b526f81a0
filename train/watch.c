// train/watch.c - the policy on steps that are not finite, and on spikes.
//
// A spike is a gradient norm more than 6 standard deviations above the mean of the 128 before it, or a loss more than
// 10 times the largest of the first 100 steps. Both stand in the batch's mean over its times t, so no level per t is
// kept. A spike is told, not acted upon: clipping has bounded the update.
#include "train/watch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double norm_deviations = 6, loss_factor = 10;

static bool norm_spikes(const Watch *w, double norm, char why[WATCH_TEXT]) {
    if (w->norms < WATCH_NORMS) return false;
    double mean = 0, square = 0;
    for (int i = 0; i < WATCH_NORMS; i++) mean += w->norm[i] / WATCH_NORMS;
    for (int i = 0; i < WATCH_NORMS; i++) square += (w->norm[i] - mean) * (w->norm[i] - mean) / WATCH_NORMS;
    double deviation = sqrt(square);
    if (norm - mean <= norm_deviations * deviation) return false;
    snprintf(why, WATCH_TEXT, "gradient norm %.4g, %.3g standard deviations above the mean %.4g of the last %d steps",
             norm, (norm - mean) / deviation, mean, WATCH_NORMS);
    return true;
}

static bool loss_spikes(const Watch *w, double loss, char why[WATCH_TEXT]) {
    if (w->losses < WATCH_FIRST || loss <= loss_factor * w->largest) return false;
    snprintf(why, WATCH_TEXT, "loss %.4g, more than %g times the largest of the first %d steps, %.4g", loss,
             loss_factor, WATCH_FIRST, w->largest);
    return true;
}

WatchFinding watch_step(Watch *w, int64_t step, double loss, double norm, bool refused, char why[WATCH_TEXT]) {
    if (step % WATCH_WINDOW == 0) w->bad_in_window = 0;
    if (refused) {
        w->bad_in_a_row++;
        w->bad_in_window++;
        return watch_bad_left(w) > 0 ? WATCH_SKIPPED : WATCH_DIVERGED;
    }
    w->bad_in_a_row = 0;
    bool spike = loss_spikes(w, loss, why) || norm_spikes(w, norm, why);
    if (isfinite(norm)) w->norm[w->norms++ % WATCH_NORMS] = norm;
    if (isfinite(loss) && w->losses < WATCH_FIRST) {
        w->losses++;
        w->largest = fmax(w->largest, loss);
    }
    if (!spike) return WATCH_FINE;
    w->spikes++;
    if (step < w->quiet_until) return WATCH_FINE;
    w->quiet_until = step + WATCH_QUIET;
    return WATCH_SPIKE;
}

int64_t watch_bad_left(const Watch *w) {
    int64_t row = WATCH_BAD_IN_A_ROW - w->bad_in_a_row, window = WATCH_BAD_IN_WINDOW - w->bad_in_window;
    return row < window ? row : window;
}

// ---- as text: the counters, then the norms, oldest first; as hexadecimal fractions, so that no bit is lost

static int64_t norms_kept(const Watch *w) { return w->norms < WATCH_NORMS ? w->norms : WATCH_NORMS; }

char *watch_text(const Watch *w) {
    enum { ROOM = 200, NORM_ROOM = 28 };
    char *text = xmalloc(ROOM + WATCH_NORMS * NORM_ROOM);
    char *at = text + snprintf(text, ROOM, "%lld %lld %lld %lld %lld %a %lld", (long long)w->bad_in_a_row,
                               (long long)w->bad_in_window, (long long)w->spikes, (long long)w->quiet_until,
                               (long long)w->losses, w->largest, (long long)w->norms);
    for (int64_t i = w->norms - norms_kept(w); i < w->norms; i++)
        at += snprintf(at, NORM_ROOM, " %a", w->norm[i % WATCH_NORMS]);
    return text;
}

// The next number of the text, at least 0 and at most max.
static bool next_number(const char **at, double max, double *v) {
    char *end;
    *v = strtod(*at, &end);
    bool ok = end != *at && *v >= 0 && *v <= max;
    *at = end;
    return ok;
}

static bool next_count(const char **at, int64_t *n) {
    double v;
    if (!next_number(at, 1e15, &v)) return false;
    *n = (int64_t)v;
    return (double)*n == v;
}

bool watch_parse(Watch *w, const char *text) {
    *w = (Watch){ 0 };
    if (!next_count(&text, &w->bad_in_a_row) || !next_count(&text, &w->bad_in_window)) return false;
    if (!text[strspn(text, " ")]) return true;                  // version 0.1.0 kept no more
    if (!next_count(&text, &w->spikes) || !next_count(&text, &w->quiet_until) || !next_count(&text, &w->losses) ||
        w->losses > WATCH_FIRST || !next_number(&text, HUGE_VAL, &w->largest) || !next_count(&text, &w->norms))
        return false;
    for (int64_t i = w->norms - norms_kept(w); i < w->norms; i++)
        if (!next_number(&text, HUGE_VAL, &w->norm[i % WATCH_NORMS])) return false;
    return !text[strspn(text, " ")];
}
