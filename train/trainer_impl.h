// train/trainer_impl.h - the trainer's own fields, for the trainer's own files only: trainer.c, step.c, loop.c,
// inject.c, skipped.c, probe.c, preview.c, eval_hook.c.
#ifndef TRAIN_TRAINER_IMPL_H
#define TRAIN_TRAINER_IMPL_H
#include "sample/sampler.h"
#include "train/eval_hook.h"
#include "train/trainer.h"
#include "train/watch.h"
// One form of the step: with labels, or with all labels dropped. Without micro-batches `pass` holds the whole step;
// with them it adds gradients to what `begin` zeroed, and `end` updates.
typedef struct { Graph *pass, *begin, *end; DiffusionStep io; int copies; } StepForm;
typedef struct { Graph *graph; DiffusionStep io; int batch; } Probe;
// What the loop remembers from step to step. Checkpoints hold it, so that a resumed run logs and stops like any other.
typedef struct {
    double  sum[3];                               // finite losses since the last line of stats.jsonl
    int64_t n;                                    // steps in them
    Watch   watch;
} LoopState;
// A fault on order; param NULL: none.
typedef struct { Param *param; float value, weight, average; int64_t step; } Injection;
// A step under way: what has been read back of it, and how many of its losses have not.
typedef struct { StepResult result; int parts; bool done; } PendingStep;
struct Trainer {
    RunConfig *c;
    Dataset   *data, *held_out;                   // held_out: NULL if the source has no test images
    Device    *device;
    DType      dtype;                             // of activations
    UNet      *net;
    Schedule  *schedule;
    Arena     *arena;
    Batcher   *batcher;
    Tensor    *images;                            // the data set on the device (count,H,W,C) u8; NULL: batches are made
                                                  // on the host
    StepForm   form[2];                           // [0] labelled, [1] dropped
    int        micro;                             // images per pass
    double     program_mb;                        // resident before anything of the run is allocated, but for the data
    Probe      probe;
    Sampler   *preview, *eval;
    int        eval_batch;
    void      *judge;                             // train_judge()'s own, if --eval-every
    float     *x0;                                // host staging, one pass; NULL if images are on the device
    int32_t   *ints;
    int64_t    begun, taken;                      // steps, since the beginning of the run
    int64_t    reading;                           // the step whose queued reads come next
    int        reads;                             // queued and not taken
    PendingStep pending[TRAINER_PENDING];             // by step modulo TRAINER_PENDING: those from `taken` to `begun`
    LoopState  loop;
    Injection  injection;
};
void  trainer_feed(Trainer *t, const StepForm *f, int64_t step, int begin);   // inputs of one pass
const StepForm *trainer_form(const Trainer *t, int64_t step);                 // labelled or dropped, by chance
bool  inject_open(Trainer *t, Error *err);        // parses --inject
void  inject_begin(Trainer *t, int64_t step);     // around all of a step
void  inject_end(Trainer *t, int64_t step);
char *skipped_json(Trainer *t, const StepResult *r);          // all that it takes to run the step again; caller frees
char *loop_state_text(const LoopState *s);        // caller frees
bool  loop_state_parse(LoopState *s, const char *text);
void probe_record(Trainer *t);
void probe_run(Trainer *t, RunDir *dir);          // a line of stats.jsonl for each set there is
void preview_record(Trainer *t);
bool eval_open(Trainer *t, Error *err);           // after the device, before memory is placed
void eval_record(Trainer *t);
void eval_run(Trainer *t, RunDir *dir);           // a line of stats.jsonl
void eval_free(Trainer *t);
bool preview_run(Trainer *t, RunDir *dir, Error *err);   // a grid: at most ten classes, one a row, head to tail
#endif
