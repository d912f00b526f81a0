// core/call.c - one launcher call: arrays placed, filled, launched, read back.
#include "core/call.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/common/bf16.h"
#include "kernels/common/rng.h"
#include "kernels/diffuse/diffuse.h"
#include "kernels/optim/optim.h"

enum { LARGE = 1 << 16 };          // elements from which on the host's loops over an array use all cores
struct Call {
    Device            *device;
    const Description *what;
    const Impl        *impl;
    void              *shape, *args;
    Arrays             arrays;
    void              *memory[ARRAYS_MAX];
    void              *scratch;
    size_t             scratch_bytes;
    Work               work;
};

static bool wanted(const char *with, const char *name) {
    if (strcmp(with, "all") == 0) return true;
    for (const char *word = with; *word;) {
        size_t n = strcspn(word, "+");
        if (strlen(name) == n && strncmp(word, name, n) == 0) return true;
        word += n + (word[n] == '+');
    }
    return false;
}

static size_t bytes_of(const Array *a) { return (size_t)array_span(a) * array_type_size(a->type); }

static bool no_implementation(const Call *c, const char *impl, Error *err) {
    char list[256] = "";
    const Launcher *l = c->what->launcher;
    for (const Impl *i = impl_next(l, NULL); i; i = impl_next(l, i)) {
        size_t at = strlen(list);
        if (i->kind == device_kind(c->device))
            snprintf(list + at, sizeof list - at, " %s%s", i->name, l->can(i, c->shape) ? "" : " (refuses this shape)");
    }
    return error_set(err, ERR_USAGE, "%s: device %s has no implementation %s for this shape; it has:%s", l->name,
                     device_name(c->device), impl ? impl : "at all", *list ? list : " none");
}

Call *call_new(Device *d, const Description *what, const void *shape, const void *args, const char *with,
               const char *impl, Error *err) {
    const Launcher *l = what->launcher;
    if (device_real(d) == DT_F64) {
        error_set(err, ERR_USAGE, "%s: device ref64 stores doubles where the arrays are floats: use ref", l->name);
        return NULL;
    }
    Call *c = xcalloc(1, sizeof *c);
    c->device = d;
    c->what = what;
    c->shape = memcpy(xmalloc(l->shape_bytes), shape, l->shape_bytes);
    c->args = memcpy(xmalloc(l->args_bytes), args, l->args_bytes);
    c->impl = impl_find(l, device_kind(d), device_cc(d), shape, impl);
    if (!c->impl) {
        no_implementation(c, impl, err);
        call_free(c);
        return NULL;
    }
    Arrays all = { .n = 0 };
    what->arrays(shape, &all);
    for (int i = 0; i < all.n; i++) {
        if (all.array[i].optional && !wanted(with, all.array[i].name)) continue;
        c->arrays.array[c->arrays.n++] = all.array[i];
    }
    for (int i = 0; i < c->arrays.n; i++) {
        const Array *a = &c->arrays.array[i];
        c->memory[i] = device_alloc(d, bytes_of(a));
        memcpy((char *)c->args + a->offset, &c->memory[i], sizeof(void *));
    }
    c->scratch_bytes = l->scratch(c->impl, shape);
    if (c->scratch_bytes) c->scratch = device_alloc(d, c->scratch_bytes);
    c->work.scratch = c->scratch;
    c->work.state = l->prepare(c->impl, device_stream(d, 0), c->shape, c->args);
    if (impl_is_vendor(c->impl) && c->impl->prepare && !c->work.state) {
        error_set(err, ERR_USAGE, "%s: %s has nothing for this shape on this GPU, or its library does not start",
                  l->name, c->impl->name);
        call_free(c);
        return NULL;
    }
    return c;
}

void call_free(Call *c) {
    if (!c) return;
    device_sync(c->device);
    if (c->impl && c->impl->release) c->impl->release(c->work.state);
    for (int i = 0; i < c->arrays.n; i++) device_free(c->device, c->memory[i]);
    device_free(c->device, c->scratch);
    free(c->shape);
    free(c->args);
    free(c);
}

const Impl  *call_impl(const Call *c) { return c->impl; }
int          call_count(const Call *c) { return c->arrays.n; }
const Array *call_array(const Call *c, int i) { return &c->arrays.array[i]; }

int call_find(const Call *c, const char *name) {
    for (int i = 0; i < c->arrays.n; i++)
        if (strcmp(c->arrays.array[i].name, name) == 0) return i;
    return -1;
}

bool call_reads(const Call *c, int i) {
    const Array *a = &c->arrays.array[i];
    if (a->use != ARRAY_INOUT) return a->use == ARRAY_IN;
    for (const Field *f = c->what->args; f && f->name; f++)
        if (strcmp(f->name, "accumulate") == 0) return *(const bool *)((const char *)c->args + f->offset);
    return true;
}

