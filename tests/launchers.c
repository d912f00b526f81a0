// tests/launchers.c - cbdm check: launchers called directly; what no layer of the network reaches, strides, and the
// shapes that kernels find awkward. Every implementation of every kind that can do a case is held to ref.
//
//   cbdm check [--device KIND,...] [--schedules N] [--list] [LAUNCHER ...]      KIND: cpu, emu, emu:90, cuda
//   cbdm check LAUNCHER --case "n=2 h=8 w=8 c=16 k=32 use=bias"
//
// For an output of type T, with ref and ref32 storing what the case stores:
//   max|y - ref| <= 2 E + 2 ulp_T(max|ref|),   E = max(max|ref32 - ref|, u sqrt(K) max sqrt(sum a^2 b^2))
// the term with squares only for sums of products (convolution, matrix product), where ref on squared inputs and on
// ones computes it; u = 2^-24. E is larger by what conv2d.h derives for implementations named after Winograd. The 2 ulp
// stand for one rounding to T on either side of a tie, and for one more at a rounding point inside, as the contracts
// place them; for a chain of calls that rounds at one point more, or leaves one out, they are 3. Integers and bits are
// equal.
#include "kernels/conv2d/conv2d.h"
#include "workbench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/call.h"
#include "core/cli.h"
#include "launchers_cases.h"
#include "schedule.h"

enum { N_CASES = sizeof cases / sizeof cases[0], MAX_OUTPUTS = 16 };

// ---- what a case needs of its launcher
typedef struct {
    const Description *what;
    void *shape, *args;
    char  with[WITH_MAX], text[512];
    DType dtype;                                 // of all that the case does not name
} Bound;

static bool names_dtype(const char *text) {
    return strstr(text, "dtype=") || strstr(text, "out=") || strstr(text, "in=");
}
static bool has_dtype(const Description *d) {
    for (const Field *f = d->shape; f->name; f++)
        if (f->type == FIELD_DTYPE) return true;
    return false;
}

static Bound bind_case(const Case *c, DType dtype) {
    Bound b = { .what = description_find(c->launcher), .dtype = dtype };
    CHECK(b.what, "no description of %s", c->launcher);
    b.shape = xcalloc(1, b.what->launcher->shape_bytes);
    b.args = xcalloc(1, b.what->launcher->args_bytes);
    char text[512];
    size_t at = (size_t)snprintf(text, sizeof text, "%s", c->shape);
    for (const Field *f = b.what->shape; f->name && !names_dtype(c->shape); f++)
        if (f->type == FIELD_DTYPE)
            at += (size_t)snprintf(text + at, sizeof text - at, " %s=%s", f->name, dtype == DT_BF16 ? "bf16" : "f32");
    const char *wrong = description_parse(b.what, text, b.shape, b.args, b.with);
    CHECK(!wrong, "%s", wrong);
    snprintf(b.text, sizeof b.text, "%s %s%s", c->launcher, c->shape, has_dtype(b.what) && !names_dtype(c->shape)
             ? dtype == DT_BF16 ? " bf16" : " f32" : "");
    return b;
}

static void unbind(Bound *b) {
    free(b->shape);
    free(b->args);
}

// ---- results
typedef struct { double *value[ARRAYS_MAX]; int n; } Values;

static void values_free(Values *v) {
    for (int i = 0; i < v->n; i++) free(v->value[i]);
}

static bool is_output(const Array *a) { return a->use != ARRAY_IN; }

// Every output array of the case on a device; the others stay NULL. False: *err says what the device reported.
static bool results(const Bound *b, const char *device, const char *impl, CallFill fill, Values *out, Error *err) {
    Device *d = device_open(device, err);
    if (!d) return false;
    Call *c = call_new(d, b->what, b->shape, b->args, b->with, impl, err);
    *out = (Values){ .n = 0 };
    bool ok = c != NULL;
    if (ok) {
        call_fill(c, fill, 2166136261u);
        call_run(c);
        device_sync(d);
        Status s = stream_status(device_stream(d, 0));
        if (s.code) ok = error_set(err, ERR_DIVERGED, "%s", s.what);
    }
    for (int i = 0; ok && i < call_count(c); i++) {
        const Array *a = call_array(c, i);
        out->n = i + 1;
        out->value[i] = NULL;
        if (!is_output(a)) continue;
        out->value[i] = xmalloc((size_t)(array_numel(a) + 1) * sizeof(double));
        call_read(c, i, out->value[i]);
    }
    ok = ok && call_gaps_untouched(c, err);
    call_free(c);
    device_close(d);
    return ok;
}

