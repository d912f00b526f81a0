// eval/run_impl.h - inside `cbdm eval run`: its flags, and what its parts hand to each other.
#ifndef EVAL_RUN_IMPL_H
#define EVAL_RUN_IMPL_H
#include "core/cli.h"
#include "eval/extractor.h"
#include "eval/metrics.h"
#include "eval/questions.h"
#include "eval/samples.h"
EXTERN_C_BEGIN
enum { ASK_FIDELITY, ASK_NEAREST, ASK_DIVERSITY, ASK_CAS, ASK_DOWNSTREAM, ASK_COUNT };
typedef struct {
    const char   *samples, *gen_labels, *data, *lt_index, *features, *weights, *classifier, *questions, *groups, *json;
    const char   *save_features, *device, *skip;
    int           split, protocol, imb_type, extract_batch, clf_preset, clf_depth;
    double        imb_factor, clf_epochs;
    int64_t       lt_seed, clf_seed;
    bool          per_class, loose, clf_flip;
    DrawConfig    draw;
    MetricOptions metrics;
} RunFlags;
extern const char *const split_names[];          // "train", "test", NULL: in the order of Split
extern const char *const clf_preset_names[];     // "auto", "standard", "quick", NULL

typedef struct {
    RunFlags     c;
    bool         ask[ASK_COUNT], omega_given;    // --omega, with --samples
    Device      *device;
    Dataset     *train, *test, *lt;              // all training images; the test split or NULL; the subset
    int          padded;                         // size that the images were padded to for the samples; 0: they fit
    Samples      samples;
    Drawing     *drawing;                        // that samples come from, or NULL
    int         *group_of;                       // (classes)
    ClassTable   table;
    Extractor   *extractor;
    bool         other_classifier;               // the extractor is one that was trained on other images
    Classifier  *judge;                          // of labels, where the extractor is not one; or NULL
    Features     gen, ref, held_out, lt_features;        // held_out: of the test split, where ref is not that
    const Features *real;                        // of the test split
    Metrics      metrics;
    Fidelity     fidelity;
    Nearest      nearest;
    Recognition  cas, downstream[DOWNSTREAM_ARMS];
    ClassifierRecipe recipe;                     // of the recognition questions
    Answers      answers;
    char        *classifier;                     // description of the classifier of the fidelity
    char        *gen_sheet, *nearest_sheet;      // file names of pictures beside the result, or NULL
} Run;

const Dataset *run_reference(const Run *r);      // of --split
ImageSet run_images(const Dataset *d);           // borrowed
// ---- steps, in their order
bool  run_open_data(Run *r, Error *err);         // data sets, samples (not yet drawn), counts and groups
bool  run_open_extractor(Run *r, Error *err);    // the network of the features, and the judge of labels
bool  run_extract(Run *r, Error *err);           // features of samples, reference and, where asked, the others
void  run_ask(Run *r);                           // questions to the features, into r->answers
bool  run_recognise(Run *r, Error *err);         // those that train classifiers
char *run_title(const Run *r);                   // fid[cbdm,n=1000,ref=fashion-mnist.test]; caller frees
const char *run_protocol(const Run *r);
bool  run_save_features(const Run *r, Error *err);
bool  run_write(Run *r, const char *settings, Error *err);       // --json and the pictures beside it
// ---- classifiers of the data set
// Where `cbdm eval train-classifier` keeps the one of these training images; caller frees. NULL: *err has the command.
char *run_find_classifier(const Run *r, Error *err);
EXTERN_C_END
#endif
