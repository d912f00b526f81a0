// train/run_dir.h - the folder of a run: lock, configuration, checkpoints, statistics.
//   config.json, manifest.json, stats.jsonl, checkpoints/step-NNNNNNNNN.safetensors, previews/step-NNNNNNNNN.png,
//   skipped/step-NNNNNNNNN.json
#ifndef TRAIN_RUN_DIR_H
#define TRAIN_RUN_DIR_H
#include "train/config.h"
EXTERN_C_BEGIN
typedef struct RunDir RunDir;
// Creates DIR (refused if it holds a run with checkpoints; one that was killed before its first is begun again) or,
// with resume, opens it: locked against a second trainer, leftovers of a killed one removed. NULL: *err.
RunDir *run_dir_open(const char *dir, bool resume, Error *err);
void    run_dir_close(RunDir *r);
const char *run_dir_path(const RunDir *r);
// config.json (what defines the run) and manifest.json (program, machine, data).
bool    run_dir_describe(RunDir *r, const RunConfig *c, const DatasetInfo *data, const Device *d, Error *err);
// stats.jsonl: one line, with "step" as its first member. After a resume at step s all lines beyond s are dropped.
bool    run_dir_rewind(RunDir *r, int64_t step, Error *err);
void    run_dir_stat(RunDir *r, const char *json_line);
// Writes the record of a step whose update was refused and returns its path, for the caller to free. Of many the newest
// RUN_SKIPPED_MAX are kept. NULL: it could not be written, which has been told.
enum { RUN_SKIPPED_MAX = 20 };
char   *run_dir_skipped(RunDir *r, int64_t step, const char *json);
// Writes the checkpoint of `step`, then removes earlier ones that neither --keep nor --milestone-every protects. loop:
// text of the training loop's own, kept in the metadata.
bool    run_dir_save(RunDir *r, const RunConfig *c, const DatasetInfo *data, const ParamSet *ps, int64_t step,
                     const char *loop, Error *err);
EXTERN_C_END
#endif
