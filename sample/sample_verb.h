// sample/sample_verb.h - the verbs that use a finished network. argv[0] is the verb's name; they return the exit code.
#ifndef SAMPLE_SAMPLE_VERB_H
#define SAMPLE_SAMPLE_VERB_H
#include "core/base.h"
EXTERN_C_BEGIN
int sample_main(int argc, char **argv);      // draw images
int info_main(int argc, char **argv);        // what a checkpoint or another safetensors file holds
int export_main(int argc, char **argv);      // weights alone, under the published names
EXTERN_C_END
#endif
