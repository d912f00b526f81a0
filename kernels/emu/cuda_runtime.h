// kernels/emu/cuda_runtime.h - a CUDA runtime without a GPU: the calls that core/device_gpu.c makes, under other names.
//
// core/device_gpu.c is compiled twice: against the toolkit's <cuda_runtime_api.h> as kind CUDA, and against this header
// as kind EMU. The calls mean what the CUDA Runtime API manual says of them, and where it leaves an order open, any of
// the legal orders may be taken: what is queued on a stream (copies, settings, kernels, events, graphs) happens only
// when somebody waits for it, as late as that allows, or at chance moments before, and streams take turns by a seeded
// draw. A wait that the host program forgot thus shows as old data. Calls can be made to fail, memory to run out.
// Stricter than CUDA: asynchronous copies take pinned host memory only, and a capture holds one stream.
#ifndef KERNELS_EMU_CUDA_RUNTIME_H
#define KERNELS_EMU_CUDA_RUNTIME_H
#ifdef CUDART_VERSION
#error "the CUDA toolkit's runtime and the emulated one do not go together in one file"
#endif
#include "kernels/emu/host.h"
EXTERN_C_BEGIN
#define CUDART_VERSION 13000
// The numbers of the toolkit's driver_types.h, of those errors that are made or told apart here.
typedef enum {
    cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2, cudaErrorInitializationError = 3,
    cudaErrorInsufficientDriver = 35, cudaErrorDevicesUnavailable = 46, cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101, cudaErrorNoKernelImageForDevice = 209, cudaErrorECCUncorrectable = 214,
    cudaErrorNvlinkUncorrectable = 220, cudaErrorInvalidResourceHandle = 400, cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700, cudaErrorHardwareStackError = 714, cudaErrorLaunchFailure = 719,
    cudaErrorSystemNotReady = 802, cudaErrorSystemDriverMismatch = 803, cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901, cudaErrorUnknown = 999
} cudaError_t;
typedef struct EmuCudaStream *cudaStream_t;
typedef struct EmuCudaEvent  *cudaEvent_t;
typedef struct EmuCudaGraph  *cudaGraph_t;
typedef struct EmuCudaExec   *cudaGraphExec_t;
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal };
enum cudaStreamCaptureStatus {
    cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive, cudaStreamCaptureStatusInvalidated
};
enum { cudaStreamNonBlocking = 1, cudaEventDefault = 0, cudaEventDisableTiming = 2, cudaHostAllocDefault = 0 };
struct cudaDeviceProp { char name[256]; size_t totalGlobalMem; int major, minor, multiProcessorCount; };

#define cudaDriverGetVersion          emu_cudaDriverGetVersion
#define cudaGetDeviceCount            emu_cudaGetDeviceCount
#define cudaGetDeviceProperties       emu_cudaGetDeviceProperties
#define cudaSetDevice                 emu_cudaSetDevice
#define cudaMemGetInfo                emu_cudaMemGetInfo
#define cudaGetErrorString            emu_cudaGetErrorString
#define cudaMalloc                    emu_cudaMalloc
#define cudaFree                      emu_cudaFree
#define cudaHostAlloc                 emu_cudaHostAlloc
#define cudaFreeHost                  emu_cudaFreeHost
#define cudaMemcpyAsync               emu_cudaMemcpyAsync
#define cudaMemsetAsync               emu_cudaMemsetAsync
#define cudaStreamCreateWithFlags     emu_cudaStreamCreateWithFlags
#define cudaStreamDestroy             emu_cudaStreamDestroy
#define cudaStreamSynchronize         emu_cudaStreamSynchronize
#define cudaStreamWaitEvent           emu_cudaStreamWaitEvent
#define cudaEventCreateWithFlags      emu_cudaEventCreateWithFlags
#define cudaEventDestroy              emu_cudaEventDestroy
#define cudaEventRecord               emu_cudaEventRecord
#define cudaEventQuery                emu_cudaEventQuery
#define cudaEventSynchronize          emu_cudaEventSynchronize
#define cudaEventElapsedTime          emu_cudaEventElapsedTime
#define cudaStreamBeginCapture        emu_cudaStreamBeginCapture
#define cudaStreamEndCapture          emu_cudaStreamEndCapture
#define cudaStreamIsCapturing         emu_cudaStreamIsCapturing
#define cudaGraphInstantiateWithFlags emu_cudaGraphInstantiateWithFlags
#define cudaGraphDestroy              emu_cudaGraphDestroy
#define cudaGraphLaunch               emu_cudaGraphLaunch
#define cudaGraphExecDestroy          emu_cudaGraphExecDestroy

cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);
const char *cudaGetErrorString(cudaError_t e);       // of a failed kernel: the fault that the emulator found
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);                       // waits for the device first
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end);
cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *status);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x);

// ---- what CUDA has no call for
// Kernels launched on Stream *s run on `handle` (NULL: s is gone). On a stream that nobody bound they run at once.
void emu_stream_bind(Stream *s, cudaStream_t handle);
// Kernels launched from now on may touch these windows only (n = 0: all), and faults in them name `label`; both copied.
void emu_launch_scope(const char *label, const EmuWindow *w, int n);

// The made-up machine. The environment's CBDM_EMU_CUDA gives its first values: "limit=64,seed=3,fail=cudaMalloc:2:2".
typedef struct {
    int      driver;                      // what cudaDriverGetVersion says, 13000 for 13.0; 0: no driver
    int      gpus;                        // 8.0, 9.0, 8.0, 9.0, ... unless cc says
    int      cc;                          // of all of them: 75, 120; 0: in turn
    size_t   limit;                       // bytes of device memory of a GPU; in the environment MiB
    uint64_t seed;                        // 0: as late as possible, streams in turn; else chance moments and turns
} EmuMachine;
EmuMachine *emu_machine(void);            // may be changed between calls
// The nth call from now of the CUDA function named ("any": of any; "kernel": of a launch) fails with e. Errors that end
// a context in CUDA (illegal address, launch failure, ECC) stay; the others pass. nth 0: none.
void emu_cuda_fail(const char *function, int nth, cudaError_t e);
long emu_cuda_calls(void);                // so far, of those that can fail
void emu_cuda_reset(void);                // a new process: no sticky error, nothing queued, the machine as at first
EXTERN_C_END
#endif
