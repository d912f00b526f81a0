// kernels/emu/cuda_runtime.cpp - the emulated CUDA runtime: queues of streams, events, captures, and faults on demand.
//
// A stream is a queue of items. Items run when somebody waits: run_until() takes, turn by turn, the first item of some
// stream whose event has come, drawn by the machine's seed, until what was waited for is so. With seed 0 only what has
// to run does: the stream waited for first, others only where it is stuck on their events. A capture collects the items
// instead; launching it queues copies of them, so that other streams may come in between as on a GPU.
//
// A kernel that the emulator finds fault with is an error of the kind that ends a CUDA context: from then on every call
// returns it, and cudaGetErrorString() tells the fault, with the label that was in force when the kernel was launched.
#include "kernels/emu/cuda_runtime.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace {
struct EventState { long recorded = 0, done = 0; double seconds = 0; };     // how often; when last
struct Item {
    std::function<void()>       run;
    std::shared_ptr<EventState> after;                  // null, or the event whose `version`th record comes first
    long                        version;
};
struct Scope { std::string label; std::vector<EmuWindow> windows; };
struct Injection { std::string function; int nth = 0; cudaError_t error = cudaSuccess; };
}

struct EmuCudaStream {
    std::deque<Item>  queue;
    bool              capturing = false, invalid = false;
    std::vector<Item> captured;
};
struct EmuCudaEvent { std::shared_ptr<EventState> state; };
struct EmuCudaGraph { std::vector<Item> items; };
struct EmuCudaExec  { std::vector<Item> items; };

