// models/unet.c - the UNet of DDPM (arXiv 2006.11239, appendix B) in the shape that CBDM published, names included.
//
//   head:  conv 3x3
//   down:  per level, res_blocks x [residual block (+ attention)], then a stride-2 convolution, but for the last level
//   mid:   residual block with attention, residual block
//   up:    per level, (res_blocks + 1) x [concat with the skip, residual block (+ attention)], then nearest x2 and conv
//   tail:  norm, SiLU, conv 3x3
// Every residual block adds a projection of temb = MLP(sinusoid(t)) + label embedding (+ augmentation embedding).
#include "models/unet.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BLOCKS = 96 };
typedef struct { Param *weight, *bias; } Layer;
typedef struct { Layer norm, q, k, v, proj; } Attention;
typedef struct {
    bool      is_resample, has_attention;   // a stride-2 convolution, or an upsampling one; else a residual block
    int       c_in, c_out;
    Layer     norm1, conv1, temb, norm2, conv2, shortcut, main;
    Attention attn;
} Block;
struct UNet {
    UNetConfig cfg;
    ParamSet  *params;
    Layer      head, time1, time2, tail_norm, tail_conv;
    Param     *label, *augment;
    Block      down[MAX_BLOCKS], mid[2], up[MAX_BLOCKS];
    int        n_down, n_up;
};
static const double norm_eps = 1e-5;
const char *const attention_choices[] = { "separate", "merged", NULL };

// ---- configuration
bool unet_check(const UNetConfig *c, Error *err) {
    if (c->levels < 1 || c->levels > UNET_MAX_LEVELS)
        return error_set(err, ERR_USAGE, "--ch-mult: %d levels; 1 to %d are possible", c->levels, UNET_MAX_LEVELS);
    if (2 * c->levels * (c->res_blocks + 2) > MAX_BLOCKS)
        return error_set(err, ERR_USAGE, "--res-blocks %d with %d levels is too deep", c->res_blocks, c->levels);
    int step = 1 << (c->levels - 1);
    if (c->image_size < step || c->image_size % step) {
        int below = c->image_size < step ? step : c->image_size / step * step;
        return error_set(err, ERR_USAGE, "--image-size %d cannot be halved %d times: the nearest sizes that can are %d "
                         "and %d", c->image_size, c->levels - 1, below, below + step);
    }
    if (c->channels % 2)
        return error_set(err, ERR_USAGE, "--ch %d: the sinusoids of time need an even number", c->channels);
    for (int i = 0; i < c->levels; i++) {
        int ch = c->channels * c->mult[i];
        if (c->mult[i] < 1 || ch % c->groups)
            return error_set(err, ERR_USAGE, "level %d has %d channels, which --groups %d does not divide", i, ch,
                             c->groups);
        if (ch / c->groups < 2)
            return error_set(err, ERR_USAGE, "level %d has one channel per norm group, which removes the time and "
                             "label embedding entirely: use --groups %d or fewer", i, ch / 2);
    }
    if (c->attn_levels >> c->levels)
        return error_set(err, ERR_USAGE, "--attn names a level beyond the last, which is %d", c->levels - 1);
    return true;
}

// ---- parameters
static Layer layer(UNet *m, const char *prefix, const char *name, int ndim, const int64_t *shape, float gain) {
    char full[160];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    Layer l = { .weight = param_add(m->params, full, ndim, shape, ndim == 1 ? INIT_ONE : INIT_XAVIER_UNIFORM, gain) };
    snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    l.bias = param_add(m->params, full, 1, shape, INIT_ZERO, 0);
    return l;
}
static Layer conv(UNet *m, const char *prefix, const char *name, int c_in, int c_out, int size, float gain) {
    return layer(m, prefix, name, 4, (int64_t[]){ c_out, size, size, c_in }, gain);
}
static Layer norm(UNet *m, const char *prefix, const char *name, int c) {
    return layer(m, prefix, name, 1, (int64_t[]){ c }, 0);
}
static Layer linear(UNet *m, const char *prefix, const char *name, int c_in, int c_out) {
    return layer(m, prefix, name, 2, (int64_t[]){ c_out, c_in }, 1);
}

