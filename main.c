// main.c - the program: one verb after its name; each verb and its flags live in the folder they belong to.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifndef CBDM_NO_CJSON
#include <cjson/cJSON.h>
#endif

#include "core/cli.h"
#include "sample/sample_verb.h"
#include "eval/eval_verb.h"
#include "eval/report.h"
#include "eval/train_judge.h"
#include "tests/workbench.h"
#include "train/dataset.h"
#include "train/replay.h"
#include "train/trainer.h"

static const struct { const char *name; int (*run)(int argc, char **argv); const char *about; } verbs[] = {
    { "train", train_main, "train a network, or go on with a run" },
    { "bench-step", bench_step_main, "time training steps" },
#ifndef CBDM_NO_CJSON
    { "sample", sample_main, "draw images from a checkpoint" },
    { "info", info_main, "what a checkpoint or another safetensors file holds" },
    { "export", export_main, "weights alone, under the published names" },
#endif
    { "data", data_main, "look at a data set, draw long-tailed subsets of it" },
    { "eval", eval_main, "judge samples" },
    { "report", report_main, "a page about runs, tables of their results" },
    { "check", check_main, "hold kernels to the reference" },
    { "bench", bench_main, "time kernels at the network's shapes" },
    { "op", op_main, "run one launcher on arrays from a file" },
    { "replay", replay_main, "recompute a case of the published code" },
};
enum { N_VERBS = sizeof verbs / sizeof verbs[0] };

static void usage(FILE *f) {
    fprintf(f, "cbdm %s - class-balancing diffusion models on long-tailed data\n\nusage: cbdm VERB [--flag value ...], "
               "cbdm VERB --help\n\n", CBDM_VERSION);
    for (int i = 0; i < N_VERBS; i++) fprintf(f, "  %-10s %s\n", verbs[i].name, verbs[i].about);
}

// Waiting threads of libgomp spin for milliseconds, which makes a step tenfold slower as soon as anything else wants a
// core, and gains nothing where nothing does. It reads its settings when it is loaded, hence the second start.
static void calm_waiting_threads(char **argv) {
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
    setenv("GOMP_SPINCOUNT", "1000", 1);
    execv("/proc/self/exe", argv);
}

int main(int argc, char **argv) {
    calm_waiting_threads(argv);
#ifndef CBDM_NO_CJSON
    cJSON_InitHooks(&(cJSON_Hooks){ xmalloc, free });      // else an object without memory loses fields silently
#endif
    train_judge_register(&train_judge_of_eval);
    const char *known[N_VERBS];
    for (int i = 0; i < N_VERBS; i++) {
        known[i] = verbs[i].name;
        if (argc > 1 && strcmp(argv[1], verbs[i].name) == 0) return verbs[i].run(argc - 1, argv + 1);
    }
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)) return usage(stdout), 0;
    if (argc > 1 && strcmp(argv[1], "--version") == 0) return printf("cbdm %s\n", CBDM_VERSION), 0;
    if (argc > 1) {
        const char *near = cli_nearest(argv[1], known, N_VERBS);
        log_info("error: unknown verb %s%s%s; `cbdm --help` lists them", argv[1], near ? ": did you mean " : "",
                 near ? near : "");
    } else {
        usage(stderr);
    }
    return ERR_USAGE;
}
