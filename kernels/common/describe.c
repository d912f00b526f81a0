// kernels/common/describe.c - the list of descriptions; shapes from text and to text.
#include "kernels/common/describe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const Description describe_conv2d_forward, describe_conv2d_backward_input, describe_conv2d_backward_weight,
    describe_conv2d_up_forward, describe_conv2d_up_backward_input, describe_conv2d_up_backward_weight,
    describe_gemm, describe_bias_backward, describe_groupnorm_forward, describe_groupnorm_backward,
    describe_attention_forward, describe_attention_backward, describe_axpby, describe_multiply, describe_silu_forward,
    describe_silu_backward, describe_fill, describe_add_channel_forward, describe_add_channel_backward,
    describe_relayout, describe_mean_forward, describe_mean_backward, describe_randn, describe_dropout,
    describe_upsample2x_forward, describe_upsample2x_backward, describe_concat_forward, describe_repeat_batch_forward,
    describe_repeat_batch_backward, describe_embed_forward, describe_embed_backward, describe_sinusoid,
    describe_add_noise, describe_q_sample, describe_sampler_step, describe_cbdm_loss, describe_step_advance,
    describe_grad_norm, describe_adam_ema, describe_sgd, describe_relu_forward, describe_relu_backward,
    describe_batchnorm_forward, describe_batchnorm_backward, describe_pool_forward, describe_pool_backward,
    describe_pool_all_forward, describe_pool_all_backward, describe_cross_entropy;

const Description *const descriptions[] = {
    &describe_conv2d_forward, &describe_conv2d_backward_input, &describe_conv2d_backward_weight,
    &describe_conv2d_up_forward, &describe_conv2d_up_backward_input, &describe_conv2d_up_backward_weight,
    &describe_gemm, &describe_bias_backward, &describe_groupnorm_forward, &describe_groupnorm_backward,
    &describe_attention_forward, &describe_attention_backward, &describe_axpby, &describe_multiply,
    &describe_silu_forward, &describe_silu_backward, &describe_fill, &describe_add_channel_forward,
    &describe_add_channel_backward, &describe_relayout, &describe_mean_forward, &describe_mean_backward,
    &describe_randn, &describe_dropout, &describe_upsample2x_forward, &describe_upsample2x_backward,
    &describe_concat_forward, &describe_repeat_batch_forward, &describe_repeat_batch_backward, &describe_embed_forward,
    &describe_embed_backward, &describe_sinusoid, &describe_add_noise, &describe_q_sample, &describe_sampler_step,
    &describe_cbdm_loss, &describe_step_advance, &describe_grad_norm, &describe_adam_ema, &describe_sgd,
    &describe_relu_forward, &describe_relu_backward, &describe_batchnorm_forward, &describe_batchnorm_backward,
    &describe_pool_forward, &describe_pool_backward, &describe_pool_all_forward, &describe_pool_all_backward,
    &describe_cross_entropy, NULL,
};

const Description *description_find(const char *launcher) {
    for (int i = 0; descriptions[i]; i++)
        if (strcmp(descriptions[i]->launcher->name, launcher) == 0) return descriptions[i];
    return NULL;
}

// ---- arrays
size_t array_type_size(ArrayType t) {
    static const size_t size[] = { [TYPE_F32] = 4, [TYPE_BF16] = 2, [TYPE_F64] = 8, [TYPE_I32] = 4, [TYPE_U8] = 1,
                                   [TYPE_U32] = 4, [TYPE_I64] = 8 };
    return size[t];
}

ArrayType array_type(DType dt) {
    static const ArrayType type[] = { [DT_F32] = TYPE_F32, [DT_BF16] = TYPE_BF16, [DT_F64] = TYPE_F64,
                                      [DT_I32] = TYPE_I32, [DT_U8] = TYPE_U8 };
    return type[dt];
}

int64_t array_numel(const Array *a) {
    int64_t n = 1;
    for (int i = 0; i < a->ndim; i++) n *= a->dim[i];
    return n;
}

