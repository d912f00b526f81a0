// kernels/attention/attention_chain.cuh - attention as a program without a fused kernel computes it: batched matrix
// products of some implementation of gemm, through memory, and one pass over their rows in between.
//
//   forward    s = q k^T                  -> p = softmax(scale s), lse                                  -> o = p v
//   backward   s = q k^T, dp = do v^T     -> p = exp(scale s - lse), ds = p (dp - D), D = rowsum(do o)
//                                         -> dv = p^T do, dq = scale ds k, dk = scale ds^T q
// s and dp are f32; p is rounded to dtype where the contract has it. One point more than the contract's: ds is rounded
// to dtype too, since a product reads both its operands in one type. In f32 there is no difference. A batch is one head
// of all images. Every sum has the order of its product or its row.
#ifndef KERNELS_ATTENTION_CHAIN_CUH
#define KERNELS_ATTENTION_CHAIN_CUH
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/common/vector.cuh"
#include "kernels/gemm/gemm.h"

// ---- rows (n, heads, t) of t scores, pitch apart: a warp a row. Nothing beyond column t is read or written
enum { CHAIN_WARPS = ROW_THREADS / 32 };

template <typename T> DEVICE float as_stored(float v) {
    T stored;
    store_real(&stored, v);
    return load_real(&stored);
}
#define CHAIN_COLUMNS(j, n) int j = (int)threadIdx.x % 32 * 4; j < (n); j += 128

// p may be s: every lane writes what it alone has read.
template <typename T>
static __global__ void __launch_bounds__(ROW_THREADS)
attention_chain_softmax_kernel(AttentionShape z, int pitch, const float *s, T *p, float *lse) {
    int64_t row = (int64_t)blockIdx.x * CHAIN_WARPS + threadIdx.x / 32;
    if (row >= (int64_t)z.n * z.heads * z.t) return;
    s += row * pitch;
    p += row * pitch;
    float top = -3.402823466e38f, sum = 0;
    for (CHAIN_COLUMNS(j, z.t)) {
        float4 v = load_block(s + j, z.t - j, z.t - j >= 4);
        const float own[4] = { v.x, v.y, v.z, v.w };
        for (int l = 0; l < 4; l++) {
            if (j + l < z.t) top = fmaxf(top, z.scale * own[l]);
        }
    }
    top = warp_max(top);
    for (CHAIN_COLUMNS(j, z.t)) {
        float4 v = load_block(s + j, z.t - j, z.t - j >= 4);
        const float own[4] = { v.x, v.y, v.z, v.w };
        for (int l = 0; l < 4; l++) {
            if (j + l < z.t) sum += expf(z.scale * own[l] - top);
        }
    }
    sum = warp_sum(sum);
    for (CHAIN_COLUMNS(j, z.t)) {
        float4 v = load_block(s + j, z.t - j, z.t - j >= 4);
        v = make_float4(expf(z.scale * v.x - top) / sum, expf(z.scale * v.y - top) / sum,
                        expf(z.scale * v.z - top) / sum, expf(z.scale * v.w - top) / sum);
        store_block(p + j, v, z.t - j, z.t - j >= 4);
    }
    if (threadIdx.x % 32 == 0) lse[row] = top + logf(sum);
}