static double ulp(ArrayType t, double x) {
    int e;
    frexp(x, &e);
    return x > 0 ? ldexp(1.0, e - (t == TYPE_BF16 ? 8 : 24)) : 0;
}

static double largest(const double *v, const double *minus, int64_t n) {
    double top = 0;
    for (int64_t i = 0; v && i < n; i++) {
        double x = fabs(minus ? v[i] - minus[i] : v[i]);
        if (isfinite(x)) top = fmax(top, x);
    }
    return top;
}

typedef struct { Arrays arrays; Values ref; double error[ARRAYS_MAX]; } Yard;         // error: E

static bool sums_products(const Bound *b) {
    const char *name = b->what->launcher->name;
    char text[512];
    description_print(b->what, b->shape, b->args, text, sizeof text);
    bool sums = strncmp(name, "conv2d", 6) == 0 || strcmp(name, "gemm") == 0;
    return sums && !strstr(text, "norm") && !strstr(text, "silu");
}

static bool yard_new(const Bound *b, Yard *y, Error *err) {
    Values ref32, squares = { .n = 0 }, ones = { .n = 0 };
    if (!results(b, "ref", NULL, CALL_VALUES, &y->ref, err)) return false;
    if (!results(b, "ref32", NULL, CALL_VALUES, &ref32, err)) return false;
    if (sums_products(b) && (!results(b, "ref", NULL, CALL_SQUARES, &squares, err) ||
                             !results(b, "ref", NULL, CALL_ONES, &ones, err))) return false;
    Arrays all = { .n = 0 };
    Device *d = device_open("ref", err);
    Call *c = call_new(d, b->what, b->shape, b->args, b->with, NULL, err);
    for (int i = 0; i < call_count(c); i++) all.array[all.n++] = *call_array(c, i);
    call_free(c);
    device_close(d);
    y->arrays = all;
    for (int i = 0; i < all.n; i++) {
        const Array *a = &all.array[i];
        int64_t n = array_numel(a);
        double error = largest(ref32.value[i], y->ref.value[i], n), rounding = 0;
        if (squares.n && squares.value[i])
            rounding = 0x1p-24 * sqrt(largest(ones.value[i], NULL, n)) * sqrt(largest(squares.value[i], NULL, n));
        y->error[i] = fmax(error, rounding);
    }
    values_free(&ref32);
    values_free(&squares);
    values_free(&ones);
    return true;
}

// The StepState holds integers beside floats; it is compared field by field.
static bool same_state(const double *got, const double *ref, Error *err) {
    StepState a, b;
    for (size_t i = 0; i < sizeof a; i++) {
        ((uint8_t *)&a)[i] = (uint8_t)got[i];
        ((uint8_t *)&b)[i] = (uint8_t)ref[i];
    }
    bool ok = a.step == b.step && a.sampler_index == b.sampler_index && a.updates == b.updates &&
              a.skipped == b.skipped;
    ok &= fabsf(a.lr - b.lr) <= 2e-7f * fabsf(b.lr) && fabsf(a.grad_norm - b.grad_norm) <= 1e-6f * fabsf(b.grad_norm);
    return ok || error_set(err, ERR_DIVERGED, "state: step %u, updates %lld, lr %.9g, norm %.9g; ref has %u, %lld, "
                           "%.9g, %.9g", a.step, (long long)a.updates, (double)a.lr, (double)a.grad_norm, b.step,
                           (long long)b.updates, (double)b.lr, (double)b.grad_norm);
}

