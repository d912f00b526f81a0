// core/device.c - devices by name, the host's devices and the null device; a GPU's calls go on to its runtime.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/device_impl.h"
#include "kernels/common/kernel.h"
#include "kernels/common/onednn.h"

// ---- names
// Blocks of 16 channels are what oneDNN's AVX-512 convolutions read and write; narrower machines keep NHWC.
static bool has_avx512(void) {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
#else
    return false;
#endif
}

static const GpuRuntime *runtime_of(DeviceKind kind) {
#ifdef CBDM_CUDA
    if (kind == DEV_CUDA) return &gpu_runtime_CUDA;
#endif
#ifdef CBDM_EMU
    if (kind == DEV_EMU) return &gpu_runtime_EMU;
#endif
    (void)kind;
    return NULL;
}

// "cuda:1" is kind "cuda" with number 1; -1: no number.
typedef struct { DeviceKind kind; bool null; int number; char name[32]; } Spec;

static bool parse_spec(const char *text, Spec *s) {
    static const struct { const char *name; DeviceKind kind; bool numbered; } kinds[] = {
        { "ref", DEV_REF, false }, { "ref32", DEV_REF32, false }, { "ref64", DEV_REF64, false },
        { "cpu", DEV_CPU, false }, { "auto", DEV_CPU, false }, { "cuda", DEV_CUDA, true }, { "emu", DEV_EMU, true },
    };
    *s = (Spec){ .null = strncmp(text, "null", 4) == 0 && (text[4] == 0 || text[4] == ':'), .number = -1 };
    const char *kind = !s->null ? text : text[4] ? text + 5 : "cpu";
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        size_t n = strlen(kinds[i].name);
        if (strncmp(kind, kinds[i].name, n) != 0) continue;
        if (kinds[i].numbered && kind[n] == ':') {
            size_t digits = strspn(kind + n + 1, "0123456789");
            if (!digits || digits > 3 || kind[n + 1 + digits]) continue;
            s->number = atoi(kind + n + 1);
        } else if (kind[n]) {
            continue;
        }
        s->kind = kinds[i].kind;
        snprintf(s->name, sizeof s->name, "%s%s", s->null ? "null:" : "", strcmp(kind, "auto") == 0 ? "cpu" : kind);
        return true;
    }
    return false;
}

bool architectures_fit(const char *list, int cc) {
    while (*list) {
        char *suffix;
        int arch = (int)strtol(list, &suffix, 10);
        size_t length = strcspn(list, ",");
        bool exact = *suffix == 'a', machine_code = !memmem(list, length, "-virtual", 8),
             portable = !memmem(list, length, "-real", 5);
        if (exact ? cc == arch : (machine_code && cc / 10 == arch / 10 && cc >= arch) || (portable && cc >= arch))
            return true;
        list += length + (list[length] == ',');
    }
    return false;
}

// ---- opening and closing
static Device *open_spec(const Spec *s, Refusal *no) {
    const GpuRuntime *gpu = runtime_of(s->kind);
    if ((s->kind == DEV_CUDA || s->kind == DEV_EMU) && !gpu) {
        snprintf(no->why, sizeof no->why, s->kind == DEV_CUDA ? "this program is built without CUDA kernels"
                                                              : "this program is built without the emulated GPU");
        snprintf(no->mend, sizeof no->mend, s->kind == DEV_CUDA
                 ? "build it where nvcc is, with -DCBDM_CUDA=ON" : "build it with -DCBDM_EMU=ON and a C++ compiler");
        return NULL;
    }
    Device *d = xcalloc(1, sizeof *d);
    d->kind = s->kind;
    d->null = s->null;
    memcpy(d->name, s->name, sizeof d->name);
    if (d->kind == DEV_CPU) {
        onednn_init();
        d->layout = has_avx512() ? LAYOUT_C16 : LAYOUT_NHWC;
    }
    if (gpu && d->null) d->cc = s->number >= 0 ? s->number : gpu->plan_cc();
    if (gpu && !d->null) {
        if (!gpu->open(d, s->number, no)) {
            free(d);
            return NULL;
        }
        d->gpu = gpu;
    } else if (!d->null) {
        d->reads = xmalloc(sizeof(char[DEVICE_READS][DEVICE_READ_BYTES]));
    }
    return d;
}

Device *device_open(const char *spec, Error *err) {
    Spec s, cuda;
    Refusal no;
    if (!parse_spec(spec, &s)) {
        error_set(err, ERR_USAGE, "device %s is unknown: use auto, cpu, cuda, cuda:N, emu, emu:90, ref, ref32, ref64, "
                  "null or null:KIND", spec);
        return NULL;
    }
    if (strcmp(spec, "auto") == 0) {
        Device *gpu = parse_spec("cuda", &cuda) ? open_spec(&cuda, &no) : NULL;
        char what[400];
        if (gpu) device_describe(gpu, what, sizeof what);
        if (gpu) log_info("device auto is %s", what);
        else log_info("device auto is cpu: %s", no.why);
        if (gpu) return gpu;
    }
    Device *d = open_spec(&s, &no);
    if (!d) error_set(err, ERR_USAGE, "device %s: %s; %s, or use --device cpu", spec, no.why, no.mend);
    return d;
}

