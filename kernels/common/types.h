// kernels/common/types.h - what kernels and core share: element types, layouts, device kinds, streams, step state.
#ifndef KERNELS_COMMON_TYPES_H
#define KERNELS_COMMON_TYPES_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
#define EXTERN_C       extern "C"
#define EXTERN_C_BEGIN extern "C" {
#define EXTERN_C_END   }
#define NORETURN       [[noreturn]]
#else
#define EXTERN_C       extern
#define EXTERN_C_BEGIN
#define EXTERN_C_END
#define NORETURN       _Noreturn
#endif
EXTERN_C_BEGIN
// How a tensor is stored. F64 on ref64 only, where it stands in for every F32.
typedef enum { DT_F32, DT_BF16, DT_F64, DT_I32, DT_U8 } DType;
size_t dtype_size(DType dt);
const char *dtype_name(DType dt);

// What a contract calls `real` is float; the reference compiled for ref64 sees the same structs with double, so that
// gradient checks run in double through the same source. bf16 tensors are `void *` with a DType beside them.
#ifdef KERNEL_REAL
typedef KERNEL_REAL real;
#else
typedef float real;
#endif

// How the pixels of an image tensor (n,h,w,c) lie in memory. ld is the channel count of the tensor, or of the base that
// a view takes its channels from; hw = h * w.
//   NHWC  element (i,p,k) at (i * hw + p) * ld + k
//   C16   element (i,p,k) at i * hw * ld + (k / 16) * hw * 16 + p * 16 + k % 16: cpu only, c and ld multiples of 16
typedef enum { LAYOUT_NHWC, LAYOUT_C16 } Layout;
static inline int64_t layout_index(Layout l, int64_t hw, int64_t ld, int64_t i, int64_t p, int64_t k) {
    return l == LAYOUT_C16 ? i * hw * ld + (k / 16) * hw * 16 + p * 16 + k % 16 : (i * hw + p) * ld + k;
}

typedef enum { ACT_NONE, ACT_SILU, ACT_RELU } Act;   // RELU: batch normalization only
typedef enum {
    DEV_REF,    // plain loops, double accumulation: the definition every other kind is checked against
    DEV_REF32,  // the same source with float accumulation: the yardstick for how much rounding is fair
    DEV_REF64,  // the same source with double storage: for gradient checks
    DEV_CPU,    // C11 + OpenMP + oneDNN: the default on machines without a GPU
    DEV_EMU,    // the .cu files compiled as C++ and run on the host: for tests, not for training
    DEV_CUDA,   // the .cu files compiled by nvcc
    DEV_COUNT
} DeviceKind;

// Work is ordered within a stream. Never NULL; the host kinds have one that runs at once.
typedef struct Stream Stream;
typedef struct { int code; const char *what; } Status;   // code 0: fine; what: static text, or owned by the stream
Status stream_status(const Stream *s);                   // sticky first failure of a launch; run.c reads it per node
void   stream_fail(Stream *s, int code, const char *what);       // for launchers; what must outlive the stream
Stream *stream_host(void);                               // the one stream of the host kinds

// Everything that changes from step to step. Lives on the device, advanced by a node; launchers read it, so that
// a captured graph never holds a stale host scalar. 8-byte aligned, copied whole into checkpoints.
typedef struct {
    uint32_t seed[2];         // Philox key
    uint32_t step;            // third counter word of every draw
    int32_t  sampler_index;   // row of the sampler's coefficient table
    int64_t  updates;         // optimiser steps taken; the learning-rate and EMA schedules read it
    int64_t  skipped;         // optimiser steps refused because the gradient norm was not finite
    float    lr, grad_norm;   // of the current step
} StepState;

// A broken invariant is a bug or a machine fault: say where, in which graph node, with which numbers; then abort.
#define CHECK(cond, ...) ((cond) ? (void)0 : fatal(__FILE__, __LINE__, #cond, __VA_ARGS__))
NORETURN void fatal(const char *file, int line, const char *cond, const char *fmt, ...);
NORETURN void out_of_memory(size_t bytes);    // no bug: one line, exit code 4
void crumb_set(const char *where);            // thread-local breadcrumb printed by fatal(); graph_run sets it per node
EXTERN_C_END
#endif
