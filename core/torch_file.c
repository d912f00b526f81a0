// core/torch_file.c - tensors of the files that torch.save writes, as data.
//
// Zip layout: members FOLDER/data.pkl, the pickled object, and FOLDER/data/KEY, the bytes of a storage. Legacy layout:
// five pickles one after the other (a magic number, the protocol 1001, facts about the machine, the object, the list of
// storage keys), then each storage as its element count (i64) and its bytes. In the object a tensor is a call of
// torch._utils._rebuild_tensor_v2 (before torch 0.4: _rebuild_tensor) with a storage as persistent id ("storage", type,
// key, device, element count), an offset in elements, sizes and strides. The pickle reader makes a tree of it
// (core/pickle.h) and calls nothing.
#include "core/torch_file.h"
#include <stdlib.h>
#include <string.h>
#include "core/pickle.h"
#include "core/zip.h"

enum { TENSORS_MAX = 65536, VISITS_MAX = 1 << 20, NAME_BYTES = 256 };

static const struct { const char *name; StType type; } storages[] = {
    { "FloatStorage", ST_F32 }, { "DoubleStorage", ST_F64 }, { "HalfStorage", ST_F16 }, { "BFloat16Storage", ST_BF16 },
    { "LongStorage", ST_I64 }, { "IntStorage", ST_I32 }, { "ByteStorage", ST_U8 }, { "BoolStorage", ST_U8 },
};
enum { STORAGES = sizeof storages / sizeof storages[0] };
static const char *const allowed[] = {
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_parameter", "torch FloatStorage", "torch DoubleStorage", "torch HalfStorage",
    "torch BFloat16Storage", "torch LongStorage", "torch IntStorage", "torch ByteStorage", "torch BoolStorage", NULL,
};

struct TorchFile {
    uint8_t  *owned;            // the file's bytes; NULL if the caller owns them
    StTensor *tensor;           // sorted by name, names owned
    int       n, room;
};

typedef struct { const uint8_t *key; size_t key_n; StType type; uint64_t numel; const uint8_t *data; } Storage;
typedef struct {
    const uint8_t *bytes; size_t n;
    const char *where;
    Error      *err;
    Storage    *storage; size_t storages, storage_room;    // once sorted: by key, each once
    TorchFile  *file;
    int         visits;
} Reader;

static bool refuse(const Reader *r, const char *name, const char *why) {
    return error_set(r->err, ERR_FILE, "%s: %s: %s; save the state dict again with torch.save", r->where, name, why);
}

// ---- storages

static bool is_text(const PickleNode *p) { return p->type == PICKLE_TEXT || p->type == PICKLE_BYTES; }

// A persistent id as it stands in the pickle. False for anything but a whole storage of a known type.
static bool read_storage(const PickleNode *p, Storage *s) {
    const PickleNode *id = p->count == 1 ? p->item[0] : NULL;
    if (!id || id->type != PICKLE_TUPLE || id->count < 5 || id->count > 6 || !pickle_is(id->item[0], "storage") ||
        !is_text(id->item[2]) || id->item[4]->type != PICKLE_INT || id->item[4]->number < 0 ||
        (id->count == 6 && id->item[5]->type != PICKLE_NONE))
        return false;
    *s = (Storage){ .key = id->item[2]->bytes, .key_n = id->item[2]->n, .numel = (uint64_t)id->item[4]->number };
    for (int i = 0; i < STORAGES; i++) {
        s->type = storages[i].type;
        if (pickle_is_global(id->item[1], "torch", storages[i].name)) return true;
    }
    return false;
}

static bool gather_storage(void *arg, const PickleNode *p) {
    Reader *r = arg;
    Storage s;
    if (p->type != PICKLE_PERSID) return true;
    if (!read_storage(p, &s)) return refuse(r, "a storage", "its description is of an unknown form");
    if (r->storages == r->storage_room) {
        r->storage_room = r->storage_room ? 2 * r->storage_room : 256;
        r->storage = xrealloc(r->storage, r->storage_room * sizeof *r->storage);
    }
    r->storage[r->storages++] = s;
    return true;
}

static int compare_key(const void *a, const void *b) {
    const Storage *x = a, *y = b;
    int order = memcmp(x->key, y->key, x->key_n < y->key_n ? x->key_n : y->key_n);
    return order ? order : (x->key_n > y->key_n) - (x->key_n < y->key_n);
}

static Storage *find_storage(const Reader *r, const uint8_t *key, size_t n) {
    Storage wanted = { .key = key, .key_n = n };
    return r->storages ? bsearch(&wanted, r->storage, r->storages, sizeof wanted, compare_key) : NULL;
}

