// eval/metrics_verb.c - the verb `cbdm eval metrics`: metrics from feature files, whoever extracted them.
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/cli.h"
#include "eval/linalg.h"
#include "eval/metrics.h"

typedef struct {
    const char *gen, *ref, *gen_labels, *ref_labels, *probs, *json, *groups, *train_counts, *skip;
    int device, classes, is_splits, prd_clusters, prd_runs, mind_directions, bootstrap;
    bool loose, kid_subsets, is_shuffle;
    double bootstrap_cost;
    int64_t seed;
} VerbConfig;
static const char *const devices[] = { "auto", "cpu", "cuda", "emu", NULL };
#define FIELD(f) offsetof(VerbConfig, f)
static const Flag flags[] = {
    { "gen", "", "features of generated images: .npy (n,dim), or .npz or .safetensors with features, and labels and "
      "probs where they are known", FLAG_STR, FIELD(gen), NULL, 0, 0 },
    { "ref", "", "features of reference images, the same; or an .npz of mu and sigma: then the FID alone", FLAG_STR,
      FIELD(ref), NULL, 0, 0 },
    { "gen-labels", "", ".npy (n) of classes, in place of those in --gen", FLAG_STR, FIELD(gen_labels), NULL, 0, 0 },
    { "ref-labels", "", ".npy (n) of classes, in place of those in --ref", FLAG_STR, FIELD(ref_labels), NULL, 0, 0 },
    { "probs", "", ".npy (n,classes) of class probabilities of the generated images, for the Inception Score", FLAG_STR,
      FIELD(probs), NULL, 0, 0 },
    { "json", "", "write the result to this file too", FLAG_STR, FIELD(json), NULL, 0, 0 },
    { "device", "auto", "where large products of KID, precision, recall, density, coverage and MIND run; auto: cuda if "
      "it is there", FLAG_ENUM, FIELD(device), devices, 0, 0 },
    { NULL, NULL, "Classes and groups (labels on both sides)", FLAG_INT, 0, NULL, 0, 0 },
    { "classes", "0", "number of classes; 0: the largest label and one", FLAG_INT, FIELD(classes), NULL, 0, 1e6 },
    { "groups", "thirds", "many, medium, few: 100,20 (many above 100 training images, few below 20), thirds, or how "
      "many classes of each, most frequent first, as in 3,3,4", FLAG_LIST, FIELD(groups), NULL, 0, 0 },
    { "train-counts", "", "training images of each class: a list, or a text file of numbers; without it, labels are "
      "taken to be in the order of frequency", FLAG_LIST, FIELD(train_counts), NULL, 0, 0 },
    { NULL, NULL, "Variants", FLAG_INT, 0, NULL, 0, 0 },
    { "skip", "", "what is left out: a list of fid, kid, prdc, is, prd, mind", FLAG_LIST, FIELD(skip), NULL, 0, 0 },
    { "loose", "false", "precision, recall, density, coverage: inside a ball means d <= r, as in the original and ADM; "
      "else d < r, as in CBDM and PRDC", FLAG_BOOL, FIELD(loose), NULL, 0, 0 },
    { "kid-subsets", "false", "KID as the mean of 100 subsets of at most 1000 rows (torch-fidelity) instead of all "
      "pairs", FLAG_BOOL, FIELD(kid_subsets), NULL, 0, 0 },
    { "is-splits", "10", "parts of the Inception Score", FLAG_INT, FIELD(is_splits), NULL, 1, 100000 },
    { "is-shuffle", "false", "its rows are permuted first, as torch-fidelity does", FLAG_BOOL, FIELD(is_shuffle), NULL,
      0, 0 },
    { "prd-clusters", "20", "of PRD, as its authors have it; 0: 20 for each class, as CBDM", FLAG_INT,
      FIELD(prd_clusters), NULL, 0, 100000 },
    { "prd-runs", "10", "clusterings whose curves are averaged", FLAG_INT, FIELD(prd_runs), NULL, 1, 1000 },
    { "mind-directions", "1000", "random directions of MIND", FLAG_INT, FIELD(mind_directions), NULL, 1, 1000000 },
    { NULL, NULL, "Intervals", FLAG_INT, 0, NULL, 0, 0 },
    { "bootstrap", "200", "resamples, of both sides and with repeats, for the 95% intervals of FID and KID; 0: none. "
      "KID: pairs of one row's copies do not count. FID: percentiles are moved down by what repeats add on average",
      FLAG_INT, FIELD(bootstrap), NULL, 0, 100000 },
    { "bootstrap-cost", "2e11", "an interval that would cost more operations is left out, with a warning", FLAG_F64,
      FIELD(bootstrap_cost), NULL, 0, 1e18 },
    { "seed", "0", "of resamples, clusterings and directions", FLAG_I64, FIELD(seed), NULL, 0, 9007199254740992.0 },
};
#undef FIELD
enum { N_FLAGS = sizeof flags / sizeof flags[0] };

