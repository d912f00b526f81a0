// eval/adm.h - reference batches as ADM's evaluator (guided-diffusion) reads them.
#ifndef EVAL_ADM_H
#define EVAL_ADM_H
#include "eval/extractor.h"
EXTERN_C_BEGIN
// .npz of arr_0, the images as bytes (n,height,width,3), grey repeated; s holds u8. e, the Inception network under the
// protocol tf, or NULL: also mu, sigma of its features and mu_s, sigma_s of its spatial features. The evaluator takes
// these four together or computes them itself.
bool adm_write(const char *path, const ImageSet *s, Extractor *e, Error *err);
EXTERN_C_END
#endif
