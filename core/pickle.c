// core/pickle.c - a data-only reader of Python pickles: a stack machine whose every opcode makes a tree node.
//
// Bounds that hold for any input: two nodes per opcode at most and PICKLE_MAX_NODES in all, MAX_EDGES references, depth
// PICKLE_MAX_DEPTH, memo numbers below the length of the input. A container that has a parent (shared) takes no more
// children, and no node becomes its own child: so what hangs below a node has fixed depth when the node is used, and
// there are no cycles.
#include "core/pickle.h"
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 64, MAX_EDGES = 1 << 22 };
typedef struct Chunk Chunk;
struct Chunk { Chunk *next; int used; PickleNode node[CHUNK]; };
struct Pickle { Chunk *chunks; int n_nodes; PickleNode *root; };

typedef struct {
    const uint8_t *bytes; size_t n, at;         // at: next byte to read
    size_t op_at;                               // where the current opcode stands
    const char *where;
    const char *const *globals;
    Pickle *p;
    PickleNode **stack; size_t depth, stack_cap;
    size_t *mark; size_t marks, mark_cap;       // stack depths
    PickleNode **memo; size_t memo_n;           // NULL entries: not set
    size_t edges;
    Error *err;
} Vm;

static bool bad(Vm *v, const char *what) {
    error_set(v->err, ERR_FILE, "%s: not a data pickle that can be read: %s at byte %zu; get the file again or check "
              "what wrote it", v->where, what, v->op_at);
    return false;                               // said here so that compilers see it
}

// ---- input: all return false (with *err) past the end
static bool take(Vm *v, size_t n, const uint8_t **out) {
    if (n > v->n - v->at) return bad(v, "the file ends inside an opcode");
    *out = v->bytes + v->at;
    v->at += n;
    return true;
}

static bool take_uint(Vm *v, int size, uint64_t *out) {          // little endian
    const uint8_t *b;
    if (!take(v, (size_t)size, &b)) return false;
    *out = 0;
    for (int i = 0; i < size; i++) *out |= (uint64_t)b[i] << 8 * i;
    return true;
}

static bool take_counted(Vm *v, int size, const uint8_t **out, size_t *n) {      // a length of size bytes, then bytes
    uint64_t u;
    if (!take_uint(v, size, &u)) return false;
    if (u > v->n - v->at) return bad(v, "a string longer than the file");
    *n = (size_t)u;
    return take(v, *n, out);
}

static bool take_line(Vm *v, const uint8_t **out, size_t *n) {
    const uint8_t *b = v->bytes + v->at;
    const uint8_t *end = v->at < v->n ? memchr(b, '\n', v->n - v->at) : NULL;
    if (!end || end - b > 255) return bad(v, "a name without end");
    *out = b;
    *n = (size_t)(end - b);
    v->at += *n + 1;
    return true;
}

// ---- nodes and stack
static PickleNode *node_new(Vm *v, PickleType type) {            // NULL (with *err) at the limit
    Pickle *p = v->p;
    if (p->n_nodes >= PICKLE_MAX_NODES) {
        bad(v, "more than 1048576 values");
        return NULL;
    }
    if (!p->chunks || p->chunks->used == CHUNK) {
        Chunk *c = xcalloc(1, sizeof *c);
        c->next = p->chunks;
        p->chunks = c;
    }
    p->n_nodes++;
    PickleNode *x = &p->chunks->node[p->chunks->used++];
    x->type = type;
    return x;
}

static bool push(Vm *v, PickleNode *x) {
    if (!x) return false;
    if (v->depth == v->stack_cap) {
        if (v->stack_cap >= MAX_EDGES) return bad(v, "too many values on the stack");
        v->stack_cap *= 2;
        v->stack = xrealloc(v->stack, v->stack_cap * sizeof *v->stack);
    }
    v->stack[v->depth++] = x;
    return true;
}

static size_t floor_of(const Vm *v) { return v->marks ? v->mark[v->marks - 1] : 0; }

static bool pop(Vm *v, PickleNode **x) {                         // never through a mark
    if (v->depth <= floor_of(v)) return bad(v, "a value missing on the stack");
    *x = v->stack[--v->depth];
    return true;
}

static bool push_mark(Vm *v) {
    if (v->marks == v->mark_cap) {
        if (v->mark_cap >= MAX_EDGES) return bad(v, "too many marks");
        v->mark_cap = v->mark_cap ? 2 * v->mark_cap : 64;
        v->mark = xrealloc(v->mark, v->mark_cap * sizeof *v->mark);
    }
    v->mark[v->marks++] = v->depth;
    return true;
}

