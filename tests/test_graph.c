// tests/test_graph.c - the engine: plans of random graphs, their checker, fusion, null devices, views, micro-batches.
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/graph_impl.h"
#include "kernels/common/rng.h"
#include "models/diffusion.h"

static Device *open_device(const char *spec) {
    Error err = { 0 };
    Device *d = device_open(spec, &err);
    if (!d) fail_msg("%s", err.msg);
    return d;
}

static uint32_t word(uint32_t seed, uint32_t i) { return philox((uint32_t[]){ seed, 5 }, i, 0, 0, 0).v[0]; }

static void fill(Tensor *t, uint32_t seed) {
    int64_t n = tensor_numel(t);
    float *v = xmalloc((size_t)n * sizeof *v);
    for (int64_t i = 0; i < n; i++) {
        float draw[4];
        rng_normal4(philox((uint32_t[]){ seed, 6 }, (uint32_t)i, 0, 0, 0).v, draw);
        v[i] = draw[0];
    }
    tensor_write_f32(t, v);
    free(v);
}

static double *values(const Tensor *t) {
    double *v = xmalloc((size_t)tensor_numel(t) * sizeof *v);
    tensor_read_f64(t, v);
    return v;
}

static void seal(Graph *g, Arena *a) {
    graph_plan(g, a);
    arena_seal(a);
}

static int count_nodes(const Graph *g, const char *op) {
    int n = 0;
    for (int i = 0; i < graph_node_count(g); i++) n += strcmp(graph_node(g, i)->op->name, op) == 0;
    return n;
}

// ---- random graphs: what shares memory computes the same bits as what keeps every tensor to itself
enum { RANDOM_NODES = 40, RANDOM_OUTPUTS = 3 };
typedef struct { Graph *g; Arena *arena; Tensor *in[2], *out[RANDOM_OUTPUTS]; } RandomGraph;

static RandomGraph random_graph(Device *d, uint32_t seed, bool keep_all) {
    RandomGraph r = { .g = graph_new(d, "random", WEIGHTS_TRAIN), .arena = arena_new(d) };
    Tensor *t[RANDOM_NODES + 2];
    int n = 0;
    uint32_t at = 0;
    for (int i = 0; i < 2; i++) {
        int64_t size = 2 + word(seed, at++) % 5;
        r.in[i] = graph_input(r.g, i ? "b" : "a", DT_F32, 4, (int64_t[]){ size, 3, 5, 16 });
        t[n++] = op_relayout(r.g, r.in[i], device_layout(d));
    }
    while (n < RANDOM_NODES + 2) {
        Tensor *x = t[word(seed, at) % (uint32_t)n], *y = t[word(seed, at + 1) % (uint32_t)n];
        uint32_t kind = word(seed, at + 2) % 5;
        at += 3;
        int64_t images = x->shape[0];
        if (kind == 0) t[n++] = op_silu(r.g, x);
        else if (kind == 1 && images < 8) t[n++] = op_repeat_batch(r.g, x, 2);
        else if (kind == 2 && images > 1) t[n++] = op_axpby(r.g, 0.5f, op_view_batch(r.g, x, 1, images), 0, NULL);
        else if (tensor_same_shape(x, y)) t[n++] = kind == 3 ? op_add(r.g, x, y) : op_axpby(r.g, 0.5f, x, -0.25f, y);
        else t[n++] = op_axpby(r.g, -0.75f, x, 0, NULL);
    }
    for (int i = 0; i < RANDOM_OUTPUTS; i++) r.out[i] = graph_output(r.g, t[n - 1 - 7 * i]);
    for (int i = 0; keep_all && i < n; i++) graph_output(r.g, t[i]);
    seal(r.g, r.arena);
    return r;
}

static void random_free(RandomGraph r) {
    graph_free(r.g);
    arena_free(r.arena);
}