static bool stores_bf16(const Bound *b) {
    char text[512];
    description_print(b->what, b->shape, b->args, text, sizeof text);
    return strstr(text, "=bf16") != NULL;
}

static double amplification(const char *impl) {
    return strncmp(impl, "winograd", 8) == 0 ? CONV_WINOGRAD_AMPLIFICATION : 1;
}
// A point inside where only one of a chain of calls and the contract rounds: ds of attention_chain.cuh; the filter and
// the gradient of the large image of conv2d_up_chain.cuh. Every term of a sum is then off by up to 2^-9 of itself,
// terms and errors are as good as independent, and so the sum's error is to the sum as 2^-9 / sqrt(3) for each of the
// at most two points: together less than an ulp of the largest.
static int ulps(const Bound *b, const Impl *i) {
    static const char *const launchers[] = { "attention_backward", "conv2d_up_forward", "conv2d_up_backward_input" };
    bool chain = impl_is_vendor(i) || strcmp(i->name, "chain") == 0, rounds = false;
    for (int l = 0; l < 3; l++) rounds |= strcmp(b->what->launcher->name, launchers[l]) == 0;
    return chain && rounds ? 3 : 2;
}
// The elements that are wrong: how many, and the first few with their places.
typedef struct { int64_t n; char text[400]; } Wrong;
static void note_wrong(Wrong *w, const Array *a, int64_t at, double got, double ref) {
    enum { SHOWN = 5 };
    size_t used = strlen(w->text);
    if (w->n++ >= SHOWN) return;
    int64_t place[4] = { 0 };
    for (int i = a->ndim - 1; i >= 0; i--) {
        place[i] = at % a->dim[i];
        at /= a->dim[i];
    }
    used += (size_t)snprintf(w->text + used, sizeof w->text - used, " %s[", a->name);
    for (int i = 0; i < a->ndim && used < sizeof w->text; i++)
        used += (size_t)snprintf(w->text + used, sizeof w->text - used, "%s%lld", i ? "," : "", (long long)place[i]);
    if (used < sizeof w->text)
        snprintf(w->text + used, sizeof w->text - used, "] %.6g not %.6g;", got, ref);
}

// coarse: what the contract has in f32 may be rounded to bf16 on the way, as vendors' libraries do that read bf16.
static bool within(const Yard *y, const Values *got, const char *impl, int roundings, bool coarse, Error *err) {
    for (int i = 0; i < y->arrays.n; i++) {
        const Array *a = &y->arrays.array[i];
        const double *v = got->value[i], *ref = y->ref.value[i];
        if (!v) continue;
        if (a->fill == FILL_STATE) {
            if (!same_state(v, ref, err)) return false;
            continue;
        }
        bool exact = a->type != TYPE_F32 && a->type != TYPE_BF16;
        Wrong wrong = { 0, "" };
        double top = largest(ref, NULL, array_numel(a));
        double bound = 2 * amplification(impl) * y->error[i] + roundings * ulp(a->type, top);
        if (coarse && a->type == TYPE_F32) bound += 2 * ulp(TYPE_BF16, top);
        for (int64_t j = 0; j < array_numel(a); j++) {
            bool ok = exact || !isfinite(ref[j]) ? v[j] == ref[j] || (isnan(v[j]) && isnan(ref[j]))
                                                 : fabs(v[j] - ref[j]) <= bound;
            if (!ok) note_wrong(&wrong, a, j, v[j], ref[j]);
        }
        if (wrong.n)
            return error_set(err, ERR_DIVERGED, "%lld of %lld wrong, bound %.3g, largest %.3g:%s", (long long)wrong.n,
                             (long long)array_numel(a), exact ? 0 : bound, top, wrong.text);
    }
    return true;
}

