// kernels/emu/shadow.cpp - judges every access of a kernel: allowed, aligned, initialised, ordered after those before?
//
// Memory is watched in cells of 4 bytes. A cell of device memory remembers the last write and the last read of the
// launch, a cell of shared memory the last write and three reads since, each as a Stamp: who, where in the source,
// at which clock. An access that touches the same bytes as a remembered one, one of them a write and not both atomic,
// is a race unless the remembered one happens before it (order.cpp) - whatever order they ran in here.
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>

#include "kernels/emu/memory.h"
#include "kernels/emu/shadow.h"

extern "C" char __executable_start;

namespace emu {
uint32_t place_of(const void *pc) {
    return (uint32_t)((uintptr_t)pc - (uintptr_t)&__executable_start) & MOST_PLACE;
}
const void *place_pc(uint32_t place) { return &__executable_start + place; }

// ---- shared memory's cells: 64 bytes, one line of the cache
namespace {
struct SharedCell {
    uint32_t serial;                    // of the resident blocks that it speaks of; another: nothing yet
    uint8_t  written;                   // bytes that were ever written
    uint8_t  pending_writes, pending_reads;         // asynchronous ones that nobody has waited for
    uint8_t  next_read;                 // which read to forget if all three count
    uint32_t pending_place[2];          // where the last of them was issued: write, read
    Stamp    write, read[3];
};
static_assert(sizeof(SharedCell) == 64, "one line of the cache");
}
static thread_local SharedCell *shared_cells;       // of all windows
thread_local uint32_t *shared_tags;

static void shared_cells_reserve() {
    size_t cells = MAX_CLUSTER * SHARED_WINDOW / 4, bytes = cells * (sizeof(SharedCell) + sizeof(uint32_t));
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(p != MAP_FAILED, "no address space for %zu bytes of records", bytes);
    shared_cells = static_cast<SharedCell *>(p);
    shared_tags = reinterpret_cast<uint32_t *>(shared_cells + cells);
}

static inline void shared_cell_open(SharedCell &c) {
    if (c.serial == machine->serial) return;
    c = SharedCell();
    c.serial = machine->serial;
}

// ---- texts
static const char *memory_text(const void *p) {
    static thread_local char text[3][200];
    static thread_local unsigned next;
    char *t = text[next++ % 3];
    const uint8_t *b = static_cast<const uint8_t *>(p);
    size_t from, bytes;
    if (Block *owner = shared_block(p)) {
        size_t at = (size_t)(b - owner->shared);
        const StaticShared *s = shared_static_at(owner, at);
        if (s && (at >= s->offset || at >= SHARED_START + owner->shared_dynamic))
            snprintf(t, 200, "shared %s + %td (of %zu bytes)", s->name, (ptrdiff_t)(at - s->offset), s->bytes);
        else
            snprintf(t, 200, "dynamic shared memory + %td (of %zu bytes)", (ptrdiff_t)(at - SHARED_START),
                     owner->shared_dynamic);
    } else if (heap_contains(p) && heap_allocation((size_t)(b - heap.base), &from, &bytes)) {
        Range r = heap_range((size_t)(b - heap.base));
        if (r.access && r.from > from)
            snprintf(t, 200, "global, a tensor + %zu (of %zu bytes)", (size_t)(b - heap.base) - r.from, r.to - r.from);
        else
            snprintf(t, 200, "global, an allocation + %td (of %zu bytes)",
                     (ptrdiff_t)(b - heap.base - (ptrdiff_t)from), bytes);
    } else {
        snprintf(t, 200, "address %p", p);
    }
    return t;
}

static void agent_text(char *text, size_t n, const Stamp &s, uint32_t serial) {
    const Launch &l = *machine->launch;
    unsigned threads = l.block.x * l.block.y * l.block.z, rank = s.agent() / threads, i = s.agent() % threads;
    if (serial == 0 || rank >= l.cluster) {
        snprintf(text, n, serial ? "an asynchronous operation" : "another block");
        return;
    }
    uint3 b = machine->places[serial - machine->serial_first];
    snprintf(text, n, "block %u,%u,%u thread %u,%u,%u", b.x + rank, b.y, b.z, i % l.block.x, i / l.block.x % l.block.y,
             i / (l.block.x * l.block.y));
}

// serial 0: of some other block, of which nothing is known but that it did the same.
static void report_race(const Access &a, const void *p, const Stamp &s, uint32_t serial, bool after_write) {
    char who[100];
    agent_text(who, sizeof who, s, serial);
    bool between = serial != machine->serial;
    report(between ? "race-blocks" : "race", a.pc, "%s after %s of %s: the %s at %s by %s is not ordered before it",
           a.kind & ACCESS_WRITE ? "write" : "read", after_write ? "write" : "read", memory_text(p),
           after_write ? "write" : "read", place_text(place_pc(s.place())), who);
}

// Of which bytes is left open.
static inline Stamp stamp_make(const Access &a) {
    uint32_t atomic = a.kind & ACCESS_ATOMIC ? Stamp::ATOMIC : 0;
    return { machine->epoch, place_of(a.pc) | atomic, who_of(a.agent, a.clock) };
}

// Which bytes of the cell at `cell` (an offset, multiple of 4) the range [from, to) holds.
static inline unsigned bytes_of(size_t cell, size_t from, size_t to) {
    unsigned bytes = 15;
    if (cell < from) bytes &= 15u << (from - cell);
    if (cell + 4 > to) bytes &= 15u >> (cell + 4 - to);
    return bytes;
}

// ---- device memory
static uint32_t generation = 1;
static size_t cells_used;

void heap_changed() { generation++; }

void shadow_launch_begin() {
    if (!options.check) return;
    if (!shared_cells) shared_cells_reserve();
    generation++;
    cells_used = 0;
    order_launch_begin();
}

static void page_open(Page &page, size_t at) {
    Range r = heap_range(at);
    page.generation = generation;
    page.access = r.from <= at && r.to >= at + PAGE ? r.access : 0;
    page.cells = cells_used;
    cells_used += PAGE / 4;
}

static void global_refuse(const Access &a, size_t at) {
    size_t from, bytes;
    const char *verb = a.kind & ACCESS_WRITE ? "written" : "read";
    bool inside = heap_allocation(at, &from, &bytes) && at >= from && at + a.bytes <= from + bytes;
    Range r = heap_range(at);
    if (!inside)
        report("out-of-bounds", a.pc, "%zu bytes are %s at %s", a.bytes, verb, memory_text(a.p));
    else if (r.access && r.to >= at + a.bytes)
        report("read-only", a.pc, "%zu bytes are %s at %s, which this node only reads", a.bytes, verb,
               memory_text(a.p));
    else
        report("outside-window", a.pc, "%zu bytes are %s at %s, beyond the tensors of this node", a.bytes, verb,
               memory_text(a.p));
}

static inline bool reads_bytes(unsigned kind) { return !(kind & ACCESS_WRITE) || kind & ACCESS_ATOMIC; }

static inline void global_judge(const Access &a, GlobalCell &c, Stamp now, unsigned bytes, const void *p) {
    Thread *t = a.thread;
    uint32_t mine = machine->serial, first = machine->serial_first;
    if (c.write_serial >= first && c.write.bytes() & bytes && !(now.atomic() && c.write.atomic())) {
        bool good = c.write_serial == mine ? ordered(t, c.write) : ordered_between(t, c.write, c.write_serial, p);
        if (!good) report_race(a, p, c.write, c.write_serial, true);
    }
    now.what |= bytes << Stamp::BYTES;
    if (a.kind & ACCESS_WRITE) {
        if (c.read_serial >= first && c.read.bytes() & bytes) {
            bool good;
            if (c.read_serial != mine) good = ordered_between(t, c.read, c.read_serial, p);
            else good = ordered(t, c.read) && !(c.read.atomic() && c.read.epoch == machine->epoch && !fine_order());
            if (!good) report_race(a, p, c.read, c.read_serial, false);
            else if (c.read.many() && !acquired_any()) report_race(a, p, c.read, 0, false);
        }
        c.write = now;
        c.write_serial = mine;
        if (bytes == 15) c.read_serial = 0;
        return;
    }
    if (c.read_serial == mine) {        // keep that there are others who read it
        if (c.read.epoch == now.epoch) {
            if (c.read.agent() != now.agent()) now.what |= Stamp::ATOMIC;
            now.what |= c.read.what & ~MOST_PLACE;
        } else {
            now.what |= c.read.what & Stamp::MANY;
        }
    } else if (c.read_serial >= first) {
        now.what |= Stamp::MANY;
    }
    c.read = now;
    c.read_serial = mine;
}

static bool global_access(const Access &a) {
    size_t at = (size_t)(static_cast<const uint8_t *>(a.p) - heap.base), end = at + a.bytes;
    unsigned need = a.kind & ACCESS_WRITE ? EMU_WRITE : EMU_READ;
    Stamp now = stamp_make(a);
    for (size_t from = at; from < end;) {
        size_t to = std::min(end, from / PAGE * PAGE + PAGE);
        Page &page = heap.pages[from / PAGE];
        if (page.generation != generation) page_open(page, from / PAGE * PAGE);
        if (!(page.access & need)) {
            Range r = heap_range(from);
            if (!(r.access & need) || r.to < to) {
                global_refuse(a, at);
                return end <= heap.bytes;
            }
        }
        // A page that this launch may only read has no races.
        GlobalCell *cells = heap.cells + page.cells + from % PAGE / 4;
        uint8_t *written = heap.written + from / 4;
        size_t first = from / 4 * 4;
        for (size_t cell = first; cell < to; cell += 4) {
            size_t i = (cell - first) / 4;
            unsigned bytes = bytes_of(cell, from, to);
            if (reads_bytes(a.kind) && bytes & ~written[i]) {
                report("uninitialised", a.pc, "reads %s, which was never written", memory_text(heap.base + cell));
                written[i] |= 15;
            }
            if (page.access != EMU_READ) global_judge(a, cells[i], now, bytes, heap.base + std::max(cell, from));
            if (a.kind & ACCESS_WRITE) written[i] = (uint8_t)(written[i] | bytes);
        }
        from = to;
    }
    return true;
}

// ---- shared memory
static bool shared_allocated(const Block *b, size_t at, size_t bytes) {
    if (at >= SHARED_START && at + bytes <= SHARED_START + b->shared_dynamic) return true;
    for (const StaticShared &s : b->statics)
        if (at >= s.offset && at + bytes <= s.offset + s.bytes) return true;
    return false;
}

// Has the writer made its access visible to the asynchronous proxy, or the issuer after a barrier between them?
static bool proxy_fenced(const Access &a, const Stamp &s) {
    unsigned threads = (unsigned)a.thread->block->threads, rank = s.agent() / threads;
    if (rank >= machine->blocks.size()) return true;            // written by the asynchronous proxy itself
    const Thread &writer = machine->blocks[rank]->thread[s.agent() % threads];
    if (s.epoch < a.thread->fence_epoch || s.epoch < writer.fence_epoch) return true;
    return s.epoch == writer.fence_epoch && s.clock() <= writer.fence_clock;
}

// Returns whether more reads need no look: see shared_tags.
static bool shared_remember_read(const Access &a, SharedCell &c, const Stamp &now) {
    int slot = -1;
    for (int i = 0; i < 3 && slot < 0; i++)
        if (c.read[i].epoch != 0 && c.read[i].agent() == now.agent()) slot = i;
    for (int i = 0; i < 3 && slot < 0; i++)
        if (c.read[i].epoch == 0 || ordered(a.thread, c.read[i])) slot = i;
    if (slot < 0) {
        slot = c.next_read;
        c.next_read = (uint8_t)((c.next_read + 1) % 3);
    }
    c.read[slot] = now;
    if (c.written != 15 || c.pending_writes || (c.write.epoch == now.epoch)) return false;
    for (const Stamp &r : c.read)
        if (r.epoch == now.epoch && r.agent() != now.agent()) return true;
    return false;
}

static inline void shared_judge(const Access &a, SharedCell &c, uint32_t &tag, Stamp now, unsigned bytes,
                                const void *p) {
    Thread *t = a.thread;
    bool write = a.kind & ACCESS_WRITE;
    if (c.pending_writes) {
        report("in-flight", a.pc, "%s %s, where the asynchronous copy issued at %s has not been waited for",
               write ? "writes" : "reads", memory_text(p), place_text(place_pc(c.pending_place[0])));
        return;
    }
    if (write && c.pending_reads)
        report("operand-overwrite", a.pc, "writes %s, which the asynchronous operation issued at %s may still read",
               memory_text(p), place_text(place_pc(c.pending_place[1])));
    if (reads_bytes(a.kind) && bytes & ~c.written) {
        report("uninitialised", a.pc, "reads %s, which was never written", memory_text(p));
        c.written = 15;
    }
    if (c.write.epoch && c.write.bytes() & bytes) {
        if (!(now.atomic() && c.write.atomic()) && !ordered(t, c.write))
            report_race(a, p, c.write, machine->serial, true);
        else if (a.kind & ACCESS_ASYNC && !proxy_fenced(a, c.write))
            report("missing-proxy-fence", a.pc, "an asynchronous operation %s %s, written at %s without "
                   "fence.proxy.async after it", write ? "writes" : "reads", memory_text(p),
                   place_text(place_pc(c.write.place())));
    }
    now.what |= bytes << Stamp::BYTES;
    if (write) {
        tag = 0;
        for (Stamp &r : c.read) {
            if (r.epoch && r.bytes() & bytes && !ordered(t, r)) report_race(a, p, r, machine->serial, false);
            if (bytes == 15) r.epoch = 0;
        }
        c.write = now;
        if (a.kind & ACCESS_PENDING) {
            c.pending_writes++;
            c.pending_place[0] = now.place();
        } else {
            c.written = (uint8_t)(c.written | bytes);
        }
        return;
    }
    if (a.kind & ACCESS_PENDING) {
        c.pending_reads++;
        c.pending_place[1] = now.place();
    }
    if (shared_remember_read(a, c, now)) tag = machine->tag;
}

static bool shared_access(const Access &a, Block *owner) {
    size_t at = (size_t)(static_cast<const uint8_t *>(a.p) - owner->shared), end = at + a.bytes;
    size_t base = owner->rank * SHARED_WINDOW;
    if (a.kind == ACCESS_READ && shared_seen(base + at, a.bytes)) return true;
    if (!shared_allocated(owner, at, a.bytes)) {
        report("out-of-bounds", a.pc, "%zu bytes are %s at %s", a.bytes, a.kind & ACCESS_WRITE ? "written" : "read",
               memory_text(a.p));
        return end <= SHARED_WINDOW;
    }
    Stamp now = stamp_make(a);
    for (size_t cell = at / 4 * 4; cell < end; cell += 4) {
        SharedCell &c = shared_cells[(base + cell) / 4];
        shared_cell_open(c);
        shared_judge(a, c, shared_tags[(base + cell) / 4], now, bytes_of(cell, at, end),
                     owner->shared + std::max(cell, at));
    }
    return true;
}

void pending_end(const void *p, size_t bytes, unsigned kind, Agent agent, uint32_t clock) {
    Block *owner = shared_block(p);
    if (!options.check || !owner) return;
    size_t at = (size_t)(static_cast<const uint8_t *>(p) - owner->shared), end = at + bytes;
    if (!shared_allocated(owner, at, bytes)) return;
    SharedCell *c = shared_cells + (owner->rank * SHARED_WINDOW + at) / 4;
    auto renew = [=](Stamp &s) {
        if (s.epoch == 0 || s.agent() != agent) return;
        s.epoch = machine->epoch;
        s.who = who_of(agent, clock);
    };
    for (size_t cell = at / 4 * 4; cell < end; cell += 4, c++) {
        shared_cell_open(*c);
        if (kind & ACCESS_WRITE) {
            if (c->pending_writes) c->pending_writes--;
            c->written = (uint8_t)(c->written | bytes_of(cell, at, end));
            renew(c->write);
        } else {
            if (c->pending_reads) c->pending_reads--;
            for (Stamp &r : c->read) renew(r);
        }
    }
}

// ---- any memory
// The program's constants: its segments that cannot be written, and what was made so after it was loaded.
static bool constant(const void *p, size_t bytes) {
    struct Segment { uintptr_t from, to; };
    static const std::vector<Segment> ranges = [] {
        std::vector<Segment> found;
        dl_iterate_phdr([](struct dl_phdr_info *info, size_t, void *to) {
            for (int i = 0; i < info->dlpi_phnum; i++) {
                const ElfW(Phdr) &h = info->dlpi_phdr[i];
                uintptr_t from = info->dlpi_addr + h.p_vaddr;
                if ((h.p_type == PT_LOAD && !(h.p_flags & PF_W)) || h.p_type == PT_GNU_RELRO)
                    static_cast<std::vector<Segment> *>(to)->push_back({ from, from + h.p_memsz });
            }
            return 1;                   // the first is the program itself
        }, &found);
        return found;
    }();
    uintptr_t a = (uintptr_t)p;
    for (const Segment &r : ranges)
        if (a >= r.from && a + bytes <= r.to) return true;
    return false;
}

// The kernel call's own parameters and the program's constants are not device memory and yet may be read.
static bool host_readable(const void *p, size_t bytes) {
    const Launch &l = *machine->launch;
    return (uintptr_t)p - (uintptr_t)l.kernel_call <= l.kernel_call_bytes - bytes || constant(p, bytes);
}

bool access(const Access &a) {
    if (!options.check) return true;
    if (Block *owner = shared_block(a.p)) return shared_access(a, owner);
    if (heap_contains(a.p)) return global_access(a);
    const FiberStack *stack = fiber_stack(machine->running);
    if ((uintptr_t)a.p - (uintptr_t)stack->stack < stack->bytes) return true;
    if (!(a.kind & ACCESS_WRITE) && host_readable(a.p, a.bytes)) return true;
    report((uintptr_t)a.p < 65536 ? "null-pointer" : "host-pointer", a.pc,
           "%zu bytes are %s at %p, which is not device memory", a.bytes, a.kind & ACCESS_WRITE ? "written" : "read",
           a.p);
    return false;
}
}  // namespace emu
