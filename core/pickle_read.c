// core/pickle_read.c - questions to a pickle's tree: keys of a dict, names, numpy arrays.
#include "core/pickle.h"
#include <string.h>

bool pickle_is(const PickleNode *p, const char *text) {
    return p && (p->type == PICKLE_BYTES || p->type == PICKLE_TEXT) && p->n == strlen(text) &&
           memcmp(p->bytes, text, p->n) == 0;
}

bool pickle_is_global(const PickleNode *p, const char *module, const char *name) {
    return p && p->type == PICKLE_GLOBAL && p->n == strlen(module) && memcmp(p->bytes, module, p->n) == 0 &&
           pickle_is(p->args, name);
}

const PickleNode *pickle_get(const PickleNode *dict, const char *key) {
    if (!dict || (dict->type != PICKLE_DICT && dict->type != PICKLE_CALL)) return NULL;
    const PickleNode *found = NULL;                  // a key set twice: Python keeps the later value
    for (size_t i = 0; i + 1 < dict->count; i += 2) {
        if (pickle_is(dict->item[i], key)) found = dict->item[i + 1];
    }
    return found;
}

// numpy 2 writes numpy._core for what was numpy.core.
const char *const pickle_numpy_globals[] = { "numpy.core.multiarray _reconstruct",
                                             "numpy._core.multiarray _reconstruct", "numpy ndarray", "numpy dtype",
                                             NULL };

static const PickleNode *item(const PickleNode *p, PickleType type, size_t count, size_t i) {
    return p && p->type == type && p->count == count ? p->item[i] : NULL;
}

// A dtype is dtype("u1", 0, 1) with the state (3, byte order, None, None, None, -1, -1, 0).
static bool read_descr(const PickleNode *p, char descr[8], size_t *size) {
    if (!p || p->type != PICKLE_CALL || !pickle_is_global(p->callee, "numpy", "dtype") || !p->args->count) return false;
    const PickleNode *code = p->args->item[0];
    if (code->type != PICKLE_BYTES && code->type != PICKLE_TEXT) return false;
    if (code->n != 2 || !memchr("buif", code->bytes[0], 4) || code->bytes[1] < '1' || code->bytes[1] > '8')
        return false;
    *size = (size_t)(code->bytes[1] - '0');
    if (p->state && (p->state->type != PICKLE_TUPLE || p->state->count < 2)) return false;
    const PickleNode *order = p->state ? p->state->item[1] : NULL;
    descr[0] = *size == 1 ? '|' : '<';
    if (order && (pickle_is(order, ">") || (!pickle_is(order, "<") && !pickle_is(order, "|")))) return false;
    descr[1] = (char)code->bytes[0];
    descr[2] = (char)code->bytes[1];
    descr[3] = 0;
    return true;
}

// The array is _reconstruct(ndarray, (0,), "b") with the state (1, shape, dtype, is_fortran, bytes).
bool pickle_ndarray(const PickleNode *p, const char *where, PickleArray *out, Error *err) {
    *out = (PickleArray){ .ndim = 0 };
    if (!p || p->type != PICKLE_CALL || (!pickle_is_global(p->callee, "numpy.core.multiarray", "_reconstruct") &&
                                         !pickle_is_global(p->callee, "numpy._core.multiarray", "_reconstruct"))) {
        return error_set(err, ERR_FILE,
                         "%s: a numpy array is expected where the pickle holds something else; check that "
                         "the file is what its name says",
                         where);
    }
    const PickleNode *shape = item(p->state, PICKLE_TUPLE, 5, 1), *dtype = item(p->state, PICKLE_TUPLE, 5, 2);
    const PickleNode *fortran = item(p->state, PICKLE_TUPLE, 5, 3), *data = item(p->state, PICKLE_TUPLE, 5, 4);
    size_t bytes;
    if (!shape || shape->type != PICKLE_TUPLE || shape->count > 4 || !read_descr(dtype, out->descr, &bytes) ||
        fortran->type != PICKLE_BOOL || data->type != PICKLE_BYTES) {
        return error_set(err, ERR_FILE,
                         "%s: a numpy array in a form that is not read (up to 4 dimensions, little-endian "
                         "numbers, raw bytes); write it again with numpy and pickle protocol 2",
                         where);
    }
    out->ndim = (int)shape->count;
    for (int i = 0; i < out->ndim; i++) {
        const PickleNode *s = shape->item[i];
        if (s->type != PICKLE_INT || s->number < 0 || !mul_size(bytes, (size_t)s->number, &bytes)) {
            return error_set(err, ERR_FILE, "%s: a numpy array with an impossible shape; get the file again", where);
        }
        out->shape[i] = s->number;
    }
    if (bytes != data->n) {
        return error_set(err, ERR_FILE, "%s: a numpy array has %zu bytes where its shape says %zu; get the file again",
                         where, data->n, bytes);
    }
    out->fortran = fortran->number != 0;
    out->data = data->bytes;
    return true;
}
