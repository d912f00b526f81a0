// kernels/emu/async.h - what async.cpp and tensor_core.cpp keep of a block: copies, barriers and products in flight.
#ifndef KERNELS_EMU_ASYNC_H
#define KERNELS_EMU_ASYNC_H
#include <map>
#include <memory>

#include "kernels/emu/internal.h"
#include "kernels/common/hopper.cuh"

namespace emu {
// Clocks gathered from several threads in one epoch; of an older epoch they say nothing.
struct Clocks {
    std::vector<uint32_t> of;
    uint32_t epoch = 0;
    void refresh();                     // brings it into this epoch, empty if it was of another
    void add_thread(Thread *t);         // t releases
    void give_thread(Thread *t);        // t acquires
};

// ---- cp.async: groups of one thread, oldest first; the last one is open
struct ThreadCopy { uint8_t *shared; const uint8_t *global; int size, bytes; bool done; const void *pc; };
struct ThreadCopies {
    std::vector<ThreadCopy> copies;     // in order of issue
    std::vector<size_t> ends;           // of the committed groups, as counts of copies issued
    size_t retired = 0;                 // copies already waited for and dropped from the front
};

// ---- mbarriers and the copies that they count
struct Mbarrier;
struct TensorCopy {
    TensorMap map;
    Box       box;
    Block    *block;                    // whose shared memory
    uint8_t  *shared;
    size_t    bytes;                    // of the whole box
    uint32_t  clock;                    // of the agent that does it
    Agent     agent;
    uint64_t  phase;                    // loads: of the barrier when issued
    bool      legal;                    // its addresses can be touched
    bool      moved;
    const void *pc;
};
struct Mbarrier {
    uint8_t *place;
    uint32_t count, missing;            // arrivals per phase; still missing in this one
    int64_t  bytes;                     // expected minus arrived
    uint64_t phase;
    bool     peers_arrive, peers_arrived;   // threads of other blocks: in this phase, in an earlier one
    Agent    agent;                     // of the copies counted here
    uint32_t clock;
    Agent    init_agent;
    uint32_t init_clock, init_epoch;
    const void *init_pc, *expect_pc;
    Clocks   gathered, completed;       // by arrivals of this phase; by all earlier ones
    std::vector<std::unique_ptr<TensorCopy>> loads;
    std::vector<Thread *> waiting;
};

// ---- TMA stores: groups of one thread, oldest first; the last one is open
struct StoreGroup { std::vector<std::unique_ptr<TensorCopy>> stores; bool committed, read; };
struct ThreadStores { std::vector<StoreGroup> groups; Agent agent; uint32_t clock; bool used; };

// ---- wgmma, warp by warp: each computes its 16 rows
struct Accumulator {
    float *d[WARP];
    int    n, users;                    // products in flight that add to it
    std::vector<float> value;           // (16, n)
};
struct Product {
    int      n;
    uint64_t a, b;
    bool     a_registers, a_transposed, b_transposed, accumulate, legal;
    uint32_t a_words[WARP][4];
    Accumulator *sum;
    uint64_t group;
    uint32_t clock;
    const void *pc;
};
struct WarpProducts {
    std::vector<Product> flying;        // in order of issue
    std::vector<std::unique_ptr<Accumulator>> sums;
    uint64_t group = 0, issued = 0;
    bool     fenced = false, used = false;
    Agent    agent = 0;
    uint32_t clock = 0;
};
struct ProductCall { int n; uint64_t a, b; unsigned flags; };
struct GroupCalls {                     // what the first warp to get there asked for, to compare the others with
    std::vector<ProductCall> calls;
    uint64_t first = 0;                 // number of calls[0]
};

// ---- mma: each lane puts its fragments there and takes its results from there while its own stack is in the cache.
// Two in turn: a lane may be at the next product before the last one has taken its results of this one.
struct MmaTile { float a[16 * 16], b[16 * 8], d[16 * 8]; };
struct WarpTiles { MmaTile tile[2]; uint8_t turn[WARP]; };

// ---- the cluster's barrier
struct ClusterBarrier {
    int      arrived = 0;
    uint32_t generation = 0;            // phases completed
    Clocks   gathered, completed;
    std::vector<Thread *> waiting;
};

struct BlockAsync {
    ClusterBarrier cluster;                     // used in the cluster's first block
    std::vector<uint32_t> cluster_arrivals;     // of each thread
    std::vector<ThreadCopies> copies;           // by thread
    std::vector<ThreadStores> stores;
    std::map<size_t, Mbarrier> bars;            // by offset in the window
    std::vector<WarpProducts> products;         // by warp
    std::vector<WarpTiles>    tiles;
    std::vector<GroupCalls>   calls;            // by warpgroup
};
BlockAsync &async_create(Block *b);
// Made when a block first says one of these words: most kernels say none.
static inline BlockAsync &async_of(Block *b) {
    return b->async ? *static_cast<BlockAsync *>(b->async) : async_create(b);
}

// Exclusive-ors the address's bits 4.. with its bits 7..: 1, 2, 3 of them for rows of 32, 64, 128 bytes.
static inline size_t swizzled(size_t address, int row_bytes) {
    size_t mask = row_bytes ? (size_t)row_bytes / 16 - 1 : 0;
    return address ^ ((address >> 7 & mask) << 4);
}
void cluster_thread_end();
void products_block_end(Block *b);              // reports products that nobody waited for
}  // namespace emu
#endif
