// kernels/emu/hopper.h - the words of kernels/common/hopper.cuh for the host. Included by hopper.cuh.
//
// Copies and products are done as late as the program allows (a load when somebody waits for a phase that only copies
// hold up, a store or product at its wait), or at once in eager mode; reads and writes by them are checked as those of
// threads of their own. Checked besides:
//   mbarriers    used before initialised or with no barrier after MBARRIER_INIT, more arrivals than the count, bytes
//                that no copy brings or nobody expects, overwritten, MBARRIER_WAIT where another block arrives
//   TMA          alignment, a map that was not made, its rank, missing FENCE_PROXY_ASYNC, stores not waited for, loads
//                in flight when the block ends
//   wgmma        arguments that differ between threads, missing fence, operands or accumulators touched before the
//                wait, starts that the ISA does not document, products never waited for
#ifndef KERNELS_EMU_HOPPER_H
#define KERNELS_EMU_HOPPER_H
#define __grid_constant__

// What tensor_map_tiled() was told. As large and as aligned as CUtensorMap.
struct alignas(64) TensorMap {
    const void *base;
    uint64_t    stride[5];          // bytes; stride[0]: the element's size
    uint32_t    last[5];            // size - 1
    uint16_t    box[5];             // elements that a copy visits: what lies in shared memory
    uint8_t     step[5];            // element strides
    uint8_t     rank, swizzle;
    uint32_t    made;               // TENSOR_MAP_MADE, unless nobody called tensor_map_tiled()
};
static_assert(sizeof(TensorMap) == 128, "a kernel's parameters are as large as on a GPU");
enum : uint32_t { TENSOR_MAP_MADE = 0x4D415054 };

static inline bool tensor_map_tiled(TensorMap *m, DType dt, int rank, const void *base, const uint64_t *dim,
                                    const uint64_t *stride_bytes, const uint32_t *box, const uint32_t *element_stride,
                                    int swizzle_bytes, const char **why) {
    *why = tensor_map_fault(dt, rank, base, dim, stride_bytes, box, element_stride, swizzle_bytes);
    if (*why) return false;
    *m = TensorMap();
    m->base = base;
    for (int d = 0; d < rank; d++) {
        m->stride[d] = d ? stride_bytes[d - 1] : dt == DT_F64 ? 8 : dt == DT_BF16 ? 2 : dt == DT_U8 ? 1 : 4;
        m->last[d] = (uint32_t)(dim[d] - 1);
        m->box[d] = (uint16_t)((box[d] + element_stride[d] - 1) / element_stride[d]);
        m->step[d] = (uint8_t)element_stride[d];
    }
    m->rank = (uint8_t)rank;
    m->swizzle = (uint8_t)swizzle_bytes;
    m->made = TENSOR_MAP_MADE;
    return true;
}

namespace emu {
void mbarrier_init(uint64_t *bar, uint32_t count, Site site);
// expect_bytes -1: none; peer -1: the own block
void mbarrier_arrive(uint64_t *bar, int64_t expect_bytes, int peer, Site site);
void mbarrier_wait(uint64_t *bar, uint32_t parity, bool of_cluster, Site site);
bool mbarrier_test(uint64_t *bar, uint32_t parity, Site site);
void mbarrier_init_fence(Site site);
void proxy_fence(Site site);

struct Box { int rank, start[5]; };                                                 // coordinates, innermost first
template <typename... Ints> static inline Box box_at(Ints... start) {
    static_assert(sizeof...(start) >= 1 && sizeof...(start) <= 5, "one to five coordinates");
    return { (int)sizeof...(start), { (int)start... } };
}
// blocks: bit mask of ranks; 0: the own block
void tensor_load(void *shared, const TensorMap *map, uint64_t *bar, uint32_t blocks, Box box, Site site);
void tensor_store(const TensorMap *map, const void *shared, Box box, Site site);
void tensor_store_commit(Site site);
void tensor_store_wait(int pending, bool read_only, Site site);

void wgmma_fence(Site site);
void wgmma_issue(float *d, int n, const uint32_t *a_registers, uint64_t a, uint64_t b, bool a_transposed,
                 bool b_transposed, bool accumulate, Site site);                    // a_registers NULL: a describes a
void wgmma_commit(Site site);
void wgmma_wait(int pending, Site site);
template <int R>
__attribute__((always_inline)) static inline void wgmma(int ta, int tb, float (&d)[R], uint64_t a, uint64_t b,
                                                        int scale, Site site) {
    static_assert(R == 4 || R == 8 || R == 16 || R == 32 || R == 48 || R == 64 || R == 96 || R == 128, "a wgmma");
    wgmma_issue(d, 2 * R, nullptr, a, b, ta != 0, tb != 0, scale != 0, site);
}
template <int R>
__attribute__((always_inline)) static inline void wgmma(int tb, float (&d)[R], const uint32_t *a, uint64_t b, int scale,
                                                        Site site) {
    wgmma_issue(d, 2 * R, a, 0, b, false, tb != 0, scale != 0, site);
}
void set_max_registers(int n, bool more, Site site);

uint32_t cluster_rank();
void     cluster_arrive(Site site);
void     cluster_wait(Site site);
void    *cluster_map(void *p, uint32_t rank, Site site);
template <typename T> __attribute__((always_inline)) static inline T *cluster_pointer(T *p, uint32_t rank, Site site) {
    return static_cast<T *>(cluster_map(const_cast<void *>(static_cast<const void *>(p)), rank, site));
}
}  // namespace emu

