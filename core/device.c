// core/device.c - the host devices and the null device.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/device_impl.h"
#include "kernels/common/onednn.h"

static const struct { const char *name; DeviceKind kind; } kinds[] = {
    { "ref", DEV_REF }, { "ref32", DEV_REF32 }, { "ref64", DEV_REF64 }, { "cpu", DEV_CPU }, { "auto", DEV_CPU },
};

// Blocks of 16 channels are what oneDNN's AVX-512 convolutions read and write; narrower machines keep NHWC.
static bool has_avx512(void) {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
#else
    return false;
#endif
}

#ifdef CBDM_EMU
// "emu", "emu:80", "emu:90": the compute capability whose kernels are chosen.
static bool emu_cc(const char *kind, int *cc) {
    *cc = strcmp(kind, "emu:90") == 0 ? 90 : strcmp(kind, "emu") == 0 || strcmp(kind, "emu:80") == 0 ? 80 : 0;
    return *cc > 0;
}
#endif

Device *device_open(const char *spec, Error *err) {
    const char *kind = spec;
    bool null = strncmp(spec, "null", 4) == 0 && (spec[4] == 0 || spec[4] == ':');
    if (null) kind = spec[4] == ':' ? spec + 5 : "cpu";
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kind, kinds[i].name) != 0) continue;
        Device *d = xcalloc(1, sizeof *d);
        d->kind = kinds[i].kind;
        d->null = null;
        if (d->kind == DEV_CPU) {
            onednn_init();
            d->layout = has_avx512() ? LAYOUT_C16 : LAYOUT_NHWC;
            kind = "cpu";
        }
        snprintf(d->name, sizeof d->name, "%s%s", null ? "null:" : "", kind);
        return d;
    }
#ifdef CBDM_EMU
    int cc = 0;
    if (emu_cc(kind, &cc)) {
        Device *d = xcalloc(1, sizeof *d);
        d->kind = DEV_EMU;
        d->null = null;
        d->cc = cc;
        snprintf(d->name, sizeof d->name, "%s%s", null ? "null:" : "", kind);
        if (!null) device_emu_open(d);
        return d;
    }
#endif
    if (strncmp(kind, "cuda", 4) == 0 || strncmp(kind, "emu", 3) == 0)
        error_set(err, ERR_USAGE, "device %s: this build has no CUDA kernels; use --device cpu", spec);
    else
        error_set(err, ERR_USAGE, "device %s is unknown: use auto, cpu, ref, ref32, ref64, null or null:KIND", spec);
    return NULL;
}

void device_close(Device *d) {
    if (!d) return;
    CHECK(d->null || d->allocated == 0, "device %s closed with %zu bytes still allocated", d->name, d->allocated);
    for (int i = 0; i < d->n_prefer; i++) {
        free(d->prefer[i].launcher);
        free(d->prefer[i].impl);
    }
    if (d->memory) d->memory->close(d);
    free(d->block);
    free(d);
}

const char *device_name(const Device *d) { return d->name; }

void device_describe(const Device *d, char *text, size_t bytes) {
    char machine[256];
    onednn_info(machine, sizeof machine);
    snprintf(text, bytes, "%s; %s", d->name, machine);
}

DeviceKind  device_kind(const Device *d) { return d->kind; }
int         device_cc(const Device *d) { return d->cc; }
bool        device_is_null(const Device *d) { return d->null; }
DType       device_real(const Device *d) { return d->kind == DEV_REF64 ? DT_F64 : DT_F32; }
Layout      device_layout(const Device *d) { return d->layout; }

void device_set_layout(Device *d, Layout l) {
    CHECK(l == LAYOUT_NHWC || d->kind == DEV_CPU, "device %s has no blocked layout", d->name);
    d->layout = l;
}

void device_prefer(Device *d, const char *launcher, const char *impl) {
    for (int i = 0; i < d->n_prefer; i++) {
        if (strcmp(d->prefer[i].launcher, launcher) != 0) continue;
        free(d->prefer[i].impl);
        d->prefer[i].impl = impl ? xstrdup(impl) : NULL;
        return;
    }
    CHECK(d->n_prefer < MAX_PREFERENCES, "too many implementation preferences");
    d->prefer[d->n_prefer].launcher = xstrdup(launcher);
    d->prefer[d->n_prefer++].impl = impl ? xstrdup(impl) : NULL;
}

const char *device_preferred(const Device *d, const char *launcher) {
    for (int i = 0; i < d->n_prefer; i++)
        if (strcmp(d->prefer[i].launcher, launcher) == 0) return d->prefer[i].impl;
    return NULL;
}

static void *host_alloc(size_t bytes) {
    size_t padded = (bytes + 255) / 256 * 256;
    void *p = aligned_alloc(256, padded ? padded : 256);
    return p ? memset(p, 0, padded) : NULL;
}

void *device_alloc(Device *d, size_t bytes) {
    d->allocated += bytes;
    if (d->null) return NULL;
    void *p = bytes > SIZE_MAX / 2 ? NULL : d->memory ? d->memory->alloc(d, bytes) : host_alloc(bytes);
    if (!p) {
        log_info("error: no memory for %.1f MB on device %s, which already holds %.1f MB; try a smaller --batch or "
                 "--micro-batch, and see `--device null` for the plan", (double)bytes / 1e6, d->name,
                 (double)(d->allocated - bytes) / 1e6);
        exit(ERR_MEMORY);
    }
    d->block = xrealloc(d->block, (size_t)(d->n_blocks + 1) * sizeof *d->block);
    d->block[d->n_blocks++] = (DeviceBlock){ p, bytes };
    return p;
}

void device_free(Device *d, void *p) {
    if (!p) return;
    int i = 0;
    while (i < d->n_blocks && d->block[i].data != p) i++;
    CHECK(i < d->n_blocks, "device %s frees what it never gave", d->name);
    d->allocated -= d->block[i].bytes;
    d->block[i] = d->block[--d->n_blocks];
    if (d->memory) d->memory->free(d, p);
    else free(p);
}

size_t device_allocated(const Device *d) { return d->allocated; }

void device_write(Device *d, void *dst, const void *src, size_t bytes) {
    if (d->null || !bytes) return;
    if (d->memory) d->memory->write(d, dst, src, bytes);
    else memcpy(dst, src, bytes);
}

void device_read(Device *d, void *dst, const void *src, size_t bytes) {
    if (d->null || !bytes) return;
    if (d->memory) d->memory->read(d, dst, src, bytes);
    else memcpy(dst, src, bytes);
}

void device_poison(Device *d, void *p, size_t bytes) {
    if (d->null || !bytes) return;
    if (d->memory) d->memory->poison(d, p, bytes);
    else memset(p, 0xFF, bytes);
}

bool device_has_windows(const Device *d) { return d->memory && d->memory->windows; }

void device_windows(Device *d, const DeviceWindow *w, int n) {
    if (device_has_windows(d)) d->memory->windows(d, w, n);
}

void device_sync(Device *d) { (void)d; }

Stream *device_stream(Device *d, int i) {
    if (d->memory) return d->memory->stream(d, i);
    CHECK(i == 0, "device %s has one stream", d->name);
    return stream_host();
}
