// eval/train_judge.c - per-class numbers of samples drawn while training: the share recognised as their own class, and
// with a classifier FID and KID in its features, overall and for the most frequent, middle and rarest third of classes.
#include "eval/train_judge.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/centroid.h"
#include "eval/frechet.h"
#include "eval/groups.h"
#include "eval/pairs.h"
#include "eval/reference.h"
#include "sample/sampler.h"

enum { ALL = GROUP_COUNT, PARTS, EXTRACT_BATCH = 64 };
// Rows of a table that belong to a group of classes, or all of them.
typedef struct { int64_t *row, n; } Part;
typedef struct { int64_t *right, *seen; } Tally;           // (classes)

// Without a classifier an image is of the class whose mean test image is nearest.
typedef struct {
    const DatasetInfo *held_out;
    int        classes, *group_of;                         // (classes)
    Tally      truth;                                      // of the test images themselves
    double    *means;                                      // (classes,H*W*C); NULL: there is a classifier
    Extractor *extractor;                                  // NULL: there is none
    Features   ref;                                        // of the test images, and their parts
    Part       part[PARTS];
    Gaussian   fit[PARTS];                                 // of parts with at least 2 rows
} Judge;

static Tally tally_new(int classes) {
    return (Tally){ xcalloc((size_t)classes, sizeof(int64_t)), xcalloc((size_t)classes, sizeof(int64_t)) };
}

static void tally_free(Tally *t) {
    free(t->right);
    free(t->seen);
}

// ---- with a classifier
static void find_parts(const Judge *j, const Features *f, Part part[PARTS]) {
    for (int g = 0; g < PARTS; g++) part[g] = (Part){ xmalloc((size_t)f->n * sizeof(int64_t)), 0 };
    for (int64_t i = 0; i < f->n; i++) {
        Part *own = &part[j->group_of[f->label[i]]], *all = &part[ALL];
        own->row[own->n++] = i;
        all->row[all->n++] = i;
    }
}

static void recognise(const Features *f, Tally *t) {
    for (int64_t i = 0; i < f->n; i++) {
        const float *p = f->probs + i * f->classes;
        int best = 0;
        for (int c = 1; c < f->classes; c++)
            if (p[c] > p[best]) best = c;
        t->seen[f->label[i]]++;
        t->right[f->label[i]] += best == f->label[i];
    }
}

static bool open_classifier(Judge *j, Device *device, const char *path, Error *err) {
    const DatasetInfo *d = j->held_out;
    ImageSet s = { .n = d->count, .height = d->height, .width = d->width, .channels = d->channels, .u8 = d->images,
                   .label = d->labels, .name = d->source };
    j->extractor = extractor_classifier(device, path, EXTRACT_BATCH, err);
    if (!j->extractor || !extractor_check(j->extractor, &s, err)) return false;
    if (j->extractor->classes != j->classes)
        return error_set(err, ERR_USAGE, "--eval-classifier %s knows %d classes, the data has %d", path,
                         j->extractor->classes, j->classes);
    if (!reference_features(j->extractor, &s, d->digest, PROTOCOL_CBDM, &j->ref, err)) return false;
    recognise(&j->ref, &j->truth);
    find_parts(j, &j->ref, j->part);
    for (int g = 0; g < PARTS; g++)
        if (j->part[g].n >= 2) gaussian_fit(&j->ref, j->part[g].row, j->part[g].n, &j->fit[g]);
    return true;
}

// Distances of each part, NaN where either side has fewer than 2 rows or a diverged network gave no numbers.
static void measure(const Judge *j, const Features *f, double fid[PARTS], double kid[PARTS]) {
    Part part[PARTS];
    bool finite = features_broken(f) < 0;
    find_parts(j, f, part);
    for (int g = 0; g < PARTS; g++) {
        fid[g] = kid[g] = NAN;
        if (finite && part[g].n >= 2 && j->part[g].n >= 2) {
            Gaussian fit;
            gaussian_fit(f, part[g].row, part[g].n, &fit);
            fid[g] = frechet_distance(&fit, &j->fit[g]);
            kid[g] = kid_full((Rows){ f, part[g].row, part[g].n }, (Rows){ &j->ref, j->part[g].row, j->part[g].n });
            gaussian_free(&fit);
        }
        free(part[g].row);
    }
}

static void ask_classifier(Judge *j, int64_t n, const float *images, const int32_t *label, Tally *made,
                           double fid[PARTS], double kid[PARTS]) {
    const DatasetInfo *d = j->held_out;
    ImageSet s = { .n = n, .height = d->height, .width = d->width, .channels = d->channels, .f32 = images,
                   .label = label, .name = "samples" };
    Features f;
    extractor_table(j->extractor, &s, false, &f);
    recognise(&f, made);
    measure(j, &f, fid, kid);
    features_free(&f);
}

// ---- without one
static void learn_means(Judge *j) {
    const DatasetInfo *d = j->held_out;
    j->means = xmalloc((size_t)j->classes * (size_t)(d->height * d->width * d->channels) * sizeof *j->means);
    centroids_of(d, j->means);
    centroid_classify(d, j->means, j->truth.right, j->truth.seen);
}