// ---- lists
bool metrics_skip(const char *text, unsigned *skip, Error *err) {
    for (const char *at = text; *at;) {
        size_t n = strcspn(at, ",");
        int i = 0;
        while (metric_names[i] && (strlen(metric_names[i]) != n || strncmp(metric_names[i], at, n) != 0)) i++;
        if (!metric_names[i])
            return error_set(err, ERR_USAGE, "--skip %s: \"%.*s\" is none of fid, kid, prdc, is, prd, mind", text,
                             (int)n, at);
        *skip |= 1u << i;
        at += n + (at[n] == ',');
    }
    return true;
}

// Whole numbers with commas or white space between; exactly `classes` of them.
static bool parse_counts(const char *text, const char *where, int classes, int64_t *counts, Error *err) {
    int n = 0;
    for (const char *at = text;;) {
        while (*at == ',' || isspace((unsigned char)*at)) at++;
        if (!*at) break;
        char *end;
        long long v = strtoll(at, &end, 10);
        bool whole = end > at && (!*end || *end == ',' || isspace((unsigned char)*end)) && v >= 0 && v < INT64_MAX;
        if (!whole || n == classes)
            return error_set(err, ERR_USAGE, "--train-counts %s: %s at \"%.20s\"", where,
                             whole ? "more numbers than classes" : "no whole number", at);
        counts[n++] = v;
        at = end;
    }
    return n == classes || error_set(err, ERR_USAGE, "--train-counts %s: %d numbers for %d classes", where, n, classes);
}

static bool train_counts(const VerbConfig *c, int classes, int64_t *counts, Error *err) {
    for (int i = 0; i < classes; i++) counts[i] = classes - i;
    if (!*c->train_counts) return true;
    if (isdigit((unsigned char)*c->train_counts) && strspn(c->train_counts, "0123456789, ") == strlen(c->train_counts))
        return parse_counts(c->train_counts, c->train_counts, classes, counts, err);
    uint8_t *bytes;
    size_t n;
    if (!file_read(c->train_counts, 1 << 20, &bytes, &n, err)) return false;
    bool ok = parse_counts((const char *)bytes, c->train_counts, classes, counts, err);
    free(bytes);
    return ok;
}

// Classes of the tables, 0 without labels on both sides; *err where labels are illegal.
static bool count_classes(const VerbConfig *c, const Features *gen, const Features *ref, int *classes, Error *err) {
    *classes = 0;
    if (!ref->label || !gen->label) {
        if (ref->label || gen->label || c->classes)
            log_warn("labels of %s: no numbers for classes", gen->label ? "--gen only" : ref->label ? "--ref only" :
                     "neither side");
        return true;
    }
    int32_t most = 0;
    for (int64_t i = 0; i < gen->n; i++) most = gen->label[i] > most ? gen->label[i] : most;
    for (int64_t i = 0; i < ref->n; i++) most = ref->label[i] > most ? ref->label[i] : most;
    if (!c->classes && most >= 1000000)
        return error_set(err, ERR_FILE, "a label of %d: is this a column of labels? --classes sets their number", most);
    *classes = c->classes ? c->classes : most + 1;
    return true;
}

// ---- the reference: features, or statistics
static bool is_statistics(const char *path) {
    uint8_t *bytes = NULL;
    char **names = NULL;
    int count = 0;
    size_t n;
    Error ignored;
    bool mu = false, sigma = false, features = false;
    const char *dot = strrchr(path, '.');
    if (!dot || strcmp(dot, ".npz") != 0 || !file_read(path, SIZE_MAX - 1, &bytes, &n, &ignored)) return false;
    if (npz_names(bytes, n, path, &names, &count, &ignored)) {
        for (int i = 0; i < count; i++) {
            mu |= strcmp(names[i], "mu") == 0;
            sigma |= strcmp(names[i], "sigma") == 0;
            features |= strcmp(names[i], "features") == 0;
        }
        npz_names_free(names, count);
    }
    free(bytes);
    return mu && sigma && !features;
}

// ---- the result file
typedef struct { Features gen, ref; Gaussian stats; int64_t *counts; int *group_of; char *title; } Verb;

static void side_json(JsonText *j, const char *key, const char *source, int64_t count) {
    jtext_open(j, key, '{');
    jtext_string(j, "source", source);
    jtext_whole(j, "count", count);
    jtext_close(j, '}');
}

static char *result_json(const VerbConfig *c, const Verb *v, const MetricOptions *o, const Metrics *m) {
    JsonText j = { 0 };
    jtext_open(&j, NULL, '{');
    jtext_string(&j, "format", "cbdm-eval-1");
    jtext_string(&j, "protocol", NULL);
    jtext_string(&j, "title", v->title);
    jtext_open(&j, "extractor", '{');
    jtext_string(&j, "name", "file");
    jtext_string(&j, "sha256", NULL);
    jtext_close(&j, '}');
    side_json(&j, "generated", c->gen, m->all.n_gen);
    side_json(&j, "reference", c->ref, m->all.n_ref);
    jtext_string(&j, "class_names", NULL);
    if (*c->train_counts && m->classes) jtext_wholes(&j, "train_counts", v->counts, m->classes);
    else jtext_string(&j, "train_counts", NULL);
    if (m->grouped) groups_json(c->groups, o->group_of, m->classes, &j);
    else jtext_string(&j, "groups", NULL);
    metrics_json(m, o, &j);
    jtext_close(&j, '}');
    return jtext_finish(&j);
}

