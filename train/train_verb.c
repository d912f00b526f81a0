// train/train_verb.c - the verbs train and bench-step.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "core/cli.h"
#include "train/trainer.h"

static int fail(const Error *err) {
    log_info("%s%s", err->code == ERR_INTERRUPTED ? "" : "error: ", err->msg);
    return err->code;
}

static bool helped(int argc, char **argv, const char *usage, const char *about) {
    int n;
    const Flag *flags = run_flags(&n);
    if (cli_wants_help(argc, argv)) cli_help(flags, n, usage, about);
    return cli_wants_help(argc, argv);
}

static void announce(const RunConfig *c, const Trainer *t) {
    char machine[320];
    device_describe(trainer_device(t), machine, sizeof machine);
    log_info("%s", machine);
    trainer_report(t, stderr);
    log_info("run %s: step %lld of %lld, batch %d, objective %s", c->out, (long long)trainer_steps_done(t),
             (long long)c->steps, c->batch, c->objective == OBJECTIVE_CBDM ? "cbdm" : "ddpm");
}

static bool run_in_folder(const RunConfig *c, Trainer *t, Error *err) {
    RunDir *dir = run_dir_open(c->out, *c->resume, err);
    if (!dir) return false;
    const DatasetInfo *data = trainer_data(t);
    bool ok = *c->resume ? run_dir_rewind(dir, trainer_steps_done(t), err) : true;
    ok = ok && run_dir_describe(dir, c, data, trainer_device(t), err);
    if (ok) announce(c, t);
    ok = ok && trainer_run(t, dir, err);
    run_dir_close(dir);
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    if (ok) log_info("done: %lld steps; checkpoints, previews and stats.jsonl are in %s; peak memory %.1f MB",
                     (long long)trainer_steps_done(t), c->out, (double)u.ru_maxrss / 1e3);
    return ok;
}

int train_main(int argc, char **argv) {
    if (helped(argc, argv, "cbdm train --data PATH --out RUN [flags]", "Train a class-balancing diffusion model."))
        return 0;
    RunConfig c;
    Error err = { 0 };
    if (!run_config_parse(&c, argc - 1, argv + 1, &err)) return fail(&err);
    bool dry = strncmp(c.device, "null", 4) == 0 || c.dump_graph || c.profile;
    if (!dry && !*c.out) {
        error_set(&err, ERR_USAGE, "name the run's folder with --out RUN, or go on with --resume RUN");
        return fail(&err);
    }
    if (!dry) stop_catch();                   // so that also a run stopped while it is set up can be resumed
    Trainer *t = trainer_new(&c, &err);
    if (!t) return fail(&err);
    bool ok = true;
    if (c.dump_graph) trainer_dump(t, stdout);
    else if (c.profile && strncmp(c.device, "null", 4) != 0) trainer_profile(t, stdout);
    else if (dry) trainer_report(t, stdout);
    else ok = run_in_folder(&c, t, &err);
    trainer_free(t);
    return ok ? 0 : fail(&err);
}

// Reads lines "go K", runs K steps, answers the seconds of one; for tests/peer/ratio.sh and by hand.
int bench_step_main(int argc, char **argv) {
    if (helped(argc, argv, "cbdm bench-step [flags of train]", "Time training steps: lines `go K` on standard input."))
        return 0;
    RunConfig c;
    Error err = { 0 };
    if (!run_config_parse(&c, argc - 1, argv + 1, &err)) return fail(&err);
    c.probe_every = c.preview_every = 0;
    Trainer *t = trainer_new(&c, &err);
    if (!t) return fail(&err);
    double loss[3];
    trainer_step(t, loss);
    printf("ready\n");
    fflush(stdout);
    int k;
    while (scanf(" go %d", &k) == 1 && k > 0) {
        double start = now_seconds();
        for (int i = 0; i < k; i++) {                    // as trainer_run does: a GPU is not waited for at every step
            trainer_begin(t);
            if (trainer_pending(t) > 2) trainer_take(t);
        }
        while (trainer_pending(t)) trainer_take(t);
        printf("%.6f\n", (now_seconds() - start) / k);
        fflush(stdout);
    }
    trainer_free(t);
    return 0;
}
