// kernels/conv2d/conv2d_winograd_cpu.c - F(4x4,3x3) on the host, in vectors of 16 channels (AVX-512).
//
// A 3x3 convolution with stride 1 and padding 1 on tiles of 4x4 outputs, 6x6 inputs (Lavin and Gray 2016), with the
// interpolation points 0, +-a, +-b, infinity, a = 5/8, b = 3/2. Writing . for the product element by element:
//   forward           y  = A' [sum over channels (G g G') . (B' x B)] A
//   backward_input    the same with dy for x and the filter turned by half a turn, its channels exchanged
//   backward_weight   dw = G' [sum over tiles (B' x B) . (A dy A')] G
// The bracket is 36 matrix products, one for each element e of the 6x6 tile: 4 times fewer multiplications than the sum
// by its definition. The threads share nothing that they make: each has a part of the tiles (backward_weight: of the
// channels of x) and of the filters, and writes, 16 floats of adjacent channels being one vector,
//   V (c/16, 36, tile, 16)       the transform of x, or of dy in backward_input, for a block of tiles
//   D (k/16, 36, tile, 16)       backward_weight: the transform of dy
//   U (36, DEPTH, 64)            transformed filters, a panel of 64 beside each other, for some channels of the sum,
//                                made anew for each block of tiles: they are read sooner from the second-level cache
//                                than those of all channels, kept, from the third
//   M (4, 36, 64 tiles, 16)      products of one panel, transformed into y with all that is added to it;
//                                (4, 36, 64 filters, 16) in backward_weight
// Every sum has one order, whatever the number of threads. oneDNN 2 has F(4x4,3x3) too; later versions dropped it.
#include <string.h>
#include "kernels/conv2d/conv2d_cpu.h"
#include "kernels/conv2d/conv2d_winograd_cpu.h"

#ifdef VEC_INLINE
enum {
    ELEMENTS = 36,
    TILES = 64, FILTERS = 64,   // most rows of M: it fits 1 MB
    DEPTH = 64,                 // channels summed at once: U fits 1 MB, too
};

// ---- the transforms in one dimension, from vectors `step` apart to vectors `step` apart
#define A1 0.625f
#define B1 1.5f
#define A2 (A1 * A1)
#define B2 (B1 * B1)
#define FA (1.0f / (2.0f * A2 * (A2 - B2)))
#define FB (1.0f / (2.0f * B2 * (B2 - A2)))

