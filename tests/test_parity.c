// tests/test_parity.c - what the published code computed is computed again, and judged by the rules of tests/parity.h;
// and in bf16, held to what bf16 costs the reference.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "tests/parity.h"
#include "tests/program.h"

#define CASE TESTS_DIR "/golden/tiny.safetensors"

// ---- the program against the case
static Results example, of_ref, yard;              // yard: ref32 in bf16

static Results read_results(const char *path) {
    Results all;
    Error err;
    if (!results_read(path, &all, &err)) fail_msg("%s", err.msg);
    return all;
}

static int setup(void **state) {
    if (tempdir_make(state) != 0) return -1;
    example = read_results(CASE);
    return 0;
}

static int teardown(void **state) {
    results_free(&example);
    results_free(&of_ref);
    results_free(&yard);
    return tempdir_remove(state);
}

static Results replayed(const char *device, const char *dtype) {
    program_expect(0, "replay %s --output %s-%s.safetensors --device %s --dtype %s", CASE, device, dtype, device,
                   dtype);
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.2000s/%.100s-%.10s.safetensors", tempdir, device, dtype);
    return read_results(path);
}

static void print_verdict(const Verdict *v, const char *device) {
    for (int i = 0; i < v->n; i++)
        printf("%-8s %-22s %.2e  (limit %.1e)  %s\n", device, v->group[i].name, v->group[i].worst, v->group[i].limit,
               v->group[i].where);
    if (failures(v))
        fail_msg("%s: %d groups fail or are incomplete; missing: %s", device, failures(v), v->first_missing);
}

static void expect_parity(const Results *out, const char *device, double scale) {
    Verdict v = judge(&example, out, scale);
    print_verdict(&v, device);
    static const char *const needed[] = { "step0.eps", "step0.eps_balanced", "step0.loss_ddpm", "step0.loss_reg",
                                          "step0.grad", "step0.grad_norm", "final.param", "final.ema", "sample.mean",
                                          "sample.x" };
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        int k = 0;
        while (k < v.n && strcmp(v.group[k].name, needed[i]) != 0) k++;
        if (k == v.n) fail_msg("nothing of the group %s was judged", needed[i]);
    }
}

static void reference_computes_what_was_published(void **state) {
    (void)state;
    of_ref = replayed("ref", "f32");
    expect_parity(&of_ref, "ref", 1);
}

static void cpu_computes_what_was_published(void **state) {
    (void)state;
    Results out = replayed("cpu", "f32");
    expect_parity(&out, "cpu", 4);                       // Winograd convolutions
    results_free(&out);
}

static void merged_attention_computes_what_was_published(void **state) {
    (void)state;
    program_expect(0, "replay %s --output merged.safetensors --device cpu --attention merged", CASE);
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.2000s/merged.safetensors", tempdir);
    Results out = read_results(path);
    expect_parity(&out, "merged", 4);
    results_free(&out);
}

// ---- on the emulated GPU, whose accesses tests/ops judges: here it only computes
#ifdef CBDM_EMU
static Results emulated(const char *device, const char *dtype) {
    assert_int_equal(setenv("CBDM_EMU", "check=0", 1), 0);
    Results out = replayed(device, dtype);
    unsetenv("CBDM_EMU");
    return out;
}

static void emulated_kernels_compute_what_was_published(void **state) {
    (void)state;
    static const char *const devices[] = { "emu", "emu:90" };
    for (int i = 0; i < 2; i++) {
        Results out = emulated(devices[i], "f32");
        expect_parity(&out, devices[i], 1);
        results_free(&out);
    }
}

static void emulated_kernels_in_bf16(void **state) {
    (void)state;
    static const char *const devices[] = { "emu", "emu:90" };
    for (int i = 0; i < 2; i++) {
        Results out = emulated(devices[i], "bf16");
        Verdict v = judge_bf16(&example, &of_ref, &yard, &out);
        print_verdict(&v, devices[i]);
        results_free(&out);
    }
}
#endif

// ---- in bf16

// ref adds in double where ref32 adds in floats: another fair draw of the roundings to bf16.
static void bf16_costs_what_it_must(void **state) {
    (void)state;
    yard = replayed("ref32", "bf16");
    Results out = replayed("ref", "bf16");
    Verdict v = judge_bf16(&example, &of_ref, &yard, &out);
    print_verdict(&v, "ref:bf16");
    assert_true(v.n > 10);
    Verdict floats = judge(&example, &yard, 1);              // a run that rounds nothing would pass as well
    assert_true(failures(&floats) > 10);
    results_free(&out);
}

