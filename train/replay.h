// train/replay.h - the verb that recomputes a case of the published code: cbdm replay CASE --output OUT.
#ifndef TRAIN_REPLAY_H
#define TRAIN_REPLAY_H
#include "core/base.h"
EXTERN_C_BEGIN
// Reads a "cbdm-replay-1" case (safetensors: weights, inputs, draws, results), computes every result again and writes
// them under the same names. Returns the exit code.
int replay_main(int argc, char **argv);
EXTERN_C_END
#endif
