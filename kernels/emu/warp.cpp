// kernels/emu/warp.cpp - operations at which the lanes of a warp meet: shuffles, ballots, __syncwarp.
//
// Lanes meet when they come with the same mask to the same operation at the same place of the source. Lanes that have
// returned drop out of the mask, as on the GPU. Shuffles and ballots order no memory accesses; __syncwarp does.
#include "kernels/emu/internal.h"

namespace emu {
static void meeting_finish(Warp &w, Meeting &m) {
    uint32_t lanes = m.mask & w.live;
    m.work(w, lanes, m.arg);
    m.mask = 0;
    bool reverse = options.schedule == EMU_REVERSE;
    for (int i = 0; i < WARP; i++) {
        int lane = reverse ? WARP - 1 - i : i;
        if (lanes >> lane & 1 && w.lane[lane] != current) thread_wake(w.lane[lane]);
    }
}

void collective(const char *what, uint32_t mask, Site site, CollectiveWork *work, void *arg, const void *pc) {
    Thread *t = current;
    Warp &w = t->block->warp[t->warp];
    uint32_t me = 1u << t->lane;
    if (!(mask & me)) {
        report("warp-mask", pc, "%s with mask %08x, which does not hold the calling lane %d", what, mask, t->lane);
        launch_stop();
    }
    Meeting *m = nullptr;
    for (auto &open : w.meetings)
        if (open->mask == mask && open->work == work && open->site.line == site.line && !(open->arrived & me) &&
            (open->site.file == site.file || strcmp(open->site.file, site.file) == 0)) m = open.get();
    if (!m) {
        for (auto &unused : w.meetings)
            if (unused->mask == 0) m = unused.get();
        if (!m) {
            w.meetings.push_back(std::make_unique<Meeting>());
            m = w.meetings.back().get();
        }
        *m = { work, what, site, mask, 0, {} };
    }
    m->arrived |= me;
    m->arg[t->lane] = arg;
    if (m->arrived == (mask & w.live)) {
        meeting_finish(w, *m);
        return;
    }
    // Only the end of this meeting wakes a lane that waits here; its slot may be in use again by then.
    thread_wait(what, site);
}

void warp_thread_ended(Thread *t) {
    Warp &w = t->block->warp[t->warp];
    for (auto &m : w.meetings)
        if (m->mask && m->arrived && m->arrived == (m->mask & w.live)) meeting_finish(w, *m);
}

// ---- shuffles
namespace {
struct ShuffleArgs { ShuffleMode mode; uint64_t value, result; int lane, width; const void *pc; };
struct BallotArgs { bool predicate; uint32_t result; };
}

static void shuffle_work(Warp &w, uint32_t lanes, void **arg) {
    for (int lane = 0; lane < WARP; lane++) {
        if (!(lanes >> lane & 1)) continue;
        ShuffleArgs *a = static_cast<ShuffleArgs *>(arg[lane]);
        int first = lane & ~(a->width - 1), from = lane;      // of the segment of `width` lanes
        switch (a->mode) {
        case SHUFFLE_INDEX: from = first + (a->lane & (a->width - 1)); break;
        case SHUFFLE_UP:    from = lane - a->lane < first ? lane : lane - a->lane; break;
        case SHUFFLE_DOWN:  from = lane + a->lane >= first + a->width ? lane : lane + a->lane; break;
        case SHUFFLE_XOR:   from = (lane ^ a->lane) >= first + a->width ? lane : lane ^ a->lane; break;
        }
        if (lanes >> from & 1) {
            a->result = static_cast<ShuffleArgs *>(arg[from])->value;
        } else {
            a->result = ~0ull;
            report("shuffle-absent", a->pc, "lane %d of warp %d reads lane %d, which does not take part", lane,
                   w.number, from);
        }
    }
}

uint64_t warp_shuffle(ShuffleMode mode, uint32_t mask, uint64_t value, int lane, int width, Site site) {
    ShuffleArgs a = { mode, value, 0, lane, width, __builtin_return_address(0) };
    collective("a shuffle", mask, site, shuffle_work, &a, a.pc);
    return a.result;
}

static void ballot_work(Warp &, uint32_t lanes, void **arg) {
    uint32_t result = 0;
    for (int lane = 0; lane < WARP; lane++)
        if (lanes >> lane & 1 && static_cast<BallotArgs *>(arg[lane])->predicate) result |= 1u << lane;
    for (int lane = 0; lane < WARP; lane++)
        if (lanes >> lane & 1) static_cast<BallotArgs *>(arg[lane])->result = result;
}

uint32_t warp_ballot(uint32_t mask, bool predicate, Site site) {
    BallotArgs a = { predicate, 0 };
    collective("a ballot", mask, site, ballot_work, &a, __builtin_return_address(0));
    return a.result;
}

static void sync_work(Warp &w, uint32_t lanes, void **) {
    if (!options.check) return;
    std::vector<uint32_t> all(machine->agents);
    for (int lane = 0; lane < WARP; lane++)
        if (lanes >> lane & 1) clocks_join(all.data(), thread_clocks(w.lane[lane]));
    for (int lane = 0; lane < WARP; lane++) {
        if (!(lanes >> lane & 1)) continue;
        clocks_join(thread_clocks(w.lane[lane]), all.data());
        thread_release(w.lane[lane]);
    }
}

void warp_sync(Site site, uint32_t mask) {
    collective("__syncwarp", mask, site, sync_work, nullptr, __builtin_return_address(0));
}
}  // namespace emu
