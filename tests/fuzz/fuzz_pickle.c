// tests/fuzz/fuzz_pickle.c - fuzz target: pickles, their trees walked to the leaves.
#include "core/pickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

// Nodes may be shared, so a walk of the whole tree could take exponential time: it stops after `left` steps.
static void walk(const PickleNode *p, int depth, int *left) {
    CHECK(depth <= PICKLE_MAX_DEPTH, "a tree %d deep", depth);
    if (!p || --*left < 0) return;
    for (size_t i = 0; i < p->count; i++) walk(p->item[i], depth + 1, left);
    if (p->type != PICKLE_CALL) return;
    CHECK(p->callee->type == PICKLE_GLOBAL && p->args->type == PICKLE_TUPLE, "a call of type %d", (int)p->callee->type);
    walk(p->args, depth + 1, left);
    if (p->state) walk(p->state, depth + 1, left);
    PickleArray a;
    Error err;
    pickle_ndarray(p, "input", &a, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    size_t used;
    Error err;
    Pickle *p = pickle_parse(bytes, n, "input", pickle_numpy_globals, &used, &err);
    if (!p) return 0;
    CHECK(used <= n, "%zu of %zu bytes", used, n);
    int left = 100000;
    walk(pickle_root(p), 0, &left);
    pickle_get(pickle_root(p), "data");
    pickle_free(p);
    return 0;
}
