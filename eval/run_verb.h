// eval/run_verb.h - the verb `cbdm eval run`: from images to every number about them.
#ifndef EVAL_RUN_VERB_H
#define EVAL_RUN_VERB_H
#include "core/base.h"
EXTERN_C_BEGIN
int run_main(int argc, char **argv);             // cbdm eval run. Exit code
EXTERN_C_END
#endif