// Results 64 times as far from the floats as the yardstick's, whichever kind they are of.
static void judge_sees_far_results_in_bf16(void **state) {
    (void)state;
    static const char *const kinds[] = { "step1.out.eps", "step2.out.loss_reg", "step0.out.grad.",
                                         "step3.out.grad_norm", "final.param.", "final.ema.", "sample.out.x" };
    Results far = replayed("ref32", "bf16");
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        for (int pass = 0; pass < 2; pass++) {               // there, and back
            for (int i = 0; i < of_ref.n; i++) {
                const Result *r = &of_ref.r[i];
                if (!starts(r->name, kinds[k])) continue;
                double *x = find(&far, r->name)->x;
                for (size_t j = 0; j < r->n; j++) x[j] = r->x[j] + (x[j] - r->x[j]) * (pass ? 1 / 64.0 : 64.0);
            }
            Verdict v = judge_bf16(&example, &of_ref, &yard, &far);
            if (pass == 0 && failures(&v) < 1) fail_msg("%s may be far off", kinds[k]);
        }
    }
    results_free(&far);
}

// ---- the judge itself

// One result wrong by a thousandth, whichever it is.
static void judge_sees_a_thousandth(void **state) {
    (void)state;
    int seen = 0;
    for (int i = 0; i < example.n; i++) {
        if (!judged(example.r[i].name) || norm_of(example.r[i].x, example.r[i].n) <= 0) continue;
        char base[300];
        snprintf(base, sizeof base, "%.*s", (int)strcspn(example.r[i].name, "#"), example.r[i].name);
        Result *r = find(&of_ref, example.r[i].name);
        if (!r) r = find(&of_ref, base);
        assert_non_null(r);
        Verdict only = { .n = 0 };
        double *right = r->x, *wrong = xmalloc(r->n * sizeof *wrong);
        for (size_t j = 0; j < r->n; j++) wrong[j] = 1.001 * right[j];
        r->x = wrong;
        judge_one(&example, &of_ref, &example.r[i], 1, &only);
        r->x = right;
        free(wrong);
        if (failures(&only) != 1) fail_msg("%s may be wrong by a thousandth: %g", r->name, only.group[0].worst);
        seen++;
    }
    assert_true(seen > 100);
}

static void judge_sees_what_is_missing(void **state) {
    (void)state;
    for (int i = 0; i < of_ref.n; i++) {
        char kept = of_ref.r[i].name[0];
        of_ref.r[i].name[0] = '!';
        Verdict v = judge(&example, &of_ref, 1);
        of_ref.r[i].name[0] = kept;
        if (!judged(of_ref.r[i].name)) continue;
        if (v.missing < 1 || failures(&v) < 1) fail_msg("without %s the judge is content", of_ref.r[i].name);
    }
    Result *r = find(&of_ref, "step0.out.eps");          // and what is there in another size, or is not a number
    assert_non_null(r);
    r->n--;
    Verdict v = judge(&example, &of_ref, 1);
    r->n++;
    assert_true(failures(&v) > 0);
    double kept = r->x[0];
    r->x[0] = (double)NAN;
    v = judge(&example, &of_ref, 1);
    r->x[0] = kept;
    assert_true(failures(&v) > 0);
    v = judge(&example, &of_ref, 1);
    assert_int_equal(failures(&v), 0);
}

// Weights, then averages, that no update has touched.
static void judge_sees_an_idle_optimiser(void **state) {
    (void)state;
    static const char *const parts[] = { "final.param.", "final.ema." };
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < of_ref.n; i++) {
            Result *r = &of_ref.r[i];
            if (!starts(r->name, parts[k])) continue;
            char name[300];
            snprintf(name, sizeof name, "param.%s", r->name + strlen(parts[k]));
            const Result *initial = find(&example, name);
            assert_true(initial && initial->n == r->n);
            memcpy(r->x, initial->x, r->n * sizeof *r->x);
        }
        Verdict v = judge(&example, &of_ref, 4);
        assert_int_equal(failures(&v), k + 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_computes_what_was_published),
        cmocka_unit_test(cpu_computes_what_was_published),
        cmocka_unit_test(merged_attention_computes_what_was_published),
        cmocka_unit_test(bf16_costs_what_it_must),
        cmocka_unit_test(judge_sees_far_results_in_bf16),
#ifdef CBDM_EMU
        cmocka_unit_test(emulated_kernels_compute_what_was_published),
        cmocka_unit_test(emulated_kernels_in_bf16),
#endif
        cmocka_unit_test(judge_sees_a_thousandth),
        cmocka_unit_test(judge_sees_what_is_missing),
        cmocka_unit_test(judge_sees_an_idle_optimiser),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
