// kernels/common/onednn.c - oneDNN behind plain structs; the only file that includes its header.
//
// A convolution has three images: x, w, y, the slots below. For each there are two memory descriptors, the caller's
// and the one the primitive wants. Where they differ, a reorder primitive stands between them and the primitive's copy
// lives in scratch. oneDNN's own kernels match layouts exactly, strides included, so that a channel view
// (ld > channels) is copied as well.
#ifdef CBDM_NO_ONEDNN
#include <stdio.h>
#include "kernels/common/onednn.h"

// A build without oneDNN has no kernels of kind CPU.
void onednn_init(void) {}
void onednn_info(char *text, size_t bytes) { snprintf(text, bytes, "no oneDNN"); }
#else
#include "kernels/common/onednn.h"
#include <dnnl.h>
#include <omp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>
#endif

#define TRY(call, what) do { \
        dnnl_status_t status_ = (call); \
        CHECK(status_ == dnnl_success, "oneDNN: %s: status %d", what, (int)status_); \
    } while (0)

// ---- what differs between versions: in 2 a memory descriptor is a struct, in 3 a handle; 3 has no op descriptors
typedef dnnl_memory_desc_t Md;
#if DNNL_VERSION_MAJOR >= 3
typedef const_dnnl_memory_desc_t MdRef;
static MdRef md_ref(const Md *m) { return *m; }
static void md_free(Md *m) { dnnl_memory_desc_destroy(*m); }
static void md_make(Md *m, int ndims, const dnnl_dims_t dims, dnnl_format_tag_t tag) {
    TRY(dnnl_memory_desc_create_with_tag(m, ndims, dims, dnnl_f32, tag), "memory descriptor");
}
static void md_make_part(Md *m, const Md *whole, const dnnl_dims_t dims) {
    TRY(dnnl_memory_desc_create_submemory(m, *whole, dims, (dnnl_dims_t){ 0 }), "view descriptor");
}
#else
typedef const dnnl_memory_desc_t *MdRef;
static MdRef md_ref(const Md *m) { return m; }
static void md_free(Md *m) { (void)m; }
static void md_make(Md *m, int ndims, const dnnl_dims_t dims, dnnl_format_tag_t tag) {
    TRY(dnnl_memory_desc_init_by_tag(m, ndims, dims, dnnl_f32, tag), "memory descriptor");
}
static void md_make_part(Md *m, const Md *whole, const dnnl_dims_t dims) {
    TRY(dnnl_memory_desc_init_submemory(m, whole, dims, (dnnl_dims_t){ 0 }), "view descriptor");
}
#endif

// ---- engine and attributes: made once, kept until the process ends
enum { SLOT_X, SLOT_W, SLOT_Y, SLOTS };
static struct {
    pthread_once_t once;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_attr_t attr;   // the scratchpad is ours
} lib = { .once = PTHREAD_ONCE_INIT };

static void lib_start(void) {
    TRY(dnnl_engine_create(&lib.engine, dnnl_cpu, 0), "engine");
    TRY(dnnl_stream_create(&lib.stream, lib.engine, dnnl_stream_default_flags), "stream");
    TRY(dnnl_primitive_attr_create(&lib.attr), "attributes");
    TRY(dnnl_primitive_attr_set_scratchpad_mode(lib.attr, dnnl_scratchpad_mode_user), "scratchpad mode");
}

// ---- planning: which kernel, which reorders, where in scratch
// Exec argument of each slot in each pass, and the slot that is written.
static const int exec_arg[][SLOTS] = {
    [ONEDNN_FORWARD] = { DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST },
    [ONEDNN_BACKWARD_INPUT] = { DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST },
    [ONEDNN_BACKWARD_WEIGHT] = { DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST },
};
static const int out_slot[] = {
    [ONEDNN_FORWARD] = SLOT_Y, [ONEDNN_BACKWARD_INPUT] = SLOT_X, [ONEDNN_BACKWARD_WEIGHT] = SLOT_W,
};

