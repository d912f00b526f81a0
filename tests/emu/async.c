// tests/emu/async.c - runs async.cu's kernels: every planted fault must be reported, with its kind and its line in
// async.cu; the right kernels must give no report and the same right values under every schedule.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/common/bf16.h"
#include "kernels/emu/host.h"
#include "tests/emu/async.h"

enum { IN_BYTES = 2 * 64 * 64 * 2 * ASYNC_STEPS, OUT_BYTES = 16384 };

// kind NULL: found by the values alone.
typedef struct { int fault; const char *name, *kind; } Planted;
static const Planted planted[] = {
    { COPY_RIGHT, "copy", NULL },
    { COPY_NO_WAIT, "copy_no_wait", "in-flight" },
    { COPY_WAIT_SHORT, "copy_wait_short", "in-flight" },
    { COPY_NO_BARRIER, "copy_no_barrier", "race" },
    { COPY_NO_TRAILING_BARRIER, "copy_no_trailing_barrier", "race" },
    { COPY_UNWAITED, "copy_unwaited", "async-unwaited" },
    { RING_RIGHT, "ring", NULL },
    { RING_NO_INIT_BARRIER, "ring_no_init_barrier", "mbarrier-init-race" },
    { RING_NO_EMPTY_WAIT, "ring_no_empty_wait", "mbarrier-overarrive" },
    { RING_NO_FULL_WAIT, "ring_no_full_wait", "in-flight" },
    { RING_WRONG_PARITY, "ring_wrong_parity", "in-flight" },
    { RING_EARLY_RELEASE, "ring_early_release", "race" },
    { RING_BYTES_SHORT, "ring_bytes_short", "mbarrier-bytes" },
    { RING_BYTES_LONG, "ring_bytes_long", "mbarrier-bytes" },
    { RING_WRONG_SWIZZLE, "ring_wrong_swizzle", NULL },
    { RING_NO_WGMMA_FENCE, "ring_no_wgmma_fence", "wgmma-fence" },
    { STORED_RIGHT, "stored", NULL },
    { STORED_NO_PROXY_FENCE, "stored_no_proxy_fence", "missing-proxy-fence" },
    { STORED_OVERWRITE, "stored_overwrite", "operand-overwrite" },
    { STORED_READ_EARLY, "stored_read_early", NULL },
    { STORED_UNWAITED, "stored_unwaited", "async-unwaited" },
    { STORE_RIGHT, "store", NULL },
    { STORE_NO_PROXY_FENCE, "store_no_proxy_fence", "missing-proxy-fence" },
    { STORE_NOT_READ, "store_not_read", "operand-overwrite" },
    { STORE_UNWAITED, "store_unwaited", "async-unwaited" },
    { PEER_RIGHT, "peer", NULL },
    { PEER_BLOCK_BARRIER, "peer_block_barrier", "race" },
    { PEER_NO_LAST_SYNC, "peer_no_last_sync", "race" },
    { PEER_NO_WAIT, "peer_no_wait", "race" },
    { PEER_WAIT_SCOPE, "peer_wait_scope", "mbarrier-scope" },
};
enum { PLANTED = sizeof planted / sizeof *planted };
static bool is_right(int fault) {
    return fault == COPY_RIGHT || fault == RING_RIGHT || fault == STORED_RIGHT || fault == STORE_RIGHT ||
           fault == PEER_RIGHT;
}

// ---- the right values
static float half_at(const uint8_t *in, size_t i) { return bf16_to_float(((const uint16_t *)in)[i]); }
static void copy_expect(const uint8_t *in, uint8_t *out) {
    const uint32_t *w = (const uint32_t *)in;
    for (int t = 0; t < 64; t++) {
        uint32_t sum = 0;
        for (int i = 0; i < ASYNC_STAGES; i++) {
            const uint32_t *v = w + (i * 64 + 63 - t) * 4;
            sum += v[0] ^ v[1] ^ v[2] ^ v[3];
        }
        ((uint32_t *)out)[t] = sum;
    }
}
static void ring_expect(const uint8_t *in, uint8_t *out) {
    size_t depth = 64 * ASYNC_STEPS;
    for (size_t i = 0; i < 64; i++) {
        for (size_t j = 0; j < 64; j++) {
            float sum = 0;
            for (size_t k = 0; k < depth; k++) sum += half_at(in, i * depth + k) * half_at(in, (64 + j) * depth + k);
            ((float *)out)[i * 64 + j] = sum;
        }
    }
}
// Element (mn, k) of a plain operand: core matrices of 8 rows of 8, k after k, then mn after mn.
static size_t core_element(size_t mn, size_t k) { return mn / 8 * 128 + k / 8 * 64 + mn % 8 * 8 + k % 8; }
static void stored_expect(const uint8_t *in, uint8_t *out) {
    for (size_t t = 0; t < 128; t++) {
        for (size_t r = 0; r < 32; r++) {
            size_t i = t / 32 * 16 + t % 32 / 4 + r / 2 % 2 * 8, j = r / 4 * 8 + t % 4 * 2 + r % 2;
            float sum = 0;
            for (size_t k = 0; k < 16; k++)
                sum += half_at(in, core_element(i, k)) * half_at(in, 1024 + core_element(j, k));
            ((float *)out)[r * 128 + t] = sum;
        }
    }
}
static void store_expect(const uint8_t *in, uint8_t *out) { memcpy(out, in, 2048); }
static void peer_expect(const uint8_t *in, uint8_t *out) {
    for (int i = 0; i < 256; i++) memcpy(out + 4 * i, in + 4 * (127 - i % 128), 4);
}
static size_t expect(int fault, const uint8_t *in, uint8_t *out) {      // the bytes that are written
    if (fault < RING_RIGHT)   { copy_expect(in, out); return 256; }
    if (fault < STORED_RIGHT) { ring_expect(in, out); return 16384; }
    if (fault < STORE_RIGHT)  { stored_expect(in, out); return 16384; }
    if (fault < PEER_RIGHT)   { store_expect(in, out); return 2048; }
    peer_expect(in, out);
    return 1024;
}

