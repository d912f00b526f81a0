// eval/pairs_impl.h - tiles of scalar products between rows, and how sure they are: what the passes of pairs.c and the
// clustering of distribution_kmeans.c are built on.
//
// Rows are centred, y = x - c with c a mean of them, so that a product is small where a distance is small. In float
// (unit roundoff u = 2^-24) with N = |x - c|^2 in double and g the product of two rounded rows,
//   | N_i + N_j - 2 g  -  |x_i - x_j|^2 |  <=  slack (N_i + N_j) + tiny
//   slack = 1.01 ((dim + 8) u + 4 (dim + 8) 2^-53)
// whatever the order in which the product is summed: the sum of dim products costs at most gamma_dim |y_i| |y_j|
// (Higham 2002, eq. 3.5), rounding the two rows (2 u + u^2) |y_i| |y_j|, and 2 |y_i| |y_j| <= N_i + N_j; the second
// term is what double costs N, the tile and row_distance2; 1.01 covers gamma against dim u up to dim = 100,000; tiny
// covers underflow.
#ifndef EVAL_PAIRS_IMPL_H
#define EVAL_PAIRS_IMPL_H
#include "eval/pairs.h"
#include "train/dataset.h"
EXTERN_C_BEGIN
// How products are formed: PAIRS_AUTO takes double up to PAIRS_DOUBLE_PRODUCTS products of numbers, then float.
typedef enum { PAIRS_AUTO, PAIRS_FLOAT, PAIRS_DOUBLE } PairsKind;
#define PAIRS_DOUBLE_PRODUCTS 2e9                // a tenth of a second of one core
typedef struct {
    int    dim, block;                           // block: rows of a panel, columns of a tile
    bool   in_double;
    float *centre;                               // (dim)
    double centre_norm2, slack, tiny;
} PairSpace;
typedef struct {
    Rows    rows;
    double *norm2, *shift;                       // (n): |x - c|^2, c . (x - c)
    double *low;                                 // (n): (1 - slack) norm2 - tiny / 2
} PairSide;
// b: NULL if there is one set only. Float is not taken where squares would leave its range.
void pair_space_make(PairsKind kind, const Rows *a, const Rows *b, PairSpace *s, PairSide *of_a, PairSide *of_b);
void pair_space_free(PairSpace *s, PairSide *of_a, PairSide *of_b);
void pair_side_make(const PairSpace *s, Rows r, PairSide *out);             // more rows in the same space
void pair_side_free(PairSide *p);

static inline const float *row_at(Rows r, int64_t i) { return r.f->x + (r.idx ? r.idx[i] : i) * (int64_t)r.f->dim; }
// Sum of squared differences in double, in an order that depends on dim alone: what "as in double" means here.
double row_distance2(const float *x, const float *y, int dim);

// Buffers of one thread: two panels of rows and the tile of their products.
typedef struct { void *a, *b; float *products; double *tile; int64_t a_at, b_at; } PairWork;
int  pair_threads(const PairSpace *s);           // as many as there are, but at most 256 MiB of buffers
void pair_work_make(const PairSpace *s, PairWork *w);
void pair_work_free(PairWork *w);
int64_t pair_blocks(const PairSpace *s, int64_t n);
// w->tile (rows, columns; a row is s->block long): y_i . y_j of block I of a and block J of b. Of a block with itself
// (a is b and I is J) only columns j >= i: what is below the diagonal is undefined.
void pair_tile(const PairSpace *s, const PairSide *a, int64_t I, const PairSide *b, int64_t J, PairWork *w);

// |d2 - (N_i + N_j - 2 g)| is at most this.
static inline double pair_bound(const PairSpace *s, double norm2_i, double norm2_j) {
    return s->slack * (norm2_i + norm2_j) + s->tiny;
}

// pairs_all with the kind of products chosen: for tests.
void pairs_compute(PairsKind kind, Rows ref, Rows gen, const int *k, int n_k, bool strict, double *kid, Prdc *out);
// Centred rows begin .. begin + count - 1 as floats, out (count,dim); centre: NULL for none.
void rows_centred(Rows r, const float *centre, int64_t begin, int64_t count, float *out);
// The first `size` of numpy's permutation of r.n rows, as rows of the table: order (r.n).
void rows_draw(Mt19937 *m, Rows r, int64_t *order, int64_t size);
// Mean over about 1000 rows evenly spread over each set (b: NULL if none), for centring. out (dim).
void rows_centre(const Rows *a, const Rows *b, float *out);
EXTERN_C_END
#endif