// Puts x below parent: depth, sharing, the count of references.
static bool adopt(Vm *v, PickleNode *parent, PickleNode *x) {
    if (parent->shared || parent == x) return bad(v, "a container changed after it was stored, or holding itself");
    if (x->depth + 1 > PICKLE_MAX_DEPTH) return bad(v, "values nested more than 64 deep");
    if (++v->edges > MAX_EDGES) return bad(v, "too many references");
    if (parent->depth < x->depth + 1) parent->depth = x->depth + 1;
    x->shared = true;
    return true;
}

static bool add_items(Vm *v, PickleNode *parent, PickleNode *const *x, size_t n) {
    // Capacity is the power of two at or above count, so it needs no field.
    size_t cap = parent->count ? 1 : 0;
    while (cap && cap < parent->count) cap *= 2;
    size_t want = cap ? cap : 1;
    while (want < parent->count + n) want *= 2;
    if (n && want > cap) parent->item = xrealloc(parent->item, want * sizeof *parent->item);
    for (size_t i = 0; i < n; i++) {
        if (!adopt(v, parent, x[i])) return false;
        parent->item[parent->count++] = x[i];
    }
    return true;
}

// ---- opcodes
static bool op_value(Vm *v, PickleType type, int64_t number) {
    PickleNode *x = node_new(v, type);
    if (x) x->number = number;
    return push(v, x);
}

static bool op_int(Vm *v, int size) {
    uint64_t u;
    if (!take_uint(v, size, &u)) return false;
    return op_value(v, PICKLE_INT, size == 4 ? (int64_t)(int32_t)(uint32_t)u : (int64_t)u);
}

static bool op_long1(Vm *v) {
    const uint8_t *b;
    size_t n;
    if (!take_counted(v, 1, &b, &n)) return false;
    if (n > 8) {
        PickleNode *x = node_new(v, PICKLE_LONG);
        if (x) { x->bytes = b; x->n = n; }
        return push(v, x);
    }
    uint64_t u = n && b[n - 1] & 0x80 ? ~UINT64_C(0) : 0;        // sign extension
    for (size_t i = 0; i < n; i++) u = (u & ~(UINT64_C(0xff) << 8 * i)) | (uint64_t)b[i] << 8 * i;
    return op_value(v, PICKLE_INT, (int64_t)u);
}

static bool op_float(Vm *v) {
    const uint8_t *b;
    if (!take(v, 8, &b)) return false;
    uint64_t u = 0;
    for (int i = 0; i < 8; i++) u = u << 8 | b[i];
    PickleNode *x = node_new(v, PICKLE_FLOAT);
    if (x) memcpy(&x->real, &u, sizeof u);
    return push(v, x);
}

static bool op_string(Vm *v, PickleType type, int length_size) {
    const uint8_t *b;
    size_t n;
    if (!take_counted(v, length_size, &b, &n)) return false;
    PickleNode *x = node_new(v, type);
    if (x) { x->bytes = b; x->n = n; }
    return push(v, x);
}

static bool op_tuple(Vm *v, size_t n) {                          // of the top n values
    if (v->depth - floor_of(v) < n) return bad(v, "a value missing on the stack");
    PickleNode *x = node_new(v, PICKLE_TUPLE);
    if (!x || !add_items(v, x, v->stack + (v->depth - n), n)) return false;
    v->depth -= n;
    return push(v, x);
}

// The values above the last mark; the mark goes, the values stay above *n_above for the caller to drop.
static bool pop_mark(Vm *v, PickleNode ***x, size_t *n) {
    if (!v->marks) return bad(v, "a mark missing");
    size_t at = v->mark[--v->marks];
    *x = v->stack + at;
    *n = v->depth - at;
    return true;
}

static bool op_tuple_mark(Vm *v) {
    PickleNode **x;
    size_t n;
    return pop_mark(v, &x, &n) && op_tuple(v, n);
}

// APPENDS, SETITEMS (marked) and their single forms: the top n values go into what stands below them.
static bool op_fill(Vm *v, bool dict, bool marked) {
    PickleNode **x;
    size_t n = dict ? 2 : 1;
    if (marked && !pop_mark(v, &x, &n)) return false;
    if (v->depth - floor_of(v) < n + 1) return bad(v, "a container missing on the stack");
    if (dict && n % 2) return bad(v, "a key without value");
    PickleNode *into = v->stack[v->depth - n - 1];
    if (into->type != (dict ? PICKLE_DICT : PICKLE_LIST) && into->type != PICKLE_CALL) {
        return bad(v, dict ? "items for what is no dict" : "items for what is no list");
    }
    if (!add_items(v, into, v->stack + (v->depth - n), n)) return false;
    v->depth -= n;
    return true;
}

