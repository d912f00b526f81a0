// eval/run_verb.c - `cbdm eval run`: the flags, and the steps one after the other.
#include "eval/run_verb.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/linalg.h"
#include "eval/run_impl.h"
#include "sample/sampler.h"

static const char *const weight_names[] = { "ema", "train", NULL };
static const double max_seed = 9007199254740991.0;         // 2^53 - 1: a number in every JSON reader

#define FIELD(f) offsetof(RunFlags, f)
static const Flag flags[] = {
    { "samples", "", "a folder of `cbdm sample`, of class folders of PNGs or of PNGs, an .npz or an .npy", FLAG_STR,
      FIELD(samples), NULL, 0, 0 },
    { "gen-labels", "", ".npy of labels, for an array that comes without", FLAG_STR, FIELD(gen_labels), NULL, 0, 0 },
    { "checkpoint", "", "or: RUN (its newest), RUN@STEP or a file to draw from, without writing images", FLAG_STR,
      FIELD(draw.checkpoint), NULL, 0, 0 },
    { "data", "builtin", "the data set that was trained on", FLAG_STR, FIELD(data), NULL, 0, 0 },
    { "split", "test", "which of its images samples are measured against", FLAG_ENUM, FIELD(split), split_names, 0, 0 },
    { "device", "auto", "auto, cpu, ref, cuda", FLAG_STR, FIELD(device), NULL, 0, 0 },
    { NULL, NULL, "the training subset: groups by frequency, nearest training images", FLAG_STR, 0, NULL, 0, 0 },
    { "imb-type", "exp", "exp, step, or none for all images", FLAG_ENUM, FIELD(imb_type), imb_type_names, 0, 0 },
    { "imb-factor", "0.01", "images of the rarest class by those of the most frequent", FLAG_F64, FIELD(imb_factor),
      NULL, 1e-6, 1 },
    { "lt-seed", "0", "seed of the subset", FLAG_I64, FIELD(lt_seed), NULL, 0, 4294967295.0 },
    { "lt-index", "", "file of lines `class ordinal` in place of the three above", FLAG_STR, FIELD(lt_index), NULL, 0,
      0 },
    { "groups", "thirds", "many, medium and few: thirds, class counts such as 3,3,4, or limits such as 100,20",
      FLAG_LIST, FIELD(groups), NULL, 0, 0 },
    { NULL, NULL, "features", FLAG_STR, 0, NULL, 0, 0 },
    { "features", "classifier", "classifier (cbdm eval train-classifier), inception, or a file of weights of either",
      FLAG_STR, FIELD(features), NULL, 0, 0 },
    { "weights", "", "file of the network's weights; empty: the classifier kept for the data, or torch's hub cache",
      FLAG_STR, FIELD(weights), NULL, 0, 0 },
    { "protocol", "cbdm", "how images reach the network", FLAG_ENUM, FIELD(protocol), protocol_names, 0, 0 },
    { "extract-batch", "64", "images that pass the network together", FLAG_INT, FIELD(extract_batch), NULL, 1, 4096 },
    { NULL, NULL, "drawing from --checkpoint, as cbdm sample does", FLAG_STR, 0, NULL, 0, 0 },
    { "seeds", "0-9999", "image numbers", FLAG_LIST, FIELD(draw.seeds), NULL, 0, 0 },
    { "seed", "0", "key of all draws", FLAG_I64, FIELD(draw.seed), NULL, 0, max_seed },
    { "labels", "balanced", "balanced, iid, none, a list that cycles, or @FILE", FLAG_LIST, FIELD(draw.labels), NULL,
      0, 0 },
    { "omega", "0", "guidance strength; with --samples, the one that they were drawn at", FLAG_F64, FIELD(draw.omega),
      NULL, -1, 100 },
    { "sampler", "ddim", "ancestral sampling or DDIM", FLAG_ENUM, FIELD(draw.sampler), sampler_names, 0, 0 },
    { "steps", "0", "network evaluations; 0: all T of ddpm, 50 of ddim", FLAG_INT, FIELD(draw.steps), NULL, 0, 100000 },
    { "eta", "0", "ddim: share of the ancestral noise", FLAG_F64, FIELD(draw.eta), NULL, 0, 1 },
    { "variance", "fixedlarge", "ddpm: variance of a step", FLAG_ENUM, FIELD(draw.variance), var_type_names, 0, 0 },
    { "clip-x0", "0", "limit of the predicted image in each step; 0: none", FLAG_F64, FIELD(draw.x0_clip), NULL, 0,
      1e6 },
    { "batch", "64", "images drawn together", FLAG_INT, FIELD(draw.batch), NULL, 1, 65536 },
    { "draw-weights", "ema", "averaged weights or those of the last step", FLAG_ENUM, FIELD(draw.weights),
      weight_names, 0, 0 },
    { "dtype", "auto", "how activations are stored; auto: bf16 on cuda, f32 elsewhere", FLAG_ENUM, FIELD(draw.dtype),
      dtype_choices, 0, 0 },
    { NULL, NULL, "metrics", FLAG_STR, 0, NULL, 0, 0 },
    { "per-class", "true", "also for each class and for many, medium and few", FLAG_BOOL, FIELD(per_class), NULL, 0,
      0 },
    { "skip", "", "what is left out: a list of fid, kid, prdc, is, prd, mind", FLAG_LIST, FIELD(skip), NULL, 0, 0 },
    { "loose", "false", "precision, recall, density, coverage: inside a ball means d <= r, else d < r, as in CBDM",
      FLAG_BOOL, FIELD(loose), NULL, 0, 0 },
    { "kid-subsets", "false", "KID as the mean of 100 subsets of at most 1000 rows instead of all pairs", FLAG_BOOL,
      FIELD(metrics.kid_subsets), NULL, 0, 0 },
    { "is-splits", "10", "parts of the Inception Score", FLAG_INT, FIELD(metrics.splits), NULL, 1, 100000 },
    { "is-shuffle", "false", "its rows are permuted first", FLAG_BOOL, FIELD(metrics.shuffle), NULL, 0, 0 },
    { "prd-clusters", "20", "of PRD; 0: 20 for each class, as CBDM", FLAG_INT, FIELD(metrics.prd_clusters), NULL, 0,
      100000 },
    { "prd-runs", "10", "clusterings whose curves are averaged", FLAG_INT, FIELD(metrics.prd_runs), NULL, 1, 1000 },
    { "mind-directions", "1000", "random directions of MIND", FLAG_INT, FIELD(metrics.mind_directions), NULL, 1,
      1000000 },
    { "bootstrap", "200", "resamples for the 95% intervals of FID and KID; 0: none", FLAG_INT,
      FIELD(metrics.bootstrap), NULL, 0, 100000 },
    { "bootstrap-cost", "2e11", "an interval that would cost more operations is left out, with a warning", FLAG_F64,
      FIELD(metrics.bootstrap_cost), NULL, 0, 1e18 },
    { "metric-seed", "0", "of resamples, clusterings and directions", FLAG_I64, FIELD(metrics.seed), NULL, 0,
      max_seed },
    { NULL, NULL, "questions", FLAG_STR, 0, NULL, 0, 0 },
    { "questions", "fidelity,nearest,diversity",
      "of these and cas, downstream; all; none. The last two train classifiers",
      FLAG_LIST, FIELD(questions), NULL, 0, 0 },
    { "classifier", "", "weights of the classifier that judges labels, where --features is another network", FLAG_STR,
      FIELD(classifier), NULL, 0, 0 },
    { "clf-preset", "auto", "recipe of cas and downstream; auto: standard on a GPU, quick elsewhere", FLAG_ENUM,
      FIELD(clf_preset), clf_preset_names, 0, 0 },
    { "clf-depth", "0", "layers, 6 k + 2; 0: as the recipe says", FLAG_INT, FIELD(clf_depth), NULL, 0, 110 },
    { "clf-epochs", "0", "passes over the images; 0: as the recipe says", FLAG_F64, FIELD(clf_epochs), NULL, 0, 1e5 },
    { "clf-flip", "true", "mirror images by chance", FLAG_BOOL, FIELD(clf_flip), NULL, 0, 0 },
    { "clf-seed", "0", "of initial weights, order, crops and flips", FLAG_I64, FIELD(clf_seed), NULL, 0, max_seed },
    { NULL, NULL, "files", FLAG_STR, 0, NULL, 0, 0 },
    { "json", "", "the result (eval/README.md), with NAME-samples.png and NAME-nearest.png beside it", FLAG_STR,
      FIELD(json), NULL, 0, 0 },
    { "save-features", "", ".safetensors of the samples' features, labels and probabilities", FLAG_STR,
      FIELD(save_features), NULL, 0, 0 },
};
enum { N_FLAGS = sizeof flags / sizeof flags[0] };
static const char usage[] = "cbdm eval run --samples DIR|NPZ|NPY | --checkpoint RUN --data PATH [options]";
static const char about[] =
    "Measures samples against the real images of a data set: FID, KID, precision, recall and the rest of "
    "cbdm eval metrics, overall, per class and for frequent and rare classes; then what long-tailed training makes one "
    "ask.";

