// tests/test_classifier_step.c - three training steps of a small residual network, and its logits by the running
// statistics afterwards, against PyTorch in double: the classifiers' operations and SGD together.
//
// The expected numbers are those of torch 1.13 and 2.15, which agree to 15 digits, for the network and the values that
// fill() makes, which floats hold exactly:
//   h = relu(batch_norm(conv2d(x, w1), g1, b1));  u = relu(batch_norm(conv2d(h, w2), g2, b2) + h)
//   logits = linear(mean over pixels of max_pool2d(u, 3, stride 2, padding 1), w3, b3)
//   loss = cross_entropy(logits + offset, label), torch.optim.SGD(lr 1/8, momentum 7/8, weight_decay 1/64)
// batch_norm with momentum 1/8, eps 2^-16; convolutions of 3x3 padded by 1, without bias.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "core/ops.h"

enum { STEPS = 3, N = 4, SIDE = 5, C = 3, K = 6, CLASSES = 3, PARAMS = 8 };

static const double expected_loss[STEPS] = { 3.88401868068186, 1.21083451641976, 1.59801643100187 };
static const double expected_w3[] = {
    0.0584485974199792, -0.576685944736159, -0.192294588492445, 0.10534760175621, -0.748343448002094,
    -0.0819093308590764, -0.441487080993156, 0.0213618526053748, 0.666160973184101, -0.205521728716054,
    0.313272903587161, 0.839538452450067, -0.0497563821132693, 0.277098821332354, -0.59752206060207,
    0.131088045937448, 0.620554058280554, -0.417576012837355,
};
static const double expected_b3[] = {
    0.502129658696392, -0.109624886014943, 0.473084958691444,
};
static const double expected_g2[] = {
    0.822112518814401, 0.603453075608947, 0.813025918217921, 0.842974825414473, 0.736918402382313, 0.902444220217102,
};
static const double expected_b2[] = {
    0.127873590138784, -0.471330920473331, -0.0937490179106425, 0.281872974944725, -0.304913662852617,
    0.0606558256655627,
};
static const double expected_g1[] = {
    0.705642357811936, 1.34140883664216, 0.603093923301314, 0.792392578666784, 1.28658701135449, 0.593447077709947,
};
static const double expected_b1[] = {
    -0.212807274833558, 0.538196666867555, -0.508523659991586, -0.0729716744893528, 0.758225224617677,
    -0.433676178723515,
};
// the first filter's first 12 elements, (R,S,C)
static const double expected_w1[] = {
    -0.20755589466314, 0.0332001863346347, 0.269556975297814, -0.155101015072756, 0.133473359664009,
    -0.103803793578078, -0.0762336075671621, 0.189517209248124, -0.259368548165859, 0.0977825036543981,
    0.214590817279855, -0.085840806157632,
};
static const double expected_mean1[] = {
    2.89935545617681e-05, 0.00164304562515471, -0.00148683237119085, 0.000534207024295966, 0.00302601334042193,
    -0.00102146185277629,
};
static const double expected_var1[] = {
    0.724853754097771, 0.718197249992399, 0.701936811303063, 0.718583452003013, 0.772018409897073, 0.702915018246171,
};
static const double expected_mean2[] = {
    -0.183521062833833, 0.0873616885711298, -0.000188998213837331, 0.00271403446683317, -0.0168582179626833,
    -0.120301770862796,
};
static const double expected_var2[] = {
    1.16431148430475, 0.795190779136907, 1.01848331044074, 0.975520539887157, 1.02140071475114, 0.835040879261759,
};
static const double expected_logits[] = {
    -2.27365432530539, 1.09704976737888, 1.93225830298627, -2.50888707658397, 1.06923639286896, 2.32019519107941,
    -2.45914524363079, 1.32517838141045, 1.88838945060761, -2.58966859080182, 1.04547061985404, 2.38059023640803,
};

