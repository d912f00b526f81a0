// kernels/common/hopper_ptx.cuh - hopper.cuh's words as PTX, for nvcc. Included by hopper.cuh alone.
#ifndef KERNELS_HOPPER_PTX_CUH
#define KERNELS_HOPPER_PTX_CUH
#include <cuda.h>
typedef CUtensorMap TensorMap;

static inline bool tensor_map_tiled(TensorMap *m, DType dt, int rank, const void *base, const uint64_t *dim,
                                    const uint64_t *stride_bytes, const uint32_t *box, const uint32_t *element_stride,
                                    int swizzle_bytes, const char **why) {
    typedef CUresult (*Encode)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                               const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                               CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
    *why = tensor_map_fault(dt, rank, base, dim, stride_bytes, box, element_stride, swizzle_bytes);
    if (*why) return false;
    // through the runtime, so that nothing links the driver's library, which machines without a GPU lack
    void *entry = NULL;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    cudaError_t e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault,
                                                     &found);
    if (e != cudaSuccess || found != cudaDriverEntryPointSuccess) {
        *why = "tensor map: the driver has no cuTensorMapEncodeTiled (CUDA 12 or later is needed)";
        return false;
    }
    CUtensorMapDataType type = dt == DT_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                               : dt == DT_F32 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                               : dt == DT_F64 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT64
                               : dt == DT_I32 ? CU_TENSOR_MAP_DATA_TYPE_INT32 : CU_TENSOR_MAP_DATA_TYPE_UINT8;
    CUtensorMapSwizzle swizzle = swizzle_bytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B
                                 : swizzle_bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                 : swizzle_bytes == 32 ? CU_TENSOR_MAP_SWIZZLE_32B : CU_TENSOR_MAP_SWIZZLE_NONE;
    CUresult r = ((Encode)entry)(m, type, (cuuint32_t)rank, (void *)base, dim, stride_bytes, box, element_stride,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                 CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (r != CUDA_SUCCESS) *why = "tensor map: cuTensorMapEncodeTiled refused it";
    return r == CUDA_SUCCESS;
}

// ---- mbarriers
DEVICE void mbarrier_init(uint64_t *bar, uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(count) : "memory");
}
DEVICE void mbarrier_arrive(uint64_t *bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
}
DEVICE void mbarrier_arrive_expect(uint64_t *bar, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)), "r"(bytes)
                 : "memory");
}
DEVICE void mbarrier_arrive_peer(uint64_t *bar, uint32_t rank) {
    asm volatile("{\n.reg .b32 peer;\nmapa.shared::cluster.u32 peer, %0, %1;\n"
                 "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [peer];\n}"
                 ::"r"(shared_address(bar)), "r"(rank) : "memory");
}
DEVICE void mbarrier_wait(uint64_t *bar, uint32_t parity) {
    uint32_t done;
    do {
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.b32 %0, 1, 0, p;\n}" : "=r"(done) : "r"(shared_address(bar)), "r"(parity) : "memory");
    } while (!done);
}
DEVICE void mbarrier_wait_cluster(uint64_t *bar, uint32_t parity) {
    uint32_t done;
    do {
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
                     "selp.b32 %0, 1, 0, p;\n}" : "=r"(done) : "r"(shared_address(bar)), "r"(parity) : "memory");
    } while (!done);
}
DEVICE bool mbarrier_test(uint64_t *bar, uint32_t parity) {
    uint32_t done;
    asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.b32 %0, 1, 0, p;\n}" : "=r"(done) : "r"(shared_address(bar)), "r"(parity) : "memory");
    return done != 0;
}
#define MBARRIER_INIT(bar, count)           mbarrier_init(bar, count)
#define MBARRIER_INIT_FENCE()               asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory")
#define MBARRIER_ARRIVE(bar)                mbarrier_arrive(bar)
#define MBARRIER_ARRIVE_EXPECT(bar, bytes)  mbarrier_arrive_expect(bar, bytes)
#define MBARRIER_ARRIVE_PEER(bar, rank)     mbarrier_arrive_peer(bar, rank)
#define MBARRIER_WAIT(bar, parity)          mbarrier_wait(bar, parity)
#define MBARRIER_WAIT_CLUSTER(bar, parity)  mbarrier_wait_cluster(bar, parity)
#define MBARRIER_TEST(bar, parity)          mbarrier_test(bar, parity)
#define FENCE_PROXY_ASYNC()                 asm volatile("fence.proxy.async.shared::cta;" ::: "memory")

