// kernels/groupnorm/groupnorm_blocks_cpu.c - group normalization in blocks of 16 channels, a vector to a pixel (AVX-512).
//
// The layout is C16. One task takes whole groups and whole blocks of one image, a slab that stays in the second-level
// cache of its core: memory is read once for the passes of mean, variance and y (forward), of gamma g and dx (backward).
// Sums over pixels gather in floats, RUN pixels to a partial sum, in one order whatever the number of threads; sums
// over a group's channels in double.
#include "kernels/common/cpu_avx512.h"
#include "kernels/groupnorm/groupnorm_cpu.h"

#ifdef VEC_INLINE
enum {
    VEC = 16,
    SLAB_FLOATS = 1 << 16,    // of x: with y, or dy and dx, beside it within the second-level cache of a core
    FEW_TASKS = 64,           // below that, slabs are cut down to single units
    RUN = 128,                // pixels of a partial sum
    LANES = 8,                // sums that a vector's pixels are dealt to, so that additions need not wait
};

static bool can(const GroupNormShape *z) { return z->dtype == DT_F32 && z->layout == LAYOUT_C16; }

static int slab_channels(const GroupNormShape *z) {
    int group = z->c / z->groups, unit = groupnorm_unit(z);
    int64_t fit = cpu_min(cpu_min(SLAB_FLOATS / z->hw, z->c), (int64_t)CPU_WIDE * group);   // at most CPU_WIDE groups
    if (z->n * (z->c / unit) < FEW_TASKS) fit = unit;
    return fit < unit ? unit : (int)(fit / unit) * unit;
}

// The values of the groups that channels k..k+15 belong to; value[0] is that of channel k0's group, its first one.
static inline Vec spread(const float *value, int group, int k0, int k) {
    float lane[VEC];
    int g = (k - k0) / group, left = group - (k - k0) % group;
    for (int j = 0; j < VEC; j++) {
        lane[j] = value[g];
        if (--left == 0) {
            g++;
            left = group;
        }
    }
    return vec_load(lane);
}

// ---- forward
// Sums over the pixels of a block: of x, or of (x - mean)^2.
VEC_INLINE Vec pixel_sums(const float *x, int hw, bool squares, Vec mean) {
    Vec total = vec_fill(0);
    for (int p0 = 0; p0 < hw; p0 += RUN) {
        int end = (int)cpu_min(hw, p0 + RUN), p = p0;
        Vec part[LANES];
        for (int l = 0; l < LANES; l++) part[l] = vec_fill(0);
        for (; p + LANES <= end; p += LANES) {
            #pragma GCC unroll 8
            for (int l = 0; l < LANES; l++) {
                Vec v = vec_load(x + (p + l) * VEC), d = vec_sub(v, mean);
                part[l] = squares ? vec_fma(d, d, part[l]) : vec_add(part[l], v);
            }
        }
        for (; p < end; p++) {
            Vec v = vec_load(x + p * VEC), d = vec_sub(v, mean);
            part[0] = squares ? vec_fma(d, d, part[0]) : vec_add(part[0], v);
        }
        for (int l = LANES / 2; l > 0; l /= 2) {
            for (int m = 0; m < l; m++) part[m] = vec_add(part[m], part[m + l]);
        }
        total = vec_add(total, part[0]);
    }
    return total;
}

// Sums over pixels and channels of each group of a slab: of x, or of (x - mean)^2 if mean (groups of it) is given.
static void group_sums(const GroupNormShape *z, const float *x, int i, int k0, int k1, const float *mean, double *sum) {
    int group = z->c / z->groups, g = 0, left = group;
    sum[0] = 0;
    for (int k = k0; k < k1; k += VEC) {
        const float *block = x + layout_index(LAYOUT_C16, z->hw, z->ldx, i, 0, k);
        float part[VEC];
        vec_store(part, mean ? pixel_sums(block, z->hw, true, spread(mean, group, k0, k))
                             : pixel_sums(block, z->hw, false, vec_fill(0)));
        for (int j = 0; j < VEC; j++) {
            if (left == 0) {
                sum[++g] = 0;
                left = group;
            }
            sum[g] += (double)part[j];
            left--;
        }
    }
}

