// sample/info_verb.c - the verbs `cbdm info` and `cbdm export`: what a file of weights holds, and the weights alone.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "core/text.h"
#include "models/model.h"
#include "sample/sample_verb.h"

// The frozen table of sinusoids that the published network keeps as a weight; ours computes it.
static const char frozen_name[] = "time_embedding.timembedding.0.weight";

// ---- parts of a checkpoint
typedef struct { const char *prefix, *what; } Part;
static const Part parts[] = {
    { "ema.", "averaged weights" }, { "adam_m.", "first moments" }, { "adam_v.", "second moments" },
    { "", "weights" }, { "", "optimiser state" },
};
enum { EMA_PART, N_PREFIXED = 3, WEIGHTS_PART = N_PREFIXED, OTHER_PART, N_PARTS };

// Which part a tensor belongs to. In files of others every tensor is a weight.
static int part_of(const char *name, bool ours) {
    for (int i = 0; i < N_PREFIXED && ours; i++)
        if (strncmp(name, parts[i].prefix, strlen(parts[i].prefix)) == 0) return i;
    return ours && (strcmp(name, "adam_count") == 0 || strcmp(name, "state") == 0) ? OTHER_PART : WEIGHTS_PART;
}

static int64_t numel(const StTensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++) n *= t->shape[i];
    return n;
}

