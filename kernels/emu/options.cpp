// kernels/emu/options.cpp - the modes of the emulation, and their first values from the environment.
#include <cstdio>
#include <cstdlib>

#include "kernels/emu/internal.h"

namespace emu {
// Without instrumented kernels the checker would see some accesses only, and believe the wrong of the others.
#ifdef EMU_CHECKED
constexpr bool CAN_CHECK = true;
#else
constexpr bool CAN_CHECK = false;
#endif

static bool option_is(const char *word, size_t n, const char *name) {
    return strlen(name) == n && !strncmp(word, name, n);
}

// "schedule=random,seed=7,eager=1,check=0,threads=2". A word that means nothing ends the program: a test that believes
// to run under another schedule would be worse.
static EmuOptions options_read() {
    EmuOptions o = { EMU_NATURAL, 1, false, CAN_CHECK, false, 1 };
    const char *word = getenv("CBDM_EMU");
    while (word && *word) {
        size_t n = strcspn(word, ",");
        const char *value = static_cast<const char *>(memchr(word, '=', n));
        size_t name = value ? (size_t)(value - word) : n, length = value ? n - name - 1 : 0;
        if (value) value++;
        long number = value ? strtol(value, nullptr, 10) : 0;
        bool good = true;
        if (option_is(word, name, "schedule") && value) {
            if (option_is(value, length, "natural")) o.schedule = EMU_NATURAL;
            else if (option_is(value, length, "reverse")) o.schedule = EMU_REVERSE;
            else if (option_is(value, length, "random")) o.schedule = EMU_RANDOM;
            else good = false;
        } else if (option_is(word, name, "seed") && value) o.seed = (uint64_t)number;
        else if (option_is(word, name, "eager") && value) o.eager = number != 0;
        else if (option_is(word, name, "check") && value) o.check = CAN_CHECK && number != 0;
        else if (option_is(word, name, "threads") && value && number >= 1 && number <= 64) o.threads = (int)number;
        else good = false;
        if (!good) {
            fprintf(stderr, "CBDM_EMU: %.*s is not understood: it takes schedule=natural|reverse|random, seed=N, "
                    "eager=0|1, check=0|1, threads=1..64, with commas between\n", (int)n, word);
            exit(2);
        }
        word += n;
        word += *word == ',';
    }
    return o;
}

EmuOptions options = options_read();
}  // namespace emu

extern "C" EmuOptions *emu_options(void) { return &emu::options; }