// The published initialiser visits the attention after setting its output to 1e-5 and so undoes it: gain 1 here.
static void add_res_block(UNet *m, Block *b, const char *list, int i, int c_in, int c_out, bool attn) {
    char p[64];
    snprintf(p, sizeof p, "%s.%d.", list, i);
    *b = (Block){ .c_in = c_in, .c_out = c_out, .has_attention = attn };
    b->norm1 = norm(m, p, "block1.0", c_in);
    b->conv1 = conv(m, p, "block1.2", c_in, c_out, 3, 1);
    b->temb = linear(m, p, "temb_proj.1", 4 * m->cfg.channels, c_out);
    b->norm2 = norm(m, p, "block2.0", c_out);
    b->conv2 = conv(m, p, "block2.3", c_out, c_out, 3, 1e-5f);
    if (c_in != c_out) b->shortcut = conv(m, p, "shortcut", c_in, c_out, 1, 1);
    if (!attn) return;
    b->attn.norm = norm(m, p, "attn.group_norm", c_out);
    b->attn.q = conv(m, p, "attn.proj_q", c_out, c_out, 1, 1);
    b->attn.k = conv(m, p, "attn.proj_k", c_out, c_out, 1, 1);
    if (m->cfg.attention == ATTENTION_MERGED) param_mark_unread(b->attn.k.bias);
    b->attn.v = conv(m, p, "attn.proj_v", c_out, c_out, 1, 1);
    b->attn.proj = conv(m, p, "attn.proj", c_out, c_out, 1, 1);
}

static void add_resample(UNet *m, Block *b, const char *list, int i, int c) {
    char p[64];
    snprintf(p, sizeof p, "%s.%d.", list, i);
    *b = (Block){ .is_resample = true, .c_in = c, .c_out = c };
    b->main = conv(m, p, "main", c, c, 3, 1);
}

UNet *unet_new(const UNetConfig *cfg, Device *d) {
    UNet *m = xcalloc(1, sizeof *m);
    m->cfg = *cfg;
    m->params = param_set_new(d);
    if (cfg->channels % 16) device_set_layout(d, LAYOUT_NHWC);   // blocks of 16 pay where every level has them
    int ch = cfg->channels, wide = 4 * ch, skip[MAX_BLOCKS], n_skip = 0, now = ch;
    m->time1 = linear(m, "time_embedding.timembedding.", "1", ch, wide);
    m->time2 = linear(m, "time_embedding.timembedding.", "3", wide, wide);
    if (cfg->classes) {
        m->label = param_add(m->params, "label_embedding.weight", 2, (int64_t[]){ cfg->classes, wide }, INIT_NORMAL, 1);
        param_mark_label(m->label);
    }
    if (cfg->augment)
        m->augment = param_add(m->params, "augm_embedding.weight", 2, (int64_t[]){ wide, 9 }, INIT_KAIMING_UNIFORM, 1);
    m->head = conv(m, "", "head", cfg->in_channels, ch, 3, 1);
    skip[n_skip++] = ch;
    for (int l = 0; l < cfg->levels; l++) {
        for (int i = 0; i < cfg->res_blocks; i++) {
            add_res_block(m, &m->down[m->n_down], "downblocks", m->n_down, now, ch * cfg->mult[l],
                          cfg->attn_levels >> l & 1);
            m->n_down++;
            skip[n_skip++] = now = ch * cfg->mult[l];
        }
        if (l == cfg->levels - 1) continue;
        add_resample(m, &m->down[m->n_down], "downblocks", m->n_down, now);
        m->n_down++;
        skip[n_skip++] = now;
    }
    add_res_block(m, &m->mid[0], "middleblocks", 0, now, now, true);
    add_res_block(m, &m->mid[1], "middleblocks", 1, now, now, false);
    for (int l = cfg->levels - 1; l >= 0; l--) {
        for (int i = 0; i <= cfg->res_blocks; i++) {
            int c_in = now + skip[--n_skip];
            add_res_block(m, &m->up[m->n_up], "upblocks", m->n_up, c_in, ch * cfg->mult[l], cfg->attn_levels >> l & 1);
            m->n_up++;
            now = ch * cfg->mult[l];
        }
        if (l == 0) continue;
        add_resample(m, &m->up[m->n_up], "upblocks", m->n_up, now);
        m->n_up++;
    }
    m->tail_norm = norm(m, "", "tail.0", now);
    m->tail_conv = conv(m, "", "tail.2", now, cfg->in_channels, 3, 1e-5f);
    return m;
}