static bool parse_questions(Run *r, Error *err) {
    static const char *const names[ASK_COUNT] = { "fidelity", "nearest", "diversity", "cas", "downstream" };
    const char *at = r->c.questions;
    if (strcmp(at, "none") == 0) return true;
    for (;;) {
        size_t n = strcspn(at, ",");
        bool all = n == 3 && strncmp(at, "all", n) == 0, known = all;
        for (int i = 0; i < ASK_COUNT; i++)
            if (all || (n == strlen(names[i]) && strncmp(at, names[i], n) == 0)) r->ask[i] = known = true;
        if (!known)
            return error_set(err, ERR_USAGE,
                             "--questions %s: fidelity, nearest, diversity, cas, downstream, all or none",
                             r->c.questions);
        if (!at[n]) return true;
        at += n + 1;
    }
}

// Samples are drawn already: of the flags that say how, none says anything of them but --omega, which is recorded.
static bool check_drawing_flags(Run *r, const bool *set, Error *err) {
    for (int i = 0; i < N_FLAGS; i++) {
        const Flag *f = &flags[i];
        bool draws = f->name && f->offset >= FIELD(draw) && f->offset < FIELD(draw) + sizeof(DrawConfig);
        if (!draws || !set[i]) continue;
        if (f->offset == FIELD(draw.omega)) r->omega_given = true;
        else if (f->offset != FIELD(draw.checkpoint))
            return error_set(err, ERR_USAGE, "--%s says how to draw from a --checkpoint; those of --samples are drawn "
                             "already: leave it out", f->name);
    }
    return true;
}
#undef FIELD

