// kernels/conv2d/conv2d_up_winograd_cpu.c - upsampling by two and a 3x3 convolution on the host, by Winograd's way on
// the image before it is upsampled, in vectors of 16 channels (AVX-512).
//
// In one dimension, with the filter w0, w1, w2, rows 2 a and 2 a + 1 of y are filters of two taps on x (conv2d_up.h):
//   y[2 a] = w0 x[a - 1] + (w1 + w2) x[a]      y[2 a + 1] = (w0 + w1) x[a] + w2 x[a + 1]
// Written as polynomials E(t) = w0 + (w1 + w2) t, O(t) = (w0 + w1) + w2 t, and with e and o the even and odd rows of a
// tile of dy, the terms of dy . y that meet a pixel of x are a coefficient of E(t) e(t) + t O(t) o(t). For four rows of
// each this is of degree 5: known by its values at six points. A value takes two products, with E and with O, but
//   at 0 there is E only, at infinity O only, and at 1 both are w0 + w1 + w2: one product with the sum of e and o
// so that 9 products make 8 rows of y, and in two dimensions 81 make 8x8 pixels out of 6x6 of x: 1.27 per output,
// where F(4x4,3x3) on the upsampled image takes 2.25. Points: 0, 1, -1, 1/2, -2, infinity. Writing . for the product
// element by element, where each element of B' x B meets one, two or four filters:
//   forward           y  = A' [sum over channels (G g G') . (B' x B)] A
//   backward_weight   dw = G' [sum over tiles (B' x B) . (A dy A')] G
//   backward_input    4x4 pixels of dx from 10x10 of dy, again 81 products: 5 even and 5 odd rows each meet a filter of
//                     two taps, F(4,2), at the points 0, 1, -2, -1/2, infinity, and what belongs to a point is added
//                     before the way back; at 1, where the filters are alike, before the product, too
// The threads share nothing that they make (conv2d_winograd_cpu.c). Each has in scratch, of 16 floats a vector,
//   V (c/16, 36, tile, 16)       the transform of x; backward_input: (k/16, 81, tile, 16) of dy
//   D (k/16, 81, tile, 16)       backward_weight: the transform of dy
//   U (81, c, 64)                transformed filters, a panel of 64 beside each other, for some channels of the sum
//   M (4, 81, tile, 16)          products of one panel; backward_input: (4, 25, tile, 16),
//                                backward_weight: (4, 81, filter, 16)
// Every sum has one order, whatever the number of threads.
#include "kernels/conv2d/conv2d_cpu.h"
#include "kernels/conv2d/conv2d_up.h"
#include "kernels/conv2d/conv2d_winograd_cpu.h"

#ifdef VEC_INLINE
enum {
    LINE = 9, PRODUCTS = 81,        // products in one dimension, in two
    X_POINTS = 6, DX_POINTS = 5,    // that x and dx are known by in one dimension
    TILES = 96,                     // most tiles transformed at once: U is made anew for each such block, a tenth of it
    FILTERS = 48,                   // most filters of M in backward_weight: it fits 1 MB
    DEPTH = 64,                     // channels summed at once: U of one panel hardly exceeds 1 MB
};