int64_t array_at(const Array *a, int64_t i) {
    int64_t last = a->dim[a->ndim - 1], run = i / last, per_entry = array_numel(a) / a->dim[0] / last;
    if (a->ndim < 2) return i;
    if (a->batch_pitch) return run / per_entry * a->batch_pitch + run % per_entry * a->ld + i % last;
    return layout_index(a->layout, per_entry, a->ld, run / per_entry, run % per_entry, i % last);
}

int64_t array_span(const Array *a) {
    int64_t n = array_numel(a);
    return n ? array_at(a, n - 1) + 1 : 0;
}

Array *array_add(Arrays *l, const char *name, size_t offset, ArrayUse use, ArrayType type, int ndim,
                 const int64_t *dim) {
    CHECK(l->n < ARRAYS_MAX && ndim >= 1 && ndim <= 4, "array %s: %d dimensions, number %d", name, ndim, l->n);
    Array *a = &l->array[l->n++];
    *a = (Array){ .name = name, .offset = offset, .use = use, .type = type, .ndim = ndim, .ld = dim[ndim - 1] };
    memcpy(a->dim, dim, (size_t)ndim * sizeof *dim);
    return a;
}

Array *array_add_image(Arrays *l, const char *name, size_t offset, ArrayUse use, DType dt, Layout layout, int64_t ld,
                       int ndim, const int64_t *dim) {
    Array *a = array_add(l, name, offset, use, array_type(dt), ndim, dim);
    a->layout = layout;
    a->ld = ld;
    return a;
}

// ---- text
static const char *const dtype_names[] = { [DT_F32] = "f32", [DT_BF16] = "bf16", [DT_F64] = "f64", [DT_I32] = "i32",
                                           [DT_U8] = "u8", NULL };
static const char *const layout_names[] = { [LAYOUT_NHWC] = "nhwc", [LAYOUT_C16] = "c16", NULL };
static const char *const act_names[] = { [ACT_NONE] = "none", [ACT_SILU] = "silu",
                                         [ACT_RELU] = "relu", NULL };
static const char *const use_names[] = { "x2", "bias", "temb", "residual", "shortcut", "norm", "mask", "stats", "sums",
                                         NULL };                               // the CONV_ bits, in their order

static const char *const *names_of(FieldType t) {
    return t == FIELD_DTYPE ? dtype_names : t == FIELD_LAYOUT ? layout_names : t == FIELD_ACT ? act_names : use_names;
}

static int name_index(const char *const *names, const char *word, size_t n) {
    for (int i = 0; names[i]; i++)
        if (strlen(names[i]) == n && strncmp(names[i], word, n) == 0) return i;
    return -1;
}

static bool set_names(const Field *f, void *at, const char *text) {
    const char *const *names = names_of(f->type);
    if (f->type != FIELD_USE) {
        int i = name_index(names, text, strlen(text));
        memcpy(at, &i, sizeof i);
        return i >= 0;
    }
    unsigned bits = 0;
    for (const char *word = text; *word;) {
        size_t n = strcspn(word, "+");
        int i = name_index(names, word, n);
        if (i < 0) return false;
        bits |= 1u << i;
        word += n + (word[n] == '+');
    }
    memcpy(at, &bits, sizeof bits);
    return true;
}

static bool set_field(const Field *f, void *base, const char *text) {
    void *at = (char *)base + f->offset;
    char *end = NULL;
    double number = strtod(text, &end);
    bool whole = end != text && *end == 0 && number == floor(number) && fabs(number) < 0x1p53;
    bool any = end != text && *end == 0;
    switch (f->type) {
    case FIELD_INT:    return whole && fabs(number) <= 0x7FFFFFFF && (*(int *)at = (int)number, true);
    case FIELD_I64:    return whole && (*(int64_t *)at = (int64_t)number, true);
    case FIELD_U32:    return whole && number >= 0 && number < 0x1p32 && (*(uint32_t *)at = (uint32_t)number, true);
    case FIELD_BOOL:   return whole && (number == 0 || number == 1) && (*(bool *)at = number != 0, true);
    case FIELD_FLOAT:  return any && (*(float *)at = (float)number, true);
    case FIELD_DOUBLE: return any && (*(double *)at = number, true);
    default:           return set_names(f, at, text);
    }
}

