// kernels/groupnorm/groupnorm_cpu.c - group normalization, one slab of whole groups of one image at a time.
//
// A slab stays in the cache of a core: memory is read once for the two passes of the variance and the pass that writes.
// It is walked in strips of at most CPU_WIDE columns, a strip in rows: of one pixel, or where pixels follow each other
// (C16, dense NHWC of all channels) of several, the parameters repeated for each.
// The channels of a group never straddle slabs: a slab holds a multiple of `unit`, the channels of a group, times what
// makes that a multiple of 16 where 16 divides c.
#include "kernels/common/cpu.h"
#include "kernels/groupnorm/groupnorm_cpu.h"

enum {
    SLAB_BYTES = 256 << 10,   // of x in C16; with y or dx beside it half the second-level cache of a core
    FEW_IMAGES = 8,           // below that, threads share an image
};

static bool can(const GroupNormShape *z) { return z->dtype == DT_F32; }

// ---- slabs and strips
static int gcd(int a, int b) { return b ? gcd(b, a % b) : a; }

int groupnorm_unit(const GroupNormShape *z) {
    int group = z->c / z->groups;
    return z->c % 16 ? group : group * 16 / gcd(group, 16);
}

static int slab_channels(const GroupNormShape *z) {
    int group = z->c / z->groups, unit = groupnorm_unit(z);
    // In NHWC fewer channels of all pixels lie in as few of the cache's sets: no gain from less than a strip.
    int64_t fit = z->layout == LAYOUT_C16 ? SLAB_BYTES / 4 / z->hw : CPU_WIDE;
    fit = cpu_min(cpu_min(fit, z->c), (int64_t)CPU_WIDE * group);             // at most CPU_WIDE groups
    if (z->n < FEW_IMAGES) fit = cpu_min(fit, CPU_WIDE / 4);
    return fit < unit ? unit : (int)(fit / unit) * unit;
}

typedef struct {
    int     k, w, fold;            // channels k..k+w-1 of the image; pixels in a row
    int64_t x, y, dense;           // where its first pixel starts: in x and dx, in y and dy, in the dense add and mask
    int64_t step_x, step_y, step;  // from pixel to pixel
} Strip;

static Strip strip_at(const GroupNormShape *z, int i, int k, int end) {
    Strip s = { .k = k };
    if (z->layout == LAYOUT_C16) {
        s.w = 16;
        s.step_x = s.step_y = s.step = 16;
    } else {
        s.w = (int)cpu_min(CPU_WIDE, end - k);
        s.step_x = z->ldx;
        s.step_y = z->ldy;
        s.step = z->c;
    }
    s.x = layout_index(z->layout, z->hw, z->ldx, i, 0, k);
    s.y = layout_index(z->layout, z->hw, z->ldy, i, 0, k);
    s.dense = layout_index(z->layout, z->hw, z->c, i, 0, k);
    s.fold = s.step_x == s.w && s.step_y == s.w && s.step == s.w ? (int)cpu_min(CPU_WIDE / s.w, (z->hw + 3) / 4) : 1;
    return s;
}
static int row_columns(const GroupNormShape *z, const Strip *s, int p) {
    return (int)cpu_min(s->fold, z->hw - p) * s->w;
}

// wide[j] = of channel j mod w, for every pixel of a row.
static void repeat(float *wide, const Strip *s) {
    for (int j = s->w; j < s->fold * s->w; j++) wide[j] = wide[j - s->w];
}

