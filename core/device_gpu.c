// core/device_gpu.c - a GPU through the CUDA runtime API: memory, one stream, staged copies, captured runs, messages.
//
// Compiled with the toolkit's runtime as kind CUDA and with the emulated one (kernels/emu) as kind EMU. All work is
// ordered by one stream, which is never waited for but where the host needs a result. Host memory is not read by the
// GPU after a call returns: a write is copied to a ring of pinned pieces, each of which is used again when the event
// behind its copy has come. The host can so be some steps ahead of the GPU, and both are never idle.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef DEVICE_EMULATED
#include "kernels/emu/cuda_runtime.h"
#else
#include <cuda_runtime_api.h>
#include <nvtx3/nvToolsExt.h>
#endif
#include "core/device_impl.h"
#include "kernels/common/kernel.h"

enum { PIECES = 32, PIECE_BYTES = 1 << 20 };

struct Stream {                                 // begins as core/base.c's
    Status       status;
    cudaStream_t handle;
};
typedef struct {
    Stream       stream;
    char         gpu[300];                      // name, compute capability, size
    char        *piece;                         // PIECES pieces of pinned memory
    cudaEvent_t  piece_free[PIECES], read_done[DEVICE_READS];
    int          next_piece;
    cudaEvent_t *mark;
    int          n_marks;
    bool         capturing;
} Gpu;

static Gpu *gpu_of(const Device *d) { return d->own; }

// ---- failures
static bool is_lost(cudaError_t e) {            // the machine's fault, not the program's
    return e == cudaErrorECCUncorrectable || e == cudaErrorNvlinkUncorrectable || e == cudaErrorHardwareStackError ||
           e == cudaErrorDevicesUnavailable || e == cudaErrorSystemNotReady || e == cudaErrorUnknown;
}

NORETURN static void lost(const Device *d, const char *what, int code) {
    log_info("error: device %s (%s) is lost: %s (error %d); what was saved is whole: go on with --resume on another "
             "GPU, or when this one has been reset", d->name, gpu_of(d)->gpu, what, code);
    fflush(stdout);
    _Exit(ERR_IO);                              // not exit(): the runtime's own handlers may wait for the GPU
}

// A call that can only fail if the program, the driver or the GPU is broken, or if an earlier kernel was.
static void must(const Device *d, cudaError_t e, const char *doing) {
    if (e == cudaSuccess) return;
    if (is_lost(e)) lost(d, cudaGetErrorString(e), (int)e);
    fatal(__FILE__, __LINE__, "no error of the GPU", "device %s, %s: %s (error %d); a kernel may have failed before: "
          "with CBDM_NO_CAPTURE=1 its node is named", d->name, doing, cudaGetErrorString(e), (int)e);
}

// ---- finding the GPU
#define VERSION(v) (v) / 1000, (v) % 1000 / 10

__attribute__((format(printf, 3, 4)))
static bool refuse(Refusal *no, const char *mend, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(no->why, sizeof no->why, fmt, ap);
    va_end(ap);
    snprintf(no->mend, sizeof no->mend, "%s", mend);
    return false;
}

static bool count_gpus(int *count, Refusal *no) {
    int driver = 0;
    cudaError_t e = cudaGetDeviceCount(count);
    if (e == cudaSuccess && *count > 0) return true;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
        return refuse(no, "install one", "this machine has no NVIDIA driver");
    if (e == cudaErrorInsufficientDriver || e == cudaErrorSystemDriverMismatch)
        return refuse(no, "update the driver, or build with an older CUDA toolkit",
                      "the NVIDIA driver is for CUDA %d.%d and older, this program is built with %d.%d",
                      VERSION(driver), VERSION(CUDART_VERSION));
    if (e == cudaSuccess || e == cudaErrorNoDevice)
        return refuse(no, "see what nvidia-smi lists, and whether CUDA_VISIBLE_DEVICES hides it",
                      "the NVIDIA driver finds no GPU");
    return refuse(no, "see what nvidia-smi says", "the NVIDIA driver does not answer: %s (error %d)",
                  cudaGetErrorString(e), (int)e);
}

// The index of the GPU asked for; -1 with *no.
static int find_gpu(int number, Refusal *no) {
    int count = 0;
    if (!count_gpus(&count, no)) return -1;
#ifdef DEVICE_EMULATED
    struct cudaDeviceProp p;
    for (int i = 0; number >= 0 && i < count; i++)
        if (cudaGetDeviceProperties(&p, i) == cudaSuccess && p.major * 10 + p.minor == number) return i;
    if (number >= 0) {
        refuse(no, "use emu:80 or emu:90", "there is no emulated GPU of compute capability %d", number);
        return -1;
    }
#endif
    if (number < count) return number < 0 ? 0 : number;
    refuse(no, count == 1 ? "use cuda:0" : "choose one of them", "this machine has %d GPU%s, counted from 0", count,
           count == 1 ? "" : "s");
    return -1;
}

