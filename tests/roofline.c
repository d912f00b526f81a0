// tests/roofline.c - cbdm bench --list --plans: plans beside the roofline.
//
// The roofline of a shape is the larger of two times, of its multiply-adds at the peak and of its arrays, each read or
// written once, at the memory's rate, and what no kernel can do without: one round of tiles, one launch. The model's
// time is plan_seconds() of the plan, but not below the arrays' at the share of the rate that a kernel reaches. Kernels
// that a launcher needs for something else, sums of dy or folding filters, are passes over arrays, and stand apart.
#include "roofline.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/common/plan.h"

static double bytes_of(const Description *what, const void *shape, const char *with) {
    Arrays list = { .n = 0 };
    double sum = 0;
    what->arrays(shape, &list);
    for (int i = 0; i < list.n; i++) {
        const Array *a = &list.array[i];
        if (a->optional && strcmp(with, "all") != 0 && !strstr(with, a->name)) continue;
        sum += (double)array_numel(a) * (double)array_type_size(a->type);
    }
    return sum;
}

void roofline_print(const Device *d, const Description *what, const void *shape, const char *with) {
    const Machine *on = device_cc(d) == machine_h200.cc ? &machine_h200 : &machine_a100;
    const Impl *impl = impl_find(what->launcher, device_kind(d), device_cc(d), shape, NULL);
    ImplPlan plan = { .tile = NULL };
    if (!impl || !what->launcher->plan(impl, shape, &plan) || !plan.blocks) return;
    double multiply = what->flops(shape) / plan_peak(&plan, on), move = bytes_of(what, shape, with) / on->memory;
    double roofline = fmax(multiply, move) + PLAN_ROUND + PLAN_KERNEL;
    double moving = move / PLAN_MEMORY + PLAN_ROUND + (1 + plan.beside) * PLAN_KERNEL;
    double seconds = fmax(plan_seconds(&plan, on), moving);
    double others = plan.others_bytes / (PLAN_MEMORY * on->memory) + plan.others * PLAN_KERNEL;
    printf("  %s: %s %s, %lld blocks, clusters of %d, %lld rounds, %d splits; %.1f us, roofline %.1f: %.0f%%", on->name,
           impl->name, plan.tile, (long long)plan.blocks, plan.together, (long long)plan_rounds(&plan, on), plan.splits,
           seconds * 1e6, roofline * 1e6, 100 * roofline / seconds);
    if (plan.others) printf("; %d other kernels, %.1f us", plan.others, others * 1e6);
    putchar('\n');
}
