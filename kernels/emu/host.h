// kernels/emu/host.h - what the host side sees of the emulation: device memory and the faults found. Plain C.
#ifndef KERNELS_EMU_HOST_H
#define KERNELS_EMU_HOST_H
#include "kernels/common/types.h"
EXTERN_C_BEGIN
enum { EMU_READ = 1, EMU_WRITE = 2 };
typedef struct { const void *data; size_t bytes; int use; } EmuWindow;   // use: EMU_READ | EMU_WRITE

void *emu_malloc(size_t bytes);                            // in the emulation's own heap; NULL: none left
void  emu_free(void *p);
void  emu_poison(void *p, size_t bytes);                   // bytes 0xFF, and uninitialised to the checker
void  emu_host_write(void *dst, const void *src, size_t bytes);   // the bytes count as initialised from now on
void  emu_host_read(void *dst, const void *src, size_t bytes);    // reading what nobody wrote is a fault
// From now on kernels may touch device memory there only; n = 0: wherever it is allocated.
void  emu_windows(const EmuWindow *w, int n);
// Faults found since the start or since emu_clear; the first one in words, owned by the emulation.
int   emu_faults(void);
void  emu_clear(void);
const char *emu_first_fault(void);
EXTERN_C_END
#endif
