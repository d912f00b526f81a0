// core/device.h - where memory lives and work is ordered: one interface for every kind of device.
#ifndef CORE_DEVICE_H
#define CORE_DEVICE_H
#include "core/base.h"
EXTERN_C_BEGIN
typedef struct Device Device;
// spec: "ref", "ref32", "ref64", "cpu", "auto", "emu" (the kernels of an 8.0 GPU; "emu:90": of a 9.0), "null" (plans
// for cpu), "null:ref", "null:emu:90". NULL and *err if absent.
Device     *device_open(const char *spec, Error *err);
void        device_close(Device *d);
const char *device_name(const Device *d);                            // "cpu", "null:cpu"
// One line for a run's record: the device, the processor, the libraries, the threads. Always terminated.
void        device_describe(const Device *d, char *text, size_t bytes);
DeviceKind  device_kind(const Device *d);                            // null: the kind it plans for
int         device_cc(const Device *d);                              // 90 for 9.0; 0 where it means nothing
bool        device_is_null(const Device *d);                         // plans, computes nothing
DType       device_real(const Device *d);                            // what DT_F32 is stored as: DT_F64 on ref64
Layout      device_layout(const Device *d);                          // of images whose channels are multiples of 16
void        device_set_layout(Device *d, Layout l);                  // before graphs are recorded; C16: cpu only
// Prefer implementation `impl` of `launcher` wherever it can do the shape; NULL: the default choice again.
void        device_prefer(Device *d, const char *launcher, const char *impl);
const char *device_preferred(const Device *d, const char *launcher);
void       *device_alloc(Device *d, size_t bytes);                   // 256-byte aligned, zeroed; exits 4 with a report
void        device_free(Device *d, void *p);                         // NULL is fine, as everywhere on a null device
size_t      device_allocated(const Device *d);                       // bytes now held; a null device only counts up
void        device_write(Device *d, void *dst, const void *src, size_t bytes);   // host -> device
void        device_read(Device *d, void *dst, const void *src, size_t bytes);    // device -> host, synchronous
// Sets arena memory to what must never be read: all bytes 0xFF, which is NaN; on emu uninitialised as well.
void        device_poison(Device *d, void *p, size_t bytes);
// The memory that the work launched from now on may touch. Checked on emu, nothing elsewhere; n = 0: all there is.
typedef struct { const void *data; size_t bytes; bool write; } DeviceWindow;
bool        device_has_windows(const Device *d);
void        device_windows(Device *d, const DeviceWindow *w, int n);
void        device_sync(Device *d);
Stream     *device_stream(Device *d, int i);                         // not the caller's; 0, the main one, is all so far
EXTERN_C_END
#endif
