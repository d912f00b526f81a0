// core/npz.c - NumPy's .npz, a zip archive of .npy members: written stored, read stored or deflated.
//
// Zip in short: per member a local header, its name and its bytes; then the central directory, which repeats the
// headers with their offsets; then the end record, which tells where the directory is. Sizes and offsets from 4 GiB on
// read 0xffffffff and stand in a zip64 extra field, and the end record has a 64-bit twin.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#ifndef CBDM_NO_ZLIB
#include <zlib.h>
#else
// CRC-32 of zip (polynomial 0xEDB88320), bit by bit: only builds without zlib come here.
static unsigned long crc32_z(unsigned long crc, const void *bytes, size_t n) {
    uint32_t c = ~(uint32_t)crc;
    for (size_t i = 0; i < n; i++) {
        c ^= ((const uint8_t *)bytes)[i];
        for (int bit = 0; bit < 8; bit++) c = c >> 1 ^ (c & 1 ? 0xEDB88320u : 0);
    }
    return ~c;
}
#endif
#include "core/file.h"

#ifndef NPZ_ZIP64_FROM
#define NPZ_ZIP64_FROM 0xffffffffu      // a test lowers it, so that zip64 is seen without writing 4 GiB
#endif
enum {
    MEMBERS_MAX = 64,
    NAME_BYTES = 128,                   // with ".npy" and the 0
    LOCAL = 0x04034b50, CENTRAL = 0x02014b50, END = 0x06054b50, END64 = 0x06064b50, LOCATOR64 = 0x07064b50,
    DOS_DATE = 0x21,                    // 1980-01-01: equal arrays make equal files
};

// ---- little-endian fields

typedef struct { uint8_t bytes[256]; size_t n; } Record;

static void put(Record *r, int size, uint64_t v) {
    CHECK(r->n + (size_t)size <= sizeof r->bytes, "a record of %zu bytes", r->n);
    for (int i = 0; i < size; i++) r->bytes[r->n++] = (uint8_t)(v >> 8 * i);
}

static uint64_t get(const uint8_t *p, int size) {
    uint64_t v = 0;
    for (int i = size; i-- > 0;) v = v << 8 | p[i];
    return v;
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
    put(&r, 4, LOCAL);
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
    put(&r, 4, CENTRAL);
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
    m->crc = (uint32_t)crc32_z(m->crc, bytes, n);
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
        put(&r, 4, END64);
        put(&r, 8, 44);                 // bytes that follow
        put(&r, 2, 3 << 8 | 45);
        put(&r, 2, 45);
        put(&r, 8, 0);                  // two disk numbers
        put(&r, 8, count);
        put(&r, 8, count);
        put(&r, 8, end - start);
        put(&r, 8, start);
        put(&r, 4, LOCATOR64);
        put(&r, 4, 0);
        put(&r, 8, end);
        put(&r, 4, 1);
    }
    put(&r, 4, END);
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

typedef struct { const uint8_t *bytes; size_t n; const char *where; Error *err; } Zip;
typedef struct {
    uint64_t offset, packed, size;
    uint32_t crc;
    unsigned method;
    bool encrypted;
    const uint8_t *zip64;               // the extra field, zip64_n bytes
    size_t zip64_n;
} Entry;

static bool refuse(const Zip *z, uint64_t offset, const char *why) {
    return error_set(z->err, ERR_FILE, "%s: %s (offset %" PRIu64 "): the archive is damaged or of an unknown kind",
                     z->where, why, offset);
}

