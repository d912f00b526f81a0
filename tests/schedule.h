// tests/schedule.h - in which order the emulator takes blocks and threads, for checks that want the same bits in each.
#ifndef TESTS_SCHEDULE_H
#define TESTS_SCHEDULE_H
#include <stdbool.h>
#ifdef CBDM_EMU
#include "kernels/emu/host.h"
#endif
// 0: as CBDM_EMU says, natural if it says nothing; 1: reverse; more: random by that seed. With an odd number
// asynchronous copies and products are done as early as they can be, else as late.
static inline void choose_schedule(int schedule) {
#ifdef CBDM_EMU
    static EmuOptions given;
    static bool known;
    if (!known) given = *emu_options();
    known = true;
    EmuOptions o = given;
    if (schedule) o.schedule = schedule == 1 ? EMU_REVERSE : EMU_RANDOM;
    if (schedule) o.eager = schedule % 2 == 1;
    if (schedule > 1) o.seed = (uint64_t)schedule;
    *emu_options() = o;
#else
    (void)schedule;
#endif
}
#endif
