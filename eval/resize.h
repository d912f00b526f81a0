// eval/resize.h - the three ways in which evaluation tools bring images to the 299 x 299 pixels of the FID's network.
#ifndef EVAL_RESIZE_H
#define EVAL_RESIZE_H
#include "core/base.h"
EXTERN_C_BEGIN
// Source coordinates of output pixel i, scale = in / out:
// HALF_PIXEL: max(0, (i + 0.5) scale - 0.5), two taps: torch's F.interpolate(bilinear, align_corners=False), which
//   pytorch-fid and the published CBDM code call.
// TF1: i scale, two taps: TensorFlow 1's resize_bilinear, which TTUR, EDM and ADM's evaluator use.
// BICUBIC: Keys' cubic with a = -0.5, stretched by the scale where that is above 1 (antialiased), and the result
//   clipped to 0..255: Pillow's resize of "F" images, which clean-fid uses.
typedef enum { RESIZE_HALF_PIXEL, RESIZE_TF1, RESIZE_BICUBIC } ResizeKind;
typedef struct Resizer Resizer;                  // tables of coordinates and weights for one pair of sizes
Resizer *resizer_new(ResizeKind kind, int in_height, int in_width, int out_height, int out_width);
void     resizer_free(Resizer *r);               // NULL is fine
// in (in_height,in_width,channels), out (out_height,out_width,out_channels), values on the scale 0..255. out_channels:
// channels, or 3 of 1: grey repeated. May run in several threads at once. Every step rounds as the tool's own does:
// coordinates and blends in float; BICUBIC: weights and sums in double, a float between its two passes.
void     resizer_run(const Resizer *r, const float *in, int channels, float *out, int out_channels);
EXTERN_C_END
#endif