// B': 6 pixels -> 6 elements.
VEC_INLINE void transform_input(const Vec *d, int step, Vec *v, int to) {
    Vec d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
    Vec even_a = vec_axpy(-B2, d2, d4), odd_a = vec_axpy(A1, d3, vec_scale(-A1 * B2, d1));
    Vec even_b = vec_axpy(-A2, d2, d4), odd_b = vec_axpy(B1, d3, vec_scale(-B1 * A2, d1));
    v[0] = vec_axpy(A2 * B2, d0, vec_axpy(-(A2 + B2), d2, d4));
    v[to] = vec_add(even_a, odd_a);
    v[2 * to] = vec_sub(even_a, odd_a);
    v[3 * to] = vec_add(even_b, odd_b);
    v[4 * to] = vec_sub(even_b, odd_b);
    v[5 * to] = vec_axpy(A2 * B2, d1, vec_axpy(-(A2 + B2), d3, d5));
}
// G: 3 taps -> 6 elements.
VEC_INLINE void transform_filter(const Vec *g, int step, Vec *u, int to) {
    Vec g0 = g[0], g1 = g[step], g2 = g[2 * step];
    Vec even_a = vec_axpy(FA, g0, vec_scale(FA * A2, g2)), odd_a = vec_scale(FA * A1, g1);
    Vec even_b = vec_axpy(FB, g0, vec_scale(FB * B2, g2)), odd_b = vec_scale(FB * B1, g1);
    u[0] = vec_scale(1.0f / (A2 * B2), g0);
    u[to] = vec_add(even_a, odd_a);
    u[2 * to] = vec_sub(even_a, odd_a);
    u[3 * to] = vec_add(even_b, odd_b);
    u[4 * to] = vec_sub(even_b, odd_b);
    u[5 * to] = g2;
}
// A': 6 elements -> 4 outputs.
VEC_INLINE void transform_output(const Vec *m, int step, Vec *y, int to) {
    Vec sum_a = vec_add(m[step], m[2 * step]), dif_a = vec_sub(m[step], m[2 * step]);
    Vec sum_b = vec_add(m[3 * step], m[4 * step]), dif_b = vec_sub(m[3 * step], m[4 * step]);
    y[0] = vec_add(m[0], vec_add(sum_a, sum_b));
    y[to] = vec_axpy(A1, dif_a, vec_scale(B1, dif_b));
    y[2 * to] = vec_axpy(A2, sum_a, vec_scale(B2, sum_b));
    y[3 * to] = vec_axpy(A1 * A2, dif_a, vec_axpy(B1 * B2, dif_b, m[5 * step]));
}
// A: 4 gradients -> 6 elements.
VEC_INLINE void transform_gradient(const Vec *d, int step, Vec *v, int to) {
    Vec d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step];
    Vec even_a = vec_axpy(A2, d2, d0), odd_a = vec_axpy(A1 * A2, d3, vec_scale(A1, d1));
    Vec even_b = vec_axpy(B2, d2, d0), odd_b = vec_axpy(B1 * B2, d3, vec_scale(B1, d1));
    v[0] = d0;
    v[to] = vec_add(even_a, odd_a);
    v[2 * to] = vec_sub(even_a, odd_a);
    v[3 * to] = vec_add(even_b, odd_b);
    v[4 * to] = vec_sub(even_b, odd_b);
    v[5 * to] = d3;
}
// G': 6 elements -> 3 taps.
VEC_INLINE void transform_taps(const Vec *m, int step, Vec *g, int to) {
    Vec sum_a = vec_add(m[step], m[2 * step]), dif_a = vec_sub(m[step], m[2 * step]);
    Vec sum_b = vec_add(m[3 * step], m[4 * step]), dif_b = vec_sub(m[3 * step], m[4 * step]);
    g[0] = vec_axpy(1.0f / (A2 * B2), m[0], vec_axpy(FA, sum_a, vec_scale(FB, sum_b)));
    g[to] = vec_axpy(FA * A1, dif_a, vec_scale(FB * B1, dif_b));
    g[2 * to] = vec_axpy(FA * A2, sum_a, vec_axpy(FB * B2, sum_b, m[5 * step]));
}

// ---- sizes and where things lie
static Plan plan_of(const Conv2dShape *z, bool turned) {
    return plan_tiles(z->n, z->h, z->w, turned ? z->k : z->c, turned ? z->c : z->k);
}
static Plan plan_apply(const Conv2dShape *z, bool turned) {
    Plan p = plan_of(z, turned);
    divide(&p, p.tiles, p.tiles_w);
    p.block = equal_parts(p.size, TILES);
    p.depth = least(DEPTH, p.c);
    p.v_step = p.m_step = stagger((int64_t)p.block * VEC);
    p.u_step = stagger((int64_t)PANEL * p.depth);
    p.v_floats = ELEMENTS * p.v_step * (p.c / VEC);
    p.u_floats = ELEMENTS * p.u_step;
    p.thread_floats = p.v_floats + p.u_floats + ELEMENTS * p.m_step * (PANEL / VEC);
    return p;
}
static Plan plan_weight(const Conv2dShape *z) {
    enum { CHUNK = 10 << 20 };      // bytes of V and D were there one thread: they stay in the third-level cache
    Plan p = plan_of(z, false);
    divide(&p, p.c, VEC);
    int most = CHUNK / (ELEMENTS * (int)sizeof(float) * (p.c + p.k));
    p.block = equal_parts(p.tiles, most > 0 ? most : 1);        // dw adds up blocks: the same for any number of threads
    p.v_step = stagger((int64_t)p.block * VEC);
    p.m_step = stagger(FILTERS * VEC);
    p.v_floats = ELEMENTS * p.v_step * (p.size / VEC);
    p.u_floats = ELEMENTS * p.v_step * (p.size_k / VEC);
    p.thread_floats = p.v_floats + p.u_floats + ELEMENTS * p.m_step * (PANEL / VEC);
    return p;
}

