// The device primitives that the kernels are written in.
//
// Compiled by nvcc these are CUDA's own. Compiled by a host compiler with AXFORM_EMULATE, they come from an emulator
// that runs the threads of a block one after another, which lets tests run the kernels on machines without a GPU.
#pragma once

#include <cstdint>

#if defined(AXFORM_EMULATE)
#include "device_emulator.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define AXFORM_KERNEL __global__
#define AXFORM_DEVICE __device__ __forceinline__
#define AXFORM_DEVICE_CALL __device__ __noinline__
#define AXFORM_ARGUMENT(type) const __grid_constant__ type
#define AXFORM_SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#define AXFORM_LAUNCH_BOUNDS(threads) __launch_bounds__(threads)
#define AXFORM_LAUNCH_BOUNDS_BLOCKS(threads, blocks) __launch_bounds__(threads, blocks)
#define AXFORM_UNROLL _Pragma("unroll")
#define AXFORM_UNROLL_BY(n) AXFORM_PRAGMA(unroll n)
#define AXFORM_PRAGMA(text) _Pragma(#text)

namespace axform::cuda {

using Half = __half;
using BFloat16 = __nv_bfloat16;

constexpr unsigned kFullWarp = 0xffffffffu;

AXFORM_DEVICE int thread() { return static_cast<int>(threadIdx.x); }
AXFORM_DEVICE int lane() { return static_cast<int>(threadIdx.x) % 32; }
AXFORM_DEVICE int warp() { return static_cast<int>(threadIdx.x) / 32; }
AXFORM_DEVICE int block_x() { return static_cast<int>(blockIdx.x); }
AXFORM_DEVICE int block_y() { return static_cast<int>(blockIdx.y); }
AXFORM_DEVICE int grid_x() { return static_cast<int>(gridDim.x); }
AXFORM_DEVICE void sync_block() { __syncthreads(); }
AXFORM_DEVICE void sync_warp() { __syncwarp(); }
AXFORM_DEVICE unsigned ballot(bool predicate) { return __ballot_sync(kFullWarp, predicate); }
template <class T>
AXFORM_DEVICE T shuffle_from(T x, int source) {
  return __shfl_sync(kFullWarp, x, source);
}
template <class T>
AXFORM_DEVICE T shuffle_xor(T x, int mask) {
  return __shfl_xor_sync(kFullWarp, x, mask);
}
template <class T>
AXFORM_DEVICE T shuffle_up(T x, int by) {
  return __shfl_up_sync(kFullWarp, x, by);
}
AXFORM_DEVICE int add_atomic(int* shared, int x) { return atomicAdd(shared, x); }
AXFORM_DEVICE int bit_count(uint32_t x) { return __popc(x); }
AXFORM_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

AXFORM_DEVICE float to_float(float x) { return x; }
AXFORM_DEVICE float to_float(Half x) { return __half2float(x); }
AXFORM_DEVICE float to_float(BFloat16 x) { return __bfloat162float(x); }
template <class T>
AXFORM_DEVICE T from_float(float x);
template <>
AXFORM_DEVICE float from_float<float>(float x) {
  return x;
}
template <>
AXFORM_DEVICE Half from_float<Half>(float x) {
  return __float2half_rn(x);
}
template <>
AXFORM_DEVICE BFloat16 from_float<BFloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// Two values in one register, the first in its lower half.
template <class T>
AXFORM_DEVICE uint32_t pack2(float low, float high);
template <>
AXFORM_DEVICE uint32_t pack2<Half>(float low, float high) {
  const __half2 both = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}
template <>
AXFORM_DEVICE uint32_t pack2<BFloat16>(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}
template <class T>
AXFORM_DEVICE float low_half(uint32_t x);
template <class T>
AXFORM_DEVICE float high_half(uint32_t x);
template <>
AXFORM_DEVICE float low_half<Half>(uint32_t x) {
  return __low2float(*reinterpret_cast<const __half2*>(&x));
}
template <>
AXFORM_DEVICE float high_half<Half>(uint32_t x) {
  return __high2float(*reinterpret_cast<const __half2*>(&x));
}
template <>
AXFORM_DEVICE float low_half<BFloat16>(uint32_t x) {
  return __low2float(*reinterpret_cast<const __nv_bfloat162*>(&x));
}
template <>
AXFORM_DEVICE float high_half<BFloat16>(uint32_t x) {
  return __high2float(*reinterpret_cast<const __nv_bfloat162*>(&x));
}

// What no thread writes while the kernel runs; such reads may overtake writes.
AXFORM_DEVICE uint8_t read_only(const uint8_t* x) { return __ldg(x); }
AXFORM_DEVICE uint32_t read_only(const uint32_t* x) { return __ldg(x); }
AXFORM_DEVICE int read_only(const int* x) { return __ldg(x); }
AXFORM_DEVICE void read_only16(uint32_t (&r)[4], const void* x) {
  const uint4 all = __ldg(static_cast<const uint4*>(x));
  r[0] = all.x, r[1] = all.y, r[2] = all.z, r[3] = all.w;
}

// 16 bytes from global to shared memory, without a detour through registers from compute capability 8.0 on.
AXFORM_DEVICE void copy16_async(void* shared, const void* global) {
#if __CUDA_ARCH__ >= 800
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
#else
  *static_cast<uint4*>(shared) = *static_cast<const uint4*>(global);
#endif
}
AXFORM_DEVICE void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory");
#endif
}

// Four 8x8 matrices of 16-bit values; lane i gives the address of row i % 8 of matrix i / 8.
AXFORM_DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
AXFORM_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// c (16x8, float32) += a (16x16) b (16x8), on the tensor cores.
template <class T>
AXFORM_DEVICE void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
AXFORM_DEVICE void multiply_add<Half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}
template <>
AXFORM_DEVICE void multiply_add<BFloat16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  (void)c, (void)a, (void)b0, (void)b1;  // never launched: bfloat16 takes the float32 path there
#endif
}

}  // namespace axform::cuda

#endif
