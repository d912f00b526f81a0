// kernels/batchnorm/batchnorm_cpu.c - batch normalization in pieces: some channels of pixels that follow each other.
//
// A piece is at most CPU_CHUNK floats, so that it stays in the cache of a core for the two passes of its own mean and
// its own squared deviations: memory is read once for the statistics, once more for what is written. The pieces'
// moments are joined in double, in their order (Chan, Golub and LeVeque 1979). Channels come in panels: a block of 16
// in C16, at most CPU_WIDE in NHWC, where all images are one. Where a panel's pixels lie dense, a row of the loops is
// several pixels and the parameters are repeated for each.
#include "kernels/batchnorm/batchnorm.h"
#include "kernels/common/cpu.h"

static bool can(const BatchNormShape *z) { return z->dtype == DT_F32; }

// ---- pieces
typedef struct { int64_t at, step; } Walk;               // first element; elements from pixel to pixel
typedef struct {
    int  k, w, fold;                                     // channels k..k+w-1; pixels of a row of the loops
    int  count;                                          // pixels
    Walk x, y, r, dense;                                 // by ldx, ldy, ldr, c
} Piece;
typedef struct { BatchNormShape z; int panels, pixels, per_image; int64_t count; } Pieces;   // pixels: most of a piece

static Pieces pieces_of(const BatchNormShape *given) {
    Pieces s = { .z = *given };
    if (s.z.layout == LAYOUT_NHWC) {
        s.z.hw *= s.z.n;
        s.z.n = 1;
    }
    int wide = s.z.layout == LAYOUT_C16 ? 16 : (int)cpu_min(CPU_WIDE, s.z.c);
    s.panels = (int)cpu_ceil_div(s.z.c, wide);
    s.pixels = CPU_CHUNK / wide;
    s.per_image = (int)cpu_ceil_div(s.z.hw, s.pixels);
    s.count = (int64_t)s.z.n * s.per_image;
    return s;
}

static Walk walk_of(const BatchNormShape *z, int ld, int i, int64_t p, int k) {
    return (Walk){ layout_index(z->layout, z->hw, ld, i, p, k), z->layout == LAYOUT_C16 ? 16 : ld };
}

// Piece j of the pixels, panel b of the channels.
static Piece piece_at(const Pieces *s, int64_t j, int b) {
    const BatchNormShape *z = &s->z;
    int i = (int)(j / s->per_image), wide = z->layout == LAYOUT_C16 ? 16 : CPU_WIDE;
    int64_t p = j % s->per_image * s->pixels;
    Piece c = { .k = b * wide, .w = (int)cpu_min(wide, z->c - b * wide), .count = (int)cpu_min(s->pixels, z->hw - p) };
    c.x = walk_of(z, z->ldx, i, p, c.k);
    c.y = walk_of(z, z->ldy, i, p, c.k);
    c.r = walk_of(z, z->ldr, i, p, c.k);
    c.dense = walk_of(z, z->c, i, p, c.k);
    bool folds = c.x.step == c.w && c.y.step == c.w && c.r.step == c.w && c.dense.step == c.w;
    c.fold = folds ? (int)cpu_min(CPU_WIDE / c.w, (c.count + 3) / 4) : 1;
    return c;
}
static int columns_at(const Piece *c, int p) { return (int)cpu_min(c->fold, c->count - p) * c->w; }

// wide[j] = of channel j mod w, for every pixel of a row.
static void repeat(float *wide, const Piece *c) {
    for (int j = c->w; j < c->fold * c->w; j++) wide[j] = wide[j - c->w];
}

// ---- forward
typedef struct { double mean, squares; } Moments;        // squares: sum of squared deviations from the mean

static size_t forward_scratch(const BatchNormShape *z) {
    return z->training ? (size_t)pieces_of(z).count * (size_t)z->c * sizeof(Moments) : 0;
}

// Of one piece. What the rounded mean leaves of the deviations' sum corrects both moments.
static void piece_moments(const Piece *c, const float *x, Moments *out) {
    float mean[CPU_WIDE], rest[CPU_WIDE] = { 0 }, square[CPU_WIDE] = { 0 };
    cpu_column_sums(x + c->x.at, c->count, c->x.step, c->w, mean);
    for (int j = 0; j < c->w; j++) mean[j] /= (float)c->count;
    repeat(mean, c);
    for (int p = 0; p < c->count; p += c->fold) {
        const float *row = x + c->x.at + p * c->x.step;
        int cols = columns_at(c, p);
        #pragma omp simd
        for (int j = 0; j < cols; j++) {
            float d = row[j] - mean[j];
            rest[j] += d;
            square[j] += d * d;
        }
    }
    cpu_unfold(rest, c->w, c->fold * c->w);
    cpu_unfold(square, c->w, c->fold * c->w);
    for (int j = 0; j < c->w; j++) {
        double off = (double)rest[j] / c->count;
        out[c->k + j] = (Moments){ (double)mean[j] + off, (double)square[j] - off * off * c->count };
    }
}

