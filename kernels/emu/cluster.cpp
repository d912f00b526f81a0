// kernels/emu/cluster.cpp - thread-block clusters: ranks, the cluster's barrier, addresses in another block's memory.
//
// The blocks of a cluster are resident together, ranks 0 .. n - 1 of machine->blocks. Loads and stores through a mapped
// address are plain ones and checked as such, with the clocks of the threads that make them.
#include "kernels/emu/async.h"

#include <algorithm>

namespace emu {
uint32_t cluster_rank() { return current->block->rank; }

// The barrier belongs to the cluster and is kept with its first block.
static ClusterBarrier &barrier_of_cluster() { return async_of(machine->blocks[0]).cluster; }

static int threads_alive() {
    int n = 0;
    for (const Block *b : machine->blocks) n += b->alive;
    return n;
}

static void barrier_complete_if_due(ClusterBarrier &c, int expected) {
    if (c.arrived == 0 || c.arrived < expected) return;
    c.gathered.refresh();
    c.completed = c.gathered;
    std::fill(c.gathered.of.begin(), c.gathered.of.end(), 0);
    c.arrived = 0;
    c.generation++;
    for (Thread *t : c.waiting) thread_wake(t);
    c.waiting.clear();
}

__attribute__((noinline)) void cluster_arrive(Site) {
    const void *pc = __builtin_return_address(0);
    ClusterBarrier &c = barrier_of_cluster();
    uint32_t &own = async_of(current->block).cluster_arrivals[current->linear];
    if (own != c.generation) {
        report("cluster-barrier", pc, "a second CLUSTER_ARRIVE without CLUSTER_WAIT");
        return;
    }
    own++;
    c.gathered.add_thread(current);
    c.arrived++;
    barrier_complete_if_due(c, threads_alive());
}

__attribute__((noinline)) void cluster_wait(Site site) {
    const void *pc = __builtin_return_address(0);
    ClusterBarrier &c = barrier_of_cluster();
    uint32_t own = async_of(current->block).cluster_arrivals[current->linear];
    if (own == c.generation + 1) {
        while (c.generation != own) {
            c.waiting.push_back(current);
            thread_wait("cluster barrier", site);
        }
    } else if (own != c.generation || own == 0) {
        report("cluster-barrier", pc, "CLUSTER_WAIT without CLUSTER_ARRIVE");
        return;
    }
    c.completed.give_thread(current);
}

// A thread that is about to return is waited for no more.
void cluster_thread_end() {
    if (machine->blocks[0]->async) barrier_complete_if_due(barrier_of_cluster(), threads_alive() - 1);
}

__attribute__((noinline)) void *cluster_map(void *p, uint32_t rank, Site) {
    const void *pc = __builtin_return_address(0);
    Block *own = current->block;
    if (shared_block(p) != own) {
        report("not-shared", pc, "CLUSTER_MAP of %p, which is not in the block's shared memory", p);
        return p;
    }
    if (rank >= machine->blocks.size()) {
        report("cluster-rank", pc, "CLUSTER_MAP to block %u of a cluster of %zu", rank, machine->blocks.size());
        return p;
    }
    return machine->blocks[rank]->shared + ((uint8_t *)p - own->shared);
}
}  // namespace emu
