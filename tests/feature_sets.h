// tests/feature_sets.h - small tables of features for the tests of the metrics: numpy's normals, and shapes of data
// that distances are hard to decide on.
#ifndef TESTS_FEATURE_SETS_H
#define TESTS_FEATURE_SETS_H
#include <math.h>
#include <stdlib.h>
#include "eval/features.h"
#include "eval/pairs.h"
#include "train/dataset.h"

// numpy's RandomState.standard_normal: the polar method of Marsaglia, which makes two and keeps one for the next call.
typedef struct { Mt19937 m; bool kept; double next; } Normals;

static void normals_seed(Normals *z, uint32_t seed) {
    mt19937_seed(&z->m, seed);
    z->kept = false;
}

static double normal(Normals *z) {
    z->kept = !z->kept;
    if (!z->kept) return z->next;
    double a, b, square;
    do {
        a = 2 * mt19937_double(&z->m) - 1;
        b = 2 * mt19937_double(&z->m) - 1;
        square = a * a + b * b;
    } while (square >= 1 || square == 0);
    double scale = sqrt(-2 * log(square) / square);
    z->next = scale * a;
    return scale * b;
}

// A table of n rows, all 0, to be filled through its x; free() its x afterwards.
static Features blank_rows(int64_t n, int dim) {
    return (Features){ .n = n, .dim = dim, .x = calloc((size_t)(n > 0 ? n : 1) * (size_t)dim, sizeof(float)) };
}

static float *at_row(Features f, int64_t i) { return (float *)f.x + i * f.dim; }
static Rows all_rows(const Features *f) { return (Rows){ f, NULL, f->n }; }

// n x dim values of |scale normal + offset|, as RandomState draws them.
static Features normal_rows(Normals *z, int64_t n, int dim, double scale, double offset) {
    Features f = blank_rows(n, dim);
    for (int64_t i = 0; i < n * dim; i++) at_row(f, 0)[i] = (float)fabs(scale * normal(z) + offset);
    return f;
}

// The golden sets of the issue: RandomState(1234), 64 x 8 each.
static void golden_rows(Features *ref, Features *gen) {
    Normals z;
    normals_seed(&z, 1234);
    *ref = normal_rows(&z, 64, 8, 1, 0);
    *gen = normal_rows(&z, 64, 8, 1.1, 0.1);
}

// ---- data that is hard to decide on
// Every kind's squared distances are the same numbers in any order of summation (whole multiples of a power of two with
// few bits), except of `smooth`, where no two are closer than rounding by chance.
enum { SMOOTH, LATTICE, DUPLICATES, FAR_OFF, TWO_HEAPS, NEAR_TIES, HUGE_VALUES, SMALL_VALUES, TINY_AMONG_LARGE,
       SHAPES };
static const char *const shape_names[SHAPES] = { "smooth", "lattice", "duplicates", "far off", "two heaps", "near ties",
                                                 "huge values", "small values",
                                                 "tiny among large" };

static float hard_value(int shape, Normals *z, int64_t i, int k) {
    float lattice = (float)mt19937_interval(&z->m, 3);
    switch (shape) {
    case SMOOTH:       return (float)fabs(normal(z));
    case LATTICE:      return lattice;
    case DUPLICATES:   return lattice;
    case FAR_OFF:      return 4096 + lattice / 64;                    // float products of 1.6e7, distances of 1e-4
    case TWO_HEAPS:    return (i % 2 ? 1024.0f : -1024.0f) + lattice / 64;     // no common centre helps
    case NEAR_TIES:    return k == 0 ? 0x1p-12f * lattice : (float)(1 + (k + 4 * (i % 3)) % 5);
    case HUGE_VALUES:  return 0x1p90f * (1 + lattice);
    case SMALL_VALUES: return 0x1p-110f * (1 + lattice);
    default:                                     // two rows whose mean is 0; of the others products underflow in float
        return i > 1 ? 0x1p-75f * lattice : k > 0 ? 0.0f : i == 0 ? 1.0f : -1.0f;
    }
}

static Features hard_rows(int shape, uint32_t seed, int64_t n, int dim) {
    Normals z;
    normals_seed(&z, seed);
    Features f = blank_rows(n, dim);
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < dim; k++) at_row(f, i)[k] = hard_value(shape, &z, i, k);
    for (int64_t i = 0; shape == DUPLICATES && i < n; i++) {
        // Up to nine copies of a row, the same in every table of this dimension.
        normals_seed(&z, (uint32_t)(i % 3 ? i % 40 : i));
        for (int k = 0; k < dim; k++) at_row(f, i)[k] = hard_value(LATTICE, &z, i, k);
    }
    return f;
}
#endif