static void moments(const GroupNormShape *z, const GroupNormForwardArgs *a, int i, int k0, int k1) {
    int group = z->c / z->groups, g0 = k0 / group, g1 = k1 / group;
    double mean[CPU_WIDE], square[CPU_WIDE], size = (double)z->hw * group;
    float *m = a->mean + (int64_t)i * z->groups + g0;
    if (z->stats) {
        groupnorm_sums_given(z, a->stats + (int64_t)i * z->c * 2, g0, g1, mean, square);
        for (int g = 0; g < g1 - g0; g++) m[g] = (float)mean[g];
    } else {
        group_sums(z, a->x, i, k0, k1, NULL, mean);
        for (int g = 0; g < g1 - g0; g++) m[g] = (float)(mean[g] / size);
        group_sums(z, a->x, i, k0, k1, m, square);
    }
    groupnorm_finish_moments(z, a, i, g0, g1, square);
}

typedef struct { Vec mean, scale, beta; } Map;    // u = (x - mean) * scale + beta

VEC_INLINE Vec apply(const Map *m, const float *x, bool silu) {
    Vec u = vec_fma(vec_sub(vec_load(x), m->mean), m->scale, m->beta);
    return silu ? vec_silu(u) : u;
}
VEC_INLINE void write_block(float *y, const float *x, const Map *m, bool silu, int hw) {
    for (int p = 0; p < hw; p++) vec_store(y + p * VEC, apply(m, x + p * VEC, silu));
}
// The same with dropout. first: the draws' block of the first pixel; step: from pixel to pixel. y, mask: NULL if unwanted.
VEC_INLINE void drop_block(float *y, uint8_t *mask, const float *x, const Map *m, bool silu, int hw, const CpuDraw *d,
                           uint32_t first, uint32_t step) {
    Vec scale = vec_fill(cpu_keep_scale(d->p16));
    for (int p = 0; p < hw; p += 4) {
        int pixels = (int)cpu_min(4, hw - p);
        uint64_t keep = vec_keep_bits(d, first + (uint32_t)p * step, step);
        if (mask) memcpy(mask + p * (VEC / 8), &keep, (size_t)pixels * (VEC / 8));
        for (int q = 0; y && q < pixels; q++, keep >>= VEC) {
            vec_store(y + (p + q) * VEC, _mm512_maskz_mul_ps((__mmask16)keep, apply(m, x + (p + q) * VEC, silu), scale));
        }
    }
}

static void forward_block(const GroupNormShape *z, const GroupNormForwardArgs *a, int i, int k0, int k, bool drop) {
    int group = z->c / z->groups;
    int64_t groups = (int64_t)i * z->groups + k0 / group, dense = layout_index(LAYOUT_C16, z->hw, z->c, i, 0, k);
    const float *x = (const float *)a->x + layout_index(LAYOUT_C16, z->hw, z->ldx, i, 0, k);
    float *y = a->y ? (float *)a->y + layout_index(LAYOUT_C16, z->hw, z->ldy, i, 0, k) : NULL;
    Map m = { .mean = spread(a->mean + groups, group, k0, k), .beta = vec_load(a->beta + k) };
    m.scale = vec_mul(spread(a->rstd + groups, group, k0, k), vec_load(a->gamma + k));
    if (drop) {
        CpuDraw d = cpu_draw(a->state, a->sample[i], z->purpose, z->p16);
        uint8_t *mask = a->mask ? a->mask + dense / 8 : NULL;
        if (z->act == ACT_SILU) drop_block(y, mask, x, &m, true, z->hw, &d, (uint32_t)k / 8, (uint32_t)z->c / 8);
        else                    drop_block(y, mask, x, &m, false, z->hw, &d, (uint32_t)k / 8, (uint32_t)z->c / 8);
    } else if (z->act == ACT_SILU) {
        write_block(y, x, &m, true, z->hw);
    } else {
        write_block(y, x, &m, false, z->hw);
    }
}

