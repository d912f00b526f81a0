// core/param.h - trainable tensors: one buffer each for values, gradients, moments and EMA, and their checkpoints.
#ifndef CORE_PARAM_H
#define CORE_PARAM_H
#include "core/file.h"
#include "core/graph.h"
EXTERN_C_BEGIN
typedef struct ParamSet ParamSet;
typedef struct Param Param;                              // owned by its set
// XAVIER: U(-a, a), a = gain sqrt(6 / (fan_in + fan_out)). KAIMING: U(-b, b), b = gain / sqrt(fan_in), PyTorch's
// default for a linear layer. NORMAL: N(0, gain^2).
typedef enum { INIT_ZERO, INIT_ONE, INIT_XAVIER_UNIFORM, INIT_KAIMING_UNIFORM, INIT_NORMAL } Init;
ParamSet   *param_set_new(Device *d);
void        param_set_free(ParamSet *ps);
// shape: (K,R,S,C) filters, (K,C) matrices, (C) vectors. The name is the published one. No param_add after param_seal.
Param      *param_add(ParamSet *ps, const char *name, int ndim, const int64_t *shape, Init init, float gain);
typedef enum { PARAM_TRAIN, PARAM_EMA_ONLY } ParamUse;   // EMA_ONLY: one buffer of values, for sampling
void        param_seal(ParamSet *ps, ParamUse use, uint64_t seed);   // allocate, initialise, EMA = values
Device     *param_device(const ParamSet *ps);
int         param_count(const ParamSet *ps);
int64_t     param_numel(const ParamSet *ps);             // trainable elements over all parameters
size_t      param_buffer_bytes(const ParamSet *ps);      // one buffer, alignment included
Param      *param_get(const ParamSet *ps, int i);
Param      *param_find(const ParamSet *ps, const char *name);   // published name; NULL if absent
const char *param_name(const Param *p);
Tensor     *param_value(Param *p);                       // (K,R,S,C) etc., the training weights
Tensor     *param_ema(Param *p);
// The tensor a graph reads: of the weights it was created with. No buffer is ever swapped.
Tensor     *param_tensor(Param *p, const Graph *g);
// The same for products with activations: where the graph stores bf16, a bf16 copy of it, whose gradient is the
// parameter's. The optimiser writes the copy of the training weights; param_refresh makes either anew, after weights
// were written otherwise and before averages are sampled from.
Tensor     *param_operand(Param *p, const Graph *g);
void        param_refresh(ParamSet *ps, Weights w);      // without copies: nothing
size_t      param_copy_bytes(const ParamSet *ps);        // of all copies together
Tensor     *param_state(ParamSet *ps);                   // the StepState as a u8 tensor, for the ops that draw
StepState   param_state_read(const ParamSet *ps);
void        param_state_write(ParamSet *ps, const StepState *s);

// Append the optimiser to a training graph whose backward has been recorded, or to a graph of its own that closes a
// series of micro-batches: norm, clip, Adam with a step count per tensor, EMA. Every parameter counts as one that has a
// gradient; those of param_mark_label only if has_label_grad says that the batch was a labelled one, those of
// param_mark_unread never.
typedef struct { double lr, beta1, beta2, eps, clip_norm, ema_decay; int64_t warmup; bool ema_ramp; } AdamConfig;
void        param_append_adam(ParamSet *ps, Graph *g, const AdamConfig *c, bool has_label_grad);
// The same with SGD: g += weight_decay w; m = momentum m + g; w -= lr m, as PyTorch computes it. lr (1): a persistent
// f32 tensor, written by the host from step to step. The momentum is saved as adam_m. No average is kept: graphs that
// read the result are of WEIGHTS_TRAIN. A norm that is not finite refuses the update.
typedef struct { double momentum, weight_decay; } SgdConfig;
Tensor      param_momentum(const Param *p);              // m of p, to read and to write
void        param_append_sgd(ParamSet *ps, Graph *g, Tensor *lr, const SgdConfig *c);
void        param_append_zero_grad(ParamSet *ps, Graph *g);   // before a series of micro-batches
// Parameters whose gradient a labelled batch writes and an unlabelled one does not. Before param_seal.
void        param_mark_label(Param *p);
// A parameter that the network's graphs do not read: its gradient is zero. Before param_seal.
void        param_mark_unread(Param *p);

// Arrays as files hold them: filters KCRS (PyTorch's order), all else as in memory. n = param's elements, f32.
void        param_read_published(const Tensor *t, float *out);
void        param_write_published(Tensor *t, const float *in);
// safetensors: NAME (weights), ema.NAME, adam_m.NAME, adam_v.NAME, adam_count, state; values f32. Metadata: key/value
// text of the caller. A file is whole or absent. Refused (exit 3) if a weight, average or moment is not finite.
bool        ckpt_save(const ParamSet *ps, const char *path, const char *const *keys, const char *const *values,
                      int n_meta, Error *err);
// ALL: a training set as it was saved. EMA and WEIGHTS: without moments, counts and state, weights and averages both
// from the averages of the file (its weights where it has no ema.*), or both from its weights.
typedef enum { CKPT_ALL, CKPT_EMA, CKPT_WEIGHTS } CkptPart;
bool        ckpt_load(ParamSet *ps, const SafeTensors *st, const char *where, CkptPart part, Error *err);
EXTERN_C_END
#endif
