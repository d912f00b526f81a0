// eval/questions.h - what long-tailed training makes one ask: are samples of the class that they were drawn as, are
// they copies, are they as varied as real ones, and does a classifier learn from them what it learns from real ones?
#ifndef EVAL_QUESTIONS_H
#define EVAL_QUESTIONS_H
#include "eval/classifier.h"
#include "eval/features.h"
#include "eval/groups.h"
#include "eval/result.h"
EXTERN_C_BEGIN
// What all of them are about. Classes keep the order of the labels.
typedef struct {
    int            classes;
    const int64_t *train_counts;                 // (classes) images that the samples' model was trained on
    const int     *group_of;                     // (classes), or NULL
    const char *const *names;                    // (classes)
} ClassTable;
// Shares right / seen, per class, of many, medium and few, and of all; NaN where nothing was seen.
typedef struct { double *by_class, by_group[GROUP_COUNT], all; } Shares;
void shares_of(const ClassTable *t, const int64_t *right, const int64_t *seen, Shares *out);
void shares_free(Shares *s);

// ---- label fidelity: what a classifier of balanced real images calls the samples
typedef struct {
    Shares   generated, real;                    // given their own label; real test images for comparison
    int64_t *confusion;                          // (classes,classes) samples: row drawn as, column given
    double  *borrowed;                           // (classes) share of a class's samples given a class of more images
} Fidelity;
// given: the classes that the classifier names first.
void     fidelity_of(const ClassTable *t, const int32_t *label, const int32_t *given, int64_t n,
                     const int32_t *real_label, const int32_t *real_given, int64_t real_n, Fidelity *out);
void     fidelity_free(Fidelity *f);
// (n) positions of the largest probability, the first of equal ones. Caller frees.
int32_t *largest_probs(const Features *f);

// ---- memorisation: the nearest training image of each sample, L2 between features
// A sample of class c is a copy if it lies nearer to some training image, of any class, than all but a share `quantile`
// of the held-out real images of class c do; or is one, at distance 0. Held-out images are copies by that share by
// construction, so that a rate above it is memorisation and not a matter of scale. A class of fewer than 1 / quantile
// held-out images takes the threshold of all classes together.
typedef struct { int label, train_label; int64_t gen, train; double distance; } NearPair;    // positions in the tables
typedef struct {
    double    quantile, threshold, *thresholds;  // of all held-out images; (classes)
    Shares    copies, real_copies;
    Shares    authentic;                         // Alaa et al. 2022: farther from the training image it is nearest to
    NearPair *pairs;                             //   than that one is from its own nearest; pairs: the NEAR_PAIRS
    int       n_pairs;                           //   nearest samples of each class, class by class
} Nearest;
enum { NEAR_PAIRS = 8 };
extern const double copy_quantile;               // 0.01
void nearest_of(const ClassTable *t, const Features *gen, const Features *held_out, const Features *train,
                Nearest *out);
void nearest_free(Nearest *n);

// ---- diversity: mean distance of two images of a class, over all pairs of its first DIVERSITY_MAX images
enum { DIVERSITY_MAX = 1000 };
void diversity_of(int classes, const Features *f, double *out);         // out (classes), NaN below two images

// ---- recognition: ResNets trained on samples alone, on long-tailed data, on both; top-1 on real test images
typedef struct { bool generated, adjusted; int64_t n_train; Shares top1; } Recognition;
// One classifier by recipe r on the sets, judged on `test`. False: *err.
bool recognise(Device *d, const ClassTable *t, const ClassifierRecipe *r, const ImageSet *sets, int n_sets,
               const ImageSet *test, Recognition *out, Error *err);
// Long-tailed data without and with all generated images, each with plain and with logit-adjusted loss (by the class
// frequencies of what it is trained on). out: DOWNSTREAM_ARMS.
enum { DOWNSTREAM_ARMS = 4 };
bool downstream(Device *d, const ClassTable *t, const ClassifierRecipe *r, const ImageSet *lt, const ImageSet *gen,
                const ImageSet *test, Recognition *out, Error *err);

// ---- answers as tables, and as members of the result file
typedef struct {
    Fidelity    *fidelity;                       // each NULL where it was not asked
    Nearest     *nearest;
    double      *diversity, *real_diversity;     // (classes)
    Recognition *cas, *downstream;
    const char  *classifier;                     // of the fidelity
    const char  *nearest_sheet;                  // file name of the picture of the pairs, or NULL
    const ClassifierRecipe *recipe;              // of cas and downstream
    const Features *gen, *train;                 // of the pairs
    const int64_t  *number;                      // (gen->n) image numbers
} Answers;
void answers_print(const Answers *a, const ClassTable *t, FILE *f);
void answers_json(const Answers *a, const ClassTable *t, JsonText *j);
EXTERN_C_END
#endif
