// train/data_builtin.c - the built-in set: ten classes of coloured shapes and textures, 32 x 32 RGB, drawn from hashes.
//
// The class is the shape; colours, place, size and turn vary. Integer arithmetic throughout, so that every compiler and
// machine draws the same bytes. Images are numbered i = 0, 1, ...; image i has class i % 10.
#include <stdlib.h>
#include <string.h>
#include "train/data_formats.h"

enum { SIDE = 32, CLASSES = 10, TRAIN_PER_CLASS = 1000, TEST_PER_CLASS = 200, SUB = 3 };
enum { ONE = 1024, SCALE = 4096 };               // fixed point: a shape's radius in its own coordinates; of factors

static const char *const class_names[CLASSES] = { "disc", "ring", "square", "triangle", "cross", "star", "crescent",
                                                  "stripes", "checkerboard", "dots" };

// A bijective mix of 64 bits (the finaliser of splitmix64).
static uint64_t mix(uint64_t x) {
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

// Draws of one image: the k-th is a hash of (image, k).
typedef struct { uint64_t image; uint32_t k; } Draw;
static int draw(Draw *d, int low, int high) {    // low..high, both included
    uint64_t u = mix(d->image ^ (uint64_t)++d->k << 48) >> 32;
    return low + (int)(u * (uint64_t)(high - low + 1) >> 32);
}

// 1024 sin(a / 64 turn), from a quarter wave of literals.
static int sine(int a) {
    static const int quarter[17] = { 0, 100, 200, 297, 392, 483, 569, 650, 724, 792, 851, 903, 946, 980, 1004, 1019,
                                     1024 };
    a &= 63;
    int b = a & 31, v = quarter[b <= 16 ? b : 32 - b];
    return a < 32 ? v : -v;
}

static int wrap(int x, int period) {             // 0..period - 1, also for negative x
    int r = x % period;
    return r < 0 ? r + period : r;
}

// Whether (u,v), in units where the shape's radius is ONE, is inside. v points down.
static bool inside(int shape, int u, int v) {
    int a = abs(u), b = abs(v), far = a > b ? a : b, near = a > b ? b : a;
    switch (shape) {
    case 0: return u * u + v * v < ONE * ONE;
    case 1: return u * u + v * v < ONE * ONE && u * u + v * v > 600 * 600;
    case 2: return far < 860;
    case 3: return v < 700 && 2 * a < v + ONE;                         // apex up at v = -ONE
    case 4: return far < ONE && near < 300;
    case 5: return far < ONE && (a + 150) * (b + 150) < 176100;        // four points, hyperbolic sides
    case 6: return u * u + v * v < ONE * ONE && (u - 500) * (u - 500) + v * v > 800 * 800;
    case 7: return wrap(u, 900) < 450;
    case 8: return (wrap(u, 1400) < 700) != (wrap(v, 1400) < 700);
    default:
        u = wrap(u, 1100) - 550;
        v = wrap(v, 1100) - 550;
        return u * u + v * v < 330 * 330;
    }
}

// Bright shape on dark ground, both of any hue: one channel of the shape is always bright.
static void draw_colours(Draw *d, int ground[3], int shape[3]) {
    for (int c = 0; c < 3; c++) ground[c] = draw(d, 0, 80);
    for (int c = 0; c < 3; c++) shape[c] = draw(d, 60, 255);
    int bright = draw(d, 0, 2);                  // not as an index below: the order of draws must be fixed
    shape[bright] = draw(d, 200, 255);
}

static void draw_image(uint8_t *rgb, int shape, uint64_t image) {
    Draw d = { .image = mix(image) };
    int ground[3], colour[3];
    draw_colours(&d, ground, colour);
    // Pixel sizes and places in 1/16 pixel. Textures (7 and up) fill the image and turn freely; shapes lean a little.
    bool texture = shape >= 7;
    int radius = texture ? draw(&d, 90, 140) : draw(&d, 120, 190);
    int slack = texture ? 128 : SIDE * 8 - radius - 24;
    int cx = SIDE * 8 + draw(&d, -slack, slack), cy = SIDE * 8 + draw(&d, -slack, slack);
    int turn = texture && shape != 7 ? draw(&d, -5, 5) : draw(&d, -3, 3);
    int s = sine(turn) * SCALE / radius, c = sine(turn + 16) * SCALE / radius;
    for (int y = 0; y < SIDE; y++) {
        for (int x = 0; x < SIDE; x++) {
            int hits = 0;
            for (int k = 0; k < SUB * SUB; k++) {
                int dx = x * 16 + 3 + 5 * (k % SUB) - cx, dy = y * 16 + 3 + 5 * (k / SUB) - cy;
                hits += inside(shape, (c * dx + s * dy) / SCALE, (c * dy - s * dx) / SCALE);
            }
            uint8_t *to = rgb + 3 * (y * SIDE + x);
            for (int i = 0; i < 3; i++) {
                to[i] = (uint8_t)((ground[i] * (SUB * SUB - hits) + colour[i] * hits) / (SUB * SUB));
            }
        }
    }
}

Dataset *builtin_open(Split split, Error *err) {
    int64_t count = (int64_t)CLASSES * (split == SPLIT_TRAIN ? TRAIN_PER_CLASS : TEST_PER_CLASS);
    Dataset *d = dataset_new("built-in", "shapes", CLASSES, 3, SIDE, SIDE, count, err);
    if (!d) return NULL;
    for (int c = 0; c < CLASSES; c++) dataset_name_class(d, c, class_names[c]);
    for (int64_t i = 0; i < count; i++) {
        d->labels[i] = (int32_t)(i % CLASSES);
        draw_image(d->images + i * SIDE * SIDE * 3, (int)(i % CLASSES), (uint64_t)i << 1 | (split == SPLIT_TEST));
    }
    return dataset_finish(d);
}
