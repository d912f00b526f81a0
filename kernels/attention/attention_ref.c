// kernels/attention/attention_ref.c - softmax attention by its definition, one image and head at a time.
//   s = scale q k^T,  lse[i] = log(sum over j of exp(s[i,j])),  p = round(exp(s - lse)),  o = p v
//   dv = p^T d_o,  dp = d_o v^T,  ds = p (dp - rowsum(d_o * o)),  dq = scale ds k,  dk = scale ds^T q
// p is rounded to dtype once, in both directions, where the tensor cores read it; ds stays in acc. The forward pass
// divides by the sum of the row itself; the backward pass has only lse.
#include "kernels/common/kernel.h"
#include "kernels/common/ref.h"
#include "kernels/attention/attention.h"

// x (t,c) of image i and its head -> to[token * token_step + channel * channel_step]
static void load(const AttentionShape *z, acc *to, int64_t token_step, int64_t channel_step, const void *x, int ld,
                 int i, int head) {
    for (int64_t t = 0; t < z->t; t++) {
        for (int64_t k = 0; k < z->c; k++) {
            int64_t at = layout_index(z->layout, z->t, ld, i, t, head * z->c + k);
            to[t * token_step + k * channel_step] = ref_load(x, z->dtype, at);
        }
    }
}
static void store(const AttentionShape *z, void *x, int ld, int i, int head, const acc *from, acc factor) {
    for (int64_t t = 0; t < z->t; t++) {
        for (int64_t k = 0; k < z->c; k++) {
            int64_t at = layout_index(z->layout, z->t, ld, i, t, head * z->c + k);
            ref_store(x, z->dtype, at, factor * from[t * z->c + k]);
        }
    }
}

// y (m,n) = x w, with x[i,l] at i * row + l * column and w dense (k,n). Each element adds its terms in order of l.
static void product(acc *y, const acc *x, int64_t row, int64_t column, const acc *w, int64_t m, int64_t k, int64_t n) {
#pragma omp parallel for
    for (int64_t i = 0; i < m; i++) {
        acc *to = y + i * n;
        for (int64_t j = 0; j < n; j++) to[j] = 0;
        for (int64_t l = 0; l < k; l++) {
            acc v = x[i * row + l * column];
            const acc *from = w + l * n;
#pragma omp simd
            for (int64_t j = 0; j < n; j++) to[j] += v * from[j];
        }
    }
}

// ---- forward. Scratch: q, k^T, v, o; s, which becomes p.
static size_t forward_scratch(const AttentionShape *z) {
    return sizeof(acc) * (size_t)z->t * (size_t)(4 * z->c + z->t);
}

// Row s (t) -> p (t); returns log(sum(exp(s))). The maximum is taken out first, so that no exponential overflows.
static acc softmax(const AttentionShape *z, acc *row) {
    acc top = row[0], sum = 0;
    for (int64_t j = 1; j < z->t; j++) top = row[j] > top ? row[j] : top;
    for (int64_t j = 0; j < z->t; j++) sum += row[j] = (acc)exp((double)(row[j] - top));
    for (int64_t j = 0; j < z->t; j++) row[j] = ref_round(z->dtype, row[j] / sum);
    return top + (acc)log((double)sum);
}

static void forward(Stream *stream, const AttentionShape *z, const AttentionForwardArgs *a, Work work) {
    int64_t t = z->t, c = z->c;
    acc *q = work.scratch, *k = q + t * c, *v = k + t * c, *o = v + t * c, *s = o + t * c;
    for (int i = 0; i < z->n; i++) {
        for (int head = 0; head < z->heads; head++) {
            load(z, q, c, 1, a->q, z->ldq, i, head);
            load(z, k, 1, t, a->k, z->ldk, i, head);
            load(z, v, c, 1, a->v, z->ldv, i, head);
            product(s, q, c, 1, k, t, c, t);
            real *lse = a->lse + ((int64_t)i * z->heads + head) * t;
#pragma omp parallel for
            for (int64_t row = 0; row < t; row++) {
                for (int64_t j = 0; j < t; j++) s[row * t + j] *= (acc)z->scale;
                lse[row] = (real)softmax(z, s + row * t);
            }
            product(o, s, t, 1, v, t, t, c);
            store(z, a->o, z->ldo, i, head, o, 1);
        }
    }
}

// ---- backward. Scratch: q, k, d_o, o, a transpose, a result; p and ds.
static size_t backward_scratch(const AttentionShape *z) {
    return sizeof(acc) * (size_t)z->t * (size_t)(6 * z->c + 2 * z->t);
}

static void backward(Stream *stream, const AttentionShape *z, const AttentionBackwardArgs *a, Work work) {
    int64_t t = z->t, c = z->c;
    acc *q = work.scratch, *k = q + t * c, *d_o = k + t * c, *o = d_o + t * c, *turned = o + t * c;
    acc *result = turned + t * c, *p = result + t * c, *ds = p + t * t, scale = (acc)z->scale;
    for (int i = 0; i < z->n; i++) {
        for (int head = 0; head < z->heads; head++) {
            const real *lse = a->lse + ((int64_t)i * z->heads + head) * t;
            load(z, q, c, 1, a->q, z->ldq, i, head);
            load(z, k, c, 1, a->k, z->ldk, i, head);
            load(z, d_o, c, 1, a->d_o, z->ldo, i, head);
            load(z, o, c, 1, a->o, z->ldo, i, head);
            load(z, turned, 1, t, a->k, z->ldk, i, head);
            product(p, q, c, 1, turned, t, c, t);
            load(z, turned, 1, t, a->v, z->ldv, i, head);
            product(ds, d_o, c, 1, turned, t, c, t);
#pragma omp parallel for
            for (int64_t row = 0; row < t; row++) {
                acc inner = 0;
                for (int64_t l = 0; l < c; l++) inner += d_o[row * c + l] * o[row * c + l];
                for (int64_t j = row * t; j < (row + 1) * t; j++) {
                    p[j] = ref_round(z->dtype, (acc)exp((double)(scale * p[j] - (acc)lse[row])));
                    ds[j] = p[j] * (ds[j] - inner);
                }
            }
            product(result, p, 1, t, d_o, t, t, c);
            store(z, a->dv, z->ldv, i, head, result, 1);
            product(result, ds, t, 1, k, t, t, c);
            store(z, a->dq, z->ldq, i, head, result, scale);
            product(result, ds, 1, t, q, t, t, c);
            store(z, a->dk, z->ldk, i, head, result, scale);
        }
    }
}

IMPLS(attention_ref,
    IMPL_SCRATCH(attention_forward, "loops", forward_scratch, forward),
    IMPL_SCRATCH(attention_backward, "loops", backward_scratch, backward))
