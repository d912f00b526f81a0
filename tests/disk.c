// tests/disk.c - the model of a disk that loses power.
#include "tests/disk.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = 4096, MAX_NODES = 512, MAX_FDS = 4096, MAX_ENTRIES = 64 };

// ---- reading a record

static char *word(const char **at, const char *end) {
    const char *begin = *at;
    while (*at < end && **at != ' ' && **at != '\n') ++*at;
    char *w = xasprintf("%.*s", (int)(*at - begin), begin);
    if (*at < end) ++*at;
    return w;
}

static int64_t number(const char **at, const char *end) {
    char *w = word(at, end), *stop;
    int64_t v = strtoll(w, &stop, 10);
    CHECK(*w && !*stop, "\"%s\" in a record is no number", w);
    free(w);
    return v;
}

static void read_call(Call *c, const char **at, const char *end) {
    // f descriptor, g flags, o offset, n, p path, t
    static const struct { const char *name, *arguments; } form[] = {
        [CALL_START] = { "start", "" }, [CALL_OPEN] = { "open", "fgp" }, [CALL_WRITE] = { "write", "fon" },
        [CALL_TRUNCATE] = { "truncate", "fn" }, [CALL_FSYNC] = { "fsync", "f" }, [CALL_CLOSE] = { "close", "f" },
        [CALL_RENAME] = { "rename", "pt" }, [CALL_LINK] = { "link", "pt" }, [CALL_UNLINK] = { "unlink", "p" },
        [CALL_MKDIR] = { "mkdir", "p" } };
    char *name = word(at, end);
    int k = 0;
    while (k <= CALL_MKDIR && strcmp(name, form[k].name) != 0) k++;
    CHECK(k <= CALL_MKDIR, "\"%s\" is no call", name);
    free(name);
    *c = (Call){ .kind = (CallKind)k };
    for (const char *a = form[k].arguments; *a; a++)
        switch (*a) {
        case 'f': c->fd = (int)number(at, end); break;
        case 'g': c->flags = (int)number(at, end); break;
        case 'o': c->offset = number(at, end); break;
        case 'n': c->n = number(at, end); break;
        case 'p': c->path = word(at, end); break;
        default: c->to = word(at, end);
        }
    if (c->kind != CALL_WRITE) return;
    CHECK(c->n > 0 && c->n <= end - *at, "%lld bytes are not there", (long long)c->n);
    c->bytes = memcpy(xmalloc((size_t)c->n), *at, (size_t)c->n);
    *at += c->n;
}

Call *calls_read(const uint8_t *bytes, size_t n, int *count) {
    const char *at = (const char *)bytes, *end = at + n;
    Call *calls = NULL;
    *count = 0;
    while (at < end) {
        calls = xrealloc(calls, (size_t)(*count + 1) * sizeof *calls);
        read_call(&calls[(*count)++], &at, end);
    }
    return calls;
}

void calls_free(Call *calls, int count) {
    for (int i = 0; i < count; i++) {
        free(calls[i].path);
        free(calls[i].to);
        free(calls[i].bytes);
    }
    free(calls);
}

// ---- the disk

typedef struct { char *name; int node; } Entry;
typedef struct { Entry entry[MAX_ENTRIES]; int n; } Entries;
typedef struct { uint8_t *bytes; size_t n; } Bytes;
// A file or folder, as the program sees it and as it is on the disk for certain.
typedef struct { bool folder; Bytes seen, safe; Entries seen_in, safe_in; } DiskNode;
// ITEM_PAGE: the page's bytes; ITEM_LENGTH: the file has n bytes now; ITEM_NAMES: names[i] is node[i] now, -1 nothing.
typedef enum { ITEM_PAGE, ITEM_LENGTH, ITEM_NAMES } ItemKind;
typedef struct {
    ItemKind kind;
    int      node;                    // that it belongs to
    size_t   page, n;
    uint8_t *bytes;
    char    *name[2];
    int      target[2];
} Item;
struct Disk {
    DiskNode node[MAX_NODES];
    int   n_nodes, fd[MAX_FDS];       // descriptor: node, -1 none
    Item *item;
    int   n_items;
};

static void free_bytes(Bytes *b) {
    free(b->bytes);
    *b = (Bytes){ 0 };
}

static void set_bytes(Bytes *to, const Bytes *from) {
    free_bytes(to);
    if (from->n) to->bytes = memcpy(xmalloc(from->n), from->bytes, from->n);
    to->n = from->n;
}

static void resize(Bytes *b, size_t n) {
    b->bytes = xrealloc(b->bytes, n);
    if (n > b->n) memset(b->bytes + b->n, 0, n - b->n);
    b->n = n;
}

static Entry *find_entry(Entries *in, const char *name, size_t n) {
    for (int i = 0; i < in->n; i++)
        if (strlen(in->entry[i].name) == n && memcmp(in->entry[i].name, name, n) == 0) return &in->entry[i];
    return NULL;
}