static const Field *find_field(const Field *f, const char *name) {
    for (; f && f->name; f++)
        if (strcmp(f->name, name) == 0) return f;
    return NULL;
}

const char *description_parse(const Description *d, const char *text, void *shape, void *args, char with[WITH_MAX]) {
    static char message[512];
    memset(shape, 0, d->launcher->shape_bytes);
    memset(args, 0, d->launcher->args_bytes);
    with[0] = 0;
    while (*(text += strspn(text, " ,"))) {
        char word[WITH_MAX];
        size_t n = strcspn(text, " ,");
        snprintf(word, sizeof word, "%.*s", (int)n, text);
        text += n;
        char *value = strchr(word, '=');
        if (!value || n >= sizeof word) {
            snprintf(message, sizeof message, "%s: \"%s\" is not NAME=VALUE", d->launcher->name, word);
            return message;
        }
        *value++ = 0;
        if (strcmp(word, "with") == 0) {
            snprintf(with, WITH_MAX, "%s", value);
            continue;
        }
        const Field *f = find_field(d->shape, word);
        void *base = f ? shape : args;
        if (!f) f = find_field(d->args, word);
        if (f && set_field(f, base, value)) continue;
        int at = snprintf(message, sizeof message, f ? "%s: %s cannot be \"%s\"" : "%s has no %s; it knows",
                          d->launcher->name, word, value);
        const Field *tables[] = { d->shape, d->args };
        for (int i = 0; i < 2 && !f; i++)
            for (const Field *k = tables[i]; k && k->name && at < (int)sizeof message - 40; k++)
                at += snprintf(message + at, sizeof message - (size_t)at, " %s", k->name);
        return message;
    }
    if (d->complete) d->complete(shape);
    return NULL;
}

static int print_names(const Field *f, const void *at, char *text, size_t bytes) {
    unsigned bits;
    memcpy(&bits, at, sizeof bits);
    const char *const *names = names_of(f->type);
    if (f->type != FIELD_USE) return snprintf(text, bytes, "%s", names[bits]);
    int n = 0;
    for (int i = 0; names[i]; i++)
        if (bits >> i & 1) n += snprintf(text + n, bytes - (size_t)n, "%s%s", n ? "+" : "", names[i]);
    return n;
}

static int print_field(const Field *f, const void *base, char *text, size_t bytes) {
    const void *at = (const char *)base + f->offset;
    switch (f->type) {
    case FIELD_INT:    return *(const int *)at ? snprintf(text, bytes, "%d", *(const int *)at) : 0;
    case FIELD_I64:    return *(const int64_t *)at ? snprintf(text, bytes, "%lld", (long long)*(const int64_t *)at) : 0;
    case FIELD_U32:    return *(const uint32_t *)at ? snprintf(text, bytes, "%u", *(const uint32_t *)at) : 0;
    case FIELD_BOOL:   return *(const bool *)at ? snprintf(text, bytes, "1") : 0;
    case FIELD_FLOAT:  return *(const float *)at != 0 ? snprintf(text, bytes, "%.9g", (double)*(const float *)at) : 0;
    case FIELD_DOUBLE: return *(const double *)at != 0 ? snprintf(text, bytes, "%.17g", *(const double *)at) : 0;
    default:           return print_names(f, at, text, bytes);
    }
}

void description_print(const Description *d, const void *shape, const void *args, char *text, size_t bytes) {
    size_t at = 0;
    if (bytes) text[0] = 0;
    for (int i = 0; i < 2; i++)
        for (const Field *f = i ? d->args : d->shape; f && f->name && (i ? args : shape); f++) {
            char value[128] = "";
            if (!print_field(f, i ? args : shape, value, sizeof value) || at >= bytes) continue;
            at += (size_t)snprintf(text + at, bytes - at, "%s%s=%s", at ? " " : "", f->name, value);
        }
}
