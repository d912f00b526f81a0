// tests/emu/probe.cu - kernels of the conformance program for the words of mma.cuh: fragments, ldmatrix, cp.async.
#include "kernels/common/mma.cuh"
#include "tests/emu/probe.h"

// One warp. The rows come into shared memory by plain stores.
template <int MATRICES, bool TRANSPOSED> static __global__ void ldmatrix_kernel(const uint4 *in, uint32_t *out) {
    SHARED(uint4, rows, PROBE_ROWS);
    int lane = (int)threadIdx.x;
    for (int i = lane; i < PROBE_ROWS; i += 32) rows[i] = in[i];
    __syncwarp();
    const uint4 *row = &rows[reinterpret_cast<const int *>(in + PROBE_ROWS)[lane]];
    uint32_t r[4] = { 0xCDCDCDCDu, 0xCDCDCDCDu, 0xCDCDCDCDu, 0xCDCDCDCDu };
    if (MATRICES == 4 && !TRANSPOSED) LDMATRIX_X4(r, row);
    if (MATRICES == 4 && TRANSPOSED)  LDMATRIX_X4_TRANS(r, row);
    if (MATRICES == 2 && !TRANSPOSED) LDMATRIX_X2(r, row);
    if (MATRICES == 2 && TRANSPOSED)  LDMATRIX_X2_TRANS(r, row);
    for (int i = 0; i < 4; i++) out[4 * lane + i] = r[i];
}
PROBE(ldmatrix) {
    const uint4 *rows = (const uint4 *)in;
    uint32_t *r = (uint32_t *)out;
    if (arg[0] == 4 && arg[1])  LAUNCH(s, (ldmatrix_kernel<4, true>), 1, 32, 0, rows, r);
    if (arg[0] == 4 && !arg[1]) LAUNCH(s, (ldmatrix_kernel<4, false>), 1, 32, 0, rows, r);
    if (arg[0] == 2 && arg[1])  LAUNCH(s, (ldmatrix_kernel<2, true>), 1, 32, 0, rows, r);
    if (arg[0] == 2 && !arg[1]) LAUNCH(s, (ldmatrix_kernel<2, false>), 1, 32, 0, rows, r);
}

// in: per lane four words of a, two of b, four floats of d.
static __global__ void mma_kernel(const uint32_t *in, float *out) {
    int lane = (int)threadIdx.x;
    uint32_t a[4], b[2];
    float d[4];
    for (int i = 0; i < 4; i++) a[i] = in[lane * 10 + i];
    for (int i = 0; i < 2; i++) b[i] = in[lane * 10 + 4 + i];
    for (int i = 0; i < 4; i++) d[i] = __uint_as_float(in[lane * 10 + 6 + i]);
    MMA_BF16(d, a, b);
    for (int i = 0; i < 4; i++) out[4 * lane + i] = d[i];
}
PROBE(mma) {
    (void)arg;
    LAUNCH(s, (mma_kernel), 1, 32, 0, (const uint32_t *)in, (float *)out);
}

// Thread t copies 16 bytes of which t % 17 are read, then 4 bytes of which t % 5 are read; in two groups.
static __global__ void copy_kernel(const uint4 *in, uint4 *out) {
    SHARED(uint4, wide, 64);
    SHARED(uint32_t, narrow, 64);
    int t = (int)threadIdx.x;
    CP_ASYNC16(&wide[t], &in[t], t % 17);
    CP_ASYNC_COMMIT();
    CP_ASYNC4(&narrow[t], reinterpret_cast<const uint32_t *>(in + 64) + t, t % 5);
    CP_ASYNC_COMMIT();
    CP_ASYNC_WAIT(1);
    out[t] = wide[t];
    CP_ASYNC_WAIT(0);
    reinterpret_cast<uint32_t *>(out + 64)[t] = narrow[t];
}
PROBE(copy) {
    (void)arg;
    LAUNCH(s, (copy_kernel), 1, 64, 0, (const uint4 *)in, (uint4 *)out);
}
