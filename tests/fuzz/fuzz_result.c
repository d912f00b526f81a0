// tests/fuzz/fuzz_result.c - any bytes as a result file; what is read can be printed and compared with itself.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "eval/report_result.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    Error err = { 0 };
    Result *r = result_parse((const char *)bytes, n, "fuzz", &err);
    CHECK(r || (err.code == ERR_FILE && strncmp(err.msg, "fuzz: ", 6) == 0), "%d %s", err.code, err.msg);
    if (!r) return 0;
    char *same = result_differs(r, r), *protocol = result_protocol(r);
    CHECK(!same, "%s", same);
    for (int c = 0; c < r->classes; c++) {
        CHECK(r->class_names[c] && (!r->group_of || r->group_of[c] < GROUP_COUNT), "class %d", c);
        CHECK(!r->train_counts || r->train_counts[c] >= 0, "class %d", c);
        CHECK(!r->per_class || !isinf(r->per_class[c].fid.value), "class %d", c);
    }
    for (int i = 0; i < r->n_pairs; i++)
        CHECK(r->pairs[i].label < r->classes && r->pairs[i].sample >= 0, "pair %d", i);
    char *text = json_print(r->json);
    Result *again = result_parse(text, strlen(text), "again", &err);
    CHECK(again, "%s", err.msg);
    result_free(again);
    free(text);
    free(protocol);
    result_free(r);
    return 0;
}
