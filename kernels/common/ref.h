// kernels/common/ref.h - what the reference implementations share: the accumulator type and typed loads and stores.
//
// Every *_ref.c is compiled three times: REF stores float and adds in double, REF32 stores and adds in float, REF64
// stores and adds in double. `acc` is the type of every sum and every intermediate value.
#ifndef KERNELS_REF_H
#define KERNELS_REF_H
#include <math.h>
#include "kernels/common/bf16.h"
#include "kernels/common/types.h"
typedef KERNEL_ACC acc;

static inline acc ref_load(const void *p, DType dt, int64_t i) {
    if (dt == DT_BF16) return (acc)bf16_to_float(((const uint16_t *)p)[i]);
    return (acc)((const real *)p)[i];
}
static inline void ref_store(void *p, DType dt, int64_t i, acc v) {
    if (dt == DT_BF16) ((uint16_t *)p)[i] = bf16_from_float((float)v);
    else ((real *)p)[i] = (real)v;
}
// v as it would be read back after being stored as dt: the rounding points that contracts speak of.
static inline acc ref_round(DType dt, acc v) {
    return dt == DT_BF16 ? (acc)bf16_to_float(bf16_from_float((float)v)) : (acc)(real)v;
}
static inline acc ref_sigmoid(acc x) { return (acc)(1.0 / (1.0 + exp(-(double)x))); }
static inline acc ref_silu(acc x) { return x * ref_sigmoid(x); }
static inline acc ref_silu_slope(acc x) {
    acc s = ref_sigmoid(x);
    return s * (1 + x * (1 - s));
}
static inline bool ref_bit(const uint8_t *mask, int64_t i) { return (mask[i / 8] >> (i % 8)) & 1; }
#endif
