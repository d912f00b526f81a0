// core/device.c - the host devices and the null device.
#include "core/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/common/onednn.h"

enum { MAX_PREFERENCES = 32 };
struct Device {
    DeviceKind kind;
    bool       null;
    Layout     layout;
    char       name[32];
    size_t     allocated;
    struct { char *launcher, *impl; } prefer[MAX_PREFERENCES];
    int        n_prefer;
};

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
    free(d);
}

const char *device_name(const Device *d) { return d->name; }

void device_describe(const Device *d, char *text, size_t bytes) {
    char machine[256];
    onednn_info(machine, sizeof machine);
    snprintf(text, bytes, "%s; %s", d->name, machine);
}

DeviceKind  device_kind(const Device *d) { return d->kind; }
int         device_cc(const Device *d) { (void)d; return 0; }
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

// The size stands in the 256 bytes before the block, so that device_free can count.
void *device_alloc(Device *d, size_t bytes) {
    d->allocated += bytes;
    if (d->null) return NULL;
    size_t padded = (bytes + 511) / 256 * 256;
    char *p = bytes > SIZE_MAX - 1024 ? NULL : aligned_alloc(256, padded);
    if (!p) {
        log_info("error: no memory for %.1f MB on device %s, which already holds %.1f MB; try a smaller --batch or "
                 "--micro-batch, and see `--device null` for the plan", (double)bytes / 1e6, d->name,
                 (double)(d->allocated - bytes) / 1e6);
        exit(ERR_MEMORY);
    }
    memset(p, 0, padded);
    memcpy(p, &bytes, sizeof bytes);
    return p + 256;
}

void device_free(Device *d, void *p) {
    if (!p) return;
    size_t bytes;
    memcpy(&bytes, (char *)p - 256, sizeof bytes);
    d->allocated -= bytes;
    free((char *)p - 256);
}

size_t  device_allocated(const Device *d) { return d->allocated; }
void    device_write(Device *d, void *dst, const void *src, size_t bytes) { if (!d->null) memcpy(dst, src, bytes); }
void    device_read(Device *d, void *dst, const void *src, size_t bytes) { if (!d->null) memcpy(dst, src, bytes); }
void    device_sync(Device *d) { (void)d; }
Stream *device_stream(Device *d, int i) {
    CHECK(i == 0, "device %s has one stream", d->name);
    return stream_host();
}