// ---- forward
// Sums over pixels and channels of each group, from group g0 on: of x, or of (x - mean)^2 if mean (groups) is given.
static void group_sums(const GroupNormShape *z, const float *x, int i, int k0, int k1, const float *mean, double *sum) {
    int group = z->c / z->groups, g0 = k0 / group;
    for (int g = g0; g < k1 / group; g++) sum[g - g0] = 0;
    for (int k = k0; k < k1;) {
        Strip s = strip_at(z, i, k, k1);
        float part[CPU_WIDE] = { 0 }, m[CPU_WIDE];
        if (mean) {
            for (int j = 0; j < s.w; j++) m[j] = mean[(k + j) / group];
            repeat(m, &s);
            for (int p = 0; p < z->hw; p += s.fold) {
                const float *row = x + s.x + p * s.step_x;
                int cols = row_columns(z, &s, p);
                #pragma omp simd
                for (int j = 0; j < cols; j++) part[j] += (row[j] - m[j]) * (row[j] - m[j]);
            }
            cpu_unfold(part, s.w, s.fold * s.w);
        } else {
            cpu_column_sums(x + s.x, z->hw, s.step_x, s.w, part);
        }
        for (int j = 0; j < s.w; j++) sum[(k + j) / group - g0] += (double)part[j];
        k += s.w;
    }
}

void groupnorm_sums_given(const GroupNormShape *z, const float *stats, int g0, int g1, double *mean, double *square) {
    int group = z->c / z->groups;
    for (int g = g0; g < g1; g++) {
        double m = 0, sq = 0;
        for (int k = g * group; k < (g + 1) * group; k++) m += (double)stats[2 * k];
        m /= group;
        for (int k = g * group; k < (g + 1) * group; k++) {
            double d = (double)stats[2 * k] - m;
            sq += (double)stats[2 * k + 1] + z->hw * d * d;
        }
        mean[g - g0] = m;
        square[g - g0] = sq;
    }
}

void groupnorm_finish_moments(const GroupNormShape *z, const GroupNormForwardArgs *a, int i, int g0, int g1,
                              const double *square) {
    int group = z->c / z->groups;
    double size = (double)z->hw * group;
    const float *mean = a->mean + (int64_t)i * z->groups;
    float *rstd = a->rstd + (int64_t)i * z->groups;
    for (int g = g0; g < g1; g++) {
        rstd[g] = (float)(1.0 / sqrt(square[g - g0] / size + z->eps));
        for (int k = g * group; k < (g + 1) * group; k++) {
            float scale = rstd[g] * a->gamma[k];
            if (a->scale) a->scale[(int64_t)i * z->c + k] = scale;
            if (a->shift) a->shift[(int64_t)i * z->c + k] = a->beta[k] - mean[g] * scale;
        }
    }
}

// Mean and rstd of the groups of a slab, and what a convolution's prologue needs.
static void moments(const GroupNormShape *z, const GroupNormForwardArgs *a, int i, int k0, int k1) {
    int group = z->c / z->groups, g0 = k0 / group, g1 = k1 / group;
    double mean[CPU_WIDE], square[CPU_WIDE], size = (double)z->hw * group;
    float *m = a->mean + (int64_t)i * z->groups;
    if (z->stats) {
        groupnorm_sums_given(z, a->stats + (int64_t)i * z->c * 2, g0, g1, mean, square);
        for (int g = g0; g < g1; g++) m[g] = (float)mean[g - g0];
    } else {
        group_sums(z, a->x, i, k0, k1, NULL, mean);
        for (int g = g0; g < g1; g++) m[g] = (float)(mean[g - g0] / size);
        group_sums(z, a->x, i, k0, k1, m, square);
    }
    groupnorm_finish_moments(z, a, i, g0, g1, square);
}

// The forward's keep bits of a row, to where the mask wants them or to `own`: factors 0 or 1 / (1 - p).
static void row_factors(const GroupNormShape *z, const Strip *s, const CpuDraw *d, int p, int cols, uint8_t *mask,
                        float *factor) {
    uint32_t block[CPU_WIDE / 8];
    uint8_t own[CPU_WIDE / 8], *keep = mask ? mask + (s->dense + p * s->step) / 8 : own;
    cpu_pixel_blocks(block, (uint32_t)((p * (int64_t)z->c + s->k) / 8), (uint32_t)z->c / 8, cols / s->w, s->w / 8);
    cpu_keep_bits(d, block, cols / 8, keep);
    cpu_mask_factors(keep, 0, cols, cpu_keep_scale(z->p16), factor);
}

