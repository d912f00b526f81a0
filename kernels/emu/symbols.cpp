// kernels/emu/symbols.cpp - from an address in a kernel to its line in the .cu file.
//
// One addr2line process serves the whole run: it reads the debug information once, then answers each address within
// milliseconds; answers are kept. Without addr2line (or debug information) an offset in the program is shown.
#include <fcntl.h>
#include <link.h>
#include <spawn.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <unordered_map>

#include "kernels/emu/internal.h"

namespace emu {
static int  server = -1;                            // socket to addr2line; -1: none
static uintptr_t bias;                              // where the program was loaded, less where it was linked

static int bias_find(struct dl_phdr_info *info, size_t, void *) {
    bias = info->dlpi_addr;
    return 1;                                       // the first is the program itself
}

static void server_start() {
    static bool tried;
    if (tried) return;
    tried = true;
    dl_iterate_phdr(bias_find, nullptr);
    char program[4096];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    int ends[2];
    if (n < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)) return;
    program[n] = 0;
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, ends[1], 0);
    posix_spawn_file_actions_adddup2(&files, ends[1], 1);
    posix_spawn_file_actions_addopen(&files, 2, "/dev/null", O_WRONLY, 0);
    char tool[] = "addr2line", addresses[] = "-a", inlines[] = "-i", executable[] = "-e";
    char *argv[] = { tool, addresses, inlines, executable, program, nullptr };
    // Not under a preloaded library of the tests' own (io_shim): nothing but the path is handed on.
    std::string path = std::string("PATH=") + (getenv("PATH") ? getenv("PATH") : "/usr/bin:/bin");
    char *envp[] = { &path[0], nullptr };
    pid_t child;
    if (posix_spawnp(&child, tool, &files, nullptr, argv, envp) == 0) server = ends[0];
    else close(ends[0]);
    posix_spawn_file_actions_destroy(&files);
    close(ends[1]);
}

static bool line_read(std::string &line) {
    line.clear();
    for (char c; recv(server, &c, 1, 0) == 1;) {
        if (c == '\n') return true;
        line += c;
    }
    close(server);
    server = -1;
    return false;
}

static bool ends_with(const std::string &s, const char *end) {
    size_t n = strlen(end);
    return s.size() >= n && s.compare(s.size() - n, n, end) == 0;
}

// "FILE:LINE (discriminator 2)" to the short file and the line.
static std::string location_short(const std::string &line) {
    return path_short(line.substr(0, line.find(" (")).c_str());
}

// With -i an address has one line per function inlined there, the innermost first. The place is the first in a .cu
// file; the innermost is added when it is another one. The address 0, asked for behind, marks the end of the answer.
static std::string place_find(uintptr_t pc) {
    char text[64];
    snprintf(text, sizeof text, "program + 0x%zx", (size_t)(pc - bias));
    int n = snprintf(text + 32, 32, "%zx\n0\n", (size_t)(pc - bias));
    std::string unknown = text, line, innermost, place;
    if (server < 0 || send(server, text + 32, (size_t)n, MSG_NOSIGNAL) != n || !line_read(line)) return unknown;
    while (line_read(line) && line.compare(0, 2, "0x") != 0) {
        std::string here = location_short(line);
        if (innermost.empty()) innermost = here;
        if (place.empty() && ends_with(here.substr(0, here.rfind(':')), ".cu")) place = here;
    }
    if (server < 0 || !line_read(line) || innermost.empty() || innermost.compare(0, 2, "??") == 0) return unknown;
    if (place.empty() || place == innermost) return innermost;
    return place + " (" + innermost + ")";
}

std::string place_name(const void *pc) {
    static std::unordered_map<const void *, std::string> known;
    auto found = known.find(pc);
    if (found != known.end()) return found->second;
    server_start();
    return known[pc] = place_find((uintptr_t)pc - 1);       // pc is behind the call
}
}  // namespace emu
