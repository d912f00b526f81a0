// eval/linalg.c - the door to OpenBLAS: Fortran symbols, declared here because Debian's OpenBLAS has no LAPACKE.
//
// The library is opened at the first use, since it reserves memory for each of its threads as soon as it is loaded, and
// waits forever where a limit does not let it: that must not befall a program that trains or samples.
//
// Fortran stores columns: a row-major (m,n) array is its transpose (n,m) there. So a product is asked for as
// c^T = op(b)^T op(a)^T, and a lower triangle is an upper one. Lengths of character arguments are passed hidden, last.
#include "eval/linalg_impl.h"

#include <stdio.h>
#include <string.h>

#ifdef CBDM_NO_OPENBLAS
bool linalg_there(Error *err) {
    return error_set(err, ERR_USAGE, "this build has no OpenBLAS, which the metrics need: sh third_party/setup.sh "
                     "installs it (libopenblas-openmp-dev); then run cmake again");
}
#define ABSENT CHECK(false, "a build without OpenBLAS; linalg_there() says so")
void linalg_sgemm(bool ta, bool tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
                  float beta, float *c, int ldc) {
    (void)ta, (void)tb, (void)m, (void)n, (void)k, (void)alpha, (void)a, (void)lda, (void)b, (void)ldb, (void)beta;
    (void)c, (void)ldc;
    ABSENT;
}
void linalg_dgemm(bool ta, bool tb, int m, int n, int k, double alpha, const double *a, int lda, const double *b,
                  int ldb, double beta, double *c, int ldc) {
    (void)ta, (void)tb, (void)m, (void)n, (void)k, (void)alpha, (void)a, (void)lda, (void)b, (void)ldb, (void)beta;
    (void)c, (void)ldc;
    ABSENT;
}
void linalg_eigen(int n, double *a, double *w, bool vectors) {
    (void)n, (void)a, (void)w, (void)vectors;
    ABSENT;
}
void linalg_singular(int m, int n, double *a, double *s) {
    (void)m, (void)n, (void)a, (void)s;
    ABSENT;
}
#else
#include <dlfcn.h>
#include <omp.h>
#include <pthread.h>
#include <stdlib.h>

static void (*sgemm_)(const char *ta, const char *tb, const int *m, const int *n, const int *k, const float *alpha,
                      const float *a, const int *lda, const float *b, const int *ldb, const float *beta, float *c,
                      const int *ldc, size_t ta_length, size_t tb_length);
static void (*dgemm_)(const char *ta, const char *tb, const int *m, const int *n, const int *k, const double *alpha,
                      const double *a, const int *lda, const double *b, const int *ldb, const double *beta, double *c,
                      const int *ldc, size_t ta_length, size_t tb_length);
static void (*dsyevd_)(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w,
                       double *work, const int *lwork, int *iwork, const int *liwork, int *info, size_t jobz_length,
                       size_t uplo_length);
static void (*dgesdd_)(const char *jobz, const int *m, const int *n, double *a, const int *lda, double *s, double *u,
                       const int *ldu, double *vt, const int *ldvt, double *work, const int *lwork, int *iwork,
                       int *info, size_t jobz_length);
static int  (*openblas_get_parallel)(void);          // 0: no threads, 1: its own, 2: OpenMP's
static void (*openblas_set_num_threads)(int n);

static pthread_once_t opened = PTHREAD_ONCE_INIT;
static char why_not[256];                            // empty: it is open

static void open_library(void) {
    static const struct { const char *name; void *to; } symbols[] = {
        { "sgemm_", &sgemm_ }, { "dgemm_", &dgemm_ }, { "dsyevd_", &dsyevd_ }, { "dgesdd_", &dgesdd_ },
        { "openblas_get_parallel", &openblas_get_parallel }, { "openblas_set_num_threads", &openblas_set_num_threads },
    };
    void *library = dlopen(OPENBLAS_FILE, RTLD_NOW);
    for (size_t i = 0; library && i < sizeof symbols / sizeof symbols[0]; i++) {
        void *at = dlsym(library, symbols[i].name);
        if (!at) library = NULL;
        else memcpy(symbols[i].to, &at, sizeof at);
    }
    if (!library) snprintf(why_not, sizeof why_not, "%s", dlerror());
}