// ---- the transforms in one dimension, from vectors `step` apart to vectors `step` apart. Products in this order:
//   forward, backward_weight   0; 1; -1 even, odd; 1/2 even, odd; -2 even, odd; infinity
//   backward_input             0 odd, even; 1; -2 odd, even; -1/2 odd, even; infinity odd, even
// B': 6 pixels of x -> 6 elements. q: coefficients of t^2 + 3/2 t - 1, p: of t^2 - 1, from some power of t on.
VEC_INLINE void transform_input(const Vec *d, int step, Vec *v, int to) {
    Vec d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
    Vec p1 = vec_sub(d3, d1), p2 = vec_sub(d4, d2);
    Vec q0 = vec_axpy(1.5f, d1, vec_sub(d2, d0)), q1 = vec_axpy(1.5f, d2, p1);
    Vec q2 = vec_axpy(1.5f, d3, p2), q3 = vec_axpy(1.5f, d4, vec_sub(d5, d3));
    v[0] = vec_sub(q2, q0);
    v[to] = vec_add(q2, q1);
    v[2 * to] = vec_sub(q2, q1);
    v[3 * to] = vec_axpy(2.0f, p1, p2);
    v[4 * to] = vec_axpy(-0.5f, p1, p2);
    v[5 * to] = vec_sub(q3, q1);
}
// G: 3 taps -> 9 elements.
VEC_INLINE void transform_filter(const Vec *g, int step, Vec *u, int to) {
    const float at1 = 1.0f / 3, at_half = -16.0f / 15, at2 = 1.0f / 15;
    Vec g0 = g[0], g2 = g[2 * step], first = vec_add(g0, g[step]), last = vec_add(g[step], g2);
    u[0] = g0;
    u[to] = vec_scale(at1, vec_add(g0, last));
    u[2 * to] = vec_scale(at1, vec_sub(last, g0));
    u[3 * to] = vec_scale(at1, vec_sub(g2, first));
    u[4 * to] = vec_scale(at_half, vec_axpy(0.5f, last, g0));
    u[5 * to] = vec_scale(at_half, vec_axpy(0.5f, g2, first));
    u[6 * to] = vec_scale(at2, vec_axpy(-2.0f, last, g0));
    u[7 * to] = vec_scale(at2, vec_axpy(-2.0f, g2, first));
    u[8 * to] = g2;
}
// A': 9 elements -> 8 pixels of y.
VEC_INLINE void transform_output(const Vec *m, int step, Vec *y, int to) {
    Vec one = m[step], a = m[2 * step], b = m[4 * step], c = m[6 * step];
    Vec sum = vec_add(one, a), dif = vec_sub(one, a);
    y[0] = vec_add(vec_add(m[0], sum), vec_add(b, c));
    y[2 * to] = vec_axpy(0.5f, b, vec_axpy(-2.0f, c, dif));
    y[4 * to] = vec_axpy(0.25f, b, vec_axpy(4.0f, c, sum));
    y[6 * to] = vec_axpy(0.125f, b, vec_axpy(-8.0f, c, dif));
    a = m[3 * step], b = m[5 * step], c = m[7 * step];
    sum = vec_add(one, a), dif = vec_sub(one, a);
    y[to] = vec_axpy(0.5f, b, vec_axpy(-2.0f, c, dif));
    y[3 * to] = vec_axpy(0.25f, b, vec_axpy(4.0f, c, sum));
    y[5 * to] = vec_axpy(0.125f, b, vec_axpy(-8.0f, c, dif));
    y[7 * to] = vec_axpy(0.0625f, b, vec_axpy(16.0f, c, vec_add(sum, m[8 * step])));
}
// A: 8 gradients -> 9 elements.
VEC_INLINE void transform_gradient(const Vec *d, int step, Vec *v, int to) {
    Vec d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step];
    Vec d4 = d[4 * step], d5 = d[5 * step], d6 = d[6 * step], d7 = d[7 * step];
    Vec even0 = vec_add(d0, d4), even1 = vec_add(d2, d6), odd0 = vec_add(d1, d5), odd1 = vec_add(d3, d7);
    v[0] = d0;
    v[to] = vec_add(vec_add(even0, even1), vec_add(odd0, odd1));
    v[2 * to] = vec_sub(even0, even1);
    v[3 * to] = vec_sub(odd1, odd0);
    v[4 * to] = vec_axpy(0.5f, d2, vec_axpy(0.25f, d4, vec_axpy(0.125f, d6, d0)));
    v[5 * to] = vec_axpy(0.5f, d1, vec_axpy(0.25f, d3, vec_axpy(0.125f, d5, vec_scale(0.0625f, d7))));
    v[6 * to] = vec_axpy(-2.0f, d2, vec_axpy(4.0f, d4, vec_axpy(-8.0f, d6, d0)));
    v[7 * to] = vec_axpy(-2.0f, d1, vec_axpy(4.0f, d3, vec_axpy(-8.0f, d5, vec_scale(16.0f, d7))));
    v[8 * to] = d7;
}
// G': 9 elements -> 3 taps.
VEC_INLINE void transform_taps(const Vec *m, int step, Vec *g, int to) {
    const float at1 = 1.0f / 3, at_half = -16.0f / 15, at2 = 1.0f / 15;
    Vec one = m[step], a = m[2 * step], b = m[4 * step], c = m[6 * step];
    Vec odd_a = m[3 * step], odd_b = m[5 * step], odd_c = m[7 * step];
    Vec first = vec_axpy(-at1, odd_a, vec_axpy(at_half, odd_b, vec_scale(at2, odd_c)));
    Vec last = vec_axpy(at1, vec_add(one, a), vec_axpy(0.5f * at_half, b, vec_scale(-2.0f * at2, c)));
    Vec even = vec_axpy(at1, vec_sub(one, a), vec_axpy(at_half, b, vec_axpy(at2, c, m[0])));
    Vec odd = vec_axpy(at1, odd_a, vec_axpy(0.5f * at_half, odd_b, vec_axpy(-2.0f * at2, odd_c, m[8 * step])));
    g[0] = vec_add(first, even);
    g[to] = vec_add(first, last);
    g[2 * to] = vec_add(last, odd);
}

