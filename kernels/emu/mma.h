// kernels/emu/mma.h - the words of kernels/common/mma.cuh for the host. Included by emu.h.
//
// Checked: alignment and bounds of every address; that a copy's source is initialised; that nobody reads or writes its
// destination before the wait (the data lands as late as the program allows, or at once in eager mode); that a thread
// ends with no copy in flight; that all lanes of a warp take part in ldmatrix and mma at the same line.
#ifndef KERNELS_EMU_MMA_H
#define KERNELS_EMU_MMA_H
namespace emu {
void copy_async(void *shared, const void *global, int size, int bytes, Site site);
void copy_async_commit(Site site);
void copy_async_wait(int pending, Site site);
void load_matrix(uint32_t *r, int matrices, bool transposed, const void *row, Site site);
void store_matrix(void *row, const uint32_t *r, bool transposed, Site site);
void mma_m16n8k16(float *d, const uint32_t *a, const uint32_t *b, Site site);
}  // namespace emu

#define CP_ASYNC16(shared, global, bytes) emu::copy_async(shared, global, 16, (int)(bytes), EMU_SITE)
#define CP_ASYNC4(shared, global, bytes)  emu::copy_async(shared, global, 4, (int)(bytes), EMU_SITE)
#define CP_ASYNC_COMMIT()                 emu::copy_async_commit(EMU_SITE)
#define CP_ASYNC_WAIT(n)                  emu::copy_async_wait(n, EMU_SITE)
#define LDMATRIX_X4(r, row)               emu::load_matrix(&(r)[0], 4, false, row, EMU_SITE)
#define LDMATRIX_X4_TRANS(r, row)         emu::load_matrix(&(r)[0], 4, true, row, EMU_SITE)
#define LDMATRIX_X2(r, row)               emu::load_matrix(&(r)[0], 2, false, row, EMU_SITE)
#define LDMATRIX_X2_TRANS(r, row)         emu::load_matrix(&(r)[0], 2, true, row, EMU_SITE)
#define MMA_BF16(d, a, b)                 emu::mma_m16n8k16(&(d)[0], &(a)[0], &(b)[0], EMU_SITE)
#endif
