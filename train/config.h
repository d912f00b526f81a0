// train/config.h - everything that defines a training run, as one table of flags.
#ifndef TRAIN_CONFIG_H
#define TRAIN_CONFIG_H
#include "models/model.h"
#include "train/dataset.h"
EXTERN_C_BEGIN
typedef enum { OBJECTIVE_CBDM, OBJECTIVE_DDPM } Objective;
typedef enum { TARGET_TRAIN, TARGET_UNIFORM } TargetDist;
typedef enum { DROP_BATCH, DROP_SAMPLE } LabelDrop;
typedef enum { COMPAT_FIXED, COMPAT_OFFICIAL } Compat;
typedef enum { RESIDENT_AUTO, RESIDENT_ON, RESIDENT_OFF } Resident;
typedef struct {
    ModelConfig model;                                   // first: the offsets of model_flags hold here too
    const char *data, *lt_index;
    int         imb_type;                                // ImbType
    double      imb_factor;
    int64_t     lt_seed;
    bool        flip, drop_last;
    int         objective, target;                       // Objective, TargetDist
    double      tau, gamma, label_drop;
    int         label_drop_by;                           // LabelDrop
    int         batch, micro_batch;
    int64_t     steps;
    double      lr, beta1, beta2, adam_eps, grad_clip, ema_decay;
    int64_t     warmup;
    bool        warmup_cap, ema_ramp;
    int64_t     seed;
    int         compat;                                  // Compat
    int         dtype;                                   // one of dtype_choices
    int         resident;                                // Resident
    const char *preset, *device, *out, *resume, *init_from, *kernels, *kernel, *inject;
    int64_t     log_every, save_every, keep, milestone_every, preview_every, probe_every, eval_every;
    int         preview_steps, probe_images, eval_samples, eval_steps;
    double      preview_omega, eval_omega;
    const char *eval_classifier;
    bool        prepare, dump_graph, no_fuse, profile;
} RunConfig;
extern const char *const preset_names[];                 // NULL-terminated; "" is none
// The table of all flags (model_flags and the run's own). *n: how many.
const Flag *run_flags(int *n);
// Defaults, then --preset, then the flags themselves, then what --compat and --resume imply. With --resume the
// configuration is that of the run's newest checkpoint, and only the flags that a resumed run may change are taken.
bool  run_config_parse(RunConfig *c, int argc, char **argv, Error *err);
// The images of the run: SPLIT_TRAIN is the long-tailed subset, SPLIT_TEST all test images, both padded to the
// network's size. NULL: *err.
Dataset *run_config_data(const RunConfig *c, Split split, Error *err);
// Makes the configuration whole once the data is known: image size and channels, classes, the warm-up cap.
bool  run_config_resolve(RunConfig *c, const DatasetInfo *data, Error *err);
char *run_config_json(const RunConfig *c);               // what defines the run, no output path or device; caller frees
char *run_config_model_json(const RunConfig *c);         // caller frees
AdamConfig run_config_adam(const RunConfig *c);
EXTERN_C_END
#endif
