// core/npz.c - NumPy's .npz, a zip archive of .npy members: written stored, read stored or deflated. core/zip.c says
// what a zip archive is made of.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "core/file.h"
#include "core/zip.h"

#ifndef NPZ_ZIP64_FROM
#define NPZ_ZIP64_FROM 0xffffffffu      // a test lowers it, so that zip64 is seen without writing 4 GiB
#endif
enum {
    MEMBERS_MAX = 64,
    NAME_BYTES = 128,                   // with ".npy" and the 0
    DOS_DATE = 0x21,                    // 1980-01-01: equal arrays make equal files
};

// ---- little-endian fields

typedef struct { uint8_t bytes[256]; size_t n; } Record;

static void put(Record *r, int size, uint64_t v) {
    CHECK(r->n + (size_t)size <= sizeof r->bytes, "a record of %zu bytes", r->n);
    for (int i = 0; i < size; i++) r->bytes[r->n++] = (uint8_t)(v >> 8 * i);
}

static uint64_t capped(uint64_t v) {
    return v >= NPZ_ZIP64_FROM ? 0xffffffff : v;
}

// ---- writing

typedef struct { char name[NAME_BYTES]; uint64_t offset, size, written; uint32_t crc; } Member;

struct NpzWriter {
    FileWriter *file;
    Member members[MEMBERS_MAX];
    int n;
};

NpzWriter *npz_create(const char *path, Error *err) {
    FileWriter *w = file_create(path, err);
    if (!w) return NULL;
    NpzWriter *z = xcalloc(1, sizeof *z);
    z->file = w;
    return z;
}

// The fields that local and central headers share, from "version needed" to the length of the extra field.
static void put_header(Record *r, const Member *m, bool zip64, int extra_bytes) {
    put(r, 2, zip64 ? 45 : 20);
    put(r, 2, 0);                       // flags
    put(r, 2, 0);                       // method: stored
    put(r, 2, 0);
    put(r, 2, DOS_DATE);
    put(r, 4, m->crc);
    put(r, 4, capped(m->size));
    put(r, 4, capped(m->size));
    put(r, 2, strlen(m->name));
    put(r, 2, (uint64_t)extra_bytes);
}

static Record local_header(const Member *m) {
    Record r = { .n = 0 };
    bool zip64 = m->size >= NPZ_ZIP64_FROM;
    put(&r, 4, ZIP_LOCAL);
    put_header(&r, m, zip64, zip64 ? 20 : 0);
    for (const char *s = m->name; *s; s++) put(&r, 1, (uint8_t)*s);
    if (zip64) {
        put(&r, 2, 1);
        put(&r, 2, 16);
        put(&r, 8, m->size);
        put(&r, 8, m->size);
    }
    return r;
}

static Record central_header(const Member *m) {
    Record r = { .n = 0 };
    bool big_size = m->size >= NPZ_ZIP64_FROM, big_offset = m->offset >= NPZ_ZIP64_FROM;
    int data = 16 * big_size + 8 * big_offset;
    put(&r, 4, ZIP_CENTRAL);
    put(&r, 2, 3 << 8 | 45);            // made by: Unix, so that the mode below counts
    put_header(&r, m, big_size || big_offset, data ? 4 + data : 0);
    put(&r, 6, 0);                      // comment length, disk number, internal attributes
    put(&r, 4, (uint64_t)0100644 << 16);
    put(&r, 4, capped(m->offset));
    for (const char *s = m->name; *s; s++) put(&r, 1, (uint8_t)*s);
    if (data) {
        put(&r, 2, 1);
        put(&r, 2, (uint64_t)data);
        if (big_size) put(&r, 8, m->size);
        if (big_size) put(&r, 8, m->size);
        if (big_offset) put(&r, 8, m->offset);
    }
    return r;
}

// Completes the member begun last: its CRC goes into its local header.
static void end_member(NpzWriter *z) {
    if (z->n == 0) return;
    Member *m = &z->members[z->n - 1];
    CHECK(m->written == m->size, "%s: %" PRIu64 " bytes promised, %" PRIu64 " written", m->name, m->size, m->written);
    Record r = local_header(m);
    file_patch(z->file, m->offset, r.bytes, r.n);
}

bool npz_rows(NpzWriter *z, const void *bytes, size_t n) {
    Member *m = &z->members[z->n - 1];
    m->crc = zip_crc32(m->crc, bytes, n);
    m->written += n;
    return file_write(z->file, bytes, n);
}

