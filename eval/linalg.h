// eval/linalg.h - dense linear algebra of OpenBLAS under our conventions: row-major arrays, and every call runs on the
// calling thread alone. Who wants more threads splits the work into pieces of fixed size and calls from a parallel
// loop; so the numbers do not depend on how many threads there are.
#ifndef EVAL_LINALG_H
#define EVAL_LINALG_H
#include "core/device.h"
EXTERN_C_BEGIN
// Is there an OpenBLAS in this build? Without it *err names the mend; the calls below abort.
bool linalg_there(Error *err);
// c (m,n) = alpha op(a) (m,k) op(b) (k,n) + beta c. ta: a is stored (k,m); tb: b is stored (n,k). ld: elements from row
// to row. beta 0: c is not read.
void linalg_sgemm(bool ta, bool tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
                  float beta, float *c, int ldc);
// From now on linalg_sgemm computes products of at least `least` multiplications and beta 0 on d, in plain f32; d NULL:
// none is.
// d stays the caller's, who says NULL before closing it. Not while products run. A GPU must be the first one, cuda:0.
void linalg_use(Device *d, double least);
void linalg_dgemm(bool ta, bool tb, int m, int n, int k, double alpha, const double *a, int lda, const double *b,
                  int ldb, double beta, double *c, int ldc);
// The lower triangle of c (n,n), its diagonal included, = alpha op(a) op(a)^T + beta c; the rest of c is not touched.
// ta: a is stored (k,n).
void linalg_dsyrk(bool ta, int n, int k, double alpha, const double *a, int lda, double beta, double *c, int ldc);
// Eigenvalues w (n) of the symmetric a (n,n), ascending; only its lower triangle is read. vectors: a becomes them, one
// a row, row i that of w[i]; else a is destroyed. n at most 16,384.
void linalg_eigen(int n, double *a, double *w, bool vectors);
// Singular values s (min(m,n)) of a (m,n), descending; a is destroyed.
void linalg_singular(int m, int n, double *a, double *s);
EXTERN_C_END
#endif
