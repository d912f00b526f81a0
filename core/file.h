// core/file.h - files: whole reads with limits, writes that are whole or absent, and the array and image formats that
// others use (safetensors, npy, npz, PNG). Readers trust nothing: sizes come from the file system, products are
// checked, every refusal names the file, the offset where there is one, and the mend.
#ifndef CORE_FILE_H
#define CORE_FILE_H
#include <stdio.h>
#include "core/base.h"
EXTERN_C_BEGIN
// ---- bytes
// The whole file plus a terminating 0 byte; caller frees. Refuses more than limit bytes, folders and devices.
bool file_read(const char *path, size_t limit, uint8_t **bytes, size_t *n, Error *err);
bool file_exists(const char *path);
bool dir_make(const char *path, Error *err);                  // with parents; fine if it is there
// A file that appears whole or not at all: written to PATH.tmp, flushed and synced, renamed, folder synced. On failure
// the old file is untouched, the .tmp removed, and the message holds the path, what failed, and for a full disk the
// bytes needed and free.
typedef struct FileWriter FileWriter;
FileWriter *file_create(const char *path, Error *err);        // NULL: *err
bool file_write(FileWriter *w, const void *bytes, size_t n);  // errors are kept for file_commit
bool file_commit(FileWriter *w, Error *err);                  // frees w either way
void file_abandon(FileWriter *w);                             // removes the .tmp; NULL is fine
bool file_can_write(const char *path, Error *err);            // asked before the hours whose result it is to hold
void file_expect(FileWriter *w, uint64_t bytes);              // the size it will have: file_commit checks it
uint64_t file_offset(const FileWriter *w);                    // bytes handed over so far
bool file_patch(FileWriter *w, uint64_t offset, const void *bytes, size_t n);       // overwrites what was handed over
bool file_write_text(const char *path, const char *text, Error *err);
// A file that grows line by line. A line is there whole or, where it cannot be written, not at all; from file_log_line
// on a kill cannot take it back, from file_log_sync on the loss of power cannot.
typedef struct FileLog FileLog;
FileLog *file_log_open(const char *path, bool anew, Error *err);        // anew: empties it; NULL: *err
bool file_log_line(FileLog *l, const char *text, Error *err);           // adds the line break
bool file_log_sync(FileLog *l, Error *err);
void file_log_close(FileLog *l);                                        // NULL is fine

// ---- digests
void sha256(const void *bytes, size_t n, char hex[65]);
bool sha256_file(const char *path, char hex[65], Error *err); // of any size
void md5(const void *bytes, size_t n, char hex[33]);
bool md5_file(const char *path, char hex[33], Error *err);
uint32_t crc32c(uint32_t crc, const void *bytes, size_t n);   // start with 0

// ---- safetensors (strict subset: header <= 8 MB, <= 65,536 tensors, rank <= 8, names [A-Za-z0-9._#-]{1,255}, no gaps,
// no duplicates, exact file length)
typedef enum { ST_F32, ST_F64, ST_BF16, ST_F16, ST_I64, ST_I32, ST_U8 } StType;
size_t st_type_size(StType t);
typedef struct {
    const char *name;
    StType      type;
    int         ndim;
    int64_t     shape[8];
    const void *data;               // numel * st_type_size bytes, little endian, C order; others' may lie unaligned
    size_t      bytes;
} StTensor;
typedef struct SafeTensors SafeTensors;   // an open file, its bytes in memory
SafeTensors *st_open(const char *path, Error *err);                         // NULL: *err
SafeTensors *st_parse(const uint8_t *bytes, size_t n, const char *where, Error *err);   // does not own bytes
void         st_close(SafeTensors *st);
int          st_count(const SafeTensors *st);
const StTensor *st_get(const SafeTensors *st, int i);                       // in the order of the data
const StTensor *st_find(const SafeTensors *st, const char *name);           // NULL if absent
const char  *st_meta(const SafeTensors *st, const char *key);               // NULL if absent
// Writes tensors in the order given (their data back to back) and key/value metadata. Whole or absent. A CRC-32C of the
// header and of each tensor goes with them (metadata keys "writer" and "crc32c", not for callers); opening checks it.
bool st_write(const char *path, const StTensor *t, int n, const char *const *keys, const char *const *values,
              int n_meta, Error *err);
// The same for tensors that are not at hand: where t[i].data is NULL, fetch(arg, i) returns its bytes, valid until the
// next call. It is called twice for each, for the checksum and for the file, and must return the same both times.
typedef const void *StFetch(void *arg, int i);
bool st_write_fetched(const char *path, const StTensor *t, int n, const char *const *keys, const char *const *values,
                      int n_meta, StFetch *fetch, void *arg, Error *err);
// A tensor as floats or integers, whatever numeric type it is stored in. out: numel elements.
bool st_read_f32(const StTensor *t, float *out);      // false: a finite F64 beyond the range of a float
bool st_read_i64(const StTensor *t, int64_t *out);    // I64, I32, U8 only

