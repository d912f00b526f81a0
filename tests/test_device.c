// tests/test_device.c - the device layer on the emulated CUDA runtime: what it refuses and how it says so, copies and
// queued reads in every order that is legal, captured runs, failures of calls and of kernels, and too little memory.
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "core/device_impl.h"
#include "core/graph_impl.h"
#include "core/ops.h"

// ---- helpers
// Runs f in a child whose stderr lands in text. Returns its exit code, or minus the signal that ended it.
static int in_child(void (*f)(void), char *text, size_t size) {
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
        signal(SIGABRT, SIG_DFL);                // cmocka catches it to fail the test
        dup2(ends[1], STDERR_FILENO);
        f();
        _exit(0);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t got; n < size - 1 && (got = read(ends[0], text + n, size - 1 - n)) > 0;) n += (size_t)got;
    text[n] = 0;
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

#define expect_part(text, part) do {                                                \
        if (!strstr(text, part)) fail_msg("no \"%s\" in: %s", part, text);          \
    } while (0)

static void expect_refused(const char *spec, const char *why, const char *mend) {
    Error err = { 0 };
    Device *d = device_open(spec, &err);
    assert_null(d);
    assert_int_equal(err.code, ERR_USAGE);
    expect_part(err.msg, spec);
    expect_part(err.msg, why);
    expect_part(err.msg, mend);
}

static Device *open_device(const char *spec) {
    Error err = { 0 };
    Device *d = device_open(spec, &err);
    if (!d) fail_msg("%s", err.msg);
    return d;
}

// ---- on every build
static void names(void **unused) {
    (void)unused;
    static const char *const wrong[] = { "gpu", "cuda:", "cuda:x", "cuda:1x", "cuda:1234", "cpu:1", "emu:", "null:",
                                         "null:gpu", "nullcpu", "ref128", "" };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) expect_refused(wrong[i], "is unknown", "use auto");
    static const char *const right[] = { "ref", "ref32", "ref64", "cpu", "null", "null:ref" };
    for (size_t i = 0; i < sizeof right / sizeof right[0]; i++) {
        Device *d = open_device(right[i]);
        assert_string_equal(device_name(d), strcmp(right[i], "null") ? right[i] : "null:cpu");
        assert_false(device_can_capture(d));
        device_close(d);
    }
}