// ---- the verb
static bool read_inputs(const VerbConfig *c, Verb *v, MetricOptions *o, Error *err) {
    bool statistics = is_statistics(c->ref);
    if (statistics && *c->ref_labels)
        return error_set(err, ERR_USAGE, "%s holds mu and sigma, no rows: --ref-labels does not apply", c->ref);
    if (!features_read(c->gen, c->gen_labels, c->probs, &v->gen, err)) return false;
    if (statistics) {
        o->ref_gaussian = &v->stats;
        return gaussian_read(c->ref, &v->stats, err) && metrics_check(&v->gen, NULL, o, err);
    }
    if (!features_read(c->ref, c->ref_labels, "", &v->ref, err)) return false;
    if (!count_classes(c, &v->gen, &v->ref, &o->classes, err)) return false;
    if (!metrics_check(&v->gen, &v->ref, o, err)) return false;
    if (o->classes < GROUP_COUNT) return true;
    v->counts = xcalloc((size_t)o->classes, sizeof *v->counts);
    v->group_of = xcalloc((size_t)o->classes, sizeof *v->group_of);
    o->group_of = v->group_of;
    return train_counts(c, o->classes, v->counts, err) && groups_of(c->groups, v->counts, o->classes, v->group_of, err);
}

// A GPU for large products; *d NULL: none is wanted, or none is there for auto.
static bool open_device(const VerbConfig *c, Device **d, Error *err) {
    const char *name = devices[c->device];
    Error absent;
    *d = NULL;
    if (strcmp(name, "cpu") == 0) return true;
    bool automatic = strcmp(name, "auto") == 0;
    *d = device_open(automatic ? "cuda" : name, automatic ? &absent : err);
    if (*d) linalg_use(*d, LINALG_WORTH_COPYING);
    return *d || automatic;
}

static bool measure(const VerbConfig *c, Verb *v, Error *err) {
    MetricOptions o = metric_options;
    Metrics m;
    Device *device;
    o.strict = !c->loose, o.kid_subsets = c->kid_subsets, o.splits = c->is_splits, o.shuffle = c->is_shuffle;
    o.prd_clusters = c->prd_clusters, o.prd_runs = c->prd_runs, o.mind_directions = c->mind_directions;
    o.bootstrap = c->bootstrap, o.bootstrap_cost = c->bootstrap_cost, o.seed = (uint64_t)c->seed;
    if (!metrics_skip(c->skip, &o.skip, err) || !read_inputs(c, v, &o, err)) return false;
    const char *comma = strchr(c->groups, ',');
    bool limits = comma && !strchr(comma + 1, ',');             // "100,20": not by rank, but by numbers of images
    if (limits && o.group_of && !*c->train_counts)
        return error_set(err, ERR_USAGE, "--groups %s needs the number of training images: --train-counts", c->groups);
    if (!open_device(c, &device, err)) return false;
    metrics_compute(&v->gen, o.ref_gaussian ? NULL : &v->ref, &o, &m);
    linalg_use(NULL, 0);
    device_close(device);
    v->title = xasprintf("fid[features,n=%" PRId64 ",ref=%s]", m.all.n_gen, c->ref);
    printf("%s\n", v->title);
    if (m.grouped) {
        char *groups = groups_text(v->group_of, m.classes);
        printf("groups %s: %s\n", c->groups, groups);
        free(groups);
    }
    metrics_print(&m, &o, NULL, stdout);
    bool ok = true;
    if (*c->json) {
        char *text = result_json(c, v, &o, &m);
        ok = file_write_text(c->json, text, err);
        free(text);
    }
    metrics_free(&m);
    return ok;
}

int metrics_main(int argc, char **argv) {
    VerbConfig c;
    Verb v = { 0 };
    Error err = { 0 };
    cli_defaults(flags, N_FLAGS, &c);
    if (cli_wants_help(argc, argv)) {
        cli_help(flags, N_FLAGS, "cbdm eval metrics --gen FILE --ref FILE [--json FILE]",
                 "FID, KID, precision, recall, density, coverage (k = 3 and 5), Inception Score, PRD and MIND of two "
                 "tables of features: overall, for each class, for many, medium and few.");
        return 0;
    }
    bool ok = cli_parse(flags, N_FLAGS, &c, argc - 1, argv + 1, NULL, NULL, NULL, &err);
    if (ok && (!*c.gen || !*c.ref))
        ok = error_set(&err, ERR_USAGE, "usage: cbdm eval metrics --gen FILE --ref FILE [--json FILE]; see --help");
    if (ok) ok = (!*c.json || file_can_write(c.json, &err)) && measure(&c, &v, &err);
    features_free(&v.gen);
    features_free(&v.ref);
    gaussian_free(&v.stats);
    free(v.counts);
    free(v.group_of);
    free(v.title);
    if (!ok) log_info("error: %s", err.msg);
    return ok ? 0 : err.code;
}
