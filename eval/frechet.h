// eval/frechet.h - the Frechet distance of Gaussian fits (Heusel et al. 2017), by symmetric eigenproblems only.
#ifndef EVAL_FRECHET_H
#define EVAL_FRECHET_H
#include "eval/features.h"
EXTERN_C_BEGIN
// Mean and unbiased covariance, summed in double over blocks. n 0: read from a file that does not say.
typedef struct { int64_t n; int dim; double *mu, *sigma; } Gaussian;                  // mu (dim), sigma (dim,dim)
// rows: indices (n_rows) into f, repeats allowed; NULL: all of f. At least 2 rows.
void gaussian_fit(const Features *f, const int64_t *rows, int64_t n_rows, Gaussian *out);
bool gaussian_read(const char *path, Gaussian *out, Error *err);         // npz of mu and sigma, as pytorch-fid's
bool gaussian_parse(const uint8_t *bytes, size_t n, const char *where, Gaussian *out, Error *err);   // of its bytes
bool gaussian_write(const char *path, const Gaussian *g, Error *err);
void gaussian_free(Gaussian *g);
// |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^1/2, the last as the sum of roots of the eigenvalues of
// S1^1/2 S2 S1^1/2 (LAPACK dsyevd twice). Not negative. At most 16,384 dimensions.
double frechet_distance(const Gaussian *a, const Gaussian *b);
// The same from the rows, for fewer rows than dimensions: the trace is the nuclear norm of the product of the centred
// matrices, (n1,n2), kept whole up to 2^24 elements, else as the min(n1,n2)^2 of its Gram product. One of the sets has
// at most 16,384 rows.
double frechet_distance_rows(const Features *a, const int64_t *ra, int64_t na, const Features *b, const int64_t *rb,
                             int64_t nb);
// How many of these distances may be computed at a time within 512 MB of memory: 1 to as many as there are threads. A
// distance alone uses all threads.
int frechet_threads(int64_t na, int64_t nb, int dim, bool by_rows);
EXTERN_C_END
#endif