static void forward(Stream *st, const GroupNormShape *z, const GroupNormForwardArgs *a, Work w) {
    int slab = slab_channels(z), slabs = (z->c + slab - 1) / slab;
    bool drop = z->p16 && (a->y || a->mask);
    #pragma omp parallel for schedule(static)
    for (int task = 0; task < z->n * slabs; task++) {
        int i = task / slabs, k0 = task % slabs * slab, k1 = (int)cpu_min(z->c, k0 + slab);
        moments(z, a, i, k0, k1);
        for (int k = k0; (a->y || drop) && k < k1; k += VEC) forward_block(z, a, i, k0, k, drop);
    }
    if (a->mask && !drop) cpu_mask_fill(a->mask, (int64_t)z->n * z->hw * z->c);
}

// ---- backward
//   g = dy keep / (1 - p) act'(u);  A, B = sums over pixels of g and g xhat;  with means over the elements of a group
//   dx = rstd (gamma g - mean(gamma g) - xhat mean(gamma g xhat)) + add
// The first pass leaves gamma g in dx, the second finishes it: the product is rounded as the means' terms are, so that
// a group of one element gets exactly 0. Scratch: A and B, (n,c,2).
static size_t backward_scratch(const GroupNormShape *z) { return (size_t)z->n * (size_t)z->c * 2 * sizeof(float); }

typedef struct { Vec mean, rstd, gamma, beta; } Columns;

static Columns columns_at(const GroupNormShape *z, const GroupNormBackwardArgs *a, int i, int k0, int k) {
    int group = z->c / z->groups;
    int64_t groups = (int64_t)i * z->groups + k0 / group;
    return (Columns){ spread(a->mean + groups, group, k0, k), spread(a->rstd + groups, group, k0, k),
                      vec_load(a->gamma + k), vec_load(a->beta + k) };
}

// gamma g into dx (NULL: not wanted), A and B of the block into ab (16,2).
VEC_INLINE void gradient_block(float *dx, const float *dy, const float *x, const uint8_t *mask, float keep_scale,
                               const Columns *o, bool silu, bool drop, int hw, float *ab) {
    Vec a = vec_fill(0), b = vec_fill(0), scale = vec_fill(keep_scale);
    for (int p0 = 0; p0 < hw; p0 += RUN) {
        Vec run_a = vec_fill(0), run_b = vec_fill(0);
        for (int p = p0; p < cpu_min(hw, p0 + RUN); p++) {
            Vec xhat = vec_mul(vec_sub(vec_load(x + p * VEC), o->mean), o->rstd), g = vec_load(dy + p * VEC);
            if (drop) {
                uint16_t keep;
                memcpy(&keep, mask + p * (VEC / 8), sizeof keep);
                g = _mm512_maskz_mul_ps(keep, g, scale);
            }
            if (silu) g = vec_mul(g, vec_silu_slope(vec_fma(xhat, o->gamma, o->beta)));
            if (dx) vec_store(dx + p * VEC, vec_mul(o->gamma, g));
            run_a = vec_add(run_a, g);
            run_b = vec_fma(g, xhat, run_b);
        }
        a = vec_add(a, run_a);
        b = vec_add(b, run_b);
    }
    float sum[2][VEC];
    vec_store(sum[0], a);
    vec_store(sum[1], b);
    for (int j = 0; j < VEC; j++) {
        ab[2 * j] = sum[0][j];
        ab[2 * j + 1] = sum[1][j];
    }
}

