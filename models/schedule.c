// models/schedule.c - the noise schedule and the coefficient tables of the samplers.
#include "models/schedule.h"

#include <math.h>
#include <stdlib.h>

const char *const var_type_names[] = { "fixedlarge", "fixedsmall", NULL };

// torch.linspace in float32: from the front in the first half, from the back in the second.
static double linspace_float(float first, float last, int n, int i) {
    float step = (last - first) / (float)(n - 1);
    return (double)(i < n / 2 ? first + step * (float)i : last - step * (float)(n - 1 - i));
}

Schedule *schedule_linear(Device *d, int T, double beta_1, double beta_T, BetaRounding rounding) {
    CHECK(T >= 2, "a schedule of %d steps", T);
    Schedule *s = xcalloc(1, sizeof *s);
    s->T = T;
    s->beta = xmalloc((size_t)T * sizeof(double));
    s->alpha_bar = xmalloc((size_t)T * sizeof(double));
    double product = 1;
    float *root = xmalloc((size_t)(2 * T) * sizeof *root);
    for (int t = 0; t < T; t++) {
        s->beta[t] = rounding == BETA_FLOAT32 ? linspace_float((float)beta_1, (float)beta_T, T, t)
                                              : beta_1 + (beta_T - beta_1) * t / (T - 1);
        product *= 1.0 - s->beta[t];
        s->alpha_bar[t] = product;
        root[2 * t] = (float)sqrt(product);
        root[2 * t + 1] = (float)sqrt(1.0 - product);
    }
    s->root = tensor_new(d, "schedule.root", DT_F32, 2, (int64_t[]){ T, 2 });
    tensor_write_f32(s->root, root);
    free(root);
    return s;
}

void schedule_free(Schedule *s) {
    if (!s) return;
    tensor_free(s->root);
    free(s->beta);
    free(s->alpha_bar);
    free(s);
}

static double alpha_bar_before(const Schedule *s, int t) { return t > 0 ? s->alpha_bar[t - 1] : 1.0; }

static double posterior_variance(const Schedule *s, int t) {
    return s->beta[t] * (1.0 - alpha_bar_before(s, t)) / (1.0 - s->alpha_bar[t]);
}

double schedule_log_variance(const Schedule *s, int t, VarType type) {
    if (type == VAR_FIXEDLARGE && t > 0) return log(s->beta[t]);
    return log(posterior_variance(s, t > 0 ? t : 1));
}

SamplerCoef schedule_ddpm_step(const Schedule *s, int t, VarType type, double guidance, double clip) {
    double bar = s->alpha_bar[t], before = alpha_bar_before(s, t), beta = s->beta[t];
    double of_x0 = sqrt(before) * beta / (1.0 - bar), of_x = sqrt(1.0 - beta) * (1.0 - before) / (1.0 - bar);
    double x0_x = sqrt(1.0 / bar), x0_eps = -sqrt(1.0 / bar - 1.0);
    SamplerCoef c = { .x = (float)(of_x + of_x0 * x0_x), .eps = (float)(of_x0 * x0_eps), .guidance = (float)guidance,
                      .sigma = t > 0 ? (float)exp(0.5 * schedule_log_variance(s, t, type)) : 0.0f,
                      .x0_x = (float)x0_x, .x0_eps = (float)x0_eps, .x0_clip = (float)clip };
    return c;
}

SamplerCoef schedule_ddim_step(const Schedule *s, int t, int t_next, double eta, double guidance, double clip) {
    double bar = s->alpha_bar[t], next = t_next >= 0 ? s->alpha_bar[t_next] : 1.0;
    double sigma = eta * sqrt((1.0 - next) / (1.0 - bar)) * sqrt(1.0 - bar / next);
    double direction = sqrt(fmax(0.0, 1.0 - next - sigma * sigma));
    double x0_x = sqrt(1.0 / bar), x0_eps = -sqrt(1.0 / bar - 1.0);
    SamplerCoef c = { .x = (float)(sqrt(next) * x0_x), .eps = (float)(sqrt(next) * x0_eps + direction),
                      .sigma = t_next >= 0 ? (float)sigma : 0.0f, .guidance = (float)guidance, .x0_x = (float)x0_x,
                      .x0_eps = (float)x0_eps, .x0_clip = (float)clip };
    return c;
}

void schedule_times(const Schedule *s, int steps, int32_t *t) {
    CHECK(steps >= 1 && steps <= s->T, "%d sampling steps of %d", steps, s->T);
    for (int i = 0; i < steps; i++)
        t[steps - 1 - i] = steps == 1 ? s->T - 1 : (int32_t)lround((double)i * (s->T - 1) / (steps - 1));
}
