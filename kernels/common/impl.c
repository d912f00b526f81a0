// kernels/common/impl.c - finding implementations in the lists that the build writes.
#include <string.h>
#include "kernels/common/kernel.h"

const Impl *impl_next(const Launcher *l, const Impl *after) {
    bool found = after == NULL;
    for (int i = 0; impl_lists[i]; i++) {
        for (size_t j = 0; j < impl_lists[i]->count; j++) {
            const Impl *impl = &impl_lists[i]->impl[j];
            if (found && strcmp(impl->launcher, l->name) == 0) return impl;
            if (impl == after) found = true;
        }
    }
    return NULL;
}

bool impl_is_vendor(const Impl *i) {
    return strncmp(i->name, "cudnn", 5) == 0 || strncmp(i->name, "cublas", 6) == 0 || impl_draws_others(i);
}

bool impl_draws_others(const Impl *i) { return strcmp(i->name, "curand") == 0; }

static bool cc_fits(const Impl *i, int cc) { return cc >= i->min_cc && (!i->exact_cc || cc == i->exact_cc); }

const Impl *impl_find(const Launcher *l, DeviceKind kind, int cc, const void *shape, const char *name) {
    const Impl *best = NULL;
    for (const Impl *i = impl_next(l, NULL); i; i = impl_next(l, i)) {
        if (i->kind != kind || !cc_fits(i, cc) || !l->can(i, shape)) continue;
        if (name && strcmp(name, IMPL_VENDOR) == 0) {
            if (impl_is_vendor(i) && (!best || i->order > best->order)) best = i;
        } else if (name) {
            if (strcmp(i->name, name) == 0) return i;
        } else if (i->order >= 0 && (!best || i->order < best->order)) {
            best = i;
        }
    }
    return best;
}