// ---- npy and npz. descr: "|u1", "<f4", "<f8", "<i4", "<i8", and "|b1" (bytes 0 and 1)
typedef struct { char descr[8]; int ndim; int64_t shape[8]; const void *data; } NpyArray;
bool npy_write(const char *path, const NpyArray *a, Error *err);
// An array larger than memory: header first, then the rows by file_write, then file_commit, which checks their number.
FileWriter *npy_create(const char *path, const NpyArray *a, Error *err);            // a->data is not read; NULL: *err
enum { NPY_HEADER_MAX = 320 };
size_t npy_header(const NpyArray *a, uint8_t header[NPY_HEADER_MAX]);               // returns its length
size_t npy_item_size(const char *descr);                                            // of an element; 0: unknown descr
bool npy_data_bytes(const NpyArray *a, size_t *bytes);                              // false: overflow or unknown descr
bool npy_parse(const uint8_t *bytes, size_t n, const char *where, NpyArray *out, Error *err);     // data lies in bytes
bool npy_read(const char *path, uint8_t **bytes, NpyArray *out, Error *err);                      // caller frees *bytes
// Stored, zip64 if needed; names without ".npy".
bool npz_write(const char *path, const char *const *names, const NpyArray *a, int n, Error *err);
// Piece by piece: npz_begin each array, its data by npz_rows; errors are kept for npz_commit, which frees z either way.
typedef struct NpzWriter NpzWriter;
NpzWriter *npz_create(const char *path, Error *err);                                // NULL: *err
bool npz_begin(NpzWriter *z, const char *name, const NpyArray *a);                  // a->data is not read
bool npz_rows(NpzWriter *z, const void *bytes, size_t n);
bool npz_commit(NpzWriter *z, Error *err);
void npz_abandon(NpzWriter *z);
// One array of an archive, stored or deflated, by its name without ".npy". Caller frees *member, where data points to.
bool npz_parse(const uint8_t *bytes, size_t n, const char *where, const char *name, uint8_t **member, NpyArray *out,
               Error *err);
bool npz_read(const char *path, const char *name, uint8_t **member, NpyArray *out, Error *err);
// The names of all arrays of an archive, sorted.
bool npz_names(const uint8_t *bytes, size_t n, const char *where, char ***names, int *count, Error *err);
void npz_names_free(char **names, int count);

// ---- PNG, 8-bit grey or RGB (others are converted on reading: alpha dropped, palette expanded, 16 bits cut)
// Refuses before decoding: w or h over 16,384, w * h over 2^26, chunks over 8 MB. Grey of RGB is Pillow's luma.
bool png_write(const char *path, const uint8_t *pixels, int w, int h, int channels, Error *err);    // (h,w,channels)
uint8_t *png_encode(const uint8_t *pixels, int w, int h, int channels, size_t *n, Error *err);  // a file in memory, of
                                                              // n bytes; caller frees; NULL: *err
bool png_parse(const uint8_t *bytes, size_t n, const char *where, int channels, uint8_t **pixels, int *w, int *h,
               Error *err);                                   // pixels (h,w,channels), channels 1 or 3; caller frees
bool png_read(const char *path, int channels, uint8_t **pixels, int *w, int *h, Error *err);
// A sheet of rows x cols images of h x w, 2 black pixels between and around them. images[i] (h,w,channels) or NULL.
bool png_write_grid(const char *path, const uint8_t *const *images, int rows, int cols, int w, int h, int channels,
                    Error *err);

// ---- JSON. A strict reader over text in memory that pulls one value after the other. On an error `why` is set, every
// later call fails, and at - begin is the offset. Objects: json_enter(r, '{'), then each key of json_key and its value;
// arrays: json_enter(r, '['), then a value for each true of json_item; json_end checks the end.
char *json_quote(const char *text);                           // "text" with quotes and escapes; caller frees
enum { JSON_DEPTH_MAX = 16, JSON_NUMBER_MAX = 64 };
typedef struct { const char *begin, *at, *end, *why; int depth; bool filled[JSON_DEPTH_MAX]; } JsonReader;
void  json_start(JsonReader *r, const char *text, size_t n);  // text must outlive the reader
char  json_peek(JsonReader *r);                               // first character of what comes next; 0 at the end
bool  json_enter(JsonReader *r, char open);                   // '{' or '['
char *json_key(JsonReader *r);                                // caller frees; NULL at the end of the object or on error
bool  json_item(JsonReader *r);                               // false at the end of the array or on error
char *json_string(JsonReader *r);                             // caller frees; NULL on error
bool  json_number(JsonReader *r, char text[JSON_NUMBER_MAX]); // as it is written, so that no digit is lost
bool  json_u64(JsonReader *r, uint64_t *value);
bool  json_word(JsonReader *r, const char *word);             // steps over true, false or null if it comes next
bool  json_skip(JsonReader *r);                               // one value of any type
bool  json_end(JsonReader *r);                                // no error so far and nothing left
EXTERN_C_END
#endif