static void set_entry(Entries *in, const char *name, int node) {
    Entry *e = find_entry(in, name, strlen(name));
    if (e && node >= 0) {
        e->node = node;
    } else if (e) {
        free(e->name);
        *e = in->entry[--in->n];
    } else if (node >= 0) {
        CHECK(in->n < MAX_ENTRIES, "more than %d names in a folder", MAX_ENTRIES);
        in->entry[in->n++] = (Entry){ xstrdup(name), node };
    }
}

static void free_entries(Entries *in) {
    for (int i = 0; i < in->n; i++) free(in->entry[i].name);
    in->n = 0;
}

static void set_entries(Entries *to, const Entries *from) {
    free_entries(to);
    for (int i = 0; i < from->n; i++) set_entry(to, from->entry[i].name, from->entry[i].node);
}

// The node of path, -1: none. *folder: that of its folder; *last: its last part.
static int resolve(const Disk *d, const char *path, int *folder, const char **last) {
    CHECK(strncmp(path, "world", 5) == 0, "%s is outside", path);
    int node = 0, parent = 0;
    const char *name = path;
    for (const char *at = path + 5; *at == '/' && at[1];) {
        size_t n = strcspn(++at, "/");
        CHECK(node >= 0, "no folder for %s", path);
        const Entry *e = find_entry(&((Disk *)(uintptr_t)d)->node[node].seen_in, at, n);
        name = at;
        parent = node;
        node = e ? e->node : -1;
        at += n;
    }
    if (folder) *folder = parent;
    if (last) *last = name;
    return node;
}

const uint8_t *disk_view(const Disk *d, const char *path, size_t *n) {
    int i = resolve(d, path, NULL, NULL);
    if (i < 0) return NULL;
    *n = d->node[i].seen.n;
    return d->node[i].folder || !*n ? (const uint8_t *)"" : d->node[i].seen.bytes;
}

static Item *add_item(Disk *d, ItemKind kind, int node) {
    d->item = xrealloc(d->item, (size_t)(d->n_items + 1) * sizeof *d->item);
    d->item[d->n_items] = (Item){ .kind = kind, .node = node, .target = { -1, -1 } };
    return &d->item[d->n_items++];
}

static void free_item(Item *i) {
    free(i->bytes);
    free(i->name[0]);
    free(i->name[1]);
}

static int add_node(Disk *d, bool folder) {
    CHECK(d->n_nodes < MAX_NODES, "more than %d files", MAX_NODES);
    d->node[d->n_nodes] = (DiskNode){ .folder = folder };
    return d->n_nodes++;
}

Disk *disk_new(void) {
    Disk *d = xcalloc(1, sizeof *d);
    memset(d->fd, -1, sizeof d->fd);
    add_node(d, true);
    return d;
}

void disk_free(Disk *d) {
    for (int i = 0; i < d->n_nodes; i++) {
        free_bytes(&d->node[i].seen);
        free_bytes(&d->node[i].safe);
        free_entries(&d->node[i].seen_in);
        free_entries(&d->node[i].safe_in);
    }
    for (int i = 0; i < d->n_items; i++) free_item(&d->item[i]);
    free(d->item);
    free(d);
}

int disk_pending(const Disk *d) { return d->n_items; }

// ---- calls

// A name in a folder becomes a node, or goes with -1.
static void name_node(Disk *d, int folder, const char *name, int node) {
    Item *item = add_item(d, ITEM_NAMES, folder);
    item->name[0] = xstrdup(name);
    item->target[0] = node;
    set_entry(&d->node[folder].seen_in, name, node);
}

static void set_length(Disk *d, int node, size_t n) {
    if (d->node[node].seen.n == n) return;
    resize(&d->node[node].seen, n);
    add_item(d, ITEM_LENGTH, node)->n = n;
}

static void open_file(Disk *d, const Call *c) {
    int folder;
    const char *name;
    int node = resolve(d, c->path, &folder, &name);
    if (node < 0) {
        node = add_node(d, false);
        name_node(d, folder, name, node);
    } else if (c->flags & O_TRUNC) {
        set_length(d, node, 0);
    }
    d->fd[c->fd] = node;
}

static void write_file(Disk *d, const Call *c) {
    int node = d->fd[c->fd];
    Bytes *b = &d->node[node].seen;
    size_t begin = (size_t)c->offset, end = begin + (size_t)c->n;
    if (end > b->n) set_length(d, node, end);
    memcpy(b->bytes + begin, c->bytes, (size_t)c->n);
    for (size_t page = begin / PAGE; page * PAGE < end; page++) {
        Item *item = add_item(d, ITEM_PAGE, node);
        size_t left = b->n - page * PAGE;
        item->page = page;
        item->n = left < PAGE ? left : PAGE;
        item->bytes = memcpy(xmalloc(item->n), b->bytes + page * PAGE, item->n);
    }
}

