// kernels/classify/classify_ref.c - cross entropy by its definition, a row after the other:
//   v = logits + offset,  p = exp(v - max v) / sum exp(v - max v)
//   loss = mean of max v + log(sum exp(v - max v)) - v[label],  dlogits = (p - [label]) / n
#include "kernels/classify/classify.h"
#include "kernels/common/kernel.h"
#include "kernels/common/ref.h"

static acc logit(const CrossEntropyShape *z, const CrossEntropyArgs *a, int i, int k) {
    return (acc)a->logits[(int64_t)i * z->c + k] + (a->offset ? (acc)a->offset[k] : 0);
}

static void run(Stream *stream, const CrossEntropyShape *z, const CrossEntropyArgs *a, Work work) {
    acc total = 0;
    for (int i = 0; i < z->n; i++) {
        int label = a->label[i];
        CHECK(label >= 0 && label < z->c, "cross entropy: label %d of %d classes", label, z->c);
        acc top = logit(z, a, i, 0), sum = 0;
        for (int k = 1; k < z->c; k++) top = logit(z, a, i, k) > top ? logit(z, a, i, k) : top;
        for (int k = 0; k < z->c; k++) sum += (acc)exp((double)(logit(z, a, i, k) - top));
        total += (acc)log((double)sum) - (logit(z, a, i, label) - top);
        for (int k = 0; a->dlogits && k < z->c; k++) {
            acc p = (acc)exp((double)(logit(z, a, i, k) - top)) / sum;
            a->dlogits[(int64_t)i * z->c + k] = (real)((p - (k == label ? 1 : 0)) / (acc)z->n);
        }
    }
    a->loss[0] = (real)(total / (acc)z->n);
}

IMPLS(classify_ref,
    IMPL(cross_entropy, "loops", run))
