// tests/roofline.h - what a launcher's plan leaves of the machine's limits, by the model of kernels/common/plan.h.
#ifndef TESTS_ROOFLINE_H
#define TESTS_ROOFLINE_H
#include "core/device.h"
#include "kernels/common/describe.h"
// One line about the implementation that the device takes for the shape; nothing if it tells no plan.
void roofline_print(const Device *d, const Description *what, const void *shape, const char *with);
#endif