// ---- tiles in and out
// Up to 6x6 pixels from a corner that may lie outside the image: what lies outside is zero.
typedef struct { const float *p; int64_t row, step; unsigned rows; __mmask16 columns[6]; } Window;   // rows: bits

VEC_INLINE Window window_of(const Image *m, int i, int y0, int x0, int k0) {
    Window d = { image_at(m, i, y0, x0, k0), m->row, m->step, 0, { 0 } };
    #pragma GCC unroll 6
    for (int j = 0; j < 6; j++) {
        d.rows |= (unsigned)(y0 + j >= 0 && y0 + j < m->h) << j;
        d.columns[j] = (__mmask16)-(int)(x0 + j >= 0 && x0 + j < m->w);
    }
    return d;
}
// A pixel of a row that is inside.
VEC_INLINE Vec window_at(const Window *d, int y, int x) {
    return _mm512_maskz_loadu_ps(d->columns[x], d->p + y * d->row + x * d->step);
}
// Six vectors, a column of the transformed rows -> column x of the elements at v, step apart.
VEC_INLINE void store_column(const Vec e[6], int x, float *v, int64_t step) {
    Vec c[6];
    transform_input(e, 1, c, 1);
    #pragma GCC unroll 6
    for (int y = 0; y < 6; y++) vec_store(v + (6 * y + x) * step, c[y]);
}
// Elements x and x + 1 of all rows, those of the points +-point; other: the square of the other two.
VEC_INLINE void input_pair(const Window *d, float point, float other, int x, float *v, int64_t step) {
    Vec plus[6], minus[6];
    #pragma GCC unroll 6
    for (int y = 0; y < 6; y++) {
        plus[y] = minus[y] = vec_fill(0.0f);
        if (!(d->rows >> y & 1)) continue;
        Vec even = vec_axpy(-other, window_at(d, y, 2), window_at(d, y, 4));
        Vec odd = vec_axpy(point, window_at(d, y, 3), vec_scale(-point * other, window_at(d, y, 1)));
        plus[y] = vec_add(even, odd);
        minus[y] = vec_sub(even, odd);
    }
    store_column(plus, x, v, step);
    store_column(minus, x + 1, v, step);
}
// Element x of all rows, 0 from the pixels 0, 2, 4 or 5 from 1, 3, 5.
VEC_INLINE void input_end(const Window *d, int x, float *v, int64_t step) {
    Vec e[6];
    int first = x == 5;
    #pragma GCC unroll 6
    for (int y = 0; y < 6; y++) {
        e[y] = vec_fill(0.0f);
        if (!(d->rows >> y & 1)) continue;
        e[y] = vec_axpy(-(A2 + B2), window_at(d, y, first + 2), window_at(d, y, first + 4));
        e[y] = vec_axpy(A2 * B2, window_at(d, y, first), e[y]);
    }
    store_column(e, x, v, step);
}
// Tile t of x, channels k0.. -> its 36 elements at v, step apart. Pixels are read more than once rather than kept: all
// of them would be more than there are registers.
static void input_tile(const Plan *p, const Image *m, int t, int k0, float *v, int64_t step) {
    int i = t / p->tiles_image, j = t % p->tiles_image;
    Window d = window_of(m, i, j / p->tiles_w * 4 - 1, j % p->tiles_w * 4 - 1, k0);
    input_end(&d, 0, v, step);
    input_pair(&d, A1, B2, 1, v, step);
    input_pair(&d, B1, A2, 3, v, step);
    input_end(&d, 5, v, step);
}
static void gradient_tile(const Plan *p, const Image *m, int t, int k0, float *v, int64_t step) {
    int i = t / p->tiles_image, j = t % p->tiles_image;
    Vec d[16], e[24], row[6];
    load_tile(m, i, j / p->tiles_w * 4, j % p->tiles_w * 4, k0, 4, d);
    for (int x = 0; x < 4; x++) transform_gradient(d + x, 4, e + x, 4);
    for (int y = 0; y < 6; y++) {
        transform_gradient(e + 4 * y, 1, row, 1);
        for (int x = 0; x < 6; x++) vec_store(v + (6 * y + x) * step, row[x]);
    }
}

