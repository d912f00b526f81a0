// eval/classifier.h - a ResNet for small images (He et al. 2016, section 4.2; option A shortcuts), trained by the
// recipe of LDAM-DRW (Cao et al. 2019): feature extractor without downloads, judge of labels, and the network of the
// long-tailed recognition experiments.
#ifndef EVAL_CLASSIFIER_H
#define EVAL_CLASSIFIER_H
#include "core/device.h"
#include "eval/images.h"
EXTERN_C_BEGIN
// SGD with momentum 0.9, weight decay 2e-4, batch 128, lr 0.1 with 5 epochs of warm-up, times 0.01 after 80% and again
// after 90% of the epochs; random crop from 4 pixels of padding, flip (where mirrored images are of the same class).
typedef struct {
    int      depth;                   // 6 k + 2: 32 has 3 stages of 5 blocks, 16, 32, 64 channels
    int      width;                   // channels of the first stage: 16
    double   epochs, lr, momentum, weight_decay;
    int      batch, crop_pad;
    bool     flip;
    double   logit_adjust;            // Menon et al. 2021: logits + this * log(class frequency) in the loss; 0: plain
    uint64_t seed;
} ClassifierRecipe;
extern const ClassifierRecipe classifier_recipe;                  // the defaults named above; epochs 200
// "standard": the defaults; "quick": a depth and a number of epochs for a CPU. False: there is no such preset.
bool        classifier_preset(const char *name, ClassifierRecipe *r);
bool        classifier_recipe_check(const ClassifierRecipe *r, Error *err);
// Where a classifier trained by r on the data of this digest belongs: a file below $XDG_CACHE_HOME/cbdm or
// ~/.cache/cbdm; its folder is made. Caller frees. NULL: *err.
char       *classifier_cache_path(const char *data_digest, const ClassifierRecipe *r, Error *err);

typedef struct Classifier Classifier;
// New, with initial weights. Loads nothing. Images of 8 to 512 pixels a side, 1 or 3 channels.
Classifier *classifier_new(Device *d, int classes, int height, int width, int channels, const ClassifierRecipe *r);
// From a file. batch: images of one pass of classifier_run. NULL: *err.
Classifier *classifier_open(Device *d, const char *path, int batch, Error *err);
void        classifier_close(Classifier *c);                      // NULL is fine
// Trains a new one on the images of all sets together (each with labels). quiet: no progress lines. False: labels or
// sizes that do not fit, diverged (ERR_DIVERGED), stop_requested (ERR_INTERRUPTED).
bool        classifier_train(Classifier *c, const ImageSet *sets, int n_sets, bool quiet, Error *err);
// safetensors, names as in the published ResNet state dict; metadata: configuration, digest of what it was trained on.
bool        classifier_save(const Classifier *c, const char *path, const char *data_digest, Error *err);
int         classifier_dim(const Classifier *c);                  // of the features: 4 width, after the average pool
int         classifier_classes(const Classifier *c);
void        classifier_image(const Classifier *c, int *height, int *width, int *channels);
bool        classifier_takes(const Classifier *c, const ImageSet *s, Error *err);   // images of its size; else *err
const ClassifierRecipe *classifier_recipe_of(const Classifier *c);
const char *classifier_data_digest(const Classifier *c);          // of what its file says it was trained on; "": new
// features (n,dim), logits (n,classes): NULL if not wanted. The classifier takes images such as s holds.
void        classifier_run(Classifier *c, const ImageSet *s, float *features, float *logits);
// The same of pixels (n,height,width,channels) on the scale 0..255.
void        classifier_run_pixels(Classifier *c, int64_t n, const float *pixels, float *features, float *logits);
// right (classes) of seen (classes) images are given their own label first. s has labels.
void        classifier_judge(Classifier *c, const ImageSet *s, int64_t *right, int64_t *seen);
int         train_classifier_main(int argc, char **argv);         // cbdm eval train-classifier
EXTERN_C_END
#endif
