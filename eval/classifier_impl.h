// eval/classifier_impl.h - the classifier's own fields and parts, for eval/classifier*.c and their tests only.
#ifndef EVAL_CLASSIFIER_IMPL_H
#define EVAL_CLASSIFIER_IMPL_H
#include "core/cli.h"
#include "core/ops.h"
#include "eval/classifier.h"
EXTERN_C_BEGIN
// ---- configuration: the recipe and the images it is for. The recipe comes first: offsets of its flags hold here too.
typedef struct { ClassifierRecipe recipe; int classes, height, width, channels; } ClassifierConfig;
enum { CLASSIFIER_MAX_BLOCKS = 18, CLASSIFIER_MAX_CONVS = 1 + 6 * CLASSIFIER_MAX_BLOCKS, CLASSIFIER_MAX_WIDTH = 512 };
extern const Flag classifier_recipe_flags[];                      // offsets in ClassifierRecipe
extern const int  classifier_recipe_n_flags;
char *classifier_config_json(const ClassifierConfig *c);          // caller frees
// where: the file it comes from. False: unknown or missing members, or a network that cannot be.
bool  classifier_config_parse(const char *json, const char *where, ClassifierConfig *out, Error *err);
int64_t classifier_steps(const ClassifierRecipe *r, int64_t images);
// Of step 0 .. steps - 1: a ramp over the first 5 epochs, or a tenth of the steps if that is less, up to r->lr; times
// 0.01 from 80% and again from 90% of the steps.
double  classifier_lr(const ClassifierRecipe *r, int64_t images, int64_t step);

// ---- data
typedef struct { int dy, dx; bool mirror; } Augment;              // the crop's corner, -pad .. pad, in the image
// A pure function of its arguments: image counts over all sets.
Augment classifier_draw(const ClassifierRecipe *r, int64_t epoch, int64_t image);
// image (h,w,c) on the scale 0..255, black beyond its edges -> out (h,w,c) = (v / 255 - mean) / std.
void    classifier_prepare(const float *image, const ClassifierConfig *c, const float *mean, const float *std,
                           Augment a, float *out);
// order (n): the permutation of an epoch.
void    classifier_shuffle(uint64_t seed, int64_t epoch, int64_t n, int64_t *order);
// Mean and standard deviation of each channel over all pixels of all sets, on the scale 0..1.
void    classifier_statistics(const ImageSet *sets, int n_sets, float *mean, float *std);

// ---- the network: convolution 0 is the stem, then two for each block
typedef struct { Param *conv, *gamma, *beta; Tensor *mean, *var; } ConvNorm;   // mean, var (C): running statistics
// conv, norm: names, as "layer1.0.conv1" and "layer1.0.bn1"
typedef struct { char conv[40], norm[40]; int c_in, c_out, stride; } ConvSpec;
typedef struct { Graph *graph; Tensor *x, *label, *lr, *features, *logits, *loss; } ClassifierPass;
struct Classifier {
    ClassifierConfig cfg;
    Device   *device;
    ParamSet *params;
    ConvNorm  conv[CLASSIFIER_MAX_CONVS];
    Param    *weight, *bias;                                      // of the linear layer
    Tensor   *shortcut[2];                                        // (2C,1,1,C) zeros and ones, of stages 2 and 3
    Tensor   *lr, *offset;                                        // (1); (classes), NULL: no logit adjustment
    float     mean[3], std[3];                                    // of the images trained on
    char      digest[65];
    int       batch;                                              // of `infer`
    Arena    *arena;
    ClassifierPass infer, train;                                  // train: of new ones only
    float    *staging;                                            // (batch,H,W,C)
};
int      classifier_convs(const ClassifierRecipe *r);             // 1 + 6 blocks
ConvSpec classifier_conv_spec(const ClassifierConfig *c, int i);
void     classifier_build(Classifier *c);                         // parameters, with initial values
ClassifierPass classifier_record(Classifier *c, int batch, bool training);
// One step: x (batch,H,W,C) prepared images. Returns before a GPU has done it.
void     classifier_step(Classifier *c, const float *x, const int32_t *label, double lr);
int      classifier_largest(const float *x, int n);               // position of the largest; the first of equal ones
// ---- files. where: the file's name, for messages
bool     classifier_read_config(const SafeTensors *st, const char *where, ClassifierConfig *out, Error *err);
// That the file holds exactly the tensors of c, finite; classifier_load then reads them.
bool     classifier_check_tensors(const SafeTensors *st, const char *where, const ClassifierConfig *c, Error *err);
void     classifier_load(Classifier *c, const SafeTensors *st);
// A training after `step` of `steps` steps: goes on from there with the same bits. False: the file is of another one,
// or damaged, and c as it was.
bool     classifier_save_stopped(const Classifier *c, const char *path, const char *data_digest, int64_t step,
                                 Error *err);
bool     classifier_load_stopped(Classifier *c, const char *path, const char *data_digest, int64_t steps, int64_t *step,
                                 Error *err);
// classifier_train, which leaves its state at keep->path when it is stopped and from time to time, and goes on from
// what it finds there; the caller removes the file once it is of no use. keep NULL: nothing is kept.
typedef struct { const char *path, *data_digest; } Keep;
bool     classifier_train_kept(Classifier *c, const ImageSet *sets, int n_sets, bool quiet, const Keep *keep,
                               Error *err);
EXTERN_C_END
#endif
