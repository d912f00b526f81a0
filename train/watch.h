// train/watch.h - what a run makes of each step's loss and gradient norm: steps that are not finite, and spikes.
#ifndef TRAIN_WATCH_H
#define TRAIN_WATCH_H
#include "core/base.h"
EXTERN_C_BEGIN
enum {
    WATCH_BAD_IN_A_ROW = 3, WATCH_BAD_IN_WINDOW = 10, WATCH_WINDOW = 10000,      // so many refused updates end a run
    WATCH_NORMS = 128,          // gradient norms that a new one is compared with
    WATCH_FIRST = 100,          // steps whose largest loss the later ones are compared with
    WATCH_QUIET = 128,          // steps without a second warning of a spike
    WATCH_TEXT = 240,
};
// Part of the training loop's state: a resumed run warns and stops like any other.
typedef struct {
    int64_t bad_in_a_row, bad_in_window;          // updates refused because the gradient was not finite
    int64_t spikes;                               // so far
    int64_t quiet_until;                          // no warning of a spike before this step
    int64_t losses;                               // finite ones so far, at most WATCH_FIRST
    double  largest;                              // of them
    int64_t norms;                                // finite ones so far; the last of them, number i at i % WATCH_NORMS:
    double  norm[WATCH_NORMS];
} Watch;
// SPIKE: training goes on, a warning is due; SKIPPED: the update was refused; DIVERGED: that was one too many.
typedef enum { WATCH_FINE, WATCH_SPIKE, WATCH_SKIPPED, WATCH_DIVERGED } WatchFinding;
// Takes in a step. refused: the device has refused its update. `why` tells of a spike.
WatchFinding watch_step(Watch *w, int64_t step, double loss, double norm, bool refused, char why[WATCH_TEXT]);
int64_t watch_bad_left(const Watch *w);           // at least so many steps must be bad, one after the other, to end it
char   *watch_text(const Watch *w);               // caller frees
// Of a checkpoint, which is not to be trusted. Fewer numbers, as earlier versions wrote them, are a beginning.
bool    watch_parse(Watch *w, const char *text);
EXTERN_C_END
#endif