static bool check_global(Vm *v, const PickleNode *g) {
    for (int i = 0; v->globals[i]; i++) {
        const char *space = strchr(v->globals[i], ' ');
        size_t m = (size_t)(space - v->globals[i]);
        if (g->n == m && memcmp(g->bytes, v->globals[i], m) == 0 && pickle_is(g->args, space + 1)) return true;
    }
    return error_set(v->err, ERR_FILE, "%s: the pickle names %.*s.%.*s at byte %zu, which is code, not data; it is not "
                     "loaded: export the file as plain arrays", v->where, (int)(g->n < 100 ? g->n : 100),
                     (const char *)g->bytes, (int)(g->args->n < 100 ? g->args->n : 100), (const char *)g->args->bytes,
                     v->op_at);
}

static bool op_global(Vm *v, bool from_stack) {
    PickleNode *g = node_new(v, PICKLE_GLOBAL);
    if (!g) return false;
    if (from_stack) {
        PickleNode *module;
        if (!pop(v, &g->args) || !pop(v, &module)) return false;
        if (module->type != PICKLE_TEXT || g->args->type != PICKLE_TEXT) return bad(v, "a global without name");
        g->bytes = module->bytes;
        g->n = module->n;
    } else {
        g->args = node_new(v, PICKLE_TEXT);
        if (!g->args || !take_line(v, &g->bytes, &g->n) || !take_line(v, &g->args->bytes, &g->args->n)) return false;
    }
    return check_global(v, g) && push(v, g);
}

static bool op_reduce(Vm *v) {
    PickleNode *x = node_new(v, PICKLE_CALL);
    if (!x || !pop(v, &x->args) || !pop(v, &x->callee)) return false;
    if (x->callee->type != PICKLE_GLOBAL || x->args->type != PICKLE_TUPLE) return bad(v, "a call of what is no name");
    return adopt(v, x, x->args) && adopt(v, x, x->callee) && push(v, x);
}

static bool op_build(Vm *v) {
    PickleNode *state, *x;
    if (!pop(v, &state) || !pop(v, &x)) return false;
    if (x->type != PICKLE_CALL || x->state) return bad(v, "a state for what has none");
    if (!adopt(v, x, state)) return false;
    x->state = state;
    return push(v, x);
}

static bool op_persid(Vm *v) {
    PickleNode *x = node_new(v, PICKLE_PERSID), *id;
    return x && pop(v, &id) && add_items(v, x, &id, 1) && push(v, x);
}

static bool memo_put(Vm *v, uint64_t i) {
    if (v->depth <= floor_of(v)) return bad(v, "a value missing on the stack");
    if (i >= v->n || i >= 2 * PICKLE_MAX_NODES) return bad(v, "a memo number out of range");
    if (i >= v->memo_n) {
        size_t n = v->memo_n ? v->memo_n : 256;
        while (n <= i) n *= 2;
        v->memo = xrealloc(v->memo, n * sizeof *v->memo);
        memset(v->memo + v->memo_n, 0, (n - v->memo_n) * sizeof *v->memo);
        v->memo_n = n;
    }
    v->memo[i] = v->stack[v->depth - 1];
    return true;
}

static bool op_memo(Vm *v, int size, bool put) {
    uint64_t i;
    if (!take_uint(v, size, &i)) return false;
    if (put) return memo_put(v, i);
    if (i >= v->memo_n || !v->memo[i]) return bad(v, "a reference to nothing");
    return push(v, v->memo[i]);
}

static bool op_unknown(Vm *v, uint8_t op) {
    return error_set(v->err, ERR_FILE, "%s: pickle opcode 0x%02x at byte %zu is not one of plain data; the file is "
                     "damaged, not a pickle, or of protocol 0 or 1", v->where, op, v->op_at);
}

