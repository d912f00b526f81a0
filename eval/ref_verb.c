// eval/ref_verb.c - the verb `cbdm eval ref`: features and statistics of real images, for this program and for others.
#include <stdlib.h>
#include <string.h>
#include "core/cli.h"
#include "eval/adm.h"
#include "eval/frechet.h"
#include "eval/reference.h"
#include "train/dataset.h"

enum { FEATURES_CLASSIFIER, FEATURES_INCEPTION };
static const char *const extractor_choices[] = { "classifier", "inception", NULL };
static const char *const split_choices[] = { "train", "test", NULL };
typedef struct {
    const char *data, *lt_index, *weights, *out, *stats, *adm, *device;
    int         split, features, protocol, imb_type, pad, batch;
    double      imb_factor;
    int64_t     lt_seed;
    bool        cache;
} RefConfig;

#define FIELD(f) offsetof(RefConfig, f)
static const Flag flags[] = {
    { "data", "", "the data set, as `cbdm data info` takes it", FLAG_STR, FIELD(data), NULL, 0, 0 },
    { "split", "train", "train, the published CBDM reference, or test", FLAG_ENUM, FIELD(split), split_choices, 0, 0 },
    { "imb-type", "exp", "profile of a long-tailed subset", FLAG_ENUM, FIELD(imb_type), imb_type_names, 0, 0 },
    { "imb-factor", "1", "rarest class over the most frequent one; 1: all images", FLAG_F64, FIELD(imb_factor), NULL,
      1e-6, 1 },
    { "lt-seed", "0", "seed of the subset; 0 gives the published one", FLAG_I64, FIELD(lt_seed), NULL, 0,
      4294967295.0 },
    { "lt-index", "", "take the subset from a file of lines \"class ordinal\" instead", FLAG_STR, FIELD(lt_index), NULL,
      0, 0 },
    { "pad", "0", "pad images with zeros to this size; 0: as they are", FLAG_INT, FIELD(pad), NULL, 0, 16384 },
    { "features", "inception", "the network that gives the features", FLAG_ENUM, FIELD(features), extractor_choices, 0,
      0 },
    { "weights", "", "its file; inception: \"\" looks where torch.hub keeps downloads", FLAG_STR, FIELD(weights), NULL,
      0, 0 },
    { "protocol", "cbdm", "how images reach the network", FLAG_ENUM, FIELD(protocol), protocol_names, 0, 0 },
    { "batch", "16", "images of one pass", FLAG_INT, FIELD(batch), NULL, 1, 4096 },
    { "device", "auto", "cpu, cuda, auto, ...", FLAG_STR, FIELD(device), NULL, 0, 0 },
    { "cache", "true", "take features from the cache, keep them there", FLAG_BOOL, FIELD(cache), NULL, 0, 0 },
    { "out", "", "features, labels and class probabilities as safetensors", FLAG_STR, FIELD(out), NULL, 0, 0 },
    { "stats", "", "mean and covariance as .npz of mu and sigma, as pytorch-fid reads them", FLAG_STR, FIELD(stats),
      NULL, 0, 0 },
    { "adm", "", "reference batch of ADM's evaluator: .npz of the images; by inception under tf also of statistics",
      FLAG_STR, FIELD(adm), NULL, 0, 0 },
};
#undef FIELD
enum { N_FLAGS = sizeof flags / sizeof flags[0] };

static Dataset *open_data(const RefConfig *c, Error *err) {
    if (*c->lt_index && c->imb_factor < 1) {
        error_set(err, ERR_USAGE, "--lt-index and --imb-factor both name a subset; give one of them");
        return NULL;
    }
    Dataset *d = dataset_open(c->data, (Split)c->split, err);
    if (d && *c->lt_index) d = dataset_subset_file(d, c->lt_index, err);
    else if (d && c->imb_factor < 1)
        d = dataset_subset(d, (ImbType)c->imb_type, c->imb_factor, (uint32_t)c->lt_seed, err);
    return d ? dataset_pad(d, c->pad, err) : NULL;
}

static bool write_features(const RefConfig *c, const DatasetInfo *z, const Extractor *e, const Features *f,
                           Error *err) {
    static const char *const keys[] = { "protocol", "extractor", "weights_sha256", "images_digest", "source", "split" };
    const char *values[] = { protocol_names[c->protocol], e->name, e->hash, z->digest, z->source,
                             split_choices[c->split] };
    return features_write(c->out, f, keys, values, 6, err);
}