static void architectures(void **unused) {
    (void)unused;
    static const struct { const char *list; int cc; bool fits; } rows[] = {
        { "80-real", 80, true },           { "80-real", 86, true },          { "80-real", 90, false },
        { "86-real", 80, false },          { "90a-real", 90, true },         { "90a-real", 100, false },
        { "80-real,90a-real", 89, true },  { "80-real,90a-real", 90, true }, { "80-real,90a-real", 120, false },
        { "80", 120, true },               { "80-virtual", 90, true },       { "90-virtual", 80, false },
        { "80-real,120-real", 120, true }, { "80-real,120-real", 121, true }, { "", 80, false },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (architectures_fit(rows[i].list, rows[i].cc) != rows[i].fits) fail_msg("%s on %d", rows[i].list, rows[i].cc);
}

static void open_auto(void) { device_close(open_device("auto")); }
static void auto_says_what_it_is(void **unused) {
    (void)unused;
    char text[4096];
    Error err = { 0 };
    assert_int_equal(in_child(open_auto, text, sizeof text), 0);
    Device *cuda = device_open("cuda", &err), *found = open_device("auto");
    expect_part(text, cuda ? "device auto is cuda; " : "device auto is cpu: ");
    assert_int_equal(device_kind(found), cuda ? DEV_CUDA : DEV_CPU);
    if (!cuda) {
        assert_int_equal(err.code, ERR_USAGE);
        expect_part(err.msg, "device cuda: ");
        expect_part(err.msg, "--device cpu");
    }
    device_close(cuda);
    device_close(found);
}

// Host or GPU: a queued read gives what memory held when it was queued.
static void queued_reads_of(const char *spec) {
    Device *d = open_device(spec);
    int64_t *p = device_alloc(d, sizeof *p), zero = -1;
    device_read(d, &zero, p, sizeof zero);
    assert_int_equal(zero, 0);
    for (int64_t i = 0; i < 200; i++) {
        device_write(d, p, &i, sizeof i);
        device_read_queue(d, p, sizeof i);
        if (i < 40) continue;                    // 41 are under way
        int64_t got;
        device_read_take(d, &got, sizeof got);
        assert_int_equal(got, i - 40);
    }
    for (int64_t i = 160; i < 200; i++) {
        int64_t got;
        device_read_take(d, &got, sizeof got);
        assert_int_equal(got, i);
    }
    assert_false(device_read_ready(d));
    device_mark(d, 0);
    device_mark(d, 2);
    assert_true(device_elapsed(d, 0, 2) >= 0);
    device_free(d, p);
    device_close(d);
}

static void queued_reads(void **unused) {
    (void)unused;
    queued_reads_of("cpu");
}

#ifdef CBDM_EMU
#include "kernels/emu/cuda_runtime.h"

static int reset(void **unused) {
    (void)unused;
    emu_cuda_reset();
    emu_options()->quiet = true;
    return 0;
}

// ---- what cannot be had
static void refusals(void **unused) {
    (void)unused;
    EmuMachine *m = emu_machine(), good = *m;
    m->driver = 0;
    expect_refused("emu", "this machine has no NVIDIA driver", "install one");
    m->driver = 12080;
    expect_refused("emu", "the NVIDIA driver is for CUDA 12.8 and older, this program is built with 13.0", "update");
    *m = good;
    m->gpus = 0;
    expect_refused("emu", "finds no GPU", "CUDA_VISIBLE_DEVICES");
    *m = good;
    m->cc = 75;
    expect_refused("emu", "compute capability 7.5, for which there are no kernels", "8.0 or later");
    m->cc = 120;
    expect_refused("emu", "compute capability 12.0; this program has kernels for 80-real,90a-real only",
                   "-DCBDM_CUDA_ARCHITECTURES=120");
    *m = good;
    expect_refused("emu:75", "no emulated GPU of compute capability 75", "emu:80");
    emu_cuda_fail("cudaGetDeviceCount", 1, cudaErrorUnknown);
    expect_refused("emu", "does not answer", "nvidia-smi");
    emu_cuda_reset();
    emu_options()->quiet = true;
    device_close(open_device("emu:90"));
}

// Every call that opening makes fails once: refused with the reason, or not needed; nothing is left behind.
static void every_call_of_opening_fails(void **unused) {
    (void)unused;
    int n = 1;
    for (bool failed = true; failed; n++) {
        Error err = { 0 };
        long before = emu_cuda_calls();
        emu_cuda_fail("any", n, cudaErrorMemoryAllocation);
        Device *d = device_open("emu", &err);
        failed = emu_cuda_calls() - before >= n;
        if (failed) {
            assert_null(d);
            expect_part(err.msg, "out of memory");
        }
        emu_cuda_fail("any", 0, cudaSuccess);
        device_close(d);
    }
    assert_in_range(n, 20, 500);
}

static void plans_need_no_gpu(void **unused) {
    (void)unused;
    emu_machine()->driver = 0;
    static const struct { const char *spec; int cc; } rows[] = { { "null:emu", 80 }, { "null:emu:90", 90 } };
    for (int i = 0; i < 2; i++) {
        Device *d = open_device(rows[i].spec);
        assert_true(device_is_null(d));
        assert_int_equal(device_kind(d), DEV_EMU);
        assert_int_equal(device_cc(d), rows[i].cc);
        assert_null(device_alloc(d, 1 << 20));
        assert_int_equal(device_allocated(d), 1 << 20);
        device_close(d);
    }
}

// ---- memory and copies
static void plan(void *arg, FILE *f) { fprintf(f, "plan: %s\n", (const char *)arg); }
static void ask_too_much(void) {
    emu_machine()->limit = 100 << 20;
    Device *d = open_device("emu");
    device_set_plan(d, plan, (void *)(uintptr_t)"activations");
    device_alloc(d, 60 << 20);
    device_alloc(d, 60 << 20);
}
static void too_little_memory(void **unused) {
    (void)unused;
    char text[4096];
    assert_int_equal(in_child(ask_too_much, text, sizeof text), ERR_MEMORY);
    expect_part(text, "no memory for 62.9 MB on device emu (41.9 MB of 104.9 MB are free)");
    expect_part(text, "already holds 62.9 MB");
    expect_part(text, "smaller --batch");
    expect_part(text, "plan: activations");
}

static void memory_is_counted(void **unused) {
    (void)unused;
    Device *d = open_device("emu");
    size_t before, left, total;
    device_memory(d, &before, &total);
    void *p = device_alloc(d, 1000000);
    device_memory(d, &left, &total);
    assert_int_equal(before - left, 1000000);
    assert_int_equal(device_allocated(d), 1000000);
    assert_int_equal((uintptr_t)p % 256, 0);
    device_free(d, p);
    device_memory(d, &left, &total);
    assert_int_equal(before, left);
    device_close(d);
}

// The host may change its memory when device_write returns, and more is under way than there is staging memory.
static void copies_in_every_order(void **unused) {
    (void)unused;
    enum { N = 11000000 };                       // 44 MB
    uint32_t *host = malloc(N * sizeof *host), *back = malloc(N * sizeof *back);
    for (uint64_t seed = 0; seed < 4; seed++) {
        emu_machine()->seed = seed;
        Device *d = open_device("emu");
        char *p = device_alloc(d, N * sizeof *host);
        for (uint32_t i = 0; i < N; i++) host[i] = i * 2654435761u;
        device_write(d, p, host, N * sizeof *host);
        memset(host, 0, N * sizeof *host);
        device_write(d, p + 4, host, 8);         // later, into the middle of it
        device_read(d, back, p, N * sizeof *host);
        for (uint32_t i = 0; i < N; i++)
            if (back[i] != (i == 1 || i == 2 ? 0 : i * 2654435761u)) fail_msg("seed %d, element %u", (int)seed, i);
        device_free(d, p);
        device_close(d);
    }
    free(host);
    free(back);
}

static void queued_reads_in_every_order(void **unused) {
    (void)unused;
    for (uint64_t seed = 0; seed < 20; seed++) {
        emu_machine()->seed = seed;
        queued_reads_of("emu");
    }
}

// ---- host programs, one right and one without the wait between two streams: the emulated runtime must tell them apart
static int copy_across_streams(bool wait) {
    cudaStream_t first, second;
    cudaEvent_t copied;
    void *device, *from, *to;
    assert_int_equal(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking), 0);
    assert_int_equal(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking), 0);
    assert_int_equal(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming), 0);
    assert_int_equal(cudaMalloc(&device, 4) || cudaHostAlloc(&from, 4, 0) || cudaHostAlloc(&to, 4, 0), 0);
    assert_int_equal(cudaMemsetAsync(device, 0, 4, first) || cudaStreamSynchronize(first), 0);
    *(int *)from = 7;
    cudaMemcpyAsync(device, from, 4, cudaMemcpyHostToDevice, first);
    cudaEventRecord(copied, first);
    if (wait) cudaStreamWaitEvent(second, copied, 0);
    cudaMemcpyAsync(to, device, 4, cudaMemcpyDeviceToHost, second);
    cudaStreamSynchronize(second);
    int got = *(int *)to;
    cudaFree(device);
    cudaFreeHost(from);
    cudaFreeHost(to);
    cudaEventDestroy(copied);
    cudaStreamDestroy(first);
    cudaStreamDestroy(second);
    return got;
}

