// kernels/emu/internal.h - the emulator's inside, shared by its .cpp files.
//
// How it works. launch_run() takes the blocks of a launch one after the other (or the blocks of a cluster together): a
// Machine, one per OS thread, holds the resident blocks; each CUDA thread is a Thread on a fiber. Exactly one of them
// runs: `current`. It gives up the processor only in thread_wait() and thread_yield().
//
// How to write a word (a function that emu.h or mma.h names in a macro):
//   * alone:        `Thread *t = current;` - t->block, t->lane, t->warp, t->linear ... say who calls.
//   * whole warp:   `collective("mma", mask, site, work, &arguments)`: returns when all live lanes of mask have come to
//                   the same (work, mask, site); `work` has then run once, with the address that each lane passed.
//   * blocking:     `thread_wait(what, site)` until somebody calls thread_wake(t). Always in a loop on the condition,
//                   since other words wake too. what and site appear in the report of a deadlock.
//   * memory:       before touching memory for the kernel: `if (access({...}))` do it. See Access.
//   * place:        `__builtin_return_address(0)` in the word itself (never inlined) is the place in the .cu file that
//                   a report shows. In a collective, pass it in the arguments.
//   * ordering:     see "clocks" below: thread_release(), clocks_join().
//   * errors:       report("kind", pc, "...", ...). kind is a short noun: tests look for it.
// State of asynchronous words belongs to async.cpp and tensor_core.cpp; the hooks at the end tell them of beginnings
// and ends of blocks and threads (empty weak definitions stand in schedule.cpp).
#ifndef KERNELS_EMU_INTERNAL_H
#define KERNELS_EMU_INTERNAL_H
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

