// tests/op_verb.c - cbdm op: one launcher on arrays from a file, so that a kernel's author can compare with anything.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/call.h"
#include "core/cli.h"
#include "core/file.h"
#include "workbench.h"

typedef struct { const char *in, *out, *device, *kernel, *shape; bool list; int seed; } Config;
#define STR(member) FLAG_STR, offsetof(Config, member), NULL, 0, 0
static const Flag flags[] = {
    { "in", "", "npz with an array per input, row-major; inputs it lacks are refused", STR(in) },
    { "out", "", "npz for the outputs, f32 and integers", STR(out) },
    { "device", "auto", "where to run", STR(device) },
    { "kernel", "", "which implementation; empty: the device's choice", STR(kernel) },
    { "shape", "", "fields of the shape, as in \"n=2 h=8 w=8 c=16 k=32 use=bias dtype=bf16 with=add\"", STR(shape) },
    { "list", "false", "what the launcher takes and which implementations there are", FLAG_BOOL, offsetof(Config, list),
      NULL, 0, 0 },
};
enum { N_FLAGS = sizeof flags / sizeof flags[0] };

static const char *descr_of(ArrayType t) {
    static const char *const descr[] = { [TYPE_F32] = "<f4", [TYPE_BF16] = "<f4", [TYPE_F64] = "<f8",
                                         [TYPE_I32] = "<i4", [TYPE_U8] = "|u1", [TYPE_U32] = "<i4",
                                         [TYPE_I64] = "<i8" };
    return descr[t];
}

static double number_at(const NpyArray *a, int64_t i) {
    const char *d = a->descr;
    const uint8_t *at = (const uint8_t *)a->data + (size_t)i * npy_item_size(d);
    if (strcmp(d, "<f4") == 0) { float v; memcpy(&v, at, 4); return (double)v; }
    if (strcmp(d, "<f8") == 0) { double v; memcpy(&v, at, 8); return v; }
    if (strcmp(d, "<i4") == 0) { int32_t v; memcpy(&v, at, 4); return v; }
    if (strcmp(d, "<i8") == 0) { int64_t v; memcpy(&v, at, 8); return (double)v; }
    return *at;
}

static void shape_text(int ndim, const int64_t *dim, char *text, size_t bytes) {
    size_t at = (size_t)snprintf(text, bytes, "(");
    for (int i = 0; i < ndim; i++)
        at += (size_t)snprintf(text + at, bytes - at, "%s%lld", i ? "," : "", (long long)dim[i]);
    snprintf(text + at, bytes - at, ")");
}

// Any shape with the right number of elements is taken: an image may come as (n,h,w,c) or (n,hw,c).
static bool read_input(const Config *c, Call *call, int i, Error *err) {
    const Array *a = call_array(call, i);
    uint8_t *member;
    NpyArray v;
    if (!npz_read(c->in, a->name, &member, &v, err)) return false;
    int64_t n = 1;
    for (int j = 0; j < v.ndim; j++) n *= v.shape[j];
    if (n != array_numel(a)) {
        char has[96], needs[96];
        shape_text(v.ndim, v.shape, has, sizeof has);
        shape_text(a->ndim, a->dim, needs, sizeof needs);
        free(member);
        return error_set(err, ERR_USAGE, "%s: %s is %s, the shape makes it %s", c->in, a->name, has, needs);
    }
    double *values = xmalloc((size_t)(n ? n : 1) * sizeof *values);
    for (int64_t j = 0; j < n; j++) values[j] = number_at(&v, j);
    call_write(call, i, values);
    free(values);
    free(member);
    return true;
}

static bool write_outputs(const Config *c, const Call *call, Error *err) {
    NpzWriter *z = npz_create(c->out, err);
    if (!z) return false;
    for (int i = 0; i < call_count(call); i++) {
        const Array *a = call_array(call, i);
        if (a->use == ARRAY_IN) continue;
        int64_t n = array_numel(a);
        double *v = xmalloc((size_t)(n ? n : 1) * sizeof *v);
        call_read(call, i, v);
        NpyArray head = { .ndim = a->ndim };
        snprintf(head.descr, sizeof head.descr, "%s", descr_of(a->type));
        memcpy(head.shape, a->dim, (size_t)a->ndim * sizeof *a->dim);
        npz_begin(z, a->name, &head);
        for (int64_t j = 0; j < n; j++) {
            union { float f; double d; int32_t i; int64_t l; uint8_t u; } item;
            size_t size = npy_item_size(head.descr);
            if (strcmp(head.descr, "<f4") == 0) item.f = (float)v[j];
            else if (strcmp(head.descr, "<f8") == 0) item.d = v[j];
            else if (strcmp(head.descr, "<i4") == 0) item.i = (int32_t)v[j];
            else if (strcmp(head.descr, "<i8") == 0) item.l = (int64_t)v[j];
            else item.u = (uint8_t)v[j];
            npz_rows(z, &item, size);
        }
        free(v);
    }
    return npz_commit(z, err);
}