// ---- numbers in and out of what an array stores
static void put(const Array *a, void *memory, int64_t at, double v) {
    switch (a->type) {
    case TYPE_F32:  ((float *)memory)[at] = (float)v; break;
    case TYPE_BF16: ((uint16_t *)memory)[at] = bf16_from_float((float)v); break;
    case TYPE_F64:  ((double *)memory)[at] = v; break;
    case TYPE_I32:  ((int32_t *)memory)[at] = (int32_t)v; break;
    case TYPE_U8:   ((uint8_t *)memory)[at] = (uint8_t)v; break;
    case TYPE_U32:  ((uint32_t *)memory)[at] = (uint32_t)v; break;
    case TYPE_I64:  ((int64_t *)memory)[at] = (int64_t)v; break;
    }
}

static double get(const Array *a, const void *memory, int64_t at) {
    switch (a->type) {
    case TYPE_F32:  return (double)((const float *)memory)[at];
    case TYPE_BF16: return (double)bf16_to_float(((const uint16_t *)memory)[at]);
    case TYPE_F64:  return ((const double *)memory)[at];
    case TYPE_I32:  return (double)((const int32_t *)memory)[at];
    case TYPE_U8:   return (double)((const uint8_t *)memory)[at];
    case TYPE_U32:  return (double)((const uint32_t *)memory)[at];
    case TYPE_I64:  return (double)((const int64_t *)memory)[at];
    }
    return 0;
}

// Gaps keep all bits set: NaN, and a pattern that no kernel writes by chance.
void call_write(Call *c, int i, const double *values) {
    const Array *a = &c->arrays.array[i];
    size_t bytes = bytes_of(a);
    void *copy = memset(xmalloc(bytes ? bytes : 1), 0xFF, bytes);
    int64_t n = array_numel(a);
#pragma omp parallel for if (n > LARGE)
    for (int64_t j = 0; j < n; j++) put(a, copy, array_at(a, j), values[j]);
    device_write(c->device, c->memory[i], copy, bytes);
    free(copy);
}

// Logical elements that lie beside each other, as far as the array has gaps.
static int64_t run_of(const Array *a) { return a->layout == LAYOUT_C16 ? 16 : a->dim[a->ndim - 1]; }

// The whole array as stored; on the emulator only what was written may be read, hence run by run where there are gaps.
static void *read_back(const Call *c, int i) {
    const Array *a = &c->arrays.array[i];
    size_t size = array_type_size(a->type), bytes = bytes_of(a);
    char *copy = memset(xmalloc(bytes ? bytes : 1), 0xFF, bytes);
    int64_t n = array_numel(a), run = array_span(a) == n ? n : run_of(a);
    for (int64_t j = 0; j < n; j += run) {
        size_t at = run == n ? 0 : (size_t)array_at(a, j) * size;
        device_read(c->device, copy + at, (char *)c->memory[i] + at, (size_t)run * size);
    }
    return copy;
}

void call_read(const Call *c, int i, double *values) {
    const Array *a = &c->arrays.array[i];
    void *copy = read_back(c, i);
    int64_t n = array_numel(a);
#pragma omp parallel for if (n > LARGE)
    for (int64_t j = 0; j < n; j++) values[j] = get(a, copy, array_at(a, j));
    free(copy);
}

bool call_gaps_untouched(const Call *c, Error *err) {
    for (int i = 0; i < c->arrays.n; i++) {
        const Array *a = &c->arrays.array[i];
        int64_t n = array_numel(a), span = array_span(a), wrong = -1;
        if (span == n) continue;
        size_t size = array_type_size(a->type), bytes = bytes_of(a);
        uint8_t *copy = xmalloc(bytes);
        device_read(c->device, copy, c->memory[i], bytes);
        for (int64_t j = 0; j < n; j++) memset(copy + (size_t)array_at(a, j) * size, 0xFF, size);
        for (size_t b = 0; b < bytes && wrong < 0; b++)
            if (copy[b] != 0xFF) wrong = (int64_t)(b / size);
        free(copy);
        if (wrong >= 0)
            return error_set(err, ERR_DIVERGED, "%s wrote into a gap of %s: element %lld in memory", c->impl->name,
                             a->name, (long long)wrong);
    }
    return true;
}