// ---- running
static uint8_t in[IN_BYTES], out[OUT_BYTES], expected[OUT_BYTES];
static char faults[1 << 16];                                 // the text of the reports of a run

// Runs with stderr caught. False: other values than the right ones.
static bool run(int fault) {
    void *device_in = emu_malloc(IN_BYTES), *device_out = emu_malloc(OUT_BYTES);
    FILE *caught = tmpfile();
    int before = dup(2);
    CHECK(caught && before >= 0, "a temporary file");
    size_t bytes = expect(fault, in, expected);
    emu_host_write(device_in, in, IN_BYTES);
    emu_device_set(device_out, 0xCD, OUT_BYTES);
    emu_clear();
    fflush(stderr);
    dup2(fileno(caught), 2);
    async_run(fault, device_in, device_out);
    fflush(stderr);
    dup2(before, 2);
    close(before);
    emu_host_read(out, device_out, OUT_BYTES);
    rewind(caught);
    faults[fread(faults, 1, sizeof faults - 1, caught)] = 0;
    fclose(caught);
    emu_free(device_in);
    emu_free(device_out);
    return memcmp(out, expected, bytes) == 0;
}

// Is there a report of that kind whose first place is that line of async.cu?
static bool reported(const char *kind, int line) {
    char start[100], place[100];
    snprintf(start, sizeof start, "emu: %s in ", kind);
    snprintf(place, sizeof place, "emu/async.cu:%d", line);
    for (char *p = faults; *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : p + strlen(p)) {
        const char *end = strchr(p, '\n'), *at = strstr(p, " at "), *found = strstr(p, place);
        bool number_ends = found && !(found[strlen(place)] >= '0' && found[strlen(place)] <= '9');
        if (!strncmp(p, start, strlen(start)) && at && found && number_ends && found < at + 60 && (!end || found < end))
            return true;
    }
    return false;
}

// The line of async.cu that carries "at: ... NAME"; where it says "of the next line", the one after it. 0: none.
static int marked_line(const char *name) {
    char text[400];
    int line = 0, found = 0;
    FILE *f = fopen(TESTS_DIR "/emu/async.cu", "r");
    CHECK(f, "%s", TESTS_DIR "/emu/async.cu");
    while (!found && fgets(text, sizeof text, f)) {
        line++;
        int next = strstr(text, "of the next line") != NULL;
        char *names = strstr(text, " at: ");
        for (char *word = names ? strtok(names + 5, " \n") : NULL; word; word = strtok(NULL, " \n")) {
            if (!strcmp(word, name)) found = line + next;
        }
    }
    fclose(f);
    return found;
}

static int failures;
static void judge(bool good, const char *name, const char *what) {
    if (!good) {
        failures++;
        printf("%s: %s\n%s", name, what, faults);
    }
}

int main(void) {
    uint32_t state = 12345;
    for (size_t i = 0; i < IN_BYTES; i += 2) {
        state = state * 1664525u + 1013904223u;
        uint16_t h = bf16_from_float((float)(int)(state >> 16 & 7) - 3);
        memcpy(in + i, &h, 2);
    }
    EmuOptions *o = emu_options();
    for (int i = 0; i < PLANTED; i++) {
        const Planted *p = &planted[i];
        if (is_right(p->fault)) {
            for (int schedule = 0; schedule < 44; schedule++) {          // natural, reverse, random; late and eager
                o->schedule = schedule / 2 == 0 ? EMU_NATURAL : schedule / 2 == 1 ? EMU_REVERSE : EMU_RANDOM;
                o->seed = (uint64_t)schedule;
                o->eager = schedule % 2;
                judge(run(p->fault), p->name, "wrong values");
                judge(emu_faults() == 0, p->name, "reports of a right kernel");
            }
            o->schedule = EMU_NATURAL;
            o->eager = false;
            continue;
        }
        bool right = run(p->fault);
        if (!p->kind) {
            judge(!right, p->name, "the values hide the fault");
            continue;
        }
        int line = marked_line(p->name);
        CHECK(line, "async.cu marks no line for %s", p->name);
        judge(emu_faults() > 0, p->name, "no report");
        judge(reported(p->kind, line), p->name, "not reported as expected, with its line; instead:");
    }
    const char *wrong = async_map_refusals();
    faults[0] = 0;
    judge(!wrong, "tensor_map_tiled", wrong);
    emu_clear();
    printf("%d kernels, %d failures\n", PLANTED, failures);
    return failures != 0;
}