// ---- schedules: on the emulator, the same bits whatever the order of blocks and threads
static bool same_values(const Yard *y, const Values *a, const Values *b, int schedule, Error *err) {
    for (int i = 0; i < y->arrays.n; i++)
        for (int64_t j = 0; a->value[i] && j < array_numel(&y->arrays.array[i]); j++) {
            double u = a->value[i][j], v = b->value[i][j];
            if (u != v && !(isnan(u) && isnan(v)))
                return error_set(err, ERR_DIVERGED, "%s[%lld] = %.9g, under schedule %d %.9g", y->arrays.array[i].name,
                                 (long long)j, u, schedule, v);
        }
    return true;
}

static bool check_schedules(const Bound *b, const char *device, const char *impl, const Yard *y, const Values *natural,
                            int schedules, Error *err) {
    bool ok = true;
    for (int k = 1; ok && k <= schedules; k++) {
        Values other;
        choose_schedule(k);
        ok = results(b, device, impl, CALL_VALUES, &other, err) && same_values(y, natural, &other, k, err);
        if (ok) values_free(&other);
    }
    choose_schedule(0);
    return ok;
}

// ---- the program
typedef struct { const char *device, *text, *part; int schedules; bool list; } Config;
static int passed, failed, missing;

static void check_on(const Bound *b, const char *device, int schedules, Yard *y, bool *have_yard) {
    Error err = { 0 };
    Device *d = device_open(device, &err);
    if (!d) {
        log_info("device %s: %s", device, err.msg);
        failed++;
        return;
    }
    DeviceKind kind = device_kind(d);
    int cc = device_cc(d), count = 0;
    device_close(d);
    const Launcher *l = b->what->launcher;
    for (const Impl *i = impl_next(l, NULL); i; i = impl_next(l, i)) {
        if (i->kind != kind || cc < i->min_cc || (i->exact_cc && cc != i->exact_cc) || !l->can(i, b->shape)) continue;
        if (strcmp(device, "emu:90") == 0 && !i->exact_cc) continue;             // run under plain emu already
        if (impl_draws_others(i)) continue;
        Values got;
        count++;
        printf(" %s=%s", device, i->name);       // before it runs: it may not come back
        fflush(stdout);
        bool ok = *have_yard || (*have_yard = yard_new(b, y, &err));
        ok = ok && results(b, device, i->name, CALL_VALUES, &got, &err);
        if (!ok && err.code == ERR_USAGE && impl_is_vendor(i)) {
            printf(" refuses");
            continue;
        }
        if (ok) {
            ok = within(y, &got, i->name, ulps(b, i), impl_is_vendor(i) && stores_bf16(b), &err);
            if (ok && kind == DEV_EMU) ok = check_schedules(b, device, i->name, y, &got, schedules, &err);
            values_free(&got);
        }
        passed += ok;
        failed += !ok;
        if (!ok) printf("\nFAILED %s on %s, %s: %s\n  ", b->text, device, i->name, err.msg);
        fflush(stdout);
    }
    if (!count && strcmp(device, "emu:90") != 0) {
        printf(" %s: none", device);
        if (kind == DEV_CPU) missing++;          // its kernels take f32 only; a GPU has a general one for all in NHWC
        else if (strstr(b->text, "c16")) return;
        else failed++;
    }
}

static bool asked_for(const Case *c, int n_words, const char **words) {
    for (int i = 0; i < n_words; i++)
        if (strncmp(c->launcher, words[i], strlen(words[i])) == 0 || strstr(c->shape, words[i])) return true;
    return n_words == 0;
}

static const Flag flags[] = {
    { "device", "", "kinds to check, separated by commas; empty: cpu, emu, emu:90 and cuda where they are", FLAG_LIST,
      offsetof(Config, device), NULL, 0, 0 },
    { "case", "", "this shape instead of the table's, as in \"n=2 h=8 w=8 c=16 k=32 use=bias\"", FLAG_STR,
      offsetof(Config, text), NULL, 0, 0 },
    { "schedules", "2", "on emu: orders of blocks and threads beside the natural one, all with the same bits", FLAG_INT,
      offsetof(Config, schedules), NULL, 0, 1000 },
    { "part", "1/1", "K/N: every N-th case, from the K-th on, so that N runs side by side do all", FLAG_STR,
      offsetof(Config, part), NULL, 0, 0 },
    { "list", "false", "name the cases, run none", FLAG_BOOL, offsetof(Config, list), NULL, 0, 0 },
};
enum { N_FLAGS = sizeof flags / sizeof flags[0] };

