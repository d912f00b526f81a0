// core/zip.h - zip archives in memory, as far as the formats built on them need it: .npz and PyTorch's .pt.
#ifndef CORE_ZIP_H
#define CORE_ZIP_H
#include "core/base.h"
EXTERN_C_BEGIN
enum {
    ZIP_LOCAL = 0x04034b50, ZIP_CENTRAL = 0x02014b50, ZIP_END = 0x06054b50, ZIP_END64 = 0x06064b50,
    ZIP_LOCATOR64 = 0x07064b50,
};
typedef struct {
    const char *name; size_t name_n;             // points into the archive, no terminating 0
    uint64_t    offset, packed, size;            // of the local header; bytes as they lie there, and unpacked
    uint32_t    crc;
    unsigned    method, flags;                   // method 0: stored, 8: deflated
} ZipMember;
typedef struct { const uint8_t *bytes; size_t n; const char *where; ZipMember *member; size_t count; } Zip;

// Reads the central directory. member (count): sorted by name; a name that comes twice is refused. The bytes are
// borrowed and must outlive z. False: *err names `where` and the offset.
bool zip_open(Zip *z, const uint8_t *bytes, size_t n, const char *where, Error *err);
void zip_close(Zip *z);
const ZipMember *zip_find(const Zip *z, const char *name);                          // NULL if absent
// A stored member's bytes where they lie, (m->size); its CRC-32 is checked.
bool zip_stored(const Zip *z, const ZipMember *m, const uint8_t **data, Error *err);
// A stored or deflated member's bytes, (m->size), checked likewise; caller frees *data.
bool zip_unpack(const Zip *z, const ZipMember *m, uint8_t **data, Error *err);

uint64_t zip_field(const uint8_t *p, int bytes);                                    // little endian
uint32_t zip_crc32(uint32_t crc, const void *bytes, size_t n);                      // start with 0
EXTERN_C_END
#endif
