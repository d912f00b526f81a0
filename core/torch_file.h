// core/torch_file.h - tensors of the files that torch.save writes (.pt, .pth), as data: nothing in them is executed.
#ifndef CORE_TORCH_FILE_H
#define CORE_TORCH_FILE_H
#include "core/file.h"
EXTERN_C_BEGIN
// Both layouts: the zip archive of torch 1.6 and later, and the five pickles and raw storages of before. Read are the
// tensors of a dictionary, of dictionaries in it (names joined by dots) and, where it has a key "state_dict" that is a
// dictionary, of that alone; all else in it is passed over. Storages: Float, Double, Half, BFloat16, Long, Int, Byte,
// Bool. Refused by name: tensors that do not lie densely in row-major order, and every class or function that is not
// one of those that tensors are written with.
typedef struct TorchFile TorchFile;                        // an open file, its bytes in memory
bool       torch_file_recognise(const uint8_t *head, size_t n);    // by the first bytes: 16 are enough
TorchFile *torch_file_open(const char *path, Error *err);          // NULL: *err
TorchFile *torch_file_parse(const uint8_t *bytes, size_t n, const char *where, Error *err);    // does not own bytes
void       torch_file_close(TorchFile *f);                 // NULL is fine
int        torch_file_count(const TorchFile *f);
const StTensor *torch_file_get(const TorchFile *f, int i);         // by name, ascending; st_read_f32 and so on take it
const StTensor *torch_file_find(const TorchFile *f, const char *name);     // NULL if absent
EXTERN_C_END
#endif
