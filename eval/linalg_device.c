// eval/linalg_device.c - large products in float on a GPU, by the engine's own gemm in plain f32 (no TF32, no bf16).
//
// Operands are copied there and the product back: the caller of linalg_use says from which size on that is worth it.
// Threads take turns; while one waits for the device, the others go on with what they do to finished tiles.
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "eval/linalg_impl.h"
#include "kernels/gemm/gemm.h"

enum { A, B, Y, SCRATCH, PLACES };
static struct {
    pthread_mutex_t turn;
    Device         *device;
    double          least;               // multiplications
    void           *place[PLACES];       // on the device, of size[] bytes
    size_t          size[PLACES];
    const Impl     *impl;                // made ready for `shape`
    GemmShape       shape;
    Work            work;
} gpu = { .turn = PTHREAD_MUTEX_INITIALIZER };

static void release(void) {
    if (gpu.impl && gpu.impl->release) gpu.impl->release(gpu.work.state);
    gpu.impl = NULL;
}

void linalg_use(Device *d, double least) {
    pthread_mutex_lock(&gpu.turn);
    if (gpu.device) device_sync(gpu.device);
    release();
    for (int i = 0; i < PLACES; i++) {
        if (gpu.place[i]) device_free(gpu.device, gpu.place[i]);
        gpu.place[i] = NULL, gpu.size[i] = 0;
    }
    gpu.device = d;
    gpu.least = least;
    pthread_mutex_unlock(&gpu.turn);
}

static void *room(int place, size_t bytes) {
    if (bytes > gpu.size[place]) {
        device_sync(gpu.device);
        if (gpu.place[place]) device_free(gpu.device, gpu.place[place]);
        gpu.place[place] = device_alloc(gpu.device, bytes);
        gpu.size[place] = bytes;
    }
    return gpu.place[place];
}

static size_t span(int rows, int columns, int ld) { return ((size_t)(rows - 1) * (size_t)ld + (size_t)columns) * 4; }

// The implementation, its state and scratch: kept as long as the shape stays, which for tiles is nearly always.
static bool made_ready(const GemmShape *z, const GemmArgs *a) {
    if (gpu.impl && memcmp(&gpu.shape, z, sizeof *z) == 0) return true;
    release();
    const Impl *impl = impl_find(&gemm, device_kind(gpu.device), device_cc(gpu.device), z, NULL);
    if (!impl) return false;
    size_t scratch = gemm.scratch(impl, z);
    gpu.impl = impl;
    gpu.shape = *z;
    gpu.work = (Work){ .scratch = scratch ? room(SCRATCH, scratch) : NULL };
    gpu.work.state = gemm.prepare(impl, device_stream(gpu.device, 0), z, a);
    return true;
}

// Rows of y lie dense on the device, so that nothing between the rows of c is touched.
static bool run_there(const GemmShape *z, const float *a, const float *b, float *c, int ldc) {
    size_t a_bytes = span(z->ta ? z->k : z->m, z->ta ? z->m : z->k, z->lda);
    size_t b_bytes = span(z->tb ? z->n : z->k, z->tb ? z->k : z->n, z->ldb);
    size_t y_bytes = (size_t)z->m * (size_t)z->n * sizeof(float);
    GemmArgs args = { .a = room(A, a_bytes), .b = a == b && a_bytes == b_bytes ? gpu.place[A] : room(B, b_bytes),
                      .y = room(Y, y_bytes) };
    if (!made_ready(z, &args)) return false;
    device_write(gpu.device, gpu.place[A], a, a_bytes);
    if (args.b != args.a) device_write(gpu.device, gpu.place[B], b, b_bytes);
    gemm.run(gpu.impl, device_stream(gpu.device, 0), z, &args, gpu.work);
    if (ldc == z->n) {
        device_read(gpu.device, c, args.y, y_bytes);
    } else {
        float *dense = xmalloc(y_bytes);
        device_read(gpu.device, dense, args.y, y_bytes);
        for (int i = 0; i < z->m; i++)
            memcpy(c + (int64_t)i * ldc, dense + (int64_t)i * z->n, (size_t)z->n * sizeof *c);
        free(dense);
    }
    Status s = device_check(gpu.device);
    CHECK(s.code == 0, "a product of %d x %d x %d on %s: %s", z->m, z->n, z->k, device_name(gpu.device), s.what);
    return true;
}

bool linalg_device_sgemm(bool ta, bool tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b,
                         int ldb, float *c, int ldc) {
    if (!gpu.device || (double)m * n * k < gpu.least) return false;
    GemmShape z = { .m = m, .n = n, .k = k, .batch = 1, .ta = ta, .tb = tb, .lda = lda, .ldb = ldb, .ldy = n,
                    .alpha = alpha, .act = ACT_NONE, .in = DT_F32, .out = DT_F32 };
    pthread_mutex_lock(&gpu.turn);
    bool done = run_there(&z, a, b, c, ldc);
    pthread_mutex_unlock(&gpu.turn);
    return done;
}
