// tests/emu/planted.c - runs planted.cu: every wrong kernel must be reported, with its kind and its lines, in natural
// order already; every right one must give no report and the same bits in every order of threads and blocks.
#include "tests/emu/planted.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/emu/host.h"

enum { BYTES = PLANTED_FLOATS * 4, RANDOM_ORDERS = 20 };
static float values[PLANTED_FLOATS], results[PLANTED_FLOATS], first[PLANTED_FLOATS];

static void run(const Planted *p, bool wrong) {
    float *in = emu_malloc(BYTES), *out = emu_malloc(BYTES);
    emu_host_write(in, values, BYTES);
    emu_device_set(out, 0, BYTES);
    emu_clear();
    emu_windows(NULL, 0);
    p->run[wrong](in, out, values);
    emu_windows(NULL, 0);
    emu_host_read(results, out, BYTES);
    emu_free(in);
    emu_free(out);
}

// The line of planted.cu whose comment has this mark; 0: none.
static int marked_line(const char *mark) {
    char text[400];
    int line = 0;
    FILE *f = fopen(TESTS_DIR "/emu/planted.cu", "r");
    CHECK(f, "%s", TESTS_DIR "/emu/planted.cu");
    for (bool found = false; !found && fgets(text, sizeof text, f); line++) {
        char *marks = strstr(text, "// at: ");
        for (char *word = marks ? strtok(marks + 7, " \n") : NULL; word; word = strtok(NULL, " \n"))
            found |= strcmp(word, mark) == 0;
        if (found) {
            fclose(f);
            return line + 1;
        }
    }
    fclose(f);
    return 0;
}

static bool names_line(const char *report, int line) {
    char place[100];
    int n = snprintf(place, sizeof place, "emu/planted.cu:%d", line);
    const char *found = strstr(report, place);
    return line == 0 || (found && (found[n] < '0' || found[n] > '9'));
}

// Is there a report of that kind that names those lines (0: any)?
static bool reported(const char *kind, int line, int second) {
    char start[100];
    int n = snprintf(start, sizeof start, "emu: %s", kind);
    const char *report;
    for (int i = 0; (report = emu_fault(i)); i++)
        if (!strncmp(report, start, (size_t)n) && strchr(" :", report[n]) && names_line(report, line) &&
            names_line(report, second)) return true;
    return false;
}

static int failures;
static void judge(bool good, const Planted *p, const char *what) {
    if (good) return;
    failures++;
    printf("%s: %s\n", p->name, what);
    for (int i = 0; emu_fault(i); i++) printf("    %s\n", emu_fault(i));
}

static void check_right(const Planted *p) {
    for (int order = 0; order < RANDOM_ORDERS + 2; order++) {
        EmuOptions *o = emu_options();
        o->schedule = order == 0 ? EMU_NATURAL : order == 1 ? EMU_REVERSE : EMU_RANDOM;
        o->seed = (uint64_t)order;
        run(p, false);
        judge(emu_faults() == 0, p, "the right kernel is reported");
        if (order == 0) memcpy(first, results, sizeof first);
        judge(memcmp(first, results, sizeof first) == 0, p, "other bits in another order");
    }
}

static void check_wrong(const Planted *p) {
    char mark[100];
    snprintf(mark, sizeof mark, "%s_2", p->name);
    int line = marked_line(p->name), second = p->two ? marked_line(mark) : 0;
    CHECK(line || !strcmp(p->kind, "unwritten-output"), "planted.cu marks no line for %s", p->name);
    CHECK(second || !p->two, "planted.cu marks no line for %s", mark);
    emu_options()->schedule = EMU_NATURAL;
    run(p, true);
    judge(reported(p->kind, line, second), p, "not reported as expected, but:");
}

int main(void) {
    EmuOptions *o = emu_options();
    o->quiet = true;
    o->check = true;
    for (int i = 0; i < PLANTED_FLOATS; i++) values[i] = (float)(i * 37 % 101) / 101.0f;
    for (int i = 0; i < planted_count; i++) {
        check_right(&planted[i]);
        check_wrong(&planted[i]);
    }
    emu_clear();
    printf("%d kernels, each right and wrong: %d failures\n", planted_count, failures);
    return failures != 0;
}