// ---- TMA: one overload per rank
#define TMA_LIST_1 int c0
#define TMA_LIST_2 TMA_LIST_1, int c1
#define TMA_LIST_3 TMA_LIST_2, int c2
#define TMA_LIST_4 TMA_LIST_3, int c3
#define TMA_LIST_5 TMA_LIST_4, int c4
#define TMA_IN_1 "r"(c0)
#define TMA_IN_2 TMA_IN_1, "r"(c1)
#define TMA_IN_3 TMA_IN_2, "r"(c2)
#define TMA_IN_4 TMA_IN_3, "r"(c3)
#define TMA_IN_5 TMA_IN_4, "r"(c4)
#define TMA_DEFINE(rank, at3, at4, at2)                                                                             \
    DEVICE void tma_load(void *shared, const TensorMap *map, uint64_t *bar, TMA_LIST_##rank) {                      \
        asm volatile("cp.async.bulk.tensor." #rank "d.shared::cluster.global.mbarrier::complete_tx::bytes "         \
                     "[%0], [%1, {" at3 "}], [%2];" ::"r"(shared_address(shared)), "l"(map),                        \
                     "r"(shared_address(bar)), TMA_IN_##rank : "memory");                                           \
    }                                                                                                               \
    DEVICE void tma_load_multicast(void *shared, const TensorMap *map, uint64_t *bar, uint16_t mask,                \
                                   TMA_LIST_##rank) {                                                               \
        asm volatile("cp.async.bulk.tensor." #rank                                                                  \
                     "d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "                    \
                     "[%0], [%1, {" at4 "}], [%2], %3;" ::"r"(shared_address(shared)), "l"(map),                    \
                     "r"(shared_address(bar)), "h"(mask), TMA_IN_##rank : "memory");                                \
    }                                                                                                               \
    DEVICE void tma_store(const TensorMap *map, const void *shared, TMA_LIST_##rank) {                              \
        asm volatile("cp.async.bulk.tensor." #rank "d.global.shared::cta.bulk_group [%1, {" at2 "}], [%0];"         \
                     ::"r"(shared_address(shared)), "l"(map), TMA_IN_##rank : "memory");                            \
    }
TMA_DEFINE(1, "%3", "%4", "%2")
TMA_DEFINE(2, "%3,%4", "%4,%5", "%2,%3")
TMA_DEFINE(3, "%3,%4,%5", "%4,%5,%6", "%2,%3,%4")
TMA_DEFINE(4, "%3,%4,%5,%6", "%4,%5,%6,%7", "%2,%3,%4,%5")
TMA_DEFINE(5, "%3,%4,%5,%6,%7", "%4,%5,%6,%7,%8", "%2,%3,%4,%5,%6")
#define TMA_LOAD(shared, map, bar, ...)                 tma_load(shared, map, bar, __VA_ARGS__)
#define TMA_LOAD_MULTICAST(shared, map, bar, mask, ...) tma_load_multicast(shared, map, bar, mask, __VA_ARGS__)
#define TMA_STORE(map, shared, ...)                     tma_store(map, shared, __VA_ARGS__)
#define TMA_STORE_COMMIT()     asm volatile("cp.async.bulk.commit_group;" ::: "memory")
#define TMA_STORE_WAIT(n)      asm volatile("cp.async.bulk.wait_group %0;" ::"n"(n) : "memory")
#define TMA_STORE_WAIT_READ(n) asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(n) : "memory")
#define TMA_PREFETCH_MAP(map)  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory")

// ---- wgmma: one overload per length of d. The accumulators are operands 0 .. n/2 - 1 of each statement; p0 .. p6 name
// those that follow them: a, b, scale and the transpositions.
#define WGMMA_D4 "%0,%1,%2,%3"
#define WGMMA_D8 WGMMA_D4 ",%4,%5,%6,%7"
#define WGMMA_D16 WGMMA_D8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define WGMMA_D32 WGMMA_D16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define WGMMA_D48 WGMMA_D32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define WGMMA_D64 WGMMA_D48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define WGMMA_D96 WGMMA_D64 \
    ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87" \
    ",%88,%89,%90,%91,%92,%93,%94,%95"
#define WGMMA_D128 WGMMA_D96 \
    ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115" \
    ",%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define WGMMA_OUT4(d, i)  "+f"((d)[i]), "+f"((d)[i + 1]), "+f"((d)[i + 2]), "+f"((d)[i + 3])
#define WGMMA_OUT8(d, i)  WGMMA_OUT4(d, i), WGMMA_OUT4(d, i + 4)
#define WGMMA_OUT16(d, i) WGMMA_OUT8(d, i), WGMMA_OUT8(d, i + 8)
#define WGMMA_OUT32(d, i) WGMMA_OUT16(d, i), WGMMA_OUT16(d, i + 16)
#define WGMMA_OUT48(d, i) WGMMA_OUT32(d, i), WGMMA_OUT16(d, i + 32)
#define WGMMA_OUT64(d, i) WGMMA_OUT32(d, i), WGMMA_OUT32(d, i + 32)
#define WGMMA_OUT96(d, i) WGMMA_OUT64(d, i), WGMMA_OUT32(d, i + 64)
#define WGMMA_OUT128(d, i) WGMMA_OUT64(d, i), WGMMA_OUT64(d, i + 64)
#define WGMMA_DEFINE(n, regs, p0, p1, p2, p3, p4, p5, p6)                                                           \
    template <int TA, int TB> DEVICE void wgmma_ss(float (&d)[regs], uint64_t a, uint64_t b, int scale) {           \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p2 ", 0;\n"                                               \
                     "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" WGMMA_D##regs "}, "               \
                     p0 ", " p1 ", p, 1, 1, " p3 ", " p4 ";\n}"                                                    \
                     : WGMMA_OUT##regs(d, 0) : "l"(a), "l"(b), "r"(scale), "n"(TA), "n"(TB) : "memory");            \
    }                                                                                                               \
    template <int TB> DEVICE void wgmma_rs(float (&d)[regs], const uint32_t *a, uint64_t b, int scale) {            \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p5 ", 0;\n"                                               \
                     "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" WGMMA_D##regs "}, "               \
                     "{" p0 "," p1 "," p2 "," p3 "}, " p4 ", p, 1, 1, " p6 ";\n}"                                  \
                     : WGMMA_OUT##regs(d, 0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(scale),      \
                       "n"(TB) : "memory");                                                                         \
    }
WGMMA_DEFINE(8, 4, "%4", "%5", "%6", "%7", "%8", "%9", "%10")
WGMMA_DEFINE(16, 8, "%8", "%9", "%10", "%11", "%12", "%13", "%14")
WGMMA_DEFINE(32, 16, "%16", "%17", "%18", "%19", "%20", "%21", "%22")
WGMMA_DEFINE(64, 32, "%32", "%33", "%34", "%35", "%36", "%37", "%38")
WGMMA_DEFINE(96, 48, "%48", "%49", "%50", "%51", "%52", "%53", "%54")
WGMMA_DEFINE(128, 64, "%64", "%65", "%66", "%67", "%68", "%69", "%70")
WGMMA_DEFINE(192, 96, "%96", "%97", "%98", "%99", "%100", "%101", "%102")
WGMMA_DEFINE(256, 128, "%128", "%129", "%130", "%131", "%132", "%133", "%134")
#define WGMMA_SS(ta, tb, d, a, b, scale) wgmma_ss<ta, tb>(d, a, b, scale)
#define WGMMA_RS(tb, d, a, b, scale)     wgmma_rs<tb>(d, a, b, scale)
#define WGMMA_FENCE()  asm volatile("wgmma.fence.sync.aligned;" ::: "memory")
#define WGMMA_COMMIT() asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory")
#define WGMMA_WAIT(n)  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory")

// ---- the rest
#define STMATRIX_X4(row, r)                                                                                         \
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};"                                    \
                 ::"r"(shared_address(row)), "r"((r)[0]), "r"((r)[1]), "r"((r)[2]), "r"((r)[3]) : "memory")
#define STMATRIX_X4_TRANS(row, r)                                                                                   \
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};"                              \
                 ::"r"(shared_address(row)), "r"((r)[0]), "r"((r)[1]), "r"((r)[2]), "r"((r)[3]) : "memory")
#define SETMAXNREG_INC(n) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n))
#define SETMAXNREG_DEC(n) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n))
DEVICE uint32_t cluster_rank() {
    uint32_t r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
template <typename T> DEVICE T *cluster_map(T *p, uint32_t rank) {
    uint64_t peer;
    asm volatile("mapa.u64 %0, %1, %2;" : "=l"(peer) : "l"(p), "r"(rank));
    return reinterpret_cast<T *>(peer);
}
#define CLUSTER_RANK()       cluster_rank()
#define CLUSTER_MAP(p, rank) cluster_map(p, rank)
#define CLUSTER_ARRIVE()     asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory")
#define CLUSTER_WAIT()       asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory")
#define GRID_WAIT()          asm volatile("griddepcontrol.wait;" ::: "memory")
#define GRID_LAUNCH()        asm volatile("griddepcontrol.launch_dependents;" ::: "memory")
#endif
