// eval/questions_train.c - recognition: what a classifier learns from generated images, judged on real ones.
#include <stdlib.h>
#include <string.h>

#include "eval/questions.h"

bool recognise(Device *d, const ClassTable *t, const ClassifierRecipe *r, const ImageSet *sets, int n_sets,
               const ImageSet *test, Recognition *out, Error *err) {
    Classifier *c = classifier_new(d, t->classes, test->height, test->width, test->channels, r);
    bool ok = classifier_train(c, sets, n_sets, false, err);
    if (ok) {
        int64_t *right = xcalloc((size_t)t->classes, sizeof *right), *seen = xcalloc((size_t)t->classes, sizeof *seen);
        classifier_judge(c, test, right, seen);
        shares_of(t, right, seen, &out->top1);
        out->adjusted = r->logit_adjust > 0;
        for (int i = 0; i < n_sets; i++) out->n_train += sets[i].n;
        free(right);
        free(seen);
    }
    classifier_close(c);
    return ok;
}

bool downstream(Device *d, const ClassTable *t, const ClassifierRecipe *r, const ImageSet *lt, const ImageSet *gen,
                const ImageSet *test, Recognition *out, Error *err) {
    ImageSet sets[] = { *lt, *gen };
    for (int arm = 0; arm < DOWNSTREAM_ARMS; arm++) {
        ClassifierRecipe one = *r;
        out[arm] = (Recognition){ .generated = arm >= 2 };
        one.logit_adjust = arm % 2 ? (r->logit_adjust > 0 ? r->logit_adjust : 1) : 0;
        log_info("a classifier of the long-tailed images%s, %s loss (%d of %d)", arm >= 2 ? " and the samples" : "",
                 arm % 2 ? "logit-adjusted" : "plain", arm + 1, DOWNSTREAM_ARMS);
        if (!recognise(d, t, &one, sets, arm >= 2 ? 2 : 1, test, &out[arm], err)) return false;
    }
    return true;
}
