// tests/disk.h - a model of a disk that loses power: it is told the system calls of a program (tests/trace_shim.c
// records them) and says which contents the disk may then have.
//
// What a program did to a file is one item a page of 4 KiB, and one for each change of the length; what it did to a
// folder, one item a call. An item is pending until the file or folder that it belongs to is synced. After a power loss
// any of the pending items may have reached the disk and any may have not: the calls promise no more. Only a rename is
// whole or absent, and a page that arrives brings all that the program had written to it before.
#ifndef TESTS_DISK_H
#define TESTS_DISK_H
#include "core/base.h"
typedef enum { CALL_START, CALL_OPEN, CALL_WRITE, CALL_TRUNCATE, CALL_FSYNC, CALL_CLOSE, CALL_RENAME, CALL_LINK,
               CALL_UNLINK, CALL_MKDIR } CallKind;
typedef struct {
    CallKind kind;
    int      fd, flags;
    int64_t  offset, n;               // of a write; n: length of a truncation too
    char    *path, *to;               // NULL where the call has none
    uint8_t *bytes;                   // of a write
} Call;
// Recorded calls; ends the program at a record that it does not understand. Free with calls_free.
Call *calls_read(const uint8_t *bytes, size_t n, int *count);
void  calls_free(Call *calls, int count);

typedef struct Disk Disk;
Disk *disk_new(void);                 // holds the empty folder world, for good
void  disk_free(Disk *d);
void  disk_apply(Disk *d, const Call *c);
int   disk_pending(const Disk *d);
// What there is after a power loss in which the pending items with kept[i] reached the disk, in no order in particular.
// Pages below a file's length that were never written hold `fill`. Folders: bytes is NULL. Free with tree_free.
typedef struct { char *path; uint8_t *bytes; size_t n; } TreeEntry;
typedef struct { TreeEntry *entry; int n; } Tree;
Tree  disk_crash(const Disk *d, const bool *kept, uint8_t fill);
void  tree_free(Tree *t);
// The file or folder of this path as the program sees it; NULL: absent. Owned by the disk, valid until the next call.
const uint8_t *disk_view(const Disk *d, const char *path, size_t *n);
#endif