static bool device_is_there(const char *spec) {
    Error err = { 0 };
    Device *d = device_open(spec, &err);
    if (d) device_close(d);
    return d != NULL;
}

static void check_case(const Case *one, const Config *c, const char *devices) {
    for (int bf16 = 0; bf16 < 2; bf16++) {
        Bound b = bind_case(one, bf16 ? DT_BF16 : DT_F32);
        Yard y = { .ref = { .n = 0 } };
        bool have_yard = false;
        char copy[128], *rest = copy;
        snprintf(copy, sizeof copy, "%s", devices);
        if (!bf16 || (has_dtype(b.what) && !names_dtype(one->shape))) {
            printf("%s:", b.text);
            for (char *device; !c->list && (device = strsep(&rest, ","));)
                if (*device) check_on(&b, device, c->schedules, &y, &have_yard);
            putchar('\n');
        }
        values_free(&y.ref);
        unbind(&b);
    }
}

// A case that a user wrote: its text is checked first, since the table's are taken as right.
static bool own_case(const Config *c, int n_words, const char **words, Case *out, Error *err) {
    const Description *what = n_words == 1 ? description_find(words[0]) : NULL;
    if (!what) return error_set(err, ERR_USAGE, "--case needs one launcher's name before it, as in conv2d_forward");
    void *shape = xcalloc(1, what->launcher->shape_bytes), *args = xcalloc(1, what->launcher->args_bytes);
    char with[WITH_MAX];
    const char *wrong = description_parse(what, c->text, shape, args, with);
    free(shape);
    free(args);
    *out = (Case){ words[0], c->text };
    return !wrong || error_set(err, ERR_USAGE, "--case: %s", wrong);
}

int check_main(int argc, char **argv) {
    Config c;
    Error err = { 0 };
    const char *words[64];
    int n_words = 64, part = 0, parts = 0;
    char end;
    Case own;
    if (cli_wants_help(argc, argv)) {
        cli_help(flags, N_FLAGS, "cbdm check [LAUNCHER ...] [flags]", "Hold every kernel to the reference.");
        return 0;
    }
    cli_defaults(flags, N_FLAGS, &c);
    bool ok = cli_parse(flags, N_FLAGS, &c, argc - 1, argv + 1, words, &n_words, NULL, &err);
    if (ok && (sscanf(c.part, "%d/%d%c", &part, &parts, &end) != 2 || part < 1 || part > parts))
        ok = error_set(&err, ERR_USAGE, "--part %s: K/N is expected, K from 1 to N, as in 2/3", c.part);
    ok = ok && (!*c.text || own_case(&c, n_words, words, &own, &err));
    if (ok && getenv("CBDM_LONG") && c.schedules < 20) c.schedules = 20;     // tests/run.sh --long
    if (!ok) {
        log_info("error: %s", err.msg);
        return err.code;
    }
    char list[128] = "";
    const char *const known[] = { "cpu", "emu", "emu:90", "cuda" };
    for (int i = 0; i < 4 && !*c.device; i++)
        if (device_is_there(known[i])) snprintf(list + strlen(list), sizeof list - strlen(list), "%s,", known[i]);
    if (*c.device) snprintf(list, sizeof list, "%s", c.device);
    if (*c.text) check_case(&own, &c, list);
    int found = *c.text != 0;
    for (int i = 0; i < N_CASES && !*c.text; i++) {
        if (!asked_for(&cases[i], n_words, words)) continue;
        if (found++ % parts == part - 1) check_case(&cases[i], &c, list);
    }
    if (!found) {
        log_info("error: no case of %s; --list names all", words[0]);
        return ERR_USAGE;
    }
    if (!c.list) printf("check: %d passed, %d failed, %d without an implementation\n", passed, failed, missing);
    return failed || (!c.list && !passed) ? ERR_DIVERGED : 0;
}
