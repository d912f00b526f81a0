// kernels/emu/async.cpp - asynchronous copies of one thread (cp.async), mbarriers, and copies of boxes (TMA).
//
// A copy's accesses are checked and written down when it is issued, as pending; its bytes move when the program can
// first be sure of them (or at once in eager mode), which is also when the records stop being pending.
//   cp.async    at the thread's wait for its group
//   TMA load    when somebody waits for the barrier's phase and nothing but copies holds it up
//   TMA store   at the thread's wait for its group
#include "kernels/emu/async.h"

#include <algorithm>

namespace emu {
// ---- clocks of many threads
void Clocks::refresh() {
    if (epoch == machine->epoch && of.size() == machine->agent_limit) return;
    of.assign(machine->agent_limit, 0);
    epoch = machine->epoch;
}
void Clocks::add_thread(Thread *t) {
    if (!options.check) return;
    refresh();
    clocks_join(of.data(), thread_clocks(t));
    thread_release(t);
}
void Clocks::give_thread(Thread *t) {
    if (!options.check) return;
    refresh();
    clocks_join(thread_clocks(t), of.data());
}

// ---- cp.async
static bool copy_addresses_legal(void *shared, const void *global, int size, int bytes, const void *pc) {
    if (shared_block(shared) != current->block) {
        report("not-shared", pc, "cp.async writes to %p, which is not in the block's shared memory", shared);
        return false;
    }
    if (((uintptr_t)shared | (uintptr_t)global) % (uintptr_t)size) {
        report("misaligned", pc, "cp.async of %d bytes from %p to shared address %zu", size, global,
               (size_t)((uint8_t *)shared - current->block->shared));
        return false;
    }
    if (bytes < 0 || bytes > size) {
        report("copy-size", pc, "cp.async of %d bytes asks for %d", size, bytes);
        return false;
    }
    bool legal = true;
    if (bytes) legal = access(thread_access(current, global, (size_t)bytes, ACCESS_READ, pc));
    return access(thread_access(current, shared, (size_t)size, ACCESS_WRITE | ACCESS_PENDING, pc)) && legal;
}

static void thread_copy_move(ThreadCopy &c) {
    if (c.done) return;
    memcpy(c.shared, c.global, (size_t)c.bytes);
    memset(c.shared + c.bytes, 0, (size_t)(c.size - c.bytes));
    c.done = true;
}

__attribute__((noinline)) void copy_async(void *shared, const void *global, int size, int bytes, Site) {
    const void *pc = __builtin_return_address(0);
    bool legal = copy_addresses_legal(shared, global, size, bytes, pc);
    ThreadCopies &own = async_of(current->block).copies[current->linear];
    own.copies.push_back({ (uint8_t *)shared, (const uint8_t *)global, size, bytes, !legal, pc });
    if (options.eager) thread_copy_move(own.copies.back());
}

void copy_async_commit(Site) {
    ThreadCopies &own = async_of(current->block).copies[current->linear];
    own.ends.push_back(own.retired + own.copies.size());
}

void copy_async_wait(int pending, Site) {
    ThreadCopies &own = async_of(current->block).copies[current->linear];
    if ((int)own.ends.size() <= pending) return;
    size_t groups = own.ends.size() - (size_t)pending, end = own.ends[groups - 1] - own.retired;
    for (size_t i = 0; i < end; i++) {
        ThreadCopy &c = own.copies[i];
        thread_copy_move(c);
        if (options.check)
            pending_end(c.shared, (size_t)c.size, ACCESS_WRITE | ACCESS_PENDING, current->agent, current->clock);
    }
    own.copies.erase(own.copies.begin(), own.copies.begin() + (ptrdiff_t)end);
    own.ends.erase(own.ends.begin(), own.ends.begin() + (ptrdiff_t)groups);
    own.retired += end;
}

// ---- mbarriers
static const char *bar_name(const void *bar) {
    static char text[4][48];
    static unsigned turn;
    char *out = text[turn++ % 4];
    const Block *b = shared_block(bar);
    size_t offset = b ? (size_t)((const uint8_t *)bar - b->shared) : 0;
    snprintf(out, sizeof text[0], "the mbarrier at shared address %zu", offset);
    return out;
}

// What stands in memory while the barrier is in use: kernels have no business with it.
static uint64_t bar_content(const Mbarrier &m) { return 0xB0B0000000000000ull | m.phase << 16 | m.missing; }
static void bar_write(const Mbarrier &m) {
    uint64_t v = bar_content(m);
    memcpy(m.place, &v, sizeof v);
}

void mbarrier_init_fence(Site) {}       // the ordering that matters is that of the barrier after it, which is checked

__attribute__((noinline)) void mbarrier_init(uint64_t *bar, uint32_t count, Site) {
    const void *pc = __builtin_return_address(0);
    Block *b = current->block;
    if (shared_block(bar) != b || (uintptr_t)bar % 8) {
        report("mbarrier-place", pc, "mbarrier at %p: not 8 aligned bytes of the block's shared memory", (void *)bar);
        return;
    }
    if (count == 0 || count > 0xFFFFF) report("mbarrier-count", pc, "%s: a count of %u", bar_name(bar), count);
    if (!access(thread_access(current, bar, 8, ACCESS_WRITE, pc))) return;
    size_t offset = (size_t)((uint8_t *)bar - b->shared);
    Mbarrier &m = async_of(b).bars[offset];
    if (!m.loads.empty() || !m.waiting.empty()) report("mbarrier-in-use", pc, "%s is initialised again", bar_name(bar));
    Agent agent = m.place ? m.agent : agent_new();
    uint32_t clock = m.clock;
    m = Mbarrier();
    m.place = (uint8_t *)bar;
    m.count = m.missing = count;
    m.agent = agent;
    m.clock = clock;
    m.init_agent = current->agent;
    m.init_clock = current->clock;
    m.init_epoch = machine->epoch;
    m.init_pc = pc;
    bar_write(m);
    thread_release(current);
}

// The barrier at this address of block b, checked for use by the current thread. NULL: none, and reported.
static Mbarrier *bar_find(Block *b, size_t offset, const char *word, const void *pc) {
    auto found = async_of(b).bars.find(offset);
    if (found == async_of(b).bars.end()) {
        report("mbarrier-uninitialised", pc, "%s at shared address %zu: no mbarrier was initialised there", word,
               offset);
        return nullptr;
    }
    Mbarrier &m = found->second;
    uint64_t content;
    memcpy(&content, m.place, sizeof content);
    if (content != bar_content(m)) {
        report("mbarrier-overwritten", pc, "%s: %s no longer holds what was put there", word, bar_name(m.place));
        bar_write(m);
    }
    if (options.check && m.init_epoch == machine->epoch && m.init_agent != current->agent &&
        thread_clocks(current)[m.init_agent] < m.init_clock) {
        report("mbarrier-init-race", pc, "%s: no barrier since %s was initialised at %s", word, bar_name(m.place),
               place_text(m.init_pc));
        m.init_agent = current->agent;
    }
    return &m;
}
static Mbarrier *bar_own(const void *bar, const char *word, const void *pc) {
    if (shared_block(bar) != current->block) {
        report("mbarrier-place", pc, "%s: %p is not in the block's shared memory", word, bar);
        return nullptr;
    }
    return bar_find(current->block, (size_t)((const uint8_t *)bar - current->block->shared), word, pc);
}

static void bar_complete_if_due(Mbarrier &m) {
    if (m.missing || m.bytes) return;
    for (auto &c : m.loads) {
        if (c->phase != m.phase) continue;
        report("mbarrier-bytes", c->pc, "the phase of %s that this copy counts at completes before it: fewer bytes are "
               "expected (at %s) than copied", bar_name(m.place), place_text(m.expect_pc));
        break;
    }
    if (options.check) {
        m.gathered.refresh();
        m.completed.refresh();
        clocks_join(m.completed.of.data(), m.gathered.of.data());
        m.completed.of[m.agent] = m.clock;
        std::fill(m.gathered.of.begin(), m.gathered.of.end(), 0);
    }
    m.phase++;
    m.peers_arrived = m.peers_arrived || m.peers_arrive;
    m.missing = m.count;
    bar_write(m);
    for (Thread *t : m.waiting) thread_wake(t);
    m.waiting.clear();
}

static void tensor_copy_move(TensorCopy &c, bool load);
static void bar_load_done(Mbarrier &m, size_t i) {
    std::unique_ptr<TensorCopy> c = std::move(m.loads[i]);
    m.loads.erase(m.loads.begin() + (ptrdiff_t)i);
    tensor_copy_move(*c, true);
    if (options.check && c->legal)
        pending_end(c->shared, c->bytes, ACCESS_WRITE | ACCESS_ASYNC | ACCESS_PENDING, c->agent, c->clock);
    m.bytes -= (int64_t)c->bytes;
    bar_complete_if_due(m);
}

// Somebody waits for the phase: copies that alone hold it up arrive now, in the order of issue.
static void bar_serve(Mbarrier &m) {
    uint64_t phase = m.phase;
    while (m.phase == phase && m.missing == 0 && !m.loads.empty()) bar_load_done(m, 0);
}

__attribute__((noinline)) void mbarrier_arrive(uint64_t *bar, int64_t expect_bytes, int peer, Site) {
    const void *pc = __builtin_return_address(0);
    Mbarrier *m;
    if (peer < 0) {
        m = bar_own(bar, "arrive", pc);
    } else if (shared_block(bar) != current->block || (size_t)peer >= machine->blocks.size()) {
        report("cluster-rank", pc, "arrive at %p of block %d of a cluster of %zu", (void *)bar, peer,
               machine->blocks.size());
        return;
    } else {
        size_t offset = (size_t)((uint8_t *)bar - current->block->shared);
        m = bar_find(machine->blocks[(size_t)peer], offset, "arrive", pc);
    }
    if (!m) return;
    if (m->missing == 0) {
        report("mbarrier-overarrive", pc, "more arrivals at %s than its count %u: nobody has waited for the phase",
               bar_name(m->place), m->count);
        return;
    }
    if (expect_bytes >= 0) {
        if (expect_bytes >= 1 << 20)
            report("mbarrier-bytes", pc, "%lld bytes are more than a phase can count", (long long)expect_bytes);
        m->bytes += expect_bytes;
        m->expect_pc = pc;
    }
    m->gathered.add_thread(current);
    if (shared_block(m->place) != current->block) m->peers_arrive = true;
    m->missing--;
    bar_write(*m);
    bar_complete_if_due(*m);
    if (!m->waiting.empty()) bar_serve(*m);
}

__attribute__((noinline)) void mbarrier_wait(uint64_t *bar, uint32_t parity, bool of_cluster, Site site) {
    const void *pc = __builtin_return_address(0);
    Mbarrier *m = bar_own(bar, "wait", pc);
    if (!m) return;
    if (parity > 1) report("mbarrier-parity", pc, "wait for parity %u of %s", parity, bar_name(bar));
    while ((m->phase & 1) == (parity & 1)) {
        bar_serve(*m);
        if ((m->phase & 1) != (parity & 1)) break;
        m->waiting.push_back(current);
        thread_wait("mbarrier", site);
    }
    if (m->peers_arrived && !of_cluster)
        report("mbarrier-scope", pc, "threads of another block arrive at %s: that takes MBARRIER_WAIT_CLUSTER",
               bar_name(bar));
    m->completed.give_thread(current);
}

// The others run in between, so that a loop on it ends.
__attribute__((noinline)) bool mbarrier_test(uint64_t *bar, uint32_t parity, Site) {
    const void *pc = __builtin_return_address(0);
    Mbarrier *m = bar_own(bar, "test", pc);
    if (!m) return true;
    thread_yield();
    bar_serve(*m);
    if ((m->phase & 1) == (parity & 1)) return false;
    m->completed.give_thread(current);
    return true;
}

__attribute__((noinline)) void proxy_fence(Site) {
    current->fence_epoch = machine->epoch;
    current->fence_clock = current->clock;
    thread_release(current);
}

// ---- boxes
// Calls row(offset in the packed box, address, elements before the tensor's edge, elements inside) for every innermost
// row; address is that of the first element inside, NULL if the whole row lies outside.
template <typename Row> static void box_rows(const TensorCopy &c, Row row) {
    const TensorMap &m = c.map;
    int64_t first = c.box.start[0], end = first + m.box[0], in0 = std::max<int64_t>(first, 0);
    int64_t in1 = std::min<int64_t>(end, (int64_t)m.last[0] + 1), rows = 1;
    for (int d = 1; d < m.rank; d++) rows *= m.box[d];
    size_t pitch = m.box[0] * m.stride[0];
    for (int64_t r = 0; r < rows; r++) {
        const uint8_t *p = (const uint8_t *)m.base + in0 * (int64_t)m.stride[0];
        bool inside = in0 < in1;
        int64_t rest = r;
        for (int d = 1; d < m.rank; d++) {
            int64_t at = c.box.start[d] + rest % m.box[d] * m.step[d];
            rest /= m.box[d];
            inside = inside && at >= 0 && at <= (int64_t)m.last[d];
            p += at * (int64_t)m.stride[d];
        }
        row((size_t)r * pitch, inside ? p : nullptr, (size_t)(in0 - first) * m.stride[0],
            inside ? (size_t)(in1 - in0) * m.stride[0] : 0);
    }
}

// Rows are packed in shared memory and swizzled by the address there, 16 bytes at a time.
static void tensor_copy_move(TensorCopy &c, bool load) {
    if (c.moved || !c.legal) return;
    c.moved = true;
    size_t pitch = c.map.box[0] * c.map.stride[0], start = (size_t)(c.shared - c.block->shared);
    box_rows(c, [&](size_t offset, const uint8_t *p, size_t before, size_t bytes) {
        uint8_t row[256 * 8] = { 0 };
        if (load && p) memcpy(row + before, p, bytes);
        for (size_t i = 0; i < pitch; i += 16) {
            uint8_t *s = c.block->shared + swizzled(start + offset + i, c.map.swizzle);
            if (load) memcpy(s, row + i, 16);
            else memcpy(row + i, s, 16);
        }
        if (!load && p) memcpy(const_cast<uint8_t *>(p), row + before, bytes);
    });
}

// Checks what does not depend on the block, and makes the copy. NULL: reported.
static std::unique_ptr<TensorCopy> tensor_copy_new(const TensorMap *map, const Box &box, const void *shared, Block *b,
                                                   const void *pc) {
    if (map->made != TENSOR_MAP_MADE) {
        report("tensor-map", pc, "the tensor map at %p was not made by tensor_map_tiled()", (const void *)map);
        return nullptr;
    }
    if (map->rank != box.rank) {
        report("tensor-map", pc, "%d coordinates for a tensor map of rank %d", box.rank, map->rank);
        return nullptr;
    }
    if (shared_block(shared) != b || (size_t)((const uint8_t *)shared - b->shared) % 128) {
        report("misaligned", pc, "a TMA box at %p: not at a multiple of 128 of the block's shared memory", shared);
        return nullptr;
    }
    std::unique_ptr<TensorCopy> c(new TensorCopy());
    c->map = *map;
    c->box = box;
    c->block = b;
    c->shared = (uint8_t *)const_cast<void *>(shared);
    c->bytes = map->stride[0];
    for (int d = 0; d < map->rank; d++) c->bytes *= map->box[d];
    c->legal = true;
    c->pc = pc;
    return c;
}

static void tensor_copy_check(TensorCopy &c, bool load) {
    unsigned shared_kind = (load ? ACCESS_WRITE : ACCESS_READ) | ACCESS_ASYNC | ACCESS_PENDING;
    unsigned global_kind = load ? ACCESS_READ | ACCESS_ASYNC : ACCESS_WRITE | ACCESS_ASYNC | ACCESS_PENDING;
    c.legal = access({ c.shared, c.bytes, shared_kind, c.pc, current, c.agent, c.clock });
    box_rows(c, [&](size_t, const uint8_t *p, size_t, size_t bytes) {
        if (p && !access({ p, bytes, global_kind, c.pc, current, c.agent, c.clock })) c.legal = false;
    });
}

__attribute__((noinline)) void tensor_load(void *shared, const TensorMap *map, uint64_t *bar, uint32_t blocks, Box box,
                                           Site) {
    const void *pc = __builtin_return_address(0);
    Block *own = current->block;
    if (shared_block(shared) != own || shared_block(bar) != own) {
        report("not-shared", pc, "TMA_LOAD to %p, counted at %p: not in the block's shared memory", shared,
               (void *)bar);
        return;
    }
    size_t to = (size_t)((uint8_t *)shared - own->shared), at = (size_t)((uint8_t *)bar - own->shared);
    if (blocks == 0) blocks = 1u << own->rank;
    if (blocks >> machine->blocks.size()) {
        report("cluster-rank", pc, "TMA_LOAD_MULTICAST to blocks %#x of a cluster of %zu", blocks,
               machine->blocks.size());
        return;
    }
    for (Block *b : machine->blocks) {
        if (!(blocks >> b->rank & 1)) continue;
        Mbarrier *m = bar_find(b, at, "TMA_LOAD", pc);
        if (!m) continue;
        std::unique_ptr<TensorCopy> c = tensor_copy_new(map, box, b->shared + to, b, pc);
        if (!c) return;
        c->agent = m->agent;
        c->clock = ++m->clock;
        c->phase = m->phase;
        tensor_copy_check(*c, true);
        m->loads.push_back(std::move(c));
        if (options.eager) bar_load_done(*m, m->loads.size() - 1);
        else if (!m->waiting.empty()) bar_serve(*m);
    }
}

// ---- stores
__attribute__((noinline)) void tensor_store(const TensorMap *map, const void *shared, Box box, Site) {
    const void *pc = __builtin_return_address(0);
    ThreadStores &own = async_of(current->block).stores[current->linear];
    std::unique_ptr<TensorCopy> c = tensor_copy_new(map, box, shared, current->block, pc);
    if (!c) return;
    if (!own.used) own.agent = agent_new();
    own.used = true;
    c->agent = own.agent;
    c->clock = ++own.clock;
    tensor_copy_check(*c, false);
    if (options.eager) tensor_copy_move(*c, false);
    if (own.groups.empty() || own.groups.back().committed) own.groups.emplace_back();
    own.groups.back().stores.push_back(std::move(c));
}

void tensor_store_commit(Site) {
    ThreadStores &own = async_of(current->block).stores[current->linear];
    if (own.groups.empty() || own.groups.back().committed) own.groups.emplace_back();
    own.groups.back().committed = true;
}

static void store_group_read(StoreGroup &g) {
    if (g.read) return;
    g.read = true;
    for (auto &c : g.stores) {
        tensor_copy_move(*c, false);
        if (options.check && c->legal)
            pending_end(c->shared, c->bytes, ACCESS_READ | ACCESS_ASYNC | ACCESS_PENDING, c->agent, c->clock);
    }
}
static void store_group_written(StoreGroup &g) {
    for (auto &c : g.stores) {
        if (!options.check || !c->legal) continue;
        box_rows(*c, [&](size_t, const uint8_t *p, size_t, size_t bytes) {
            if (p) pending_end(p, bytes, ACCESS_WRITE | ACCESS_ASYNC | ACCESS_PENDING, c->agent, c->clock);
        });
    }
}

void tensor_store_wait(int pending, bool read_only, Site) {
    ThreadStores &own = async_of(current->block).stores[current->linear];
    size_t committed = 0;
    for (const StoreGroup &g : own.groups) committed += g.committed;
    if ((int)committed <= pending) return;
    size_t groups = committed - (size_t)pending;
    for (size_t i = 0; i < groups; i++) {
        store_group_read(own.groups[i]);
        if (!read_only) store_group_written(own.groups[i]);
        if (own.groups[i].stores.size()) thread_clocks(current)[own.agent] = own.groups[i].stores.back()->clock;
    }
    if (!read_only) own.groups.erase(own.groups.begin(), own.groups.begin() + (ptrdiff_t)groups);
}

// ---- beginnings and ends
void async_block_begin(Block *b) { b->async = nullptr; }

BlockAsync &async_create(Block *b) {
    BlockAsync *a = new BlockAsync;
    a->copies.resize((size_t)b->threads);
    a->stores.resize((size_t)b->threads);
    a->cluster_arrivals.resize((size_t)b->threads);
    a->products.resize(b->warp.size());
    a->tiles.resize(b->warp.size());
    a->calls.resize((b->warp.size() + 3) / 4);
    b->async = a;
    return *a;
}

void async_thread_end(Thread *t) {
    cluster_thread_end();
    if (!t->block->async) return;
    BlockAsync &a = async_of(t->block);
    for (const ThreadCopy &c : a.copies[t->linear].copies) {
        if (c.done && !options.eager) continue;              // refused, and reported then
        report("async-unwaited", c.pc, "the thread ends with this cp.async in flight");
        break;
    }
    for (StoreGroup &g : a.stores[t->linear].groups) {
        if (!g.read && !g.stores.empty()) {
            report("async-unwaited", g.stores[0]->pc, "the thread ends while this store may still read shared memory");
            store_group_read(g);
        }
        store_group_written(g);
    }
    a.stores[t->linear].groups.clear();
}

void async_block_end(Block *b) {
    if (!b->async) return;
    for (auto &entry : async_of(b).bars) {
        if (entry.second.loads.empty()) continue;
        report("async-unwaited", entry.second.loads[0]->pc, "the block ends and nobody waited for this TMA load");
        break;
    }
    products_block_end(b);
    async_block_drop(b);
}

void async_block_drop(Block *b) {
    if (!b->async) return;
    for (auto &entry : async_of(b).bars) {
        Mbarrier &m = entry.second;
        if (m.waiting.empty() || m.missing || m.bytes <= 0) continue;
        report("mbarrier-bytes", m.expect_pc, "%s waits for %lld bytes that no copy brings", bar_name(m.place),
               (long long)m.bytes);
    }
    delete static_cast<BlockAsync *>(b->async);
    b->async = nullptr;
}
}  // namespace emu