void unet_free(UNet *m) {
    if (!m) return;
    param_set_free(m->params);
    free(m);
}

ParamSet         *unet_params(UNet *m) { return m->params; }
const UNetConfig *unet_config(const UNet *m) { return &m->cfg; }

// ---- forward
typedef struct { UNet *m; Graph *g; Tensor *temb, *sample; } Pass;   // temb: (kN,4ch), SiLU applied

static Tensor *apply_norm(Pass *f, const Layer *l, Tensor *x, Act act) {
    return op_groupnorm(f->g, x, param_tensor(l->weight, f->g), param_tensor(l->bias, f->g), f->m->cfg.groups, norm_eps,
                        act);
}
static Tensor *apply_conv(Pass *f, const Layer *l, Tensor *x, int stride, int pad) {
    return op_conv2d(f->g, x, param_operand(l->weight, f->g), param_tensor(l->bias, f->g), stride, pad);
}
static Tensor *apply_linear(Pass *f, const Layer *l, Tensor *x) {
    return op_linear(f->g, x, param_tensor(l->weight, f->g), param_tensor(l->bias, f->g));
}

// A 1x1 convolution with weights that the graph computes, in f32; the filter is rounded once, to how activations lie.
static Tensor *apply_product(Pass *f, Tensor *filter, Tensor *bias, Tensor *x) {
    return op_conv2d(f->g, x, op_cast(f->g, filter, graph_dtype(f->g)), bias, 1, 0);
}

// With rows h_i, q_i = h_i Wq' + bq, k_j = h_j Wk' + bk:
//   q_i . k_j = h_j . (Wk'Wq h_i + Wk' bq) + bk . q_i, whose last term is equal for all j and drops out of the softmax
//   sum_j p_ij (Wv h_j + bv) = Wv (sum_j p_ij h_j) + bv, since sum_j p_ij = 1
// so that the keys and the values are h itself, and two convolutions of C by C channels are left of four.
static Tensor *merged_attention(Pass *f, const Attention *a, Tensor *x) {
    Graph *g = f->g;
    Tensor *wq = param_tensor(a->q.weight, g), *bq = param_tensor(a->q.bias, g), *wk = param_tensor(a->k.weight, g);
    Tensor *wv = param_tensor(a->v.weight, g), *bv = param_tensor(a->v.bias, g);
    Tensor *wo = param_tensor(a->proj.weight, g), *bo = param_tensor(a->proj.bias, g);
    Tensor *h = apply_norm(f, &a->norm, x, ACT_NONE);                              // (N,H,W,C)
    Tensor *to_query = op_matmul(g, wk, true, wq, false, NULL);                    // (C,1,1,C)
    Tensor *q = apply_product(f, to_query, op_matmul(g, bq, false, wk, false, NULL), h);
    Tensor *o = op_attention(g, q, h, h, 1, (float)(1.0 / sqrt((double)x->shape[3])));
    Tensor *to_out = op_matmul(g, wo, false, wv, false, NULL);                     // (C,1,1,C)
    return op_add(g, apply_product(f, to_out, op_matmul(g, bv, false, wo, true, bo), o), x);
}

static Tensor *attention(Pass *f, const Attention *a, Tensor *x) {
    if (f->m->cfg.attention == ATTENTION_MERGED) return merged_attention(f, a, x);
    Tensor *h = apply_norm(f, &a->norm, x, ACT_NONE);                              // (N,H,W,C)
    Tensor *q = apply_conv(f, &a->q, h, 1, 0);
    Tensor *k = apply_conv(f, &a->k, h, 1, 0);
    Tensor *v = apply_conv(f, &a->v, h, 1, 0);
    h = op_attention(f->g, q, k, v, 1, (float)(1.0 / sqrt((double)x->shape[3])));
    return op_add(f->g, apply_conv(f, &a->proj, h, 1, 0), x);
}