bool linalg_there(Error *err) {
    pthread_once(&opened, open_library);
    return !*why_not || error_set(err, ERR_USAGE, "OpenBLAS, which the metrics need, cannot be opened: %s; install "
                                  "libopenblas-openmp-dev (sh third_party/setup.sh) and run cmake again", why_not);
}

// OpenBLAS on OpenMP asks omp_get_max_threads() at every call, which is the calling thread's own setting. The flavour
// with threads of its own is told once (and setting the number again is harmless).
static int alone(void) {
    Error err;
    CHECK(linalg_there(&err), "%s", err.msg);
    int threads = omp_get_max_threads();
    if (openblas_get_parallel() == 1) openblas_set_num_threads(1);
    omp_set_num_threads(1);
    return threads;
}

void linalg_sgemm(bool ta, bool tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
                  float beta, float *c, int ldc) {
    if (beta == 0 && linalg_device_sgemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, c, ldc)) return;
    int threads = alone();
    sgemm_(tb ? "T" : "N", ta ? "T" : "N", &n, &m, &k, &alpha, b, &ldb, a, &lda, &beta, c, &ldc, 1, 1);
    omp_set_num_threads(threads);
}

void linalg_dgemm(bool ta, bool tb, int m, int n, int k, double alpha, const double *a, int lda, const double *b,
                  int ldb, double beta, double *c, int ldc) {
    int threads = alone();
    dgemm_(tb ? "T" : "N", ta ? "T" : "N", &n, &m, &k, &alpha, b, &ldb, a, &lda, &beta, c, &ldc, 1, 1);
    omp_set_num_threads(threads);
}

void linalg_eigen(int n, double *a, double *w, bool vectors) {
    CHECK(n >= 1 && n <= 16384, "%d dimensions: the workspace's size must fit an int", n);
    const char *jobz = vectors ? "V" : "N";
    int threads = alone(), lwork = -1, liwork = -1, info = 0, iwork_size;
    double work_size;
    dsyevd_(jobz, "U", &n, a, &n, w, &work_size, &lwork, &iwork_size, &liwork, &info, 1, 1);
    CHECK(info == 0, "dsyevd of %d dimensions refuses: %d", n, info);
    lwork = (int)work_size;
    liwork = iwork_size;
    double *work = xmalloc((size_t)lwork * sizeof *work);
    int *iwork = xmalloc((size_t)liwork * sizeof *iwork);
    dsyevd_(jobz, "U", &n, a, &n, w, work, &lwork, iwork, &liwork, &info, 1, 1);
    CHECK(info == 0, "dsyevd of %d dimensions did not converge: %d; are there values that are not finite?", n, info);
    free(work);
    free(iwork);
    omp_set_num_threads(threads);
}

void linalg_singular(int m, int n, double *a, double *s) {
    int least = m < n ? m : n, one = 1, threads = alone(), lwork = -1, info = 0;
    CHECK(least >= 1 && least <= 16384, "%d x %d: the workspace's size must fit an int", m, n);
    int *iwork = xmalloc(8 * (size_t)least * sizeof *iwork);
    double work_size, none;
    dgesdd_("N", &n, &m, a, &n, s, &none, &one, &none, &one, &work_size, &lwork, iwork, &info, 1);
    CHECK(info == 0, "dgesdd of %d x %d refuses: %d", m, n, info);
    lwork = (int)work_size;
    double *work = xmalloc((size_t)lwork * sizeof *work);
    dgesdd_("N", &n, &m, a, &n, s, &none, &one, &none, &one, work, &lwork, iwork, &info, 1);
    CHECK(info == 0, "dgesdd of %d x %d did not converge: %d; are there values that are not finite?", m, n, info);
    free(work);
    free(iwork);
    omp_set_num_threads(threads);
}
#endif