static bool is_supported(const struct cudaDeviceProp *p, Refusal *no) {
    int cc = p->major * 10 + p->minor;
    char mend[120];
    if (cc < 80)
        return refuse(no, "use a GPU of compute capability 8.0 or later",
                      "%s has compute capability %d.%d, for which there are no kernels", p->name, p->major, p->minor);
    snprintf(mend, sizeof mend, "build with -DCBDM_CUDA_ARCHITECTURES=%d%s", cc, cc == 90 ? "a" : "");
    if (!architectures_fit(DEVICE_ARCHITECTURES, cc))
        return refuse(no, mend, "%s has compute capability %d.%d; this program has kernels for %s only", p->name,
                      p->major, p->minor, DEVICE_ARCHITECTURES);
    return true;
}

static int plan_cc(void) {
    int count = 0;
    struct cudaDeviceProp p;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count < 1 || cudaGetDeviceProperties(&p, 0) != cudaSuccess)
        return 80;
    return p.major * 10 + p.minor < 80 ? 80 : p.major * 10 + p.minor;
}

static cudaError_t create(Device *d, Gpu *g) {
    cudaError_t e = cudaStreamCreateWithFlags(&g->stream.handle, cudaStreamNonBlocking);
    void *pinned = NULL;
    if (e == cudaSuccess) e = cudaHostAlloc(&pinned, (size_t)PIECES * PIECE_BYTES, cudaHostAllocDefault);
    g->piece = pinned;
    pinned = NULL;
    if (e == cudaSuccess) e = cudaHostAlloc(&pinned, DEVICE_READS * sizeof *d->reads, cudaHostAllocDefault);
    d->reads = pinned;
    for (int i = 0; i < PIECES && e == cudaSuccess; i++)
        e = cudaEventCreateWithFlags(&g->piece_free[i], cudaEventDisableTiming);
    for (int i = 0; i < DEVICE_READS && e == cudaSuccess; i++)
        e = cudaEventCreateWithFlags(&g->read_done[i], cudaEventDisableTiming);
#ifdef DEVICE_EMULATED
    if (e == cudaSuccess) emu_stream_bind(&g->stream, g->stream.handle);
#endif
    return e;
}

static void close_gpu(Device *d) {
    Gpu *g = gpu_of(d);
    for (int i = 0; i < PIECES; i++)
        if (g->piece_free[i]) cudaEventDestroy(g->piece_free[i]);
    for (int i = 0; i < DEVICE_READS; i++)
        if (g->read_done[i]) cudaEventDestroy(g->read_done[i]);
    for (int i = 0; i < g->n_marks; i++) cudaEventDestroy(g->mark[i]);
    if (g->piece) cudaFreeHost(g->piece);
    if (d->reads) cudaFreeHost(d->reads);
    if (g->stream.handle) cudaStreamDestroy(g->stream.handle);
#ifdef DEVICE_EMULATED
    emu_stream_bind(&g->stream, NULL);
#endif
    free(g->mark);
    free(g);
}

static bool open_gpu(Device *d, int number, Refusal *no) {
    struct cudaDeviceProp p;
    int index = find_gpu(number, no), driver = 0;
    if (index < 0) return false;
    cudaError_t e = cudaGetDeviceProperties(&p, index);
    if (e == cudaSuccess && !is_supported(&p, no)) return false;
    if (e == cudaSuccess) e = cudaSetDevice(index);
    Gpu *g = d->own = xcalloc(1, sizeof *g);
    if (e == cudaSuccess) e = create(d, g);
    if (e != cudaSuccess) {
        refuse(no, "see in nvidia-smi whether another program uses it", "GPU %d cannot be used: %s (error %d)", index,
               cudaGetErrorString(e), (int)e);
        close_gpu(d);
        d->own = NULL;
        return false;
    }
    cudaDriverGetVersion(&driver);
    d->cc = p.major * 10 + p.minor;
    snprintf(g->gpu, sizeof g->gpu, "%.200s, compute capability %d.%d, %d multiprocessors, %.1f GiB, driver %d.%d",
             p.name, p.major, p.minor, p.multiProcessorCount, (double)p.totalGlobalMem / 1073741824.0, VERSION(driver));
    return true;
}

