// tests/test_sample_verb.c - the program's verbs sample, info and export on a checkpoint of a small random network.
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>
#include <cjson/cJSON.h>
#include "kernels/common/rng.h"
#include "models/model.h"
#include "sample/sampler.h"
#include "tests/tempdir.h"

enum { SIZE = 4, E = SIZE * SIZE * 3, CLASSES = 3, CH = 16, T = 5, TEXT = 1 << 16 };
static char run_dir[PATH_MAX], uncond_file[PATH_MAX], wide_file[PATH_MAX];

// ---- a run to sample from
static void scramble(Tensor *t, uint32_t key) {
    int64_t n = tensor_numel(t);
    double scale = t->ndim == 1 ? 0.3 : 1.0 / sqrt((double)(n / t->shape[0]));
    float *w = malloc((size_t)n * sizeof *w), four[4];
    for (int64_t j = 0; j < n; j++) {
        if (j % 4 == 0) rng_normal4(philox((uint32_t[2]){ key, 5 }, (uint32_t)(j / 4), 0, 0, 99).v, four);
        w[j] = (float)scale * four[j % 4] + (t->ndim == 1 ? 0.5f : 0.0f);
    }
    tensor_write_f32(t, w);
    free(w);
}

static void save_network(const char *path, int classes, int image_channels, int64_t step) {
    Error err = { 0 };
    ModelConfig c;
    UNetConfig u;
    cli_defaults(model_flags, n_model_flags, &c);
    c.image_size = SIZE, c.in_channels = image_channels, c.ch = CH, c.ch_mult = "1,2", c.attn = "1", c.res_blocks = 1;
    c.groups = 4, c.classes = classes, c.T = T, c.beta_1 = 0.02, c.beta_T = 0.3;
    assert_true(model_unet_config(&c, &u, &err));
    Device *d = device_open("ref", &err);
    UNet *net = unet_new(&u, d);
    ParamSet *ps = unet_params(net);
    param_seal(ps, PARAM_TRAIN, 3);
    for (int i = 0; i < param_count(ps); i++) {
        scramble(param_value(param_get(ps, i)), (uint32_t)(2 * i));
        scramble(param_ema(param_get(ps, i)), (uint32_t)(2 * i + 1));
    }
    char *model = cli_json(model_flags, n_model_flags, &c), *steps = xasprintf("%lld", (long long)step);
    const char *keys[] = {
        "format", "model", "config", "step", "ema_decay", "ema_ramp", "class_names", "class_counts"
    };
    const char *values[] = { "cbdm-checkpoint-1", model, "{\"lr\": 0.0002}", steps, "0.99", "false",
                             classes ? "[\"cat\",\"dog\",\"o\\\"wl\"]" : "[]", classes ? "[100,30,4]" : "[]" };
    if (!ckpt_save(ps, path, keys, values, 8, &err)) fail_msg("%s", err.msg);
    free(model);
    free(steps);
    unet_free(net);
    device_close(d);
}

static int make_run(void **state) {
    if (tempdir_make(state) != 0) return -1;
    Error err = { 0 };
    snprintf(run_dir, sizeof run_dir, "%s", temp_path("run"));
    snprintf(uncond_file, sizeof uncond_file, "%s", temp_path("uncond.safetensors"));
    snprintf(wide_file, sizeof wide_file, "%s", temp_path("wide.safetensors"));
    if (!dir_make(temp_path("run/checkpoints"), &err)) return -1;
    for (int64_t step = 50; step <= 500; step += 450) {
        char *path = checkpoint_path(run_dir, step);
        save_network(path, CLASSES, 3, step);
        free(path);
    }
    save_network(uncond_file, 0, 3, 500);
    save_network(wide_file, CLASSES, 2, 500);
    return 0;
}

// ---- running the program
static char output[TEXT];                // stdout and stderr of the last run

static pid_t start(const char *args) {
    char *log = xasprintf("%s/log", tempdir), *line = xasprintf("exec '%s' %s >'%s' 2>&1", CBDM_PROGRAM, args, log);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setenv("OMP_NUM_THREADS", "1", 1);       // waiting threads are slow on a busy machine
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
        _exit(127);
    }
    free(log);
    free(line);
    return pid;
}