// One primitive and the memory objects it is run with.
typedef struct { dnnl_primitive_desc_t desc; dnnl_primitive_t prim; } Op;
struct OnednnConv {
    OnednnConvShape z;
    Op conv, reorder[SLOTS];                      // desc NULL: not needed
    bool copied[SLOTS];                           // the primitive reads or writes a copy in scratch
    size_t offset[SLOTS], sum_offset, pad_offset; // in scratch: the copies, dw to be added, oneDNN's own scratchpad
    size_t bytes;                                 // of scratch
    dnnl_memory_t theirs[SLOTS], ours[SLOTS], bias, pad;      // theirs: as the primitive wants it; ours: as we store it
};

static MdRef op_md(const Op *op, int arg) {
    return dnnl_primitive_desc_query_md(op->desc, dnnl_query_exec_arg_md, arg);
}
static size_t op_pad_bytes(const Op *op) {
    if (!op->desc) return 0;
    return dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(op->desc, dnnl_query_scratchpad_md, 0));
}
static const char *op_name(const Op *op) {
    const char *name = "";
    TRY(dnnl_primitive_desc_query(op->desc, dnnl_query_impl_info_str, 0, &name), "name of a kernel");
    return name;
}

// The convolution's descriptor for these memory descriptors (x, w, y, bias), or false if oneDNN has nothing. A backward
// pass names the forward it belongs to.
static bool conv_desc(dnnl_primitive_desc_t *out, OnednnPass pass, const OnednnConvShape *z, const Md md[SLOTS],
                      const Md *bias, dnnl_primitive_desc_t forward) {
    MdRef x = md_ref(&md[SLOT_X]), w = md_ref(&md[SLOT_W]), y = md_ref(&md[SLOT_Y]), b = bias ? md_ref(bias) : NULL;
    dnnl_alg_kind_t alg = dnnl_convolution_direct;
    int over_h = (z->p - 1) * z->stride + z->r - z->h - z->pad_h;
    int over_w = (z->q - 1) * z->stride + z->s - z->w - z->pad_w;
    dnnl_dims_t stride = { z->stride, z->stride }, pad = { z->pad_h, z->pad_w };
    dnnl_dims_t over = { over_h > 0 ? over_h : 0, over_w > 0 ? over_w : 0 };   // rows left over at the end are not read
    *out = NULL;
#if DNNL_VERSION_MAJOR >= 3
    dnnl_dims_t dilation = { 0, 0 };
    if (pass == ONEDNN_FORWARD)
        return dnnl_convolution_forward_primitive_desc_create(out, lib.engine, dnnl_forward_training, alg, x, w, b, y,
                                                              stride, dilation, pad, over, lib.attr) == dnnl_success;
    if (pass == ONEDNN_BACKWARD_INPUT)
        return dnnl_convolution_backward_data_primitive_desc_create(out, lib.engine, alg, x, w, y, stride, dilation,
                                                                    pad, over, forward, lib.attr) == dnnl_success;
    return dnnl_convolution_backward_weights_primitive_desc_create(out, lib.engine, alg, x, w, NULL, y, stride,
                                                                   dilation, pad, over, forward, lib.attr)
        == dnnl_success;
#else
    dnnl_convolution_desc_t d;
    dnnl_status_t status;
    if (pass == ONEDNN_FORWARD)
        status = dnnl_convolution_forward_desc_init(&d, dnnl_forward_training, alg, x, w, b, y, stride, pad, over);
    else if (pass == ONEDNN_BACKWARD_INPUT)
        status = dnnl_convolution_backward_data_desc_init(&d, alg, x, w, y, stride, pad, over);
    else
        status = dnnl_convolution_backward_weights_desc_init(&d, alg, x, w, NULL, y, stride, pad, over);
    return status == dnnl_success
        && dnnl_primitive_desc_create(out, &d, lib.attr, lib.engine, forward) == dnnl_success;
#endif
}

// An image tensor as we store it: c of the ld channels that each pixel has.
static void image_md(Md *m, Layout l, int n, int c, int ld, int h, int w) {
    dnnl_format_tag_t tag = l == LAYOUT_C16 ? dnnl_nChw16c : dnnl_nhwc;
    if (ld == c) {
        md_make(m, 4, (dnnl_dims_t){ n, c, h, w }, tag);
        return;
    }
    Md whole;
    md_make(&whole, 4, (dnnl_dims_t){ n, ld, h, w }, tag);
    md_make_part(m, &whole, (dnnl_dims_t){ n, c, h, w });
    md_free(&whole);
}