static bool step(Vm *v, uint8_t op, uint64_t *next_memo) {
    PickleNode *x;
    const uint8_t *b;
    switch (op) {
    case 'N': return op_value(v, PICKLE_NONE, 0);                // NONE
    case 0x88: return op_value(v, PICKLE_BOOL, 1);               // NEWTRUE
    case 0x89: return op_value(v, PICKLE_BOOL, 0);               // NEWFALSE
    case 'K': return op_int(v, 1);                               // BININT1
    case 'M': return op_int(v, 2);                               // BININT2
    case 'J': return op_int(v, 4);                               // BININT
    case 0x8a: return op_long1(v);                               // LONG1
    case 'G': return op_float(v);                                // BINFLOAT
    case 'U': return op_string(v, PICKLE_BYTES, 1);              // SHORT_BINSTRING
    case 'T': return op_string(v, PICKLE_BYTES, 4);              // BINSTRING
    case 'C': return op_string(v, PICKLE_BYTES, 1);              // SHORT_BINBYTES
    case 'B': return op_string(v, PICKLE_BYTES, 4);              // BINBYTES
    case 0x8e: return op_string(v, PICKLE_BYTES, 8);             // BINBYTES8
    case 'X': return op_string(v, PICKLE_TEXT, 4);               // BINUNICODE
    case 0x8c: return op_string(v, PICKLE_TEXT, 1);              // SHORT_BINUNICODE
    case ']': return op_value(v, PICKLE_LIST, 0);                // EMPTY_LIST
    case '}': return op_value(v, PICKLE_DICT, 0);                // EMPTY_DICT
    case ')': return op_tuple(v, 0);                             // EMPTY_TUPLE
    case 0x85: return op_tuple(v, 1);                            // TUPLE1
    case 0x86: return op_tuple(v, 2);                            // TUPLE2
    case 0x87: return op_tuple(v, 3);                            // TUPLE3
    case 't': return op_tuple_mark(v);                           // TUPLE
    case '(': return push_mark(v);                               // MARK
    case '0': return pop(v, &x);                                 // POP
    case 'a': return op_fill(v, false, false);                   // APPEND
    case 'e': return op_fill(v, false, true);                    // APPENDS
    case 's': return op_fill(v, true, false);                    // SETITEM
    case 'u': return op_fill(v, true, true);                     // SETITEMS
    case 'c': return op_global(v, false);                        // GLOBAL
    case 0x93: return op_global(v, true);                        // STACK_GLOBAL
    case 'R': return op_reduce(v);                               // REDUCE
    case 'b': return op_build(v);                                // BUILD
    case 'Q': return op_persid(v);                               // BINPERSID
    case 'q': return op_memo(v, 1, true);                        // BINPUT
    case 'r': return op_memo(v, 4, true);                        // LONG_BINPUT
    case 'h': return op_memo(v, 1, false);                       // BINGET
    case 'j': return op_memo(v, 4, false);                       // LONG_BINGET
    case 0x94: return memo_put(v, (*next_memo)++);               // MEMOIZE
    case 0x95: return take(v, 8, &b);                            // FRAME: a length that only helps streams
    default: return op_unknown(v, op);
    }
}

static bool run(Vm *v) {
    uint64_t next_memo = 0;
    const uint8_t *b;
    if (v->n < 2 || v->bytes[0] != 0x80 || v->bytes[1] < 2 || v->bytes[1] > 4) {
        return error_set(v->err, ERR_FILE,
                         "%s: not a pickle of protocol 2 to 4 (it must start with the bytes 80 02, 80 "
                         "03 or 80 04); check that the file is what its name says",
                         v->where);
    }
    v->at = 2;
    for (;;) {
        v->op_at = v->at;
        if (!take(v, 1, &b)) return false;
        if (*b == '.') break;
        if (!step(v, *b, &next_memo)) return false;
    }
    if (v->depth != 1 || v->marks) return bad(v, "more or less than one value at the end");
    v->p->root = v->stack[0];
    return true;
}

Pickle *pickle_parse(const uint8_t *bytes, size_t n, const char *where, const char *const *globals, size_t *used,
                     Error *err) {
    Vm v = { .bytes = bytes, .n = n, .where = where, .globals = globals, .p = xcalloc(1, sizeof *v.p), .err = err,
             .stack_cap = 256 };
    v.stack = xmalloc(v.stack_cap * sizeof *v.stack);
    bool ok = run(&v);
    if (ok && !used && v.at != n) {
        ok = error_set(err, ERR_FILE, "%s: %zu bytes follow the pickle, which ends at byte %zu; get the file again",
                       where, n - v.at, v.at);
    }
    if (used) *used = v.at;
    free(v.stack);
    free(v.mark);
    free(v.memo);
    if (ok) return v.p;
    pickle_free(v.p);
    return NULL;
}

void pickle_free(Pickle *p) {
    if (!p) return;
    for (Chunk *c = p->chunks, *next; c; c = next) {
        next = c->next;
        for (int i = 0; i < c->used; i++) free(c->node[i].item);
        free(c);
    }
    free(p);
}

const PickleNode *pickle_root(const Pickle *p) { return p->root; }

bool pickle_visit(const Pickle *p, bool (*visit)(void *arg, const PickleNode *x), void *arg) {
    for (const Chunk *c = p->chunks; c; c = c->next)
        for (int i = 0; i < c->used; i++)
            if (!visit(arg, &c->node[i])) return false;
    return true;
}