static void missing_wait_is_seen(void **unused) {
    (void)unused;
    int stale = 0;
    for (uint64_t seed = 0; seed < 50; seed++) {
        emu_machine()->seed = seed;
        assert_int_equal(copy_across_streams(true), 7);
        stale += copy_across_streams(false) == 0;
    }
    emu_machine()->seed = 0;
    assert_int_equal(copy_across_streams(false), 0);             // as late as possible: certainly
    assert_in_range(stale, 5, 45);                               // by chance: both ways
}

// A pinned piece of memory that is used again before its copy has run: what staging's events are for.
static void reused_staging_is_seen(void **unused) {
    (void)unused;
    for (int wait = 0; wait < 2; wait++) {
        cudaStream_t s;
        void *device, *pinned, *back;
        assert_int_equal(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), 0);
        assert_int_equal(cudaMalloc(&device, 8) || cudaHostAlloc(&pinned, 4, 0) || cudaHostAlloc(&back, 8, 0), 0);
        for (int i = 0; i < 2; i++) {
            *(int *)pinned = i + 1;
            cudaMemcpyAsync((int *)device + i, pinned, 4, cudaMemcpyHostToDevice, s);
            if (wait) cudaStreamSynchronize(s);
        }
        cudaMemcpyAsync(back, device, 8, cudaMemcpyDeviceToHost, s);
        cudaStreamSynchronize(s);
        assert_int_equal(*(int *)back, wait ? 1 : 2);
        int pageable = 0;
        assert_int_equal(cudaMemcpyAsync(&pageable, device, 4, cudaMemcpyDeviceToHost, s), cudaErrorInvalidValue);
        cudaFree(device);
        cudaFreeHost(pinned);
        cudaFreeHost(back);
        cudaStreamDestroy(s);
    }
}

