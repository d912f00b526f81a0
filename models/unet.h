// models/unet.h - the DDPM UNet used by CBDM: residual blocks, attention at chosen levels, time and label embedding.
#ifndef MODELS_UNET_H
#define MODELS_UNET_H
#include "core/ops.h"
EXTERN_C_BEGIN
enum { UNET_MAX_LEVELS = 8 };
// How attention's projections enter the graph: as four convolutions, or multiplied into two where the algebra of a
// single head allows it. The same function of the same parameters, but for rounding.
typedef enum { ATTENTION_SEPARATE, ATTENTION_MERGED } AttentionForm;
extern const char *const attention_choices[];    // of an --attention flag, NULL-terminated
typedef struct {
    int      image_size, in_channels, channels;  // 32, 3, 128
    int      levels, mult[UNET_MAX_LEVELS];      // 4, {1,2,2,2}
    unsigned attn_levels;                        // bit i: attention at level i
    int      res_blocks, groups, classes;        // 2, 32, 100; classes 0: unconditional
    bool     augment;                            // the 9-number augmentation input
    double   dropout;
    AttentionForm attention;
} UNetConfig;
typedef struct UNet UNet;
// Refuses impossible configurations: sizes the levels do not divide (naming the nearest legal ones), groups that do not
// divide the channels, one channel per group (which would remove all conditioning).
bool      unet_check(const UNetConfig *cfg, Error *err);
// Then param_seal(unet_params(m), ...). Sets d to NHWC where channels is no multiple of 16.
UNet     *unet_new(const UNetConfig *cfg, Device *d);
void      unet_free(UNet *m);
ParamSet *unet_params(UNet *m);
const UNetConfig *unet_config(const UNet *m);
// Activations are stored as the graph's dtype; the time embedding and eps_hat are f32.
// x (N,H,W,C) NHWC, t (N) i32, y (kN) i32, -1: no label, or NULL: none has; augment (N,9) or NULL
// -> eps_hat (kN,H,W,C) NHWC. What both halves share runs on N; the batch repeats where y first enters. k = 2 for the
// two CBDM forwards or for guidance. sample (kN) keys dropout; NULL: none (evaluation).
Tensor   *unet_forward(UNet *m, Graph *g, Tensor *x, Tensor *t, Tensor *y, Tensor *augment, Tensor *sample);
EXTERN_C_END
#endif