#define MBARRIER_INIT(bar, count)               emu::mbarrier_init(bar, count, EMU_SITE)
#define MBARRIER_INIT_FENCE()                   emu::mbarrier_init_fence(EMU_SITE)
#define MBARRIER_ARRIVE(bar)                    emu::mbarrier_arrive(bar, -1, -1, EMU_SITE)
#define MBARRIER_ARRIVE_EXPECT(bar, bytes)      emu::mbarrier_arrive(bar, (int64_t)(bytes), -1, EMU_SITE)
#define MBARRIER_ARRIVE_PEER(bar, rank)         emu::mbarrier_arrive(bar, -1, (int)(rank), EMU_SITE)
#define MBARRIER_WAIT(bar, parity)              emu::mbarrier_wait(bar, parity, false, EMU_SITE)
#define MBARRIER_WAIT_CLUSTER(bar, parity)      emu::mbarrier_wait(bar, parity, true, EMU_SITE)
#define MBARRIER_TEST(bar, parity)              emu::mbarrier_test(bar, parity, EMU_SITE)
#define FENCE_PROXY_ASYNC()                     emu::proxy_fence(EMU_SITE)
#define TMA_LOAD(shared, map, bar, ...)                                                                             \
    emu::tensor_load(shared, map, bar, 0, emu::box_at(__VA_ARGS__), EMU_SITE)
#define TMA_LOAD_MULTICAST(shared, map, bar, mask, ...)                                                             \
    emu::tensor_load(shared, map, bar, mask, emu::box_at(__VA_ARGS__), EMU_SITE)
#define TMA_STORE(map, shared, ...)             emu::tensor_store(map, shared, emu::box_at(__VA_ARGS__), EMU_SITE)
#define TMA_STORE_COMMIT()                      emu::tensor_store_commit(EMU_SITE)
#define TMA_STORE_WAIT(n)                       emu::tensor_store_wait(n, false, EMU_SITE)
#define TMA_STORE_WAIT_READ(n)                  emu::tensor_store_wait(n, true, EMU_SITE)
#define TMA_PREFETCH_MAP(map)                   (void)(map)
#define WGMMA_SS(ta, tb, d, a, b, scale)        emu::wgmma(ta, tb, d, a, b, scale, EMU_SITE)
#define WGMMA_RS(tb, d, a, b, scale)            emu::wgmma(tb, d, a, b, scale, EMU_SITE)
#define WGMMA_FENCE()                           emu::wgmma_fence(EMU_SITE)
#define WGMMA_COMMIT()                          emu::wgmma_commit(EMU_SITE)
#define WGMMA_WAIT(n)                           emu::wgmma_wait(n, EMU_SITE)
#define STMATRIX_X4(row, r)                     emu::store_matrix(row, &(r)[0], false, EMU_SITE)
#define STMATRIX_X4_TRANS(row, r)               emu::store_matrix(row, &(r)[0], true, EMU_SITE)
#define SETMAXNREG_INC(n)                       emu::set_max_registers(n, true, EMU_SITE)
#define SETMAXNREG_DEC(n)                       emu::set_max_registers(n, false, EMU_SITE)
#define CLUSTER_RANK()                          emu::cluster_rank()
#define CLUSTER_MAP(p, rank)                    emu::cluster_pointer(p, rank, EMU_SITE)
#define CLUSTER_ARRIVE()                        emu::cluster_arrive(EMU_SITE)
#define CLUSTER_WAIT()                          emu::cluster_wait(EMU_SITE)
#define GRID_WAIT()                             (void)0
#define GRID_LAUNCH()                           (void)0
#endif