static bool check_flags(Run *r, const bool *set, Error *err) {
    if (!*r->c.samples == !*r->c.draw.checkpoint)
        return error_set(err, ERR_USAGE, "usage: %s (--help lists the options)", usage);
    if (!*r->c.data) return error_set(err, ERR_USAGE, "no data named: give --data PATH, or --data builtin");
    if (*r->c.gen_labels && !*r->c.samples)
        return error_set(err, ERR_USAGE, "--gen-labels belongs to --samples; labels to draw are --labels");
    if (*r->c.samples && !check_drawing_flags(r, set, err)) return false;
    r->c.metrics.strict = !r->c.loose;
    if (!linalg_there(err) || (*r->c.json && !file_can_write(r->c.json, err)) ||
        (*r->c.save_features && !file_can_write(r->c.save_features, err)))
        return false;
    return metrics_skip(r->c.skip, &r->c.metrics.skip, err) && parse_questions(r, err);
}

static bool measure(Run *r, Error *err) {
    MetricOptions *o = &r->c.metrics;
    o->classes = r->c.per_class ? r->table.classes : 0;
    o->group_of = r->c.per_class ? r->group_of : NULL;
    double began = now_seconds();
    if (!metrics_check(&r->gen, &r->ref, o, err)) return false;
    if (device_kind(r->device) == DEV_CUDA) linalg_use(r->device, LINALG_WORTH_COPYING);
    metrics_compute(&r->gen, &r->ref, o, &r->metrics);
    linalg_use(NULL, 0);
    if (r->other_classifier)
        metrics_warn(&r->metrics, "the classifier was not trained on the whole training set of %s: label fidelity and "
                     "features are another network's than of results that say nothing here", r->c.data);
    log_info("metrics of %lld and %lld rows of %d in %.1f s", (long long)r->gen.n, (long long)r->ref.n, r->gen.dim,
             now_seconds() - began);
    return true;
}