static void print_fields(const char *title, const Field *f) {
    if (!f || !f->name) return;
    printf("%s:", title);
    for (; f->name; f++) printf(" %s", f->name);
    putchar('\n');
}

// What there is to know about a launcher: its fields, the arrays of a shape if one is given, its implementations.
static void list_launcher(const Description *what, const Call *call) {
    printf("%s: %s\n", what->launcher->name, what->about);
    print_fields("shape", what->shape);
    print_fields("arguments", what->args);
    for (int i = 0; call && i < call_count(call); i++) {
        const Array *a = call_array(call, i);
        char dims[96];
        shape_text(a->ndim, a->dim, dims, sizeof dims);
        printf("  %-9s %s %s\n", a->use == ARRAY_IN ? "input" : a->use == ARRAY_OUT ? "output" : "in, out", a->name,
               dims);
    }
    static const char *const kinds[] = { "ref", "ref32", "ref64", "cpu", "emu", "cuda" };
    for (const Impl *i = impl_next(what->launcher, NULL); i; i = impl_next(what->launcher, i))
        printf("  %s on %s%s\n", i->name, kinds[i->kind], i->order < 0 ? ", only by name" : "");
}

static const char *all_launchers(void) {
    static char text[1024];
    size_t at = 0;
    for (int i = 0; descriptions[i]; i++)
        at += (size_t)snprintf(text + at, sizeof text - at, " %s", descriptions[i]->launcher->name);
    return text;
}

static bool run(const Config *c, const Description *what, Error *err) {
    void *shape = xcalloc(1, what->launcher->shape_bytes), *args = xcalloc(1, what->launcher->args_bytes);
    char with[WITH_MAX];
    const char *wrong = description_parse(what, c->shape, shape, args, with);
    bool ok = !wrong || error_set(err, ERR_USAGE, "--shape: %s", wrong);
    if (ok && c->list && !*c->shape) {
        list_launcher(what, NULL);
        free(shape);
        free(args);
        return true;
    }
    Device *d = ok ? device_open(c->device, err) : NULL;
    Call *call = d ? call_new(d, what, shape, args, with, *c->kernel ? c->kernel : NULL, err) : NULL;
    ok = call != NULL;
    if (ok && c->list) list_launcher(what, call);
    if (ok && !c->list) {
        ok = (*c->in && *c->out) || error_set(err, ERR_USAGE, "name the files: --in X.npz --out Y.npz (or --list)");
        call_fill(call, CALL_ONES, 0);           // outputs become NaN; every input is overwritten
        for (int i = 0; ok && i < call_count(call); i++)
            if (call_reads(call, i)) ok = read_input(c, call, i, err);
        if (ok) {
            call_run(call);
            device_sync(d);
            Status s = stream_status(device_stream(d, 0));
            if (s.code) ok = error_set(err, ERR_DIVERGED, "%s: %s", call_impl(call)->name, s.what);
        }
        ok = ok && write_outputs(c, call, err);
    }
    call_free(call);
    device_close(d);
    free(shape);
    free(args);
    return ok;
}

int op_main(int argc, char **argv) {
    Config c;
    Error err = { 0 };
    const char *word = NULL;
    int words = 1;
    cli_defaults(flags, N_FLAGS, &c);
    if (cli_wants_help(argc, argv)) {
        cli_help(flags, N_FLAGS, "cbdm op LAUNCHER --shape \"...\" --in X.npz --out Y.npz",
                 "Run one launcher on arrays.");
        printf("launchers:%s\n", all_launchers());
        return 0;
    }
    bool ok = cli_parse(flags, N_FLAGS, &c, argc - 1, argv + 1, &word, &words, NULL, &err);
    const Description *what = ok && words == 1 ? description_find(word) : NULL;
    if (ok && !what) ok = error_set(&err, ERR_USAGE, "name a launcher:%s", all_launchers());
    ok = ok && run(&c, what, &err);
    if (!ok) log_info("error: %s", err.msg);
    return ok ? 0 : err.code;
}
