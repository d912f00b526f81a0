// train/dataset.h - labelled images in memory: u8 NHWC, long-tailed subsets, every source behind one opening call.
#ifndef TRAIN_DATASET_H
#define TRAIN_DATASET_H
#include "core/base.h"
EXTERN_C_BEGIN
typedef struct Dataset Dataset;                  // immutable once opened
typedef struct {
    int            classes, channels, height, width;
    int64_t        count;                        // images, at least 1
    const uint8_t *images;                       // (count,height,width,channels)
    const int32_t *labels;                       // (count), in file order
    const int64_t *per_class;                    // (classes)
    const char *const *class_names;              // (classes)
    const char    *kind;                         // "IDX", "CIFAR-10 binary", "CIFAR-100 python archive", "folder", ...
    const char    *source;                       // the path, or "shapes" for the built-in set
    const char    *note;                         // "the published archive, by its MD5", "Fashion-MNIST, ...", or NULL
    char           digest[65];                   // SHA-256 over dimensions, labels and pixels
} DatasetInfo;
typedef enum { SPLIT_TRAIN, SPLIT_TEST } Split;
// path: an IDX file or folder (.gz or not), a CIFAR-10/100 binary or python archive (.tar.gz or extracted folder), a
// folder of class folders of PNGs, or "builtin" for procedural shapes that need no file. NULL and *err otherwise.
// A split that the source does not have (a folder without train/ and test/) is an error for SPLIT_TEST.
Dataset *dataset_open(const char *path, Split split, Error *err);
// size > 0: images padded centred with zeros (or, if larger, refused with the legal sizes) to size x size; 0: as they
// are. Takes d over, also on failure (NULL and *err), as do the subsets below.
Dataset *dataset_pad(Dataset *d, int size, Error *err);
void     dataset_close(Dataset *d);              // NULL is fine
const DatasetInfo *dataset_info(const Dataset *d);

typedef enum { IMB_NONE, IMB_EXP, IMB_STEP } ImbType;
extern const char *const imb_type_names[];       // "none", "exp", "step", NULL: for a FLAG_ENUM
// Per-class counts n_c = (int)(n_max * factor^(c / (C - 1))) with n_max = images / classes (exp), or n_max for the
// first half of the classes and n_max * factor for the rest (step), as in LDAM-DRW's imbalance_cifar and the published
// code.
// counts (classes): written. False for a factor outside (0, 1] or shapes that make no sense.
bool     subset_counts(ImbType type, double factor, int classes, int64_t images, int64_t *counts, Error *err);
// The published subset, index for index: one MT19937 stream seeded with seed, per class a Fisher-Yates shuffle of its
// positions in file order, of which the first n_c stay (all, where the class has fewer). Images are then class by class
// in shuffled order. IMB_NONE: d unchanged.
Dataset *dataset_subset(Dataset *d, ImbType type, double factor, uint32_t seed, Error *err);
// A subset named by a file of lines "class ordinal" (ordinal within the class in file order; # comments).
Dataset *dataset_subset_file(Dataset *d, const char *path, Error *err);
// The lines that dataset_subset_file reads back; NULL or "-": stdout. Ordinals are those of the set as it was opened.
bool     dataset_write_indices(const Dataset *d, const char *path, Error *err);

// numpy's legacy generator, as far as the subset needs it.
typedef struct { uint32_t key[624]; int pos; } Mt19937;
void     mt19937_seed(Mt19937 *m, uint32_t seed);
uint32_t mt19937_next(Mt19937 *m);
uint32_t mt19937_interval(Mt19937 *m, uint32_t max);          // 0..max by masked rejection; max 0 draws nothing
double   mt19937_double(Mt19937 *m);                          // [0,1) with 53 bits from two words
void     mt19937_shuffle(Mt19937 *m, int64_t *x, int64_t n);  // Fisher-Yates from the top, numpy's order

int data_main(int argc, char **argv);            // the verb: cbdm data info|subset; argv[0] is "data". Exit code
EXTERN_C_END
#endif