// p may be s, and ds dp. vector: rows of do and o in whole fours.
template <typename T>
static __global__ void __launch_bounds__(ROW_THREADS)
attention_chain_gradient_kernel(AttentionShape z, int pitch, const float *s, const float *dp, const T *d_o, const T *o,
                                bool vector, const float *lse, T *p, T *ds) {
    int64_t row = (int64_t)blockIdx.x * CHAIN_WARPS + threadIdx.x / 32;
    if (row >= (int64_t)z.n * z.heads * z.t) return;
    int64_t pair = row / z.t, at = (pair / z.heads * z.t + row % z.t) * z.ldo + pair % z.heads * z.c;
    float inner = 0, off = lse[row];
    for (CHAIN_COLUMNS(k, z.c)) {
        float4 x = load_block(d_o + at + k, z.c - k, vector), y = load_block(o + at + k, z.c - k, vector);
        inner += x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
    }
    inner = warp_sum(inner);
    for (CHAIN_COLUMNS(j, z.t)) {
        bool whole = z.t - j >= 4;
        float4 v = load_block(s + row * pitch + j, z.t - j, whole);
        float4 g = load_block(dp + row * pitch + j, z.t - j, whole);
        v = make_float4(as_stored<T>(expf(z.scale * v.x - off)), as_stored<T>(expf(z.scale * v.y - off)),
                        as_stored<T>(expf(z.scale * v.z - off)), as_stored<T>(expf(z.scale * v.w - off)));
        g = make_float4(v.x * (g.x - inner), v.y * (g.y - inner), v.z * (g.z - inner), v.w * (g.w - inner));
        store_block(p + row * pitch + j, v, z.t - j, whole);
        store_block(ds + row * pitch + j, g, z.t - j, whole);
    }
}

// ---- where the scores lie in scratch; in f32 p overwrites s, and ds dp. Behind them: what a product needs
struct ChainPlaces { size_t s, dp, p, ds, product; };
static inline int chain_pitch(const AttentionShape *z) { return (int)ceil_div(z->t, 8) * 8; }   // 16 bytes of bf16
static inline ChainPlaces chain_places(const AttentionShape *z, bool backward) {
    size_t scores = (size_t)z->n * (size_t)z->heads * (size_t)z->t * (size_t)chain_pitch(z);
    size_t wide = (scores * sizeof(float) + 255) & ~(size_t)255;
    size_t stored = z->dtype == DT_F32 ? 0 : (scores * dtype_size(z->dtype) + 255) & ~(size_t)255;
    ChainPlaces at = {};
    at.dp = wide;
    size_t end = backward ? 2 * wide : wide;
    at.p = stored ? end : at.s;
    at.ds = stored ? end + stored : at.dp;
    at.product = end + (backward ? 2 * stored : stored);
    return at;
}

// ---- the products. A matrix is a view of tokens (t, c), or scores (t, t), of one head of every image
struct ChainMatrix { const void *data; int ld; int64_t step, to_head; DType dtype; };
struct ChainProduct { ChainMatrix a, b, y; bool ta, tb; int n, k; float alpha; };

static inline ChainMatrix chain_tokens(const AttentionShape *z, const void *x, int ld) {
    return { x, ld, (int64_t)z->t * ld, z->c, z->dtype };
}
static inline ChainMatrix chain_scores(const AttentionShape *z, char *scratch, size_t at, DType dt) {
    int64_t matrix = (int64_t)z->t * chain_pitch(z);
    return { scratch + at, chain_pitch(z), z->heads * matrix, matrix, dt };
}
static inline GemmShape chain_gemm(const AttentionShape *z, const ChainProduct &p) {
    GemmShape g = {};
    g.m = z->t, g.n = p.n, g.k = p.k, g.batch = z->n;
    g.ta = p.ta, g.tb = p.tb;
    g.lda = p.a.ld, g.ldb = p.b.ld, g.ldy = p.y.ld;
    g.batch_a = p.a.step, g.batch_b = p.b.step, g.batch_y = p.y.step;
    g.alpha = p.alpha;
    g.in = z->dtype, g.out = p.y.dtype;
    return g;
}
static inline const void *chain_head(const ChainMatrix &x, int head) {
    return static_cast<const char *>(x.data) + head * x.to_head * (int64_t)dtype_size(x.dtype);
}
static inline GemmArgs chain_args(const ChainProduct &p, int head) {
    GemmArgs a = {};
    a.a = chain_head(p.a, head), a.b = chain_head(p.b, head), a.y = const_cast<void *>(chain_head(p.y, head));
    return a;
}

