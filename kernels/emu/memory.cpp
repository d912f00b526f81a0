// kernels/emu/memory.cpp - device memory and shared memory: where they lie and what of them is allocated and written.
//
// The heap is a reserved range of addresses; pages appear when touched. Allocations are 256-byte aligned, with red
// zones of at least 256 bytes around them, and addresses are used again only when all have been used, so that a pointer
// to freed memory stays invalid for long. For every 4 bytes of the heap one byte of `written` holds a bit per byte that
// was ever written. Shared memory is one window of 256 KiB per resident block.
#include <sys/mman.h>
#if __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h>           // its macros are nothing without AddressSanitizer
#else
#define ASAN_POISON_MEMORY_REGION(p, n)   ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

#include <map>
#include <mutex>

#include "kernels/emu/internal.h"
#include "kernels/emu/memory.h"

namespace emu {
Heap heap;
static std::map<size_t, size_t> allocations;        // offset in the heap, bytes asked for
static std::vector<EmuWindow> windows;
static std::mutex lock;
constexpr size_t RED_ZONE = 256;

static void *reserve(size_t bytes) {
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? nullptr : p;
}

static void heap_open() {
    if (heap.base) return;
    for (size_t bytes = (size_t)64 << 30; bytes >= (size_t)1 << 30 && !heap.base; bytes /= 4) {
        uint8_t *base = static_cast<uint8_t *>(reserve(bytes));
        if (!base) continue;
        heap.written = static_cast<uint8_t *>(reserve(bytes / 4));
        if (!heap.written) {
            munmap(base, bytes);
            continue;
        }
        heap.pages = static_cast<Page *>(reserve(bytes / PAGE * sizeof(Page)));
        heap.cells = static_cast<GlobalCell *>(reserve(bytes / 4 * sizeof(GlobalCell)));
        if (!heap.pages || !heap.cells) continue;
        heap.base = base;
        heap.bytes = bytes;
        heap.next = RED_ZONE;
    }
    CHECK(heap.base, "no address space for the emulated device memory (%d GiB were tried last)", 1);
}

static size_t round_up(size_t v, size_t to) { return (v + to - 1) / to * to; }

// Whole pages go back to the system and read as 0, what else there is as `byte`.
static void bytes_reset(uint8_t *p, size_t n, int byte) {
    constexpr size_t WHOLE = 65536;     // a multiple of the system's page, whichever that is
    uintptr_t from = round_up((uintptr_t)p, WHOLE), to = ((uintptr_t)p + n) / WHOLE * WHOLE;
    if (byte != 0 || from >= to) {
        memset(p, byte, n);
        return;
    }
    memset(p, 0, from - (uintptr_t)p);
    madvise(reinterpret_cast<void *>(from), to - from, MADV_DONTNEED);
    memset(reinterpret_cast<void *>(to), 0, (uintptr_t)p + n - to);
}

void written_mark(size_t offset, size_t bytes, bool written) {
    size_t end = offset + bytes;
    for (; offset < end && offset % 4; offset++) {
        uint8_t bit = (uint8_t)(1u << offset % 4);
        uint8_t &cell = heap.written[offset / 4];
        cell = (uint8_t)(written ? cell | bit : cell & ~bit);
    }
    if (offset < end) {
        size_t words = (end - offset) / 4;
        if (written) memset(heap.written + offset / 4, 0x0F, words);
        else bytes_reset(heap.written + offset / 4, words, 0);
        offset += 4 * words;
    }
    for (; offset < end; offset++) {
        uint8_t bit = (uint8_t)(1u << offset % 4);
        uint8_t &cell = heap.written[offset / 4];
        cell = (uint8_t)(written ? cell | bit : cell & ~bit);
    }
}

size_t unwritten_from(size_t offset, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        size_t o = offset + i;
        if (o % 4 == 0 && bytes - i >= 4 && (heap.written[o / 4] & 0x0F) == 0x0F) i += 3;
        else if (!(heap.written[o / 4] >> o % 4 & 1)) return i;
    }
    return bytes;
}

bool heap_contains(const void *p) { return (uintptr_t)p - (uintptr_t)heap.base < heap.bytes; }

static size_t heap_offset(const void *p) { return (size_t)(static_cast<const uint8_t *>(p) - heap.base); }

