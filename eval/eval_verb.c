// eval/eval_verb.c - the verbs below `cbdm eval`, one row each.
#include "eval/eval_verb.h"

#include <stdio.h>
#include <string.h>

#include "core/cli.h"
#include "eval/centroid.h"
#include "eval/classifier.h"
#include "eval/metrics.h"
#include "eval/reference.h"
#include "eval/run_verb.h"

static const struct { const char *name; int (*run)(int argc, char **argv); const char *about; } verbs[] = {
    { "run", run_main, "samples of a folder, a file or a checkpoint, judged against real images" },
    { "metrics", metrics_main, "FID, KID, precision, recall and the rest from feature files" },
    { "ref", ref_main, "features and statistics of real images, kept and for others to read" },
    { "train-classifier", train_classifier_main, "a ResNet on real images: extractor of features, judge of labels" },
    { "centroid", centroid_main, "share of samples nearest to their own class's mean image" },
};
enum { N_VERBS = sizeof verbs / sizeof verbs[0] };

static void usage(FILE *f) {
    fprintf(f, "usage: cbdm eval VERB [--flag value ...], cbdm eval VERB --help\n\n");
    for (int i = 0; i < N_VERBS; i++) fprintf(f, "  %-18s %s\n", verbs[i].name, verbs[i].about);
}

int eval_main(int argc, char **argv) {
    const char *known[N_VERBS];
    for (int i = 0; i < N_VERBS; i++) {
        known[i] = verbs[i].name;
        if (argc > 1 && strcmp(argv[1], verbs[i].name) == 0) return verbs[i].run(argc - 1, argv + 1);
    }
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)) return usage(stdout), 0;
    if (argc > 1) {
        const char *near = cli_nearest(argv[1], known, N_VERBS);
        log_info("error: unknown verb eval %s%s%s; `cbdm eval --help` lists them", argv[1],
                 near ? ": did you mean " : "",
                 near ? near : "");
    } else {
        usage(stderr);
    }
    return ERR_USAGE;
}
