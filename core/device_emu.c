// core/device_emu.c - the emulated GPU as a device: its heap, and kernels that run as soon as they are launched.
#ifdef CBDM_EMU
#include <stdlib.h>
#include <string.h>

#include "core/device_impl.h"
#include "kernels/emu/host.h"

struct Stream { Status status; };                // as in core/base.c

void emu_queue_launch(Stream *s, void (*run)(void *), void *closure, void (*release)(void *)) {
    int before = emu_faults();
    run(closure);
    release(closure);
    if (emu_faults() != before) stream_fail(s, 1, emu_first_fault());
}

static void *alloc(Device *d, size_t bytes) {
    (void)d;
    void *p = emu_malloc(bytes ? bytes : 1);
    if (p) emu_device_set(p, 0, bytes);
    return p;
}

static void release(Device *d, void *p) { (void)d; emu_free(p); }
static void write(Device *d, void *dst, const void *src, size_t bytes) { (void)d; emu_host_write(dst, src, bytes); }
static void poison(Device *d, void *p, size_t bytes) { (void)d; emu_poison(p, bytes); }

static void read(Device *d, void *dst, const void *src, size_t bytes) {
    int before = emu_faults();
    emu_host_read(dst, src, bytes);
    CHECK(emu_faults() == before, "device %s: %s", d->name, emu_first_fault());
}

static void windows(Device *d, const DeviceWindow *w, int n) {
    (void)d;
    EmuWindow *out = xcalloc((size_t)n + 1, sizeof *out);
    for (int i = 0; i < n; i++)
        out[i] = (EmuWindow){ w[i].data, w[i].bytes, w[i].write ? EMU_READ | EMU_WRITE : EMU_READ };
    emu_windows(out, n);
    free(out);
}

static Stream *stream(Device *d, int i) {
    CHECK(i == 0, "device %s has one stream", d->name);
    return d->own;
}

static void close(Device *d) { free(d->own); }

static const DeviceMemory memory = { .alloc = alloc, .free = release, .write = write, .read = read, .poison = poison,
                                     .windows = windows, .stream = stream, .close = close };

void device_emu_open(Device *d) {
    d->memory = &memory;
    d->own = xcalloc(1, sizeof(Stream));
}
#endif