static int finish(pid_t pid) {
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    FILE *f = fopen(temp_path("log"), "r");
    assert_non_null(f);
    output[fread(output, 1, TEXT - 1, f)] = 0;
    fclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// Runs `cbdm` with formatted arguments and returns its exit code.
__attribute__((format(printf, 1, 2)))
static int cbdm(const char *fmt, ...) {
    char args[4 * PATH_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(args, sizeof args, fmt, ap);
    va_end(ap);
    return finish(start(args));
}

#define CBDM_OK(...) do { int rc_ = cbdm(__VA_ARGS__); if (rc_) fail_msg("exit %d: %s", rc_, output); } while (0)
// It fails with this code and says this.
#define CBDM_FAILS(code, text, ...) do {                                                                        \
        int rc_ = cbdm(__VA_ARGS__);                                                                              \
        if (rc_ != (code) || !strstr(output, text)) fail_msg("exit %d without \"%s\": %s", rc_, text, output);    \
    } while (0)

static uint8_t *slurp(const char *dir, const char *name, size_t *n) {
    char *path = xasprintf("%s/%s", dir, name);
    uint8_t *bytes;
    Error err = { 0 };
    if (!file_read(path, 1 << 26, &bytes, n, &err)) fail_msg("%s", err.msg);
    free(path);
    return bytes;
}

static bool has(const char *dir, const char *name) {
    char *path = xasprintf("%s/%s", dir, name);
    bool is = file_exists(path);
    free(path);
    return is;
}

static void assert_same_file(const char *dir_a, const char *dir_b, const char *name) {
    size_t n, m;
    uint8_t *a = slurp(dir_a, name, &n), *b = slurp(dir_b, name, &m);
    if (n != m || memcmp(a, b, n) != 0) fail_msg("%s differs in %s and %s", name, dir_a, dir_b);
    free(a);
    free(b);
}

// One array of an archive in a folder; caller frees *member.
static NpyArray npz(const char *dir, const char *name, uint8_t **member) {
    char *path = xasprintf("%s/samples.npz", dir);
    NpyArray a;
    Error err = { 0 };
    if (!npz_read(path, name, member, &a, &err)) fail_msg("%s", err.msg);
    free(path);
    return a;
}

// ---- sample
static void check_image(const char *dir, const char *file, const uint8_t *want) {
    char *path = xasprintf("%s/%s", dir, file);
    uint8_t *pixels;
    int w, h;
    Error err = { 0 };
    if (!png_read(path, 3, &pixels, &w, &h, &err)) fail_msg("%s", err.msg);
    assert_int_equal(w, SIZE);
    assert_int_equal(h, SIZE);
    assert_memory_equal(pixels, want, E);
    free(pixels);
    free(path);
}

// Numbers 5-11 in a run of 3 classes: label = number mod 3. PNGs, archive, float array and manifest tell the same.
static void every_file_agrees(void **unused) {
    (void)unused;
    const char *out = temp_path("all");
    CBDM_OK("sample --checkpoint %s --device ref --seeds 5-11 --batch 3 --float --name x --out %s", run_dir, out);
    assert_null(strstr(output, "warning"));
    uint8_t *images, *labels, *floats, *float_labels, *u8 = malloc(7 * E);
    NpyArray a = npz(out, "arr_0", &images), b = npz(out, "arr_1", &labels), f, fl;
    Error err = { 0 };
    assert_string_equal(a.descr, "|u1");
    assert_int_equal(a.ndim, 4);
    assert_memory_equal(a.shape, ((int64_t[]){ 7, SIZE, SIZE, 3 }), 4 * sizeof(int64_t));
    assert_string_equal(b.descr, "<i8");
    char *path = xasprintf("%s/cond_0.0_samples_ema_x.npy", out),
         *label_path = xasprintf("%s/cond_0.0_labels_ema_x.npy", out);
    assert_true(npy_read(path, &floats, &f, &err) && npy_read(label_path, &float_labels, &fl, &err));
    assert_memory_equal(f.shape, ((int64_t[]){ 7, 3, SIZE, SIZE }), 4 * sizeof(int64_t));
    assert_memory_equal(fl.data, b.data, 7 * sizeof(int64_t));
    size_t n;
    char *manifest = (char *)slurp(out, "manifest.jsonl", &n), *at = manifest;
    for (int i = 0; i < 7; i++) {
        int64_t label;
        memcpy(&label, (const char *)b.data + 8 * i, 8);
        assert_int_equal(label, (5 + i) % 3);
        char file[64];
        snprintf(file, sizeof file, "%03d/%06d.png", (int)label, 5 + i);
        check_image(out, file, (const uint8_t *)a.data + i * E);
        for (int p = 0; p < E / 3; p++)
            for (int c = 0; c < 3; c++) {
                float v;
                memcpy(&v, (const float *)f.data + (i * 3 + c) * (E / 3) + p, sizeof v);
                assert_int_equal((int)(v * 255 + 0.5f), ((const uint8_t *)a.data)[i * E + p * 3 + c]);
            }
        char *end = strchr(at, '\n');
        cJSON *line = cJSON_ParseWithLength(at, (size_t)(end - at));
        assert_non_null(line);
        assert_int_equal(cJSON_GetObjectItem(line, "index")->valueint, i);
        assert_int_equal(cJSON_GetObjectItem(line, "number")->valueint, 5 + i);
        assert_int_equal(cJSON_GetObjectItem(line, "label")->valueint, (int)label);
        assert_string_equal(cJSON_GetObjectItem(line, "file")->valuestring, file);
        assert_string_equal(cJSON_GetObjectItem(line, "class")->valuestring,
                            ((const char *[]){ "cat", "dog", "o\"wl" })[label]);
        assert_int_equal(strlen(cJSON_GetObjectItem(line, "checkpoint")->valuestring), 64);
        cJSON_Delete(line);
        at = end + 1;
    }
    assert_int_equal(*at, 0);
    // the grid: 3 rows (classes) of 3 columns at most, 2 pixels between and around
    uint8_t *pixels;
    int w, h;
    char *grid = xasprintf("%s/grid.png", out);
    assert_true(png_read(grid, 3, &pixels, &w, &h, &err));
    assert_int_equal(w, 3 * (SIZE + 2) + 2);
    assert_int_equal(h, 3 * (SIZE + 2) + 2);
    for (int y = 0; y < SIZE; y++)                          // class 2 starts with image 5, the first one drawn
        assert_memory_equal(pixels + ((2 + 2 * (SIZE + 2) + y) * w + 2) * 3, (const uint8_t *)a.data + y * SIZE * 3,
                            SIZE * 3);
    assert_false(has(out, "samples.f32.partial"));
    // a second call finds everything and changes nothing
    CBDM_OK("sample --checkpoint %s --device ref --seeds 5-11 --batch 3 --float --name x --out %s", run_dir, out);
    assert_non_null(strstr(output, "all 7 images are there"));
    free(path), free(label_path), free(grid), free(pixels), free(manifest);
    free(images), free(labels), free(floats), free(float_labels), free(u8);
}

// Whatever else is drawn beside it, an image stays the same; several omegas are several runs of one.
static void images_do_not_depend_on_the_company(void **unused) {
    (void)unused;
    const char *many = temp_path("many"), *few = temp_path("few"), *cond = temp_path("cond");
    CBDM_OK("sample --checkpoint %s@500 --device cpu --seeds 0-9 --batch 4 --omega 0,1.5 --out %s", run_dir, many);
    CBDM_OK("sample --checkpoint %s@500 --device cpu --seeds 7,2 --batch 4 --omega 1.5 --out %s", run_dir, few);
    CBDM_OK("sample --checkpoint %s@500 --device cpu --seeds 8 --batch 4 --out %s", run_dir, cond);
    char *guided = xasprintf("%s/omega-1.5", many), *plain = xasprintf("%s/omega-0", many);
    assert_same_file(guided, few, "001/000007.png");
    assert_same_file(guided, few, "002/000002.png");
    assert_same_file(plain, cond, "002/000008.png");
    size_t n, m;
    uint8_t *a = slurp(guided, "002/000008.png", &n), *b = slurp(plain, "002/000008.png", &m);
    assert_true(n != m || memcmp(a, b, n) != 0);
    free(a), free(b), free(guided), free(plain);
}

static int64_t *labels_of(const char *dir, int64_t *n, uint8_t **member) {
    NpyArray a = npz(dir, "arr_1", member);
    *n = a.shape[0];
    return (int64_t *)a.data;
}

static void labels_follow_their_rule(void **unused) {
    (void)unused;
    struct { const char *rule, *dir; } cases[] = {
        { "2,0", "list" }, { "@", "file" }, { "iid", "iid" }, { "none", "none" },
    };
    Error err = { 0 };
    assert_true(file_write_text(temp_path("labels.txt"), "1\n1 \n2\r\n", &err));
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        const char *out = temp_path(cases[c].dir), *file = *cases[c].rule == '@' ? temp_path("labels.txt") : "";
        CBDM_OK("sample --checkpoint %s --sampler ddim --steps 1 --labels %s%s --seeds 1-40 --batch 40 --out %s",
                run_dir, cases[c].rule, file, out);
        uint8_t *member;
        int64_t n, *y = labels_of(out, &n, &member);
        int seen[CLASSES] = { 0 };
        assert_int_equal(n, 40);
        for (int i = 0; i < 40; i++) {
            static const int list[] = { 2, 0 }, lines[] = { 1, 1, 2 };
            if (c == 0) assert_int_equal(y[i], list[(i + 1) % 2]);
            if (c == 1) assert_int_equal(y[i], lines[(i + 1) % 3]);
            if (c == 3) assert_int_equal(y[i], -1);
            if (c == 2) assert_in_range(y[i], 0, CLASSES - 1), seen[y[i]]++;
        }
        for (int k = 0; k < CLASSES && c == 2; k++) assert_true(seen[k] >= 3);     // a chance of 1e-4 for a fair draw
        free(member);
    }
}