// Of backward_input. B': 5 pixels of dy, two steps apart, -> the elements at 0, 1, -2, -1/2, infinity.
// q: coefficients of t^2 + 5/2 t + 1, p: of t - 1.
VEC_INLINE void transform_phase(const Vec *d, int step, Vec v[DX_POINTS]) {
    Vec d0 = d[0], d1 = d[2 * step], d2 = d[4 * step], d3 = d[6 * step], d4 = d[8 * step];
    Vec p1 = vec_sub(d2, d1), p2 = vec_sub(d3, d2);
    Vec q0 = vec_axpy(2.5f, d1, vec_add(d0, d2)), q1 = vec_axpy(2.5f, d2, vec_add(d1, d3));
    Vec q2 = vec_axpy(2.5f, d3, vec_add(d2, d4));
    v[0] = vec_sub(q0, q1);
    v[1] = q1;
    v[2] = vec_axpy(0.5f, p1, p2);
    v[3] = vec_axpy(2.0f, p1, p2);
    v[4] = vec_sub(q2, q1);
}
// 10 pixels, the first one odd, -> 9 elements.
VEC_INLINE void turned_input(const Vec *d, int step, Vec *v, int to) {
    Vec odd[DX_POINTS], even[DX_POINTS];
    transform_phase(d, step, odd);
    transform_phase(d + step, step, even);
    v[0] = odd[0], v[to] = even[0];
    v[2 * to] = vec_add(odd[1], even[1]);
    for (int i = 2; i < DX_POINTS; i++) v[(2 * i - 1) * to] = odd[i], v[2 * i * to] = even[i];
}
// G: 3 taps -> 9 elements, of w2 + (w0 + w1) t for odd pixels, (w1 + w2) + w0 t for even ones.
VEC_INLINE void turned_filter(const Vec *g, int step, Vec *u, int to) {
    const float at1 = 2.0f / 9, at2 = -1.0f / 9, at_half = 8.0f / 9;
    Vec g0 = g[0], g2 = g[2 * step], first = vec_add(g0, g[step]), last = vec_add(g[step], g2);
    u[0] = g2, u[to] = last;
    u[2 * to] = vec_scale(at1, vec_add(first, g2));
    u[3 * to] = vec_scale(at2, vec_axpy(-2.0f, first, g2));
    u[4 * to] = vec_scale(at2, vec_axpy(-2.0f, g0, last));
    u[5 * to] = vec_scale(at_half, vec_axpy(-0.5f, first, g2));
    u[6 * to] = vec_scale(at_half, vec_axpy(-0.5f, g0, last));
    u[7 * to] = first, u[8 * to] = g0;
}
// A': 5 elements -> 4 pixels of dx.
VEC_INLINE void turned_output(const Vec *m, int step, Vec *y, int to) {
    Vec one = m[step], a = m[2 * step], b = m[3 * step];
    y[0] = vec_add(vec_add(m[0], one), vec_add(a, b));
    y[to] = vec_axpy(-2.0f, a, vec_axpy(-0.5f, b, one));
    y[2 * to] = vec_axpy(4.0f, a, vec_axpy(0.25f, b, one));
    y[3 * to] = vec_axpy(-8.0f, a, vec_axpy(-0.125f, b, vec_add(one, m[4 * step])));
}

