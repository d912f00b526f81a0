// eval/eval_verb.h - the verb `cbdm eval`, which hands over to one of its own verbs.
#ifndef EVAL_EVAL_VERB_H
#define EVAL_EVAL_VERB_H
#include "core/base.h"
EXTERN_C_BEGIN
int eval_main(int argc, char **argv);            // argv[0] is "eval", argv[1] names what to do. Exit code
EXTERN_C_END
#endif