// All storages that the object names, each once.
static bool gather_storages(Reader *r, const Pickle *object) {
    if (!pickle_visit(object, gather_storage, r)) return false;
    if (r->storages) qsort(r->storage, r->storages, sizeof *r->storage, compare_key);
    size_t n = 0;
    for (size_t i = 0; i < r->storages; i++) {
        const Storage *s = &r->storage[i], *last = n ? &r->storage[n - 1] : NULL;
        if (!last || compare_key(last, s) != 0) r->storage[n++] = *s;
        else if (last->type != s->type || last->numel != s->numel)
            return refuse(r, "a storage", "it is named twice with different types or sizes");
    }
    r->storages = n;
    return true;
}

// Takes the element count at *at and the bytes behind it.
static bool take_legacy_storage(Reader *r, Storage *s, size_t *at) {
    size_t bytes;
    if (r->n - *at < 8) return refuse(r, "the last storage", "the file is cut off");
    if (zip_field(r->bytes + *at, 8) != s->numel) return refuse(r, "a storage", "its element counts contradict");
    *at += 8;
    if (!mul_size((size_t)s->numel, st_type_size(s->type), &bytes) || bytes > r->n - *at)
        return refuse(r, "the last storage", "the file is cut off");
    s->data = r->bytes + *at;
    *at += bytes;
    return true;
}

static bool place_legacy_storages(Reader *r, const PickleNode *keys, size_t at) {
    if (keys->type != PICKLE_LIST || keys->count != r->storages)
        return refuse(r, "the storages", "their list does not fit the tensors");
    for (size_t i = 0; i < keys->count; i++) {
        const PickleNode *key = keys->item[i];
        Storage *s = is_text(key) ? find_storage(r, key->bytes, key->n) : NULL;
        if (!s || s->data) return refuse(r, "the storages", "their list does not fit the tensors");
        if (!take_legacy_storage(r, s, &at)) return false;
    }
    return at == r->n || refuse(r, "the file", "bytes follow its last storage");
}

// Members that lie over one another would be many times the file's bytes to check: together they are at most as large.
static bool place_zip_storages(Reader *r, const Zip *z, const char *folder, int folder_n) {
    uint64_t total = 0;
    for (size_t i = 0; i < r->storages; i++) {
        Storage *s = &r->storage[i];
        size_t bytes;
        if (s->key_n > 64) return refuse(r, "a storage", "its name is longer than 64 bytes");
        char *name = xasprintf("%.*s/data/%.*s", folder_n, folder, (int)s->key_n, (const char *)s->key);
        const ZipMember *m = zip_find(z, name);
        bool ok = m || refuse(r, name, "this member of the archive is missing");
        if (ok && (m->size > r->n || (total += m->size) > r->n)) ok = refuse(r, name, "members of the archive overlap");
        ok = ok && zip_stored(z, m, &s->data, r->err);
        if (ok && (!mul_size((size_t)s->numel, st_type_size(s->type), &bytes) || bytes != m->size))
            ok = refuse(r, name, "its size is not what the tensors say");
        free(name);
        if (!ok) return false;
    }
    return true;
}

// ---- tensors

// Sizes and strides of a dense row-major array; where a size is 1 or 0 the stride means nothing.
static bool read_shape(const Reader *r, const PickleNode *size, const PickleNode *stride, StTensor *t) {
    if (size->type != PICKLE_TUPLE || stride->type != PICKLE_TUPLE || size->count != stride->count || size->count > 8)
        return refuse(r, t->name, "a shape of an unknown form");
    t->ndim = (int)size->count;
    t->bytes = st_type_size(t->type);
    int64_t expected = 1;
    bool empty = false, dense = true;
    for (int i = t->ndim; i-- > 0;) {
        const PickleNode *d = size->item[i], *s = stride->item[i];
        if (d->type != PICKLE_INT || s->type != PICKLE_INT || d->number < 0) return refuse(r, t->name, "a bad shape");
        t->shape[i] = d->number;
        dense = dense && (d->number == 1 || s->number == expected);
        empty = empty || d->number == 0;
        if (d->number == 0) continue;
        if (!mul_size(t->bytes, (size_t)d->number, &t->bytes) || t->bytes > INT64_MAX)
            return refuse(r, t->name, "a shape whose size overflows");
        expected *= d->number;
    }
    if (empty) t->bytes = 0;
    return empty || dense || refuse(r, t->name, "its elements do not lie densely in row-major order (.contiguous())");
}

