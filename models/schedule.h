// models/schedule.h - the noise schedule and the coefficient tables of the samplers, computed in double.
#ifndef MODELS_SCHEDULE_H
#define MODELS_SCHEDULE_H
#include "core/tensor.h"
#include "kernels/diffuse/diffuse.h"
EXTERN_C_BEGIN
// beta_t for t = 0..T-1, alpha_bar_t = prod (1 - beta_s), s <= t (DDPM, arXiv 2006.11239, section 2). The published
// code takes beta as a float32 linspace widened to double, which fixes alpha_bar in the 7th digit; BETA_DOUBLE is not
// rounded.
typedef enum { BETA_FLOAT32, BETA_DOUBLE } BetaRounding;
typedef struct { int T; double *beta, *alpha_bar; Tensor *root; } Schedule;   // root (T,2): as kernels/diffuse reads it
Schedule *schedule_linear(Device *d, int T, double beta_1, double beta_T, BetaRounding rounding);
void      schedule_free(Schedule *s);

typedef enum { VAR_FIXEDLARGE, VAR_FIXEDSMALL } VarType;
extern const char *const var_type_names[];      // "fixedlarge", "fixedsmall", NULL
// Log of the step's variance at t. fixedsmall: the posterior's (DDPM eq. 7), at t = 0, where it is 0, that of t = 1.
// fixedlarge: beta_t, at t = 0 also the posterior's of t = 1.
double schedule_log_variance(const Schedule *s, int t, VarType type);
// One ancestral step at t (DDPM eq. 11): x <- coef1 x0_hat + coef2 x + sigma z, x0_hat from eps_hat, clipped to
// [-clip, clip] if clip > 0. The published code does not clip.
SamplerCoef schedule_ddpm_step(const Schedule *s, int t, VarType type, double guidance, double clip);
// One DDIM step from t to t_next, -1: to the image (arXiv 2010.02502, eq. 12 and 16); eta 0 is deterministic.
SamplerCoef schedule_ddim_step(const Schedule *s, int t, int t_next, double eta, double guidance, double clip);
// The time steps of a run of `steps`, descending, evenly spaced from T - 1 to 0: t_i = round(i (T - 1) / (steps - 1)),
// i from steps - 1 down; a single step is taken at T - 1.
void schedule_times(const Schedule *s, int steps, int32_t *t);
EXTERN_C_END
#endif