static void test_random_graphs(void **state) {
    (void)state;
    static const char *const devices[] = { "ref", "cpu" };
    for (int k = 0; k < 2; k++) {
        Device *d = open_device(devices[k]);
        for (uint32_t seed = 1; seed <= 25; seed++) {
            RandomGraph shared = random_graph(d, seed, false), kept = random_graph(d, seed, true);
            assert_true(arena_bytes(shared.arena) < arena_bytes(kept.arena));
            for (int run = 0; run < 2; run++) {                        // the second finds the first one's bytes
                for (int i = 0; i < 2; i++) {
                    fill(shared.in[i], seed + (uint32_t)i);
                    fill(kept.in[i], seed + (uint32_t)i);
                }
                graph_run(shared.g);
                graph_run(kept.g);
                for (int i = 0; i < RANDOM_OUTPUTS; i++) {
                    double *a = values(shared.out[i]), *b = values(kept.out[i]);
                    assert_memory_equal(a, b, (size_t)tensor_numel(kept.out[i]) * sizeof *a);
                    free(a);
                    free(b);
                }
            }
            random_free(shared);
            random_free(kept);
        }
        device_close(d);
    }
}

// Two graphs in one arena need the larger one's bytes, and neither minds the other's run in between.
static void test_shared_arena(void **state) {
    (void)state;
    Device *d = open_device("ref");
    Arena *arena = arena_new(d);
    Graph *g[2];
    Tensor *x[2], *y[2];
    size_t alone[2];
    for (int i = 0; i < 2; i++) {
        for (int pass = 0; pass < 2; pass++) {
            Arena *a = pass ? arena : arena_new(d);
            g[i] = graph_new(d, "half", WEIGHTS_TRAIN);
            x[i] = graph_input(g[i], "x", DT_F32, 2, (int64_t[]){ 100 * (i + 1), 7 });
            y[i] = graph_output(g[i], op_silu(g[i], op_silu(g[i], x[i])));
            graph_plan(g[i], a);
            if (pass) continue;
            alone[i] = arena_bytes(a);
            graph_free(g[i]);
            arena_free(a);
        }
    }
    assert_true(alone[1] > alone[0]);
    assert_int_equal(arena_bytes(arena), alone[1]);
    arena_seal(arena);
    double *first[2] = { NULL, NULL };
    for (int run = 0; run < 4; run++) {
        int i = run % 2;
        fill(x[i], 3);
        graph_run(g[i]);
        double *v = values(y[i]);
        if (first[i]) assert_memory_equal(v, first[i], (size_t)tensor_numel(y[i]) * sizeof *v);
        if (first[i]) free(v);
        else first[i] = v;
    }
    for (int i = 0; i < 2; i++) {
        free(first[i]);
        graph_free(g[i]);
    }
    arena_free(arena);
    device_close(d);
}

// ---- plan_check: true if it aborts, in a child whose message goes nowhere
static bool plan_refused(const Graph *g) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        if (!freopen("/dev/null", "w", stderr)) _exit(3);
        plan_check(g);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static int number_of(const Graph *g, const Tensor *t) {
    for (int i = 0; i < g->n_tensors; i++)
        if (g->tensors[i] == t) return i;
    fail_msg("%s is not a tensor of the graph", tensor_str(t));
    return -1;
}

static bool refused_if_moved(Graph *g, const Tensor *t, const Tensor *onto, size_t by) {
    size_t *offset = &g->offset[number_of(g, t)], before = *offset;
    *offset = g->offset[number_of(g, onto)] + by;
    bool refused = plan_refused(g);
    *offset = before;
    return refused;
}