// How well a kernel suits: 2 written for this processor, 1 through matrix products, 0 the reference.
static int op_rank(const Op *op) {
    const char *name = op_name(op);
    if (strstr(name, "gemm") && !strstr(name, "brgemm")) return 1;
    return strstr(name, "ref") ? 0 : 2;
}

// Sets conv->conv to the kernel of the highest rank, first with our own layouts, then with x's, y's or both left to
// oneDNN (filters always are). False if there is none.
static bool choose_kernel(OnednnConv *conv) {
    const OnednnConvShape *z = &conv->z;
    dnnl_dims_t xd = { z->n, z->c, z->h, z->w }, wd = { z->k, z->c, z->r, z->s }, yd = { z->n, z->k, z->p, z->q };
    Md bias;
    md_make(&bias, 1, (dnnl_dims_t){ z->k }, dnnl_a);
    int rank = -1;
    for (int i = 0; i < 4 && rank < 2; i++) {
        Md md[SLOTS];
        md_make(&md[SLOT_X], 4, xd, i & 1 ? dnnl_format_tag_any : z->lx == LAYOUT_C16 ? dnnl_nChw16c : dnnl_nhwc);
        md_make(&md[SLOT_W], 4, wd, dnnl_format_tag_any);
        md_make(&md[SLOT_Y], 4, yd, i & 2 ? dnnl_format_tag_any : z->ly == LAYOUT_C16 ? dnnl_nChw16c : dnnl_nhwc);
        Op op = { NULL, NULL };
        dnnl_primitive_desc_t forward;
        if (conv_desc(&forward, ONEDNN_FORWARD, z, md, z->bias ? &bias : NULL, NULL)) {
            if (z->pass == ONEDNN_FORWARD) {
                op.desc = forward;
            } else {
                (void)conv_desc(&op.desc, z->pass, z, md, NULL, forward);
                dnnl_primitive_desc_destroy(forward);
            }
        }
        if (op.desc && op_rank(&op) > rank) {
            rank = op_rank(&op);
            if (conv->conv.desc) dnnl_primitive_desc_destroy(conv->conv.desc);
            conv->conv = op;
        } else if (op.desc) {
            dnnl_primitive_desc_destroy(op.desc);
        }
        for (int s = 0; s < SLOTS; s++) md_free(&md[s]);
    }
    md_free(&bias);
    return conv->conv.desc != NULL;
}

static size_t align_up(size_t bytes) { return (bytes + 255) & ~(size_t)255; }

// Adds the reorders between our layouts and the kernel's, and places the copies and the scratchpads.
static void plan_reorders(OnednnConv *conv) {
    const OnednnConvShape *z = &conv->z;
    Md ours[SLOTS];
    image_md(&ours[SLOT_X], z->lx, z->n, z->c, z->ldx, z->h, z->w);
    md_make(&ours[SLOT_W], 4, (dnnl_dims_t){ z->k, z->c, z->r, z->s }, dnnl_ohwi);
    image_md(&ours[SLOT_Y], z->ly, z->n, z->k, z->ldy, z->p, z->q);
    int out = out_slot[z->pass];
    size_t pad_bytes = op_pad_bytes(&conv->conv);
    for (int s = 0; s < SLOTS; s++) {
        MdRef theirs = op_md(&conv->conv, exec_arg[z->pass][s]), our = md_ref(&ours[s]);
        TRY(dnnl_memory_create(&conv->theirs[s], theirs, lib.engine, DNNL_MEMORY_NONE), "memory");
        TRY(dnnl_memory_create(&conv->ours[s], our, lib.engine, DNNL_MEMORY_NONE), "memory");
        conv->copied[s] = !dnnl_memory_desc_equal(theirs, our);
        if (!conv->copied[s]) continue;
        conv->offset[s] = conv->bytes;
        conv->bytes += align_up(dnnl_memory_desc_get_size(theirs));
        MdRef from = s == out ? theirs : our, to = s == out ? our : theirs;
        TRY(dnnl_reorder_primitive_desc_create(&conv->reorder[s].desc, from, lib.engine, to, lib.engine, lib.attr),
            "reorder");
        size_t need = op_pad_bytes(&conv->reorder[s]);
        if (need > pad_bytes) pad_bytes = need;
    }
    conv->sum_offset = conv->bytes;
    if (out == SLOT_W) conv->bytes += align_up(dnnl_memory_desc_get_size(md_ref(&ours[SLOT_W])));
    conv->pad_offset = conv->bytes;
    conv->bytes += align_up(pad_bytes);
    for (int s = 0; s < SLOTS; s++) md_free(&ours[s]);
}

