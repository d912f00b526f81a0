// core/device_impl.h - the device's own fields and the functions that each kind of memory brings, for core/device*.c.
#ifndef CORE_DEVICE_IMPL_H
#define CORE_DEVICE_IMPL_H
#include "core/device.h"
enum { MAX_PREFERENCES = 32 };

// Where device memory is not the host's. alloc: zeroed, 256-byte aligned; NULL: there is no memory.
typedef struct {
    void   *(*alloc)(Device *d, size_t bytes);
    void    (*free)(Device *d, void *p);
    void    (*write)(Device *d, void *dst, const void *src, size_t bytes);
    void    (*read)(Device *d, void *dst, const void *src, size_t bytes);
    void    (*poison)(Device *d, void *p, size_t bytes);
    void    (*windows)(Device *d, const DeviceWindow *w, int n);
    Stream *(*stream)(Device *d, int i);
    void    (*close)(Device *d);
} DeviceMemory;

typedef struct { void *data; size_t bytes; } DeviceBlock;

struct Device {
    DeviceKind kind;
    bool       null;
    int        cc;
    Layout     layout;
    char       name[32];
    size_t     allocated;
    DeviceBlock *block;                         // what device_alloc gave and device_free did not take back
    int        n_blocks;
    const DeviceMemory *memory;                 // NULL: the host's own
    void      *own;                             // what `memory` keeps
    struct { char *launcher, *impl; } prefer[MAX_PREFERENCES];
    int        n_prefer;
};
void device_emu_open(Device *d);
#endif
