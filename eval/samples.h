// eval/samples.h - generated images to be judged, whatever they come in, and what is known of their origin.
#ifndef EVAL_SAMPLES_H
#define EVAL_SAMPLES_H
#include "core/device.h"
#include "eval/images.h"
#include "train/dataset.h"
EXTERN_C_BEGIN
typedef struct {
    char   *source;                   // what the user named
    char   *checkpoint, *sha256, *sampler;       // NULL: unknown; the digest is the checkpoint file's
    int64_t step, seed;               // -1: unknown
    int     steps;                    // network evaluations; 0: unknown
    double  omega;                    // NaN: unknown
    int64_t *class_counts;            // (n_counts) training images of each class; NULL: unknown
    int     n_counts;
} SampleOrigin;
typedef struct {
    ImageSet     images;              // label NULL: no image has one
    int64_t     *number;              // (n) what each was drawn as; its position where that is unknown
    char        *understood;          // one line: how many, of what size, from which file, which labels
    SampleOrigin origin;
    void        *pixels;              // what images points at
    int32_t     *label;
} Samples;
// path: a folder of `cbdm sample` (float arrays where it has them, else samples.npz, else the PNGs of its manifest), a
// folder of one folder of PNGs per class (named by class or by its number), an .npz of arr_0 (uint8 NHWC) and perhaps
// arr_1 (labels), an .npy of that kind or of the published code's (float NCHW in [0,1]). labels: an .npy for images
// that come without, or ""; the published *_samples_* finds *_labels_* beside it. d: the data set of which they are to
// be: its size, which they may exceed (see dataset_pad), its channels and its classes. False: *err.
bool samples_read(const char *path, const char *labels, const DatasetInfo *d, Samples *out, Error *err);
// The same from a checkpoint, without writing any: what `cbdm sample` with these settings draws, as floats. Opening
// fills all of *out but the pixels, so that everything can be checked before the hours of drawing; running adds them.
typedef struct {
    const char *checkpoint, *labels, *seeds;
    int         sampler, steps, variance, batch, weights, dtype;
    double      omega, eta, x0_clip;
    int64_t     seed;
} DrawConfig;
typedef struct Drawing Drawing;
Drawing *drawing_open(Device *device, const DrawConfig *c, const DatasetInfo *d, Samples *out, Error *err);
bool     drawing_run(Drawing *g, Samples *out, Error *err);
void     drawing_close(Drawing *g);              // NULL is fine
void samples_free(Samples *s);                   // fine on a zeroed one
// int64_t (classes): images of each class. False, and *err names the class, where one has fewer than `least`, or there
// are images without a label.
bool samples_count(const Samples *s, const DatasetInfo *d, int64_t least, int64_t *counts, Error *err);

// ---- parts
// The manifest that `cbdm sample` writes: one JSON object a line.
typedef struct { int64_t n, *number; int32_t *label; char **file; double omega; char *sampler, *sha256; } Manifest;
bool manifest_parse(const char *text, size_t bytes, const char *where, Manifest *out, Error *err);
void manifest_free(Manifest *m);
// Fills what sampling.json says: checkpoint, class_counts, seed, steps, sampler, omega if it names one. *omegas: how
// many it names.
bool sampling_parse(const char *text, size_t bytes, const char *where, SampleOrigin *o, int *omegas, Error *err);
// Parts of samples_read. origin and source are filled by it; all else of a zeroed *out by these.
bool samples_read_folder(const char *path, const DatasetInfo *d, Samples *out, Error *err);
bool samples_read_array(const char *path, const char *labels, Samples *out, Error *err);
EXTERN_C_END
#endif