// Finds the central directory: its offset and number of entries.
static bool find_directory(const Zip *z, uint64_t *start, uint64_t *count) {
    if (z->n < 22) return refuse(z, 0, "no zip archive");
    size_t at = z->n - 22, last = z->n > 22 + 65535 ? z->n - 22 - 65535 : 0;    // a comment may follow the record
    while (get(z->bytes + at, 4) != END || at + 22 + get(z->bytes + at + 20, 2) != z->n)
        if (at-- == last) return refuse(z, z->n, "no zip archive, or one that is cut off");
    *count = get(z->bytes + at + 10, 2);
    *start = get(z->bytes + at + 16, 4);
    if (at < 20 || get(z->bytes + at - 20, 4) != LOCATOR64) return true;
    uint64_t end64 = get(z->bytes + at - 12, 8);
    if (z->n < 56 || end64 > z->n - 56 || get(z->bytes + end64, 4) != END64)
        return refuse(z, end64, "a bad zip64 end record");
    *count = get(z->bytes + end64 + 32, 8);
    *start = get(z->bytes + end64 + 48, 8);
    return true;
}

// Replaces the fields that read 0xffffffff by those of the zip64 extra field at p, n bytes.
static bool read_zip64(const uint8_t *p, size_t n, Entry *e) {
    uint64_t *const fields[3] = { &e->size, &e->packed, &e->offset };
    while (n >= 4) {
        size_t id = (size_t)get(p, 2), length = (size_t)get(p + 2, 2), used = 4;
        if (length > n - 4) return false;
        for (int i = 0; i < 3 && id == 1; i++) {
            if (*fields[i] != 0xffffffff) continue;
            if (used + 8 > 4 + length) return false;
            *fields[i] = get(p + used, 8);
            used += 8;
        }
        p += 4 + length;
        n -= 4 + length;
    }
    return true;
}

// One entry of the central directory: at its offset, moved on to the next; its name (not terminated), its member.
static bool next_entry(const Zip *z, uint64_t *at, const char **name, size_t *name_n, Entry *e) {
    if (z->n < 46 || *at > z->n - 46 || get(z->bytes + *at, 4) != CENTRAL)
        return refuse(z, *at, "a bad directory entry");
    const uint8_t *p = z->bytes + *at;
    size_t extra_n = (size_t)get(p + 30, 2), comment_n = (size_t)get(p + 32, 2);
    *name_n = (size_t)get(p + 28, 2);
    *name = (const char *)p + 46;
    if (*name_n + extra_n + comment_n > z->n - 46 - *at) return refuse(z, *at, "a directory entry that is cut off");
    *e = (Entry){ .offset = get(p + 42, 4), .packed = get(p + 20, 4), .size = get(p + 24, 4),
                  .crc = (uint32_t)get(p + 16, 4), .method = (unsigned)get(p + 10, 2),
                  .encrypted = get(p + 8, 2) & 1, .zip64 = p + 46 + *name_n, .zip64_n = extra_n };
    *at += 46 + *name_n + extra_n + comment_n;
    return true;
}

// Looks "NAME.npy" up in the central directory. Where a name comes twice the archive is refused.
static bool find_member(const Zip *z, const char *name, Entry *e) {
    uint64_t at = 0, count = 0;
    bool found = false;
    size_t stem = strlen(name), name_n;
    if (!find_directory(z, &at, &count)) return false;
    for (uint64_t i = 0; i < count; i++) {
        const char *member;
        uint64_t here = at;
        Entry one;
        if (!next_entry(z, &at, &member, &name_n, &one)) return false;
        if (name_n != stem + 4 || memcmp(member, name, stem) != 0 || memcmp(member + stem, ".npy", 4) != 0) continue;
        if (found) return refuse(z, here, "a member that comes twice");
        found = true;
        *e = one;
        if (e->encrypted) return refuse(z, here, "an encrypted member");
        if (!read_zip64(e->zip64, e->zip64_n, e)) return refuse(z, here, "a bad zip64 field");
    }
    return found || error_set(z->err, ERR_FILE, "%s: holds no array named \"%.100s\"", z->where, name);
}

