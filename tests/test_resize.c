// tests/test_resize.c - the three resize protocols: PyTorch's numbers, TensorFlow 1's rule written anew, grey images.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "eval/resize.h"

// Pixel e of every input is e * 37 % 251. By torch 2.15 in double: F.interpolate(align_corners=False) with mode
// "bilinear", and "bicubic" with antialias=True, which follows Pillow; clipped to 0..255.
static const float up_linear[] = {               // (3,4) -> (5,6)
    0, 18.5f, 43.16667f, 67.83333f, 92.5f, 111, 59.2f, 77.7f, 102.3667f, 127.0333f, 101.5f, 69.8f, 148, 166.5f,
    191.1667f, 215.8333f, 115, 8, 86.2f, 104.7f, 129.3667f, 154.0333f, 128.5f, 96.8f, 45, 63.5f, 88.16667f, 112.8333f,
    137.5f, 156 };
static const float up_cubic[] = {
    0, 4.065483f, 31.7776f, 55.56726f, 94.62375f, 122.4541f, 54.08818f, 71.75768f, 100.8381f, 130.1009f, 99.72915f,
    64.14916f, 145.5658f, 163.2353f, 194.0718f, 230.3588f, 110.8824f, 0, 85.31952f, 102.989f, 132.0694f, 161.3322f,
    130.9605f, 95.3805f, 34.7922f, 52.46171f, 80.17383f, 103.9635f, 143.02f, 170.8503f };
static const float down_linear[] = {             // (9,7) -> (4,3)
    29.66667f, 116, 202.3333f, 47.66667f, 134, 220.3333f, 65.66667f, 152, 154.6667f, 83.66667f, 170, 172.6667f };
static const float down_cubic[] = {
    31.98694f, 116.1968f, 203.8069f, 49.1812f, 135.3497f, 196.4215f, 67.93171f, 160.2072f, 138.5347f, 85.12596f,
    177.2366f, 157.797f };

static float pixel(int64_t e) { return (float)(e * 37 % 251); }

// A coordinate below `in` goes through three roundings of a float and multiplies a difference of 255 at most, on two
// axes; the blends and the seven digits above add eight more at the end of the scale.
static double bound(int in) { return 255 * (2 * 3 * in + 8) * 0x1p-24; }

static void check(ResizeKind kind, int h, int w, int to_h, int to_w, const double *want) {
    float in[64 * 64], out[64 * 64];
    for (int e = 0; e < h * w; e++) in[e] = pixel(e);
    Resizer *r = resizer_new(kind, h, w, to_h, to_w);
    resizer_run(r, in, 1, out, 1);
    resizer_free(r);
    for (int e = 0; e < to_h * to_w; e++)
        if (!(fabs((double)out[e] - want[e]) <= bound(h > w ? h : w)))
            fail_msg("kind %d, %dx%d to %dx%d: pixel %d is %g, not %g", (int)kind, h, w, to_h, to_w, e, (double)out[e],
                     want[e]);
}

static void check_golden(ResizeKind kind, int h, int w, int to_h, int to_w, const float *golden) {
    double want[64];
    for (int e = 0; e < to_h * to_w; e++) want[e] = (double)golden[e];
    check(kind, h, w, to_h, to_w, want);
}

static void agrees_with_pytorch(void **state) {
    (void)state;
    check_golden(RESIZE_HALF_PIXEL, 3, 4, 5, 6, up_linear);
    check_golden(RESIZE_HALF_PIXEL, 9, 7, 4, 3, down_linear);
    check_golden(RESIZE_BICUBIC, 3, 4, 5, 6, up_cubic);
    check_golden(RESIZE_BICUBIC, 9, 7, 4, 3, down_cubic);
}

// Output (i,j) is the image at (i h / to_h, j w / to_w), without half pixels, the last row and column repeated.
static void tf1_has_no_half_pixels(void **state) {
    (void)state;
    static const int sizes[][4] = { { 3, 4, 5, 6 }, { 9, 7, 4, 3 }, { 1, 1, 4, 4 }, { 32, 28, 61, 60 } };
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        int h = sizes[k][0], w = sizes[k][1], to_h = sizes[k][2], to_w = sizes[k][3];
        double want[64 * 64];
        for (int i = 0; i < to_h; i++)
            for (int j = 0; j < to_w; j++) {
                double y = (double)i * h / to_h, x = (double)j * w / to_w, sum = 0;
                for (int s = 0; s < h; s++)
                    for (int t = 0; t < w; t++) {
                        // Each pixel's share is a tent around it; the last ones stay at their height to the right.
                        double a = s == h - 1 && y > s ? 1 : fmax(0, 1 - fabs(y - s));
                        double b = t == w - 1 && x > t ? 1 : fmax(0, 1 - fabs(x - t));
                        sum += a * b * (double)pixel((int64_t)s * w + t);
                    }
                want[i * to_w + j] = sum;
            }
        check(RESIZE_TF1, h, w, to_h, to_w, want);
    }
}

static void equal_sizes_change_nothing(void **state) {
    (void)state;
    double want[20 * 30];
    for (int e = 0; e < 600; e++) want[e] = (double)pixel(e);
    for (int kind = RESIZE_HALF_PIXEL; kind <= RESIZE_BICUBIC; kind++) check((ResizeKind)kind, 20, 30, 20, 30, want);
}

// Black beside white: the cubic overshoots on both sides, and the result stays within the scale.
static void cubic_is_clipped(void **state) {
    (void)state;
    float in[8] = { 0, 0, 0, 0, 255, 255, 255, 255 }, out[32];
    Resizer *r = resizer_new(RESIZE_BICUBIC, 1, 8, 1, 32);
    resizer_run(r, in, 1, out, 1);
    int low = 0, high = 0;
    for (int i = 0; i < 32; i++) {
        assert_true(out[i] >= 0 && out[i] <= 255);
        low += out[i] <= 0;
        high += out[i] >= 255;
    }
    assert_true(low >= 8 && high >= 8);
    resizer_free(r);
}

static void grey_is_repeated_and_channels_stay_apart(void **state) {
    (void)state;
    for (int kind = RESIZE_HALF_PIXEL; kind <= RESIZE_BICUBIC; kind++) {
        float grey[5 * 7], colour[5 * 7 * 3], a[11 * 13], b[11 * 13 * 3], c[11 * 13 * 3];
        for (int e = 0; e < 35; e++) grey[e] = colour[3 * e] = colour[3 * e + 2] = pixel(e), colour[3 * e + 1] = 99;
        Resizer *r = resizer_new((ResizeKind)kind, 5, 7, 11, 13);
        resizer_run(r, grey, 1, a, 1);
        resizer_run(r, grey, 1, b, 3);
        resizer_run(r, colour, 3, c, 3);
        for (int e = 0; e < 11 * 13; e++) {
            for (int k = 0; k < 3; k++) assert_memory_equal(&a[e], &b[3 * e + k], sizeof(float));
            assert_memory_equal(&a[e], &c[3 * e], sizeof(float));
            assert_memory_equal(&a[e], &c[3 * e + 2], sizeof(float));
            assert_true(fabs((double)c[3 * e + 1] - 99) <= bound(7));
        }
        resizer_free(r);
    }
    resizer_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_pytorch), cmocka_unit_test(tf1_has_no_half_pixels),
        cmocka_unit_test(equal_sizes_change_nothing), cmocka_unit_test(cubic_is_clipped),
        cmocka_unit_test(grey_is_repeated_and_channels_stay_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