static bool write_stats(const char *path, const Features *f, Error *err) {
    Gaussian g;
    if (f->n < 2) return error_set(err, ERR_USAGE, "--stats: a covariance needs 2 images, not %lld", (long long)f->n);
    if (f->n <= f->dim)
        log_warn("%lld images for a covariance of %d dimensions: a FID against them is dominated by their number",
                 (long long)f->n, f->dim);
    gaussian_fit(f, NULL, 0, &g);
    bool ok = gaussian_write(path, &g, err);
    gaussian_free(&g);
    return ok;
}

static Extractor *open_extractor(const RefConfig *c, Device *d, Error *err) {
    if (c->features == FEATURES_INCEPTION)
        return extractor_inception(d, c->weights, (Protocol)c->protocol, c->batch, err);
    return extractor_classifier(d, c->weights, c->batch, err);
}

static bool extract(const RefConfig *c, const DatasetInfo *z, Extractor *e, const ImageSet *s, Error *err) {
    Features f = { .n = 0 };
    bool ok = reference_features(e, s, c->cache ? z->digest : "", (Protocol)c->protocol, &f, err);
    if (ok) printf("%lld images of %s (%s), %d features each by %s, protocol %s\n", (long long)z->count, z->source,
                   split_choices[c->split], f.dim, e->name, protocol_names[c->protocol]);
    ok = ok && (!*c->out || write_features(c, z, e, &f, err)) && (!*c->stats || write_stats(c->stats, &f, err));
    features_free(&f);
    return ok;
}

static bool run(const RefConfig *c, const DatasetInfo *z, Error *err) {
    ImageSet s = images_of(z);
    bool adm_statistics = *c->adm && c->features == FEATURES_INCEPTION && c->protocol == PROTOCOL_TF;
    bool features = *c->out || *c->stats || !*c->adm;
    if (*c->adm && !adm_statistics && !adm_write(c->adm, &s, NULL, err)) return false;
    if (!features && !adm_statistics) return true;
    Device *d = device_open(c->device, err);
    Extractor *e = d ? open_extractor(c, d, err) : NULL;
    bool ok = e && (!features || extract(c, z, e, &s, err)) && (!adm_statistics || adm_write(c->adm, &s, e, err));
    extractor_close(e);
    device_close(d);
    return ok;
}

int ref_main(int argc, char **argv) {
    RefConfig c;
    Error err = { 0 };
    cli_defaults(flags, N_FLAGS, &c);
    if (cli_wants_help(argc, argv)) {
        cli_help(flags, N_FLAGS, "cbdm eval ref --data PATH [--out FILE] [--stats FILE.npz] [--adm FILE.npz]",
                 "Features and statistics of real images. Features are also kept in the cache ($XDG_CACHE_HOME/cbdm, "
                 "~/.cache/cbdm), where `cbdm eval run` finds them.");
        return 0;
    }
    bool ok = cli_parse(flags, N_FLAGS, &c, argc - 1, argv + 1, NULL, NULL, NULL, &err);
    if (ok && !*c.data) ok = error_set(&err, ERR_USAGE, "no data named; give --data PATH");
    if (ok && !*c.out && !*c.stats && !*c.adm && !c.cache)
        ok = error_set(&err, ERR_USAGE, "nothing to write: give --out, --stats or --adm, or leave the cache on");
    const char *const archives[] = { c.stats, c.adm };
    for (int i = 0; ok && i < 2; i++) {
        const char *end = strrchr(archives[i], '.');
        if (*archives[i] && (!end || strcmp(end, ".npz") != 0))
            ok = error_set(&err, ERR_USAGE, "%s: --stats and --adm write .npz, and readers go by that name",
                           archives[i]);
    }
    ok = ok && (!*c.out || file_can_write(c.out, &err)) && (!*c.stats || file_can_write(c.stats, &err)) &&
         (!*c.adm || file_can_write(c.adm, &err));
    Dataset *d = ok ? open_data(&c, &err) : NULL;
    ok = d && run(&c, dataset_info(d), &err);
    dataset_close(d);
    if (!ok) log_info("error: %s", err.msg);
    return ok ? 0 : err.code;
}
