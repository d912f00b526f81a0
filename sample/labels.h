// sample/labels.h - which images are drawn: their numbers and, by a rule, the label of each number.
#ifndef SAMPLE_LABELS_H
#define SAMPLE_LABELS_H
#include "sample/sampler.h"
EXTERN_C_BEGIN
// Distinct image numbers of --seeds ("0-63"), in the order typed. Caller frees; NULL: *err.
int64_t *sample_numbers(const char *text, int64_t *n, Error *err);
// rule: "balanced" (number modulo classes), "iid" (uniform draws keyed by seed), "none", "auto" (balanced, or none
// where classes is 0), a list that cycles over the numbers, or @FILE with one a line. *rule becomes what auto means.
// A label is a function of the image's number: it does not depend on which others are drawn. where: the checkpoint, for
// messages. (n) labels, -1: none; caller frees. NULL: *err.
int32_t *sample_labels(const char **rule, const int64_t *number, int64_t n, int classes, uint64_t seed,
                       const char *where, Error *err);
// Network evaluations that --steps asks for: 0 is all T of ddpm, 50 of ddim. -1: *err.
int      sample_steps(SamplerKind kind, int asked, int T, const char *where, Error *err);
EXTERN_C_END
#endif