// Joins the pieces of channel k; writes mean, rstd and the running statistics.
static void join_moments(const Pieces *s, const BatchNormForwardArgs *a, const Moments *part, int k) {
    const BatchNormShape *z = &s->z;
    double size = (double)z->n * z->hw, mean = 0, squares = 0;
    for (int64_t j = 0; j < s->count; j++) {
        double count = (double)cpu_min(s->pixels, z->hw - j % s->per_image * s->pixels);
        mean += count / size * part[j * z->c + k].mean;
    }
    for (int64_t j = 0; j < s->count; j++) {
        double count = (double)cpu_min(s->pixels, z->hw - j % s->per_image * s->pixels);
        double d = part[j * z->c + k].mean - mean;
        squares += part[j * z->c + k].squares + count * d * d;
    }
    double old_mean = (double)a->running_mean[k], old_var = (double)a->running_var[k];
    a->mean[k] = (float)mean;
    a->rstd[k] = (float)(1 / sqrt(squares / size + z->eps));
    a->running_mean[k] = (float)(old_mean + z->momentum * (mean - old_mean));
    a->running_var[k] = (float)(old_var + z->momentum * (squares / (size - 1) - old_var));
}

// A row of y. residual (NULL: none) and relu are constants wherever this is inlined.
static inline void write_row(float *y, const float *x, const float *residual, const float *mean, const float *scale,
                             const float *beta, bool relu, int cols) {
    #pragma omp simd
    for (int j = 0; j < cols; j++) {
        float u = (x[j] - mean[j]) * scale[j] + beta[j];
        if (residual) u += residual[j];
        y[j] = relu && u <= 0 ? 0 : u;
    }
}

static void write_piece(const BatchNormShape *z, const BatchNormForwardArgs *a, const Piece *c) {
    float mean[CPU_WIDE], scale[CPU_WIDE], beta[CPU_WIDE];
    for (int j = 0; j < c->w; j++) {
        int k = c->k + j;
        float rstd = z->training ? a->rstd[k] : (float)(1 / sqrt((double)a->running_var[k] + z->eps));
        mean[j] = z->training ? a->mean[k] : a->running_mean[k];
        scale[j] = rstd * a->gamma[k];
        beta[j] = a->beta[k];
    }
    repeat(mean, c);
    repeat(scale, c);
    repeat(beta, c);
    bool relu = z->act == ACT_RELU;
    for (int p = 0; p < c->count; p += c->fold) {
        const float *x = (const float *)a->x + c->x.at + p * c->x.step;
        float *y = (float *)a->y + c->y.at + p * c->y.step;
        int cols = columns_at(c, p);
        if (a->residual) {
            const float *residual = (const float *)a->residual + c->r.at + p * c->r.step;
            if (relu) write_row(y, x, residual, mean, scale, beta, true, cols);
            else      write_row(y, x, residual, mean, scale, beta, false, cols);
        } else {
            if (relu) write_row(y, x, NULL, mean, scale, beta, true, cols);
            else      write_row(y, x, NULL, mean, scale, beta, false, cols);
        }
    }
}

static void forward(Stream *st, const BatchNormShape *z, const BatchNormForwardArgs *a, Work w) {
    Pieces s = pieces_of(z);
    Moments *part = w.scratch;
    if (z->training) {
        #pragma omp parallel for schedule(static)
        for (int64_t task = 0; task < s.count * s.panels; task++) {
            Piece c = piece_at(&s, task / s.panels, (int)(task % s.panels));
            piece_moments(&c, a->x, part + task / s.panels * z->c);
        }
        for (int k = 0; k < z->c; k++) join_moments(&s, a, part, k);
    }
    #pragma omp parallel for schedule(static)
    for (int64_t task = 0; task < s.count * s.panels; task++) {
        Piece c = piece_at(&s, task / s.panels, (int)(task % s.panels));
        write_piece(&s.z, a, &c);
    }
}

// ---- backward. Scratch: of each piece and channel the sums of du and of du xhat, then both over all pieces.
static size_t backward_scratch(const BatchNormShape *z) {
    return (size_t)(pieces_of(z).count + 1) * 2 * (size_t)z->c * sizeof(float);
}

typedef struct { float mean[CPU_WIDE], rstd[CPU_WIDE], scale[CPU_WIDE]; } Columns;
static void columns_of(Columns *o, const BatchNormBackwardArgs *a, const Piece *c) {
    for (int j = 0; j < c->w; j++) {
        o->mean[j] = a->mean[c->k + j];
        o->rstd[j] = a->rstd[c->k + j];
        o->scale[j] = a->rstd[c->k + j] * a->gamma[c->k + j];
    }
    repeat(o->mean, c);
    repeat(o->rstd, c);
    repeat(o->scale, c);
}

// A row's part of the sums, and du where it is wanted. y (NULL: no ReLU) is a constant wherever this is inlined.
static inline void sum_row(const float *dy, const float *x, const float *y, const Columns *o, float *du, int cols,
                           float *sum, float *sum_xhat) {
    #pragma omp simd
    for (int j = 0; j < cols; j++) {
        float d = y && y[j] <= 0 ? 0 : dy[j];
        du[j] = d;
        sum[j] += d;
        sum_xhat[j] += d * ((x[j] - o->mean[j]) * o->rstd[j]);
    }
}

