// eval/inception.h - the Inception network of the FID (Szegedy et al. 2016, as TensorFlow's inception-2015-12-05 has
// it) and the files its weights come in. eval/extractor.h is what others use.
#ifndef EVAL_INCEPTION_H
#define EVAL_INCEPTION_H
#include "core/graph.h"
#include "core/torch_file.h"
EXTERN_C_BEGIN
enum {
    INCEPTION_SIDE = 299, INCEPTION_DIM = 2048, INCEPTION_CLASSES = 1008,
    INCEPTION_MAP = 17, INCEPTION_MAP_CHANNELS = 7,              // ADM's spatial features: 17 x 17 pixels of 7 channels
};
// Named tensors of a file of torch.save or a safetensors file.
typedef struct { TorchFile *torch; SafeTensors *safe; const char *path; } WeightFile;
bool weight_file_open(WeightFile *w, const char *path, Error *err);
void weight_file_close(WeightFile *w);
int  weight_file_count(const WeightFile *w);
const StTensor *weight_file_get(const WeightFile *w, int i);
const StTensor *weight_file_find(const WeightFile *w, const char *name);            // NULL if absent
// Where the published weights are: `given`, or for "" the places where torch.hub keeps downloads. Caller frees. NULL:
// *err says where to get them.
char *inception_find_weights(const char *given, Error *err);

// The network with its weights on the device and a recorded pass over `batch` images.
typedef struct Inception Inception;
Inception *inception_new(Device *d, const WeightFile *w, int batch, Error *err);    // NULL: *err names the tensor
// The same with weights that are left undefined, for who wants to know what the pass is made of.
Inception *inception_bare(Device *d, int batch);
const Graph *inception_graph(const Inception *p);
void inception_free(Inception *p);                                                  // NULL is fine
// images (batch,299,299,3), scaled as the protocol says; features (batch,2048): what pool3 gives; logits (batch,1008),
// without the bias, as the Inception Score takes them.
void inception_run(Inception *p, const float *images, float *features, float *logits);
// Of the last run (batch,17,17,7): the first channels of Mixed_6d.branch1x1, which ADM's sFID is computed from.
void inception_spatial(const Inception *p, float *out);
EXTERN_C_END
#endif