// ---- sizes and where things lie
static Plan plan_apply(const Conv2dUpShape *z, bool turned) {
    Plan p = plan_tiles(z->n, z->h, z->w, turned ? z->k : z->c, turned ? z->c : z->k);
    int v = turned ? PRODUCTS : X_POINTS * X_POINTS, m = turned ? DX_POINTS * DX_POINTS : PRODUCTS;
    divide(&p, p.tiles, p.tiles_w);
    p.block = (int)round_up(equal_parts(p.size, TILES), PRODUCT_ROWS);
    p.depth = least(DEPTH, p.c);
    p.v_step = p.m_step = stagger((int64_t)p.block * VEC);
    p.u_step = stagger((int64_t)PANEL * p.depth);
    p.v_floats = v * p.v_step * (p.c / VEC);
    p.u_floats = PRODUCTS * p.u_step;
    p.thread_floats = p.v_floats + p.u_floats + m * p.m_step * (PANEL / VEC);
    return p;
}
static Plan plan_weight(const Conv2dUpShape *z) {
    enum { CHUNK = 10 << 20 };      // bytes of V and D were there one thread: they stay in the third-level cache
    Plan p = plan_tiles(z->n, z->h, z->w, z->c, z->k);
    divide(&p, p.c, VEC);
    int most = CHUNK / ((int)sizeof(float) * (X_POINTS * X_POINTS * p.c + PRODUCTS * p.k));
    p.block = equal_parts(p.tiles, most > 0 ? most : 1);        // dw adds up blocks: the same for any number of threads
    p.v_step = stagger((int64_t)p.block * VEC);
    p.m_step = stagger(FILTERS * VEC);
    p.v_floats = X_POINTS * X_POINTS * p.v_step * (p.size / VEC);
    p.u_floats = PRODUCTS * p.v_step * (p.size_k / VEC);
    p.thread_floats = p.v_floats + p.u_floats + PRODUCTS * p.m_step * (PANEL / VEC);
    return p;
}

// The 81 products in the order in which they are made: those of a point together.
typedef struct { int point, product; bool more; } Step;         // element of 6x6 or 5x5, of 9x9; more: not its first
static void steps_of(bool turned, Step *s) {
    static const int of_x[X_POINTS + 1] = { 0, 1, 2, 4, 6, 8, 9 }, of_dx[DX_POINTS + 1] = { 0, 2, 3, 5, 7, 9 };
    const int *first = turned ? of_dx : of_x;
    int points = turned ? DX_POINTS : X_POINTS;
    for (int p = 0; p < points * points; p++) {
        int y = p / points, x = p % points;
        for (int i = first[y]; i < first[y + 1]; i++)
            for (int j = first[x]; j < first[x + 1]; j++)
                *s++ = (Step){ p, LINE * i + j, i > first[y] || j > first[x] };
    }
}