static void describe(const Device *d, char *text, size_t bytes) {
    snprintf(text, bytes, "%s, CUDA %d.%d", gpu_of(d)->gpu, VERSION(CUDART_VERSION));
}

// ---- memory
static void memory(Device *d, size_t *free_bytes, size_t *total) {
    must(d, cudaMemGetInfo(free_bytes, total), "asking for its memory");
}

static void *alloc(Device *d, size_t bytes) {
    void *p = NULL;
    cudaError_t e = cudaMalloc(&p, bytes);
    if (e == cudaErrorMemoryAllocation) return NULL;
    must(d, e, "allocating");
    must(d, cudaMemsetAsync(p, 0, bytes, gpu_of(d)->stream.handle), "clearing memory");
    return p;
}

static void release(Device *d, void *p) { must(d, cudaFree(p), "freeing memory"); }

// A piece of pinned memory that no copy reads or writes any more.
static int take_piece(Device *d) {
    Gpu *g = gpu_of(d);
    int i = g->next_piece;
    g->next_piece = (i + 1) % PIECES;
    must(d, cudaEventSynchronize(g->piece_free[i]), "waiting for a copy");
    return i;
}

static char *piece_data(const Gpu *g, int i) { return g->piece + (size_t)i * PIECE_BYTES; }

static void write_bytes(Device *d, void *dst, const void *src, size_t bytes) {
    Gpu *g = gpu_of(d);
    for (size_t at = 0; at < bytes; at += PIECE_BYTES) {
        int i = take_piece(d);
        size_t n = bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES;
        memcpy(piece_data(g, i), (const char *)src + at, n);
        must(d, cudaMemcpyAsync((char *)dst + at, piece_data(g, i), n, cudaMemcpyHostToDevice, g->stream.handle),
             "writing");
        must(d, cudaEventRecord(g->piece_free[i], g->stream.handle), "writing");
    }
}

// As many copies as there are pieces are under way at once.
static void read_bytes(Device *d, void *dst, const void *src, size_t bytes) {
    Gpu *g = gpu_of(d);
    struct { size_t at, n; int piece; } copy[PIECES];
    for (size_t at = 0; at < bytes;) {
        int n = 0;
        for (; n < PIECES && at < bytes; n++) {
            size_t part = bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES;
            copy[n].at = at;
            copy[n].n = part;
            copy[n].piece = take_piece(d);
            must(d, cudaMemcpyAsync(piece_data(g, copy[n].piece), (const char *)src + at, part, cudaMemcpyDeviceToHost,
                                    g->stream.handle), "reading");
            must(d, cudaEventRecord(g->piece_free[copy[n].piece], g->stream.handle), "reading");
            at += part;
        }
        for (int i = 0; i < n; i++) {
            must(d, cudaEventSynchronize(g->piece_free[copy[i].piece]), "reading");
            memcpy((char *)dst + copy[i].at, piece_data(g, copy[i].piece), copy[i].n);
        }
    }
}

static void read_queue(Device *d, int slot, const void *src, size_t bytes) {
    Gpu *g = gpu_of(d);
    must(d, cudaMemcpyAsync(d->reads[slot], src, bytes, cudaMemcpyDeviceToHost, g->stream.handle), "reading back");
    must(d, cudaEventRecord(g->read_done[slot], g->stream.handle), "reading back");
}

static bool read_done(Device *d, int slot, bool wait) {
    cudaEvent_t done = gpu_of(d)->read_done[slot];
    cudaError_t e = wait ? cudaEventSynchronize(done) : cudaEventQuery(done);
    if (e == cudaErrorNotReady) return false;
    must(d, e, "reading back");
    return true;
}

static void poison(Device *d, void *p, size_t bytes) {
    must(d, cudaMemsetAsync(p, 0xFF, bytes, gpu_of(d)->stream.handle), "setting memory");
#ifdef DEVICE_EMULATED
    must(d, cudaStreamSynchronize(gpu_of(d)->stream.handle), "setting memory");
    emu_poison(p, bytes);
#endif
}

// ---- kernels
#ifdef DEVICE_EMULATED
static void scope(Device *d, const char *label, const DeviceWindow *w, int n) {
    (void)d;
    EmuWindow *out = xcalloc((size_t)n + 1, sizeof *out);
    for (int i = 0; i < n; i++)
        out[i] = (EmuWindow){ w[i].data, w[i].bytes, w[i].write ? EMU_READ | EMU_WRITE : EMU_READ };
    emu_launch_scope(label, out, n);
    free(out);
}
#else
cudaStream_t stream_cuda(const Stream *s);      // what kernels/common/device.cuh launches on
cudaStream_t stream_cuda(const Stream *s) { return s->handle; }
#endif

