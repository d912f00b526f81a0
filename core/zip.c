// core/zip.c - reads zip archives in memory, stored or deflated members.
//
// Zip in short: per member a local header, its name and its bytes; then the central directory, which repeats the
// headers with their offsets; then the end record, which tells where the directory is. Sizes and offsets from 4 GiB on
// read 0xffffffff and stand in a zip64 extra field, and the end record has a 64-bit twin. Only the central directory is
// believed; of a local header the lengths of its name and extra field are read, and checked.
#include "core/zip.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#ifndef CBDM_NO_ZLIB
#include <zlib.h>
#endif

uint64_t zip_field(const uint8_t *p, int bytes) {
    uint64_t v = 0;
    for (int i = bytes; i-- > 0;) v = v << 8 | p[i];
    return v;
}

uint32_t zip_crc32(uint32_t crc, const void *bytes, size_t n) {
#ifndef CBDM_NO_ZLIB
    return (uint32_t)crc32_z(crc, bytes, n);
#else
    uint32_t c = ~crc;                  // polynomial 0xEDB88320, bit by bit: only builds without zlib come here
    for (size_t i = 0; i < n; i++) {
        c ^= ((const uint8_t *)bytes)[i];
        for (int bit = 0; bit < 8; bit++) c = c >> 1 ^ (c & 1 ? 0xEDB88320u : 0);
    }
    return ~c;
#endif
}

static bool refuse(const Zip *z, uint64_t offset, const char *why, Error *err) {
    return error_set(err, ERR_FILE, "%s: %s (offset %" PRIu64 "): the archive is damaged or of an unknown kind",
                     z->where, why, offset);
}

// ---- the directory

// Finds the central directory: its offset and number of entries.
static bool find_directory(const Zip *z, uint64_t *start, uint64_t *count, Error *err) {
    if (z->n < 22) return refuse(z, 0, "no zip archive", err);
    size_t at = z->n - 22, last = z->n > 22 + 65535 ? z->n - 22 - 65535 : 0;    // a comment may follow the record
    while (zip_field(z->bytes + at, 4) != ZIP_END || at + 22 + zip_field(z->bytes + at + 20, 2) != z->n)
        if (at-- == last) return refuse(z, z->n, "no zip archive, or one that is cut off", err);
    *count = zip_field(z->bytes + at + 10, 2);
    *start = zip_field(z->bytes + at + 16, 4);
    if (at < 20 || zip_field(z->bytes + at - 20, 4) != ZIP_LOCATOR64) return true;
    uint64_t end64 = zip_field(z->bytes + at - 12, 8);
    if (z->n < 56 || end64 > z->n - 56 || zip_field(z->bytes + end64, 4) != ZIP_END64)
        return refuse(z, end64, "a bad zip64 end record", err);
    *count = zip_field(z->bytes + end64 + 32, 8);
    *start = zip_field(z->bytes + end64 + 48, 8);
    return true;
}

// Replaces the fields that read 0xffffffff by those of the zip64 extra field at p, n bytes.
static bool read_zip64(const uint8_t *p, size_t n, ZipMember *m) {
    uint64_t *const fields[3] = { &m->size, &m->packed, &m->offset };
    while (n >= 4) {
        size_t id = (size_t)zip_field(p, 2), length = (size_t)zip_field(p + 2, 2), used = 4;
        if (length > n - 4) return false;
        for (int i = 0; i < 3 && id == 1; i++) {
            if (*fields[i] != 0xffffffff) continue;
            if (used + 8 > 4 + length) return false;
            *fields[i] = zip_field(p + used, 8);
            used += 8;
        }
        p += 4 + length;
        n -= 4 + length;
    }
    return true;
}

static int compare_name(const void *a, const void *b) {
    const ZipMember *x = a, *y = b;
    int order = memcmp(x->name, y->name, x->name_n < y->name_n ? x->name_n : y->name_n);
    return order ? order : (x->name_n > y->name_n) - (x->name_n < y->name_n);
}