// ---- tiles in and out
typedef struct { int i, y, x; } Tile;            // image; where it stands there, in tiles
static Tile tile_at(const Plan *p, int t) {
    int j = t % p->tiles_image;
    return (Tile){ t / p->tiles_image, j / p->tiles_w, j % p->tiles_w };
}
// Tile t of x, channels k0.. -> its 36 elements at v, step apart.
static void input_tile(const Plan *p, const Image *m, int t, int k0, float *v, int64_t step) {
    Tile at = tile_at(p, t);
    Vec d[36], e[36], row[6];
    load_tile(m, at.i, 4 * at.y - 1, 4 * at.x - 1, k0, 6, d);
    for (int x = 0; x < 6; x++) transform_input(d + x, 6, e + x, 6);
    for (int y = 0; y < 6; y++) {
        transform_input(e + 6 * y, 1, row, 1);
        for (int x = 0; x < 6; x++) vec_store(v + (6 * y + x) * step, row[x]);
    }
}
// Tile t of dy -> 81 elements: of its 8x8 pixels for dw, of the 10x10 that dx sees.
static void gradient_tile(const Plan *p, const Image *m, int t, int k0, float *v, int64_t step) {
    Tile at = tile_at(p, t);
    Vec d[64], e[LINE * 8], row[LINE];
    load_tile(m, at.i, 8 * at.y, 8 * at.x, k0, 8, d);
    for (int x = 0; x < 8; x++) transform_gradient(d + x, 8, e + x, 8);
    for (int y = 0; y < LINE; y++) {
        transform_gradient(e + 8 * y, 1, row, 1);
        for (int x = 0; x < LINE; x++) vec_store(v + (LINE * y + x) * step, row[x]);
    }
}
static void turned_tile(const Plan *p, const Image *m, int t, int k0, float *v, int64_t step) {
    Tile at = tile_at(p, t);
    Vec d[100], e[LINE * 10], row[LINE];
    load_tile(m, at.i, 8 * at.y - 1, 8 * at.x - 1, k0, 10, d);
    for (int x = 0; x < 10; x++) turned_input(d + x, 10, e + x, 10);
    for (int y = 0; y < LINE; y++) {
        turned_input(e + 10 * y, 1, row, 1);
        for (int x = 0; x < LINE; x++) vec_store(v + (LINE * y + x) * step, row[x]);
    }
}
// One of these for `tiles` tiles from t0 on: 16 floats from tile to tile. size: pixels that a tile is wide.
typedef void TileIn(const Plan *p, const Image *m, int t, int k0, float *v, int64_t step);
static void tiles_in(TileIn *tile, int size, const Plan *p, const Image *m, int t0, int tiles, int k0, float *v) {
    enum { READ = 64 };
    for (int t = 0; t < tiles; t++) {
        if (t % READ == 0) read_rows(m, size, t0 + t, least(READ, tiles - t), k0);
        tile(p, m, t0 + t, k0, v + t * VEC, p->v_step);
    }
}
// The 81 elements of tile t, channels k0.., at m, step apart, -> 8x8 pixels of y.
static void output_tile(const Plan *p, const Image *out, const float *bias, int t, int k0, const float *m,
                        int64_t step) {
    Tile at = tile_at(p, t);
    float *to = image_at(out, at.i, 8 * at.y, 8 * at.x, k0);
    Vec d[LINE], e[8 * LINE], row[8], plus = bias ? vec_load(bias + k0) : vec_fill(0.0f);
    for (int x = 0; x < LINE; x++) {
        for (int y = 0; y < LINE; y++) d[y] = vec_load(m + (LINE * y + x) * step);
        transform_output(d, 1, e + x, LINE);
    }
    for (int y = 0; y < least(8, out->h - 8 * at.y); y++) {
        transform_output(e + LINE * y, 1, row, 1);
        for (int x = 0; x < least(8, out->w - 8 * at.x); x++)
            vec_store(to + y * out->row + x * out->step, vec_add(row[x], plus));
    }
}
// 25 elements -> 4x4 pixels of dx.
static void turned_output_tile(const Plan *p, const Image *out, int t, int k0, const float *m, int64_t step) {
    Tile at = tile_at(p, t);
    float *to = image_at(out, at.i, 4 * at.y, 4 * at.x, k0);
    Vec d[25], e[20], row[4];
    for (int x = 0; x < 25; x++) d[x] = vec_load(m + x * step);
    for (int x = 0; x < 5; x++) turned_output(d + x, 5, e + x, 5);
    for (int y = 0; y < least(4, out->h - 4 * at.y); y++) {
        turned_output(e + 5 * y, 1, row, 1);
        for (int x = 0; x < least(4, out->w - 4 * at.x); x++) vec_store(to + y * out->row + x * out->step, row[x]);
    }
}
static void tiles_out(const Plan *p, bool turned, const Image *out, const float *bias, int t0, int tiles, int k0,
                      const float *m) {
    read_rows(out, turned ? 4 : 8, t0, tiles, k0);           // what is written is read before, by the processor
    for (int t = 0; t < tiles; t++) {
        if (turned) turned_output_tile(p, out, t0 + t, k0, m + t * VEC, p->m_step);
        else        output_tile(p, out, bias, t0 + t, k0, m + t * VEC, p->m_step);
    }
}

