// eval/classifier.h - a ResNet for small images (He et al. 2016, section 4.2; option A shortcuts), trained by the recipe
// of LDAM-DRW (Cao et al. 2019): feature extractor without downloads, judge of labels, and the network of the
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
typedef struct Classifier Classifier;
// New, with initial weights. Loads nothing.
Classifier *classifier_new(Device *d, int classes, int height, int width, int channels, const ClassifierRecipe *r);
// From a file. batch: images of one pass of classifier_run. NULL: *err.
Classifier *classifier_open(Device *d, const char *path, int batch, Error *err);
void        classifier_close(Classifier *c);                      // NULL is fine
// Trains on the images of all sets together (each with labels). quiet: no progress lines. False: diverged (*err).
bool        classifier_train(Classifier *c, const ImageSet *sets, int n_sets, bool quiet, Error *err);
// safetensors, names as in the published ResNet state dict; metadata: configuration, digest of what it was trained on.
bool        classifier_save(const Classifier *c, const char *path, const char *data_digest, Error *err);
int         classifier_dim(const Classifier *c);                  // of the features: 4 width, after the average pool
int         classifier_classes(const Classifier *c);
// features (n,dim), logits (n,classes): NULL if not wanted.
void        classifier_run(Classifier *c, const ImageSet *s, float *features, float *logits);
// right (classes) of seen (classes) images are given their own label first. s has labels.
void        classifier_judge(Classifier *c, const ImageSet *s, int64_t *right, int64_t *seen);
int         train_classifier_main(int argc, char **argv);         // cbdm eval train-classifier
EXTERN_C_END
#endif
