// kernels/common/plan.h - what a product on tensor cores takes by the machine's limits: the model by which kernels
// choose tiles and splits, and cbdm bench --list --plans judges the choice. Nothing here is measured.
//
// Tiles are multiplied in rounds of one per multiprocessor. A tile is bound by its multiply-adds, at a share of the
// peak that falls with the multiply-adds for each element of an operand, m n / (m + n): assumed as 1 at 128 x 256 and
// 0.6 at 64 x 64; or by what it copies from L2. Blocks of a multiprocessor fill their pipelines and store their sums
// beside each other; else every round waits for that. Parts of sums that go through L2, and kernels, cost what is
// written below. Where phases of a product differ in length all count as the average.
#ifndef KERNELS_PLAN_H
#define KERNELS_PLAN_H
#include "kernels/common/kernel.h"

// FLOP/s and bytes/s within reach.
typedef struct { const char *name; int cc, multiprocessors; double product, plain, memory, l2; } Machine;
static const Machine machine_h200 = { "H200", 90, 132, 790e12, 60e12, 4.3e12, 5.5e12 };
static const Machine machine_a100 = { "A100", 80, 108, 250e12, 18e12, 1.8e12, 3.8e12 };
#define PLAN_ROUND  1.2e-6              // seconds: filling a pipeline, storing a tile's sums
#define PLAN_KERNEL 1.0e-6              // from a kernel to the next
#define PLAN_MEMORY 0.85                // of `memory`, where a kernel does nothing else
static inline double plan_peak(const ImplPlan *p, const Machine *on) { return p->plain ? on->plain : on->product; }

static inline double plan_share_of_peak(const ImplPlan *p) {
    static const double at[][2] = { { 32, 0.6 }, { 43, 0.75 }, { 51, 0.85 }, { 64, 0.92 }, { 77, 0.97 }, { 85, 1 } };
    enum { LAST = sizeof at / sizeof at[0] - 1 };
    double x = (double)p->m * p->n / (p->m + p->n);
    if (x >= at[LAST][0]) return at[LAST][1];
    int i = 0;
    while (i < LAST - 1 && x > at[i + 1][0]) i++;
    return at[i][1] + (x - at[i][0]) * (at[i + 1][1] - at[i][1]) / (at[i + 1][0] - at[i][0]);
}
// Clusters lie within groups of 16 or 18 multiprocessors; of more than two blocks some may be left over.
static inline int64_t plan_clusters(int together, const Machine *on) {
    return together > 2 ? on->multiprocessors / 16 * (16 / together) : on->multiprocessors / together;
}
static inline int64_t plan_rounds(const ImplPlan *p, const Machine *on) {
    int64_t clusters = plan_clusters(p->together, on);
    return (p->blocks / p->together + clusters - 1) / clusters;
}
// Of the product and its kernels, without the others.
static inline double plan_seconds(const ImplPlan *p, const Machine *on) {
    double multiply = p->flops / (plan_peak(p, on) * plan_share_of_peak(p)), copy = p->l2_bytes / on->l2;
    int64_t rounds = plan_rounds(p, on), waits = (rounds + p->at_once - 1) / p->at_once;
    return (double)rounds * on->multiprocessors * (multiply > copy ? multiply : copy) + (double)waits * PLAN_ROUND +
           p->beside_bytes / on->l2 + (1 + p->beside) * PLAN_KERNEL;
}
#endif
