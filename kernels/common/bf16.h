// kernels/common/bf16.h - bfloat16 on the host: the upper half of a float, rounded to nearest even.
#ifndef KERNELS_BF16_H
#define KERNELS_BF16_H
#include <stdint.h>
#include <string.h>
static inline float bf16_to_float(uint16_t h) {
    uint32_t b = (uint32_t)h << 16;
    float f;
    memcpy(&f, &b, 4);
    return f;
}
static inline uint16_t bf16_from_float(float f) {
    uint32_t b;
    memcpy(&b, &f, 4);
    if ((b & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(b >> 16 | 0x40);   // NaN stays NaN
    return (uint16_t)((b + 0x7FFFu + (b >> 16 & 1u)) >> 16);
}
#endif