static bool add_tensor(Reader *r, const char *name, const PickleNode *call) {
    const PickleNode *args = call->args, *const *a = (const PickleNode *const *)args->item;
    StTensor t = { .name = name };
    Storage id;
    if (args->count < 4 || a[0]->type != PICKLE_PERSID || !read_storage(a[0], &id) || a[1]->type != PICKLE_INT ||
        a[1]->number < 0)
        return refuse(r, name, "a tensor of an unknown form");
    const Storage *s = find_storage(r, id.key, id.key_n);
    t.type = s->type;
    if (!read_shape(r, a[2], a[3], &t)) return false;
    size_t item = st_type_size(t.type), all = (size_t)s->numel * item, begin;       // checked when it was placed
    if (!mul_size((size_t)a[1]->number, item, &begin) || begin > all || t.bytes > all - begin)
        return refuse(r, name, "it reaches beyond its storage");
    t.data = s->data + begin;
    TorchFile *f = r->file;
    if (f->n == TENSORS_MAX) return refuse(r, name, "more than 65,536 tensors");
    if (f->n == f->room) {
        f->room = f->room ? 2 * f->room : 256;
        f->tensor = xrealloc(f->tensor, (size_t)f->room * sizeof *f->tensor);
    }
    t.name = xstrdup(name);
    f->tensor[f->n++] = t;
    return true;
}

static bool is_tensor(const PickleNode *p) {
    return p->type == PICKLE_CALL && (pickle_is_global(p->callee, "torch._utils", "_rebuild_tensor_v2") ||
                                      pickle_is_global(p->callee, "torch._utils", "_rebuild_tensor"));
}

static bool is_dict(const PickleNode *p) {
    return p->type == PICKLE_DICT ||
           (p->type == PICKLE_CALL && pickle_is_global(p->callee, "collections", "OrderedDict"));
}

// Appends ".KEY" to a prefix of n bytes, or KEY to none. False: a key that is no name, or too long.
static bool append_key(char name[NAME_BYTES], size_t n, const PickleNode *key) {
    if (n) {
        if (n + 1 >= NAME_BYTES) return false;
        name[n++] = '.';
    }
    if (key->type == PICKLE_INT) {
        int written = snprintf(name + n, NAME_BYTES - n, "%lld", (long long)key->number);
        return (size_t)written < NAME_BYTES - n;
    }
    if (!is_text(key) || key->n == 0 || key->n >= NAME_BYTES - n) return false;
    for (size_t i = 0; i < key->n; i++)
        if (key->bytes[i] <= ' ' || key->bytes[i] > '~') return false;
    memcpy(name + n, key->bytes, key->n);
    name[n + key->n] = 0;
    return true;
}

// Tensors below dict, whose own name are the first n bytes of `name`. Nodes may be shared: visits bound the walk.
static bool walk(Reader *r, const PickleNode *dict, char name[NAME_BYTES], size_t n) {
    for (size_t i = 0; i + 1 < dict->count; i += 2) {
        const PickleNode *x = dict->item[i + 1];
        if (++r->visits > VISITS_MAX) return refuse(r, "the dictionary", "more than 1,048,576 entries");
        if (x->type == PICKLE_CALL && pickle_is_global(x->callee, "torch._utils", "_rebuild_parameter"))
            x = x->args->count ? x->args->item[0] : x;
        bool tensor = is_tensor(x);
        if (!tensor && !is_dict(x)) continue;
        if (!append_key(name, n, dict->item[i])) {
            name[n] = 0;
            return refuse(r, n ? name : "the dictionary", "a key that is no name of at most 255 printable characters");
        }
        if (tensor ? !add_tensor(r, name, x) : !walk(r, x, name, strlen(name))) return false;
    }
    return true;
}

static int compare_name(const void *a, const void *b) {
    return strcmp(((const StTensor *)a)->name, ((const StTensor *)b)->name);
}

static bool gather_tensors(Reader *r, const PickleNode *root) {
    TorchFile *f = r->file;
    char name[NAME_BYTES] = "";
    if (!is_dict(root)) return refuse(r, "the object", "it is no dictionary of tensors");
    const PickleNode *inner = pickle_get(root, "state_dict");
    if (!walk(r, inner && is_dict(inner) ? inner : root, name, 0)) return false;
    if (f->n) qsort(f->tensor, (size_t)f->n, sizeof *f->tensor, compare_name);
    for (int i = 1; i < f->n; i++)
        if (compare_name(&f->tensor[i - 1], &f->tensor[i]) == 0)
            return refuse(r, f->tensor[i].name, "two tensors have this name");
    return true;
}

// ---- the two layouts

static const char legacy_start[] = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";     // the magic number

