// eval/features.h - tables of feature vectors with labels and class probabilities, as files hold them.
#ifndef EVAL_FEATURES_H
#define EVAL_FEATURES_H
#include "core/file.h"
EXTERN_C_BEGIN
// Row i belongs to image i. All is the table's own and freed by features_free, wherever it lies (memory, mapped file).
typedef struct {
    int64_t  n;
    int      dim, classes;            // classes: of probs; 0: there are none
    const float   *x;                 // (n,dim)
    const int32_t *label;             // (n), or NULL: unknown
    const float   *probs;             // (n,classes) class probabilities, or NULL
    char    *name;                    // where it comes from, for messages and reports
    void    *owner;                   // what features_free frees
} Features;
// path: .npy (n,dim); .npz or .safetensors with "features" (or "arr_0", or their only matrix) and, if there, "labels"
// and "probs". labels, probs: files of their own (.npy), or "" for those of path. f4 and f8, i4 and i8; f8 is rounded
// to f4. A value that is not finite is refused by its row. 50,000 x 2048 floats are mapped, not copied.
bool features_read(const char *path, const char *labels, const char *probs, Features *out, Error *err);
// The same from a file's bytes, which must outlive *out.
bool features_parse(const uint8_t *bytes, size_t n, const char *where, Features *out, Error *err);
// A table to be filled: x (n,dim) and probs (n,classes; NULL where classes is 0) are its own memory. label is copied;
// NULL if absent.
void features_make(int64_t n, int dim, const int32_t *label, int classes, const char *name, Features *out, float **x,
                   float **probs);
// A copy of arrays at hand. label, probs: NULL if absent.
void features_copy(int64_t n, int dim, const float *x, const int32_t *label, int classes, const float *probs,
                   const char *name, Features *out);
// safetensors: features, labels, probs; metadata of the caller (protocol, extractor, digest of the images).
bool features_write(const char *path, const Features *f, const char *const *keys, const char *const *values, int n_meta,
                    Error *err);
// The first row of x with a value that is not finite, or -1. Files hold none: features_read refuses them.
int64_t features_broken(const Features *f);
void features_free(Features *f);                                  // fine on a zeroed one
EXTERN_C_END
#endif
