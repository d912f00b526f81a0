// core/stop.c - signals that ask a program to stop.
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

#include "core/base.h"

static volatile sig_atomic_t requested;
static const int caught[] = { SIGINT, SIGTERM, SIGUSR1 };

static void on_signal(int s) {
    if (requested) _exit(128 + s);
    requested = s;
}

static void handle(void (*handler)(int)) {
    struct sigaction a = { .sa_handler = handler, .sa_flags = SA_RESTART };
    for (size_t i = 0; i < sizeof caught / sizeof caught[0]; i++) sigaction(caught[i], &a, NULL);
}

void stop_catch(void) { handle(on_signal); }
void stop_release(void) { handle(SIG_DFL); }
bool stop_requested(void) { return requested != 0; }