static void backward_sums(const GroupNormShape *z, const GroupNormBackwardArgs *a, int i, int k0, int k, float *ab) {
    int64_t at_x = layout_index(LAYOUT_C16, z->hw, z->ldx, i, 0, k);
    const float *x = (const float *)a->x + at_x;
    const float *dy = (const float *)a->dy + layout_index(LAYOUT_C16, z->hw, z->ldy, i, 0, k);
    const uint8_t *mask = a->mask ? a->mask + layout_index(LAYOUT_C16, z->hw, z->c, i, 0, k) / 8 : NULL;
    float *dx = a->dx ? (float *)a->dx + at_x : NULL, scale = cpu_keep_scale(z->p16);
    Columns o = columns_at(z, a, i, k0, k);
    if (z->act == ACT_SILU) {
        if (mask) gradient_block(dx, dy, x, mask, scale, &o, true, true, z->hw, ab + 2 * k);
        else      gradient_block(dx, dy, x, mask, scale, &o, true, false, z->hw, ab + 2 * k);
    } else {
        if (mask) gradient_block(dx, dy, x, mask, scale, &o, false, true, z->hw, ab + 2 * k);
        else      gradient_block(dx, dy, x, mask, scale, &o, false, false, z->hw, ab + 2 * k);
    }
}

// dx from gamma g (there already, but with sums: of dy) and the group's means of gamma g and gamma g xhat.
VEC_INLINE void finish_block(float *dx, const float *dy, const float *x, const float *add, const Columns *o, Vec mean_a,
                             Vec mean_b, int hw) {
    for (int p = 0; p < hw; p++) {
        Vec xhat = vec_mul(vec_sub(vec_load(x + p * VEC), o->mean), o->rstd);
        Vec g = dy ? vec_mul(o->gamma, vec_load(dy + p * VEC)) : vec_load(dx + p * VEC);
        Vec d = vec_mul(o->rstd, vec_fnma(xhat, mean_b, vec_sub(g, mean_a)));
        vec_store(dx + p * VEC, add ? vec_add(d, vec_load(add + p * VEC)) : d);
    }
}

static void backward_slab(const GroupNormShape *z, const GroupNormBackwardArgs *a, int i, int k0, int k1, float *own) {
    int group = z->c / z->groups;
    const float *ab = a->sums ? a->sums + (int64_t)i * z->c * 2 : own;
    for (int k = k0; !a->sums && k < k1; k += VEC) backward_sums(z, a, i, k0, k, own);
    if (!a->dx) return;
    float mean_a[CPU_WIDE], mean_b[CPU_WIDE];
    groupnorm_gradient_means(z, a->gamma, ab, k0 / group, k1 / group, mean_a, mean_b);
    for (int k = k0; k < k1; k += VEC) {
        int64_t at_x = layout_index(LAYOUT_C16, z->hw, z->ldx, i, 0, k);
        const float *x = (const float *)a->x + at_x;
        const float *dy = (const float *)a->dy + layout_index(LAYOUT_C16, z->hw, z->ldy, i, 0, k);
        const float *add = a->add ? (const float *)a->add + layout_index(LAYOUT_C16, z->hw, z->c, i, 0, k) : NULL;
        Columns o = columns_at(z, a, i, k0, k);
        finish_block((float *)a->dx + at_x, a->sums ? dy : NULL, x, add, &o, spread(mean_a, group, k0, k),
                     spread(mean_b, group, k0, k), z->hw);
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
#else
static bool   can(const GroupNormShape *z) { return false; }
static size_t backward_scratch(const GroupNormShape *z) { return 0; }
static void   forward(Stream *st, const GroupNormShape *z, const GroupNormForwardArgs *a, Work w) {}
static void   backward(Stream *st, const GroupNormShape *z, const GroupNormBackwardArgs *a, Work w) {}
#endif

// ---- registration
IMPLS(groupnorm_blocks_cpu,
    IMPL_FULL(groupnorm_forward, "blocks", 50, 0, 0, can, NULL, NULL, forward, NULL),
    IMPL_FULL(groupnorm_backward, "blocks", 50, 0, 0, can, backward_scratch, NULL, backward, NULL))
