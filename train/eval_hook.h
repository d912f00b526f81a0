// train/eval_hook.h - per-class numbers while training. The trainer draws samples; who judges them stands after train
// in the order of folders (eval/train_judge.c) and is named to it by main.c.
#ifndef TRAIN_EVAL_HOOK_H
#define TRAIN_EVAL_HOOK_H
#include "core/device.h"
#include "train/dataset.h"
EXTERN_C_BEGIN
typedef struct {
    // classifier: a file of `cbdm eval train-classifier`, or "". The sets outlive the judge. NULL: *err.
    void *(*open)(Device *d, const DatasetInfo *train, const DatasetInfo *held_out, const char *classifier, Error *err);
    // images (n,H,W,C) in [-1,1], label (n) what each was drawn as: members of a JSON object, without the braces
    // around; caller frees. A function of its arguments and the sets alone; the training state is not its to touch.
    char *(*judge)(void *self, int64_t n, const float *images, const int32_t *label);
    void  (*close)(void *self);
} TrainJudge;
void train_judge_register(const TrainJudge *judge);      // what --eval-every asks; without one that flag is refused
const TrainJudge *train_judge(void);                     // NULL: there is none
EXTERN_C_END
#endif
