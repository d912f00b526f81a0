// train/data_formats.h - inside the data readers: the set they build, and the parsers that tests and fuzzers call.
#ifndef TRAIN_DATA_FORMATS_H
#define TRAIN_DATA_FORMATS_H
#include "core/path.h"
#include "train/dataset.h"
EXTERN_C_BEGIN
enum { DATA_MAX_SIDE = 4096, DATA_MAX_CLASSES = 65536 };

// What every reader fills. The info's pointers point at what the other fields own.
struct Dataset {
    DatasetInfo info;
    uint8_t    *images;        // (count,height,width,channels)
    int32_t    *labels;        // (count)
    int64_t    *per_class;     // (classes)
    int64_t    *ordinal;       // (count) position within the class, in file order of the set as it was opened
    char      **names;         // (classes)
    char       *source;
};
// Room for count images, labels 0, classes named "0", "1", ...; kind is static text. NULL and *err (naming source) for
// dimensions that are absurd or do not fit in memory arithmetic.
Dataset *dataset_new(const char *kind, const char *source, int classes, int channels, int height, int width,
                     int64_t count, Error *err);
void     dataset_name_class(Dataset *d, int c, const char *name);
// Call when images and labels stand: checks labels, counts classes, numbers ordinals, computes the digest. Returns d.
Dataset *dataset_finish(Dataset *d);
// The chosen images in that order, as a new set that keeps their ordinals; closes d. pick (n): indices into d.
Dataset *dataset_pick(Dataset *d, const int64_t *pick, int64_t n, Error *err);

// ---- readers: each opens what the look-alike test before it accepts
bool     idx_in_folder(const char *path);
Dataset *idx_open(const char *path, Split split, Error *err);      // a folder, or an images file
bool     cifar_in_folder(const char *path);
Dataset *cifar_open(const char *path, Split split, Error *err);    // a folder, or a tar archive
// Fills *err for a path that does not exist but names one of the published sets: where to get it. False otherwise.
bool     cifar_explain_missing(const char *path, Error *err);
Dataset *folder_open(const char *path, Split split, Error *err);
Dataset *builtin_open(Split split, Error *err);

// ---- parsers of bytes in memory; where names the bytes in messages
// Whether a file that begins with these bytes, gunzipped if need be, starts as IDX does (two zero bytes), not as tar.
bool idx_recognise(const uint8_t *head, size_t n);
// Expands gzip members up to limit bytes; caller frees *out. Refuses damage, truncation and trailing bytes.
bool gzip_expand(const uint8_t *bytes, size_t n, size_t limit, const char *where, uint8_t **out, size_t *out_n,
                 Error *err);
typedef struct { int ndim; int64_t shape[4]; const uint8_t *data; } IdxArray;    // data points into the bytes
bool idx_parse(const uint8_t *bytes, size_t n, const char *where, IdxArray *out, Error *err);

// One file of CIFAR records. Byte j of image i (planes R, G, B of 32 x 32) is pixels[i * image_step + j * byte_step].
typedef struct {
    int64_t        count;
    const uint8_t *pixels;     // points into the bytes
    size_t         image_step, byte_step;
    uint8_t       *labels;     // (count), each below classes; caller frees
} CifarBatch;
bool cifar_parse_binary(const uint8_t *bytes, size_t n, int classes, const char *where, CifarBatch *out, Error *err);
bool cifar_parse_python(const uint8_t *bytes, size_t n, int classes, const char *where, CifarBatch *out, Error *err);

// ---- the subset without images: ordinals per class. have, want (classes); out: sum of min(have, want), class by class
int64_t subset_ordinals(const int64_t *have, const int64_t *want, int classes, uint32_t seed, int64_t *out);
EXTERN_C_END
#endif