static void sum_piece(const BatchNormBackwardArgs *a, const Piece *c, float *out) {
    Columns o;
    float sum[CPU_WIDE] = { 0 }, sum_xhat[CPU_WIDE] = { 0 }, unwanted[CPU_WIDE];
    columns_of(&o, a, c);
    for (int p = 0; p < c->count; p += c->fold) {
        const float *dy = (const float *)a->dy + c->y.at + p * c->y.step;
        const float *x = (const float *)a->x + c->x.at + p * c->x.step;
        float *du = a->dresidual ? (float *)a->dresidual + c->r.at + p * c->r.step : unwanted;
        int cols = columns_at(c, p);
        if (a->y) sum_row(dy, x, (const float *)a->y + c->dense.at + p * c->dense.step, &o, du, cols, sum, sum_xhat);
        else      sum_row(dy, x, NULL, &o, du, cols, sum, sum_xhat);
    }
    cpu_unfold(sum, c->w, c->fold * c->w);
    cpu_unfold(sum_xhat, c->w, c->fold * c->w);
    for (int j = 0; j < c->w; j++) {
        out[2 * (c->k + j)] = sum[j];
        out[2 * (c->k + j) + 1] = sum_xhat[j];
    }
}

// total (c,2) = over the pieces, in their order; into the parameters' gradients.
static void join_sums(const Pieces *s, const BatchNormBackwardArgs *a, const float *part, float *total) {
    for (int k = 0; k < s->z.c; k++) {
        double db = 0, dg = 0;
        for (int64_t j = 0; j < s->count; j++) {
            db += (double)part[2 * (j * s->z.c + k)];
            dg += (double)part[2 * (j * s->z.c + k) + 1];
        }
        total[2 * k] = (float)db;
        total[2 * k + 1] = (float)dg;
        if (a->dbeta) a->dbeta[k] = (float)((a->accumulate ? (double)a->dbeta[k] : 0) + db);
        if (a->dgamma) a->dgamma[k] = (float)((a->accumulate ? (double)a->dgamma[k] : 0) + dg);
    }
}

// A row of dx: scale (du - ma - xhat mb), means of du and of du xhat.
static inline void gradient_row(float *dx, const float *dy, const float *x, const float *y, const Columns *o,
                                const float *ma, const float *mb, int cols) {
    #pragma omp simd
    for (int j = 0; j < cols; j++) {
        float d = y && y[j] <= 0 ? 0 : dy[j];
        dx[j] = o->scale[j] * (d - ma[j] - (x[j] - o->mean[j]) * o->rstd[j] * mb[j]);
    }
}

static void gradient_piece(const BatchNormBackwardArgs *a, const Piece *c, const float *total, float size) {
    Columns o;
    float ma[CPU_WIDE], mb[CPU_WIDE];
    columns_of(&o, a, c);
    for (int j = 0; j < c->w; j++) {
        ma[j] = total[2 * (c->k + j)] / size;
        mb[j] = total[2 * (c->k + j) + 1] / size;
    }
    repeat(ma, c);
    repeat(mb, c);
    for (int p = 0; p < c->count; p += c->fold) {
        const float *dy = (const float *)a->dy + c->y.at + p * c->y.step;
        const float *x = (const float *)a->x + c->x.at + p * c->x.step;
        float *dx = (float *)a->dx + c->x.at + p * c->x.step;
        int cols = columns_at(c, p);
        if (a->y) gradient_row(dx, dy, x, (const float *)a->y + c->dense.at + p * c->dense.step, &o, ma, mb, cols);
        else      gradient_row(dx, dy, x, NULL, &o, ma, mb, cols);
    }
}

static void backward(Stream *st, const BatchNormShape *z, const BatchNormBackwardArgs *a, Work w) {
    Pieces s = pieces_of(z);
    float *part = w.scratch, *total = part + 2 * s.count * z->c;
    #pragma omp parallel for schedule(static)
    for (int64_t task = 0; task < s.count * s.panels; task++) {
        Piece c = piece_at(&s, task / s.panels, (int)(task % s.panels));
        sum_piece(a, &c, part + 2 * (task / s.panels) * z->c);
    }
    join_sums(&s, a, part, total);
    if (!a->dx) return;
    #pragma omp parallel for schedule(static)
    for (int64_t task = 0; task < s.count * s.panels; task++) {
        Piece c = piece_at(&s, task / s.panels, (int)(task % s.panels));
        gradient_piece(a, &c, total, (float)((double)z->n * z->hw));
    }
}

// ---- registration
IMPLS(batchnorm_cpu,
    IMPL_FULL(batchnorm_forward, "pieces", 100, 0, 0, can, forward_scratch, NULL, forward, NULL),
    IMPL_FULL(batchnorm_backward, "pieces", 100, 0, 0, can, backward_scratch, NULL, backward, NULL))