static void print(const Run *r) {
    char *title = run_title(r), *groups = groups_text(r->group_of, r->table.classes);
    printf("%s\ngroups %s: %s\n", title, r->c.groups, groups);
    metrics_print(&r->metrics, &r->c.metrics, r->table.names, stdout);
    answers_print(&r->answers, &r->table, stdout);
    fflush(stdout);
    free(title);
    free(groups);
}

// Of the networks that cas and downstream train; found out before anything is drawn.
static bool check_sides(const Run *r, Error *err) {
    const ImageSet *s = &r->samples.images;
    int least = s->height < s->width ? s->height : s->width, most = s->height > s->width ? s->height : s->width;
    if ((!r->ask[ASK_CAS] && !r->ask[ASK_DOWNSTREAM]) || (least >= 8 && most <= 512)) return true;
    return error_set(err, ERR_USAGE, "--questions cas and downstream train classifiers of 8 to 512 pixels a side, "
                     "these images have %d x %d: leave them out", s->height, s->width);
}

static bool write_result(Run *r, Error *err) {
    char *settings = cli_json(flags, N_FLAGS, &r->c);
    bool ok = run_write(r, settings, err);
    free(settings);
    return ok;
}

// Everything is checked before hours of drawing, and what is known is written before hours of training.
static bool evaluate(Run *r, Error *err) {
    if (!run_open_data(r, err) || !check_sides(r, err) || !run_open_extractor(r, err) ||
        (r->drawing && !drawing_run(r->drawing, &r->samples, err)) || !run_extract(r, err) ||
        !run_save_features(r, err) || !measure(r, err))
        return false;
    run_ask(r);
    if (!write_result(r, err)) return false;
    bool train = r->ask[ASK_CAS] || r->ask[ASK_DOWNSTREAM];
    bool ok = !train || (run_recognise(r, err) && write_result(r, err));
    print(r);
    if (ok && *r->c.json) log_info("%s: the result", r->c.json);
    return ok;
}

static void run_free(Run *r) {
    metrics_free(&r->metrics);
    fidelity_free(&r->fidelity);
    nearest_free(&r->nearest);
    shares_free(&r->cas.top1);
    for (int i = 0; i < DOWNSTREAM_ARMS; i++) shares_free(&r->downstream[i].top1);
    free(r->answers.diversity);
    free(r->answers.real_diversity);
    features_free(&r->gen);
    features_free(&r->ref);
    features_free(&r->held_out);
    features_free(&r->lt_features);
    extractor_close(r->extractor);
    classifier_close(r->judge);
    samples_free(&r->samples);
    drawing_close(r->drawing);
    dataset_close(r->train);
    dataset_close(r->test);
    dataset_close(r->lt);
    free(r->group_of);
    free(r->classifier);
    free(r->gen_sheet);
    free(r->nearest_sheet);
    if (r->device) device_close(r->device);
}

int run_main(int argc, char **argv) {
    Run r = { 0 };
    Error err = { 0 };
    bool set[N_FLAGS];
    r.c.metrics = metric_options;
    cli_defaults(flags, N_FLAGS, &r.c);
    if (cli_wants_help(argc, argv)) {
        cli_help(flags, N_FLAGS, usage, about);
        return 0;
    }
    bool ok = cli_parse(flags, N_FLAGS, &r.c, argc - 1, argv + 1, NULL, NULL, set, &err) &&
              check_flags(&r, set, &err) && (r.device = device_open(r.c.device, &err));
    if (ok && device_is_null(r.device))
        ok = error_set(&err, ERR_USAGE, "--device %s plans and computes nothing: evaluation needs another", r.c.device);
    ok = ok && evaluate(&r, &err);
    run_free(&r);
    if (!ok) log_info("%s%s", err.code == ERR_INTERRUPTED ? "" : "error: ", err.msg);
    return ok ? 0 : err.code;
}