// device.cuh's storage type, which emu.h needs and kernels get before it.
#ifndef KERNELS_DEVICE_CUH
#include "kernels/common/device.cuh"
#endif
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace emu {
constexpr int    WARP = 32, MAX_BLOCK_THREADS = 1024, MAX_CLUSTER = 16, NAMED_BARRIERS = 16;
constexpr size_t SHARED_WINDOW = 256 * 1024;        // addresses of one block's shared memory, red zones included
constexpr size_t SHARED_START = 1024;               // where dynamic shared memory begins: never at address 0

typedef uint16_t Agent;     // index into clocks: a thread of the resident blocks, or an asynchronous engine's queue

// ---- fibers (fiber.cpp)
struct FiberStack { uint8_t *stack; size_t bytes; };    // NULL: the OS thread's own
struct Fiber;
Fiber *fiber_get();                                 // a free stack, about to enter fiber_body()
void   fiber_put(Fiber *f);                         // its stack is not in use any more
void   fiber_switch(Fiber *from, Fiber *to, bool from_ends);
Fiber *fiber_host();                                // stands for the OS thread's own stack
const FiberStack *fiber_stack(const Fiber *f);      // lives as long as the fiber
[[noreturn]] void fiber_body();                     // schedule.cpp: runs threads until there is nothing left for it

// ---- threads, warps, blocks
struct Block;
enum ThreadState : uint8_t { THREAD_FRESH, THREAD_READY, THREAD_RUNNING, THREAD_WAITING, THREAD_DONE };
struct Thread {
    Block   *block;
    Fiber   *fiber;                     // NULL before it first runs and after it ends
    uint3    index;                     // threadIdx
    uint16_t linear, warp;              // in the block
    uint8_t  lane;
    ThreadState state;
    const char *wait_what;              // while waiting: for the report of a deadlock
    Site     wait_site;
    // Clocks: see below.
    Agent     agent;
    uint32_t  clock;                    // own; raised by every release
    uint32_t  clocks_epoch;             // the epoch that `clocks` speaks of; older: nothing known but by epoch
    uint32_t *clocks;                   // [machine->agents]
    uint32_t  fence_epoch, fence_clock; // of the last fence.proxy.async: own accesses before are seen by that proxy
    bool      fenced;                   // has called __threadfence
};

// Lanes that have come to one collective.
struct Meeting {
    void (*work)(struct Warp &, uint32_t, void **);
    const char *what;
    Site     site;
    uint32_t mask, arrived;             // mask 0: free
    void    *arg[WARP];
};
struct Warp {
    Block   *block;
    int      number;                    // in the block
    uint32_t live;                      // lanes that exist and have not returned
    Thread  *lane[WARP];                // NULL beyond the block's last thread
    std::vector<std::unique_ptr<Meeting>> meetings;
};
struct NamedBarrier {
    int      expected, arrived;
    uint32_t generation, clocks_epoch;
    Site     site;                      // of the first arrival
    std::vector<uint32_t> clocks;       // of all that have arrived
    std::vector<Thread *> waiting;
};
struct StaticShared { const void *tag; const char *name; size_t offset, bytes; };

struct Block {
    uint3    index;                     // blockIdx
    unsigned rank;                      // in its cluster
    int      threads, alive;
    uint32_t serial;                    // of its cluster's run: unique within a launch and after it
    uint8_t *shared;                    // base of its window; addresses in the kernel are offsets from it
    size_t   shared_dynamic, shared_end;    // bytes of dynamic memory; end of what is handed out
    std::vector<StaticShared> statics;
    std::vector<Thread> thread;
    std::vector<Warp>   warp;
    // __syncthreads
    int      sync_arrived, sync_true, sync_result;      // threads come; with a true predicate; of the last barrier
    int      sync_of;                                   // threads that the last barrier counted
    uint32_t sync_generation;
    Site     sync_site;
    std::vector<Thread *> sync_waiting;
    NamedBarrier named[NAMED_BARRIERS];
    void    *async;                     // for async.cpp and tensor_core.cpp
};

// What one OS thread is executing.
struct Machine {
    const Launch *launch;
    std::vector<Block *> blocks;        // resident: one, or a cluster's; by rank
    uint32_t  serial, epoch;            // of the resident blocks; of the last full barrier: see clocks
    uint32_t  serial_first, fine_epoch; // of the launch's first blocks; in which thread_release() was last called
    uint32_t  tag;                      // of this serial and epoch: see shared_tags in shadow.h
    std::vector<uint3> places;          // blockIdx of the first block of serial serial_first + i
    Agent     agents, agent_limit;      // in use; length of every `clocks`
    std::vector<uint32_t> clock_store;
    Thread  **ready;                    // ring of threads that can go on
    unsigned  ready_head, ready_count, ready_size;
    Fiber    *running, *host;           // whose stack is in use; where launch_run() waits
    uint64_t  random;
    bool      stopped;                  // a deadlock or an access that cannot be carried out: drop this launch
};
extern __thread Machine *machine;       // NULL outside launch_run()
extern __thread Thread  *current;       // NULL while host code runs
extern EmuOptions options;

void thread_wait(const char *what, Site site);      // until woken
void thread_wake(Thread *t);                        // if it waits; it runs later
void thread_yield();                                // lets the others run first
[[noreturn]] void launch_stop();                    // gives up the whole launch; the caller's stack is abandoned
uint64_t random_next();                             // of the machine; the same for the same seed

// work(warp, lanes, arg): lanes: those of mask that are alive; arg[i]: from lane i, or NULL. It runs on the last
// comer's stack, with `current` the last comer, and must not wait.
typedef void CollectiveWork(Warp &w, uint32_t lanes, void **arg);
void collective(const char *what, uint32_t mask, Site site, CollectiveWork *work, void *arg, const void *pc);
void warp_thread_ended(Thread *t);                  // its absence may complete a meeting

// ---- clocks: which accesses happen before which
//
// Each agent has a clock; clocks[a] of a thread is the newest clock of agent a that it is ordered after. A release
// (thread_release) raises the own clock after others have taken a copy: so what an agent did at clock c is seen by
// whoever has clocks[agent] >= c. __syncthreads of a whole machine raises machine->epoch instead: all accesses by
// *threads* in older epochs happen before all in newer ones, and clocks of older epochs are void (they read as 0),
// which makes the common case free. A record by an asynchronous agent gets its epoch when somebody's wait completes it.
void      epoch_begin();                            // all that the resident threads have done is ordered from now on
uint32_t *thread_clocks(Thread *t);                 // brought into this epoch; clocks[t->agent] == t->clock
uint32_t *clocks_join(uint32_t *to, const uint32_t *from);      // elementwise maximum over machine->agents
void      thread_release(Thread *t);                // t's next accesses are not seen by who copied its clocks before
Agent     agent_new();                              // lives as long as the resident blocks

// ---- memory of the kernel (memory.cpp, shadow.cpp)
enum : unsigned {
    ACCESS_READ = 0, ACCESS_WRITE = 1,
    ACCESS_ATOMIC = 2,      // with ACCESS_WRITE: no race with other atomics
    ACCESS_ASYNC = 4,       // by the asynchronous proxy (TMA, wgmma): generic writes need fence.proxy.async before it
    ACCESS_PENDING = 8,     // not yet complete: nobody may touch it (write) or overwrite it (read) until pending_end()
};
struct Access {
    const void *p;
    size_t   bytes;
    unsigned kind;
    const void *pc;         // where in the kernel
    Thread  *thread;        // who issues it: its clocks decide what is ordered before
    Agent    agent;         // who is written down as having done it: thread->agent, or an asynchronous agent
    uint32_t clock;
};
// Checks and records one access, to device or shared memory. False: it must not be carried out (a fault was reported).
// Always true when checking is off, but for pointers to nowhere.
bool access(const Access &a);
static inline Access thread_access(Thread *t, const void *p, size_t bytes, unsigned kind, const void *pc) {
    return { p, bytes, kind, pc, t, t->agent, t->clock };
}
// The end of an access made with ACCESS_PENDING: its records now carry this epoch and clock; what it wrote is set.
void pending_end(const void *p, size_t bytes, unsigned kind, Agent agent, uint32_t clock);

bool     heap_contains(const void *p);
Block   *shared_block(const void *p);               // the resident block whose window p lies in; NULL
uint8_t *shared_window(unsigned rank);
void     shared_begin(Block *b);                    // window empty; dynamic memory of the launch handed out
void     shared_end(Block *b);
const StaticShared *shared_static_at(const Block *b, size_t offset);    // the array there, or whose red zone is there
void     shadow_launch_begin();                     // records of earlier launches are void

// ---- faults (report.cpp)
// Prints and counts "emu: KIND in KERNEL at FILE:LINE, block .. thread ..: text". Returns.
void report(const char *kind, const void *pc, const char *format, ...) __attribute__((format(printf, 3, 4)));
const char *place_text(const void *pc);             // "file.cu:12", or "file.cu:12 (device.cuh:40)" when inlined
std::string place_name(const void *pc);             // the same, not cut off (symbols.cpp)
const char *thread_text(const Thread *t);           // "block 3 thread 17"; valid for a few calls
const char *site_text(Site s);
const char *path_short(const char *path);           // from kernels/ or tests/ on

// ---- hooks of the asynchronous words
void async_block_begin(Block *b);
void async_thread_end(Thread *t);
void async_block_end(Block *b);                     // all threads have returned: report what nobody waited for
void async_block_drop(Block *b);                    // the launch was given up: free what is held, report nothing
}  // namespace emu
#endif