static void what_cannot_be_is_refused(void **unused) {
    (void)unused;
    const char *out = temp_path("refused");
    CBDM_FAILS(2, "no label classes", "sample --checkpoint %s --labels 0 --out %s", uncond_file, out);
    CBDM_FAILS(2, "use --omega 0", "sample --checkpoint %s --omega 1.5 --out %s", uncond_file, out);
    CBDM_FAILS(2, "use --omega 0", "sample --checkpoint %s --labels none --omega 1.5 --out %s", run_dir, out);
    CBDM_FAILS(2, "--labels 0,3", "sample --checkpoint %s --labels 0,3 --out %s", run_dir, out);
    CBDM_FAILS(2, "use --sampler ddim", "sample --checkpoint %s --steps 2 --out %s", run_dir, out);
    CBDM_FAILS(2, "--steps 6", "sample --checkpoint %s --sampler ddim --steps 6 --out %s", run_dir, out);
    CBDM_FAILS(2, "--eta", "sample --checkpoint %s --eta 1 --out %s", run_dir, out);
    CBDM_FAILS(2, "image 3 twice", "sample --checkpoint %s --seeds 0-3,3 --out %s", run_dir, out);
    CBDM_FAILS(2, "--omega", "sample --checkpoint %s --omega 1,x --out %s", run_dir, out);
    CBDM_FAILS(2, "twice", "sample --checkpoint %s --omega 1,1.0 --out %s", run_dir, out);
    CBDM_FAILS(2, "2 channels", "sample --checkpoint %s --out %s", wide_file, out);
    CBDM_FAILS(2, "plans and computes nothing", "sample --checkpoint %s --device null --out %s", run_dir, out);
    CBDM_FAILS(6, "step 7", "sample --checkpoint %s@7 --out %s", run_dir, out);
    CBDM_FAILS(2, "usage", "sample --checkpoint %s", run_dir);
    Error err = { 0 };
    assert_true(file_write_text(temp_path("bad.txt"), "1\n9\n", &err));
    CBDM_FAILS(6, "line 2", "sample --checkpoint %s --labels @%s --out %s", run_dir, temp_path("bad.txt"), out);
    assert_false(file_exists(out));                         // nothing was begun
}

