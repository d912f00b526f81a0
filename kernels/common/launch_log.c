// kernels/common/launch_log.c - the log that a bench hangs in.
#include "kernels/common/launch_log.h"

LaunchLog *launch_log;

void launch_log_add(const char *name, const void *kernel, int threads, size_t shared) {
    for (int i = 0; i < launch_log->n; i++)
        if (launch_log->record[i].kernel == kernel && launch_log->record[i].name == name) return;
    if (launch_log->n < LAUNCH_LOG_MAX)
        launch_log->record[launch_log->n++] = (LaunchRecord){ name, kernel, threads, shared };
}
