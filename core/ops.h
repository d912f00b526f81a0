// core/ops.h - every operation. Shapes: N batch, H,W image, C in, K out, R,S filter, T tokens. NULL where said: absent.
// Fused forms (time embedding, residual, dropout in the norm) have no constructor: core/fuse.c makes them from these.
#ifndef CORE_OPS_H
#define CORE_OPS_H
#include "core/param.h"
EXTERN_C_BEGIN
// ---- layers
// (N,H,W,C), (K,R,S,C), (K) or NULL -> (N,P,Q,K)
Tensor *op_conv2d(Graph *g, Tensor *x, Tensor *w, Tensor *b, int stride, int pad);
// The same with y stored as `out`: f32 at the end of a bf16 network. w and x are of one dtype, b is f32.
Tensor *op_conv2d_to(Graph *g, Tensor *x, Tensor *w, Tensor *b, int stride, int pad, DType out);
// Different padding of rows and columns, as filters of 1x7 need it.
Tensor *op_conv2d_pads(Graph *g, Tensor *x, Tensor *w, Tensor *b, int stride, int pad_h, int pad_w);
// op(a) (M,K), op(b) (K,N), bias (N) or NULL -> (M,N); ta, tb: read transposed. Filters of 1x1 are matrices (K,C), a
// vector is a row; y has as many dimensions as a. All gradients, also where a and b are parameters.
Tensor *op_matmul(Graph *g, Tensor *a, bool ta, Tensor *b, bool tb, Tensor *bias);
// (M,C), (K,C), (K) or NULL -> (M,K)
Tensor *op_linear(Graph *g, Tensor *x, Tensor *w, Tensor *b);
// (N,H,W,C), (C), (C) -> (N,H,W,C); act is applied to the result in the same pass
Tensor *op_groupnorm(Graph *g, Tensor *x, Tensor *gamma, Tensor *beta, int groups, double eps, Act act);
// q,k,v (N,H,W,C), pixels are the tokens -> softmax(scale * q k^T) v in each of `heads` channel ranges
Tensor *op_attention(Graph *g, Tensor *q, Tensor *k, Tensor *v, int heads, float scale);
// (V,C), (N) i32 -> (N,C); index -1 gives zeros and no gradient (the unconditional class)
Tensor *op_embedding(Graph *g, Tensor *table, Tensor *index);
Tensor *op_sinusoid(Graph *g, Tensor *t, int dim);                       // (N) i32 or f32 -> (N,dim) sines and cosines
// x (N,H,W,C): each channel over N,H,W to mean 0 and variance 1, times gamma plus beta, plus residual (as x, or NULL),
// then act. mean, var (C): running statistics, persistent tensors without gradient. training: the batch's own
// statistics (biased variance); running = (1 - momentum) running + momentum batch, variance unbiased, as in PyTorch.
// Otherwise the running ones, which stay, and no gradient to x, gamma or beta. Ioffe & Szegedy 2015.
typedef struct { Tensor *gamma, *beta, *mean, *var; double momentum, eps; } BatchNorm;
Tensor *op_batchnorm(Graph *g, Tensor *x, const BatchNorm *b, Tensor *residual, Act act, bool training);
// (N,H,W,C) -> (N,P,Q,C), P = (H + 2 pad - window) / stride + 1; 2 pad <= window <= 16. The gradient of a maximum goes
// to the first one of its window, row-major. Mean divides by the taps inside the image.
typedef enum { POOL_MAX, POOL_MEAN } PoolKind;
Tensor *op_pool(Graph *g, Tensor *x, PoolKind kind, int window, int stride, int pad);
Tensor *op_pool_all(Graph *g, Tensor *x);                                // (N,H,W,C) -> (N,C) f32, the mean over pixels
// logits (N,C) f32, label (N) i32, offset (C) or NULL, added to the logits (no gradient) -> (1), f32: mean over N of
// -log softmax[label]. Value and gradient in one pass.
Tensor *op_cross_entropy(Graph *g, Tensor *logits, Tensor *label, Tensor *offset);
// ---- small ones, to compose with
Tensor *op_silu(Graph *g, Tensor *x);
Tensor *op_relu(Graph *g, Tensor *x);                                    // max(x, 0); gradient 0 at 0
Tensor *op_axpby(Graph *g, float alpha, Tensor *a, float beta, Tensor *b);   // same shapes; b NULL: scale
Tensor *op_add(Graph *g, Tensor *a, Tensor *b);
Tensor *op_mul(Graph *g, Tensor *a, Tensor *b);
// x (N,H,W,C), v (kN,C) -> (kN,H,W,C): image i is x[i mod N] + v[i]. Where k > 1, the batch repeats here.
Tensor *op_add_channel(Graph *g, Tensor *x, Tensor *v);
Tensor *op_mean(Graph *g, Tensor *x);                                    // -> (1), fixed order
Tensor *op_stop_grad(Graph *g, Tensor *x);                               // x, as a view that passes no gradient
void    op_copy_to(Graph *g, Tensor *x, Tensor *y);                      // y = x; y a tensor or view nobody else writes
void    op_fill_to(Graph *g, Tensor *y, float value);                    // y = value
Tensor *op_cast(Graph *g, Tensor *x, DType to);                          // x itself if it is stored so already
// ---- shape; views cost nothing
Tensor *op_view_batch(Graph *g, Tensor *x, int64_t begin, int64_t end);  // images begin..end-1
Tensor *op_view_channel(Graph *g, Tensor *x, int64_t begin, int64_t end);
Tensor *op_repeat_batch(Graph *g, Tensor *x, int copies);                // (N,...) -> (copies N,...); backward sums
Tensor *op_concat_channel(Graph *g, Tensor *a, Tensor *b);               // (N,H,W,C1), (N,H,W,C2) -> (N,H,W,C1+C2)
// (N,H,W,C) -> (N,H,W,before+C+after), zeros around: with op_pool of window 1 the shortcut of ResNet's option A
Tensor *op_pad_channel(Graph *g, Tensor *x, int64_t before, int64_t after);
Tensor *op_upsample2x(Graph *g, Tensor *x);                              // (N,H,W,C) -> (N,2H,2W,C), nearest
Tensor *op_relayout(Graph *g, Tensor *x, Layout to);                     // x itself if it lies so already
// ---- chance: sample (N) i32 bit patterns, state the device StepState; purpose a PURPOSE_* or the layer's name hashed
uint32_t op_purpose(const char *param_name);                             // >= PURPOSE_NAMED
Tensor *op_dropout(Graph *g, Tensor *x, double p, uint32_t purpose, Tensor *sample, Tensor *state);
Tensor *op_randn(Graph *g, const int64_t shape[4], uint32_t purpose, Tensor *sample, Tensor *state);
// ---- diffusion; images here are NHWC on every device
// root (T,2): see kernels/diffuse -> x_t, an activation: of the graph's dtype
Tensor *op_add_noise(Graph *g, Tensor *x0, Tensor *eps, Tensor *t, Tensor *root);
// the same from images (count,H,W,C) u8 on the device: index, t, sample (N) i32, mirrored by chance if `flip`
typedef struct { Tensor *xt, *eps; } NoisyImages;                        // (N,H,W,C): of the graph's dtype; f32
NoisyImages op_q_sample(Graph *g, Tensor *images, bool flip, Tensor *index, Tensor *t, Tensor *sample, Tensor *state,
                        Tensor *root);
// one reverse step of x (N,H,W,C) f32, in place. eps_hat (N,H,W,C), or with guidance (2N,H,W,C) = [conditional; not];
// coef: SamplerCoef rows as u8, on the device
void    op_sampler_step(Graph *g, Tensor *x, Tensor *eps_hat, bool guided, Tensor *coef, Tensor *sample, Tensor *state);
typedef struct { int T; double tau, gamma, share; } CbdmLossConfig;
typedef struct { Tensor *loss, *per_image; } CbdmLoss;                   // (3): total, denoising, balancing; (N)
// All f32. eps_hat (N,H,W,C): plain; (2N,H,W,C) = [h; h under y']: with the balancing term, of each image times its
// weight (N), or NULL: 1. Value and gradient in one pass.
CbdmLoss op_cbdm_loss(Graph *g, Tensor *eps_hat, Tensor *eps, Tensor *t, Tensor *weight, const CbdmLossConfig *c);
void    op_step_advance(Graph *g, Tensor *state);                        // last node of a step
EXTERN_C_END
#endif
