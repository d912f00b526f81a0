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
bool gaussian_write(const char *path, const Gaussian *g, Error *err);
void gaussian_free(Gaussian *g);
// |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^1/2, the last as the sum of roots of the eigenvalues of
// S1^1/2 S2 S1^1/2 (LAPACK dsyevd twice). Not negative.
double frechet_distance(const Gaussian *a, const Gaussian *b);
// The same from the rows, for fewer rows than dimensions: the trace is the nuclear norm of the product of the centred
// matrices, (n1,n2). Memory n1 n2 doubles at most, or min(n)^2 of Gram products.
double frechet_distance_rows(const Features *a, const int64_t *ra, int64_t na, const Features *b, const int64_t *rb,
                             int64_t nb);
EXTERN_C_END
#endif
