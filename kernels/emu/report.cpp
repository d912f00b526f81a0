// kernels/emu/report.cpp - faults: counted, printed once per place, and named by their line in the .cu file.
#include <cstdarg>
#include <cstdio>
#include <mutex>
#include <set>
#include <string>

#include "kernels/emu/internal.h"

namespace emu {
static std::recursive_mutex lock;
static int faults;
static std::set<std::string> texts;         // never forgotten: the Status of a stream points to one
static std::vector<const char *> lines;     // of the different faults, as printed
static std::set<std::string> known;         // kind and place: a fault in a loop is one line, not thousands

const char *path_short(const char *path) {
    for (const char *folder : { "/kernels/", "/tests/" }) {
        const char *last = nullptr;
        for (const char *p = path; (p = strstr(p, folder)); p++) last = p;
        if (last) return last + 1;
    }
    return path;
}

// Texts of places and threads are used several to a line: each call takes the next of a few buffers.
static char *text_buffer() {
    static thread_local char buffers[8][400];
    static thread_local unsigned next;
    return buffers[next++ % 8];
}

const char *site_text(Site s) {
    char *t = text_buffer();
    snprintf(t, 400, "%s:%d", path_short(s.file), s.line);
    return t;
}

const char *thread_text(const Thread *th) {
    char *t = text_buffer();
    const Block *b = th->block;
    snprintf(t, 400, "block %u,%u,%u thread %u,%u,%u", b->index.x, b->index.y, b->index.z, th->index.x, th->index.y,
             th->index.z);
    return t;
}

const char *place_text(const void *pc) {
    std::lock_guard<std::recursive_mutex> hold(lock);
    char *t = text_buffer();
    snprintf(t, 400, "%s", place_name(pc).c_str());
    return t;
}

void report(const char *kind, const void *pc, const char *format, ...) {
    std::lock_guard<std::recursive_mutex> hold(lock);
    char text[1200];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    std::string line = std::string("emu: ") + kind;
    if (machine) {                      // LAUNCH's spelling of the kernel is in parentheses
        std::string name = machine->launch->name;
        line += " in " + (name.front() == '(' ? name.substr(1, name.size() - 2) : name);
    }
    std::string key = line;
    if (pc) {
        line += std::string(" at ") + place_text(pc);
        key = line;
        if (current) line += std::string(", ") + thread_text(current);
    }
    line += std::string(": ") + text;
    faults++;
    if (!known.insert(pc ? key : line).second) return;
    lines.push_back(texts.insert(line).first->c_str());
    if (!options.quiet) fprintf(stderr, "%s\n", line.c_str());
}
}  // namespace emu

extern "C" {
int emu_faults(void) { return emu::faults; }
void emu_clear(void) {
    std::lock_guard<std::recursive_mutex> hold(emu::lock);
    emu::faults = 0;
    emu::lines.clear();
    emu::known.clear();
}
const char *emu_fault(int i) { return (size_t)i < emu::lines.size() ? emu::lines[(size_t)i] : nullptr; }
const char *emu_first_fault(void) { return emu::lines.empty() ? "" : emu::lines[0]; }
}