// In the order in which they run.
typedef std::vector<ChainProduct> ChainProducts;
static inline ChainProducts chain_products(const AttentionShape *z, const AttentionForwardArgs *a, char *scratch) {
    ChainPlaces at = chain_places(z, false);
    ChainMatrix q = chain_tokens(z, a->q, z->ldq), k = chain_tokens(z, a->k, z->ldk), v = chain_tokens(z, a->v, z->ldv);
    ChainMatrix s = chain_scores(z, scratch, at.s, DT_F32), p = chain_scores(z, scratch, at.p, z->dtype);
    return { { q, k, s, false, true, z->t, z->c, 1.0f },
             { p, v, chain_tokens(z, a->o, z->ldo), false, false, z->c, z->t, 1.0f } };
}
static inline ChainProducts chain_products(const AttentionShape *z, const AttentionBackwardArgs *a, char *scratch) {
    ChainPlaces at = chain_places(z, true);
    ChainMatrix q = chain_tokens(z, a->q, z->ldq), k = chain_tokens(z, a->k, z->ldk), v = chain_tokens(z, a->v, z->ldv);
    ChainMatrix d_o = chain_tokens(z, a->d_o, z->ldo), s = chain_scores(z, scratch, at.s, DT_F32);
    ChainMatrix dp = chain_scores(z, scratch, at.dp, DT_F32), p = chain_scores(z, scratch, at.p, z->dtype);
    ChainMatrix ds = chain_scores(z, scratch, at.ds, z->dtype);
    return { { q, k, s, false, true, z->t, z->c, 1.0f },
             { d_o, v, dp, false, true, z->t, z->c, 1.0f },
             { p, d_o, chain_tokens(z, a->dv, z->ldv), true, false, z->c, z->t, 1.0f },
             { ds, k, chain_tokens(z, a->dq, z->ldq), false, false, z->c, z->t, z->scale },
             { ds, q, chain_tokens(z, a->dk, z->ldk), true, false, z->c, z->t, z->scale } };
}

