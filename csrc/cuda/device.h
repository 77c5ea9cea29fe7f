#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "bnn/half.h"

// What kernels use beyond plain CUDA C++: the only inline PTX, each piece with a host twin for the emulator.

// Shared memory and launches go by macros: DYNAMIC_SHARED(float, rows); STATIC_SHARED(int, tile, [2][64]);
// LAUNCH((kernel<a, b>), grid, block, dynamic shared bytes, stream, arguments...).
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define DYNAMIC_SHARED(T, name)                            \
  extern __shared__ __align__(16) unsigned char name##_[]; \
  T* name = reinterpret_cast<T*>(name##_)
#define STATIC_SHARED(T, name, extents) __shared__ T name extents
#define LAUNCH(kernel, grid, block, shared, stream, ...) \
  kernel<<<grid, block, shared, static_cast<cudaStream_t>((stream).handle)>>>(__VA_ARGS__)
#else
#include "cuda/emulator/cuda_emu.h"

#define DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(emu::block->dynamic)
#define STATIC_SHARED(T, name, extents) \
  static T name extents;                \
  static const emu::SharedVariable name##_(&name, sizeof name)
#define LAUNCH(kernel, grid, block, shared, stream, ...) \
  ((void)(stream), emu::launch(grid, block, shared, kernel __VA_OPT__(, ) __VA_ARGS__))
#endif

namespace bnn::cuda {

// Something of kBytes that is read and written in one access
template <int kBytes>
using Bytes = std::conditional_t<
    kBytes == 16, uint4,
    std::conditional_t<kBytes == 8, uint2,
                       std::conditional_t<kBytes == 4, uint32_t, std::conditional_t<kBytes == 2, uint16_t, uint8_t>>>>;

constexpr int kWarp = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

// Storage type -> float and back, round to nearest even (named apart from half.h, whose versions are for the host).
__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ void narrow(float v, float& out) { out = v; }

#ifdef __CUDACC__

__device__ __forceinline__ float widen(Half v) { return __half2float(__ushort_as_half(v.bits)); }
__device__ __forceinline__ float widen(Bf16 v) { return __uint_as_float(uint32_t{v.bits} << 16); }
__device__ __forceinline__ void narrow(float v, Half& out) { out.bits = __half_as_ushort(__float2half_rn(v)); }
__device__ __forceinline__ void narrow(float v, Bf16& out) { out.bits = __bfloat16_as_ushort(__float2bfloat16_rn(v)); }

// d[16][8] += popcount(a & b) over 256 bits. Lane = 4 g + t holds words of 32 bits: a[0] row g word t, a[1] row g + 8
// word t, a[2] row g word t + 4, a[3] row g + 8 word t + 4; b[0] column g word t, b[1] column g word t + 4;
// d[0], d[1] row g columns 2 t, 2 t + 1; d[2], d[3] row g + 8. (PTX ISA, mma.m16n8k256.) The other two have the same
// places.
__device__ __forceinline__ void mma_b1_and(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d += popcount(a ^ b) in four steps of m8n8k128, all that compute capability 7.5 has.
__device__ __forceinline__ void mma_b1_xor_step(int& d0, int& d1, uint32_t a, uint32_t b) {
  asm volatile("mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.xor.popc {%0,%1}, {%2}, {%3}, {%0,%1};"
               : "+r"(d0), "+r"(d1)
               : "r"(a), "r"(b));
}
__device__ __forceinline__ void mma_b1_xor(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_b1_xor_step(d[0], d[1], a[0], b[0]);
  mma_b1_xor_step(d[2], d[3], a[1], b[0]);
  mma_b1_xor_step(d[0], d[1], a[2], b[1]);
  mma_b1_xor_step(d[2], d[3], a[3], b[1]);
}

// d += a b over 32 signed bytes (a word: four of them)
__device__ __forceinline__ void mma_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 16-byte matrices: lane l gives the address of row l % 8 of matrix l / 8; r[i] = word l % 4 of row l / 4 of
// matrix i.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
}

// Copies kBytes (4, 8 or 16, both sides aligned to them) from global to shared memory; there after
// copy_async_wait and a barrier; zeros where not to `read`. Before compute capability 8.0 a plain copy.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool read = true) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
#if __CUDA_ARCH__ >= 800
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared)), bytes = read ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(kBytes), "r"(bytes)
                 : "memory");
  }
#else
  using T = Bytes<kBytes>;
  *static_cast<T*>(shared) = read ? *static_cast<const T*>(global) : T{};
#endif
}

__device__ __forceinline__ void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until at most kPending of the last groups of this thread are still under way
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

#else

inline float widen(Half v) { return bnn::to_float(v); }
inline float widen(Bf16 v) { return bnn::to_float(v); }
inline void narrow(float v, Half& out) { bnn::from_float(v, out); }
inline void narrow(float v, Bf16& out) { bnn::from_float(v, out); }

using At = std::source_location;

inline void mma_b1_and(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], At at = At::current()) {
  emu::mma_b1<false>(d, a, b, at);
}
inline void mma_b1_xor(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], At at = At::current()) {
  emu::mma_b1<true>(d, a, b, at);
}
inline void mma_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], At at = At::current()) {
  emu::mma_s8(d, a, b, at);
}
inline void load_matrices(uint32_t (&r)[4], const void* row, At at = At::current()) { emu::load_matrices(r, row, at); }

template <int kBytes>
void copy_async(void* shared, const void* global, bool read = true) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  static constexpr std::byte kZeros[16]{};
  emu::copy_async(shared, read ? global : kZeros, kBytes);
}
inline void copy_async_commit() { emu::self->copies.commit(); }
template <int kPending>
void copy_async_wait() {
  emu::self->copies.wait(kPending);
}

#endif

}  // namespace bnn::cuda