void device_close(Device *d) {
    if (!d) return;
    CHECK(d->null || d->allocated == 0, "device %s closed with %zu bytes still allocated", d->name, d->allocated);
    for (int i = 0; i < d->n_prefer; i++) {
        free(d->prefer[i].launcher);
        free(d->prefer[i].impl);
    }
    if (d->gpu) d->gpu->close(d);
    else free(d->reads);
    free(d->block);
    free(d->mark);
    free(d);
}

const char *device_name(const Device *d) { return d->name; }

void device_describe(const Device *d, char *text, size_t bytes) {
    char machine[256];
    if (d->gpu) d->gpu->describe(d, machine, sizeof machine);
    else onednn_info(machine, sizeof machine);
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

static bool prefer_vendor(Device *d, Error *err) {
    int n = 0;
    for (int i = 0; impl_lists[i]; i++)
        for (size_t j = 0; j < impl_lists[i]->count; j++) {
            const Impl *m = &impl_lists[i]->impl[j];
            if (m->kind != d->kind || !impl_is_vendor(m)) continue;
            device_prefer(d, m->launcher, IMPL_VENDOR);
            n++;
        }
    return n || error_set(err, ERR_USAGE, "--kernels vendor: device %s has none; they are for cuda, in a build that "
                          "finds cuDNN and cuBLASLt", d->name);
}

static bool prefer_one(Device *d, const char *launcher, const char *name, Error *err) {
    char list[300] = "";
    bool known = false;
    for (int i = 0; impl_lists[i]; i++)
        for (size_t j = 0; j < impl_lists[i]->count; j++) {
            const Impl *m = &impl_lists[i]->impl[j];
            if (strcmp(m->launcher, launcher) != 0) continue;
            known = true;
            if (m->kind != d->kind) continue;
            if (strcmp(m->name, name) == 0) {
                device_prefer(d, launcher, name);
                return true;
            }
            size_t at = strlen(list);
            snprintf(list + at, sizeof list - at, " %s", m->name);
        }
    if (!known)
        return error_set(err, ERR_USAGE, "--kernel %s=%s: there is no launcher %s; cbdm op --help names them", launcher,
                         name, launcher);
    return error_set(err, ERR_USAGE, "--kernel %s=%s: device %s has no such implementation; it has:%s", launcher, name,
                     d->name, *list ? list : " none");
}

bool device_prefer_list(Device *d, const char *set, const char *list, Error *err) {
    if (*set && strcmp(set, "vendor") != 0)
        return error_set(err, ERR_USAGE, "--kernels %s: there is only one set, vendor; name single implementations by "
                         "--kernel LAUNCHER=IMPLEMENTATION", set);
    bool ok = !*set || prefer_vendor(d, err);
    char *copy = xstrdup(list), *rest = copy;
    for (char *item; ok && *list && (item = strsep(&rest, ","));) {
        char *name = strchr(item, '=');
        if (name) *name++ = 0;
        ok = name ? prefer_one(d, item, name, err)
                  : error_set(err, ERR_USAGE, "--kernel %s: write LAUNCHER=IMPLEMENTATION", item);
    }
    free(copy);
    return ok;
}

// ---- memory
// Large blocks lie in pages of 2 MB where the system has them: the kernels read tens of places at a time, far apart,
// and the processor does not know the addresses of so many small pages.
static void *host_alloc(size_t bytes) {
    enum { PAGE = 2 << 20 };
    size_t align = bytes >= 4 * PAGE ? PAGE : 256, padded = (bytes + align - 1) / align * align;
    void *p = aligned_alloc(align, padded ? padded : align);
#ifdef MADV_HUGEPAGE
    if (p && align == PAGE) madvise(p, padded, MADV_HUGEPAGE);
#endif
    return p ? memset(p, 0, padded) : NULL;
}

// As with any end of a run, the last line says what happened.
NORETURN static void no_memory(Device *d, size_t bytes) {
    size_t left = 0, total = 0;
    char room[80] = "";
    if (d->gpu) {
        d->gpu->memory(d, &left, &total);
        snprintf(room, sizeof room, " (%.1f MB of %.1f MB are free)", (double)left / 1e6, (double)total / 1e6);
    }
    if (d->plan) d->plan(d->plan_arg, stderr);
    log_info("error: no memory for %.1f MB on device %s%s, where this run already holds %.1f MB; try a smaller --batch "
             "or --micro-batch, and see `--device null` for the plan", (double)bytes / 1e6, d->name, room,
             (double)(d->allocated - bytes) / 1e6);
    exit(ERR_MEMORY);
}

void *device_alloc(Device *d, size_t bytes) {
    d->allocated += bytes;
    if (d->null) return NULL;
    void *p = bytes > SIZE_MAX / 2 ? NULL : d->gpu ? d->gpu->alloc(d, bytes) : host_alloc(bytes);
    if (!p) no_memory(d, bytes);
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
    if (d->gpu) d->gpu->free(d, p);
    else free(p);
}

size_t device_allocated(const Device *d) { return d->allocated; }

void device_memory(Device *d, size_t *free_bytes, size_t *total) {
    *free_bytes = *total = 0;
    if (d->gpu) d->gpu->memory(d, free_bytes, total);
}

void device_set_plan(Device *d, void (*plan)(void *arg, FILE *f), void *arg) {
    d->plan = plan;
    d->plan_arg = arg;
}

void device_poison(Device *d, void *p, size_t bytes) {
    if (d->null || !bytes) return;
    if (d->gpu) d->gpu->poison(d, p, bytes);
    else memset(p, 0xFF, bytes);
}

// ---- copies
void device_write(Device *d, void *dst, const void *src, size_t bytes) {
    if (d->null || !bytes) return;
    if (d->gpu) d->gpu->write(d, dst, src, bytes);
    else memcpy(dst, src, bytes);
}

void device_read(Device *d, void *dst, const void *src, size_t bytes) {
    if (d->null || !bytes) return;
    if (d->gpu) d->gpu->read(d, dst, src, bytes);
    else memcpy(dst, src, bytes);
}

void device_read_queue(Device *d, const void *src, size_t bytes) {
    CHECK(!d->null && bytes <= DEVICE_READ_BYTES && d->reads_queued - d->reads_taken < DEVICE_READS,
          "device %s: a queued read of %zu bytes, %lld not taken", d->name, bytes,
          (long long)(d->reads_queued - d->reads_taken));
    int slot = (int)(d->reads_queued++ % DEVICE_READS);
    if (d->gpu) d->gpu->read_queue(d, slot, src, bytes);
    else memcpy(d->reads[slot], src, bytes);
}

bool device_read_ready(Device *d) {
    if (d->reads_taken == d->reads_queued) return false;
    return !d->gpu || d->gpu->read_done(d, (int)(d->reads_taken % DEVICE_READS), false);
}

void device_read_take(Device *d, void *dst, size_t bytes) {
    CHECK(d->reads_taken < d->reads_queued, "device %s: no read is queued", d->name);
    int slot = (int)(d->reads_taken++ % DEVICE_READS);
    if (d->gpu) d->gpu->read_done(d, slot, true);
    memcpy(dst, d->reads[slot], bytes);
}

// ---- work
Stream *device_stream(Device *d, int i) {
    if (d->gpu) return d->gpu->stream(d, i);
    CHECK(i == 0, "device %s has one stream", d->name);
    return stream_host();
}

Status device_check(Device *d) { return d->gpu ? d->gpu->check(d) : stream_status(stream_host()); }

void device_sync(Device *d) {
    Status s = device_check(d);
    CHECK(s.code == 0, "device %s: %s (error %d)", d->name, s.what, s.code);
}

void device_mark(Device *d, int i) {
    if (d->gpu) {
        d->gpu->mark(d, i);
        return;
    }
    if (i >= d->n_marks) {
        d->mark = xrealloc(d->mark, (size_t)(i + 1) * sizeof *d->mark);
        while (d->n_marks <= i) d->mark[d->n_marks++] = 0;
    }
    d->mark[i] = now_seconds();
}

double device_elapsed(Device *d, int from, int to) {
    return d->gpu ? d->gpu->elapsed(d, from, to) : d->mark[to] - d->mark[from];
}

bool device_has_scope(const Device *d) { return d->gpu && d->gpu->scope; }

void device_scope(Device *d, const char *label, const DeviceWindow *w, int n) {
    if (device_has_scope(d)) d->gpu->scope(d, label, w, n);
}

bool  device_can_capture(const Device *d) { return d->gpu != NULL; }
void  device_capture_begin(Device *d) { d->gpu->capture_begin(d); }
void *device_capture_end(Device *d, Status *s) { return d->gpu->capture_end(d, s); }
void  device_capture_launch(Device *d, void *captured) { d->gpu->capture_launch(d, captured); }

void device_capture_free(Device *d, void *captured) {
    if (captured) d->gpu->capture_free(d, captured);
}

bool device_kernel_needs(const Device *d, const void *kernel, int threads, size_t shared, KernelNeeds *out) {
    return d->gpu && d->gpu->kernel_needs && d->gpu->kernel_needs(kernel, threads, shared, out);
}

void device_range_begin(const Device *d, const char *name) {
    if (d->gpu && d->gpu->range_begin) d->gpu->range_begin(name);
}

void device_range_end(const Device *d) {
    if (d->gpu && d->gpu->range_end) d->gpu->range_end();
}
