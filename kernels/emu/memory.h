// kernels/emu/memory.h - the heap's tables, for memory.cpp, which keeps them, and shadow.cpp, which asks them.
#ifndef KERNELS_EMU_MEMORY_H
#define KERNELS_EMU_MEMORY_H
#include "kernels/emu/shadow.h"

namespace emu {
constexpr size_t SHARED_RED_ZONE = 64;              // between the shared arrays of a block

// Records of accesses exist only for pages that the launch in progress has touched.
constexpr size_t PAGE = 1024;
struct GlobalCell { uint32_t write_serial, read_serial; Stamp write, read; };
struct Page {
    uint32_t generation;                            // of the launch that it was opened for
    uint32_t access;                                // EMU_READ | EMU_WRITE of all its bytes; 0: unlike, ask heap_range
    size_t   cells;                                 // index of the first in heap.cells
};
struct Heap {
    uint8_t *base;
    size_t   bytes, next;
    uint8_t *written;                               // a nibble per 4 bytes of the heap: which were ever written
    Page    *pages;
    GlobalCell *cells;                              // handed out from the start again at every launch
};
extern Heap heap;

struct Range { size_t from, to; unsigned access; }; // offsets in the heap; EMU_READ | EMU_WRITE
Range  heap_range(size_t offset);                   // what holds `offset` and is alike in access; access 0: nothing
bool   heap_allocation(size_t offset, size_t *from, size_t *bytes);     // the one there, or whose red zone is there
void   heap_changed();                              // shadow.cpp: allocations or windows are others now
void   written_mark(size_t offset, size_t bytes, bool written);
size_t unwritten_from(size_t offset, size_t bytes); // first byte that was never written; `bytes`: none
}  // namespace emu
#endif