static void captures_refuse_to_wait(void **unused) {
    (void)unused;
    cudaStream_t s;
    cudaGraph_t g;
    void *p;
    assert_int_equal(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), 0);
    assert_int_equal(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), 0);
    assert_int_equal(cudaMalloc(&p, 4), cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaStreamEndCapture(s, &g), cudaErrorStreamCaptureInvalidated);
    assert_int_equal(cudaStreamDestroy(s), 0);
}

// ---- graphs: noise drawn from the step's number, some arithmetic, and a step counter that the graph advances itself
enum { ROWS = 3, SIDE = 4, CHANNELS = 16, VALUES = ROWS * SIDE * SIDE * CHANNELS };
typedef struct { Device *d; Graph *g; Arena *arena; Tensor *state, *sample, *x, *y; } Little;

static Little little_new(void) {
    Little l = { .d = open_device("emu") };
    int64_t shape[] = { ROWS, SIDE, SIDE, CHANNELS };
    l.state = tensor_new(l.d, "state", DT_U8, 1, (int64_t[]){ sizeof(StepState) });
    l.g = graph_new(l.d, "little", WEIGHTS_TRAIN);
    l.arena = arena_new(l.d);
    l.x = graph_input(l.g, "x", DT_F32, 4, shape);
    l.sample = graph_input(l.g, "sample", DT_I32, 1, shape);
    Tensor *noise = op_randn(l.g, shape, op_purpose("noise"), l.sample, l.state);
    l.y = graph_output(l.g, op_mul(l.g, op_silu(l.g, op_add(l.g, l.x, noise)), noise));
    op_step_advance(l.g, l.state);
    graph_plan(l.g, l.arena);
    arena_seal(l.arena);
    StepState s = { .seed = { 1, 2 } };
    tensor_write(l.state, &s);
    return l;
}

static void little_free(Little *l) {
    graph_free(l->g);
    arena_free(l->arena);
    tensor_free(l->state);
    device_close(l->d);
}

static void little_run(Little *l, int step) {
    float x[VALUES];
    for (int i = 0; i < VALUES; i++) x[i] = (float)(i * 7 % 31 + step);
    tensor_write_f32(l->x, x);
    tensor_write(l->sample, (int32_t[]){ 5, 6, 7 });
    graph_run(l->g);
}

static void little_runs(float out[4][VALUES], bool capture, uint64_t seed) {
    emu_machine()->seed = seed;
    setenv("CBDM_NO_CAPTURE", capture ? "0" : "1", 1);
    Little l = little_new();
    for (int i = 0; i < 4; i++) {
        little_run(&l, i);
        if (i % 2 == (int)(seed % 2)) continue;                 // sometimes two runs without a wait between them
        tensor_read_f32(l.y, out[i]);
    }
    StepState s;
    tensor_read(l.state, &s);
    assert_int_equal(s.step, 4);
    assert_int_equal(l.g->captured != NULL, capture);
    little_free(&l);
    unsetenv("CBDM_NO_CAPTURE");
}

static void captured_runs_are_the_same(void **unused) {
    (void)unused;
    static float plain[4][VALUES], captured[4][VALUES];
    for (uint64_t seed = 0; seed < 20; seed++) {
        memset(plain, 0, sizeof plain);
        memset(captured, 0, sizeof captured);
        little_runs(plain, false, seed);
        little_runs(captured, true, seed);
        assert_memory_equal(plain, captured, sizeof plain);
        assert_memory_not_equal(plain[2 + (seed + 1) % 2], plain[(seed + 1) % 2], sizeof plain[0]);
    }
}

