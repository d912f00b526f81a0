// tests/workbench.h - the verbs for those who write kernels: check, op, bench.
#ifndef TESTS_WORKBENCH_H
#define TESTS_WORKBENCH_H
#include "core/base.h"
EXTERN_C_BEGIN
int check_main(int argc, char **argv);       // cbdm check LAUNCHER: direct calls (launchers.c), against ref
int op_main(int argc, char **argv);          // cbdm op LAUNCHER: one launcher on arrays from a file
int bench_main(int argc, char **argv);       // cbdm bench: every launcher at the network's shapes
EXTERN_C_END
#endif
