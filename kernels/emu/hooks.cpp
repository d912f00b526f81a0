// kernels/emu/hooks.cpp - what -fsanitize=thread makes of every load and store: calls that end here, not in libtsan.
//
// Kernel files are compiled so and linked without that library (EMU_CHECKED; not in builds for the compiler's own
// sanitizers). With checks off a hook is a call, a test and a return.
#ifdef EMU_CHECKED
#include "kernels/emu/memory.h"
#include "kernels/emu/shadow.h"

namespace emu {
[[noreturn]] static void misaligned(const void *p, size_t align, const void *pc) {
    report("misaligned", pc, "an access to address %p, which is not a multiple of %zu", p, align);
    launch_stop();                      // as the GPU does
}

__attribute__((noinline)) static void judge(const void *p, size_t bytes, unsigned kind, bool aligned, const void *pc) {
    Thread *t = current;
    if (!t) {                           // the .cu file's host code
        if (heap_contains(p))
            report("host-access", pc, "host code %s device memory", kind & ACCESS_WRITE ? "writes" : "reads");
        return;
    }
    size_t at = (uintptr_t)p - (uintptr_t)t->block->shared;
    if (kind == ACCESS_READ && at < SHARED_WINDOW && aligned && ((uintptr_t)p & (bytes - 1)) == 0 &&
        shared_seen(t->block->rank * SHARED_WINDOW + at, bytes)) return;
    const FiberStack *stack = fiber_stack(machine->running);
    if ((uintptr_t)p - (uintptr_t)stack->stack < stack->bytes) return;
    if (aligned && (uintptr_t)p & (bytes - 1)) misaligned(p, bytes, pc);
    if (!access(thread_access(t, p, bytes, kind, pc))) launch_stop();
}
}  // namespace emu

#define EMU_HOOK(p, bytes, kind, aligned)                                                                           \
    if (__builtin_expect(emu::options.check, 0)) emu::judge(p, bytes, kind, aligned, __builtin_return_address(0))
#define EMU_HOOKS(n)                                                                                                \
    void __tsan_read##n(void *p) { EMU_HOOK(p, n, emu::ACCESS_READ, true); }                                        \
    void __tsan_write##n(void *p) { EMU_HOOK(p, n, emu::ACCESS_WRITE, true); }                                      \
    void __tsan_unaligned_read##n(void *p) { EMU_HOOK(p, n, emu::ACCESS_READ, false); }                             \
    void __tsan_unaligned_write##n(void *p) { EMU_HOOK(p, n, emu::ACCESS_WRITE, false); }
extern "C" {
// -fsanitize=alignment: vector types are often loaded field by field, which would hide that the GPU does it at once.
struct UbsanMismatch {
    struct { const char *file; uint32_t line, column; } place;
    const void *type;
    uint8_t align_log, access;
};
void __ubsan_handle_type_mismatch_v1(const UbsanMismatch *m, const void *p) {
    if (!emu::options.check || !emu::current) return;
    emu::misaligned(p, (size_t)1 << m->align_log, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
EMU_HOOKS(1)
EMU_HOOKS(2)
EMU_HOOKS(4)
EMU_HOOKS(8)
EMU_HOOKS(16)
void __tsan_read_range(void *p, size_t n) { EMU_HOOK(p, n, emu::ACCESS_READ, false); }
void __tsan_write_range(void *p, size_t n) { EMU_HOOK(p, n, emu::ACCESS_WRITE, false); }
}
#endif
