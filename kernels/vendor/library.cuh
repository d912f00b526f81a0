// kernels/vendor/library.cuh - NVIDIA's libraries, opened when first called.
//
// cuBLASLt alone is half a gigabyte, whose loading takes a program longer than most of cbdm's verbs run; and a program
// that is linked with it does not start where it is missing. So functions are looked up by name, in the library that
// CMake found or else in one of the same version that the loader finds. A look-up costs less than a microsecond.
#ifndef KERNELS_VENDOR_LIBRARY_CUH
#define KERNELS_VENDOR_LIBRARY_CUH
#include <dlfcn.h>

static inline void *library_open(const char *file, const char *name) {
    void *l = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    return l ? l : dlopen(name, RTLD_NOW | RTLD_LOCAL);
}
// Function f of an open library, with the type that its header gives it.
#define LIBRARY_CALL(library, f) (reinterpret_cast<decltype(&f)>(dlsym(library, #f)))
#endif