// ---- filters. w (filter,3,3,channel) as stored
// Sixteen written channels of one lane each, at one channel of the sum, -> the 81 elements at u, step apart.
static void filter_element(const Vec g[9], bool turned, float *u, int64_t step) {
    Vec e[3 * LINE], row[LINE];
    for (int x = 0; x < 3; x++) {
        if (turned) turned_filter(g + x, 3, e + x, 3);
        else        transform_filter(g + x, 3, e + x, 3);
    }
    for (int y = 0; y < LINE; y++) {
        if (turned) turned_filter(e + 3 * y, 1, row, 1);
        else        transform_filter(e + 3 * y, 1, row, 1);
        for (int x = 0; x < LINE; x++) vec_store(u + (LINE * y + x) * step, row[x]);
    }
}
// The elements of 16 written channels from j0 on and 16 summed channels from i0 on; at u, `row` floats from one summed
// channel to the next. Forward: j are filters, i their channels; turned: j are channels, i filters.
static void filter_block(const Plan *p, const float *w, bool turned, int j0, int i0, float *u, int row) {
    Vec g[VEC][9], rows[VEC];                    // taps of the 16 summed channels
    int64_t filter = 9 * (int64_t)(turned ? p->k : p->c);
    for (int tap = 0; tap < 9; tap++) {
        for (int i = 0; i < VEC; i++)
            rows[i] = vec_load(turned ? w + (i0 + i) * filter + tap * (int64_t)p->k + j0
                                  : w + (j0 + i) * filter + tap * (int64_t)p->c + i0);
        if (!turned) vec_transpose(rows);
        for (int i = 0; i < VEC; i++) g[i][tap] = rows[i];
    }
    for (int i = 0; i < VEC; i++) filter_element(g[i], turned, u + i * row, p->u_step);
}
// U (81, depth, width) of the panel from k0 on, channels c0.. of the sum.
static void filter_panel(const Plan *p, const float *w, bool turned, int k0, int width, int c0, int depth, float *u) {
    for (int j = 0; j < width; j += VEC)
        for (int i = 0; i < depth; i += VEC) filter_block(p, w, turned, k0 + j, c0 + i, u + i * width + j, width);
}

// ---- y and dx
// M = or += over `depth` channels of V and U.
static void multiply(const Plan *p, bool turned, const Step *steps, int tiles, int width, int depth, float *v, float *u,
                     float *m, bool accumulate) {
    int points = turned ? PRODUCTS : X_POINTS * X_POINTS, sums = turned ? DX_POINTS * DX_POINTS : PRODUCTS;
    for (int e = 0; e < PRODUCTS; e++) {
        const Step *s = steps + e, *next = steps + least(e + 1, PRODUCTS - 1);
        int64_t from = (turned ? s->product : s->point) * p->v_step;
        int64_t to = (turned ? s->point : s->product) * p->m_step;
        Matrix y = { m + to, VEC, 1, sums * p->m_step }, a = { v + from, VEC, 1, points * p->v_step };
        Matrix b = { u + s->product * p->u_step, width, 1, VEC };
        const float *after = v + (turned ? next->product : next->point) * p->v_step;
        product_panel(tiles, width, y, a, b, depth, (Ahead){ .rows = after }, accumulate || (turned && s->more));
    }
}
// One thread's part of y = conv(upsampled x, w) + bias, or with turned: of dx, `in` being dy.
static void apply_part(const Plan *p, int part, const float *w, bool turned, const Image *in, const Image *out,
                       const float *bias, float *scratch) {
    int k0 = part % p->parts_k * p->size_k, k = least(p->size_k, p->k - k0);
    int t0 = part / p->parts_k * p->size, t1 = least(t0 + p->size, p->tiles);
    int64_t v_block = (turned ? PRODUCTS : X_POINTS * X_POINTS) * p->v_step;
    int64_t m_block = (turned ? DX_POINTS * DX_POINTS : PRODUCTS) * p->m_step;
    float *v = scratch, *u = v + p->v_floats, *m = u + p->u_floats;
    Step steps[PRODUCTS];
    steps_of(turned, steps);
    for (; t0 < t1; t0 += p->block) {
        int tiles = least(p->block, t1 - t0);
        for (int i = 0; i < p->c; i += VEC)
            tiles_in(turned ? turned_tile : input_tile, turned ? 8 : 4, p, in, t0, tiles, i, v + i / VEC * v_block);
        for (int j = 0; j < k; j += PANEL) {
            int width = least(PANEL, k - j);
            for (int i = 0; i < p->c; i += p->depth) {
                int depth = least(p->depth, p->c - i);
                filter_panel(p, w, turned, k0 + j, width, i, depth, u);
                multiply(p, turned, steps, tiles, width, depth, v + i / VEC * v_block, u, m, i > 0);
            }
            for (int i = 0; i < width; i += VEC)
                tiles_out(p, turned, out, bias, t0, tiles, k0 + j + i, m + i / VEC * m_block);
        }
    }
}
static void apply(const Plan *p, const float *w, bool turned, const Image *in, const Image *out, const float *bias,
                  float *scratch) {
    #pragma omp parallel for schedule(static)
    for (int part = 0; part < p->parts * p->parts_k; part++)
        apply_part(p, part, w, turned, in, out, bias, scratch + part * p->thread_floats);
}

