// eval/reference.h - features of real images, extracted once and kept: what samples are measured against.
#ifndef EVAL_REFERENCE_H
#define EVAL_REFERENCE_H
#include "eval/extractor.h"
#include "eval/features.h"
EXTERN_C_BEGIN
// $XDG_CACHE_HOME/cbdm, else ~/.cache/cbdm; NULL where neither variable is set. Caller frees.
char *reference_cache_folder(void);
// Features of all images of s, with their labels and probabilities. They are read from the cache, where they lie under
// digest (of the images: DatasetInfo.digest), protocol and the weights' hash; else extracted and written there. A file
// of the cache that is damaged or of another shape is made anew; one that cannot be written is a warning.
bool  reference_features(Extractor *e, const ImageSet *s, const char *digest, Protocol p, Features *out, Error *err);
int   ref_main(int argc, char **argv);           // cbdm eval ref
EXTERN_C_END
#endif
