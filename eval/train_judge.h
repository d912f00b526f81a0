// eval/train_judge.h - the judge of samples drawn while training (cbdm train --eval-every).
#ifndef EVAL_TRAIN_JUDGE_H
#define EVAL_TRAIN_JUDGE_H
#include "train/eval_hook.h"
EXTERN_C_BEGIN
extern const TrainJudge train_judge_of_eval;              // main.c registers it
EXTERN_C_END
#endif