static void test_planted_overlap(void **state) {
    (void)state;
    Device *d = open_device("ref");
    Graph *g = graph_new(d, "overlap", WEIGHTS_TRAIN);
    ParamSet *ps = param_set_new(d);
    Param *w = param_add(ps, "w", 4, (int64_t[]){ 16, 3, 3, 16 }, INIT_XAVIER_UNIFORM, 1);
    param_seal(ps, PARAM_TRAIN, 1);
    Tensor *x = graph_input(g, "x", DT_F32, 4, (int64_t[]){ 2, 8, 8, 16 });
    Tensor *old = op_silu(g, x), *a = op_silu(g, x);
    Tensor *b = op_conv2d(g, a, param_tensor(w, g), NULL, 1, 1), *y = op_add(g, a, b);
    Tensor *last = graph_output(g, op_add(g, y, old));
    Arena *arena = arena_new(d);
    seal(g, arena);
    assert_false(plan_refused(g));
    size_t bytes = tensor_bytes(a);
    assert_true(refused_if_moved(g, a, x, 0));                  // written over what the same node reads
    assert_true(refused_if_moved(g, b, a, 0));                  // b is written while y still needs a
    assert_true(refused_if_moved(g, b, a, bytes - 4));          // one element is enough
    assert_true(refused_if_moved(g, y, b, 0));
    assert_true(refused_if_moved(g, last, y, 4));
    assert_false(refused_if_moved(g, last, a, 0));              // a has been read for the last time
    Node *conv = g->nodes[2];
    assert_true(conv->scratch_bytes > 0);
    size_t before = conv->scratch_offset;
    conv->scratch_offset = g->offset[number_of(g, a)] + bytes - 4;
    assert_true(plan_refused(g));                               // scratch on an input of its node
    conv->scratch_offset = g->offset[number_of(g, b)];
    assert_true(plan_refused(g));                               // scratch on its output
    g->offset[number_of(g, old)] = arena_bytes(arena);          // beyond all else, where scratch meets nothing but it
    conv->scratch_offset = arena_bytes(arena) + bytes;
    assert_false(plan_refused(g));
    conv->scratch_offset -= 4;
    assert_true(plan_refused(g));                               // scratch on what only a later node reads
    conv->scratch_offset = before;
    assert_false(plan_refused(g));
    graph_free(g);
    arena_free(arena);
    param_set_free(ps);
    device_close(d);
}

// ---- fusion: one residual block, plain and rewritten, with its gradients
typedef struct { Graph *g; Arena *arena; ParamSet *ps; Tensor *x, *temb, *sample, *y, *dx, *dtemb; } ResBlock;

static Tensor *weight(ResBlock *b, const char *name, int ndim, const int64_t *shape) {
    return param_value(param_add(b->ps, name, ndim, shape, ndim == 1 ? INIT_NORMAL : INIT_XAVIER_UNIFORM, 1));
}

static ResBlock block_new(Device *d) {
    int64_t c = 16;
    ResBlock b = { .g = graph_new(d, "block", WEIGHTS_TRAIN), .arena = arena_new(d), .ps = param_set_new(d) };
    b.x = graph_input(b.g, "x", DT_F32, 4, (int64_t[]){ 2, 5, 7, c });
    b.temb = graph_input(b.g, "temb", DT_F32, 2, (int64_t[]){ 2, c });
    b.sample = graph_input(b.g, "sample", DT_I32, 1, (int64_t[]){ 2 });
    b.x->flags |= TENSOR_NEEDS_GRAD;
    b.temb->flags |= TENSOR_NEEDS_GRAD;
    Tensor *w1 = weight(&b, "w1", 4, (int64_t[]){ c, 3, 3, c }), *w2 = weight(&b, "w2", 4, (int64_t[]){ c, 3, 3, c });
    Tensor *w3 = weight(&b, "w3", 4, (int64_t[]){ c, 3, 3, c });
    Tensor *gamma = weight(&b, "gamma", 1, &c), *beta = weight(&b, "beta", 1, &c), *bias = weight(&b, "bias", 1, &c);
    param_seal(b.ps, PARAM_TRAIN, 7);
    Tensor *x = op_relayout(b.g, b.x, device_layout(d));
    Tensor *h = op_add_channel(b.g, op_conv2d(b.g, x, w1, NULL, 1, 1), b.temb);
    h = op_groupnorm(b.g, h, gamma, beta, 8, 1e-5, ACT_SILU);
    h = op_dropout(b.g, h, 0.25, op_purpose("layer"), b.sample, param_state(b.ps));
    h = op_add(b.g, op_conv2d(b.g, h, w2, bias, 1, 1), x);
    b.y = graph_output(b.g, op_conv2d(b.g, op_upsample2x(b.g, h), w3, NULL, 1, 1));
    graph_rewrite_forward(b.g);
    graph_backward(b.g, graph_output(b.g, op_mean(b.g, op_mul(b.g, b.y, b.y))));
    b.dx = graph_output(b.g, b.x->grad);
    b.dtemb = graph_output(b.g, b.temb->grad);
    graph_rewrite_backward(b.g);
    seal(b.g, b.arena);
    fill(b.x, 1);
    fill(b.temb, 2);
    tensor_write(b.sample, (int32_t[]){ 4, 9 });
    graph_run(b.g);
    return b;
}

