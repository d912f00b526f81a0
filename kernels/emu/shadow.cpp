// kernels/emu/shadow.cpp - every access of a kernel: is it allowed, initialised, and ordered after those before it?
#include "kernels/emu/internal.h"
#include "kernels/emu/memory.h"

namespace emu {
static void hook_write(const void *p, size_t bytes) {
    if (heap_contains(p)) written_mark((size_t)(static_cast<const uint8_t *>(p) - heap.base), bytes, true);
}

bool access(const Access &a) {
    if (a.kind & ACCESS_WRITE) hook_write(a.p, a.bytes);
    return true;
}
void pending_end(const void *, size_t, unsigned, Agent, uint32_t) {}
void shadow_launch_begin() {}
void heap_changed() {}
void *atomic_access(void *p, size_t bytes, Site) {
    hook_write(p, bytes);
    return p;
}
}  // namespace emu

// ---- what -fsanitize=thread calls
extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
#define EMU_HOOKS(n)                                                                                                \
    void __tsan_read##n(void *) {}                                                                                  \
    void __tsan_write##n(void *p) { emu::hook_write(p, n); }                                                                                \
    void __tsan_unaligned_read##n(void *) {}                                                                        \
    void __tsan_unaligned_write##n(void *p) { emu::hook_write(p, n); }
EMU_HOOKS(1) EMU_HOOKS(2) EMU_HOOKS(4) EMU_HOOKS(8) EMU_HOOKS(16)
void __tsan_read_range(void *, size_t) {}
void __tsan_write_range(void *p, size_t n) { emu::hook_write(p, n); }
}