// center + scale ((37 i + 11 salt) mod 101 - 50) / 64
static float *fill(int64_t n, int salt, float scale, float center) {
    float *v = xmalloc((size_t)n * sizeof *v);
    for (int64_t i = 0; i < n; i++) v[i] = center + scale * (float)((i * 37 + salt * 11) % 101 - 50) / 64;
    return v;
}
static void fill_tensor(Tensor *t, int salt, float scale, float center) {
    float *v = fill(tensor_numel(t), salt, scale, center);
    tensor_write_f32(t, v);
    free(v);
}

typedef struct { Device *d; ParamSet *ps; Param *p[PARAMS]; Tensor *stat[4], *lr; } Net;
enum { W1, G1, B1, W2, G2, B2, W3, B3 };
static const struct { const char *name; int ndim; int64_t shape[4]; float scale, center; } params[PARAMS] = {
    { "w1", 4, { K, 3, 3, C }, 0.25f, 0 }, { "g1", 1, { K }, 0.5f, 1 }, { "b1", 1, { K }, 1, 0 },
    { "w2", 4, { K, 3, 3, K }, 0.25f, 0 }, { "g2", 1, { K }, 0.5f, 1 }, { "b2", 1, { K }, 1, 0 },
    { "w3", 2, { CLASSES, K }, 1, 0 }, { "b3", 1, { CLASSES }, 1, 0 },
};

static Net net_new(const char *device) {
    Error err = { 0 };
    Net net = { .d = device_open(device, &err) };
    assert_non_null(net.d);
    net.ps = param_set_new(net.d);
    for (int i = 0; i < PARAMS; i++)
        net.p[i] = param_add(net.ps, params[i].name, params[i].ndim, params[i].shape, INIT_ZERO, 0);
    param_seal(net.ps, PARAM_TRAIN, 1);
    for (int i = 0; i < PARAMS; i++) fill_tensor(param_value(net.p[i]), i + 2, params[i].scale, params[i].center);
    for (int i = 0; i < 4; i++) {
        net.stat[i] = tensor_new(net.d, "running", DT_F32, 1, (int64_t[]){ K });
        fill_tensor(net.stat[i], 0, 0, i % 2 ? 1 : 0);
    }
    net.lr = tensor_new(net.d, "lr", DT_F32, 1, (int64_t[]){ 1 });
    tensor_write_f32(net.lr, (float[]){ 0.125f });
    return net;
}

static void net_free(Net *net) {
    param_set_free(net->ps);
    for (int i = 0; i < 4; i++) tensor_free(net->stat[i]);
    tensor_free(net->lr);
    device_close(net->d);
}

static Tensor *value(Net *net, Graph *g, int i) { return param_tensor(net->p[i], g); }

static Tensor *record_logits(Net *net, Graph *g, Tensor *x, bool training) {
    BatchNorm first = { value(net, g, G1), value(net, g, B1), net->stat[0], net->stat[1], 0.125, 0x1p-16 };
    BatchNorm second = { value(net, g, G2), value(net, g, B2), net->stat[2], net->stat[3], 0.125, 0x1p-16 };
    Tensor *h = op_conv2d(g, x, value(net, g, W1), NULL, 1, 1);
    h = op_batchnorm(g, h, &first, NULL, ACT_RELU, training);
    Tensor *u = op_conv2d(g, h, value(net, g, W2), NULL, 1, 1);
    u = op_batchnorm(g, u, &second, h, ACT_RELU, training);
    u = op_pool_all(g, op_pool(g, u, POOL_MAX, 3, 2, 1));
    return op_linear(g, u, value(net, g, W3), value(net, g, B3));
}

typedef struct { Graph *g; Arena *a; Tensor *x, *label, *offset, *out; } Step;   // out: the loss, or the logits