static void block_free(ResBlock b) {
    graph_free(b.g);
    arena_free(b.arena);
    param_set_free(b.ps);
}

// In double, rounding stays below 1e-11 of the largest; another value, mask or sum would not.
static void assert_close(const Tensor *a, const Tensor *b) {
    double *x = values(a), *y = values(b), top = 0;
    int64_t n = tensor_numel(a);
    assert_true(tensor_same_shape(a, b));
    for (int64_t i = 0; i < n; i++) top = fmax(top, fabs(y[i]));
    assert_true(top > 0);
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(x[i] - y[i]) <= 1e-11 * top))
            fail_msg("%s[%lld]: %.17g and %.17g", tensor_str(a), (long long)i, x[i], y[i]);
    free(x);
    free(y);
}

static void test_fusion(void **state) {
    (void)state;
    Device *d = open_device("ref64");
    ResBlock fused = block_new(d);
    assert_int_equal(setenv("CBDM_NO_FUSE", "1", 1), 0);
    ResBlock plain = block_new(d);
    assert_int_equal(unsetenv("CBDM_NO_FUSE"), 0);
    assert_int_equal(count_nodes(fused.g, "add_channel") + count_nodes(fused.g, "dropout"), 0);
    assert_int_equal(count_nodes(plain.g, "add_channel"), 1);
    assert_int_equal(count_nodes(fused.g, "conv2d_up") + count_nodes(plain.g, "upsample2x"), 2);
    assert_int_equal(count_nodes(plain.g, "conv2d_up") + count_nodes(fused.g, "upsample2x"), 0);
    assert_int_equal(count_nodes(fused.g, "add"), 1);             // y's two uses in y * y, which no kernel writes
    assert_int_equal(count_nodes(plain.g, "add"), 3);             // and the residual's sum, forward and backward
    assert_int_equal(count_nodes(plain.g, "dropout"), 2);        // forward and backward
    assert_true(graph_node_count(fused.g) < graph_node_count(plain.g));
    assert_close(fused.y, plain.y);
    assert_close(fused.dx, plain.dx);
    assert_close(fused.dtemb, plain.dtemb);
    for (int i = 0; i < param_count(plain.ps); i++)
        assert_close(param_value(param_get(fused.ps, i))->grad, param_value(param_get(plain.ps, i))->grad);
    block_free(fused);
    block_free(plain);
    device_close(d);
}

// A value that two nodes read, or that is an output, is not swallowed by one of them.
static void test_no_fusion_of_shared(void **state) {
    (void)state;
    Device *d = open_device("null:ref");
    ParamSet *ps = param_set_new(d);
    Param *w = param_add(ps, "w", 4, (int64_t[]){ 3, 3, 3, 3 }, INIT_XAVIER_UNIFORM, 1);
    param_seal(ps, PARAM_TRAIN, 1);
    for (int kind = 0; kind < 3; kind++) {
        Graph *g = graph_new(d, "shared", WEIGHTS_TRAIN);
        Tensor *x = graph_input(g, "x", DT_F32, 4, (int64_t[]){ 1, 4, 4, 3 });
        Tensor *h = op_conv2d(g, x, param_tensor(w, g), NULL, 1, 1);
        if (kind == 1) graph_output(g, h);
        if (kind == 2) graph_output(g, op_silu(g, h));
        graph_output(g, op_add(g, h, x));
        Tensor *up = op_upsample2x(g, x);
        graph_output(g, op_conv2d(g, up, param_tensor(w, g), NULL, 1, 1));
        if (kind == 1) graph_output(g, up);
        if (kind == 2) graph_output(g, op_silu(g, up));
        graph_rewrite_forward(g);
        assert_int_equal(count_nodes(g, "axpby") + count_nodes(g, "add"), kind == 0 ? 0 : 1);
        assert_int_equal(count_nodes(g, "upsample2x"), kind == 0 ? 0 : 1);
        assert_int_equal(count_nodes(g, "conv2d_up"), kind == 0 ? 1 : 0);
        graph_free(g);
    }
    param_set_free(ps);
    device_close(d);
}