// As above for `tiles` tiles from t0 on: 16 floats from tile to tile.
static void input_tiles(const Plan *p, const Image *m, int t0, int tiles, int k0, float *v) {
    for (int t = 0; t < tiles; t++) {
        if (t % TILES == 0) read_rows(m, 4, t0 + t, least(TILES, tiles - t), k0);
        input_tile(p, m, t0 + t, k0, v + t * VEC, p->v_step);
    }
}
static void gradient_tiles(const Plan *p, const Image *m, int t0, int tiles, int k0, float *d) {
    for (int t = 0; t < tiles; t++) {
        if (t % TILES == 0) read_rows(m, 4, t0 + t, least(TILES, tiles - t), k0);
        gradient_tile(p, m, t0 + t, k0, d + t * VEC, p->v_step);
    }
}
// What a finished sum is added to: bias (k), row (n,k), image (n,h,w,k); NULL if absent.
typedef struct { const float *bias, *row; Image image; } Terms;

// Rows y and y + 2 of a tile's 4x4 sums, y = 0 or 1, from its 36 elements at m.
VEC_INLINE void output_rows(const float *m, int64_t step, int y, Vec low[4], Vec high[4]) {
    Vec e[6], f[6];
    #pragma GCC unroll 6
    for (int x = 0; x < 6; x++) {
        const float *c = m + x * step;
        Vec a = vec_load(c + 6 * step), b = vec_load(c + 12 * step), p = vec_load(c + 18 * step);
        Vec q = vec_load(c + 24 * step);
        if (y == 0) {
            Vec sum_a = vec_add(a, b), sum_b = vec_add(p, q);
            e[x] = vec_add(vec_load(c), vec_add(sum_a, sum_b));
            f[x] = vec_axpy(A2, sum_a, vec_scale(B2, sum_b));
        } else {
            Vec dif_a = vec_sub(a, b), dif_b = vec_sub(p, q);
            e[x] = vec_axpy(A1, dif_a, vec_scale(B1, dif_b));
            f[x] = vec_axpy(A1 * A2, dif_a, vec_axpy(B1 * B2, dif_b, vec_load(c + 30 * step)));
        }
    }
    transform_output(e, 1, low, 1);
    transform_output(f, 1, high, 1);
}
VEC_INLINE void store_row(const Vec row[4], int width, Vec plus, const Image *out, float *to, const Image *more,
                          const float *from) {
    #pragma GCC unroll 4
    for (int x = 0; x < 4; x++) {
        if (x >= width) break;
        Vec v = vec_add(row[x], plus);
        if (from) v = vec_add(v, vec_load(from + x * more->step));
        vec_store(to + x * out->step, v);
    }
}
// The 36 elements of tile t, channels k0.., at m, step apart -> 4x4 pixels of y.
static void output_tile(const Plan *p, const Image *out, const Terms *terms, int t, int k0, const float *m,
                        int64_t step) {
    int i = t / p->tiles_image, j = t % p->tiles_image, y0 = j / p->tiles_w * 4, x0 = j % p->tiles_w * 4;
    const Image *more = &terms->image;
    float *to = image_at(out, i, y0, x0, k0);
    const float *from = more->p ? image_at(more, i, y0, x0, k0) : NULL;
    Vec plus = vec_fill(0.0f), low[4], high[4];
    if (terms->bias) plus = vec_add(plus, vec_load(terms->bias + k0));
    if (terms->row) plus = vec_add(plus, vec_load(terms->row + (int64_t)i * p->k + k0));
    #pragma GCC unroll 2
    for (int y = 0; y < 2; y++) {
        output_rows(m, step, y, low, high);
        if (y0 + y < p->h)
            store_row(low, p->w - x0, plus, out, to + y * out->row, more, from ? from + y * more->row : NULL);
        if (y0 + y + 2 < p->h)
            store_row(high, p->w - x0, plus, out, to + (y + 2) * out->row, more,
                      from ? from + (y + 2) * more->row : NULL);
    }
}