// A free range for `bytes` and a red zone behind it, from heap.next on and then from the start.
static bool heap_place(size_t bytes, size_t *offset) {
    for (int round = 0; round < 2; round++) {
        size_t at = heap.next;
        for (;;) {
            auto after = allocations.lower_bound(at);
            if (after != allocations.begin()) {
                auto before = std::prev(after);
                at = std::max(at, round_up(before->first + before->second + RED_ZONE, 256));
                after = allocations.lower_bound(at);
            }
            size_t limit = after == allocations.end() ? heap.bytes : after->first;
            if (at + bytes + RED_ZONE <= limit) {
                *offset = at;
                heap.next = round_up(at + bytes + RED_ZONE, 256);
                return true;
            }
            if (after == allocations.end()) break;
            at = round_up(after->first + after->second + RED_ZONE, 256);
        }
        heap.next = RED_ZONE;
    }
    return false;
}

Range heap_range(size_t offset) {
    Range r = { 0, 0, 0 };
    if (!windows.empty()) {
        for (const EmuWindow &w : windows) {
            size_t from = heap_offset(w.p);
            if (offset >= from && offset < from + w.bytes) {
                if (r.access == 0) r = { from, from + w.bytes, (unsigned)w.access };
                else r = { std::max(r.from, from), std::min(r.to, from + w.bytes), r.access | (unsigned)w.access };
            }
        }
        return r;
    }
    auto after = allocations.upper_bound(offset);
    if (after == allocations.begin()) return r;
    auto a = std::prev(after);
    if (offset < a->first + a->second) r = { a->first, a->first + a->second, EMU_READ | EMU_WRITE };
    return r;
}

bool heap_allocation(size_t offset, size_t *from, size_t *bytes) {
    auto after = allocations.upper_bound(offset + RED_ZONE);
    while (after != allocations.begin()) {
        auto a = std::prev(after);
        if (offset >= a->first + a->second + RED_ZONE) break;
        *from = a->first;
        *bytes = a->second;
        return true;
    }
    return false;
}

// ---- shared memory
static thread_local uint8_t *shared_windows;

uint8_t *shared_window(unsigned rank) {
    if (!shared_windows) {
        shared_windows = static_cast<uint8_t *>(reserve(SHARED_WINDOW * (MAX_CLUSTER + 1)));
        CHECK(shared_windows, "no address space for shared memory, of %d blocks", MAX_CLUSTER);
        // Dynamic shared memory is 1024-byte aligned: so are the windows, whatever the page size.
        shared_windows = reinterpret_cast<uint8_t *>(round_up((uintptr_t)shared_windows, SHARED_WINDOW));
    }
    return shared_windows + rank * SHARED_WINDOW;
}

Block *shared_block(const void *p) {
    size_t at = (uintptr_t)p - (uintptr_t)shared_windows, rank = at / SHARED_WINDOW;
    return machine && rank < machine->blocks.size() ? machine->blocks[rank] : nullptr;
}

void shared_begin(Block *b) {
    b->shared = shared_window(b->rank);
    b->statics.clear();
    b->shared_dynamic = machine->launch->shared;
    b->shared_end = round_up(SHARED_START + b->shared_dynamic + SHARED_RED_ZONE, 128);
    ASAN_POISON_MEMORY_REGION(b->shared, SHARED_WINDOW);
    ASAN_UNPOISON_MEMORY_REGION(b->shared + SHARED_START, b->shared_dynamic);
    memset(b->shared + SHARED_START, 0xFF, b->shared_dynamic);
}

void shared_end(Block *) {}

const StaticShared *shared_static_at(const Block *b, size_t offset) {
    for (const StaticShared &s : b->statics)
        if (offset + SHARED_RED_ZONE > s.offset && offset < s.offset + s.bytes + SHARED_RED_ZONE) return &s;
    return nullptr;
}

void *shared_static(const void *tag, size_t bytes, size_t align, const char *name, Site site) {
    Block *b = current->block;
    for (const StaticShared &s : b->statics)
        if (s.tag == tag) return b->shared + s.offset;
    size_t offset = round_up(b->shared_end, std::max<size_t>(align, 16)), used = bytes;
    for (const StaticShared &s : b->statics) used += s.bytes;
    if (used > 48 * 1024 || offset + bytes + SHARED_RED_ZONE > SHARED_WINDOW) {
        report("shared-size", __builtin_return_address(0),
               "%s at %s: %zu bytes of static shared memory; 48 KiB are allowed", name, site_text(site), used);
        launch_stop();
    }
    b->statics.push_back({ tag, name, offset, bytes });
    b->shared_end = offset + bytes + SHARED_RED_ZONE;
    ASAN_UNPOISON_MEMORY_REGION(b->shared + offset, bytes);
    memset(b->shared + offset, 0xFF, bytes);
    return b->shared + offset;
}