static void sync_node(Disk *d, int node) {
    DiskNode *f = &d->node[node];
    set_bytes(&f->safe, &f->seen);
    set_entries(&f->safe_in, &f->seen_in);
    int kept = 0;
    for (int i = 0; i < d->n_items; i++) {
        if (d->item[i].node == node) free_item(&d->item[i]);
        else d->item[kept++] = d->item[i];
    }
    d->n_items = kept;
}

static void rename_file(Disk *d, const Call *c) {
    int from_folder, to_folder;
    const char *from, *to;
    int node = resolve(d, c->path, &from_folder, &from);
    resolve(d, c->to, &to_folder, &to);
    CHECK(node >= 0 && from_folder == to_folder, "rename of %s to %s", c->path, c->to);
    Item *item = add_item(d, ITEM_NAMES, to_folder);
    item->name[0] = xstrdup(from);
    item->name[1] = xstrdup(to);
    item->target[1] = node;
    set_entry(&d->node[to_folder].seen_in, from, -1);
    set_entry(&d->node[to_folder].seen_in, to, node);
}

void disk_apply(Disk *d, const Call *c) {
    int folder, node;
    const char *name;
    bool by_fd = c->kind == CALL_WRITE || c->kind == CALL_TRUNCATE || c->kind == CALL_FSYNC || c->kind == CALL_CLOSE;
    CHECK(!by_fd || (c->fd >= 0 && c->fd < MAX_FDS && d->fd[c->fd] >= 0), "descriptor %d is not open", c->fd);
    switch (c->kind) {
    case CALL_START: memset(d->fd, -1, sizeof d->fd); break;
    case CALL_OPEN: open_file(d, c); break;
    case CALL_WRITE: write_file(d, c); break;
    case CALL_TRUNCATE: set_length(d, d->fd[c->fd], (size_t)c->n); break;
    case CALL_FSYNC: sync_node(d, d->fd[c->fd]); break;
    case CALL_CLOSE: d->fd[c->fd] = -1; break;
    case CALL_RENAME: rename_file(d, c); break;
    case CALL_LINK:
        node = resolve(d, c->path, NULL, NULL);
        resolve(d, c->to, &folder, &name);
        name_node(d, folder, name, node);
        break;
    case CALL_UNLINK:
    case CALL_MKDIR:
        node = resolve(d, c->path, &folder, &name);
        CHECK((node < 0) == (c->kind == CALL_MKDIR), "%s", c->path);
        name_node(d, folder, name, c->kind == CALL_MKDIR ? add_node(d, true) : -1);
        break;
    }
}

// ---- the power goes

static Bytes file_after(const Disk *d, int node, const bool *kept, uint8_t fill) {
    size_t room = d->node[node].safe.n + 1, length = d->node[node].safe.n;
    for (int i = 0; i < d->n_items; i++) {
        const Item *t = &d->item[i];
        if (t->node != node || t->kind == ITEM_NAMES) continue;
        size_t end = t->kind == ITEM_PAGE ? t->page * PAGE + t->n : t->n;
        if (end > room) room = end;
    }
    uint8_t *bytes = xmalloc(room);
    memset(bytes, fill, room);
    if (length) memcpy(bytes, d->node[node].safe.bytes, length);
    for (int i = 0; i < d->n_items; i++) {
        const Item *t = &d->item[i];
        if (t->node != node || !kept[i]) continue;
        if (t->kind == ITEM_PAGE) memcpy(bytes + t->page * PAGE, t->bytes, t->n);
        if (t->kind == ITEM_LENGTH && t->n < length) memset(bytes + t->n, fill, room - t->n);
        if (t->kind == ITEM_LENGTH) length = t->n;
    }
    return (Bytes){ bytes, length };
}

static void walk(const Disk *d, int folder, const char *path, const bool *kept, uint8_t fill, Tree *out) {
    Entries in = { .n = 0 };
    set_entries(&in, &d->node[folder].safe_in);
    for (int i = 0; i < d->n_items; i++) {
        const Item *t = &d->item[i];
        if (t->node != folder || !kept[i]) continue;
        for (int j = 0; j < 2; j++)
            if (t->name[j]) set_entry(&in, t->name[j], t->target[j]);
    }
    for (int i = 0; i < in.n; i++) {
        int node = in.entry[i].node;
        bool inner = d->node[node].folder;
        char *child = xasprintf("%s/%s", path, in.entry[i].name);
        Bytes b = inner ? (Bytes){ 0 } : file_after(d, node, kept, fill);
        out->entry = xrealloc(out->entry, (size_t)(out->n + 1) * sizeof *out->entry);
        out->entry[out->n++] = (TreeEntry){ child, b.bytes, b.n };
        if (inner) walk(d, node, child, kept, fill, out);
    }
    free_entries(&in);
}

Tree disk_crash(const Disk *d, const bool *kept, uint8_t fill) {
    Tree t = { 0 };
    walk(d, 0, "world", kept, fill, &t);
    return t;
}

void tree_free(Tree *t) {
    for (int i = 0; i < t->n; i++) {
        free(t->entry[i].path);
        free(t->entry[i].bytes);
    }
    free(t->entry);
    *t = (Tree){ 0 };
}