// x (N,H,W,C) of the shared stem, or (kN,H,W,C) -> (kN,H,W,K)
static Tensor *res_block(Pass *f, const Block *b, Tensor *x) {
    Graph *g = f->g;
    Tensor *h = apply_norm(f, &b->norm1, x, ACT_SILU);
    h = apply_conv(f, &b->conv1, h, 1, 1);
    h = op_add_channel(g, h, apply_linear(f, &b->temb, f->temb));                  // the batch repeats here, if it does
    h = apply_norm(f, &b->norm2, h, ACT_SILU);
    if (f->sample)
        h = op_dropout(g, h, f->m->cfg.dropout, op_purpose(param_name(b->conv2.weight)), f->sample,
                       param_state(f->m->params));
    h = apply_conv(f, &b->conv2, h, 1, 1);
    Tensor *skip = b->shortcut.weight ? apply_conv(f, &b->shortcut, x, 1, 0) : x;
    skip = op_repeat_batch(g, skip, (int)(h->shape[0] / skip->shape[0]));
    h = op_add(g, h, skip);
    return b->has_attention ? attention(f, &b->attn, h) : h;
}

static Tensor *embed(UNet *m, Graph *g, Tensor *t, Tensor *y, Tensor *augment) {
    Pass f = { .m = m, .g = g };
    Tensor *e = apply_linear(&f, &m->time1, op_sinusoid(g, t, m->cfg.channels));   // (N,4ch)
    e = apply_linear(&f, &m->time2, op_silu(g, e));
    if (augment) e = op_add(g, e, op_linear(g, augment, param_tensor(m->augment, g), NULL));
    if (y) {
        e = op_repeat_batch(g, e, (int)(y->shape[0] / t->shape[0]));               // (kN,4ch)
        e = op_add(g, e, op_embedding(g, param_tensor(m->label, g), y));
    }
    return op_silu(g, e);
}

Tensor *unet_forward(UNet *m, Graph *g, Tensor *x, Tensor *t, Tensor *y, Tensor *augment, Tensor *sample) {
    CHECK(!y || m->label, "an unconditional network takes no labels");
    Pass f = { .m = m, .g = g, .temb = embed(m, g, t, y, augment), .sample = sample };
    int copies = (int)(f.temb->shape[0] / x->shape[0]), n_skip = 0;
    x = op_cast(g, x, graph_dtype(g));
    Tensor *skip[MAX_BLOCKS], *h = apply_conv(&f, &m->head, x, 1, 1);              // (N,H,W,ch)
    skip[n_skip++] = h;
    for (int i = 0; i < m->n_down; i++) {
        const Block *b = &m->down[i];
        h = b->is_resample ? apply_conv(&f, &b->main, h, 2, 1) : res_block(&f, b, h);
        skip[n_skip++] = h;
    }
    for (int i = 0; i < 2; i++) h = res_block(&f, &m->mid[i], h);
    for (int i = 0; i < m->n_up; i++) {
        const Block *b = &m->up[i];
        if (b->is_resample) {
            h = apply_conv(&f, &b->main, op_upsample2x(g, h), 1, 1);
            continue;
        }
        Tensor *s = skip[--n_skip];
        s = op_repeat_batch(g, s, (int)(h->shape[0] / s->shape[0]));               // the stem's, if it ran on N
        h = res_block(&f, b, op_concat_channel(g, h, s));
    }
    h = apply_norm(&f, &m->tail_norm, h, ACT_SILU);
    h = op_conv2d_to(g, h, param_operand(m->tail_conv.weight, g), param_tensor(m->tail_conv.bias, g), 1, 1, DT_F32);
    CHECK(h->shape[0] == copies * x->shape[0], "eps_hat %s", tensor_str(h));
    return op_relayout(g, h, LAYOUT_NHWC);
}
