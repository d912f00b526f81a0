// tests/emu/planted.h - the small kernels of planted.cu: each is right, or wrong in one planted way.
#ifndef TESTS_EMU_PLANTED_H
#define TESTS_EMU_PLANTED_H
#include "kernels/common/types.h"
EXTERN_C_BEGIN
enum { PLANTED_THREADS = 64, PLANTED_BLOCKS = 4, PLANTED_FLOATS = PLANTED_THREADS * PLANTED_BLOCKS };
typedef struct {
    const char *name;           // marks its lines in planted.cu
    const char *kind;           // of the report
    bool        two;            // names a second line, marked "NAME_2"
    // in: PLANTED_FLOATS floats of device memory. out: as many, zero before. host: as many of the host's.
    void (*run[2])(const float *in, float *out, float *host);       // right, wrong
} Planted;
extern const Planted planted[];
extern const int planted_count;
EXTERN_C_END
#endif
