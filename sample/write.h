// sample/write.h - a folder of samples: the settings that they were drawn with, images, arrays, grid and manifest.
#ifndef SAMPLE_WRITE_H
#define SAMPLE_WRITE_H
#include <cjson/cJSON.h>
#include "core/file.h"
EXTERN_C_BEGIN
// Makes `dir` this process's own: locks it, and compares `settings` with its sampling.json, which it writes into a new
// folder. Every key must agree, but for "path", which is a note, and "machine", an object whose differences are warned
// of. Returns a descriptor that holds the lock, or -1 and *err: other settings (named), another process, or a folder
// that holds something else.
int sample_claim(const char *dir, const cJSON *settings, Error *err);

// What is to be drawn: all of it is the caller's and must stay.
typedef struct {
    int64_t        n;
    const int64_t *number;                  // (n) image numbers, distinct
    const int32_t *label;                   // (n), -1: none
    int            h, w, channels;          // channels 1 or 3
    int            classes;
    char *const   *class_names;             // (classes)
    bool           row_per_class;           // of the grid
    double         omega;
    const char    *sampler, *checkpoint;    // for the manifest: its name, the SHA-256 of the file
    const char    *samples_npy, *labels_npy;   // file names of the float arrays, or NULL: none are wanted
} SampleSet;

// Images are <dir>/<class index>/<number>.png, each whole or absent; an image is done once its PNG is there. Floats go
// to <dir>/samples.f32.partial before that, at the image's place.
typedef struct SampleDir SampleDir;
SampleDir *sample_dir_open(const char *dir, const SampleSet *set, Error *err);   // NULL: *err; set must stay
void       sample_dir_close(SampleDir *d);
bool       sample_dir_done(const SampleDir *d, int64_t i);
int64_t    sample_dir_left(const SampleDir *d);               // images still to draw
bool       sample_dir_complete(const SampleDir *d);           // images and all that is made of them are there
// Images of a batch: index (n) into the set, pixels (n,H,W,C) in [-1,1].
bool       sample_dir_put(SampleDir *d, int n, const int64_t *index, const float *pixels, Error *err);
// Once none is left: samples.npz (arr_0 uint8 NHWC, arr_1 int64 labels), the float arrays, grid.png and, last,
// manifest.jsonl.
bool       sample_dir_finish(SampleDir *d, Error *err);
EXTERN_C_END
#endif