// NULL if oneDNN does not offer z.
static OnednnConv *conv_plan(const OnednnConvShape *z) {
    pthread_once(&lib.once, lib_start);
    OnednnConv *conv = calloc(1, sizeof *conv);
    if (!conv) out_of_memory(sizeof *conv);
    conv->z = *z;
    if (choose_kernel(conv)) {
        plan_reorders(conv);
        return conv;
    }
    free(conv);
    return NULL;
}

bool onednn_conv_offers(const OnednnConvShape *z, size_t *scratch_bytes) {
    OnednnConv *conv = conv_plan(z);
    if (!conv) return false;
    if (scratch_bytes) *scratch_bytes = conv->bytes;
    onednn_conv_free(conv);
    return true;
}

// ---- running
static void op_create(Op *op) {
    if (op->desc) TRY(dnnl_primitive_create(&op->prim, op->desc), op_name(op));
}
static void op_free(Op *op) {
    if (op->prim) dnnl_primitive_destroy(op->prim);
    if (op->desc) dnnl_primitive_desc_destroy(op->desc);
}

OnednnConv *onednn_conv_create(const OnednnConvShape *z) {
    OnednnConv *conv = conv_plan(z);
    CHECK(conv, "oneDNN: no convolution %dx%dx%d -> %dx%dx%d, filter %dx%d", z->h, z->w, z->c, z->p, z->q, z->k, z->r,
          z->s);
    op_create(&conv->conv);
    for (int s = 0; s < SLOTS; s++) op_create(&conv->reorder[s]);
    Md bias, pad;
    md_make(&bias, 1, (dnnl_dims_t){ z->k }, dnnl_a);
    TRY(dnnl_memory_create(&conv->bias, md_ref(&bias), lib.engine, DNNL_MEMORY_NONE), "memory");
    md_free(&bias);
    // one descriptor of bytes for all scratchpads, the largest of which it holds
    md_make(&pad, 1, (dnnl_dims_t){ (dnnl_dim_t)((conv->bytes - conv->pad_offset) / sizeof(float)) + 1 }, dnnl_a);
    TRY(dnnl_memory_create(&conv->pad, md_ref(&pad), lib.engine, DNNL_MEMORY_NONE), "memory");
    md_free(&pad);
    return conv;
}

void onednn_conv_free(OnednnConv *conv) {
    if (!conv) return;
    op_free(&conv->conv);
    for (int s = 0; s < SLOTS; s++) {
        op_free(&conv->reorder[s]);
        dnnl_memory_destroy(conv->theirs[s]);
        dnnl_memory_destroy(conv->ours[s]);
    }
    if (conv->bias) dnnl_memory_destroy(conv->bias);
    if (conv->pad) dnnl_memory_destroy(conv->pad);
    free(conv);
}

static bool run_reorder(const OnednnConv *conv, const Op *op, dnnl_memory_t from, dnnl_memory_t to) {
    dnnl_exec_arg_t arg[] = { { DNNL_ARG_FROM, from }, { DNNL_ARG_TO, to }, { DNNL_ARG_SCRATCHPAD, conv->pad } };
    return dnnl_primitive_execute(op->prim, lib.stream, 3, arg) == dnnl_success;
}

