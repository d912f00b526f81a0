// tests/opcase.h - one table of cases per operation; the check, the gradient check and the bench walk the same tables.
//
// Each tests/ops/<op>.c defines op_suite and links against tests/opcase*.c, which hold main():
//   op_<name> [--list | --bench] [--device LIST] [--dtype f32|bf16] [--schedules N] [--seeds N] [--grad] [CASE ...]
// Every case runs on ref32, on cpu in both layouts, on emu and cuda where there are such, and with each registered
// implementation of the launchers it uses, and each output and gradient is compared with ref; --grad: ref's gradients
// with differences. Without --device and --grad, all of it. Per tensor, with an error E of the yardstick:
//   max|y - ref| <= 2 E + 2 ulp(max|ref|),  E = amplification * max(max|ref32 - ref|, u sqrt(K) max sqrt(sum a^2 b^2))
//   |y - ref|_F  <= 2 amplification |ref32 - ref|_F + u sqrt(K) |ref|_F
// K: terms a b of the longest sum; u = 2^-24. No other tolerance exists. The term with squares stands where it can be
// computed, in sums of products: by running the same graph on the squares of all inputs, and K by running it on ones.
//
// Then once more with activations and weights stored in bf16 (not on cpu, which has none). ref stays in floats, on
// inputs that bf16 can hold, so that what rounds is what the contracts name: intermediate values and results, on ref32
// at the same points. There E and the Frobenius bound have a floor of one rounding of the result, v = 2^-8 where it is
// stored in bf16 and 0 where in f32, since few elements may be rounded by little on ref32 and by much on the other:
//   E = amplification * max(max|ref32 - ref|, v max|ref|, u sqrt(K) max sqrt(sum a^2 b^2))
//   |y - ref|_F <= max(2 amplification |ref32 - ref|_F, v |ref|_F) + u sqrt(K) |ref|_F
//
// What must be equal bit for bit is then compared with ref storing bf16: sums of integers are exact in any order, and
// round alike. That ref32 rounds where it should and nowhere else: its error is at most (number of nodes) v max|ref|
// plus its bound in floats, with v for u in terms that a suite derives for values that cancel.
//
// A network's error is the sum of the roundings in all of its nodes, each times what the network makes of it: a normal
// value, whose size is a matter of the inputs. The errors of a result of few elements, or of one that leans on one
// badly conditioned place (a group of nearly equal values), are multiples of a single such value, and of two of these
// one may be any number of times the other. So ref32's error is not taken from one run but from 32, on the case's
// inputs moved by a few roundings: as well conditioned, and rounded otherwise. An error of the same distribution over
// their root mean square s is Student's t of 32 degrees of freedom, and |t| exceeds 7.66 once in 10^8. With the
// largest s of an element, and with that of the norm:
//   7.66 s stands for 2 max|ref32 - ref| and 2 |ref32 - ref|_F
// A result that the mathematics makes zero needs no term of its own: its rounding is measured as any other's. The
// bound of ref32 itself in bf16 has, for terms that cancel, 7.66 s of ref32 storing floats with v for u: what is
// rounded to bf16 is rounded to float there.
#ifndef TESTS_OPCASE_H
#define TESTS_OPCASE_H
#include "core/ops.h"
#include "core/param.h"

enum {
    CASE_TEST = 1, CASE_GRAD = 2, CASE_BENCH = 4,
    CASE_EXACT = 8,          // integers -2..2 in and out: every bit equal to ref's, but for amplified implementations
    CASE_ACCUMULATE = 16,    // gradients of parameters are added to what is there
    CASE_PLAIN = 32,         // without graph_rewrite_forward and _backward
    CASE_F32 = 64,           // not in bf16: says why
    CASE_LARGE = 128,        // not on emu, where it would take seconds
};
typedef struct {
    const char *name;        // "3x3 s2 odd size"; also the seed of the inputs
    int64_t     dim[12];     // meaning given at the top of each tests/ops/*.c
    unsigned    use;         // CASE_*
    double      scale;       // of the normal inputs; 0 means 1
} OpCase;

// One recording of a case on one device. build() declares what is filled, recorded and compared.
typedef struct OpRun OpRun;
enum {
    IN_CONSTANT = 1,         // case_input: no gradient is wanted
    IN_F32 = 2,              // f32 also where activations are bf16
};
enum {
    OUT_NO_GRAD = 1,         // no cotangent
    OUT_BITS = 2,            // equal bit for bit on all but ref64
    OUT_ZEROS = 4,           // zeros where ref has them, and nowhere else
    OUT_F32 = 8,             // f32 also where activations are bf16
};
// Kinds that this build can run on any machine, ref first, NULL at the end: for checks that open devices themselves.
extern const char *const case_kinds[];
Graph    *case_graph(OpRun *r);
ParamSet *case_params(OpRun *r);                 // its StepState: seed and step of the case, the same on every device
// Normal values from the hash of the case's and the tensor's name, row-major.
Tensor   *case_input(OpRun *r, const char *name, int ndim, const int64_t *shape, unsigned use);
// The same, an image as the device's ops hand it on: in blocks of 16 channels where it has them.
Tensor   *case_image(OpRun *r, const char *name, int64_t n, int64_t h, int64_t w, int64_t c);
Tensor   *case_index(OpRun *r, const char *name, int64_t n, int32_t begin, int32_t end);   // (n) i32, begin..end-1
Tensor   *case_given(OpRun *r, const char *name, int ndim, const int64_t *shape, const float *values);   // copied
Tensor   *case_param(OpRun *r, const char *name, int ndim, const int64_t *shape);
// The same for a matrix or filter that activations are multiplied by: bf16 where they are.
Tensor   *case_operand(OpRun *r, const char *name, int ndim, const int64_t *shape);
void      case_output(OpRun *r, const char *name, Tensor *t, unsigned use);
void      case_loss(OpRun *r, Tensor *loss);     // an is_loss op to start the sweep from, in place of fixed cotangents
void      case_state(OpRun *r);                  // the StepState's counters, rate and norm are results, too
// For what brings or needs more than single tensors. Call case_seal after the last case_param where build() names
// gradients or moments; case_model to bring a sealed set of parameters, filled as a network's would be, and its owner;
// case_adopt to fill an input that another function has recorded (i32: begin..end-1; _given: with these f32);
// case_recorded if build() has rewritten the graph and, where case_gradients() says so, differentiated it.
void      case_seal(OpRun *r);
void      case_model(OpRun *r, ParamSet *ps, void *model, void (*release)(void *model));
void      case_adopt(OpRun *r, const char *name, Tensor *t, int32_t begin, int32_t end);
void      case_adopt_given(OpRun *r, const char *name, Tensor *t, const float *values);    // copied
bool      case_gradients(const OpRun *r);
void      case_recorded(OpRun *r);
void      case_no_gradient(OpRun *r, const char *name);   // none flows to this input or parameter