static void output_tiles(const Plan *p, const Image *out, const Terms *terms, int t0, int tiles, int k0,
                         const float *m) {
    read_rows(out, 4, t0, tiles, k0);               // what is written is read before, by the processor
    if (terms->image.p) read_rows(&terms->image, 4, t0, tiles, k0);
    for (int t = 0; t < tiles; t++) output_tile(p, out, terms, t0 + t, k0, m + t * VEC, p->m_step);
}

// ---- filters. w (k,3,3,c) as stored: z->k filters of z->c channels.
// Sixteen channels j of one lane each, at channel i of the sum -> the 36 elements at u, step apart.
static void filter_element(const Vec g[9], float *u, int64_t step) {
    Vec e[18], row[6];
    for (int x = 0; x < 3; x++) transform_filter(g + x, 3, e + x, 3);
    for (int y = 0; y < 6; y++) {
        transform_filter(e + 3 * y, 1, row, 1);
        for (int x = 0; x < 6; x++) vec_store(u + (6 * y + x) * step, row[x]);
    }
}
// The elements of 16 written channels from j0 on and 16 summed channels from i0 on; at u, `row` floats from one summed
// channel to the next. Forward: j are filters, i their channels; turned: j are channels, i filters, taps run backwards.
static void filter_block(const Plan *p, const float *w, bool turned, int j0, int i0, float *u, int row) {
    Vec g[VEC][9], rows[VEC];                    // taps of the 16 summed channels
    int64_t filter = 9 * (int64_t)(turned ? p->k : p->c);
    for (int tap = 0; tap < 9; tap++) {
        for (int i = 0; i < VEC; i++)
            rows[i] = vec_load(turned ? w + (i0 + i) * filter + (8 - tap) * (int64_t)p->k + j0
                                  : w + (j0 + i) * filter + tap * (int64_t)p->c + i0);
        if (!turned) vec_transpose(rows);
        for (int i = 0; i < VEC; i++) g[i][tap] = rows[i];
    }
    for (int i = 0; i < VEC; i++) {
        filter_element(g[i], u + i * row, p->u_step);
        for (int tap = 0; tap < 9; tap++)
            vec_fetch(turned ? w + (i0 + VEC + i) * filter + tap * (int64_t)p->k + j0
                             : w + (j0 + i) * filter + tap * (int64_t)p->c + i0 + VEC);
    }
}

// M (width/16, 36, tile, 16) = or += over `depth` channels of V and U.
static void multiply(const Plan *p, int tiles, int width, int depth, float *v, float *u, float *m, bool accumulate) {
    for (int e = 0; e < ELEMENTS; e++) {
        Matrix y = { m + e * p->m_step, VEC, 1, ELEMENTS * p->m_step };
        Matrix a = { v + e * p->v_step, VEC, 1, ELEMENTS * p->v_step }, b = { u + e * p->u_step, width, 1, VEC };
        const float *after = v + least(e + 1, ELEMENTS - 1) * p->v_step;
        product_panel(tiles, width, y, a, b, depth, (Ahead){ .rows = after }, accumulate);
    }
}
// U (36, depth, width) of the panel from k0 on, channels c0.. of the sum.
static void filter_panel(const Plan *p, const float *w, bool turned, int k0, int width, int c0, int depth, float *u) {
    for (int j = 0; j < width; j += VEC)
        for (int i = 0; i < depth; i += VEC) filter_block(p, w, turned, k0 + j, c0 + i, u + i * width + j, width);
}

// One thread's part of y = conv(x, w) + terms, or with turned: of the input gradient, x being dy.
static void apply_part(const Plan *p, int part, const float *w, bool turned, const Image *in, const Image *out,
                       const Terms *terms, float *scratch) {
    int k0 = part % p->parts_k * p->size_k, k = least(p->size_k, p->k - k0);
    int t0 = part / p->parts_k * p->size, t1 = least(t0 + p->size, p->tiles);
    int64_t v_block = ELEMENTS * p->v_step, m_block = ELEMENTS * p->m_step;
    float *v = scratch, *u = v + p->v_floats, *m = u + p->u_floats;
    for (; t0 < t1; t0 += p->block) {
        int tiles = least(p->block, t1 - t0);
        for (int i = 0; i < p->c; i += VEC) input_tiles(p, in, t0, tiles, i, v + i / VEC * v_block);
        for (int j = 0; j < k; j += PANEL) {
            int width = least(PANEL, k - j);
            for (int i = 0; i < p->c; i += p->depth) {
                int depth = least(p->depth, p->c - i);
                filter_panel(p, w, turned, k0 + j, width, i, depth, u);
                multiply(p, tiles, width, depth, v + i / VEC * v_block, u, m, i > 0);
            }
            for (int i = 0; i < width; i += VEC)
                output_tiles(p, out, terms, t0, tiles, k0 + j + i, m + i / VEC * m_block);
        }
    }
}
static void apply(const Plan *p, const float *w, bool turned, const Image *in, const Image *out, const Terms *terms,
                  float *scratch) {
    #pragma omp parallel for schedule(static)
    for (int part = 0; part < p->parts * p->parts_k; part++)
        apply_part(p, part, w, turned, in, out, terms, scratch + part * p->thread_floats);
}

