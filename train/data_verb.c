// train/data_verb.c - the verb `cbdm data`: what a data set holds, and which images a long-tailed subset takes.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/cli.h"
#include "core/file.h"
#include "train/batch.h"
#include "train/data_formats.h"

typedef struct {
    const char *data, *lt_index, *indices;
    int         split, imb_type;
    double      imb_factor;
    int64_t     lt_seed;
    int         pad, classes;
    int64_t     images;
} DataConfig;

static const char *const split_names[] = { "train", "test", NULL };

#define FIELD(name) offsetof(DataConfig, name)
static const Flag flags[] = {
    { "data", "", "IDX file or folder, CIFAR .tar.gz or folder, folder of class folders of PNGs, or builtin", FLAG_STR,
      FIELD(data), NULL, 0, 0 },
    { "split", "train", "which part of the set", FLAG_ENUM, FIELD(split), split_names, 0, 0 },
    { "imb-type", "exp", "profile of the long tail", FLAG_ENUM, FIELD(imb_type), imb_type_names, 0, 0 },
    { "imb-factor", "1", "rarest class over the most frequent one, such as 0.01; 1: all images", FLAG_F64,
      FIELD(imb_factor), NULL, 0, 0 },
    { "lt-seed", "0", "seed of the subset; 0 gives the published one", FLAG_I64, FIELD(lt_seed), NULL, 0,
      4294967295.0 },
    { "lt-index", "", "take the subset from a file of lines \"class ordinal\" instead", FLAG_STR, FIELD(lt_index), NULL,
      0, 0 },
    { "pad", "0", "pad images with zeros to this size; 0: as they are", FLAG_INT, FIELD(pad), NULL, 0, DATA_MAX_SIDE },
    { "indices", "-", "subset: file to write the lines \"class ordinal\" to; -: standard output", FLAG_STR,
      FIELD(indices), NULL, 0, 0 },
    { "classes", "0", "subset without --data: classes of a balanced set (CIFAR-10: 10)", FLAG_INT, FIELD(classes), NULL,
      0, DATA_MAX_CLASSES },
    { "images", "0", "subset without --data: images of that set (CIFAR-10: 50000)", FLAG_I64, FIELD(images), NULL, 0,
      1e9 },
};
enum { FLAGS = sizeof flags / sizeof *flags };
static const char usage[] = "cbdm data info|subset --data PATH [options], cbdm data batches --help";
static const char about[] =
    "info: kind, sizes, digest and images per class, of the whole set or of the long-tailed subset that the options "
    "name.\n"
    "subset: the images of that subset, as lines \"class ordinal\"; with --classes 10 --images 50000 (CIFAR-10) or "
    "--classes 100 --images 50000 (CIFAR-100) the published subsets are named without their data.";

static bool given(const char *text) { return text && *text; }

// The set that the options describe. NULL and *err.
static Dataset *open_configured(const DataConfig *c, Error *err) {
    if (given(c->lt_index) && c->imb_factor != 1) {
        error_set(err, ERR_USAGE, "--lt-index and --imb-factor both name a subset; give one of them");
        return NULL;
    }
    Dataset *d = dataset_open(c->data, (Split)c->split, err);
    if (d && given(c->lt_index)) d = dataset_subset_file(d, c->lt_index, err);
    else if (d && c->imb_factor != 1)
        d = dataset_subset(d, (ImbType)c->imb_type, c->imb_factor, (uint32_t)c->lt_seed, err);
    return d ? dataset_pad(d, c->pad, err) : NULL;
}

// ---- info
static void print_classes(const DatasetInfo *z) {
    enum { BAR = 40 };
    static const char bar[BAR + 1] = "########################################";
    int64_t most = 1;
    int width = 5;
    for (int c = 0; c < z->classes; c++) {
        if (z->per_class[c] > most) most = z->per_class[c];
        int n = (int)strlen(z->class_names[c]);
        if (n > width) width = n < 24 ? n : 24;
    }
    for (int c = 0; c < z->classes; c++) {
        int64_t n = z->per_class[c];
        int length = (int)(n * BAR / most);
        if (n > 0 && length == 0) length = 1;
        printf("%5d  %-*.24s %8lld  %.*s\n", c, width, z->class_names[c], (long long)n, length, bar);
    }
}

