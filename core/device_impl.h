// core/device_impl.h - the device's own fields, and what a GPU's runtime brings, for core/device*.c and their tests.
#ifndef CORE_DEVICE_IMPL_H
#define CORE_DEVICE_IMPL_H
#include "core/device.h"
enum { MAX_PREFERENCES = 32 };

// Why a device cannot be had, and what to do about it: parts of a sentence.
typedef struct { char why[300], mend[160]; } Refusal;

// A GPU behind the CUDA runtime API. core/device_gpu.c makes one of these of the toolkit's runtime and one of the
// emulated one. Everything is ordered by one stream; what returns at once says so.
typedef struct {
    // number: "cuda:1" the GPU's index, "emu:90" its compute capability; -1: none was given
    bool   (*open)(Device *d, int number, Refusal *no);
    void   (*close)(Device *d);
    int    (*plan_cc)(void);                        // of the first GPU, for plans; 80 where there is none
    void   (*describe)(const Device *d, char *text, size_t bytes);
    void   (*memory)(Device *d, size_t *free_bytes, size_t *total);
    void  *(*alloc)(Device *d, size_t bytes);       // zeroed, 256-byte aligned; NULL: there is no memory
    void   (*free)(Device *d, void *p);
    void   (*write)(Device *d, void *dst, const void *src, size_t bytes);     // returns at once, src may change then
    void   (*read)(Device *d, void *dst, const void *src, size_t bytes);
    void   (*read_queue)(Device *d, int slot, const void *src, size_t bytes); // to d->reads[slot], returns at once
    bool   (*read_done)(Device *d, int slot, bool wait);
    void   (*poison)(Device *d, void *p, size_t bytes);
    void   (*scope)(Device *d, const char *label, const DeviceWindow *w, int n);   // NULL: nothing is checked
    Status (*check)(Device *d);
    Stream *(*stream)(Device *d, int i);
    void   (*mark)(Device *d, int i);
    double (*elapsed)(Device *d, int from, int to);
    void   (*capture_begin)(Device *d);
    void  *(*capture_end)(Device *d, Status *s);
    void   (*capture_launch)(Device *d, void *captured);
    void   (*capture_free)(Device *d, void *captured);
    bool   (*kernel_needs)(const void *kernel, int threads, size_t shared, KernelNeeds *out);   // NULL: nobody knows
    void   (*range_begin)(const char *name);        // NULL: nobody records
    void   (*range_end)(void);
} GpuRuntime;
#ifdef CBDM_CUDA
extern const GpuRuntime gpu_runtime_CUDA;
#endif
#ifdef CBDM_EMU
extern const GpuRuntime gpu_runtime_EMU;
#endif

typedef struct { void *data; size_t bytes; } DeviceBlock;
struct Device {
    DeviceKind  kind;
    bool        null;
    int         cc;
    Layout      layout;
    char        name[32];
    DeviceBlock *block;                             // what device_alloc gave and device_free did not take back
    int         n_blocks;
    size_t      allocated;
    const GpuRuntime *gpu;                          // NULL on the host's devices and on null devices
    void       *own;                                // what the GPU's runtime keeps
    char      (*reads)[DEVICE_READ_BYTES];                 // ring of queued reads; pinned on a GPU
    int64_t     reads_queued, reads_taken;
    double     *mark;                               // the host's times
    int         n_marks;
    void      (*plan)(void *arg, FILE *f);          // prints what needs which memory
    void       *plan_arg;
    struct { char *launcher, *impl; } prefer[MAX_PREFERENCES];
    int         n_prefer;
};
bool architectures_fit(const char *list, int cc);   // "80-real,90a-real": can a GPU of this cc run one of them?
#endif
