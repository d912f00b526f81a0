// kernels/common/cpu_product.h - sums of products in registers, six rows by 64 columns: what convolutions are made of.
#ifndef KERNELS_COMMON_CPU_PRODUCT_H
#define KERNELS_COMMON_CPU_PRODUCT_H
#include "kernels/common/cpu_avx512.h"
#ifdef VEC_INLINE
enum { VEC = 16, PANEL = 64, PRODUCT_ROWS = 6 };   // floats of a vector, of a panel of columns; rows at once

typedef struct { float *p; int64_t row, column, block; } Matrix;   // (i,j) at p[i row + j % 16 column + j / 16 block]

// What comes into the caches while products run, for those after them; NULL: nothing.
//   rows         the rows of a after the last, six vectors of each 16 columns, into the first-level cache: each is read
//                once, in too short a stretch for the processor to foresee it; without this a product takes up to twice
//                the time
//   next_a, _b   runs of n vectors, parts of the factors of the next product, into the second-level cache: six of each
//                16 vectors in a product of six rows
typedef struct { const float *rows, *next_a, *next_b; } Ahead;

// y[i,j] = or += sum over l < n of a[i,l] b[l,j], i < rows, j < 16 vecs.
VEC_INLINE void product(int rows, int vecs, Matrix y, Matrix a, Matrix b, int n, Ahead ahead, bool accumulate) {
    Vec sum[PRODUCT_ROWS][PANEL / VEC];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vecs; j++)
            sum[i][j] = accumulate ? vec_load(y.p + i * y.row + j * y.block) : vec_fill(0.0f);
    for (int l = 0; l < n; l += VEC, a.p += a.block) {
        for (int i = 0; ahead.rows && i < PRODUCT_ROWS; i++) vec_fetch(ahead.rows + l / VEC * a.block + i * VEC);
        for (int i = 0; ahead.next_a && i < PRODUCT_ROWS; i++) vec_fetch_far(ahead.next_a + (l + i) * VEC);
        for (int i = 0; ahead.next_b && i < PRODUCT_ROWS; i++) vec_fetch_far(ahead.next_b + (l + i) * VEC);
        int steps = n - l < VEC ? n - l : VEC;
        for (int s = 0; s < steps; s++, b.p += b.row) {
            Vec column[PANEL / VEC];
            for (int j = 0; j < vecs; j++) column[j] = vec_load(b.p + j * b.block);
            for (int i = 0; i < rows; i++) {
                Vec x = vec_fill(a.p[i * a.row + s * a.column]);
                for (int j = 0; j < vecs; j++) sum[i][j] = vec_fma(x, column[j], sum[i][j]);
            }
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vecs; j++) vec_store(y.p + i * y.row + j * y.block, sum[i][j]);
}

// Any number of rows, 16 to 64 columns.
VEC_INLINE void product_panel(int rows, int width, Matrix y, Matrix a, Matrix b, int n, Ahead ahead, bool accumulate) {
    const float *after = ahead.rows;
    for (int i = 0; i < rows; i += PRODUCT_ROWS, y.p += PRODUCT_ROWS * y.row, a.p += PRODUCT_ROWS * a.row) {
        int left = rows - i;
        if (after) ahead.rows = left > PRODUCT_ROWS ? a.p + PRODUCT_ROWS * a.row : after;
#define CASE(r, v) case 8 * (r) + (v): product(r, v, y, a, b, n, ahead, accumulate); break;
#define CASES(v) CASE(1, v) CASE(2, v) CASE(3, v) CASE(4, v) CASE(5, v) CASE(6, v)
        switch (8 * (left < PRODUCT_ROWS ? left : PRODUCT_ROWS) + width / VEC) { CASES(1) CASES(2) CASES(3) CASES(4) }
#undef CASES
#undef CASE
        if (ahead.next_a) ahead.next_a += PRODUCT_ROWS * VEC;
        if (ahead.next_b) ahead.next_b += PRODUCT_ROWS * VEC;
    }
}
#endif
#endif
