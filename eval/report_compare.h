// eval/report_compare.h - is one model better than another, class by class? Both drew the same image numbers with the
// same labels, so each image has its twin, and resampling both alike takes out what they share.
#ifndef EVAL_REPORT_COMPARE_H
#define EVAL_REPORT_COMPARE_H
#include "eval/features.h"
#include "eval/report_entries.h"
#include "eval/report_text.h"
EXTERN_C_BEGIN
typedef struct { double a, b, difference, low, high; } PairedValue;      // difference: b - a with its 95% interval
enum { PAIRED_FID, PAIRED_KID, PAIRED_FIDELITY, PAIRED_COUNT };
typedef struct { Where where; int64_t n_gen, n_ref; PairedValue value[PAIRED_COUNT]; } PairedRow;
typedef struct {
    char       *name[2], *reference;  // of the files
    const char *const *class_names;   // (classes) or NULL: numbers
    const double *train_counts;       // (classes) or NULL
    int         classes, resamples, n;
    PairedRow  *row;                  // (n): classes by training frequency where it is known, groups, all
} Comparison;
// Features with labels of A and B, row i of both drawn as the same image (their labels must agree row by row), and of
// the reference. like: a result that gives names, training counts and groups of the classes, or NULL. Each resample
// draws the same rows of A and B and one set of reference rows for both, with repeats.
//   FID: repeats raise the FIDs of a resample; what they add to the difference is taken off again, as eval/bootstrap.h
//   does. KID: pairs of different rows only. Label fidelity: where there are probabilities of the labels' classes.
bool compare_features(const Features *a, const Features *b, const Features *reference, const Result *like,
                      int resamples, uint64_t seed, Comparison *out, Error *err);
bool compare_files(const char *a, const char *b, const char *reference, const Result *like, int resamples,
                   uint64_t seed, Comparison *out, Error *err);
void comparison_free(Comparison *c);
extern const char *const paired_names[PAIRED_COUNT];             // "fid", "kid", "fidelity"
const char *comparison_part(const Comparison *c, int row, char buffer[32]);
bool        comparison_has(const Comparison *c, int metric);
char       *comparison_caption(const Comparison *c);             // plain text; caller frees
void comparison_markdown(Text *out, const Comparison *c);
void comparison_csv(Text *out, const Comparison *c);
void comparison_latex(Text *out, const Comparison *c);
EXTERN_C_END
#endif