static int compare_lines(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

// Counts a part's tensors and numbers. digest: SHA-256 of the sorted lines "NAME SHA256-OF-ITS-BYTES\n", names without
// prefix, the frozen table left out: equal for a checkpoint's averages and their export.
static int measure_part(const SafeTensors *st, bool ours, int part, int64_t *numbers, char digest[65]) {
    int n = st_count(st), count = 0, lines = 0;
    char **line = xmalloc(((size_t)n + 1) * sizeof *line);
    size_t prefix = strlen(parts[part].prefix);
    Text text = { 0 };
    *numbers = 0;
    for (int i = 0; i < n; i++) {
        const StTensor *t = st_get(st, i);
        if (part_of(t->name, ours) != part) continue;
        char hex[65];
        count++;
        *numbers += numel(t);
        if (strcmp(t->name, frozen_name) == 0) continue;
        sha256(t->data, t->bytes, hex);
        line[lines++] = xasprintf("%s %s\n", t->name + prefix, hex);
    }
    if (lines) qsort(line, (size_t)lines, sizeof *line, compare_lines);
    for (int i = 0; i < lines; i++) {
        text_add(&text, "%s", line[i]);
        free(line[i]);
    }
    sha256(text.n ? text.s : "", text.n, digest);
    text_free(&text);
    free(line);
    return count;
}

// ---- info
typedef struct { bool tensors; } InfoFlags;
static const Flag info_flags[] = {
    { "tensors", "false", "list every tensor", FLAG_BOOL, offsetof(InfoFlags, tensors), NULL, 0, 0 },
};

// Prints the fields of an object; those that `shown` has as well are left out.
static void print_object(const char *title, const char *json, const char *shown) {
    cJSON *object = json ? cJSON_Parse(json) : NULL, *before = shown ? cJSON_Parse(shown) : NULL;
    if (cJSON_IsObject(object)) printf("%s\n", title);
    for (const cJSON *v = cJSON_IsObject(object) ? object->child : NULL; v; v = v->next) {
        if (cJSON_Compare(v, cJSON_GetObjectItemCaseSensitive(before, v->string), true)) continue;
        char *text = cJSON_PrintUnformatted(v);
        printf("  %-20s %s\n", v->string, cJSON_IsString(v) ? v->valuestring : text ? text : "");
        cJSON_free(text);
    }
    cJSON_Delete(object);
    cJSON_Delete(before);
}

static void print_classes(const char *names, const char *counts) {
    cJSON *name = cJSON_Parse(names ? names : "[]"), *count = cJSON_Parse(counts ? counts : "[]");
    int n = cJSON_GetArraySize(name), m = cJSON_GetArraySize(count);
    if (n < m) n = m;
    if (n > 0) printf("classes (training images)\n");
    for (int i = 0; i < n; i++) {
        const cJSON *text = cJSON_GetArrayItem(name, i), *images = cJSON_GetArrayItem(count, i);
        printf("  %5d %-24s", i, cJSON_IsString(text) ? text->valuestring : "");
        if (cJSON_IsNumber(images)) printf(" %10.0f", images->valuedouble);
        putchar('\n');
    }
    cJSON_Delete(name);
    cJSON_Delete(count);
}

static const char *type_name(StType t) {
    static const char *const names[] = { [ST_F32] = "f32", [ST_F64] = "f64", [ST_BF16] = "bf16", [ST_F16] = "f16",
                                         [ST_I64] = "i64", [ST_I32] = "i32", [ST_U8] = "u8" };
    return names[t];
}

static void print_tensors(const SafeTensors *st) {
    printf("tensors\n");
    for (int i = 0; i < st_count(st); i++) {
        const StTensor *t = st_get(st, i);
        printf("  %-56s %-5s (", t->name, type_name(t->type));
        for (int k = 0; k < t->ndim; k++) printf("%s%lld", k ? "," : "", (long long)t->shape[k]);
        printf(")\n");
    }
}

static bool print_file(const char *path, const InfoFlags *c, Error *err) {
    uint8_t *bytes = NULL;
    size_t n;
    char hex[65];
    if (!file_read(path, (size_t)1 << 40, &bytes, &n, err)) return false;
    SafeTensors *st = st_parse(bytes, n, path, err);
    if (!st) {
        free(bytes);
        return false;
    }
    const char *format = st_meta(st, "format"), *step = st_meta(st, "step"), *decay = st_meta(st, "ema_decay");
    const char *weights = st_meta(st, "weights");
    bool ours = format && strcmp(format, "cbdm-checkpoint-1") == 0;
    sha256(bytes, n, hex);
    printf("file        %s\nformat      %s\nbytes       %zu\nsha256      %s\n", path, ours ? format : "safetensors", n,
           hex);
    printf("crc32c      %s\n", st_meta(st, "crc32c") ? "verified, header and each tensor" : "none in the file");
    if (step) printf("step        %s\n", step);
    const char *ramp = st_meta(st, "ema_ramp");
    if (decay)
        printf("ema decay   %.10g%s\n", strtod(decay, NULL), ramp && strcmp(ramp, "true") == 0 ? ", ramped" : "");
    if (weights) printf("exported    %s weights\n", weights);
    static const int order[N_PARTS] = { WEIGHTS_PART, EMA_PART, 1, 2, OTHER_PART };
    for (int i = 0; i < N_PARTS; i++) {
        int64_t numbers;
        int part = order[i], count = measure_part(st, ours, part, &numbers, hex);
        if (!count) continue;
        bool comparable = part == WEIGHTS_PART || part == EMA_PART;
        printf("%-18s %4d tensors, %lld numbers%s%s\n", parts[part].what, count, (long long)numbers,
               comparable ? ", sha256 " : "", comparable ? hex : "");
    }
    print_object("model", st_meta(st, "model"), NULL);
    print_object("configuration", st_meta(st, "config"), st_meta(st, "model"));
    print_classes(st_meta(st, "class_names"), st_meta(st, "class_counts"));
    if (c->tensors) print_tensors(st);
    st_close(st);
    free(bytes);
    return fflush(stdout) == 0 || error_set(err, ERR_IO, "standard output: cannot write; is the disk full?");
}

int info_main(int argc, char **argv) {
    enum { N = sizeof info_flags / sizeof info_flags[0] };
    static const char usage[] = "cbdm info RUN[@STEP]|FILE [--tensors]";
    InfoFlags c;
    Error err = { 0 };
    const char *words[1];
    int n_words = 1;
    cli_defaults(info_flags, N, &c);
    if (cli_wants_help(argc, argv)) {
        cli_help(info_flags, N, usage,
                 "What a checkpoint, an export or another safetensors file holds; its checksums are verified.");
        return 0;
    }
    bool ok = cli_parse(info_flags, N, &c, argc - 1, argv + 1, words, &n_words, NULL, &err);
    if (ok && n_words != 1) ok = error_set(&err, ERR_USAGE, "usage: %s", usage);
    char *path = ok ? checkpoint_find(words[0], &err) : NULL;
    ok = path && print_file(path, &c, &err);
    free(path);
    if (!ok) log_info("error: %s", err.msg);
    return ok ? 0 : err.code;
}

// ---- export
typedef struct { bool ema; const char *output; } ExportFlags;
static const Flag export_flags[] = {
    { "ema", "true", "averaged weights; --no-ema: those of the last step", FLAG_BOOL, offsetof(ExportFlags, ema), NULL,
      0, 0 },
    { "output", "", "safetensors file to write", FLAG_STR, offsetof(ExportFlags, output), NULL, 0, 0 },
};

// The table (T,ch) as the network computes it.
static float *sinusoid_table(Device *d, int T, int ch) {
    Graph *g = graph_new(d, "sinusoid table", WEIGHTS_EMA);
    Arena *arena = arena_new(d);
    int64_t rows = T;
    int32_t *ints = xmalloc((size_t)T * sizeof *ints);
    float *table = xmalloc((size_t)T * (size_t)ch * sizeof *table);
    for (int i = 0; i < T; i++) ints[i] = i;
    Tensor *t = graph_input(g, "t", DT_I32, 1, &rows), *y = graph_output(g, op_sinusoid(g, t, ch));
    graph_plan(g, arena);
    arena_seal(arena);
    tensor_write(t, ints);
    graph_run(g);
    tensor_read_f32(y, table);
    graph_free(g);
    arena_free(arena);
    free(ints);
    return table;
}

static StTensor published_tensor(Param *p) {
    const Tensor *v = param_ema(p);
    size_t n = (size_t)tensor_numel(v);
    float *data = xmalloc(n * sizeof *data);
    param_read_published(v, data);
    StTensor t = { .name = param_name(p), .type = ST_F32, .ndim = v->ndim, .data = data, .bytes = n * sizeof *data };
    for (int i = 0; i < v->ndim; i++) t.shape[i] = v->shape[i];
    if (v->ndim == 4) t.shape[1] = v->shape[3], t.shape[2] = v->shape[1], t.shape[3] = v->shape[2];
    return t;
}

// Everything of the checkpoint's metadata that still holds. Returns how many.
static int copy_meta(const SafeTensors *st, const ExportFlags *c, const Model *m, const char **keys,
                     const char **values) {
    static const char *const kept[] = { "format",      "model",        "config",    "step",
                                        "class_names", "class_counts", "ema_decay", "ema_ramp" };
    enum { KEPT = sizeof kept / sizeof kept[0], OF_EMA = 2 };
    int n = 0;
    for (int i = 0; i < KEPT - (c->ema ? 0 : OF_EMA); i++) {
        if (!st_meta(st, kept[i])) continue;
        keys[n] = kept[i];
        values[n++] = st_meta(st, kept[i]);
    }
    keys[n] = "weights";
    values[n++] = c->ema ? "ema" : "train";
    keys[n] = "source_sha256";
    values[n++] = m->hash;
    return n;
}

static bool export_weights(const Model *m, const SafeTensors *st, const ExportFlags *c, Error *err) {
    ParamSet *ps = unet_params(m->net);
    const char *weights = st_meta(st, "weights"), *wanted = c->ema ? "ema" : "train";
    char first[300];
    snprintf(first, sizeof first, "ema.%s", param_name(param_get(ps, 0)));
    bool has_ema = st_find(st, first) != NULL;
    if (weights ? strcmp(weights, wanted) != 0 : c->ema && !has_ema)
        return error_set(err, ERR_FILE, "%s holds no %s weights; %s", m->path, c->ema ? "averaged" : "training",
                         c->ema ? "--no-ema exports those that it holds" : "it is an export of the averaged ones");
    int n = param_count(ps);
    StTensor *t = xmalloc((size_t)(n + 1) * sizeof *t);
    int64_t ch = m->config.ch, T = m->config.T;
    t[0] = (StTensor){ .name = frozen_name, .type = ST_F32, .ndim = 2, .shape = { T, ch },
                       .data = sinusoid_table(m->device, (int)T, (int)ch), .bytes = (size_t)(T * ch) * sizeof(float) };
    for (int i = 0; i < n; i++) t[i + 1] = published_tensor(param_get(ps, i));
    const char *keys[16], *values[16];
    int n_meta = copy_meta(st, c, m, keys, values);
    bool ok = st_write(c->output, t, n + 1, keys, values, n_meta, err);
    if (ok)
        log_info("%s: %s weights of step %lld, %d tensors, %lld parameters", c->output, wanted, (long long)m->step,
                 n + 1, (long long)param_numel(ps));
    for (int i = 0; i <= n; i++) free((void *)t[i].data);
    free(t);
    return ok;
}

int export_main(int argc, char **argv) {
    enum { N = sizeof export_flags / sizeof export_flags[0] };
    static const char usage[] = "cbdm export RUN[@STEP]|FILE --output FILE [--no-ema]";
    ExportFlags c;
    Error err = { 0 };
    const char *words[1];
    int n_words = 1;
    cli_defaults(export_flags, N, &c);
    if (cli_wants_help(argc, argv)) {
        cli_help(export_flags, N, usage,
                 "Writes the weights alone under the names of the published code's state dict, its frozen\n"
                 "table of sinusoids included; `cbdm sample --checkpoint FILE` reads the file as well.");
        return 0;
    }
    bool ok = cli_parse(export_flags, N, &c, argc - 1, argv + 1, words, &n_words, NULL, &err);
    if (ok && (n_words != 1 || !*c.output)) ok = error_set(&err, ERR_USAGE, "usage: %s", usage);
    Device *d = ok ? device_open("ref", &err) : NULL;
    Model *m = d ? model_open(d, words[0], c.ema ? CKPT_EMA : CKPT_WEIGHTS, &err) : NULL;
    SafeTensors *st = m ? st_open(m->path, &err) : NULL;
    ok = st && export_weights(m, st, &c, &err);
    if (st) st_close(st);
    model_close(m);
    if (d) device_close(d);
    if (!ok) log_info("error: %s", err.msg);
    return ok ? 0 : err.code;
}
