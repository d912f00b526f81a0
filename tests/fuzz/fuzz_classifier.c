// tests/fuzz/fuzz_classifier.c - any bytes as a classifier's file: refused, or a configuration and all of its tensors.
#include "eval/classifier_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    Error err;
    ClassifierConfig c;
    SafeTensors *st = st_parse(bytes, n, "fuzz", &err);
    if (!st) return 0;
    if (classifier_read_config(st, "fuzz", &c, &err) && classifier_check_tensors(st, "fuzz", &c, &err)) {
        const StTensor *last = st_find(st, "linear.weight");
        CHECK(last && last->shape[0] == c.classes && last->shape[1] == 4 * c.recipe.width, "%d classes", c.classes);
        CHECK(st_find(st, classifier_conv_spec(&c, 0).norm) == NULL, "a layer is no tensor");
    }
    st_close(st);
    return 0;
}