// ---- made-up values
static double made_up(const Array *a, CallFill fill, uint32_t hash, int64_t i) {
    uint32_t key[2] = { hash, 3 };
    Philox r = philox(key, (uint32_t)(i / 4), (uint32_t)(i >> 34), 0, 0);
    float normal[4];
    rng_normal4(r.v, normal);
    double scale = a->scale != 0 ? a->scale : 1, v = (double)normal[i % 4] * scale;
    if (a->fill == FILL_POSITIVE) v = 0.5 + fabs(v);
    v = a->type == TYPE_BF16 ? (double)bf16_to_float(bf16_from_float((float)v)) : (double)(float)v;
    return fill == CALL_ONES ? 1 : fill == CALL_SQUARES ? v * v : v;
}

static void fill_values(Call *c, int i, CallFill fill, uint32_t hash) {
    const Array *a = &c->arrays.array[i];
    int64_t n = array_numel(a);
    double *v = xmalloc((size_t)(n ? n : 1) * sizeof *v);
    const uint32_t key[2] = { hash, 4 };
#pragma omp parallel for if (n > LARGE)
    for (int64_t j = 0; j < n; j++) {
        uint32_t word = philox(key, (uint32_t)j, 0, 0, 0).v[0];
        double alpha_bar = a->dim[0] > 0 ? 1 - (double)(j / 2 + 1) / (double)(a->dim[0] + 1) : 0;
        switch (a->fill) {
        case FILL_INDEX:  v[j] = rng_below(word, (uint32_t)a->range); break;
        case FILL_SAMPLE: v[j] = (double)j; break;
        case FILL_BITS:   v[j] = word & 255; break;
        case FILL_ONES:   v[j] = 1; break;
        case FILL_ZEROS:  v[j] = 0; break;
        case FILL_SPANS:  v[j] = (double)((j / 2 + j % 2) * a->range / a->dim[0] / 16 * 16); break;
        case FILL_ROOT:   v[j] = sqrt(j % 2 ? 1 - alpha_bar : alpha_bar); break;
        default:          v[j] = made_up(a, fill, hash, j); break;
        }
    }
    if (a->fill == FILL_SPANS && n) v[n - 1] = (double)a->range;
    call_write(c, i, v);
    free(v);
}

// from: what is read is copied from there; NULL: made up.
static void fill_arrays(Call *c, const Call *from, CallFill fill, uint32_t seed) {
    static const StepState state = { .seed = { 77, 7 }, .step = 11, .sampler_index = 3, .updates = 5,
                                     .grad_norm = 2.5f };
    static const SamplerCoef coef = { .x = 1.01f, .eps = -0.02f, .prev = 0.3f, .sigma = 0.1f, .guidance = 1.5f,
                                      .x0_x = 1.2f, .x0_eps = -0.6f, .x0_clip = 0 };
    for (int i = 0; i < c->arrays.n; i++) {
        const Array *a = &c->arrays.array[i];
        uint32_t hash = seed;
        for (const char *s = a->name; *s; s++) hash = (hash ^ (uint8_t)*s) * 16777619u;
        bool read = call_reads(c, i);
        if (!read && array_span(a) == array_numel(a)) {
            device_poison(c->device, c->memory[i], bytes_of(a));
        } else if (!read) {
            void *gaps = memset(xmalloc(bytes_of(a)), 0xFF, bytes_of(a));
            device_write(c->device, c->memory[i], gaps, bytes_of(a));
            free(gaps);
        } else if (from) {
            void *copy = xmalloc(bytes_of(a));
            device_read(c->device, copy, from->memory[i], bytes_of(a));
            device_write(c->device, c->memory[i], copy, bytes_of(a));
            free(copy);
        } else if (a->fill == FILL_STATE) {
            device_write(c->device, c->memory[i], &state, sizeof state);
        } else if (a->fill == FILL_COEF) {
            for (int64_t row = 0; row < a->dim[0]; row++)
                device_write(c->device, (SamplerCoef *)c->memory[i] + row, &coef, sizeof coef);
        } else {
            fill_values(c, i, fill, hash);
        }
    }
    if (c->scratch) device_poison(c->device, c->scratch, c->scratch_bytes);
}

void call_fill(Call *c, CallFill fill, uint32_t seed) { fill_arrays(c, NULL, fill, seed); }
void call_fill_like(Call *c, const Call *from) { fill_arrays(c, from, CALL_VALUES, 0); }

void call_run(Call *c) {
    c->what->launcher->run(c->impl, device_stream(c->device, 0), c->shape, c->args, c->work);
}

double call_bytes(const Call *c) {
    double sum = 0;
    for (int i = 0; i < c->arrays.n; i++) {
        const Array *a = &c->arrays.array[i];
        sum += (double)array_numel(a) * (double)array_type_size(a->type) * (a->use == ARRAY_INOUT ? 2 : 1);
    }
    return sum;
}

double call_flops(const Call *c) { return c->what->flops ? c->what->flops(c->shape) : 0; }
