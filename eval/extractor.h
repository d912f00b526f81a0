// eval/extractor.h - from images to feature vectors and class probabilities: the classifier of our own, the Inception
// network of the FID. What a number means depends on how images reach the network: that is the protocol.
#ifndef EVAL_EXTRACTOR_H
#define EVAL_EXTRACTOR_H
#include "core/device.h"
#include "eval/features.h"
#include "eval/images.h"
EXTERN_C_BEGIN
// cbdm: floats as drawn, half-pixel bilinear resize, 2v/255 - 1 (the published CBDM evaluation; on 8-bit images
// reported as "cbdm,uint8"). pytorch-fid: the same after quantising. tf: quantised, TF1 bilinear, (v - 128)/128 (TTUR,
// EDM, ADM). clean: quantised, antialiased bicubic as Pillow does, clipped, (v - 128)/128 (clean-fid).
typedef enum { PROTOCOL_CBDM, PROTOCOL_PYTORCH_FID, PROTOCOL_TF, PROTOCOL_CLEAN } Protocol;
extern const char *const protocol_names[];       // "cbdm", "pytorch-fid", "tf", "clean", NULL: for a FLAG_ENUM
bool protocol_quantises(Protocol p);

typedef struct Extractor Extractor;
// What every extractor is to the rest of eval. pixels (n,h,w,c): 0..255 as floats, n at most `batch`; features (n,dim);
// probs (n,classes) softmax, or NULL if not wanted. An image's row does not depend on those beside it.
struct Extractor {
    int   dim, classes, batch;
    int   height, width, channels;               // of the images it takes; 0: any size, 1 or 3 channels
    char  name[64];                              // "classifier resnet32", "inception 2015-12-05"
    char  hash[65];                              // SHA-256 of the weights' file
    void *self;
    void (*run)(void *self, int n, int h, int w, int c, const float *pixels, float *features, float *probs);
    void (*close)(void *self);
};
// weights: a checkpoint of `cbdm eval train-classifier` (eval/classifier.h). Images of another size or channel count
// than it was trained on are refused by extractor_check.
Extractor *extractor_classifier(Device *d, const char *weights, int batch, Error *err);       // NULL: *err
// weights: pt_inception-2015-12-05-6726825d.pth (legacy or zip .pt) or safetensors of the same names; "" looks in
// torch's hub cache and, where it is absent, says where to get it. dim 2048, classes 1008 (without the bias).
Extractor *extractor_inception(Device *d, const char *weights, Protocol p, int batch, Error *err);
// The spatial features of ADM's sFID (rows,columns,channels of an inner layer) for the n images of the last e->run. out
// (n,2023). False: e is not the Inception network.
enum { EXTRACTOR_SPATIAL_DIM = 17 * 17 * 7 };
bool       extractor_spatial(const Extractor *e, int n, float *out);
void       extractor_close(Extractor *e);                         // NULL is fine
// probs (n) = exp(logits) over their sum, in double; may be logits. For those who write extractors.
void       extractor_softmax(const float *logits, int n, float *probs);
bool       extractor_check(const Extractor *e, const ImageSet *s, Error *err);
// All images of s. features (n,dim), probs (n,classes) or NULL: written. progress on stderr.
void       extractor_run(Extractor *e, const ImageSet *s, bool quantise, float *features, float *probs);
// The same as a table of its own, with the labels of s.
void       extractor_table(Extractor *e, const ImageSet *s, bool quantise, Features *out);
EXTERN_C_END
#endif