// ---- the weight gradient
// dw of 16 channels from c0 on of filter k = or += the transform of its 36 elements at u, step apart.
static void taps_of(const Plan *p, int k, int c0, const float *u, int64_t step, float *dw, bool accumulate) {
    Vec d[36], e[18], row[3];
    for (int x = 0; x < 36; x++) d[x] = vec_load(u + x * step);
    for (int x = 0; x < 6; x++) transform_taps(d + x, 6, e + x, 6);
    for (int y = 0; y < 3; y++) {
        transform_taps(e + 6 * y, 1, row, 1);
        for (int x = 0; x < 3; x++) {
            float *to = dw + (int64_t)k * 9 * p->c + (3 * y + x) * (int64_t)p->c + c0;
            vec_store(to, accumulate ? vec_add(vec_load(to), row[x]) : row[x]);
        }
    }
}
// dw of filters k0.., at most FILTERS, channels c0.., one panel, = or += the sum over these tiles.
static void weight_block(const Plan *p, int k0, int rows, int c0, int width, int tiles, float *v, float *d, float *m,
                         float *dw, bool accumulate) {
    for (int e = 0; e < ELEMENTS; e++)
        for (int k = 0; k < rows; k += VEC) {
            Matrix y = { m + e * p->m_step + k * VEC, VEC, 1, ELEMENTS * p->m_step };
            Matrix a = { d + (k / VEC * ELEMENTS + e) * p->v_step, 1, VEC, VEC * VEC };
            Matrix b = { v + e * p->v_step, VEC, 1, ELEMENTS * p->v_step };
            int next = least(e + 1, ELEMENTS - 1);
            Ahead ahead = { .next_a = d + (k / VEC * ELEMENTS + next) * p->v_step };
            if (k < width) ahead.next_b = v + (k / VEC * ELEMENTS + next) * p->v_step;
            product_panel(VEC, width, y, a, b, tiles, ahead, false);
        }
    for (int i = 0; i < width; i += VEC)
        for (int k = 0; k < rows; k++)
            taps_of(p, k0 + k, c0 + i, m + i / VEC * ELEMENTS * p->m_step + k * VEC, p->m_step, dw, accumulate);
}

// One thread's part of dw (k,3,3,c) = or += from x and dy.
static void weight_part(const Plan *p, int part, const Image *x, const Image *dy, float *dw, bool accumulate,
                        float *scratch) {
    int k0 = part % p->parts_k * p->size_k, k = least(p->size_k, p->k - k0);
    int c0 = part / p->parts_k * p->size, c = least(p->size, p->c - c0);
    int64_t block = ELEMENTS * p->v_step;
    float *v = scratch, *d = v + p->v_floats, *m = d + p->u_floats;
    for (int t0 = 0; t0 < p->tiles; t0 += p->block) {
        int tiles = least(p->block, p->tiles - t0);
        for (int i = 0; i < c; i += VEC) input_tiles(p, x, t0, tiles, c0 + i, v + i / VEC * block);
        for (int j = 0; j < k; j += VEC) gradient_tiles(p, dy, t0, tiles, k0 + j, d + j / VEC * block);
        for (int i = 0; i < c; i += PANEL)
            for (int j = 0; j < k; j += FILTERS)
                weight_block(p, k0 + j, least(FILTERS, k - j), c0 + i, least(PANEL, c - i), tiles,
                             v + i / VEC * block, d + j / VEC * block, m, dw, accumulate || t0 > 0);
    }
}
static void weight_gradient(const Plan *p, const Image *x, const Image *dy, float *dw, bool accumulate,
                            float *scratch) {
    #pragma omp parallel for schedule(static)
    for (int part = 0; part < p->parts * p->parts_k; part++)
        weight_part(p, part, x, dy, dw, accumulate, scratch + part * p->thread_floats);
}

