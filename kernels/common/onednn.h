// kernels/common/onednn.h - the one door to oneDNN: convolutions and matrix products in f32, versions 2 and 3 alike.
//
// oneDNN wants filters, and images of few channels, in blocked layouts of its own choice. A convolution here takes the
// layouts of our contracts and reorders where the two differ, through scratch that the caller owns. Nothing is
// allocated when it runs. The same call on the same number of threads gives the same bits.
#ifndef KERNELS_COMMON_ONEDNN_H
#define KERNELS_COMMON_ONEDNN_H
#include "kernels/common/types.h"

typedef enum { ONEDNN_FORWARD, ONEDNN_BACKWARD_INPUT, ONEDNN_BACKWARD_WEIGHT } OnednnPass;
typedef struct {
    OnednnPass pass;
    bool bias;                            // ONEDNN_FORWARD adds a bias (k)
    int n, h, w, p, q, c, k, r, s;        // images, input and output size, channels of x and y, filter (k,r,s,c)
    int stride, pad_h, pad_w;             // what p and q reach past the input is zero
    int ldx, ldy;                         // channels of the tensors that x and y are views of; dense: c and k
    Layout lx, ly;
} OnednnConvShape;
typedef struct OnednnConv OnednnConv;     // a convolution made ready; one run at a time

// Does oneDNN offer this convolution? scratch_bytes: NULL if not asked for.
bool        onednn_conv_offers(const OnednnConvShape *z, size_t *scratch_bytes);
// z is copied. Aborts if oneDNN does not offer z. Free with onednn_conv_free, which takes NULL.
OnednnConv *onednn_conv_create(const OnednnConvShape *z);
void        onednn_conv_free(OnednnConv *conv);
// Writes y (forward), x (backward_input) or w (backward_weight) from the other two. accumulate: w +=, else =.
// bias: only for a forward with bias. scratch: scratch_bytes of onednn_conv_offers, 64-byte aligned.
// False if oneDNN reports a failure.
bool        onednn_conv_run(OnednnConv *conv, void *x, void *w, const float *bias, void *y, bool accumulate,
                            void *scratch);

// y (m,n) = alpha * op(a) (m,k) * op(b) (k,n) + beta * y, row-major; ta: a is stored (k,m), tb: b is stored (n,k).
// Uses all threads, or one when called from a parallel region. False if oneDNN reports a failure.
bool onednn_sgemm(bool ta, bool tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
                  float beta, float *y, int ldy);

// Sets every OpenMP thread to flush denormals to zero. The cpu device calls it once, before its first kernel, from the
// thread that launches.
void onednn_init(void);
// One line for the run's record: processor, oneDNN's version and instruction set, threads. Always terminated.
void onednn_info(char *buf, size_t bytes);
#endif