static Step step_new(Net *net, bool training) {
    Step s = { .g = graph_new(net->d, training ? "train" : "evaluate", WEIGHTS_TRAIN), .a = arena_new(net->d) };
    s.x = graph_input(s.g, "x", DT_F32, 4, (int64_t[]){ N, SIDE, SIDE, C });
    s.out = record_logits(net, s.g, s.x, training);
    if (training) {
        s.label = graph_input(s.g, "label", DT_I32, 1, (int64_t[]){ N });
        s.offset = graph_input(s.g, "offset", DT_F32, 1, (int64_t[]){ CLASSES });
        s.out = op_cross_entropy(s.g, s.out, s.label, s.offset);
        graph_rewrite_forward(s.g);
        graph_backward(s.g, s.out);
        graph_rewrite_backward(s.g);
        param_append_sgd(net->ps, s.g, net->lr, &(SgdConfig){ .momentum = 0.875, .weight_decay = 0x1p-6 });
    }
    graph_output(s.g, s.out);
    graph_plan(s.g, s.a);
    arena_seal(s.a);
    return s;
}

static void step_run(Step *s) {
    fill_tensor(s->x, 1, 1, 0);
    if (s->label) {
        tensor_write(s->label, (int32_t[]){ 2, 0, 1, 2 });
        tensor_write_f32(s->offset, (float[]){ 0.125f, -0.25f, 0.5f });
    }
    graph_run(s->g);
}

static void step_free(Step *s) {
    graph_free(s->g);
    arena_free(s->a);
}

static void expect(const char *device, const char *name, const Tensor *t, const double *want, int n, double bound) {
    double *got = xmalloc((size_t)tensor_numel(t) * sizeof *got);
    tensor_read_f64(t, got);
    for (int i = 0; i < n; i++)
        if (!(fabs(got[i] - want[i]) <= bound))
            fail_msg("%s: %s[%d] = %.15g, PyTorch has %.15g", device, name, i, got[i], want[i]);
    free(got);
}
#define EXPECT(t, want) expect(device, #want, t, want, (int)(sizeof want / sizeof *want), bound)

// Values are of order 1, and a sum has at most 100 terms: in double some hundreds of roundings of 1e-16 a step, which
// three steps may multiply; floats round 2^29 times more coarsely.
static void check(const char *device, double bound) {
    Net net = net_new(device);
    Step train = step_new(&net, true), evaluate = step_new(&net, false);
    for (int i = 0; i < STEPS; i++) {
        step_run(&train);
        expect(device, "loss", train.out, &expected_loss[i], 1, bound);
    }
    EXPECT(param_value(net.p[W1]), expected_w1);
    EXPECT(param_value(net.p[G1]), expected_g1);
    EXPECT(param_value(net.p[B1]), expected_b1);
    EXPECT(param_value(net.p[G2]), expected_g2);
    EXPECT(param_value(net.p[B2]), expected_b2);
    EXPECT(param_value(net.p[W3]), expected_w3);
    EXPECT(param_value(net.p[B3]), expected_b3);
    for (int again = 0; again < 2; again++) {              // evaluation leaves the running statistics as they are
        EXPECT(net.stat[0], expected_mean1);
        EXPECT(net.stat[1], expected_var1);
        EXPECT(net.stat[2], expected_mean2);
        EXPECT(net.stat[3], expected_var2);
        step_run(&evaluate);
        EXPECT(evaluate.out, expected_logits);
    }
    StepState state = param_state_read(net.ps);
    assert_int_equal(state.updates, STEPS);
    assert_int_equal(state.skipped, 0);
    step_free(&train);
    step_free(&evaluate);
    net_free(&net);
}

static void in_double(void **state) { (void)state; check("ref64", 1e-12); }
static void in_floats(void **state) { (void)state; check("ref32", 1e-12 * 0x1p29); }
static void on_cpu(void **state) { (void)state; check("cpu", 1e-12 * 0x1p29); }
#ifdef CBDM_EMU
static void on_emu(void **state) { (void)state; check("emu", 1e-12 * 0x1p29); }
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_double),
        cmocka_unit_test(in_floats),
        cmocka_unit_test(on_cpu),
#ifdef CBDM_EMU
        cmocka_unit_test(on_emu),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