// A row of y. silu and factor (NULL: no dropout) are constants wherever this is inlined.
static inline void write_row(float *y, const float *x, const float *mean, const float *scale, const float *beta,
                             const float *factor, bool silu, int cols) {
    #pragma omp simd
    for (int j = 0; j < cols; j++) {
        float u = (x[j] - mean[j]) * scale[j] + beta[j];
        if (silu) u = cpu_silu(u);
        y[j] = factor ? u * factor[j] : u;
    }
}

static void write_strip(const GroupNormShape *z, const GroupNormForwardArgs *a, int i, const Strip *s, bool drop) {
    int group = z->c / z->groups;
    float mean[CPU_WIDE], scale[CPU_WIDE], beta[CPU_WIDE], factor[CPU_WIDE];
    for (int j = 0; j < s->w; j++) {
        int64_t g = (int64_t)i * z->groups + (s->k + j) / group;
        mean[j] = a->mean[g];
        scale[j] = a->rstd[g] * a->gamma[s->k + j];
        beta[j] = a->beta[s->k + j];
    }
    repeat(mean, s);
    repeat(scale, s);
    repeat(beta, s);
    CpuDraw draw = { { 0 }, 0, 0, 0, 0 };
    if (drop) draw = cpu_draw(a->state, a->sample[i], z->purpose, z->p16);
    for (int p = 0; p < z->hw; p += s->fold) {
        const float *x = (const float *)a->x + s->x + p * s->step_x;
        float *y = (float *)a->y + s->y + p * s->step_y;
        int cols = row_columns(z, s, p);
        if (drop) row_factors(z, s, &draw, p, cols, a->mask, factor);
        if (!a->y) continue;
        if (drop) {
            if (z->act == ACT_SILU) write_row(y, x, mean, scale, beta, factor, true, cols);
            else                    write_row(y, x, mean, scale, beta, factor, false, cols);
        } else {
            if (z->act == ACT_SILU) write_row(y, x, mean, scale, beta, NULL, true, cols);
            else                    write_row(y, x, mean, scale, beta, NULL, false, cols);
        }
    }
}

static void forward(Stream *st, const GroupNormShape *z, const GroupNormForwardArgs *a, Work w) {
    int slab = slab_channels(z), slabs = (z->c + slab - 1) / slab;
    // Keep bits come eight to a draw and to a byte. If a pixel's channels do not fill them, dropout is its own pass.
    bool drop = z->p16 && (a->y || a->mask), fused = drop && z->c % 16 == 0;
    #pragma omp parallel for schedule(static)
    for (int task = 0; task < z->n * slabs; task++) {
        int i = task / slabs, k0 = task % slabs * slab, k1 = (int)cpu_min(z->c, k0 + slab);
        moments(z, a, i, k0, k1);
        for (int k = k0; (a->y || fused) && k < k1;) {
            Strip s = strip_at(z, i, k, k1);
            write_strip(z, a, i, &s, fused);
            k += s.w;
        }
    }
    if (drop && !fused) {
        cpu_dropout_any(a->state, a->sample, z->purpose, z->p16, z->layout, z->n, z->hw, z->c, z->ldy, z->ldy, a->y,
                        a->y, a->mask);
    } else if (a->mask && !drop) {
        cpu_mask_fill(a->mask, (int64_t)z->n * z->hw * z->c);
    }
}

// ---- backward
//   g = dy keep / (1 - p) act'(u);  A, B = sums over pixels of g and g xhat;  with means over the M elements of a group
//   dx = rstd (gamma g - sum(gamma A) / M - xhat sum(gamma B) / M) + add;  dgamma = sum over n of B, dbeta of A
// The first pass leaves gamma g in dx (NULL: not wanted), the second finishes it: the product is rounded as the means'
// terms are, so that a group of one element gets exactly 0. Scratch: A and B, (n,c,2).
static size_t backward_scratch(const GroupNormShape *z) { return (size_t)z->n * (size_t)z->c * 2 * sizeof(float); }

typedef struct { float mean[CPU_WIDE], rstd[CPU_WIDE], gamma[CPU_WIDE], beta[CPU_WIDE]; } Columns;