static const char *failing;
static int fail_at, runs_before;
static cudaError_t fail_with;
static void run_and_fail(void) {
    Little l = little_new();
    for (int i = 0; i < runs_before; i++) little_run(&l, i);
    device_sync(l.d);
    emu_cuda_fail(failing, fail_at, fail_with);
    little_run(&l, 9);
    device_sync(l.d);
}

// Runs before the failing one: 0, it is node by node; 1, it is captured; 2, it is a replay, which launches nothing.
static void failures_name_the_node(void **unused) {
    (void)unused;
    static const char *const node[] = { "node 0 (randn, ", "node 1 (add, ", "node 2 (silu, ", "node 3 (mul, " };
    char text[8192];
    for (runs_before = 0; runs_before < 3; runs_before++)
        for (fail_at = 1; fail_at <= 4; fail_at++)
            for (int late = 0; late < 2; late++) {
                if (!late && runs_before == 2) continue;         // a replay launches no kernel one by one
                failing = late ? "execution" : "launch";
                fail_with = late ? cudaErrorLaunchFailure : cudaErrorInvalidValue;
                assert_int_equal(in_child(run_and_fail, text, sizeof text), -SIGABRT);
                expect_part(text, node[fail_at - 1]);
                expect_part(text, "graph little");
                expect_part(text, late ? "an injected failure" : "invalid argument");
            }
}

static void a_lost_gpu_is_told(void **unused) {
    (void)unused;
    char text[8192];
    failing = "execution";
    fail_with = cudaErrorECCUncorrectable;
    fail_at = 2;
    for (runs_before = 0; runs_before < 3; runs_before++) {
        assert_int_equal(in_child(run_and_fail, text, sizeof text), ERR_IO);
        expect_part(text, "is lost: ");
        expect_part(text, "--resume");
    }
}

// A node that touches what is not its own: the tensor is moved after its address was bound. Seen by the emulator's
// checker, which builds for the compiler's own sanitizers have not.
#ifdef EMU_CHECKED
static void touch_a_neighbour(void) {
    Little l = little_new();
    for (int i = 0; i < runs_before; i++) little_run(&l, i);
    Tensor *noise = (Tensor *)(uintptr_t)l.g->nodes[3]->in[1];
    noise->data = (char *)noise->data + 64;
    little_run(&l, 9);
    device_sync(l.d);
}
static void windows_are_the_nodes_own(void **unused) {
    (void)unused;
    char text[8192];
    for (runs_before = 0; runs_before < 2; runs_before++) {
        assert_int_equal(in_child(touch_a_neighbour, text, sizeof text), -SIGABRT);
        expect_part(text, "graph little, node 0 (randn, ");
        expect_part(text, "random.cu:");
    }
}
#endif

static void profile_runs(void **unused) {
    (void)unused;
    Little l = little_new();
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    little_run(&l, 0);
    graph_profile(l.g, 2, f);
    fclose(f);
    expect_part(text, "graph little: ");
    expect_part(text, "randn");
    free(text);
    little_free(&l);
}
#define EMU_TEST(f) cmocka_unit_test_setup(f, reset)
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(auto_says_what_it_is),          // first: it forks, which OpenMP's threads do not survive
        cmocka_unit_test(names),
        cmocka_unit_test(architectures),
        cmocka_unit_test(queued_reads),
#ifdef CBDM_EMU
        EMU_TEST(refusals),
        EMU_TEST(every_call_of_opening_fails),
        EMU_TEST(plans_need_no_gpu),
        EMU_TEST(too_little_memory),
        EMU_TEST(memory_is_counted),
        EMU_TEST(copies_in_every_order),
        EMU_TEST(queued_reads_in_every_order),
        EMU_TEST(missing_wait_is_seen),
        EMU_TEST(reused_staging_is_seen),
        EMU_TEST(captures_refuse_to_wait),
        EMU_TEST(captured_runs_are_the_same),
        EMU_TEST(failures_name_the_node),
        EMU_TEST(a_lost_gpu_is_told),
#ifdef EMU_CHECKED
        EMU_TEST(windows_are_the_nodes_own),
#endif
        EMU_TEST(profile_runs),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