// ---- launchers. Below 4 tiles the transformed filters cost more than they save, and conv2d.h's bound would not hold.
static bool can(const Conv2dShape *z) {
    unsigned fused = CONV_X2 | CONV_SHORTCUT | CONV_NORM | CONV_MASK | CONV_STATS | CONV_SUMS;
    bool plain = !(z->use & fused) && !z->c2 && z->dtype == DT_F32 && z->out == DT_F32;
    bool filled = z->h >= 4 && z->w >= 4 && (int64_t)z->n * ((z->h + 3) / 4) * ((z->w + 3) / 4) >= 4;   // tiles
    return plain && filled && z->r == 3 && z->s == 3 && z->stride == 1 && z->pad_h == 1
        && z->pad_w == 1 && z->p == z->h && z->q == z->w && z->c % VEC == 0 && z->k % VEC == 0;
}

static size_t forward_scratch(const Conv2dShape *z) { return plan_bytes(plan_apply(z, false)); }
static void forward(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work w) {
    Plan p = plan_apply(z, false);
    Image x = image_of(a->x, z->lx, z->h, z->w, z->ldx), y = image_of(a->y, z->ly, z->h, z->w, z->ldy);
    Terms terms = { a->bias, a->temb, image_of(a->residual, z->ly, z->h, z->w, z->ldr) };
    apply(&p, a->w, false, &x, &y, &terms, w.scratch);
}

static bool can_input(const Conv2dShape *z) { return can(z) && !(z->use & CONV_BIAS); }
static size_t input_scratch(const Conv2dShape *z) { return plan_bytes(plan_apply(z, true)); }
static void backward_input(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work w) {
    Plan p = plan_apply(z, true);
    Image dx = image_of(a->dx, z->lx, z->h, z->w, z->ldx), dy = image_of(a->dy, z->ly, z->h, z->w, z->ldy);
    Terms terms = { NULL, NULL, image_of(a->add, z->lx, z->h, z->w, z->c) };
    apply(&p, a->w, true, &dy, &dx, &terms, w.scratch);
}

static size_t weight_scratch(const Conv2dShape *z) {
    return plan_bytes(plan_weight(z)) + conv2d_sums_bytes(z);
}
static void backward_weight(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work w) {
    Plan p = plan_weight(z);
    Image x = image_of(a->x, z->lx, z->h, z->w, z->ldx), dy = image_of(a->dy, z->ly, z->h, z->w, z->ldy);
    float *scratch = (float *)((char *)w.scratch + conv2d_sums_bytes(z));
    if (a->dw) weight_gradient(&p, &x, &dy, a->dw, a->accumulate, scratch);
    conv2d_bias_gradients(z, a, w.scratch);
}
#else
static bool   can(const Conv2dShape *z) { return false; }
static bool   can_input(const Conv2dShape *z) { return false; }
static size_t forward_scratch(const Conv2dShape *z) { return 0; }
static size_t input_scratch(const Conv2dShape *z) { return 0; }
static size_t weight_scratch(const Conv2dShape *z) { return 0; }
static void   forward(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work w) {}
static void   backward_input(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work w) {}
static void   backward_weight(Stream *s, const Conv2dShape *z, const Conv2dArgs *a, Work w) {}
#endif

IMPLS(conv2d_winograd_cpu,
    IMPL_FULL(conv2d_forward, "winograd", 10, 0, 0, can, forward_scratch, NULL, forward, NULL),
    IMPL_FULL(conv2d_backward_input, "winograd", 10, 0, 0, can_input, input_scratch, NULL, backward_input, NULL),
    IMPL_FULL(conv2d_backward_weight, "winograd", 10, 0, 0, can, weight_scratch, NULL, backward_weight, NULL))