static bool read_directory(Zip *z, Error *err) {
    uint64_t at = 0, count = 0;
    if (!find_directory(z, &at, &count, err)) return false;
    if (count > z->n / 46) return refuse(z, at, "more directory entries than there is room for", err);
    z->member = xcalloc((size_t)count + 1, sizeof *z->member);
    for (; z->count < count; z->count++) {
        if (z->n < 46 || at > z->n - 46 || zip_field(z->bytes + at, 4) != ZIP_CENTRAL)
            return refuse(z, at, "a bad directory entry", err);
        const uint8_t *p = z->bytes + at;
        size_t name_n = (size_t)zip_field(p + 28, 2), extra_n = (size_t)zip_field(p + 30, 2);
        size_t comment_n = (size_t)zip_field(p + 32, 2);
        if (name_n + extra_n + comment_n > z->n - 46 - at)
            return refuse(z, at, "a directory entry that is cut off", err);
        ZipMember *m = &z->member[z->count];
        *m = (ZipMember){ .name = (const char *)p + 46, .name_n = name_n, .flags = (unsigned)zip_field(p + 8, 2),
                          .method = (unsigned)zip_field(p + 10, 2), .crc = (uint32_t)zip_field(p + 16, 4),
                          .packed = zip_field(p + 20, 4), .size = zip_field(p + 24, 4),
                          .offset = zip_field(p + 42, 4) };
        if (!read_zip64(p + 46 + name_n, extra_n, m)) return refuse(z, at, "a bad zip64 field", err);
        at += 46 + name_n + extra_n + comment_n;
    }
    qsort(z->member, z->count, sizeof *z->member, compare_name);
    for (size_t i = 1; i < z->count; i++)
        if (compare_name(&z->member[i - 1], &z->member[i]) == 0)
            return refuse(z, z->member[i].offset, "a member that comes twice", err);
    return true;
}

bool zip_open(Zip *z, const uint8_t *bytes, size_t n, const char *where, Error *err) {
    *z = (Zip){ .bytes = bytes, .n = n, .where = where };
    if (read_directory(z, err)) return true;
    zip_close(z);
    return false;
}

void zip_close(Zip *z) {
    free(z->member);
    *z = (Zip){ .n = 0 };
}

const ZipMember *zip_find(const Zip *z, const char *name) {
    ZipMember key = { .name = name, .name_n = strlen(name) };
    return z->count ? bsearch(&key, z->member, z->count, sizeof key, compare_name) : NULL;
}

// ---- members

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

// Where a member's bytes lie: *data, m->packed of them.
static bool locate(const Zip *z, const ZipMember *m, const uint8_t **data, Error *err) {
    if (m->flags & 1) return refuse(z, m->offset, "an encrypted member", err);
    if (z->n < 30 || m->offset > z->n - 30 || zip_field(z->bytes + m->offset, 4) != ZIP_LOCAL)
        return refuse(z, m->offset, "a bad member", err);
    const uint8_t *p = z->bytes + m->offset;
    uint64_t begin = m->offset + 30 + zip_field(p + 26, 2) + zip_field(p + 28, 2);
    if (begin > z->n || m->packed > z->n - begin) return refuse(z, m->offset, "a member that is cut off", err);
    if (m->method != 0 && m->method != 8)
        return refuse(z, m->offset, "a member that is neither stored nor deflated", err);
    // Deflate cannot do better than 1032:1, so a larger claim is a lie; it bounds what zip_unpack allocates.
    if (m->method == 0 ? m->size != m->packed : m->size / 1032 > m->packed)
        return refuse(z, m->offset, "a member of a false size", err);
    *data = z->bytes + begin;
    return true;
}

static bool check_crc(const Zip *z, const ZipMember *m, const uint8_t *data, Error *err) {
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    (void)z, (void)m, (void)data, (void)err;    // a fuzzer cannot guess sums
    return true;
#else
    return zip_crc32(0, data, (size_t)m->size) == m->crc ||
           refuse(z, m->offset, "a member that does not match its CRC-32", err);
#endif
}

bool zip_stored(const Zip *z, const ZipMember *m, const uint8_t **data, Error *err) {
    if (!locate(z, m, data, err)) return false;
    if (m->method != 0) return refuse(z, m->offset, "a compressed member where none is expected", err);
    return check_crc(z, m, *data, err);
}

bool zip_unpack(const Zip *z, const ZipMember *m, uint8_t **data, Error *err) {
    const uint8_t *packed = NULL;
    if (!locate(z, m, &packed, err)) return false;
    uint8_t *p = malloc((size_t)m->size + 1);
    if (!p)
        return error_set(err, ERR_MEMORY, "%s: the %" PRIu64 " bytes of %.*s do not fit in memory", z->where, m->size,
                         (int)(m->name_n < 100 ? m->name_n : 100), m->name);
    bool ok = true;
    if (m->method == 0) memcpy(p, packed, (size_t)m->size);
#ifdef CBDM_NO_ZLIB
    else ok = error_set(err, ERR_USAGE, "%s: %.*s is compressed and this build has no zlib: install zlib1g-dev, run "
                        "cmake again", z->where, (int)(m->name_n < 100 ? m->name_n : 100), m->name);
#else
    else ok = inflate_all(packed, (size_t)m->packed, p, (size_t)m->size) ||
              refuse(z, m->offset, "a member whose deflated data are damaged", err);
#endif
    ok = ok && check_crc(z, m, p, err);
    if (ok) *data = p;
    else free(p);
    return ok;
}