// Engine::find(GemmShape): the implementation of gemm, or NULL. Its prepare() may look at the alignment of pointers,
// and keeps none, since scratch has its address in run() only.
template <typename Engine> struct AttentionChain {
    struct State { std::vector<const Impl *> impl; std::vector<void *> product; };   // by product, then head

    template <typename Args> static ChainProducts shapes(const AttentionShape *z) {
        Args none = {};
        return chain_products(z, &none, reinterpret_cast<char *>(256));
    }
    template <typename Args> static bool can(const AttentionShape *z) {
        bool ok = is_stored(z->dtype) && z->layout == LAYOUT_NHWC;
        if (!ok || z->n < 1 || z->heads < 1 || z->t < 1 || z->c < 1) return false;
        for (const ChainProduct &p : shapes<Args>(z)) {
            GemmShape g = chain_gemm(z, p);
            ok &= Engine::find(&g) != NULL;
        }
        return ok;
    }
    template <typename Args, bool BACKWARD> static size_t scratch(const AttentionShape *z) {
        size_t most = 0;
        for (const ChainProduct &p : shapes<Args>(z)) {
            GemmShape g = chain_gemm(z, p);
            size_t bytes = gemm.scratch(Engine::find(&g), &g);
            most = bytes > most ? bytes : most;
        }
        return chain_places(z, BACKWARD).product + most;
    }

    static void release(void *state) {
        State *a = static_cast<State *>(state);
        for (size_t i = 0; a && i < a->product.size(); i++)
            if (a->impl[i]->release) a->impl[i]->release(a->product[i]);
        delete a;
    }
    // NULL: one of the products has nothing to run on.
    template <typename Args> static void *prepare(Stream *s, const AttentionShape *z, const Args *args) {
        State *a = new State();
        for (const ChainProduct &p : chain_products(z, args, reinterpret_cast<char *>(256)))
            for (int head = 0; head < z->heads; head++) {
                GemmShape g = chain_gemm(z, p);
                GemmArgs of_head = chain_args(p, head);
                const Impl *i = Engine::find(&g);
                void *state = gemm.prepare(i, s, &g, &of_head);
                if (i->prepare && !state) {
                    release(a);
                    return NULL;
                }
                a->impl.push_back(i);
                a->product.push_back(state);
            }
        return a;
    }

    static void run(Stream *s, const AttentionShape *z, const State *a, const ChainProducts &all, size_t i,
                    void *scratch) {
        GemmShape g = chain_gemm(z, all[i]);
        for (int head = 0; head < z->heads; head++) {
            size_t at = i * (size_t)z->heads + (size_t)head;
            GemmArgs of_head = chain_args(all[i], head);
            gemm.run(a->impl[at], s, &g, &of_head, { a->product[at], scratch });
        }
    }
    static const State *prepared(Stream *s, const Work &w) {
        if (!w.state) stream_fail(s, 1, "cuBLASLt does not start, or has no algorithm for a product of this attention");
        return static_cast<const State *>(w.state);
    }
    static unsigned blocks(const AttentionShape *z) {
        return (unsigned)ceil_div((int64_t)z->n * z->heads * z->t, CHAIN_WARPS);
    }

    static void forward(Stream *s, const AttentionShape *z, const AttentionForwardArgs *a, Work w) {
        const State *state = prepared(s, w);
        if (!state) return;
        char *base = static_cast<char *>(w.scratch);
        ChainPlaces at = chain_places(z, false);
        ChainProducts all = chain_products(z, a, base);
        run(s, z, state, all, 0, base + at.product);
        by_type(z->dtype, [&](auto one) {
            using T = decltype(one);
            LAUNCH(s, (attention_chain_softmax_kernel<T>), blocks(z), ROW_THREADS, 0, *z, chain_pitch(z),
                   reinterpret_cast<const float *>(base + at.s), reinterpret_cast<T *>(base + at.p), a->lse);
        });
        run(s, z, state, all, 1, base + at.product);
    }
    static void backward(Stream *s, const AttentionShape *z, const AttentionBackwardArgs *a, Work w) {
        const State *state = prepared(s, w);
        if (!state) return;
        char *base = static_cast<char *>(w.scratch);
        ChainPlaces at = chain_places(z, true);
        ChainProducts all = chain_products(z, a, base);
        run(s, z, state, all, 0, base + at.product);
        run(s, z, state, all, 1, base + at.product);
        bool vector = z->c % 4 == 0 && is_vector(a->d_o, z->ldo, z->dtype) && is_vector(a->o, z->ldo, z->dtype);
        by_type(z->dtype, [&](auto one) {
            using T = decltype(one);
            LAUNCH(s, (attention_chain_gradient_kernel<T>), blocks(z), ROW_THREADS, 0, *z, chain_pitch(z),
                   reinterpret_cast<const float *>(base + at.s), reinterpret_cast<const float *>(base + at.dp),
                   static_cast<const T *>(a->d_o), static_cast<const T *>(a->o), vector, a->lse,
                   reinterpret_cast<T *>(base + at.p), reinterpret_cast<T *>(base + at.ds));
        });
        for (size_t i = 2; i < all.size(); i++) run(s, z, state, all, i, base + at.product);
    }
};

#define ATTENTION_CHAIN(name, order, Engine)                                                                        \
    IMPL_FULL(attention_forward, name, order, 0, 0, AttentionChain<Engine>::can<AttentionForwardArgs>,              \
              (AttentionChain<Engine>::scratch<AttentionForwardArgs, false>),                                       \
              AttentionChain<Engine>::prepare<AttentionForwardArgs>, AttentionChain<Engine>::forward,               \
              AttentionChain<Engine>::release),                                                                     \
    IMPL_FULL(attention_backward, name, order, 0, 0, AttentionChain<Engine>::can<AttentionBackwardArgs>,            \
              (AttentionChain<Engine>::scratch<AttentionBackwardArgs, true>),                                       \
              AttentionChain<Engine>::prepare<AttentionBackwardArgs>, AttentionChain<Engine>::backward,             \
              AttentionChain<Engine>::release)
#endif