// ---- the weight gradient
// dw of 16 channels from c0 on of filter k = or += the transform of its 81 elements at u, step apart.
static void taps_of(const Plan *p, int k, int c0, const float *u, int64_t step, float *dw, bool accumulate) {
    Vec d[LINE], e[3 * LINE], row[3];
    for (int x = 0; x < LINE; x++) {
        for (int y = 0; y < LINE; y++) d[y] = vec_load(u + (LINE * y + x) * step);
        transform_taps(d, 1, e + x, LINE);
    }
    for (int y = 0; y < 3; y++) {
        transform_taps(e + LINE * y, 1, row, 1);
        for (int x = 0; x < 3; x++) {
            float *to = dw + (int64_t)k * 9 * p->c + (3 * y + x) * (int64_t)p->c + c0;
            vec_store(to, accumulate ? vec_add(vec_load(to), row[x]) : row[x]);
        }
    }
}
// dw of filters k0.., at most FILTERS, channels c0.., one panel, = or += the sum over these tiles.
static void weight_block(const Plan *p, const Step *steps, int k0, int rows, int c0, int width, int tiles, float *v,
                         float *d, float *m, float *dw, bool accumulate) {
    for (const Step *s = steps; s < steps + PRODUCTS; s++)
        for (int k = 0; k < rows; k += VEC) {
            Matrix y = { m + s->product * p->m_step + k * VEC, VEC, 1, PRODUCTS * p->m_step };
            Matrix a = { d + (k / VEC * PRODUCTS + s->product) * p->v_step, 1, VEC, VEC * VEC };
            Matrix b = { v + s->point * p->v_step, VEC, 1, X_POINTS * X_POINTS * p->v_step };
            const Step *next = s + 1 < steps + PRODUCTS ? s + 1 : s;
            Ahead ahead = { .next_a = d + (k / VEC * PRODUCTS + next->product) * p->v_step };
            if (k < width) ahead.next_b = v + (k / VEC * X_POINTS * X_POINTS + next->point) * p->v_step;
            product_panel(VEC, width, y, a, b, tiles, ahead, false);
        }
    for (int i = 0; i < width; i += VEC)
        for (int k = 0; k < rows; k++)
            taps_of(p, k0 + k, c0 + i, m + i / VEC * PRODUCTS * p->m_step + k * VEC, p->m_step, dw, accumulate);
}
// One thread's part of dw (k,3,3,c) = or += from x and dy.
static void weight_part(const Plan *p, int part, const Image *x, const Image *dy, float *dw, bool accumulate,
                        float *scratch) {
    int k0 = part % p->parts_k * p->size_k, k = least(p->size_k, p->k - k0);
    int c0 = part / p->parts_k * p->size, c = least(p->size, p->c - c0);
    int64_t v_block = X_POINTS * X_POINTS * p->v_step, d_block = PRODUCTS * p->v_step;
    float *v = scratch, *d = v + p->v_floats, *m = d + p->u_floats;
    Step steps[PRODUCTS];
    steps_of(false, steps);
    for (int t0 = 0; t0 < p->tiles; t0 += p->block) {
        int tiles = least(p->block, p->tiles - t0);
        for (int i = 0; i < c; i += VEC) tiles_in(input_tile, 4, p, x, t0, tiles, c0 + i, v + i / VEC * v_block);
        for (int j = 0; j < k; j += VEC) tiles_in(gradient_tile, 8, p, dy, t0, tiles, k0 + j, d + j / VEC * d_block);
        for (int i = 0; i < c; i += PANEL)
            for (int j = 0; j < k; j += FILTERS)
                weight_block(p, steps, k0 + j, least(FILTERS, k - j), c0 + i, least(PANEL, c - i), tiles,
                             v + i / VEC * v_block, d + j / VEC * d_block, m, dw, accumulate || t0 > 0);
    }
}
static void weight_gradient(const Plan *p, const Image *x, const Image *dy, float *dw, bool accumulate,
                            float *scratch) {
    #pragma omp parallel for schedule(static)
    for (int part = 0; part < p->parts * p->parts_k; part++)
        weight_part(p, part, x, dy, dw, accumulate, scratch + part * p->thread_floats);
}

