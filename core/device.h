// core/device.h - where memory lives and work is ordered: one interface for every kind of device.
#ifndef CORE_DEVICE_H
#define CORE_DEVICE_H
#include <stdio.h>
#include "core/base.h"
EXTERN_C_BEGIN
typedef struct Device Device;
// spec: "ref", "ref32", "ref64"; "cpu"; "cuda", "cuda:1" (a GPU by its index); "auto" (cuda if it is built and can be
// had, else cpu; a line of the log says which and why); "emu" (the CUDA kernels for compute capability 8.0 on the
// emulated GPU; "emu:90": for 9.0); "null" (plans for cpu, computes nothing), "null:ref", "null:cuda" (for the GPU
// there is, or 8.0), "null:cuda:90", "null:emu:90". NULL and *err if it cannot be had.
Device     *device_open(const char *spec, Error *err);
void        device_close(Device *d);
const char *device_name(const Device *d);                            // "cpu", "cuda:1", "null:cpu"
// One line for a run's record: the device, the processor, the libraries, the threads. Always terminated.
void        device_describe(const Device *d, char *text, size_t bytes);
DeviceKind  device_kind(const Device *d);                            // null: the kind it plans for
int         device_cc(const Device *d);                              // 90 for 9.0; 0 where it means nothing
bool        device_is_null(const Device *d);                         // plans, computes nothing
DType       device_real(const Device *d);                            // what DT_F32 is stored as: DT_F64 on ref64
Layout      device_layout(const Device *d);                          // of images whose channels are multiples of 16
void        device_set_layout(Device *d, Layout l);                  // before graphs are recorded; C16: cpu only
// Prefer implementation `impl` of `launcher`, or IMPL_VENDOR, wherever it can do the shape; NULL: the default again.
void        device_prefer(Device *d, const char *launcher, const char *impl);
const char *device_preferred(const Device *d, const char *launcher);
// What --kernels and --kernel say. set: "vendor" for the twins of kernels/vendor wherever there is one, "" for none;
// list: "LAUNCHER=IMPLEMENTATION,...", which counts over the set. False and *err (usage) where d has no such thing.
bool        device_prefer_list(Device *d, const char *set, const char *list, Error *err);
#define DEVICE_KERNELS_HELP "vendor: prefer NVIDIA's libraries wherever they have the launcher"
#define DEVICE_KERNEL_HELP  "LAUNCHER=IMPLEMENTATION[,...] to prefer; cbdm op LAUNCHER --list names them"

// ---- memory
void       *device_alloc(Device *d, size_t bytes);                   // 256-byte aligned, zeroed; exits 4 with a report
void        device_free(Device *d, void *p);                         // NULL is fine, as everywhere on a null device
size_t      device_allocated(const Device *d);                       // bytes now held; a null device only counts up
// Of a GPU's own memory: what is free now, and all there is. Elsewhere both are 0.
void        device_memory(Device *d, size_t *free_bytes, size_t *total);
// Where device_alloc finds no memory it calls `plan` to print what the run needs memory for. NULL: nothing to print.
void        device_set_plan(Device *d, void (*plan)(void *arg, FILE *f), void *arg);
// Sets arena memory to what must never be read: all bytes 0xFF, which is NaN; on emu uninitialised as well.
void        device_poison(Device *d, void *p, size_t bytes);

// ---- work: copies and launches of a device happen one after the other, on a GPU while the host goes on
void        device_write(Device *d, void *dst, const void *src, size_t bytes);   // src may change when it returns
void        device_read(Device *d, void *dst, const void *src, size_t bytes);    // waits for all work before it
// A read that nobody waits for yet: of what src holds after all work so far. At most DEVICE_READS are not taken.
enum { DEVICE_READS = 64, DEVICE_READ_BYTES = 64 };
void        device_read_queue(Device *d, const void *src, size_t bytes);
bool        device_read_ready(Device *d);                            // whether device_read_take would not wait
void        device_read_take(Device *d, void *dst, size_t bytes);    // the oldest one; waits for it
Stream     *device_stream(Device *d, int i);                         // not the caller's; 0, the main one, is all so far
Status      device_check(Device *d);                                 // waits; the first failure, sticky
void        device_sync(Device *d);                                  // waits; aborts where something failed
void        device_mark(Device *d, int i);                           // a time, 0 <= i, taken between launches
double      device_elapsed(Device *d, int from, int to);             // seconds from mark to mark; waits for `to`
// The memory that work launched from now on may touch, and the name of that work in reports. Checked on emu, nothing
// elsewhere; n = 0: all there is.
typedef struct { const void *data; size_t bytes; bool write; } DeviceWindow;
bool        device_has_scope(const Device *d);
void        device_scope(Device *d, const char *label, const DeviceWindow *w, int n);
// Between begin and end launches are written down, not run; afterwards all of them are one launch. GPUs only.
bool        device_can_capture(const Device *d);
void        device_capture_begin(Device *d);
void       *device_capture_end(Device *d, Status *s);                // code 0, or why there is none
void        device_capture_launch(Device *d, void *captured);
void        device_capture_free(Device *d, void *captured);          // NULL is fine
// What a launch of the log (kernels/common/launch_log.h) needs of this GPU. False where there is nothing to ask.
typedef struct { int registers, blocks_per_sm; size_t shared, local; } KernelNeeds;   // bytes; static and dynamic
bool        device_kernel_needs(const Device *d, const void *kernel, int threads, size_t shared, KernelNeeds *out);
// A range by this name in what nsys and ncu record. Nothing elsewhere.
void        device_range_begin(const Device *d, const char *name);
void        device_range_end(const Device *d);
EXTERN_C_END
#endif