// ---- the training step on real and null devices, whole and in micro-batches
static const UNetConfig small = { .image_size = 8, .in_channels = 3, .channels = 16, .levels = 2, .mult = { 1, 2 },
                                  .attn_levels = 2, .res_blocks = 1, .groups = 8, .classes = 5, .dropout = 0.1 };
typedef struct { UNet *m; Schedule *schedule; Graph *g[2]; Arena *arena; DiffusionStep step[2]; } Step;

// micro: 1 graph of `batch`, or 2 of batch / 2, the second adding to the gradients of the first.
static Step step_new(Device *d, int batch, int micro) {
    Step s = { .m = unet_new(&small, d), .schedule = schedule_linear(d, 50, 1e-3, 0.2, BETA_DOUBLE),
               .arena = arena_new(d) };
    param_seal(unet_params(s.m), PARAM_TRAIN, 7);
    for (int i = 0; i < micro; i++) {
        s.g[i] = graph_new(d, "step", WEIGHTS_TRAIN);
        if (micro > 1) graph_accumulate(s.g[i]);
        if (micro > 1 && i == 0) param_append_zero_grad(unet_params(s.m), s.g[i]);
        DiffusionStepConfig c = { .batch = batch / micro, .labelled = true, .balance = true, .tau = 0.3, .gamma = 0.25,
                                  .share = 1.0 / micro, .dropout = true, .gradients = true };
        s.step[i] = diffusion_record_step(s.g[i], s.m, s.schedule, &c);
        graph_plan(s.g[i], s.arena);
    }
    arena_seal(s.arena);
    return s;
}

static void step_free(Step s) {
    for (int i = 0; i < 2; i++) graph_free(s.g[i]);
    arena_free(s.arena);
    schedule_free(s.schedule);
    unet_free(s.m);
}

static void test_null_device(void **state) {
    (void)state;
    Device *cpu = open_device("cpu"), *null = open_device("null");
    Step a = step_new(cpu, 4, 1), b = step_new(null, 4, 1);
    assert_true(arena_bytes(a.arena) > 0);
    assert_int_equal(arena_bytes(a.arena), arena_bytes(b.arena));
    assert_int_equal(device_allocated(cpu), device_allocated(null));
    assert_int_equal(graph_node_count(a.g[0]), graph_node_count(b.g[0]));
    for (int i = 0; i < graph_node_count(a.g[0]); i++) {
        assert_ptr_equal(graph_node(a.g[0], i)->impl, graph_node(b.g[0], i)->impl);
        assert_int_equal(graph_node(a.g[0], i)->scratch_offset, graph_node(b.g[0], i)->scratch_offset);
    }
    assert_true(graph_cost(a.g[0]).flops > 0 && graph_cost(a.g[0]).flops == graph_cost(b.g[0]).flops);
    step_free(a);
    step_free(b);
    device_close(cpu);
    device_close(null);
}

static const int32_t times[] = { 3, 17, 44, 8 }, labels[] = { 0, 4, 2, 2, 1, 3, 0, 4 };

