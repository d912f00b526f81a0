// core/pickle.h - a data-only reader of Python pickles: it builds a tree and calls nothing.
#ifndef CORE_PICKLE_H
#define CORE_PICKLE_H
#include "core/base.h"
EXTERN_C_BEGIN
// What a pickle would construct by calling Python (REDUCE) stays a PICKLE_CALL node: callee, arguments, state.
typedef enum {
    PICKLE_NONE, PICKLE_BOOL, PICKLE_INT, PICKLE_FLOAT,
    PICKLE_LONG,      // an integer over 64 bits: bytes, little endian
    PICKLE_BYTES,     // str of Python 2, bytes of Python 3
    PICKLE_TEXT,      // unicode, UTF-8
    PICKLE_TUPLE, PICKLE_LIST, PICKLE_DICT,
    PICKLE_GLOBAL,    // bytes: the module; args: a TEXT node, the name
    PICKLE_CALL,      // callee, args; item: what SETITEMS or APPENDS added; state: from BUILD, or NULL
    PICKLE_PERSID     // item[0]: the persistent id
} PickleType;
typedef struct PickleNode PickleNode;
struct PickleNode {
    PickleType     type;
    bool           shared;              // has a parent: nothing may be added any more, so there are no cycles
    int            depth;               // of what lies below, at most PICKLE_MAX_DEPTH
    int64_t        number;              // BOOL, INT
    double         real;                // FLOAT
    const uint8_t *bytes; size_t n;     // point into the input, no terminating 0
    PickleNode   **item;  size_t count; // DICT: key, value, key, value, ...
    PickleNode    *callee, *args, *state;
};
enum { PICKLE_MAX_DEPTH = 64, PICKLE_MAX_NODES = 1 << 20 };

typedef struct Pickle Pickle;
// One pickle, protocol 2 to 4. globals: NULL-terminated "module name" that may be named; any other, and any opcode
// outside the data subset, is refused by name and offset. used: bytes read, or NULL: nothing may follow. The tree
// points into bytes, which must outlive it. NULL and *err; where names the bytes in the message.
Pickle *pickle_parse(const uint8_t *bytes, size_t n, const char *where, const char *const *globals, size_t *used,
                     Error *err);
void    pickle_free(Pickle *p);
const PickleNode *pickle_root(const Pickle *p);
// Every node of the pickle once, in no particular order, until visit returns false; the last answer.
bool    pickle_visit(const Pickle *p, bool (*visit)(void *arg, const PickleNode *x), void *arg);
bool    pickle_is(const PickleNode *p, const char *text);                     // BYTES or TEXT equal to text
bool    pickle_is_global(const PickleNode *p, const char *module, const char *name);
const PickleNode *pickle_get(const PickleNode *dict, const char *key);        // NULL if absent or not a dict

// A numpy array of bytes or numbers as numpy pickles it (_reconstruct and its state). descr as in npy: "|u1", "<i8".
typedef struct { char descr[8]; int ndim; int64_t shape[4]; bool fortran; const uint8_t *data; } PickleArray;
extern const char *const pickle_numpy_globals[];                              // what pickle_parse must allow for it
bool    pickle_ndarray(const PickleNode *p, const char *where, PickleArray *out, Error *err);
EXTERN_C_END
#endif
