// eval/report_run.h - the runs that a report is about: folders of `cbdm train` with their statistics and results,
// result files alone; runs that differ by their seed are one arm.
#ifndef EVAL_REPORT_RUN_H
#define EVAL_REPORT_RUN_H
#include "eval/report_result.h"
EXTERN_C_BEGIN
// One value for each line of stats.jsonl that has it, steps ascending.
typedef struct { const char *name; int n; double *step, *value; } RunSeries;
enum { SERIES_LOSS, SERIES_DENOISING, SERIES_BALANCING, SERIES_GRAD_NORM, SERIES_COUNT };
// The denoising loss of the last probe of a kind ("train", "held_out"). n 0: none.
typedef struct { double step; int classes, tenths; double *by_class, *by_tenth; } RunProbe;
enum { PROBE_TRAIN, PROBE_HELD_OUT, PROBE_COUNT };
// What `cbdm train --eval-every` logs of samples: FID; label fidelity, mean over all classes and over the last third of
// them. NaN where a line has none.
enum { EVAL_FID, EVAL_FIDELITY, EVAL_FIDELITY_TAIL, EVAL_COUNT };
typedef struct { int n; double *step, *value[EVAL_COUNT]; } RunEvals;
typedef struct { char *path; double omega; } RunSamples;         // a folder of `cbdm sample`; omega NaN: unknown
typedef struct {
    char       *path;                  // as named
    char       *name;                  // --names, or the last part of the path
    char       *stem;                  // the name without its seed ("-s0", "_seed3"); the name where it has none
    bool        named;                 // by --names: the stem is the name
    double      seed;                  // of training; NaN: unknown
    Json       *config, *manifest;     // NULL: no such file
    RunSeries   series[SERIES_COUNT];
    RunProbe    probe[PROBE_COUNT];
    RunEvals    evals;
    int64_t     bad_lines;             // of stats.jsonl, passed over
    Result    **results; int n_results;
    RunSamples *samples; int n_samples;
    char       *preview;               // the newest, or NULL
    int         arm;
} Run;
typedef struct { const char *name; int n, *runs; } Arm;          // (n) positions in RunSet.run
typedef struct { int n; Run *run; int n_arms; Arm *arm; } RunSet;
// paths (n): run folders and result files; a result file inside a folder of a run belongs to it. names (n) or NULL.
// samples (n_samples): folders of `cbdm sample`, of the runs in their order, beside those found in the run folders.
bool run_set_read(const char *const *paths, int n, const char *const *names, int n_names, const char *const *samples,
                  int n_samples, RunSet *out, Error *err);
void run_set_free(RunSet *s);
EXTERN_C_END
#endif
