// tests/parity.c - replays a case of the published code on one device and judges it, by the rules of tests/parity.h:
// for machines without cmocka, which is to say GPU machines.
//
//   parity CASE DEVICE FOLDER [KERNELS]        FOLDER: for the replays; KERNELS: --kernel of those on DEVICE.
// Exit 0: f32 and bf16 hold; 1: not; 2: could not run
#include "tests/parity.h"

static bool replay(const char *example, const char *device, const char *dtype, const char *folder, const char *kernels,
                   Results *out) {
    char path[4096], *command;
    Error err;
    snprintf(path, sizeof path, "%s/%s-%s.safetensors", folder, device, dtype);
    command = xasprintf("'%s' replay '%s' --output '%s' --device '%s' --dtype %s --kernel '%s'", CBDM_PROGRAM, example,
                        path, device, dtype, kernels);
    int status = system(command);
    free(command);
    if (status != 0) {
        printf("parity: the replay on %s in %s ended with status %d\n", device, dtype, status);
        return false;
    }
    if (results_read(path, out, &err)) return true;
    printf("parity: %s\n", err.msg);
    return false;
}

static bool print_verdict(const char *what, const Verdict *v) {
    for (int i = 0; i < v->n; i++)
        printf("%-12s %-22s %.2e  (limit %.1e)  %s\n", what, v->group[i].name, v->group[i].worst, v->group[i].limit,
               v->group[i].where);
    if (failures(v)) printf("%s: %d groups fail or are incomplete; missing: %s\n", what, failures(v), v->first_missing);
    return failures(v) == 0 && v->n > 10;
}

int main(int argc, char **argv) {
    if (argc != 4 && argc != 5) {
        fprintf(stderr, "usage: parity CASE DEVICE FOLDER [KERNELS]\n");
        return 2;
    }
    Error err;
    Results example, ref, yard, f32, bf16;
    const char *device = argv[2], *kernels = argc > 4 ? argv[4] : "";
    if (!results_read(argv[1], &example, &err)) {
        printf("parity: %s\n", err.msg);
        return 2;
    }
    if (!replay(argv[1], "ref", "f32", argv[3], "", &ref) || !replay(argv[1], "ref32", "bf16", argv[3], "", &yard) ||
        !replay(argv[1], device, "f32", argv[3], kernels, &f32) ||
        !replay(argv[1], device, "bf16", argv[3], kernels, &bf16)) return 2;
    Verdict in_f32 = judge(&example, &f32, 1), in_bf16 = judge_bf16(&example, &ref, &yard, &bf16);
    char what[64];
    bool ok = print_verdict(device, &in_f32);
    snprintf(what, sizeof what, "%s:bf16", device);
    ok &= print_verdict(what, &in_bf16);
    printf("parity: %s %s\n", device, ok ? "agrees" : "DIFFERS");
    Results *all[] = { &example, &ref, &yard, &f32, &bf16 };
    for (int i = 0; i < 5; i++) results_free(all[i]);
    return ok ? 0 : 1;
}
