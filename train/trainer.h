// train/trainer.h - a training run: data, network, graphs, loop.
#ifndef TRAIN_TRAINER_H
#define TRAIN_TRAINER_H
#include "models/diffusion.h"
#include "train/batch.h"
#include "train/run_dir.h"
EXTERN_C_BEGIN
typedef struct Trainer Trainer;
// Opens the data, records, plans and places every graph of the run, and loads what --resume or --init-from names. On a
// null device nothing is placed or loaded. NULL: *err.
Trainer *trainer_new(RunConfig *c, Error *err);
void     trainer_free(Trainer *t);
// A step is begun (x_t, predictions, loss, gradients, Adam, EMA are queued on the device) and its result taken later,
// so that a GPU always has work: at most TRAINER_PENDING steps are begun and not taken. Results come in their order.
typedef struct { int64_t step; double loss[3]; StepState state; } StepResult;   // step: 0 is the first; state: after it
enum { TRAINER_PENDING = 8 };
void     trainer_begin(Trainer *t);
int      trainer_pending(const Trainer *t);
bool     trainer_ready(Trainer *t);                        // whether trainer_take would not wait
StepResult trainer_take(Trainer *t);
void     trainer_step(Trainer *t, double loss[3]);         // begin and take. loss: total, denoising, balancing
// Begun so far: the number of the step that comes next. The device's memory is that after the last of them.
int64_t  trainer_steps_done(const Trainer *t);
const DatasetInfo *trainer_data(const Trainer *t);
const Device *trainer_device(const Trainer *t);
void     trainer_report(const Trainer *t, FILE *f);        // parameters, FLOPs, memory by category
void     trainer_dump(const Trainer *t, FILE *f);
void     trainer_profile(Trainer *t, FILE *f);
// The loop with log, checkpoints, previews and probes in c->out. Fine, ERR_DIVERGED, ERR_IO, ERR_INTERRUPTED.
bool     trainer_run(Trainer *t, RunDir *dir, Error *err);

int train_main(int argc, char **argv);                     // the verb: cbdm train
int bench_step_main(int argc, char **argv);                // cbdm bench-step: seconds per step, on request
EXTERN_C_END
#endif
