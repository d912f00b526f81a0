// tests/alloc_shim.c - loaded before libc: the n-th request for memory finds none.
//
// Environment:  ALLOC_SHIM       N STICKY WHO: request number N of WHO finds none, and if STICKY is 1 nor do its later
//                                ones; N = 0: all find some
//               ALLOC_SHIM_LOG   file that gets, of the request that failed, "FAILED MODULE+OFFSET", and at the end the
//                                number of WHO's requests
// WHO: a beginning of a library's file name, or "program": the program and all libraries that are not named in
// `by_themselves`. Requests count from main() on: before, there are the loader, and
// constructors of what is linked in, such as those of NVIDIA's runtime, which do not look at what they are given.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static const char *const by_themselves[] = { "ld-linux", "libgomp", "libstdc++", "libdnnl", "libopenblas" };

enum { MODULES = 64 };
typedef struct { uintptr_t begin, end; const char *name; bool counts; } Module;
static Module module[MODULES];
static int n_modules;
static _Atomic long count;
static long fail_at = -1;                       // -1: the environment has not been read
static bool sticky, begun;
static char who[32];

static int add_module(struct dl_phdr_info *info, size_t size, void *first) {
    (void)size;
    if (n_modules == MODULES) return 1;
    Module *m = &module[n_modules];
    m->begin = UINTPTR_MAX;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type != PT_LOAD) continue;
        uintptr_t begin = info->dlpi_addr + p->p_vaddr;
        if (begin < m->begin) m->begin = begin;
        if (begin + p->p_memsz > m->end) m->end = begin + p->p_memsz;
    }
    const char *slash = strrchr(info->dlpi_name, '/');
    m->name = *(bool *)first ? "program" : slash ? slash + 1 : info->dlpi_name;
    *(bool *)first = false;
    bool rest = strcmp(who, "program") == 0;
    m->counts = rest || strncmp(m->name, who, strlen(who)) == 0;
    for (size_t i = 0; rest && i < sizeof by_themselves / sizeof *by_themselves; i++)
        if (strncmp(m->name, by_themselves[i], strlen(by_themselves[i])) == 0) m->counts = false;
    n_modules++;
    return 0;
}

// Asks the loader once, before there are threads.
static Module *module_of(uintptr_t at) {
    bool first = true;
    if (!n_modules) dl_iterate_phdr(add_module, &first);
    for (int i = 0; i < n_modules; i++)
        if (at >= module[i].begin && at < module[i].end) return &module[i];
    return NULL;
}

__attribute__((format(printf, 1, 2)))
static void say(const char *fmt, ...) {
    const char *path = getenv("ALLOC_SHIM_LOG");
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    if (fd < 0) return;
    char line[256];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    syscall(SYS_write, fd, line, n > 0 ? (size_t)n : 0);
    syscall(SYS_close, fd);
}

__attribute__((destructor)) static void report(void) { say("%ld\n", (long)count); }

static bool fails(const void *caller) {
    if (fail_at < 0) {
        int also_later = 0;
        const char *text = getenv("ALLOC_SHIM");
        fail_at = 0;
        if (!text || sscanf(text, "%ld %d %31s", &fail_at, &also_later, who) != 3) fail_at = 0;
        sticky = also_later;
    }
    const Module *m = module_of((uintptr_t)caller);
    if (!begun || !m || !m->counts) return false;
    long n = ++count;
    if (!fail_at || n < fail_at || (n > fail_at && !sticky)) return false;
    if (n == fail_at) say("FAILED %s+%#lx\n", m->name, (unsigned long)((uintptr_t)caller - m->begin));
    errno = ENOMEM;
    return true;
}

typedef int Main(int argc, char **argv, char **environment);
typedef int Start(Main *m, int argc, char **argv, void (*init)(void), void (*fini)(void), void (*last)(void),
                  void *end);
static Main *program_main;
static int begin_main(int argc, char **argv, char **environment) {
    begun = true;
    return program_main(argc, argv, environment);
}
Start __libc_start_main;
int __libc_start_main(Main *m, int argc, char **argv, void (*init)(void), void (*fini)(void), void (*last)(void),
                      void *end) {
    Start *start = (Start *)(uintptr_t)dlsym(RTLD_NEXT, "__libc_start_main");
    program_main = m;
    return start(begin_main, argc, argv, init, fini, last, end);
}

void *malloc(size_t n) { return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(n); }
void *calloc(size_t n, size_t size) { return fails(__builtin_return_address(0)) ? NULL : __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { return fails(__builtin_return_address(0)) ? NULL : __libc_realloc(p, n); }
void *memalign(size_t to, size_t n) { return fails(__builtin_return_address(0)) ? NULL : __libc_memalign(to, n); }
void *aligned_alloc(size_t to, size_t n) { return fails(__builtin_return_address(0)) ? NULL : __libc_memalign(to, n); }

int posix_memalign(void **p, size_t to, size_t n) {
    if (fails(__builtin_return_address(0))) return ENOMEM;
    *p = __libc_memalign(to, n);
    return *p ? 0 : ENOMEM;
}