namespace {
constexpr size_t MIB = 1 << 20;

struct Runtime {
    EmuMachine  machine;
    Injection   injection;
    long        calls = 0;
    int         gpu = 0;
    cudaError_t sticky = cudaSuccess;
    std::string fault;                                  // what a kernel did wrong
    uint64_t    random = 0;
    size_t      used = 0;
    std::map<void *, size_t> device, pinned;
    std::vector<EmuCudaStream *> streams;
    std::map<const Stream *, EmuCudaStream *> bound;
    std::shared_ptr<const Scope> scope = std::make_shared<Scope>();
    Runtime();
};

EmuMachine first_machine() { return { CUDART_VERSION, 2, 0, 64 * 1024 * MIB, 0 }; }

Runtime::Runtime() : machine(first_machine()) {
    const char *text = getenv("CBDM_EMU_CUDA");
    std::string rest = text ? text : "";
    while (!rest.empty()) {
        size_t comma = rest.find(',');
        std::string item = rest.substr(0, comma), key = item.substr(0, item.find('='));
        const char *value = item.c_str() + (key.size() < item.size() ? key.size() + 1 : key.size());
        char function[64];
        int nth, code;
        if (key == "driver") machine.driver = atoi(value);
        else if (key == "gpus") machine.gpus = atoi(value);
        else if (key == "cc") machine.cc = atoi(value);
        else if (key == "limit") machine.limit = (size_t)atoi(value) * MIB;
        else if (key == "seed") machine.seed = (uint64_t)atoll(value);
        else if (key == "fail" && sscanf(value, "%63[^:]:%d:%d", function, &nth, &code) == 3)
            injection = { function, nth, (cudaError_t)code };
        else fatal(__FILE__, __LINE__, "CBDM_EMU_CUDA", "%s: keys are driver, gpus, cc, limit, seed, fail=CALL:N:CODE",
                   item.c_str());
        rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
    }
}

Runtime &runtime() {
    static Runtime r;
    return r;
}

// splitmix64, started by the machine's seed
uint64_t draw(Runtime &r) {
    uint64_t z = (r.random += 0x9E3779B97F4A7C15u) + r.machine.seed * 0xD1B54A32D192ED03u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

bool ends_context(cudaError_t e) {
    return e == cudaErrorIllegalAddress || e == cudaErrorLaunchFailure || e == cudaErrorHardwareStackError ||
           e == cudaErrorECCUncorrectable || e == cudaErrorNvlinkUncorrectable || e == cudaErrorUnknown;
}

void fail_for_good(Runtime &r, cudaError_t e) {
    if (r.sticky == cudaSuccess) r.sticky = e;
    for (EmuCudaStream *s : r.streams) s->queue.clear();
}

// Whether the call `function` is the one that is to fail.
cudaError_t injected(Runtime &r, const char *function) {
    r.calls++;
    Injection &i = r.injection;
    if (i.nth <= 0 || (i.function != "any" && i.function != function) || --i.nth > 0) return cudaSuccess;
    if (ends_context(i.error)) fail_for_good(r, i.error);
    return i.error;
}

// ---- running what is queued
bool can_run(const EmuCudaStream *s) {
    return !s->queue.empty() && (!s->queue.front().after || s->queue.front().after->done >= s->queue.front().version);
}

void run_first(EmuCudaStream *s) {
    Item item = std::move(s->queue.front());
    s->queue.pop_front();
    if (item.run) item.run();
}

EmuCudaStream *next_stream(Runtime &r, EmuCudaStream *wanted) {
    if (!r.machine.seed && wanted && can_run(wanted)) return wanted;
    std::vector<EmuCudaStream *> ready;
    for (EmuCudaStream *s : r.streams)
        if (can_run(s)) ready.push_back(s);
    if (ready.empty()) return nullptr;
    return ready[r.machine.seed ? draw(r) % ready.size() : 0];
}

cudaError_t run_until(Runtime &r, EmuCudaStream *wanted, const std::function<bool()> &reached) {
    while (r.sticky == cudaSuccess && !reached()) {
        EmuCudaStream *s = next_stream(r, wanted);
        CHECK(s, "the emulated GPU waits for an event that nothing will record");
        run_first(s);
    }
    return r.sticky;
}

cudaError_t run_everything(Runtime &r) {
    return run_until(r, nullptr, [&r] {
        for (EmuCudaStream *s : r.streams)
            if (!s->queue.empty()) return false;
        return true;
    });
}

// The beginning of every call: failures asked for, failures that stay, now and then some work behind the host's back.
cudaError_t enter(Runtime &r, const char *function) {
    cudaError_t e = injected(r, function);
    if (e != cudaSuccess || r.sticky != cudaSuccess) return e != cudaSuccess ? e : r.sticky;
    while (r.machine.seed && draw(r) % 2) {
        EmuCudaStream *s = next_stream(r, nullptr);
        if (!s) break;
        run_first(s);
    }
    return r.sticky;
}
#define ENTER(r, function)                                                                                          \
    Runtime &r = runtime();                                                                                         \
    if (cudaError_t entered_ = enter(r, function)) return entered_

void push(EmuCudaStream *s, Item item) {
    if (s->capturing) s->captured.push_back(std::move(item));
    else s->queue.push_back(std::move(item));
}

// Calls that wait or allocate are not allowed while a stream is captured, and spoil the capture.
bool breaks_capture(Runtime &r) {
    bool any = false;
    for (EmuCudaStream *s : r.streams) {
        s->invalid |= s->capturing;
        any |= s->capturing;
    }
    return any;
}

// Runs `work`; what the emulator finds fault with in it ends the context.
void run_watched(Runtime &r, const std::string &label, const std::function<void()> &work) {
    int before = emu_faults();
    work();
    if (emu_faults() == before) return;
    r.fault = label + (label.empty() ? "" : ": ") + emu_first_fault();
    fail_for_good(r, cudaErrorLaunchFailure);
}

bool is_pinned(const Runtime &r, const void *p, size_t bytes) {
    for (auto &block : r.pinned)
        if ((const char *)p >= (char *)block.first && (const char *)p + bytes <= (char *)block.first + block.second)
            return true;
    return false;
}

double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int gpu_cc(const EmuMachine &m, int i) { return m.cc ? m.cc : i % 2 ? 90 : 80; }
}

// ---- the machine
EmuMachine *emu_machine(void) { return &runtime().machine; }
long        emu_cuda_calls(void) { return runtime().calls; }

void emu_cuda_fail(const char *function, int nth, cudaError_t e) { runtime().injection = { function, nth, e }; }

void emu_cuda_reset(void) {
    Runtime &r = runtime();
    for (EmuCudaStream *s : r.streams) {
        s->queue.clear();
        s->captured.clear();
        s->capturing = s->invalid = false;
    }
    r.sticky = cudaSuccess;
    r.fault.clear();
    r.injection = {};
    r.machine = first_machine();
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = runtime().machine.driver;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    ENTER(r, "cudaGetDeviceCount");
    *count = 0;
    if (r.machine.driver / 1000 < CUDART_VERSION / 1000) return cudaErrorInsufficientDriver;
    if (r.machine.gpus == 0) return cudaErrorNoDevice;
    *count = r.machine.gpus;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    ENTER(r, "cudaGetDeviceProperties");
    if (device < 0 || device >= r.machine.gpus) return cudaErrorInvalidDevice;
    int cc = gpu_cc(r.machine, device);
    *p = {};
    snprintf(p->name, sizeof p->name, "emulated GPU");
    p->totalGlobalMem = r.machine.limit;
    p->major = cc / 10;
    p->minor = cc % 10;
    p->multiProcessorCount = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    ENTER(r, "cudaSetDevice");
    if (device < 0 || device >= r.machine.gpus) return cudaErrorInvalidDevice;
    r.gpu = device;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    ENTER(r, "cudaMemGetInfo");
    *total = r.machine.limit;
    *free_bytes = r.used < r.machine.limit ? r.machine.limit - r.used : 0;
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t e) {
    const Runtime &r = runtime();
    switch (e) {
    case cudaSuccess:                       return "no error";
    case cudaErrorInvalidValue:             return "invalid argument";
    case cudaErrorMemoryAllocation:         return "out of memory";
    case cudaErrorInsufficientDriver:       return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:                 return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:            return "invalid device ordinal";
    case cudaErrorNoKernelImageForDevice:   return "no kernel image is available for execution on the device";
    case cudaErrorECCUncorrectable:         return "uncorrectable ECC error encountered";
    case cudaErrorIllegalAddress:           return "an illegal memory access was encountered";
    case cudaErrorLaunchFailure:            return r.fault.empty() ? "unspecified launch failure" : r.fault.c_str();
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    default:                                return "an emulated error";
    }
}

// ---- memory
cudaError_t cudaMalloc(void **p, size_t bytes) {
    ENTER(r, "cudaMalloc");
    if (breaks_capture(r)) return cudaErrorStreamCaptureUnsupported;
    *p = bytes <= r.machine.limit - r.used && r.used <= r.machine.limit ? emu_malloc(bytes ? bytes : 1) : nullptr;
    if (!*p) return cudaErrorMemoryAllocation;
    r.device[*p] = bytes;
    r.used += bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    if (!p) return cudaSuccess;
    Runtime &r = runtime();                             // also in a context that has ended: the heap is the host's
    cudaError_t e = enter(r, "cudaFree");
    if (breaks_capture(r)) return cudaErrorStreamCaptureUnsupported;
    if (e == cudaSuccess) e = run_everything(r);
    auto at = r.device.find(p);
    if (at == r.device.end()) return cudaErrorInvalidValue;
    r.used -= at->second;
    r.device.erase(at);
    emu_free(p);
    return e;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags) {
    (void)flags;
    ENTER(r, "cudaHostAlloc");
    if (breaks_capture(r)) return cudaErrorStreamCaptureUnsupported;
    *p = calloc(bytes ? bytes : 1, 1);
    if (!*p) return cudaErrorMemoryAllocation;
    r.pinned[*p] = bytes;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p) {
    Runtime &r = runtime();
    cudaError_t e = run_everything(r);
    if (p && !r.pinned.erase(p)) return cudaErrorInvalidValue;
    free(p);
    return e;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t s) {
    ENTER(r, "cudaMemcpyAsync");
    const void *host = kind == cudaMemcpyHostToDevice ? src : dst;
    if (kind != cudaMemcpyDeviceToDevice && !is_pinned(r, host, bytes)) return cudaErrorInvalidValue;
    push(s, { [dst, src, bytes, kind] {
        run_watched(runtime(), "copy", [&] {
            if (kind == cudaMemcpyHostToDevice) emu_host_write(dst, src, bytes);
            else if (kind == cudaMemcpyDeviceToHost) emu_host_read(dst, src, bytes);
            else emu_device_copy(dst, src, bytes);
        });
    }, nullptr, 0 });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s) {
    ENTER(r, "cudaMemsetAsync");
    push(s, { [p, value, bytes] { emu_device_set(p, value, bytes); }, nullptr, 0 });
    return cudaSuccess;
}

// ---- streams and events
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) {
    (void)flags;
    ENTER(r, "cudaStreamCreateWithFlags");
    r.streams.push_back(*s = new EmuCudaStream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s) {
    Runtime &r = runtime();
    cudaError_t e = run_until(r, s, [s] { return s->queue.empty(); });
    for (size_t i = 0; i < r.streams.size(); i++)
        if (r.streams[i] == s) r.streams.erase(r.streams.begin() + (long)i--);
    delete s;
    return e;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    ENTER(r, "cudaStreamSynchronize");
    if (breaks_capture(r)) return cudaErrorStreamCaptureUnsupported;
    return run_until(r, s, [s] { return s->queue.empty(); });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags) {
    (void)flags;
    ENTER(r, "cudaStreamWaitEvent");
    push(s, { nullptr, e->state, e->state->recorded });
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) {
    (void)flags;
    ENTER(r, "cudaEventCreateWithFlags");
    *e = new EmuCudaEvent{ std::make_shared<EventState>() };
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e) {
    delete e;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    ENTER(r, "cudaEventRecord");
    std::shared_ptr<EventState> state = e->state;
    long version = ++state->recorded;
    push(s, { [state, version] {
        state->done = version;
        state->seconds = seconds_now();
    }, nullptr, 0 });
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t e) {
    ENTER(r, "cudaEventQuery");
    return e->state->done >= e->state->recorded ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    ENTER(r, "cudaEventSynchronize");
    if (breaks_capture(r)) return cudaErrorStreamCaptureUnsupported;
    std::shared_ptr<EventState> state = e->state;
    return run_until(r, nullptr, [state] { return state->done >= state->recorded; });
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
    ENTER(r, "cudaEventElapsedTime");
    const EventState &a = *start->state, &b = *end->state;
    if (a.done < a.recorded || b.done < b.recorded) return cudaErrorNotReady;
    *ms = (float)((b.seconds - a.seconds) * 1e3);
    return cudaSuccess;
}

// ---- graphs
cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode) {
    (void)mode;
    ENTER(r, "cudaStreamBeginCapture");
    if (s->capturing) return cudaErrorStreamCaptureUnsupported;
    s->capturing = true;
    s->invalid = false;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g) {
    *g = nullptr;
    bool was = s->capturing, spoiled = s->invalid;
    std::vector<Item> items = std::move(s->captured);
    s->captured.clear();
    s->capturing = false;
    ENTER(r, "cudaStreamEndCapture");
    if (!was || spoiled) return cudaErrorStreamCaptureInvalidated;
    *g = new EmuCudaGraph{ std::move(items) };
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *status) {
    ENTER(r, "cudaStreamIsCapturing");
    *status = !s->capturing ? cudaStreamCaptureStatusNone
                            : s->invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long flags) {
    (void)flags;
    ENTER(r, "cudaGraphInstantiateWithFlags");
    *x = new EmuCudaExec{ g->items };
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g) {
    delete g;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s) {
    ENTER(r, "cudaGraphLaunch");
    for (const Item &item : x->items) push(s, item);
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x) {
    delete x;                                           // what is queued keeps its own hold on the closures
    return cudaSuccess;
}

