// tests/emu/probe.h - the conformance program's cases: what its kernels and its host side agree on.
//
// Every word of mma.cuh and hopper.cuh runs alone on random bits. A case's host side knows from the PTX ISA what must
// come out; the emulation is held to that, and a GPU to the emulation.
#ifndef TESTS_EMU_PROBE_H
#define TESTS_EMU_PROBE_H
#include "kernels/common/types.h"
EXTERN_C_BEGIN
// in, out: device memory. out was filled with bytes 0xCD before.
typedef void ProbeRun(Stream *s, const void *in, void *out, const int *arg);
#define PROBE_NAME_(name, kind) probe_##name##_##kind
#define PROBE_NAME(name, kind)  PROBE_NAME_(name, kind)
#define PROBE(name) EXTERN_C void PROBE_NAME(name, KERNEL_KIND)(Stream *s, const void *in, void *out, const int *arg)

enum {
    PROBE_ROWS = 64,                        // rows of 16 bytes that matrix words address
    PROBE_B = 49152, PROBE_SHARED = 98304,  // wgmma: where operand b lies in the image of shared memory; its size
};
// ldmatrix, stmatrix: arg { matrices, transposed }. in: PROBE_ROWS rows, then 32 row numbers (int), then 32 x 4 words.
// wgmma: arg as named here; in: the image, then 128 x 4 words of a for RS. out: each thread's n / 2 floats.
enum { WG_N, WG_TA, WG_TB, WG_LEADING_A, WG_STRIDE_A, WG_SWIZZLE_A, WG_LEADING_B, WG_STRIDE_B, WG_SWIZZLE_B, WG_STEPS,
       WG_ADVANCE_A, WG_ADVANCE_B, WG_START, WG_REGISTERS, WG_ARGS };
// TMA: arg[0] numbers one of these. in: the tensor, then (stores) the box.
typedef struct {
    const char *what;
    DType    dt;
    int      rank, swizzle;
    uint64_t dim[5], stride[4];             // elements; bytes
    uint32_t box[5], step[5];
    int      start[5];
} ProbeBox;
enum { PROBE_BOXES = 9, PROBE_TENSOR = 65536, PROBE_BOX = 32768 };
extern const ProbeBox probe_box[PROBE_BOXES];
EXTERN_C_END
#endif
