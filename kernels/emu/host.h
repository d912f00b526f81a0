// kernels/emu/host.h - the emulated GPU as the host's code sees it: memory, launches, faults, modes. C and C++.
//
// Device memory is a heap of its own with red zones, at addresses that the host must not touch but through these calls:
// the emulation knows of every byte whether it is allocated and whether it was ever written. Kernels run when the
// launch handed to emu_queue_launch() is run. What is wrong with them is collected as faults, each printed on stderr.
#ifndef KERNELS_EMU_HOST_H
#define KERNELS_EMU_HOST_H
#include "kernels/common/types.h"
EXTERN_C_BEGIN
// 256-byte aligned and uninitialised (0xFF, NaN as a float); NULL when the heap's 64 GiB of addresses are used up.
void *emu_malloc(size_t bytes);
void  emu_free(void *p);                                    // NULL is fine
void  emu_poison(void *p, size_t bytes);                    // uninitialised again
void  emu_host_write(void *device, const void *host, size_t bytes);
void  emu_host_read(void *host, const void *device, size_t bytes);      // a fault where nothing was ever written
void  emu_device_copy(void *to, const void *from, size_t bytes);        // what is uninitialised stays so
void  emu_device_set(void *p, int byte, size_t bytes);
bool  emu_is_device(const void *p);
int64_t emu_unwritten(const void *p, size_t bytes);         // offset of the first uninitialised byte; -1: none

// From now on kernels may touch device memory only there; n = 0: wherever it is allocated. The list is copied.
enum { EMU_READ = 1, EMU_WRITE = 2 };
typedef struct { const void *p; size_t bytes; int access; } EmuWindow;
void emu_windows(const EmuWindow *w, int n);

// Called for every launch with a closure that runs it. The device layer (cuda_runtime.cpp) defines it and keeps the
// order of streams; without it every launch runs at once. `release` frees the closure, which may run many times first.
void emu_queue_launch(Stream *s, void (*run)(void *closure), void *closure, void (*release)(void *closure));

int  emu_faults(void);                      // since the last emu_clear()
void emu_clear(void);
const char *emu_fault(int i);               // the i-th of the different ones since then, as printed; NULL: no more
const char *emu_first_fault(void);          // its line as printed, without the newline; "" if there is none

// Modes; the environment's CBDM_EMU="schedule=random,seed=7,eager=1,check=0,threads=2" gives their first values.
typedef enum { EMU_NATURAL, EMU_REVERSE, EMU_RANDOM } EmuSchedule;
typedef struct {
    EmuSchedule schedule;                   // order of blocks, and of threads where several can go on
    uint64_t    seed;                       // of the random one
    bool        eager;                      // asynchronous copies and products complete when issued, not when awaited
    bool        check;                      // look at every access of the kernels (false: only run them)
    bool        quiet;                      // collect faults without printing them
    int         threads;                    // OS threads that blocks may run on; more than one only without check
} EmuOptions;
EmuOptions *emu_options(void);              // may be changed between launches
EXTERN_C_END
#endif
