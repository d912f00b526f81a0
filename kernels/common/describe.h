// kernels/common/describe.h - what the structs of a launcher mean, for programs that call launchers on arrays of their
// own: `cbdm op`, `cbdm bench`, and the checks of what no layer of the network reaches.
//
// Each family has a <family>_describe.c with one Description per launcher; describe.c lists them all.
#ifndef KERNELS_DESCRIBE_H
#define KERNELS_DESCRIBE_H
#include "kernels/common/kernel.h"

// ---- scalars of a shape or of the arguments
typedef enum {
    FIELD_INT, FIELD_I64, FIELD_U32, FIELD_FLOAT, FIELD_DOUBLE, FIELD_BOOL,
    FIELD_DTYPE, FIELD_LAYOUT, FIELD_ACT,        // "f32", "nhwc", "silu"
    FIELD_USE,                                   // names of arrays joined by +: which optional parts are in use
} FieldType;
typedef struct { const char *name; FieldType type; size_t offset; } Field;   // tables end with a NULL name
#define FIELD(Struct, member, type) { #member, type, offsetof(Struct, member) }
#define FIELD_END { NULL, FIELD_INT, 0 }

// ---- arrays, as a shape makes them
typedef enum { ARRAY_IN, ARRAY_OUT, ARRAY_INOUT } ArrayUse;
// What a program without data of its own writes into an input.
typedef enum {
    FILL_NORMAL,      // N(0, 1), times `scale` if that is not 0
    FILL_POSITIVE,    // 0.5 + |N(0, 1)|: reciprocal deviations, second moments
    FILL_INDEX,       // whole numbers 0..range-1
    FILL_SAMPLE,      // 0, 1, 2, ...: numbers of images
    FILL_BITS,        // random bits, 8 to the byte
    FILL_ONES, FILL_ZEROS,
    FILL_STATE,       // a StepState
    FILL_SPANS,       // ParamSpans that divide `range` elements evenly
    FILL_ROOT,        // (T,2) rows of sqrt(a), sqrt(1 - a), a falling from 1
    FILL_COEF,        // SamplerCoefs
} Fill;
typedef enum { TYPE_F32, TYPE_BF16, TYPE_F64, TYPE_I32, TYPE_U8, TYPE_U32, TYPE_I64 } ArrayType;
size_t array_type_size(ArrayType t);
ArrayType array_type(DType dt);

// Logical, row-major dimensions, the last one channels where there is a layout: a pixel has `ld` of them, of which
// dim[ndim-1] are the array's. batch_pitch, if not 0, is the elements from one entry of dim[0] to the next (NHWC only).
typedef struct {
    const char *name;
    size_t      offset;                          // of the pointer in the arguments
    ArrayUse    use;
    ArrayType   type;
    bool        optional;                        // NULL is allowed, and then means less work
    int         ndim;
    int64_t     dim[4], ld, batch_pitch;
    Layout      layout;
    Fill        fill;
    int64_t     range;
    double      scale;
} Array;
enum { ARRAYS_MAX = 24 };
typedef struct { Array array[ARRAYS_MAX]; int n; } Arrays;
int64_t array_numel(const Array *a);             // logical elements
int64_t array_span(const Array *a);              // elements from the first to the last, gaps included
int64_t array_at(const Array *a, int64_t i);     // where logical element i lies

typedef struct {
    const Launcher *launcher;
    const char     *about;                       // one line
    const Field    *shape, *args;                // args: scalars beside the arrays; NULL: none
    void          (*complete)(void *shape);      // derives what a user may leave out: output sizes, dense strides
    void          (*arrays)(const void *shape, Arrays *list);
    double        (*flops)(const void *shape);   // useful work; NULL: 0
} Description;
extern const Description *const descriptions[];  // ends with NULL
const Description *description_find(const char *launcher);

// For arrays(): appends one; the caller sets what differs from dense, required, FILL_NORMAL.
Array *array_add(Arrays *l, const char *name, size_t offset, ArrayUse use, ArrayType type, int ndim,
                 const int64_t *dim);
// One that is stored in blocks of a layout: ld channels from pixel to pixel.
Array *array_add_image(Arrays *l, const char *name, size_t offset, ArrayUse use, DType dt, Layout layout, int64_t ld,
                       int ndim, const int64_t *dim);
#define DIMS(...) (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)), (int64_t[]){ __VA_ARGS__ }

// "n=2 h=8 w=8 c=16 dtype=bf16 use=bias+temb": names of fields, and "with=NAME+NAME" for the optional arrays that are
// wanted (with=all). Fills zeroed structs, then completes the shape. NULL, or a message in a static buffer.
enum { WITH_MAX = 256 };
const char *description_parse(const Description *d, const char *text, void *shape, void *args, char with[WITH_MAX]);
// The other way round, fields that are 0 left out. Always terminated.
void description_print(const Description *d, const void *shape, const void *args, char *text, size_t bytes);
#endif
