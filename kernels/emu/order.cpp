// kernels/emu/order.cpp - which accesses happen before which: clocks of threads, fences and atomics between blocks.
#include <algorithm>
#include <unordered_map>

#include "kernels/emu/shadow.h"

namespace emu {
// ---- inside the resident blocks
void epoch_begin() {
    static thread_local uint32_t tags;
    machine->epoch++;
    if (++tags == TAG_NONE) tags = 1;           // after four thousand million barriers
    machine->tag = tags;
}

uint32_t *thread_clocks(Thread *t) {
    if (t->clocks_epoch != machine->epoch) {
        memset(t->clocks, 0, machine->agents * sizeof *t->clocks);
        t->clocks_epoch = machine->epoch;
    }
    t->clocks[t->agent] = t->clock;
    return t->clocks;
}

uint32_t *clocks_join(uint32_t *to, const uint32_t *from) {
    for (unsigned i = 0, n = machine->agents; i < n; i++) to[i] = std::max(to[i], from[i]);
    return to;
}

void thread_release(Thread *t) {
    t->clock++;
    machine->fine_epoch = machine->epoch;
    machine->tag = TAG_NONE;
}

Agent agent_new() {
    Machine *m = machine;
    CHECK(m->agents < m->agent_limit, "more than %d asynchronous agents in the resident blocks", m->agent_limit);
    Agent a = m->agents++;
    for (Block *b : m->blocks)          // their clocks in this epoch were cleared without the new one
        for (Thread &t : b->thread) t.clocks[a] = 0;
    return a;
}

// ---- between blocks of a launch
//
// Blocks run one after the other here, in any order on the GPU: only a __threadfence and an atomic by the one, then an
// atomic on the same location by the other, put their accesses in order ("last block adds up"). A release is what was
// ordered before the atomic of a thread that has fenced; acquiring it needs no fence of its own here.
namespace {
struct Release {
    uint32_t serial, epoch, clock;
    Agent    agent;
    bool     fenced;                    // false: orders the location itself only
    std::vector<uint32_t> clocks;       // empty: nothing known but by epoch and own clock
};
struct Acquired {
    const Release *release;
    const void *location;
    uint32_t epoch, clock;              // by whom and when, in the resident blocks
    Agent    agent;
};
}
static std::unordered_map<const void *, std::vector<Release *>> releases;       // by location
static std::unordered_multimap<uint32_t, Acquired> acquired;                    // by the serial of the other block

void order_launch_begin() {
    for (auto &location : releases)
        for (Release *r : location.second) delete r;
    releases.clear();
    acquired.clear();
}

bool acquired_any() { return !acquired.empty(); }
void order_cluster_begin() { acquired.clear(); }

static bool release_holds(const Release &r, const Stamp &s) {
    if (s.epoch < r.epoch) return true;
    if (s.epoch > r.epoch) return false;
    if (s.agent() == r.agent) return s.clock() <= r.clock;
    return s.agent() < r.clocks.size() && r.clocks[s.agent()] >= s.clock();
}

bool ordered_between(const Thread *t, const Stamp &s, uint32_t serial, const void *p) {
    auto range = acquired.equal_range(serial);
    for (auto i = range.first; i != range.second; ++i) {
        const Acquired &a = i->second;
        if (!ordered(t, Stamp{ a.epoch, 0, who_of(a.agent, a.clock) })) continue;
        if (a.release->fenced ? release_holds(*a.release, s) : a.location == p && s.atomic()) return true;
    }
    return false;
}

void *atomic_access(void *p, size_t bytes, Site) {
    const void *pc = __builtin_return_address(0);
    Thread *t = current;
    if (!t) return p;
    if (options.schedule == EMU_RANDOM && random_next() >> 63) thread_yield();
    if (!options.check) return p;
    if (!access(thread_access(t, p, bytes, ACCESS_READ | ACCESS_WRITE | ACCESS_ATOMIC, pc))) launch_stop();
    if (!heap_contains(p)) return p;
    std::vector<Release *> &location = releases[p];
    for (const Release *r : location)
        if (r->serial != machine->serial)
            acquired.emplace(r->serial, Acquired{ r, p, machine->epoch, t->clock, t->agent });
    bool fenced = t->fenced;
    Release *r = new Release{ machine->serial, machine->epoch, t->clock, t->agent, fenced, {} };
    if (fenced && t->clocks_epoch == machine->epoch) r->clocks.assign(t->clocks, t->clocks + machine->agents);
    location.push_back(r);
    thread_release(t);
    return p;
}

void memory_fence(Site) {
    if (current) current->fenced = true;
}
}  // namespace emu