static void columns_of(Columns *o, const GroupNormShape *z, const GroupNormBackwardArgs *a, int i, const Strip *s) {
    int group = z->c / z->groups;
    for (int j = 0; j < s->w; j++) {
        int64_t g = (int64_t)i * z->groups + (s->k + j) / group;
        o->mean[j] = a->mean[g];
        o->rstd[j] = a->rstd[g];
        o->gamma[j] = a->gamma[s->k + j];
        o->beta[j] = a->beta[s->k + j];
    }
    repeat(o->mean, s);
    repeat(o->rstd, s);
    repeat(o->gamma, s);
    repeat(o->beta, s);
}

// A row of gamma g, and its part of A and B. silu and factor are constants wherever this is inlined.
static inline void gradient_row(float *dx, const float *dy, const float *x, const Columns *o, const float *factor,
                                bool silu, int cols, float *sum, float *sum_xhat) {
    #pragma omp simd
    for (int j = 0; j < cols; j++) {
        float xhat = (x[j] - o->mean[j]) * o->rstd[j], d = dy[j];
        if (factor) d *= factor[j];
        if (silu) d *= cpu_silu_slope(xhat * o->gamma[j] + o->beta[j]);
        dx[j] = o->gamma[j] * d;
        sum[j] += d;
        sum_xhat[j] += d * xhat;
    }
}

// First pass over a strip: gamma g into dx, A and B of its channels into ab (c,2).
static void gradient_strip(const GroupNormShape *z, const GroupNormBackwardArgs *a, int i, const Strip *s, float *ab) {
    Columns o;
    float sum[CPU_WIDE] = { 0 }, sum_xhat[CPU_WIDE] = { 0 }, factor[CPU_WIDE], unwanted[CPU_WIDE];
    columns_of(&o, z, a, i, s);
    for (int p = 0; p < z->hw; p += s->fold) {
        const float *x = (const float *)a->x + s->x + p * s->step_x;
        const float *dy = (const float *)a->dy + s->y + p * s->step_y;
        float *dx = a->dx ? (float *)a->dx + s->x + p * s->step_x : unwanted;
        int cols = row_columns(z, s, p);
        if (a->mask) {
            cpu_mask_factors(a->mask, s->dense + p * s->step, cols, cpu_keep_scale(z->p16), factor);
            if (z->act == ACT_SILU) gradient_row(dx, dy, x, &o, factor, true, cols, sum, sum_xhat);
            else                    gradient_row(dx, dy, x, &o, factor, false, cols, sum, sum_xhat);
        } else {
            if (z->act == ACT_SILU) gradient_row(dx, dy, x, &o, NULL, true, cols, sum, sum_xhat);
            else                    gradient_row(dx, dy, x, &o, NULL, false, cols, sum, sum_xhat);
        }
    }
    cpu_unfold(sum, s->w, s->fold * s->w);
    cpu_unfold(sum_xhat, s->w, s->fold * s->w);
    for (int j = 0; j < s->w; j++) {
        ab[2 * (s->k + j)] = sum[j];
        ab[2 * (s->k + j) + 1] = sum_xhat[j];
    }
}