void *shared_dynamic() { return current->block->shared + SHARED_START; }

uint32_t shared_offset(const void *p) {
    return (uint32_t)((uintptr_t)p - (uintptr_t)shared_windows) % (uint32_t)SHARED_WINDOW;
}
}  // namespace emu

using namespace emu;

extern "C" {
void *emu_malloc(size_t bytes) {
    std::lock_guard<std::mutex> hold(lock);
    heap_open();
    size_t offset;
    if (!heap_place(bytes, &offset)) return nullptr;
    allocations[offset] = bytes;
    heap_changed();
    ASAN_POISON_MEMORY_REGION(heap.base + offset - RED_ZONE, bytes + 2 * RED_ZONE);
    ASAN_UNPOISON_MEMORY_REGION(heap.base + offset, bytes);
    memset(heap.base + offset, 0xFF, bytes);
    return heap.base + offset;
}

void emu_free(void *p) {
    if (!p) return;
    std::lock_guard<std::mutex> hold(lock);
    auto a = allocations.find(heap_offset(p));
    CHECK(heap_contains(p) && a != allocations.end(), "emu_free of %p, which emu_malloc did not give", p);
    bytes_reset(heap.base + a->first, a->second, 0);
    written_mark(a->first, a->second, false);
    ASAN_POISON_MEMORY_REGION(p, a->second);
    allocations.erase(a);
    heap_changed();
}

static void check_allocated(const char *what, const void *p, size_t bytes) {
    size_t from = 0, n = 0;
    bool good = bytes == 0 || (heap_contains(p) && heap_allocation(heap_offset(p), &from, &n) &&
                               heap_offset(p) >= from && heap_offset(p) + bytes <= from + n);
    CHECK(good, "%s of %zu bytes at %p, which is not inside one allocation of device memory", what, bytes, p);
}

void emu_poison(void *p, size_t bytes) {
    check_allocated("emu_poison", p, bytes);
    memset(p, 0xFF, bytes);
    written_mark(heap_offset(p), bytes, false);
}

void emu_host_write(void *device, const void *host, size_t bytes) {
    check_allocated("a copy to the device", device, bytes);
    memcpy(device, host, bytes);
    written_mark(heap_offset(device), bytes, true);
}

void emu_host_read(void *host, const void *device, size_t bytes) {
    check_allocated("a copy from the device", device, bytes);
    size_t bad = options.check ? unwritten_from(heap_offset(device), bytes) : bytes;
    if (bad < bytes)
        report("unwritten-output", nullptr,
               "the host reads %zu bytes of device memory, of which byte %zu was never written", bytes, bad);
    memcpy(host, device, bytes);
}

void emu_device_copy(void *to, const void *from, size_t bytes) {
    check_allocated("a copy on the device, to,", to, bytes);
    check_allocated("a copy on the device, from,", from, bytes);
    memmove(to, from, bytes);
    size_t a = heap_offset(from), b = heap_offset(to);
    if (unwritten_from(a, bytes) == bytes) {
        written_mark(b, bytes, true);
        return;
    }
    for (size_t i = 0; i < bytes; i++) written_mark(b + i, 1, heap.written[(a + i) / 4] >> (a + i) % 4 & 1);
}

void emu_device_set(void *p, int byte, size_t bytes) {
    check_allocated("a fill of device memory", p, bytes);
    memset(p, byte, bytes);
    written_mark(heap_offset(p), bytes, true);
}

bool emu_is_device(const void *p) { return heap_contains(p); }

int64_t emu_unwritten(const void *p, size_t bytes) {
    check_allocated("emu_unwritten", p, bytes);
    size_t bad = unwritten_from(heap_offset(p), bytes);
    return bad == bytes ? -1 : (int64_t)bad;
}

void emu_windows(const EmuWindow *w, int n) {
    windows.assign(w, w + n);
    heap_changed();
}
}