static bool parse_legacy(Reader *r) {
    Pickle *part[4] = { NULL };                       // protocol, machine, object, keys
    size_t at = sizeof legacy_start - 1, used = 0;
    bool ok = true;
    for (int i = 0; i < 4 && ok; i++) {
        part[i] = pickle_parse(r->bytes + at, r->n - at, r->where, allowed, &used, r->err);
        ok = part[i] != NULL;
        at += used;
    }
    if (ok) {
        const PickleNode *protocol = pickle_root(part[0]), *little = pickle_get(pickle_root(part[1]), "little_endian");
        if (protocol->type != PICKLE_INT || protocol->number != 1001 || !little || !little->number)
            ok = refuse(r, "the layout", "it is not protocol 1001 of a little-endian machine");
    }
    ok = ok && gather_storages(r, part[2]) && place_legacy_storages(r, pickle_root(part[3]), at) &&
         gather_tensors(r, pickle_root(part[2]));
    for (int i = 0; i < 4; i++) pickle_free(part[i]);
    return ok;
}

// The archive's one folder: the name before "/data.pkl".
static const ZipMember *find_object(const Zip *z, int *folder_n) {
    static const char tail[] = "/data.pkl";
    size_t n = sizeof tail - 1;
    for (size_t i = 0; i < z->count; i++) {
        const ZipMember *m = &z->member[i];
        if (m->name_n <= n || m->name_n > 255 || memcmp(m->name + m->name_n - n, tail, n) != 0) continue;
        *folder_n = (int)(m->name_n - n);
        return m;
    }
    return NULL;
}

static bool check_byte_order(Reader *r, const Zip *z, const char *folder, int folder_n) {
    const uint8_t *text;
    char *name = xasprintf("%.*s/byteorder", folder_n, folder);
    const ZipMember *m = zip_find(z, name);           // absent before torch 2.1: little endian
    free(name);
    if (!m) return true;
    if (!zip_stored(z, m, &text, r->err)) return false;
    return (m->size == 6 && memcmp(text, "little", 6) == 0) || refuse(r, "the byte order", "it is not little endian");
}

static bool parse_zip(Reader *r) {
    Zip z;
    if (!zip_open(&z, r->bytes, r->n, r->where, r->err)) return false;
    int folder_n = 0;
    const ZipMember *m = find_object(&z, &folder_n);
    const uint8_t *data;
    bool ok = m || refuse(r, "the archive", "it holds no data.pkl");
    ok = ok && check_byte_order(r, &z, m->name, folder_n) && zip_stored(&z, m, &data, r->err);
    Pickle *object = ok ? pickle_parse(data, (size_t)m->size, r->where, allowed, NULL, r->err) : NULL;
    ok = object && gather_storages(r, object) && place_zip_storages(r, &z, m->name, folder_n) &&
         gather_tensors(r, pickle_root(object));
    pickle_free(object);
    zip_close(&z);
    return ok;
}

static bool is_zip(const uint8_t *head, size_t n) { return n >= 4 && memcmp(head, "PK\x03\x04", 4) == 0; }
static bool is_legacy(const uint8_t *head, size_t n) {
    return n >= sizeof legacy_start - 1 && memcmp(head, legacy_start, sizeof legacy_start - 1) == 0;
}
bool torch_file_recognise(const uint8_t *head, size_t n) { return is_zip(head, n) || is_legacy(head, n); }

TorchFile *torch_file_parse(const uint8_t *bytes, size_t n, const char *where, Error *err) {
    Reader r = { .bytes = bytes, .n = n, .where = where, .err = err, .file = xcalloc(1, sizeof *r.file) };
    bool ok = is_zip(bytes, n) ? parse_zip(&r) : is_legacy(bytes, n) ? parse_legacy(&r)
            : error_set(err, ERR_FILE, "%s: not a file of torch.save (neither its zip layout nor the one before): "
                        "check that it is whole and what its name says", where);
    free(r.storage);
    if (ok) return r.file;
    torch_file_close(r.file);
    return NULL;
}

TorchFile *torch_file_open(const char *path, Error *err) {
    uint8_t *bytes;
    size_t n;
    if (!file_read(path, SIZE_MAX - 1, &bytes, &n, err)) return NULL;
    TorchFile *f = torch_file_parse(bytes, n, path, err);
    if (f) f->owned = bytes;
    else free(bytes);
    return f;
}

void torch_file_close(TorchFile *f) {
    if (!f) return;
    for (int i = 0; i < f->n; i++) free((char *)(uintptr_t)f->tensor[i].name);
    free(f->tensor);
    free(f->owned);
    free(f);
}

int torch_file_count(const TorchFile *f) { return f->n; }

const StTensor *torch_file_get(const TorchFile *f, int i) {
    CHECK(i >= 0 && i < f->n, "tensor %d of %d", i, f->n);
    return &f->tensor[i];
}

const StTensor *torch_file_find(const TorchFile *f, const char *name) {
    StTensor key = { .name = name };
    return f->n ? bsearch(&key, f->tensor, (size_t)f->n, sizeof key, compare_name) : NULL;
}