bool npz_begin(NpzWriter *z, const char *name, const NpyArray *a) {
    uint8_t header[NPY_HEADER_MAX];
    size_t n = npy_header(a, header), bytes;
    CHECK(z->n < MEMBERS_MAX, "%d members are all that there can be", MEMBERS_MAX);
    CHECK(*name && strlen(name) < 96 && !strpbrk(name, "/\\"), "an array cannot be named \"%.200s\"", name);
    CHECK(npy_data_bytes(a, &bytes), "%s: the shape overflows", name);
    end_member(z);
    Member *m = &z->members[z->n++];
    snprintf(m->name, sizeof m->name, "%s.npy", name);
    m->offset = file_offset(z->file);
    m->size = (uint64_t)n + bytes;
    Record r = local_header(m);
    file_write(z->file, r.bytes, r.n);
    return npz_rows(z, header, n);
}

bool npz_commit(NpzWriter *z, Error *err) {
    end_member(z);
    uint64_t start = file_offset(z->file);
    for (int i = 0; i < z->n; i++) {
        Record r = central_header(&z->members[i]);
        file_write(z->file, r.bytes, r.n);
    }
    uint64_t end = file_offset(z->file), count = (uint64_t)z->n;
    Record r = { .n = 0 };
    if (start >= NPZ_ZIP64_FROM) {
        put(&r, 4, ZIP_END64);
        put(&r, 8, 44);                 // bytes that follow
        put(&r, 2, 3 << 8 | 45);
        put(&r, 2, 45);
        put(&r, 8, 0);                  // two disk numbers
        put(&r, 8, count);
        put(&r, 8, count);
        put(&r, 8, end - start);
        put(&r, 8, start);
        put(&r, 4, ZIP_LOCATOR64);
        put(&r, 4, 0);
        put(&r, 8, end);
        put(&r, 4, 1);
    }
    put(&r, 4, ZIP_END);
    put(&r, 4, 0);                      // two disk numbers
    put(&r, 2, count);
    put(&r, 2, count);
    put(&r, 4, end - start);
    put(&r, 4, capped(start));
    put(&r, 2, 0);                      // comment length
    file_write(z->file, r.bytes, r.n);
    bool ok = file_commit(z->file, err);
    free(z);
    return ok;
}

void npz_abandon(NpzWriter *z) {
    if (!z) return;
    file_abandon(z->file);
    free(z);
}

bool npz_write(const char *path, const char *const *names, const NpyArray *a, int n, Error *err) {
    NpzWriter *z = npz_create(path, err);
    if (!z) return false;
    for (int i = 0; i < n; i++) {
        size_t bytes;
        CHECK(npy_data_bytes(&a[i], &bytes), "%s: descr \"%.7s\"", names[i], a[i].descr);
        npz_begin(z, names[i], &a[i]);
        npz_rows(z, a[i].data, bytes);
    }
    return npz_commit(z, err);
}

// ---- reading

bool npz_names(const uint8_t *bytes, size_t n, const char *where, char ***names, int *count, Error *err) {
    Zip z;
    if (!zip_open(&z, bytes, n, where, err)) return false;
    *names = xcalloc(z.count + 1, sizeof **names);
    *count = 0;
    for (size_t i = 0; i < z.count; i++) {
        const ZipMember *m = &z.member[i];
        if (m->name_n < 4 || memcmp(m->name + m->name_n - 4, ".npy", 4) != 0 || memchr(m->name, 0, m->name_n)) continue;
        (*names)[(*count)++] = xasprintf("%.*s", (int)m->name_n - 4, m->name);
    }
    zip_close(&z);
    return true;
}

void npz_names_free(char **names, int count) {
    for (int i = 0; i < count; i++) free(names[i]);
    free(names);
}

bool npz_parse(const uint8_t *bytes, size_t n, const char *where, const char *name, uint8_t **member, NpyArray *out,
               Error *err) {
    Zip z;
    if (!zip_open(&z, bytes, n, where, err)) return false;
    char *file_name = xasprintf("%s.npy", name), *place = xasprintf("%s (%s)", where, name);
    const ZipMember *m = zip_find(&z, file_name);
    uint8_t *p = NULL;
    bool ok = m ? zip_unpack(&z, m, &p, err)
                : error_set(err, ERR_FILE, "%s: holds no array named \"%.100s\"", where, name);
    ok = ok && npy_parse(p, (size_t)m->size, place, out, err);
    if (ok) *member = p;
    else free(p);
    free(place);
    free(file_name);
    zip_close(&z);
    return ok;
}

bool npz_read(const char *path, const char *name, uint8_t **member, NpyArray *out, Error *err) {
    uint8_t *bytes;
    size_t n;
    if (!file_read(path, SIZE_MAX - 1, &bytes, &n, err)) return false;
    bool ok = npz_parse(bytes, n, path, name, member, out, err);
    free(bytes);
    return ok;
}
