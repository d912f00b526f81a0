// kernels/common/mma.cuh - asynchronous copies and tensor-core products of sm_80 and later.
//
// Layouts are PTX's (ISA, "Matrix Fragments for mma.m16n8k16", "ldmatrix"). With g = lane / 4, q = lane % 4:
//   A (16x16, row): a[0] row g, columns 2q, 2q+1; a[1] row g+8; a[2] row g, columns 2q+8, 2q+9; a[3] row g+8, the same
//   B (16x8, col):  b[0] rows 2q, 2q+1 of column g; b[1] rows 2q+8, 2q+9
//   D (16x8):       d[0], d[1] row g, columns 2q, 2q+1; d[2], d[3] row g+8
#ifndef KERNELS_MMA_CUH
#define KERNELS_MMA_CUH
#include "kernels/common/device.cuh"
#ifdef __CUDACC__
// 16 bytes from global to shared memory, of which the first `bytes` (0..16) are read and the rest are zero. Both sides
// are 16-byte aligned; with 0 bytes the global address is not read but must still be a valid pointer.
#define CP_ASYNC16(shared, global, bytes)                                                                           \
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),        \
                 "r"((int)(bytes)) : "memory")
#define CP_ASYNC4(shared, global, bytes)                                                                            \
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(global),         \
                 "r"((int)(bytes)) : "memory")
#define CP_ASYNC_COMMIT() asm volatile("cp.async.commit_group;" ::: "memory")
#define CP_ASYNC_WAIT(n)  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory")   // at most n groups pending
// Four 8x8 matrices of 16-bit elements: lane 8i+j gives the address of row j of matrix i, 16 bytes, 16-byte aligned.
// r[i] of lane l: row l/4, elements 2(l%4) and +1 of matrix i; _TRANS: of its transpose.
#define LDMATRIX_X4(r, row)                                                                                         \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"                                    \
                 : "=r"((r)[0]), "=r"((r)[1]), "=r"((r)[2]), "=r"((r)[3]) : "r"(shared_address(row)) : "memory")
#define LDMATRIX_X4_TRANS(r, row)                                                                                   \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"                              \
                 : "=r"((r)[0]), "=r"((r)[1]), "=r"((r)[2]), "=r"((r)[3]) : "r"(shared_address(row)) : "memory")
#define LDMATRIX_X2(r, row)                                                                                         \
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"                                          \
                 : "=r"((r)[0]), "=r"((r)[1]) : "r"(shared_address(row)) : "memory")
#define LDMATRIX_X2_TRANS(r, row)                                                                                   \
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"                                    \
                 : "=r"((r)[0]), "=r"((r)[1]) : "r"(shared_address(row)) : "memory")
// d (4 floats) += a (4 words of bf16 pairs) b (2 words): m16n8k16. All 32 lanes take part.
#define MMA_BF16(d, a, b)                                                                                           \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "      \
                 "{%0,%1,%2,%3};"                                                                                   \
                 : "+f"((d)[0]), "+f"((d)[1]), "+f"((d)[2]), "+f"((d)[3])                                           \
                 : "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3]), "r"((b)[0]), "r"((b)[1]))
#endif
#endif
