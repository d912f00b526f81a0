// kernels/emu/fiber.cpp - stacks that take turns on one OS thread.
//
// A switch saves the callee-saved registers on the old stack and takes them from the new one: some 3 to 10 ns, where
// swapcontext() needs 250 ns for its signal masks. Stacks are 64 KiB (256 under AddressSanitizer, whose frames are
// larger) above a guard page, and start at different offsets: with equal ones all their tops would share one set of
// the first-level cache.
#include <sys/mman.h>

#include "kernels/emu/internal.h"

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#endif
#ifdef EMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__) && !defined(EMU_UCONTEXT)
#define EMU_SWITCH_WORDS 7          // registers and the address to return to
asm(R"(
.text
.align 16
.type emu_switch_stacks, @function
emu_switch_stacks:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emu_switch_stacks, .-emu_switch_stacks
)");
#elif defined(__aarch64__) && !defined(EMU_UCONTEXT)
#define EMU_SWITCH_WORDS 20         // x19..x30, d8..d15
asm(R"(
.text
.align 4
.type emu_switch_stacks, %function
emu_switch_stacks:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size emu_switch_stacks, .-emu_switch_stacks
)");
#else
#include <ucontext.h>
#define EMU_SWITCH_CONTEXT 1
#endif
#ifndef EMU_SWITCH_CONTEXT
extern "C" void emu_switch_stacks(void **save, void *load);
#endif

namespace emu {
#ifdef EMU_ASAN
constexpr size_t STACK = 256 * 1024;
#else
constexpr size_t STACK = 64 * 1024;
#endif
constexpr size_t GUARD = 4096 * 16;     // a multiple of any page size in use

struct Fiber : FiberStack {             // STACK bytes above GUARD
    void    *pointer;                   // saved stack pointer
    size_t   colour;
    void    *fake_stack;                // AddressSanitizer's
#ifdef EMU_SWITCH_CONTEXT
    ucontext_t context;
#endif
};

// Never given back: threads of later launches run on them.
static std::vector<Fiber *> &idle() {
    static __thread std::vector<Fiber *> *fibers;
    if (!fibers) fibers = new std::vector<Fiber *>();
    return *fibers;
}
static thread_local size_t made;

static void fiber_entry() {
#ifdef EMU_ASAN
    Fiber *host = fiber_host();
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
    if (!host->stack) {                 // the first switch of an OS thread comes from its own stack
        host->stack = static_cast<uint8_t *>(const_cast<void *>(bottom));
        host->bytes = bytes;
    }
#endif
    fiber_body();
}

// A stack as if emu_switch_stacks had just been called on it by fiber_entry's caller.
static void fiber_prepare(Fiber *f) {
    uint8_t *top = f->stack + STACK - f->colour;
#ifdef EMU_ASAN
    __asan_unpoison_memory_region(f->stack, STACK);     // frames that were left without returning
#endif
#ifdef EMU_SWITCH_CONTEXT
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = (size_t)(top - f->stack);
    f->context.uc_link = nullptr;
    makecontext(&f->context, fiber_entry, 0);
#else
    void **word = reinterpret_cast<void **>(top);
    *--word = nullptr;                  // a return address of 0 ends backtraces; keeps the ABI's alignment
    void (*entry)() = fiber_entry;
#if defined(__x86_64__)
    *--word = reinterpret_cast<void *>(entry);
    for (int i = 1; i < EMU_SWITCH_WORDS; i++) *--word = nullptr;
#else
    word -= 1 + EMU_SWITCH_WORDS;
    memset(word, 0, EMU_SWITCH_WORDS * sizeof *word);
    word[11] = reinterpret_cast<void *>(entry);             // x30
#endif
    f->pointer = word;
#endif
}

Fiber *fiber_get() {
    Fiber *f;
    if (!idle().empty()) {
        f = idle().back();
        idle().pop_back();
    } else {
        f = new Fiber();
        void *p = mmap(nullptr, GUARD + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                       -1, 0);
        CHECK(p != MAP_FAILED, "no address space for the stack of CUDA thread %zu", made);
        mprotect(p, GUARD, PROT_NONE);
        f->stack = static_cast<uint8_t *>(p) + GUARD;
        f->colour = made++ % 61 * 64 + 64;
        f->bytes = STACK;
    }
    fiber_prepare(f);
    return f;
}

void fiber_put(Fiber *f) { idle().push_back(f); }

Fiber *fiber_host() {
    static thread_local Fiber host;
    return &host;
}

const FiberStack *fiber_stack(const Fiber *f) { return f; }

void fiber_switch(Fiber *from, Fiber *to, bool from_ends) {
#ifdef EMU_ASAN
    __sanitizer_start_switch_fiber(from_ends ? nullptr : &from->fake_stack, to->stack, to->bytes);
#else
    (void)from_ends;
#endif
#ifdef EMU_SWITCH_CONTEXT
    swapcontext(&from->context, &to->context);
#else
    emu_switch_stacks(&from->pointer, to->pointer);
#endif
#ifdef EMU_ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}
}  // namespace emu