static bool print_info(const Dataset *d, Error *err) {
    const DatasetInfo *z = dataset_info(d);
    int many = 0, medium = 0, few = 0, empty = 0, head = 0, tail = 0;
    for (int c = 0; c < z->classes; c++) {
        int64_t n = z->per_class[c];
        *(n > 100 ? &many : n >= 20 ? &medium : &few) += 1;
        empty += n == 0;
        if (n > z->per_class[head]) head = c;
        if (n < z->per_class[tail]) tail = c;
    }
    printf("source     %s\nkind       %s%s%s\n", z->source, z->kind, z->note ? ", " : "", z->note ? z->note : "");
    printf("images     %lld of %d x %d, %s, u8\n", (long long)z->count, z->height, z->width,
           z->channels == 3 ? "RGB" : "grey");
    printf("classes    %d: %d with more than 100 images, %d with 20 to 100, %d with fewer\n", z->classes, many, medium,
           few);
    printf("head       %lld (%s)\ntail       %lld (%s)\n", (long long)z->per_class[head], z->class_names[head],
           (long long)z->per_class[tail], z->class_names[tail]);
    printf("digest     %s\n", z->digest);
    print_classes(z);
    if (empty) {
        log_warn("%d of %d classes have no image; a model conditioned on them learns nothing about them", empty,
                 z->classes);
    }
    return fflush(stdout) == 0 || error_set(err, ERR_IO, "standard output: cannot write; is the disk full?");
}

static bool run_info(const DataConfig *c, Error *err) {
    Dataset *d = open_configured(c, err);
    bool ok = d && print_info(d, err);
    dataset_close(d);
    return ok;
}

// ---- subset
static bool write_text(const char *path, const char *text, size_t n, Error *err) {
    if (strcmp(path, "-") != 0) return file_write_text(path, text, err);
    return (fwrite(text, 1, n, stdout) == n && fflush(stdout) == 0) ||
           error_set(err, ERR_IO, "standard output: cannot write the indices; is the disk full?");
}

// The subset of a balanced set that is not at hand: every class has images / classes of them.
static bool write_shape_subset(const DataConfig *c, Error *err) {
    if (c->classes < 1 || c->images < c->classes || c->images % c->classes) {
        return error_set(err, ERR_USAGE,
                         "subset needs --data PATH, or --classes C --images N with N a multiple of C, such as "
                         "--classes 10 --images 50000");
    }
    size_t classes = (size_t)c->classes;
    int64_t *want = xmalloc(classes * sizeof *want), *have = xmalloc(classes * sizeof *have);
    for (size_t i = 0; i < classes; i++) have[i] = c->images / c->classes;
    ImbType type = c->imb_factor < 1 ? (ImbType)c->imb_type : IMB_NONE;
    bool ok = subset_counts((ImbType)c->imb_type, c->imb_factor, c->classes, c->images, want, err);
    if (ok) {
        int64_t *ordinal = xmalloc((size_t)c->images * sizeof *ordinal);
        subset_ordinals(have, want, c->classes, (uint32_t)c->lt_seed, ordinal);
        size_t cap = (size_t)c->images * 24 + 1, n = 0, at = 0;
        char *text = xmalloc(cap), hex[65];
        for (int k = 0; k < c->classes; k++) {
            for (int64_t i = 0; i < want[k]; i++, at++) {
                // Without a subset the images stay in file order, as in dataset_subset.
                long long o = type == IMB_NONE ? (long long)i : (long long)ordinal[at];
                n += (size_t)snprintf(text + n, cap - n, "%d %lld\n", k, o);
            }
        }
        sha256(text, n, hex);
        log_info("%zu images: head %lld, tail %lld; SHA-256 of the lines %s", at, (long long)want[0],
                 (long long)want[c->classes - 1], hex);
        ok = write_text(c->indices, text, n, err);
        free(text);
        free(ordinal);
    }
    free(want);
    free(have);
    return ok;
}

static bool run_subset(const DataConfig *c, Error *err) {
    if (!given(c->data)) return write_shape_subset(c, err);
    if (c->classes || c->images) {
        return error_set(err, ERR_USAGE,
                         "--classes and --images describe a set that is not at hand; leave them out with --data");
    }
    Dataset *d = open_configured(c, err);
    if (!d) return false;
    const DatasetInfo *z = dataset_info(d);
    log_info("%lld images of %s", (long long)z->count, z->source);
    bool ok = dataset_write_indices(d, c->indices, err);
    dataset_close(d);
    return ok;
}

int data_main(int argc, char **argv) {
    DataConfig c;
    Error err = { 0 };
    const char *word = NULL;
    int words = 1;
    if (argc > 1 && strcmp(argv[1], "batches") == 0) return batches_main(argc - 1, argv + 1);
    cli_defaults(flags, FLAGS, &c);
    if (cli_wants_help(argc, argv)) {
        cli_help(flags, FLAGS, usage, about);
        return 0;
    }
    bool ok = cli_parse(flags, FLAGS, &c, argc - 1, argv + 1, &word, &words, NULL, &err);
    if (ok && (words != 1 || (strcmp(word, "info") != 0 && strcmp(word, "subset") != 0))) {
        ok = error_set(&err, ERR_USAGE, "usage: %s (--help lists the options)", usage);
    }
    ok = ok && (strcmp(word, "info") == 0 ? run_info(&c, &err) : run_subset(&c, &err));
    if (ok) return 0;
    fprintf(stderr, "cbdm data: %s\n", err.msg);
    return err.code;
}
