// models/model.h - a network with its schedule: the configuration flags, and what a checkpoint says of itself.
#ifndef MODELS_MODEL_H
#define MODELS_MODEL_H
#include "core/cli.h"
#include "models/diffusion.h"
EXTERN_C_BEGIN
// What must be known to rebuild a network and sample from it: the flags of model_flags, in a struct of text and numbers
typedef struct {
    int         image_size, in_channels, ch;
    const char *ch_mult, *attn;                 // "1,2,2,2", "1"
    int         res_blocks, groups, classes;
    bool        augment;
    double      dropout;
    int         attention;                      // AttentionForm
    int         T;
    double      beta_1, beta_T;
    int         beta_rounding;                  // BetaRounding
} ModelConfig;
extern const Flag model_flags[];
extern const int  n_model_flags;
// Call before reading a stored configuration over the defaults: what those of programs without a flag meant by it.
void model_config_stored(ModelConfig *c);
bool model_unet_config(const ModelConfig *c, UNetConfig *u, Error *err);   // parses the lists, then unet_check
Schedule *model_schedule(const ModelConfig *c, Device *d);

// Checkpoints are RUN/checkpoints/step-000000400.safetensors. spec: a file, RUN@STEP, or RUN (its newest that opens).
char *checkpoint_path(const char *run, int64_t step);                      // caller frees
char *checkpoint_find(const char *spec, Error *err);                       // caller frees; NULL: *err
// Steps of the checkpoints in a run, ascending; caller frees. -1: the folder cannot be read.
int   checkpoint_list(const char *run, int64_t **steps);

// A network opened for sampling: one set of weights, no optimiser state.
typedef struct {
    ModelConfig config;
    Device     *device;
    UNet       *net;
    Schedule   *schedule;
    int64_t     step;                           // updates done when it was saved
    double      ema_decay;                      // 0: unknown
    bool        ema_ramp;
    char      **class_names;                    // (classes), never NULL entries
    int64_t    *class_counts;                   // (classes) training images of each; all 0: unknown
    char       *path, *hash;                    // of the checkpoint file; SHA-256 of its bytes
} Model;
Model *model_open(Device *d, const char *spec, CkptPart part, Error *err); // NULL: *err; the device stays the caller's
void   model_close(Model *m);
// Number lists as flags take them: "1,2,2,2", "0-63", "5,7-9", each from min to max, at most max_count. Caller frees
// (an empty list too); NULL: *err, naming `flag`.
int64_t *list_parse(const char *flag, const char *text, int64_t min, int64_t max, int64_t max_count, int64_t *n,
                    Error *err);
EXTERN_C_END
#endif
