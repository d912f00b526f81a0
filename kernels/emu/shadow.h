// kernels/emu/shadow.h - what the checker remembers of accesses, for shadow.cpp, order.cpp and hooks.cpp.
#ifndef KERNELS_EMU_SHADOW_H
#define KERNELS_EMU_SHADOW_H
#include "kernels/emu/internal.h"

namespace emu {
// One access, in 12 bytes. Memory is watched in cells of 4 bytes, `bytes` says which of them; two halves of a cell
// written by different threads are remembered only as the newer one: that can hide a fault, never invent one.
// Packed by hand: the compilers' bit fields are read and written in halves of words, which stalls.
constexpr uint32_t MOST_PLACE = (1u << 26) - 1, MOST_AGENT = (1u << 14) - 1, MOST_CLOCK = (1u << 18) - 1;
struct Stamp {
    uint32_t epoch;                     // 0: no access
    uint32_t what;                      // place 26, bytes 4, ATOMIC, MANY
    uint32_t who;                       // agent 14, clock 18
    static constexpr uint32_t BYTES = 26, ATOMIC = 1u << 30, MANY = 1u << 31;
    uint32_t place() const { return what & MOST_PLACE; }        // of the call in the kernel, from the program's start
    uint32_t bytes() const { return what >> BYTES & 15; }
    // Of a write: atomic. Of a read: others of the same block read it, too, and are not remembered.
    bool     atomic() const { return what & ATOMIC; }
    bool     many() const { return what >> 31; }                // of a read: other blocks read it, too
    uint32_t agent() const { return who & MOST_AGENT; }
    uint32_t clock() const { return who >> 14; }
};
static_assert(sizeof(Stamp) == 12, "three words");
static inline uint32_t who_of(uint32_t agent, uint32_t clock) {     // a clock too large to keep: the largest
    return (agent & MOST_AGENT) | (clock < MOST_CLOCK ? clock : MOST_CLOCK) << 14;
}

uint32_t    place_of(const void *pc);
const void *place_pc(uint32_t place);

// Does the access happen before what t does now? In the same resident blocks; in a block that ran before in this
// launch (through a fence and an atomic of both); at p, for an atomic that needs no fence for its own location.
static inline bool ordered(const Thread *t, const Stamp &s) {
    if (s.epoch != machine->epoch || s.agent() == t->agent) return true;
    return t->clocks_epoch == machine->epoch && t->clocks[s.agent()] >= s.clock();
}
bool ordered_between(const Thread *t, const Stamp &s, uint32_t serial, const void *p);
bool acquired_any();                    // have the resident blocks acquired anything from another one?
static inline bool fine_order() {       // has anything but whole barriers ordered threads in this epoch?
    return machine->fine_epoch == machine->epoch;
}
void order_launch_begin();
void order_cluster_begin();

// One tag per cell of shared memory. It equals machine->tag where more reads of the cell by whomever need no look
// before the next barrier: it is all written, nothing is pending, the last write is older than this epoch, and two
// different threads have been remembered reading it in this epoch, so that a write would be a race with one of them.
// That is no proof once something finer than a whole barrier orders threads: then no tag counts (TAG_NONE).
constexpr uint32_t TAG_NONE = 0xFFFFFFFFu;
extern thread_local uint32_t *shared_tags;      // of the cells of all windows
static inline bool shared_seen(size_t at, size_t bytes) {       // at: from the first window on
    const uint32_t *tag = shared_tags + at / 4, now = machine->tag;
    if (bytes == 16) return tag[0] == now && tag[1] == now && tag[2] == now && tag[3] == now;
    return bytes <= 4 ? tag[0] == now : bytes == 8 && tag[0] == now && tag[1] == now;
}
}  // namespace emu
#endif