// Writes images begin..begin+n-1 of a batch of 4 and runs; samples of the second half lie 2^31 further.
static void run_part(const Step *s, int i, int begin, int n) {
    const DiffusionStep *p = &s->step[i];
    int32_t y[8], sample[8];
    int64_t image = tensor_numel(p->x0) / n;
    float *x = xmalloc((size_t)(4 * image) * sizeof *x);
    for (int64_t j = 0; j < 4 * image; j++) x[j] = (float)(word(9, (uint32_t)j) >> 8) * 0x1p-23f - 1;
    for (int j = 0; j < n; j++) {
        y[j] = labels[begin + j];
        y[n + j] = labels[4 + begin + j];
        sample[j] = begin + j;
        sample[n + j] = INT32_MIN + begin + j;
    }
    tensor_write_f32(p->x0, x + begin * image);
    tensor_write(p->t, times + begin);
    tensor_write(p->y, y);
    tensor_write(p->sample, sample);
    graph_run(s->g[i]);
    free(x);
}

static void test_micro_batches(void **state) {
    (void)state;
    Device *d = open_device("ref64");
    Step whole = step_new(d, 4, 1), parts = step_new(d, 4, 2);
    run_part(&whole, 0, 0, 4);
    double *loss = values(whole.step[0].loss), sum = 0;
    for (int round = 0; round < 2; round++) {                   // the second round starts from gradients to be zeroed
        sum = 0;
        for (int i = 0; i < 2; i++) {
            run_part(&parts, i, 2 * i, 2);
            double *part = values(parts.step[i].loss);
            sum += part[0];
            free(part);
        }
    }
    assert_true(fabs(sum - loss[0]) <= 1e-11 * fabs(loss[0]));
    for (int i = 0; i < param_count(unet_params(whole.m)); i++) {
        const Param *p = param_get(unet_params(whole.m), i);
        if (strstr(param_name(p), "proj_k.bias")) continue;     // zero but for rounding: softmax does not see it
        assert_close(param_value(param_get(unet_params(parts.m), i))->grad, param_value((Param *)p)->grad);
    }
    free(loss);
    step_free(whole);
    step_free(parts);
    device_close(d);
}

// ---- gradients of views: parts that fill their base are written in place; holes are filled; overlaps are added
static void test_views(void **state) {
    (void)state;
    Device *d = open_device("null:ref");
    static const struct { int64_t from[3]; int fills, copies, adds; } cases[] = {
        { { 0, 16, 32 }, 0, 0, 0 },        // all of it
        { { 16, 0, 32 }, 0, 0, 0 },        // in any order
        { { 0, 16, 48 }, 1, 0, 0 },        // a hole
        { { 0, 16, 8 }, 2, 1, 1 },         // the third overlaps both, and the last half has no part
    };
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        Graph *g = graph_new(d, "views", WEIGHTS_TRAIN);
        int64_t c = k < 2 ? 48 : 64;
        Tensor *x = graph_input(g, "x", DT_F32, 4, (int64_t[]){ 2, 3, 3, c }), *part[3];
        x->flags |= TENSOR_NEEDS_GRAD;
        Tensor *base = op_silu(g, x);
        for (int i = 0; i < 3; i++) part[i] = op_view_channel(g, base, cases[k].from[i], cases[k].from[i] + 16);
        Tensor *o = op_attention(g, part[0], part[1], part[2], 1, 0.25f);
        graph_backward(g, op_mean(g, op_mul(g, o, o)));
        assert_non_null(base->grad);
        assert_int_equal(count_nodes(g, "fill") - 1, cases[k].fills);           // one is the loss's own gradient
        assert_int_equal(count_nodes(g, "copy"), cases[k].copies);
        assert_int_equal(count_nodes(g, "add") - 1, cases[k].adds);             // one is of o * o
        graph_free(g);
    }
    device_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_graphs), cmocka_unit_test(test_shared_arena),
        cmocka_unit_test(test_planted_overlap), cmocka_unit_test(test_fusion),
        cmocka_unit_test(test_no_fusion_of_shared), cmocka_unit_test(test_null_device),
        cmocka_unit_test(test_micro_batches), cmocka_unit_test(test_views),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
