// kernels/common/launch_log.h - which kernels a launcher launched, for a bench that tells what they need of the GPU.
#ifndef KERNELS_LAUNCH_LOG_H
#define KERNELS_LAUNCH_LOG_H
#include <stdbool.h>
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif
enum { LAUNCH_LOG_MAX = 16 };
typedef struct {
    const char *name;             // as the source writes it, template arguments included
    const void *kernel;           // for cudaFuncGetAttributes; NULL on the emulator
    int         threads;          // of a block
    size_t      shared;           // dynamic bytes
} LaunchRecord;
typedef struct { LaunchRecord record[LAUNCH_LOG_MAX]; int n; } LaunchLog;
extern LaunchLog *launch_log;     // where LAUNCH writes; NULL, as nearly always: nowhere
void launch_log_add(const char *name, const void *kernel, int threads, size_t shared);   // only if launch_log
#ifdef __cplusplus
}
#endif
#endif