// ---- kernels
void emu_stream_bind(Stream *s, cudaStream_t handle) {
    if (handle) runtime().bound[s] = handle;
    else runtime().bound.erase(s);
}

void emu_launch_scope(const char *label, const EmuWindow *w, int n) {
    auto scope = std::make_shared<Scope>();
    scope->label = label ? label : "";
    if (n) scope->windows.assign(w, w + n);
    runtime().scope = scope;
}

void emu_queue_launch(Stream *s, void (*run)(void *closure), void *closure, void (*release)(void *closure)) {
    Runtime &r = runtime();
    std::shared_ptr<void> hold(closure, release);
    auto at = r.bound.find(s);
    if (at == r.bound.end()) {
        int before = emu_faults();
        run(closure);
        if (emu_faults() != before) stream_fail(s, cudaErrorLaunchFailure, emu_first_fault());
        return;
    }
    if (cudaError_t e = enter(r, "launch")) {
        stream_fail(s, e, cudaGetErrorString(e));
        return;
    }
    push(at->second, { [hold, run, scope = r.scope] {
        Runtime &now = runtime();
        cudaError_t e = injected(now, "execution");
        if (e != cudaSuccess) {
            now.fault = scope->label + ": an injected failure";
            return fail_for_good(now, e);
        }
        emu_windows(scope->windows.data(), (int)scope->windows.size());
        run_watched(now, scope->label, [&] { run(hold.get()); });
        emu_windows(nullptr, 0);
    }, nullptr, 0 });
}