// Second pass: dx from gamma g (there already, but with sums: of dy) and the group's means of gamma A and gamma B.
static void finish_strip(const GroupNormShape *z, const GroupNormBackwardArgs *a, int i, const Strip *s, int k0,
                         const float *mean_a, const float *mean_b) {
    Columns o;
    float ma[CPU_WIDE], mb[CPU_WIDE];
    int group = z->c / z->groups;
    columns_of(&o, z, a, i, s);
    for (int j = 0; j < s->w; j++) {
        ma[j] = mean_a[(s->k + j - k0) / group];
        mb[j] = mean_b[(s->k + j - k0) / group];
    }
    repeat(ma, s);
    repeat(mb, s);
    for (int p = 0; p < z->hw; p += s->fold) {
        const float *x = (const float *)a->x + s->x + p * s->step_x;
        float *dx = (float *)a->dx + s->x + p * s->step_x;
        const float *dy = (const float *)a->dy + s->y + p * s->step_y;
        const float *add = a->add ? (const float *)a->add + s->dense + p * s->step : NULL;
        int cols = row_columns(z, s, p);
        if (a->sums) {
            #pragma omp simd
            for (int j = 0; j < cols; j++) dx[j] = o.gamma[j] * dy[j];
        }
        #pragma omp simd
        for (int j = 0; j < cols; j++) {
            float xhat = (x[j] - o.mean[j]) * o.rstd[j];
            dx[j] = o.rstd[j] * (dx[j] - ma[j] - xhat * mb[j]);
        }
        if (!add) continue;
        #pragma omp simd
        for (int j = 0; j < cols; j++) dx[j] += add[j];
    }
}

void groupnorm_gradient_means(const GroupNormShape *z, const float *gamma, const float *ab, int g0, int g1,
                              float *mean_a, float *mean_b) {
    int group = z->c / z->groups;
    for (int g = g0; g < g1; g++) {
        double sa = 0, sb = 0;
        for (int k = g * group; k < (g + 1) * group; k++) {
            float term = gamma[k] * ab[2 * k];
            sa += (double)term;
            sb += (double)gamma[k] * (double)ab[2 * k + 1];
        }
        mean_a[g - g0] = (float)(sa / ((double)z->hw * group));
        mean_b[g - g0] = (float)(sb / ((double)z->hw * group));
    }
}

void groupnorm_parameter_gradients(const GroupNormShape *z, const GroupNormBackwardArgs *a, const float *ab) {
    for (int k = 0; k < z->c; k++) {
        double da = 0, db = 0;
        for (int i = 0; i < z->n; i++) {
            da += (double)ab[((int64_t)i * z->c + k) * 2];
            db += (double)ab[((int64_t)i * z->c + k) * 2 + 1];
        }
        if (a->dgamma) a->dgamma[k] = (float)((a->accumulate ? (double)a->dgamma[k] : 0) + db);
        if (a->dbeta) a->dbeta[k] = (float)((a->accumulate ? (double)a->dbeta[k] : 0) + da);
    }
}

static void backward_slab(const GroupNormShape *z, const GroupNormBackwardArgs *a, int i, int k0, int k1, float *own) {
    int group = z->c / z->groups;
    const float *ab = a->sums ? a->sums + (int64_t)i * z->c * 2 : own;
    for (int k = k0; !a->sums && k < k1;) {
        Strip s = strip_at(z, i, k, k1);
        gradient_strip(z, a, i, &s, own);
        k += s.w;
    }
    if (!a->dx) return;
    float mean_a[CPU_WIDE], mean_b[CPU_WIDE];
    groupnorm_gradient_means(z, a->gamma, ab, k0 / group, k1 / group, mean_a, mean_b);
    for (int k = k0; k < k1;) {
        Strip s = strip_at(z, i, k, k1);
        finish_strip(z, a, i, &s, k0, mean_a, mean_b);
        k += s.w;
    }
}

static void backward(Stream *st, const GroupNormShape *z, const GroupNormBackwardArgs *a, Work w) {
    int slab = slab_channels(z), slabs = (z->c + slab - 1) / slab;
    float *own = w.scratch;
    #pragma omp parallel for schedule(static)
    for (int task = 0; task < z->n * slabs; task++) {
        int i = task / slabs, k0 = task % slabs * slab;
        backward_slab(z, a, i, k0, (int)cpu_min(z->c, k0 + slab), own + (int64_t)i * z->c * 2);
    }
    groupnorm_parameter_gradients(z, a, a->sums ? a->sums : own);
}

// ---- registration
IMPLS(groupnorm_cpu,
    IMPL_FULL(groupnorm_forward, "slabs", 100, 0, 0, can, NULL, NULL, forward, NULL),
    IMPL_FULL(groupnorm_backward, "slabs", 100, 0, 0, can, backward_scratch, NULL, backward, NULL))
