// core/tensor.c - arrays: sizes, views, copies between host order and what the device stores.
#include "core/tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/common/bf16.h"

void *tensor_data(const Tensor *t) {
    if (!t) return NULL;
    const Tensor *b = t->base ? t->base : t;
    return b->data ? (char *)b->data + (size_t)t->offset * dtype_size(t->dtype) : NULL;
}

int     tensor_ld(const Tensor *t) { return t ? (int)t->ld : 0; }
Tensor *tensor_base(Tensor *t) { return t->base ? t->base : t; }

int64_t tensor_numel(const Tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++) n *= t->shape[i];
    return n;
}

int64_t tensor_pixels(const Tensor *t) {
    int64_t n = 1;
    for (int i = 1; i < t->ndim - 1; i++) n *= t->shape[i];
    return n;
}

size_t tensor_bytes(const Tensor *t) { return (size_t)tensor_numel(t) * dtype_size(t->dtype); }
bool   tensor_is_dense(const Tensor *t) { return t->ld == t->shape[t->ndim - 1]; }
bool   tensor_needs_grad(const Tensor *t) { return t && (t->flags & TENSOR_NEEDS_GRAD); }

bool tensor_same_shape(const Tensor *a, const Tensor *b) {
    return a->ndim == b->ndim && memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof a->shape[0]) == 0;
}

Tensor *tensor_new(Device *d, const char *name, DType dt, int ndim, const int64_t *shape) {
    CHECK(ndim >= 1 && ndim <= TENSOR_MAX_DIMS, "%s: %d dimensions", name, ndim);
    Tensor *t = xcalloc(1, sizeof *t);
    t->name = xstrdup(name);
    t->dtype = dt == DT_F32 ? device_real(d) : dt;
    t->ndim = ndim;
    memcpy(t->shape, shape, (size_t)ndim * sizeof shape[0]);
    t->ld = shape[ndim - 1];
    t->device = d;
    t->flags = TENSOR_PERSISTENT;
    t->data = device_alloc(d, tensor_bytes(t));
    return t;
}

void tensor_free(Tensor *t) {
    if (!t) return;
    device_free(t->device, t->data);
    free((char *)t->name);
    free(t);
}

void tensor_write(Tensor *t, const void *host) {
    CHECK(tensor_is_dense(t) && t->layout == LAYOUT_NHWC, "write of %s", tensor_str(t));
    device_write(t->device, tensor_data(t), host, tensor_bytes(t));
}

void tensor_read(const Tensor *t, void *host) {
    CHECK(tensor_is_dense(t) && t->layout == LAYOUT_NHWC, "read of %s", tensor_str(t));
    device_read(t->device, host, tensor_data(t), tensor_bytes(t));
}

// Elements from the first to the last of t, gaps included.
static size_t span_of(const Tensor *t) {
    int64_t hw = tensor_pixels(t), n = t->ndim > 1 ? t->shape[0] : 1, c = t->shape[t->ndim - 1];
    return (size_t)layout_index(t->layout, hw, t->ld, n - 1, hw - 1, c - 1) + 1;
}

// Copies what t covers between the device and `host`, which has t's gaps; what lies in these is left alone.
static void copy_runs(const Tensor *t, char *host, bool write) {
    int64_t hw = tensor_pixels(t), c = t->shape[t->ndim - 1], n = t->ndim > 1 ? t->shape[0] : 1, ld = t->ld;
    bool blocked = t->layout == LAYOUT_C16;
    int64_t rows = blocked ? n : n * hw, run = blocked ? c * hw : c, step = blocked ? ld * hw : ld;
    if (run == step) run *= rows, rows = 1;
    size_t size = dtype_size(t->dtype), bytes = (size_t)run * size;
    char *data = tensor_data(t);
    for (int64_t r = 0; r < rows; r++) {
        size_t at = (size_t)(r * step) * size;
        if (write) device_write(t->device, data + at, host + at, bytes);
        else device_read(t->device, host + at, data + at, bytes);
    }
}

// Calls for each element the stored index and the logical one.
#define EACH_ELEMENT(t, stored, logical)                                                                          \
    for (int64_t i_ = 0, n_ = (t)->ndim > 1 ? (t)->shape[0] : 1, hw_ = tensor_pixels(t),                          \
         c_ = (t)->shape[(t)->ndim - 1], logical = 0; i_ < n_; i_++)                                              \
        for (int64_t p_ = 0; p_ < hw_; p_++)                                                                      \
            for (int64_t k_ = 0, stored; k_ < c_ && (stored = layout_index((t)->layout, hw_, (t)->ld, i_, p_, k_), 1); \
                 k_++, logical++)

static bool is_plain_f32(const Tensor *t) {
    return t->dtype == DT_F32 && t->layout == LAYOUT_NHWC && tensor_is_dense(t);
}

void tensor_write_f32(Tensor *t, const float *host) {
    if (device_is_null(t->device)) return;
    if (is_plain_f32(t)) {
        tensor_write(t, host);
        return;
    }
    void *copy = xmalloc(span_of(t) * dtype_size(t->dtype));
    EACH_ELEMENT(t, s, i) {
        if (t->dtype == DT_F64) ((double *)copy)[s] = (double)host[i];
        else if (t->dtype == DT_BF16) ((uint16_t *)copy)[s] = bf16_from_float(host[i]);
        else ((float *)copy)[s] = host[i];
    }
    copy_runs(t, copy, true);
    free(copy);
}

void tensor_read_f64(const Tensor *t, double *host) {
    if (device_is_null(t->device)) {
        memset(host, 0, (size_t)tensor_numel(t) * sizeof *host);
        return;
    }
    void *copy = xmalloc(span_of(t) * dtype_size(t->dtype));
    copy_runs(t, copy, false);
    EACH_ELEMENT(t, s, i) {
        if (t->dtype == DT_F64) host[i] = ((double *)copy)[s];
        else if (t->dtype == DT_BF16) host[i] = (double)bf16_to_float(((uint16_t *)copy)[s]);
        else host[i] = (double)((float *)copy)[s];
    }
    free(copy);
}

void tensor_read_f32(const Tensor *t, float *host) {
    if (is_plain_f32(t)) {
        tensor_read(t, host);
        return;
    }
    double *wide = xmalloc((size_t)tensor_numel(t) * sizeof *wide);
    tensor_read_f64(t, wide);
    for (int64_t i = 0; i < tensor_numel(t); i++) host[i] = (float)wide[i];
    free(wide);
}

const char *tensor_str(const Tensor *t) {
    static _Thread_local char ring[8][160];
    static _Thread_local int next;
    char *s = ring[next++ % 8];
    if (!t) return "(absent)";
    int n = snprintf(s, sizeof ring[0], "%s %s (", t->name ? t->name : "view", dtype_name(t->dtype));
    for (int i = 0; i < t->ndim && n < (int)sizeof ring[0] - 24; i++)
        n += snprintf(s + n, sizeof ring[0] - (size_t)n, "%s%lld", i ? "," : "", (long long)t->shape[i]);
    snprintf(s + n, sizeof ring[0] - (size_t)n, ")%s", t->layout == LAYOUT_C16 ? " C16" : "");
    return s;
}