static void ask_means(const Judge *j, int64_t n, const float *images, const int32_t *label, Tally *made) {
    DatasetInfo d = *j->held_out;
    int64_t e = (int64_t)d.height * d.width * d.channels;
    uint8_t *pixels = xmalloc((size_t)(n * e));
    images_to_u8(images, n * e, pixels);
    d.count = n;
    d.images = pixels;
    d.labels = label;
    centroid_classify(&d, j->means, made->right, made->seen);
    free(pixels);
}

// ---- what goes into the line
static char *number(double v) { return isfinite(v) ? xasprintf("%.6g", v) : xstrdup("null"); }
static char *share(int64_t right, int64_t seen) { return number(seen ? (double)right / (double)seen : (double)NAN); }

static char *json_shares(const Tally *t, int classes) {
    char *out = xstrdup("[");
    for (int c = 0; c < classes; c++) {
        char *one = share(t->right[c], t->seen[c]), *next = xasprintf("%s%s%s", out, c ? ", " : "", one);
        free(one);
        free(out);
        out = next;
    }
    char *closed = xasprintf("%s]", out);
    free(out);
    return closed;
}

static char *json_group(const Judge *j, int g, const Tally *made, const double *fid, const double *kid) {
    int64_t right = 0, seen = 0;
    for (int c = 0; c < j->classes; c++)
        if (j->group_of[c] == g) right += made->right[c], seen += made->seen[c];
    char *part[] = { share(right, seen), j->extractor ? number(fid[g]) : NULL, j->extractor ? number(kid[g]) : NULL };
    char *out = j->extractor ? xasprintf("\"%s\": {\"fidelity\": %s, \"fid\": %s, \"kid\": %s}", group_names[g],
                                         part[0], part[1], part[2])
                             : xasprintf("\"%s\": {\"fidelity\": %s}", group_names[g], part[0]);
    for (int i = 0; i < 3; i++) free(part[i]);
    return out;
}

static char *json_judged(const Judge *j, const Tally *made, const double *fid, const double *kid) {
    char *shares = json_shares(made, j->classes), *truth = json_shares(&j->truth, j->classes), *group[GROUP_COUNT];
    char *judge = j->extractor ? xasprintf("%s %.12s", j->extractor->name, j->extractor->hash)
                               : xstrdup("nearest class mean");
    char *all = xstrdup("");
    if (j->extractor) {
        char *f = number(fid[ALL]), *k = number(kid[ALL]);
        free(all);
        all = xasprintf("\"fid\": %s, \"kid\": %s, ", f, k);
        free(f);
        free(k);
    }
    for (int g = 0; g < GROUP_COUNT; g++) group[g] = json_group(j, g, made, fid, kid);
    char *text = xasprintf("\"judge\": \"%s\", %s\"fidelity\": %s, \"real_fidelity\": %s, \"groups\": \"thirds\", "
                           "\"per_group\": {%s, %s, %s}", judge, all, shares, truth, group[GROUP_MANY],
                           group[GROUP_MEDIUM], group[GROUP_FEW]);
    for (int g = 0; g < GROUP_COUNT; g++) free(group[g]);
    free(judge);
    free(all);
    free(shares);
    free(truth);
    return text;
}

// ---- the hook
static void judge_close(void *self) {
    Judge *j = self;
    for (int g = 0; g < PARTS; g++) {
        if (j->part[g].n >= 2) gaussian_free(&j->fit[g]);
        free(j->part[g].row);
    }
    features_free(&j->ref);
    extractor_close(j->extractor);
    tally_free(&j->truth);
    free(j->means);
    free(j->group_of);
    free(j);
}

static void *judge_open(Device *device, const DatasetInfo *train, const DatasetInfo *held_out, const char *classifier,
                        Error *err) {
    Judge *j = xcalloc(1, sizeof *j);
    j->held_out = held_out;
    j->classes = held_out->classes;
    j->group_of = xcalloc((size_t)j->classes, sizeof *j->group_of);
    j->truth = tally_new(j->classes);
    bool ok = groups_of("thirds", train->per_class, j->classes, j->group_of, err) &&
              (!*classifier || open_classifier(j, device, classifier, err));
    if (ok && !*classifier) learn_means(j);
    if (ok) return j;
    judge_close(j);
    return NULL;
}

static char *judge_samples(void *self, int64_t n, const float *images, const int32_t *label) {
    Judge *j = self;
    Tally made = tally_new(j->classes);
    double fid[PARTS] = { 0 }, kid[PARTS] = { 0 };
    if (j->extractor) ask_classifier(j, n, images, label, &made, fid, kid);
    else ask_means(j, n, images, label, &made);
    char *text = json_judged(j, &made, fid, kid);
    tally_free(&made);
    return text;
}

const TrainJudge train_judge_of_eval = { judge_open, judge_samples, judge_close };
