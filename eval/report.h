// eval/report.h - the verb `cbdm report`: a page about runs, tables of their results.
#ifndef EVAL_REPORT_H
#define EVAL_REPORT_H
#include "core/base.h"
EXTERN_C_BEGIN
int report_main(int argc, char **argv);
EXTERN_C_END
#endif
