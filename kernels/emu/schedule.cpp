// kernels/emu/schedule.cpp - launches: which block runs, which of its threads goes on, and barriers of whole blocks.
//
// A thread that has not begun has no stack: it takes over that of a thread that has just ended, so kernels without
// barriers never switch. Threads that can go on stand in a ring; natural order takes them first come, first served,
// reverse order fills it from the other end, random order takes any.
#include <algorithm>
#include <atomic>
#include <cstdio>

#include "kernels/emu/shadow.h"

namespace emu {
__thread Machine *machine;
__thread Thread  *current;

__attribute__((weak)) void async_block_begin(Block *) {}
__attribute__((weak)) void async_thread_end(Thread *) {}
__attribute__((weak)) void async_block_end(Block *) {}
__attribute__((weak)) void async_block_drop(Block *) {}

uint3 thread_index() { return current->index; }
uint3 block_index() { return current->block->index; }
uint3 block_extent() { return machine->launch->block; }
uint3 grid_extent() { return machine->launch->grid; }

uint64_t random_next() {                // xorshift64*
    uint64_t x = machine->random;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    machine->random = x;
    return x * 0x2545F4914F6CDD1Dull;
}

// ---- who runs
static void ready_put(Thread *t) {
    Machine *m = machine;
    m->ready[(m->ready_head + m->ready_count++) & (m->ready_size - 1)] = t;
}

static Thread *ready_take() {
    Machine *m = machine;
    if (m->ready_count == 0) return nullptr;
    unsigned mask = m->ready_size - 1, head = m->ready_head;
    if (options.schedule == EMU_RANDOM) {
        unsigned any = (unsigned)((random_next() >> 33) * m->ready_count >> 31);
        std::swap(m->ready[head], m->ready[(head + any) & mask]);
    }
    m->ready_head = (head + 1) & mask;
    m->ready_count--;
    return m->ready[head];
}

[[noreturn]] static void switch_to_host(bool drop) {
    Fiber *self = machine->running;
    machine->stopped |= drop;
    if (!drop) fiber_put(self);
    current = nullptr;
    machine->running = machine->host;
    fiber_switch(self, machine->host, true);
    __builtin_unreachable();
}

void launch_stop() { switch_to_host(true); }

// Nobody can go on: say where everybody waits.
[[noreturn]] static void deadlock() {
    struct Place { const char *what; Site site; int threads; const Thread *first; };
    std::vector<Place> places;
    for (Block *b : machine->blocks)
        for (Thread &t : b->thread) {
            if (t.state != THREAD_WAITING) continue;
            auto same = [&](const Place &p) { return p.what == t.wait_what && p.site.line == t.wait_site.line; };
            auto p = std::find_if(places.begin(), places.end(), same);
            if (p == places.end()) places.push_back({ t.wait_what, t.wait_site, 1, &t });
            else p->threads++;
        }
    char text[600];
    size_t n = 0;
    for (const Place &p : places) {
        int more = snprintf(text + n, sizeof text - n, "%s%d in %s at %s (%s)", n ? "; " : "", p.threads, p.what,
                            site_text(p.site), thread_text(p.first));
        n = std::min(sizeof text - 1, n + (size_t)more);
    }
    current = nullptr;
    report("deadlock", nullptr, "threads wait for ever: %s", text);
    switch_to_host(true);
}

static void thread_enter(Thread *t) {
    t->state = THREAD_RUNNING;
    current = t;
}

// Runs others; returns when somebody has put `self` into the ring and its turn has come.
static void switch_away(Thread *self) {
    Thread *next = ready_take();
    if (!next) deadlock();
    thread_enter(next);
    if (next == self) return;
    if (!next->fiber) next->fiber = fiber_get();
    machine->running = next->fiber;
    fiber_switch(self->fiber, next->fiber, false);
}

void thread_wait(const char *what, Site site) {
    Thread *t = current;
    t->state = THREAD_WAITING;
    t->wait_what = what;
    t->wait_site = site;
    switch_away(t);
}

void thread_wake(Thread *t) {
    if (t->state != THREAD_WAITING) return;
    t->state = THREAD_READY;
    ready_put(t);
}

void thread_yield() {
    Thread *t = current;
    t->state = THREAD_READY;
    ready_put(t);
    switch_away(t);
}

static void wake_all(std::vector<Thread *> &waiting) {
    if (options.schedule == EMU_REVERSE)
        for (size_t i = waiting.size(); i-- > 0;) thread_wake(waiting[i]);
    else
        for (Thread *t : waiting) thread_wake(t);
    waiting.clear();
}

// ---- barriers of a block
// All live threads have come: what they did before is seen by all from now on.
static void sync_complete(Block *b) {
    b->sync_result = b->sync_true;
    b->sync_of = b->sync_arrived;
    b->sync_arrived = b->sync_true = 0;
    b->sync_generation++;
    if (machine->blocks.size() == 1) {
        epoch_begin();
    } else if (options.check) {         // other blocks of the cluster have not come: the epoch goes on
        std::vector<uint32_t> all(machine->agents);
        for (Thread &t : b->thread) clocks_join(all.data(), thread_clocks(&t));
        for (Thread &t : b->thread) {
            clocks_join(thread_clocks(&t), all.data());
            thread_release(&t);
        }
    }
    wake_all(b->sync_waiting);
}

static void sync_meet(bool predicate, Site site) {
    Thread *t = current;
    Block *b = t->block;
    if (b->sync_arrived == 0) {
        b->sync_site = site;
    } else if (site.line != b->sync_site.line || strcmp(site.file, b->sync_site.file) != 0) {
        char other[128];
        snprintf(other, sizeof other, "%s", site_text(b->sync_site));
        report("barrier-divergence", nullptr, "__syncthreads at %s meets the one at %s (%s)", site_text(site), other,
               thread_text(t));
        launch_stop();
    }
    b->sync_true += predicate;
    if (++b->sync_arrived == b->alive) {
        sync_complete(b);
        return;
    }
    uint32_t generation = b->sync_generation;
    b->sync_waiting.push_back(t);
    while (b->sync_generation == generation) thread_wait("__syncthreads", site);
}

void block_sync(Site site) { sync_meet(false, site); }
int  block_sync_or(int predicate, Site site) {
    sync_meet(predicate != 0, site);
    return current->block->sync_result > 0;
}
int  block_sync_count(int predicate, Site site) { sync_meet(predicate != 0, site); return current->block->sync_result; }
int  block_sync_and(int predicate, Site site) {
    sync_meet(predicate != 0, site);
    return current->block->sync_result == current->block->sync_of;
}

void named_barrier(int id, int threads, bool wait, Site site) {
    Thread *t = current;
    Block *b = t->block;
    const void *pc = __builtin_return_address(0);
    if (id < 1 || id >= NAMED_BARRIERS || threads < WARP || threads % WARP || threads > b->threads) {
        report("barrier-count", pc, "named barrier %d of %d threads, in a block of %d: ids are 1 to 15, threads a "
               "multiple of 32", id, threads, b->threads);
        launch_stop();
    }
    NamedBarrier &n = b->named[id];
    if (n.arrived == 0) {
        n.expected = threads;
        n.site = site;
    } else if (n.expected != threads) {
        report("barrier-count", pc, "named barrier %d of %d threads, which those who came first (%s) expect to be of "
               "%d", id, threads, site_text(n.site), n.expected);
        launch_stop();
    }
    if (options.check) {
        if (n.arrived == 0 || n.clocks_epoch != machine->epoch) {
            n.clocks.assign(machine->agents, 0);
            n.clocks_epoch = machine->epoch;
        }
        n.clocks.resize(machine->agents);
        clocks_join(n.clocks.data(), thread_clocks(t));
        thread_release(t);
    }
    if (wait) n.waiting.push_back(t);
    uint32_t generation = n.generation;
    if (++n.arrived == n.expected) {
        n.arrived = 0;
        n.generation++;
        if (options.check && n.clocks_epoch == machine->epoch)
            for (Thread *w : n.waiting) clocks_join(thread_clocks(w), n.clocks.data());
        n.waiting.erase(std::remove(n.waiting.begin(), n.waiting.end(), t), n.waiting.end());
        wake_all(n.waiting);
    } else if (wait) {
        while (n.generation == generation) thread_wait("a named barrier", site);
    }
}

// ---- running threads and blocks
static void thread_end(Thread *t) {
    Block *b = t->block;
    async_thread_end(t);
    t->state = THREAD_DONE;
    t->fiber = nullptr;
    b->alive--;
    b->warp[t->warp].live &= ~(1u << t->lane);
    warp_thread_ended(t);
    if (b->alive > 0 && b->sync_arrived == b->alive) sync_complete(b);
}

void fiber_body() {
    for (;;) {
        machine->launch->invoke(machine->launch->kernel_call);
        thread_end(current);
        Thread *next = ready_take();
        if (!next) {
            bool done = true;
            for (Block *b : machine->blocks) done &= b->alive == 0;
            if (done) switch_to_host(false);
            current = nullptr;
            deadlock();
        }
        thread_enter(next);
        if (!next->fiber) {
            next->fiber = machine->running;
            continue;
        }
        Fiber *self = machine->running;
        fiber_put(self);
        machine->running = next->fiber;
        fiber_switch(self, next->fiber, true);
    }
}

static void block_begin(Block *b, unsigned rank, uint3 index) {
    Machine *m = machine;
    const Launch &l = *m->launch;
    int threads = (int)(l.block.x * l.block.y * l.block.z), warps = (threads + WARP - 1) / WARP;
    b->index = index;
    b->rank = rank;
    b->threads = b->alive = threads;
    b->serial = m->serial;
    b->sync_arrived = b->sync_true = 0;
    b->sync_waiting.clear();
    for (NamedBarrier &n : b->named) {
        n.arrived = 0;
        n.waiting.clear();
    }
    b->thread.assign((size_t)threads, Thread());
    b->warp.resize((size_t)warps);
    for (int w = 0; w < warps; w++) {
        Warp &warp = b->warp[(size_t)w];
        warp.block = b;
        warp.number = w;
        warp.live = 0;
        for (Thread *&lane : warp.lane) lane = nullptr;
        for (auto &meeting : warp.meetings) meeting->mask = 0;
    }
    for (int i = 0; i < threads; i++) {
        Thread &t = b->thread[(size_t)i];
        t.block = b;
        t.index = { (unsigned)i % l.block.x, (unsigned)i / l.block.x % l.block.y,
                    (unsigned)i / (l.block.x * l.block.y) };
        t.linear = (uint16_t)i;
        t.warp = (uint16_t)(i / WARP);
        t.lane = (uint8_t)(i % WARP);
        t.agent = (Agent)((int)rank * threads + i);
        t.clock = 1;
        t.clocks = m->clock_store.data() + (size_t)t.agent * m->agent_limit;
        b->warp[t.warp].lane[t.lane] = &t;
        b->warp[t.warp].live |= 1u << t.lane;
    }
    shared_begin(b);
    async_block_begin(b);
}

static std::atomic<uint32_t> serials{ 1 };          // unique among launches and OS threads

// The blocks of one cluster, from begin to end.
static void cluster_run(uint3 first) {
    Machine *m = machine;
    const Launch &l = *m->launch;
    unsigned threads = l.block.x * l.block.y * l.block.z, all = threads * l.cluster;
    while (m->blocks.size() > l.cluster) {
        delete m->blocks.back();
        m->blocks.pop_back();
    }
    while (m->blocks.size() < l.cluster) m->blocks.push_back(new Block());
    m->serial = serials++;
    m->places.push_back(first);
    m->epoch = 0;
    epoch_begin();
    m->fine_epoch = 0;
    m->agents = (Agent)all;
    m->agent_limit = (Agent)(all + 512);
    if (m->clock_store.size() < (size_t)all * m->agent_limit) m->clock_store.resize((size_t)all * m->agent_limit);
    if (m->ready_size < all) {
        for (m->ready_size = 64; m->ready_size < all;) m->ready_size *= 2;
        delete[] m->ready;
        m->ready = new Thread *[m->ready_size];
    }
    m->ready_head = m->ready_count = 0;
    if (options.check) order_cluster_begin();
    for (unsigned r = 0; r < l.cluster; r++) block_begin(m->blocks[r], r, { first.x + r, first.y, first.z });
    for (unsigned i = 0; i < all; i++) {
        unsigned k = options.schedule == EMU_REVERSE ? all - 1 - i : i;
        ready_put(&m->blocks[k / threads]->thread[k % threads]);
    }
    Thread *t = ready_take();
    t->fiber = fiber_get();
    thread_enter(t);
    m->running = t->fiber;
    fiber_switch(m->host, t->fiber, false);
    for (Block *b : m->blocks) {
        if (m->stopped) {
            for (Thread &left : b->thread)
                if (left.fiber) fiber_put(left.fiber);
            async_block_drop(b);
        } else {
            async_block_end(b);
        }
        shared_end(b);
    }
}

void launch_run(const Launch &l) {
    static __thread Machine *kept;      // with its blocks and clocks, for the next launch
    if (!kept) kept = new Machine();
    machine = kept;
    Machine &own = *kept;
    own.launch = &l;
    own.host = fiber_host();
    own.stopped = false;
    own.random = (options.seed + 1) * 0x9E3779B97F4A7C15ull;
    own.serial_first = serials;
    own.places.clear();
    shadow_launch_begin();
    uint64_t across = l.grid.x / l.cluster, clusters = across * l.grid.y * l.grid.z;
    std::vector<uint32_t> order;
    if (options.schedule == EMU_RANDOM) {
        order.resize(clusters);
        for (uint64_t i = 0; i < clusters; i++) order[i] = (uint32_t)i;
        for (uint64_t i = clusters; i > 1; i--) std::swap(order[i - 1], order[random_next() % i]);
    }
    for (uint64_t i = 0; i < clusters && !own.stopped; i++) {
        uint64_t c = !order.empty() ? order[i] : options.schedule == EMU_REVERSE ? clusters - 1 - i : i;
        cluster_run({ (unsigned)(c % across) * l.cluster, (unsigned)(c / across % l.grid.y),
                      (unsigned)(c / across / l.grid.y) });
    }
    machine = nullptr;
}

const char *launch_refused(const Launch &l) {
    uint64_t threads = (uint64_t)l.block.x * l.block.y * l.block.z;
    if (l.grid.x == 0 || l.grid.y == 0 || l.grid.z == 0 || threads == 0) return "invalid configuration: an extent is 0";
    if (threads > MAX_BLOCK_THREADS || l.block.x > 1024 || l.block.y > 1024 || l.block.z > 64)
        return "invalid configuration: more than 1024 threads in a block";
    if (l.grid.x > 0x7FFFFFFFu || l.grid.y > 65535 || l.grid.z > 65535)
        return "invalid configuration: grid y and z are limited to 65535";
    if (l.cluster == 0 || l.cluster > 8 || l.grid.x % l.cluster)
        return "invalid cluster: at most 8 blocks, of which the grid must be a multiple";
    // What every GPU since sm_80 has (sm_86 is the smallest) and what sm_90 has.
    if (l.shared > (strstr(l.file, "_sm90") ? 227u : 99u) * 1024) 
        return "invalid argument: too much dynamic shared memory";
    return nullptr;
}

void launch_failed(Stream *s, const Launch &l, const char *why) {
    static char text[300];              // outlives the stream; the first failure is the one that counts
    snprintf(text, sizeof text, "%s: %s (grid %u %u %u, block %u %u %u, shared %zu)", l.name, why, l.grid.x, l.grid.y,
             l.grid.z, l.block.x, l.block.y, l.block.z, l.shared);
    stream_fail(s, 9, text);            // cudaErrorInvalidConfiguration
}
}  // namespace emu

// The device layer has its own; this one is for programs without it.
extern "C" __attribute__((weak)) void emu_queue_launch(Stream *, void (*run)(void *), void *closure,
                                                       void (*release)(void *)) {
    run(closure);
    release(closure);
}