// ---- one run, and its results as doubles
typedef enum { FILL_VALUES, FILL_SQUARES, FILL_ONES } Fill;
typedef struct {
    const char *device;
    Layout      layout;
    const char *launcher, *impl;                 // NULL: the default choice
    DType       dtype;                           // of activations
    bool        rounded;                         // inputs that a bf16 graph stores in bf16 hold values of bf16
    Fill        fill;
    int         draw;                            // 0: the case's own inputs; more: moved by a few roundings
    int         schedule;                        // emu. 0: natural; 1: reverse; more: random, by seed
} RunSpec;
typedef struct { char name[64]; double *value; int64_t n; unsigned use; bool amplified; DType dtype; } Result;
enum { MAX_RESULTS = 256 };
typedef struct { Result result[MAX_RESULTS]; int n, nodes; bool bf16; } Results;   // bf16: something was stored so

typedef struct { const char *name; bool (*run)(Error *err); } OpExtra;   // a check that fits no table
typedef struct {
    const char    *op;
    const OpCase  *cases;
    int            n_cases;
    void         (*build)(OpRun *r, const OpCase *c);
    bool           products;                     // sums of products: K and the term with squares are computed
    double       (*terms)(const OpCase *c);      // otherwise: K; NULL: 1
    // Otherwise, where values cancel that no reference shows: the term with squares, u sqrt(K) max sqrt(sum a^2 b^2),
    // of a result, derived in the suite. It also stands, times sqrt(elements), in the Frobenius bound. NULL: 0.
    double       (*rounding)(const OpCase *c, const char *result);
    bool           whole;                        // a network: its errors are many roundings', estimated from draws; and
                                                 // on emu and cuda only with the default implementations
    const char    *amplified;                    // implementations whose names start so have
    double         amplification;                // this one, derived in their contract
    const OpExtra *extra;
    int            n_extra;
} OpSuite;
extern const OpSuite op_suite;                   // the one of this executable

// ---- what opcase.c offers opcase_main.c and the extra checks
Results *case_run(const OpSuite *s, const OpCase *c, const RunSpec *spec);     // caller frees with results_free
void     results_free(Results *r);
const Result *results_find(const Results *r, const char *name);                // aborts if absent
// Analytic against numeric gradients on ref64, steps of 1e-6: |difference| <= 1e-5 + 1e-3 max|gradient|, per element;
// with more than 1,000 of them along random directions, with the gradient's norm for its maximum.
bool     case_check_grad(const OpSuite *s, const OpCase *c, Error *err);
// What the rules above need: ref, ref32, ref storing as ref32 does (ref itself, in f32), and by result the errors of
// ref32, the term with squares, and K.
typedef struct {
    Results *ref, *ref32, *stored;
    DType    dtype;
    double   error[MAX_RESULTS], frobenius[MAX_RESULTS], rounding[MAX_RESULTS], terms[MAX_RESULTS];
    double   floats[MAX_RESULTS];                // of a network in bf16: ref32's error where it stores floats
} Yardstick;
// caller frees with yardstick_free. NULL: nothing in the case is ever stored in bf16.
Yardstick *yardstick_new(const OpSuite *s, const OpCase *c, DType dtype);
void     yardstick_free(Yardstick *y);
// Holds `got`, run on `who`, to the rule; ref32 itself to a worst-case bound, where there is a term with squares.
bool     case_compare(const OpSuite *s, const OpCase *c, const char *who, const Results *got, const Yardstick *yard,
                      Error *err);

// recorded, planned, sealed
OpRun   *case_record(const OpSuite *s, const OpCase *c, Device *d, const RunSpec *spec, bool gradients);
void     case_free(OpRun *r);
// Writes inputs, parameters, gradient buffers and state.
void     case_fill(OpRun *r, Fill fill, int draw);
uint32_t case_hash(const char *a, const char *b);
float    case_normal(uint32_t hash, int64_t i);  // element i of the stream `hash`
float    case_value(const OpCase *c, uint32_t hash, int64_t i, Fill fill);   // hash = case_hash(case, input)
double   case_largest(const OpCase *c, const char *input, int64_t numel);    // largest magnitude of an input's values
#endif