static void unconditional_networks_need_no_flags(void **unused) {
    (void)unused;
    const char *out = temp_path("plain");
    CBDM_OK("sample --checkpoint %s --seeds 0-2 --batch 2 --out %s", uncond_file, out);
    assert_true(has(out, "none/000002.png"));
}

static void a_young_average_is_warned_of(void **unused) {
    (void)unused;                                           // decay 0.99 reaches back 100 steps
    CBDM_OK("sample --checkpoint %s@50 --seeds 0 --batch 1 --out %s", run_dir, temp_path("young"));
    assert_non_null(strstr(output, "reach back 100 steps and only 50"));
    CBDM_OK("sample --checkpoint %s@50 --weights train --seeds 0 --batch 1 --out %s", run_dir, temp_path("young2"));
    assert_null(strstr(output, "reach back"));
}

// ---- going on
static void other_settings_are_refused(void **unused) {
    (void)unused;
    const char *out = temp_path("claimed");
    const char *same = "--seeds 0-1 --batch 2 --sampler ddim --steps 2";
    CBDM_OK("sample --checkpoint %s --device ref %s --out %s", run_dir, same, out);
    static const struct { const char *flag, *named;
    } others[] = {
        { "--seed 1", "with seed 0" },
        { "--steps 3", "with steps 2" },
        { "--eta 0.5", "with eta 0" },
        { "--omega 1", "with omega [0]" },
        { "--seeds 0-2", "with seeds \"0-1\"" },
        { "--batch 3", "with batch 2" },
        { "--labels 1", "with labels \"balanced\"" },
        { "--weights train", "with weights \"ema\"" },
        { "--clip-x0 1", "with clip-x0 0" },
        { "--device ref32", "with device \"ref\"" },
        { "--float", "with float false" },
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        CBDM_FAILS(2, others[i].named, "sample --checkpoint %s --device ref %s %s --out %s", run_dir, same,
                   others[i].flag, out);
    CBDM_FAILS(2, "with checkpoint", "sample --checkpoint %s@50 --device ref %s --out %s", run_dir, same, out);
    CBDM_FAILS(2, "holds no sampling.json", "sample --checkpoint %s --device ref %s --out %s", run_dir, same, tempdir);
}

// Versions before this one did not write them; the checkpoint's digest vouches for them.
static void a_folder_without_class_counts_goes_on(void **unused) {
    (void)unused;
    const char *same = "--seeds 0-1 --batch 2 --sampler ddim --steps 2", *dir = temp_path("older");
    char *path = xasprintf("%s/sampling.json", dir), *text;
    size_t n;
    Error err;
    CBDM_OK("sample --checkpoint %s --device ref %s --out %s", run_dir, same, dir);
    assert_true(file_read(path, 1 << 20, (uint8_t **)&text, &n, &err));
    char *counts = strstr(text, "\"class_counts\""), *end = counts ? strchr(counts, ']') : NULL;
    assert_non_null(end);
    memset(counts, ' ', (size_t)(end - counts) + 2);               // the comma too
    assert_true(file_write_text(path, text, &err));
    CBDM_OK("sample --checkpoint %s --device ref %s --out %s", run_dir, same, dir);
    free(text);
    free(path);
}

static int64_t count_files(const char *dir) {
    int64_t n = 0;
    for (int y = 0; y < CLASSES; y++) {
        char *path = xasprintf("%s/%03d", dir, y);
        DIR *d = opendir(path);
        for (struct dirent *e; d && (e = readdir(d));) {
            size_t length = strlen(e->d_name);
            n += length > 4 && strcmp(e->d_name + length - 4, ".png") == 0;
        }
        if (d) closedir(d);
        free(path);
    }
    return n;
}

// Stopped by a signal, killed, and a PNG taken away: in the end the files are those of a run that nothing happened to.
static void interrupted_runs_go_on(void **unused) {
    (void)unused;
    const char *whole = temp_path("whole"), *out = temp_path("broken");
    const char *flags = "--device ref --seeds 0-299 --batch 3 --omega 1 --float";
    CBDM_OK("sample --checkpoint %s %s --out %s", run_dir, flags, whole);
    char *args = xasprintf("sample --checkpoint %s %s --out %s", run_dir, flags, out);
    static const int signals[] = { SIGINT, SIGKILL, SIGTERM };
    static const int codes[] = { 75, -SIGKILL, 75 };
    int64_t before = 0;
    for (int i = 0; i < 3; i++) {
        pid_t pid = start(args);
        for (int64_t wait = 0; count_files(out) <= before && wait < 60000; wait++) usleep(1000);
        assert_int_equal(kill(pid, signals[i]), 0);
        assert_int_equal(finish(pid), codes[i]);
        if (codes[i] == 75) assert_non_null(strstr(output, "the same command goes on from here"));
        int64_t now = count_files(out);
        assert_in_range(now, before + 1, 299);
        assert_false(has(out, "manifest.jsonl"));
        before = now;
    }
    CBDM_OK("%s", args);
    static const char *const files[] = { "samples.npz", "cfg_1.0_samples_ema_saved.npy", "cfg_1.0_labels_ema_saved.npy",
                                         "grid.png", "manifest.jsonl", "sampling.json" };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) assert_same_file(whole, out, files[i]);
    // an image of the finished folder is lost: it comes back
    char *lost = xasprintf("%s/001/000001.png", out);
    assert_int_equal(unlink(lost), 0);
    CBDM_OK("%s", args);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) assert_same_file(whole, out, files[i]);
    assert_same_file(whole, out, "001/000001.png");
    free(args), free(lost);
}