// to (n) += from (n).
static void add_to(float *to, const float *from, int64_t n) {
    #pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

bool onednn_conv_run(OnednnConv *conv, void *x, void *w, const float *bias, void *y, bool accumulate, void *scratch) {
    const OnednnConvShape *z = &conv->z;
    void *sum = (char *)scratch + conv->sum_offset, *data[SLOTS] = { x, accumulate ? sum : w, y };
    int out = out_slot[z->pass];
    bool ok = dnnl_memory_set_data_handle(conv->pad, (char *)scratch + conv->pad_offset) == dnnl_success;
    if (z->bias) ok = ok && dnnl_memory_set_data_handle(conv->bias, (void *)(uintptr_t)bias) == dnnl_success;
    for (int s = 0; s < SLOTS && ok; s++) {
        void *theirs = conv->copied[s] ? (char *)scratch + conv->offset[s] : data[s];
        ok = dnnl_memory_set_data_handle(conv->theirs[s], theirs) == dnnl_success;
        if (!conv->copied[s]) continue;
        ok = ok && dnnl_memory_set_data_handle(conv->ours[s], data[s]) == dnnl_success;
        if (s != out) ok = ok && run_reorder(conv, &conv->reorder[s], conv->ours[s], conv->theirs[s]);
    }
    const int *arg = exec_arg[z->pass];
    dnnl_exec_arg_t args[SLOTS + 2] = { { arg[SLOT_X], conv->theirs[SLOT_X] }, { arg[SLOT_W], conv->theirs[SLOT_W] },
                                        { arg[SLOT_Y], conv->theirs[SLOT_Y] }, { DNNL_ARG_SCRATCHPAD, conv->pad },
                                        { DNNL_ARG_BIAS, conv->bias } };
    int n_args = z->bias ? SLOTS + 2 : SLOTS + 1;
    ok = ok && dnnl_primitive_execute(conv->conv.prim, lib.stream, n_args, args) == dnnl_success;
    if (conv->copied[out]) ok = ok && run_reorder(conv, &conv->reorder[out], conv->theirs[out], conv->ours[out]);
    ok = ok && dnnl_stream_wait(lib.stream) == dnnl_success;
    if (ok && accumulate) add_to(w, sum, (int64_t)z->k * z->r * z->s * z->c);
    return ok;
}

bool onednn_sgemm(bool ta, bool tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
                  float beta, float *y, int ldy) {
    return dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k, alpha, a, lda, b, ldb, beta, y, ldy) == dnnl_success;
}

// ---- the process
void onednn_init(void) {
    // Denormal operands cost over a hundred cycles each. Threads started later inherit the mode of their creator.
#if defined(__x86_64__)
    #pragma omp parallel
    _mm_setcsr(_mm_getcsr() | 0x8040u);       // flush to zero, denormals are zero
#endif
    pthread_once(&lib.once, lib_start);
}

static const char *isa_name(dnnl_cpu_isa_t isa) {
    static const struct { dnnl_cpu_isa_t isa; const char *name; } table[] = {
        { dnnl_cpu_isa_sse41, "SSE4.1" }, { dnnl_cpu_isa_avx, "AVX" }, { dnnl_cpu_isa_avx2, "AVX2" },
        { dnnl_cpu_isa_avx2_vnni, "AVX2 VNNI" }, { dnnl_cpu_isa_avx512_core, "AVX-512" },
        { dnnl_cpu_isa_avx512_core_vnni, "AVX-512 VNNI" }, { dnnl_cpu_isa_avx512_core_bf16, "AVX-512 BF16" },
        { dnnl_cpu_isa_avx512_core_amx, "AVX-512 AMX" },
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (table[i].isa == isa) return table[i].name;
    return "unnamed instruction set";
}

static void processor_name(char name[49]) {
    name[0] = 0;
#if defined(__x86_64__)
    unsigned int word[12];
    for (unsigned int i = 0; i < 3; i++)
        if (!__get_cpuid(0x80000002u + i, &word[4 * i], &word[4 * i + 1], &word[4 * i + 2], &word[4 * i + 3])) return;
    memcpy(name, word, 48);
    name[48] = 0;
    for (size_t n = strlen(name); n > 0 && name[n - 1] == ' '; n--) name[n - 1] = 0;
#endif
}

void onednn_info(char *buf, size_t bytes) {
    const dnnl_version_t *v = dnnl_version();
    char name[49];
    processor_name(name);
    snprintf(buf, bytes, "%s; oneDNN %d.%d.%d, %s; %d threads", name[0] ? name : "unnamed processor", v->major,
             v->minor, v->patch, isa_name(dnnl_get_effective_cpu_isa()), omp_get_max_threads());
}
#endif