bool npz_names(const uint8_t *bytes, size_t n, const char *where, char ***names, int *count, Error *err) {
    Zip z = { bytes, n, where, err };
    uint64_t at = 0, entries = 0;
    if (!find_directory(&z, &at, &entries)) return false;
    *names = NULL;
    *count = 0;
    for (uint64_t i = 0; i < entries; i++) {
        const char *member;
        size_t name_n;
        Entry e;
        if (!next_entry(&z, &at, &member, &name_n, &e)) {
            npz_names_free(*names, *count);
            return false;
        }
        if (name_n < 4 || memcmp(member + name_n - 4, ".npy", 4) != 0 || memchr(member, 0, name_n)) continue;
        *names = xrealloc(*names, (size_t)(*count + 1) * sizeof **names);
        (*names)[(*count)++] = xasprintf("%.*s", (int)name_n - 4, member);
    }
    return true;
}

void npz_names_free(char **names, int count) {
    for (int i = 0; i < count; i++) free(names[i]);
    free(names);
}

#ifndef CBDM_NO_ZLIB
static bool inflate_all(const uint8_t *packed, size_t packed_n, uint8_t *out, size_t n) {
    z_stream s = { 0 };
    if (inflateInit2(&s, -MAX_WBITS) != Z_OK) return false;
    int status = Z_OK;
    size_t in_done = 0, out_done = 0;           // zlib counts in 32 bits: both are fed in pieces
    while (status == Z_OK) {
        size_t in_n = packed_n - in_done < 1 << 30 ? packed_n - in_done : 1 << 30;
        size_t out_n = n - out_done < 1 << 30 ? n - out_done : 1 << 30;
        s.next_in = (Bytef *)(uintptr_t)(packed + in_done);
        s.avail_in = (uInt)in_n;
        s.next_out = out + out_done;
        s.avail_out = (uInt)out_n;
        status = inflate(&s, Z_NO_FLUSH);
        in_done += in_n - s.avail_in;
        out_done += out_n - s.avail_out;
    }
    inflateEnd(&s);
    return status == Z_STREAM_END && out_done == n && in_done == packed_n;
}
#endif

bool npz_parse(const uint8_t *bytes, size_t n, const char *where, const char *name, uint8_t **member, NpyArray *out,
               Error *err) {
    Zip z = { bytes, n, where, err };
    Entry e = { 0 };
    if (!find_member(&z, name, &e)) return false;
    if (n < 30 || e.offset > n - 30 || get(bytes + e.offset, 4) != LOCAL) return refuse(&z, e.offset, "a bad member");
    uint64_t data = e.offset + 30 + get(bytes + e.offset + 26, 2) + get(bytes + e.offset + 28, 2);
    if (data > n || e.packed > n - data) return refuse(&z, e.offset, "a member that is cut off");
    if (e.method != 0 && e.method != 8) return refuse(&z, e.offset, "a member that is neither stored nor deflated");
    // Deflate cannot do better than 1032:1, so a larger claim is a lie; it bounds what is allocated here.
    if (e.method == 0 ? e.size != e.packed : e.size / 1032 > e.packed)
        return refuse(&z, e.offset, "a member of a false size");
    uint8_t *p = malloc((size_t)e.size + 1);
    if (!p)
        return error_set(err, ERR_MEMORY, "%s: the %" PRIu64 " bytes of %s do not fit in memory", where, e.size, name);
    bool ok = true;
    if (e.method == 0) memcpy(p, bytes + data, (size_t)e.size);
#ifdef CBDM_NO_ZLIB
    else {
        free(p);
        return error_set(err, ERR_USAGE, "%s: %s is compressed and this build has no zlib: install zlib1g-dev, run cmake "
                         "again", where, name);
    }
#else
    else ok = inflate_all(bytes + data, (size_t)e.packed, p, (size_t)e.size);
#endif
    if (!ok) refuse(&z, data, "a member whose deflated data are damaged");
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    if (ok && (uint32_t)crc32_z(0, p, (size_t)e.size) != e.crc)
        ok = refuse(&z, data, "a member that does not match its CRC-32");
#endif
    char *place = xasprintf("%s (%s)", where, name);
    ok = ok && npy_parse(p, (size_t)e.size, place, out, err);
    free(place);
    if (ok) *member = p;
    else free(p);
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