static void damaged_images_are_named(void **unused) {
    (void)unused;
    const char *args = "--seeds 0-1 --batch 2 --sampler ddim --steps 1", *out = temp_path("hurt");
    CBDM_OK("sample --checkpoint %s %s --out %s", run_dir, args, out);
    Error err = { 0 };
    assert_true(file_write_text(temp_path("hurt/001/000001.png"), "no image", &err));
    assert_int_equal(unlink(temp_path("hurt/manifest.jsonl")), 0);
    CBDM_FAILS(6, "001/000001.png is damaged", "sample --checkpoint %s %s --out %s", run_dir, args, out);
    assert_int_equal(unlink(temp_path("hurt/001/000001.png")), 0);
    CBDM_OK("sample --checkpoint %s %s --out %s", run_dir, args, out);
    assert_true(has(out, "manifest.jsonl"));
}

// ---- info and export
static void info_tells_what_is_there(void **unused) {
    (void)unused;
    CBDM_OK("info %s --tensors", run_dir);
    static const char *const lines[] = {
        "step        500", "crc32c      verified",        "averaged weights",       "second moments", "cat",
        "ema.head.weight", "lr                   0.0002", "T                    5", "(16,3,3,3)"
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        if (!strstr(output, lines[i])) fail_msg("no \"%s\" in: %s", lines[i], output);
    CBDM_OK("info %s@50", run_dir);
    assert_non_null(strstr(output, "step        50\n"));
    assert_null(strstr(output, "tail.2.bias"));
    float one[] = { 1, 2 };
    StTensor t = { .name = "state", .type = ST_F32, .ndim = 1, .shape = { 2 }, .data = one, .bytes = 8 };
    Error err = { 0 };
    assert_true(st_write(temp_path("other.safetensors"), &t, 1, NULL, NULL, 0, &err));
    CBDM_OK("info %s", temp_path("other.safetensors"));
    assert_non_null(strstr(output, "weights               1 tensors, 2 numbers"));
    assert_true(file_write_text(temp_path("junk.safetensors"), "12345678{}", &err));
    CBDM_FAILS(6, "junk.safetensors", "info %s", temp_path("junk.safetensors"));
    CBDM_FAILS(6, "is not there", "info %s", temp_path("absent"));
    CBDM_FAILS(2, "usage", "info");
}

// The text after `what` in the output of info, up to the end of its line.
static char *digest_after(const char *what) {
    const char *line = strstr(output, what), *hex = line ? strstr(line, "sha256 ") : NULL;
    assert_non_null(hex);
    return xasprintf("%.64s", hex + 7);
}

static void exports_load_and_sample_the_same(void **unused) {
    (void)unused;
    const char *file = temp_path("weights.safetensors");
    CBDM_OK("export %s --output %s", run_dir, file);
    Error err = { 0 };
    char *path = checkpoint_path(run_dir, 500);
    SafeTensors *all = st_open(path, &err), *st = st_open(file, &err);
    assert_non_null(all);
    assert_non_null(st);
    int averages = 0;
    for (int i = 0; i < st_count(all); i++) {
        const StTensor *a = st_get(all, i);
        if (strncmp(a->name, "ema.", 4) != 0) continue;
        const StTensor *b = st_find(st, a->name + 4);
        averages++;
        assert_non_null(b);
        assert_int_equal(a->ndim, b->ndim);
        assert_memory_equal(a->shape, b->shape, sizeof a->shape[0] * (size_t)a->ndim);
        assert_int_equal(a->bytes, b->bytes);
        assert_memory_equal(a->data, b->data, a->bytes);
    }
    assert_int_equal(st_count(st), averages + 1);           // and the frozen table, (T,ch): sine and cosine in turns
    const StTensor *table = st_find(st, "time_embedding.timembedding.0.weight");
    assert_non_null(table);
    assert_memory_equal(table->shape, ((int64_t[]){ T, CH }), 2 * sizeof(int64_t));
    for (int t = 0; t < T; t++)
        for (int i = 0; i < CH / 2; i++) {
            // the argument t f is rounded three times on its way, at most 4 of ln f's 10: 2^-24 (t f) (4 + 2)
            double f = exp(-2.0 * i / CH * log(10000.0)), bound = 0x1p-24 * (6 * t * f * 2 + 1);
            float two[2];
            memcpy(two, (const float *)table->data + t * CH + 2 * i, sizeof two);
            assert_true(fabs((double)two[0] - sin(t * f)) <= bound && fabs((double)two[1] - cos(t * f)) <= bound);
        }
    st_close(all);
    st_close(st);
    free(path);
    const char *flags = "--device ref --seeds 0-3 --batch 4 --omega 0.5";
    CBDM_OK("sample --checkpoint %s %s --out %s", run_dir, flags, temp_path("from_run"));
    CBDM_OK("sample --checkpoint %s %s --out %s", file, flags, temp_path("from_export"));
    assert_same_file(temp_path("from_run"), temp_path("from_export"), "samples.npz");
    CBDM_OK("info %s", run_dir);
    char *in_run = digest_after("averaged weights"), *trained = digest_after("\nweights");
    CBDM_OK("info %s", file);
    char *exported = digest_after("\nweights");
    assert_string_equal(in_run, exported);
    assert_string_not_equal(trained, exported);
    assert_non_null(strstr(output, "dog"));
    // the training weights, and what an export no longer holds
    const char *raw = temp_path("raw.safetensors");
    CBDM_OK("export %s --no-ema --output %s", run_dir, raw);
    CBDM_OK("sample --checkpoint %s --weights train %s --out %s", run_dir, flags, temp_path("train_run"));
    CBDM_OK("sample --checkpoint %s %s --out %s", raw, flags, temp_path("train_export"));
    assert_same_file(temp_path("train_run"), temp_path("train_export"), "samples.npz");
    CBDM_FAILS(6, "holds no averaged weights", "export %s --output %s", raw, temp_path("x.safetensors"));
    CBDM_FAILS(6, "holds no training weights", "export %s --no-ema --output %s", file, temp_path("x.safetensors"));
    CBDM_FAILS(2, "usage", "export %s", file);
    free(in_run), free(trained), free(exported);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_file_agrees),
        cmocka_unit_test(images_do_not_depend_on_the_company),
        cmocka_unit_test(labels_follow_their_rule),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(unconditional_networks_need_no_flags),
        cmocka_unit_test(a_young_average_is_warned_of),
        cmocka_unit_test(other_settings_are_refused),
        cmocka_unit_test(a_folder_without_class_counts_goes_on),
        cmocka_unit_test(interrupted_runs_go_on),
        cmocka_unit_test(damaged_images_are_named),
        cmocka_unit_test(info_tells_what_is_there),
        cmocka_unit_test(exports_load_and_sample_the_same),
    };
    return cmocka_run_group_tests(tests, make_run, tempdir_remove);
}