static Stream *stream(Device *d, int i) {
    CHECK(i == 0, "device %s has one stream", d->name);
    return &gpu_of(d)->stream;
}

// Waits for all that was launched, but during a capture, when nothing runs: then asks whether the capture still stands.
static Status check(Device *d) {
    Gpu *g = gpu_of(d);
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusActive;
    cudaError_t e = cudaSuccess;
    if (g->stream.status.code == 0)
        e = g->capturing ? cudaStreamIsCapturing(g->stream.handle, &capture)
                         : cudaStreamSynchronize(g->stream.handle);
    if (e == cudaSuccess && capture != cudaStreamCaptureStatusActive) e = cudaErrorStreamCaptureInvalidated;
    if (e != cudaSuccess) stream_fail(&g->stream, (int)e, cudaGetErrorString(e));
    Status s = stream_status(&g->stream);
    if (is_lost((cudaError_t)s.code)) lost(d, s.what, s.code);
    return s;
}

static void mark(Device *d, int i) {
    Gpu *g = gpu_of(d);
    if (i >= g->n_marks) {
        g->mark = xrealloc(g->mark, (size_t)(i + 1) * sizeof *g->mark);
        for (; g->n_marks <= i; g->n_marks++)
            must(d, cudaEventCreateWithFlags(&g->mark[g->n_marks], cudaEventDefault), "timing");
    }
    must(d, cudaEventRecord(g->mark[i], g->stream.handle), "timing");
}

static double elapsed(Device *d, int from, int to) {
    float ms = 0;
    must(d, cudaEventSynchronize(gpu_of(d)->mark[to]), "timing");
    must(d, cudaEventElapsedTime(&ms, gpu_of(d)->mark[from], gpu_of(d)->mark[to]), "timing");
    return (double)ms * 1e-3;
}

// ---- captured runs
static void capture_begin(Device *d) {
    Gpu *g = gpu_of(d);
    must(d, cudaStreamBeginCapture(g->stream.handle, cudaStreamCaptureModeThreadLocal), "beginning a capture");
    g->capturing = true;
}

static void *capture_end(Device *d, Status *s) {
    Gpu *g = gpu_of(d);
    cudaGraph_t graph = NULL;
    cudaGraphExec_t captured = NULL;
    g->capturing = false;
    cudaError_t e = cudaStreamEndCapture(g->stream.handle, &graph);
    if (e == cudaSuccess) e = cudaGraphInstantiateWithFlags(&captured, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    if (e != cudaSuccess) stream_fail(&g->stream, (int)e, cudaGetErrorString(e));
    *s = stream_status(&g->stream);
    return captured;
}

static void capture_launch(Device *d, void *captured) {
    must(d, cudaGraphLaunch(captured, gpu_of(d)->stream.handle), "launching a captured run");
}

static void capture_free(Device *d, void *captured) {
    must(d, cudaStreamSynchronize(gpu_of(d)->stream.handle), "ending");
    must(d, cudaGraphExecDestroy(captured), "ending");
}

#ifndef DEVICE_EMULATED
static bool kernel_needs(const void *kernel, int threads, size_t shared, KernelNeeds *out) {
    struct cudaFuncAttributes a;
    if (cudaFuncGetAttributes(&a, kernel) != cudaSuccess) return false;
    *out = (KernelNeeds){ .registers = a.numRegs, .shared = a.sharedSizeBytes + shared, .local = a.localSizeBytes };
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(&out->blocks_per_sm, kernel, threads, shared) == cudaSuccess;
}

static void range_begin(const char *name) { nvtxRangePushA(name); }
static void range_end(void) { nvtxRangePop(); }
#endif

extern const GpuRuntime KERNEL_PASTE(gpu_runtime_, KERNEL_KIND, );
const GpuRuntime KERNEL_PASTE(gpu_runtime_, KERNEL_KIND, ) = {
    .open = open_gpu, .close = close_gpu, .plan_cc = plan_cc, .describe = describe, .memory = memory, .alloc = alloc,
    .free = release, .write = write_bytes, .read = read_bytes, .read_queue = read_queue, .read_done = read_done,
    .poison = poison, .check = check, .stream = stream, .mark = mark, .elapsed = elapsed,
    .capture_begin = capture_begin, .capture_end = capture_end, .capture_launch = capture_launch,
    .capture_free = capture_free,
#ifdef DEVICE_EMULATED
    .scope = scope,
#else
    .kernel_needs = kernel_needs, .range_begin = range_begin, .range_end = range_end,
#endif
};