// ---- launchers. conv2d_up.h derives its bound for two rows, columns and tiles at least, in forward for 32 channels.
static bool can(const Conv2dUpShape *z) {
    bool filled = z->h >= 2 && z->w >= 2 && plan_tiles(z->n, z->h, z->w, z->c, z->k).tiles >= 2;
    return z->dtype == DT_F32 && z->out == DT_F32 && filled && z->c % VEC == 0 && z->k % VEC == 0;
}
static bool can_forward(const Conv2dUpShape *z) { return can(z) && z->c >= 32; }
static Image low_image(const Conv2dUpShape *z, const void *p) { return image_of(p, z->lx, z->h, z->w, z->ldx); }
static Image high_image(const Conv2dUpShape *z, const void *p) {
    return image_of(p, z->ly, 2 * z->h, 2 * z->w, z->ldy);
}

static size_t forward_scratch(const Conv2dUpShape *z) { return plan_bytes(plan_apply(z, false)); }
static void forward(Stream *s, const Conv2dUpShape *z, const Conv2dUpArgs *a, Work w) {
    Plan p = plan_apply(z, false);
    Image x = low_image(z, a->x), y = high_image(z, a->y);
    apply(&p, a->w, false, &x, &y, a->bias, w.scratch);
}

static size_t input_scratch(const Conv2dUpShape *z) { return plan_bytes(plan_apply(z, true)); }
static void backward_input(Stream *s, const Conv2dUpShape *z, const Conv2dUpArgs *a, Work w) {
    Plan p = plan_apply(z, true);
    Image dy = high_image(z, a->dy), dx = low_image(z, a->dx);
    apply(&p, a->w, true, &dy, &dx, NULL, w.scratch);
}

// What conv2d_bias_gradients reads of the convolution of the upsampled image.
static Conv2dShape bias_shape(const Conv2dUpShape *z) {
    return (Conv2dShape){ .n = z->n, .p = 2 * z->h, .q = 2 * z->w, .k = z->k, .ldy = z->ldy, .ly = z->ly };
}
static size_t weight_scratch(const Conv2dUpShape *z) {
    Conv2dShape b = bias_shape(z);
    return plan_bytes(plan_weight(z)) + conv2d_sums_bytes(&b);
}
static void backward_weight(Stream *s, const Conv2dUpShape *z, const Conv2dUpArgs *a, Work w) {
    Plan p = plan_weight(z);
    Conv2dShape b = bias_shape(z);
    Image x = low_image(z, a->x), dy = high_image(z, a->dy);
    float *scratch = (float *)((char *)w.scratch + conv2d_sums_bytes(&b));
    if (a->dw) weight_gradient(&p, &x, &dy, a->dw, a->accumulate, scratch);
    conv2d_bias_gradients(&b, &(Conv2dArgs){ .dy = a->dy, .dbias = a->dbias, .accumulate = a->accumulate }, w.scratch);
}
#else
static bool   can(const Conv2dUpShape *z) { return false; }
static bool   can_forward(const Conv2dUpShape *z) { return false; }
static size_t forward_scratch(const Conv2dUpShape *z) { return 0; }
static size_t input_scratch(const Conv2dUpShape *z) { return 0; }
static size_t weight_scratch(const Conv2dUpShape *z) { return 0; }
static void   forward(Stream *s, const Conv2dUpShape *z, const Conv2dUpArgs *a, Work w) {}
static void   backward_input(Stream *s, const Conv2dUpShape *z, const Conv2dUpArgs *a, Work w) {}
static void   backward_weight(Stream *s, const Conv2dUpShape *z, const Conv2dUpArgs *a, Work w) {}
#endif

IMPLS(conv2d_up_winograd_cpu,
    IMPL_FULL(conv2d_up_forward, "winograd", 10, 0, 0, can_forward, forward_scratch, NULL, forward, NULL),
    IMPL_FULL(conv2d_up_backward_input, "winograd", 10, 0, 0, can, input_scratch, NULL, backward_input, NULL),
    IMPL_FULL(conv2d_up_backward_weight, "winograd", 10, 0, 0, can, weight_scratch, NULL, backward_weight, NULL))
